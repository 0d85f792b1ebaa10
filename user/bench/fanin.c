/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Fan-in: the connections, and senders that know nothing of sluice.
 */
#include "fanin.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

/* Beside the connections, in one process. */
#define OTHER_FDS 64

static uint8_t *out_data;

/* Both ends of every connection are open in the parent. */
static int fds_allow(unsigned int count)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return -errno;
	if (limit.rlim_cur >= 2 * count + OTHER_FDS)
		return 0;
	limit.rlim_cur = 2 * count + OTHER_FDS;
	if (limit.rlim_cur > limit.rlim_max)
		return -EMFILE;
	return setrlimit(RLIMIT_NOFILE, &limit) ? -errno : 0;
}

int fanin_prepare(const struct bench_case *c, struct bench_channel *channel,
		  char reason[BENCH_TEXT])
{
	const int wanted = (int)(4 * c->size);
	socklen_t len = sizeof(int);
	int given = 0, ret, *fds;

	ret = fds_allow(c->senders);
	channel->pairs = ret ? NULL : calloc(c->senders, sizeof(int[2]));
	if (!channel->pairs) {
		snprintf(reason, BENCH_TEXT, "%u connections: %s", c->senders,
			 strerror(ret ? -ret : ENOMEM));
		return BENCH_UNSUPPORTED;
	}
	while (channel->pair_count < c->senders) {
		fds = channel->pairs[channel->pair_count];
		if (socketpair(AF_UNIX,
			       SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
			       fds)) {
			ret = -errno;
			snprintf(reason, BENCH_TEXT, "socketpair: %s",
				 strerror(-ret));
			return ret;
		}
		channel->pair_count++;
		/* Room for some messages, where the limits allow it. */
		if (!getsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &given, &len) &&
		    given < wanted)
			setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &wanted, len);
	}
	return 0;
}

int fanin_plain_open(struct bench_side *side)
{
	if (posix_memalign((void **)&out_data, 4096, side->size))
		return side_fail(side, "out of memory");
	memset(out_data, 1, side->size);
	return 0;
}

int fanin_plain_put(struct bench_side *side, unsigned int connection,
		    uint64_t word)
{
	ssize_t n;

	touch_write(out_data, side->touched, word);
	n = send(side->channel->pairs[connection][0], out_data, side->size,
		 MSG_NOSIGNAL);
	if (n == (ssize_t)side->size)
		return 1;
	if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS))
		return 0;
	return side_fail(side, "sending: %s", strerror(errno));
}

int fanin_plain_room(struct bench_side *side)
{
	static struct pollfd *fds;
	unsigned int i;

	if (!fds) {
		fds = calloc(side->channel->pair_count, sizeof(*fds));
		for (i = 0; fds && i < side->channel->pair_count; i++) {
			fds[i].fd = side->channel->pairs[i][0];
			fds[i].events = POLLOUT;
		}
	}
	if (!fds ||
	    (poll(fds, side->channel->pair_count, -1) < 0 && errno != EINTR))
		return side_fail(side, "poll: %s", strerror(errno));
	return 0;
}
