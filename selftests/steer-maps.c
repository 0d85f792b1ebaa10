/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "steer-maps.h"
#include "steer.skel.h"
#include "tap.h"

#define PAGE 4096
#define LINE 64

/* Maps -------------------------------------------------------------------- */

static size_t page_align(size_t bytes)
{
	return (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static uint32_t landing_slots(const struct sluice_control_create *geometry)
{
	return geometry->landing[0] * 16 + geometry->landing[1] +
	       geometry->landing[2];
}

static uint32_t landing_blocks(const struct sluice_control_create *geometry)
{
	return geometry->landing[0] + geometry->landing[1] +
	       geometry->landing[2] * 16;
}

static uint32_t ring_lines(const struct sluice_control_create *geometry)
{
	return SLUICE_MAP_HEADER / LINE + geometry->ring_slots;
}

static uint32_t control_lines(const struct sluice_control_create *geometry)
{
	return SLUICE_MAP_HEADER / LINE + geometry->conns +
	       (landing_slots(geometry) + 15) / 16;
}

static int array_new(const char *name, uint32_t bytes, uint32_t count)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts,
		    .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);

	return CHECK_OK(bpf_map_create(BPF_MAP_TYPE_ARRAY, name, 4, bytes,
				       count ? count : 1, &opts));
}

static void *map(int fd, size_t bytes, int prot)
{
	void *base = mmap(NULL, page_align(bytes), prot, MAP_SHARED, fd, 0);

	if (base == MAP_FAILED)
		TAP_FAIL("mmap: %s", strerror(errno));
	return base;
}

/* The header and the first seq of each slot, then nobody writes but BPF. */
static void ring_fill(struct steer_ring *ring)
{
	const struct sluice_control_create *geometry = &ring->geometry;
	size_t bytes = (size_t)ring_lines(geometry) * LINE;
	struct sluice_steer_ring *header =
		map(ring->ring_fd, bytes, PROT_READ | PROT_WRITE);
	struct sluice_slot *slots = (void *)header + SLUICE_MAP_HEADER;
	uint32_t i;

	header->magic = SLUICE_STEER_MAGIC;
	header->version = SLUICE_STEER_VERSION;
	header->ring_slots = geometry->ring_slots;
	header->conns = geometry->conns;
	memcpy(header->landing, geometry->landing, sizeof(header->landing));
	for (i = 0; i < geometry->ring_slots; i++)
		slots[i].seq = i + 1 - geometry->ring_slots;
	CHECK_SYS(munmap(header, page_align(bytes)));
	CHECK_OK(bpf_map_freeze(ring->ring_fd));
	CHECK_OK(bpf_map_freeze(ring->landing_fd));
}

static void ring_new(struct steer_ring *ring,
		     const struct sluice_control_create *geometry)
{
	ring->geometry = *geometry;
	ring->landing_slots = landing_slots(geometry);
	ring->ring_fd = array_new("ring", LINE, ring_lines(geometry));
	ring->landing_fd = array_new("landing", SLUICE_LANDING_BLOCK,
				     landing_blocks(geometry));
	ring->control_fd = array_new("control", LINE, control_lines(geometry));
	ring->bell_fd = CHECK_OK(bpf_map_create(BPF_MAP_TYPE_RINGBUF, "bell", 0,
						0, STEER_DOORBELL_BYTES, NULL));
	ring_fill(ring);
	ring->header = map(ring->ring_fd, (size_t)ring_lines(geometry) * LINE,
			   PROT_READ);
	ring->slots = (const void *)ring->header + SLUICE_MAP_HEADER;
	if (ring->landing_slots)
		ring->landing = map(ring->landing_fd,
				    (size_t)landing_blocks(geometry) *
					    SLUICE_LANDING_BLOCK,
				    PROT_READ);
	ring->control = map(ring->control_fd,
			    (size_t)control_lines(geometry) * LINE,
			    PROT_READ | PROT_WRITE);
	ring->conns = (void *)ring->control + SLUICE_MAP_HEADER;
	ring->states = (void *)(ring->conns + geometry->conns);
	ring->bell_taken = map(ring->bell_fd, PAGE, PROT_READ | PROT_WRITE);
	ring->bell_rung =
		mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ring->bell_fd, PAGE);
	CHECK(ring->bell_rung != MAP_FAILED);
}

static void ring_free(struct steer_ring *ring)
{
	const struct sluice_control_create *geometry = &ring->geometry;

	munmap((void *)ring->header,
	       page_align((size_t)ring_lines(geometry) * LINE));
	munmap(ring->control,
	       page_align((size_t)control_lines(geometry) * LINE));
	munmap((void *)ring->bell_taken, PAGE);
	munmap((void *)ring->bell_rung, PAGE);
	if (ring->landing)
		munmap((void *)ring->landing,
		       (size_t)landing_blocks(geometry) * SLUICE_LANDING_BLOCK);
	close(ring->ring_fd);
	close(ring->landing_fd);
	close(ring->control_fd);
	close(ring->bell_fd);
}

/* The rig ----------------------------------------------------------------- */

static int silent(enum libbpf_print_level level, const char *format,
		  va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

static void set_outer(const struct bpf_map *map, uint32_t number, int fd)
{
	CHECK_OK(bpf_map_update_elem(bpf_map__fd(map), &number, &fd, BPF_ANY));
}

void steer_rig_new(struct steer_rig *rig,
		   const struct sluice_control_create *geometry)
{
	struct steer_bpf *skel;
	uint32_t i;
	int ret;

	memset(rig, 0, sizeof(*rig));
	if (geteuid())
		tap_skip("loading BPF programs needs root");
	libbpf_set_print(silent);
	skel = steer_bpf__open();
	if (!skel)
		TAP_FAIL("the skeleton does not open: %s", strerror(errno));
	bpf_map__set_max_entries(skel->maps.conns, 4096);
	ret = steer_bpf__load(skel);
	if (ret == -EPERM || ret == -ENOSYS)
		tap_skip("BPF programs cannot be loaded here: %s",
			 strerror(-ret));
	CHECK_OK(ret);
	rig->skel = skel;
	rig->prog_fd = bpf_program__fd(skel->progs.steer);
	rig->conns_fd = bpf_map__fd(skel->maps.conns);
	rig->ring_count = geometry->rings;
	CHECK_LE(rig->ring_count, STEER_RIG_RINGS);
	for (i = 0; i < rig->ring_count; i++) {
		ring_new(&rig->rings[i], geometry);
		set_outer(skel->maps.rings, i, rig->rings[i].ring_fd);
		set_outer(skel->maps.landings, i, rig->rings[i].landing_fd);
		set_outer(skel->maps.controls, i, rig->rings[i].control_fd);
		set_outer(skel->maps.doorbells, i, rig->rings[i].bell_fd);
	}
}

void steer_rig_free(struct steer_rig *rig)
{
	uint32_t i;

	for (i = 0; i < rig->ring_count; i++)
		ring_free(&rig->rings[i]);
	steer_bpf__destroy(rig->skel);
}

static uint64_t cookie_of(int sock)
{
	socklen_t len = sizeof(uint64_t);
	uint64_t cookie;

	CHECK_SYS(getsockopt(sock, SOL_SOCKET, SO_COOKIE, &cookie, &len));
	return cookie;
}

void steer_rig_attach(struct steer_rig *rig, int sock,
		      const struct steer_conn_entry *entry)
{
	struct steer_conn_entry filled = *entry;
	socklen_t len = sizeof(filled.type);
	uint64_t cookie = cookie_of(sock);

	CHECK_SYS(getsockopt(sock, SOL_SOCKET, SO_TYPE, &filled.type, &len));
	/* Before 6.9 a socket has no room for another beside the last one. */
	if (setsockopt(sock, SOL_SOCKET, SO_DETACH_FILTER, &len, sizeof(len)))
		CHECK_EQ(errno, ENOENT);
	CHECK_OK(bpf_map_update_elem(rig->conns_fd, &cookie, &filled,
				     BPF_NOEXIST));
	CHECK_SYS(setsockopt(sock, SOL_SOCKET, SO_ATTACH_BPF, &rig->prog_fd,
			     sizeof(rig->prog_fd)));
}

void steer_rig_detach(struct steer_rig *rig, int sock)
{
	uint64_t cookie = cookie_of(sock);

	CHECK_OK(bpf_map_delete_elem(rig->conns_fd, &cookie));
}

void steer_rig_entry(struct steer_rig *rig, int sock,
		     struct steer_conn_entry *entry)
{
	uint64_t cookie = cookie_of(sock);

	CHECK_OK(bpf_map_lookup_elem(rig->conns_fd, &cookie, entry));
}

void steer_rig_counters(struct steer_rig *rig, struct steer_counters *sum)
{
	const size_t count = sizeof(*sum) / sizeof(uint64_t);
	int cpus = libbpf_num_possible_cpus(), cpu;
	uint64_t *total = (uint64_t *)sum, *each;
	uint32_t zero = 0;
	size_t i;

	CHECK_GT(cpus, 0);
	each = calloc(cpus, sizeof(*sum));
	CHECK(each);
	CHECK_OK(bpf_map_lookup_elem(bpf_map__fd(rig->skel->maps.counters),
				     &zero, each));
	memset(sum, 0, sizeof(*sum));
	for (cpu = 0; cpu < cpus; cpu++)
		for (i = 0; i < count; i++)
			total[i] += each[cpu * count + i];
	free(each);
}

/* The receiver ------------------------------------------------------------ */

uint32_t *steer_word(struct steer_ring *ring, uint32_t conn)
{
	return &ring->conns[conn & (ring->geometry.conns - 1)].word;
}

bool steer_take(struct steer_ring *ring, struct sluice_slot *slot)
{
	const struct sluice_slot *at =
		&ring->slots[ring->next & (ring->geometry.ring_slots - 1)];

	if (__atomic_load_n(&at->seq, __ATOMIC_ACQUIRE) != ring->next + 1)
		return false;
	*slot = *at;
	ring->next++;
	__atomic_store_n(&ring->control->head, ring->next, __ATOMIC_RELEASE);
	return true;
}

const void *steer_payload(struct steer_ring *ring,
			  const struct sluice_slot *slot)
{
	uint32_t small = ring->geometry.landing[0] * 16, medium, id;
	uint64_t block;

	CHECK_EQ(slot->segment, 0);
	CHECK_EQ(slot->tag, 0);
	if (slot->kind == SLUICE_SLOT_INLINE) {
		CHECK_LE(slot->len, SLUICE_INLINE_MAX);
		CHECK_EQ(slot->offset, 0);
		return slot->inline_data;
	}
	CHECK_EQ(slot->kind, SLUICE_SLOT_LANDING);
	id = slot->buffer.id;
	CHECK_LT(id, ring->landing_slots);
	CHECK_EQ(ring->states[id], SLUICE_LANDING_USED);
	medium = ring->geometry.landing[1];
	if (id < small) {
		CHECK_LE(slot->len, SLUICE_LANDING_SMALL);
		CHECK_EQ(slot->offset, (uint64_t)id * SLUICE_LANDING_SMALL);
		return ring->landing + slot->offset;
	}
	block = ring->geometry.landing[0];
	if (id < small + medium) {
		CHECK_LE(slot->len, SLUICE_LANDING_BLOCK);
		block += id - small;
	} else {
		CHECK_LE(slot->len, SLUICE_LANDING_LARGE);
		block += medium + (uint64_t)(id - small - medium) * 16;
	}
	CHECK_EQ(slot->offset, block * SLUICE_LANDING_BLOCK);
	return ring->landing + slot->offset;
}

void steer_release(struct steer_ring *ring, const struct sluice_slot *slot)
{
	if (slot->kind == SLUICE_SLOT_LANDING)
		__atomic_store_n(&ring->states[slot->buffer.id],
				 SLUICE_LANDING_FREE, __ATOMIC_RELEASE);
}

uint32_t steer_bell_drain(struct steer_ring *ring)
{
	uint64_t rung = __atomic_load_n(ring->bell_rung, __ATOMIC_ACQUIRE);
	uint32_t count =
		(rung - *ring->bell_taken) / 16; /* header and record */

	__atomic_store_n(ring->bell_taken, rung, __ATOMIC_RELEASE);
	return count;
}
