/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The steering program, driven directly: what it takes and what it leaves to the
 * queue, with the reason it counts. Each case checks the data path *and* the
 * counters. Needs root and BPF. What goes on at once is in steer-race.c, and
 * receivers that lie are in steer-lie.c.
 */
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "steer-maps.h"
#include "tap.h"

#define CONN 0x00070003u /* index 3, generation 7 */
#define MIB (1u << 20)

static const struct sluice_control_create geometry = {
	.rings = 1,
	.ring_slots = 16,
	.conns = 16,
	.landing = { 1, 2, 2 },
};

struct pair {
	struct steer_rig rig;
	struct steer_ring *ring;
	uint32_t *word;
	int from; /* the sender's socket */
	int to; /* the receiver's */
};

static uint8_t data[MIB + 4096], got[MIB + 4096];

static void pair_new(struct pair *p, int type, uint32_t flags)
{
	struct steer_conn_entry entry = { .conn = CONN,
					  .endpoint = 5,
					  .flags = flags };
	int socks[2], size = 4 * MIB;

	steer_rig_new(&p->rig, &geometry);
	CHECK_SYS(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, socks));
	p->from = socks[0];
	p->to = socks[1];
	CHECK_SYS(setsockopt(p->from, SOL_SOCKET, SO_SNDBUFFORCE, &size,
			     sizeof(size)));
	p->ring = &p->rig.rings[0];
	p->word = steer_word(p->ring, CONN);
	steer_rig_attach(&p->rig, p->to, &entry);
	*p->word = SLUICE_STEER_ON;
}

static void pair_free(struct pair *p)
{
	close(p->from);
	close(p->to);
	steer_rig_free(&p->rig);
}

static void push(struct pair *p, const void *bytes, size_t len)
{
	CHECK_EQ(send(p->from, bytes, len, 0), (ssize_t)len);
}

/* The next slot, which there must be. */
static struct sluice_slot pop(struct pair *p)
{
	struct sluice_slot slot;

	CHECK(steer_take(p->ring, &slot));
	CHECK_EQ(slot.conn, CONN);
	return slot;
}

/* Exactly this is on the socket, and the ring is empty. */
static void check_queued(struct pair *p, const void *bytes, size_t len)
{
	struct sluice_slot slot;

	CHECK(!steer_take(p->ring, &slot));
	CHECK_EQ(recv(p->to, got, sizeof(got), 0), (ssize_t)len);
	CHECK_MEM(got, bytes, len);
	CHECK_EQ(recv(p->to, got, sizeof(got), 0), -1);
}

static void check_nothing_queued(struct pair *p)
{
	CHECK_EQ(recv(p->to, got, sizeof(got), 0), -1);
	CHECK_EQ(errno, EAGAIN);
}

/* All counts are as in want. */
static void check_counts(struct pair *p, const struct steer_counters *want)
{
	struct steer_counters counters;

	steer_rig_counters(&p->rig, &counters);
	CHECK_MEM(&counters, want, sizeof(counters));
}

#define COUNTS(...) (&(const struct steer_counters){ __VA_ARGS__ })

/* Plain payload ------------------------------------------------------------- */

static const struct size {
	const char *name;
	size_t len;
	struct steer_counters counts;
} sizes[] = {
	{ "0", 0, { .steered_inline = 1 } },
	{ "1", 1, { .steered_inline = 1 } },
	{ "31", 31, { .steered_inline = 1 } },
	{ "32", 32, { .steered_inline = 1 } },
	{ "33", 33, { .steered_small = 1 } },
	{ "4096", 4096, { .steered_small = 1 } },
	{ "4097", 4097, { .steered_medium = 1 } },
	{ "65536", 65536, { .steered_medium = 1 } },
	{ "65537", 65537, { .steered_large = 1 } },
	{ "a-MiB", MIB, { .steered_large = 1 } },
	{ "more", MIB + 1, { .pass_too_large = 1 } },
};

TAP_EACH(size, size, sizes)
{
	struct steer_conn_entry entry;
	struct sluice_slot slot;
	struct pair p;
	size_t i;

	pair_new(&p, SOCK_SEQPACKET, 0);
	tap_fill(data, size->len, size->len);
	push(&p, data, size->len);
	steer_rig_entry(&p.rig, p.to, &entry);
	if (size->counts.pass_too_large) {
		check_queued(&p, data, size->len);
		CHECK_EQ(*p.word, SLUICE_STEER_HOLD);
		CHECK_EQ(p.ring->header->spills, 1);
		CHECK_EQ(entry.spills, 1);
		CHECK_EQ(entry.messages, 0);
	} else {
		slot = pop(&p);
		CHECK_EQ(slot.len, size->len);
		CHECK_EQ(slot.flags, 0);
		CHECK_MEM(steer_payload(p.ring, &slot), data, size->len);
		for (i = slot.kind == SLUICE_SLOT_INLINE ? slot.len : 4; i < 32;
		     i++)
			CHECK_EQ(slot.inline_data[i], 0);
		check_nothing_queued(&p);
		CHECK_EQ(*p.word, SLUICE_STEER_ON);
		CHECK_EQ(p.ring->header->spills, 0);
		CHECK_EQ(entry.messages, 1);
		CHECK_EQ(entry.bytes, size->len);
	}
	check_counts(&p, &size->counts);
	pair_free(&p);
}

/* When a size has no free slot the next one serves; what fits none waits. */
TAP_TEST(landing_classes)
{
	struct sluice_slot slot, first;
	struct pair p;
	int i;

	pair_new(&p, SOCK_SEQPACKET, 0);
	tap_fill(data, 4000, 1);
	for (i = 0; i < 16 + 2 + 2; i++) {
		push(&p, data, 4000);
		slot = pop(&p);
		CHECK_MEM(steer_payload(p.ring, &slot), data, 4000);
		if (i == 0)
			first = slot;
	}
	push(&p, data, 4000);
	check_queued(&p, data, 4000);
	check_counts(&p, COUNTS(.steered_small = 16, .steered_medium = 2,
				.steered_large = 2, .pass_no_landing = 1));
	CHECK_EQ(*p.word, SLUICE_STEER_HOLD);
	steer_release(p.ring, &first);
	*p.word = SLUICE_STEER_GRANTED;
	push(&p, data, 4000);
	slot = pop(&p);
	CHECK_EQ(slot.buffer.id, first.buffer.id);
	pair_free(&p);
}

/* A ring that is full gives the landing slot back. */
TAP_TEST(ring_full)
{
	struct sluice_slot slot;
	struct pair p;
	int i, used = 0;
	uint8_t n;

	pair_new(&p, SOCK_SEQPACKET, 0);
	for (n = 0; n < 16; n++)
		push(&p, &n, 1);
	tap_fill(data, 100, 1);
	push(&p, data, 100);
	CHECK_EQ(*p.word, SLUICE_STEER_HOLD);
	CHECK_EQ(p.ring->header->spills, 1);
	for (i = 0; i < (int)p.ring->landing_slots; i++)
		used += p.ring->states[i] != SLUICE_LANDING_FREE;
	CHECK_EQ(used, 0);
	for (n = 0; n < 16; n++) {
		slot = pop(&p);
		CHECK_EQ(slot.inline_data[0], n);
	}
	check_queued(&p, data, 100);
	check_counts(&p, COUNTS(.steered_inline = 16, .pass_ring_full = 1));
	pair_free(&p);
}

/* Words --------------------------------------------------------------------- */

TAP_TEST(words)
{
	struct pair p;

	pair_new(&p, SOCK_SEQPACKET, 0);
	*p.word = SLUICE_STEER_HOLD;
	push(&p, "held", 4);
	check_queued(&p, "held", 4);
	CHECK_EQ(p.ring->header->spills, 0);
	*p.word = SLUICE_STEER_GRANTED;
	push(&p, "granted", 7);
	CHECK_EQ(*p.word, SLUICE_STEER_ON);
	CHECK_EQ(pop(&p).len, 7);
	push(&p, "on", 2);
	CHECK_EQ(pop(&p).len, 2);
	check_nothing_queued(&p);
	*p.word = 77; /* means nothing */
	push(&p, "odd", 3);
	CHECK_EQ(*p.word, 77);
	check_queued(&p, "odd", 3);
	check_counts(&p, COUNTS(.pass_hold = 1, .grants_taken = 1,
				.steered_inline = 2, .pass_charged = 1));
	pair_free(&p);
}

/* With another message of the sender queued, none is taken. */
TAP_TEST(charged)
{
	struct pair p;

	pair_new(&p, SOCK_SEQPACKET, 0);
	*p.word = SLUICE_STEER_HOLD;
	push(&p, "first", 5);
	*p.word = SLUICE_STEER_GRANTED;
	push(&p, "second", 6);
	CHECK_EQ(*p.word, SLUICE_STEER_GRANTED);
	*p.word = SLUICE_STEER_ON;
	push(&p, "third", 5);
	CHECK_EQ(*p.word, SLUICE_STEER_HOLD);
	CHECK_EQ(recv(p.to, got, sizeof(got), 0), 5);
	CHECK_EQ(recv(p.to, got, sizeof(got), 0), 6);
	check_queued(&p, "third", 5);
	*p.word = SLUICE_STEER_GRANTED;
	push(&p, "fourth", 6);
	CHECK_EQ(pop(&p).len, 6);
	check_counts(&p, COUNTS(.pass_hold = 1, .pass_charged = 2,
				.grants_taken = 1, .steered_inline = 1));
	pair_free(&p);
}

TAP_TEST(no_entry)
{
	struct pair p;

	pair_new(&p, SOCK_SEQPACKET, 0);
	steer_rig_detach(&p.rig, p.to);
	push(&p, "x", 1);
	check_queued(&p, "x", 1);
	check_counts(&p, COUNTS(.pass_unknown = 1));
	pair_free(&p);
}

TAP_TEST(no_ring)
{
	struct steer_conn_entry entry = { .ring = 3, .conn = CONN };
	struct pair p;

	pair_new(&p, SOCK_SEQPACKET, 0);
	steer_rig_detach(&p.rig, p.to);
	steer_rig_attach(&p.rig, p.to, &entry);
	push(&p, "x", 1);
	check_queued(&p, "x", 1);
	check_counts(&p, COUNTS(.pass_no_ring = 1));
	pair_free(&p);
}

/* Never taken ----------------------------------------------------------------- */

TAP_TEST(fds_arrive)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	char text[] = "fd";
	struct iovec iov = { text, 2 };
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
	struct pair p;
	int pipes[2], fd;
	char c;

	pair_new(&p, SOCK_SEQPACKET, 0);
	CHECK_SYS(pipe(pipes));
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &pipes[1], sizeof(int));
	CHECK_EQ(sendmsg(p.from, &message, 0), 2);
	memset(&control, 0, sizeof(control));
	CHECK_EQ(recvmsg(p.to, &message, 0), 2);
	cmsg = CMSG_FIRSTHDR(&message);
	CHECK(cmsg && cmsg->cmsg_type == SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(int));
	CHECK_EQ(write(fd, "!", 1), 1);
	CHECK_EQ(read(pipes[0], &c, 1), 1);
	check_counts(&p, COUNTS(.pass_fds = 1));
	CHECK_EQ(*p.word, SLUICE_STEER_HOLD);
	pair_free(&p);
}

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

static const struct option {
	const char *name;
	int option;
} options[] = {
	{ "passcred", SO_PASSCRED },
	{ "passsec", SO_PASSSEC },
	{ "passpidfd", SO_PASSPIDFD },
};

TAP_EACH(option, option, options)
{
	struct pair p;
	int on = 1;

	pair_new(&p, SOCK_SEQPACKET, 0);
	if (setsockopt(p.to, SOL_SOCKET, option->option, &on, sizeof(on)))
		tap_skip("this kernel has no such option: %s", strerror(errno));
	push(&p, "x", 1);
	CHECK_EQ(*p.word, SLUICE_STEER_HOLD);
	check_queued(&p, "x", 1);
	on = 0;
	CHECK_SYS(
		setsockopt(p.to, SOL_SOCKET, option->option, &on, sizeof(on)));
	*p.word = SLUICE_STEER_GRANTED;
	push(&p, "yy", 2);
	CHECK_EQ(pop(&p).len, 2);
	check_counts(&p, COUNTS(.pass_options = 1, .grants_taken = 1,
				.steered_inline = 1));
	pair_free(&p);
}

/* DGRAM, since a SEQPACKET sender does not even get as far as the program. */
TAP_TEST(shut_down)
{
	struct pair p;

	pair_new(&p, SOCK_DGRAM, 0);
	CHECK_SYS(shutdown(p.to, SHUT_RD));
	CHECK_EQ(send(p.from, "x", 1, MSG_NOSIGNAL), -1);
	CHECK_EQ(errno, EPIPE);
	CHECK_EQ(p.ring->header->tail, 0);
	check_counts(&p, COUNTS(.pass_shutdown = 1));
	pair_free(&p);
}

/* DGRAM between a pair that nobody else can reach. */
TAP_TEST(dgram_pair)
{
	struct pair p;

	pair_new(&p, SOCK_DGRAM, 0);
	push(&p, "x", 1);
	CHECK_EQ(pop(&p).len, 1);
	check_nothing_queued(&p);
	check_counts(&p, COUNTS(.steered_inline = 1));
	pair_free(&p);
}

static void bind_to(int sock, const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	strcpy(name.sun_path, path);
	CHECK_SYS(bind(sock, (void *)&name, sizeof(name)));
}

static void connect_to(int sock, const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	strcpy(name.sun_path, path);
	CHECK_SYS(connect(sock, (void *)&name, sizeof(name)));
}

/* A DGRAM socket with a name hears others, too: all goes to the queue. */
TAP_TEST(dgram_named)
{
	struct steer_conn_entry entry = { .conn = CONN };
	struct pair p;
	int from, to;

	pair_new(&p, SOCK_DGRAM, 0);
	from = CHECK_SYS(socket(AF_UNIX, SOCK_DGRAM, 0));
	to = CHECK_SYS(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	bind_to(from, "from");
	bind_to(to, "to");
	connect_to(from, "to");
	steer_rig_attach(&p.rig, to, &entry);
	close(p.to);
	p.to = to;
	CHECK_EQ(send(from, "one", 3, 0), 3); /* not connected mutually */
	check_queued(&p, "one", 3);
	connect_to(to, "from");
	*p.word = SLUICE_STEER_ON;
	CHECK_EQ(send(from, "two", 3, 0), 3);
	check_queued(&p, "two", 3);
	check_counts(&p, COUNTS(.pass_peer = 2));
	unlink("from");
	unlink("to");
	close(from);
	pair_free(&p);
}

/* Doorbell -------------------------------------------------------------------- */

TAP_TEST(doorbell)
{
	struct pollfd pollfd = { .events = POLLIN };
	struct pair p;

	pair_new(&p, SOCK_SEQPACKET, 0);
	pollfd.fd = p.ring->bell_fd;
	push(&p, "awake", 5);
	CHECK_EQ(poll(&pollfd, 1, 50), 0);
	p.ring->control->asleep = 1;
	push(&p, "asleep", 6);
	CHECK_EQ(p.ring->control->asleep, 0);
	CHECK_EQ(poll(&pollfd, 1, 5000), 1);
	push(&p, "awake again", 11);
	CHECK_EQ(steer_bell_drain(p.ring), 1);
	CHECK_EQ(poll(&pollfd, 1, 0), 0);
	check_counts(&p, COUNTS(.steered_inline = 3, .doorbells = 1));
	pair_free(&p);
}

/* Hash ------------------------------------------------------------------------ */

TAP_TEST(hash_chooses_ring)
{
	struct sluice_control_create three = geometry;
	struct steer_conn_entry entry = { .conn = CONN,
					  .hash_first = 1,
					  .hash_count = 3 };
	struct steer_rig rig;
	struct sluice_slot slot;
	uint32_t ring, hits[4] = { 0 }, i;
	uint64_t key;
	int socks[2];

	three.rings = 4;
	three.ring_slots = 256;
	steer_rig_new(&rig, &three);
	CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	steer_rig_attach(&rig, socks[1], &entry);
	*steer_word(&rig.rings[0], CONN) = SLUICE_STEER_ON;
	CHECK_EQ(send(socks[0], "short", 5, 0), 5);
	CHECK(steer_take(&rig.rings[0], &slot));
	for (i = 0; i < 100; i++) {
		key = tap_random();
		ring = 1 + (uint32_t)((key * STEER_HASH_FACTOR) >> 32) % 3;
		memcpy(data, &key, sizeof(key));
		tap_fill(data + 8, 92, i);
		CHECK_EQ(send(socks[0], data, i < 50 ? 8 : 100, 0),
			 i < 50 ? 8 : 100);
		CHECK(steer_take(&rig.rings[ring], &slot));
		CHECK_EQ(slot.conn, CONN);
		CHECK_MEM(steer_payload(&rig.rings[ring], &slot), data,
			  slot.len);
		steer_release(&rig.rings[ring], &slot);
		hits[ring]++;
	}
	for (i = 1; i < 4; i++)
		CHECK_GT(hits[i], 10);
	close(socks[0]);
	close(socks[1]);
	steer_rig_free(&rig);
}

/* Frozen -------------------------------------------------------------------- */

TAP_TEST(frozen_maps)
{
	uint8_t line[64] = { 0 };
	struct pair p;
	uint32_t zero = 0;
	int fds[2], i;

	pair_new(&p, SOCK_SEQPACKET, 0);
	fds[0] = p.ring->ring_fd;
	fds[1] = p.ring->landing_fd;
	for (i = 0; i < 2; i++) {
		CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
			   fds[i], 0) == MAP_FAILED);
		CHECK_EQ(errno, EPERM);
		CHECK_EQ(bpf_map_update_elem(fds[i], &zero, data, BPF_ANY),
			 -EPERM);
	}
	CHECK_EQ(mprotect((void *)p.ring->header, 4096, PROT_READ | PROT_WRITE),
		 -1);
	CHECK_EQ(mprotect((void *)p.ring->landing, 4096,
			  PROT_READ | PROT_WRITE),
		 -1);
	CHECK_OK(bpf_map_lookup_elem(p.ring->ring_fd, &zero, line));
	push(&p, "x", 1);
	CHECK_EQ(pop(&p).len, 1);
	pair_free(&p);
}
