/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The table of features, and what all probes use.
 */
#include "probe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <bpf/libbpf.h>

const char *const probe_uses[USES] = {
	[USE_LANES] = "lanes",
	[USE_STEERED] = "steered",
	[USE_SERVICES] = "services",
	[USE_TRACING] = "tracing",
};
const char *const probe_results[] = { "yes", "no", "unknown" };

/* In the order in which they are tried and shown. */
const struct probe_feature probe_features[] = {
	/* queued and direct lanes, no privilege */
	{ "memfd-seals", "shared memory that only its owner writes", USE_LANES,
	  true, probe_memfd_seals },
	{ "memfd-huge", "pools on huge pages", USE_LANES, false,
	  probe_memfd_huge },
	{ "membarrier", "no fence per message: membarrier GLOBAL_EXPEDITED",
	  USE_LANES, false, probe_membarrier },
	{ "io-uring", "io_uring", USE_LANES, false, probe_io_uring },
	{ "passrights", "sockets that refuse fds: SO_PASSRIGHTS", USE_LANES,
	  false, probe_passrights },
	/* steered lane */
	{ "bpf", "loading BPF programs", USE_STEERED, true, probe_bpf_load },
	{ "bpf-helpers", "helpers that the steering programs call", USE_STEERED,
	  true, probe_helpers },
	{ "btf", "kernel type information: /sys/kernel/btf/vmlinux",
	  USE_STEERED, true, probe_btf },
	{ "bpffs", "pins that outlive sluiced: a mounted bpf file system",
	  USE_STEERED, false, probe_bpffs },
	{ "frozen-array", "BPF writes memory that user space only reads",
	  USE_STEERED, true, probe_frozen_array },
	{ "ringbuf", "BPF wakes a process that polls a ring buffer",
	  USE_STEERED, true, probe_ringbuf },
	{ "filter-seqpacket", "a socket filter consumes SEQPACKET messages",
	  USE_STEERED, true, probe_filter_seqpacket },
	{ "filter-dgram", "a socket filter consumes DGRAM messages",
	  USE_STEERED, false, probe_filter_dgram },
	{ "filter-stream", "a socket filter consumes STREAM messages",
	  USE_STEERED, false, probe_filter_stream },
	{ "no-lockdown", "the kernel is not locked down", USE_STEERED, false,
	  probe_lockdown },
	{ "unprivileged-bpf", "BPF without privilege", USE_STEERED, false,
	  probe_unprivileged_bpf },
	/* plain to plain, services */
	{ "sockmap-stream", "sockmap takes AF_UNIX STREAM", USE_SERVICES, false,
	  probe_sockmap_stream },
	{ "sockmap-dgram", "sockmap takes AF_UNIX DGRAM", USE_SERVICES, false,
	  probe_sockmap_dgram },
	{ "sockmap-seqpacket", "sockmap takes AF_UNIX SEQPACKET", USE_SERVICES,
	  false, probe_sockmap_seqpacket },
	{ "landing-stream", "a verdict program consumes pieces of a STREAM",
	  USE_SERVICES, false, probe_landing_stream },
	{ "userfaultfd", "a receive waits at a page: userfaultfd", USE_SERVICES,
	  false, probe_userfaultfd },
	{ "connect-unix", "cgroup/connect_unix sees connect()", USE_SERVICES,
	  false, probe_connect_unix },
	{ "cgroup-sockopt", "socket options of our own on AF_UNIX",
	  USE_SERVICES, false, probe_cgroup_sockopt },
	{ "uring-sockopt", "the same through io_uring", USE_SERVICES, false,
	  probe_uring_sockopt },
	{ "arena", "BPF arena", USE_SERVICES, false, probe_arena },
	{ "uring-ops", "BPF runs the io_uring loop: the in-kernel switch",
	  USE_SERVICES, false, probe_uring_ops },
	/* tracing */
	{ "tp-io-uring", "BPF sees io_uring submissions: tp_btf", USE_TRACING,
	  false, probe_tp_io_uring },
	{ "iter-unix", "BPF lists AF_UNIX sockets: iter/unix", USE_TRACING,
	  false, probe_iter_unix },
	{ "fentry", "BPF at kernel functions: fentry", USE_TRACING, false,
	  probe_fentry },
	{ "lsm", "BPF at security hooks: LSM", USE_TRACING, false, probe_lsm },
};
const unsigned int probe_feature_count =
	sizeof(probe_features) / sizeof(probe_features[0]);

const struct probe_feature *probe_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < probe_feature_count; i++) {
		if (!strcmp(probe_features[i].name, name))
			return &probe_features[i];
	}
	return NULL;
}

enum probe_result probe_run(const struct probe_feature *feature,
			    char why[PROBE_WHY])
{
	/* Refusals are answers here, not errors to print. */
	const libbpf_print_fn_t print = libbpf_set_print(NULL);
	enum probe_result result;

	why[0] = 0;
	result = feature->probe(why);
	libbpf_set_print(print);
	return result;
}

enum probe_result probe_no(char why[PROBE_WHY], const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why, PROBE_WHY, format, args);
	va_end(args);
	return PROBE_NO;
}

enum probe_result probe_failed(char why[PROBE_WHY], const char *what)
{
	const int error = errno;

	if ((error == EPERM || error == EACCES) && geteuid()) {
		snprintf(why, PROBE_WHY, "needs root (%s)", what);
		return PROBE_UNKNOWN;
	}
	return probe_no(why, "%s: %s", what, strerror(error));
}
