/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Backends: which are up, which is next; service.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"
#include "service.h"

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static uint64_t hash_text(const char *text)
{
	uint64_t hash = 0;

	while (*text)
		hash = mix(hash ^ (unsigned char)*text++) + 1;
	return hash;
}

/* Coming and going --------------------------------------------------------- */

struct backend *backend_new(struct service *service, const char *path)
{
	struct backend *backend = calloc(1, sizeof(*backend)), **at;

	if (!backend)
		return NULL;
	backend->service = service;
	strcpy(backend->path, path);
	backend->identity = hash_text(path);
	for (at = &service->backends; *at; at = &(*at)->next)
		;
	*at = backend;
	return backend;
}

static void free_if_over(struct backend *backend)
{
	struct service *service = backend->service;
	struct backend **at = &service->backends;

	if (!backend->removed || backend->visits)
		return;
	while (*at != backend)
		at = &(*at)->next;
	*at = backend->next;
	if (service->last == backend)
		service->last = NULL;
	free(backend);
}

void backend_put(struct backend *backend)
{
	backend->visits--;
	free_if_over(backend);
}

void backend_remove(struct backend *backend)
{
	backend->removed = true;
	backend->up = false;
	backend->client = NULL;
	free_if_over(backend);
}

static struct backend *find_path(const struct service *service,
				 const char *path)
{
	struct backend *backend = service->backends;

	while (backend && (backend->removed || strcmp(backend->path, path)))
		backend = backend->next;
	return backend;
}

void backends_apply(struct service *service,
		    const struct service_config *config)
{
	const struct paths *paths = &config->backends;
	struct backend *next;

	for (struct backend *backend = service->backends; backend;
	     backend = next) {
		bool stays = !*backend->path;

		next = backend->next;
		for (unsigned int i = 0; i < paths->count; i++)
			stays |= !strcmp(paths->path[i], backend->path);
		if (!stays && !backend->removed)
			backend_remove(backend);
	}
	for (unsigned int i = 0; i < paths->count; i++) {
		if (!find_path(service, paths->path[i]) &&
		    !backend_new(service, paths->path[i]))
			log_error("service %s: %s", config->name,
				  strerror(ENOMEM));
	}
}

/* Up and down -------------------------------------------------------------- */

bool backend_usable(const struct backend *backend)
{
	return backend->up && !backend->removed;
}

void backend_down(struct backend *backend, int error)
{
	if (!backend->complained)
		log_info("service %s: backend %s is down: %s",
			 backend->service->config.name, backend->path,
			 strerror(-error));
	backend->complained = true;
	backend->up = false;
	backend->probe_at = server_now() + PROBE_DOWN_NS;
}

void backend_probe(struct backend *backend, int64_t now)
{
	int r;

	if (!*backend->path || backend->removed || now < backend->probe_at)
		return;
	r = socket_file_probe(backend->path, backend->service->config.type);
	if (r) {
		backend_down(backend, r);
		return;
	}
	if (!backend->up)
		log_info("service %s: backend %s is up",
			 backend->service->config.name, backend->path);
	backend->complained = false;
	backend->up = true;
	backend->probe_at = now + PROBE_UP_NS;
}

int backend_connect(const struct backend *backend)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX,
			backend->service->config.type | SOCK_CLOEXEC |
				SOCK_NONBLOCK,
			0);
	int r;

	if (fd < 0)
		return -errno;
	socket_take_fds(fd, false);
	strcpy(address.sun_path, backend->path);
	r = connect(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno :
									0;
	if (!r && fcntl(fd, F_SETFL, 0))
		r = -errno;
	if (!r)
		return fd;
	close(fd);
	return r;
}

/* Choosing ----------------------------------------------------------------- */

static bool eligible(const struct backend *backend)
{
	return backend_usable(backend) &&
	       backend->round != backend->service->round;
}

/* The first one after the last, around. */
static struct backend *choose_in_turn(struct service *service)
{
	struct backend *before = NULL, *after = NULL;
	bool past = !service->last;

	for (struct backend *backend = service->backends; backend && !after;
	     backend = backend->next) {
		if (eligible(backend) && past)
			after = backend;
		else if (eligible(backend) && !before)
			before = backend;
		past |= backend == service->last;
	}
	return after ? after : before;
}

static struct backend *choose_least(struct service *service)
{
	/* in turn among those with as few */
	struct backend *best = choose_in_turn(service);

	for (struct backend *backend = service->backends; best && backend;
	     backend = backend->next) {
		if (eligible(backend) && backend->visits < best->visits)
			best = backend;
	}
	return best;
}

/* The highest hash of uid and backend: others stay where they are. */
static struct backend *choose_hash(struct service *service, uid_t uid)
{
	struct backend *best = NULL;
	uint64_t highest = 0;

	for (struct backend *backend = service->backends; backend;
	     backend = backend->next) {
		uint64_t hash = mix(backend->identity ^ mix(uid + 1ull));

		if (!eligible(backend) || (best && hash <= highest))
			continue;
		best = backend;
		highest = hash;
	}
	return best;
}

struct backend *backend_choose(struct service *service, uid_t uid)
{
	struct backend *chosen;

	switch (service->config.balance) {
	case BALANCE_LEAST:
		chosen = choose_least(service);
		break;
	case BALANCE_HASH_UID:
		chosen = choose_hash(service, uid);
		break;
	default:
		chosen = choose_in_turn(service);
	}
	if (chosen)
		service->last = chosen;
	return chosen;
}
