/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A set on a ring of the application's, with a few connections: every argument, what
 * is reported in every lane and on every kind of ring, a full SQ, requests of others
 * on the same ring. Closing is in uring-life.c, crowds in uring-many.c.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "urings.h"

static struct loop loop;

static void add(struct sluice_conn *conn, uint32_t what)
{
	CHECK_OK(sluice_set_add(loop.set, conn, what, conn));
}

static void put(struct sluice_conn *conn)
{
	CHECK_OK(sluice_send(conn, "x", 1, 0, 0));
}

/* Options ----------------------------------------------------------------- */

static const struct refusal {
	const char *name;
	struct sluice_uring_options options;
	uint32_t setup, features;
	int result;
} refusals[] = {
#define FEATURES (IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL)
#define OPTIONS .size = sizeof(struct sluice_uring_options)
	{ "fine", { OPTIONS }, 0, FEATURES, 0 },
	{ "no size", { .size = 0 }, 0, FEATURES, -EINVAL },
	{ "flag", { OPTIONS, .flags = 2 }, 0, FEATURES, -EINVAL },
	{ "few buffers", { OPTIONS, .buffers = 8 }, 0, FEATURES, -EINVAL },
	{ "odd buffers", { OPTIONS, .buffers = 48 }, 0, FEATURES, -EINVAL },
	{ "many buffers", { OPTIONS, .buffers = 65536 }, 0, FEATURES, -EINVAL },
	{ "resv", { OPTIONS, .resv = 1 }, 0, FEATURES, -EINVAL },
	{ "files wrap",
	  { OPTIONS, .file_first = UINT32_MAX, .file_count = 2 },
	  0,
	  FEATURES,
	  -EINVAL },
	{ "files past int",
	  { OPTIONS, .file_first = INT32_MAX, .file_count = 2 },
	  0,
	  FEATURES,
	  -EINVAL },
	{ "iopoll", { OPTIONS }, IORING_SETUP_IOPOLL, FEATURES, -EINVAL },
	{ "drops", { OPTIONS }, 0, IORING_FEAT_FAST_POLL, -EOPNOTSUPP },
	{ "slow poll", { OPTIONS }, 0, IORING_FEAT_NODROP, -EOPNOTSUPP },
};

TAP_EACH(options, refusal, refusals)
{
	struct sluice_set *set;
	int fds = tap_open_fds();

	loop_open_ring(&loop, &setups[BASIC], 8);
	CHECK_EQ(sluice_uring_set_new(&set, loop.ring.ring_fd, refusal->setup,
				      refusal->features, &refusal->options),
		 refusal->result);
	if (!refusal->result)
		sluice_set_free(set);
	loop_close(&loop);
	CHECK_EQ(tap_open_fds(), fds);
}

TAP_TEST(options_of_the_future)
{
	struct {
		struct sluice_uring_options options;
		uint64_t more;
	} o = { .options = { .size = sizeof(o) } };

	loop_open_ring(&loop, &setups[BASIC], 8);
	CHECK_OK(sluice_uring_set(&loop.set, &loop.ring, &o.options));
	sluice_set_free(loop.set);
	o.more = 1;
	CHECK_EQ(sluice_uring_set(&loop.set, &loop.ring, &o.options), -E2BIG);
	loop.set = NULL;
	loop_close(&loop);
}

/* Two sets on one ring need two groups of buffers; the second goes by poll. */
TAP_TEST(group_in_use)
{
	struct sluice_uring_info info;
	struct sluice_set *other;

	loop_open(&loop, &setups[BASIC], 8);
	CHECK_OK(sluice_uring_set(&other, &loop.ring,
				  &URINGS_OPTIONS(.prefix = 7, .group = 0)));
	sluice_uring_info(other, &info);
	CHECK_EQ(info.multishot_error, loop_info(&loop).multishot_error);
	sluice_set_free(other);
	CHECK_OK(sluice_uring_set(
		&other, &loop.ring,
		&URINGS_OPTIONS(.prefix = 7,
				.group = SLUICE_URING_PREFIX_DEFAULT)));
	sluice_uring_info(other, &info);
	CHECK_LT(info.multishot_error, 0);
	sluice_set_free(other);
	loop_close(&loop);
}

/* Calls ------------------------------------------------------------------- */

TAP_TEST(errors)
{
	struct io_uring_sqe sqe, untouched;
	struct sluice_conn *a[2];
	struct io_uring_cqe cqe = { 0 };
	struct sluice_event event;
	struct sluice_set *plain;

	loop_open(&loop, &setups[BASIC], 8);
	CHECK_OK(sluice_set_new(&plain));
	kind_pair(a, &kinds[QUEUED], NULL, NULL);
	CHECK_EQ(sluice_uring_arm(plain), -EINVAL);
	CHECK_EQ(sluice_uring_events(plain, &event, 1), -EINVAL);
	CHECK_EQ(sluice_uring_events(loop.set, &event, 0), -EINVAL);
	CHECK_EQ(sluice_uring_due(plain), 0);
	CHECK_EQ(sluice_uring_in_flight(plain), 0);
	CHECK_EQ(sluice_uring_digest(plain, &cqe), 0);
	sluice_uring_stop(plain);
	CHECK_EQ(sluice_set_wait(loop.set, &event, 1, 0, 0), -EINVAL);
	CHECK_EQ(sluice_uring_connect(plain, "@x", NULL, NULL), -EINVAL);
	/* Nothing is due: the SQE is left alone. */
	memset(&sqe, 0x55, sizeof(sqe));
	untouched = sqe;
	CHECK_EQ(sluice_uring_fill(loop.set, &sqe), 0);
	CHECK_EQ(sluice_uring_fill(plain, &sqe), 0);
	CHECK_MEM(&sqe, &untouched, sizeof(sqe));
	CHECK_EQ(sluice_set_add(loop.set, a[0], 0, NULL), -EINVAL);
	add(a[0], SLUICE_RECV);
	CHECK_EQ(sluice_set_add(loop.set, a[0], SLUICE_RECV, NULL), -EEXIST);
	CHECK_EQ(sluice_set_add(plain, a[0], SLUICE_RECV, NULL), -EEXIST);
	CHECK_EQ(sluice_set_remove(plain, a[0]), -ENOENT);
	CHECK_EQ(sluice_wait(a[0], SLUICE_RECV, 0), -EBUSY);
	CHECK_EQ(sluice_set_remove(loop.set, a[0]), 0); /* nothing in flight */
	CHECK_EQ(sluice_set_remove(loop.set, a[0]), -ENOENT);
	CHECK_EQ(sluice_wait(a[0], SLUICE_RECV, 0), -ETIMEDOUT);
	sluice_uring_stop(loop.set);
	CHECK_EQ(sluice_set_add(loop.set, a[0], SLUICE_RECV, NULL), -ESHUTDOWN);
	CHECK_EQ(sluice_uring_connect(loop.set, "@x", NULL, NULL), -ESHUTDOWN);
	sluice_set_free(plain);
	ends_close(a);
	loop_close(&loop);
}

/* CQEs that are not the set's, or say what no request of it asked for. */
TAP_TEST(foreign_cqes)
{
	const uint64_t prefix = (uint64_t)SLUICE_URING_PREFIX_DEFAULT << 48;
	struct io_uring_cqe cqe = { .res = 0 };
	struct sluice_conn *a[2];

	loop_open(&loop, &setups[BASIC], 8);
	kind_pair(a, &kinds[QUEUED], NULL, NULL);
	add(a[0], SLUICE_RECV);
	for (uint64_t what = 0; what < 256; what++) {
		for (uint64_t number = 0; number < 70; number++) {
			cqe.user_data = prefix | what << 40 | number;
			CHECK_EQ(sluice_uring_digest(loop.set, &cqe), 1);
			cqe.user_data ^= 1ull << 48;
			CHECK_EQ(sluice_uring_digest(loop.set, &cqe), 0);
		}
	}
	cqe.user_data = prefix | UINT32_MAX;
	CHECK_EQ(sluice_uring_digest(loop.set, &cqe), 1);
	cqe.user_data = (uint64_t)(uintptr_t)&cqe;
	CHECK_EQ(sluice_uring_digest(loop.set, &cqe), 0);
	CHECK_EQ(sluice_uring_in_flight(loop.set), 0);
	put(a[1]);
	loop_expect(&loop, a[0], SLUICE_RECV);
	ends_close(a);
	loop_close(&loop);
}

TAP_TEST(child_of_fork)
{
	struct sluice_conn *a[2], *b[2];
	struct io_uring_cqe cqe = {
		.user_data = (uint64_t)SLUICE_URING_PREFIX_DEFAULT << 48
	};
	struct sluice_event event;
	pid_t pid;

	loop_open(&loop, &setups[BASIC], 8);
	kind_pair(a, &kinds[QUEUED], NULL, NULL);
	add(a[0], SLUICE_RECV);
	loop_expect_none(&loop, 0);
	CHECK_GT(sluice_uring_in_flight(loop.set), 0);
	pid = tap_fork();
	if (!pid) {
		kind_pair(b, &kinds[DIRECT], NULL, NULL);
		CHECK_EQ(sluice_uring_arm(loop.set), -ECHILD);
		CHECK_EQ(sluice_uring_events(loop.set, &event, 1), -ECHILD);
		CHECK_EQ(sluice_uring_digest(loop.set, &cqe), 0);
		CHECK_EQ(sluice_uring_due(loop.set), 0);
		CHECK_EQ(sluice_uring_connect(loop.set, "@x", NULL, NULL),
			 -ECHILD);
		CHECK_EQ(sluice_set_remove(loop.set, a[0]), -ECHILD);
		CHECK_EQ(sluice_set_add(loop.set, b[0], SLUICE_RECV, NULL),
			 -ECHILD);
		sluice_conn_close(a[0]);
		sluice_set_free(loop.set);
		sluice_conn_close(a[1]);
		ends_close(b);
		exit(0);
	}
	tap_join(pid);
	put(a[1]);
	loop_expect(&loop, a[0], SLUICE_RECV);
	CHECK_EQ(drain(a[0]), 1);
	ends_close(a);
	loop_close(&loop);
}

/* What is reported -------------------------------------------------------- */

struct case_row {
	const char *name;
	int kind, setup;
};

#define AWARE_ROWS                                                    \
	{ "queued", QUEUED, BASIC }, { "linkless", LINKLESS, BASIC }, \
		{ "direct", DIRECT, BASIC },                          \
		{ "queued/sqpoll", QUEUED, SQPOLL },                  \
		{ "linkless/sqpoll", LINKLESS, SQPOLL },              \
		{ "direct/sqpoll", DIRECT, SQPOLL },                  \
		{ "queued/defer", QUEUED, DEFER },                    \
		{ "linkless/defer", LINKLESS, DEFER },                \
		{ "direct/defer", DIRECT, DEFER },                    \
		{ "queued/poll", QUEUED, POLLED },                    \
		{ "linkless/poll", LINKLESS, POLLED },                \
		{ "queued/files", QUEUED, FILES },                    \
	{                                                             \
		"direct/files", DIRECT, FILES                         \
	}

static const struct case_row aware_rows[] = { AWARE_ROWS };
static const struct case_row rows[] = {
	{ "plain", PLAIN, BASIC },
	{ "plain/sqpoll", PLAIN, SQPOLL },
	{ "plain/defer", PLAIN, DEFER },
	{ "plain/files", PLAIN, FILES },
	AWARE_ROWS,
};

TAP_EACH(reports, row, rows)
{
	struct sluice_conn *conn[2], *idle[2];
	unsigned int got;

	loop_open(&loop, &setups[row->setup], 8);
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	kind_pair(idle, &kinds[row->kind], NULL, NULL);
	add(idle[0], SLUICE_RECV);
	add(conn[0], SLUICE_RECV);
	if (setups[row->setup].files)
		CHECK_EQ(loop_info(&loop).registered, 2);
	for (int i = 0; i < 3; i++) {
		loop_expect_none(&loop, i * 10 * MS);
		put(conn[1]);
		put(conn[1]);
		loop_expect(&loop, conn[0], SLUICE_RECV);
		loop_expect(&loop, conn[0], SLUICE_RECV); /* not drained */
		/* The second may be in a CQE yet. */
		for (got = 0; got < 2; got += drain(conn[0]))
			loop_turn(&loop, 0);
		CHECK_EQ(got, 2);
	}
	loop_remove(&loop, conn[0]);
	put(conn[1]);
	loop_expect_none(&loop, 10 * MS);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1), SLUICE_RECV);
	CHECK_EQ(drain(conn[0]), 1);
	add(conn[0], SLUICE_SEND);
	loop_expect(&loop, conn[0], SLUICE_SEND); /* nothing lacks */
	CHECK_OK(sluice_set_change(loop.set, conn[0], SLUICE_RECV));
	loop_expect_none(&loop, 10 * MS);
	put(conn[1]);
	loop_expect(&loop, conn[0], SLUICE_RECV);
	/* Closed: gone from it. */
	sluice_conn_close(conn[0]);
	loop_expect_none(&loop, 10 * MS);
	sluice_conn_close(conn[1]);
	loop_close(&loop);
	/* What was inside goes on without it. */
	put(idle[1]);
	CHECK_EQ(sluice_wait(idle[0], SLUICE_RECV, -1), SLUICE_RECV);
	CHECK_EQ(drain(idle[0]), 1);
	ends_close(idle);
}

/* The way that each lane's messages are received in. */
TAP_EACH(way, row, rows)
{
	struct sluice_conn *conn[2];
	struct sluice_uring_info info;
	bool multishot;

	loop_open(&loop, &setups[row->setup], 8);
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	add(conn[0], SLUICE_RECV);
	loop_expect_none(&loop, MS);
	put(conn[1]);
	loop_expect(&loop, conn[0], SLUICE_RECV);
	info = loop_info(&loop);
	multishot = !info.multishot_error &&
		    kinds[row->kind].lane == SLUICE_LANE_QUEUED;
	CHECK_EQ(info.frames_received, multishot);
	CHECK_EQ(info.receives, multishot);
	CHECK_EQ(info.receiving, multishot);
	CHECK_EQ(!info.polls, multishot);
	ends_close(conn);
	loop_close(&loop);
}

/* Streams both ways, both ends in sets of their own, lanes changing meanwhile. */
static void send_some(struct sluice_conn *conn, struct stream *tx, uint64_t end)
{
	for (int i = 0; i < 20 && tx->next < end; i++)
		if (stream_send(conn, tx,
				tap_random_below(2) ? SLUICE_SEND_F_BATCH : 0))
			return;
}

static void recv_some(struct sluice_conn *conn, struct stream *rx,
		      struct holds *holds)
{
	while (stream_recv(conn, rx, holds) == 1)
		;
}

static void change_lane(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	if (!(info.features & SLUICE_FEAT_LINK))
		return;
	sluice_conn_set_lane(conn, info.tx_lane == SLUICE_LANE_DIRECT ?
					   SLUICE_LANE_QUEUED :
					   SLUICE_LANE_DIRECT);
}

static void streams(const struct case_row *row, bool changes)
{
	const uint64_t end = 4000 / (tap_slow > 4 ? 4 : tap_slow);
	struct stream tx[2], rx[2];
	static struct holds holds[2];
	struct sluice_event events[4];
	struct sluice_conn *conn[2];
	int i, n, side;

	tap_limit(120);
	loop_open(&loop, &setups[row->setup], 4);
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	for (i = 0; i < 2; i++) {
		add(conn[i], SLUICE_RECV | SLUICE_SEND);
		tx[i] = (struct stream){ .key = 7 + (uint64_t)i,
					 .max_len = 20000 };
		rx[1 - i] = tx[i];
		holds[i].limit = 5;
	}
	while (rx[0].next < end || rx[1].next < end) {
		n = loop_wait(&loop, events, 4, 30 * SECOND * tap_slow);
		CHECK_GT(n, 0);
		for (i = 0; i < n; i++) {
			side = events[i].conn == conn[1];
			recv_some(conn[side], &rx[side], &holds[side]);
			send_some(conn[side], &tx[side], end);
			if (changes && !tap_random_below(50))
				change_lane(conn[side]);
			if (tx[side].next < end)
				continue;
			CHECK_OK(sluice_set_change(loop.set, conn[side],
						   SLUICE_RECV));
			n = (int)sluice_flush(conn[side]);
			CHECK(!n || n == -EAGAIN);
			n = i + 1;
		}
	}
	for (i = 0; i < 2; i++)
		holds_release_all(conn[i], &holds[i]);
	ends_close(conn);
	loop_close(&loop);
}

TAP_EACH(streams, row, aware_rows)
{
	streams(row, false);
}

TAP_EACH(lanes_change, row, aware_rows)
{
	streams(row, true);
}

/* The ring is shared ------------------------------------------------------- */

static void own_request(uint64_t user_data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&loop.ring);

	CHECK(sqe);
	io_uring_prep_nop(sqe);
	sqe->user_data = user_data;
}

TAP_EACH(own_requests, setup, setups)
{
	static const uint64_t numbers[] = { 0,
					    1,
					    UINT32_MAX,
					    UINT64_MAX,
					    0x51cdffffffffffff,
					    0x51cf000000000000 };
	struct sluice_conn *conn[2];
	uint64_t mine = 0;

	loop_open(&loop, setup, 16);
	kind_pair(conn, &kinds[QUEUED], NULL, NULL);
	add(conn[0], SLUICE_RECV);
	for (int i = 0; i < 600; i++) {
		own_request(numbers[i % 6]);
		put(conn[1]);
		while (!drain(conn[0]))
			loop_turn(&loop, SECOND * tap_slow);
		mine++;
		while (loop.mine != mine)
			loop_turn(&loop, SECOND * tap_slow);
		CHECK_EQ(loop.last_mine, numbers[i % 6]);
	}
	ends_close(conn);
	loop_close(&loop);
	CHECK_EQ(loop.mine, mine);
}

/* No SQE left: nothing is lost, whatever was to be in it. */
TAP_EACH(sq_full, row, rows)
{
	struct sluice_conn *conn[8][2];
	struct sluice_event events[16];
	unsigned int got = 0, full = 0, i, turns;
	int n;

	loop_open(&loop, &setups[row->setup], 1);
	for (i = 0; i < 8; i++) {
		kind_pair(conn[i], &kinds[row->kind], NULL, NULL);
		add(conn[i][0], SLUICE_RECV);
		add(conn[i][1], SLUICE_RECV);
	}
	for (turns = 0; turns < 5; turns++) {
		for (i = 0; i < 8; i++)
			CHECK_OK(sluice_send(conn[i][1], "x", 1, 0,
					     SLUICE_SEND_F_BATCH));
		for (i = 0; i < 8; i++)
			if (row->kind == DIRECT)
				CHECK_OK(sluice_flush(conn[i][1]));
		for (got = 0; got < 8;) {
			full += loop_turn(&loop, SECOND) == -EAGAIN;
			n = sluice_uring_events(loop.set, events, 16);
			for (i = 0; (int)i < n; i++)
				got += drain(events[i].conn);
		}
	}
	CHECK_GT(full, 0);
	for (i = 0; i < 8; i++)
		ends_close(conn[i]);
	loop_close(&loop);
}
