/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The results as an SVG, drawn by gnuplot: latency over size for the ping-pong,
 * throughput over size for the stream; a line for each system and mode.
 * gnuplot reads its script from a pipe and writes to the file that is open.
 */
#include "bench.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int plot_check(void)
{
	const char *path = getenv("PATH");
	char file[PATH_MAX];
	size_t len;

	for (; path && *path; path += len + (path[len] == ':')) {
		len = strcspn(path, ":");
		if (snprintf(file, sizeof(file), "%.*s/gnuplot", (int)len,
			     path) < (int)sizeof(file) &&
		    !access(file, X_OK))
			return 0;
	}
	fprintf(stderr, "sluice-bench: --plot needs gnuplot, which is not "
			"installed\n");
	return -1;
}

static double value(const struct bench_row *row)
{
	return row->c.pattern == PATTERN_PINGPONG ? row->p50_ns / 1e3 :
						    row->bytes_per_s / 1e9;
}

/* Calls for each line of the panel: as data, then as plot element. */
static bool line(const struct bench_report *report, unsigned int system,
		 enum bench_pattern pattern, enum bench_mode mode, FILE *script)
{
	const struct bench_row *row;
	bool any = false;

	for (row = report->rows; row < report->rows + report->row_count;
	     row++) {
		if (row->c.system != report->options->systems[system] ||
		    row->c.pattern != pattern || row->c.mode != mode ||
		    !row->sample_count)
			continue;
		if (script && !any)
			fprintf(script, "$d%u_%u_%u << EOD\n", system,
				(unsigned int)pattern, (unsigned int)mode);
		any = true;
		if (script)
			fprintf(script, "%zu %.9g\n", row->c.size, value(row));
	}
	if (script && any)
		fputs("EOD\n", script);
	return any;
}

static void panel(const struct bench_report *report, enum bench_pattern pattern,
		  FILE *script)
{
	const struct bench_options *o = report->options;
	const bool both = o->modes[MODE_SPIN] && o->modes[MODE_BLOCK];
	const char *separator = "plot ";
	unsigned int system;
	int mode;

	for (mode = 0; mode < MODES; mode++) {
		for (system = 0; system < o->system_count; system++)
			line(report, system, pattern, mode, script);
	}
	fprintf(script, "set title '%s, %s touched'\nset ylabel '%s'\n",
		pattern == PATTERN_PINGPONG ? "Half round trip" :
					      "One-way stream",
		o->touch == TOUCH_ALL ? "every byte" : "first 64 bytes",
		pattern == PATTERN_PINGPONG ? "median, us" : "GB/s");
	for (mode = 0; mode < MODES; mode++) {
		for (system = 0; system < o->system_count; system++) {
			if (!line(report, system, pattern, mode, NULL))
				continue;
			fprintf(script,
				"%s$d%u_%u_%d using 1:2 with linespoints "
				"linewidth 2 linetype %u dashtype %d "
				"title '%s%s'",
				separator, system, (unsigned int)pattern, mode,
				system + 1, mode + 1, o->systems[system]->name,
				both && mode == MODE_BLOCK ? ", blocking" : "");
			separator = ", \\\n";
		}
	}
	fputc('\n', script);
}

static bool any_line(const struct bench_report *report,
		     enum bench_pattern pattern)
{
	unsigned int system;
	int mode;

	for (mode = 0; pattern <= PATTERN_STREAM && mode < MODES; mode++) {
		for (system = 0; system < report->options->system_count;
		     system++) {
			if (line(report, system, pattern, mode, NULL))
				return true;
		}
	}
	return false;
}

static void script_write(const struct bench_report *report, FILE *script)
{
	const struct bench_options *o = report->options;
	bool drawn[PATTERNS];
	int pattern, panels = 0;
	unsigned int i;

	for (pattern = 0; pattern < PATTERNS; pattern++) {
		drawn[pattern] = any_line(report, pattern);
		panels += drawn[pattern];
	}
	fprintf(script,
		"set terminal svg size %d,480 background rgb 'white'\n"
		"set logscale xy\n"
		"set xlabel 'message size'\n"
		"set grid\n"
		"set key outside bottom center horizontal\n"
		"set multiplot layout 1,%d\n",
		panels > 1 ? 1200 : 720, panels > 1 ? 2 : 1);
	fputs("set xtics rotate by -45 (", script);
	for (i = 0; i < o->size_count; i++)
		fprintf(script, "%s'%s' %zu", i ? ", " : "",
			size_text(o->sizes[i]), o->sizes[i]);
	fputs(")\n", script);
	for (pattern = 0; pattern < PATTERNS; pattern++) {
		if (drawn[pattern])
			panel(report, pattern, script);
	}
	fputs("unset multiplot\n", script);
}

/* In the child: gnuplot, its script at fd `script`. Never returns. */
static void gnuplot(int script, int svg)
{
	if (dup2(script, STDIN_FILENO) >= 0 && dup2(svg, STDOUT_FILENO) >= 0)
		execlp("gnuplot", "gnuplot", "-", (char *)NULL);
	_exit(127);
}

int plot_write(const struct bench_report *report, struct output *output)
{
	int fds[2], status = -1;
	FILE *script = NULL;
	pid_t pid = -1;

	signal(SIGPIPE, SIG_IGN);
	if (ftruncate(output->fd, 0) && errno != EINVAL)
		goto failed;
	if (pipe(fds))
		goto failed;
	pid = fork();
	if (!pid) {
		close(fds[1]);
		gnuplot(fds[0], output->fd);
	}
	close(fds[0]);
	script = fdopen(fds[1], "w");
	if (pid < 0 || !script) {
		close(fds[1]);
		goto failed;
	}
	script_write(report, script);
	fclose(script);
	if (waitpid(pid, &status, 0) < 0)
		goto failed;
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "sluice-bench: gnuplot failed\n");
		return -1;
	}
	if (!close(output->fd)) {
		output->fd = -1;
		return 0;
	}
failed:
	fprintf(stderr, "sluice-bench: cannot plot %s: %s\n", output->path,
		strerror(errno));
	return -1;
}
