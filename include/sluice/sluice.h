/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * libsluice: messages between two processes of one host, without a copy.
 *
 * Objects
 *   listener  a listening AF_UNIX SOCK_SEQPACKET socket
 *   conn      one endpoint of a connection; owns its socket, its link and, by
 *             default, a pool
 *   pool      shared memory that holds this side's outgoing payload
 *   buf       one buffer of a pool, reference-counted
 *   msg       one received message, or one part of it
 *   set       waits for many connections at once
 *   endpoint  where sluiced steers incoming messages to, for many conns; see
 *             endpoint.h
 * Sets on an io_uring of the application's, and pools registered with one: uring.h.
 *
 * Conventions
 *   - 0 (or a count) on success, a negative errno on failure. Nothing prints,
 *     exits, starts threads or installs signal handlers; no call raises SIGPIPE.
 *   - Sizes are bytes, times are nanoseconds. A timeout < 0 waits for ever, 0
 *     does not wait.
 *   - Option structs begin with their size, set by the caller; a shorter struct
 *     gets defaults for what it lacks, a longer one must be zero in what this
 *     library does not know, else -E2BIG. A field left 0 takes its default.
 *   - _free and _close accept NULL.
 *
 * Threads: a conn belongs to one thread at a time, and with it its pool, every
 * other conn on that pool, and the set that it is in. Different ones are
 * independent. There are no locks inside.
 *
 * Fork and exec: every fd is close-on-exec and pools are not inherited over
 * fork. A child of fork() may only close or free the handles it inherited (its
 * copies go, the parent's connections stay); sends and receives answer -ECHILD.
 *
 * Hostile peers: whatever a peer does, this side's memory stays intact, and a
 * breach of PROTOCOL.md ends the connection with -EPROTO. But a message *view*
 * is memory that a hostile peer can change while you read it: parse it as you
 * would parse a volatile, or take sluice_recv_copy().
 */
#ifndef SLUICE_SLUICE_H
#define SLUICE_SLUICE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <sluice/uapi.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLUICE_API __attribute__((visibility("default")))
/* The hot path is inline; the library also exports each of these functions. */
#ifndef SLUICE_INLINE
#define SLUICE_INLINE static inline
#endif

struct sluice_listener;
struct sluice_conn;
struct sluice_pool;
struct sluice_set;
struct sluice_endpoint;
struct sluice_endpoint_options;

/* "1.0.0": version of the library that is running. */
SLUICE_API const char *sluice_version(void);

/* Pools ------------------------------------------------------------------- */

/*
 * A pool is made of segments, each a sealed memfd that peers map read-only and
 * that holds buffers of one size class. It grows segment by segment when a loan
 * finds no free buffer, up to `limit`.
 */
#define SLUICE_POOL_F_HUGE 0x1u /* 2 MiB pages; falls back, see huge_error */

#define SLUICE_POOL_CLASSES_MAX 32
#define SLUICE_POOL_LIMIT_DEFAULT (256ull << 20)

struct sluice_pool_options {
	size_t size;
	uint64_t limit; /* bytes of all segments together; default 256 MiB */
	/*
	 * Buffer sizes, ascending multiples of 64, at most 32 of them; default:
	 * the powers of two from 256 B to 1 GiB. The array is copied.
	 */
	const uint32_t *classes;
	uint32_t class_count;
	uint32_t flags; /* SLUICE_POOL_F_* */
};

/*
 * A buffer of a pool. `data` is cache-line aligned, and page aligned if its
 * size class is a multiple of 4 KiB.
 * The caller of a loan holds one reference; a send takes over one.
 */
struct sluice_buf {
	void *data; /* write your payload here */
	uint32_t capacity; /* bytes, at least what was asked for */
	uint32_t refs; /* the library's from here on */
	struct sluice_pool *pool;
	struct sluice_buf *next;
	uint64_t offset;
	uint16_t segment;
	uint16_t class_index;
	uint32_t resv;
};

/* Geometry and use of a pool, in bytes and counts. */
struct sluice_pool_info {
	uint64_t limit;
	uint64_t bytes; /* of all segments */
	uint32_t segments;
	uint32_t buffers;
	uint32_t buffers_used; /* lent to the caller or in flight */
	int huge_error; /* 0 or why huge pages were asked for in vain: -errno */
};

/*
 * One segment, as io_uring_register_buffers() wants it; sluice/uring.h registers
 * them as they come.
 */
struct sluice_segment_info {
	void *address;
	uint64_t length;
	uint32_t buffer_size; /* buffers start at multiples of it */
	uint32_t alignment; /* page size of the segment */
	uint16_t segment; /* number in slots, equals sluice_buf.segment */
};

/* -EINVAL: bad options. Free with sluice_pool_free(). */
SLUICE_API int sluice_pool_new(struct sluice_pool **pool,
			       const struct sluice_pool_options *options);

/*
 * Gives up the caller's hold; the memory goes when the last conn that uses the
 * pool, and every message in flight from it, is gone.
 */
SLUICE_API void sluice_pool_free(struct sluice_pool *pool);

/*
 * Lends a buffer of at least `size` bytes. -EAGAIN: all are in use and the pool
 * is at its limit; -EMSGSIZE: no class, or not the limit, can ever hold `size`;
 * -ENOMEM, -EMFILE: the system refused a segment.
 */
SLUICE_API int sluice_pool_loan(struct sluice_pool *pool, size_t size,
				struct sluice_buf **buf);

/* Retires every segment none of whose buffers is in use; returns the bytes. */
SLUICE_API int64_t sluice_pool_trim(struct sluice_pool *pool);

SLUICE_API void sluice_pool_info(const struct sluice_pool *pool,
				 struct sluice_pool_info *info);

/* index counts from 0; -ENOENT past the last segment. */
SLUICE_API int sluice_pool_segment(const struct sluice_pool *pool,
				   unsigned int index,
				   struct sluice_segment_info *info);

/* Connections ------------------------------------------------------------- */

#define SLUICE_LANE_PLAIN 0 /* the peer is plain: payload is copied */
#define SLUICE_LANE_QUEUED 1
#define SLUICE_LANE_DIRECT 2
#define SLUICE_LANE_STEERED 3

#define SLUICE_F_AWARE 0x1u /* from_fd: the peer is aware, HELLO goes out now */
#define SLUICE_F_REQUIRE_AWARE 0x2u /* connect: a plain peer is an error */
#define SLUICE_F_PLAIN 0x4u /* be plain: bind no name, send no HELLO */
#define SLUICE_F_NO_DIRECT 0x8u /* offer no link: the queued lane only */
#define SLUICE_F_MAP_HUGE 0x10u /* map a peer's segments on huge pages */
/*
 * Receive in the steered lane: a BPF program that sluiced attaches puts what
 * the peer sends, plain or aware, where this side finds it without a system
 * call. Without sluiced, or if it refuses, messages come through the socket and
 * sluice_conn_info() says why.
 */
#define SLUICE_F_STEER 0x20u

#define SLUICE_SPIN_DEFAULT_NS 20000
#define SLUICE_SPIN_FOREVER UINT64_MAX

struct sluice_options {
	size_t size;
	uint32_t flags; /* SLUICE_F_* */
	uint32_t ring_slots; /* power of two, 16 to 65536; default 256 */
	/*
	 * Buffers of the peer that may be held here at once, unreleased: 16 to
	 * 65536; default 256. The sender gets -EAGAIN past it.
	 */
	uint32_t hold_limit;
	uint32_t first_position; /* of both rings; for tests of the wrap */
	/*
	 * How long a wait spins before it sleeps, ns. SPIN_FOREVER never sleeps.
	 * Default 20,000; no_spin = 1 sleeps at once.
	 */
	uint64_t spin_ns;
	uint64_t map_limit; /* bytes of the peer's to map; default 1 GiB */
	/*
	 * connect: how long to wait for the server's HELLO, ns. Default 0: the
	 * connection starts plain and turns aware when the HELLO arrives. With
	 * REQUIRE_AWARE the default is 1 s, then -EPROTONOSUPPORT.
	 */
	int64_t aware_timeout_ns;
	/* From sluice_pool_new(), for many conns; NULL: one of the conn's own. */
	struct sluice_pool *pool;
	const struct sluice_pool_options *pool_options; /* for its own pool */
	uint32_t no_spin;
	uint32_t backlog; /* listen: default 128 */
	/*
	 * From sluice_endpoint_new(), for many conns (implies F_STEER). NULL with
	 * F_STEER: one of the conn's own; a listener has one for all it accepts.
	 */
	struct sluice_endpoint *endpoint;
	const struct sluice_endpoint_options *endpoint_options; /* for its own */
	uint32_t ring; /* of the endpoint, from 0 */
	uint32_t resv; /* 0 */
};

/*
 * Names: "@x" is an abstract name, anything else a path. A path that a
 * dead server left behind is replaced; one in use is -EADDRINUSE.
 * -ENAMETOOLONG over 107 bytes. The listener hands `options` on to the conns it
 * accepts (a pool in it must outlive the listener).
 */
SLUICE_API int sluice_listen(struct sluice_listener **listener,
			     const char *name,
			     const struct sluice_options *options);
/* Readable when there is a client to accept; O_NONBLOCK. */
SLUICE_API int sluice_listener_fd(const struct sluice_listener *listener);
/* Closes the socket and unlinks its path. */
SLUICE_API void sluice_listener_close(struct sluice_listener *listener);

/*
 * Waits up to timeout for a client (-EAGAIN: none). An aware client is sent
 * HELLO; a plain one never notices.
 */
SLUICE_API int sluice_accept(struct sluice_listener *listener,
			     struct sluice_conn **conn, int64_t timeout_ns);

/*
 * Becomes a backend of a service of sluiced, whose configuration says who may:
 * [service NAME] in sluiced.conf(5). The listener works as any other one: what
 * sluice_accept() makes of it are the clients' own sockets, SEQPACKET (plain or
 * aware clients), or STREAM or DGRAM (plain). Clients that were not accepted go to
 * another backend when this one closes or dies. While sluiced is away, nobody comes;
 * it is called once a second, from sluice_accept(). The control socket is that of
 * options.endpoint_options.
 *
 * With SLUICE_F_STEER a STREAM conn of a service that has landing is steered once
 * its socket has been read empty: pieces of the stream are received in place, any
 * size up to 32 KiB. It has two fds more. steer_error of sluice_conn_info() then is
 * 0; -EAGAIN: it has not been found empty; -EBUSY: its client sent while it was
 * attached, so it is received by recv(), and -ESHUTDOWN: since its client has ended
 * its receiving; -EPROTOTYPE: the service has no landing. If sluiced is killed while
 * it attaches one, that conn ends with -ECONNABORTED.
 *
 * -ENOENT: no such service, or, as -ECONNREFUSED, no sluiced; -EACCES: not for this
 * user; -ESHUTDOWN: it drains; -ETIMEDOUT: it did not answer within 5 s.
 */
SLUICE_API int sluice_service_bind(struct sluice_listener **listener,
				   const char *name,
				   const struct sluice_options *options);

/*
 * Asks sluiced to account for an io_uring of this process (bpf/uring.bpf.c): how long
 * its doorbells take, what is in flight on pools. `sluicectl uring` shows it. Returns
 * an fd, which is the caller's: the ring is followed until that is closed in all
 * processes that have it, or the ring is. control: the control socket; NULL: that of
 * $SLUICE_CONTROL, or the default.
 *
 * Doorbells are polls, reads and receives with (user_data & mask) == match; pool
 * operations those on buffer_count registered buffers from buffer_first on.
 *
 * -EBADF: no ring; -EINVAL: match has other bits than mask, more than 65536 buffers;
 * -EPERM: another user's ring; -EALREADY: it is followed; -EDQUOT; -EOPNOTSUPP: this
 * kernel or this sluiced cannot; -ENOENT, -ECONNREFUSED: no sluiced; -ETIMEDOUT: it did
 * not answer within 5 s.
 */
SLUICE_API int sluice_uring_follow(const char *control, int ring_fd,
				   uint64_t match, uint64_t mask,
				   uint32_t buffer_first,
				   uint32_t buffer_count);

/*
 * -ECONNREFUSED, -ENOENT: nobody listens. Blocks while the server's backlog is
 * full. -EINTR: a signal came while it waited.
 */
SLUICE_API int sluice_connect(struct sluice_conn **conn, const char *name,
			      const struct sluice_options *options);

/* Two connected aware endpoints in one process, for threads and tests. */
SLUICE_API int sluice_pair(struct sluice_conn *conn[2],
			   const struct sluice_options *options);

/*
 * Makes an endpoint of a connected SEQPACKET socket: inherited, passed, one end
 * of socketpair(), or accepted by the caller. The conn owns fd on success only.
 * With SLUICE_F_AWARE this side says that the peer is aware; both may. Without,
 * names decide as for connect and accept. -EPROTOTYPE: not such a socket.
 *
 * A SOCK_DGRAM socket does too, if it and its peer are connected to each other;
 * such a conn is plain, and never ends by itself: a closed peer shows as -EPIPE
 * when sending only. So does a connected SOCK_STREAM socket: it is plain, and a
 * stream of bytes: a message is what has come so far, and what is sent is at most
 * half of the socket's SO_SNDBUF (-EMSGSIZE).
 */
SLUICE_API int sluice_conn_from_fd(struct sluice_conn **conn, int fd,
				   const struct sluice_options *options);

/*
 * Ends this side's messages: the peer receives what was sent, then its end of
 * stream. Receiving goes on. Idempotent.
 */
SLUICE_API int sluice_conn_shutdown(struct sluice_conn *conn);

/*
 * Shuts down and frees. The peer still gets all that was sent. Views into the
 * peer's pool are gone; buffers this side still holds stay valid as long as
 * their pool, that is, end here if it was the conn's own.
 */
SLUICE_API void sluice_conn_close(struct sluice_conn *conn);

/*
 * Ends the connection with an error at once, and frees: what the peer has not
 * received yet may be lost, and it gets -EPROTO with `text` (up to 256 bytes).
 */
SLUICE_API void sluice_conn_abort(struct sluice_conn *conn, const char *text);

#define SLUICE_REASON_NONE 0 /* best lane there is */
#define SLUICE_REASON_PEER_PLAIN 1
#define SLUICE_REASON_UNDECIDED 2 /* no HELLO or HELLO_ACK has come yet */
#define SLUICE_REASON_NO_LINK 3 /* this side offers none (NO_DIRECT) */
#define SLUICE_REASON_PEER_NO_LINK 4
#define SLUICE_REASON_CHOSEN 5 /* sluice_conn_set_lane() */
#define SLUICE_REASON_STARTING 6 /* SWITCH has not been sent or seen yet */
#define SLUICE_REASON_SELF_PLAIN 7 /* SLUICE_F_PLAIN */
#define SLUICE_REASON_PEER_NO_DIRECT 8 /* it reads no ring: steered, say */
#define SLUICE_REASON_NO_SLUICED 9 /* see steer_error */
#define SLUICE_REASON_STEER_REFUSED 10 /* by sluiced; see steer_error */
#define SLUICE_REASON_STEER_LOST 11 /* sluiced has destroyed the endpoint */

SLUICE_API const char *sluice_lane_name(uint32_t lane);
SLUICE_API const char *sluice_reason_text(uint32_t reason);

struct sluice_conn_info {
	uint32_t tx_lane; /* SLUICE_LANE_* */
	uint32_t tx_reason; /* SLUICE_REASON_*: why not a better one */
	uint32_t rx_lane;
	uint32_t rx_reason;
	uint64_t features; /* SLUICE_FEAT_* of both sides */
	pid_t peer_pid; /* SO_PEERCRED: of connect(), listen() or socketpair() */
	uid_t peer_uid;
	gid_t peer_gid;
	int error; /* 0, or the -errno that ended the connection */
	const char *error_text; /* the same in words, or ""; the conn's */
	uint32_t out_buffers; /* sent, not yet released by the peer */
	uint32_t held_buffers; /* received, not yet released here */
	uint64_t mapped_bytes; /* of the peer's segments */
	uint64_t frames_sent;
	uint64_t frames_received;
	uint64_t doorbells_sent;
	uint64_t sleeps;
	int steer_error; /* 0, or why F_STEER was in vain: -errno */
	uint32_t steer_conn; /* what sluice_ring_recv() calls it, if steered */
	uint64_t steered; /* messages (parts) found in the ring */
	uint64_t spilled; /* while attached, those read from the socket */
};

SLUICE_API void sluice_conn_info(struct sluice_conn *conn,
				 struct sluice_conn_info *info);

/*
 * Chooses the lane this side sends in: QUEUED, or DIRECT (-EOPNOTSUPP when it
 * was not negotiated). Order is kept. -EAGAIN: no room for the marker now.
 */
SLUICE_API int sluice_conn_set_lane(struct sluice_conn *conn, uint32_t lane);

/* The conn's pool, for sluice_pool_info() and io_uring registration. */
SLUICE_API struct sluice_pool *sluice_conn_pool(struct sluice_conn *conn);

/*
 * All conns of the process together map at most `bytes` of peers' memory, links
 * included; default 16 GiB. A segment that a peer passes on several conns is
 * mapped once, and counts once.
 */
SLUICE_API void sluice_map_limit_set(uint64_t bytes);

/* Sending ----------------------------------------------------------------- */

/* More follows at once; ends with a send without it, or sluice_flush(). */
#define SLUICE_SEND_F_BATCH 0x1u

/* One part of a scatter list. */
struct sluice_part {
	struct sluice_buf *buf;
	uint32_t offset; /* bytes into the buffer */
	uint32_t len;
};

/*
 * All sends: 0, or -EAGAIN (ring, socket, hold_limit or pool full: nothing was
 * sent; sluice_wait(SLUICE_SEND) waits for room), -EPIPE (the peer is gone or
 * this side is shut down), -EMSGSIZE (or the peer will not map that segment of a
 * shared pool), -EINVAL, or what ended the connection: -EPROTO (the peer broke
 * the protocol, see sluice_conn_info), -EPROTONOSUPPORT (it has another major
 * version), -ENOMEM (its memory is over the limit of sluice_map_limit_set).
 * After any error the caller still has the buffer.
 *
 * In a wait set or an event loop of your own, a BATCH is published at once in
 * the direct lane; only the doorbell waits for the end of the batch.
 */

/*
 * Lends a buffer of the conn's pool: sluice_pool_loan(). Also -EAGAIN while 8 MiB
 * are out and the peer does not read: the pool grows for peers that hold what
 * they received, not for those that are slow. (In the queued lane no event tells
 * that the peer has read: there sluice_arm() and wait sets let the pool grow.)
 */
SLUICE_INLINE int sluice_loan(struct sluice_conn *conn, size_t size,
			      struct sluice_buf **buf);
/* Holds a buffer for one more send. */
SLUICE_INLINE void sluice_buf_ref(struct sluice_buf *buf);
/* Gives back a reference, such as a loan that was not sent. */
SLUICE_INLINE void sluice_buf_unref(struct sluice_buf *buf);

/* Sends the first len bytes of buf, taking over the caller's reference. */
SLUICE_INLINE int sluice_send_buf(struct sluice_conn *conn,
				  struct sluice_buf *buf, uint32_t len,
				  uint64_t tag, uint32_t flags);

/*
 * Sends count (1 to 64) parts as one message, taking over one reference per
 * part. All or nothing.
 */
SLUICE_API int sluice_send_parts(struct sluice_conn *conn,
				 const struct sluice_part *parts,
				 unsigned int count, uint64_t tag,
				 uint32_t flags);

/*
 * Copies: up to 32 bytes into the slot, more into a buffer of the pool; from
 * 1 MiB on past the cache, where the CPU can.
 */
SLUICE_INLINE int sluice_send(struct sluice_conn *conn, const void *data,
			      size_t len, uint64_t tag, uint32_t flags);

/* Ends a batch: queued frames go out, a sleeping peer is rung. */
SLUICE_API int sluice_flush(struct sluice_conn *conn);

/* Receiving --------------------------------------------------------------- */

#define SLUICE_MSG_F_MORE SLUICE_SLOT_F_MORE /* the next msg continues this */

/* A received message. Fields from `id` on are the library's. */
struct sluice_msg {
	uint64_t tag;
	uint32_t len;
	uint32_t flags; /* SLUICE_MSG_F_* */
	uint32_t id;
	uint16_t segment;
	uint8_t kind;
	uint8_t resv;
	const void *view;
	uint8_t inline_data[SLUICE_INLINE_MAX];
};

/*
 * Payload of a message. Inline payload lies in *msg itself, so the pointer goes
 * with that struct; else it points into the peer's pool, or the landing pool,
 * until the release.
 */
SLUICE_INLINE const void *sluice_msg_data(const struct sluice_msg *msg);

/*
 * Takes the next message. 1: *msg is filled. 0: the peer has closed and all it
 * sent was delivered. -EAGAIN: none now. -ECONNRESET: the peer died; all it had
 * published was delivered first. What else ended the connection: as for sends.
 * -ENOBUFS: hold_limit messages of a plain peer are held (not counting those in
 * the landing pool: when that is full, messages come through the socket).
 */
SLUICE_INLINE int sluice_recv(struct sluice_conn *conn, struct sluice_msg *msg);

/* The same for up to count messages; returns how many. */
SLUICE_INLINE int sluice_recv_batch(struct sluice_conn *conn,
				    struct sluice_msg *msgs,
				    unsigned int count);

/* The same, waiting: sluice_wait() and sluice_recv(). -ETIMEDOUT: none came. */
SLUICE_INLINE int sluice_recv_wait(struct sluice_conn *conn,
				   struct sluice_msg *msg, int64_t timeout_ns);

/*
 * Takes the next message, all parts, into data: a stable copy, released
 * already. Returns as sluice_recv(); -EMSGSIZE leaves the message, *len says
 * its size. tag may be NULL.
 */
SLUICE_API int sluice_recv_copy(struct sluice_conn *conn, void *data,
				size_t capacity, size_t *len, uint64_t *tag);

/*
 * Gives a message's buffer back to the peer, in any order, from the thread that
 * owns the conn. Nothing happens for an inline one. -EINVAL: not held.
 */
SLUICE_INLINE int sluice_release(struct sluice_conn *conn,
				 const struct sluice_msg *msg);

/* Waiting ----------------------------------------------------------------- */

#define SLUICE_RECV 0x1u /* a message, end of stream or error is there */
/* What the last -EAGAIN of a send or loan lacked is there. */
#define SLUICE_SEND 0x2u

/*
 * Waits for any of `what`: spins up to spin_ns, then sleeps. Returns what is
 * ready, or -ETIMEDOUT, or -EINTR. What the peer says on the socket queues
 * behind its messages there; if they stand in the way (4096 unread ones in the
 * queued lane, or a plain one before the HELLO_ACK), waiting for SLUICE_SEND
 * returns SLUICE_RECV: receive first.
 */
SLUICE_API int sluice_wait(struct sluice_conn *conn, uint32_t what,
			   int64_t timeout_ns);

/*
 * Event loops of your own: poll, epoll (level or edge) or io_uring poll on
 * sluice_conn_fd(). The rule:
 *   1. receive and send until -EAGAIN;
 *   2. sluice_arm(conn, what): a mask of what is ready means back to 1; 0 means
 *      the peer will now make the fd ready. It also returns, in *events, the
 *      poll events to wait for (POLLIN, and POLLOUT where the socket is full);
 *   3. sleep on the fd; when it fires, go to 1. It may fire for nothing.
 * In the direct lane -EAGAIN of a receive speaks of the ring; the end of the
 * stream may show in sluice_arm() or sluice_wait() first.
 * Only between arm and the next call on the conn does the fd tell of messages:
 * while this side is awake the direct lane is silent. One arm serves one sleep.
 * A conn that lacks a buffer of a pool shared with others: when one of those
 * fires, or a buffer is given back here, go to 1 with it too.
 * The fd stays the same. With an endpoint it is one made for this (-EMFILE), not
 * the socket; conns that share a ring all fire when one of them is sent
 * something: for many, a set is better.
 */
SLUICE_API int sluice_conn_fd(const struct sluice_conn *conn);
SLUICE_API int sluice_arm(struct sluice_conn *conn, uint32_t what,
			  short *events);

/* Wait set: thousands of conns, one call ---------------------------------- */

struct sluice_event {
	struct sluice_conn *conn;
	void *data; /* as given to add */
	uint32_t ready; /* SLUICE_RECV | SLUICE_SEND */
	int error; /* 0; of sluice/uring.h: -errno, and there is no conn */
};

/*
 * Busy conns are found by looking at their rings, idle ones sleep on their fds
 * in one epoll. A conn is in one set at most (-EEXIST), and leaves it when it
 * is closed. A conn that lacks a buffer of a shared pool hears of one that comes
 * back through any conn in the same set; conns of that pool outside do not count.
 */
SLUICE_API int sluice_set_new(struct sluice_set **set);
SLUICE_API void sluice_set_free(struct sluice_set *set); /* not its conns */
SLUICE_API int sluice_set_add(struct sluice_set *set, struct sluice_conn *conn,
			      uint32_t what, void *data);
SLUICE_API int sluice_set_change(struct sluice_set *set,
				 struct sluice_conn *conn, uint32_t what);
SLUICE_API int sluice_set_remove(struct sluice_set *set,
				 struct sluice_conn *conn);
/*
 * Fills up to count events; returns how many, 0 at the timeout, -EINTR. A conn
 * that was reported and not drained is reported again; none is starved. Spins
 * up to spin_ns before it sleeps (0: not at all).
 */
SLUICE_API int sluice_set_wait(struct sluice_set *set,
			       struct sluice_event *events, unsigned int count,
			       int64_t timeout_ns, uint64_t spin_ns);

#ifdef __cplusplus
}
#endif

#include <sluice/endpoint.h>
#include <sluice/hot.h>

#endif
