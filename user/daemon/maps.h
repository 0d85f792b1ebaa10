/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The maps of endpoints: their making, and their places in the outer maps. Calls
 * take milliseconds, since the kernel waits for running programs (RCU) at each
 * change of an outer map; the worker's threads make them. No state here.
 */
#ifndef SLUICED_MAPS_H
#define SLUICED_MAPS_H

#include <linux/types.h>
#include <sluice/uapi.h>
#include <stdbool.h>
#include <sys/types.h>

#include "programs.h"

enum { MAP_RING, MAP_LANDING, MAP_CONTROL, MAP_DOORBELL, MAPS_PER_RING };

#define MAP_FDS_MAX (SLUICE_RINGS_MAX * MAPS_PER_RING)

/* What a client asked for, within the bounds of the uAPI. */
struct geometry {
	__u32 rings;
	__u32 ring_slots;
	__u32 conns;
	__u32 landing[SLUICE_LANDING_CLASSES];
};

/* What the header of its rings says of an endpoint. */
struct identity {
	__u64 number;
	__u64 created; /* CLOCK_BOOTTIME, ns */
	uid_t uid;
	__u32 ring_first;
	struct geometry geometry;
};

bool geometry_valid(const struct geometry *geometry);

/* Memory of all maps of an endpoint. */
__u64 geometry_bytes(const struct geometry *geometry);

/*
 * Makes the maps of an endpoint, four for each ring as the uAPI orders them, and
 * puts them in the outer maps. ring_id gets the id of ring 0's ring map. Returns
 * 0, the caller closing the fds, or -errno with nothing left behind.
 */
int maps_create(const struct programs *programs,
		const struct identity *identity, int fds[MAP_FDS_MAX],
		__u32 *ring_id);

/*
 * Removes `count` sockets' entries, then the endpoint's maps from the outer maps.
 * When it returns, no program uses either.
 */
void maps_destroy(const struct programs *programs,
		  const struct identity *identity, const __u64 *cookies,
		  size_t count);

/* Takes one ring out of the outer maps. */
void maps_withdraw(const struct programs *programs, __u32 ring);

/*
 * Waits until no program runs that has seen what was removed before. 0 or -errno;
 * maps_grace_init() must have been called once.
 */
int maps_grace_init(void);
int maps_grace(void);

/*
 * Reads from the ring map at `ring` of the outer map whose it is. Returns false
 * if there is none. Needs CAP_SYS_ADMIN.
 */
bool maps_read_ring(const struct programs *programs, __u32 ring,
		    struct sluice_steer_ring *header, __u32 *ring_id);

/* Whether all four maps of a ring are in their outer maps. */
bool maps_complete(const struct programs *programs, __u32 ring);

/*
 * 0 if fd is the ring map with this id; -EBADF: not a map; -EPERM: another one.
 * Safe with any fd.
 */
int maps_check_id(int fd, __u32 id);

#endif
