/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A message that comes between the kernel's two looks. On a SEQPACKET socket
 * recv(2) looks for a message first, and if there is none, for the end; if both
 * come in between it returns 0 with the message in the queue. That takes some
 * 100,000 tries of the real call here, so this one does what it then does: it
 * lets the peer send and end when nothing was there, and says 0.
 */
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "life.h"

static void (*between)(void);

ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	ssize_t n = syscall(SYS_recvmsg, fd, msg, flags);
	void (*call)(void) = between;

	if (n >= 0 || errno != EAGAIN || !call)
		return n;
	between = NULL;
	call();
	msg->msg_controllen = 0;
	msg->msg_flags = 0;
	return 0;
}

static void expect_message_and_end(struct sluice_conn *conn)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, 1000000000), 1);
	CHECK(!between);
	CHECK_EQ(msg.len, 4);
	CHECK_MEM(sluice_msg_data(&msg), "last", 4);
	CHECK_OK(sluice_release(conn, &msg));
	ends_expect_eof(conn);
	sluice_conn_close(conn);
}

static int raw;

static void raw_ends(void)
{
	CHECK_EQ(send(raw, "last", 4, MSG_NOSIGNAL), 4);
	CHECK_SYS(close(raw));
}

TAP_TEST(plain)
{
	struct sluice_conn *conn;
	int fds[2];

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	CHECK_OK(sluice_conn_from_fd(&conn, fds[0],
				     &ENDS_OPTIONS(.flags = SLUICE_F_PLAIN)));
	raw = fds[1];
	between = raw_ends;
	expect_message_and_end(conn);
}

static struct sluice_conn *peer;

static void peer_ends(void)
{
	CHECK_OK(sluice_send(peer, "last", 4, 0, 0));
	sluice_conn_close(peer);
}

static const struct lane lanes[] = LIFE_LANES;

TAP_EACH(aware, lane, lanes)
{
	struct sluice_conn *conn[2];

	life_pair(conn, lane);
	peer = conn[1];
	between = peer_ends;
	expect_message_and_end(conn[0]);
}
