/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Receivers that write garbage all over what is theirs to write: heads, sleep
 * words, connection words, landing states, the doorbell's consumer position. The
 * program must stay within their maps, senders must get on, and another ring of
 * the same program must not notice. Needs root and BPF.
 */
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steer-maps.h"
#include "tap.h"

#define SECONDS 3

static const struct sluice_control_create geometry = {
	.rings = 2,
	.ring_slots = 16,
	.conns = 16,
	.landing = { 1, 1, 1 },
};

static struct steer_rig rig;
static bool stop;

/* Values that are near something, or anywhere. */
static uint32_t lie(struct steer_ring *ring)
{
	switch (tap_random_below(6)) {
	case 0:
		return ring->header->tail + tap_random_below(64) - 32;
	case 1:
		return tap_random_below(4);
	case 2:
		return 0u - tap_random_below(4);
	case 3:
		return 0x80000000u + tap_random_below(4) - 2;
	default:
		return tap_random();
	}
}

/* Words in use more often than others. */
static void *scribble(void *data)
{
	struct steer_ring *ring = data;
	uint32_t *words = (void *)ring->control;
	uint32_t count = SLUICE_MAP_HEADER / 4 + 16 * 16 + ring->landing_slots;

	tap_random_stream(100);
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		words[tap_random_below(count)] = lie(ring);
		ring->control->head = tap_random_below(4) ? ring->header->tail :
							    lie(ring);
		ring->control->asleep = tap_random_below(2);
		*steer_word(ring, 3) = tap_random_below(4) ? SLUICE_STEER_ON :
							     lie(ring);
		ring->states[tap_random_below(ring->landing_slots)] =
			tap_random_below(3);
		*ring->bell_taken = tap_random();
	}
	return NULL;
}

/* Sends to the liar, whose socket a thread of its own empties. */
static void *pester(void *data)
{
	static uint8_t bytes[1 << 20];
	int sock = *(int *)data;
	size_t len;

	tap_random_stream(101);
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		len = tap_random_below(3) ? tap_random_below(5000) :
					    tap_random_below(sizeof(bytes));
		if (send(sock, bytes, len, MSG_DONTWAIT) < 0)
			CHECK(errno == EAGAIN || errno == EMSGSIZE ||
			      errno == ENOBUFS);
	}
	return NULL;
}

static void *empty(void *data)
{
	static uint8_t bytes[1 << 20];
	int sock = *(int *)data;

	while (recv(sock, bytes, sizeof(bytes), 0) > 0 ||
	       !__atomic_load_n(&stop, __ATOMIC_RELAXED))
		;
	return NULL;
}

/* The other ring: every message of an honest connection, one by one. */
static uint64_t honest(int from)
{
	int64_t until = tap_now() + SECONDS * 1000000000ll;
	struct steer_ring *ring = &rig.rings[1];
	static uint8_t bytes[5000];
	struct sluice_slot slot;
	uint64_t count = 0;
	size_t len;

	for (; tap_now() < until; count++) {
		len = tap_random_below(sizeof(bytes));
		tap_fill(bytes, len, count);
		CHECK_EQ(send(from, bytes, len, 0), (ssize_t)len);
		CHECK(steer_take(ring, &slot));
		CHECK_EQ(slot.conn, 3);
		CHECK_EQ(slot.len, len);
		CHECK_MEM(steer_payload(ring, &slot), bytes, len);
		steer_release(ring, &slot);
	}
	return count;
}

TAP_TEST(control_map)
{
	struct steer_conn_entry entry = { .conn = 3 };
	struct sluice_steer_ring before;
	struct steer_counters counters;
	pthread_t threads[3];
	int liar[2], good[2];
	uint64_t count;

	steer_rig_new(&rig, &geometry);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, liar));
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, good));
	steer_rig_attach(&rig, liar[1], &entry);
	entry.ring = 1;
	steer_rig_attach(&rig, good[1], &entry);
	*steer_word(&rig.rings[1], 3) = SLUICE_STEER_ON;
	before = *rig.rings[0].header;
	CHECK_EQ(pthread_create(&threads[0], NULL, scribble, &rig.rings[0]), 0);
	CHECK_EQ(pthread_create(&threads[1], NULL, pester, &liar[0]), 0);
	CHECK_EQ(pthread_create(&threads[2], NULL, empty, &liar[1]), 0);
	count = honest(good[0]);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(threads[1], NULL);
	CHECK_SYS(shutdown(liar[0], SHUT_RDWR));
	pthread_join(threads[0], NULL);
	pthread_join(threads[2], NULL);

	/* what is fixed still is */
	CHECK_MEM(rig.rings[0].header, &before, 64);
	steer_rig_counters(&rig, &counters);
	CHECK_EQ(rig.rings[1].header->tail, count);
	CHECK_EQ(rig.rings[1].header->spills, 0);
	CHECK_GT(counters.steered_inline, 0);
	CHECK_GT(counters.pass_hold + counters.pass_charged +
			 counters.pass_ring_full,
		 0);
	tap_diag("%llu messages past the liar, which got %u slots",
		 (unsigned long long)count, rig.rings[0].header->tail);
	close(liar[0]);
	close(liar[1]);
	close(good[0]);
	close(good[1]);
	steer_rig_free(&rig);
}
