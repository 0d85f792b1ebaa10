/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What sluicectl status knows: snapshot.c fills it, status.c shows it.
 */
#ifndef CTL_STATUS_H
#define CTL_STATUS_H

#include "ctl.h"

#include <counts.h>

struct conn_state {
	__u64 cookie;
	struct steer_conn_entry entry;
	int word; /* SLUICE_STEER_*, or -1: unknown */
};

/* How many connections of an endpoint are in which state. */
struct conn_sums {
	unsigned int states[3]; /* by SLUICE_STEER_* */
	__u64 messages, bytes, spills;
};

struct snapshot {
	struct sluice_control_use use;
	struct sluice_control_record *records;
	unsigned int record_count;
	struct sluice_control_service *services;
	unsigned int service_count;
	int pins_error; /* 0, or why there is nothing below: -errno */
	__u64 counts[COUNTS];
	struct conn_state *conns;
	unsigned int conn_count;
	double at; /* seconds, of some clock */
};

/* 0 or an exit code. Free it either way. */
int snapshot_take(struct snapshot *snapshot, int control,
		  const struct ctl_options *options);
void snapshot_free(struct snapshot *snapshot);
void snapshot_sum(const struct snapshot *snapshot, __u64 endpoint,
		  struct conn_sums *sums);

/* Of all rings of an endpoint. */
struct ring_sums {
	__u32 published; /* slots; wraps, as the positions do */
	__u64 unread; /* published and not taken */
	__u32 held; /* landing slots that are not free */
	__u32 asleep; /* rings whose receiver sleeps */
};

/* rings.c: 0 or -errno. A ring that is gone counts for nothing. */
int rings_sum(const char *pins, const struct sluice_control_record *record,
	      struct ring_sums *sums);

/* status.c */
/* "18.3 MiB"; good for the next three calls. */
const char *bytes_text(double bytes);
/* Name or number; good until the next call. */
const char *user_text(__u32 uid);

/* services.c */
json_t *services_json(const struct snapshot *snapshot);
void services_print(const struct snapshot *snapshot);

#endif
