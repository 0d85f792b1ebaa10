/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluice_wait() and sluice_recv_wait() on one connection: timeouts, budgets,
 * signals, everything that ends a wait, and that a wait costs no CPU time.
 * Whether a wake-up can be lost is for wait-storm.c.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "waits.h"

#define FLOOD (800 * MS * tap_slow)
#define SOONER (2 * SECOND * tap_slow) /* what "at once" is allowed to take */

static const struct sluice_options sleeper = {
	.size = sizeof(struct sluice_options),
	.no_spin = 1,
};
static const struct sluice_options spinner = {
	.size = sizeof(struct sluice_options),
	.spin_ns = SLUICE_SPIN_FOREVER,
};
static const struct sluice_options *const budgets[] = { NULL, &sleeper,
							&spinner };
static const char *const budget_names[] = { "default", "no_spin", "forever" };

/* Runs the block with conn[] of each budget of the first endpoint. */
#define EACH_BUDGET(conn, kind)                                           \
	for (int b_ = 0;                                                  \
	     b_ < 3 && (tap_diag("%s", budget_names[b_]),                 \
			kind_pair(conn, kind, budgets[b_], &sleeper), 1); \
	     b_++, ends_close(conn))

TAP_TEST(bad_arguments)
{
	struct sluice_conn *conn[2];
	short events;

	kind_pair(conn, &kinds[DIRECT], NULL, NULL);
	CHECK_EQ(sluice_wait(conn[0], 0, 0), -EINVAL);
	CHECK_EQ(sluice_wait(conn[0], 4, 0), -EINVAL);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV | 8, -1), -EINVAL);
	CHECK_EQ(sluice_arm(conn[0], 0, &events), -EINVAL);
	CHECK_EQ(sluice_arm(conn[0], 4, &events), -EINVAL);
	ends_close(conn);
}

static void check_timeout(struct sluice_conn *conn, uint32_t what,
			  int64_t timeout)
{
	int64_t start = tap_now(), took;

	CHECK_EQ(sluice_wait(conn, what, timeout), -ETIMEDOUT);
	took = tap_now() - start;
	CHECK_GE(took, timeout);
	CHECK_LT(took, timeout + SOONER);
}

TAP_EACH(timeout, kind, kinds)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	EACH_BUDGET(conn, kind)
	{
		check_timeout(conn[0], SLUICE_RECV, 0);
		check_timeout(conn[0], SLUICE_RECV, 1);
		check_timeout(conn[0], SLUICE_RECV, 200000);
		check_timeout(conn[0], SLUICE_RECV, 30 * MS);
		CHECK_EQ(sluice_recv_wait(conn[0], &msg, 0), -ETIMEDOUT);
		CHECK_EQ(sluice_recv_wait(conn[0], &msg, MS), -ETIMEDOUT);
		CHECK_GE(fill(conn[0]), 1);
		check_timeout(conn[0], SLUICE_SEND, 0);
		check_timeout(conn[0], SLUICE_SEND, 1);
		check_timeout(conn[0], SLUICE_SEND | SLUICE_RECV, 200000);
		check_timeout(conn[0], SLUICE_SEND, 30 * MS);
		drain(conn[1]);
	}
}

/* What the other side does to a waiting one, some time later. */
struct later {
	struct sluice_conn *conn;
	void (*act)(struct sluice_conn *conn);
	int64_t delay;
	pthread_t thread;
};

static void *act_later(void *arg)
{
	struct later *later = arg;

	tap_sleep(later->delay);
	later->act(later->conn);
	return NULL;
}

static void start_later(struct later *later)
{
	CHECK_EQ(pthread_create(&later->thread, NULL, act_later, later), 0);
}

static void join_later(struct later *later)
{
	CHECK_EQ(pthread_join(later->thread, NULL), 0);
}

static void send_one(struct sluice_conn *conn)
{
	CHECK_OK(sluice_send(conn, "x", 1, 7, 0));
}

static void drain_all(struct sluice_conn *conn)
{
	drain(conn);
}

static void shut_down(struct sluice_conn *conn)
{
	CHECK_OK(sluice_conn_shutdown(conn));
}

/* A timeout that is a large number is as good as none. */
TAP_EACH(timeout_huge, kind, kinds)
{
	static const int64_t huge[] = { INT64_MAX, INT64_MAX - 1,
					INT64_MAX / 2 };
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	EACH_BUDGET(conn, kind)
	{
		for (int i = 0; i < 3; i++) {
			struct later later = { conn[1], send_one, 5 * MS, 0 };

			start_later(&later);
			CHECK_EQ(sluice_recv_wait(conn[0], &msg, huge[i]), 1);
			join_later(&later);
		}
	}
}

TAP_EACH(message_wakes, kind, kinds)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	EACH_BUDGET(conn, kind)
	{
		for (int i = 0; i < 8; i++) {
			struct later later = { conn[1], send_one,
					       (i & 3) * 2 * MS, 0 };

			start_later(&later);
			CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV,
					     i & 4 ? 10 * SOONER : -1),
				 SLUICE_RECV);
			join_later(&later);
			CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 0),
				 SLUICE_RECV);
			CHECK_EQ(sluice_recv(conn[0], &msg), 1);
			CHECK_EQ(sluice_recv(conn[0], &msg), -EAGAIN);
		}
	}
}

/* The end of the peer's stream wakes, and receiving says that it is one. */
TAP_EACH(bye_wakes, kind, kinds)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	EACH_BUDGET(conn, kind)
	{
		struct later later = { conn[1], shut_down, 5 * MS, 0 };

		start_later(&later);
		CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1), SLUICE_RECV);
		join_later(&later);
		CHECK_EQ(sluice_recv(conn[0], &msg), 0);
		CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1), SLUICE_RECV);
		/* The other direction goes on. */
		send_one(conn[0]);
		CHECK_EQ(sluice_recv_wait(conn[1], &msg, -1), 1);
	}
}

static void wait_to_die(struct sluice_conn *conn, void *arg)
{
	struct sluice_msg msg;

	(void)arg;
	/* Becomes aware, and says so, before it dies. */
	CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 1);
	send_one(conn);
	for (;;)
		pause();
}

static void kill_pid(struct sluice_conn *conn)
{
	pid_t *pid = (pid_t *)conn;

	CHECK_SYS(kill(*pid, SIGKILL));
}

static pid_t doomed(struct sluice_conn **conn, const struct kind *kind,
		    const struct sluice_options *mine)
{
	struct sluice_msg msg;
	const struct kind_setup setup = { .kind = kind, .mine = mine };
	pid_t pid = kind_fork(conn, &setup, wait_to_die, NULL);

	while (sluice_send(*conn, "go", 2, 0, 0))
		CHECK_OK(sluice_wait(*conn, SLUICE_SEND, -1));
	CHECK_EQ(sluice_recv_wait(*conn, &msg, -1), 1);
	return pid;
}

/* kill -9 of the peer, while this side waits for messages or for room. */
TAP_EACH(death_wakes, kind, kinds)
{
	bool plain = kind->lane == SLUICE_LANE_PLAIN;
	struct sluice_conn *conn;
	struct sluice_msg msg;

	for (int i = 0; i < 6; i++) {
		uint32_t what = i & 1 ? SLUICE_SEND : SLUICE_RECV;
		pid_t pid = doomed(&conn, kind, budgets[i / 2]);
		struct later later = { (struct sluice_conn *)&pid, kill_pid,
				       5 * MS, 0 };

		tap_diag("%s, %s", budget_names[i / 2],
			 i & 1 ? "send" : "recv");
		if (what == SLUICE_SEND)
			fill(conn);
		start_later(&later);
		CHECK_EQ(sluice_wait(conn, what, -1), what);
		join_later(&later);
		if (what == SLUICE_SEND)
			CHECK_EQ(sluice_send(conn, "x", 1, 0, 0), -EPIPE);
		CHECK_EQ(sluice_recv(conn, &msg), plain ? 0 : -ECONNRESET);
		sluice_conn_close(conn);
		tap_reap(pid);
	}
}

static void break_rules(struct sluice_conn *conn)
{
	CHECK_EQ(send(sluice_conn_fd(conn), "garbage!", 8, 0), 8);
}

TAP_EACH(breach_wakes, kind, aware_kinds)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	for (uint32_t what = SLUICE_RECV; what <= SLUICE_SEND; what++) {
		EACH_BUDGET(conn, kind)
		{
			struct later later = { conn[1], break_rules, 5 * MS,
					       0 };

			if (what == SLUICE_SEND)
				fill(conn[0]);
			start_later(&later);
			CHECK_EQ(sluice_wait(conn[0], what, -1), what);
			join_later(&later);
			CHECK_EQ(sluice_recv(conn[0], &msg), -EPROTO);
			CHECK_EQ(sluice_send(conn[0], "x", 1, 0, 0), -EPROTO);
			CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1),
				 SLUICE_RECV);
		}
	}
}

TAP_EACH(room_wakes, kind, kinds)
{
	struct sluice_conn *conn[2];

	EACH_BUDGET(conn, kind)
	{
		for (int i = 0; i < 3; i++) {
			struct later later = { conn[1], drain_all, 5 * MS, 0 };

			CHECK_GE(fill(conn[0]), 1);
			start_later(&later);
			CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, -1),
				 SLUICE_SEND);
			join_later(&later);
			send_one(conn[0]);
			drain(conn[1]);
		}
	}
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* A handler without SA_RESTART, every few milliseconds. */
static void start_alarms(void)
{
	const struct itimerval every = { .it_interval.tv_usec = 3000,
					 .it_value.tv_usec = 3000 };
	const struct sigaction action = { .sa_handler = on_alarm };

	CHECK_SYS(sigaction(SIGALRM, &action, NULL));
	CHECK_SYS(setitimer(ITIMER_REAL, &every, NULL));
}

static void stop_alarms(void)
{
	const struct itimerval never = { 0 };

	CHECK_SYS(setitimer(ITIMER_REAL, &never, NULL));
}

TAP_EACH(signal_interrupts, kind, kinds)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	kind_pair(conn, kind, &sleeper, NULL);
	start_alarms();
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1), -EINTR);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 10 * SOONER), -EINTR);
	CHECK_EQ(sluice_recv_wait(conn[0], &msg, -1), -EINTR);
	fill(conn[0]);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, -1), -EINTR);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND | SLUICE_RECV, 10 * SOONER),
		 -EINTR);
	stop_alarms();
	/* Nothing is lost by it. */
	send_one(conn[1]);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1), SLUICE_RECV);
	CHECK_EQ(sluice_recv(conn[0], &msg), 1);
	drain(conn[1]);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, -1), SLUICE_SEND);
	ends_close(conn);
}

/* No sleep, no doorbell, with SPIN_FOREVER; no spin with no_spin. */
TAP_TEST(budgets_are_kept)
{
	struct sluice_conn_info info, peer;
	struct sluice_conn *conn[2];

	EACH_BUDGET(conn, &kinds[DIRECT])
	{
		struct later later = { conn[1], send_one, 200 * MS, 0 };
		int64_t cpu = cpu_now();

		start_later(&later);
		CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1), SLUICE_RECV);
		cpu = cpu_now() - cpu;
		join_later(&later);
		sluice_conn_info(conn[0], &info);
		sluice_conn_info(conn[1], &peer);
		if (budgets[b_] == &spinner) {
			CHECK_EQ(info.sleeps, 0);
			CHECK_EQ(peer.doorbells_sent, 0);
			continue;
		}
		CHECK_EQ(info.sleeps, 1);
		CHECK_EQ(peer.doorbells_sent, 1);
		CHECK_LT(cpu, 40 * MS * tap_slow);
	}
}

/* Each of these makes the socket readable, or hung up, for something else. */
static void check_quiet(struct sluice_conn *conn, uint32_t what)
{
	int64_t cpu = cpu_now();

	CHECK_EQ(sluice_wait(conn, what, 200 * MS), -ETIMEDOUT);
	CHECK_LT(cpu_now() - cpu, 50 * MS);
}

TAP_TEST(plain_input_does_not_spin_a_sender)
{
	struct sluice_conn *conn[2];

	kind_pair(conn, &kinds[PLAIN], &sleeper, NULL);
	fill(conn[0]);
	send_one(conn[1]);
	check_quiet(conn[0], SLUICE_SEND);
	drain(conn[0]);
	shut_down(conn[1]);
	check_quiet(conn[0], SLUICE_SEND);
	drain(conn[1]);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, -1), SLUICE_SEND);
	ends_close(conn);
}

/* What it has not received may hide what it waits for. */
TAP_EACH(unread_input_stops_a_sender, kind, queued_kinds)
{
	struct sluice_conn *conn[2];
	int64_t end = tap_now() + 10 * SECOND * tap_slow;
	unsigned int sent = 0;
	int r = -ETIMEDOUT;

	kind_pair(conn, kind, &sleeper, NULL);
	while (r == -ETIMEDOUT) {
		while (!sluice_send(conn[1], "x", 1, 0, SLUICE_SEND_F_BATCH))
			sent++;
		CHECK_LT(tap_now(), end);
		fill(conn[0]);
		r = sluice_wait(conn[0], SLUICE_SEND, 5 * MS);
	}
	CHECK_EQ(r, SLUICE_RECV);
	CHECK_LT(sent, 16384);
	drain(conn[0]);
	CHECK_EQ(sluice_wait(conn[0], SLUICE_SEND, 20 * MS), -ETIMEDOUT);
	ends_close(conn);
}

/* O_NONBLOCK belongs to whoever opened the socket. */
TAP_EACH(nonblocking_socket, kind, kinds)
{
	struct sluice_conn *conn[2];

	EACH_BUDGET(conn, kind)
	{
		for (int i = 0; i < 2; i++) {
			struct later later = { conn[1], send_one, 3 * MS, 0 };
			int fd = sluice_conn_fd(conn[0]);
			int flags = CHECK_SYS(fcntl(fd, F_GETFL));

			CHECK_SYS(fcntl(fd, F_SETFL, flags ^ O_NONBLOCK));
			start_later(&later);
			CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, -1),
				 SLUICE_RECV);
			join_later(&later);
			CHECK_EQ(drain(conn[0]), 1);
			if (budgets[b_] != &spinner)
				check_quiet(conn[0], SLUICE_RECV);
		}
	}
}

/* A peer that rings for nothing keeps nobody from his timeout. */
static void *ring(void *arg)
{
	const struct sluice_frame bell = { .type = SLUICE_FRAME_DOORBELL };
	struct sluice_conn *conn = arg;
	int64_t end = tap_now() + FLOOD;

	while (tap_now() < end)
		send(sluice_conn_fd(conn), &bell, sizeof(bell),
		     MSG_DONTWAIT | MSG_NOSIGNAL);
	return NULL;
}

TAP_TEST(doorbells_do_not_delay_a_timeout)
{
	struct sluice_conn *conn[2];
	pthread_t thread;

	EACH_BUDGET(conn, &kinds[DIRECT])
	{
		int64_t start = tap_now();

		CHECK_EQ(pthread_create(&thread, NULL, ring, conn[1]), 0);
		CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 30 * MS),
			 -ETIMEDOUT);
		CHECK_LT(tap_now() - start, FLOOD / 2);
		CHECK_EQ(pthread_join(thread, NULL), 0);
	}
}
