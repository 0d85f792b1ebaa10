/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Counts the system calls of a side, by the kernel's own tracepoint. That makes
 * every call of the machine slower while it counts, so it has a repetition of
 * its own, whose times do not count.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ID_PATH "events/raw_syscalls/sys_enter/id"

int calls_fd = -1;

/* In a private mount: nobody need have mounted tracefs. */
static int open_id(void)
{
	int fs, tree, fd = -1;

	fs = fsopen("tracefs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return -1;
	tree = fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) ?
		       -1 :
		       fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (tree >= 0) {
		fd = openat(tree, ID_PATH, O_RDONLY | O_CLOEXEC);
		close(tree);
	}
	close(fs);
	return fd;
}

/* Number of the tracepoint, or 0 and errno. */
static unsigned long tracepoint(void)
{
	static unsigned long id;
	char text[24] = "";
	int fd;

	if (id)
		return id;
	fd = open_id();
	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) > 0)
		id = strtoul(text, NULL, 10);
	close(fd);
	return id;
}

int calls_open(void)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(event),
		.config = tracepoint(),
	};

	if (!event.config)
		return -errno;
	calls_fd = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1,
				PERF_FLAG_FD_CLOEXEC);
	return calls_fd < 0 ? -errno : 0;
}

bool calls_possible(char reason[BENCH_TEXT])
{
	const int ret = calls_open();

	if (ret) {
		snprintf(reason, BENCH_TEXT,
			 "system calls are not counted: %s%s", strerror(-ret),
			 geteuid() ? " (root can)" : "");
		return false;
	}
	close(calls_fd);
	calls_fd = -1;
	return true;
}
