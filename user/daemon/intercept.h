/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Transparent services: connects to a server's own path, by processes of chosen
 * cgroups, go to the service (bpf/connect.bpf.c, Linux 6.7). Nothing is pinned: it
 * ends with sluiced at the latest. Loaded before privileges are given up; attached
 * and detached later. The main thread's.
 */
#ifndef SLUICED_INTERCEPT_H
#define SLUICED_INTERCEPT_H

#include "config.h"

struct connect_bpf;

struct intercepts {
	struct connect_bpf *program; /* NULL: this kernel cannot */
	int error; /* why: -errno */
};

/* Of one service. */
struct intercept {
	int links[PATHS_MAX];
	unsigned int count;
	char path[SERVICE_PATH_SIZE]; /* that is intercepted, or empty */
};

void intercepts_open(struct intercepts *intercepts);
void intercepts_close(struct intercepts *intercepts);

/* 0 or -errno, after it has said why: nothing is intercepted then. */
int intercept_start(const struct intercepts *intercepts,
		    struct intercept *intercept,
		    const struct service_config *config);
void intercept_stop(const struct intercepts *intercepts,
		    struct intercept *intercept);

#endif
