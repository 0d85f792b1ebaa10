/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The close of connections to plain peers: one end is a conn, the other a
 * socket that is used with send() and recv(). The same promises as in close.c.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "life.h"

#define MESSAGE_MAX 20000

/* How the conn came to be plain. */
static const struct how {
	const char *name;
	uint32_t flags;
} hows[] = { { "told", SLUICE_F_PLAIN }, { "undecided", 0 } };

struct ends {
	struct sluice_conn *conn;
	int raw;
};

static struct ends ends(const struct how *how)
{
	struct ends e;
	int fds[2];

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	CHECK_OK(sluice_conn_from_fd(&e.conn, fds[0],
				     &ENDS_OPTIONS(.flags = how->flags)));
	e.raw = fds[1];
	return e;
}

static size_t len_of(int i)
{
	static const size_t lens[] = { 0, 1, 32, 33, 100, 5000, MESSAGE_MAX };

	return lens[i % 7];
}

/* 20 messages: less than what a socket holds. */
static void raw_send(int raw)
{
	uint8_t data[MESSAGE_MAX];

	for (int i = 0; i < 20; i++) {
		content_fill(data, len_of(i), i, 0);
		CHECK_EQ(send(raw, data, len_of(i),
			      MSG_DONTWAIT | MSG_NOSIGNAL),
			 len_of(i));
	}
}

static void raw_receive(int raw, int count)
{
	uint8_t data[MESSAGE_MAX + 1];

	for (int i = 0; i < count; i++) {
		CHECK_EQ(recv(raw, data, sizeof(data), MSG_DONTWAIT),
			 len_of(i));
		CHECK(content_matches(data, len_of(i), i, 0));
	}
}

static int conn_send(struct sluice_conn *conn, int i)
{
	uint8_t data[MESSAGE_MAX];

	content_fill(data, len_of(i), i, 0);
	return sluice_send(conn, data, len_of(i), 0, 0);
}

/* Receives all 20 and keeps the views. */
static void conn_receive(struct sluice_conn *conn, struct sluice_msg *msgs)
{
	for (int i = 0; i < 20; i++) {
		CHECK_EQ(sluice_recv_wait(conn, &msgs[i], -1), 1);
		CHECK_EQ(msgs[i].len, len_of(i));
		CHECK(content_matches(sluice_msg_data(&msgs[i]), len_of(i), i,
				      0));
	}
}

static void conn_check_held(struct sluice_conn *conn, struct sluice_msg *msgs)
{
	for (int i = 0; i < 20; i++) {
		CHECK(content_matches(sluice_msg_data(&msgs[i]), len_of(i), i,
				      0));
		CHECK_EQ(sluice_release(conn, &msgs[i]), 0);
	}
}

static void expect_end(struct sluice_conn *conn)
{
	struct sluice_msg msg;
	uint8_t byte;
	size_t len;

	for (int i = 0; i < 3; i++) {
		CHECK_EQ(sluice_recv(conn, &msg), 0);
		CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 0);
		CHECK_EQ(sluice_recv_copy(conn, &byte, 1, &len, NULL), 0);
	}
}

static void raw_expect_end(int raw)
{
	struct pollfd p = { .fd = raw, .events = POLLRDHUP };
	char byte;

	CHECK_EQ(recv(raw, &byte, 1, MSG_DONTWAIT), 0);
	CHECK_EQ(poll(&p, 1, 0), 1);
	CHECK(p.revents & POLLRDHUP);
}

TAP_EACH(conn_closes, how, hows)
{
	struct ends e = ends(how);

	for (int i = 0; i < 20; i++)
		CHECK_EQ(conn_send(e.conn, i), 0);
	sluice_conn_close(e.conn);
	raw_receive(e.raw, 20);
	raw_expect_end(e.raw);
	close(e.raw);
}

TAP_EACH(raw_closes, how, hows)
{
	struct ends e = ends(how);
	struct sluice_msg msgs[20];

	raw_send(e.raw);
	close(e.raw);
	conn_receive(e.conn, msgs);
	expect_end(e.conn);
	conn_check_held(e.conn, msgs);
	expect_end(e.conn);
	sluice_conn_close(e.conn);
}

/* ECONNRESET comes before what is queued, and is no error here. */
TAP_EACH(raw_closes_with_unread, how, hows)
{
	struct sluice_msg msgs[20];
	struct ends e;

	for (int waiting = 0; waiting < 2; waiting++) {
		e = ends(how);
		raw_send(e.raw);
		CHECK_EQ(conn_send(e.conn, 5), 0);
		close(e.raw);
		if (waiting)
			CHECK_EQ(sluice_wait(e.conn, SLUICE_RECV, -1),
				 SLUICE_RECV);
		conn_receive(e.conn, msgs);
		expect_end(e.conn);
		conn_check_held(e.conn, msgs);
		sluice_conn_close(e.conn);
	}
}

TAP_EACH(conn_closes_with_unread, how, hows)
{
	struct ends e = ends(how);
	char byte;

	for (int i = 0; i < 20; i++)
		CHECK_EQ(conn_send(e.conn, i), 0);
	CHECK_EQ(send(e.raw, "x", 1, 0), 1);
	sluice_conn_close(e.conn);
	/* The kernel says so once; it lost what this side had sent. */
	CHECK_EQ(recv(e.raw, &byte, 1, MSG_DONTWAIT), -1);
	CHECK_EQ(errno, ECONNRESET);
	raw_receive(e.raw, 20);
	raw_expect_end(e.raw);
	close(e.raw);
}

TAP_EACH(conn_shuts_down, how, hows)
{
	struct sluice_msg msgs[20];
	struct ends e = ends(how);

	for (int i = 0; i < 20; i++)
		CHECK_EQ(conn_send(e.conn, i), 0);
	CHECK_EQ(sluice_conn_shutdown(e.conn), 0);
	CHECK_EQ(sluice_conn_shutdown(e.conn), 0);
	CHECK_EQ(conn_send(e.conn, 1), -EPIPE);
	raw_receive(e.raw, 20);
	raw_expect_end(e.raw);
	raw_send(e.raw);
	conn_receive(e.conn, msgs);
	CHECK_EQ(sluice_recv(e.conn, &msgs[0]), -EAGAIN);
	close(e.raw);
	expect_end(e.conn);
	sluice_conn_close(e.conn);
}

TAP_EACH(raw_shuts_down, how, hows)
{
	struct sluice_msg msgs[20];
	struct ends e = ends(how);

	raw_send(e.raw);
	CHECK_SYS(shutdown(e.raw, SHUT_WR));
	conn_receive(e.conn, msgs);
	expect_end(e.conn);
	for (int i = 0; i < 20; i++)
		CHECK_EQ(conn_send(e.conn, i), 0);
	raw_receive(e.raw, 20);
	expect_end(e.conn);
	close(e.raw);
	CHECK_EQ(conn_send(e.conn, 1), -EPIPE);
	sluice_conn_close(e.conn);
}

/* -EPIPE and no signal, in every form of a send. */
TAP_EACH(send_after_close, how, hows)
{
	struct ends e = ends(how);
	struct sluice_pool_info info;
	struct stream tx = { .key = 1, .max_len = 3000 };

	CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
	CHECK_EQ(conn_send(e.conn, 1), 0);
	close(e.raw);
	for (enum form form = FORM_INLINE; form <= FORM_MIXED; form++)
		CHECK_EQ(life_send(e.conn, &tx, form, 0), -EPIPE);
	CHECK_EQ(sluice_wait(e.conn, SLUICE_SEND, -1), SLUICE_SEND);
	sluice_pool_info(sluice_conn_pool(e.conn), &info);
	CHECK_EQ(info.buffers_used, 0);
	expect_end(e.conn);
	CHECK_EQ(sluice_conn_shutdown(e.conn), 0);
	sluice_conn_close(e.conn);
}

/* What a full socket has taken arrives; what it refused was told. */
TAP_EACH(close_when_full, how, hows)
{
	struct ends e = ends(how);
	int sent = 0, r;

	while (!(r = conn_send(e.conn, sent)))
		sent++;
	CHECK_EQ(r, -EAGAIN);
	CHECK_GT(sent, 10);
	sluice_conn_close(e.conn);
	raw_receive(e.raw, sent);
	raw_expect_end(e.raw);
	close(e.raw);
}

/* A process that dies is an end like any other to a plain connection. */
TAP_EACH(raw_is_killed, how, hows)
{
	struct ends e = ends(how);
	struct sluice_msg msgs[20];
	pid_t pid;

	pid = tap_fork();
	if (!pid) {
		raw_send(e.raw);
		pause();
	}
	close(e.raw);
	conn_receive(e.conn, msgs);
	tap_kill(pid);
	expect_end(e.conn);
	CHECK_EQ(conn_send(e.conn, 1), -EPIPE);
	conn_check_held(e.conn, msgs);
	sluice_conn_close(e.conn);
}
