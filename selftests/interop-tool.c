/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The C side of interop.t.py: one connection.
 *
 *   interop-tool serve|connect NAME [parts] [hold] <FILE >FILE
 *
 * Sends the messages in standard input, and receives into standard output all
 * the while, each as a u64 tag, a u32 length and the payload. "listening" and
 * "sent" on standard error say how far it is. parts: sends what is not inline in
 * up to three parts of one buffer. hold: does not say BYE, but waits to be killed
 * when all is sent. Exits with 0 after an orderly end, 3 when the peer died, 1
 * otherwise.
 *
 * Releases what it received in batches, the last one first.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sluice/sluice.h>

#define BATCH 8
#define DIED 3

struct input {
	char *data;
	size_t size;
	size_t at;
};

static void must(int ret, const char *what)
{
	if (ret < 0) {
		fprintf(stderr, "interop-tool: %s: %s\n", what, strerror(-ret));
		exit(1);
	}
}

static void read_all(struct input *input)
{
	size_t room = 0;
	ssize_t n;

	do {
		if (input->size == room) {
			room += 16u << 20;
			input->data = realloc(input->data, room);
			must(input->data ? 0 : -ENOMEM, "standard input");
		}
		n = read(0, input->data + input->size, room - input->size);
		must(n < 0 ? -errno : 0, "standard input");
		input->size += n;
	} while (n > 0);
}

static void write_all(const void *data, size_t size)
{
	must(fwrite(data, 1, size, stdout) == size ? 0 : -errno, "output");
}

static int send_parts(struct sluice_conn *conn, const void *data, uint32_t len,
		      uint64_t tag)
{
	struct sluice_part parts[3];
	struct sluice_buf *buf;
	uint32_t at = 0;
	int ret = sluice_loan(conn, len, &buf);

	if (ret < 0)
		return ret;
	memcpy(buf->data, data, len);
	for (int i = 0; i < 3; i++) {
		uint32_t end = i < 2 ? at + len / 5 : len;

		if (i > 0)
			sluice_buf_ref(buf);
		parts[i] = (struct sluice_part){ buf, at, end - at };
		at = end;
	}
	ret = sluice_send_parts(conn, parts, 3, tag, 0);
	for (int i = 0; ret < 0 && i < 3; i++)
		sluice_buf_unref(buf);
	return ret;
}

/* Sends the next message of the input; -EAGAIN: it stays the next one. */
static int send_next(struct sluice_conn *conn, struct input *input, bool parts)
{
	uint64_t tag;
	uint32_t len;
	int ret;

	memcpy(&tag, input->data + input->at, 8);
	memcpy(&len, input->data + input->at + 8, 4);
	if (parts && len > SLUICE_INLINE_MAX)
		ret = send_parts(conn, input->data + input->at + 12, len, tag);
	else
		ret = sluice_send(conn, input->data + input->at + 12, len, tag,
				  0);
	if (ret == 0)
		input->at += 12 + (size_t)len;
	return ret;
}

static void release(struct sluice_conn *conn, struct sluice_msg *held,
		    unsigned int *count)
{
	while (*count > 0)
		must(sluice_release(conn, &held[--*count]), "release");
}

static void wait_for(struct sluice_conn *conn, bool receive, bool send)
{
	uint32_t what = (receive ? SLUICE_RECV : 0) | (send ? SLUICE_SEND : 0);

	if (what)
		must(sluice_wait(conn, what, -1), "wait");
}

/* Until both directions have ended: 0, or -ECONNRESET when the peer died. */
static int exchange(struct sluice_conn *conn, struct input *input, bool parts,
		    bool hold)
{
	struct sluice_msg held[BATCH];
	unsigned int count = 0;
	int received = -EAGAIN;
	int sent = 0;

	while (received != 0 || sent != 1) {
		if (sent == 0 && input->at == input->size) {
			fprintf(stderr, "sent\n");
			if (hold)
				pause();
			must(sluice_conn_shutdown(conn), "shutdown");
			sent = 1;
		}
		if (sent != 1)
			sent = send_next(conn, input, parts);
		if (sent == -EPIPE)
			sent = 1; /* it may have sent more before it died */
		if (sent != 1 && sent != -EAGAIN)
			must(sent, "send");

		if (count == BATCH)
			release(conn, held, &count);
		if (received != 0)
			received = sluice_recv(conn, &held[count]);
		if (received == 1) {
			struct sluice_msg *msg = &held[count++];

			must(msg->flags ? -EPROTO : 0, "a message in parts");
			write_all(&msg->tag, 8);
			write_all(&msg->len, 4);
			write_all(sluice_msg_data(msg), msg->len);
		} else if (received == -ECONNRESET) {
			break;
		} else if (received != 0 && received != -EAGAIN) {
			must(received, "receive");
		}
		if (received != 1 && sent != 0) {
			release(conn, held, &count);
			wait_for(conn, received != 0, sent != 1);
		}
	}
	release(conn, held, &count);
	return received;
}

int main(int argc, char **argv)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	struct input input = { 0 };
	bool parts = false, hold = false;
	int ret;

	if (argc < 3) {
		fprintf(stderr, "usage: interop-tool serve|connect NAME "
				"[parts] [hold]\n");
		return 2;
	}
	for (int i = 3; i < argc; i++) {
		parts |= strcmp(argv[i], "parts") == 0;
		hold |= strcmp(argv[i], "hold") == 0;
	}
	read_all(&input);
	if (strcmp(argv[1], "serve") == 0) {
		must(sluice_listen(&listener, argv[2], NULL), argv[2]);
		fprintf(stderr, "listening\n");
		must(sluice_accept(listener, &conn, -1), "accept");
		sluice_listener_close(listener);
	} else {
		struct sluice_options options = {
			.size = sizeof(options),
			.flags = SLUICE_F_REQUIRE_AWARE,
		};

		must(sluice_connect(&conn, argv[2], &options), argv[2]);
	}
	ret = exchange(conn, &input, parts, hold);
	sluice_conn_close(conn);
	free(input.data);
	must(fflush(stdout) == 0 ? 0 : -errno, "standard output");
	return ret ? DIED : 0;
}
