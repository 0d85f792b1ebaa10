/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Closing what clients sent. bpf/guard.bpf.c lets through only sockets of AF_UNIX
 * and maps, whose close does not wait; but a socket's queue may hold others: a TCP
 * socket with SO_LINGER, say, whose close waits for its peer, for as long as the
 * sender likes. Such a wait ends with a signal: a timer sends one.
 */
#ifndef SLUICED_FOREIGN_H
#define SLUICED_FOREIGN_H

#include <stdbool.h>

#define FOREIGN_WAIT_NS 20000000
#define FOREIGN_WAIT_SHUNNED_NS 1000000 /* it is known to be like that */

/* Once, in the main thread. 0 or -errno. */
int foreign_init(void);

/*
 * False if it took longer than wait_ns and was interrupted, and this was for want
 * of something else than a CPU.
 */
bool foreign_close(int fd, long wait_ns);

#endif
