/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Landing of STREAM: a steered conn whose messages are pieces of a stream. The
 * kernel gives the program each piece off the socket's queue; what it does not
 * steer it sends to the spill socket, so that is what is read in place of the
 * conn's own. The rules are those of steer.c, with the spill socket in the role
 * of the socket, and one more: what was spilled may be on its way for a while. So
 * there is no grant, and no end, before as much was read as was spilled.
 *
 * The conn's own socket is read before it is attached, and at the end: its peer
 * has called shutdown() or close(), and no more of what arrives is steered. While
 * the program may take pieces from it, nobody could say in which order the two
 * belong.
 */
#include "steering.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

/*
 * Whoever is refused because something came just then tries again whenever the
 * socket is found empty: each time at first, and then ever more rarely.
 */
#define TRIES 8
#define APART_MAX 10 /* powers of two */

static bool may_try(struct steering *s)
{
	uint32_t apart = s->tries < TRIES ? 0 : s->tries - TRIES;

	if (s->tries >= TRIES &&
	    ++s->passed < 1u << (apart < APART_MAX ? apart : APART_MAX))
		return false;
	s->passed = 0;
	return true;
}

bool stream_may_attach(struct conn_core *core)
{
	struct pollfd p = { .fd = core->fd, .events = POLLRDHUP };
	int queued;

	/* What was read from the socket comes first. */
	return !core->plain_count && !core->plain_eof &&
	       !ioctl(core->fd, SIOCINQ, &queued) && !queued &&
	       poll(&p, 1, 0) >= 0 && !(p.revents & (POLLRDHUP | POLLHUP)) &&
	       may_try(&core->steer);
}

void stream_attached(struct conn_core *core, const int *spill, uint32_t flags)
{
	struct steering *s = &core->steer;

	s->spill[0] = spill[0];
	s->spill[1] = spill[1];
	s->lags = flags & SLUICE_ATTACH_F_LAGS;
	if (s->epoll_fd >= 0)
		stream_watch(core, s->epoll_fd, NULL);
	if (core->set)
		set_watch_stream(core);
}

int stream_watch(const struct conn_core *core, int epoll_fd, void *data)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = data };

	if (core->steer.spill[1] < 0)
		return 0;
	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, core->steer.spill[1],
			 &event) ?
		       -errno :
		       0;
}

void stream_unwatch(const struct conn_core *core, int epoll_fd)
{
	if (core->steer.spill[1] >= 0)
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, core->steer.spill[1], NULL);
}

void stream_close(struct conn_core *core)
{
	struct steering *s = &core->steer;

	if (s->spill[1] < 0)
		return;
	/* explicitly: a child of fork() may hold it, and with it the entries */
	if (!conn_check(core) && s->epoll_fd >= 0)
		stream_unwatch(core, s->epoll_fd);
	if (!conn_check(core) && core->set)
		set_unwatch_stream(core);
	close(s->spill[0]);
	close(s->spill[1]);
	s->spill[0] = s->spill[1] = -1;
}

static struct sluice_steer_conn *line_of(const struct conn_core *core)
{
	/* The word is its first field. */
	return (void *)core->steer.word;
}

/* Pairs with the program's add, before the piece is on its way. */
static bool has_all(const struct conn_core *core)
{
	return __atomic_load_n(&line_of(core)->spilled, __ATOMIC_SEQ_CST) ==
	       core->steer.spill_read;
}

bool stream_may_grant(struct conn_core *core)
{
	struct steering *s = &core->steer;

	if (s->spill[1] < 0 || !has_all(core))
		return false;
	/* Pairs with the program's load; before the word turns GRANTED. */
	__atomic_store_n(&line_of(core)->granted, s->spill_read,
			 __ATOMIC_SEQ_CST);
	return true;
}

/* 1, -EAGAIN, or conn_fail()'s. */
static int read_spill(struct conn_core *core)
{
	struct steering *s = &core->steer;
	void *place = plain_scratch();
	ssize_t n;

	if (!place)
		return -ENOMEM;
	n = recv(s->spill[1], place, PLAIN_SCRATCH, MSG_DONTWAIT);
	if (n <= 0)
		return -EAGAIN;
	s->spill_read += (size_t)n;
	return plain_append(core, place, (size_t)n);
}

/* What the kernel could not deliver is lost, and it says so. */
static int check_spill(struct conn_core *core)
{
	socklen_t size = sizeof(int);
	int error = 0;

	getsockopt(core->steer.spill[0], SOL_SOCKET, SO_ERROR, &error, &size);
	return error ? conn_fail(conn_of(core), -EIO,
				 "the kernel lost a piece of the stream") :
		       -EAGAIN;
}

/*
 * Will nothing of the conn's own socket be steered any more? Its peer has closed,
 * or called shutdown(): either way the kernel has taken the socket out of the map
 * before it tells (it refuses our sends after SHUT_RD).
 */
static bool is_over(struct conn_core *core, bool *ended)
{
	struct pollfd p = { .fd = core->fd, .events = POLLIN | POLLRDHUP };

	if (poll(&p, 1, 0) <= 0)
		return false;
	*ended = p.revents & (POLLRDHUP | POLLHUP);
	return *ended ||
	       (!core->shut &&
		send(core->fd, NULL, 0, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
		errno == EPIPE);
}

/* After all that was spilled: what is left in the socket, or its end. */
static int read_rest(struct conn_core *core, bool ended)
{
	int r;

	/* A program may be at work for another thread of the peer. */
	if (ended)
		grace_pass(core);
	else
		grace_wait();
	r = read_spill(core);
	if (r != -EAGAIN)
		return r;
	/* No longer counted. */
	if (steer_lost(core))
		return conn_fail(
			conn_of(core), -ECONNABORTED,
			"without sluiced nobody knows if that was all");
	if (!has_all(core))
		return check_spill(core);
	/* From here on it is a socket like any other, which is never granted. */
	word_hold(core->steer.word);
	stream_close(core);
	if (!ended) {
		core->steer.lags = true;
		core->steer.error = -ESHUTDOWN;
	}
	return -EAGAIN;
}

int stream_fetch(struct conn_core *core)
{
	struct steering *s = &core->steer;
	bool ended = false;
	int r = read_spill(core);

	if (r != -EAGAIN)
		return r;
	if (!has_all(core) && !steer_lost(core))
		return check_spill(core);
	if (s->lags) {
		stream_close(core);
		return -EAGAIN;
	}
	return is_over(core, &ended) ? read_rest(core, ended) : -EAGAIN;
}
