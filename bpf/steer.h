/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the steering programs and sluiced share, and nobody else: the maps that
 * lead from a socket to the maps of its endpoint. The latter are uAPI.
 *
 *   conns      HASH, socket cookie -> struct steer_conn_entry
 *   rings      ARRAY_OF_MAPS by ring number: ring maps (struct sluice_steer_ring, slots)
 *   landings   likewise: landing pools
 *   controls   likewise: control maps
 *   doorbells  likewise: RINGBUFs
 *   counters   PERCPU_ARRAY of one struct steer_counters
 *
 * sluiced alone writes conns and the outer maps; programs count in both and in
 * the entries.
 */
#ifndef SLUICE_BPF_STEER_H
#define SLUICE_BPF_STEER_H

#include <sluice/uapi.h>

#define STEER_RINGS 4096 /* rings of all endpoints: size of the outer maps */
#define STEER_CONNS 262144 /* connections of all endpoints */
#define STEER_DOORBELL_BYTES 4096

/* Hashed connections: high half of the first 8 bytes times this, % hash_count. */
#define STEER_HASH_FACTOR 0x9e3779b97f4a7c15ull

/* Key: the cookie of the receiver's socket. */
struct steer_conn_entry {
	__u32 ring; /* number in the outer maps: where conn's word is */
	__u32 conn; /* stamped into slots */
	__u32 hash_first; /* with hash_count: rings to choose from by payload */
	__u32 hash_count; /* 0: always `ring` */
	__u64 endpoint; /* as in struct sluice_control */
	__u32 uid; /* of the client that attached it */
	__u32 type; /* SOCK_SEQPACKET, ... */
	__u32 flags; /* SLUICE_ATTACH_F_FRAMES or 0 */
	__u32 __resv;
	__u64 netns; /* cookie of the socket's network namespace */
	/* written by the programs, atomically */
	__u64 messages; /* steered: slots */
	__u64 bytes; /* steered: payload, or frames of aware senders */
	__u64 spills; /* left to the queue */
};

/*
 * The only variable in the programs' read-only data, which is a map of its own:
 * whoever adopts pinned programs reads its first bytes. Loaders may set the
 * rest before they load.
 */
struct steer_config {
	__u32 version; /* SLUICE_STEER_VERSION */
	__u32 conn_counts; /* 1: count messages and bytes in the entries, too */
};

/* One count for each verdict and reason, per CPU. */
struct steer_counters {
	/* consumed */
	__u64 steered_inline; /* plain payload in the slot */
	__u64 steered_small; /* plain payload in landing slots by size */
	__u64 steered_medium;
	__u64 steered_large;
	__u64 steered_frames; /* DATA frames of aware senders */
	__u64 steered_slots; /* slots in them */
	__u64 steered_pieces; /* of STREAM, of those by size above */
	__u64 grants_taken; /* GRANTED to STEER */
	__u64 doorbells;
	/* left to the queue */
	__u64 pass_unknown; /* socket without an entry */
	__u64 pass_hold; /* word is HOLD */
	__u64 pass_charged; /* something else is charged to the sender */
	__u64 pass_no_ring; /* ring, landing pool or control map is missing */
	__u64 pass_ring_full;
	__u64 pass_no_landing; /* no free slot of the size */
	__u64 pass_too_large;
	__u64 pass_fds; /* carries fds */
	__u64 pass_options; /* the receiver wants credentials with each message */
	__u64 pass_shutdown; /* the receiver is dead or shut down */
	__u64 pass_peer; /* not two sockets that are each other's peer */
	__u64 pass_frame; /* a frame other than DATA, or a malformed one */
	__u64 pass_contended; /* other CPUs claimed positions too often */
	/* neither */
	__u64 pieces_lost; /* of STREAM: the receiver's spill socket was closed */
};

#endif
