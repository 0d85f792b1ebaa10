/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What sluiced may do, before and after it has loaded its programs. */
#ifndef SLUICED_PRIVILEGES_H
#define SLUICED_PRIVILEGES_H
#include <stdbool.h>

/*
 * Gives up, for good and for all threads started later, every capability but
 * those that making maps and attaching needs, and CAP_CHOWN if sockets have to be
 * given to others. 0 or -errno, after it has said why.
 */
int privileges_drop(bool keep_chown);

/* As many fds as the hard limit allows. */
void privileges_raise_files(void);

#endif
