/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Sockets that were closed without a DETACH. An entry of `conns` does not keep
 * its socket, nor does it go with it; its cookie is never used again. So a walk
 * over all AF_UNIX sockets tells which entries are left over.
 *
 * A walk shows the network namespace of sluiced only: sockets of another one are
 * taken for alive, and their entries go with the endpoint at the latest. And a
 * socket that binds meanwhile moves in the kernel's table, once in its life, and
 * may so be missed by one walk, but not by two.
 */
#include <bpf/bpf.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "service.h"

#define AGAIN_NS \
	1000000000 /* quotas cause no more than one sweep in that time */

static uint64_t own_netns(void)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint64_t netns = 0;
	socklen_t len = sizeof(netns);

	if (fd < 0)
		return 0;
	getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &netns, &len);
	close(fd);
	return netns;
}

static void mark(__u64 cookie, void *arg)
{
	struct server *server = arg;
	struct conn *conn = conn_find(&server->tables, cookie);

	if (conn)
		conn->seen = server->sweep;
	services_seen(server, cookie);
}

/* Frees those that walks since `since` have not met; counts them. */
static uint32_t drop_unseen(struct server *server, uint64_t netns,
			    uint32_t since, bool count_only)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < STEER_RINGS; i++) {
		struct endpoint *endpoint = server->tables.endpoints[i];
		uint32_t ring;

		if (!endpoint || !endpoint->conns)
			continue;
		ring = i - endpoint->identity.ring_first;
		for (uint32_t j = 0; j < endpoint->identity.geometry.conns;
		     j++) {
			struct conn *conn = endpoint->slots[ring][j];

			if (!conn || conn->state != CONN_ATTACHED ||
			    conn->netns != netns || conn->seen >= since)
				continue;
			count++;
			if (count_only)
				continue;
			bpf_map_delete_elem(server->programs.conns,
					    &conn->cookie);
			conn_leave(&server->tables, conn, CONN_GONE);
		}
	}
	return count;
}

void sweep(struct server *server)
{
	uint64_t netns = own_netns();
	uint32_t since = server->sweep + 1, count;
	int r;

	server->swept = server_now();
	if (!netns ||
	    (!server->tables.total.conns && !server->services->handed))
		return;
	for (int walk = 0; walk < 2; walk++) {
		server->sweep++;
		r = programs_walk_sockets(&server->programs, mark, server);
		if (r) {
			log_warning("cannot look for dead sockets: %s",
				    strerror(-r));
			return;
		}
		count = drop_unseen(server, netns, since, walk == 0) +
			services_drop_unseen(server, since, walk == 0);
		if (!count)
			return;
	}
	log_debug("removed the entries of %u dead sockets", count);
}

void sweep_for_quota(struct server *server)
{
	if (server_now() - server->swept >= AGAIN_NS)
		sweep(server);
}
