/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The threads of the switch, and their mail; switch.h. */
#include "switch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "way.h"

#define THREADS_MAX 4

struct switcher {
	pthread_mutex_t lock; /* of the events */
	struct switch_event *events, **events_last;
	int event_fd;
	unsigned int count, next;
	const struct loop_program *program; /* of the in-kernel switch, or NULL */
	struct thread threads[THREADS_MAX];
};

/* Mail: from the main thread to a thread ----------------------------------- */

static void mail(struct thread *thread, struct letter *letter)
{
	pthread_mutex_lock(&thread->lock);
	letter->next = NULL;
	*thread->letters_last = letter;
	thread->letters_last = &letter->next;
	pthread_mutex_unlock(&thread->lock);
	eventfd_write(thread->mail_fd, 1);
}

static struct letter *take_mail(struct thread *thread)
{
	struct letter *letters;

	pthread_mutex_lock(&thread->lock);
	letters = thread->letters;
	thread->letters = NULL;
	thread->letters_last = &thread->letters;
	pthread_mutex_unlock(&thread->lock);
	return letters;
}

static void read_mail(struct thread *thread)
{
	struct letter *letter = take_mail(thread), *next;

	for (; letter; letter = next) {
		next = letter->next;
		if (letter->type == LETTER_STOP)
			thread->stopping = true;
		else
			pair_handle(letter->pair, letter->type, letter->fd);
	}
}

/* Called by any thread. */
void switch_tell(struct thread *thread, struct switch_event *event)
{
	struct switcher *switcher = thread->switcher;
	bool was_empty;

	pthread_mutex_lock(&switcher->lock);
	was_empty = !switcher->events;
	event->next = NULL;
	*switcher->events_last = event;
	switcher->events_last = &event->next;
	pthread_mutex_unlock(&switcher->lock);
	if (was_empty)
		eventfd_write(switcher->event_fd, 1);
}

/* Threads ----------------------------------------------------------------- */

static void *run(void *arg)
{
	struct thread *thread = arg;

	thread->error = thread_open(thread, thread->switcher->program);
	sem_post(&thread->started);
	if (thread->error)
		return NULL;
	while (!thread->stopping) {
		if (thread_round(thread))
			read_mail(thread);
	}
	thread_close(thread);
	return NULL;
}

static void stop_thread(struct thread *thread)
{
	if (!thread->error) {
		thread->last.type = LETTER_STOP;
		mail(thread, &thread->last);
	}
	pthread_join(thread->id, NULL);
	pthread_mutex_destroy(&thread->lock);
	sem_destroy(&thread->started);
	close(thread->mail_fd);
}

static int start_thread(struct switcher *switcher, struct thread *thread)
{
	int r;

	thread->switcher = switcher;
	thread->letters_last = &thread->letters;
	thread->mail_fd = eventfd(0, EFD_CLOEXEC);
	if (thread->mail_fd < 0)
		return -errno;
	pthread_mutex_init(&thread->lock, NULL);
	sem_init(&thread->started, 0, 0);
	r = -pthread_create(&thread->id, NULL, run, thread);
	if (r) {
		close(thread->mail_fd);
		return r;
	}
	while (sem_wait(&thread->started))
		;
	switcher->count++;
	return thread->error;
}

int switch_start(struct switcher **result, int event_fd,
		 const struct loop_program *program)
{
	struct switcher *switcher = calloc(1, sizeof(*switcher));
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	sigset_t all, before;
	int r = 0;

	if (!switcher)
		return -ENOMEM;
	pthread_mutex_init(&switcher->lock, NULL);
	switcher->event_fd = event_fd;
	switcher->program = program;
	switcher->events_last = &switcher->events;
	sigfillset(&all); /* signals are the main thread's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (long i = 0; i < THREADS_MAX && (!i || i < cpus) && !r; i++)
		r = start_thread(switcher, &switcher->threads[i]);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r) {
		switch_stop(switcher);
		return r;
	}
	*result = switcher;
	return 0;
}

void switch_stop(struct switcher *switcher)
{
	for (unsigned int i = 0; i < switcher->count; i++)
		stop_thread(&switcher->threads[i]);
	pthread_mutex_destroy(&switcher->lock);
	free(switcher);
}

/* For the main thread ------------------------------------------------------ */

struct pair *switch_add(struct switcher *switcher, int client, int backend,
			int type, struct traffic *traffic, void *owner)
{
	struct thread *thread =
		&switcher->threads[switcher->next++ % switcher->count];
	struct pair *pair =
		pair_new(thread, client, backend, type, traffic, owner);

	if (!pair)
		return NULL;
	pair->letter.type = LETTER_ADD;
	mail(thread, &pair->letter);
	return pair;
}

void switch_resume(struct pair *pair, int backend)
{
	pair->letter.type = LETTER_RESUME;
	pair->letter.fd = backend;
	mail(pair->thread, &pair->letter);
}

void switch_drop(struct pair *pair)
{
	pair->letter.type = LETTER_DROP;
	mail(pair->thread, &pair->letter);
}

struct switch_event *switch_events(struct switcher *switcher)
{
	struct switch_event *events;

	pthread_mutex_lock(&switcher->lock);
	events = switcher->events;
	switcher->events = NULL;
	switcher->events_last = &switcher->events;
	pthread_mutex_unlock(&switcher->lock);
	return events;
}

void switch_free(struct pair *pair)
{
	pair_free(pair);
}

void switch_carried(const struct pair *pair, struct carried *carried)
{
	pair_carried(pair, carried);
}
