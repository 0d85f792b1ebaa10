/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Listeners: of a name of their own, or of a service of sluiced. */
#ifndef SLUICE_LISTENER_H
#define SLUICE_LISTENER_H

#include <sys/stat.h>

#include "steering.h"

struct service;

struct sluice_listener {
	int fd;
	uint64_t generation;
	dev_t dev; /* of the path, so that only our own is unlinked */
	ino_t ino;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
	struct sluice_options options;
	struct sluice_pool_options pool_options;
	uint32_t classes[SLUICE_POOL_CLASSES_MAX];
	struct sluice_endpoint_options endpoint_options;
	char control[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int steer_error; /* why options.endpoint is NULL */
	struct service *service; /* NULL: a name of its own */
	int64_t steer_again; /* when to try, ns */
	struct uring_entry *uring; /* in a set on the application's ring */
	bool fd_kept; /* requests name the fd */
};

/* socket.c ---------------------------------------------------------------- */

/*
 * A conn with that socket, about which nothing is settled yet. steer_error: why
 * there is no endpoint, if it is known. The fd stays the caller's on failure.
 */
int conn_open(struct sluice_conn **conn, int fd,
	      const struct sluice_options *options, int steer_error);
/*
 * The socket is connected: finds out what the peer is. Failing, it frees the conn,
 * and the fd is the caller's.
 */
int conn_begin(struct sluice_conn *conn, uint64_t bound);
/* Makes a conn of an accepted socket, which it closes on failure. */
int listener_take(struct sluice_listener *listener, struct sluice_conn **conn,
		  int fd);
/* A socket with the name, if any, that says that its owner is aware. */
int client_socket(const struct sluice_options *options, uint64_t *bound);

/* service.c --------------------------------------------------------------- */

/* Binds the name as a backend. 0 or -errno. */
int service_open(struct service **service, const char *name,
		 const char *control);
/* Readable when there may be a client. */
int service_fd(const struct service *service);
/* The socket of a client, -EAGAIN, or -errno. */
int service_accept(struct service *service);
void service_close(struct service *service);

#endif
