/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What differs between kernels, 6.1 to 7.2, behind one function each. The
 * loader resolves the checks, and the verifier drops the branches not taken.
 */
#ifndef SLUICE_BPF_COMPAT_H
#define SLUICE_BPF_COMPAT_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "vmlinux.h"

/* Once, and not from what was read before. */
#define LOAD(x) (*(volatile __typeof__(x) *)&(x))

/* 6.16 moved these from struct socket to bits in struct sock. */
struct sock___scm {
	__u8 sk_scm_credentials : 1;
	__u8 sk_scm_security : 1;
	__u8 sk_scm_pidfd : 1;
} __attribute__((preserve_access_index));

/* linux/net.h before 6.16; PASSPIDFD is 6.5 and unused before. */
#define COMPAT_SOCK_PASS ((1ul << 3) | (1ul << 4) | (1ul << 7))

/*
 * Whether every message that sk receives is to carry credentials, a security
 * label or a pidfd: SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD. The second form goes
 * when 6.12 is no longer supported.
 */
static __always_inline bool wants_credentials(struct sock *sk)
{
	struct sock___scm *scm = (void *)sk;
	struct socket *socket;

	if (bpf_core_field_exists(scm->sk_scm_credentials))
		return BPF_CORE_READ_BITFIELD(scm, sk_scm_credentials) ||
		       BPF_CORE_READ_BITFIELD(scm, sk_scm_security) ||
		       BPF_CORE_READ_BITFIELD(scm, sk_scm_pidfd);
	socket = sk->sk_socket;
	return !socket || (socket->flags & COMPAT_SOCK_PASS);
}

/*
 * Copies len bytes of a message, 1 to max; fails if it is none, or more. The
 * verifier of 6.1 does not conclude from a comparison with 0 that a size is not
 * 0, but from one with less than max. clang must not see what less is.
 */
static __always_inline long skb_load(struct __sk_buff *ctx, __u32 from,
				     void *to, __u32 len, __u32 max)
{
	__u64 less = len - 1;

	asm volatile("" : "+r"(less));
	if (less >= max)
		return -1;
	return bpf_skb_load_bytes(ctx, from, to, less + 1);
}

/*
 * Fields of the sk_buff behind a context. From 6.2 on bpf_cast_to_kern_ctx()
 * would spare the call; 6.1 lacks it.
 */
static __always_inline __u32 skb_truesize(struct __sk_buff *ctx)
{
	__u32 truesize = 0;

	bpf_probe_read_kernel(
		&truesize, sizeof(truesize),
		(void *)ctx + bpf_core_field_offset(struct sk_buff, truesize));
	return truesize;
}

/* The fds that an AF_UNIX message carries, or NULL; *known: whether it could tell. */
static __always_inline struct scm_fp_list *skb_fds(struct __sk_buff *ctx,
						   bool *known)
{
	struct scm_fp_list *fds = NULL;

	*known = !bpf_probe_read_kernel(
		&fds, sizeof(fds),
		(void *)ctx + bpf_core_field_offset(struct sk_buff, cb) +
			bpf_core_field_offset(struct unix_skb_parms, fp));
	return fds;
}

/* Whether it carries any; true if it cannot be told. */
static __always_inline bool skb_has_fds(struct __sk_buff *ctx)
{
	bool known;

	return skb_fds(ctx, &known) || !known;
}

/* What io_uring's tracepoints show ---------------------------------------- */

/*
 * The CQE of io_uring_complete. Since 6.16 the third argument is a pointer to it,
 * before it was the first of its fields: programs cannot tell, the loader can.
 */
static __always_inline void complete_cqe(const __u64 *ctx, bool pointer,
					 struct io_uring_cqe *cqe)
{
	const struct io_uring_cqe *given = (const void *)ctx[2];

	if (pointer) {
		cqe->user_data = BPF_CORE_READ(given, user_data);
		cqe->res = BPF_CORE_READ(given, res);
		cqe->flags = BPF_CORE_READ(given, flags);
	} else {
		cqe->user_data = ctx[2];
		cqe->res = (__s32)ctx[3];
		cqe->flags = (__u32)ctx[4];
	}
}

/* IORING_RECVSEND_* of a send or receive. */
static __always_inline __u16 request_send_flags(struct io_kiocb *req)
{
	struct io_sr_msg *msg =
		(void *)req + bpf_core_field_offset(struct io_kiocb, cmd);
	__u16 flags = 0;

	bpf_core_read(&flags, sizeof(flags), &msg->flags);
	return flags;
}

struct io_kiocb___buf_node {
	struct io_rsrc_node *buf_node;
} __attribute__((preserve_access_index));

/* Since 6.13 buf_index is that of sends, too. */
static __always_inline bool request_knows_send_buffer(struct io_kiocb *req)
{
	struct io_kiocb___buf_node *form = (void *)req;

	return bpf_core_field_exists(form->buf_node);
}

#endif
