/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The two ends of a transfer.
 *
 * The sender reads its input straight into buffers of its pool and sends those;
 * the receiver writes straight from the view of them. Backpressure is the
 * pool's limit: the sender waits until the receiver has released a buffer.
 *
 * How success is known (sluicecat.c has the whole rule): the sender ends its
 * stream only after a complete input, and the receiver answers only after a
 * complete output. Whoever fails leaves without closing the connection, which
 * its peer sees as a death.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sluicecat.h"

#define SECOND 1000000000ll
#define PIECE_MIN 512 /* a plain peer that refuses this is beyond help */

/* What a failing receiver's last words begin with, in every lane. */
static const char text_prefix[] = "sluicecat: ";

/* Sender ------------------------------------------------------------------- */

/* A confirmation, the last words of the receiver, or something to ignore. */
static void take_reply(struct cat *cat, const struct sluice_msg *msg)
{
	const size_t skip = sizeof(text_prefix) - 1;
	const char *text = sluice_msg_data(msg);
	size_t len = msg->len;

	if (!len) {
		cat->confirmed = true;
		cat->confirmed_bytes = msg->tag;
	} else if (len > skip && !memcmp(text, text_prefix, skip)) {
		text += skip;
		len -= skip;
		if (len >= sizeof(cat->peer_text))
			len = sizeof(cat->peer_text) - 1;
		/* for a terminal, from somebody else */
		for (size_t i = 0; i < len; i++)
			cat->peer_text[i] =
				isprint((unsigned char)text[i]) ? text[i] : '?';
		cat->peer_text[len] = '\0';
	}
	sluice_release(cat->conn, msg);
}

/* The next reply, as sluice_recv_wait(), whose return values it has. */
static int next_reply(struct cat *cat, int64_t timeout_ns)
{
	struct sluice_msg msg;
	int r;

	do {
		r = timeout_ns ? sluice_recv_wait(cat->conn, &msg, timeout_ns) :
				 sluice_recv(cat->conn, &msg);
	} while (r == -EINTR);
	if (r == 1)
		take_reply(cat, &msg);
	return r;
}

/* The transfer has failed with r (0: end of stream): says why. */
static int explain(struct cat *cat, int r)
{
	struct sluice_conn_info info;

	if (*cat->peer_text)
		return complain(cat, "the peer failed: %s", cat->peer_text);
	sluice_conn_info(cat->conn, &info);
	if (r == 0 || r == -EPIPE || r == -ECONNRESET)
		return complain(cat, "the peer closed before the end");
	return complain(cat, "the connection failed: %s%s%s", strerror(-r),
			*info.error_text ? ": " : "", info.error_text);
}

/* The connection ended under the sender: its receiver may have said why. */
static int cut_off(struct cat *cat, int r)
{
	while (!*cat->peer_text && next_reply(cat, SECOND) == 1)
		continue;
	return explain(cat, r);
}

/* Waits for what the last -EAGAIN lacked: 0 or -errno. */
static int wait_room(struct cat *cat)
{
	int r = sluice_wait(cat->conn, SLUICE_SEND, -1);

	if (r > 0 && (r & SLUICE_RECV)) {
		r = next_reply(cat, 0);
		if (!r)
			return -EPIPE;
	}
	return r < 0 && r != -EINTR && r != -EAGAIN ? r : 0;
}

/*
 * Waits until `in` can be read, or the connection ends, which a sender with an
 * idle input would not notice otherwise. 1: read; else as sluice_recv().
 */
static int wait_input(struct cat *cat, int in)
{
	struct pollfd fds[2] = { { .fd = in, .events = POLLIN },
				 { .fd = sluice_conn_fd(cat->conn) } };
	int r;

	while (poll(fds, 1, 0) <= 0) {
		r = sluice_arm(cat->conn, SLUICE_RECV, &fds[1].events);
		if (r < 0)
			return r;
		if (r == 0)
			poll(fds, 2, -1);
		do {
			r = next_reply(cat, 0);
		} while (r == 1);
		if (r != -EAGAIN)
			return r;
	}
	return 1;
}

/*
 * Sends len bytes of buf and gives up its reference. To an aware peer that is
 * one message and no copy; a plain one gets pieces that fit its socket.
 */
static int send_buffer(struct cat *cat, struct sluice_buf *buf, uint32_t len)
{
	struct sluice_part part = { .buf = buf };
	struct sluice_conn_info info;
	int r = 0;

	while (part.offset < len && !r) {
		part.len = len - part.offset;
		sluice_conn_info(cat->conn, &info);
		if (info.tx_lane == SLUICE_LANE_PLAIN &&
		    part.len > cat->plain_size)
			part.len = cat->plain_size;
		sluice_buf_ref(buf);
		r = sluice_send_parts(cat->conn, &part, 1, 0, 0);
		if (!r) {
			part.offset += part.len;
			cat->bytes += part.len;
			cat->messages++;
			continue;
		}
		sluice_buf_unref(buf);
		if (r == -EAGAIN) {
			r = wait_room(cat);
		} else if (r == -EMSGSIZE && part.len > PIECE_MIN) {
			cat->plain_size = part.len / 2;
			r = 0;
		}
	}
	sluice_buf_unref(buf);
	return r;
}

int cat_loan(struct cat *cat, struct sluice_buf **buf, bool wait)
{
	int r;

	do {
		r = sluice_loan(cat->conn, cat->buffer_size, buf);
		if (r != -EAGAIN || !wait)
			return r;
		r = wait_room(cat);
	} while (!r);
	return r;
}

/* Ends the stream and waits until the receiver has written all of it. */
static int finish_sending(struct cat *cat)
{
	struct sluice_conn_info info;
	bool aware;
	int r;

	sluice_conn_info(cat->conn, &info);
	aware = info.tx_lane != SLUICE_LANE_PLAIN;
	r = sluice_conn_shutdown(cat->conn);
	if (r < 0)
		return cut_off(cat, r);
	do {
		r = next_reply(cat, -1);
	} while (r == 1 && !(aware && cat->confirmed));

	if (*cat->peer_text)
		return explain(cat, r);
	if (aware && cat->confirmed) {
		if (cat->confirmed_bytes == cat->bytes)
			return CAT_OK;
		return complain(cat,
				"the peer wrote %" PRIu64 " of %" PRIu64
				" bytes",
				cat->confirmed_bytes, cat->bytes);
	}
	/* A plain peer's close after our end of stream is all it can say. */
	return !aware && r == 0 ? CAT_OK : explain(cat, r);
}

static int cannot_read(struct cat *cat, int error)
{
	return complain(cat, "cannot read the input: %s", strerror(error));
}

/* CAT_OK: all of it was sent. */
static int send_by_ring(struct cat *cat, struct reader *reader)
{
	struct sluice_buf *buf;
	uint32_t len;
	int r;

	while ((r = reader_next(reader, &buf, &len)) == 1) {
		r = send_buffer(cat, buf, len);
		if (r)
			return cut_off(cat, r);
		progress(cat);
	}
	if (r)
		return cut_off(cat, r);
	r = reader_error(reader);
	return r ? cannot_read(cat, -r) : CAT_OK;
}

static int send_by_read(struct cat *cat, int in)
{
	struct sluice_buf *buf;
	ssize_t n;
	int r;

	for (;;) {
		r = cat_loan(cat, &buf, true);
		if (r)
			return cut_off(cat, r);
		r = wait_input(cat, in);
		if (r != 1) {
			sluice_buf_unref(buf);
			return cut_off(cat, r);
		}
		n = read(in, buf->data, cat->buffer_size);
		if (n > 0) {
			r = send_buffer(cat, buf, (uint32_t)n);
			if (r)
				return cut_off(cat, r);
			progress(cat);
			continue;
		}
		sluice_buf_unref(buf);
		if (n == 0)
			break;
		if (errno != EINTR && errno != EAGAIN)
			return cannot_read(cat, errno);
	}
	return CAT_OK;
}

int cat_send(struct cat *cat)
{
	int in = *cat->operands ? tar_start_create(cat) : STDIN_FILENO, r;
	struct reader *reader;

	if (in < 0)
		return CAT_FAILED;
	reader = reader_new(cat, in);
	r = reader ? send_by_ring(cat, reader) : send_by_read(cat, in);
	reader_free(reader);
	if (r)
		return r;
	if (cat->tar && tar_finish(cat))
		return CAT_FAILED;
	return finish_sending(cat);
}

/* Receiver ----------------------------------------------------------------- */

static int write_all(int out, const char *data, size_t len)
{
	struct pollfd wait = { .fd = out, .events = POLLOUT };

	while (len) {
		ssize_t n = write(out, data, len);

		if (n >= 0) {
			data += n;
			len -= n;
		} else if (errno == EAGAIN) {
			poll(&wait, 1, -1);
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

/* Sends one short message, unless the peer is gone or deaf. */
static void answer(struct cat *cat, const char *text, uint64_t tag)
{
	int64_t give_up = clock_ns() + SECOND;
	int r;

	for (;;) {
		r = sluice_send(cat->conn, text, strlen(text), tag, 0);
		if (r != -EAGAIN || clock_ns() > give_up)
			return;
		r = sluice_wait(cat->conn, SLUICE_SEND, SECOND);
		if (r == SLUICE_RECV || (r < 0 && r != -EINTR))
			return;
	}
}

/* Tells the sender why its stream was not written; the caller then exits. */
static int refuse(struct cat *cat)
{
	char text[sizeof(text_prefix) + sizeof(cat->failure)];

	snprintf(text, sizeof(text), "%s%s", text_prefix, cat->failure);
	answer(cat, text, 0);
	return CAT_FAILED;
}

/* Writes what comes until the end of the stream; returns as sluice_recv(). */
static int drain(struct cat *cat, int out, int *write_error)
{
	struct sluice_msg msg;
	int r;

	for (;;) {
		r = sluice_recv_wait(cat->conn, &msg, -1);
		if (r == -EINTR)
			continue;
		if (r != 1)
			return r;
		*write_error = write_all(out, sluice_msg_data(&msg), msg.len);
		sluice_release(cat->conn, &msg);
		if (*write_error)
			return r;
		cat->bytes += msg.len;
		cat->messages++;
		progress(cat);
	}
}

/*
 * A client that named itself aware, and was gone for good before it sent a
 * thing, has died: it ends a plain stream by half, and waits for our close.
 */
static bool stillborn(struct cat *cat)
{
	struct pollfd hang_up = { .fd = sluice_conn_fd(cat->conn) };

	return cat->listen && !cat->bytes && poll(&hang_up, 1, 0) == 1 &&
	       hang_up.revents & POLLHUP;
}

int cat_receive(struct cat *cat)
{
	int out = cat->extract ? tar_start_extract(cat) : STDOUT_FILENO;
	struct sluice_conn_info first, info;
	int error = 0;
	int r;

	if (out < 0)
		return refuse(cat);
	sluice_conn_info(cat->conn, &first);
	r = drain(cat, out, &error);
	sluice_conn_info(cat->conn, &info);
	if (r == 0 && first.rx_reason == SLUICE_REASON_UNDECIDED &&
	    info.rx_lane == SLUICE_LANE_PLAIN && stillborn(cat))
		r = -ECONNRESET;
	if (r < 0)
		return explain(cat, r);

	/* Some file systems tell only now that the disk is full. */
	if (close(out) && !error)
		error = -errno;
	/* A tar that closed its input has said why. */
	if (cat->tar && (!error || error == -EPIPE) && tar_finish(cat))
		return refuse(cat);
	if (error) {
		complain(cat, "cannot write the output: %s", strerror(-error));
		return refuse(cat);
	}
	if (info.rx_lane != SLUICE_LANE_PLAIN)
		answer(cat, "", cat->bytes);
	return CAT_OK;
}
