/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * One pool for many conns: a buffer that was sent to several peers is free when
 * the last of them has released it, or is gone, and not before.
 *
 * The pools here have one buffer, so a loan succeeds exactly when it is free.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ends.h"

#define PEERS 8
#define SIZE 65536

static const struct kind {
	const char *name;
	uint32_t flags;
	uint32_t no_spin;
	uint64_t spin_ns;
} kinds[] = {
	{ "direct-sleep", 0, 1, 0 },
	{ "direct-spin", 0, 0, 0 },
	{ "direct-forever", 0, 0, SLUICE_SPIN_FOREVER },
	{ "queued-sleep", SLUICE_F_NO_DIRECT, 1, 0 },
	{ "queued-spin", SLUICE_F_NO_DIRECT, 0, 0 },
	{ "queued-forever", SLUICE_F_NO_DIRECT, 0, SLUICE_SPIN_FOREVER },
};

static struct sluice_options options_of(const struct kind *kind)
{
	return ENDS_OPTIONS(.flags = kind->flags, .no_spin = kind->no_spin,
			    .spin_ns = kind->spin_ns);
}

static struct sluice_pool *one_buffer(void)
{
	struct sluice_pool_options options = ENDS_POOL(.limit = SIZE);
	struct sluice_pool *pool;

	CHECK_OK(sluice_pool_new(&pool, &options));
	return pool;
}

static uint32_t used(struct sluice_pool *pool)
{
	struct sluice_pool_info info;

	sluice_pool_info(pool, &info);
	return info.buffers_used;
}

static void send_filled(struct sluice_conn *conn, struct sluice_buf *buf,
			uint64_t tag)
{
	int r;

	while ((r = sluice_send_buf(conn, buf, SIZE, tag, 0)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	CHECK_OK(r);
}

/* Waits for the buffer with the help of one conn; the others may free it. */
static struct sluice_buf *wait_loan(struct sluice_conn *conn)
{
	struct sluice_buf *buf;
	int r;

	while ((r = sluice_loan(conn, SIZE, &buf)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	CHECK_OK(r);
	return buf;
}

static void check_view(const struct sluice_msg *msg)
{
	CHECK_EQ(msg->len, SIZE);
	CHECK(content_matches(sluice_msg_data(msg), SIZE, msg->tag, 0));
}

/* Fan-out ------------------------------------------------------------------ */

#define ROUNDS 120
#define BETWEEN_KILLS 12 /* rounds */

/* Holds each message for a while; it must not change meanwhile. */
static void hold_and_release(struct sluice_conn *conn, void *arg)
{
	struct sluice_msg msg;
	int r;

	tap_random_stream(1 + *(uint64_t *)arg);
	while ((r = sluice_recv_wait(conn, &msg, -1)) == 1) {
		check_view(&msg);
		if (tap_random_below(4) == 0)
			tap_sleep((int64_t)tap_random_below(300000));
		check_view(&msg);
		CHECK_OK(sluice_release(conn, &msg));
	}
	CHECK_EQ(r, 0);
}

/* Every buffer to all peers; some of them die at some moment. */
static void fan_out(const struct kind *kind, bool kill_some)
{
	struct sluice_options options = options_of(kind), child = options;
	struct sluice_conn *conn[PEERS];
	struct sluice_pool *pool = one_buffer();
	pid_t pids[PEERS];
	struct sluice_buf *buf;
	uint64_t i, round;

	/* More spinning processes than CPUs would only wait for each other. */
	if (child.spin_ns == SLUICE_SPIN_FOREVER)
		child.spin_ns = 0;
	options.pool = pool;
	for (i = 0; i < PEERS; i++)
		pids[i] = ends_fork(&conn[i], &options, &child,
				    hold_and_release, &i);
	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; !conn[i]; i++)
			;
		buf = wait_loan(conn[i]);
		content_fill(buf->data, SIZE, round, 0);
		for (i = 0; i < PEERS; i++) {
			if (!conn[i])
				continue;
			sluice_buf_ref(buf);
			send_filled(conn[i], buf, round);
			if (!kill_some || i == 0 || round != i * BETWEEN_KILLS)
				continue;
			/* Anywhere in its round, it may hold the buffer. */
			tap_sleep((int64_t)tap_random_below(200000));
			tap_kill(pids[i]);
			if (i & 1) {
				sluice_conn_close(conn[i]);
				conn[i] = NULL;
			} else {
				pids[i] = 0; /* as if unnoticed so far */
			}
		}
		sluice_buf_unref(buf);
		for (i = 0; i < PEERS; i++)
			if (conn[i] && !pids[i]) {
				/* The next loan has to find out. */
				buf = wait_loan(conn[0]);
				sluice_buf_unref(buf);
				sluice_conn_close(conn[i]);
				conn[i] = NULL;
			}
	}
	for (i = 0; i < PEERS; i++) {
		sluice_conn_close(conn[i]);
		if (conn[i])
			tap_join(pids[i]);
	}
	CHECK_OK(sluice_pool_loan(pool, SIZE, &buf));
	sluice_buf_unref(buf);
	CHECK_EQ(used(pool), 0);
	sluice_pool_free(pool);
}

TAP_EACH(fan_out_to_eight, kind, kinds)
{
	fan_out(kind, false);
}

TAP_EACH(fan_out_with_deaths, kind, kinds)
{
	fan_out(kind, true);
}

/* One holds, others wait ---------------------------------------------------- */

/* How the buffer comes back. */
static const struct back {
	const char *name;
	enum { RELEASE, CLOSE, DIE } how;
	bool closed; /* this side has closed the conn already */
	bool unread; /* the peer has not even received it */
} backs[] = {
	{ "release", RELEASE, false, false },
	{ "close", CLOSE, false, false },
	{ "die", DIE, false, false },
	{ "closed-release", RELEASE, true, false },
	{ "closed-close", CLOSE, true, false },
	{ "closed-die", DIE, true, false },
	{ "closed-unread", RELEASE, true, true },
};

static int held[2], proceed[2]; /* pipes */

static void hold(struct sluice_conn *conn, void *arg)
{
	const struct back *back = arg;
	struct sluice_msg msg;
	char c = 0;

	if (!back->unread) {
		CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
		check_view(&msg);
	}
	CHECK_SYS(write(held[1], &c, 1));
	CHECK_EQ(CHECK_SYS(read(proceed[0], &c, 1)), 1);
	tap_sleep(20000000); /* the others shall sleep by now */
	if (back->unread)
		CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
	check_view(&msg);
	if (back->how == DIE)
		kill(getpid(), SIGKILL);
	if (back->how == CLOSE)
		return;
	CHECK_OK(sluice_release(conn, &msg));
	/* By frame it goes when there is nothing else to do. */
	sluice_wait(conn, SLUICE_RECV, 0);
	CHECK_EQ(CHECK_SYS(read(proceed[0], &c, 1)), 1);
}

static void idle(struct sluice_conn *conn, void *arg)
{
	(void)arg;
	ends_expect_eof(conn);
}

static void expect_join(pid_t pid, const struct back *back)
{
	int status = tap_reap(pid);

	if (back->how == DIE)
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	else
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* wait: in sluice_wait() on another conn of the pool; else by trying. */
static void comes_back(const struct back *back, const struct kind *kind,
		       bool wait)
{
	struct sluice_options options = options_of(kind);
	struct sluice_options child = ENDS_OPTIONS(.flags = kind->flags);
	struct sluice_pool *pool = one_buffer();
	struct sluice_conn *holder, *other;
	struct sluice_buf *buf, *again;
	pid_t pids[2];
	char c = 0;
	int fds;

	CHECK_SYS(pipe(held));
	CHECK_SYS(pipe(proceed));
	fds = tap_open_fds();
	options.pool = pool;
	pids[0] = ends_fork(&holder, &options, &child, hold, (void *)back);
	pids[1] = ends_fork(&other, &options, &child, idle, NULL);
	CHECK_OK(sluice_pool_loan(pool, SIZE, &buf));
	content_fill(buf->data, SIZE, 77, 0);
	send_filled(holder, buf, 77);
	CHECK_EQ(CHECK_SYS(read(held[0], &c, 1)), 1);
	if (back->closed)
		sluice_conn_close(holder);
	CHECK_EQ(sluice_pool_loan(pool, SIZE, &again), -EAGAIN);
	CHECK_EQ(sluice_loan(other, SIZE, &again), -EAGAIN);
	CHECK_EQ(used(pool), 1);
	CHECK_EQ(sluice_wait(other, SLUICE_SEND, 1000000), -ETIMEDOUT);
	CHECK_SYS(write(proceed[1], &c, 1));
	if (wait)
		CHECK_EQ(sluice_wait(other, SLUICE_SEND, -1), SLUICE_SEND);
	else
		CHECK_SOON(!sluice_pool_loan(pool, SIZE, &again));
	if (wait)
		CHECK_OK(sluice_loan(other, SIZE, &again));
	CHECK_EQ(again == buf, 1);
	sluice_buf_unref(again);
	CHECK_EQ(used(pool), 0);
	CHECK_SYS(write(proceed[1], &c, 1));
	if (!back->closed)
		sluice_conn_close(holder);
	expect_join(pids[0], back);
	sluice_conn_close(other);
	tap_join(pids[1]);
	sluice_pool_free(pool);
	CHECK_EQ(tap_open_fds(), fds);
	close(held[0]);
	close(held[1]);
	close(proceed[0]);
	close(proceed[1]);
}

TAP_EACH(wakes_other, back, backs)
{
	unsigned int i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		comes_back(back, &kinds[i], true);
}

TAP_EACH(found_by_trying, back, backs)
{
	unsigned int i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		comes_back(back, &kinds[i], false);
}

/* Ends ---------------------------------------------------------------------- */

/* Whatever goes first, all of it is gone in the end. */
TAP_TEST(order_of_ends)
{
	struct sluice_options options = ENDS_OPTIONS(), peer = ENDS_OPTIONS();
	int fds = tap_open_fds(), order;

	for (order = 0; order < 8; order++) {
		struct sluice_conn *a[2], *b[2];
		struct sluice_buf *buf;
		struct sluice_msg msg;

		options.pool = one_buffer();
		ends_pair(a, &options, &peer);
		ends_pair(b, &options, &peer);
		CHECK_OK(sluice_loan(a[0], SIZE, &buf));
		content_fill(buf->data, SIZE, 5, 0);
		send_filled(a[0], buf, 5);
		CHECK_EQ(sluice_recv(a[1], &msg), 1);
		if (order & 1)
			sluice_pool_free(options.pool);
		if (order & 2)
			sluice_conn_close(b[0]);
		sluice_conn_close(a[0]); /* its buffer is still held */
		if (!(order & 2))
			sluice_conn_close(b[0]);
		if (order & 4)
			check_view(&msg);
		if (!(order & 1))
			sluice_pool_free(options.pool);
		/* The owner has gone, what it lent is still readable. */
		check_view(&msg);
		CHECK_OK(sluice_release(a[1], &msg));
		ends_expect_eof(a[1]);
		sluice_conn_close(a[1]);
		sluice_conn_close(b[1]);
		CHECK_EQ(tap_open_fds(), fds);
	}
}

/* Mapping -------------------------------------------------------------------- */

/* Sends a buffer of the shared pool to conn[1] and leaves it there. */
static const void *view_of(struct sluice_conn *conn[2], struct sluice_buf *buf,
			   struct sluice_msg *msg)
{
	sluice_buf_ref(buf);
	send_filled(conn[0], buf, 7);
	CHECK_EQ(sluice_recv_wait(conn[1], msg, -1), 1);
	check_view(msg);
	return sluice_msg_data(msg);
}

static void maps_anew_in_child(void)
{
	struct sluice_options options = ENDS_OPTIONS(), peer = ENDS_OPTIONS();
	struct sluice_conn *conn[2];
	struct sluice_pool *own = one_buffer();
	struct sluice_buf *buf;
	struct sluice_msg msg;

	sluice_map_limit_set(1 << 20);
	options.pool = own;
	ends_pair(conn, &options, &peer);
	CHECK_OK(sluice_loan(conn[0], SIZE, &buf));
	content_fill(buf->data, SIZE, 7, 0);
	view_of(conn, buf, &msg);
	CHECK_OK(sluice_release(conn[1], &msg));
	sluice_buf_unref(buf);
	ends_close(conn);
	sluice_pool_free(own);
}

/* A segment that comes on several conns is mapped once, and counts once. */
TAP_TEST(segment_is_mapped_once)
{
	struct sluice_options options = ENDS_OPTIONS(), peer = ENDS_OPTIONS();
	struct sluice_conn *a[2], *b[2];
	int fds = tap_open_fds(), mappings = tap_mappings();
	struct sluice_msg in_a, in_b;
	struct sluice_buf *buf;
	pid_t pid;

	options.pool = one_buffer();
	ends_pair(a, &options, &peer);
	ends_pair(b, &options, &peer);
	CHECK_OK(sluice_loan(a[0], SIZE, &buf));
	content_fill(buf->data, SIZE, 7, 0);
	view_of(a, buf, &in_a);
	sluice_map_limit_set(0); /* nothing more */
	CHECK(view_of(b, buf, &in_b) == sluice_msg_data(&in_a));
	sluice_map_limit_set(16ull << 30);
	pid = tap_fork();
	if (!pid) {
		maps_anew_in_child();
		_exit(0);
	}
	tap_join(pid);
	/* It stays as long as one conn needs it. */
	CHECK_OK(sluice_release(a[1], &in_a));
	ends_close(a);
	check_view(&in_b);
	CHECK_OK(sluice_release(b[1], &in_b));
	sluice_buf_unref(buf);
	ends_close(b);
	sluice_pool_free(options.pool);
	CHECK_EQ(tap_open_fds(), fds);
	CHECK_EQ(tap_mappings(), mappings);
}
