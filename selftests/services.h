/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Services of a sluiced of a test's own, and plain backends for them: processes
 * that listen at b0, b1, ... in the case's directory.
 *
 *	struct services s;
 *
 *	services_open(&s, SOCK_STREAM, 2, "balance = round-robin\n");
 *	backend_start(&s, 0, BACKEND_ECHO);
 *	fd = services_connect(&s);	// once a backend is up
 *	services_close(&s);
 */
#ifndef SERVICES_H
#define SERVICES_H

#include "daemon.h"

#define BACKENDS_MAX 4

enum backend_kind {
	BACKEND_ECHO, /* sends back what comes, ends when its client has ended */
	BACKEND_NAME, /* says its number, then echoes */
	BACKEND_DEAF, /* never accepts */
	BACKEND_MUTE, /* accepts, never reads */
};

struct services {
	struct daemon d;
	int type; /* SOCK_STREAM, ... */
	unsigned int count; /* of backends in the configuration */
	char extra[512]; /* more lines of the section */
	pid_t backends[BACKENDS_MAX];
	char path[256]; /* where the service listens */
};

/* The types that have connections. */
struct services_kind {
	const char *name;
	int type;
};
#define SERVICES_KINDS 2
extern const struct services_kind services_kinds[SERVICES_KINDS];

/* Starts sluiced with one service "s". Backends come later. */
void services_open(struct services *s, int type, unsigned int count,
		   const char *extra);
/* Stops all; nothing may be left. */
void services_close(struct services *s);
/* Another configuration: SIGHUP, and waits until it is read. */
void services_reload(struct services *s);

/* sluiced again, which has been stopped or killed, as it was configured. */
void services_start_again(struct services *s);

/* A listening socket of this process. */
int backend_listen(struct services *s, unsigned int number);
/* A process; it listens when this returns. */
void backend_start(struct services *s, unsigned int number,
		   enum backend_kind kind);
void backend_kill(struct services *s, unsigned int number);

/* A connected socket; waits for the service to listen, 5 s. */
int services_connect(const struct services *s);
/* Of DGRAM: with a name, for answers. */
int services_named(const struct services *s);
/* 0 or the errno of one attempt; *fd is connected. */
int services_try(const struct services *s, int *fd);
/* Waits until it refuses. */
void services_refuses(const struct services *s);

/* The record of "s", by the control socket. */
struct sluice_control_service services_status(const struct services *s);

/* The next that is received is the end. */
void services_ends(int fd);

/* Bytes for a test of bulk: 16 MiB, with SLUICE_LONG=1 1 GiB. */
size_t services_bulk(void);

/* One byte with an fd; as sendmsg() failed, or 0. */
int services_send_fd(int socket, int fd);

/* The number that a NAME backend says. */
int services_number(int fd);

#endif
