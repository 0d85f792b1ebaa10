/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* A conn under attack and the judgement; hostile.h says what it is. */
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hostile.h"
#include "urings.h"

#define WAIT_NS (5000000000ll * tap_slow)
#define SENTINEL 0x5e471e1

/* The ring, opened by the first world of the process. */
static struct loop loop;

static void ring_enter(struct sluice_conn *conn)
{
	struct sluice_event event;

	if (!getenv("SLUICE_RING"))
		return;
	if (!loop.set)
		loop_open(&loop, &setups[BASIC], 8);
	CHECK_OK(sluice_set_add(loop.set, conn, SLUICE_RECV, NULL));
	loop_wait(&loop, &event, 1, 0); /* its requests are in flight */
}

static void ring_settle(void)
{
	if (loop.set)
		loop_idle(&loop);
}

int world_recv(struct world *world, struct sluice_msg *msg, int64_t timeout_ns)
{
	int64_t until = tap_now() + timeout_ns;
	int r;

	if (!loop.set)
		return timeout_ns ?
			       sluice_recv_wait(world->conn, msg, timeout_ns) :
			       sluice_recv(world->conn, msg);
	/* Twice: what the first one digests may be all that was in the way. */
	for (r = 0; !timeout_ns && r < 2; r++)
		loop_turn(&loop, 0);
	while ((r = sluice_recv(world->conn, msg)) == -EAGAIN) {
		if (tap_now() > until)
			return timeout_ns ? -ETIMEDOUT : -EAGAIN;
		loop_turn(&loop, 10 * MS);
	}
	return r;
}

/* Changes ----------------------------------------------------------------- */

void change_bytes(const struct change *change, void *bytes)
{
	/* little endian, like everything of the protocol */
	memcpy((uint8_t *)bytes + change->at, &change->value, change->width);
}

void change_frame(const struct change *change, struct raw_message *m)
{
	unsigned int wanted = m->fd_count;

	change_bytes(change, m->bytes);
	if (change->grow > 0)
		memset(m->bytes + m->len, 0, (size_t)change->grow);
	m->len += (size_t)change->grow;
	CHECK_LE(m->len, RAW_BYTES_MAX);
	if (change->fds)
		wanted = change->fds == NO_FDS ? 0 : (unsigned int)change->fds;
	while (m->fd_count > wanted)
		CHECK_SYS(close(m->fds[--m->fd_count]));
	while (m->fd_count < wanted)
		raw_attach(m, CHECK_SYS(open("/dev/null", O_RDWR | O_CLOEXEC)));
}

/* Set-up ------------------------------------------------------------------ */

/* Mappings of memfds: links and segments, in every build. */
static int memory_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[4096];
	int count = 0;

	CHECK(maps);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "/memfd:") != NULL;
	fclose(maps);
	return count;
}

static void open_ends(struct world *world, const struct sluice_options *options,
		      uint64_t features)
{
	struct sluice_options o = { .size = sizeof(o) };
	int pair[2];

	if (options)
		o = *options;
	o.flags |= SLUICE_F_AWARE;
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	CHECK_OK(sluice_conn_from_fd(&world->conn, pair[0], &o));
	raw_init(&world->raw, pair[1], features);
}

static void close_ends(struct world *world)
{
	sluice_conn_close(world->conn);
	ring_settle();
	raw_close(&world->raw);
	sluice_conn_close(world->other[0]);
	sluice_conn_close(world->other[1]);
}

/* Messages pass on the connection beside the attacked one. */
static void other_works(struct world *world)
{
	static uint64_t tag;
	static char data[3000], copy[3000];
	size_t len;
	uint64_t got;
	int i, r;

	for (i = 0; i < 2; i++) {
		tap_fill(data, sizeof(data), ++tag);
		CHECK_OK(sluice_send(world->other[i], data, sizeof(data), tag,
				     0));
		CHECK_OK(sluice_wait(world->other[!i], SLUICE_RECV, WAIT_NS));
		r = sluice_recv_copy(world->other[!i], copy, sizeof(copy), &len,
				     &got);
		CHECK_EQ(r, 1);
		CHECK_EQ(got, tag);
		CHECK_EQ(len, sizeof(data));
		CHECK_MEM(copy, data, len);
	}
}

/* From here on malloc() takes no mappings, and its heap is large enough. */
static void fix_heap(void)
{
	void *volatile heap;

	mallopt(M_MMAP_MAX, 0);
	mallopt(M_TRIM_THRESHOLD, INT_MAX);
	heap = malloc(16 << 20);
	CHECK(heap);
	free(heap);
}

void world_open(struct world *world, const struct sluice_options *options,
		uint64_t features)
{
	static bool warm;

	/* What a process allocates once is there after a first round. */
	if (!warm) {
		warm = true;
		fix_heap();
		world_open(world, options, RAW_ALL);
		world_meet(world);
		world_fine(world);
		close_ends(world);
	}
	memset(world, 0, sizeof(*world));
	world->steered = options && options->flags & SLUICE_F_STEER;
	world->fds = tap_open_fds();
	world->mappings = tap_mappings();
	world->memory_mappings = memory_mappings();
	CHECK_OK(sluice_pair(world->other, NULL));
	other_works(world);
	open_ends(world, options, features);
}

void world_meet(struct world *world)
{
	struct sluice_conn_info info;
	struct raw_message m;
	struct sluice_msg msg;

	raw_meet(&world->raw, SLUICE_FRAME_HELLO);
	raw_hello(&world->raw, &m, SLUICE_FRAME_HELLO_ACK,
		  world->raw.peer.cookie);
	raw_send(world->raw.sock, &m);
	CHECK_EQ(sluice_recv(world->conn, &msg), -EAGAIN);
	sluice_conn_info(world->conn, &info);
	CHECK_EQ(info.error, 0);
	CHECK_EQ(info.rx_lane,
		 world->steered ? SLUICE_LANE_STEERED : SLUICE_LANE_QUEUED);
	ring_enter(world->conn);
}

void world_direct(struct world *world)
{
	world->direct = true;
	raw_switch(&world->raw);
}

void world_segment(struct world *world, uint32_t number)
{
	struct raw_memory memory;
	struct raw_message m;

	raw_memory_new(&memory, WORLD_SEGMENT, SLUICE_SEALS, 0);
	raw_segment(&m, number, &memory);
	raw_send(world->raw.sock, &m);
	raw_memory_free(&memory);
}

void world_take(struct world *world, struct sluice_msg *msg)
{
	int r = world_recv(world, msg, WAIT_NS);

	if (r < 0) {
		struct sluice_conn_info info;

		sluice_conn_info(world->conn, &info);
		tap_diag("error: %s", info.error_text);
	}
	CHECK_EQ(r, 1);
}

/* Judgement --------------------------------------------------------------- */

/* conn ended as after a breach, and told the attacker. */
static void check_ended(struct world *world)
{
	struct sluice_conn_info info;
	struct raw_message m = { .end = false }, last;
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv(world->conn, &msg), -EPROTO);
	CHECK_EQ(sluice_send(world->conn, "x", 1, 0, 0), -EPROTO);
	sluice_conn_info(world->conn, &info);
	CHECK_EQ(info.error, -EPROTO);
	CHECK(info.error_text && info.error_text[0]);
	if (world->quiet)
		return;

	do {
		last = m;
		raw_recv(world->raw.sock, &m);
		raw_drop(&m);
	} while (!m.end);
	CHECK_EQ(last.frame.type, SLUICE_FRAME_ERROR);
	CHECK_EQ(last.frame.flags, 0);
	CHECK_GT((int32_t)last.frame.value, 0);
	CHECK_GT(last.frame.count, 0);
	CHECK_LE(last.frame.count, SLUICE_FRAME_TEXT_MAX);
	CHECK_EQ(last.len, sizeof(last.frame) + last.frame.count);
}

static void touch(const struct sluice_msg *msg)
{
	const volatile uint8_t *data = sluice_msg_data(msg);
	uint32_t i;

	for (i = 0; i < msg->len; i += 4096)
		(void)data[i];
	if (msg->len)
		(void)data[msg->len - 1];
}

void world_breach(struct world *world)
{
	int64_t until = tap_now() + WAIT_NS;
	struct sluice_msg msg;
	int r;

	do {
		r = world_recv(world, &msg, until - tap_now());
		if (r == 1)
			touch(&msg);
	} while (r == 1);
	CHECK_EQ(r, -EPROTO);
	check_ended(world);
}

void world_breach_sending(struct world *world)
{
	int64_t until = tap_now() + WAIT_NS;
	struct sluice_msg msg;
	char data[100] = { 0 };
	int r;

	/* What it did comes first: a send might make the pool grow. */
	for (r = 0; loop.set && r < 2; r++)
		loop_turn(&loop, 0);
	do {
		CHECK_LT(tap_now(), until);
		r = sluice_send(world->conn, data, sizeof(data), 0, 0);
		if (r == 0 || r == -EAGAIN)
			r = world_recv(world, &msg, 0);
	} while (r == 1 || r == -EAGAIN);
	CHECK_EQ(r, -EPROTO);
	check_ended(world);
}

void world_fine(struct world *world)
{
	struct sluice_slot slot = raw_inline("ping", 4, SENTINEL);
	struct sluice_msg msg;

	if (world->direct)
		raw_publish(&world->raw, &slot, 1);
	else
		raw_say(&world->raw, "ping", 4, SENTINEL);
	do {
		world_take(world, &msg);
		touch(&msg);
		CHECK_OK(sluice_release(world->conn, &msg));
	} while (msg.tag != SENTINEL);
	CHECK_EQ(msg.len, 4);
	CHECK_MEM(sluice_msg_data(&msg), "ping", 4);

	CHECK_OK(sluice_send(world->conn, "pong", 4, SENTINEL, 0));
	do {
		const void *data = raw_next(&world->raw, &slot);

		if (slot.tag == SENTINEL)
			CHECK_MEM(data, "pong", 4);
	} while (slot.tag != SENTINEL);
	CHECK_EQ(slot.len, 4);
}

void world_close(struct world *world)
{
	other_works(world);
	close_ends(world);
	CHECK_EQ(tap_open_fds(), world->fds);
	CHECK_EQ(memory_mappings(), world->memory_mappings);
	/* A sanitizer maps memory as it likes. */
	if (!tap_sanitized)
		CHECK_EQ(tap_mappings(), world->mappings);
}

void world_judge(struct world *world, bool fine)
{
	if (fine)
		world_fine(world);
	else
		world_breach(world);
	world_close(world);
}
