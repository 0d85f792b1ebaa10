/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Accounting for io_urings (bpf/uring.bpf.c): clients name the rings that are to
 * be followed, with requests, and get what was counted.
 *
 * The programs are loaded before privileges are given up, and attached only while
 * a ring is followed, and a second longer, so that nobody can make sluiced do so
 * all the time. Their maps are pinned for whoever wants to read them; nothing
 * outlives sluiced but, if it is killed, these pins, which the next one replaces.
 *
 * A ring is followed until its client leaves it or ends, or until the fd that named
 * it is not that ring's any more. It is known by the address of its context; when
 * the kernel gives that to a new ring, a program takes it out of the map.
 *
 *   uring.c   programs, maps, finding rings     follow.c   requests, who follows
 *
 * The main thread's.
 */
#ifndef SLUICED_URING_H
#define SLUICED_URING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <uring.h>

struct client;
struct server;
struct uring_bpf;

/* A ring that is followed. */
struct followed {
	struct followed *next; /* by number */
	__u64 number;
	__u64 context;
	__u64 since; /* CLOCK_BOOTTIME, ns */
	struct sluice_control_uring asked; /* pid is not 0 */
	uid_t uid; /* of the ring */
	struct client *client;
};

struct urings {
	struct uring_bpf *program; /* NULL: this kernel cannot */
	int error; /* why: -errno */
	bool attached;
	struct sluice_uring_counts *per_cpu; /* room for those of a ring */
	int cpus;
	struct followed *first;
	unsigned int count;
	__u64 last; /* number */
	int64_t tidy_at; /* CLOCK_MONOTONIC, ns; 0: nothing to do */
};

/* uring.c: it works without, so failure is in urings->error only. */
void urings_open(struct urings *urings, const char *pin_dir);
void urings_close(struct urings *urings, const char *pin_dir);

/* What the fd of a process is: 0, or -ESRCH without such a process, or -errno. */
int uring_find(const struct urings *urings, pid_t pid, __u32 fd,
	       struct uring_found *found);
/* 0 or -errno: follows it from here on; forgets it. */
int uring_start(struct urings *urings, const struct followed *followed);
void uring_stop(const struct urings *urings, const struct followed *followed);
/* Is it still there? Fills what is not NULL. */
bool uring_read(const struct urings *urings, const struct followed *followed,
		struct uring_ring *ring, struct sluice_uring_counts *counts);
/* Drops what rings left that are not followed; detaches without any. */
void uring_tidy(struct urings *urings);

/* follow.c */
void urings_client_gone(struct server *server, const struct client *client);
/* Forgets rings that are gone. */
void urings_sweep(struct server *server);

#endif
