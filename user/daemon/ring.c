/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* A thread's io_uring, its buffers and operations; way.h. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "way.h"

#define ENTRIES 1024
#define HEADER 4096 /* of the memory: the ring of buffers */

/* Buffers ----------------------------------------------------------------- */

static void offer_buffer(struct thread *thread, int buffer)
{
	io_uring_buf_ring_add(thread->buffers,
			      thread->memory + (size_t)buffer * thread->size,
			      thread->size, (unsigned short)buffer,
			      io_uring_buf_ring_mask(BUFFERS), 0);
	io_uring_buf_ring_advance(thread->buffers, 1);
}

void ring_give_back(struct thread *thread, int buffer)
{
	offer_buffer(thread, buffer);
	thread->buffers_out--;
}

/* Counts as an operation, so that its pair stays. */
void ring_starve(struct way *way)
{
	struct thread *thread = way->pair->thread;

	way->receiving = true;
	way->pair->operations++;
	way->next_starved = NULL;
	*thread->starved_last = way;
	thread->starved_last = &way->next_starved;
}

/* Operations -------------------------------------------------------------- */

static struct io_uring_sqe *get_sqe(struct thread *thread)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&thread->ring)))
		io_uring_submit(&thread->ring);
	return sqe;
}

static void submit(struct way *way, struct io_uring_sqe *sqe,
		   enum operation operation)
{
	io_uring_sqe_set_data64(sqe, (uintptr_t)way | operation);
	way->pair->operations++;
}

void ring_receive(struct way *way)
{
	struct pair *pair = way->pair;
	struct io_uring_sqe *sqe = get_sqe(pair->thread);
	bool stream = pair->type == SOCK_STREAM;

	way->iov = (struct iovec){
		.iov_len = stream ? SWITCH_PIECE : pair->thread->size,
	};
	way->header = (struct msghdr){
		.msg_iov = &way->iov,
		.msg_iovlen = 1,
		.msg_control = stream ? NULL : way->control,
		.msg_controllen = stream ? 0 : sizeof(way->control),
	};
	way->receiving = true;
	io_uring_prep_recvmsg(sqe, way->in, &way->header, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = 0;
	submit(way, sqe, RECEIVE);
}

/*
 * All of them, since nobody knows which needs a buffer: a receive looks for one
 * before it looks for data, and one that then waits for data completes nothing.
 * And once what has come is handled, since a buffer may be back before the receive
 * that did not find it is known to have failed.
 */
static void feed_starved(struct thread *thread)
{
	struct way *way = thread->starved, *next;

	if (thread->buffers_out == BUFFERS)
		return;
	thread->starved = NULL;
	thread->starved_last = &thread->starved;
	for (; way; way = next) {
		next = way->next_starved;
		way->pair->operations--;
		ring_receive(way);
	}
}

void ring_send(struct way *way, int flags)
{
	struct io_uring_sqe *sqe = get_sqe(way->pair->thread);

	way->sending = true;
	io_uring_prep_send(sqe, way->out, way->data.at + way->sent,
			   way->data.length - way->sent, flags | MSG_NOSIGNAL);
	submit(way, sqe, SEND);
}

/*
 * By an epoll: a poll of io_uring's own completes for a half-close, too. The entry
 * goes with the fd.
 */
void ring_watch_hangup(struct way *way)
{
	struct epoll_event event = { .events = EPOLLONESHOT, .data.ptr = way };

	epoll_ctl(way->pair->thread->epoll, EPOLL_CTL_ADD, way->in, &event);
}

static void take_hangups(struct thread *thread)
{
	struct epoll_event events[64];
	int count = epoll_wait(thread->epoll, events, 64, 0);

	for (int i = 0; i < count; i++)
		pair_hung_up(events[i].data.ptr);
}

/* Threads ----------------------------------------------------------------- */

/* Nobody without privilege can send a message that is larger. */
static uint32_t message_max(void)
{
	FILE *file = fopen("/proc/sys/net/core/wmem_max", "re");
	unsigned int max = 0;

	if (file) {
		if (fscanf(file, "%u", &max) != 1)
			max = 0;
		fclose(file);
	}
	if (max > (1u << 30) / 2)
		max = (1u << 30) / 2;
	max = max * 2 < 262144 ? 262144 : max * 2;
	return (max + 4095) / 4096 * 4096;
}

static int open_buffers(struct thread *thread)
{
	struct io_uring_buf_reg reg = { .ring_entries = BUFFERS };
	void *memory;
	int r;

	thread->size = message_max();
	memory = mmap(NULL, (size_t)thread->size * BUFFERS + HEADER,
		      PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -errno;
	thread->buffers = memory;
	thread->memory = (unsigned char *)memory + HEADER;
	reg.ring_addr = (uintptr_t)memory;
	r = io_uring_register_buf_ring(&thread->ring, &reg, 0);
	if (r)
		return r;
	io_uring_buf_ring_init(thread->buffers);
	for (int i = 0; i < BUFFERS; i++)
		offer_buffer(thread, i);
	return 0;
}

static void watch_epoll(struct thread *thread)
{
	struct io_uring_sqe *sqe = get_sqe(thread);

	io_uring_prep_poll_add(sqe, thread->epoll, POLLIN);
	io_uring_sqe_set_data64(sqe, HANGUP);
}

static void read_mail_later(struct thread *thread)
{
	struct io_uring_sqe *sqe = get_sqe(thread);

	io_uring_prep_read(sqe, thread->mail_fd, &thread->mails,
			   sizeof(thread->mails), 0);
	io_uring_sqe_set_data64(sqe, MAIL);
}

int thread_open(struct thread *thread)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
			 IORING_SETUP_DEFER_TASKRUN,
		.cq_entries = 4 * ENTRIES,
	};
	int r = io_uring_queue_init_params(ENTRIES, &thread->ring, &params);

	if (r == -EINVAL) {
		params = (struct io_uring_params){
			.flags = IORING_SETUP_CQSIZE,
			.cq_entries = 4 * ENTRIES,
		};
		r = io_uring_queue_init_params(ENTRIES, &thread->ring, &params);
	}
	if (r)
		return r;
	thread->starved_last = &thread->starved;
	thread->epoll = epoll_create1(EPOLL_CLOEXEC);
	r = thread->epoll < 0 ? -errno : open_buffers(thread);
	if (r) {
		io_uring_queue_exit(&thread->ring);
		if (thread->epoll >= 0)
			close(thread->epoll);
		return r;
	}
	read_mail_later(thread);
	watch_epoll(thread);
	return 0;
}

bool thread_round(struct thread *thread)
{
	struct io_uring_cqe *cqe;
	unsigned int head, seen = 0;
	bool mail = false, hangup = false;
	int r = io_uring_submit_and_wait(&thread->ring, 1);

	if (r < 0 && r != -EINTR && r != -EBUSY && r != -EAGAIN)
		return false;
	io_uring_for_each_cqe(&thread->ring, head, cqe)
	{
		seen++;
		mail |= cqe->user_data == MAIL;
		hangup |= cqe->user_data == HANGUP;
		thread->buffers_out += !!(cqe->flags & IORING_CQE_F_BUFFER);
		if (cqe->user_data & ~OPERATIONS)
			pair_complete(thread, cqe);
	}
	io_uring_cq_advance(&thread->ring, seen);
	feed_starved(thread);
	if (mail)
		read_mail_later(thread);
	if (hangup) {
		take_hangups(thread);
		watch_epoll(thread);
	}
	return mail;
}

void thread_close(struct thread *thread)
{
	io_uring_queue_exit(&thread->ring);
	thread->starved = NULL;
	while (thread->pairs) {
		struct pair *pair = thread->pairs;

		thread->pairs = pair->next;
		pair_close(pair);
		free(pair);
	}
	close(thread->epoll);
	munmap(thread->buffers, (size_t)thread->size * BUFFERS + HEADER);
}
