/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Conns and sets that end while requests of theirs are in flight, submitted or not:
 * what was sent arrives, what was not is kept, no request meets an fd of somebody
 * else's, and nothing is left.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "life.h"
#include "urings.h"

#define SOON (5 * SECOND * tap_slow)

static struct loop loop;

static const struct row {
	const char *name;
	int kind, setup;
} rows[] = {
	{ "plain", PLAIN, BASIC },
	{ "queued", QUEUED, BASIC },
	{ "linkless", LINKLESS, BASIC },
	{ "direct", DIRECT, BASIC },
	{ "plain/sqpoll", PLAIN, SQPOLL },
	{ "queued/sqpoll", QUEUED, SQPOLL },
	{ "linkless/defer", LINKLESS, DEFER },
	{ "direct/defer", DIRECT, DEFER },
	{ "queued/files", QUEUED, FILES },
	{ "plain/files", PLAIN, FILES },
};

static const struct row queued_rows[] = {
	{ "queued", QUEUED, BASIC },
	{ "linkless", LINKLESS, BASIC },
	{ "queued/sqpoll", QUEUED, SQPOLL },
	{ "linkless/defer", LINKLESS, DEFER },
	{ "queued/files", QUEUED, FILES },
};

static const struct row aware_rows[] = {
	{ "queued", QUEUED, BASIC },
	{ "linkless", LINKLESS, BASIC },
	{ "direct", DIRECT, BASIC },
	{ "direct/sqpoll", DIRECT, SQPOLL },
	{ "linkless/defer", LINKLESS, DEFER },
};

static void add(struct sluice_conn *conn)
{
	CHECK_OK(sluice_set_add(loop.set, conn, SLUICE_RECV, conn));
}

/* What the peer has of a stream of numbers, without a wait; *end: and its end. */
static uint32_t numbers(struct sluice_conn *conn, uint32_t next, int *end)
{
	struct sluice_msg msg;
	uint32_t number;

	while ((*end = sluice_recv(conn, &msg)) == 1) {
		CHECK_EQ(msg.len, sizeof(number));
		memcpy(&number, sluice_msg_data(&msg), sizeof(number));
		CHECK_EQ(number, next);
		next++;
		CHECK_OK(sluice_release(conn, &msg));
	}
	return next;
}

static int send_number(struct sluice_conn *conn, uint32_t number,
		       uint32_t flags)
{
	return sluice_send(conn, &number, sizeof(number), 0, flags);
}

/* Closing ------------------------------------------------------------------ */

TAP_EACH(close_waiting, row, rows)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	int fds, i;

	loop_open(&loop, &setups[row->setup], 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	for (i = 0; i < 20; i++) {
		kind_pair(conn, &kinds[row->kind], NULL, NULL);
		add(conn[0]);
		loop_expect_none(&loop, 0);
		CHECK_GT(sluice_uring_in_flight(loop.set), 0);
		sluice_conn_close(conn[0]);
		CHECK_EQ(sluice_wait(conn[1], SLUICE_RECV, SOON), SLUICE_RECV);
		CHECK_EQ(sluice_recv(conn[1], &msg), 0);
		sluice_conn_close(conn[1]);
	}
	loop_idle(&loop);
	CHECK_EQ(tap_open_fds(), fds);
	CHECK_EQ(loop_info(&loop).registered, 0);
	loop_close(&loop);
}

/*
 * Closed before its requests were submitted: their fd's number must not be a new
 * socket's by then.
 */
TAP_EACH(close_unsubmitted, row, rows)
{
	struct sluice_conn *conn[2];
	int fds, number, pair[2];
	char byte;

	loop_open(&loop, &setups[row->setup], 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	number = sluice_conn_fd(conn[0]);
	add(conn[0]);
	CHECK_EQ(sluice_uring_prepare(loop.set, &loop.ring), 0);
	CHECK_GT(io_uring_sq_ready(&loop.ring), 0);
	sluice_conn_close(conn[0]);
	sluice_conn_close(conn[1]);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	CHECK_NE(pair[0], number);
	CHECK_NE(pair[1], number);
	CHECK_SYS(send(pair[1], "x", 1, 0));
	loop_idle(&loop);
	CHECK_EQ(recv(pair[0], &byte, 1, MSG_DONTWAIT), 1);
	close(pair[0]);
	close(pair[1]);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

/* What was handed to the ring goes out, and then what comes after it, and the end. */
TAP_EACH(close_sending, row, queued_rows)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	uint32_t next = 0;
	int fds, r;

	loop_open(&loop, &setups[row->setup], 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	add(conn[0]);
	for (uint32_t i = 0; i < 3; i++)
		CHECK_OK(send_number(conn[0], i, SLUICE_SEND_F_BATCH));
	CHECK_EQ(sluice_uring_prepare(loop.set, &loop.ring), 0);
	CHECK_EQ(loop_info(&loop).sends, 1);
	/* Behind it: into the next batch, or not at all. */
	CHECK_EQ(send_number(conn[0], 3, 0), -EAGAIN);
	CHECK_OK(send_number(conn[0], 3, SLUICE_SEND_F_BATCH));
	sluice_conn_close(conn[0]);
	if (!setups[row->setup].flags)
		CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
	loop_idle(&loop);
	next = numbers(conn[1], next, &r);
	CHECK_EQ(next, 4);
	CHECK_EQ(r, 0);
	sluice_conn_close(conn[1]);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

/* Sends as much as the socket takes, and one frame more, by the ring. */
static uint32_t send_too_much(struct sluice_conn *conn)
{
	uint32_t next = 0;
	int r;

	while (!(r = send_number(conn, next, 0)))
		next++;
	CHECK_EQ(r, -EAGAIN);
	for (int i = 0; i < 3; i++)
		CHECK_OK(send_number(conn, next++, SLUICE_SEND_F_BATCH));
	loop_turn(&loop, 0);
	loop_turn(&loop, 0);
	CHECK_EQ(loop_info(&loop).sends, 1);
	CHECK_EQ(send_number(conn, next, 0), -EAGAIN);
	return next;
}

/* The peer does not read: the last frame waits in the kernel, then it does. */
TAP_EACH(close_blocked, row, queued_rows)
{
	struct sluice_conn *conn[2];
	uint32_t end, next;
	int fds, r;

	loop_open(&loop, &setups[row->setup], 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	add(conn[0]);
	end = send_too_much(conn[0]);
	sluice_conn_close(conn[0]);
	next = numbers(conn[1], 0, &r);
	loop_idle(&loop);
	next = numbers(conn[1], next, &r);
	CHECK_EQ(r, 0);
	CHECK_EQ(next, end);
	sluice_conn_close(conn[1]);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

/* It never does: the conn is given up after a while. */
TAP_EACH(close_expires, row, queued_rows)
{
	struct sluice_conn *conn[2];
	uint32_t next;
	int fds, r;

	loop_open(&loop, &setups[row->setup], 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	add(conn[0]);
	send_too_much(conn[0]);
	sluice_conn_close(conn[0]);
	CHECK_GT(sluice_uring_in_flight(loop.set), 0);
	loop_idle(&loop);
	next = numbers(conn[1], 0, &r);
	CHECK_GT(next, 0);
	CHECK_EQ(r, -ECONNRESET);
	sluice_conn_close(conn[1]);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

TAP_EACH(abort, row, rows)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	int fds;

	loop_open(&loop, &setups[row->setup], 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	add(conn[0]);
	loop_expect_none(&loop, 0);
	CHECK_OK(sluice_send(conn[0], "x", 1, 0, SLUICE_SEND_F_BATCH));
	sluice_uring_prepare(loop.set, &loop.ring);
	sluice_conn_abort(conn[0], "enough");
	loop_idle(&loop);
	while (sluice_recv(conn[1], &msg) == 1)
		;
	sluice_conn_close(conn[1]);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

/* On a shared pool a closed conn waits for its buffers, in the set. */
TAP_EACH(close_with_buffers_out, row, aware_rows)
{
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_pool_info info;
	struct sluice_conn *conn[2];
	struct sluice_buf *buf;
	struct sluice_msg msg;
	int64_t until;
	int fds;

	loop_open(&loop, &setups[row->setup], 8);
	loop_expect_none(&loop, 0);
	CHECK_OK(sluice_pool_new(&options.pool, NULL));
	/* its first segment, whose fd a shared pool keeps */
	CHECK_OK(sluice_pool_loan(options.pool, 1000, &buf));
	sluice_buf_unref(buf);
	fds = tap_open_fds();
	kind_pair(conn, &kinds[row->kind], &options,
		  &ENDS_OPTIONS(.hold_limit = 16));
	add(conn[0]);
	CHECK_OK(sluice_loan(conn[0], 1000, &buf));
	CHECK_OK(sluice_send_buf(conn[0], buf, 1000, 0, 0));
	CHECK_EQ(sluice_wait(conn[1], SLUICE_RECV, SOON), SLUICE_RECV);
	CHECK_EQ(sluice_recv(conn[1], &msg), 1);
	loop_expect_none(&loop, 0);
	sluice_conn_close(conn[0]);
	loop_turn(&loop, MS);
	sluice_pool_info(options.pool, &info);
	CHECK_EQ(info.buffers_used, 1);
	CHECK_OK(sluice_release(conn[1], &msg));
	sluice_wait(conn[1], SLUICE_RECV, 0); /* sends RELEASE */
	CHECK_EQ(sluice_recv(conn[1], &msg), 0);
	if (row->kind != LINKLESS) /* nothing tells of a ring's release */
		sluice_conn_close(conn[1]);
	until = tap_now() + SOON;
	do {
		CHECK_LT(tap_now(), until);
		loop_turn(&loop, 10 * MS);
		sluice_pool_info(options.pool, &info);
	} while (info.buffers_used);
	if (row->kind == LINKLESS)
		sluice_conn_close(conn[1]);
	loop_idle(&loop);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
	sluice_pool_free(options.pool);
}

/* The peer ----------------------------------------------------------------- */

static void send_and_wait(struct sluice_conn *conn, void *arg)
{
	(void)arg;
	for (uint32_t i = 0; i < 10;) {
		int r = send_number(conn, i, 0);

		if (r == -EAGAIN)
			CHECK_OK(sluice_wait(conn, SLUICE_SEND, SOON));
		else
			i += (uint32_t)(CHECK_OK(r) == 0);
	}
	for (;;)
		pause();
}

TAP_EACH(peer_killed, row, rows)
{
	struct kind_setup setup = { .kind = &kinds[row->kind] };
	struct sluice_conn *conn;
	uint32_t next = 0;
	pid_t pid;
	int fds, r;

	loop_open(&loop, &setups[row->setup], 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	pid = kind_fork(&conn, &setup, send_and_wait, NULL);
	if (kinds[row->kind].lane != SLUICE_LANE_PLAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_RECV, SOON));
	add(conn);
	while (next < 10) {
		loop_turn(&loop, SOON);
		next = numbers(conn, next, &r);
		CHECK_EQ(r, -EAGAIN);
	}
	loop_expect_none(&loop, 0);
	tap_kill(pid);
	loop_expect(&loop, conn, SLUICE_RECV);
	next = numbers(conn, next, &r);
	CHECK_EQ(next, 10);
	CHECK_EQ(r,
		 kinds[row->kind].lane == SLUICE_LANE_PLAIN ? 0 : -ECONNRESET);
	sluice_conn_close(conn);
	loop_idle(&loop);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

/* Removing, stopping, freeing ----------------------------------------------- */

/* A frame that could not be sent goes back to its conn, which sends it. */
TAP_EACH(remove_blocked, row, queued_rows)
{
	struct sluice_conn *conn[2];
	uint32_t end, next;
	int r;

	loop_open(&loop, &setups[row->setup], 8);
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	add(conn[0]);
	end = send_too_much(conn[0]);
	CHECK_EQ(sluice_set_remove(loop.set, conn[0]), -EAGAIN);
	loop_remove(&loop, conn[0]);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK_EQ(send_number(conn[0], end, 0), -EAGAIN);
	next = numbers(conn[1], 0, &r);
	CHECK_LT(next, end);
	CHECK_OK(send_number(conn[0], end, 0));
	next = numbers(conn[1], next, &r);
	CHECK_EQ(next, end + 1);
	/* And once more in. */
	add(conn[0]);
	CHECK_OK(send_number(conn[1], 0, 0));
	loop_expect(&loop, conn[0], SLUICE_RECV);
	ends_close(conn);
	loop_close(&loop);
}

TAP_EACH(stop_blocked, row, queued_rows)
{
	struct sluice_conn *conn[2];
	uint32_t end, next;
	int r;

	loop_open(&loop, &setups[row->setup], 8);
	kind_pair(conn, &kinds[row->kind], NULL, NULL);
	add(conn[0]);
	end = send_too_much(conn[0]);
	CHECK_OK(send_number(conn[1], 0, 0));
	loop_close(&loop);
	next = numbers(conn[0], 0, &r);
	CHECK_EQ(next, 1);
	next = numbers(conn[1], 0, &r);
	CHECK_LT(next, end);
	CHECK_OK(sluice_flush(conn[0]));
	CHECK_EQ(numbers(conn[1], next, &r), end);
	ends_close(conn);
}

/* A conn that was closed is finished by a stop, not forgotten. */
TAP_EACH(stop_closing, row, queued_rows)
{
	struct sluice_conn *conn[2];
	int r, fds, filled;

	loop_open_ring(&loop, &setups[row->setup], 8);
	io_uring_queue_exit(&loop.ring);
	fds = tap_open_fds();
	for (filled = 0; filled < 2; filled++) {
		loop_open(&loop, &setups[row->setup], 8);
		kind_pair(conn, &kinds[row->kind], NULL, NULL);
		add(conn[0]);
		for (uint32_t i = 0; i < 3; i++)
			CHECK_OK(send_number(conn[0], i, SLUICE_SEND_F_BATCH));
		if (filled)
			CHECK_EQ(sluice_uring_prepare(loop.set, &loop.ring), 0);
		else
			CHECK_EQ(sluice_uring_arm(loop.set), 0);
		sluice_conn_close(conn[0]);
		loop_close(&loop);
		CHECK_EQ(numbers(conn[1], 0, &r), 3);
		CHECK_EQ(r, 0);
		sluice_conn_close(conn[1]);
		CHECK_EQ(tap_open_fds(), fds);
	}
}

/*
 * Against the rules: safe, and it says so. What the kernel may still write to is not
 * freed then.
 */
TAP_EACH(free_in_flight, row, rows)
{
	bool reads = kinds[row->kind].lane == SLUICE_LANE_QUEUED;
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	int order;

#ifdef __SANITIZE_ADDRESS__
	__lsan_disable();
#endif
	for (order = 0; order < 2; order++) {
		loop_open(&loop, &setups[row->setup], 8);
		reads = reads && urings_multishot(&loop);
		kind_pair(conn, &kinds[row->kind], NULL, NULL);
		add(conn[0]);
		loop_expect_none(&loop, 0);
		CHECK_GT(sluice_uring_in_flight(loop.set), 0);
		if (order)
			io_uring_queue_exit(&loop.ring);
		sluice_set_free(loop.set);
		if (!order)
			io_uring_queue_exit(&loop.ring);
		CHECK_EQ(sluice_recv(conn[0], &msg),
			 reads ? -ECANCELED : -EAGAIN);
		if (!reads) {
			CHECK_OK(send_number(conn[1], 7, 0));
			CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, SOON),
				 SLUICE_RECV);
			CHECK_EQ(sluice_recv(conn[0], &msg), 1);
		}
		ends_close(conn);
	}
}

/* Many, with everything that can be in flight ------------------------------- */

TAP_EACH(leaves_nothing, row, rows)
{
	const int count = 300 / tap_slow + 20;
	int fds = 0, memfds = 0, mappings = 0, i, r;
	struct sluice_conn *conn[2];

	tap_limit(120);
	loop_open(&loop, &setups[row->setup], 8);
	for (i = 0; i < count; i++) {
		if (i == 10) {
			loop_idle(&loop);
			fds = tap_open_fds();
			memfds = life_memfds();
			mappings = tap_mappings();
		}
		kind_pair(conn, &kinds[row->kind], NULL, NULL);
		add(conn[i & 1]);
		if (i & 2)
			loop_turn(&loop, 0);
		for (int m = 0; m < (i & 12); m++) {
			r = send_number(conn[m & 1], 0,
					i & 16 ? SLUICE_SEND_F_BATCH : 0);
			CHECK(!r || r == -EAGAIN);
		}
		if (i & 32)
			sluice_uring_prepare(loop.set, &loop.ring);
		else
			loop_turn(&loop, 0);
		if (i & 64)
			sluice_conn_abort(conn[0], "");
		else
			sluice_conn_close(conn[0]);
		sluice_conn_close(conn[1]);
	}
	loop_idle(&loop);
	CHECK_EQ(tap_open_fds(), fds);
	CHECK_EQ(life_memfds(), memfds);
	CHECK_EQ(tap_mappings(), mappings);
	loop_close(&loop);
}
