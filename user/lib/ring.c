/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * One ring: slots that programs in the senders' context publish, to the conns
 * that they are for; landing slots; the doorbell.
 *
 * A program claims a position and then publishes it. If its CPU is taken away in
 * between, the ring has a hole; slots behind it are taken all the same (`ahead`
 * says which), since a hole is to hold up its own connection only. No order is lost:
 * while one message of a socket is on its way, the program leaves all others of
 * it to the queue; see find_ahead(). Only slots of one frame could be met out of
 * order, for they are published from last to first: SLUICE_SLOT_F_INNER says that
 * the one before comes first.
 *
 * The kernel wrote the ring; but slots that came in frames were made by a peer,
 * and are judged when they are received. What is wrong with one of the kernel's
 * own is a difference of versions, and ends the conn.
 */
#include "steering.h"
#include "trace.h"

/*
 * Empty drains between two looks at the tail, a line that senders fight for: only
 * a hole makes them worth it.
 */
#define DRAINS_PER_TAIL 1024
#define DRAINS_PER_TICK 4096

uint32_t *ring_word(const struct sluice_ring *ring, uint32_t number)
{
	struct sluice_steer_conn *conns =
		(void *)((uint8_t *)ring->control + SLUICE_MAP_HEADER);

	return &conns[number & (ring->endpoint->conns - 1)].word;
}

static bool published(const struct sluice_ring *ring, uint32_t position)
{
	const struct sluice_slot *slot = &ring->slots[position & ring->mask];

	/* Pairs with the exchange by which the program publishes. */
	return __atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE) == position + 1;
}

bool ring_ready(const struct sluice_ring *ring)
{
	return published(ring, ring->head);
}

/* Landing slots ----------------------------------------------------------- */

/* Where slot number id lies, and how much it holds. False: there is none. */
static bool landing_place(const struct sluice_ring *ring, uint32_t id,
			  uint64_t *offset, uint32_t *size)
{
	const uint32_t *count = ring->endpoint->landing;
	uint64_t blocks = 0;

	if (id < count[0] * 16) {
		*offset = (uint64_t)id * SLUICE_LANDING_SMALL;
		*size = SLUICE_LANDING_SMALL;
		return true;
	}
	id -= count[0] * 16;
	blocks += count[0];
	if (id < count[1]) {
		*offset = (blocks + id) * SLUICE_LANDING_BLOCK;
		*size = SLUICE_LANDING_BLOCK;
		return true;
	}
	id -= count[1];
	blocks += count[1];
	*offset = blocks * SLUICE_LANDING_BLOCK +
		  (uint64_t)id * SLUICE_LANDING_LARGE;
	*size = SLUICE_LANDING_LARGE;
	return id < count[2];
}

const void *ring_landing(struct sluice_ring *ring,
			 const struct sluice_slot *slot, uint32_t owner)
{
	uint32_t id = slot->buffer.id, size;
	uint64_t offset;

	if (!landing_place(ring, id, &offset, &size) ||
	    slot->offset != offset || slot->len > size || ring->owner[id])
		return NULL;
	ring->owner[id] = owner;
	return ring->landing + offset;
}

/*
 * Senders take landing slots in turn: 16 states, which are a line, one after the
 * other. So those that are freed wait for the rest of their line, lest it goes to
 * and fro for each of them.
 */
static void free_states(struct sluice_ring *ring)
{
	uint32_t *states = ring->states + ring->freed_line * STATES_PER_LINE, i;

	for (i = 0; ring->freed; ring->freed >>= 1, i++)
		if (ring->freed & 1)
			/* Pairs with the program's exchange: what we read, before its copy. */
			__atomic_store_n(&states[i], SLUICE_LANDING_FREE,
					 __ATOMIC_RELEASE);
}

/* How many of the slots of id's size may wait so, which nobody can use. */
static uint32_t freed_max(const struct sluice_ring *ring, uint32_t id)
{
	const uint32_t *count = ring->endpoint->landing;
	uint32_t of_size;

	if (id < count[0] * 16)
		of_size = count[0] * 16;
	else
		of_size = count[id - count[0] * 16 < count[1] ? 1 : 2];
	return of_size / 8;
}

bool ring_release(struct sluice_ring *ring, uint32_t id, uint32_t owner)
{
	if (id >= ring->landing_slots || ring->owner[id] != owner)
		return false;
	ring->owner[id] = 0;
	if (ring->freed_line != id / STATES_PER_LINE)
		free_states(ring);
	ring->freed_line = id / STATES_PER_LINE;
	ring->freed |= 1u << id % STATES_PER_LINE;
	if (ring->freed == (1u << STATES_PER_LINE) - 1 ||
	    (uint32_t)__builtin_popcount(ring->freed) >= freed_max(ring, id))
		free_states(ring);
	return true;
}

bool ring_release_msg(struct sluice_ring *ring, const struct sluice_msg *msg,
		      uint32_t owner)
{
	uint64_t offset;
	uint32_t size;

	/* Another ring's has the same numbers, but not the same place. */
	return landing_place(ring, msg->id, &offset, &size) &&
	       msg->view == ring->landing + offset &&
	       ring_release(ring, msg->id, owner);
}

/* Consuming --------------------------------------------------------------- */

/*
 * To its conn. A slot for nobody: its conn has been closed here. If the peer was
 * plain, the program took a landing slot for it; an aware one may have made up
 * anything.
 */
static void deliver(struct sluice_ring *ring, struct sluice_slot *slot)
{
	struct ring_entry *entry =
		&ring->entries[slot->conn & (ring->endpoint->conns - 1)];

	if (entry->core && entry->core->steer.conn == slot->conn)
		steer_deliver(entry->core, slot);
	else if (slot->kind == SLUICE_SLOT_LANDING && !entry->frames &&
		 ring_landing(ring, slot, OWNER_WORKER))
		ring_release(ring, slot->buffer.id, OWNER_WORKER);
}

static void take(struct sluice_ring *ring, uint32_t position)
{
	struct sluice_slot slot = ring->slots[position & ring->mask];

	deliver(ring, &slot);
}

static bool taken_ahead(const struct sluice_ring *ring, uint32_t position)
{
	return bit_get(ring->ahead, position & ring->mask);
}

static void drain_head(struct sluice_ring *ring)
{
	uint32_t head = ring->head, end = head + ring->mask + 1;

	for (; head != end && published(ring, head); head++) {
		if (ring->ahead_count && taken_ahead(ring, head)) {
			bit_clear(ring->ahead, head & ring->mask);
			ring->ahead_count--;
			continue;
		}
		take(ring, head);
	}
	ring->head = head;
}

/* Pairs with the claim of a position by the program. */
uint32_t ring_tail(const struct sluice_ring *ring)
{
	return __atomic_load_n(&ring->header->tail, __ATOMIC_ACQUIRE);
}

/*
 * The head is a hole: looks for a slot behind it, from *position on, that was
 * claimed before the head was looked at: `tail` was read before that. So whatever
 * its sender had published before it claimed has been found; a later slot of the
 * same sender could be there, with the earlier one by now in the hole.
 */
static bool find_ahead(const struct sluice_ring *ring, uint32_t tail,
		       uint32_t *position)
{
	uint32_t p;

	if (tail - ring->head > ring->mask + 1)
		return false;
	for (p = *position; (int32_t)(tail - p) > 0; p++) {
		if (taken_ahead(ring, p) || !published(ring, p) ||
		    (ring->slots[p & ring->mask].flags & SLUICE_SLOT_F_INNER &&
		     !taken_ahead(ring, p - 1)))
			continue;
		*position = p;
		return true;
	}
	return false;
}

static void mark_ahead(struct sluice_ring *ring, uint32_t position)
{
	bit_set(ring->ahead, position & ring->mask);
	ring->ahead_count++;
}

void ring_report(struct sluice_ring *ring)
{
	free_states(ring);
	if (ring->reported == ring->head)
		return;
	/* Crossed a quarter of all positions: before states seem old. */
	if ((ring->reported ^ ring->head) >> 30)
		ring_forget_left(ring);
	ring->reported = ring->head;
	/* Pairs with the program's load: slots are copied before it writes. */
	__atomic_store_n(&ring->control->head, ring->head, __ATOMIC_RELEASE);
}

void ring_drain(struct sluice_ring *ring, struct conn_core *caller, bool far)
{
	uint32_t before = ring->head, tail = before, position;

	if (++ring->drains % DRAINS_PER_TICK == 0)
		daemon_tick(ring->endpoint);
	ring->caller = caller;
	if (TRACE_ON(spill))
		trace_ring(ring);
	far = far || ring->empty % DRAINS_PER_TAIL == DRAINS_PER_TAIL - 1;
	if (far)
		tail = ring_tail(ring);
	drain_head(ring);
	ring->empty = ring->head == before ? ring->empty + 1 : 0;
	if (far) {
		for (position = ring->head + 1;
		     find_ahead(ring, tail, &position); position++) {
			take(ring, position);
			mark_ahead(ring, position);
		}
	}
	ring->caller = NULL;
	if (far || ring->head - ring->reported > ring->mask / 4)
		ring_report(ring);
}

/* For workers: the next slot to take, if there is one. */
static bool find_next(struct sluice_ring *ring, bool far, uint32_t *position)
{
	uint32_t tail = far ? ring_tail(ring) : 0;

	while (ring->ahead_count && taken_ahead(ring, ring->head)) {
		bit_clear(ring->ahead, ring->head & ring->mask);
		ring->ahead_count--;
		ring->head++;
	}
	*position = ring->head;
	if (published(ring, ring->head))
		return true;
	++*position;
	return far && find_ahead(ring, tail, position);
}

bool ring_waits(struct sluice_ring *ring, bool far)
{
	uint32_t position;

	return find_next(ring, far, &position);
}

bool ring_next(struct sluice_ring *ring, struct sluice_slot *slot)
{
	uint32_t position;

	if (++ring->drains % DRAINS_PER_TICK == 0)
		daemon_tick(ring->endpoint);
	/* Not sooner: the worker is done with them when it asks for more. */
	if (ring->head - ring->reported > ring->mask / 4)
		ring_report(ring);
	if (!find_next(ring,
		       ring->empty % DRAINS_PER_TAIL == DRAINS_PER_TAIL - 1,
		       &position)) {
		ring->empty++;
		ring_report(ring);
		return false;
	}
	ring->empty = 0;
	*slot = ring->slots[position & ring->mask];
	if (position == ring->head)
		ring->head++;
	else
		mark_ahead(ring, position);
	return true;
}

/* The doorbell ------------------------------------------------------------ */

/*
 * Those who rely on it: while there are any, `asleep` is set, or a record is in
 * the doorbell, or is about to be. So only ring_arm() takes records out, and
 * sets the word again.
 */
static void take_records(struct sluice_ring *ring)
{
	uint64_t position =
		__atomic_load_n(ring->doorbell_producer, __ATOMIC_ACQUIRE);

	if (*ring->doorbell_consumer != position)
		__atomic_store_n(ring->doorbell_consumer, position,
				 __ATOMIC_RELEASE);
}

void ring_arm(struct sluice_ring *ring)
{
	ring->armed++;
	ring_report(ring);
	take_records(ring);
	__atomic_store_n(&ring->control->asleep, 1, __ATOMIC_RELAXED);
	/*
	 * Pairs with the exchange that publishes: word before ring here, ring
	 * before word there; one of us sees the other.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void ring_disarm(struct sluice_ring *ring)
{
	if (!--ring->armed)
		__atomic_store_n(&ring->control->asleep, 0, __ATOMIC_RELAXED);
}

void ring_hush(struct sluice_ring *ring)
{
	if (!ring->armed)
		take_records(ring);
}
