/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What clients ask for, and what comes of it later.
 *
 *   request.c    checks, answers      endpoint.c  CREATE, CLAIM, DESTROY
 *   attach.c     ATTACH, DETACH       report.c    QUERY, LIST, DRAIN
 *   bind.c       SERVICE_BIND, SERVICE_ACCEPT, SERVICES
 *   follow.c     URING_FOLLOW, URING_LEAVE, URINGS
 */
#ifndef SLUICED_REQUEST_H
#define SLUICED_REQUEST_H

#include "client.h"

/*
 * One message of a client: checked, done, and answered now or later. Takes the
 * fd, -1 for none.
 */
void request_handle(struct server *server, struct client *client,
		    const void *bytes, size_t len, bool truncated, int fd);

/* One that never came, for what it carried. */
void request_refuse(struct server *server, struct client *client,
		    struct sluice_control *frame, int error);

/* Gives the endpoint's maps and connections to the worker to remove. */
void endpoint_destroy(struct server *server, struct endpoint *endpoint);

/* A job is done: answers it, frees it. */
void request_finish(struct server *server, struct job *job);

/* Internal to the files above ---------------------------------------------- */

struct request {
	struct server *server;
	struct client *client;
	struct endpoint *endpoint; /* the one it names, if its type needs one */
	struct sluice_control frame; /* the request, then the reply */
	int fd; /* -1: none */
	int fds[2]; /* of the reply */
	int fd_count;
};

/* A handler returns 0, an errno, or this: it has answered, or a job will. */
#define LATER (-1)

int request_create(struct request *request);
int request_claim(struct request *request);
int request_destroy(struct request *request);
int request_attach(struct request *request);
int request_detach(struct request *request);
int request_query(struct request *request);
int request_list(struct request *request);
int request_drain(struct request *request);
int request_service_bind(struct request *request);
int request_service_accept(struct request *request);
int request_services(struct request *request);
int request_uring_follow(struct request *request);
int request_uring_leave(struct request *request);
int request_urings(struct request *request);

/* After SETTLE: how many of job->fds the reply has. */
int attach_settled(struct server *server, struct job *job);

/* A job about an endpoint, NULL without memory; for a request or for nobody. */
struct job *request_job(enum job_type type, struct endpoint *endpoint);
void request_submit(struct server *server, struct job *job,
		    const struct request *request);

#endif
