/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The in-kernel switch: the program that runs the io_urings of the switch's
 * threads, bpf/switch.bpf.c. Loaded by the main thread while it may load programs
 * (CAP_BPF, CAP_PERFMON), attached by each thread to its ring (CAP_BPF).
 */
#ifndef SLUICED_LOOP_H
#define SLUICED_LOOP_H

#include <liburing.h>
#include <switch.h>

#define RING_ENTRIES 1024
#define RING_CQ_ENTRIES (4 * RING_ENTRIES)

struct loop_program;

/* 0 or -errno: -EOPNOTSUPP: this kernel has no such programs. */
int loop_load(struct loop_program **program);
void loop_unload(struct loop_program *program); /* NULL: nothing */

struct loop {
	struct switch_region *region;
	int map, link;
};

/*
 * A ring of the calling thread's, of the sizes above, with IORING_SETUP_
 * SINGLE_ISSUER, _DEFER_TASKRUN and _SUBMIT_ALL. 0 or -errno, and nothing is
 * changed.
 */
int loop_attach(struct loop *loop, const struct loop_program *program,
		const struct io_uring *ring,
		const struct io_uring_params *params);
/* Once the ring is gone. */
void loop_detach(struct loop *loop);

#endif
