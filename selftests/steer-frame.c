/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * DATA frames of aware senders through the steering program: what becomes of the
 * slots, and that every frame which is not quite one goes to the queue, where the
 * receiver judges it. Needs root and BPF.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steer-maps.h"
#include "tap.h"

#define CONN 0x00070003u

static const struct sluice_control_create geometry = {
	.rings = 1,
	.ring_slots = 64,
	.conns = 16,
	.landing = { 1, 0, 0 },
};

struct frame {
	struct sluice_frame head;
	struct sluice_slot slots[SLUICE_FRAME_SLOTS_MAX + 1];
};

struct fixture {
	struct steer_rig rig;
	struct steer_ring *ring;
	int from;
	int to;
};

static void fixture_new(struct fixture *f)
{
	struct steer_conn_entry entry = { .conn = CONN,
					  .flags = SLUICE_ATTACH_F_FRAMES };
	int socks[2];

	steer_rig_new(&f->rig, &geometry);
	CHECK_SYS(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, socks));
	f->from = socks[0];
	f->to = socks[1];
	f->ring = &f->rig.rings[0];
	steer_rig_attach(&f->rig, f->to, &entry);
	*steer_word(f->ring, CONN) = SLUICE_STEER_ON;
}

static void fixture_free(struct fixture *f)
{
	close(f->from);
	close(f->to);
	steer_rig_free(&f->rig);
}

/* A good frame; its slots hold whatever is the receiver's to judge. */
static size_t frame_fill(struct frame *frame, uint16_t count)
{
	uint16_t i;

	memset(frame, 0, sizeof(*frame));
	frame->head.type = SLUICE_FRAME_DATA;
	frame->head.count = count;
	tap_fill(frame->slots, sizeof(frame->slots), count);
	for (i = 0; i < count; i++) {
		frame->slots[i].seq = 0;
		frame->slots[i].conn = 0;
		frame->slots[i].flags &= SLUICE_SLOT_F_MORE;
	}
	return sizeof(frame->head) + count * sizeof(frame->slots[0]);
}

static const struct count {
	const char *name;
	uint16_t slots;
} counts[] = { { "1", 1 }, { "2", 2 }, { "33", 33 }, { "64", 64 } };

TAP_EACH(good, count, counts)
{
	struct steer_counters counters;
	struct sluice_slot slot, want;
	struct steer_conn_entry entry;
	struct frame frame;
	struct fixture f;
	size_t len;
	uint16_t i, round;

	fixture_new(&f);
	len = frame_fill(&frame, count->slots);
	for (round = 0; round < 3; round++) {
		CHECK_EQ(send(f.from, &frame, len, 0), (ssize_t)len);
		for (i = 0; i < count->slots; i++) {
			want = frame.slots[i];
			want.conn = CONN;
			want.seq = f.ring->next + 1;
			if (i)
				want.flags |= SLUICE_SLOT_F_INNER;
			CHECK(steer_take(f.ring, &slot));
			CHECK_MEM(&slot, &want, sizeof(slot));
		}
		CHECK(!steer_take(f.ring, &slot));
	}
	steer_rig_counters(&f.rig, &counters);
	CHECK_EQ(counters.steered_frames, 3);
	CHECK_EQ(counters.steered_slots, 3 * count->slots);
	steer_rig_entry(&f.rig, f.to, &entry);
	CHECK_EQ(entry.messages, 3 * count->slots);
	CHECK_EQ(entry.bytes, 3 * len);
	fixture_free(&f);
}

/* A frame that the ring has no room for goes to the queue whole. */
TAP_TEST(no_room)
{
	struct steer_counters counters;
	struct sluice_slot slot;
	struct frame frame, got;
	struct fixture f;
	size_t len;
	int i;

	fixture_new(&f);
	len = frame_fill(&frame, 60);
	CHECK_EQ(send(f.from, &frame, len, 0), (ssize_t)len);
	len = frame_fill(&frame, 5);
	CHECK_EQ(send(f.from, &frame, len, 0), (ssize_t)len);
	for (i = 0; i < 60; i++)
		CHECK(steer_take(f.ring, &slot));
	CHECK(!steer_take(f.ring, &slot));
	CHECK_EQ(recv(f.to, &got, sizeof(got), 0), (ssize_t)len);
	CHECK_MEM(&got, &frame, len);
	steer_rig_counters(&f.rig, &counters);
	CHECK_EQ(counters.pass_ring_full, 1);
	CHECK_EQ(counters.steered_slots, 60);
	fixture_free(&f);
}

static const struct bad {
	const char *name;
	uint16_t slots; /* that a good frame would have */
	int32_t extra; /* bytes more than that */
	uint32_t at; /* byte that is set */
	uint8_t to;
} bads[] = {
	{ "type", 2, 0, 0, SLUICE_FRAME_RELEASE },
	{ "type-0", 2, 0, 0, 0 },
	{ "flags", 2, 0, 1, 1 },
	{ "ignorable", 2, 0, 1, SLUICE_FRAME_F_IGNORABLE },
	{ "count-less", 2, 0, 2, 1 },
	{ "count-more", 2, 0, 2, 3 },
	{ "count-0", 0, 0, 0, SLUICE_FRAME_DATA },
	{ "count-65", 65, 0, 0, SLUICE_FRAME_DATA },
	{ "count-high-byte", 2, 0, 3, 1 },
	{ "value", 2, 0, 4, 1 },
	{ "value-high-byte", 2, 0, 7, 1 },
	{ "short", 2, -1, 0, SLUICE_FRAME_DATA },
	{ "long", 2, 1, 0, SLUICE_FRAME_DATA },
	{ "head-short", 1, -65, 0, SLUICE_FRAME_DATA },
	{ "empty", 1, -72, 0, SLUICE_FRAME_DATA },
	{ "one-seq", 1, 0, 8, 1 },
	{ "one-flags", 1, 0, 8 + 9, SLUICE_SLOT_F_INNER },
	{ "one-conn", 1, 0, 8 + 12, 1 },
	{ "first-seq", 3, 0, 8 + 3, 1 },
	{ "last-seq", 3, 0, 8 + 128, 1 },
	{ "last-flags", 3, 0, 8 + 128 + 9, 0x02 },
	{ "last-conn", 3, 0, 8 + 128 + 15, 1 },
};

TAP_EACH(bad, bad, bads)
{
	struct steer_counters counters, want = { .pass_frame = 1 };
	struct frame frame, got;
	struct sluice_slot slot;
	struct fixture f;
	size_t len;

	fixture_new(&f);
	len = frame_fill(&frame, bad->slots) + bad->extra;
	((uint8_t *)&frame)[bad->at] = bad->to;
	CHECK_EQ(send(f.from, &frame, len, 0), (ssize_t)len);
	CHECK(!steer_take(f.ring, &slot));
	CHECK_EQ(recv(f.to, &got, sizeof(got), 0), (ssize_t)len);
	CHECK_MEM(&got, &frame, len);
	CHECK_EQ(*steer_word(f.ring, CONN), SLUICE_STEER_HOLD);
	CHECK_EQ(f.ring->header->tail, 0);
	steer_rig_counters(&f.rig, &counters);
	CHECK_MEM(&counters, &want, sizeof(want));
	fixture_free(&f);
}
