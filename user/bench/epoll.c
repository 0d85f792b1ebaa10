/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * epoll: the usual loop of a server, over AF_UNIX SEQPACKET sockets. Level
 * triggered, and one recv (or recvmmsg) for each event, so that none is in vain.
 */
#include "fanin.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static uint8_t *in_data;
static struct iovec in_parts[BENCH_BURST_MAX];
static struct mmsghdr in_messages[BENCH_BURST_MAX];
static int epoll_fd;

static int epoll_open(struct bench_side *side)
{
	struct epoll_event event = { .events = EPOLLIN };
	const unsigned int burst = side->c->burst;
	unsigned int i;

	if (!side->index)
		return fanin_plain_open(side);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0 ||
	    posix_memalign((void **)&in_data, 4096, burst * side->size))
		return side_fail(side, "epoll: %s", strerror(errno));
	memset(in_data, 1, burst * side->size);
	for (i = 0; i < burst; i++) {
		in_parts[i].iov_base = in_data + i * side->size;
		in_parts[i].iov_len = side->size;
		in_messages[i].msg_hdr.msg_iov = &in_parts[i];
		in_messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (i = 0; i < side->channel->pair_count; i++) {
		event.data.u32 = i;
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD,
			      side->channel->pairs[i][1], &event))
			return side_fail(side, "epoll: %s", strerror(errno));
	}
	return 0;
}

/* How many; 0 or -1 with errno. */
LOOP int receive_one(struct bench_side *side, int fd)
{
	return recv(fd, in_data, side->size, 0) == (ssize_t)side->size ? 1 : -1;
}

LOOP int receive_burst(struct bench_side *side, int fd)
{
	int n = recvmmsg(fd, in_messages, side->c->burst, MSG_DONTWAIT, NULL);
	int i;

	for (i = 0; i < n; i++)
		if (in_messages[i].msg_len != side->size)
			return 0;
	return n;
}

LOOP int take(struct bench_side *side, struct fanin *fanin,
	      int (*receive)(struct bench_side *side, int fd))
{
	struct epoll_event events[FANIN_EVENTS];
	unsigned int connection;
	int count, i, n, k;

	count = epoll_wait(epoll_fd, events, FANIN_EVENTS,
			   side->block ? -1 : 0);
	if (count < 0)
		return errno == EINTR ?
			       0 :
			       side_fail(side, "epoll: %s", strerror(errno));
	for (i = 0; i < count; i++) {
		connection = events[i].data.u32;
		n = receive(side, side->channel->pairs[connection][1]);
		if (n <= 0)
			return side_fail(side, "receiving: %s",
					 n ? strerror(errno) : "the end");
		for (k = 0; k < n; k++)
			if (fanin_got(side, fanin, connection,
				      in_data + k * side->size))
				return -1;
	}
	return count;
}

LOOP int take_one(struct bench_side *side, struct fanin *fanin)
{
	return take(side, fanin, receive_one);
}

LOOP int take_burst(struct bench_side *side, struct fanin *fanin)
{
	return take(side, fanin, receive_burst);
}

static int epoll_run(struct bench_side *side)
{
	static const struct fanin_ops ops = {
		.put = fanin_plain_put,
		.room = fanin_plain_room,
		.take = take_one,
	};

	return fanin_run(side, ops);
}

static int epoll_burst_run(struct bench_side *side)
{
	static const struct fanin_ops ops = {
		.put = fanin_plain_put,
		.room = fanin_plain_room,
		.take = take_burst,
	};

	return fanin_run(side, ops);
}

static int epoll_close(struct bench_side *side)
{
	(void)side;
	free(in_data);
	return 0;
}

const struct bench_system bench_epoll = {
	.name = "epoll",
	.what = "AF_UNIX SOCK_SEQPACKET, one epoll loop: up to 64 events for a "
		"wait, one recv for each",
	.patterns = BENCH_HAS(PATTERN_FANIN),
	.idle = true,
	.prepare = fanin_prepare,
	.open = epoll_open,
	.run = epoll_run,
	.close = epoll_close,
};

const struct bench_system bench_epoll_burst = {
	.name = "epoll-burst",
	.what = "the same with one recvmmsg for each event, of up to --burst "
		"messages",
	.patterns = BENCH_HAS(PATTERN_FANIN),
	.idle = true,
	.prepare = fanin_prepare,
	.open = epoll_open,
	.run = epoll_burst_run,
	.close = epoll_close,
};
