/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Accounts for the io_urings that asked for it: how long their doorbells take,
 * how long they waited, what is in flight on pool buffers. tp_btf programs, which
 * see the requests of all rings; what is not followed costs a look into
 * `uring_rings`. sluiced attaches them while there are any in it. Linux 6.1 or
 * later. They only watch. (bpftool of Debian 12 cannot attach tp_btf programs, so
 * `make load` leaves them out.)
 *
 * A *doorbell* is a poll, read or receive of those that the ring's match and mask
 * choose. It rings when the kernel wakes it (task_add, in the context of whoever
 * sent), and its CQE comes when the ring's task has run. A *pool operation* names
 * a registered buffer in the ring's range; a SEND_ZC ends with its notification.
 *
 * Requests are told apart by their user_data, as CQEs of multishot requests and
 * notifications name nothing else: those in flight must differ in it. Counts are
 * added atomically though they are per CPU: programs interrupt each other.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <linux/errno.h>
#include <linux/magic.h>

#include "compat.bpf.h"
#include "uring.h"
#include "vmlinux.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, URING_RINGS);
	__type(key, __u64);
	__type(value, struct uring_ring);
} uring_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, URING_RINGS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct sluice_uring_counts);
} uring_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, URING_OPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct uring_op_key);
	__type(value, struct uring_op);
} uring_ops SEC(".maps");

const volatile struct uring_config uring_config = { true };

/* linux/io_uring.h, whose structs the kernel's BTF has, too */
enum {
	OP_READV = 1,
	OP_READ_FIXED = 4,
	OP_WRITE_FIXED = 5,
	OP_POLL_ADD = 6,
	OP_SENDMSG = 9,
	OP_RECVMSG = 10,
	OP_READ = 22,
	OP_SEND = 26,
	OP_RECV = 27,
	OP_SEND_ZC = 47,
	OP_SENDMSG_ZC = 48,
	OP_READ_MULTISHOT = 49,
	OP_READV_FIXED = 60,
	OP_WRITEV_FIXED = 61,
};

#define SQE_CQE_SKIP (1u << 6) /* no CQE if it works */
#define CQE_MORE (1u << 1) /* not the request's last */
#define SEND_FIXED_BUF (1u << 2)

#define ADD(count, n) __sync_fetch_and_add(&(count), n)

/* Times ------------------------------------------------------------------- */

/* The number of the highest bit that is set; of 0, 0. Verified once: not static. */
__noinline __u32 log2_of(__u64 value)
{
	__u32 bit = 0;

	for (__u32 half = 32; half; half /= 2) {
		if (value >> half) {
			value >>= half;
			bit += half;
		}
	}
	return bit;
}

static __always_inline void time_add(struct sluice_uring_times *times,
				     __u64 from, __u64 to)
{
	__u64 ns = to > from ? to - from : 0;
	__u32 bucket = log2_of(ns);

	if (bucket >= SLUICE_URING_BUCKETS)
		bucket = SLUICE_URING_BUCKETS - 1;
	ADD(times->sum, ns);
	ADD(times->bucket[bucket], 1);
}

/* Rings ------------------------------------------------------------------- */

/* A ring that is followed, with this CPU's counts; or NULL. */
static __always_inline struct uring_ring *
followed(__u64 context, struct sluice_uring_counts **counts)
{
	struct uring_ring *ring = bpf_map_lookup_elem(&uring_rings, &context);

	if (!ring)
		return NULL;
	*counts = bpf_map_lookup_elem(&uring_counts, &ring->number);
	return *counts ? ring : NULL;
}

static __always_inline bool in_range(const struct uring_ring *ring,
				     __u32 buffer)
{
	return buffer - ring->buffer_first < ring->buffer_count;
}

static __always_inline enum uring_kind kind_of(const struct uring_ring *ring,
					       struct io_kiocb *req)
{
	switch (req->opcode) {
	case OP_READ_FIXED:
	case OP_WRITE_FIXED:
	case OP_READV_FIXED:
	case OP_WRITEV_FIXED:
		return in_range(ring, req->buf_index) ? URING_POOL :
							URING_OTHER;
	case OP_SEND:
	case OP_SENDMSG:
	case OP_SEND_ZC:
	case OP_SENDMSG_ZC:
		if (!ring->buffer_count ||
		    !(request_send_flags(req) & SEND_FIXED_BUF))
			return URING_OTHER;
		return !request_knows_send_buffer(req) ||
				       in_range(ring, req->buf_index) ?
			       URING_POOL :
			       URING_OTHER;
	case OP_POLL_ADD:
	case OP_READ:
	case OP_READV:
	case OP_READ_MULTISHOT:
	case OP_RECV:
	case OP_RECVMSG:
		return (req->cqe.user_data & ring->mask) == ring->match ?
			       URING_BELL :
			       URING_OTHER;
	}
	return URING_OTHER;
}

/* Operations -------------------------------------------------------------- */

/* Adds an operation that is not there yet; false: there is no room. */
static __always_inline bool op_add(struct uring_ring *ring,
				   const struct uring_op_key *key,
				   const struct uring_op *op)
{
	__u32 now;

	if (ADD(ring->tracked, 1) >= URING_RING_OPS ||
	    bpf_map_update_elem(&uring_ops, key, op, BPF_NOEXIST)) {
		ADD(ring->tracked, -1);
		return false;
	}
	if (op->kind != URING_POOL)
		return true;
	now = ADD(ring->pool_now, 1) + 1;
	if (now > ring->pool_peak) /* submitters take turns: the ring's lock */
		ring->pool_peak = now;
	return true;
}

/* An entry that cannot be removed now is used again, or goes with the ring. */
static __always_inline void
op_remove(struct uring_ring *ring, const struct uring_op_key *key, __u32 kind)
{
	if (bpf_map_delete_elem(&uring_ops, key))
		return;
	ADD(ring->tracked, -1);
	if (kind == URING_POOL)
		ADD(ring->pool_now, -1);
}

static __always_inline int submitted(struct io_kiocb *req)
{
	struct sluice_uring_counts *counts;
	struct uring_ring *ring = followed((__u64)req->ctx, &counts);
	struct uring_op_key key;
	struct uring_op op = { 0 };

	if (!ring)
		return 0;
	ADD(counts->submitted, 1);
	op.kind = kind_of(ring, req);
	if (op.kind == URING_OTHER || req->flags & SQE_CQE_SKIP)
		return 0;
	op.since = bpf_ktime_get_ns();
	key.ring = ring->number;
	key.user_data = req->cqe.user_data;
	if (bpf_map_lookup_elem(&uring_ops, &key)) {
		ADD(counts->reused, 1);
		op_remove(ring, &key, op.kind);
	}
	if (!op_add(ring, &key, &op))
		ADD(counts->untracked, 1);
	else if (op.kind == URING_POOL)
		ADD(counts->pool_submitted, 1);
	return 0;
}

SEC("tp_btf/io_uring_submit_req")
int submit_req(__u64 *ctx)
{
	return submitted((struct io_kiocb *)ctx[0]);
}

/* Its name before 6.4: the loader takes the one that is there. */
SEC("?tp_btf/io_uring_submit_sqe")
int submit_sqe(__u64 *ctx)
{
	return submitted((struct io_kiocb *)ctx[0]);
}

/* A doorbell rings. What was submitted before its ring was followed counts, too. */
SEC("tp_btf/io_uring_task_add")
int task_add(__u64 *ctx)
{
	struct io_kiocb *req = (struct io_kiocb *)ctx[0];
	struct sluice_uring_counts *counts;
	struct uring_ring *ring = followed((__u64)req->ctx, &counts);
	struct uring_op new = { .kind = URING_BELL }, *op;
	struct uring_op_key key;

	if (!ring || kind_of(ring, req) != URING_BELL)
		return 0;
	key.ring = ring->number;
	key.user_data = req->cqe.user_data;
	new.rung = bpf_ktime_get_ns();
	op = bpf_map_lookup_elem(&uring_ops, &key);
	if (op)
		op->rung = new.rung; /* for nothing so far, if it rings again */
	else if (!op_add(ring, &key, &new))
		ADD(counts->untracked, 1);
	return 0;
}

/* To cancel a request looks like a doorbell, but its CQE tells. */
static __always_inline void bell_done(struct sluice_uring_counts *counts,
				      struct uring_op *op, __s32 result,
				      __u64 now)
{
	__u64 rung = op->rung;

	if (result == -ECANCELED)
		return;
	if (!rung) {
		ADD(counts->ready, 1);
	} else {
		time_add(&counts->bell, rung, now);
		if (op->since)
			time_add(&counts->idle, op->since, rung);
	}
	/* a multishot one waits again */
	op->rung = 0;
	op->since = now;
}

static __always_inline void pool_done(struct sluice_uring_counts *counts,
				      const struct uring_op *op, __u64 now)
{
	ADD(counts->pool_ended, 1);
	time_add(&counts->pool, op->since, now);
}

static __always_inline void completed(struct uring_ring *ring,
				      struct sluice_uring_counts *counts,
				      const struct io_uring_cqe *cqe)
{
	__u64 now = bpf_ktime_get_ns(), waiting = ring->wait_since;
	struct uring_op_key key = { ring->number, cqe->user_data };
	struct uring_op *op;
	bool last = !(cqe->flags & CQE_MORE);
	__u32 kind;

	/* of several CQEs at once, one has ended the wait */
	if (waiting && __sync_val_compare_and_swap(&ring->wait_since, waiting,
						   0) == waiting)
		time_add(&counts->wait, waiting, now);
	op = bpf_map_lookup_elem(&uring_ops, &key);
	if (!op)
		return;
	kind = op->kind;
	if (kind == URING_BELL)
		bell_done(counts, op, cqe->res, now);
	else if (cqe->res > 0)
		ADD(counts->pool_bytes, cqe->res);
	if (!last)
		return;
	if (kind == URING_POOL)
		pool_done(counts, op, now);
	op_remove(ring, &key, kind);
}

SEC("tp_btf/io_uring_complete")
int complete(__u64 *ctx)
{
	struct sluice_uring_counts *counts;
	struct uring_ring *ring = followed(ctx[0], &counts);
	struct io_uring_cqe cqe;

	if (!ring)
		return 0;
	complete_cqe(ctx, uring_config.cqe_pointer, &cqe);
	ADD(counts->completed, 1);
	completed(ring, counts, &cqe);
	return 0;
}

/* Instead of the former: a CQE that has to wait until the CQ has room. */
SEC("tp_btf/io_uring_cqe_overflow")
int overflow(__u64 *ctx)
{
	struct sluice_uring_counts *counts;
	struct uring_ring *ring = followed(ctx[0], &counts);
	struct io_uring_cqe cqe = {
		.user_data = ctx[1],
		.res = (__s32)ctx[2],
		.flags = (__u32)ctx[3],
	};

	if (!ring)
		return 0;
	ADD(counts->completed, 1);
	ADD(counts->overflowed, 1);
	completed(ring, counts, &cqe);
	return 0;
}

/* A task begins to wait for CQEs. One waits for a ring, as a rule. */
SEC("tp_btf/io_uring_cqring_wait")
int wait(__u64 *ctx)
{
	struct sluice_uring_counts *counts;
	struct uring_ring *ring = followed(ctx[0], &counts);

	if (!ring)
		return 0;
	ADD(counts->waits, 1);
	if (__sync_lock_test_and_set(&ring->wait_since, bpf_ktime_get_ns()))
		ADD(counts->waits_empty, 1);
	return 0;
}

/* The address is that of a new ring: the one that was followed is gone. */
SEC("tp_btf/io_uring_create")
int create(__u64 *ctx)
{
	__u64 context = ctx[1];

	bpf_map_delete_elem(&uring_rings, &context);
	return 0;
}

/* For sluiced ------------------------------------------------------------- */

__u32 wanted_fd; /* of `find` */

static __always_inline bool is_ring(struct file *file)
{
	static const char ring[11] = "[io_uring]";
	char name[11] = { 0 };

	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) != ANON_INODE_FS_MAGIC)
		return false;
	bpf_probe_read_kernel_str(name, sizeof(name),
				  BPF_CORE_READ(file, f_path.dentry,
						d_name.name));
	for (unsigned int i = 0; i < sizeof(ring); i++) {
		if (name[i] != ring[i])
			return false;
	}
	return true;
}

/*
 * Run for one task: writes the ring that its fd wanted_fd is. The task can close
 * it meanwhile: what is then read is not a ring's any more, or another ring's, with
 * a uid of its own. Returns 0: go on.
 */
SEC("iter/task")
int find(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct uring_found found = { 0 };
	struct io_ring_ctx *ring;
	struct file *file = NULL, **files;

	if (!task)
		return 0;
	found.task_uid = BPF_CORE_READ(task, real_cred, euid.val);
	files = BPF_CORE_READ(task, files, fdt, fd);
	if (wanted_fd < BPF_CORE_READ(task, files, fdt, max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), files + wanted_fd);
	if (file && is_ring(file)) {
		ring = BPF_CORE_READ(file, private_data);
		found.context = (__u64)ring;
		found.uid = BPF_CORE_READ(ring, user, uid.val);
	}
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}

static long drop_if_left(void *map, const struct uring_op_key *key,
			 struct uring_op *op, void *arg)
{
	__u64 ring = key->ring;

	(void)op;
	(void)arg;
	if (!bpf_map_lookup_elem(&uring_counts, &ring))
		bpf_map_delete_elem(map, key);
	return 0;
}

/* Drops the operations of rings that are not followed any more. */
SEC("syscall")
int clean(void *ctx)
{
	(void)ctx;
	bpf_for_each_map_elem(&uring_ops, drop_if_left, NULL, 0);
	return 0;
}
