/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pairs in the thread of redirection: their beginnings and ends, slots of flows,
 * sockets and timers. flow.h says who does the rest.
 */
#include <errno.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "maps.h"
#include "redirect-pair.h"

#define REDIRECT_ROOM (2 << 20) /* the kernel doubles it */
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

int64_t redirect_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

const struct sockmap *redirect_sockmap(struct flow *flow)
{
	return flow->pair->redirect->sockmap;
}

unsigned char *redirect_scratch(struct flow *flow)
{
	return flow->pair->redirect->scratch;
}

/* Slots ------------------------------------------------------------------- */

struct sockmap_flow *redirect_slot(struct flow *flow)
{
	return &redirect_sockmap(flow)->flows[flow->index];
}

int redirect_slot_take(struct redirect *redirect)
{
	const int *retired =
		&redirect->slots[SOCKMAP_FLOWS - redirect->slots_retired];

	if (!redirect->slots_free && redirect->slots_retired && !maps_grace()) {
		memmove(redirect->slots, retired,
			redirect->slots_retired * sizeof(*retired));
		redirect->slots_free = redirect->slots_retired;
		redirect->slots_retired = 0;
	}
	if (!redirect->slots_free)
		return -1;
	return redirect->slots[--redirect->slots_free];
}

/* The free ones are at the bottom, the retired ones at the top. */
static void retire_slot(struct redirect *redirect, int index)
{
	redirect->slots[SOCKMAP_FLOWS - ++redirect->slots_retired] = index;
}

/* Events ------------------------------------------------------------------ */

void redirect_watch(struct side *side, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = side };
	int epoll = side->pair->redirect->epoll;

	if (side->fd < 0 || side->events == events)
		return;
	/* unwatched, or it would keep saying that it is hung up */
	if (!events)
		epoll_ctl(epoll, EPOLL_CTL_DEL, side->fd, NULL);
	else if (epoll_ctl(epoll, side->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD,
			   side->fd, &event))
		side->pair->dropped = true;
	side->events = events;
}

static void tell(struct redirect_pair *pair, enum redirect_end end)
{
	struct redirect_event *event = &pair->events[end];
	struct redirect *redirect = pair->redirect;
	uint64_t one = 1;

	event->next = NULL;
	pthread_mutex_lock(&redirect->lock);
	*redirect->events_last = event;
	redirect->events_last = &event->next;
	pthread_mutex_unlock(&redirect->lock);
	if (write(redirect->event_fd, &one, sizeof(one)) < 0)
		log_error("eventfd: %m");
}

void redirect_timer(struct flow *flow, int64_t ns)
{
	struct redirect_pair *pair = flow->pair;

	flow->look_at = redirect_now() + ns;
	if (pair->timed)
		return;
	pair->timed = true;
	pair->next_timed = pair->redirect->timed;
	pair->redirect->timed = pair;
}

/* Pairs ------------------------------------------------------------------- */

/* The end of a flow in the map, and of its use of it. */
static void leave_map(struct flow *flow)
{
	struct redirect *redirect = flow->pair->redirect;

	hold_close(flow);
	if (!flow_in_map(flow))
		return;
	sockmap_forget(redirect->sockmap, flow_in(flow)->cookie);
	flow->bytes += redirect_slot(flow)->bytes;
	flow->messages += redirect_slot(flow)->messages;
	retire_slot(redirect, flow->index);
	flow->index = -1;
}

static void close_side(struct side *side)
{
	redirect_watch(side, 0);
	if (side->fd >= 0)
		close(side->fd);
	side->fd = -1;
}

void redirect_pair_close(struct redirect_pair *pair)
{
	for (int i = 0; i < 2; i++) {
		free(pair->flows[i].data);
		pair->flows[i].data = NULL;
	}
	close_side(&pair->sides[SIDE_CLIENT]);
	close_side(&pair->sides[SIDE_BACKEND]);
	for (int i = 0; i < 2; i++) {
		leave_map(&pair->flows[i]);
		pair->flows[i].state = REDIRECT_ENDED;
	}
	free(pair->first);
	pair->first = NULL;
}

static void end_pair(struct redirect_pair *pair)
{
	struct redirect *redirect = pair->redirect;

	*pair->at = pair->next;
	if (pair->next)
		pair->next->at = pair->at;
	redirect_pair_close(pair);
	/* events of this round may still name it */
	pair->next = redirect->closed;
	redirect->closed = pair;
}

/* After anything was done: what to watch for, or is it over? */
void redirect_pair_settle(struct redirect_pair *pair)
{
	struct flow *to = &pair->flows[PAIR_TO_BACKEND];
	struct flow *from = &pair->flows[PAIR_TO_CLIENT];

	if (pair->sides[SIDE_CLIENT].fd < 0)
		return;
	if (!pair->waiting) {
		redirect_watch(&pair->sides[SIDE_CLIENT],
			       flow_wants_in(to) | flow_wants_out(from));
		redirect_watch(&pair->sides[SIDE_BACKEND],
			       flow_wants_in(from) | flow_wants_out(to));
		for (int i = 0; i < 2; i++)
			redirect_watch(&pair->sides[SIDE_HOLD + i],
				       pair->flows[i].stuck ? 0 : EPOLLIN);
	}
	if (pair->dropped ||
	    (to->state == REDIRECT_ENDED && from->state == REDIRECT_ENDED))
		end_pair(pair);
}

void redirect_pair_reset_flow(struct redirect_pair *pair, enum pair_way way)
{
	pair->flows[way] = (struct flow){
		.pair = pair,
		.way = way,
		.state = REDIRECT_RELAY,
		.index = -1,
		.hold = { -1, -1 },
	};
}

/*
 * The kernel sends on while half of the send buffer is free. If it is not, it
 * looks again a tick later, whatever happens before: so the receiver needs enough
 * to read for that long.
 */
static void make_room(int fd)
{
	int room = REDIRECT_ROOM, off = 0;

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	/* better an error than fds that disappear; older kernels have no such thing */
	setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
}

/* Whatever fails here, the flows then are refused, and relayed. */
static void add_target(struct redirect_pair *pair, struct side *side)
{
	make_room(side->fd);
	side->cookie = sockmap_cookie(side->fd);
	int r = sockmap_add_target(pair->redirect->sockmap, side->fd,
				   side->cookie);

	for (int i = 0; r && i < 2; i++) {
		pair->flows[i].state = REDIRECT_REFUSED;
		pair->flows[i].error = -r;
	}
}

static void begin(struct redirect_pair *pair)
{
	/* the backend has nothing to say yet: so it is in the map from the start */
	flow_run(&pair->flows[PAIR_TO_CLIENT]);
	flow_run(&pair->flows[PAIR_TO_BACKEND]);
	redirect_pair_settle(pair);
}

void redirect_pair_add(struct redirect *redirect, struct redirect_pair *pair)
{
	pair->next = redirect->pairs;
	pair->at = &redirect->pairs;
	if (pair->next)
		pair->next->at = &pair->next;
	redirect->pairs = pair;
	add_target(pair, &pair->sides[SIDE_CLIENT]);
	add_target(pair, &pair->sides[SIDE_BACKEND]);
	begin(pair);
}

bool redirect_unbegun(struct redirect_pair *pair)
{
	struct flow *back = &pair->flows[PAIR_TO_CLIENT];

	if (flow_in_map(back) &&
	    (redirect_slot(back)->bytes || redirect_slot(back)->word))
		pair->begun = true;
	if (pair->begun || pair->waiting)
		return pair->waiting;
	pair->waiting = true;
	close_side(&pair->sides[SIDE_BACKEND]);
	leave_map(back);
	/* until there is another: what it sends waits */
	redirect_watch(&pair->sides[SIDE_CLIENT], 0);
	tell(pair, REDIRECT_UNBEGUN);
	return true;
}

void redirect_pair_resume(struct redirect_pair *pair, int backend)
{
	struct flow *to = &pair->flows[PAIR_TO_BACKEND];
	enum redirect_state state = to->state;

	pair->waiting = false;
	free(to->data);
	redirect_pair_reset_flow(pair, PAIR_TO_BACKEND);
	redirect_pair_reset_flow(pair, PAIR_TO_CLIENT);
	if (state == REDIRECT_REFUSED)
		to->state = state;
	pair->sides[SIDE_BACKEND].fd = backend;
	add_target(pair, &pair->sides[SIDE_BACKEND]);
	if (pair->first_length &&
	    !flow_send(to, pair->first, pair->first_length)) {
		redirect_pair_settle(pair);
		return;
	}
	begin(pair);
}

/* Readiness --------------------------------------------------------------- */

static int socket_error(int fd)
{
	int error = 0;
	socklen_t len = sizeof(error);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	return error;
}

/*
 * Its peer is gone, or takes no more: so says EPOLLHUP (shut both ways, which may
 * also be our doing), and EPOLLERR for what the kernel could not send on. If that
 * is not because of the peer, bytes are lost, and both sides must see an end.
 */
static void on_hangup(struct redirect_pair *pair, struct side *side)
{
	bool backend = side == &pair->sides[SIDE_BACKEND];
	int error = socket_error(side->fd);

	if (backend && error == ECONNRESET && redirect_unbegun(pair))
		return;
	if (error && error != EPIPE && error != ECONNRESET) {
		log_client("a connection ends: the kernel cannot send on to "
			   "its %s: %s",
			   backend ? "backend" : "client", strerror(error));
		pair->dropped = true;
		return;
	}
	flow_break(&pair->flows[backend ? PAIR_TO_BACKEND : PAIR_TO_CLIENT]);
}

/*
 * A peer that calls shutdown() has its other end, ours, thrown out of the maps;
 * whatever was on the way to it inside the kernel is dropped. Pairs are given to
 * us if that is not to be expected; if it happens when nothing was on the way, no
 * harm was done, and else the pair must not look as if all was well.
 */
void redirect_half_closed(struct flow *flow)
{
	struct redirect_pair *pair = flow->pair;
	struct side *side = flow_in(flow);
	struct flow *back = &pair->flows[!flow->way];
	uint32_t meminfo[SK_MEMINFO_VARS] = { 0 };
	socklen_t len = sizeof(meminfo);
	struct pollfd pollfd = { .fd = side->fd };
	bool quiet;

	/* it has closed: nothing that was for it matters */
	if (poll(&pollfd, 1, 0) < 0 || pollfd.revents & POLLHUP)
		return;
	sockmap_add_target(pair->redirect->sockmap, side->fd, side->cookie);
	if (!flow_in_map(back))
		return;
	/* dropped a grace period later, and charged to its sender until then */
	quiet = sockmap_look(pair->redirect->sockmap, flow_in(back)->cookie) &
		SOCKMAP_LOOK_F_QUIET;
	getsockopt(side->fd, SOL_SOCKET, SO_MEMINFO, meminfo, &len);
	if (!quiet || meminfo[SK_MEMINFO_DROPS] || redirect_slot(back)->lost) {
		log_client("a %s called shutdown() while data was on the way "
			   "to it, which is lost: the connection ends; its "
			   "service should have half_close = yes",
			   flow->way == PAIR_TO_CLIENT ? "backend" : "client");
		pair->dropped = true;
	}
}

void redirect_pair_event(struct side *side, uint32_t events)
{
	struct redirect_pair *pair = side->pair;
	bool backend = side == &pair->sides[SIDE_BACKEND];
	struct flow *from =
		&pair->flows[backend ? PAIR_TO_CLIENT : PAIR_TO_BACKEND];

	if (side->fd < 0 || pair->waiting)
		return;
	if (side >= &pair->sides[SIDE_HOLD]) {
		flow_run(&pair->flows[side - &pair->sides[SIDE_HOLD]]);
		redirect_pair_settle(pair);
		return;
	}
	if (events & (EPOLLHUP | EPOLLERR))
		on_hangup(pair, side);
	if (events & (EPOLLHUP | EPOLLRDHUP) && flow_in_map(from) &&
	    !from->in_ended) {
		from->in_ended = true;
		from->pause = 0;
		redirect_half_closed(from);
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP))
		flow_run(from);
	if (events & EPOLLOUT)
		flow_run(&pair->flows[!from->way]);
	redirect_pair_settle(pair);
}

static bool is_due(struct flow *flow, int64_t now)
{
	return flow->look_at && flow->look_at <= now;
}

/* Runs what is due; returns when the next one is, or 0. */
int64_t redirect_pair_timers(struct redirect *redirect)
{
	struct redirect_pair *pair, *timed = redirect->timed;
	int64_t next = 0, now = redirect_now();

	redirect->timed = NULL;
	while ((pair = timed)) {
		timed = pair->next_timed;
		pair->timed = false;
		for (int i = 0; i < 2; i++) {
			struct flow *flow = &pair->flows[i];

			if (!is_due(flow, now))
				continue;
			flow_run(flow);
			/* what was due has passed, unless it asked again */
			if (is_due(flow, now))
				flow->look_at = 0;
		}
		redirect_pair_settle(pair);
		for (int i = 0; i < 2 && pair->sides[SIDE_CLIENT].fd >= 0;
		     i++) {
			int64_t at = pair->flows[i].look_at;

			if (!at)
				continue;
			redirect_timer(&pair->flows[i], at - now);
			if (!next || at < next)
				next = at;
		}
	}
	return next;
}

void redirect_pair_bury(struct redirect *redirect)
{
	struct redirect_pair *pair, **at;

	while ((pair = redirect->closed)) {
		redirect->closed = pair->next;
		for (at = &redirect->timed; pair->timed && *at;
		     at = &(*at)->next_timed) {
			if (*at == pair) {
				*at = pair->next_timed;
				break;
			}
		}
		tell(pair, REDIRECT_DONE);
	}
}
