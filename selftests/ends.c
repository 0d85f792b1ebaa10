/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* See ends.h. A stream's messages follow from its key and their index alone. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ends.h"

static struct sluice_options aware(const struct sluice_options *options)
{
	struct sluice_options o = options ? *options : ENDS_OPTIONS();

	o.flags |= SLUICE_F_AWARE;
	return o;
}

/* Reads what the negotiation left on the socket; there is no message yet. */
static bool settled(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
	sluice_conn_info(conn, &info);
	return info.rx_reason != SLUICE_REASON_UNDECIDED &&
	       info.rx_reason != SLUICE_REASON_STARTING;
}

void ends_pair(struct sluice_conn *conn[2], const struct sluice_options *a,
	       const struct sluice_options *b)
{
	struct sluice_options options[2] = { aware(a), aware(b ? b : a) };
	int fds[2], i;

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	for (i = 0; i < 2; i++)
		CHECK_OK(sluice_conn_from_fd(&conn[i], fds[i], &options[i]));
	/* The first look at 0 makes it answer; then both can settle. */
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK(settled(conn[1]));
	CHECK(settled(conn[0]));
}

void ends_close(struct sluice_conn *conn[2])
{
	sluice_conn_close(conn[0]);
	sluice_conn_close(conn[1]);
}

pid_t ends_fork(struct sluice_conn **conn, const struct sluice_options *mine,
		const struct sluice_options *childs,
		void (*run)(struct sluice_conn *conn, void *arg), void *arg)
{
	struct sluice_options options = aware(mine);
	struct sluice_conn *end;
	int fds[2];
	pid_t pid;

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	pid = tap_fork();
	if (!pid) {
		close(fds[0]);
		tap_random_stream(1);
		options = aware(childs);
		CHECK_OK(sluice_conn_from_fd(&end, fds[1], &options));
		run(end, arg);
		sluice_conn_close(end);
		exit(0);
	}
	close(fds[1]);
	CHECK_OK(sluice_conn_from_fd(conn, fds[0], &options));
	return pid;
}

void ends_expect_eof(struct sluice_conn *conn)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, 10000000000ll * tap_slow), 0);
}

/* Contents ----------------------------------------------------------------- */

/* Number n of a sequence (splitmix64). */
static uint64_t number(uint64_t key, uint64_t n)
{
	uint64_t z = key + (n + 1) * 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

void content_fill(void *data, size_t len, uint64_t key, uint64_t offset)
{
	uint8_t *to = data;

	while (len) {
		uint64_t word = number(key, offset / 8);
		size_t skip = offset % 8;
		size_t part = len < 8 - skip ? len : 8 - skip;

		memcpy(to, (uint8_t *)&word + skip, part);
		to += part;
		offset += part;
		len -= part;
	}
}

bool content_matches(const void *data, size_t len, uint64_t key,
		     uint64_t offset)
{
	const uint8_t *from = data;

	while (len) {
		uint64_t word = number(key, offset / 8);
		size_t skip = offset % 8;
		size_t part = len < 8 - skip ? len : 8 - skip;

		if (memcmp(from, (uint8_t *)&word + skip, part))
			return false;
		from += part;
		offset += part;
		len -= part;
	}
	return true;
}

/* Streams ------------------------------------------------------------------ */

uint64_t stream_key(const struct stream *stream, uint64_t index)
{
	return number(stream->key, index * 4);
}

uint64_t stream_tag(const struct stream *stream, uint64_t index)
{
	return number(stream->key, index * 4 + 1);
}

uint32_t stream_len(const struct stream *stream, uint64_t index)
{
	uint64_t chance = number(stream->key, index * 4 + 2);
	uint64_t pick = chance >> 8, len;

	switch (chance & 15) {
	case 0:
		len = pick & 1;
		break;
	case 1 ... 4:
		len = 31 + pick % 3;
		break;
	case 5 ... 8:
		len = pick % 65;
		break;
	case 9 ... 14:
		len = pick % 4097;
		break;
	default:
		len = pick % (stream->max_len + 1ull);
	}
	return (uint32_t)(len < stream->max_len ? len : stream->max_len);
}

int stream_send(struct sluice_conn *conn, struct stream *stream, uint32_t flags)
{
	uint32_t len = stream_len(stream, stream->next);
	uint64_t tag = stream_tag(stream, stream->next);
	uint64_t key = stream_key(stream, stream->next);
	uint8_t copy[4096];
	struct sluice_buf *buf;
	int r;

	if (len <= sizeof(copy) && key & 1) {
		content_fill(copy, len, key, 0);
		r = sluice_send(conn, copy, len, tag, flags);
	} else {
		r = sluice_loan(conn, len, &buf);
		if (!r) {
			CHECK_GE(buf->capacity, len);
			content_fill(buf->data, len, key, 0);
			r = sluice_send_buf(conn, buf, len, tag, flags);
			if (r)
				sluice_buf_unref(buf);
		}
	}
	if (r != -EAGAIN)
		CHECK_OK(r);
	stream->next += !r;
	return r;
}

void stream_check(struct stream *stream, const struct sluice_msg *msg)
{
	uint32_t len = stream_len(stream, stream->next);

	if (msg->tag != stream_tag(stream, stream->next))
		TAP_FAIL("message %llu has a wrong tag",
			 (unsigned long long)stream->next);
	CHECK_LE(stream->at + msg->len, len);
	if (!content_matches(sluice_msg_data(msg), msg->len,
			     stream_key(stream, stream->next), stream->at))
		TAP_FAIL("message %llu of %u bytes: wrong bytes in the %u "
			 "from %llu",
			 (unsigned long long)stream->next, len, msg->len,
			 (unsigned long long)stream->at);
	stream->at += msg->len;
	if (msg->flags & SLUICE_MSG_F_MORE)
		return;
	CHECK_EQ(stream->at, len);
	stream->at = 0;
	stream->next++;
}

void holds_release_one(struct sluice_conn *conn, struct holds *holds)
{
	uint64_t i = tap_random_below(holds->count);
	const struct sluice_msg *msg = &holds->held[i].msg;

	if (!content_matches(sluice_msg_data(msg), msg->len, holds->held[i].key,
			     holds->held[i].offset))
		TAP_FAIL("a view of %u bytes changed while it was held",
			 msg->len);
	CHECK_OK(sluice_release(conn, msg));
	holds->held[i] = holds->held[--holds->count];
}

void holds_release_all(struct sluice_conn *conn, struct holds *holds)
{
	while (holds->count)
		holds_release_one(conn, holds);
}

int stream_recv(struct sluice_conn *conn, struct stream *stream,
		struct holds *holds)
{
	uint64_t key = stream_key(stream, stream->next), at = stream->at;
	struct sluice_msg msg;
	int r;

	r = sluice_recv(conn, &msg);
	if (r == -EAGAIN)
		return r;
	CHECK_EQ(r, 1);
	stream_check(stream, &msg);
	if (!holds || !holds->limit) {
		CHECK_OK(sluice_release(conn, &msg));
		return 1;
	}
	CHECK_LE(holds->limit, HOLDS_MAX);
	if (holds->count == holds->limit)
		holds_release_one(conn, holds);
	holds->held[holds->count].msg = msg;
	holds->held[holds->count].key = key;
	holds->held[holds->count++].offset = at;
	return 1;
}

void streams_run(struct sluice_conn *conn, struct stream *tx, uint64_t tx_end,
		 struct stream *rx, uint64_t rx_end, struct holds *holds,
		 void (*each)(struct sluice_conn *conn, void *arg), void *arg)
{
	bool sending, receiving;

	for (;;) {
		uint32_t what = 0;

		sending = tx && tx->next < tx_end;
		receiving = rx && rx->next < rx_end;
		if (!sending && !receiving)
			break;
		if (receiving) {
			if (stream_recv(conn, rx, holds) == -EAGAIN)
				what |= SLUICE_RECV;
			else if (each)
				each(conn, arg);
		}
		if (sending) {
			if (stream_send(conn, tx, 0) == -EAGAIN)
				what |= SLUICE_SEND;
			else if (each)
				each(conn, arg);
		}
		if (what == (sending * SLUICE_SEND | receiving * SLUICE_RECV))
			CHECK_OK(sluice_wait(conn, what, -1));
	}
	if (holds)
		holds_release_all(conn, holds);
}
