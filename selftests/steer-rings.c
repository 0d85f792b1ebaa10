/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Endpoints of several rings: threads that receive each from conns on a ring of
 * its own; which ring a message is hashed to; and calls that are out of place.
 *
 * Limit: 300 s
 */
#include <linux/sockios.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "steers.h"

#include "../bpf/steer.h" /* STEER_HASH_FACTOR */

#define RINGS 4
#define CONNS 4 /* of each ring */
#define LEN_MAX 5000

/* By connection ------------------------------------------------------------ */

struct reader {
	struct sluice_endpoint *endpoint;
	uint32_t ring;
	uint64_t each;
	int fds[CONNS];
	pthread_t thread;
	uint64_t steered;
};

static uint64_t key_of(uint32_t ring, uint32_t conn)
{
	return ring * CONNS + conn + 1;
}

/* To all conns of a ring, in turns. */
static void sender_main(uint32_t ring, uint64_t each, const int *fds)
{
	uint64_t next[CONNS] = { 0 }, left = each * CONNS;
	uint32_t i;

	tap_random_stream(1 + ring);
	while (left) {
		i = (uint32_t)tap_random_below(CONNS);
		if (next[i] == each)
			continue;
		steers_send(fds[i], key_of(ring, i), next[i]++, LEN_MAX);
		left--;
	}
}

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	struct sluice_options options =
		ENDS_OPTIONS(.flags = SLUICE_F_PLAIN,
			     .endpoint = reader->endpoint,
			     .ring = reader->ring);
	struct sluice_conn *conn[CONNS];
	uint64_t next[CONNS] = { 0 };
	struct sluice_event event;
	struct sluice_set *set;
	struct sluice_msg msg;
	uint32_t left = CONNS, i;
	int r;

	tap_random_stream(20 + reader->ring);
	CHECK_OK(sluice_set_new(&set));
	for (i = 0; i < CONNS; i++) {
		CHECK_OK(sluice_conn_from_fd(&conn[i], reader->fds[i],
					     &options));
		CHECK(steers_on(conn[i]));
		CHECK_OK(sluice_set_add(set, conn[i], SLUICE_RECV, &conn[i]));
	}
	while (left) {
		CHECK_EQ(sluice_set_wait(set, &event, 1, 20 * SECOND * tap_slow,
					 reader->ring % 2 ? 20000 : 0),
			 1);
		i = (uint32_t)((struct sluice_conn **)event.data - conn);
		r = sluice_recv(conn[i], &msg);
		if (r == -EAGAIN)
			continue;
		if (r == 0) {
			CHECK_EQ(next[i], reader->each);
			reader->steered += steers_steered(conn[i]);
			sluice_conn_close(conn[i]);
			left--;
			continue;
		}
		CHECK_EQ(r, 1);
		steers_check(sluice_msg_data(&msg), msg.len,
			     key_of(reader->ring, i), next[i]++, LEN_MAX);
		CHECK_OK(sluice_release(conn[i], &msg));
		if (tap_random_below(2000) == 0)
			tap_sleep(MS); /* rings fill, and spill */
	}
	sluice_set_free(set);
	return NULL;
}

static const struct size {
	const char *name;
	uint32_t rings, ring_slots, landing[SLUICE_LANDING_CLASSES];
} sizes[] = {
	{ "two", 2, 4096, { 16, 4 } },
	{ "four", 4, 4096, { 16, 4 } },
	{ "small", 3, 16, { 1, 1 } },
};

TAP_EACH(by_connection, size, sizes)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.rings = size->rings, .conns = 16,
				.ring_slots = size->ring_slots);
	uint64_t each = 8000 / (uint64_t)tap_slow;
	struct reader readers[RINGS] = { 0 };
	struct sluice_endpoint_info info;
	struct sluice_endpoint *endpoint;
	int pair[2], peer[CONNS];
	pid_t pid[RINGS];
	struct daemon d;
	uint32_t i, k;

	tap_limit(90);
	memcpy(e.landing, size->landing, sizeof(e.landing));
	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&endpoint, &e));
	for (i = 0; i < size->rings; i++) {
		readers[i].endpoint = endpoint;
		readers[i].ring = i;
		readers[i].each = each;
		for (k = 0; k < CONNS; k++) {
			CHECK_SYS(socketpair(AF_UNIX,
					     SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
					     pair));
			readers[i].fds[k] = pair[0];
			peer[k] = pair[1];
		}
		pid[i] = tap_fork();
		if (!pid[i]) {
			sender_main(i, each, peer);
			_exit(0);
		}
		for (k = 0; k < CONNS; k++)
			close(peer[k]);
	}
	for (i = 0; i < size->rings; i++)
		CHECK_EQ(pthread_create(&readers[i].thread, NULL, reader_main,
					&readers[i]),
			 0);
	for (i = 0; i < size->rings; i++) {
		CHECK_EQ(pthread_join(readers[i].thread, NULL), 0);
		tap_join(pid[i]);
		tap_diag("ring %u: %llu of %llu steered", i,
			 (unsigned long long)readers[i].steered,
			 (unsigned long long)each * CONNS);
		CHECK_GT(readers[i].steered, 0);
	}
	sluice_endpoint_info(endpoint, &info);
	CHECK_EQ(info.landing_used, 0);
	CHECK_EQ(info.rings, size->rings);
	sluice_endpoint_free(endpoint);
	steers_stop(&d);
}

/* By hash ------------------------------------------------------------------ */

/* An endpoint that hashes, with one conn. */
struct hashed {
	struct daemon d;
	struct sluice_endpoint *endpoint;
	struct sluice_ring *ring[RINGS];
	struct sluice_conn *conn;
	uint32_t number;
	int peer;
};

static uint32_t number_of(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	return info.steer_conn;
}

static void hashed_pair(struct hashed *h)
{
	struct sluice_options options = ENDS_OPTIONS(.endpoint = h->endpoint);

	steers_pair(&h->conn, &h->peer, &options);
	h->number = number_of(h->conn);
	CHECK_EQ(sluice_wait(h->conn, SLUICE_RECV, 0), -ETIMEDOUT);
}

static void hashed_open(struct hashed *h)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.flags = SLUICE_ENDPOINT_F_HASH, .rings = RINGS,
				.ring_slots = 64, .conns = 16,
				.landing = { 1 });
	uint32_t i;

	steers_start(&h->d);
	CHECK_OK(sluice_endpoint_new(&h->endpoint, &e));
	for (i = 0; i < RINGS; i++)
		h->ring[i] = sluice_endpoint_ring(h->endpoint, i);
	hashed_pair(h);
}

static void hashed_close(struct hashed *h)
{
	sluice_conn_close(h->conn);
	sluice_endpoint_free(h->endpoint);
	close(h->peer);
	steers_stop(&h->d);
}

/* PROTOCOL.md section 15 */
static uint32_t ring_of(uint64_t key)
{
	return (uint32_t)((key * STEER_HASH_FACTOR) >> 32) % RINGS;
}

/* A message of len bytes for ring i. */
static void send_to(struct hashed *h, uint32_t i, size_t len)
{
	uint8_t data[256] = { 0 };
	uint64_t key;

	for (key = 1; ring_of(key) != i; key++)
		;
	memcpy(data, &key, sizeof(key));
	CHECK_EQ(send(h->peer, data, len, 0), (ssize_t)len);
}

/* Ring i has one message, for the conn. */
static void expect_in(struct hashed *h, uint32_t i, struct sluice_msg *msg)
{
	uint32_t conn = 0, k;

	for (k = 1; k < RINGS; k++)
		if (k != i)
			CHECK_EQ(sluice_ring_recv(h->ring[k], msg, &conn),
				 -EAGAIN);
	if (!i) {
		CHECK_EQ(sluice_recv(h->conn, msg), 1);
		return;
	}
	CHECK_EQ(sluice_recv(h->conn, msg), -EAGAIN);
	CHECK_EQ(sluice_ring_recv(h->ring[i], msg, &conn), 1);
	CHECK_EQ(conn, h->number);
}

static int release_in(struct hashed *h, uint32_t i,
		      const struct sluice_msg *msg)
{
	return i ? sluice_ring_release(h->ring[i], msg) :
		   sluice_release(h->conn, msg);
}

TAP_TEST(where_it_goes)
{
	struct sluice_msg msg;
	struct hashed h;
	uint32_t seen = 0, i;
	uint64_t key;

	hashed_open(&h);
	for (key = 0; key < 400; key++) {
		uint64_t data[8] = { key * 0x1234567, key };
		size_t len = 8 + key % 57;

		i = ring_of(data[0]);
		seen |= 1u << i;
		CHECK_EQ(send(h.peer, data, len, 0), (ssize_t)len);
		expect_in(&h, i, &msg);
		CHECK_EQ(msg.len, len);
		CHECK_MEM(sluice_msg_data(&msg), data, len);
		CHECK_OK(release_in(&h, i, &msg));
		/* What is shorter stays at home. */
		len = key % 8;
		CHECK_EQ(send(h.peer, data, len, 0), (ssize_t)len);
		expect_in(&h, 0, &msg);
		CHECK_EQ(msg.len, len);
	}
	CHECK_EQ(seen, (1u << RINGS) - 1);
	CHECK_EQ(steers_spilled(h.conn), 0);
	hashed_close(&h);
}

/* What is spilled, and the end, wait for the worker to come back. */
TAP_TEST(spill_waits)
{
	struct sluice_endpoint_info info;
	struct sluice_msg msg;
	struct hashed h;
	uint32_t conn, i;

	hashed_open(&h);
	for (i = 0; i < 17; i++) /* there are 16 landing slots of each ring */
		send_to(&h, 1, 100);
	for (i = 0; i < 16; i++) {
		CHECK_EQ(sluice_recv(h.conn, &msg), -EAGAIN);
		/* A wait does not sleep: nobody would wake it. */
		CHECK_EQ(sluice_wait(h.conn, SLUICE_RECV, 10 * SECOND),
			 SLUICE_RECV);
		CHECK_EQ(sluice_ring_recv(h.ring[1], &msg, &conn), 1);
		CHECK_OK(sluice_ring_release(h.ring[1], &msg));
	}
	CHECK_EQ(sluice_recv(h.conn, &msg), -EAGAIN);
	CHECK_EQ(sluice_ring_recv(h.ring[1], &msg, &conn), -EAGAIN);
	CHECK_EQ(sluice_recv(h.conn, &msg), 1);
	CHECK_EQ(msg.len, 100);
	/* Not granted before the last one is done with. */
	send_to(&h, 2, 100);
	CHECK_EQ(sluice_ring_recv(h.ring[2], &msg, &conn), -EAGAIN);
	CHECK_EQ(sluice_recv(h.conn, &msg), 1);
	CHECK_EQ(sluice_recv(h.conn, &msg), -EAGAIN);
	CHECK_EQ(steers_spilled(h.conn), 2);
	/* The end */
	send_to(&h, 3, 100);
	close(h.peer);
	CHECK_EQ(sluice_wait(h.conn, SLUICE_RECV, 0), SLUICE_RECV);
	CHECK_EQ(sluice_recv(h.conn, &msg), -EAGAIN);
	CHECK_EQ(sluice_ring_wait(h.ring[3], 0, 0), 0);
	CHECK_EQ(sluice_ring_recv(h.ring[3], &msg, &conn), 1);
	CHECK_EQ(sluice_recv(h.conn, &msg), -EAGAIN);
	CHECK_EQ(sluice_ring_arm(h.ring[3]), 0);
	CHECK_EQ(sluice_recv(h.conn, &msg), 0);
	sluice_endpoint_info(h.endpoint, &info);
	CHECK_EQ(info.landing_used, 1);
	CHECK_EQ(info.conns_used, 1);
	sluice_conn_close(h.conn);
	sluice_endpoint_free(h.endpoint);
	steers_stop(&h.d);
}

/* A conn goes while a worker has messages of it: they stay good, as they are. */
TAP_TEST(conn_closed_under_worker)
{
	struct sluice_msg held, msg;
	struct hashed h;
	uint32_t conn, old, i;

	hashed_open(&h);
	send_to(&h, 1, 100);
	send_to(&h, 1, 200);
	CHECK_EQ(sluice_ring_recv(h.ring[1], &held, &conn), 1);
	old = h.number;
	sluice_conn_close(h.conn);
	CHECK_EQ(send(h.peer, "x", 1, MSG_NOSIGNAL), -1);
	close(h.peer);
	for (i = 0; i < 40; i++) { /* of 16: the index comes round */
		hashed_pair(&h);
		CHECK_NE(h.number, old);
		if (i == 39)
			break;
		sluice_conn_close(h.conn);
		close(h.peer);
	}
	send_to(&h, 1, 150);
	CHECK_EQ(sluice_ring_recv(h.ring[1], &msg, &conn), 1);
	CHECK_EQ(msg.len, 200);
	CHECK_EQ(conn, old);
	CHECK_OK(sluice_ring_release(h.ring[1], &msg));
	CHECK_EQ(sluice_ring_recv(h.ring[1], &msg, &conn), 1);
	CHECK_EQ(msg.len, 150);
	CHECK_EQ(conn, h.number);
	CHECK_OK(sluice_ring_release(h.ring[1], &held));
	CHECK_OK(sluice_ring_release(h.ring[1], &msg));
	hashed_close(&h);
}

/* Out of place --------------------------------------------------------------- */

TAP_TEST(wrong_ring)
{
	struct sluice_endpoint_options e = STEERS_ENDPOINT(.rings = 2);
	struct sluice_listener *listener;
	struct sluice_endpoint *endpoint;
	struct sluice_options options;
	struct sluice_conn *conn;
	struct sluice_msg msg;
	uint32_t number;
	struct hashed h;
	int pair[2];

	hashed_open(&h);
	CHECK(!sluice_endpoint_ring(h.endpoint, RINGS));
	CHECK(!sluice_endpoint_ring(h.endpoint, UINT32_MAX));
	CHECK_OK(sluice_endpoint_new(&endpoint, &e));
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	/* Conns on a ring that is a worker's, or that there is not. */
	options = ENDS_OPTIONS(.endpoint = h.endpoint, .ring = 1);
	CHECK_EQ(sluice_conn_from_fd(&conn, pair[0], &options), -EINVAL);
	CHECK_EQ(sluice_listen(&listener, "listener", &options), -EINVAL);
	options = ENDS_OPTIONS(.endpoint = endpoint, .ring = 2);
	CHECK_EQ(sluice_conn_from_fd(&conn, pair[0], &options), -EINVAL);
	CHECK_EQ(sluice_listen(&listener, "listener", &options), -EINVAL);
	e.flags = SLUICE_ENDPOINT_F_HASH;
	options = ENDS_OPTIONS(.flags = SLUICE_F_STEER, .endpoint_options = &e,
			       .ring = 1);
	CHECK_EQ(sluice_conn_from_fd(&conn, pair[0], &options), -EINVAL);
	CHECK_EQ(sluice_listen(&listener, "listener", &options), -EINVAL);
	/* Rings that are no worker's. */
	CHECK_EQ(sluice_ring_recv(h.ring[0], &msg, &number), -EINVAL);
	CHECK_EQ(sluice_ring_wait(h.ring[0], 0, 0), -EINVAL);
	CHECK_EQ(sluice_ring_arm(h.ring[0]), -EINVAL);
	CHECK_EQ(sluice_ring_fd(h.ring[0]), -EINVAL);
	CHECK_EQ(sluice_ring_recv(sluice_endpoint_ring(endpoint, 1), &msg,
				  &number),
		 -EINVAL);
	CHECK_EQ(sluice_ring_wait(sluice_endpoint_ring(endpoint, 1), 0, 0),
		 -EINVAL);
	close(pair[0]);
	close(pair[1]);
	sluice_endpoint_free(endpoint);
	hashed_close(&h);
}

TAP_TEST(wrong_release)
{
	struct sluice_msg msg[RINGS], forged;
	struct hashed h;
	uint32_t i, k;

	hashed_open(&h);
	for (i = 0; i < RINGS; i++) {
		send_to(&h, i, 100);
		expect_in(&h, i, &msg[i]);
		CHECK_EQ(msg[i].kind, SLUICE_SLOT_LANDING);
		/* The same landing slot in each. */
		CHECK_EQ(msg[i].id, msg[0].id);
	}
	for (i = 0; i < RINGS; i++)
		for (k = 0; k < RINGS; k++)
			if (i != k)
				CHECK_EQ(release_in(&h, i, &msg[k]), -EINVAL);
	for (i = 0; i < RINGS; i++) {
		forged = msg[i];
		forged.id++;
		CHECK_EQ(release_in(&h, i, &forged), -EINVAL);
		forged.id = UINT32_MAX;
		CHECK_EQ(release_in(&h, i, &forged), -EINVAL);
		forged = msg[i];
		forged.kind = SLUICE_SLOT_BUFFER;
		CHECK_EQ(release_in(&h, i, &forged), -EINVAL);
	}
	for (i = 0; i < RINGS; i++) {
		CHECK_OK(release_in(&h, i, &msg[i]));
		CHECK_EQ(release_in(&h, i, &msg[i]), -EINVAL);
	}
	hashed_close(&h);
}

/* A child of fork() has no part in its parent's rings. */
TAP_TEST(forked)
{
	struct sluice_msg msg;
	struct hashed h;
	uint32_t conn;
	pid_t pid;

	hashed_open(&h);
	send_to(&h, 1, 100);
	pid = tap_fork();
	if (!pid) {
		CHECK_EQ(sluice_ring_recv(h.ring[1], &msg, &conn), -ECHILD);
		CHECK_EQ(sluice_ring_wait(h.ring[1], 0, 0), -ECHILD);
		CHECK_EQ(sluice_ring_arm(h.ring[1]), -ECHILD);
		CHECK_EQ(sluice_ring_fd(h.ring[1]), -ECHILD);
		CHECK_EQ(sluice_ring_release(h.ring[1], &msg), -ECHILD);
		sluice_endpoint_free(h.endpoint);
		_exit(0);
	}
	tap_join(pid);
	CHECK_EQ(sluice_ring_recv(h.ring[1], &msg, &conn), 1);
	CHECK_OK(sluice_ring_release(h.ring[1], &msg));
	hashed_close(&h);
}

/*
 * Sends to the child until a message was steered: it is not on the socket though
 * the child, which is stopped meanwhile, cannot have read it. How many that took.
 */
static unsigned long send_until_steered(int fd, pid_t child)
{
	const uint64_t message[10] = { 0 };
	unsigned long count = 0;
	int queued, status;

	do {
		CHECK_SOON(!ioctl(fd, SIOCOUTQ, &queued) && !queued);
		CHECK_SYS(kill(child, SIGSTOP));
		CHECK_EQ(waitpid(child, &status, WUNTRACED), child);
		CHECK(WIFSTOPPED(status));
		CHECK_EQ(send(fd, message, sizeof(message), 0),
			 (ssize_t)sizeof(message));
		count++;
		CHECK_SYS(ioctl(fd, SIOCOUTQ, &queued));
		CHECK_SYS(kill(child, SIGCONT));
	} while (queued);
	return count;
}

/* user/examples/workers.c gets every message of a client, and ends with it. */
TAP_TEST(example)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	unsigned long count[3], sent, i;
	struct daemon d;
	char path[512];
	FILE *output;
	pid_t pid;
	int fd;

	steers_start(&d);
	pid = tap_fork();
	if (!pid) {
		CHECK(freopen("output", "w", stdout));
		snprintf(path, sizeof(path), "%s/examples/workers",
			 tap_build());
		execl(path, "workers", "name", "2", NULL);
		TAP_FAIL("%s: %s", path, strerror(errno));
	}
	fd = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET, 0));
	strcpy(name.sun_path, "name");
	CHECK_SOON(!connect(fd, (struct sockaddr *)&name, sizeof(name)));
	sent = send_until_steered(fd, pid);
	for (i = 0; i < 3000; i++) {
		uint64_t message[10] = { i % 50 };

		CHECK_EQ(send(fd, message, i % 80, 0), (ssize_t)(i % 80));
	}
	close(fd);
	tap_join(pid);
	output = fopen("output", "re");
	CHECK(output);
	CHECK_EQ(fscanf(output,
			"home: %lu messages worker 1: %lu messages "
			"worker 2: %lu messages ",
			&count[0], &count[1], &count[2]),
		 3);
	CHECK_EQ(count[0] + count[1] + count[2], sent + 3000);
	CHECK_GT(count[1] + count[2], 0);
	fclose(output);
	CHECK_SYS(unlink("output"));
	steers_stop(&d);
}
