/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Backends that bind at run time: SERVICE_BIND and SERVICE_ACCEPT of clients,
 * and SERVICES. An ACCEPT is answered with one connection: the client's socket
 * itself. sluiced keeps a copy until the next ACCEPT says that it was taken; when
 * the control connection ends before that, another backend gets it.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "log.h"
#include "request.h"
#include "service.h"

#define GROUPS_MAX 1024

static bool is_user(const char *name, uid_t uid)
{
	struct passwd *user = *name ? getpwnam(name) : NULL;

	return user && user->pw_uid == uid;
}

/* By the groups that the client had when it connected. */
static bool in_group(const char *name, int fd)
{
	struct group *group = *name ? getgrnam(name) : NULL;
	gid_t groups[GROUPS_MAX];
	socklen_t size = sizeof(groups);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (!group || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		return false;
	if (peer.gid == group->gr_gid)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size))
		return false;
	for (size_t i = 0; i < size / sizeof(groups[0]); i++) {
		if (groups[i] == group->gr_gid)
			return true;
	}
	return false;
}

static bool may_bind(const struct client *client,
		     const struct service_config *config)
{
	return client->privileged ||
	       is_user(config->bind_user, client->user->uid) ||
	       in_group(config->bind_group, client->source.fd);
}

static struct backend *find_bound(const struct service *service,
				  const struct client *client)
{
	struct backend *backend = service->backends;

	while (backend && backend->client != client)
		backend = backend->next;
	return backend;
}

/* SERVICE_BIND ------------------------------------------------------------- */

static bool name_is_right(const __u8 *name)
{
	size_t len = strnlen((const char *)name, SLUICE_SERVICE_NAME_SIZE);

	if (!len || len == SLUICE_SERVICE_NAME_SIZE)
		return false;
	for (; len < SLUICE_SERVICE_NAME_SIZE; len++) {
		if (name[len])
			return false;
	}
	return true;
}

int request_service_bind(struct request *request)
{
	struct sluice_control_bind *bind = &request->frame.bind;
	struct server *server = request->server;
	struct service *service;
	struct backend *backend;

	if (!name_is_right(bind->name) || bind->binding || bind->type)
		return EINVAL;
	service = service_find(server->services, (const char *)bind->name);
	if (!service)
		return ENOENT;
	if (!may_bind(request->client, &service->config))
		return EACCES;
	if (server->draining)
		return ESHUTDOWN;
	if (find_bound(service, request->client))
		return EALREADY;
	backend = backend_new(service, "");
	if (!backend)
		return ENOMEM;
	backend->client = request->client;
	backend->binding = ++server->services->last_binding;
	backend->identity = request->client->cookie;
	backend->up = true;
	log_info("service %s: pid %d (%s) is a backend", service->config.name,
		 request->client->pid, request->client->comm);
	bind->binding = backend->binding;
	bind->type = (__u32)service->config.type;
	service_update(service);
	return 0;
}

/* SERVICE_ACCEPT ----------------------------------------------------------- */

static struct backend *find_binding(const struct services *services,
				    const struct client *client,
				    uint32_t binding)
{
	for (struct service *service = services->first; service;
	     service = service->next) {
		struct backend *backend = find_bound(service, client);

		if (backend && backend->binding == binding)
			return backend;
	}
	return NULL;
}

int request_service_accept(struct request *request)
{
	const struct sluice_control_accept *accept = &request->frame.accept;
	struct server *server = request->server;
	struct backend *backend;

	if (accept->uid || accept->pid || accept->gid)
		return EINVAL;
	backend = find_binding(server->services, request->client,
			       accept->binding);
	if (!backend)
		return ENOENT;
	if (backend->asked)
		return EBUSY;
	if (backend->offered)
		visit_taken(backend->offered);
	backend->asked = true;
	backend->serial = request->frame.serial;
	/* after this request: what is answered may end the client */
	server->services->tick_at = 1;
	return LATER;
}

void bind_hand_over(struct backend *backend, const struct ucred *peer, int fd)
{
	struct sluice_control frame = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = SLUICE_CONTROL_SERVICE_ACCEPT,
		.flags = SLUICE_CONTROL_F_REPLY,
		.serial = backend->serial,
		.accept = {
			.binding = backend->binding,
			.uid = peer->uid,
			.pid = (__u32)peer->pid,
			.gid = peer->gid,
		},
	};

	backend->asked = false;
	client_reply(backend->service->server, backend->client, &frame, NULL, 0,
		     &fd, 1);
}

void services_client_gone(struct server *server, struct client *client)
{
	struct service *service, *next;
	struct backend *backend;
	struct visit *offered;

	for (service = server->services->first; service; service = next) {
		next = service->next;
		backend = find_bound(service, client);
		if (!backend)
			continue;
		log_info("service %s: backend pid %d (%s) is gone",
			 service->config.name, client->pid, client->comm);
		offered = backend->offered;
		backend_remove(backend);
		if (offered)
			visit_return(offered);
		if (!service->removed)
			service_update(service);
		else
			service_free_if_over(service);
	}
}

/* SERVICES ----------------------------------------------------------------- */

static void fill_carried(const struct service *service,
			 struct sluice_control_service *record)
{
	struct carried carried = service->carried;

	for (struct visit *visit = service->visits; visit; visit = visit->next)
		visit_add_carried(visit, &carried);
	for (int i = 0; i < 2; i++) {
		record->kernel_bytes[i] = carried.bytes[i];
		record->kernel_messages[i] = carried.messages[i];
	}
}

void service_record(const struct service *service,
		    struct sluice_control_service *record)
{
	*record = (struct sluice_control_service){
		.type = (__u32)service->config.type,
		.flags = service->source.fd >= 0 ? SLUICE_SERVICE_F_LISTENING :
						   0,
		.relayed = service->visit_count[VISIT_RELAY],
		.redirected = service->visit_count[VISIT_REDIRECT],
		.handed = service->visit_count[VISIT_HANDED],
		.waiting = service->waiting,
		.accepted = service->accepted,
		.refused = service->refused,
	};
	if (service->config.half_close)
		record->flags |= SLUICE_SERVICE_F_HALF_CLOSE;
	if (visit_may_redirect(service))
		record->flags |= SLUICE_SERVICE_F_REDIRECTS;
	if (service->intercept.count)
		record->flags |= SLUICE_SERVICE_F_INTERCEPTS;
	strcpy((char *)record->name, service->config.name);
	strcpy((char *)record->listen, service->config.listen);
	for (int i = 0; i < 2; i++) {
		record->bytes[i] = service->traffic.bytes[i];
		record->messages[i] = service->traffic.messages[i];
	}
	for (struct backend *backend = service->backends; backend;
	     backend = backend->next) {
		record->backends += !backend->removed;
		record->backends_up += backend_usable(backend);
	}
	fill_carried(service, record);
}

int request_services(struct request *request)
{
	struct sluice_control_service records[SLUICE_SERVICES_MAX];
	struct sluice_control *frame = &request->frame;
	uint64_t skip = frame->endpoint;
	__u32 count = 0;

	if (!request->client->privileged)
		return EPERM;
	for (struct service *service = request->server->services->first;
	     service && count < SLUICE_SERVICES_MAX; service = service->next) {
		if (service->removed)
			continue;
		if (skip)
			skip--;
		else
			service_record(service, &records[count++]);
	}
	frame->list.count = count;
	frame->list.record_size = sizeof(records[0]);
	frame->flags = SLUICE_CONTROL_F_REPLY;
	client_reply(request->server, request->client, frame, records,
		     count * sizeof(records[0]), NULL, 0);
	return LATER;
}
