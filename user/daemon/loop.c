/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Loading and attaching bpf/switch.bpf.c; loop.h. */
#include "loop.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <switch.skel.h>

/* The kernel reads the start of a switch_way as these. */
_Static_assert(offsetof(struct switch_way, iov) ==
		       offsetof(struct msghdr, msg_iov),
	       "msg_iov");
_Static_assert(offsetof(struct switch_way, control) ==
		       offsetof(struct msghdr, msg_control),
	       "msg_control");
_Static_assert(offsetof(struct switch_way, control_size) ==
		       offsetof(struct msghdr, msg_controllen),
	       "msg_controllen");
_Static_assert(offsetof(struct switch_way, flags) ==
		       offsetof(struct msghdr, msg_flags),
	       "msg_flags");
_Static_assert(sizeof(struct iovec) == 16, "an iovec is two words");

/* linux/bpf.h and linux/io_uring.h of 7.2 */
#define F_SLEEPABLE (1u << 4)
#define F_LINK (1u << 13)
#define ATTACH_STRUCT_OPS 44
#define REGISTER_MEM_REGION 34
#define MEM_REGION_USER 1

struct region_desc {
	__u64 address, size;
	__u32 flags, id;
	__u64 offset, reserved[4];
};

struct region_reg {
	__u64 desc, flags, reserved[2];
};

/* What a map of struct_ops holds: found in the kernel's BTF. */
struct layout {
	__u32 type, size; /* of the value */
	__u32 loop_step, ring_fd; /* offsets */
};

struct loop_program {
	struct switch_bpf *skeleton;
	struct switch_geometry geometry;
	struct layout layout;
};

static struct switch_geometry geometry_of(const struct io_uring_params *params)
{
	return (struct switch_geometry){
		.sq_head = params->sq_off.head,
		.sq_tail = params->sq_off.tail,
		.sq_entries = params->sq_entries,
		.cq_head = params->cq_off.head,
		.cq_tail = params->cq_off.tail,
		.cqes = params->cq_off.cqes,
		.cq_entries = params->cq_entries,
	};
}

/* Layout ------------------------------------------------------------------ */

/* The offset of a member in bytes, or -ENOENT. */
static int member(const struct btf *btf, const struct btf_type *type,
		  const char *name)
{
	for (__u32 i = 0; i < btf_vlen(type); i++) {
		const char *its =
			btf__name_by_offset(btf, btf_members(type)[i].name_off);

		if (its && !strcmp(its, name))
			return (int)btf_member_bit_offset(type, i) / 8;
	}
	return -ENOENT;
}

static int find_layout(const struct btf *btf, struct layout *layout)
{
	int value = btf__find_by_name_kind(
		btf, "bpf_struct_ops_io_uring_bpf_ops", BTF_KIND_STRUCT);
	int ops = btf__find_by_name_kind(btf, "io_uring_bpf_ops",
					 BTF_KIND_STRUCT);
	int data, step, fd;

	if (value < 0 || ops < 0)
		return -EOPNOTSUPP;
	data = member(btf, btf__type_by_id(btf, (__u32)value), "data");
	step = member(btf, btf__type_by_id(btf, (__u32)ops), "loop_step");
	fd = member(btf, btf__type_by_id(btf, (__u32)ops), "ring_fd");
	if (data < 0 || step < 0 || fd < 0)
		return -EOPNOTSUPP;
	layout->type = (__u32)value;
	layout->size = btf__type_by_id(btf, (__u32)value)->size;
	layout->loop_step = (__u32)(data + step);
	layout->ring_fd = (__u32)(data + fd);
	return 0;
}

/* Loading ----------------------------------------------------------------- */

/* Where things are in rings of this kernel: a ring tells. */
static int find_geometry(struct switch_geometry *geometry)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
			 IORING_SETUP_DEFER_TASKRUN,
		.cq_entries = RING_CQ_ENTRIES,
	};
	struct io_uring ring;
	int r = io_uring_queue_init_params(RING_ENTRIES, &ring, &params);

	if (r)
		return r;
	io_uring_queue_exit(&ring);
	*geometry = geometry_of(&params);
	return 0;
}

static int load(struct loop_program *program)
{
	struct btf *btf = btf__load_vmlinux_btf();
	struct switch_bpf *skeleton;
	int r = btf ? find_layout(btf, &program->layout) : -errno;

	btf__free(btf);
	if (!r)
		r = find_geometry(&program->geometry);
	if (r)
		return r;
	skeleton = program->skeleton = switch_bpf__open();
	if (!skeleton)
		return -errno;
	memcpy((void *)&skeleton->rodata->geometry, &program->geometry,
	       sizeof(program->geometry));
	bpf_program__set_flags(skeleton->progs.loop_step, F_SLEEPABLE);
	bpf_map__set_map_flags(skeleton->maps.switch_ops, F_LINK);
	return switch_bpf__load(skeleton);
}

int loop_load(struct loop_program **result)
{
	struct loop_program *program = calloc(1, sizeof(*program));
	int r = program ? load(program) : -ENOMEM;

	if (r) {
		loop_unload(program);
		return r;
	}
	*result = program;
	return 0;
}

void loop_unload(struct loop_program *program)
{
	if (!program)
		return;
	switch_bpf__destroy(program->skeleton);
	free(program);
}

/* Attaching --------------------------------------------------------------- */

static int register_region(const struct io_uring *ring,
			   struct switch_region *region, size_t size)
{
	struct region_desc desc = {
		.address = (uintptr_t)region,
		.size = size,
		.flags = MEM_REGION_USER,
	};
	struct region_reg reg = { .desc = (uintptr_t)&desc };

	return syscall(__NR_io_uring_register, ring->ring_fd,
		       REGISTER_MEM_REGION, &reg, 1) ?
		       -errno :
		       0;
}

/* One map for each ring: its value names the ring and the program. */
static int make_map(const struct loop_program *program, int ring)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = F_LINK,
		    .btf_fd = (__u32)bpf_object__btf_fd(program->skeleton->obj),
		    .btf_vmlinux_value_type_id = program->layout.type);
	const __u64 function =
		(__u64)bpf_program__fd(program->skeleton->progs.loop_step);
	char *value = calloc(1, program->layout.size);
	const __u32 key = 0;
	int map, r;

	if (!value)
		return -ENOMEM;
	map = bpf_map_create(BPF_MAP_TYPE_STRUCT_OPS, "switch_ops", sizeof(key),
			     program->layout.size, 1, &options);
	if (map >= 0) {
		memcpy(value + program->layout.loop_step, &function,
		       sizeof(function));
		memcpy(value + program->layout.ring_fd, &ring, sizeof(ring));
		r = bpf_map_update_elem(map, &key, value, 0);
		if (r) {
			close(map);
			map = r;
		}
	}
	free(value);
	return map;
}

static int make_link(int map)
{
	union bpf_attr attr = {
		.link_create.prog_fd = (__u32)map,
		.link_create.attach_type = ATTACH_STRUCT_OPS,
	};
	int link = (int)syscall(__NR_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));

	return link < 0 ? -errno : link;
}

int loop_attach(struct loop *loop, const struct loop_program *program,
		const struct io_uring *ring,
		const struct io_uring_params *params)
{
	struct switch_geometry geometry = geometry_of(params);
	size_t size = (sizeof(*loop->region) + 4095) / 4096 * 4096;
	struct switch_region *region;
	int map, link, r;

	if (memcmp(&geometry, &program->geometry, sizeof(geometry)))
		return -EINVAL;
	region = mmap(NULL, size, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (region == MAP_FAILED)
		return -errno;
	region->address = (uintptr_t)region;
	r = register_region(ring, region, size);
	map = r ? r : make_map(program, ring->ring_fd);
	link = map < 0 ? map : make_link(map);
	if (link < 0) {
		if (map >= 0)
			close(map);
		munmap(region, size);
		return link;
	}
	*loop = (struct loop){ region, map, link };
	return 0;
}

void loop_detach(struct loop *loop)
{
	if (!loop->region)
		return;
	close(loop->link);
	close(loop->map);
	munmap(loop->region, (sizeof(*loop->region) + 4095) / 4096 * 4096);
	loop->region = NULL;
}
