/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What this kernel can and cannot do of what sluice uses, found out by doing it,
 * never by its version. The table is probe.c's; sluicectl prints it, and tests
 * ask it why they must skip. One thread; nothing that a probe makes is left.
 */
#ifndef CTL_PROBE_H
#define CTL_PROBE_H

#include <stdbool.h>

enum probe_result {
	PROBE_YES,
	PROBE_NO,
	PROBE_UNKNOWN, /* could not be tried */
};

#define PROBE_WHY 160

/* What a feature is for. */
enum probe_use { USE_LANES, USE_STEERED, USE_SERVICES, USE_TRACING, USES };

struct probe_feature {
	const char *name;
	const char *what; /* for people */
	enum probe_use use;
	bool needed; /* there is no such use without it */
	/* Unless YES, writes why: one line without its end. */
	enum probe_result (*probe)(char why[PROBE_WHY]);
};

extern const struct probe_feature probe_features[];
extern const unsigned int probe_feature_count;
extern const char *const probe_uses[USES];
extern const char *const probe_results[]; /* "yes", "no", "unknown" */

/* NULL: there is none of that name. */
const struct probe_feature *probe_find(const char *name);

/* why is "" after YES, except for what is worth knowing. */
enum probe_result probe_run(const struct probe_feature *feature,
			    char why[PROBE_WHY]);

/* For the probes -------------------------------------------------------- */

enum probe_result probe_no(char why[PROBE_WHY], const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/*
 * `what` failed with errno: NO, with the reason; but UNKNOWN if it was refused
 * because this process is not root's.
 */
enum probe_result probe_failed(char why[PROBE_WHY], const char *what);

enum probe_result probe_memfd_seals(char why[PROBE_WHY]);
enum probe_result probe_memfd_huge(char why[PROBE_WHY]);
enum probe_result probe_membarrier(char why[PROBE_WHY]);
enum probe_result probe_io_uring(char why[PROBE_WHY]);
enum probe_result probe_passrights(char why[PROBE_WHY]);
enum probe_result probe_bpffs(char why[PROBE_WHY]);
enum probe_result probe_lockdown(char why[PROBE_WHY]);
enum probe_result probe_unprivileged_bpf(char why[PROBE_WHY]);

enum probe_result probe_bpf_load(char why[PROBE_WHY]);
enum probe_result probe_helpers(char why[PROBE_WHY]);
enum probe_result probe_btf(char why[PROBE_WHY]);
enum probe_result probe_filter_seqpacket(char why[PROBE_WHY]);
enum probe_result probe_filter_dgram(char why[PROBE_WHY]);
enum probe_result probe_filter_stream(char why[PROBE_WHY]);
enum probe_result probe_frozen_array(char why[PROBE_WHY]);
enum probe_result probe_ringbuf(char why[PROBE_WHY]);
enum probe_result probe_arena(char why[PROBE_WHY]);

enum probe_result probe_sockmap_stream(char why[PROBE_WHY]);
enum probe_result probe_sockmap_dgram(char why[PROBE_WHY]);
enum probe_result probe_sockmap_seqpacket(char why[PROBE_WHY]);
enum probe_result probe_landing_stream(char why[PROBE_WHY]);
enum probe_result probe_userfaultfd(char why[PROBE_WHY]);

enum probe_result probe_connect_unix(char why[PROBE_WHY]);
enum probe_result probe_cgroup_sockopt(char why[PROBE_WHY]);
enum probe_result probe_uring_sockopt(char why[PROBE_WHY]);

enum probe_result probe_tp_io_uring(char why[PROBE_WHY]);
enum probe_result probe_iter_unix(char why[PROBE_WHY]);
enum probe_result probe_fentry(char why[PROBE_WHY]);
enum probe_result probe_lsm(char why[PROBE_WHY]);
enum probe_result probe_uring_ops(char why[PROBE_WHY]);

#endif
