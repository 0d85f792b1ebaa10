/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* QUERY, LIST and DRAIN: what there is, for clients and for tools. */
#include <errno.h>
#include <string.h>

#include "log.h"
#include "request.h"

static void fill_use(const struct server *server, const struct user *user,
		     struct sluice_control_use *use)
{
	const struct limits *limits = &server->config.limits;
	bool all = user == &server->tables.total;

	*use = (struct sluice_control_use){
		.endpoints = user->endpoints,
		.endpoint_limit = all ? STEER_RINGS :
					(__u32)limits->endpoints_per_uid,
		.conns = user->conns,
		.conn_limit = all ? STEER_CONNS : (__u32)limits->conns_per_uid,
		.map_bytes = user->map_bytes,
		.map_bytes_limit = all ? 0 : limits->map_bytes_per_uid,
		.version = SLUICE_STEER_VERSION,
		.flags = server->draining ? SLUICE_USE_F_DRAINING : 0,
	};
}

int request_query(struct request *request)
{
	struct server *server = request->server;

	fill_use(server,
		 request->frame.flags & SLUICE_CONTROL_F_ALL ?
			 &server->tables.total :
			 request->client->user,
		 &request->frame.use);
	return 0;
}

int request_drain(struct request *request)
{
	struct server *server = request->server;

	if (!request->client->privileged)
		return EPERM;
	if (request->frame.drain.on > 1)
		return EINVAL;
	if (server->draining != (bool)request->frame.drain.on)
		log_info("pid %d %s draining", request->client->pid,
			 server->draining ? "ended" : "started");
	server->draining = request->frame.drain.on;
	fill_use(server, &server->tables.total, &request->frame.use);
	return 0;
}

static void fill_record(const struct endpoint *endpoint,
			struct sluice_control_record *record)
{
	const struct identity *identity = &endpoint->identity;
	const struct geometry *geometry = &identity->geometry;

	*record = (struct sluice_control_record){
		.endpoint = identity->number,
		.created = identity->created,
		.map_bytes = endpoint->map_bytes,
		.uid = identity->uid,
		.flags = endpoint->state == ENDPOINT_ORPHAN ?
				 SLUICE_RECORD_F_ORPHAN :
				 0,
		.rings = geometry->rings,
		.ring_first = identity->ring_first,
		.ring_slots = geometry->ring_slots,
		.conn_limit = geometry->conns,
		.conns = endpoint->conns,
	};
	memcpy(record->landing, geometry->landing, sizeof(record->landing));
	if (!endpoint->client)
		return;
	record->pid = (__u32)endpoint->client->pid;
	memcpy(record->comm, endpoint->client->comm, sizeof(record->comm));
}

/* Whom a LIST is about, those with the least numbers, in order. */
static __u32 find_endpoints(const struct request *request, bool all,
			    struct endpoint *found[SLUICE_LIST_MAX])
{
	const struct tables *tables = &request->server->tables;
	__u32 count = 0, at;

	for (__u32 ring = 0; ring < STEER_RINGS; ring++) {
		struct endpoint *endpoint = tables->endpoints[ring];

		if (!endpoint || endpoint->identity.ring_first != ring ||
		    endpoint->identity.number <= request->frame.endpoint ||
		    (endpoint->state != ENDPOINT_LIVE &&
		     endpoint->state != ENDPOINT_ORPHAN) ||
		    (!all && endpoint->user != request->client->user))
			continue;
		for (at = count; at && found[at - 1]->identity.number >
					       endpoint->identity.number;
		     at--) {
			if (at < SLUICE_LIST_MAX)
				found[at] = found[at - 1];
		}
		if (at < SLUICE_LIST_MAX)
			found[at] = endpoint;
		count += count < SLUICE_LIST_MAX;
	}
	return count;
}

int request_list(struct request *request)
{
	struct sluice_control_record records[SLUICE_LIST_MAX];
	struct endpoint *found[SLUICE_LIST_MAX];
	struct sluice_control *frame = &request->frame;
	bool all = frame->flags & SLUICE_CONTROL_F_ALL;
	__u32 count = find_endpoints(request, all, found);

	for (__u32 i = 0; i < count; i++)
		fill_record(found[i], &records[i]);
	frame->list.count = count;
	frame->list.record_size = sizeof(records[0]);
	frame->flags = SLUICE_CONTROL_F_REPLY;
	client_reply(request->server, request->client, frame, records,
		     count * sizeof(records[0]), NULL, 0);
	return LATER;
}
