/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * steered-plain, steered, steered-single: sluiced attaches a BPF program to the
 * receiver's socket. With two processes each side has an endpoint of its own;
 * fan-in is in steered-fanin.c.
 */
#include "steered.h"

#include <poll.h>

#include "lanes.h"

static uint8_t *out_data;

/* What came through the socket all the same, and the lane at the end. */
static int steered_close(struct bench_side *side)
{
	struct sluice_conn_info info;

	if (side->c->pattern == PATTERN_FANIN)
		return steered_fanin_close(side);
	if (!(side->c->pattern == PATTERN_STREAM && !side->index) &&
	    lane_check(side, SLUICE_LANE_STEERED, true))
		return -1;
	sluice_conn_info(conn, &info);
	side->result->spilled = info.spilled;
	side->result->frames = info.frames_sent + info.frames_received;
	sluice_conn_close(conn);
	free(out_data);
	return 0;
}

static int steered_prepare(const struct bench_case *c,
			   struct bench_channel *channel,
			   char reason[BENCH_TEXT])
{
	return c->pattern == PATTERN_FANIN ? fanin_prepare(c, channel, reason) :
					     lanes_prepare(c, channel, reason);
}

static int steered_plain_prepare(const struct bench_case *c,
				 struct bench_channel *channel,
				 char reason[BENCH_TEXT])
{
	return c->pattern == PATTERN_FANIN ?
		       fanin_prepare(c, channel, reason) :
		       seqpacket_prepare(c, channel, reason);
}

static int steered_plain_open(struct bench_side *side)
{
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = SLUICE_F_PLAIN | SLUICE_F_STEER,
		.spin_ns = side->block ? 0 : SLUICE_SPIN_FOREVER,
		.no_spin = side->block,
	};
	int ret;

	if (side->c->pattern == PATTERN_FANIN)
		return steered_fanin_open(side, false);
	if (posix_memalign((void **)&out_data, 4096, side->size))
		return side_fail(side, "out of memory");
	memset(out_data, 1, side->size);
	ret = sluice_conn_from_fd(&conn, side->channel->in[side->index],
				  &options);
	if (ret)
		return lanes_failed(side, "sluice_conn_from_fd", ret);
	return lane_check(side, SLUICE_LANE_STEERED, true);
}

LOOP void *steered_plain_begin(struct bench_side *side)
{
	(void)side;
	return out_data;
}

/* As any program that knows nothing of sluice. */
LOOP int steered_plain_send(struct bench_side *side)
{
	struct pollfd room = {
		.fd = side->channel->out[side->index],
		.events = POLLOUT,
	};
	ssize_t n;

	for (;;) {
		n = send(room.fd, out_data, side->size, MSG_NOSIGNAL);
		if (__builtin_expect(n == (ssize_t)side->size, 1))
			return 0;
		if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
			return side_fail(side, "sending: %s", strerror(errno));
		if (side->block && errno == EAGAIN)
			poll(&room, 1, -1);
	}
}

/* As lanes_take(), and what it waits in vain is counted. */
LOOP const void *steered_take(struct bench_side *side)
{
	uint64_t start;
	int ret = sluice_recv(conn, &msg);

	if (ret == -EAGAIN) {
		start = clock_ticks();
		while ((ret = sluice_recv_wait(conn, &msg, -1)) == -EINTR)
			;
		side->result->idle_ticks += clock_ticks() - start;
	}
	return lanes_taken(side, ret);
}

static int steered_plain_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = steered_plain_begin,
		.send = steered_plain_send,
		.take = steered_take,
		.done = lanes_done,
	};

	if (side->c->pattern == PATTERN_FANIN)
		return steered_fanin_plain_run(side);
	return loop_run(side, ops);
}

static int steered_open(struct bench_side *side)
{
	if (side->c->pattern == PATTERN_FANIN)
		return steered_fanin_open(side, true);
	return lanes_open(side, SLUICE_LANE_STEERED);
}

static int steered_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = lanes_begin,
		.send = queued_send,
		.take = steered_take,
		.done = lanes_done,
	};
	int ret;

	if (side->c->pattern == PATTERN_FANIN)
		return steered_fanin_aware_run(side);
	ret = loop_run(side, ops);
	while (!ret && (ret = sluice_flush(conn)) == -EAGAIN)
		ret = room(side);
	return ret;
}

static int steered_single_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = lanes_begin,
		.send = direct_send,
		.take = steered_take,
		.done = lanes_done,
	};

	return loop_run(side, ops);
}

const struct bench_system bench_steered_plain = {
	.name = "steered-plain",
	.what = "sluice, steered lane: a plain send, payload lands in the "
		"receiver's pool; fan-in: up to 64 conns for a wait, 16 messages "
		"of each",
	.patterns = BENCH_HAS_TWO | BENCH_HAS(PATTERN_FANIN),
	.idle = true,
	.sluiced = true,
	.prepare = steered_plain_prepare,
	.open = steered_plain_open,
	.run = steered_plain_run,
	.close = steered_close,
};

const struct bench_system bench_steered = {
	.name = "steered",
	.what = "sluice, steered lane: both sides aware, no copy; a stream sends "
		"32 at once; fan-in: receives as steered-plain",
	.patterns = BENCH_HAS_TWO | BENCH_HAS(PATTERN_FANIN),
	.idle = true,
	.frames = true,
	.sluiced = true,
	.prepare = steered_prepare,
	.open = steered_open,
	.run = steered_run,
	.close = steered_close,
};

const struct bench_system bench_steered_single = {
	.name = "steered-single",
	.what = "as steered, but each message in a frame of its own",
	.patterns = BENCH_HAS(PATTERN_STREAM),
	.idle = true,
	.frames = true,
	.sluiced = true,
	.prepare = steered_prepare,
	.open = steered_open,
	.run = steered_single_run,
	.close = steered_close,
};
