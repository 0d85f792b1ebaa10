/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * One repetition: two new processes, each pinned to its CPU, with the bare
 * cache-line probe before and after. The parent sleeps meanwhile; it wakes when
 * a side ends, and kills both when one fails, dies or does not come to an end.
 */
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "middle.h"

/* One probe; about as many round trips fit in it as a repetition's warm-up. */
#define PROBE_NS 5000000
#define PROBE_GROUP 64

/* Over the time that a repetition should take: a hang, not a slow machine. */
#define WATCHDOG_NS 10000000000ull

int side_fail(struct bench_side *side, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(side->control->error[side->index], BENCH_TEXT, format, args);
	va_end(args);
	return -1;
}

/* Waits until the other side is here as often as this one. */
static void meet(struct bench_side *side)
{
	struct bench_control *control = side->control;
	uint32_t times = control->arrived[side->index].word + 1;

	__atomic_store_n(&control->arrived[side->index].word, times,
			 __ATOMIC_RELEASE);
	while ((int32_t)(__atomic_load_n(&control->arrived[!side->index].word,
					 __ATOMIC_ACQUIRE) -
			 times) < 0)
		sched_yield();
}

/*
 * The probe: a bare cache line goes to and fro. Its figure is the median half
 * round trip of groups, so that a single interruption does not count. A word of
 * 0 ends it. Worth 0 in side 1.
 */
static double probe(struct bench_side *side)
{
	struct bench_control *control = side->control;
	uint32_t *own = &control->probe[side->index].word;
	const uint32_t *other = &control->probe[!side->index].word;
	const uint64_t ticks = (uint64_t)(PROBE_NS / clock_ns_per_tick);
	uint64_t start = clock_ticks(), last = start, now;
	uint32_t word = 0;

	if (side->index) {
		do {
			while (__atomic_load_n(other, __ATOMIC_ACQUIRE) == word)
				bench_relax();
			word = __atomic_load_n(other, __ATOMIC_RELAXED);
			__atomic_store_n(own, word, __ATOMIC_RELEASE);
		} while (word);
		return 0;
	}
	memset(&control->probe_histogram, 0, sizeof(control->probe_histogram));
	do {
		__atomic_store_n(own, ++word, __ATOMIC_RELEASE);
		while (__atomic_load_n(other, __ATOMIC_ACQUIRE) != word)
			bench_relax();
		now = clock_ticks();
		if (word % PROBE_GROUP)
			continue;
		histogram_add(&control->probe_histogram, now - last);
		last = now;
	} while (now - start < ticks || !control->probe_histogram.count);
	__atomic_store_n(own, 0, __ATOMIC_RELEASE);
	while (__atomic_load_n(other, __ATOMIC_ACQUIRE))
		bench_relax();
	return histogram_quantile(&control->probe_histogram, 0.5, clock_step) *
	       clock_ns_per_tick / (2 * PROBE_GROUP);
}

static int side_run(struct bench_side *side)
{
	const struct bench_system *system = side->c->system;
	double before, after;

	if (system->open(side))
		return -1;
	meet(side);
	before = probe(side);
	meet(side);
	if (system->run(side))
		return -1;
	meet(side);
	after = probe(side);
	if (!side->index) {
		side->control->probe_ns[0] = before;
		side->control->probe_ns[1] = after;
	}
	return system->close(side);
}

static void channel_close(const struct bench_channel *channel,
			  unsigned int index)
{
	unsigned int i;

	if (channel->in[index] >= 0)
		close(channel->in[index]);
	if (channel->out[index] >= 0 &&
	    channel->out[index] != channel->in[index])
		close(channel->out[index]);
	for (i = 0; i < channel->pair_count; i++)
		close(channel->pairs[i][index]);
}

/* In the new process; never returns. */
static void side_main(const struct bench_case *c, unsigned int index,
		      unsigned int cpu, struct bench_channel *channel,
		      struct bench_control *control, pid_t parent)
{
	struct bench_side side = {
		.c = c,
		.index = index,
		.block = c->mode == MODE_BLOCK,
		.size = c->size,
		.touched = c->touched,
		.channel = channel,
		.control = control,
		.result = &control->result[index],
	};
	cpu_set_t set;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(BENCH_FAILED);
	/* The peer's ends, so that its death shows. */
	channel_close(channel, !index);
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		side_fail(&side, "cannot run on CPU %u: %s", cpu,
			  strerror(errno));
		_exit(BENCH_FAILED);
	}
	if (c->count_calls && calls_open()) {
		side_fail(&side, "cannot count system calls: %s",
			  strerror(errno));
		_exit(BENCH_FAILED);
	}
	_exit(side_run(&side) ? BENCH_FAILED : 0);
}

static void channel_free(struct bench_channel *channel)
{
	channel_close(channel, 0);
	channel_close(channel, 1);
	free(channel->pairs);
	if (channel->memory)
		munmap(channel->memory, channel->memory_size);
}

/* 0 if the side ended well; its own words for why not come first. */
static int side_judge(const struct bench_control *control, unsigned int index,
		      int status, char reason[BENCH_TEXT])
{
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	if (control->error[index][0])
		snprintf(reason, BENCH_TEXT, "%s", control->error[index]);
	else if (WIFSIGNALED(status))
		snprintf(reason, BENCH_TEXT,
			 "process %u died of signal %d (%s)", index,
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(reason, BENCH_TEXT, "process %u exited with %d", index,
			 WEXITSTATUS(status));
	return -1;
}

/* Waits for both sides; when one fails, or time is up, kills what is left. */
static int sides_wait(struct pollfd sides[2], const pid_t pids[2],
		      const struct bench_control *control, uint64_t limit_ns,
		      char reason[BENCH_TEXT])
{
	const uint64_t start = clock_ns(CLOCK_MONOTONIC);
	unsigned int i, left = 2;
	uint64_t spent;
	int status, ret = 0;

	while (left) {
		spent = clock_ns(CLOCK_MONOTONIC) - start;
		if (!ret && spent >= limit_ns) {
			snprintf(reason, BENCH_TEXT,
				 "no end after %.0f s: killed",
				 (double)spent / 1e9);
			ret = -1;
		}
		if (ret) {
			for (i = 0; i < 2; i++) {
				if (sides[i].fd >= 0)
					pidfd_send_signal(sides[i].fd, SIGKILL,
							  NULL, 0);
			}
		}
		poll(sides, 2,
		     ret ? -1 : (int)((limit_ns - spent) / 1000000) + 1);
		for (i = 0; i < 2; i++) {
			if (sides[i].fd < 0 || !(sides[i].revents & POLLIN))
				continue;
			waitpid(pids[i], &status, 0);
			close(sides[i].fd);
			sides[i].fd = -1;
			left--;
			if (!ret)
				ret = side_judge(control, i, status, reason);
		}
	}
	return ret;
}

static int sides_run(const struct bench_case *c, const unsigned int cpus[2],
		     struct bench_channel *channel,
		     struct bench_control *control, char reason[BENCH_TEXT])
{
	struct pollfd sides[2] = { { .fd = -1, .events = POLLIN },
				   { .fd = -1, .events = POLLIN } };
	const uint64_t limit_ns =
		(uint64_t)((double)(c->warm_ticks + c->ticks) *
			   clock_ns_per_tick) +
		WATCHDOG_NS;
	const pid_t parent = getpid();
	pid_t pids[2];
	unsigned int i;
	int error;

	for (i = 0; i < 2; i++) {
		pids[i] = fork();
		if (!pids[i])
			side_main(c, i, cpus[i], channel, control, parent);
		if (pids[i] > 0)
			sides[i].fd = pidfd_open(pids[i], 0);
		if (sides[i].fd >= 0)
			continue;
		error = errno;
		for (; i < 2; i--) {
			if (pids[i] <= 0)
				continue;
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
			if (sides[i].fd >= 0)
				close(sides[i].fd);
		}
		snprintf(reason, BENCH_TEXT, "cannot start a process: %s",
			 strerror(error));
		return -1;
	}
	return sides_wait(sides, pids, control, limit_ns, reason);
}

/* Part of the measured time that the process ran. */
static double share(const struct bench_result *result)
{
	return result->ticks ? (double)result->cpu_ns / ((double)result->ticks *
							 clock_ns_per_tick) :
			       1;
}

static void sample_fill(const struct bench_case *c,
			const struct bench_control *control,
			struct bench_sample *sample)
{
	const struct bench_result *a = &control->result[0];
	const struct bench_result *b = &control->result[1];
	/* Who counts: the receiver of a stream, else side 0. */
	const struct bench_result *counted = b->messages ? b : a;
	const double messages = (double)counted->messages;
	const struct histogram *times = &control->histogram;
	double scale;
	int i;

	memset(sample, 0, sizeof(*sample));
	memcpy(sample->probe_ns, control->probe_ns, sizeof(sample->probe_ns));
	if (c->pattern == PATTERN_PINGPONG) {
		scale = clock_ns_per_tick / (double)a->messages_per_time;
		sample->p50_ns =
			scale * histogram_quantile(times, 0.5, clock_step);
		sample->p99_ns =
			scale * histogram_quantile(times, 0.99, clock_step);
		sample->p999_ns =
			scale * histogram_quantile(times, 0.999, clock_step);
	}
	sample->messages_per_s =
		messages / ((double)counted->ticks * clock_ns_per_tick / 1e9);
	sample->cpu_ns =
		(double)(a->cpu_ns + b->cpu_ns + counted->middle_ns) / messages;
	for (i = 0; i < 2; i++) {
		const struct bench_result *side = &control->result[i];
		const double idle = side->ticks ? (double)side->idle_ticks /
							  (double)side->ticks :
						  0;

		sample->side_cpu_ns[i] = (double)side->cpu_ns / messages;
		sample->side_busy_ns[i] = sample->side_cpu_ns[i] * (1 - idle);
		sample->side_calls[i] = (double)side->calls / messages;
	}
	sample->calls = sample->side_calls[0] + sample->side_calls[1];
	sample->switches = (double)(a->switches + b->switches) / messages;
	sample->cpu_share = share(a) < share(b) ? share(a) : share(b);
	sample->spilled = (double)(a->spilled + b->spilled) /
			  (double)counted->all_messages;
	sample->frames = (double)(a->frames) / (double)counted->all_messages;
}

int runner_run(const struct bench_case *c, const unsigned int cpus[2],
	       struct bench_sample *sample, char reason[BENCH_TEXT])
{
	struct bench_channel channel = { .in = { -1, -1 }, .out = { -1, -1 } };
	struct bench_control *control;
	int ret;

	reason[0] = 0;
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (control == MAP_FAILED) {
		snprintf(reason, BENCH_TEXT, "no memory: %s", strerror(errno));
		return -1;
	}
	middle_begin();
	ret = c->system->prepare ? c->system->prepare(c, &channel, reason) : 0;
	if (!ret)
		ret = sides_run(c, cpus, &channel, control, reason);
	channel_free(&channel);
	if (!ret)
		sample_fill(c, control, sample);
	munmap(control, sizeof(*control));
	return ret < 0 ? -1 : ret;
}
