/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The programs and the map of bpf/stream.bpf.c: landing of STREAM. Pinned beside
 * the others, so that landing goes on without sluiced; a kernel that does not load
 * them has none.
 *
 * Attaching a receiver: its queue must be empty when the program begins to see
 * what arrives, for it is given one piece for each that comes, and what waits at
 * that moment would lag for good. So the library has read it empty, and it is
 * looked at again once the socket is in the map: empty then, nothing lags. If
 * something came in between, the socket is taken out again (stream_settle()).
 */
#ifndef SLUICED_STREAM_H
#define SLUICED_STREAM_H

#include <linux/types.h>

#include "programs.h"

/*
 * Finds the pinned programs, or loads and pins them, with the maps of `programs`.
 * -errno: no landing.
 */
int stream_open(struct programs *programs);

/*
 * Makes the pair of spill sockets, and has the program see what the socket
 * receives; its entry is in `conns`. spill[0] is what is redirected to, spill[1]
 * is read. 0; STREAM_LAGS: stream_settle() must follow; -EAGAIN: the socket has
 * something to read; -errno.
 */
#define STREAM_LAGS 1
int stream_attach(const struct programs *programs, int fd, __u64 cookie,
		  int spill[2]);

/*
 * Takes the socket out again, when its sender is full or calm: that takes up to
 * SETTLE_MAX_NS, and is for a worker. What was spilled comes before what is left in
 * the socket. -EIO: the kernel dropped a piece, since the sender went on just then.
 */
int stream_settle(const struct programs *programs, int fd, __u64 cookie);

#endif
