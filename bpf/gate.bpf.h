/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the gates share, steer.bpf.c and stream.bpf.c: whose connection it is, and
 * what order hangs on.
 */
#ifndef SLUICE_BPF_GATE_BPF_H
#define SLUICE_BPF_GATE_BPF_H

#include "compat.bpf.h"
#include "maps.bpf.h"

/*
 * Whether this message is all that is charged to its sender: none of its others
 * is on the way, queued, or half received. 1 is what a living socket counts.
 */
static __always_inline bool alone(struct sock *sender, __u32 truesize)
{
	return LOAD(sender->sk_wmem_alloc.refs.counter) == (int)(1 + truesize);
}

/*
 * A message left to the queue, or a piece to the spill socket, ends steering: HOLD
 * comes before it is there, so whoever sees ON knows that there is nothing. spills tells the
 * receiver to look.
 */
static __always_inline void spill(void *slots, __u32 *word)
{
	__u32 *spills = element(
		slots, offsetof(struct sluice_steer_ring, spills) / STEER_LINE);

	COMPARE_AND_SWAP(word, SLUICE_STEER_ON, SLUICE_STEER_HOLD);
	if (spills)
		__sync_fetch_and_add(spills, 1);
}

/*
 * The entry of the receiver's socket, and a copy of what it says. The kernel reuses the memory of
 * a deleted entry at once, though we may be looking at it: it was this socket's
 * while we copied if it still is afterwards. (It cannot have been away and come
 * back: sluiced lets a grace period pass before it inserts a cookie again.)
 */
static __always_inline struct steer_conn_entry *
find_entry(__u64 cookie, struct steer_conn_entry *copy)
{
	struct steer_conn_entry *entry;

	entry = bpf_map_lookup_elem(&conns, &cookie);
	if (!entry)
		return NULL;
	copy->ring = entry->ring;
	copy->conn = entry->conn;
	copy->hash_first = entry->hash_first;
	copy->hash_count = entry->hash_count;
	copy->type = entry->type;
	copy->flags = entry->flags;
	return bpf_map_lookup_elem(&conns, &cookie) == entry ? entry : NULL;
}

#endif
