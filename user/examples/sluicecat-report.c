/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What sluicecat tells: complaints, the progress line, the summary. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sluicecat.h"

#define PROGRESS_NS 250000000

int64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static void close_line(struct cat *cat)
{
	if (cat->line_open)
		fputs("\r\033[K", stderr);
	cat->line_open = false;
}

int complain(struct cat *cat, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(cat->failure, sizeof(cat->failure), format, arguments);
	va_end(arguments);
	close_line(cat);
	fprintf(stderr, "sluicecat: %s\n", cat->failure);
	return CAT_FAILED;
}

static double per_second(uint64_t bytes, int64_t ns)
{
	return ns > 0 ? bytes * 1e9 / ns : 0;
}

void progress(struct cat *cat)
{
	int64_t now;

	if (!cat->shown_ns) {
		cat->shown_ns = cat->start_ns;
		cat->show = !cat->quiet && isatty(STDERR_FILENO);
	}
	if (!cat->show)
		return;
	now = clock_ns();
	if (now - cat->shown_ns < PROGRESS_NS)
		return;
	fprintf(stderr, "\rsluicecat: %.1f MB, %.1f MB/s\033[K",
		cat->bytes / 1e6,
		per_second(cat->bytes - cat->shown_bytes, now - cat->shown_ns) /
			1e6);
	cat->line_open = true;
	cat->shown_ns = now;
	cat->shown_bytes = cat->bytes;
}

static int write_json(struct cat *cat, int64_t ns, const char *lane,
		      const char *reason, pid_t peer)
{
	json_t *object = json_pack(
		"{s:s, s:I, s:I, s:f, s:f, s:s, s:s, s:i, s:I, s:I}", "role",
		cat->sends ? "sender" : "receiver", "bytes",
		(json_int_t)cat->bytes, "messages", (json_int_t)cat->messages,
		"seconds", ns / 1e9, "bytes_per_s", per_second(cat->bytes, ns),
		"lane", lane, "reason", reason, "peer_pid", (int)peer,
		"ring_reads", (json_int_t)cat->ring_reads, "fixed_reads",
		(json_int_t)cat->fixed_reads);
	int r = object ? json_dump_file(object, cat->json,
					JSON_INDENT(2) |
						JSON_REAL_PRECISION(9)) :
			 -1;

	json_decref(object);
	return r ? complain(cat, "cannot write '%s'", cat->json) : CAT_OK;
}

int summary(struct cat *cat)
{
	int64_t ns = clock_ns() - cat->start_ns;
	struct sluice_conn_info info;
	uint32_t reason_number;
	const char *reason = "";
	const char *lane;
	uint32_t lane_number;
	char how[128];

	sluice_conn_info(cat->conn, &info);
	lane_number = cat->sends ? info.tx_lane : info.rx_lane;
	reason_number = cat->sends ? info.tx_reason : info.rx_reason;
	lane = sluice_lane_name(lane_number);
	if (reason_number != SLUICE_REASON_NONE)
		reason = sluice_reason_text(reason_number);

	close_line(cat);
	if (!cat->quiet) {
		if (lane_number == SLUICE_LANE_PLAIN)
			snprintf(how, sizeof(how), "copied: %s", reason);
		else
			snprintf(how, sizeof(how), "%s lane%s%s", lane,
				 *reason ? ": " : "", reason);
		fprintf(stderr,
			"sluicecat: %s %" PRIu64
			" bytes in %.3f s, %.2f GB/s, %s\n",
			cat->sends ? "sent" : "received", cat->bytes, ns / 1e9,
			per_second(cat->bytes, ns) / 1e9, how);
	}
	return cat->json ? write_json(cat, ns, lane, reason, info.peer_pid) :
			   CAT_OK;
}
