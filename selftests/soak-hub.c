/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The hub of the soak test: serves all workers with one wait set, in one thread.
 * Half of its conns are on a shared pool. See soak.h.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soak.h"

#define SESSIONS 64
#define EVENTS 16
#define WAIT_NS 2000000

struct hub {
	struct soak *soak;
	struct sluice_listener *listeners[SOAK_LISTENERS];
	struct sluice_pool *pool;
	struct sluice_set *set;
	struct soak_end *sessions[SESSIONS];
	unsigned int count;
};

static void hub_open(struct hub *hub)
{
	struct sluice_options options[SOAK_LISTENERS] = {
		ENDS_OPTIONS(.hold_limit = 128),
		ENDS_OPTIONS(.no_spin = 1, .ring_slots = 128),
	};

	CHECK_OK(sluice_pool_new(&hub->pool, &ENDS_POOL(.limit = 64 << 20)));
	options[1].pool = hub->pool;
	CHECK_OK(sluice_set_new(&hub->set));
	for (int i = 0; i < SOAK_LISTENERS; i++)
		CHECK_OK(sluice_listen(&hub->listeners[i], hub->soak->names[i],
				       &options[i]));
}

static void hub_accept(struct hub *hub, struct sluice_listener *listener)
{
	struct soak_end *end;
	struct sluice_conn *conn;
	int r;

	while (hub->count < SESSIONS) {
		r = sluice_accept(listener, &conn, 0);
		if (r == -EAGAIN)
			return;
		CHECK_OK(r);
		end = calloc(1, sizeof(*end));
		CHECK(end);
		end->conn = conn;
		end->hub = true;
		CHECK_OK(sluice_set_add(hub->set, conn, SLUICE_RECV, end));
		hub->sessions[hub->count++] = end;
	}
}

static void hub_close(struct hub *hub, struct soak_end *end)
{
	unsigned int i = 0;

	while (hub->sessions[i] != end)
		i++;
	hub->sessions[i] = hub->sessions[--hub->count];
	sluice_conn_close(end->conn);
	free(end);
}

/* The first message of a worker says which connection this is. */
static bool know(struct hub *hub, struct soak_end *end)
{
	struct sluice_msg msg;
	int r = sluice_recv(end->conn, &msg);

	if (r == -EAGAIN)
		return false;
	if (r != 1) {
		/* It was killed before it had said anything. */
		CHECK(r == 0 || r == -ECONNRESET);
		hub_close(hub, end);
		return false;
	}
	CHECK_EQ(msg.len, sizeof(end->number));
	memcpy(&end->number, sluice_msg_data(&msg), sizeof(end->number));
	soak_begin(hub->soak, end);
	end->peer_known = true;
	return true;
}

/*
 * Sends about as much as it receives, so that a worker that only listens is not
 * flooded; the rest of it when the worker's stream has ended.
 */
static void serve(struct hub *hub, struct soak_end *end)
{
	uint64_t chance = tap_random_below(4000);
	uint32_t what;
	int r;

	if (!end->peer_known && !know(hub, end))
		return;
	if (!end->done) {
		end->side.tx_end = end->side.rx.next + 50;
		what = soak_move(hub->soak, end);
	} else {
		r = life_send_some(end->conn, &end->side);
		if (r == 0 || r == -EPIPE) {
			hub_close(hub, end);
			return;
		}
		if (r != -EAGAIN)
			CHECK_OK(r);
		what = r == -EAGAIN ? SLUICE_SEND : 0;
	}
	if (chance == 0) {
		hub_close(hub, end);
		return;
	}
	if (chance == 1)
		CHECK_OK(sluice_conn_shutdown(end->conn));
	/* A conn that has ended is ready to receive for ever. */
	if (end->done)
		what = SLUICE_SEND;
	else if (end->side.tx.next < end->side.tx_end && !(what & SLUICE_RECV))
		what = SLUICE_RECV | SLUICE_SEND;
	CHECK_OK(sluice_set_change(hub->set, end->conn,
				   what ? what : SLUICE_RECV));
}

void soak_hub(struct soak *soak)
{
	struct sluice_event events[EVENTS];
	struct hub hub = { .soak = soak };
	int fds = tap_open_fds(), n;

	hub_open(&hub);
	while (!atomic_load(&soak->hub_stop) || hub.count) {
		atomic_fetch_add(&soak->beats[SOAK_HUB], 1);
		for (int i = 0; i < SOAK_LISTENERS; i++)
			hub_accept(&hub, hub.listeners[i]);
		n = CHECK_OK(sluice_set_wait(hub.set, events, EVENTS, WAIT_NS,
					     20000));
		for (int i = 0; i < n; i++)
			serve(&hub, events[i].data);
	}
	sluice_set_free(hub.set);
	for (int i = 0; i < SOAK_LISTENERS; i++)
		sluice_listener_close(hub.listeners[i]);
	sluice_pool_free(hub.pool);
	CHECK_EQ(life_memfds(), 0);
	CHECK_EQ(tap_open_fds(), fds);
	_exit(0);
}
