/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The wait set. Each conn is in one of two lists:
 *   hot   looked at in every round, by its ring and inbox, without a system call
 *   idle  armed, its fd in the epoll, not looked at until that fires
 * A hot conn with nothing to report is armed and becomes idle; an idle one whose
 * fd fires, or that the application uses, is disarmed and becomes hot. What is reported stays hot, so it is
 * looked at again in the next round whether or not it was drained.
 */
#include "internal.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Rounds in which hot conns are served before the epoll is asked again. */
#define ROUNDS_PER_POLL 16
#define EVENTS_PER_POLL 64

struct sluice_set {
	int epoll_fd;
	uint64_t generation;
	struct list hot;
	struct list idle;
	uint32_t rounds; /* since the epoll was asked */
};

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
	*out = set;
	return 0;
}

void set_forget(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	if (!core->set)
		return;
	list_remove(&core->set_link);
	/* A dup of the fd elsewhere would keep it in the epoll: be explicit. */
	epoll_ctl(core->set->epoll_fd, EPOLL_CTL_DEL, core->fd, NULL);
	core->set = NULL;
	if (core->armed)
		conn_disarm(conn);
}

void sluice_set_free(struct sluice_set *set)
{
	struct list *l, *tmp;

	if (!set)
		return;
	if (set->generation == process_generation()) {
		list_for_each_safe(l, tmp, &set->hot)
			set_forget(conn_of(
				list_entry(l, struct conn_core, set_link)));
		list_for_each_safe(l, tmp, &set->idle)
			set_forget(conn_of(
				list_entry(l, struct conn_core, set_link)));
	}
	close(set->epoll_fd);
	free(set);
}

void set_make_hot(struct conn_core *core)
{
	list_remove(&core->set_link);
	list_append(&core->set->hot, &core->set_link);
}

int sluice_set_add(struct sluice_set *set, struct sluice_conn *conn,
		   uint32_t what, void *data)
{
	struct conn_core *core = core_of(conn);
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = core };
	int r = conn_check(core);

	if (r)
		return r;
	if (!what || what & ~(SLUICE_RECV | SLUICE_SEND))
		return -EINVAL;
	if (core->set)
		return -EEXIST;
	if (epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, core->fd, &event))
		return -errno;
	core->set = set;
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

	if (core->set != set)
		return -ENOENT;
	if (!what || what & ~(SLUICE_RECV | SLUICE_SEND))
		return -EINVAL;
	core->set_want = what;
	set_make_hot(core);
	return 0;
}

int sluice_set_remove(struct sluice_set *set, struct sluice_conn *conn)
{
	if (core_of(conn)->set != set)
		return -ENOENT;
	set_forget(conn);
	return 0;
}

static int listen_for(struct conn_core *core, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = core };

	if (core->set_events == events)
		return 0;
	if (epoll_ctl(core->set->epoll_fd, EPOLL_CTL_MOD, core->fd, &event))
		return -errno;
	core->set_events = events;
	return 0;
}

/* Reports the hot conns that have something, without a system call. */
static unsigned int serve_hot(struct sluice_set *set,
			      struct sluice_event *events, unsigned int count)
{
	struct list *l, *tmp, served;
	struct conn_core *core;
	unsigned int n = 0;
	uint32_t ready;

	list_init(&served);
	list_for_each_safe(l, tmp, &set->hot) {
		if (n == count)
			break;
		core = list_entry(l, struct conn_core, set_link);
		/* Only its socket knows what a plain conn has. */
		ready = conn_ready(conn_of(core), core->set_want,
				   core->phase != PHASE_AWARE);
		if (!ready)
			continue;
		events[n++] = (struct sluice_event){ .conn = conn_of(core),
						     .data = core->set_data,
						     .ready = ready };
		/* To the end of the queue: the others have their turn first. */
		list_remove(l);
		list_append(&served, l);
	}
	while (!list_empty(&served)) {
		l = served.next;
		list_remove(l);
		list_append(&set->hot, l);
	}
	return n;
}

/* Arms every hot conn that has nothing to say. Returns how many stay hot. */
static int arm_hot(struct sluice_set *set)
{
	struct conn_core *core;
	struct list *l, *tmp;
	short events;
	int hot = 0, r;

	list_for_each_safe(l, tmp, &set->hot) {
		core = list_entry(l, struct conn_core, set_link);
		r = sluice_arm(conn_of(core), core->set_want, &events);
		if (!r)
			r = listen_for(core, (uint32_t)events);
		if (r < 0)
			return r;
		if (r) {
			hot++;
			continue;
		}
		list_remove(l);
		list_append(&set->idle, l);
	}
	return hot;
}

/* A buffer came back: those that wait for one of this pool look again. */
static void wake_pool(struct sluice_set *set, struct pool *pool)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &pool->conns) {
		struct conn_core *core =
			list_entry(l, struct conn_core, pool_link);

		if (core->set == set && conn_needs_pool(core, core->set_want)) {
			conn_disarm(conn_of(core));
		}
	}
}

/* Asks the epoll; conns whose fds fired are looked at and become hot. */
static int poll_idle(struct sluice_set *set, int timeout_ms)
{
	struct epoll_event fired[EVENTS_PER_POLL];
	int i, n;

	set->rounds = 0;
	n = epoll_wait(set->epoll_fd, fired, EVENTS_PER_POLL, timeout_ms);
	if (n < 0)
		return -errno;
	for (i = 0; i < n; i++) {
		struct conn_core *core = fired[i].data.ptr;
		struct sluice_conn *conn = conn_of(core);

		conn_disarm(conn);
		control_drain(conn);
		if (core->pool->shared)
			wake_pool(set, core->pool);
	}
	return n;
}

int sluice_set_wait(struct sluice_set *set, struct sluice_event *events,
		    unsigned int count, int64_t timeout_ns, uint64_t spin_ns)
{
	int64_t now = 0, deadline = INT64_MAX, spin_end = 0;
	unsigned int n;
	int64_t left;
	int r;

	if (set->generation != process_generation())
		return -ECHILD;
	if (!count)
		return -EINVAL;
	if (timeout_ns > 0 || (timeout_ns && spin_ns)) {
		now = now_ns();
		if (timeout_ns > 0)
			deadline = now + timeout_ns;
		spin_end = spin_ns >= (uint64_t)(INT64_MAX - now) ?
				   INT64_MAX : now + (int64_t)spin_ns;
	}
	for (;;) {
		if (set->rounds++ >= ROUNDS_PER_POLL) {
			r = poll_idle(set, 0);
			if (r < 0)
				return r;
		}
		n = serve_hot(set, events, count);
		if (n)
			return (int)n;
		now = spin_end || deadline != INT64_MAX ? now_ns() : 0;
		if (now < spin_end && now < deadline)
			continue;
		r = arm_hot(set);
		if (r < 0)
			return r;
		if (r)
			continue;
		left = timeout_ns ? deadline - now : 0;
		r = poll_idle(set, left <= 0		     ? 0 :
				   deadline == INT64_MAX     ? -1 :
				   left > INT_MAX * 1000000ll ?
							       INT_MAX :
							       (int)((left + 999999) /
								     1000000));
		if (r < 0)
			return r;
		if (!r && left <= 0)
			return 0;
	}
}
