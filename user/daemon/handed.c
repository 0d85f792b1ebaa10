/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Connections that were handed over to backends: sluiced has nothing of them but
 * their sockets' cookies, and learns from walks over all sockets which are gone.
 */
#include <errno.h>
#include <search.h>

#include "service.h"

static int by_cookie(const void *a, const void *b)
{
	uint64_t x = ((const struct visit *)a)->cookie;
	uint64_t y = ((const struct visit *)b)->cookie;

	return x < y ? -1 : x > y;
}

/* 0 or -ENOMEM */
int handed_note(struct visit *visit)
{
	return tsearch(visit, &visit->service->server->services->handed,
		       by_cookie) ?
		       0 :
		       -ENOMEM;
}

void handed_forget(struct visit *visit)
{
	tdelete(visit, &visit->service->server->services->handed, by_cookie);
}

bool services_may_land(const struct server *server, uint64_t cookie)
{
	const struct visit key = { .cookie = cookie };
	struct visit **found =
		tfind(&key, &server->services->handed, by_cookie);

	return found && (*found)->service->config.landing;
}

void services_seen(struct server *server, uint64_t cookie)
{
	const struct visit key = { .cookie = cookie };
	struct visit **found =
		tfind(&key, &server->services->handed, by_cookie);

	if (found)
		(*found)->seen = server->sweep;
}

uint32_t services_drop_unseen(struct server *server, uint32_t since,
			      bool count_only)
{
	struct service *service, *next_service;
	struct visit *visit, *next;
	uint32_t count = 0;

	for (service = server->services->first; service;
	     service = next_service) {
		next_service = service->next;
		for (visit = service->visit_count[VISIT_HANDED] ?
				     service->visits :
				     NULL;
		     visit; visit = next) {
			next = visit->next;
			if (!visit->backend || visit->path != VISIT_HANDED ||
			    visit->seen >= since)
				continue;
			count++;
			if (!count_only)
				visit_end(visit);
		}
	}
	return count;
}
