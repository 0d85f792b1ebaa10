/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The sending half outside of the inlines: announcing segments, ids, loans,
 * and what a send waits for.
 *
 * One path for all: the caller's message becomes up to 64 slots, and
 * send_message() sends all of them or none.
 */
#include "internal.h"
#include "trace.h"

#include <errno.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif
#include <sys/uio.h>
#include <unistd.h>

/*
 * While this much is out, and the peer has not read all, a loan waits rather
 * than grows the pool: more would only fall out of the cache. A guess.
 */
#define UNREAD_WINDOW (8ull << 20)

/* Failed sends between two looks at the socket, for EOF. */
#define SENDS_PER_LOOK 64

/*
 * Copies of this size and more bypass the cache: plain stores would first fetch
 * lines that the reader's cache still holds. Measured between two cores (Zen 5):
 * 4.3 times memcpy() at 1 MiB, which below that does about as well by itself.
 */
#define STREAM_COPY (1u << 20)

/* data is 64-byte aligned. */
static void copy_in(uint8_t *data, const uint8_t *from, size_t len)
{
#ifdef __SSE2__
	size_t i;

	if (len >= STREAM_COPY) {
		for (; len >= 64; len -= 64, data += 64, from += 64)
			for (i = 0; i < 64; i += 16)
				_mm_stream_si128(
					(__m128i *)(data + i),
					_mm_loadu_si128(
						(const __m128i *)(from + i)));
		/*
		 * No release store waits for these stores: without the fence
		 * the slot could be seen before its payload.
		 */
		_mm_sfence();
	}
#endif
	memcpy(data, from, len);
}

/* Makes the peer map the segment of a buffer that is about to be sent. */
static int announce(struct sluice_conn *conn, const struct sluice_buf *buf)
{
	struct conn_core *core = core_of(conn);
	struct segment *segment = core->pool->segments[buf->segment];
	struct sluice_frame frame = { .type = SLUICE_FRAME_SEGMENT_ADD,
				      .value = buf->segment };
	struct sluice_segment body = {
		.size = segment->size,
		.flags = segment->huge ? SLUICE_SEGMENT_F_HUGE : 0,
	};
	int r;

	if (bit_get(conn->tx_announced, buf->segment))
		return 0;
	if (buf->segment >= core->peer.segment_limit ||
	    segment->size > core->peer.map_limit - core->announced_bytes)
		return -EMSGSIZE;
	r = frame_send(conn, &frame, &body, sizeof(body), segment->fd);
	if (r)
		return r == -EAGAIN ? send_lacks(core, NEED_SOCKET, 0) : r;
	bit_set(conn->tx_announced, buf->segment);
	core->announced_bytes += segment->size;
	core->announced_count++;
	segment->announced++;
	if (!core->pool->shared) {
		close(segment->fd); /* nobody else will need it */
		segment->fd = -1;
	}
	return 0;
}

/* May anything be sent now? Settles the phase, and tries the better lane. */
static int send_begin(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int r = conn_check(core);

	if (r)
		return r;
	trace_follow(conn);
	core->need = NEED_NOTHING;
	if (core->error)
		return core->error;
	if (core->shut)
		return -EPIPE;
	if (core->phase != PHASE_AWARE) {
		r = hello_process(conn);
		if (r < 0)
			return r;
	}
	if (core->eof)
		return -EPIPE;
	switch (core->phase) {
	case PHASE_SERVER:
	case PHASE_PAIR:
		return send_lacks(core, NEED_PEER, 0);
	case PHASE_AWARE:
		r = control_push(conn, false);
		/* It may go into the stage behind a frame on its way. */
		if (r == -EAGAIN && core->flight && !core->want_direct)
			return 0;
		if (!r)
			r = send_switch(conn);
		if (r == -EAGAIN)
			r = core->tx_lane == SLUICE_LANE_DIRECT ?
				    0 :
				    send_lacks(core, NEED_SOCKET, 0);
		return r;
	default:
		return 0;
	}
}

/* bufs[i] is the buffer of slots[i], or NULL for an inline one. */
static int send_message(struct sluice_conn *conn, struct sluice_slot *slots,
			struct sluice_buf **bufs, uint32_t count,
			uint32_t flags)
{
	struct conn_core *core = core_of(conn);
	bool direct = core->tx_lane == SLUICE_LANE_DIRECT;
	uint32_t i, ids = 0, mark;
	int r;

	for (i = 0; i < count; i++) {
		if (!bufs[i])
			continue;
		ids++;
		r = announce(conn, bufs[i]);
		if (r)
			return r;
	}
	if (ids > core->peer.hold_limit)
		return -EMSGSIZE;
	if (ids > conn->tx_id_count) {
		conn_harvest(conn);
		if (core->error)
			return core->error;
		if (core->eof)
			return -EPIPE;
		if (ids > conn->tx_id_count)
			return send_lacks(core, NEED_ID, ids);
	}
	r = send_room(conn, count);
	if (r)
		return r;
	for (i = 0; i < count; i++) {
		if (!bufs[i])
			continue;
		slots[i].buffer.id = conn->tx_ids[--conn->tx_id_count];
		conn->tx_out[slots[i].buffer.id] = bufs[i];
	}
	if (TRACE_ON(send))
		trace_send(conn, slots, bufs, count);
	if (direct) {
		send_publish(conn, slots, count);
		if (!(flags & SLUICE_SEND_F_BATCH))
			sluice_wake_consumer(conn);
		return 0;
	}
	mark = core->stage_count;
	memcpy(core->stage + mark, slots, count * sizeof(*slots));
	core->stage_count += count;
	core->tx_framed += count;
	if (flags & SLUICE_SEND_F_BATCH) {
		if (core->uring)
			set_make_hot(core); /* which sends it */
		return 0;
	}
	r = send_stage(conn);
	if (!r)
		return 0;
	/* What was staged before has been accepted; this message has not. */
	core->stage_count = mark;
	core->tx_framed -= count;
	for (i = count; i-- > 0;) {
		if (!bufs[i])
			continue;
		conn->tx_out[slots[i].buffer.id] = NULL;
		conn->tx_ids[conn->tx_id_count++] = slots[i].buffer.id;
	}
	return r == -EAGAIN ? send_lacks(core, NEED_SOCKET, 0) : r;
}

/* Every now and then a send that fails looks whether the peer is still there. */
static int send_end(struct sluice_conn *conn, int r)
{
	struct conn_core *core = core_of(conn);

	if (r != -EAGAIN || core->phase != PHASE_AWARE)
		return r;
	if (core->idle_sent != conn->tx_position)
		core->idle_sends = 0;
	core->idle_sent = conn->tx_position;
	if (++core->idle_sends % SENDS_PER_LOOK)
		return r;
	control_drain(conn);
	if (core->error)
		return core->error;
	return core->eof ? -EPIPE : r;
}

static void slot_for_part(struct sluice_slot *slot,
			  const struct sluice_buf *buf, uint32_t offset,
			  uint32_t len, uint64_t tag)
{
	*slot = (struct sluice_slot){
		.len = len,
		.kind = SLUICE_SLOT_BUFFER,
		.segment = buf->segment,
		.offset = buf->offset + offset,
		.tag = tag,
	};
}

int sluice_send_buf_slow(struct sluice_conn *conn, struct sluice_buf *buf,
			 uint32_t len, uint64_t tag, uint32_t flags)
{
	const struct sluice_part part = { .buf = buf, .len = len };

	return sluice_send_parts(conn, &part, 1, tag, flags);
}

int sluice_send_parts(struct sluice_conn *conn, const struct sluice_part *parts,
		      unsigned int count, uint64_t tag, uint32_t flags)
{
	struct conn_core *core = core_of(conn);
	struct sluice_slot slots[SLUICE_PARTS_MAX];
	struct sluice_buf *bufs[SLUICE_PARTS_MAX];
	struct iovec iov[SLUICE_PARTS_MAX];
	unsigned int i;
	int r;

	r = conn_check(core);
	if (r)
		return r;
	if (!count || count > SLUICE_PARTS_MAX || flags & ~SLUICE_SEND_F_BATCH)
		return -EINVAL;
	for (i = 0; i < count; i++) {
		const struct sluice_part *p = &parts[i];

		if (p->buf->pool != &core->pool->hot || !p->buf->refs ||
		    p->offset > p->buf->capacity ||
		    p->len > p->buf->capacity - p->offset)
			return -EINVAL;
		bufs[i] = p->buf;
		slot_for_part(&slots[i], p->buf, p->offset, p->len, tag);
		if (i + 1 < count)
			slots[i].flags = SLUICE_SLOT_F_MORE;
		iov[i].iov_base = (uint8_t *)p->buf->data + p->offset;
		iov[i].iov_len = p->len;
	}
	r = send_begin(conn);
	if (r)
		return send_end(conn, r);
	if (core->phase == PHASE_AWARE)
		return send_end(conn,
				send_message(conn, slots, bufs, count, flags));
	r = plain_send(conn, iov, count);
	if (!r)
		for (i = 0; i < count; i++)
			sluice_buf_unref(bufs[i]);
	return r;
}

int sluice_send_slow(struct sluice_conn *conn, const void *data, size_t len,
		     uint64_t tag, uint32_t flags)
{
	struct conn_core *core = core_of(conn);
	struct sluice_slot slot = { .kind = SLUICE_SLOT_INLINE, .tag = tag };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data,
			     .iov_len = len };
	struct sluice_buf *buf = NULL;
	int r;

	if (flags & ~SLUICE_SEND_F_BATCH)
		return -EINVAL;
	if (len > UINT32_MAX)
		return -EMSGSIZE;
	r = send_begin(conn);
	if (r)
		return send_end(conn, r);
	if (core->phase != PHASE_AWARE)
		return plain_send(conn, &iov, 1);
	if (len <= SLUICE_INLINE_MAX) {
		slot.len = (uint32_t)len;
		if (len)
			memcpy(slot.inline_data, data, len);
		return send_end(conn,
				send_message(conn, &slot, &buf, 1, flags));
	}
	r = sluice_loan(conn, len, &buf);
	if (r)
		return send_end(conn, r);
	/* Looking for buffers may have found a breach, or the end. */
	if (core->error || core->eof) {
		sluice_buf_unref(buf);
		return core->error ? core->error : -EPIPE;
	}
	copy_in(buf->data, data, len);
	slot_for_part(&slot, buf, 0, (uint32_t)len, tag);
	r = send_end(conn, send_message(conn, &slot, &buf, 1, flags));
	if (r)
		sluice_buf_unref(buf);
	return r;
}

/* Has the peer still to read what was sent, but for what may be in its hands? */
static bool peer_is_behind(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	if (core->tx_lane == SLUICE_LANE_DIRECT)
		return !send_refresh_room(conn) &&
		       conn->tx_position - core->tx_head >= 2;
	return core->stage_count || socket_unread(core->fd);
}

/* Is UNREAD_WINDOW out? A peer that has read everything may hold more. */
static bool much_is_out(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint64_t bytes = 0;
	uint32_t id;

	if (!conn_out(core) || core->eof || core->window_waived)
		return false;
	for (id = 0; id < core->peer.hold_limit; id++)
		if (conn->tx_out[id])
			bytes += conn->tx_out[id]->capacity;
	return bytes >= UNREAD_WINDOW;
}

int sluice_loan_slow(struct sluice_conn *conn, size_t size,
		     struct sluice_buf **buf)
{
	struct conn_core *core = core_of(conn);
	int r = conn_check(core);
	bool behind;

	if (r)
		return r;
	trace_follow(conn);
	core->need = NEED_NOTHING;
	r = pool_take(core->pool, size, false, buf);
	if (r != -EAGAIN)
		return r;
	/* In this order: what a peer released before it read all is not out. */
	behind = much_is_out(conn) && peer_is_behind(conn);
	pool_harvest(core->pool);
	if (core->error)
		return core->error;
	core->window_full = behind && much_is_out(conn);
	r = pool_take(core->pool, size, !core->window_full, buf);
	return r == -EAGAIN ? send_lacks(core, NEED_BUFFER, size) : r;
}

int sluice_flush(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	int r = conn_check(core);

	if (r)
		return r;
	if (core->error)
		return core->error;
	send_tell(conn);
	r = control_push(conn, true);
	return r == -EAGAIN ? send_lacks(core, NEED_SOCKET, 0) : r;
}

bool send_ready(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct sluice_buf *buf;
	uint32_t room;

	if (core->error || core->eof || core->shut)
		return true;
	switch (core->need) {
	case NEED_ROOM:
		room = (conn->tx_mask + 1) / 4;
		if (room < core->need_size)
			room = (uint32_t)core->need_size;
		return send_refresh_room(conn) ||
		       conn->tx_limit - conn->tx_position >= room;
	case NEED_ID:
		conn_harvest(conn);
		return conn->tx_id_count >= core->need_size;
	case NEED_BUFFER:
		if (core->phase == PHASE_PLAIN && socket_hung_up(core->fd))
			return true;
		if (sluice_loan_slow(conn, core->need_size, &buf))
			return core->need != NEED_BUFFER;
		pool_untake(buf);
		return true;
	case NEED_SOCKET:
		return !core->flight && socket_writable(core->fd);
	case NEED_PEER:
		return core->phase == PHASE_AWARE || core->phase == PHASE_PLAIN;
	case NEED_NOTHING:
		break;
	}
	return true;
}
