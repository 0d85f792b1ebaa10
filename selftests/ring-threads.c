/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Two endpoints in two threads, for ThreadSanitizer (make tsan) above all.
 *
 * Each side of a connection maps the other's memory at an address of its own,
 * and TSan, which knows addresses only, cannot see that a store here races with
 * a load there. The "same" cases therefore make either side read the other's
 * own mapping: then it sees who publishes, consumes, releases and reuses what.
 */
#include <pthread.h>
#include <string.h>

#include "ends.h"
#include "internal.h"

#define MESSAGES 8000
#define BUFFERS 16
#define SIZE 4096

#define SAME 1 /* one mapping for both sides */
#define PING_PONG 2
#define SWITCHES 4 /* lanes change on the way */
#define SLOW 8 /* as in a process that has no membarrier() */

static const struct row {
	const char *name;
	struct sluice_options options;
	unsigned int what;
} rows[] = {
	{ "stream-spin", { 0 }, 0 },
	{ "stream-sleep", { .no_spin = 1 }, 0 },
	{ "stream-switch", { 0 }, SWITCHES },
	{ "ping-pong-spin", { 0 }, PING_PONG },
	{ "ping-pong-sleep", { .no_spin = 1 }, PING_PONG },
	{ "same-stream-spin", { 0 }, SAME },
	{ "same-stream-sleep", { .no_spin = 1 }, SAME },
	{ "same-stream-forever", { .spin_ns = SLUICE_SPIN_FOREVER }, SAME },
	{ "same-stream-tiny",
	  { .ring_slots = 16, .hold_limit = 16, .first_position = 0u - 100 },
	  SAME },
	{ "same-stream-switch", { .ring_slots = 16 }, SAME | SWITCHES },
	{ "same-stream-slow", { 0 }, SAME | SWITCHES | SLOW },
	{ "same-ping-pong-spin", { 0 }, SAME | PING_PONG },
	{ "same-ping-pong-sleep", { .no_spin = 1 }, SAME | PING_PONG },
};

/* What a conn reads of its peer, for a while the peer's own mapping. */
struct redirection {
	const struct sluice_link *peer_link;
	const uint8_t *base; /* of segment 0, the only one */
};

static void redirect_ring(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	CHECK(conn->rx_ring && core->rx_ring); /* in the direct lane */
	conn->rx_ring = core->rx_ring =
		(const void *)((const uint8_t *)core->peer_link +
			       core->peer_geometry.ring_offset);
}

static void redirect(struct sluice_conn *conn, struct sluice_conn *peer,
		     struct redirection *saved)
{
	struct conn_core *core = core_of(conn);
	struct sluice_segment_info segment;

	CHECK_OK(sluice_pool_segment(sluice_conn_pool(peer), 0, &segment));
	CHECK_EQ(segment.segment, 0);
	CHECK_EQ(core->rx_segments[0].size, segment.length);
	saved->peer_link = core->peer_link;
	saved->base = core->rx_segments[0].base;
	core->peer_link = conn->peer_link = core_of(peer)->link;
	core->rx_segments[0].base = segment.address;
	redirect_ring(conn);
}

static void restore(struct sluice_conn *conn, const struct redirection *saved)
{
	struct conn_core *core = core_of(conn);

	core->peer_link = conn->peer_link = saved->peer_link;
	core->rx_segments[0].base = saved->base;
	conn->rx_ring = core->rx_ring = NULL; /* nothing more is received */
}

/* Nothing but the out-of-line halves is used then. */
static void unregister(struct sluice_conn *conn)
{
	core_of(conn)->registered = false;
	conn->tx_ring = NULL;
	conn->releases = NULL;
}

/* Makes the only segment of a pool known to the peer. */
static void announce(struct sluice_conn *from, struct sluice_conn *to)
{
	struct sluice_buf *buf;
	struct sluice_msg msg;

	CHECK_OK(sluice_loan(from, SIZE, &buf));
	CHECK_OK(sluice_send_buf(from, buf, 1, 0, 0));
	CHECK_EQ(sluice_recv_wait(to, &msg, 0), 1);
	CHECK_OK(sluice_release(to, &msg));
}

static void disturb(struct sluice_conn *conn, void *arg)
{
	const struct row *row = arg;
	int r;

	if (tap_random_below(2000) == 0)
		tap_sleep(100000);
	if (!(row->what & SWITCHES) || tap_random_below(100))
		return;
	r = sluice_conn_set_lane(conn, tap_random() & 1 ? SLUICE_LANE_DIRECT :
							  SLUICE_LANE_QUEUED);
	if (r != -EAGAIN)
		CHECK_OK(r);
}

struct side {
	struct sluice_conn *conn;
	const struct row *row;
	uint64_t number; /* 0 begins */
	uint64_t sleeps;
};

static void *run_side(void *arg)
{
	struct side *side = arg;
	struct stream tx = { .key = 30 + side->number, .max_len = SIZE };
	struct stream rx = { .key = 31 - side->number, .max_len = SIZE };
	/* Fewer than there are buffers. */
	struct holds holds = { .limit = side->row->what & PING_PONG ? 0 : 6 };
	struct sluice_conn_info info;
	uint64_t count = tap_slow > 1 ? MESSAGES / 4 : MESSAGES, i;

	tap_random_stream(1 + side->number);
	if (!(side->row->what & PING_PONG)) {
		streams_run(side->conn, &tx, count, &rx, count, &holds, disturb,
			    (void *)side->row);
	} else {
		for (i = 0; i < count; i++) {
			if (i || !side->number)
				streams_run(side->conn, &tx, i + !side->number,
					    NULL, 0, NULL, NULL, NULL);
			streams_run(side->conn, NULL, 0, &rx, i + 1, NULL,
				    disturb, (void *)side->row);
		}
		streams_run(side->conn, &tx, count, NULL, 0, NULL, NULL, NULL);
	}
	sluice_conn_info(side->conn, &info);
	side->sleeps = info.sleeps;
	return NULL;
}

TAP_EACH(two_threads, row, rows)
{
	static const uint32_t class_size = SIZE;
	struct sluice_pool_options pool = ENDS_POOL(.limit = BUFFERS * SIZE,
						    .classes = &class_size,
						    .class_count = 1);
	struct sluice_options options = row->options;
	struct redirection saved[2];
	struct sluice_conn *conn[2];
	struct side sides[2];
	pthread_t threads[2];
	int i;

	options.size = sizeof(options);
	options.pool_options = &pool;
	ends_pair(conn, &options, NULL);
	for (i = 0; i < 2; i++)
		announce(conn[i], conn[!i]);
	for (i = 0; i < 2 && row->what & SAME; i++)
		redirect(conn[i], conn[!i], &saved[i]);
	for (i = 0; i < 2 && row->what & SLOW; i++)
		unregister(conn[i]);
	for (i = 0; i < 2; i++) {
		sides[i] = (struct side){ conn[i], row, (uint64_t)i, 0 };
		CHECK_EQ(pthread_create(&threads[i], NULL, run_side, &sides[i]),
			 0);
	}
	for (i = 0; i < 2; i++) {
		struct sluice_conn_info info;

		CHECK_EQ(pthread_join(threads[i], NULL), 0);
		sluice_conn_info(conn[i], &info);
		CHECK_EQ(info.error, 0);
		CHECK_EQ(info.held_buffers, 0);
		if (row->options.spin_ns == SLUICE_SPIN_FOREVER)
			CHECK_EQ(sides[i].sleeps, 0);
		if (row->options.no_spin)
			CHECK_GT(sides[i].sleeps, 0);
	}
	for (i = 0; i < 2 && row->what & SAME; i++)
		restore(conn[i], &saved[i]);
	ends_close(conn);
}
