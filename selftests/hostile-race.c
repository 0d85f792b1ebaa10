/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Memory of a hostile peer that changes while it is looked at: slots, releases,
 * counters, sleep words, geometry. The attacker scribbles from a process of its
 * own, into the same memory, as a real one would.
 */
#include <string.h>

#include "hostile.h"

#define RUN_NS 400000000ll /* for each case */

static void start(struct world *world, const struct sluice_options *options)
{
	world_open(world, options, RAW_ALL);
	world_meet(world);
}

/* A segment whose every 8 bytes say where they are. */
static void segment_of_offsets(struct world *world)
{
	struct raw_memory memory;
	struct raw_message m;
	uint64_t i;

	raw_memory_new(&memory, WORLD_SEGMENT, SLUICE_SEALS, 0);
	for (i = 0; i < WORLD_SEGMENT / 8; i++)
		((uint64_t *)memory.base)[i] = i * 8;
	raw_segment(&m, 0, &memory);
	raw_send(world->raw.sock, &m);
	raw_memory_free(&memory);
}

/* Slots that flip --------------------------------------------------------- */

static const struct flip {
	const char *name;
	struct sluice_slot other; /* what the good slot flips to */
	unsigned int parts;
	bool copy; /* received by sluice_recv_copy() */
} flips[] = {
#define GOOD .kind = SLUICE_SLOT_BUFFER, .offset = 8000, .len = 800
	{ "len",
	  { .kind = SLUICE_SLOT_BUFFER, .offset = 8000, .len = ~0u },
	  1,
	  false },
	{ "offset",
	  { .kind = SLUICE_SLOT_BUFFER, .offset = -400ull, .len = 800 },
	  1,
	  false },
	{ "kind",
	  { .kind = SLUICE_SLOT_INLINE, .offset = 8000, .len = 800 },
	  1,
	  false },
	{ "kind-switch", { .kind = SLUICE_SLOT_SWITCH }, 1, false },
	{ "segment", { GOOD, .segment = 9 }, 1, false },
	{ "flags", { GOOD, .flags = 1 }, 1, false },
	{ "id", { GOOD, .buffer.id = 0xffff0000 }, 1, false },
	{ "copy-len",
	  { .kind = SLUICE_SLOT_BUFFER, .offset = 0, .len = WORLD_SEGMENT },
	  1,
	  true },
	{ "copy-parts-len",
	  { .kind = SLUICE_SLOT_BUFFER,
	    .offset = 0,
	    .len = WORLD_SEGMENT,
	    .flags = 1 },
	  4,
	  true },
	{ "copy-parts-flags", { GOOD }, 4, true },
};

/* Publishes good slots and flips them, for ever. */
static void flip(struct raw *raw, const struct flip *row)
{
	struct sluice_slot good = { GOOD }, *slot = raw->ring;
	uint32_t id = 0, head;
	unsigned int i, times;

	for (;;) {
		head = __atomic_load_n(&raw->peer_link->rx_head,
				       __ATOMIC_ACQUIRE) -
		       raw->peer_link->rx_first + raw->link->ring_first;
		if (raw->tx_position - head + row->parts > 64)
			continue;
		for (i = row->parts; i-- > 0;) {
			slot = &raw->ring[(raw->tx_position + i) &
					  raw->ring_mask];
			good.flags = i + 1 < row->parts;
			good.buffer.id = id++ % 256;
			memcpy(&slot->len, &good.len, 60);
			__atomic_store_n(&slot->seq, raw->tx_position + i + 1,
					 __ATOMIC_RELEASE);
		}
		for (times = 0; times < 50; times++) {
			const struct sluice_slot *now = times % 2 ? &good :
								    &row->other;

			slot->len = now->len;
			slot->kind = now->kind;
			slot->offset = now->offset;
			slot->segment = now->segment;
			slot->buffer.id = times % 2 || !now->buffer.id ?
						  good.buffer.id :
						  now->buffer.id;
			if (row->other.flags || row->parts > 1)
				slot->flags = times % 2 ? row->parts > 1 :
							  now->flags;
			__atomic_signal_fence(__ATOMIC_SEQ_CST);
		}
		slot->flags = row->parts > 1;
		raw->tx_position += row->parts;
	}
}

/* A view lies within the segment: its bytes say where. */
static void check_view(const struct sluice_msg *msg)
{
	const volatile uint64_t *words = sluice_msg_data(msg);
	uint64_t first, last;

	if (msg->kind == SLUICE_SLOT_INLINE) {
		CHECK_LE(msg->len, SLUICE_INLINE_MAX);
		return;
	}
	if (msg->len < 8)
		return;
	CHECK_EQ((uintptr_t)words % 8, 0);
	first = words[0];
	last = words[msg->len / 8 - 1];
	CHECK_LE(first + msg->len, WORLD_SEGMENT);
	CHECK_EQ(last, first + msg->len / 8 * 8 - 8);
}

static int receive(struct world *world, const struct flip *row)
{
	static uint8_t data[4000 + 64];
	struct sluice_msg msg;
	size_t len, i;
	int r;

	if (!row->copy) {
		r = sluice_recv(world->conn, &msg);
		if (r == 1) {
			check_view(&msg);
			CHECK_OK(sluice_release(world->conn, &msg));
		}
		return r;
	}
	memset(data + 4000, 0x5a, 64);
	len = 0;
	r = sluice_recv_copy(world->conn, data, 4000, &len, NULL);
	for (i = 0; i < 64; i++)
		CHECK_EQ(data[4000 + i], 0x5a);
	if (r == 1)
		CHECK_LE(len, 4000);
	return r == -EMSGSIZE ? -EAGAIN : r;
}

/* Rounds until each outcome had its chance: a message, or the end. */
TAP_EACH(slot_flips, row, flips)
{
	int64_t until = tap_now() + RUN_NS;
	unsigned int messages = 0, breaches = 0;
	struct sluice_msg msg;
	struct world world;
	int64_t round;
	pid_t child;
	int r;

	while (tap_now() < until) {
		start(&world, NULL);
		segment_of_offsets(&world);
		world_direct(&world);
		CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
		child = tap_fork();
		if (!child)
			flip(&world.raw, row);
		round = tap_now() + RUN_NS / 8;
		do {
			r = receive(&world, row);
			messages += r == 1;
		} while ((r == 1 || r == -EAGAIN) && tap_now() < round);
		tap_kill(child);
		if (r != 1 && r != -EAGAIN) {
			CHECK_EQ(r, -EPROTO);
			breaches++;
		}
		world_close(&world);
	}
	tap_diag("%u messages, %u breaches", messages, breaches);
	CHECK_GT(messages + breaches, 0);
}

/* Releases that flip ------------------------------------------------------ */

/* Publishes less than one turn of the ring, and flips it all the while. */
static void flip_releases(struct raw *raw)
{
	uint32_t i, end = raw->release_position + 200;

	for (i = 0;; i++) {
		raw->releases[tap_random_below(256)].id =
			(uint32_t)tap_random_below(20);
		if (i % 256 == 0 && raw->release_position != end)
			raw_release(raw, (uint32_t)tap_random_below(17));
	}
}

/* Sends, as if all were consumed, until a release is found to be false. */
static void send_until_breach(struct world *world)
{
	static const char data[100];
	int r;

	do {
		r = sluice_send(world->conn, data, sizeof(data), 0, 0);
		world->raw.link->rx_head += r == 0;
	} while (r == 0 || r == -EAGAIN);
	CHECK_EQ(r, -EPROTO);
}

/* Whatever is released, no buffer is free twice and none is lost. */
TAP_TEST(release_flips)
{
	int64_t until = tap_now() + RUN_NS;
	struct sluice_options options = { .size = sizeof(options) };
	struct sluice_buf *bufs[64];
	struct sluice_pool_info info;
	struct world world;
	unsigned int i, j;
	pid_t child;

	CHECK_OK(sluice_pool_new(&options.pool, NULL));
	while (tap_now() < until) {
		world_open(&world, &options, RAW_ALL);
		world.raw.hello.hold_limit = 16;
		world_meet(&world);
		child = tap_fork();
		if (!child)
			flip_releases(&world.raw);
		send_until_breach(&world);
		tap_kill(child);
		sluice_pool_info(options.pool, &info);
		CHECK_EQ(info.buffers_used, 0);
		for (i = 0; i < 64; i++) {
			CHECK_OK(sluice_pool_loan(options.pool, 100, &bufs[i]));
			for (j = 0; j < i; j++)
				CHECK(bufs[i] != bufs[j]);
		}
		for (i = 0; i < 64; i++)
			sluice_buf_unref(bufs[i]);
		CHECK_GT(sluice_pool_trim(options.pool), 0);
		world_close(&world);
	}
	sluice_pool_free(options.pool);
}

/* Counters ---------------------------------------------------------------- */

static const struct head {
	const char *name;
	uint32_t consumed; /* of conn's messages, before the lie */
	uint32_t off; /* of the lie, from rx_first */
	bool fine;
} heads[] = {
	{ "right", 20, 20, true },
	{ "one-ahead", 0, 17, false },
	{ "ring-ahead", 0, 32, false },
	{ "far-ahead", 0, 1000000, false },
	{ "half-way-round", 0, 1u << 31, false },
	{ "one-back", 20, 15, false },
	{ "back-to-the-start", 40, 0, false },
	{ "behind-the-start", 0, -1u, false },
	{ "far-back", 40, -1000000u, false },
};

/* Sends n messages that raw takes. */
static void send_taken(struct world *world, uint32_t n)
{
	struct sluice_slot slot;
	uint32_t i;

	for (i = 0; i < n; i++) {
		CHECK_OK(sluice_send(world->conn, &i, sizeof(i), i, 0));
		raw_next(&world->raw, &slot);
		CHECK_EQ(slot.tag, i);
	}
}

/* conn's ring has 16 slots: it must look at rx_head before the 17th message. */
TAP_EACH(rx_head, row, heads)
{
	struct sluice_options options = { .size = sizeof(options),
					  .ring_slots = 16 };
	struct sluice_msg msg;
	struct world world;
	int i, r = 0;

	start(&world, &options);
	send_taken(&world, row->consumed);
	world.raw.link->rx_head = world.raw.link->rx_first + row->off;
	for (i = 0; i < 100 && !r; i++)
		r = sluice_send(world.conn, "x", 1, 0, 0);
	if (row->fine) {
		CHECK_EQ(r, -EAGAIN);
		CHECK_EQ(i, 16 + 1);
		CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
	} else {
		CHECK_EQ(r, -EPROTO);
		world_breach(&world);
	}
	world_close(&world);
}

static void scribble_words(struct raw *raw)
{
	for (;;) {
		__atomic_store_n(&raw->link->rx_state, (uint32_t)tap_random(),
				 __ATOMIC_RELAXED);
		__atomic_store_n(&raw->link->tx_state, (uint32_t)tap_random(),
				 __ATOMIC_RELAXED);
	}
}

/* Sleep words without sense ring some bells, and do nothing else. */
TAP_TEST(sleep_words)
{
	struct sluice_conn_info info;
	struct sluice_slot slot;
	struct sluice_msg msg;
	struct raw_message m;
	struct world world;
	uint32_t i, word;
	int64_t until;
	pid_t child;

	start(&world, NULL);
	segment_of_offsets(&world);
	world_direct(&world);
	world_fine(&world);
	word = world.raw.link->rx_state;
	child = tap_fork();
	if (!child)
		scribble_words(&world.raw);
	CHECK_SOON(__atomic_load_n(&world.raw.link->rx_state,
				   __ATOMIC_RELAXED) != word);
	until = tap_now() + RUN_NS;
	for (i = 0; tap_now() < until; i++) {
		send_taken(&world, 1);
		slot = raw_buffer(0, 0, 100, i % 256, i);
		raw_publish(&world.raw, &slot, 1);
		world_take(&world, &msg);
		CHECK_EQ(msg.tag, i);
		CHECK_OK(sluice_release(world.conn, &msg));
		while (!raw_try_recv(world.raw.sock, &m, 0))
			CHECK_EQ(m.frame.type, SLUICE_FRAME_DOORBELL);
	}
	tap_kill(child);
	sluice_conn_info(world.conn, &info);
	tap_diag("%u messages, %llu doorbells", i,
		 (unsigned long long)info.doorbells_sent);
	CHECK_GT(info.doorbells_sent, 0);
	/* a message, its release and the head that moved: one each at most */
	CHECK_LE(info.doorbells_sent, 3 * (uint64_t)i + 10);
	world_judge(&world, true);
}

/* Geometry ---------------------------------------------------------------- */

static const struct change geometry[] = {
	{ "unchanged", .width = 0 },
	{ "magic", ALONE(link, magic, 0) },
	{ "major", ALONE(link, major, 9) },
	{ "size", ALONE(link, size, 0xffffffff) },
	{ "ring-offset", ALONE(link, ring_offset, 0xfffffff0) },
	{ "ring-slots", ALONE(link, ring_slots, 0x80000000) },
	{ "ring-slots-0", ALONE(link, ring_slots, 0) },
	{ "ring-first", ALONE(link, ring_first, 12345) },
	{ "release-offset", ALONE(link, release_offset, 0xfffffff0) },
	{ "release-slots", ALONE(link, release_slots, 0x80000000) },
	{ "release-slots-0", ALONE(link, release_slots, 0) },
	{ "release-first", ALONE(link, release_first, 12345) },
	{ "rx-first", ALONE(link, rx_first, 12345) },
};

/* It was read once: what it says later has no effect. */
TAP_EACH(geometry_changes, row, geometry)
{
	struct sluice_slot slot;
	struct world world;
	char data[1000];
	int i;

	start(&world, NULL);
	change_bytes(row, world.raw.link);
	world_fine(&world);
	world_direct(&world);
	for (i = 0; i < 1000; i++) {
		tap_fill(data, sizeof(data), (uint64_t)i);
		CHECK_OK(sluice_send(world.conn, data, sizeof(data), 1, 0));
		CHECK_MEM(raw_next(&world.raw, &slot), data, sizeof(data));
		raw_release(&world.raw, slot.buffer.id);
		if (i % 10 == 0)
			world_fine(&world);
	}
	world_judge(&world, true);
}
