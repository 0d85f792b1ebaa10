/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* See life.h. Nothing here keeps state. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "life.h"

#define WAIT_NS (20000000000ll * tap_slow)
#define PARTS_MAX 5

void life_choose(struct sluice_conn *conn, const struct lane *lane)
{
	int r;

	if (!lane->queued)
		return;
	while ((r = sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, WAIT_NS));
	CHECK_EQ(r, 0);
}

void life_pair(struct sluice_conn *conn[2], const struct lane *lane)
{
	ends_pair(conn, &ENDS_OPTIONS(.flags = lane->flags), NULL);
	life_choose(conn[0], lane);
	life_choose(conn[1], lane);
}

static enum form form_by_key(uint64_t key, uint32_t len)
{
	if (key & 1 && len <= 4096)
		return FORM_INLINE;
	return key & 6 ? FORM_BUFFER : FORM_SCATTER;
}

/* Sends parts of one buffer that follow each other; takes over its reference. */
static int send_scattered(struct sluice_conn *conn, struct sluice_buf *buf,
			  uint32_t len, uint64_t tag, uint64_t key,
			  uint32_t flags)
{
	struct sluice_part parts[PARTS_MAX];
	unsigned int count = 1 + key / 8 % PARTS_MAX, i;
	uint32_t at = 0;
	int r;

	for (i = 0; i < count; i++) {
		uint32_t left = len - at;

		parts[i].buf = buf;
		parts[i].offset = at;
		parts[i].len = i + 1 == count ?
				       left :
				       (key >> (8 + i * 8)) % (left + 1ull);
		at += parts[i].len;
		if (i)
			sluice_buf_ref(buf);
	}
	r = sluice_send_parts(conn, parts, count, tag, flags);
	for (i = 1; r && i < count; i++)
		sluice_buf_unref(buf);
	return r;
}

int life_send(struct sluice_conn *conn, struct stream *tx, enum form form,
	      uint32_t flags)
{
	uint32_t len = stream_len(tx, tx->next);
	uint64_t tag = stream_tag(tx, tx->next);
	uint64_t key = stream_key(tx, tx->next);
	uint8_t copy[4096];
	struct sluice_buf *buf;
	int r;

	if (form == FORM_MIXED)
		form = form_by_key(key, len);
	if (form == FORM_INLINE && len <= sizeof(copy)) {
		content_fill(copy, len, key, 0);
		r = sluice_send(conn, copy, len, tag, flags);
		tx->next += !r;
		return r;
	}
	r = sluice_loan(conn, len, &buf);
	if (r)
		return r;
	content_fill(buf->data, len, key, 0);
	r = form == FORM_SCATTER ?
		    send_scattered(conn, buf, len, tag, key, flags) :
		    sluice_send_buf(conn, buf, len, tag, flags);
	if (r)
		sluice_buf_unref(buf);
	tx->next += !r;
	return r;
}

void life_send_all(struct sluice_conn *conn, struct stream *tx, uint64_t end,
		   enum form form)
{
	int r;

	while (tx->next < end) {
		r = life_send(conn, tx, form, 0);
		if (r == -EAGAIN)
			r = sluice_wait(conn, SLUICE_SEND, WAIT_NS);
		CHECK_OK(r);
	}
}

int life_recv(struct sluice_conn *conn, struct stream *rx, struct holds *holds)
{
	uint64_t key = stream_key(rx, rx->next), at = rx->at;
	struct sluice_msg msg;
	int r;

	r = sluice_recv(conn, &msg);
	if (r != 1)
		return r;
	stream_check(rx, &msg);
	if (!holds || !holds->limit) {
		CHECK_OK(sluice_release(conn, &msg));
		return 1;
	}
	if (holds->count == holds->limit)
		holds_release_one(conn, holds);
	holds->held[holds->count].msg = msg;
	holds->held[holds->count].key = key;
	holds->held[holds->count++].offset = at;
	return 1;
}

int life_drain(struct sluice_conn *conn, struct stream *rx, struct holds *holds)
{
	int r;

	for (;;) {
		r = life_recv(conn, rx, holds);
		if (r == -EAGAIN)
			CHECK_OK(sluice_wait(conn, SLUICE_RECV, WAIT_NS));
		else if (r != 1)
			return r;
	}
}

int life_receive_some(struct sluice_conn *conn, struct side *side)
{
	uint64_t count = tap_random_below(LIFE_BURST);
	int r = 1;

	while (r == 1 && count--)
		r = life_recv(conn, &side->rx, &side->holds);
	return r;
}

int life_send_some(struct sluice_conn *conn, struct side *side)
{
	uint64_t count = tap_random_below(LIFE_BURST);
	bool batch = tap_random() & 1;
	uint64_t left;
	int r;

	if (side->tx.next >= side->tx_end)
		return 0;
	left = side->tx_end - side->tx.next;
	for (count = count < left ? count : left; count--;) {
		bool more = batch && count;

		r = life_send(conn, &side->tx, FORM_MIXED,
			      more ? SLUICE_SEND_F_BATCH : 0);
		if (r)
			return r;
		if (side->sent && !more)
			*side->sent = side->tx.next;
	}
	return 1;
}

void life_stream_both(struct sluice_conn *conn, uint64_t key)
{
	struct stream tx = { .key = key, .max_len = 30000 }, rx = tx;
	struct holds holds = { .limit = 30 };

	streams_run(conn, &tx, 1000, &rx, 1000, &holds, NULL, NULL);
	CHECK_EQ(sluice_conn_shutdown(conn), 0);
	ends_expect_eof(conn);
}

uint32_t life_used(struct sluice_conn *conn)
{
	struct sluice_pool_info info;

	/* The wait looks at the socket, the trim for releases. */
	sluice_wait(conn, SLUICE_RECV | SLUICE_SEND, 0);
	CHECK_OK(sluice_pool_trim(sluice_conn_pool(conn)));
	sluice_pool_info(sluice_conn_pool(conn), &info);
	return info.buffers_used;
}

int life_memfds(void)
{
	char line[PATH_MAX + 128], path[PATH_MAX];
	struct dirent *entry;
	int count = 0;
	FILE *maps;
	DIR *dir;

	maps = fopen("/proc/self/maps", "re");
	if (!maps)
		TAP_FAIL("/proc/self/maps: %s", strerror(errno));
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "/memfd:sluice-") != NULL;
	fclose(maps);
	dir = opendir("/proc/self/fd");
	if (!dir)
		TAP_FAIL("/proc/self/fd: %s", strerror(errno));
	while ((entry = readdir(dir))) {
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, path,
					 sizeof(path) - 1);

		path[len > 0 ? len : 0] = 0;
		count += strstr(path, "/memfd:sluice-") != NULL;
	}
	closedir(dir);
	return count;
}

void *life_shared(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED);
	return page;
}

const char *life_name(void)
{
	static char name[64];

	snprintf(name, sizeof(name), "@sluice-test-%d-%llx", getpid(),
		 (unsigned long long)tap_now());
	return name;
}
