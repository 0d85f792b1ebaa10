/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A service whose streams are redirected, through a whole sluiced: it reads and
 * writes nothing of what flows, nor wakes up for it. (The rest is tested without
 * the rest of sluiced: redirect-*.c.)
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services.h"
#include "tap.h"

#define ROUNDS 1000
#define BULK (32u << 20)

static void echo(int fd, size_t len)
{
	static char data[65536], back[65536];

	tap_fill(data, len, len);
	CHECK_EQ(CHECK_SYS(send(fd, data, len, MSG_NOSIGNAL)), (ssize_t)len);
	CHECK_EQ(CHECK_SYS(recv(fd, back, len, MSG_WAITALL)), (ssize_t)len);
	CHECK_MEM(back, data, len);
}

static int start(struct services *s, const char *extra)
{
	services_open(s, SOCK_STREAM, 1, extra);
	if (!(services_status(s).flags & SLUICE_SERVICE_F_REDIRECTS) &&
	    strstr(extra, "no"))
		tap_skip("sluiced cannot redirect here");
	backend_start(s, 0, BACKEND_ECHO);
	return services_connect(s);
}

/* How often the threads of sluiced went to sleep: once per wake-up. */
static unsigned long sleeps(const struct services *s)
{
	unsigned long count, sum = 0;
	char path[64], line[128];
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", s->d.pid);
	tasks = CHECK_SYS(opendir(path) ?: (DIR *)-1);
	while ((entry = readdir(tasks))) {
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/status",
			 s->d.pid, entry->d_name);
		file = *entry->d_name == '.' ? NULL : fopen(path, "re");
		while (file && fgets(line, sizeof(line), file)) {
			if (sscanf(line, "voluntary_ctxt_switches: %lu",
				   &count) == 1)
				sum += count;
		}
		if (file)
			fclose(file);
	}
	closedir(tasks);
	return sum;
}

TAP_TEST(sluiced_sees_nothing_of_what_flows)
{
	struct sluice_control_service before, after;
	unsigned long slept;
	struct services s;
	int fd = start(&s, "half_close = no\n");

	for (int i = 0; i < 5; i++) {
		echo(fd, 100);
		tap_sleep(2000000);
	}
	before = services_status(&s);
	CHECK_EQ(before.redirected, 1);
	CHECK_EQ(before.relayed, 0);
	slept = sleeps(&s);
	for (int i = 0; i < ROUNDS; i++)
		echo(fd, 100);
	slept = sleeps(&s) - slept;
	after = services_status(&s);
	tap_diag("sluiced woke up %lu times for %d messages", slept,
		 2 * ROUNDS);
	CHECK_LT(slept, ROUNDS / 10);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(after.bytes[i], before.bytes[i]);
		CHECK_EQ(after.kernel_bytes[i] - before.kernel_bytes[i],
			 ROUNDS * 100);
		CHECK_EQ(after.kernel_messages[i] - before.kernel_messages[i],
			 ROUNDS);
	}
	close(fd);
	services_close(&s);
}

/* strace(1) --------------------------------------------------------------- */

#define TRACED_SECONDS 3
#define TRACED_ROUNDS 5000 /* at least */

/* Whether strace follows all threads of sluiced. */
static bool is_traced(const struct services *s, pid_t tracer)
{
	char path[64], line[128];
	int threads = 0, traced = 0, by;
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", s->d.pid);
	tasks = CHECK_SYS(opendir(path) ?: (DIR *)-1);
	while ((entry = readdir(tasks))) {
		FILE *file;

		if (*entry->d_name == '.')
			continue;
		threads++;
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/status",
			 s->d.pid, entry->d_name);
		file = fopen(path, "re");
		while (file && fgets(line, sizeof(line), file)) {
			if (sscanf(line, "TracerPid: %d", &by) == 1)
				traced += by == tracer;
		}
		if (file)
			fclose(file);
	}
	closedir(tasks);
	return traced == threads;
}

static pid_t trace(const struct services *s)
{
	pid_t pid = tap_fork();
	char traced[16];
	int output;

	if (pid)
		return pid;
	snprintf(traced, sizeof(traced), "%d", s->d.pid);
	output = CHECK_SYS(open("calls", O_WRONLY | O_CREAT | O_EXCL, 0600));
	CHECK_SYS(dup2(output, STDERR_FILENO));
	execlp("strace", "strace", "-c", "-f", "-p", traced, (char *)NULL);
	_exit(1);
}

static bool carries_data(const char *call)
{
	const char *const names[] = { "recv",	       "send",	   "splice",
				      "tee",	       "vmsplice", "readv",
				      "writev",	       "pread",	   "pwrite",
				      "io_uring_enter" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strstr(call, names[i]))
			return true;
	}
	return false;
}

/* Calls in strace's table: all, and those that could carry what flows. */
static unsigned long count_calls(unsigned long *data)
{
	FILE *file = CHECK_SYS(fopen("calls", "re") ?: (FILE *)-1);
	unsigned long all = 0, calls;
	char line[256], rest[128], *name;

	*data = 0;
	while (fgets(line, sizeof(line), file)) {
		tap_diag("%.*s", (int)strcspn(line, "\n"), line);
		/* % time, seconds, usecs/call, calls, [errors,] name */
		if (sscanf(line, " %*f %*f %*d %lu %127[^\n]", &calls, rest) !=
		    2)
			continue;
		name = strrchr(rest, ' ');
		name = name ? name + 1 : rest;
		if (!strcmp(name, "total"))
			continue;
		all += calls;
		if (carries_data(name))
			*data += calls;
	}
	fclose(file);
	return all;
}

/*
 * strace -c -p $(pidof sluiced): two connections at work for seconds, one that asks
 * and is answered, one that streams. What is left are looks at the backend, by time.
 */
TAP_TEST(no_data_path_call_under_strace)
{
	struct sluice_control_service before, after;
	unsigned long rounds = 0, all, data;
	struct services s;
	pid_t tracer;
	int64_t until;
	int fd, bulk, status;

	if (system("command -v strace >/dev/null"))
		tap_skip("no strace here");
	fd = start(&s, "half_close = no\n");
	bulk = services_connect(&s);
	for (int i = 0; i < 5; i++) {
		echo(fd, 100);
		echo(bulk, 65536);
		tap_sleep(2000000);
	}
	tracer = trace(&s);
	CHECK_WITHIN(20, waitpid(tracer, &status, WNOHANG) ||
				 is_traced(&s, tracer));
	if (kill(tracer, 0))
		tap_skip("strace may not follow sluiced");
	before = services_status(&s);
	until = tap_now() + TRACED_SECONDS * 1000000000ll;
	for (; rounds < TRACED_ROUNDS || tap_now() < until; rounds++) {
		echo(fd, 100);
		if (rounds % 16 == 0)
			echo(bulk, 65536);
	}
	after = services_status(&s);
	CHECK_SYS(kill(tracer, SIGINT));
	tap_reap(tracer);
	all = count_calls(&data);
	unlink("calls");
	tap_diag("%lu system calls, of which %lu can carry data, for %lu "
		 "messages",
		 all, data, 2 * rounds);
	CHECK_EQ(after.bytes[0] + after.bytes[1],
		 before.bytes[0] + before.bytes[1]);
	CHECK_GE(after.kernel_messages[0] - before.kernel_messages[0], rounds);
	/* the two questions for the status are among them */
	CHECK_LT(data, 100);
	CHECK_LT(all, rounds / 4);
	close(fd);
	close(bulk);
	services_close(&s);
}

TAP_TEST(bulk)
{
	struct sluice_control_service status;
	struct services s;
	int fd = start(&s, "half_close = no\n");

	for (unsigned int done = 0; done < BULK; done += 65536)
		echo(fd, 65536);
	status = services_status(&s);
	CHECK_GT(status.kernel_bytes[0], BULK / 2);
	CHECK_GT(status.kernel_bytes[1], BULK / 2);
	close(fd);
	services_close(&s);
}

/* What the kernel cannot be made to keep whole stays in user space, and says so. */
TAP_TEST(half_close_stays_in_user_space)
{
	struct sluice_control_service status;
	struct services s;
	int fd = start(&s, "half_close = yes\n");

	for (int i = 0; i < 100; i++)
		echo(fd, 100);
	status = services_status(&s);
	CHECK_EQ(status.flags & SLUICE_SERVICE_F_HALF_CLOSE,
		 SLUICE_SERVICE_F_HALF_CLOSE);
	CHECK_EQ(status.redirected, 0);
	CHECK_EQ(status.relayed, 1);
	CHECK_EQ(status.kernel_bytes[0] + status.kernel_bytes[1], 0);
	CHECK_GE(status.bytes[0], 10000);
	CHECK_SYS(shutdown(fd, SHUT_WR));
	CHECK_EQ(CHECK_SYS(recv(fd, &(char){ 0 }, 1, 0)), 0);
	close(fd);
	services_close(&s);
}
