/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Clients' sockets; client.h says what bounds them. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "foreign.h"
#include "log.h"
#include "request.h"
#include "service.h"

#define REQUESTS_PER_ROUND 16 /* then the others have their turn */
#define SHUNNED_S 60
#define WAITS_MAX 3 /* in that time; fewer may be the fault of the machine */

static void free_reply(struct reply *reply)
{
	for (int i = 0; i < reply->fd_count; i++)
		close(reply->fds[i]);
	free(reply);
}

/* Sending ----------------------------------------------------------------- */

/* 0 or -errno */
static int send_reply(int fd, const struct reply *reply)
{
	union {
		char bytes[CMSG_SPACE(sizeof(reply->fds))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)reply->bytes, reply->len };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t fd_bytes = (size_t)reply->fd_count * sizeof(int);

	if (reply->fd_count) {
		struct cmsghdr *header = &control.align;

		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(fd_bytes);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(fd_bytes);
		memcpy(CMSG_DATA(header), reply->fds, fd_bytes);
	}
	return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno :
									0;
}

/* What the client is read and written for, after anything about it changed. */
static void watch(struct server *server, struct client *client)
{
	uint32_t events = EPOLLRDHUP;
	int r;

	if (client->source.fd < 0)
		return;
	if (client->replies)
		events |= EPOLLOUT;
	else if (client->job_count < REQUESTS_MAX)
		events |= EPOLLIN;
	if (events == client->events)
		return;
	client->events = events;
	r = server_watch(server, &client->source, events);
	if (r)
		client_close(server, client);
}

static void send_replies(struct server *server, struct client *client)
{
	struct reply *reply;
	int r;

	while ((reply = client->replies)) {
		r = send_reply(client->source.fd, reply);
		if (r == -EAGAIN)
			break;
		if (r && r != -EPIPE && r != -ECONNRESET)
			log_client("pid %d: cannot reply: %s", client->pid,
				   strerror(-r));
		if (r) {
			client_close(server, client);
			return;
		}
		client->replies = reply->next;
		if (!client->replies)
			client->replies_last = &client->replies;
		free_reply(reply);
	}
	watch(server, client);
}

void client_reply(struct server *server, struct client *client,
		  const struct sluice_control *frame, const void *records,
		  size_t size, const int *fds, int fd_count)
{
	struct reply *reply = malloc(sizeof(*reply) + sizeof(*frame) + size);

	if (!reply) {
		for (int i = 0; i < fd_count; i++)
			close(fds[i]);
		client_close(server, client);
		return;
	}
	reply->next = NULL;
	reply->len = sizeof(*frame) + size;
	memcpy(reply->bytes, frame, sizeof(*frame));
	if (size)
		memcpy(reply->bytes + sizeof(*frame), records, size);
	reply->fd_count = fd_count;
	if (fd_count)
		memcpy(reply->fds, fds, (size_t)fd_count * sizeof(int));
	*client->replies_last = reply;
	client->replies_last = &reply->next;
	if (client->replies == reply)
		send_replies(server, client);
}

static void settle_fds_owed(struct client *client)
{
	int unread;

	if (client->fds_owed && !client->replies && !client->job_count &&
	    !ioctl(client->source.fd, SIOCOUTQ, &unread) && !unread)
		client->fds_owed = 0;
}

unsigned int client_fds_owed(struct server *server, const struct user *user)
{
	unsigned int owed = 0;

	for (struct client *client = server->clients; client;
	     client = client->next) {
		if (client->user != user)
			continue;
		settle_fds_owed(client);
		owed += client->fds_owed;
	}
	return owed;
}

/* Receiving --------------------------------------------------------------- */

/* The fd of a message; the guard lets one pass at most. */
static int take_fd(struct msghdr *message)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	int fd;

	if (!header || header->cmsg_level != SOL_SOCKET ||
	    header->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

/* recvmsg returns 0 for an empty message and for EOF alike. */
static bool at_eof(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLRDHUP };

	return poll(&pollfd, 1, 0) > 0 &&
	       pollfd.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

struct message {
	struct sluice_control frame;
	size_t len;
	int flags; /* of recvmsg(2) */
	int fd; /* -1: none */
};

/* 0, or -errno: -EAGAIN if there is none, -EPIPE at the end. */
static int receive(int fd, bool with_fd, struct message *message)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { &message->frame, sizeof(message->frame) };
	struct msghdr header = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = with_fd ? control.bytes : NULL,
		.msg_controllen = with_fd ? sizeof(control.bytes) : 0,
	};
	ssize_t len = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (len < 0)
		return -errno;
	message->len = (size_t)len;
	message->flags = header.msg_flags;
	message->fd = with_fd ? take_fd(&header) : -1;
	return !len && message->fd < 0 && at_eof(fd) ? -EPIPE : 0;
}

static void handle(struct server *server, struct client *client,
		   const struct message *message)
{
	request_handle(server, client, &message->frame, message->len,
		       message->flags & MSG_TRUNC, message->fd);
}

/*
 * Puts the guard on the connection, and takes what was sent before it was there,
 * without fds. Once the queue is empty all that comes has met the guard. False:
 * the client is not worth it.
 */
static bool guard(struct server *server, struct client *client)
{
	struct message early[REQUESTS_MAX];
	int fd = client->source.fd, count = 0, r = 0;

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &server->programs.guard,
		       sizeof(server->programs.guard)))
		return false;
	while (count < REQUESTS_MAX) {
		r = receive(fd, false, &early[count]);
		if (r)
			break;
		if (early[count++].flags & MSG_CTRUNC) {
			log_client("uid %u, pid %d (%s): sent fds before the "
				   "first reply",
				   client->user->uid, client->pid,
				   client->comm);
			return false;
		}
	}
	for (int i = 0; i < count && r == -EAGAIN && client->source.fd >= 0;
	     i++)
		handle(server, client, &early[i]);
	return r == -EAGAIN;
}

static void ready(struct server *server, struct source *source, uint32_t events)
{
	struct client *client = (struct client *)source;

	if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
		client_close(server, client);
		return;
	}
	if (events & EPOLLOUT)
		send_replies(server, client);
	for (int i = 0; i < REQUESTS_PER_ROUND && client->source.fd >= 0 &&
			client->events & EPOLLIN;
	     i++) {
		struct message message;
		int r = receive(source->fd, true, &message);

		if (r == -EAGAIN || r == -EINTR)
			break;
		if (r)
			client_close(server, client);
		else
			handle(server, client, &message);
		watch(server, client);
	}
}

/* Coming and going -------------------------------------------------------- */

static void read_comm(struct client *client)
{
	char path[64];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", client->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	len = read(fd, client->comm, sizeof(client->comm) - 1);
	close(fd);
	if (len > 0 && client->comm[len - 1] == '\n')
		client->comm[len - 1] = 0;
}

/* EUSERS: too many of one uid; EACCES: it is shunned. One reply says so. */
static void turn_away(int fd, int error)
{
	const struct sluice_control frame = {
		.magic = SLUICE_CONTROL_MAGIC,
		.flags = SLUICE_CONTROL_F_REPLY,
		.error = (__u32)error,
	};

	if (send(fd, &frame, sizeof(frame), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("cannot turn away a client: %s", strerror(errno));
	foreign_close(fd, FOREIGN_WAIT_SHUNNED_NS);
}

void client_open(struct server *server, int fd)
{
	const struct limits *limits = &server->config.limits;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	struct client *client;
	struct user *user;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ||
	    !(user = user_get(&server->tables, peer.uid))) {
		close(fd);
		return;
	}
	if (user->shunned_until > server_now()) {
		turn_away(fd, EACCES);
		return;
	}
	user->shunned_until = 0;
	if (user->clients >= limits->clients_per_uid) {
		log_client("uid %u, pid %d: has %u connections to the control "
			   "socket already",
			   peer.uid, peer.pid, user->clients);
		turn_away(fd, EUSERS);
		return;
	}
	client = calloc(1, sizeof(*client));
	if (!client) {
		close(fd);
		user_put(&server->tables, user);
		return;
	}
	client->source = (struct source){ .ready = ready, .fd = fd };
	client->user = user;
	client->pid = peer.pid;
	client->privileged = !peer.uid || peer.uid == geteuid();
	client->replies_last = &client->replies;
	USER_ADD(&server->tables, user, clients, 1);
	read_comm(client);
	client->next = server->clients;
	client->at = &server->clients;
	if (client->next)
		client->next->at = &client->next;
	server->clients = client;
	len = sizeof(client->cookie);
	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &client->cookie, &len) ||
	    !guard(server, client))
		client_close(server, client);
	watch(server, client);
}

void client_close(struct server *server, struct client *client)
{
	bool quick;
	long wait_ns;

	if (client->source.fd < 0)
		return;
	wait_ns = client->user->shunned_until ? FOREIGN_WAIT_SHUNNED_NS :
						FOREIGN_WAIT_NS;
	quick = foreign_close(client->source.fd, wait_ns);
	client->source.fd = -1;
	*client->at = client->next;
	if (client->next)
		client->next->at = client->at;
	client->next = server->closed;
	server->closed = client;
	services_client_gone(server, client);
	urings_client_gone(server, client);
	for (struct job *job = client->jobs; job; job = job->client_next)
		job->client = NULL;
	client->jobs = NULL;
	while (client->replies) {
		struct reply *reply = client->replies;

		client->replies = reply->next;
		free_reply(reply);
	}
	for (uint32_t i = 0; i < STEER_RINGS; i++) {
		struct endpoint *endpoint = server->tables.endpoints[i];

		if (!endpoint || endpoint->client != client)
			continue;
		endpoint->client = NULL;
		endpoint_destroy(server, endpoint);
	}
	USER_ADD(&server->tables, client->user, clients, -1u);
	if (!quick && !client->user->shunned_until)
		client_waited(server, client->user);
	user_put(&server->tables, client->user);
	client->user = NULL;
	listener_resume(server);
}

bool client_waited(struct server *server, struct user *user)
{
	int64_t now = server_now();

	if (now - user->waited_at > SHUNNED_S * 1000000000ll)
		user->waits = 0;
	user->waited_at = now;
	if (++user->waits < WAITS_MAX)
		return false;
	log_client("uid %u sends sockets whose close waits: it is shunned for "
		   "%d s",
		   user->uid, SHUNNED_S);
	user->shunned_until = now + SHUNNED_S * 1000000000ll;
	for (struct client *client = server->clients, *next; client;
	     client = next) {
		next = client->next;
		if (client->user == user)
			client_close(server, client);
	}
	return true;
}

void client_refused(struct server *server, uint64_t cookie, __u16 type,
		    __u32 serial, uint32_t fds)
{
	struct sluice_control frame = { .type = type, .serial = serial };
	struct client *client = server->clients;

	while (client && client->cookie != cookie)
		client = client->next;
	if (client)
		request_refuse(server, client, &frame,
			       fds == 1 ? EBADF : EBADMSG);
}

void client_reap(struct server *server)
{
	while (server->closed) {
		struct client *client = server->closed;

		server->closed = client->next;
		free(client);
	}
}
