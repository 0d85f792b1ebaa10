/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The steered lane, inside the library: PROTOCOL.md section 15.
 *
 *   daemon.c    an endpoint's connection to sluiced: requests, loss, claim
 *   endpoint.c  endpoints and their maps
 *   ring.c      one ring: slots in order, to the conns that they are for
 *   steer.c     one conn: attached or not, its order between ring and socket
 *   stream.c    STREAM: pieces that are spilled, and the end of the stream
 *   grace.c     the end of a conn: no program is at work for it any more
 *   worker.c    rings without conns, read by threads of their own
 *
 * A ring and all its conns belong to one thread. What threads share is the
 * endpoint; `lock` guards its connection and the states of all conn numbers.
 */
#ifndef SLUICE_STEERING_H
#define SLUICE_STEERING_H

#include "internal.h"

#include <pthread.h>

/* Of a number in ring.entries. */
enum entry_state {
	ENTRY_FREE,
	ENTRY_USED, /* attached, or about to be */
	ENTRY_LEAVING_DUE, /* DETACH is to be sent */
	ENTRY_LEAVING, /* and answered */
	ENTRY_LEFT, /* its slots are all below `tail` */
};

struct ring_entry {
	struct conn_core *core; /* NULL: slots are dropped */
	bool frames; /* its peer is, or was, aware */
	/* under endpoint.lock */
	uint8_t state; /* enum entry_state */
	uint16_t generation; /* upper half of the number it has, or gets */
	uint32_t tail; /* LEFT */
};

/* Unread slots of one conn past which its sender is left to its queue. */
#define UNREAD_MAX (INBOX_MAX / 2)

struct sluice_ring {
	struct sluice_endpoint *endpoint;
	uint32_t index; /* of the endpoint */

	/* maps; of other processes only BPF writes to them */
	const struct sluice_steer_ring *header;
	const struct sluice_slot *slots;
	struct sluice_steer_control *control;
	uint32_t *states; /* of landing slots, in the control map */
	const uint8_t *landing;
	uint64_t *doorbell_consumer; /* position, in bytes */
	const uint64_t *doorbell_producer;
	int doorbell_fd;

	/* consuming */
	uint32_t mask;
	uint32_t head; /* positions below it are consumed */
	uint32_t reported; /* what the control map says of it */
	uint64_t *ahead; /* by slot: consumed, but not below head; bits */
	uint32_t ahead_count;
	uint32_t empty; /* drains in a row that found nothing */
	uint32_t drains;
	uint32_t freed_line; /* of landing slots' states */
	uint32_t freed; /* in that line, not told yet; bits */
	uint32_t *owner; /* by landing slot: conn number's index + 1, or 0 */
	uint32_t seen_full; /* for the probe spill: trace.c */
	uint32_t landing_slots;
#define STATES_PER_LINE 16
	uint32_t armed; /* how many rely on the doorbell */
	struct conn_core *caller; /* in whose call the ring is drained */

	/* conns on it */
	struct ring_entry *entries; /* by the lower half of the number */
	uint32_t next_entry; /* where the search for a free one begins */

	/* of workers */
	int worker_fd; /* epoll, or -1 */
	struct watcher watcher; /* worker_fd */
};

/* In ring.owner, on top of it: the application has it, not the inbox. */
#define OWNER_DELIVERED 0x80000000u
/* Held by the caller of sluice_ring_recv(). */
#define OWNER_WORKER UINT32_MAX

struct sluice_endpoint {
	uint64_t generation; /* of the process that made it */
	uint64_t number;
	uint32_t flags; /* SLUICE_ENDPOINT_F_* */
	uint32_t refs; /* atomic: the caller, conns, listeners */
	uint32_t rings_count;
	uint32_t ring_slots;
	uint32_t conns;
	uint32_t landing[SLUICE_LANDING_CLASSES];

	pthread_mutex_t lock; /* for all below */
	struct sockaddr_un address;
	socklen_t address_size;
	int fd; /* to sluiced, or -1 while it is away */
	int claim_fd; /* ring map of ring 0 */
	int timer_fd; /* fires when it is time to call again */
	bool claiming; /* the answer to CLAIM is to come */
	bool detach_due; /* there are entries LEAVING_DUE */
	int64_t next_call; /* ns */
	struct list watchers; /* struct watcher */
	/* atomic, also without the lock */
	int error; /* 0, or why nothing is steered any more */
	bool ended; /* and all that was is in the rings */
	uint32_t calls; /* how often sluiced was reached */
	int64_t next_tick; /* coarse ns */

	struct sluice_ring rings[];
};

/* daemon.c ---------------------------------------------------------------- */

/* Where sluiced listens, unless the application says where. In endpoint.c. */
const char *control_path(const char *given);
/* A connected, non-blocking socket, or -errno. */
int daemon_connect(const struct sockaddr_un *address, socklen_t size);
/* One request, with fd unless that is -1. 0 or -errno. */
int daemon_send(int socket, const struct sluice_control *request, int fd);
/*
 * 1: *reply, and up to *fd_count fds; 0: sluiced is gone; -EAGAIN; -EPROTO: it is
 * something else.
 */
int daemon_receive(int socket, struct sluice_control *reply, int *fds,
		   unsigned int *fd_count);
/*
 * Sends a request and waits for its reply; fd -1: none. fds gets *fd_count at
 * most, close-on-exec. 0, or what it answered, or what went wrong: -errno.
 * The caller holds the lock, or the only reference.
 */
int daemon_call(struct sluice_endpoint *endpoint,
		struct sluice_control *request, int fd, int *fds,
		unsigned int *fd_count);
/* The endpoint goes: says so to sluiced, without waiting. */
void daemon_destroy(struct sluice_endpoint *endpoint);
/* Asks, now or later, to detach what has the number: ring_left() is told. */
void daemon_detach(struct sluice_ring *ring, uint32_t index);
/* With the lock: waits for something from sluiced, and acts on it. */
int daemon_await(struct sluice_endpoint *endpoint, int64_t deadline);
/* With the lock: is sluiced there and the endpoint claimed? 0 or -errno. */
int daemon_ready(struct sluice_endpoint *endpoint);
/* Reads replies that have come; calls again if it is time to. */
void daemon_service(struct sluice_endpoint *endpoint);
/* The same once a second, for those that are too busy to sleep. */
void daemon_tick(struct sluice_endpoint *endpoint);
int daemon_watch(struct sluice_endpoint *endpoint, struct watcher *watcher,
		 int epoll_fd, void *data);
void daemon_unwatch(struct sluice_endpoint *endpoint, struct watcher *watcher);

/* endpoint.c -------------------------------------------------------------- */

/* Defaults, and the rules: 0, -EINVAL, -E2BIG. */
int endpoint_options_read(struct sluice_endpoint_options *out,
			  const struct sluice_endpoint_options *in);
/* Is there such a ring, and may conns be on it? */
bool endpoint_has_conns(const struct sluice_endpoint *endpoint, uint32_t ring);
bool endpoint_options_have_conns(const struct sluice_endpoint_options *options,
				 uint32_t ring);
/* 0, or why it steers no more: -errno. */
int endpoint_error(const struct sluice_endpoint *endpoint);
void endpoint_ref(struct sluice_endpoint *endpoint);
void endpoint_put(struct sluice_endpoint *endpoint);

/* A number for a conn. 0 or -ENOSPC, ... */
int ring_attach(struct sluice_ring *ring, struct conn_core *core, int fd,
		uint32_t flags);
/* Frees numbers that have left and whose slots are all read. */
void ring_forget_left(struct sluice_ring *ring);
/* Its number is not used again before sluiced has detached the socket. */
void ring_detach(struct sluice_ring *ring, struct conn_core *core);
/* DETACH was answered; with the lock. */
void ring_left(struct sluice_ring *ring, uint32_t index);

/* ring.c ------------------------------------------------------------------ */

/* ON or GRANTED to HOLD. */
void word_hold(uint32_t *word);
/* Where the word of a conn, by its number, is. */
uint32_t *ring_word(const struct sluice_ring *ring, uint32_t number);
/*
 * Takes all slots that are published, also (far) behind one that is not, to the
 * conns that they are for. caller: in whose call this is, or NULL.
 */
void ring_drain(struct sluice_ring *ring, struct conn_core *caller, bool far);
/* The position after the last that was claimed. */
uint32_t ring_tail(const struct sluice_ring *ring);
/* Makes room known to the senders. */
void ring_report(struct sluice_ring *ring);
/* For a worker: copies the next slot that is published. False: there is none. */
bool ring_next(struct sluice_ring *ring, struct sluice_slot *slot);
/* Is there one? far: also behind one that is not published. */
bool ring_waits(struct sluice_ring *ring, bool far);
/* From here on the doorbell tells of slots: look again afterwards. */
void ring_arm(struct sluice_ring *ring);
void ring_disarm(struct sluice_ring *ring);
/* Empties the doorbell, if nobody relies on it. */
void ring_hush(struct sluice_ring *ring);
/* A landing slot that was taken for owner: its payload, or NULL if it is none. */
const void *ring_landing(struct sluice_ring *ring,
			 const struct sluice_slot *slot, uint32_t owner);
/* False: it is not held by owner. */
bool ring_release(struct sluice_ring *ring, uint32_t id, uint32_t owner);
/* The same for a message of an application's, which may be any. */
bool ring_release_msg(struct sluice_ring *ring, const struct sluice_msg *msg,
		      uint32_t owner);

/* trace.c ----------------------------------------------------------------- */

/* For TRACE_ON(spill): notes what is full, before the ring is read. */
void trace_ring(struct sluice_ring *ring);

/* grace.c ----------------------------------------------------------------- */

/* Waits until no BPF program that runs now runs any more; milliseconds. */
void grace_wait(void);
/*
 * recv() has reported the end: returns when all that was sent is published.
 * Milliseconds, once for each conn, if the peer has not closed its socket.
 */
void grace_pass(struct conn_core *core);

/* steer.c ----------------------------------------------------------------- */

/* A slot of the ring for the conn. It is the caller's copy. */
void steer_deliver(struct conn_core *core, struct sluice_slot *slot);

#endif
