/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The semaphores of the probes, the pointers that lead the inlines past the library
 * or into it, and probes whose arguments take more than a line.
 */
#include "trace.h"

#include "steering.h"

#define SEMAPHORE(name) volatile unsigned short sluice_##name##_semaphore;
TRACE_PROBES(SEMAPHORE)

void hot_open(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint8_t traced = trace_wanted();
	bool aware = core->phase == PHASE_AWARE && !core->error;
	uint8_t *link = (uint8_t *)core->link;

	core->traced = traced;
	conn->pool = traced & TRACED_LOAN ? NULL : &core->pool->hot;
	conn->rx_ring = aware && !core->bye_seen && !(traced & TRACED_RECV) ?
				core->rx_ring :
				NULL;
	/* Without our registration the inlines may not trust STATE_SPIN. */
	conn->tx_ring = NULL;
	conn->releases = NULL;
	if (!aware || !core->both_link || !core->registered)
		return;
	if (!(traced & TRACED_RELEASE))
		conn->releases = (void *)(link + core->link->release_offset);
	if (core->tx_lane == SLUICE_LANE_DIRECT && !core->eof && !core->shut &&
	    !(traced & TRACED_SEND))
		conn->tx_ring = (void *)(link + core->link->ring_offset);
}

/*
 * The number of the next slot, or plain message, in its direction: the same on both
 * sides, in whatever lanes those before it went.
 */
static uint32_t next_sent(const struct conn_core *core)
{
	uint32_t published = core->link ? conn_of(core)->tx_position -
						  core->options.first_position :
					  0;

	return published + core->tx_framed;
}

static uint32_t next_received(const struct conn_core *core)
{
	uint32_t consumed = core->peer_link ?
				    conn_of(core)->rx_position -
					    core->peer_geometry.ring_first :
				    0;

	return consumed + core->rx_framed;
}

void trace_send(struct sluice_conn *conn, const struct sluice_slot *slots,
		struct sluice_buf *const *bufs, uint32_t count)
{
	struct conn_core *core = core_of(conn);
	uint32_t i, number = next_sent(core);

	for (i = 0; i < count; i++)
		TRACE(send, TRACE_SELF(core), number + i, slots[i].tag,
		      slots[i].len, core->tx_lane, bufs[i]);
}

void trace_send_plain(struct conn_core *core, const struct iovec *parts,
		      unsigned int count)
{
	size_t len = 0;

	while (count--)
		len += parts++->iov_len;
	TRACE(send, TRACE_SELF(core), next_sent(core), 0ull, (uint32_t)len,
	      (uint32_t)SLUICE_LANE_PLAIN, NULL);
}

void trace_recv(struct conn_core *core, const struct sluice_msg *msg,
		uint32_t lane)
{
	TRACE(recv, TRACE_PEER(core), next_received(core), msg->tag, msg->len,
	      lane, trace_handle(core, msg));
}

/* Why messages were left to the socket, as far as the receiver can tell. */
enum spill_why {
	SPILL_ORDER, /* another was on its way, or it must not be taken */
	SPILL_TOO_LARGE, /* for any landing slot */
	SPILL_NO_LANDING, /* all of its size were taken */
	SPILL_RING_FULL,
	SPILL_UNREAD, /* the application left too many of this conn unread */
};

static const uint32_t landing_size[SLUICE_LANDING_CLASSES] = {
	SLUICE_LANDING_SMALL, SLUICE_LANDING_BLOCK, SLUICE_LANDING_LARGE
};

/* In ring.seen_full, beside a bit for each size of landing slots. */
#define RING_FULL (1u << SLUICE_LANDING_CLASSES)

/* The sizes of which no slot is free. */
static uint32_t full_sizes(const struct sluice_ring *ring)
{
	uint32_t bits = 0, class, slot = 0, end;

	for (class = 0; class < SLUICE_LANDING_CLASSES; class ++) {
		end = slot + ring->endpoint->landing[class] * (class ? 1 : 16);
		while (slot < end &&
		       __atomic_load_n(&ring->states[slot], __ATOMIC_RELAXED) !=
			       SLUICE_LANDING_FREE)
			slot++;
		if (slot == end)
			bits |= 1u << class;
		slot = end;
	}
	return bits;
}

/*
 * When a spilled message is read, so has been what came before it, and there is room
 * again. A frame needs room for all its slots.
 */
void trace_ring(struct sluice_ring *ring)
{
	uint32_t tail = ring_tail(ring);

	if (tail == ring->head)
		return;
	if (ring->mask + 1 - (tail - ring->reported) < SLUICE_FRAME_SLOTS_MAX)
		ring->seen_full |= RING_FULL;
	ring->seen_full |= full_sizes(ring);
}

static enum spill_why spill_why(const struct conn_core *core, size_t len)
{
	struct sluice_ring *ring = core->steer.ring;
	uint32_t full = ring->seen_full, fitting = 0, slots = 0, class;

	if (core->steer.unread)
		return SPILL_UNREAD;
	ring->seen_full &= ~RING_FULL;
	if (full & RING_FULL)
		return SPILL_RING_FULL;
	if (core->phase == PHASE_AWARE || len <= SLUICE_INLINE_MAX)
		return SPILL_ORDER;
	for (class = 0; class < SLUICE_LANDING_CLASSES; class ++) {
		if (landing_size[class] < len)
			continue;
		fitting |= 1u << class;
		slots += ring->endpoint->landing[class];
	}
	if (!slots)
		return SPILL_TOO_LARGE;
	ring->seen_full &= ~fitting;
	full |= full_sizes(ring);
	return (full & fitting) == fitting ? SPILL_NO_LANDING : SPILL_ORDER;
}

void trace_spill(struct conn_core *core, size_t len)
{
	TRACE(spill, core, TRACE_PEER(core), (uint32_t)spill_why(core, len),
	      len);
}

void trace_spill_plain(struct conn_core *core)
{
	uint8_t i;

	for (i = 0; i < core->plain_count; i++)
		trace_spill(core, core->plain[core->plain_first + i].len);
}
