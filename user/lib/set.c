/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The wait set. Each conn is in one of two lists:
 *   hot   looked at in every round, by its ring and inbox, without a system call
 *   idle  armed, its fd in the epoll, not looked at until that fires
 * A hot conn with nothing to report is armed and becomes idle; an idle one whose
 * fd fires, or that the application uses, is disarmed and becomes hot. What is
 * reported stays hot, so it is looked at again in the next round whether or not
 * it was drained.
 *
 * Steered conns share a ring, which is read in each round; what it brings makes
 * them hot. So one that has nothing is idle without being armed, and only the ring
 * is, before the set sleeps. While all conns are steered, the epoll is asked less
 * often: its news is the end of a stream, and spills, of which the ring tells too
 * (shortly before they are there).
 *
 * Spills cost a system call each, and more of them come until the socket has been
 * found empty: so the queues of steered conns are emptied one after the other.
 */
#include "uring.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Rounds in which hot conns are served before the epoll is asked again. */
#define ROUNDS_PER_POLL 16
#define EVENTS_PER_POLL 64
/* With steered conns only: time between, and rounds between looks at the clock. */
#define STEERED_POLL_NS 5000000
#define ROUNDS_PER_CLOCK 64
#define ROUNDS_AFTER_SPILL 64
/* Rounds in which one conn's queue is emptied, before it is another's turn. */
#define ROUNDS_PER_FOCUS 64

static void move_all(struct list *to, struct list *from)
{
	while (!list_empty(from)) {
		struct list *l = from->next;

		list_remove(l);
		list_append(to, l);
	}
}

int sluice_set_new(struct sluice_set **out)
{
	struct sluice_set *set = calloc(1, sizeof(*set));

	if (!set)
		return -ENOMEM;
	set->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (set->epoll_fd < 0) {
		free(set);
		return -errno;
	}
	set->generation = process_generation();
	list_init(&set->hot);
	list_init(&set->idle);
	list_init(&set->closing);
	list_init(&set->rings);
	*out = set;
	return 0;
}

/* The epoll is shared over fork(), its conns are not. */
int set_check(const struct sluice_set *set)
{
	return set->generation == process_generation() ? 0 : -ECHILD;
}

/* Does the ring tell all of it, so that it may be idle without being armed? */
static bool rests(const struct conn_core *core)
{
	return steer_on(core) && core->set_want == SLUICE_RECV &&
	       !conn_is_due(core);
}

static void count_other(struct conn_core *core, bool other)
{
	if (core->set_other == other)
		return;
	core->set_other = other;
	core->set->others += other ? 1 : (uint32_t)-1;
}

static void unfocus(struct conn_core *core)
{
	if (core->set->focus == core)
		core->set->focus = NULL;
}

/* Conns ------------------------------------------------------------------- */

/* A dup of the fd elsewhere would keep it in the epoll: be explicit. */
static void leave(struct sluice_set *set, struct conn_core *core)
{
	if (core->uring)
		uring_leave(core);
	else
		epoll_ctl(set->epoll_fd, EPOLL_CTL_DEL, core->fd, NULL);
}

void set_forget(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	if (!core->set)
		return;
	if (core->steer.ring)
		set_ring_leave(core->set, core->steer.ring);
	count_other(core, false);
	unfocus(core);
	list_remove(&core->set_link);
	leave(core->set, core);
	set_unwatch_stream(core);
	core->set = NULL;
	conn_disarm(conn);
}

void set_watch_stream(struct conn_core *core)
{
	stream_watch(core, core->set->epoll_fd, core);
}

void set_unwatch_stream(struct conn_core *core)
{
	stream_unwatch(core, core->set->epoll_fd);
}

static int listen_for(struct conn_core *core, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = core };

	if (core->uring) {
		uring_want(core, events);
		return 0;
	}
	if (core->set_events == events)
		return 0;
	if (epoll_ctl(core->set->epoll_fd, EPOLL_CTL_MOD, core->fd, &event))
		return -errno;
	core->set_events = events;
	return 0;
}

void set_keep_closing(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	conn_disarm(conn);
	if (!core->set)
		return;
	core->set_idle = false;
	if (core->steer.ring)
		set_ring_leave(core->set, core->steer.ring);
	count_other(core, true);
	unfocus(core);
	list_remove(&core->set_link);
	list_append(&core->set->closing, &core->set_link);
	listen_for(core, EPOLLIN);
}

/* A conn goes on without the set, if it can. */
static void let_go(struct conn_core *core)
{
	struct sluice_conn *conn = conn_of(core);

	if (core->draining)
		conn_destroy(conn);
	else if (core->uring && !uring_spares(core))
		conn_fail(conn, -ECANCELED, "its set was freed");
	if (core->set)
		set_forget(conn);
}

void sluice_set_free(struct sluice_set *set)
{
	if (!set)
		return;
	if (!set_check(set)) {
		move_all(&set->hot, &set->idle);
		move_all(&set->hot, &set->closing);
		while (!list_empty(&set->hot))
			let_go(list_entry(set->hot.next, struct conn_core,
					  set_link));
	}
	if (set->uring)
		uring_free(set->uring);
	close(set->epoll_fd);
	free(set);
}

void set_make_hot(struct conn_core *core)
{
	core->set_active = true;
	if (!core->set_idle)
		return; /* it keeps its turn */
	core->set_idle = false;
	list_remove(&core->set_link);
	list_append(&core->set->hot, &core->set_link);
}

static void make_idle(struct conn_core *core)
{
	core->set_idle = true;
	list_remove(&core->set_link);
	list_append(&core->set->idle, &core->set_link);
}

/* Idle without being armed. */
static void rest(struct conn_core *core)
{
	if (core->uring)
		uring_want(core, EPOLLIN);
	make_idle(core);
}

int sluice_set_add(struct sluice_set *set, struct sluice_conn *conn,
		   uint32_t what, void *data)
{
	struct conn_core *core = core_of(conn);
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = core };
	int r;

	if (conn_check(core) || set_check(set))
		return -ECHILD;
	if (!what || what & ~(SLUICE_RECV | SLUICE_SEND))
		return -EINVAL;
	if (core->set)
		return -EEXIST;
	if (core->steer.ring) {
		r = set_ring_enter(set, core->steer.ring);
		if (r)
			return r;
	}
	if (set->uring)
		r = uring_enter(set->uring, core);
	else
		r = epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, core->fd, &event) ?
			    -errno :
			    0;
	if (!r) {
		r = stream_watch(core, set->epoll_fd, core);
		if (r)
			leave(set, core);
	}
	if (r) {
		if (core->steer.ring)
			set_ring_leave(set, core->steer.ring);
		return r;
	}
	core->set = set;
	count_other(core, true);
	core->set_idle = false;
	core->set_data = data;
	core->set_want = what;
	core->set_events = EPOLLIN;
	list_append(&set->hot, &core->set_link);
	return 0;
}

int sluice_set_change(struct sluice_set *set, struct sluice_conn *conn,
		      uint32_t what)
{
	struct conn_core *core = core_of(conn);

	if (conn_check(core) || set_check(set))
		return -ECHILD;
	if (core->set != set)
		return -ENOENT;
	if (!what || what & ~(SLUICE_RECV | SLUICE_SEND))
		return -EINVAL;
	core->set_want = what;
	conn_disarm(conn);
	set_make_hot(core);
	return 0;
}

int sluice_set_remove(struct sluice_set *set, struct sluice_conn *conn)
{
	if (conn_check(core_of(conn)) || set_check(set))
		return -ECHILD;
	if (core_of(conn)->set != set)
		return -ENOENT;
	if (set->uring && !uring_ends(core_of(conn)))
		return -EAGAIN;
	set_forget(conn);
	return 0;
}

/*
 * Has the conn messages in its queue, which is not to be emptied now? Steered ones
 * are never held up.
 */
static bool out_of_turn(struct sluice_set *set, struct conn_core *core)
{
	if (!steer_holds(core)) {
		unfocus(core);
		return false;
	}
	if (!set->focus) {
		set->focus = core;
		set->focus_rounds = 0;
	}
	if (set->focus != core)
		return !core->inbox_count;
	if (++set->focus_rounds > ROUNDS_PER_FOCUS)
		set->focus = NULL; /* the next one in the list */
	return false;
}

/*
 * Reports the hot conns that have something; only of plain ones the socket has
 * to be asked. What is reported goes to the end: the others have their turn.
 */
unsigned int set_serve(struct sluice_set *set, struct sluice_event *events,
		       unsigned int count)
{
	struct list work, served, *l;
	struct conn_core *core;
	unsigned int n = 0;
	uint32_t ready;

	list_init(&work);
	list_init(&served);
	move_all(&work, &set->hot);
	while (!list_empty(&work) && n < count) {
		l = work.next;
		list_remove(l);
		list_append(&set->hot, l);
		core = list_entry(l, struct conn_core, set_link);
		if (steer_on(core) && out_of_turn(set, core))
			continue;
		ready = conn_ready(conn_of(core), core->set_want,
				   steer_on(core) ? steer_due(core) :
						    core->phase != PHASE_AWARE);
		count_other(core, !rests(core));
		if (!ready) {
			unfocus(core);
			if (!core->set_other)
				rest(core);
			continue;
		}
		core->set_active = true;
		list_remove(l);
		list_append(&served, l);
		events[n++] = (struct sluice_event){ .conn = conn_of(core),
						     .data = core->set_data,
						     .ready = ready };
	}
	/* Those not reached come first next time. */
	move_all(&work, &set->hot);
	move_all(&set->hot, &work);
	move_all(&set->hot, &served);
	return n;
}

/*
 * Arms hot conns that have nothing to say: all, or those that had nothing since
 * the last turn. Arming one may make others hot.
 */
static int arm_hot(struct sluice_set *set, bool all)
{
	struct conn_core *core;
	struct list work, *l;
	short events;
	int r = 0;

	list_init(&work);
	move_all(&work, &set->hot);
	while (!list_empty(&work)) {
		l = work.next;
		list_remove(l);
		list_append(&set->hot, l);
		core = list_entry(l, struct conn_core, set_link);
		if (rests(core))
			continue;
		if (core->set_active && !all) {
			core->set_active = false;
			continue;
		}
		r = sluice_arm(conn_of(core), core->set_want, &events);
		if (!r)
			r = listen_for(core, (uint32_t)events);
		if (r < 0)
			break;
		if (r)
			continue;
		count_other(core, true);
		make_idle(core);
	}
	move_all(&set->hot, &work);
	return r < 0 ? r : 0;
}

int set_arm(struct sluice_set *set)
{
	return arm_hot(set, true);
}

static void push_hot(struct sluice_set *set)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->hot)
		conn_push(conn_of(list_entry(l, struct conn_core, set_link)));
}

static void serve_closing(struct conn_core *core)
{
	/* Buffers that are back wake those that wait for them. */
	conn_harvest(conn_of(core));
	if (!conn_out(core) || core->eof)
		conn_destroy(conn_of(core));
}

void set_fired(struct conn_core *core)
{
	if (core->closing) {
		serve_closing(core);
		return;
	}
	core->steer.told = true;
	conn_disarm(conn_of(core));
	set_make_hot(core);
	control_drain(conn_of(core));
}

int set_poll(struct sluice_set *set, int timeout_ms)
{
	struct epoll_event fired[EVENTS_PER_POLL];
	int i, n;

	set->rounds = 0;
	set->asked = coarse_ns();
	n = epoll_wait(set->epoll_fd, fired, EVENTS_PER_POLL, timeout_ms);
	set_rings_disarm(set);
	if (n < 0)
		return -errno;
	for (i = 0; i < n; i++) {
		struct conn_core *core = fired[i].data.ptr;

		if ((uintptr_t)core & RING_TAG)
			set_ring_serve((void *)((char *)core - RING_TAG));
		else
			set_fired(core);
	}
	return n;
}

/* Do the rings tell of everything but the end of a stream, and did they not? */
static bool rings_suffice(struct sluice_set *set)
{
	if (set->others || list_empty(&set->rings))
		return false;
	if (set_rings_spilled(set))
		set->spill_rounds = ROUNDS_AFTER_SPILL;
	if (!set->spill_rounds)
		return true;
	set->spill_rounds--;
	return false;
}

/* Is the epoll to be asked, though there may be something to do without? */
static bool time_to_poll(struct sluice_set *set)
{
	set->rounds++;
	if (!rings_suffice(set))
		return set->rounds > ROUNDS_PER_POLL;
	return set->rounds % ROUNDS_PER_CLOCK == 0 &&
	       coarse_ns() - set->asked >= STEERED_POLL_NS;
}

static int milliseconds(int64_t left)
{
	if (left == INT64_MAX)
		return -1;
	if (left <= 0)
		return 0;
	return left / 1000000 >= INT_MAX ? INT_MAX :
					   (int)((left + 999999) / 1000000);
}

/* Sleeps, unless there turns out to be something. 0 or -errno. */
static int set_sleep(struct sluice_set *set, int64_t deadline)
{
	int64_t left = 0;
	int r;

	r = arm_hot(set, true);
	if (r < 0)
		return r;
	if (list_empty(&set->hot))
		set_rings_arm(set);
	if (list_empty(&set->hot))
		left = deadline == INT64_MAX ? INT64_MAX : deadline - now_ns();
	return set_poll(set, milliseconds(left));
}

int sluice_set_wait(struct sluice_set *set, struct sluice_event *events,
		    unsigned int count, int64_t timeout_ns, uint64_t spin_ns)
{
	int64_t deadline = deadline_after(timeout_ns), spin_end = 0;
	bool last = false;
	unsigned int n;
	int r = 0;

	if (set_check(set))
		return -ECHILD;
	if (!count || set->uring)
		return -EINVAL;
	if (spin_ns && timeout_ns)
		spin_end = deadline_after(
			spin_ns > INT64_MAX ? -1 : (int64_t)spin_ns);
	for (;;) {
		if (time_to_poll(set)) {
			r = arm_hot(set, false);
			if (!r)
				r = set_poll(set, 0);
			if (r < 0)
				return r;
		}
		set_rings_drain(set, false);
		n = set_serve(set, events, count);
		if (n || last)
			return (int)n;
		if (spin_end && now_ns() < spin_end && now_ns() < deadline)
			continue;
		if (timeout_ns) {
			r = set_sleep(set, deadline);
		} else {
			push_hot(set); /* nobody is going to sleep */
			if (rings_suffice(set))
				return 0;
			r = set_poll(set, 0);
		}
		if (r < 0)
			return r;
		/* One more look, for what the epoll has told. */
		last = deadline != INT64_MAX && now_ns() >= deadline;
	}
}
