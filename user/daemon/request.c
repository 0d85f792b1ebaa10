/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Requests of clients: PROTOCOL.md section 16. A client may send anything; what
 * is refused is answered with an errno and changes nothing.
 */
#include "request.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "foreign.h"
#include "log.h"

static const struct kind {
	int (*handle)(struct request *request); /* 0, LATER or an errno */
	bool fd; /* carries one */
	bool endpoint; /* names one of the client's */
	bool reports; /* its reply has a body */
	__u16 flags; /* allowed */
	size_t body; /* bytes of it that may be other than 0 */
	enum { NUMBER_NONE, NUMBER_ANY } number; /* without endpoint */
} kinds[] = {
#define USED(type, next) offsetof(struct sluice_control_##type, next)
	[SLUICE_CONTROL_CREATE] = { request_create,
				    .body = USED(create, __resv) },
	[SLUICE_CONTROL_CLAIM] = { request_claim, .fd = true,
				   .number = NUMBER_ANY },
	[SLUICE_CONTROL_DESTROY] = { request_destroy, .endpoint = true },
	[SLUICE_CONTROL_ATTACH] = { request_attach, .fd = true,
				    .endpoint = true,
				    .body = USED(attach, __resv) },
	[SLUICE_CONTROL_DETACH] = { request_detach, .endpoint = true,
				    .body = USED(attach, flags) },
	[SLUICE_CONTROL_QUERY] = { request_query, .reports = true,
				   .flags = SLUICE_CONTROL_F_ALL },
	[SLUICE_CONTROL_LIST] = { request_list, .flags = SLUICE_CONTROL_F_ALL,
				  .number = NUMBER_ANY },
	[SLUICE_CONTROL_DRAIN] = { request_drain, .reports = true,
				   .body = USED(drain, __resv) },
	[SLUICE_CONTROL_SERVICE_BIND] = { request_service_bind, .reports = true,
					  .body = sizeof(
						  struct sluice_control_bind) },
	[SLUICE_CONTROL_SERVICE_ACCEPT] = { request_service_accept,
					    .body = USED(accept, __resv) },
	[SLUICE_CONTROL_SERVICES] = { request_services, .number = NUMBER_ANY },
	[SLUICE_CONTROL_URING_FOLLOW] = { request_uring_follow,
					  .body = USED(uring, __resv) },
	[SLUICE_CONTROL_URING_LEAVE] = { request_uring_leave,
					 .number = NUMBER_ANY },
	[SLUICE_CONTROL_URINGS] = { request_urings,
				    .flags = SLUICE_CONTROL_F_ALL,
				    .number = NUMBER_ANY },
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static bool zero_from(const __u8 *body, size_t at, size_t size)
{
	for (; at < size; at++) {
		if (body[at])
			return false;
	}
	return true;
}

static int check_frame(struct request *request, size_t len, bool truncated,
		       const struct kind **kind)
{
	const struct sluice_control *frame = &request->frame;

	if (len != sizeof(*frame) || truncated)
		return EMSGSIZE;
	if (frame->magic != SLUICE_CONTROL_MAGIC)
		return EPROTO;
	if (frame->type >= KINDS || !kinds[frame->type].handle)
		return EOPNOTSUPP;
	*kind = &kinds[frame->type];
	if (frame->flags & ~(*kind)->flags || frame->error ||
	    !zero_from(frame->__resv, (*kind)->body, sizeof(frame->__resv)))
		return EINVAL;
	if ((request->fd >= 0) != (*kind)->fd)
		return EBADMSG;
	if (frame->flags & SLUICE_CONTROL_F_ALL && !request->client->privileged)
		return EPERM;
	if (!(*kind)->endpoint)
		return frame->endpoint && (*kind)->number == NUMBER_NONE ?
			       EINVAL :
			       0;
	request->endpoint =
		endpoint_find(&request->server->tables, frame->endpoint);
	if (!request->endpoint)
		return ENOENT;
	if (request->endpoint->client != request->client)
		return EPERM;
	return request->endpoint->state == ENDPOINT_LIVE ? 0 : ENOENT;
}

static void complain(struct client *client, const struct sluice_control *frame,
		     int error)
{
	log_debug("pid %d: request %u: %s", client->pid, frame->type,
		  strerror(error));
	if (client->complained || (error != EPROTO && error != EMSGSIZE &&
				   error != EBADMSG && error != EINVAL))
		return;
	client->complained = true;
	log_client("uid %u, pid %d (%s): malformed request of type %u: %s",
		   client->user->uid, client->pid, client->comm, frame->type,
		   strerror(error));
}

static void answer(struct server *server, struct client *client,
		   struct sluice_control *frame, int error, const int *fds,
		   int fd_count)
{
	frame->magic = SLUICE_CONTROL_MAGIC;
	frame->flags = SLUICE_CONTROL_F_REPLY;
	frame->error = (__u32)error;
	client_reply(server, client, frame, NULL, 0, fds, fd_count);
}

void request_refuse(struct server *server, struct client *client,
		    struct sluice_control *frame, int error)
{
	complain(client, frame, error);
	memset(frame->__resv, 0, sizeof(frame->__resv));
	answer(server, client, frame, error, NULL, 0);
}

void request_handle(struct server *server, struct client *client,
		    const void *bytes, size_t len, bool truncated, int fd)
{
	struct request request = {
		.server = server,
		.client = client,
		.fd = fd,
	};
	const struct kind *kind = NULL;
	int r;

	memcpy(&request.frame, bytes, len);
	r = check_frame(&request, len, truncated, &kind);
	if (!r)
		r = kind->handle(&request);
	/* A copy kept would hide from its peer that it was closed. */
	if (fd >= 0 && !foreign_close(fd, FOREIGN_WAIT_NS) &&
	    client_waited(server, client->user)) {
		for (int i = 0; i < request.fd_count; i++)
			close(request.fds[i]);
		return;
	}
	if (r == LATER)
		return;
	if (r) {
		request_refuse(server, client, &request.frame, r);
		return;
	}
	if (!kind->reports && !request.fd_count)
		memset(request.frame.__resv, 0, sizeof(request.frame.__resv));
	answer(server, client, &request.frame, 0, request.fds,
	       request.fd_count);
}
