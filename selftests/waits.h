/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the tests of waiting share: connections of every kind, CPU time, and
 * what to say about a wake-up that was lost.
 */
#ifndef WAITS_H
#define WAITS_H

#include "ends.h"

#define MS 1000000ll
#define SECOND 1000000000ll

/* How messages travel on a connection, in both directions. */
struct kind {
	const char *name;
	uint32_t lane; /* SLUICE_LANE_* */
	bool linkless; /* queued, and releases go by frames */
};

/* In the order of enum; aware_kinds are all but plain, queued_kinds two. */
enum { PLAIN, QUEUED, LINKLESS, DIRECT };
extern const struct kind kinds[4], aware_kinds[3], queued_kinds[2];

/* Both ends here. b NULL: the options of a. As ends_pair(). */
void kind_pair(struct sluice_conn *conn[2], const struct kind *kind,
	       const struct sluice_options *a, const struct sluice_options *b);

/* One end in a child, as ends_fork(). */
struct kind_setup {
	const struct kind *kind;
	const struct sluice_options *mine, *childs;
	bool bar_me, bar_child; /* from membarrier(2): it fails with EPERM */
};
pid_t kind_fork(struct sluice_conn **conn, const struct kind_setup *setup,
		void (*run)(struct sluice_conn *conn, void *arg), void *arg);

/* CPU time of this process, ns. */
int64_t cpu_now(void);

/* Anonymous memory that children share. */
void *shared_page(size_t size);

/* Ends the case: a wake-up did not come. Says what both sides' words are. */
void lost(struct sluice_conn *conn, const char *what) __attribute__((noreturn));

/* Sends inline messages until -EAGAIN; returns how many. */
unsigned int fill(struct sluice_conn *conn);
/* Receives and releases all there is; returns how many. */
unsigned int drain(struct sluice_conn *conn);

/* 0 to limit nanoseconds, without sleeping. */
void busy(int64_t limit);

/* The states, of SLUICE_STATE_*, in the words of both sides. */
struct words {
	uint32_t rx, tx, peer_rx, peer_tx;
};
struct words words_of(struct sluice_conn *conn);

#endif
