/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Moving a flow from user space to the kernel: making its socket a source, in
 * such a way that nothing is lost, overtaken or left behind.
 *
 * The program takes one skb for each that arrives. So whatever is queued when the
 * socket becomes a source stays queued, and from then on as many of the last ones lag;
 * and recv() cannot help once the program may take from the same queue, since
 * nobody can tell in which order the two did. Nor can a socket leave the map
 * again: an skb that the program is about to get would be dropped. So it moves when
 * its sender seems to have nothing to send, and if the queue is found empty *after*
 * that, whatever arrives later meets the program. It begins in HOLD (hold.c), which
 * is right also if the queue is not empty then (RACED).
 *
 * Who never waits for an answer never moves; a stream in one direction is faster by
 * way of user space, which finds many pieces at once (README.md has figures).
 */
#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define IDLE_LOOKS 3 /* in a row: a steady sender is met at one of them */
#define QUIET_LOOK_MIN_NS 100000
#define QUIET_LOOK_MAX_NS 1000000000

static void refuse(struct flow *flow, int error)
{
	flow->error = -error;
	flow->state = REDIRECT_REFUSED;
}

/* Makes the source one. 0 or -errno, and then it stays in user space. */
static int enter(struct flow *flow)
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
 * The queue was empty, and yet something is charged to the sender: it goes on; or as
 * to a server that has not accepted us (the connect is), for as long as it has not.
 * It is looked at again: the sooner it has moved, the less has to be relayed.
 */
static void look_again(struct flow *flow)
{
	if (!flow->pause)
		flow->pause = QUIET_LOOK_MIN_NS;
	else if (flow->pause < QUIET_LOOK_MAX_NS)
		flow->pause *= 2;
	redirect_timer(flow, flow->pause);
}

void move_idle(struct flow *flow)
{
	int r;

	if (!may_move(flow))
		return;
	if (!looks_idle(flow)) {
		look_again(flow);
		return;
	}
	r = open_hold(flow);
	if (!r) {
		r = enter(flow);
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
