/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What both ends of a soak connection do: see soak.h. */
#include "soak.h"

#define HELD_MAX 60

static void count(struct soak *soak, enum soak_count what, uint64_t by)
{
	atomic_fetch_add(&soak->counts[what], by);
}

void soak_begin(struct soak *soak, struct soak_end *end)
{
	uint64_t n = end->number;
	/* Both ends derive keys and lengths from the number. */
	uint32_t max_len = n % 32 < 2 ? 1u << 20 : 1000u << n % 8;
	struct side *side = &end->side;

	side->tx =
		(struct stream){ .key = n * 2 + end->hub, .max_len = max_len };
	side->rx =
		(struct stream){ .key = n * 2 + !end->hub, .max_len = max_len };
	side->holds.limit = (uint32_t)tap_random_below(HELD_MAX);
	side->sent = &soak->connections[n % SOAK_CONNECTIONS].sent[end->hub];
}

static void switch_lane(struct soak *soak, struct sluice_conn *conn)
{
	uint32_t lane = tap_random() & 1 ? SLUICE_LANE_DIRECT :
					   SLUICE_LANE_QUEUED;
	int r = sluice_conn_set_lane(conn, lane);

	/* Not negotiated, no room for the marker, or the peer is gone. */
	if (r != -EOPNOTSUPP && r != -EAGAIN && r != -EPIPE) {
		CHECK_OK(r);
		count(soak, SOAK_SWITCHES, 1);
	}
}

static void check_end(struct soak *soak, struct soak_end *end, int r)
{
	const struct side *side = &end->side;
	struct sluice_conn_info info;

	sluice_conn_info(end->conn, &info);
	if (r != 0 && r != -ECONNRESET)
		TAP_FAIL("connection %llu ended with %d: %s",
			 (unsigned long long)end->number, r, info.error_text);
	CHECK_EQ(side->rx.at, 0);
	CHECK_GE(side->rx.next,
		 soak->connections[end->number % SOAK_CONNECTIONS]
			 .sent[!end->hub]);
	end->done = true;
	count(soak, SOAK_ENDED, 1);
}

static void release_some(struct soak_end *end)
{
	struct holds *holds = &end->side.holds;

	for (uint64_t n = tap_random_below(holds->count + 1ull); n--;)
		holds_release_one(end->conn, holds);
}

uint32_t soak_move(struct soak *soak, struct soak_end *end)
{
	uint64_t from = end->side.rx.next, chance = tap_random();
	struct sluice_conn *conn = end->conn;
	uint32_t what = 0;
	int r;

	if (chance % 32 == 0)
		switch_lane(soak, conn);
	if (chance % 101 == 0) {
		CHECK_OK(sluice_pool_trim(sluice_conn_pool(conn)));
		count(soak, SOAK_TRIMS, 1);
	}
	if (chance % 67 == 0)
		tap_sleep((int64_t)tap_random_below(end->hub ? 1000000 :
							       4000000));
	if (chance % 7 == 0)
		release_some(end);

	r = life_receive_some(conn, &end->side);
	for (; from < end->side.rx.next; from++) {
		count(soak, SOAK_MESSAGES, 1);
		count(soak, SOAK_BYTES, stream_len(&end->side.rx, from));
	}
	if (r == -EAGAIN) {
		/* The peer may wait for what is held here. */
		holds_release_all(conn, &end->side.holds);
		what |= SLUICE_RECV;
	} else if (r != 1) {
		check_end(soak, end, r);
		return 0;
	}
	r = life_send_some(conn, &end->side);
	if (r == -EAGAIN)
		what |= SLUICE_SEND;
	else if (r == -EPIPE)
		end->side.tx_end = 0;
	else if (CHECK_OK(r))
		what = 0;
	return what & SLUICE_RECV ? what : 0;
}
