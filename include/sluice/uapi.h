/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluice uAPI: what two aware endpoints share, in memory and on the socket.
 *
 * Layouts only, no functions; PROTOCOL.md beside this directory says how they
 * are used. Everything is little endian and naturally aligned. Fields named
 * __resv must be zero; PROTOCOL.md section 11 says which a receiver checks.
 *
 * Changes:
 *   1.0  first version
 *        steering: maps of an endpoint, control frames of sluiced
 */
#ifndef SLUICE_UAPI_H
#define SLUICE_UAPI_H

#include <linux/types.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the sluice layouts are little endian"
#endif

#define SLUICE_MAJOR 1 /* peers with another major do not talk */
#define SLUICE_MINOR 0 /* the lower counts; behaviour hangs on features */

/*
 * An aware client binds its socket, before it connects, to the abstract name
 * that is NUL, this prefix, and 16 lower-case hexadecimal digits of a random
 * non-zero number.
 */
#define SLUICE_NAME_PREFIX "sluice1-"

#define SLUICE_CACHE_LINE 64

/* Slot: one message descriptor, one cache line ---------------------------- */

#define SLUICE_INLINE_MAX 32 /* bytes of payload a slot holds itself */

#define SLUICE_SLOT_INLINE 1 /* payload is inline_data */
#define SLUICE_SLOT_BUFFER 2 /* payload lies in one of the sender's segments */
#define SLUICE_SLOT_LANDING 3 /* payload lies in the receiver's landing pool */
#define SLUICE_SLOT_SWITCH 4 /* in a ring only: the direct lane ends here */

#define SLUICE_SLOT_F_MORE 0x01 /* the next slot continues this message */
/* Set by the kernel side when it steers: not the first slot of its frame. */
#define SLUICE_SLOT_F_INNER 0x80

/* Slots of one message (all but the last have F_MORE). */
#define SLUICE_PARTS_MAX 64

struct sluice_slot {
	__u32 seq; /* ring: ready when == position + 1, stored last; frame: 0 */
	__u32 len; /* payload bytes */
	__u8 kind; /* SLUICE_SLOT_* */
	__u8 flags; /* SLUICE_SLOT_F_* */
	__u16 segment; /* BUFFER: segment number, else 0 */
	__u32 conn; /* filled by the kernel side when steered, else 0 */
	__u64 offset; /* BUFFER: first payload byte in the segment, else 0 */
	__u64 tag; /* the sending application's, passed on untouched */
	union {
		__u8 inline_data[SLUICE_INLINE_MAX];
		struct {
			__u32 id; /* what the receiver hands back to release it */
			__u32 __resv[7];
		} buffer;
	};
};

/* Release: one entry of a release ring ------------------------------------ */

struct sluice_release {
	__u32 seq; /* ready when == position + 1, stored last */
	__u32 id; /* slot.buffer.id of a message the owner has finished with */
};

/* Link: one side's rings and words, written by its owner only ------------- */

#define SLUICE_LINK_MAGIC 0x4b4c4c53 /* "SLLK" */
#define SLUICE_RING_SLOTS_MIN 16
#define SLUICE_RING_SLOTS_MAX 65536
#define SLUICE_LINK_SIZE_MAX (16u << 20)

/*
 * The sleep words rx_state and tx_state: a state in the low bits, and above it
 * a number that grows with every sleep, so that one sleep is rung for once.
 */
#define SLUICE_STATE_SPIN 0 /* never sleeps: its peer need not fence */
#define SLUICE_STATE_MAY_SLEEP 1 /* its peer fences before it reads the word */
#define SLUICE_STATE_ASLEEP 2 /* its peer rings */
#define SLUICE_STATE_MASK 3u
#define SLUICE_STATE_SLEEP 4u /* one sleep, added to the word */

struct sluice_link {
	/* line 0: fixed once the link is sent */
	__u32 magic; /* SLUICE_LINK_MAGIC */
	__u16 major;
	__u16 minor;
	__u32 size; /* bytes of the whole link */
	__u32 ring_offset; /* bytes, cache-line aligned: the tx ring */
	__u32 ring_slots; /* power of two */
	__u32 ring_first; /* position of the first slot ever published */
	__u32 release_offset; /* bytes, cache-line aligned: the release ring */
	__u32 release_slots; /* power of two, at least the owner's hold_limit */
	__u32 release_first; /* position of the first release ever published */
	__u32 rx_first; /* value of rx_head when nothing is consumed yet */
	__u32 __resv0[6];
	/* line 1: as consumer, moves with the traffic */
	__u32 rx_head; /* rx_first + slots of the peer's ring consumed so far */
	__u32 __resv1[15];
	/* line 2: as consumer, moves when it sleeps */
	__u32 rx_state; /* waits for slots in the peer's ring */
	__u32 __resv2[15];
	/* line 3: as producer, moves when it sleeps */
	__u32 tx_state; /* waits for room in its ring, or for releases */
	__u32 __resv3[15];
};

/* Frames: what SEQPACKET messages between aware endpoints are ------------- */

/* Numbers are never reused. In brackets: the fds the frame carries. */
#define SLUICE_FRAME_HELLO 1 /* [1 if SLUICE_FEAT_LINK, else 0] sluice_hello */
#define SLUICE_FRAME_HELLO_ACK 2 /* [as HELLO] sluice_hello */
#define SLUICE_FRAME_SEGMENT_ADD 3 /* [1] value = segment; sluice_segment */
#define SLUICE_FRAME_SEGMENT_DEL 4 /* [0] value = segment */
#define SLUICE_FRAME_DATA 5 /* [0] count slots */
#define SLUICE_FRAME_RELEASE 6 /* [0] count ids, __u32 each */
#define SLUICE_FRAME_SWITCH 7 /* [0] value = ring position to start at */
#define SLUICE_FRAME_DOORBELL 8 /* [0] */
#define SLUICE_FRAME_BYE 9 /* [0] value = final ring position (0: no ring) */
#define SLUICE_FRAME_ERROR 10 /* [0] value = errno; count bytes of text */

#define SLUICE_FRAME_F_ACK 0x01 /* SEGMENT_DEL: the answer to one */
#define SLUICE_FRAME_F_IGNORABLE 0x80 /* skip it if its type is unknown */

#define SLUICE_FRAME_SLOTS_MAX 64 /* slots in a DATA frame */
#define SLUICE_FRAME_IDS_MAX 1024 /* ids in a RELEASE frame */
#define SLUICE_FRAME_TEXT_MAX 256 /* bytes of text in an ERROR frame */
#define SLUICE_FRAME_SIZE_MAX 4104 /* bytes of any frame */

struct sluice_frame {
	__u8 type; /* SLUICE_FRAME_* */
	__u8 flags; /* SLUICE_FRAME_F_* */
	__u16 count; /* elements that follow the header */
	__u32 value; /* by type, else 0 */
};

#define SLUICE_HELLO_MAGIC 0x494c5331 /* "1SLI" */

#define SLUICE_FEAT_LINK (1ull << 0) /* has a link; can read the peer's */
#define SLUICE_FEAT_DIRECT (1ull << 1) /* will consume the peer's ring */
#define SLUICE_FEAT_MEMBARRIER (1ull << 2) /* registered GLOBAL_EXPEDITED */

#define SLUICE_SEGMENTS_MAX 1024 /* segment numbers are below this */
#define SLUICE_HOLD_MAX 65536

struct sluice_hello {
	__u32 magic; /* SLUICE_HELLO_MAGIC */
	__u16 major;
	__u16 minor;
	__u64 features; /* SLUICE_FEAT_*; unknown bits are ignored */
	__u64 cookie; /* random, not zero: what the HELLO_ACK echoes */
	__u64 echo; /* HELLO: number in the client's name, 0 on a pair; ACK: cookie */
	__u64 map_limit; /* bytes of the peer's segments it will map at once */
	__u32 link_size; /* bytes; 0 without SLUICE_FEAT_LINK */
	__u32 hold_limit; /* peer's buffers it will hold at once: ids are below it */
	__u32 segment_limit; /* peer's segments it will map: numbers are below it */
	__u32 __resv[3];
};

#define SLUICE_SEGMENT_F_HUGE 0x01 /* a hugetlbfs memfd */

struct sluice_segment {
	__u64 size; /* bytes, a multiple of the page size */
	__u32 flags; /* SLUICE_SEGMENT_F_* */
	__u32 __resv;
};

/* The seals that links and segments must have (more are fine). */
#define SLUICE_SEALS 0x0017 /* SEAL | SHRINK | GROW | FUTURE_WRITE */

/* Steering: the maps of an endpoint ---------------------------------------- */

/*
 * PROTOCOL.md section 15. sluiced makes an endpoint of 1 to RINGS_MAX rings, and
 * for each ring four BPF maps, whose fds the receiver gets and maps: ring and
 * landing pool (frozen: BPF writes, user space reads), control (the receiver
 * writes; BPF takes what it reads there as hints, since a lie hurts only the
 * receiver), and the doorbell (BPF_MAP_TYPE_RINGBUF, polled, content ignored).
 */
#define SLUICE_STEER_MAGIC 0x54534c53 /* "SLST" */
#define SLUICE_STEER_VERSION 1 /* of maps and programs; no other is accepted */

#define SLUICE_RINGS_MAX 16 /* rings of an endpoint */
#define SLUICE_CONNS_MAX 65536 /* connections of a ring, a power of two */
#define SLUICE_MAP_HEADER 4096 /* bytes before slots and words in their maps */

/*
 * Landing slots come in three sizes. The landing pool is an array of blocks: first
 * the blocks that hold 16 slots of 4 KiB each, then those that are one slot of 64 KiB,
 * then 16 blocks for each slot of 1 MiB. Slots are numbered in that order.
 */
#define SLUICE_LANDING_CLASSES 3
#define SLUICE_LANDING_BLOCK 65536
#define SLUICE_LANDING_SMALL 4096
#define SLUICE_LANDING_LARGE (1u << 20)
#define SLUICE_LANDING_SLOTS_MAX 65536 /* of all sizes together */

/* First page of the ring map; slots follow at SLUICE_MAP_HEADER. Frozen. */
struct sluice_steer_ring {
	/* line 0: fixed */
	__u32 magic; /* SLUICE_STEER_MAGIC */
	__u32 version; /* SLUICE_STEER_VERSION */
	__u32 ring_slots; /* power of two */
	__u32 conns; /* power of two: words in the control map */
	__u32 landing[SLUICE_LANDING_CLASSES]; /* slots by size; [0]: times 16 */
	__u32 uid; /* of the client that the endpoint was made for */
	__u64 endpoint; /* number, as in struct sluice_control */
	__u64 created; /* CLOCK_BOOTTIME, ns */
	__u16 index; /* of this ring in the endpoint */
	__u16 rings; /* of the endpoint */
	__u32 __resv0[3];
	/* line 1 */
	__u32 tail; /* position after the last that was claimed */
	__u32 head_seen; /* by senders: what head was, or later */
	__u32 __resv1[14];
	/* line 2 */
	__u32 spills; /* counts messages that were left to the sockets' queues */
	__u32 __resv2[15];
	/* line 3: where the search for a free landing slot goes on */
	__u32 cursor[SLUICE_LANDING_CLASSES];
	__u32 __resv3[13];
};

/* First page of the control map. The receiver's. */
struct sluice_steer_control {
	/* line 0 */
	__u32 head; /* positions below it are free again */
	__u32 __resv0[15];
	/* line 1 */
	__u32 asleep; /* 1: ring the doorbell; who does sets it to 0 first */
	__u32 __resv1[15];
};

/*
 * In the control map, from SLUICE_MAP_HEADER: one line for each connection, by
 * conn & (conns - 1), then one __u32 for each landing slot.
 */
struct sluice_steer_conn {
	__u32 word; /* SLUICE_STEER_*; changed by compare-and-swap only */
	__u32 __resv0;
	__u64 spilled; /* STREAM, by BPF: bytes sent to the spill socket */
	__u64 granted; /* STREAM, the receiver's: bytes read there when it granted */
	__u32 __resv[10];
};

#define SLUICE_STEER_HOLD 0 /* messages go to the queue */
#define SLUICE_STEER_GRANTED 1 /* the next one may be steered */
#define SLUICE_STEER_ON 2 /* messages are steered */

#define SLUICE_LANDING_FREE 0 /* stored by the receiver, with release order */
#define SLUICE_LANDING_USED 1 /* by BPF, with compare-and-swap */

/* Layout checks ------------------------------------------------------------ */

#ifdef __cplusplus
#define SLUICE_ASSERT(x) static_assert(x, #x)
#else
#define SLUICE_ASSERT(x) _Static_assert(x, #x)
#endif
#define SLUICE_AT(type, field, at) \
	SLUICE_ASSERT(__builtin_offsetof(struct type, field) == (at))

SLUICE_ASSERT(sizeof(struct sluice_slot) == 64);
SLUICE_AT(sluice_slot, seq, 0);
SLUICE_AT(sluice_slot, len, 4);
SLUICE_AT(sluice_slot, kind, 8);
SLUICE_AT(sluice_slot, flags, 9);
SLUICE_AT(sluice_slot, segment, 10);
SLUICE_AT(sluice_slot, conn, 12);
SLUICE_AT(sluice_slot, offset, 16);
SLUICE_AT(sluice_slot, tag, 24);
SLUICE_AT(sluice_slot, inline_data, 32);
SLUICE_AT(sluice_slot, buffer.id, 32);
SLUICE_AT(sluice_slot, buffer.__resv, 36);
SLUICE_ASSERT(sizeof(struct sluice_release) == 8);
SLUICE_AT(sluice_release, seq, 0);
SLUICE_AT(sluice_release, id, 4);
SLUICE_ASSERT(sizeof(struct sluice_link) == 256);
SLUICE_AT(sluice_link, magic, 0);
SLUICE_AT(sluice_link, major, 4);
SLUICE_AT(sluice_link, minor, 6);
SLUICE_AT(sluice_link, size, 8);
SLUICE_AT(sluice_link, ring_offset, 12);
SLUICE_AT(sluice_link, ring_slots, 16);
SLUICE_AT(sluice_link, ring_first, 20);
SLUICE_AT(sluice_link, release_offset, 24);
SLUICE_AT(sluice_link, release_slots, 28);
SLUICE_AT(sluice_link, release_first, 32);
SLUICE_AT(sluice_link, rx_first, 36);
SLUICE_AT(sluice_link, __resv0, 40);
SLUICE_AT(sluice_link, rx_head, 64);
SLUICE_AT(sluice_link, rx_state, 128);
SLUICE_AT(sluice_link, tx_state, 192);
SLUICE_ASSERT(sizeof(struct sluice_frame) == 8);
SLUICE_AT(sluice_frame, type, 0);
SLUICE_AT(sluice_frame, flags, 1);
SLUICE_AT(sluice_frame, count, 2);
SLUICE_AT(sluice_frame, value, 4);
SLUICE_ASSERT(sizeof(struct sluice_hello) == 64);
SLUICE_AT(sluice_hello, magic, 0);
SLUICE_AT(sluice_hello, major, 4);
SLUICE_AT(sluice_hello, minor, 6);
SLUICE_AT(sluice_hello, features, 8);
SLUICE_AT(sluice_hello, cookie, 16);
SLUICE_AT(sluice_hello, echo, 24);
SLUICE_AT(sluice_hello, map_limit, 32);
SLUICE_AT(sluice_hello, link_size, 40);
SLUICE_AT(sluice_hello, hold_limit, 44);
SLUICE_AT(sluice_hello, segment_limit, 48);
SLUICE_AT(sluice_hello, __resv, 52);
SLUICE_ASSERT(sizeof(struct sluice_segment) == 16);
SLUICE_AT(sluice_segment, size, 0);
SLUICE_AT(sluice_segment, flags, 8);
SLUICE_AT(sluice_segment, __resv, 12);
SLUICE_ASSERT(8 + SLUICE_FRAME_SLOTS_MAX * 64 == SLUICE_FRAME_SIZE_MAX);
SLUICE_ASSERT(8 + SLUICE_FRAME_IDS_MAX * 4 == SLUICE_FRAME_SIZE_MAX);
SLUICE_ASSERT(sizeof(struct sluice_steer_ring) == 256);
SLUICE_AT(sluice_steer_ring, magic, 0);
SLUICE_AT(sluice_steer_ring, version, 4);
SLUICE_AT(sluice_steer_ring, ring_slots, 8);
SLUICE_AT(sluice_steer_ring, conns, 12);
SLUICE_AT(sluice_steer_ring, landing, 16);
SLUICE_AT(sluice_steer_ring, uid, 28);
SLUICE_AT(sluice_steer_ring, endpoint, 32);
SLUICE_AT(sluice_steer_ring, created, 40);
SLUICE_AT(sluice_steer_ring, index, 48);
SLUICE_AT(sluice_steer_ring, rings, 50);
SLUICE_AT(sluice_steer_ring, __resv0, 52);
SLUICE_AT(sluice_steer_ring, tail, 64);
SLUICE_AT(sluice_steer_ring, head_seen, 68);
SLUICE_AT(sluice_steer_ring, spills, 128);
SLUICE_AT(sluice_steer_ring, cursor, 192);
SLUICE_ASSERT(sizeof(struct sluice_steer_control) == 128);
SLUICE_AT(sluice_steer_control, head, 0);
SLUICE_AT(sluice_steer_control, asleep, 64);
SLUICE_ASSERT(sizeof(struct sluice_steer_conn) == 64);
SLUICE_AT(sluice_steer_conn, word, 0);
SLUICE_AT(sluice_steer_conn, spilled, 8);
SLUICE_AT(sluice_steer_conn, granted, 16);
SLUICE_AT(sluice_steer_conn, __resv, 24);

/* What clients and sluiced say to each other. */
#include <sluice/control.h>

#endif
