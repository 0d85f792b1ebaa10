/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pools: free lists by size class, loans, and what comes back. segment.c has the
 * memory. A pool belongs to one thread, like the conns on it.
 *
 * A buffer is used while it has references: the application's, and one for
 * each id that is outstanding at a peer.
 */
#include "internal.h"
#include "trace.h"

#include <errno.h>

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
	list_init(&pool->registrations);
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

void pool_destroy(struct pool *pool)
{
	uint32_t i;

	for (i = 0; i < pool->segment_count; i++)
		if (pool->segments[i])
			segment_destroy(pool, i);
	registrations_end(pool);
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
		    pool_retire_unused(pool))
			r = pool_grow(pool, (unsigned int)class_index);
		if (r)
			return r;
		b = pool->hot.free[class_index];
	}
	pool->hot.free[class_index] = b->next;
	pool->hot.used++;
	b->refs = 1;
	TRACE(loan, &pool->hot, b, b->capacity, size);
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

	TRACE(free, hot, buf);
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

int64_t sluice_pool_trim(struct sluice_pool *hot)
{
	struct pool *pool = pool_of(hot);

	if (pool->generation != process_generation())
		return -ECHILD;
	pool_harvest(pool);
	return pool_retire_unused(pool);
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
