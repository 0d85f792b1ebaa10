/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Landing of STREAM: what a plain client of a service sends comes to an aware
 * backend by the program, in place, or by the spill sockets; in order, all of it,
 * and then the end.
 *
 * Limit: 600 s
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "landings.h"
#include "tap.h"

static const struct size {
	const char *name;
	size_t len;
	unsigned int slots; /* of the kernel's pieces */
} sizes[] = {
	{ "one", 1, 1 },
	{ "inline", 32, 1 },
	{ "small", 33, 1 },
	{ "page", 4096, 1 },
	{ "medium", 4097, 1 },
	{ "piece", 32768, 1 },
	{ "two_pieces", 65536, 2 },
};

TAP_EACH(lands, size, sizes)
{
	uint64_t sent = 0, steered;
	struct landing_rig rig;

	landing_open(&rig, LANDING_YES, NULL);
	landing_until_steered(&rig, &sent);
	for (int i = 0; i < 10; i++) {
		steered = landing_info(&rig).steered;
		landing_send(rig.client, sent, size->len);
		sent += size->len;
		landing_receive_up_to(&rig, sent);
		CHECK_EQ(landing_info(&rig).steered, steered + size->slots);
	}
	CHECK_EQ(landing_info(&rig).rx_lane, SLUICE_LANE_STEERED);
	CHECK_EQ(landing_info(&rig).steer_error, 0);
	CHECK_OK(sluice_send(rig.conn, "answer", 6, 0, 0));
	{
		char data[6];

		CHECK_EQ(recv(rig.client, data, 6, MSG_WAITALL), 6);
	}
	close(rig.client);
	rig.client = -1;
	CHECK_EQ(landing_receive(&rig, LANDING_WAIT_NS), 0);
	landing_close(&rig);
}

/* Without landing = yes it is received by recv(), and the conn says why. */
TAP_TEST(refused_without_landing)
{
	struct landing_rig rig;

	landing_open(&rig, "", NULL);
	landing_send(rig.client, 0, 1000);
	landing_receive_up_to(&rig, 1000);
	CHECK_EQ(landing_receive(&rig, 0), -ETIMEDOUT);
	CHECK_EQ(landing_info(&rig).rx_reason, SLUICE_REASON_STEER_REFUSED);
	CHECK_EQ(landing_info(&rig).steer_error, -EPROTOTYPE);
	CHECK_EQ(landing_info(&rig).steered, 0);
	landing_send(rig.client, 1000, 1000);
	landing_receive_up_to(&rig, 2000);
	landing_close(&rig);
}

/* A reload brings it, long after sluiced has given up its privileges. */
TAP_TEST(begins_with_a_reload)
{
	struct landing_rig rig;

	landing_open(&rig, "", NULL);
	landing_send(rig.client, 0, 5000);
	landing_receive_up_to(&rig, 5000);
	CHECK_EQ(landing_info(&rig).steered, 0);
	strcpy(rig.s.extra, LANDING_YES);
	services_reload(&rig.s);
	landing_again(&rig);
	for (uint64_t sent = 0; !landing_info(&rig).steered; sent += 5000) {
		CHECK_LT(sent, 5000000);
		landing_send(rig.client, sent, 5000);
		landing_receive_up_to(&rig, sent + 5000);
	}
	landing_close(&rig);
}

/* What comes before the conn is attached is received before what lands. */
TAP_TEST(early_data)
{
	struct landing_rig rig;
	uint64_t sent;

	landing_open(&rig, LANDING_YES, NULL);
	for (int i = 0; i < 50; i++) {
		sluice_conn_close(rig.conn);
		close(rig.client);
		rig.client = services_connect(&rig.s);
		rig.received = sent = 0;
		for (int n = (int)tap_random_below(4); n; n--) {
			size_t len = 1 + tap_random_below(5000);

			landing_send(rig.client, sent, len);
			sent += len;
		}
		CHECK_OK(sluice_accept(rig.listener, &rig.conn,
				       LANDING_WAIT_NS));
		if (sent)
			CHECK_EQ(landing_info(&rig).steer_error, -EAGAIN);
		if (tap_random_below(2))
			landing_receive_up_to(&rig, sent);
		landing_send(rig.client, sent, 500);
		sent += 500;
		landing_until_steered(&rig, &sent);
	}
	landing_close(&rig);
}

/* A stream in pieces of any size --------------------------------------------- */

enum end { END_CLOSE, END_HALF_CLOSE, END_KILLED };

struct writer {
	uint64_t bytes;
	size_t piece_max;
	enum end end;
};

static pid_t start_writer(int client, const struct writer *writer)
{
	uint64_t sent = 0;
	pid_t pid = tap_fork();
	size_t len;
	char byte;

	if (pid)
		return pid;
	tap_random_stream(1);
	while (sent < writer->bytes) {
		len = 1 + tap_random_below(
				  tap_random_below(4) ? 64 : writer->piece_max);
		if (len > writer->bytes - sent)
			len = writer->bytes - sent;
		landing_send(client, sent, len);
		sent += len;
	}
	if (writer->end == END_HALF_CLOSE) {
		CHECK_SYS(shutdown(client, SHUT_WR));
		CHECK_EQ(recv(client, &byte, 1, 0), 1);
		CHECK_EQ(byte, 'e');
		CHECK_EQ(recv(client, &byte, 1, 0), 0);
	}
	if (writer->end == END_KILLED)
		kill(getpid(), SIGKILL);
	_exit(0);
}

static const struct stream {
	const char *name;
	uint32_t landing[3];
	size_t piece_max;
	enum end end;
	unsigned int hold; /* messages kept, out of every 64 */
} streams[] = {
	{ "roomy", { 16, 64, 0 }, 30000, END_CLOSE, 0 },
	{ "larger_than_pieces", { 16, 64, 0 }, 200000, END_HALF_CLOSE, 0 },
	{ "few_slots", { 1, 1, 0 }, 60000, END_CLOSE, 0 },
	{ "small_slots_only", { 1, 0, 0 }, 60000, END_HALF_CLOSE, 0 },
	{ "few_slots_and_killed", { 1, 1, 0 }, 60000, END_KILLED, 0 },
	{ "roomy_and_killed", { 16, 64, 0 }, 200000, END_KILLED, 0 },
	{ "slots_are_held", { 1, 2, 0 }, 60000, END_HALF_CLOSE, 20 },
};

static void receive_all(struct landing_rig *rig, uint64_t bytes,
			unsigned int hold)
{
	struct sluice_msg held[64], msg;
	unsigned int count = 0;
	int r;

	while ((r = sluice_recv_wait(rig->conn, &msg, LANDING_WAIT_NS)) == 1) {
		landing_check(sluice_msg_data(&msg), msg.len, rig->received);
		rig->received += msg.len;
		if (count < hold) {
			held[count++] = msg;
			continue;
		}
		CHECK_OK(sluice_release(rig->conn, &msg));
		if (!tap_random_below(64))
			while (count)
				CHECK_OK(sluice_release(rig->conn,
							&held[--count]));
	}
	CHECK_EQ(r, 0);
	CHECK_EQ(rig->received, bytes);
	while (count)
		CHECK_OK(sluice_release(rig->conn, &held[--count]));
}

TAP_EACH(any_pieces, stream, streams)
{
	const struct writer writer = { .bytes = 8 << 20,
				       .piece_max = stream->piece_max,
				       .end = stream->end };
	struct landing_rig rig;
	pid_t pid;

	landing_open(&rig, LANDING_YES, stream->landing);
	for (int i = 0; i < 3; i++) {
		pid = start_writer(rig.client, &writer);
		close(rig.client);
		rig.client = -1;
		receive_all(&rig, writer.bytes, stream->hold);
		if (stream->end == END_HALF_CLOSE)
			CHECK_OK(sluice_send(rig.conn, "e", 1, 0, 0));
		tap_diag("%llu landed, %llu by the sockets",
			 (unsigned long long)landing_info(&rig).steered,
			 (unsigned long long)landing_info(&rig).spilled);
		sluice_conn_close(rig.conn);
		rig.conn = NULL;
		if (stream->end != END_KILLED)
			tap_join(pid);
		else
			tap_kill(pid);
		landing_again(&rig);
	}
	landing_close(&rig);
}
