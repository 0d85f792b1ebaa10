/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A line for each message, as bpf/trace/flow.bt prints it, or an object of JSON.
 */
#include "trace.h"

#include <inttypes.h>
#include <string.h>

#include "ctl.h"

/* By number, see sluice_trace(7). */
static const char *const lanes[] = { "plain", "queued", "direct", "steered" };

#define LANES (sizeof(lanes) / sizeof(lanes[0]))

int trace_lane(const char *name)
{
	for (unsigned int i = 0; i < LANES; i++)
		if (!strcmp(lanes[i], name))
			return (int)i;
	return -1;
}

static const char *lane_name(__u32 lane)
{
	return lane < LANES ? lanes[lane] : "?";
}

/* Programs and files are called anything: neither a line's end nor half a letter. */
static char plain_char(char c)
{
	return c >= ' ' && c <= '~' ? c : '?';
}

static const char *comm_text(const char comm[TRACE_COMM], char text[TRACE_COMM])
{
	unsigned int i;

	for (i = 0; i < TRACE_COMM - 1 && comm[i]; i++)
		text[i] = plain_char(comm[i]);
	text[i] = '\0';
	return text;
}

void trace_print_file(const struct trace_file *file)
{
	fputs("sluicectl: tracing ", stderr);
	for (const char *c = file->name; *c; c++)
		fputc(plain_char(*c), stderr);
	fputc('\n', stderr);
}

void trace_print_head(void)
{
	printf("%-7s %-22s %-22s %-8s %7s %-16s %-10s %s\n", "MS", "SENDER",
	       "RECEIVER", "LANE", "LEN", "TAG", "NUMBER", "AGE(us)");
}

static __u64 age(const struct trace_event *event)
{
	return event->at - event->sender.at;
}

static void print_text(const struct trace_event *event, __u64 ms)
{
	char text[TRACE_COMM];

	printf("%-7" PRIu64 " ", (uint64_t)ms);
	if (event->sender.pid)
		printf("%-6u %-15s ", event->sender.pid,
		       comm_text(event->sender.comm, text));
	else
		printf("%-6s %-15s ", "-", "-");
	printf("%-6u %-15s %-8s %7u %-16" PRIx64 " %-10u ", event->receiver,
	       comm_text(event->comm, text), lane_name(event->lane), event->len,
	       (uint64_t)event->tag, event->number);
	if (event->sender.pid)
		printf("%" PRIu64 ".%03u\n", (uint64_t)age(event) / 1000,
		       (unsigned int)(age(event) % 1000));
	else
		puts("-");
}

static json_t *process_json(__u32 pid, const char comm[TRACE_COMM])
{
	char text[TRACE_COMM];

	return pid ? json_pack("{s:I, s:s}", "pid", (json_int_t)pid, "comm",
			       comm_text(comm, text)) :
		     json_null();
}

/* Numbers of 64 bits are not for JSON. */
static json_t *hex_json(__u64 number)
{
	return json_sprintf("%" PRIx64, (uint64_t)number);
}

static void print_json(const struct trace_event *event, __u64 ms)
{
	json_t *json = json_pack(
		"{s:I, s:o, s:o, s:o, s:s, s:I, s:o, s:I, s:o}", "ms",
		(json_int_t)ms, "sender",
		process_json(event->sender.pid, event->sender.comm), "receiver",
		process_json(event->receiver, event->comm), "endpoint",
		event->endpoint ? hex_json(event->endpoint) : json_null(),
		"lane", lane_name(event->lane), "len", (json_int_t)event->len,
		"tag", hex_json(event->tag), "number",
		(json_int_t)event->number, "age_ns",
		event->sender.pid ? json_integer((json_int_t)age(event)) :
				    json_null());

	if (json)
		json_dumpf(json, stdout, JSON_COMPACT);
	json_decref(json);
	putchar('\n');
}

void trace_print(const struct trace_event *event, __u64 since, bool json)
{
	const __u64 ms = (event->at - since) / 1000000;

	if (json)
		print_json(event, ms);
	else
		print_text(event, ms);
}
