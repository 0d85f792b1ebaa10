/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Waiting on one conn: what is ready, arming the sleep words, spinning, and
 * sleeping on the socket.
 */
#include "steering.h"
#include "trace.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <time.h>

/*
 * Spins between two looks at the clock; at the socket, in the direct lane; and
 * at what a send waits for: each of these pulls a cache line that the peer is
 * busy writing.
 */
#define SPINS_PER_CLOCK 64
#define SPINS_PER_LOOK 4096
#define SPINS_PER_SEND 16

/*
 * Sleep between two looks whether the peer has read what is queued, when the
 * pool may only then grow: no event tells of it. It matters only to a peer that
 * holds much and releases nothing.
 */
#define UNREAD_LOOK_NS 5000000

uint32_t conn_ready(struct sluice_conn *conn, uint32_t what, bool look)
{
	struct conn_core *core = core_of(conn);
	uint32_t ready = 0;
	bool until_data = !(what & SLUICE_SEND) && !core->rx_ring;
	bool plain = false;
	int r;

	steer_pending(core);
	if (look) {
		/* No further than needed: the peer goes by what is unread. */
		r = until_data ? control_next_data(conn) : control_drain(conn);
		plain = r == 1 ||
			(core->phase == PHASE_PLAIN && plain_ready(conn));
	}
	/* A switch may be all that was read: then look on. */
	if (look && until_data && !recv_ready(conn) && core->rx_ring)
		control_drain(conn);
	if (plain || recv_ready(conn))
		ready |= SLUICE_RECV;
	if (what & SLUICE_SEND && send_ready(conn))
		ready |= SLUICE_SEND;
	/* Before the HELLO_ACK, or in a full inbox: it must be received first. */
	if (what & SLUICE_SEND &&
	    (core->phase == PHASE_AWARE ? !inbox_has_room(core) :
					  plain && core->phase == PHASE_SERVER))
		return ready | SLUICE_RECV;
	return ready & what;
}

static bool waits_for_buffer(const struct conn_core *core, uint32_t what)
{
	return what & SLUICE_SEND && core->need == NEED_BUFFER;
}

/*
 * Any peer that releases a buffer of the pool is to ring. Called when the first
 * waiter comes and the last one goes.
 */
static void pool_words(struct pool *pool, bool asleep)
{
	struct conn_core *other;
	struct list *l, *tmp;
	int closed;

	for (closed = 0; closed < 2; closed++) {
		list_for_each_safe(l, tmp,
				   closed ? &pool->closing : &pool->conns) {
			other = list_entry(l, struct conn_core, pool_link);
			if (other->phase != PHASE_AWARE || !other->both_link)
				continue;
			if (!asleep) {
				if (!other->armed)
					word_wake(&other->tx_word);
				continue;
			}
			other->tx_word.since = conn_of(other)->tx_position;
			words_sleep(NULL, &other->tx_word,
				    other->peer_registered);
		}
	}
}

/* Which words go to sleep for `what`. */
static void sleep_words(struct sluice_conn *conn, uint32_t what)
{
	struct conn_core *core = core_of(conn);
	bool tx = what & SLUICE_SEND && core->need != NEED_NOTHING;

	if (core->phase == PHASE_AWARE && core->both_link) {
		core->rx_word.since = conn->rx_position;
		core->tx_word.since = conn->tx_position;
		words_sleep(&core->rx_word, tx ? &core->tx_word : NULL,
			    core->peer_registered);
	}
	core->armed = true;
	steer_arm(core);
	if (!waits_for_buffer(core, what))
		return;
	/* Not in a set: who told of an earlier sleep may not have told us. */
	if (list_empty(&core->pool->waiters) || !core->set)
		pool_words(core->pool, true);
	list_append(&core->pool->waiters, &core->waiter_link);
}

void conn_disarm(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	bool waited = !list_empty(&core->waiter_link), waiters;

	if (!core->armed)
		return;
	TRACE(wake, core, TRACE_SELF(core));
	trace_follow(conn); /* before the inlines take what it was woken for */
	core->armed = false;
	steer_disarm(core);
	if (core->set)
		set_make_hot(core);
	list_remove(&core->waiter_link);
	waiters = !list_empty(&core->pool->waiters);
	if (core->link) {
		word_wake(&core->rx_word);
		if (!waiters) /* which rely on it */
			word_wake(&core->tx_word);
	}
	if (waited && !waiters)
		pool_words(core->pool, false);
}

bool conn_is_due(const struct conn_core *core)
{
	unsigned int i;

	if (core->doorbell_due || core->hello_due || core->bye_due ||
	    core->pending_count || core->stage_count || core->flight)
		return true;
	for (i = 0; i < ARRAY_SIZE(core->ack_due); i++)
		if (core->ack_due[i] | core->del_due[i])
			return true;
	return false;
}

void conn_push(struct sluice_conn *conn)
{
	if (conn_is_due(core_of(conn)))
		control_push(conn, true);
}

/* look: at the socket too. A poll that comes next does without. */
static int arm(struct sluice_conn *conn, uint32_t what, bool look,
	       short *events)
{
	struct conn_core *core = core_of(conn);
	uint32_t ready;

	if (conn->rx_reported != conn->rx_position && core->both_link)
		sluice_report_head(conn);
	ready = conn_ready(conn, what, look);
	conn_push(conn);
	send_tell(conn);
	while (!ready && !core->armed) {
		sleep_words(conn, what);
		/*
		 * Step 4: look again. What comes by socket wakes the poll. It
		 * disarms if it finds a buffer that is too small: once more.
		 */
		ready = conn_ready(conn, what, false);
	}
	if (ready) {
		conn_disarm(conn);
		return (int)ready;
	}
	TRACE(sleep, core, TRACE_SELF(core), what);
	core->sleeps++;
	*events = 0;
	/* What cannot be read now must not make the poll return. */
	if ((what & SLUICE_RECV || core->phase != PHASE_PLAIN) &&
	    !core->hello_due)
		*events |= POLLIN;
	if (conn_is_due(core) ||
	    (what & SLUICE_SEND && core->need == NEED_SOCKET))
		*events |= POLLOUT;
	return 0;
}

/* Waits for the peer to read, in a lane where it does not tell. */
static bool waits_unheard(const struct conn_core *core, uint32_t what)
{
	return waits_for_buffer(core, what) && core->window_full &&
	       core->tx_lane == SLUICE_LANE_QUEUED;
}

int sluice_arm(struct sluice_conn *conn, uint32_t what, short *events)
{
	struct conn_core *core = core_of(conn);
	int r = conn_check(core);

	if (r)
		return r;
	if (!what || what & ~(SLUICE_RECV | SLUICE_SEND))
		return -EINVAL;
	trace_follow(conn);
	conn_disarm(conn);
	if (core->steer.ring && !core->set) {
		r = steer_fd(core);
		if (r < 0)
			return r;
		daemon_service(core->steer.ring->endpoint);
	}
	core->window_waived = waits_unheard(core, what);
	r = arm(conn, what, true, events);
	core->window_waived = false;
	if (!r && core->steer.ring && !core->set)
		*events = steer_listen(core, *events);
	return r;
}

/*
 * Sleeps on the fds of all conns of a pool that may make room in it: by release,
 * by death, or as they acknowledge a retired segment.
 */
static int sleep_on_pool(struct conn_core *core, uint32_t what, short events,
			 int timeout_ms)
{
	struct pool *pool = core->pool;
	struct list *lists[] = { &pool->conns, &pool->closing }, *l, *tmp;
	struct conn_core *other;
	struct pollfd *fds;
	nfds_t n = 1 + STEER_POLL_FDS;
	size_t i;
	int r;

	for (i = 0; i < ARRAY_SIZE(lists); i++)
		list_for_each_safe(l, tmp, lists[i])
			n++;
	fds = calloc(n, sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	fds[0].fd = core->fd;
	fds[0].events = events;
	n = 1 + steer_poll_fds(core, what, fds + 1);
	for (i = 0; i < ARRAY_SIZE(lists); i++) {
		list_for_each_safe(l, tmp, lists[i]) {
			other = list_entry(l, struct conn_core, pool_link);
			if (other == core || other->eof ||
			    other->phase != PHASE_AWARE ||
			    !inbox_has_room(other))
				continue;
			fds[n].fd = other->fd;
			fds[n++].events = POLLIN;
		}
	}
	r = poll(fds, n, timeout_ms) < 0 ? -errno : 0;
	if (core->steer.ring)
		steer_polled(core, fds + 1);
	free(fds);
	list_for_each_safe(l, tmp, &pool->conns) {
		other = list_entry(l, struct conn_core, pool_link);
		if (other->phase == PHASE_AWARE)
			control_drain(conn_of(other));
	}
	pool_reap(pool);
	return r;
}

/*
 * Sleeps until the socket has something, or the deadline. 1: and that has been
 * read; 0: it has not; or -errno.
 */
static int sleep_once(struct sluice_conn *conn, uint32_t what, short events,
		      int64_t deadline)
{
	struct conn_core *core = core_of(conn);
	struct pollfd fds[1 + STEER_POLL_FDS] = { { .fd = core->fd,
						    .events = events } };
	struct timespec t, *timeout = NULL;
	struct frame frame;
	int64_t left = 0, look;
	nfds_t n = 1;
	int r;

	if (waits_unheard(core, what)) {
		look = deadline_after(UNREAD_LOOK_NS);
		if (look < deadline)
			deadline = look;
	}
	if (deadline != INT64_MAX) {
		left = deadline - now_ns();
		if (left < 0)
			left = 0;
		t.tv_sec = left / 1000000000;
		t.tv_nsec = left % 1000000000;
		timeout = &t;
	}
	if (waits_for_buffer(core, what) && core->pool->shared)
		return sleep_on_pool(core, what, events,
				     !timeout ?
					     -1 :
				     left > INT_MAX * 1000000ll ?
					     INT_MAX :
					     (int)((left + 999999) / 1000000));
	if (timeout || events != POLLIN || !core->blocking ||
	    core->phase != PHASE_AWARE || core->steer.ring) {
		n += steer_poll_fds(core, what, fds + 1);
		r = ppoll(fds, n, timeout, NULL) < 0 ? -errno : 0;
		if (core->steer.ring) {
			core->steer.told = fds[0].revents;
			steer_polled(core, fds + 1);
		}
		return r;
	}
	/* The frame that wakes is read by the call that waits for it. */
	r = frame_recv(conn, &frame, 0);
	if (r == -EAGAIN) { /* O_NONBLOCK was set behind our back */
		core->blocking = false;
		return 0;
	}
	if (r == -EPROTO) {
		conn_fail(conn, r, "frame has a wrong length");
		return 1;
	}
	if (r == 0)
		conn_peer_gone(conn);
	if (r == 1) {
		control_frame(conn, &frame);
		frame_close(&frame);
	}
	return r < 0 ? r : 1;
}

/* 0: the budget is spent; else what is ready, or -ETIMEDOUT. */
static int spin(struct sluice_conn *conn, uint32_t what, int64_t deadline)
{
	struct conn_core *core = core_of(conn);
	uint64_t budget = core->options.spin_ns;
	bool clock = budget != SLUICE_SPIN_FOREVER || deadline != INT64_MAX;
	int64_t start = 0, now;
	uint32_t i, ready;
	bool look;

	for (i = 1;; i++) {
		if (what & SLUICE_RECV && core->rx_ring && slot_ready(conn) &&
		    recv_ready(conn))
			return SLUICE_RECV;
		if (steer_on(core) && what & SLUICE_RECV) {
			if (steer_pending(core))
				return SLUICE_RECV;
			look = i % SPINS_PER_SEND == 0 && steer_due(core);
		} else {
			/* Without a ring only the socket knows. */
			look = i % (core->rx_ring      ? SPINS_PER_LOOK :
				    what & SLUICE_RECV ? 1 :
							 SPINS_PER_CLOCK) ==
			       0;
		}
		if (look || (what & SLUICE_SEND && i % SPINS_PER_SEND == 0)) {
			ready = conn_ready(conn, what, look);
			if (ready)
				return (int)ready;
			if (look)
				conn_push(conn);
		}
		sluice__relax();
		/* A look at a flooded socket can take long. */
		if (!clock || (!look && i % SPINS_PER_CLOCK))
			continue;
		now = now_ns();
		if (!start)
			start = now;
		if (now >= deadline)
			return -ETIMEDOUT;
		if ((uint64_t)(now - start) >= budget)
			return 0;
	}
}

int sluice_wait(struct sluice_conn *conn, uint32_t what, int64_t timeout_ns)
{
	struct conn_core *core = core_of(conn);
	int64_t deadline;
	uint32_t ready;
	short events;
	int r;

	if (conn->rx_ring && what == SLUICE_RECV && sluice__ready(conn) &&
	    recv_ready(conn))
		return SLUICE_RECV;
	r = conn_check(core);
	if (r)
		return r;
	if (!what || what & ~(SLUICE_RECV | SLUICE_SEND))
		return -EINVAL;
	if (core->uring)
		return -EBUSY; /* what comes is the ring's to say */
	trace_follow(conn);
	conn_disarm(conn);
	conn_push(conn);
	ready = conn_ready(conn, what, timeout_ns == 0);
	if (ready)
		return (int)ready;
	if (conn->rx_reported != conn->rx_position && core->both_link)
		sluice_report_head(conn);
	send_tell(conn);
	if (timeout_ns == 0)
		return -ETIMEDOUT;
	deadline = deadline_after(timeout_ns);
	if (core->options.spin_ns) {
		r = spin(conn, what, deadline);
		if (r)
			return r;
	}
	for (;;) {
		r = arm(conn, what, false, &events);
		if (r)
			return r;
		r = sleep_once(conn, what, events, deadline);
		conn_disarm(conn);
		if (r < 0)
			return r;
		ready = conn_ready(conn, what, r == 0);
		if (ready)
			return (int)ready;
		if (deadline != INT64_MAX && now_ns() >= deadline)
			return -ETIMEDOUT;
	}
}
