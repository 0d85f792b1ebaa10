/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The gate for AF_UNIX STREAM from a plain sender: a verdict program on a
 * sockhash (attach type BPF_SK_SKB_VERDICT, set by hand: libbpf 1.1 has no section
 * name for it). It runs inside the sender's send(), after the piece (32 KiB at
 * most) was queued to the receiver and taken off again; SK_DROP takes it, and the
 * send succeeds. Linux 6.1 or later.
 *
 * A piece that is not steered cannot stay where it was. SK_PASS would put it in a
 * second receive queue of the same socket, uncharged and without limit, and the
 * kernel drops that queue when the sender calls shutdown(). So it is spilled:
 * redirected to a socket of the receiver's own, the spill socket, whose other end
 * it reads. Until it is there it stays charged to its sender, which so meets a
 * slow receiver; and nothing that the sender does reaches that socket.
 *
 * Order: the word is that of steer.bpf.c, but what a piece waits for is another. On
 * its way to the spill socket a piece is charged to its sender, there it is not any
 * more; so it is counted in `spilled` before it goes, and a piece is steered only if
 * all that was spilled had been read when the receiver granted (`granted`). What
 * one thread sends passes here one after the other. selftests/landing.pml is the
 * model.
 *
 * Threads that send on one socket at once may be given each other's pieces: the
 * kernel holds no lock from the queue to here. One that then stands still delays a
 * piece of another, which goes on and may so be overtaken by its own. Such threads
 * see each other's charge and are spilled, which makes that rare, and not
 * impossible: so landing is for services whose configuration says that it does not
 * happen.
 */
#include "gate.bpf.h"
#include "look.bpf.h"
#include "stream.h"
#include "steer.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/*
 * Receivers by their cookie, and their spill sockets by STREAM_SPILL of it. The
 * program uses it, so it lives for as long as one of these sockets, pinned or not.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, STREAM_CONNS * 2);
	__type(key, __u64);
	__type(value, __u64);
} streams SEC(".maps");

static __always_inline bool in_order(struct sluice_steer_conn *conn,
				     struct sock *sender, __u32 truesize)
{
	return alone(sender, truesize) &&
	       LOAD(conn->spilled) == LOAD(conn->granted);
}

/* May the ring have this piece? */
static __always_inline __u32 may_land(struct sluice_steer_conn *conn,
				      struct sock *sender, __u32 truesize)
{
	__u32 seen = LOAD(conn->word);

	if (seen == SLUICE_STEER_HOLD)
		return VERDICT(pass_hold);
	if (!in_order(conn, sender, truesize))
		return VERDICT(pass_charged);
	if (seen == SLUICE_STEER_ON)
		return 0;
	if (COMPARE_AND_SWAP(&conn->word, SLUICE_STEER_GRANTED,
			     SLUICE_STEER_ON) != SLUICE_STEER_GRANTED)
		return VERDICT(pass_charged);
	count(VERDICT(grants_taken), 1);
	return 0;
}

static __always_inline __u32 land(struct message *m, struct sock *sender)
{
	struct sluice_steer_conn *conn;
	__u32 len = m->ctx->len, verdict;
	void *home;

	if (!find_ring(m))
		return VERDICT(pass_no_ring);
	home = m->slots;
	conn = element(m->control,
		       STEER_HEADER + (m->conn & (m->geometry->conns - 1)));
	if (!conn)
		return VERDICT(pass_no_ring);
	verdict = may_land(conn, sender, skb_truesize(m->ctx));
	if (!verdict)
		verdict = len <= SLUICE_INLINE_MAX ? steer_inline(m, len) :
						     steer_landing(m, len);
	if (!VERDICT_PASSES(verdict)) {
		ring_doorbell(m);
		return verdict;
	}
	if (verdict != VERDICT(pass_hold))
		spill(home, &conn->word);
	__sync_fetch_and_add(&conn->spilled, len);
	return verdict;
}

/*
 * The piece still belongs to its sender (ctx->sk), which is in send(): so its peer,
 * the receiver, is there, though it may be closed. Its cookie was asked for by
 * sluiced. fds that came with the piece are lost, landed or spilled; sluiced has
 * the kernel refuse them where it can.
 */
SEC("sk_skb")
int stream(struct __sk_buff *ctx)
{
	struct message m = { .ctx = ctx, .slots_put = 1 };
	struct bpf_sock *sk = ctx->sk;
	struct unix_sock *sender = sk ? bpf_skc_to_unix_sock(sk) : NULL;
	struct sock *receiver = sender ? sender->peer : NULL;
	struct steer_conn_entry *entry, copy;
	__u32 verdict = VERDICT(pass_unknown);
	__u64 cookie;
	long r;

	if (!receiver) {
		count(VERDICT(pieces_lost), 1);
		return SK_DROP;
	}
	cookie = receiver->__sk_common.skc_cookie.counter;
	entry = find_entry(cookie, &copy);
	if (entry) {
		m.ring = copy.ring;
		m.conn = copy.conn;
		verdict = land(&m, &sender->sk);
	}
	count(verdict, 1);
	if (entry && !VERDICT_PASSES(verdict)) {
		count(VERDICT(steered_pieces), 1);
		if (steer_config.conn_counts) {
			__sync_fetch_and_add(&entry->messages, 1);
			__sync_fetch_and_add(&entry->bytes, ctx->len);
		}
		return SK_DROP;
	}
	if (entry)
		__sync_fetch_and_add(&entry->spills, 1);
	cookie = STREAM_SPILL(cookie);
	r = bpf_sk_redirect_hash(ctx, &streams, &cookie, 0);
	if (r != SK_PASS)
		count(VERDICT(pieces_lost), 1);
	return r;
}

/* The look ------------------------------------------------------------------ */

static __always_inline __u32 flags_of(struct unix_sock *receiver)
{
	struct look look;
	__u32 found;

	if (!look_at(receiver, STREAM_LOOK_SKBS, &look))
		return STREAM_LOOK_F_QUIET;
	found = (__u32)look.charged & STREAM_LOOK_CHARGED;
	if (looks_quiet(&look))
		found |= STREAM_LOOK_F_QUIET;
	if (looks_full(&look))
		found |= STREAM_LOOK_F_FULL;
	return found;
}

/*
 * For sluiced, by BPF_PROG_TEST_RUN: looks at a receiver whose cookie is in the
 * first 8 bytes of the packet.
 */
SEC("tc")
int stream_look(struct __sk_buff *ctx)
{
	struct unix_sock *receiver;
	struct bpf_sock *sk;
	__u32 found = STREAM_LOOK_F_QUIET;
	__u64 cookie;

	if (bpf_skb_load_bytes(ctx, 0, &cookie, sizeof(cookie)))
		return found;
	sk = bpf_map_lookup_elem(&streams, &cookie);
	if (!sk)
		return found;
	receiver = bpf_skc_to_unix_sock(sk);
	if (receiver)
		found = flags_of(receiver);
	bpf_sk_release(sk);
	return found;
}
