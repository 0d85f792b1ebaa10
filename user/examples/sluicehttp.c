/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * An aware HTTP server: a backend of a service of sluiced.
 *
 *	sluicehttp NAME [CONTROL]
 *
 * GET /N answers with N bytes of text. Any HTTP client that can use AF_UNIX sockets
 * is one: curl --unix-socket PATH http://x/100. POST answers with how many bytes
 * of body came; who asks first (Expect: 100-continue, as curl does for a large
 * body) is told to go on. A connection serves one request.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/sluice.h>

#define HEAD_MAX 8192
#define PART 16384 /* of an answer, as one send */

struct client {
	struct sluice_conn *conn;
	char head[HEAD_MAX]; /* of the request */
	size_t head_len;
	bool answering;
	size_t body_left, body_got; /* of a POST */
	bool asks; /* and waits before it sends the body */
	char reply[256];
	size_t reply_len, reply_sent;
	size_t text_left; /* of the answer */
};

static volatile sig_atomic_t stopping;

static void stop(int number)
{
	(void)number;
	stopping = 1;
}

static void answer(struct client *client)
{
	bool post = !strncmp(client->head, "POST ", 5);
	char text[64];
	int n;

	client->answering = true;
	n = snprintf(text, sizeof(text), "%zu bytes\n", client->body_got);
	client->text_left =
		post ? 0 : strtoull(strchr(client->head, '/') + 1, NULL, 10);
	client->reply_len = (size_t)snprintf(
		client->reply, sizeof(client->reply),
		"HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n"
		"Connection: close\r\n\r\n%s",
		post ? (size_t)n : client->text_left, post ? text : "");
}

static bool body(struct client *client, size_t len)
{
	if (len > client->body_left)
		len = client->body_left;
	client->body_got += len;
	client->body_left -= len;
	if (!client->body_left)
		answer(client);
	return true;
}

/* Some more of the request. False: it is not HTTP, or too long. */
static bool take(struct client *client, const char *data, size_t len)
{
	size_t room = HEAD_MAX - 1 - client->head_len, copied;
	const char *end, *field;

	if (client->body_left)
		return body(client, len);
	/* what comes with the head may be more than fits here */
	copied = len < room ? len : room;
	memcpy(client->head + client->head_len, data, copied);
	client->head_len += copied;
	client->head[client->head_len] = 0;
	end = strstr(client->head, "\r\n\r\n");
	if (!end)
		return copied == len;
	if (!strchr(client->head, '/'))
		return false;
	field = strcasestr(client->head, "\r\ncontent-length:");
	if (field && field < end)
		client->body_left = strtoull(field + 17, NULL, 10);
	field = strcasestr(client->head, "\r\nexpect: 100-continue\r\n");
	client->asks = field && field < end;
	return body(client, client->head_len -
				    (size_t)(end + 4 - client->head) + len -
				    copied);
}

/*
 * Once all is read that has come: then the body finds the conn steered. There is
 * room for it, since nothing was sent before. False: the client has gone.
 */
static bool tell_to_go_on(struct client *client)
{
	static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";

	if (!client->asks || !client->body_left)
		return true;
	client->asks = false;
	return !sluice_send(client->conn, text, sizeof(text) - 1, 0, 0);
}

/* 0: all is sent; or as sluice_send(). */
static int send_answer(struct client *client)
{
	static char text[PART];
	size_t len;
	int r = 0;

	if (client->reply_sent < client->reply_len) {
		r = sluice_send(client->conn, client->reply, client->reply_len,
				0, 0);
		if (r)
			return r;
		client->reply_sent = client->reply_len;
	}
	memset(text, 's', sizeof(text));
	while (client->text_left && !r) {
		len = client->text_left < PART ? client->text_left : PART;
		r = sluice_send(client->conn, text, len, 0, 0);
		if (!r)
			client->text_left -= len;
	}
	return r;
}

/* True: the connection is over. */
static bool serve(struct client *client, struct sluice_set *set)
{
	struct sluice_msg msg;
	int r = -EAGAIN;

	while (!client->answering &&
	       (r = sluice_recv(client->conn, &msg)) == 1) {
		bool good = take(client, sluice_msg_data(&msg), msg.len);

		sluice_release(client->conn, &msg);
		if (!good)
			return true;
	}
	if (!client->answering)
		return r != -EAGAIN || !tell_to_go_on(client);
	r = send_answer(client);
	if (r != -EAGAIN)
		return true;
	sluice_set_change(set, client->conn, SLUICE_SEND);
	return false;
}

/* How many came: 0 or 1. */
static unsigned int accept_client(struct sluice_listener *listener,
				  struct sluice_set *set)
{
	struct client *client;
	struct sluice_conn *conn;

	if (sluice_accept(listener, &conn, 0))
		return 0;
	client = calloc(1, sizeof(*client));
	if (client)
		client->conn = conn;
	if (!client || sluice_set_add(set, conn, SLUICE_RECV, client)) {
		sluice_conn_close(conn);
		free(client);
		return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	struct sluice_endpoint_options endpoint = { .size = sizeof(endpoint) };
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = SLUICE_F_STEER,
		.endpoint_options = &endpoint,
	};
	struct sluice_listener *listener;
	struct sluice_event events[64];
	struct sluice_set *set;
	unsigned int clients = 0;
	int r;

	if (argc < 2 || argc > 3) {
		fputs("usage: sluicehttp NAME [CONTROL]\n", stderr);
		return 2;
	}
	endpoint.control = argc > 2 ? argv[2] : NULL;
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	r = sluice_service_bind(&listener, argv[1], &options);
	if (!r)
		r = sluice_set_new(&set);
	if (r) {
		fprintf(stderr, "sluicehttp: %s: %s\n", argv[1], strerror(-r));
		return 1;
	}
	/* a set waits for conns only: listeners are looked at in between */
	while (!stopping) {
		struct pollfd pollfd = { .fd = sluice_listener_fd(listener),
					 .events = POLLIN };

		if (poll(&pollfd, 1, clients ? 0 : -1) > 0)
			clients += accept_client(listener, set);
		r = sluice_set_wait(set, events, 64, 1000000, 0);
		for (int i = 0; i < r; i++) {
			struct client *client = events[i].data;

			if (!serve(client, set))
				continue;
			sluice_conn_close(client->conn);
			free(client);
			clients--;
		}
	}
	sluice_listener_close(listener);
	sluice_set_free(set);
	return 0;
}
