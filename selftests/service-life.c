/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Backends that come, go and refuse; which one is chosen; limits; and what a
 * reload changes.
 *
 * Limit: 600 s
 */
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "services.h"
#include "tap.h"

static bool echoes(int fd)
{
	char byte = 0;

	return send(fd, "x", 1, MSG_NOSIGNAL) == 1 &&
	       recv(fd, &byte, 1, 0) == 1 && byte == 'x';
}

static void ends(int fd)
{
	services_ends(fd);
	close(fd);
}

static void up(const struct services *s, unsigned int count)
{
	CHECK_SOON(services_status(s).backends_up == count);
}

/* Coming and going --------------------------------------------------------- */

TAP_EACH(backends_come_and_go, kind, services_kinds)
{
	struct services s;
	int fds[4], number;

	services_open(&s, kind->type, 2, "");
	/* sluiced is first: refused, and not for want of the name for ever */
	CHECK_NE(services_try(&s, &fds[0]), 0);
	CHECK_EQ(services_status(&s).backends, 2);
	backend_start(&s, 0, BACKEND_NAME);
	fds[0] = services_connect(&s);
	CHECK_EQ(services_number(fds[0]), 0);
	backend_start(&s, 1, BACKEND_NAME);
	up(&s, 2);
	for (int i = 1; i < 4; i++) {
		fds[i] = services_connect(&s);
		number = services_number(fds[i]);
		CHECK_EQ(number, i & 1); /* round robin, after 0 */
	}
	/* one dies: its connections end, the others live, new ones go there */
	backend_kill(&s, 0);
	ends(fds[0]);
	ends(fds[2]);
	CHECK(echoes(fds[1]) && echoes(fds[3]));
	for (int i = 0; i < 8; i++) {
		int fd = services_connect(&s);

		CHECK_EQ(services_number(fd), 1);
		close(fd);
	}
	up(&s, 1);
	/* none is left: refused, also for who keeps trying */
	backend_kill(&s, 1);
	ends(fds[1]);
	ends(fds[3]);
	services_refuses(&s);
	for (int i = 0; i < 100; i++)
		CHECK_EQ(services_try(&s, &fds[0]), ECONNREFUSED);
	backend_start(&s, 0, BACKEND_NAME);
	fds[0] = services_connect(&s);
	CHECK_EQ(services_number(fds[0]), 0);
	close(fds[0]);
	services_close(&s);
}

/* It has accepted nothing: what was sent to it goes elsewhere. */
TAP_EACH(what_a_backend_has_not_begun_moves, kind, services_kinds)
{
	enum { CLIENTS = 20 };
	struct services s;
	char data[8];
	int fds[CLIENTS];

	services_open(&s, kind->type, 2, "");
	backend_start(&s, 0, BACKEND_DEAF);
	up(&s, 1);
	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = services_connect(&s);
		CHECK_EQ(send(fds[i], "request", 7, 0), 7);
		if (i & 1)
			CHECK_SYS(shutdown(fds[i], SHUT_WR));
	}
	backend_start(&s, 1, BACKEND_ECHO);
	up(&s, 2);
	backend_kill(&s, 0);
	for (int i = 0; i < CLIENTS; i++) {
		CHECK_EQ(CHECK_SYS(recv(fds[i], data, 7, MSG_WAITALL)), 7);
		CHECK_MEM(data, "request", 7);
		if (i & 1)
			ends(fds[i]);
		else
			CHECK(echoes(fds[i]));
	}
	services_close(&s);
}

/* A backend with a full backlog: its clients wait, and are not lost. */
TAP_EACH(a_full_backend_keeps_clients_waiting, kind, services_kinds)
{
	enum { CLIENTS = 200 };
	struct services s;
	int fds[CLIENTS], listener;

	services_open(&s, kind->type, 1, "");
	listener = backend_listen(&s, 0); /* 64 of them wait there */
	for (int i = 0; i < CLIENTS; i++)
		fds[i] = services_connect(&s);
	CHECK_SOON(services_status(&s).waiting);
	for (int i = 0; i < CLIENTS; i++) {
		int fd = CHECK_SYS(accept(listener, NULL, NULL));

		CHECK_EQ(send(fd, "y", 1, MSG_NOSIGNAL), 1);
		close(fd);
	}
	for (int i = 0; i < CLIENTS; i++) {
		char byte;

		CHECK_EQ(recv(fds[i], &byte, 1, 0), 1);
		close(fds[i]);
	}
	close(listener);
	services_close(&s);
}

TAP_EACH(backends_churn_under_load, kind, services_kinds)
{
	struct services s;
	pid_t clients[4];
	int64_t until = tap_now() + 5000000000ll;

	tap_limit(120);
	services_open(&s, kind->type, 3, "");
	for (unsigned int i = 0; i < 3; i++)
		backend_start(&s, i, BACKEND_ECHO);
	up(&s, 3);
	for (int i = 0; i < 4; i++) {
		clients[i] = tap_fork();
		if (clients[i])
			continue;
		/* a request is answered, or its backend died over it */
		while (tap_now() < until) {
			char data[4];
			int fd, r = services_try(&s, &fd);

			CHECK_EQ(r, 0);
			if (send(fd, "ping", 4, MSG_NOSIGNAL) == 4 &&
			    recv(fd, data, 4, MSG_WAITALL) > 0)
				CHECK_MEM(data, "ping", 4);
			close(fd);
		}
		_exit(0);
	}
	for (unsigned int i = 0; tap_now() < until; i++) {
		tap_sleep(100000000);
		backend_kill(&s, i % 2); /* the third stays */
		tap_sleep(50000000);
		backend_start(&s, i % 2, BACKEND_ECHO);
	}
	for (int i = 0; i < 4; i++)
		tap_join(clients[i]);
	services_close(&s);
}

/* Balance ------------------------------------------------------------------ */

TAP_TEST(least_connections)
{
	struct services s;
	int fds[6], counts[2] = { 0 }, fd;

	services_open(&s, SOCK_STREAM, 2, "balance = least-connections\n");
	backend_start(&s, 0, BACKEND_NAME);
	up(&s, 1);
	for (int i = 0; i < 3; i++)
		fds[i] = services_connect(&s);
	backend_start(&s, 1, BACKEND_NAME);
	up(&s, 2);
	for (int i = 3; i < 6; i++) {
		fds[i] = services_connect(&s);
		CHECK_EQ(services_number(fds[i]), 1);
	}
	for (int i = 0; i < 2; i++) {
		fd = services_connect(&s);
		counts[services_number(fd)]++;
	}
	CHECK_EQ(counts[0], 1);
	CHECK_EQ(counts[1], 1);
	services_close(&s);
}

TAP_TEST(hash_uid)
{
	struct services s;
	int first, fd;

	services_open(&s, SOCK_SEQPACKET, 3,
		      "balance = hash-uid\nmode = 0666\n");
	for (unsigned int i = 0; i < 3; i++)
		backend_start(&s, i, BACKEND_NAME);
	up(&s, 3);
	fd = services_connect(&s);
	first = services_number(fd);
	close(fd);
	for (int i = 0; i < 10; i++) {
		fd = services_connect(&s);
		CHECK_EQ(services_number(fd), first);
		close(fd);
	}
	/* another one takes over, and gives back */
	backend_kill(&s, (unsigned int)first);
	fd = services_connect(&s);
	CHECK_NE(services_number(fd), first);
	close(fd);
	backend_start(&s, (unsigned int)first, BACKEND_NAME);
	up(&s, 3);
	fd = services_connect(&s);
	CHECK_EQ(services_number(fd), first);
	close(fd);
	services_close(&s);
}

/* Limits ------------------------------------------------------------------- */

TAP_TEST(limit_per_uid)
{
	struct services s;
	int fds[4];
	pid_t pid;

	services_open(&s, SOCK_STREAM, 1, "limit_per_uid = 2\nmode = 0666\n");
	backend_start(&s, 0, BACKEND_NAME);
	for (int i = 0; i < 2; i++) {
		fds[i] = services_connect(&s);
		CHECK_EQ(services_number(fds[i]), 0);
	}
	ends(services_connect(&s));
	pid = tap_fork();
	if (!pid) { /* others have their own */
		daemon_become_nobody();
		strcpy(s.path,
		       "s"); /* who may not enter the directories above */
		CHECK_EQ(services_number(services_connect(&s)), 0);
		_exit(0);
	}
	tap_join(pid);
	close(fds[0]);
	CHECK_SOON(services_status(&s).relayed +
			   services_status(&s).redirected ==
		   1);
	fds[0] = services_connect(&s);
	CHECK_EQ(services_number(fds[0]), 0);
	CHECK_EQ(services_status(&s).refused, 1);
	CHECK_EQ(services_status(&s).accepted, 5);
	services_close(&s);
}

TAP_TEST(mode_and_owner)
{
	struct services s;
	struct stat st;
	int fd;
	pid_t pid;

	services_open(&s, SOCK_STREAM, 1,
		      "mode = 0620\nowner = nobody\ngroup = nogroup\n");
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	CHECK_SYS(stat(s.path, &st));
	CHECK_EQ(st.st_mode & 07777, 0620);
	CHECK_EQ(st.st_uid, getpwnam("nobody")->pw_uid);
	CHECK_EQ(st.st_gid, getpwnam("nobody")->pw_gid);
	CHECK(echoes(fd));
	close(fd);
	/* also when it comes back */
	backend_kill(&s, 0);
	services_refuses(&s);
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	CHECK_SYS(stat(s.path, &st));
	CHECK_EQ(st.st_mode & 07777, 0620);
	CHECK_EQ(st.st_uid, getpwnam("nobody")->pw_uid);
	close(fd);
	strcpy(s.extra, "mode = 0600\n");
	services_reload(&s);
	CHECK_SYS(stat(s.path, &st));
	CHECK_EQ(st.st_mode & 07777, 0600);
	CHECK_EQ(st.st_uid, 0);
	pid = tap_fork();
	if (!pid) {
		daemon_become_nobody();
		CHECK_EQ(services_try(&s, &fd), EACCES);
		_exit(0);
	}
	tap_join(pid);
	services_close(&s);
}

/* Files -------------------------------------------------------------------- */

TAP_TEST(stale_files_are_replaced_and_others_are_not)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct services s;
	int fd, other;

	services_open(&s, SOCK_STREAM, 1, "");
	strcpy(address.sun_path, s.path);
	/* a dead one */
	fd = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	CHECK_SYS(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	close(fd);
	backend_start(&s, 0, BACKEND_ECHO);
	fd = services_connect(&s);
	CHECK(echoes(fd));
	close(fd);
	backend_kill(&s, 0);
	services_refuses(&s);
	/* another server's */
	CHECK_SYS(unlink(s.path));
	other = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	CHECK_SYS(bind(other, (struct sockaddr *)&address, sizeof(address)));
	CHECK_SYS(listen(other, 5));
	backend_start(&s, 0, BACKEND_ECHO);
	CHECK_SOON(daemon_said(&s.d, 0, "another server does"));
	CHECK_EQ(services_try(&s, &fd), 0);
	close(fd);
	/* it is gone: now it can be had (a backend has a copy of its fd) */
	backend_kill(&s, 0);
	close(other);
	backend_start(&s, 0, BACKEND_ECHO);
	CHECK_SOON(services_status(&s).flags & SLUICE_SERVICE_F_LISTENING);
	backend_kill(&s, 0);
	services_refuses(&s);
	/* not a socket */
	CHECK_SYS(unlink(s.path));
	close(CHECK_SYS(creat(s.path, 0600)));
	backend_start(&s, 0, BACKEND_ECHO);
	CHECK_SOON(daemon_said(&s.d, 0, "File exists"));
	CHECK_SYS(unlink(s.path));
	fd = services_connect(&s);
	close(fd);
	services_close(&s);
}

TAP_TEST(what_a_killed_sluiced_leaves_is_no_obstacle)
{
	struct services s;
	int fd, old;

	services_open(&s, SOCK_STREAM, 1, "");
	backend_start(&s, 0, BACKEND_ECHO);
	old = services_connect(&s);
	CHECK(echoes(old));
	daemon_kill(&s.d);
	ends(old);
	CHECK_EQ(services_try(&s, &fd), ECONNREFUSED);
	/* also one that sluiced itself could not connect to */
	CHECK_SYS(chown(s.path, 65534, 65534));
	CHECK_SYS(chmod(s.path, 0600));
	services_start_again(&s);
	fd = services_connect(&s);
	CHECK(echoes(fd));
	close(fd);
	services_close(&s);
}

/* Reload ------------------------------------------------------------------- */

TAP_TEST(a_reload_keeps_connections)
{
	struct services s;
	char old[256];
	int fd, other;

	services_open(&s, SOCK_STREAM, 1, "");
	backend_start(&s, 0, BACKEND_NAME);
	backend_start(&s, 1, BACKEND_NAME);
	fd = services_connect(&s);
	CHECK_EQ(services_number(fd), 0);
	/* more backends */
	s.count = 2;
	services_reload(&s);
	up(&s, 2);
	other = services_connect(&s);
	CHECK_EQ(services_number(other), 1);
	CHECK(echoes(fd));
	/* fewer */
	s.count = 1;
	services_reload(&s);
	up(&s, 1);
	CHECK(echoes(other) && echoes(fd));
	/* another name */
	strcpy(old, s.path);
	strcat(s.path, "2");
	services_reload(&s);
	CHECK_EQ(access(old, F_OK), -1);
	CHECK(echoes(other) && echoes(fd));
	close(other);
	other = services_connect(&s);
	CHECK_EQ(services_number(other), 0);
	/* a bad one changes nothing */
	strcpy(s.extra, "nonsense = 1\n");
	{
		size_t from = daemon_log_size(&s.d);

		daemon_config(&s.d, "[service s]\nnonsense = 1\n");
		CHECK_SYS(kill(s.d.pid, SIGHUP));
		CHECK_SOON(daemon_said(&s.d, from, "configuration stays"));
	}
	CHECK(echoes(other) && echoes(fd));
	close(services_connect(&s));
	/* none at all */
	{
		size_t from = daemon_log_size(&s.d);

		daemon_config(&s.d, "");
		CHECK_SYS(kill(s.d.pid, SIGHUP));
		CHECK_SOON(daemon_said(&s.d, from, "read again"));
	}
	CHECK_EQ(access(s.path, F_OK), -1);
	CHECK(echoes(other) && echoes(fd));
	close(other);
	close(fd);
	services_close(&s);
}
