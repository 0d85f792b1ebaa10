/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A client: one connection to the control socket. Its endpoints live as long as
 * it does.
 *
 * It is read only while it takes its replies and has fewer than REQUESTS_MAX
 * requests unanswered, so what it can make sluiced hold is bounded.
 */
#ifndef SLUICED_CLIENT_H
#define SLUICED_CLIENT_H

#include <sluice/uapi.h>

#include "server.h"

#define REQUESTS_MAX 64 /* also before the first reply */
#define FDS_OWED_MAX 1024 /* of one uid, in replies it has not taken */

struct reply {
	struct reply *next;
	size_t len;
	int fd_count;
	int fds[MAP_FDS_MAX]; /* closed once they are sent */
	char bytes[];
};

struct client {
	struct source source;
	struct client *next, **at; /* in server->clients */
	struct user *user;
	uint64_t cookie; /* of the socket, which refusals name */
	pid_t pid;
	char comm[16];
	bool privileged; /* root, or the user that sluiced runs as */
	bool complained; /* its bad requests are in the log */
	struct job *jobs; /* that it waits for */
	unsigned int job_count;
	struct reply *replies, **replies_last; /* not sent yet */
	uint32_t events; /* that are watched for */
	unsigned int fds_owed; /* asked for since it had taken all replies */
};

/* Takes the fd of a new connection. */
void client_open(struct server *server, int fd);

/* bpf/guard.bpf.c dropped a message of this one: answers that. */
void client_refused(struct server *server, uint64_t cookie, __u16 type,
		    __u32 serial, uint32_t fds);

/*
 * Closing what this user sent had to be cut short. True: it happens too often, so
 * all its clients were closed, and none is let in for a while.
 */
bool client_waited(struct server *server, struct user *user);

/* Closes it and destroys its endpoints. */
void client_close(struct server *server, struct client *client);

/*
 * fds that the clients of a user have asked for and perhaps not taken. They count
 * against sluiced's limit, taken or not, so that the number must be bounded.
 */
unsigned int client_fds_owed(struct server *server, const struct user *user);

/* Frees those that were closed in this round. */
void client_reap(struct server *server);

/*
 * Answers a request. The reply's magic, type, flags and serial are the request's;
 * `records` of `size` bytes follow it. Takes fds. May close the client.
 */
void client_reply(struct server *server, struct client *client,
		  const struct sluice_control *reply, const void *records,
		  size_t size, const int *fds, int fd_count);

#endif
