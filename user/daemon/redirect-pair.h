/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The thread of redirection, inside: what redirect.c, which runs it, and
 * redirect-pair.c, which is what it does, share.
 */
#ifndef SLUICED_REDIRECT_PAIR_H
#define SLUICED_REDIRECT_PAIR_H

#include <pthread.h>

#include "flow.h"

struct redirect {
	const struct sockmap *sockmap;
	int event_fd, mail_fd, epoll;
	pthread_t thread;
	pthread_mutex_t lock; /* of the letters, events and `stop` */
	struct letter *letters, **letters_last;
	struct redirect_event *events, **events_last;
	bool stop;
	/* the thread's alone */
	struct redirect_pair *pairs, *timed;
	struct redirect_pair *closed; /* in this round of events */
	/*
	 * Slots of flows: a stack of free ones, on top of those that a program may
	 * still be at (retired). The latter wait for the former to run out.
	 */
	int slots[SOCKMAP_FLOWS];
	unsigned int slots_free, slots_retired;
	unsigned char scratch[FLOW_PIECE];
};

/* All by the thread. */
void redirect_pair_add(struct redirect *redirect, struct redirect_pair *pair);
void redirect_pair_resume(struct redirect_pair *pair, int backend);
/* Ends what is to end by now. */
void redirect_pair_settle(struct redirect_pair *pair);
void redirect_pair_close(struct redirect_pair *pair);
void redirect_pair_reset_flow(struct redirect_pair *pair, enum pair_way way);
void redirect_pair_event(struct side *side, uint32_t events);
/* Runs the flows that are due; when the next one is, or 0. */
int64_t redirect_pair_timers(struct redirect *redirect);
/* Tells of those that were closed in this round: no event names them any more. */
void redirect_pair_bury(struct redirect *redirect);

#endif
