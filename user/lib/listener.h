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
};

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
