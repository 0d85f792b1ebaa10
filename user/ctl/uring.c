/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl uring: io_urings that sluiced accounts for, or is to account for while
 * this command runs.
 */
#include "ctl.h"

#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RING_LINK "anon_inode:[io_uring]"

/* Asking ------------------------------------------------------------------ */

static int urings_list(int fd, struct sluice_control_uring_record **records,
		       unsigned int *count)
{
	struct sluice_control_uring_record *all = NULL, *more;
	unsigned int got;
	__u64 after = 0;

	*count = 0;
	do {
		more = realloc(all,
			       (*count + SLUICE_URINGS_MAX) * sizeof(*all));
		if (!more || control_records(fd, SLUICE_CONTROL_URINGS, after,
					     more + *count, sizeof(*more),
					     SLUICE_URINGS_MAX, &got)) {
			free(more ? more : all);
			return more ? CTL_FAILED : ctl_failed("out of memory");
		}
		all = more;
		*count += got;
		if (got && all[*count - 1].ring <= after) {
			free(all);
			return ctl_failed("sluiced lists the same twice");
		}
		after = got ? all[*count - 1].ring : after;
	} while (got);
	*records = all;
	return 0;
}

/* A ring that is followed already is shown as it is. */
static int follow(int fd, const struct ctl_options *options, __u32 ring)
{
	struct sluice_control call = {
		.type = SLUICE_CONTROL_URING_FOLLOW,
		.uring = {
			.pid = (__u32)options->pid,
			.fd = ring,
			.match = options->match,
			.mask = options->mask,
			.buffer_count = SLUICE_URING_BUFFERS_END,
		},
	};

	if (control_ask(fd, &call, NULL, NULL))
		return CTL_FAILED;
	if (!call.error || call.error == EALREADY)
		return 0;
	return ctl_failed("cannot follow fd %u of process %d: %s", ring,
			  options->pid, strerror((int)call.error));
}

static bool is_ring(int dir, const char *name)
{
	char target[sizeof(RING_LINK)];
	ssize_t n = readlinkat(dir, name, target, sizeof(target));

	return n == sizeof(RING_LINK) - 1 &&
	       !memcmp(target, RING_LINK, sizeof(RING_LINK) - 1);
}

/* All rings of the process: they are followed until fd is closed. */
static int follow_all(int fd, const struct ctl_options *options)
{
	char path[32];
	struct dirent *entry;
	unsigned int count = 0;
	DIR *dir;
	int ret = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", options->pid);
	dir = opendir(path);
	if (!dir)
		return ctl_failed("%s: %s", path, strerror(errno));
	while (!ret && (entry = readdir(dir))) {
		if (!is_ring(dirfd(dir), entry->d_name))
			continue;
		ret = follow(fd, options,
			     (__u32)strtoul(entry->d_name, NULL, 10));
		count++;
	}
	closedir(dir);
	if (!ret && !count)
		return ctl_failed("process %d has no io_uring", options->pid);
	return ret;
}

/* Those of the process that was asked for. */
static unsigned int choose(struct sluice_control_uring_record *records,
			   unsigned int count, int pid)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < count; i++) {
		if (!pid || records[i].pid == (__u32)pid)
			records[kept++] = records[i];
	}
	return kept;
}

/* Showing ----------------------------------------------------------------- */

static const struct column {
	const char *name; /* in JSON */
	const char *heading;
	size_t at;
} columns[] = {
#define COLUMN(name, heading, field)                                       \
	{                                                                  \
		name, heading, offsetof(struct sluice_uring_counts, field) \
	}
	COLUMN("doorbell", "doorbell", bell),
	COLUMN("idle", "idle", idle),
	COLUMN("pool", "pool", pool),
	COLUMN("wait", "wait", wait),
};
#define COLUMNS (sizeof(columns) / sizeof(columns[0]))

static const struct sluice_uring_times *
times_of(const struct sluice_control_uring_record *record, unsigned int column)
{
	return (const void *)((const char *)&record->counts +
			      columns[column].at);
}

static __u64 times_count(const struct sluice_uring_times *times)
{
	__u64 count = 0;

	for (unsigned int i = 0; i < SLUICE_URING_BUCKETS; i++)
		count += times->bucket[i];
	return count;
}

static double seconds_since(__u64 boottime)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9 -
	       (double)boottime / 1e9;
}

static json_t *times_json(const struct sluice_uring_times *times)
{
	json_t *buckets = json_array();

	for (unsigned int i = 0; i < SLUICE_URING_BUCKETS; i++)
		json_array_append_new(
			buckets, json_integer((json_int_t)times->bucket[i]));
	return json_pack("{s:I, s:I, s:o}", "count",
			 (json_int_t)times_count(times), "sum_ns",
			 (json_int_t)times->sum, "buckets", buckets);
}

static json_t *record_json(const struct sluice_control_uring_record *r)
{
	const struct sluice_uring_counts *c = &r->counts;
	json_t *json = json_pack(
		"{s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
		"ring", (json_int_t)r->ring, "pid", (json_int_t)r->pid, "fd",
		(json_int_t)r->fd, "uid", (json_int_t)r->uid, "seconds",
		seconds_since(r->since), "match", (json_int_t)r->match, "mask",
		(json_int_t)r->mask, "buffer_first",
		(json_int_t)r->buffer_first, "buffer_count",
		(json_int_t)r->buffer_count, "in_flight",
		(json_int_t)r->tracked, "pool_in_flight",
		(json_int_t)r->pool_now, "pool_in_flight_most",
		(json_int_t)r->pool_peak);
	json_t *counts = json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
		"submitted", (json_int_t)c->submitted, "completed",
		(json_int_t)c->completed, "overflowed",
		(json_int_t)c->overflowed, "ready", (json_int_t)c->ready,
		"pool_submitted", (json_int_t)c->pool_submitted, "pool_ended",
		(json_int_t)c->pool_ended, "pool_bytes",
		(json_int_t)c->pool_bytes, "waits", (json_int_t)c->waits,
		"waits_empty", (json_int_t)c->waits_empty, "reused",
		(json_int_t)c->reused, "untracked", (json_int_t)c->untracked);

	json_object_set_new(json, "counts", counts);
	for (unsigned int i = 0; i < COLUMNS; i++)
		json_object_set_new(json, columns[i].name,
				    times_json(times_of(r, i)));
	return json;
}

static int show_json(const struct sluice_control_uring_record *records,
		     unsigned int count)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < count; i++)
		json_array_append_new(list, record_json(&records[i]));
	return ctl_json(json_pack("{s:o}", "rings", list), 0);
}

/* "1.5 us": in the largest unit that it has one of. */
static const char *time_text(double ns)
{
	static const char *const units[] = { "ns", "us", "ms", "s" };
	static char text[32];
	unsigned int unit = 0;

	for (; ns >= 1000 && unit < 3; unit++)
		ns /= 1000;
	snprintf(text, sizeof(text), "%.3g %s", ns, units[unit]);
	return text;
}

/* A line for each bucket in which anything is. */
static void times_print(const struct sluice_control_uring_record *r)
{
	printf("%14s", "");
	for (unsigned int i = 0; i < COLUMNS; i++)
		printf(" %12s", columns[i].heading);
	printf("\n  %-12s", "mean");
	for (unsigned int i = 0; i < COLUMNS; i++) {
		const struct sluice_uring_times *times = times_of(r, i);
		__u64 count = times_count(times);

		printf(" %12s",
		       count ? time_text((double)times->sum / (double)count) :
			       "-");
	}
	putchar('\n');
	for (unsigned int i = 0; i < SLUICE_URING_BUCKETS; i++) {
		__u64 any = 0;

		for (unsigned int j = 0; j < COLUMNS; j++)
			any |= times_of(r, j)->bucket[i];
		if (!any)
			continue;
		printf("  >= %-9s", time_text((double)(1ull << i)));
		for (unsigned int j = 0; j < COLUMNS; j++)
			printf(" %12llu",
			       (unsigned long long)times_of(r, j)->bucket[i]);
		putchar('\n');
	}
}

static void record_print(const struct sluice_control_uring_record *r)
{
	const struct sluice_uring_counts *c = &r->counts;

	printf("ring %llu: fd %u of process %u, uid %u, for %.1f s\n",
	       (unsigned long long)r->ring, r->fd, r->pid, r->uid,
	       seconds_since(r->since));
	printf("  requests %llu, CQEs %llu (%llu while the CQ was full), "
	       "doorbells ready at once %llu\n",
	       (unsigned long long)c->submitted,
	       (unsigned long long)c->completed,
	       (unsigned long long)c->overflowed, (unsigned long long)c->ready);
	printf("  in flight: doorbells %u, pool operations %u (at most %u); "
	       "ended %llu, bytes %llu\n",
	       r->tracked - r->pool_now, r->pool_now, r->pool_peak,
	       (unsigned long long)c->pool_ended,
	       (unsigned long long)c->pool_bytes);
	printf("  waits %llu (%llu ended without a CQE)\n",
	       (unsigned long long)c->waits,
	       (unsigned long long)c->waits_empty);
	if (c->reused || c->untracked)
		printf("  not timed: %llu with a user_data in flight, %llu too "
		       "many\n",
		       (unsigned long long)c->reused,
		       (unsigned long long)c->untracked);
	times_print(r);
}

/* Running ----------------------------------------------------------------- */

static int run(const struct ctl_options *options)
{
	struct sluice_control_uring_record *records = NULL;
	unsigned int count = 0;
	int fd, ret = 0;

	if (!options->pid && (options->ring_fd >= 0 || options->mask))
		return ctl_usage("--fd and --user-data want --pid");
	fd = control_open(options, false);
	if (fd < 0)
		return -fd;
	if (options->ring_fd >= 0)
		ret = follow(fd, options, (__u32)options->ring_fd);
	else if (options->pid)
		ret = follow_all(fd, options);
	if (!ret && options->pid)
		ctl_sleep(options->interval);
	if (!ret)
		ret = urings_list(fd, &records, &count);
	close(fd);
	if (ret)
		return ret;
	count = choose(records, count, options->pid);
	if (options->json)
		ret = show_json(records, count);
	for (unsigned int i = 0; i < count && !options->json; i++)
		record_print(&records[i]);
	if (!count && !options->json)
		puts(options->pid ? "It has closed its rings meanwhile." :
				    "No io_uring is followed.");
	free(records);
	return ret;
}

const struct ctl_command ctl_uring = {
	.name = "uring",
	.summary = "io_urings: doorbells, waits, what is in flight on pools",
	.help = "[--json] [--pid PID [--fd FD] [--user-data VALUE/MASK]\n"
		"                       [--interval S]] [--control PATH]\n"
		"Shows what sluiced has counted of the rings that it follows at somebody's\n"
		"request; or follows those of a process for a while. Of others: root only.\n\n"
		"  --json           as JSON, with all buckets\n"
		"  --pid PID        follows this process's rings, and shows them\n"
		"  --fd FD          this one only\n"
		"  --user-data VALUE/MASK   doorbells are the polls, reads and receives that\n"
		"                   have VALUE in these bits of their user_data (0/0: all)\n"
		"  --interval S     for so many seconds (1)\n"
		"  --control PATH   sluiced's control socket (" SLUICE_CONTROL_PATH
		")\n",
	.letters = "jPFuis",
	.run = run,
};
