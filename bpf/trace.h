/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What trace.bpf.c and sluicectl share.
 *
 *   trace_sent    LRU_HASH, struct trace_key -> struct trace_sender
 *   trace_events  RINGBUF of struct trace_event
 */
#ifndef SLUICE_BPF_TRACE_H
#define SLUICE_BPF_TRACE_H

#include <linux/types.h>

#define TRACE_SENT 65536 /* on their way, of which the sender is known */
#define TRACE_EVENTS_SIZE (1 << 20) /* bytes that nobody has read yet */
#define TRACE_COMM 16

/* Set before the programs are loaded: what is shown. */
struct trace_filter {
	__u64 endpoint; /* that sends; 0: all */
	__u32 pid; /* of either side; 0: all */
	__s32 lane; /* less than 0: all */
};

struct trace_key {
	__u64 endpoint; /* that sends */
	__u64 number;
};

struct trace_sender {
	__u64 at; /* CLOCK_MONOTONIC */
	__u32 pid;
	__u32 __resv;
	char comm[TRACE_COMM];
};

/* A message, or a part of one, is received. */
struct trace_event {
	__u64 at;
	__u64 endpoint; /* that sends; 0: a plain one */
	__u64 tag;
	__u32 number;
	__u32 len;
	__u32 lane;
	__u32 receiver;
	char comm[TRACE_COMM]; /* of the receiver */
	struct trace_sender sender; /* pid 0: not known */
};

struct trace_counts {
	__u64 sent; /* put into trace_sent, each message once */
	__u64 paired; /* found there, and taken out */
	__u64 forgotten; /* received, and no longer there: maybe, see trace.bpf.c */
	__u64 lost; /* to be shown, but trace_events was full */
	__u64 unread; /* whose arguments could not be read */
};

#endif
