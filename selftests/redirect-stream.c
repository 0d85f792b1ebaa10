/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Redirection of STREAM, on the real programs and the real thread, without the
 * rest of sluiced: what is sent arrives, in order, and so do ends; and after the
 * first bytes nothing passes through user space. Limit: 600 s
 */
#include <bpf/libbpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "maps.h"
#include "redirect.h"
#include "redirects.h"
#include "tap.h"

#define GIB (1ull << 30)
#define MIB (1ull << 20)

static struct sockmap sockmap;
static struct redirect *engine;
static int event_fd;

/* A pair, and the ends that the client and the backend have. */
struct link {
	struct redirect_pair *pair;
	struct traffic traffic;
	int client, backend;
};

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

static void start(void)
{
	int r;

	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	libbpf_set_print(quiet);
	r = sockmap_open(&sockmap);
	if (r)
		tap_skip("cannot load the programs: %s", strerror(-r));
	CHECK_OK(maps_grace_init());
	event_fd = CHECK_SYS(eventfd(0, EFD_CLOEXEC));
	CHECK_OK(redirect_start(&engine, &sockmap, event_fd));
}

static void stop(void)
{
	redirect_stop(engine);
	sockmap_close(&sockmap);
	close(event_fd);
}

/* The client's socketpair and the backend's: not given to the engine yet. */
static void prepare(struct link *link, int inner[2], int sndbuf)
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

static void add(struct link *link, int inner[2])
{
	link->pair =
		redirect_add(engine, inner[0], inner[1], &link->traffic, link);
	CHECK(link->pair);
}

static void open_link(struct link *link, int sndbuf)
{
	int inner[2];

	prepare(link, inner, sndbuf);
	add(link, inner);
}

/* The next event, waiting for it. */
static struct redirect_event *next_event(void)
{
	static struct redirect_event *events;
	struct redirect_event *event;
	uint64_t count;

	while (!events) {
		CHECK_EQ(read(event_fd, &count, sizeof(count)),
			 (ssize_t)sizeof(count));
		events = redirect_events(engine);
	}
	event = events;
	events = event->next;
	return event;
}

/* The pair is over: in whatever order several are. */
static void wait_done(int count)
{
	while (count--) {
		struct redirect_event *event = next_event();

		CHECK_EQ(event->end, REDIRECT_DONE);
		redirect_free(event->pair);
	}
}

static void close_link(struct link *link)
{
	close(link->client);
	close(link->backend);
	wait_done(1);
}

static void say(int fd, const char *text)
{
	CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL),
		 (ssize_t)strlen(text));
}

static void hear(int fd, const char *text)
{
	char data[64] = { 0 };
	size_t len = strlen(text);

	CHECK_EQ(recv(fd, data, len, MSG_WAITALL), (ssize_t)len);
	CHECK_MEM(data, text, len);
}

static struct redirect_status status(struct link *link)
{
	struct redirect_status status;

	redirect_read(link->pair, &status);
	return status;
}

static void settle_on(struct link *link)
{
	for (int i = 0; i < 3; i++) {
		say(link->client, "question");
		hear(link->backend, "question");
		say(link->backend, "answer");
		hear(link->client, "answer");
		tap_sleep(1000000);
	}
	CHECK_SOON(status(link).state[0] == REDIRECT_ON);
	CHECK_SOON(status(link).state[1] == REDIRECT_ON);
}

TAP_TEST(answers_go_by_kernel_from_the_first)
{
	struct link link;

	start();
	open_link(&link, 0);
	CHECK_SOON(status(&link).state[1] == REDIRECT_HOLD);
	say(link.client, "question");
	hear(link.backend, "question");
	say(link.backend, "answer");
	hear(link.client, "answer");
	CHECK_EQ(link.traffic.bytes[PAIR_TO_CLIENT], 0);
	CHECK_EQ(status(&link).bytes[PAIR_TO_CLIENT], 6);
	CHECK_EQ(status(&link).state[PAIR_TO_CLIENT], REDIRECT_ON);
	close_link(&link);
	stop();
}

TAP_TEST(nothing_passes_user_space_once_on)
{
	struct link link;
	uint64_t before[2];

	start();
	open_link(&link, 0);
	settle_on(&link);
	before[0] = link.traffic.bytes[0];
	before[1] = link.traffic.bytes[1];
	for (int i = 0; i < 1000; i++) {
		say(link.client, "question");
		hear(link.backend, "question");
		say(link.backend, "answer");
		hear(link.client, "answer");
	}
	CHECK_EQ(link.traffic.bytes[0], before[0]);
	CHECK_EQ(link.traffic.bytes[1], before[1]);
	CHECK_GE(status(&link).bytes[0], 8000);
	CHECK_GE(status(&link).bytes[1], 6000);
	close_link(&link);
	stop();
}

static const struct transfer {
	const char *name;
	uint64_t to_backend, to_client;
	size_t piece;
	unsigned int send_us, receive_us;
	int sndbuf;
	bool moved; /* most of it goes by kernel */
} transfers[] = {
	{ "1GiB-to-backend", GIB, 1, 65536, 0, 0, 0, true },
	{ "1GiB-to-client", 1, GIB, 65536, 0, 0, 0, true },
	{ "1GiB-each-way", GIB, GIB, 65536, 0, 0, 0, true },
	{ "large-writes", 256 * MIB, 256 * MIB, 4 * MIB, 0, 0, 0, true },
	{ "small-writes", 8 * MIB, 8 * MIB, 100, 0, 0, 0, false },
	{ "slow-reader", 8 * MIB, 8 * MIB, 65536, 0, 1000, 0, true },
	{ "slow-sender", 4 * MIB, 4 * MIB, 20000, 1000, 0, 0, false },
	{ "tiny-sndbuf", 64 * MIB, 64 * MIB, 65536, 0, 0, 1, true },
	{ "tiny-sndbuf-slow", 2 * MIB, 2 * MIB, 20000, 0, 500, 1, true },
};

TAP_EACH(transfer, t, transfers)
{
	struct link link;

	tap_limit(240);
	start();
	open_link(&link, t->sndbuf);
	struct stream streams[] = {
		{ link.client, 1, t->to_backend, t->piece, t->send_us, true },
		{ link.backend, 2, t->to_client, t->piece, t->send_us, true },
		{ link.backend, 1, t->to_backend, t->piece, t->receive_us,
		  true },
		{ link.client, 2, t->to_client, t->piece, t->receive_us, true },
	};

	for (int i = 0; i < 4; i++)
		(i < 2 ? redirects_send : redirects_receive)(&streams[i]);
	for (int i = 0; i < 4; i++)
		redirects_join(&streams[i]);
	wait_done(1);
	tap_diag("through user space: %llu of %llu, %llu of %llu bytes",
		 (unsigned long long)link.traffic.bytes[0],
		 (unsigned long long)t->to_backend,
		 (unsigned long long)link.traffic.bytes[1],
		 (unsigned long long)t->to_client);
	if (t->moved) {
		CHECK_LE(link.traffic.bytes[0], t->to_backend / 2 + MIB);
		CHECK_LE(link.traffic.bytes[1], t->to_client / 2 + MIB);
	}
	close(link.client);
	close(link.backend);
	stop();
}
