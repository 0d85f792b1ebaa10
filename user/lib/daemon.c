/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * An endpoint's connection to sluiced: requests and their replies, and what to
 * do when it is gone.
 *
 * Its life is the endpoint's: EOF tells sluiced to destroy it. The other way
 * round, EOF here means that sluiced has died. All that is attached stays so, and
 * from then on it is called once a second; the one that answers is asked to let
 * the endpoint be ours (CLAIM), and told again which conns have left.
 *
 * A child of fork() shares the socket and never touches it.
 */
#include "steering.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define CALL_TIMEOUT_NS 5000000000
#define CALL_AGAIN_NS 1000000000
#define TICK_NS 1000000000
#define REPLY_FDS_MAX (SLUICE_RINGS_MAX * 4)

int daemon_connect(const struct sockaddr_un *address, socklen_t size)
{
	int fd, r;

	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (!connect(fd, (const struct sockaddr *)address, size))
		return fd;
	r = -errno;
	close(fd);
	return r;
}

int daemon_send(int socket, const struct sluice_control *request, int fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)request,
			     .iov_len = sizeof(*request) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *cmsg;

	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.space);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	}
	return sendmsg(socket, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* 1: *reply; 0: sluiced is gone; -EAGAIN; -EPROTO: it is something else. */
int daemon_receive(int socket, struct sluice_control *reply, int *fds,
		   unsigned int *fd_count)
{
	union {
		char space[CMSG_SPACE(REPLY_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { .iov_base = reply, .iov_len = sizeof(*reply) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	unsigned int room = fd_count ? *fd_count : 0, came;
	ssize_t n;

	n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : 0;
	came = fds_take(&msg, fds, room);
	if (fd_count)
		*fd_count = came < room ? came : room;
	if (n == 0)
		return 0;
	return n != sizeof(*reply) || msg.msg_flags & MSG_TRUNC ||
			       reply->magic != SLUICE_CONTROL_MAGIC ||
			       !(reply->flags & SLUICE_CONTROL_F_REPLY) ?
		       -EPROTO :
		       1;
}

/* Watchers ---------------------------------------------------------------- */

static void watch_socket(struct sluice_endpoint *endpoint,
			 struct watcher *watcher, int op)
{
	struct epoll_event event = { .events = EPOLLIN,
				     .data.ptr = watcher->data };

	if (endpoint->fd >= 0)
		epoll_ctl(watcher->epoll_fd, op, endpoint->fd, &event);
}

/*
 * Explicitly, before the socket is closed too: a child of fork() may hold it, and
 * with it the entry in the epoll.
 */
static void watch_all(struct sluice_endpoint *endpoint, int op)
{
	struct list *l, *tmp;

	list_for_each_safe(l, tmp, &endpoint->watchers)
		watch_socket(endpoint, list_entry(l, struct watcher, link), op);
}

int daemon_watch(struct sluice_endpoint *endpoint, struct watcher *watcher,
		 int epoll_fd, void *data)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = data };

	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, endpoint->timer_fd, &event))
		return -errno;
	watcher->epoll_fd = epoll_fd;
	watcher->data = data;
	pthread_mutex_lock(&endpoint->lock);
	list_append(&endpoint->watchers, &watcher->link);
	watch_socket(endpoint, watcher, EPOLL_CTL_ADD);
	pthread_mutex_unlock(&endpoint->lock);
	return 0;
}

void daemon_unwatch(struct sluice_endpoint *endpoint, struct watcher *watcher)
{
	pthread_mutex_lock(&endpoint->lock);
	list_remove(&watcher->link);
	watch_socket(endpoint, watcher, EPOLL_CTL_DEL);
	pthread_mutex_unlock(&endpoint->lock);
	epoll_ctl(watcher->epoll_fd, EPOLL_CTL_DEL, endpoint->timer_fd, NULL);
}

/* The connection ---------------------------------------------------------- */

static void set_timer(struct sluice_endpoint *endpoint, int64_t ns)
{
	struct itimerspec when = { .it_value = { .tv_sec = ns / 1000000000,
						 .tv_nsec = ns % 1000000000 } };

	timerfd_settime(endpoint->timer_fd, 0, &when, NULL);
}

static void lost(struct sluice_endpoint *endpoint)
{
	int64_t wait_ns;

	if (endpoint->fd < 0)
		return;
	watch_all(endpoint, EPOLL_CTL_DEL);
	close(endpoint->fd);
	endpoint->fd = -1;
	endpoint->claiming = false;
	wait_ns = endpoint->next_call - now_ns();
	set_timer(endpoint, wait_ns > 0 ? wait_ns : 1);
}

/*
 * The endpoint is no more: messages go to the sockets' queues. If a program still
 * steers, with maps that no sluiced knows, it finds HOLD from here on.
 */
static void destroyed(struct sluice_endpoint *endpoint, int error)
{
	struct sluice_ring *ring;
	uint32_t i, n;

	lost(endpoint);
	set_timer(endpoint, 0);
	/* Pairs with grant(): it sees the error, or we see what it has granted. */
	__atomic_store_n(&endpoint->error, error, __ATOMIC_SEQ_CST);
	for (i = 0; i < endpoint->rings_count; i++) {
		ring = &endpoint->rings[i];
		for (n = 0; n < endpoint->conns; n++)
			if (ring->entries[n].state == ENTRY_USED)
				word_hold(ring_word(ring, n));
	}
	grace_wait(); /* for programs that were about to claim a position */
	/* Pairs with lost() in worker.c. */
	__atomic_store_n(&endpoint->ended, true, __ATOMIC_RELEASE);
}

/*
 * Tells sluiced of each conn that is to be detached, if the socket has room. Those
 * that are not told stay LEAVING_DUE and are told later.
 */
static void push_detaches(struct sluice_endpoint *endpoint)
{
	struct sluice_ring *ring;
	uint32_t i, n;

	endpoint->detach_due = false;
	for (i = 0; i < endpoint->rings_count; i++) {
		ring = &endpoint->rings[i];
		for (n = 0; n < endpoint->conns; n++)
			if (ring->entries[n].state == ENTRY_LEAVING_DUE)
				daemon_detach(ring, n);
	}
}

/* A new sluiced knows from its maps who is attached, not who wanted to go. */
static void claimed(struct sluice_endpoint *endpoint)
{
	struct ring_entry *entry;
	uint32_t i, n;

	__atomic_add_fetch(&endpoint->calls, 1, __ATOMIC_RELAXED);
	for (i = 0; i < endpoint->rings_count; i++) {
		for (n = 0; n < endpoint->conns; n++) {
			entry = &endpoint->rings[i].entries[n];
			if (entry->state == ENTRY_LEAVING)
				entry->state = ENTRY_LEAVING_DUE;
		}
	}
	endpoint->detach_due = true;
}

static int send_claim(struct sluice_endpoint *endpoint)
{
	struct sluice_control request = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = SLUICE_CONTROL_CLAIM,
		.endpoint = endpoint->number,
	};

	return daemon_send(endpoint->fd, &request, endpoint->claim_fd);
}

/* A reply that nobody waits for. */
static void on_reply(struct sluice_endpoint *endpoint,
		     const struct sluice_control *reply)
{
	switch (reply->type) {
	case SLUICE_CONTROL_QUERY:
		if (endpoint->claiming &&
		    (reply->error || send_claim(endpoint)))
			lost(endpoint);
		break;
	case SLUICE_CONTROL_CLAIM:
		if (!endpoint->claiming)
			break;
		endpoint->claiming = false;
		if (reply->error == EAGAIN || reply->error == EBUSY)
			lost(endpoint);
		else if (reply->error)
			destroyed(endpoint, -(int)reply->error);
		else
			claimed(endpoint);
		break;
	case SLUICE_CONTROL_DETACH:
		/* An error is that it was not attached: as good. */
		if (reply->serial >> 28 < endpoint->rings_count)
			ring_left(&endpoint->rings[reply->serial >> 28],
				  reply->serial & 0xffff);
		break;
	}
}

static void read_replies(struct sluice_endpoint *endpoint)
{
	struct sluice_control reply;
	int r;

	while (endpoint->fd >= 0) {
		r = daemon_receive(endpoint->fd, &reply, NULL, NULL);
		if (r == -EAGAIN)
			return;
		if (r == 1)
			on_reply(endpoint, &reply);
		else if (r == 0)
			lost(endpoint);
	}
}

/* The first request may carry no fd: QUERY, and CLAIM when it is answered. */
static void call_again(struct sluice_endpoint *endpoint)
{
	struct sluice_control request = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = SLUICE_CONTROL_QUERY,
	};
	int64_t now = now_ns();
	int fd;

	if (now < endpoint->next_call)
		return;
	endpoint->next_call = now + CALL_AGAIN_NS;
	set_timer(endpoint, CALL_AGAIN_NS);
	fd = daemon_connect(&endpoint->address, endpoint->address_size);
	if (fd < 0)
		return;
	if (daemon_send(fd, &request, -1)) {
		close(fd);
		return;
	}
	set_timer(endpoint, 0);
	endpoint->fd = fd;
	endpoint->claiming = true;
	watch_all(endpoint, EPOLL_CTL_ADD);
}

static void service(struct sluice_endpoint *endpoint)
{
	read_replies(endpoint);
	if (endpoint->fd < 0 && !endpoint->error)
		call_again(endpoint);
	if (endpoint->detach_due)
		push_detaches(endpoint);
}

void daemon_service(struct sluice_endpoint *endpoint)
{
	/* Whoever has it does the same. */
	if (pthread_mutex_trylock(&endpoint->lock))
		return;
	service(endpoint);
	pthread_mutex_unlock(&endpoint->lock);
}

void daemon_tick(struct sluice_endpoint *endpoint)
{
	int64_t now = coarse_ns();

	if (now < __atomic_load_n(&endpoint->next_tick, __ATOMIC_RELAXED))
		return;
	__atomic_store_n(&endpoint->next_tick, now + TICK_NS, __ATOMIC_RELAXED);
	daemon_service(endpoint);
}

/* Requests ---------------------------------------------------------------- */

/* Waits for events on the socket. 0, -ETIMEDOUT. */
static int await(int fd, short events, int64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = events };
	int64_t left = deadline - now_ns();

	if (left <= 0)
		return -ETIMEDOUT;
	poll(&p, 1, (int)(left / 1000000) + 1);
	return 0;
}

int daemon_ready(struct sluice_endpoint *endpoint)
{
	int64_t deadline = deadline_after(CALL_TIMEOUT_NS);
	int r = 0;

	for (;;) {
		service(endpoint);
		if (endpoint->error)
			return endpoint->error;
		if (endpoint->fd < 0)
			return -ECONNREFUSED;
		if (!endpoint->claiming)
			return 0;
		r = await(endpoint->fd, POLLIN, deadline);
		if (r)
			return r;
	}
}

int daemon_await(struct sluice_endpoint *endpoint, int64_t deadline)
{
	int r;

	if (endpoint->fd < 0)
		return -ECONNREFUSED;
	r = await(endpoint->fd, POLLIN, deadline);
	service(endpoint);
	return r;
}

void daemon_detach(struct sluice_ring *ring, uint32_t index)
{
	struct sluice_endpoint *endpoint = ring->endpoint;
	struct ring_entry *entry = &ring->entries[index];
	struct sluice_control request = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = SLUICE_CONTROL_DETACH,
		.serial = ring->index << 28 | index,
		.endpoint = endpoint->number,
		.attach = { .ring = ring->index,
			    .conn = (uint32_t)entry->generation << 16 | index },
	};

	entry->state = ENTRY_LEAVING_DUE;
	if (endpoint->fd >= 0 && !endpoint->claiming &&
	    !daemon_send(endpoint->fd, &request, -1))
		entry->state = ENTRY_LEAVING;
	else
		endpoint->detach_due = true;
}

void daemon_destroy(struct sluice_endpoint *endpoint)
{
	struct sluice_control request = {
		.magic = SLUICE_CONTROL_MAGIC,
		.type = SLUICE_CONTROL_DESTROY,
		.endpoint = endpoint->number,
	};

	/* EOF says the same; but a child of fork() may hold it back. */
	if (endpoint->fd >= 0 && endpoint->number)
		daemon_send(endpoint->fd, &request, -1);
}

int daemon_call(struct sluice_endpoint *endpoint,
		struct sluice_control *request, int fd, int *fds,
		unsigned int *fd_count)
{
	int64_t deadline = deadline_after(CALL_TIMEOUT_NS);
	unsigned int room = fd_count ? *fd_count : 0, got;
	struct sluice_control reply;
	int r;

	request->magic = SLUICE_CONTROL_MAGIC;
	request->endpoint = endpoint->number;
	while ((r = daemon_send(endpoint->fd, request, fd)) == -EAGAIN) {
		r = await(endpoint->fd, POLLOUT, deadline);
		if (r)
			return r;
	}
	if (r)
		return r;
	for (;;) {
		got = room;
		r = daemon_receive(endpoint->fd, &reply, fds, &got);
		if (r == -EAGAIN) {
			r = await(endpoint->fd, POLLIN, deadline);
			if (r)
				return r;
			continue;
		}
		if (r == 0) {
			lost(endpoint);
			return -ECONNREFUSED;
		}
		if (r == 1 && reply.type == request->type &&
		    reply.serial == request->serial)
			break;
		while (got)
			close(fds[--got]);
		if (r == 1)
			on_reply(endpoint, &reply);
		if (endpoint->fd < 0)
			return -ECONNREFUSED;
	}
	if (fd_count)
		*fd_count = got;
	*request = reply;
	return -(int)reply.error;
}
