/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the two sides do with messages. Every system passes its operations as a
 * constant, so that the compiler makes a loop of its own for each: no call
 * through a pointer is measured.
 *
 * The words of a payload carry a number, which the receiver checks, and flags,
 * which tell the other side what to do: no message besides those measured.
 */
#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include "bench.h"

#include <sys/resource.h>
#include <unistd.h>

#include "middle.h"
#include "touch.h"

#define WORD_STOP 1u /* the last message */
#define WORD_MEASURE 2u /* the warm-up is over */
#define WORD_NUMBER 4u

/* All of it is to be inlined, the operations of the systems too. */
#define LOOP static inline __attribute__((always_inline))

/* Each waits as the mode says. Failing, it has called side_fail(). */
struct loop_ops {
	void *(*begin)(struct bench_side *side); /* where to write a message */
	int (*send)(struct bench_side *side);
	const void *(*take)(struct bench_side *side); /* the next message */
	int (*done)(struct bench_side *side); /* with that message */
};

static inline uint64_t loop_calls(void)
{
	uint64_t calls = 0;

	return read(calls_fd, &calls, sizeof(calls)) == sizeof(calls) ? calls :
									0;
}

/* What this process used between two calls. */
static inline void loop_usage(struct bench_result *result, bool start)
{
	const uint64_t sign = start ? UINT64_MAX : 1;
	struct rusage usage;

	if (start)
		result->middle_ns -= middle_cpu_ns();
	if (!start && calls_fd >= 0)
		result->calls += loop_calls() - 1; /* without this one */
	getrusage(RUSAGE_SELF, &usage);
	result->switches += sign * (uint64_t)(usage.ru_nvcsw + usage.ru_nivcsw);
	result->cpu_ns += sign * clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	result->ticks += sign * clock_ticks();
	if (start)
		result->idle_ticks = 0;
	if (!start)
		result->middle_ns += middle_cpu_ns();
	if (start && calls_fd >= 0)
		result->calls -= loop_calls();
}

LOOP int loop_put(struct bench_side *side, const struct loop_ops ops,
		  uint64_t word)
{
	void *data = ops.begin(side);

	if (!data)
		return -1;
	touch_write(data, side->touched, word);
	return ops.send(side);
}

/* *word is what the message says; its number must be the next. */
LOOP int loop_get(struct bench_side *side, const struct loop_ops ops,
		  uint64_t number, uint64_t *word)
{
	const void *data = ops.take(side);

	if (!data)
		return -1;
	*word = touch_load(data);
	if (!touch_check(data, side->touched, *word) ||
	    *word / WORD_NUMBER != number)
		return side_fail(side, "message %llu came as %llu, or torn",
				 (unsigned long long)number,
				 (unsigned long long)(*word / WORD_NUMBER));
	return ops.done(side);
}

/*
 * Pingpong, side 0. Each round trip is timed, from one answer to the next; it is
 * counted while the next one is on its way.
 */
LOOP int loop_ask(struct bench_side *side, const struct loop_ops ops)
{
	struct histogram *histogram = &side->control->histogram;
	struct bench_result *result = side->result;
	uint64_t number = 0, flags = 0, round = 0, word, now;
	uint64_t last = clock_ticks();
	uint64_t end = last + side->c->warm_ticks;

	for (;;) {
		if (loop_put(side, ops, number * WORD_NUMBER | flags))
			return -1;
		if (round)
			histogram_add(histogram, round);
		round = 0;
		if (loop_get(side, ops, number++, &word))
			return -1;
		if (flags & WORD_STOP)
			break;
		now = clock_ticks();
		if (flags & WORD_MEASURE)
			round = now - last;
		last = now;
		if (now < end)
			continue;
		if (flags & WORD_MEASURE) {
			loop_usage(result, false);
			flags |= WORD_STOP;
		} else {
			flags |= WORD_MEASURE;
			loop_usage(result, true);
			last = clock_ticks();
			end = last + side->c->ticks;
		}
	}
	result->messages = 2 * histogram->count;
	result->all_messages = 2 * number;
	result->messages_per_time = 2;
	return 0;
}

/* Pingpong, side 1: answers each message with one of the same size and word. */
LOOP int loop_answer(struct bench_side *side, const struct loop_ops ops)
{
	uint64_t number = 0, word = 0, seen = 0;

	while (!(word & WORD_STOP)) {
		if (loop_get(side, ops, number++, &word) ||
		    loop_put(side, ops, word))
			return -1;
		if (__builtin_expect((word ^ seen) & WORD_MEASURE, 0))
			loop_usage(side->result, true);
		seen = word;
	}
	loop_usage(side->result, false);
	return 0;
}

/* Stream, side 0. The clock is read once per 64 KiB, or 64 messages. */
LOOP int loop_send(struct bench_side *side, const struct loop_ops ops)
{
	const uint64_t chunk = side->size > 1024 ? 65536 / side->size : 64;
	uint64_t number = 0, flags = 0, stop_at, now;
	uint64_t end = clock_ticks() + side->c->warm_ticks;

	for (;;) {
		stop_at = number + (chunk ? chunk : 1);
		for (; number < stop_at; number++) {
			if (loop_put(side, ops, number * WORD_NUMBER | flags))
				return -1;
		}
		now = clock_ticks();
		if (now < end || number < side->c->warm_messages)
			continue;
		if (flags)
			break;
		flags = WORD_MEASURE;
		loop_usage(side->result, true);
		end = clock_ticks() + side->c->ticks;
	}
	flags |= WORD_STOP;
	if (loop_put(side, ops, number * WORD_NUMBER | flags))
		return -1;
	loop_usage(side->result, false);
	return 0;
}

/* Stream, side 1: counts from the first message to measure to the last one. */
LOOP int loop_receive(struct bench_side *side, const struct loop_ops ops)
{
	struct bench_result *result = side->result;
	uint64_t number = 0, word = 0, first = 0;

	while (!(word & WORD_STOP)) {
		if (loop_get(side, ops, number++, &word))
			return -1;
		if (__builtin_expect(!first, 0) && word & WORD_MEASURE) {
			loop_usage(result, true);
			first = number;
		}
	}
	loop_usage(result, false);
	result->messages = number - first;
	result->all_messages = number;
	return 0;
}

/* One process does all. Messages are timed in groups that outweigh the clock. */
LOOP int loop_solo(struct bench_side *side, const struct loop_ops ops)
{
	const uint64_t group = side->size < 65536 ? 65536 / side->size : 1;
	struct bench_result *result = side->result;
	uint64_t number = 0, word, stop_at, last = clock_ticks(), now;
	bool measure = false;
	uint64_t end = last + side->c->warm_ticks;

	for (;;) {
		stop_at = number + group;
		for (; number < stop_at; number++) {
			if (loop_put(side, ops, number * WORD_NUMBER) ||
			    loop_get(side, ops, number, &word))
				return -1;
		}
		now = clock_ticks();
		if (measure) {
			histogram_add(&side->control->histogram, now - last);
			result->messages += group;
		}
		last = now;
		if (now < end)
			continue;
		if (measure)
			break;
		measure = true;
		loop_usage(result, true);
		last = clock_ticks();
		end = last + side->c->ticks;
	}
	loop_usage(result, false);
	result->all_messages = number;
	result->messages_per_time = group;
	return 0;
}

LOOP int loop_run(struct bench_side *side, const struct loop_ops ops)
{
	if (side->c->system->solo)
		return side->index ? 0 : loop_solo(side, ops);
	if (side->c->pattern == PATTERN_STREAM)
		return side->index ? loop_receive(side, ops) :
				     loop_send(side, ops);
	return side->index ? loop_answer(side, ops) : loop_ask(side, ops);
}

#endif
