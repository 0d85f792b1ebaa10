/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* CREATE, CLAIM and DESTROY, and what the worker's jobs bring about. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "request.h"

/* Jobs -------------------------------------------------------------------- */

struct job *request_job(enum job_type type, struct endpoint *endpoint)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->type = type;
	job->uid = endpoint->user->uid;
	job->endpoint = endpoint;
	job->identity = &endpoint->identity;
	endpoint->jobs++;
	return job;
}

void request_submit(struct server *server, struct job *job,
		    const struct request *request)
{
	if (request) {
		struct client *client = request->client;

		job->client = client;
		job->serial = request->frame.serial;
		job->client_next = client->jobs;
		client->jobs = job;
		client->job_count++;
	}
	worker_submit(server->worker, job);
}

static void forget_job(struct client *client, struct job *job)
{
	struct job **at = &client->jobs;

	while (*at != job)
		at = &(*at)->client_next;
	*at = job->client_next;
	client->job_count--;
}

/* For a request, or for none. -ENOMEM leaves the endpoint as it is. */
static int start_destroy(struct server *server, struct endpoint *endpoint,
			 const struct request *request)
{
	struct job *job = request_job(JOB_DESTROY, endpoint);

	if (job)
		job->cookies = endpoint_cookies(endpoint, &job->cookie_count);
	if (!job || !job->cookies) {
		endpoint->jobs -= !!job;
		free(job);
		return -ENOMEM;
	}
	if (endpoint->state == ENDPOINT_ORPHAN)
		server->tables.orphans--;
	endpoint->state = ENDPOINT_DYING;
	request_submit(server, job, request);
	return 0;
}

void endpoint_destroy(struct server *server, struct endpoint *endpoint)
{
	/* One that is being made goes when it is; one that goes, goes. */
	if (endpoint->state != ENDPOINT_LIVE &&
	    endpoint->state != ENDPOINT_ORPHAN)
		return;
	if (start_destroy(server, endpoint, NULL)) {
		log_error("endpoint %llu: no memory to remove it now",
			  endpoint->identity.number);
		if (endpoint->state == ENDPOINT_LIVE) {
			endpoint->state = ENDPOINT_ORPHAN; /* tried again */
			server->tables.orphans++;
		}
		server->orphans_until = server_now() + 1000000000;
	}
}

static void finish_create(struct server *server, struct job *job,
			  struct sluice_control *frame, int *fd_count)
{
	struct endpoint *endpoint = job->endpoint;

	if (job->error) {
		endpoint->state = ENDPOINT_DEAD;
		return;
	}
	*fd_count = (int)endpoint->identity.geometry.rings * MAPS_PER_RING;
	frame->endpoint = endpoint->identity.number;
	endpoint->ring_id = job->ring_id;
	endpoint->state = ENDPOINT_LIVE;
	if (!job->client)
		endpoint_destroy(server, endpoint);
}

void request_finish(struct server *server, struct job *job)
{
	static const __u16 types[] = {
		[JOB_CREATE] = SLUICE_CONTROL_CREATE,
		[JOB_DESTROY] = SLUICE_CONTROL_DESTROY,
		[JOB_GRACE] = SLUICE_CONTROL_DETACH,
		[JOB_SETTLE] = SLUICE_CONTROL_ATTACH,
	};
	struct endpoint *endpoint = job->endpoint;
	struct sluice_control frame = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = types[job->type],
		.flags = SLUICE_CONTROL_F_REPLY,
		.serial = job->serial,
		.error = (__u32)-job->error,
		.endpoint = endpoint->identity.number,
	};
	int fd_count = 0;

	if (job->type == JOB_CREATE) {
		frame.endpoint = 0;
		finish_create(server, job, &frame, &fd_count);
	} else if (job->type == JOB_DESTROY) {
		endpoint->state = ENDPOINT_DEAD;
	} else if (job->type == JOB_SETTLE) {
		fd_count = attach_settled(server, job);
		frame.attach.flags = fd_count ? SLUICE_ATTACH_F_LAGS : 0;
	} else {
		conn_free(&server->tables, job->conn);
	}
	if (!--endpoint->jobs && endpoint->state == ENDPOINT_DEAD)
		endpoint_free(&server->tables, endpoint);
	if (job->client) {
		forget_job(job->client, job);
		client_reply(server, job->client, &frame, NULL, 0, job->fds,
			     fd_count);
	} else {
		for (int i = 0; i < fd_count; i++)
			close(job->fds[i]);
	}
	free(job->cookies);
	free(job);
}

/* Requests ---------------------------------------------------------------- */

static int check_create_quota(const struct request *request, __u64 bytes)
{
	const struct limits *limits = &request->server->config.limits;
	const struct user *user = request->client->user;

	if (user->endpoints >= limits->endpoints_per_uid ||
	    bytes > limits->map_bytes_per_endpoint ||
	    user->map_bytes > limits->map_bytes_per_uid ||
	    bytes > limits->map_bytes_per_uid - user->map_bytes)
		return EDQUOT;
	return 0;
}

int request_create(struct request *request)
{
	const struct sluice_control_create *create = &request->frame.create;
	struct server *server = request->server;
	struct client *client = request->client;
	struct identity identity = {
		.number = server->tables.last_number + 1,
		.created = boottime_ns(),
		.uid = client->user->uid,
		.geometry = {
			.rings = create->rings,
			.ring_slots = create->ring_slots,
			.conns = create->conns,
		},
	};
	unsigned int fds = create->rings * MAPS_PER_RING;
	struct endpoint *endpoint;
	struct job *job;
	int r;

	memcpy(identity.geometry.landing, create->landing,
	       sizeof(create->landing));
	if (!geometry_valid(&identity.geometry))
		return EINVAL;
	if (server->draining)
		return ESHUTDOWN;
	if (client_fds_owed(server, client->user) + fds > FDS_OWED_MAX)
		return EBUSY;
	r = check_create_quota(request, geometry_bytes(&identity.geometry));
	if (r)
		return r;
	if (!endpoint_reserve(&server->tables, &identity))
		return ENOSPC;
	endpoint = endpoint_new(&server->tables, &identity, client->user);
	if (!endpoint)
		return ENOMEM;
	job = request_job(JOB_CREATE, endpoint);
	if (!job) {
		endpoint_free(&server->tables, endpoint);
		return ENOMEM;
	}
	endpoint->state = ENDPOINT_CREATING;
	endpoint->client = client;
	client->fds_owed += fds;
	request_submit(server, job, request);
	return LATER;
}

int request_claim(struct request *request)
{
	struct server *server = request->server;
	struct client *client = request->client;
	struct endpoint *endpoint =
		endpoint_find(&server->tables, request->frame.endpoint);
	int r;

	if (!endpoint)
		return ENOENT;
	if (endpoint->user != client->user && !client->privileged)
		return EPERM;
	if (endpoint->state != ENDPOINT_ORPHAN)
		return EBUSY;
	r = maps_check_id(request->fd, endpoint->ring_id);
	if (r)
		return -r;
	endpoint->state = ENDPOINT_LIVE;
	endpoint->client = client;
	server->tables.orphans--;
	return 0;
}

int request_destroy(struct request *request)
{
	int r = start_destroy(request->server, request->endpoint, request);

	return r ? -r : LATER;
}
