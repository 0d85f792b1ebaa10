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

/* From here on memset(), which is what large fills mostly are. */
#define TOUCH_MEMSET 256

static inline uint8_t touch_byte(uint64_t word)
{
	return (uint8_t)(word >> 2);
}

static inline uint64_t touch_pattern(uint64_t word)
{
	return 0x0101010101010101 * touch_byte(word);
}

/* Short payloads are written word by word, as the fields of a struct are. */
static inline void touch_write(void *data, size_t len, uint64_t word)
{
	const uint64_t one = touch_pattern(word);
	uint8_t *p = data, *end = p + len;

	if (len >= TOUCH_MEMSET) {
		memset(data, touch_byte(word), len);
		memcpy(data, &word, 8);
		return;
	}
	memcpy(p, &word, 8);
	for (p += 8; end - p >= 8; p += 8)
		memcpy(p, &one, 8);
	memcpy(p, &one, (size_t)(end - p));
}

/* The first word; what it says is good once touch_check() said so. */
static inline uint64_t touch_word(const void *data)
{
	uint64_t word;

	memcpy(&word, data, sizeof(word));
	return word;
}

static inline bool touch_check(const void *data, size_t len, uint64_t word)
{
	const uint8_t *p = data, *end = p + len;
	touch_pair sums[4] = { { 0 } };
	uint64_t total = 0, part, want;

	for (; end - p >= 128; p += 64) {
		sums[0] += *(const touch_pair *)p;
		sums[1] += *(const touch_pair *)(p + 16);
		sums[2] += *(const touch_pair *)(p + 32);
		sums[3] += *(const touch_pair *)(p + 48);
	}
	for (; end - p >= 8; p += 8) {
		memcpy(&part, p, 8);
		total += part;
	}
	sums[0] += sums[1] + sums[2] + sums[3];
	total += sums[0][0] + sums[0][1];
	want = word + touch_pattern(word) * (len / 8 - 1);
	for (; p != end; p++) {
		total += *p;
		want += touch_byte(word);
	}
	return total == want;
}

#endif
