/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Wait sets on a ring of the application's, inside: see sluice/uring.h.
 *
 *   uring.c          sets, entries, SQEs and CQEs
 *   uring-frames.c   what they carry of a conn: frames received and sent
 *   uring-accept.c   listeners and connects
 *   uring-pool.c     pools as registered buffers; needs no set
 *
 * An *entry* is what has requests: a conn, a listener, a connect, the set's epoll.
 * By op it is wanted (no SQE yet), flying (its SQE was filled, its last CQE has not
 * come), ending (flying, and an SQE is to cancel it), cancelling (that SQE flies).
 * An entry outlives its conn for as long as anything flies: it then owns the fd, so
 * that a request which was not even submitted cannot meet a new one of its number.
 *
 * One reader: while a RECVMSG flies, core.ring_reads keeps everybody else from the
 * socket, or frames would overtake those that wait in the CQ. It flies only while
 * the queued lane is received from, unsteered; in the direct lane a slot can need
 * the socket to be read at once, and in the steered lane reading takes turns. One
 * writer: core.flight, if set, goes out first.
 */
#ifndef SLUICE_URING_INTERNAL_H
#define SLUICE_URING_INTERNAL_H

#include <sluice/uring.h>

#include "set.h"

struct io_uring_buf_ring;

enum uring_op {
	OP_IN, /* poll: readable; also accept by poll */
	OP_OUT, /* poll: writable */
	OP_RECV, /* multishot RECVMSG */
	OP_SEND, /* core.flight */
	OP_ACCEPT,
	OP_CONNECT,
	OPS,
};

#define OP_BIT(op) (1u << (op))
/* In user_data, with the op that it is to end. */
#define OP_CANCEL 0x80u

/* A connect that is under way; the conn is nobody's yet. */
struct uring_connect {
	struct sluice_conn *conn;
	uint64_t bound;
	struct sockaddr_un address;
	socklen_t size;
};

struct uring_entry {
	struct uring *uring;
	uint32_t number; /* in uring.entries and user_data */
	uint8_t wanted, flying, ending, cancelling; /* OP_BIT() */
	bool busy; /* its CQE is being digested: not to be freed */
	bool leaving; /* nothing is to be wanted any more */
	bool owns_fd;
	int fd;
	uint32_t slot; /* registered file + 1, or 0 */
	struct list due; /* in uring.due */

	/* at most one of these; none: it only waits for what flies */
	struct conn_core *core;
	struct sluice_listener *listener;
	struct uring_connect *connect;

	struct flight *flight; /* that a SEND flies with */
	void *data; /* of events: listener, connect */
	/* of a conn that is draining */
	struct list draining; /* in uring.draining, oldest first */
	int64_t deadline;
};

/* An event that is ready: a conn that came, or why none did. */
struct uring_result {
	struct list link;
	struct sluice_event event;
};

struct uring {
	struct sluice_set *set;
	int ring_fd;
	uint16_t prefix;
	bool collects; /* sluice_uring_arm(): frames become flights */
	bool stopping;
	struct uring_entry **entries; /* by number */
	uint32_t entries_size, next_number;
	struct uring_entry *epoll; /* the set's, for steered conns */
	struct list due; /* entries that need an SQE */
	struct list draining;
	struct list results;

	/* buffers of multishot RECVMSGs: PBUF_RING, then the buffers */
	uint16_t group;
	uint32_t buffers; /* 0: there are none */
	struct io_uring_buf_ring *ring;
	size_t ring_size; /* of the mapping */
	uint8_t *memory;
	uint16_t tail;
	int multishot_error;
	bool single_accept; /* the kernel has no multishot ACCEPT */

	/* registered files */
	uint32_t file_first, file_count;
	uint8_t *file_used;

	struct sluice_uring_info info;
};

/* uring.c ----------------------------------------------------------------- */

/* A raw io_uring_register(): >= 0 or -errno. */
int uring_register(int ring_fd, unsigned int opcode, const void *arg,
		   unsigned int count);
/* An entry for requests on fd. NULL: no memory. */
struct uring_entry *entry_new(struct uring *uring, int fd);
/* Frees it, if nothing of it flies and nobody needs it. */
void entry_put(struct uring_entry *entry);
void entry_want(struct uring_entry *entry, enum uring_op op);
/* What was wanted is not any more, and what flies is cancelled. */
void entry_end(struct uring_entry *entry, unsigned int ops);

/* Of set.c: a conn enters, leaves, is to be woken by these poll events. */
int uring_enter(struct uring *uring, struct conn_core *core);
void uring_leave(struct conn_core *core);
void uring_want(struct conn_core *core, uint32_t events);
/* A closed conn whose buffers are still to come back, or not any more. */
void uring_await(struct conn_core *core);
/* Begins to end all requests of the conn: true if there is none left. */
bool uring_ends(struct conn_core *core);
/* Would the conn lose anything without its requests? */
bool uring_spares(const struct conn_core *core);
/* The set goes; its conns have left. */
void uring_free(struct uring *uring);

/* uring-frames.c ---------------------------------------------------------- */

/* Registers buffers for RECVMSGs; if it cannot, uring.multishot_error says why. */
void frames_open(struct uring *uring, uint32_t buffers);
void frames_close(struct uring *uring);
/* Is the socket the RECVMSG's to read? */
bool frames_wanted(const struct conn_core *core);
void frames_fill_recv(struct uring_entry *entry, struct io_uring_sqe *sqe);
void frames_fill_send(struct uring_entry *entry, struct io_uring_sqe *sqe);
void frames_received(struct uring_entry *entry, const struct io_uring_cqe *cqe);
void frames_sent(struct uring_entry *entry, int result);
/* The set stops: closed conns whose frames have no SQE send them by themselves. */
void frames_stop(struct uring *uring);
/* Conns that were closed long ago and are still not drained end. */
void frames_expire(struct uring *uring);

/* uring-accept.c ---------------------------------------------------------- */

void accept_fill(struct uring_entry *entry, struct io_uring_sqe *sqe);
void accept_digest(struct uring_entry *entry, const struct io_uring_cqe *cqe);
/* The listener's fd is readable. */
void accept_readable(struct uring_entry *entry);
void connect_fill(struct uring_entry *entry, struct io_uring_sqe *sqe);
void connect_digest(struct uring_entry *entry, int result);
/* The set goes, and it was never asked of the kernel. */
void connect_drop(struct uring_entry *entry);
/* Takes the oldest result. False: there is none. */
bool result_take(struct uring *uring, struct sluice_event *event);
/* The set goes: conns that were not reported are closed. */
void results_drop(struct uring *uring);

#endif
