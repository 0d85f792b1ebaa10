/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Breaches in the negotiation: HELLO and HELLO_ACK, field by field, and the
 * geometry of the link that they carry.
 */
#include <string.h>

#include "hostile.h"

static void say_hello(struct world *world, uint8_t type)
{
	struct raw_message m;

	raw_hello(&world->raw, &m, type,
		  type == SLUICE_FRAME_HELLO ? 0 : world->raw.peer.cookie);
	raw_send(world->raw.sock, &m);
}

/* A frame of n bytes whose value field agrees with it. */
#define SIZED(n) HEAD(value, (n)-8), .grow = (n)-72

/* The HELLO of an endpoint with a link: PROTOCOL.md sections 4, 5 and 11. */
static const struct change hellos[] = {
	{ "unchanged", .fine = true },
	{ "bytes-0", .grow = -72 },
	{ "bytes-1", .grow = -71 },
	{ "bytes-7", .grow = -65 },
	{ "bytes-8", .grow = -64 },
	{ "bytes-71", .grow = -1 },
	{ "bytes-73", .grow = 1 },
	{ "body-63", SIZED(71) },
	{ "body-0", SIZED(8) },
	{ "body-65", SIZED(73), .fine = true },
	{ "body-128", SIZED(136), .fine = true },
	{ "body-largest", SIZED(4104), .fine = true },
	{ "body-too-large", SIZED(4105) },
	{ "body-far-too-large", SIZED(8192) },
	{ "value-63", HEAD(value, 63) },
	{ "value-65", HEAD(value, 65) },
	{ "value-0", HEAD(value, 0) },
	{ "value-largest", HEAD(value, 0xffffffff) },
	{ "type-0", HEAD(type, 0) },
	{ "type-segment-add", HEAD(type, SLUICE_FRAME_SEGMENT_ADD) },
	{ "type-segment-del", HEAD(type, SLUICE_FRAME_SEGMENT_DEL) },
	{ "type-data", HEAD(type, SLUICE_FRAME_DATA) },
	{ "type-release", HEAD(type, SLUICE_FRAME_RELEASE) },
	{ "type-switch", HEAD(type, SLUICE_FRAME_SWITCH) },
	{ "type-doorbell", HEAD(type, SLUICE_FRAME_DOORBELL) },
	{ "type-bye", HEAD(type, SLUICE_FRAME_BYE) },
	{ "type-unknown", HEAD(type, 11) },
	{ "type-ignorable", HEAD(type, 11), .fds = NO_FDS },
	{ "flags-ack", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "flags-ignorable", HEAD(flags, SLUICE_FRAME_F_IGNORABLE) },
	{ "count", HEAD(count, 1) },
	{ "fds-0", .fds = NO_FDS },
	{ "fds-2", .fds = 2 },
	{ "fds-16", .fds = 16 },
	{ "fds-253", .fds = 253 },
	{ "magic", BODY(hello, magic, SLUICE_HELLO_MAGIC ^ 1) },
	{ "magic-of-link", BODY(hello, magic, SLUICE_LINK_MAGIC) },
	{ "minor-1", BODY(hello, minor, 1), .fine = true },
	{ "minor-65535", BODY(hello, minor, 65535), .fine = true },
	{ "features-unknown", BODY(hello, features, ~7ull | RAW_ALL),
	  .fine = true },
	{ "features-link-only", BODY(hello, features, SLUICE_FEAT_LINK),
	  .fine = true },
	{ "features-without-link", BODY(hello, features, 0) },
	{ "cookie-0", BODY(hello, cookie, 0) },
	{ "echo", BODY(hello, echo, 1) },
	{ "map-limit-0", BODY(hello, map_limit, 0), .fine = true },
	{ "map-limit-largest", BODY(hello, map_limit, ~0ull), .fine = true },
	{ "link-size-0", BODY(hello, link_size, 0) },
	{ "link-size-255", BODY(hello, link_size, 255) },
	{ "link-size-small", BODY(hello, link_size, 4096) },
	{ "link-size-large", BODY(hello, link_size, 12288) },
	{ "link-size-largest", BODY(hello, link_size, 0xffffffff) },
	{ "hold-limit-0", BODY(hello, hold_limit, 0) },
	{ "hold-limit-15", BODY(hello, hold_limit, 15) },
	{ "hold-limit-16", BODY(hello, hold_limit, 16), .fine = true },
	{ "hold-limit-17", BODY(hello, hold_limit, 17), .fine = true },
	{ "hold-limit-over-release-slots", BODY(hello, hold_limit, 257) },
	{ "hold-limit-65537", BODY(hello, hold_limit, 65537) },
	{ "hold-limit-largest", BODY(hello, hold_limit, 0xffffffff) },
	{ "segment-limit-0", BODY(hello, segment_limit, 0), .fine = true },
	{ "segment-limit-1024", BODY(hello, segment_limit, 1024),
	  .fine = true },
	{ "segment-limit-1025", BODY(hello, segment_limit, 1025) },
	{ "segment-limit-largest", BODY(hello, segment_limit, 0xffffffff) },
	{ "resv-0", BODY(hello, __resv[0], 1) },
	{ "resv-1", BODY(hello, __resv[1], 1u << 31) },
	{ "resv-2", BODY(hello, __resv[2], 1) },
};

/* Two HELLOs that cross. */
TAP_EACH(hello, row, hellos)
{
	struct world world;
	struct raw_message m;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	raw_hello(&world.raw, &m, SLUICE_FRAME_HELLO, 0);
	change_frame(row, &m);
	raw_send(world.raw.sock, &m);
	world_judge(&world, row->fine);
}

/* The same fields in the answer; only its echo is another. */
TAP_EACH(hello_ack, row, hellos)
{
	struct world world;
	struct raw_message m;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	raw_hello(&world.raw, &m, SLUICE_FRAME_HELLO_ACK,
		  world.raw.peer.cookie);
	change_frame(row, &m);
	raw_send(world.raw.sock, &m);
	world_judge(&world, row->fine);
}

/* What only an endpoint without a link can get wrong. */
static const struct change linkless[] = {
	{ "unchanged", .fine = true },
	{ "fds-1", .fds = 1 },
	{ "fds-16", .fds = 16 },
	{ "link-size", BODY(hello, link_size, 8192) },
	{ "features-link", BODY(hello, features, SLUICE_FEAT_LINK) },
	{ "features-direct", BODY(hello, features, SLUICE_FEAT_DIRECT) },
	{ "hold-limit-65536", BODY(hello, hold_limit, 65536), .fine = true },
	{ "hold-limit-65537", BODY(hello, hold_limit, 65537) },
};

TAP_EACH(hello_without_link, row, linkless)
{
	struct world world;
	struct raw_message m;

	world_open(&world, NULL, 0);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	raw_hello(&world.raw, &m, SLUICE_FRAME_HELLO, 0);
	change_frame(row, &m);
	raw_send(world.raw.sock, &m);
	world_judge(&world, row->fine);
}

/* Of another major version is not a breach; the peer learns why it ends. */
static const struct major {
	const char *name;
	uint16_t major;
	uint8_t type;
} majors[] = {
	{ "hello-0", 0, SLUICE_FRAME_HELLO },
	{ "hello-2", 2, SLUICE_FRAME_HELLO },
	{ "ack-0", 0, SLUICE_FRAME_HELLO_ACK },
	{ "ack-2", 2, SLUICE_FRAME_HELLO_ACK },
};

TAP_EACH(major, row, majors)
{
	struct sluice_conn_info info;
	struct raw_message m;
	struct sluice_msg msg;
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	world.raw.hello.major = row->major;
	say_hello(&world, row->type);
	CHECK_EQ(sluice_recv(world.conn, &msg), -EPROTONOSUPPORT);
	CHECK_EQ(sluice_send(world.conn, "x", 1, 0, 0), -EPROTONOSUPPORT);
	sluice_conn_info(world.conn, &info);
	CHECK_EQ(info.error, -EPROTONOSUPPORT);
	CHECK(info.error_text[0]);
	raw_recv(world.raw.sock, &m);
	CHECK_EQ(m.frame.type, SLUICE_FRAME_ERROR);
	CHECK_EQ(m.frame.value, EPROTONOSUPPORT);
	raw_recv(world.raw.sock, &m);
	CHECK(m.end);
	world_close(&world);
}

/* The first frame of a direction is its only HELLO. */
static const struct again {
	const char *name;
	uint8_t first, second;
} agains[] = {
	{ "hello-hello", SLUICE_FRAME_HELLO, SLUICE_FRAME_HELLO },
	{ "hello-ack", SLUICE_FRAME_HELLO, SLUICE_FRAME_HELLO_ACK },
	{ "ack-hello", SLUICE_FRAME_HELLO_ACK, SLUICE_FRAME_HELLO },
	{ "ack-ack", SLUICE_FRAME_HELLO_ACK, SLUICE_FRAME_HELLO_ACK },
};

TAP_EACH(hello_twice, row, agains)
{
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	say_hello(&world, row->first);
	world_fine(&world);
	say_hello(&world, row->second);
	world_judge(&world, false);
}

/* An ACK must echo this very connection's cookie. */
static const struct echo {
	const char *name;
	int64_t off;
	bool zero;
} echoes[] = {
	{ "off-by-one", 1, false },
	{ "off-by-high-bit", INT64_MIN, false },
	{ "zero", 0, true },
};

TAP_EACH(ack_echo, row, echoes)
{
	struct world world;
	struct raw_message m;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	raw_hello(&world.raw, &m, SLUICE_FRAME_HELLO_ACK,
		  row->zero ? 0 : world.raw.peer.cookie ^ (uint64_t)row->off);
	raw_send(world.raw.sock, &m);
	world_judge(&world, false);
}

/* Geometry ---------------------------------------------------------------- */

/*
 * Changes to a good link: 8192 bytes, 64 slots at 256, 256 releases at 4352, of
 * an endpoint with hold_limit 256. PROTOCOL.md sections 2 and 11.
 */
static const struct change links[] = {
	{ "unchanged", .fine = true },
	{ "magic", ALONE(link, magic, SLUICE_LINK_MAGIC ^ 0x80) },
	{ "major-0", ALONE(link, major, 0) },
	{ "major-2", ALONE(link, major, 2) },
	{ "minor-1", ALONE(link, minor, 1), .fine = true },
	{ "size-0", ALONE(link, size, 0) },
	{ "size-less", ALONE(link, size, 4096) },
	{ "size-more", ALONE(link, size, 8256) },
	{ "ring-offset-0", ALONE(link, ring_offset, 0) },
	{ "ring-offset-in-header", ALONE(link, ring_offset, 192) },
	{ "ring-offset-unaligned", ALONE(link, ring_offset, 256 + 8) },
	{ "ring-offset-odd", ALONE(link, ring_offset, 257) },
	{ "ring-over-releases", ALONE(link, ring_offset, 320) },
	{ "ring-on-releases", ALONE(link, ring_offset, 4096) },
	{ "ring-past-the-end", ALONE(link, ring_offset, 8192) },
	{ "ring-partly-past-the-end", ALONE(link, ring_offset, 6464) },
	{ "ring-offset-wraps", ALONE(link, ring_offset, 0xffffffc0) },
	{ "ring-slots-0", ALONE(link, ring_slots, 0) },
	{ "ring-slots-8", ALONE(link, ring_slots, 8) },
	{ "ring-slots-63", ALONE(link, ring_slots, 63) },
	{ "ring-slots-48", ALONE(link, ring_slots, 48) },
	{ "ring-slots-128", ALONE(link, ring_slots, 128) },
	{ "ring-slots-131072", ALONE(link, ring_slots, 131072) },
	{ "ring-slots-wrap", ALONE(link, ring_slots, 1u << 26) },
	{ "ring-slots-largest", ALONE(link, ring_slots, 1u << 31) },
	{ "release-offset-0", ALONE(link, release_offset, 0) },
	{ "release-offset-in-header", ALONE(link, release_offset, 128) },
	{ "release-offset-unaligned", ALONE(link, release_offset, 4352 + 8) },
	{ "release-offset-odd", ALONE(link, release_offset, 4353) },
	{ "releases-over-ring", ALONE(link, release_offset, 4288) },
	{ "releases-in-ring", ALONE(link, release_offset, 1024) },
	{ "releases-past-the-end", ALONE(link, release_offset, 8192) },
	{ "releases-partly-past-the-end",
	  ALONE(link, release_offset, 8192 - 2048 + 64) },
	{ "releases-at-the-end", ALONE(link, release_offset, 8192 - 2048),
	  .fine = true },
	{ "release-offset-wraps", ALONE(link, release_offset, 0xffffffc0) },
	{ "release-slots-0", ALONE(link, release_slots, 0) },
	{ "release-slots-8", ALONE(link, release_slots, 8) },
	{ "release-slots-255", ALONE(link, release_slots, 255) },
	{ "release-slots-384", ALONE(link, release_slots, 384) },
	{ "release-slots-under-hold-limit", ALONE(link, release_slots, 128) },
	{ "release-slots-131072", ALONE(link, release_slots, 131072) },
	{ "release-slots-wrap", ALONE(link, release_slots, 1u << 29) },
	{ "resv0-0", ALONE(link, __resv0[0], 1) },
	{ "resv0-1", ALONE(link, __resv0[1], 1) },
	{ "resv0-2", ALONE(link, __resv0[2], 1) },
	{ "resv0-3", ALONE(link, __resv0[3], 1) },
	{ "resv0-4", ALONE(link, __resv0[4], 1) },
	{ "resv0-5", ALONE(link, __resv0[5], 1u << 31) },
};

TAP_EACH(link, row, links)
{
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	change_bytes(row, world.raw.link);
	say_hello(&world, SLUICE_FRAME_HELLO_ACK);
	world_judge(&world, row->fine);
}

/* Just as large as what is in it: no page multiple. */
TAP_TEST(link_of_odd_size)
{
	struct raw_memory exact;
	struct raw_message m;
	struct world world;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	raw_memory_new(&exact, 256 + 64 * 64 + 256 * 8, SLUICE_SEALS, 0);
	world.raw.hello.link_size = world.raw.link->size = (uint32_t)exact.size;
	memcpy(exact.base, world.raw.link, exact.size);
	raw_hello(&world.raw, &m, SLUICE_FRAME_HELLO_ACK,
		  world.raw.peer.cookie);
	raw_drop(&m);
	raw_attach(&m, exact.fd);
	raw_send(world.raw.sock, &m);
	exact.fd = -1;
	world_fine(&world);
	raw_memory_free(&exact);
	world_close(&world);
}

/* Counters may start anywhere, and each alone. */
static const struct change firsts[] = {
	{ "ring-0", ALONE(link, ring_first, 0) },
	{ "ring-1", ALONE(link, ring_first, 1) },
	{ "ring-largest", ALONE(link, ring_first, 0xffffffff) },
	{ "release-0", ALONE(link, release_first, 0) },
	{ "release-largest", ALONE(link, release_first, 0xffffffff) },
	{ "rx-0", ALONE(link, rx_first, 0) },
	{ "rx-largest", ALONE(link, rx_first, 0xffffffff) },
};

/* Lays the rings out anew for the first positions in the header. */
static void rings_restart(struct raw *raw)
{
	uint32_t i, p, slots = raw->link->ring_slots;

	raw->tx_position = raw->link->ring_first;
	raw->release_position = raw->link->release_first;
	raw->link->rx_head = raw->link->rx_first;
	for (i = 0; i < slots; i++) {
		p = raw->link->ring_first + i;
		raw->ring[p & raw->ring_mask].seq = p + 1 - slots;
	}
	slots = raw->link->release_slots;
	for (i = 0; i < slots; i++) {
		p = raw->link->release_first + i;
		raw->releases[p & raw->release_mask].seq = p + 1 - slots;
	}
}

/* Each counter passes its wrap, or is far from it, with messages both ways. */
TAP_EACH(first_position, row, firsts)
{
	struct sluice_slot slot;
	struct world world;
	char data[100];
	int i;

	world_open(&world, NULL, RAW_ALL);
	raw_meet(&world.raw, SLUICE_FRAME_HELLO);
	change_bytes(row, world.raw.link);
	rings_restart(&world.raw);
	say_hello(&world, SLUICE_FRAME_HELLO_ACK);
	world_fine(&world);
	world_direct(&world);
	for (i = 0; i < 300; i++) {
		world_fine(&world);
		tap_fill(data, sizeof(data), (uint64_t)i);
		CHECK_OK(sluice_send(world.conn, data, sizeof(data), 1, 0));
		CHECK_MEM(raw_next(&world.raw, &slot), data, sizeof(data));
		raw_release(&world.raw, slot.buffer.id);
	}
	world_judge(&world, true);
}
