/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stream.bpf.c and sluiced share, and nobody else, beside steer.h:
 *
 *   streams   SOCKHASH: receivers by cookie, spill sockets by STREAM_SPILL(cookie)
 *
 * A closed socket leaves it by itself; so does a receiver whose peer has called
 * shutdown(), and is then a socket like any other.
 */
#ifndef SLUICE_BPF_STREAM_H
#define SLUICE_BPF_STREAM_H

#define STREAM_CONNS 32768

#define STREAM_SPILL(cookie) (~(cookie))

/* What `stream_look` returns: bytes charged to the sender, and flags. */
#define STREAM_LOOK_CHARGED 0x3fffffffu
/* All of it is in the receiver's queue, or there is none. */
#define STREAM_LOOK_F_QUIET 0x80000000u
/* The sender has no room to send more. */
#define STREAM_LOOK_F_FULL 0x40000000u
/* Longest queue that is added up; in a longer one nothing is quiet. */
#define STREAM_LOOK_SKBS 512

#endif
