/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Backends that bind at run time: the requests, who may, and the library's
 * sluice_service_bind().
 *
 * Limit: 600 s
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sluice/sluice.h>

#include "services.h"
#include "tap.h"

/* Requests ----------------------------------------------------------------- */

static int bind_service(int fd, const char *name, __u32 *binding)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_SERVICE_BIND);
	int r;

	strcpy((char *)frame.bind.name, name);
	r = daemon_call(fd, &frame, -1, NULL, NULL);
	if (binding)
		*binding = frame.bind.binding;
	return r;
}

static struct sluice_control accept_frame(__u32 binding)
{
	struct sluice_control frame =
		daemon_frame(SLUICE_CONTROL_SERVICE_ACCEPT);

	frame.accept.binding = binding;
	return frame;
}

static int accept_wrong(int fd, __u32 binding)
{
	struct sluice_control frame = accept_frame(binding);

	return daemon_call(fd, &frame, -1, NULL, NULL);
}

TAP_TEST(requests)
{
	struct sluice_control frame;
	struct services s;
	int fd, other, fds[64], count = 0, client;
	__u32 binding, second;

	services_open(&s, SOCK_SEQPACKET, 0, "");
	fd = daemon_connect(&s.d);
	CHECK_EQ(bind_service(fd, "nonsense", NULL), ENOENT);
	CHECK_EQ(bind_service(fd, "", NULL), EINVAL);
	frame = daemon_frame(SLUICE_CONTROL_SERVICE_BIND);
	memset(frame.bind.name, 'x', sizeof(frame.bind.name));
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EINVAL);
	frame = daemon_frame(SLUICE_CONTROL_SERVICE_BIND);
	strcpy((char *)frame.bind.name, "s");
	frame.bind.name[5] = 1;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EINVAL);
	for (int i = 0; i < 3; i++) {
		frame = daemon_frame(SLUICE_CONTROL_SERVICE_BIND);
		strcpy((char *)frame.bind.name, "s");
		if (i == 0)
			frame.bind.binding = 1;
		else if (i == 1)
			frame.bind.type = 1;
		else
			frame.endpoint = 1;
		CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EINVAL);
	}
	frame = daemon_frame(SLUICE_CONTROL_SERVICE_BIND);
	strcpy((char *)frame.bind.name, "s");
	frame.flags = SLUICE_CONTROL_F_ALL;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EINVAL);
	CHECK_EQ(accept_wrong(fd, 1), ENOENT);
	CHECK_EQ(services_try(&s, &client), ENOENT); /* nobody yet */

	CHECK_EQ(bind_service(fd, "s", &binding), 0);
	CHECK_EQ(bind_service(fd, "s", NULL), EALREADY);
	CHECK_EQ(accept_wrong(fd, binding + 1), ENOENT);
	for (int i = 0; i < 4; i++) {
		frame = accept_frame(binding);
		if (i == 0)
			frame.accept.uid = 1;
		else if (i == 1)
			frame.accept.pid = 1;
		else if (i == 2)
			frame.accept.gid = 1;
		else
			frame.accept.__resv[5] = 1;
		CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EINVAL);
	}
	/* another connection's binding is not this one's */
	other = daemon_connect(&s.d);
	CHECK_EQ(bind_service(other, "s", &second), 0);
	CHECK_NE(second, binding);
	CHECK_EQ(accept_wrong(other, binding), ENOENT);
	close(other);
	/* one at a time */
	frame = accept_frame(binding);
	daemon_send(fd, &frame, sizeof(frame), NULL, 0);
	CHECK_EQ(accept_wrong(fd, binding), EBUSY);
	client = services_connect(&s);
	daemon_receive(fd, &frame, fds, &count, NULL, NULL);
	CHECK_EQ(frame.type, SLUICE_CONTROL_SERVICE_ACCEPT);
	CHECK_EQ(frame.error, 0);
	CHECK_EQ(count, 1);
	CHECK_EQ(frame.accept.binding, binding);
	CHECK_EQ(frame.accept.uid, getuid());
	CHECK_EQ(frame.accept.pid, getpid());
	CHECK_EQ(send(client, "hi", 2, 0), 2);
	CHECK_EQ(recv(fds[0], &frame, sizeof(frame), 0), 2);
	close(fds[0]);
	close(client);
	/* SERVICES */
	frame = daemon_frame(SLUICE_CONTROL_SERVICES);
	frame.endpoint = 1; /* past the only one */
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), 0);
	CHECK_EQ(frame.list.count, 0);
	frame = daemon_frame(SLUICE_CONTROL_SERVICES);
	frame.__resv[0] = 1;
	CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EINVAL);
	close(fd);
	services_close(&s);
}

static const struct access {
	const char *name;
	const char *extra;
	int error;
} accesses[] = {
	{ "nobody_may", "", EACCES },
	{ "user", "bind_user = nobody\n", 0 },
	{ "other_user", "bind_user = root\n", EACCES },
	{ "group", "bind_group = nogroup\n", 0 },
	{ "other_group", "bind_group = root\n", EACCES },
	{ "no_such_user", "bind_user = nonsense\nbind_group = nonsense\n",
	  EACCES },
};

TAP_EACH(who_may_bind, access, accesses)
{
	struct sluice_control frame;
	struct services s;
	pid_t pid;

	services_open(&s, SOCK_STREAM, 0, access->extra);
	CHECK_SYS(chmod(s.d.control, 0666));
	pid = tap_fork();
	if (!pid) {
		int fd;

		daemon_become_nobody();
		fd = daemon_connect(&s.d);
		CHECK_EQ(bind_service(fd, "s", NULL), access->error);
		frame = daemon_frame(SLUICE_CONTROL_SERVICES);
		CHECK_EQ(daemon_call(fd, &frame, -1, NULL, NULL), EPERM);
		_exit(0);
	}
	tap_join(pid);
	services_close(&s);
}

/* The library -------------------------------------------------------------- */

static struct sluice_listener *bind_library(const struct services *s,
					    uint32_t flags)
{
	struct sluice_endpoint_options endpoint = {
		.size = sizeof(endpoint),
		.control = s->d.control,
		.rings = 1,
	};
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = flags,
		.endpoint_options = &endpoint,
	};
	struct sluice_listener *listener;

	CHECK_OK(sluice_service_bind(&listener, "s", &options));
	return listener;
}

TAP_TEST(library_errors)
{
	struct sluice_endpoint_options endpoint = {
		.size = sizeof(endpoint),
		.control = "nonsense",
	};
	struct sluice_options options = {
		.size = sizeof(options),
		.endpoint_options = &endpoint,
	};
	struct sluice_listener *listener;
	char name[64];
	struct services s;

	services_open(&s, SOCK_STREAM, 0, "");
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = 0;
	CHECK_EQ(sluice_service_bind(&listener, "s", &options), -ENOENT);
	endpoint.control = s.d.control;
	CHECK_EQ(sluice_service_bind(&listener, "nonsense", &options), -ENOENT);
	CHECK_EQ(sluice_service_bind(&listener, "", &options), -EINVAL);
	CHECK_EQ(sluice_service_bind(&listener, NULL, &options), -EINVAL);
	CHECK_EQ(sluice_service_bind(&listener, name, &options), -ENAMETOOLONG);
	options.flags = 1u << 31;
	CHECK_EQ(sluice_service_bind(&listener, "s", &options), -EINVAL);
	services_close(&s);
}

static void receives(struct sluice_conn *conn, const char *text)
{
	char data[64];
	size_t len;

	CHECK_OK(sluice_wait(conn, SLUICE_RECV, 5000000000));
	CHECK_EQ(sluice_recv_copy(conn, data, sizeof(data), &len, NULL), 1);
	CHECK_EQ(len, strlen(text));
	CHECK_MEM(data, text, len);
}

/* A plain client: the backend has its very socket. */
TAP_EACH(plain_client, kind, services_kinds)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	struct services s;
	struct pollfd pollfd;
	char data[8];
	int client;

	services_open(&s, kind->type, 0, "");
	listener = bind_library(
		&s, kind->type == SOCK_SEQPACKET ? SLUICE_F_STEER : 0);
	CHECK_EQ(sluice_accept(listener, &conn, 0), -EAGAIN);
	for (int i = 0; i < 3; i++) {
		client = services_connect(&s);
		CHECK_EQ(send(client, "early", 5, 0), 5);
		pollfd = (struct pollfd){ .fd = sluice_listener_fd(listener),
					  .events = POLLIN };
		CHECK_EQ(poll(&pollfd, 1, 5000), 1);
		CHECK_OK(sluice_accept(listener, &conn, 5000000000));
		receives(conn, "early");
		CHECK_OK(sluice_send(conn, "answer", 6, 0, 0));
		CHECK_EQ(recv(client, data, 6, MSG_WAITALL), 6);
		CHECK_MEM(data, "answer", 6);
		CHECK_EQ(send(client, "more", 4, 0), 4);
		receives(conn, "more");
		if (kind->type == SOCK_SEQPACKET) {
			struct sluice_conn_info info;

			sluice_conn_info(conn, &info);
			CHECK_EQ(info.rx_lane, SLUICE_LANE_STEERED);
			CHECK_EQ(info.steered, 1);
			CHECK_EQ(info.peer_pid, getpid());
		}
		CHECK_EQ(services_status(&s).handed, i + 1);
		CHECK_SYS(shutdown(client, SHUT_WR));
		{
			struct sluice_msg msg;

			CHECK_EQ(sluice_recv_wait(conn, &msg, 5000000000), 0);
		}
		sluice_conn_close(conn);
		CHECK_EQ(recv(client, data, 1, 0), 0);
		close(client);
	}
	CHECK_EQ(services_status(&s).bytes[0], 0);
	CHECK_EQ(services_status(&s).bytes[1], 0);
	sluice_listener_close(listener);
	services_refuses(&s);
	services_close(&s);
}

TAP_TEST(stream_sends_all_or_nothing)
{
	static char data[100000];
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	size_t sent = 0, got = 0;
	struct services s;
	int client, r;

	services_open(&s, SOCK_STREAM, 0, "");
	listener = bind_library(&s, 0);
	client = services_connect(&s);
	CHECK_OK(sluice_accept(listener, &conn, 5000000000));
	CHECK_EQ(sluice_send(conn, data, sizeof(data) * 2, 0, 0), -EMSGSIZE);
	for (int round = 0; round < 50; round++) {
		size_t len = 1 + tap_random_below(sizeof(data));

		tap_fill(data, len, sent);
		while ((r = sluice_send(conn, data, len, 0, 0)) == -EAGAIN) {
			char part[65536];
			ssize_t n = CHECK_SYS(
				recv(client, part, sizeof(part), MSG_DONTWAIT));

			CHECK_GT(n, 0);
			got += (size_t)n;
			CHECK_GE(sluice_wait(conn, SLUICE_SEND, 0), -ETIMEDOUT);
		}
		CHECK_EQ(r, 0);
		sent += len;
	}
	sluice_conn_close(conn);
	for (;;) {
		ssize_t n = CHECK_SYS(recv(client, data, sizeof(data), 0));

		if (!n)
			break;
		got += (size_t)n;
	}
	CHECK_EQ(got, sent);
	close(client);
	sluice_listener_close(listener);
	services_close(&s);
}

/* An aware client meets the aware backend: the direct lane. */
TAP_TEST(aware_client)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn, *client;
	struct sluice_conn_info info;
	struct services s;
	pid_t pid;

	services_open(&s, SOCK_SEQPACKET, 0, "");
	listener = bind_library(&s, 0);
	pid = tap_fork();
	if (!pid) {
		struct sluice_options options = {
			.size = sizeof(options),
			.flags = SLUICE_F_REQUIRE_AWARE,
		};

		CHECK_SOON(!sluice_connect(&client, s.path, &options));
		for (int i = 0; i < 100; i++) {
			CHECK_OK(sluice_send(client, "ping", 4, 0, 0));
			receives(client, "pong");
		}
		sluice_conn_info(client, &info);
		CHECK_EQ(info.tx_lane, SLUICE_LANE_DIRECT);
		sluice_conn_close(client);
		_exit(0);
	}
	CHECK_OK(sluice_accept(listener, &conn, 5000000000));
	for (int i = 0; i < 100; i++) {
		receives(conn, "ping");
		CHECK_OK(sluice_send(conn, "pong", 4, 0, 0));
	}
	tap_join(pid);
	sluice_conn_close(conn);
	sluice_listener_close(listener);
	services_close(&s);
}

/* What it was offered and has not accepted goes to another one. */
TAP_EACH(what_was_not_accepted_moves, kind, services_kinds)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	struct services s;
	int client;
	pid_t pid;

	services_open(&s, kind->type, 0, "");
	pid = tap_fork();
	if (!pid) {
		bind_library(&s, 0);
		pause();
	}
	client = services_connect(&s);
	CHECK_EQ(send(client, "request", 7, 0), 7);
	CHECK_SOON(services_status(&s).handed == 1);
	listener = bind_library(&s, 0);
	CHECK_EQ(sluice_accept(listener, &conn, 100000000), -EAGAIN);
	tap_kill(pid);
	CHECK_OK(sluice_accept(listener, &conn, 5000000000));
	receives(conn, "request");
	sluice_conn_close(conn);
	/* what it has taken ends with it */
	close(client);
	sluice_listener_close(listener);
	services_refuses(&s); /* until then it may be given to that one */
	pid = tap_fork();
	if (!pid) {
		listener = bind_library(&s, 0);
		CHECK_OK(sluice_accept(listener, &conn, 5000000000));
		CHECK_OK(sluice_send(conn, "0", 1, 0, 0));
		pause();
	}
	client = services_connect(&s);
	CHECK_EQ(services_number(client), 0);
	tap_kill(pid);
	{
		char byte;

		CHECK_EQ(recv(client, &byte, 1, 0), 0);
	}
	close(client);
	services_refuses(&s);
	services_close(&s);
}

TAP_TEST(binds_again_after_a_restart)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	struct services s;
	int client;

	services_open(&s, SOCK_STREAM, 0, "");
	listener = bind_library(&s, 0);
	daemon_kill(&s.d);
	services_start_again(&s);
	CHECK_SOON(sluice_accept(listener, &conn, 0) == -EAGAIN &&
		   services_status(&s).backends_up == 1);
	client = services_connect(&s);
	CHECK_OK(sluice_accept(listener, &conn, 5000000000));
	sluice_conn_close(conn);
	close(client);
	sluice_listener_close(listener);
	services_close(&s);
}

/* Handed-over connections count until their sockets are gone. */
TAP_TEST(limit_counts_what_was_handed_over)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	struct services s;
	int client;
	char byte;

	services_open(&s, SOCK_STREAM, 0, "limit_per_uid = 1\n");
	listener = bind_library(&s, 0);
	client = services_connect(&s);
	CHECK_OK(sluice_accept(listener, &conn, 5000000000));
	{
		int second = services_connect(&s);

		CHECK_EQ(recv(second, &byte, 1, 0), 0);
		close(second);
	}
	sluice_conn_close(conn);
	close(client);
	tap_sleep(1100000000); /* sweeps for quotas are a second apart */
	client = services_connect(&s);
	CHECK_OK(sluice_accept(listener, &conn, 5000000000));
	sluice_conn_close(conn);
	close(client);
	sluice_listener_close(listener);
	services_close(&s);
}

/* Aware at one side of sluiced only: the other side's peer is plain. */
TAP_TEST(aware_client_of_a_plain_backend)
{
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	struct services s;

	services_open(&s, SOCK_SEQPACKET, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	CHECK_SOON(!sluice_connect(&conn, s.path, NULL));
	for (int i = 0; i < 10; i++) {
		CHECK_OK(sluice_send(conn, "ping", 4, 0, 0));
		receives(conn, "ping");
	}
	sluice_conn_info(conn, &info);
	CHECK_EQ(info.tx_lane, SLUICE_LANE_PLAIN);
	CHECK_EQ(services_status(&s).relayed, 1);
	sluice_conn_close(conn);
	services_close(&s);
}

TAP_TEST(aware_backend_that_has_a_path)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn, *client;
	struct services s;
	char path[300];

	services_open(&s, SOCK_SEQPACKET, 1, "");
	snprintf(path, sizeof(path), "%s/b0", s.d.dir);
	CHECK_OK(sluice_listen(&listener, path, NULL));
	CHECK_SOON(!sluice_connect(&client, s.path, NULL));
	CHECK_OK(sluice_accept(listener, &conn, 5000000000));
	CHECK_OK(sluice_send(client, "ping", 4, 0, 0));
	receives(conn, "ping");
	CHECK_OK(sluice_send(conn, "pong", 4, 0, 0));
	receives(client, "pong");
	CHECK_EQ(services_status(&s).relayed, 1);
	sluice_conn_close(client);
	sluice_conn_close(conn);
	sluice_listener_close(listener);
	services_close(&s);
}
