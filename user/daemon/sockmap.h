/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The programs and maps of bpf/sockmap.bpf.c. sluiced loads its own at each
 * start: sockets in the maps are those of a sluiced, and end with it.
 *
 * Opened before any thread is started. The flows are then one thread's, that of
 * redirect.c; programs write in them, too.
 */
#ifndef SLUICED_SOCKMAP_H
#define SLUICED_SOCKMAP_H

#include <stdint.h>

#include <sockmap.h> /* bpf/ */

#include "fence.h"

struct sockmap {
	int redirect, look; /* programs */
	int sources, targets, flow_of, flows_fd, redirects; /* maps */
	struct sockmap_flow *flows; /* mapped */
	struct fence *fence;
};

/* 0 or -errno; the caller says why. */
int sockmap_open(struct sockmap *sockmap);
void sockmap_close(struct sockmap *sockmap);

/* Pins what `sluicectl` and bpftool look at. 0 or -errno. */
int sockmap_pin(const struct sockmap *sockmap, const char *pin_dir);

/* The cookie of a socket, 0 if it has none. */
uint64_t sockmap_cookie(int fd);

/*
 * Lets the socket be a target; for a source, have the program see what it
 * receives from now on, as flows[index] says. 0 or -errno.
 */
int sockmap_add_target(const struct sockmap *sockmap, int fd, uint64_t cookie);
int sockmap_add_source(const struct sockmap *sockmap, int fd, uint64_t cookie,
		       uint32_t index);

/* After its socket was closed. */
void sockmap_forget(const struct sockmap *sockmap, uint64_t cookie);

/* SOCKMAP_LOOK_*: what waits at a target, and what is charged to its sender. */
uint32_t sockmap_look(const struct sockmap *sockmap, uint64_t cookie);

#endif
