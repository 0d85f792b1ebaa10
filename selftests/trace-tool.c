/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Traffic of known numbers, between two processes, for trace.t.sh:
 *
 *	trace-tool LANE COUNT SIZE HOLD
 *
 *	trace-tool burst COUNT
 *
 * LANE is direct or queued, or steered or plain, which need the sluiced that
 * SLUICE_CONTROL names: an aware or a plain sender to a receiver that is steered. COUNT messages
 * of SIZE bytes with their number as tag; after those of a plain sender, one that is
 * too large for any landing slot. The last HOLD of them are not released. Prints what
 * both sides counted, as words of the form name=value. A receiver lets its sender
 * find the ring full: it reads on after the sender has been refused once.
 *
 * burst: COUNT messages in the direct lane, all of them sent before the first is
 * received.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sluice/sluice.h>

#define LARGE (SLUICE_LANDING_LARGE + 1)

struct plan {
	const char *lane;
	uint32_t count;
	size_t size;
	uint32_t hold;
};

struct counts {
	uint64_t refused; /* -EAGAIN */
	uint64_t doorbells, sleeps;
};

static struct sluice_options options = { .size = sizeof(options),
					 .ring_slots = 16,
					 .no_spin = 1 };

static void die(const char *what, int r)
{
	fprintf(stderr, "trace-tool: %s: %s\n", what, strerror(-r));
	exit(1);
}

static void tell(int fd)
{
	if (write(fd, "", 1) != 1)
		die("write", -errno);
}

static void hear(int fd)
{
	char c;

	if (read(fd, &c, 1) != 1)
		die("the other side is gone", -EPIPE);
}

static struct counts counts_of(struct sluice_conn *conn, uint64_t refused)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	return (struct counts){ .refused = refused,
				.doorbells = info.doorbells_sent,
				.sleeps = info.sleeps };
}

static int send_one(struct sluice_conn *conn, size_t size, uint64_t tag)
{
	static const char zeroes[SLUICE_INLINE_MAX];
	struct sluice_buf *buf;
	int r;

	if (size <= SLUICE_INLINE_MAX)
		return sluice_send(conn, zeroes, size, tag, 0);
	r = sluice_loan(conn, size, &buf);
	if (r)
		return r;
	memset(buf->data, 0, size);
	r = sluice_send_buf(conn, buf, (uint32_t)size, tag, 0);
	if (r)
		sluice_buf_unref(buf);
	return r;
}

/* Says so in `go` once it was refused, or is done. */
static void send_aware(const struct plan *plan, int fd, int go, int result,
		       int done)
{
	struct sluice_conn *conn;
	struct counts counts;
	uint64_t refused = 0;
	bool told = false;
	uint32_t i;
	int r;

	options.flags = SLUICE_F_AWARE |
			(strcmp(plan->lane, "queued") ? 0 : SLUICE_F_NO_DIRECT);
	r = sluice_conn_from_fd(&conn, fd, &options);
	if (r)
		die("sender", r);
	for (i = 0; i < plan->count;) {
		r = send_one(conn, plan->size, i);
		if (r && r != -EAGAIN)
			die("send", r);
		if (!r) {
			if (!i++)
				hear(done); /* until it may be steered */
			continue;
		}
		refused++;
		if (i && !told)
			tell(go);
		told = told || i;
		r = sluice_wait(conn, SLUICE_SEND, -1);
		if (r < 0)
			die("wait", r);
	}
	if (!told)
		tell(go);
	hear(done);
	counts = counts_of(conn, refused);
	if (write(result, &counts, sizeof(counts)) != sizeof(counts))
		die("write", -errno);
	hear(done);
	sluice_conn_close(conn);
}

static void send_plain(const struct plan *plan, int fd, int go, int result,
		       int done)
{
	static char payload[LARGE];
	struct counts counts = { 0 };
	int room = 2 * LARGE;
	uint32_t i;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	for (i = 0; i < plan->count; i++)
		if (send(fd, payload, plan->size, 0) < 0)
			die("send", -errno);
	if (send(fd, payload, LARGE, 0) < 0)
		die("send", -errno);
	tell(go);
	hear(done);
	if (write(result, &counts, sizeof(counts)) != sizeof(counts))
		die("write", -errno);
	hear(done);
}

static void receive(const struct plan *plan, int fd, int go, int result,
		    int done, pid_t sender)
{
	bool plain = !strcmp(plan->lane, "plain");
	bool steer = plain || !strcmp(plan->lane, "steered");
	uint32_t count = plan->count + plain, i;
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	struct counts counts;
	struct sluice_msg msg, second;
	uint64_t bytes = 0, views = 0;
	int r;

	options.flags = (plain ? SLUICE_F_PLAIN : SLUICE_F_AWARE) |
			(steer ? SLUICE_F_STEER : 0) |
			(strcmp(plan->lane, "queued") ? 0 : SLUICE_F_NO_DIRECT);
	r = sluice_conn_from_fd(&conn, fd, &options);
	if (r)
		die("receiver", r);
	sluice_conn_info(conn, &info);
	if (steer && plain && info.steer_error)
		die("sluiced", info.steer_error);
	/* Empty: from here on what a plain peer sends may be steered. */
	r = sluice_wait(conn, SLUICE_RECV, 0);
	if (r != -ETIMEDOUT && r != SLUICE_RECV)
		die("wait", r);
	if (plain)
		tell(done);
	for (i = 0; i < count; i++) {
		r = sluice_recv_wait(conn, &msg, -1);
		if (r != 1)
			die("recv", r ? r : -ENODATA);
		if (!plain && msg.tag != i)
			die("tag", -EBADMSG);
		if (!i && !plain) {
			r = sluice_recv(conn, &second);
			if (r != -EAGAIN)
				die("second message", -EEXIST);
			tell(done);
			hear(go);
		}
		bytes += msg.len;
		views += sluice_msg_data(&msg) != msg.inline_data;
		if (i + plan->hold < count)
			sluice_release(conn, &msg);
	}
	if (plain)
		hear(go);
	tell(done);
	if (read(result, &counts, sizeof(counts)) != sizeof(counts))
		die("read", -EPIPE);
	sluice_conn_info(conn, &info);
	printf("sender=%d receiver=%d messages=%u bytes=%llu views=%llu steered=%llu spilled=%llu refused=%llu doorbells_tx=%llu sleeps_tx=%llu doorbells_rx=%llu sleeps_rx=%llu\n",
	       sender, getpid(), count, (unsigned long long)bytes,
	       (unsigned long long)views, (unsigned long long)info.steered,
	       (unsigned long long)info.spilled,
	       (unsigned long long)counts.refused,
	       (unsigned long long)counts.doorbells,
	       (unsigned long long)counts.sleeps,
	       (unsigned long long)info.doorbells_sent,
	       (unsigned long long)info.sleeps);
	tell(done);
	sluice_conn_close(conn);
}

/* Two ends in one process, whose rings take SLUICE_RING_SLOTS_MAX. */
static void burst_pair(struct sluice_conn *conn[2])
{
	struct sluice_conn_info info;
	int ends[2], i, r;

	options.flags = SLUICE_F_AWARE;
	options.ring_slots = SLUICE_RING_SLOTS_MAX;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends))
		die("socketpair", -errno);
	for (i = 0; i < 2; i++) {
		r = sluice_conn_from_fd(&conn[i], ends[i], &options);
		if (r)
			die("conn", r);
	}
	do { /* each look may send what the other waits for */
		for (i = 0; i < 2; i++)
			sluice_wait(conn[i], SLUICE_RECV, 0);
		sluice_conn_info(conn[0], &info);
	} while (info.tx_lane != SLUICE_LANE_DIRECT);
}

static int burst(uint32_t count)
{
	struct sluice_conn *conn[4][2];
	uint32_t i, j, of = SLUICE_RING_SLOTS_MAX;
	struct sluice_msg msg;
	int r = 0;

	if (count > 4 * of)
		return 2;
	for (i = 0; i < 4; i++)
		burst_pair(conn[i]);
	for (i = 0; i < count && !r; i++)
		r = sluice_send(conn[i / of][0], &i, sizeof(i), i, 0);
	if (r)
		die("send", r);
	for (i = 0; i < count; i++)
		if (sluice_recv(conn[i / of][1], &msg) != 1 || msg.tag != i)
			die("recv", -EBADMSG);
	for (i = 0; i < 4; i++)
		for (j = 0; j < 2; j++)
			sluice_conn_close(conn[i][j]);
	return 0;
}

int main(int argc, char **argv)
{
	struct plan plan;
	int ends[2], go[2], result[2], done[2], status;
	pid_t child;

	if (argc == 3 && !strcmp(argv[1], "burst"))
		return burst((uint32_t)atoi(argv[2]));
	if (argc != 5) {
		fprintf(stderr, "usage: trace-tool LANE COUNT SIZE HOLD\n");
		return 2;
	}
	plan = (struct plan){ .lane = argv[1],
			      .count = (uint32_t)atoi(argv[2]),
			      .size = (size_t)atoi(argv[3]),
			      .hold = (uint32_t)atoi(argv[4]) };
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) || pipe(go) ||
	    pipe(result) || pipe(done))
		die("socketpair", -errno);
	child = fork();
	if (child < 0)
		die("fork", -errno);
	if (!child) {
		close(ends[0]);
		if (strcmp(plan.lane, "plain")) {
			send_aware(&plan, ends[1], go[1], result[1], done[0]);
		} else {
			hear(done[0]);
			send_plain(&plan, ends[1], go[1], result[1], done[0]);
		}
		return 0;
	}
	close(ends[1]);
	receive(&plan, ends[0], go[0], result[0], done[1], child);
	return waitpid(child, &status, 0) == child ? status != 0 : 1;
}
