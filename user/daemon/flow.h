/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Inside redirection: a pair and its two flows. redirect.c has the thread, redirect-pair.c
 * what pairs begin and end with; flow.c relays, move.c moves to the kernel, hold.c
 * is what comes between. Everything is the thread's alone, but what is marked.
 */
#ifndef SLUICED_FLOW_H
#define SLUICED_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "redirect.h"

#define FLOW_PIECE 65536 /* read at once */
#define FLOW_FIRST_MAX 65536 /* kept for another backend */

enum letter_type {
	LETTER_ADD,
	LETTER_RESUME,
	LETTER_DROP,
	LETTER_FREE,
};
#define LETTER_TYPES (LETTER_FREE + 1)

struct letter {
	struct letter *next;
	struct redirect_pair *pair;
	enum letter_type type;
	int fd; /* RESUME */
};

/* One direction of a pair. */
struct flow {
	struct redirect_pair *pair;
	enum pair_way way;
	_Atomic(enum redirect_state) state; /* read by the caller's thread */
	_Atomic int error;
	bool in_ended; /* its sender will send no more */
	/* relayed, not sent yet: [sent, length) of memory of its own */
	unsigned char *data;
	size_t length, sent;
	bool stuck; /* the receiver has no room */
	/* moving */
	int64_t look_at; /* CLOCK_MONOTONIC, ns; 0: none */
	int64_t pause; /* between looks */
	/* in the map */
	_Atomic int index; /* of its sockmap_flow; -1: none */
	int hold[2]; /* [0] is a target, [1] is read; -1 */
	uint64_t read; /* bytes from hold, and what lagged at the source */
	_Atomic uint64_t direct; /* of them, the latter */
	bool settled; /* nothing lags */
	_Atomic uint64_t bytes,
		messages; /* redirected, once it has left the map */
};

struct side {
	struct redirect_pair *pair;
	int fd;
	uint64_t cookie;
	uint32_t events; /* that are watched for */
	bool watched;
};

enum { SIDE_CLIENT, SIDE_BACKEND, SIDE_HOLD, SIDES = SIDE_HOLD + 2 };

struct redirect_pair {
	struct redirect_event events[REDIRECT_ENDS];
	struct letter letters[LETTER_TYPES]; /* one of each may be under way */
	bool drop_sent; /* the caller's */
	struct redirect *redirect;
	struct redirect_pair *next, **at; /* of the thread */
	struct redirect_pair *next_timed;
	struct traffic *traffic;
	struct flow flows[2]; /* by way */
	/* client, backend, then where each flow is held: what epoll knows */
	struct side sides[SIDES];
	bool timed;
	bool waiting; /* UNBEGUN */
	bool begun; /* the backend sent something, or `first` is not all */
	bool dropped;
	unsigned char *first; /* what the backend was sent */
	size_t first_length;
};

/* In and out of a flow. */
static inline struct side *flow_in(struct flow *flow)
{
	return &flow->pair->sides[flow->way == PAIR_TO_BACKEND ? SIDE_CLIENT :
								 SIDE_BACKEND];
}

static inline struct side *flow_out(struct flow *flow)
{
	return &flow->pair->sides[flow->way == PAIR_TO_BACKEND ? SIDE_BACKEND :
								 SIDE_CLIENT];
}

static inline struct side *flow_held(struct flow *flow)
{
	return &flow->pair->sides[SIDE_HOLD + flow->way];
}

static inline bool flow_in_map(const struct flow *flow)
{
	return flow->index >= 0;
}

/* redirect-pair.c */
struct sockmap_flow *redirect_slot(struct flow *flow);
const struct sockmap *redirect_sockmap(struct flow *flow);
unsigned char *redirect_scratch(struct flow *flow); /* FLOW_PIECE bytes */
int redirect_slot_take(struct redirect *redirect); /* an index or -1 */
void redirect_watch(struct side *side, uint32_t events);
void redirect_timer(struct flow *flow, int64_t ns); /* flow_run() then */
int64_t redirect_now(void);
/*
 * The backend is gone, and may be replaced: the pair waits. False: it had begun.
 */
bool redirect_unbegun(struct redirect_pair *pair);

/* The sender has called shutdown(). */
void redirect_half_closed(struct flow *flow);

/* flow.c */
/* Does what can be done. */
void flow_run(struct flow *flow);
/* No more comes: the receiver is told. */
void flow_end(struct flow *flow);
/* The receiver takes no more: the sender is told. */
void flow_break(struct flow *flow);
/* Sends len bytes of scratch or what is stuck; false: it is stuck, or broken. */
bool flow_send(struct flow *flow, const unsigned char *data, size_t len);
bool flow_flush(struct flow *flow);
/* Events that the flow wants of its in and its out. */
uint32_t flow_wants_in(const struct flow *flow);
uint32_t flow_wants_out(const struct flow *flow);

/* move.c */
/* The source was read empty. */
void move_idle(struct flow *flow);

/* hold.c */
void hold_run(struct flow *flow);
/* Closes the hold sockets. */
void hold_close(struct flow *flow);

#endif
