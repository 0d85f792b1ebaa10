/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Senders that wait for room, ids or buffers, above all for a buffer of a pool
 * that many conns share: it may come back at any of them, in any way, and those
 * that wait for it must hear of that. In a wait set, in sluice_wait() and in an
 * event loop of the application's own. Both ends are in this process.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "waits.h"

#define SOON (5 * SECOND * tap_slow)
#define BUFFER 16384

static struct sluice_set *set;

static uint32_t ready_of(struct sluice_conn *conn, int64_t timeout)
{
	struct sluice_event events[8];
	int64_t end = tap_now() + timeout, left;
	int n;

	do {
		left = end - tap_now();
		n = CHECK_OK(sluice_set_wait(set, events, 8,
					     left > 0 ? left : 0, 0));
		for (int i = 0; i < n; i++)
			if (events[i].conn == conn)
				return events[i].ready;
	} while (n && tap_now() < end);
	return 0;
}

/* What a sender may wait for, without any other conn in it. */
struct need {
	const char *name;
	int kind;
	bool buffers; /* of its own pool; else what 4-byte messages need */
	bool ids;
};

static const struct need needs[] = {
	{ "room-plain", PLAIN, false, false },
	{ "room-queued", QUEUED, false, false },
	{ "room-linkless", LINKLESS, false, false },
	{ "room-direct", DIRECT, false, false },
	{ "ids-queued", QUEUED, false, true },
	{ "ids-linkless", LINKLESS, false, true },
	{ "ids-direct", DIRECT, false, true },
	{ "buffers-queued", QUEUED, true, false },
	{ "buffers-linkless", LINKLESS, true, false },
	{ "buffers-direct", DIRECT, true, false },
};

/* Sends buffers until -EAGAIN. */
static unsigned int fill_buffers(struct sluice_conn *conn, uint32_t size)
{
	struct sluice_buf *buf;
	unsigned int n = 0;
	int r;

	while (!(r = sluice_loan(conn, size, &buf))) {
		r = sluice_send_buf(conn, buf, size, 0, 0);
		if (r) {
			sluice_buf_unref(buf);
			break;
		}
		n++;
	}
	CHECK_EQ(r, -EAGAIN);
	return n;
}

static unsigned int fill_with(struct sluice_conn *conn, const struct need *need)
{
	return need->buffers ? fill_buffers(conn, BUFFER) :
	       need->ids     ? fill_buffers(conn, 64) :
			       fill(conn);
}

/* Receives and releases all, answers what is on the socket, and sends it all. */
static void drain_and_answer(struct sluice_conn *conn)
{
	drain(conn);
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK_OK(sluice_flush(conn));
}

TAP_EACH(wakes, need, needs)
{
	const struct sluice_pool_options pool = ENDS_POOL(.limit = 4 * BUFFER);
	const struct sluice_options mine = ENDS_OPTIONS(.pool_options = &pool);
	const struct sluice_options peers = ENDS_OPTIONS(.hold_limit = 16);
	struct sluice_conn *conn[2];
	int64_t cpu;

	CHECK_OK(sluice_set_new(&set));
	kind_pair(conn, &kinds[need->kind], &mine, &peers);
	for (int i = 0; i < 4; i++) {
		CHECK_GE(fill_with(conn[0], need), 1);
		if (i == 0)
			CHECK_OK(sluice_set_add(set, conn[0], SLUICE_SEND,
						NULL));
		cpu = cpu_now();
		CHECK_EQ(ready_of(conn[0], 100 * MS), 0);
		CHECK_LT(cpu_now() - cpu, 40 * MS);
		drain_and_answer(conn[1]);
		CHECK_EQ(ready_of(conn[0], SOON), SLUICE_SEND);
	}
	/* The peer's death is the end of waiting, too. */
	fill_with(conn[0], need);
	CHECK_EQ(ready_of(conn[0], 0), 0);
	CHECK_SYS(shutdown(sluice_conn_fd(conn[1]), SHUT_RDWR));
	CHECK_EQ(ready_of(conn[0], SOON), SLUICE_SEND);
	CHECK_EQ(sluice_send(conn[0], "x", 1, 0, 0), -EPIPE);
	sluice_set_free(set);
	ends_close(conn);
}

/* A shared pool ------------------------------------------------------------ */

enum how { IN_SET, IN_WAIT };

struct way {
	const char *name;
	int kind; /* of the conn that has the buffers out */
	enum how how; /* the other waits */
};

#define SET_WAYS                                      \
	{ "queued-set", QUEUED, IN_SET },             \
		{ "linkless-set", LINKLESS, IN_SET }, \
	{                                             \
		"direct-set", DIRECT, IN_SET          \
	}

static const struct way set_ways[] = { SET_WAYS };
static const struct way ways[] = {
	SET_WAYS,
	{ "queued-wait", QUEUED, IN_WAIT },
	{ "linkless-wait", LINKLESS, IN_WAIT },
	{ "direct-wait", DIRECT, IN_WAIT },
};

/*
 * a waits for a buffer of the pool; all of them are out at c. Both ends of
 * each; b is another one that waits.
 */
static struct sluice_pool *pool;
static struct sluice_conn *a[2], *b[2], *c[2];

static void open_limited(const struct way *way, uint64_t bytes)
{
	const struct sluice_pool_options limit = ENDS_POOL(.limit = bytes);
	struct sluice_options mine = ENDS_OPTIONS(.no_spin = 1);
	const struct sluice_options peers = ENDS_OPTIONS();

	CHECK_OK(sluice_set_new(&set));
	CHECK_OK(sluice_pool_new(&pool, &limit));
	mine.pool = pool;
	kind_pair(a, &kinds[DIRECT], &mine, &peers);
	kind_pair(b, &kinds[DIRECT], &mine, &peers);
	kind_pair(c, &kinds[way->kind], &mine, &peers);
}

static void open_shared(const struct way *way)
{
	open_limited(way, 4 * BUFFER);
}

static void close_shared(void)
{
	sluice_set_free(set);
	ends_close(a);
	ends_close(b);
	ends_close(c);
	sluice_pool_free(pool);
}

static void add(struct sluice_conn *conn, uint32_t what)
{
	CHECK_OK(sluice_set_add(set, conn, what, NULL));
}

static void lack_buffer(struct sluice_conn *conn)
{
	struct sluice_buf *buf;

	CHECK_EQ(sluice_loan(conn, BUFFER, &buf), -EAGAIN);
}

static void check_gets_buffer(struct sluice_conn *conn)
{
	struct sluice_buf *buf;

	CHECK_EQ(sluice_loan(conn, BUFFER, &buf), 0);
	sluice_buf_unref(buf);
}

struct act {
	void (*run)(struct sluice_conn *conn);
	struct sluice_conn *conn;
};

static void *act_later(void *arg)
{
	struct act *act = arg;

	tap_sleep(20 * MS);
	act->run(act->conn);
	return NULL;
}

/*
 * All buffers are out at c. a waits; then `run` is done to the other end of c,
 * which gives at least one back.
 */
static void check_woken(const struct way *way,
			void (*run)(struct sluice_conn *conn))
{
	struct act act = { run, c[1] };
	pthread_t thread;

	lack_buffer(a[0]);
	if (way->how == IN_SET) {
		add(a[0], SLUICE_SEND);
		CHECK_EQ(ready_of(a[0], 50 * MS), 0);
		run(c[1]);
		CHECK_EQ(ready_of(a[0], SOON), SLUICE_SEND);
	} else {
		CHECK_EQ(sluice_wait(a[0], SLUICE_SEND, 20 * MS), -ETIMEDOUT);
		CHECK_EQ(pthread_create(&thread, NULL, act_later, &act), 0);
		CHECK_EQ(sluice_wait(a[0], SLUICE_SEND, SOON), SLUICE_SEND);
		CHECK_EQ(pthread_join(thread, NULL), 0);
	}
	check_gets_buffer(a[0]);
}

static void hang_up(struct sluice_conn *conn)
{
	CHECK_SYS(shutdown(sluice_conn_fd(conn), SHUT_RDWR));
}

TAP_EACH(released_at_another, way, ways)
{
	open_shared(way);
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	if (way->how == IN_SET)
		add(c[0], SLUICE_RECV);
	check_woken(way, drain_and_answer);
	close_shared();
}

TAP_EACH(peer_of_another_dies, way, ways)
{
	open_shared(way);
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	if (way->how == IN_SET)
		add(c[0], SLUICE_RECV);
	check_woken(way, hang_up);
	close_shared();
}

static void drain_to_end(struct sluice_conn *conn)
{
	struct sluice_msg msg;
	int r;

	while ((r = sluice_recv(conn, &msg)) == 1)
		CHECK_OK(sluice_release(conn, &msg));
	CHECK_EQ(r, 0);
	CHECK_OK(sluice_flush(conn));
}

/* c is closed here while its peer still holds the buffers. */
TAP_EACH(released_at_closed, way, ways)
{
	open_shared(way);
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	if (way->how == IN_SET)
		add(c[0], SLUICE_RECV);
	sluice_conn_close(c[0]);
	c[0] = NULL;
	check_woken(way, drain_to_end);
	close_shared();
}

TAP_EACH(peer_of_closed_dies, way, ways)
{
	open_shared(way);
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	if (way->how == IN_SET)
		add(c[0], SLUICE_RECV);
	sluice_conn_close(c[0]);
	c[0] = NULL;
	check_woken(way, hang_up);
	close_shared();
}

/* The same, and c was closed with thousands of messages unread. */
TAP_EACH(released_at_closed_full, way, ways)
{
	struct sluice_event event;

	open_shared(way);
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	add(c[0], SLUICE_RECV);
	if (way->kind != DIRECT)
		for (int i = 0; i < 8000; i++) {
			if (sluice_send(c[1], "x", 1, 0, SLUICE_SEND_F_BATCH))
				CHECK_EQ(sluice_set_wait(set, &event, 1, 0, 0),
					 1);
		}
	sluice_conn_close(c[0]);
	c[0] = NULL;
	check_woken(way, drain_to_end);
	close_shared();
}

/* Room comes from memory of another class, given back by c's peer. */
TAP_EACH(retired_at_another, way, ways)
{
	struct sluice_buf *buf;

	open_shared(way);
	CHECK_EQ(fill_buffers(c[0], 2 * BUFFER), 2);
	drain_and_answer(c[1]);
	if (way->how == IN_SET)
		add(c[0], SLUICE_RECV);
	/* Asks for the segment of the larger ones to be forgotten. */
	CHECK_EQ(sluice_loan(c[0], BUFFER, &buf), -EAGAIN);
	check_woken(way, drain_and_answer);
	close_shared();
}

/* In a set, with what only the application can do ---------------------------- */

TAP_TEST(given_back_here)
{
	struct sluice_buf *bufs[4];

	open_shared(&set_ways[2]);
	for (int i = 0; i < 4; i++)
		CHECK_OK(sluice_loan(c[0], BUFFER, &bufs[i]));
	lack_buffer(a[0]);
	add(a[0], SLUICE_SEND);
	CHECK_EQ(ready_of(a[0], 10 * MS), 0);
	sluice_buf_unref(bufs[0]);
	CHECK_EQ(ready_of(a[0], SOON), SLUICE_SEND);
	check_gets_buffer(a[0]);
	for (int i = 1; i < 4; i++)
		sluice_buf_unref(bufs[i]);
	close_shared();
}

/* The doorbell is read by a receive on c, not by the set. */
TAP_EACH(doorbell_read_by_recv, way, set_ways)
{
	open_shared(way);
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	lack_buffer(a[0]);
	add(a[0], SLUICE_SEND);
	add(c[0], SLUICE_RECV);
	CHECK_EQ(ready_of(a[0], 10 * MS), 0);
	drain_and_answer(c[1]);
	CHECK_OK(sluice_send(c[1], "x", 1, 0, 0));
	CHECK_EQ(drain(c[0]), 1);
	CHECK_EQ(sluice_wait(c[0], SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK_EQ(ready_of(a[0], SOON), SLUICE_SEND);
	check_gets_buffer(a[0]);
	close_shared();
}

/* Two wait; one of them, and c, are used for something else meanwhile. */
TAP_EACH(one_waiter_leaves, way, set_ways)
{
	open_shared(way);
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	lack_buffer(a[0]);
	lack_buffer(b[0]);
	add(a[0], SLUICE_SEND);
	add(b[0], SLUICE_SEND);
	add(c[0], SLUICE_RECV);
	CHECK_EQ(ready_of(a[0], 10 * MS), 0);
	CHECK_EQ(drain(b[0]), 0); /* awake by that */
	CHECK_EQ(drain(c[0]), 0);
	CHECK_OK(sluice_set_remove(set, b[0]));
	CHECK_EQ(ready_of(a[0], 10 * MS), 0);
	CHECK_EQ(drain(c[0]), 0);
	drain_and_answer(c[1]);
	CHECK_EQ(ready_of(a[0], SOON), SLUICE_SEND);
	close_shared();
}

/* A plain conn waits for a buffer, and its peer hangs up. */
TAP_TEST(plain_peer_hangs_up)
{
	struct sluice_options mine = ENDS_OPTIONS();
	struct sluice_conn *plain[2];
	int64_t cpu;

	open_shared(&set_ways[2]);
	mine.pool = pool;
	kind_pair(plain, &kinds[PLAIN], &mine,
		  &(struct sluice_options){
			  .size = sizeof(struct sluice_options) });
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	lack_buffer(plain[0]);
	add(plain[0], SLUICE_SEND);
	CHECK_EQ(ready_of(plain[0], 10 * MS), 0);
	hang_up(plain[1]);
	cpu = cpu_now();
	CHECK_EQ(ready_of(plain[0], SOON), SLUICE_SEND);
	CHECK_LT(cpu_now() - cpu, 100 * MS);
	CHECK_EQ(sluice_send(plain[0], "x", 1, 0, 0), -EPIPE);
	close_shared();
	ends_close(plain);
}

/*
 * An own event loop: two wait, and the rule of sluice.h is kept. A small buffer
 * that comes back is of no use to them, but uses up the ring of the bell.
 */
TAP_EACH(own_loop_with_two_waiters, way, set_ways)
{
	struct pollfd p = { .events = POLLIN };
	struct sluice_msg small, large;
	struct sluice_buf *buf, *kept;
	short events;

	open_limited(way, 8 * BUFFER);
	p.fd = sluice_conn_fd(c[0]);
	CHECK_OK(sluice_loan(c[0], BUFFER / 2, &kept));
	CHECK_OK(sluice_loan(c[0], BUFFER / 2, &buf));
	CHECK_OK(sluice_send_buf(c[0], buf, 64, 0, 0));
	CHECK_EQ(fill_buffers(c[0], BUFFER), 4);
	CHECK_EQ(sluice_recv(c[1], &small), 1);
	CHECK_EQ(sluice_recv(c[1], &large), 1);
	for (int i = 0; i < 2; i++) {
		lack_buffer(a[0]);
		lack_buffer(b[0]);
		CHECK_EQ(sluice_arm(a[0], SLUICE_SEND, &events), 0);
		CHECK_EQ(sluice_arm(b[0], SLUICE_SEND, &events), 0);
		CHECK_EQ(sluice_arm(c[0], SLUICE_RECV, &events), 0);
		CHECK_EQ(poll(&p, 1, 0), 0);
		CHECK_OK(sluice_release(c[1], i ? &large : &small));
		CHECK_OK(sluice_flush(c[1]));
		CHECK_EQ(poll(&p, 1, 5000), 1);
		CHECK_EQ(drain(c[0]), 0);
	}
	CHECK_EQ(sluice_arm(a[0], SLUICE_SEND, &events), SLUICE_SEND);
	check_gets_buffer(a[0]);
	sluice_buf_unref(kept);
	close_shared();
}
