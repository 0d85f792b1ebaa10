/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What clients may do to sluiced and to one another: garbage, floods, greed,
 * replies that nobody takes, and sockets that are slow to close.
 *
 * Limit: 300 s
 */
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "tap.h"

/* Random bytes, sizes and fds, as fast as it can, never reading much. */
static void flood(const struct daemon *d)
{
	for (;;) {
		int fd = daemon_connect(d);

		for (int i = 0; i < 1000; i++) {
			__u64 bytes[16];
			struct sluice_control *frame = (void *)bytes;
			struct iovec iov = { bytes, sizeof(*frame) };
			struct msghdr message = { .msg_iov = &iov,
						  .msg_iovlen = 1 };

			for (int j = 0; j < 16; j++)
				bytes[j] = tap_random();
			if (i % 4)
				frame->magic = SLUICE_CONTROL_MAGIC;
			if (i % 8)
				frame->type %= 10;
			if (i % 16 == 0)
				iov.iov_len = tap_random_below(sizeof(bytes));
			if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) <
				    0 &&
			    errno != EAGAIN)
				break;
			if (i % 2)
				recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		}
		close(fd);
	}
}

TAP_TEST(garbage_does_no_harm)
{
	struct daemon d;
	int fd, fds[4], pair[2], before;
	__u64 endpoint;
	pid_t pids[2];

	daemon_open(&d);
	daemon_start_for_all(&d, "");
	fd = daemon_connect(&d);
	endpoint = daemon_create(fd, 1, fds);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	daemon_query(fd, 0); /* by now it has closed the fds it sent */
	before = daemon_fds(&d);
	for (int i = 0; i < 2; i++) {
		pids[i] = tap_fork();
		if (!pids[i]) {
			daemon_become_nobody();
			tap_random_stream((uint64_t)i + 1);
			flood(&d);
		}
	}
	for (int i = 0; i < 300; i++) {
		CHECK_EQ(daemon_attach(fd, endpoint, 0, 1, 0, pair[0]), 0);
		CHECK_EQ(daemon_detach(fd, endpoint, 0, 1), 0);
	}
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(waitpid(pids[i], NULL, WNOHANG), 0); /* to the end */
		tap_kill(pids[i]);
	}
	CHECK_SOON(daemon_fds(&d) == before);
	CHECK_EQ(daemon_query(fd, SLUICE_CONTROL_F_ALL).endpoints, 1);
	daemon_close_fds(fds, 4);
	daemon_close_fds(pair, 2);
	close(fd);
	daemon_close(&d);
}

/* The jobs that nobody has had done so far. */
static volatile int *answered;

/* Has as many CREATEs queued as it may, all the time. */
static void create_in_a_loop(const struct daemon *d)
{
	int fd = daemon_connect(d), fds[64], count, queued = 0;
	struct sluice_control frame;

	for (;;) {
		while (queued < 60) {
			frame = daemon_frame(SLUICE_CONTROL_CREATE);
			frame.create.rings = 1;
			frame.create.ring_slots = 65536;
			frame.create.conns = 16;
			daemon_send(fd, &frame, sizeof(frame), NULL, 0);
			queued++;
		}
		daemon_receive(fd, &frame, fds, &count, NULL, NULL);
		for (int i = 0; i < count; i++)
			close(fds[i]);
		queued--;
		*answered += !frame.error;
		if (frame.type == SLUICE_CONTROL_CREATE && !frame.error) {
			frame.type = SLUICE_CONTROL_DESTROY;
			frame.flags = 0;
			memset(frame.__resv, 0, sizeof(frame.__resv));
			daemon_send(fd, &frame, sizeof(frame), NULL, 0);
			queued++;
		}
	}
}

/*
 * Another uid's CREATE waits for one job of nobody's at most, and for free threads;
 * its ATTACH for none. Counted in jobs, not in time, so that load does not matter;
 * the bound allows for replies that were under way.
 */
TAP_TEST(one_client_does_not_delay_another)
{
	struct daemon d;
	int fd, fds[4], pair[2], before, most_create = 0, most_attach = 0;
	__u64 endpoint;
	pid_t pid;

	daemon_open(&d);
	daemon_start_for_all(&d, "");
	answered = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK_NE((void *)answered, MAP_FAILED);
	fd = daemon_connect(&d);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	pid = tap_fork();
	if (!pid) {
		daemon_become_nobody();
		create_in_a_loop(&d);
	}
	while (*answered <= 100) /* a busy machine takes its time */
		tap_sleep(1000000);
	for (int i = 0; i < 50; i++) {
		before = *answered;
		endpoint = daemon_create(fd, 1, fds);
		if (*answered - before > most_create)
			most_create = *answered - before;
		CHECK_LT(most_create, 20);
		before = *answered;
		CHECK_EQ(daemon_attach(fd, endpoint, 0, 1, 0, pair[0]), 0);
		if (*answered - before > most_attach)
			most_attach = *answered - before;
		CHECK_LT(most_attach, 20);
		CHECK_EQ(daemon_detach(fd, endpoint, 0, 1), 0);
		daemon_destroy(fd, endpoint);
		daemon_close_fds(fds, 4);
	}
	tap_diag("jobs of nobody's during a CREATE: %d, an ATTACH: %d; all: %d",
		 most_create, most_attach, *answered);
	tap_kill(pid);
	daemon_close_fds(pair, 2);
	close(fd);
	daemon_close(&d);
}

/* Replies that nobody takes hold fds: so many, and no more. */
TAP_TEST(untaken_replies_are_bounded)
{
	struct sluice_control frame, reply;
	struct daemon d;
	int fd, other, fds[64], busy = 0, created = 0, count;

	daemon_open(&d);
	daemon_start_for_all(&d, "[limits]\nendpoints_per_uid = 4096\n");
	fd = daemon_connect(&d);
	other = daemon_connect(&d);
	for (int i = 0; i < 60; i++) {
		frame = daemon_frame(SLUICE_CONTROL_CREATE);
		frame.create.rings = SLUICE_RINGS_MAX;
		frame.create.ring_slots = 16;
		frame.create.conns = 16;
		daemon_send(fd, &frame, sizeof(frame), NULL, 0);
	}
	/* the same uid's other connection is answered, if only that it must wait */
	CHECK_SOON(daemon_try_create(other, 0) == EBUSY);
	for (int i = 0; i < 60; i++) {
		daemon_receive(fd, &reply, fds, &count, NULL, NULL);
		daemon_close_fds(fds, count);
		CHECK(!reply.error || reply.error == EBUSY);
		created += !reply.error;
		busy += reply.error == EBUSY;
	}
	CHECK_LE(created, 1024 / 64 + 16); /* a few were taken meanwhile */
	CHECK_EQ(created + busy, 60);
	CHECK_EQ(daemon_try_create(other, 0), 0);
	CHECK_EQ(daemon_query(other, 0).endpoints, created + 1);
	close(fd);
	close(other);
	daemon_close(&d);
}

/*
 * A client that asks and never reads: its requests stop being read, and its end
 * ends all of it.
 */
TAP_TEST(client_that_never_reads)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_QUERY);
	struct pollfd full = { .events = POLLOUT };
	struct daemon d;
	int fd, other, sent = 0, before;

	daemon_open(&d);
	daemon_start(&d, NULL);
	other = daemon_connect(&d);
	daemon_query(other, 0);
	before = daemon_fds(&d);
	fd = daemon_connect(&d);
	daemon_query(fd, 0);
	do {
		while (send(fd, &frame, sizeof(frame), MSG_DONTWAIT) > 0)
			sent++;
		CHECK_EQ(errno, EAGAIN);
		full.fd = fd;
		CHECK_LT(sent, 10000);
	} while (poll(&full, 1, 500) == 1);
	tap_diag("it took %d requests", sent);
	daemon_query(other, 0);
	close(fd);
	CHECK_SOON(daemon_fds(&d) == before);
	close(other);
	daemon_close(&d);
}

/* A TCP socket whose close waits for ever: nobody reads what it has sent. */
static int lingering_socket(int *peer)
{
	struct sockaddr_in name = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger linger = { .l_onoff = 1, .l_linger = 3600 };
	int listener =
		CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	static char data[65536];
	socklen_t len = sizeof(name);

	CHECK_SYS(bind(listener, (struct sockaddr *)&name, len));
	CHECK_SYS(listen(listener, 1));
	CHECK_SYS(getsockname(listener, (struct sockaddr *)&name, &len));
	if (connect(fd, (struct sockaddr *)&name, len))
		tap_skip("no TCP over loopback: %s", strerror(errno));
	*peer = CHECK_SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
	while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
		;
	CHECK_SYS(
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	return fd;
}

/* It hides in the queue of the socket that sluiced is the last to close. */
static int send_what_lingers(const struct daemon *d, int fd, __u64 endpoint)
{
	int pair[2], peer;
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_ATTACH);
	int tcp = lingering_socket(&peer);

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	daemon_send(pair[1], "x", 1, &tcp, 1);
	frame.endpoint = endpoint;
	CHECK_SYS(kill(d->pid, SIGSTOP));
	daemon_send(fd, &frame, sizeof(frame), pair, 1);
	/* closed here, while others hold it: that does not wait */
	CHECK_SYS(close(tcp));
	CHECK_SYS(close(pair[0]));
	CHECK_SYS(kill(d->pid, SIGCONT));
	close(pair[1]);
	return peer; /* it lingers for as long as that is there */
}

/* Once or twice that may be bad luck; not three times. */
static void linger_until_shunned(const struct daemon *d)
{
	int fd = daemon_connect(d), fds[4];
	__u64 endpoint = daemon_create(fd, 1, fds);
	struct sluice_control frame;
	char byte;

	for (int i = 0; i < 2; i++) {
		int peer = send_what_lingers(d, fd, endpoint);

		daemon_receive(fd, &frame, NULL, NULL, NULL, NULL);
		close(peer);
		CHECK_EQ(daemon_query(fd, 0).endpoints, 2);
		CHECK(!daemon_said(d, 0, "shunned"));
	}
	send_what_lingers(d, fd, endpoint);
	CHECK_EQ(recv(fd, &byte, 1, 0), 0);
	fd = daemon_connect(d);
	daemon_receive(fd, &frame, NULL, NULL, NULL, NULL);
	CHECK_EQ(frame.error, EACCES);
}

TAP_TEST(close_that_waits_is_cut_short)
{
	struct daemon d;
	int fd, fds[4];
	pid_t pid;

	daemon_open(&d);
	daemon_start_for_all(&d, "");
	fd = daemon_connect(&d);
	daemon_create(fd, 1, fds);
	pid = tap_fork();
	if (!pid) {
		/* root's kill() is for SIGSTOP; its clients are not what counts */
		CHECK_SYS(setresuid(65534, 65534, 0));
		CHECK_SYS(setresuid(0, 0, 0));
		linger_until_shunned(&d);
		_exit(0);
	}
	tap_join(pid);
	CHECK(daemon_said(&d, 0, "shunned"));
	daemon_close_fds(fds, 4);
	close(fd);
	daemon_close(&d);
}
