/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The wrap of every 32-bit counter: positions of both rings and rx_head (by
 * options.first_position), and the numbers of sleeps (set where the library
 * keeps them, before the negotiation: the protocol allows any).
 */
#include <poll.h>
#include <string.h>

#include "ends.h"
#include "internal.h"

#define MESSAGES 6000

/* The last number before the wrap, awake. */
#define LAST_SLEEP (0u - SLUICE_STATE_SLEEP + SLUICE_STATE_MAY_SLEEP)

static const struct start {
	const char *name;
	uint32_t first[2]; /* of this side, and of the child's */
	uint32_t ring_slots;
	uint32_t hold_limit;
} starts[] = {
	{ "last", { 0xffffffff, 0xffffffff }, 16, 16 },
	{ "last-here", { 0xffffffff, 0 }, 16, 256 },
	{ "last-there", { 5, 0xffffffff }, 256, 16 },
	{ "ring-before", { 0u - 16, 0u - 16 }, 16, 16 },
	{ "two-rings-before", { 0u - 32, 0u - 32 }, 16, 32 },
	{ "apart", { 0u - 17, 0u - 15 }, 16, 16 },
	{ "odd", { 0u - 101, 0u - 333 }, 32, 64 },
	{ "within-thousand", { 0u - 1000, 0u - 999 }, 16, 16 },
	{ "sign", { 0x7fffffff, 0x80000000 - 16 }, 16, 16 },
	{ "large-ring", { 0u - 700, 0xffffffff }, 1024, 1024 },
};

static struct sluice_options start_options(const struct start *start, int side)
{
	return ENDS_OPTIONS(.ring_slots = start->ring_slots,
			    .hold_limit = start->hold_limit,
			    .first_position = start->first[side], .no_spin = 1);
}

static void set_sleep_number(struct sleep_word *word, uint32_t value)
{
	word->value = value;
	__atomic_store_n(word->shared, value, __ATOMIC_RELAXED);
}

/* Changes the lane now and then, and makes the other side sleep. */
static void disturb(struct sluice_conn *conn, void *arg)
{
	static const uint32_t lanes[] = { SLUICE_LANE_QUEUED,
					  SLUICE_LANE_DIRECT,
					  SLUICE_LANE_DIRECT };
	uint64_t *switches = arg;
	int r;

	if (tap_random_below(200) == 0)
		tap_sleep(200000);
	if (tap_random_below(50))
		return;
	r = sluice_conn_set_lane(conn, lanes[tap_random_below(3)]);
	if (r != -EAGAIN)
		CHECK_OK(r);
	*switches += !r;
}

static void side(struct sluice_conn *conn, const struct start *start, int me)
{
	struct stream tx = { .key = 10 + me, .max_len = 5000 };
	struct stream rx = { .key = 11 - me, .max_len = 5000 };
	struct conn_core *core = core_of(conn);
	struct holds holds = { .limit = 10 };
	struct sluice_conn_info info;
	uint64_t switches = 0;

	/* The third sleep is number 0 again. */
	set_sleep_number(&core->rx_word, LAST_SLEEP - 2 * SLUICE_STATE_SLEEP);
	set_sleep_number(&core->tx_word, LAST_SLEEP - 2 * SLUICE_STATE_SLEEP);
	streams_run(conn, &tx, MESSAGES, &rx, MESSAGES, &holds, disturb,
		    &switches);
	sluice_conn_shutdown(conn);
	ends_expect_eof(conn);
	sluice_conn_info(conn, &info);
	CHECK_GT(switches, 10);
	if (start->ring_slots == 16) {
		/* So small a ring that both sides wait for room all the time. */
		CHECK_GT(info.sleeps, 3);
		CHECK_LT(core->rx_word.value, LAST_SLEEP / 2);
		CHECK_LT(core->tx_word.value, LAST_SLEEP / 2);
	}
	if (start->first[me] < 0x80000000)
		return;
	/* Over the wrap: the slots, what was released here, what was there. */
	CHECK_LT(conn->tx_position, 0x80000000);
	CHECK_LT(conn->release_position, 0x80000000);
	CHECK_LT(core->link->rx_head, 0x80000000);
}

static void side_child(struct sluice_conn *conn, void *start)
{
	side(conn, start, 1);
}

TAP_EACH(traffic, start, starts)
{
	struct sluice_options mine = start_options(start, 0);
	struct sluice_options childs = start_options(start, 1);
	struct sluice_conn *conn;
	pid_t child;

	child = ends_fork(&conn, &mine, &childs, side_child, (void *)start);
	side(conn, start, 0);
	tap_join(child);
	sluice_conn_close(conn);
}

/* Fills an empty ring of 16 to the brim and empties it. */
static void fill_and_empty(struct sluice_conn *from, struct sluice_conn *to,
			   struct stream *stream)
{
	struct stream rx = { .key = stream->key,
			     .max_len = stream->max_len,
			     .next = stream->next };
	struct sluice_msg msg;
	int i;

	CHECK_EQ(sluice_recv(to, &msg), -EAGAIN);
	for (i = 0; i < 16; i++)
		CHECK_OK(stream_send(from, stream, 0));
	CHECK_EQ(stream_send(from, stream, 0), -EAGAIN);
	for (i = 0; i < 16; i++)
		CHECK_EQ(stream_recv(to, &rx, NULL), 1);
	CHECK_EQ(sluice_recv(to, &msg), -EAGAIN);
}

/* One message of 16 parts, all of the ring. */
static void send_parts(struct sluice_conn *from, struct sluice_conn *to)
{
	struct sluice_part parts[16];
	uint8_t data[16];
	uint64_t tag;
	size_t len;
	int i;

	for (i = 0; i < 16; i++) {
		CHECK_OK(sluice_loan(from, 1, &parts[i].buf));
		parts[i].offset = 0;
		parts[i].len = 1;
		*(uint8_t *)parts[i].buf->data = (uint8_t)i;
	}
	CHECK_OK(sluice_send_parts(from, parts, 16, 99, 0));
	CHECK_EQ(sluice_recv_copy(to, data, sizeof(data), &len, &tag), 1);
	CHECK_EQ(len, 16);
	CHECK_EQ(tag, 99);
	for (i = 0; i < 16; i++)
		CHECK_EQ(data[i], i);
}

static void switch_lane(struct sluice_conn *from, struct sluice_conn *to,
			uint32_t lane)
{
	struct sluice_conn_info info;
	struct sluice_msg msg;

	CHECK_OK(sluice_conn_set_lane(from, lane));
	CHECK_OK(sluice_send(from, &lane, sizeof(lane), 0, 0));
	CHECK_EQ(sluice_recv_wait(to, &msg, 0), 1);
	CHECK_MEM(sluice_msg_data(&msg), &lane, sizeof(lane));
	sluice_conn_info(to, &info);
	CHECK_EQ(info.rx_lane, lane);
}

/* All starts up to the fourth lap before the wrap, step by step. */
TAP_TEST(every_start)
{
	struct stream stream = { .key = 7, .max_len = 300 };
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	uint32_t before;
	int i;

	for (before = 0; before <= 66; before++) {
		struct sluice_options a =
			ENDS_OPTIONS(.ring_slots = 16, .hold_limit = 16,
				     .first_position = 1 - before);
		struct sluice_options b = a;

		b.first_position = 0;
		ends_pair(conn, &a, &b);
		/* Empty so far, in both directions. */
		CHECK_EQ(sluice_recv(conn[0], &msg), -EAGAIN);
		CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
		fill_and_empty(conn[0], conn[1], &stream);
		fill_and_empty(conn[1], conn[0], &stream);
		send_parts(conn[0], conn[1]);
		switch_lane(conn[0], conn[1], SLUICE_LANE_QUEUED);
		switch_lane(conn[0], conn[1], SLUICE_LANE_DIRECT);
		fill_and_empty(conn[0], conn[1], &stream);
		for (i = 0; i < 5; i++)
			CHECK_OK(stream_send(conn[0], &stream, 0));
		/* BYE names a position, and all before it is delivered. */
		sluice_conn_shutdown(conn[0]);
		for (i = 0; i < 5; i++)
			CHECK_EQ(sluice_recv_wait(conn[1], &msg, 0), 1);
		ends_expect_eof(conn[1]);
		ends_close(conn);
	}
}

static bool rung(struct sluice_conn *conn)
{
	struct pollfd p = { .fd = sluice_conn_fd(conn), .events = POLLIN };

	return CHECK_SYS(poll(&p, 1, 0)) == 1;
}

/* Each sleep is rung for once, also those around number 0. */
TAP_TEST(sleep_numbers)
{
	struct sluice_options options = ENDS_OPTIONS(.ring_slots = 16);
	struct sluice_conn_info info;
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	uint64_t bells;
	short events;
	int i, n;

	ends_pair(conn, &options, NULL);
	set_sleep_number(&core_of(conn[1])->rx_word,
			 LAST_SLEEP - 2 * SLUICE_STATE_SLEEP);
	sluice_conn_info(conn[0], &info);
	bells = info.doorbells_sent;
	for (i = 1; i <= 6; i++) {
		CHECK_EQ(sluice_arm(conn[1], SLUICE_RECV, &events), 0);
		CHECK(!rung(conn[1]));
		for (n = 0; n < 2; n++)
			CHECK_OK(sluice_send(conn[0], &i, sizeof(i), 0, 0));
		CHECK(rung(conn[1]));
		sluice_conn_info(conn[0], &info);
		CHECK_EQ(info.doorbells_sent, bells + i);
		for (n = 0; n < 2; n++)
			CHECK_EQ(sluice_recv(conn[1], &msg), 1);
		CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
	}
	CHECK_EQ(core_of(conn[1])->rx_word.value / SLUICE_STATE_SLEEP, 3);

	/* The same for a producer that waits for room. */
	set_sleep_number(&core_of(conn[0])->tx_word,
			 LAST_SLEEP - 2 * SLUICE_STATE_SLEEP);
	sluice_conn_info(conn[1], &info);
	bells = info.doorbells_sent;
	for (i = 1; i <= 6; i++) {
		while ((n = sluice_send(conn[0], &i, sizeof(i), 0, 0)) == 0)
			;
		CHECK_EQ(n, -EAGAIN);
		CHECK_EQ(sluice_arm(conn[0], SLUICE_SEND, &events), 0);
		CHECK(!rung(conn[0]));
		for (n = 0; n < 8; n++)
			CHECK_EQ(sluice_recv(conn[1], &msg), 1);
		CHECK(rung(conn[0]));
		sluice_conn_info(conn[1], &info);
		CHECK_EQ(info.doorbells_sent, bells + i);
		CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, 0), SLUICE_SEND);
	}
	CHECK_EQ(core_of(conn[0])->tx_word.value / SLUICE_STATE_SLEEP, 3);
	ends_close(conn);
}
