/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The programs that follow io_urings, and their maps; uring.h. */
#include "uring.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uring.skel.h>

#include "log.h"
#include "pins.h"

/* What differs between kernels; bpf/compat.bpf.h says how. */

/* The prototype of a tracepoint, or NULL. */
static const struct btf_type *tracepoint(const struct btf *btf,
					 const char *name)
{
	int id = btf__find_by_name_kind(btf, name, BTF_KIND_TYPEDEF);
	const struct btf_type *type = id < 0 ? NULL : btf__type_by_id(btf, id);

	while (type && (btf_is_typedef(type) || btf_is_ptr(type)))
		type = btf__type_by_id(btf, type->type);
	return type && btf_is_func_proto(type) ? type : NULL;
}

static int choose(struct uring_bpf *program)
{
	struct btf *btf = btf__load_vmlinux_btf();
	const struct btf_type *complete;
	bool submit_req;

	if (!btf)
		return -errno;
	complete = tracepoint(btf, "btf_trace_io_uring_complete");
	submit_req = tracepoint(btf, "btf_trace_io_uring_submit_req");
	bpf_program__set_autoload(program->progs.submit_req, submit_req);
	bpf_program__set_autoload(program->progs.submit_sqe, !submit_req);
	/* of programs, the context, the request, and the CQE or its fields */
	if (complete)
		*(volatile __u8 *)&program->rodata->uring_config.cqe_pointer =
			btf_vlen(complete) == 4;
	btf__free(btf);
	return complete ? 0 : -ENOENT;
}

/* Loading ----------------------------------------------------------------- */

static struct bpf_map *const *maps_of(const struct uring_bpf *program)
{
	static struct bpf_map *maps[4];

	maps[0] = program->maps.uring_rings;
	maps[1] = program->maps.uring_counts;
	maps[2] = program->maps.uring_ops;
	return maps;
}

static void unpin(const struct uring_bpf *program, const char *pin_dir)
{
	for (struct bpf_map *const *map = maps_of(program); *map; map++)
		pin_remove(pin_dir, bpf_map__name(*map));
}

static int pin(const struct uring_bpf *program, const char *pin_dir)
{
	int r = 0;

	unpin(program, pin_dir); /* of one that was killed */
	for (struct bpf_map *const *map = maps_of(program); *map && !r; map++)
		r = pin_object(pin_dir, bpf_map__name(*map), bpf_map__fd(*map));
	return r;
}

void urings_open(struct urings *urings, const char *pin_dir)
{
	struct uring_bpf *program = uring_bpf__open();
	int r = program ? choose(program) : -errno;

	if (!r)
		r = uring_bpf__load(program);
	if (!r) {
		bpf_program__set_autoattach(program->progs.find, false);
		r = pin(program, pin_dir);
		urings->cpus = libbpf_num_possible_cpus();
		urings->per_cpu =
			calloc((size_t)urings->cpus, sizeof(*urings->per_cpu));
		if (!urings->per_cpu)
			r = -ENOMEM;
	}
	urings->error = r;
	if (!r) {
		urings->program = program;
		return;
	}
	log_info("cannot follow io_urings: %s", strerror(-r));
	free(urings->per_cpu);
	urings->per_cpu = NULL;
	uring_bpf__destroy(program);
}

void urings_close(struct urings *urings, const char *pin_dir)
{
	struct followed *followed;

	if (!urings->program)
		return;
	while ((followed = urings->first)) {
		urings->first = followed->next;
		free(followed);
	}
	unpin(urings->program, pin_dir);
	uring_bpf__destroy(urings->program); /* and detaches */
	urings->program = NULL;
	free(urings->per_cpu);
}

/* Finding ----------------------------------------------------------------- */

int uring_find(const struct urings *urings, pid_t pid, __u32 fd,
	       struct uring_found *found)
{
	union bpf_iter_link_info info = { .task.tid = (__u32)pid };
	LIBBPF_OPTS(bpf_iter_attach_opts, options, .link_info = &info,
		    .link_info_len = sizeof(info));
	struct uring_bpf *program = urings->program;
	struct bpf_link *link;
	int iterator, r;

	if (pid <= 0) /* 0 is all tasks, there; here it is one we cannot see */
		return -ESRCH;
	program->bss->wanted_fd = fd;
	link = bpf_program__attach_iter(program->progs.find, &options);
	if (!link)
		return -errno;
	iterator = bpf_iter_create(bpf_link__fd(link));
	r = iterator < 0 ? -errno : 0;
	if (!r && read(iterator, found, sizeof(*found)) != sizeof(*found))
		r = -ESRCH;
	if (iterator >= 0)
		close(iterator);
	bpf_link__destroy(link);
	return r;
}

/* Following --------------------------------------------------------------- */

static size_t counts_size(const struct urings *urings)
{
	return (size_t)urings->cpus * sizeof(*urings->per_cpu);
}

int uring_start(struct urings *urings, const struct followed *followed)
{
	const struct uring_bpf *program = urings->program;
	const struct uring_ring ring = {
		.number = followed->number,
		.match = followed->asked.match,
		.mask = followed->asked.mask,
		.buffer_first = followed->asked.buffer_first,
		.buffer_count = followed->asked.buffer_count,
	};
	int r = 0;

	/* before it is in the map: from then on none must be overlooked */
	if (!urings->attached)
		r = uring_bpf__attach(urings->program);
	if (r) {
		uring_bpf__detach(urings->program);
		return r;
	}
	urings->attached = true;
	memset(urings->per_cpu, 0, counts_size(urings));
	r = bpf_map__update_elem(program->maps.uring_counts, &followed->number,
				 sizeof(followed->number), urings->per_cpu,
				 counts_size(urings), BPF_NOEXIST);
	if (r)
		return r;
	r = bpf_map__update_elem(program->maps.uring_rings, &followed->context,
				 sizeof(followed->context), &ring, sizeof(ring),
				 BPF_NOEXIST);
	if (r)
		uring_stop(urings, followed);
	return r;
}

void uring_stop(const struct urings *urings, const struct followed *followed)
{
	const struct uring_bpf *program = urings->program;

	/* only ours: the address can be that of another one by now */
	if (uring_read(urings, followed, NULL, NULL))
		bpf_map__delete_elem(program->maps.uring_rings,
				     &followed->context,
				     sizeof(followed->context), 0);
	bpf_map__delete_elem(program->maps.uring_counts, &followed->number,
			     sizeof(followed->number), 0);
}

static void sum(const struct urings *urings, struct sluice_uring_counts *counts)
{
	const __u64 *from = (const __u64 *)urings->per_cpu;
	__u64 *to = (__u64 *)counts;
	size_t words = sizeof(*counts) / sizeof(*to);

	memset(counts, 0, sizeof(*counts));
	for (size_t i = 0; i < words * (size_t)urings->cpus; i++)
		to[i % words] += from[i];
}

bool uring_read(const struct urings *urings, const struct followed *followed,
		struct uring_ring *ring, struct sluice_uring_counts *counts)
{
	const struct uring_bpf *program = urings->program;
	struct uring_ring here;

	if (bpf_map__lookup_elem(program->maps.uring_rings, &followed->context,
				 sizeof(followed->context), &here, sizeof(here),
				 0) ||
	    here.number != followed->number)
		return false;
	if (ring)
		*ring = here;
	if (!counts)
		return true;
	if (bpf_map__lookup_elem(program->maps.uring_counts, &followed->number,
				 sizeof(followed->number), urings->per_cpu,
				 counts_size(urings), 0))
		return false;
	sum(urings, counts);
	return true;
}

void uring_tidy(struct urings *urings)
{
	LIBBPF_OPTS(bpf_test_run_opts, options);
	int r;

	urings->tidy_at = 0;
	if (!urings->first && urings->attached) {
		uring_bpf__detach(urings->program);
		urings->attached = false;
	}
	r = bpf_prog_test_run_opts(
		bpf_program__fd(urings->program->progs.clean), &options);
	if (r)
		log_warning("cannot drop operations of io_urings: %s",
			    strerror(-r));
}
