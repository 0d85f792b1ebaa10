/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The wait set with a few connections, both ends in this process: what is
 * reported and what not, order among busy ones, errors, timeouts. Senders that
 * wait are in set-send.c, a thousand connections in set-many.c.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "waits.h"

#define SOON (5 * SECOND * tap_slow)
#define FLOOD (800 * MS * tap_slow)

static struct sluice_set *set;

static void open_set(void)
{
	CHECK_OK(sluice_set_new(&set));
}

static void expect(struct sluice_conn *conn, uint32_t ready)
{
	struct sluice_event events[4];

	CHECK_EQ(sluice_set_wait(set, events, 4, SOON, 0), 1);
	CHECK(events[0].conn == conn);
	CHECK(events[0].data == (void *)conn);
	CHECK_EQ(events[0].ready, ready);
}

/* What the next event says, whatever it is of. */
static uint32_t next(void)
{
	struct sluice_event event;

	CHECK_EQ(sluice_set_wait(set, &event, 1, SOON, 0), 1);
	return event.ready;
}

static void expect_none(int64_t timeout)
{
	struct sluice_event events[4];
	int64_t start = tap_now(), took;

	CHECK_EQ(sluice_set_wait(set, events, 4, timeout, 0), 0);
	took = tap_now() - start;
	CHECK_GE(took, timeout);
	CHECK_LT(took, timeout + SOON);
}

static void add(struct sluice_conn *conn, uint32_t what)
{
	CHECK_OK(sluice_set_add(set, conn, what, conn));
}

static void put(struct sluice_conn *conn)
{
	CHECK_OK(sluice_send(conn, "x", 1, 0, 0));
}

TAP_TEST(errors)
{
	struct sluice_conn *a[2], *b[2];
	struct sluice_event event;
	struct sluice_set *other;

	open_set();
	CHECK_OK(sluice_set_new(&other));
	kind_pair(a, &kinds[DIRECT], NULL, NULL);
	kind_pair(b, &kinds[PLAIN], NULL, NULL);
	CHECK_EQ(sluice_set_add(set, a[0], 0, NULL), -EINVAL);
	CHECK_EQ(sluice_set_add(set, a[0], 4, NULL), -EINVAL);
	add(a[0], SLUICE_RECV);
	CHECK_EQ(sluice_set_add(set, a[0], SLUICE_RECV, NULL), -EEXIST);
	CHECK_EQ(sluice_set_add(other, a[0], SLUICE_RECV, NULL), -EEXIST);
	CHECK_EQ(sluice_set_change(set, a[0], 0), -EINVAL);
	CHECK_EQ(sluice_set_change(set, a[0], 8), -EINVAL);
	CHECK_EQ(sluice_set_change(set, b[0], SLUICE_RECV), -ENOENT);
	CHECK_EQ(sluice_set_change(other, a[0], SLUICE_RECV), -ENOENT);
	CHECK_EQ(sluice_set_remove(set, b[0]), -ENOENT);
	CHECK_EQ(sluice_set_remove(other, a[0]), -ENOENT);
	CHECK_EQ(sluice_set_wait(set, &event, 0, 0, 0), -EINVAL);
	CHECK_OK(sluice_set_remove(set, a[0]));
	CHECK_EQ(sluice_set_remove(set, a[0]), -ENOENT);
	CHECK_OK(sluice_set_add(other, a[0], SLUICE_RECV, NULL));
	sluice_set_free(other);
	sluice_set_free(NULL);
	add(a[0], SLUICE_RECV);
	sluice_set_free(set);
	ends_close(a);
	ends_close(b);
}

/* An epoll instance is shared over fork(): a child must not get at it. */
TAP_TEST(child_of_fork)
{
	struct sluice_conn *a[2], *b[2];
	struct sluice_event event;
	pid_t pid;

	open_set();
	kind_pair(a, &kinds[DIRECT], NULL, NULL);
	add(a[0], SLUICE_RECV);
	expect_none(0);
	pid = tap_fork();
	if (!pid) {
		kind_pair(b, &kinds[DIRECT], NULL, NULL);
		CHECK_EQ(sluice_set_wait(set, &event, 1, 0, 0), -ECHILD);
		CHECK_EQ(sluice_set_remove(set, a[0]), -ECHILD);
		CHECK_EQ(sluice_set_change(set, a[0], SLUICE_SEND), -ECHILD);
		CHECK_EQ(sluice_set_add(set, b[0], SLUICE_RECV, NULL), -ECHILD);
		put(b[1]);
		sluice_set_free(set);
		ends_close(a);
		ends_close(b);
		exit(0);
	}
	tap_join(pid);
	expect_none(20 * MS);
	put(a[1]);
	expect(a[0], SLUICE_RECV);
	sluice_set_free(set);
	ends_close(a);
}

TAP_EACH(reports, kind, kinds)
{
	struct sluice_conn *conn[2], *idle[2];
	int i;

	open_set();
	kind_pair(conn, kind, NULL, NULL);
	kind_pair(idle, kind, NULL, NULL);
	add(idle[0], SLUICE_RECV);
	add(conn[0], SLUICE_RECV);
	for (i = 0; i < 3; i++) {
		expect_none(i * 10 * MS);
		put(conn[1]);
		put(conn[1]);
		expect(conn[0], SLUICE_RECV);
		expect(conn[0], SLUICE_RECV); /* it was not drained */
		CHECK_EQ(drain(conn[0]), 2);
	}
	/* Not in the set: not reported, but kept. */
	CHECK_OK(sluice_set_remove(set, conn[0]));
	put(conn[1]);
	expect_none(10 * MS);
	add(conn[0], SLUICE_SEND);
	expect(conn[0], SLUICE_SEND); /* nothing lacks */
	CHECK_OK(sluice_set_change(set, conn[0], SLUICE_SEND | SLUICE_RECV));
	/* A set that has something to report looks at sockets in turns. */
	for (i = 0; i < 32 && !(next() & SLUICE_RECV); i++)
		;
	CHECK_LT(i, 32);
	CHECK_OK(sluice_set_change(set, conn[0], SLUICE_RECV));
	CHECK_EQ(drain(conn[0]), 1);
	expect_none(10 * MS);
	/* Used without the set having told. */
	put(conn[1]);
	CHECK_EQ(drain(conn[0]), 1);
	put(conn[1]);
	expect(conn[0], SLUICE_RECV);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1), SLUICE_RECV);
	CHECK_EQ(drain(conn[0]), 1);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, MS), -ETIMEDOUT);
	expect_none(0);
	put(conn[1]);
	expect(conn[0], SLUICE_RECV);
	/* Closed: gone from it. */
	sluice_conn_close(conn[0]);
	expect_none(10 * MS);
	sluice_conn_close(conn[1]);
	sluice_set_free(set);
	/* And what was inside goes on without it. */
	put(idle[1]);
	CHECK_EQ(sluice_wait(idle[0], SLUICE_RECV, -1), SLUICE_RECV);
	CHECK_EQ(drain(idle[0]), 1);
	ends_close(idle);
}

/* The end of the peer, in every way, until the conn is taken out. */
TAP_EACH(reports_end, kind, kinds)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	open_set();
	for (int i = 0; i < 3; i++) {
		kind_pair(conn, kind, NULL, NULL);
		add(conn[0], SLUICE_RECV);
		expect_none(MS);
		put(conn[1]);
		if (i == 0)
			CHECK_OK(sluice_conn_shutdown(conn[1]));
		else if (i == 1)
			sluice_conn_close(conn[1]);
		else /* as if it died */
			CHECK_SYS(shutdown(sluice_conn_fd(conn[1]), SHUT_RDWR));
		expect(conn[0], SLUICE_RECV);
		CHECK_EQ(sluice_recv(conn[0], &msg), 1);
		expect(conn[0], SLUICE_RECV);
		CHECK_EQ(sluice_recv(conn[0], &msg),
			 i < 2 || kind->lane == SLUICE_LANE_PLAIN ?
				 0 :
				 -ECONNRESET);
		expect(conn[0], SLUICE_RECV);
		if (i != 1)
			sluice_conn_close(conn[1]);
		sluice_conn_close(conn[0]);
		expect_none(MS);
	}
	sluice_set_free(set);
}

/*
 * Reading a socket on behalf of a send must not hide what was on it: the set
 * would wait for an fd that has nothing more to tell.
 */
TAP_EACH(send_does_not_hide_messages, kind, aware_kinds)
{
	const struct sluice_options small = ENDS_OPTIONS(.ring_slots = 16);
	struct sluice_conn *conn[2];

	open_set();
	kind_pair(conn, kind, &small, NULL);
	add(conn[0], SLUICE_RECV);
	expect_none(0); /* asleep by now */
	put(conn[1]); /* rings */
	CHECK_GE(fill(conn[0]), 1); /* the last one looks at the socket */
	expect(conn[0], SLUICE_RECV);
	CHECK_EQ(drain(conn[0]), 1);
	sluice_set_free(set);
	ends_close(conn);
}

TAP_EACH(loan_does_not_hide_messages, kind, aware_kinds)
{
	const struct sluice_pool_options small = ENDS_POOL(.limit = 65536);
	const struct sluice_options plain_options = ENDS_OPTIONS();
	struct sluice_options shared = ENDS_OPTIONS();
	struct sluice_conn *a[2], *b[2];
	struct sluice_buf *bufs[16];
	struct sluice_pool *pool;
	unsigned int n = 0;

	open_set();
	CHECK_OK(sluice_pool_new(&pool, &small));
	shared.pool = pool;
	kind_pair(a, kind, &shared, &plain_options);
	kind_pair(b, kind, &shared, &plain_options);
	add(a[0], SLUICE_RECV);
	expect_none(0);
	put(a[1]);
	while (n < 16 && !sluice_loan(b[0], 16384, &bufs[n]))
		n++;
	CHECK_EQ(n, 4);
	expect(a[0], SLUICE_RECV);
	CHECK_EQ(drain(a[0]), 1);
	while (n)
		sluice_buf_unref(bufs[--n]);
	sluice_set_free(set);
	ends_close(a);
	ends_close(b);
	sluice_pool_free(pool);
}

#define BUSY 40
#define EACH_HAS 20

/*
 * One event per call, many busy conns, one message taken per event: none waits
 * much longer than for the others' turns.
 */
TAP_EACH(fair, kind, kinds)
{
	struct sluice_conn *conns[BUSY][2];
	unsigned int last[BUSY] = { 0 }, calls = 0, taken = 0, worst = 0, i;
	struct sluice_event event;
	struct sluice_msg msg;

	open_set();
	for (i = 0; i < BUSY; i++) {
		kind_pair(conns[i], kind, NULL, NULL);
		CHECK_OK(sluice_set_add(set, conns[i][0], SLUICE_RECV,
					&last[i]));
		for (int j = 0; j < EACH_HAS; j++)
			put(conns[i][1]);
	}
	while (taken < BUSY * EACH_HAS) {
		unsigned int *since;

		CHECK_EQ(sluice_set_wait(set, &event, 1, SOON, 0), 1);
		since = event.data;
		calls++;
		if (calls - *since > worst)
			worst = calls - *since;
		*since = calls;
		CHECK_EQ(sluice_recv(event.conn, &msg), 1);
		taken++;
	}
	tap_diag("%u calls, at most %u between two turns of a conn", calls,
		 worst);
	CHECK_LE(worst, 2 * BUSY);
	for (i = 0; i < BUSY; i++)
		ends_close(conns[i]);
	sluice_set_free(set);
}

/* Some flood, one is quiet and gets a message now and then. */
TAP_EACH(flood_does_not_starve, kind, kinds)
{
	struct sluice_conn *loud[5][2], *quiet[2];
	unsigned int waited, worst = 0;
	struct sluice_event event;
	struct sluice_msg msg;

	open_set();
	kind_pair(quiet, kind, NULL, NULL);
	add(quiet[0], SLUICE_RECV);
	expect_none(0);
	for (int i = 0; i < 5; i++) {
		kind_pair(loud[i], kind, NULL, NULL);
		add(loud[i][0], SLUICE_RECV);
	}
	for (int round = 0; round < 50; round++) {
		put(quiet[1]);
		for (waited = 0;; waited++) {
			for (int i = 0; i < 5; i++)
				fill(loud[i][1]);
			CHECK_EQ(sluice_set_wait(set, &event, 1, SOON, 0), 1);
			if (event.conn == quiet[0])
				break;
			CHECK_LT(waited, 1000);
			CHECK_EQ(sluice_recv(event.conn, &msg), 1);
		}
		if (waited > worst)
			worst = waited;
		CHECK_EQ(drain(quiet[0]), 1);
		/* Until it is asleep again. */
		for (int i = 0; i < 64; i++)
			CHECK_EQ(sluice_set_wait(set, &event, 1, SOON, 0), 1);
	}
	tap_diag("at most %u others first", worst);
	CHECK_LE(worst, 32);
	for (int i = 0; i < 5; i++)
		ends_close(loud[i]);
	ends_close(quiet);
	sluice_set_free(set);
}

static void *put_later(void *arg)
{
	tap_sleep(20 * MS);
	put(arg);
	return NULL;
}

TAP_EACH(timeouts, kind, kinds)
{
	static const int64_t huge[] = { -1, INT64_MAX, INT64_MAX / 2,
					10 * SECOND };
	struct sluice_conn *conn[2];
	struct sluice_event event;
	pthread_t thread;
	int64_t cpu;

	open_set();
	kind_pair(conn, kind, NULL, NULL);
	add(conn[0], SLUICE_RECV);
	expect_none(0);
	expect_none(1);
	expect_none(3 * MS);
	CHECK_EQ(sluice_set_wait(set, &event, 1, 2 * MS, 20000), 0);
	CHECK_EQ(sluice_set_wait(set, &event, 1, 2 * MS, UINT64_MAX), 0);
	for (int i = 0; i < 4; i++) {
		CHECK_EQ(pthread_create(&thread, NULL, put_later, conn[1]), 0);
		cpu = cpu_now();
		CHECK_EQ(sluice_set_wait(set, &event, 1, huge[i],
					 i & 1 ? 50000 : 0),
			 1);
		CHECK_LT(cpu_now() - cpu, 15 * MS * tap_slow);
		CHECK_EQ(pthread_join(thread, NULL), 0);
		CHECK_EQ(drain(conn[0]), 1);
	}
	/* Spins through it all, and sees it. */
	CHECK_EQ(pthread_create(&thread, NULL, put_later, conn[1]), 0);
	CHECK_EQ(sluice_set_wait(set, &event, 1, -1, UINT64_MAX), 1);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	sluice_set_free(set);
	ends_close(conn);
}

static void on_alarm(int signal)
{
	(void)signal;
}

TAP_TEST(signal_interrupts)
{
	const struct itimerval soon = { .it_value.tv_usec = 20000 };
	const struct sigaction action = { .sa_handler = on_alarm };
	struct sluice_conn *conn[2];
	struct sluice_event event;

	open_set();
	kind_pair(conn, &kinds[DIRECT], NULL, NULL);
	add(conn[0], SLUICE_RECV);
	CHECK_SYS(sigaction(SIGALRM, &action, NULL));
	CHECK_SYS(setitimer(ITIMER_REAL, &soon, NULL));
	CHECK_EQ(sluice_set_wait(set, &event, 1, -1, 0), -EINTR);
	put(conn[1]);
	expect(conn[0], SLUICE_RECV);
	sluice_set_free(set);
	ends_close(conn);
}

static void *ring(void *arg)
{
	const struct sluice_frame bell = { .type = SLUICE_FRAME_DOORBELL };
	struct sluice_conn *conn = arg;
	int64_t end = tap_now() + FLOOD;

	while (tap_now() < end)
		send(sluice_conn_fd(conn), &bell, sizeof(bell),
		     MSG_DONTWAIT | MSG_NOSIGNAL);
	return NULL;
}

/* A peer that rings for nothing keeps nobody from his timeout. */
TAP_TEST(doorbells_do_not_delay_a_timeout)
{
	struct sluice_conn *conn[2];
	struct sluice_event event;
	pthread_t thread;
	int64_t start;

	open_set();
	kind_pair(conn, &kinds[DIRECT], NULL, NULL);
	add(conn[0], SLUICE_RECV);
	CHECK_EQ(pthread_create(&thread, NULL, ring, conn[1]), 0);
	start = tap_now();
	CHECK_EQ(sluice_set_wait(set, &event, 1, 0, 0), 0);
	CHECK_EQ(sluice_set_wait(set, &event, 1, 30 * MS, 0), 0);
	CHECK_LT(tap_now() - start, FLOOD / 2);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	sluice_set_free(set);
	ends_close(conn);
}
