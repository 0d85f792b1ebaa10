/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A flow whose source is one: from HOLD, when the program sends all to a socket
 * that is read here, to the end.
 *
 * What is received here is positions of one stream, from where the socket became
 * a source: [0, read) came from `hold`, in order, since the program takes skbs in
 * order. If the source was empty once (settled), that is everything, and once
 * `done` has caught up the program may go ON with the next skb that is alone. If
 * not (RACED), some skbs lag in the source's queue: what is there is peeked, when
 * nothing moves, and sent on; it comes through `hold` later and is then skipped.
 * That is slower, but right, and goes on until the sender is full, or calm for
 * CALM_NS: then what lags is received.
 *
 * The end of the sender is passed on after all it sent: nothing is charged to it
 * any more, so nothing is on the way.
 */
#include "flow.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

#define RETRY_MIN_NS 100000
#define RETRY_MAX_NS 20000000
#define CALM_NS 20000000 /* without anything new from the sender */
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

/* Passes on len bytes that are next after `read`, but those already sent. */
static bool pass(struct flow *flow, const unsigned char *data, size_t len)
{
	uint64_t skip = flow->done - flow->read;

	flow->read += len;
	flow->pause = 0;
	if (skip >= len)
		return true;
	flow->done = flow->read;
	flow->pair->traffic->messages[flow->way]++;
	return flow_send(flow, data + skip, len - (size_t)skip);
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
 * Receives what lags, which was sent on, so that nothing does any more. In one
 * call, which locks the queue; it must get what was peeked, and not what comes
 * after that because the program has taken some of it meanwhile. The program takes
 * nothing while the sender is full. If the sender was calm and went on just now,
 * the bytes tell: they are others. (Unless it repeats itself, with the length of
 * what it has just sent as the period: then, and if that is not a fraction of what
 * lagged, nobody could know.)
 */
static void take_lagging(struct flow *flow, const unsigned char *peeked,
			 size_t len)
{
	unsigned char *data = malloc(len);
	ssize_t n = -1;

	if (!data)
		return;
	n = recv(flow_in(flow)->fd, data, len, MSG_DONTWAIT);
	if (n < 0 || (size_t)n != len || memcmp(data, peeked, len)) {
		log_client("a stream cannot be told any more: it ends");
		flow->pair->dropped = true;
	}
	free(data);
	flow->direct += len;
	flow->read += len;
	flow->settled = true;
	flow->state = REDIRECT_HOLD;
}

/* Has nothing come for a while? If not, it is looked at again. */
static bool is_calm(struct flow *flow, int64_t ns)
{
	int64_t now = redirect_now();

	if (flow->calm_done != flow->done || !flow->calm_since) {
		flow->calm_done = flow->done;
		flow->calm_since = now;
	}
	if (now - flow->calm_since >= ns)
		return true;
	redirect_timer(flow, ns);
	return false;
}

/*
 * Sends on what lags at the source, if nothing moved while it was peeked: all
 * that was taken before it was read, and what is charged to the sender is there.
 */
static void pass_lagging(struct flow *flow, const unsigned char *data,
			 size_t len)
{
	uint64_t skip = flow->done - flow->read;
	uint32_t found =
		sockmap_look(redirect_sockmap(flow), flow_in(flow)->cookie);

	if (!(found & SOCKMAP_LOOK_F_QUIET) || !caught_up(flow)) {
		retry(flow, RETRY_MAX_NS);
		return;
	}
	if (skip < len) {
		flow->done = flow->read + len;
		flow->pair->traffic->messages[flow->way]++;
		if (!flow_send(flow, data + skip, len - (size_t)skip))
			return;
	}
	if (is_calm(flow, found & SOCKMAP_LOOK_F_FULL ? FULL_NS : CALM_NS))
		take_lagging(flow, data, len);
}

static void peek_lagging(struct flow *flow)
{
	unsigned char *data;
	int queued;
	ssize_t n;

	if (ioctl(flow_in(flow)->fd, SIOCINQ, &queued) || queued <= 0)
		return;
	data = malloc((size_t)queued);
	n = data ? recv(flow_in(flow)->fd, data, (size_t)queued,
			MSG_DONTWAIT | MSG_PEEK) :
		   -1;
	if (n == queued)
		pass_lagging(flow, data, (size_t)n);
	else
		retry(flow, RETRY_MAX_NS);
	free(data);
}

/*
 * No more comes, so the program will take nothing more, and recv() may. False if
 * the flow is stuck or over.
 */
static bool receive_rest(struct flow *flow)
{
	unsigned char *scratch = redirect_scratch(flow);
	ssize_t n;

	while (caught_up(flow)) {
		n = recv(flow_in(flow)->fd, scratch, FLOW_PIECE, MSG_DONTWAIT);
		if (n <= 0)
			break;
		flow->direct += (size_t)n;
		if (!pass(flow, scratch, (size_t)n))
			return false;
	}
	return true;
}

static void drain(struct flow *flow)
{
	uint32_t found;

	if (!flow->settled && flow->state != REDIRECT_ON && !receive_rest(flow))
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

static void settle(struct flow *flow)
{
	int queued;

	if (!flow->settled && !ioctl(flow_in(flow)->fd, SIOCINQ, &queued) &&
	    !queued) {
		flow->settled = true;
		flow->state = REDIRECT_HOLD;
	}
	if (!flow->settled) {
		flow->state = REDIRECT_RACED;
		peek_lagging(flow);
	}
	/* what was peeked must come, so that it is skipped, and not redirected */
	if (!flow->settled || flow->stuck || !caught_up(flow) ||
	    flow->done != flow->read)
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
		settle(flow);
}
