/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Names that one listens on and connects to, and what is wrong with others. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <sluice/sluice.h>

#include "raw.h"
#include "tap.h"

#define MS 1000000ll
#define WAIT_NS (5000 * MS * tap_slow)
#define PATH "./x.sock"

/* A name of so many bytes. */
static const char *name_of(char first, size_t len)
{
	static char name[512];

	memset(name, 'n', len);
	name[0] = first;
	if (first == '.')
		name[1] = '/';
	name[len] = 0;
	return name;
}

/* Somebody listens on name, and messages come through. */
static void works(struct sluice_listener *listener, const char *name)
{
	struct sluice_conn *client, *server;
	struct sluice_msg msg;

	CHECK_OK(sluice_connect(&client, name, NULL));
	CHECK_OK(sluice_accept(listener, &server, WAIT_NS));
	CHECK_OK(sluice_send(client, "x", 1, 0, 0));
	CHECK_EQ(sluice_recv_wait(server, &msg, WAIT_NS), 1);
	sluice_conn_close(client);
	sluice_conn_close(server);
}

static const struct good {
	const char *name;
	char first;
	size_t len;
} goods[] = {
	{ "path", '.', 8 },	 { "longest-path", '.', 107 },
	{ "abstract", '@', 40 }, { "longest-abstract", '@', 107 },
	{ "no-slash", 'n', 8 },
};

TAP_EACH(good, row, goods)
{
	const char *name = name_of(row->first, row->len);
	struct sluice_listener *listener;
	struct stat st;

	CHECK_OK(sluice_listen(&listener, name, NULL));
	works(listener, name);
	if (row->first != '@') {
		CHECK_SYS(lstat(name, &st));
		CHECK(S_ISSOCK(st.st_mode));
	}
	sluice_listener_close(listener);
	CHECK_EQ(lstat(name, &st), -1);
	CHECK_EQ(errno, ENOENT);
}

static const struct bad {
	const char *name;
	const char *text;
	int listen, connect;
} bads[] = {
	{ "null", NULL, -EINVAL, -EINVAL },
	{ "empty", "", -EINVAL, -EINVAL },
	{ "only-at", "@", -EINVAL, -EINVAL },
	{ "no-directory", "./none/x.sock", -ENOENT, -ENOENT },
	{ "nobody", "./nobody", 1, -ENOENT },
	{ "nobody-abstract", "@sluice-test-nobody", 1, -ECONNREFUSED },
};

TAP_EACH(bad, row, bads)
{
	struct sluice_listener *listener = NULL;
	struct sluice_conn *conn = NULL;
	int fds = tap_open_fds();

	if (row->listen < 0)
		CHECK_EQ(sluice_listen(&listener, row->text, NULL),
			 row->listen);
	CHECK_EQ(sluice_connect(&conn, row->text, NULL), row->connect);
	CHECK(!listener && !conn);
	CHECK_EQ(tap_open_fds(), fds);
}

static const struct length {
	const char *name;
	char first;
	size_t len;
} lengths[] = {
	{ "path-108", '.', 108 },     { "path-109", '.', 109 },
	{ "path-400", '.', 400 },     { "abstract-109", '@', 109 },
	{ "abstract-400", '@', 400 },
};

TAP_EACH(too_long, row, lengths)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	int fds = tap_open_fds();

	CHECK_EQ(sluice_listen(&listener, name_of(row->first, row->len), NULL),
		 -ENAMETOOLONG);
	CHECK_EQ(sluice_connect(&conn, name_of(row->first, row->len), NULL),
		 -ENAMETOOLONG);
	CHECK_EQ(tap_open_fds(), fds);
}

/* What a dead server left behind is refused, and replaced. */
TAP_TEST(stale_path)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;

	CHECK_SYS(close(raw_listen(PATH)));
	CHECK_EQ(sluice_connect(&conn, PATH, NULL), -ECONNREFUSED);
	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	works(listener, PATH);
	sluice_listener_close(listener);
	CHECK_EQ(access(PATH, F_OK), -1);
}

static const struct live {
	const char *name;
	const char *text;
} lives[] = {
	{ "path", PATH },
	{ "abstract", "@sluice-test-live" },
};

TAP_EACH(live, row, lives)
{
	struct sluice_listener *first, *second = NULL;
	int fds;

	CHECK_OK(sluice_listen(&first, row->text, NULL));
	fds = tap_open_fds();
	CHECK_EQ(sluice_listen(&second, row->text, NULL), -EADDRINUSE);
	CHECK(!second);
	CHECK_EQ(tap_open_fds(), fds);
	if (row->text[0] != '@')
		CHECK_SYS(access(row->text, F_OK));
	sluice_listener_close(first);
}

/* A live server whose backlog is full is in use as well, and nobody waits. */
TAP_TEST(live_and_busy)
{
	struct sluice_listener *listener;
	int sock, clients[64], n;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int64_t begin;
	pid_t pid;

	sock = CHECK_SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	strcpy(address.sun_path, PATH);
	CHECK_SYS(bind(sock, (struct sockaddr *)&address, sizeof(address)));
	CHECK_SYS(listen(sock, 1));
	for (n = 0; n < 64; n++) {
		clients[n] = CHECK_SYS(socket(
			AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK,
			0));
		if (connect(clients[n], (struct sockaddr *)&address,
			    sizeof(address)))
			break;
	}
	CHECK_LT(n, 64);
	CHECK_EQ(errno, EAGAIN);
	begin = tap_now();
	pid = tap_fork();
	if (!pid) {
		tap_limit(10);
		CHECK_EQ(sluice_listen(&listener, PATH, NULL), -EADDRINUSE);
		_exit(0);
	}
	tap_join(pid);
	CHECK_LT(tap_now() - begin, 2000 * MS * tap_slow);
	for (; n >= 0; n--)
		CHECK_SYS(close(clients[n]));
	CHECK_SYS(close(sock));
	CHECK_SYS(unlink(PATH));
}

/* What is no socket is nobody's to remove. */
static const struct other {
	const char *name;
	mode_t mode;
	int type; /* of a socket */
} others[] = {
	{ "file", S_IFREG, 0 },
	{ "directory", S_IFDIR, 0 },
	{ "fifo", S_IFIFO, 0 },
	{ "symlink", S_IFLNK, 0 },
	{ "stream", S_IFSOCK, SOCK_STREAM },
	{ "dgram", S_IFSOCK, SOCK_DGRAM },
};

TAP_EACH(something_else, row, others)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct sluice_listener *listener = NULL;
	struct stat before, after;
	int sock = -1;

	strcpy(address.sun_path, PATH);
	switch (row->mode) {
	case S_IFREG:
		CHECK_SYS(mknod(PATH, S_IFREG | 0600, 0));
		break;
	case S_IFDIR:
		CHECK_SYS(mkdir(PATH, 0700));
		break;
	case S_IFIFO:
		CHECK_SYS(mkfifo(PATH, 0600));
		break;
	case S_IFLNK:
		CHECK_SYS(symlink("elsewhere", PATH));
		break;
	default:
		sock = CHECK_SYS(socket(AF_UNIX, row->type | SOCK_CLOEXEC, 0));
		CHECK_SYS(bind(sock, (struct sockaddr *)&address,
			       sizeof(address)));
		if (row->type != SOCK_DGRAM)
			CHECK_SYS(listen(sock, 1));
	}
	CHECK_SYS(lstat(PATH, &before));
	CHECK_EQ(sluice_listen(&listener, PATH, NULL), -EADDRINUSE);
	CHECK(!listener);
	CHECK_SYS(lstat(PATH, &after));
	CHECK_EQ(before.st_ino, after.st_ino);
	if (sock >= 0)
		CHECK_SYS(close(sock));
	CHECK_SYS(remove(PATH));
}

/* The path is another's by now: closing removes one's own only. */
TAP_TEST(path_taken_over)
{
	struct sluice_listener *first, *second;

	CHECK_OK(sluice_listen(&first, PATH, NULL));
	CHECK_SYS(unlink(PATH));
	CHECK_OK(sluice_listen(&second, PATH, NULL));
	sluice_listener_close(first);
	CHECK_SYS(access(PATH, F_OK));
	works(second, PATH);
	sluice_listener_close(second);
	CHECK_EQ(access(PATH, F_OK), -1);
}

/* Nobody comes: no longer than asked for. */
TAP_TEST(accept_timeout)
{
	struct sluice_listener *listener;
	struct sluice_conn *conn;
	int64_t begin;

	CHECK_OK(sluice_listen(&listener, PATH, NULL));
	CHECK_EQ(sluice_accept(listener, &conn, 0), -EAGAIN);
	begin = tap_now();
	CHECK_EQ(sluice_accept(listener, &conn, 20 * MS), -EAGAIN);
	CHECK_GE(tap_now() - begin, 20 * MS);
	works(listener, PATH);
	sluice_listener_close(listener);
}
