/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * One conn in the steered lane: what came first, ring or socket.
 *
 * The conn's word W says what the program does with the next message: HOLD, leave
 * it to the socket's queue; GRANTED, steer it if nothing else of its sender is on
 * the way; ON, steer. The program goes GRANTED -> ON, and ON -> HOLD for every
 * message that it leaves to the queue; the receiver does the rest, here:
 *
 *   - It reads the socket in HOLD or ON only: steer_before() takes a grant back.
 *   - It reads the ring after each message from the socket, and delivers what
 *     was there first: steer_after(). What was steered before the message was
 *     sent is published by then.
 *   - It grants only when it has found the socket empty: steer_after().
 *
 * In ON and GRANTED there is nothing on the socket, or the ring's count of spills
 * has moved, or it is the end of the stream, which can wait: steer_due() says when
 * to look. selftests/steer.pml is the model.
 */
#include "steering.h"
#include "trace.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Between two looks at the socket without a reason; a guess. */
#define LOOK_NS 5000000
#define IDLES_PER_CLOCK 256
/* A message may be left to the queue and not be there yet: look soon. */
#define FIRST_LOOK 16

/* Its own endpoint is for one conn only. */
static const struct sluice_endpoint_options own_default = {
	.size = sizeof(own_default),
	.ring_slots = 1024,
	.conns = 16,
};

/* Attaching --------------------------------------------------------------- */

int steer_open(struct sluice_conn *conn, int error)
{
	struct conn_core *core = core_of(conn);
	const struct sluice_options *o = &core->options;
	struct sluice_endpoint *endpoint = o->endpoint;

	if (!(core->flags & SLUICE_F_STEER))
		return 0;
	if (endpoint && endpoint->generation != core->generation)
		return -ECHILD;
	if (endpoint && !endpoint_has_conns(endpoint, o->ring))
		return -EINVAL;
	if (endpoint)
		endpoint_ref(endpoint);
	else if (!error)
		error = sluice_endpoint_new(
			&endpoint, o->endpoint_options ? o->endpoint_options :
							 &own_default);
	core->steer.error = error;
	if (error == -EINVAL || error == -E2BIG)
		return error;
	if (!endpoint)
		return 0;
	if (!endpoint_has_conns(endpoint, o->ring)) {
		endpoint_put(endpoint);
		return -EINVAL;
	}
	core->steer.ring = &endpoint->rings[o->ring];
	if (core->stream)
		core->steer.error = -EAGAIN; /* once it is found empty */
	return 0;
}

void steer_settle(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct steering *s = &core->steer;
	uint32_t calls, flags = 0;

	if (!s->ring || s->word || core->eof || core->error || core->closing ||
	    (core->phase != PHASE_PLAIN && core->phase != PHASE_AWARE))
		return;
	/* Once for each sluiced that there is. */
	calls = __atomic_load_n(&s->ring->endpoint->calls, __ATOMIC_RELAXED);
	if (s->calls == calls || (core->stream && !stream_may_attach(core)))
		return;
	s->calls = calls;
	if (core->phase == PHASE_AWARE)
		flags |= SLUICE_ATTACH_F_FRAMES;
	else if (!core->stream &&
		 s->ring->endpoint->flags & SLUICE_ENDPOINT_F_HASH)
		flags |= SLUICE_ATTACH_F_HASH;
	s->error = ring_attach(s->ring, core, core->fd, flags);
	if (s->error == -EAGAIN) {
		/* something came just then: received first, then tried again */
		s->tries++;
		s->calls--;
	}
	if (s->error)
		return;
	if (s->lags)
		s->error = -EBUSY;
	s->word = ring_word(s->ring, s->conn);
	s->hashed = flags & SLUICE_ATTACH_F_HASH;
	s->told = true;
	/* Nothing came early: the first one may be steered already. */
	if (!core->plain_count && !s->lags &&
	    recv(core->fd, NULL, 0, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	    errno == EAGAIN)
		steer_after(conn, -EAGAIN);
}

static bool word_change(uint32_t *word, uint32_t from, uint32_t to)
{
	/* Pairs with the same in the program. */
	return __atomic_compare_exchange_n(word, &from, to, false,
					   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

void word_hold(uint32_t *word)
{
	/* GRANTED may turn ON in between, but not the other way. */
	if (!word_change(word, SLUICE_STEER_GRANTED, SLUICE_STEER_HOLD))
		word_change(word, SLUICE_STEER_ON, SLUICE_STEER_HOLD);
}

static uint32_t word_get(const struct conn_core *core)
{
	return __atomic_load_n(core->steer.word, __ATOMIC_ACQUIRE);
}

static void close_fds(struct steering *s)
{
	if (s->epoll_fd < 0)
		return;
	close(s->epoll_fd);
	close(s->event_fd);
	s->epoll_fd = s->event_fd = -1;
}

void steer_close(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct steering *s = &core->steer;
	struct sluice_ring *ring = s->ring;

	if (!ring)
		return;
	if (!conn_check(core)) {
		conn_disarm(conn);
		if (s->word) {
			word_hold(s->word);
			ring_detach(ring, core);
		}
		if (s->epoll_fd >= 0)
			daemon_unwatch(ring->endpoint, &s->watcher);
	}
	stream_close(core);
	close_fds(s);
	s->word = NULL;
	s->ring = NULL;
	endpoint_put(ring->endpoint);
}

/* From the ring ----------------------------------------------------------- */

static uint32_t owner_of(const struct conn_core *core)
{
	return (core->steer.conn & (core->steer.ring->endpoint->conns - 1)) + 1;
}

/* Who waits for the conn hears of it, though it was another's call. */
static void wake(struct conn_core *core)
{
	struct steering *s = &core->steer;
	uint64_t one = 1;

	if (core->set)
		set_make_hot(core);
	if (core->armed && s->event_fd >= 0 && core != s->ring->caller)
		s->event_up = write(s->event_fd, &one, sizeof(one)) ==
			      sizeof(one);
}

/* Of a plain peer: the kernel wrote it. */
static bool slot_is_right(struct conn_core *core,
			  const struct sluice_slot *slot)
{
	if (slot->kind == SLUICE_SLOT_INLINE)
		return slot->len <= SLUICE_INLINE_MAX;
	if (slot->kind != SLUICE_SLOT_LANDING ||
	    !ring_landing(core->steer.ring, slot, owner_of(core)))
		return false;
	core->steer.landing_held++;
	return true;
}

static void give_back(struct conn_core *core, const struct sluice_slot *slot)
{
	if (core->phase == PHASE_AWARE || slot->kind != SLUICE_SLOT_LANDING)
		return;
	if (ring_release(core->steer.ring, slot->buffer.id, owner_of(core)))
		core->steer.landing_held--;
}

void steer_deliver(struct conn_core *core, struct sluice_slot *slot)
{
	struct sluice_conn *conn = conn_of(core);
	struct steering *s = &core->steer;
	bool first = !core->inbox_count;

	s->steered++;
	slot->seq = INBOX_STEERED;
	slot->conn = 0;
	if (core->phase == PHASE_AWARE) {
		if (core->bye_seen)
			conn_fail(conn, -EPROTO, "data after bye");
		if (s->more && !(slot->flags & SLUICE_SLOT_F_INNER))
			conn_fail(conn, -EPROTO, "data ends within a message");
		slot->flags &= (uint8_t)~SLUICE_SLOT_F_INNER;
		s->more = slot->flags & SLUICE_SLOT_F_MORE;
	} else if (!slot_is_right(core, slot)) {
		conn_fail(conn, -EPROTO, "slot of the kernel is wrong");
	}
	if (!core->error && inbox_put(conn, slot, 1))
		conn_fail(conn, -ENOMEM, "out of memory");
	if (core->error)
		give_back(core, slot);
	s->unread = core->inbox_count >= UNREAD_MAX;
	if (s->unread)
		word_hold(s->word);
	if (first)
		wake(core);
}

bool steer_pending(struct conn_core *core)
{
	struct steering *s = &core->steer;

	if (!s->ring)
		return false;
	if (!core->inbox_count)
		ring_drain(s->ring, core, false);
	return core->inbox_count;
}

void steer_take(struct sluice_conn *conn, struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);
	struct sluice_ring *ring = core->steer.ring;
	struct sluice_slot slot = core->inbox[core->inbox_head];

	inbox_pop(core);
	msg->tag = 0;
	msg->len = slot.len;
	msg->flags = 0;
	msg->id = 0;
	msg->segment = 0;
	msg->kind = slot.kind;
	msg->resv = 0;
	msg->view = NULL;
	if (slot.kind == SLUICE_SLOT_LANDING)
		msg->id = slot.buffer.id;
	if (TRACE_ON(recv))
		trace_recv(core, msg, SLUICE_LANE_STEERED);
	core->rx_framed++;
	if (slot.kind == SLUICE_SLOT_INLINE) {
		memcpy(msg->inline_data, slot.inline_data, SLUICE_INLINE_MAX);
		return;
	}
	msg->view = ring->landing + slot.offset;
	ring->owner[msg->id] |= OWNER_DELIVERED;
	conn->rx_held_count++;
}

int steer_release(struct sluice_conn *conn, const struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);

	if (!steer_on(core) ||
	    !ring_release_msg(core->steer.ring, msg,
			      owner_of(core) | OWNER_DELIVERED))
		return -EINVAL;
	TRACE(release, TRACE_PEER(core), trace_handle(core, msg));
	core->steer.landing_held--;
	conn->rx_held_count--;
	return 0;
}

/* Against the socket ------------------------------------------------------ */

int steer_lost(const struct conn_core *core)
{
	return endpoint_error(core->steer.ring->endpoint);
}

static uint32_t spills(const struct steering *s)
{
	return __atomic_load_n(&s->ring->header->spills, __ATOMIC_RELAXED);
}

bool steer_holds(const struct conn_core *core)
{
	return word_get(core) == SLUICE_STEER_HOLD;
}

bool steer_due(struct conn_core *core)
{
	struct steering *s = &core->steer;

	if (!s->word)
		return true;
	if (s->told || spills(s) != s->spills || steer_holds(core))
		return true;
	if (++s->idle == s->next_look) {
		s->next_look *= 2;
		return true;
	}
	return s->idle % IDLES_PER_CLOCK == 0 &&
	       coarse_ns() - s->looked >= LOOK_NS;
}

void steer_before(struct conn_core *core)
{
	struct steering *s = &core->steer;

	if (s->ring && !s->word)
		steer_settle(conn_of(core)); /* sluiced may be back */
	if (!s->word)
		return;
	s->told = false;
	s->spills = spills(s);
	s->looked = coarse_ns();
	word_change(s->word, SLUICE_STEER_GRANTED, SLUICE_STEER_HOLD);
}

/*
 * All that was sent is in the ring, or on its way there in a program that still
 * runs. Not after an aware peer's BYE: it is the last that it sends.
 */
static void ended(struct conn_core *core)
{
	if (core->phase != PHASE_AWARE || !core->bye_seen)
		grace_pass(core);
	ring_drain(core->steer.ring, core, true);
}

static void grant(struct conn_core *core)
{
	struct steering *s = &core->steer;

	/* Destroyed: nobody takes a grant, and messages are on the socket. */
	if (core->inbox_count >= UNREAD_MAX || steer_lost(core) ||
	    (core->stream && (s->lags || !stream_may_grant(core))))
		return;
	if (!word_change(s->word, SLUICE_STEER_HOLD, SLUICE_STEER_GRANTED))
		return;
	if (steer_lost(core)) /* by now: see destroyed() */
		word_hold(s->word);
	s->idle = 0;
	s->next_look = FIRST_LOOK;
	s->turn_noted = false;
}

/*
 * Hashed: notes how far the other rings are filled. What is on the socket was sent
 * when all that was steered before was published, and from then on nothing is until
 * there is a grant: all of it is below these positions.
 */
static void note_turn(struct steering *s)
{
	struct sluice_endpoint *endpoint = s->ring->endpoint;
	uint32_t i;

	if (!s->hashed || s->turn_noted)
		return;
	s->turn_noted = true;
	for (i = 0; i < endpoint->rings_count; i++)
		s->turn[i] = ring_tail(&endpoint->rings[i]);
}

void steer_after(struct sluice_conn *conn, int r)
{
	struct conn_core *core = core_of(conn);

	if (!core->steer.word)
		return;
	if (r == 1) {
		ring_drain(core->steer.ring, core, true);
		note_turn(&core->steer);
	} else if (r == -EAGAIN) {
		grant(core);
	} else if (r == 0) {
		ended(core);
		core->steer.turn_noted = false; /* in ON there was no grant */
		note_turn(&core->steer);
	}
}

bool steer_in_turn(struct conn_core *core)
{
	struct steering *s = &core->steer;
	struct sluice_ring *ring;
	uint32_t i, head;

	if (!s->turn_noted)
		return true;
	for (i = 0; i < s->ring->endpoint->rings_count; i++) {
		ring = &s->ring->endpoint->rings[i];
		/* Pairs with the release store in ring_report(). */
		head = __atomic_load_n(&ring->control->head, __ATOMIC_ACQUIRE);
		if (ring != s->ring && (int32_t)(head - s->turn[i]) < 0)
			return false;
	}
	return true;
}

/* Sleeping ---------------------------------------------------------------- */

void steer_arm(struct conn_core *core)
{
	struct steering *s = &core->steer;

	if (!s->ring || s->armed)
		return;
	s->armed = true;
	ring_arm(s->ring);
	ring_drain(s->ring, core, true);
}

void steer_disarm(struct conn_core *core)
{
	struct steering *s = &core->steer;
	uint64_t count;

	if (!s->armed)
		return;
	s->armed = false;
	ring_disarm(s->ring);
	if (s->event_up && read(s->event_fd, &count, sizeof(count)) > 0)
		s->event_up = false;
}

static int epoll_add(int epoll_fd, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

int steer_fd(struct conn_core *core)
{
	struct steering *s = &core->steer;
	int r;

	if (s->epoll_fd >= 0)
		return s->epoll_fd;
	s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->event_fd < 0)
		return -errno;
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (s->epoll_fd < 0) {
		r = -errno;
		close(s->event_fd);
		s->event_fd = -1;
		return r;
	}
	r = epoll_add(s->epoll_fd, core->fd);
	if (!r)
		r = epoll_add(s->epoll_fd, s->event_fd);
	if (!r)
		r = epoll_add(s->epoll_fd, s->ring->doorbell_fd);
	if (!r)
		r = stream_watch(core, s->epoll_fd, NULL);
	if (!r)
		r = daemon_watch(s->ring->endpoint, &s->watcher, s->epoll_fd,
				 NULL);
	if (r) {
		close_fds(s);
		return r;
	}
	s->epoll_events = EPOLLIN;
	return s->epoll_fd;
}

short steer_listen(struct conn_core *core, short events)
{
	struct steering *s = &core->steer;
	struct epoll_event event = { .events = (uint32_t)events };

	if (s->epoll_events != event.events)
		epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, core->fd, &event);
	s->epoll_events = event.events;
	return POLLIN;
}

unsigned int steer_poll_fds(struct conn_core *core, uint32_t what,
			    struct pollfd *fds)
{
	struct sluice_ring *ring = core->steer.ring;
	unsigned int i;

	if (!ring)
		return 0;
	fds[0].fd = what & SLUICE_RECV ? ring->doorbell_fd : -1;
	/* May be another by now, or none: then its timer fires. */
	fds[1].fd = __atomic_load_n(&ring->endpoint->fd, __ATOMIC_RELAXED);
	fds[2].fd = ring->endpoint->timer_fd;
	fds[3].fd = what & SLUICE_RECV ? core->steer.spill[1] : -1;
	for (i = 0; i < STEER_POLL_FDS; i++)
		fds[i].events = POLLIN;
	return STEER_POLL_FDS;
}

void steer_polled(struct conn_core *core, const struct pollfd *fds)
{
	if (fds[3].revents)
		core->steer.told = true;
	if (fds[1].revents || fds[2].revents)
		daemon_service(core->steer.ring->endpoint);
}
