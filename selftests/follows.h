/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the tests of followed io_urings share: a sluiced, a client, a ring, and
 * sockets whose messages are doorbells.
 */
#ifndef FOLLOWS_H
#define FOLLOWS_H

#include <liburing.h>

#include "daemon.h"
#include "tap.h"

/* user_data of doorbells in these tests: this in the upper 16 bits. */
#define FOLLOWS_MATCH 0x51ce000000000000ull
#define FOLLOWS_MASK 0xffff000000000000ull

struct follower {
	struct daemon d;
	int fd; /* control connection */
	struct io_uring ring;
	__u64 number; /* of the ring, once it is followed */
	int pair[2]; /* SEQPACKET: what is sent on [1] is a doorbell of [0] */
};

/* A ring as of io_uring_setup(flags); skips the case where there is none such. */
void ring_open(struct io_uring *ring, unsigned int entries, unsigned int flags);

/* Starts all of it, and follows the ring: doorbells as above, buffers 1 and 2. */
void follower_open(struct follower *f, unsigned int flags);
void follower_close(struct follower *f);

/* What asks for a ring of this process. */
struct sluice_control_uring follow_body(const struct io_uring *ring);
/* URING_FOLLOW, URING_LEAVE: the reply's error. */
int follow(int fd, const struct sluice_control_uring *body, __u64 *number);
int leave(int fd, __u64 number);

/* URINGS: records, how many there are. At most SLUICE_URINGS_MAX. */
unsigned int followed(int fd, __u16 flags, __u64 after,
		      struct sluice_control_uring_record *records);
/* That of one ring, which must be there. */
struct sluice_control_uring_record record_of(int fd, __u64 number);
struct sluice_control_uring_record record_now(const struct follower *f);

__u64 times_count(const struct sluice_uring_times *times);
/* That there are so many, all of least..most ns by bucket, and the sum likewise. */
void check_times(const struct sluice_uring_times *times, __u64 count,
		 __u64 least, __u64 most);

/* Takes a CQE, waiting: its result. */
int take_cqe(struct io_uring *ring, __u64 user_data);
/* Submits a poll of fd for input. */
void poll_fd(struct io_uring *ring, int fd, __u64 user_data,
	     unsigned int flags);

/* A pinned map of sluiced's. */
int pinned_map(const struct daemon *d, const char *name);
/* How many programs that use that map are attached to tracepoints. */
int attached_programs(int map);
int map_entries(int map, size_t key_size);

#endif
