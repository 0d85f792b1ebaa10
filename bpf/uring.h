/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What uring.bpf.c and sluiced share.
 *
 *   uring_rings   HASH, address of the ring's context -> struct uring_ring
 *   uring_counts  PERCPU_HASH, number of the ring -> struct sluice_uring_counts
 *   uring_ops     HASH, struct uring_op_key -> struct uring_op
 *
 * sluiced alone adds to the first two. It takes rings out of them, and so does
 * the program that sees the address given to another ring.
 */
#ifndef SLUICE_BPF_URING_H
#define SLUICE_BPF_URING_H

#include <sluice/uapi.h>

#define URING_RINGS 256
#define URING_RING_OPS 4096 /* in flight of a ring, those that are timed */
#define URING_OPS 262144 /* of all */

/* Set before the programs are loaded. */
struct uring_config {
	__u8 cqe_pointer; /* io_uring_complete has one: see compat.bpf.h */
};

struct uring_ring {
	__u64 number; /* of no other ring, ever */
	__u64 match; /* as in struct sluice_control_uring, likewise the next */
	__u64 mask;
	__u32 buffer_first;
	__u32 buffer_count;
	/* written by the programs */
	__u64 wait_since; /* somebody waits for CQEs, since when; 0: nobody */
	__u32 tracked; /* its entries in uring_ops */
	__u32 pool_now; /* of those, pool operations */
	__u32 pool_peak;
	__u32 __resv;
};

struct uring_op_key {
	__u64 ring; /* number */
	__u64 user_data;
};

struct uring_op {
	__u64 since; /* submitted, or its last CQE; 0: unknown */
	__u64 rung; /* 0: not yet */
	__u32 kind; /* enum uring_kind */
	__u32 __resv;
};

enum uring_kind { URING_OTHER, URING_BELL, URING_POOL };

/* What the program `find` is asked for by a variable, and what it writes. */
struct uring_found {
	__u64 context; /* 0: there is no such fd, or it is no ring */
	__u32 uid; /* of the ring */
	__u32 task_uid; /* effective, of the process */
};

#endif
