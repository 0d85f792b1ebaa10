/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pattern "file": pieces of a file in the page cache, one a message, go from side 0
 * to side 1, who reads them. What the pieces say is written beforehand: the file has
 * two runs of the same pieces, of which the second says that the warm-up is over,
 * and a last piece.
 */
#ifndef BENCH_FILE_H
#define BENCH_FILE_H

#include "loop.h"

/* Bytes of each run: more than caches hold, for what is copied is seldom in one. */
#define FILE_RUN (32ul << 20)

static inline uint64_t file_pieces(const struct bench_case *c)
{
	return FILE_RUN / c->size;
}

/* The channel's sockets stand; adds the file, which side 0 has as `in`. */
int file_prepare(const struct bench_case *c, struct bench_channel *channel,
		 char reason[BENCH_TEXT]);

/* Which pieces side 0 sends, decided when it begins to read one. */
struct file_plan {
	uint64_t next; /* in the run */
	uint64_t end; /* of the warm-up, then of measuring, ticks */
	uint64_t planned;
	uint64_t flags;
};

/* Offset of the next piece in the file; *flags: what it says. */
static inline uint64_t file_next(struct bench_side *side,
				 struct file_plan *plan, uint64_t *flags)
{
	const struct bench_case *c = side->c;
	const uint64_t pieces = file_pieces(c);
	uint64_t now = clock_ticks(), at;

	if (!plan->end)
		plan->end = now + c->warm_ticks;
	if (now >= plan->end && plan->planned >= c->warm_messages) {
		plan->end = now + c->ticks;
		plan->flags |= plan->flags ? WORD_STOP : WORD_MEASURE;
		plan->next = 0;
	}
	plan->planned++;
	*flags = plan->flags;
	if (plan->flags & WORD_STOP)
		return 2 * pieces * c->size;
	at = plan->flags ? pieces + plan->next : plan->next;
	plan->next = (plan->next + 1) % pieces;
	return at * c->size;
}

/* Sends the next piece; *flags: what it says. */
typedef int file_send(struct bench_side *side, uint64_t *flags);

LOOP int file_send_all(struct bench_side *side, file_send *send)
{
	struct bench_result *result = side->result;
	uint64_t flags = 0, number = 0, first = 0;

	while (!(flags & WORD_STOP)) {
		if (send(side, &flags))
			return -1;
		number++;
		if (!first && flags) {
			loop_usage(result, true);
			first = number;
		}
	}
	loop_usage(result, false);
	result->all_messages = number;
	return 0;
}

/* As loop_receive(), but numbers begin anew with each run. */
LOOP int file_receive_all(struct bench_side *side, const struct loop_ops ops)
{
	const uint64_t pieces = file_pieces(side->c);
	struct bench_result *result = side->result;
	uint64_t number = 0, first = 0, total = 0, flags = 0, word;
	const void *data;

	while (!(flags & WORD_STOP)) {
		data = ops.take(side);
		if (!data)
			return -1;
		word = touch_load(data);
		if ((word ^ flags) % WORD_NUMBER)
			number = 0;
		flags = word % WORD_NUMBER;
		if (!touch_check(data, side->touched, word) ||
		    word / WORD_NUMBER != number)
			return side_fail(side, "a piece is missing, or torn");
		number = (number + 1) % pieces;
		total++;
		if (ops.done(side))
			return -1;
		if (!first && flags) {
			loop_usage(result, true);
			first = total;
		}
	}
	loop_usage(result, false);
	result->messages = total - first;
	result->all_messages = total;
	return 0;
}

#endif
