/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pools: segments of equal buffers, free lists by size class, growth and
 * retirement. A pool belongs to one thread, like the conns on it.
 *
 * A buffer is used while it has references: the application's, and one for
 * each id that is outstanding at a peer. A segment's number is what slots say;
 * it is free for reuse only when every peer that knew it has acknowledged its
 * SEGMENT_DEL.
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

#define CLASS_MIN_SHIFT 8 /* 256 B */
#define CLASS_MAX_SHIFT 30 /* 1 GiB */

int pool_check_options(const struct sluice_pool_options *o)
{
	uint32_t i;

	if (o->flags & ~SLUICE_POOL_F_HUGE ||
	    o->class_count > SLUICE_POOL_CLASSES_MAX ||
	    !o->classes != !o->class_count)
		return -EINVAL;
	for (i = 0; i < o->class_count; i++)
		if (!o->classes[i] || o->classes[i] % SLUICE_CACHE_LINE ||
		    o->classes[i] > 1u << CLASS_MAX_SHIFT ||
		    (i && o->classes[i] <= o->classes[i - 1]))
			return -EINVAL;
	return 0;
}

static void set_classes(struct sluice_pool *hot,
			const struct sluice_pool_options *o)
{
	uint32_t i, log, smallest;

	if (o->class_count) {
		for (i = 0; i < o->class_count; i++)
			hot->class_size[i] = o->classes[i];
		hot->class_count = (uint8_t)o->class_count;
	} else {
		for (i = CLASS_MIN_SHIFT; i <= CLASS_MAX_SHIFT; i++)
			hot->class_size[i - CLASS_MIN_SHIFT] = 1u << i;
		hot->class_count = CLASS_MAX_SHIFT - CLASS_MIN_SHIFT + 1;
	}
	for (log = 0; log < ARRAY_SIZE(hot->class_of); log++) {
		/* the least size with this ceil(log2), for the search to start */
		uint64_t least = log ? (1ull << (log - 1)) + 1 : 0;

		for (smallest = 0; smallest < hot->class_count; smallest++)
			if (hot->class_size[smallest] >= least)
				break;
		hot->class_of[log] = (uint8_t)smallest;
	}
}

int pool_new(struct pool **out, const struct sluice_pool_options *in)
{
	struct sluice_pool_options o = { .size = sizeof(o) };
	struct pool *pool;
	int r;

	if (in) {
		r = options_copy(&o, sizeof(o), in);
		if (!r)
			r = pool_check_options(&o);
		if (r)
			return r;
	}
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	pool->generation = process_generation();
	pool->limit = o.limit ? o.limit : SLUICE_POOL_LIMIT_DEFAULT;
	pool->segment_limit = SLUICE_SEGMENTS_MAX;
	pool->flags = o.flags;
	set_classes(&pool->hot, &o);
	list_init(&pool->conns);
	list_init(&pool->closing);
	list_init(&pool->waiters);
	*out = pool;
	return 0;
}

int sluice_pool_new(struct sluice_pool **out,
		    const struct sluice_pool_options *options)
{
	struct pool *pool;
	int r;

	r = pool_new(&pool, options);
	if (r)
		return r;
	pool->held = pool->shared = true;
	*out = &pool->hot;
	return 0;
}

static void segment_destroy(struct pool *pool, uint32_t number)
{
	struct segment *segment = pool->segments[number];

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

void pool_destroy(struct pool *pool)
{
	uint32_t i;

	for (i = 0; i < pool->segment_count; i++)
		if (pool->segments[i])
			segment_destroy(pool, i);
	free(pool->segments);
	free(pool);
}

void pool_put(struct pool *pool)
{
	struct list *l, *tmp;

	if (pool->held || pool->live_conns)
		return;
	/*
	 * Only closed conns are left, which keep their buffers from being
	 * reused. With the pool gone nothing is: peers keep their mappings.
	 */
	pool->held = true;
	list_for_each_safe(l, tmp, &pool->closing)
		conn_destroy(
			conn_of(list_entry(l, struct conn_core, pool_link)));
	pool_destroy(pool);
}

void sluice_pool_free(struct sluice_pool *hot)
{
	if (!hot)
		return;
	pool_of(hot)->held = false;
	pool_put(pool_of(hot));
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

static int pool_grow(struct pool *pool, unsigned int class_index)
{
	uint64_t size = pool->hot.class_size[class_index];
	uint32_t doublings = pool->class_segments[class_index];
	uint64_t page = CONN_PAGE, room, count, bytes;

	room = pool->limit > pool->bytes ? pool->limit - pool->bytes : 0;
	if (pool->flags & SLUICE_POOL_F_HUGE && !pool->huge_error) {
		if (room >= HUGE_PAGE_SIZE)
			page = HUGE_PAGE_SIZE;
		else if (!pool->bytes)
			pool->huge_error = -EFBIG; /* the limit is smaller */
	}
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

static int class_for(const struct pool *pool, size_t size)
{
	uint64_t limit = pool->limit / CONN_PAGE * CONN_PAGE;
	unsigned int i;

	for (i = 0; i < pool->hot.class_count; i++)
		if (pool->hot.class_size[i] >= size)
			return pool->hot.class_size[i] <= limit ? (int)i :
								  -EMSGSIZE;
	return -EMSGSIZE;
}

static int64_t retire_unused(struct pool *pool);

int pool_take(struct pool *pool, size_t size, bool may_grow,
	      struct sluice_buf **out)
{
	int class_index = class_for(pool, size);
	struct sluice_buf *b;
	int r;

	if (class_index < 0)
		return class_index;
	b = pool->hot.free[class_index];
	if (!b) {
		if (!may_grow)
			return -EAGAIN;
		r = pool_grow(pool, (unsigned int)class_index);
		/* Other classes may sit on memory that they do not use. */
		if (r == -EAGAIN && pool->hot.used < pool->buffers &&
		    retire_unused(pool))
			r = pool_grow(pool, (unsigned int)class_index);
		if (r)
			return r;
		b = pool->hot.free[class_index];
	}
	pool->hot.free[class_index] = b->next;
	pool->hot.used++;
	b->refs = 1;
	*out = b;
	return 0;
}

void pool_reap(struct pool *pool)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &pool->closing) {
		struct conn_core *core =
			list_entry(l, struct conn_core, pool_link);

		conn_harvest(conn_of(core));
		if (!conn_out(core) || core->eof)
			conn_destroy(conn_of(core));
	}
}

/* Harvests between two looks at the sockets, for peers that died. */
#define HARVESTS_PER_LOOK 64

void pool_harvest(struct pool *pool)
{
	bool look = ++pool->fruitless % HARVESTS_PER_LOOK == 0;
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &pool->conns) {
		struct conn_core *core =
			list_entry(l, struct conn_core, pool_link);

		conn_harvest(conn_of(core));
		/* Of an armed one the fd will tell. */
		if (look && conn_out(core) && !core->armed)
			control_drain(conn_of(core));
	}
	pool_reap(pool);
}

void pool_wake(struct pool *pool)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &pool->waiters) {
		struct conn_core *core =
			list_entry(l, struct conn_core, waiter_link);

		if (core->set)
			conn_disarm(conn_of(core));
	}
}

int sluice_pool_loan(struct sluice_pool *hot, size_t size,
		     struct sluice_buf **buf)
{
	struct pool *pool = pool_of(hot);
	int r;

	if (pool->generation != process_generation())
		return -ECHILD;
	r = pool_take(pool, size, false, buf);
	if (r != -EAGAIN)
		return r;
	pool_harvest(pool);
	return pool_take(pool, size, true, buf);
}

void pool_untake(struct sluice_buf *buf)
{
	struct sluice_pool *hot = buf->pool;

	buf->refs = 0;
	hot->used--;
	buf->next = hot->free[buf->class_index];
	hot->free[buf->class_index] = buf;
}

void sluice_buf_free(struct sluice_buf *buf)
{
	pool_untake(buf);
	pool_wake(pool_of(buf->pool));
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

static int64_t retire_unused(struct pool *pool)
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

int64_t sluice_pool_trim(struct sluice_pool *hot)
{
	struct pool *pool = pool_of(hot);

	if (pool->generation != process_generation())
		return -ECHILD;
	pool_harvest(pool);
	return retire_unused(pool);
}

void pool_forget(struct pool *pool, uint32_t number)
{
	struct segment *segment = pool->segments[number];

	if (!--segment->announced && segment->retiring) {
		segment_destroy(pool, number);
		pool_wake(pool); /* there is room to grow */
	}
}

void sluice_pool_info(const struct sluice_pool *hot,
		      struct sluice_pool_info *info)
{
	const struct pool *pool = (const struct pool *)hot;
	uint32_t i;

	*info = (struct sluice_pool_info){
		.limit = pool->limit,
		.bytes = pool->bytes,
		.buffers_used = hot->used,
		.huge_error = pool->huge_error,
	};
	for (i = 0; i < pool->segment_count; i++) {
		if (!pool->segments[i])
			continue;
		info->segments++;
		info->buffers += pool->segments[i]->count;
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
