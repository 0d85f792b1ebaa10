/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Two aware endpoints, in one process or in two, and streams of messages whose
 * lengths, tags and bytes follow from a key, so that either side knows what the
 * other has sent. Everything here fails the case by itself when something is
 * wrong; a library call answers only -EAGAIN or success.
 */
#ifndef ENDS_H
#define ENDS_H

#include <sluice/sluice.h>

#include "tap.h"

/* An option struct with its size: ENDS_OPTIONS(.ring_slots = 16). */
#define ENDS_OPTIONS(...)                                                \
	((struct sluice_options){ .size = sizeof(struct sluice_options), \
				  __VA_ARGS__ })
#define ENDS_POOL(...)                 \
	((struct sluice_pool_options){ \
		.size = sizeof(struct sluice_pool_options), __VA_ARGS__ })

/*
 * Both endpoints in this process, negotiated. NULL: the defaults, or for b the
 * options of a. SLUICE_F_AWARE is added. Where both have a link, both are in
 * the direct lane.
 */
void ends_pair(struct sluice_conn *conn[2], const struct sluice_options *a,
	       const struct sluice_options *b);

/* Closes both. */
void ends_close(struct sluice_conn *conn[2]);

/*
 * One endpoint here, the other in a child, which runs `run`, closes its
 * endpoint and exits. tap_join() what is returned. The random stream of the
 * child is 1.
 */
pid_t ends_fork(struct sluice_conn **conn, const struct sluice_options *mine,
		const struct sluice_options *childs,
		void (*run)(struct sluice_conn *conn, void *arg), void *arg);

/* The end of the peer's stream: waits for it. */
void ends_expect_eof(struct sluice_conn *conn);

/* Bytes that a key determines, from any offset on. */
void content_fill(void *data, size_t len, uint64_t key, uint64_t offset);
bool content_matches(const void *data, size_t len, uint64_t key,
		     uint64_t offset);

/* A stream, as either side sees it. */
struct stream {
	uint64_t key;
	uint32_t max_len; /* of a message; 0: only messages without payload */
	uint64_t next; /* index of the next message */
	uint64_t at; /* receiving: bytes of it that came in parts before */
};

/* Lengths are weighted to small ones and to the edges of what is inline. */
uint32_t stream_len(const struct stream *stream, uint64_t index);
uint64_t stream_tag(const struct stream *stream, uint64_t index);
uint64_t stream_key(const struct stream *stream, uint64_t index);

/* Sends the next message, by copy or from a loan: 0, or -EAGAIN. */
int stream_send(struct sluice_conn *conn, struct stream *stream,
		uint32_t flags);
/* Checks that msg is what comes next, whole or in parts. */
void stream_check(struct stream *stream, const struct sluice_msg *msg);

/* Views that are held for a while, checked again when they are released. */
#define HOLDS_MAX 256

struct holds {
	uint32_t limit; /* at most this many; 0: release at once */
	uint32_t count;
	struct {
		struct sluice_msg msg;
		uint64_t key, offset;
	} held[HOLDS_MAX];
};

/* Receives the next message or part, and holds it: 1, or -EAGAIN. */
int stream_recv(struct sluice_conn *conn, struct stream *stream,
		struct holds *holds);
/* Releases one of those held, by chance; all of them. */
void holds_release_one(struct sluice_conn *conn, struct holds *holds);
void holds_release_all(struct sluice_conn *conn, struct holds *holds);

/*
 * Sends tx up to message tx_end and receives rx up to rx_end, waiting when
 * there is nothing to do; either may be NULL. `each`, if any, is called after
 * every message that was sent or received.
 */
void streams_run(struct sluice_conn *conn, struct stream *tx, uint64_t tx_end,
		 struct stream *rx, uint64_t rx_end, struct holds *holds,
		 void (*each)(struct sluice_conn *conn, void *arg), void *arg);

#endif
