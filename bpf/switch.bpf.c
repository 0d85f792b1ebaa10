/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The in-kernel switch: passes messages from one socket to another without a
 * return to user space. A struct_ops program of io_uring (io_uring_bpf_ops, Linux
 * 7.2), which is called when something completes in a ring of sluiced's switch.
 *
 * What was received by a way that is `flowing` it sends on, with the next receive
 * of the way linked to the send: so a slow receiver stops its own sender only.
 * Anything else - mail, an end, fds, an error, a large message - it leaves at the
 * head of the completion queue and returns from io_uring_enter(2), so that user
 * space sees all completions in the order in which they came.
 *
 * Submissions are user space's and the program's in one queue, written at its
 * tail; the identity of index and entry is user space's part.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "switch.h"
#include "vmlinux.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The loader's; these let it verify by itself. */
const volatile struct switch_geometry geometry = {
	.sq_tail = 4,
	.sq_entries = 1024,
	.cq_head = 8,
	.cq_tail = 12,
	.cqes = 64,
	.cq_entries = 4096,
};

/* linux/io_uring.h */
struct switch_sqe {
	__u8 opcode, flags;
	__u16 ioprio;
	__s32 fd;
	__u64 offset, address;
	__u32 length, op_flags;
	__u64 user_data, rest[3];
};

struct switch_cqe {
	__u64 user_data;
	__s32 result;
	__u32 flags;
};

enum { OP_RECVMSG = 10, OP_SEND = 26 };
#define SQE_LINK (1u << 2)
#define SQE_CQE_SKIP (1u << 6)
#define REGION_MEM 0
#define REGION_CQ 1
#define REGION_SQ 2

/* linux/socket.h */
#define MSG_CTRUNC 8
#define MSG_TRUNC 32
#define MSG_NOSIGNAL 0x4000

enum { GO_ON, STOP }; /* what loop_step returns */
#define BATCH 64 /* completions of one step */

/* io_uring/loop.h, bpf-ops.h: not in the BTF of older kernels */
struct iou_loop_params {
	__u32 cq_wait_idx;
} __attribute__((preserve_access_index));

struct io_uring_bpf_ops {
	int (*loop_step)(struct io_ring_ctx *, struct iou_loop_params *);
	__u32 ring_fd;
};

extern __u8 *
bpf_io_uring_get_region(struct io_ring_ctx *ctx, __u32 region,
			const unsigned long rdwr_buf_size) __weak __ksym;
extern int bpf_io_uring_submit_sqes(struct io_ring_ctx *ctx,
				    __u32 count) __weak __ksym;

/* bpf_for(), which libbpf of Debian 12 lacks. */
struct bpf_iter_num;
extern int bpf_iter_num_new(struct bpf_iter_num *it, int start,
			    int end) __weak __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __weak __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __weak __ksym;
struct bpf_iter_num {
	__u64 opaque[1];
} __attribute__((aligned(8)));

#define WORD(memory, at) ((volatile __u32 *)((memory) + ((at)&0xffc)))

static __always_inline void prepare_send(struct switch_sqe *sqe,
					 const struct switch_way *way,
					 __u64 index, __u32 length)
{
	*sqe = (struct switch_sqe){
		.opcode = OP_SEND,
		.flags = SQE_LINK | SQE_CQE_SKIP,
		.fd = way->out,
		.address = way->base,
		.length = length,
		.op_flags = MSG_NOSIGNAL,
		.user_data = SWITCH_OF_TABLE | index << SWITCH_SHIFT |
			     SWITCH_SEND,
	};
}

static __always_inline void prepare_receive(struct switch_sqe *sqe,
					    const struct switch_region *region,
					    struct switch_way *way, __u64 index)
{
	way->control_size = SWITCH_CONTROL;
	way->flags = 0;
	*sqe = (struct switch_sqe){
		.opcode = OP_RECVMSG,
		.fd = way->in,
		.address = region->address +
			   __builtin_offsetof(struct switch_region, ways) +
			   index * sizeof(*way),
		.length = 1,
		.user_data = SWITCH_OF_TABLE | index << SWITCH_SHIFT |
			     SWITCH_RECEIVE,
	};
}

/* A message, with nothing about it that user space has to see. */
static __always_inline bool may_pass(const struct switch_cqe *cqe,
				     const struct switch_way *way)
{
	return (cqe->user_data & SWITCH_OF_TABLE) &&
	       (cqe->user_data & SWITCH_OPERATION) == SWITCH_RECEIVE &&
	       way->flowing && cqe->result >= 0 &&
	       cqe->result <= SWITCH_LARGEST &&
	       !(way->flags & (MSG_CTRUNC | MSG_TRUNC)) &&
	       (cqe->result || way->control_size);
}

/* False: the next completion is user space's. */
static __always_inline bool pass_one(struct switch_region *region, __u8 *cq,
				     struct switch_sqe *sqes)
{
	__u32 head = *WORD(cq, geometry.cq_head);
	__u32 tail = *WORD(cq, geometry.sq_tail);
	const struct switch_cqe *cqe;
	struct switch_way *way;
	__u64 index;

	if (head == *WORD(cq, geometry.cq_tail) ||
	    tail + 2 - *WORD(cq, geometry.sq_head) > geometry.sq_entries)
		return true; /* none, or not before the next step */
	cqe = (void *)(cq + geometry.cqes) +
	      (head & (geometry.cq_entries - 1)) * sizeof(*cqe);
	index = cqe->user_data >> SWITCH_SHIFT & (SWITCH_WAYS - 1);
	way = &region->ways[index];
	if (!may_pass(cqe, way))
		return false;
	way->length = cqe->result;
	prepare_send(&sqes[tail & (geometry.sq_entries - 1)], way, index,
		     way->length);
	prepare_receive(&sqes[(tail + 1) & (geometry.sq_entries - 1)], region,
			way, index);
	way->bytes += way->length;
	way->messages++;
	*WORD(cq, geometry.sq_tail) = tail + 2;
	*WORD(cq, geometry.cq_head) = head + 1;
	return true;
}

SEC("struct_ops/loop_step")
int BPF_PROG(loop_step, struct io_ring_ctx *ring,
	     struct iou_loop_params *params)
{
	struct switch_region *region = (void *)bpf_io_uring_get_region(
		ring, REGION_MEM, sizeof(struct switch_region));
	__u8 *cq = bpf_io_uring_get_region(
		ring, REGION_CQ,
		geometry.cqes +
			geometry.cq_entries * sizeof(struct switch_cqe));
	struct switch_sqe *sqes = (void *)bpf_io_uring_get_region(
		ring, REGION_SQ,
		geometry.sq_entries * sizeof(struct switch_sqe));
	struct bpf_iter_num batch;
	bool stop = false;
	__u32 count;

	(void)ctx;
	if (!region || !cq || !sqes)
		return STOP;
	bpf_iter_num_new(&batch, 0, BATCH);
	while (bpf_iter_num_next(&batch)) {
		stop = region->submit_only || !pass_one(region, cq, sqes);
		if (stop)
			break;
	}
	bpf_iter_num_destroy(&batch);
	count = *WORD(cq, geometry.sq_tail) - *WORD(cq, geometry.sq_head);
	if (count && bpf_io_uring_submit_sqes(ring, count) != (int)count)
		return STOP;
	if (stop)
		return STOP;
	params->cq_wait_idx = *WORD(cq, geometry.cq_head) + 1;
	return GO_ON;
}

SEC(".struct_ops")
struct io_uring_bpf_ops switch_ops = { .loop_step = (void *)loop_step };
