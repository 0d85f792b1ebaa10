/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Breaches in RELEASE, SEGMENT_DEL, SWITCH and BYE, field by field, and in what
 * is legal when: PROTOCOL.md sections 4, 6, 7 and 10.
 */
#include <stdlib.h>
#include <string.h>

#include "hostile.h"

static void start(struct world *world, const struct sluice_options *options,
		  uint64_t features)
{
	world_open(world, options, features);
	world_meet(world);
	world_segment(world, 0);
	world_fine(world);
}

static void send_frame(struct world *world, uint8_t type, uint8_t flags,
		       uint16_t count, uint32_t value)
{
	struct raw_message m;

	raw_frame(&m, type, count, value, NULL, 0);
	m.frame.flags = flags;
	raw_send(world->raw.sock, &m);
}

static void send_changed(struct world *world, const struct change *row,
			 struct raw_message *m)
{
	change_frame(row, m);
	raw_send(world->raw.sock, m);
}

/* Lets conn send a buffer; its id. */
static uint32_t take_buffer(struct world *world)
{
	struct sluice_slot slot;
	char data[5000];

	tap_fill(data, sizeof(data), 5);
	CHECK_OK(sluice_send(world->conn, data, sizeof(data), 5, 0));
	CHECK_MEM(raw_next(&world->raw, &slot), data, sizeof(data));
	CHECK_EQ(slot.kind, SLUICE_SLOT_BUFFER);
	return slot.buffer.id;
}

static uint32_t out_buffers(struct world *world)
{
	struct sluice_conn_info info;

	sluice_conn_info(world->conn, &info);
	return info.out_buffers;
}

/* RELEASE frames ---------------------------------------------------------- */

/* Of one id: 12 bytes. */
static const struct change releases[] = {
	{ "unchanged", .fine = true },
	{ "bytes-11", .grow = -1 },
	{ "bytes-13", .grow = 1 },
	{ "bytes-8", .grow = -4 },
	{ "bytes-16", .grow = 4 },
	{ "bytes-4104", .grow = 4092 },
	{ "flags-ack", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "flags-ignorable", HEAD(flags, SLUICE_FRAME_F_IGNORABLE) },
	{ "count-0", HEAD(count, 0) },
	{ "count-0-no-id", HEAD(count, 0), .grow = -4 },
	{ "count-2", HEAD(count, 2) },
	{ "count-1025", HEAD(count, 1025) },
	{ "count-1025-ids-1025", HEAD(count, 1025), .grow = 4096 },
	{ "count-largest", HEAD(count, 65535) },
	{ "value", HEAD(value, 1) },
	{ "fd", .fds = 1 },
	{ "fds-16", .fds = 16 },
	{ "id-256", .at = 8, .width = 4, .value = 256 },
	{ "id-65536", .at = 8, .width = 4, .value = 65536 },
	{ "id-largest", .at = 8, .width = 4, .value = 0xffffffff },
	{ "id-other", .at = 8, .width = 4, .value = 77 },
};

TAP_EACH(release, row, releases)
{
	struct raw_message m;
	struct world world;
	uint32_t id;

	start(&world, NULL, 0);
	id = take_buffer(&world);
	CHECK_NE(id, 77);
	raw_frame(&m, SLUICE_FRAME_RELEASE, 1, 0, &id, sizeof(id));
	send_changed(&world, row, &m);
	if (row->fine) {
		world_fine(&world);
		CHECK_EQ(out_buffers(&world), 0);
	}
	world_judge(&world, row->fine);
}

static void release(struct world *world, uint32_t first, uint32_t second)
{
	uint32_t ids[2] = { first, second };
	struct raw_message m;

	raw_frame(&m, SLUICE_FRAME_RELEASE, 2, 0, ids, sizeof(ids));
	raw_send(world->raw.sock, &m);
}

static void release_one(struct world *world, uint32_t id)
{
	struct raw_message m;

	raw_frame(&m, SLUICE_FRAME_RELEASE, 1, 0, &id, sizeof(id));
	raw_send(world->raw.sock, &m);
}

TAP_TEST(release_twice_in_a_frame)
{
	struct world world;
	uint32_t id;

	start(&world, NULL, 0);
	id = take_buffer(&world);
	take_buffer(&world);
	release(&world, id, id);
	world_judge(&world, false);
}

TAP_TEST(release_twice_in_two_frames)
{
	struct world world;
	uint32_t a, b, c;

	start(&world, NULL, 0);
	a = take_buffer(&world);
	b = take_buffer(&world);
	c = take_buffer(&world);
	release(&world, c, a);
	world_fine(&world);
	CHECK_EQ(out_buffers(&world), 1);
	release(&world, b, a);
	world_judge(&world, false);
}

/* With links on both sides, releases travel in the ring. */
TAP_TEST(release_frame_beside_ring)
{
	struct world world;

	start(&world, NULL, RAW_ALL);
	release_one(&world, take_buffer(&world));
	world_judge(&world, false);
}

/*
 * An id comes back into play with its RELEASE. While that cannot be sent, for
 * the attacker does not read, it is still held, however often it is used.
 */
TAP_TEST(id_used_before_its_release_was_sent)
{
	struct sluice_options options = { .size = sizeof(options),
					  .hold_limit = 16 };
	struct sluice_slot slot = raw_buffer(0, 0, 100, 3, 1);
	struct sluice_msg msg;
	struct raw_message m;
	struct world world;
	int i, r;

	if (getenv("SLUICE_RING"))
		tap_skip("a ring takes the RELEASE");
	start(&world, &options, 0);
	do {
		r = sluice_send(world.conn, "x", 1, 0, 0);
	} while (!r);
	CHECK_EQ(r, -EAGAIN);
	raw_data(&m, &slot, 1);
	for (i = 0; i < 1000; i++) {
		r = raw_try_send(world.raw.sock, &m);
		if (!r)
			r = sluice_recv(world.conn, &msg);
		if (r < 0)
			break;
		CHECK_EQ(r, 1);
		CHECK_OK(sluice_release(world.conn, &msg));
	}
	world.quiet = true; /* nor does it read why */
	world_judge(&world, false);
}

/* The release ring -------------------------------------------------------- */

static const struct ring {
	const char *name;
	uint32_t times; /* how often the right id comes */
	int64_t id; /* that comes instead, or -1 */
	bool fine;
} rings[] = {
	{ "right", 1, -1, true },	{ "twice", 2, -1, false },
	{ "other", 0, 77, false },	{ "at-hold-limit", 0, 256, false },
	{ "16-bits", 0, 65536, false }, { "largest", 0, 0xffffffff, false },
};

TAP_EACH(release_ring, row, rings)
{
	struct world world;
	uint32_t i, id;

	start(&world, NULL, RAW_ALL);
	id = take_buffer(&world);
	CHECK_NE(id, row->id);
	for (i = 0; i < row->times; i++)
		raw_release(&world.raw, id);
	if (row->id >= 0)
		raw_release(&world.raw, (uint32_t)row->id);
	if (row->fine)
		world_fine(&world);
	else
		world_breach_sending(&world);
	world_close(&world);
}

static const struct way {
	const char *name;
	uint64_t features;
} ways[] = { { "by_frame", 0 }, { "by_ring", RAW_ALL } };

/* One pool for two peers: an id that is outstanding at the other one. */
TAP_EACH(release_for_another_peer, row, ways)
{
	struct sluice_options options = { .size = sizeof(options) };
	struct sluice_conn *honest[2];
	struct sluice_conn_info info;
	struct sluice_msg msgs[3];
	struct world world;
	char data[5000];
	uint32_t id;
	int i;

	CHECK_OK(sluice_pool_new(&options.pool, NULL));
	CHECK_OK(sluice_pair(honest, &options));
	tap_fill(data, sizeof(data), 1);
	for (i = 0; i < 3; i++)
		CHECK_OK(sluice_send(honest[0], data, sizeof(data), 1, 0));
	for (i = 0; i < 3; i++)
		CHECK_EQ(sluice_recv_wait(honest[1], &msgs[i], -1), 1);

	start(&world, &options, row->features);
	id = take_buffer(&world);
	CHECK_NE(msgs[2].id, id);
	if (row->features)
		raw_release(&world.raw, msgs[2].id);
	else
		release_one(&world, msgs[2].id);
	world_breach_sending(&world);
	world_close(&world);

	sluice_conn_info(honest[0], &info);
	CHECK_EQ(info.out_buffers, 3);
	for (i = 0; i < 3; i++) {
		CHECK_MEM(sluice_msg_data(&msgs[i]), data, sizeof(data));
		CHECK_OK(sluice_release(honest[1], &msgs[i]));
	}
	sluice_conn_close(honest[0]);
	sluice_conn_close(honest[1]);
	sluice_pool_free(options.pool);
}

/* A ring that claims a whole turn of releases, of ids that are all wrong. */
TAP_TEST(release_ring_full_of_garbage)
{
	struct world world;
	int i;

	start(&world, NULL, RAW_ALL);
	take_buffer(&world);
	for (i = 0; i < 256; i++)
		raw_release(&world.raw, (uint32_t)tap_random() | 256);
	world_breach_sending(&world);
	world_close(&world);
}

/* SEGMENT_DEL ------------------------------------------------------------- */

/* Of segment 0, which nothing is held of. */
static const struct change dels[] = {
	{ "unchanged", .fine = true },
	{ "bytes-9", .grow = 1 },
	{ "bytes-24", .grow = 16 },
	{ "flags-2", HEAD(flags, 2) },
	{ "flags-3", HEAD(flags, 3) },
	{ "flags-ignorable", HEAD(flags, SLUICE_FRAME_F_IGNORABLE) },
	{ "ack-of-nothing", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "count", HEAD(count, 1) },
	{ "number-1", HEAD(value, 1) },
	{ "number-1024", HEAD(value, 1024) },
	{ "number-65536", HEAD(value, 65536) },
	{ "number-largest", HEAD(value, 0xffffffff) },
	{ "fd", .fds = 1 },
	{ "fds-16", .fds = 16 },
};

static void check_deleted(struct world *world, uint32_t number)
{
	struct sluice_conn_info info;
	struct raw_message m;
	struct sluice_msg msg;

	CHECK_EQ(world_recv(world, &msg, 0), -EAGAIN);
	raw_await(&world->raw, &m, SLUICE_FRAME_SEGMENT_DEL);
	CHECK_EQ(m.frame.flags, SLUICE_FRAME_F_ACK);
	CHECK_EQ(m.frame.value, number);
	CHECK_EQ(m.len, sizeof(m.frame));
	sluice_conn_info(world->conn, &info);
	CHECK_EQ(info.mapped_bytes, 0);
}

TAP_EACH(segment_del, row, dels)
{
	struct raw_message m;
	struct world world;

	start(&world, NULL, RAW_ALL);
	raw_frame(&m, SLUICE_FRAME_SEGMENT_DEL, 0, 0, NULL, 0);
	send_changed(&world, row, &m);
	if (row->fine) {
		check_deleted(&world, 0);
		world_segment(&world, 0);
	}
	world_judge(&world, row->fine);
}

TAP_TEST(segment_del_twice)
{
	struct world world;

	start(&world, NULL, RAW_ALL);
	send_frame(&world, SLUICE_FRAME_SEGMENT_DEL, 0, 0, 0);
	check_deleted(&world, 0);
	send_frame(&world, SLUICE_FRAME_SEGMENT_DEL, 0, 0, 0);
	world_judge(&world, false);
}

static const struct held {
	const char *name;
	bool taken; /* by the application, else it waits in the socket */
	bool released;
} helds[] = {
	{ "released", true, true },
	{ "held", true, false },
	{ "unread", false, false },
};

/* While a buffer of it is outstanding, a segment stays. */
TAP_EACH(segment_del_held, row, helds)
{
	struct sluice_slot slot = raw_buffer(0, 0, 100, 1, 1);
	struct raw_message m;
	struct sluice_msg msg;
	struct world world;

	start(&world, NULL, RAW_ALL);
	raw_data(&m, &slot, 1);
	raw_send(world.raw.sock, &m);
	if (row->taken)
		world_take(&world, &msg);
	if (row->released)
		CHECK_OK(sluice_release(world.conn, &msg));
	send_frame(&world, SLUICE_FRAME_SEGMENT_DEL, 0, 0, 0);
	if (row->released)
		check_deleted(&world, 0);
	world_judge(&world, row->released);
}

/* A slot cannot name a segment that is gone. */
TAP_TEST(segment_used_after_del)
{
	struct sluice_slot slot = raw_buffer(0, 0, 100, 1, 1);
	struct raw_message m;
	struct world world;

	start(&world, NULL, RAW_ALL);
	send_frame(&world, SLUICE_FRAME_SEGMENT_DEL, 0, 0, 0);
	check_deleted(&world, 0);
	raw_data(&m, &slot, 1);
	raw_send(world.raw.sock, &m);
	world_judge(&world, false);
}

static const struct ack {
	const char *name;
	unsigned int times;
	uint32_t off; /* from the number that was asked for */
	bool fine;
} acks[] = {
	{ "right", 1, 0, true },
	{ "twice", 2, 0, false },
	{ "other", 1, 1, false },
	{ "far", 1, 1024, false },
};

/* conn retires a segment; the attacker acknowledges more, or another. */
TAP_EACH(segment_del_ack, row, acks)
{
	struct raw_message m;
	struct world world;
	unsigned int i;
	uint32_t number;

	start(&world, NULL, RAW_ALL);
	raw_release(&world.raw, take_buffer(&world));
	CHECK_GT(sluice_pool_trim(sluice_conn_pool(world.conn)), 0);
	CHECK_OK(sluice_flush(world.conn));
	raw_await(&world.raw, &m, SLUICE_FRAME_SEGMENT_DEL);
	CHECK_EQ(m.frame.flags, 0);
	number = m.frame.value;
	for (i = 0; i < row->times; i++)
		send_frame(&world, SLUICE_FRAME_SEGMENT_DEL, SLUICE_FRAME_F_ACK,
			   0, number + row->off);
	world_judge(&world, row->fine);
}

/* SWITCH ------------------------------------------------------------------ */

/* The ring starts at position 0xfffffff0. */
static const struct change switches[] = {
	{ "unchanged", .fine = true },
	{ "bytes-9", .grow = 1 },
	{ "flags-ack", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "flags-ignorable", HEAD(flags, SLUICE_FRAME_F_IGNORABLE) },
	{ "count", HEAD(count, 1) },
	{ "value-0", HEAD(value, 0) },
	{ "value-less", HEAD(value, 0xffffffef) },
	{ "value-more", HEAD(value, 0xfffffff1) },
	{ "value-lap", HEAD(value, 0x30) },
	{ "fd", .fds = 1 },
	{ "fds-16", .fds = 16 },
};

TAP_EACH(switch_frame, row, switches)
{
	struct raw_message m;
	struct world world;

	start(&world, NULL, RAW_ALL);
	raw_frame(&m, SLUICE_FRAME_SWITCH, 0, 0xfffffff0, NULL, 0);
	send_changed(&world, row, &m);
	world.direct = row->fine;
	world_judge(&world, row->fine);
}

static const struct without {
	const char *name;
	uint32_t flags; /* of conn */
	uint64_t features; /* of the attacker */
} withouts[] = {
	{ "peer", 0, 0 },
	{ "own", SLUICE_F_NO_DIRECT, RAW_ALL },
	{ "both", SLUICE_F_NO_DIRECT, 0 },
};

TAP_EACH(switch_without_link, row, withouts)
{
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = row->flags,
	};
	struct world world;

	start(&world, &options, row->features);
	send_frame(&world, SLUICE_FRAME_SWITCH, 0, 0, world.raw.tx_position);
	world_judge(&world, false);
}

/* In the direct lane there are neither DATA nor SWITCH frames. */
TAP_TEST(switch_twice)
{
	struct world world;

	start(&world, NULL, RAW_ALL);
	world_direct(&world);
	world_fine(&world);
	send_frame(&world, SLUICE_FRAME_SWITCH, 0, 0, world.raw.tx_position);
	world_judge(&world, false);
}

TAP_TEST(data_in_direct_lane)
{
	struct world world;

	start(&world, NULL, RAW_ALL);
	world_direct(&world);
	world_fine(&world);
	raw_say(&world.raw, "no", 2, 1);
	world_judge(&world, false);
}

/* What is in the ring before SWITCH is not looked at. */
TAP_TEST(ring_before_switch)
{
	struct sluice_slot bad = { .kind = 99 };
	struct world world;

	start(&world, NULL, RAW_ALL);
	raw_publish(&world.raw, &bad, 1);
	world_fine(&world);
	world.raw.tx_position--;
	world_direct(&world);
	world_judge(&world, false);
}
