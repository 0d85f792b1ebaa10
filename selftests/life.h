/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the tests of a connection's life share: the lanes, messages in every
 * form that report how the other side ended, and what a process still holds of
 * the library. The streams are those of ends.h.
 */
#ifndef LIFE_H
#define LIFE_H

#include "ends.h"

/* The first two share their options: set_lane() makes the difference. */
struct lane {
	const char *name;
	uint32_t flags; /* SLUICE_F_* of both sides */
	bool queued; /* by choice */
};

#define LIFE_LANES                                             \
	{                                                      \
		{ "direct", 0, false }, { "queued", 0, true }, \
		{                                              \
			"frames", SLUICE_F_NO_DIRECT, true     \
		} /* and releases by frame */                  \
	}

/* ends_pair() in that lane, both ways. */
void life_pair(struct sluice_conn *conn[2], const struct lane *lane);
/* Sends in that lane from here on, negotiated or not: waits for it. */
void life_choose(struct sluice_conn *conn, const struct lane *lane);

enum form {
	FORM_INLINE, /* if it fits, else a copy */
	FORM_BUFFER,
	FORM_SCATTER, /* up to 5 parts of one buffer */
	FORM_MIXED, /* the message's key decides */
};

/*
 * Sends the next message. Unlike stream_send() it leaves -EPIPE and all else to
 * the caller; after a failure nothing of the pool is held.
 */
int life_send(struct sluice_conn *conn, struct stream *tx, enum form form,
	      uint32_t flags);
/* life_send() up to message `end`, waiting for room. */
void life_send_all(struct sluice_conn *conn, struct stream *tx, uint64_t end,
		   enum form form);
/*
 * Receives, checks and holds the next message or part as stream_recv(), but
 * returns what sluice_recv() does, the ends of the stream included.
 */
int life_recv(struct sluice_conn *conn, struct stream *rx, struct holds *holds);
/* life_recv() up to the end of the stream, waiting; returns that: 0 or -errno. */
int life_drain(struct sluice_conn *conn, struct stream *rx,
	       struct holds *holds);

/* What one end of a connection sends and expects, and how far it is. */
struct side {
	struct stream tx, rx;
	uint64_t tx_end; /* sends up to that message */
	struct holds holds;
	/* Where it counts what it has sent, each time after it did; or NULL. */
	_Atomic uint64_t *sent;
};

/*
 * Bursts of up to LIFE_BURST: 1, or 0 if a send had nothing left to do, or what
 * sluice_recv() or the send returned. Sends are batches at times: what is
 * counted is only what has left this process for certain.
 */
#define LIFE_BURST 32

int life_receive_some(struct sluice_conn *conn, struct side *side);
int life_send_some(struct sluice_conn *conn, struct side *side);

/* 1,000 messages each way at once, then the end of both. The peer does too. */
void life_stream_both(struct sluice_conn *conn, uint64_t key);

/* Buffers of the conn's pool that are lent or in flight, after a harvest. */
uint32_t life_used(struct sluice_conn *conn);

/* Mappings and fds that this process has of memfds named sluice-*. */
int life_memfds(void);

/* A page that forked children share with the case. */
void *life_shared(void);

/* An abstract name that only this case uses: "@sluice-test-...". */
const char *life_name(void);

#endif
