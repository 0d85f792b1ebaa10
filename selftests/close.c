/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Orderly close of aware connections: what was sent arrives, in every lane, and
 * then the end of the stream, again and again. Each case owns its connections;
 * where timing matters the other end is a process of its own.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "life.h"

static const struct lane lanes[] = LIFE_LANES;

static const struct form_row {
	const char *name;
	enum form form;
	uint32_t max_len;
} forms[] = {
	{ "inline", FORM_INLINE, 32 },
	{ "buffer", FORM_BUFFER, 70000 },
	{ "scatter", FORM_SCATTER, 70000 },
	{ "mixed", FORM_MIXED, 70000 },
};

/* The end of the stream stays the end. */
static void expect_end(struct sluice_conn *conn, int end)
{
	struct sluice_msg msg;
	uint8_t byte;
	size_t len;

	for (int i = 0; i < 3; i++) {
		CHECK_EQ(sluice_recv(conn, &msg), end);
		CHECK_EQ(sluice_recv_wait(conn, &msg, -1), end);
		CHECK_EQ(sluice_recv_copy(conn, &byte, 1, &len, NULL), end);
		CHECK_EQ(sluice_wait(conn, SLUICE_RECV, -1), SLUICE_RECV);
	}
}

/* Sends 50 messages, closes at once; the last few are a batch, never flushed. */
static void drain(const struct lane *lane, const struct form_row *form,
		  uint64_t batch)
{
	struct stream tx = { .key = tap_random(), .max_len = form->max_len };
	struct stream rx = tx;
	struct holds holds = { .limit = HOLDS_MAX };
	struct sluice_conn *conn[2];

	life_pair(conn, lane);
	while (tx.next < 50)
		CHECK_EQ(life_send(conn[0], &tx, form->form,
				   tx.next >= 50 - batch ? SLUICE_SEND_F_BATCH :
							   0),
			 0);
	sluice_conn_close(conn[0]);
	CHECK_EQ(life_drain(conn[1], &rx, &holds), 0);
	CHECK_EQ(rx.next, 50);
	expect_end(conn[1], 0);
	/* The closed peer's memory is still there. */
	holds_release_all(conn[1], &holds);
	expect_end(conn[1], 0);
	sluice_conn_close(conn[1]);
}

TAP_EACH(close_drains, lane, lanes)
{
	for (size_t f = 0; f < sizeof(forms) / sizeof(forms[0]); f++)
		for (uint64_t batch = 0; batch <= 50; batch += 25)
			drain(lane, &forms[f], batch);
	CHECK_EQ(life_memfds(), 0);
}

/* How the sending process ends. */
struct sender {
	const struct lane *lane;
	struct stream tx;
	uint64_t end;
	bool exits; /* without a close */
};

static void sender_run(struct sluice_conn *conn, void *arg)
{
	struct sender *s = arg;

	life_choose(conn, s->lane);
	life_send_all(conn, &s->tx, s->end, FORM_MIXED);
	if (s->exits)
		_exit(0);
}

static void drain_process(const struct lane *lane, bool exits)
{
	struct sender s = {
		.lane = lane,
		.tx = { .key = tap_random(), .max_len = 200000 },
		.end = 3000,
		.exits = exits,
	};
	struct stream rx = s.tx;
	struct holds holds = { .limit = 64 };
	struct sluice_options options = ENDS_OPTIONS(.flags = lane->flags);
	struct sluice_conn *conn;
	pid_t pid;

	pid = ends_fork(&conn, &options, &options, sender_run, &s);
	tap_sleep(10000000); /* it fills whatever there is to fill */
	CHECK_EQ(life_drain(conn, &rx, &holds), exits ? -ECONNRESET : 0);
	CHECK_EQ(rx.next, s.end);
	tap_join(pid);
	expect_end(conn, exits ? -ECONNRESET : 0);
	holds_release_all(conn, &holds);
	sluice_conn_close(conn);
}

TAP_EACH(close_drains_process, lane, lanes)
{
	drain_process(lane, false);
}

TAP_EACH(exit_drains_process, lane, lanes)
{
	drain_process(lane, true);
}

TAP_EACH(half_close, lane, lanes)
{
	struct stream to = { .key = tap_random(), .max_len = 9000 }, from = to;
	struct stream back = { .key = tap_random(), .max_len = 9000 };
	struct stream back_rx = back;
	struct holds holds = { .limit = HOLDS_MAX };
	struct sluice_conn *conn[2];

	life_pair(conn, lane);
	life_send_all(conn[0], &to, 40, FORM_BUFFER);
	CHECK_EQ(sluice_conn_shutdown(conn[0]), 0);
	CHECK_EQ(sluice_conn_shutdown(conn[0]), 0);
	CHECK_EQ(life_send(conn[0], &to, FORM_INLINE, 0), -EPIPE);
	CHECK_EQ(life_send(conn[0], &to, FORM_BUFFER, 0), -EPIPE);
	CHECK_EQ(life_send(conn[0], &to, FORM_SCATTER, 0), -EPIPE);
	CHECK_EQ(sluice_conn_set_lane(conn[0], SLUICE_LANE_DIRECT), -EPIPE);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, -1), SLUICE_SEND);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 0), -ETIMEDOUT);

	CHECK_EQ(life_drain(conn[1], &from, &holds), 0);
	CHECK_EQ(from.next, 40);
	expect_end(conn[1], 0);
	CHECK_EQ(life_used(conn[0]), 40);

	/* Releases still go back, and the other direction goes on. */
	holds_release_all(conn[1], &holds);
	sluice_wait(conn[1], SLUICE_RECV, 0);
	CHECK_EQ(life_used(conn[0]), 0);
	for (uint64_t end = 100; end <= 1000; end += 100) {
		life_send_all(conn[1], &back, end, FORM_MIXED);
		while (back_rx.next < end)
			CHECK_EQ(life_recv(conn[0], &back_rx, NULL), 1);
		expect_end(conn[1], 0);
	}
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK_EQ(life_used(conn[1]), 0);

	CHECK_EQ(sluice_conn_shutdown(conn[1]), 0);
	CHECK_EQ(life_drain(conn[0], &back_rx, NULL), 0);
	expect_end(conn[0], 0);
	ends_close(conn);
}

/* What a closing side leaves unread costs its peer nothing. */
TAP_EACH(unread_at_closer, lane, lanes)
{
	struct stream tx = { .key = tap_random(), .max_len = 9000 }, rx = tx;
	struct stream lost = { .key = tap_random(), .max_len = 9000 };
	struct holds holds = { .limit = HOLDS_MAX };
	struct sluice_conn *conn[2];

	for (int waiting = 0; waiting < 2; waiting++) {
		life_pair(conn, lane);
		life_send_all(conn[0], &tx, tx.next + 30, FORM_MIXED);
		life_send_all(conn[1], &lost, lost.next + 30, FORM_BUFFER);
		sluice_conn_close(conn[0]);
		CHECK_EQ(life_used(conn[1]), 0);
		if (waiting)
			CHECK_EQ(sluice_wait(conn[1], SLUICE_RECV, -1),
				 SLUICE_RECV);
		CHECK_EQ(life_drain(conn[1], &rx, &holds), 0);
		CHECK_EQ(rx.next, tx.next);
		expect_end(conn[1], 0);
		holds_release_all(conn[1], &holds);
		sluice_conn_close(conn[1]);
	}
}

static void count_sent(struct sluice_conn *conn, void *arg)
{
	_Atomic uint64_t *sent = arg;
	struct stream rx = { .key = 77, .max_len = 32 };

	while (!atomic_load(sent))
		tap_sleep(1000000);
	tap_sleep(300000000);
	CHECK_EQ(life_drain(conn, &rx, NULL), 0);
	CHECK_EQ(rx.next, atomic_load(sent));
}

/* Sends until neither the lane nor the batch takes any more. */
static void fill(struct sluice_conn *conn, struct stream *tx, enum form form)
{
	int r;

	while (!(r = life_send(conn, tx, form, SLUICE_SEND_F_BATCH)))
		;
	CHECK_EQ(r, -EAGAIN);
}

/* close() waits a while for a peer that is only slow. */
TAP_EACH(close_when_full, lane, lanes)
{
	_Atomic uint64_t *sent = life_shared();
	struct stream tx = { .key = 77, .max_len = 32 };
	struct sluice_options options = ENDS_OPTIONS(.flags = lane->flags);
	struct sluice_conn *conn;
	pid_t pid;

	pid = ends_fork(&conn, &options, &options, count_sent, sent);
	life_send_all(conn, &tx, 1, FORM_INLINE);
	life_choose(conn, lane);
	fill(conn, &tx, FORM_INLINE);
	CHECK_GT(tx.next, 60);
	atomic_store(sent, tx.next);
	sluice_conn_close(conn);
	tap_join(pid);
}

/* But not for ever, and what is lost then is no orderly end. */
TAP_TEST(close_when_stuck)
{
	static const struct lane frames = { "frames", SLUICE_F_NO_DIRECT,
					    true };
	struct stream tx = { .key = tap_random(), .max_len = 32 }, rx = tx;
	struct sluice_conn *conn[2];
	int64_t start;

	life_pair(conn, &frames);
	fill(conn[0], &tx, FORM_INLINE);
	start = tap_now();
	sluice_conn_close(conn[0]);
	CHECK_LT(tap_now() - start, 4000000000ll * tap_slow);
	CHECK_EQ(life_drain(conn[1], &rx, NULL), -ECONNRESET);
	CHECK_GE(rx.next, tx.next - SLUICE_FRAME_SLOTS_MAX);
	expect_end(conn[1], -ECONNRESET);
	sluice_conn_close(conn[1]);
}

/* Both go at the same moment. */
struct meeting {
	_Atomic int there;
	_Atomic int rounds;
};

static void meet(struct meeting *m, int round)
{
	atomic_fetch_add(&m->there, 1);
	while (atomic_load(&m->there) < 2 * round)
		;
}

static void go_together(struct sluice_conn *conn, struct meeting *m, int round)
{
	struct stream tx = { .key = 5, .max_len = 500 }, rx = tx;

	life_send_all(conn, &tx, 20, FORM_MIXED);
	meet(m, round);
	/* Sometimes only after the other's messages, sometimes at once. */
	if (round % 2) {
		CHECK_EQ(sluice_conn_shutdown(conn), 0);
		CHECK_EQ(life_drain(conn, &rx, NULL), 0);
		CHECK_EQ(rx.next, 20);
	}
	sluice_conn_close(conn);
}

TAP_EACH(close_together, lane, lanes)
{
	struct sluice_options options =
		ENDS_OPTIONS(.flags = lane->flags | SLUICE_F_AWARE);
	struct meeting *m = life_shared();
	struct sluice_conn *conn;
	int fds[2 * 60];
	pid_t pid;
	int fd;

	for (int i = 0; i < 60; i++)
		CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
				     fds + 2 * i));
	pid = tap_fork();
	for (int i = 0; i < 60; i++) {
		close(fds[2 * i + !pid]);
		fd = fds[2 * i + !!pid];
		CHECK_OK(sluice_conn_from_fd(&conn, fd, &options));
		life_choose(conn, lane);
		go_together(conn, m, i + 1);
	}
	CHECK_EQ(life_memfds(), 0);
	if (!pid)
		_exit(0);
	tap_join(pid);
}

static void send_and_stay(struct sluice_conn *conn, void *arg)
{
	struct sender *s = arg;

	life_choose(conn, s->lane);
	life_send_all(conn, &s->tx, s->end, FORM_BUFFER);
	if (s->exits)
		pause();
}

/* Views belong to who holds them, whatever becomes of the peer. */
TAP_EACH(views_outlive_peer, lane, lanes)
{
	struct sluice_options options = ENDS_OPTIONS(.flags = lane->flags);

	for (int killed = 0; killed < 2; killed++) {
		struct sender s = {
			.lane = lane,
			.tx = { .key = tap_random(), .max_len = 70000 },
			.end = 100,
			.exits = killed,
		};
		struct stream rx = s.tx;
		struct holds holds = { .limit = HOLDS_MAX };
		struct sluice_conn *conn;
		struct sluice_msg last;
		pid_t pid;

		pid = ends_fork(&conn, &options, &options, send_and_stay, &s);
		while (rx.next < s.end)
			if (life_recv(conn, &rx, &holds) == -EAGAIN)
				CHECK_OK(sluice_wait(conn, SLUICE_RECV, -1));
		if (killed)
			tap_kill(pid);
		else
			tap_join(pid);
		CHECK_EQ(life_drain(conn, &rx, &holds),
			 killed ? -ECONNRESET : 0);
		CHECK_EQ(holds.count, 100);
		last = holds.held[99].msg;
		while (holds.count > 50)
			holds_release_one(conn, &holds);
		expect_end(conn, killed ? -ECONNRESET : 0);
		holds_release_all(conn, &holds);
		CHECK_EQ(sluice_release(conn, &last), -EINVAL);
		sluice_conn_close(conn);
		CHECK_EQ(life_memfds(), 0);
	}
}

/* Sends after the peer went: -EPIPE once that shows, no SIGPIPE. */
TAP_EACH(send_after_close, lane, lanes)
{
	CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
	for (enum form form = FORM_INLINE; form <= FORM_MIXED; form++) {
		struct stream tx = { .key = tap_random(), .max_len = 3000 };
		struct sluice_conn *conn[2];
		int r = 0;

		life_pair(conn, lane);
		life_send_all(conn[1], &tx, 10, FORM_BUFFER);
		sluice_conn_close(conn[0]);
		/* A ring takes as much as it has room for. */
		for (int i = 0; i < 1000 && (!r || r == -EAGAIN); i++)
			r = life_send(conn[1], &tx, form, 0);
		CHECK_EQ(r, -EPIPE);
		for (enum form f = FORM_INLINE; f <= FORM_MIXED; f++)
			CHECK_EQ(life_send(conn[1], &tx, f, 0), -EPIPE);
		CHECK_EQ(life_used(conn[1]), 0);
		CHECK_EQ(sluice_wait(conn[1], SLUICE_SEND, -1), SLUICE_SEND);
		expect_end(conn[1], 0);
		CHECK_EQ(sluice_conn_shutdown(conn[1]), 0);
		sluice_conn_close(conn[1]);
	}
}

/* So is a batch that was still here when the peer went; a shutdown is fine. */
TAP_EACH(shutdown_after_close, lane, lanes)
{
	struct stream tx = { .key = tap_random(), .max_len = 32 };
	struct sluice_conn *conn[2];

	life_pair(conn, lane);
	sluice_conn_close(conn[0]);
	CHECK_EQ(life_send(conn[1], &tx, FORM_INLINE, SLUICE_SEND_F_BATCH), 0);
	CHECK_EQ(sluice_conn_shutdown(conn[1]), 0);
	CHECK_EQ(sluice_conn_shutdown(conn[1]), 0);
	CHECK_EQ(sluice_wait(conn[1], SLUICE_RECV, -1), SLUICE_RECV);
	expect_end(conn[1], 0);
	sluice_conn_close(conn[1]);
}

/* A caller that was refused keeps its buffer, over the close of the conn. */
TAP_TEST(buffer_outlives_conn)
{
	struct sluice_conn *conn[2];
	struct sluice_pool_info info;
	struct sluice_pool *pool;
	struct sluice_buf *buf;
	struct sluice_options options;

	CHECK_OK(sluice_pool_new(&pool, NULL));
	options = ENDS_OPTIONS(.pool = pool);
	ends_pair(conn, &options, &ENDS_OPTIONS());
	CHECK_OK(sluice_loan(conn[0], 5000, &buf));
	content_fill(buf->data, 5000, 9, 0);
	CHECK_OK(sluice_conn_shutdown(conn[0]));
	CHECK_EQ(sluice_send_buf(conn[0], buf, 5000, 0, 0), -EPIPE);
	ends_close(conn);
	CHECK(content_matches(buf->data, 5000, 9, 0));
	sluice_pool_info(pool, &info);
	CHECK_EQ(info.buffers_used, 1);

	/* And goes to another peer. */
	ends_pair(conn, &options, &ENDS_OPTIONS());
	CHECK_OK(sluice_send_buf(conn[0], buf, 5000, 0, 0));
	sluice_pool_free(pool);
	sluice_conn_close(conn[0]);
	{
		struct sluice_msg msg;

		CHECK_EQ(sluice_recv(conn[1], &msg), 1);
		CHECK(content_matches(sluice_msg_data(&msg), 5000, 9, 0));
		sluice_conn_close(conn[1]);
	}
	CHECK_EQ(life_memfds(), 0);
}

TAP_TEST(null_is_accepted)
{
	sluice_conn_close(NULL);
	sluice_listener_close(NULL);
	sluice_pool_free(NULL);
	sluice_set_free(NULL);
}
