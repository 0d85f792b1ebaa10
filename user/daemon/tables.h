/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What sluiced knows: users, endpoints, connections, and how much of everything
 * each user has. The main thread's alone; a worker reads an endpoint's identity,
 * which does not change.
 *
 * All of it can be rebuilt from the pinned maps (takeover.c), except who the
 * client of an endpoint is: that one has to claim it.
 */
#ifndef SLUICED_TABLES_H
#define SLUICED_TABLES_H

#include <stdint.h>
#include <time.h>

#include <steer.h>

#include "config.h"
#include "maps.h"

struct client;

struct user {
	struct user *next;
	uid_t uid;
	uint32_t clients; /* connections to the control socket */
	uint32_t endpoints;
	uint32_t conns; /* attached */
	uint64_t map_bytes;
	int64_t shunned_until; /* CLOCK_MONOTONIC, ns: takes none of its fds */
	unsigned int waits; /* closes of them that had to be cut short */
	int64_t waited_at; /* the last one */
};

enum conn_state {
	CONN_ATTACHED,
	CONN_DETACHING, /* has no entry any more; a grace period is under way */
	CONN_GONE, /* its socket was found dead, its entry is removed */
};

struct conn {
	uint64_t cookie; /* of the receiver's socket */
	struct endpoint *endpoint;
	uint32_t ring; /* of the endpoint */
	uint32_t number; /* the client's name for it */
	enum conn_state state;
	uint64_t netns; /* cookie of its socket's network namespace */
	uint32_t seen; /* the last walk over the sockets that met it */
};

enum endpoint_state {
	ENDPOINT_CREATING,
	ENDPOINT_LIVE, /* has a client */
	ENDPOINT_ORPHAN, /* of an earlier sluiced, not yet claimed */
	ENDPOINT_DYING, /* the worker is to remove its maps, or does */
	ENDPOINT_DEAD, /* has none any more */
};

struct endpoint {
	struct identity identity;
	enum endpoint_state state;
	struct user *user;
	struct client *client; /* NULL: ORPHAN, or it has gone */
	uint32_t jobs; /* that name it, or a connection of it */
	uint64_t map_bytes;
	uint32_t ring_id; /* id of ring 0's ring map: what a claim shows */
	uint32_t conns; /* attached */
	struct conn **slots[SLUICE_RINGS_MAX]; /* by connection index; or NULL */
};

struct tables {
	struct user *users;
	struct endpoint *endpoints[STEER_RINGS]; /* by ring */
	void *conns; /* tsearch(3) tree by cookie */
	struct user total; /* of all users; uid has no meaning */
	uint32_t orphans;
	uint64_t last_number; /* of an endpoint */
};

/* NULL: no memory. user_put() frees a user who has nothing. */
struct user *user_get(struct tables *tables, uid_t uid);
void user_put(struct tables *tables, struct user *user);

/* Sums one of a user's counts, and the total. */
#define USER_ADD(tables, user, what, by) \
	((tables)->total.what += (by), (user)->what += (by))

/*
 * An endpoint with the identity given, counted at its user. endpoint_reserve()
 * finds ring_first: false if no room is left in the outer maps.
 */
bool endpoint_reserve(const struct tables *tables, struct identity *identity);
struct endpoint *endpoint_new(struct tables *tables,
			      const struct identity *identity,
			      struct user *user);
/* With its connections, which must have no entries any more. */
void endpoint_free(struct tables *tables, struct endpoint *endpoint);

/* NULL if there is none. */
struct endpoint *endpoint_find(const struct tables *tables, uint64_t number);

/* Cookies of all attached connections; the caller frees. NULL: no memory. */
uint64_t *endpoint_cookies(const struct endpoint *endpoint, size_t *count);

/* The connection whose word is that of `number`; NULL if there is none. */
struct conn *conn_at(const struct endpoint *endpoint, uint32_t ring,
		     uint32_t number);
struct conn *conn_find(const struct tables *tables, uint64_t cookie);
/* 0, or -ENOMEM */
int conn_add(struct tables *tables, struct endpoint *endpoint, uint32_t ring,
	     uint32_t number, uint64_t cookie, uint64_t netns);
/* ATTACHED to another state: no longer counted. */
void conn_leave(struct tables *tables, struct conn *conn,
		enum conn_state state);
void conn_free(struct tables *tables, struct conn *conn);

uint64_t boottime_ns(void);

#endif
