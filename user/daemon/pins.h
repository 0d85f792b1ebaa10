/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The pin directory: a place on a BPF file system, and its lock. */
#ifndef SLUICED_PINS_H
#define SLUICED_PINS_H

/*
 * Makes the directory if need be, mounts a BPF file system if there is none at
 * /sys/fs/bpf and the directory lies below. Returns a locked fd of it, or -errno
 * and says in the log why.
 */
int pins_lock(const char *dir);

/* Removes all that is pinned in the directory, not the directory. */
int pins_remove(const char *dir);

/* 0 or -errno; -EEXIST leaves what is there. */
int pin_object(const char *dir, const char *name, int fd);

/* Removes one, if it is there. */
void pin_remove(const char *dir, const char *name);

/* An fd or -errno. */
int pin_open(const char *dir, const char *name);

#endif
