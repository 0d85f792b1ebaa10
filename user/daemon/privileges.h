/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What sluiced may do, before and after it has loaded its programs. */
#ifndef SLUICED_PRIVILEGES_H
#define SLUICED_PRIVILEGES_H
#include <stdbool.h>

/*
 * Gives up, for good and for all threads started later, every capability but
 * those that making maps and attaching needs, CAP_CHOWN if sockets have to be
 * given to others, and CAP_NET_ADMIN if streams are redirected, whose send buffers
 * have to be larger than net.core.wmem_max. 0 or -errno, after it has said why.
 */
int privileges_drop(bool keep_chown, bool keep_net_admin);

/* As many fds as the hard limit allows. */
void privileges_raise_files(void);

#endif
