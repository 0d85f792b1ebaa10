/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The results as text: one block for each pattern and mode, sizes in order, the
 * systems of one size under each other.
 */
#include "bench.h"

#include <string.h>

/*
 * A probe below this says that the two CPUs may share a core, all the time. A
 * guess: 0.03 to 0.07 us was seen where they do, 0.13 to 0.27 where not.
 */
#define SAME_CORE_NS 80

#define NAME_WIDTH 14 /* of a system */

/* Three significant digits, no exponent. */
static const char *number(double value)
{
	static char texts[16][24];
	static unsigned int next;
	char *text = texts[next++ % 16];
	int digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;

	if (value > 0 && value < 0.0995)
		digits = value >= 0.00995 ? 4 : 5;
	snprintf(text, sizeof(texts[0]), "%.*f", digits, value);
	return text;
}

static const char *pieces(double value)
{
	static char text[32];

	if (value >= 1e6)
		snprintf(text, sizeof(text), "%s M", number(value / 1e6));
	else if (value >= 1e3)
		snprintf(text, sizeof(text), "%s k", number(value / 1e3));
	else
		snprintf(text, sizeof(text), "%s", number(value));
	return text;
}

static void heading(const struct bench_case *c, FILE *out)
{
	static const char *const titles[PATTERNS] = {
		"Ping-pong (half round trips)",
		"Stream (one way)",
		"Fan-in (one way, the senders on one CPU)",
		"File (pieces of one in the page cache, one way)",
	};

	fprintf(out, "\n%s, both sides %s, %s touched\n", titles[c->pattern],
		c->mode == MODE_SPIN ? "spinning" : "blocking",
		c->touch == TOUCH_ALL ? "every byte" : "first 64 bytes");
	if (c->pattern == PATTERN_FANIN && c->burst > 1)
		fprintf(out, "%u messages at once from each sender\n",
			c->burst);
	fprintf(out, "%8s  %-*s", "size", NAME_WIDTH, "system");
	switch (c->pattern) {
	case PATTERN_PINGPONG:
		fprintf(out, " %10s %10s %10s %10s %9s %10s %9s", "median us",
			"99 % us", "99.9 % us", "messages/s", "GB/s",
			"CPU ns/msg", "calls/msg");
		break;
	case PATTERN_FANIN:
		fprintf(out, " %7s", "senders");
		/* fall through */
	default:
		fprintf(out, " %10s %9s %9s %9s %9s %9s %9s %9s", "messages/s",
			"GB/s", "sender ns", "(busy)", "recver ns", "(busy)",
			"tx calls", "rx calls");
	}
	fprintf(out, " %12s %5s %9s\n", "switches/msg", "runs", "spread");
}

static const char *known(double value, bool is)
{
	return is ? number(value) : "-";
}

static void row_print(const struct bench_row *row, FILE *out)
{
	const bool idle = row->c.system->idle && row->c.mode == MODE_SPIN;
	const bool one_way = !row->c.system->solo;

	fprintf(out, "%8s  %-*s", size_text(row->c.size), NAME_WIDTH,
		row->c.system->name);
	if (row->c.pattern == PATTERN_FANIN)
		fprintf(out, " %7u", row->c.senders);
	if (row->unsupported) {
		fprintf(out, " not possible: %s\n", row->reason);
		return;
	}
	if (row->c.pattern == PATTERN_PINGPONG)
		fprintf(out, " %10s %10s %10s", number(row->p50_ns / 1e3),
			number(row->p99_ns / 1e3), number(row->p999_ns / 1e3));
	fprintf(out, " %10s %9s", pieces(row->messages_per_s),
		number(row->bytes_per_s / 1e9));
	if (row->c.pattern == PATTERN_PINGPONG)
		fprintf(out, " %10s %9s", number(row->cpu_ns),
			known(row->calls, row->calls_known));
	else
		fprintf(out, " %9s %9s %9s %9s %9s %9s",
			known(row->side_cpu_ns[0], one_way),
			known(row->side_busy_ns[0], idle),
			known(row->side_cpu_ns[1], one_way),
			known(row->side_busy_ns[1], idle),
			known(row->side_calls[0], row->calls_known),
			known(row->side_calls[1], row->calls_known));
	fprintf(out, " %12s %5u %7.1f %%%s\n", number(row->switches),
		row->kept ? row->kept : row->sample_count, row->spread,
		row->kept ? "" : " (!)");
}

void table_print(const struct bench_report *report, FILE *out)
{
	const struct bench_options *o = report->options;
	const struct bench_row *row, *last = NULL;
	bool doubtful = false;

	fprintf(out, "CPUs %u and %u, %g s per repetition\n", o->cpus[0],
		o->cpus[1], o->seconds);
	for (row = report->rows; row < report->rows + report->row_count;
	     row++) {
		if (!last || last->c.pattern != row->c.pattern ||
		    last->c.mode != row->c.mode)
			heading(&row->c, out);
		else if ((last->c.size != row->c.size ||
			  last->c.senders != row->c.senders) &&
			 o->system_count > 1)
			fputc('\n', out);
		row_print(row, out);
		doubtful |= row->sample_count && !row->kept;
		last = row;
	}
	fprintf(out,
		"\nBare cache line between the CPUs: %s us.\n"
		"%u of %u repetitions discarded, in which it was not within %s to %s "
		"us, or a\nspinning process did not have its CPU.\n",
		number(report->probe_ns / 1e3), report->discarded,
		report->repetitions, number(report->probe_low_ns / 1e3),
		number(report->probe_high_ns / 1e3));
	if (report->calls_reason[0])
		fprintf(out, "%s.\n", report->calls_reason);
	if (report->probe_ns < SAME_CORE_NS)
		fputs("Note: so fast are two threads of one core; two cores mostly "
		      "take 0.1 us and more.\n",
		      out);
	if (doubtful)
		fputs("(!) So it was in all repetitions of this row; the figures are "
		      "of those.\n",
		      out);
}
