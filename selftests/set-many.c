/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A wait set with 1,000 connections of every kind, whose other ends are in a
 * second process: silence costs nothing, no event is lost, a flood on a few
 * starves nobody and does not cost more than with those few, and conns come and
 * go, are closed and die meanwhile.
 */
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "waits.h"

#define MANY 1000
#define HOT 5 /* one or two of each kind */
#define EVENTS 16
#define PROBES 100 /* at least so many messages of quiet ones in a flood */
#define SOON (10 * SECOND * tap_slow)

enum act { NOTHING, CLOSE, SHUT_DOWN, SEND_AND_CLOSE };

/* What the two processes tell each other. */
struct board {
	_Atomic int order, done; /* numbers of the child's tasks */
	_Atomic uint64_t calls; /* of sluice_set_wait() */
	_Atomic uint32_t sent[MANY], received[MANY];
	_Atomic uint64_t sent_at[MANY]; /* `calls` then */
	_Atomic int act[MANY];
};

static struct board *board;
static struct sluice_conn *conns[MANY]; /* this process's ends */
static struct sluice_set *set;

static const struct kind *kind_of(int i)
{
	return &kinds[i % 4];
}

static void open_end(int i, int fd)
{
	struct sluice_options options =
		ENDS_OPTIONS(.ring_slots = 64, .hold_limit = 16);

	options.flags = kind_of(i)->lane == SLUICE_LANE_PLAIN ? SLUICE_F_PLAIN :
								SLUICE_F_AWARE;
	if (kind_of(i)->linkless)
		options.flags |= SLUICE_F_NO_DIRECT;
	CHECK_OK(sluice_conn_from_fd(&conns[i], fd, &options));
}

/* The child ------------------------------------------------------------------ */

/* 0, or -EAGAIN: the other end has much to read. */
static int child_send(int i)
{
	uint32_t number = atomic_load(&board->sent[i]);
	struct sluice_conn *conn = conns[i];
	int r;

	atomic_store(&board->sent_at[i], atomic_load(&board->calls));
	r = sluice_send(conn, &number, sizeof(number), 0, 0);
	if (!r)
		atomic_store(&board->sent[i], number + 1);
	else
		CHECK_EQ(r, -EAGAIN);
	return r;
}

static void child_send_surely(int i)
{
	while (child_send(i))
		CHECK_OK(sluice_wait(conns[i], SLUICE_SEND, -1));
}

static void shuffle(int *order)
{
	for (int i = 0; i < MANY; i++)
		order[i] = i;
	for (int i = MANY - 1; i > 0; i--) {
		int j = (int)tap_random_below((uint64_t)i + 1), k = order[i];

		order[i] = order[j];
		order[j] = k;
	}
}

/* One message on each, in random order. */
static void child_all(void)
{
	int order[MANY];

	shuffle(order);
	for (int i = 0; i < MANY; i++) {
		child_send_surely(order[i]);
		if (!tap_random_below(8))
			busy(100000);
	}
}

/* The first few without end, one of the others now and then. */
static void child_flood(void)
{
	int64_t end = tap_now() + SECOND, next = 0;
	int quiet, quiet_sent = 0;

	while (tap_now() < end || quiet_sent < PROBES) {
		for (int i = 0; i < HOT; i++)
			for (int n = 0; n < 32 && !child_send(i); n++)
				;
		if (tap_now() < next)
			continue;
		next = tap_now() + (int64_t)tap_random_below(2 * MS);
		quiet = HOT + (int)tap_random_below(MANY - HOT);
		if (atomic_load(&board->sent[quiet]) ==
		    atomic_load(&board->received[quiet])) {
			child_send_surely(quiet);
			quiet_sent++;
		}
	}
}

static void child_leave(void)
{
	int order[MANY];

	shuffle(order);
	for (int n = 0; n < MANY; n++) {
		int i = order[n];

		switch (atomic_load(&board->act[i])) {
		case SEND_AND_CLOSE:
			child_send_surely(i);
			sluice_conn_close(conns[i]);
			break;
		case CLOSE:
			sluice_conn_close(conns[i]);
			break;
		case SHUT_DOWN:
			CHECK_OK(sluice_conn_shutdown(conns[i]));
			break;
		default:
			continue;
		}
		if (!tap_random_below(8))
			busy(100000);
	}
}

static void (*const tasks[])(void) = { NULL, child_all, child_flood,
				       child_leave };
enum { ALL = 1, FLOOD, LEAVE };

static void child(void)
{
	int task, last = 0;

	for (;;) {
		task = atomic_load(&board->order);
		if (task == last) {
			tap_sleep(MS);
			continue;
		}
		tasks[task & 15]();
		last = task;
		atomic_store(&board->done, task);
	}
}

/* This process ----------------------------------------------------------------- */

static int orders;

static int order(int task)
{
	int number = ++orders * 16 + task;

	atomic_store(&board->order, number);
	return number;
}

static bool done(int number)
{
	return atomic_load(&board->done) == number;
}

static unsigned int wait_set(struct sluice_event *events, int64_t timeout)
{
	int n = CHECK_OK(sluice_set_wait(set, events, EVENTS, timeout, 0));

	atomic_fetch_add(&board->calls, 1);
	return (unsigned int)n;
}

/* Takes up to max messages of a conn that was reported; what recv said last. */
static int take(int i, unsigned int max)
{
	struct sluice_msg msg;
	uint32_t number;
	int r = 1;

	while (max-- && (r = sluice_recv(conns[i], &msg)) == 1) {
		CHECK_EQ(msg.len, sizeof(number));
		number = *(const uint32_t *)sluice_msg_data(&msg);
		CHECK_EQ(number, atomic_load(&board->received[i]));
		atomic_store(&board->received[i], number + 1);
	}
	return r;
}

static int index_of(const struct sluice_event *event)
{
	int i = (int)(intptr_t)event->data;

	CHECK(event->conn == conns[i]);
	CHECK_EQ(event->ready, SLUICE_RECV);
	return i;
}

static pid_t start(void)
{
	struct rlimit limit;
	static int fds[MANY][2];
	pid_t pid;

	CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
	if (limit.rlim_cur < 2 * MANY + 64) {
		limit.rlim_cur = 2 * MANY + 64;
		if (setrlimit(RLIMIT_NOFILE, &limit))
			tap_skip("no %llu fds: %s",
				 (unsigned long long)limit.rlim_cur,
				 strerror(errno));
	}
	board = shared_page(sizeof(*board));
	for (int i = 0; i < MANY; i++)
		CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
				     fds[i]));
	pid = tap_fork();
	for (int i = 0; i < MANY; i++) {
		close(fds[i][pid != 0]);
		open_end(i, fds[i][pid == 0]);
		if (kind_of(i)->lane == SLUICE_LANE_QUEUED &&
		    !kind_of(i)->linkless && !pid)
			while (sluice_conn_set_lane(conns[i],
						    SLUICE_LANE_QUEUED))
				CHECK_OK(
					sluice_wait(conns[i], SLUICE_SEND, -1));
	}
	if (!pid) {
		tap_random_stream(1);
		child();
	}
	CHECK_OK(sluice_set_new(&set));
	for (int i = 0; i < MANY; i++)
		CHECK_OK(sluice_set_add(set, conns[i], SLUICE_RECV,
					(void *)(intptr_t)i));
	return pid;
}

/* Receives until the task is done and all that was sent is here. */
static void receive_all(int number)
{
	struct sluice_event events[EVENTS];
	int64_t end = tap_now() + SOON;
	bool missing = true;

	while (missing) {
		unsigned int n = wait_set(events, 100 * MS);

		for (unsigned int k = 0; k < n; k++)
			take(index_of(&events[k]), UINT_MAX);
		if (n || !done(number))
			continue;
		missing = false;
		for (int i = 0; i < MANY; i++) {
			if (atomic_load(&board->received[i]) ==
			    atomic_load(&board->sent[i]))
				continue;
			missing = true;
			if (tap_now() > end) {
				tap_diag("conn %d, %s", i, kind_of(i)->name);
				lost(conns[i], "the set did not report it");
			}
		}
	}
}

static void check_silence(void)
{
	struct sluice_event events[EVENTS];
	int64_t cpu, start;

	CHECK_EQ(wait_set(events, 20 * MS), 0);
	cpu = cpu_now();
	start = tap_now();
	CHECK_EQ(wait_set(events, 300 * MS), 0);
	CHECK_GE(tap_now() - start, 300 * MS);
	CHECK_LT(cpu_now() - cpu, 10 * MS * tap_slow);
}

static void check_flood(void)
{
	struct sluice_event events[EVENTS];
	uint64_t worst = 0, waited, probes = 0, calls = 0;
	int64_t fastest = INT64_MAX, late = INT64_MAX, before, took;
	int number = order(FLOOD);

	while (!done(number)) {
		before = tap_now();
		unsigned int n = wait_set(events, SOON);
		took = tap_now() - before;
		if (++calls % 64 == 0) {
			late = fastest;
			fastest = INT64_MAX;
		}
		if (took < fastest)
			fastest = took;
		for (unsigned int k = 0; k < n; k++) {
			int i = index_of(&events[k]);

			if (i >= HOT) {
				probes++;
				waited = atomic_load(&board->calls) -
					 atomic_load(&board->sent_at[i]);
				if (waited > worst)
					worst = waited;
			}
			take(i, 32);
		}
	}
	tap_diag("%llu calls, a late one in %lld ns; %llu quiet conns served, "
		 "after at most %llu calls",
		 (unsigned long long)calls, (long long)late,
		 (unsigned long long)probes, (unsigned long long)worst);
	CHECK_GE(probes, PROBES / 2); /* others came after it was done */
	/* Not a look at all that ever had a message. */
	CHECK_LT(late, 20000 * tap_slow);
	/* 16 rounds until the sockets are looked at, and some of slack. */
	CHECK_LE(worst, 64);
	receive_all(number);
}

/* Ends that were told to leave must be reported; removed conns must not. */
static void check_churn(void)
{
	static bool gone[MANY], out[MANY];
	struct sluice_event events[EVENTS];
	unsigned int leaving = 0, n;
	int64_t end = tap_now() + SOON;
	int number, i, r;

	for (i = 0; i < MANY; i++) {
		int act = (int)tap_random_below(8);

		atomic_store(&board->act[i], act <= SEND_AND_CLOSE ? act : 0);
		leaving += act && act <= SEND_AND_CLOSE;
	}
	number = order(LEAVE);
	while (leaving) {
		n = wait_set(events, 100 * MS);
		for (unsigned int k = 0; k < n; k++) {
			i = index_of(&events[k]);
			CHECK(!gone[i] && !out[i]);
			r = take(i, UINT_MAX);
			if (r == -EAGAIN)
				continue;
			CHECK_EQ(r, 0);
			CHECK_NE(atomic_load(&board->act[i]), NOTHING);
			sluice_conn_close(conns[i]);
			gone[i] = true;
			leaving--;
		}
		/* Meanwhile some out, some back in; in the end all are. */
		for (i = 0; i < MANY; i++) {
			if (gone[i] || (out[i] && n && tap_random_below(64)) ||
			    (!out[i] && (!n || tap_random_below(256))))
				continue;
			if (out[i])
				CHECK_OK(sluice_set_add(set, conns[i],
							SLUICE_RECV,
							(void *)(intptr_t)i));
			else
				CHECK_OK(sluice_set_remove(set, conns[i]));
			out[i] = !out[i];
		}
		if (tap_now() > end) {
			for (i = 0; gone[i] || !atomic_load(&board->act[i]);
			     i++)
				;
			tap_diag("conn %d, %s, act %d", i, kind_of(i)->name,
				 atomic_load(&board->act[i]));
			lost(conns[i], "its end was not reported");
		}
	}
	CHECK_SOON(done(number));
	for (i = 0; i < MANY; i++) {
		if (gone[i])
			conns[i] = NULL;
		else if (out[i])
			CHECK_OK(sluice_set_add(set, conns[i], SLUICE_RECV,
						(void *)(intptr_t)i));
	}
}

static void check_death(pid_t pid)
{
	struct sluice_event events[EVENTS];
	int64_t end = tap_now() + SOON;
	int left = 0, i, r;

	for (i = 0; i < MANY; i++)
		left += conns[i] != NULL;
	tap_kill(pid);
	tap_diag("%d conns are left, and their peer dies", left);
	while (left) {
		unsigned int n = wait_set(events, 100 * MS);

		CHECK_LT(tap_now(), end);
		for (unsigned int k = 0; k < n; k++) {
			i = index_of(&events[k]);
			r = take(i, UINT_MAX);
			if (r == -EAGAIN)
				continue;
			CHECK_EQ(r, kind_of(i)->lane == SLUICE_LANE_PLAIN ?
					    0 :
					    -ECONNRESET);
			sluice_conn_close(conns[i]);
			conns[i] = NULL;
			left--;
		}
	}
}

TAP_TEST(thousand)
{
	pid_t pid;

	tap_limit(90);
	pid = start();
	check_flood();
	check_silence();
	for (int i = 0; i < 5; i++)
		receive_all(order(ALL));
	check_silence();
	check_flood();
	check_churn();
	check_silence();
	check_death(pid);
	sluice_set_free(set);
}

/* Freed with all of them inside; they work on. */
TAP_TEST(freed_with_conns)
{
	pid_t pid = start();
	int number, i;

	receive_all(order(ALL));
	sluice_set_free(set);
	number = order(ALL);
	CHECK_SOON(done(number));
	for (i = 0; i < MANY; i++) {
		CHECK_EQ(sluice_wait(conns[i], SLUICE_RECV, SOON), SLUICE_RECV);
		CHECK_EQ(take(i, 1), 1);
	}
	for (i = 0; i < MANY; i++)
		sluice_conn_close(conns[i]);
	tap_kill(pid);
}
