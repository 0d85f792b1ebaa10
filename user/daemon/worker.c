/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Threads that work on maps; worker.h says in what order. */
#include "worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "stream.h"

struct queue {
	struct queue *next;
	uid_t uid;
	bool busy; /* a thread is at a job of this uid */
	struct job *first, **last;
};

struct worker {
	pthread_mutex_t lock; /* of all below but programs and event_fd */
	pthread_cond_t work; /* a queue may have a job for a thread */
	pthread_cond_t grace; /* graces is not empty */
	const struct programs *programs;
	int event_fd;
	bool stopping;
	struct queue *queues; /* in the order in which they get their turn */
	struct job *graces;
	struct job *done, **done_last;
	pthread_t threads[WORKER_THREADS + 1];
	unsigned int thread_count;
};

/* Queues: with the lock held ---------------------------------------------- */

static struct queue *queue_of(struct worker *worker, uid_t uid)
{
	struct queue **at = &worker->queues;

	for (; *at; at = &(*at)->next) {
		if ((*at)->uid == uid)
			return *at;
	}
	*at = calloc(1, sizeof(**at));
	if (*at) {
		(*at)->uid = uid;
		(*at)->last = &(*at)->first;
	}
	return *at;
}

/* Takes out the first queue that has its turn, and its first job. */
static struct queue *take_turn(struct worker *worker, struct job **job)
{
	struct queue **at = &worker->queues, *queue;

	while (*at && ((*at)->busy || !(*at)->first))
		at = &(*at)->next;
	queue = *at;
	if (!queue)
		return NULL;
	*job = queue->first;
	queue->first = (*job)->next;
	if (!queue->first)
		queue->last = &queue->first;
	queue->busy = true;
	/* to the end: every other uid comes first */
	*at = queue->next;
	queue->next = NULL;
	for (at = &worker->queues; *at; at = &(*at)->next)
		;
	*at = queue;
	return queue;
}

static void end_turn(struct worker *worker, struct queue *queue)
{
	struct queue **at = &worker->queues;

	queue->busy = false;
	if (queue->first) {
		pthread_cond_signal(&worker->work);
		return;
	}
	while (*at != queue)
		at = &(*at)->next;
	*at = queue->next;
	free(queue);
}

static void report(struct worker *worker, struct job *jobs)
{
	bool was_empty = !worker->done;

	*worker->done_last = jobs;
	while (*worker->done_last)
		worker->done_last = &(*worker->done_last)->next;
	if (was_empty)
		eventfd_write(worker->event_fd, 1);
}

/* Threads ----------------------------------------------------------------- */

static void run(const struct programs *programs, struct job *job)
{
	if (job->type == JOB_CREATE)
		job->error = maps_create(programs, job->identity, job->fds,
					 &job->ring_id);
	else if (job->type == JOB_SETTLE)
		job->error = stream_settle(programs, job->socket, job->cookie);
	else
		maps_destroy(programs, job->identity,
			     (const __u64 *)job->cookies, job->cookie_count);
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct queue *queue;
	struct job *job;

	pthread_mutex_lock(&worker->lock);
	while (!worker->stopping) {
		queue = take_turn(worker, &job);
		if (!queue) {
			pthread_cond_wait(&worker->work, &worker->lock);
			continue;
		}
		pthread_mutex_unlock(&worker->lock);
		run(worker->programs, job);
		pthread_mutex_lock(&worker->lock);
		job->next = NULL;
		report(worker, job);
		end_turn(worker, queue);
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

static void *wait_graces(void *arg)
{
	struct worker *worker = arg;
	struct job *jobs;
	int r;

	pthread_mutex_lock(&worker->lock);
	while (!worker->stopping) {
		jobs = worker->graces;
		if (!jobs) {
			pthread_cond_wait(&worker->grace, &worker->lock);
			continue;
		}
		worker->graces = NULL;
		pthread_mutex_unlock(&worker->lock);
		r = maps_grace();
		for (struct job *job = jobs; job; job = job->next)
			job->error = r;
		pthread_mutex_lock(&worker->lock);
		report(worker, jobs);
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

/* For the main thread ----------------------------------------------------- */

int worker_start(struct worker **result, const struct programs *programs,
		 int event_fd)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	sigset_t all, before;
	int r = 0;

	if (!worker)
		return -ENOMEM;
	pthread_mutex_init(&worker->lock, NULL);
	pthread_cond_init(&worker->work, NULL);
	pthread_cond_init(&worker->grace, NULL);
	worker->programs = programs;
	worker->event_fd = event_fd;
	worker->done_last = &worker->done;
	sigfillset(&all); /* signals are the main thread's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (unsigned int i = 0; i <= WORKER_THREADS && !r; i++) {
		r = -pthread_create(&worker->threads[i], NULL,
				    i ? work : wait_graces, worker);
		worker->thread_count += !r;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r) {
		worker_stop(worker);
		return r;
	}
	*result = worker;
	return 0;
}

void worker_submit(struct worker *worker, struct job *job)
{
	struct queue *queue;

	pthread_mutex_lock(&worker->lock);
	job->next = NULL;
	job->error = 0;
	if (job->type == JOB_GRACE) {
		job->next = worker->graces;
		worker->graces = job;
		pthread_cond_signal(&worker->grace);
	} else if ((queue = queue_of(worker, job->uid))) {
		*queue->last = job;
		queue->last = &job->next;
		pthread_cond_signal(&worker->work);
	} else {
		/* no memory for a queue: slow, but done */
		run(worker->programs, job);
		report(worker, job);
	}
	pthread_mutex_unlock(&worker->lock);
}

struct job *worker_done(struct worker *worker)
{
	struct job *jobs;
	eventfd_t count;

	pthread_mutex_lock(&worker->lock);
	eventfd_read(worker->event_fd, &count);
	jobs = worker->done;
	worker->done = NULL;
	worker->done_last = &worker->done;
	pthread_mutex_unlock(&worker->lock);
	return jobs;
}

static void free_jobs(struct job *jobs)
{
	while (jobs) {
		struct job *job = jobs;

		jobs = job->next;
		free(job->cookies);
		free(job);
	}
}

void worker_stop(struct worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	worker->stopping = true;
	pthread_cond_broadcast(&worker->work);
	pthread_cond_broadcast(&worker->grace);
	pthread_mutex_unlock(&worker->lock);
	for (unsigned int i = 0; i < worker->thread_count; i++)
		pthread_join(worker->threads[i], NULL);
	/* What is not done is for the next sluiced, which finds it in the maps. */
	while (worker->queues) {
		struct queue *queue = worker->queues;

		worker->queues = queue->next;
		free_jobs(queue->first);
		free(queue);
	}
	free_jobs(worker->graces);
	free_jobs(worker->done);
	free(worker);
}
