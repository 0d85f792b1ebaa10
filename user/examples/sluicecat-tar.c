/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicecat's tar: a child process whose output is read into the pool, or whose
 * input is written from the peer's pool.
 *
 * posix_spawn and not fork: the child never runs with our handles, and SIGPIPE,
 * which we ignore, is back to normal in it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sluicecat.h"

#define PIPE_BYTES (1 << 20) /* the most an unprivileged user may ask for */

extern char **environ;

/* Runs tar with its fd number `end` (0 or 1) on a pipe; returns our side. */
static int start(struct cat *cat, int end, char *const argv[])
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t pipe_signal;
	int fds[2];
	int r;

	if (pipe2(fds, O_CLOEXEC)) {
		complain(cat, "no pipe for tar: %s", strerror(errno));
		return -1;
	}
	/* Larger reads and writes; the default works too. */
	fcntl(fds[0], F_SETPIPE_SZ, PIPE_BYTES);

	sigemptyset(&pipe_signal);
	sigaddset(&pipe_signal, SIGPIPE);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigdefault(&attributes, &pipe_signal);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fds[end], end);
	r = posix_spawnp(&cat->tar, argv[0], &actions, &attributes, argv,
			 environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	close(fds[end]);
	if (r) {
		cat->tar = 0;
		close(fds[!end]);
		complain(cat, "cannot run tar: %s", strerror(r));
		return -1;
	}
	return fds[!end];
}

/*
 * Splits path into an absolute directory and a name in it, so that only the
 * name travels. "." stays ".": its contents travel, without a top directory.
 */
static int split(const char *path, char **directory, char **name)
{
	char *copy = strdup(path);
	char *base = copy ? basename(copy) : NULL;
	char *whole = NULL;

	*directory = NULL;
	*name = NULL;
	if (base && !strcmp(base, "..")) {
		/* a name of its own is only found on the real path */
		whole = realpath(path, NULL);
		free(copy);
		copy = whole;
		base = copy ? basename(copy) : NULL;
	}
	if (!base)
		goto out;
	if (!strcmp(base, ".") || !strcmp(base, "/")) {
		*directory = realpath(path, NULL);
		*name = strdup(".");
		goto out;
	}
	/* "./" keeps tar from reading a name as an option */
	if (asprintf(name, "%s%s", base[0] == '-' ? "./" : "", base) < 0)
		*name = NULL;
	*directory = realpath(dirname(copy), NULL);
out:
	free(copy);
	if (*directory && *name)
		return 0;
	free(*directory);
	free(*name);
	return -1;
}

int tar_start_create(struct cat *cat)
{
	size_t count = 0;
	size_t used = 3;
	char **argv;
	int fd = -1;

	while (cat->operands[count])
		count++;
	argv = calloc(used + 3 * count + 1, sizeof(*argv));
	if (!argv) {
		complain(cat, "out of memory");
		return -1;
	}
	argv[0] = "tar";
	argv[1] = "-cf";
	argv[2] = "-";
	for (size_t i = 0; i < count; i++) {
		if (split(cat->operands[i], &argv[used + 1], &argv[used + 2])) {
			complain(cat, "cannot read '%s': %s", cat->operands[i],
				 strerror(errno));
			goto out;
		}
		argv[used] = "-C";
		used += 3;
	}
	fd = start(cat, STDOUT_FILENO, argv);
out:
	for (size_t i = 3; i < used; i += 3) {
		free(argv[i + 1]);
		free(argv[i + 2]);
	}
	free(argv);
	return fd;
}

int tar_start_extract(struct cat *cat)
{
	char *directory = realpath(cat->extract, NULL); /* never an option */
	char *argv[] = { "tar", "-xf", "-", "-C", directory, NULL };
	int fd = -1;

	if (directory)
		fd = start(cat, STDIN_FILENO, argv);
	else
		complain(cat, "cannot extract into '%s': %s", cat->extract,
			 strerror(errno));
	free(directory);
	return fd;
}

int tar_finish(struct cat *cat)
{
	int status;
	pid_t pid;

	do {
		pid = waitpid(cat->tar, &status, 0);
	} while (pid < 0 && errno == EINTR);
	cat->tar = 0;
	if (pid < 0)
		return complain(cat, "lost tar: %s", strerror(errno));
	if (WIFSIGNALED(status))
		return complain(cat, "tar was killed by signal %d",
				WTERMSIG(status));
	if (WEXITSTATUS(status))
		return complain(cat, "tar failed with exit code %d",
				WEXITSTATUS(status));
	return CAT_OK;
}

void tar_stop(struct cat *cat)
{
	if (!cat->tar)
		return;
	kill(cat->tar, SIGTERM);
	while (waitpid(cat->tar, NULL, 0) < 0 && errno == EINTR)
		continue;
	cat->tar = 0;
}
