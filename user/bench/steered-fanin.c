/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Fan-in over the steered lane: the receiver, and senders that are aware.
 */
#include "steered.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include <sluice/sluice.h>

/* Time for all the handshakes. */
#define START_NS 20000000000ull

/* Messages that are taken from one conn before the next. */
#define BATCH 16

static struct sluice_endpoint *endpoint;
static struct sluice_pool *pool;
static struct sluice_conn **conns;
static struct sluice_set *set;
static struct sluice_buf *loan;
static uint64_t small[SLUICE_INLINE_MAX / 8];

static int fanin_failed(struct bench_side *side, const char *what, int error)
{
	return side_fail(side, "%s: %s", what,
			 error ? strerror(-error) : "end of stream");
}

/* The same of a conn, which may know more. */
static int conn_failed(struct bench_side *side, const char *what,
		       unsigned int i, int error)
{
	struct sluice_conn_info info;

	sluice_conn_info(conns[i], &info);
	return side_fail(side, "%s of sender %u: %s (%s)", what, i,
			 error ? strerror(-error) : "end of stream",
			 info.error_text);
}

static int conns_make(struct bench_side *side, uint32_t flags)
{
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = flags,
		.no_spin = 1,
		.endpoint = endpoint,
		.pool = pool,
	};
	unsigned int i;
	int ret;

	ret = sluice_set_new(&set);
	for (i = 0; !ret && i < side->channel->pair_count; i++) {
		ret = sluice_conn_from_fd(&conns[i],
					  side->channel->pairs[i][side->index],
					  &options);
		if (!ret)
			ret = sluice_set_add(set, conns[i],
					     side->index ? SLUICE_RECV :
							   SLUICE_SEND,
					     (void *)(uintptr_t)i);
	}
	return ret ? fanin_failed(side, "making a conn", ret) : 0;
}

/* Handshakes and attachments are over when every lane is the one to measure. */
static int conns_ready(struct bench_side *side)
{
	const uint64_t end = clock_ns(CLOCK_MONOTONIC) + START_NS;
	struct sluice_conn_info info;
	struct sluice_msg msg;
	unsigned int i;
	int ret;

	for (i = 0; i < side->channel->pair_count; i++) {
		for (;;) {
			ret = sluice_recv(conns[i], &msg);
			if (ret != -EAGAIN)
				return conn_failed(side, "handshake", i, ret);
			sluice_conn_info(conns[i], &info);
			if (side->index ? info.rx_lane == SLUICE_LANE_STEERED :
					  info.tx_lane == SLUICE_LANE_QUEUED)
				break;
			if (clock_ns(CLOCK_MONOTONIC) > end)
				return side_fail(
					side, "lane is %s, not steered: %s",
					sluice_lane_name(info.rx_lane),
					sluice_reason_text(info.rx_reason));
			sched_yield();
		}
	}
	return 0;
}

static int endpoint_make(struct bench_side *side)
{
	struct sluice_endpoint_options options = {
		.size = sizeof(options),
		.conns = 16,
	};
	const unsigned int count = side->channel->pair_count;
	int ret;

	while (options.conns < count)
		options.conns *= 2;
	/* Some for each sender: 4 small ones, of which a block has 16. */
	options.landing[0] = count / 4 > 16 ? count / 4 : 16;
	options.landing[1] = count > 16 ? count : 16;
	options.landing[2] = 4;
	ret = sluice_endpoint_new(&endpoint, &options);
	return ret ? fanin_failed(side, "sluice_endpoint_new", ret) : 0;
}

int steered_fanin_open(struct bench_side *side, bool aware)
{
	const uint32_t flags = aware ? SLUICE_F_AWARE : SLUICE_F_PLAIN;
	struct sluice_pool_options options = { .size = sizeof(options) };

	if (!side->index && !aware)
		return fanin_plain_open(side);
	conns = calloc(side->channel->pair_count, sizeof(struct sluice_conn *));
	if (!conns || sluice_pool_new(&pool, &options))
		return side_fail(side, "out of memory");
	if (side->index && endpoint_make(side))
		return -1;
	if (conns_make(side, side->index ? flags | SLUICE_F_STEER : flags))
		return -1;
	return conns_ready(side);
}

/* Up to BATCH messages of one conn; the set tells of it again if it has more. */
LOOP int take_conn(struct bench_side *side, struct fanin *fanin, unsigned int i)
{
	struct sluice_msg msgs[BATCH];
	int count = sluice_recv_batch(conns[i], msgs, BATCH), n, ret;

	if (count < 0 && count != -EAGAIN)
		return conn_failed(side, "receiving", i, count);
	for (n = 0; n < count; n++) {
		if (msgs[n].len != side->size)
			return side_fail(side, "%u bytes came, not %zu",
					 msgs[n].len, side->size);
		if (fanin_got(side, fanin, i, sluice_msg_data(&msgs[n])))
			return -1;
		ret = sluice_release(conns[i], &msgs[n]);
		if (ret)
			return conn_failed(side, "sluice_release", i, ret);
	}
	return 0;
}

LOOP int steered_fanin_take(struct bench_side *side, struct fanin *fanin)
{
	struct sluice_event events[FANIN_EVENTS];
	int count, i;

	count = sluice_set_wait(set, events, FANIN_EVENTS, side->block ? -1 : 0,
				0);
	if (count < 0 && count != -EINTR)
		return fanin_failed(side, "sluice_set_wait", count);
	for (i = 0; i < count; i++) {
		if (take_conn(side, fanin,
			      (unsigned int)(uintptr_t)events[i].data))
			return -1;
	}
	return count < 0 ? 0 : count;
}

/* flags: SLUICE_SEND_F_BATCH, or 0 for the last of a burst. */
LOOP int aware_put_one(struct bench_side *side, unsigned int i, uint64_t word,
		       uint32_t flags)
{
	const uint32_t size = (uint32_t)side->size;
	int ret = 0;

	if (size <= SLUICE_INLINE_MAX) {
		touch_write(small, sizeof(small), word);
		ret = sluice_send(conns[i], small, size, 0, flags);
	} else {
		if (!loan)
			ret = sluice_loan(conns[i], size, &loan);
		if (!ret) {
			touch_write(loan->data, side->touched, word);
			ret = sluice_send_buf(conns[i], loan, size, 0, flags);
		}
		if (!ret)
			loan = NULL;
	}
	if (__builtin_expect(!ret, 1))
		return 1;
	/* Takes in what the receiver has released. */
	if (ret == -EAGAIN)
		ret = sluice_wait(conns[i], SLUICE_SEND, 0);
	return ret >= 0 || ret == -ETIMEDOUT ?
		       0 :
		       conn_failed(side, "sending", i, ret);
}

LOOP int aware_put(struct bench_side *side, unsigned int i, uint64_t word,
		   unsigned int count)
{
	unsigned int n;
	int ret;

	for (n = 0; n < count; n++) {
		ret = aware_put_one(side, i, word + n * WORD_NUMBER,
				    n + 1 < count ? SLUICE_SEND_F_BATCH : 0);
		if (ret < 0)
			return ret;
		if (!ret)
			break;
	}
	if (n && n < count) {
		ret = sluice_flush(conns[i]);
		if (ret && ret != -EAGAIN)
			return conn_failed(side, "flushing", i, ret);
	}
	return (int)n;
}

static int aware_room(struct bench_side *side)
{
	struct sluice_event event;
	const int ret = sluice_set_wait(set, &event, 1, -1, 0);

	return ret < 0 && ret != -EINTR ?
		       fanin_failed(side, "sluice_set_wait", ret) :
		       0;
}

int steered_fanin_plain_run(struct bench_side *side)
{
	static const struct fanin_ops ops = {
		.put = fanin_plain_put,
		.room = fanin_plain_room,
		.take = steered_fanin_take,
	};

	return fanin_run(side, ops);
}

int steered_fanin_aware_run(struct bench_side *side)
{
	static const struct fanin_ops ops = {
		.put = aware_put,
		.room = aware_room,
		.take = steered_fanin_take,
	};

	return fanin_run(side, ops);
}

int steered_fanin_close(struct bench_side *side)
{
	struct sluice_conn_info info;
	unsigned int i;

	if (!conns)
		return 0;
	for (i = 0; i < side->channel->pair_count; i++) {
		sluice_conn_info(conns[i], &info);
		side->result->spilled += info.spilled;
		side->result->frames += info.frames_sent + info.frames_received;
		sluice_conn_close(conns[i]);
	}
	sluice_set_free(set);
	sluice_pool_free(pool);
	sluice_endpoint_free(endpoint);
	free(conns);
	return 0;
}
