/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The sluiced that steered systems need. One that listens at the usual place is
 * used; if there is none, root gets a private one, which ends with this process
 * and takes its BPF programs along.
 */
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sluice/uapi.h>

/* It loads programs and makes maps; a slow machine takes a second. */
#define START_NS 20000000000ull

static enum { NOT_TRIED, RUNS, PRIVATE, NONE } state;
static char none_reason[BENCH_TEXT];
static char control[64], pins[64];
static pid_t pid;

static bool listens(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	bool yes;

	snprintf(name.sun_path, sizeof(name.sun_path), "%s", path);
	yes = fd >= 0 && !connect(fd, (struct sockaddr *)&name, sizeof(name));
	if (fd >= 0)
		close(fd);
	return yes;
}

/* In the child: the sluiced beside this program, else that of PATH. */
static void run(int log, pid_t parent)
{
	char path[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 16);
	char *slash;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(BENCH_FAILED);
	dup2(log, STDERR_FILENO);
	dup2(log, STDOUT_FILENO);
	path[len > 0 ? len : 0] = 0;
	slash = strrchr(path, '/');
	if (slash) {
		strcpy(slash, "/sluiced");
		execl(path, "sluiced", "--control", control, "--pins", pins,
		      "--unload", NULL);
	}
	execlp("sluiced", "sluiced", "--control", control, "--pins", pins,
	       "--unload", NULL);
	dprintf(STDERR_FILENO, "cannot start sluiced: %s", strerror(errno));
	_exit(BENCH_FAILED);
}

/* The last line it wrote. */
static void last_words(int log, char reason[BENCH_TEXT])
{
	char text[1024];
	ssize_t n = pread(log, text, sizeof(text) - 1, 0);
	char *line;

	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n > 0 ? n : 0] = 0;
	line = strrchr(text, '\n');
	snprintf(reason, BENCH_TEXT, "%.150s",
		 *text ? (line ? line + 1 : text) : "sluiced did not start");
}

static int start(int log, char reason[BENCH_TEXT])
{
	const uint64_t end = clock_ns(CLOCK_MONOTONIC) + START_NS;
	const pid_t parent = getpid();
	int status;

	snprintf(control, sizeof(control), "/run/sluice-bench-%d", parent);
	snprintf(pins, sizeof(pins), "/sys/fs/bpf/sluice-bench-%d", parent);
	pid = fork();
	if (!pid)
		run(log, parent);
	while (pid > 0 && !listens(control)) {
		if (waitpid(pid, &status, WNOHANG) == pid) {
			last_words(log, reason);
			pid = 0;
		} else if (clock_ns(CLOCK_MONOTONIC) > end) {
			snprintf(reason, BENCH_TEXT, "sluiced is not ready");
			sluiced_end();
		} else {
			poll(NULL, 0, 10);
		}
	}
	return pid > 0 ? 0 : -1;
}

static void decide(void)
{
	const char *usual = getenv("SLUICE_CONTROL");
	int log;

	state = NONE;
	if (listens(usual ? usual : SLUICE_CONTROL_PATH)) {
		state = RUNS;
		return;
	}
	if (geteuid()) {
		snprintf(none_reason, sizeof(none_reason),
			 "no sluiced runs, and only root can start one");
		return;
	}
	log = memfd_create("sluiced-log", MFD_CLOEXEC);
	/* Where the library looks. */
	if (log >= 0 && !start(log, none_reason) &&
	    !setenv("SLUICE_CONTROL", control, 1))
		state = PRIVATE;
	else if (log < 0)
		snprintf(none_reason, sizeof(none_reason), "memfd: %s",
			 strerror(errno));
	if (log >= 0)
		close(log);
}

int sluiced_need(char reason[BENCH_TEXT])
{
	if (state == NOT_TRIED)
		decide();
	if (state != NONE)
		return 0;
	memcpy(reason, none_reason, BENCH_TEXT);
	return -1;
}

void sluiced_end(void)
{
	if (pid <= 0)
		return;
	kill(pid, SIGTERM);
	waitpid(pid, NULL, 0);
	pid = 0;
}
