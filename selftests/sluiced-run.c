/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * How sluiced runs: its privileges, without a BPF file system, started by a
 * service manager.
 *
 * Limit: 300 s
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "steer.h"
#include "steers.h"

#define EXIT_NO_BPF 3

/* Privileges --------------------------------------------------------------- */

static unsigned long long status_field(pid_t pid, const char *name, int base)
{
	char path[64], line[256];
	unsigned long long value = 0;
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	CHECK(file);
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)))
			continue;
		value = strtoull(line + strlen(name) + 1, NULL, base);
		found = true;
	}
	fclose(file);
	CHECK(found);
	return value;
}

TAP_TEST(keeps_no_privilege_but_bpf)
{
	const unsigned long long cap_bpf = 1ull << 39;
	struct daemon d;

	daemon_open(&d);
	daemon_start(&d, NULL);
	CHECK_EQ(status_field(d.pid, "CapEff:", 16), cap_bpf);
	CHECK_EQ(status_field(d.pid, "CapPrm:", 16), cap_bpf);
	CHECK_EQ(status_field(d.pid, "CapInh:", 16), 0);
	CHECK_EQ(status_field(d.pid, "CapBnd:", 16), 0);
	CHECK_EQ(status_field(d.pid, "CapAmb:", 16), 0);
	CHECK_EQ(status_field(d.pid, "NoNewPrivs:", 10), 1);
	daemon_close(&d);
}

TAP_TEST(without_privilege_it_says_what_is_missing)
{
	struct daemon d;
	pid_t pid;

	daemon_open(&d);
	pid = tap_fork();
	if (!pid) {
		/* CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF: root after exec lacks them */
		CHECK_SYS(prctl(PR_CAPBSET_DROP, 21, 0, 0, 0));
		CHECK_SYS(prctl(PR_CAPBSET_DROP, 38, 0, 0, 0));
		CHECK_SYS(prctl(PR_CAPBSET_DROP, 39, 0, 0, 0));
		CHECK_EQ(daemon_try(&d, NULL), EXIT_NO_BPF);
		_exit(0);
	}
	tap_join(pid);
	CHECK(daemon_said(&d, 0,
			  "cannot load the BPF programs: Operation not "
			  "permitted: sluiced starts with CAP_BPF"));
	rmdir(d.pins);
	daemon_close(&d);
}

TAP_TEST(no_bpf_file_system)
{
	const char *args[] = { "--pins", NULL, NULL };
	char pins[320];
	struct daemon d;

	daemon_open(&d);
	snprintf(pins, sizeof(pins), "%s/plain", d.dir);
	args[1] = pins;
	CHECK_EQ(daemon_try(&d, args), EXIT_NO_BPF);
	CHECK(daemon_said(&d, 0, "is not on a BPF file system"));
	CHECK_SYS(rmdir(pins));
	daemon_close(&d);
}

/* Being started ------------------------------------------------------------ */

static int listen_at(const char *path, int type)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = CHECK_SYS(socket(AF_UNIX, type, 0));

	strcpy(name.sun_path, path);
	CHECK_SYS(bind(fd, (struct sockaddr *)&name, sizeof(name)));
	CHECK_SYS(listen(fd, 8));
	return fd;
}

/* What the service manager does: fd 3, and the environment. */
static void activate(int fd)
{
	char pid[16];

	CHECK_SYS(dup2(fd, 3));
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
}

static pid_t start_activated(const struct daemon *d, int fd)
{
	pid_t pid = tap_fork();

	if (pid)
		return pid;
	activate(fd);
	CHECK(freopen(d->log, "a", stderr));
	execl(tap_bin("sluiced"), "sluiced", "--config", "/dev/null", "--pins",
	      d->pins, (char *)NULL);
	_exit(127);
}

TAP_TEST(socket_activation)
{
	struct daemon d;
	int listener, fd, maps[4];

	daemon_open(&d);
	listener = listen_at(d.control, SOCK_SEQPACKET);
	d.pid = start_activated(&d, listener);
	fd = daemon_connect(&d); /* waits until it is up */
	daemon_create(fd, 1, maps);
	for (int i = 0; i < 4; i++)
		close(maps[i]);
	close(fd);
	CHECK_EQ(daemon_stop(&d), 0);
	CHECK_SYS(access(d.control, F_OK)); /* not its own */
	close(listener);
	CHECK_SYS(unlink(d.control));
	listener = listen_at(d.control, SOCK_STREAM);
	d.pid = start_activated(&d, listener);
	tap_reap(d.pid);
	d.pid = 0;
	CHECK(daemon_said(&d, 0, "SEQPACKET socket is needed"));
	close(listener);
	daemon_close(&d);
}

TAP_TEST(tells_the_service_manager)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	char text[256] = "", path[256];
	struct daemon d;
	int fd;

	daemon_open(&d);
	snprintf(path, sizeof(path), "%s/notify", d.dir);
	fd = CHECK_SYS(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	strcpy(name.sun_path, path);
	CHECK_SYS(bind(fd, (struct sockaddr *)&name, sizeof(name)));
	setenv("NOTIFY_SOCKET", path, 1);
	daemon_start(&d, NULL);
	CHECK_SYS(recv(fd, text, sizeof(text) - 1, 0));
	CHECK_STR(text, "READY=1");
	CHECK_SYS(kill(d.pid, SIGHUP));
	memset(text, 0, sizeof(text));
	CHECK_SYS(recv(fd, text, sizeof(text) - 1, 0));
	CHECK_STR(text, "RELOADING=1");
	memset(text, 0, sizeof(text));
	CHECK_SYS(recv(fd, text, sizeof(text) - 1, 0));
	CHECK_STR(text, "READY=1");
	CHECK_EQ(daemon_stop(&d), 0);
	memset(text, 0, sizeof(text));
	CHECK_SYS(recv(fd, text, sizeof(text) - 1, 0));
	CHECK_STR(text, "STOPPING=1");
	close(fd);
	CHECK_SYS(unlink(path));
	daemon_close(&d);
}

/* What sluicectl says of the one connection that there is. */
static void conn_status(const struct daemon *d, char *text, size_t size)
{
	char command[1024];
	FILE *output;

	snprintf(command, sizeof(command),
		 "'%s' status --json --interval 0 --pins '%s' --control '%s'",
		 tap_bin("sluicectl"), d->pins, d->control);
	output = popen(command, "r");
	CHECK(output);
	text[fread(text, 1, size - 1, output)] = 0;
	CHECK_EQ(pclose(output), 0);
}

/* Counts of each connection, which the programs leave out if told to. */
static const struct counting {
	const char *name, *config;
	bool counts;
} countings[] = {
	{ "default", "", true },
	{ "yes", "[bpf]\nconn_counts = yes\n", true },
	{ "no", "[bpf]\nconn_counts = no\n", false },
};

TAP_EACH(conn_counts, counting, countings)
{
	const char *args[] = { "--config", NULL, NULL };
	struct sluice_conn *conn;
	static char text[65536];
	struct daemon d;
	int peer, i;

	daemon_open(&d);
	args[1] = daemon_config(&d, counting->config);
	daemon_start(&d, args);
	CHECK_SYS(setenv("SLUICE_CONTROL", d.control, 1));
	steers_pair(&conn, &peer, NULL);
	for (i = 0; i < 3; i++)
		CHECK_EQ(send(peer, text, 100, 0), 100);
	/* A second sluiced takes the programs as they are. */
	daemon_kill(&d);
	args[1] = daemon_config(
		&d, counting->counts ? "[bpf]\nconn_counts = no\n" : "");
	daemon_start(&d, args);
	CHECK_EQ(send(peer, text, 50, 0), 50);
	conn_status(&d, text, sizeof(text));
	CHECK(strstr(text, counting->counts ? "\"messages\": 4,\n" :
					      "\"messages\": 0,\n"));
	CHECK(strstr(text, counting->counts ? "\"bytes\": 350,\n" :
					      "\"bytes\": 0,\n"));
	CHECK(strstr(text, "\"spilled\": 0"));
	CHECK_EQ(steers_steered(conn) + steers_spilled(conn), 0);
	for (i = 0; i < 4; i++) {
		struct sluice_msg msg;

		steers_wait(conn, &msg);
		CHECK_OK(sluice_release(conn, &msg));
	}
	CHECK_EQ(steers_steered(conn), 4);
	sluice_conn_close(conn);
	close(peer);
	daemon_close(&d);
}
