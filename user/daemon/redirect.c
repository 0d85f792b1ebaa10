/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The thread of redirection, which has all pairs, and the caller's side of it: they
 * write letters to each other (the thread's are events). redirect-pair.c is what
 * the thread does.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log.h"
#include "redirect-pair.h"

#define EVENTS_PER_ROUND 64

/* The thread -------------------------------------------------------------- */

static void open_letter(struct redirect *redirect, struct letter *letter)
{
	struct redirect_pair *pair = letter->pair;

	switch (letter->type) {
	case LETTER_ADD:
		redirect_pair_add(redirect, pair);
		break;
	case LETTER_RESUME:
		redirect_pair_resume(pair, letter->fd);
		break;
	case LETTER_DROP:
		pair->dropped = true;
		redirect_pair_settle(pair);
		break;
	case LETTER_FREE:
		free(pair);
		break;
	}
}

/* False: it is time to stop. */
static bool read_mail(struct redirect *redirect)
{
	struct letter *letters, *letter;
	uint64_t count;
	bool stop;

	if (read(redirect->mail_fd, &count, sizeof(count)) < 0 &&
	    errno != EAGAIN)
		log_error("eventfd: %m");
	pthread_mutex_lock(&redirect->lock);
	letters = redirect->letters;
	redirect->letters = NULL;
	redirect->letters_last = &redirect->letters;
	stop = redirect->stop;
	pthread_mutex_unlock(&redirect->lock);
	while ((letter = letters)) {
		letters = letter->next;
		open_letter(redirect, letter);
	}
	return !stop;
}

static int timeout_until(int64_t next)
{
	int64_t left;

	if (!next)
		return -1;
	left = next - redirect_now();
	if (left <= 0)
		return 0;
	left = (left + 999999) / 1000000;
	return left < 60000 ? (int)left : 60000;
}

static void *run(void *arg)
{
	struct epoll_event events[EVENTS_PER_ROUND];
	struct redirect *redirect = arg;
	bool going = true;
	int64_t next;
	int count;

	while (going) {
		next = redirect_pair_timers(redirect);
		redirect_pair_bury(redirect);
		count = epoll_wait(redirect->epoll, events, EVENTS_PER_ROUND,
				   timeout_until(next));
		for (int i = 0; i < count; i++) {
			if (events[i].data.ptr)
				redirect_pair_event(events[i].data.ptr,
						    events[i].events);
			else
				going = read_mail(redirect);
		}
	}
	redirect_pair_bury(redirect);
	return NULL;
}

/* The caller's thread ----------------------------------------------------- */

static void send_letter(struct redirect_pair *pair, enum letter_type type,
			int fd)
{
	struct redirect *redirect = pair->redirect;
	struct letter *letter = &pair->letters[type];
	uint64_t one = 1;

	*letter = (struct letter){ .pair = pair, .type = type, .fd = fd };
	pthread_mutex_lock(&redirect->lock);
	*redirect->letters_last = letter;
	redirect->letters_last = &letter->next;
	pthread_mutex_unlock(&redirect->lock);
	if (write(redirect->mail_fd, &one, sizeof(one)) < 0)
		log_error("eventfd: %m");
}

int redirect_start(struct redirect **made, const struct sockmap *sockmap,
		   int event_fd)
{
	struct redirect *redirect = calloc(1, sizeof(*redirect));
	struct epoll_event event = { .events = EPOLLIN };
	int r;

	if (!redirect)
		return -ENOMEM;
	redirect->sockmap = sockmap;
	redirect->event_fd = event_fd;
	redirect->letters_last = &redirect->letters;
	redirect->events_last = &redirect->events;
	redirect->slots_free = SOCKMAP_FLOWS;
	for (int i = 0; i < SOCKMAP_FLOWS; i++)
		redirect->slots[i] = SOCKMAP_FLOWS - 1 - i;
	pthread_mutex_init(&redirect->lock, NULL);
	redirect->mail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	redirect->epoll = epoll_create1(EPOLL_CLOEXEC);
	r = redirect->mail_fd < 0 || redirect->epoll < 0 ||
			    epoll_ctl(redirect->epoll, EPOLL_CTL_ADD,
				      redirect->mail_fd, &event) ?
		    -errno :
		    -pthread_create(&redirect->thread, NULL, run, redirect);
	if (!r) {
		*made = redirect;
		return 0;
	}
	if (redirect->mail_fd >= 0)
		close(redirect->mail_fd);
	if (redirect->epoll >= 0)
		close(redirect->epoll);
	free(redirect);
	return r;
}

struct redirect_pair *redirect_add(struct redirect *redirect, int client,
				   int backend, struct traffic *traffic,
				   void *owner)
{
	struct redirect_pair *pair = calloc(1, sizeof(*pair));

	if (!pair)
		return NULL;
	pair->redirect = redirect;
	for (int i = 0; i < REDIRECT_ENDS; i++)
		pair->events[i] = (struct redirect_event){
			.owner = owner,
			.pair = pair,
			.end = (enum redirect_end)i,
		};
	pair->traffic = traffic;
	for (int i = 0; i < SIDES; i++)
		pair->sides[i] = (struct side){ .pair = pair, .fd = -1 };
	pair->sides[SIDE_CLIENT].fd = client;
	pair->sides[SIDE_BACKEND].fd = backend;
	redirect_pair_reset_flow(pair, PAIR_TO_BACKEND);
	redirect_pair_reset_flow(pair, PAIR_TO_CLIENT);
	send_letter(pair, LETTER_ADD, -1);
	return pair;
}

void redirect_resume(struct redirect_pair *pair, int backend)
{
	send_letter(pair, LETTER_RESUME, backend);
}

void redirect_drop(struct redirect_pair *pair)
{
	if (pair->drop_sent)
		return;
	pair->drop_sent = true;
	send_letter(pair, LETTER_DROP, -1);
}

void redirect_read(const struct redirect_pair *pair,
		   struct redirect_status *status)
{
	for (int i = 0; i < 2; i++) {
		const struct flow *flow = &pair->flows[i];
		int index = flow->index;

		status->state[i] = flow->state;
		status->error[i] = flow->error;
		status->bytes[i] = flow->bytes;
		status->messages[i] = flow->messages;
		status->lagged[i] = flow->direct;
		if (index < 0)
			continue;
		const struct sockmap_flow *slot =
			&pair->redirect->sockmap->flows[index];

		status->bytes[i] += slot->bytes;
		status->messages[i] += slot->messages;
		if (status->state[i] == REDIRECT_HOLD &&
		    slot->word & SOCKMAP_ON)
			status->state[i] = REDIRECT_ON;
	}
}

struct redirect_event *redirect_events(struct redirect *redirect)
{
	struct redirect_event *events;

	pthread_mutex_lock(&redirect->lock);
	events = redirect->events;
	redirect->events = NULL;
	redirect->events_last = &redirect->events;
	pthread_mutex_unlock(&redirect->lock);
	return events;
}

void redirect_free(struct redirect_pair *pair)
{
	send_letter(pair, LETTER_FREE,
		    -1); /* after another that may be there */
}

void redirect_stop(struct redirect *redirect)
{
	uint64_t one = 1;

	pthread_mutex_lock(&redirect->lock);
	redirect->stop = true;
	pthread_mutex_unlock(&redirect->lock);
	if (write(redirect->mail_fd, &one, sizeof(one)) < 0)
		log_error("eventfd: %m");
	pthread_join(redirect->thread, NULL);
	while (redirect->pairs) {
		struct redirect_pair *pair = redirect->pairs;

		redirect->pairs = pair->next;
		redirect_pair_close(pair);
		free(pair);
	}
	while (redirect->events) {
		struct redirect_event *event = redirect->events;

		redirect->events = event->next;
		if (event->end == REDIRECT_DONE)
			free(event->pair);
	}
	close(redirect->mail_fd);
	close(redirect->epoll);
	pthread_mutex_destroy(&redirect->lock);
	free(redirect);
}
