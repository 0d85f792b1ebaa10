/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What sockmap.bpf.c and sluiced share, and nobody else.
 *
 *   sources   SOCKHASH, socket cookie: what these receive meets the program
 *   targets   SOCKHASH, socket cookie: what it can be sent on with
 *   flow_of   HASH, cookie of a source -> index of its flow
 *   flows     ARRAY of struct sockmap_flow, mapped by sluiced
 *   redirects PERCPU_ARRAY of one struct sockmap_counters
 *
 * A closed socket leaves both sockhashes by itself.
 */
#ifndef SLUICE_BPF_SOCKMAP_H
#define SLUICE_BPF_SOCKMAP_H

#include <linux/types.h>

#define SOCKMAP_VERSION 1
#define SOCKMAP_FLOWS 16384

/*
 * In a flow's word: redirected to its target. Without it all goes to user space,
 * the socket `hold`, and the rest of the word says how many bytes have.
 */
#define SOCKMAP_ON (1ull << 63)

/* No number of bytes held: the flow stays as it is. */
#define SOCKMAP_NEVER (~(__u64)0)

/* What one source receives, and where it goes. */
struct sockmap_flow {
	/* sluiced's, one line */
	__u64 target; /* cookies */
	__u64 hold;
	__u64 forwarded; /* bytes to the target, of those held; or NEVER */
	__u64 __resv0[5];
	/* the program's, another line; sluiced sets it before the source is one */
	__u64 word; /* SOCKMAP_ON, and bytes sent to `hold` */
	__u64 bytes; /* redirected to the target */
	__u64 messages; /* likewise: skbs */
	__u64 lost; /* bytes for which the target was not there */
	__u64 __resv1[4];
};

/* The only variable in the programs' read-only data. */
struct sockmap_config {
	__u32 version; /* SOCKMAP_VERSION */
};

/* One count for each verdict and reason, per CPU. */
struct sockmap_counters {
	__u64 redirected; /* to the target */
	__u64 redirected_bytes;
	__u64 held; /* to user space */
	__u64 held_bytes;
	__u64 switched; /* HOLD to ON */
	__u64 lost_source; /* dropped: no flow for the source */
	__u64 lost_target; /* dropped: the target has gone */
};

/*
 * What `look` returns: the length of the source's receive queue, at most
 * SOCKMAP_LOOK_QUEUE, and flags.
 */
#define SOCKMAP_LOOK_QUEUE 0xffffu
/* All that is charged to the sender is in that queue, or nothing is. */
#define SOCKMAP_LOOK_F_QUIET 0x10000u
/* The sender has no room to send more. */
#define SOCKMAP_LOOK_F_FULL 0x20000u
/* Nothing is charged to the sender. */
#define SOCKMAP_LOOK_F_IDLE 0x40000u
/* The socket is not in `targets`, or has no peer: no other flag. */
#define SOCKMAP_LOOK_F_GONE 0x80000u

#endif
