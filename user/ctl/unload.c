/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl unload: removes the pins. Programs and maps stay with the sockets
 * that have them, and go with the last one.
 */
#include "ctl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statfs.h>
#include <unistd.h>

/* 0 or CTL_FAILED: whether it is in use, as far as can be told. */
static int in_use(const struct ctl_options *options, int dir)
{
	int fd = control_open(options, true), conns;

	if (fd >= 0) {
		close(fd);
		return ctl_failed("sluiced runs at %s: sluicectl drain, then "
				  "stop it; or --force",
				  options->control);
	}
	if (flock(dir, LOCK_EX | LOCK_NB))
		return ctl_failed("a sluiced uses %s: give its --control to "
				  "drain it, stop it; or --force",
				  options->pins);
	conns = pins_conns(options->pins);
	if (conns < 0 && conns != -ENOENT)
		return ctl_failed("%s/conns: %s; or --force", options->pins,
				  strerror(-conns));
	if (conns > 0)
		return ctl_failed("%d connections are steered there: start "
				  "sluiced to take over, or --force",
				  conns);
	return 0;
}

/* Pins only: a directory inside is not ours. How many, or -1. */
static int remove_all(int dir, const char *name)
{
	DIR *list = fdopendir(dup(dir));
	struct dirent *entry;
	int count = 0;

	while (list && (entry = readdir(list))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (unlinkat(dir, entry->d_name, 0)) {
			ctl_failed("%s/%s: %s", name, entry->d_name,
				   strerror(errno));
			count = -1;
			break;
		}
		count++;
	}
	if (list)
		closedir(list);
	if (list && count >= 0 && !rmdir(name))
		return count;
	if (count >= 0)
		ctl_failed("%s: %s", name, strerror(errno));
	return -1;
}

static int removed(const struct ctl_options *options, int count)
{
	if (options->json)
		return ctl_json(json_pack("{s:i}", "removed", count), 0);
	if (count)
		printf("Removed %d pins and %s.\n", count, options->pins);
	else
		printf("Nothing is pinned in %s.\n", options->pins);
	return 0;
}

static int run(const struct ctl_options *options)
{
	struct statfs fs;
	int dir, count;

	dir = open(options->pins, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 && errno == ENOENT)
		return removed(options, 0);
	if (dir < 0)
		return ctl_failed("%s: %s%s", options->pins, strerror(errno),
				  errno == EACCES ? " (needs root)" : "");
	if (fstatfs(dir, &fs) || (unsigned int)fs.f_type != BPF_FS_MAGIC) {
		close(dir);
		return ctl_failed("%s is not on a BPF file system",
				  options->pins);
	}
	count = !options->force && in_use(options, dir) ?
			-1 :
			remove_all(dir, options->pins);
	close(dir);
	return count < 0 ? CTL_FAILED : removed(options, count);
}

const struct ctl_command ctl_unload = {
	.name = "unload",
	.summary = "removes the pinned programs and maps",
	.help = "[--json] [--force] [--control PATH] [--pins DIR]\n"
		"Removes what a sluiced that is gone, or make load, left pinned. Refuses while\n"
		"sluiced runs or connections are steered. Needs root.\n\n"
		"  --json           as JSON\n"
		"  --force          also then: steered connections go on, but no sluiced can\n"
		"                   take them over\n"
		"  --control PATH   sluiced's control socket (" SLUICE_CONTROL_PATH
		")\n"
		"  --pins DIR       what to remove (" PINS_DEFAULT ")\n",
	.letters = "jfsp",
	.run = run,
};
