/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Which lane a conn that asks for steering is in and why, with sluiced and
 * without; options; and what an endpoint says of itself.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "life.h"
#include "steers.h"

#define WAIT_NS (5 * SECOND * tap_slow)

static struct sluice_conn_info info_of(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	return info;
}

/* One message of each form a plain peer's can have, there and back. */
TAP_TEST(plain_peer)
{
	static const size_t lens[] = { 0,    1,	    8,	   32,	   33, 4096,
				       4097, 65536, 65537, 200000, 5,  100000 };
	static uint8_t data[200000], back[200000];
	struct sluice_conn *conn;
	struct sluice_msg msg;
	struct daemon d;
	int peer;
	size_t i;

	steers_start(&d);
	steers_pair(&conn, &peer, NULL);
	for (i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		tap_fill(data, lens[i], i);
		CHECK_EQ(CHECK_SYS(send(peer, data, lens[i], 0)),
			 (ssize_t)lens[i]);
		steers_wait(conn, &msg);
		CHECK_EQ(msg.len, lens[i]);
		CHECK_EQ(msg.tag, 0);
		CHECK_MEM(sluice_msg_data(&msg), data, lens[i]);
		CHECK_OK(sluice_send(conn, sluice_msg_data(&msg), msg.len, 0,
				     0));
		CHECK_OK(sluice_release(conn, &msg));
		CHECK_EQ(CHECK_SYS(recv(peer, back, sizeof(back), 0)),
			 (ssize_t)lens[i]);
		CHECK_MEM(back, data, lens[i]);
	}
	CHECK_EQ(steers_spilled(conn), 0);
	CHECK_EQ(steers_steered(conn), i);
	close(peer);
	ends_expect_eof(conn);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/* Aware peers -------------------------------------------------------------- */

static const struct sides {
	const char *name;
	uint32_t a, b; /* SLUICE_F_* */
} sides[] = {
	{ "one", SLUICE_F_STEER, 0 },
	{ "both", SLUICE_F_STEER, SLUICE_F_STEER },
	{ "frames", SLUICE_F_STEER | SLUICE_F_NO_DIRECT, SLUICE_F_NO_DIRECT },
};

static void settle(struct sluice_conn *conn[2])
{
	int64_t until = tap_now() + WAIT_NS;

	while (info_of(conn[0]).rx_reason == SLUICE_REASON_UNDECIDED ||
	       info_of(conn[1]).rx_reason == SLUICE_REASON_UNDECIDED) {
		sluice_wait(conn[0], SLUICE_RECV, 0);
		sluice_wait(conn[1], SLUICE_RECV, 0);
		CHECK_LT(tap_now(), until);
	}
}

static void aware_pair(struct sluice_conn *conn[2], const struct sides *side)
{
	struct sluice_options options = ENDS_OPTIONS();
	int fds[2], i;

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
	for (i = 0; i < 2; i++) {
		options.flags = SLUICE_F_AWARE | (i ? side->b : side->a);
		CHECK_OK(sluice_conn_from_fd(&conn[i], fds[i], &options));
	}
	settle(conn);
}

static void expect_lane(struct sluice_conn *conn, uint32_t tx,
			uint32_t tx_reason, uint32_t rx, uint32_t rx_reason)
{
	struct sluice_conn_info info = info_of(conn);

	CHECK_STR(sluice_lane_name(info.tx_lane), sluice_lane_name(tx));
	CHECK_STR(sluice_reason_text(info.tx_reason),
		  sluice_reason_text(tx_reason));
	CHECK_STR(sluice_lane_name(info.rx_lane), sluice_lane_name(rx));
	CHECK_STR(sluice_reason_text(info.rx_reason),
		  sluice_reason_text(rx_reason));
}

TAP_TEST(aware_lanes)
{
	struct sluice_conn *conn[2];
	struct daemon d;

	steers_start(&d);
	aware_pair(conn, &sides[0]);
	expect_lane(conn[0], SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		    SLUICE_LANE_STEERED, SLUICE_REASON_NONE);
	CHECK_OK(sluice_send(conn[1], "x", 1, 0, 0));
	expect_lane(conn[1], SLUICE_LANE_QUEUED, SLUICE_REASON_PEER_NO_DIRECT,
		    SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	CHECK_EQ(sluice_conn_set_lane(conn[1], SLUICE_LANE_DIRECT),
		 -EOPNOTSUPP);
	ends_close(conn);
	aware_pair(conn, &sides[1]);
	expect_lane(conn[0], SLUICE_LANE_QUEUED, SLUICE_REASON_PEER_NO_DIRECT,
		    SLUICE_LANE_STEERED, SLUICE_REASON_NONE);
	ends_close(conn);
	aware_pair(conn, &sides[2]);
	expect_lane(conn[0], SLUICE_LANE_QUEUED, SLUICE_REASON_NO_LINK,
		    SLUICE_LANE_STEERED, SLUICE_REASON_NONE);
	ends_close(conn);
	steers_stop(&d);
}

/*
 * Streams with buffers, tags and parts, both ways at once, in two processes.
 * How much of them is steered is a matter of speed: a queue that is never seen
 * empty keeps what follows. What follows the streams finds it empty.
 */
static void child_side(struct sluice_conn *conn, void *arg)
{
	struct stream tx = { .key = 2, .max_len = 100000 };
	struct stream rx = { .key = 1, .max_len = 100000 };
	struct holds holds = { .limit = 20 };
	struct sluice_msg msg;

	(void)arg;
	streams_run(conn, &tx, 5000, &rx, 5000, &holds, NULL, NULL);
	holds_release_all(conn, &holds);
	steers_wait(conn, &msg);
	CHECK_OK(sluice_send(conn, "last", 4, 0, 0));
	CHECK_OK(sluice_conn_shutdown(conn));
	ends_expect_eof(conn);
}

TAP_EACH(aware_streams, side, sides)
{
	struct sluice_options mine = ENDS_OPTIONS(.flags = side->a),
			      childs = ENDS_OPTIONS(.flags = side->b);
	struct stream tx = { .key = 1, .max_len = 100000 };
	struct stream rx = { .key = 2, .max_len = 100000 };
	struct holds holds = { .limit = 100 };
	struct sluice_conn *conn;
	struct sluice_msg msg;
	struct daemon d;
	uint64_t before;
	pid_t pid;

	steers_start(&d);
	pid = ends_fork(&conn, &mine, &childs, child_side, NULL);
	streams_run(conn, &tx, 5000, &rx, 5000, &holds, NULL, NULL);
	holds_release_all(conn, &holds);
	CHECK_EQ(sluice_recv_wait(conn, &msg, 0), -ETIMEDOUT);
	CHECK(steers_on(conn));
	before = steers_steered(conn);
	tap_diag("%llu steered, %llu spilled", (unsigned long long)before,
		 (unsigned long long)steers_spilled(conn));
	CHECK_OK(sluice_send(conn, "last?", 5, 0, 0));
	steers_wait(conn, &msg);
	CHECK_EQ(steers_steered(conn) - before, 1);
	CHECK_OK(sluice_conn_shutdown(conn));
	ends_expect_eof(conn);
	tap_join(pid);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/* Listeners ---------------------------------------------------------------- */

TAP_TEST(listener_has_one_endpoint)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = SLUICE_F_STEER);
	struct sluice_options plain = ENDS_OPTIONS(.flags = SLUICE_F_PLAIN);
	struct sluice_conn *clients[4], *servers[4];
	struct sluice_listener *listener;
	struct sluice_msg msg;
	const char *name = life_name();
	struct daemon d;
	int i, fds;

	steers_start(&d);
	CHECK_OK(sluice_listen(&listener, name, &options));
	for (i = 0; i < 4; i++) {
		fds = tap_open_fds();
		CHECK_OK(sluice_connect(&clients[i], name,
					i % 2 ? &plain : NULL));
		CHECK_OK(sluice_accept(listener, &servers[i], WAIT_NS));
		/* Both sockets, and the link on its way. */
		CHECK_LE(tap_open_fds() - fds, 3);
	}
	for (i = 0; i < 4; i++) {
		CHECK_EQ(sluice_recv_wait(clients[i], &msg, 0), -ETIMEDOUT);
		CHECK_EQ(sluice_recv_wait(servers[i], &msg, 0), -ETIMEDOUT);
		CHECK(steers_on(servers[i]));
		CHECK_OK(sluice_send(clients[i], &i, sizeof(i), 0, 0));
	}
	for (i = 3; i >= 0; i--) {
		steers_wait(servers[i], &msg);
		CHECK_MEM(sluice_msg_data(&msg), &i, sizeof(i));
		CHECK_EQ(steers_steered(servers[i]), 1);
		sluice_conn_close(clients[i]);
		ends_expect_eof(servers[i]);
	}
	sluice_listener_close(listener);
	for (i = 0; i < 4; i++)
		sluice_conn_close(servers[i]);
	steers_stop(&d);
}

/* A client steers what a plain server answers: from the second message on. */
TAP_TEST(client_of_a_plain_server)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = SLUICE_F_STEER);
	struct sluice_options plain = ENDS_OPTIONS(.flags = SLUICE_F_PLAIN);
	struct sluice_conn *client, *server;
	struct sluice_listener *listener;
	struct sluice_msg msg;
	const char *name = life_name();
	struct daemon d;
	int i;

	steers_start(&d);
	CHECK_OK(sluice_listen(&listener, name, &plain));
	CHECK_OK(sluice_connect(&client, name, &options));
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	CHECK_EQ(info_of(client).rx_reason, SLUICE_REASON_UNDECIDED);
	for (i = 0; i < 10; i++) {
		CHECK_OK(sluice_send(server, &i, sizeof(i), 0, 0));
		steers_wait(client, &msg);
		CHECK_MEM(sluice_msg_data(&msg), &i, sizeof(i));
	}
	CHECK(steers_on(client));
	CHECK_EQ(steers_steered(client), 9);
	sluice_conn_close(server);
	ends_expect_eof(client);
	sluice_conn_close(client);
	sluice_listener_close(listener);
	steers_stop(&d);
}

/* Why not ------------------------------------------------------------------ */

TAP_TEST(without_sluiced)
{
	struct sluice_conn *conn[2], *plain;
	struct sluice_listener *listener;
	struct sluice_options options = ENDS_OPTIONS(.flags = SLUICE_F_STEER);
	struct sluice_endpoint *endpoint;
	const char *name = life_name();
	struct sluice_msg msg;
	int peer;

	CHECK_SYS(setenv("SLUICE_CONTROL", "./nobody-listens-here", 1));
	CHECK_EQ(sluice_endpoint_new(&endpoint, NULL), -ENOENT);
	steers_open(&plain, &peer, NULL);
	expect_lane(plain, SLUICE_LANE_PLAIN, SLUICE_REASON_SELF_PLAIN,
		    SLUICE_LANE_PLAIN, SLUICE_REASON_NO_SLUICED);
	CHECK_EQ(info_of(plain).steer_error, -ENOENT);
	CHECK_EQ(CHECK_SYS(send(peer, "abc", 3, 0)), 3);
	steers_wait(plain, &msg);
	CHECK_EQ(msg.len, 3);
	close(peer);
	ends_expect_eof(plain);
	sluice_conn_close(plain);

	aware_pair(conn, &sides[0]);
	expect_lane(conn[0], SLUICE_LANE_DIRECT, SLUICE_REASON_NONE,
		    SLUICE_LANE_QUEUED, SLUICE_REASON_NO_SLUICED);
	CHECK_OK(sluice_send(conn[1], "x", 1, 0, 0));
	expect_lane(conn[1], SLUICE_LANE_QUEUED, SLUICE_REASON_PEER_NO_DIRECT,
		    SLUICE_LANE_DIRECT, SLUICE_REASON_NONE);
	steers_wait(conn[0], &msg);
	ends_close(conn);

	CHECK_OK(sluice_listen(&listener, name, &options));
	CHECK_OK(sluice_connect(&conn[0], name, NULL));
	CHECK_OK(sluice_accept(listener, &conn[1], WAIT_NS));
	settle(conn);
	CHECK_EQ(info_of(conn[1]).rx_reason, SLUICE_REASON_NO_SLUICED);
	ends_close(conn);
	sluice_listener_close(listener);
}

/* sluiced may come later than the listener. */
TAP_TEST(sluiced_comes_later)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = SLUICE_F_STEER);
	struct sluice_conn *conn[2];
	struct sluice_listener *listener;
	const char *name = life_name();
	struct daemon d;
	bool on = false;
	int i;

	daemon_open(&d);
	CHECK_SYS(setenv("SLUICE_CONTROL", d.control, 1));
	CHECK_OK(sluice_listen(&listener, name, &options));
	daemon_start(&d, NULL);
	for (i = 0; i < 30 && !on; i++) {
		tap_sleep(100 * MS);
		CHECK_OK(sluice_connect(&conn[0], name, NULL));
		CHECK_OK(sluice_accept(listener, &conn[1], WAIT_NS));
		settle(conn);
		on = steers_on(conn[1]);
		ends_close(conn);
	}
	CHECK(on);
	sluice_listener_close(listener);
	steers_stop(&d);
}

/* Sixteen conns fit; the next one says so, and works. */
TAP_TEST(endpoint_is_full)
{
	struct sluice_endpoint_options small = STEERS_ENDPOINT(.conns = 16);
	struct sluice_endpoint *endpoint;
	struct sluice_endpoint_info info;
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_conn *conn[17];
	struct sluice_msg msg;
	struct daemon d;
	int peer[17], i;

	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&endpoint, &small));
	options.endpoint = endpoint;
	for (i = 0; i < 16; i++)
		steers_pair(&conn[i], &peer[i], &options);
	steers_open(&conn[16], &peer[16], &options);
	CHECK_EQ(info_of(conn[16]).rx_reason, SLUICE_REASON_STEER_REFUSED);
	CHECK_EQ(info_of(conn[16]).steer_error, -ENOSPC);
	sluice_endpoint_info(endpoint, &info);
	CHECK_EQ(info.conns, 16);
	CHECK_EQ(info.conns_used, 16);
	CHECK_EQ(info.connected, 1);
	CHECK_EQ(info.error, 0);
	for (i = 0; i < 17; i++)
		CHECK_EQ(CHECK_SYS(send(peer[i], &i, sizeof(i), 0)), 4);
	for (i = 0; i < 17; i++) {
		steers_wait(conn[i], &msg);
		CHECK_MEM(sluice_msg_data(&msg), &i, sizeof(i));
		sluice_conn_close(conn[i]);
		close(peer[i]);
	}
	/* Numbers come back when sluiced has answered. */
	for (i = 0; i < 100; i++) {
		steers_open(&conn[0], &peer[0], &options);
		if (steers_on(conn[0]))
			break;
		sluice_conn_close(conn[0]);
		close(peer[0]);
		tap_sleep(20 * MS);
	}
	CHECK_LT(i, 100);
	sluice_conn_close(conn[0]);
	close(peer[0]);
	sluice_endpoint_free(endpoint);
	steers_stop(&d);
}

TAP_TEST(bad_options)
{
	struct sluice_endpoint_options e;
	struct sluice_endpoint *endpoint;
	struct sluice_options o;
	struct sluice_conn *conn;
	struct daemon d;
	int fds[2], i;
	static const struct sluice_endpoint_options bad[] = {
		{ .size = 4 },
		STEERS_ENDPOINT(.rings = SLUICE_RINGS_MAX + 1),
		STEERS_ENDPOINT(.ring_slots = 8),
		STEERS_ENDPOINT(.ring_slots = 100),
		STEERS_ENDPOINT(.ring_slots = 131072),
		STEERS_ENDPOINT(.conns = 8),
		STEERS_ENDPOINT(.conns = 100),
		STEERS_ENDPOINT(.conns = 131072),
		STEERS_ENDPOINT(.landing = { 4096, 1, 0 }),
		STEERS_ENDPOINT(.landing = { 0, 65537, 0 }),
		STEERS_ENDPOINT(.flags = 2),
		STEERS_ENDPOINT(.resv = 1),
	};

	steers_start(&d);
	for (i = 0; i < (int)(sizeof(bad) / sizeof(bad[0])); i++)
		CHECK_EQ(sluice_endpoint_new(&endpoint, &bad[i]), -EINVAL);
	CHECK_OK(sluice_endpoint_new(&endpoint, NULL));
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
	o = ENDS_OPTIONS(.endpoint = endpoint, .ring = 1);
	CHECK_EQ(sluice_conn_from_fd(&conn, fds[0], &o), -EINVAL);
	o = ENDS_OPTIONS(.endpoint = endpoint, .resv = 1);
	CHECK_EQ(sluice_conn_from_fd(&conn, fds[0], &o), -EINVAL);
	e = STEERS_ENDPOINT();
	o = ENDS_OPTIONS(.endpoint = endpoint, .endpoint_options = &e);
	CHECK_EQ(sluice_conn_from_fd(&conn, fds[0], &o), -EINVAL);
	o = ENDS_OPTIONS(.endpoint_options = &e);
	CHECK_EQ(sluice_conn_from_fd(&conn, fds[0], &o), -EINVAL);
	o = ENDS_OPTIONS(.ring = 1);
	CHECK_EQ(sluice_conn_from_fd(&conn, fds[0], &o), -EINVAL);
	o = ENDS_OPTIONS(.flags = SLUICE_F_STEER, .endpoint_options = &bad[1]);
	CHECK_EQ(sluice_conn_from_fd(&conn, fds[0], &o), -EINVAL);
	CHECK(!sluice_endpoint_ring(endpoint, 1));
	CHECK(sluice_endpoint_ring(endpoint, 0));
	sluice_endpoint_free(endpoint);
	sluice_endpoint_free(NULL);
	/* The fd stayed ours all the time. */
	CHECK_SYS(close(fds[0]));
	CHECK_SYS(close(fds[1]));
	steers_stop(&d);
}

TAP_TEST(dgram)
{
	struct sluice_options options =
		ENDS_OPTIONS(.flags = SLUICE_F_PLAIN | SLUICE_F_STEER);
	struct sluice_conn *conn;
	struct sluice_msg msg;
	struct daemon d;
	int fds[2], i;

	steers_start(&d);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
	CHECK_OK(sluice_conn_from_fd(&conn, fds[0], &options));
	CHECK(steers_on(conn));
	for (i = 0; i < 100; i++) {
		steers_send(fds[1], 9, (uint64_t)i, 60000);
		steers_recv(conn, 9, (uint64_t)i, 60000);
	}
	CHECK_GT(steers_steered(conn), 50);
	CHECK_OK(sluice_send(conn, "x", 1, 0, 0));
	close(fds[1]);
	CHECK_EQ(sluice_recv(conn, &msg), -EAGAIN);
	CHECK_EQ(sluice_send(conn, "x", 1, 0, 0), -EPIPE);
	sluice_conn_close(conn);

	fds[0] = CHECK_SYS(socket(AF_UNIX, SOCK_DGRAM, 0));
	CHECK_EQ(sluice_conn_from_fd(&conn, fds[0], &options), -EPROTOTYPE);
	close(fds[0]);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
	options.flags = SLUICE_F_AWARE;
	CHECK_EQ(sluice_conn_from_fd(&conn, fds[0], &options), -EPROTOTYPE);
	close(fds[0]);
	close(fds[1]);
	steers_stop(&d);
}
