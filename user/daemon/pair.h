/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A pair: the two connected sockets that sluiced has in the middle of a plain
 * connection of a service, one towards the client and one towards the backend.
 * An engine carries what they send to each other:
 *
 *   redirect.h  STREAM: user space first, then the kernel
 *   switch.h    STREAM: user space; SEQPACKET: the in-kernel switch, or user space
 *
 * Shared by the engines and whoever gives pairs to them.
 */
#ifndef SLUICED_PAIR_H
#define SLUICED_PAIR_H

#include <stdatomic.h>
#include <stdint.h>

/* The ways of a pair, and of every array of two below. */
enum pair_way { PAIR_TO_BACKEND, PAIR_TO_CLIENT };

/* What passed through sluiced's memory. Any thread adds. */
struct traffic {
	_Atomic uint64_t bytes[2];
	_Atomic uint64_t messages[2]; /* of a stream: pieces */
};

/* What passed within the kernel. */
struct carried {
	uint64_t bytes[2], messages[2];
};

#endif
