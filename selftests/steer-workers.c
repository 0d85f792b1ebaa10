/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Conns whose messages are hashed over rings, each read by a thread of its own:
 * the same key always comes to the same ring, in order, one at a time, and every
 * message once, whatever is spilled.
 *
 * Limit: 400 s
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steers.h"

#include "../bpf/steer.h" /* STEER_HASH_FACTOR */

#define RINGS 4
#define CONNS 3
#define KEYS 16
#define HOLDS 8

/* How every message of 8 bytes and more begins. */
struct head {
	uint64_t key;
	uint32_t index; /* of the conn's messages with this key */
	uint32_t conn;
};

enum waiting { WAITS, SPINS, POLLS };

static const struct way {
	const char *name;
	uint32_t each; /* messages of each conn */
	uint32_t ring_slots, landing[SLUICE_LANDING_CLASSES];
	size_t max; /* length */
	enum waiting waiting;
	unsigned int slow; /* of 1000 messages these take a millisecond */
	bool spills;
} ways[] = {
	{ "sleeping", 20000, 4096, { 16, 8 }, 3000, WAITS, 0, false },
	{ "spinning", 20000, 4096, { 16, 8 }, 3000, SPINS, 0, false },
	{ "polling", 20000, 4096, { 16, 8 }, 3000, POLLS, 0, false },
	{ "ring_full", 8000, 16, { 16, 8 }, 300, POLLS, 20, true },
	{ "no_landing", 8000, 4096, { 1, 0 }, 4096, WAITS, 20, true },
	{ "both_full", 8000, 16, { 1, 1 }, 9000, SPINS, 20, true },
};

struct work {
	const struct way *way;
	struct sluice_endpoint *endpoint;
	struct sluice_conn *conn[CONNS];
	uint32_t number[CONNS]; /* steer_conn */
	atomic_bool stop;
	int stop_fd; /* the same, for POLLS */
	struct {
		atomic_bool
			busy; /* handed out; whoever has it has not come back */
		_Atomic uint32_t next;
	} key[CONNS][KEYS];
	_Atomic uint64_t received, by_workers, sleeps;
};

struct worker {
	struct work *work;
	unsigned int ring;
	pthread_t thread;
	atomic_bool done;
	atomic_bool *busy; /* what it handles */
	struct sluice_msg held[HOLDS];
	unsigned int held_count;
};

static unsigned int ring_of(uint64_t key)
{
	return (uint32_t)((key * STEER_HASH_FACTOR) >> 32) % RINGS;
}

static uint64_t key_of(unsigned int i)
{
	return 0x0123456789abcdefull * (i + 1);
}

/* Sending ------------------------------------------------------------------ */

static void sender_main(const struct way *way, uint32_t conn, int fd)
{
	uint32_t next[KEYS] = { 0 }, shorts = 0, i, k;
	uint8_t data[16384];
	size_t len;
	ssize_t n;

	tap_random_stream(10 + conn);
	for (i = 0; i < way->each / (uint32_t)tap_slow; i++) {
		if (tap_random_below(10) == 0) {
			len = tap_random_below(8);
			memset(data, (int)(shorts++ % 256), len);
		} else {
			struct head head = { .conn = conn };

			k = (uint32_t)tap_random_below(KEYS);
			head.key = key_of(k);
			head.index = next[k]++;
			len = steers_len(head.key, head.index, way->max);
			if (len < sizeof(head))
				len = sizeof(head);
			tap_fill(data, len, head.key + head.index);
			memcpy(data, &head, sizeof(head));
		}
		n = send(fd, data, len, 0);
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			return; /* they have quit */
		CHECK_EQ(n, (ssize_t)len);
		if (tap_random_below(500) == 0)
			tap_sleep((int64_t)tap_random_below(2 * MS));
	}
}

/* Receiving ---------------------------------------------------------------- */

/* ring: whose worker has it, or 0. What is to be cleared when it comes back. */
static atomic_bool *handle(struct work *work, const void *data, size_t len,
			   unsigned int ring)
{
	uint8_t want[16384];
	struct head head;
	uint32_t k;

	CHECK_GE(len, sizeof(head));
	memcpy(&head, data, sizeof(head));
	CHECK_LT(head.conn, CONNS);
	for (k = 0; k < KEYS && key_of(k) != head.key; k++)
		;
	CHECK_LT(k, KEYS);
	if (ring)
		CHECK_EQ(ring_of(head.key), ring);
	CHECK(!atomic_exchange(&work->key[head.conn][k].busy, true));
	CHECK_EQ(head.index, work->key[head.conn][k].next++);
	tap_fill(want, len, head.key + head.index);
	memcpy(want, &head, sizeof(head));
	CHECK_MEM(data, want, len);
	if (tap_random_below(1000) < work->way->slow)
		tap_sleep(MS);
	work->received++;
	return &work->key[head.conn][k].busy;
}

static void done(atomic_bool **busy)
{
	if (*busy)
		atomic_store(*busy, false);
	*busy = NULL;
}

static void release_one(struct worker *w)
{
	struct sluice_ring *ring =
		sluice_endpoint_ring(w->work->endpoint, w->ring);
	struct sluice_msg *msg = &w->held[tap_random_below(w->held_count)];

	CHECK_OK(sluice_ring_release(ring, msg));
	*msg = w->held[--w->held_count];
}

static void worker_take(struct worker *w, struct sluice_ring *ring)
{
	struct sluice_msg msg;
	uint32_t conn;
	int r;

	for (;;) {
		done(&w->busy);
		r = sluice_ring_recv(ring, &msg, &conn);
		if (r == -EAGAIN)
			break;
		CHECK_EQ(r, 1);
		w->busy = handle(w->work, sluice_msg_data(&msg), msg.len,
				 w->ring);
		w->work->by_workers++;
		w->held[w->held_count++] = msg;
		if (w->held_count == HOLDS || tap_random() & 1)
			release_one(w);
	}
	while (w->held_count)
		release_one(w);
}

static void worker_wait(struct worker *w, struct sluice_ring *ring)
{
	struct pollfd fds[] = { { .events = POLLIN },
				{ .fd = w->work->stop_fd, .events = POLLIN } };
	int64_t limit = 20 * SECOND * tap_slow;
	int r;

	if (w->work->way->waiting == POLLS) {
		r = CHECK_OK(sluice_ring_arm(ring));
		if (r)
			return;
		fds[0].fd = CHECK_OK(sluice_ring_fd(ring));
		CHECK_GT(CHECK_SYS(poll(fds, 2, (int)(limit / MS))), 0);
	} else {
		r = sluice_ring_wait(ring, limit,
				     w->work->way->waiting == SPINS ? 50000 :
								      0);
		if (r != -EINTR)
			CHECK_EQ(r, 0);
	}
	w->work->sleeps++;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct sluice_ring *ring =
		sluice_endpoint_ring(w->work->endpoint, w->ring);

	tap_random_stream(20 + w->ring);
	while (!w->work->stop) {
		worker_take(w, ring);
		worker_wait(w, ring);
	}
	atomic_store(&w->done, true);
	return NULL;
}

/* All of one conn that there is: whether it has ended. */
static bool home_take(struct work *work, uint32_t i, uint32_t *shorts)
{
	atomic_bool *busy = NULL;
	struct sluice_msg msg;
	const uint8_t *data;
	int r;

	for (;;) {
		done(&busy);
		r = sluice_recv(work->conn[i], &msg);
		if (r != 1)
			break;
		data = sluice_msg_data(&msg);
		if (msg.len >= 8) {
			busy = handle(work, data, msg.len, 0);
		} else {
			if (msg.len)
				CHECK_EQ(data[0], *shorts % 256);
			/* One without a byte counts, but does not say. */
			++*shorts;
			work->received++;
		}
		CHECK_OK(sluice_release(work->conn[i], &msg));
	}
	if (r != -EAGAIN)
		CHECK_EQ(r, 0);
	return r == 0;
}

static void home_main(struct work *work)
{
	uint32_t shorts[CONNS] = { 0 }, left = CONNS, i;
	struct sluice_event event;
	struct sluice_set *set;

	CHECK_OK(sluice_set_new(&set));
	for (i = 0; i < CONNS; i++)
		CHECK_OK(sluice_set_add(set, work->conn[i], SLUICE_RECV,
					&work->conn[i]));
	while (left) {
		CHECK_EQ(sluice_set_wait(set, &event, 1, 20 * SECOND * tap_slow,
					 0),
			 1);
		i = (uint32_t)((struct sluice_conn **)event.data - work->conn);
		if (!home_take(work, i, &shorts[i]))
			continue;
		CHECK_OK(sluice_set_remove(set, work->conn[i]));
		left--;
	}
	sluice_set_free(set);
}

/* The threads ---------------------------------------------------------------- */

static void on_signal(int number)
{
	(void)number;
}

static void workers_start(struct work *work, struct worker *workers)
{
	struct sigaction action = { .sa_handler = on_signal };
	unsigned int i;

	CHECK_SYS(sigaction(SIGUSR1, &action, NULL));
	work->stop_fd = CHECK_SYS(eventfd(0, EFD_CLOEXEC));
	for (i = 1; i < RINGS; i++) {
		workers[i] = (struct worker){ .work = work, .ring = i };
		CHECK_EQ(pthread_create(&workers[i].thread, NULL, worker_main,
					&workers[i]),
			 0);
	}
}

/* A wait ends by a signal, a poll by the eventfd. */
static void workers_stop(struct work *work, struct worker *workers)
{
	unsigned int i;

	work->stop = true;
	CHECK_SYS(eventfd_write(work->stop_fd, 1));
	for (i = 1; i < RINGS; i++) {
		while (!workers[i].done) {
			pthread_kill(workers[i].thread, SIGUSR1);
			tap_sleep(MS);
		}
		CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
	}
	close(work->stop_fd);
}

static void work_open(struct work *work, const struct way *way, int *peer)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.flags = SLUICE_ENDPOINT_F_HASH, .rings = RINGS,
				.ring_slots = way->ring_slots, .conns = 16);
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_conn_info info;
	uint32_t i;

	memcpy(e.landing, way->landing, sizeof(e.landing));
	work->way = way;
	CHECK_OK(sluice_endpoint_new(&work->endpoint, &e));
	options.endpoint = work->endpoint;
	for (i = 0; i < CONNS; i++) {
		steers_pair(&work->conn[i], &peer[i], &options);
		sluice_conn_info(work->conn[i], &info);
		work->number[i] = info.steer_conn;
	}
}

TAP_EACH(by_hash, way, ways)
{
	uint64_t spilled = 0, sent = way->each / (uint32_t)tap_slow * CONNS;
	static struct work work;
	struct worker workers[RINGS];
	struct sluice_endpoint_info info;
	pid_t pid[CONNS];
	int peer[CONNS];
	struct daemon d;
	uint32_t i;

	tap_limit(90);
	steers_start(&d);
	work_open(&work, way, peer);
	for (i = 0; i < CONNS; i++) {
		pid[i] = tap_fork();
		if (!pid[i]) {
			sender_main(way, i, peer[i]);
			_exit(0);
		}
	}
	for (i = 0; i < CONNS; i++)
		close(peer[i]);
	workers_start(&work, workers);
	home_main(&work);
	workers_stop(&work, workers);
	for (i = 0; i < CONNS; i++) {
		tap_join(pid[i]);
		spilled += steers_spilled(work.conn[i]);
		sluice_conn_close(work.conn[i]);
	}
	sluice_endpoint_info(work.endpoint, &info);
	CHECK_EQ(info.landing_used, 0);
	tap_diag("%llu messages, workers got %llu, %llu spilled, %llu waits",
		 (unsigned long long)work.received,
		 (unsigned long long)work.by_workers,
		 (unsigned long long)spilled, (unsigned long long)work.sleeps);
	CHECK_EQ(work.received, sent);
	CHECK_GT(work.by_workers, 0);
	if (way->spills)
		CHECK_GT(spilled, 0);
	sluice_endpoint_free(work.endpoint);
	steers_stop(&d);
}

/* Each message is waited for: every worker sleeps, every time. */
static const struct nap {
	const char *name;
	enum waiting waiting;
} naps[] = { { "wait", WAITS }, { "fd", POLLS } };

TAP_EACH(wakes, nap, naps)
{
	struct way way = { .ring_slots = 64,
			   .landing = { 1 },
			   .max = 200,
			   .waiting = nap->waiting };
	uint32_t next[KEYS] = { 0 }, i, k, count = 600 / (uint32_t)tap_slow;
	struct worker workers[RINGS];
	static struct work work;
	int peer[CONNS];
	struct daemon d;

	steers_start(&d);
	work_open(&work, &way, peer);
	workers_start(&work, workers);
	CHECK_EQ(sluice_wait(work.conn[0], SLUICE_RECV, 0), -ETIMEDOUT);
	for (i = 0; i < count; i++) {
		struct head head;
		uint8_t data[256];
		size_t len = 64 + i % 64;

		do
			k = (uint32_t)tap_random_below(KEYS);
		while (!ring_of(key_of(k)));
		head = (struct head){ .key = key_of(k), .index = next[k]++ };
		tap_fill(data, len, head.key + head.index);
		memcpy(data, &head, sizeof(head));
		CHECK_EQ(send(peer[0], data, len, 0), (ssize_t)len);
		CHECK_SOON(work.received == i + 1);
		if (i % 8 == 0)
			tap_sleep(MS);
	}
	workers_stop(&work, workers);
	CHECK_EQ(work.by_workers, count);
	CHECK_GT(work.sleeps, count / 4);
	for (i = 0; i < CONNS; i++) {
		sluice_conn_close(work.conn[i]);
		close(peer[i]);
	}
	sluice_endpoint_free(work.endpoint);
	steers_stop(&d);
}

/*
 * Workers end one after the other while senders go on, with messages unread and
 * views held; then the conns go, and the endpoint. Nothing stays.
 */
TAP_TEST(quit)
{
	static const struct way way = { .each = UINT32_MAX,
					.ring_slots = 64,
					.landing = { 2, 1 },
					.max = 5000,
					.waiting = POLLS };
	int fds = 0, maps = 0, peer[CONNS], round;
	struct worker workers[RINGS];
	uint32_t shorts[CONNS];
	static struct work work;
	struct sluice_msg msg;
	pid_t pid[CONNS];
	struct daemon d;
	long bytes = 0;
	uint32_t i;

	tap_limit(90);
	steers_start(&d);
	for (round = 0; round < 30; round++) {
		if (round == 8) {
			fds = tap_open_fds();
			maps = tap_mappings();
			bytes = tap_resident();
		}
		memset(&work, 0, sizeof(work));
		work_open(&work, &way, peer);
		for (i = 0; i < CONNS; i++) {
			pid[i] = tap_fork();
			if (!pid[i]) {
				sender_main(&way, i, peer[i]);
				_exit(0);
			}
			close(peer[i]);
		}
		workers_start(&work, workers);
		memset(shorts, 0, sizeof(shorts));
		for (i = 0; work.by_workers < 100; i = (i + 1) % CONNS)
			CHECK(!home_take(&work, i, &shorts[i]));
		workers_stop(&work, workers);
		for (i = 1; i < RINGS; i++) {
			uint32_t conn;

			sluice_ring_recv(sluice_endpoint_ring(work.endpoint, i),
					 &msg, &conn); /* and keep it */
		}
		for (i = 0; i < CONNS; i++)
			sluice_conn_close(work.conn[i]);
		sluice_endpoint_free(work.endpoint);
		for (i = 0; i < CONNS; i++)
			tap_kill(pid[i]);
	}
	CHECK_EQ(tap_open_fds(), fds);
	CHECK_LE(tap_mappings(), maps + 2);
	CHECK_LT(tap_resident(), bytes + ((tap_sanitized ? 256l : 4l) << 20));
	steers_stop(&d);
}
