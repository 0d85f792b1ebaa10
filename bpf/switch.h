/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The in-kernel switch: what a thread of sluiced's switch and the BPF program that
 * runs its io_uring (switch.bpf.c) share. Memory of the thread, registered with
 * its ring. The program runs within the thread's io_uring_enter(2), so the two
 * never write at once; the main thread only reads counts.
 *
 * A completion that names a way of this table has the way's index, shifted, in its
 * user_data, with SWITCH_OF_TABLE. Others are not the program's.
 */
#ifndef SLUICE_BPF_SWITCH_H
#define SLUICE_BPF_SWITCH_H

#include <linux/types.h>

#define SWITCH_WAYS 8192 /* of a thread; a power of two */
#define SWITCH_OF_TABLE (1ull << 63)
#define SWITCH_SHIFT 3 /* below: the operation */
#define SWITCH_OPERATION 7

enum switch_operation {
	SWITCH_MAIL,
	SWITCH_RECEIVE,
	SWITCH_SEND,
	SWITCH_HANGUP
};

#define SWITCH_CONTROL 32 /* the time of a message */
#define SWITCH_LARGEST 65536 /* what is larger is user space's */

/* The start is a struct msghdr and an iovec, as the kernel reads them. */
struct switch_way {
	__u64 name;
	__u32 name_size, pad;
	__u64 iov, iov_count;
	__u64 control, control_size;
	__u32 flags, pad2;
	__u64 base, size;
	__u8 control_data[SWITCH_CONTROL];
	__s32 in, out;
	__u32 flowing; /* the program may pass on what it receives */
	__u32 length; /* of what it passed on last */
	__u64 bytes, messages; /* that it passed on */
};

struct switch_region {
	__u64 address; /* of this, in the thread's memory */
	__u32 submit_only; /* submit, and return at once */
	__u32 pad;
	struct switch_way ways[SWITCH_WAYS];
};

/* Where things are in the memory that a ring shares: struct io_cqring_offsets. */
struct switch_geometry {
	__u32 sq_head, sq_tail, sq_entries;
	__u32 cq_head, cq_tail, cqes, cq_entries;
};

#endif
