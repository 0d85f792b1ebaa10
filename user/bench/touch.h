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

/* Four words at a time: compilers make vector instructions of it. */
typedef uint64_t touch_words
	__attribute__((vector_size(32), aligned(8), may_alias));

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

/*
 * len is 32 at least. Short payloads are written once only: a store over another
 * would delay the library's copy of it.
 */
static inline void touch_write(void *data, size_t len, uint64_t word)
{
	const uint64_t one = touch_pattern(word);
	touch_words words = { word, one, one, one };
	uint8_t *p = data, *end = p + len;

	if (len >= TOUCH_MEMSET) {
		memset(data, touch_byte(word), len);
		memcpy(data, &word, 8);
		return;
	}
	*(touch_words *)p = words;
	words[0] = one;
	for (p += 32; end - p >= 32; p += 32)
		*(touch_words *)p = words;
	for (; end - p >= 8; p += 8)
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
	touch_words sum = { 0 }, sum2 = { 0 };
	const uint8_t *p = data, *end = p + len;
	uint64_t total = 0, part, want;

	for (; end - p >= 64; p += 64) {
		sum += *(const touch_words *)p;
		sum2 += *(const touch_words *)(p + 32);
	}
	sum += sum2;
	for (; end - p >= 8; p += 8) {
		memcpy(&part, p, 8);
		total += part;
	}
	want = word + touch_pattern(word) * (len / 8 - 1);
	for (; p != end; p++) {
		total += *p;
		want += touch_byte(word);
	}
	return total + sum[0] + sum[1] + sum[2] + sum[3] == want;
}

#endif
