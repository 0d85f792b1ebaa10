/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The inline half of libsluice: what runs once per message. Included by
 * sluice.h; everything here is private to it, and part of the library's ABI.
 *
 * A conn's hot part is one page that the kernel zeroes in a child of fork():
 * every pointer is NULL there, so each function below ends in its _slow half,
 * which answers -ECHILD. The same way out serves every rare case: a lane other
 * than direct, a full ring, a bad slot.
 */
#ifndef SLUICE_HOT_H
#define SLUICE_HOT_H

#include <errno.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define sluice__likely(x) __builtin_expect(!!(x), 1)

/* A received message that lies in private memory: a plain peer's. */
#define SLUICE__MSG_PLAIN 0xff

/* The pool's part that a loan touches; the rest follows in the library. */
struct sluice_pool {
	struct sluice_buf *free[SLUICE_POOL_CLASSES_MAX]; /* last freed first */
	uint32_t class_size[SLUICE_POOL_CLASSES_MAX];
	uint8_t class_of[33]; /* smallest class for 2^(n-1) < size <= 2^n */
	uint8_t class_count;
	uint32_t used; /* buffers with references */
};

/* One of the peer's segments, mapped read-only. base is NULL if unknown. */
struct sluice_mapped {
	const uint8_t *base;
	uint64_t size;
};

struct sluice_conn {
	/* receiving: the peer's ring, NULL unless this direction is direct */
	const struct sluice_slot *rx_ring;
	uint32_t rx_mask;
	uint32_t rx_position; /* next slot to consume */
	uint32_t rx_reported; /* what rx_head tells the peer */
	uint32_t rx_report_step;
	const struct sluice_mapped *rx_segments;
	uint32_t rx_segment_count; /* of the table */
	uint32_t rx_hold_limit;
	uint16_t *rx_held; /* by id: segment + 1 while a view is held, else 0 */
	uint32_t rx_held_count;
	uint32_t rx_spins; /* looks at the ring before sluice_wait() */

	/* releasing: this side's release ring, NULL when it goes by frames */
	uint32_t release_mask;
	struct sluice_release *releases;
	const struct sluice_link *peer_link;
	uint32_t release_position;

	/* sending: this side's ring, NULL unless this direction is direct */
	uint32_t tx_mask;
	struct sluice_slot *tx_ring;
	uint32_t tx_position; /* next slot to publish */
	uint32_t tx_limit; /* first position that is not free, as last seen */
	uint32_t *tx_ids; /* stack of ids that are not outstanding */
	uint32_t tx_id_count;
	uint32_t rx_parts; /* received of a message that goes on */
	struct sluice_buf **tx_out; /* by id: the buffer it names */
	struct sluice_pool *pool;
	uint64_t tx_announced[SLUICE_SEGMENTS_MAX / 64]; /* segments, bits */
};

SLUICE_API int sluice_loan_slow(struct sluice_conn *conn, size_t size,
				struct sluice_buf **buf);
SLUICE_API void sluice_buf_free(struct sluice_buf *buf);
SLUICE_API int sluice_send_slow(struct sluice_conn *conn, const void *data,
				size_t len, uint64_t tag, uint32_t flags);
SLUICE_API int sluice_send_buf_slow(struct sluice_conn *conn,
				    struct sluice_buf *buf, uint32_t len,
				    uint64_t tag, uint32_t flags);
SLUICE_API void sluice_wake_consumer(struct sluice_conn *conn);
SLUICE_API void sluice_wake_producer(struct sluice_conn *conn);
SLUICE_API void sluice_report_head(struct sluice_conn *conn);
SLUICE_API int sluice_recv_slow(struct sluice_conn *conn,
				struct sluice_msg *msg);
SLUICE_API int sluice_release_slow(struct sluice_conn *conn,
				   const struct sluice_msg *msg);

/* Loans ------------------------------------------------------------------- */

SLUICE_INLINE int sluice_loan(struct sluice_conn *conn, size_t size,
			      struct sluice_buf **buf)
{
	struct sluice_pool *pool = conn->pool;
	unsigned int log2, class_index;
	struct sluice_buf *b;

	if (sluice__likely(pool && size <= UINT32_MAX)) {
		log2 = size > 1 ? 64 - (unsigned int)__builtin_clzll(size - 1) :
				  0;
		class_index = pool->class_of[log2];
		while (class_index < pool->class_count &&
		       pool->class_size[class_index] < size)
			class_index++;
		if (sluice__likely(class_index < pool->class_count)) {
			b = pool->free[class_index];
			if (sluice__likely(b != NULL)) {
				pool->free[class_index] = b->next;
				pool->used++;
				b->refs = 1;
				*buf = b;
				return 0;
			}
		}
	}
	return sluice_loan_slow(conn, size, buf);
}

SLUICE_INLINE void sluice_buf_ref(struct sluice_buf *buf)
{
	buf->refs++;
}

SLUICE_INLINE void sluice_buf_unref(struct sluice_buf *buf)
{
	if (--buf->refs == 0)
		sluice_buf_free(buf);
}

/* Sending ----------------------------------------------------------------- */

/*
 * Publishes the slot at position: everything but seq is written. The release
 * store pairs with the acquire load in sluice_recv(); without it the consumer
 * could see the number before the payload.
 */
static inline void sluice__publish(struct sluice_slot *slot, uint32_t position)
{
	__atomic_store_n(&slot->seq, position + 1, __ATOMIC_RELEASE);
}

static inline int sluice__spins(const uint32_t *word)
{
	return (__atomic_load_n(word, __ATOMIC_RELAXED) & SLUICE_STATE_MASK) ==
	       SLUICE_STATE_SPIN;
}

/*
 * A consumer in STATE_SPIN needs no fence here: before it leaves that state its
 * membarrier supplies one (PROTOCOL.md section 8; pairs with words_sleep() in
 * user/lib/sleep.c).
 */
static inline void sluice__published(struct sluice_conn *conn)
{
	if (!sluice__likely(sluice__spins(&conn->peer_link->rx_state)))
		sluice_wake_consumer(conn);
}

SLUICE_INLINE int sluice_send(struct sluice_conn *conn, const void *data,
			      size_t len, uint64_t tag, uint32_t flags)
{
	uint32_t position = conn->tx_position;
	struct sluice_slot *slot;

	if (!sluice__likely(conn->tx_ring && len <= SLUICE_INLINE_MAX &&
			    position != conn->tx_limit &&
			    !(flags & ~SLUICE_SEND_F_BATCH)))
		return sluice_send_slow(conn, data, len, tag, flags);
	slot = &conn->tx_ring[position & conn->tx_mask];
	slot->len = (uint32_t)len;
	slot->kind = SLUICE_SLOT_INLINE;
	slot->flags = 0;
	slot->segment = 0;
	slot->conn = 0;
	slot->offset = 0;
	slot->tag = tag;
	if (sluice__likely(len == SLUICE_INLINE_MAX)) {
		memcpy(slot->inline_data, data, SLUICE_INLINE_MAX);
	} else {
		memset(slot->inline_data, 0, SLUICE_INLINE_MAX);
		if (len)
			memcpy(slot->inline_data, data, len);
	}
	sluice__publish(slot, position);
	conn->tx_position = position + 1;
	if (!(flags & SLUICE_SEND_F_BATCH))
		sluice__published(conn);
	return 0;
}

SLUICE_INLINE int sluice_send_buf(struct sluice_conn *conn,
				  struct sluice_buf *buf, uint32_t len,
				  uint64_t tag, uint32_t flags)
{
	uint32_t position = conn->tx_position;
	uint64_t known = conn->tx_announced[buf->segment / 64];
	struct sluice_slot *slot;
	uint32_t id;

	if (!sluice__likely(conn->tx_ring && position != conn->tx_limit &&
			    conn->tx_id_count && buf->pool == conn->pool &&
			    len <= buf->capacity &&
			    !(flags & ~SLUICE_SEND_F_BATCH) &&
			    known >> buf->segment % 64 & 1))
		return sluice_send_buf_slow(conn, buf, len, tag, flags);
	id = conn->tx_ids[--conn->tx_id_count];
	conn->tx_out[id] = buf;
	slot = &conn->tx_ring[position & conn->tx_mask];
	slot->len = len;
	slot->kind = SLUICE_SLOT_BUFFER;
	slot->flags = 0;
	slot->segment = buf->segment;
	slot->conn = 0;
	slot->offset = buf->offset;
	slot->tag = tag;
	memset(&slot->buffer, 0, sizeof(slot->buffer));
	slot->buffer.id = id;
	sluice__publish(slot, position);
	conn->tx_position = position + 1;
	if (!(flags & SLUICE_SEND_F_BATCH))
		sluice__published(conn);
	return 0;
}

/* Receiving --------------------------------------------------------------- */

/*
 * Judges a slot that was copied to private memory, all but its flags, and makes
 * a message of it. False: not a good slot; the slow half says why.
 */
static inline int sluice__accept(struct sluice_conn *conn,
				 const struct sluice_slot *slot,
				 struct sluice_msg *msg)
{
	const struct sluice_mapped *mapped;
	uint32_t zero;
	int i;

	if (slot->conn)
		return 0;
	msg->tag = slot->tag;
	msg->len = slot->len;
	msg->flags = slot->flags;
	msg->kind = slot->kind;
	msg->segment = slot->segment;
	msg->resv = 0;
	msg->view = NULL;
	if (slot->kind == SLUICE_SLOT_INLINE) {
		msg->id = 0;
		memcpy(msg->inline_data, slot->inline_data, SLUICE_INLINE_MAX);
		return slot->len <= SLUICE_INLINE_MAX && !slot->segment &&
		       !slot->offset;
	}
	if (slot->kind != SLUICE_SLOT_BUFFER ||
	    slot->segment >= conn->rx_segment_count)
		return 0;
	mapped = &conn->rx_segments[slot->segment];
	msg->id = slot->buffer.id;
	if (!mapped->base || slot->offset > mapped->size ||
	    slot->len > mapped->size - slot->offset ||
	    msg->id >= conn->rx_hold_limit || conn->rx_held[msg->id])
		return 0;
	for (i = 0, zero = 0; i < 7; i++)
		zero |= slot->buffer.__resv[i];
	if (zero)
		return 0;
	msg->view = mapped->base + slot->offset;
	conn->rx_held[msg->id] = (uint16_t)(slot->segment + 1);
	conn->rx_held_count++;
	return 1;
}

/* Is the next slot of the ring there? conn->rx_ring is not NULL. */
static inline int sluice__ready(const struct sluice_conn *conn)
{
	const struct sluice_slot *slot =
		&conn->rx_ring[conn->rx_position & conn->rx_mask];

	return __atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE) ==
	       conn->rx_position + 1;
}

/* Eight bytes of a slot, read once. */
typedef const volatile uint64_t __attribute__((may_alias)) sluice__word;

/*
 * Most small messages are one inline slot. Its header is read once, into
 * registers, and its payload is copied once, to where it stays.
 */
static inline int sluice__inline(const struct sluice_conn *conn,
				 const struct sluice_slot *slot,
				 struct sluice_msg *msg)
{
	/* kind, flags, segment and conn */
	const uint64_t what = *(sluice__word *)&slot->kind;
	const uint64_t offset = *(sluice__word *)&slot->offset;
	const uint32_t len = *(const volatile uint32_t *)&slot->len;

	if (what != SLUICE_SLOT_INLINE || offset || len > SLUICE_INLINE_MAX ||
	    conn->rx_parts)
		return 0;
	msg->tag = *(sluice__word *)&slot->tag;
	msg->len = len;
	msg->flags = 0;
	msg->id = 0;
	msg->segment = 0;
	msg->kind = SLUICE_SLOT_INLINE;
	msg->resv = 0;
	msg->view = NULL;
	memcpy(msg->inline_data, slot->inline_data, SLUICE_INLINE_MAX);
	__asm__ volatile("" : : : "memory");
	return 1;
}

SLUICE_INLINE int sluice_recv(struct sluice_conn *conn, struct sluice_msg *msg)
{
	const struct sluice_slot *slot;
	struct sluice_slot copy;

	if (!sluice__likely(conn->rx_ring && sluice__ready(conn)))
		return sluice_recv_slow(conn, msg);
	slot = &conn->rx_ring[conn->rx_position & conn->rx_mask];
	if (sluice__inline(conn, slot, msg)) {
		if (++conn->rx_position - conn->rx_reported >=
		    conn->rx_report_step)
			sluice_report_head(conn);
		return 1;
	}
	copy = *slot;
	/* A hostile peer may go on writing: never look at its slot again. */
	__asm__ volatile("" : : : "memory");
	if (!sluice__likely(!(copy.flags | conn->rx_parts) &&
			    sluice__accept(conn, &copy, msg)))
		return sluice_recv_slow(conn, msg);
	if (++conn->rx_position - conn->rx_reported >= conn->rx_report_step)
		sluice_report_head(conn);
	return 1;
}

SLUICE_INLINE int sluice_recv_batch(struct sluice_conn *conn,
				    struct sluice_msg *msgs, unsigned int count)
{
	unsigned int n;
	int r;

	if (!count)
		return -EINVAL;
	for (n = 0; n < count; n++) {
		r = sluice_recv(conn, &msgs[n]);
		if (r <= 0)
			return n ? (int)n : r;
	}
	return (int)n;
}

static inline void sluice__relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" : : : "memory");
#endif
}

/*
 * The answer to what was just sent is met by a short spin right here: on its way
 * through the slow half, this side would not look at the ring for longer than
 * the message takes.
 */
SLUICE_INLINE int sluice_recv_wait(struct sluice_conn *conn,
				   struct sluice_msg *msg, int64_t timeout_ns)
{
	uint32_t i;
	int r;

	for (;;) {
		for (i = timeout_ns ? conn->rx_spins : 0;
		     i && conn->rx_ring && !sluice__ready(conn); i--)
			sluice__relax();
		r = sluice_recv(conn, msg);
		if (r != -EAGAIN)
			return r;
		r = sluice_wait(conn, SLUICE_RECV, timeout_ns);
		if (r < 0)
			return r;
	}
}

SLUICE_INLINE const void *sluice_msg_data(const struct sluice_msg *msg)
{
	return msg->kind == SLUICE_SLOT_INLINE ? msg->inline_data : msg->view;
}

SLUICE_INLINE int sluice_release(struct sluice_conn *conn,
				 const struct sluice_msg *msg)
{
	struct sluice_release *entry;
	uint32_t position;

	if (msg->kind == SLUICE_SLOT_INLINE)
		return 0;
	if (!sluice__likely(conn->releases && msg->kind == SLUICE_SLOT_BUFFER &&
			    msg->id < conn->rx_hold_limit &&
			    conn->rx_held[msg->id]))
		return sluice_release_slow(conn, msg);
	conn->rx_held[msg->id] = 0;
	conn->rx_held_count--;
	position = conn->release_position++;
	entry = &conn->releases[position & conn->release_mask];
	entry->id = msg->id;
	/* Pairs with the acquire load in conn_harvest(): id before seq. */
	__atomic_store_n(&entry->seq, position + 1, __ATOMIC_RELEASE);
	/* As sluice__published(), for the producer's word. */
	if (!sluice__likely(sluice__spins(&conn->peer_link->tx_state)))
		sluice_wake_producer(conn);
	return 0;
}

#ifdef __cplusplus
}
#endif

#endif
