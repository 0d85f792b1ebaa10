/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * How far a pool grows by itself: not for a peer that is slow to read, but for
 * one that holds what it has read; and not for a stream that is read and
 * released as it comes.
 */
#include <unistd.h>

#include "waits.h"

#define SIZE (1u << 20)
#define WINDOW (8u << 20)
/* What is out when the window is found full, and the last segment. */
#define SLACK (8u << 20)
#define HELD 24 /* messages: three times the window */
#define STREAM 300 /* messages: more than the pool may have */

static int go[2]; /* a pipe: a byte allows to read */

static uint64_t pool_bytes(struct sluice_conn *conn)
{
	struct sluice_pool_info info;

	sluice_pool_info(sluice_conn_pool(conn), &info);
	return info.bytes;
}

/* 0 or -EAGAIN. */
static int send_one(struct sluice_conn *conn, uint64_t index)
{
	struct sluice_buf *buf;
	int r;

	r = sluice_loan(conn, SIZE, &buf);
	if (r == -EAGAIN)
		return r;
	CHECK_OK(r);
	content_fill(buf->data, 4096, index, 0);
	r = sluice_send_buf(conn, buf, SIZE, index,
			    index % 4 ? SLUICE_SEND_F_BATCH : 0);
	if (r)
		sluice_buf_unref(buf);
	return r;
}

static void send_waiting(struct sluice_conn *conn, uint64_t from, uint64_t to)
{
	int r;

	while (from < to) {
		r = send_one(conn, from);
		if (r == -EAGAIN) {
			CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
			continue;
		}
		CHECK_OK(r);
		from++;
	}
	while (sluice_flush(conn) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1));
}

static void take(struct sluice_conn *conn, struct sluice_msg *msg,
		 uint64_t index)
{
	CHECK_EQ(sluice_recv_wait(conn, msg, -1), 1);
	CHECK_EQ(msg->tag, index);
	CHECK_EQ(msg->len, SIZE);
	CHECK(content_matches(sluice_msg_data(msg), 4096, index, 0));
}

/* Slow at first, then holds HELD messages, then takes a stream. */
static void receive(struct sluice_conn *conn, void *arg)
{
	struct sluice_msg held[HELD], msg;
	uint64_t i, index = 0;
	char byte;

	(void)arg;
	close(go[1]);
	CHECK_EQ(read(go[0], &byte, 1), 1);
	for (i = 0; i < HELD; i++)
		take(conn, &held[i], index++);
	for (i = 0; i < HELD; i++)
		CHECK_OK(sluice_release(conn, &held[i]));
	for (i = 0; i < STREAM; i++) {
		take(conn, &msg, index++);
		CHECK_OK(sluice_release(conn, &msg));
	}
	ends_expect_eof(conn);
}

static const struct way {
	const char *name;
	unsigned int kind;
	uint32_t no_spin;
	uint64_t spin_ns;
} ways[] = {
	{ "direct-sleep", DIRECT, 1, 0 },
	{ "direct-spin", DIRECT, 0, SLUICE_SPIN_FOREVER },
	{ "queued-sleep", QUEUED, 1, 0 },
	{ "queued-spin", QUEUED, 0, SLUICE_SPIN_FOREVER },
	{ "linkless-sleep", LINKLESS, 1, 0 },
	{ "linkless-spin", LINKLESS, 0, SLUICE_SPIN_FOREVER },
	{ "linkless-both", LINKLESS, 0, 0 },
};

TAP_EACH(growth, way, ways)
{
	struct sluice_options mine =
		ENDS_OPTIONS(.no_spin = way->no_spin, .spin_ns = way->spin_ns);
	struct sluice_options childs = ENDS_OPTIONS();
	struct kind_setup setup = { .kind = &kinds[way->kind],
				    .mine = &mine,
				    .childs = &childs };
	struct sluice_conn *conn;
	uint64_t sent = 0;
	pid_t child;

	CHECK_SYS(pipe(go));
	child = kind_fork(&conn, &setup, receive, NULL);
	close(go[0]);
	while (send_one(conn, 0) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, -1)); /* negotiates */
	sent++;
	/* Nothing is read: it ends, and waiting does not help. */
	do {
		while (send_one(conn, sent) == 0)
			CHECK_LT(++sent, HELD);
	} while (sluice_wait(conn, SLUICE_SEND, 30 * MS) == SLUICE_SEND);
	CHECK_GE(sent, WINDOW / SIZE);
	CHECK_LE(pool_bytes(conn), WINDOW + SLACK);
	/* Read and held: it goes on. */
	CHECK_EQ(write(go[1], "", 1), 1);
	send_waiting(conn, sent, HELD);
	CHECK_GE(pool_bytes(conn), HELD * SIZE);
	/* Given back, and the peer keeps up or does not: it stays as it is. */
	send_waiting(conn, HELD, HELD + STREAM);
	tap_diag("%u MiB", (unsigned int)(pool_bytes(conn) >> 20));
	CHECK_LE(pool_bytes(conn), HELD * SIZE + SLACK);
	close(go[1]);
	sluice_conn_shutdown(conn);
	tap_join(child);
	sluice_conn_close(conn);
}

/* In a loop of one's own nothing would tell that the peer has read. */
TAP_TEST(armed_it_grows)
{
	struct sluice_conn *conn[2];
	unsigned int sent = 0, waits = 0;
	short events;

	kind_pair(conn, &kinds[LINKLESS], NULL, NULL);
	while (sent < HELD) {
		while (send_one(conn[0], sent) == 0)
			sent++;
		if (sent >= HELD)
			break;
		CHECK_LT(++waits, HELD);
		CHECK_EQ(sluice_arm(conn[0], SLUICE_SEND, &events),
			 SLUICE_SEND);
	}
	CHECK_GE(waits, 1);
	ends_close(conn);
}
