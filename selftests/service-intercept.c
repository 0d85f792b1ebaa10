/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Transparent services: connects of chosen cgroups to a server's own path go to
 * the service, for as long as there is one. Linux 6.7.
 *
 * Limit: 300 s
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "services.h"
#include "tap.h"

static void need_kernel(void)
{
	struct utsname name;
	int major, minor;

	CHECK_SYS(uname(&name));
	CHECK_EQ(sscanf(name.release, "%d.%d", &major, &minor), 2);
	if (major < 6 || (major == 6 && minor < 7))
		tap_skip("cgroup/connect_unix needs Linux 6.7");
}

/* A cgroup of the case's, below a mount of its own. */
struct cgroup {
	char root[256];
	char path[300];
};

static void cgroup_open(struct cgroup *cgroup, const struct services *s)
{
	snprintf(cgroup->root, sizeof(cgroup->root), "%s/cgroups", s->d.dir);
	snprintf(cgroup->path, sizeof(cgroup->path), "%s/sluice-test-%d",
		 cgroup->root, getpid());
	CHECK_SYS(mkdir(cgroup->root, 0755));
	if (mount("cgroup2", cgroup->root, "cgroup2", 0, NULL)) {
		rmdir(cgroup->root);
		tap_skip("cannot mount cgroup2: %s", strerror(errno));
	}
	CHECK_SYS(mkdir(cgroup->path, 0755));
}

static void cgroup_close(const struct cgroup *cgroup)
{
	CHECK_SOON(!rmdir(cgroup->path));
	CHECK_SYS(umount(cgroup->root));
	CHECK_SYS(rmdir(cgroup->root));
}

static void enter(const char *cgroup)
{
	char path[400];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	fd = CHECK_SYS(open(path, O_WRONLY | O_CLOEXEC));
	CHECK_EQ(write(fd, "0", 1), 1);
	close(fd);
}

/* Connects to b0 itself, from a cgroup (NULL: this one), and is answered. */
static void connect_to_backend(const struct services *s, const char *cgroup)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	pid_t pid = tap_fork();
	char byte;
	int fd;

	if (pid) {
		tap_join(pid);
		return;
	}
	if (cgroup)
		enter(cgroup);
	CHECK_LT(strlen(s->d.dir) + 3, sizeof(address.sun_path));
	strcpy(stpcpy(address.sun_path, s->d.dir), "/b0");
	fd = CHECK_SYS(socket(AF_UNIX, s->type | SOCK_CLOEXEC, 0));
	CHECK_SYS(connect(fd, (struct sockaddr *)&address, sizeof(address)));
	CHECK_EQ(send(fd, "x", 1, MSG_NOSIGNAL), 1);
	CHECK_EQ(recv(fd, &byte, 1, 0), 1);
	CHECK_EQ(byte, 'x');
	_exit(0);
}

static void intercept(struct services *s, const char *cgroup)
{
	snprintf(s->extra, sizeof(s->extra),
		 "intercept = %s/b0\ncgroups = %s\n", s->d.dir, cgroup);
	services_reload(s);
	CHECK_SOON(services_status(s).flags & SLUICE_SERVICE_F_INTERCEPTS);
}

TAP_EACH(chosen_cgroups_only, kind, services_kinds)
{
	struct cgroup cgroup;
	struct services s;
	size_t from;

	need_kernel();
	services_open(&s, kind->type, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	close(services_connect(&s));
	cgroup_open(&cgroup, &s);
	CHECK_EQ(services_status(&s).accepted, 1);
	connect_to_backend(&s, cgroup.path);
	CHECK_EQ(services_status(&s).accepted, 1);
	intercept(&s, cgroup.path);
	connect_to_backend(&s, cgroup.path);
	CHECK_EQ(services_status(&s).accepted, 2);
	connect_to_backend(&s, NULL);
	CHECK_EQ(services_status(&s).accepted, 2);
	/* all, and with them sluiced itself, whose own connects stay */
	intercept(&s, cgroup.root);
	connect_to_backend(&s, NULL);
	CHECK_EQ(services_status(&s).accepted, 3);
	/* no longer */
	s.extra[0] = 0;
	services_reload(&s);
	CHECK(!(services_status(&s).flags & SLUICE_SERVICE_F_INTERCEPTS));
	connect_to_backend(&s, cgroup.path);
	CHECK_EQ(services_status(&s).accepted, 3);
	/* one that is not there */
	from = daemon_log_size(&s.d);
	snprintf(s.extra, sizeof(s.extra),
		 "intercept = %s/b0\ncgroups = /nonexistent\n", s.d.dir);
	services_reload(&s);
	CHECK(daemon_said(&s.d, from, "cannot intercept in /nonexistent"));
	CHECK(!(services_status(&s).flags & SLUICE_SERVICE_F_INTERCEPTS));
	cgroup_close(&cgroup);
	services_close(&s);
}

static void stop(struct daemon *d)
{
	CHECK_EQ(daemon_stop(d), 0);
}

static const struct ending {
	const char *name;
	void (*end)(struct daemon *d);
} endings[] = {
	{ "killed", daemon_kill },
	{ "stopped", stop },
};

/* Clients reach the server again, whatever has become of sluiced. */
TAP_EACH(after_sluiced_all_is_as_before, ending, endings)
{
	struct cgroup cgroup;
	struct services s;

	need_kernel();
	services_open(&s, SOCK_STREAM, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	close(services_connect(&s));
	cgroup_open(&cgroup, &s);
	intercept(&s, cgroup.path);
	connect_to_backend(&s, cgroup.path);
	CHECK_EQ(services_status(&s).accepted, 2);
	ending->end(&s.d);
	connect_to_backend(&s, cgroup.path);
	services_start_again(&s);
	CHECK_SOON(services_status(&s).backends_up);
	connect_to_backend(&s, cgroup.path);
	CHECK_EQ(services_status(&s).accepted, 1);
	cgroup_close(&cgroup);
	services_close(&s);
}
