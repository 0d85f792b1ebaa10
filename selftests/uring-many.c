/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A thousand conns on one ring: all are served, in every lane, in few system calls;
 * a CQ that overflows and buffers that run out cost nothing but time; a set on a
 * ring with steered conns.
 *
 * Limit: 600 s
 */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steers.h"
#include "urings.h"

#define CONNS 1000

static struct loop loop;

struct crowd {
	unsigned int count;
	struct sluice_conn *conn[CONNS][2];
	uint32_t sent[CONNS], got[CONNS];
};

static struct crowd crowd;

static void need_fds(unsigned int count)
{
	struct rlimit limit;

	CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
	if (limit.rlim_cur < count)
		tap_skip("only %llu fds", (unsigned long long)limit.rlim_cur);
}

static void open_crowd(unsigned int count, const struct kind *kind)
{
	struct sluice_options options =
		ENDS_OPTIONS(.ring_slots = 16, .hold_limit = 16);

	need_fds(2 * count + 100);
	crowd.count = count;
	for (unsigned int i = 0; i < count; i++) {
		kind_pair(crowd.conn[i], kind, &options, NULL);
		CHECK_OK(sluice_set_add(loop.set, crowd.conn[i][0], SLUICE_RECV,
					(void *)(uintptr_t)i));
	}
}

static void close_crowd(void)
{
	for (unsigned int i = 0; i < crowd.count; i++)
		ends_close(crowd.conn[i]);
}

static bool say(unsigned int i)
{
	int r = sluice_send(crowd.conn[i][1], &crowd.sent[i],
			    sizeof(crowd.sent[i]), 0, 0);

	if (r == -EAGAIN)
		return false;
	CHECK_OK(r);
	crowd.sent[i]++;
	return true;
}

static unsigned int hear(unsigned int i)
{
	struct sluice_msg msg;
	unsigned int n = 0;
	uint32_t number;

	while (sluice_recv(crowd.conn[i][0], &msg) == 1) {
		memcpy(&number, sluice_msg_data(&msg), sizeof(number));
		CHECK_EQ(number, crowd.got[i]);
		crowd.got[i]++;
		n++;
	}
	return n;
}

/* Takes what there is until `left` messages have come. */
static void hear_all(unsigned int left)
{
	struct sluice_event events[64];
	int64_t until = tap_now() + 60 * SECOND * tap_slow;
	int n, i;

	while (left) {
		CHECK_LT(tap_now(), until);
		n = loop_wait(&loop, events, 64, SECOND);
		for (i = 0; i < n; i++)
			left -= hear((unsigned int)(uintptr_t)events[i].data);
	}
}

static const struct row {
	const char *name;
	int kind, setup;
	unsigned int conns, entries;
} rows[] = {
	{ "plain", PLAIN, BASIC, CONNS, 256 },
	{ "queued", QUEUED, BASIC, CONNS, 256 },
	{ "linkless", LINKLESS, DEFER, CONNS, 256 },
	{ "direct", DIRECT, BASIC, CONNS, 256 },
	{ "sqpoll", QUEUED, SQPOLL, 200, 64 },
	/* 8 CQEs for all of them: it overflows */
	{ "overflow", QUEUED, BASIC, 300, 4 },
	{ "overflow/defer", QUEUED, DEFER, 300, 4 },
	{ "overflow/plain", PLAIN, BASIC, 300, 4 },
};

/* Each once; then all at once, several times; then some, by chance. */
TAP_EACH(all, row, rows)
{
	unsigned int i, round, left;

	tap_limit(300);
	loop_open(&loop, &setups[row->setup], row->entries);
	open_crowd(row->conns, &kinds[row->kind]);
	for (i = 0; i < row->conns; i += 7) {
		CHECK(say(i));
		hear_all(1);
	}
	for (round = 0; round < 5; round++) {
		for (i = 0; i < row->conns; i++)
			CHECK(say(i));
		hear_all(row->conns);
	}
	for (round = 0; round < 50; round++) {
		left = 0;
		for (i = 0; i < 40; i++)
			left += say((unsigned int)tap_random_below(row->conns));
		hear_all(left);
	}
	for (i = 0; i < row->conns; i++)
		CHECK_EQ(crowd.got[i], crowd.sent[i]);
	close_crowd();
	loop_close(&loop);
}

/* io_uring_enter() is all that is called, and not once for each message. */
TAP_TEST(batches)
{
	struct sluice_uring_info info;
	struct sluice_conn_info conn;
	unsigned int i, got = 0;
	struct sluice_msg msg;

	loop_open_ring(&loop, &setups[BASIC], 256);
	CHECK_OK(sluice_uring_set(&loop.set, &loop.ring,
				  &URINGS_OPTIONS(.buffers = 128)));
	if (!urings_multishot(&loop))
		tap_skip("no multishot RECVMSG in this kernel");
	open_crowd(100, &kinds[LINKLESS]);
	loop_turn(&loop, 0);
	CHECK_EQ(loop_info(&loop).receiving, 100);
	for (i = 0; i < 100; i++) {
		CHECK(say(i));
		CHECK_OK(sluice_send(crowd.conn[i][0], "x", 1, 0,
				     SLUICE_SEND_F_BATCH));
	}
	/* One turn: 100 frames out by one submit, 100 in without a call. */
	loop_turn(&loop, 0);
	loop_turn(&loop, 0);
	info = loop_info(&loop);
	CHECK_EQ(info.sends, 100);
	CHECK_EQ(info.receives, 100);
	for (i = 0; i < 100; i++) {
		got += hear(i);
		CHECK_EQ(sluice_recv(crowd.conn[i][1], &msg), 1);
		sluice_conn_info(crowd.conn[i][0], &conn);
		CHECK_EQ(conn.frames_sent, 2); /* HELLO, DATA */
	}
	hear_all(100 - got);
	CHECK_EQ(loop_info(&loop).frames_received, 100);
	CHECK_EQ(loop_info(&loop).polls, 0);
	close_crowd();
	loop_close(&loop);
}

/* More frames than there are buffers, before any CQE is looked at. */
TAP_TEST(buffers_run_out)
{
	unsigned int i, round;

	loop_open_ring(&loop, &setups[BASIC], 256);
	CHECK_OK(sluice_uring_set(&loop.set, &loop.ring,
				  &URINGS_OPTIONS(.buffers = 16)));
	if (!urings_multishot(&loop))
		tap_skip("no multishot RECVMSG in this kernel");
	open_crowd(10, &kinds[LINKLESS]);
	loop_turn(&loop, 0);
	for (round = 0; round < 20; round++) {
		for (i = 0; i < 10 * 8; i++)
			CHECK(say(i % 10));
		hear_all(10 * 8);
	}
	CHECK_GT(loop_info(&loop).starved, 0);
	close_crowd();
	loop_close(&loop);
}

/* A peer that floods one that does not take: it is not read without an end. */
TAP_TEST(inbox_fills)
{
	struct sluice_conn_info info;
	unsigned int sent = 0, turns = 0, i;

	loop_open(&loop, &setups[BASIC], 256);
	open_crowd(1, &kinds[LINKLESS]);
	for (;;) {
		for (i = 0; i < 64 && say(0); i++)
			sent++;
		loop_turn(&loop, 0);
		if (!i && ++turns > 20)
			break;
		if (i)
			turns = 0;
	}
	sluice_conn_info(crowd.conn[0][0], &info);
	/* INBOX_MAX, and what the buffers had */
	CHECK_LE(info.frames_received, 4096 + 64 + 1);
	CHECK_EQ(loop_info(&loop).receiving, 0);
	/* And on it goes. */
	hear_all(sent);
	for (i = 0; i < 100; i++) {
		CHECK(say(0));
		hear_all(1);
	}
	close_crowd();
	loop_close(&loop);
}

/* Steered ------------------------------------------------------------------- */

/* Plain senders; their messages come by the endpoint's ring, spills by the socket. */
TAP_TEST(steered)
{
	enum { STEERED = 50 };
	static struct sluice_conn *conn[STEERED];
	static uint64_t sent[STEERED], got[STEERED];
	struct sluice_options options = ENDS_OPTIONS(.no_spin = 1);
	struct sluice_event events[16];
	static int peer[STEERED];
	struct daemon d;
	uint64_t steered = 0;
	unsigned int i, round, left;
	int n, fds;

	tap_limit(200);
	need_fds(1000);
	steers_start(&d);
	fds = tap_open_fds();
	loop_open(&loop, &setups[BASIC], 64);
	CHECK_OK(sluice_endpoint_new(&options.endpoint,
				     &STEERS_ENDPOINT(.conns = 64,
						      .ring_slots = 64)));
	for (i = 0; i < STEERED; i++) {
		steers_pair(&conn[i], &peer[i], &options);
		CHECK_OK(sluice_set_add(loop.set, conn[i], SLUICE_RECV,
					(void *)(uintptr_t)i));
	}
	for (round = 0; round < 200; round++) {
		for (left = 0; left < 1 + round; left++) {
			i = (unsigned int)tap_random_below(STEERED);
			steers_send(peer[i], i, sent[i]++, 300);
		}
		while (left) {
			n = loop_wait(&loop, events, 16,
				      20 * SECOND * tap_slow);
			CHECK_GT(n, 0);
			while (n--) {
				struct sluice_msg msg;

				i = (unsigned int)(uintptr_t)events[n].data;
				while (sluice_recv(conn[i], &msg) == 1) {
					steers_check(sluice_msg_data(&msg),
						     msg.len, i, got[i]++, 300);
					CHECK_OK(sluice_release(conn[i], &msg));
					left--;
				}
			}
		}
	}
	/* The end of a stream, too. */
	close(peer[0]);
	CHECK_EQ(loop_wait(&loop, events, 16, 20 * SECOND * tap_slow), 1);
	CHECK(events[0].conn == conn[0]);
	for (i = 0; i < STEERED; i++) {
		struct sluice_msg msg;

		steered += steers_steered(conn[i]);
		CHECK_EQ(sluice_recv(conn[i], &msg), i ? -EAGAIN : 0);
		sluice_conn_close(conn[i]);
		if (i)
			close(peer[i]);
	}
	CHECK_GT(steered, 0);
	sluice_endpoint_free(options.endpoint);
	loop_close(&loop);
	CHECK_EQ(tap_open_fds(), fds);
	steers_stop(&d);
}
