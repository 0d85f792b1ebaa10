/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Comings and goings around the negotiation: ends that close before it is over,
 * sockets that are handed over or inherited, fork, and messages without bytes in
 * every lane.
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <sluice/sluice.h>

#include "raw.h"
#include "tap.h"

#define MS 1000000ll
#define WAIT_NS (5000 * MS * tap_slow)
#define PATH "./x.sock"

/* A server may have to wait for the HELLO_ACK. */
static void say(struct sluice_conn *conn, const char *text)
{
	int r;

	do {
		r = sluice_send(conn, text, strlen(text), 0, 0);
		if (r == -EAGAIN)
			CHECK_OK(sluice_wait(conn, SLUICE_SEND, WAIT_NS));
	} while (r == -EAGAIN);
	CHECK_OK(r);
}

static void take_text(struct sluice_conn *conn, const char *text)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, WAIT_NS), 1);
	CHECK_EQ(msg.len, strlen(text));
	if (msg.len)
		CHECK_MEM(sluice_msg_data(&msg), text, msg.len);
	CHECK_OK(sluice_release(conn, &msg));
}

static void take_end(struct sluice_conn *conn, int end)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, WAIT_NS), end);
	CHECK_EQ(sluice_recv(conn, &msg), end);
}

static uint32_t lane(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	CHECK_EQ(info.error, 0);
	CHECK_EQ(info.tx_lane, info.rx_lane);
	return info.rx_lane;
}

/* Ends that close early ---------------------------------------------------- */

static const struct early {
	const char *name;
	uint32_t flags; /* of the client */
	bool exits; /* in a process that is gone by then, else in this one */
} earlies[] = {
	{ "aware", 0, false },
	{ "aware-exits", 0, true },
	{ "plain", SLUICE_F_PLAIN, false },
	{ "plain-exits", SLUICE_F_PLAIN, true },
};

static void send_and_close(uint32_t flags)
{
	struct sluice_options options = { .size = sizeof(options),
					  .flags = flags };
	struct sluice_conn *client;

	CHECK_OK(sluice_connect(&client, PATH, &options));
	say(client, "one");
	say(client, "two");
	sluice_conn_close(client);
}

/* A client that has gone before it is accepted leaves its messages. */
TAP_EACH(client_closes_before_accept, row, earlies)
{
	struct sluice_listener *listener;
	struct sluice_conn *server;
	int fds = tap_open_fds();
	pid_t pid;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	if (row->exits) {
		pid = tap_fork();
		if (!pid) {
			send_and_close(row->flags);
			_exit(0);
		}
		tap_join(pid);
	} else {
		send_and_close(row->flags);
	}
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	take_text(server, "one");
	take_text(server, "two");
	take_end(server, 0);
	sluice_conn_close(server);
	sluice_listener_close(listener);
	CHECK_EQ(tap_open_fds(), fds);
}

/* So does one that goes after the HELLO was sent, and before it was read. */
TAP_TEST(client_closes_before_hello)
{
	struct sluice_listener *listener;
	struct sluice_conn *client, *server;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	CHECK_OK(sluice_connect(&client, PATH, NULL));
	say(client, "one");
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	sluice_conn_close(client);
	take_text(server, "one");
	take_end(server, 0);
	sluice_conn_close(server);
	sluice_listener_close(listener);
}

static const struct closer {
	const char *name;
	bool looked; /* the client has read the HELLO */
	bool shut; /* the server shuts down first */
} closers[] = {
	{ "hello-unread", false, false },
	{ "hello-answered", true, false },
	{ "shut-hello-unread", false, true },
	{ "shut-hello-answered", true, true },
};

/*
 * A server that closes without having read the HELLO_ACK: its client sees no
 * message that is none, only the end.
 */
TAP_EACH(server_closes_before_ack, row, closers)
{
	struct sluice_listener *listener;
	struct sluice_conn *client, *server;
	struct sluice_msg msg;
	int r;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	CHECK_OK(sluice_connect(&client, PATH, NULL));
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	if (row->looked)
		CHECK_EQ(sluice_recv(client, &msg), -EAGAIN);
	if (row->shut)
		CHECK_OK(sluice_conn_shutdown(server));
	sluice_conn_close(server);
	r = sluice_recv_wait(client, &msg, WAIT_NS);
	if (r != -ECONNRESET)
		CHECK_EQ(r, 0);
	CHECK_EQ(sluice_recv(client, &msg), r);
	sluice_conn_close(client);
	sluice_listener_close(listener);
}

/* While it waits for the HELLO_ACK, a server says nothing more than BYE. */
TAP_TEST(server_shut_down_before_ack)
{
	struct sluice_listener *listener;
	struct sluice_conn *server;
	struct sluice_msg msg;
	struct raw_message m;
	struct raw raw;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	raw_init(&raw, raw_connect(PATH, 0x123456789abcdef1), RAW_ALL);
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	raw_meet(&raw, SLUICE_FRAME_HELLO);
	CHECK_OK(sluice_conn_shutdown(server));
	raw_await(&raw, &m, SLUICE_FRAME_BYE);
	CHECK_EQ(raw_try_recv(raw.sock, &m, 20), -EAGAIN);
	raw_hello(&raw, &m, SLUICE_FRAME_HELLO_ACK, raw.peer.cookie);
	raw_send(raw.sock, &m);
	raw_say(&raw, "late", 4, 1);
	CHECK_EQ(sluice_recv_wait(server, &msg, WAIT_NS), 1);
	CHECK_EQ(sluice_recv(server, &msg), -EAGAIN);
	sluice_conn_close(server);
	raw_close(&raw);
	sluice_listener_close(listener);
}

/* Handed over -------------------------------------------------------------- */

static int plain_socket(const char *path, bool listens)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock;

	if (listens)
		return raw_listen(path);
	sock = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	strcpy(address.sun_path, path);
	CHECK_SYS(connect(sock, (struct sockaddr *)&address, sizeof(address)));
	return sock;
}

static const struct handed {
	const char *name;
	bool client_by_library;
	uint64_t number; /* else: the name it is bound to, if any */
	uint32_t lane;
} handeds[] = {
	{ "accepted", true, 0, SLUICE_LANE_DIRECT },
	{ "both-named", false, 0xabcdef, SLUICE_LANE_DIRECT },
	{ "both-unnamed", false, 0, SLUICE_LANE_PLAIN },
};

/* Of sockets that the application accepted or connected, names decide. */
TAP_EACH(from_fd, row, handeds)
{
	struct sluice_conn *client, *server;
	struct sluice_msg msg;
	int sock, conn, i;

	sock = plain_socket(PATH, true);
	if (row->client_by_library)
		CHECK_OK(sluice_connect(&client, PATH, NULL));
	else
		CHECK_OK(sluice_conn_from_fd(
			&client, raw_connect(PATH, row->number), NULL));
	conn = CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC));
	CHECK_OK(sluice_conn_from_fd(&server, conn, NULL));
	for (i = 0; i < 2; i++) {
		CHECK_EQ(sluice_recv(client, &msg), -EAGAIN);
		CHECK_EQ(sluice_recv(server, &msg), -EAGAIN);
	}
	say(client, "there");
	take_text(server, "there");
	say(server, "and back");
	take_text(client, "and back");
	CHECK_EQ(lane(client), row->lane);
	CHECK_EQ(lane(server), row->lane);
	sluice_conn_close(client);
	take_end(server, 0);
	sluice_conn_close(server);
	CHECK_SYS(close(sock));
	CHECK_SYS(unlink(PATH));
}

/* Accepted by one process, which passes it on to another. */
TAP_TEST(from_fd_of_another_process)
{
	struct sluice_conn *client, *server;
	struct sluice_conn_info info;
	struct raw_message m;
	int sock, sv[2];
	pid_t pid, parent = getpid();

	sock = plain_socket(PATH, true);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	pid = tap_fork();
	if (!pid) {
		raw_recv(sv[1], &m);
		CHECK_EQ(m.fd_count, 1);
		CHECK_OK(sluice_conn_from_fd(&server, m.fds[0], NULL));
		take_text(server, "for whom it may concern");
		sluice_conn_info(server, &info);
		CHECK_EQ(info.peer_pid, parent);
		say(server, "it was me");
		take_end(server, 0);
		sluice_conn_close(server);
		_exit(0);
	}
	CHECK_OK(sluice_connect(&client, PATH, NULL));
	raw_frame(&m, 0, 0, 0, NULL, 0);
	raw_attach(&m, CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC)));
	raw_send(sv[0], &m);
	say(client, "for whom it may concern");
	take_text(client, "it was me");
	CHECK_EQ(lane(client), SLUICE_LANE_DIRECT);
	sluice_conn_close(client);
	tap_join(pid);
	CHECK_SYS(close(sock));
	CHECK_SYS(unlink(PATH));
}

/* Fork --------------------------------------------------------------------- */

/* The classic server: accept, and a child for each client. */
TAP_TEST(child_for_each_client)
{
	struct sluice_conn *client[3], *server;
	struct sluice_conn_info info;
	int sock, conn, i;
	pid_t pid[3];

	sock = plain_socket(PATH, true);
	for (i = 0; i < 3; i++) {
		CHECK_OK(sluice_connect(&client[i], PATH, NULL));
		conn = CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC));
		pid[i] = tap_fork();
		if (!pid[i]) {
			CHECK_OK(sluice_conn_from_fd(&server, conn, NULL));
			take_text(server, "hello, child");
			say(server, "hello, parent");
			take_end(server, 0);
			sluice_conn_close(server);
			_exit(0);
		}
		CHECK_SYS(close(conn));
	}
	for (i = 0; i < 3; i++)
		say(client[i], "hello, child");
	for (i = 0; i < 3; i++) {
		take_text(client[i], "hello, parent");
		CHECK_EQ(lane(client[i]), SLUICE_LANE_DIRECT);
		sluice_conn_info(client[i], &info);
		CHECK_EQ(info.peer_pid, getpid()); /* who called listen() */
	}
	for (i = 0; i < 3; i++) {
		sluice_conn_close(client[i]);
		tap_join(pid[i]);
	}
	CHECK_SYS(close(sock));
	CHECK_SYS(unlink(PATH));
}

/* A child closes what it inherited; the parent's go on, its path stays. */
TAP_TEST(child_closes_its_copies)
{
	struct sluice_listener *listener;
	struct sluice_conn *client, *server, *another;
	struct sluice_msg msg;
	pid_t pid;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	CHECK_OK(sluice_connect(&client, PATH, NULL));
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	CHECK_EQ(sluice_recv(client, &msg), -EAGAIN);
	pid = tap_fork();
	if (!pid) {
		CHECK_EQ(sluice_send(client, "x", 1, 0, 0), -ECHILD);
		CHECK_EQ(sluice_recv(server, &msg), -ECHILD);
		sluice_conn_close(client);
		sluice_conn_close(server);
		sluice_listener_close(listener);
		CHECK_EQ(tap_open_fds(), 3);
		_exit(0);
	}
	tap_join(pid);
	say(client, "still here");
	take_text(server, "still here");
	say(server, "so am I");
	take_text(client, "so am I");
	CHECK_SYS(access(PATH, F_OK));
	CHECK_OK(sluice_connect(&another, PATH, NULL));
	sluice_conn_close(another);
	sluice_conn_close(client);
	take_end(server, 0);
	sluice_conn_close(server);
	sluice_listener_close(listener);
	CHECK_EQ(access(PATH, F_OK), -1);
}

/* A message without bytes, in every lane ----------------------------------- */

static const struct zero {
	const char *name;
	uint32_t flags, lane;
	bool buffer; /* from a loan, else inline */
} zeros[] = {
	{ "plain", SLUICE_F_PLAIN, SLUICE_LANE_PLAIN, false },
	{ "plain-buffer", SLUICE_F_PLAIN, SLUICE_LANE_PLAIN, true },
	{ "queued", SLUICE_F_NO_DIRECT, SLUICE_LANE_QUEUED, false },
	{ "queued-buffer", SLUICE_F_NO_DIRECT, SLUICE_LANE_QUEUED, true },
	{ "direct", 0, SLUICE_LANE_DIRECT, false },
	{ "direct-buffer", 0, SLUICE_LANE_DIRECT, true },
};

TAP_EACH(zero_bytes, row, zeros)
{
	struct sluice_options options = { .size = sizeof(options),
					  .flags = row->flags };
	struct sluice_conn *conn[2];
	struct sluice_buf *buf;
	struct sluice_msg msg;
	int i;

	CHECK_OK(sluice_pair(conn, &options));
	CHECK_EQ(sluice_recv(conn[0], &msg), -EAGAIN);
	CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
	for (i = 0; i < 3; i++) {
		if (row->buffer) {
			CHECK_OK(sluice_loan(conn[0], 0, &buf));
			CHECK_OK(sluice_send_buf(conn[0], buf, 0, 5, 0));
		} else {
			CHECK_OK(sluice_send(conn[0], NULL, 0, 5, 0));
		}
	}
	say(conn[0], "last");
	sluice_conn_close(conn[0]);
	for (i = 0; i < 3; i++) {
		CHECK_EQ(sluice_recv_wait(conn[1], &msg, WAIT_NS), 1);
		CHECK_EQ(msg.len, 0);
		CHECK_EQ(lane(conn[1]), row->lane);
		if (row->lane != SLUICE_LANE_PLAIN)
			CHECK_EQ(msg.tag, 5);
		CHECK_OK(sluice_release(conn[1], &msg));
	}
	take_text(conn[1], "last");
	take_end(conn[1], 0);
	sluice_conn_close(conn[1]);
}
