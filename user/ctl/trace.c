/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl trace: a line for each message that is received. bpf/trace.bpf.c sees
 * them, at static probes in each file that has them; this shows what it says.
 */
#include "trace.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <trace.skel.h>

#include "ctl.h"

#define POLL_MS 200
/* Events after which there is time for something else. */
#define EVENTS_AT_ONCE 1024
/* What show() returns to get out of ring_buffer__poll(). */
#define PAUSE (-ECANCELED)

struct tracer {
	const struct ctl_options *options;
	struct trace_bpf *bpf;
	struct ring_buffer *events;
	struct bpf_link **links;
	unsigned int link_count;
	__u64 since, until; /* CLOCK_MONOTONIC; until 0: without end */
	long shown;
	unsigned int at_once;
	__u64 lost; /* as far as it was said */
};

static volatile sig_atomic_t interrupted;

static void interrupt(int signal)
{
	(void)signal;
	interrupted = 1;
}

static __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

/* Attaching ---------------------------------------------------------------- */

static int refused(const char *what, int error)
{
	if (error == EPERM || error == EACCES)
		return ctl_failed(
			"%s: %s (needs root, or CAP_BPF, "
			"CAP_PERFMON and CAP_SYS_ADMIN; and no kernel "
			"that is locked down for confidentiality)",
			what, strerror(error));
	return ctl_failed("%s: %s", what, strerror(error));
}

static int load(struct tracer *tracer)
{
	const struct ctl_options *options = tracer->options;
	struct trace_filter *filter;

	tracer->bpf = trace_bpf__open();
	if (!tracer->bpf)
		return refused("cannot open the BPF programs", errno);
	filter = (void *)&tracer->bpf->rodata->trace_filter;
	filter->endpoint = options->endpoint;
	filter->pid = (__u32)options->pid;
	filter->lane = options->lane ? trace_lane(options->lane) : -1;
	if (trace_bpf__load(tracer->bpf))
		return refused("cannot load the BPF programs", errno);
	return 0;
}

static int attach_program(struct tracer *tracer, struct bpf_program *program,
			  const struct trace_file *file, const char *probe)
{
	struct bpf_link *link;
	char path[32];

	/* Of the file that was looked at, whatever has its name by now. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	link = bpf_program__attach_usdt(program, -1, path, "sluice", probe,
					NULL);
	if (!link)
		return refused(file->name, errno);
	tracer->links[tracer->link_count++] = link;
	return 0;
}

/* recv first: no sender is looked for in vain that is remembered. */
static int attach(struct tracer *tracer, const struct trace_files *files)
{
	const struct trace_file *file;
	int ret = 0;

	tracer->links = calloc(files->count * 2, sizeof(*tracer->links));
	if (!tracer->links)
		return ctl_failed("out of memory");
	for (file = files->all; !ret && file < files->all + files->count;
	     file++) {
		ret = attach_program(tracer, tracer->bpf->progs.trace_recv,
				     file, "recv");
		if (!ret)
			ret = attach_program(tracer,
					     tracer->bpf->progs.trace_send,
					     file, "send");
	}
	return ret;
}

static void detach(struct tracer *tracer)
{
	while (tracer->link_count)
		bpf_link__destroy(tracer->links[--tracer->link_count]);
	free(tracer->links);
	tracer->links = NULL;
}

/* Following ---------------------------------------------------------------- */

static bool is_enough(const struct tracer *tracer)
{
	return tracer->options->count &&
	       tracer->shown >= tracer->options->count;
}

static int show(void *ctx, void *data, size_t size)
{
	struct tracer *tracer = ctx;

	(void)size;
	if (is_enough(tracer))
		return PAUSE;
	trace_print(data, tracer->since, tracer->options->json);
	tracer->shown++;
	tracer->at_once++;
	return is_enough(tracer) || tracer->at_once == EVENTS_AT_ONCE ||
			       ferror(stdout) ?
		       PAUSE :
		       0;
}

/* As soon as it is seen: at this place of the log some are missing. */
static void tell_lost(struct tracer *tracer)
{
	const volatile struct trace_counts *counts =
		&tracer->bpf->bss->trace_counts;
	const __u64 lost = counts->lost;

	if (lost == tracer->lost)
		return;
	fflush(stdout);
	fprintf(stderr, "sluicectl: lost %llu events\n",
		(unsigned long long)(lost - tracer->lost));
	tracer->lost = lost;
}

/* Waits no longer than that. 0, or the exit code. */
static int follow(struct tracer *tracer, int ms)
{
	int ret;

	tracer->at_once = 0;
	ret = ring_buffer__poll(tracer->events, ms);
	tell_lost(tracer);
	if (fflush(stdout))
		return CTL_FAILED; /* main() says why */
	if (ret < 0 && ret != PAUSE && ret != -EINTR)
		return ctl_failed("cannot read events: %s", strerror(-ret));
	return 0;
}

/* For how long yet; 0: no longer. */
static int wait_ms(const struct tracer *tracer)
{
	const __u64 at = now();
	__u64 left;

	if (interrupted || is_enough(tracer) ||
	    (tracer->until && at >= tracer->until))
		return 0;
	left = tracer->until ? (tracer->until - at) / 1000000 + 1 : POLL_MS;
	return left < POLL_MS ? (int)left : POLL_MS;
}

/* After the last event. 0, or CTL_FAILED: the log has holes. */
static int tell_rest(struct tracer *tracer)
{
	const struct trace_counts *counts = &tracer->bpf->bss->trace_counts;

	tell_lost(tracer);
	if (counts->unread)
		ctl_failed("could not read what %llu probes said",
			   (unsigned long long)counts->unread);
	if (counts->forgotten)
		ctl_failed("forgot who sent %llu messages: too many were on "
			   "their way",
			   (unsigned long long)counts->forgotten);
	return counts->lost || counts->unread || counts->forgotten ?
		       CTL_FAILED :
		       0;
}

static void start(struct tracer *tracer)
{
	const struct sigaction action = { .sa_handler = interrupt };
	const double seconds = tracer->options->seconds;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	tracer->since = now();
	if (seconds > 0)
		tracer->until = tracer->since + (__u64)(seconds * 1e9);
}

static void tell_start(const struct tracer *tracer,
		       const struct trace_files *files)
{
	for (unsigned int i = 0; i < files->count; i++)
		trace_print_file(&files->all[i]);
	if (!tracer->options->json)
		trace_print_head();
	fflush(stdout);
}

/* What was told before the programs were detached. 0, or the exit code. */
static int follow_rest(struct tracer *tracer)
{
	long shown;
	int ret;

	do {
		shown = tracer->shown;
		ret = follow(tracer, 0);
	} while (!ret && shown != tracer->shown && !is_enough(tracer));
	return ret;
}

static int trace(struct tracer *tracer, const struct trace_files *files)
{
	int ret, ms;

	tracer->events =
		ring_buffer__new(bpf_map__fd(tracer->bpf->maps.trace_events),
				 show, tracer, NULL);
	if (!tracer->events)
		return refused("cannot map the events", errno);
	start(tracer);
	ret = attach(tracer, files);
	if (ret)
		return ret;
	tell_start(tracer, files);
	while (!ret && (ms = wait_ms(tracer)))
		ret = follow(tracer, ms);
	detach(tracer);
	if (!ret)
		ret = follow_rest(tracer);
	if (tell_rest(tracer) || ret)
		return CTL_FAILED;
	/* Who wants so many by then wants to know. */
	return tracer->until && tracer->options->count && !interrupted &&
			       !is_enough(tracer) ?
		       CTL_FAILED :
		       0;
}

static int run(const struct ctl_options *options)
{
	const libbpf_print_fn_t print = libbpf_set_print(NULL);
	struct tracer tracer = { .options = options };
	struct trace_files files = { 0 };
	int ret;

	if (options->lane && trace_lane(options->lane) < 0)
		return ctl_usage("bad lane \"%s\": want plain, queued, direct "
				 "or steered",
				 options->lane);
	ret = load(&tracer);
	if (!ret)
		ret = trace_files_find(options->operands, &files);
	if (!ret)
		ret = trace(&tracer, &files);
	detach(&tracer);
	ring_buffer__free(tracer.events);
	trace_bpf__destroy(tracer.bpf);
	trace_files_free(&files);
	libbpf_set_print(print);
	return ret;
}

const struct ctl_command ctl_trace = {
	.name = "trace",
	.summary = "each message that is received, as it happens",
	.help = "[--json] [--pid PID] [--endpoint ID] [--lane LANE] [--count N]\n"
		"                       [--seconds S] [FILE...]\n"
		"A line for each message (or part of one) when it is received: from whom, to whom,\n"
		"in which lane, its size, tag and number in its direction, and its age since just\n"
		"before it was published. FILE is libsluice.so, or a program that is linked to\n"
		"libsluice.a; all that run, and the library that is installed, if none is named.\n"
		"Ctrl-C ends it. Needs root.\n\n"
		"  --json           a line of JSON for each\n"
		"  --pid PID        that this process sent or received\n"
		"  --endpoint ID    that this endpoint sent: the one that --json shows\n"
		"  --lane LANE      plain, queued, direct or steered\n"
		"  --count N        ends after N lines\n"
		"  --seconds S      ends after so long; with --count, fails if there were fewer\n",
	.letters = "jPeLNS",
	.operands = true,
	.run = run,
};
