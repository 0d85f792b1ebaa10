/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The life of the server, for main(). */
#ifndef SLUICED_RUN_H
#define SLUICED_RUN_H

#include "server.h"

/* 0 or -errno, after it has said what is wrong. */
int server_start(struct server *server);
int server_run(struct server *server);
/* Also after a start that failed. Clients' sockets end with the process. */
void server_stop(struct server *server);

#endif
