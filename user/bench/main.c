/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluice-bench: measures ways to pass messages between two processes, side by
 * side in one run.
 */
#include "bench.h"
#include "middle.h"

extern const struct bench_system bench_raw, bench_memcpy, bench_seqpacket,
	bench_stream, bench_pipe, bench_queued, bench_direct, bench_epoll,
	bench_epoll_burst, bench_steered_plain, bench_steered,
	bench_steered_single, bench_relay, bench_switch, bench_sockmap,
	bench_file_read, bench_file_sendfile, bench_file_splice,
	bench_file_pool, bench_file_ring;

const struct bench_system *const bench_systems[] = {
	&bench_raw,	      &bench_memcpy,
	&bench_seqpacket,     &bench_stream,
	&bench_pipe,	      &bench_queued,
	&bench_direct,	      &bench_steered_plain,
	&bench_steered,	      &bench_steered_single,
	&bench_epoll,	      &bench_epoll_burst,
	&bench_relay,	      &bench_switch,
	&bench_sockmap,	      &bench_file_read,
	&bench_file_sendfile, &bench_file_splice,
	&bench_file_pool,     &bench_file_ring,
};
const unsigned int bench_system_count =
	sizeof(bench_systems) / sizeof(bench_systems[0]);

const char *const bench_patterns[PATTERNS] = { "pingpong", "stream", "fanin",
					       "file" };
const char *const bench_modes[MODES] = { "spin", "block" };
const char *const bench_touches[TOUCHES] = { "first", "all" };

static int bench(const struct bench_options *options, struct output *json,
		 struct output *plot)
{
	struct bench_report report;
	int ret;

	clock_start();
	ret = plan_run(options, &report);
	if (!ret) {
		table_print(&report, stdout);
		if (fflush(stdout) || ferror(stdout)) {
			perror("sluice-bench: output");
			ret = -1;
		}
	}
	if (!ret && options->json)
		ret = json_write(&report, json);
	if (!ret && options->plot)
		ret = plot_write(&report, plot);
	plan_free(&report);
	sluiced_end();
	middle_end();
	return ret ? BENCH_FAILED : 0;
}

int main(int argc, char **argv)
{
	struct output json = { .fd = -1 }, plot = { .fd = -1 };
	struct bench_options options;
	int ret;

	ret = options_parse(&options, argc, argv);
	if (ret >= 0)
		return ret;
	if ((options.json && output_open(&json, options.json)) ||
	    (options.plot &&
	     (plot_check() || output_open(&plot, options.plot))))
		ret = BENCH_USAGE;
	else
		ret = bench(&options, &json, &plot);
	if (ret) {
		output_drop(&json);
		output_drop(&plot);
	}
	return ret;
}
