/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Slots of an end by hand, in both lanes; raw.h says what it is. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "raw.h"
#include "tap.h"

/* Sending ----------------------------------------------------------------- */

struct sluice_slot raw_inline(const void *data, uint32_t len, uint64_t tag)
{
	struct sluice_slot slot = {
		.len = len,
		.kind = SLUICE_SLOT_INLINE,
		.tag = tag,
	};

	if (len)
		memcpy(slot.inline_data, data, len);
	return slot;
}

struct sluice_slot raw_buffer(uint16_t segment, uint64_t offset, uint32_t len,
			      uint32_t id, uint64_t tag)
{
	return (struct sluice_slot){
		.len = len,
		.kind = SLUICE_SLOT_BUFFER,
		.segment = segment,
		.offset = offset,
		.tag = tag,
		.buffer.id = id,
	};
}

void raw_data(struct raw_message *m, const struct sluice_slot *slots,
	      unsigned int count)
{
	raw_frame(m, SLUICE_FRAME_DATA, (uint16_t)count, 0, slots,
		  count * sizeof(*slots));
}

void raw_segment(struct raw_message *m, uint32_t number,
		 const struct raw_memory *memory)
{
	struct sluice_segment body = { .size = memory->size };

	raw_frame(m, SLUICE_FRAME_SEGMENT_ADD, 0, number, &body, sizeof(body));
	raw_attach(m, CHECK_SYS(fcntl(memory->fd, F_DUPFD_CLOEXEC, 0)));
}

void raw_say(struct raw *raw, const void *data, uint32_t len, uint64_t tag)
{
	struct sluice_slot slot = raw_inline(data, len, tag);
	struct raw_message m;

	raw_data(&m, &slot, 1);
	raw_send(raw->sock, &m);
}

void raw_publish(struct raw *raw, const struct sluice_slot *slots,
		 unsigned int count)
{
	struct sluice_slot *slot;
	unsigned int i;

	for (i = count; i-- > 0;) {
		slot = &raw->ring[(raw->tx_position + i) & raw->ring_mask];
		memcpy(&slot->len, &slots[i].len,
		       sizeof(*slot) - offsetof(struct sluice_slot, len));
		__atomic_store_n(&slot->seq, raw->tx_position + i + 1,
				 __ATOMIC_RELEASE);
	}
	raw->tx_position += count;
}

void raw_switch(struct raw *raw)
{
	struct raw_message m;

	raw_frame(&m, SLUICE_FRAME_SWITCH, 0, raw->tx_position, NULL, 0);
	raw_send(raw->sock, &m);
}

void raw_release(struct raw *raw, uint32_t id)
{
	struct sluice_release *entry =
		&raw->releases[raw->release_position & raw->release_mask];

	entry->id = id;
	__atomic_store_n(&entry->seq, ++raw->release_position,
			 __ATOMIC_RELEASE);
}

/* Receiving --------------------------------------------------------------- */

/* Takes the next slot of the peer's ring, and tells it so. */
static bool ring_take(struct raw *raw, struct sluice_slot *slot)
{
	const struct sluice_slot *ring =
		(const void *)(raw->peer_memory + raw->peer_link->ring_offset);

	ring += raw->rx_position & (raw->peer_link->ring_slots - 1);
	if (__atomic_load_n(&ring->seq, __ATOMIC_ACQUIRE) !=
	    raw->rx_position + 1)
		return false;
	*slot = *ring;
	raw->rx_position++;
	__atomic_store_n(&raw->link->rx_head, raw->link->rx_head + 1,
			 __ATOMIC_RELEASE);
	return true;
}

/* Takes in one frame that slots depend on. */
static void frame_take(struct raw *raw, struct raw_message *m)
{
	struct sluice_segment body;
	uint32_t number = m->frame.value;

	switch (m->frame.type) {
	case SLUICE_FRAME_DATA:
		memcpy(raw->queue, raw_body(m),
		       m->frame.count * sizeof(raw->queue[0]));
		raw->queue_at = 0;
		raw->queue_count = m->frame.count;
		break;
	case SLUICE_FRAME_SWITCH:
		raw->rx_direct = true;
		raw->rx_position = number;
		break;
	case SLUICE_FRAME_SEGMENT_ADD:
		memcpy(&body, raw_body(m), sizeof(body));
		CHECK_LT(number, SLUICE_SEGMENTS_MAX);
		CHECK_EQ(m->fd_count, 1);
		raw->segments[number].size = body.size;
		raw->segments[number].base = CHECK_SYS(mmap(
			NULL, body.size, PROT_READ, MAP_SHARED, m->fds[0], 0));
		break;
	case SLUICE_FRAME_RELEASE:
	case SLUICE_FRAME_DOORBELL:
		break;
	default:
		TAP_FAIL("frame type %d instead of a message", m->frame.type);
	}
	raw_drop(m);
}

/* A slot may overtake the SEGMENT_ADD that was sent before it. */
static const void *payload(struct raw *raw, const struct sluice_slot *slot)
{
	struct raw_message m;

	if (slot->kind == SLUICE_SLOT_INLINE)
		return slot->inline_data;
	CHECK_EQ(slot->kind, SLUICE_SLOT_BUFFER);
	CHECK_LT(slot->segment, SLUICE_SEGMENTS_MAX);
	while (!raw->segments[slot->segment].base) {
		raw_recv(raw->sock, &m);
		CHECK_EQ(m.end, false);
		frame_take(raw, &m);
	}
	return raw->segments[slot->segment].base + slot->offset;
}

void raw_await(struct raw *raw, struct raw_message *m, uint8_t type)
{
	for (;;) {
		raw_recv(raw->sock, m);
		CHECK_EQ(m->end, false);
		if (m->frame.type == type)
			return;
		frame_take(raw, m);
	}
}

const void *raw_next(struct raw *raw, struct sluice_slot *slot)
{
	int64_t until = tap_now() + 5000000000ll * tap_slow;
	struct raw_message m;

	for (;;) {
		if (raw->queue_at < raw->queue_count) {
			*slot = raw->queue[raw->queue_at++];
			return payload(raw, slot);
		}
		if (raw->rx_direct && ring_take(raw, slot)) {
			if (slot->kind != SLUICE_SLOT_SWITCH)
				return payload(raw, slot);
			raw->rx_direct = false;
			continue;
		}
		if (raw_try_recv(raw->sock, &m, raw->rx_direct ? 1 : 100)) {
			if (tap_now() > until)
				TAP_FAIL("no message came");
			continue;
		}
		CHECK_EQ(m.end, false);
		frame_take(raw, &m);
	}
}
