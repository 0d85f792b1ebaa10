/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Binding, probing and removing sockets' names; socketfile.h. */
#include "socketfile.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

void socket_take_fds(int fd, bool yes)
{
	const int value = yes;

	if (setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &value, sizeof(value)))
		log_debug("SO_PASSRIGHTS: %s", strerror(errno));
}

static int new_socket(int type)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? -errno : fd;
}

static int address_of(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	strcpy(address->sun_path, path);
	return 0;
}

int socket_file_probe(const char *path, int type)
{
	struct sockaddr_un address;
	int fd, r = address_of(path, &address);

	if (r)
		return r;
	fd = new_socket(type == SOCK_DGRAM ? SOCK_STREAM : SOCK_DGRAM);
	if (fd < 0)
		return fd;
	r = connect(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno :
									0;
	close(fd);
	/* the other type is right, the probe's is wrong */
	return r == -EPROTOTYPE ? 0 : r ? r : -EPROTOTYPE;
}

int socket_file_clear(const char *path)
{
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	if (socket_file_probe(path, SOCK_STREAM) != -ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(path) ? -errno : 0;
}

static void make_parent(const char *path)
{
	char *copy = strdup(path);

	/* binding says what is wrong if this does not help */
	if (copy && mkdir(dirname(copy), 0755) && errno != EEXIST)
		log_debug("%s: %s", copy, strerror(errno));
	free(copy);
}

static int find_owner(const struct socket_file *file, uid_t *uid, gid_t *gid)
{
	struct passwd *user = NULL;
	struct group *group = NULL;

	*uid = (uid_t)-1;
	*gid = (gid_t)-1;
	errno = 0;
	if (*file->owner && !(user = getpwnam(file->owner))) {
		log_error("%s: there is no user %s", file->path, file->owner);
		return errno ? -errno : -ESRCH;
	}
	if (user)
		*uid = user->pw_uid;
	errno = 0;
	if (*file->group && !(group = getgrnam(file->group))) {
		log_error("%s: there is no group %s", file->path, file->group);
		return errno ? -errno : -ESRCH;
	}
	if (group)
		*gid = group->gr_gid;
	return 0;
}

int socket_file_access(const struct socket_file *file)
{
	uid_t uid;
	gid_t gid;
	int r = find_owner(file, &uid, &gid);

	if (r)
		return r;
	/* only who has a file may change its mode */
	if (chown(file->path, geteuid(), (gid_t)-1) ||
	    chmod(file->path, file->mode) || chown(file->path, uid, gid))
		return -errno;
	return 0;
}

/* Notes what is there. 0 or -1 and errno. */
static int identify(struct socket_file *file)
{
	struct statx st;

	if (statx(AT_FDCWD, file->path, AT_SYMLINK_NOFOLLOW,
		  STATX_TYPE | STATX_INO | STATX_BTIME, &st))
		return -1;
	if (!S_ISSOCK(st.stx_mode)) {
		errno = ENOTSOCK;
		return -1;
	}
	file->dev = makedev(st.stx_dev_major, st.stx_dev_minor);
	file->ino = st.stx_ino;
	file->born = st.stx_mask & STATX_BTIME ?
			     st.stx_btime.tv_sec * 1000000000 +
				     st.stx_btime.tv_nsec :
			     0;
	return 0;
}

int socket_file_bind(struct socket_file *file)
{
	struct sockaddr_un address;
	const int one = 1;
	mode_t mask;
	int fd, r = address_of(file->path, &address);

	if (r)
		return r;
	make_parent(file->path);
	socket_file_remove(file);
	r = socket_file_clear(file->path);
	if (r)
		return r;
	fd = new_socket(file->type);
	if (fd < 0)
		return fd;
	/* a DGRAM socket takes messages at once, and must know whose they are */
	r = file->type == SOCK_DGRAM ?
		    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) :
		    0;
	mask = umask(0777);
	r = r || bind(fd, (struct sockaddr *)&address, sizeof(address)) ||
			    identify(file) ?
		    -errno :
		    0;
	umask(mask);
	if (r) {
		close(fd);
		return r;
	}
	r = socket_file_access(file);
	if (!r)
		return fd;
	socket_file_remove(file);
	close(fd);
	return r;
}

void socket_file_remove(struct socket_file *file)
{
	struct socket_file there = *file;

	if (!file->ino || identify(&there) || there.dev != file->dev ||
	    there.ino != file->ino || there.born != file->born)
		return;
	if (unlink(file->path) && errno != ENOENT)
		log_warning("%s: cannot remove: %s", file->path,
			    strerror(errno));
	file->ino = 0;
}
