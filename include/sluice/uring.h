/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluice on an io_uring of the application's own.
 *
 * A wait set that asks for its waiting, its receiving and its sending by requests
 * on your ring, instead of by an epoll. The library owns no ring, starts no thread
 * and never calls io_uring_enter(): it fills SQEs that you give it and digests CQEs
 * that you show it. So this header needs no liburing, and the library links none:
 * both know the kernel's struct io_uring_sqe only. If <liburing.h> (2.3 or later)
 * was included before, it adds the two inlines at its end.
 *
 *	struct io_uring ring;			// yours, any setup but IOPOLL
 *	struct sluice_set *set;
 *	struct sluice_event events[64];
 *
 *	sluice_uring_set(&set, &ring, NULL);
 *	sluice_set_add(set, conn, SLUICE_RECV, data);
 *	for (;;) {
 *		r = sluice_uring_prepare(set, &ring);
 *		if (r < 0 && r != -EAGAIN)	// -EAGAIN: SQ full; the rest comes
 *			break;			// with the next call
 *		if (r)				// something is there already
 *			io_uring_submit_and_get_events(&ring);
 *		else
 *			io_uring_submit_and_wait(&ring, 1);
 *		io_uring_for_each_cqe(&ring, head, cqe)
 *			if (!sluice_uring_digest(set, cqe))
 *				yours(cqe);
 *		io_uring_cq_advance(&ring, seen);
 *		while ((n = sluice_uring_events(set, events, 64)) > 0)
 *			receive and send, as after sluice_set_wait()
 *	}
 *
 * What goes by the ring
 *   waiting   a poll for each conn that has nothing to report: one SQE for a sleep
 *   receiving in the queued lane, where the kernel can (6.0): a multishot RECVMSG
 *             for each conn, into buffers that all conns of the set share. No SQE
 *             and no system call for a message. Elsewhere, and in all other lanes
 *             (where the socket has little to say), the poll and a recvmsg().
 *   sending   frames of a BATCH, doorbells and releases that are due when
 *             sluice_uring_arm() looks: one SEND for each conn, so that one
 *             io_uring_enter() sends for all of them. What is not a BATCH, and
 *             frames with fds, go by sendmsg() at once as ever.
 *   accept, connect
 * All lanes work, with sluice_recv() and sluice_send() as ever. But a conn in such a
 * set must be waited for by the set: sluice_wait() answers -EBUSY, and while a
 * RECVMSG is at work sluice_recv() knows of what was digested only.
 *
 * user_data: the upper 16 bits of all requests of a set are its prefix, and those
 * of no other request on the ring may be. Pointers of Linux processes and small
 * numbers have 0 there. Two sets on one ring have two prefixes and buffer groups.
 *
 * In flight: a request, and with it the memory that it names, ends with its CQE, not
 * before. Conns can be closed at any time: what they have sent still goes out, and
 * their fds stay open until the last CQE, so that no request of theirs meets an
 * fd of somebody else's. A set can be freed when nothing is in flight: see
 * sluice_uring_stop().
 *
 * Threads: set, conns and ring belong to one thread, which is what SINGLE_ISSUER
 * wants. With DEFER_TASKRUN CQEs come only when you ask the kernel for events, as
 * the loop above does. A CQ that overflows loses nothing (FEAT_NODROP), but ends
 * multishot requests: they are made anew.
 *
 * A child of fork() gets -ECHILD, as everywhere.
 */
#ifndef SLUICE_URING_H
#define SLUICE_URING_H

#include <sluice/sluice.h>

#ifdef __cplusplus
extern "C" {
#endif

struct io_uring_sqe;
struct io_uring_cqe;

/* The set ----------------------------------------------------------------- */

#define SLUICE_URING_PREFIX_DEFAULT 0x51ce
#define SLUICE_URING_BUFFERS_DEFAULT 64

#define SLUICE_URING_F_NO_MULTISHOT \
	0x1u /* wait by poll, receive by recvmsg() */

struct sluice_uring_options {
	size_t size;
	uint32_t flags; /* SLUICE_URING_F_* */
	/* For multishot: a power of two, 16 to 32768; 4 KiB each, one a frame. */
	uint32_t buffers;
	uint16_t prefix; /* of user_data */
	uint16_t group; /* of those buffers, on this ring; default: the prefix */
	/*
	 * Slots of the ring's table of registered files (which may be sparse) that
	 * the set may use for its conns: file_count of them from file_first on. A
	 * conn for which there is none goes by its fd. Default: none.
	 */
	uint32_t file_first;
	uint32_t file_count;
	uint32_t resv; /* 0 */
};

/*
 * A set for the ring with that fd. setup and features are struct io_uring_params'.
 * -EINVAL: bad options, or IORING_SETUP_IOPOLL; -EOPNOTSUPP: a kernel before 5.7,
 * whose rings drop CQEs or take a thread for each wait. sluice_set_add(), _change(),
 * _remove() and _free() are for it too; sluice_set_wait() is not (-EINVAL).
 *
 * sluice_set_remove() of such a set answers -EAGAIN while requests of the conn are
 * in flight: it cancels them; go on with the loop, and call again.
 */
SLUICE_API int sluice_uring_set_new(struct sluice_set **set, int ring_fd,
				    uint32_t setup, uint32_t features,
				    const struct sluice_uring_options *options);

/*
 * Before you wait: sends what is due and asks to be told of what comes. 1: there is
 * something to report, so do not wait; 0: there is not; -errno.
 */
SLUICE_API int sluice_uring_arm(struct sluice_set *set);

/* Are there requests to be put into SQEs? */
SLUICE_API int sluice_uring_due(const struct sluice_set *set);

/*
 * Fills an SQE, all 64 bytes of it. 1; 0: nothing is due, the SQE is untouched.
 * From here on the request counts as in flight: submit it.
 */
SLUICE_API int sluice_uring_fill(struct sluice_set *set,
				 struct io_uring_sqe *sqe);

/*
 * 1: the CQE was the set's, and is done with; 0: it is yours. In the order in which
 * they come, each once. It may receive, send and close; it does not wait.
 */
SLUICE_API int sluice_uring_digest(struct sluice_set *set,
				   const struct io_uring_cqe *cqe);

/* In event.ready, besides SLUICE_RECV and SLUICE_SEND */
#define SLUICE_ACCEPTED 0x4u
#define SLUICE_CONNECTED 0x8u

/*
 * Fills up to count events with what there is, without waiting; returns how many.
 * A conn that is not drained is reported again. -EINVAL: count is 0.
 */
SLUICE_API int sluice_uring_events(struct sluice_set *set,
				   struct sluice_event *events,
				   unsigned int count);

/*
 * Clients of the listener are events with SLUICE_ACCEPTED, a new conn, which is in
 * no set yet, and data; or no conn and an error, as of sluice_accept(), after which
 * it goes on. Until the listener is closed, or sluice_uring_unlisten(): that answers
 * -EAGAIN as sluice_set_remove(), -ENOENT if it is not in the set. -EEXIST.
 */
SLUICE_API int sluice_uring_listen(struct sluice_set *set,
				   struct sluice_listener *listener,
				   void *data);
SLUICE_API int sluice_uring_unlisten(struct sluice_set *set,
				     struct sluice_listener *listener);

/*
 * As sluice_connect(), but how it went is an event with SLUICE_CONNECTED, data, and
 * a conn (in no set yet) or an error. A server whose backlog is full is waited for.
 * What can be known to be wrong is returned here. The conn starts plain and turns
 * aware: -EINVAL for aware_timeout_ns and REQUIRE_AWARE.
 */
SLUICE_API int sluice_uring_connect(struct sluice_set *set, const char *name,
				    const struct sluice_options *options,
				    void *data);

/*
 * The set is to be freed: cancels all requests, and makes no more. Go on with the
 * loop until sluice_uring_in_flight() is 0; what was received until then can still
 * be taken from the conns. Frames that were not sent yet are kept for their conns,
 * which send them when they are used, or closed. Conns and listeners that were not
 * reported are closed.
 *
 * sluice_set_free() before that, or after the ring is gone, is safe but not good:
 * conns with a request that the kernel may yet serve fail with -ECANCELED, and the
 * memory that such requests name is never freed.
 */
SLUICE_API void sluice_uring_stop(struct sluice_set *set);
SLUICE_API uint32_t sluice_uring_in_flight(const struct sluice_set *set);

struct sluice_uring_info {
	uint32_t in_flight; /* requests, those in SQEs not yet submitted too */
	uint32_t receiving; /* of these, multishot RECVMSGs */
	uint32_t registered; /* conns with a registered file */
	int multishot_error; /* 0, or why there is none: -errno */
	uint64_t polls; /* SQEs of each kind so far */
	uint64_t receives;
	uint64_t sends;
	uint64_t cancels;
	uint64_t frames_received; /* by RECVMSG */
	uint64_t starved; /* RECVMSGs that found no free buffer */
};

SLUICE_API void sluice_uring_info(const struct sluice_set *set,
				  struct sluice_uring_info *info);

/* Pools as registered buffers ---------------------------------------------- */

/*
 * The segments of a pool in a ring's table of registered buffers: what is read from
 * a file or a socket lands in a loaned buffer, which is then sent; a page is pinned
 * once and not for each request. Needs no set.
 *
 *	io_uring_register_buffers_sparse(&ring, 64);
 *	sluice_uring_pool_new(&registered, sluice_conn_pool(conn), ring.ring_fd, 0, 64);
 *	sluice_loan(conn, 1 << 20, &buf);
 *	sluice_uring_read(registered, io_uring_get_sqe(&ring), file,
 *			  &(struct sluice_part){ buf, 0, 1 << 20 }, offset);
 *	... its CQE, then sluice_send_buf(conn, buf, cqe->res, 0, 0);
 *
 * Own segments only. A peer's, and the landing pool, are mapped read-only, and
 * io_uring pins for writing: registering them fails with EFAULT. Ordinary requests
 * may name them: WRITE to a file, SEND, and SEND_ZC of what a msg shows are fine,
 * if the msg is held until the last CQE. READ and RECV into them fail with EFAULT.
 *
 * Pinned pages count towards RLIMIT_MEMLOCK of an unprivileged user. What is refused
 * is used unregistered, which costs the pinning for each request.
 */
struct sluice_uring_pool;

/*
 * The table has slots already (io_uring_register_buffers_sparse()); the pool gets
 * `count` of them from `first` on, one for each segment, and its segments go in as
 * they come. -EINVAL: no slot, past the table; -ENXIO: no table; -EEXIST: a ring of
 * another thread's (SINGLE_ISSUER). Free it before the ring is closed; a pool that
 * goes before takes its segments out of the table.
 */
SLUICE_API int sluice_uring_pool_new(struct sluice_uring_pool **registered,
				     struct sluice_pool *pool, int ring_fd,
				     uint32_t first, uint32_t count);
SLUICE_API void sluice_uring_pool_free(struct sluice_uring_pool *registered);

/*
 * Slot of the buffer's segment, which it registers if need be: for requests that
 * are not below. -ENOSPC: no slot is free; -EINVAL: a buffer of another pool; or why
 * it was refused: -ENOMEM.
 */
SLUICE_API int sluice_uring_buf_index(struct sluice_uring_pool *registered,
				      const struct sluice_buf *buf);

/*
 * Each fills an SQE, whose user_data and flags (IOSQE_FIXED_FILE, links) you may
 * then set: 1 if the buffer is registered, 0 if it is named by its address, -EINVAL
 * if the part is not within a buffer of that pool that is in use. The buffer stays
 * yours until the CQE; of SEND_ZC until the second one (IORING_CQE_F_NOTIF).
 *
 * offset: of the file, or UINT64_MAX for its position. SEND_ZC (6.0) is for TCP and
 * UDP; of AF_UNIX it answers EOPNOTSUPP.
 */
SLUICE_API int sluice_uring_read(struct sluice_uring_pool *registered,
				 struct io_uring_sqe *sqe, int fd,
				 const struct sluice_part *part,
				 uint64_t offset);
SLUICE_API int sluice_uring_write(struct sluice_uring_pool *registered,
				  struct io_uring_sqe *sqe, int fd,
				  const struct sluice_part *part,
				  uint64_t offset);
SLUICE_API int sluice_uring_recv(struct sluice_uring_pool *registered,
				 struct io_uring_sqe *sqe, int fd,
				 const struct sluice_part *part,
				 uint32_t msg_flags);
SLUICE_API int sluice_uring_send_zc(struct sluice_uring_pool *registered,
				    struct io_uring_sqe *sqe, int fd,
				    const struct sluice_part *part,
				    uint32_t msg_flags);

struct sluice_uring_pool_info {
	uint32_t segments; /* registered */
	uint32_t refused; /* of the pool's others, tried in vain */
	uint64_t bytes; /* registered */
};

SLUICE_API void
sluice_uring_pool_info(const struct sluice_uring_pool *registered,
		       struct sluice_uring_pool_info *info);

/* For users of liburing ---------------------------------------------------- */

#ifdef LIB_URING_H

static inline int sluice_uring_set(struct sluice_set **set,
				   const struct io_uring *ring,
				   const struct sluice_uring_options *options)
{
	return sluice_uring_set_new(set, ring->ring_fd, ring->flags,
				    ring->features, options);
}

/*
 * sluice_uring_arm(), and SQEs for all that is due. -EAGAIN: the SQ is full; nothing
 * is lost, submit and call again.
 */
static inline int sluice_uring_prepare(struct sluice_set *set,
				       struct io_uring *ring)
{
	struct io_uring_sqe *sqe;
	int r = sluice_uring_arm(set);

	while (r >= 0 && sluice_uring_due(set)) {
		sqe = io_uring_get_sqe(ring);
		if (!sqe)
			return -EAGAIN;
		sluice_uring_fill(set, sqe);
	}
	return r;
}

#endif

#ifdef __cplusplus
}
#endif

#endif
