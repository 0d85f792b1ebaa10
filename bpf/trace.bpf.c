/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tells of each message that is received, for sluicectl trace: programs for the
 * static probes `send` and `recv` of libsluice (sluice_trace(7)), in whatever
 * files sluicectl attaches them to. They only watch. Linux 6.1 or later, and no
 * more of it than uprobes: no kprobes, no fentry, no types of the kernel's.
 *
 * A sender is remembered until its message is received: the side that knows it is
 * another process. An entry has one writer at a time, for a direction has one
 * sender. What is never received ends when newer ones need the room.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
/* Where an address tells probes apart, before Linux 5.15; it would need the CPU's type. */
#undef PT_REGS_IP
#define PT_REGS_IP(ctx) 0
#define BPF_USDT_MAX_IP_CNT 1
#define BPF_USDT_MAX_SPEC_CNT 1024 /* places of probes, in all files */
#include <bpf/usdt.bpf.h>

#include "trace.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TRACE_SENT);
	__type(key, struct trace_key);
	__type(value, struct trace_sender);
} trace_sent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TRACE_EVENTS_SIZE);
} trace_events SEC(".maps");

const volatile struct trace_filter trace_filter = { 0, 0, -1 };
struct trace_counts trace_counts;

static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static __always_inline __u32 current_pid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

/* Reads one argument; false: it is not in memory. */
static __always_inline bool argument(struct pt_regs *ctx, __u64 i, __u64 *value)
{
	return !bpf_usdt_arg(ctx, i, (long *)value);
}

/* Of both probes, the first two arguments; false: not to be looked at. */
static __always_inline bool read_key(struct pt_regs *ctx, struct trace_key *key)
{
	if (!argument(ctx, 0, &key->endpoint) ||
	    !argument(ctx, 1, &key->number)) {
		count(&trace_counts.unread);
		return false;
	}
	return !trace_filter.endpoint || trace_filter.endpoint == key->endpoint;
}

/* sender's endpoint, number, tag, len, lane, buffer */
SEC("usdt")
int trace_send(struct pt_regs *ctx)
{
	struct trace_sender sender = {};
	struct trace_key key;

	if (!read_key(ctx, &key) || !key.endpoint)
		return 0;
	/* Once more, if the socket was full: then this is when it was sent. */
	if (!bpf_map_lookup_elem(&trace_sent, &key))
		count(&trace_counts.sent);
	sender.at = bpf_ktime_get_ns();
	sender.pid = current_pid();
	bpf_get_current_comm(sender.comm, sizeof(sender.comm));
	bpf_map_update_elem(&trace_sent, &key, &sender, BPF_ANY);
	return 0;
}

/*
 * False: it is not known. It may never have been, or else be forgotten once the map
 * was full, or nearly: each CPU keeps some free entries for itself.
 */
static __always_inline bool find_sender(const struct trace_key *key,
					struct trace_sender *sender)
{
	struct trace_sender *found;

	if (!key->endpoint)
		return false;
	found = bpf_map_lookup_elem(&trace_sent, key);
	if (!found) {
		if (trace_counts.sent - trace_counts.paired > TRACE_SENT / 2)
			count(&trace_counts.forgotten);
		return false;
	}
	*sender = *found;
	if (!bpf_map_delete_elem(&trace_sent, key))
		count(&trace_counts.paired);
	return true;
}

static __always_inline bool is_wanted(const struct trace_event *event)
{
	return (trace_filter.lane < 0 ||
		(__u32)trace_filter.lane == event->lane) &&
	       (!trace_filter.pid || trace_filter.pid == event->receiver ||
		trace_filter.pid == event->sender.pid);
}

/* sender's endpoint, number, tag, len, lane, handle */
SEC("usdt")
int trace_recv(struct pt_regs *ctx)
{
	struct trace_event event = {};
	struct trace_key key;
	__u64 len, lane;

	event.at = bpf_ktime_get_ns();
	if (!read_key(ctx, &key))
		return 0;
	find_sender(&key, &event.sender);
	if (!argument(ctx, 2, &event.tag) || !argument(ctx, 3, &len) ||
	    !argument(ctx, 4, &lane)) {
		count(&trace_counts.unread);
		return 0;
	}
	event.endpoint = key.endpoint;
	event.number = key.number;
	event.len = len;
	event.lane = lane;
	event.receiver = current_pid();
	bpf_get_current_comm(event.comm, sizeof(event.comm));
	if (is_wanted(&event) &&
	    bpf_ringbuf_output(&trace_events, &event, sizeof(event), 0))
		count(&trace_counts.lost);
	return 0;
}
