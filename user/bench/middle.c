/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The two sides are a plain client and a plain server, STREAM, and what is between
 * them passes everything on:
 *
 *   relay    a process with an epoll loop: recv, then send
 *   switch   a service of sluiced that may be half-closed: its user-space switch
 *   sockmap  a service of sluiced that may not: redirection in the kernel
 *
 * sluiced is a private one, for its configuration. The third process needs a CPU
 * of its own while the sides spin, so there is no such mode.
 */
#include "middle.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define RELAY_PIECE 65536
#define START_NS 20000000000ull

static pid_t middle_pid; /* of this repetition */
static pid_t relay_pid, daemon_pid;
static char directory[64];

static int fail(char reason[BENCH_TEXT], const char *what)
{
	const int error = errno;

	snprintf(reason, BENCH_TEXT, "%s: %s", what, strerror(error));
	return -error;
}

/* CPU time ---------------------------------------------------------------- */

/* That of a kernel worker, 0 for any other process. */
static uint64_t worker_ns(const char *pid)
{
	unsigned long long ns = 0;
	char path[64], text[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (!fgets(text, sizeof(text), file))
		*text = 0;
	fclose(file);
	if (strncmp(text, "kworker/", 8))
		return 0;
	snprintf(path, sizeof(path), "/proc/%.16s/schedstat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%llu", &ns) != 1)
		ns = 0;
	fclose(file);
	return ns;
}

static uint64_t workers_ns(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	uint64_t ns = 0;

	while (proc && (entry = readdir(proc))) {
		if (isdigit((unsigned char)*entry->d_name))
			ns += worker_ns(entry->d_name);
	}
	if (proc)
		closedir(proc);
	return ns;
}

uint64_t middle_cpu_ns(void)
{
	clockid_t clock;

	if (!middle_pid || clock_getcpuclockid(middle_pid, &clock))
		return 0;
	return clock_ns(clock) + workers_ns();
}

void middle_begin(void)
{
	middle_pid = 0;
}

/* The relay --------------------------------------------------------------- */

static bool send_all(int fd, const char *data, ssize_t len)
{
	ssize_t n;

	for (; len; data += n, len -= n) {
		n = send(fd, data, (size_t)len, MSG_NOSIGNAL);
		if (n < 0)
			return false;
	}
	return true;
}

static void relay_run(const int fds[2])
{
	static char data[RELAY_PIECE];
	struct epoll_event event = { .events = EPOLLIN }, events[2];
	int epoll = epoll_create1(EPOLL_CLOEXEC), count;
	ssize_t n;

	for (unsigned int i = 0; i < 2; i++) {
		event.data.u32 = i;
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event))
			_exit(BENCH_FAILED);
	}
	for (;;) {
		count = epoll_wait(epoll, events, 2, -1);
		for (int i = 0; i < count; i++) {
			n = recv(fds[events[i].data.u32], data, sizeof(data),
				 0);
			if (n <= 0 ||
			    !send_all(fds[!events[i].data.u32], data, n))
				_exit(0);
		}
	}
}

/* A relay that ends with the sockets of the sides. */
static int relay_start(const int inner[2], const struct bench_channel *channel,
		       char reason[BENCH_TEXT])
{
	const pid_t parent = getpid();

	if (relay_pid > 0) {
		kill(relay_pid, SIGKILL);
		waitpid(relay_pid, NULL, 0);
	}
	relay_pid = fork();
	if (relay_pid < 0)
		return fail(reason, "fork");
	if (!relay_pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(BENCH_FAILED);
		close(channel->in[0]);
		close(channel->in[1]);
		relay_run(inner);
	}
	middle_pid = relay_pid;
	return 0;
}

static int relay_prepare(const struct bench_case *c,
			 struct bench_channel *channel, char reason[BENCH_TEXT])
{
	int fds[2], inner[2] = { -1, -1 }, ret = 0;

	if (c->mode == MODE_SPIN) {
		snprintf(reason, BENCH_TEXT, "the relay needs a CPU, too");
		return BENCH_UNSUPPORTED;
	}
	for (int i = 0; i < 2 && !ret; i++) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
			ret = fail(reason, "socketpair");
			break;
		}
		channel->in[i] = channel->out[i] = fds[0];
		inner[i] = fds[1];
	}
	if (!ret)
		ret = relay_start(inner, channel, reason);
	for (int i = 0; i < 2; i++) {
		if (inner[i] >= 0)
			close(inner[i]);
	}
	return ret;
}

/* sluiced ----------------------------------------------------------------- */

static void name_in(struct sockaddr_un *name, const char *what)
{
	*name = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(name->sun_path, sizeof(name->sun_path), "%.60s/%s", directory,
		 what);
}

/* A connected socket, or -1. */
static int connect_to(const char *what)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un name;

	name_in(&name, what);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof(name))) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool write_config(void)
{
	char path[96];
	FILE *file;

	snprintf(path, sizeof(path), "%s/conf", directory);
	file = fopen(path, "we");
	if (!file)
		return false;
	for (int i = 0; i < 2; i++)
		fprintf(file,
			"[service %s]\nlisten = %s/%s\ntype = stream\n"
			"backends = %s/backend\nhalf_close = %s\n",
			i ? "sockmap" : "switch", directory,
			i ? "sockmap" : "switch", directory, i ? "no" : "yes");
	return !fclose(file);
}

/* In the child: the sluiced beside this program, else that of PATH. */
static void daemon_run(pid_t parent)
{
	char path[PATH_MAX], config[96], control[96], pins[96], log[96];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 16);
	char *slash;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(BENCH_FAILED);
	snprintf(config, sizeof(config), "%s/conf", directory);
	snprintf(control, sizeof(control), "%s/control", directory);
	snprintf(log, sizeof(log), "%s/log", directory);
	snprintf(pins, sizeof(pins), "/sys/fs/bpf/sluice-bench-middle-%d",
		 parent);
	fd = open(log, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	path[len > 0 ? len : 0] = 0;
	slash = strrchr(path, '/');
	if (slash) {
		strcpy(slash, "/sluiced");
		execl(path, "sluiced", "--config", config, "--control", control,
		      "--pins", pins, "--unload", NULL);
	}
	execlp("sluiced", "sluiced", "--config", config, "--control", control,
	       "--pins", pins, "--unload", NULL);
	_exit(BENCH_FAILED);
}

static int daemon_need(char reason[BENCH_TEXT])
{
	const uint64_t end = clock_ns(CLOCK_MONOTONIC) + START_NS;
	const pid_t parent = getpid();
	char log[96];

	if (daemon_pid > 0)
		return 0;
	if (geteuid()) {
		snprintf(reason, BENCH_TEXT, "only root can start sluiced");
		return BENCH_UNSUPPORTED;
	}
	snprintf(directory, sizeof(directory), "/run/sluice-bench-XXXXXX");
	if (!mkdtemp(directory) || !write_config())
		return fail(reason, directory);
	daemon_pid = fork();
	if (!daemon_pid)
		daemon_run(parent);
	snprintf(log, sizeof(log), "%s/control", directory);
	while (access(log, F_OK)) {
		if (waitpid(daemon_pid, NULL, WNOHANG) == daemon_pid ||
		    clock_ns(CLOCK_MONOTONIC) > end) {
			snprintf(reason, BENCH_TEXT, "sluiced does not start");
			middle_end();
			return BENCH_UNSUPPORTED;
		}
		poll(NULL, 0, 10);
	}
	return 0;
}

/* A connection through the service; the backend is here, too. */
static int service_connect(const char *service, struct bench_channel *channel,
			   char reason[BENCH_TEXT])
{
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un name;
	int client = -1, tries;

	name_in(&name, "backend");
	unlink(name.sun_path);
	if (listener < 0 ||
	    bind(listener, (struct sockaddr *)&name, sizeof(name)) ||
	    listen(listener, 8))
		return fail(reason, name.sun_path);
	/* sluiced looks for backends now and then */
	for (tries = 0; tries < 1000 && client < 0; tries++) {
		client = connect_to(service);
		if (client < 0)
			poll(NULL, 0, 10);
	}
	channel->in[0] = channel->out[0] = client;
	if (client >= 0 &&
	    poll(&(struct pollfd){ .fd = listener, .events = POLLIN }, 1,
		 10000) == 1)
		channel->in[1] = channel->out[1] =
			accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	close(listener);
	unlink(name.sun_path);
	if (channel->in[1] >= 0)
		return 0;
	snprintf(reason, BENCH_TEXT, "no connection through sluiced");
	return -1;
}

static int service_prepare(const struct bench_case *c, const char *service,
			   struct bench_channel *channel,
			   char reason[BENCH_TEXT])
{
	int ret;

	if (c->mode == MODE_SPIN) {
		snprintf(reason, BENCH_TEXT, "sluiced needs a CPU, too");
		return BENCH_UNSUPPORTED;
	}
	ret = daemon_need(reason);
	if (!ret)
		ret = service_connect(service, channel, reason);
	middle_pid = daemon_pid;
	return ret;
}

static int switch_prepare(const struct bench_case *c,
			  struct bench_channel *channel,
			  char reason[BENCH_TEXT])
{
	return service_prepare(c, "switch", channel, reason);
}

static int sockmap_prepare(const struct bench_case *c,
			   struct bench_channel *channel,
			   char reason[BENCH_TEXT])
{
	return service_prepare(c, "sockmap", channel, reason);
}

void middle_end(void)
{
	static const char *const files[] = { "conf",   "log",	  "control",
					     "switch", "sockmap", "backend" };
	struct sockaddr_un name;

	if (relay_pid > 0) {
		kill(relay_pid, SIGKILL);
		waitpid(relay_pid, NULL, 0);
	}
	if (daemon_pid > 0) {
		kill(daemon_pid, SIGTERM);
		waitpid(daemon_pid, NULL, 0);
	}
	relay_pid = daemon_pid = 0;
	for (size_t i = 0; *directory && i < sizeof(files) / sizeof(files[0]);
	     i++) {
		name_in(&name, files[i]);
		unlink(name.sun_path);
	}
	if (*directory)
		rmdir(directory);
	*directory = 0;
}

const struct bench_system bench_relay = {
	.name = "relay",
	.what = "two AF_UNIX streams and a process between them: epoll, recv, "
		"send",
	.middle = true,
	.prepare = relay_prepare,
	.open = fd_open,
	.run = stream_run,
	.close = fd_close,
};

const struct bench_system bench_switch = {
	.name = "switch",
	.what = "a service of sluiced, half_close = yes: its io_uring switch in "
		"user space",
	.middle = true,
	.prepare = switch_prepare,
	.open = fd_open,
	.run = stream_run,
	.close = fd_close,
};

const struct bench_system bench_sockmap = {
	.name = "sockmap",
	.what = "a service of sluiced, half_close = no: redirected in the kernel",
	.middle = true,
	.prepare = sockmap_prepare,
	.open = fd_open,
	.run = stream_run,
	.close = fd_close,
};
