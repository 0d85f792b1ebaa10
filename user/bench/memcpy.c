/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * memcpy: one process copies each message from a source that is warm to four
 * destinations in turn. What a copy costs, without any transport.
 */
#include "loop.h"

#include <stdlib.h>
#include <string.h>

#define COPIES 4

static uint8_t *source, *copies;
static unsigned int copy_index;

static int memcpy_open(struct bench_side *side)
{
	if (side->index)
		return 0;
	if (posix_memalign((void **)&source, 4096, side->size) ||
	    posix_memalign((void **)&copies, 4096, COPIES * side->size))
		return side_fail(side, "out of memory");
	memset(source, 1, side->size);
	memset(copies, 1, COPIES * side->size);
	return 0;
}

static int memcpy_close(struct bench_side *side)
{
	(void)side;
	free(source);
	free(copies);
	return 0;
}

LOOP void *memcpy_begin(struct bench_side *side)
{
	(void)side;
	return source;
}

LOOP int memcpy_send(struct bench_side *side)
{
	copy_index = (copy_index + 1) % COPIES;
	memcpy(copies + copy_index * side->size, source, side->size);
	return 0;
}

LOOP const void *memcpy_take(struct bench_side *side)
{
	return copies + copy_index * side->size;
}

LOOP int memcpy_done(struct bench_side *side)
{
	(void)side;
	return 0;
}

static int memcpy_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = memcpy_begin,
		.send = memcpy_send,
		.take = memcpy_take,
		.done = memcpy_done,
	};

	return loop_run(side, ops);
}

const struct bench_system bench_memcpy = {
	.name = "memcpy",
	.what = "one copy of the payload inside one process, no transport",
	.solo = true,
	.open = memcpy_open,
	.run = memcpy_run,
	.close = memcpy_close,
};
