/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Connections that end while they begin: before the accept, before HELLO or
 * HELLO_ACK was read, in the middle of a handshake. Whoever stays gets what was
 * sent, and its end, and never waits for what cannot come.
 *
 * Raw peers are sockets that this file drives by itself.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "life.h"

#define SECOND 1000000000ll

/* A listener and its client; the server's end once it has accepted. */
struct start {
	const char *name;
	struct sluice_listener *listener;
	struct sluice_conn *client, *server;
};

static struct start start(uint32_t client_flags)
{
	struct start s = { .name = life_name() };

	CHECK_OK(sluice_listen(&s.listener, s.name, NULL));
	CHECK_OK(sluice_connect(&s.client, s.name,
				&ENDS_OPTIONS(.flags = client_flags)));
	return s;
}

static void accept_client(struct start *s)
{
	CHECK_EQ(sluice_accept(s->listener, &s->server, 5 * SECOND), 0);
}

static void finish(struct start *s)
{
	sluice_listener_close(s->listener);
	CHECK_EQ(life_memfds(), 0);
	CHECK_EQ(tap_open_fds(), 3);
}

static void expect(struct sluice_conn *conn, const char *text)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, 5 * SECOND), 1);
	CHECK_EQ(msg.len, strlen(text));
	CHECK_MEM(sluice_msg_data(&msg), text, msg.len);
	CHECK_EQ(sluice_release(conn, &msg), 0);
}

static void expect_end(struct sluice_conn *conn, int end)
{
	struct sluice_msg msg;

	for (int i = 0; i < 3; i++)
		CHECK_EQ(sluice_recv_wait(conn, &msg, 5 * SECOND), end);
}

static void say(struct sluice_conn *conn, const char *text)
{
	CHECK_EQ(sluice_send(conn, text, strlen(text), 0, 0), 0);
}

/* CPU time that a wait took must be small against the time it waited. */
static int wait_calmly(struct sluice_conn *conn, uint32_t what, int64_t timeout)
{
	clock_t cpu = clock();
	int r = sluice_wait(conn, what, timeout);

	CHECK_LT(clock() - cpu, CLOCKS_PER_SEC / 10);
	return r;
}

static const struct client {
	const char *name;
	uint32_t flags;
} clients[] = { { "aware", 0 }, { "plain", SLUICE_F_PLAIN } };

TAP_EACH(client_gone_before_accept, row, clients)
{
	struct start s = start(row->flags);
	char text[1000];

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	say(s.client, "one");
	say(s.client, text);
	sluice_conn_close(s.client);
	accept_client(&s);
	expect(s.server, "one");
	expect(s.server, text);
	expect_end(s.server, 0);
	CHECK_EQ(sluice_send(s.server, "x", 1, 0, 0), -EPIPE);
	sluice_conn_close(s.server);
	finish(&s);
}

TAP_EACH(client_silent_before_accept, row, clients)
{
	struct start s = start(row->flags);

	sluice_conn_close(s.client);
	accept_client(&s);
	CHECK_EQ(sluice_send(s.server, "x", 1, 0, 0), -EPIPE);
	expect_end(s.server, 0);
	sluice_conn_close(s.server);
	finish(&s);
}

TAP_EACH(server_gone_before_ack, row, clients)
{
	struct start s = start(row->flags);

	accept_client(&s);
	sluice_conn_close(s.server);
	expect_end(s.client, 0);
	CHECK_EQ(sluice_send(s.client, "x", 1, 0, 0), -EPIPE);
	sluice_conn_close(s.client);
	finish(&s);
}

/* A server may shut down its sending side before it knows its client. */
TAP_EACH(server_shut_before_ack, row, clients)
{
	struct start s = start(row->flags);

	accept_client(&s);
	CHECK_EQ(sluice_conn_shutdown(s.server), 0);
	CHECK_EQ(sluice_send(s.server, "x", 1, 0, 0), -EPIPE);
	expect_end(s.client, 0);
	say(s.client, "up");
	expect(s.server, "up");
	sluice_conn_close(s.client);
	expect_end(s.server, 0);
	sluice_conn_close(s.server);
	finish(&s);
}

/* The client has answered, sent and gone before the server looks. */
TAP_TEST(client_gone_after_ack)
{
	struct start s = start(0);
	struct sluice_msg msg;

	accept_client(&s);
	CHECK_EQ(sluice_recv(s.client, &msg), -EAGAIN);
	say(s.client, "frame");
	sluice_conn_close(s.client);
	expect(s.server, "frame");
	expect_end(s.server, 0);
	CHECK_EQ(sluice_send(s.server, "x", 1, 0, 0), -EPIPE);
	sluice_conn_close(s.server);
	finish(&s);
}

/* Plain messages first, frames after: all in order. */
TAP_TEST(client_turns_aware_and_goes)
{
	struct start s = start(0);
	struct sluice_msg msg;

	say(s.client, "plain");
	accept_client(&s);
	CHECK_EQ(sluice_recv(s.client, &msg), -EAGAIN);
	say(s.client, "frame");
	sluice_conn_close(s.client);
	expect(s.server, "plain");
	expect(s.server, "frame");
	expect_end(s.server, 0);
	sluice_conn_close(s.server);
	finish(&s);
}

/* A server that waits to send, to a client that never answers its HELLO. */
TAP_TEST(server_sends_to_gone_client)
{
	struct start s = start(0);
	pid_t pid;

	accept_client(&s);
	sluice_conn_close(s.client);
	CHECK_EQ(sluice_send(s.server, "x", 1, 0, 0), -EPIPE);
	CHECK_EQ(wait_calmly(s.server, SLUICE_SEND, 5 * SECOND), SLUICE_SEND);
	sluice_conn_close(s.server);

	/* The same, when it goes while the server waits. */
	pid = tap_fork();
	if (!pid) {
		CHECK_OK(sluice_connect(&s.client, s.name, NULL));
		tap_sleep(100000000);
		_exit(0);
	}
	accept_client(&s);
	CHECK_EQ(sluice_send(s.server, "x", 1, 0, 0), -EAGAIN);
	CHECK_EQ(wait_calmly(s.server, SLUICE_SEND, 5 * SECOND), SLUICE_SEND);
	CHECK_EQ(sluice_send(s.server, "x", 1, 0, 0), -EPIPE);
	sluice_conn_close(s.server);
	tap_join(pid);
	finish(&s);
}

/* Clients that shut down before they could answer the HELLO, or did not look. */
static const struct half_closed {
	const char *name;
	uint32_t flags;
	bool early; /* before the accept */
} half_closed[] = {
	{ "aware_before_accept", 0, true },
	{ "aware_after_accept", 0, false },
	{ "plain_before_accept", SLUICE_F_PLAIN, true },
	{ "plain_after_accept", SLUICE_F_PLAIN, false },
};

static struct start start_half_closed(const struct half_closed *row)
{
	struct start s = start(row->flags);

	say(s.client, "up");
	if (!row->early)
		accept_client(&s);
	CHECK_EQ(sluice_conn_shutdown(s.client), 0);
	if (row->early)
		accept_client(&s);
	return s;
}

TAP_EACH(server_sends_to_half_closed_client, row, half_closed)
{
	struct start s = start_half_closed(row);

	expect(s.server, "up");
	if (sluice_send(s.server, "down", 4, 0, 0)) {
		CHECK_EQ(wait_calmly(s.server, SLUICE_SEND, 5 * SECOND),
			 SLUICE_SEND);
		say(s.server, "down");
	}
	expect(s.client, "down");
	expect_end(s.server, 0);
	sluice_conn_close(s.server);
	expect_end(s.client, 0);
	sluice_conn_close(s.client);
	finish(&s);
}

/* A server that goes without a look at it. */
TAP_EACH(server_leaves_half_closed_client, row, half_closed)
{
	struct start s = start_half_closed(row);

	sluice_conn_close(s.server);
	expect_end(s.client, 0);
	sluice_conn_close(s.client);
	finish(&s);
}

/* Plain messages that lie before the HELLO_ACK must be received first. */
TAP_TEST(server_sends_after_plain_messages)
{
	struct start s = start(0);
	struct sluice_msg msg;
	int r;

	say(s.client, "plain");
	accept_client(&s);
	CHECK_EQ(sluice_recv(s.client, &msg), -EAGAIN);
	CHECK_EQ(sluice_send(s.server, "down", 4, 0, 0), -EAGAIN);
	r = wait_calmly(s.server, SLUICE_SEND, 5 * SECOND);
	if (r == SLUICE_RECV) {
		expect(s.server, "plain");
		r = wait_calmly(s.server, SLUICE_SEND, 5 * SECOND);
	}
	CHECK_EQ(r, SLUICE_SEND);
	say(s.server, "down");
	expect(s.client, "down");
	sluice_conn_close(s.client);
	sluice_conn_close(s.server);
	finish(&s);
}

/* Clients in the queue of a listener that goes. */
TAP_EACH(listener_gone, row, clients)
{
	struct start s = start(row->flags);

	say(s.client, "lost");
	sluice_listener_close(s.listener);
	expect_end(s.client, 0);
	CHECK_EQ(sluice_send(s.client, "x", 1, 0, 0), -EPIPE);
	sluice_conn_close(s.client);
	s.listener = NULL;
	finish(&s);
}

/* A raw server: accepts one client, then does one thing and closes. */
static const struct raw {
	const char *name;
	const void *bytes;
	size_t len;
	int result; /* of a connect that requires an aware server */
} raws[] = {
	{ "nothing", NULL, 0, -EPROTONOSUPPORT },
	{ "plain_message", "hello", 5, -EPROTONOSUPPORT },
	{ "empty_message", "", 0, -EPROTONOSUPPORT },
	{ "half_a_hello",
	  "\1\0\0\0\100\0\0\0"
	  "1SLI\1",
	  13, -EPROTONOSUPPORT },
	{ "bye", "\11\0\0\0\0\0\0\0", 8, -EPROTONOSUPPORT },
};

static void raw_server(int listener, const struct raw *row)
{
	int fd = CHECK_SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));

	if (row->bytes)
		CHECK_EQ(send(fd, row->bytes, row->len, MSG_NOSIGNAL),
			 row->len);
	close(fd);
	_exit(0);
}

TAP_EACH(raw_server_goes, row, raws)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *name = life_name();
	struct sluice_conn *conn;
	int64_t begin = tap_now();
	int listener;
	pid_t pid;

	listener = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	memcpy(address.sun_path + 1, name + 1, strlen(name) - 1);
	CHECK_SYS(bind(listener, (struct sockaddr *)&address,
		       offsetof(struct sockaddr_un, sun_path) + strlen(name)));
	CHECK_SYS(listen(listener, 8));

	pid = tap_fork();
	if (!pid)
		raw_server(listener, row);
	CHECK_EQ(sluice_connect(&conn, name,
				&ENDS_OPTIONS(.flags = SLUICE_F_REQUIRE_AWARE,
					      .aware_timeout_ns = 20 * SECOND)),
		 row->result);
	tap_join(pid);
	/* What it knows at once it does not wait for. */
	CHECK_LT(tap_now() - begin, 10 * SECOND);

	/* A client that takes any server gets the bytes, then the end. */
	pid = tap_fork();
	if (!pid)
		raw_server(listener, row);
	CHECK_OK(sluice_connect(&conn, name,
				&ENDS_OPTIONS(.aware_timeout_ns = -1)));
	if (row->bytes) {
		struct sluice_msg msg;

		CHECK_EQ(sluice_recv_wait(conn, &msg, 5 * SECOND), 1);
		CHECK_EQ(msg.len, row->len);
		CHECK_MEM(sluice_msg_data(&msg), row->bytes, msg.len);
	}
	expect_end(conn, 0);
	tap_join(pid);
	sluice_conn_close(conn);
	close(listener);
	CHECK_EQ(tap_open_fds(), 3);
}
