/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * kill -9 at any moment: 2,000 rounds, each with a victim that gets SIGKILL from
 * a timer of its own, at a random instruction of its start, its handshake or its
 * traffic, and a survivor, one process for all rounds of a case. Every other
 * victim starts its timer only when messages flow, since how far the others come
 * is up to the scheduler.
 *
 * The victim counts in a shared page what it has sent, after each send. The
 * survivor must get all of that, in order and whole, then -ECONNRESET, and must
 * have lost nothing of its own: buffers, fds, mappings.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "life.h"

#define ROUNDS 125
#define WARM_UP 20

enum lane_use { DIRECT, QUEUED, FRAMES, SWITCHING };

static const struct setting {
	const char *name;
	enum lane_use lane;
	bool serves; /* the survivor is the server */
	bool spins;
} settings[] = {
#define SETTINGS(name, lane)                                   \
	{ name "_server_sleeps", lane, true, false },          \
		{ name "_server_spins", lane, true, true },    \
		{ name "_client_sleeps", lane, false, false }, \
	{                                                      \
		name "_client_spins", lane, false, true        \
	}
	SETTINGS("direct", DIRECT),
	SETTINGS("queued", QUEUED),
	SETTINGS("frames", FRAMES),
	SETTINGS("switching", SWITCHING),
};
_Static_assert(sizeof(settings) / sizeof(settings[0]) * ROUNDS == 2000,
	       "rounds in all");

/* What the victim tells. */
struct shared {
	_Atomic uint64_t sent;
	_Atomic uint64_t received;
};

/* When the victim starts its timer, and for how long. */
struct death {
	uint64_t messages; /* after so many, sent if it sends; 0: at its start */
	int64_t ns;
	struct shared *shared;
};

/* Of a survivor that serves; else every victim has a name of its own. */
static char listener_name[64];

static struct sluice_options options_of(const struct setting *setting)
{
	return ENDS_OPTIONS(.flags = setting->lane == FRAMES ?
					     SLUICE_F_NO_DIRECT :
					     0,
			    .ring_slots = 64, .hold_limit = 64,
			    .spin_ns = setting->spins ? SLUICE_SPIN_FOREVER : 0,
			    .no_spin = !setting->spins,
			    /* a stream has tags, which plain messages lose */
			    .aware_timeout_ns = -1);
}

static void choose_lane(struct sluice_conn *conn, enum lane_use use)
{
	uint32_t lane = SLUICE_LANE_QUEUED;
	int r;

	if (use == DIRECT || use == FRAMES)
		return;
	if (use == SWITCHING) {
		if (tap_random_below(4))
			return;
		lane += tap_random() & 1;
	}
	r = sluice_conn_set_lane(conn, lane);
	/* Not negotiated yet, no room for the marker, or the peer is gone. */
	if (r != -EAGAIN && r != -EOPNOTSUPP && r != -EPIPE)
		CHECK_OK(r);
}

/* SIGKILL comes from the kernel, whatever this process is doing then. */
static void die_after(int64_t ns)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL,
				  .sigev_signo = SIGKILL };
	struct itimerspec when = {
		.it_value = { .tv_nsec = ns + 1 },
	};
	timer_t timer;

	CHECK_SYS(timer_create(CLOCK_MONOTONIC, &event, &timer));
	CHECK_SYS(timer_settime(timer, 0, &when, NULL));
}

static void come_closer(struct death *death, const struct side *side)
{
	death->shared->received = side->rx.next;
	if (!death->messages ||
	    (side->tx_end ? side->tx.next : side->rx.next) < death->messages)
		return;
	death->messages = 0;
	die_after(death->ns);
}

/*
 * Streams both ways until the peer's stream ends; returns how. Without death:
 * the survivor.
 */
static int pump(struct sluice_conn *conn, struct side *side, enum lane_use use,
		struct death *death)
{
	uint32_t what;
	int r;

	for (;;) {
		what = 0;
		r = life_receive_some(conn, side);
		if (death)
			come_closer(death, side);
		if (r == -EAGAIN)
			what |= SLUICE_RECV;
		else if (r != 1)
			return r;
		choose_lane(conn, use);
		r = life_send_some(conn, side);
		if (r == -EAGAIN)
			what |= SLUICE_SEND;
		else if (r == -EPIPE)
			side->tx_end = 0;
		else if (CHECK_OK(r))
			continue;
		if (what & SLUICE_RECV)
			CHECK_OK(sluice_wait(conn, what, -1));
	}
}

static void victim(const struct setting *setting, struct side *side,
		   struct death *death, const char *name)
{
	struct sluice_options options = options_of(setting);
	struct sluice_listener *listener;
	struct sluice_conn *conn;

	if (!death->messages)
		die_after(death->ns);
	if (setting->serves) {
		CHECK_OK(sluice_connect(&conn, name, &options));
	} else {
		CHECK_OK(sluice_listen(&listener, name, &options));
		CHECK_OK(sluice_accept(listener, &conn, -1));
	}
	TAP_FAIL("the survivor's stream ended: %d",
		 pump(conn, side, setting->lane, death));
}

static bool is_dead(pid_t pid)
{
	siginfo_t info = { 0 };

	CHECK_SYS(waitid(P_PID, pid, &info, WEXITED | WNOWAIT | WNOHANG));
	return info.si_pid == pid;
}

/* Gets the connection with the victim; NULL: it died too early for one. */
static struct sluice_conn *meet(const struct setting *setting,
				struct sluice_listener *listener,
				const char *name, pid_t pid)
{
	struct sluice_options options = options_of(setting);
	struct sluice_conn *conn;
	bool dead;
	int r;

	for (;;) {
		dead = is_dead(pid); /* before the last try */
		if (listener) {
			r = sluice_accept(listener, &conn, 1000000);
			if (r != -EAGAIN)
				CHECK_EQ(r, 0);
		} else {
			r = sluice_connect(&conn, name, &options);
			if (r != -ECONNREFUSED && r != -ECONNRESET)
				CHECK_EQ(r, 0);
		}
		if (!r)
			return conn;
		if (dead)
			return NULL;
		tap_sleep(20000);
	}
}

static bool is_aware(struct sluice_conn *conn)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	return info.rx_lane != SLUICE_LANE_PLAIN;
}

/* Inline messages lie in the holds themselves. */
static uint32_t buffers_in(const struct holds *holds)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < holds->count; i++)
		count += holds->held[i].msg.kind == SLUICE_SLOT_BUFFER;
	return count;
}

/* One victim. Returns how many messages of it arrived. */
static uint64_t run_round(const struct setting *setting,
			  struct sluice_listener *listener,
			  struct shared *shared, uint64_t number)
{
	uint64_t keys[2] = { tap_random(), tap_random() };
	uint64_t directions =
		1 + number / 2 % 3; /* 1: to the victim, 2: back */
	struct side side = {
		.tx = { .key = keys[0], .max_len = 30000 },
		.rx = { .key = keys[1], .max_len = 30000 },
		.holds.limit = (uint32_t)tap_random_below(50),
		.tx_end = directions & 1 ? UINT64_MAX : 0,
	};
	const char *name = life_name();
	struct sluice_buf *kept = NULL;
	struct sluice_conn_info info;
	struct sluice_conn *conn;
	int status, end;
	pid_t pid;

	memset(shared, 0, sizeof(*shared));
	pid = tap_fork();
	if (!pid) {
		struct death death = { .shared = shared };
		struct stream tx = side.tx;

		tap_random_stream(number + 1);
		if (number % 2)
			death.messages = 1 + tap_random_below(100);
		death.ns = (int64_t)tap_random_below(
			(tap_random_below(2) ? 6000000 : 600000) * tap_slow);
		side.tx = side.rx;
		side.rx = tx;
		side.tx_end = directions & 2 ? UINT64_MAX : 0;
		side.sent = &shared->sent;
		victim(setting, &side, &death, listener ? listener_name : name);
	}
	conn = meet(setting, listener, name, pid);
	if (!conn) {
		status = tap_reap(pid);
		CHECK(WIFSIGNALED(status));
		CHECK_EQ(atomic_load(&shared->sent), 0);
		return 0;
	}
	CHECK_OK(sluice_loan(conn, 5000, &kept));
	end = pump(conn, &side, setting->lane, NULL);
	status = tap_reap(pid);
	CHECK(WIFSIGNALED(status));
	CHECK_EQ(WTERMSIG(status), SIGKILL);

	/* All that it had sent, and at most one more that it did not count. */
	CHECK_GE(side.rx.next, atomic_load(&shared->sent));
	CHECK_EQ(side.rx.at, 0);
	CHECK_LE(atomic_load(&shared->received), side.tx.next);
	/* One that died before it had answered HELLO was a plain one. */
	CHECK_EQ(end, is_aware(conn) ? -ECONNRESET : 0);
	if (!is_aware(conn))
		CHECK_EQ(atomic_load(&shared->sent), 0);
	CHECK_EQ(sluice_send(conn, "x", 1, 0, 0), -EPIPE);
	sluice_conn_info(conn, &info);
	CHECK_EQ(info.error, 0);
	CHECK_EQ(info.out_buffers, 0);
	CHECK_EQ(info.held_buffers, buffers_in(&side.holds));
	CHECK_EQ(life_used(conn), 1);
	holds_release_all(conn, &side.holds);
	sluice_buf_unref(kept);
	CHECK_EQ(life_used(conn), 0);
	sluice_conn_close(conn);
	CHECK_EQ(life_memfds(), 0);
	return side.rx.next;
}

TAP_EACH(kill, setting, settings)
{
	struct sluice_options options = options_of(setting);
	struct sluice_listener *listener = NULL;
	struct shared *shared = life_shared();
	int fds = 0, mappings = 0;
	uint64_t messages = 0, arrived, rounds = 0;
	long resident = 0;

	if (setting->serves) {
		snprintf(listener_name, sizeof(listener_name), "%s",
			 life_name());
		CHECK_OK(sluice_listen(&listener, listener_name, &options));
	}
	for (uint64_t i = 0; i < ROUNDS; i++) {
		arrived = run_round(setting, listener, shared, i);
		messages += arrived;
		rounds += arrived > 0;
		if (i == WARM_UP) {
			fds = tap_open_fds();
			mappings = tap_mappings();
			resident = tap_resident();
		}
		if (i > WARM_UP)
			CHECK_EQ(tap_open_fds(), fds);
	}
	/*
	 * The allocator may split or grow what it has, by less than one for
	 * every few rounds; a sanitizer keeps what was freed for a while.
	 */
	CHECK_LE(tap_mappings(), mappings + 10);
	CHECK_LE(tap_resident(), resident + ((tap_sanitized ? 64l : 1l) << 20));
	tap_diag("%llu messages arrived, in %llu of %d rounds",
		 (unsigned long long)messages, (unsigned long long)rounds,
		 ROUNDS);
	/* Two thirds of those who die after messages send some. */
	CHECK_GE(rounds, ROUNDS / 4);
	sluice_listener_close(listener);
	CHECK_EQ(tap_open_fds(), 3);
}
