/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Why services of DGRAM are relayed: what the kernel makes of datagrams that the
 * program of bpf/sockmap.bpf.c redirects. A kernel that keeps them whole would be
 * news, and skips the case that asserts that it does not.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "redirects.h"
#include "tap.h"

#define LARGE 60000

/* client -> inner[0], redirected -> inner[1] -> backend */
struct way {
	int client, inner[2], backend;
};

static void open_way(struct way *way)
{
	uint64_t cookies[2];
	int fds[2];

	redirects_start();
	CHECK_SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
	way->client = fds[0];
	way->inner[0] = fds[1];
	CHECK_SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
	way->inner[1] = fds[0];
	way->backend = fds[1];
	for (int i = 0; i < 2; i++) {
		cookies[i] = sockmap_cookie(way->inner[i]);
		CHECK_OK(sockmap_add_target(&redirects_sockmap, way->inner[i],
					    cookies[i]));
	}
	redirects_sockmap.flows[0] = (struct sockmap_flow){
		.target = cookies[1],
		.word = SOCKMAP_ON,
	};
	CHECK_OK(sockmap_add_source(&redirects_sockmap, way->inner[0],
				    cookies[0], 0));
}

static void close_way(struct way *way)
{
	uint64_t cookie = sockmap_cookie(way->inner[0]);

	close(way->client);
	close(way->inner[0]);
	close(way->inner[1]);
	close(way->backend);
	sockmap_forget(&redirects_sockmap, cookie);
	redirects_stop();
}

/* The next datagram at the backend, waiting for it; -1: none within that time. */
static ssize_t next(const struct way *way, int ms)
{
	struct pollfd pollfd = { .fd = way->backend, .events = POLLIN };
	char data[LARGE];

	return poll(&pollfd, 1, ms) ?
		       recv(way->backend, data, sizeof(data), 0) :
		       -1;
}

static void say(const struct way *way, size_t len)
{
	static char data[LARGE];

	CHECK_EQ(send(way->client, data, len, 0), (ssize_t)len);
}

TAP_TEST(small_datagrams_arrive)
{
	struct way way;

	open_way(&way);
	for (size_t i = 1; i < 100; i++) {
		say(&way, i);
		CHECK_EQ(next(&way, -1), (ssize_t)i);
	}
	close_way(&way);
}

TAP_TEST(a_large_datagram_comes_in_pieces)
{
	ssize_t first, rest = 0;
	struct way way;

	open_way(&way);
	say(&way, LARGE);
	first = next(&way, -1);
	if (first == LARGE)
		tap_skip("this kernel keeps it whole");
	CHECK_GT(first, 0);
	while (rest < LARGE - first) {
		ssize_t n = next(&way, -1);

		CHECK_GT(n, 0);
		rest += n;
	}
	tap_diag("%d bytes arrive as %zd, and more", LARGE, first);
	close_way(&way);
}

/* The kernel takes it for an error of the target, and sends nothing on any more. */
TAP_TEST(an_empty_datagram_ends_all)
{
	socklen_t size = sizeof(int);
	struct way way;
	int error = 0;

	open_way(&way);
	say(&way, 100);
	CHECK_EQ(next(&way, -1), 100);
	say(&way, 0);
	for (int64_t until = tap_now() + 1000000000;
	     !error && tap_now() < until;)
		CHECK_SYS(getsockopt(way.inner[1], SOL_SOCKET, SO_ERROR, &error,
				     &size));
	if (!error)
		tap_skip("this kernel sends it on");
	CHECK_EQ(error, EPIPE);
	/* the send succeeds, and it is lost */
	say(&way, 100);
	CHECK_EQ(next(&way, 100), -1);
	close_way(&way);
}
