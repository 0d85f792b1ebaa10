/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the tests of redirection share: byte streams that say where they are, and
 * threads that send and receive them. selftests/redirect-*.c link the part of
 * sluiced that is tested.
 */
#ifndef REDIRECTS_H
#define REDIRECTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
