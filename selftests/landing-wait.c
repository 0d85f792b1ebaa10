/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Landing of STREAM, and every way of waiting: a wait set, the conn's fd in poll()
 * and in an epoll of edges, and a set on a ring. Whatever brings the next bytes
 * wakes: the ring of slots, the spill socket, the conn's own socket before it is
 * attached and at the end.
 *
 * Limit: 300 s
 */
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "landings.h"
#include "tap.h"
#include "urings.h"

static struct landing_rig rig;
static struct sluice_set *set;
static struct loop loop;
static int epoll_fd;

/* Ways of waiting ------------------------------------------------------------ */

static void set_open(void)
{
	CHECK_OK(sluice_set_new(&set));
	CHECK_OK(sluice_set_add(set, rig.conn, SLUICE_RECV, &rig));
}

static void set_wait(void)
{
	struct sluice_event event;

	CHECK_EQ(sluice_set_wait(set, &event, 1, LANDING_WAIT_NS * tap_slow, 0),
		 1);
	CHECK(event.conn == rig.conn && event.data == &rig);
	CHECK_EQ(event.ready, SLUICE_RECV);
}

static void set_shut(void)
{
	CHECK_OK(sluice_set_remove(set, rig.conn));
	sluice_set_free(set);
}

static void nothing(void)
{
}

static void fd_wait(void)
{
	struct pollfd pollfd = { .fd = sluice_conn_fd(rig.conn) };
	int r = sluice_arm(rig.conn, SLUICE_RECV, &pollfd.events);

	CHECK_GE(r, 0);
	if (!r)
		CHECK_EQ(poll(&pollfd, 1, 5000 * tap_slow), 1);
}

static void edge_open(void)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };

	epoll_fd = CHECK_SYS(epoll_create1(EPOLL_CLOEXEC));
	CHECK_SYS(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sluice_conn_fd(rig.conn),
			    &event));
}

static void edge_wait(void)
{
	struct epoll_event event;
	short events;
	int r = sluice_arm(rig.conn, SLUICE_RECV, &events);

	CHECK_GE(r, 0);
	CHECK(r || events == POLLIN);
	if (!r)
		CHECK_EQ(epoll_wait(epoll_fd, &event, 1, 5000 * tap_slow), 1);
}

static void edge_shut(void)
{
	close(epoll_fd);
}

static void ring_open(const struct setup *setup)
{
	loop_open(&loop, setup, 32);
	CHECK_OK(sluice_set_add(loop.set, rig.conn, SLUICE_RECV, &rig));
}

static void basic_open(void)
{
	ring_open(&setups[BASIC]);
}

static void defer_open(void)
{
	ring_open(&setups[DEFER]);
}

static void ring_wait(void)
{
	struct sluice_event event;

	/* for ever: when the time is up it looks once more, and would find it */
	CHECK_EQ(loop_wait(&loop, &event, 1, 3600 * SECOND), 1);
	CHECK(event.conn == rig.conn && event.data == &rig);
	CHECK_EQ(event.ready, SLUICE_RECV);
}

static void ring_shut(void)
{
	loop_remove(&loop, rig.conn);
	loop_close(&loop);
}

static const struct way {
	const char *name;
	void (*open)(void);
	void (*wait)(void); /* until there is something, or the end */
	void (*shut)(void);
} ways[] = {
	{ "set", set_open, set_wait, set_shut },
	{ "poll", nothing, fd_wait, nothing },
	{ "epoll_edge", edge_open, edge_wait, edge_shut },
	{ "ring", basic_open, ring_wait, ring_shut },
	{ "ring_defer", defer_open, ring_wait, ring_shut },
};

/* What sluice_recv() says when there is something to say. */
static int next(const struct way *way, struct sluice_msg *msg)
{
	int r;

	while ((r = sluice_recv(rig.conn, msg)) == -EAGAIN)
		way->wait();
	if (r == 1) {
		landing_check(sluice_msg_data(msg), msg->len, rig.received);
		rig.received += msg->len;
	}
	return r;
}

static void receive_up_to(const struct way *way, uint64_t bytes)
{
	struct sluice_msg msg;

	while (rig.received < bytes) {
		CHECK_EQ(next(way, &msg), 1);
		CHECK_OK(sluice_release(rig.conn, &msg));
	}
	CHECK_EQ(rig.received, bytes);
}

/* What is sent from now on lands. */
static void until_steered(const struct way *way, uint64_t *sent)
{
	uint64_t before = landing_info(&rig).steered;
	struct sluice_msg msg;

	for (int i = 0; i < 100 && landing_info(&rig).steered == before; i++) {
		landing_send(rig.client, *sent, 100);
		*sent += 100;
		receive_up_to(way, *sent);
		CHECK_EQ(sluice_recv(rig.conn, &msg), -EAGAIN);
	}
	CHECK_GT(landing_info(&rig).steered, before);
}

static void receive_end(const struct way *way)
{
	struct sluice_msg msg;

	CHECK_EQ(next(way, &msg), 0);
	way->shut();
	landing_close(&rig);
}

/* The other side --------------------------------------------------------------- */

enum { BURST = 1 << 20, TURNS = 100, TURN = 700 };

/* A burst, then pieces each of which waits for an answer to the one before. */
static pid_t start_client(void)
{
	uint64_t sent = 0;
	pid_t pid = tap_fork();
	char byte;

	if (pid)
		return pid;
	while (sent < BURST) {
		size_t len = 1 + tap_random_below(sent % 3 ? 40000 : 100);

		if (len > BURST - sent)
			len = BURST - sent;
		landing_send(rig.client, sent, len);
		sent += len;
	}
	for (int i = 0; i < TURNS; i++, sent += TURN) {
		CHECK_EQ(recv(rig.client, &byte, 1, 0), 1);
		landing_send(rig.client, sent, TURN);
	}
	CHECK_SYS(shutdown(rig.client, SHUT_WR));
	CHECK_EQ(recv(rig.client, &byte, 1, 0), 0);
	_exit(0);
}

/* From early data on to the end of the stream. */
TAP_EACH(all_of_a_stream, way, ways)
{
	uint64_t steered;
	pid_t pid;

	landing_open(&rig, LANDING_YES, NULL);
	way->open();
	pid = start_client();
	close(rig.client);
	rig.client = -1;
	receive_up_to(way, BURST);
	steered = landing_info(&rig).steered;
	for (int i = 1; i <= TURNS; i++) {
		CHECK_OK(sluice_send(rig.conn, "t", 1, 0, 0));
		receive_up_to(way, BURST + (uint64_t)i * TURN);
	}
	CHECK_GT(landing_info(&rig).steered, steered);
	CHECK_EQ(landing_info(&rig).steer_error, 0);
	{
		struct sluice_msg msg;

		CHECK_EQ(next(way, &msg), 0);
	}
	CHECK_OK(sluice_conn_shutdown(rig.conn));
	tap_join(pid);
	way->shut();
	landing_close(&rig);
}

/* Its socket is attached, and the spill socket is there, after it is waited for. */
TAP_EACH(attached_while_waited_for, way, ways)
{
	uint64_t sent = 1000;

	landing_open(&rig, LANDING_YES, NULL);
	sluice_conn_close(rig.conn);
	close(rig.client);
	rig.client = services_connect(&rig.s);
	landing_send(rig.client, 0, sent);
	CHECK_OK(sluice_accept(rig.listener, &rig.conn, LANDING_WAIT_NS));
	CHECK_EQ(landing_info(&rig).steer_error, -EAGAIN);
	way->open();
	receive_up_to(way, sent);
	/* attached when its socket was found empty, before the next wait */
	for (int i = 0; i < 20; i++, sent += 1000) {
		struct sluice_msg msg;

		CHECK_EQ(sluice_recv(rig.conn, &msg), -EAGAIN);
		landing_send(rig.client, sent, 1000);
		receive_up_to(way, sent + 1000);
	}
	CHECK_GT(landing_info(&rig).steered, 0);
	close(rig.client);
	rig.client = -1;
	receive_end(way);
}

/* All landing slots are held: what comes next is spilled, and wakes as well. */
TAP_EACH(spills_wake, way, ways)
{
	enum { HELD = 16 };
	const uint32_t few[3] = { 1, 0, 0 };
	struct sluice_msg held[HELD];
	uint64_t sent = 0, spilled;

	landing_open(&rig, LANDING_YES, few);
	way->open();
	until_steered(way, &sent);
	for (int i = 0; i < HELD; i++, sent += 100) {
		landing_send(rig.client, sent, 100);
		CHECK_EQ(next(way, &held[i]), 1);
	}
	for (int i = 0; i < 10; i++, sent += 100) {
		spilled = landing_info(&rig).spilled;
		landing_send(rig.client, sent, 100);
		receive_up_to(way, sent + 100);
		CHECK_EQ(landing_info(&rig).spilled, spilled + 1);
	}
	for (int i = 0; i < HELD; i++)
		CHECK_OK(sluice_release(rig.conn, &held[i]));
	until_steered(way, &sent);
	CHECK_SYS(shutdown(rig.client, SHUT_WR));
	receive_end(way);
}

/* Out of what it was waited for in, and by another way from then on. */
TAP_EACH(waits_another_way, way, ways)
{
	uint64_t sent = 0;

	landing_open(&rig, LANDING_YES, NULL);
	for (int i = 0; i < 3; i++) {
		way->open();
		until_steered(way, &sent);
		landing_send(rig.client, sent, 5000);
		sent += 5000;
		receive_up_to(way, sent);
		way->shut();
		landing_send(rig.client, sent, 5000);
		sent += 5000;
		landing_receive_up_to(&rig, sent);
	}
	way->open();
	close(rig.client);
	rig.client = -1;
	receive_end(way);
}

/* The set goes first, with the conn in it; and the conn first. */
TAP_TEST(set_or_conn_goes_first)
{
	uint64_t sent = 0;

	landing_open(&rig, LANDING_YES, NULL);
	set_open();
	landing_until_steered(&rig, &sent);
	sluice_set_free(set);
	landing_until_steered(&rig, &sent);
	set_open();
	sluice_conn_close(rig.conn);
	rig.conn = NULL;
	sluice_set_free(set);
	landing_close(&rig);
}
