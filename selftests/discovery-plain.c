/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The border between plain and aware: what was sent before the HELLO_ACK, what
 * only looks like a HELLO, messages without bytes, clients that come and go, and
 * sockets that are handed over. PROTOCOL.md sections 5 and 12.
 */
#include <stdlib.h>
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
#define NUMBER 0x1122334455667788ull /* in a raw client's name */

static void take(struct sluice_conn *conn, const void *data, size_t len)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, WAIT_NS), 1);
	CHECK_EQ(msg.len, len);
	CHECK_EQ(msg.flags, 0);
	if (len)
		CHECK_MEM(sluice_msg_data(&msg), data, len);
	CHECK_OK(sluice_release(conn, &msg));
}

static void take_text(struct sluice_conn *conn, const char *text)
{
	take(conn, text, strlen(text));
}

static void take_nothing(struct sluice_conn *conn)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv(conn, &msg), -EAGAIN);
}

static void take_end(struct sluice_conn *conn)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, WAIT_NS), 0);
	CHECK_EQ(sluice_recv(conn, &msg), 0);
}

static void say(struct sluice_conn *conn, const char *text)
{
	CHECK_OK(sluice_send(conn, text, strlen(text), 0, 0));
}

static void raw_text(int sock, const char *text)
{
	CHECK_SYS(send(sock, text, strlen(text), MSG_NOSIGNAL));
}

static uint32_t rx_lane(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	CHECK_EQ(info.error, 0);
	return info.rx_lane;
}

/* Before the HELLO_ACK ----------------------------------------------------- */

/* Plain messages, then frames: in order, on one socket. */
TAP_TEST(early_messages_in_order)
{
	struct sluice_listener *listener;
	struct sluice_conn *client, *server;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	CHECK_OK(sluice_connect(&client, PATH, NULL));
	say(client, "one, before anyone listens");
	say(client, "two");
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	say(client, "three, which may still be plain");
	take_nothing(client);
	say(client, "four, which is a frame");
	say(client, "five");
	take_text(server, "one, before anyone listens");
	CHECK_EQ(rx_lane(server), SLUICE_LANE_PLAIN);
	take_text(server, "two");
	take_text(server, "three, which may still be plain");
	take_text(server, "four, which is a frame");
	CHECK_NE(rx_lane(server), SLUICE_LANE_PLAIN);
	take_text(server, "five");
	say(server, "and back");
	take_text(client, "and back");
	sluice_conn_close(client);
	take_end(server);
	sluice_conn_close(server);
	sluice_listener_close(listener);
}

/* The same bytes as a server by hand sees them: nothing before the ACK is a
 * frame, nothing after it is not.
 */
TAP_TEST(early_messages_are_plain)
{
	struct sluice_conn *client;
	struct sockaddr_un peer;
	socklen_t len = sizeof(peer);
	struct sluice_slot slot;
	struct raw_message m;
	struct raw raw;
	char digits[17] = "";
	int sock;

	sock = raw_listen(PATH);
	CHECK_OK(sluice_connect(&client, PATH, NULL));
	CHECK_OK(sluice_send(client, "plain", 5, 1, 0));
	raw_init(&raw, CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC)),
		 RAW_ALL);
	CHECK_SYS(getpeername(raw.sock, (struct sockaddr *)&peer, &len));
	CHECK_EQ(len, offsetof(struct sockaddr_un, sun_path) + 1 +
			      strlen(SLUICE_NAME_PREFIX) + 16);
	CHECK_EQ(peer.sun_path[0], 0);
	CHECK_MEM(peer.sun_path + 1, SLUICE_NAME_PREFIX,
		  strlen(SLUICE_NAME_PREFIX));
	memcpy(digits, peer.sun_path + 1 + strlen(SLUICE_NAME_PREFIX), 16);
	CHECK_EQ(strspn(digits, "0123456789abcdef"), 16);
	CHECK(strtoull(digits, NULL, 16));

	raw_hello(&raw, &m, SLUICE_FRAME_HELLO, strtoull(digits, NULL, 16));
	raw_send(raw.sock, &m);
	take_nothing(client);
	CHECK_OK(sluice_send(client, "frame", 5, 2, 0));
	raw_recv(raw.sock, &m);
	CHECK_EQ(m.len, 5);
	CHECK_MEM(m.bytes, "plain", 5);
	raw_meet(&raw, SLUICE_FRAME_HELLO_ACK);
	CHECK_EQ(raw.peer.echo, raw.hello.cookie);
	CHECK_MEM(raw_next(&raw, &slot), "frame", 5);
	CHECK_EQ(slot.tag, 2);
	sluice_conn_close(client);
	raw_close(&raw);
	CHECK_SYS(close(sock));
	CHECK_SYS(unlink(PATH));
}

/* A client by hand, which the server has sent its HELLO. */
static struct sluice_listener *start_raw(struct raw *raw,
					 struct sluice_conn **server)
{
	struct sluice_listener *listener;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	raw_init(raw, raw_connect(PATH, NUMBER), RAW_ALL);
	CHECK_OK(sluice_accept(listener, server, WAIT_NS));
	raw_meet(raw, SLUICE_FRAME_HELLO);
	CHECK_EQ(raw->peer.echo, NUMBER);
	CHECK_NE(raw->peer.cookie, 0);
	return listener;
}

/* Bytes that look like a HELLO_ACK, but are the client's own messages. */
static const struct forged {
	const char *name;
	uint8_t type;
	int64_t echo; /* off the right one */
	int fds; /* instead of the link */
} forged_acks[] = {
	{ "echo", SLUICE_FRAME_HELLO_ACK, 1, 1 },
	{ "echo-no-fd", SLUICE_FRAME_HELLO_ACK, 1, 0 },
	{ "echo-two-fds", SLUICE_FRAME_HELLO_ACK, 1, 2 },
	{ "hello", SLUICE_FRAME_HELLO, 0, 1 },
	{ "data", SLUICE_FRAME_DATA, 0, 0 },
	{ "bye", SLUICE_FRAME_BYE, 0, 0 },
	{ "error", SLUICE_FRAME_ERROR, 0, 0 },
};

TAP_EACH(forged_ack, row, forged_acks)
{
	struct sluice_listener *listener;
	struct sluice_conn *server;
	struct sluice_slot slot;
	struct raw_message m;
	struct raw raw;
	int i, fds;

	listener = start_raw(&raw, &server);
	fds = tap_open_fds();
	raw_text(raw.sock, "before");
	raw_hello(&raw, &m, row->type, raw.peer.cookie + (uint64_t)row->echo);
	raw_drop(&m);
	for (i = 0; i < row->fds; i++)
		raw_attach(&m, CHECK_SYS(dup(0)));
	raw_send(raw.sock, &m);
	raw_text(raw.sock, "after");
	take_text(server, "before");
	take(server, m.bytes, m.len);
	take_text(server, "after");
	CHECK_EQ(rx_lane(server), SLUICE_LANE_PLAIN);
	CHECK_EQ(tap_open_fds(), fds);

	/* The right one still counts. */
	raw_hello(&raw, &m, SLUICE_FRAME_HELLO_ACK, raw.peer.cookie);
	raw_send(raw.sock, &m);
	raw_say(&raw, "frame", 5, 1);
	take_text(server, "frame");
	CHECK_NE(rx_lane(server), SLUICE_LANE_PLAIN);
	say(server, "back");
	CHECK_MEM(raw_next(&raw, &slot), "back", 4);
	sluice_conn_close(server);
	raw_close(&raw);
	sluice_listener_close(listener);
}

/* From an unnamed client every byte is a message. */
TAP_TEST(plain_client_sends_frames)
{
	struct sluice_listener *listener;
	struct sluice_conn *server;
	struct raw_message m;
	struct raw raw;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	raw_init(&raw, raw_connect(PATH, 0), RAW_ALL);
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	raw_hello(&raw, &m, SLUICE_FRAME_HELLO_ACK, 0);
	raw_send(raw.sock, &m);
	take(server, m.bytes, m.len);
	raw_hello(&raw, &m, SLUICE_FRAME_HELLO, 0);
	raw_send(raw.sock, &m);
	take(server, m.bytes, m.len);
	say(server, "plain");
	raw_recv(raw.sock, &m);
	CHECK_EQ(m.len, 5);
	CHECK_MEM(m.bytes, "plain", 5);
	sluice_conn_close(server);
	raw_recv(raw.sock, &m);
	CHECK(m.end);
	raw_close(&raw);
	sluice_listener_close(listener);
}

/* Names that are nearly those of aware clients. */
static const struct name {
	const char *name;
	const char *bound; /* after the NUL */
} names[] = {
	{ "none", NULL },
	{ "upper-case", "sluice1-11223344AABBCCDD" },
	{ "15-digits", "sluice1-112233445566778" },
	{ "17-digits", "sluice1-11223344556677889" },
	{ "no-digit", "sluice1-112233445566778g" },
	{ "zero", "sluice1-0000000000000000" },
	{ "other-major", "sluice2-1122334455667788" },
	{ "prefix", "sluice1-" },
};

TAP_EACH(name_of_client, row, names)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct sluice_listener *listener;
	struct sluice_conn_info info;
	struct sluice_conn *server;
	struct raw_message m;
	int sock;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	sock = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	if (row->bound) {
		strcpy(address.sun_path + 1, row->bound);
		CHECK_SYS(bind(
			sock, (struct sockaddr *)&address,
			(socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				    strlen(row->bound))));
	}
	memset(address.sun_path, 0, sizeof(address.sun_path));
	strcpy(address.sun_path, PATH);
	CHECK_SYS(connect(sock, (struct sockaddr *)&address, sizeof(address)));
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	sluice_conn_info(server, &info);
	CHECK_EQ(info.rx_reason, SLUICE_REASON_PEER_PLAIN);
	CHECK_EQ(raw_try_recv(sock, &m, 0), -EAGAIN);
	sluice_conn_close(server);
	raw_recv(sock, &m);
	CHECK(m.end);
	CHECK_SYS(close(sock));
	sluice_listener_close(listener);
}

/* Before the HELLO --------------------------------------------------------- */

/* A plain server whose first message looks like a HELLO, or nearly so. */
static const struct first {
	const char *name;
	uint8_t type;
	int64_t echo; /* off the right one */
	int fds; /* instead of the link */
	size_t cut; /* bytes off its end */
	const char *text; /* instead of all that */
} firsts[] = {
	{ "echo", SLUICE_FRAME_HELLO, 1, 1, 0, NULL },
	{ "echo-no-fd", SLUICE_FRAME_HELLO, 1, 0, 0, NULL },
	{ "no-fd", SLUICE_FRAME_HELLO, 0, 0, 0, NULL },
	{ "two-fds", SLUICE_FRAME_HELLO, 0, 2, 0, NULL },
	{ "ack", SLUICE_FRAME_HELLO_ACK, 0, 1, 0, NULL },
	{ "short", SLUICE_FRAME_HELLO, 0, 1, 1, NULL },
	{ "header", SLUICE_FRAME_HELLO, 0, 0, 64, NULL },
	{ "text", 0, 0, 0, 0, "welcome" },
	{ "empty", 0, 0, 0, 0, "" },
};

/* It is a message, and so is all that follows: the right HELLO, too. */
TAP_EACH(forged_hello, row, firsts)
{
	struct sluice_conn_info info;
	struct sluice_conn *client;
	struct sockaddr_un peer = { 0 };
	socklen_t len = sizeof(peer);
	struct raw_message m;
	struct raw raw;
	uint64_t number;
	int sock, i, fds;

	sock = raw_listen(PATH);
	CHECK_OK(sluice_connect(&client, PATH, NULL));
	raw_init(&raw, CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC)),
		 RAW_ALL);
	fds = tap_open_fds();
	CHECK_SYS(getpeername(raw.sock, (struct sockaddr *)&peer, &len));
	number = strtoull(peer.sun_path + 1 + strlen(SLUICE_NAME_PREFIX), NULL,
			  16);
	raw_hello(&raw, &m, row->type, number + (uint64_t)row->echo);
	raw_drop(&m);
	for (i = 0; i < row->fds; i++)
		raw_attach(&m, CHECK_SYS(dup(0)));
	m.len -= row->cut;
	if (row->text) {
		m.len = strlen(row->text);
		memcpy(m.bytes, row->text, m.len);
	}
	raw_send(raw.sock, &m);
	take(client, m.bytes, m.len);
	sluice_conn_info(client, &info);
	CHECK_EQ(info.rx_reason, SLUICE_REASON_PEER_PLAIN);

	raw_hello(&raw, &m, SLUICE_FRAME_HELLO, number);
	raw_send(raw.sock, &m);
	take(client, m.bytes, m.len);
	say(client, "plain");
	raw_recv(raw.sock, &m);
	CHECK_EQ(m.len, 5);
	CHECK_MEM(m.bytes, "plain", 5);
	CHECK_EQ(tap_open_fds(), fds);
	sluice_conn_close(client);
	raw_recv(raw.sock, &m);
	CHECK(m.end);
	raw_close(&raw);
	CHECK_SYS(close(sock));
	CHECK_SYS(unlink(PATH));
}

/* A message without bytes -------------------------------------------------- */

static const struct zero {
	const char *name;
	bool close; /* at once, before anything is read */
	int count;
} zeros[] = {
	{ "open", false, 1 },
	{ "closed", true, 1 },
	{ "many-closed", true, 3 },
};

/* From a bare peer: a message, not the end. */
TAP_EACH(zero_from_bare, row, zeros)
{
	struct sluice_listener *listener;
	struct sluice_conn *server;
	int sock, i;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	sock = raw_connect(PATH, 0);
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	raw_text(sock, "first");
	for (i = 0; i < row->count; i++)
		raw_text(sock, "");
	raw_text(sock, "last");
	raw_text(sock, "");
	if (row->close)
		CHECK_SYS(close(sock));
	take_text(server, "first");
	for (i = 0; i < row->count; i++)
		take_text(server, "");
	take_text(server, "last");
	take_text(server, "");
	if (!row->close) {
		take_nothing(server);
		CHECK_SYS(close(sock));
	}
	take_end(server);
	sluice_conn_close(server);
	sluice_listener_close(listener);
}

/* To a bare peer, which sees just that. */
TAP_TEST(zero_to_bare)
{
	struct sluice_conn *client;
	struct raw_message m;
	int sock, conn;

	sock = raw_listen(PATH);
	CHECK_OK(sluice_connect(&client, PATH, NULL));
	conn = CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC));
	say(client, "");
	say(client, "");
	sluice_conn_close(client);
	raw_recv(conn, &m);
	CHECK_EQ(m.len, 0);
	CHECK(!m.end);
	raw_recv(conn, &m);
	CHECK(!m.end);
	raw_recv(conn, &m);
	CHECK(m.end);
	CHECK_SYS(close(conn));
	CHECK_SYS(close(sock));
	CHECK_SYS(unlink(PATH));
}
