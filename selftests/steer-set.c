/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A wait set with hundreds of steered conns on one ring, some of another kind
 * among them; senders on all CPUs.
 *
 * Limit: 300 s
 */
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steers.h"

#define CONNS 512
#define SENDERS 4
#define LEN_MAX 300

struct crowd {
	struct daemon d;
	struct sluice_endpoint *endpoint;
	struct sluice_set *set;
	unsigned int conns;
	uint64_t each;
	struct sluice_conn *conn[CONNS];
	int peer[CONNS];
	uint64_t next[CONNS];
	uint64_t steered; /* of conns that are closed */
	pid_t pid[SENDERS];
};

/* Every SENDERSth conn; a number of messages to one, then to the next. */
static void sender_main(const struct crowd *crowd, unsigned int first)
{
	uint64_t next[CONNS] = { 0 }, left = 0;
	unsigned int i, burst;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(first % 2, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	tap_random_stream(1 + first);
	for (i = first; i < crowd->conns; i += SENDERS)
		left += crowd->each;
	while (left) {
		i = (unsigned int)tap_random_below(crowd->conns);
		i = i - i % SENDERS + first;
		if (i >= crowd->conns)
			continue;
		burst = 1 + (unsigned int)tap_random_below(4);
		for (; burst && next[i] < crowd->each; burst--, left--)
			steers_send(crowd->peer[i], i, next[i]++, LEN_MAX);
	}
}

/* Every seventh is not steered: they share the set all the same. */
static bool is_other(unsigned int i)
{
	return i % 7 == 3;
}

static void crowd_open(struct crowd *crowd, unsigned int conns, uint64_t each,
		       bool mixed)
{
	struct rlimit files = { .rlim_cur = 4096, .rlim_max = 4096 };
	struct sluice_options steered = ENDS_OPTIONS(),
			      other = ENDS_OPTIONS(.flags = SLUICE_F_PLAIN);
	unsigned int i;
	int fds[2];

	setrlimit(RLIMIT_NOFILE, &files);
	steers_start(&crowd->d);
	crowd->conns = conns;
	crowd->each = each;
	CHECK_OK(sluice_endpoint_new(&crowd->endpoint, NULL));
	CHECK_OK(sluice_set_new(&crowd->set));
	steered.endpoint = crowd->endpoint;
	for (i = 0; i < conns; i++) {
		if (mixed && is_other(i)) {
			CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
			CHECK_OK(sluice_conn_from_fd(&crowd->conn[i], fds[0],
						     &other));
			crowd->peer[i] = fds[1];
		} else {
			steers_pair(&crowd->conn[i], &crowd->peer[i], &steered);
		}
		CHECK_OK(sluice_set_add(crowd->set, crowd->conn[i], SLUICE_RECV,
					&crowd->next[i]));
	}
	for (i = 0; i < SENDERS; i++) {
		crowd->pid[i] = tap_fork();
		if (!crowd->pid[i]) {
			sender_main(crowd, i);
			_exit(0);
		}
	}
	for (i = 0; i < conns; i++)
		close(crowd->peer[i]);
}

/* Up to `most` messages of the conn, or its end: then it is closed. */
static unsigned int take(struct crowd *crowd, unsigned int i, unsigned int most)
{
	struct sluice_msg msg;
	unsigned int n;
	int r;

	for (n = 0; n < most; n++) {
		r = sluice_recv(crowd->conn[i], &msg);
		if (r == -EAGAIN)
			break;
		if (r == 0) {
			CHECK_EQ(crowd->next[i], crowd->each);
			crowd->steered += steers_steered(crowd->conn[i]);
			sluice_conn_close(crowd->conn[i]);
			crowd->conn[i] = NULL;
			break;
		}
		CHECK_EQ(r, 1);
		steers_check(sluice_msg_data(&msg), msg.len, i,
			     crowd->next[i]++, LEN_MAX);
		CHECK_OK(sluice_release(crowd->conn[i], &msg));
	}
	return n;
}

static const struct way {
	const char *name;
	unsigned int conns, each;
	unsigned int events; /* in one call */
	unsigned int most; /* messages taken of one conn at a time */
	uint64_t spin_ns;
	bool mixed;
} ways[] = {
	{ "one_at_a_time", 512, 200, 1, 1, 0, false },
	{ "64_drained", 512, 400, 64, 1000, 0, false },
	{ "spins", 512, 400, 64, 1000, UINT64_MAX, false },
	{ "mixed", 512, 200, 16, 4, 20000, true },
	{ "eight", 8, 20000, 8, 64, 20000, false },
};

TAP_EACH(crowd, way, ways)
{
	static struct crowd crowd;
	struct sluice_event events[64];
	uint64_t messages = 0;
	unsigned int i, left = way->conns;
	int n;

	tap_limit(90);
	crowd_open(&crowd, way->conns, way->each / (unsigned int)tap_slow,
		   way->mixed);
	while (left) {
		n = CHECK_OK(sluice_set_wait(crowd.set, events, way->events,
					     20 * SECOND * tap_slow,
					     way->spin_ns));
		CHECK_GT(n, 0);
		while (n--) {
			i = (unsigned int)((uint64_t *)events[n].data -
					   crowd.next);
			messages += take(&crowd, i, way->most);
			if (!crowd.conn[i])
				left--;
		}
	}
	CHECK_EQ(messages, crowd.each * crowd.conns);
	for (i = 0; i < SENDERS; i++)
		tap_join(crowd.pid[i]);
	tap_diag("%llu messages, %llu steered", (unsigned long long)messages,
		 (unsigned long long)crowd.steered);
	CHECK_GT(crowd.steered, 0);
	sluice_set_free(crowd.set);
	sluice_endpoint_free(crowd.endpoint);
	steers_stop(&crowd.d);
}

/* Whoever has something is reported, while another is flooded. */
TAP_TEST(flood_starves_nobody)
{
	struct sluice_options options = ENDS_OPTIONS();
	unsigned int calls = 0, worst = 0, since = 0;
	struct sluice_event events[2];
	struct sluice_conn *conn[9];
	struct sluice_set *set;
	struct sluice_msg msg;
	struct daemon d;
	int peer[9], i, n;
	char byte = 0;
	pid_t pid;

	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, NULL));
	CHECK_OK(sluice_set_new(&set));
	for (i = 0; i < 9; i++) {
		steers_pair(&conn[i], &peer[i], &options);
		CHECK_OK(sluice_set_add(set, conn[i], SLUICE_RECV, &conn[i]));
	}
	pid = tap_fork();
	if (!pid)
		for (;;)
			send(peer[0], &byte, 1, MSG_NOSIGNAL);
	for (i = 1; i < 9; i++)
		CHECK_EQ(send(peer[i], &byte, 1, 0), 1);
	while (calls < 20000) {
		n = CHECK_OK(sluice_set_wait(set, events, 2, 5 * SECOND, 0));
		CHECK_GT(n, 0);
		calls++;
		since++;
		while (n--) {
			i = (int)((struct sluice_conn **)events[n].data - conn);
			CHECK_EQ(sluice_recv(conn[i], &msg), 1);
			if (i == 1) {
				worst = since > worst ? since : worst;
				since = 0;
			}
			/* They have something all the time. */
			if (i)
				CHECK_EQ(send(peer[i], &byte, 1, 0), 1);
		}
	}
	tap_diag("at most %u calls between two turns", worst);
	CHECK_LE(worst, 200);
	tap_kill(pid);
	for (i = 0; i < 9; i++) {
		close(peer[i]);
		sluice_conn_close(conn[i]);
	}
	sluice_set_free(set);
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}
