/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pools: options, size classes, the limit, growth, what counts as used, and the
 * limits that a peer or the process sets.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "ends.h"

static struct sluice_pool_info info_of(const struct sluice_pool *pool)
{
	struct sluice_pool_info info;

	sluice_pool_info(pool, &info);
	return info;
}

/* Options ------------------------------------------------------------------ */

static const uint32_t good[] = { 64, 192, 4160, 8192 };
static const uint32_t many[33] = { 64 };
static const uint32_t unaligned[] = { 64, 100 };
static const uint32_t descending[] = { 128, 64 };
static const uint32_t equal[] = { 64, 64 };
static const uint32_t zero[] = { 0, 64 };
static const uint32_t large[] = { 64, (1u << 30) + 64 };

static const struct bad_pool {
	const char *name;
	struct sluice_pool_options options;
} bad_pools[] = {
	{ "flags", { .flags = 2 } },
	{ "count-without-classes", { .class_count = 1 } },
	{ "classes-without-count", { .classes = good } },
	{ "too-many", { .classes = many, .class_count = 33 } },
	{ "unaligned", { .classes = unaligned, .class_count = 2 } },
	{ "descending", { .classes = descending, .class_count = 2 } },
	{ "equal", { .classes = equal, .class_count = 2 } },
	{ "zero", { .classes = zero, .class_count = 2 } },
	{ "too-large", { .classes = large, .class_count = 2 } },
};

TAP_EACH(bad_pool_options, bad, bad_pools)
{
	struct sluice_pool_options options = bad->options;
	struct sluice_options conn_options =
		ENDS_OPTIONS(.pool_options = &options);
	struct sluice_listener *listener;
	struct sluice_conn *conn[2];
	struct sluice_pool *pool;
	int fds = tap_open_fds();

	options.size = sizeof(options);
	CHECK_EQ(sluice_pool_new(&pool, &options), -EINVAL);
	CHECK_EQ(sluice_pair(conn, &conn_options), -EINVAL);
	CHECK_EQ(sluice_listen(&listener, "@x", &conn_options), -EINVAL);
	CHECK_EQ(tap_open_fds(), fds);
}

static struct sluice_pool_options own_pool = {
	.size = sizeof(struct sluice_pool_options),
};

static const struct bad_conn {
	const char *name;
	struct sluice_options options;
} bad_conns[] = {
	{ "flags", { .flags = 0x80 } },
	{ "flags-high", { .flags = 0x80000000 } },
	{ "plain-and-aware", { .flags = SLUICE_F_PLAIN | SLUICE_F_AWARE } },
	{ "plain-and-required",
	  { .flags = SLUICE_F_PLAIN | SLUICE_F_REQUIRE_AWARE } },
	{ "ring-small", { .ring_slots = 8 } },
	{ "ring-large", { .ring_slots = 131072 } },
	{ "ring-odd", { .ring_slots = 24 } },
	{ "hold-small", { .hold_limit = 15 } },
	{ "hold-large", { .hold_limit = 65537 } },
	{ "no-spin", { .no_spin = 2 } },
};

TAP_EACH(bad_options, bad, bad_conns)
{
	struct sluice_options options = bad->options;
	struct sluice_listener *listener;
	struct sluice_conn *conn[2];
	int fds = tap_open_fds();

	options.size = sizeof(options);
	CHECK_EQ(sluice_pair(conn, &options), -EINVAL);
	CHECK_EQ(sluice_listen(&listener, "@x", &options), -EINVAL);
	CHECK_EQ(sluice_connect(conn, "@x", &options), -EINVAL);
	CHECK_EQ(sluice_conn_from_fd(conn, 0, &options), -EINVAL);
	CHECK_EQ(tap_open_fds(), fds);
}

TAP_TEST(two_pools_are_one_too_many)
{
	struct sluice_options options = ENDS_OPTIONS(.pool_options = &own_pool);
	struct sluice_conn *conn[2];

	CHECK_OK(sluice_pool_new(&options.pool, NULL));
	CHECK_EQ(sluice_pair(conn, &options), -EINVAL);
	sluice_pool_free(options.pool);
}

/* Its segments' fds are closed once its own peer has them. */
TAP_TEST(pool_of_a_conn_is_not_shared)
{
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_conn *conn[2], *more[2];

	ends_pair(conn, NULL, NULL);
	options.pool = sluice_conn_pool(conn[0]);
	CHECK_EQ(sluice_pair(more, &options), -EINVAL);
	ends_close(conn);
}

/* Structs of other versions: shorter, longer, longer with news. */
TAP_TEST(option_sizes)
{
	struct {
		struct sluice_options options;
		uint8_t more[16];
	} conn_options = { .options = { .ring_slots = 16 } };
	struct {
		struct sluice_pool_options options;
		uint8_t more[16];
	} pool_options = { .options = { .limit = 8192, .flags = 2 } };
	struct sluice_conn *conn[2];
	struct sluice_pool *pool;

	CHECK_EQ(sluice_pair(conn, &conn_options.options), -EINVAL); /* 0 */
	conn_options.options.size = sizeof(size_t) - 1;
	CHECK_EQ(sluice_pair(conn, &conn_options.options), -EINVAL);
	conn_options.options.size = sizeof(conn_options);
	CHECK_OK(sluice_pair(conn, &conn_options.options));
	ends_close(conn);
	conn_options.more[15] = 1;
	CHECK_EQ(sluice_pair(conn, &conn_options.options), -E2BIG);
	/* What is past its size is not looked at. */
	conn_options.options.hold_limit = 1;
	conn_options.options.size = offsetof(struct sluice_options, hold_limit);
	CHECK_OK(sluice_pair(conn, &conn_options.options));
	ends_close(conn);

	CHECK_EQ(sluice_pool_new(&pool, &pool_options.options), -EINVAL);
	pool_options.options.size = offsetof(struct sluice_pool_options, flags);
	CHECK_OK(sluice_pool_new(&pool, &pool_options.options));
	CHECK_EQ(info_of(pool).limit, 8192);
	sluice_pool_free(pool);
	pool_options.options.flags = 0;
	pool_options.options.size = sizeof(pool_options);
	CHECK_OK(sluice_pool_new(&pool, &pool_options.options));
	sluice_pool_free(pool);
	pool_options.more[0] = 1;
	CHECK_EQ(sluice_pool_new(&pool, &pool_options.options), -E2BIG);
	sluice_pool_free(NULL);
}

/* Classes ------------------------------------------------------------------ */

/* A loan of `size`: its capacity, where it lies, and that it is writable. */
static void expect_loan(struct sluice_pool *pool, size_t size,
			uint32_t capacity)
{
	struct sluice_segment_info segment;
	struct sluice_buf *buf;
	unsigned int i;

	CHECK_OK(sluice_pool_loan(pool, size, &buf));
	CHECK_EQ(buf->capacity, capacity);
	CHECK_EQ((uintptr_t)buf->data % 64, 0);
	if (capacity % 4096 == 0)
		CHECK_EQ((uintptr_t)buf->data % 4096, 0);
	for (i = 0;; i++) {
		CHECK_OK(sluice_pool_segment(pool, i, &segment));
		if (segment.segment == buf->segment)
			break;
	}
	CHECK_EQ(segment.buffer_size, capacity);
	CHECK_EQ(segment.length % segment.alignment, 0);
	CHECK_EQ((uintptr_t)segment.address % segment.alignment, 0);
	CHECK_EQ((uint8_t *)segment.address + buf->offset -
			 (uint8_t *)buf->data,
		 0);
	CHECK_EQ(buf->offset % capacity, 0);
	CHECK_LE(buf->offset + capacity, segment.length);
	memset(buf->data, 0xa5, capacity);
	sluice_buf_unref(buf);
}

TAP_TEST(default_classes)
{
	struct sluice_pool *pool;
	uint32_t size;

	CHECK_OK(sluice_pool_new(&pool, NULL));
	CHECK_EQ(info_of(pool).limit, 256 << 20);
	expect_loan(pool, 0, 256);
	expect_loan(pool, 1, 256);
	for (size = 256; size <= 16 << 20; size *= 2) {
		expect_loan(pool, size - 1, size);
		expect_loan(pool, size, size);
		expect_loan(pool, size + 1, size * 2);
	}
	CHECK_EQ(info_of(pool).buffers_used, 0);
	CHECK_GT(sluice_pool_trim(pool), 0);
	CHECK_EQ(info_of(pool).bytes, 0);
	CHECK_EQ(info_of(pool).segments, 0);
	sluice_pool_free(pool);
}

TAP_TEST(own_classes)
{
	struct sluice_pool_options options =
		ENDS_POOL(.classes = good, .class_count = 4);
	struct sluice_pool *pool;
	struct sluice_buf *buf;

	CHECK_OK(sluice_pool_new(&pool, &options));
	expect_loan(pool, 0, 64);
	expect_loan(pool, 64, 64);
	expect_loan(pool, 65, 192);
	expect_loan(pool, 192, 192);
	expect_loan(pool, 193, 4160);
	expect_loan(pool, 4160, 4160);
	expect_loan(pool, 4161, 8192);
	CHECK_EQ(sluice_pool_loan(pool, 8193, &buf), -EMSGSIZE);
	CHECK_EQ(sluice_pool_loan(pool, 1ull << 32, &buf), -EMSGSIZE);
	CHECK_EQ(sluice_pool_loan(pool, SIZE_MAX, &buf), -EMSGSIZE);
	sluice_pool_free(pool);
}

/* The limit ---------------------------------------------------------------- */

static const struct limit {
	const char *name;
	uint64_t limit;
	size_t size;
	uint32_t count; /* buffers it allows at least; 0: none ever */
	uint32_t flags;
	uint32_t class; /* the only one, or 0 for the default ones */
} limits[] = {
	{ "one-buffer", 65536, 65536, 1, 0, 0 },
	{ "one-page", 4096, 100, 16, 0, 0 },
	{ "many", 1 << 20, 4096, 250, 0, 0 },
	{ "odd", 10000, 256, 32, 0, 0 },
	{ "odd-large", (1 << 20) + 100, 1000, 1020, 0, 0 },
	{ "odd-class", 3 << 20, 3 << 20, 1, 0, 3 << 20 },
	{ "under-a-page", 1000, 256, 0, 0, 0 },
	{ "under-the-class", 65535, 40000, 0, 0, 0 },
	{ "under-a-huge-page", 1 << 20, 4096, 250, SLUICE_POOL_F_HUGE, 0 },
	{ "odd-huge", 3 << 20, 4096, 700, SLUICE_POOL_F_HUGE, 0 },
	/* As many huge pages as the limit has do not hold one buffer. */
	{ "huge-class", 3 << 20, 3 << 20, 1, SLUICE_POOL_F_HUGE, 3 << 20 },
	{ "huge-class-odd", 7 << 20, 5 << 20, 1, SLUICE_POOL_F_HUGE, 5 << 20 },
	{ "huge-class-two", 11 << 20, 5 << 20, 2, SLUICE_POOL_F_HUGE, 5 << 20 },
};

TAP_EACH(at_the_limit, row, limits)
{
	struct sluice_pool_options options =
		ENDS_POOL(.limit = row->limit, .flags = row->flags,
			  .classes = row->class ? &row->class : NULL,
			  .class_count = row->class != 0);
	struct sluice_buf *bufs[2048], *again;
	struct sluice_pool *pool;
	uint32_t n = 0, i;
	int r;

	CHECK_OK(sluice_pool_new(&pool, &options));
	while ((r = sluice_pool_loan(pool, row->size, &bufs[n])) == 0) {
		content_fill(bufs[n]->data, row->size, n, 0);
		CHECK_LT(++n, 2048);
		CHECK_EQ(info_of(pool).buffers_used, n);
		CHECK_LE(info_of(pool).bytes, row->limit);
	}
	CHECK_EQ(r, row->count ? -EAGAIN : -EMSGSIZE);
	CHECK_GE(n, row->count);
	CHECK_EQ(info_of(pool).buffers, n);
	CHECK_EQ(sluice_pool_loan(pool, row->limit + 1, &again), -EMSGSIZE);
	/* None of them overlaps another. */
	for (i = 0; i < n; i++)
		CHECK(content_matches(bufs[i]->data, row->size, i, 0));
	if (n) {
		sluice_buf_unref(bufs[n / 2]);
		CHECK_OK(sluice_pool_loan(pool, row->size, &again));
		CHECK_EQ(again == bufs[n / 2], 1);
		CHECK_EQ(sluice_pool_loan(pool, row->size, &again), -EAGAIN);
	}
	for (i = 0; i < n; i++)
		sluice_buf_unref(bufs[i]);
	CHECK_EQ(info_of(pool).buffers_used, 0);
	sluice_pool_free(pool);
}

/* Memory that one class does not use goes to another. */
TAP_TEST(classes_share_the_limit)
{
	struct sluice_pool_options options = ENDS_POOL(.limit = 1 << 20);
	struct sluice_buf *buf, *kept;
	struct sluice_pool *pool;
	int i;

	CHECK_OK(sluice_pool_new(&pool, &options));
	for (i = 0; i < 10; i++) {
		CHECK_OK(sluice_pool_loan(pool, 1 << 20, &buf));
		CHECK_EQ(sluice_pool_loan(pool, 300, &kept), -EAGAIN);
		sluice_buf_unref(buf);
		CHECK_OK(sluice_pool_loan(pool, 300, &kept));
		CHECK_EQ(sluice_pool_loan(pool, 1 << 20, &buf), -EAGAIN);
		sluice_buf_unref(kept);
	}
	sluice_pool_free(pool);
}

TAP_TEST(growth)
{
	struct sluice_buf *bufs[2000];
	struct sluice_pool *pool;
	int i, round, mappings = tap_mappings(), fds = tap_open_fds();

	CHECK_OK(sluice_pool_new(&pool, NULL));
	CHECK_EQ(info_of(pool).bytes, 0);
	for (round = 0; round < 3; round++) {
		CHECK_OK(sluice_pool_loan(pool, 4000, &bufs[0]));
		CHECK_LE(info_of(pool).bytes, 65536); /* an idle one is cheap */
		for (i = 1; i < 2000; i++)
			CHECK_OK(sluice_pool_loan(pool, 4000, &bufs[i]));
		CHECK_LE(info_of(pool).segments, 10); /* a busy one has few */
		CHECK_GE(info_of(pool).bytes, 2000 * 4096);
		CHECK_EQ(sluice_pool_trim(pool), 0);
		for (i = 0; i < 2000; i++)
			sluice_buf_unref(bufs[i]);
		CHECK_GE(sluice_pool_trim(pool), 2000 * 4096);
		CHECK_EQ(info_of(pool).bytes, 0);
	}
	CHECK_EQ(tap_open_fds(), fds);
	CHECK_EQ(tap_mappings(), mappings);
	sluice_pool_free(pool);
}

TAP_TEST(references)
{
	struct sluice_conn *conn[2];
	struct sluice_conn_info info;
	struct sluice_pool *pool;
	struct sluice_buf *buf;
	struct sluice_msg msg[3];
	int i;

	ends_pair(conn, NULL, NULL);
	pool = sluice_conn_pool(conn[0]);
	CHECK_OK(sluice_loan(conn[0], 100, &buf));
	CHECK_EQ(info_of(pool).buffers_used, 1);
	memcpy(buf->data, "abc", 3);
	sluice_buf_ref(buf);
	sluice_buf_ref(buf);
	for (i = 0; i < 3; i++) /* the same bytes three times */
		CHECK_OK(sluice_send_buf(conn[0], buf, 3, (uint64_t)i, 0));
	sluice_conn_info(conn[0], &info);
	CHECK_EQ(info.out_buffers, 3);
	for (i = 0; i < 3; i++)
		CHECK_EQ(sluice_recv(conn[1], &msg[i]), 1);
	CHECK_EQ(sluice_msg_data(&msg[0]) == sluice_msg_data(&msg[2]), 1);
	sluice_conn_info(conn[1], &info);
	CHECK_EQ(info.held_buffers, 3);
	for (i = 0; i < 3; i++) {
		sluice_pool_trim(pool);
		CHECK_EQ(info_of(pool).buffers_used, 1);
		CHECK_MEM(sluice_msg_data(&msg[2]), "abc", 3);
		CHECK_OK(sluice_release(conn[1], &msg[i]));
	}
	sluice_pool_trim(pool);
	CHECK_EQ(info_of(pool).buffers_used, 0);
	sluice_conn_info(conn[0], &info);
	CHECK_EQ(info.out_buffers, 0);
	ends_close(conn);
}

/* Limits of others --------------------------------------------------------- */

/* A conn's own pool keeps to it by itself; one that is shared cannot. */
TAP_TEST(map_limit_of_the_peer)
{
	struct sluice_options b = ENDS_OPTIONS(.map_limit = 128 << 10);
	struct sluice_options a = ENDS_OPTIONS();
	struct sluice_conn_info info;
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	struct sluice_buf *buf;
	int i, r;

	ends_pair(conn, &a, &b);
	CHECK_EQ(sluice_loan(conn[0], 1 << 20, &buf), -EMSGSIZE);
	for (i = 0; (r = sluice_loan(conn[0], 32768, &buf)) == 0; i++)
		CHECK_OK(sluice_send_buf(conn[0], buf, 32768, 0, 0));
	CHECK_EQ(r, -EAGAIN);
	CHECK_EQ(i, 4);
	while (sluice_recv(conn[1], &msg) == 1)
		CHECK_OK(sluice_release(conn[1], &msg));
	sluice_conn_info(conn[1], &info);
	CHECK_EQ(info.mapped_bytes, 128 << 10);
	CHECK_EQ(info.error, 0);
	/* In the other direction nothing is limited. */
	CHECK_OK(sluice_loan(conn[1], 1 << 20, &buf));
	CHECK_OK(sluice_send_buf(conn[1], buf, 1 << 20, 0, 0));
	CHECK_EQ(sluice_recv(conn[0], &msg), 1);
	CHECK_EQ(msg.len, 1 << 20);
	ends_close(conn);

	CHECK_OK(sluice_pool_new(&a.pool, NULL));
	ends_pair(conn, &a, &b);
	CHECK_OK(sluice_loan(conn[0], 1 << 20, &buf));
	CHECK_EQ(sluice_send_buf(conn[0], buf, 100, 0, 0), -EMSGSIZE);
	CHECK_EQ(buf->refs, 1);
	sluice_buf_unref(buf);
	CHECK_OK(sluice_loan(conn[0], 1000, &buf)); /* 64 KiB of these */
	content_fill(buf->data, 1000, 1, 0);
	CHECK_OK(sluice_send_buf(conn[0], buf, 1000, 0, 0));
	CHECK_EQ(sluice_recv(conn[1], &msg), 1);
	CHECK(content_matches(sluice_msg_data(&msg), 1000, 1, 0));
	ends_close(conn);
	sluice_pool_free(a.pool);
}

TAP_TEST(map_limit_of_the_process)
{
	struct sluice_conn_info info;
	struct sluice_conn *conn[2], *more[2];
	struct sluice_msg msg;
	char text[5000] = "";

	ends_pair(conn, NULL, NULL);
	sluice_map_limit_set(1 << 20);
	CHECK_OK(sluice_send(conn[0], text, sizeof(text), 0, 0));
	CHECK_EQ(sluice_recv(conn[1], &msg), 1);
	CHECK_OK(sluice_release(conn[1], &msg));
	sluice_map_limit_set(0);
	CHECK_OK(sluice_send(conn[1], text, sizeof(text), 0, 0));
	CHECK_EQ(sluice_recv_wait(conn[0], &msg, 0), -ENOMEM);
	sluice_conn_info(conn[0], &info);
	CHECK_EQ(info.error, -ENOMEM);
	CHECK(strstr(info.error_text, "limit"));
	CHECK_EQ(sluice_send(conn[0], text, 1, 0, 0), -ENOMEM);
	/* The peer is told why. */
	CHECK_EQ(sluice_recv_wait(conn[1], &msg, 0), -EPROTO);
	sluice_conn_info(conn[1], &info);
	CHECK(strstr(info.error_text, "limit"));
	/* Links count, too. */
	CHECK_EQ(sluice_pair(more, NULL), -ENOMEM);
	ends_close(conn);
	sluice_map_limit_set(16ull << 30);
	ends_pair(conn, NULL, NULL);
	ends_close(conn);
}

TAP_TEST(out_of_descriptors)
{
	struct rlimit limit, few = { 0 };
	struct sluice_pool *pool;
	struct sluice_buf *buf;
	int fd;

	CHECK_OK(sluice_pool_new(&pool, NULL));
	CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
	fd = CHECK_SYS(open("/dev/null", O_RDONLY | O_CLOEXEC));
	close(fd);
	few.rlim_cur = (rlim_t)fd;
	few.rlim_max = limit.rlim_max;
	CHECK_SYS(setrlimit(RLIMIT_NOFILE, &few));
	CHECK_EQ(sluice_pool_loan(pool, 100, &buf), -EMFILE);
	CHECK_EQ(info_of(pool).bytes, 0);
	CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
	CHECK_OK(sluice_pool_loan(pool, 100, &buf));
	sluice_buf_unref(buf);
	sluice_pool_free(pool);
}
