/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The gate for AF_UNIX STREAM between two plain sockets: a verdict program on a
 * sockhash (attach type BPF_SK_SKB_VERDICT, set by hand: libbpf 1.1 has no
 * section name for it). It runs inside the sender's send(), after the skb was
 * queued to a source and taken off again; SK_PASS with a target set hands the
 * skb to the target's work queue, which sends it on. It stays charged to its
 * sender until then: so a slow receiver stops the sender. Linux 6.1 or later.
 *
 * What must not happen is that an skb overtakes bytes that sluiced still
 * relays: see redirect.h in user/daemon, and selftests/sockmap.pml.
 *
 * The program cannot leave an skb where it was. SK_PASS without a target would
 * put it in a second receive queue, uncharged, from which recv() takes what it
 * finds first; so HOLD redirects as well, to a socket that sluiced reads.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "look.bpf.h"
#include "sockmap.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SOCKMAP_SOCKETS (SOCKMAP_FLOWS * 2)
#define LOOK_SKBS 65536 /* longest queue that `look` adds up */

const volatile struct sockmap_config sockmap_config = {
	.version = SOCKMAP_VERSION,
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, SOCKMAP_SOCKETS);
	__type(key, __u64);
	__type(value, __u64);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, SOCKMAP_SOCKETS * 2); /* sources, those of `hold` */
	__type(key, __u64);
	__type(value, __u64);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SOCKMAP_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} flow_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SOCKMAP_FLOWS);
	__type(key, __u32);
	__type(value, struct sockmap_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sockmap_counters);
} redirects SEC(".maps");

static __always_inline void count(__u32 what, __u64 by)
{
	struct sockmap_counters *all;
	__u32 zero = 0;

	all = bpf_map_lookup_elem(&redirects, &zero);
	if (all && what <= sizeof(*all) - sizeof(__u64))
		/* atomic: another task may preempt this one on its CPU */
		__sync_fetch_and_add((__u64 *)((void *)all + what), by);
}

#define COUNT(name, by) count(offsetof(struct sockmap_counters, name), by)

/* The redirect -------------------------------------------------------------- */

/*
 * The skb still belongs to its sender (ctx->sk), whose peer is the source. The
 * sender is in send(), so its peer cannot be replaced; at worst it has gone.
 */
static __always_inline struct sockmap_flow *find_flow(struct __sk_buff *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct unix_sock *sender = sk ? bpf_skc_to_unix_sock(sk) : NULL;
	struct sock *source = sender ? sender->peer : NULL;
	__u64 cookie;
	__u32 *index;

	if (!source)
		return NULL;
	/* sluiced has asked for the cookie, so there is one */
	cookie = source->__sk_common.skc_cookie.counter;
	index = bpf_map_lookup_elem(&flow_of, &cookie);
	return index ? bpf_map_lookup_elem(&flows, index) : NULL;
}

static __always_inline bool alone(struct __sk_buff *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct unix_sock *sender = sk ? bpf_skc_to_unix_sock(sk) : NULL;

	return sender && LOAD(sender->sk.sk_wmem_alloc.refs.counter) ==
				 (int)(1 + skb_truesize(ctx));
}

/*
 * Whether the skb may go to the target: the flow is ON, or can be now, since
 * nothing is left that this skb could overtake. All that was held before it was
 * forwarded: sluiced stores `forwarded` after it has sent the bytes to the target.
 * And nothing else is on the way from its sender, to us or to `hold`. One word
 * has both the state and what is held, so that no skb can be held in between.
 */
static __always_inline bool may_redirect(struct sockmap_flow *flow,
					 struct __sk_buff *ctx)
{
	__u64 word = LOAD(flow->word);

	if (word & SOCKMAP_ON)
		return true;
	if (LOAD(flow->forwarded) == word && alone(ctx) &&
	    __sync_val_compare_and_swap(&flow->word, word, word | SOCKMAP_ON) ==
		    word) {
		COUNT(switched, 1);
		return true;
	}
	if (!(__sync_fetch_and_add(&flow->word, ctx->len) & SOCKMAP_ON))
		return false;
	/* another thread's skb has just made it ON */
	__sync_fetch_and_add(&flow->word, -(__u64)ctx->len);
	return true;
}

SEC("sk_skb")
int redirect(struct __sk_buff *ctx)
{
	struct sockmap_flow *flow = find_flow(ctx);
	__u64 cookie;
	long verdict;

	if (!flow) {
		COUNT(lost_source, 1);
		return SK_DROP;
	}
	if (may_redirect(flow, ctx)) {
		cookie = flow->target;
		__sync_fetch_and_add(&flow->bytes, ctx->len);
		__sync_fetch_and_add(&flow->messages, 1);
		COUNT(redirected, 1);
		COUNT(redirected_bytes, ctx->len);
	} else {
		cookie = flow->hold;
		COUNT(held, 1);
		COUNT(held_bytes, ctx->len);
	}
	verdict = bpf_sk_redirect_hash(ctx, &targets, &cookie, 0);
	if (verdict != SK_PASS) {
		COUNT(lost_target, 1);
		__sync_fetch_and_add(&flow->lost, ctx->len);
	}
	return verdict;
}

/* The look ------------------------------------------------------------------ */

static __always_inline __u32 flags_of(struct unix_sock *source)
{
	struct look look;
	__u32 found;

	if (!look_at(source, LOOK_SKBS, &look))
		return SOCKMAP_LOOK_F_GONE;
	found = look.length;
	if (look.charged <= 1 && !look.length)
		found |= SOCKMAP_LOOK_F_IDLE;
	if (looks_quiet(&look))
		found |= SOCKMAP_LOOK_F_QUIET;
	if (looks_full(&look))
		found |= SOCKMAP_LOOK_F_FULL;
	return found;
}

/*
 * For sluiced, by BPF_PROG_TEST_RUN: looks at a source whose cookie is in the
 * first 8 bytes of the packet.
 */
SEC("tc")
int look(struct __sk_buff *ctx)
{
	__u32 found = SOCKMAP_LOOK_F_GONE;
	struct unix_sock *source;
	struct bpf_sock *sk;
	__u64 cookie;

	if (bpf_skb_load_bytes(ctx, 0, &cookie, sizeof(cookie)))
		return found;
	sk = bpf_map_lookup_elem(&targets, &cookie);
	if (!sk)
		return found;
	source = bpf_skc_to_unix_sock(sk);
	if (source)
		found = flags_of(source);
	bpf_sk_release(sk);
	return found;
}
