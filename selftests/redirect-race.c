/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Streams that begin while they move into the kernel: senders of all paces on
 * connections that are given to the engine at any time. Every byte must arrive,
 * in order, whichever way the flow took. Limit: 300 s
 */
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "redirects.h"
#include "tap.h"

#define ROUNDS 150
#define AT_ONCE 8

static const struct pace {
	const char *name;
	size_t piece;
	unsigned int pause_us;
	uint64_t bytes;
	int sndbuf;
} paces[] = {
	{ "small-steady", 200, 20, 20000, 0 },
	{ "small-unpaused", 200, 0, 200000, 0 },
	{ "large-unpaused", 60000, 0, 2 * MIB, 0 },
	{ "large-paused", 60000, 200, MIB, 0 },
	{ "tiny-sndbuf", 5000, 10, 100000, 1 },
};

/* Bytes both ways, by the kernel and through user space. */
static uint64_t passed(struct link *link, uint64_t *kernel, uint64_t *user)
{
	struct redirect_status status = redirects_status(link);

	*kernel = status.bytes[0] + status.bytes[1];
	*user = link->traffic.bytes[0] + link->traffic.bytes[1];
	return *kernel + *user;
}

TAP_EACH(race, pace, paces)
{
	uint64_t kernel, user, all_kernel = 0, all_user = 0, lagged = 0;
	int raced = 0, rounds = ROUNDS / AT_ONCE;

	tap_limit(120);
	redirects_start();
	for (int round = 0; round < rounds; round++) {
		struct stream streams[AT_ONCE][4];
		struct link links[AT_ONCE];

		for (int i = 0; i < AT_ONCE; i++) {
			struct link *link = &links[i];
			int inner[2];

			redirects_prepare(link, inner, pace->sndbuf);
			for (int j = 0; j < 4; j++) {
				/* both ways, sender and receiver */
				streams[i][j] = (struct stream){
					.fd = j == 0 || j == 3 ? link->client :
								 link->backend,
					.key = tap_random() & 0xffff,
					.bytes = pace->bytes,
					.piece = pace->piece,
					.pause_us = j < 2 ? pace->pause_us : 0,
				};
			}
			streams[i][2].key = streams[i][0].key;
			streams[i][3].key = streams[i][1].key;
			redirects_send(&streams[i][0]);
			redirects_send(&streams[i][1]);
			usleep((unsigned int)(tap_random() % 500));
			redirects_add(link, inner);
			redirects_receive(&streams[i][2]);
			redirects_receive(&streams[i][3]);
		}
		for (int i = 0; i < AT_ONCE; i++) {
			struct redirect_status status;

			for (int j = 0; j < 4; j++)
				redirects_join(&streams[i][j]);
			/* counted after they were sent */
			CHECK_SOON(passed(&links[i], &kernel, &user) ==
				   2 * pace->bytes);
			status = redirects_status(&links[i]);
			for (int way = 0; way < 2; way++) {
				raced += status.lagged[way] > 0;
				lagged += status.lagged[way];
			}
			all_kernel += kernel;
			all_user += user;
		}
		for (int i = 0; i < AT_ONCE; i++) {
			close(links[i].client);
			close(links[i].backend);
		}
		redirects_done(AT_ONCE);
	}
	tap_diag("%llu bytes by kernel, %llu through user space; "
		 "%d flows raced, %llu bytes of them lagged",
		 (unsigned long long)all_kernel, (unsigned long long)all_user,
		 raced, (unsigned long long)lagged);
	redirects_stop();
}
