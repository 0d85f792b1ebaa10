/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Frames on the socket: one message each, with the fds that it carries. */
#include "internal.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

/* The kernel's limit of fds in one message (SCM_MAX_FD). */
#define SCM_FDS_MAX 253

static int put(const struct conn_core *core, const struct msghdr *msg)
{
	if (sendmsg(core->fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 0;
	switch (errno) {
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
	case EINTR:
	case ETOOMANYREFS: /* too many fds of this user in flight */
		return -EAGAIN;
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
		return -EPIPE;
	default:
		return -errno;
	}
}

int frame_send(struct sluice_conn *conn, const struct sluice_frame *header,
	       const void *body, size_t body_len, int fd)
{
	struct conn_core *core = core_of(conn);
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov[2] = {
		{ .iov_base = (void *)(uintptr_t)header,
		  .iov_len = sizeof(*header) },
		{ .iov_base = (void *)(uintptr_t)body, .iov_len = body_len },
	};
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = body_len ? 2 : 1 };
	struct cmsghdr *cmsg;
	int r;

	if (core->flight)
		return -EAGAIN; /* it comes first */
	if (core->uring && fd < 0) {
		r = uring_frame_send(core, header, body, body_len);
		if (r <= 0)
			return r;
	}
	if (fd >= 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.space);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	}
	r = put(core, &msg);
	core->frames_sent += !r;
	return r;
}

int frame_land(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct flight *flight = core->flight;
	struct iovec iov;
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	int r;

	if (!flight)
		return 0;
	if (core->uring)
		return -EAGAIN;
	iov.iov_base = flight->data;
	iov.iov_len = flight->len;
	r = put(core, &msg);
	if (r == -EAGAIN)
		return r;
	core->flight = NULL;
	free(flight);
	return r == -EPIPE ? 0 : r; /* EOF will tell */
}

unsigned int fds_take(struct msghdr *msg, int *fds, unsigned int room)
{
	struct cmsghdr *cmsg;
	unsigned int came = 0;
	size_t i, count;
	int fd;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET ||
		    cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < count; i++) {
			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int),
			       sizeof(int));
			if (came < room)
				fds[came] = fd;
			else
				close(fd);
			came++;
		}
	}
	return came;
}

bool socket_hung_up(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };

	return poll(&p, 1, 0) == 1 && p.revents & (POLLRDHUP | POLLHUP);
}

bool socket_writable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	return poll(&p, 1, 0) == 1;
}

bool socket_unread(int fd)
{
	int bytes;

	return !ioctl(fd, SIOCOUTQ, &bytes) && bytes;
}

int frame_recv(struct sluice_conn *conn, struct frame *frame, int flags)
{
	struct conn_core *core = core_of(conn);
	union {
		char space[CMSG_SPACE(SCM_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov[2] = {
		{ .iov_base = &frame->header,
		  .iov_len = sizeof(frame->header) },
		{ .iov_base = frame->body, .iov_len = sizeof(frame->body) },
	};
	struct msghdr msg = { .msg_iov = iov,
			      .msg_iovlen = 2,
			      .msg_control = &control };
	int ends = 0;
	ssize_t n;

	frame->fd_count = 0;
	if (core->ring_reads)
		return -EAGAIN;
	/*
	 * ECONNRESET: the peer closed with unread messages. SEQPACKET says so
	 * once, and before the messages that are still queued here. A message
	 * without a byte is no frame: it counts as an end, if it is the last.
	 */
	do {
		msg.msg_controllen = sizeof(control);
		n = recvmsg(core->fd, &msg, flags | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno != ECONNRESET)
			return -errno;
	} while (n < 0 || (!n && !msg.msg_controllen &&
			   socket_hung_up(core->fd) && ++ends < SOCKET_ENDS));
	frame->fd_count = fds_take(&msg, frame->fds, FRAME_FDS_MAX);
	if (ends == SOCKET_ENDS) {
		frame_close(frame);
		return 0;
	}
	core->frames_received++;
	if ((size_t)n < sizeof(frame->header) || msg.msg_flags & MSG_TRUNC) {
		frame_close(frame);
		return -EPROTO;
	}
	frame->body_len = (size_t)n - sizeof(frame->header);
	return 1;
}

void frame_close(struct frame *frame)
{
	unsigned int i;

	for (i = 0; i < frame->fd_count && i < FRAME_FDS_MAX; i++)
		if (frame->fds[i] >= 0)
			close(frame->fds[i]);
	frame->fd_count = 0;
}
