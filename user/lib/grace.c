/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The end of a steered conn: everything that send() took is published.
 *
 * recv() says that the peer's sending side has ended, by close() or by shutdown().
 * A program that begins after that sees it, too, and takes nothing. After a
 * shutdown() another thread may still be inside the program with a message that
 * it goes on to take: membarrier(GLOBAL) waits for those that run. After a close()
 * there is none, for send() holds the socket; nothing that is cheap to ask tells
 * the two apart, but the kernel's socket diagnostics do.
 *
 * The wait costs milliseconds, so it is made once for all conns of the ring that
 * have ended by then.
 */
#include "steering.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void grace_wait(void)
{
	/* Longer than any program runs: where membarrier cannot wait for them. */
	static const struct timespec long_enough = { .tv_nsec = 50000000 };

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
		nanosleep(&long_enough, NULL);
}

/* Asks for the peer of the socket; the answer is there when send() returns. */
static int ask_for_peer(int diag, int fd)
{
	struct {
		struct nlmsghdr header;
		struct unix_diag_req body;
	} request = {
		.header = { .nlmsg_len = sizeof(request),
			    .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			    .nlmsg_flags = NLM_F_REQUEST },
		.body = { .sdiag_family = AF_UNIX,
			  .udiag_states = ~0u,
			  .udiag_show = UDIAG_SHOW_PEER },
	};
	socklen_t size = sizeof(request.body.udiag_cookie);
	struct stat stat;

	if (fstat(fd, &stat) || getsockopt(fd, SOL_SOCKET, SO_COOKIE,
					   request.body.udiag_cookie, &size))
		return -errno;
	request.body.udiag_ino = (uint32_t)stat.st_ino;
	return send(diag, &request, sizeof(request), 0) < 0 ? -errno : 0;
}

/* Does it say that the peer has no file any more? */
static bool peer_is_gone(struct nlmsghdr *header, size_t size)
{
	struct rtattr *attribute;
	uint32_t peer;
	int len;

	if (!NLMSG_OK(header, size) ||
	    header->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
	    header->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
		return false;
	attribute = (void *)((char *)NLMSG_DATA(header) +
			     NLMSG_ALIGN(sizeof(struct unix_diag_msg)));
	len = (int)NLMSG_PAYLOAD(header, sizeof(struct unix_diag_msg));
	for (; RTA_OK(attribute, len); attribute = RTA_NEXT(attribute, len)) {
		if (attribute->rta_type != UNIX_DIAG_PEER ||
		    RTA_PAYLOAD(attribute) < sizeof(peer))
			continue;
		memcpy(&peer, RTA_DATA(attribute), sizeof(peer));
		return !peer; /* its inode */
	}
	return false;
}

/* Has the last fd of the peer's socket been closed? False: it cannot be told. */
static bool peer_has_closed(int fd)
{
	union {
		struct nlmsghdr header;
		char bytes[1024];
	} answer;
	bool gone = false;
	ssize_t n;
	int diag;

	diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
		      NETLINK_SOCK_DIAG);
	if (diag < 0)
		return false;
	if (!ask_for_peer(diag, fd)) {
		n = recv(diag, &answer, sizeof(answer), 0);
		gone = n > 0 && peer_is_gone(&answer.header, (size_t)n);
	}
	close(diag);
	return gone;
}

/* The sockets of conns that are attached, and whose they are. */
static unsigned int list_conns(struct sluice_ring *ring, struct pollfd *fds,
			       struct conn_core **cores)
{
	struct conn_core *core;
	unsigned int count = 0;
	uint32_t i;

	for (i = 0; i < ring->endpoint->conns; i++) {
		core = ring->entries[i].core;
		if (!core || !steer_on(core) || core->steer.ended)
			continue;
		fds[count].fd = core->fd;
		fds[count].events = POLLRDHUP;
		cores[count++] = core;
	}
	return count;
}

static void wait_for_all(struct sluice_ring *ring)
{
	struct conn_core **cores =
		calloc(ring->endpoint->conns, sizeof(*cores));
	struct pollfd *fds = calloc(ring->endpoint->conns, sizeof(*fds));
	unsigned int count = 0, i;

	if (cores && fds)
		count = list_conns(ring, fds, cores);
	if (count && poll(fds, count, 0) < 0)
		count = 0;
	grace_wait();
	for (i = 0; i < count; i++)
		if (fds[i].revents & (POLLRDHUP | POLLHUP))
			cores[i]->steer.ended = true;
	free(cores);
	free(fds);
}

void grace_pass(struct conn_core *core)
{
	if (core->steer.ended)
		return;
	if (!peer_has_closed(core->fd))
		wait_for_all(core->steer.ring);
	core->steer.ended = true;
}
