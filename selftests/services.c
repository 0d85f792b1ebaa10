/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Services and plain backends; services.h. */
#define _GNU_SOURCE
#include "services.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tap.h"

const struct services_kind services_kinds[SERVICES_KINDS] = {
	{ "stream", SOCK_STREAM },
	{ "seqpacket", SOCK_SEQPACKET },
};

static const char *type_name(int type)
{
	return type == SOCK_STREAM ? "stream" :
	       type == SOCK_DGRAM  ? "dgram" :
				     "seqpacket";
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	CHECK(strlen(path) < sizeof(address.sun_path));
	strcpy(address.sun_path, path);
	return address;
}

/* Backends ----------------------------------------------------------------- */

/*
 * Sends back one message, or piece; waits until it is gone. False: the client has
 * ended; an empty message is not the end of one that still sends.
 */
static bool echo(int fd)
{
	static char data[1 << 20];
	struct pollfd pollfd = { .fd = fd, .events = POLLRDHUP };
	ssize_t n = recv(fd, data, sizeof(data), 0), sent = 0, m;

	if (n < 0 || (!n && poll(&pollfd, 1, 0)))
		return false;
	do {
		m = send(fd, data + sent, (size_t)(n - sent), MSG_NOSIGNAL);
		sent += m;
	} while (m >= 0 && sent < n);
	return m >= 0;
}

/* Answers each message: with itself, or with its number. */
static void serve_dgram(int fd, int number, enum backend_kind kind)
{
	const char name = (char)('0' + number);
	char *data = malloc(1 << 20);

	for (;;) {
		struct sockaddr_un from;
		socklen_t size = sizeof(from);
		ssize_t n;

		if (kind == BACKEND_DEAF || kind == BACKEND_MUTE)
			pause();
		n = recvfrom(fd, data, 1 << 20, 0, (struct sockaddr *)&from,
			     &size);
		if (n < 0)
			_exit(1);
		if (size <= sizeof(sa_family_t))
			continue;
		if (kind == BACKEND_NAME)
			sendto(fd, &name, 1, 0, (struct sockaddr *)&from, size);
		else
			sendto(fd, data, (size_t)n, 0, (struct sockaddr *)&from,
			       size);
	}
}

static void watch(int epoll, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	CHECK_SYS(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

/* One at a time: its clients are not slow. */
static void serve(int listener, int number, enum backend_kind kind)
{
	const char name = (char)('0' + number);
	int epoll = CHECK_SYS(epoll_create1(EPOLL_CLOEXEC)), fd;
	struct epoll_event event;

	while (kind == BACKEND_DEAF)
		pause();
	watch(epoll, listener);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			_exit(1);
		if (event.data.fd != listener) {
			if (!echo(event.data.fd))
				close(event.data.fd);
			continue;
		}
		fd = CHECK_SYS(accept(listener, NULL, NULL));
		if (kind == BACKEND_NAME)
			send(fd, &name, 1, MSG_NOSIGNAL);
		if (kind != BACKEND_MUTE)
			watch(epoll, fd);
	}
}

int backend_listen(struct services *s, unsigned int number)
{
	struct sockaddr_un address;
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/b%u", s->d.dir, number);
	unlink(path);
	address = address_of(path);
	fd = CHECK_SYS(socket(AF_UNIX, s->type | SOCK_CLOEXEC, 0));
	CHECK_SYS(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	if (s->type != SOCK_DGRAM)
		CHECK_SYS(listen(fd, 64));
	return fd;
}

void backend_start(struct services *s, unsigned int number,
		   enum backend_kind kind)
{
	int fd = backend_listen(s, number);

	s->backends[number] = tap_fork();
	if (!s->backends[number] && s->type == SOCK_DGRAM)
		serve_dgram(fd, (int)number, kind);
	if (!s->backends[number])
		serve(fd, (int)number, kind);
	close(fd);
}

void backend_kill(struct services *s, unsigned int number)
{
	tap_kill(s->backends[number]);
	s->backends[number] = 0;
}

/* sluiced ------------------------------------------------------------------ */

static const char *config(const struct services *s)
{
	char text[4096];
	size_t n;

	n = (size_t)snprintf(text, sizeof(text),
			     "[service s]\nlisten = %s\ntype = %s\n", s->path,
			     type_name(s->type));
	for (unsigned int i = 0; i < s->count; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
				      "backends = %s/b%u\n", s->d.dir, i);
	snprintf(text + n, sizeof(text) - n, "%s\n", s->extra);
	return daemon_config(&s->d, text);
}

static void more_files(void)
{
	struct rlimit limit;

	CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
}

void services_open(struct services *s, int type, unsigned int count,
		   const char *extra)
{
	*s = (struct services){ .type = type, .count = count };
	more_files();
	daemon_open(&s->d);
	snprintf(s->path, sizeof(s->path), "%s/s", s->d.dir);
	snprintf(s->extra, sizeof(s->extra), "%s", extra);
	daemon_start(&s->d, (const char *[]){ "--config", config(s),
					      "--log-level", "debug", NULL });
}

void services_reload(struct services *s)
{
	size_t from = daemon_log_size(&s->d);

	config(s);
	CHECK_SYS(kill(s->d.pid, SIGHUP));
	CHECK_SOON(daemon_said(&s->d, from, "configuration read again"));
}

void services_start_again(struct services *s)
{
	daemon_start(&s->d,
		     (const char *[]){ "--config", "sluiced.conf", NULL });
}

void services_close(struct services *s)
{
	char path[300];

	CHECK_EQ(daemon_stop(&s->d), 0);
	CHECK_EQ(access(s->path, F_OK), -1);
	for (unsigned int i = 0; i < BACKENDS_MAX; i++) {
		if (s->backends[i])
			backend_kill(s, i);
		snprintf(path, sizeof(path), "%s/b%u", s->d.dir, i);
		unlink(path);
	}
	daemon_close(&s->d);
}

int services_try(const struct services *s, int *fd)
{
	struct sockaddr_un address = address_of(s->path);
	int r;

	*fd = CHECK_SYS(socket(AF_UNIX, s->type | SOCK_CLOEXEC, 0));
	r = connect(*fd, (struct sockaddr *)&address, sizeof(address)) ? errno :
									 0;
	if (r)
		close(*fd);
	return r;
}

int services_connect(const struct services *s)
{
	int fd, r;

	CHECK_SOON(!(r = services_try(s, &fd)) ||
		   (r != ECONNREFUSED && r != ENOENT));
	CHECK_EQ(r, 0);
	return fd;
}

int services_named(const struct services *s)
{
	const struct sockaddr_un any = { .sun_family = AF_UNIX };
	int fd = services_connect(s);

	CHECK_SYS(bind(fd, (const struct sockaddr *)&any, sizeof(sa_family_t)));
	return fd;
}

static int refusal(const struct services *s)
{
	int fd, r = services_try(s, &fd);

	if (!r)
		close(fd);
	return r;
}

void services_refuses(const struct services *s)
{
	CHECK_SOON(refusal(s) == ECONNREFUSED);
}

struct sluice_control_service services_status(const struct services *s)
{
	struct sluice_control frame = daemon_frame(SLUICE_CONTROL_SERVICES);
	struct sluice_control_service record[2];
	size_t len = sizeof(record);
	int fd = daemon_connect(&s->d), count = 0;

	daemon_send(fd, &frame, sizeof(frame), NULL, 0);
	daemon_receive(fd, &frame, NULL, &count, record, &len);
	CHECK_EQ(frame.error, 0);
	CHECK_EQ(frame.list.count, 1);
	CHECK_EQ(frame.list.record_size, sizeof(record[0]));
	CHECK_EQ(len, sizeof(record[0]));
	close(fd);
	return record[0];
}

void services_ends(int fd)
{
	char byte;

	CHECK_EQ(CHECK_SYS(recv(fd, &byte, 1, 0)), 0);
}

size_t services_bulk(void)
{
	return getenv("SLUICE_LONG") ? 1ul << 30 : 16ul << 20;
}

int services_number(int fd)
{
	char name;

	CHECK_EQ(CHECK_SYS(recv(fd, &name, 1, 0)), 1);
	return name - '0';
}

int services_send_fd(int socket, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { "x", 1 };
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.bytes),
	};

	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.align), &fd, sizeof(int));
	return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}
