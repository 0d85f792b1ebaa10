/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * seqpacket, stream, pipe: the payload is copied into the kernel and out again.
 * Spinning, the fds are non-blocking and each side calls until it is served.
 */
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static uint8_t *out_data, *in_data;

static int fail(char reason[BENCH_TEXT], const char *what)
{
	const int error = errno;

	snprintf(reason, BENCH_TEXT, "%s: %s", what, strerror(error));
	return -error;
}

/* Room for some messages at once, where the system's limits allow it. */
static size_t buffer_wanted(const struct bench_case *c)
{
	return 4 * c->size;
}

static int sockets_prepare(const struct bench_case *c, int type,
			   struct bench_channel *channel,
			   char reason[BENCH_TEXT])
{
	const int wanted = (int)buffer_wanted(c);
	socklen_t len = sizeof(int);
	int fds[2], i, given;

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds))
		return fail(reason, "socketpair");
	for (i = 0; i < 2; i++) {
		channel->in[i] = channel->out[i] = fds[i];
		if (getsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &given, &len))
			return fail(reason, "SO_SNDBUF");
		if (given < wanted &&
		    setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &wanted, len))
			return fail(reason, "SO_SNDBUF");
	}
	return 0;
}

/* A packet that is too large for the socket is refused at any time. */
int seqpacket_prepare(const struct bench_case *c, struct bench_channel *channel,
		      char reason[BENCH_TEXT])
{
	int ret = sockets_prepare(c, SOCK_SEQPACKET, channel, reason);
	uint8_t *packet;
	ssize_t sent;

	if (ret)
		return ret;
	packet = calloc(1, c->size);
	if (!packet)
		return fail(reason, "packet");
	sent = send(channel->out[0], packet, c->size, MSG_DONTWAIT);
	if (sent == (ssize_t)c->size)
		sent = recv(channel->in[1], packet, c->size, MSG_DONTWAIT);
	if (sent < 0) {
		fail(reason, "a packet of this size is refused");
		ret = BENCH_UNSUPPORTED;
	}
	free(packet);
	return ret;
}

int stream_prepare(const struct bench_case *c, struct bench_channel *channel,
		   char reason[BENCH_TEXT])
{
	return sockets_prepare(c, SOCK_STREAM, channel, reason);
}

static int pipe_prepare(const struct bench_case *c,
			struct bench_channel *channel, char reason[BENCH_TEXT])
{
	size_t wanted;
	int fds[2], i;

	for (i = 0; i < 2; i++) {
		if (pipe2(fds, O_CLOEXEC))
			return fail(reason, "pipe");
		channel->in[!i] = fds[0];
		channel->out[i] = fds[1];
		/* As much as pipe-max-size and the pages per user allow. */
		wanted = buffer_wanted(c);
		while (wanted > 65536 &&
		       fcntl(fds[1], F_SETPIPE_SZ, (int)wanted) < 0)
			wanted /= 2;
	}
	return 0;
}

int fd_open(struct bench_side *side)
{
	const int in = side->channel->in[side->index];
	const int out = side->channel->out[side->index];

	if (!side->block &&
	    (fcntl(in, F_SETFL, O_NONBLOCK) || fcntl(out, F_SETFL, O_NONBLOCK)))
		return side_fail(side, "O_NONBLOCK: %s", strerror(errno));
	if (posix_memalign((void **)&out_data, 4096, side->size) ||
	    posix_memalign((void **)&in_data, 4096, side->size))
		return side_fail(side, "out of memory");
	memset(out_data, 1, side->size);
	memset(in_data, 1, side->size);
	return 0;
}

int fd_close(struct bench_side *side)
{
	(void)side;
	free(out_data);
	free(in_data);
	return 0;
}

static int out_failed(struct bench_side *side)
{
	return side_fail(side, "sending: %s", strerror(errno));
}

static int in_failed(struct bench_side *side, ssize_t got)
{
	if (!got)
		return side_fail(side, "the other process is gone");
	return side_fail(side, "receiving: %s", strerror(errno));
}

LOOP void *fd_begin(struct bench_side *side)
{
	(void)side;
	return out_data;
}

LOOP int fd_done(struct bench_side *side)
{
	(void)side;
	return 0;
}

static inline bool again(ssize_t n)
{
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

/* ENOBUFS: memory for a large packet is short for now. */
LOOP int packet_send(struct bench_side *side)
{
	const int fd = side->channel->out[side->index];
	ssize_t n;

	do {
		n = send(fd, out_data, side->size, MSG_NOSIGNAL);
	} while (again(n) || (n < 0 && errno == ENOBUFS));
	return n < 0 ? out_failed(side) : 0;
}

LOOP const void *packet_take(struct bench_side *side)
{
	const int fd = side->channel->in[side->index];
	ssize_t n;

	do {
		n = recv(fd, in_data, side->size, 0);
	} while (again(n));
	if (n == (ssize_t)side->size)
		return in_data;
	in_failed(side, n);
	return NULL;
}

/* One call that sends or receives some of a stream of bytes. */
typedef ssize_t put_some(int fd, const void *data, size_t len);
typedef ssize_t take_some(int fd, void *data, size_t len);

LOOP ssize_t socket_put(int fd, const void *data, size_t len)
{
	return send(fd, data, len, MSG_NOSIGNAL);
}

LOOP ssize_t socket_take(int fd, void *data, size_t len)
{
	return recv(fd, data, len, 0);
}

LOOP int bytes_send(struct bench_side *side, put_some *put)
{
	const int fd = side->channel->out[side->index];
	size_t done = 0;
	ssize_t n;

	while (done < side->size) {
		n = put(fd, out_data + done, side->size - done);
		if (n > 0)
			done += (size_t)n;
		else if (!again(n))
			return out_failed(side);
	}
	return 0;
}

LOOP const void *bytes_take(struct bench_side *side, take_some *take)
{
	const int fd = side->channel->in[side->index];
	size_t done = 0;
	ssize_t n;

	while (done < side->size) {
		n = take(fd, in_data + done, side->size - done);
		if (n > 0) {
			done += (size_t)n;
		} else if (!again(n)) {
			in_failed(side, n);
			return NULL;
		}
	}
	return in_data;
}

LOOP int stream_send(struct bench_side *side)
{
	return bytes_send(side, socket_put);
}

LOOP const void *stream_take(struct bench_side *side)
{
	return bytes_take(side, socket_take);
}

LOOP int pipe_send(struct bench_side *side)
{
	return bytes_send(side, write);
}

LOOP const void *pipe_take(struct bench_side *side)
{
	return bytes_take(side, read);
}

static int seqpacket_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = fd_begin,
		.send = packet_send,
		.take = packet_take,
		.done = fd_done,
	};

	return loop_run(side, ops);
}

int stream_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = fd_begin,
		.send = stream_send,
		.take = stream_take,
		.done = fd_done,
	};

	return loop_run(side, ops);
}

static int pipe_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = fd_begin,
		.send = pipe_send,
		.take = pipe_take,
		.done = fd_done,
	};

	return loop_run(side, ops);
}

const struct bench_system bench_seqpacket = {
	.name = "seqpacket",
	.what = "AF_UNIX SOCK_SEQPACKET, one send and one recv per message",
	.prepare = seqpacket_prepare,
	.open = fd_open,
	.run = seqpacket_run,
	.close = fd_close,
};

const struct bench_system bench_stream = {
	.name = "stream",
	.what = "AF_UNIX SOCK_STREAM, send and recv until the size is complete",
	.prepare = stream_prepare,
	.open = fd_open,
	.run = stream_run,
	.close = fd_close,
};

const struct bench_system bench_pipe = {
	.name = "pipe",
	.what = "two pipes, write and read until the size is complete",
	.prepare = pipe_prepare,
	.open = fd_open,
	.run = pipe_run,
	.close = fd_close,
};
