/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The fence by itself: a receive that stands still with the queue locked, while the
 * caller looks, and then takes exactly what was there, or nothing.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "fence.h"
#include "tap.h"

static struct fence *fence;
static int fds[2]; /* [0] sends, [1] receives */

static void open_fence(void)
{
	int r = fence_open(&fence);

	if (r == -EPERM || r == -ENOSYS)
		tap_skip("no userfaultfd: %s", strerror(-r));
	CHECK_OK(r);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
}

static void close_fence(void)
{
	fence_close(fence);
	close(fds[0]);
	close(fds[1]);
}

static int queued(void)
{
	int bytes;

	CHECK_SYS(ioctl(fds[1], SIOCINQ, &bytes));
	return bytes;
}

static int looks;

static bool yes(void *arg)
{
	(void)arg;
	looks++;
	return true;
}

static bool no(void *arg)
{
	(void)arg;
	looks++;
	return false;
}

TAP_TEST(takes_what_is_there)
{
	char data[16];

	open_fence();
	CHECK_EQ(send(fds[0], "abc", 3, 0), 3);
	CHECK_EQ(send(fds[0], "defgh", 5, 0), 5);
	CHECK_EQ(fence_receive(fence, fds[1], data, 8, yes, NULL), 8);
	CHECK_MEM(data, "abcdefgh", 8);
	CHECK_EQ(looks, 1);
	CHECK_EQ(send(fds[0], "i", 1, 0), 1);
	CHECK_EQ(fence_receive(fence, fds[1], data, 1, yes, NULL), 1);
	CHECK_EQ(data[0], 'i');
	close_fence();
}

/* What comes meanwhile stays. */
static bool send_more(void *arg)
{
	(void)arg;
	CHECK_EQ(send(fds[0], "more", 4, 0), 4);
	return true;
}

TAP_TEST(takes_no_more_than_that)
{
	char data[16];

	open_fence();
	CHECK_EQ(send(fds[0], "abc", 3, 0), 3);
	CHECK_EQ(fence_receive(fence, fds[1], data, 3, send_more, NULL), 3);
	CHECK_MEM(data, "abc", 3);
	CHECK_EQ(recv(fds[1], data, 16, 0), 4);
	CHECK_MEM(data, "more", 4);
	close_fence();
}

TAP_TEST(takes_nothing_if_told_so)
{
	char data[16];

	open_fence();
	CHECK_EQ(send(fds[0], "abc", 3, 0), 3);
	for (int i = 0; i < 100; i++)
		CHECK_EQ(fence_receive(fence, fds[1], data, 3, no, NULL),
			 -ECANCELED);
	CHECK_EQ(looks, 100);
	CHECK_EQ(queued(), 3);
	CHECK_EQ(fence_receive(fence, fds[1], data, 3, yes, NULL), 3);
	CHECK_MEM(data, "abc", 3);
	close_fence();
}

TAP_TEST(does_not_wait)
{
	char data[16];

	open_fence();
	CHECK_EQ(fence_receive(fence, fds[1], data, 3, yes, NULL), -EAGAIN);
	CHECK_SYS(shutdown(fds[0], SHUT_WR));
	CHECK_EQ(fence_receive(fence, fds[1], data, 3, yes, NULL), 0);
	CHECK_EQ(fence_receive(fence, -1, data, 3, yes, NULL), -EBADF);
	CHECK_EQ(looks, 0);
	close_fence();
}

/* The point of it: while the caller looks, nobody else gets anything. */
static atomic_bool begun, over;

static void *receive_too(void *arg)
{
	char *data = arg;

	begun = true;
	CHECK_EQ(recv(fds[1], data, 16, 0), 3);
	over = true;
	return NULL;
}

static pthread_t other;
static char others_data[16];

static bool let_another_try(void *arg)
{
	(void)arg;
	CHECK_EQ(-pthread_create(&other, NULL, receive_too, others_data), 0);
	CHECK_SOON(begun);
	tap_sleep(100000000);
	CHECK(!over);
	CHECK_EQ(send(fds[0], "def", 3, 0), 3);
	CHECK(!over);
	return true;
}

TAP_TEST(nobody_else_receives_meanwhile)
{
	char data[16];

	open_fence();
	CHECK_EQ(send(fds[0], "abc", 3, 0), 3);
	CHECK_EQ(fence_receive(fence, fds[1], data, 3, let_another_try, NULL),
		 3);
	CHECK_MEM(data, "abc", 3);
	pthread_join(other, NULL);
	CHECK_MEM(others_data, "def", 3);
	close_fence();
}

/* Killed while it stands: whoever waits for the lock goes on. */
static bool die(void *arg)
{
	(void)arg;
	raise(SIGKILL);
	return false;
}

TAP_TEST(killed_while_it_looks)
{
	char data[16];
	pid_t pid;

	open_fence();
	CHECK_EQ(send(fds[0], "abc", 3, 0), 3);
	fence_close(fence);
	pid = tap_fork();
	if (!pid) {
		CHECK_OK(fence_open(&fence));
		fence_receive(fence, fds[1], data, 3, die, NULL);
		_exit(1);
	}
	CHECK_EQ(tap_reap(pid), SIGKILL);
	CHECK_EQ(recv(fds[1], data, 16, 0), 3);
	CHECK_MEM(data, "abc", 3);
	close(fds[0]);
	close(fds[1]);
}

TAP_TEST(many_leave_nothing)
{
	int before, maps;
	char data[16];

	open_fence();
	CHECK_EQ(send(fds[0], "a", 1, 0), 1);
	CHECK_EQ(fence_receive(fence, fds[1], data, 1, no, NULL), -ECANCELED);
	before = tap_open_fds();
	maps = tap_mappings();
	for (int i = 0; i < 2000; i++) {
		CHECK_EQ(fence_receive(fence, fds[1], data, 1, i & 1 ? yes : no,
				       NULL),
			 i & 1 ? 1 : -ECANCELED);
		if (i & 1)
			CHECK_EQ(send(fds[0], "a", 1, 0), 1);
	}
	CHECK_EQ(tap_open_fds(), before);
	CHECK_LE(tap_mappings(), maps);
	close_fence();
}
