/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Early messages: a client sends before its socket is attached, while it is, and
 * afterwards, many times over; and is gone at any time.
 *
 * Limit: 600 s
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "life.h"
#include "steers.h"

#define ROUNDS 10000
#define BURST 24
#define LEN_MAX 5000

/* A thread that sends bursts to whatever socket it is given, and closes it. */
struct client {
	_Atomic int fd; /* -1: none */
	_Atomic unsigned int sent; /* of the burst */
	uint64_t round;
};

static void *client_main(void *arg)
{
	struct client *client = arg;
	unsigned int i;
	int fd;

	tap_random_stream(1);
	for (;;) {
		while ((fd = atomic_load(&client->fd)) == -1)
			usleep(10);
		if (fd == -2)
			return NULL;
		for (i = 0; i < BURST; i++) {
			steers_send(fd, client->round, i, LEN_MAX);
			atomic_store(&client->sent, i + 1);
			if (!tap_random_below(8))
				usleep((useconds_t)tap_random_below(100));
		}
		close(fd);
		atomic_store(&client->fd, -1);
	}
}

/* Attaches after `before` messages: none, some, all, and then EOF too. */
static void round_trip(struct client *client, struct sluice_options *options,
		       unsigned int before, uint64_t count[2])
{
	struct sluice_conn *conn;
	struct sluice_conn_info info;
	unsigned int i;
	int fds[2];

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
	client->round++;
	atomic_store(&client->sent, 0);
	atomic_store(&client->fd, fds[1]);
	while (atomic_load(&client->sent) < before)
		usleep(10);
	CHECK_OK(sluice_conn_from_fd(&conn, fds[0], options));
	for (i = 0; i < BURST; i++)
		steers_recv(conn, client->round, i, LEN_MAX);
	ends_expect_eof(conn);
	sluice_conn_info(conn, &info);
	CHECK_EQ(info.rx_lane, SLUICE_LANE_STEERED);
	CHECK_EQ(info.steered + info.spilled, BURST);
	count[0] += info.steered;
	count[1] += info.spilled;
	sluice_conn_close(conn);
	while (atomic_load(&client->fd) != -1)
		usleep(10);
}

TAP_TEST(bursts)
{
	struct sluice_endpoint_options e = STEERS_ENDPOINT(.conns = 256);
	struct sluice_options options = ENDS_OPTIONS(.flags = SLUICE_F_PLAIN);
	struct client client = { .fd = -1 };
	uint64_t count[2] = { 0 };
	pthread_t thread;
	struct daemon d;
	int i;

	tap_limit(240);
	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, &e));
	CHECK(!pthread_create(&thread, NULL, client_main, &client));
	for (i = 0; i < ROUNDS / tap_slow; i++)
		round_trip(&client, &options,
			   (unsigned int)tap_random_below(BURST + 1), count);
	atomic_store(&client.fd, -2);
	pthread_join(thread, NULL);
	tap_diag("%llu steered, %llu early or spilled",
		 (unsigned long long)count[0], (unsigned long long)count[1]);
	CHECK_GT(count[0], 0);
	CHECK_GT(count[1], 0);
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}

/* The same for an aware client: its HELLO_ACK, DATA and BYE. */
static void aware_client(const char *name, unsigned int rounds)
{
	struct sluice_conn *conn;
	unsigned int n, i;

	tap_random_stream(2);
	for (n = 0; n < rounds; n++) {
		struct stream tx = { .key = n, .max_len = 3000 };

		CHECK_OK(sluice_connect(&conn, name, NULL));
		/* Plain until the HELLO is seen: wait for it. */
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, 5 * SECOND));
		while (sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED) ==
		       -EAGAIN)
			usleep(10);
		for (i = 0; i < BURST;) {
			if (stream_send(conn, &tx, 0) == 0)
				i++;
			else
				CHECK_OK(sluice_wait(conn, SLUICE_SEND,
						     5 * SECOND));
			if (!tap_random_below(8))
				usleep((useconds_t)tap_random_below(100));
		}
		sluice_conn_close(conn);
	}
}

TAP_TEST(aware_bursts)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = SLUICE_F_STEER);
	unsigned int rounds = 1000 / (unsigned int)tap_slow, n;
	const char *name = life_name();
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	uint64_t steered = 0;
	struct daemon d;
	pid_t pid;

	tap_limit(120);
	steers_start(&d);
	CHECK_OK(sluice_listen(&listener, name, &options));
	pid = tap_fork();
	if (!pid) {
		aware_client(name, rounds);
		_exit(0);
	}
	for (n = 0; n < rounds; n++) {
		struct stream rx = { .key = n, .max_len = 3000 };
		struct holds holds = { .limit = 0 };

		CHECK_OK(sluice_accept(listener, &conn, 5 * SECOND));
		streams_run(conn, NULL, 0, &rx, BURST, &holds, NULL, NULL);
		ends_expect_eof(conn);
		steered += steers_steered(conn);
		sluice_conn_close(conn);
	}
	tap_join(pid);
	tap_diag("%llu of %u steered", (unsigned long long)steered,
		 rounds * BURST);
	CHECK_GT(steered, 0);
	sluice_listener_close(listener);
	steers_stop(&d);
}
