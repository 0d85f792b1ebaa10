/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A receive that looks before it takes.
 *
 * recv() on an AF_UNIX STREAM socket holds the lock of what it receives (iolock)
 * from its first byte to its last, and the kernel takes the same lock to get the
 * program of a sockmap its next skb. What such a receive gets is therefore known
 * exactly if one can look while it has the lock, and has taken nothing yet. So its
 * first byte goes to a page that is not there (userfaultfd): it stands still, with
 * the lock, until it is told to go on, or to fail, which leaves everything queued.
 *
 * Senders that send meanwhile wait for the lock, some ten microseconds. Only for
 * sockets that no other process has: one that keeps the lock, as it could by the same
 * trick, would keep a thread of ours in the kernel.
 *
 * A fence is used by one thread at a time. From then on it has a thread of its own,
 * which receives.
 */
#ifndef SLUICED_FENCE_H
#define SLUICED_FENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct fence;

/* Takes CAP_SYS_PTRACE (the faults are the kernel's) until it returns. 0 or -errno. */
int fence_open(struct fence **fence);
void fence_close(struct fence *fence);

/*
 * Receives up to len bytes, without waiting for any, if look(arg) says so. Returns
 * their number, 0 at the end of the stream, -ECANCELED if look() said no, or -errno.
 */
ssize_t fence_receive(struct fence *fence, int fd, void *data, size_t len,
		      bool (*look)(void *arg), void *arg);

#endif
