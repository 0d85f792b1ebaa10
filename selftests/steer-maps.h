/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The steering program and the maps of an endpoint by hand, without sluiced: for
 * tests that drive the program directly, as a receiver that may do as it likes.
 *
 * A rig owns the loaded program, its maps and its mappings; nothing is pinned, so
 * all of it goes with the process. What should not fail ends the test case. One
 * thread makes and frees; the mappings are for any.
 */
#ifndef STEER_MAPS_H
#define STEER_MAPS_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/uapi.h>

#include "steer.h"

#define STEER_RIG_RINGS 4

/* One ring: its maps, as its receiver sees them. */
struct steer_ring {
	struct sluice_control_create geometry;
	int ring_fd;
	int landing_fd;
	int control_fd;
	int bell_fd;
	const struct sluice_steer_ring *header; /* read-only, as is landing */
	const struct sluice_slot *slots;
	const uint8_t *landing;
	struct sluice_steer_control *control;
	struct sluice_steer_conn *conns;
	uint32_t *states; /* of landing slots */
	uint32_t landing_slots;
	uint32_t next; /* position to take next */
	uint64_t *bell_taken; /* consumer's and producer's position */
	const uint64_t *bell_rung;
};

struct steer_rig {
	struct steer_bpf *skel;
	int prog_fd;
	int conns_fd;
	uint32_t ring_count;
	struct steer_ring rings[STEER_RIG_RINGS];
};

/* Skips the case if steering cannot work here. Each ring has this geometry. */
void steer_rig_new(struct steer_rig *rig,
		   const struct sluice_control_create *geometry);
void steer_rig_free(struct steer_rig *rig);

/* Attaches to a connected socket; entry.ring and so on as given. */
void steer_rig_attach(struct steer_rig *rig, int sock,
		      const struct steer_conn_entry *entry);
/* Removes the entry; the program stays on the socket. */
void steer_rig_detach(struct steer_rig *rig, int sock);
void steer_rig_entry(struct steer_rig *rig, int sock,
		     struct steer_conn_entry *entry);

/* Sums over CPUs. */
void steer_rig_counters(struct steer_rig *rig, struct steer_counters *sum);

/* conn's word */
uint32_t *steer_word(struct steer_ring *ring, uint32_t conn);

/* Takes the slot at ring->next if it is ready, and moves head past it. */
bool steer_take(struct steer_ring *ring, struct sluice_slot *slot);
/* Payload of a checked LANDING or INLINE slot; ends the case if it is neither. */
const void *steer_payload(struct steer_ring *ring,
			  const struct sluice_slot *slot);
/* Gives a landing slot back; nothing else needs it. */
void steer_release(struct steer_ring *ring, const struct sluice_slot *slot);

/* Consumes the doorbell's records: how many there were. */
uint32_t steer_bell_drain(struct steer_ring *ring);

#endif
