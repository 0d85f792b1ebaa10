/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Names of AF_UNIX sockets in the file system. */
#ifndef SLUICED_SOCKETFILE_H
#define SLUICED_SOCKETFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct socket_file {
	const char *path;
	int type; /* SOCK_STREAM, ... */
	mode_t mode;
	const char *owner, *group; /* names; empty: as they come */
	/* what was bound, so that nobody else's is removed; numbers are used again */
	dev_t dev;
	ino_t ino; /* 0: nothing */
	int64_t born; /* ns, or 0 where file systems do not know */
};

/*
 * Whether a socket of that type is there: 0, or -ECONNREFUSED, -ENOENT, ...
 * Asked with another type, so that a server does not see a client.
 */
int socket_file_probe(const char *path, int type);

/* Removes a socket that nobody has any more; 0, or -errno for anything else. */
int socket_file_clear(const char *path);

/*
 * Binds a new socket there. What it bound before, and a socket that nobody has any
 * more, is replaced; anything else stays: -EADDRINUSE, -EEXIST. Nobody can connect before listen():
 * so access is right from the start. Returns the fd or -errno; -ESRCH: owner or
 * group is unknown.
 */
int socket_file_bind(struct socket_file *file);

/*
 * Whether fds can be sent to the socket, or to those accepted from it: else who
 * tries gets EPERM. Nothing happens before Linux 6.16; there, to receive a message
 * with fds is to drop them, which may wait for whoever serves them.
 */
void socket_take_fds(int fd, bool yes);

/* Mode, owner and group; 0 or -errno. */
int socket_file_access(const struct socket_file *file);

/* Unless something else is there meanwhile. */
void socket_file_remove(struct socket_file *file);

#endif
