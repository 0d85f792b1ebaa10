/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * How redirected connections begin and end: data that was there before, each kind
 * of end from each side, backends that go before they began, and many at once.
 */
#include <bpf/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "redirects.h"
#include "tap.h"

#define PAIRS 200

/* Beginning --------------------------------------------------------------- */

static const struct early {
	const char *name;
	size_t client, backend; /* bytes that are there before */
} earlies[] = {
	{ "request", 100, 0 },
	{ "greeting", 0, 100 },
	{ "both", 5000, 5000 },
	{ "full-queues", 150000, 150000 },
};

TAP_EACH(early_data_comes_first, early, earlies)
{
	struct link link;
	int inner[2];
	unsigned char *data = malloc(MIB);

	redirects_start();
	redirects_prepare(&link, inner, 0);
	redirects_fill(data, MIB, 1, 0);
	CHECK_EQ(send(link.client, data, early->client, 0),
		 (ssize_t)early->client);
	redirects_fill(data, MIB, 2, 0);
	CHECK_EQ(send(link.backend, data, early->backend, 0),
		 (ssize_t)early->backend);
	redirects_add(&link, inner);
	struct stream streams[] = {
		{ .fd = link.backend, .key = 1, .bytes = MIB, .piece = 9000 },
		{ .fd = link.client, .key = 2, .bytes = MIB, .piece = 9000 },
	};
	redirects_receive(&streams[0]);
	redirects_receive(&streams[1]);
	for (uint64_t at = early->client; at < MIB;) {
		size_t len = at + 7777 < MIB ? 7777 : MIB - at;

		redirects_fill(data, len, 1, at);
		CHECK_EQ(send(link.client, data, len, 0), (ssize_t)len);
		at += len;
	}
	for (uint64_t at = early->backend; at < MIB;) {
		size_t len = at + 7777 < MIB ? 7777 : MIB - at;

		redirects_fill(data, len, 2, at);
		CHECK_EQ(send(link.backend, data, len, 0), (ssize_t)len);
		at += len;
	}
	redirects_join(&streams[0]);
	redirects_join(&streams[1]);
	redirects_talk(&link);
	redirects_close(&link);
	redirects_stop();
	free(data);
}

/* Ending ------------------------------------------------------------------ */

/* What is queued for a slow reader arrives after its sender is gone. */
/*
 * A connect that waits to be accepted is charged to the server; all that it says
 * afterwards goes by kernel nevertheless.
 */
TAP_TEST(server_accepts_late)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(name);
	struct link link;
	int inner[2], listener;

	redirects_start();
	redirects_prepare(&link, inner, 0);
	close(link.backend);
	close(inner[1]);
	listener = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM, 0));
	CHECK_SYS(
		bind(listener, (struct sockaddr *)&name, sizeof(sa_family_t)));
	CHECK_SYS(getsockname(listener, (struct sockaddr *)&name, &len));
	CHECK_SYS(listen(listener, 1));
	inner[1] = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM, 0));
	CHECK_SYS(connect(inner[1], (struct sockaddr *)&name, len));
	redirects_say(link.client, "question");
	redirects_add(&link, inner);
	CHECK_SOON(link.traffic.bytes[PAIR_TO_BACKEND] == 8);
	CHECK_EQ(redirects_status(&link).state[PAIR_TO_CLIENT], REDIRECT_RELAY);
	link.backend = CHECK_SYS(accept(listener, NULL, NULL));
	CHECK_SOON(redirects_status(&link).state[PAIR_TO_CLIENT] ==
		   REDIRECT_HOLD);
	redirects_hear(link.backend, "question");
	redirects_say(link.backend, "answer");
	redirects_hear(link.client, "answer");
	CHECK_EQ(link.traffic.bytes[PAIR_TO_CLIENT], 0);
	close(listener);
	redirects_close(&link);
	redirects_stop();
}

TAP_TEST(what_was_sent_before_close_arrives)
{
	struct stream stream = { .key = 1,
				 .bytes = MIB,
				 .piece = 4096,
				 .pause_us = 200,
				 .end = true };
	unsigned char *data = malloc(MIB);
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	redirects_talk(&link);
	redirects_fill(data, MIB, 1, 0);
	CHECK_EQ(send(link.client, data, MIB, 0), (ssize_t)MIB);
	CHECK_SYS(close(link.client));
	stream.fd = link.backend;
	redirects_receive(&stream);
	redirects_join(&stream);
	close(link.backend);
	redirects_done(1);
	redirects_stop();
	free(data);
}

TAP_TEST(client_closes)
{
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	redirects_talk(&link);
	close(link.client);
	redirects_hear_end(link.backend);
	CHECK_SOON(send(link.backend, "x", 1, MSG_NOSIGNAL) < 0);
	CHECK_EQ(errno, EPIPE);
	redirects_done(1);
	close(link.backend);
	redirects_stop();
}

TAP_TEST(backend_closes)
{
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	redirects_talk(&link);
	close(link.backend);
	redirects_hear_end(link.client);
	CHECK_SOON(send(link.client, "x", 1, MSG_NOSIGNAL) < 0);
	CHECK_EQ(errno, EPIPE);
	redirects_done(1);
	close(link.client);
	redirects_stop();
}

/* In the middle of a stream to it: its sender learns, and is not kept waiting. */
TAP_TEST(receiver_closes_under_a_stream)
{
	static char data[100000];
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	redirects_talk(&link);
	for (int i = 0; i < 100; i++)
		CHECK_SYS(send(link.client, data, sizeof(data),
			       MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
					  errno != EAGAIN ?
				  -1 :
				  0);
	close(link.backend);
	while (send(link.client, data, sizeof(data), MSG_NOSIGNAL) > 0)
		;
	CHECK(errno == EPIPE || errno == ECONNRESET);
	redirects_done(1);
	close(link.client);
	redirects_stop();
}

/* The end of one way leaves the other as it is, if nothing was on its way. */
static const struct side_row {
	const char *name;
	bool backend;
} sides[] = { { "client", false }, { "backend", true } };

TAP_EACH(half_close, side, sides)
{
	struct link link;
	int from, to;

	redirects_start();
	redirects_open(&link, 0);
	redirects_talk(&link);
	from = side->backend ? link.backend : link.client;
	to = side->backend ? link.client : link.backend;
	redirects_say(from, "last words");
	CHECK_SYS(shutdown(from, SHUT_WR));
	redirects_hear(to, "last words");
	redirects_hear_end(to);
	for (int i = 0; i < 100; i++) {
		redirects_say(to, "an answer");
		redirects_hear(from, "an answer");
	}
	CHECK_SYS(shutdown(to, SHUT_WR));
	redirects_hear_end(from);
	redirects_done(1);
	close(from);
	close(to);
	redirects_stop();
}

/*
 * Mainline drops what is on its way inside the kernel to whoever calls shutdown():
 * that must not look like a proper end of the stream. If this fails because
 * everything arrives, the kernel has changed, and half-close needs no care.
 */
TAP_TEST(half_close_under_a_stream_is_cut)
{
	static char data[100000];
	struct redirect_event *event;
	struct link link;
	size_t sent = 0, got = 0;
	ssize_t n;

	redirects_start();
	redirects_open(&link, 0);
	redirects_talk(&link);
	for (int full = 0; full < 20;) { /* ms without room */
		n = send(link.backend, data, sizeof(data),
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		sent += n > 0 ? (size_t)n : 0;
		full = n > 0 ? 0 : full + 1;
		if (n < 0)
			tap_sleep(1000000);
	}
	CHECK_SYS(shutdown(link.client, SHUT_WR));
	event = redirects_event();
	CHECK_EQ(event->end, REDIRECT_DONE);
	redirect_free(event->pair);
	while ((n = recv(link.client, data, sizeof(data), 0)) > 0)
		got += (size_t)n;
	tap_diag("sent %zu, received %zu", sent, got);
	CHECK_LT(got, sent);
	CHECK_LT(send(link.backend, data, 1, MSG_NOSIGNAL), 0);
	close(link.client);
	close(link.backend);
	redirects_stop();
}

TAP_TEST(dropped)
{
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	redirects_talk(&link);
	redirect_drop(link.pair);
	redirect_drop(link.pair);
	redirects_done(1);
	redirects_hear_end(link.client);
	redirects_hear_end(link.backend);
	close(link.client);
	close(link.backend);
	redirects_stop();
}

/* Backends that had not begun ---------------------------------------------- */

static void replace_backend(struct link *link)
{
	struct redirect_event *event = redirects_event();
	int backend[2];

	CHECK_EQ(event->end, REDIRECT_UNBEGUN);
	CHECK(event->pair == link->pair);
	CHECK(event->owner == link);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, backend));
	link->backend = backend[0];
	redirect_resume(link->pair, backend[1]);
}

TAP_TEST(unbegun_backend_is_replaced)
{
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	redirects_say(link.client, "request");
	for (int i = 0; i < 3; i++) {
		char byte;

		/* it is there, and goes unread */
		CHECK_EQ(recv(link.backend, &byte, 1, MSG_PEEK), 1);
		close(link.backend);
		replace_backend(&link);
	}
	redirects_hear(link.backend, "request");
	redirects_say(link.backend, "reply");
	redirects_hear(link.client, "reply");
	redirects_talk(&link);
	redirects_close(&link);
	redirects_stop();
}

TAP_TEST(backend_that_began_is_not_replaced)
{
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	redirects_say(link.client, "request");
	redirects_hear(link.backend, "request");
	redirects_say(link.backend, "reply");
	redirects_hear(link.client, "reply");
	redirects_say(link.client, "another");
	CHECK_EQ(recv(link.backend, (char[1]){ 0 }, 1, MSG_PEEK), 1);
	close(link.backend);
	redirects_hear_end(link.client);
	redirects_done(1);
	close(link.client);
	redirects_stop();
}

TAP_TEST(unbegun_pair_is_dropped)
{
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	redirects_say(link.client, "request");
	CHECK_EQ(recv(link.backend, (char[1]){ 0 }, 1, MSG_PEEK), 1);
	close(link.backend);
	CHECK_EQ(redirects_event()->end, REDIRECT_UNBEGUN);
	redirect_drop(link.pair);
	redirects_done(1);
	CHECK_LT(send(link.client, "x", 1, MSG_NOSIGNAL), 0);
	close(link.client);
	redirects_stop();
}

/* Many -------------------------------------------------------------------- */

TAP_TEST(many_pairs)
{
	static struct link links[PAIRS];
	static struct stream streams[PAIRS][2];

	tap_limit(120);
	redirects_start();
	for (int i = 0; i < PAIRS; i++)
		redirects_open(&links[i], 0);
	for (int i = 0; i < PAIRS; i++) {
		streams[i][0] = (struct stream){ .fd = links[i].client,
						 .key = (uint64_t)i,
						 .bytes = MIB,
						 .piece = 20000 };
		streams[i][1] = streams[i][0];
		streams[i][1].fd = links[i].backend;
		redirects_send(&streams[i][0]);
		redirects_receive(&streams[i][1]);
	}
	for (int i = 0; i < PAIRS; i++) {
		redirects_join(&streams[i][0]);
		redirects_join(&streams[i][1]);
	}
	for (int i = 0; i < PAIRS; i++)
		redirects_talk(&links[i]);
	for (int i = 0; i < PAIRS; i++) {
		close(links[i].client);
		close(links[i].backend);
	}
	redirects_done(PAIRS);
	redirects_stop();
}

/* The engine ends, and with it all that it has. */
TAP_TEST(stopped_with_pairs)
{
	struct link link[3];

	redirects_start();
	for (int i = 0; i < 3; i++)
		redirects_open(&link[i], 0);
	redirects_talk(&link[0]);
	close(link[1].client);
	close(link[1].backend);
	tap_sleep(10000000);
	redirects_stop();
	redirects_hear_end(link[0].client);
	redirects_hear_end(link[2].backend);
}
