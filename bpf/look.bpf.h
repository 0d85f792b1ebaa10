/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What waits at an AF_UNIX STREAM socket, against what is charged to its sender.
 * Without locks: so first what is charged, then the queue. What was charged and is
 * in the queue afterwards was there all the time.
 */
#ifndef SLUICE_BPF_LOOK_BPF_H
#define SLUICE_BPF_LOOK_BPF_H

#include "compat.bpf.h"

struct look {
	struct sk_buff *end; /* the queue's head */
	struct sk_buff *next;
	__u32 length; /* of the queue, skbs */
	__u32 truesize; /* of all of them */
	int charged; /* 1 is what a living socket counts */
	int room;
};

static long look_skb(__u32 i, void *data)
{
	struct look *look = data;
	struct sk_buff *skb = look->next;

	(void)i;
	if (!skb || skb == look->end)
		return 1;
	look->truesize += BPF_CORE_READ(skb, truesize);
	look->length++;
	look->next = BPF_CORE_READ(skb, next);
	return 0;
}

/* Adds up the first `skbs` of the queue. False: it has no peer. */
static __always_inline bool look_at(struct unix_sock *receiver, __u32 skbs,
				    struct look *look)
{
	struct sock *sender = receiver->peer;

	if (!sender)
		return false;
	*look = (struct look){
		.end = (void *)receiver +
		       bpf_core_field_offset(struct sock, sk_receive_queue),
		.room = LOAD(sender->sk_sndbuf),
	};
	look->charged = LOAD(sender->sk_wmem_alloc.refs.counter);
	/* a barrier between the two */
	look->length = __sync_fetch_and_add(&look->length, 0);
	look->next = LOAD(receiver->sk.sk_receive_queue.next);
	bpf_loop(skbs, look_skb, look, 0);
	return true;
}

/* Is all that is charged in the queue, or nothing? */
static __always_inline bool looks_quiet(const struct look *look)
{
	return look->charged <= (int)(1 + look->truesize);
}

static __always_inline bool looks_full(const struct look *look)
{
	return look->charged >= look->room;
}

#endif
