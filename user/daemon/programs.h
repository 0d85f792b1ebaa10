/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The BPF programs and maps that sluiced works with: found in the pin directory,
 * where an earlier sluiced or bpftool put them, or loaded and pinned there.
 *
 * One sluiced at a time has a pin directory: it holds a lock (flock) on it. The
 * program's pin is made last: without it, what else is there is the remains of a
 * load that was cut short.
 *
 * Opened before any thread is started; then the fds are only read.
 */
#ifndef SLUICED_PROGRAMS_H
#define SLUICED_PROGRAMS_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

struct programs {
	const char *pin_dir;
	int lock; /* the pin directory */
	bool adopted; /* were pinned already */
	int steer; /* the program that goes on receivers' sockets */
	int conns, rings, landings, controls, doorbells, counters; /* maps */
	int guard; /* the program that goes on control connections */
	int refusals; /* map: ring buffer of what it dropped */
	int socket_list; /* iterator: cookies of the AF_UNIX sockets that live */
	int stream_look, streams; /* a program and a map of stream.h; or -1 */
};

/*
 * conn_counts is for programs that are not pinned yet.
 *
 * All return 0 or -errno, and have then said in the log what is wrong and what
 * to do: -EBUSY: another sluiced has the pin directory; -ESTALE: what is pinned
 * is of another version; else: BPF cannot be used.
 */
int programs_open(struct programs *programs, const char *pin_dir,
		  bool conn_counts);

/* Those of stream.h as well. Without them, which it says, nothing of STREAM lands. */
void programs_open_stream(struct programs *programs);

/* Calls back with the cookie of every socket; -errno if not all were seen. */
int programs_walk_sockets(const struct programs *programs,
			  void (*found)(__u64 cookie, void *arg), void *arg);

/* Removes the pins and their directory. */
void programs_unpin(const struct programs *programs);

/* Closes all, which gives up the lock; pins stay. */
void programs_close(struct programs *programs);

#endif
