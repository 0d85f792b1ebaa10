/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * DGRAM services: clients that connect, send to the name, or have none; answers;
 * pressure; backends that come and go.
 *
 * Limit: 300 s
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <sluice/sluice.h>

#include "services.h"
#include "tap.h"

/* A client with a name, connected. */
static void echoes(int fd, const char *text)
{
	char data[64];
	ssize_t n;

	CHECK_EQ(CHECK_SYS(send(fd, text, strlen(text), 0)),
		 (ssize_t)strlen(text));
	n = CHECK_SYS(recv(fd, data, sizeof(data), 0));
	CHECK_EQ(n, (ssize_t)strlen(text));
	CHECK_MEM(data, text, (size_t)n);
}

TAP_TEST(connected_and_not)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct services s;
	char data[8];
	int a, b;

	services_open(&s, SOCK_DGRAM, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	a = services_named(&s);
	b = CHECK_SYS(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	CHECK_SYS(bind(b, (struct sockaddr *)&address, sizeof(sa_family_t)));
	strcpy(address.sun_path, s.path);
	for (int i = 0; i < 10; i++) {
		echoes(a, "connected");
		CHECK_EQ(sendto(b, "to", 2, 0, (struct sockaddr *)&address,
				sizeof(address)),
			 2);
		CHECK_EQ(CHECK_SYS(recv(b, data, sizeof(data), 0)), 2);
		CHECK_MEM(data, "to", 2);
		echoes(a, ""); /* an empty message */
	}
	CHECK_EQ(services_status(&s).relayed, 2);
	CHECK_EQ(services_status(&s).messages[0], 30);
	CHECK_EQ(services_status(&s).messages[1], 30);
	close(a);
	close(b);
	services_close(&s);
}

TAP_TEST(without_a_name)
{
	struct services s;
	int listener, fd;
	char data[16];

	services_open(&s, SOCK_DGRAM, 1, "");
	listener = backend_listen(&s, 0);
	for (int i = 0; i < 3; i++) {
		fd = services_connect(&s);
		CHECK_EQ(send(fd, "log line", 8, 0), 8);
		close(fd);
		CHECK_EQ(CHECK_SYS(recv(listener, data, sizeof(data), 0)), 8);
	}
	CHECK_EQ(services_status(&s).relayed, 1);
	close(listener);
	services_close(&s);
}

static size_t size_of(size_t i)
{
	return i * 7919 % 200000;
}

/* A slow backend stops the sender; everything arrives, in order. */
TAP_TEST(bulk_meets_back_pressure)
{
	enum { COUNT = 2000 };
	struct sluice_control_service status;
	char *data = malloc(200000);
	struct services s;
	pid_t pid;
	int listener, fd;

	/* relayed, whatever is asked for: redirect-dgram says why */
	services_open(&s, SOCK_DGRAM, 1, "half_close = no\n");
	listener = backend_listen(&s, 0);
	fd = services_connect(&s);
	pid = tap_fork();
	if (!pid) {
		for (size_t i = 0; i < COUNT; i++) {
			tap_fill(data, size_of(i), i);
			CHECK_EQ(CHECK_SYS(send(fd, data, size_of(i), 0)),
				 (ssize_t)size_of(i));
		}
		_exit(0);
	}
	tap_sleep(200000000);
	CHECK_LE(services_status(&s).messages[0], 20);
	for (size_t i = 0; i < COUNT; i++) {
		CHECK_EQ(CHECK_SYS(recv(listener, data, 200000, MSG_TRUNC)),
			 (ssize_t)size_of(i));
		CHECK(tap_matches(data, size_of(i), i));
	}
	tap_join(pid);
	status = services_status(&s);
	CHECK_EQ(status.flags & SLUICE_SERVICE_F_REDIRECTS, 0);
	CHECK_EQ(status.redirected, 0);
	CHECK_EQ(status.messages[0], COUNT);
	CHECK_EQ(status.kernel_messages[0], 0);
	free(data);
	close(fd);
	close(listener);
	services_close(&s);
}

static bool is_stopped(pid_t pid)
{
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = CHECK_SYS(fopen(path, "re") ?: (FILE *)-1);
	CHECK_EQ(fscanf(file, "%*d (%*[^)]) %c", &state), 1);
	fclose(file);
	return state == 'T';
}

/* As long a queue as senders fill, in a network namespace of the case's own. */
static void lengthen_queues(void)
{
	const char *name = "/proc/sys/net/unix/max_dgram_qlen";
	FILE *file;

	if (unshare(CLONE_NEWNET))
		tap_skip("no network namespaces here");
	file = fopen(name, "we");
	if (!file)
		tap_skip("cannot write %s", name);
	fprintf(file, "100000");
	fclose(file);
}

/*
 * Messages take turns with requests: one that comes when there are very many is
 * answered after some of them.
 */
TAP_TEST(a_flood_does_not_hold_up_requests)
{
	enum { CLIENTS = 8, ROUND = 16 };
	struct sluice_control reply,
		frame = daemon_frame(SLUICE_CONTROL_SERVICES);
	struct sluice_control_service record;
	size_t len = sizeof(record);
	int clients[CLIENTS], fd, count = 0;
	unsigned int sent = 0;
	struct services s;

	lengthen_queues();
	services_open(&s, SOCK_DGRAM, 1, "");
	backend_start(&s, 0, BACKEND_NAME);
	for (int i = 0; i < CLIENTS; i++)
		clients[i] = services_connect(&s);
	fd = daemon_connect(&s.d);
	CHECK_EQ(services_status(&s).messages[0], 0);
	CHECK_SYS(kill(s.d.pid, SIGSTOP));
	CHECK_SOON(is_stopped(s.d.pid));
	for (int i = 0; i < CLIENTS; i++) {
		while (send(clients[i], "flood", 5, MSG_DONTWAIT) == 5)
			sent++;
		CHECK_EQ(errno, EAGAIN);
	}
	CHECK_GE(sent, 1000);
	daemon_send(fd, &frame, sizeof(frame), NULL, 0);
	CHECK_SYS(kill(s.d.pid, SIGCONT));
	daemon_receive(fd, &reply, NULL, &count, &record, &len);
	tap_diag("%llu of %u messages came first",
		 (unsigned long long)record.messages[0], sent);
	CHECK_LE(record.messages[0], 4 * ROUND);
	CHECK_SOON(services_status(&s).messages[0] == sent);
	close(fd);
	for (int i = 0; i < CLIENTS; i++)
		close(clients[i]);
	services_close(&s);
}

/* A client that does not read its answers does not hold up others. */
TAP_TEST(slow_clients_wait_alone)
{
	struct services s;
	int slow, fast;
	char data[8];

	services_open(&s, SOCK_DGRAM, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	slow = services_named(&s);
	fast = services_named(&s);
	/* as many as fit into its own queue, and some of the session's */
	for (int i = 0; i < 15; i++)
		CHECK_EQ(send(slow, "xyz", 3, 0), 3);
	for (int i = 0; i < 100; i++)
		echoes(fast, "fast");
	for (int i = 0; i < 15; i++)
		CHECK_EQ(CHECK_SYS(recv(slow, data, sizeof(data), 0)), 3);
	close(slow);
	close(fast);
	services_close(&s);
}

TAP_TEST(backends_come_and_go)
{
	struct services s;
	int a, b;

	services_open(&s, SOCK_DGRAM, 2, "");
	backend_start(&s, 0, BACKEND_NAME);
	backend_start(&s, 1, BACKEND_NAME);
	CHECK_SOON(services_status(&s).backends_up == 2);
	a = services_named(&s);
	b = services_named(&s);
	CHECK_EQ(send(a, "x", 1, 0), 1);
	CHECK_EQ(services_number(a), 0);
	CHECK_EQ(send(b, "x", 1, 0), 1);
	CHECK_EQ(services_number(b), 1);
	/* a client stays with its backend while it lives */
	CHECK_EQ(send(a, "x", 1, 0), 1);
	CHECK_EQ(services_number(a), 0);
	backend_kill(&s, 0);
	CHECK_EQ(send(a, "x", 1, 0), 1);
	CHECK_EQ(services_number(a), 1);
	backend_kill(&s, 1);
	services_refuses(&s);
	CHECK_EQ(send(a, "x", 1, 0), -1);
	CHECK_EQ(errno, ECONNREFUSED);
	close(a);
	close(b);
	backend_start(&s, 1, BACKEND_NAME);
	a = services_named(&s);
	CHECK_EQ(send(a, "x", 1, 0), 1);
	CHECK_EQ(services_number(a), 1);
	close(a);
	services_close(&s);
}

TAP_TEST(what_is_dropped_is_logged)
{
	struct services s;
	int a, b, null;

	services_open(&s, SOCK_DGRAM, 1, "limit_per_uid = 1\n");
	backend_start(&s, 0, BACKEND_ECHO);
	a = services_named(&s);
	echoes(a, "one");
	b = services_named(&s);
	CHECK_EQ(send(b, "x", 1, 0), 1);
	CHECK_SOON(daemon_said(&s.d, 0, "it has too many sessions"));
	null = CHECK_SYS(open("/dev/null", O_RDONLY | O_CLOEXEC));
	CHECK_EQ(services_status(&s).refused, 1);
	if (services_send_fd(a, null)) /* since Linux 6.16 */
		CHECK_EQ(errno, EPERM);
	else
		CHECK_SOON(daemon_said(&s.d, 0, "it carries fds"));
	echoes(a, "still");
	close(null);
	close(a);
	close(b);
	services_close(&s);
}

/* An aware backend: each client's session is a conn, whose lane is steered. */
TAP_TEST(bound_backend)
{
	struct sluice_endpoint_options endpoint = { .size = sizeof(endpoint) };
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = SLUICE_F_STEER,
		.endpoint_options = &endpoint,
	};
	struct sluice_listener *listener;
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	struct services s;
	char data[16];
	size_t len;
	int fd;

	services_open(&s, SOCK_DGRAM, 0, "");
	endpoint.control = s.d.control;
	CHECK_OK(sluice_service_bind(&listener, "s", &options));
	fd = services_named(&s);
	CHECK_EQ(send(fd, "first", 5, 0), 5);
	CHECK_OK(sluice_accept(listener, &conn, 5000000000));
	for (int i = 0; i < 10; i++) {
		CHECK_OK(sluice_wait(conn, SLUICE_RECV, 5000000000));
		CHECK_EQ(sluice_recv_copy(conn, data, sizeof(data), &len, NULL),
			 1);
		CHECK_EQ(len, 5);
		CHECK_OK(sluice_send(conn, data, len, 0, 0));
		CHECK_EQ(CHECK_SYS(recv(fd, data, sizeof(data), 0)), 5);
		CHECK_EQ(send(fd, "again", 5, 0), 5);
	}
	sluice_conn_info(conn, &info);
	CHECK_EQ(info.rx_lane, SLUICE_LANE_STEERED);
	CHECK_GE(info.steered, 9);
	sluice_conn_close(conn);
	close(fd);
	sluice_listener_close(listener);
	services_refuses(&s);
	services_close(&s);
}
