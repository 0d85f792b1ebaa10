/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl drain: nothing new, then waits until nothing is left.
 */
#include "ctl.h"

#include <poll.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS 200

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int drain_set(int fd, bool on, struct sluice_control_use *use)
{
	struct sluice_control call = {
		.type = SLUICE_CONTROL_DRAIN,
		.drain.on = on,
	};
	const int ret = control_call(fd, &call, NULL, NULL);

	*use = call.use;
	return ret;
}

/* A line that is overwritten on a terminal, else one for each change. */
static void progress(const struct sluice_control_use *use)
{
	static __u32 endpoints = ~0u, conns = ~0u;
	const bool terminal = isatty(STDERR_FILENO);

	if (use->endpoints == endpoints && use->conns == conns)
		return;
	endpoints = use->endpoints;
	conns = use->conns;
	fprintf(stderr, "%sdraining: %u endpoints, %u connections left%s",
		terminal ? "\r\033[K" : "", endpoints, conns,
		terminal ? "" : "\n");
	if (terminal && !endpoints)
		fputc('\n', stderr);
}

/* Until nothing is left or time is up. 0 or CTL_FAILED. */
static int drain_wait(int fd, const struct ctl_options *options,
		      struct sluice_control_use *use)
{
	const double end = seconds_now() + options->timeout;

	for (;;) {
		progress(use);
		if (!use->endpoints)
			return 0;
		if (options->timeout >= 0 && seconds_now() >= end)
			return 0;
		poll(NULL, 0, LOOK_MS);
		if (control_query(fd, use))
			return CTL_FAILED;
		if (!(use->flags & SLUICE_USE_F_DRAINING))
			return ctl_failed("somebody has ended the draining");
	}
}

static int run(const struct ctl_options *options)
{
	struct sluice_control_use use;
	int fd = control_open(options, false), ret;
	bool drained;

	if (fd < 0)
		return -fd;
	ret = drain_set(fd, !options->off, &use);
	if (!ret && !options->off)
		ret = drain_wait(fd, options, &use);
	close(fd);
	if (ret)
		return ret;
	drained = !use.endpoints;
	if (options->json)
		ret = ctl_json(json_pack("{s:b, s:I, s:I}", "draining",
					 !options->off, "endpoints",
					 (json_int_t)use.endpoints, "conns",
					 (json_int_t)use.conns),
			       0);
	else if (options->off)
		puts("sluiced serves new clients again.");
	else if (drained)
		puts("Nothing is left. Stop sluiced, or sluicectl drain --off.");
	if (ret || options->off || drained)
		return ret;
	return ctl_failed(
		"%u endpoints are left, and sluiced takes no new ones: "
		"sluicectl status says whose, drain --off undoes it",
		use.endpoints);
}

const struct ctl_command ctl_drain = {
	.name = "drain",
	.summary = "no new endpoints and connections; waits until none is left",
	.help = "[--json] [--off] [--timeout S] [--control PATH]\n"
		"sluiced refuses new endpoints and attachments from here on, and what there is\n"
		"goes on; waits until the last endpoint is gone. Needs root. Lasts until --off\n"
		"or a restart of sluiced, also when this command is interrupted.\n\n"
		"  --json           as JSON\n"
		"  --off            ends it: sluiced serves new clients again\n"
		"  --timeout S      waits no longer; exits with 1 if something is left\n"
		"  --control PATH   sluiced's control socket (" SLUICE_CONTROL_PATH
		")\n",
	.letters = "jots",
	.run = run,
};
