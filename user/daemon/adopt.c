/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Taking over a pinned program. Its maps are taken from the program itself, not
 * from their pins: so they belong together, whatever is pinned beside it.
 */
#include "adopt.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <steer.h>

#include "log.h"

#define MAPS_MAX 64 /* that the program may use */

struct wanted {
	const char *name;
	int *fd;
	__u32 type, key_size, value_size, max_entries;
};

static int stale(const struct programs *programs, const char *what)
{
	log_error("%s: %s. End what uses it and remove it with `sluicectl "
		  "unload`, or let this sluiced work in another directory "
		  "(--pins)",
		  programs->pin_dir, what);
	return -ESTALE;
}

/* Offset of a variable in a map of global data, or -1. */
static long variable_offset(const struct bpf_map_info *info, const char *name,
			    size_t size)
{
	struct btf *btf = btf__load_from_kernel_by_id(info->btf_id);
	const struct btf_type *section;
	long offset = -1;

	if (!btf)
		return -1;
	section = btf__type_by_id(btf, info->btf_value_type_id);
	for (int i = 0;
	     section && btf_is_datasec(section) && i < btf_vlen(section); i++) {
		struct btf_var_secinfo *at = btf_var_secinfos(section) + i;
		const struct btf_type *variable =
			btf__type_by_id(btf, at->type);

		if (variable && at->size >= size &&
		    at->offset + at->size <= info->value_size &&
		    !strcmp(btf__name_by_offset(btf, variable->name_off), name))
			offset = at->offset;
	}
	btf__free(btf);
	return offset;
}

/* What the map of constants says, 0 if it cannot be told. */
static __u32 version_of(int fd, const struct bpf_map_info *info)
{
	long at = variable_offset(info, "steer_config",
				  sizeof(struct steer_config));
	struct steer_config config = { 0 };
	__u32 zero = 0;
	char *data;

	if (at < 0)
		return 0;
	data = malloc(info->value_size);
	if (data && !bpf_map_lookup_elem(fd, &zero, data))
		memcpy(&config, data + at, sizeof(config));
	free(data);
	return config.version;
}

static bool ends_in(const char *name, const char *end)
{
	size_t len = strlen(name), end_len = strlen(end);

	return len >= end_len && !strcmp(name + len - end_len, end);
}

/* One map of the program: keeps or closes fd. */
static int look_at_map(const struct programs *programs, int fd,
		       struct wanted *wanted, size_t count, __u32 *version)
{
	struct bpf_map_info info = { 0 };
	__u32 len = sizeof(info);
	int r = 0;

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		r = -errno;
	for (size_t i = 0; !r && i < count; i++) {
		if (strcmp(info.name, wanted[i].name))
			continue;
		if (info.type != wanted[i].type ||
		    info.key_size != wanted[i].key_size ||
		    info.value_size != wanted[i].value_size ||
		    info.max_entries != wanted[i].max_entries) {
			log_error("map %s has another shape", info.name);
			r = stale(programs, "what is pinned there is of "
					    "another version of sluice");
			break;
		}
		*wanted[i].fd = fd;
		return 0;
	}
	if (!r && ends_in(info.name, ".rodata"))
		*version = version_of(fd, &info);
	close(fd);
	return r;
}

int adopt_maps(struct programs *programs)
{
	struct wanted wanted[] = {
		{ "conns", &programs->conns, BPF_MAP_TYPE_HASH, 8,
		  sizeof(struct steer_conn_entry), STEER_CONNS },
		{ "rings", &programs->rings, BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4,
		  STEER_RINGS },
		{ "landings", &programs->landings, BPF_MAP_TYPE_ARRAY_OF_MAPS,
		  4, 4, STEER_RINGS },
		{ "controls", &programs->controls, BPF_MAP_TYPE_ARRAY_OF_MAPS,
		  4, 4, STEER_RINGS },
		{ "doorbells", &programs->doorbells, BPF_MAP_TYPE_ARRAY_OF_MAPS,
		  4, 4, STEER_RINGS },
		{ "counters", &programs->counters, BPF_MAP_TYPE_PERCPU_ARRAY, 4,
		  sizeof(struct steer_counters), 1 },
	};
	const size_t count = sizeof(wanted) / sizeof(wanted[0]);
	__u32 ids[MAPS_MAX], len, version = 0;
	struct bpf_prog_info info = {
		.map_ids = (__u64)(uintptr_t)ids,
		.nr_map_ids = MAPS_MAX,
	};
	int fd, r;

	len = sizeof(info);
	if (bpf_obj_get_info_by_fd(programs->steer, &info, &len)) {
		r = -errno;
		log_error("%s/steer: %s", programs->pin_dir, strerror(-r));
		return r;
	}
	if (info.type != BPF_PROG_TYPE_SOCKET_FILTER ||
	    info.nr_map_ids > MAPS_MAX)
		return stale(programs, "`steer` there is not sluice's program");
	for (__u32 i = 0; i < info.nr_map_ids; i++) {
		fd = bpf_map_get_fd_by_id(ids[i]);
		r = fd < 0 ? -errno :
			     look_at_map(programs, fd, wanted, count, &version);
		if (fd < 0)
			log_error("%s: cannot take over its maps: %s; sluiced "
				  "needs CAP_SYS_ADMIN for that",
				  programs->pin_dir, strerror(-r));
		if (r)
			return r;
	}
	for (size_t i = 0; i < count; i++) {
		if (*wanted[i].fd < 0)
			return stale(programs, "the program there does not use "
					       "the maps it should");
	}
	if (version != SLUICE_STEER_VERSION) {
		log_error("the program's version is %u, this sluiced's is %u",
			  version, SLUICE_STEER_VERSION);
		return stale(programs,
			     "the program there is of another version");
	}
	log_info("took over what is pinned in %s", programs->pin_dir);
	return 0;
}
