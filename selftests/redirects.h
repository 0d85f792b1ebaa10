/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the tests of redirection share: the part of sluiced that is tested, linked
 * to them; pairs with their outer ends; byte streams that say where they are, and
 * threads that send and receive them.
 */
#ifndef REDIRECTS_H
#define REDIRECTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "redirect.h"

#define MIB (1ull << 20)

extern struct sockmap redirects_sockmap;
extern struct redirect *redirects_engine;

/* Starts the engine, or skips; ends it, and all it had must be gone. */
void redirects_start(void);
void redirects_stop(void);

/* A pair, and the ends that the client and the backend have. */
struct link {
	struct redirect_pair *pair;
	struct traffic traffic;
	int client, backend;
};

/* inner: what redirects_add() gives to the engine. sndbuf: 0 is the default. */
void redirects_prepare(struct link *link, int inner[2], int sndbuf);
void redirects_add(struct link *link, int inner[2]);
void redirects_open(struct link *link, int sndbuf);
/* Closes both ends, and waits until the pair is over. */
void redirects_close(struct link *link);

/* The next event, waiting for it; `count` of them, each DONE. */
struct redirect_event *redirects_event(void);
void redirects_done(int count);

struct redirect_status redirects_status(const struct link *link);
void redirects_say(int fd, const char *text);
void redirects_hear(int fd, const char *text);
void redirects_hear_end(int fd);
/* Talks until both flows are in the kernel. */
void redirects_talk(struct link *link);

/* len bytes of stream `key` from position `at`; the second checks them. */
void redirects_fill(void *data, size_t len, uint64_t key, uint64_t at);
void redirects_check(const void *data, size_t len, uint64_t key, uint64_t at);

/* One way of a connection, sent or received by a thread. */
struct stream {
	int fd;
	uint64_t key;
	uint64_t bytes;
	size_t piece; /* largest of one call; smaller ones come, too */
	unsigned int pause_us; /* at most, between calls */
	bool end; /* sender: shutdown() afterwards; receiver: expects the end */
	pthread_t thread;
};

void redirects_send(struct stream *stream);
void redirects_receive(struct stream *stream);
void redirects_join(struct stream *stream);

#endif
