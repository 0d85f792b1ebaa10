/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Links: this side's, made and owned here, and the peer's, checked and mapped.
 * The peer's geometry is read once, into peer_geometry.
 */
#include "internal.h"

#include <errno.h>
#include <sys/mman.h>

static uint32_t power_of_two(uint32_t n)
{
	uint32_t p = SLUICE_RING_SLOTS_MIN;

	while (p < n)
		p <<= 1;
	return p;
}

int link_new(struct conn_core *core, int *fd)
{
	struct sluice_conn *conn = conn_of(core);
	uint32_t slots = core->options.ring_slots;
	uint32_t releases = power_of_two(core->options.hold_limit);
	uint32_t first = core->options.first_position;
	uint32_t size, i;
	struct sluice_link *link;
	void *address;
	int r;

	size = (uint32_t)(sizeof(*link) + slots * sizeof(struct sluice_slot) +
			  releases * sizeof(struct sluice_release));
	size = (size + CONN_PAGE - 1) & ~(CONN_PAGE - 1);
	r = memory_new("sluice-link", size, false, &address, fd);
	if (r)
		return r;
	link = address;
	link->magic = SLUICE_LINK_MAGIC;
	link->major = SLUICE_MAJOR;
	link->minor = SLUICE_MINOR;
	link->size = size;
	link->ring_offset = sizeof(*link);
	link->ring_slots = slots;
	link->ring_first = first;
	link->release_offset = link->ring_offset +
			       slots * (uint32_t)sizeof(struct sluice_slot);
	link->release_slots = releases;
	link->release_first = first;
	link->rx_first = link->rx_head = first;
	link->rx_state = link->tx_state = SLUICE_STATE_MAY_SLEEP;

	conn->tx_mask = slots - 1;
	conn->tx_position = first;
	conn->tx_limit = first + slots;
	conn->release_mask = releases - 1;
	conn->release_position = first;
	core->tx_head = core->tx_told = first;
	/* Where position p starts with p + 1 - N, no entry looks ready. */
	for (i = 0; i < slots; i++) {
		struct sluice_slot *ring =
			(void *)((uint8_t *)link + link->ring_offset);

		ring[(first + i) & (slots - 1)].seq = first + i + 1 - slots;
	}
	for (i = 0; i < releases; i++) {
		struct sluice_release *ring =
			(void *)((uint8_t *)link + link->release_offset);

		ring[(first + i) & (releases - 1)].seq =
			first + i + 1 - releases;
	}
	core->link = link;
	core->link_size = size;
	core->rx_word = (struct sleep_word){ .shared = &link->rx_state,
					     .value = link->rx_state };
	core->tx_word = (struct sleep_word){ .shared = &link->tx_state,
					     .value = link->tx_state,
					     .since = first };
	return 0;
}

static bool ring_fits(const struct sluice_link *link, uint32_t offset,
		      uint32_t count, size_t entry)
{
	return count >= SLUICE_RING_SLOTS_MIN &&
	       count <= SLUICE_RING_SLOTS_MAX && !(count & (count - 1)) &&
	       !(offset % SLUICE_CACHE_LINE) && offset >= sizeof(*link) &&
	       offset <= link->size && count * entry <= link->size - offset;
}

static const char *geometry_wrong(const struct sluice_link *link, uint32_t size,
				  uint32_t hold_limit)
{
	size_t ring = link->ring_slots * sizeof(struct sluice_slot);
	size_t releases = link->release_slots * sizeof(struct sluice_release);
	size_t i;

	if (link->magic != SLUICE_LINK_MAGIC)
		return "link has a wrong magic";
	if (link->major != SLUICE_MAJOR)
		return "link has another major version";
	if (link->size != size)
		return "link has another size than announced";
	if (!ring_fits(link, link->ring_offset, link->ring_slots,
		       sizeof(struct sluice_slot)))
		return "link has a bad ring";
	if (!ring_fits(link, link->release_offset, link->release_slots,
		       sizeof(struct sluice_release)) ||
	    link->release_slots < hold_limit)
		return "link has a bad release ring";
	if (link->ring_offset < link->release_offset + releases &&
	    link->release_offset < link->ring_offset + ring)
		return "link has rings that overlap";
	for (i = 0; i < ARRAY_SIZE(link->__resv0); i++)
		if (link->__resv0[i])
			return "link has a reserved field that is not zero";
	return NULL;
}

int link_map(struct conn_core *core, int fd, uint32_t size)
{
	struct sluice_conn *conn = conn_of(core);
	struct sluice_link *copy = &core->peer_geometry;
	const char *why;
	void *address;
	int r;

	if (size < sizeof(*copy) || size > SLUICE_LINK_SIZE_MAX)
		return conn_fail(conn, -EPROTO, "hello has a bad link_size");
	r = memory_map_foreign(fd, size, false, &address, &why);
	if (r)
		return conn_fail(conn, r, why);
	core->peer_link = address;
	memcpy(copy, address, sizeof(*copy));
	__asm__ volatile("" : : : "memory");
	why = geometry_wrong(copy, size, core->peer.hold_limit);
	if (why)
		return conn_fail(conn, -EPROTO, why);
	conn->peer_link = core->peer_link;
	conn->rx_mask = copy->ring_slots - 1;
	conn->rx_position = copy->ring_first;
	conn->rx_reported = copy->ring_first;
	conn->rx_report_step = copy->ring_slots / 4;
	core->rx_word.since = copy->ring_first;
	core->harvest_position = copy->release_first;
	return 0;
}

void link_unmap(struct conn_core *core)
{
	if (core->link)
		munmap(core->link, core->link_size);
	core->link = NULL;
	if (core->peer_link)
		memory_unmap_foreign(core->peer_link);
	core->peer_link = NULL;
}
