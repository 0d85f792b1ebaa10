/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* URING_FOLLOW, URING_LEAVE and URINGS: who follows which ring; uring.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "request.h"

#define TIDY_AFTER_NS 1000000000

static void forget(struct urings *urings, struct followed *followed)
{
	struct followed **at = &urings->first;

	while (*at != followed)
		at = &(*at)->next;
	*at = followed->next;
	uring_stop(urings, followed);
	urings->count--;
	free(followed);
	if (!urings->tidy_at)
		urings->tidy_at = server_now() + TIDY_AFTER_NS;
}

/* Whether the fd that named it still does. */
static bool is_there(const struct urings *urings,
		     const struct followed *followed)
{
	struct uring_found found;

	return uring_read(urings, followed, NULL, NULL) &&
	       !uring_find(urings, (pid_t)followed->asked.pid,
			   followed->asked.fd, &found) &&
	       found.context == followed->context;
}

/* FOLLOW ------------------------------------------------------------------ */

static int check_body(const struct sluice_control_uring *asked)
{
	if (asked->match & ~asked->mask ||
	    asked->buffer_first > SLUICE_URING_BUFFERS_END ||
	    asked->buffer_count >
		    SLUICE_URING_BUFFERS_END - asked->buffer_first)
		return EINVAL;
	return 0;
}

/*
 * Others' rings are root's to follow; and what fds the processes of others have
 * is nobody's business.
 */
static int find_own(const struct request *request, struct followed *followed)
{
	const struct client *client = request->client;
	struct uring_found found;
	int r = uring_find(&request->server->urings, (pid_t)followed->asked.pid,
			   followed->asked.fd, &found);

	if (r)
		return -r;
	if (!client->privileged && found.task_uid != client->user->uid)
		return EPERM;
	if (!found.context)
		return EBADF;
	if (!client->privileged && found.uid != client->user->uid)
		return EPERM;
	followed->context = found.context;
	followed->uid = found.uid;
	return 0;
}

static int check_free(struct urings *urings, __u64 context)
{
	struct followed *other = urings->first;

	while (other && other->context != context)
		other = other->next;
	if (!other)
		return 0;
	if (uring_read(urings, other, NULL, NULL))
		return EALREADY;
	forget(urings, other);
	return 0;
}

static int check_quota(const struct request *request)
{
	const struct urings *urings = &request->server->urings;
	uint64_t count = 0;

	for (const struct followed *followed = urings->first; followed;
	     followed = followed->next)
		count += followed->client->user == request->client->user;
	if (count >= request->server->config.limits.urings_per_uid)
		return EDQUOT;
	return urings->count >= URING_RINGS ? ENOSPC : 0;
}

static void append(struct urings *urings, struct followed *followed)
{
	struct followed **at = &urings->first;

	while (*at)
		at = &(*at)->next;
	*at = followed;
	urings->count++;
}

int request_uring_follow(struct request *request)
{
	struct urings *urings = &request->server->urings;
	struct followed new = {
		.asked = request->frame.uring,
		.client = request->client,
	}, *followed;
	int r = check_body(&new.asked);

	if (!r && urings->error)
		r = EOPNOTSUPP;
	if (!new.asked.pid)
		new.asked.pid = (__u32)request->client->pid;
	if (!r)
		r = find_own(request, &new);
	if (!r)
		r = check_free(urings, new.context);
	if (!r)
		r = check_quota(request);
	if (r)
		return r;
	followed = malloc(sizeof(*followed));
	if (!followed)
		return ENOMEM;
	new.number = urings->last + 1;
	new.since = boottime_ns();
	r = uring_start(urings, &new);
	if (r) {
		free(followed);
		log_error("cannot follow an io_uring: %s", strerror(-r));
		return -r;
	}
	*followed = new;
	urings->last = new.number;
	append(urings, followed);
	request->frame.endpoint = new.number;
	return 0;
}

/* LEAVE, and other ends ---------------------------------------------------- */

int request_uring_leave(struct request *request)
{
	struct urings *urings = &request->server->urings;
	struct followed *followed = urings->first;

	while (followed && followed->number != request->frame.endpoint)
		followed = followed->next;
	if (!followed)
		return ENOENT;
	if (followed->client != request->client)
		return EPERM;
	forget(urings, followed);
	return 0;
}

void urings_client_gone(struct server *server, const struct client *client)
{
	struct followed *followed = server->urings.first, *next;

	for (; followed; followed = next) {
		next = followed->next;
		if (followed->client == client)
			forget(&server->urings, followed);
	}
}

void urings_sweep(struct server *server)
{
	struct followed *followed = server->urings.first, *next;

	for (; followed; followed = next) {
		next = followed->next;
		if (!is_there(&server->urings, followed))
			forget(&server->urings, followed);
	}
}

/* URINGS ------------------------------------------------------------------ */

static bool fill_record(const struct urings *urings,
			const struct followed *followed,
			struct sluice_control_uring_record *record)
{
	struct uring_ring ring;

	if (!is_there(urings, followed) ||
	    !uring_read(urings, followed, &ring, &record->counts))
		return false;
	record->ring = followed->number;
	record->since = followed->since;
	record->match = followed->asked.match;
	record->mask = followed->asked.mask;
	record->buffer_first = followed->asked.buffer_first;
	record->buffer_count = followed->asked.buffer_count;
	record->pid = followed->asked.pid;
	record->fd = followed->asked.fd;
	record->uid = followed->uid;
	record->tracked = ring.tracked;
	record->pool_now = ring.pool_now;
	record->pool_peak = ring.pool_peak;
	return true;
}

int request_urings(struct request *request)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	struct urings *urings = &request->server->urings;
	struct sluice_control *frame = &request->frame;
	bool all = frame->flags & SLUICE_CONTROL_F_ALL;
	struct followed *followed = urings->first, *next;
	__u32 count = 0;

	if (urings->error)
		return EOPNOTSUPP;
	for (; followed && count < SLUICE_URINGS_MAX; followed = next) {
		next = followed->next;
		if (followed->number <= frame->endpoint ||
		    (!all && followed->client->user != request->client->user))
			continue;
		if (fill_record(urings, followed, &records[count]))
			count++;
		else
			forget(urings, followed);
	}
	frame->list.count = count;
	frame->list.record_size = sizeof(records[0]);
	frame->flags = SLUICE_CONTROL_F_REPLY;
	client_reply(request->server, request->client, frame, records,
		     count * sizeof(records[0]), NULL, 0);
	return LATER;
}
