/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The core of steering: puts one message into its receiver's ring, and its
 * payload into the landing pool, or says why not. The gates (steer.bpf.c) find
 * the connection and know which messages must never be taken from the socket.
 *
 * Runs in the sender's send(), on any number of CPUs at once, and can be
 * preempted: no scratch memory, only the stack and what was claimed in the
 * receiver's maps. Geometry is read from the ring's header only, which is
 * frozen. What the receiver writes (head, asleep, words, landing states) is
 * taken as a hint: every index goes through a lookup that the map bounds, so a
 * lie harms the liar's own messages and nothing else.
 */
#ifndef SLUICE_BPF_STEER_BPF_H
#define SLUICE_BPF_STEER_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "compat.bpf.h"
#include "maps.bpf.h"

#define STEER_LANDING_TRIES 16 /* states looked at, per size */
#define STEER_CLAIM_TRIES 8 /* races for the tail lost to other CPUs */
#define STEER_SMALL_PER_BLOCK (SLUICE_LANDING_BLOCK / SLUICE_LANDING_SMALL)
#define STEER_BLOCKS_PER_LARGE (SLUICE_LANDING_LARGE / SLUICE_LANDING_BLOCK)
#define STEER_STATES_PER_LINE 16

/* A message on its way into a ring. */
struct message {
	struct __sk_buff *ctx;
	__u32 conn;
	__u32 ring; /* its number; hashed conns: not where their word is */
	void *slots; /* maps of that ring */
	void *control;
	struct sluice_steer_ring *geometry; /* line 0 only */
	__u32 mask; /* ring_slots - 1 */
	__u32 first; /* position claimed */
	__u32 slots_put; /* how many it became */
};

/* Finds the maps of ring m->ring. */
static __always_inline bool find_ring(struct message *m)
{
	m->slots = bpf_map_lookup_elem(&rings, &m->ring);
	m->control = bpf_map_lookup_elem(&controls, &m->ring);
	if (!m->slots || !m->control)
		return false;
	m->geometry = element(m->slots, 0);
	if (!m->geometry)
		return false;
	m->mask = m->geometry->ring_slots - 1;
	return true;
}

/* Publication ------------------------------------------------------------- */

/* The line of the ring's header that senders claim in. */
struct claim_line {
	__u32 tail;
	__u32 head_seen;
};

/*
 * Is there room, as far as senders know or, if that is too little, by what the
 * receiver says? It stores head with release order after it has copied the slots
 * below it; what comes of it here, through head_seen too, is stored after that.
 */
static __always_inline bool has_room(struct message *m, struct claim_line *line,
				     __u32 end)
{
	__u32 *head;

	if (end - LOAD(line->head_seen) <= m->mask + 1)
		return true;
	head = element(m->control, 0);
	if (!head)
		return false;
	LOAD(line->head_seen) = LOAD(*head);
	return end - LOAD(line->head_seen) <= m->mask + 1;
}

/* Claims count positions; from here on this connection's messages wait for us. */
static __always_inline __u32 claim(struct message *m, __u32 count)
{
	struct claim_line *line =
		element(m->slots,
			offsetof(struct sluice_steer_ring, tail) / STEER_LINE);
	__u32 position, seen;
	int i;

	if (!line)
		return VERDICT(pass_no_ring);
	position = LOAD(line->tail);
	for (i = 0; i < STEER_CLAIM_TRIES; i++) {
		if (!has_room(m, line, position + count))
			return VERDICT(pass_ring_full);
		seen = COMPARE_AND_SWAP(&line->tail, position,
					position + count);
		if (seen == position) {
			m->first = position;
			return 0;
		}
		position = seen;
	}
	return VERDICT(pass_contended);
}

static __always_inline struct sluice_slot *slot_at(struct message *m,
						   __u32 position)
{
	return element(m->slots, STEER_HEADER + (position & m->mask));
}

/*
 * The exchange orders the slot's other bytes before its seq (pairs with the
 * receiver's acquire of seq), and seq before our look at `asleep` (pairs with
 * the receiver's fence between its store of `asleep` and its last look).
 */
static __always_inline void publish(struct sluice_slot *slot, __u32 position)
{
	EXCHANGE(&slot->seq, position + 1);
}

static __always_inline void ring_doorbell(struct message *m)
{
	__u32 *asleep = element(m->control,
				offsetof(struct sluice_steer_control, asleep) /
					STEER_LINE);
	__u64 record = 0;
	void *doorbell;

	if (!asleep || LOAD(*asleep) != 1 ||
	    COMPARE_AND_SWAP(asleep, 1, 0) != 1)
		return;
	doorbell = bpf_map_lookup_elem(&doorbells, &m->ring);
	if (!doorbell)
		return;
	bpf_ringbuf_output(doorbell, &record, sizeof(record),
			   BPF_RB_FORCE_WAKEUP);
	count(VERDICT(doorbells), 1);
}

/* Publishes one slot; the seq in *slot does not count. */
static __always_inline __u32 put_slot(struct message *m,
				      const struct sluice_slot *slot)
{
	struct sluice_slot *to;
	__u32 verdict = claim(m, 1);

	if (verdict)
		return verdict;
	to = slot_at(m, m->first);
	if (!to)
		return VERDICT(pass_no_ring);
	__builtin_memcpy((void *)to + sizeof(to->seq),
			 (const void *)slot + sizeof(slot->seq),
			 sizeof(*slot) - sizeof(slot->seq));
	publish(to, m->first);
	return 0;
}

/* Landing ----------------------------------------------------------------- */

struct landing {
	__u32 slot; /* number */
	__u32 *state;
	__u32 block; /* element of the landing map where it starts */
	__u32 offset; /* bytes within that block */
};

static __always_inline __u32 *landing_state(struct message *m, __u32 slot)
{
	__u32 *line = element(m->control, STEER_HEADER + m->geometry->conns +
						  slot / STEER_STATES_PER_LINE);

	return line ? &line[slot % STEER_STATES_PER_LINE] : NULL;
}

/*
 * Takes one of `slots` landing slots, the first of which has number `first`:
 * its number among them, or -1. States are looked at in turn, from where the
 * last search ended; they are the receiver's, and one that lies gets its own
 * payload overwritten.
 */
static __noinline int take_landing(struct message *m, __u32 class, __u32 first,
				   __u32 slots)
{
	__u32 *cursor =
		element(m->slots, offsetof(struct sluice_steer_ring, cursor) /
					  STEER_LINE);
	__u32 start, index, *state;
	__u32 i;

	if (!cursor || class >= SLUICE_LANDING_CLASSES || !slots)
		return -1;
	start = __sync_fetch_and_add(&cursor[class], 1);
	for (i = 0; i < STEER_LANDING_TRIES && i < slots; i++) {
		index = (start + i) % slots;
		state = landing_state(m, first + index);
		if (!state)
			break;
		if (LOAD(*state) == SLUICE_LANDING_FREE &&
		    COMPARE_AND_SWAP(state, SLUICE_LANDING_FREE,
				     SLUICE_LANDING_USED) ==
			    SLUICE_LANDING_FREE) {
			if (i)
				__sync_fetch_and_add(&cursor[class], i);
			return index;
		}
	}
	__sync_fetch_and_add(&cursor[class], i);
	return -1;
}

struct copy {
	struct __sk_buff *ctx;
	void *landing;
	__u32 block;
	__u32 len;
	bool failed;
};

static long copy_block(__u32 i, void *data)
{
	struct copy *copy = data;
	__u32 done = i * SLUICE_LANDING_BLOCK;
	__u32 len = copy->len - done;
	void *to = element(copy->landing, copy->block + i);

	if (len > SLUICE_LANDING_BLOCK)
		len = SLUICE_LANDING_BLOCK;
	copy->failed = !to || !len ||
		       bpf_skb_load_bytes(copy->ctx, done, to, len);
	return copy->failed;
}

/* Copies len bytes into the landing slot: whether it worked. */
static __always_inline bool copy_payload(struct message *m,
					 const struct landing *to, __u32 len)
{
	struct copy copy = { .ctx = m->ctx, .block = to->block, .len = len };
	void *block;

	copy.landing = bpf_map_lookup_elem(&landings, &m->ring);
	if (!copy.landing)
		return false;
	if (len > SLUICE_LANDING_SMALL) {
		bpf_loop((len + SLUICE_LANDING_BLOCK - 1) /
				 SLUICE_LANDING_BLOCK,
			 copy_block, &copy, 0);
		return !copy.failed;
	}
	block = element(copy.landing, to->block);
	return block && len &&
	       to->offset <= SLUICE_LANDING_BLOCK - SLUICE_LANDING_SMALL &&
	       !bpf_skb_load_bytes(m->ctx, 0, block + to->offset, len);
}

/*
 * Takes the smallest landing slot that holds len bytes and is free: 0 and the
 * verdict of its size in *size, or a verdict that passes.
 */
static __always_inline __u32 find_landing(struct message *m, __u32 len,
					  struct landing *to, __u32 *size)
{
	__u32 small = m->geometry->landing[0] * STEER_SMALL_PER_BLOCK;
	__u32 medium = m->geometry->landing[1];
	__u32 large = m->geometry->landing[2];
	__u32 first = 0;
	int index;

	to->offset = 0;
	if (len <= SLUICE_LANDING_SMALL) {
		index = take_landing(m, 0, first, small);
		if (index >= 0) {
			to->slot = index;
			to->block = index / STEER_SMALL_PER_BLOCK;
			to->offset = index % STEER_SMALL_PER_BLOCK *
				     SLUICE_LANDING_SMALL;
			*size = VERDICT(steered_small);
			return 0;
		}
	}
	first = small;
	if (len <= SLUICE_LANDING_BLOCK) {
		index = take_landing(m, 1, first, medium);
		if (index >= 0) {
			to->slot = first + index;
			to->block = m->geometry->landing[0] + index;
			*size = VERDICT(steered_medium);
			return 0;
		}
	}
	first += medium;
	if (len <= SLUICE_LANDING_LARGE) {
		index = take_landing(m, 2, first, large);
		if (index >= 0) {
			to->slot = first + index;
			to->block = m->geometry->landing[0] + medium +
				    index * STEER_BLOCKS_PER_LARGE;
			*size = VERDICT(steered_large);
			return 0;
		}
	}
	if (large  ? len <= SLUICE_LANDING_LARGE :
	    medium ? len <= SLUICE_LANDING_BLOCK :
		     small && len <= SLUICE_LANDING_SMALL)
		return VERDICT(pass_no_landing);
	return VERDICT(pass_too_large);
}

static __always_inline __u32 steer_landing(struct message *m, __u32 len)
{
	struct sluice_slot slot = { .kind = SLUICE_SLOT_LANDING,
				    .len = len,
				    .conn = m->conn };
	struct landing to;
	__u32 verdict, size = 0, *state;

	verdict = find_landing(m, len, &to, &size);
	if (verdict)
		return verdict;
	slot.offset = (__u64)to.block * SLUICE_LANDING_BLOCK + to.offset;
	slot.buffer.id = to.slot;
	verdict = copy_payload(m, &to, len) ? put_slot(m, &slot) :
					      VERDICT(pass_no_ring);
	if (!verdict)
		return size;
	state = landing_state(m, to.slot);
	if (state)
		EXCHANGE(state, SLUICE_LANDING_FREE);
	return verdict;
}

static __always_inline __u32 steer_inline(struct message *m, __u32 len)
{
	struct sluice_slot slot = { .kind = SLUICE_SLOT_INLINE,
				    .len = len,
				    .conn = m->conn };
	__u32 verdict;

	if (len && bpf_skb_load_bytes(m->ctx, 0, slot.inline_data, len))
		return VERDICT(pass_no_ring);
	verdict = put_slot(m, &slot);
	return verdict ? verdict : VERDICT(steered_inline);
}

/* Frames of aware senders -------------------------------------------------- */

#define FRAME_SLOT(i) \
	(sizeof(struct sluice_frame) + (i) * sizeof(struct sluice_slot))

struct frame_check {
	struct __sk_buff *ctx;
	bool bad;
};

/* The first 16 bytes of a slot. */
struct slot_head {
	__u32 seq;
	__u32 len;
	__u8 kind;
	__u8 flags;
	__u16 segment;
	__u32 conn;
};

/* Whether a frame may hold such a slot, as far as the ring is concerned. */
static __always_inline bool slot_is_good(const struct slot_head *head)
{
	return !head->seq && !head->conn &&
	       !(head->flags & ~SLUICE_SLOT_F_MORE);
}

static long check_slot(__u32 i, void *data)
{
	struct frame_check *check = data;
	struct slot_head head;

	check->bad = bpf_skb_load_bytes(check->ctx, FRAME_SLOT(i), &head,
					sizeof(head)) ||
		     !slot_is_good(&head);
	return check->bad;
}

struct frame_slots {
	struct message *m;
	__u32 count;
};

/* Copies and publishes the i-th slot from the end. */
static long publish_slot(__u32 i, void *data)
{
	struct frame_slots *frame = data;
	__u32 index = frame->count - 1 - i;
	struct message *m = frame->m;
	__u32 position = m->first + index;
	struct sluice_slot *slot = slot_at(m, position);

	if (!slot)
		return 1;
	bpf_skb_load_bytes(m->ctx, FRAME_SLOT(index) + sizeof(slot->seq),
			   (void *)slot + sizeof(slot->seq),
			   sizeof(*slot) - sizeof(slot->seq));
	slot->conn = m->conn;
	if (index)
		slot->flags |= SLUICE_SLOT_F_INNER;
	publish(slot, position);
	return 0;
}

static __always_inline __u32 steer_slots(struct message *m, __u32 count)
{
	struct frame_check check = { .ctx = m->ctx };
	struct frame_slots frame = { .m = m, .count = count };
	__u32 verdict;

	bpf_loop(count, check_slot, &check, 0);
	if (check.bad)
		return VERDICT(pass_frame);
	verdict = claim(m, count);
	if (verdict)
		return verdict;
	bpf_loop(count, publish_slot, &frame, 0);
	return 0;
}

static __always_inline __u32 steer_one_slot(struct message *m)
{
	struct sluice_slot slot;

	if (bpf_skb_load_bytes(m->ctx, FRAME_SLOT(0), &slot, sizeof(slot)) ||
	    !slot_is_good((const struct slot_head *)&slot))
		return VERDICT(pass_frame);
	slot.conn = m->conn;
	return put_slot(m, &slot);
}

static __always_inline __u32 steer_frame(struct message *m, __u32 len)
{
	struct sluice_frame frame;
	__u32 verdict;

	if (bpf_skb_load_bytes(m->ctx, 0, &frame, sizeof(frame)) ||
	    frame.type != SLUICE_FRAME_DATA || frame.flags || frame.value ||
	    !frame.count || frame.count > SLUICE_FRAME_SLOTS_MAX ||
	    len != FRAME_SLOT(frame.count))
		return VERDICT(pass_frame);
	verdict = frame.count == 1 ? steer_one_slot(m) :
				     steer_slots(m, frame.count);
	if (verdict)
		return verdict;
	m->slots_put = frame.count;
	count(VERDICT(steered_slots), frame.count);
	return VERDICT(steered_frames);
}

#endif
