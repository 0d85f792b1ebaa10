/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What plain peers sent, from the socket into memory of its own: one message, or
 * several at once from a socket that steered messages were spilled to.
 *
 * EOF and a zero-length message both read as 0. SO_TIMESTAMP tells them apart:
 * a message has a time, EOF has not.
 */
#include "internal.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>

/* What a copy of costs less than a system call. */
#define COPY_MAX 16384
/* Several at once: if the last one was no longer than this. */
#define BATCH_LEN_MAX 4096
#define SCRATCH_BYTES (PLAIN_BATCH * PLAIN_SCRATCH)

union control {
	char space[CMSG_SPACE(sizeof(struct timeval))];
	struct cmsghdr align;
}; /* no room for fds: the kernel drops them */

static void ask_for_times(struct conn_core *core)
{
	int one = 1;

	if (!core->plain_timestamps)
		setsockopt(core->fd, SOL_SOCKET, SO_TIMESTAMP, &one,
			   sizeof(one));
	core->plain_timestamps = true;
}

int plain_look(struct conn_core *core, int flags, void *data, size_t size,
	       size_t *len)
{
	union control control;
	struct iovec iov = { .iov_base = data, .iov_len = size };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control };
	int ends = 0;
	ssize_t n;

	ask_for_times(core);
	do {
		msg.msg_controllen = sizeof(control.space);
		n = recvmsg(core->fd, &msg, flags | MSG_TRUNC | MSG_DONTWAIT);
		if (n < 0 && errno != ECONNRESET)
			return errno == EINTR ? -EAGAIN : -errno;
	} while (n < 0 || (!n && !msg.msg_controllen && ++ends < SOCKET_ENDS));
	*len = (size_t)n;
	return n || msg.msg_controllen;
}

/* Memory ------------------------------------------------------------------ */

/* The thread's own, a place for each message of a batch; freed when it ends. */
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
	/* Of all places but the first, a few bytes are used. */
	madvise((uint8_t *)memory + PLAIN_SCRATCH,
		SCRATCH_BYTES - PLAIN_SCRATCH, MADV_NOHUGEPAGE);
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

void plain_buffer_give(struct conn_core *core, void *data)
{
	size_t size = malloc_usable_size(data);

	if (size <= COPY_MAX || size <= malloc_usable_size(core->plain_spare)) {
		free(data);
		return;
	}
	free(core->plain_spare);
	core->plain_spare = data;
}

/* Fetching ---------------------------------------------------------------- */

static void append(struct conn_core *core, void *data, size_t len)
{
	core->plain[core->plain_first + core->plain_count++] =
		(struct plain_message){ .data = data, .len = len };
	core->plain_last_len = len;
}

int plain_append(struct conn_core *core, const void *from, size_t len)
{
	void *data;

	if (len > PLAIN_SCRATCH)
		return conn_fail(conn_of(core), -EMSGSIZE,
				 "message is longer than any can be");
	data = buffer_take(core, len);
	if (!data)
		return conn_fail(conn_of(core), -ENOMEM, "out of memory");
	memcpy(data, from, len);
	append(core, data, len);
	return 1;
}

void *plain_scratch(void)
{
	return scratch_make() ? scratch : NULL;
}

static int fetch_one(struct conn_core *core)
{
	size_t n = 0;
	int r;

	if (!scratch_make())
		return -ENOMEM;
	r = plain_look(core, 0, scratch, PLAIN_SCRATCH, &n);
	return r == 1 ? plain_append(core, scratch, n) : r;
}

/* Asks for its length first, and makes no copy. */
static int fetch_long(struct conn_core *core)
{
	size_t n = 0;
	void *data;
	int r;

	r = plain_look(core, MSG_PEEK, NULL, 0, &n);
	if (r != 1)
		return r;
	data = buffer_take(core, n);
	r = data ? plain_look(core, 0, data, n, &n) : -ENOMEM;
	if (r == 1)
		append(core, data, n);
	else
		plain_buffer_give(core, data);
	return r;
}

/*
 * All that there are, up to PLAIN_BATCH. What it does not say, it leaves to the
 * next call: an end, which is looked at twice, and an error.
 */
static int fetch_batch(struct conn_core *core)
{
	struct mmsghdr msgs[PLAIN_BATCH] = { 0 };
	struct iovec iov[PLAIN_BATCH];
	union control control[PLAIN_BATCH];
	int i, n, r;

	if (!scratch_make())
		return -ENOMEM;
	for (i = 0; i < PLAIN_BATCH; i++) {
		iov[i].iov_base = scratch + (size_t)i * PLAIN_SCRATCH;
		iov[i].iov_len = PLAIN_SCRATCH;
		msgs[i].msg_hdr.msg_iov = &iov[i];
		msgs[i].msg_hdr.msg_iovlen = 1;
		msgs[i].msg_hdr.msg_control = &control[i];
		msgs[i].msg_hdr.msg_controllen = sizeof(control[i].space);
	}
	n = recvmmsg(core->fd, msgs, PLAIN_BATCH, MSG_TRUNC | MSG_DONTWAIT,
		     NULL);
	for (i = 0; i < n; i++) {
		if (!msgs[i].msg_len && !msgs[i].msg_hdr.msg_controllen)
			break;
		r = plain_append(core, iov[i].iov_base, msgs[i].msg_len);
		if (r != 1)
			return r;
	}
	return i > 0 ? 1 : fetch_one(core);
}

int plain_fetch(struct conn_core *core)
{
	int r;

	core->plain_first = 0;
	if (core->steer.spill[1] >= 0) {
		r = stream_fetch(core);
		if (r != -EAGAIN || core->steer.spill[1] >= 0)
			return r;
	}
	ask_for_times(core);
	if (core->plain_last_len > COPY_MAX && !core->stream)
		r = fetch_long(core);
	else if (core->plain_spilled && core->plain_last_len <= BATCH_LEN_MAX)
		r = fetch_batch(core);
	else
		r = fetch_one(core);
	/* There was a message: with steering, others are likely behind it. */
	core->plain_spilled = r == 1 && steer_on(core) && !core->stream;
	return r;
}
