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
#include <linux/sockios.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>

/* What a copy of costs less than a system call. */
#define COPY_MAX 16384
/* More than the kernel lets anybody send: a message is one allocation and frags. */
#define SCRATCH_BYTES (16u << 20)

int plain_look(struct conn_core *core, int flags, void *data, size_t size,
	       size_t *len)
{
	union {
		char space[CMSG_SPACE(sizeof(struct timeval))];
		struct cmsghdr align;
	} control; /* no room for fds: the kernel drops them */
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
		n = recvmsg(core->fd, &msg, flags | MSG_TRUNC | MSG_DONTWAIT);
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

/* The thread's own; freed when it ends. */
static __thread uint8_t *scratch;
static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void scratch_free(void *memory)
{
	munmap(memory, SCRATCH_BYTES);
}

static void scratch_key_make(void)
{
	pthread_key_create(&scratch_key, scratch_free);
}

static bool scratch_make(void)
{
	void *memory;

	if (scratch)
		return true;
	pthread_once(&scratch_once, scratch_key_make);
	memory = mmap(NULL, SCRATCH_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return false;
	scratch = memory;
	pthread_setspecific(scratch_key, memory);
	return true;
}

/*
 * Memory of a message. One long piece is kept for the next: freed, it might go back
 * to the system, and cost a page fault for every 4 KiB when it comes again.
 */
static void *buffer_take(struct conn_core *core, size_t n)
{
	void *data = core->plain_spare;

	if (n <= COPY_MAX || malloc_usable_size(data) < n)
		return malloc(n + !n);
	core->plain_spare = NULL;
	return data;
}

static void buffer_give(struct conn_core *core, void *data)
{
	size_t size = malloc_usable_size(data);

	if (size <= COPY_MAX || size <= malloc_usable_size(core->plain_spare)) {
		free(data);
		return;
	}
	free(core->plain_spare);
	core->plain_spare = data;
}

/*
 * Takes the next message of the socket into memory of its own. After a long one
 * the next is taken to be long too: its length is asked first, and no copy made.
 */
static int fetch(struct conn_core *core)
{
	size_t n = 0;
	void *data;
	int r;

	if (core->plain_next_len > COPY_MAX && !core->stream) {
		r = plain_look(core, MSG_PEEK, NULL, 0, &n);
		if (r != 1)
			return r;
		data = buffer_take(core, n);
		r = data ? plain_look(core, 0, data, n, &n) : -ENOMEM;
		if (r != 1) {
			buffer_give(core, data);
			return r;
		}
	} else {
		if (!scratch_make())
			return -ENOMEM;
		r = plain_look(core, 0, scratch, SCRATCH_BYTES, &n);
		if (r != 1)
			return r;
		if (n > SCRATCH_BYTES)
			return conn_fail(conn_of(core), -EMSGSIZE,
					 "message is longer than any can be");
		data = buffer_take(core, n);
		if (!data)
			return conn_fail(conn_of(core), -ENOMEM,
					 "out of memory");
		memcpy(data, scratch, n);
	}
	core->plain_next = data;
	core->plain_next_len = n;
	return 1;
}

/* Looks for the next message on the socket, and takes it from there. */
static int plain_fetch(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int r;

	steer_before(core);
	r = fetch(core);
	core->plain_eof = r == 0;
	if (r == 1 && steer_on(core))
		core->steer.spilled++;
	steer_after(conn, r);
	return core->error ? core->error : r;
}

/*
 * What sluice_recv() returns; 1: the next message has *len bytes. What was steered
 * comes before what is taken from the socket: nothing is steered from the moment it
 * was sent until the socket has been found empty.
 */
static int plain_find(struct sluice_conn *conn, size_t *len)
{
	struct conn_core *core = core_of(conn);
	int r = 1;

	if (steer_pending(core))
		return find_steered(core, len);
	if (!core->plain_next && !core->plain_eof) {
		if (!steer_due(core))
			return -EAGAIN;
		r = plain_fetch(conn);
		if (core->inbox_count)
			return find_steered(core, len);
		if (r < 0)
			return r;
	}
	if (!steer_in_turn(core)) {
		sched_yield(); /* to the workers that it waits for */
		return -EAGAIN;
	}
	*len = core->plain_next_len;
	return core->plain_next != NULL;
}

/* The caller has what was next. Was it the last? Then the next may be steered. */
static void plain_taken(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	core->plain_next = NULL;
	/*
	 * Hashed ones are to stay in order over threads: no grant before the
	 * caller is done with this one.
	 */
	if (steer_on(core) && !core->steer.hashed)
		plain_fetch(conn);
}

static void plain_copy(struct sluice_conn *conn, void *data)
{
	struct conn_core *core = core_of(conn);

	memcpy(data, core->plain_next, core->plain_next_len);
	buffer_give(core, core->plain_next);
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
	core->plain_held[id] = core->plain_next;
	msg->kind = SLUICE__MSG_PLAIN;
	msg->id = id;
	msg->view = core->plain_held[id];
	conn->rx_held_count++;
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
	buffer_give(core, core->plain_held[msg->id]);
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

	return core->inbox_count || core->plain_next || core->plain_eof ||
	       plain_fetch(conn) != -EAGAIN;
}
