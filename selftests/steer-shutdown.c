/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A peer shuts its socket down while another of its threads is in send(), which
 * may be inside the program by then: what send() said is sent arrives, and then
 * comes the end. The payload is large, since that is what a program is busy with
 * for longest.
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steers.h"

#define ROUNDS 1500
#define LEN_MAX 200000 /* what wmem_max lets anyone send */

struct sender {
	int fd;
	uint64_t sent; /* how many send() took */
};

/* Two CPUs make the race likely; with one, it takes a preemption. */
static void run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

static void *send_until_shut(void *arg)
{
	static uint8_t data[LEN_MAX];
	struct sender *sender = arg;
	size_t len;

	run_on(1);
	tap_random_stream(1);
	for (;;) {
		len = tap_random_below(4) ? LEN_MAX :
					    8 + tap_random_below(100);
		memcpy(data, &sender->sent, 8);
		if (send(sender->fd, data, len, MSG_NOSIGNAL) < 0)
			break;
		sender->sent++;
	}
	CHECK_EQ(errno, EPIPE);
	return NULL;
}

/* Receives the next one, which is to be `number`: 1, or 0 at the end. */
static int receive(struct sluice_conn *conn, uint64_t number)
{
	struct sluice_msg msg;
	uint64_t got;
	int r;

	r = sluice_recv_wait(conn, &msg, 5 * SECOND);
	if (r != 1)
		return r;
	memcpy(&got, sluice_msg_data(&msg), 8);
	CHECK_EQ(got, number);
	CHECK_OK(sluice_release(conn, &msg));
	return 1;
}

static void pause_for(int64_t ns)
{
	int64_t until = tap_now() + ns;

	while (tap_now() < until)
		;
}

static const struct end {
	const char *name;
	int how; /* the peer's shutdown() */
	bool here; /* this side has ended its sending before */
} ends[] = {
	{ "both_ways", SHUT_RDWR, false },
	{ "sending", SHUT_WR, false },
	{ "sending_after_ours", SHUT_WR, true },
};

TAP_EACH(mid_send, end, ends)
{
	struct sluice_endpoint_options e = STEERS_ENDPOINT(
		.ring_slots = 64, .conns = 16, .landing = { 1, 0, 8 });
	struct sluice_options options = ENDS_OPTIONS();
	unsigned int round, tail = 0;
	uint64_t received, before;
	struct sluice_conn *conn;
	struct sender sender;
	pthread_t thread;
	struct daemon d;

	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, &e));
	run_on(0);
	for (round = 0; round < ROUNDS / (unsigned int)tap_slow; round++) {
		sender.sent = received = 0;
		steers_pair(&conn, &sender.fd, &options);
		if (end->here)
			CHECK_OK(sluice_conn_shutdown(conn));
		CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
		CHECK(!pthread_create(&thread, NULL, send_until_shut, &sender));
		while (received < 3)
			CHECK_EQ(receive(conn, received++), 1);
		pause_for((int64_t)tap_random_below(200000));
		CHECK_SYS(shutdown(sender.fd, end->how));
		before = received;
		while (receive(conn, received) == 1)
			received++;
		CHECK(!pthread_join(thread, NULL));
		CHECK_EQ(received, sender.sent);
		tail += received > before;
		sluice_conn_close(conn);
		close(sender.fd);
	}
	tap_diag("%u of %u rounds had messages after the shutdown", tail,
		 round);
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}
