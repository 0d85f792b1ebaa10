/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A histogram of 64-bit values, exact to 1 in 128: exact below 256, then 128
 * equal buckets for each power of two.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 7
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS)

struct histogram {
	uint64_t count;
	uint32_t buckets[HISTOGRAM_BUCKETS];
};

static inline void histogram_add(struct histogram *h, uint64_t value)
{
	unsigned int shift = 0;

	if (value >> (HISTOGRAM_BITS + 1))
		shift = 63u - HISTOGRAM_BITS -
			(unsigned int)__builtin_clzll(value);
	h->buckets[(shift << HISTOGRAM_BITS) + (value >> shift)]++;
	h->count++;
}

static inline double histogram_value(unsigned int bucket)
{
	const unsigned int high = bucket >> HISTOGRAM_BITS;
	const unsigned int shift = high ? high - 1 : 0;
	const uint64_t low = (uint64_t)(bucket - (shift << HISTOGRAM_BITS));

	return (double)(low << shift) + (double)((1ull << shift) - 1) / 2;
}

/*
 * The value that `part` (0 to 1) of all values do not exceed; 0 if empty. Clocks
 * tick in steps, 10 ns on some machines, which is much against a median of
 * 150 ns: the values of a bucket are taken as spread evenly, half way to the
 * next buckets in use, but no more than half a step.
 */
static inline double histogram_quantile(const struct histogram *h, double part,
					double step)
{
	const double rank = part * (double)h->count;
	double value, low, high, last, seen = 0;
	unsigned int i = 0, next;

	if (!h->count)
		return 0;
	while (!h->buckets[i])
		i++;
	for (last = histogram_value(i) - step;; i = next) {
		value = histogram_value(i);
		for (next = i + 1; next < HISTOGRAM_BUCKETS; next++) {
			if (h->buckets[next])
				break;
		}
		seen += h->buckets[i];
		if (seen >= rank || next == HISTOGRAM_BUCKETS)
			break;
		last = value;
	}
	low = (value - last < step ? value - last : step) / 2;
	high = next < HISTOGRAM_BUCKETS ? histogram_value(next) - value : step;
	high = (high < step ? high : step) / 2;
	return value + high - (low + high) * (seen - rank) / h->buckets[i];
}

#endif
