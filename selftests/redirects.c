/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What the tests of redirection share; redirects.h says what. */
#include "redirects.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tap.h"

static uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x7fb5d329728ea185ull;
	return x ^ x >> 29;
}

static uint64_t word(uint64_t key, uint64_t at)
{
	return mix(key * 0x9e3779b97f4a7c15ull + at / 8);
}

void redirects_fill(void *data, size_t len, uint64_t key, uint64_t at)
{
	unsigned char *to = data;
	uint64_t x;
	size_t n;

	for (; len; to += n, at += n, len -= n) {
		x = word(key, at);
		n = 8 - at % 8;
		n = n < len ? n : len;
		memcpy(to, (unsigned char *)&x + at % 8, n);
	}
}

void redirects_check(const void *data, size_t len, uint64_t key, uint64_t at)
{
	const unsigned char *from = data;
	uint64_t x;
	size_t n;

	for (; len; from += n, at += n, len -= n) {
		x = word(key, at);
		n = 8 - at % 8;
		n = n < len ? n : len;
		if (memcmp(from, (unsigned char *)&x + at % 8, n))
			TAP_FAIL("stream %llu differs at byte %llu",
				 (unsigned long long)key,
				 (unsigned long long)at);
	}
}

static size_t piece(const struct stream *stream, unsigned int *seed,
		    uint64_t left)
{
	size_t len = stream->piece;

	if (rand_r(seed) % 4 == 0)
		len = 1 + (size_t)rand_r(seed) % len;
	return len < left ? len : left;
}

static void rest(const struct stream *stream, unsigned int *seed)
{
	if (stream->pause_us)
		usleep((unsigned int)rand_r(seed) % stream->pause_us);
}

static void *send_stream(void *arg)
{
	struct stream *stream = arg;
	unsigned int seed = (unsigned int)stream->key;
	unsigned char *data = CHECK_SYS(malloc(stream->piece) ?: (void *)-1);
	uint64_t at = 0;

	while (at < stream->bytes) {
		size_t len = piece(stream, &seed, stream->bytes - at);
		size_t sent = 0;

		redirects_fill(data, len, stream->key, at);
		while (sent < len)
			sent += (size_t)CHECK_SYS(send(stream->fd, data + sent,
						       len - sent,
						       MSG_NOSIGNAL));
		at += len;
		rest(stream, &seed);
	}
	if (stream->end)
		CHECK_SYS(shutdown(stream->fd, SHUT_WR));
	free(data);
	return NULL;
}

static void *receive_stream(void *arg)
{
	struct stream *stream = arg;
	unsigned int seed = ~(unsigned int)stream->key;
	unsigned char *data = CHECK_SYS(malloc(stream->piece) ?: (void *)-1);
	uint64_t at = 0;

	while (at < stream->bytes) {
		size_t len = piece(stream, &seed, stream->bytes - at);
		ssize_t n = CHECK_SYS(recv(stream->fd, data, len, 0));

		if (!n)
			TAP_FAIL("stream %llu ended at byte %llu of %llu",
				 (unsigned long long)stream->key,
				 (unsigned long long)at,
				 (unsigned long long)stream->bytes);
		redirects_check(data, (size_t)n, stream->key, at);
		at += (uint64_t)n;
		rest(stream, &seed);
	}
	if (stream->end)
		CHECK_EQ(CHECK_SYS(recv(stream->fd, data, 1, 0)), 0);
	free(data);
	return NULL;
}

static void start(struct stream *stream, void *(*run)(void *))
{
	CHECK_EQ(pthread_create(&stream->thread, NULL, run, stream), 0);
}

void redirects_send(struct stream *stream)
{
	start(stream, send_stream);
}

void redirects_receive(struct stream *stream)
{
	start(stream, receive_stream);
}

void redirects_join(struct stream *stream)
{
	CHECK_EQ(pthread_join(stream->thread, NULL), 0);
}
