/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Who finds out what about whom: aware and plain endpoints in both roles, over
 * path and abstract names, pairs and inherited sockets, with every flag; the
 * lanes and reasons that sluice_conn_info() reports; and that messages pass.
 * PROTOCOL.md section 5.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sluice/sluice.h>

#include "raw.h"
#include "tap.h"

#define MS 1000000ll
#define WAIT_NS (5000 * MS * tap_slow)
#define PATH "./x.sock"

/* What the other side of a row knows of sluice. */
enum side {
	BARE, /* nothing: a socket and no library */
	LIBRARY, /* the library, with the row's flags */
};

static struct sluice_options with_flags(uint32_t flags)
{
	return (struct sluice_options){ .size = sizeof(struct sluice_options),
					.flags = flags };
}

static const char *abstract_name(void)
{
	static char name[64];

	/* the same in a child */
	if (!name[0])
		snprintf(name, sizeof(name), "@sluice-test-%d", getpid());
	return name;
}

/* One side of a connection: a conn, or a bare socket. */
struct end {
	struct sluice_conn *conn;
	int sock; /* -1: conn */
};

static void end_close(struct end *end)
{
	if (end->conn)
		sluice_conn_close(end->conn);
	else
		CHECK_SYS(close(end->sock));
}

/* All messages ever sent have another content. */
static uint64_t key;

static void end_send(struct end *end, size_t len)
{
	char *data = malloc(len + 1);

	CHECK(data);
	tap_fill(data, len, ++key);
	if (end->conn)
		CHECK_OK(sluice_send(end->conn, data, len, key, 0));
	else
		CHECK_EQ(CHECK_SYS(send(end->sock, data, len, MSG_NOSIGNAL)),
			 len);
	free(data);
}

static void end_recv(struct end *end, size_t len, bool tagged)
{
	char *data = malloc(len + 1);
	uint64_t tag = ~0ull;
	size_t got;
	int r;

	CHECK(data);
	if (end->conn) {
		CHECK_OK(sluice_wait(end->conn, SLUICE_RECV, WAIT_NS));
		r = sluice_recv_copy(end->conn, data, len + 1, &got, &tag);
		CHECK_EQ(r, 1);
		CHECK_EQ(tag, tagged ? key : 0);
	} else {
		got = (size_t)CHECK_SYS(
			recv(end->sock, data, len + 1, MSG_DONTWAIT));
	}
	CHECK_EQ(got, len);
	CHECK(tap_matches(data, len, key));
	free(data);
}

static void exchange(struct end *a, struct end *b, bool tagged)
{
	static const size_t lens[] = { 0, 1, 31, 32, 33, 0, 5000, 100000 };
	size_t i;

	for (i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		end_send(a, lens[i]);
		end_recv(b, lens[i], tagged);
		end_send(b, lens[i]);
		end_recv(a, lens[i], tagged);
	}
}

/* Both directions of a conn alike. */
static void check_lanes(struct end *end, uint32_t lane, uint32_t reason)
{
	struct sluice_conn_info info;

	if (!end->conn)
		return;
	sluice_conn_info(end->conn, &info);
	CHECK_STR(sluice_lane_name(info.tx_lane), sluice_lane_name(lane));
	CHECK_STR(sluice_lane_name(info.rx_lane), sluice_lane_name(lane));
	CHECK_STR(sluice_reason_text(info.tx_reason),
		  sluice_reason_text(reason));
	CHECK_STR(sluice_reason_text(info.rx_reason),
		  sluice_reason_text(reason));
	CHECK_EQ(info.error, 0);
	CHECK_EQ(info.peer_pid, getpid());
	CHECK_EQ(info.peer_uid, getuid());
	CHECK_EQ(info.peer_gid, getgid());
}

/* The matrix --------------------------------------------------------------- */

/* The best reason there is, when the lane is direct. */
#define BEST SLUICE_LANE_DIRECT, SLUICE_REASON_NONE
#define PLAIN(why) SLUICE_LANE_PLAIN, SLUICE_REASON_##why
#define QUEUED(why) SLUICE_LANE_QUEUED, SLUICE_REASON_##why

static const struct row {
	const char *name;
	enum side client, server;
	uint32_t client_flags, server_flags;
	/* in the end, after messages both ways */
	uint32_t client_lane, client_reason;
	uint32_t server_lane, server_reason;
} rows[] = {
	{ "aware-aware", LIBRARY, LIBRARY, 0, 0, BEST, BEST },
	{ "aware-told", LIBRARY, LIBRARY, 0, SLUICE_F_PLAIN, PLAIN(PEER_PLAIN),
	  PLAIN(SELF_PLAIN) },
	{ "aware-bare", LIBRARY, BARE, 0, 0, PLAIN(PEER_PLAIN), 0, 0 },
	{ "told-aware", LIBRARY, LIBRARY, SLUICE_F_PLAIN, 0, PLAIN(SELF_PLAIN),
	  PLAIN(PEER_PLAIN) },
	{ "told-told", LIBRARY, LIBRARY, SLUICE_F_PLAIN, SLUICE_F_PLAIN,
	  PLAIN(SELF_PLAIN), PLAIN(SELF_PLAIN) },
	{ "told-bare", LIBRARY, BARE, SLUICE_F_PLAIN, 0, PLAIN(SELF_PLAIN), 0,
	  0 },
	{ "bare-aware", BARE, LIBRARY, 0, 0, 0, 0, PLAIN(PEER_PLAIN) },
	{ "bare-told", BARE, LIBRARY, 0, SLUICE_F_PLAIN, 0, 0,
	  PLAIN(SELF_PLAIN) },
	{ "client-no-link", LIBRARY, LIBRARY, SLUICE_F_NO_DIRECT, 0,
	  QUEUED(NO_LINK), QUEUED(PEER_NO_LINK) },
	{ "server-no-link", LIBRARY, LIBRARY, 0, SLUICE_F_NO_DIRECT,
	  QUEUED(PEER_NO_LINK), QUEUED(NO_LINK) },
	{ "neither-link", LIBRARY, LIBRARY, SLUICE_F_NO_DIRECT,
	  SLUICE_F_NO_DIRECT, QUEUED(NO_LINK), QUEUED(NO_LINK) },
};

static void run_row(const struct row *row, const char *name)
{
	struct sluice_options c = with_flags(row->client_flags),
			      s = with_flags(row->server_flags);
	bool aware = (row->client == LIBRARY ?
			      row->client_lane :
			      row->server_lane) != SLUICE_LANE_PLAIN;
	struct sluice_listener *listener = NULL;
	struct end client = { .sock = -1 }, server = { .sock = -1 };
	int fds = tap_open_fds(), sock = -1;
	struct sluice_msg msg;

	if (row->server == LIBRARY)
		CHECK_OK(sluice_listen(&listener, name, &s));
	else
		sock = raw_listen(name);
	if (row->client == LIBRARY)
		CHECK_OK(sluice_connect(&client.conn, name, &c));
	else
		client.sock = raw_connect(name, 0);
	if (row->client == LIBRARY && !(row->client_flags & SLUICE_F_PLAIN))
		check_lanes(&client, PLAIN(UNDECIDED));
	if (row->server == LIBRARY) {
		CHECK_OK(sluice_accept(listener, &server.conn, WAIT_NS));
		/* a plain client is known by its name */
		if (aware)
			check_lanes(&server, PLAIN(UNDECIDED));
		else if (row->client == BARE)
			check_lanes(&server, row->server_lane,
				    row->server_reason);
	} else {
		server.sock =
			CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC));
	}
	if (aware) {
		CHECK_EQ(sluice_send(server.conn, "x", 1, 0, 0), -EAGAIN);
		CHECK_EQ(sluice_recv(client.conn, &msg), -EAGAIN);
		CHECK_EQ(sluice_recv(server.conn, &msg), -EAGAIN);
	}
	exchange(&client, &server, aware);
	check_lanes(&client, row->client_lane, row->client_reason);
	check_lanes(&server, row->server_lane, row->server_reason);
	end_close(&client);
	if (server.conn) {
		CHECK_EQ(sluice_recv_wait(server.conn, &msg, WAIT_NS), 0);
	} else {
		struct raw_message m;

		/* not a byte more than what the application sent */
		raw_recv(server.sock, &m);
		CHECK(m.end);
	}
	end_close(&server);
	sluice_listener_close(listener);
	if (sock >= 0)
		CHECK_SYS(close(sock));
	CHECK_EQ(tap_open_fds(), fds);
}

TAP_EACH(path, row, rows)
{
	run_row(row, PATH);
	unlink(PATH); /* of a bare server; the library removes its own */
}

TAP_EACH(abstract, row, rows)
{
	run_row(row, abstract_name());
}

/* Sockets that are there already ------------------------------------------- */

static const struct pair {
	const char *name;
	uint32_t a, b; /* flags */
	uint32_t a_lane, a_reason, b_lane, b_reason;
} pairs[] = {
	{ "both-aware", SLUICE_F_AWARE, SLUICE_F_AWARE, BEST, BEST },
	{ "first-aware", SLUICE_F_AWARE, 0, BEST, BEST },
	{ "second-aware", 0, SLUICE_F_AWARE, BEST, BEST },
	{ "neither-aware", 0, 0, PLAIN(PEER_PLAIN), PLAIN(PEER_PLAIN) },
	{ "both-plain", SLUICE_F_PLAIN, SLUICE_F_PLAIN, PLAIN(SELF_PLAIN),
	  PLAIN(SELF_PLAIN) },
	{ "first-no-link", SLUICE_F_AWARE | SLUICE_F_NO_DIRECT, SLUICE_F_AWARE,
	  QUEUED(NO_LINK), QUEUED(PEER_NO_LINK) },
	{ "second-no-link", SLUICE_F_AWARE, SLUICE_F_NO_DIRECT,
	  QUEUED(PEER_NO_LINK), QUEUED(NO_LINK) },
};

TAP_EACH(pair, row, pairs)
{
	struct sluice_options a = with_flags(row->a), b = with_flags(row->b);
	struct end ends[2] = { { .sock = -1 }, { .sock = -1 } };
	int fds = tap_open_fds(), sv[2], i;
	struct sluice_msg msg;

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv));
	CHECK_OK(sluice_conn_from_fd(&ends[0].conn, sv[0], &a));
	CHECK_OK(sluice_conn_from_fd(&ends[1].conn, sv[1], &b));
	for (i = 0; i < 4; i++)
		CHECK_EQ(sluice_recv(ends[i % 2].conn, &msg), -EAGAIN);
	exchange(&ends[0], &ends[1], row->a_lane != SLUICE_LANE_PLAIN);
	check_lanes(&ends[0], row->a_lane, row->a_reason);
	check_lanes(&ends[1], row->b_lane, row->b_reason);
	/* inherited fds are close-on-exec, too */
	CHECK(CHECK_SYS(fcntl(sv[0], F_GETFD)) & FD_CLOEXEC);
	end_close(&ends[0]);
	CHECK_EQ(sluice_recv_wait(ends[1].conn, &msg, WAIT_NS), 0);
	end_close(&ends[1]);
	CHECK_EQ(tap_open_fds(), fds);
}

static const struct library_pair {
	const char *name;
	uint32_t flags, lane, reason;
} library_pairs[] = {
	{ "default", 0, BEST },
	{ "no-link", SLUICE_F_NO_DIRECT, QUEUED(NO_LINK) },
	{ "plain", SLUICE_F_PLAIN, PLAIN(SELF_PLAIN) },
};

TAP_EACH(library_pair, row, library_pairs)
{
	struct sluice_options options = with_flags(row->flags);
	struct end ends[2] = { { .sock = -1 }, { .sock = -1 } };
	struct sluice_conn *conn[2];
	int fds = tap_open_fds();

	CHECK_OK(sluice_pair(conn, &options));
	ends[0].conn = conn[0];
	ends[1].conn = conn[1];
	exchange(&ends[0], &ends[1], row->lane != SLUICE_LANE_PLAIN);
	check_lanes(&ends[0], row->lane, row->reason);
	check_lanes(&ends[1], row->lane, row->reason);
	end_close(&ends[0]);
	end_close(&ends[1]);
	CHECK_EQ(tap_open_fds(), fds);
}

/* What is no connected SEQPACKET socket; the fd stays the caller's. */
static const struct wrong {
	const char *name;
	int domain, type;
	int error;
} wrongs[] = {
	{ "stream", AF_UNIX, SOCK_STREAM, -EPROTOTYPE },
	{ "dgram", AF_UNIX, SOCK_DGRAM, -EPROTOTYPE },
	{ "inet", AF_INET, SOCK_STREAM, -EPROTOTYPE },
	{ "unconnected", AF_UNIX, SOCK_SEQPACKET, -ENOTCONN },
	{ "file", 0, 0, -EPROTOTYPE },
	{ "closed", -1, 0, -EBADF },
};

TAP_EACH(from_wrong_fd, row, wrongs)
{
	struct sluice_conn *conn = NULL;
	int fd = -1, fds;

	if (row->domain > 0)
		fd = CHECK_SYS(socket(row->domain, row->type, 0));
	else if (!row->domain)
		fd = CHECK_SYS(open("/dev/null", O_RDWR));
	fds = tap_open_fds();
	CHECK_EQ(sluice_conn_from_fd(&conn, fd, NULL), row->error);
	CHECK(!conn);
	CHECK_EQ(tap_open_fds(), fds);
	if (fd >= 0)
		CHECK_SYS(close(fd));
}

/* REQUIRE_AWARE ------------------------------------------------------------ */

static const struct require {
	const char *name;
	bool accepted, speaks; /* the plain server */
	int64_t timeout;
	bool waits; /* until the timeout */
} requires[] = {
	{ "never-accepted", false, false, 50 * MS, true },
	{ "accepted", true, false, 50 * MS, true },
	{ "server-speaks", true, true, 5000 * MS, false },
};

static void plain_server(int sock, const struct require *row)
{
	struct raw_message m;
	int conn;

	if (!row->accepted)
		return;
	conn = CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC));
	if (row->speaks)
		CHECK_SYS(send(conn, "welcome", 7, MSG_NOSIGNAL));
	raw_recv(conn, &m);
	CHECK(m.end);
	CHECK_SYS(close(conn));
}

TAP_EACH(require_aware, row, requires)
{
	struct sluice_options options = with_flags(SLUICE_F_REQUIRE_AWARE);
	struct sluice_conn *conn = NULL;
	int sock, fds;
	int64_t begin, took;
	pid_t pid;

	options.aware_timeout_ns = row->timeout;
	sock = raw_listen(abstract_name());
	fds = tap_open_fds();
	pid = tap_fork();
	if (!pid) {
		plain_server(sock, row);
		_exit(0);
	}
	begin = tap_now();
	CHECK_EQ(sluice_connect(&conn, abstract_name(), &options),
		 -EPROTONOSUPPORT);
	took = tap_now() - begin;
	CHECK(!conn);
	if (row->waits)
		CHECK_GE(took, row->timeout);
	CHECK_LT(took, 2000 * MS * tap_slow);
	tap_join(pid);
	CHECK_EQ(tap_open_fds(), fds);
	CHECK_SYS(close(sock));
}

static const struct timeout {
	const char *name;
	uint32_t flags;
	int64_t ns;
} timeouts[] = {
	{ "require", SLUICE_F_REQUIRE_AWARE, 0 },
	{ "require-for-ever", SLUICE_F_REQUIRE_AWARE, -1 },
	{ "timeout", 0, 5000 * MS },
};

/* An aware server answers in time: the client returns aware. */
TAP_EACH(aware_in_time, row, timeouts)
{
	struct sluice_options options = with_flags(row->flags);
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	struct sluice_conn_info info;
	struct sluice_msg msg;
	pid_t pid;

	options.aware_timeout_ns = row->ns;
	CHECK_OK(sluice_listen(&listener, abstract_name(), NULL));
	pid = tap_fork();
	if (!pid) {
		CHECK_OK(sluice_connect(&conn, abstract_name(), &options));
		sluice_conn_info(conn, &info);
		CHECK_NE(info.tx_lane, SLUICE_LANE_PLAIN);
		CHECK_EQ(info.peer_pid, getppid());
		CHECK_OK(sluice_send(conn, "aware", 5, 7, 0));
		sluice_conn_close(conn);
		_exit(0);
	}
	CHECK_OK(sluice_accept(listener, &conn, WAIT_NS));
	sluice_conn_info(conn, &info);
	CHECK_EQ(info.peer_pid, pid);
	CHECK_EQ(sluice_recv_wait(conn, &msg, WAIT_NS), 1);
	CHECK_EQ(msg.tag, 7);
	CHECK_EQ(sluice_recv_wait(conn, &msg, WAIT_NS), 0);
	sluice_conn_close(conn);
	sluice_listener_close(listener);
	tap_join(pid);
}

/* Without REQUIRE_AWARE a plain server is no error, only a delay. */
TAP_TEST(aware_timeout_passes)
{
	struct sluice_options options = with_flags(0);
	struct end client = { .sock = -1 }, server = { 0 };
	int64_t begin = tap_now();
	int sock;

	options.aware_timeout_ns = 30 * MS;
	sock = raw_listen(abstract_name());
	CHECK_OK(sluice_connect(&client.conn, abstract_name(), &options));
	CHECK_GE(tap_now() - begin, 30 * MS);
	server.sock = CHECK_SYS(accept4(sock, NULL, NULL, SOCK_CLOEXEC));
	exchange(&client, &server, false);
	check_lanes(&client, PLAIN(PEER_PLAIN));
	end_close(&client);
	end_close(&server);
	CHECK_SYS(close(sock));
}
