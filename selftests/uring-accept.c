/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Accept and connect by a ring: both become conns like any other, in every way that
 * they can fail or be ended; a full backlog; a service of sluiced.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "life.h"
#include "urings.h"

#define SOON (5 * SECOND * tap_slow)

static struct loop loop;
static int tag_listen, tag_connect; /* data of events */

/* The same for the whole case. */
static const char *name(void)
{
	static const char *text;

	return text ? text : (text = life_name());
}

static struct sluice_event next_event(void)
{
	struct sluice_event event;

	CHECK_EQ(loop_wait(&loop, &event, 1, SOON), 1);
	return event;
}

static struct sluice_conn *next_conn(uint32_t ready, void *data)
{
	struct sluice_event event = next_event();

	CHECK_EQ(event.ready, ready);
	CHECK_EQ(event.error, 0);
	CHECK(event.data == data);
	CHECK(event.conn);
	return event.conn;
}

static void unlisten(struct sluice_listener *listener)
{
	int64_t until = tap_now() + SOON;
	int r;

	while ((r = sluice_uring_unlisten(loop.set, listener)) == -EAGAIN) {
		CHECK_LT(tap_now(), until);
		loop_turn(&loop, 10 * MS);
	}
	CHECK_EQ(r, 0);
}

/* A message each way; the lanes come as they come. */
static void talk(struct sluice_conn *a, struct sluice_conn *b)
{
	struct sluice_conn *conn[2] = { a, b };
	struct sluice_event events[4];
	struct sluice_msg msg;
	int i, r;

	for (i = 0; i < 2; i++)
		CHECK_OK(sluice_set_add(loop.set, conn[i], SLUICE_RECV, NULL));
	for (i = 0; i < 2; i++) {
		while ((r = sluice_send(conn[i], "hello", 5, 7, 0)) == -EAGAIN)
			loop_wait(&loop, events, 4, 10 * MS);
		CHECK_OK(r);
		while ((r = sluice_recv(conn[!i], &msg)) == -EAGAIN)
			loop_wait(&loop, events, 4, 10 * MS);
		CHECK_EQ(r, 1);
		CHECK_EQ(msg.len, 5);
		CHECK_OK(sluice_release(conn[!i], &msg));
	}
}

TAP_TEST(errors)
{
	struct sluice_listener *listener, *closed;
	struct sluice_set *plain;
	char long_name[200];

	loop_open(&loop, &setups[BASIC], 8);
	CHECK_OK(sluice_set_new(&plain));
	CHECK_OK(sluice_listen(&listener, name(), NULL));
	CHECK_EQ(sluice_uring_listen(plain, listener, NULL), -EINVAL);
	CHECK_EQ(sluice_uring_unlisten(loop.set, listener), -ENOENT);
	CHECK_OK(sluice_uring_listen(loop.set, listener, NULL));
	CHECK_EQ(sluice_uring_listen(loop.set, listener, NULL), -EEXIST);
	CHECK_EQ(sluice_uring_unlisten(plain, listener), -ENOENT);
	CHECK_EQ(sluice_uring_unlisten(loop.set, listener), 0);
	CHECK_OK(sluice_uring_listen(loop.set, listener, NULL));
	loop_turn(&loop, 0);
	CHECK_EQ(sluice_uring_unlisten(loop.set, listener), -EAGAIN);
	unlisten(listener);

	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = 0;
	CHECK_EQ(sluice_uring_connect(loop.set, "", NULL, NULL), -EINVAL);
	CHECK_EQ(sluice_uring_connect(loop.set, "@", NULL, NULL), -EINVAL);
	CHECK_EQ(sluice_uring_connect(loop.set, long_name, NULL, NULL),
		 -ENAMETOOLONG);
	CHECK_EQ(sluice_uring_connect(loop.set, name(),
				      &(struct sluice_options){ 0 }, NULL),
		 -EINVAL);
	CHECK_EQ(sluice_uring_connect(loop.set, name(),
				      &ENDS_OPTIONS(.ring_slots = 3), NULL),
		 -EINVAL);
	CHECK_EQ(sluice_uring_connect(
			 loop.set, name(),
			 &ENDS_OPTIONS(.flags = SLUICE_F_REQUIRE_AWARE), NULL),
		 -EINVAL);
	CHECK_EQ(sluice_uring_connect(loop.set, name(),
				      &ENDS_OPTIONS(.aware_timeout_ns = 1),
				      NULL),
		 -EINVAL);
	sluice_uring_stop(loop.set);
	CHECK_EQ(sluice_uring_listen(loop.set, listener, NULL), -ESHUTDOWN);
	closed = listener;
	sluice_listener_close(closed);
	sluice_set_free(plain);
	loop_close(&loop);
}

TAP_EACH(both, setup, setups)
{
	struct sluice_conn *client, *server;
	struct sluice_listener *listener;
	struct sluice_event events[2];
	int i, n, fds;

	loop_open(&loop, setup, 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	CHECK_OK(sluice_listen(&listener, name(), NULL));
	CHECK_OK(sluice_uring_listen(loop.set, listener, &tag_listen));
	for (i = 0; i < 20; i++) {
		CHECK_OK(sluice_uring_connect(loop.set, name(), NULL,
					      &tag_connect));
		client = server = NULL;
		while (!client || !server) {
			n = loop_wait(&loop, events, 2, SOON);
			CHECK_GT(n, 0);
			while (n--) {
				CHECK_EQ(events[n].error, 0);
				if (events[n].data == &tag_connect) {
					CHECK_EQ(events[n].ready,
						 SLUICE_CONNECTED);
					client = events[n].conn;
				} else {
					CHECK(events[n].data == &tag_listen);
					CHECK_EQ(events[n].ready,
						 SLUICE_ACCEPTED);
					server = events[n].conn;
				}
			}
		}
		talk(client, server);
		sluice_conn_close(client);
		sluice_conn_close(server);
	}
	sluice_listener_close(listener);
	loop_idle(&loop);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

/* Many clients at once, more than the SQ and the CQ have room for. */
TAP_EACH(crowd, setup, setups)
{
	enum { CLIENTS = 200 };
	struct sluice_conn *conn[2 * CLIENTS];
	struct sluice_listener *listener;
	int i, n = 0, fds;

	loop_open(&loop, setup, 4);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	CHECK_OK(
		sluice_listen(&listener, name(), &ENDS_OPTIONS(.backlog = 16)));
	CHECK_OK(sluice_uring_listen(loop.set, listener, &tag_listen));
	for (i = 0; i < CLIENTS; i++)
		CHECK_OK(sluice_uring_connect(
			loop.set, name(),
			&ENDS_OPTIONS(.flags = SLUICE_F_PLAIN), &tag_connect));
	while (n < 2 * CLIENTS) {
		struct sluice_event event = next_event();

		CHECK_EQ(event.error, 0);
		conn[n++] = event.conn;
	}
	loop_expect_none(&loop, 0);
	while (n--)
		sluice_conn_close(conn[n]);
	sluice_listener_close(listener);
	loop_idle(&loop);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

TAP_TEST(nobody_listens)
{
	struct sluice_event event;
	int fds;

	loop_open(&loop, &setups[BASIC], 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	CHECK_OK(sluice_uring_connect(loop.set, name(), NULL, &tag_connect));
	event = next_event();
	CHECK_EQ(event.ready, SLUICE_CONNECTED);
	CHECK_EQ(event.error, -ECONNREFUSED);
	CHECK(!event.conn);
	CHECK(event.data == &tag_connect);
	CHECK_OK(sluice_uring_connect(loop.set, "no-such-path", NULL, NULL));
	event = next_event();
	CHECK_EQ(event.error, -ENOENT);
	CHECK_EQ(tap_open_fds(), fds);
	loop_close(&loop);
}

/* A client waits for a server that does not accept, without holding up others. */
TAP_EACH(backlog_full, setup, setups)
{
	struct sluice_listener *listener;
	struct sluice_conn *client[3], *server;
	struct sluice_event event;
	int i, n;

	loop_open(&loop, setup, 8);
	CHECK_OK(sluice_listen(&listener, name(), &ENDS_OPTIONS(.backlog = 1)));
	for (i = 0; i < 3; i++)
		CHECK_OK(sluice_uring_connect(loop.set, name(), NULL,
					      &tag_connect));
	/* the backlog, and one more, says Linux */
	for (n = 0; n < 2; n++)
		client[n] = next_conn(SLUICE_CONNECTED, &tag_connect);
	CHECK_EQ(loop_wait(&loop, &event, 1, 20 * MS), 0);
	CHECK_OK(sluice_accept(listener, &server, 0));
	client[n++] = next_conn(SLUICE_CONNECTED, &tag_connect);
	sluice_conn_close(server);
	while (n--)
		sluice_conn_close(client[n]);
	sluice_listener_close(listener);
	loop_close(&loop);
}

/* What waits for a backlog is cancelled when the set stops. */
TAP_EACH(stop_connecting, setup, setups)
{
	struct sluice_listener *listener;
	int fds, i;

	loop_open_ring(&loop, setup, 8);
	io_uring_queue_exit(&loop.ring);
	CHECK_OK(sluice_listen(&listener, name(), &ENDS_OPTIONS(.backlog = 1)));
	fds = tap_open_fds();
	loop_open(&loop, setup, 8);
	for (i = 0; i < 4; i++)
		CHECK_OK(sluice_uring_connect(loop.set, name(), NULL, NULL));
	loop_turn(&loop, 0);
	/* not even in an SQE */
	CHECK_OK(sluice_uring_connect(loop.set, name(), NULL, NULL));
	loop_close(&loop);
	CHECK_EQ(tap_open_fds(), fds);
	sluice_listener_close(listener);
}

/* Accepted and connected, but nobody asked for the events. */
TAP_EACH(not_taken, setup, setups)
{
	struct sluice_listener *listener;
	struct sluice_conn *client;
	struct sluice_msg msg;
	int fds;

	loop_open_ring(&loop, setup, 8);
	io_uring_queue_exit(&loop.ring);
	CHECK_OK(sluice_listen(&listener, name(), NULL));
	fds = tap_open_fds();
	loop_open(&loop, setup, 8);
	CHECK_OK(sluice_uring_listen(loop.set, listener, NULL));
	CHECK_OK(sluice_connect(&client, name(),
				&ENDS_OPTIONS(.flags = SLUICE_F_PLAIN)));
	CHECK_SOON(loop_turn(&loop, MS) == 1);
	loop_close(&loop);
	CHECK_EQ(sluice_recv(client, &msg), 0);
	sluice_conn_close(client);
	CHECK_EQ(tap_open_fds(), fds);
	/* The listener is as it was. */
	CHECK_OK(sluice_connect(&client, name(), NULL));
	sluice_conn_close(client);
	sluice_listener_close(listener);
}

/* Closed while an accept is in flight, submitted or not: nobody gets in. */
TAP_EACH(listener_closes, setup, setups)
{
	struct sluice_listener *listener;
	struct sluice_conn *client;
	int fds, i;

	loop_open(&loop, setup, 8);
	loop_expect_none(&loop, 0);
	fds = tap_open_fds();
	for (i = 0; i < 3; i++) {
		CHECK_OK(sluice_listen(&listener, name(), NULL));
		CHECK_OK(sluice_uring_listen(loop.set, listener, NULL));
		if (i == 1)
			sluice_uring_prepare(loop.set, &loop.ring);
		if (i == 2)
			loop_turn(&loop, 0);
		sluice_listener_close(listener);
		CHECK_EQ(sluice_connect(&client, name(), NULL), -ECONNREFUSED);
		loop_idle(&loop);
		CHECK_EQ(tap_open_fds(), fds);
	}
	loop_close(&loop);
}

/* A child that closes its copy leaves its parent's in peace. */
TAP_TEST(child_of_fork)
{
	struct sluice_listener *listener;
	struct sluice_conn *client;
	pid_t pid;

	loop_open(&loop, &setups[BASIC], 8);
	CHECK_OK(sluice_listen(&listener, name(), NULL));
	CHECK_OK(sluice_uring_listen(loop.set, listener, &tag_listen));
	loop_turn(&loop, 0);
	pid = tap_fork();
	if (!pid) {
		CHECK_EQ(sluice_uring_unlisten(loop.set, listener), -ECHILD);
		sluice_listener_close(listener);
		sluice_set_free(loop.set);
		_exit(0);
	}
	tap_join(pid);
	CHECK_OK(sluice_connect(&client, name(), NULL));
	sluice_conn_close(next_conn(SLUICE_ACCEPTED, &tag_listen));
	sluice_conn_close(client);
	sluice_listener_close(listener);
	loop_close(&loop);
}

/* No fd for a client: it is said, and when there is one it comes in. */
TAP_TEST(no_fds)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct sluice_listener *listener;
	struct sluice_event event;
	struct rlimit limit, none;
	int client;

	loop_open(&loop, &setups[BASIC], 8);
	CHECK_OK(sluice_listen(&listener, name(), NULL));
	client = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET, 0));
	CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
	none = limit;
	none.rlim_cur = (rlim_t)client + 1;
	/* An ACCEPT goes by the limit of when it was submitted. */
	CHECK_SYS(setrlimit(RLIMIT_NOFILE, &none));
	CHECK_OK(sluice_uring_listen(loop.set, listener, &tag_listen));
	memcpy(address.sun_path + 1, name() + 1, strlen(name()) - 1);
	CHECK_SYS(connect(client, (struct sockaddr *)&address,
			  (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
				      strlen(name()))));
	event = next_event();
	CHECK_EQ(event.ready, SLUICE_ACCEPTED);
	CHECK_EQ(event.error, -EMFILE);
	CHECK(!event.conn);
	CHECK(event.data == &tag_listen);
	CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
	do {
		event = next_event();
	} while (event.error == -EMFILE);
	CHECK_EQ(event.error, 0);
	sluice_conn_close(event.conn);
	close(client);
	sluice_listener_close(listener);
	loop_close(&loop);
}
