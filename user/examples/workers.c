/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A receiver with worker threads: the messages of plain clients are spread over
 * them by their first 8 bytes (a user's number, say), with no lock in between.
 * Those with the same 8 bytes are handled in order.
 *
 *   workers NAME [WORKERS]    serves one client, and ends with it
 *
 * NAME is a path, or @NAME for an abstract name. Needs sluiced; the environment's
 * SLUICE_CONTROL is its control socket, if it is not at the usual place.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <sluice/sluice.h>

struct worker {
	struct sluice_ring *ring;
	int stop_fd;
	pthread_t thread;
	unsigned long messages;
	int error;
};

/* Takes what there is: -EAGAIN, or why there will be no more. */
static int take(struct worker *worker)
{
	struct sluice_msg msg;
	uint32_t conn;
	int ret;

	while ((ret = sluice_ring_recv(worker->ring, &msg, &conn)) == 1) {
		/* sluice_msg_data(&msg), msg.len: handle it here */
		worker->messages++;
		sluice_ring_release(worker->ring, &msg);
	}
	return ret;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct pollfd fds[] = {
		{ .fd = sluice_ring_fd(worker->ring), .events = POLLIN },
		{ .fd = worker->stop_fd, .events = POLLIN },
	};
	int ret;

	do {
		ret = take(worker);
		if (ret == -EAGAIN && sluice_ring_arm(worker->ring) == 0)
			poll(fds, 2, -1);
	} while (ret == -EAGAIN && !fds[1].revents);
	worker->error = ret == -EAGAIN ? 0 : ret;
	return NULL;
}

/* The home of the conn: short messages, spilled ones, and the end. */
static int serve(struct sluice_conn *conn, unsigned long *messages)
{
	struct sluice_msg msg;
	int ret;

	while ((ret = sluice_recv_wait(conn, &msg, -1)) == 1) {
		++*messages;
		sluice_release(conn, &msg);
	}
	return ret;
}

static int run(const char *name, struct sluice_endpoint *endpoint,
	       unsigned long *messages)
{
	struct sluice_options options = { .size = sizeof(options),
					  .endpoint = endpoint };
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	int ret;

	ret = sluice_listen(&listener, name, &options);
	if (ret)
		return ret;
	ret = sluice_accept(listener, &conn, -1);
	sluice_listener_close(listener);
	if (ret)
		return ret;
	ret = serve(conn, messages);
	sluice_conn_close(conn);
	return ret;
}

static void start(struct worker *worker, struct sluice_ring *ring, int stop_fd)
{
	*worker = (struct worker){ .ring = ring, .stop_fd = stop_fd };
	if (pthread_create(&worker->thread, NULL, work, worker)) {
		fprintf(stderr, "workers: cannot start a thread\n");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct sluice_endpoint_options options = {
		.size = sizeof(options), .flags = SLUICE_ENDPOINT_F_HASH
	};
	struct worker workers[SLUICE_RINGS_MAX];
	struct sluice_endpoint *endpoint;
	unsigned long home = 0;
	unsigned int i;
	int ret, stop_fd = eventfd(0, EFD_CLOEXEC);

	options.rings =
		1 + (argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 2);
	if (argc < 2 || options.rings > SLUICE_RINGS_MAX || stop_fd < 0) {
		fprintf(stderr, "usage: workers NAME [1 to 15]\n");
		return 2;
	}
	ret = sluice_endpoint_new(&endpoint, &options);
	if (ret) {
		fprintf(stderr, "workers: no endpoint: %s\n", strerror(-ret));
		return 1;
	}
	for (i = 1; i < options.rings; i++)
		start(&workers[i], sluice_endpoint_ring(endpoint, i), stop_fd);
	ret = run(argv[1], endpoint, &home);
	if (ret)
		fprintf(stderr, "workers: %s\n", strerror(-ret));
	eventfd_write(stop_fd, 1);
	printf("home: %lu messages\n", home);
	for (i = 1; i < options.rings; i++) {
		pthread_join(workers[i].thread, NULL);
		printf("worker %u: %lu messages\n", i, workers[i].messages);
		ret = ret ? ret : workers[i].error;
	}
	sluice_endpoint_free(endpoint);
	close(stop_fd);
	return ret != 0;
}
