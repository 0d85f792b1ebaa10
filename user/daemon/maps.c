/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The maps of endpoints; maps.h says what is here. */
#include "maps.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <steer.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"

#define LINE 64 /* bytes of an element of ring and control maps */
#define HEADER_LINES (SLUICE_MAP_HEADER / LINE)
#define STATES_PER_LINE (LINE / sizeof(__u32))
#define SMALL_PER_BLOCK (SLUICE_LANDING_BLOCK / SLUICE_LANDING_SMALL)
#define BLOCKS_PER_LARGE (SLUICE_LANDING_LARGE / SLUICE_LANDING_BLOCK)
#define PAGE 4096ull
#define ENOTSUPP 524 /* what the kernel says, though it is no error of uAPI */

/* Geometry ---------------------------------------------------------------- */

static bool power_between(__u32 n, __u32 min, __u32 max)
{
	return n >= min && n <= max && !(n & (n - 1));
}

static __u64 landing_slots(const struct geometry *geometry)
{
	return (__u64)geometry->landing[0] * SMALL_PER_BLOCK +
	       geometry->landing[1] + geometry->landing[2];
}

bool geometry_valid(const struct geometry *geometry)
{
	return geometry->rings >= 1 && geometry->rings <= SLUICE_RINGS_MAX &&
	       power_between(geometry->ring_slots, SLUICE_RING_SLOTS_MIN,
			     SLUICE_RING_SLOTS_MAX) &&
	       power_between(geometry->conns, 16, SLUICE_CONNS_MAX) &&
	       landing_slots(geometry) <= SLUICE_LANDING_SLOTS_MAX;
}

static __u32 ring_lines(const struct geometry *geometry)
{
	return HEADER_LINES + geometry->ring_slots;
}

static __u32 control_lines(const struct geometry *geometry)
{
	return HEADER_LINES + geometry->conns +
	       (__u32)((landing_slots(geometry) + STATES_PER_LINE - 1) /
		       STATES_PER_LINE);
}

/* An array has at least one element. */
static __u32 landing_blocks(const struct geometry *geometry)
{
	__u32 blocks = geometry->landing[0] + geometry->landing[1] +
		       geometry->landing[2] * BLOCKS_PER_LARGE;

	return blocks ? blocks : 1;
}

static __u64 pages(__u64 bytes)
{
	return (bytes + PAGE - 1) & ~(PAGE - 1);
}

__u64 geometry_bytes(const struct geometry *geometry)
{
	return geometry->rings *
	       (pages((__u64)ring_lines(geometry) * LINE) +
		pages((__u64)control_lines(geometry) * LINE) +
		(__u64)landing_blocks(geometry) * SLUICE_LANDING_BLOCK +
		STEER_DOORBELL_BYTES);
}

/* Making ------------------------------------------------------------------ */

static int create_array(const char *name, __u32 value_size, __u32 count)
{
	LIBBPF_OPTS(bpf_map_create_opts, options,
		    .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, name, sizeof(__u32),
				value_size, count, &options);

	return fd < 0 ? -errno : fd;
}

static int create_doorbell(void)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "doorbell", 0, 0,
				STEER_DOORBELL_BYTES, NULL);

	return fd < 0 ? -errno : fd;
}

/* Nobody else has the map yet: plain stores do. */
static int write_ring(int fd, const struct identity *identity, __u32 index)
{
	const struct geometry *geometry = &identity->geometry;
	size_t size = pages((__u64)ring_lines(geometry) * LINE);
	struct sluice_steer_ring *header;
	struct sluice_slot *slots;

	header = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (header == MAP_FAILED)
		return -errno;
	header->magic = SLUICE_STEER_MAGIC;
	header->version = SLUICE_STEER_VERSION;
	header->ring_slots = geometry->ring_slots;
	header->conns = geometry->conns;
	memcpy(header->landing, geometry->landing, sizeof(header->landing));
	header->uid = identity->uid;
	header->endpoint = identity->number;
	header->created = identity->created;
	header->index = (__u16)index;
	header->rings = (__u16)geometry->rings;
	slots = (void *)((char *)header + SLUICE_MAP_HEADER);
	for (__u32 i = 0; i < geometry->ring_slots; i++)
		slots[i].seq = i + 1 - geometry->ring_slots;
	munmap(header, size);
	return 0;
}

static int create_ring(const struct identity *identity, __u32 index,
		       int fds[MAPS_PER_RING])
{
	const struct geometry *geometry = &identity->geometry;
	int r;

	fds[MAP_RING] = create_array("ring", LINE, ring_lines(geometry));
	fds[MAP_LANDING] = create_array("landing", SLUICE_LANDING_BLOCK,
					landing_blocks(geometry));
	fds[MAP_CONTROL] =
		create_array("control", LINE, control_lines(geometry));
	fds[MAP_DOORBELL] = create_doorbell();
	for (int i = 0; i < MAPS_PER_RING; i++) {
		if (fds[i] < 0)
			return fds[i];
	}
	r = write_ring(fds[MAP_RING], identity, index);
	if (r)
		return r;
	/* From here on user space can neither write nor map them for writing. */
	if (bpf_map_freeze(fds[MAP_RING]) || bpf_map_freeze(fds[MAP_LANDING]))
		return -errno;
	return 0;
}

static int map_id(int fd, __u32 *id)
{
	struct bpf_map_info info = { 0 };
	__u32 len = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -errno;
	*id = info.id;
	return 0;
}

static int outer(const struct programs *programs, int which)
{
	const int fds[MAPS_PER_RING] = {
		[MAP_RING] = programs->rings,
		[MAP_LANDING] = programs->landings,
		[MAP_CONTROL] = programs->controls,
		[MAP_DOORBELL] = programs->doorbells,
	};

	return fds[which];
}

/*
 * One kind of map of all rings at once: since 6.8 that is one wait for RCU. Where
 * maps of maps have no batches, one after the other.
 */
static int publish(int outer_fd, const struct identity *identity,
		   const int *fds)
{
	LIBBPF_OPTS(bpf_map_batch_opts, options);
	__u32 keys[SLUICE_RINGS_MAX], values[SLUICE_RINGS_MAX];
	__u32 count = identity->geometry.rings;

	for (__u32 i = 0; i < count; i++) {
		keys[i] = identity->ring_first + i;
		values[i] = (__u32)fds[i * MAPS_PER_RING];
	}
	if (!bpf_map_update_batch(outer_fd, keys, values, &count, &options))
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOTSUPP)
		return -errno;
	for (__u32 i = 0; i < identity->geometry.rings; i++) {
		if (bpf_map_update_elem(outer_fd, &keys[i], &values[i], 0))
			return -errno;
	}
	return 0;
}

int maps_create(const struct programs *programs,
		const struct identity *identity, int fds[MAP_FDS_MAX],
		__u32 *ring_id)
{
	__u32 rings = identity->geometry.rings;
	int r = 0;

	for (int i = 0; i < MAP_FDS_MAX; i++)
		fds[i] = -1;
	for (__u32 i = 0; i < rings && !r; i++)
		r = create_ring(identity, i, fds + i * MAPS_PER_RING);
	if (!r)
		r = map_id(fds[MAP_RING], ring_id);
	for (int i = 0; i < MAPS_PER_RING && !r; i++)
		r = publish(outer(programs, i), identity, fds + i);
	if (!r)
		return 0;
	for (__u32 i = 0; i < rings; i++)
		maps_withdraw(programs, identity->ring_first + i);
	for (int i = 0; i < MAP_FDS_MAX; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	return r;
}

/* Removing ---------------------------------------------------------------- */

void maps_withdraw(const struct programs *programs, __u32 ring)
{
	for (int i = 0; i < MAPS_PER_RING; i++) {
		if (bpf_map_delete_elem(outer(programs, i), &ring) &&
		    errno != ENOENT)
			log_error("ring %u: cannot remove a map: %s", ring,
				  strerror(errno));
	}
}

void maps_destroy(const struct programs *programs,
		  const struct identity *identity, const __u64 *cookies,
		  size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (bpf_map_delete_elem(programs->conns, &cookies[i]) &&
		    errno != ENOENT)
			log_error("socket %llu: cannot remove its entry: %s",
				  cookies[i], strerror(errno));
	}
	for (__u32 i = 0; i < identity->geometry.rings; i++)
		maps_withdraw(programs, identity->ring_first + i);
}

/*
 * A change of a map of maps returns after every program that ran at the time has
 * ended. (membarrier(GLOBAL) would do, but not on kernels with nohz_full CPUs.)
 */
static int grace_outer = -1, grace_inner = -1;

int maps_grace_init(void)
{
	LIBBPF_OPTS(bpf_map_create_opts, options);

	grace_inner = bpf_map_create(BPF_MAP_TYPE_ARRAY, "grace_inner",
				     sizeof(__u32), LINE, 1, NULL);
	if (grace_inner < 0)
		return -errno;
	options.inner_map_fd = (__u32)grace_inner;
	grace_outer = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "grace",
				     sizeof(__u32), sizeof(__u32), 1, &options);
	return grace_outer < 0 ? -errno : 0;
}

int maps_grace(void)
{
	__u32 zero = 0;

	return bpf_map_update_elem(grace_outer, &zero, &grace_inner, 0) ?
		       -errno :
		       0;
}

/* Reading ----------------------------------------------------------------- */

static int read_header(int fd, struct sluice_steer_ring *header)
{
	for (__u32 i = 0; i < sizeof(*header) / LINE; i++) {
		if (bpf_map_lookup_elem(fd, &i, (char *)header + i * LINE))
			return -errno;
	}
	return 0;
}

bool maps_read_ring(const struct programs *programs, __u32 ring,
		    struct sluice_steer_ring *header, __u32 *ring_id)
{
	int fd, r;

	if (bpf_map_lookup_elem(programs->rings, &ring, ring_id))
		return false;
	fd = bpf_map_get_fd_by_id(*ring_id);
	if (fd < 0)
		return false;
	r = read_header(fd, header);
	close(fd);
	return !r;
}

bool maps_complete(const struct programs *programs, __u32 ring)
{
	__u32 id;

	for (int i = 0; i < MAPS_PER_RING; i++) {
		if (bpf_map_lookup_elem(outer(programs, i), &ring, &id))
			return false;
	}
	return true;
}

int maps_check_id(int fd, __u32 id)
{
	struct bpf_map_info info = { 0 };
	__u32 len = sizeof(info), zero = 0;
	char line[LINE];

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -EBADF;
	/* Before anything is read from it: a client's own map may hold more. */
	if (info.id != id || info.value_size != LINE)
		return -EPERM;
	/* Programs have ids, too, but they cannot be read. */
	return bpf_map_lookup_elem(fd, &zero, line) ? -EBADF : 0;
}
