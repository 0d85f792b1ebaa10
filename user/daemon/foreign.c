/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Closing what clients sent; foreign.h says why that takes care. */
#include "foreign.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static timer_t timer;
static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
	(void)number;
	interrupted = 1;
}

int foreign_init(void)
{
	struct sigaction action = { .sa_handler = interrupt };
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = SIGALRM,
	};

	event.sigev_notify_thread_id = gettid();
	if (sigaction(SIGALRM, &action, NULL) ||
	    timer_create(CLOCK_MONOTONIC, &event, &timer))
		return -errno;
	return 0;
}

/* How often this thread gave up its CPU to wait for something. */
static long waits(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nvcsw;
}

static long long cpu_ns(void)
{
	struct timespec used;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	return used.tv_sec * 1000000000ll + used.tv_nsec;
}

bool foreign_close(int fd, long wait_ns)
{
	/*
	 * All that close() lets go of is released before it returns, with the
	 * signal pending: only the first wait takes time.
	 */
	const struct itimerspec limit = {
		.it_value.tv_nsec = wait_ns,
		.it_interval.tv_nsec = wait_ns,
	};
	const struct itimerspec none = { 0 };

	long long cpu = cpu_ns();
	long before = waits();

	interrupted = 0;
	timer_settime(timer, 0, &limit, NULL);
	close(fd);
	timer_settime(timer, 0, &none, NULL);
	/* Time passes on a busy machine, too, and then nobody is to blame. */
	return !interrupted || (waits() == before && cpu_ns() - cpu < wait_ns);
}
