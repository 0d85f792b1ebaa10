/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Names and sums of what the programs count; counts.h. */
#include "counts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#define COUNT(kind, field, metric, what)                    \
	{                                                   \
#field, what, COUNT_AT(field), kind, metric \
	}
#define STEERED(...) COUNT(COUNT_STEERED, __VA_ARGS__)
#define SPILLED(...) COUNT(COUNT_SPILLED, __VA_ARGS__)
#define OTHER(...) COUNT(COUNT_OTHER, __VA_ARGS__)

const struct count counts[] = {
	STEERED(steered_inline, "inline", "in the slot"),
	STEERED(steered_small, "small", "in a landing slot of 4 KiB"),
	STEERED(steered_medium, "medium", "in a landing slot of 64 KiB"),
	STEERED(steered_large, "large", "in a landing slot of 1 MiB"),
	OTHER(steered_frames, "steered_frames_total",
	      "frames of aware senders"),
	STEERED(steered_slots, "frame", "slots in those frames"),
	OTHER(steered_pieces, "steered_pieces_total",
	      "pieces of streams, by size above"),
	OTHER(grants_taken, "steering_begins_total",
	      "times that steering began again"),
	OTHER(doorbells, "doorbells_total", "doorbells"),
	SPILLED(pass_unknown, "unknown",
		"to sockets that are not attached any more"),
	SPILLED(pass_hold, "hold", "receiver reads its queue first"),
	SPILLED(pass_charged, "charged",
		"sender had messages in the queue, or under way"),
	SPILLED(pass_no_ring, "no_ring", "endpoint is gone"),
	SPILLED(pass_ring_full, "ring_full", "ring is full"),
	SPILLED(pass_no_landing, "no_landing", "no free landing slot"),
	SPILLED(pass_too_large, "too_large", "larger than any landing slot"),
	SPILLED(pass_fds, "fds", "carry fds"),
	SPILLED(pass_options, "options", "receiver wants credentials"),
	SPILLED(pass_shutdown, "shutdown", "receiver is shut down"),
	SPILLED(pass_peer, "peer", "not from the peer"),
	SPILLED(pass_frame, "frame", "frames other than DATA"),
	SPILLED(pass_contended, "contended", "too many senders at once"),
	OTHER(pieces_lost, "lost_pieces_total",
	      "pieces of streams whose receiver was closed"),
};

_Static_assert(sizeof(counts) / sizeof(counts[0]) == COUNTS,
	       "a counter has no words");

int counts_read(int map, __u64 values[COUNTS])
{
	const int cpus = libbpf_num_possible_cpus();
	const __u32 key = 0;
	__u64 *each;
	int ret = 0;

	if (cpus < 0)
		return cpus;
	each = calloc((size_t)cpus, sizeof(struct steer_counters));
	if (!each || bpf_map_lookup_elem(map, &key, each))
		ret = -errno;
	memset(values, 0, COUNTS * sizeof(*values));
	for (size_t i = 0; !ret && i < (size_t)cpus * COUNTS; i++)
		values[i % COUNTS] += each[i];
	free(each);
	return ret;
}

static __u64 sum_of(const __u64 values[COUNTS], enum count_kind kind)
{
	__u64 sum = 0;

	for (size_t i = 0; i < COUNTS; i++) {
		if (counts[i].kind == kind)
			sum += values[counts[i].at];
	}
	return sum;
}

__u64 counts_steered(const __u64 values[COUNTS])
{
	return sum_of(values, COUNT_STEERED);
}

__u64 counts_spilled(const __u64 values[COUNTS])
{
	return sum_of(values, COUNT_SPILLED);
}
