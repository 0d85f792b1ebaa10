/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Asks sluiced for its endpoints, and the pinned maps for the rest. Traffic goes
 * on meanwhile, so figures of one snapshot may differ by some messages.
 */
#include "status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>

/* The counters of all CPUs together. */
static int counters_read(const char *pins, __u64 values[COUNTS])
{
	const int map = pins_map(pins, "counters");
	int ret;

	if (map < 0)
		return map;
	ret = counts_read(map, values);
	close(map);
	return ret;
}

/* conn_limit of the endpoint, or 0. */
static __u32 conn_limit(const struct snapshot *snapshot, __u64 endpoint)
{
	unsigned int i;

	for (i = 0; i < snapshot->record_count; i++) {
		if (snapshot->records[i].endpoint == endpoint)
			return snapshot->records[i].conn_limit;
	}
	return 0;
}

/* The connection's word in its ring's control map. */
static int word_read(const struct snapshot *snapshot, int controls,
		     const struct steer_conn_entry *entry)
{
	const __u32 limit = conn_limit(snapshot, entry->endpoint);
	struct sluice_steer_conn line;
	__u32 id, key;
	int control, ret;

	if (!limit || bpf_map_lookup_elem(controls, &entry->ring, &id))
		return -1;
	control = bpf_map_get_fd_by_id(id);
	if (control < 0)
		return -1;
	key = SLUICE_MAP_HEADER / sizeof(line) + (entry->conn & (limit - 1));
	ret = bpf_map_lookup_elem(control, &key, &line);
	close(control);
	return ret || line.word > SLUICE_STEER_ON ? -1 : (int)line.word;
}

/* Connections come and go: no more than could be there at once. */
static int conns_read(struct snapshot *snapshot, const char *pins)
{
	const int map = pins_map(pins, "conns");
	const int controls = pins_map(pins, "controls");
	struct conn_state *conn;
	__u64 key, *last = NULL;
	int ret = map < 0 ? map : controls < 0 ? controls : 0;
	void *more;

	while (!ret && snapshot->conn_count < STEER_CONNS &&
	       !bpf_map_get_next_key(map, last, &key)) {
		last = &key;
		if (!(snapshot->conn_count & (snapshot->conn_count - 1))) {
			more = realloc(snapshot->conns,
				       (2 * snapshot->conn_count + 1) *
					       sizeof(*conn));
			if (!more) {
				ret = -ENOMEM;
				break;
			}
			snapshot->conns = more;
		}
		conn = &snapshot->conns[snapshot->conn_count];
		if (bpf_map_lookup_elem(map, &key, &conn->entry))
			continue; /* gone */
		conn->cookie = key;
		conn->word = word_read(snapshot, controls, &conn->entry);
		snapshot->conn_count++;
	}
	if (map >= 0)
		close(map);
	if (controls >= 0)
		close(controls);
	return ret;
}

int snapshot_take(struct snapshot *snapshot, int control,
		  const struct ctl_options *options)
{
	struct timespec now;
	int ret;

	memset(snapshot, 0, sizeof(*snapshot));
	ret = control_query(control, &snapshot->use);
	if (!ret)
		ret = control_list(control, &snapshot->records,
				   &snapshot->record_count);
	if (!ret)
		ret = control_services(control, &snapshot->services,
				       &snapshot->service_count);
	if (ret)
		return ret;
	snapshot->pins_error = counters_read(options->pins, snapshot->counts);
	clock_gettime(CLOCK_MONOTONIC, &now);
	snapshot->at = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
	if (!snapshot->pins_error)
		snapshot->pins_error = conns_read(snapshot, options->pins);
	return 0;
}

void snapshot_free(struct snapshot *snapshot)
{
	free(snapshot->records);
	free(snapshot->conns);
	free(snapshot->services);
}

void snapshot_sum(const struct snapshot *snapshot, __u64 endpoint,
		  struct conn_sums *sums)
{
	const struct conn_state *conn = snapshot->conns;
	unsigned int i;

	memset(sums, 0, sizeof(*sums));
	for (i = 0; i < snapshot->conn_count; i++, conn++) {
		if (conn->entry.endpoint != endpoint)
			continue;
		if (conn->word >= 0)
			sums->states[conn->word]++;
		sums->messages += conn->entry.messages;
		sums->bytes += conn->entry.bytes;
		sums->spills += conn->entry.spills;
	}
}
