/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl status: endpoints, connections, what was steered and what was not.
 */
#include "status.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const words[] = { "queued", "granted", "steered" };

static const char *word_text(int word)
{
	return word < 0 ? "unknown" : words[word];
}

const char *bytes_text(double bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	static char texts[4][24];
	static unsigned int next;
	char *text = texts[next++ % 4];
	unsigned int unit = 0;

	for (; bytes >= 1024 && unit < 4; unit++)
		bytes /= 1024;
	snprintf(text, sizeof(texts[0]), unit ? "%.1f %s" : "%.0f %s", bytes,
		 units[unit]);
	return text;
}

/* Per second, between two snapshots; < 0: not measured. */
static double rate(__u64 before, __u64 after, double seconds)
{
	return seconds > 0 ? (double)(after - before) / seconds : -1;
}

static const char *rate_text(double rate)
{
	static char texts[4][32];
	static unsigned int next;
	char *text = texts[next++ % 4];

	text[0] = 0;
	if (rate >= 0)
		snprintf(text, sizeof(texts[0]), "%12.0f/s", rate);
	return text;
}

static json_t *rate_json(double rate)
{
	return rate < 0 ? json_null() : json_real(rate);
}

/* JSON -------------------------------------------------------------------- */

static json_t *endpoint_json(const struct snapshot *s,
			     const struct sluice_control_record *r)
{
	struct conn_sums sums;

	snapshot_sum(s, r->endpoint, &sums);
	return json_pack(
		"{s:I, s:I, s:I, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:[I,I,I], "
		"s:{s:I, s:I, s:I}, s:I}",
		"endpoint", (json_int_t)r->endpoint, "uid", (json_int_t)r->uid,
		"pid", (json_int_t)r->pid, "comm", (const char *)r->comm,
		"orphan", r->flags & SLUICE_RECORD_F_ORPHAN ? 1 : 0, "rings",
		(json_int_t)r->rings, "ring_slots", (json_int_t)r->ring_slots,
		"map_bytes", (json_int_t)r->map_bytes, "conns",
		(json_int_t)r->conns, "conn_limit",
		(json_int_t)r->conn_limit * r->rings, "landing",
		(json_int_t)r->landing[0] * 16, (json_int_t)r->landing[1],
		(json_int_t)r->landing[2], "lanes", "queued",
		(json_int_t)sums.states[SLUICE_STEER_HOLD], "granted",
		(json_int_t)sums.states[SLUICE_STEER_GRANTED], "steered",
		(json_int_t)sums.states[SLUICE_STEER_ON], "spilled",
		(json_int_t)sums.spills);
}

static json_t *conn_json(const struct conn_state *conn)
{
	const struct steer_conn_entry *e = &conn->entry;

	return json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:s, s:b, s:b, s:s, s:I, s:I, s:I}",
		"cookie", (json_int_t)conn->cookie, "endpoint",
		(json_int_t)e->endpoint, "ring", (json_int_t)e->ring, "conn",
		(json_int_t)e->conn, "uid", (json_int_t)e->uid, "type",
		e->type == 2 ? "dgram" : "seqpacket", "aware_peer",
		e->flags & SLUICE_ATTACH_F_FRAMES ? 1 : 0, "hash",
		e->hash_count ? 1 : 0, "lane", word_text(conn->word),
		"messages", (json_int_t)e->messages, "bytes",
		(json_int_t)e->bytes, "spilled", (json_int_t)e->spills);
}

static json_t *counts_json(const struct snapshot *before,
			   const struct snapshot *after)
{
	const double seconds = after->at - before->at;
	json_t *json = json_object();
	unsigned int i, at;

	for (i = 0; i < COUNTS; i++) {
		at = counts[i].at;
		json_object_set_new(
			json, counts[i].name,
			json_pack("{s:I, s:o}", "total",
				  (json_int_t)after->counts[at], "per_s",
				  rate_json(rate(before->counts[at],
						 after->counts[at], seconds))));
	}
	return json;
}

static json_t *status_json(const struct ctl_options *options,
			   const struct snapshot *before,
			   const struct snapshot *after)
{
	const struct sluice_control_use *use = &after->use;
	json_t *json, *endpoints = json_array(), *conns = json_array();
	unsigned int i;

	for (i = 0; i < after->record_count; i++)
		json_array_append_new(endpoints,
				      endpoint_json(after, &after->records[i]));
	for (i = 0; i < after->conn_count; i++)
		json_array_append_new(conns, conn_json(&after->conns[i]));
	json = json_pack(
		"{s:s, s:I, s:b, s:{s:I, s:I, s:I, s:I, s:I, s:I}, s:o}",
		"control", options->control, "version",
		(json_int_t)use->version, "draining",
		use->flags & SLUICE_USE_F_DRAINING ? 1 : 0, "use", "endpoints",
		(json_int_t)use->endpoints, "endpoint_limit",
		(json_int_t)use->endpoint_limit, "conns",
		(json_int_t)use->conns, "conn_limit",
		(json_int_t)use->conn_limit, "map_bytes",
		(json_int_t)use->map_bytes, "map_bytes_limit",
		(json_int_t)use->map_bytes_limit, "endpoints", endpoints);
	json_object_set_new(json, "services", services_json(after));
	if (after->pins_error) {
		json_decref(conns);
		json_object_set_new(json, "pins_error",
				    json_string(strerror(-after->pins_error)));
		return json;
	}
	json_object_set_new(json, "conns", conns);
	json_object_set_new(json, "counters", counts_json(before, after));
	return json;
}

/* Text -------------------------------------------------------------------- */

const char *user_text(__u32 uid)
{
	static char text[32];
	const struct passwd *user = getpwuid(uid);

	if (user)
		snprintf(text, sizeof(text), "%s", user->pw_name);
	else
		snprintf(text, sizeof(text), "%u", uid);
	return text;
}

static void endpoints_print(const struct snapshot *s)
{
	const struct sluice_control_record *r = s->records;
	struct conn_sums sums;
	unsigned int i;

	if (!s->record_count)
		return;
	printf("\n%9s  %-10s %7s  %-15s %5s %6s %8s %8s %9s %10s\n", "endpoint",
	       "user", "pid", "command", "rings", "conns", "steered", "queued",
	       "spilled", "memory");
	for (i = 0; i < s->record_count; i++, r++) {
		snapshot_sum(s, r->endpoint, &sums);
		printf("%9llu  %-10s %7u  %-15s %5u %6u ",
		       (unsigned long long)r->endpoint, user_text(r->uid),
		       r->pid,
		       r->flags & SLUICE_RECORD_F_ORPHAN ? "(orphan)" :
							   (char *)r->comm,
		       r->rings, r->conns);
		if (s->pins_error)
			printf("%8s %8s %9s", "?", "?", "?");
		else
			printf("%8u %8u %9llu", sums.states[SLUICE_STEER_ON],
			       sums.states[SLUICE_STEER_HOLD] +
				       sums.states[SLUICE_STEER_GRANTED],
			       (unsigned long long)sums.spills);
		printf(" %10s\n", bytes_text((double)r->map_bytes));
	}
}

static void conns_print(const struct snapshot *s)
{
	const struct conn_state *conn = s->conns;
	unsigned int i;

	if (!s->conn_count)
		return;
	printf("\n%12s %9s %5s %10s  %-9s %-6s %-8s %12s %10s %9s\n", "cookie",
	       "endpoint", "ring", "conn", "type", "peer", "lane", "steered",
	       "bytes", "spilled");
	for (i = 0; i < s->conn_count; i++, conn++)
		printf("%12llu %9llu %5u %10u  %-9s %-6s %-8s %12llu %10s %9llu\n",
		       (unsigned long long)conn->cookie,
		       (unsigned long long)conn->entry.endpoint,
		       conn->entry.ring, conn->entry.conn,
		       conn->entry.type == 2 ? "dgram" : "seqpacket",
		       conn->entry.flags & SLUICE_ATTACH_F_FRAMES ? "aware" :
								    "plain",
		       word_text(conn->word),
		       (unsigned long long)conn->entry.messages,
		       bytes_text((double)conn->entry.bytes),
		       (unsigned long long)conn->entry.spills);
}

static void count_print(const char *what, __u64 before, __u64 after,
			double seconds)
{
	printf("  %-46s %14llu%s\n", what, (unsigned long long)after,
	       rate_text(rate(before, after, seconds)));
}

/* All counts of a kind that are not 0, under their sum. */
static void counts_print(const struct snapshot *before,
			 const struct snapshot *after, const char *title,
			 __u64 (*sum)(const __u64 values[COUNTS]), bool spilled)
{
	const double seconds = after->at - before->at;
	unsigned int i, at;

	printf("\n%-48s %14llu%s\n", title,
	       (unsigned long long)sum(after->counts),
	       rate_text(
		       rate(sum(before->counts), sum(after->counts), seconds)));
	for (i = 0; i < COUNTS; i++) {
		at = counts[i].at;
		if (after->counts[at] &&
		    (counts[i].kind == COUNT_SPILLED) == spilled)
			count_print(counts[i].what, before->counts[at],
				    after->counts[at], seconds);
	}
}

static void status_print(const struct ctl_options *options,
			 const struct snapshot *before,
			 const struct snapshot *after)
{
	const struct sluice_control_use *use = &after->use;

	printf("sluiced at %s%s: %u endpoints, %u connections, %s of maps%s\n",
	       options->control,
	       use->flags & SLUICE_USE_F_DRAINING ? ", draining" : "",
	       use->endpoints, use->conns, bytes_text((double)use->map_bytes),
	       geteuid() ? " (yours; root sees all)" : "");
	endpoints_print(after);
	services_print(after);
	if (after->pins_error) {
		printf("\nNo counters: %s/counters: %s%s\n", options->pins,
		       strerror(-after->pins_error),
		       geteuid() ? " (needs root)" : "; give sluiced's --pins");
		return;
	}
	if (options->conns)
		conns_print(after);
	counts_print(before, after, "Messages steered", counts_steered, false);
	counts_print(before, after, "Messages left to the sockets' queues",
		     counts_spilled, true);
}

static int run(const struct ctl_options *options)
{
	struct snapshot before = { 0 }, after = { 0 };
	int fd = control_open(options, false), ret;

	if (fd < 0)
		return -fd;
	ret = snapshot_take(&before, fd, options);
	if (!ret && options->interval > 0 && !before.pins_error) {
		ctl_sleep(options->interval);
		ret = snapshot_take(&after, fd, options);
	} else if (!ret) {
		after = before;
	}
	if (!ret && options->json)
		ret = ctl_json(status_json(options, &before, &after), 0);
	else if (!ret)
		status_print(options, &before, &after);
	if (after.records != before.records || after.conns != before.conns)
		snapshot_free(&after);
	snapshot_free(&before);
	close(fd);
	return ret;
}

const struct ctl_command ctl_status = {
	.name = "status",
	.summary = "endpoints, connections, what is steered and what is not",
	.help = "[--json] [--conns] [--interval S] [--control PATH] [--pins DIR]\n"
		"Shows what sluiced does. Counters, lanes and other people's endpoints are for\n"
		"root; rates are over an interval.\n\n"
		"  --json           as JSON, with every connection\n"
		"  --conns          every connection\n"
		"  --interval S     seconds to measure rates; 0: no rates (1)\n"
		"  --control PATH   sluiced's control socket (" SLUICE_CONTROL_PATH
		")\n"
		"  --pins DIR       where it pins (" PINS_DEFAULT ")\n",
	.letters = "jcisp",
	.run = run,
};
