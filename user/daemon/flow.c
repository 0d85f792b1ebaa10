/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Connections of services, STREAM and SEQPACKET: accepted, given to a backend,
 * moved to another one if the first had not begun, ended. service.h.
 */
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "service.h"

#define ACCEPTS_PER_ROUND 16
#define MOVES_MAX 16

/* Users ------------------------------------------------------------------- */

static struct service_user *get_user(struct service *service, uid_t uid)
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

	if (user->flows)
		return;
	while (*at != user)
		at = &(*at)->next;
	*at = user->next;
	free(user);
}

/* Those handed over are known by their sockets only ------------------------ */

static int by_cookie(const void *a, const void *b)
{
	uint64_t x = ((const struct flow *)a)->cookie;
	uint64_t y = ((const struct flow *)b)->cookie;

	return x < y ? -1 : x > y;
}

/* 0 or -ENOMEM */
static int note_handed(struct flow *flow)
{
	return tsearch(flow, &flow->service->server->services->handed,
		       by_cookie) ?
		       0 :
		       -ENOMEM;
}

static void forget_handed(struct flow *flow)
{
	tdelete(flow, &flow->service->server->services->handed, by_cookie);
}

/* The flow ---------------------------------------------------------------- */

static struct flow *flow_new(struct service *service, struct service_user *user,
			     const struct ucred *peer, int fd)
{
	struct flow *flow = calloc(1, sizeof(*flow));

	if (!flow)
		return NULL;
	flow->service = service;
	flow->user = user;
	flow->peer = *peer;
	flow->client = fd;
	flow->at = service->flows_last;
	*flow->at = flow;
	service->flows_last = &flow->next;
	user->flows++;
	service->waiting++;
	return flow;
}

static void leave_backend(struct flow *flow)
{
	struct backend *backend = flow->backend;

	if (!backend)
		return;
	flow->backend = NULL;
	if (flow->path == FLOW_HANDED)
		forget_handed(flow);
	flow->service->flow_count[flow->path]--;
	flow->service->waiting++;
	backend_put(backend);
}

static void join_backend(struct flow *flow, struct backend *backend,
			 enum flow_path path)
{
	flow->backend = backend;
	flow->path = path;
	flow->service->flow_count[path]++;
	flow->service->waiting--;
	backend->flows++;
}

static void flow_end(struct flow *flow)
{
	struct service *service = flow->service;

	leave_backend(flow);
	service->waiting--;
	if (flow->client >= 0)
		close(flow->client);
	*flow->at = flow->next;
	if (flow->next)
		flow->next->at = flow->at;
	else
		service->flows_last = flow->at;
	flow->user->flows--;
	put_user(service, flow->user);
	free(flow);
	service_free_if_over(service);
}

/* Giving it to a backend --------------------------------------------------- */

/* To an engine; takes the backend's fd. 0 or -errno. */
static int carry(struct flow *flow, struct backend *backend, int fd)
{
	struct service *service = flow->service;
	struct services *services = service->server->services;
	enum flow_path path = flow->redirect ? FLOW_REDIRECT : FLOW_RELAY;

	if (flow->redirect) {
		redirect_resume(flow->redirect, fd);
	} else if (flow->pair) {
		switch_resume(flow->pair, fd);
	} else if (service->config.type == SOCK_STREAM && services->redirect) {
		flow->redirect = redirect_add(services->redirect, flow->client,
					      fd, &service->traffic, flow);
		path = FLOW_REDIRECT;
	} else if (services->switcher) {
		flow->pair = switch_add(services->switcher, flow->client, fd,
					service->config.type, &service->traffic,
					flow);
	}
	if (!flow->pair && !flow->redirect) {
		close(fd);
		return services->switcher ? -ENOMEM : -ENOSYS;
	}
	flow->client = -1;
	join_backend(flow, backend, path);
	return 0;
}

/* The backend gets the client's own socket. */
static int hand_over(struct flow *flow, struct backend *backend)
{
	int fd = flow->client;
	socklen_t len = sizeof(flow->cookie);

	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &flow->cookie, &len))
		return -errno;
	if (note_handed(flow))
		return -ENOMEM;
	flow->seen = flow->service->server->sweep + 1;
	flow->client = -1;
	join_backend(flow, backend, FLOW_HANDED);
	bind_hand_over(backend, &flow->peer, fd);
	return 0;
}

static int give(struct flow *flow, struct backend *backend)
{
	int fd;

	if (!*backend->path)
		return backend->accept_count && flow->client >= 0 ?
			       hand_over(flow, backend) :
			       -EAGAIN;
	fd = backend_connect(backend);
	return fd < 0 ? fd : carry(flow, backend, fd);
}

/* 0: it has a backend; -EAGAIN: none has room now; else there is none. */
static int find_backend(struct flow *flow)
{
	struct service *service = flow->service;
	struct backend *backend;
	int r, result = -ECONNREFUSED;

	service->round++;
	while ((backend = backend_choose(service, flow->user->uid))) {
		backend->round = service->round;
		r = give(flow, backend);
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
static void turn_away(struct flow *flow)
{
	flow->service->refused++;
	flow->leaving = true;
	if (flow->redirect)
		redirect_drop(flow->redirect);
	else if (flow->pair)
		switch_drop(flow->pair);
	else
		flow_end(flow);
}

static void place(struct flow *flow)
{
	struct service *service = flow->service;
	int r = find_backend(flow);

	if (r && r != -EAGAIN) {
		if (r != -ECONNREFUSED)
			log_client("service %s: cannot serve a client: %s",
				   service->config.name, strerror(-r));
		turn_away(flow);
	}
	if (!service->removed)
		service_update(service);
}

static bool waits(const struct flow *flow)
{
	return !flow->backend && !flow->leaving;
}

void flow_retry(struct service *service)
{
	struct flow *flow, *next;

	for (flow = service->flows; flow; flow = next) {
		next = flow->next;
		if (!waits(flow))
			continue;
		switch (find_backend(flow)) {
		case 0:
			break;
		case -EAGAIN:
			return;
		default:
			turn_away(flow);
		}
	}
}

void flow_refuse_waiting(struct service *service)
{
	struct flow *flow, *next;

	for (flow = service->flows; flow; flow = next) {
		next = flow->next;
		if (waits(flow))
			turn_away(flow);
	}
}

/* Accepting --------------------------------------------------------------- */

static bool over_limit(struct service *service, struct service_user *user)
{
	uint64_t limit = service->config.limit_per_uid;

	if (!limit || user->flows <= limit)
		return false;
	/* what was handed over may have ended meanwhile */
	if (service->flow_count[FLOW_HANDED])
		sweep_for_quota(service->server);
	return user->flows > limit;
}

static void take(struct service *service, int fd)
{
	struct service_user *user;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	struct flow *flow = NULL;

	service->accepted++;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ||
	    !(user = get_user(service, peer.uid))) {
		service->refused++;
		close(fd);
		return;
	}
	user->flows++; /* this one; and it stays over a sweep */
	if (over_limit(service, user))
		log_client("service %s: uid %u has too many connections",
			   service->config.name, peer.uid);
	else
		flow = flow_new(service, user, &peer, fd);
	user->flows--;
	if (flow) {
		place(flow);
		return;
	}
	service->refused++;
	close(fd);
	put_user(service, user);
}

void flow_accept(struct service *service)
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
static void move(struct flow *flow)
{
	struct backend *backend = flow->backend;

	backend->probe_at = 0;
	backend_probe(backend, server_now());
	leave_backend(flow);
	if (flow->moves++ < MOVES_MAX)
		place(flow);
	else
		turn_away(flow);
}

static void over(struct flow *flow)
{
	suspect(flow->backend);
	flow_end(flow);
}

void flow_on_switched(struct server *server, struct source *source,
		      uint32_t events)
{
	struct switch_event *event, *next;
	eventfd_t count;

	(void)events;
	eventfd_read(source->fd, &count);
	for (event = switch_events(server->services->switcher); event;
	     event = next) {
		struct flow *flow = event->owner;

		next = event->next;
		if (event->end == SWITCH_UNBEGUN) {
			move(flow);
			continue;
		}
		if (event->end != SWITCH_DONE)
			log_client("service %s: uid %u: ended a connection: %s",
				   flow->service->config.name, flow->user->uid,
				   event->end == SWITCH_FDS ?
					   "it sent fds" :
					   "a message is too large");
		switch_free(flow->pair);
		over(flow);
	}
}

void flow_on_redirected(struct server *server, struct source *source,
			uint32_t events)
{
	struct redirect_event *event, *next;
	eventfd_t count;

	(void)events;
	eventfd_read(source->fd, &count);
	for (event = redirect_events(server->services->redirect); event;
	     event = next) {
		struct flow *flow = event->owner;

		next = event->next;
		if (event->end == REDIRECT_UNBEGUN) {
			move(flow);
			continue;
		}
		redirect_free(flow->redirect);
		over(flow);
	}
}

void services_seen(struct server *server, uint64_t cookie)
{
	const struct flow key = { .cookie = cookie };
	struct flow **found = tfind(&key, &server->services->handed, by_cookie);

	if (found)
		(*found)->seen = server->sweep;
}

uint32_t services_drop_unseen(struct server *server, uint32_t since,
			      bool count_only)
{
	struct service *service, *next_service;
	struct flow *flow, *next;
	uint32_t count = 0;

	for (service = server->services->first; service;
	     service = next_service) {
		next_service = service->next;
		for (flow = service->flow_count[FLOW_HANDED] ? service->flows :
							       NULL;
		     flow; flow = next) {
			next = flow->next;
			if (!flow->backend || flow->path != FLOW_HANDED ||
			    flow->seen >= since)
				continue;
			count++;
			if (!count_only)
				flow_end(flow);
		}
	}
	return count;
}
