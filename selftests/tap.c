/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * main() of every C test: runs the cases one after the other and prints TAP.
 *
 * The parent (this file) stays single-threaded and owns the case's process, the
 * pipe that its output comes through (each line becomes a "# " comment, so that
 * nothing a case prints is taken for a result) and its directory. It is the
 * subreaper of all that a case starts, hence nothing can get away from it. What
 * a case calls is in tap-lib.c; the two share `struct tap_shared`.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"
#include "tap-lib.h"

#define TAP_LIMIT_DEFAULT 60
#define TAP_PROCESSES_MAX 256

static struct tap_case *first_case, **last_case = &first_case;

struct tap_shared *tap_shared;

/* The case that runs; without one, pid is 0. */
static struct {
	pid_t pid;
	int pidfd;
	int output; /* read end of its pipe */
	char dir[256];
	bool line_open; /* its last output did not end in a newline */
} running;

/* Told to stop, by the user or by timeout(1): the case ends as out of time. */
static volatile sig_atomic_t stopping;

static void stop(int signal)
{
	stopping = signal;
}

void tap_register(struct tap_case *entry)
{
	*last_case = entry;
	last_case = &entry->next;
}

static void die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(2);
}

/* Fills pids with the live and unreaped processes below this one. */
static unsigned int descendants(pid_t *pids, unsigned int max)
{
	static struct {
		pid_t pid, parent;
		bool below;
	} all[32768];
	unsigned int count = 0, found = 0;
	pid_t self = getpid();
	struct dirent *entry;
	bool changed;
	DIR *proc;

	proc = opendir("/proc");
	if (!proc)
		die("/proc");
	while ((entry = readdir(proc)) && count < 32768) {
		char path[64], stat[512], *after;
		pid_t pid = atoi(entry->d_name), parent;
		ssize_t len;
		int fd;

		if (pid <= 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		len = read(fd, stat, sizeof(stat) - 1);
		close(fd);
		if (len <= 0)
			continue;
		stat[len] = 0;
		after = strrchr(stat, ')'); /* a name may hold anything */
		if (!after || sscanf(after, ") %*c %d", &parent) != 1)
			continue;
		all[count].pid = pid;
		all[count].below = false;
		all[count++].parent = parent;
	}
	closedir(proc);

	do {
		changed = false;
		for (unsigned int i = 0; i < count; i++) {
			if (all[i].below)
				continue;
			all[i].below = all[i].parent == self;
			for (unsigned int j = 0; j < count && !all[i].below;
			     j++)
				all[i].below = all[j].below &&
					       all[j].pid == all[i].parent;
			if (!all[i].below)
				continue;
			changed = true;
			if (found < max)
				pids[found++] = all[i].pid;
		}
	} while (changed);
	return found;
}

static void read_proc(pid_t pid, const char *name, char *text, size_t size)
{
	char path[64];
	ssize_t len;
	int fd;

	text[0] = 0;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	len = read(fd, text, size - 1);
	close(fd);
	text[len > 0 ? len : 0] = 0;
	text[strcspn(text, "\n")] = 0;
}

static void print_process(const char *what, pid_t pid)
{
	char name[64], where[64];

	read_proc(pid, "comm", name, sizeof(name));
	read_proc(pid, "wchan", where, sizeof(where));
	printf("# %s: process %d (%s), in %s\n", what, pid, name,
	       strcmp(where, "0") && where[0] ? where : "user space");
}

/* Kills and reaps whatever the case started; how many there were. */
static unsigned int clear_processes(const char *report)
{
	pid_t pids[TAP_PROCESSES_MAX];
	unsigned int count, total = 0;

	while ((count = descendants(pids, TAP_PROCESSES_MAX))) {
		for (unsigned int i = 0; i < count; i++) {
			if (report && !total)
				print_process(report, pids[i]);
			kill(pids[i], SIGKILL);
		}
		total += count;
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		tap_sleep(100000);
	}
	return total;
}

static int remove_entry(const char *path, const struct stat *st, int type,
			struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* Removes the case's directory; false, with a report, if it was not empty. */
static bool clear_dir(bool report)
{
	bool empty = true;
	struct dirent *entry;
	DIR *dir;

	dir = opendir(running.dir);
	while (dir && (entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		empty = false;
		if (report)
			printf("# left the file %s\n", entry->d_name);
	}
	if (dir)
		closedir(dir);
	nftw(running.dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	return empty;
}

/* Copies what the case has printed by now. */
static void copy_output(void)
{
	char text[4096];
	ssize_t len;

	while ((len = read(running.output, text, sizeof(text))) > 0) {
		for (ssize_t i = 0; i < len; i++) {
			if (!running.line_open)
				fputs("# ", stdout);
			putchar(text[i]);
			running.line_open = text[i] != '\n';
		}
	}
	fflush(stdout);
}

static void end_output(void)
{
	copy_output();
	if (running.line_open)
		putchar('\n');
	running.line_open = false;
	close(running.output);
}

/* In the new process: the world that tap.h promises to a case. */
static void enter_case(int output)
{
	const struct rlimit no_core = { 0, 0 };
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	setsid();
	dup2(null, 0);
	dup2(output, 1);
	dup2(output, 2);
	syscall(SYS_close_range, 3, ~0u, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	setrlimit(RLIMIT_CORE, &no_core);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	setenv("TMPDIR", running.dir, 1);
	if (chdir(running.dir))
		TAP_FAIL("chdir %s: %s", running.dir, strerror(errno));
	tap_random_stream(0);
}

static void start_case(const struct tap_case *entry, const void *row)
{
	const char *tmp = getenv("TMPDIR");
	int output[2];

	snprintf(running.dir, sizeof(running.dir), "%s/tap-XXXXXX",
		 tmp ? tmp : "/tmp");
	if (!mkdtemp(running.dir))
		die(running.dir);
	if (pipe2(output, O_CLOEXEC))
		die("pipe");
	fcntl(output[0], F_SETFL, O_NONBLOCK);
	running.output = output[0];
	fflush(stdout);
	running.pid = fork();
	if (running.pid < 0)
		die("fork");
	if (!running.pid) {
		enter_case(output[1]);
		tap_limit(TAP_LIMIT_DEFAULT);
		entry->call(row);
		exit(0);
	}
	close(output[1]);
	running.pidfd = syscall(SYS_pidfd_open, running.pid, 0);
	if (running.pidfd < 0)
		die("pidfd_open");
}

/* False: it ran out of time. Its exit goes to *status. */
static bool wait_case(int *status)
{
	struct pollfd fds[2] = { { .fd = running.pidfd, .events = POLLIN },
				 { .fd = running.output, .events = POLLIN } };

	for (;;) {
		int64_t left = atomic_load(&tap_shared->deadline) - tap_now();
		int ms = left > 1000000000 ? 1000 : left / 1000000 + 1;

		if (left <= 0 || stopping)
			return false;
		fds[0].revents = 0;
		if (poll(fds, 2, ms) < 0 && errno != EINTR)
			die("poll");
		copy_output();
		if (fds[1].revents & POLLHUP)
			fds[1].fd = -1;
		if (fds[0].revents & POLLIN) {
			waitpid(running.pid, status, 0);
			return true;
		}
	}
}

/* Runs one case; whether it passed or was skipped. */
static bool run_case(const struct tap_case *entry, const void *row,
		     const char *name)
{
	static unsigned int number;
	bool passed = false, skipped = false;
	int status = 0;

	number++;
	memset(tap_shared, 0, sizeof(*tap_shared));
	snprintf(tap_shared->name, sizeof(tap_shared->name), "%s", name);
	tap_shared->deadline = tap_now() + 1000000000ll * TAP_LIMIT_DEFAULT;
	start_case(entry, row);
	if (!wait_case(&status)) {
		pid_t pids[TAP_PROCESSES_MAX];
		unsigned int count = descendants(pids, TAP_PROCESSES_MAX);

		copy_output();
		printf("# %s\n", stopping ? "told to stop" : "ran out of time");
		for (unsigned int i = 0; i < count; i++)
			print_process("still there", pids[i]);
	} else if (WIFSIGNALED(status)) {
		copy_output();
		printf("# killed by signal %d (%s)\n", WTERMSIG(status),
		       strsignal(WTERMSIG(status)));
	} else if (WEXITSTATUS(status) == TAP_EXIT_SKIP) {
		skipped = true;
	} else if (WEXITSTATUS(status)) {
		copy_output();
		printf("# exited with %d\n", WEXITSTATUS(status));
	} else {
		passed = true;
	}
	if (clear_processes(passed ? "left behind" : NULL))
		passed = false;
	close(running.pidfd);
	end_output();
	if (!clear_dir(passed))
		passed = false;
	if (skipped)
		printf("ok %u - %s # SKIP %s\n", number, name,
		       tap_shared->reason);
	else
		printf("%s %u - %s\n", passed ? "ok" : "not ok", number, name);
	fflush(stdout);
	return passed || skipped;
}

static void case_name(char *name, size_t size, const struct tap_case *entry,
		      size_t row)
{
	const char *variant = NULL;

	if (entry->rows)
		memcpy(&variant,
		       (const char *)entry->rows + row * entry->row_size,
		       sizeof(variant));
	snprintf(name, size, "%s%s%s", entry->name, variant ? "/" : "",
		 variant ? variant : "");
}

/* Whether the arguments choose this case: all of it, or up to a slash. */
static bool chosen(const char *name, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		size_t len = strlen(argv[i]);

		if (!strncmp(name, argv[i], len) &&
		    (!name[len] || name[len] == '/'))
			return true;
	}
	return argc == 0;
}

/* Does to every chosen case what `visit` says; returns how many it counted. */
static unsigned int each_case(int argc, char **argv,
			      bool (*visit)(const struct tap_case *entry,
					    const void *row, const char *name))
{
	unsigned int count = 0;
	char name[TAP_NAME_MAX];

	for (struct tap_case *c = first_case; c; c = c->next) {
		const char *rows = c->rows;

		for (size_t i = 0; i < c->row_count; i++) {
			case_name(name, sizeof(name), c, i);
			if (!stopping && chosen(name, argc, argv))
				count += visit(c, rows + i * c->row_size, name);
		}
	}
	return count;
}

static bool count_case(const struct tap_case *entry, const void *row,
		       const char *name)
{
	(void)entry;
	(void)row;
	(void)name;
	return true;
}

static bool list_case(const struct tap_case *entry, const void *row,
		      const char *name)
{
	(void)entry;
	(void)row;
	puts(name);
	return true;
}

int main(int argc, char **argv)
{
	unsigned int count;

	setvbuf(stdout, NULL, _IOFBF, 0);
	argc--;
	argv++;
	if (argc && !strcmp(argv[0], "--list"))
		return each_case(0, NULL, list_case) ? 0 : 2;
	count = each_case(argc, argv, count_case);
	if (!count) {
		printf("Bail out! no such case\n");
		return 2;
	}
	tap_shared = mmap(NULL, sizeof(*tap_shared), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (tap_shared == MAP_FAILED)
		die("mmap");
	if (prctl(PR_SET_CHILD_SUBREAPER, 1))
		die("PR_SET_CHILD_SUBREAPER");
	signal(SIGINT, stop);
	signal(SIGTERM, stop);
	printf("TAP version 13\n1..%u\n# SLUICE_SEED=0x%llx\n", count,
	       (unsigned long long)tap_seed());
	return each_case(argc, argv, run_case) == count ? 0 : 1;
}
