/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The processes of the soak test. soak.c forks one hub and a few workers, kills
 * any of them at random and starts it anew. A worker opens one connection after
 * the other to the hub, each with options of its own; both ends stream, switch
 * lanes, trim, sleep, close and die at random, and check what they receive.
 *
 * All of them share struct soak. Every field is written by many, atomically.
 */
#ifndef SOAK_H
#define SOAK_H

#include <stdatomic.h>

#include "life.h"

#define SOAK_WORKERS 6
#define SOAK_HUB SOAK_WORKERS /* its index among the beats */
/* A number is used again long after its connection is gone. */
#define SOAK_CONNECTIONS 16384
#define SOAK_LISTENERS 2 /* conns with pools of their own; on a shared one */

enum soak_count {
	SOAK_MESSAGES,
	SOAK_BYTES,
	SOAK_OPENED,
	SOAK_ENDED, /* orderly, or by the hub's death */
	SOAK_SWITCHES,
	SOAK_TRIMS,
	SOAK_KILLED,
	SOAK_HUBS_KILLED,
	SOAK_COUNTS,
};

struct soak {
	atomic_bool stop; /* workers end their connections and exit */
	atomic_bool hub_stop; /* so does the hub, when all are gone */
	_Atomic uint64_t number; /* of the next connection */
	_Atomic uint64_t process; /* streams of random numbers in use */
	_Atomic uint64_t beats[SOAK_WORKERS + 1]; /* grow while it moves */
	_Atomic uint64_t counts[SOAK_COUNTS];
	char names[SOAK_LISTENERS][64];
	struct {
		_Atomic uint64_t sent[2]; /* by the worker, by the hub */
	} connections[SOAK_CONNECTIONS];
};

/* One end of a connection. */
struct soak_end {
	struct sluice_conn *conn;
	struct side side;
	uint64_t number;
	bool hub;
	bool peer_known; /* hub: the number has come */
	bool done; /* the peer's stream has ended */
};

/* Sets up the streams, once the number is known. */
void soak_begin(struct soak *soak, struct soak_end *end);
/*
 * A burst of each, perhaps after a lane switch, a trim or a nap. Returns what
 * there is to wait for; done: all that the peer had sent was checked.
 */
uint32_t soak_move(struct soak *soak, struct soak_end *end);

void soak_worker(struct soak *soak, unsigned int index)
	__attribute__((noreturn));
void soak_hub(struct soak *soak) __attribute__((noreturn));

#endif
