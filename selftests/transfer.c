/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Messages between two aware endpoints: order, contents, boundaries and tags,
 * in every lane, by every call that sends or receives, however the two wait.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "ends.h"

#define LONG 1048576

static const struct way {
	const char *name;
	struct sluice_options options;
	bool chosen; /* queued by sluice_conn_set_lane() */
	bool poll; /* never wait in the library */
} ways[] = {
	{ "direct-sleep", { .no_spin = 1 }, false, false },
	{ "direct-spin", { 0 }, false, false },
	{ "direct-forever", { .spin_ns = UINT64_MAX }, false, false },
	{ "direct-poll", { 0 }, false, true },
	{ "queued-sleep",
	  { .flags = SLUICE_F_NO_DIRECT, .no_spin = 1 },
	  false,
	  false },
	{ "queued-spin", { .flags = SLUICE_F_NO_DIRECT }, false, false },
	{ "queued-forever",
	  { .flags = SLUICE_F_NO_DIRECT, .spin_ns = UINT64_MAX },
	  false,
	  false },
	{ "queued-poll", { .flags = SLUICE_F_NO_DIRECT }, false, true },
	{ "chosen-sleep", { .no_spin = 1 }, true, false },
	{ "chosen-spin", { 0 }, true, false },
	{ "chosen-poll", { 0 }, true, true },
};

static void choose_queued(struct sluice_conn *conn)
{
	int r;

	while ((r = sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	CHECK_OK(r);
}

/* Sleeps, spins or yields until `what` may be there. */
static void pause_for(struct sluice_conn *conn, const struct way *way,
		      uint32_t what)
{
	if (way->poll)
		sched_yield();
	else
		CHECK_OK(sluice_wait(conn, what, -1));
}

/* The child does `run`, with the way as its argument. */
static pid_t way_fork(struct sluice_conn **conn, const struct way *way,
		      uint32_t ring_slots,
		      void (*run)(struct sluice_conn *conn, void *arg))
{
	struct sluice_options options = way->options;

	options.size = sizeof(options);
	options.ring_slots = ring_slots;
	return ends_fork(conn, &options, &options, run, (void *)way);
}

/* Both directions at once, in two processes -------------------------------- */

#define EACH_WAY 2000

static void both_ways(struct sluice_conn *conn, const struct way *way,
		      struct stream *tx, struct stream *rx, uint32_t hold)
{
	struct holds *holds = calloc(1, sizeof(*holds));

	CHECK(holds);
	holds->limit = hold;
	if (way->chosen)
		choose_queued(conn);
	while (tx->next < EACH_WAY || rx->next < EACH_WAY) {
		uint32_t what = 0;
		bool idle = true;

		if (rx->next < EACH_WAY) {
			what |= SLUICE_RECV;
			idle &= stream_recv(conn, rx, holds) == -EAGAIN;
		}
		if (tx->next < EACH_WAY) {
			what |= SLUICE_SEND;
			idle &= stream_send(conn, tx, 0) == -EAGAIN;
		}
		if (idle)
			pause_for(conn, way, what);
	}
	holds_release_all(conn, holds);
	free(holds);
	sluice_conn_shutdown(conn);
	ends_expect_eof(conn);
}

static void both_ways_child(struct sluice_conn *conn, void *way)
{
	struct stream tx = { .key = 2, .max_len = LONG };
	struct stream rx = { .key = 1, .max_len = LONG };

	both_ways(conn, way, &tx, &rx, 0);
}

TAP_EACH(both_directions, way, ways)
{
	struct stream tx = { .key = 1, .max_len = LONG };
	struct stream rx = { .key = 2, .max_len = LONG };
	struct sluice_pool_info info;
	struct sluice_conn *conn;
	pid_t child;

	child = way_fork(&conn, way, 0, both_ways_child);
	both_ways(conn, way, &tx, &rx, 100);
	tap_join(child);
	/* A look at the socket: the peer is gone, and what it had is back. */
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), SLUICE_RECV);
	sluice_pool_trim(sluice_conn_pool(conn));
	sluice_pool_info(sluice_conn_pool(conn), &info);
	CHECK_EQ(info.buffers_used, 0);
	CHECK_EQ(info.bytes, 0);
	sluice_conn_close(conn);
}

/* Receiving by copy and by batch ------------------------------------------- */

#define COPIES 1000

static void send_stream(struct sluice_conn *conn, void *arg)
{
	struct stream tx = { .key = 3, .max_len = LONG };
	const struct way *way = arg;

	if (way->chosen)
		choose_queued(conn);
	while (tx.next < COPIES)
		if (stream_send(conn, &tx, 0))
			pause_for(conn, way, SLUICE_SEND);
}

/* Sometimes the buffer is too short at first. */
static void copy_one(struct sluice_conn *conn, const struct way *way,
		     struct stream *rx, uint8_t *data)
{
	uint32_t wanted = stream_len(rx, rx->next);
	uint64_t tag = 0;
	size_t len = 0;
	int r;

	if (wanted && tap_random_below(4) == 0) {
		while ((r = sluice_recv_copy(conn, data,
					     tap_random_below(wanted), &len,
					     NULL)) == -EAGAIN)
			pause_for(conn, way, SLUICE_RECV);
		CHECK_EQ(r, -EMSGSIZE);
		CHECK_EQ(len, wanted);
	}
	while ((r = sluice_recv_copy(conn, data, wanted, &len, &tag)) ==
	       -EAGAIN)
		pause_for(conn, way, SLUICE_RECV);
	CHECK_EQ(r, 1);
	CHECK_EQ(len, wanted);
	CHECK_EQ(tag, stream_tag(rx, rx->next));
	CHECK(content_matches(data, len, stream_key(rx, rx->next), 0));
	rx->next++;
}

TAP_EACH(receive_copies, way, ways)
{
	struct stream rx = { .key = 3, .max_len = LONG };
	uint8_t *data = malloc(LONG);
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	pid_t child;

	CHECK(data);
	child = way_fork(&conn, way, 0, send_stream);
	while (rx.next < COPIES)
		copy_one(conn, way, &rx, data);
	ends_expect_eof(conn);
	sluice_conn_info(conn, &info);
	CHECK_EQ(info.held_buffers, 0);
	tap_join(child);
	sluice_conn_close(conn);
	free(data);
}

TAP_EACH(receive_batches, way, ways)
{
	struct stream rx = { .key = 3, .max_len = LONG };
	struct sluice_msg msgs[32];
	struct sluice_conn *conn;
	int i, n, r, most = 0;
	pid_t child;

	child = way_fork(&conn, way, 0, send_stream);
	CHECK_EQ(sluice_recv_batch(conn, msgs, 0), -EINVAL);
	while (rx.next < COPIES) {
		n = 1 + (int)tap_random_below(32);
		r = sluice_recv_batch(conn, msgs, (unsigned int)n);
		if (r == -EAGAIN) {
			pause_for(conn, way, SLUICE_RECV);
			continue;
		}
		CHECK_GT(r, 0);
		CHECK_LE(r, n);
		for (i = 0; i < r; i++)
			stream_check(&rx, &msgs[i]);
		while (i-- > 0) /* last first */
			CHECK_OK(sluice_release(conn, &msgs[i]));
		most = r > most ? r : most;
	}
	CHECK_GT(most, 1);
	ends_expect_eof(conn);
	tap_join(child);
	sluice_conn_close(conn);
}

/* Scatter lists ------------------------------------------------------------ */

/* Message `next` of the stream, in 1 to `most` parts of any length. */
static int send_in_parts(struct sluice_conn *conn, struct stream *tx,
			 unsigned int most)
{
	uint32_t len = stream_len(tx, tx->next), at = 0, part;
	unsigned int count = 1 + (unsigned int)tap_random_below(most), i;
	struct sluice_part parts[SLUICE_PARTS_MAX];
	struct sluice_buf *buf = NULL;
	uint32_t used = 0;
	int r = 0;

	for (i = 0; i < count; i++) {
		part = (uint32_t)tap_random_below(len - at + 1ull);
		if (i + 1 == count)
			part = len - at;
		/* Several parts may lie in one buffer. */
		if (buf && part <= buf->capacity - used && tap_random() & 1) {
			sluice_buf_ref(buf);
		} else {
			used = (uint32_t)tap_random_below(100);
			r = sluice_loan(conn, used + part, &buf);
			if (r)
				break;
		}
		content_fill((uint8_t *)buf->data + used, part,
			     stream_key(tx, tx->next), at);
		parts[i] = (struct sluice_part){ buf, used, part };
		used += part;
		at += part;
	}
	if (!r)
		r = sluice_send_parts(conn, parts, count,
				      stream_tag(tx, tx->next), 0);
	if (r)
		while (i-- > 0)
			sluice_buf_unref(parts[i].buf);
	if (r != -EAGAIN)
		CHECK_OK(r);
	tx->next += !r;
	return r;
}

#define SCATTERED 700

static void send_scattered(struct sluice_conn *conn, void *arg)
{
	struct stream tx = { .key = 4, .max_len = 100000 };
	const struct way *way = arg;

	if (way->chosen)
		choose_queued(conn);
	while (tx.next < SCATTERED) {
		/* Whole messages in between. */
		int r = tap_random_below(4) ?
				send_in_parts(conn, &tx, SLUICE_PARTS_MAX) :
				stream_send(conn, &tx, 0);

		if (r)
			pause_for(conn, way, SLUICE_SEND);
	}
}

TAP_EACH(scatter, way, ways)
{
	struct stream rx = { .key = 4, .max_len = 100000 };
	uint8_t *data = malloc(100000);
	struct holds holds = { .limit = 20 };
	struct sluice_conn *conn;
	pid_t child;

	CHECK(data);
	child = way_fork(&conn, way, 0, send_scattered);
	while (rx.next < SCATTERED) {
		if (!rx.at && tap_random_below(3) == 0)
			copy_one(conn, way, &rx, data);
		else if (stream_recv(conn, &rx, &holds) == -EAGAIN)
			pause_for(conn, way, SLUICE_RECV);
	}
	holds_release_all(conn, &holds);
	ends_expect_eof(conn);
	tap_join(child);
	sluice_conn_close(conn);
	free(data);
}

#define WHOLES 2000

static void send_wholes(struct sluice_conn *conn, void *arg)
{
	struct sluice_part parts[SLUICE_PARTS_MAX];
	struct sluice_buf *buf;
	uint64_t tag;
	int i, r;

	(void)arg;
	while ((r = sluice_loan(conn, 1, &buf)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
	CHECK_OK(r);
	for (i = 0; i < SLUICE_PARTS_MAX; i++)
		parts[i] = (struct sluice_part){ .buf = buf };
	for (tag = 0; tag < WHOLES; tag++) {
		for (i = 0; i < SLUICE_PARTS_MAX; i++)
			sluice_buf_ref(buf);
		while ((r = sluice_send_parts(conn, parts, SLUICE_PARTS_MAX,
					      tag, 0)) == -EAGAIN)
			CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
		CHECK_OK(r);
	}
}

/* Who sees the first part of a message sees them all, however soon it looks. */
TAP_TEST(scatter_is_whole)
{
	const struct way forever = { .options = { .spin_ns = UINT64_MAX } };
	struct sluice_msg parts[SLUICE_PARTS_MAX];
	struct sluice_conn *conn;
	uint64_t tag;
	pid_t child;
	int i, r;

	child = way_fork(&conn, &forever, 64, send_wholes);
	for (tag = 0; tag < WHOLES; tag++) {
		CHECK_EQ(sluice_recv_wait(conn, &parts[0], -1), 1);
		for (i = 1; i < SLUICE_PARTS_MAX; i++) {
			r = sluice_recv(conn, &parts[i]);
			CHECK_EQ(r, 1);
		}
		for (i = 0; i < SLUICE_PARTS_MAX; i++) {
			CHECK_EQ(parts[i].tag, tag);
			CHECK_EQ(parts[i].flags, i < SLUICE_PARTS_MAX - 1 ?
							 SLUICE_MSG_F_MORE :
							 0);
			CHECK_OK(sluice_release(conn, &parts[i]));
		}
	}
	ends_expect_eof(conn);
	tap_join(child);
	sluice_conn_close(conn);
}

/* Batches ------------------------------------------------------------------ */

#define BATCHED 2000

static void recv_stream(struct sluice_conn *conn, void *arg)
{
	struct stream rx = { .key = 5, .max_len = 10000 };
	const struct way *way = arg;

	while (rx.next < BATCHED)
		if (stream_recv(conn, &rx, NULL) == -EAGAIN)
			pause_for(conn, way, SLUICE_RECV);
	ends_expect_eof(conn);
}

static void flush(struct sluice_conn *conn, const struct way *way)
{
	int r;

	while ((r = sluice_flush(conn)) == -EAGAIN)
		pause_for(conn, way, SLUICE_SEND);
	CHECK_OK(r);
}

/* Batches of any length, also longer than the ring, to one who sleeps. */
TAP_EACH(batch, way, ways)
{
	struct stream tx = { .key = 5, .max_len = 10000 };
	struct sluice_conn *conn;
	uint64_t end;
	pid_t child;

	child = way_fork(&conn, way, 16, recv_stream);
	if (way->chosen)
		choose_queued(conn);
	while (tx.next < BATCHED) {
		end = tx.next + 1 + tap_random_below(100);
		while (tx.next < end && tx.next < BATCHED)
			if (stream_send(conn, &tx, SLUICE_SEND_F_BATCH))
				pause_for(conn, way, SLUICE_SEND);
		flush(conn, way);
		if (tap_random_below(20) == 0)
			tap_sleep(1000000); /* the receiver will sleep */
	}
	sluice_conn_shutdown(conn);
	tap_join(child);
	sluice_conn_close(conn);
}

/* Copying sends ------------------------------------------------------------ */

/* Around the size from which on a copy bypasses the cache, at odd addresses. */
static const size_t copied[] = {
	(1 << 20) - 1,	(1 << 20),	(1 << 20) + 1,
	(1 << 20) + 63, (1 << 20) + 64, (3 << 20) + 4096 + 5,
};

#define COPIED_ROUNDS 20

static void receive_copied(struct sluice_conn *conn, void *arg)
{
	struct sluice_msg msg;
	uint64_t i;

	(void)arg;
	for (i = 0; i < COPIED_ROUNDS * sizeof(copied) / sizeof(*copied); i++) {
		CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
		CHECK_EQ(msg.tag, i);
		CHECK_EQ(msg.len,
			 copied[i % (sizeof(copied) / sizeof(*copied))]);
		CHECK(content_matches(sluice_msg_data(&msg), msg.len, i, 0));
		CHECK_OK(sluice_release(conn, &msg));
	}
	ends_expect_eof(conn);
}

TAP_TEST(large_copies)
{
	const size_t count = sizeof(copied) / sizeof(*copied);
	uint8_t *data = malloc((4 << 20) + 64);
	struct sluice_conn *conn;
	uint64_t i;
	pid_t child;
	int r;

	CHECK(data);
	child = ends_fork(&conn, NULL, NULL, receive_copied, NULL);
	for (i = 0; i < COPIED_ROUNDS * count; i++) {
		uint8_t *at = data + i % 64;
		size_t len = copied[i % count];

		content_fill(at, len, i, 0);
		while ((r = sluice_send(conn, at, len, i, 0)) == -EAGAIN)
			CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
		CHECK_OK(r);
		/* Its own again at once. */
		content_fill(at, len, i + 1, 0);
	}
	CHECK_OK(sluice_conn_shutdown(conn));
	tap_join(child);
	sluice_conn_close(conn);
	free(data);
}
