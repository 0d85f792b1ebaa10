/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * No wake-up is lost, at whatever distance between one side's last look and the
 * other's act. Two processes play in turns, which they pass through memory of
 * the test's own: one is to fall asleep in sluice_wait(), the other does one
 * thing that must wake it, after a random delay of about the time it takes to
 * fall asleep, and then nothing more, so that a lost wake-up stays lost.
 */
#include <stdatomic.h>

#include "waits.h"

#define BOUND (2 * SECOND * tap_slow) /* a sleeper is awake within */
#define DURATION SECOND /* at least, and until it is ENOUGH */
#define ENOUGH 30 /* sleeps, and doorbells where there are any */

enum lack { MESSAGES, BATCH, ROOM, IDS, BUFFERS };

struct storm {
	const char *name;
	int kind; /* in kinds[] */
	enum lack lack; /* what one waits for */
	uint64_t spin_ns; /* 0: none */
	bool sender_barred, receiver_barred; /* from membarrier */
	uint32_t messages; /* at least */
	uint32_t spins; /* the sender sees STATE_SPIN so many times, at least */
};

static const struct storm storms[] = {
	{ "messages-direct", DIRECT, MESSAGES, .spin_ns = 20000,
	  .messages = 1000000, .spins = 10 },
	{ "messages-direct-no-spin", DIRECT, MESSAGES, .messages = 1000000 },
	{ "messages-direct-short-spin", DIRECT, MESSAGES, .spin_ns = 3000 },
	{ "messages-queued", QUEUED, MESSAGES, .spin_ns = 3000 },
	{ "messages-linkless", LINKLESS, MESSAGES, .spin_ns = 0 },
	{ "messages-plain", PLAIN, MESSAGES, .spin_ns = 3000 },
	{ "sender-without-membarrier", DIRECT, MESSAGES, .spin_ns = 3000,
	  .sender_barred = true },
	{ "receiver-without-membarrier", DIRECT, MESSAGES, .spin_ns = 3000,
	  .receiver_barred = true },
	{ "neither-with-membarrier", DIRECT, MESSAGES, .sender_barred = true,
	  .receiver_barred = true },
	{ "batch-direct", DIRECT, BATCH, .spin_ns = 3000 },
	{ "batch-queued", QUEUED, BATCH, .spin_ns = 0 },
	{ "room-direct", DIRECT, ROOM, .spin_ns = 3000 },
	{ "room-direct-no-spin", DIRECT, ROOM, .spin_ns = 0 },
	{ "room-queued", QUEUED, ROOM, .spin_ns = 0 },
	{ "room-plain", PLAIN, ROOM, .spin_ns = 3000 },
	{ "room-sender-without-membarrier", DIRECT, ROOM, .spin_ns = 3000,
	  .sender_barred = true },
	{ "room-receiver-without-membarrier", DIRECT, ROOM,
	  .receiver_barred = true },
	{ "ids-direct", DIRECT, IDS, .spin_ns = 0 },
	{ "ids-queued", QUEUED, IDS, .spin_ns = 3000 },
	{ "ids-linkless", LINKLESS, IDS, .spin_ns = 0 },
	{ "buffers-direct", DIRECT, BUFFERS, .spin_ns = 0 },
	{ "buffers-queued", QUEUED, BUFFERS, .spin_ns = 3000 },
	{ "buffers-linkless", LINKLESS, BUFFERS, .spin_ns = 3000 },
};

#define HOLD 16 /* hold_limit where ids are short, ring_slots where room is */
#define BUFFER_SIZE 16384

struct board {
	_Atomic uint64_t sent, received; /* messages */
	_Atomic bool full; /* the sender is about to wait for the receiver */
	_Atomic bool last; /* ... for the last time */
	_Atomic uint64_t turns;
	_Atomic uint64_t sleeps, doorbells; /* of the receiver */
	_Atomic uint64_t acts[2]; /* met a peer awake, asleep */
};

struct side {
	const struct storm *storm;
	struct board *board;
	int64_t asleep_after; /* ns: how long the other takes to fall asleep */
};

static bool peer_sleeps(struct sluice_conn *conn, bool receiver)
{
	struct words w = words_of(conn);

	return ((receiver ? w.peer_rx : w.peer_tx) & SLUICE_STATE_MASK) ==
	       SLUICE_STATE_ASLEEP;
}

/*
 * Waits until the other side falls asleep, or a little less, or more. Where it
 * has a word, each act corrects what is thought to be that moment, so that one
 * half of them come before it and one half after, whatever else runs.
 */
static void act_late(struct side *side, struct sluice_conn *conn, bool receiver)
{
	int64_t end;
	bool asleep;

	if (!tap_random_below(32)) {
		tap_sleep((int64_t)tap_random_below(200000));
		return;
	}
	end = tap_now() + side->asleep_after - 1000 +
	      (int64_t)tap_random_below(2000);
	while (tap_now() < end)
		;
	if (side->storm->kind != DIRECT)
		return;
	asleep = peer_sleeps(conn, receiver);
	atomic_fetch_add(&side->board->acts[asleep], 1);
	side->asleep_after += asleep ? -100 : 100;
	/* Far off: both had to share a CPU. */
	if (side->asleep_after < 0 || side->asleep_after > 200000)
		side->asleep_after = 0;
}

/* Waits for the other process without touching the connection. */
static bool soon(bool (*done)(struct board *board, uint64_t arg),
		 struct board *board, uint64_t arg)
{
	int64_t start = tap_now(), now;

	while (!done(board, arg)) {
		now = tap_now();
		if (now - start > BOUND)
			return done(board, arg);
		if (now - start > 200000)
			tap_sleep(20000);
	}
	return true;
}

/* Long ones give the other side a reason to go back to STATE_SPIN. */
static uint64_t burst_len(void)
{
	switch (tap_random_below(16)) {
	case 0 ... 11:
		return 1;
	case 12 ... 14:
		return 1 + tap_random_below(40);
	default:
		return 2000 + tap_random_below(2000);
	}
}

static struct sluice_options options_of(const struct storm *storm)
{
	struct sluice_options o = ENDS_OPTIONS(.spin_ns = storm->spin_ns,
					       .no_spin = !storm->spin_ns);

	if (storm->lack == MESSAGES)
		o.ring_slots = 4096; /* a long burst fits */
	if (storm->lack == ROOM || storm->lack == BATCH)
		o.ring_slots = HOLD;
	if (storm->lack == IDS)
		o.hold_limit = HOLD;
	return o;
}

static int send_one(struct sluice_conn *conn, const struct storm *storm,
		    uint64_t n, bool more)
{
	uint32_t flags = more && storm->lack == BATCH ? SLUICE_SEND_F_BATCH : 0;
	struct sluice_buf *buf;
	int r;

	if (storm->lack < IDS)
		return sluice_send(conn, &n, sizeof(n), n, flags);
	r = sluice_loan(conn, storm->lack == IDS ? 64 : BUFFER_SIZE, &buf);
	if (r)
		return r;
	r = sluice_send_buf(conn, buf, 64, n, flags);
	if (r)
		sluice_buf_unref(buf);
	return r;
}

/* What the case is about must have happened, or it has tested nothing. */
static bool enough(const struct storm *storm, uint64_t sleeps,
		   uint64_t doorbells)
{
	return sleeps >= ENOUGH &&
	       (storm->kind != DIRECT || doorbells >= ENOUGH);
}

static void check_coverage(const struct side *side, uint64_t features,
			   uint64_t sleeps, uint64_t doorbells,
			   uint64_t spins_seen)
{
	const struct storm *storm = side->storm;
	struct board *board = side->board;

	tap_diag("%llu messages, %llu turns, %llu sleeps, %llu doorbells, "
		 "%llu times STATE_SPIN, acts that met the peer awake %llu, "
		 "asleep %llu",
		 (unsigned long long)atomic_load(&board->sent),
		 (unsigned long long)atomic_load(&board->turns),
		 (unsigned long long)sleeps, (unsigned long long)doorbells,
		 (unsigned long long)spins_seen,
		 (unsigned long long)atomic_load(&board->acts[0]),
		 (unsigned long long)atomic_load(&board->acts[1]));
	CHECK(enough(storm, sleeps, doorbells));
	if (storm->kind != DIRECT)
		return;
	CHECK_EQ(!!(features & SLUICE_FEAT_MEMBARRIER),
		 !storm->sender_barred && !storm->receiver_barred);
	/* Who cannot make the sender fence must not claim to. */
	if (storm->receiver_barred && !storm->sender_barred)
		CHECK_EQ(spins_seen, 0);
	else
		CHECK_GE(spins_seen, storm->spins);
}

static void note(struct sluice_conn *conn, struct board *board)
{
	struct sluice_conn_info info;

	sluice_conn_info(conn, &info);
	atomic_store(&board->sleeps, info.sleeps);
	atomic_store(&board->doorbells, info.doorbells_sent);
}

/* The receiver sleeps ------------------------------------------------------ */

static bool all_received(struct board *board, uint64_t sent)
{
	return atomic_load(&board->received) == sent;
}

static void receive_all(struct sluice_conn *conn, void *arg)
{
	const struct side *side = arg;
	struct board *board = side->board;
	struct sluice_msg msg;
	uint64_t received = 0;
	int r;

	while ((r = sluice_recv_wait(conn, &msg, -1))) {
		CHECK_EQ(r, 1);
		if (side->storm->kind != PLAIN)
			CHECK_EQ(msg.tag, received);
		CHECK_OK(sluice_release(conn, &msg));
		atomic_store(&board->received, ++received);
		if (all_received(board, atomic_load(&board->sent))) {
			note(conn, board);
			busy(2000); /* it may even send before we sleep */
		}
	}
	note(conn, board);
}

static void send_waiting(struct sluice_conn *conn, const struct side *side,
			 uint64_t n, bool more)
{
	int r;

	while ((r = send_one(conn, side->storm, n, more)) == -EAGAIN) {
		r = sluice_wait(conn, SLUICE_SEND, BOUND);
		if (r == -ETIMEDOUT && all_received(side->board, n))
			lost(conn, "there was room, nobody woke us");
		if (r != -ETIMEDOUT)
			CHECK_EQ(r, SLUICE_SEND);
	}
	CHECK_EQ(r, 0);
	atomic_store(&side->board->sent, n + 1);
}

static void storm_messages(struct sluice_conn *conn, struct side *side)
{
	const struct storm *storm = side->storm;
	int64_t end = tap_now() + DURATION;
	uint64_t n = 0, burst, spins_seen = 0;
	struct sluice_conn_info info;
	struct sluice_msg msg;

	for (;;) {
		sluice_conn_info(conn, &info);
		if (n >= storm->messages && spins_seen >= storm->spins &&
		    tap_now() >= end &&
		    enough(storm, atomic_load(&side->board->sleeps),
			   info.doorbells_sent))
			break;
		for (burst = burst_len(); burst; burst--)
			send_waiting(conn, side, n++, burst > 1);
		if (!soon(all_received, side->board, n))
			lost(conn, "a message was there, nobody woke the peer");
		spins_seen += storm->kind == DIRECT &&
			      (words_of(conn).peer_rx & SLUICE_STATE_MASK) ==
				      SLUICE_STATE_SPIN;
		atomic_fetch_add(&side->board->turns, 1);
		act_late(side, conn, true);
	}
	CHECK_OK(sluice_conn_shutdown(conn));
	CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 0); /* it has noted */
	sluice_conn_info(conn, &info);
	check_coverage(side, info.features, atomic_load(&side->board->sleeps),
		       info.doorbells_sent, spins_seen);
}

/* The sender sleeps -------------------------------------------------------- */

static bool is_full(struct board *board, uint64_t arg)
{
	(void)arg;
	return atomic_load(&board->full);
}

struct held {
	struct sluice_msg msgs[256];
	unsigned int count;
};

static void take(struct sluice_conn *conn, struct held *held, bool hold)
{
	struct sluice_msg msg;

	if (sluice_recv(conn, &msg) != 1)
		lost(conn, "a message that was sent is not there");
	if (!hold) {
		CHECK_OK(sluice_release(conn, &msg));
		return;
	}
	CHECK_LT(held->count, 256);
	held->msgs[held->count++] = msg;
}

static void release_one(struct sluice_conn *conn, struct held *held)
{
	unsigned int i = (unsigned int)tap_random_below(held->count);

	CHECK_OK(sluice_release(conn, &held->msgs[i]));
	held->msgs[i] = held->msgs[--held->count];
	CHECK_OK(sluice_flush(conn)); /* those that go by frame */
}

/* One act that makes room. In a ring the head is told every quarter. */
static void make_room(struct sluice_conn *conn, void *arg)
{
	struct side *side = arg;
	struct board *board = side->board;
	bool hold = side->storm->lack != ROOM;
	uint64_t received = 0, upto;
	struct held held = { .count = 0 };

	for (;;) {
		if (!soon(is_full, board, 0))
			lost(conn, "there was room, nobody woke the peer");
		act_late(side, conn, false);
		atomic_store(&board->full, false);
		upto = atomic_load(&board->sent);
		if (atomic_load(&board->last))
			break;
		note(conn, board);
		if (side->storm->kind == DIRECT && !hold &&
		    upto > received + HOLD / 4)
			upto = received + HOLD / 4;
		for (; received < upto; received++)
			take(conn, &held, hold);
		if (held.count)
			release_one(conn, &held);
	}
	for (; received < upto; received++)
		take(conn, &held, hold);
	while (held.count)
		release_one(conn, &held);
	note(conn, board);
}

static void storm_room(struct sluice_conn *conn, const struct side *side)
{
	int64_t end = tap_now() + DURATION;
	struct board *board = side->board;
	struct sluice_conn_info info;
	struct sluice_msg msg;
	uint64_t n = 0;
	int r;

	for (;;) {
		sluice_conn_info(conn, &info);
		if (tap_now() >= end && enough(side->storm, info.sleeps,
					       atomic_load(&board->doorbells)))
			break;
		while (!(r = send_one(conn, side->storm, n, false)))
			n++;
		CHECK_EQ(r, -EAGAIN);
		atomic_store(&board->sent, n);
		atomic_fetch_add(&board->turns, 1);
		atomic_store(&board->full, true);
		busy(2000); /* so that it may even act before we sleep */
		/* The receiver is the judge of what is too late. */
		CHECK_EQ(sluice_wait(conn, SLUICE_SEND, -1), SLUICE_SEND);
	}
	CHECK_OK(sluice_conn_shutdown(conn));
	atomic_store(&board->last, true);
	atomic_store(&board->full, true);
	CHECK_EQ(sluice_recv_wait(conn, &msg, -1), 0); /* it has noted */
	sluice_conn_info(conn, &info);
	check_coverage(side, info.features, info.sleeps,
		       atomic_load(&board->doorbells), 0);
}

TAP_EACH(storm, storm, storms)
{
	struct side side = { .storm = storm,
			     .board = shared_page(sizeof(struct board)),
			     .asleep_after = (int64_t)storm->spin_ns + 2000 };
	struct sluice_pool_options pool = ENDS_POOL(.limit = 4 * BUFFER_SIZE);
	struct sluice_options options = options_of(storm), mine = options;
	const struct kind_setup setup = {
		.kind = &kinds[storm->kind],
		.mine = &mine,
		.childs = &options,
		.bar_me = storm->sender_barred,
		.bar_child = storm->receiver_barred,
	};
	bool receiver_sleeps = storm->lack == MESSAGES || storm->lack == BATCH;
	struct sluice_conn *conn;
	pid_t pid;

	tap_limit(90);
	if (storm->lack == BUFFERS)
		mine.pool_options = &pool;
	pid = kind_fork(&conn, &setup,
			receiver_sleeps ? receive_all : make_room, &side);
	if (receiver_sleeps)
		storm_messages(conn, &side);
	else
		storm_room(conn, &side);
	sluice_conn_close(conn);
	tap_join(pid);
}
