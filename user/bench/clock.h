/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The clock of the measurements. clock_gettime() takes a good part of the time
 * that the fastest systems need for a message, so this reads the time stamp
 * counter where it runs at a constant rate. Only differences taken on one CPU
 * are used.
 */
#ifndef BENCH_CLOCK_H
#define BENCH_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

extern bool clock_has_tsc;
extern double clock_ns_per_tick;
extern double clock_step; /* smallest difference between two readings, ticks */

/* Before everything else; takes about 50 ms. */
void clock_start(void);

static inline uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_ticks(void)
{
#ifdef __x86_64__
	if (__builtin_expect(clock_has_tsc, 1))
		return __builtin_ia32_rdtsc();
#endif
	return clock_ns(CLOCK_MONOTONIC);
}

#endif
