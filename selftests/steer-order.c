/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Order and integrity in the steered lane: messages change between ring and
 * socket all the time, for want of room or because several send at once.
 *
 * Limit: 400 s
 */
#include <liburing.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steers.h"

#define LEN_MAX 150000

/* One sender: one order --------------------------------------------------- */

static const struct shape {
	const char *name;
	uint32_t ring_slots, landing[3];
	unsigned int messages;
	unsigned int pause; /* the receiver sleeps every so many messages */
} shapes[] = {
	{ "tiny_ring", 16, { 4, 4, 2 }, 20000, 300 },
	{ "tiny_landing", 256, { 1, 0, 0 }, 20000, 300 },
	{ "tiny", 16, { 1, 1, 0 }, 20000, 100 },
	{ "roomy", 4096, { 64, 64, 8 }, 20000, 3000 },
	{ "never_sleeps", 16, { 1, 1, 1 }, 20000, 0 },
};

static void send_all(int fd, uint64_t key, unsigned int count)
{
	unsigned int i;

	tap_random_stream(1);
	for (i = 0; i < count; i++) {
		steers_send(fd, key, i, LEN_MAX);
		if (!tap_random_below(500))
			tap_sleep((int64_t)tap_random_below(2 * MS));
	}
}

TAP_EACH(one_sender, shape, shapes)
{
	struct sluice_endpoint_options endpoint =
		STEERS_ENDPOINT(.ring_slots = shape->ring_slots, .conns = 16);
	struct sluice_options options =
		ENDS_OPTIONS(.endpoint_options = &endpoint);
	struct sluice_conn *conn;
	struct daemon d;
	unsigned int i;
	pid_t pid;
	int peer;

	memcpy(endpoint.landing, shape->landing, sizeof(endpoint.landing));
	if (!shape->pause)
		options.spin_ns = SLUICE_SPIN_FOREVER;
	steers_start(&d);
	steers_pair(&conn, &peer, &options);
	pid = tap_fork();
	if (!pid) {
		send_all(peer, 7, shape->messages);
		_exit(0);
	}
	close(peer);
	for (i = 0; i < shape->messages; i++) {
		steers_recv(conn, 7, i, LEN_MAX);
		if (shape->pause && !tap_random_below(shape->pause))
			tap_sleep((int64_t)tap_random_below(5 * MS));
	}
	tap_join(pid);
	ends_expect_eof(conn);
	tap_diag("%llu steered, %llu spilled",
		 (unsigned long long)steers_steered(conn),
		 (unsigned long long)steers_spilled(conn));
	CHECK_EQ(steers_steered(conn) + steers_spilled(conn), shape->messages);
	CHECK_GT(steers_steered(conn), 0);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/* Many senders on one socket: the order of each --------------------------- */

#define THREADS 3
#define FORKS 2
#define SENDERS (THREADS + FORKS + 1)
#define EACH (10000u / (unsigned int)tap_slow & ~3u) /* in fours */

/* What a message begins with; its length follows from it. */
struct note {
	uint32_t sender, number;
};

static size_t note_len(struct note note)
{
	size_t len = steers_len(note.sender + 100, note.number, 9000);

	return len < sizeof(note) ? sizeof(note) : len;
}

static void note_fill(uint8_t *data, struct note note)
{
	tap_fill(data, note_len(note),
		 (uint64_t)note.sender << 32 | note.number);
	memcpy(data, &note, sizeof(note));
}

struct sender {
	int fd;
	uint32_t id;
};

static void *send_thread(void *arg)
{
	const struct sender *sender = arg;
	uint8_t data[9000];
	struct note note = { .sender = sender->id };

	for (; note.number < EACH; note.number++) {
		note_fill(data, note);
		CHECK_SYS(send(sender->fd, data, note_len(note), 0));
	}
	return NULL;
}

/* Linked in fours: io_uring keeps their order, some run in its workers. */
static void send_uring(int fd, uint32_t id)
{
	static uint8_t data[4][9000];
	struct note note = { .sender = id };
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	unsigned int i;

	CHECK_OK(io_uring_queue_init(8, &ring, 0));
	while (note.number < EACH) {
		for (i = 0; i < 4; i++, note.number++) {
			note_fill(data[i], note);
			sqe = io_uring_get_sqe(&ring);
			io_uring_prep_send(sqe, fd, data[i], note_len(note), 0);
			if (i < 3)
				sqe->flags |= IOSQE_IO_LINK;
			if (note.number % 8 < 4)
				sqe->flags |= IOSQE_ASYNC;
		}
		CHECK_EQ(io_uring_submit_and_wait(&ring, 4), 4);
		for (i = 0; i < 4; i++) {
			CHECK_OK(io_uring_wait_cqe(&ring, &cqe));
			CHECK_GT(cqe->res, 0);
			io_uring_cqe_seen(&ring, cqe);
		}
	}
	io_uring_queue_exit(&ring);
}

static void send_from_all(int fd, pid_t *pids)
{
	struct sender senders[SENDERS];
	pthread_t threads[THREADS];
	int i;

	for (i = 0; i < SENDERS; i++)
		senders[i] = (struct sender){ .fd = fd, .id = (uint32_t)i };
	for (i = 0; i < FORKS; i++) {
		pids[i] = tap_fork();
		if (!pids[i]) {
			send_thread(&senders[THREADS + i]);
			_exit(0);
		}
	}
	pids[FORKS] = tap_fork();
	if (!pids[FORKS]) {
		send_uring(fd, SENDERS - 1);
		_exit(0);
	}
	pids[FORKS + 1] = tap_fork();
	if (!pids[FORKS + 1]) {
		for (i = 0; i < THREADS; i++)
			CHECK(!pthread_create(&threads[i], NULL, send_thread,
					      &senders[i]));
		for (i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		_exit(0);
	}
}

TAP_EACH(many_senders, shape, shapes)
{
	struct sluice_endpoint_options endpoint =
		STEERS_ENDPOINT(.ring_slots = shape->ring_slots, .conns = 16);
	struct sluice_options options =
		ENDS_OPTIONS(.endpoint_options = &endpoint);
	uint32_t next[SENDERS] = { 0 };
	pid_t pids[FORKS + 2];
	static uint8_t want[9000];
	struct sluice_conn *conn;
	struct sluice_msg msg;
	struct note note;
	struct daemon d;
	unsigned int i;
	int peer;

	memcpy(endpoint.landing, shape->landing, sizeof(endpoint.landing));
	if (!shape->pause)
		options.spin_ns = SLUICE_SPIN_FOREVER;
	steers_start(&d);
	steers_pair(&conn, &peer, &options);
	send_from_all(peer, pids);
	for (i = 0; i < SENDERS * EACH; i++) {
		steers_wait(conn, &msg);
		memcpy(&note, sluice_msg_data(&msg), sizeof(note));
		CHECK_LT(note.sender, SENDERS);
		CHECK_EQ(note.number, next[note.sender]);
		next[note.sender]++;
		CHECK_EQ(msg.len, note_len(note));
		note_fill(want, note);
		CHECK_MEM(sluice_msg_data(&msg), want, msg.len);
		CHECK_OK(sluice_release(conn, &msg));
		if (shape->pause && !tap_random_below(shape->pause * 10))
			tap_sleep((int64_t)tap_random_below(5 * MS));
	}
	for (i = 0; i < FORKS + 2; i++)
		tap_join(pids[i]);
	tap_diag("%llu steered, %llu spilled",
		 (unsigned long long)steers_steered(conn),
		 (unsigned long long)steers_spilled(conn));
	CHECK_GT(steers_spilled(conn), 0);
	/* and if all of them were: the next one is not, or the one after that */
	for (i = 0; i < 2; i++) {
		CHECK_EQ(send(peer, &note, sizeof(note), 0), sizeof(note));
		steers_wait(conn, &msg);
		CHECK_OK(sluice_release(conn, &msg));
	}
	CHECK_GT(steers_steered(conn), 0);
	close(peer);
	ends_expect_eof(conn);
	sluice_conn_close(conn);
	steers_stop(&d);
}
