/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the systems of libsluice with one connection share. Up to 32 bytes go
 * inline; more is written in place into a loaned buffer, and read in place.
 * Static on purpose: each of them compiles its loops for itself.
 */
#ifndef BENCH_LANES_H
#define BENCH_LANES_H

#include "loop.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include <sluice/sluice.h>

/* Time for the handshake of two processes on one machine. */
#define START_NS 5000000000ll

/* Messages per frame, when a stream fills the queued lane. */
#define QUEUED_BATCH 32

static struct sluice_conn *conn;
static struct sluice_buf *loan;
static struct sluice_msg msg;
static uint64_t small[SLUICE_INLINE_MAX / 8];
static uint32_t queued_count;

static inline int lanes_prepare(const struct bench_case *c,
				struct bench_channel *channel,
				char reason[BENCH_TEXT])
{
	int fds[2], i;

	(void)c;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
		i = -errno;
		snprintf(reason, BENCH_TEXT, "socketpair: %s", strerror(errno));
		return i;
	}
	for (i = 0; i < 2; i++)
		channel->in[i] = channel->out[i] = fds[i];
	return 0;
}

static inline int lanes_failed(struct bench_side *side, const char *what,
			       int error)
{
	struct sluice_conn_info info = { .error_text = "" };

	if (conn)
		sluice_conn_info(conn, &info);
	return side_fail(side, "%s: %s%s%s", what,
			 error ? strerror(-error) : "end of stream",
			 *info.error_text ? ": " : "", info.error_text);
}

/* The lane must be the one that is to be measured, or nothing is. */
static inline int lane_check(struct bench_side *side, uint32_t lane, bool rx)
{
	struct sluice_conn_info info;
	uint32_t is, reason;

	sluice_conn_info(conn, &info);
	is = rx ? info.rx_lane : info.tx_lane;
	reason = rx ? info.rx_reason : info.tx_reason;
	if (is == lane)
		return 0;
	return side_fail(side, "%s lane is %s, not %s: %s",
			 rx ? "receiving" : "sending", sluice_lane_name(is),
			 sluice_lane_name(lane), sluice_reason_text(reason));
}

static inline int lanes_open(struct bench_side *side, uint32_t lane)
{
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = SLUICE_F_AWARE,
		.spin_ns = side->block ? 0 : SLUICE_SPIN_FOREVER,
		.no_spin = side->block,
	};
	const uint64_t end = clock_ns(CLOCK_MONOTONIC) + START_NS;
	struct sluice_conn_info info;
	int ret;

	if (lane == SLUICE_LANE_QUEUED)
		options.flags |= SLUICE_F_NO_DIRECT;
	if (lane == SLUICE_LANE_STEERED)
		options.flags |= SLUICE_F_STEER;
	ret = sluice_conn_from_fd(&conn, side->channel->out[side->index],
				  &options);
	if (ret)
		return lanes_failed(side, "sluice_conn_from_fd", ret);
	do {
		ret = sluice_recv(conn, &msg);
		if (ret != -EAGAIN)
			return lanes_failed(side, "handshake", ret);
		if (clock_ns(CLOCK_MONOTONIC) > end)
			return lanes_failed(side, "handshake", -ETIMEDOUT);
		sched_yield();
		sluice_conn_info(conn, &info);
	} while (info.tx_reason == SLUICE_REASON_UNDECIDED ||
		 info.tx_reason == SLUICE_REASON_STARTING);
	return lane == SLUICE_LANE_STEERED ? lane_check(side, lane, true) :
					     lane_check(side, lane, false);
}

static inline int lanes_close(struct bench_side *side, uint32_t lane)
{
	const bool stream = side->c->pattern == PATTERN_STREAM;
	struct sluice_conn_info info;

	if (!(stream && side->index) && lane_check(side, lane, false))
		return -1;
	if (!(stream && !side->index) && lane_check(side, lane, true))
		return -1;
	sluice_conn_info(conn, &info);
	side->result->frames = info.frames_sent + info.frames_received;
	sluice_conn_close(conn);
	return 0;
}

/* After -EAGAIN: until there is room. */
static inline int room(struct bench_side *side)
{
	const uint64_t start = clock_ticks();
	int ret = sluice_wait(conn, SLUICE_SEND, -1);

	side->result->idle_ticks += clock_ticks() - start;
	return ret < 0 && ret != -EINTR ?
		       lanes_failed(side, "sluice_wait", ret) :
		       0;
}

LOOP void *lanes_begin(struct bench_side *side)
{
	int ret;

	if (side->size <= SLUICE_INLINE_MAX)
		return small;
	while ((ret = sluice_loan(conn, side->size, &loan)) == -EAGAIN) {
		if (room(side))
			return NULL;
	}
	if (!ret)
		return loan->data;
	lanes_failed(side, "sluice_loan", ret);
	return NULL;
}

LOOP int lanes_send(struct bench_side *side, uint32_t flags)
{
	const uint32_t size = (uint32_t)side->size;
	int ret;

	for (;;) {
		ret = size <= SLUICE_INLINE_MAX ?
			      sluice_send(conn, small, size, 0, flags) :
			      sluice_send_buf(conn, loan, size, 0, flags);
		if (__builtin_expect(!ret, 1))
			return 0;
		if (ret != -EAGAIN)
			return lanes_failed(side, "sending", ret);
		if (room(side))
			return -1;
	}
}

LOOP int direct_send(struct bench_side *side)
{
	return lanes_send(side, 0);
}

/* A stream has more to send at once, and says so. */
LOOP int queued_send(struct bench_side *side)
{
	const bool more = side->c->pattern == PATTERN_STREAM &&
			  ++queued_count % QUEUED_BATCH;

	return lanes_send(side, more ? SLUICE_SEND_F_BATCH : 0);
}

/* What a receive of msg returned: its payload, or why the run fails. */
LOOP const void *lanes_taken(struct bench_side *side, int ret)
{
	if (__builtin_expect(ret == 1 && msg.len == side->size, 1))
		return sluice_msg_data(&msg);
	if (ret == 1)
		side_fail(side, "%u bytes came, not %zu", msg.len, side->size);
	else
		lanes_failed(side, "receiving", ret);
	return NULL;
}

LOOP const void *lanes_take(struct bench_side *side)
{
	int ret;

	while ((ret = sluice_recv_wait(conn, &msg, -1)) == -EINTR)
		;
	return lanes_taken(side, ret);
}

LOOP int lanes_done(struct bench_side *side)
{
	int ret = sluice_release(conn, &msg);

	return ret ? lanes_failed(side, "sluice_release", ret) : 0;
}

#endif
