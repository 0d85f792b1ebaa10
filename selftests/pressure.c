/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Backpressure: whatever a sender lacks, it is told so, nothing is lost, and
 * sluice_wait(SLUICE_SEND) returns when it is there.
 */
#include <string.h>
#include <unistd.h>

#include "ends.h"

/* What is lacking, and messages that make it so. */
static const struct lack {
	const char *name;
	uint32_t flags;
	uint32_t ring_slots;
	uint32_t hold_limit;
	uint64_t pool_limit;
	uint32_t len;
	unsigned int count; /* that are sent before it lacks; 0: some */
	bool chosen; /* queued lane by sluice_conn_set_lane() */
} lacks[] = {
	{ "ring", 0, 16, 0, 0, 8, 16, false },
	{ "ids", 0, 64, 16, 0, 500, 16, false },
	{ "ids-queued", SLUICE_F_NO_DIRECT, 0, 16, 0, 500, 16, false },
	{ "ids-chosen", 0, 16, 16, 0, 500, 16, true },
	{ "pool", 0, 0, 0, 65536, 4096, 16, false },
	{ "pool-one", 0, 0, 0, 65536, 65536, 1, false },
	{ "pool-queued", SLUICE_F_NO_DIRECT, 0, 0, 65536, 4096, 16, false },
	{ "pool-chosen", 0, 0, 0, 65536, 4096, 16, true },
	{ "window", 0, 0, 0, 0, 1 << 20, 0, false },
	{ "window-queued", SLUICE_F_NO_DIRECT, 0, 0, 0, 1 << 20, 0, false },
	{ "window-chosen", 0, 0, 0, 0, 1 << 20, 0, true },
	{ "socket", SLUICE_F_NO_DIRECT, 0, 0, 0, 8, 0, false },
	{ "socket-chosen", 0, 0, 0, 0, 32, 0, true },
};

static const struct spin {
	uint32_t no_spin;
	uint64_t spin_ns;
} spins[] = { { 1, 0 }, { 0, 0 }, { 0, SLUICE_SPIN_FOREVER } };

#define ROUNDS 20

static int try_send(struct sluice_conn *conn, const struct lack *lack,
		    uint64_t index)
{
	struct sluice_buf *buf;
	int r;

	if (lack->len <= 32)
		return sluice_send(conn, &index, sizeof(index), index, 0);
	r = sluice_loan(conn, lack->len, &buf);
	if (r)
		return r;
	content_fill(buf->data, lack->len, index, 0);
	r = sluice_send_buf(conn, buf, lack->len, index, 0);
	if (r)
		sluice_buf_unref(buf);
	return r;
}

static void check_message(const struct sluice_msg *msg, const struct lack *lack,
			  uint64_t index)
{
	CHECK_EQ(msg->tag, index);
	if (lack->len <= 32) {
		CHECK_EQ(msg->len, sizeof(index));
		CHECK_MEM(sluice_msg_data(msg), &index, sizeof(index));
		return;
	}
	CHECK_EQ(msg->len, lack->len);
	CHECK(content_matches(sluice_msg_data(msg), msg->len, index, 0));
}

static int go[2]; /* a pipe: how many to receive in all */
static int done[2]; /* and back: they are received and released */

static void receive_when_told(struct sluice_conn *conn, void *arg)
{
	const struct lack *lack = arg;
	struct sluice_msg msg;
	uint64_t received = 0, until;

	close(go[1]);
	while (CHECK_SYS(read(go[0], &until, sizeof(until))) > 0) {
		tap_sleep(1000000); /* the sender shall sleep by now */
		for (; received < until; received++) {
			CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
			check_message(&msg, lack, received);
			CHECK_OK(sluice_release(conn, &msg));
		}
		/* What is released by frame goes with the next wait. */
		sluice_wait(conn, SLUICE_RECV, 0);
		CHECK_SYS(write(done[1], &until, sizeof(until)));
	}
	ends_expect_eof(conn);
}

static uint64_t send_until_full(struct sluice_conn *conn,
				const struct lack *lack, uint64_t index)
{
	int r;

	while ((r = try_send(conn, lack, index)) == 0)
		index++;
	CHECK_EQ(r, -EAGAIN);
	CHECK_EQ(try_send(conn, lack, index), -EAGAIN);
	return index;
}

static void until_full_again(const struct lack *lack, const struct spin *spin)
{
	struct sluice_pool_options pool = ENDS_POOL(.limit = lack->pool_limit);
	struct sluice_options options =
		ENDS_OPTIONS(.flags = lack->flags,
			     .ring_slots = lack->ring_slots,
			     .hold_limit = lack->hold_limit,
			     .no_spin = spin->no_spin,
			     .spin_ns = spin->spin_ns);
	struct sluice_options childs = options;
	struct sluice_pool_info info;
	struct sluice_conn *conn;
	uint64_t sent = 0;
	int64_t start;
	pid_t child;
	int i;

	if (lack->pool_limit)
		options.pool_options = &pool;
	childs.spin_ns = 0;
	CHECK_SYS(pipe(go));
	CHECK_SYS(pipe(done));
	child = ends_fork(&conn, &options, &childs, receive_when_told,
			  (void *)lack);
	close(go[0]);
	while (try_send(conn, lack, 0) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1)); /* negotiates */
	sent++;
	if (lack->chosen) /* after one message in the other lane */
		CHECK_OK(sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED));
	for (i = 0; i < ROUNDS; i++) {
		uint64_t before = sent;

		sent = send_until_full(conn, lack, sent);
		if (i == 0 && lack->count && !lack->chosen)
			CHECK_EQ(sent, lack->count);
		if (i == 0)
			CHECK_GE(sent, 1);
		else
			CHECK_GT(sent,
				 before); /* it had not promised too much */
		CHECK_EQ(sluice_wait(conn, SLUICE_SEND, 0), -ETIMEDOUT);
		start = tap_now();
		CHECK_EQ(sluice_wait(conn, SLUICE_SEND, 1500000), -ETIMEDOUT);
		CHECK_GE(tap_now() - start, 1500000);
		CHECK_EQ(sluice_wait(conn, SLUICE_SEND | SLUICE_RECV, 100000),
			 -ETIMEDOUT);
		CHECK_SYS(write(go[1], &sent, sizeof(sent)));
		CHECK_EQ(sluice_wait(conn, SLUICE_SEND,
				     i % 2 ? -1 : 20000000000ll),
			 SLUICE_SEND);
		CHECK_SYS(read(done[0], &before, sizeof(before)));
		CHECK_EQ(before, sent);
	}
	CHECK_SYS(write(go[1], &sent, sizeof(sent)));
	close(go[1]);
	sluice_conn_shutdown(conn);
	tap_join(child);
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), SLUICE_RECV);
	sluice_pool_info(sluice_conn_pool(conn), &info);
	CHECK_EQ(info.buffers_used, 0);
	sluice_conn_close(conn);
	close(done[0]);
	close(done[1]);
}

TAP_EACH(wait_for, lack, lacks)
{
	unsigned int i;

	for (i = 0; i < sizeof(spins) / sizeof(spins[0]); i++)
		until_full_again(lack, &spins[i]);
}

/* Inline messages need no id and no buffer. */
TAP_TEST(inline_passes)
{
	struct sluice_options options =
		ENDS_OPTIONS(.hold_limit = 16, .ring_slots = 64);
	struct sluice_conn *conn[2];
	uint64_t sent;

	ends_pair(conn, &options, NULL);
	sent = send_until_full(conn[0], &lacks[1], 0);
	CHECK_EQ(sent, 16);
	CHECK_OK(sluice_send(conn[0], "x", 1, 0, 0));
	CHECK_EQ(try_send(conn[0], &lacks[1], 0), -EAGAIN);
	ends_close(conn);
}

/* A sender with loans, a receiver that holds all it may. */
TAP_TEST(both_hold)
{
	struct sluice_options options =
		ENDS_OPTIONS(.hold_limit = 16, .ring_slots = 64);
	struct sluice_conn *conn[2];
	struct sluice_buf *loans[16];
	struct sluice_msg held[16], msg;
	int i, lap;

	ends_pair(conn, &options, NULL);
	for (i = 0; i < 16; i++) {
		CHECK_OK(sluice_loan(conn[0], 1000, &loans[i]));
		content_fill(loans[i]->data, 1000, (uint64_t)i, 0);
	}
	for (i = 0; i < 16; i++) {
		CHECK_OK(try_send(conn[0], &lacks[1], (uint64_t)i));
		CHECK_EQ(sluice_recv(conn[1], &held[i]), 1);
	}
	for (lap = 0; lap < 100; lap++) {
		i = (int)tap_random_below(16);
		CHECK_EQ(sluice_send_buf(conn[0], loans[i], 1000, 0, 0),
			 -EAGAIN);
		CHECK_EQ(loans[i]->refs, 1);
		check_message(&held[i], &lacks[1], held[i].tag);
		CHECK_OK(sluice_release(conn[1], &held[i]));
		/* One has come back: one more goes, and no second. */
		CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, 0), SLUICE_SEND);
		CHECK_OK(try_send(conn[0], &lacks[1], 100 + (uint64_t)lap));
		CHECK_EQ(try_send(conn[0], &lacks[1], 0), -EAGAIN);
		CHECK_EQ(sluice_recv(conn[1], &held[i]), 1);
		check_message(&held[i], &lacks[1], 100 + (uint64_t)lap);
	}
	for (i = 0; i < 16; i++) {
		CHECK(content_matches(loans[i]->data, 1000, (uint64_t)i, 0));
		CHECK_OK(sluice_release(conn[1], &held[i]));
		CHECK_OK(sluice_send_buf(conn[0], loans[i], 1000, 0, 0));
		CHECK_EQ(sluice_recv(conn[1], &msg), 1);
		CHECK(content_matches(sluice_msg_data(&msg), 1000, (uint64_t)i,
				      0));
		CHECK_OK(sluice_release(conn[1], &msg));
	}
	ends_close(conn);
}

/* Both send and neither receives ------------------------------------------- */

#define FLOOD 12000

/*
 * In the queued lane, wait(SEND) reads ahead up to a bound, and then says that
 * something must be received first.
 */
static void flood(struct sluice_conn *conn, void *arg)
{
	uint64_t sent = 0, received = 0;
	struct sluice_msg msg;
	int r;

	(void)arg;
	while (sent < FLOOD) {
		r = sluice_send(conn, &sent, sizeof(sent), sent, 0);
		if (r != -EAGAIN) {
			CHECK_OK(r);
			sent++;
			continue;
		}
		r = CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
		if (r & SLUICE_RECV) {
			CHECK_EQ(sluice_recv(conn, &msg), 1);
			CHECK_EQ(msg.tag, received++);
		}
	}
	for (; received < FLOOD; received++) {
		CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
		CHECK_EQ(msg.tag, received);
		CHECK_EQ(msg.len, sizeof(received));
		CHECK_MEM(sluice_msg_data(&msg), &received, sizeof(received));
	}
	sluice_conn_shutdown(conn);
	ends_expect_eof(conn);
}

static void flood_chosen(struct sluice_conn *conn, void *arg)
{
	int r;

	while ((r = sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	CHECK_OK(r);
	flood(conn, arg);
}

static const struct both {
	const char *name;
	struct sluice_options options;
	void (*side)(struct sluice_conn *conn, void *arg);
} boths[] = {
	{ "no-link-sleep",
	  { .flags = SLUICE_F_NO_DIRECT, .no_spin = 1 },
	  flood },
	{ "no-link-spin", { .flags = SLUICE_F_NO_DIRECT }, flood },
	{ "chosen-sleep", { .no_spin = 1 }, flood_chosen },
	{ "chosen-spin", { 0 }, flood_chosen },
};

TAP_EACH(both_send, both, boths)
{
	struct sluice_options options = both->options;
	struct sluice_conn *conn;
	pid_t child;

	options.size = sizeof(options);
	child = ends_fork(&conn, &options, &options, both->side, NULL);
	both->side(conn, NULL);
	tap_join(child);
	sluice_conn_close(conn);
}

/* While the one waits to send, the other floods it: most of it must wait. */
static void flood_until_full(struct sluice_conn *conn, void *arg)
{
	unsigned int sent = 0, idle = 0;
	int r;

	close(go[1]);
	if (!(*(uint32_t *)arg & SLUICE_F_NO_DIRECT)) {
		while (sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED) ==
		       -EAGAIN)
			CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	}
	while (idle < 100) { /* tenths of a second in which nothing moves */
		r = sluice_send(conn, "x", 1, 0, SLUICE_SEND_F_BATCH);
		if (!r) {
			CHECK_LT(++sent, 100000);
			idle = 0;
			continue;
		}
		CHECK_EQ(r, -EAGAIN);
		tap_sleep(1000000);
		idle++;
	}
	CHECK_SYS(write(done[1], &sent, sizeof(sent)));
	CHECK_EQ(read(go[0], &sent, sizeof(sent)), 0);
}

static const struct flag {
	const char *name;
	uint32_t flags;
} flags[] = { { "no-link", SLUICE_F_NO_DIRECT }, { "chosen", 0 } };

TAP_EACH(read_ahead_is_bounded, flag, flags)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = flag->flags,
						     .ring_slots = 16,
						     .no_spin = 1);
	struct sluice_conn *conn;
	unsigned int sent, received = 0;
	struct sluice_msg msg;
	pid_t child;
	int r;

	CHECK_SYS(pipe(go));
	CHECK_SYS(pipe(done));
	child = ends_fork(&conn, &options, &options, flood_until_full,
			  (void *)&flag->flags);
	close(go[0]);
	do {
		r = sluice_send(conn, NULL, 0, 0, 0);
		if (r == -EAGAIN)
			r = sluice_wait(conn, SLUICE_SEND, -1);
		CHECK_OK(r);
	} while (!(r & SLUICE_RECV));
	CHECK_SYS(read(done[0], &sent, sizeof(sent)));
	tap_diag("%u messages went", sent);
	while (sluice_recv(conn, &msg) == 1)
		received++;
	/* All but a batch that is not full yet. */
	CHECK_LE(received, sent);
	CHECK_GE(received + SLUICE_FRAME_SLOTS_MAX, sent);
	close(go[1]);
	sluice_conn_close(conn);
	tap_join(child);
}

/* Who waits in other ways -------------------------------------------------- */

#define POLLED 200

static void receive_by_polling(struct sluice_conn *conn, void *arg)
{
	const struct lack *lack = arg;
	struct sluice_msg msg;
	uint64_t received;

	for (received = 0; received < POLLED; received++) {
		while (sluice_wait(conn, SLUICE_RECV, 0) == -ETIMEDOUT)
			tap_sleep(10000);
		CHECK_EQ(sluice_recv(conn, &msg), 1);
		check_message(&msg, lack, received);
		CHECK_OK(sluice_release(conn, &msg));
	}
	while (sluice_wait(conn, SLUICE_RECV, 0) == -ETIMEDOUT)
		tap_sleep(10000);
	ends_expect_eof(conn);
}

/* A receiver that only ever waits for 0 ns, and receives when told to. */
TAP_EACH(polled, lack, lacks)
{
	struct sluice_pool_options pool = ENDS_POOL(.limit = lack->pool_limit);
	struct sluice_options options =
		ENDS_OPTIONS(.flags = lack->flags,
			     .ring_slots = lack->ring_slots,
			     .hold_limit = lack->hold_limit,
			     .pool_options = &pool);
	struct sluice_conn *conn;
	uint64_t sent = 0;
	pid_t child;

	child = ends_fork(&conn, &options, &options, receive_by_polling,
			  (void *)lack);
	while (sent < POLLED) {
		if (try_send(conn, lack, sent) == -EAGAIN)
			CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
		else if (sent++ == 0 && lack->chosen)
			CHECK_OK(
				sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED));
	}
	sluice_conn_shutdown(conn);
	tap_join(child);
	sluice_conn_close(conn);
}

static void need_buffer_back(struct sluice_conn *conn, void *arg)
{
	struct sluice_msg msg;
	uint64_t told;

	(void)arg;
	while (try_send(conn, &lacks[5], 0) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	CHECK_SYS(read(go[0], &told, sizeof(told)));
	tap_sleep(20000000); /* by now the other side only waits */
	while (sluice_recv(conn, &msg) == 1)
		;
	while (try_send(conn, &lacks[5], 1) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, 20000000000ll));
}

/* What met a full socket is sent by whoever then waits, spinning or not. */
TAP_TEST(due_while_waiting)
{
	struct sluice_pool_options pool = ENDS_POOL(.limit = 65536);
	struct sluice_options childs = ENDS_OPTIONS(.flags = SLUICE_F_NO_DIRECT,
						    .pool_options = &pool,
						    .no_spin = 1);
	struct sluice_conn *conn;
	struct sluice_msg msg;
	uint64_t told = 0;
	unsigned int i;
	pid_t child;

	CHECK_SYS(pipe(go));
	for (i = 0; i < sizeof(spins) / sizeof(spins[0]); i++) {
		struct sluice_options options =
			ENDS_OPTIONS(.flags = SLUICE_F_NO_DIRECT,
				     .no_spin = spins[i].no_spin,
				     .spin_ns = spins[i].spin_ns);

		child = ends_fork(&conn, &options, &childs, need_buffer_back,
				  NULL);
		CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
		while (sluice_send(conn, "x", 1, 0, 0) != -EAGAIN)
			;
		CHECK_OK(sluice_release(conn, &msg)); /* no room for it */
		CHECK_SYS(write(go[1], &told, sizeof(told)));
		CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
		check_message(&msg, &lacks[5], 1);
		tap_join(child);
		sluice_conn_close(conn);
	}
}
