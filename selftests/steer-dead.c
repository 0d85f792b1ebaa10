/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Receivers whose socket is closed with the program on it and its entry in place:
 * senders get the error that a socket without a program gives them, and nothing
 * is steered to nobody. Needs root and BPF.
 */
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steer-maps.h"
#include "tap.h"

static const struct sluice_control_create geometry = {
	.rings = 1,
	.ring_slots = 16,
	.conns = 16,
	.landing = { 1, 4, 0 },
};

static const struct type {
	const char *name;
	int type;
	uint64_t reach; /* how many sends after the close get to the program */
} types[] = {
	{ "seqpacket", SOCK_SEQPACKET, 0 },
	{ "dgram", SOCK_DGRAM, 1 },
};

static struct steer_rig rig;
static int from, to;

static void open_pair(int type)
{
	struct steer_conn_entry entry = { .conn = 3 };
	int socks[2];

	CHECK_SYS(socketpair(AF_UNIX, type, 0, socks));
	from = socks[0];
	to = socks[1];
	steer_rig_attach(&rig, to, &entry);
	*steer_word(&rig.rings[0], 3) = SLUICE_STEER_ON;
}

/* The errors, one by one, of sends to a pair's end that has been closed. */
static void errors_of(int sock, int *errors, int count)
{
	int i;

	for (i = 0; i < count; i++) {
		CHECK_EQ(send(sock, "x", 1, MSG_NOSIGNAL), -1);
		errors[i] = errno;
	}
}

#define SENDS 10

TAP_EACH(closed, type, types)
{
	struct steer_counters counters, want = { .steered_inline = 1 };
	int errors[SENDS], usual[SENDS], plain[2];

	CHECK_SYS(socketpair(AF_UNIX, type->type, 0, plain));
	close(plain[1]);
	errors_of(plain[0], usual, SENDS);
	close(plain[0]);

	steer_rig_new(&rig, &geometry);
	open_pair(type->type);
	CHECK_EQ(send(from, "x", 1, 0), 1);
	close(to);
	errors_of(from, errors, SENDS);
	CHECK_MEM(errors, usual, sizeof(errors));
	CHECK_EQ(rig.rings[0].header->tail, 1);
	want.pass_shutdown = type->reach;
	steer_rig_counters(&rig, &counters);
	CHECK_MEM(&counters, &want, sizeof(want));
	close(from);
	steer_rig_free(&rig);
}

/* While they send --------------------------------------------------------- */

#define ROUNDS 200

static void *send_until_error(void *arg)
{
	uint64_t *sent = arg;
	uint8_t bytes[9000];

	memset(bytes, 1, sizeof(bytes));
	while (send(from, bytes, sizeof(bytes), MSG_NOSIGNAL) > 0)
		++*sent;
	/* ECONNRESET: something was in the queue. */
	if (errno != EPIPE && errno != ECONNRESET)
		CHECK_EQ(errno, ECONNREFUSED); /* DGRAM */
	return NULL;
}

static void take_all(void)
{
	struct steer_ring *ring = &rig.rings[0];
	struct sluice_slot slot;

	while (steer_take(ring, &slot))
		steer_release(ring, &slot);
}

/* Takes what comes by the ring, and lets it go on coming that way. */
static void receive_for(int64_t ns)
{
	int64_t until = tap_now() + ns;
	static uint8_t bytes[9000];

	while (tap_now() < until) {
		take_all();
		if (recv(to, bytes, sizeof(bytes), MSG_DONTWAIT) < 0)
			*steer_word(&rig.rings[0], 3) = SLUICE_STEER_ON;
	}
}

/* What is steered has been sent, and after the first error nothing more is. */
TAP_EACH(closed_mid_send, type, types)
{
	struct steer_counters before, after;
	uint64_t sent = 0;
	pthread_t thread;
	int i;

	steer_rig_new(&rig, &geometry);
	for (i = 0; i < ROUNDS / tap_slow; i++) {
		open_pair(type->type);
		CHECK(!pthread_create(&thread, NULL, send_until_error, &sent));
		receive_for((int64_t)tap_random_below(1000000));
		close(to);
		pthread_join(thread, NULL);
		steer_rig_counters(&rig, &before);
		CHECK_EQ(before.steered_medium, rig.rings[0].header->tail);
		CHECK_LE(before.steered_medium, sent);
		CHECK_EQ(send(from, "x", 1, MSG_NOSIGNAL), -1);
		steer_rig_counters(&rig, &after);
		CHECK_MEM(&after, &before, sizeof(after));
		take_all();
		close(from);
	}
	tap_diag("%llu of %llu steered",
		 (unsigned long long)before.steered_medium,
		 (unsigned long long)sent);
	CHECK_GT(before.steered_medium, 0);
	steer_rig_free(&rig);
}
