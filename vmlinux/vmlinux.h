/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel types that the BPF programs look into, cut down to the fields they
 * use. Offsets are those of the running kernel: CO-RE relocates each access.
 * README.md says how to regenerate a full header, and how to add to this one.
 */
#ifndef SLUICE_VMLINUX_H
#define SLUICE_VMLINUX_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), \
			     apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	unsigned short skc_family;
	unsigned long skc_flags; /* bits: enum sock_flags */
	atomic64_t skc_cookie;
};

/* net/sock.h: the bits of skc_flags */
enum sock_flags {
	SOCK_DEAD = 0,
};

struct sk_buff;

struct sk_buff_head {
	struct sk_buff *next;
};

struct socket;

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct socket *sk_socket;
	refcount_t sk_wmem_alloc;
	int sk_sndbuf;
	__u8 sk_shutdown; /* RCV_SHUTDOWN, SEND_SHUTDOWN */
};

struct socket {
	unsigned long flags;
	struct sock *sk;
};

struct unix_address;

struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct sock *peer;
};

struct super_block {
	unsigned long s_magic;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file {
	struct inode *f_inode;
	struct path f_path;
	void *private_data;
};

struct scm_fp_list {
	short count;
	struct file *fp[1];
};

struct unix_skb_parms {
	struct scm_fp_list *fp;
};

struct sk_buff {
	struct sk_buff *next;
	char cb[48]; /* in AF_UNIX: struct unix_skb_parms */
	unsigned int truesize;
};

typedef struct {
	unsigned int val;
} kuid_t;

struct user_struct {
	kuid_t uid;
};

struct io_ring_ctx {
	struct user_struct *user; /* who made it */
};

struct io_cqe {
	__u64 user_data;
};

struct io_uring_cqe {
	__u64 user_data;
	__s32 res;
	__u32 flags;
};

struct io_cmd_data {
	__u8 data[56]; /* of a send or receive: struct io_sr_msg */
};

struct io_sr_msg {
	__u16 flags; /* IORING_RECVSEND_* */
};

struct io_rsrc_node;

struct io_kiocb {
	struct io_cmd_data cmd;
	__u8 opcode;
	__u16 buf_index;
	unsigned int flags; /* the lowest: IOSQE_* */
	struct io_cqe cqe;
	struct io_ring_ctx *ctx;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct cred {
	kuid_t euid;
};

struct task_struct {
	const struct cred *real_cred;
	struct files_struct *files;
};

struct bpf_sock_addr_kern {
	void *uaddr;
	__u32 uaddrlen;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__unix {
	struct bpf_iter_meta *meta;
	struct unix_sock *unix_sk;
	__u32 uid;
};

#pragma clang attribute pop

#endif
