/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What a sender writes and a receiver reads of a payload: the same code for
 * every system. The first 64-bit word tells the receiver something, the rest is
 * one byte value that follows from it, and the sum of what is read must be that
 * of both: so nothing is optimised away, and a message that is lost, torn or out
 * of order is found.
 */
#ifndef BENCH_TOUCH_H
#define BENCH_TOUCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Two words, a vector register of any 64-bit CPU. */
typedef uint64_t touch_pair
	__attribute__((vector_size(16), aligned(8), may_alias));

/* Bytes from which on it is memset(), which is what large fills mostly are. */
#define TOUCH_MEMSET 256

static inline uint8_t touch_byte(uint64_t word)
{
	return (uint8_t)(word >> 2);
}

static inline uint64_t touch_pattern(uint64_t word)
{
	return 0x0101010101010101ull * touch_byte(word);
}

/*
 * Short payloads are written word by word, as the fields of a struct are. len is
 * 32 at least.
 */
static inline void touch_write(void *data, size_t len, uint64_t word)
{
	const uint64_t one = touch_pattern(word);
	uint8_t *p = data, *end = p + len;
	uint64_t first = word;

	if (len >= TOUCH_MEMSET) {
		memset(data, touch_byte(word), len);
		memcpy(data, &word, 8);
		return;
	}
	for (; end - p >= 32; p += 32) {
		memcpy(p, &first, 8);
		memcpy(p + 8, &one, 8);
		memcpy(p + 16, &one, 8);
		memcpy(p + 24, &one, 8);
		first = one;
	}
	for (; end - p >= 8; p += 8)
		memcpy(p, &one, 8);
	for (; p != end; p++)
		*p = touch_byte(word);
}

/* The first word of a payload says nothing before touch_check() agrees. */
static inline uint64_t touch_load(const void *p)
{
	uint64_t word;

	memcpy(&word, p, sizeof(word));
	return word;
}

static inline bool touch_check(const void *data, size_t len, uint64_t word)
{
	const uint8_t *p = data, *end = p + len;
	uint64_t want = word + touch_pattern(word) * (len / 8 - 1);
	touch_pair sums[4] = { { 0 } };
	uint64_t total = 0;

	if (len >= TOUCH_MEMSET) {
		for (; end - p >= 64; p += 64) {
			sums[0] += *(const touch_pair *)p;
			sums[1] += *(const touch_pair *)(p + 16);
			sums[2] += *(const touch_pair *)(p + 32);
			sums[3] += *(const touch_pair *)(p + 48);
		}
		sums[0] += sums[1] + sums[2] + sums[3];
		total = sums[0][0] + sums[0][1];
	}
	for (; end - p >= 32; p += 32)
		total += touch_load(p) + touch_load(p + 8) +
			 touch_load(p + 16) + touch_load(p + 24);
	for (; end - p >= 8; p += 8)
		total += touch_load(p);
	for (; p != end; p++) {
		total += *p;
		want += touch_byte(word);
	}
	return total == want;
}

#endif
