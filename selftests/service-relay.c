/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What travels through a service between plain programs: order, boundaries,
 * ends, and that one connection does not stop another.
 *
 * Limit: 600 s
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "services.h"
#include "tap.h"

static void send_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = CHECK_SYS(send(fd, data, len, MSG_NOSIGNAL));

		data += n;
		len -= (size_t)n;
	}
}

/* Exactly that many bytes, or one message. */
static void receive_all(int fd, char *data, size_t len)
{
	while (len) {
		ssize_t n = CHECK_SYS(recv(fd, data, len, 0));

		CHECK_GT(n, 0);
		data += n;
		len -= (size_t)n;
	}
}

/* Sizes -------------------------------------------------------------------- */

static void send_in_child(int fd, int type, size_t total)
{
	pid_t pid = tap_fork();
	char *data;

	if (pid)
		return;
	data = malloc(200000);
	for (size_t at = 0, i = 0; at < total; i++) {
		size_t len = type == SOCK_STREAM ? 65536 : i * 7919 % 200000;

		if (len > total - at)
			len = total - at;
		tap_fill(data, len, i);
		if (type == SOCK_STREAM)
			send_all(fd, data, len);
		else
			CHECK_EQ(CHECK_SYS(send(fd, data, len, 0)),
				 (ssize_t)len);
		at += len;
	}
	CHECK_SYS(shutdown(fd, SHUT_WR));
	_exit(0);
}

TAP_EACH(bulk_comes_back, kind, services_kinds)
{
	const size_t total = services_bulk();
	struct services s;
	char *data = malloc(200000);
	int fd;

	tap_limit(300);
	services_open(&s, kind->type, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	send_in_child(fd, kind->type, total);
	for (size_t at = 0, i = 0; at < total; i++) {
		size_t len = kind->type == SOCK_STREAM ? 65536 :
							 i * 7919 % 200000;

		if (len > total - at)
			len = total - at;
		if (kind->type == SOCK_STREAM)
			receive_all(fd, data, len);
		else
			CHECK_EQ(CHECK_SYS(recv(fd, data, 200000, MSG_TRUNC)),
				 (ssize_t)len);
		CHECK(tap_matches(data, len, i));
		at += len;
	}
	services_ends(fd);
	CHECK_EQ(tap_reap(-1), 0);
	close(fd);
	free(data);
	services_close(&s);
}

TAP_TEST(messages_keep_their_boundaries)
{
	static const size_t sizes[] = { 1, 0, 0, 5, 0, 212000, 4096, 0, 1 };
	const size_t count = sizeof(sizes) / sizeof(sizes[0]);
	char *data = calloc(1, 300000);
	struct sluice_control_service record;
	struct services s;
	int fd;

	services_open(&s, SOCK_SEQPACKET, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	for (size_t i = 0; i < count; i++)
		CHECK_EQ(CHECK_SYS(send(fd, data, sizes[i], 0)),
			 (ssize_t)sizes[i]);
	for (size_t i = 0; i < count; i++)
		CHECK_EQ(CHECK_SYS(recv(fd, data, 300000, 0)),
			 (ssize_t)sizes[i]);
	/* the last one is counted when it has been sent */
	CHECK_SOON(services_status(&s).messages[1] +
			   services_status(&s).kernel_messages[1] ==
		   count);
	record = services_status(&s);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(record.messages[i] + record.kernel_messages[i], count);
		CHECK_EQ(record.bytes[i] + record.kernel_bytes[i],
			 1 + 5 + 212000 + 4096 + 1);
	}
	CHECK_EQ(record.relayed, 1);
	close(fd);
	free(data);
	services_close(&s);
}

/* Empty messages, and the end behind them, pass in both directions. */
TAP_TEST(empty_messages_before_the_end)
{
	const int one = 1;
	union {
		char bytes[64];
		struct cmsghdr align;
	} control;
	struct services s;
	char byte;
	int fd;

	services_open(&s, SOCK_SEQPACKET, 1, "");
	backend_start(&s, 0, BACKEND_NAME);
	fd = services_connect(&s);
	CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &one, sizeof(one)));
	CHECK_EQ(services_number(fd), 0);
	for (int i = 0; i < 3; i++)
		CHECK_EQ(send(fd, "", 0, 0), 0);
	for (int i = 0; i < 4; i++) {
		struct iovec iov = { &byte, 1 };
		struct msghdr message = { .msg_iov = &iov,
					  .msg_iovlen = 1,
					  .msg_control = &control,
					  .msg_controllen = sizeof(control) };

		if (i == 3)
			CHECK_SYS(shutdown(fd, SHUT_WR));
		CHECK_EQ(CHECK_SYS(recvmsg(fd, &message, 0)), 0);
		/* only a message has a time */
		CHECK_EQ(message.msg_controllen != 0, i < 3);
	}
	close(fd);
	services_close(&s);
}

/* Ends --------------------------------------------------------------------- */

TAP_EACH(what_is_sent_early_arrives, kind, services_kinds)
{
	struct services s;
	char data[5];
	int fd;

	services_open(&s, kind->type, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	for (int i = 0; i < 50; i++) {
		fd = services_connect(&s);
		send_all(fd, "early", 5);
		CHECK_SYS(shutdown(fd, SHUT_WR));
		receive_all(fd, data, 5);
		CHECK_MEM(data, "early", 5);
		services_ends(fd);
		close(fd);
	}
	CHECK_SOON(!services_status(&s).relayed &&
		   !services_status(&s).redirected);
	services_close(&s);
}

/* A backend by hand: this process listens at b0. Returns a client. */
static int listen_by_hand(struct services *s, int *listener)
{
	*listener = backend_listen(s, 0);
	return services_connect(s);
}

static bool has(int fd, short events)
{
	struct pollfd pollfd = { .fd = fd, .events = events };

	return poll(&pollfd, 1, 0) > 0 && pollfd.revents & events;
}

TAP_EACH(each_side_may_end_first, kind, services_kinds)
{
	struct services s;
	char data[8];
	int listener, client, backend;

	services_open(&s, kind->type, 1, "");
	client = listen_by_hand(&s, &listener);
	for (int first = 0; first < 2; first++) {
		int a, b;

		if (first)
			client = services_connect(&s);
		backend = CHECK_SYS(accept(listener, NULL, NULL));
		a = first ? backend : client;
		b = first ? client : backend;
		send_all(a, "bye", 3);
		CHECK_SYS(shutdown(a, SHUT_WR));
		receive_all(b, data, 3);
		services_ends(b);
		/* the other way goes on */
		for (int i = 0; i < 10; i++) {
			send_all(b, "go on", 5);
			receive_all(a, data, 5);
			CHECK_MEM(data, "go on", 5);
		}
		CHECK(!has(b, POLLHUP));
		CHECK_SYS(shutdown(b, SHUT_WR));
		services_ends(a);
		CHECK_SOON(has(a, POLLHUP) && has(b, POLLHUP));
		close(a);
		close(b);
	}
	close(listener);
	services_close(&s);
}

/* Whoever closes, the other side hears of it, also after a half-close. */
TAP_EACH(a_close_shows_at_the_other_side, kind, services_kinds)
{
	struct services s;
	int listener, fds[2];
	char byte;

	services_open(&s, kind->type, 1, "");
	fds[0] = listen_by_hand(&s, &listener);
	for (int i = 0; i < 4; i++) {
		int closing = i & 1;

		if (i)
			fds[0] = services_connect(&s);
		fds[1] = CHECK_SYS(accept(listener, NULL, NULL));
		if (i & 2) {
			CHECK_SYS(shutdown(fds[closing], SHUT_WR));
			CHECK_EQ(recv(fds[!closing], &byte, 1, 0), 0);
		}
		close(fds[closing]);
		CHECK_SOON(has(fds[!closing], POLLHUP));
		CHECK_EQ(recv(fds[!closing], &byte, 1, 0), 0);
		CHECK_EQ(send(fds[!closing], "x", 1, MSG_NOSIGNAL), -1);
		CHECK_EQ(errno, EPIPE);
		close(fds[!closing]);
	}
	close(listener);
	CHECK_SOON(!services_status(&s).relayed &&
		   !services_status(&s).redirected);
	services_close(&s);
}

/* Pressure ----------------------------------------------------------------- */

static size_t fill(int fd)
{
	char data[4096] = { 0 };
	size_t total = 0;
	ssize_t n;

	while ((n = send(fd, data, sizeof(data), MSG_DONTWAIT)) > 0)
		total += (size_t)n;
	CHECK_EQ(errno, EAGAIN);
	return total;
}

/* Fills it until nothing moves any more. */
static size_t fill_up(int fd)
{
	size_t total = 0, n;
	int quiet = 0;

	while (quiet < 20) {
		n = fill(fd);
		total += n;
		quiet = n ? 0 : quiet + 1;
		tap_sleep(10000000);
	}
	return total;
}

TAP_EACH(a_slow_receiver_stops_its_own_sender, kind, services_kinds)
{
	/* more than there are buffers, for each thread */
	enum { SLOW = 150 };
	struct services s;
	int fds[SLOW], fast;
	char data[4];

	services_open(&s, kind->type, 2, "balance = least-connections\n");
	backend_start(&s, 0, BACKEND_MUTE);
	for (int i = 0; i < SLOW; i++) {
		fds[i] = services_connect(&s);
		fill(fds[i]);
	}
	CHECK_LE(fill_up(fds[0]), 1 << 20);
	backend_start(&s, 1, BACKEND_ECHO);
	CHECK_SOON(services_status(&s).backends_up == 2);
	fast = services_connect(&s);
	for (int i = 0; i < 100; i++) {
		send_all(fast, "ping", 4);
		receive_all(fast, data, 4);
	}
	close(fast);
	for (int i = 0; i < SLOW; i++)
		close(fds[i]);
	services_close(&s);
}

TAP_EACH(thousand_connections, kind, services_kinds)
{
	enum { CONNECTIONS = 1000 };
	static int fds[CONNECTIONS];
	struct sluice_control_service record;
	struct services s;
	int number;

	tap_limit(200);
	services_open(&s, kind->type, 2, "");
	backend_start(&s, 0, BACKEND_ECHO);
	backend_start(&s, 1, BACKEND_ECHO);
	for (int i = 0; i < CONNECTIONS; i++)
		fds[i] = services_connect(&s);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < CONNECTIONS; i++) {
			number = i * 3 + round;
			send_all(fds[i], (char *)&number, sizeof(number));
		}
		for (int i = 0; i < CONNECTIONS; i++) {
			receive_all(fds[i], (char *)&number, sizeof(number));
			CHECK_EQ(number, i * 3 + round);
		}
	}
	record = services_status(&s);
	CHECK_EQ(record.relayed + record.redirected, CONNECTIONS);
	for (int i = 0; i < CONNECTIONS; i++)
		close(fds[i]);
	CHECK_SOON(!services_status(&s).relayed &&
		   !services_status(&s).redirected);
	services_close(&s);
}

/*
 * More connections have something at once than a thread of the switch has buffers:
 * each is served all the same, also if nothing comes after that.
 */
TAP_EACH(more_at_once_than_buffers, kind, services_kinds)
{
	enum { CONNECTIONS = 200, ROUNDS = 20 };
	int clients[CONNECTIONS], backends[CONNECTIONS], listener;
	struct services s;
	char byte;

	services_open(&s, kind->type, 1, "");
	listener = backend_listen(&s, 0);
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < CONNECTIONS; i++) {
			clients[i] = services_connect(&s);
			backends[i] = CHECK_SYS(accept(listener, NULL, NULL));
		}
		for (int i = 0; i < CONNECTIONS; i++) {
			CHECK_EQ(send(backends[i], "y", 1, MSG_NOSIGNAL), 1);
			close(backends[i]);
		}
		for (int i = 0; i < CONNECTIONS; i++) {
			receive_all(clients[i], &byte, 1);
			services_ends(clients[i]);
			close(clients[i]);
		}
	}
	close(listener);
	services_close(&s);
}

/* fds ---------------------------------------------------------------------- */

TAP_TEST(fds_do_not_pass)
{
	struct services s;
	char byte;
	int fd, null;

	services_open(&s, SOCK_SEQPACKET, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	null = CHECK_SYS(open("/dev/null", O_RDONLY | O_CLOEXEC));
	if (services_send_fd(fd, null)) {
		/* since Linux 6.16 */
		CHECK_EQ(errno, EPERM);
	} else {
		CHECK_EQ(recv(fd, &byte, 1, 0), 0);
		CHECK_SOON(daemon_said(&s.d, 0,
				       "ended a connection: it sent fds"));
	}
	close(fd);
	close(null);
	services_close(&s);
}
