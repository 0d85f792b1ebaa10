/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The end of a stream: BYE field by field, what may not follow it, positions
 * that lie, and peers that go without a word. PROTOCOL.md section 10.
 */
#include <string.h>

#include "hostile.h"

#define WAIT_NS (5000000000ll * tap_slow)

static void start(struct world *world, uint64_t features, bool direct)
{
	world_open(world, NULL, features);
	world_meet(world);
	if (direct)
		world_direct(world);
	world_fine(world);
}

static void say(struct world *world, uint64_t tag)
{
	struct sluice_slot slot = raw_inline("data", 4, tag);

	if (world->direct)
		raw_publish(&world->raw, &slot, 1);
	else
		raw_say(&world->raw, "data", 4, tag);
}

static void bye(struct world *world, uint32_t position)
{
	struct raw_message m;

	raw_frame(&m, SLUICE_FRAME_BYE, 0, position, NULL, 0);
	raw_send(world->raw.sock, &m);
}

/* count messages with tags 1, 2, ... are there, then the stream ends so. */
static void check_end(struct world *world, uint64_t count, int end)
{
	struct sluice_msg msg;
	uint64_t i;

	for (i = 1; i <= count; i++) {
		world_take(world, &msg);
		CHECK_EQ(msg.tag, i);
		CHECK_EQ(msg.len, 4);
	}
	CHECK_EQ(world_recv(world, &msg, WAIT_NS), end);
	CHECK_EQ(sluice_recv(world->conn, &msg), end);
}

/* The other direction goes on. */
static void check_half_open(struct world *world)
{
	struct sluice_slot slot;

	CHECK_OK(sluice_send(world->conn, "more", 4, 1, 0));
	CHECK_MEM(raw_next(&world->raw, &slot), "more", 4);
}

/* BYE --------------------------------------------------------------------- */

/* In the queued lane, no slot of the ring used: position 0xfffffff0. */
static const struct change byes[] = {
	{ "unchanged", .fine = true },
	{ "bytes-9", .grow = 1 },
	{ "flags-ack", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "flags-ignorable", HEAD(flags, SLUICE_FRAME_F_IGNORABLE) },
	{ "count", HEAD(count, 1) },
	{ "value-0", HEAD(value, 0) },
	{ "value-less", HEAD(value, 0xffffffef) },
	{ "value-more", HEAD(value, 0xfffffff1) },
	{ "value-far", HEAD(value, 0x7ffffff0) },
	{ "fd", .fds = 1 },
	{ "fds-16", .fds = 16 },
};

TAP_EACH(bye, row, byes)
{
	struct raw_message m;
	struct world world;

	start(&world, RAW_ALL, false);
	say(&world, 1);
	raw_frame(&m, SLUICE_FRAME_BYE, 0, world.raw.tx_position, NULL, 0);
	change_frame(row, &m);
	raw_send(world.raw.sock, &m);
	if (row->fine) {
		check_end(&world, 1, 0);
		check_half_open(&world);
	} else {
		world_breach(&world);
	}
	world_close(&world);
}

static const struct change linkless[] = {
	{ "unchanged", .fine = true },
	{ "value", HEAD(value, 1) },
};

TAP_EACH(bye_without_link, row, linkless)
{
	struct raw_message m;
	struct world world;

	start(&world, 0, false);
	say(&world, 1);
	raw_frame(&m, SLUICE_FRAME_BYE, 0, 0, NULL, 0);
	change_frame(row, &m);
	raw_send(world.raw.sock, &m);
	if (row->fine)
		check_end(&world, 1, 0);
	else
		world_breach(&world);
	world_close(&world);
}

/* In the direct lane, five messages published and none read. */
static const struct position {
	const char *name;
	int off; /* from the position after them */
	bool fine;
} positions[] = {
	{ "right", 0, true },
	{ "before-what-was-read", -6, false },
	{ "far-before", -1000, false },
	{ "a-ring-ahead", 65, false },
	{ "far-ahead", 1000000, false },
	{ "half-way-round", INT32_MIN, false },
};

TAP_EACH(bye_position, row, positions)
{
	struct world world;
	uint64_t tag;

	start(&world, RAW_ALL, true);
	for (tag = 1; tag <= 5; tag++)
		say(&world, tag);
	bye(&world, world.raw.tx_position + (uint32_t)row->off);
	if (row->fine) {
		check_end(&world, 5, 0);
		check_half_open(&world);
	} else {
		world_breach(&world);
	}
	world_close(&world);
}

/* A position that is never published: not an orderly end, once it is over. */
TAP_TEST(bye_promises_too_much)
{
	struct sluice_msg msg;
	struct world world;
	int r;

	start(&world, RAW_ALL, true);
	say(&world, 1);
	bye(&world, world.raw.tx_position + 2);
	world_take(&world, &msg);
	r = sluice_recv(world.conn, &msg);
	if (r != -EPROTO)
		CHECK_EQ(r, -EAGAIN);
	raw_close(&world.raw);
	r = world_recv(&world, &msg, WAIT_NS);
	if (r != -EPROTO)
		CHECK_EQ(r, -ECONNRESET);
	world_close(&world);
}

/* A BYE that overtakes what it announces, which comes later, is in order. */
TAP_TEST(bye_before_its_slots)
{
	struct sluice_msg msg;
	struct world world;

	start(&world, RAW_ALL, true);
	bye(&world, world.raw.tx_position + 2);
	CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
	say(&world, 1);
	say(&world, 2);
	check_end(&world, 2, 0);
	world_close(&world);
}

/* After BYE --------------------------------------------------------------- */

static const struct after {
	const char *name;
	uint8_t type;
	bool direct;
	bool fine;
} afters[] = {
	{ "doorbell", SLUICE_FRAME_DOORBELL, false, true },
	{ "bye", SLUICE_FRAME_BYE, false, false },
	{ "bye-direct", SLUICE_FRAME_BYE, true, false },
	{ "data", SLUICE_FRAME_DATA, false, false },
	{ "switch", SLUICE_FRAME_SWITCH, false, false },
	{ "hello", SLUICE_FRAME_HELLO, false, false },
};

/*
 * Nothing more is delivered; the breach shows at the latest when this side has
 * to read its socket, to send on.
 */
TAP_EACH(after_bye, row, afters)
{
	struct sluice_slot slot = raw_inline("late", 4, 2);
	int64_t until = tap_now() + WAIT_NS;
	struct raw_message m;
	struct sluice_msg msg;
	struct world world;
	int r, s;

	start(&world, RAW_ALL, row->direct);
	say(&world, 1);
	bye(&world, world.raw.tx_position);
	if (row->type == SLUICE_FRAME_DATA)
		raw_data(&m, &slot, 1);
	else if (row->type == SLUICE_FRAME_HELLO)
		raw_hello(&world.raw, &m, SLUICE_FRAME_HELLO, 0);
	else
		raw_frame(&m, row->type, 0,
			  row->fine ? 0 : world.raw.tx_position, NULL, 0);
	raw_send(world.raw.sock, &m);
	do {
		r = world_recv(&world, &msg, WAIT_NS);
	} while (r == 1 && msg.tag == 1);
	if (r != -EPROTO)
		CHECK_EQ(r, 0);
	if (row->fine) {
		check_half_open(&world);
		CHECK_EQ(sluice_recv(world.conn, &msg), 0);
		world_close(&world);
		return;
	}
	do {
		CHECK_LT(tap_now(), until);
		s = sluice_send(world.conn, "x", 1, 0, 0);
		r = sluice_recv(world.conn, &msg);
		CHECK_NE(r, 1);
	} while (s == 0 || s == -EAGAIN);
	CHECK_EQ(s, -EPROTO);
	world_breach(&world);
	world_close(&world);
}

/* A slot behind the announced position is no message: BYE is believed. */
TAP_TEST(slot_after_bye)
{
	struct sluice_msg msg;
	struct world world;
	int i;

	start(&world, RAW_ALL, true);
	say(&world, 1);
	bye(&world, world.raw.tx_position);
	check_end(&world, 1, 0);
	say(&world, 2);
	for (i = 0; i < 1000; i++)
		CHECK_LE(sluice_recv(world.conn, &msg), 0);
	world_close(&world);
}

/* Consumed before BYE was seen: then BYE lies. */
TAP_TEST(slot_behind_unread_bye)
{
	struct world world;

	start(&world, RAW_ALL, true);
	bye(&world, world.raw.tx_position);
	say(&world, 1);
	world_breach(&world);
	world_close(&world);
}

/* Without BYE ------------------------------------------------------------- */

static const struct gone {
	const char *name;
	uint64_t features;
	bool direct;
	bool bye;
	bool unread; /* messages of conn lie unread when it goes */
	int end;
} gones[] = {
	{ "queued", 0, false, false, false, -ECONNRESET },
	{ "queued-unread", 0, false, false, true, -ECONNRESET },
	{ "queued-bye", 0, false, true, false, 0 },
	{ "queued-bye-unread", 0, false, true, true, 0 },
	{ "linked-unread", RAW_ALL, false, false, true, -ECONNRESET },
	{ "linked-bye-unread", RAW_ALL, false, true, true, 0 },
	{ "direct", RAW_ALL, true, false, false, -ECONNRESET },
	{ "direct-unread", RAW_ALL, true, false, true, -ECONNRESET },
	{ "direct-bye", RAW_ALL, true, true, false, 0 },
	{ "direct-bye-unread", RAW_ALL, true, true, true, 0 },
};

/*
 * All that was sent is delivered, then the right end comes: also when recv
 * reports ECONNRESET before the messages that are still in the socket.
 */
TAP_EACH(peer_goes, row, gones)
{
	struct world world;
	uint64_t tag;

	start(&world, row->features, row->direct);
	/* Asleep it is rung for; the DOORBELL stays in its socket. */
	if (row->unread && row->features)
		world.raw.link->rx_state = SLUICE_STATE_SLEEP |
					   SLUICE_STATE_ASLEEP;
	if (row->unread)
		CHECK_OK(sluice_send(world.conn, "unread", 6, 1, 0));
	for (tag = 1; tag <= 5; tag++)
		say(&world, tag);
	if (row->bye)
		bye(&world, row->features ? world.raw.tx_position : 0);
	raw_close(&world.raw);
	check_end(&world, 5, row->end);
	CHECK_EQ(sluice_send(world.conn, "x", 1, 0, 0), -EPIPE);
	world_close(&world);
}
