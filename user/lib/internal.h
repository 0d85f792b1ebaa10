/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the files of libsluice share.
 *
 * A conn is two pages. The first, struct sluice_conn, is what the inlines of
 * hot.h touch; it is wiped in a child of fork(). The second, struct conn_core,
 * is the rest. core_of() and conn_of() step from one to the other.
 *
 * Who calls whom, mostly: socket and hello make a conn; set and wait ask send and
 * recv, these use lane and control, and those pool, link, frame, sleep, memory.
 */
#ifndef SLUICE_INTERNAL_H
#define SLUICE_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <sluice/sluice.h>

#include "memory.h"

#define CONN_PAGE 4096u
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Connections ------------------------------------------------------------- */

enum phase {
	PHASE_PLAIN, /* the peer is plain, for good */
	PHASE_CLIENT, /* plain until a HELLO comes as the first message */
	PHASE_SERVER, /* HELLO sent, plain until the HELLO_ACK */
	PHASE_PAIR, /* HELLO sent, the first message must be HELLO or ACK */
	PHASE_AWARE,
};

/* What the last -EAGAIN of a send or loan lacked. */
enum need {
	NEED_NOTHING,
	NEED_ROOM, /* a slot of the ring */
	NEED_ID, /* the peer holds hold_limit buffers */
	NEED_BUFFER, /* of need_size, in the pool */
	NEED_SOCKET, /* room in the socket */
	NEED_PEER, /* the end of the negotiation */
};

/* In rx_held: released here, but the peer has not been told. */
#define RX_HELD_PENDING 0xffff

#define INBOX_MAX 4096 /* slots read ahead */
#define INBOX_MARK 1 /* seq of a SWITCH frame among them; its len: position */
#define INBOX_STEERED 2 /* seq of one that came by ring */

/* An epoll that is to hear of an endpoint's connection to sluiced. */
struct watcher {
	struct list link;
	int epoll_fd;
	void *data; /* of the events */
};

/* A conn in the steered lane: steer.c. */
struct steering {
	struct sluice_ring *ring; /* NULL: it is not to be steered */
	uint32_t *word; /* SLUICE_STEER_*; NULL: not attached */
	uint32_t conn; /* what slots for it carry */
	int error; /* why there is no ring, or it is not attached, or lags */
	uint32_t calls; /* endpoint.calls when it was last tried */
	bool armed; /* counted in ring.armed */
	bool told; /* the socket has something, says poll */
	bool more; /* the last slot of the ring, by an aware peer, had F_MORE */
	bool ended; /* its peer sends no more, and no program runs for it */
	uint32_t spills; /* of the ring, when the socket was looked at */
	uint32_t idle; /* finds nothing, in a row, since then */
	uint32_t next_look; /* at so many of them */
	int64_t looked; /* coarse */
	bool hashed; /* to any ring of the endpoint, which has workers */
	bool turn_noted; /* the next on the socket comes after these: */
	uint32_t turn[SLUICE_RINGS_MAX]; /* positions of the rings */
	uint32_t landing_held; /* slots, in the inbox or with the application */
	bool unread; /* the last grant ended because too many of these waited */
	int epoll_fd; /* sluice_conn_fd(): this and its socket; or -1 */
	int event_fd; /* for what another conn's call found in the ring */
	uint32_t epoll_events; /* of the socket */
	bool event_up;
	struct watcher watcher;
	uint64_t steered, spilled;
	/* STREAM: stream.c */
	int spill[2]; /* what is redirected to, what is read; or -1 */
	uint64_t spill_read; /* bytes */
	uint32_t tries,
		passed; /* to attach; chances not taken since the last */
	bool lags; /* in HOLD, for good */
};

/* Messages that are taken from a socket at once. */
#define PLAIN_BATCH 8

struct plain_message {
	void *data;
	size_t len;
};

struct conn_core {
	uint64_t generation; /* of the process that made the conn */
	int fd;
	uint32_t flags; /* SLUICE_F_* */
	enum phase phase;
	int error; /* what ended it: 0, -EPROTO, ... */
	char error_text[SLUICE_FRAME_TEXT_MAX + 64];
	bool blocking; /* the fd is: recvmsg may sleep */
	bool stream; /* the fd is: a plain stream of bytes */
	bool hello_sent;
	bool hello_due; /* a HELLO_ACK that met EAGAIN */
	bool registered; /* this process, for membarrier */
	bool closing; /* closed by the application, waits for releases */
	bool shut; /* BYE sent or due, or shutdown() done */
	bool bye_due;
	bool bye_seen;
	bool eof; /* the socket has ended */
	bool both_link; /* both sides have FEAT_LINK */
	bool peer_registered; /* the peer has FEAT_MEMBARRIER */
	bool armed;
	uint8_t traced; /* probes that the inlines make way for: trace.h */

	struct sluice_options options;
	struct sluice_hello hello; /* this side's */
	struct sluice_hello peer;
	uint64_t expect_echo; /* CLIENT: in the HELLO; SERVER: in the ACK */

	/* links */
	struct sluice_link *link;
	uint32_t link_size;
	int link_fd; /* until it is sent, else -1 */
	const struct sluice_link *peer_link;
	struct sluice_link peer_geometry; /* line 0, checked */
	struct sleep_word rx_word;
	struct sleep_word tx_word;

	/* receiving; the first three are what the hot part points to */
	uint16_t *rx_held;
	uint32_t *tx_ids;
	struct sluice_buf **tx_out;
	uint32_t rx_lane;
	const struct sluice_slot
		*rx_ring; /* in the direct lane, also after BYE */
	bool rx_switched; /* once */
	uint32_t rx_end; /* position that BYE announced */
	struct sluice_mapped *rx_segments;
	uint64_t mapped_bytes;
	struct sluice_slot *inbox; /* queued slots, a ring */
	uint32_t inbox_size, inbox_head, inbox_count;
	uint32_t idle_recvs; /* in a row, since the socket was looked at */
	uint32_t idle_position; /* of the last of them */
	uint32_t rx_framed; /* slots received that came by frame; plain messages */
	void **plain_held; /* by id: views of plain messages */
	bool plain_eof, plain_timestamps;
	bool plain_spilled; /* since the socket was empty */
	/* the next ones, taken from the socket */
	uint8_t plain_first, plain_count;
	struct plain_message plain[PLAIN_BATCH];
	size_t plain_last_len; /* of the last one, taken or not */
	void *plain_spare; /* memory for one */

	/* releasing */
	uint32_t *pending_ids; /* RELEASE frames to be sent: RX_HELD_PENDING */
	uint32_t pending_count;
	uint64_t pending_bytes;
	uint64_t ack_due[SLUICE_SEGMENTS_MAX / 64];

	/* sending */
	uint32_t tx_lane;
	uint32_t tx_framed; /* slots sent by frame; plain messages */
	bool want_direct;
	bool tx_chosen; /* by sluice_conn_set_lane() */
	uint32_t idle_sends; /* likewise */
	uint32_t idle_sent; /* position of the last of them */
	uint32_t tx_head; /* position below which the peer has consumed */
	uint32_t tx_told; /* position up to which the consumer was woken */
	uint32_t tx_last_rung; /* rx_state for which it was rung last */
	uint32_t rx_last_rung; /* tx_state likewise */
	bool doorbell_due;
	struct sluice_slot *stage; /* queued slots of a batch, DATA to be */
	uint32_t stage_count;
	uint64_t announced_bytes;
	uint32_t announced_count;
	uint32_t harvest_position; /* next entry of the peer's release ring */
	uint64_t del_due[SLUICE_SEGMENTS_MAX / 64];
	uint64_t del_sent[SLUICE_SEGMENTS_MAX / 64];
	enum need need;
	size_t need_size; /* slots, ids or bytes */
	bool window_full; /* NEED_BUFFER, and the pool might grow */
	bool window_waived;

	struct pool *pool;
	struct list pool_link; /* in pool.conns or pool.closing */
	struct list waiter_link; /* in pool.waiters, while it is armed for that */

	/* the set it is in */
	struct sluice_set *set;
	struct list set_link;
	void *set_data;
	uint32_t set_want;
	uint32_t set_events; /* registered with epoll */
	bool set_idle; /* in the set's idle list */
	bool set_active; /* it had something since the last turn */
	bool set_other; /* counted in the set's others */

	/* in a set on the application's ring: uring.c */
	struct uring_entry *uring;
	bool ring_reads; /* a RECVMSG is at work: nobody else reads the socket */
	bool draining; /* closed by the application, but for `flight` */
	bool fd_kept; /* requests name the fd: it is closed after the last one */
	struct flight *flight; /* a frame that was accepted and not sent yet */

	struct steering steer;

	uint64_t frames_sent, frames_received, doorbells_sent, sleeps;
	struct ucred credentials;
};

static inline struct conn_core *core_of(const struct sluice_conn *conn)
{
	return (struct conn_core *)((char *)(uintptr_t)conn + CONN_PAGE);
}

static inline struct sluice_conn *conn_of(const struct conn_core *core)
{
	return (struct sluice_conn *)((char *)(uintptr_t)core - CONN_PAGE);
}

/* Ids that are outstanding at the peer. */
static inline uint32_t conn_out(const struct conn_core *core)
{
	return core->tx_out ?
		       core->peer.hold_limit - conn_of(core)->tx_id_count :
		       0;
}

static inline bool bit_get(const uint64_t *bits, uint32_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

static inline void bit_set(uint64_t *bits, uint32_t i)
{
	bits[i / 64] |= 1ull << (i % 64);
}

static inline void bit_clear(uint64_t *bits, uint32_t i)
{
	bits[i / 64] &= ~(1ull << (i % 64));
}

/* 0, or why nothing can be done with the conn here: -ECHILD. */
static inline int conn_check(const struct conn_core *core)
{
	return core->generation == process_generation() ? 0 : -ECHILD;
}

/* conn.c ------------------------------------------------------------------ */

/*
 * Copies a size-first option struct, at most `size` bytes of it. -EINVAL: no
 * size; -E2BIG: it sets what this library does not know.
 */
int options_copy(void *out, size_t size, const void *in);
int options_read(struct sluice_options *out, const struct sluice_options *in);
int conn_new(struct sluice_conn **conn, const struct sluice_options *options);
/* Frees all at once; buffers in flight come back. */
void conn_destroy(struct sluice_conn *conn);
/* Ends the conn with an error, and tells an aware peer. Returns error. */
int conn_fail(struct sluice_conn *conn, int error, const char *text);
/*
 * The peer is gone, or only waits for releases (a closed conn on a shared
 * pool): its ids come back, views stay and can be released.
 */
void conn_peer_gone(struct sluice_conn *conn);

/* trace.c ----------------------------------------------------------------- */

/*
 * Leads the inlines past the library, as far as the state of the conn and probes
 * let them. After each change that opens a way; those that close one do it at once.
 */
void hot_open(struct sluice_conn *conn);

/* socket.c ---------------------------------------------------------------- */

/* Of a name as sluice_listen() takes it. -EINVAL, -ENAMETOOLONG. */
int address_of(const char *name, struct sockaddr_un *address, socklen_t *size);

/* hello.c ----------------------------------------------------------------- */

bool name_parse(const struct sockaddr_un *address, socklen_t size,
		uint64_t *number);
int name_bind(int fd, uint64_t *number);
/* Finds out the phase of a connected socket, and speaks first if that is due. */
int hello_start(struct sluice_conn *conn, uint64_t bound);
/*
 * Reads the socket while the phase is not settled. 1: a plain message, or the
 * end, is next there; 0: nothing (more) to do now; -errno ends the connection.
 */
int hello_process(struct sluice_conn *conn);

/* frame.c ----------------------------------------------------------------- */

#define FRAME_FDS_MAX 8 /* kept; more than that are closed unseen */

/*
 * recv() has to say so often that a SEQPACKET socket has ended: it looks at the
 * queue first, and then at whether the peer has shut down; what came in between
 * is there at the second time.
 */
#define SOCKET_ENDS 2

/* A frame as received, in memory of its own. */
struct frame {
	struct sluice_frame header;
	union {
		struct sluice_hello hello;
		struct sluice_segment segment;
		struct sluice_slot slots[SLUICE_FRAME_SLOTS_MAX];
		uint32_t ids[SLUICE_FRAME_IDS_MAX];
		char text[SLUICE_FRAME_TEXT_MAX];
		uint8_t body[SLUICE_FRAME_SIZE_MAX - 8];
	} __attribute__((aligned(8)));
	size_t body_len;
	int fds[FRAME_FDS_MAX];
	unsigned int fd_count; /* how many came, kept or not */
};

/*
 * A frame that a SEND of the application's ring is to send, or was to: others wait
 * until it is on the socket.
 */
struct flight {
	size_t len;
	uint8_t data[];
};

/* 0, or -EAGAIN, -EPIPE. fd -1: none. */
int frame_send(struct sluice_conn *conn, const struct sluice_frame *header,
	       const void *body, size_t body_len, int fd);
/*
 * One message from the socket: 1, -EAGAIN, -EINTR, 0 at its end, -EPROTO if it
 * is no frame at all. flags: 0 or MSG_DONTWAIT. frame_close() afterwards.
 */
int frame_recv(struct sluice_conn *conn, struct frame *frame, int flags);
/* Sends core->flight, if there is one and no ring that will. 0, -EAGAIN. */
int frame_land(struct sluice_conn *conn);
void frame_close(struct frame *frame);
/* The fds of a message: keeps `room`, closes more. Returns how many came. */
unsigned int fds_take(struct msghdr *msg, int *fds, unsigned int room);
/* Has the peer closed, or shut down its sending side? */
bool socket_hung_up(int fd);
bool socket_writable(int fd);
/* Has the peer left any message of ours in its queue? */
bool socket_unread(int fd);

/* control.c --------------------------------------------------------------- */

/* One received frame of an aware peer. 0 or -errno. */
int control_frame(struct sluice_conn *conn, struct frame *frame);
/* Reads the socket until it is empty or the inbox is full; as hello_process(). */
int control_drain(struct sluice_conn *conn);
/* Reads it until there is something in the inbox, if that comes first. */
int control_next_data(struct sluice_conn *conn);
/*
 * Sends what met EAGAIN before; batch: and staged slots and releases. -EAGAIN if
 * it does again.
 */
int control_push(struct sluice_conn *conn, bool batch);
/* Sends the pending RELEASE frames. */
int control_releases(struct sluice_conn *conn);
void control_doorbell(struct sluice_conn *conn);

/* lane.c ------------------------------------------------------------------ */

/* Takes releases from the peer's ring. */
void conn_harvest(struct sluice_conn *conn);
/* The owner's side of a release. False: it was not outstanding. */
bool conn_take_back(struct sluice_conn *conn, uint32_t id);
/* Notes what a send or loan lacks. -EAGAIN. */
int send_lacks(struct conn_core *core, enum need need, size_t size);
/* Reads how far the peer has consumed the ring. 0, or -EPROTO. */
int send_refresh_room(struct sluice_conn *conn);
/* Is there room for count slots in the lane? 0, -EAGAIN, -errno. */
int send_room(struct sluice_conn *conn, uint32_t count);
/* Publishes slots in the ring, for which there is room. */
void send_publish(struct sluice_conn *conn, struct sluice_slot *slots,
		  uint32_t count);
/* Wakes the consumer for a batch that is published but was not rung for. */
void send_tell(struct sluice_conn *conn);
/* Sends the slots of a batch that wait for a DATA frame. */
int send_stage(struct sluice_conn *conn);
/* Sends SWITCH if the direct lane is wanted. 0, -EAGAIN, -errno. */
int send_switch(struct sluice_conn *conn);

/* send.c ------------------------------------------------------------------ */

/* Would what lacked at the last -EAGAIN be there now? */
bool send_ready(struct sluice_conn *conn);

/* recv.c ------------------------------------------------------------------ */

/* Copies slots of a DATA frame, or a mark, to the inbox; there is room. */
int inbox_put(struct sluice_conn *conn, const struct sluice_slot *slots,
	      uint32_t count);
bool inbox_has_room(struct conn_core *core);
/* As sluice__ready(), also while the inlines are led into the library. */
static inline bool slot_ready(const struct sluice_conn *conn)
{
	const struct sluice_slot *slot =
		&core_of(conn)->rx_ring[conn->rx_position & conn->rx_mask];

	/* Pairs with the release store in sluice__publish(). */
	return __atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE) ==
	       conn->rx_position + 1;
}
void inbox_pop(struct conn_core *core);
/* Is there a message, or an end to report, without looking at the socket? */
bool recv_ready(struct sluice_conn *conn);

/* plain.c ----------------------------------------------------------------- */

int plain_recv(struct sluice_conn *conn, struct sluice_msg *msg);
int plain_recv_copy(struct sluice_conn *conn, void *data, size_t capacity,
		    size_t *len);
int plain_release(struct sluice_conn *conn, const struct sluice_msg *msg);
int plain_send(struct sluice_conn *conn, const struct iovec *parts,
	       unsigned int count);
bool plain_ready(struct sluice_conn *conn);

/* plain-socket.c ---------------------------------------------------------- */

/*
 * Looks at the next message of the socket (flags MSG_PEEK), or takes it: 1 and its
 * size in *len, its first bytes in data; 0 at EOF; -EAGAIN, -errno.
 */
int plain_look(struct conn_core *core, int flags, void *data, size_t size,
	       size_t *len);
/* Takes the next ones into core->plain, which is empty: as plain_look() returns. */
int plain_fetch(struct conn_core *core);
/* A copy of a message that was taken from the socket. 1, or conn_fail()'s. */
int plain_append(struct conn_core *core, const void *from, size_t len);
/* Room of the thread's own for any message: more than the kernel lets anybody send. */
#define PLAIN_SCRATCH (8u << 20)
void *plain_scratch(void);
/* Memory of a message is no longer needed. */
void plain_buffer_give(struct conn_core *core, void *data);

/* stream.c ---------------------------------------------------------------- */

/* Has all that came been received, so that what comes next may land? */
bool stream_may_attach(struct conn_core *core);
/* Takes the spill sockets; flags: of the reply. */
void stream_attached(struct conn_core *core, const int *spill, uint32_t flags);
void stream_close(struct conn_core *core);
/* As plain_fetch(); when -EAGAIN comes without spill sockets, the conn's is next. */
int stream_fetch(struct conn_core *core);
/* Has all that was spilled been read? Says so to the program. */
bool stream_may_grant(struct conn_core *core);
/* The spill socket in an epoll, if there is one. 0 or -errno. */
int stream_watch(const struct conn_core *core, int epoll_fd, void *data);
void stream_unwatch(const struct conn_core *core, int epoll_fd);

/* steer.c ----------------------------------------------------------------- */

/*
 * Gives a new conn the ring that its options ask for. error: why there is none,
 * or 0. -EINVAL, -ECHILD.
 */
int steer_open(struct sluice_conn *conn, int error);
/* The peer is known to be plain or aware: attaches, if that is wanted. */
void steer_settle(struct sluice_conn *conn);
/* Detaches; the ring is no longer the conn's. */
void steer_close(struct sluice_conn *conn);
/* Attached? */
static inline bool steer_on(const struct conn_core *core)
{
	return core->steer.word != NULL;
}
/* 0, or why it is steered no more: -errno. */
int steer_lost(const struct conn_core *core);
/* Reads the ring. Is there anything in the inbox? Only if there is a ring. */
bool steer_pending(struct conn_core *core);
/* Are messages left to the queue? */
bool steer_holds(const struct conn_core *core);
/* Is it time to look at the socket? Always, without a ring. */
bool steer_due(struct conn_core *core);
/* Before and after each look at the socket; r: as of frame_recv(). */
void steer_before(struct conn_core *core);
void steer_after(struct sluice_conn *conn, int r);
/* May what the socket has be delivered now, as to the other rings? */
bool steer_in_turn(struct conn_core *core);
/* The next message of a plain peer, from the inbox. */
void steer_take(struct sluice_conn *conn, struct sluice_msg *msg);
int steer_release(struct sluice_conn *conn, const struct sluice_msg *msg);
void steer_arm(struct conn_core *core);
void steer_disarm(struct conn_core *core);
/* The fd of sluice_conn_fd(). -EMFILE. */
int steer_fd(struct conn_core *core);
/* Makes it fire for these poll events of the socket; as what, it returns. */
short steer_listen(struct conn_core *core, short events);
#define STEER_POLL_FDS 4
struct pollfd;
/* What a sleep is to poll besides the socket. Returns how many. */
unsigned int steer_poll_fds(struct conn_core *core, uint32_t what,
			    struct pollfd *fds);
/* After a sleep. */
void steer_polled(struct conn_core *core, const struct pollfd *fds);

/* wait.c ------------------------------------------------------------------ */

/* What of `what` is ready; looks at the socket only if look is set. */
uint32_t conn_ready(struct sluice_conn *conn, uint32_t what, bool look);
/* Back awake; does nothing to a conn that is not armed. */
void conn_disarm(struct sluice_conn *conn);
/* Is there anything that met EAGAIN, or waits for the next push? */
bool conn_is_due(const struct conn_core *core);
/* Sends what is due, if anything is. */
void conn_push(struct sluice_conn *conn);

/* set.c ------------------------------------------------------------------- */

void set_forget(struct sluice_conn *conn);
/* The conn is closed, but buffers of its pool are still to come back. */
void set_keep_closing(struct sluice_conn *conn);
/* A conn in a set is disarmed, or has been brought something. */
void set_make_hot(struct conn_core *core);
/* Its spill socket comes, or goes. */
void set_watch_stream(struct conn_core *core);
void set_unwatch_stream(struct conn_core *core);

/* uring.c ----------------------------------------------------------------- */

/*
 * For frames without fds of a conn on an application's ring: takes it to be sent by
 * the ring. 0; -EAGAIN: not now; 1: send it yourself.
 */
int uring_frame_send(struct conn_core *core, const struct sluice_frame *header,
		     const void *body, size_t body_len);
/* There is a frame on its way: the conn closes after it. False: there is none. */
bool uring_close_later(struct sluice_conn *conn);
/* The conn is to be destroyed: its requests go on to name its fd. */
void uring_keep_fd(struct conn_core *core);
void uring_listener_close(struct sluice_listener *listener);

/* uring-pool.c ------------------------------------------------------------ */

/* The segment goes: rings that know it forget it. */
void registrations_forget(struct pool *pool, uint32_t segment);
/* The pool goes, after its segments. */
void registrations_end(struct pool *pool);

#endif
