/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The arm rule of sluice.h in event loops of the application's own: poll, epoll
 * level- and edge-triggered, and io_uring multishot poll, for every kind of
 * connection, receiving and sending, against a peer in another process that
 * pauses at random. No event may be lost, and the loop must not wake up for
 * nothing more than now and then.
 */
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "waits.h"

#define BOUND (2 * SECOND * tap_slow)
#define MESSAGES 4000 /* to receive */
#define SENDS 20000
#define IDLE (300 * MS)

enum way { POLL, EPOLL_LEVEL, EPOLL_EDGE, URING };

struct loop {
	enum way way;
	int fd, epoll;
	short events; /* as registered; 0: nothing is */
	struct io_uring ring;
	uint64_t shot; /* user_data of the multishot poll that counts */
	bool armed_shot;
};

static void loop_open(struct loop *loop, enum way way, int fd)
{
	int r;

	*loop = (struct loop){ .way = way, .fd = fd, .epoll = -1 };
	if (way == EPOLL_LEVEL || way == EPOLL_EDGE) {
		struct epoll_event none = { .events = EPOLLET };

		loop->epoll = CHECK_SYS(epoll_create1(EPOLL_CLOEXEC));
		CHECK_SYS(epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &none));
	}
	if (way == URING) {
		r = io_uring_queue_init(64, &loop->ring, 0);
		if (r == -ENOSYS || r == -EPERM)
			tap_skip("io_uring_setup: %s", strerror(-r));
		CHECK_OK(r);
	}
}

static void loop_close(struct loop *loop)
{
	if (loop->way == URING)
		io_uring_queue_exit(&loop->ring);
	else if (loop->epoll >= 0)
		close(loop->epoll);
}

/* In one process: the fd's edge comes once, for all that the peer has sent. */
TAP_TEST(edge_with_a_switch)
{
	struct sluice_conn *conn[2];
	struct epoll_event event;
	struct sluice_msg msg;
	struct loop loop;
	short events;

	kind_pair(conn, &kinds[QUEUED], NULL, NULL);
	loop_open(&loop, EPOLL_EDGE, sluice_conn_fd(conn[1]));
	event = (struct epoll_event){ .events = EPOLLIN | EPOLLET };
	CHECK_SYS(epoll_ctl(loop.epoll, EPOLL_CTL_MOD, loop.fd, &event));
	CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
	CHECK_EQ(sluice_arm(conn[1], SLUICE_RECV, &events), 0);
	/* A SWITCH frame, nothing in the ring, BYE. */
	CHECK_OK(sluice_conn_set_lane(conn[0], SLUICE_LANE_DIRECT));
	CHECK_OK(sluice_conn_shutdown(conn[0]));
	CHECK_EQ(epoll_wait(loop.epoll, &event, 1, 0), 1);
	CHECK_EQ(sluice_arm(conn[1], SLUICE_RECV, &events), SLUICE_RECV);
	CHECK_EQ(sluice_recv(conn[1], &msg), 0);
	loop_close(&loop);
	ends_close(conn);
}

/* Registered once, again only when the events change. */
static void loop_change(struct loop *loop, short events)
{
	struct epoll_event event = { .events = (uint32_t)events };
	struct io_uring_sqe *sqe;

	if (loop->way == EPOLL_EDGE)
		event.events |= EPOLLET;
	if (loop->epoll >= 0 && loop->events != events)
		CHECK_SYS(epoll_ctl(loop->epoll, EPOLL_CTL_MOD, loop->fd,
				    &event));
	if (loop->way == URING &&
	    (loop->events != events || !loop->armed_shot)) {
		if (loop->armed_shot) {
			sqe = io_uring_get_sqe(&loop->ring);
			CHECK(sqe != NULL);
			io_uring_prep_poll_remove(sqe, loop->shot);
			sqe->user_data = 0;
		}
		sqe = io_uring_get_sqe(&loop->ring);
		CHECK(sqe != NULL);
		io_uring_prep_poll_multishot(sqe, loop->fd,
					     (unsigned int)events);
		sqe->user_data = ++loop->shot;
		loop->armed_shot = true;
		CHECK_OK(io_uring_submit(&loop->ring));
	}
	loop->events = events;
}

/* Takes what the ring has; true if the poll that counts has fired. */
static bool uring_take(struct loop *loop)
{
	struct io_uring_cqe *cqe;
	bool fired = false;

	while (!io_uring_peek_cqe(&loop->ring, &cqe)) {
		if (cqe->user_data == loop->shot) {
			fired |= cqe->res > 0;
			if (!(cqe->flags & IORING_CQE_F_MORE))
				loop->armed_shot = false;
		}
		io_uring_cqe_seen(&loop->ring, cqe);
	}
	return fired;
}

static bool uring_wait(struct loop *loop, int64_t timeout)
{
	int64_t end = tap_now() + timeout, left;
	struct io_uring_cqe *cqe;

	while (!uring_take(loop)) {
		struct __kernel_timespec t;

		left = end - tap_now();
		if (left < 0)
			return false;
		t.tv_sec = left / SECOND;
		t.tv_nsec = left % SECOND;
		io_uring_wait_cqe_timeout(&loop->ring, &cqe, &t);
	}
	return true;
}

/* Sleeps on the fd; whether it fired. */
static bool loop_sleep(struct loop *loop, short events, int64_t timeout)
{
	int ms = (int)(timeout / MS);
	struct pollfd p = { .fd = loop->fd, .events = events };
	struct epoll_event event;

	loop_change(loop, events);
	switch (loop->way) {
	case POLL:
		return CHECK_SYS(poll(&p, 1, ms));
	case URING:
		return uring_wait(loop, timeout);
	default:
		return CHECK_SYS(epoll_wait(loop->epoll, &event, 1, ms));
	}
}

/* The peer ------------------------------------------------------------------ */

struct board {
	_Atomic uint64_t sent, received;
	_Atomic bool up; /* the child has its lane */
	_Atomic bool go; /* it may go on */
};

struct test {
	const char *name;
	enum way way;
	int kind;
	bool nonblocking; /* the application made the socket so */
	struct board *board;
};

static void pause_a_while(void)
{
	uint64_t pick = tap_random_below(16);

	if (pick < 8)
		busy(60000);
	else if (pick < 10)
		tap_sleep((int64_t)tap_random_below(300000));
}

static void await_go(struct board *board)
{
	while (!atomic_exchange(&board->go, false))
		tap_sleep(MS);
}

static void send_all(struct sluice_conn *conn, void *arg)
{
	const struct test *test = arg;
	struct board *board = test->board;
	uint64_t n;
	int r;

	for (n = 0; n < MESSAGES; n++) {
		if (n == MESSAGES / 2)
			await_go(board);
		while ((r = sluice_send(conn, &n, sizeof(n), n, 0)) == -EAGAIN)
			CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
		CHECK_EQ(r, 0);
		atomic_store(&board->sent, n + 1);
		if (!tap_random_below(3))
			pause_a_while();
	}
	await_go(board);
}

static void receive_all(struct sluice_conn *conn, void *arg)
{
	const struct test *test = arg;
	struct board *board = test->board;
	struct sluice_msg msg;
	uint64_t n = 0;
	int r;

	atomic_store(&board->up, true);
	await_go(board);
	while ((r = sluice_recv_wait(conn, &msg, -1))) {
		CHECK_EQ(r, 1);
		CHECK_OK(sluice_release(conn, &msg));
		atomic_store(&board->received, ++n);
		if (!tap_random_below(8))
			pause_a_while();
	}
	CHECK_EQ(n, atomic_load(&board->sent));
}

/* This side ----------------------------------------------------------------- */

struct counts {
	uint64_t wakes, idle_wakes;
	bool saw_pollout;
};

/* Nothing goes on: the fd must be silent, but for what is pending already. */
static void check_idle(struct sluice_conn *conn, struct loop *loop,
		       uint32_t what)
{
	short events;

	for (int i = 0; i < 2; i++) {
		CHECK_EQ(sluice_arm(conn, what, &events), 0);
		loop_sleep(loop, events, 10 * MS);
	}
	CHECK_EQ(sluice_arm(conn, what, &events), 0);
	CHECK(!loop_sleep(loop, events, IDLE));
}

/* Step 2 and 3 of the rule. False: nothing came within BOUND. */
static bool arm_and_sleep(struct sluice_conn *conn, struct loop *loop,
			  uint32_t what, bool worked, struct counts *counts)
{
	short events = 0;
	int r = sluice_arm(conn, what, &events);

	if (!worked)
		counts->idle_wakes++;
	if (r) {
		CHECK_EQ(r & ~what, 0);
		CHECK_GT(r, 0);
		return true;
	}
	counts->saw_pollout |= events & POLLOUT;
	counts->wakes++;
	return loop_sleep(loop, events, BOUND);
}

static void check_counts(const struct test *test, const struct counts *counts,
			 uint64_t messages)
{
	bool edge = test->way == EPOLL_EDGE || test->way == URING;

	tap_diag("%llu messages, %llu sleeps, woken for nothing %llu times",
		 (unsigned long long)messages,
		 (unsigned long long)counts->wakes,
		 (unsigned long long)counts->idle_wakes);
	/* An edge that came while awake is pending, once per sleep. */
	if (edge)
		CHECK_LE(counts->idle_wakes, counts->wakes / 2 + 20);
	else
		CHECK_LE(counts->idle_wakes, counts->wakes / 20 + 20);
}

static void open_both(struct sluice_conn **conn, struct loop *loop,
		      struct test *test, pid_t *pid,
		      void (*run)(struct sluice_conn *conn, void *arg))
{
	const struct kind_setup setup = { .kind = &kinds[test->kind] };
	int fd, flags;

	test->board = shared_page(sizeof(*test->board));
	*pid = kind_fork(conn, &setup, run, test);
	fd = sluice_conn_fd(*conn);
	flags = CHECK_SYS(fcntl(fd, F_GETFL));
	if (test->nonblocking)
		CHECK_SYS(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
	loop_open(loop, test->way, fd);
}

static const struct test tests[] = {
#define WAYS(kind, id)                                                \
	{ kind "-poll", POLL, id, false, NULL },                      \
		{ kind "-epoll-level", EPOLL_LEVEL, id, true, NULL }, \
		{ kind "-epoll-edge", EPOLL_EDGE, id, false, NULL },  \
	{                                                             \
		kind "-uring-multishot", URING, id, true, NULL        \
	}
	WAYS("plain", PLAIN),
	WAYS("queued", QUEUED),
	WAYS("linkless", LINKLESS),
	WAYS("direct", DIRECT),
};

TAP_EACH(receive, row, tests)
{
	struct counts counts = { 0 };
	struct test test = *row;
	struct sluice_conn *conn;
	struct sluice_msg msg;
	uint64_t n = 0, before;
	struct loop loop;
	pid_t pid;
	int r;

	open_both(&conn, &loop, &test, &pid, send_all);
	for (;;) {
		before = n;
		while ((r = sluice_recv(conn, &msg)) == 1) {
			uint64_t number;

			CHECK_EQ(msg.len, sizeof(number));
			number = *(const uint64_t *)sluice_msg_data(&msg);
			CHECK_EQ(number, n);
			n++;
		}
		if (r != -EAGAIN)
			break;
		if (n > before && n == MESSAGES / 2)
			check_idle(conn, &loop, SLUICE_RECV);
		if (n > before && (n == MESSAGES / 2 || n == MESSAGES))
			atomic_store(&test.board->go, true);
		while (!arm_and_sleep(conn, &loop, SLUICE_RECV, n > before,
				      &counts))
			if (atomic_load(&test.board->sent) > n)
				lost(conn,
				     "a message was there, the fd silent");
	}
	CHECK_EQ(r, 0); /* the peer has closed, which made the fd readable */
	CHECK_EQ(n, MESSAGES);
	check_counts(&test, &counts, n);
	loop_close(&loop);
	sluice_conn_close(conn);
	tap_join(pid);
}

/* Is everything that was sent received, and therefore room? */
static bool drained(struct board *board, uint64_t sent)
{
	return atomic_load(&board->received) == sent;
}

TAP_EACH(send, row, tests)
{
	struct counts counts = { 0 };
	struct test test = *row;
	struct sluice_conn *conn;
	uint64_t n = 0, before;
	bool started = false;
	struct loop loop;
	struct sluice_msg msg;
	pid_t pid;
	int r = 0;

	open_both(&conn, &loop, &test, &pid, receive_all);
	CHECK_SOON(atomic_load(&test.board->up));
	while (n < SENDS) {
		before = n;
		while (n < SENDS &&
		       !(r = sluice_send(conn, &n, sizeof(n), n, 0)))
			n++;
		atomic_store(&test.board->sent, n);
		if (n == SENDS)
			break;
		CHECK_EQ(r, -EAGAIN);
		if (!started && n) {
			check_idle(conn, &loop, SLUICE_SEND);
			atomic_store(&test.board->go, true);
			started = true;
		}
		while (!arm_and_sleep(conn, &loop, SLUICE_SEND, n > before,
				      &counts))
			if (started && drained(test.board, n))
				lost(conn, "there was room, the fd silent");
	}
	CHECK_EQ(counts.saw_pollout, test.kind != DIRECT);
	CHECK_OK(sluice_conn_shutdown(conn));
	/* The end of the peer makes the fd readable. */
	while ((r = sluice_recv(conn, &msg)) == -EAGAIN)
		while (!arm_and_sleep(conn, &loop, SLUICE_RECV, true, &counts))
			if (drained(test.board, n))
				lost(conn,
				     "the peer has closed, the fd silent");
	CHECK_EQ(r, 0);
	check_counts(&test, &counts, n);
	loop_close(&loop);
	sluice_conn_close(conn);
	tap_join(pid);
}

/* Two idle ends would keep each other awake. */
TAP_EACH(arming_rings_nobody, kind, kinds)
{
	struct sluice_conn *conn[2];
	struct sluice_conn_info info;
	struct pollfd p[2];
	short events;

	kind_pair(conn, kind, NULL, NULL);
	for (int i = 0; i < 8; i++) {
		struct sluice_conn *one = conn[i & 1];

		CHECK_EQ(sluice_arm(one, SLUICE_RECV, &events), 0);
		if (i & 2)
			CHECK_OK(sluice_flush(one));
		for (int j = 0; j < 2; j++)
			p[j] = (struct pollfd){ sluice_conn_fd(conn[j]), POLLIN,
						0 };
		CHECK_EQ(poll(p, 2, 0), 0);
	}
	for (int i = 0; i < 2; i++) {
		sluice_conn_info(conn[i], &info);
		CHECK_LE(info.doorbells_sent, 1); /* a lane switch may ring */
	}
	ends_close(conn);
}
