/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What the tests of redirection share; redirects.h says what. */
#include "redirects.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "maps.h"
#include "tap.h"

struct sockmap redirects_sockmap;
struct redirect *redirects_engine;
static int event_fd;

static int quiet(enum libbpf_print_level level, const char *format,
		 va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

void redirects_start(void)
{
	int r;

	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	libbpf_set_print(quiet);
	r = sockmap_open(&redirects_sockmap);
	if (r)
		tap_skip("cannot load the programs: %s", strerror(-r));
	CHECK_OK(maps_grace_init());
	event_fd = CHECK_SYS(eventfd(0, EFD_CLOEXEC));
	CHECK_OK(redirect_start(&redirects_engine, &redirects_sockmap,
				event_fd));
}

void redirects_stop(void)
{
	uint64_t key;

	redirect_stop(redirects_engine);
	CHECK(bpf_map_get_next_key(redirects_sockmap.flow_of, NULL, &key));
	CHECK(bpf_map_get_next_key(redirects_sockmap.sources, NULL, &key));
	CHECK(bpf_map_get_next_key(redirects_sockmap.targets, NULL, &key));
	sockmap_close(&redirects_sockmap);
	close(event_fd);
}

void redirects_prepare(struct link *link, int inner[2], int sndbuf)
{
	int client[2], backend[2];

	CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, client));
	CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, backend));
	*link = (struct link){ .client = client[0], .backend = backend[0] };
	inner[0] = client[1];
	inner[1] = backend[1];
	for (int i = 0; sndbuf && i < 2; i++) {
		CHECK_SYS(setsockopt(client[i], SOL_SOCKET, SO_SNDBUF, &sndbuf,
				     sizeof(sndbuf)));
		CHECK_SYS(setsockopt(backend[i], SOL_SOCKET, SO_SNDBUF, &sndbuf,
				     sizeof(sndbuf)));
	}
}

void redirects_add(struct link *link, int inner[2])
{
	link->pair = redirect_add(redirects_engine, inner[0], inner[1],
				  &link->traffic, link);
	CHECK(link->pair);
}

void redirects_open(struct link *link, int sndbuf)
{
	int inner[2];

	redirects_prepare(link, inner, sndbuf);
	redirects_add(link, inner);
}

struct redirect_event *redirects_event(void)
{
	static struct redirect_event *events;
	struct redirect_event *event;
	uint64_t count;

	while (!events) {
		CHECK_EQ(read(event_fd, &count, sizeof(count)),
			 (ssize_t)sizeof(count));
		events = redirect_events(redirects_engine);
	}
	event = events;
	events = event->next;
	return event;
}

void redirects_done(int count)
{
	while (count--) {
		struct redirect_event *event = redirects_event();

		CHECK_EQ(event->end, REDIRECT_DONE);
		redirect_free(event->pair);
	}
}

void redirects_close(struct link *link)
{
	close(link->client);
	close(link->backend);
	redirects_done(1);
}

void redirects_say(int fd, const char *text)
{
	CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL),
		 (ssize_t)strlen(text));
}

void redirects_hear(int fd, const char *text)
{
	char data[64] = { 0 };
	size_t len = strlen(text);

	CHECK_EQ(recv(fd, data, len, MSG_WAITALL), (ssize_t)len);
	CHECK_MEM(data, text, len);
}

struct redirect_status redirects_status(const struct link *link)
{
	struct redirect_status status;

	redirect_read(link->pair, &status);
	return status;
}

void redirects_talk(struct link *link)
{
	struct redirect_status status;
	int round = 0;

	/* it is in the exchange of messages that flows move */
	do {
		redirects_say(link->client, "question");
		redirects_hear(link->backend, "question");
		redirects_say(link->backend, "answer");
		redirects_hear(link->client, "answer");
		tap_sleep(round % 4 ? 1000000 : 30000000);
		status = redirects_status(link);
		CHECK_LT(round++, 500);
	} while (status.state[0] != REDIRECT_ON ||
		 status.state[1] != REDIRECT_ON);
}

void redirects_hear_end(int fd)
{
	char byte;

	CHECK_EQ(CHECK_SYS(recv(fd, &byte, 1, 0)), 0);
}

/* Streams ----------------------------------------------------------------- */

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

static void run_stream(struct stream *stream, void *(*run)(void *))
{
	CHECK_EQ(pthread_create(&stream->thread, NULL, run, stream), 0);
}

void redirects_send(struct stream *stream)
{
	run_stream(stream, send_stream);
}

void redirects_receive(struct stream *stream)
{
	run_stream(stream, receive_stream);
}

void redirects_join(struct stream *stream)
{
	CHECK_EQ(pthread_join(stream->thread, NULL), 0);
}
