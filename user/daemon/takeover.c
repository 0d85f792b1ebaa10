/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What an earlier sluiced left: endpoints, which their rings' headers describe,
 * and the entries of their connections. Each endpoint waits as an orphan for its
 * client to claim it; meanwhile messages go on being steered. An endpoint of
 * which any map is missing was being made or removed: its remains are removed.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "request.h"
#include "server.h"

/* Whether ring is ring number `index` of the endpoint that header describes. */
static bool header_fits(const struct sluice_steer_ring *header,
			const struct identity *identity, uint32_t index)
{
	const struct geometry *geometry = &identity->geometry;

	return header->magic == SLUICE_STEER_MAGIC &&
	       header->version == SLUICE_STEER_VERSION &&
	       header->endpoint == identity->number &&
	       header->uid == identity->uid && header->index == index &&
	       header->rings == geometry->rings &&
	       header->ring_slots == geometry->ring_slots &&
	       header->conns == geometry->conns &&
	       !memcmp(header->landing, geometry->landing,
		       sizeof(header->landing));
}

/* The endpoint whose ring 0 is at `ring`; its length in rings, or 0. */
static uint32_t read_endpoint(const struct programs *programs, uint32_t ring,
			      struct identity *identity, uint32_t *ring_id)
{
	struct sluice_steer_ring header;
	uint32_t id;

	if (!maps_read_ring(programs, ring, &header, ring_id))
		return 0;
	*identity = (struct identity){
		.number = header.endpoint,
		.created = header.created,
		.uid = header.uid,
		.ring_first = ring,
		.geometry = {
			.rings = header.rings,
			.ring_slots = header.ring_slots,
			.conns = header.conns,
		},
	};
	memcpy(identity->geometry.landing, header.landing,
	       sizeof(header.landing));
	if (!geometry_valid(&identity->geometry) ||
	    identity->geometry.rings > STEER_RINGS - ring)
		return 0;
	for (uint32_t i = 0; i < identity->geometry.rings; i++) {
		if (!maps_complete(programs, ring + i) ||
		    (i && !maps_read_ring(programs, ring + i, &header, &id)) ||
		    !header_fits(&header, identity, i))
			return 0;
	}
	return identity->geometry.rings;
}

static int add_endpoint(struct tables *tables, const struct identity *identity,
			uint32_t ring_id)
{
	struct user *user = user_get(tables, identity->uid);
	struct endpoint *endpoint =
		user ? endpoint_new(tables, identity, user) : NULL;

	if (!endpoint)
		return -ENOMEM;
	endpoint->ring_id = ring_id;
	endpoint->state = ENDPOINT_ORPHAN;
	tables->orphans++;
	return 0;
}

static int find_endpoints(struct server *server)
{
	const struct programs *programs = &server->programs;
	struct identity identity;
	uint32_t rings, ring_id;

	for (uint32_t ring = 0; ring < STEER_RINGS; ring += rings) {
		rings = read_endpoint(programs, ring, &identity, &ring_id);
		if (rings && add_endpoint(&server->tables, &identity, ring_id))
			return -ENOMEM;
		if (rings)
			continue;
		maps_withdraw(programs, ring);
		rings = 1;
	}
	return 0;
}

/* Whether the entry is of an endpoint that is there. */
static bool add_conn(struct tables *tables, uint64_t cookie,
		     const struct steer_conn_entry *entry)
{
	struct endpoint *endpoint;
	uint32_t index;

	if (entry->ring >= STEER_RINGS)
		return false;
	endpoint = tables->endpoints[entry->ring];
	if (!endpoint || endpoint->identity.number != entry->endpoint)
		return false;
	index = entry->ring - endpoint->identity.ring_first;
	if (conn_at(endpoint, index, entry->conn))
		return false;
	return !conn_add(tables, endpoint, index, entry->conn, cookie,
			 entry->netns);
}

static void find_conns(struct server *server)
{
	int fd = server->programs.conns;
	struct steer_conn_entry entry;
	uint64_t key, next;
	bool more = !bpf_map_get_next_key(fd, NULL, &next);

	while (more) {
		key = next;
		/* before the key is gone, and with it its place */
		more = !bpf_map_get_next_key(fd, &key, &next);
		if (bpf_map_lookup_elem(fd, &key, &entry))
			continue;
		if (!add_conn(&server->tables, key, &entry))
			bpf_map_delete_elem(fd, &key);
	}
}

int takeover(struct server *server)
{
	int r;

	if (!server->programs.adopted)
		return 0;
	r = find_endpoints(server);
	if (r) {
		log_error("cannot take over: %s", strerror(-r));
		return r;
	}
	find_conns(server);
	if (!server->tables.orphans)
		return 0;
	server->orphans_until =
		server_now() +
		(int64_t)server->config.grace_seconds * 1000000000;
	log_info(
		"took over %u endpoints with %u connections; clients have %u s "
		"to claim them",
		server->tables.total.endpoints, server->tables.total.conns,
		(unsigned int)server->config.grace_seconds);
	return 0;
}

void takeover_expire(struct server *server)
{
	server->orphans_until = 0;
	if (!server->tables.orphans)
		return;
	log_info("%u endpoints were not claimed and go",
		 server->tables.orphans);
	for (uint32_t ring = 0; ring < STEER_RINGS; ring++) {
		struct endpoint *endpoint = server->tables.endpoints[ring];

		if (endpoint && endpoint->state == ENDPOINT_ORPHAN)
			endpoint_destroy(server, endpoint);
	}
}
