/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Breaches of an aware peer in the steered lane: slots in frames that the program
 * takes, and frames that it leaves to the queue. The conn ends with -EPROTO; a
 * conn with a plain peer that shares its ring and landing slots loses neither a
 * message, nor a position, nor a landing slot.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hostile-slots.h"
#include "steers.h"

#define RING 128
#define LEN_MAX 3000
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

struct scene {
	struct daemon daemon;
	struct sluice_options options; /* with the endpoint */
	struct world world;
	uint64_t steered; /* to world.conn, before the breach */

	/* beside it */
	struct sluice_conn *plain;
	int peer;
	uint64_t sent;
	struct sluice_msg kept; /* a view: of message 0 */
};

static uint32_t landing_used(const struct scene *s)
{
	struct sluice_endpoint_info info;

	sluice_endpoint_info(s->options.endpoint, &info);
	return info.landing_used;
}

/* As many messages as the ring has slots come through it, and a few more. */
static void beside_works(struct scene *s)
{
	uint64_t before = steers_steered(s->plain), spilled;
	int i;

	spilled = steers_spilled(s->plain);
	for (i = 0; i < RING + 5; i++, s->sent++) {
		steers_send(s->peer, 1, s->sent, LEN_MAX);
		steers_recv(s->plain, 1, s->sent, LEN_MAX);
	}
	CHECK_EQ(steers_steered(s->plain), before + RING + 5);
	CHECK_EQ(steers_spilled(s->plain), spilled);
	CHECK(tap_matches(s->kept.view, LEN_MAX, 99));
}

static void keep_a_view(struct scene *s)
{
	uint8_t data[LEN_MAX];

	tap_fill(data, LEN_MAX, 99);
	CHECK_EQ(send(s->peer, data, LEN_MAX, 0), LEN_MAX);
	steers_wait(s->plain, &s->kept);
	CHECK_EQ(s->kept.kind, SLUICE_SLOT_LANDING);
	CHECK_EQ(landing_used(s), 1);
}

/* Its next frame is steered, if the program takes it. */
static void grant(struct scene *s)
{
	CHECK_EQ(sluice_wait(s->world.conn, SLUICE_RECV, 0), -ETIMEDOUT);
	s->steered = steers_steered(s->world.conn);
}

static void scene_open(struct scene *s, uint32_t hold_limit)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.ring_slots = RING, .conns = 16,
				.landing = { 1, 1, 0 });

	steers_start(&s->daemon);
	s->options = ENDS_OPTIONS(.hold_limit = hold_limit);
	CHECK_OK(sluice_endpoint_new(&s->options.endpoint, &e));
	s->sent = 0;
	steers_pair(&s->plain, &s->peer, &s->options);
	CHECK_EQ(sluice_wait(s->plain, SLUICE_RECV, 0), -ETIMEDOUT);
	keep_a_view(s);
	beside_works(s);
	s->options.flags = SLUICE_F_STEER;
}

/* The next attacker. */
static void attack(struct scene *s)
{
	world_open(&s->world, &s->options, RAW_ALL);
	world_meet(&s->world);
	world_segment(&s->world, 0);
	world_fine(&s->world);
	grant(s);
}

static void scene_close(struct scene *s)
{
	beside_works(s);
	CHECK_OK(sluice_release(s->plain, &s->kept));
	CHECK_EQ(landing_used(s), 0);
	close(s->peer);
	ends_expect_eof(s->plain);
	sluice_conn_close(s->plain);
	sluice_endpoint_free(s->options.endpoint);
	steers_stop(&s->daemon);
}

/* So many slots more than before the breach came by the ring. */
static void check_steered(struct scene *s, uint64_t count)
{
	CHECK_EQ(steers_steered(s->world.conn), s->steered + count);
}

/* fine: what was sent has been taken. steered: so many slots of it. */
static void scene_judge(struct scene *s, bool fine, uint64_t steered)
{
	if (!fine)
		world_breach(&s->world);
	check_steered(s, steered);
	if (fine)
		world_fine(&s->world);
	beside_works(s);
	world_close(&s->world);
	CHECK_EQ(landing_used(s), 1);
}

static void put(struct scene *s, const struct sluice_slot *slots,
		unsigned int count)
{
	struct raw_message m;

	raw_data(&m, slots, count);
	raw_send(s->world.raw.sock, &m);
}

/* One slot ------------------------------------------------------------------ */

static void run(const struct sluice_slot *slot, const struct change *rows,
		size_t count)
{
	struct sluice_slot changed;
	struct sluice_msg msg;
	struct scene s;
	size_t i;

	scene_open(&s, 256);
	for (i = 0; i < count; i++) {
		tap_diag("%s", rows[i].name);
		attack(&s);
		changed = *slot;
		change_bytes(&rows[i], &changed);
		put(&s, &changed, 1);
		if (rows[i].fine) {
			world_take(&s.world, &msg);
			CHECK_OK(sluice_release(s.world.conn, &msg));
		}
		/* The rest of a slot is the receiver's to judge. */
		scene_judge(&s, rows[i].fine,
			    !changed.conn &&
				    !(changed.flags & ~SLUICE_SLOT_F_MORE));
	}
	scene_close(&s);
}

TAP_TEST(inline_slots)
{
	struct sluice_slot slot = inline_slot();

	run(&slot, inlines, ARRAY_SIZE(inlines));
}

TAP_TEST(buffer_slots)
{
	struct sluice_slot slot = buffer_slot();

	run(&slot, buffers, ARRAY_SIZE(buffers));
}

/* Slots of a frame ------------------------------------------------------------ */

static const struct place {
	const char *name;
	unsigned int count, bad;
} places[] = {
	{ "first-of-2", 2, 0 },	  { "last-of-2", 2, 1 },
	{ "first-of-64", 64, 0 }, { "middle-of-64", 64, 30 },
	{ "last-of-64", 64, 63 },
};

/* What comes before it is delivered, what comes behind it is not. */
TAP_EACH(one_of_many, place, places)
{
	struct sluice_slot slots[SLUICE_FRAME_SLOTS_MAX];
	struct sluice_msg msg;
	struct scene s;
	unsigned int i;

	scene_open(&s, 256);
	attack(&s);
	for (i = 0; i < place->count; i++)
		slots[i] = raw_buffer(0, 64 * i, 60, i, i);
	slots[place->bad].segment = 7;
	put(&s, slots, place->count);
	for (i = 0; i < place->bad; i++) {
		world_take(&s.world, &msg);
		CHECK_EQ(msg.tag, i);
	}
	CHECK_EQ(sluice_recv(s.world.conn, &msg), -EPROTO);
	scene_judge(&s, false, place->count);
	scene_close(&s);
}

TAP_TEST(id_twice_in_a_frame)
{
	struct sluice_slot slots[2] = { raw_buffer(0, 0, 100, 7, 1),
					raw_buffer(0, 0, 100, 7, 2) };
	struct scene s;

	scene_open(&s, 256);
	attack(&s);
	put(&s, slots, 2);
	scene_judge(&s, false, 2);
	scene_close(&s);
}

/* All ids at once are in order, one of them again is not until it is released. */
static const struct hold {
	const char *name;
	uint32_t id;
	bool release, fine;
} holds[] = {
	{ "held", 3, false, false },
	{ "released", 3, true, true },
	{ "beyond", 16, true, false },
};

TAP_EACH(hold_limit, hold, holds)
{
	struct sluice_slot slots[16], slot;
	struct sluice_msg msgs[16], msg;
	struct scene s;
	uint32_t i;

	scene_open(&s, 16);
	attack(&s);
	for (i = 0; i < 16; i++)
		slots[i] = raw_buffer(0, 64 * i, 60, i, i);
	put(&s, slots, 16);
	for (i = 0; i < 16; i++)
		world_take(&s.world, &msgs[i]);
	check_steered(&s, 16);
	if (hold->release)
		CHECK_OK(sluice_release(s.world.conn, &msgs[3]));
	grant(&s);
	slot = raw_buffer(0, 0, 10, hold->id, 0);
	put(&s, &slot, 1);
	if (hold->fine)
		world_take(&s.world, &msg);
	scene_judge(&s, hold->fine, 1);
	scene_close(&s);
}

/* Parts of a message --------------------------------------------------------- */

static const struct parts {
	const char *name;
	unsigned int first, second; /* slots of two frames; 0: none */
	bool fine; /* the second ends the message */
} parts[] = {
	{ "one-frame", 5, 0, true },
	{ "most", SLUICE_PARTS_MAX, 0, true },
	{ "no-end", 5, 0, false },
	{ "two-frames", 1, 1, false },
	{ "two-frames-of-many", 30, 7, false },
};

TAP_EACH(parts, row, parts)
{
	struct sluice_slot slots[SLUICE_FRAME_SLOTS_MAX];
	unsigned int i, count = row->first + row->second;
	struct sluice_msg msg;
	struct scene s;

	scene_open(&s, 256);
	attack(&s);
	for (i = 0; i < count; i++) {
		slots[i] = inline_slot();
		slots[i].flags = SLUICE_SLOT_F_MORE;
	}
	if (row->fine || row->second)
		slots[count - 1].flags = 0;
	put(&s, slots, row->first);
	if (row->second)
		put(&s, slots + row->first, row->second);
	if (row->fine)
		for (i = 0; i < count; i++)
			world_take(&s.world, &msg);
	scene_judge(&s, row->fine, count);
	scene_close(&s);
}

/* Landing slots of others ---------------------------------------------------- */

#define SMALL_SLOTS 16

static struct sluice_slot landing_slot(uint32_t id)
{
	struct sluice_slot slot = { .kind = SLUICE_SLOT_LANDING,
				    .len = LEN_MAX };

	slot.buffer.id = id;
	slot.offset = (uint64_t)id * SLUICE_LANDING_SMALL;
	return slot;
}

/*
 * It names the one that the other conn holds, or others: those are free, or the
 * other conn's next message is in one of them when it has closed.
 */
static const struct named {
	const char *name;
	uint32_t first, count; /* behind the one that is held */
	bool received; /* or the conn is closed before */
} named[] = {
	{ "held", 0, 1, true },
	{ "held-and-closed", 0, 1, false },
	{ "others", 1, SMALL_SLOTS - 1, true },
	{ "others-and-closed", 1, SMALL_SLOTS - 1, false },
};

TAP_EACH(landing, row, named)
{
	struct sluice_slot slots[SLUICE_FRAME_SLOTS_MAX];
	struct scene s;
	uint32_t i, id;

	scene_open(&s, 256);
	attack(&s);
	for (i = 0; i < SLUICE_FRAME_SLOTS_MAX; i++) {
		id = s.kept.id + row->first + i % row->count;
		slots[i] = landing_slot(id % SMALL_SLOTS);
	}
	put(&s, slots, SLUICE_FRAME_SLOTS_MAX);
	if (row->received)
		world_breach(&s.world);
	world_close(&s.world);
	CHECK_EQ(landing_used(&s), 1);
	scene_close(&s);
}

/* Frames --------------------------------------------------------------------- */

/* Of two inline slots; all but the first are left to the queue. */
static const struct change frames[] = {
	{ "unchanged", .fine = true },
	{ "type-0", HEAD(type, 0) },
	{ "type-hello", HEAD(type, SLUICE_FRAME_HELLO) },
	{ "type-release", HEAD(type, SLUICE_FRAME_RELEASE) },
	{ "type-11", HEAD(type, 11) },
	{ "flags-1", HEAD(flags, 1) },
	{ "flags-ignorable", HEAD(flags, SLUICE_FRAME_F_IGNORABLE) },
	{ "count-0", HEAD(count, 0) },
	{ "count-1", HEAD(count, 1) },
	{ "count-3", HEAD(count, 3) },
	{ "count-258", HEAD(count, 258) },
	{ "count-largest", HEAD(count, 65535) },
	{ "value-1", HEAD(value, 1) },
	{ "value-largest", HEAD(value, 0xffffffff) },
	{ "shorter", .grow = -1 },
	{ "longer", .grow = 1 },
	{ "slot-shorter", .grow = -64 },
	{ "slot-longer", .grow = 64 },
	{ "head-only", .grow = -128 },
	{ "no-head", .grow = -129 },
	{ "nothing", .grow = -136 },
	{ "fd", .fds = 1 },
};

TAP_TEST(changed_frames)
{
	struct sluice_slot slots[2] = { inline_slot(), inline_slot() };
	const struct change *row;
	struct sluice_msg msg;
	struct raw_message m;
	struct scene s;

	scene_open(&s, 256);
	for (row = frames; row < frames + ARRAY_SIZE(frames); row++) {
		tap_diag("%s", row->name);
		attack(&s);
		raw_data(&m, slots, 2);
		change_frame(row, &m);
		raw_send(s.world.raw.sock, &m);
		if (row->fine) {
			world_take(&s.world, &msg);
			world_take(&s.world, &msg);
		}
		scene_judge(&s, row->fine, row->fine ? 2 : 0);
	}
	scene_close(&s);
}

/* BYE is the last frame with slots before it. */
TAP_TEST(data_after_bye)
{
	struct sluice_slot slot = inline_slot();
	struct raw_message m;
	struct sluice_msg msg;
	struct scene s;
	int r;

	scene_open(&s, 256);
	attack(&s);
	raw_frame(&m, SLUICE_FRAME_BYE, 0, s.world.raw.tx_position, NULL, 0);
	raw_send(s.world.raw.sock, &m);
	r = sluice_recv_wait(s.world.conn, &msg, 5 * SECOND);
	CHECK_EQ(r, 0);
	put(&s, &slot, 1);
	world_breach(&s.world);
	world_close(&s.world);
	scene_close(&s);
}
