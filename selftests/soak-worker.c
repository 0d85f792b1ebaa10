/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* A worker of the soak test: one connection after the other. See soak.h. */
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "soak.h"

#define MS 1000000ll

static uint32_t power(unsigned int low, unsigned int high)
{
	return 1u << (low + tap_random_below(high - low + 1));
}

/* Connects with options at random. NULL: there is no hub right now. */
static struct sluice_conn *join(struct soak *soak)
{
	const struct sluice_pool_options pool =
		ENDS_POOL(.limit = (uint64_t)power(23, 28));
	const struct sluice_options options =
		ENDS_OPTIONS(.flags = tap_random_below(4) ? 0 :
							    SLUICE_F_NO_DIRECT,
			     .ring_slots = power(4, 11),
			     .hold_limit = power(6, 10),
			     .first_position = tap_random() & 1 ? 0xffffff00 :
								  0,
			     .no_spin = tap_random() & 1, .spin_ns = 50000,
			     .pool_options = &pool, .aware_timeout_ns = -1);
	const char *name = soak->names[tap_random_below(SOAK_LISTENERS)];
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	int r;

	r = sluice_connect(&conn, name, &options);
	if (r == -ECONNREFUSED || r == -ECONNRESET)
		return NULL;
	CHECK_OK(r);
	sluice_conn_info(conn, &info);
	if (info.rx_lane != SLUICE_LANE_PLAIN)
		return conn;
	/* It was killed before it said HELLO. */
	CHECK(soak->counts[SOAK_HUBS_KILLED] || atomic_load(&soak->stop));
	sluice_conn_close(conn);
	return NULL;
}

/* sluice_wait(), or what an event loop does instead. */
static void wait_for(struct sluice_conn *conn, uint32_t what, int64_t timeout)
{
	struct pollfd p = { .fd = sluice_conn_fd(conn) };
	int r;

	if (tap_random_below(4)) {
		r = sluice_wait(conn, what, timeout);
		if (r != -ETIMEDOUT)
			CHECK_OK(r);
		return;
	}
	if (!CHECK_OK(sluice_arm(conn, what, &p.events)))
		CHECK_SYS(poll(&p, 1, timeout < 0 ? -1 : (int)(timeout / MS)));
}

/* The worker's stream ends; the hub's is to come to its own end. */
static void drain(struct soak *soak, struct soak_end *end, unsigned int index)
{
	uint32_t what;

	CHECK_EQ(sluice_conn_shutdown(end->conn), 0);
	end->side.tx_end = 0;
	while (!end->done) {
		atomic_fetch_add(&soak->beats[index], 1);
		what = soak_move(soak, end);
		if (what)
			wait_for(end->conn, what, -1);
	}
}

static void run_connection(struct soak *soak, struct soak_end *end,
			   unsigned int index)
{
	int64_t most = tap_random_below(4) ? 100 * MS : 2000 * MS;
	int64_t until = tap_now() + (int64_t)tap_random_below(most);
	int r;

	while ((r = sluice_send(end->conn, &end->number, sizeof(end->number), 0,
				0)) == -EAGAIN)
		CHECK_OK(sluice_wait(end->conn, SLUICE_SEND, -1));
	if (r == -EPIPE)
		return;
	CHECK_OK(r);
	end->side.tx_end = tap_random_below(3) ? UINT64_MAX : 0;
	while (tap_now() < until && !soak->stop && !end->done) {
		uint32_t what = soak_move(soak, end);

		atomic_fetch_add(&soak->beats[index], 1);
		/* Only a send is sure to be answered. */
		if (what)
			wait_for(end->conn, what,
				 what & SLUICE_SEND ?
					 -1 :
					 (int64_t)tap_random_below(20) * MS);
	}
	if (end->done)
		return;
	switch (tap_random_below(4)) {
	case 0:
		_exit(0); /* and another worker comes */
	case 1:
		return; /* closes with views held, messages unread */
	default:
		drain(soak, end, index);
	}
}

void soak_worker(struct soak *soak, unsigned int index)
{
	int fds = tap_open_fds();

	while (!atomic_load(&soak->stop)) {
		struct soak_end end = { .conn = join(soak) };

		atomic_fetch_add(&soak->beats[index], 1);
		if (!end.conn) {
			tap_sleep(MS);
			continue;
		}
		end.number = atomic_fetch_add(&soak->number, 1);
		for (int i = 0; i < 2; i++)
			soak->connections[end.number % SOAK_CONNECTIONS]
				.sent[i] = 0;
		soak_begin(soak, &end);
		atomic_fetch_add(&soak->counts[SOAK_OPENED], 1);
		run_connection(soak, &end, index);
		sluice_conn_close(end.conn);
		CHECK_EQ(life_memfds(), 0);
		CHECK_EQ(tap_open_fds(), fds);
	}
	_exit(0);
}
