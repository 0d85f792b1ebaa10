/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Rings of workers: see endpoint.h. What a worker has taken, it is done with when
 * it calls for more; only then the ring's head is told to the conns, which wait
 * for it.
 */
#include "steering.h"
#include "trace.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define SPINS_PER_CLOCK 64

static int ring_check(const struct sluice_ring *ring)
{
	if (ring->endpoint->generation != process_generation())
		return -ECHILD;
	return ring->endpoint->flags & SLUICE_ENDPOINT_F_HASH && ring->index ?
		       0 :
		       -EINVAL;
}

/* The endpoint is no more, and all that there was has been taken. */
static bool lost(const struct sluice_ring *ring)
{
	/* Pairs with the release store in destroyed(). */
	return __atomic_load_n(&ring->endpoint->ended, __ATOMIC_ACQUIRE) &&
	       ring->head == ring_tail(ring);
}

/* Is there something to receive, be it the end? */
static bool ready(struct sluice_ring *ring, bool far)
{
	return ring_waits(ring, far) || lost(ring);
}

/* Makes a message of a slot. False: it is none, and is dropped. */
static bool worker_take(struct sluice_ring *ring,
			const struct sluice_slot *slot, struct sluice_msg *msg)
{
	*msg = (struct sluice_msg){ .len = slot->len, .kind = slot->kind };
	if (slot->kind == SLUICE_SLOT_INLINE) {
		memcpy(msg->inline_data, slot->inline_data, SLUICE_INLINE_MAX);
		return slot->len <= SLUICE_INLINE_MAX;
	}
	if (slot->kind != SLUICE_SLOT_LANDING)
		return false;
	msg->id = slot->buffer.id;
	msg->view = ring_landing(ring, slot, OWNER_WORKER);
	return msg->view;
}

int sluice_ring_recv(struct sluice_ring *ring, struct sluice_msg *msg,
		     uint32_t *conn)
{
	struct sluice_slot slot;
	int r = ring_check(ring);

	if (r)
		return r;
	while (ring_next(ring, &slot)) {
		*conn = slot.conn;
		if (!worker_take(ring, &slot, msg))
			continue;
		TRACE(recv, 0ull, slot.seq - 1, 0ull, msg->len,
		      (uint32_t)SLUICE_LANE_STEERED, trace_handle(ring, msg));
		return 1;
	}
	return lost(ring) ? -ENOLINK : -EAGAIN;
}

int sluice_ring_release(struct sluice_ring *ring, const struct sluice_msg *msg)
{
	int r = ring_check(ring);

	if (r || msg->kind == SLUICE_SLOT_INLINE)
		return r;
	if (msg->kind != SLUICE_SLOT_LANDING ||
	    !ring_release_msg(ring, msg, OWNER_WORKER))
		return -EINVAL;
	TRACE(release, 0ull, trace_handle(ring, msg));
	return 0;
}

/* Waiting ----------------------------------------------------------------- */

int sluice_ring_arm(struct sluice_ring *ring)
{
	int r = ring_check(ring);

	if (r)
		return r;
	if (ring->armed) /* since the last time */
		ring_disarm(ring);
	ring_arm(ring);
	daemon_service(ring->endpoint);
	return ready(ring, true);
}

static int watch(struct sluice_ring *ring)
{
	struct epoll_event event = { .events = EPOLLIN };

	if (epoll_ctl(ring->worker_fd, EPOLL_CTL_ADD, ring->doorbell_fd,
		      &event))
		return -errno;
	return daemon_watch(ring->endpoint, &ring->watcher, ring->worker_fd,
			    NULL);
}

int sluice_ring_fd(struct sluice_ring *ring)
{
	int r = ring_check(ring);

	if (r || ring->worker_fd >= 0)
		return r ? r : ring->worker_fd;
	ring->worker_fd = epoll_create1(EPOLL_CLOEXEC);
	if (ring->worker_fd < 0)
		return -errno;
	r = watch(ring);
	if (r) {
		close(ring->worker_fd);
		ring->worker_fd = -1;
		return r;
	}
	return ring->worker_fd;
}

static int spin(struct sluice_ring *ring, int64_t deadline, uint64_t spin_ns)
{
	int64_t start = now_ns(), now;
	uint32_t i;

	for (i = 1;; i++) {
		if (ready(ring, i % SPINS_PER_CLOCK == 0))
			return 0;
		sluice__relax();
		if (i % SPINS_PER_CLOCK)
			continue;
		daemon_tick(ring->endpoint);
		now = now_ns();
		if (now >= deadline)
			return -ETIMEDOUT;
		if ((uint64_t)(now - start) >= spin_ns)
			return -EAGAIN;
	}
}

static int sleep_once(struct sluice_ring *ring, int64_t deadline)
{
	struct sluice_endpoint *endpoint = ring->endpoint;
	struct pollfd fds[] = {
		{ .fd = ring->doorbell_fd, .events = POLLIN },
		{ .fd = __atomic_load_n(&endpoint->fd, __ATOMIC_RELAXED),
		  .events = POLLIN },
		{ .fd = endpoint->timer_fd, .events = POLLIN },
	};
	struct timespec t, *timeout = NULL;
	int64_t left;
	int r;

	if (deadline != INT64_MAX) {
		left = deadline - now_ns();
		if (left <= 0)
			return -ETIMEDOUT;
		t.tv_sec = left / 1000000000;
		t.tv_nsec = left % 1000000000;
		timeout = &t;
	}
	r = ppoll(fds, ARRAY_SIZE(fds), timeout, NULL) < 0 ? -errno : 0;
	if (fds[1].revents || fds[2].revents)
		daemon_service(endpoint);
	return r;
}

int sluice_ring_wait(struct sluice_ring *ring, int64_t timeout_ns,
		     uint64_t spin_ns)
{
	int64_t deadline;
	int r = ring_check(ring);

	if (r)
		return r;
	if (ready(ring, true))
		return 0;
	if (!timeout_ns)
		return -ETIMEDOUT;
	deadline = deadline_after(timeout_ns);
	r = spin_ns ? spin(ring, deadline, spin_ns) : -EAGAIN;
	while (r == -EAGAIN) {
		ring_arm(ring);
		r = ready(ring, true) ? 0 : sleep_once(ring, deadline);
		ring_disarm(ring);
		if (!r && !ready(ring, true))
			r = -EAGAIN;
	}
	return r;
}
