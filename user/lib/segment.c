/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Segments, the memory of a pool: one memfd each, full of buffers of one size
 * class. How a pool grows by them, and how they go.
 *
 * A segment's number is what slots say; it is free for reuse only when every
 * peer that knew it has acknowledged its SEGMENT_DEL.
 */
#include "internal.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * The first segment of a class is small, each further one twice as large: an
 * idle connection stays cheap and a busy one has few segments. From 4 MiB up a
 * buffer is a segment.
 */
#define SEGMENT_FIRST (64ull << 10)
#define SEGMENT_DOUBLINGS 7
#define SEGMENT_MIN_BUFFERS 4
#define LARGE_BUFFER (4ull << 20)
#define HUGE_PAGE_SIZE (2ull << 20)

void segment_destroy(struct pool *pool, uint32_t number)
{
	struct segment *segment = pool->segments[number];

	registrations_forget(pool, number);
	pool->segments[number] = NULL;
	pool->bytes -= segment->size;
	pool->buffers -= segment->count;
	/* In a child of fork() the mapping was not inherited. */
	if (pool->generation == process_generation())
		munmap(segment->address, segment->size);
	if (segment->fd >= 0)
		close(segment->fd);
	free(segment->bufs);
	free(segment);
}

static int segment_number(struct pool *pool)
{
	struct segment **table;
	uint32_t i, count;

	for (i = 0; i < pool->segment_count; i++)
		if (!pool->segments[i])
			break;
	if (i >= pool->segment_limit)
		return -EAGAIN;
	if (i < pool->segment_count)
		return (int)i;
	count = i ? i * 2 : 8;
	table = realloc(pool->segments, count * sizeof(*table));
	if (!table)
		return -ENOMEM;
	memset(table + i, 0, (count - i) * sizeof(*table));
	pool->segments = table;
	pool->segment_count = count;
	return (int)i;
}

static int segment_new(struct pool *pool, unsigned int class_index,
		       uint64_t bytes, uint32_t count)
{
	uint32_t size = pool->hot.class_size[class_index];
	struct segment *segment;
	void *address;
	int number, r = -ENOMEM;
	uint32_t i;

	number = segment_number(pool);
	if (number < 0)
		return number;
	segment = calloc(1, sizeof(*segment));
	if (!segment)
		return -ENOMEM;
	segment->bufs = calloc(count, sizeof(*segment->bufs));
	if (!segment->bufs)
		goto no_memory;
	if (pool->flags & SLUICE_POOL_F_HUGE && !pool->huge_error &&
	    bytes % HUGE_PAGE_SIZE == 0) {
		r = memory_new("sluice-pool", bytes, true, &address,
			       &segment->fd);
		segment->huge = !r;
		pool->huge_error = r;
	}
	if (r)
		r = memory_new("sluice-pool", bytes, false, &address,
			       &segment->fd);
	if (r)
		goto no_memory;
	segment->address = address;
	segment->size = bytes;
	segment->count = count;
	segment->class_index = (uint16_t)class_index;
	for (i = count; i-- > 0;) {
		struct sluice_buf *b = &segment->bufs[i];

		b->offset = (uint64_t)i * size;
		b->data = segment->address + b->offset;
		b->capacity = size;
		b->pool = &pool->hot;
		b->segment = (uint16_t)number;
		b->class_index = (uint16_t)class_index;
		b->next = pool->hot.free[class_index];
		pool->hot.free[class_index] = b;
	}
	pool->segments[number] = segment;
	pool->bytes += bytes;
	pool->buffers += count;
	pool->class_segments[class_index]++;
	return 0;
no_memory:
	free(segment->bufs);
	free(segment);
	return r;
}

/* Huge pages only where whole ones, within the room, hold a buffer. */
static uint64_t page_for(struct pool *pool, uint64_t room, uint64_t size)
{
	uint64_t huge = room / HUGE_PAGE_SIZE * HUGE_PAGE_SIZE;

	if (!(pool->flags & SLUICE_POOL_F_HUGE) || pool->huge_error)
		return CONN_PAGE;
	if (huge && huge >= size)
		return HUGE_PAGE_SIZE;
	if (!pool->bytes)
		pool->huge_error = -EFBIG; /* the limit is smaller */
	return CONN_PAGE;
}

int pool_grow(struct pool *pool, unsigned int class_index)
{
	uint64_t size = pool->hot.class_size[class_index];
	uint32_t doublings = pool->class_segments[class_index];
	uint64_t page, room, count, bytes;

	room = pool->limit > pool->bytes ? pool->limit - pool->bytes : 0;
	page = page_for(pool, room, size);
	room = room / page * page;
	if (doublings > SEGMENT_DOUBLINGS)
		doublings = SEGMENT_DOUBLINGS;
	count = (SEGMENT_FIRST << doublings) / size;
	if (count < SEGMENT_MIN_BUFFERS)
		count = size < LARGE_BUFFER ? SEGMENT_MIN_BUFFERS : 1;
	if (count * size < page)
		count = page / size;
	if (count > room / size)
		count = room / size;
	if (!count)
		return -EAGAIN;
	bytes = (count * size + page - 1) / page * page;
	return segment_new(pool, class_index, bytes, (uint32_t)count);
}

static bool segment_unused(const struct segment *segment)
{
	uint32_t i;

	for (i = 0; i < segment->count; i++)
		if (segment->bufs[i].refs)
			return false;
	return true;
}

static void segment_retire(struct pool *pool, uint32_t number)
{
	struct segment *segment = pool->segments[number];
	struct sluice_buf **b = &pool->hot.free[segment->class_index];
	struct list *l, *tmp;

	while (*b) {
		if ((*b)->segment == number)
			*b = (*b)->next;
		else
			b = &(*b)->next;
	}
	segment->retiring = true;
	pool->class_segments[segment->class_index]--;
	if (!segment->announced) {
		segment_destroy(pool, number);
		return;
	}
	list_for_each_safe(l, tmp, &pool->conns) {
		struct conn_core *core =
			list_entry(l, struct conn_core, pool_link);

		if (bit_get(conn_of(core)->tx_announced, number)) {
			bit_set(core->del_due, number);
			control_push(conn_of(core), false);
		}
	}
}

int64_t pool_retire_unused(struct pool *pool)
{
	int64_t bytes = 0;
	uint32_t i;

	for (i = 0; i < pool->segment_count; i++) {
		struct segment *segment = pool->segments[i];

		if (!segment || segment->retiring || !segment_unused(segment))
			continue;
		bytes += (int64_t)segment->size;
		segment_retire(pool, i);
	}
	return bytes;
}

void pool_forget(struct pool *pool, uint32_t number)
{
	struct segment *segment = pool->segments[number];

	if (!--segment->announced && segment->retiring) {
		segment_destroy(pool, number);
		pool_wake(pool); /* there is room to grow */
	}
}

int sluice_pool_segment(const struct sluice_pool *hot, unsigned int index,
			struct sluice_segment_info *info)
{
	const struct pool *pool = (const struct pool *)hot;
	uint32_t i;

	for (i = 0; i < pool->segment_count; i++) {
		const struct segment *segment = pool->segments[i];

		if (!segment || index--)
			continue;
		*info = (struct sluice_segment_info){
			.address = segment->address,
			.length = segment->size,
			.buffer_size = hot->class_size[segment->class_index],
			.alignment = segment->huge ? HUGE_PAGE_SIZE : CONN_PAGE,
			.segment = (uint16_t)i,
		};
		return 0;
	}
	return -ENOENT;
}
