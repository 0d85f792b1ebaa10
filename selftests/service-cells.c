/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Bulk through a service, for each kind of client and of backend and each type of
 * socket: every message, or piece of a stream, comes back as it was, and then the
 * end. An aware side of STREAM is the library on a plain stream; of DGRAM only
 * backends are aware: a client would need a peer that is connected to it.
 *
 * SLUICE_LONG=1: 1 GiB each way through each.
 *
 * Limit: 600 s
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sluice/sluice.h>

#include "services.h"
#include "tap.h"

#define WAIT_NS (20000000000 * tap_slow)
#define LEN_MAX 200000
#define PIECE \
	60000 /* of a stream: SO_SNDBUF bounds what the library sends at once */
#define AHEAD 2 /* messages on the way: both directions have room for so many */

static const struct cell {
	const char *name;
	int type;
	bool aware_client, aware_backend;
	const char *extra; /* of the service */
	uint32_t lane; /* in which an aware backend receives */
} cells[] = {
	{ "plain_plain_stream", SOCK_STREAM, false, false, "", 0 },
	{ "plain_plain_stream_redirected", SOCK_STREAM, false, false,
	  "half_close = no\n", 0 },
	{ "plain_plain_seqpacket", SOCK_SEQPACKET, false, false, "", 0 },
	{ "plain_plain_dgram", SOCK_DGRAM, false, false, "", 0 },
	{ "plain_aware_stream", SOCK_STREAM, false, true, "",
	  SLUICE_LANE_PLAIN },
	{ "plain_aware_stream_landing", SOCK_STREAM, false, true,
	  "landing = yes\n", SLUICE_LANE_STEERED },
	{ "plain_aware_seqpacket", SOCK_SEQPACKET, false, true, "",
	  SLUICE_LANE_STEERED },
	{ "plain_aware_dgram", SOCK_DGRAM, false, true, "",
	  SLUICE_LANE_STEERED },
	{ "aware_plain_stream", SOCK_STREAM, true, false, "", 0 },
	{ "aware_plain_stream_redirected", SOCK_STREAM, true, false,
	  "half_close = no\n", 0 },
	{ "aware_plain_seqpacket", SOCK_SEQPACKET, true, false, "", 0 },
	{ "aware_aware_stream", SOCK_STREAM, true, true, "",
	  SLUICE_LANE_PLAIN },
	{ "aware_aware_stream_landing", SOCK_STREAM, true, true,
	  "landing = yes\n", SLUICE_LANE_STEERED },
	{ "aware_aware_seqpacket", SOCK_SEQPACKET, true, true, "",
	  SLUICE_LANE_DIRECT },
	{ "aware_aware_seqpacket_steered", SOCK_SEQPACKET, true, true, "",
	  SLUICE_LANE_STEERED },
};

/* The aware backend ------------------------------------------------------------ */

/* Sends all of it, however long that takes. */
static void send_conn(struct sluice_conn *conn, const char *data, size_t len)
{
	int r;

	while ((r = sluice_send(conn, data, len, 0, 0)) == -EAGAIN)
		CHECK_GE(sluice_wait(conn, SLUICE_SEND, WAIT_NS), 0);
	CHECK_OK(r);
}

/* Sends back what comes, until the end; by then it came in the cell's lane. */
static void echo_conn(struct sluice_conn *conn, const struct cell *cell)
{
	struct sluice_conn_info info;
	struct sluice_msg msg;
	int r;

	while ((r = sluice_recv_wait(conn, &msg, WAIT_NS)) == 1) {
		const char *data = sluice_msg_data(&msg);
		size_t left = msg.len, part;

		do {
			part = cell->type == SOCK_STREAM && left > PIECE ?
				       PIECE :
				       left;
			send_conn(conn, data, part);
			data += part;
			left -= part;
		} while (left);
		CHECK_OK(sluice_release(conn, &msg));
		sluice_conn_info(conn, &info);
	}
	CHECK_EQ(r, 0);
	CHECK_EQ(info.rx_lane, cell->lane);
	if (cell->lane == SLUICE_LANE_STEERED)
		CHECK_GT(info.steered, 0);
}

static pid_t start_aware(const struct services *s, const struct cell *cell)
{
	struct sluice_endpoint_options endpoint = {
		.size = sizeof(endpoint),
		.control = s->d.control,
		.landing = { 16, 16, 8 },
	};
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = cell->lane == SLUICE_LANE_STEERED ? SLUICE_F_STEER : 0,
		.endpoint_options = &endpoint,
	};
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	pid_t pid = tap_fork();

	if (pid)
		return pid;
	CHECK_OK(sluice_service_bind(&listener, "s", &options));
	CHECK_OK(sluice_accept(listener, &conn, WAIT_NS));
	echo_conn(conn, cell);
	CHECK_OK(sluice_conn_shutdown(conn));
	sluice_conn_close(conn);
	sluice_listener_close(listener);
	_exit(0);
}

/* The client --------------------------------------------------------------------- */

struct client {
	const struct cell *cell;
	int fd;
	struct sluice_conn *conn; /* NULL: plain */
};

static void client_open(struct client *client, const struct services *s)
{
	const struct cell *cell = client->cell;
	/* before the first message: an echo must not have to receive the next */
	const struct sluice_options options = {
		.size = sizeof(options),
		.flags = cell->aware_backend ? SLUICE_F_REQUIRE_AWARE : 0,
	};

	if (cell->aware_client && cell->type == SOCK_SEQPACKET) {
		CHECK_SOON(!sluice_connect(&client->conn, s->path, &options));
		return;
	}
	client->fd = cell->type == SOCK_DGRAM ? services_named(s) :
						services_connect(s);
	if (cell->aware_client)
		CHECK_OK(sluice_conn_from_fd(&client->conn, client->fd, NULL));
}

static void client_send(struct client *client, const char *data, size_t len)
{
	ssize_t n;

	if (client->conn) {
		send_conn(client->conn, data, len);
		return;
	}
	do {
		n = CHECK_SYS(send(client->fd, data, len, MSG_NOSIGNAL));
		data += n;
		len -= (size_t)n;
	} while (len);
}

/* One message or what there is of a stream, at most len bytes; to data. */
static size_t client_receive(struct client *client, char *data, size_t len)
{
	size_t got;

	if (!client->conn)
		return (size_t)CHECK_SYS(
			recv(client->fd, data, len, MSG_TRUNC));
	CHECK_GE(sluice_wait(client->conn, SLUICE_RECV, WAIT_NS), 0);
	CHECK_EQ(sluice_recv_copy(client->conn, data, len, &got, NULL), 1);
	return got;
}

static size_t length_of(const struct cell *cell, size_t i)
{
	return cell->type == SOCK_STREAM ? 1 + i * 7919 % PIECE :
					   1 + i * 7919 % LEN_MAX;
}

/* What a stream brought beyond the message that was to be checked. */
static struct {
	char data[2 * LEN_MAX];
	size_t len;
} kept;

static void client_check(struct client *client, size_t i)
{
	size_t len = length_of(client->cell, i);

	while (kept.len < len)
		kept.len += client_receive(client, kept.data + kept.len,
					   sizeof(kept.data) - kept.len);
	if (client->cell->type != SOCK_STREAM)
		CHECK_EQ(kept.len, len);
	CHECK(tap_matches(kept.data, len, i));
	kept.len -= len;
	memmove(kept.data, kept.data + len, kept.len);
}

static void client_end(struct client *client)
{
	struct sluice_msg msg;

	CHECK_EQ(kept.len, 0);
	if (client->cell->type == SOCK_DGRAM) {
		close(client->fd);
		return;
	}
	if (client->conn) {
		CHECK_OK(sluice_conn_shutdown(client->conn));
		CHECK_EQ(sluice_recv_wait(client->conn, &msg, WAIT_NS), 0);
		sluice_conn_close(client->conn);
		return;
	}
	CHECK_SYS(shutdown(client->fd, SHUT_WR));
	services_ends(client->fd);
	close(client->fd);
}

/* The table ------------------------------------------------------------------------ */

TAP_EACH(bulk, cell, cells)
{
	static char data[LEN_MAX];
	struct client client = { .cell = cell };
	struct services s;
	size_t sent = 0, i = 0, checked = 0;
	pid_t backend = 0;

	tap_limit(getenv("SLUICE_LONG") ? 590 : 120);
	services_open(&s, cell->type, !cell->aware_backend, cell->extra);
	if (cell->aware_backend)
		backend = start_aware(&s, cell);
	else
		backend_start(&s, 0, BACKEND_ECHO);
	client_open(&client, &s);
	for (; sent < services_bulk(); i++) {
		if (i - checked == AHEAD)
			client_check(&client, checked++);
		tap_fill(data, length_of(cell, i), i);
		client_send(&client, data, length_of(cell, i));
		sent += length_of(cell, i);
	}
	while (checked < i)
		client_check(&client, checked++);
	tap_diag("%zu MiB in %zu messages", sent >> 20, i);
	client_end(&client);
	if (backend && cell->type == SOCK_DGRAM)
		tap_kill(backend); /* its sessions end when they are idle */
	else if (backend)
		tap_join(backend);
	services_close(&s);
}
