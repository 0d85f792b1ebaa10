/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluiced's main thread: one loop over the control socket, its clients, signals
 * and finished jobs. Everything here is that thread's alone.
 *
 *   server.c    the loop, signals, deadlines     client.c    clients' sockets
 *   listener.c  the control socket               request.c   what they ask for
 *   takeover.c  what an earlier sluiced left     sweep.c     sockets that died
 *   metrics.c   what it counts, as text          scrape.c    who asks for it
 */
#ifndef SLUICED_SERVER_H
#define SLUICED_SERVER_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "intercept.h"
#include "programs.h"
#include "socketfile.h"
#include "sockmap.h"
#include "tables.h"
#include "uring.h"
#include "worker.h"

struct server;

/* Something in the epoll set; events as of epoll_wait(2). */
struct source {
	void (*ready)(struct server *server, struct source *source,
		      uint32_t events);
	int fd; /* -1: closed */
	struct source *gone; /* the next of those to be freed */
};

/* metrics.h */
struct metrics {
	struct source source; /* the socket */
	struct socket_file file;
	struct scraper *scrapers; /* the oldest first */
	unsigned int scraper_count;
	char *text; /* the last one, or NULL */
	size_t size;
	int64_t made_at;
	char written[METRICS_PATH_SIZE]; /* the file's path, or empty */
	bool complained; /* the log says why it is not written */
	int64_t listen_at, write_at; /* 0: never */
};

struct server {
	struct config config;
	const struct options *options; /* to read it again */
	struct programs programs;
	struct sockmap sockmap;
	struct loop_program *loop; /* of the in-kernel switch, or NULL */
	int sockmap_error; /* why it cannot be used: -errno */
	struct worker *worker;
	struct tables tables;
	struct services *services;
	struct intercepts intercepts;
	struct urings urings;
	struct metrics metrics;
	struct client *clients;
	struct client *closed; /* to be freed after this round of events */
	struct source *gone; /* likewise */
	int epoll;
	struct source listener, signals, jobs, refusals;
	struct ring_buffer *refused; /* what bpf/guard.bpf.c dropped */
	struct socket_file file; /* the listener's, if it is ours to remove */
	bool listening; /* the listener is in the epoll set */
	bool draining;
	bool stopping;
	bool no_bpf; /* why it did not start */
	/* CLOCK_MONOTONIC, ns; 0: none */
	int64_t orphans_until, sweep_at, listen_at;
	uint32_t sweep; /* number of the last one */
	int64_t swept; /* when */
};

/* Watches source for events, or changes which. 0 or -errno. */
int server_watch(struct server *server, struct source *source, uint32_t events);
/*
 * Frees what begins with the source, after this round of events, which may have
 * one for it still. Its fd is closed already.
 */
void server_free_later(struct server *server, struct source *source);
int64_t server_now(void);

/* listener.c: 0 or -errno, after it has said why. */
int listener_open(struct server *server);
void listener_close(struct server *server);
/* Stops accepting for a moment: no fds or memory are left. */
void listener_rest(struct server *server);
void listener_resume(struct server *server);

/* takeover.c: fills the tables with what the maps hold. */
int takeover(struct server *server);
void takeover_expire(struct server *server);

/*
 * sweep.c: finds connections whose sockets are gone and frees what they use, also
 * what counts against quotas. sweep_for_quota() does so if the last time is not
 * just now.
 */
void sweep(struct server *server);
void sweep_for_quota(struct server *server);

#endif
