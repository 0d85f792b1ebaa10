/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Users, endpoints and connections; tables.h says what they are. */
#include "tables.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>

/* Users ------------------------------------------------------------------- */

struct user *user_get(struct tables *tables, uid_t uid)
{
	struct user *user;

	for (user = tables->users; user; user = user->next) {
		if (user->uid == uid)
			return user;
	}
	user = calloc(1, sizeof(*user));
	if (!user)
		return NULL;
	user->uid = uid;
	user->next = tables->users;
	tables->users = user;
	return user;
}

void user_put(struct tables *tables, struct user *user)
{
	struct user **at = &tables->users;

	if (user->clients || user->endpoints || user->shunned_until ||
	    user->waits)
		return;
	while (*at != user)
		at = &(*at)->next;
	*at = user->next;
	free(user);
}

/* Endpoints --------------------------------------------------------------- */

bool endpoint_reserve(const struct tables *tables, struct identity *identity)
{
	uint32_t run = 0;

	for (uint32_t ring = 0; ring < STEER_RINGS; ring++) {
		run = tables->endpoints[ring] ? 0 : run + 1;
		if (run < identity->geometry.rings)
			continue;
		identity->ring_first = ring + 1 - run;
		return true;
	}
	return false;
}

struct endpoint *endpoint_new(struct tables *tables,
			      const struct identity *identity,
			      struct user *user)
{
	struct endpoint *endpoint = calloc(1, sizeof(*endpoint));
	uint32_t rings = identity->geometry.rings;

	if (!endpoint)
		return NULL;
	for (uint32_t i = 0; i < rings; i++) {
		endpoint->slots[i] =
			calloc(identity->geometry.conns, sizeof(struct conn *));
		if (endpoint->slots[i])
			continue;
		while (i)
			free(endpoint->slots[--i]);
		free(endpoint);
		return NULL;
	}
	endpoint->identity = *identity;
	endpoint->user = user;
	endpoint->map_bytes = geometry_bytes(&identity->geometry);
	for (uint32_t i = 0; i < rings; i++)
		tables->endpoints[identity->ring_first + i] = endpoint;
	USER_ADD(tables, user, endpoints, 1);
	USER_ADD(tables, user, map_bytes, endpoint->map_bytes);
	if (identity->number > tables->last_number)
		tables->last_number = identity->number;
	return endpoint;
}

void endpoint_free(struct tables *tables, struct endpoint *endpoint)
{
	const struct identity *identity = &endpoint->identity;
	struct user *user = endpoint->user;

	for (uint32_t ring = 0; ring < identity->geometry.rings; ring++) {
		for (uint32_t i = 0; i < identity->geometry.conns; i++) {
			struct conn *conn = endpoint->slots[ring][i];

			if (conn)
				conn_free(tables, conn);
		}
		free(endpoint->slots[ring]);
		tables->endpoints[identity->ring_first + ring] = NULL;
	}
	USER_ADD(tables, user, endpoints, -1u);
	USER_ADD(tables, user, map_bytes, -endpoint->map_bytes);
	free(endpoint);
	user_put(tables, user);
}

struct endpoint *endpoint_find(const struct tables *tables, uint64_t number)
{
	for (uint32_t ring = 0; ring < STEER_RINGS; ring++) {
		struct endpoint *endpoint = tables->endpoints[ring];

		if (endpoint && endpoint->identity.number == number)
			return endpoint;
	}
	return NULL;
}

uint64_t *endpoint_cookies(const struct endpoint *endpoint, size_t *count)
{
	const struct geometry *geometry = &endpoint->identity.geometry;
	uint64_t *cookies = malloc((endpoint->conns + 1) * sizeof(*cookies));

	*count = 0;
	if (!cookies || !endpoint->conns)
		return cookies;
	for (uint32_t ring = 0; ring < geometry->rings; ring++) {
		for (uint32_t i = 0; i < geometry->conns; i++) {
			struct conn *conn = endpoint->slots[ring][i];

			if (conn && conn->state == CONN_ATTACHED)
				cookies[(*count)++] = conn->cookie;
		}
	}
	return cookies;
}

/* Connections ------------------------------------------------------------- */

static int compare_cookies(const void *a, const void *b)
{
	const struct conn *x = a, *y = b;

	return (x->cookie > y->cookie) - (x->cookie < y->cookie);
}

static struct conn **slot_of(const struct endpoint *endpoint, uint32_t ring,
			     uint32_t number)
{
	uint32_t mask = endpoint->identity.geometry.conns - 1;

	return &endpoint->slots[ring][number & mask];
}

struct conn *conn_at(const struct endpoint *endpoint, uint32_t ring,
		     uint32_t number)
{
	return *slot_of(endpoint, ring, number);
}

struct conn *conn_find(const struct tables *tables, uint64_t cookie)
{
	const struct conn key = { .cookie = cookie };
	void *const *node = tfind(&key, &tables->conns, compare_cookies);

	return node ? *node : NULL;
}

int conn_add(struct tables *tables, struct endpoint *endpoint, uint32_t ring,
	     uint32_t number, uint64_t cookie, uint64_t netns)
{
	struct conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return -ENOMEM;
	conn->cookie = cookie;
	conn->netns = netns;
	conn->endpoint = endpoint;
	conn->ring = ring;
	conn->number = number;
	if (!tsearch(conn, &tables->conns, compare_cookies)) {
		free(conn);
		return -ENOMEM;
	}
	*slot_of(endpoint, ring, number) = conn;
	endpoint->conns++;
	USER_ADD(tables, endpoint->user, conns, 1);
	return 0;
}

void conn_leave(struct tables *tables, struct conn *conn, enum conn_state state)
{
	if (conn->state == CONN_ATTACHED) {
		conn->endpoint->conns--;
		USER_ADD(tables, conn->endpoint->user, conns, -1u);
	}
	conn->state = state;
}

void conn_free(struct tables *tables, struct conn *conn)
{
	conn_leave(tables, conn, CONN_GONE);
	tdelete(conn, &tables->conns, compare_cookies);
	*slot_of(conn->endpoint, conn->ring, conn->number) = NULL;
	free(conn);
}

uint64_t boottime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
