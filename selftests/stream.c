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

#include <sluice/sluice.h>

#include "services.h"
#include "tap.h"

#define LANDING "landing = yes\n"
#define WAIT_NS 5000000000

struct rig {
	struct services s;
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	int client;
	uint64_t received; /* bytes, each the one that belongs there */
};

static unsigned char byte_at(uint64_t position)
{
	return (unsigned char)(position * 0x9e3779b97f4a7c15ull >> 56);
}

static void check_bytes(const unsigned char *data, size_t len, uint64_t at)
{
	for (size_t i = 0; i < len; i++) {
		if (data[i] != byte_at(at + i))
			CHECK_EQ(at + i, UINT64_MAX); /* says where */
	}
}

static void rig_bind(struct rig *rig, const uint32_t *landing)
{
	struct sluice_endpoint_options endpoint = {
		.size = sizeof(endpoint),
		.control = rig->s.d.control,
		.ring_slots = 64,
		.conns = 16,
	};
	struct sluice_options options = {
		.size = sizeof(options),
		.flags = SLUICE_F_STEER,
		.endpoint_options = &endpoint,
	};

	if (landing)
		memcpy(endpoint.landing, landing, sizeof(endpoint.landing));
	CHECK_OK(sluice_service_bind(&rig->listener, "s", &options));
}

static void rig_accept(struct rig *rig)
{
	rig->client = services_connect(&rig->s);
	CHECK_OK(sluice_accept(rig->listener, &rig->conn, WAIT_NS));
	rig->received = 0;
}

static void rig_open(struct rig *rig, const char *extra,
		     const uint32_t *landing)
{
	services_open(&rig->s, SOCK_STREAM, 0, extra);
	rig_bind(rig, landing);
	rig_accept(rig);
}

static void rig_close(struct rig *rig)
{
	if (rig->conn)
		sluice_conn_close(rig->conn);
	if (rig->client >= 0)
		close(rig->client);
	sluice_listener_close(rig->listener);
	services_refuses(&rig->s);
	services_close(&rig->s);
}

static struct sluice_conn_info rig_info(const struct rig *rig)
{
	struct sluice_conn_info info;

	sluice_conn_info(rig->conn, &info);
	return info;
}

/* One message: its bytes are those that come next. What sluice_recv() returns. */
static int receive(struct rig *rig, int64_t timeout_ns)
{
	struct sluice_msg msg;
	int r = sluice_recv_wait(rig->conn, &msg, timeout_ns);

	if (r != 1)
		return r;
	check_bytes(sluice_msg_data(&msg), msg.len, rig->received);
	rig->received += msg.len;
	CHECK_OK(sluice_release(rig->conn, &msg));
	return 1;
}

static void receive_up_to(struct rig *rig, uint64_t bytes)
{
	while (rig->received < bytes)
		CHECK_EQ(receive(rig, WAIT_NS), 1);
	CHECK_EQ(rig->received, bytes);
}

/* Sends len bytes of the stream from `at` on. */
static void send_at(int fd, uint64_t at, size_t len)
{
	static __thread unsigned char data[1 << 20];
	size_t sent = 0;

	CHECK_LE(len, sizeof(data));
	for (size_t i = 0; i < len; i++)
		data[i] = byte_at(at + i);
	while (sent < len)
		sent += (size_t)CHECK_SYS(
			send(fd, data + sent, len - sent, MSG_NOSIGNAL));
}

/* What is sent from now on lands. */
static void until_steered(struct rig *rig, uint64_t *sent)
{
	uint64_t before = rig_info(rig).steered;

	for (int i = 0; i < 100 && rig_info(rig).steered == before; i++) {
		send_at(rig->client, *sent, 100);
		*sent += 100;
		receive_up_to(rig, *sent);
		CHECK_EQ(receive(rig, 0), -ETIMEDOUT);
	}
	CHECK_GT(rig_info(rig).steered, before);
}

static const struct size {
	const char *name;
	size_t len;
	unsigned int slots; /* of the kernel's pieces */
} sizes[] = {
	{ "one", 1, 1 },	 { "inline", 32, 1 },  { "small", 33, 1 },
	{ "page", 4096, 1 },	 { "medium", 4097, 1 }, { "piece", 32768, 1 },
	{ "two_pieces", 65536, 2 },
};

TAP_EACH(lands, size, sizes)
{
	uint64_t sent = 0, steered;
	struct rig rig;

	rig_open(&rig, LANDING, NULL);
	until_steered(&rig, &sent);
	for (int i = 0; i < 10; i++) {
		steered = rig_info(&rig).steered;
		send_at(rig.client, sent, size->len);
		sent += size->len;
		receive_up_to(&rig, sent);
		CHECK_EQ(rig_info(&rig).steered, steered + size->slots);
	}
	CHECK_EQ(rig_info(&rig).rx_lane, SLUICE_LANE_STEERED);
	CHECK_EQ(rig_info(&rig).steer_error, 0);
	CHECK_OK(sluice_send(rig.conn, "answer", 6, 0, 0));
	{
		char data[6];

		CHECK_EQ(recv(rig.client, data, 6, MSG_WAITALL), 6);
	}
	close(rig.client);
	rig.client = -1;
	CHECK_EQ(receive(&rig, WAIT_NS), 0);
	rig_close(&rig);
}

/* Without landing = yes it is received by recv(), and the conn says why. */
TAP_TEST(refused_without_landing)
{
	struct rig rig;

	rig_open(&rig, "", NULL);
	send_at(rig.client, 0, 1000);
	receive_up_to(&rig, 1000);
	CHECK_EQ(receive(&rig, 0), -ETIMEDOUT);
	CHECK_EQ(rig_info(&rig).rx_reason, SLUICE_REASON_STEER_REFUSED);
	CHECK_EQ(rig_info(&rig).steer_error, -EPROTOTYPE);
	CHECK_EQ(rig_info(&rig).steered, 0);
	send_at(rig.client, 1000, 1000);
	receive_up_to(&rig, 2000);
	rig_close(&rig);
}

/* What comes before the conn is attached is received before what lands. */
TAP_TEST(early_data)
{
	struct rig rig;
	uint64_t sent;

	rig_open(&rig, LANDING, NULL);
	for (int i = 0; i < 50; i++) {
		sluice_conn_close(rig.conn);
		close(rig.client);
		rig.client = services_connect(&rig.s);
		rig.received = sent = 0;
		for (int n = (int)tap_random_below(4); n; n--) {
			size_t len = 1 + tap_random_below(5000);

			send_at(rig.client, sent, len);
			sent += len;
		}
		CHECK_OK(sluice_accept(rig.listener, &rig.conn, WAIT_NS));
		if (sent)
			CHECK_EQ(rig_info(&rig).steer_error, -EAGAIN);
		if (tap_random_below(2))
			receive_up_to(&rig, sent);
		send_at(rig.client, sent, 500);
		sent += 500;
		until_steered(&rig, &sent);
	}
	rig_close(&rig);
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
		len = 1 + tap_random_below(tap_random_below(4) ?
						   64 :
						   writer->piece_max);
		if (len > writer->bytes - sent)
			len = writer->bytes - sent;
		send_at(client, sent, len);
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

static void receive_all(struct rig *rig, uint64_t bytes, unsigned int hold)
{
	struct sluice_msg held[64], msg;
	unsigned int count = 0;
	int r;

	while ((r = sluice_recv_wait(rig->conn, &msg, WAIT_NS)) == 1) {
		check_bytes(sluice_msg_data(&msg), msg.len, rig->received);
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
	struct rig rig;
	pid_t pid;

	rig_open(&rig, LANDING, stream->landing);
	for (int i = 0; i < 3; i++) {
		pid = start_writer(rig.client, &writer);
		close(rig.client);
		rig.client = -1;
		receive_all(&rig, writer.bytes, stream->hold);
		if (stream->end == END_HALF_CLOSE)
			CHECK_OK(sluice_send(rig.conn, "e", 1, 0, 0));
		tap_diag("%llu landed, %llu by the sockets",
			 (unsigned long long)rig_info(&rig).steered,
			 (unsigned long long)rig_info(&rig).spilled);
		sluice_conn_close(rig.conn);
		rig.conn = NULL;
		if (stream->end != END_KILLED)
			tap_join(pid);
		else
			tap_kill(pid);
		rig_accept(&rig);
	}
	rig_close(&rig);
}
