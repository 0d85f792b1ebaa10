/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Segments of a pool in a ring's table of registered buffers. A segment is
 * registered when a request is first to use it, and unregistered before it is
 * unmapped: the kernel holds its pages until requests that use them have ended, so
 * no tag is needed to know when. Belongs to the thread of the pool.
 */
#include "uring.h"

#include <errno.h>
#include <linux/io_uring.h>

/* In by_segment */
#define UNKNOWN 0
#define REFUSED UINT32_MAX

struct sluice_uring_pool {
	struct pool *pool; /* NULL: it is gone */
	struct list link; /* in pool.registrations */
	uint64_t generation;
	int ring_fd;
	uint32_t first, count;
	uint32_t by_segment[SLUICE_SEGMENTS_MAX]; /* slot + 1, or the above */
	int errors[SLUICE_SEGMENTS_MAX]; /* of those refused */
	struct sluice_uring_pool_info info;
	uint8_t used[]; /* by slot */
};

/* Puts memory in a slot; NULL empties it. 0 or -errno. */
static int update(const struct sluice_uring_pool *registered, uint32_t slot,
		  void *address, uint64_t size)
{
	struct iovec iov = { .iov_base = address, .iov_len = size };
	uint64_t no_tag = 0;
	struct io_uring_rsrc_update2 what = {
		.offset = registered->first + slot,
		.data = (uint64_t)(uintptr_t)&iov,
		.tags = (uint64_t)(uintptr_t)&no_tag,
		.nr = 1,
	};
	int r = uring_register(registered->ring_fd,
			       IORING_REGISTER_BUFFERS_UPDATE, &what,
			       sizeof(what));

	return r < 0 ? r : 0;
}

int sluice_uring_pool_new(struct sluice_uring_pool **out,
			  struct sluice_pool *hot, int ring_fd, uint32_t first,
			  uint32_t count)
{
	struct sluice_uring_pool *registered;
	struct pool *pool = pool_of(hot);
	int r;

	if (pool->generation != process_generation())
		return -ECHILD;
	if (!count || first + count < first)
		return -EINVAL;
	/* One for each segment there can be is all that is ever used. */
	if (count > SLUICE_SEGMENTS_MAX)
		count = SLUICE_SEGMENTS_MAX;
	registered = calloc(1, sizeof(*registered) + count);
	if (!registered)
		return -ENOMEM;
	registered->generation = pool->generation;
	registered->ring_fd = ring_fd;
	registered->first = first;
	registered->count = count;
	r = update(registered, 0, NULL, 0);
	if (!r)
		r = update(registered, count - 1, NULL, 0);
	if (r) {
		free(registered);
		return r;
	}
	registered->pool = pool;
	list_append(&pool->registrations, &registered->link);
	*out = registered;
	return 0;
}

static void forget(struct sluice_uring_pool *registered, uint32_t number)
{
	uint32_t slot = registered->by_segment[number];

	registered->by_segment[number] = UNKNOWN;
	if (slot == UNKNOWN)
		return;
	if (slot == REFUSED) {
		registered->info.refused--;
		return;
	}
	registered->info.segments--;
	registered->info.bytes -= registered->pool->segments[number]->size;
	registered->used[slot - 1] = 0;
	/* In a child of fork() the ring is the parent's. */
	if (registered->generation == process_generation())
		update(registered, slot - 1, NULL, 0);
}

void registrations_forget(struct pool *pool, uint32_t number)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &pool->registrations)
		forget(list_entry(l, struct sluice_uring_pool, link), number);
}

void registrations_end(struct pool *pool)
{
	while (!list_empty(&pool->registrations)) {
		struct list *l = pool->registrations.next;

		list_entry(l, struct sluice_uring_pool, link)->pool = NULL;
		list_remove(l);
	}
}

void sluice_uring_pool_free(struct sluice_uring_pool *registered)
{
	uint32_t i;

	if (!registered)
		return;
	if (registered->pool) {
		for (i = 0; i < registered->pool->segment_count; i++)
			forget(registered, i);
		list_remove(&registered->link);
	}
	free(registered);
}

static int refuse(struct sluice_uring_pool *registered, uint32_t number, int r)
{
	registered->by_segment[number] = REFUSED;
	registered->errors[number] = r;
	registered->info.refused++;
	return r;
}

static int check(const struct sluice_uring_pool *registered,
		 const struct sluice_buf *buf)
{
	if (registered->generation != process_generation())
		return -ECHILD;
	if (!registered->pool || buf->pool != &registered->pool->hot ||
	    !buf->refs)
		return -EINVAL;
	return 0;
}

int sluice_uring_buf_index(struct sluice_uring_pool *registered,
			   const struct sluice_buf *buf)
{
	const struct segment *segment;
	uint32_t number = buf->segment, slot;
	int r = check(registered, buf);

	if (r)
		return r;
	slot = registered->by_segment[number];
	if (slot == REFUSED)
		return registered->errors[number];
	if (slot != UNKNOWN)
		return (int)(registered->first + slot - 1);
	for (slot = 0; slot < registered->count && registered->used[slot];)
		slot++;
	if (slot == registered->count)
		return -ENOSPC; /* one may come free */
	segment = registered->pool->segments[number];
	r = update(registered, slot, segment->address, segment->size);
	if (r)
		return refuse(registered, number, r);
	registered->used[slot] = 1;
	registered->by_segment[number] = slot + 1;
	registered->info.segments++;
	registered->info.bytes += segment->size;
	return (int)(registered->first + slot);
}

/* The SQE names the part; 1: by its slot, if `fixed`. */
static int fill(struct sluice_uring_pool *registered, struct io_uring_sqe *sqe,
		int fd, const struct sluice_part *part, bool fixed)
{
	int index, r = check(registered, part->buf);

	if (r)
		return r;
	if (part->offset > part->buf->capacity ||
	    part->len > part->buf->capacity - part->offset)
		return -EINVAL;
	index = fixed ? sluice_uring_buf_index(registered, part->buf) : -1;
	memset(sqe, 0, sizeof(*sqe));
	sqe->fd = fd;
	sqe->addr = (uint64_t)(uintptr_t)part->buf->data + part->offset;
	sqe->len = part->len;
	if (index < 0)
		return 0;
	sqe->buf_index = (uint16_t)index;
	return 1;
}

int sluice_uring_read(struct sluice_uring_pool *registered,
		      struct io_uring_sqe *sqe, int fd,
		      const struct sluice_part *part, uint64_t offset)
{
	int r = fill(registered, sqe, fd, part, true);

	if (r < 0)
		return r;
	sqe->opcode = r ? IORING_OP_READ_FIXED : IORING_OP_READ;
	sqe->off = offset;
	return r;
}

int sluice_uring_write(struct sluice_uring_pool *registered,
		       struct io_uring_sqe *sqe, int fd,
		       const struct sluice_part *part, uint64_t offset)
{
	int r = fill(registered, sqe, fd, part, true);

	if (r < 0)
		return r;
	sqe->opcode = r ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE;
	sqe->off = offset;
	return r;
}

int sluice_uring_recv(struct sluice_uring_pool *registered,
		      struct io_uring_sqe *sqe, int fd,
		      const struct sluice_part *part, uint32_t msg_flags)
{
	/* It copies to an address: there is nothing to pin. */
	int r = fill(registered, sqe, fd, part, false);

	if (r < 0)
		return r;
	sqe->opcode = IORING_OP_RECV;
	sqe->msg_flags = msg_flags;
	return r;
}

int sluice_uring_send_zc(struct sluice_uring_pool *registered,
			 struct io_uring_sqe *sqe, int fd,
			 const struct sluice_part *part, uint32_t msg_flags)
{
	int r = fill(registered, sqe, fd, part, true);

	if (r < 0)
		return r;
	sqe->opcode = IORING_OP_SEND_ZC;
	sqe->msg_flags = msg_flags;
	if (r)
		sqe->ioprio = IORING_RECVSEND_FIXED_BUF;
	return r;
}

void sluice_uring_pool_info(const struct sluice_uring_pool *registered,
			    struct sluice_uring_pool_info *info)
{
	*info = registered->info;
}
