/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * file-pool, file-ring: a file into loaned buffers of the pool, which are sent in
 * the direct lane: by pread, and by io_uring, several reads at once, with the pool
 * registered.
 */
#include "file.h"

#include <liburing.h>

#include "lanes.h"

#include <sluice/uring.h>

#define DEPTH 8
/* Once so few are left, more are submitted, together. */
#define REFILL (DEPTH / 2)
#define TABLE 64

struct piece {
	struct sluice_buf *buf;
	uint64_t flags;
	bool read;
};

static struct file_plan plan;
static struct io_uring ring;
static struct sluice_uring_pool *registered;
static struct piece pieces[DEPTH]; /* a ring: `count` from `first` on */
static unsigned int first, count;

static int pool_prepare(const struct bench_case *c,
			struct bench_channel *channel, char reason[BENCH_TEXT])
{
	int ret = lanes_prepare(c, channel, reason);

	return ret ? ret : file_prepare(c, channel, reason);
}

static int pool_open(struct bench_side *side)
{
	return lanes_open(side, SLUICE_LANE_DIRECT);
}

static int pool_close(struct bench_side *side)
{
	struct sluice_conn_info info;

	if (lane_check(side, SLUICE_LANE_DIRECT, side->index))
		return -1;
	sluice_conn_info(conn, &info);
	side->result->frames = info.frames_sent + info.frames_received;
	sluice_conn_close(conn);
	return 0;
}

LOOP int buf_loan(struct bench_side *side, struct sluice_buf **buf)
{
	int ret;

	while ((ret = sluice_loan(conn, side->size, buf)) == -EAGAIN) {
		if (room(side))
			return -1;
	}
	return ret ? lanes_failed(side, "sluice_loan", ret) : 0;
}

LOOP int buf_send(struct bench_side *side, struct sluice_buf *buf)
{
	int ret;

	while ((ret = sluice_send_buf(conn, buf, (uint32_t)side->size, 0, 0)) ==
	       -EAGAIN) {
		if (room(side))
			return -1;
	}
	return ret ? lanes_failed(side, "sluice_send_buf", ret) : 0;
}

LOOP int pool_send(struct bench_side *side, uint64_t *flags)
{
	uint64_t at = file_next(side, &plan, flags);
	struct sluice_buf *buf;
	ssize_t n;

	if (buf_loan(side, &buf))
		return -1;
	n = pread(side->channel->in[0], buf->data, side->size, (off_t)at);
	if (n != (ssize_t)side->size)
		return side_fail(side, "pread: %s", strerror(errno));
	return buf_send(side, buf);
}

static int pool_run(struct bench_side *side)
{
	static const struct loop_ops ops = { .take = lanes_take,
					     .done = lanes_done };

	return side->index ? file_receive_all(side, ops) :
			     file_send_all(side, pool_send);
}

static int ring_new(void)
{
	int ret = io_uring_queue_init(DEPTH, &ring, 0);

	if (ret)
		return ret;
	ret = io_uring_register_buffers_sparse(&ring, TABLE);
	if (ret)
		io_uring_queue_exit(&ring);
	return ret;
}

static int ring_prepare(const struct bench_case *c,
			struct bench_channel *channel, char reason[BENCH_TEXT])
{
	int ret = ring_new();

	if (ret) {
		snprintf(reason, BENCH_TEXT, "io_uring: %s", strerror(-ret));
		return BENCH_UNSUPPORTED;
	}
	io_uring_queue_exit(&ring);
	return pool_prepare(c, channel, reason);
}

static int ring_open(struct bench_side *side)
{
	int ret = pool_open(side);

	if (ret || side->index)
		return ret;
	ret = ring_new();
	if (!ret)
		ret = sluice_uring_pool_new(&registered, sluice_conn_pool(conn),
					    ring.ring_fd, 0, TABLE);
	return ret ? side_fail(side, "io_uring: %s", strerror(-ret)) : 0;
}

static int ring_close(struct bench_side *side)
{
	struct sluice_uring_pool_info info;

	if (!side->index) {
		sluice_uring_pool_info(registered, &info);
		if (!info.segments)
			return side_fail(side, "no buffer was registered");
		sluice_uring_pool_free(registered);
		io_uring_queue_exit(&ring);
	}
	return pool_close(side);
}

/* Begins to read as many pieces as there is room for. */
static int refill(struct bench_side *side)
{
	struct io_uring_sqe *sqe;
	struct sluice_part part = { .len = (uint32_t)side->size };
	struct piece *piece;
	uint64_t at;
	int ret;

	while (count < DEPTH && !(plan.flags & WORD_STOP)) {
		piece = &pieces[(first + count) % DEPTH];
		ret = count ? sluice_loan(conn, side->size, &piece->buf) :
			      buf_loan(side, &piece->buf);
		if (ret == -EAGAIN)
			break; /* those that are being read come first */
		if (ret)
			return -1;
		at = file_next(side, &plan, &piece->flags);
		piece->read = false;
		part.buf = piece->buf;
		sqe = io_uring_get_sqe(&ring);
		ret = sluice_uring_read(registered, sqe, side->channel->in[0],
					&part, at);
		if (ret < 0)
			return side_fail(side, "read: %s", strerror(-ret));
		io_uring_sqe_set_data(sqe, piece);
		count++;
	}
	return 0;
}

static int reap(struct bench_side *side)
{
	struct io_uring_cqe *cqe;
	struct piece *piece;

	while (!io_uring_peek_cqe(&ring, &cqe)) {
		if (cqe->res != (int)side->size)
			return side_fail(side, "read: %s", strerror(-cqe->res));
		piece = io_uring_cqe_get_data(cqe);
		piece->read = true;
		io_uring_cqe_seen(&ring, cqe);
	}
	return 0;
}

static int ring_send(struct bench_side *side, uint64_t *flags)
{
	struct piece *piece;
	int ret;

	if (count <= REFILL) {
		if (refill(side))
			return -1;
		ret = io_uring_submit(&ring);
		if (ret < 0 || reap(side))
			return ret < 0 ? side_fail(side, "io_uring_enter: %s",
						   strerror(-ret)) :
					 -1;
	}
	piece = &pieces[first];
	while (!piece->read) {
		ret = io_uring_submit_and_wait(&ring, 1);
		if (ret < 0 && ret != -EINTR)
			return side_fail(side, "io_uring_enter: %s",
					 strerror(-ret));
		if (reap(side))
			return -1;
	}
	first = (first + 1) % DEPTH;
	count--;
	*flags = piece->flags;
	return buf_send(side, piece->buf);
}

static int ring_run(struct bench_side *side)
{
	static const struct loop_ops ops = { .take = lanes_take,
					     .done = lanes_done };

	return side->index ? file_receive_all(side, ops) :
			     file_send_all(side, ring_send);
}

const struct bench_system bench_file_pool = {
	.name = "file-pool",
	.what = "a file: read into the pool, direct lane, read where it lies",
	.frames = true,
	.patterns = BENCH_HAS(PATTERN_FILE),
	.prepare = pool_prepare,
	.open = pool_open,
	.run = pool_run,
	.close = pool_close,
};

const struct bench_system bench_file_ring = {
	.name = "file-ring",
	.what = "the same, read by io_uring into registered buffers",
	.frames = true,
	.patterns = BENCH_HAS(PATTERN_FILE),
	.prepare = ring_prepare,
	.open = ring_open,
	.run = ring_run,
	.close = ring_close,
};
