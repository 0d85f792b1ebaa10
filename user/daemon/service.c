/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The services of the configuration, and their sockets; service.h. */
#include "service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

#define BACKLOG 1024

/* Sockets ----------------------------------------------------------------- */

static void ready(struct server *server, struct source *source, uint32_t events)
{
	(void)server;
	(void)events;
	if (((struct service *)source)->config.type == SOCK_DGRAM)
		dgram_ready((struct service *)source);
	else
		visit_accept((struct service *)source);
}

void service_pause(struct service *service, bool paused)
{
	struct server *server = service->server;

	if (service->source.fd < 0 || service->paused == paused)
		return;
	if (paused)
		epoll_ctl(server->epoll, EPOLL_CTL_DEL, service->source.fd,
			  NULL);
	else
		paused = server_watch(server, &service->source, EPOLLIN) != 0;
	service->paused = paused;
}

static void complain(struct service *service, int error)
{
	if (!service->complained)
		log_error("service %s: cannot listen at %s: %s",
			  service->config.name, service->config.listen,
			  error == -EADDRINUSE ? "another server does" :
						 strerror(-error));
	service->complained = true;
}

static void start_listening(struct service *service)
{
	struct socket_file *file = &service->file;
	const struct service_config *config = &service->config;
	int fd;

	file->path = config->listen;
	file->type = config->type;
	file->mode = (mode_t)config->mode;
	file->owner = config->owner;
	file->group = config->group;
	fd = socket_file_bind(file);
	if (fd < 0) {
		complain(service, fd);
		return;
	}
	service->source.fd = fd;
	service->paused = true;
	/* bound backends may take them */
	if (config->backends.count || config->type == SOCK_DGRAM)
		socket_take_fds(fd, false);
	if (config->type != SOCK_DGRAM && listen(fd, BACKLOG))
		complain(service, -errno);
	else
		service->complained = false;
	service_pause(service, false);
	log_debug("service %s: listens", config->name);
}

/* What waits to be accepted is reset; the name refuses, or goes. */
static void stop_listening(struct service *service, bool remove)
{
	if (service->source.fd >= 0) {
		close(service->source.fd);
		service->source.fd = -1;
		log_debug("service %s: refuses", service->config.name);
	}
	if (remove)
		socket_file_remove(&service->file);
}

void service_update(struct service *service)
{
	bool any = false, room = false;

	for (struct backend *backend = service->backends; backend;
	     backend = backend->next) {
		if (!backend_usable(backend))
			continue;
		any = true;
		room |= *backend->path || backend->asked;
	}
	if (any && service->source.fd < 0)
		start_listening(service);
	if (!any && service->source.fd >= 0)
		stop_listening(service, false);
	if (!any)
		visit_refuse_waiting(service);
	/* those that wait are served first */
	service_pause(service, service->waiting || service->held || !room);
}

/* The configuration -------------------------------------------------------- */

struct service *service_find(const struct services *services, const char *name)
{
	struct service *service = services->first;

	while (service &&
	       (service->removed || strcmp(service->config.name, name)))
		service = service->next;
	return service;
}

void service_free_if_over(struct service *service)
{
	struct service **at = &service->server->services->first;

	if (!service->removed || service->backends || service->visits)
		return;
	while (*at != service)
		at = &(*at)->next;
	*at = service->next;
	server_free_later(service->server, &service->source);
}

static void remove_service(struct service *service)
{
	struct backend *backend, *next;

	log_info("service %s: removed", service->config.name);
	intercept_stop(&service->server->intercepts, &service->intercept);
	stop_listening(service, true);
	service->removed = true;
	dgram_stop(service);
	visit_refuse_waiting(service);
	for (backend = service->backends; backend; backend = next) {
		next = backend->next;
		if (!backend->removed)
			backend_remove(backend);
	}
}

static struct service *add_service(struct server *server, const char *name)
{
	struct service *service = calloc(1, sizeof(*service)), **at;

	if (!service) {
		log_error("service %s: %s", name, strerror(ENOMEM));
		return NULL;
	}
	service->source = (struct source){ .ready = ready, .fd = -1 };
	service->server = server;
	service->visits_last = &service->visits;
	for (at = &server->services->first; *at; at = &(*at)->next)
		;
	*at = service;
	return service;
}

static bool intercepts_same(const struct service_config *a,
			    const struct service_config *b)
{
	if (strcmp(a->intercept, b->intercept) ||
	    a->cgroups.count != b->cgroups.count)
		return false;
	for (unsigned int i = 0; i < a->cgroups.count; i++) {
		if (strcmp(a->cgroups.path[i], b->cgroups.path[i]))
			return false;
	}
	return true;
}

static void apply(struct service *service, const struct service_config *config)
{
	const struct intercepts *intercepts = &service->server->intercepts;
	bool same = intercepts_same(&service->config, config);

	if (!same)
		intercept_stop(intercepts, &service->intercept);
	service->config = *config;
	service->config.next = NULL;
	service->complained = false;
	if (service->source.fd >= 0) {
		int r;

		service->file.mode = (mode_t)config->mode;
		r = socket_file_access(&service->file);
		if (r)
			complain(service, r);
	}
	backends_apply(service, &service->config);
	if (!same)
		intercept_start(intercepts, &service->intercept, config);
}

/* The same name, but not to be changed in place. */
static bool differs(const struct service *service,
		    const struct service_config *config)
{
	return strcmp(service->config.listen, config->listen) ||
	       service->config.type != config->type;
}

/* Starting and ending ------------------------------------------------------- */

static int watch_events(struct server *server, struct source *source,
			void (*ready)(struct server *server,
				      struct source *source, uint32_t events))
{
	*source = (struct source){
		.ready = ready,
		.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
	};
	if (source->fd < 0)
		return -errno;
	return server_watch(server, source, EPOLLIN);
}

/* The engines, when the first service comes. */
static void start(struct server *server)
{
	struct services *services = server->services;
	int r;

	if (services->started)
		return;
	services->started = true;
	r = watch_events(server, &services->switched, visit_on_switched);
	if (!r)
		r = switch_start(&services->switcher, services->switched.fd,
				 server->loop);
	if (r)
		log_error("services have no user-space switch: io_uring: %s",
			  strerror(-r));
	r = server->sockmap_error;
	if (!r)
		r = watch_events(server, &services->redirected,
				 visit_on_redirected);
	if (!r)
		r = redirect_start(&services->redirect, &server->sockmap,
				   services->redirected.fd);
	if (r)
		log_info("services: streams are relayed in user space: no "
			 "redirection: %s",
			 strerror(-r));
}

void services_apply(struct server *server)
{
	static struct services all;
	struct services *services = server->services = &all;
	struct service *service, *next;

	for (service = services->first; service; service = next) {
		const struct service_config *config = server->config.services;

		next = service->next;
		while (config && strcmp(config->name, service->config.name))
			config = config->next;
		if (!service->removed && (!config || differs(service, config)))
			remove_service(service);
		service_free_if_over(service);
	}
	for (const struct service_config *config = server->config.services;
	     config; config = config->next) {
		start(server);
		service = service_find(services, config->name);
		if (!service)
			service = add_service(server, config->name);
		if (service)
			apply(service, config);
	}
	services_tick(server);
}

void services_tick(struct server *server)
{
	struct services *services = server->services;
	int64_t now = server_now();

	services->tick_at = 0;
	for (struct service *service = services->first, *next; service;
	     service = next) {
		struct backend *backend, *next_backend;

		next = service->next;
		if (service->removed)
			continue;
		for (backend = service->backends; backend;
		     backend = next_backend) {
			next_backend = backend->next;
			backend_probe(backend, now);
		}
		if (service->waiting)
			visit_retry(service);
		if (service->config.type == SOCK_DGRAM)
			dgram_tick(service, now);
		service_update(service);
		services->tick_at = now + TICK_NS;
	}
	for (struct service *service = services->first; service;
	     service = service->next) {
		if (service->waiting || service->held)
			services->tick_at = now + TICK_WAITING_NS;
	}
}

void services_clear(const struct config *config)
{
	for (const struct service_config *service = config->services; service;
	     service = service->next)
		socket_file_clear(service->listen);
}

bool services_have_owners(const struct config *config)
{
	const struct service_config *service = config->services;

	while (service && !*service->owner && !*service->group)
		service = service->next;
	return service;
}

bool services_redirect(const struct config *config)
{
	const struct service_config *service = config->services;

	while (service && (service->half_close || service->type != SOCK_STREAM))
		service = service->next;
	return service;
}

bool services_land(const struct config *config)
{
	const struct service_config *service = config->services;

	while (service && !service->landing)
		service = service->next;
	return service;
}

void services_stop(struct server *server)
{
	struct services *services = server->services;
	struct service *service, *next;

	if (!services)
		return;
	if (services->switcher)
		switch_stop(services->switcher);
	if (services->redirect)
		redirect_stop(services->redirect);
	services->switcher = NULL;
	services->redirect = NULL;
	for (service = services->first; service; service = next) {
		next = service->next;
		intercept_stop(&server->intercepts, &service->intercept);
		stop_listening(service, true);
	}
}
