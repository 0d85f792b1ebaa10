/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A BPF program that counts its calls and returns 0. That 0 is a verdict for
 * some hooks: a socket filter consumes, cgroup/connect_unix denies.
 */
#ifndef CTL_PROBE_BPF_H
#define CTL_PROBE_BPF_H

#include "probe.h"

#include <bpf/bpf.h>

#define PROBE_LICENCE "Dual BSD/GPL"

struct counting {
	int map; /* ARRAY of one __u64 */
	int prog;
};

/* YES, or why not; on YES end with counting_close(). opts may be NULL. */
enum probe_result counting_open(struct counting *counting,
				enum bpf_prog_type type,
				struct bpf_prog_load_opts *opts,
				char why[PROBE_WHY]);
__u64 counting_calls(const struct counting *counting);
void counting_close(struct counting *counting);

/* A private instance of a file system, mounted nowhere: directory fd or -1. */
int private_mount(const char *type);

#endif
