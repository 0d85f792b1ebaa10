/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Breaches in slots, field by field, in DATA frames (queued) and in the ring
 * (direct): PROTOCOL.md sections 3 and 11.
 */
#include <string.h>

#include "hostile-slots.h"

/* Sends slots in the lane the attacker is in. */
static void put(struct world *world, const struct sluice_slot *slots,
		unsigned int count)
{
	struct raw_message m;

	if (world->direct) {
		raw_publish(&world->raw, slots, count);
		return;
	}
	raw_data(&m, slots, count);
	raw_send(world->raw.sock, &m);
}

static void start(struct world *world, bool direct)
{
	world_open(world, NULL, RAW_ALL);
	world_meet(world);
	world_segment(world, 0);
	if (direct)
		world_direct(world);
	world_fine(world);
}

static void run(const struct sluice_slot *slot, const struct change *row,
		bool direct)
{
	struct sluice_slot changed = *slot;
	struct world world;

	start(&world, direct);
	change_bytes(row, &changed);
	put(&world, &changed, 1);
	world_judge(&world, row->fine);
}

/* Inline ------------------------------------------------------------------ */

TAP_EACH(inline_queued, row, inlines)
{
	struct sluice_slot slot = inline_slot();

	run(&slot, row, false);
}

TAP_EACH(inline_direct, row, inlines)
{
	struct sluice_slot slot = inline_slot();

	run(&slot, row, true);
}

/* Buffers ----------------------------------------------------------------- */

TAP_EACH(buffer_queued, row, buffers)
{
	struct sluice_slot slot = buffer_slot();

	run(&slot, row, false);
}

TAP_EACH(buffer_direct, row, buffers)
{
	struct sluice_slot slot = buffer_slot();

	run(&slot, row, true);
}

/* Of no bytes at all, at the very end of the segment. */
static const struct change empties[] = {
	{ "unchanged", .fine = true },
	{ "len-1", ALONE(slot, len, 1) },
	{ "offset-past-the-end", ALONE(slot, offset, WORLD_SEGMENT + 1) },
	{ "offset-largest", ALONE(slot, offset, ~0ull) },
	{ "segment-unknown", ALONE(slot, segment, 2) },
};

TAP_EACH(empty_queued, row, empties)
{
	struct sluice_slot slot = raw_buffer(0, WORLD_SEGMENT, 0, 5, 1);

	run(&slot, row, false);
}

TAP_EACH(empty_direct, row, empties)
{
	struct sluice_slot slot = raw_buffer(0, WORLD_SEGMENT, 0, 5, 1);

	run(&slot, row, true);
}

/* seq belongs to rings. */
static const struct change seqs[] = {
	{ "unchanged", .fine = true },
	{ "one", ALONE(slot, seq, 1) },
	{ "largest", ALONE(slot, seq, 0xffffffff) },
};

TAP_EACH(seq_queued, row, seqs)
{
	struct sluice_slot slot = inline_slot();

	run(&slot, row, false);
}

/* In the ring a slot with any other seq is just not there yet. */
static const struct seq {
	const char *name;
	uint32_t off; /* from the position */
} ring_seqs[] = {
	{ "behind", 0 },
	{ "ahead", 2 },
	{ "lap-behind", 1 - 64 },
	{ "lap-ahead", 1 + 64 },
	{ "half-way-round", 1 + (1u << 31) },
};

TAP_EACH(seq_direct, row, ring_seqs)
{
	struct sluice_slot *slot;
	struct sluice_msg msg;
	struct world world;

	start(&world, true);
	slot = &world.raw.ring[world.raw.tx_position & world.raw.ring_mask];
	slot->kind = 99;
	slot->seq = world.raw.tx_position + row->off;
	CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
	world_judge(&world, true);
}

/* The slots of one lane, in both -------------------------------------------- */

static const struct lane {
	const char *name;
	bool direct;
} lanes[] = {
	{ "queued", false },
	{ "direct", true },
};

/* An id stays held until it is released, in whatever order. */
TAP_EACH(id_held, row, lanes)
{
	struct sluice_slot slot = raw_buffer(0, 0, 100, 7, 1);
	struct sluice_msg first, second;
	struct world world;

	start(&world, row->direct);
	put(&world, &slot, 1);
	world_take(&world, &first);
	slot.buffer.id = 8;
	put(&world, &slot, 1);
	world_take(&world, &second);
	CHECK_OK(sluice_release(world.conn, &first));
	slot.buffer.id = 7;
	put(&world, &slot, 1);
	world_take(&world, &first);
	CHECK_EQ(first.len, 100);
	slot.buffer.id = 8;
	put(&world, &slot, 1);
	world_judge(&world, false);
}

TAP_EACH(id_twice_at_once, row, lanes)
{
	struct sluice_slot slots[2] = {
		raw_buffer(0, 0, 100, 7, 1),
		raw_buffer(0, 0, 100, 7, 2),
	};
	struct world world;

	start(&world, row->direct);
	put(&world, slots, 2);
	world_judge(&world, false);
}

/* All ids of hold_limit at once are in order, the next one is not. */
TAP_EACH(hold_limit, row, lanes)
{
	struct sluice_options options = {
		.size = sizeof(options),
		.hold_limit = 16,
	};
	struct sluice_slot slot;
	struct sluice_msg msg;
	struct world world;
	uint32_t i;

	world_open(&world, &options, RAW_ALL);
	world_meet(&world);
	CHECK_EQ(world.raw.peer.hold_limit, 16);
	world_segment(&world, 0);
	if (row->direct)
		world_direct(&world);
	for (i = 0; i < 16; i++) {
		slot = raw_buffer(0, 0, 10, i, i);
		put(&world, &slot, 1);
		world_take(&world, &msg);
	}
	world_fine(&world);
	slot = raw_buffer(0, 0, 10, 16, 0);
	put(&world, &slot, 1);
	world_judge(&world, false);
}

/* Parts ------------------------------------------------------------------- */

static const struct parts {
	const char *name;
	unsigned int count; /* slots with MORE, then one without */
	bool fine;
} parts[] = {
	{ "two", 1, true },
	{ "most", SLUICE_PARTS_MAX - 1, true },
	{ "one-too-many", SLUICE_PARTS_MAX, false },
	{ "never-ending", 3 * SLUICE_PARTS_MAX, false },
};

/* What the ring of 64 slots has no room for is published behind the rest. */
TAP_EACH(parts_direct, row, parts)
{
	struct sluice_slot slots[4 * SLUICE_PARTS_MAX];
	unsigned int i, first = row->count + 1;
	struct sluice_msg msg;
	struct world world;
	int r = 1;

	start(&world, true);
	for (i = 0; i <= row->count; i++) {
		slots[i] = inline_slot();
		slots[i].flags = i < row->count ? SLUICE_SLOT_F_MORE : 0;
	}
	if (first > 64)
		first = 64;
	put(&world, slots, first);
	for (i = first; i <= row->count && r == 1; i++) {
		r = world_recv(&world, &msg, 5000000000ll * tap_slow);
		put(&world, &slots[i], 1);
	}
	for (i = 0; row->fine && i <= row->count; i++) {
		world_take(&world, &msg);
		CHECK_EQ(msg.flags, slots[i].flags);
	}
	world_judge(&world, row->fine);
}

/* A DATA frame holds whole messages. */
TAP_TEST(parts_queued)
{
	struct sluice_slot slots[SLUICE_FRAME_SLOTS_MAX];
	struct world world;
	int i;

	start(&world, false);
	for (i = 0; i < SLUICE_FRAME_SLOTS_MAX; i++) {
		slots[i] = inline_slot();
		slots[i].flags = SLUICE_SLOT_F_MORE;
	}
	slots[SLUICE_FRAME_SLOTS_MAX - 1].flags = 0;
	put(&world, slots, SLUICE_FRAME_SLOTS_MAX);
	world_fine(&world);
	slots[SLUICE_FRAME_SLOTS_MAX - 1].flags = SLUICE_SLOT_F_MORE;
	put(&world, slots, SLUICE_FRAME_SLOTS_MAX);
	world_judge(&world, false);
}

TAP_TEST(parts_over_two_frames)
{
	struct sluice_slot slot = inline_slot();
	struct world world;

	start(&world, false);
	slot.flags = SLUICE_SLOT_F_MORE;
	put(&world, &slot, 1);
	slot.flags = 0;
	put(&world, &slot, 1);
	world_judge(&world, false);
}

/* The lane cannot end within a message. */
TAP_TEST(switch_within_message)
{
	struct sluice_slot slots[2] = { inline_slot(),
					{ .kind = SLUICE_SLOT_SWITCH } };
	struct world world;

	start(&world, true);
	slots[0].flags = SLUICE_SLOT_F_MORE;
	put(&world, slots, 2);
	world_judge(&world, false);
}

/*
 * A first part whose others never come: it is not a message, so no end of
 * stream may follow as if all had been well.
 */
TAP_TEST(half_a_message)
{
	struct sluice_slot slot = inline_slot();
	struct sluice_msg msg;
	struct world world;
	int r;

	start(&world, true);
	slot.flags = SLUICE_SLOT_F_MORE;
	put(&world, &slot, 1);
	raw_close(&world.raw);
	do {
		r = world_recv(&world, &msg, 5000000000ll * tap_slow);
	} while (r == 1);
	if (r != -ECONNRESET)
		CHECK_EQ(r, -EPROTO);
	world_close(&world);
}

/* The SWITCH slot --------------------------------------------------------- */

static const struct change switches[] = {
	{ "unchanged", .fine = true },
	{ "len", ALONE(slot, len, 1) },
	{ "flags-more", ALONE(slot, flags, SLUICE_SLOT_F_MORE) },
	{ "flags-2", ALONE(slot, flags, 2) },
	{ "segment", ALONE(slot, segment, 1) },
	{ "conn", ALONE(slot, conn, 1) },
	{ "offset", ALONE(slot, offset, 1) },
	{ "tag", ALONE(slot, tag, 1) },
	{ "byte-32", ALONE(slot, inline_data[0], 1) },
	{ "byte-40", ALONE(slot, inline_data[8], 1) },
	{ "byte-63", ALONE(slot, inline_data[31], 1) },
};

TAP_EACH(switch_slot, row, switches)
{
	struct sluice_slot slot = { .kind = SLUICE_SLOT_SWITCH };
	struct world world;

	start(&world, true);
	change_bytes(row, &slot);
	put(&world, &slot, 1);
	world.direct = false;
	world_judge(&world, row->fine);
}

/* Behind a SWITCH slot the ring is silent until the next SWITCH frame. */
static const struct back {
	const char *name;
	int off; /* of the position in the SWITCH frame */
	bool fine;
} backs[] = {
	{ "right", 0, true },
	{ "before", -1, false },
	{ "after", 1, false },
	{ "far", 64, false },
};

TAP_EACH(switch_again, row, backs)
{
	struct sluice_slot slots[2] = { { .kind = SLUICE_SLOT_SWITCH },
					inline_slot() };
	struct sluice_msg msg;
	struct world world;
	struct raw_message m;
	uint32_t position;

	start(&world, true);
	put(&world, slots, 1);
	position = world.raw.tx_position;
	put(&world, &slots[1], 1);
	world.direct = false;
	CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
	world_fine(&world);
	raw_frame(&m, SLUICE_FRAME_SWITCH, 0, position + (uint32_t)row->off,
		  NULL, 0);
	raw_send(world.raw.sock, &m);
	world.direct = true;
	if (row->fine) {
		world_take(&world, &msg);
		CHECK_EQ(msg.len, 5);
	}
	world_judge(&world, row->fine);
}
