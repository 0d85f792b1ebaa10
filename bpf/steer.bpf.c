/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The gate for AF_UNIX SEQPACKET and DGRAM: a socket filter on the receiver's
 * connected socket (SO_ATTACH_BPF), one program for all of them. It runs inside
 * the sender's send(), before the message is queued; 0 takes the message and
 * the send succeeds, -1 leaves it to the socket's queue. Linux 6.1 or later.
 *
 * Order between ring and queue (PROTOCOL.md section 15) hangs on the word of
 * the connection and on what is charged to the sender.
 */
#include "gate.bpf.h"
#include "steer.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define RCV_SHUTDOWN 1 /* net/sock.h */
#define SOCK_DGRAM 2

#define CONSUME 0
#define PASS -1

/*
 * The sender's socket in *sender and 0, or why messages to this socket must not
 * be taken. Only the sockets' mutual peers send through here: on SEQPACKET there
 * is nobody else; a DGRAM socket with a name is open to others, whom the kernel
 * turns away only after this program, and nothing tells them apart here.
 */
static __always_inline __u32 find_sender(struct __sk_buff *ctx, __u32 type,
					 struct sock **sender)
{
	struct unix_sock *receiver, *peer;
	struct bpf_sock *sk = ctx->sk;

	receiver = sk ? bpf_skc_to_unix_sock(sk) : NULL;
	if (!receiver)
		return VERDICT(pass_peer);
	if ((receiver->sk.__sk_common.skc_flags & (1ul << SOCK_DEAD)) ||
	    (receiver->sk.sk_shutdown & RCV_SHUTDOWN))
		return VERDICT(pass_shutdown);
	if (wants_credentials(&receiver->sk))
		return VERDICT(pass_options);
	*sender = receiver->peer;
	peer = *sender ? bpf_skc_to_unix_sock(*sender) : NULL;
	if (!peer || peer->peer != &receiver->sk ||
	    (type == SOCK_DGRAM && receiver->addr))
		return VERDICT(pass_peer);
	return 0;
}

/*
 * Whether order lets the ring have this message. GRANTED becomes ON only if the
 * message is alone after the swap, too: without the second look, one that was
 * sent and received in between could be overtaken.
 */
static __always_inline __u32 may_steer(__u32 *word, __u32 seen,
				       struct sock *sender, __u32 truesize)
{
	if (!alone(sender, truesize))
		return VERDICT(pass_charged);
	if (seen == SLUICE_STEER_ON)
		return 0;
	if (COMPARE_AND_SWAP(word, SLUICE_STEER_GRANTED, SLUICE_STEER_ON) !=
		    SLUICE_STEER_GRANTED ||
	    !alone(sender, truesize))
		return VERDICT(pass_charged);
	count(VERDICT(grants_taken), 1);
	return 0;
}

/* PROTOCOL.md section 15: which ring of a hashed connection gets a message. */
static __always_inline bool choose_ring(struct message *m,
					const struct steer_conn_entry *entry)
{
	__u64 key;

	if (bpf_skb_load_bytes(m->ctx, 0, &key, sizeof(key)))
		return false;
	m->ring = entry->hash_first +
		  (__u32)((key * STEER_HASH_FACTOR) >> 32) % entry->hash_count;
	return find_ring(m);
}

static __always_inline __u32 steer_message(struct message *m, __u32 *word,
					   __u32 seen,
					   const struct steer_conn_entry *entry)
{
	__u32 len = m->ctx->len, verdict;
	struct sock *sender = NULL;

	verdict = find_sender(m->ctx, entry->type, &sender);
	if (verdict)
		return verdict;
	if (skb_has_fds(m->ctx))
		return VERDICT(pass_fds);
	verdict = may_steer(word, seen, sender, skb_truesize(m->ctx));
	if (verdict)
		return verdict;
	if (entry->flags & SLUICE_ATTACH_F_FRAMES)
		return steer_frame(m, len);
	if (entry->hash_count && len >= sizeof(__u64) && !choose_ring(m, entry))
		return VERDICT(pass_no_ring);
	return len <= SLUICE_INLINE_MAX ? steer_inline(m, len) :
					  steer_landing(m, len);
}

static __always_inline __u32 steer_conn(struct message *m,
					const struct steer_conn_entry *entry)
{
	__u32 *word, seen, verdict;
	void *home;

	if (!find_ring(m))
		return VERDICT(pass_no_ring);
	home = m->slots;
	word = element(m->control,
		       STEER_HEADER + (m->conn & (m->geometry->conns - 1)));
	if (!word)
		return VERDICT(pass_no_ring);
	seen = LOAD(*word);
	if (seen == SLUICE_STEER_HOLD)
		return VERDICT(pass_hold);
	verdict = steer_message(m, word, seen, entry);
	if (VERDICT_PASSES(verdict))
		spill(home, word);
	else
		ring_doorbell(m);
	return verdict;
}

SEC("socket")
int steer(struct __sk_buff *ctx)
{
	struct message m = { .ctx = ctx, .slots_put = 1 };
	struct steer_conn_entry *entry, copy;
	__u32 verdict;

	entry = find_entry(bpf_get_socket_cookie(ctx), &copy);
	if (!entry) {
		count(VERDICT(pass_unknown), 1);
		return PASS;
	}
	m.ring = copy.ring;
	m.conn = copy.conn;
	verdict = steer_conn(&m, &copy);
	count(verdict, 1);
	if (VERDICT_PASSES(verdict)) {
		__sync_fetch_and_add(&entry->spills, 1);
		return PASS;
	}
	if (steer_config.conn_counts) {
		__sync_fetch_and_add(&entry->messages, m.slots_put);
		__sync_fetch_and_add(&entry->bytes, ctx->len);
	}
	return CONSUME;
}
