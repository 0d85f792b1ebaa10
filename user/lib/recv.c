/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The receiving half outside of the inlines: slots from either lane in order,
 * what is wrong with a bad one, the end of the stream, releases.
 *
 * Slots that came in DATA frames wait in the inbox, and so do SWITCH frames, as
 * marks. The socket may be read ahead of the ring: rx_lane says which of the two
 * the next message is in, and only a mark or a SWITCH slot changes that.
 */
#include "internal.h"
#include "trace.h"

#include <errno.h>

/*
 * Released bytes that a RELEASE frame does not wait for any longer: so few that
 * the sender gets buffers back which are still in a cache. A guess.
 */
#define RELEASE_BYTES (2u << 20)

/* Empty looks at the ring between two looks at the socket. */
#define RECVS_PER_LOOK 64

bool inbox_has_room(struct conn_core *core)
{
	return core->inbox_count + SLUICE_FRAME_SLOTS_MAX <= INBOX_MAX;
}

int inbox_put(struct sluice_conn *conn, const struct sluice_slot *slots,
	      uint32_t count)
{
	struct conn_core *core = core_of(conn);
	struct sluice_slot *bigger;
	uint32_t size = core->inbox_size, i;

	if (core->closing)
		return 0; /* nobody will receive them */
	while (size < core->inbox_count + count)
		size = size ? size * 2 : SLUICE_FRAME_SLOTS_MAX;
	if (size != core->inbox_size) {
		bigger = calloc(size, sizeof(*bigger));
		if (!bigger)
			return -ENOMEM;
		for (i = 0; i < core->inbox_count; i++)
			bigger[i] = core->inbox[(core->inbox_head + i) %
						core->inbox_size];
		free(core->inbox);
		core->inbox = bigger;
		core->inbox_size = size;
		core->inbox_head = 0;
	}
	for (i = 0; i < count; i++)
		core->inbox[(core->inbox_head + core->inbox_count++) % size] =
			slots[i];
	return 0;
}

static void store_head(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	conn->rx_reported = conn->rx_position;
	/* Pairs with the acquire load in send_refresh_room(). */
	__atomic_store_n(&core->link->rx_head,
			 core->link->rx_first + conn->rx_position -
				 core->peer_geometry.ring_first,
			 __ATOMIC_RELEASE);
}

void sluice_wake_producer(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint32_t word;

	trace_follow(conn);
	/* Pairs with the fence in words_sleep(): release or head before word. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	word = __atomic_load_n(&core->peer_link->tx_state, __ATOMIC_RELAXED);
	if ((word & SLUICE_STATE_MASK) == SLUICE_STATE_ASLEEP) {
		if (conn->rx_reported != conn->rx_position)
			store_head(conn);
		if (word != core->rx_last_rung) {
			core->rx_last_rung = word;
			control_doorbell(conn);
			return;
		}
	}
	if (core->doorbell_due)
		control_push(conn, false);
}

void sluice_report_head(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	trace_follow(conn);
	store_head(conn);
	word_spin(&core->rx_word, conn->rx_position, false);
	if (!core->registered || !sluice__spins(&core->peer_link->tx_state))
		sluice_wake_producer(conn);
}

/* Slots ------------------------------------------------------------------- */

static const char *slot_wrong(struct sluice_conn *conn,
			      const struct sluice_slot *slot)
{
	const struct sluice_mapped *mapped;

	if (slot->conn)
		return "slot has a conn that is not zero";
	if (slot->kind == SLUICE_SLOT_INLINE)
		return slot->len > SLUICE_INLINE_MAX ?
			       "slot has too much inline payload" :
			       "inline slot names a segment";
	if (slot->kind != SLUICE_SLOT_BUFFER)
		return "slot has an unknown kind";
	if (slot->segment >= conn->rx_segment_count ||
	    !conn->rx_segments[slot->segment].base)
		return "slot names an unknown segment";
	mapped = &conn->rx_segments[slot->segment];
	if (slot->offset > mapped->size ||
	    slot->len > mapped->size - slot->offset)
		return "slot reaches past its segment";
	if (slot->buffer.id >= conn->rx_hold_limit)
		return "slot has an id over hold_limit";
	if (conn->rx_held[slot->buffer.id])
		return "slot has an id that is held";
	return "slot has a reserved field that is not zero";
}

static bool segment_known(struct sluice_conn *conn,
			  const struct sluice_slot *slot)
{
	return slot->kind != SLUICE_SLOT_BUFFER ||
	       (slot->segment < conn->rx_segment_count &&
		conn->rx_segments[slot->segment].base);
}

/*
 * A slot of the ring whose SEGMENT_ADD may be in a CQE that was not digested, or
 * that begins a message of which that is true of another: the RECVMSG that reads
 * the socket is about to end, since the lane is direct.
 */
static bool too_early(struct sluice_conn *conn, const struct sluice_slot *slot)
{
	return core_of(conn)->ring_reads &&
	       (slot->flags || !segment_known(conn, slot));
}

/* Makes a message of a copied slot. 1 or -errno. */
static int take_slot(struct sluice_conn *conn, const struct sluice_slot *slot,
		     bool in_ring, struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);

	if (slot->flags & ~SLUICE_SLOT_F_MORE)
		return conn_fail(conn, -EPROTO, "slot has unknown flags");
	if (slot->flags & SLUICE_SLOT_F_MORE &&
	    conn->rx_parts + 1 >= SLUICE_PARTS_MAX)
		return conn_fail(conn, -EPROTO, "message has too many parts");
	if (in_ring && too_early(conn, slot))
		return -EAGAIN;
	/* The SEGMENT_ADD may still be on the socket. */
	if (in_ring && !segment_known(conn, slot) && control_drain(conn))
		return core->error;
	if (!sluice__accept(conn, slot, msg))
		return conn_fail(conn, -EPROTO, slot_wrong(conn, slot));
	conn->rx_parts = slot->flags ? conn->rx_parts + 1 : 0;
	return 1;
}

void inbox_pop(struct conn_core *core)
{
	core->inbox_head = (core->inbox_head + 1) % core->inbox_size;
	core->inbox_count--;
}

/* A SWITCH slot in the ring: the direct lane ends here. */
static int switch_to_queued(struct sluice_conn *conn, struct sluice_slot slot)
{
	static const struct sluice_slot wanted = { .kind = SLUICE_SLOT_SWITCH };
	struct conn_core *core = core_of(conn);

	slot.seq = 0;
	if (memcmp(&slot, &wanted, sizeof(slot)) || conn->rx_parts)
		return conn_fail(conn, -EPROTO, "bad switch slot");
	conn->rx_position++;
	core->rx_lane = SLUICE_LANE_QUEUED;
	core->rx_switched = true;
	conn->rx_ring = core->rx_ring = NULL;
	sluice_report_head(conn);
	return 0;
}

/* The mark of a SWITCH frame: the queued lane ends here. */
static int switch_to_direct(struct sluice_conn *conn, uint32_t position)
{
	struct conn_core *core = core_of(conn);

	if (position != conn->rx_position)
		return conn_fail(conn, -EPROTO, "switch to a wrong position");
	inbox_pop(core);
	core->rx_lane = SLUICE_LANE_DIRECT;
	core->rx_ring = (const void *)((const uint8_t *)core->peer_link +
				       core->peer_geometry.ring_offset);
	hot_open(conn);
	return 0;
}

static struct sluice_slot ring_copy(struct sluice_conn *conn, uint32_t ahead)
{
	struct sluice_slot copy =
		core_of(conn)
			->rx_ring[(conn->rx_position + ahead) & conn->rx_mask];

	/* A hostile peer may go on writing: never look at its slot again. */
	__asm__ volatile("" : : : "memory");
	return copy;
}

/* Is the next slot of the ring there, and to be delivered? */
static bool ring_ready(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	if (core->bye_seen && conn->rx_position == core->rx_end)
		return false;
	return slot_ready(conn);
}

/* There is no slot: an error if the message that was begun needs one. */
static int lacks_parts(struct sluice_conn *conn)
{
	return conn->rx_parts ?
		       conn_fail(conn, -EPROTO, "message lacks parts") :
		       0;
}

/*
 * The next slot, copied, not yet taken; marks and SWITCH slots are followed on
 * the way. 1, or 0 if none is there, or -errno.
 */
static int next_slot(struct sluice_conn *conn, struct sluice_slot *slot,
		     bool *in_ring)
{
	struct conn_core *core = core_of(conn);
	int r;

	for (;;) {
		*in_ring = core->rx_ring != NULL;
		if (*in_ring) {
			if (!ring_ready(conn))
				break;
			*slot = ring_copy(conn, 0);
			if (slot->kind != SLUICE_SLOT_SWITCH)
				return 1;
			r = switch_to_queued(conn, *slot);
		} else {
			if (!core->inbox_count)
				return lacks_parts(conn);
			*slot = core->inbox[core->inbox_head];
			if (slot->seq != INBOX_MARK)
				return 1;
			r = switch_to_direct(conn, slot->len);
		}
		if (r)
			return r;
	}
	if (lacks_parts(conn))
		return core->error;
	/* A SWITCH slot comes before the DATA that follows it. */
	if (core->inbox_count)
		return conn_fail(conn, -EPROTO, "data in the direct lane");
	return 0;
}

/* All that there was is delivered: is that the end? */
static int recv_end(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	if (core->bye_seen) {
		if (core->both_link && conn->rx_position != core->rx_end)
			return conn_fail(
				conn, -EPROTO,
				"bye announced slots that are not there");
		return 0;
	}
	return core->eof ? -ECONNRESET : -EAGAIN;
}

bool recv_ready(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct sluice_slot slot;
	bool in_ring;

	return core->error || core->bye_seen || core->eof ||
	       core->plain_count || core->plain_eof ||
	       next_slot(conn, &slot, &in_ring);
}

/*
 * Finds the next slot, looking at the socket if `look`, or if it is time to.
 * 1: *slot; else what sluice_recv() returns.
 */
static int find_slot(struct sluice_conn *conn, struct sluice_slot *slot,
		     bool *in_ring, bool look)
{
	struct conn_core *core = core_of(conn);
	bool more;
	int r;

	r = next_slot(conn, slot, in_ring);
	if (!r && steer_pending(core))
		r = next_slot(conn, slot, in_ring);
	if (r)
		return r;
	if (core->error)
		return core->error;
	if (steer_on(core) && !look && !steer_due(core))
		return recv_end(conn);
	if (conn->rx_reported != conn->rx_position)
		sluice_report_head(conn);
	/* Only looks that find nothing in a row count. */
	if (core->idle_position != conn->rx_position)
		core->idle_recvs = 0;
	core->idle_position = conn->rx_position;
	if (!look && core->rx_lane == SLUICE_LANE_DIRECT &&
	    ++core->idle_recvs % RECVS_PER_LOOK)
		return recv_end(conn);
	do {
		r = core->rx_ring ? control_drain(conn) :
				    control_next_data(conn);
		if (r)
			return r;
		/* Switches may be all that it brought: then read on. */
		more = core->inbox_count;
		/* The ring again: EOF and BYE come after what was published. */
		r = next_slot(conn, slot, in_ring);
		if (r)
			return r;
	} while (more);
	control_push(conn, true);
	return core->error ? core->error : recv_end(conn);
}

/* What comes before any slot. 1: aware and alive. */
static int recv_begin(struct sluice_conn *conn, bool *look)
{
	struct conn_core *core = core_of(conn);
	int r = conn_check(core);

	if (r)
		return r;
	trace_follow(conn);
	*look = core->armed;
	conn_disarm(conn);
	if (core->error)
		return core->error;
	if (core->phase != PHASE_AWARE) {
		r = hello_process(conn);
		if (r < 0)
			return r;
		/*
		 * Nothing was there: what comes from now on may be the HELLO.
		 * And what follows a HELLO is frames, answered or not.
		 */
		if (core->hello_due || (!r && !core->plain_count &&
					(core->phase == PHASE_CLIENT ||
					 core->phase == PHASE_SERVER)))
			return -EAGAIN;
	}
	return 1;
}

int sluice_recv_slow(struct sluice_conn *conn, struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);
	struct sluice_slot slot;
	bool in_ring, look;
	int r;

	r = recv_begin(conn, &look);
	if (r != 1)
		return r;
	if (core->phase == PHASE_PAIR)
		return recv_end(conn);
	if (core->phase != PHASE_AWARE)
		return plain_recv(conn, msg);
	r = find_slot(conn, &slot, &in_ring, look);
	if (r != 1)
		return r;
	r = take_slot(conn, &slot, in_ring, msg);
	if (r != 1)
		return r;
	if (TRACE_ON(recv))
		trace_recv(core, msg,
			   in_ring		     ? SLUICE_LANE_DIRECT :
			   slot.seq == INBOX_STEERED ? SLUICE_LANE_STEERED :
						       SLUICE_LANE_QUEUED);
	if (in_ring) {
		if (++conn->rx_position - conn->rx_reported >=
		    conn->rx_report_step)
			sluice_report_head(conn);
	} else {
		inbox_pop(core);
		core->rx_framed++;
	}
	return 1;
}

/* Bytes of the message that begins with the next slot, by all its parts. */
static uint64_t message_len(struct sluice_conn *conn, struct sluice_slot slot,
			    bool in_ring)
{
	struct conn_core *core = core_of(conn);
	uint64_t len = slot.len;
	uint32_t i;

	for (i = 1; slot.flags & SLUICE_SLOT_F_MORE && i < SLUICE_PARTS_MAX;
	     i++) {
		if (in_ring)
			slot = ring_copy(conn, i);
		else if (i < core->inbox_count)
			slot = core->inbox[(core->inbox_head + i) %
					   core->inbox_size];
		len += slot.len;
	}
	return len;
}

int sluice_recv_copy(struct sluice_conn *conn, void *data, size_t capacity,
		     size_t *len, uint64_t *tag)
{
	struct conn_core *core = core_of(conn);
	struct sluice_slot slot;
	struct sluice_msg msg;
	bool in_ring, look;
	size_t at = 0;
	int r;

	r = recv_begin(conn, &look);
	if (r != 1)
		return r;
	if (core->phase == PHASE_PAIR)
		return recv_end(conn);
	if (core->phase != PHASE_AWARE) {
		if (tag)
			*tag = 0;
		return plain_recv_copy(conn, data, capacity, len);
	}
	r = find_slot(conn, &slot, &in_ring, look);
	if (r != 1)
		return r;
	if (in_ring && too_early(conn, &slot))
		return -EAGAIN;
	*len = message_len(conn, slot, in_ring);
	if (*len > capacity)
		return -EMSGSIZE;
	if (tag)
		*tag = slot.tag;
	do {
		r = sluice_recv(conn, &msg);
		if (r != 1)
			return r;
		if (msg.len > capacity - at) /* it changed under us */
			return conn_fail(conn, -EPROTO, "message has grown");
		if (msg.len)
			memcpy((uint8_t *)data + at, sluice_msg_data(&msg),
			       msg.len);
		at += msg.len;
		sluice_release(conn, &msg);
	} while (msg.flags & SLUICE_MSG_F_MORE);
	*len = at;
	return 1;
}

/* Releases by frame, and every odd case. */
int sluice_release_slow(struct sluice_conn *conn, const struct sluice_msg *msg)
{
	struct conn_core *core = core_of(conn);
	struct sluice_release *entry;
	uint32_t position;
	int r = conn_check(core);

	if (r)
		return r;
	trace_follow(conn);
	if (msg->kind == SLUICE__MSG_PLAIN)
		return plain_release(conn, msg);
	if (msg->kind == SLUICE_SLOT_LANDING)
		return steer_release(conn, msg);
	if (msg->kind != SLUICE_SLOT_BUFFER || !core->rx_held ||
	    msg->id >= core->options.hold_limit || !core->rx_held[msg->id] ||
	    core->rx_held[msg->id] == RX_HELD_PENDING)
		return -EINVAL;
	TRACE(release, TRACE_PEER(core), trace_handle(core, msg));
	core->rx_held[msg->id] = 0;
	conn->rx_held_count--;
	if (core->error)
		return 0;
	if (core->both_link) {
		entry = (void *)((uint8_t *)core->link +
				 core->link->release_offset);
		position = conn->release_position++;
		entry += position & conn->release_mask;
		entry->id = msg->id;
		__atomic_store_n(&entry->seq, position + 1, __ATOMIC_RELEASE);
		sluice_wake_producer(conn);
		return 0;
	}
	core->rx_held[msg->id] = RX_HELD_PENDING;
	core->pending_ids[core->pending_count++] = msg->id;
	core->pending_bytes += msg->len;
	/* Half of what it may send is a good time to let the peer go on. */
	if (core->pending_count >= core->options.hold_limit / 2 ||
	    core->pending_bytes >= RELEASE_BYTES || core->bye_seen)
		control_releases(conn);
	return 0;
}
