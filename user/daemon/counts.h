/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the steering programs count (struct steer_counters): its names, and the
 * sums over all CPUs. For sluiced's metrics and for sluicectl. No state.
 */
#ifndef SLUICED_COUNTS_H
#define SLUICED_COUNTS_H

#include <stddef.h>

#include <steer.h>

enum count_kind {
	COUNT_STEERED, /* messages that are in a ring: their sum is all */
	COUNT_SPILLED, /* messages left to the queue: likewise */
	COUNT_OTHER,
};

/* A field of struct steer_counters. */
struct count {
	const char *name;
	const char *what; /* for people */
	unsigned int at; /* index of the __u64 */
	enum count_kind kind;
	/* of metrics: the label's value, or of OTHER the name without "sluice_" */
	const char *metric;
};

/* The index of a field. */
#define COUNT_AT(field) (offsetof(struct steer_counters, field) / sizeof(__u64))
#define COUNTS (sizeof(struct steer_counters) / sizeof(__u64))

extern const struct count counts[COUNTS];

/* From the map `counters`. 0 or -errno. */
int counts_read(int map, __u64 values[COUNTS]);
__u64 counts_steered(const __u64 values[COUNTS]);
__u64 counts_spilled(const __u64 values[COUNTS]);

#endif
