/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Work on maps, which takes milliseconds, off the main thread.
 *
 * CREATE, DESTROY and SETTLE jobs wait in a queue for each uid; WORKER_THREADS threads
 * take the first of each queue in turn, and never two of the same uid at once: so
 * a uid with a hundred jobs delays another's by one at most. GRACE jobs have a
 * thread of their own, which waits once for all that it finds.
 *
 * A job belongs to whoever submitted it, except between worker_submit() and
 * worker_done(), when a thread works on what is below "worker's".
 */
#ifndef SLUICED_WORKER_H
#define SLUICED_WORKER_H

#include <stdint.h>
#include <sys/types.h>

#include "maps.h"

#define WORKER_THREADS 4

enum job_type {
	JOB_CREATE, /* maps_create() */
	JOB_DESTROY, /* maps_destroy() */
	JOB_GRACE, /* maps_grace() */
	JOB_SETTLE, /* stream_settle() */
};

struct job {
	struct job *next;
	enum job_type type;
	uid_t uid;
	/* main thread's */
	struct client *client; /* who waits for it; NULL: nobody any more */
	struct job *client_next;
	uint32_t serial; /* of the request */
	struct endpoint *endpoint;
	struct conn *conn; /* GRACE: leaves afterwards */
	/* worker's */
	const struct identity *identity;
	uint64_t *cookies; /* DESTROY: sockets attached to it */
	size_t cookie_count;
	int socket; /* SETTLE: an fd of the receiver, whose cookie is: */
	uint64_t cookie;
	int error;
	uint32_t ring_id; /* of CREATE */
	int fds[MAP_FDS_MAX]; /* of CREATE; of SETTLE: spill sockets */
};

struct worker;

/* Starts the threads. event_fd (eventfd) is written to when jobs are done. */
int worker_start(struct worker **worker, const struct programs *programs,
		 int event_fd);
void worker_submit(struct worker *worker, struct job *job);
/* A list of jobs that are done, or NULL. */
struct job *worker_done(struct worker *worker);
/*
 * Ends the threads after the jobs that they are at, and frees all jobs: others are
 * not done.
 */
void worker_stop(struct worker *worker);

#endif
