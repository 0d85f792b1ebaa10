/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The pin directory; pins.h says what it is. */
#include "pins.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "log.h"

#define MOUNT_POINT "/sys/fs/bpf"

static bool on_bpf(const char *path)
{
	struct statfs fs;

	return !statfs(path, &fs) && fs.f_type == BPF_FS_MAGIC;
}

static int mount_bpf(const char *dir)
{
	if (strncmp(dir, MOUNT_POINT "/", sizeof(MOUNT_POINT)) ||
	    on_bpf(MOUNT_POINT))
		return 0;
	if (mount("bpf", MOUNT_POINT, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "mode=0700")) {
		log_error("no BPF file system at %s, and mounting one failed: "
			  "%s",
			  MOUNT_POINT, strerror(errno));
		return -errno;
	}
	log_info("mounted a BPF file system at %s", MOUNT_POINT);
	return 0;
}

int pins_lock(const char *dir)
{
	int fd, r = mount_bpf(dir);

	if (r)
		return r;
	if (mkdir(dir, 0700) && errno != EEXIST) {
		r = -errno;
		log_error("%s: cannot make the pin directory: %s", dir,
			  strerror(-r));
		return r;
	}
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		r = -errno;
		log_error("%s: %s", dir, strerror(-r));
		return r;
	}
	if (!on_bpf(dir)) {
		log_error("%s is not on a BPF file system: mount -t bpf bpf "
			  "DIRECTORY makes one",
			  dir);
		r = -ENODEV;
	} else if (flock(fd, LOCK_EX | LOCK_NB)) {
		r = errno == EWOULDBLOCK ? -EBUSY : -errno;
		log_error("%s: %s", dir,
			  r == -EBUSY ? "another sluiced works with it" :
					strerror(-r));
	}
	if (!r)
		return fd;
	close(fd);
	return r;
}

int pins_remove(const char *dir)
{
	DIR *stream = opendir(dir);
	struct dirent *entry;
	int r = 0;

	if (!stream)
		return -errno;
	while ((entry = readdir(stream))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (unlinkat(dirfd(stream), entry->d_name, 0)) {
			r = -errno;
			log_error("%s/%s: cannot remove: %s", dir,
				  entry->d_name, strerror(-r));
		}
	}
	closedir(stream);
	return r;
}

int pin_object(const char *dir, const char *name, int fd)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return bpf_obj_pin(fd, path) ? -errno : 0;
}

void pin_remove(const char *dir, const char *name)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
}

int pin_open(const char *dir, const char *name)
{
	char path[320];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = bpf_obj_get(path);
	return fd < 0 ? -errno : fd;
}
