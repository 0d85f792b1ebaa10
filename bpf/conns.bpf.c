/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Lists the steered connections as text, a line each: an iterator over AF_UNIX
 * sockets that shows those with an entry in steer.bpf.c's map `conns`, to be
 * pinned as a file. Whoever reads it sees the sockets of its own network
 * namespace that are still open. Linux 6.1 or later. Returns 0: go on.
 *
 * `bpftool iter pin` can pass a program no map but by a pin of the map's name
 * in /sys/fs/bpf: `make load` makes one for the moment. (iter/bpf_map_elem
 * would need none, but is refused where the kernel is locked down.)
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "steer.h"
#include "vmlinux.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SOCK_DGRAM 2

#define HEADINGS                                                         \
	"  cookie endpoint ring       conn        uid type     messages" \
	"            bytes   spills\n"
#define LINE "%8llu %8llu %4u 0x%08x %10u %-9s %7llu %16llu %8llu\n"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STEER_CONNS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u64);
	__type(value, struct steer_conn_entry);
} sluice_conns SEC(".maps");

SEC("iter/unix")
int conn_list(struct bpf_iter__unix *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct unix_sock *sk = ctx->unix_sk;
	struct steer_conn_entry *entry;
	__u64 cookie;

	if (ctx->meta->seq_num == 0)
		BPF_SEQ_PRINTF(seq, HEADINGS);
	if (!sk)
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	entry = bpf_map_lookup_elem(&sluice_conns, &cookie);
	if (!entry)
		return 0;
	BPF_SEQ_PRINTF(seq, LINE, cookie, entry->endpoint, entry->ring,
		       entry->conn, entry->uid,
		       entry->type == SOCK_DGRAM ? "dgram" : "seqpacket",
		       entry->messages, entry->bytes, entry->spills);
	return 0;
}
