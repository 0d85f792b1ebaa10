/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A receiver that sleeps whenever it can, in every way there is to sleep: no
 * doorbell may be lost. Several conns share a ring; their senders pause at random.
 *
 * Limit: 600 s
 */
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steers.h"

#define SENDERS 2
#define CONNS 6 /* of each sender one in two */
#define LEN_MAX 64
#define LOST_MS (20000 * tap_slow)

struct hub {
	struct daemon d;
	struct sluice_endpoint *endpoint;
	struct sluice_conn *conn[CONNS];
	int peer[CONNS];
	uint64_t next[CONNS];
	uint64_t each; /* messages of every conn */
	uint64_t left; /* of all */
	pid_t pid[SENDERS];
};

static void sender_main(const struct hub *hub, int first)
{
	uint64_t next[CONNS] = { 0 }, left = hub->each * CONNS / SENDERS;
	unsigned int burst;
	int i;

	tap_random_stream(1 + (uint64_t)first);
	while (left) {
		i = first + SENDERS * (int)tap_random_below(CONNS / SENDERS);
		burst = (unsigned int)tap_random_below(16);
		for (; burst && next[i] < hub->each; burst--, left--)
			steers_send(hub->peer[i], (uint64_t)i, next[i]++,
				    LEN_MAX);
		if (!tap_random_below(4))
			tap_sleep((int64_t)tap_random_below(100000));
	}
}

static void hub_open(struct hub *hub, uint64_t messages)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.ring_slots = 1024, .conns = 16);
	struct sluice_options options = ENDS_OPTIONS(.no_spin = 1);
	int i;

	memset(hub, 0, sizeof(*hub));
	steers_start(&hub->d);
	CHECK_OK(sluice_endpoint_new(&hub->endpoint, &e));
	options.endpoint = hub->endpoint;
	for (i = 0; i < CONNS; i++)
		steers_pair(&hub->conn[i], &hub->peer[i], &options);
	hub->each = messages / CONNS;
	hub->left = hub->each * CONNS;
	for (i = 0; i < SENDERS; i++) {
		hub->pid[i] = tap_fork();
		if (!hub->pid[i]) {
			sender_main(hub, i);
			_exit(0);
		}
	}
}

static void hub_close(struct hub *hub)
{
	uint64_t steered = 0, spilled = 0;
	int i;

	for (i = 0; i < SENDERS; i++)
		tap_join(hub->pid[i]);
	for (i = 0; i < CONNS; i++) {
		CHECK_EQ(hub->next[i], hub->each);
		steered += steers_steered(hub->conn[i]);
		spilled += steers_spilled(hub->conn[i]);
		close(hub->peer[i]);
		sluice_conn_close(hub->conn[i]);
	}
	tap_diag("%llu steered, %llu spilled", (unsigned long long)steered,
		 (unsigned long long)spilled);
	CHECK_GT(steered, 0);
	sluice_endpoint_free(hub->endpoint);
	steers_stop(&hub->d);
}

/* Takes what there is of a conn. */
static void take(struct hub *hub, int i)
{
	struct sluice_msg msg;
	int r;

	while ((r = sluice_recv(hub->conn[i], &msg)) == 1) {
		steers_check(sluice_msg_data(&msg), msg.len, (uint64_t)i,
			     hub->next[i]++, LEN_MAX);
		CHECK_OK(sluice_release(hub->conn[i], &msg));
		hub->left--;
	}
	CHECK_EQ(r, -EAGAIN);
}

/* One conn, sluice_wait(). ------------------------------------------------- */

TAP_TEST(wait_one)
{
	struct sluice_options options = ENDS_OPTIONS(.no_spin = 1);
	uint64_t i, count = 1000000 / (uint64_t)tap_slow;
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	struct daemon d;
	int peer;
	pid_t pid;

	tap_limit(180);
	steers_start(&d);
	steers_pair(&conn, &peer, &options);
	pid = tap_fork();
	if (!pid) {
		tap_random_stream(1);
		for (i = 0; i < count; i++) {
			steers_send(peer, 5, i, LEN_MAX);
			if (!tap_random_below(16))
				usleep((useconds_t)tap_random_below(30));
		}
		_exit(0);
	}
	for (i = 0; i < count; i++) {
		steers_recv(conn, 5, i, LEN_MAX);
		if (!tap_random_below(64))
			usleep((useconds_t)tap_random_below(30));
	}
	tap_join(pid);
	sluice_conn_info(conn, &info);
	tap_diag("%llu sleeps, %llu steered, %llu spilled",
		 (unsigned long long)info.sleeps,
		 (unsigned long long)info.steered,
		 (unsigned long long)info.spilled);
	CHECK_GT(info.sleeps, count / 1000);
	close(peer);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/* Event loops of one's own ------------------------------------------------- */

/* Drains and arms all; false if there was something meanwhile. */
static bool arm_all(struct hub *hub)
{
	short events;
	int i, r;

	for (i = 0; i < CONNS; i++) {
		r = CHECK_OK(sluice_arm(hub->conn[i], SLUICE_RECV, &events));
		if (r)
			return false;
		CHECK_EQ(events, POLLIN);
	}
	return true;
}

TAP_TEST(poll_all)
{
	struct pollfd fds[CONNS];
	struct hub hub;
	int i;

	hub_open(&hub, 150000 / (uint64_t)tap_slow);
	for (i = 0; i < CONNS; i++)
		fds[i] = (struct pollfd){
			.fd = CHECK_OK(sluice_conn_fd(hub.conn[i])),
			.events = POLLIN,
		};
	while (hub.left) {
		for (i = 0; i < CONNS; i++)
			take(&hub, i);
		if (hub.left && arm_all(&hub))
			CHECK_GT(poll(fds, CONNS, LOST_MS), 0);
	}
	hub_close(&hub);
}

static const struct mode {
	const char *name;
	uint32_t flags;
	int at_once; /* events taken in one epoll_wait() */
} modes[] = {
	{ "level", 0, 1 },
	{ "level_many", 0, CONNS },
	{ "edge", EPOLLET, 1 },
	{ "edge_many", EPOLLET, CONNS },
	{ "oneshot", EPOLLONESHOT, 1 },
};

/* Each conn is served and armed only when its own fd fires. */
TAP_EACH(epoll, mode, modes)
{
	struct epoll_event event, fired[CONNS];
	int epoll_fd, i, n, r;
	struct hub hub;
	short events;

	hub_open(&hub, 150000 / (uint64_t)tap_slow);
	epoll_fd = CHECK_SYS(epoll_create1(0));
	for (i = 0; i < CONNS; i++) {
		event = (struct epoll_event){ .events = EPOLLIN | mode->flags,
					      .data.u32 = (uint32_t)i };
		do {
			take(&hub, i);
			r = CHECK_OK(
				sluice_arm(hub.conn[i], SLUICE_RECV, &events));
		} while (r);
		CHECK_SYS(epoll_ctl(epoll_fd, EPOLL_CTL_ADD,
				    sluice_conn_fd(hub.conn[i]), &event));
	}
	while (hub.left) {
		n = CHECK_SYS(
			epoll_wait(epoll_fd, fired, mode->at_once, LOST_MS));
		CHECK_GT(n, 0);
		while (n--) {
			i = (int)fired[n].data.u32;
			do {
				take(&hub, i);
				r = CHECK_OK(sluice_arm(hub.conn[i],
							SLUICE_RECV, &events));
			} while (r);
			if (!(mode->flags & EPOLLONESHOT))
				continue;
			event = (struct epoll_event){ .events = EPOLLIN |
								mode->flags,
						      .data.u32 = (uint32_t)i };
			CHECK_SYS(epoll_ctl(epoll_fd, EPOLL_CTL_MOD,
					    sluice_conn_fd(hub.conn[i]),
					    &event));
		}
	}
	close(epoll_fd);
	hub_close(&hub);
}

static void poll_by_ring(struct io_uring *ring, struct hub *hub, int i)
{
	struct io_uring_sqe *sqe;
	short events;

	while (sluice_arm(hub->conn[i], SLUICE_RECV, &events))
		take(hub, i);
	sqe = io_uring_get_sqe(ring);
	CHECK(sqe);
	io_uring_prep_poll_add(sqe, sluice_conn_fd(hub->conn[i]), POLLIN);
	io_uring_sqe_set_data(sqe, &hub->next[i]);
}

TAP_TEST(io_uring_poll)
{
	struct __kernel_timespec limit = { .tv_sec = LOST_MS / 1000 };
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	struct hub hub;
	int i;

	hub_open(&hub, 150000 / (uint64_t)tap_slow);
	CHECK_OK(io_uring_queue_init(16, &ring, 0));
	for (i = 0; i < CONNS; i++)
		poll_by_ring(&ring, &hub, i);
	while (hub.left) {
		CHECK_OK(io_uring_submit(&ring));
		CHECK_OK(io_uring_wait_cqe_timeout(&ring, &cqe, &limit));
		i = (int)((uint64_t *)io_uring_cqe_get_data(cqe) - hub.next);
		io_uring_cqe_seen(&ring, cqe);
		take(&hub, i);
		poll_by_ring(&ring, &hub, i);
	}
	io_uring_queue_exit(&ring);
	hub_close(&hub);
}

/* The wait set ------------------------------------------------------------- */

static const struct taker {
	const char *name;
	unsigned int events; /* at once */
	uint64_t spin_ns;
	bool two_sets; /* half of the conns in either, in turn */
} takers[] = {
	{ "one_event", 1, 0, false },
	{ "all_events", CONNS, 0, false },
	{ "spins", CONNS, 10000, false },
	{ "two_sets", CONNS, 0, true },
};

TAP_EACH(set, taker, takers)
{
	struct sluice_event events[CONNS];
	struct sluice_set *sets[2];
	struct hub hub;
	int i, n, turn = 0;

	hub_open(&hub, 300000 / (uint64_t)tap_slow);
	for (i = 0; i < 2; i++)
		CHECK_OK(sluice_set_new(&sets[i]));
	for (i = 0; i < CONNS; i++)
		CHECK_OK(sluice_set_add(sets[taker->two_sets && i % 2],
					hub.conn[i], SLUICE_RECV,
					&hub.next[i]));
	while (hub.left) {
		n = CHECK_OK(sluice_set_wait(
			sets[turn], events, taker->events,
			taker->two_sets ? MS : LOST_MS * MS, taker->spin_ns));
		CHECK(n || taker->two_sets);
		turn ^= taker->two_sets;
		while (n--)
			take(&hub,
			     (int)((uint64_t *)events[n].data - hub.next));
	}
	for (i = 0; i < 2; i++)
		sluice_set_free(sets[i]);
	hub_close(&hub);
}
