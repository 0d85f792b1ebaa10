/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * An echo server and client.
 *
 *   echo -l NAME    listens, and sends every message back, one client at a time
 *   echo NAME       sends each line of standard input and prints what comes back
 *
 * The server receives into a buffer of its own pool and sends that buffer on:
 * one copy. NAME is a path, or @NAME for an abstract name.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/sluice.h>

/* After -EAGAIN: waits until it is worth trying again. */
static int again(struct sluice_conn *conn, int ret, uint32_t what)
{
	return ret == -EAGAIN && sluice_wait(conn, what, -1) >= 0;
}

/* Returns 0 when the client has closed, a negative errno when it died. */
static int serve(struct sluice_conn *conn)
{
	struct sluice_buf *buf;
	size_t size = 1, len;
	uint64_t tag;
	int ret;

	for (;;) {
		do
			ret = sluice_loan(conn, size, &buf);
		while (again(conn, ret, SLUICE_SEND));
		if (ret < 0)
			return ret;
		do
			ret = sluice_recv_copy(conn, buf->data, buf->capacity,
					       &len, &tag);
		while (again(conn, ret, SLUICE_RECV));
		if (ret == 1) {
			do
				ret = sluice_send_buf(conn, buf, len, tag, 0);
			while (again(conn, ret, SLUICE_SEND));
			if (ret == 0)
				continue;
		}
		sluice_buf_unref(buf);
		if (ret != -EMSGSIZE)
			return ret;
		size = len; /* the message is still there */
	}
}

static int listen_at(const char *name)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	int ret = sluice_listen(&listener, name, NULL);

	if (ret < 0)
		return ret;
	while ((ret = sluice_accept(listener, &conn, -1)) == 0) {
		ret = serve(conn);
		if (ret < 0)
			fprintf(stderr, "echo: client: %s\n", strerror(-ret));
		sluice_conn_close(conn);
	}
	sluice_listener_close(listener);
	return ret;
}

static int talk_to(const char *name)
{
	struct sluice_conn *conn;
	struct sluice_msg msg;
	char *line = NULL;
	size_t size = 0;
	ssize_t len;
	int ret = sluice_connect(&conn, name, NULL);

	if (ret < 0)
		return ret;
	while (ret >= 0 && (len = getline(&line, &size, stdin)) > 0) {
		do
			ret = sluice_send(conn, line, len, 0, 0);
		while (again(conn, ret, SLUICE_SEND));
		if (ret < 0)
			break;
		ret = sluice_recv_wait(conn, &msg, -1);
		if (ret == 0)
			ret = -EPIPE; /* the server has closed */
		if (ret < 0)
			break;
		fwrite(sluice_msg_data(&msg), 1, msg.len, stdout);
		fflush(stdout);
		sluice_release(conn, &msg);
	}
	free(line);
	sluice_conn_close(conn);
	return ret < 0 ? ret : 0;
}

int main(int argc, char **argv)
{
	int ret;

	if (argc == 3 && strcmp(argv[1], "-l") == 0) {
		ret = listen_at(argv[2]);
	} else if (argc == 2) {
		ret = talk_to(argv[1]);
	} else {
		fprintf(stderr, "usage: echo [-l] NAME\n");
		return 2;
	}
	if (ret < 0)
		fprintf(stderr, "echo: %s: %s\n", argv[argc - 1],
			strerror(-ret));
	return ret < 0;
}
