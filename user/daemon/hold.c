/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A flow whose source is one: from HOLD, when the program sends all to a socket
 * that is read here, to the end.
 *
 * What is received here is positions of one stream, from where the socket became
 * a source: [0, read) came from `hold`, in order, since the program takes skbs in
 * order. If the source was empty once (settled), that is everything, and the program
 * may go ON with the next skb that is alone. If not (RACED), some skbs lag in the
 * source's queue. They are received behind the fence, while the program can take
 * nothing: when all it ever took has come here and was read, they are next. If the
 * receiver has no room for that, it is tried again; meanwhile they come one by one
 * as others arrive.
 *
 * The end of the sender is passed on after all it sent: nothing is charged to it
 * any more, so nothing is on the way.
 */
#include "flow.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

#define RETRY_MIN_NS 100000
#define RETRY_MAX_NS 20000000
#define REST_NS 2000000
#define LATE_ROOM (4u << 20)
#define ON_MAX_NS 60000000000 /* until it is seen to be ON: for the fds only */

static uint64_t word(struct flow *flow)
{
	return __atomic_load_n(&redirect_slot(flow)->word, __ATOMIC_ACQUIRE);
}

void hold_close(struct flow *flow)
{
	struct side *held = flow_held(flow);

	redirect_watch(held, 0);
	held->fd = -1;
	for (int i = 0; i < 2; i++) {
		if (flow->hold[i] >= 0)
			close(flow->hold[i]);
		flow->hold[i] = -1;
	}
}

static void retry(struct flow *flow, int64_t longest)
{
	if (flow->pause < RETRY_MIN_NS)
		flow->pause = RETRY_MIN_NS;
	else if (flow->pause < longest)
		flow->pause *= 2;
	redirect_timer(flow, flow->pause);
}

/* Passes on len bytes, which are the next. */
static bool pass(struct flow *flow, const unsigned char *data, size_t len)
{
	flow->read += len;
	flow->pause = 0;
	flow->pair->traffic->messages[flow->way]++;
	return flow_send(flow, data, len);
}

/* All that the program has held was read. */
static bool caught_up(struct flow *flow)
{
	return (word(flow) & ~SOCKMAP_ON) + flow->direct == flow->read;
}

/* Reads `hold` empty: false if the flow is stuck or over. */
static bool read_hold(struct flow *flow)
{
	unsigned char *scratch = redirect_scratch(flow);
	ssize_t n;

	while (flow->hold[1] >= 0) {
		n = recv(flow->hold[1], scratch, FLOW_PIECE, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (!pass(flow, scratch, (size_t)n))
			return false;
	}
	return true;
}

/*
 * While the fence is shut, and the program gets nothing: is everything queued that is
 * charged? What it took before is in `hold` then. Kernel threads bring it there, and
 * senders that have been charged for an skb queue it, so that does not take long.
 */
static bool comes_to_rest(struct flow *flow)
{
	int64_t until = redirect_now() + REST_NS;

	do {
		if (sockmap_look(redirect_sockmap(flow),
				 flow_in(flow)->cookie) &
		    SOCKMAP_LOOK_F_QUIET)
			return true;
		sched_yield();
	} while (redirect_now() < until);
	return false;
}

static size_t queued(struct flow *flow)
{
	int bytes;

	return ioctl(flow_in(flow)->fd, SIOCINQ, &bytes) || bytes < 0 ?
		       0 :
		       (size_t)bytes;
}

struct lag {
	struct flow *flow;
	size_t room;
};

/* Reads all that comes before what is queued; or it cannot be passed on now. */
static bool is_next(void *arg)
{
	const struct lag *lag = arg;
	struct flow *flow = lag->flow;

	return queued(flow) + LATE_ROOM <= lag->room && comes_to_rest(flow) &&
	       read_hold(flow) && caught_up(flow);
}

/*
 * Receives all that is queued, none of it in part. Once the fence is shut, each
 * thread of the sender can queue one skb more, and then waits: there is room for a
 * hundred of them.
 */
static void receive_lagging(struct flow *flow, size_t len)
{
	struct lag lag = { .flow = flow, .room = len + 2 * LATE_ROOM };
	unsigned char *data = malloc(lag.room);
	ssize_t n = data ? fence_receive(redirect_sockmap(flow)->fence,
					 flow_in(flow)->fd, data, lag.room,
					 is_next, &lag) :
			   -ENOMEM;

	flow->settled = n > 0;
	if (n == (ssize_t)lag.room) {
		log_client("a stream ends: too many threads send on it");
		flow->pair->dropped = true;
	} else if (n > 0) {
		flow->direct += (size_t)n;
		pass(flow, data, (size_t)n);
	} else if (flow->state != REDIRECT_ENDED) {
		retry(flow, RETRY_MAX_NS);
	}
	free(data);
}

/* Does nothing lag any more? */
static bool settle(struct flow *flow)
{
	size_t len;

	if (flow->settled)
		return true;
	len = queued(flow);
	flow->settled = !len;
	if (len)
		receive_lagging(flow, len);
	return flow->settled;
}

static void drain(struct flow *flow)
{
	uint32_t found;

	flow->settled = false; /* nothing more will take what might be there */
	if (!settle(flow) || flow->stuck || flow->state == REDIRECT_ENDED)
		return;
	found = sockmap_look(redirect_sockmap(flow), flow_in(flow)->cookie);
	/* nothing charged: what was redirected was sent, what was held is here */
	if (!(found & (SOCKMAP_LOOK_F_IDLE | SOCKMAP_LOOK_F_GONE))) {
		retry(flow, RETRY_MAX_NS);
		return;
	}
	if (!read_hold(flow))
		return;
	if (caught_up(flow))
		flow_end(flow);
	else
		retry(flow, RETRY_MAX_NS);
}

static void go_on(struct flow *flow)
{
	settle(flow);
	if (flow->state == REDIRECT_ENDED)
		return;
	flow->state = flow->settled ? REDIRECT_HOLD : REDIRECT_RACED;
	if (!flow->settled || flow->stuck || !caught_up(flow))
		return;
	/* pairs with the program's load, which is before it redirects */
	__atomic_store_n(&redirect_slot(flow)->forwarded,
			 flow->read - flow->direct, __ATOMIC_SEQ_CST);
	if (word(flow) & SOCKMAP_ON) {
		flow->state = REDIRECT_ON;
		hold_close(flow);
	} else {
		retry(flow, ON_MAX_NS);
	}
}

void hold_run(struct flow *flow)
{
	if (!read_hold(flow))
		return;
	if (flow->in_ended)
		drain(flow);
	else if (flow->state != REDIRECT_ON)
		go_on(flow);
}
