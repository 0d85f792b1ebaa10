/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Redirection of STREAM, on the real programs and the real thread, without the
 * rest of sluiced: what is sent arrives, in order, and so do ends; and after the
 * first bytes nothing passes through user space. Limit: 600 s
 */
#include "redirects.h"
#include "tap.h"

#define GIB (1ull << 30)

TAP_TEST(answers_go_by_kernel_from_the_first)
{
	struct link link;

	redirects_start();
	redirects_open(&link, 0);
	CHECK_SOON(redirects_status(&link).state[1] == REDIRECT_HOLD);
	redirects_say(link.client, "question");
	redirects_hear(link.backend, "question");
	redirects_say(link.backend, "answer");
	redirects_hear(link.client, "answer");
	CHECK_EQ(link.traffic.bytes[PAIR_TO_CLIENT], 0);
	CHECK_EQ(redirects_status(&link).bytes[PAIR_TO_CLIENT], 6);
	CHECK_EQ(redirects_status(&link).state[PAIR_TO_CLIENT], REDIRECT_ON);
	redirects_close(&link);
	redirects_stop();
}

TAP_TEST(nothing_passes_user_space_once_on)
{
	struct link link;
	uint64_t before[2];

	redirects_start();
	redirects_open(&link, 0);
	redirects_talk(&link);
	before[0] = link.traffic.bytes[0];
	before[1] = link.traffic.bytes[1];
	for (int i = 0; i < 1000; i++) {
		redirects_say(link.client, "question");
		redirects_hear(link.backend, "question");
		redirects_say(link.backend, "answer");
		redirects_hear(link.client, "answer");
	}
	CHECK_EQ(link.traffic.bytes[0], before[0]);
	CHECK_EQ(link.traffic.bytes[1], before[1]);
	CHECK_GE(redirects_status(&link).bytes[0], 8000);
	CHECK_GE(redirects_status(&link).bytes[1], 6000);
	redirects_close(&link);
	redirects_stop();
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
	{ "small-writes", 8 * MIB, 8 * MIB, 100, 0, 0, 0, true },
	{ "slow-reader", 8 * MIB, 8 * MIB, 65536, 0, 1000, 0, true },
	{ "slow-sender", 4 * MIB, 4 * MIB, 20000, 1000, 0, 0, true },
	{ "tiny-sndbuf", 64 * MIB, 64 * MIB, 65536, 0, 0, 1, true },
	{ "tiny-sndbuf-slow", 2 * MIB, 2 * MIB, 20000, 0, 500, 1, true },
};

TAP_EACH(transfer, t, transfers)
{
	struct link link;

	tap_limit(240);
	redirects_start();
	redirects_open(&link, t->sndbuf);
	struct stream streams[] = {
		{ .fd = link.client, .key = 1, .bytes = t->to_backend },
		{ .fd = link.backend, .key = 2, .bytes = t->to_client },
		{ .fd = link.backend, .key = 1, .bytes = t->to_backend },
		{ .fd = link.client, .key = 2, .bytes = t->to_client },
	};

	for (int i = 0; i < 4; i++) {
		streams[i].piece = t->piece;
		streams[i].pause_us = i < 2 ? t->send_us : t->receive_us;
		(i < 2 ? redirects_send : redirects_receive)(&streams[i]);
	}
	for (int i = 0; i < 4; i++)
		redirects_join(&streams[i]);
	tap_diag("through user space: %llu of %llu, %llu of %llu bytes",
		 (unsigned long long)link.traffic.bytes[0],
		 (unsigned long long)t->to_backend,
		 (unsigned long long)link.traffic.bytes[1],
		 (unsigned long long)t->to_client);
	if (t->moved) {
		CHECK_LE(link.traffic.bytes[0], t->to_backend / 2 + MIB);
		CHECK_LE(link.traffic.bytes[1], t->to_client / 2 + MIB);
	}
	redirects_close(&link);
	redirects_stop();
}
