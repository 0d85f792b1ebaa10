/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * DGRAM services. All clients send to one socket, the service's. Each client gets
 * a session: a socket of its own towards a backend, by whose name the backend
 * answers; sluiced sends answers on from the service's socket, the only one from
 * which a connected client takes any. Clients without a name share a session, by
 * uid; nobody can answer those.
 *
 * Nothing is dropped for want of room: while a backend takes no more, nothing is
 * read from the service's socket, and its clients meet its queue, as they would
 * meet that of one server. A client that does not read stops its session's answers.
 *
 * A session ends when its client or its backend is gone, or after IDLE_NS. Carried
 * by the main thread, some messages at a time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"
#include "pair.h"
#include "service.h"

#define MESSAGES_PER_ROUND 16
#define MESSAGE_MAX (1u << 20)
#define IDLE_NS 300000000000ll

struct held {
	struct ucred peer;
	struct sockaddr_un name; /* of the client */
	socklen_t name_size;
	size_t length;
	unsigned char data[];
};

struct session {
	struct source source; /* first: the socket towards the backend */
	struct session *next;
	struct service *service;
	struct visit *visit;
	struct sockaddr_un name;
	socklen_t name_size;
	int64_t used; /* when */
	struct held *answer; /* that the client has no room for */
};

static unsigned char buffer[MESSAGE_MAX];

static struct held *hold(const unsigned char *data, size_t length)
{
	struct held *held = calloc(1, sizeof(*held) + length);

	if (!held)
		return NULL;
	held->length = length;
	memcpy(held->data, data, length);
	return held;
}

static bool has_name(socklen_t size)
{
	return size > sizeof(sa_family_t);
}

static void count(struct service *service, enum pair_way way, size_t bytes)
{
	service->traffic.bytes[way] += bytes;
	service->traffic.messages[way]++;
}

/* Sessions ---------------------------------------------------------------- */

static void end(struct session *session)
{
	struct session **at = &session->service->sessions;

	while (*at != session)
		at = &(*at)->next;
	*at = session->next;
	close(session->source.fd);
	free(session->answer);
	server_free_later(session->service->server, &session->source);
	/* this may have been the last of the service, too */
	visit_end(session->visit);
}

static bool is_of(const struct session *session, const struct held *message)
{
	if (!has_name(message->name_size))
		return !has_name(session->name_size) &&
		       session->visit->peer.uid == message->peer.uid;
	return session->name_size == message->name_size &&
	       !memcmp(&session->name, &message->name, session->name_size);
}

static struct session *find(const struct service *service,
			    const struct held *message)
{
	struct session *session = service->sessions;

	while (session && !is_of(session, message))
		session = session->next;
	return session;
}

/* Answers ----------------------------------------------------------------- */

/* 0, or -errno: -EAGAIN: the client has no room. */
static int send_answer(const struct session *session, const void *data,
		       size_t length)
{
	ssize_t n = sendto(session->service->source.fd, data, length,
			   MSG_DONTWAIT | MSG_NOSIGNAL,
			   (const struct sockaddr *)&session->name,
			   session->name_size);

	return n < 0 ? -errno : 0;
}

static void watch_answers(struct session *session, bool on)
{
	struct server *server = session->service->server;

	if (server_watch(server, &session->source, on ? EPOLLIN : 0))
		end(session);
}

static void pass_answer(struct session *session, size_t length)
{
	int r = send_answer(session, buffer, length);

	if (!r) {
		count(session->service, PAIR_TO_CLIENT, length);
		return;
	}
	if (r == -EAGAIN)
		session->answer = hold(buffer, length);
	if (session->answer)
		watch_answers(session, false);
	else
		end(session);
}

/* The backend answers, or takes messages again. */
static void session_ready(struct server *server, struct source *source,
			  uint32_t events)
{
	struct session *session = (struct session *)source;

	session->used = server_now();
	if (events & EPOLLOUT) {
		server->services->tick_at = 1;
		watch_answers(session, !session->answer);
	}
	for (int i = 0;
	     i < MESSAGES_PER_ROUND && source->fd >= 0 && !session->answer;
	     i++) {
		ssize_t n =
			recv(source->fd, buffer, sizeof(buffer), MSG_DONTWAIT);

		if (n >= 0) {
			pass_answer(session, (size_t)n);
			continue;
		}
		if (errno == EAGAIN || errno == EINTR)
			return;
		end(session);
	}
}

static void retry_answer(struct session *session)
{
	struct held *answer = session->answer;
	int r = send_answer(session, answer->data, answer->length);

	if (r == -EAGAIN)
		return;
	if (r) {
		end(session);
		return;
	}
	count(session->service, PAIR_TO_CLIENT, answer->length);
	free(answer);
	session->answer = NULL;
	watch_answers(session, true);
}

/* Making sessions --------------------------------------------------------- */

/* A name by which the backend can answer: the kernel's choice. */
static int connect_named(const struct backend *backend)
{
	const struct sockaddr_un any = { .sun_family = AF_UNIX };
	struct sockaddr_un address = any;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), r;

	if (fd < 0)
		return -errno;
	strcpy(address.sun_path, backend->path);
	if (!bind(fd, (const struct sockaddr *)&any, sizeof(sa_family_t)) &&
	    !connect(fd, (const struct sockaddr *)&address, sizeof(address)))
		return fd;
	r = -errno;
	close(fd);
	return r;
}

static struct session *new_session(struct service *service, struct visit *visit,
				   const struct held *message, int fd)
{
	struct session *session = calloc(1, sizeof(*session));

	if (!session)
		return NULL;
	session->source = (struct source){ .ready = session_ready, .fd = fd };
	session->service = service;
	session->visit = visit;
	session->name = message->name;
	session->name_size = message->name_size;
	session->used = server_now();
	session->next = service->sessions;
	service->sessions = session;
	if (!has_name(message->name_size))
		shutdown(fd, SHUT_RD); /* nobody can be answered */
	else if (server_watch(service->server, &session->source, EPOLLIN)) {
		service->sessions = session->next;
		free(session);
		return NULL;
	}
	return session;
}

/* A bound backend gets one end of a pair. */
static int join(struct service *service, struct visit *visit,
		struct backend *backend, const struct held *message)
{
	int fds[2] = { -1, -1 };

	if (*backend->path)
		fds[0] = connect_named(backend);
	else if (!backend->asked)
		return -EAGAIN;
	else if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds))
		return -EMFILE;
	if (fds[0] < 0)
		return fds[0];
	if (!new_session(service, visit, message, fds[0])) {
		close(fds[0]);
		if (fds[1] >= 0)
			close(fds[1]);
		return -ENOMEM;
	}
	visit_join(visit, backend, VISIT_RELAY);
	/* last: the backend may go over it */
	if (fds[1] >= 0)
		bind_hand_over(backend, &visit->peer, fds[1]);
	return 0;
}

/* 0, -EAGAIN: none has room, -EDQUOT, -errno. */
static int open_session(struct service *service, const struct held *message)
{
	struct service_user *user = visit_user(service, message->peer.uid);
	struct backend *backend;
	struct visit *visit;
	int r, result = -ECONNREFUSED;

	visit = user ? visit_new(service, user, &message->peer, -1) : NULL;
	if (!visit)
		return -ENOMEM;
	visit->leaving = true; /* never waits */
	if (visit_over_limit(service, user)) {
		visit_end(visit);
		return -EDQUOT;
	}
	service->round++;
	while ((backend = backend_choose(service, message->peer.uid))) {
		backend->round = service->round;
		r = join(service, visit, backend, message);
		if (!r)
			return 0;
		if (r == -EAGAIN)
			result = r;
		else if (r == -EMFILE || r == -ENFILE || r == -ENOMEM) {
			result = -EAGAIN; /* not the backend's fault */
			break;
		} else
			backend_down(backend, r);
	}
	visit_end(visit);
	return result;
}

/* Messages ---------------------------------------------------------------- */

/*
 * 0: it is on its way, or nobody can have it, which the log says; -EAGAIN: it has
 * to wait.
 */
static int pass(struct service *service, const struct held *message)
{
	struct session *session;
	int r = 0;

	for (int tries = 0; tries < 16; tries++) {
		session = find(service, message);
		if (!session) {
			service->accepted++;
			r = open_session(service, message);
			session = r ? NULL : find(service, message);
		}
		if (!session)
			break;
		if (send(session->source.fd, message->data, message->length,
			 MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
			session->used = server_now();
			count(service, PAIR_TO_BACKEND, message->length);
			return 0;
		}
		if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS) {
			/* if this fails, a tick will look */
			server_watch(service->server, &session->source,
				     (session->answer ? 0 : EPOLLIN) |
					     EPOLLOUT);
			return -EAGAIN;
		}
		/* its backend has gone: another one may have it */
		r = -errno;
		session->visit->backend->probe_at = 0;
		backend_probe(session->visit->backend, server_now());
		end(session);
	}
	if (r == -EAGAIN)
		return r;
	service->refused++;
	log_client("service %s: a message of uid %u is dropped: %s",
		   service->config.name, message->peer.uid,
		   r == -EDQUOT ? "it has too many sessions" : strerror(-r));
	return 0;
}

/* The next message, or NULL. */
static struct held *receive(struct service *service)
{
	union {
		char bytes[CMSG_SPACE(sizeof(struct ucred))]; /* no fds */
		struct cmsghdr align;
	} control;
	struct sockaddr_un name;
	struct iovec iov = { buffer, sizeof(buffer) };
	struct msghdr header = {
		.msg_name = &name,
		.msg_namelen = sizeof(name),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *cmsg = &control.align;
	ssize_t n = recvmsg(service->source.fd, &header, MSG_DONTWAIT);
	struct held *message;

	if (n < 0)
		return NULL;
	message = hold(buffer, (size_t)n);
	if (!message)
		return NULL;
	message->name = name;
	message->name_size = header.msg_namelen;
	message->peer.uid = (uid_t)-1;
	if (header.msg_controllen >= sizeof(*cmsg) &&
	    cmsg->cmsg_type == SCM_CREDENTIALS)
		memcpy(&message->peer, CMSG_DATA(cmsg), sizeof(message->peer));
	if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		service->refused++;
		log_client("service %s: a message of uid %u is dropped: %s",
			   service->config.name, message->peer.uid,
			   header.msg_flags & MSG_TRUNC ? "it is too large" :
							  "it carries fds");
		message->length = SIZE_MAX;
	}
	return message;
}

void dgram_ready(struct service *service)
{
	for (int i = 0; i < MESSAGES_PER_ROUND && !service->paused &&
			service->source.fd >= 0;
	     i++) {
		struct held *message = receive(service);

		if (!message)
			return;
		if (message->length == SIZE_MAX || !pass(service, message)) {
			free(message);
			continue;
		}
		service->held = message;
		service->server->services->tick_at = 1;
		service_pause(service, true);
	}
}

void dgram_tick(struct service *service, int64_t now)
{
	struct session *session, *next;

	for (session = service->sessions; session; session = next) {
		next = session->next;
		if (session->answer)
			retry_answer(session);
		else if (now - session->used > IDLE_NS)
			end(session);
	}
	if (!service->held || pass(service, service->held))
		return;
	free(service->held);
	service->held = NULL;
}

void dgram_stop(struct service *service)
{
	free(service->held);
	service->held = NULL;
	while (service->sessions)
		end(service->sessions);
}
