/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The maps that sluiced pinned, for root.
 */
#include "ctl.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include <bpf/bpf.h>

int pins_map(const char *dir, const char *name)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = bpf_obj_get(path);
	return fd < 0 ? -errno : fd;
}

int pins_conns(const char *dir)
{
	__u64 key, *last = NULL;
	int map = pins_map(dir, "conns"), count = 0;

	if (map < 0)
		return map;
	while (!bpf_map_get_next_key(map, last, &key)) {
		last = &key;
		count++;
	}
	close(map);
	return count;
}
