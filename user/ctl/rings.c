/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What the rings of an endpoint say by themselves, whatever is counted elsewhere. */
#include "status.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>

/* A map of the ring's, mapped read-only; NULL: it is gone. */
static const void *map_ring_map(int outer, __u32 ring, size_t *size)
{
	struct bpf_map_info info = { 0 };
	__u32 id, len = sizeof(info);
	void *memory = MAP_FAILED;
	int fd;

	if (bpf_map_lookup_elem(outer, &ring, &id))
		return NULL;
	fd = bpf_map_get_fd_by_id(id);
	if (fd < 0)
		return NULL;
	if (!bpf_obj_get_info_by_fd(fd, &info, &len)) {
		*size = (size_t)info.max_entries * info.value_size;
		memory = mmap(NULL, *size, PROT_READ, MAP_SHARED, fd, 0);
	}
	close(fd);
	return memory == MAP_FAILED ? NULL : memory;
}

static __u32 load(const __u32 *from)
{
	return __atomic_load_n(from, __ATOMIC_RELAXED);
}

/* Landing slots that are not free. The endpoint's owner can write anything here. */
static __u32 count_held(const void *control, size_t size,
			const struct sluice_control_record *r)
{
	const __u64 slots =
		(__u64)r->landing[0] * 16 + r->landing[1] + r->landing[2];
	const __u64 at =
		SLUICE_MAP_HEADER +
		(__u64)r->conn_limit * sizeof(struct sluice_steer_conn);
	const __u32 *states = (const void *)((const char *)control + at);
	__u32 held = 0;

	if (at + slots * sizeof(*states) > size)
		return 0;
	for (__u64 i = 0; i < slots; i++)
		held += load(&states[i]) != SLUICE_LANDING_FREE;
	return held;
}

static void add_ring(int rings, int controls, __u32 number,
		     const struct sluice_control_record *r,
		     struct ring_sums *sums)
{
	const struct sluice_steer_control *control;
	const struct sluice_steer_ring *ring;
	size_t ring_size, control_size;
	__u32 tail, head;

	ring = map_ring_map(rings, number, &ring_size);
	control = map_ring_map(controls, number, &control_size);
	if (ring && control) {
		/* In this order: the head is not behind what was published. */
		tail = load(&ring->tail);
		head = load(&control->head);
		sums->published += tail;
		if ((__s32)(tail - head) > 0)
			sums->unread += tail - head;
		sums->asleep += load(&control->asleep) != 0;
		sums->held += count_held(control, control_size, r);
	}
	if (ring)
		munmap((void *)(uintptr_t)ring, ring_size);
	if (control)
		munmap((void *)(uintptr_t)control, control_size);
}

int rings_sum(const char *pins, const struct sluice_control_record *record,
	      struct ring_sums *sums)
{
	const int rings = pins_map(pins, "rings");
	const int controls = pins_map(pins, "controls");
	const int ret = rings < 0 ? rings : controls < 0 ? controls : 0;

	*sums = (struct ring_sums){ 0 };
	for (__u32 i = 0; !ret && i < record->rings; i++)
		add_ring(rings, controls, record->ring_first + i, record, sums);
	if (rings >= 0)
		close(rings);
	if (controls >= 0)
		close(controls);
	return ret;
}
