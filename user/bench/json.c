/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The results as JSON. What was not or cannot be measured is null.
 */
#include "bench.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static json_t *figure(double value, bool known)
{
	return known ? json_real(value) : json_null();
}

/* By side, where one sends and the other receives. */
static void sides_json(json_t *json, const struct bench_row *row, bool known)
{
	static const char *const names[2][3] = {
		{ "tx_cpu_ns_per_msg", "tx_busy_ns_per_msg",
		  "tx_calls_per_msg" },
		{ "rx_cpu_ns_per_msg", "rx_busy_ns_per_msg",
		  "rx_calls_per_msg" },
	};
	const bool one_way = known && row->c.pattern != PATTERN_PINGPONG &&
			     !row->c.system->solo;
	int i;

	for (i = 0; i < 2; i++) {
		json_object_set_new(json, names[i][0],
				    figure(row->side_cpu_ns[i], one_way));
		json_object_set_new(json, names[i][1],
				    figure(row->side_busy_ns[i],
					   one_way && row->c.system->idle &&
						   row->c.mode == MODE_SPIN));
		json_object_set_new(json, names[i][2],
				    figure(row->side_calls[i],
					   one_way && row->calls_known));
	}
	json_object_set_new(json, "calls_per_msg",
			    figure(row->calls, row->calls_known));
}

static json_t *burst_json(const struct bench_case *c)
{
	return c->senders ? json_integer(c->burst) : json_null();
}

static json_t *row_json(const struct bench_row *row)
{
	const bool known = row->sample_count > 0;
	const bool pingpong = known && row->c.pattern == PATTERN_PINGPONG;
	const double runs = row->kept ? row->kept : row->sample_count;
	json_t *json;

	json = json_pack(
		"{s:s, s:s, s:s, s:I, s:s, s:o}", "system", row->c.system->name,
		"pattern", bench_patterns[row->c.pattern], "mode",
		bench_modes[row->c.mode], "size", (json_int_t)row->c.size,
		"touch", bench_touches[row->c.touch], "senders",
		row->c.senders ? json_integer(row->c.senders) : json_null());
	json_object_set_new(json, "burst", burst_json(&row->c));
	json_object_set_new(json, "p50_ns", figure(row->p50_ns, pingpong));
	json_object_set_new(json, "p99_ns", figure(row->p99_ns, pingpong));
	json_object_set_new(json, "p999_ns", figure(row->p999_ns, pingpong));
	json_object_set_new(json, "msgs_per_s",
			    figure(row->messages_per_s, known));
	json_object_set_new(json, "bytes_per_s",
			    figure(row->bytes_per_s, known));
	json_object_set_new(json, "cpu_ns_per_msg", figure(row->cpu_ns, known));
	sides_json(json, row, known);
	json_object_set_new(json, "runs", json_integer((json_int_t)runs));
	json_object_set_new(json, "spread_pct", figure(row->spread, known));
	json_object_set_new(json, "ctx_switches_per_msg",
			    figure(row->switches, known));
	json_object_set_new(json, "frames_per_msg",
			    figure(row->frames,
				   known && row->c.system->frames));
	json_object_set_new(json, "spilled_per_msg",
			    figure(row->spilled,
				   known && row->c.system->sluiced));
	json_object_set_new(json, "discarded",
			    json_integer((json_int_t)row->discarded));
	if (row->reason[0])
		json_object_set_new(json, "reason", json_string(row->reason));
	return json;
}

/* "model name" of the first CPU; "" where /proc/cpuinfo has none. */
static void cpu_model(char *model, size_t size)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char line[256];
	char *value;

	model[0] = 0;
	while (file && !model[0] && fgets(line, sizeof(line), file)) {
		value = strstr(line, ": ");
		if (!value || strncmp(line, "model name", 10))
			continue;
		value[strcspn(value, "\n")] = 0;
		snprintf(model, size, "%s", value + 2);
	}
	if (file)
		fclose(file);
}

static json_t *host_json(const struct bench_report *report)
{
	const struct bench_options *o = report->options;
	struct utsname name = { 0 };
	char model[128];

	uname(&name);
	cpu_model(model, sizeof(model));
	return json_pack("{s:s, s:s, s:s, s:I, s:[i,i], s:s}", "kernel",
			 name.release, "machine", name.machine, "cpu_model",
			 model, "cpus_online",
			 (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "cpus",
			 (int)o->cpus[0], (int)o->cpus[1], "clock",
			 clock_has_tsc ? "tsc" : "clock_monotonic");
}

static json_t *report_json(const struct bench_report *report)
{
	const struct bench_options *o = report->options;
	json_t *rows = json_array();
	unsigned int i;

	for (i = 0; i < report->row_count; i++)
		json_array_append_new(rows, row_json(&report->rows[i]));
	return json_pack(
		"{s:o, s:{s:f, s:i}, s:{s:f, s:f, s:f, s:i, s:i}, s:o}", "host",
		host_json(report), "options", "seconds", o->seconds, "runs",
		(int)o->runs, "probe", "p50_ns", report->probe_ns, "low_ns",
		report->probe_low_ns, "high_ns", report->probe_high_ns,
		"repetitions", (int)report->repetitions, "discarded",
		(int)report->discarded, "rows", rows);
}

int json_write(const struct bench_report *report, struct output *output)
{
	json_t *json = report_json(report);
	int ret = -1;

	if (!json) {
		fprintf(stderr, "sluice-bench: out of memory\n");
		return -1;
	}
	/* Fails for what is not a regular file, which is as well. */
	if (ftruncate(output->fd, 0) && errno != EINVAL)
		goto out;
	if (json_dumpfd(json, output->fd,
			JSON_INDENT(1) | JSON_REAL_PRECISION(6)) ||
	    write(output->fd, "\n", 1) != 1 || close(output->fd))
		goto out;
	output->fd = -1;
	ret = 0;
out:
	if (ret)
		fprintf(stderr, "sluice-bench: cannot write %s: %s\n",
			output->path, strerror(errno));
	json_decref(json);
	return ret;
}
