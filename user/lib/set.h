/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The wait set, inside: what set.c and set-rings.c share.
 */
#ifndef SLUICE_SET_H
#define SLUICE_SET_H

#include "steering.h"

/* A ring that conns of the set are on. */
struct set_ring {
	struct list link;
	struct sluice_ring *ring;
	uint32_t conns;
	uint32_t spills; /* as last seen */
	bool armed;
	bool watches;
	struct watcher watcher; /* of its endpoint */
};

struct uring;

struct sluice_set {
	/* of conns and rings; on a ring of the application's of rings only */
	int epoll_fd;
	struct uring *uring; /* NULL: conns are waited for by epoll_fd */
	uint64_t generation;
	struct list hot;
	struct list idle;
	struct list closing; /* not reported, see sluice_conn_close() */
	struct list rings; /* struct set_ring */
	uint32_t others; /* conns of which the rings do not tell all */
	/* when the epoll was asked, and how often it is now */
	uint32_t rounds;
	uint32_t spill_rounds; /* so many more often */
	int64_t asked; /* coarse ns */
	/* the one whose queue is being emptied */
	struct conn_core *focus;
	uint32_t focus_rounds;
};

/* In the epoll's data: a set_ring, not a conn. */
#define RING_TAG 1

/* set.c */

int set_check(const struct sluice_set *set);
/* What the fd of a conn told of has come. */
void set_fired(struct conn_core *core);
/* Reports up to count conns that have something, without system calls if it can. */
unsigned int set_serve(struct sluice_set *set, struct sluice_event *events,
		       unsigned int count);
/* Arms all conns that have nothing to report. 0 or -errno. */
int set_arm(struct sluice_set *set);
/* Asks the epoll; the conns and rings that it tells of are looked at. */
int set_poll(struct sluice_set *set, int timeout_ms);

/* A conn on the ring comes or goes. 0 or -errno. */
int set_ring_enter(struct sluice_set *set, struct sluice_ring *ring);
void set_ring_leave(struct sluice_set *set, struct sluice_ring *ring);
/* Reads the rings: conns that there is something for become hot. */
void set_rings_drain(struct sluice_set *set, bool far);
/* Have messages been left to sockets' queues, or is that not told any more? */
bool set_rings_spilled(struct sluice_set *set);
/* The doorbells tell from here on; and they do not. */
void set_rings_arm(struct sluice_set *set);
void set_rings_disarm(struct sluice_set *set);
/* A doorbell, or the endpoint's connection to sluiced, fired. */
void set_ring_serve(struct set_ring *member);

#endif
