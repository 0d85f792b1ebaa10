/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* A thread's io_uring, its buffers and operations; way.h. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"
#include "way.h"

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

/* Entries ------------------------------------------------------------------ */

static void open_entries(struct thread *thread)
{
	thread->free_ways = calloc(SWITCH_WAYS, sizeof(*thread->free_ways));
	thread->of_entry = calloc(SWITCH_WAYS, sizeof(struct way *));
	if (!thread->free_ways || !thread->of_entry)
		return;
	while (thread->free_count < SWITCH_WAYS) {
		thread->free_ways[thread->free_count] =
			(uint16_t)(SWITCH_WAYS - 1 - thread->free_count);
		thread->free_count++;
	}
}

void ring_give_entry(struct way *way)
{
	struct thread *thread = way->pair->thread;
	struct switch_way *entry;
	unsigned int index;
	void *home;

	if (!thread->free_count)
		return;
	home = mmap(NULL, thread->size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (home == MAP_FAILED)
		return;
	/* homes lie side by side, and have a page each that is used, as a rule */
	madvise(home, thread->size, MADV_NOHUGEPAGE);
	index = thread->free_ways[--thread->free_count];
	thread->of_entry[index] = way;
	entry = &thread->loop.region->ways[index];
	memset(entry, 0, sizeof(*entry));
	entry->iov = (uintptr_t)&entry->base;
	entry->iov_count = 1;
	entry->control = (uintptr_t)entry->control_data;
	entry->base = (uintptr_t)home;
	entry->size = thread->size;
	way->entry = entry;
	way->home = home;
}

static __u64 entry_index(const struct way *way)
{
	return (__u64)(way->entry - way->pair->thread->loop.region->ways);
}

void ring_take_entry(struct way *way)
{
	struct thread *thread = way->pair->thread;

	if (!way->entry)
		return;
	thread->free_ways[thread->free_count++] = (uint16_t)entry_index(way);
	munmap(way->home, thread->size);
	way->entry = NULL;
}

void ring_give_home_back(struct way *way)
{
	madvise(way->home, way->pair->thread->size, MADV_DONTNEED);
}

/* Operations -------------------------------------------------------------- */

/* The program has submitted what was there, and more of its own. */
static void catch_up(struct thread *thread)
{
	struct io_uring_sq *sq = &thread->ring.sq;

	if (thread->loop.region)
		sq->sqe_head = sq->sqe_tail = *sq->ktail;
}

static int submit_and_wait(struct thread *thread, unsigned int count)
{
	int r;

	if (thread->loop.region)
		thread->loop.region->submit_only = !count;
	r = io_uring_submit_and_wait(&thread->ring, count);
	catch_up(thread);
	return r;
}

static struct io_uring_sqe *get_sqe(struct thread *thread)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&thread->ring)))
		submit_and_wait(thread, 0);
	return sqe;
}

/* In the low bits of a way's address, if it has no entry. */
static void submit(struct way *way, struct io_uring_sqe *sqe,
		   enum switch_operation operation)
{
	__u64 data = (uintptr_t)way | operation;

	if (way->entry)
		data = SWITCH_OF_TABLE | entry_index(way) << SWITCH_SHIFT |
		       operation;
	io_uring_sqe_set_data64(sqe, data);
	way->pair->operations++;
}

static void receive_to_home(struct way *way, struct io_uring_sqe *sqe)
{
	struct switch_way *entry = way->entry;

	entry->control_size = sizeof(entry->control_data);
	entry->flags = 0;
	io_uring_prep_recvmsg(sqe, way->in, (struct msghdr *)entry, 0);
}

void ring_receive(struct way *way)
{
	struct pair *pair = way->pair;
	struct io_uring_sqe *sqe = get_sqe(pair->thread);
	bool stream = pair->type == SOCK_STREAM;

	way->receiving = true;
	if (way->entry) {
		receive_to_home(way, sqe);
		submit(way, sqe, SWITCH_RECEIVE);
		return;
	}
	way->iov = (struct iovec){
		.iov_len = stream ? SWITCH_PIECE : pair->thread->size,
	};
	way->header = (struct msghdr){
		.msg_iov = &way->iov,
		.msg_iovlen = 1,
		.msg_control = stream ? NULL : way->control,
		.msg_controllen = stream ? 0 : sizeof(way->control),
	};
	io_uring_prep_recvmsg(sqe, way->in, &way->header, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = 0;
	submit(way, sqe, SWITCH_RECEIVE);
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
	submit(way, sqe, SWITCH_SEND);
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
	io_uring_sqe_set_data64(sqe, SWITCH_HANGUP);
}

static void read_mail_later(struct thread *thread)
{
	struct io_uring_sqe *sqe = get_sqe(thread);

	io_uring_prep_read(sqe, thread->mail_fd, &thread->mails,
			   sizeof(thread->mails), 0);
	io_uring_sqe_set_data64(sqe, SWITCH_MAIL);
}

/* The table follows from the program; a thread does without either. */
static void open_loop(struct thread *thread, const struct loop_program *program,
		      const struct io_uring_params *params)
{
	int r = loop_attach(&thread->loop, program, &thread->ring, params);

	if (r) {
		log_warning("a thread has no in-kernel switch: %s",
			    strerror(-r));
		return;
	}
	open_entries(thread);
}

int thread_open(struct thread *thread, const struct loop_program *program)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
			 IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		.cq_entries = RING_CQ_ENTRIES,
	};
	int r = io_uring_queue_init_params(RING_ENTRIES, &thread->ring,
					   &params);

	if (r == -EINVAL) {
		params = (struct io_uring_params){
			.flags = IORING_SETUP_CQSIZE,
			.cq_entries = RING_CQ_ENTRIES,
		};
		r = io_uring_queue_init_params(RING_ENTRIES, &thread->ring,
					       &params);
	}
	if (r)
		return r;
	if (program)
		open_loop(thread, program, &params);
	thread->starved_last = &thread->starved;
	thread->epoll = epoll_create1(EPOLL_CLOEXEC);
	r = thread->epoll < 0 ? -errno : open_buffers(thread);
	if (r) {
		io_uring_queue_exit(&thread->ring);
		if (thread->epoll >= 0)
			close(thread->epoll);
		loop_detach(&thread->loop);
		free(thread->free_ways);
		free(thread->of_entry);
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
	int r = submit_and_wait(thread, 1);

	if (r < 0 && r != -EINTR && r != -EBUSY && r != -EAGAIN)
		return false;
	io_uring_for_each_cqe(&thread->ring, head, cqe)
	{
		seen++;
		mail |= cqe->user_data == SWITCH_MAIL;
		hangup |= cqe->user_data == SWITCH_HANGUP;
		thread->buffers_out += !!(cqe->flags & IORING_CQE_F_BUFFER);
		if (cqe->user_data & ~(__u64)SWITCH_OPERATION)
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
		pair_free(pair);
	}
	close(thread->epoll);
	munmap(thread->buffers, (size_t)thread->size * BUFFERS + HEADER);
	loop_detach(&thread->loop);
	free(thread->free_ways);
	free(thread->of_entry);
}
