/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Plain peers: payload through the socket, copied, behind the same API. A
 * received message lies in memory of its own until it is released.
 */
#include "internal.h"
#include "trace.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>

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

/*
 * Looks for the next messages on the socket, and takes them from there. None is
 * steered from the moment the first of them was sent until the socket has been
 * found empty: what the ring holds by now comes before them all.
 */
static int find_queued(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int r;

	steer_before(core);
	r = plain_fetch(core);
	core->plain_eof = r == 0;
	if (steer_on(core))
		core->steer.spilled += core->plain_count;
	if (steer_on(core) && TRACE_ON(spill))
		trace_spill_plain(core);
	steer_after(conn, r);
	return core->error ? core->error : r;
}

/*
 * What sluice_recv() returns; 1: the next message has *len bytes. What was steered
 * comes before what was taken from the socket, see find_queued().
 */
static int plain_find(struct sluice_conn *conn, size_t *len)
{
	struct conn_core *core = core_of(conn);
	int r = 1;

	if (steer_pending(core))
		return find_steered(core, len);
	if (!core->plain_count && !core->plain_eof) {
		if (!steer_due(core))
			return -EAGAIN;
		r = find_queued(conn);
		if (core->inbox_count)
			return find_steered(core, len);
		if (r < 0)
			return r;
	}
	if (!steer_in_turn(core)) {
		sched_yield(); /* to the workers that it waits for */
		return -EAGAIN;
	}
	*len = core->plain[core->plain_first].len;
	return core->plain_count > 0;
}

/* The caller has what was next. Was it the last? Then the next may be steered. */
static void plain_taken(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	core->plain_first++;
	core->plain_count--;
	core->rx_framed++;
	/*
	 * Hashed ones are to stay in order over threads: no grant before the
	 * caller is done with this one.
	 */
	if (!core->plain_count && steer_on(core) && !core->steer.hashed)
		find_queued(conn);
}

static void plain_copy(struct sluice_conn *conn, void *data)
{
	struct conn_core *core = core_of(conn);
	const struct plain_message *next = &core->plain[core->plain_first];

	if (TRACE_ON(recv))
		trace_recv(core,
			   &(struct sluice_msg){ .len = (uint32_t)next->len,
						 .kind = SLUICE_SLOT_INLINE },
			   SLUICE_LANE_PLAIN);
	memcpy(data, next->data, next->len);
	plain_buffer_give(core, next->data);
	plain_taken(conn);
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
	if (n <= SLUICE_INLINE_MAX) {
		plain_copy(conn, msg->inline_data);
		return 1;
	}
	if (!core->plain_held) {
		core->plain_held = calloc(core->options.hold_limit,
					  sizeof(*core->plain_held));
		if (!core->plain_held)
			return -ENOMEM;
	}
	id = plain_slot(conn);
	if (id == core->options.hold_limit)
		return -ENOBUFS;
	core->plain_held[id] = core->plain[core->plain_first].data;
	msg->kind = SLUICE__MSG_PLAIN;
	msg->id = id;
	msg->view = core->plain_held[id];
	conn->rx_held_count++;
	if (TRACE_ON(recv))
		trace_recv(core, msg, SLUICE_LANE_PLAIN);
	plain_taken(conn);
	return 1;
}

int plain_recv_copy(struct sluice_conn *conn, void *data, size_t capacity,
		    size_t *len)
{
	struct sluice_msg msg;
	int r;

	r = plain_find(conn, len);
	if (r <= 0)
		return r;
	if (*len > capacity)
		return -EMSGSIZE;
	if (r != FOUND_STEERED) {
		plain_copy(conn, data);
		return 1;
	}
	steer_take(conn, &msg);
	if (msg.len)
		memcpy(data, sluice_msg_data(&msg), msg.len);
	return sluice_release(conn, &msg) ? -EINVAL : 1;
}

int plain_release(struct sluice_conn *conn, const struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);

	if (!core->plain_held || msg->id >= core->options.hold_limit ||
	    !core->plain_held[msg->id])
		return -EINVAL;
	TRACE(release, TRACE_PEER(core), trace_handle(core, msg));
	plain_buffer_give(core, core->plain_held[msg->id]);
	core->plain_held[msg->id] = NULL;
	conn->rx_held_count--;
	return 0;
}

/* The kernel takes this much of a stream at once, or nothing. */
#define STREAM_PIECE 32768
/* Of each piece, what is charged beyond its bytes. */
#define STREAM_PIECE_EXTRA 8192

/*
 * Whether all will be taken: only this side's sends can use up the room that there
 * is. POLLOUT tells of three quarters of it. 0, -EAGAIN, -EMSGSIZE.
 */
static int stream_room(struct conn_core *core, const struct iovec *parts,
		       unsigned int count)
{
	socklen_t size = sizeof(int);
	int room, queued;
	size_t len = 0;

	for (unsigned int i = 0; i < count; i++)
		len += parts[i].iov_len;
	if (len <= STREAM_PIECE)
		return 0;
	if (getsockopt(core->fd, SOL_SOCKET, SO_SNDBUF, &room, &size) ||
	    ioctl(core->fd, SIOCOUTQ, &queued))
		return -errno;
	len += (len / STREAM_PIECE + 1) * STREAM_PIECE_EXTRA;
	if (len > (size_t)room / 4 * 3)
		return -EMSGSIZE;
	if (len <= (size_t)room - (size_t)queued && queued <= room)
		return 0;
	core->need = NEED_SOCKET;
	TRACE(lacks, core, TRACE_SELF(core), (uint32_t)NEED_SOCKET, len);
	return -EAGAIN;
}

int plain_send(struct sluice_conn *conn, const struct iovec *parts,
	       unsigned int count)
{
	struct conn_core *core = core_of(conn);
	int r;
	struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)parts,
			      .msg_iovlen = count };

	if (core->stream) {
		r = stream_room(core, parts, count);
		if (r)
			return r;
	}
	if (TRACE_ON(send))
		trace_send_plain(core, parts, count);
	if (sendmsg(core->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
		core->tx_framed++;
		return 0;
	}
	switch (errno) {
	case EAGAIN:
	case EINTR:
		core->need = NEED_SOCKET;
		TRACE(lacks, core, TRACE_SELF(core), (uint32_t)NEED_SOCKET,
		      0ul);
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

	return core->inbox_count || core->plain_count || core->plain_eof ||
	       find_queued(conn) != -EAGAIN;
}
