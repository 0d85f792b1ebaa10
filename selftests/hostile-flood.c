/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Peers that send too much, or say and read nothing at all: the conn stays
 * responsive, bounded in memory, and does not hold up others.
 */
#include <string.h>
#include <unistd.h>

#include "hostile.h"

#define MS 1000000ll
/* Time that anything but a wedge takes. */
#define PROMPT (10000 * MS * tap_slow)

static void start(struct world *world, const struct sluice_options *options,
		  uint64_t features)
{
	world_open(world, options, features);
	world_meet(world);
	world_fine(world);
}

/* Floods ------------------------------------------------------------------ */

static const struct flood {
	const char *name;
	uint8_t type, flags;
	size_t len;
	bool fd;
} floods[] = {
	{ "doorbell", SLUICE_FRAME_DOORBELL, 0, 0, false },
	{ "ignorable", 11, SLUICE_FRAME_F_IGNORABLE, 4096, false },
	{ "ignorable-fd", 11, SLUICE_FRAME_F_IGNORABLE, 0, true },
};

static void flood_frame(const struct flood *row, struct raw_message *m)
{
	static const char body[4096];

	raw_frame(m, row->type, 0, 0, body, row->len);
	m->frame.flags = row->flags;
	if (row->fd)
		raw_attach(m, CHECK_SYS(dup(0)));
}

/* A hundred thousand, and then a message. */
TAP_EACH(flood_ends, row, floods)
{
	struct sluice_msg msg;
	struct raw_message m;
	struct world world;
	int i, r, count = 100000 / tap_slow;

	start(&world, NULL, RAW_ALL);
	flood_frame(row, &m);
	for (i = 0; i < count; i++) {
		while ((r = raw_try_send(world.raw.sock, &m)) == -EAGAIN)
			CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
		CHECK_OK(r);
	}
	raw_drop(&m);
	CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
	world_judge(&world, true);
}

/* The attacker sends for ever, from a process of its own. */
static pid_t flood(struct world *world, const struct flood *row)
{
	struct raw_message m;
	pid_t pid = tap_fork();

	if (pid)
		return pid;
	flood_frame(row, &m);
	for (;;)
		raw_try_send(world->raw.sock, &m);
}

/* Calls return when they should. */
TAP_EACH(flood_wedges_nothing, row, floods)
{
	struct sluice_msg msg;
	struct world world;
	int64_t begin;
	pid_t pid;
	int i;

	start(&world, NULL, RAW_ALL);
	pid = flood(&world, row);
	for (i = 0; i < 10; i++) {
		begin = tap_now();
		CHECK_EQ(sluice_recv_wait(world.conn, &msg, 20 * MS),
			 -ETIMEDOUT);
		CHECK_GE(tap_now() - begin, 20 * MS);
		CHECK_LT(tap_now() - begin, PROMPT);
		begin = tap_now();
		CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
		CHECK_LT(tap_now() - begin, PROMPT);
	}
	begin = tap_now();
	sluice_conn_close(world.conn);
	world.conn = NULL;
	CHECK_LT(tap_now() - begin, PROMPT);
	tap_kill(pid);
	world_close(&world);
}

/* A conn in the same set has its messages delivered all the same. */
TAP_EACH(flood_in_a_set, row, floods)
{
	struct sluice_event events[4];
	struct sluice_set *set;
	struct sluice_msg msg;
	struct world world;
	int64_t begin;
	int i, j, n;
	bool found;
	pid_t pid;

	start(&world, NULL, RAW_ALL);
	CHECK_OK(sluice_set_new(&set));
	CHECK_OK(sluice_set_add(set, world.conn, SLUICE_RECV, NULL));
	CHECK_OK(sluice_set_add(set, world.other[0], SLUICE_RECV, &world));
	pid = flood(&world, row);
	for (i = 0; i < 50; i++) {
		begin = tap_now();
		CHECK_OK(sluice_send(world.other[1], &i, sizeof(i), 0, 0));
		for (found = false; !found;) {
			CHECK_LT(tap_now() - begin, PROMPT);
			n = CHECK_OK(
				sluice_set_wait(set, events, 4, 100 * MS, 0));
			for (j = 0; j < n; j++)
				found |= events[j].data == &world;
			CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
		}
		CHECK_EQ(sluice_recv(world.other[0], &msg), 1);
		CHECK_MEM(sluice_msg_data(&msg), &i, sizeof(i));
	}
	tap_kill(pid);
	CHECK_OK(sluice_set_remove(set, world.other[0]));
	sluice_set_free(set);
	world_close(&world);
}

/* Messages that nobody asked for wait in the socket, not in memory. */
TAP_TEST(data_flood_is_bounded)
{
	struct sluice_slot slots[SLUICE_FRAME_SLOTS_MAX];
	struct sluice_msg msg;
	struct raw_message m;
	struct world world;
	uint64_t sent = 0, i;
	int round, j;
	long before;

	start(&world, NULL, RAW_ALL);
	before = tap_resident();
	for (round = 0; round < 2000; round++) {
		for (j = 0; j < SLUICE_FRAME_SLOTS_MAX; j++)
			slots[j] = raw_inline("x", 1, sent + (uint64_t)j);
		raw_data(&m, slots, SLUICE_FRAME_SLOTS_MAX);
		if (!raw_try_send(world.raw.sock, &m))
			sent += SLUICE_FRAME_SLOTS_MAX;
		/* looks at the socket, takes nothing */
		CHECK_EQ(sluice_wait(world.conn, SLUICE_RECV, 0), SLUICE_RECV);
		CHECK_OK(sluice_flush(world.conn));
	}
	CHECK_LT(tap_resident() - before, 8 << 20);
	CHECK_GT(sent, 64);
	for (i = 0; i < sent; i++) {
		world_take(&world, &msg);
		CHECK_EQ(msg.tag, i);
	}
	world_judge(&world, true);
}

/* Silence ----------------------------------------------------------------- */

/* A peer that never answers HELLO holds up nobody. */
TAP_TEST(hello_never_answered)
{
	struct sluice_msg msg;
	struct world world;
	int64_t begin;

	world_open(&world, NULL, RAW_ALL);
	CHECK_EQ(sluice_recv(world.conn, &msg), -EAGAIN);
	CHECK_EQ(sluice_send(world.conn, "x", 1, 0, 0), -EAGAIN);
	begin = tap_now();
	CHECK_EQ(sluice_wait(world.conn, SLUICE_SEND, 20 * MS), -ETIMEDOUT);
	CHECK_EQ(sluice_recv_wait(world.conn, &msg, 20 * MS), -ETIMEDOUT);
	CHECK_GE(tap_now() - begin, 40 * MS);
	CHECK_LT(tap_now() - begin, PROMPT);
	begin = tap_now();
	sluice_conn_close(world.conn);
	world.conn = NULL;
	CHECK_LT(tap_now() - begin, PROMPT);
	world_close(&world);
}

/* The same for a server, which serves others meanwhile. */
TAP_TEST(hello_ack_never_comes)
{
	struct sluice_listener *listener;
	struct sluice_conn *mute, *conn, *client;
	struct sluice_msg msg;
	int64_t begin;
	int sock;

	CHECK_OK(sluice_listen(&listener, "./x.sock", NULL));
	sock = raw_connect("./x.sock", 0x1122334455667788);
	begin = tap_now();
	CHECK_OK(sluice_accept(listener, &mute, 1000 * MS));
	CHECK_EQ(sluice_recv(mute, &msg), -EAGAIN);
	CHECK_EQ(sluice_send(mute, "x", 1, 0, 0), -EAGAIN);
	CHECK_LT(tap_now() - begin, PROMPT);
	CHECK_OK(sluice_connect(&client, "./x.sock", NULL));
	CHECK_OK(sluice_accept(listener, &conn, 1000 * MS));
	CHECK_OK(sluice_send(client, "y", 1, 0, 0));
	CHECK_EQ(sluice_recv_wait(conn, &msg, PROMPT), 1);
	CHECK_EQ(msg.len, 1);
	CHECK_SYS(close(sock));
	CHECK_LE(sluice_recv_wait(mute, &msg, PROMPT), 0);
	sluice_conn_close(mute);
	sluice_conn_close(client);
	sluice_conn_close(conn);
	sluice_listener_close(listener);
}

static const struct reader {
	const char *name;
	uint64_t features;
	size_t len;
} readers[] = {
	{ "queued", 0, 8 },
	{ "queued-buffers", 0, 3000 },
	{ "direct", RAW_ALL, 8 },
	{ "direct-buffers", RAW_ALL, 3000 },
};

/* A peer that never reads: sends end in EAGAIN, waits in time. */
TAP_EACH(never_reads, row, readers)
{
	static const char data[3000];
	struct sluice_pool_info info;
	struct world world;
	int64_t begin;
	int i, r = 0;

	start(&world, NULL, row->features);
	for (i = 0; i < 100000 && !r; i++)
		r = sluice_send(world.conn, data, row->len, 0, 0);
	CHECK_EQ(r, -EAGAIN);
	tap_diag("%d messages", i - 1);
	sluice_pool_info(sluice_conn_pool(world.conn), &info);
	CHECK_LE(info.buffers_used, 256);
	begin = tap_now();
	CHECK_EQ(sluice_wait(world.conn, SLUICE_SEND, 20 * MS), -ETIMEDOUT);
	CHECK_GE(tap_now() - begin, 20 * MS);
	CHECK_LT(tap_now() - begin, PROMPT);
	begin = tap_now();
	sluice_conn_close(world.conn);
	world.conn = NULL;
	CHECK_LT(tap_now() - begin, PROMPT);
	world_close(&world);
}
