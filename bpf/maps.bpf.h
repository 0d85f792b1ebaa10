/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps of steering, and how the programs read, count and change what is in
 * them. Every lookup is bounded by its map, whatever the index.
 */
#ifndef SLUICE_BPF_MAPS_BPF_H
#define SLUICE_BPF_MAPS_BPF_H

#include <stddef.h>

#include "compat.bpf.h"
#include "steer.h"

#define STEER_LINE 64 /* bytes of an element of ring and control maps */
#define STEER_HEADER (SLUICE_MAP_HEADER / STEER_LINE) /* elements before data */

const volatile struct steer_config steer_config = {
	.version = SLUICE_STEER_VERSION,
	.conn_counts = 1,
};

/* Maps -------------------------------------------------------------------- */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STEER_CONNS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct steer_conn_entry);
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct steer_counters);
} counters SEC(".maps");

/* Inner maps may have any number of elements, the outer ones do not. */
#define STEER_OUTER(name, bytes)                                          \
	struct {                                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                 \
		__uint(max_entries, STEER_RINGS);                         \
		__uint(key_size, sizeof(__u32));                          \
		__uint(value_size, sizeof(__u32));                        \
		__array(                                                  \
			values, struct {                                  \
				__uint(type, BPF_MAP_TYPE_ARRAY);         \
				__uint(map_flags,                         \
				       BPF_F_MMAPABLE | BPF_F_INNER_MAP); \
				__uint(max_entries, 1);                   \
				__uint(key_size, sizeof(__u32));          \
				__uint(value_size, bytes);                \
			});                                               \
	} name SEC(".maps")

STEER_OUTER(rings, STEER_LINE);
STEER_OUTER(landings, SLUICE_LANDING_BLOCK);
STEER_OUTER(controls, STEER_LINE);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, STEER_RINGS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_RINGBUF);
			__uint(max_entries, STEER_DOORBELL_BYTES);
		});
} doorbells SEC(".maps");

/* Verdicts ---------------------------------------------------------------- */

/* A verdict is the offset of its count; those from pass_unknown on pass. */
#define VERDICT(name) offsetof(struct steer_counters, name)
#define VERDICT_PASSES(verdict) ((verdict) >= VERDICT(pass_unknown))

static __always_inline void count(__u32 what, __u64 by)
{
	struct steer_counters *all;
	__u32 zero = 0;

	all = bpf_map_lookup_elem(&counters, &zero);
	if (all && what <= sizeof(*all) - sizeof(__u64))
		/* atomic: another task may preempt this one on its CPU */
		__sync_fetch_and_add((__u64 *)((void *)all + what), by);
}

/* Memory ------------------------------------------------------------------ */

/* All of these are full barriers. */
#define COMPARE_AND_SWAP(p, old, new) __sync_val_compare_and_swap(p, old, new)
#define EXCHANGE(p, value) __sync_lock_test_and_set(p, value)

static __always_inline void *element(void *map, __u32 index)
{
	return bpf_map_lookup_elem(map, &index);
}

#endif
