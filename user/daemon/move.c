/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Moving a flow from user space to the kernel: making its socket a source, in
 * such a way that nothing is lost, overtaken or left behind.
 *
 * The program takes one skb for each that arrives. So whatever is queued when the
 * socket becomes a source stays queued, and from then on as many of the last ones lag;
 * and recv() cannot help once the program may take from the same queue, since
 * nobody can tell in which order the two did. Nor can a socket leave the map
 * again: an skb that the program is about to get would be dropped. Two moments
 * are safe:
 *
 * idle   The queue is found empty *after* the socket became a source: whatever
 *        arrives later meets the program. It begins in HOLD (hold.c), which is
 *        right also if the queue is not empty then (RACED).
 * full   The sender has used up its send buffer, and all of that is in the
 *        queue, for FULL_NS, in which it has returned or sleeps: it can send
 *        nothing until somebody receives. What is queued is
 *        peeked and sent on, the socket becomes a source that is ON, and only
 *        then exactly what was peeked is received, and thrown away.
 *
 * The idle way suits who waits for answers, the full way who never waits: reading
 * stops for up to FILL_NS until it is full.
 */
#include "flow.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "log.h"

#define IDLE_LOOKS 3 /* in a row: a steady sender is met at one of them */
#define PATIENCE_MIN 4
#define PATIENCE_MAX 65536
#define FILL_NS 5000000
#define FILL_LOOK_NS 200000
#define PEEK_MAX (16u << 20)
#define QUIET_LOOK_MIN_NS 100000
#define QUIET_LOOK_MAX_NS 1000000000

static void refuse(struct flow *flow, int error)
{
	flow->error = -error;
	flow->state = REDIRECT_REFUSED;
}

/* Makes the source one. 0 or -errno, and then it stays in user space. */
static int enter(struct flow *flow, uint64_t word)
{
	struct side *in = flow_in(flow), *out = flow_out(flow);
	int r, index = redirect_slot_take(flow->pair->redirect);

	if (index < 0)
		return -ENOSPC;
	flow->index = index;
	flow->pause = 0;
	*redirect_slot(flow) = (struct sockmap_flow){
		.target = out->cookie,
		.hold = flow_held(flow)->cookie,
		.forwarded = SOCKMAP_NEVER,
		.word = word,
	};
	r = sockmap_add_source(redirect_sockmap(flow), in->fd, in->cookie,
			       (uint32_t)index);
	if (r)
		flow->index = -1;
	return r;
}

static bool has_begun(struct redirect_pair *pair)
{
	struct flow *back = &pair->flows[PAIR_TO_CLIENT];

	return pair->begun ||
	       (flow_in_map(back) &&
		(redirect_slot(back)->bytes || redirect_slot(back)->word));
}

/* A client's bytes may be needed again until the backend has begun. */
static bool may_move(struct flow *flow)
{
	return flow->state == REDIRECT_RELAY &&
	       (flow->way == PAIR_TO_CLIENT || has_begun(flow->pair));
}

static bool looks_idle(struct flow *flow)
{
	for (int i = 0; i < IDLE_LOOKS; i++) {
		if (!(sockmap_look(redirect_sockmap(flow),
				   flow_in(flow)->cookie) &
		      SOCKMAP_LOOK_F_IDLE))
			return false;
	}
	return true;
}

/* Idle -------------------------------------------------------------------- */

static int open_hold(struct flow *flow)
{
	struct side *held = flow_held(flow);
	int r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
		       flow->hold))
		return -errno;
	held->fd = flow->hold[1];
	held->cookie = sockmap_cookie(flow->hold[0]);
	r = sockmap_add_target(redirect_sockmap(flow), flow->hold[0],
			       held->cookie);
	if (r)
		hold_close(flow);
	return r;
}

/*
 * Nothing comes, and yet something is charged to the sender: as to a server that has
 * not accepted us (the connect is), for as long as it has not. It is looked at
 * again: the sooner it has moved, the less has to be relayed.
 */
static void look_again(struct flow *flow)
{
	if (!flow->pause)
		flow->pause = QUIET_LOOK_MIN_NS;
	else if (flow->pause < QUIET_LOOK_MAX_NS)
		flow->pause *= 2;
	redirect_timer(flow, flow->pause);
}

void move_idle(struct flow *flow, bool had)
{
	int r;

	if (!may_move(flow))
		return;
	if (!looks_idle(flow)) {
		if (had)
			move_busy(flow);
		else
			look_again(flow);
		return;
	}
	r = open_hold(flow);
	if (!r) {
		r = enter(flow, 0);
		if (r)
			hold_close(flow);
	}
	if (r) {
		refuse(flow, r);
		return;
	}
	flow->state = REDIRECT_HOLD;
	hold_run(flow);
}

/* Full -------------------------------------------------------------------- */

void move_busy(struct flow *flow)
{
	if (!may_move(flow))
		return;
	if (!flow->patience)
		flow->patience = PATIENCE_MIN;
	if (++flow->busy < flow->patience)
		return;
	flow->busy = 0;
	if (flow->patience < PATIENCE_MAX)
		flow->patience *= 4;
	flow->filling = true;
	flow->fill_until = redirect_now() + FILL_NS;
	redirect_timer(flow, FILL_LOOK_NS);
}

/*
 * Receives what is queued and was peeked, to throw it away. In one call, which
 * locks the queue: room for the sender comes up with the first skb, and the
 * program must not meet one of these.
 */
static bool discard(struct flow *flow)
{
	unsigned char *data = malloc(flow->peeked);
	ssize_t n = data ? recv(flow_in(flow)->fd, data, flow->peeked,
				MSG_DONTWAIT) :
			   -1;
	bool same = n >= 0 && (size_t)n == flow->peeked &&
		    !memcmp(data, flow->peek, flow->peeked);

	free(data);
	return same;
}

static bool is_full(struct flow *flow)
{
	const uint32_t full = SOCKMAP_LOOK_F_FULL | SOCKMAP_LOOK_F_QUIET;

	return (sockmap_look(redirect_sockmap(flow), flow_in(flow)->cookie) &
		full) == full;
}

static void stop_filling(struct flow *flow)
{
	flow->filling = false;
	flow->look_at = 0;
}

static void peek(struct flow *flow)
{
	unsigned char *data;
	int queued;
	ssize_t n;

	stop_filling(flow);
	if (ioctl(flow_in(flow)->fd, SIOCINQ, &queued) || queued <= 0 ||
	    (unsigned int)queued > PEEK_MAX)
		return;
	data = malloc((size_t)queued);
	if (!data)
		return;
	n = recv(flow_in(flow)->fd, data, (size_t)queued,
		 MSG_DONTWAIT | MSG_PEEK);
	if (n != queued) {
		free(data);
		return;
	}
	flow->peek = data;
	flow->peeked = (size_t)queued;
	if (flow_send(flow, data, (size_t)queued))
		move_peeked(flow);
}

void move_fill(struct flow *flow)
{
	int64_t now = redirect_now();

	if (now < flow->look_at)
		return;
	if (is_full(flow)) {
		if (!flow->full_since)
			flow->full_since = now;
		if (now - flow->full_since >= FULL_NS)
			peek(flow);
		else
			redirect_timer(flow, FULL_NS);
		return;
	}
	flow->full_since = 0;
	if (looks_idle(flow)) {
		stop_filling(flow);
		move_idle(flow, true);
	} else if (now >= flow->fill_until) {
		stop_filling(flow);
	} else {
		redirect_timer(flow, FILL_LOOK_NS);
	}
}

/*
 * Nothing was received since the sender was found full, so it has sent nothing;
 * unless it has made its send buffer larger, or was stopped all the time between
 * queueing its last skb and telling of it. Then it stays here if that is seen in
 * time, or the bytes are others, and the stream can no longer be told.
 */
void move_peeked(struct flow *flow)
{
	int r = is_full(flow) ? enter(flow, SOCKMAP_ON) : 0;

	if (r)
		refuse(flow, r);
	if (flow_in_map(flow)) {
		flow->state = REDIRECT_ON;
		flow->settled = true;
	}
	if (!discard(flow)) {
		log_client("a stream cannot be told any more: it ends");
		flow->pair->dropped = true;
	}
	flow->peeked = 0;
	free(flow->peek);
	flow->peek = NULL;
}
