/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Waiting on one conn: what is ready, arming the sleep words, spinning, and
 * sleeping on the socket.
 */
#include "internal.h"

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

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" : : : "memory");
#endif
}

uint32_t conn_ready(struct sluice_conn *conn, uint32_t what, bool look)
{
	struct conn_core *core = core_of(conn);
	uint32_t ready = 0;

	if (look)
		control_drain(conn);
	if (recv_ready(conn) ||
	    (look && core->phase != PHASE_AWARE && core->phase != PHASE_PAIR &&
	     plain_ready(conn)))
		ready |= SLUICE_RECV;
	if (what & SLUICE_SEND && send_ready(conn))
		ready |= SLUICE_SEND;
	/* A full inbox holds up releases by frame: the caller must receive. */
	if (what & SLUICE_SEND && core->phase == PHASE_AWARE &&
	    !core->both_link && !inbox_has_room(core))
		return ready & (what | SLUICE_RECV);
	return ready & what;
}

bool conn_needs_pool(const struct conn_core *core, uint32_t what)
{
	return what & SLUICE_SEND && core->need == NEED_BUFFER &&
	       core->pool->shared;
}

/* Which words go to sleep for `what`. */
static void sleep_words(struct sluice_conn *conn, uint32_t what)
{
	struct conn_core *core = core_of(conn), *other;
	bool tx = what & SLUICE_SEND && core->need != NEED_NOTHING;
	struct list *l, *tmp;

	if (core->phase == PHASE_AWARE && core->both_link) {
		core->rx_word.since = conn->rx_position;
		core->tx_word.since = conn->tx_position;
		words_sleep(&core->rx_word, tx ? &core->tx_word : NULL,
			    core->peer_registered);
	}
	core->armed = true;
	if (!conn_needs_pool(core, what))
		return;
	/* Any peer that releases a buffer of this pool is to ring. */
	core->pool_armed = true;
	list_for_each_safe(l, tmp, &core->pool->conns) {
		other = list_entry(l, struct conn_core, pool_link);
		if (other != core && other->phase == PHASE_AWARE &&
		    other->both_link)
			words_sleep(NULL, &other->tx_word,
				    other->peer_registered);
	}
}

void conn_disarm(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn), *other;
	struct list *l, *tmp;

	core->armed = false;
	if (core->set)
		set_make_hot(core);
	if (core->link) {
		word_wake(&core->rx_word);
		word_wake(&core->tx_word);
	}
	if (!core->pool_armed)
		return;
	core->pool_armed = false;
	list_for_each_safe(l, tmp, &core->pool->conns) {
		other = list_entry(l, struct conn_core, pool_link);
		if (other->link && !other->armed)
			word_wake(&other->tx_word);
	}
}

static bool anything_due(const struct conn_core *core)
{
	unsigned int i;

	if (core->doorbell_due || core->hello_due || core->bye_due ||
	    core->pending_count || core->stage_count)
		return true;
	for (i = 0; i < ARRAY_SIZE(core->ack_due); i++)
		if (core->ack_due[i] | core->del_due[i])
			return true;
	return false;
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
	if (anything_due(core))
		control_push(conn, true);
	if (!ready) {
		sleep_words(conn, what);
		/* Step 4: look again. What comes by socket wakes the poll. */
		ready = conn_ready(conn, what, false);
	}
	if (ready) {
		if (core->armed)
			conn_disarm(conn);
		return (int)ready;
	}
	core->sleeps++;
	*events = POLLIN;
	if (anything_due(core) ||
	    (what & SLUICE_SEND && core->need == NEED_SOCKET))
		*events |= POLLOUT;
	return 0;
}

int sluice_arm(struct sluice_conn *conn, uint32_t what, short *events)
{
	struct conn_core *core = core_of(conn);
	int r = conn_check(core);

	if (r)
		return r;
	if (!what || what & ~(SLUICE_RECV | SLUICE_SEND))
		return -EINVAL;
	if (core->armed)
		conn_disarm(conn);
	return arm(conn, what, true, events);
}

/* Sleeps on the fds of all conns of a pool: any of them may free a buffer. */
static int sleep_on_pool(struct conn_core *core, short events, int timeout_ms)
{
	struct conn_core *other;
	struct pollfd *fds;
	struct list *l, *tmp;
	nfds_t n = 0;
	int r;

	list_for_each_safe(l, tmp, &core->pool->conns)
		n++;
	fds = calloc(n, sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	n = 0;
	list_for_each_safe(l, tmp, &core->pool->conns) {
		other = list_entry(l, struct conn_core, pool_link);
		fds[n].fd = other->eof ? -1 : other->fd;
		fds[n++].events = other == core ? events : POLLIN;
	}
	r = poll(fds, n, timeout_ms) < 0 ? -errno : 0;
	free(fds);
	list_for_each_safe(l, tmp, &core->pool->conns)
		control_drain(conn_of(
			list_entry(l, struct conn_core, pool_link)));
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
	struct pollfd p = { .fd = core->fd, .events = events };
	struct timespec t, *timeout = NULL;
	struct frame frame;
	int64_t left = 0;
	int r;

	if (deadline != INT64_MAX) {
		left = deadline - now_ns();
		if (left < 0)
			left = 0;
		t.tv_sec = left / 1000000000;
		t.tv_nsec = left % 1000000000;
		timeout = &t;
	}
	if (conn_needs_pool(core, what))
		return sleep_on_pool(core, events,
				     !timeout ? -1 :
				     left > INT_MAX * 1000000ll ?
						INT_MAX :
						(int)((left + 999999) / 1000000));
	if (timeout || events != POLLIN || !core->blocking ||
	    core->phase != PHASE_AWARE)
		return ppoll(&p, 1, timeout, NULL) < 0 ? -errno : 0;
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
		if (what & SLUICE_RECV && conn->rx_ring && sluice__ready(conn))
			return SLUICE_RECV;
		/* Without a ring only the socket knows. */
		look = i % (conn->rx_ring ? SPINS_PER_LOOK :
			    what & SLUICE_RECV ? 1 : SPINS_PER_CLOCK) == 0;
		if (look ||
		    (what & SLUICE_SEND && i % SPINS_PER_SEND == 0)) {
			ready = conn_ready(conn, what, look);
			if (ready)
				return (int)ready;
		}
		cpu_relax();
		if (!clock || i % SPINS_PER_CLOCK)
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
	int64_t deadline = INT64_MAX;
	uint32_t ready;
	short events;
	int r;

	if (conn->rx_ring && what == SLUICE_RECV && sluice__ready(conn))
		return SLUICE_RECV;
	r = conn_check(core);
	if (r)
		return r;
	if (!what || what & ~(SLUICE_RECV | SLUICE_SEND))
		return -EINVAL;
	if (core->armed)
		conn_disarm(conn);
	ready = conn_ready(conn, what, timeout_ns == 0);
	if (ready)
		return (int)ready;
	if (timeout_ns == 0)
		return -ETIMEDOUT;
	if (timeout_ns > 0)
		deadline = now_ns() + timeout_ns;
	if (conn->rx_reported != conn->rx_position && core->both_link)
		sluice_report_head(conn);
	if (core->options.spin_ns) {
		if (anything_due(core))
			control_push(conn, true);
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
