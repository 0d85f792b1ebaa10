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

int plain_peek(struct conn_core *core, void *data, size_t size, size_t *len)
{
	union {
		char space[CMSG_SPACE(sizeof(struct timeval))];
		struct cmsghdr align;
	} control; /* no room for fds: none is installed */
	struct iovec iov = { .iov_base = data, .iov_len = size };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control };
	int one = 1, ends = 0;
	ssize_t n;

	if (!core->plain_timestamps)
		setsockopt(core->fd, SOL_SOCKET, SO_TIMESTAMP, &one,
			   sizeof(one));
	core->plain_timestamps = true;
	do {
		msg.msg_controllen = sizeof(control.space);
		n = recvmsg(core->fd, &msg,
			    MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
		if (n < 0 && errno != ECONNRESET)
			return errno == EINTR ? -EAGAIN : -errno;
	} while (n < 0 || (!n && !msg.msg_controllen && ++ends < SOCKET_ENDS));
	*len = (size_t)n;
	return n || msg.msg_controllen;
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

/* The next message is a steered one: what plain_find() returns. */
#define FOUND_STEERED 2

static int find_steered(struct conn_core *core, size_t *len)
{
	*len = core->inbox[core->inbox_head].len;
	return FOUND_STEERED;
}

/* Looks at the socket, and notes what is next there. */
static int plain_look(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int r;

	steer_before(core);
	r = plain_peek(core, NULL, 0, &core->plain_peeked_len);
	core->plain_peeked = r == 1;
	core->plain_eof = r == 0;
	steer_after(conn, r);
	return core->error ? core->error : r;
}

/* What sluice_recv() returns; 1: the next message has *len bytes. */
static int plain_find(struct sluice_conn *conn, size_t *len)
{
	struct conn_core *core = core_of(conn);
	int r;

	*len = core->plain_next_len;
	if (core->plain_next)
		return 1;
	if (steer_pending(core))
		return find_steered(core, len);
	if (core->plain_eof)
		return steer_in_turn(core) ? 0 : -EAGAIN;
	if (!core->plain_peeked) {
		if (!steer_due(core))
			return -EAGAIN;
		r = plain_look(conn);
		if (r <= 0 && !core->inbox_count)
			return r || steer_in_turn(core) ? r : -EAGAIN;
		/* Steered before what is on the socket was sent. */
		if (core->inbox_count)
			return find_steered(core, len);
	}
	*len = core->plain_peeked_len;
	return steer_in_turn(core) ? 1 : -EAGAIN;
}

static int plain_take(struct sluice_conn *conn, void *data, size_t size)
{
	struct conn_core *core = core_of(conn);
	ssize_t n;

	if (core->plain_next) {
		memcpy(data, core->plain_next, size);
		free(core->plain_next);
		core->plain_next = NULL;
		return 1;
	}
	core->plain_peeked = false;
	do /* fds that came with it are dropped by the kernel */
		n = recv(core->fd, data, size, MSG_DONTWAIT);
	while (n < 0 && errno == ECONNRESET);
	if (n < 0)
		return -errno;
	/* Was it the last? Then the next one may be steered. */
	if (steer_on(core)) {
		core->steer.spilled++;
		plain_look(conn);
	}
	return 1;
}

int plain_recv(struct sluice_conn *conn, struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);
	uint32_t id;
	size_t n;
	int r;

	r = plain_find(conn, &n);
	if (r == FOUND_STEERED) {
		steer_take(conn, msg);
		return 1;
	}
	if (r != 1)
		return r;
	*msg = (struct sluice_msg){ .len = (uint32_t)n,
				    .kind = SLUICE_SLOT_INLINE };
	if (n <= SLUICE_INLINE_MAX)
		return plain_take(conn, msg->inline_data, n);
	if (!core->plain_held) {
		core->plain_held = calloc(core->options.hold_limit,
					  sizeof(*core->plain_held));
		if (!core->plain_held)
			return -ENOMEM;
	}
	id = plain_slot(conn);
	if (id == core->options.hold_limit)
		return -ENOBUFS;
	core->plain_held[id] = malloc(n);
	if (!core->plain_held[id])
		return -ENOMEM;
	msg->kind = SLUICE__MSG_PLAIN;
	msg->id = id;
	msg->view = core->plain_held[id];
	r = plain_take(conn, core->plain_held[id], n);
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
	struct sluice_msg msg;
	int r;

	r = plain_find(conn, len);
	if (r <= 0)
		return r;
	if (r == FOUND_STEERED && *len <= capacity) {
		steer_take(conn, &msg);
		if (msg.len)
			memcpy(data, sluice_msg_data(&msg), msg.len);
		return sluice_release(conn, &msg) ? -EINVAL : 1;
	}
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
	case ECONNREFUSED: /* DGRAM */
	case ENOTCONN:
		return -EPIPE;
	default:
		return -errno;
	}
}

bool plain_ready(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct pollfd p = { .fd = core->fd, .events = POLLIN };
	bool ready;

	steer_before(core);
	ready = poll(&p, 1, 0) == 1;
	core->steer.told = ready;
	if (!ready)
		steer_after(conn, -EAGAIN);
	return ready;
}
