/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Plain peers: payload through the socket, copied, behind the same API. A
 * received message lies in memory of its own until it is released.
 *
 * EOF and a zero-length message both read as 0. SO_TIMESTAMP tells them apart:
 * a message has a time, EOF has not.
 */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <sys/time.h>

/* Size of the next message; 0 also at EOF. -EAGAIN, -errno. */
static ssize_t plain_peek(struct conn_core *core)
{
	ssize_t n;

	do
		n = recv(core->fd, NULL, 0,
			 MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	while (n < 0 && errno == ECONNRESET);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	return n;
}

/* Takes the next message, which has `size` bytes. 1, or 0 at EOF, or -errno. */
static int plain_read(struct conn_core *core, void *data, size_t size)
{
	union {
		char space[CMSG_SPACE(sizeof(struct timeval))];
		struct cmsghdr align;
	} control; /* no room for fds: the kernel drops them */
	struct iovec iov = { .iov_base = data, .iov_len = size };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control.space) };
	int one = 1;
	ssize_t n;

	if (!core->plain_timestamps)
		setsockopt(core->fd, SOL_SOCKET, SO_TIMESTAMP, &one,
			   sizeof(one));
	core->plain_timestamps = true;
	do
		n = recvmsg(core->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == ECONNRESET);
	if (n < 0)
		return -errno;
	if (n == 0 && !msg.msg_controllen) {
		core->plain_eof = true;
		/* A client that closed before it answered HELLO stays plain. */
		core->phase = PHASE_PLAIN;
		return 0;
	}
	return 1;
}

static uint32_t plain_slot(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint32_t i;

	for (i = 0; i < core->options.hold_limit; i++)
		if (!core->plain_held[i])
			break;
	return i;
}

/* Size of the next message; *r is set to what sluice_recv() returns if none. */
static ssize_t plain_next(struct sluice_conn *conn, int *r)
{
	struct conn_core *core = core_of(conn);
	ssize_t n;

	if (core->plain_next)
		return (ssize_t)core->plain_next_len;
	*r = 0;
	if (core->plain_eof)
		return -1;
	n = plain_peek(core);
	if (n < 0)
		*r = (int)n;
	return n < 0 ? -1 : n;
}

static int plain_take(struct sluice_conn *conn, void *data, size_t size)
{
	struct conn_core *core = core_of(conn);

	if (!core->plain_next)
		return plain_read(core, data, size);
	memcpy(data, core->plain_next, size);
	free(core->plain_next);
	core->plain_next = NULL;
	return 1;
}

int plain_recv(struct sluice_conn *conn, struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);
	uint32_t id;
	ssize_t n;
	int r;

	n = plain_next(conn, &r);
	if (n < 0)
		return r;
	*msg = (struct sluice_msg){ .len = (uint32_t)n,
				    .kind = SLUICE_SLOT_INLINE };
	if (n <= SLUICE_INLINE_MAX)
		return plain_take(conn, msg->inline_data, (size_t)n);
	if (!core->plain_held) {
		core->plain_held = calloc(core->options.hold_limit,
					  sizeof(*core->plain_held));
		if (!core->plain_held)
			return -ENOMEM;
	}
	id = plain_slot(conn);
	if (id == core->options.hold_limit)
		return -ENOBUFS;
	core->plain_held[id] = malloc((size_t)n);
	if (!core->plain_held[id])
		return -ENOMEM;
	msg->kind = SLUICE__MSG_PLAIN;
	msg->id = id;
	msg->view = core->plain_held[id];
	r = plain_take(conn, core->plain_held[id], (size_t)n);
	if (r == 1) {
		conn->rx_held_count++;
		return 1;
	}
	free(core->plain_held[id]);
	core->plain_held[id] = NULL;
	return r;
}

int plain_recv_copy(struct sluice_conn *conn, void *data, size_t capacity,
		    size_t *len)
{
	ssize_t n;
	int r;

	n = plain_next(conn, &r);
	if (n < 0)
		return r;
	*len = (size_t)n;
	return *len > capacity ? -EMSGSIZE : plain_take(conn, data, *len);
}

int plain_release(struct sluice_conn *conn, const struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);

	if (!core->plain_held || msg->id >= core->options.hold_limit ||
	    !core->plain_held[msg->id])
		return -EINVAL;
	free(core->plain_held[msg->id]);
	core->plain_held[msg->id] = NULL;
	conn->rx_held_count--;
	return 0;
}

int plain_send(struct sluice_conn *conn, const struct iovec *parts,
	       unsigned int count)
{
	struct conn_core *core = core_of(conn);
	struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)parts,
			      .msg_iovlen = count };

	if (sendmsg(core->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 0;
	switch (errno) {
	case EAGAIN:
	case EINTR:
		core->need = NEED_SOCKET;
		return -EAGAIN;
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
		return -EPIPE;
	default:
		return -errno;
	}
}

bool plain_ready(struct sluice_conn *conn)
{
	struct pollfd p = { .fd = core_of(conn)->fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}
