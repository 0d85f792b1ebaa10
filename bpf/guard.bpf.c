/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guard of sluiced's control connections: a socket filter (SO_ATTACH_BPF) on
 * each, which runs in the client's send(). Linux 6.1 or later.
 *
 * To receive an fd is to hold it, and to close it may wait for whoever serves it,
 * uninterruptibly: a FUSE file's flush, say. So a message with an fd passes (-1)
 * only if it is one fd, of an AF_UNIX socket or a BPF map; any other is dropped
 * (0), together with its fds, in the client's own context, and sluiced is told,
 * so that it can answer.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <linux/magic.h>

#include "compat.bpf.h"
#include "guard.h"
#include "vmlinux.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define DROP 0
#define PASS -1

#define AF_UNIX 1
#define S_IFMT 0170000
#define S_IFSOCK 0140000

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, GUARD_REFUSALS_BYTES);
} refusals SEC(".maps");

static __always_inline bool is_unix_socket(struct file *file)
{
	struct socket *socket = BPF_CORE_READ(file, private_data);

	return (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) == S_IFSOCK &&
	       BPF_CORE_READ(socket, sk, __sk_common.skc_family) == AF_UNIX;
}

/* By the name that the kernel gives to the fds of maps only. */
static __always_inline bool is_map(struct file *file)
{
	static const char map[8] = "bpf-map";
	char name[8] = { 0 };

	bpf_probe_read_kernel_str(name, sizeof(name),
				  BPF_CORE_READ(file, f_path.dentry,
						d_name.name));
	for (unsigned int i = 0; i < sizeof(map); i++) {
		if (name[i] != map[i])
			return false;
	}
	return true;
}

static __always_inline bool is_harmless(struct file *file)
{
	switch (BPF_CORE_READ(file, f_inode, i_sb, s_magic)) {
	case SOCKFS_MAGIC:
		return is_unix_socket(file);
	case ANON_INODE_FS_MAGIC:
		return is_map(file);
	}
	return false;
}

static __always_inline void refuse(struct __sk_buff *ctx, __u32 count)
{
	struct guard_refusal refusal = {
		.cookie = bpf_get_socket_cookie(ctx),
		.fds = count,
	};

	/* that of a shorter message stays zero */
	bpf_skb_load_bytes(ctx, 0, &refusal.frame, sizeof(refusal.frame));
	bpf_ringbuf_output(&refusals, &refusal, sizeof(refusal), 0);
}

SEC("socket")
int guard(struct __sk_buff *ctx)
{
	struct scm_fp_list *fds;
	struct file *file;
	short count = 0;
	bool known;

	fds = skb_fds(ctx, &known);
	if (known && !fds)
		return PASS;
	bpf_core_read(&count, sizeof(count), &fds->count);
	if (count == 1 && !bpf_core_read(&file, sizeof(file), &fds->fp[0]) &&
	    is_harmless(file))
		return PASS;
	refuse(ctx, (__u32)count);
	return DROP;
}
