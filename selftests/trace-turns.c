/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Probes that are turned on and off at any moment: the inlines are led into the
 * library and back, and no message or buffer notices. The semaphores are found as
 * tracers find them, in the notes of this program, and raised as the kernel would.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ends.h"

#define PROBES_MAX 16

struct probe {
	const char *name;
	volatile unsigned short *semaphore;
};

static struct probe probes[PROBES_MAX];
static size_t probe_count;

static int get_bias(struct dl_phdr_info *info, size_t size, void *bias)
{
	(void)size;
	*(uintptr_t *)bias = info->dlpi_addr; /* the program comes first */
	return 1;
}

/* Description of a note: three addresses, provider, name, arguments. */
static void add_probe(const char *note, uintptr_t bias)
{
	const char *provider = note + 3 * sizeof(uint64_t);
	const char *name = provider + strlen(provider) + 1;
	uint64_t addresses[3];
	size_t i;

	memcpy(addresses, note, sizeof(addresses));
	for (i = 0; i < probe_count && strcmp(probes[i].name, name); i++)
		;
	if (i < probe_count || strcmp(provider, "sluice"))
		return;
	CHECK(addresses[2] && probe_count < PROBES_MAX);
	probes[probe_count++] = (struct probe){
		.name = name,
		.semaphore = (void *)(bias + addresses[2]),
	};
}

static void find_probes(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	const ElfW(Ehdr) * elf;
	const ElfW(Shdr) * sections, *s;
	const char *file, *names, *at;
	uintptr_t bias = 0;
	struct stat stat;

	CHECK_SYS(fd);
	CHECK_SYS(fstat(fd, &stat));
	file = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(file != MAP_FAILED);
	close(fd);
	dl_iterate_phdr(get_bias, &bias);
	elf = (const void *)file;
	sections = (const void *)(file + elf->e_shoff);
	names = file + sections[elf->e_shstrndx].sh_offset;
	for (s = sections; s < sections + elf->e_shnum; s++) {
		if (strcmp(names + s->sh_name, ".note.stapsdt"))
			continue;
		at = file + s->sh_offset;
		while (at < file + s->sh_offset + s->sh_size) {
			const ElfW(Nhdr) *note = (const void *)at;

			at += sizeof(*note) + ((note->n_namesz + 3) & ~3u);
			add_probe(at, bias);
			at += (note->n_descsz + 3) & ~3u;
		}
	}
	CHECK(probe_count >= 10);
}

static volatile unsigned short *semaphore(const char *name)
{
	size_t i;

	for (i = 0; i < probe_count && strcmp(probes[i].name, name); i++)
		;
	CHECK(i < probe_count);
	return probes[i].semaphore;
}

static void raise_all(unsigned short value)
{
	for (size_t i = 0; i < probe_count; i++)
		*probes[i].semaphore = value;
}

static bool is_open(const struct sluice_conn *conn)
{
	return conn->tx_ring && conn->rx_ring && conn->releases && conn->pool;
}

static bool is_closed(const struct sluice_conn *conn)
{
	return !conn->tx_ring && !conn->rx_ring && !conn->releases &&
	       !conn->pool;
}

static void expect(struct sluice_conn *from, struct sluice_conn *to,
		   uint64_t tag)
{
	struct sluice_msg msg;

	CHECK_OK(sluice_send(from, &tag, sizeof(tag), tag, 0));
	CHECK_EQ(sluice_recv(to, &msg), 1);
	CHECK_EQ(msg.tag, tag);
}

/* Neither side sleeps, so that only the way round the ring leads to the library. */
TAP_TEST(noticed_within_a_ring)
{
	struct sluice_options options =
		ENDS_OPTIONS(.spin_ns = SLUICE_SPIN_FOREVER, .ring_slots = 64);
	struct sluice_conn *conn[2];
	struct sluice_msg msg;
	uint64_t tag;
	int i;

	find_probes();
	ends_pair(conn, &options, &options);
	for (tag = 0; tag < 100; tag++)
		expect(conn[0], conn[1], tag);
	CHECK(conn[0]->tx_ring && conn[1]->rx_ring);
	raise_all(1);
	for (tag = 0; tag < 64; tag++)
		expect(conn[0], conn[1], tag);
	CHECK(is_closed(conn[0]) && !conn[1]->rx_ring);
	CHECK_EQ(sluice_recv(conn[1], &msg), -EAGAIN);
	CHECK(is_closed(conn[1]));
	/* Each call is the library's now. */
	raise_all(0);
	expect(conn[0], conn[1], 1);
	expect(conn[1], conn[0], 1);
	for (i = 0; i < 2; i++)
		CHECK(is_open(conn[i]));
	sluice_conn_close(conn[0]);
	sluice_conn_close(conn[1]);
}

/* Each keeps its own: who listens to wake-ups only slows no message down. */
TAP_TEST(each_probe_its_own_way)
{
	struct sluice_conn *conn[2];

	find_probes();
	ends_pair(conn, NULL, NULL);
	expect(conn[0], conn[1], 0);
	expect(conn[1], conn[0], 0);
	raise_all(1);
	*semaphore("send") = *semaphore("recv") = 0;
	*semaphore("release") = *semaphore("loan") = 0;
	expect(conn[0], conn[1], 1);
	expect(conn[1], conn[0], 1);
	CHECK(is_open(conn[0]) && is_open(conn[1]));
	*semaphore("send") = 1;
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK(!conn[0]->tx_ring && conn[0]->rx_ring && conn[0]->releases &&
	      conn[0]->pool);
	*semaphore("release") = 1;
	CHECK_EQ(sluice_wait(conn[0], SLUICE_RECV, 0), -ETIMEDOUT);
	CHECK(!conn[0]->tx_ring && conn[0]->rx_ring && !conn[0]->releases &&
	      conn[0]->pool);
	sluice_conn_close(conn[0]);
	sluice_conn_close(conn[1]);
}

/* What ends a way ends it for good, whoever listens. */
TAP_TEST(an_end_stays_an_end)
{
	struct sluice_conn *conn[2];
	struct sluice_msg msg;

	find_probes();
	ends_pair(conn, NULL, NULL);
	expect(conn[0], conn[1], 0);
	raise_all(1);
	expect(conn[0], conn[1], 1);
	CHECK_OK(sluice_send(conn[0], "x", 1, 2, 0));
	CHECK_OK(sluice_conn_shutdown(conn[0]));
	raise_all(0);
	CHECK_EQ(sluice_send(conn[0], "x", 1, 3, 0), -EPIPE);
	CHECK(!conn[0]->tx_ring);
	CHECK_EQ(sluice_recv(conn[1], &msg), 1);
	CHECK_EQ(msg.tag, 2);
	ends_expect_eof(conn[1]);
	CHECK(!conn[1]->rx_ring);
	sluice_conn_close(conn[0]);
	sluice_conn_close(conn[1]);
}

#define HELD_MAX 8

struct half {
	uint64_t sent, received;
	struct sluice_msg held[HELD_MAX];
	unsigned int held_count;
};

static void send_some(struct sluice_conn *conn, struct half *half)
{
	size_t len = tap_random() % 2 ? 8 : 1000;
	struct sluice_buf *buf;
	int r;

	if (len == 8) {
		r = sluice_send(conn, &half->sent, 8, half->sent, 0);
	} else {
		r = sluice_loan(conn, len, &buf);
		if (!r) {
			memcpy(buf->data, &half->sent, 8);
			r = sluice_send_buf(conn, buf, (uint32_t)len,
					    half->sent, 0);
			if (r)
				sluice_buf_unref(buf);
		}
	}
	half->sent += !r;
	CHECK(!r || r == -EAGAIN);
}

static void release_one(struct sluice_conn *conn, struct half *half)
{
	unsigned int i;

	if (!half->held_count)
		return;
	i = (unsigned int)(tap_random() % half->held_count);
	CHECK_OK(sluice_release(conn, &half->held[i]));
	half->held[i] = half->held[--half->held_count];
}

static void receive_some(struct sluice_conn *conn, struct half *half)
{
	struct sluice_msg msg;
	int r = sluice_recv(conn, &msg);

	CHECK(r == 1 || r == -EAGAIN);
	if (r != 1)
		return;
	CHECK_EQ(msg.tag, half->received);
	CHECK_MEM(sluice_msg_data(&msg), &half->received, 8);
	half->received++;
	if (half->held_count == HELD_MAX)
		release_one(conn, half);
	half->held[half->held_count++] = msg;
}

static const struct first {
	const char *name;
	uint32_t lane;
} first_lanes[] = {
	{ "queued", SLUICE_LANE_QUEUED },
	{ "direct", SLUICE_LANE_DIRECT },
};

TAP_EACH(at_any_moment, first, first_lanes)
{
	struct sluice_options options = ENDS_OPTIONS(.ring_slots = 16);
	struct half halves[2] = { 0 };
	struct sluice_pool_info pool;
	struct sluice_conn *conn[2];
	size_t turn, i;

	find_probes();
	ends_pair(conn, &options, &options);
	for (i = 0; i < 2; i++)
		CHECK_OK(sluice_conn_set_lane(conn[i], first->lane));
	for (turn = 0; turn < 60000; turn++) {
		i = tap_random() % 2;
		switch (tap_random() % 64) {
		case 0:
			*probes[tap_random() % probe_count].semaphore ^= 1;
			break;
		case 1:
			sluice_conn_set_lane(
				conn[i], tap_random() % 2 ? SLUICE_LANE_QUEUED :
							    SLUICE_LANE_DIRECT);
			break;
		case 2 ... 20:
			release_one(conn[i], &halves[i]);
			break;
		case 21 ... 42:
			send_some(conn[i], &halves[i]);
			break;
		default:
			receive_some(conn[i], &halves[i]);
		}
	}
	for (i = 0; i < 2; i++) {
		while (halves[i].received != halves[!i].sent)
			receive_some(conn[i], &halves[i]);
		while (halves[i].held_count)
			release_one(conn[i], &halves[i]);
		CHECK(halves[i].sent > 100);
	}
	for (i = 0; i < 2; i++)
		CHECK_EQ(sluice_wait(conn[i], SLUICE_RECV, 0), -ETIMEDOUT);
	for (i = 0; i < 2; i++) {
		sluice_pool_trim(sluice_conn_pool(conn[i]));
		sluice_pool_info(sluice_conn_pool(conn[i]), &pool);
		CHECK_EQ(pool.buffers_used, 0);
	}
	sluice_conn_close(conn[0]);
	sluice_conn_close(conn[1]);
}
