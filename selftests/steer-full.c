/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Rings, landing pools and inboxes that are full for long: messages go through
 * the sockets, whose back-pressure the senders meet; nothing is lost.
 *
 * Limit: 300 s
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steers.h"

#define LEN_MAX 100000

/* Nobody reads for seconds; the sender blocks, or gets EAGAIN. */
TAP_TEST(ring_full_for_seconds)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.ring_slots = 16, .conns = 16);
	struct sluice_options options = ENDS_OPTIONS(.endpoint_options = &e);
	struct sluice_conn *conn;
	uint64_t i, sent = 0;
	struct daemon d;
	char byte = 0;
	pid_t pid;
	int peer;

	steers_start(&d);
	steers_pair(&conn, &peer, &options);
	/* A grant first, so that the ring does fill. */
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
	while (send(peer, &byte, 1, MSG_DONTWAIT) == 1)
		sent++;
	CHECK_EQ(errno, EAGAIN);
	CHECK_GT(sent, 16);
	pid = tap_fork();
	if (!pid) {
		for (i = 0; i < 5000; i++)
			steers_send(peer, 3, i, LEN_MAX);
		_exit(0);
	}
	close(peer);
	tap_sleep(2 * SECOND);
	for (i = 0; i < sent; i++) {
		struct sluice_msg msg;

		steers_wait(conn, &msg);
		CHECK_EQ(msg.len, 1);
	}
	CHECK_EQ(steers_steered(conn), 16);
	for (i = 0; i < 5000; i++)
		steers_recv(conn, 3, i, LEN_MAX);
	tap_join(pid);
	ends_expect_eof(conn);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/* Views are kept by the hundred and released in any order, checked each time. */
static const struct keep {
	const char *name;
	unsigned int limit;
	uint32_t landing[3];
} keeps[] = {
	{ "few", 8, { 1, 2, 1 } },
	{ "all_of_them", 300, { 1, 4, 2 } },
	{ "many", 200, { 32, 32, 8 } },
};

struct kept {
	struct sluice_msg msg;
	uint64_t index;
};

static void give_back(struct sluice_conn *conn, struct kept *kept)
{
	steers_check(kept->msg.view, kept->msg.len, 4, kept->index, LEN_MAX);
	CHECK_OK(sluice_release(conn, &kept->msg));
	CHECK_EQ(sluice_release(conn, &kept->msg), -EINVAL);
}

TAP_EACH(keep_views, keep, keeps)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.ring_slots = 256, .conns = 16);
	struct sluice_options options = ENDS_OPTIONS(.hold_limit = 512);
	static struct kept kept[300];
	struct sluice_endpoint_info info;
	unsigned int count = 0, n;
	struct sluice_conn *conn;
	struct kept next;
	struct daemon d;
	int peer;
	pid_t pid;

	memcpy(e.landing, keep->landing, sizeof(e.landing));
	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, &e));
	steers_pair(&conn, &peer, &options);
	pid = tap_fork();
	if (!pid) {
		for (uint64_t i = 0; i < 10000 / (uint64_t)tap_slow; i++)
			steers_send(peer, 4, i, LEN_MAX);
		_exit(0);
	}
	close(peer);
	for (next.index = 0; next.index < 10000 / (uint64_t)tap_slow;
	     next.index++) {
		steers_wait(conn, &next.msg);
		if (next.msg.kind == SLUICE_SLOT_INLINE) {
			steers_check(sluice_msg_data(&next.msg), next.msg.len,
				     4, next.index, LEN_MAX);
			CHECK_OK(sluice_release(conn, &next.msg));
			continue;
		}
		if (count == keep->limit) {
			n = (unsigned int)tap_random_below(count);
			give_back(conn, &kept[n]);
			kept[n] = kept[--count];
		}
		kept[count++] = next;
	}
	ends_expect_eof(conn);
	CHECK_GT(steers_steered(conn), 0);
	while (count) {
		n = (unsigned int)tap_random_below(count);
		/* Half of them go with the conn. */
		if (n % 2)
			give_back(conn, &kept[n]);
		kept[n] = kept[--count];
	}
	tap_join(pid);
	sluice_conn_close(conn);
	sluice_endpoint_info(options.endpoint, &info);
	CHECK_EQ(info.landing_used, 0);
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}

/*
 * A queue of messages that are taken from the socket several at once, short ones
 * beside long ones and empty ones, with the end of the stream behind them.
 */
TAP_TEST(queue_of_all_lengths)
{
	static const size_t lens[] = { 0,    1,	    64, 4096,  0, 4097, 33,
				       2000, 70000, 12, 16385, 7, 16384 };
	const unsigned int count = 10 * sizeof(lens) / sizeof(*lens);
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.ring_slots = 16, .conns = 16);
	struct sluice_options options = ENDS_OPTIONS(.endpoint_options = &e);
	const int room = 8 << 20;
	static uint8_t data[70000];
	struct sluice_conn *conn;
	struct sluice_msg msg;
	struct daemon d;
	size_t len, got;
	unsigned int i;
	int peer;

	steers_start(&d);
	steers_pair(&conn, &peer, &options);
	CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK_SYS(setsockopt(peer, SOL_SOCKET, SO_SNDBUFFORCE, &room,
			     sizeof(room)));
	for (i = 0; i < 16 + count; i++) {
		len = i < 16 ? 8 : lens[i % (sizeof(lens) / sizeof(*lens))];
		steers_fill(data, len, 5, i);
		CHECK_EQ(send(peer, data, len, MSG_DONTWAIT), (ssize_t)len);
	}
	close(peer);
	for (i = 0; i < 16 + count; i++) {
		uint8_t want[sizeof(data)];

		len = i < 16 ? 8 : lens[i % (sizeof(lens) / sizeof(*lens))];
		steers_fill(want, len, 5, i);
		if (i % 3) {
			steers_wait(conn, &msg);
			CHECK_EQ(msg.len, len);
			CHECK_MEM(sluice_msg_data(&msg), want, len);
			CHECK_OK(sluice_release(conn, &msg));
			continue;
		}
		if (len) /* too little room: it stays where it is */
			CHECK_EQ(sluice_recv_copy(conn, data, len - 1, &got,
						  NULL),
				 -EMSGSIZE);
		CHECK_EQ(sluice_recv_copy(conn, data, sizeof(data), &got, NULL),
			 1);
		CHECK_EQ(got, len);
		CHECK_MEM(data, want, len);
	}
	CHECK_EQ(steers_steered(conn), 16);
	CHECK_EQ(steers_spilled(conn), count);
	ends_expect_eof(conn);
	sluice_conn_close(conn);
	steers_stop(&d);
}

/*
 * A conn that nobody receives from does not stop the others on its ring; its
 * sender blocks in the end. What it was sent is all there afterwards.
 */
TAP_TEST(unread_neighbour)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.ring_slots = 64, .conns = 16);
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	uint64_t i, sent = 0;
	struct daemon d;
	int peer[2];
	char byte = 0;

	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, &e));
	for (i = 0; i < 2; i++) {
		steers_pair(&conn[i], &peer[i], &options);
		CHECK_EQ(sluice_wait(conn[i], SLUICE_RECV, 0), -ETIMEDOUT);
	}
	for (i = 0; i < 20000; i++) {
		while (send(peer[0], &byte, 1, MSG_DONTWAIT) == 1 &&
		       ++sent % 16)
			;
		steers_send(peer[1], 6, i, 5000);
		steers_recv(conn[1], 6, i, 5000);
	}
	CHECK_EQ(send(peer[0], &byte, 1, MSG_DONTWAIT), -1);
	CHECK_GT(steers_steered(conn[0]), 1000);
	CHECK_GT(steers_steered(conn[1]), 15000);
	for (i = 0; i < sent; i++)
		steers_wait(conn[0], &msg);
	CHECK_EQ(sluice_recv(conn[0], &msg), -EAGAIN);
	/* And it is steered again. */
	i = steers_steered(conn[0]);
	CHECK_EQ(send(peer[0], &byte, 1, 0), 1);
	steers_wait(conn[0], &msg);
	CHECK_EQ(steers_steered(conn[0]), i + 1);
	for (i = 0; i < 2; i++) {
		close(peer[i]);
		sluice_conn_close(conn[i]);
	}
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}

/* A copy may be too small, in either lane: then the message stays. */
TAP_TEST(copies)
{
	static uint8_t data[LEN_MAX];
	struct sluice_conn *conn;
	struct daemon d;
	uint64_t i;
	size_t len;
	int peer, r;

	steers_start(&d);
	steers_pair(&conn, &peer, NULL);
	for (i = 0; i < 2000; i++) {
		if (i % 7 == 0) /* not granted: through the socket */
			sluice_wait(conn, SLUICE_RECV, 0);
		steers_send(peer, 8, i, LEN_MAX);
		len = steers_len(8, i, LEN_MAX);
		if (len) {
			r = sluice_recv_copy(conn, data, len - 1, &len, NULL);
			if (r == -EAGAIN)
				r = -EMSGSIZE; /* no look was due */
			CHECK_EQ(r, -EMSGSIZE);
		}
		CHECK_EQ(sluice_wait(conn, SLUICE_RECV, SECOND), SLUICE_RECV);
		CHECK_EQ(sluice_recv_copy(conn, data, LEN_MAX, &len, NULL), 1);
		steers_check(data, len, 8, i, LEN_MAX);
	}
	CHECK_GT(steers_steered(conn), 1000);
	close(peer);
	ends_expect_eof(conn);
	sluice_conn_close(conn);
	steers_stop(&d);
}
