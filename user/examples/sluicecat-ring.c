/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A sender's input by io_uring, if it is a regular file: several reads at once, each
 * straight into a buffer of the pool, which is registered with the ring. Where there
 * is no io_uring, sluicecat-move.c reads with read().
 *
 * Reads are of consecutive pieces and are taken in their order. One that came short
 * is continued: only one that brings nothing says that the file ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sluice/uring.h>

#include "sluicecat.h"

/* Enough to keep a disk busy, few of the pool's 16. A guess. */
#define DEPTH 4
#define TABLE 16

struct piece {
	struct sluice_part part; /* to be read into; what is left */
	uint64_t offset; /* in the file, of what is left */
	bool reading;
	bool ended;
};

struct reader {
	struct cat *cat;
	int fd;
	int error; /* of a read: -errno */
	struct io_uring ring;
	struct sluice_uring_pool *registered; /* NULL: it could not be */
	struct piece pieces[DEPTH]; /* a ring: `count` from `first` on */
	unsigned int first, count;
	uint64_t start; /* where the file was */
	uint64_t offset; /* of the next piece */
	uint64_t taken; /* bytes of the file that were taken */
};

static void start(struct reader *r, struct piece *piece)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
	int fixed = -1;

	if (r->registered)
		fixed = sluice_uring_read(r->registered, sqe, r->fd,
					  &piece->part, piece->offset);
	if (fixed < 0)
		io_uring_prep_read(sqe, r->fd,
				   (uint8_t *)piece->part.buf->data +
					   piece->part.offset,
				   piece->part.len, piece->offset);
	r->cat->fixed_reads += fixed == 1;
	r->cat->ring_reads++;
	io_uring_sqe_set_data(sqe, piece);
	piece->reading = true;
}

/* As many pieces as there are buffers for; waits for the first of them only. */
static int start_more(struct reader *r)
{
	struct piece *piece;
	int ret = 0;

	while (r->count < DEPTH && !ret) {
		piece = &r->pieces[(r->first + r->count) % DEPTH];
		*piece = (struct piece){ .part.len =
						 (uint32_t)r->cat->buffer_size,
					 .offset = r->offset };
		ret = cat_loan(r->cat, &piece->part.buf, !r->count);
		if (ret)
			break;
		r->count++;
		r->offset += piece->part.len;
		start(r, piece);
	}
	return ret == -EAGAIN && r->count ? 0 : ret;
}

static void finish(struct reader *r, struct piece *piece, int result)
{
	piece->reading = false;
	if (result == -EINTR || result == -EAGAIN)
		return;
	if (result < 0)
		r->error = result;
	if (result <= 0) {
		piece->ended = true;
		return;
	}
	piece->part.offset += (uint32_t)result;
	piece->part.len -= (uint32_t)result;
	piece->offset += (uint64_t)result;
}

/* Waits for one read. */
static int wait_one(struct reader *r)
{
	struct io_uring_cqe *cqe;
	int ret;

	do {
		ret = io_uring_submit_and_wait(&r->ring, 1);
	} while (ret == -EINTR);
	if (ret < 0)
		return ret;
	while (!io_uring_peek_cqe(&r->ring, &cqe)) {
		finish(r, io_uring_cqe_get_data(cqe), cqe->res);
		io_uring_cqe_seen(&r->ring, cqe);
	}
	return 0;
}

int reader_next(struct reader *r, struct sluice_buf **buf, uint32_t *len)
{
	struct piece *piece = &r->pieces[r->first];
	int ret = start_more(r);

	while (!ret && piece->part.len && !piece->ended) {
		if (!piece->reading)
			start(r, piece);
		ret = wait_one(r);
	}
	if (ret)
		return ret;
	*buf = piece->part.buf;
	*len = piece->part.offset;
	r->taken += *len;
	if (!*len)
		return 0; /* the reader keeps the buffer */
	r->first = (r->first + 1) % DEPTH;
	r->count--;
	return 1;
}

int reader_error(const struct reader *r)
{
	return r->error;
}

/* Nothing may be read into a buffer that goes back to the pool. */
void reader_free(struct reader *r)
{
	unsigned int i;

	if (!r)
		return;
	io_uring_submit(&r->ring);
	for (i = 0; i < r->count; i++) {
		struct piece *piece = &r->pieces[(r->first + i) % DEPTH];

		while (piece->reading && !wait_one(r))
			;
		sluice_buf_unref(piece->part.buf);
	}
	/* As read() would have left it, for who shares the file. */
	lseek(r->fd, (off_t)(r->start + r->taken), SEEK_SET);
	sluice_uring_pool_free(r->registered);
	io_uring_queue_exit(&r->ring);
	free(r);
}

struct reader *reader_new(struct cat *cat, int fd)
{
	off_t at = lseek(fd, 0, SEEK_CUR);
	struct reader *r;
	struct stat st;

	if (cat->no_ring || fstat(fd, &st) || !S_ISREG(st.st_mode) || at < 0)
		return NULL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	if (io_uring_queue_init(DEPTH, &r->ring, 0)) {
		free(r);
		return NULL;
	}
	r->cat = cat;
	r->fd = fd;
	r->offset = r->start = (uint64_t)at;
	if (io_uring_register_buffers_sparse(&r->ring, TABLE) ||
	    sluice_uring_pool_new(&r->registered, sluice_conn_pool(cat->conn),
				  r->ring.ring_fd, 0, TABLE))
		r->registered = NULL;
	return r;
}
