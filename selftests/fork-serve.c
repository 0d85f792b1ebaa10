/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Servers that fork: a child for each client, a listening socket for several. */
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "life.h"

#define CLIENTS 500

static const struct lane lanes[] = LIFE_LANES;

/* Who accepts by itself hands the fd to a child, which makes the conn. */
TAP_EACH(forked_server, lane, lanes)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = lane->flags);
	const char *name = life_name();
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	struct pollfd waiting = { .events = POLLIN };
	pid_t clients[6], servers[6];
	int fd;

	CHECK_OK(sluice_listen(&listener, name, &options));
	for (uint64_t i = 0; i < 6; i++) {
		clients[i] = tap_fork();
		if (!clients[i]) {
			options.flags |= SLUICE_F_REQUIRE_AWARE;
			options.aware_timeout_ns = -1;
			CHECK_OK(sluice_connect(&conn, name, &options));
			life_stream_both(conn, 7);
			sluice_conn_close(conn);
			exit(0);
		}
	}
	waiting.fd = sluice_listener_fd(listener);
	for (int i = 0; i < 6; i++) {
		CHECK_SYS(poll(&waiting, 1, -1));
		fd = CHECK_SYS(accept4(waiting.fd, NULL, NULL, SOCK_CLOEXEC));
		servers[i] = tap_fork();
		if (!servers[i]) {
			sluice_listener_close(listener);
			CHECK_OK(sluice_conn_from_fd(&conn, fd, &options));
			life_stream_both(conn, 7);
			sluice_conn_close(conn);
			exit(0);
		}
		close(fd);
	}
	for (int i = 0; i < 6; i++) {
		tap_join(clients[i]);
		tap_join(servers[i]);
	}
	sluice_listener_close(listener);
	CHECK_EQ(tap_open_fds(), 3);
}

/* A child that accepts from the same socket must not hold up its parent. */
TAP_TEST(accept_is_shared)
{
	const char *name = life_name();
	struct sluice_listener *listener;
	struct sluice_conn *conn, *client;
	unsigned int here = 0;
	pid_t pid;
	int r;

	CHECK_OK(sluice_listen(&listener, name, NULL));
	pid = tap_fork();
	if (!pid) {
		struct pollfd p = { .fd = sluice_listener_fd(listener),
				    .events = POLLIN };

		for (;;) {
			CHECK_SYS(poll(&p, 1, -1));
			close(accept4(p.fd, NULL, NULL, SOCK_NONBLOCK));
		}
	}
	for (int i = 0; i < CLIENTS; i++) {
		pid_t one = tap_fork();

		if (!one) {
			tap_sleep(1000000);
			CHECK_OK(sluice_connect(&client, name, NULL));
			_exit(0);
		}
		r = sluice_accept(listener, &conn, 2000000);
		tap_join(one);
		if (!r) {
			here++;
			sluice_conn_close(conn);
			continue;
		}
		CHECK_EQ(r, -EAGAIN);
	}
	tap_diag("%u of %d clients came to the parent", here, CLIENTS);
	tap_kill(pid);
	sluice_listener_close(listener);
}
