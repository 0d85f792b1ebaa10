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

/* Of the messages that one call sends: their payload, one after the other. */
static uint8_t *out_data;
static struct iovec out_parts[BENCH_BURST_MAX];
static struct mmsghdr out_messages[BENCH_BURST_MAX];

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
	const unsigned int burst = side->c->burst;
	unsigned int i;

	if (posix_memalign((void **)&out_data, 4096, burst * side->size))
		return side_fail(side, "out of memory");
	memset(out_data, 1, burst * side->size);
	for (i = 0; i < burst; i++) {
		out_parts[i].iov_base = out_data + i * side->size;
		out_parts[i].iov_len = side->size;
		out_messages[i].msg_hdr.msg_iov = &out_parts[i];
		out_messages[i].msg_hdr.msg_iovlen = 1;
	}
	return 0;
}

int fanin_plain_put(struct bench_side *side, unsigned int connection,
		    uint64_t word, unsigned int count)
{
	const int fd = side->channel->pairs[connection][0];
	unsigned int i;
	ssize_t n;

	for (i = 0; i < count; i++)
		touch_write(out_data + i * side->size, side->touched,
			    word + i * WORD_NUMBER);
	if (count == 1) {
		n = send(fd, out_data, side->size, MSG_NOSIGNAL);
		n = n == (ssize_t)side->size ? 1 : n;
	} else {
		n = sendmmsg(fd, out_messages, count, MSG_NOSIGNAL);
	}
	if (n > 0)
		return (int)n;
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
