/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * file-read, file-sendfile, file-splice: a file through an AF_UNIX stream socket, by
 * copy, and by the kernel's ways of leaving out one of the copies.
 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

static uint8_t *data;
static struct file_plan plan;
static int pipe_fds[2];

/* The file ------------------------------------------------------------------ */

static int file_new(void)
{
	const char *directory = getenv("TMPDIR");
	int fd = open(directory ? directory : "/tmp",
		      O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	return fd < 0 ? memfd_create("sluice-bench", MFD_CLOEXEC) : fd;
}

static int piece_write(int fd, uint8_t *piece, size_t size, uint64_t word)
{
	size_t done = 0;
	ssize_t n;

	touch_write(piece, size, word);
	while (done < size) {
		n = write(fd, piece + done, size - done);
		if (n < 0)
			return -1;
		done += (size_t)n;
	}
	return 0;
}

static int file_fill(int fd, const struct bench_case *c, uint8_t *piece)
{
	const uint64_t pieces = file_pieces(c);
	uint64_t i, flags;

	for (flags = 0; flags <= WORD_MEASURE; flags += WORD_MEASURE)
		for (i = 0; i < pieces; i++)
			if (piece_write(fd, piece, c->size,
					i * WORD_NUMBER | flags))
				return -1;
	return piece_write(fd, piece, c->size, WORD_MEASURE | WORD_STOP);
}

int file_prepare(const struct bench_case *c, struct bench_channel *channel,
		 char reason[BENCH_TEXT])
{
	uint8_t *piece = malloc(c->size);
	int fd = file_new(), ret = 0;

	if (!piece || fd < 0 || file_fill(fd, c, piece)) {
		ret = errno ? -errno : -ENOMEM;
		snprintf(reason, BENCH_TEXT, "file of 64 MiB: %s",
			 strerror(-ret));
		if (fd >= 0)
			close(fd);
	} else {
		channel->in[0] = fd;
	}
	free(piece);
	return ret;
}

static int socket_prepare(const struct bench_case *c,
			  struct bench_channel *channel,
			  char reason[BENCH_TEXT])
{
	int ret = stream_prepare(c, channel, reason);

	return ret ? ret : file_prepare(c, channel, reason);
}

/* The sides ----------------------------------------------------------------- */

static int file_open(struct bench_side *side)
{
	const int fd = side->channel->out[side->index];

	if (!side->block && fcntl(fd, F_SETFL, O_NONBLOCK))
		return side_fail(side, "O_NONBLOCK: %s", strerror(errno));
	if (posix_memalign((void **)&data, 4096, side->size) || pipe(pipe_fds))
		return side_fail(side, "buffer or pipe: %s", strerror(errno));
	/* A piece at once, if it may be that large. */
	fcntl(pipe_fds[1], F_SETPIPE_SZ, (int)side->size);
	memset(data, 1, side->size);
	return 0;
}

static int file_close(struct bench_side *side)
{
	(void)side;
	free(data);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return 0;
}

static inline bool again(ssize_t n)
{
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static int failed(struct bench_side *side, const char *what, ssize_t n)
{
	return side_fail(side, "%s: %s", what,
			 n ? strerror(errno) : "nothing came");
}

LOOP int read_send(struct bench_side *side, uint64_t *flags)
{
	const int file = side->channel->in[0], out = side->channel->out[0];
	uint64_t at = file_next(side, &plan, flags);
	size_t done = 0;
	ssize_t n;

	n = pread(file, data, side->size, (off_t)at);
	if (n != (ssize_t)side->size)
		return failed(side, "pread", n);
	while (done < side->size) {
		n = send(out, data + done, side->size - done, MSG_NOSIGNAL);
		if (n > 0)
			done += (size_t)n;
		else if (!again(n))
			return failed(side, "send", n);
	}
	return 0;
}

LOOP int sendfile_send(struct bench_side *side, uint64_t *flags)
{
	const int file = side->channel->in[0], out = side->channel->out[0];
	off_t at = (off_t)file_next(side, &plan, flags);
	const off_t end = at + (off_t)side->size;
	ssize_t n;

	while (at < end) {
		n = sendfile(out, file, &at, (size_t)(end - at));
		if (n <= 0 && !again(n))
			return failed(side, "sendfile", n);
	}
	return 0;
}

LOOP int splice_send(struct bench_side *side, uint64_t *flags)
{
	const int file = side->channel->in[0], out = side->channel->out[0];
	loff_t at = (loff_t)file_next(side, &plan, flags);
	size_t left = side->size, in_pipe;
	ssize_t n;

	while (left) {
		n = splice(file, &at, pipe_fds[1], NULL, left, SPLICE_F_MOVE);
		if (n <= 0)
			return failed(side, "splice from the file", n);
		left -= (size_t)n;
		for (in_pipe = (size_t)n; in_pipe;) {
			n = splice(pipe_fds[0], NULL, out, NULL, in_pipe,
				   SPLICE_F_MOVE | (left ? SPLICE_F_MORE : 0));
			if (n > 0)
				in_pipe -= (size_t)n;
			else if (!again(n))
				return failed(side, "splice to the socket", n);
		}
	}
	return 0;
}

LOOP const void *file_take(struct bench_side *side)
{
	const int in = side->channel->in[1];
	size_t done = 0;
	ssize_t n;

	while (done < side->size) {
		n = recv(in, data + done, side->size - done, 0);
		if (n > 0) {
			done += (size_t)n;
		} else if (!again(n)) {
			failed(side, "recv", n);
			return NULL;
		}
	}
	return data;
}

LOOP int file_done(struct bench_side *side)
{
	(void)side;
	return 0;
}

LOOP int socket_run(struct bench_side *side, file_send *send)
{
	static const struct loop_ops ops = { .take = file_take,
					     .done = file_done };

	return side->index ? file_receive_all(side, ops) :
			     file_send_all(side, send);
}

static int read_run(struct bench_side *side)
{
	return socket_run(side, read_send);
}

static int sendfile_run(struct bench_side *side)
{
	return socket_run(side, sendfile_send);
}

static int splice_run(struct bench_side *side)
{
	return socket_run(side, splice_send);
}

const struct bench_system bench_file_read = {
	.name = "file-read",
	.what = "a file: read, send on AF_UNIX SOCK_STREAM, recv",
	.patterns = BENCH_HAS(PATTERN_FILE),
	.prepare = socket_prepare,
	.open = file_open,
	.run = read_run,
	.close = file_close,
};

const struct bench_system bench_file_sendfile = {
	.name = "file-sendfile",
	.what = "a file: sendfile to AF_UNIX SOCK_STREAM, recv",
	.patterns = BENCH_HAS(PATTERN_FILE),
	.prepare = socket_prepare,
	.open = file_open,
	.run = sendfile_run,
	.close = file_close,
};

const struct bench_system bench_file_splice = {
	.name = "file-splice",
	.what = "a file: splice to a pipe and on to AF_UNIX SOCK_STREAM, recv",
	.patterns = BENCH_HAS(PATTERN_FILE),
	.prepare = socket_prepare,
	.open = file_open,
	.run = splice_run,
	.close = file_close,
};
