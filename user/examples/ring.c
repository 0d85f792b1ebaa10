/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * An echo server with an event loop on its own io_uring: one ring for sluice and for
 * what else the program does, here a timer that says once a second what went by.
 *
 *   ring NAME       serves any number of clients ("echo NAME" is one), until SIGINT
 *
 * Requests of the program carry small numbers as user_data, those of sluice have the
 * prefix of sluice/uring.h.
 */
#include <errno.h>
#include <liburing.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/uring.h>

#define TIMER 1
#define ENTRIES 64
#define EVENTS 64

struct client {
	struct sluice_conn *conn;
	struct sluice_buf *buf; /* an answer that was not sent yet, or NULL */
	size_t len;
	uint64_t tag;
	uint32_t want; /* what the set waits for */
};

static struct io_uring ring;
static struct sluice_set *set;
static unsigned long clients, messages;
static volatile sig_atomic_t stop;

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

/* False: the SQ is full. */
static bool start_timer(void)
{
	static struct __kernel_timespec second = { .tv_sec = 1 };
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (!sqe)
		return false;
	io_uring_prep_timeout(sqe, &second, 0, 0);
	sqe->user_data = TIMER;
	return true;
}

/* Clients ------------------------------------------------------------------ */

static void hang_up(struct client *client)
{
	if (client->buf)
		sluice_buf_unref(client->buf);
	sluice_conn_close(client->conn);
	free(client);
	clients--;
}

static void welcome(const struct sluice_event *event)
{
	struct client *client;

	if (event->error) {
		fprintf(stderr, "accept: %s\n", strerror(-event->error));
		return;
	}
	client = calloc(1, sizeof(*client));
	if (!client) {
		sluice_conn_close(event->conn);
		return;
	}
	clients++;
	client->conn = event->conn;
	client->want = SLUICE_RECV;
	if (sluice_set_add(set, client->conn, client->want, client))
		hang_up(client);
}

/* Copies the next message to a buffer of our own. 1, or what went wrong. */
static int take(struct client *client)
{
	size_t size = 1;
	int ret;

	for (;;) {
		client->want = SLUICE_SEND;
		ret = sluice_loan(client->conn, size, &client->buf);
		if (ret)
			break;
		client->want = SLUICE_RECV;
		ret = sluice_recv_copy(client->conn, client->buf->data,
				       client->buf->capacity, &client->len,
				       &client->tag);
		if (ret == 1)
			return 1;
		sluice_buf_unref(client->buf);
		if (ret != -EMSGSIZE)
			break;
		size = client->len; /* the message is still there */
	}
	client->buf = NULL;
	return ret;
}

/* BATCH: answers to all clients go out with the next submit. */
static int answer(struct client *client)
{
	int ret = sluice_send_buf(client->conn, client->buf, client->len,
				  client->tag, SLUICE_SEND_F_BATCH);

	client->want = SLUICE_SEND;
	if (!ret) {
		client->buf = NULL;
		messages++;
	}
	return ret;
}

static void serve(struct client *client)
{
	uint32_t want = client->want;
	int ret;

	for (;;) {
		if (!client->buf) {
			ret = take(client);
			if (ret != 1)
				break;
		}
		ret = answer(client);
		if (ret)
			break;
	}
	if (ret != -EAGAIN) {
		hang_up(client); /* it has closed, or failed */
		return;
	}
	if (client->want != want)
		sluice_set_change(set, client->conn, client->want);
}

/* The loop ------------------------------------------------------------------ */

/* Submits and waits, then takes all CQEs: each is sluice's, or ours. 0 or -errno. */
static int turn(bool *timer_due)
{
	struct io_uring_cqe *cqe;
	int ret;

	ret = sluice_uring_prepare(set, &ring);
	if (ret < 0 && ret != -EAGAIN)
		return ret;
	/* 1: something is there already; -EAGAIN: the rest comes with the next. */
	ret = ret ? io_uring_submit_and_get_events(&ring) :
		    io_uring_submit_and_wait(&ring, 1);
	if (ret < 0 && ret != -EINTR)
		return ret;
	while (!io_uring_peek_cqe(&ring, &cqe)) {
		if (!sluice_uring_digest(set, cqe) && cqe->user_data == TIMER) {
			printf("%lu clients, %lu messages\n", clients,
			       messages);
			*timer_due = true;
		}
		io_uring_cqe_seen(&ring, cqe);
	}
	return 0;
}

static int loop(void)
{
	struct sluice_event events[EVENTS];
	bool timer_due = true;
	int ret = 0, n, i;

	while (!stop && !ret) {
		timer_due = timer_due && !start_timer();
		ret = turn(&timer_due);
		while ((n = sluice_uring_events(set, events, EVENTS)) > 0) {
			for (i = 0; i < n; i++) {
				if (events[i].ready == SLUICE_ACCEPTED)
					welcome(&events[i]);
				else
					serve(events[i].data);
			}
		}
	}
	return ret;
}

int main(int argc, char **argv)
{
	const struct sigaction action = { .sa_handler = on_signal };
	struct sluice_listener *listener;
	int ret;

	if (argc != 2) {
		fprintf(stderr, "usage: ring NAME\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	ret = sluice_listen(&listener, argv[1], NULL);
	if (!ret)
		ret = io_uring_queue_init(ENTRIES, &ring,
					  IORING_SETUP_SINGLE_ISSUER |
						  IORING_SETUP_DEFER_TASKRUN);
	if (ret == -EINVAL) /* before Linux 6.1 */
		ret = io_uring_queue_init(ENTRIES, &ring, 0);
	if (!ret)
		ret = sluice_uring_set(&set, &ring, NULL);
	if (!ret)
		ret = sluice_uring_listen(set, listener, NULL);
	if (!ret) {
		printf("Listening at %s\n", argv[1]);
		ret = loop();
	}
	if (ret) {
		fprintf(stderr, "ring: %s\n", strerror(-ret));
		return 1;
	}
	sluice_listener_close(listener); /* it unlinks a path */
	printf("%lu messages\n", messages);
	return 0;
}
