/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Lists the AF_UNIX sockets that live: their cookies, 8 bytes each, no
 * separators. An iterator, for sluiced, which drops the entries of all others. It
 * sees the network namespace of the process that opens it: sockets of another
 * are not dead because they are not here. Linux 6.1 or later. Returns 0: go on.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "vmlinux.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("iter/unix")
int socket_list(struct bpf_iter__unix *ctx)
{
	struct unix_sock *sk = ctx->unix_sk;
	__u64 cookie;

	if (!sk)
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	bpf_seq_write(ctx->meta->seq, &cookie, sizeof(cookie));
	return 0;
}
