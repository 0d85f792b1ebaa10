/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Ends in the steered lane: killed senders and receivers, half-close, messages
 * without a byte or with fds, forks; and nothing is left of any.
 *
 * Limit: 300 s
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "life.h"
#include "steers.h"

#define LEN_MAX 20000

/* A sender is killed at any time: what send() had said is sent arrives. */
TAP_TEST(sender_killed)
{
	_Atomic uint64_t *sent = life_shared();
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_conn *conn;
	struct sluice_msg msg;
	struct daemon d;
	uint64_t i, got;
	int peer, r;
	pid_t pid;

	tap_limit(120);
	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, NULL));
	for (i = 0; i < 200 / (uint64_t)tap_slow; i++) {
		atomic_store(sent, 0);
		steers_pair(&conn, &peer, &options);
		CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
		pid = tap_fork();
		if (!pid) {
			for (;;) {
				steers_send(peer, i, *sent, LEN_MAX);
				atomic_fetch_add(sent, 1);
			}
		}
		close(peer);
		got = tap_random_below(200);
		for (uint64_t n = 0; n < got; n++)
			steers_recv(conn, i, n, LEN_MAX);
		tap_kill(pid);
		while ((r = sluice_recv_wait(conn, &msg, 5 * SECOND)) == 1) {
			steers_check(sluice_msg_data(&msg), msg.len, i, got++,
				     LEN_MAX);
			CHECK_OK(sluice_release(conn, &msg));
		}
		CHECK_EQ(r, 0);
		/* The one it was killed in may be there as well. */
		CHECK_GE(got, *sent);
		CHECK_LE(got, *sent + 1);
		sluice_conn_close(conn);
	}
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}

/* A receiver is killed: its senders learn of it, sluiced forgets it. */
TAP_TEST(receiver_killed)
{
	struct sluice_conn *conn;
	struct daemon d;
	int fds[2], i, n;
	pid_t pid;
	char byte = 0;

	steers_start(&d);
	n = daemon_fds(&d);
	for (i = 0; i < 30; i++) {
		struct sluice_options options =
			ENDS_OPTIONS(.flags = SLUICE_F_PLAIN | SLUICE_F_STEER);

		CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
		pid = tap_fork();
		if (!pid) {
			struct sluice_msg msg;

			close(fds[1]);
			CHECK_OK(sluice_conn_from_fd(&conn, fds[0], &options));
			for (;;)
				sluice_recv_wait(conn, &msg, -1);
		}
		close(fds[0]);
		for (int k = 0; k < 1000; k++)
			CHECK_EQ(send(fds[1], &byte, 1, MSG_NOSIGNAL), 1);
		tap_kill(pid);
		/* ECONNRESET, once, if the receiver had left something. */
		CHECK_EQ(send(fds[1], &byte, 1, MSG_NOSIGNAL), -1);
		CHECK(errno == EPIPE || errno == ECONNRESET);
		close(fds[1]);
	}
	CHECK_SOON(daemon_fds(&d) <= n);
	steers_stop(&d);
}

TAP_TEST(empty_is_no_end)
{
	struct sluice_conn *conn;
	struct sluice_msg msg;
	struct daemon d;
	int peer, i;

	steers_start(&d);
	steers_pair(&conn, &peer, NULL);
	for (i = 0; i < 100; i++) {
		if (i % 2)
			sluice_wait(conn, SLUICE_RECV, 0);
		CHECK_EQ(send(peer, "", 0, 0), 0);
		steers_wait(conn, &msg);
		CHECK_EQ(msg.len, 0);
	}
	CHECK_GT(steers_steered(conn), 40);
	CHECK_EQ(send(peer, "", 0, 0), 0);
	close(peer);
	steers_wait(conn, &msg);
	CHECK_EQ(msg.len, 0);
	ends_expect_eof(conn);
	ends_expect_eof(conn);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/*
 * The peer ends its sending side, and goes on receiving: all that it sent comes
 * before the end.
 */
TAP_TEST(half_close)
{
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_conn *conn;
	char buffer[8];
	struct daemon d;
	uint64_t i, n;
	int peer;
	pid_t pid;

	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, NULL));
	for (i = 0; i < 50; i++) {
		steers_pair(&conn, &peer, &options);
		CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
		pid = tap_fork();
		if (!pid) {
			for (n = 0; n < 300; n++)
				steers_send(peer, i, n, LEN_MAX);
			CHECK_SYS(shutdown(peer, SHUT_WR));
			CHECK_EQ(CHECK_SYS(recv(peer, buffer, 8, 0)), 4);
			CHECK_MEM(buffer, "over", 4);
			_exit(0);
		}
		close(peer);
		for (n = 0; n < 300; n++)
			steers_recv(conn, i, n, LEN_MAX);
		ends_expect_eof(conn);
		CHECK_OK(sluice_send(conn, "over", 4, 0, 0));
		tap_join(pid);
		sluice_conn_close(conn);
	}
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}

/* This side has ended its sending: the peer's messages still come, then its end. */
TAP_TEST(shut_here)
{
	uint64_t i, received = 0;
	struct sluice_conn *conn;
	struct daemon d;
	char byte;
	int peer;

	steers_start(&d);
	steers_pair(&conn, &peer, NULL);
	CHECK_OK(sluice_conn_shutdown(conn));
	CHECK_EQ(recv(peer, &byte, 1, 0), 0);
	for (i = 0; i < 500; i++) {
		steers_send(peer, 1, i, 100);
		if (i % 5)
			steers_recv(conn, 1, received++, 100);
	}
	close(peer);
	while (received < 500)
		steers_recv(conn, 1, received++, 100);
	ends_expect_eof(conn);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/* A message with fds comes through the queue, in its turn; they are closed. */
TAP_TEST(fds_are_not_swallowed)
{
	struct iovec iov = { .iov_base = "fd", .iov_len = 2 };
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control.space) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	struct sluice_conn *conn;
	struct sluice_msg got;
	int peer, pipes[2], i;
	struct daemon d;
	char byte;

	steers_start(&d);
	steers_pair(&conn, &peer, NULL);
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
	for (i = 0; i < 50; i++) {
		CHECK_EQ(send(peer, "a", 1, 0), 1);
		CHECK_SYS(pipe(pipes));
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &pipes[1], sizeof(int));
		CHECK_EQ(CHECK_SYS(sendmsg(peer, &msg, 0)), 2);
		close(pipes[1]);
		CHECK_EQ(send(peer, "bcd", 3, 0), 3);
		steers_wait(conn, &got);
		CHECK_EQ(got.len, 1);
		steers_wait(conn, &got);
		CHECK_MEM(sluice_msg_data(&got), "fd", 2);
		steers_wait(conn, &got);
		CHECK_EQ(got.len, 3);
		/* The library had no use for it: it is closed by now. */
		CHECK_EQ(read(pipes[0], &byte, 1), 0);
		close(pipes[0]);
	}
	CHECK_GE(steers_steered(conn), 49);
	close(peer);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/* A child of fork() that closes and frees all changes nothing here. */
TAP_TEST(fork_and_close)
{
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_event event;
	struct sluice_conn *conn;
	struct sluice_set *set;
	struct sluice_msg msg;
	struct daemon d;
	pid_t pid, sleeper;
	uint64_t i;
	int peer, fd;

	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, NULL));
	CHECK_OK(sluice_set_new(&set));
	steers_pair(&conn, &peer, &options);
	fd = CHECK_OK(sluice_conn_fd(conn));
	CHECK_OK(sluice_set_add(set, conn, SLUICE_RECV, NULL));
	/* One that keeps all fds for the rest of the test. */
	sleeper = tap_fork();
	if (!sleeper)
		for (;;)
			pause();
	for (i = 0; i < 300; i++) {
		if (i % 30 == 0) {
			pid = tap_fork();
			if (!pid) {
				uint32_t number;

				CHECK_EQ(sluice_recv(conn, &msg), -ECHILD);
				CHECK_EQ(sluice_set_wait(set, &event, 1, 0, 0),
					 -ECHILD);
				CHECK_EQ(sluice_ring_recv(
						 sluice_endpoint_ring(
							 options.endpoint, 0),
						 &msg, &number),
					 -ECHILD);
				sluice_set_free(set);
				sluice_conn_close(conn);
				sluice_endpoint_free(options.endpoint);
				_exit(0);
			}
			tap_join(pid);
		}
		steers_send(peer, 1, i, LEN_MAX);
		if (i % 2)
			CHECK_EQ(sluice_set_wait(set, &event, 1, 5 * SECOND, 0),
				 1);
		steers_recv(conn, 1, i, LEN_MAX);
	}
	CHECK_GT(steers_steered(conn), 250);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	/* The endpoint goes although a child has its fds. */
	sluice_set_free(set);
	sluice_conn_close(conn);
	sluice_endpoint_free(options.endpoint);
	close(peer);
	tap_kill(sleeper);
	steers_stop(&d);
}

/* Rounds of everything: no fd, no mapping, no memory stays. */
TAP_TEST(no_leak)
{
	struct sluice_options options = ENDS_OPTIONS();
	int fds = 0, maps = 0, i, k, peer[8];
	struct sluice_conn *conn[8];
	struct sluice_event event;
	struct sluice_set *set;
	struct sluice_msg msg;
	struct daemon d;
	long bytes = 0;

	steers_start(&d);
	for (i = 0; i < 40; i++) {
		if (i == 10) {
			fds = tap_open_fds();
			maps = tap_mappings();
			bytes = tap_resident();
		}
		CHECK_OK(sluice_endpoint_new(&options.endpoint, NULL));
		CHECK_OK(sluice_set_new(&set));
		for (k = 0; k < 8; k++) {
			steers_pair(&conn[k], &peer[k], &options);
			if (k % 2)
				CHECK_OK(sluice_conn_fd(conn[k]));
			else
				CHECK_OK(sluice_set_add(set, conn[k],
							SLUICE_RECV, NULL));
		}
		for (k = 0; k < 200; k++)
			steers_send(peer[k % 8], 1, (uint64_t)k / 8, LEN_MAX);
		for (k = 0; k < 50; k++)
			CHECK_EQ(sluice_set_wait(set, &event, 1, 0, 0), 1);
		/* Some views are held, some messages not even received. */
		for (k = 0; k < 60; k++)
			sluice_recv(conn[k % 8], &msg);
		for (k = 0; k < 8; k++) {
			sluice_conn_close(conn[k]);
			close(peer[k]);
		}
		sluice_set_free(set);
		sluice_endpoint_free(options.endpoint);
	}
	CHECK_EQ(tap_open_fds(), fds);
	CHECK_LE(tap_mappings(), maps + 2);
	CHECK_LT(tap_resident(), bytes + ((tap_sanitized ? 256l : 4l) << 20));
	steers_stop(&d);
}
