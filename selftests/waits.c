/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* See waits.h. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "waits.h"

#define KIND_PLAIN                                \
	{                                         \
		"plain", SLUICE_LANE_PLAIN, false \
	}
#define KIND_QUEUED                                 \
	{                                           \
		"queued", SLUICE_LANE_QUEUED, false \
	}
#define KIND_LINKLESS                                \
	{                                            \
		"linkless", SLUICE_LANE_QUEUED, true \
	}
#define KIND_DIRECT                                 \
	{                                           \
		"direct", SLUICE_LANE_DIRECT, false \
	}

const struct kind kinds[4] = { KIND_PLAIN, KIND_QUEUED, KIND_LINKLESS,
			       KIND_DIRECT };
const struct kind aware_kinds[3] = { KIND_QUEUED, KIND_LINKLESS, KIND_DIRECT };
const struct kind queued_kinds[2] = { KIND_QUEUED, KIND_LINKLESS };

static struct sluice_options options_for(const struct kind *kind,
					 const struct sluice_options *options)
{
	struct sluice_options o = options ? *options : ENDS_OPTIONS();

	if (kind->lane == SLUICE_LANE_PLAIN)
		o.flags |= SLUICE_F_PLAIN;
	else
		o.flags |= SLUICE_F_AWARE;
	if (kind->linkless)
		o.flags |= SLUICE_F_NO_DIRECT;
	return o;
}

static void choose_lane(struct sluice_conn *conn, const struct kind *kind)
{
	int r;

	if (kind->lane != SLUICE_LANE_QUEUED)
		return;
	while ((r = sluice_conn_set_lane(conn, SLUICE_LANE_QUEUED)) == -EAGAIN)
		CHECK_OK(sluice_wait(conn, SLUICE_SEND, 10 * SECOND));
	CHECK_EQ(r, 0);
}

void kind_pair(struct sluice_conn *conn[2], const struct kind *kind,
	       const struct sluice_options *a, const struct sluice_options *b)
{
	struct sluice_options options[2] = { options_for(kind, a),
					     options_for(kind, b ? b : a) };
	int fds[2], i;

	if (kind->lane != SLUICE_LANE_PLAIN) {
		ends_pair(conn, &options[0], &options[1]);
		for (i = 0; i < 2; i++)
			choose_lane(conn[i], kind);
		for (i = 0; i < 2; i++)
			CHECK_EQ(drain(conn[i]), 0);
		return;
	}
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	for (i = 0; i < 2; i++)
		CHECK_OK(sluice_conn_from_fd(&conn[i], fds[i], &options[i]));
}

static void bar_membarrier(void)
{
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = ARRAY_SIZE(code),
					    .filter = code };

	CHECK_SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		tap_skip("no seccomp filters here: %s", strerror(errno));
	CHECK_EQ(syscall(SYS_membarrier, 0, 0, 0), -1);
	CHECK_EQ(errno, EPERM);
}

pid_t kind_fork(struct sluice_conn **conn, const struct kind_setup *setup,
		void (*run)(struct sluice_conn *conn, void *arg), void *arg)
{
	struct sluice_options options[2] = {
		options_for(setup->kind, setup->mine),
		options_for(setup->kind, setup->childs),
	};
	struct sluice_conn *end;
	int fds[2];
	pid_t pid;

	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	pid = tap_fork();
	if (!pid) {
		close(fds[0]);
		tap_random_stream(1);
		if (setup->bar_child)
			bar_membarrier();
		CHECK_OK(sluice_conn_from_fd(&end, fds[1], &options[1]));
		choose_lane(end, setup->kind);
		run(end, arg);
		sluice_conn_close(end);
		exit(0);
	}
	close(fds[1]);
	if (setup->bar_me)
		bar_membarrier();
	CHECK_OK(sluice_conn_from_fd(conn, fds[0], &options[0]));
	choose_lane(*conn, setup->kind);
	return pid;
}

int64_t cpu_now(void)
{
	struct timespec t;

	CHECK_SYS(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t));
	return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

void *shared_page(size_t size)
{
	void *page = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED);
	return page;
}

struct words words_of(struct sluice_conn *conn)
{
	const struct conn_core *core = core_of(conn);

	if (!core->link || !core->peer_link)
		return (struct words){ 0 };
	return (struct words){
		.rx = __atomic_load_n(&core->link->rx_state, __ATOMIC_RELAXED),
		.tx = __atomic_load_n(&core->link->tx_state, __ATOMIC_RELAXED),
		.peer_rx = __atomic_load_n(&core->peer_link->rx_state,
					   __ATOMIC_RELAXED),
		.peer_tx = __atomic_load_n(&core->peer_link->tx_state,
					   __ATOMIC_RELAXED),
	};
}

void lost(struct sluice_conn *conn, const char *what)
{
	const struct conn_core *core = core_of(conn);
	struct words w = words_of(conn);
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	tap_diag("words: rx %#x tx %#x, peer's rx %#x tx %#x; need %d", w.rx,
		 w.tx, w.peer_rx, w.peer_tx, core->need);
	tap_diag("positions: rx %u (reported %u), tx %u of %u; inbox %u",
		 conn->rx_position, conn->rx_reported, conn->tx_position,
		 conn->tx_limit, core->inbox_count);
	tap_diag("lanes: rx %s, tx %s; sleeps %llu, doorbells sent %llu",
		 sluice_lane_name(info.rx_lane), sluice_lane_name(info.tx_lane),
		 (unsigned long long)info.sleeps,
		 (unsigned long long)info.doorbells_sent);
	TAP_FAIL("lost: %s", what);
}

unsigned int fill(struct sluice_conn *conn)
{
	unsigned int n = 0;
	int r;

	while (!(r = sluice_send(conn, &n, sizeof(n), n, 0)))
		n++;
	CHECK_EQ(r, -EAGAIN);
	return n;
}

unsigned int drain(struct sluice_conn *conn)
{
	struct sluice_msg msg;
	unsigned int n = 0;
	int r;

	while ((r = sluice_recv(conn, &msg)) == 1) {
		CHECK_OK(sluice_release(conn, &msg));
		n++;
	}
	CHECK_EQ(r, -EAGAIN);
	return n;
}

void busy(int64_t limit)
{
	int64_t end =
		tap_now() + (int64_t)tap_random_below((uint64_t)limit + 1);

	while (tap_now() < end)
		;
}
