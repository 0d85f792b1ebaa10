/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * No system call while both sides are awake: this process traces two that
 * exchange messages in the direct lane without sleeping, and counts every
 * system call of each. A side that has to wait for its CPU makes the other look
 * at its socket now and then, so the messages are counted in short rounds, of
 * which the quieter quarter must be without.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "waits.h"

#define ROUNDS 2000
#define WARM_UP 400 /* rounds that do not count: segments, lane switches */
#define PER_ROUND 200 /* messages */

struct board {
	_Atomic int round[2]; /* of each side */
	unsigned int calls[2][ROUNDS];
};

static struct board *board;

static const struct sluice_options spin = {
	.size = sizeof(struct sluice_options),
	.spin_ns = SLUICE_SPIN_FOREVER,
};

struct pattern {
	const char *name;
	uint32_t len;
	bool stream; /* one way, as fast as it goes */
};

static const struct pattern patterns[] = {
	{ "pingpong-inline", 32, false },
	{ "pingpong-buffer", 4096, false },
	{ "stream-inline", 32, true },
	{ "stream-buffer", 4096, true },
};

static void put(struct sluice_conn *conn, uint32_t len)
{
	struct sluice_buf *buf;
	uint8_t small[SLUICE_INLINE_MAX] = { 0 };
	int r;

	for (;;) {
		if (len <= SLUICE_INLINE_MAX) {
			r = sluice_send(conn, small, len, 0, 0);
		} else {
			r = sluice_loan(conn, len, &buf);
			if (!r) {
				memset(buf->data, 1, 64);
				r = sluice_send_buf(conn, buf, len, 0, 0);
				if (r)
					sluice_buf_unref(buf);
			}
		}
		if (r != -EAGAIN)
			break;
		CHECK_EQ(sluice_wait(conn, SLUICE_SEND, -1), SLUICE_SEND);
	}
	CHECK_EQ(r, 0);
}

static void get(struct sluice_conn *conn)
{
	struct sluice_msg msg;

	CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
	CHECK_OK(sluice_release(conn, &msg));
}

/* Side 0 speaks first. */
static void run_round(struct sluice_conn *conn, const struct pattern *p,
		      int side)
{
	for (int i = 0; i < PER_ROUND; i++) {
		if (side == 0)
			put(conn, p->len);
		if (side == 1 || !p->stream)
			get(conn);
		if (side == 1 && !p->stream)
			put(conn, p->len);
	}
}

static void run_side(struct sluice_conn *conn, const struct pattern *p,
		     int side)
{
	for (int round = 0; round < ROUNDS; round++) {
		atomic_store(&board->round[side], round);
		run_round(conn, p, side);
	}
	atomic_store(&board->round[side], ROUNDS);
}

static pid_t start_side(const struct pattern *p, int side, int fds[2])
{
	struct sluice_options options = spin;
	struct sluice_conn *conn;
	pid_t pid = tap_fork();

	if (pid)
		return pid;
	close(fds[!side]);
	if (ptrace(PTRACE_TRACEME, 0, 0, 0))
		tap_skip("ptrace: %s", strerror(errno));
	raise(SIGSTOP);
	options.flags = SLUICE_F_AWARE;
	CHECK_OK(sluice_conn_from_fd(&conn, fds[side], &options));
	run_side(conn, p, side);
	/* Neither goes before the other is done. */
	CHECK_OK(sluice_conn_shutdown(conn));
	ends_expect_eof(conn);
	sluice_conn_close(conn);
	_exit(0); /* a leak check would want to trace, too */
}

/* A stop of side's process: counts it if it is the beginning of a call. */
static void count_call(int side, pid_t pid)
{
	struct __ptrace_syscall_info info;
	int round = atomic_load(&board->round[side]);

	CHECK_GT(ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info), 0);
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY && round < ROUNDS)
		board->calls[side][round]++;
}

static void trace(const pid_t *pids)
{
	int left = 2, status, side, signal;
	pid_t pid;

	while (left) {
		pid = CHECK_SYS(waitpid(-1, &status, 0));
		side = pid == pids[1];
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
			exit(77); /* skipped */
		if (WIFEXITED(status)) {
			CHECK_EQ(WEXITSTATUS(status), 0);
			left--;
			continue;
		}
		if (!WIFSTOPPED(status))
			TAP_FAIL("side %d was killed", side);
		signal = WSTOPSIG(status);
		if (signal == (SIGTRAP | 0x80))
			count_call(side, pid);
		else if (signal == SIGSTOP)
			CHECK_SYS(ptrace(PTRACE_SETOPTIONS, pid, 0,
					 PTRACE_O_TRACESYSGOOD |
						 PTRACE_O_EXITKILL));
		CHECK_SYS(ptrace(PTRACE_SYSCALL, pid, 0, 0));
	}
}

static int by_calls(const void *a, const void *b)
{
	unsigned int x = *(const unsigned int *)a, y = *(const unsigned int *)b;

	return x < y ? -1 : x > y;
}

TAP_EACH(no_system_calls, pattern, patterns)
{
	const int rounds = ROUNDS - WARM_UP, quarter = rounds / 4;
	unsigned int quiet, all;
	pid_t pids[2];
	int fds[2];

	board = shared_page(sizeof(*board));
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	for (int side = 0; side < 2; side++)
		pids[side] = start_side(pattern, side, fds);
	close(fds[0]);
	close(fds[1]);
	trace(pids);
	for (int side = 0; side < 2; side++) {
		unsigned int *calls = &board->calls[side][WARM_UP];

		qsort(calls, (size_t)rounds, sizeof(*calls), by_calls);
		quiet = all = 0;
		for (int i = 0; i < rounds; i++) {
			all += calls[i];
			quiet += i < quarter ? calls[i] : 0;
		}
		tap_diag("side %d: %u system calls in %d messages; %u in the "
			 "quieter quarter of them",
			 side, all, rounds * PER_ROUND, quiet);
		CHECK_LT(quiet, quarter * PER_ROUND / 1000);
	}
}
