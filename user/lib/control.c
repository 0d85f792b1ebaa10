/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The socket of an aware connection: what each frame does (PROTOCOL.md section
 * 4), reading it until it is empty, and sending what met EAGAIN before.
 */
#include "internal.h"
#include "trace.h"

#include <errno.h>
#include <stdio.h>

/* Frames read in one go, so that a flood cannot keep a caller for ever. */
#define DRAIN_MAX 16384

typedef const char *handler(struct sluice_conn *conn, struct frame *frame);

/* Handlers return why the frame is a breach, or NULL. */

static const char *on_segment_add(struct sluice_conn *conn, struct frame *frame)
{
	struct conn_core *core = core_of(conn);
	const struct sluice_segment *segment = &frame->segment;
	uint32_t number = frame->header.value, count;
	bool huge = segment->flags & SLUICE_SEGMENT_F_HUGE;
	struct sluice_mapped *table;
	const char *why;
	void *address;
	int r;

	if (number >= core->hello.segment_limit)
		return "segment number is over the limit";
	if (number < conn->rx_segment_count && core->rx_segments[number].base)
		return "segment number is in use";
	if (segment->flags & ~SLUICE_SEGMENT_F_HUGE || segment->__resv)
		return "segment has unknown flags";
	if (huge && !(core->flags & SLUICE_F_MAP_HUGE))
		return "segment is on huge pages, which are not accepted";
	if (!segment->size || segment->size % CONN_PAGE)
		return "segment has a bad size";
	if (segment->size > core->options.map_limit - core->mapped_bytes)
		return "segment is over map_limit";
	if (number >= conn->rx_segment_count) {
		count = number < 8 ? 8 : SLUICE_SEGMENTS_MAX;
		table = realloc(core->rx_segments, count * sizeof(*table));
		if (!table)
			return "out of memory";
		memset(table + conn->rx_segment_count, 0,
		       (count - conn->rx_segment_count) * sizeof(*table));
		core->rx_segments = table;
		conn->rx_segments = table;
		conn->rx_segment_count = count;
	}
	r = memory_map_foreign(frame->fds[0], segment->size, huge, &address,
			       &why);
	if (r == -EPROTO)
		return why;
	if (r) {
		conn_fail(conn, r, why);
		return NULL;
	}
	core->rx_segments[number].base = address;
	core->rx_segments[number].size = segment->size;
	core->mapped_bytes += segment->size;
	return NULL;
}

static const char *on_segment_del(struct sluice_conn *conn, struct frame *frame)
{
	struct conn_core *core = core_of(conn);
	uint32_t number = frame->header.value, i;
	struct sluice_mapped *mapped;

	if (frame->header.flags & SLUICE_FRAME_F_ACK) {
		if (number >= SLUICE_SEGMENTS_MAX ||
		    !bit_get(core->del_sent, number))
			return "segment was not deleted, but acknowledged";
		bit_clear(core->del_sent, number);
		bit_clear(conn->tx_announced, number);
		core->announced_bytes -= core->pool->segments[number]->size;
		core->announced_count--;
		pool_forget(core->pool, number);
		return NULL;
	}
	if (number >= conn->rx_segment_count || !core->rx_segments[number].base)
		return "segment to delete is unknown";
	for (i = 0; i < conn->rx_hold_limit; i++)
		if (conn->rx_held[i] == number + 1)
			return "segment to delete is in use";
	mapped = &core->rx_segments[number];
	memory_unmap_foreign(mapped->base);
	core->mapped_bytes -= mapped->size;
	*mapped = (struct sluice_mapped){ 0 };
	bit_set(core->ack_due, number);
	return NULL;
}

static const char *on_data(struct sluice_conn *conn, struct frame *frame)
{
	const struct sluice_slot *last = &frame->slots[frame->header.count - 1];
	uint32_t i;

	if (core_of(conn)->bye_seen)
		return "data after bye";
	if (last->flags & SLUICE_SLOT_F_MORE)
		return "data ends in the middle of a message";
	for (i = 0; i < frame->header.count; i++)
		if (frame->slots[i].seq)
			return "slot in a frame has a seq";
	if (inbox_put(conn, frame->slots, frame->header.count))
		conn_fail(conn, -ENOMEM, "out of memory");
	if (steer_on(core_of(conn)))
		core_of(conn)->steer.spilled += frame->header.count;
	if (steer_on(core_of(conn)) && TRACE_ON(spill))
		for (i = 0; i < frame->header.count; i++)
			trace_spill(core_of(conn), frame->slots[i].len);
	return NULL;
}

static const char *on_release(struct sluice_conn *conn, struct frame *frame)
{
	uint32_t i;

	if (core_of(conn)->both_link)
		return "release by frame although there is a ring";
	for (i = 0; i < frame->header.count; i++)
		if (!conn_take_back(conn, frame->ids[i]))
			return "released id was not outstanding";
	return NULL;
}

static const char *on_switch(struct sluice_conn *conn, struct frame *frame)
{
	struct conn_core *core = core_of(conn);
	struct sluice_slot mark = { .seq = INBOX_MARK,
				    .kind = SLUICE_SLOT_SWITCH,
				    .len = frame->header.value };

	if (!core->both_link || core->bye_seen ||
	    !(core->hello.features & SLUICE_FEAT_DIRECT))
		return "switch to a ring that there is not";
	if (inbox_put(conn, &mark, 1))
		conn_fail(conn, -ENOMEM, "out of memory");
	return NULL;
}

static const char *on_doorbell(struct sluice_conn *conn, struct frame *frame)
{
	(void)frame;
	/* Perhaps for another conn of the pool, which waits for a buffer. */
	pool_wake(core_of(conn)->pool);
	return NULL;
}

static const char *on_bye(struct sluice_conn *conn, struct frame *frame)
{
	struct conn_core *core = core_of(conn);
	uint32_t ahead = frame->header.value - conn->rx_position;

	if (core->bye_seen)
		return "bye came twice";
	if (core->both_link ? ahead > conn->rx_mask + 1 :
			      !(core->peer.features & SLUICE_FEAT_LINK) &&
				      frame->header.value)
		return "bye has a wrong position";
	core->bye_seen = true;
	core->rx_end = frame->header.value;
	/* The inlines do not know where to stop. */
	conn->rx_ring = NULL;
	return NULL;
}

static const char *on_error(struct sluice_conn *conn, struct frame *frame)
{
	char text[SLUICE_FRAME_TEXT_MAX + 64];
	int n, i;

	n = snprintf(text, sizeof(text),
		     "peer says (%u): ", frame->header.value);
	for (i = 0; i < frame->header.count; i++) {
		char c = frame->text[i];

		text[n++] = c >= ' ' && c <= '~' ? c : '?';
	}
	text[n] = 0;
	conn_fail(conn, -EPROTO, text);
	return NULL;
}

static const struct frame_kind {
	handler *handle;
	uint16_t count_min, count_max;
	uint16_t element; /* bytes of each */
	uint16_t body; /* bytes before them */
	uint8_t fds;
	uint8_t flags;
	bool value; /* may be other than 0 */
} kinds[] = {
	[SLUICE_FRAME_SEGMENT_ADD] = { .handle = on_segment_add,
				       .body = sizeof(struct sluice_segment),
				       .fds = 1,
				       .value = true },
	[SLUICE_FRAME_SEGMENT_DEL] = { .handle = on_segment_del,
				       .flags = SLUICE_FRAME_F_ACK,
				       .value = true },
	[SLUICE_FRAME_DATA] = { .handle = on_data,
				.count_min = 1,
				.count_max = SLUICE_FRAME_SLOTS_MAX,
				.element = sizeof(struct sluice_slot) },
	[SLUICE_FRAME_RELEASE] = { .handle = on_release,
				   .count_min = 1,
				   .count_max = SLUICE_FRAME_IDS_MAX,
				   .element = sizeof(uint32_t) },
	[SLUICE_FRAME_SWITCH] = { .handle = on_switch, .value = true },
	[SLUICE_FRAME_DOORBELL] = { .handle = on_doorbell },
	[SLUICE_FRAME_BYE] = { .handle = on_bye, .value = true },
	[SLUICE_FRAME_ERROR] = { .handle = on_error,
				 .count_max = SLUICE_FRAME_TEXT_MAX,
				 .element = 1,
				 .value = true },
};

static const char *form_wrong(const struct frame_kind *kind,
			      const struct frame *frame)
{
	const struct sluice_frame *h = &frame->header;

	if (h->flags & ~kind->flags)
		return "frame has unknown flags";
	if (h->count < kind->count_min || h->count > kind->count_max)
		return "frame has a bad count";
	if (h->value && !kind->value)
		return "frame has a value that is not zero";
	if (frame->body_len != kind->body + (size_t)h->count * kind->element)
		return "frame has a wrong length";
	if (frame->fd_count != kind->fds)
		return "frame has a wrong number of fds";
	return NULL;
}

int control_frame(struct sluice_conn *conn, struct frame *frame)
{
	const struct sluice_frame *h = &frame->header;
	const char *wrong;

	if (h->type >= ARRAY_SIZE(kinds) || !kinds[h->type].handle) {
		if (h->type != SLUICE_FRAME_HELLO &&
		    h->type != SLUICE_FRAME_HELLO_ACK &&
		    h->flags & SLUICE_FRAME_F_IGNORABLE)
			return 0;
		return conn_fail(conn, -EPROTO, "frame has a wrong type");
	}
	wrong = form_wrong(&kinds[h->type], frame);
	if (!wrong)
		wrong = kinds[h->type].handle(conn, frame);
	if (wrong)
		conn_fail(conn, -EPROTO, wrong);
	return core_of(conn)->error;
}

static int drain(struct sluice_conn *conn, bool until_data)
{
	struct conn_core *core = core_of(conn);
	/* In the steered lane on to its end: only then is there a grant. */
	uint32_t enough = steer_on(core) ? SLUICE_FRAME_SLOTS_MAX : 1;
	struct frame frame;
	int r, i;

	core->idle_recvs = core->idle_sends = 0;
	if (core->phase != PHASE_AWARE) {
		r = hello_process(conn);
		if (r || core->phase != PHASE_AWARE)
			return r;
	}
	for (i = 0; i < DRAIN_MAX; i++) {
		if (core->error)
			return core->error;
		if (core->eof || !inbox_has_room(core) ||
		    (until_data && core->inbox_count >= enough))
			return 0;
		steer_before(core);
		r = frame_recv(conn, &frame, MSG_DONTWAIT);
		steer_after(conn, r);
		if (r == -EAGAIN || r == -EINTR)
			return 0;
		/* What the fd told of is read: it will not fire for it again. */
		conn_disarm(conn);
		if (r == 0) {
			conn_peer_gone(conn);
			return 0;
		}
		if (r < 0)
			return conn_fail(conn, r, "frame has a wrong length");
		r = control_frame(conn, &frame);
		frame_close(&frame);
	}
	return core->error;
}

int control_drain(struct sluice_conn *conn)
{
	return drain(conn, false);
}

int control_next_data(struct sluice_conn *conn)
{
	return drain(conn, true);
}

/* Header-only frames. -EPIPE is no error here: EOF will tell. */
static int push_frame(struct sluice_conn *conn, uint8_t type, uint8_t flags,
		      uint32_t value)
{
	struct sluice_frame frame = { .type = type,
				      .flags = flags,
				      .value = value };
	int r = frame_send(conn, &frame, NULL, 0, -1);

	return r == -EPIPE ? 0 : r;
}

void control_doorbell(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	TRACE(doorbell, core, TRACE_SELF(core), TRACE_PEER(core));
	core->doorbells_sent++;
	core->doorbell_due = push_frame(conn, SLUICE_FRAME_DOORBELL, 0, 0) ==
			     -EAGAIN;
}

static int push_bits(struct sluice_conn *conn, uint64_t *due, uint64_t *done,
		     uint8_t flags)
{
	uint32_t i;
	int r;

	for (i = 0; i < SLUICE_SEGMENTS_MAX; i++) {
		if (!due[i / 64]) {
			i |= 63;
			continue;
		}
		if (!bit_get(due, i))
			continue;
		r = push_frame(conn, SLUICE_FRAME_SEGMENT_DEL, flags, i);
		if (r)
			return r;
		bit_clear(due, i);
		if (done)
			bit_set(done, i);
	}
	return 0;
}

int control_releases(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct sluice_frame frame = { .type = SLUICE_FRAME_RELEASE };
	int r;

	while (core->pending_count) {
		uint32_t n = core->pending_count;

		if (n > SLUICE_FRAME_IDS_MAX)
			n = SLUICE_FRAME_IDS_MAX;
		frame.count = (uint16_t)n;
		r = frame_send(conn, &frame,
			       core->pending_ids + core->pending_count - n,
			       n * sizeof(uint32_t), -1);
		if (r == -EPIPE)
			r = 0;
		if (r)
			return r;
		while (n--)
			core->rx_held[core->pending_ids[--core->pending_count]] =
				0;
	}
	core->pending_bytes = 0;
	return 0;
}

int control_push(struct sluice_conn *conn, bool batch)
{
	struct conn_core *core = core_of(conn);
	int r = 0;

	if (core->error)
		return core->error;
	if (core->eof) {
		control_releases(conn);
		return 0;
	}
	r = frame_land(conn);
	if (!r && core->hello_due) {
		r = hello_process(conn);
		if (!r && core->hello_due)
			r = -EAGAIN;
	}
	if (!r && core->doorbell_due) {
		r = push_frame(conn, SLUICE_FRAME_DOORBELL, 0, 0);
		core->doorbell_due = r == -EAGAIN;
	}
	if (!r)
		r = push_bits(conn, core->ack_due, NULL, SLUICE_FRAME_F_ACK);
	if (!r)
		r = push_bits(conn, core->del_due, core->del_sent, 0);
	if (!r && (batch || core->bye_due)) {
		r = send_stage(conn);
		if (!r)
			r = control_releases(conn);
	}
	if (!r && core->bye_due) {
		r = push_frame(conn, SLUICE_FRAME_BYE, 0,
			       core->link ? conn->tx_position : 0);
		core->bye_due = r == -EAGAIN;
	}
	return r;
}
