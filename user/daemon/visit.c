/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Connections of services, STREAM and SEQPACKET: accepted, given to a backend,
 * moved to another one if the first had not begun, ended. service.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/sdt.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "service.h"

#define ACCEPTS_PER_ROUND 16
#define MOVES_MAX 16

/* Users ------------------------------------------------------------------- */

struct service_user *visit_user(struct service *service, uid_t uid)
{
	struct service_user **at = &service->users;

	while (*at && (*at)->uid != uid)
		at = &(*at)->next;
	if (!*at && (*at = calloc(1, sizeof(**at))))
		(*at)->uid = uid;
	return *at;
}

static void put_user(struct service *service, struct service_user *user)
{
	struct service_user **at = &service->users;

	if (user->visits)
		return;
	while (*at != user)
		at = &(*at)->next;
	*at = user->next;
	free(user);
}

/* The visit ---------------------------------------------------------------- */

struct visit *visit_new(struct service *service, struct service_user *user,
			const struct ucred *peer, int fd)
{
	struct visit *visit = calloc(1, sizeof(*visit));

	if (!visit)
		return NULL;
	visit->service = service;
	visit->user = user;
	visit->peer = *peer;
	visit->client = fd;
	visit->at = service->visits_last;
	*visit->at = visit;
	service->visits_last = &visit->next;
	user->visits++;
	service->waiting++;
	return visit;
}

static void leave_backend(struct visit *visit)
{
	struct backend *backend = visit->backend;

	if (!backend)
		return;
	visit->backend = NULL;
	if (backend->offered == visit)
		backend->offered = NULL;
	if (visit->path == VISIT_HANDED)
		handed_forget(visit);
	visit->service->visit_count[visit->path]--;
	visit->service->waiting++;
	backend_put(backend);
}

void visit_join(struct visit *visit, struct backend *backend,
		enum visit_path path)
{
	visit->backend = backend;
	visit->path = path;
	STAP_PROBE5(sluiced, route, visit->service->config.name, backend->path,
		    (int)path, visit->peer.pid, visit->peer.uid);
	visit->service->visit_count[path]++;
	visit->service->waiting--;
	backend->visits++;
}

void visit_end(struct visit *visit)
{
	struct service *service = visit->service;

	leave_backend(visit);
	service->waiting--;
	if (visit->client >= 0)
		close(visit->client);
	*visit->at = visit->next;
	if (visit->next)
		visit->next->at = visit->at;
	else
		service->visits_last = visit->at;
	visit->user->visits--;
	put_user(service, visit->user);
	free(visit);
	service_free_if_over(service);
}

/* Giving it to a backend --------------------------------------------------- */

/*
 * The kernel drops what it has redirected towards a side that shuts down its own
 * sending: so this is for services where nobody does.
 */
bool visit_may_redirect(const struct service *service)
{
	return service->config.type == SOCK_STREAM &&
	       !service->config.half_close &&
	       service->server->services->redirect;
}

/* To an engine; takes the backend's fd. 0 or -errno. */
static int carry(struct visit *visit, struct backend *backend, int fd)
{
	struct service *service = visit->service;
	struct services *services = service->server->services;
	enum visit_path path = visit->redirect ? VISIT_REDIRECT : VISIT_RELAY;

	if (visit->redirect) {
		redirect_resume(visit->redirect, fd);
	} else if (visit->pair) {
		switch_resume(visit->pair, fd);
	} else if (visit_may_redirect(service)) {
		visit->redirect = redirect_add(services->redirect,
					       visit->client, fd,
					       &service->traffic, visit);
		path = VISIT_REDIRECT;
	} else if (services->switcher) {
		visit->pair = switch_add(services->switcher, visit->client, fd,
					 service->config.type,
					 &service->traffic, visit);
	}
	if (!visit->pair && !visit->redirect) {
		close(fd);
		return services->switcher ? -ENOMEM : -ENOSYS;
	}
	visit->client = -1;
	visit_join(visit, backend, path);
	return 0;
}

/* The backend gets the client's own socket; a copy stays until it has taken it. */
static int hand_over(struct visit *visit, struct backend *backend)
{
	int fd = fcntl(visit->client, F_DUPFD_CLOEXEC, 3);
	socklen_t len = sizeof(visit->cookie);

	if (fd < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &visit->cookie, &len) ||
	    handed_note(visit)) {
		close(fd);
		return -ENOMEM;
	}
	socket_take_fds(fd, true); /* the backend may */
	visit->seen = visit->service->server->sweep;
	visit_join(visit, backend, VISIT_HANDED);
	backend->offered = visit;
	bind_hand_over(backend, &visit->peer, fd);
	return 0;
}

void visit_taken(struct visit *visit)
{
	visit->backend->offered = NULL;
	close(visit->client);
	visit->client = -1;
}

static int give(struct visit *visit, struct backend *backend)
{
	int fd;

	if (!*backend->path)
		return backend->asked && visit->client >= 0 ?
			       hand_over(visit, backend) :
			       -EAGAIN;
	fd = backend_connect(backend);
	return fd < 0 ? fd : carry(visit, backend, fd);
}

/* 0: it has a backend; -EAGAIN: none has room now; else there is none. */
static int find_backend(struct visit *visit)
{
	struct service *service = visit->service;
	struct backend *backend;
	int r, result = -ECONNREFUSED;

	service->round++;
	while ((backend = backend_choose(service, visit->user->uid))) {
		backend->round = service->round;
		r = give(visit, backend);
		switch (r) {
		case 0:
			return 0;
		case -EAGAIN:
			result = -EAGAIN;
			break;
		case -EMFILE: /* not the backend's fault */
		case -ENFILE:
		case -ENOMEM:
		case -ENOBUFS:
		case -ENOSYS:
			return r;
		default:
			backend_down(backend, r);
		}
	}
	return result;
}

/* Nobody takes it: it ends. */
static void turn_away(struct visit *visit)
{
	visit->service->refused++;
	visit->leaving = true;
	if (visit->redirect)
		redirect_drop(visit->redirect);
	else if (visit->pair)
		switch_drop(visit->pair);
	else
		visit_end(visit);
}

static void place(struct visit *visit)
{
	struct service *service = visit->service;
	int r = find_backend(visit);

	if (r && r != -EAGAIN) {
		if (r != -ECONNREFUSED)
			log_client("service %s: cannot serve a client: %s",
				   service->config.name, strerror(-r));
		turn_away(visit);
	}
	if (!service->removed)
		service_update(service);
}

static bool waits(const struct visit *visit)
{
	return !visit->backend && !visit->leaving;
}

static struct visit *first_waiting(const struct service *service)
{
	struct visit *visit = service->visits;

	while (visit && !waits(visit))
		visit = visit->next;
	return visit;
}

void visit_retry(struct service *service)
{
	struct visit *visit;

	/* anew each time: what one leads to may end others */
	while ((visit = first_waiting(service))) {
		switch (find_backend(visit)) {
		case 0:
			break;
		case -EAGAIN:
			return;
		default:
			turn_away(visit);
		}
	}
}

void visit_refuse_waiting(struct service *service)
{
	struct visit *visit, *next;

	for (visit = service->visits; visit; visit = next) {
		next = visit->next;
		if (waits(visit))
			turn_away(visit);
	}
}

/* Accepting --------------------------------------------------------------- */

bool visit_over_limit(struct service *service, struct service_user *user)
{
	uint64_t limit = service->config.limit_per_uid;

	if (!limit || user->visits <= limit)
		return false;
	/* what was handed over may have ended meanwhile */
	if (service->visit_count[VISIT_HANDED])
		sweep_for_quota(service->server);
	return user->visits > limit;
}

static void take(struct service *service, int fd)
{
	struct service_user *user;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	struct visit *visit = NULL;

	service->accepted++;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ||
	    !(user = visit_user(service, peer.uid))) {
		service->refused++;
		close(fd);
		return;
	}
	user->visits++; /* this one; and it stays over a sweep */
	if (visit_over_limit(service, user))
		log_client("service %s: uid %u has too many connections",
			   service->config.name, peer.uid);
	else
		visit = visit_new(service, user, &peer, fd);
	user->visits--;
	if (visit) {
		place(visit);
		return;
	}
	service->refused++;
	close(fd);
	put_user(service, user);
}

void visit_accept(struct service *service)
{
	for (int i = 0; i < ACCEPTS_PER_ROUND && !service->paused &&
			service->source.fd >= 0;
	     i++) {
		int fd = accept4(service->source.fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0) {
			take(service, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
		    errno == ENOBUFS) {
			log_client("service %s: cannot accept now: %s",
				   service->config.name, strerror(errno));
			service_pause(service, true);
		}
		return;
	}
}

/* Ends -------------------------------------------------------------------- */

/* The backend may be dead: look, but not for each connection. */
static void suspect(struct backend *backend)
{
	int64_t soon = server_now() + SUSPECT_NS;

	if (backend && backend->probe_at > soon)
		backend->probe_at = soon;
}

/* Another backend may have it, which has seen nothing of it. */
static void move(struct visit *visit)
{
	struct backend *backend = visit->backend;

	backend->probe_at = 0;
	backend_probe(backend, server_now());
	leave_backend(visit);
	if (visit->moves++ < MOVES_MAX)
		place(visit);
	else
		turn_away(visit);
}

void visit_return(struct visit *visit)
{
	leave_backend(visit);
	if (!visit->service->removed)
		place(visit);
	else
		turn_away(visit);
}

void visit_add_carried(const struct visit *visit, struct carried *carried)
{
	struct redirect_status status;

	if (visit->pair)
		switch_carried(visit->pair, carried);
	if (!visit->redirect)
		return;
	redirect_read(visit->redirect, &status);
	for (int i = 0; i < 2; i++) {
		carried->bytes[i] += status.bytes[i];
		carried->messages[i] += status.messages[i];
	}
}

static void over(struct visit *visit)
{
	suspect(visit->backend);
	visit_end(visit);
}

void visit_on_switched(struct server *server, struct source *source,
		       uint32_t events)
{
	struct switch_event *event, *next;
	eventfd_t count;

	(void)events;
	eventfd_read(source->fd, &count);
	for (event = switch_events(server->services->switcher); event;
	     event = next) {
		struct visit *visit = event->owner;

		next = event->next;
		if (event->end == SWITCH_UNBEGUN) {
			move(visit);
			continue;
		}
		if (event->end != SWITCH_DONE)
			log_client("service %s: uid %u: ended a connection: %s",
				   visit->service->config.name,
				   visit->user->uid,
				   event->end == SWITCH_FDS ?
					   "it sent fds" :
					   "a message is too large");
		visit_add_carried(visit, &visit->service->carried);
		switch_free(visit->pair);
		over(visit);
	}
}

void visit_on_redirected(struct server *server, struct source *source,
			 uint32_t events)
{
	struct redirect_event *event, *next;
	eventfd_t count;

	(void)events;
	eventfd_read(source->fd, &count);
	for (event = redirect_events(server->services->redirect); event;
	     event = next) {
		struct visit *visit = event->owner;

		next = event->next;
		if (event->end == REDIRECT_UNBEGUN) {
			move(visit);
			continue;
		}
		visit_add_carried(visit, &visit->service->carried);
		redirect_free(visit->redirect);
		over(visit);
	}
}
