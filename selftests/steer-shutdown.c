/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A peer shuts its socket down while another of its threads is in send(), which
 * may be inside the program by then: what send() said is sent arrives, and then
 * comes the end. The payload is large, since that is what a program is busy with
 * for longest.
 */
#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "steers.h"

#define ROUNDS 1500
#define LEN_MAX 200000 /* what wmem_max lets anyone send */

struct sender {
	int fd;
	uint64_t sent; /* how many send() took */
};

/* Two CPUs make the race likely; with one, it takes a preemption. */
static void run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

static void *send_until_shut(void *arg)
{
	static uint8_t data[LEN_MAX];
	struct sender *sender = arg;
	size_t len;

	run_on(1);
	tap_random_stream(1);
	for (;;) {
		len = tap_random_below(4) ? LEN_MAX : 8 + tap_random_below(100);
		memcpy(data, &sender->sent, 8);
		if (send(sender->fd, data, len, MSG_NOSIGNAL) < 0)
			break;
		sender->sent++;
	}
	CHECK_EQ(errno, EPIPE);
	return NULL;
}

/* Receives the next one, which is to be `number`: 1, or 0 at the end. */
static int receive(struct sluice_conn *conn, uint64_t number)
{
	struct sluice_msg msg;
	uint64_t got;
	int r;

	r = sluice_recv_wait(conn, &msg, 5 * SECOND);
	if (r != 1)
		return r;
	memcpy(&got, sluice_msg_data(&msg), 8);
	CHECK_EQ(got, number);
	CHECK_OK(sluice_release(conn, &msg));
	return 1;
}

static void pause_for(int64_t ns)
{
	int64_t until = tap_now() + ns;

	while (tap_now() < until)
		;
}

static const struct end {
	const char *name;
	int how; /* the peer's shutdown() */
	bool here; /* this side has ended its sending before */
} ends[] = {
	{ "both_ways", SHUT_RDWR, false },
	{ "sending", SHUT_WR, false },
	{ "sending_after_ours", SHUT_WR, true },
};

TAP_EACH(mid_send, end, ends)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.ring_slots = 64, .conns = 16,
				.landing = { 1, 0, 8 });
	struct sluice_options options = ENDS_OPTIONS();
	unsigned int round, tail = 0;
	uint64_t received, before;
	struct sluice_conn *conn;
	struct sender sender;
	pthread_t thread;
	struct daemon d;

	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, &e));
	run_on(0);
	for (round = 0; round < ROUNDS / (unsigned int)tap_slow; round++) {
		sender.sent = received = 0;
		steers_pair(&conn, &sender.fd, &options);
		if (end->here)
			CHECK_OK(sluice_conn_shutdown(conn));
		CHECK_EQ(sluice_wait(conn, SLUICE_RECV, 0), -ETIMEDOUT);
		CHECK(!pthread_create(&thread, NULL, send_until_shut, &sender));
		while (received < 3)
			CHECK_EQ(receive(conn, received++), 1);
		pause_for((int64_t)tap_random_below(200000));
		CHECK_SYS(shutdown(sender.fd, end->how));
		before = received;
		while (receive(conn, received) == 1)
			received++;
		CHECK(!pthread_join(thread, NULL));
		CHECK_EQ(received, sender.sent);
		tail += received > before;
		sluice_conn_close(conn);
		close(sender.fd);
	}
	tap_diag("%u of %u rounds had messages after the shutdown", tail,
		 round);
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}

/* How often it waits ------------------------------------------------------- */

static volatile sig_atomic_t waits;

static void count_wait(int signal)
{
	(void)signal;
	waits++;
}

/*
 * From here on membarrier(GLOBAL) is counted instead of made, so the library
 * waits in another way; and without `diag` there are no socket diagnostics.
 */
static void count_waits(bool diag)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MEMBARRIER_CMD_GLOBAL, 0,
			 4),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, diag ? ~0u : AF_NETLINK, 1,
			 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAFNOSUPPORT),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]),
				      filter };
	struct sigaction action = { .sa_handler = count_wait };

	CHECK_SYS(sigaction(SIGSYS, &action, NULL));
	CHECK_SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK_SYS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* Some kernels have them in a module, which is not there. */
static bool has_diag(void)
{
	struct {
		struct nlmsghdr header;
		struct unix_diag_req body;
	} request = {
		.header = { .nlmsg_len = sizeof(request),
			    .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.body = { .sdiag_family = AF_UNIX },
	};
	char answer[4096] __attribute__((aligned(8)));
	const struct nlmsghdr *header = (const void *)answer;
	int fd = CHECK_SYS(
		socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));

	CHECK_SYS(send(fd, &request, sizeof(request), 0));
	CHECK_SYS(recv(fd, answer, sizeof(answer), 0));
	close(fd);
	return header->nlmsg_type != NLMSG_ERROR;
}

#define STORM 64

static const struct storm {
	const char *name;
	bool close; /* or shutdown() */
	bool diag;
	bool set; /* received by way of a set */
	int waits;
} storms[] = {
	{ "closes", true, true, false, 0 },
	{ "closes_in_a_set", true, true, true, 0 },
	{ "closes_without_diag", true, false, false, 1 },
	{ "shutdowns", false, true, false, 1 },
	{ "shutdowns_in_a_set", false, true, true, 1 },
	{ "shutdowns_without_diag", false, false, false, 1 },
};

static void receive_by_set(struct sluice_set *set)
{
	struct sluice_event event;
	struct sluice_msg msg;
	int ended, r;

	for (ended = 0; ended < STORM;) {
		CHECK_EQ(sluice_set_wait(set, &event, 1, 5 * SECOND, 0), 1);
		r = sluice_recv(event.conn, &msg);
		if (r)
			continue;
		CHECK_OK(sluice_set_remove(set, event.conn));
		ended++;
	}
}

/* Many that end at once cost one wait, or none if they were closed. */
TAP_EACH(at_once, storm, storms)
{
	struct sluice_endpoint_options e =
		STEERS_ENDPOINT(.ring_slots = 256, .conns = STORM);
	struct sluice_options options = ENDS_OPTIONS();
	struct sluice_conn *conn[STORM];
	struct sluice_set *set;
	int peer[STORM], i, expected = has_diag() ? storm->waits : 1;
	struct daemon d;

	steers_start(&d);
	CHECK_OK(sluice_endpoint_new(&options.endpoint, &e));
	CHECK_OK(sluice_set_new(&set));
	for (i = 0; i < STORM; i++) {
		steers_pair(&conn[i], &peer[i], &options);
		if (storm->set)
			CHECK_OK(sluice_set_add(set, conn[i], SLUICE_RECV,
						NULL));
		CHECK_EQ(sluice_wait(conn[i], SLUICE_RECV, 0), -ETIMEDOUT);
		steers_send(peer[i], (uint64_t)i, 0, 1000);
	}
	count_waits(storm->diag);
	for (i = 0; i < STORM; i++)
		CHECK_SYS(storm->close ? close(peer[i]) :
					 shutdown(peer[i], SHUT_WR));
	if (storm->set)
		receive_by_set(set);
	for (i = 0; i < STORM; i++) {
		if (!storm->set)
			steers_recv(conn[i], (uint64_t)i, 0, 1000);
		ends_expect_eof(conn[i]);
		ends_expect_eof(conn[i]);
		CHECK_EQ(steers_steered(conn[i]), 1);
	}
	CHECK_EQ(waits, expected);
	for (i = 0; i < STORM; i++) {
		sluice_conn_close(conn[i]);
		if (!storm->close)
			close(peer[i]);
	}
	sluice_set_free(set);
	sluice_endpoint_free(options.endpoint);
	steers_stop(&d);
}
