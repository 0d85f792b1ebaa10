/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A flow whose source is one: from HOLD, when the program sends all to a socket
 * that is read here, to the end.
 *
 * What is received here is positions of one stream, from where the socket became
 * a source: [0, read) came from `hold`, in order, since the program takes skbs in
 * order. If the source was empty once (settled), that is everything, and the program
 * may go ON with the next skb that is alone. If not (RACED), some skbs lag in the
 * source's queue. They are received when everything that the program ever took was
 * read here, and nothing is between the queue and `hold`: then they are next. The
 * fence sees to it that this is still so when they are taken; if it is not, that
 * is tried again, and meanwhile they come one by one as others arrive.
 *
 * The end of the sender is passed on after all it sent: nothing is charged to it
 * any more, so nothing is on the way.
 */
#include "flow.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define RETRY_MIN_NS 100000
#define RETRY_MAX_NS 20000000
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

/* All that the program took was read, and what is charged is queued. */
static bool is_next(void *arg)
{
	struct flow *flow = arg;
	uint32_t found =
		sockmap_look(redirect_sockmap(flow), flow_in(flow)->cookie);

	return found & SOCKMAP_LOOK_F_QUIET && caught_up(flow);
}

/*
 * Receives what lags: all that is queued, so no skb in part. Had the program taken
 * one since it was counted, it would be on its way, or counted and not read.
 */
static void receive_lagging(struct flow *flow, size_t queued)
{
	unsigned char *data = malloc(queued);
	ssize_t n = data ? fence_receive(redirect_sockmap(flow)->fence,
					 flow_in(flow)->fd, data, queued,
					 is_next, flow) :
			   -ENOMEM;

	if (n > 0) {
		flow->direct += (size_t)n;
		pass(flow, data, (size_t)n);
	}
	flow->settled = (size_t)n == queued;
	if (!flow->settled)
		retry(flow, RETRY_MAX_NS);
	free(data);
}

/* Does nothing lag any more? */
static bool settle(struct flow *flow)
{
	int queued;

	if (flow->settled || ioctl(flow_in(flow)->fd, SIOCINQ, &queued))
		return flow->settled;
	flow->settled = !queued;
	if (queued > 0)
		receive_lagging(flow, (size_t)queued);
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
