/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What is counted of a followed io_uring: traffic of which every number is known,
 * and delays that the test makes itself, so that each time has a lower bound; the
 * upper one is how long the case has run.
 */
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "follows.h"

#define ROUNDS 5
#define DELAY_NS 3000000
#define BELL (FOLLOWS_MATCH | 1)

static const struct setup {
	const char *name;
	unsigned int flags;
} setups[] = {
	{ "plain", 0 },
	{ "cooperative", IORING_SETUP_COOP_TASKRUN },
	{ "deferred", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
	{ "sqpoll", IORING_SETUP_SQPOLL },
};

/* Rings when the other side has begun its `round`th wait for it, and DELAY_NS later. */
static void ring_late(const struct follower *f, int round)
{
	int fd = daemon_connect(&f->d);

	CHECK_SOON(record_of(fd, f->number).counts.waits >= (__u64)round &&
		   record_of(fd, f->number).tracked == 1);
	tap_sleep(DELAY_NS);
	CHECK_SYS(send(f->pair[1], "!", 1, 0));
	close(fd);
}

TAP_EACH(doorbells_that_are_waited_for, setup, setups)
{
	struct sluice_control_uring_record r;
	int64_t start = tap_now(), most;
	struct follower f;
	char byte;
	pid_t child;

	follower_open(&f, setup->flags);
	for (int i = 1; i <= ROUNDS; i++) {
		child = tap_fork();
		if (!child) {
			ring_late(&f, i);
			_exit(0);
		}
		poll_fd(&f.ring, f.pair[0], BELL, 0);
		CHECK_EQ(take_cqe(&f.ring, BELL), 1);
		CHECK_EQ(recv(f.pair[0], &byte, 1, 0), 1);
		tap_join(child);
	}
	most = tap_now() - start;
	r = record_now(&f);
	CHECK_EQ(r.counts.submitted, ROUNDS);
	CHECK_EQ(r.counts.completed, ROUNDS);
	CHECK_EQ(r.counts.ready, 0);
	CHECK_EQ(r.counts.waits, ROUNDS);
	CHECK_EQ(r.counts.waits_empty, 0);
	check_times(&r.counts.bell, ROUNDS, 0, (__u64)most);
	check_times(&r.counts.idle, ROUNDS, DELAY_NS, (__u64)most);
	check_times(&r.counts.wait, ROUNDS, DELAY_NS, (__u64)most);
	check_times(&r.counts.pool, 0, 0, 0);
	CHECK_EQ(r.tracked, 0);
	CHECK_EQ(r.counts.untracked + r.counts.reused, 0);
	follower_close(&f);
}

/* Only then does the kernel run what makes the CQE: when the task asks for it. */
TAP_TEST(doorbells_that_wait_for_the_task)
{
	struct sluice_control_uring_record r;
	int64_t start = tap_now(), most;
	struct follower f;
	char byte;

	follower_open(&f,
		      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
	for (int i = 0; i < ROUNDS; i++) {
		poll_fd(&f.ring, f.pair[0], BELL, 0);
		CHECK_SYS(send(f.pair[1], "!", 1, 0));
		tap_sleep(DELAY_NS);
		CHECK_EQ(take_cqe(&f.ring, BELL), 1);
		CHECK_EQ(recv(f.pair[0], &byte, 1, 0), 1);
	}
	most = tap_now() - start;
	r = record_now(&f);
	check_times(&r.counts.bell, ROUNDS, DELAY_NS, (__u64)most);
	check_times(&r.counts.idle, ROUNDS, 0, (__u64)most);
	follower_close(&f);
}

TAP_TEST(what_is_no_doorbell)
{
	struct sluice_control_uring_record r;
	struct io_uring_sqe *sqe;
	struct follower f;

	follower_open(&f, 0);
	/* ready at once: it has not rung */
	CHECK_SYS(send(f.pair[1], "!", 1, 0));
	poll_fd(&f.ring, f.pair[0], BELL, 0);
	CHECK_EQ(take_cqe(&f.ring, BELL), 1);
	/* of other user_data, with all that the chosen bits can differ in */
	poll_fd(&f.ring, f.pair[0], 1, 0);
	CHECK_EQ(take_cqe(&f.ring, 1), 1);
	poll_fd(&f.ring, f.pair[0], 1ull << 63 | BELL, 0);
	CHECK_EQ(take_cqe(&f.ring, 1ull << 63 | BELL), 1);
	/* another request */
	sqe = io_uring_get_sqe(&f.ring);
	io_uring_prep_nop(sqe);
	sqe->user_data = BELL;
	CHECK_EQ(io_uring_submit(&f.ring), 1);
	CHECK_EQ(take_cqe(&f.ring, BELL), 0);
	r = record_now(&f);
	CHECK_EQ(r.counts.submitted, 4);
	CHECK_EQ(r.counts.completed, 4);
	CHECK_EQ(r.counts.ready, 1);
	check_times(&r.counts.bell, 0, 0, 0);
	check_times(&r.counts.idle, 0, 0, 0);
	CHECK_EQ(r.tracked, 0);
	follower_close(&f);
}

/* One request, a CQE for each doorbell; the cancellation is none. */
TAP_TEST(multishot)
{
	struct sluice_control_uring_record r;
	int64_t start = tap_now();
	struct io_uring_sqe *sqe;
	struct follower f;
	char byte;

	follower_open(&f, 0);
	poll_fd(&f.ring, f.pair[0], BELL, IORING_POLL_ADD_MULTI);
	for (int i = 0; i < ROUNDS; i++) {
		tap_sleep(DELAY_NS);
		CHECK_SYS(send(f.pair[1], "!", 1, 0));
		CHECK_EQ(take_cqe(&f.ring, BELL), 1);
		CHECK_EQ(recv(f.pair[0], &byte, 1, 0), 1);
	}
	r = record_now(&f);
	CHECK_EQ(r.counts.submitted, 1);
	CHECK_EQ(r.counts.completed, ROUNDS);
	CHECK_EQ(r.tracked, 1);
	check_times(&r.counts.bell, ROUNDS, 0, (__u64)(tap_now() - start));
	/* the first since it was submitted, the others since the last CQE */
	check_times(&r.counts.idle, ROUNDS, DELAY_NS,
		    (__u64)(tap_now() - start));
	sqe = io_uring_get_sqe(&f.ring);
	io_uring_prep_poll_remove(sqe, BELL);
	sqe->user_data = 2;
	CHECK_EQ(io_uring_submit_and_wait(&f.ring, 2), 1);
	r = record_now(&f);
	CHECK_EQ(r.tracked, 0);
	CHECK_EQ(r.counts.completed, ROUNDS + 2);
	CHECK_EQ(r.counts.ready, 0);
	CHECK_EQ(times_count(&r.counts.bell), ROUNDS);
	follower_close(&f);
}

/* What waits already when the ring begins to be followed. */
TAP_TEST(armed_before)
{
	struct sluice_control_uring_record r;
	struct sluice_control_uring body;
	struct follower f;

	follower_open(&f, 0);
	CHECK_EQ(leave(f.fd, f.number), 0);
	poll_fd(&f.ring, f.pair[0], BELL, 0);
	body = follow_body(&f.ring);
	CHECK_EQ(follow(f.fd, &body, &f.number), 0);
	CHECK_SYS(send(f.pair[1], "!", 1, 0));
	CHECK_EQ(take_cqe(&f.ring, BELL), 1);
	r = record_now(&f);
	CHECK_EQ(r.counts.submitted, 0);
	CHECK_EQ(r.counts.completed, 1);
	CHECK_EQ(times_count(&r.counts.bell), 1);
	CHECK_EQ(times_count(&r.counts.idle), 0); /* since when is unknown */
	CHECK_EQ(r.tracked, 0);
	follower_close(&f);
}

/* Pool operations ----------------------------------------------------------- */

/* Whole pages: before 6.2 a registered buffer cannot share one with a file. */
static char buffers[4][4096] __attribute__((aligned(4096)));

static void register_buffers(struct io_uring *ring)
{
	struct iovec iov[4];

	for (int i = 0; i < 4; i++)
		iov[i] = (struct iovec){ buffers[i], sizeof(buffers[i]) };
	CHECK_OK(io_uring_register_buffers(ring, iov, 4));
}

static void transfer(struct io_uring *ring, bool write, int fd, int buffer,
		     unsigned int len)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (write)
		io_uring_prep_write_fixed(sqe, fd, buffers[buffer], len, 0,
					  buffer);
	else
		io_uring_prep_read_fixed(sqe, fd, buffers[buffer], len, 0,
					 buffer);
	sqe->user_data = 0x100u + (__u64)buffer; /* no doorbell's */
	CHECK_EQ(io_uring_submit(ring), 1);
}

/* Reads from four pipes wait, two of them for buffers that are followed. */
TAP_TEST(pool_operations)
{
	struct sluice_control_uring_record r;
	int64_t start = tap_now();
	struct follower f;
	int pipes[4][2];

	follower_open(&f, 0);
	register_buffers(&f.ring);
	for (int i = 0; i < 4; i++) {
		CHECK_SYS(pipe(pipes[i]));
		transfer(&f.ring, false, pipes[i][0], i, 4096);
	}
	r = record_now(&f);
	CHECK_EQ(r.counts.submitted, 4);
	CHECK_EQ(r.counts.pool_submitted, 2);
	CHECK_EQ(r.pool_now, 2);
	CHECK_EQ(r.tracked, 2);
	tap_sleep(DELAY_NS);
	for (int i = 0; i < 4; i++) {
		CHECK_EQ(write(pipes[i][1], buffers, 100u << i), 100 << i);
		CHECK_EQ(take_cqe(&f.ring, 0x100u + (__u64)i), 100 << i);
	}
	r = record_now(&f);
	CHECK_EQ(r.counts.completed, 4);
	CHECK_EQ(r.counts.pool_ended, 2);
	CHECK_EQ(r.counts.pool_bytes, 200 + 400);
	CHECK_EQ(r.pool_now, 0);
	CHECK_EQ(r.pool_peak, 2);
	CHECK_EQ(r.tracked, 0);
	check_times(&r.counts.pool, 2, DELAY_NS, (__u64)(tap_now() - start));
	transfer(&f.ring, true, pipes[0][1], 2, 50);
	CHECK_EQ(take_cqe(&f.ring, 0x102), 50);
	transfer(&f.ring, true, pipes[0][1], 3, 50);
	CHECK_EQ(take_cqe(&f.ring, 0x103), 50);
	r = record_now(&f);
	CHECK_EQ(r.counts.pool_ended, 3);
	CHECK_EQ(r.counts.pool_bytes, 200 + 400 + 50);
	CHECK_EQ(r.pool_peak, 2);
	check_times(&r.counts.bell, 0, 0, 0);
	for (int i = 0; i < 4; i++) {
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
	follower_close(&f);
}

static void tcp_pair(int fds[2])
{
	struct sockaddr_storage name;
	socklen_t len = sizeof(name);
	int listener = CHECK_SYS(socket(AF_INET, SOCK_STREAM, 0));

	CHECK_SYS(listen(listener, 1)); /* binds it to a port of 0.0.0.0 */
	CHECK_SYS(getsockname(listener, (struct sockaddr *)&name, &len));
	fds[0] = CHECK_SYS(socket(AF_INET, SOCK_STREAM, 0));
	CHECK_SYS(connect(fds[0], (struct sockaddr *)&name, len));
	fds[1] = CHECK_SYS(accept(listener, NULL, NULL));
	close(listener);
}

/* Ends with the second CQE, the notification. */
TAP_TEST(send_zero_copy)
{
	struct sluice_control_uring_record r;
	struct io_uring_sqe *sqe;
	struct follower f;
	char got[1000];
	int fds[2];

	follower_open(&f, 0);
	register_buffers(&f.ring);
	tcp_pair(fds);
	for (int flags = 0; flags < 2; flags++) {
		sqe = io_uring_get_sqe(&f.ring);
		io_uring_prep_send_zc(sqe, fds[0], buffers[1], sizeof(got), 0,
				      flags ? IORING_RECVSEND_FIXED_BUF : 0);
		sqe->buf_index = 1;
		sqe->user_data = 0x101;
		if (!flags) /* a registered one is named by the flag only */
			sqe->buf_index = 0;
		CHECK_EQ(io_uring_submit(&f.ring), 1);
		CHECK_EQ(take_cqe(&f.ring, 0x101), (int)sizeof(got));
		CHECK_EQ(recv(fds[1], got, sizeof(got), MSG_WAITALL),
			 (ssize_t)sizeof(got));
		take_cqe(&f.ring, 0x101);
	}
	r = record_now(&f);
	CHECK_EQ(r.counts.submitted, 2);
	CHECK_EQ(r.counts.completed, 4);
	CHECK_EQ(r.counts.pool_submitted, 1);
	CHECK_EQ(r.counts.pool_ended, 1);
	CHECK_EQ(r.counts.pool_bytes, sizeof(got));
	CHECK_EQ(r.pool_now, 0);
	close(fds[0]);
	close(fds[1]);
	follower_close(&f);
}

/* Odd traffic --------------------------------------------------------------- */

static void nops(struct io_uring *ring, int count)
{
	for (int i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

		io_uring_prep_nop(sqe);
		sqe->user_data = (__u64)i;
	}
	CHECK_EQ(io_uring_submit(ring), count);
}

/* 8 SQEs, so a CQ of 16: what does not fit is counted once, too. */
TAP_TEST(overflow)
{
	struct sluice_control_uring_record r;
	struct follower f;

	follower_open(&f, 0);
	for (int i = 0; i < 3; i++)
		nops(&f.ring, 8);
	r = record_now(&f);
	CHECK_EQ(r.counts.submitted, 24);
	CHECK_EQ(r.counts.completed, 24);
	CHECK_EQ(r.counts.overflowed, 8);
	follower_close(&f);
}

TAP_TEST(the_same_user_data_twice)
{
	struct sluice_control_uring_record r;
	struct follower f;

	follower_open(&f, 0);
	poll_fd(&f.ring, f.pair[0], BELL, 0);
	poll_fd(&f.ring, f.pair[0], BELL, 0);
	r = record_now(&f);
	CHECK_EQ(r.counts.reused, 1);
	CHECK_EQ(r.tracked, 1);
	CHECK_SYS(send(f.pair[1], "!", 1, 0));
	take_cqe(&f.ring, BELL);
	take_cqe(&f.ring, BELL);
	r = record_now(&f);
	CHECK_EQ(r.counts.completed, 2);
	CHECK_EQ(r.tracked, 0);
	follower_close(&f);
}

/* One that tells nobody how it ended cannot be waited for. */
TAP_TEST(without_cqe)
{
	struct sluice_control_uring_record r;
	struct io_uring_sqe *sqe;
	struct follower f;

	follower_open(&f, 0);
	CHECK_SYS(send(f.pair[1], "!", 1, 0));
	sqe = io_uring_get_sqe(&f.ring);
	io_uring_prep_poll_add(sqe, f.pair[0], 1 /* POLLIN */);
	sqe->user_data = BELL;
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	CHECK_EQ(io_uring_submit(&f.ring), 1);
	r = record_now(&f);
	CHECK_EQ(r.counts.submitted, 1);
	CHECK_EQ(r.counts.completed, 0);
	CHECK_EQ(r.tracked, 0);
	follower_close(&f);
}

/* Others' rings -------------------------------------------------------------- */

TAP_TEST(a_ring_that_nobody_asked_for)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX], r;
	struct io_uring other;
	struct follower f;
	int map;

	follower_open(&f, 0);
	ring_open(&other, 8, 0);
	map = pinned_map(&f.d, "uring_ops");
	for (int i = 0; i < 100; i++) {
		nops(&other, 8);
		io_uring_cq_advance(&other, 8);
	}
	poll_fd(&other, f.pair[0], BELL, 0);
	CHECK_EQ(map_entries(map, 16), 0);
	CHECK_SYS(send(f.pair[1], "!", 1, 0));
	take_cqe(&other, BELL);
	CHECK_EQ(followed(f.fd, SLUICE_CONTROL_F_ALL, 0, records), 1);
	r = records[0];
	CHECK_EQ(r.ring, f.number);
	for (size_t i = 0; i < sizeof(r.counts) / sizeof(__u64); i++)
		CHECK_EQ(((const __u64 *)&r.counts)[i], 0);
	close(map);
	io_uring_queue_exit(&other);
	follower_close(&f);
}

TAP_TEST(two_rings_apart)
{
	struct sluice_control_uring_record records[SLUICE_URINGS_MAX];
	struct sluice_control_uring body;
	struct io_uring other;
	struct follower f;
	__u64 number;

	follower_open(&f, 0);
	ring_open(&other, 8, 0);
	body = follow_body(&other);
	body.mask = body.match = 0;
	CHECK_EQ(follow(f.fd, &body, &number), 0);
	CHECK_GT(number, f.number);
	nops(&f.ring, 3);
	nops(&other, 5);
	/* the same user_data in both at once; of the second, all are doorbells */
	poll_fd(&f.ring, f.pair[0], BELL, 0);
	poll_fd(&other, f.pair[0], BELL, 0);
	CHECK_EQ(followed(f.fd, 0, 0, records), 2);
	CHECK_EQ(records[0].counts.submitted, 4);
	CHECK_EQ(records[1].counts.submitted, 6);
	CHECK_EQ(records[0].tracked, 1);
	CHECK_EQ(records[1].tracked, 1);
	CHECK_EQ(records[1].fd, other.ring_fd);
	CHECK_EQ(records[1].mask, 0);
	CHECK_EQ(followed(f.fd, 0, f.number, records), 1);
	CHECK_EQ(records[0].ring, number);
	io_uring_queue_exit(&other);
	follower_close(&f);
}
