/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the tests of sets on a ring share: rings of every setup, and the loop that
 * sluice/uring.h describes, with requests of the test's own on the same ring.
 */
#ifndef URINGS_H
#define URINGS_H

#include <liburing.h>
#include <sluice/uring.h>

#include "waits.h"

/* A setup of the ring, and of the set on it. */
struct setup {
	const char *name;
	unsigned int flags; /* IORING_SETUP_* */
	uint32_t set_flags; /* SLUICE_URING_F_* */
	bool files; /* registered ones for all conns */
};

enum { BASIC, SQPOLL, DEFER, POLLED, FILES, SETUPS };
extern const struct setup setups[SETUPS];

#define URINGS_OPTIONS(...)             \
	((struct sluice_uring_options){ \
		.size = sizeof(struct sluice_uring_options), __VA_ARGS__ })

struct loop {
	const struct setup *setup;
	struct io_uring ring;
	struct sluice_set *set;
	uint64_t mine; /* CQEs that were not the set's */
	uint64_t last_mine; /* user_data of the last of them */
};

/* A ring with so many SQEs and a set on it; skips if the kernel has no such ring. */
void loop_open(struct loop *loop, const struct setup *setup,
	       unsigned int entries);
/* The same, with options for the set; loop->set is not made if it is NULL. */
void loop_open_ring(struct loop *loop, const struct setup *setup,
		    unsigned int entries);
/* Stops the set, digests all, frees set and ring. */
void loop_close(struct loop *loop);

/*
 * Once around: prepares, submits, waits up to timeout_ns for a CQE if there is
 * nothing to report, digests. Returns what sluice_uring_prepare() did last.
 */
int loop_turn(struct loop *loop, int64_t timeout_ns);
/* Digests the CQEs that are there. */
void loop_digest(struct loop *loop);
/* As sluice_set_wait(). */
int loop_wait(struct loop *loop, struct sluice_event *events,
	      unsigned int count, int64_t timeout_ns);
/* Turns until nothing is in flight, or is to be; within 5 s. */
void loop_idle(struct loop *loop);
/* sluice_set_remove(), with turns until it is done. */
void loop_remove(struct loop *loop, struct sluice_conn *conn);
struct sluice_uring_info loop_info(const struct loop *loop);

/* The next event is this; none comes within the time. */
void loop_expect(struct loop *loop, struct sluice_conn *conn, uint32_t ready);
void loop_expect_none(struct loop *loop, int64_t timeout_ns);

/* Does the kernel have multishot RECVMSG? */
bool urings_multishot(const struct loop *loop);

#endif
