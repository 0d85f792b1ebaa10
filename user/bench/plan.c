/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The order of the repetitions, and what becomes of them.
 *
 * Systems are interleaved: each run goes through all cases, the systems next to
 * each other, so that a slow moment of the machine hits all alike. A repetition
 * is *disturbed*, and discarded, when its probes show that the two CPUs share a
 * core for a while (virtual machines do that) or are slow, and when a process
 * that spins did not have its CPU. It is made up for, at most as often as there
 * are runs.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * A probe is good within these factors of the median probe. On an idle machine
 * they stay within 0.85 to 1.3; a shared core is at 0.2 to 0.5.
 */
#define PROBE_LOW 0.7
#define PROBE_HIGH 1.5

/* Who spins has its CPU all the time, unless somebody else runs there. */
#define SHARE_MIN 0.9

/* The warm-up, as a part of the time that is measured. */
#define WARM_PART 0.1

/*
 * A pool that grows by itself has its final size when this much, or a few rings
 * full of messages, has gone through: eight times libsluice's default limit.
 */
#define WARM_BYTES (2ul << 30)
#define WARM_MESSAGES (4 * BENCH_RING_SLOTS)

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts the values. */
static double quantile(double *values, unsigned int count, double part)
{
	const double at = part * (count - 1);
	const unsigned int i = (unsigned int)at;

	qsort(values, count, sizeof(*values), compare);
	if (i + 1 >= count)
		return values[count - 1];
	return values[i] + (at - i) * (values[i + 1] - values[i]);
}

static bool good(const struct bench_report *report, const struct bench_row *row,
		 const struct bench_sample *sample)
{
	int i;

	if (row->c.mode == MODE_SPIN && sample->cpu_share < SHARE_MIN)
		return false;
	for (i = 0; i < 2; i++) {
		if (sample->probe_ns[i] < report->probe_low_ns ||
		    sample->probe_ns[i] > report->probe_high_ns)
			return false;
	}
	return true;
}

/*
 * The range comes from all probes so far. A shared core may last for most of the
 * run; it makes probes short, so only those count for the median that are not
 * below half of the upper quartile.
 */
static int judge(struct bench_report *report)
{
	unsigned int count = 0, kept = 0, i, j;
	struct bench_row *row;
	double *probes;
	double floor;

	probes = calloc(report->repetitions ? 2 * report->repetitions : 1,
			sizeof(*probes));
	if (!probes)
		return -1;
	for (row = report->rows; row < report->rows + report->row_count;
	     row++) {
		for (i = 0; i < row->sample_count; i++) {
			probes[count++] = row->samples[i].probe_ns[0];
			probes[count++] = row->samples[i].probe_ns[1];
		}
	}
	if (count) {
		floor = quantile(probes, count, 0.75) / 2;
		for (i = 0; i < count; i++) {
			if (probes[i] >= floor)
				probes[kept++] = probes[i];
		}
		report->probe_ns = quantile(probes, kept, 0.5);
	}
	free(probes);
	report->probe_low_ns = report->probe_ns * PROBE_LOW;
	report->probe_high_ns = report->probe_ns * PROBE_HIGH;
	report->discarded = 0;
	for (row = report->rows; row < report->rows + report->row_count;
	     row++) {
		row->kept = 0;
		for (j = 0; j < row->sample_count; j++)
			row->kept += good(report, row, &row->samples[j]);
		row->discarded = row->sample_count - row->kept;
		report->discarded += row->discarded;
	}
	return 0;
}

static void progress(const struct bench_report *report,
		     const struct bench_row *row, unsigned int done,
		     unsigned int of, bool again)
{
	const struct bench_case *c = &row->c;

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r\033[K%3u %% of %u repetitions%s: %s, %s, %s, %s",
		100 * done / of, of, again ? ", again those discarded" : "",
		c->system->name, bench_patterns[c->pattern],
		bench_modes[c->mode], size_text(c->size));
	if (report->discarded)
		fprintf(stderr, " (%u discarded)", report->discarded);
	fflush(stderr);
}

static void progress_end(void)
{
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

static int sluiced_for(const struct bench_case *c, char reason[BENCH_TEXT])
{
	return c->system->sluiced ? sluiced_need(reason) : 0;
}

/* One more repetition of the row; -1 after it printed why it failed. */
static int repeat(struct bench_report *report, struct bench_row *row)
{
	struct bench_sample *sample = &row->samples[row->sample_count];
	const struct bench_case *c = &row->c;
	char reason[BENCH_TEXT];

	switch (sluiced_for(c, reason) ?
			BENCH_UNSUPPORTED :
			runner_run(c, report->options->cpus, sample, reason)) {
	case 0:
		row->sample_count++;
		report->repetitions++;
		return 0;
	case BENCH_UNSUPPORTED:
		row->unsupported = true;
		memcpy(row->reason, reason, sizeof(reason));
		return 0;
	default:
		progress_end();
		fprintf(stderr, "sluice-bench: %s, %s, %s, %s failed: %s\n",
			c->system->name, bench_patterns[c->pattern],
			bench_modes[c->mode], size_text(c->size), reason);
		return -1;
	}
}

/* One more repetition of every row, for its system calls alone. */
static int calls_count(struct bench_report *report)
{
	struct bench_sample sample;
	char reason[BENCH_TEXT];
	struct bench_row *row;
	struct bench_case c;

	if (!calls_possible(report->calls_reason))
		return 0;
	for (row = report->rows; row < report->rows + report->row_count;
	     row++) {
		if (row->unsupported || row->c.system->solo)
			continue;
		c = row->c;
		c.count_calls = true;
		if (runner_run(&c, report->options->cpus, &sample, reason)) {
			progress_end();
			fprintf(stderr,
				"sluice-bench: counting the calls of %s "
				"failed: %s\n",
				c.system->name, reason);
			return -1;
		}
		row->calls_known = true;
		row->calls = sample.calls;
		memcpy(row->side_calls, sample.side_calls,
		       sizeof(row->side_calls));
	}
	return 0;
}

static double median_of(const struct bench_row *row, const bool *use,
			size_t field, double *spread)
{
	double values[row->sample_count];
	unsigned int count = 0, i;
	double median;

	for (i = 0; i < row->sample_count; i++) {
		if (use[i])
			values[count++] = *(
				const double *)((const char *)&row->samples[i] +
						field);
	}
	median = quantile(values, count, 0.5);
	if (spread)
		*spread = median > 0 ? 100 * (values[count - 1] - values[0]) /
					       median :
				       0;
	return median;
}

#define MEDIAN(row, use, field, spread) \
	median_of(row, use, offsetof(struct bench_sample, field), spread)

static void row_finish(const struct bench_report *report, struct bench_row *row)
{
	bool use[row->sample_count ? row->sample_count : 1];
	unsigned int i;

	if (!row->sample_count)
		return;
	for (i = 0; i < row->sample_count; i++)
		use[i] = !row->kept || good(report, row, &row->samples[i]);
	if (!row->kept)
		snprintf(
			row->reason, BENCH_TEXT,
			"all repetitions were disturbed; figures are of those");
	row->messages_per_s = MEDIAN(row, use, messages_per_s, &row->spread);
	row->bytes_per_s = row->messages_per_s * (double)row->c.size;
	row->cpu_ns = MEDIAN(row, use, cpu_ns, NULL);
	row->switches = MEDIAN(row, use, switches, NULL);
	row->frames = MEDIAN(row, use, frames, NULL);
	row->spilled = MEDIAN(row, use, spilled, NULL);
	row->side_cpu_ns[0] = MEDIAN(row, use, side_cpu_ns[0], NULL);
	row->side_cpu_ns[1] = MEDIAN(row, use, side_cpu_ns[1], NULL);
	row->side_busy_ns[0] = MEDIAN(row, use, side_busy_ns[0], NULL);
	row->side_busy_ns[1] = MEDIAN(row, use, side_busy_ns[1], NULL);
	if (row->c.pattern != PATTERN_PINGPONG)
		return;
	row->p50_ns = MEDIAN(row, use, p50_ns, &row->spread);
	row->p99_ns = MEDIAN(row, use, p99_ns, NULL);
	row->p999_ns = MEDIAN(row, use, p999_ns, NULL);
}

static int row_init(const struct bench_options *o, struct bench_row *row)
{
	const double ticks = o->seconds * 1e9 / clock_ns_per_tick;

	row->c.touch = o->touch;
	row->c.touched = row->c.size;
	if (o->touch == TOUCH_FIRST && row->c.size > BENCH_LINE)
		row->c.touched = BENCH_LINE;
	row->c.ticks = (uint64_t)ticks;
	row->c.warm_ticks = (uint64_t)(ticks * WARM_PART);
	row->c.warm_messages = WARM_BYTES / row->c.size;
	if (row->c.warm_messages > WARM_MESSAGES)
		row->c.warm_messages = WARM_MESSAGES;
	row->samples = calloc(2 * o->runs, sizeof(*row->samples));
	return row->samples ? 0 : -1;
}

/* The rows of one pattern and mode: size, senders, and systems innermost. */
static struct bench_row *rows_add(const struct bench_options *o,
				  struct bench_row *row,
				  enum bench_pattern pattern,
				  enum bench_mode mode)
{
	const bool fanin = pattern == PATTERN_FANIN;
	unsigned int i, size, senders, system;

	for (i = 0; i < o->size_count * (fanin ? o->senders_count : 1); i++) {
		size = fanin ? i / o->senders_count : i;
		senders = fanin ? o->senders[i % o->senders_count] : 0;
		for (system = 0; system < o->system_count; system++) {
			if (!bench_has(o->systems[system], pattern))
				continue;
			row->c.system = o->systems[system];
			row->c.pattern = pattern;
			row->c.mode = mode;
			row->c.size = o->sizes[size];
			row->c.senders = senders;
			row->c.burst = o->burst;
			row++;
		}
	}
	return row;
}

/* Rows in the order of a run. */
static int rows_make(const struct bench_options *o, struct bench_report *report)
{
	unsigned int pattern, mode;
	struct bench_row *row;

	row = report->rows = calloc((size_t)PATTERNS * MODES * o->size_count *
					    o->senders_count * o->system_count,
				    sizeof(*row));
	if (!row)
		return -1;
	for (pattern = 0; pattern < PATTERNS; pattern++) {
		for (mode = 0; mode < MODES; mode++) {
			if (o->patterns[pattern] && o->modes[mode])
				row = rows_add(o, row, pattern, mode);
		}
	}
	report->row_count = (unsigned int)(row - report->rows);
	for (row = report->rows; row < report->rows + report->row_count;
	     row++) {
		if (row_init(o, row))
			return -1;
	}
	return 0;
}

static int runs_do(const struct bench_options *o, struct bench_report *report)
{
	const unsigned int total = report->row_count * o->runs;
	unsigned int run, i, missing;
	struct bench_row *row;

	for (run = 0; run < o->runs; run++) {
		for (i = 0; i < report->row_count; i++) {
			row = &report->rows[i];
			progress(report, row, run * report->row_count + i,
				 total, false);
			if (!row->unsupported && repeat(report, row))
				return -1;
		}
		if (judge(report))
			return -1;
	}
	/* Those discarded, again: at most as many as were asked for. */
	for (run = 0; run < o->runs; run++) {
		missing = 0;
		for (i = 0; i < report->row_count; i++) {
			row = &report->rows[i];
			if (row->unsupported || row->kept >= o->runs ||
			    row->sample_count >= 2 * o->runs)
				continue;
			progress(report, row, i, report->row_count, true);
			if (repeat(report, row))
				return -1;
			missing++;
		}
		if (judge(report))
			return -1;
		if (!missing)
			break;
	}
	return 0;
}

int plan_run(const struct bench_options *options, struct bench_report *report)
{
	unsigned int i;
	int ret;

	memset(report, 0, sizeof(*report));
	report->options = options;
	if (rows_make(options, report)) {
		fprintf(stderr, "sluice-bench: out of memory\n");
		return -1;
	}
	ret = runs_do(options, report);
	if (!ret)
		ret = calls_count(report);
	progress_end();
	if (ret)
		return -1;
	for (i = 0; i < report->row_count; i++)
		row_finish(report, &report->rows[i]);
	return 0;
}

void plan_free(struct bench_report *report)
{
	unsigned int i;

	for (i = 0; report->rows && i < report->row_count; i++)
		free(report->rows[i].samples);
	free(report->rows);
}
