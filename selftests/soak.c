/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The soak test: MINUTES (from the environment, 60 without, fractions too) of
 * random traffic between one hub and a few workers that are killed at random.
 * Not in the suite; `make soak` runs it. soak.h says who is who.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "soak.h"

#define SECOND 1000000000ll
#define TICK (SECOND / 20)
#define REPORT (10 * SECOND)
#define STUCK (30 * SECOND * tap_slow)

struct process {
	pid_t pid;
	uint64_t beats;
	int64_t moved; /* when beats last grew */
	bool killed;
};

static struct process processes[SOAK_WORKERS + 1];

static double minutes(void)
{
	const char *text = getenv("MINUTES");
	double number;
	char *rest;

	if (!text || !*text)
		return 60;
	number = strtod(text, &rest);
	if (*rest || !(number > 0 && number <= 100000))
		TAP_FAIL("MINUTES=%s is no number of minutes", text);
	return number;
}

static void start(struct soak *soak, unsigned int index)
{
	struct process *p = &processes[index];

	*p = (struct process){ .moved = tap_now() };
	p->beats = atomic_load(&soak->beats[index]);
	p->pid = tap_fork();
	if (p->pid)
		return;
	tap_random_stream(atomic_fetch_add(&soak->process, 1) + 1);
	if (index == SOAK_HUB)
		soak_hub(soak);
	soak_worker(soak, index);
}

/* Reaps whoever is gone: killed, or a worker that left by itself. */
static void reap(struct soak *soak)
{
	for (unsigned int i = 0; i <= SOAK_WORKERS; i++) {
		struct process *p = &processes[i];
		int status;

		if (!p->pid || waitpid(p->pid, &status, WNOHANG) != p->pid)
			continue;
		/* A worker may leave just before it would be killed. */
		if (!(p->killed && WIFSIGNALED(status) &&
		      WTERMSIG(status) == SIGKILL) &&
		    (status || (i == SOAK_HUB && !soak->hub_stop)))
			TAP_FAIL("%s %u ended with status %#x",
				 i == SOAK_HUB ? "hub" : "worker", i, status);
		p->pid = 0;
	}
}

static void watch(struct soak *soak)
{
	for (unsigned int i = 0; i <= SOAK_WORKERS; i++) {
		struct process *p = &processes[i];
		uint64_t beats = atomic_load(&soak->beats[i]);

		if (beats != p->beats) {
			p->beats = beats;
			p->moved = tap_now();
		}
		if (p->pid && tap_now() - p->moved > STUCK)
			TAP_FAIL("%s %u has not moved for %lld s",
				 i == SOAK_HUB ? "hub" : "worker", i,
				 STUCK / SECOND);
	}
}

static void kill_at_random(struct soak *soak)
{
	unsigned int i = (unsigned int)tap_random_below(SOAK_WORKERS + 1);
	struct process *p = &processes[i];

	/* The hub lives longer, so that connections do, too. */
	if (tap_random_below(i == SOAK_HUB ? 20 : 4) || !p->pid || p->killed)
		return;
	atomic_fetch_add(
		&soak->counts[i == SOAK_HUB ? SOAK_HUBS_KILLED : SOAK_KILLED],
		1);
	p->killed = true;
	CHECK_SYS(kill(p->pid, SIGKILL));
}

static long hub_resident(void)
{
	char path[64];
	long pages = 0;
	FILE *statm;

	snprintf(path, sizeof(path), "/proc/%d/statm", processes[SOAK_HUB].pid);
	statm = fopen(path, "re");
	if (!statm)
		return 0;
	if (fscanf(statm, "%*d %ld", &pages) != 1)
		pages = 0;
	fclose(statm);
	return pages * sysconf(_SC_PAGESIZE);
}

static void report(struct soak *soak, int64_t begin)
{
	const _Atomic uint64_t *c = soak->counts;

	tap_diag("%6.0f s: %llu messages, %.1f GB; %llu connections, %llu ends "
		 "read to the last message; %llu switches, %llu trims; %llu "
		 "workers and %llu hubs killed; hub has %.1f MiB",
		 (double)(tap_now() - begin) / SECOND,
		 (unsigned long long)c[SOAK_MESSAGES],
		 (double)c[SOAK_BYTES] / 1e9,
		 (unsigned long long)c[SOAK_OPENED],
		 (unsigned long long)c[SOAK_ENDED],
		 (unsigned long long)c[SOAK_SWITCHES],
		 (unsigned long long)c[SOAK_TRIMS],
		 (unsigned long long)c[SOAK_KILLED],
		 (unsigned long long)c[SOAK_HUBS_KILLED],
		 (double)hub_resident() / (1 << 20));
}

static void run(struct soak *soak, int64_t begin, int64_t until)
{
	int64_t next_report = begin + REPORT;

	while (tap_now() < until) {
		for (unsigned int i = 0; i <= SOAK_WORKERS; i++)
			if (!processes[i].pid)
				start(soak, i);
		tap_sleep(TICK);
		kill_at_random(soak);
		reap(soak);
		watch(soak);
		if (tap_now() >= next_report) {
			report(soak, begin);
			next_report += REPORT;
		}
	}
}

/* Ends all workers, then the hub, and sees that they do. */
static void finish(struct soak *soak)
{
	bool alive = true;

	if (!processes[SOAK_HUB].pid)
		start(soak, SOAK_HUB);
	atomic_store(&soak->stop, true);
	while (alive) {
		tap_sleep(TICK);
		reap(soak);
		watch(soak);
		if (!processes[SOAK_HUB].pid && !soak->hub_stop)
			start(soak, SOAK_HUB); /* it had just been killed */
		alive = false;
		for (unsigned int i = 0; i < SOAK_WORKERS; i++)
			alive |= processes[i].pid != 0;
		if (!alive)
			atomic_store(&soak->hub_stop, true);
		alive |= processes[SOAK_HUB].pid != 0;
	}
}

TAP_TEST(soak)
{
	double length = minutes();
	int64_t begin = tap_now();
	struct soak *soak;

	tap_limit((unsigned int)(length * 60) + 120);
	soak = mmap(NULL, sizeof(*soak), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(soak != MAP_FAILED);
	for (int i = 0; i < SOAK_LISTENERS; i++)
		snprintf(soak->names[i], sizeof(soak->names[i]), "%s",
			 life_name());
	start(soak, SOAK_HUB);
	run(soak, begin, begin + (int64_t)(length * 60 * SECOND));
	report(soak, begin);
	finish(soak);
	CHECK_GT(soak->counts[SOAK_MESSAGES], 0);
}
