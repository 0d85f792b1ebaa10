/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The rings that conns of a wait set are on: read in each round, armed before the
 * set sleeps. Of the rings of one endpoint one hears of sluiced.
 */
#include "set.h"

#include <errno.h>
#include <sys/epoll.h>

static struct set_ring *find_ring(struct sluice_set *set,
				  const struct sluice_ring *ring)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings)
		if (list_entry(l, struct set_ring, link)->ring == ring)
			return list_entry(l, struct set_ring, link);
	return NULL;
}

/* Of the rings of one endpoint one hears of sluiced. */
static int watch_endpoint(struct sluice_set *set,
			  struct sluice_endpoint *endpoint)
{
	struct set_ring *member, *first = NULL;
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings) {
		member = list_entry(l, struct set_ring, link);
		if (member->ring->endpoint != endpoint)
			continue;
		if (member->watches)
			return 0;
		first = first ? first : member;
	}
	if (!first)
		return 0;
	first->watches = true;
	return daemon_watch(endpoint, &first->watcher, set->epoll_fd,
			    (char *)first + RING_TAG);
}

static int listen_to_ring(struct sluice_set *set, struct set_ring *member)
{
	struct epoll_event event = { .events = EPOLLIN,
				     .data.ptr = (char *)member + RING_TAG };

	return epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD,
			 member->ring->doorbell_fd, &event) ?
		       -errno :
		       watch_endpoint(set, member->ring->endpoint);
}

static void drop_ring(struct sluice_set *set, struct set_ring *member)
{
	struct sluice_endpoint *endpoint = member->ring->endpoint;

	epoll_ctl(set->epoll_fd, EPOLL_CTL_DEL, member->ring->doorbell_fd,
		  NULL);
	list_remove(&member->link);
	if (member->watches) {
		daemon_unwatch(endpoint, &member->watcher);
		watch_endpoint(set, endpoint);
	}
	free(member);
}

int set_ring_enter(struct sluice_set *set, struct sluice_ring *ring)
{
	struct set_ring *member = find_ring(set, ring);
	int r;

	if (!member) {
		member = calloc(1, sizeof(*member));
		if (!member)
			return -ENOMEM;
		member->ring = ring;
		list_init(&member->watcher.link);
		list_append(&set->rings, &member->link);
		r = listen_to_ring(set, member);
		if (r) {
			drop_ring(set, member);
			return r;
		}
	}
	member->conns++;
	return 0;
}

void set_ring_leave(struct sluice_set *set, struct sluice_ring *ring)
{
	struct set_ring *member = find_ring(set, ring);

	if (--member->conns)
		return;
	if (member->armed)
		ring_disarm(ring);
	drop_ring(set, member);
}

void set_rings_drain(struct sluice_set *set, bool far)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings)
		ring_drain(list_entry(l, struct set_ring, link)->ring, NULL,
			   far);
}

bool set_rings_spilled(struct sluice_set *set)
{
	struct set_ring *member;
	struct list *l, *tmp;
	bool found = false;
	uint32_t spills;

	list_for_each_safe(l, tmp, &set->rings) {
		member = list_entry(l, struct set_ring, link);
		spills = __atomic_load_n(&member->ring->header->spills,
					 __ATOMIC_RELAXED);
		/* Who lost its endpoint hears of messages by its socket only. */
		found = found || spills != member->spills ||
			__atomic_load_n(&member->ring->endpoint->error,
					__ATOMIC_RELAXED);
		member->spills = spills;
	}
	return found;
}

void set_rings_arm(struct sluice_set *set)
{
	struct set_ring *member;
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings) {
		member = list_entry(l, struct set_ring, link);
		member->armed = true;
		ring_arm(member->ring);
	}
	set_rings_drain(set, true);
}

void set_rings_disarm(struct sluice_set *set)
{
	struct set_ring *member;
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &set->rings) {
		member = list_entry(l, struct set_ring, link);
		if (member->armed)
			ring_disarm(member->ring);
		member->armed = false;
	}
}

void set_ring_serve(struct set_ring *member)
{
	ring_hush(member->ring);
	daemon_service(member->ring->endpoint);
}
