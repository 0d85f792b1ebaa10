/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Fan-in: many connections, one receiver. Side 0 is all the senders: it takes
 * the connections in turn, a burst of messages each (plain ones: one sendmmsg() if
 * that is more than one), and skips those that have no room.
 * Side 1 receives from all of them. Numbers and flags in the payload are as in
 * loop.h, numbers by connection.
 */
#ifndef BENCH_FANIN_H
#define BENCH_FANIN_H

#include "loop.h"

#include <stdlib.h>

/* Receivers take up to so many events at once, and one message for each. */
#define FANIN_EVENTS 64

struct fanin {
	unsigned int count; /* of connections */
	unsigned int open; /* of them that have not sent WORD_STOP */
	bool measuring;
	uint64_t messages; /* all */
	uint64_t first; /* of them before it measured */
	uint64_t *numbers; /* of the next message, by connection */
};

struct fanin_ops {
	/*
	 * Sends count messages, the first of which starts with the word, the next
	 * with the next number. How many there was room for; or -1 after
	 * side_fail().
	 */
	int (*put)(struct bench_side *side, unsigned int connection,
		   uint64_t word, unsigned int count);
	/* Blocking, until some connection has room. */
	int (*room)(struct bench_side *side);
	/*
	 * Hands messages to fanin_got(). How many events there were, 0 if none
	 * and not blocking, or -1.
	 */
	int (*take)(struct bench_side *side, struct fanin *fanin);
};

/* Connections for both sides, room for some messages in each. */
int fanin_prepare(const struct bench_case *c, struct bench_channel *channel,
		  char reason[BENCH_TEXT]);
/* One message on a plain socket, for fanin_ops.put and .room. */
int fanin_plain_open(struct bench_side *side);
int fanin_plain_put(struct bench_side *side, unsigned int connection,
		    uint64_t word, unsigned int count);
int fanin_plain_room(struct bench_side *side);

/* A message of that connection; it must be the next one. */
LOOP int fanin_got(struct bench_side *side, struct fanin *fanin,
		   unsigned int connection, const void *data)
{
	const uint64_t word = touch_load(data);

	if (!touch_check(data, side->touched, word) ||
	    word / WORD_NUMBER != fanin->numbers[connection])
		return side_fail(
			side, "message %llu of sender %u came as %llu, or torn",
			(unsigned long long)fanin->numbers[connection],
			connection, (unsigned long long)(word / WORD_NUMBER));
	fanin->numbers[connection]++;
	fanin->messages++;
	if (__builtin_expect(word & WORD_STOP, 0))
		fanin->open--;
	if (__builtin_expect(!fanin->measuring, 0) && word & WORD_MEASURE) {
		fanin->measuring = true;
		fanin->first = fanin->messages;
		loop_usage(side->result, true);
	}
	return 0;
}

LOOP int fanin_receive(struct bench_side *side, const struct fanin_ops ops,
		       struct fanin *fanin)
{
	struct bench_result *result = side->result;
	uint64_t last = clock_ticks(), now;
	int got;

	while (fanin->open) {
		got = ops.take(side, fanin);
		if (got < 0)
			return -1;
		now = clock_ticks();
		if (!got)
			result->idle_ticks += now - last;
		last = now;
	}
	loop_usage(result, false);
	result->messages = fanin->messages - fanin->first;
	result->all_messages = fanin->messages;
	return 0;
}

/* A burst of messages for each connection that has room; how many, or -1. */
LOOP int fanin_pass(struct bench_side *side, const struct fanin_ops ops,
		    struct fanin *fanin, uint64_t flags)
{
	unsigned int i;
	int sent = 0, ret;

	for (i = 0; i < fanin->count; i++) {
		ret = ops.put(side, i, fanin->numbers[i] * WORD_NUMBER | flags,
			      side->c->burst);
		if (ret < 0)
			return -1;
		fanin->numbers[i] += (uint64_t)ret;
		sent += ret;
	}
	return sent;
}

/* The last message of each connection. */
LOOP int fanin_stop(struct bench_side *side, const struct fanin_ops ops,
		    struct fanin *fanin)
{
	const uint64_t flags = WORD_MEASURE | WORD_STOP;
	unsigned int i;
	int ret;

	for (i = 0; i < fanin->count; i++) {
		do {
			ret = ops.put(side, i,
				      fanin->numbers[i] * WORD_NUMBER | flags,
				      1);
			if (ret < 0 || (!ret && side->block && ops.room(side)))
				return -1;
		} while (!ret);
	}
	return 0;
}

LOOP int fanin_send(struct bench_side *side, const struct fanin_ops ops,
		    struct fanin *fanin)
{
	struct bench_result *result = side->result;
	uint64_t flags = 0, last = clock_ticks(), now;
	uint64_t end = last + side->c->warm_ticks;
	int sent;

	for (;;) {
		sent = fanin_pass(side, ops, fanin, flags);
		if (sent < 0 || (!sent && side->block && ops.room(side)))
			return -1;
		fanin->messages += (uint64_t)sent;
		now = clock_ticks();
		if (!sent)
			result->idle_ticks += now - last;
		last = now;
		if (now < end || fanin->messages < side->c->warm_messages)
			continue;
		if (flags)
			break;
		flags = WORD_MEASURE;
		loop_usage(result, true);
		last = clock_ticks();
		end = last + side->c->ticks;
	}
	if (fanin_stop(side, ops, fanin))
		return -1;
	loop_usage(result, false);
	return 0;
}

LOOP int fanin_run(struct bench_side *side, const struct fanin_ops ops)
{
	struct fanin fanin = {
		.count = side->channel->pair_count,
		.open = side->channel->pair_count,
		.numbers = calloc(side->channel->pair_count, sizeof(uint64_t)),
	};
	int ret;

	if (!fanin.numbers)
		return side_fail(side, "out of memory");
	ret = side->index ? fanin_receive(side, ops, &fanin) :
			    fanin_send(side, ops, &fanin);
	free(fanin.numbers);
	return ret;
}

#endif
