/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Many senders at once, and a receiver that follows PROTOCOL.md section 15 to the
 * letter but uses nothing of the library: no message is lost, doubled or
 * overtaken, whatever mixture of ring and queue it takes, and no doorbell is
 * missed. Needs root and BPF.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steer-maps.h"
#include "tap.h"

#define CONNS_MAX 4
#define THREADS_MAX 3
#define RING 16

static const struct row {
	const char *name;
	int conns;
	int threads; /* on each conn's socket */
	uint32_t messages; /* of each thread */
	size_t size; /* largest */
	bool sleep; /* the receiver sleeps when there is nothing */
} rows[] = {
	{ "inline", 4, 1, 20000, 32, false },
	{ "landing", 4, 1, 10000, 9000, false },
	{ "one-socket", 1, 3, 10000, 9000, false },
	{ "sleep", 2, 1, 5000, 64, true },
	{ "sleep-one-socket", 1, 3, 3000, 9000, true },
};

static const struct sluice_control_create geometry = {
	.rings = 1,
	.ring_slots = RING,
	.conns = 16,
	.landing = { 1, 4, 0 },
};

struct note {
	uint32_t thread;
	uint32_t number;
};

struct sender {
	const struct row *row;
	int sock;
	uint32_t conn;
	uint32_t thread;
};

static struct {
	const struct row *row;
	struct steer_rig rig;
	struct steer_ring *ring;
	bool taken[RING]; /* position & (RING - 1), ahead of ring->next */
	int socks[CONNS_MAX];
	uint32_t want[CONNS_MAX][THREADS_MAX]; /* next number */
	uint64_t left, steered, queued, sleeps;
	bool about_to_sleep;
} r;

static uint32_t messages_of(const struct row *row)
{
	return row->messages / (uint32_t)tap_slow;
}

#define SLOW 100 /* messages at the end of each thread */

static void send_one(int sock, struct note note, size_t size)
{
	uint8_t bytes[9000];
	size_t len;

	len = sizeof(note) + tap_random_below(size - sizeof(note) + 1);
	memcpy(bytes, &note, sizeof(note));
	tap_fill(bytes + sizeof(note), len - sizeof(note),
		 note.number ^ note.thread << 24);
	CHECK_EQ(send(sock, bytes, len, 0), (ssize_t)len);
}

static void *send_all(void *data)
{
	const struct sender *s = data;
	struct note note = { .thread = s->thread };

	tap_random_stream(s->conn * THREADS_MAX + s->thread + 1);
	for (note.number = 0; note.number < messages_of(s->row);
	     note.number++) {
		send_one(s->sock, note, s->row->size);
		if (s->row->sleep && tap_random_below(8) == 0)
			tap_sleep(tap_random_below(200000));
		/* Who shares a socket is seldom alone: at the end, slowly. */
		if (note.number + SLOW > messages_of(s->row))
			tap_sleep(tap_random_below(2000000));
	}
	return NULL;
}

static void deliver(uint32_t conn, const void *bytes, size_t len)
{
	struct note note;

	CHECK_LT(conn, (uint32_t)r.row->conns);
	CHECK_GE(len, sizeof(note));
	memcpy(&note, bytes, sizeof(note));
	CHECK_LT(note.thread, (uint32_t)r.row->threads);
	CHECK_EQ(note.number, r.want[conn][note.thread]);
	CHECK(tap_matches(bytes + sizeof(note), len - sizeof(note),
			  note.number ^ note.thread << 24));
	r.want[conn][note.thread]++;
	r.left--;
}

/* Takes whatever is ready up to the tail, past positions that are not. */
static bool drain(void)
{
	uint32_t tail =
		__atomic_load_n(&r.ring->header->tail, __ATOMIC_ACQUIRE);
	const struct sluice_slot *at;
	struct sluice_slot slot;
	uint32_t position;
	bool any = false;

	for (position = r.ring->next; position != tail; position++) {
		at = &r.ring->slots[position & (RING - 1)];
		if (r.taken[position & (RING - 1)] ||
		    __atomic_load_n(&at->seq, __ATOMIC_ACQUIRE) != position + 1)
			continue;
		slot = *at;
		r.taken[position & (RING - 1)] = true;
		deliver(slot.conn, steer_payload(r.ring, &slot), slot.len);
		steer_release(r.ring, &slot);
		r.steered++;
		any = true;
	}
	while (r.taken[r.ring->next & (RING - 1)]) {
		r.taken[r.ring->next & (RING - 1)] = false;
		r.ring->next++;
	}
	__atomic_store_n(&r.ring->control->head, r.ring->next,
			 __ATOMIC_RELEASE);
	return any;
}

static bool swap_word(uint32_t *word, uint32_t old, uint32_t new)
{
	return __atomic_compare_exchange_n(word, &old, new, false,
					   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#define LOOKS_PER_GRANT 256

/* Looks at the conn's socket, unless messages are steered. */
static bool look_at_socket(uint32_t conn)
{
	uint32_t *word = steer_word(r.ring, conn);
	static uint8_t bytes[9000];
	static unsigned int looks[CONNS_MAX];
	ssize_t len;

	/*
	 * A grant that is taken back at once is one that nobody gets to use. Each
	 * conn has its turn: with one count for all of them it could be that of the
	 * same one for ever.
	 */
	if (__atomic_load_n(word, __ATOMIC_SEQ_CST) == SLUICE_STEER_GRANTED &&
	    !r.about_to_sleep && ++looks[conn] % LOOKS_PER_GRANT)
		return false;
	swap_word(word, SLUICE_STEER_GRANTED, SLUICE_STEER_HOLD);
	if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != SLUICE_STEER_HOLD)
		return false;
	drain();
	len = recv(r.socks[conn], bytes, sizeof(bytes), MSG_DONTWAIT);
	if (len < 0) {
		CHECK_EQ(errno, EAGAIN);
		CHECK(swap_word(word, SLUICE_STEER_HOLD, SLUICE_STEER_GRANTED));
		return false;
	}
	drain();
	deliver(conn, bytes, len);
	r.queued++;
	return true;
}

static bool look(void)
{
	bool any = drain();
	int i;

	for (i = 0; i < r.row->conns; i++)
		while (look_at_socket(i))
			any = true;
	return any;
}

static void sleep_until_rung(void)
{
	struct pollfd fds[1 + CONNS_MAX];
	int i;

	steer_bell_drain(r.ring);
	__atomic_store_n(&r.ring->control->asleep, 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	r.about_to_sleep = true;
	if (!look()) {
		fds[0] = (struct pollfd){ r.ring->bell_fd, POLLIN, 0 };
		for (i = 0; i < r.row->conns; i++)
			fds[1 + i] = (struct pollfd){ r.socks[i], POLLIN, 0 };
		CHECK_GT(poll(fds, 1 + r.row->conns, 20000), 0);
		r.sleeps++;
	}
	r.about_to_sleep = false;
	__atomic_store_n(&r.ring->control->asleep, 0, __ATOMIC_SEQ_CST);
}

static void open_all(const struct row *row, int *from)
{
	int i, pair[2];

	r.row = row;
	r.left = (uint64_t)row->conns * row->threads * messages_of(row);
	steer_rig_new(&r.rig, &geometry);
	r.ring = &r.rig.rings[0];
	for (i = 0; i < row->conns; i++) {
		CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
		from[i] = pair[0];
		r.socks[i] = pair[1];
	}
}

static void attach_all(void)
{
	int i;

	for (i = 0; i < r.row->conns; i++) {
		struct steer_conn_entry entry = { .conn = i };

		steer_rig_attach(&r.rig, r.socks[i], &entry);
	}
}

/*
 * Nobody sends any more. pass_contended is the one count that no test here makes
 * move: it takes eight claims by others, each between two instructions of one
 * claim, which a few CPUs that spend a microsecond on a message cannot do; and the
 * tail is nobody's to write but the program's.
 */
static void close_all(int *from)
{
	struct steer_counters counters;
	uint32_t i;

	for (i = 0; i < (uint32_t)r.row->conns; i++) {
		close(from[i]);
		close(r.socks[i]);
	}
	CHECK(!drain());
	CHECK_EQ(r.ring->next, r.ring->header->tail);
	for (i = 0; i < r.ring->landing_slots; i++)
		CHECK_EQ(r.ring->states[i], SLUICE_LANDING_FREE);
	steer_rig_counters(&r.rig, &counters);
	CHECK_EQ(counters.steered_inline + counters.steered_small +
			 counters.steered_medium,
		 r.steered);
	CHECK_GE(r.queued, counters.pass_hold);
	tap_diag("%llu steered, %llu queued, %llu sleeps, %llu doorbells",
		 (unsigned long long)r.steered, (unsigned long long)r.queued,
		 (unsigned long long)r.sleeps,
		 (unsigned long long)counters.doorbells);
	CHECK_GT(r.steered, 0);
	steer_rig_free(&r.rig);
}

TAP_EACH(order, row, rows)
{
	struct sender senders[CONNS_MAX][THREADS_MAX];
	pthread_t threads[CONNS_MAX][THREADS_MAX];
	int i, j, from[CONNS_MAX];

	tap_limit(110);
	open_all(row, from);
	/* attached under fire: what was sent before stays first */
	for (i = 0; i < row->conns; i++)
		for (j = 0; j < row->threads; j++) {
			senders[i][j] = (struct sender){ row, from[i], i, j };
			CHECK_EQ(pthread_create(&threads[i][j], NULL, send_all,
						&senders[i][j]),
				 0);
		}
	attach_all();
	while (r.left) {
		if (look())
			continue;
		if (row->sleep)
			sleep_until_rung();
	}
	for (i = 0; i < row->conns; i++)
		for (j = 0; j < row->threads; j++)
			pthread_join(threads[i][j], NULL);
	close_all(from);
}

/* Senders that are killed --------------------------------------------------- */

#define KILLS 300

static const struct row killed[] = {
	{ "inline", 2, 1, UINT32_MAX, 32, false },
	{ "landing", 2, 1, UINT32_MAX, 9000, false },
};

/* Of one sending process. */
struct board {
	_Atomic uint32_t sent; /* messages that send() took */
	_Atomic bool stop, stopped;
};

/* pause: between two messages, at most; ns. */
static pid_t send_process(const struct row *row, int sock, struct board *board,
			  int64_t pause)
{
	struct note note = { .thread = 0 };
	pid_t pid = tap_fork();

	if (pid)
		return pid;
	while (!atomic_load(&board->stop)) {
		note.number = atomic_load(&board->sent);
		send_one(sock, note, row->size);
		atomic_store(&board->sent, note.number + 1);
		if (pause)
			tap_sleep(tap_random_below(pause));
	}
	atomic_store(&board->stopped, true);
	_exit(0);
}

static void look_for(int64_t ns)
{
	int64_t until = tap_now() + ns;

	while (tap_now() < until)
		look();
}

/* All that was claimed until now is published, and soon taken. */
static void settle(void)
{
	uint32_t tail = r.ring->header->tail;

	r.about_to_sleep = true; /* look at sockets, too */
	CHECK_SOON((look(), (int32_t)(r.ring->next - tail) >= 0));
	while (look_at_socket(0))
		;
	r.about_to_sleep = false;
}

/*
 * A process leaves the program before it dies: no position of its stays without
 * a message, no landing slot is lost, and what send() took is there, with at most
 * the message it was killed in. Another's messages come all the time.
 */
TAP_EACH(killed, row, killed)
{
	struct board *boards;
	int i, from[CONNS_MAX];
	pid_t pid, other;

	tap_limit(110);
	boards = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(boards != MAP_FAILED);
	open_all(row, from);
	attach_all();
	other = send_process(row, from[1], &boards[1], 100000);
	for (i = 0; i < KILLS / tap_slow; i++) {
		atomic_store(&boards[0].sent, r.want[0][0]);
		pid = send_process(row, from[0], &boards[0], 0);
		look_for(1000000 + tap_random_below(3000000));
		tap_kill(pid);
		settle();
		CHECK_LE(r.want[0][0] - atomic_load(&boards[0].sent), 1u);
	}
	atomic_store(&boards[1].stop, true);
	CHECK_SOON((look(), atomic_load(&boards[1].stopped)));
	tap_join(other);
	settle();
	r.about_to_sleep = true;
	look();
	CHECK_EQ(r.want[1][0], atomic_load(&boards[1].sent));
	tap_diag("%u messages of the killed, %u of the other", r.want[0][0],
		 r.want[1][0]);
	close_all(from);
}
