/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Which lane a direction is in and why, changes of it at any moment, and
 * segments that come and go meanwhile.
 */
#include <string.h>
#include <sys/socket.h>

#include "ends.h"

static void expect_lanes(struct sluice_conn *conn, uint32_t tx_lane,
			 uint32_t tx_reason, uint32_t rx_lane,
			 uint32_t rx_reason)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	CHECK_EQ(info.tx_lane, tx_lane);
	CHECK_EQ(info.tx_reason, tx_reason);
	CHECK_EQ(info.rx_lane, rx_lane);
	CHECK_EQ(info.rx_reason, rx_reason);
}

/* One message, in the lane that both sides say it takes. */
static void expect_message(struct sluice_conn *from, struct sluice_conn *to,
			   uint64_t tag)
{
	struct sluice_msg msg;

	CHECK_OK(sluice_send(from, &tag, sizeof(tag), tag, 0));
	CHECK_EQ(sluice_recv_wait(to, &msg, 0), 1);
	CHECK_EQ(msg.tag, tag);
	CHECK_MEM(sluice_msg_data(&msg), &tag, sizeof(tag));
}

TAP_TEST(reasons_at_the_start)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = SLUICE_F_AWARE);
	struct sluice_conn *a, *b;
	int fds[2];

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
	CHECK_OK(sluice_conn_from_fd(&a, fds[0], &options));
	expect_lanes(a, SLUICE_LANE_PLAIN, SLUICE_REASON_UNDECIDED,
		     SLUICE_LANE_PLAIN, SLUICE_REASON_UNDECIDED);
	CHECK_EQ(sluice_conn_set_lane(a, SLUICE_LANE_DIRECT), -EOPNOTSUPP);
	CHECK_EQ(sluice_conn_set_lane(a, SLUICE_LANE_QUEUED), -EAGAIN);
	CHECK_EQ(sluice_wait(a, SLUICE_SEND, 1000000), -ETIMEDOUT);
	CHECK_OK(sluice_conn_from_fd(&b, fds[1], &options));
	CHECK_EQ(sluice_wait(a, SLUICE_SEND, 0), SLUICE_SEND);
	/* The first half: a has not read b's SWITCH. */
	CHECK_EQ(sluice_wait(b, SLUICE_RECV, 0), -ETIMEDOUT);
	expect_lanes(a, SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		     SLUICE_LANE_QUEUED, SLUICE_REASON_STARTING);
	expect_lanes(b, SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		     SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	CHECK_EQ(sluice_wait(a, SLUICE_RECV, 0), -ETIMEDOUT);
	expect_lanes(a, SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		     SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	sluice_conn_close(a);
	sluice_conn_close(b);
}

TAP_TEST(reasons_when_chosen)
{
	struct sluice_conn *conn[2];

	ends_pair(conn, NULL, NULL);
	CHECK_OK(sluice_conn_set_lane(conn[0], SLUICE_LANE_DIRECT));
	expect_message(conn[0], conn[1], 1);
	CHECK_OK(sluice_conn_set_lane(conn[0], SLUICE_LANE_QUEUED));
	expect_message(conn[0], conn[1], 2);
	expect_message(conn[1], conn[0], 3);
	expect_lanes(conn[0], SLUICE_LANE_QUEUED, SLUICE_REASON_CHOSEN,
		     SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	expect_lanes(conn[1], SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		     SLUICE_LANE_QUEUED, SLUICE_REASON_CHOSEN);
	CHECK_OK(sluice_conn_set_lane(conn[0], SLUICE_LANE_QUEUED));
	CHECK_OK(sluice_conn_set_lane(conn[0], SLUICE_LANE_DIRECT));
	expect_message(conn[0], conn[1], 4);
	expect_lanes(conn[0], SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		     SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	CHECK_EQ(sluice_conn_set_lane(conn[0], SLUICE_LANE_PLAIN), -EINVAL);
	CHECK_EQ(sluice_conn_set_lane(conn[0], SLUICE_LANE_STEERED), -EINVAL);
	CHECK_EQ(sluice_conn_set_lane(conn[0], 99), -EINVAL);
	CHECK_OK(sluice_conn_shutdown(conn[0]));
	CHECK_EQ(sluice_conn_set_lane(conn[0], SLUICE_LANE_QUEUED), -EPIPE);
	ends_close(conn);
}

static const struct links {
	const char *name;
	uint32_t flags[2];
	uint32_t reasons[2];
} links[] = {
	{ "neither",
	  { SLUICE_F_NO_DIRECT, SLUICE_F_NO_DIRECT },
	  { SLUICE_REASON_NO_LINK, SLUICE_REASON_NO_LINK } },
	{ "one",
	  { SLUICE_F_NO_DIRECT, 0 },
	  { SLUICE_REASON_NO_LINK, SLUICE_REASON_PEER_NO_LINK } },
};

TAP_EACH(without_link, row, links)
{
	struct sluice_options a = ENDS_OPTIONS(.flags = row->flags[0]);
	struct sluice_options b = ENDS_OPTIONS(.flags = row->flags[1]);
	struct sluice_conn *conn[2];
	int i;

	ends_pair(conn, &a, &b);
	for (i = 0; i < 2; i++) {
		CHECK_EQ(sluice_conn_set_lane(conn[i], SLUICE_LANE_DIRECT),
			 -EOPNOTSUPP);
		CHECK_OK(sluice_conn_set_lane(conn[i], SLUICE_LANE_QUEUED));
		expect_message(conn[i], conn[!i], (uint64_t)i);
		expect_lanes(conn[i], SLUICE_LANE_QUEUED, row->reasons[i],
			     SLUICE_LANE_QUEUED, row->reasons[i]);
	}
	ends_close(conn);
}

TAP_TEST(to_queued_with_a_full_ring)
{
	struct sluice_options options = ENDS_OPTIONS(.ring_slots = 16);
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	uint64_t sent = 0, received = 0;

	ends_pair(conn, &options, NULL);
	while (!sluice_send(conn[0], NULL, 0, sent, 0))
		sent++;
	CHECK_EQ(sent, 16);
	CHECK_EQ(sluice_conn_set_lane(conn[0], SLUICE_LANE_QUEUED), -EAGAIN);
	expect_lanes(conn[0], SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		     SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, 1000000), -ETIMEDOUT);
	while (sluice_recv(conn[1], &msg) == 1)
		CHECK_EQ(msg.tag, received++);
	CHECK_EQ(received, 16);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, 0), SLUICE_SEND);
	CHECK_OK(sluice_conn_set_lane(conn[0], SLUICE_LANE_QUEUED));
	expect_message(conn[0], conn[1], 16);
	expect_lanes(conn[0], SLUICE_LANE_QUEUED, SLUICE_REASON_CHOSEN,
		     SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	ends_close(conn);
}

TAP_TEST(to_direct_with_a_full_socket)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	uint64_t sent = 0, received = 0;

	ends_pair(conn, NULL, NULL);
	CHECK_OK(sluice_conn_set_lane(conn[0], SLUICE_LANE_QUEUED));
	while (!sluice_send(conn[0], NULL, 0, sent, 0))
		sent++;
	CHECK_EQ(sluice_conn_set_lane(conn[0], SLUICE_LANE_DIRECT), -EAGAIN);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, 1000000), -ETIMEDOUT);
	while (sluice_recv(conn[1], &msg) == 1)
		CHECK_EQ(msg.tag, received++);
	CHECK_EQ(received, sent);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, 0), SLUICE_SEND);
	CHECK_OK(sluice_conn_set_lane(conn[0], SLUICE_LANE_DIRECT));
	expect_message(conn[0], conn[1], sent);
	expect_lanes(conn[0], SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		     SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	ends_close(conn);
}

/* Many phases, all of them sent before the receiver looks at any. */
TAP_TEST(phases_read_ahead)
{
	struct stream tx = { .key = 1, .max_len = 500 };
	struct stream rx = { .key = 1, .max_len = 500 };
	struct sluice_conn *conn[2];
	short events;
	int i, n;

	ends_pair(conn, NULL, NULL);
	for (i = 0; i < 40; i++) {
		CHECK_OK(sluice_conn_set_lane(conn[0],
					      i % 2 ? SLUICE_LANE_DIRECT :
						      SLUICE_LANE_QUEUED));
		for (n = i % 5; n > 0; n--)
			CHECK_OK(stream_send(conn[0], &tx, 0));
		if (i % 7 == 0) /* reads the socket, but receives nothing */
			CHECK_EQ(sluice_arm(conn[1], SLUICE_RECV, &events) &
					 ~(int)SLUICE_RECV,
				 0);
	}
	sluice_conn_shutdown(conn[0]);
	while (rx.next < tx.next)
		CHECK_EQ(stream_recv(conn[1], &rx, NULL), 1);
	ends_expect_eof(conn[1]);
	ends_close(conn);
}

/* Under load --------------------------------------------------------------- */

#define MESSAGES 4000

static const struct load {
	const char *name;
	struct sluice_options options;
	uint32_t max_len;
	bool trim;
} loads[] = {
	{ "sleep", { .no_spin = 1 }, 1 << 20, false },
	{ "spin", { 0 }, 1 << 20, true },
	{ "tiny-ring", { .ring_slots = 16, .hold_limit = 32 }, 40000, true },
	{ "tiny-ring-sleep", { .ring_slots = 16, .no_spin = 1 }, 5000, true },
	{ "no-link", { .flags = SLUICE_F_NO_DIRECT }, 1 << 20, true },
	{ "no-link-sleep",
	  { .flags = SLUICE_F_NO_DIRECT, .no_spin = 1 },
	  40000,
	  true },
};

struct count {
	const struct load *load;
	unsigned int switches, trims, segments;
};

static void disturb(struct sluice_conn *conn, void *arg)
{
	struct sluice_pool *pool = sluice_conn_pool(conn);
	struct sluice_pool_info info;
	struct count *count = arg;
	uint32_t lane;
	int r;

	if (count->load->trim && tap_random_below(40) == 0)
		count->trims += CHECK_OK(sluice_pool_trim(pool)) > 0;
	if (tap_random_below(20))
		return;
	sluice_pool_info(pool, &info);
	if (info.segments > count->segments)
		count->segments = info.segments;
	if (count->load->options.flags & SLUICE_F_NO_DIRECT)
		return;
	lane = tap_random() & 1 ? SLUICE_LANE_DIRECT : SLUICE_LANE_QUEUED;
	r = sluice_conn_set_lane(conn, lane);
	if (r != -EAGAIN)
		CHECK_OK(r);
	count->switches += !r;
}

static void load_side(struct sluice_conn *conn, const struct load *load,
		      int side)
{
	struct stream tx = { .key = 20 + side, .max_len = load->max_len };
	struct stream rx = { .key = 21 - side, .max_len = load->max_len };
	struct holds holds = { .limit = side ? 0 : 20 };
	struct count count = { .load = load };
	struct sluice_conn_info info;

	streams_run(conn, &tx, MESSAGES, &rx, MESSAGES, &holds, disturb,
		    &count);
	CHECK_GT(count.segments, 4);
	if (!(load->options.flags & SLUICE_F_NO_DIRECT))
		CHECK_GT(count.switches, 100);
	if (load->trim)
		CHECK_GT(count.trims, 10);
	sluice_conn_shutdown(conn);
	ends_expect_eof(conn);
	sluice_conn_info(conn, &info);
	CHECK_EQ(info.held_buffers, 0);
}

static void load_child(struct sluice_conn *conn, void *load)
{
	load_side(conn, load, 1);
}

TAP_EACH(under_load, load, loads)
{
	struct sluice_options options = load->options;
	struct sluice_pool_info info;
	struct sluice_conn *conn;
	pid_t child;

	options.size = sizeof(options);
	child = ends_fork(&conn, &options, &options, load_child, (void *)load);
	load_side(conn, load, 0);
	tap_join(child);
	/* A look at the socket: the peer is gone, and what it had is back. */
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), SLUICE_RECV);
	sluice_pool_trim(sluice_conn_pool(conn));
	sluice_pool_info(sluice_conn_pool(conn), &info);
	CHECK_EQ(info.buffers_used, 0);
	CHECK_EQ(info.bytes, 0);
	sluice_conn_close(conn);
}

/* Retired segments ---------------------------------------------------------- */

static const struct lane {
	const char *name;
	uint32_t flags;
} lanes[] = { { "direct", 0 }, { "queued", SLUICE_F_NO_DIRECT } };

/* Reads the socket, and sends what that brings about. */
static void look_twice(struct sluice_conn *conn)
{
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
}

TAP_EACH(segments_come_and_go, lane, lanes)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = lane->flags);
	struct sluice_conn_info info;
	struct sluice_pool_info pool_info;
	struct sluice_segment_info segment;
	struct sluice_conn *conn[2];
	struct sluice_pool *pool;
	struct sluice_buf *buf;
	struct sluice_msg msg;
	int i, mappings = 0, fds = 0;

	ends_pair(conn, &options, NULL);
	pool = sluice_conn_pool(conn[0]);
	CHECK_EQ(sluice_pool_trim(pool), 0);
	for (i = 0; i < 200; i++) {
		CHECK_OK(sluice_loan(conn[0], 5000, &buf));
		CHECK_EQ(buf->segment, 0);
		CHECK_EQ(sluice_pool_trim(pool), 0);
		content_fill(buf->data, 5000, (uint64_t)i, 0);
		CHECK_OK(sluice_send_buf(conn[0], buf, 5000, 0, 0));
		CHECK_EQ(sluice_recv_wait(conn[1], &msg, 0), 1);
		/* Held at the peer: it stays. */
		CHECK_EQ(sluice_pool_trim(pool), 0);
		CHECK(content_matches(sluice_msg_data(&msg), 5000, (uint64_t)i,
				      0));
		sluice_conn_info(conn[1], &info);
		CHECK_GE(info.mapped_bytes, 5000);
		CHECK_OK(sluice_release(conn[1], &msg));
		/* By frame it goes when the receiver has nothing to do. */
		look_twice(conn[1]);
		look_twice(conn[0]);
		sluice_pool_info(pool, &pool_info);
		CHECK_EQ(sluice_pool_trim(pool), (long long)pool_info.bytes);
		CHECK_EQ(sluice_pool_trim(pool), 0);
		/* Not gone before the peer says so. */
		CHECK_OK(sluice_pool_segment(pool, 0, &segment));
		look_twice(conn[1]);
		sluice_conn_info(conn[1], &info);
		CHECK_EQ(info.mapped_bytes, 0);
		look_twice(conn[0]);
		CHECK_EQ(sluice_pool_segment(pool, 0, &segment), -ENOENT);
		if (i == 0) {
			mappings = tap_mappings();
			fds = tap_open_fds();
		}
	}
	CHECK_EQ(tap_mappings(), mappings);
	CHECK_EQ(tap_open_fds(), fds);
	ends_close(conn);
}
