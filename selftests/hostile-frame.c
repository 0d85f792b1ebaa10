/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Breaches in frames: what is no frame at all, unknown types, and DATA,
 * DOORBELL and ERROR field by field. PROTOCOL.md section 4.
 */
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "hostile.h"

static void start(struct world *world, uint64_t features)
{
	world_open(world, NULL, features);
	world_meet(world);
	world_fine(world);
}

static void send_changed(struct world *world, const struct change *row,
			 struct raw_message *m)
{
	change_frame(row, m);
	raw_send(world->raw.sock, m);
}

/* Any frame --------------------------------------------------------------- */

/* A DOORBELL of this many bytes. */
static const struct change shorts[] = {
	{ "bytes-8", .fine = true }, { "bytes-7", .grow = -1 },
	{ "bytes-4", .grow = -4 },   { "bytes-1", .grow = -7 },
	{ "bytes-0", .grow = -8 },
};

TAP_EACH(short_frame, row, shorts)
{
	struct raw_message m;
	struct world world;

	start(&world, RAW_ALL);
	raw_frame(&m, SLUICE_FRAME_DOORBELL, 0, 0, NULL, 0);
	send_changed(&world, row, &m);
	world_judge(&world, row->fine);
}

#define IGNORABLE HEAD(flags, SLUICE_FRAME_F_IGNORABLE)

/* Of an unknown type, 8 bytes. */
static const struct unknown {
	const char *name;
	uint8_t type;
	bool fine;
	struct change change;
} unknowns[] = {
	{ "0", 0, false, { .fds = 0 } },
	{ "11", 11, false, { .fds = 0 } },
	{ "127", 127, false, { .fds = 0 } },
	{ "255", 255, false, { .fds = 0 } },
	{ "11-ack", 11, false, { HEAD(flags, SLUICE_FRAME_F_ACK) } },
	{ "11-64", 11, false, { HEAD(flags, 64) } },
	{ "0-ignorable", 0, true, { IGNORABLE } },
	{ "11-ignorable", 11, true, { IGNORABLE } },
	{ "255-ignorable", 255, true, { IGNORABLE } },
	{ "body", 11, true, { IGNORABLE, .grow = 13 } },
	{ "largest", 11, true, { IGNORABLE, .grow = 4096 } },
	{ "too-large", 11, false, { IGNORABLE, .grow = 4097 } },
	{ "far-too-large", 11, false, { IGNORABLE, .grow = 8184 } },
	{ "fd", 11, true, { IGNORABLE, .fds = 1 } },
	{ "fds-16", 11, true, { IGNORABLE, .fds = 16 } },
	{ "fds-253", 11, true, { IGNORABLE, .fds = 253 } },
};

/* What is skipped leaves nothing behind, while the conn lives. */
TAP_EACH(unknown_type, row, unknowns)
{
	struct raw_message m;
	struct world world;
	int fds;

	start(&world, RAW_ALL);
	fds = tap_open_fds();
	raw_frame(&m, row->type, 0, 0, NULL, 0);
	send_changed(&world, &row->change, &m);
	if (row->fine) {
		world_fine(&world);
		CHECK_EQ(tap_open_fds(), fds);
	}
	world_judge(&world, row->fine);
}

/* Known types are not ignorable, whatever they are. */
static const struct known {
	const char *name;
	uint8_t type;
} knowns[] = {
	{ "hello", SLUICE_FRAME_HELLO },
	{ "hello-ack", SLUICE_FRAME_HELLO_ACK },
	{ "segment-add", SLUICE_FRAME_SEGMENT_ADD },
	{ "segment-del", SLUICE_FRAME_SEGMENT_DEL },
	{ "data", SLUICE_FRAME_DATA },
	{ "release", SLUICE_FRAME_RELEASE },
	{ "switch", SLUICE_FRAME_SWITCH },
	{ "doorbell", SLUICE_FRAME_DOORBELL },
	{ "bye", SLUICE_FRAME_BYE },
	{ "error", SLUICE_FRAME_ERROR },
};

TAP_EACH(known_ignorable, row, knowns)
{
	struct raw_message m;
	struct world world;

	start(&world, RAW_ALL);
	raw_frame(&m, row->type, 0, 0, NULL, 0);
	m.frame.flags = SLUICE_FRAME_F_IGNORABLE;
	raw_send(world.raw.sock, &m);
	world_judge(&world, false);
}

/* Fields of a header may hold what they like if the frame is skipped. */
TAP_TEST(ignorable_fields)
{
	struct raw_message m;
	struct world world;

	start(&world, RAW_ALL);
	raw_frame(&m, 11, 0xffff, 0xffffffff, NULL, 0);
	m.frame.flags = SLUICE_FRAME_F_IGNORABLE;
	raw_send(world.raw.sock, &m);
	world_judge(&world, true);
}

/* DATA -------------------------------------------------------------------- */

/* Of one inline slot: 72 bytes. */
static const struct change datas[] = {
	{ "unchanged", .fine = true },
	{ "bytes-71", .grow = -1 },
	{ "bytes-73", .grow = 1 },
	{ "bytes-8", .grow = -64 },
	{ "bytes-136", .grow = 64 },
	{ "bytes-4104", .grow = 4032 },
	{ "bytes-4168", .grow = 4096 },
	{ "flags-ack", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "flags-2", HEAD(flags, 2) },
	{ "flags-ignorable", IGNORABLE },
	{ "count-0", HEAD(count, 0) },
	{ "count-0-no-slot", HEAD(count, 0), .grow = -64 },
	{ "count-2", HEAD(count, 2) },
	{ "count-64", HEAD(count, 64) },
	{ "count-65", HEAD(count, 65) },
	{ "count-65-slots-65", HEAD(count, 65), .grow = 64 * 64 },
	{ "count-257", HEAD(count, 257) },
	{ "count-largest", HEAD(count, 65535) },
	{ "value", HEAD(value, 1) },
	{ "fd", .fds = 1 },
	{ "fds-2", .fds = 2 },
	{ "fds-16", .fds = 16 },
};

TAP_EACH(data, row, datas)
{
	struct sluice_slot slot = raw_inline("hello", 5, 1);
	struct raw_message m;
	struct world world;

	start(&world, RAW_ALL);
	raw_data(&m, &slot, 1);
	send_changed(&world, row, &m);
	world_judge(&world, row->fine);
}

/* Every one of the most slots that a frame can have. */
TAP_TEST(data_of_64_slots)
{
	struct sluice_slot slots[SLUICE_FRAME_SLOTS_MAX];
	struct sluice_msg msg;
	struct raw_message m;
	struct world world;
	int i;

	start(&world, RAW_ALL);
	for (i = 0; i < SLUICE_FRAME_SLOTS_MAX; i++)
		slots[i] = raw_inline(&i, sizeof(i), (uint64_t)i);
	raw_data(&m, slots, SLUICE_FRAME_SLOTS_MAX);
	raw_send(world.raw.sock, &m);
	for (i = 0; i < SLUICE_FRAME_SLOTS_MAX; i++) {
		world_take(&world, &msg);
		CHECK_EQ(msg.tag, i);
		CHECK_EQ(msg.len, sizeof(i));
		CHECK_MEM(sluice_msg_data(&msg), &i, sizeof(i));
	}
	world_judge(&world, true);
}

/* After a bad slot nothing is delivered, before it everything. */
TAP_TEST(data_up_to_a_bad_slot)
{
	struct sluice_slot slots[3] = {
		raw_inline("a", 1, 1),
		raw_inline("b", 1, 2),
		raw_inline("c", 1, 3),
	};
	struct sluice_msg msg;
	struct raw_message m;
	struct world world;

	start(&world, RAW_ALL);
	raw_data(&m, slots, 1);
	raw_send(world.raw.sock, &m);
	world_take(&world, &msg);
	slots[1].conn = 1;
	raw_data(&m, slots + 1, 2);
	raw_send(world.raw.sock, &m);
	CHECK_EQ(world_recv(&world, &msg, 5000000000 * tap_slow), -EPROTO);
	world_judge(&world, false);
}

/* DOORBELL ---------------------------------------------------------------- */

static const struct change doorbells[] = {
	{ "unchanged", .fine = true },
	{ "bytes-9", .grow = 1 },
	{ "bytes-72", .grow = 64 },
	{ "flags", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "count", HEAD(count, 1) },
	{ "value", HEAD(value, 1) },
	{ "fd", .fds = 1 },
	{ "fds-16", .fds = 16 },
};

TAP_EACH(doorbell, row, doorbells)
{
	struct raw_message m;
	struct world world;

	start(&world, RAW_ALL);
	raw_frame(&m, SLUICE_FRAME_DOORBELL, 0, 0, NULL, 0);
	send_changed(&world, row, &m);
	world_judge(&world, row->fine);
}

/* ERROR ------------------------------------------------------------------- */

static const struct error {
	const char *name;
	uint32_t value;
	int off; /* of count from the bytes there are */
	size_t len, times; /* of the text */
	const char *text;
	const char *shown; /* what the report must contain, or NULL */
} errors[] = {
	{ "text", EIO, 0, 7, 1, "too bad", "too bad" },
	{ "no-text", EIO, 0, 0, 0, "", NULL },
	{ "longest-text", EIO, 0, 4, 64, "abcd", "abcdabcdabcd" },
	{ "too-long-text", EIO, 0, 1, 257, "a", NULL },
	{ "far-too-long-text", EIO, 0, 8, 512, "abcdefgh", NULL },
	{ "count-more", EIO, 1, 7, 1, "too bad", NULL },
	{ "count-less", EIO, -1, 7, 1, "too bad", NULL },
	{ "value-0", 0, 0, 7, 1, "too bad", NULL },
	{ "value-negative", (uint32_t)-EIO, 0, 7, 1, "too bad", NULL },
	{ "only-nuls", EIO, 0, 1, 256, "\0", NULL },
	{ "nuls", EIO, 0, 5, 1, "a\0b\0c", NULL },
	{ "controls", EIO, 0, 9, 28, "\033[2J\r\n\a\b\177", NULL },
	{ "not-utf8", EIO, 0, 8, 32, "\xff\xfe\xc0\x80\xed\xa0\x80\xf5", NULL },
	{ "cut-utf8", EIO, 0, 3, 1, "ab\xe2", NULL },
};

/*
 * Whatever the peer says, the conn ends, and the report is a short string that
 * can be printed: UTF-8 with nothing in it that drives a terminal.
 */
TAP_EACH(error, row, errors)
{
	struct sluice_conn_info info;
	struct raw_message m;
	struct world world;
	char text[4096];
	size_t i;

	start(&world, RAW_ALL);
	for (i = 0; i < row->times; i++)
		memcpy(text + i * row->len, row->text, row->len);
	i *= row->len;
	raw_frame(&m, SLUICE_FRAME_ERROR, (uint16_t)((int)i + row->off),
		  row->value, text, i);
	raw_send(world.raw.sock, &m);
	world.quiet = true;
	world_breach(&world);
	sluice_conn_info(world.conn, &info);
	CHECK_LE(strnlen(info.error_text, 1024), 512);
	for (i = 0; info.error_text[i]; i++)
		CHECK((uint8_t)info.error_text[i] >= 0x20 &&
		      info.error_text[i] != 0x7f);
	if (row->shown && !strstr(info.error_text, row->shown))
		TAP_FAIL("\"%s\" does not say \"%s\"", info.error_text,
			 row->shown);
	strcpy(text, info.error_text);
	world_close(&world);
	CHECK(setlocale(LC_CTYPE, "C.UTF-8"));
	CHECK_NE(mbstowcs(NULL, text, 0), (size_t)-1);
}

static const struct change error_frames[] = {
	{ "flags", HEAD(flags, SLUICE_FRAME_F_ACK) },
	{ "fd", .fds = 1 },
	{ "fds-16", .fds = 16 },
};

TAP_EACH(error_frame, row, error_frames)
{
	struct raw_message m;
	struct world world;

	start(&world, RAW_ALL);
	raw_frame(&m, SLUICE_FRAME_ERROR, 4, EIO, "good", 4);
	send_changed(&world, row, &m);
	world.quiet = true;
	world_judge(&world, false);
}
