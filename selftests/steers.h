/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the tests of the steered lane share: a sluiced for the library to find,
 * steered conns with a plain socket as their peer, and messages that say which
 * one they are.
 */
#ifndef STEERS_H
#define STEERS_H

#include <sluice/sluice.h>

#include "daemon.h"
#include "ends.h"

#define MS 1000000ll
#define SECOND 1000000000ll

#define STEERS_ENDPOINT(...)               \
	((struct sluice_endpoint_options){ \
		.size = sizeof(struct sluice_endpoint_options), __VA_ARGS__ })

/* sluiced in the case's directory, where the library looks for it; or skips. */
void steers_start(struct daemon *d);
/* Ends it: nobody is left attached, and no fd open since `fds` were. */
void steers_stop(struct daemon *d);

/*
 * A conn that takes what it gets as plain, and the other end of its socket.
 * SLUICE_F_STEER is added. steers_pair() fails the case unless it is steered.
 */
void steers_open(struct sluice_conn **conn, int *peer,
		 const struct sluice_options *options);
void steers_pair(struct sluice_conn **conn, int *peer,
		 const struct sluice_options *options);

/* Is the conn in the steered lane? */
bool steers_on(struct sluice_conn *conn);
uint64_t steers_steered(struct sluice_conn *conn);
uint64_t steers_spilled(struct sluice_conn *conn);

/*
 * Message number `index` of stream `key`: its length (weighted to small ones, at
 * most max) and bytes follow from both. A message of 8 bytes and more begins
 * with its index.
 */
size_t steers_len(uint64_t key, uint64_t index, size_t max);
void steers_fill(void *data, size_t len, uint64_t key, uint64_t index);
void steers_check(const void *data, size_t len, uint64_t key, uint64_t index,
		  size_t max);

/* Sends message `index`, waiting for room. */
void steers_send(int fd, uint64_t key, uint64_t index, size_t max);
/* Receives the next one, waiting, checks and releases it. */
void steers_recv(struct sluice_conn *conn, uint64_t key, uint64_t index,
		 size_t max);
/* Waits for a message; the case fails when there is none for 20 s. */
void steers_wait(struct sluice_conn *conn, struct sluice_msg *msg);

#endif
