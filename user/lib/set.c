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
 * is, before the set sleeps. While nothing but such conns is idle, the epoll is
 * asked less often.
 */
#include "steering.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Rounds in which hot conns are served before the epoll is asked again. */
#define ROUNDS_PER_POLL 16
#define EVENTS_PER_POLL 64
/*
 * With steered conns only: their sockets have something when a message was left
 * to the queue, which the ring tells (shortly before it is there), or at the end.
 */
#define STEERED_ROUNDS_PER_POLL 1024
#define ROUNDS_AFTER_SPILL 64

/* A ring that conns of the set are on. */
struct set_ring {
	struct list link;
	struct sluice_ring *ring;
	uint32_t conns;
	uint32_t spills; /* as last seen */
	bool armed;
	bool watches;
	struct watcher watcher; /* of its endpoint */
};

struct sluice_set {
	int epoll_fd;
	uint64_t generation;
	struct list hot;
	struct list idle;
	struct list closing; /* not reported, see sluice_conn_close() */
	struct list rings; /* struct set_ring */
	uint32_t rounds; /* since the epoll was asked */
	uint32_t spill_rounds; /* in which it is asked often */
	uint32_t others; /* conns that are not steered */
};

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
static int set_check(const struct sluice_set *set)
{
	return set->generation == process_generation() ? 0 : -ECHILD;
}

/* Rings ------------------------------------------------------------------- */

/* In the epoll's data: a set_ring, not a conn. */
#define RING_TAG 1

static struct set_ring *find_ring(struct sluice_set *set,
				  const struct sluice_ring *ring)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings)
		if (list_entry(l, struct set_ring, link)->ring == ring)
			return list_entry(l, struct set_ring, link);
	return NULL;
}

/* Of the rings of one endpoint one hears of sluiced. */
static int watch_endpoint(struct sluice_set *set,
			  struct sluice_endpoint *endpoint)
{
	struct set_ring *member, *first = NULL;
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings) {
		member = list_entry(l, struct set_ring, link);
		if (member->ring->endpoint != endpoint)
			continue;
		if (member->watches)
			return 0;
		first = first ? first : member;
	}
	if (!first)
		return 0;
	first->watches = true;
	return daemon_watch(endpoint, &first->watcher, set->epoll_fd,
			    (char *)first + RING_TAG);
}

static int listen_to_ring(struct sluice_set *set, struct set_ring *member)
{
	struct epoll_event event = { .events = EPOLLIN,
				     .data.ptr = (char *)member + RING_TAG };

	return epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD,
			 member->ring->doorbell_fd, &event) ?
		       -errno :
		       watch_endpoint(set, member->ring->endpoint);
}

static void drop_ring(struct sluice_set *set, struct set_ring *member)
{
	struct sluice_endpoint *endpoint = member->ring->endpoint;

	epoll_ctl(set->epoll_fd, EPOLL_CTL_DEL, member->ring->doorbell_fd,
		  NULL);
	list_remove(&member->link);
	if (member->watches) {
		daemon_unwatch(endpoint, &member->watcher);
		watch_endpoint(set, endpoint);
	}
	free(member);
}

static int ring_enter(struct sluice_set *set, struct sluice_ring *ring)
{
	struct set_ring *member = find_ring(set, ring);
	int r;

	if (!member) {
		member = calloc(1, sizeof(*member));
		if (!member)
			return -ENOMEM;
		member->ring = ring;
		list_init(&member->watcher.link);
		list_append(&set->rings, &member->link);
		r = listen_to_ring(set, member);
		if (r) {
			drop_ring(set, member);
			return r;
		}
	}
	member->conns++;
	return 0;
}

static void ring_leave(struct sluice_set *set, struct sluice_ring *ring)
{
	struct set_ring *member = find_ring(set, ring);

	if (--member->conns)
		return;
	if (member->armed)
		ring_disarm(ring);
	drop_ring(set, member);
}

/* Reads the rings: conns that there is something for become hot. */
static void drain_rings(struct sluice_set *set, bool far)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings)
		ring_drain(list_entry(l, struct set_ring, link)->ring, NULL,
			   far);
}

/* Have messages been left to sockets' queues? */
static bool look_for_spills(struct sluice_set *set)
{
	struct set_ring *member;
	struct list *l, *tmp;
	bool found = false;
	uint32_t spills;

	list_for_each_safe(l, tmp, &set->rings) {
		member = list_entry(l, struct set_ring, link);
		spills = __atomic_load_n(&member->ring->header->spills,
					 __ATOMIC_RELAXED);
		found = found || spills != member->spills;
		member->spills = spills;
	}
	return found;
}

static void arm_rings(struct sluice_set *set)
{
	struct set_ring *member;
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings) {
		member = list_entry(l, struct set_ring, link);
		member->armed = true;
		ring_arm(member->ring);
	}
	drain_rings(set, true);
}

static void disarm_rings(struct sluice_set *set)
{
	struct set_ring *member;
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings) {
		member = list_entry(l, struct set_ring, link);
		if (member->armed)
			ring_disarm(member->ring);
		member->armed = false;
	}
}

/* May it be idle without being armed? */
static bool rests(const struct conn_core *core)
{
	return steer_on(core) && core->set_want == SLUICE_RECV &&
	       !conn_is_due(core);
}

/* Conns ------------------------------------------------------------------- */

void set_forget(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	if (!core->set)
		return;
	if (core->steer.ring)
		ring_leave(core->set, core->steer.ring);
	else
		core->set->others--;
	list_remove(&core->set_link);
	/* A dup of the fd elsewhere would keep it in the epoll: be explicit. */
	epoll_ctl(core->set->epoll_fd, EPOLL_CTL_DEL, core->fd, NULL);
	core->set = NULL;
	conn_disarm(conn);
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

void set_keep_closing(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	conn_disarm(conn);
	if (!core->set)
		return;
	if (core->steer.ring) {
		ring_leave(core->set, core->steer.ring);
		core->set->others++;
	}
	list_remove(&core->set_link);
	list_append(&core->set->closing, &core->set_link);
	listen_for(core, EPOLLIN);
}

void sluice_set_free(struct sluice_set *set)
{
	if (!set)
		return;
	if (!set_check(set)) {
		move_all(&set->hot, &set->idle);
		move_all(&set->hot, &set->closing);
		while (!list_empty(&set->hot))
			set_forget(conn_of(list_entry(
				set->hot.next, struct conn_core, set_link)));
	}
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
		r = ring_enter(set, core->steer.ring);
		if (r)
			return r;
	}
	if (epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, core->fd, &event)) {
		r = -errno;
		if (core->steer.ring)
			ring_leave(set, core->steer.ring);
		return r;
	}
	if (!core->steer.ring)
		set->others++;
	core->set = set;
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
	set_forget(conn);
	return 0;
}

/*
 * Reports the hot conns that have something; only of plain ones the socket has
 * to be asked. What is reported goes to the end: the others have their turn.
 */
static unsigned int serve_hot(struct sluice_set *set,
			      struct sluice_event *events, unsigned int count)
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
		ready = conn_ready(conn_of(core), core->set_want,
				   steer_on(core) ? steer_due(core) :
						    core->phase != PHASE_AWARE);
		if (!ready && rests(core))
			make_idle(core);
		if (!ready)
			continue;
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
		if (!r)
			make_idle(core);
	}
	move_all(&set->hot, &work);
	return r < 0 ? r : 0;
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

static void serve_ring(struct set_ring *member)
{
	ring_hush(member->ring);
	daemon_service(member->ring->endpoint);
}

/* Asks the epoll; conns whose fds fired are looked at and become hot. */
static int poll_idle(struct sluice_set *set, int timeout_ms)
{
	struct epoll_event fired[EVENTS_PER_POLL];
	int i, n;

	set->rounds = 0;
	n = epoll_wait(set->epoll_fd, fired, EVENTS_PER_POLL, timeout_ms);
	disarm_rings(set);
	if (n < 0)
		return -errno;
	for (i = 0; i < n; i++) {
		struct conn_core *core = fired[i].data.ptr;

		if ((uintptr_t)core & RING_TAG) {
			serve_ring((void *)((char *)core - RING_TAG));
		} else if (core->closing) {
			serve_closing(core);
		} else {
			core->steer.told = true;
			conn_disarm(conn_of(core));
			set_make_hot(core);
			control_drain(conn_of(core));
		}
	}
	return n;
}

/* Every so many rounds the epoll is asked, though there is something to do. */
static bool time_to_poll(struct sluice_set *set)
{
	bool steered = !set->others && !list_empty(&set->rings);

	set->rounds++;
	if (steered && look_for_spills(set))
		set->spill_rounds = ROUNDS_AFTER_SPILL;
	if (set->spill_rounds)
		set->spill_rounds--;
	return set->rounds > (steered && !set->spill_rounds ?
				      STEERED_ROUNDS_PER_POLL :
				      ROUNDS_PER_POLL);
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
		arm_rings(set);
	if (list_empty(&set->hot))
		left = deadline == INT64_MAX ? INT64_MAX : deadline - now_ns();
	return poll_idle(set, milliseconds(left));
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
	if (!count)
		return -EINVAL;
	if (spin_ns && timeout_ns)
		spin_end = deadline_after(
			spin_ns > INT64_MAX ? -1 : (int64_t)spin_ns);
	for (;;) {
		if (time_to_poll(set)) {
			r = arm_hot(set, false);
			if (!r)
				r = poll_idle(set, 0);
			if (r < 0)
				return r;
		}
		drain_rings(set, false);
		n = serve_hot(set, events, count);
		if (n || last)
			return (int)n;
		if (spin_end && now_ns() < spin_end && now_ns() < deadline)
			continue;
		if (timeout_ns) {
			r = set_sleep(set, deadline);
		} else {
			push_hot(set); /* nobody is going to sleep */
			r = poll_idle(set, 0);
		}
		if (r < 0)
			return r;
		/* One more look, for what the epoll has told. */
		last = deadline != INT64_MAX && now_ns() >= deadline;
	}
}
