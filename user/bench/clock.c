/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Finds out whether the time stamp counter can be used, its rate and its steps.
 */
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "clock.h"

#define STEP_READINGS 10000

bool clock_has_tsc;
double clock_ns_per_tick = 1;
double clock_step;

#ifdef __x86_64__
static void tsc_start(void)
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	unsigned int a, b, c, d;
	uint64_t ns, ticks;

	/* Invariant: constant rate, in all power states. */
	if (!__get_cpuid(0x80000007, &a, &b, &c, &d) || !(d & 1u << 8))
		return;
	ns = clock_ns(CLOCK_MONOTONIC);
	ticks = __builtin_ia32_rdtsc();
	nanosleep(&pause, NULL);
	ns = clock_ns(CLOCK_MONOTONIC) - ns;
	ticks = __builtin_ia32_rdtsc() - ticks;
	if (!ticks)
		return;
	clock_ns_per_tick = (double)ns / (double)ticks;
	clock_has_tsc = true;
}
#endif

void clock_start(void)
{
	uint64_t step = UINT64_MAX, last, now;
	int i;

#ifdef __x86_64__
	tsc_start();
#endif
	last = clock_ticks();
	for (i = 0; i < STEP_READINGS; i++, last = now) {
		now = clock_ticks();
		if (now > last && now - last < step)
			step = now - last;
	}
	clock_step = (double)step;
}
