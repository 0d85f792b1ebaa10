/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Receiving under the eyes of the caller; fence.h. */
#include "fence.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct fence {
	int fault_fd; /* userfaultfd: the receive stands at the page */
	int done_fd; /* eventfd: it is over */
	unsigned char *page;
	size_t page_size;
	bool started;
	pthread_t thread; /* since the first use: sluiced has given up privileges */
	/* from one thread to the other: pairs of sem_post() and sem_wait(), and done_fd */
	sem_t work;
	bool stop;
	int fd;
	unsigned char *data;
	size_t len;
	ssize_t result;
};

/* Its thread --------------------------------------------------------------- */

static ssize_t receive(const struct fence *fence)
{
	struct iovec iov[2] = {
		{ .iov_base = fence->page, .iov_len = 1 },
		{ .iov_base = fence->data + 1, .iov_len = fence->len - 1 },
	};
	struct msghdr header = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	do
		n = recvmsg(fence->fd, &header, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static void *run(void *arg)
{
	struct fence *fence = arg;

	for (;;) {
		while (sem_wait(&fence->work))
			;
		if (fence->stop)
			return NULL;
		fence->result = receive(fence);
		eventfd_write(fence->done_fd, 1);
	}
}

/* Opening ------------------------------------------------------------------ */

static int open_fault_fd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (!ioctl(fd, UFFDIO_API, &api))
		return fd;
	close(fd);
	return -EOPNOTSUPP;
}

static int watch_page(struct fence *fence)
{
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	fence->page_size = (size_t)sysconf(_SC_PAGESIZE);
	fence->page = mmap(NULL, fence->page_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fence->page == MAP_FAILED)
		return -errno;
	range.range.start = (uintptr_t)fence->page;
	range.range.len = fence->page_size;
	if (!ioctl(fence->fault_fd, UFFDIO_REGISTER, &range))
		return 0;
	munmap(fence->page, fence->page_size);
	return -errno;
}

static int start_thread(struct fence *fence)
{
	sigset_t all, before;
	int r;

	sigfillset(&all); /* signals are the main thread's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&fence->thread, NULL, run, fence);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	fence->started = !r;
	return r;
}

int fence_open(struct fence **made)
{
	struct fence *fence = calloc(1, sizeof(*fence));
	int r;

	if (!fence)
		return -ENOMEM;
	fence->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fence->fault_fd = fence->done_fd < 0 ? -errno : open_fault_fd();
	r = fence->fault_fd < 0 ? fence->fault_fd : watch_page(fence);
	if (!r) {
		sem_init(&fence->work, 0, 0);
		*made = fence;
		return 0;
	}
	if (fence->fault_fd >= 0)
		close(fence->fault_fd);
	if (fence->done_fd >= 0)
		close(fence->done_fd);
	free(fence);
	return r;
}

void fence_close(struct fence *fence)
{
	if (fence->started) {
		fence->stop = true;
		sem_post(&fence->work);
		pthread_join(fence->thread, NULL);
	}
	sem_destroy(&fence->work);
	munmap(fence->page, fence->page_size);
	close(fence->fault_fd);
	close(fence->done_fd);
	free(fence);
}

/* The caller's thread ------------------------------------------------------- */

/* True: it stands still. False: it is over, having had nothing to receive. */
static bool wait_for_fault(struct fence *fence)
{
	struct pollfd fds[2] = {
		{ .fd = fence->fault_fd, .events = POLLIN },
		{ .fd = fence->done_fd, .events = POLLIN },
	};
	struct uffd_msg message;

	while (poll(fds, 2, -1) < 0)
		;
	return read(fence->fault_fd, &message, sizeof(message)) ==
	       sizeof(message);
}

/* The page is there: the receive goes on. */
static void let_go(struct fence *fence)
{
	struct uffdio_zeropage zero = {
		.range = { .start = (uintptr_t)fence->page,
			   .len = fence->page_size },
	};

	ioctl(fence->fault_fd, UFFDIO_ZEROPAGE, &zero);
}

/* Nor may it be: the receive fails with EFAULT. */
static void refuse(struct fence *fence)
{
	struct uffdio_range range = { .start = (uintptr_t)fence->page,
				      .len = fence->page_size };

	mprotect(fence->page, fence->page_size, PROT_NONE);
	ioctl(fence->fault_fd, UFFDIO_WAKE, &range);
}

static void wait_until_done(struct fence *fence)
{
	struct pollfd done = { .fd = fence->done_fd, .events = POLLIN };
	eventfd_t count;

	while (eventfd_read(fence->done_fd, &count))
		poll(&done, 1, -1);
}

ssize_t fence_receive(struct fence *fence, int fd, void *data, size_t len,
		      bool (*look)(void *arg), void *arg)
{
	bool wanted = true;
	int r = fence->started ? 0 : start_thread(fence);

	if (r)
		return r;
	fence->fd = fd;
	fence->data = data;
	fence->len = len;
	sem_post(&fence->work);
	if (wait_for_fault(fence)) {
		wanted = look(arg);
		if (wanted)
			let_go(fence);
		else
			refuse(fence);
	}
	wait_until_done(fence);
	if (!wanted)
		mprotect(fence->page, fence->page_size, PROT_READ | PROT_WRITE);
	else if (fence->result > 0)
		fence->data[0] = fence->page[0];
	/* not there again */
	madvise(fence->page, fence->page_size, MADV_DONTNEED);
	return wanted ? fence->result : -ECANCELED;
}
