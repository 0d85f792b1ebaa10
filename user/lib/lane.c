/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The sending lanes: slots into the ring or into DATA frames, the switch between
 * the two, room in each, and releases taken back. send.c decides what goes in.
 */
#include "internal.h"
#include "trace.h"

#include <errno.h>

int send_lacks(struct conn_core *core, enum need need, size_t size)
{
	TRACE(lacks, core, TRACE_SELF(core), (uint32_t)need, size);
	send_tell(conn_of(core));
	control_releases(conn_of(core)); /* the peer may wait for as much */
	core->need = need;
	core->need_size = size;
	return -EAGAIN;
}

static struct sluice_slot *ring_slot(struct sluice_conn *conn,
				     uint32_t position)
{
	struct sluice_link *link = core_of(conn)->link;
	struct sluice_slot *ring =
		(void *)((uint8_t *)link + link->ring_offset);

	return &ring[position & conn->tx_mask];
}

/* Releases ---------------------------------------------------------------- */

bool conn_take_back(struct sluice_conn *conn, uint32_t id)
{
	struct conn_core *core = core_of(conn);
	struct sluice_buf *buf;

	if (id >= core->peer.hold_limit || !conn->tx_out[id])
		return false;
	buf = conn->tx_out[id];
	conn->tx_out[id] = NULL;
	conn->tx_ids[conn->tx_id_count++] = id;
	sluice_buf_unref(buf);
	return true;
}

void conn_harvest(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	const struct sluice_release *ring, *entry;
	uint32_t i, id;

	if (core->phase != PHASE_AWARE || core->eof)
		return;
	if (!core->both_link) {
		if (!core->armed) /* else its fd will tell */
			control_drain(conn);
		return;
	}
	if (core->closing)
		control_drain(conn); /* nobody else looks for its EOF */
	ring = (const void *)((const uint8_t *)core->peer_link +
			      core->peer_geometry.release_offset);
	for (i = 0; i < core->peer.hold_limit; i++) {
		entry = &ring[core->harvest_position &
			      (core->peer_geometry.release_slots - 1)];
		/* Pairs with the release store in sluice_release(). */
		if (__atomic_load_n(&entry->seq, __ATOMIC_ACQUIRE) !=
		    core->harvest_position + 1)
			return;
		id = __atomic_load_n(&entry->id, __ATOMIC_RELAXED);
		core->harvest_position++;
		if (!conn_take_back(conn, id)) {
			conn_fail(conn, -EPROTO,
				  "released id was not outstanding");
			return;
		}
	}
}

/* Reads how far the peer has consumed. */
int send_refresh_room(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint32_t head;

	/*
	 * Pairs with the release store in sluice_report_head(): the peer has
	 * copied these slots before we write to them again.
	 */
	head = __atomic_load_n(&core->peer_link->rx_head, __ATOMIC_ACQUIRE) -
	       core->peer_geometry.rx_first + core->options.first_position;
	if (head - core->tx_head > conn->tx_position - core->tx_head)
		return conn_fail(conn, -EPROTO, "rx_head is out of range");
	core->tx_head = head;
	conn->tx_limit = head + conn->tx_mask + 1;
	word_spin(&core->tx_word, conn->tx_position, false);
	return 0;
}

/* Sending ----------------------------------------------------------------- */

void sluice_wake_consumer(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	uint32_t word;

	trace_follow(conn);
	core->tx_told = conn->tx_position;
	/* Pairs with the fence in words_sleep(): slot before word. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	word = __atomic_load_n(&core->peer_link->rx_state, __ATOMIC_RELAXED);
	if ((word & SLUICE_STATE_MASK) == SLUICE_STATE_ASLEEP &&
	    word != core->tx_last_rung) {
		core->tx_last_rung = word;
		control_doorbell(conn);
	} else if (core->doorbell_due) {
		control_push(conn, true);
	}
}

void send_tell(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);

	/* Only for what is new: else two idle peers would ring each other. */
	if (core->tx_lane == SLUICE_LANE_DIRECT &&
	    core->tx_told != conn->tx_position &&
	    !(core->registered && sluice__spins(&core->peer_link->rx_state)))
		sluice_wake_consumer(conn);
}

void send_publish(struct sluice_conn *conn, struct sluice_slot *slots,
		  uint32_t count)
{
	uint32_t i, position = conn->tx_position;

	for (i = count; i-- > 0;) {
		struct sluice_slot *slot = ring_slot(conn, position + i);

		memcpy((uint8_t *)slot + sizeof(slot->seq),
		       (uint8_t *)&slots[i] + sizeof(slot->seq),
		       sizeof(*slot) - sizeof(slot->seq));
		sluice__publish(slot, position + i);
	}
	conn->tx_position = position + count;
}

int send_switch(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct sluice_frame frame = { .type = SLUICE_FRAME_SWITCH,
				      .value = conn->tx_position };
	int r;

	if (!core->want_direct || core->tx_lane == SLUICE_LANE_DIRECT)
		return 0;
	r = send_stage(conn);
	if (!r)
		r = frame_send(conn, &frame, NULL, 0, -1);
	if (r)
		return r;
	core->tx_lane = SLUICE_LANE_DIRECT;
	hot_open(conn);
	return 0;
}

static int switch_back(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct sluice_slot slot = { .kind = SLUICE_SLOT_SWITCH };
	int r;

	if (conn->tx_position == conn->tx_limit) {
		r = send_refresh_room(conn);
		if (r)
			return r;
		if (conn->tx_position == conn->tx_limit)
			return send_lacks(core, NEED_ROOM, 1);
	}
	send_publish(conn, &slot, 1);
	core->tx_lane = SLUICE_LANE_QUEUED;
	conn->tx_ring = NULL;
	sluice_wake_consumer(conn);
	return 0;
}

int sluice_conn_set_lane(struct sluice_conn *conn, uint32_t lane)
{
	struct conn_core *core = core_of(conn);
	int r = conn_check(core);

	if (r)
		return r;
	if (core->error)
		return core->error;
	if (core->phase != PHASE_AWARE)
		control_drain(conn);
	if (lane != SLUICE_LANE_QUEUED && lane != SLUICE_LANE_DIRECT)
		return -EINVAL;
	if (core->phase != PHASE_AWARE)
		return lane == SLUICE_LANE_QUEUED ?
			       send_lacks(core, NEED_PEER, 0) :
			       -EOPNOTSUPP;
	if (core->shut || core->eof)
		return -EPIPE;
	if (lane == SLUICE_LANE_DIRECT) {
		if (!core->both_link ||
		    !(core->peer.features & SLUICE_FEAT_DIRECT))
			return -EOPNOTSUPP;
		core->want_direct = true;
		r = send_switch(conn);
		if (!r)
			core->tx_chosen = false;
		return r == -EAGAIN ? send_lacks(core, NEED_SOCKET, 0) : r;
	}
	r = core->tx_lane == SLUICE_LANE_DIRECT ? switch_back(conn) : 0;
	if (!r) {
		core->want_direct = false;
		core->tx_chosen = core->both_link;
	}
	return r;
}

int send_stage(struct sluice_conn *conn)
{
	struct conn_core *core = core_of(conn);
	struct sluice_frame frame = { .type = SLUICE_FRAME_DATA,
				      .count = (uint16_t)core->stage_count };
	int r;

	if (!core->stage_count)
		return 0;
	r = frame_send(conn, &frame, core->stage,
		       core->stage_count * sizeof(*core->stage), -1);
	if (r)
		return r;
	core->stage_count = 0;
	/* Not before: they would wake the peer for less than it waits for. */
	control_releases(conn);
	return 0;
}

static int room_direct(struct sluice_conn *conn, uint32_t count)
{
	struct conn_core *core = core_of(conn);
	int r;

	if (count > conn->tx_mask + 1)
		return -EMSGSIZE;
	if (conn->tx_limit - conn->tx_position >= count)
		return 0;
	r = send_refresh_room(conn);
	if (r)
		return r;
	if (conn->tx_limit - conn->tx_position >= count)
		return 0;
	return send_lacks(core, NEED_ROOM, count);
}

static int room_queued(struct sluice_conn *conn, uint32_t count)
{
	struct conn_core *core = core_of(conn);
	int r;

	if (core->stage_count + count <= SLUICE_FRAME_SLOTS_MAX)
		return 0;
	r = send_stage(conn);
	return r == -EAGAIN ? send_lacks(core, NEED_SOCKET, 0) : r;
}

int send_room(struct sluice_conn *conn, uint32_t count)
{
	return core_of(conn)->tx_lane == SLUICE_LANE_DIRECT ?
		       room_direct(conn, count) :
		       room_queued(conn, count);
}
