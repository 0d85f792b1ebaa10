/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Endpoints: where the steered lane ends. Included by sluice.h, whose
 * conventions hold.
 *
 *   endpoint  one to 16 rings, made by sluiced for this process
 *   ring      slots that BPF programs fill, and a landing pool for payload that
 *             fits no slot; for any number of conns
 *
 * Most programs need none of these calls: SLUICE_F_STEER makes an endpoint, and
 * conns receive from it through sluice_recv() and the wait set. Call them to
 *
 *   - share one endpoint between listeners;
 *   - spread conns over threads: an endpoint with a ring for each thread, which
 *     receives from the conns made with its options.ring, by sluice_recv() or a
 *     set of its own;
 *   - spread each conn's messages over threads, by their first 8 bytes:
 *     SLUICE_ENDPOINT_F_HASH, and "Rings of workers" below.
 *
 * sluiced: while it is away, all goes on, but new conns are not steered
 * (SLUICE_REASON_NO_SLUICED) until it is back. The library calls on it again once
 * a second, from any wait or receive of a conn or ring of the endpoint. One that
 * does neither for longer than sluiced's grace time, or whose pins an
 * administrator has removed, is lost: its conns go on through their sockets
 * (SLUICE_REASON_STEER_LOST) for good, and so do new ones on it. A listener that
 * made the endpoint makes another for what it accepts from then on. What sluiced
 * has refused (SLUICE_REASON_STEER_REFUSED) is not asked for again while it runs.
 *
 * Threads: a ring belongs to one thread at a time, and with it all conns on it
 * and the sets that they are in; nothing checks that. Rings are independent of
 * each other. Any thread may make conns on a ring of its own, or ask for
 * sluice_endpoint_info(). The endpoint is freed when no thread uses it any more.
 *
 * Fork: as for conns. The endpoint lasts as long as the process that made it
 * keeps it; what a child closes does not end it.
 */
#ifndef SLUICE_ENDPOINT_H
#define SLUICE_ENDPOINT_H

#include <sluice/sluice.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sluice_ring;

/*
 * All plain messages of 8 bytes and more go to a ring chosen by their first 8
 * bytes. Conns are on ring 0 only (options.ring), the others are for workers.
 */
#define SLUICE_ENDPOINT_F_HASH 0x1u

struct sluice_endpoint_options {
	size_t size;
	/*
	 * Path of sluiced's control socket, copied; default: the environment's
	 * SLUICE_CONTROL, else SLUICE_CONTROL_PATH.
	 */
	const char *control;
	uint32_t rings; /* 1 to 16; default 1 */
	uint32_t ring_slots; /* of each; power of two, 16 to 65536; default 4096 */
	/* Conns of each ring; power of two, 16 to 65536; default 1024. */
	uint32_t conns;
	/*
	 * Landing slots of each ring: of 4 KiB (in sixteens), of 64 KiB, of
	 * 1 MiB; default 16 (that is 256), 16 and 4, for 6 MiB. What finds no
	 * free slot that it fits comes through the socket.
	 */
	uint32_t landing[SLUICE_LANDING_CLASSES];
	uint32_t flags; /* SLUICE_ENDPOINT_F_* */
	uint32_t resv; /* 0 */
};

struct sluice_endpoint_info {
	uint64_t number; /* sluiced's, shown by sluicectl */
	uint32_t rings;
	uint32_t ring_slots;
	uint32_t conns;
	uint32_t conns_used; /* of all rings, those being detached included */
	uint32_t landing[SLUICE_LANDING_CLASSES]; /* as in the options */
	uint32_t landing_used; /* slots of all rings and sizes, not free now */
	uint32_t connected; /* 1: to sluiced */
	int error; /* 0, or why it steers no more: -errno */
};

/*
 * -ENOENT, -ECONNREFUSED: no sluiced; -EACCES: not for this user; -EDQUOT: over a
 * quota; -EPROTONOSUPPORT: it speaks another version; -ETIMEDOUT: it did not
 * answer within 5 s; -EINVAL: bad options. Takes some 10 ms.
 */
SLUICE_API int
sluice_endpoint_new(struct sluice_endpoint **endpoint,
		    const struct sluice_endpoint_options *options);

/*
 * Gives up the caller's hold; it goes with the last conn and listener on it.
 * Workers have none: they have to be done before, and their views are gone then.
 */
SLUICE_API void sluice_endpoint_free(struct sluice_endpoint *endpoint);

SLUICE_API void sluice_endpoint_info(struct sluice_endpoint *endpoint,
				     struct sluice_endpoint_info *info);

/* index counts from 0; NULL past the last. The endpoint's, not to be freed. */
SLUICE_API struct sluice_ring *
sluice_endpoint_ring(struct sluice_endpoint *endpoint, unsigned int index);

/* Rings of workers -------------------------------------------------------- */

/*
 * With SLUICE_ENDPOINT_F_HASH, messages of plain peers with the same first 8
 * bytes go to the same ring. One thread for each ring but the first takes them
 * there, without a lock, by the calls below. Ring 0 is the home of all conns:
 * sluice_recv() has what is hashed to it, what is shorter than 8 bytes, what came
 * through the socket (a spill: ring or landing pool were full, and more), and the
 * end of the stream.
 *
 * Order: of one conn's messages with the same first 8 bytes each is handed out
 * when whoever got the one before has called again (sluice_ring_recv(), _wait(),
 * _arm(), or a receive or wait of the conn). So their handling never overlaps,
 * whichever threads they go to. For this a conn holds back what came through
 * the socket, and its end, until all rings are read up to where they were then.
 * Meanwhile it says -EAGAIN, and waits for it return at once; a ring that nobody
 * reads holds it up.
 *
 * Aware peers are not hashed: all that they send comes to their conn.
 *
 * All of these: -EINVAL: ring 0, or an endpoint without the flag; -ECHILD.
 */

/*
 * Takes the ring's next message. 1: *msg is filled, and *conn says whose it is
 * (sluice_conn_info.steer_conn; that may not have returned from sluice_accept()
 * yet, and may be closed by now). -EAGAIN: none now. -ENOLINK: all is read, and
 * sluiced has destroyed the endpoint (sluice_endpoint_info.error says why): conns
 * go on through their sockets.
 */
SLUICE_API int sluice_ring_recv(struct sluice_ring *ring,
				struct sluice_msg *msg, uint32_t *conn);

/*
 * Gives back what sluice_ring_recv() filled, in any order, in the ring's thread.
 * Nothing happens for an inline one. -EINVAL: the ring has not handed it out, or
 * has it back.
 */
SLUICE_API int sluice_ring_release(struct sluice_ring *ring,
				   const struct sluice_msg *msg);

/*
 * Waits for something to receive: spins up to spin_ns, then sleeps. 0: receive;
 * -ETIMEDOUT, -EINTR. timeout_ns as in sluice_wait().
 */
SLUICE_API int sluice_ring_wait(struct sluice_ring *ring, int64_t timeout_ns,
				uint64_t spin_ns);

/*
 * For event loops, or to wait for something else besides, as sluice_conn_fd()
 * and sluice_arm(): receive until -EAGAIN, arm (1: receive again), sleep until
 * the fd is readable. -EMFILE.
 */
SLUICE_API int sluice_ring_fd(struct sluice_ring *ring);
SLUICE_API int sluice_ring_arm(struct sluice_ring *ring);

#ifdef __cplusplus
}
#endif

#endif
