/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Control frames: SEQPACKET messages between a client and sluiced. Part of the
 * uAPI, whose rules are in uapi.h; PROTOCOL.md section 16 says how they are used.
 */
#ifndef SLUICE_CONTROL_H
#define SLUICE_CONTROL_H

#include <sluice/uapi.h>

#define SLUICE_CONTROL_PATH "/run/sluice/control"
#define SLUICE_CONTROL_MAGIC 0x43534c53 /* "SLSC" */

/* In brackets: fds of the request -> fds of a reply without error. */
#define SLUICE_CONTROL_CREATE \
	1 /* [0 -> rings * 4: ring, landing, control, bell] */
#define SLUICE_CONTROL_CLAIM \
	2 /* [1: ring map of ring 0 -> 0] after a restart of sluiced */
#define SLUICE_CONTROL_DESTROY 3 /* [0 -> 0] */
#define SLUICE_CONTROL_ATTACH \
	4 /* [1: the connected socket -> 0; STREAM: 2, the spill sockets] */
#define SLUICE_CONTROL_DETACH \
	5 /* [0 -> 0] once it is answered, conn may be used again */
#define SLUICE_CONTROL_QUERY 6 /* [0 -> 0] use and limits of the client's uid */
#define SLUICE_CONTROL_LIST \
	7 /* [0 -> 0] endpoints numbered above `endpoint`; records follow */
#define SLUICE_CONTROL_DRAIN 8 /* [0 -> 0] root: nothing new from here on */

#define SLUICE_CONTROL_SERVICE_BIND 9 /* [0 -> 0] to be a backend */
#define SLUICE_CONTROL_SERVICE_ACCEPT \
	10 /* [0 -> 1: the client's socket] answered when there is one */
#define SLUICE_CONTROL_SERVICES \
	11 /* [0 -> 0] root: services after the `endpoint`th; records follow */
#define SLUICE_CONTROL_URING_FOLLOW \
	12 /* [0 -> 0] account for an io_uring; reply: its number in `endpoint` */
#define SLUICE_CONTROL_URING_LEAVE 13 /* [0 -> 0] no longer */
#define SLUICE_CONTROL_URINGS \
	14 /* [0 -> 0] rings numbered above `endpoint`; records follow */

#define SLUICE_CONTROL_F_REPLY 0x1u
#define SLUICE_CONTROL_F_ALL \
	0x2u /* QUERY, LIST, URINGS: of all uids; root only */

#define SLUICE_ATTACH_F_HASH 0x1u /* plain payload: ring by its first 8 bytes */
#define SLUICE_ATTACH_F_FRAMES 0x2u /* the peer is aware: it sends frames */
#define SLUICE_ATTACH_F_LAGS \
	0x4u /* reply, STREAM: nothing lands; see section 15 */

struct sluice_control_create {
	__u32 rings; /* 1 to SLUICE_RINGS_MAX */
	__u32 ring_slots; /* of each; power of two, 16 to 65536 */
	__u32 conns; /* of each ring; power of two, 16 to SLUICE_CONNS_MAX */
	__u32 landing[SLUICE_LANDING_CLASSES]; /* of each ring; [0]: times 16 */
	__u32 __resv[4];
};

struct sluice_control_attach {
	__u32 ring; /* of the endpoint, from 0 */
	__u32 conn; /* what slots will carry; its word must be HOLD */
	__u32 flags; /* SLUICE_ATTACH_F_* */
	__u32 __resv[7];
};

struct sluice_control_use {
	__u32 endpoints;
	__u32 endpoint_limit;
	__u32 conns; /* attached */
	__u32 conn_limit;
	__u64 map_bytes; /* of all maps of the endpoints: mostly landing pools */
	__u64 map_bytes_limit;
	__u32 version; /* SLUICE_STEER_VERSION of the loaded program */
	__u32 flags; /* SLUICE_USE_F_* */
};

#define SLUICE_USE_F_DRAINING 0x1u /* CREATE and ATTACH are refused */

struct sluice_control_drain {
	__u32 on; /* 1: CREATE and ATTACH get ESHUTDOWN; 0: no longer */
	__u32 __resv[9];
};

#define SLUICE_SERVICE_NAME_SIZE 32

struct sluice_control_bind {
	__u8 name[SLUICE_SERVICE_NAME_SIZE]; /* ends in NUL, zeros after it */
	__u32 binding; /* reply: what ACCEPT names; request: 0 */
	__u32 type; /* reply: SOCK_STREAM, ...; request: 0 */
};

struct sluice_control_accept {
	__u32 binding; /* of this control connection */
	__u32 uid; /* reply: of the client, as are the next two; request: 0 */
	__u32 pid;
	__u32 gid;
	__u32 __resv[6];
};

/* Reply to LIST: count records of record_size bytes follow the 64 bytes. */
struct sluice_control_list {
	__u32 count; /* 0: there are no more; at most SLUICE_LIST_MAX */
	__u32 record_size; /* sizeof(struct sluice_control_record), or more */
	__u32 __resv[8];
};

#define SLUICE_LIST_MAX 32

struct sluice_control_record {
	__u64 endpoint;
	__u64 created; /* CLOCK_BOOTTIME, ns */
	__u64 map_bytes;
	__u32 uid;
	__u32 pid; /* of the client, 0 while it has not claimed */
	__u32 flags; /* SLUICE_RECORD_F_* */
	__u32 rings;
	__u32 ring_first; /* number of its ring 0 in sluiced's maps */
	__u32 ring_slots; /* of each ring, likewise the next two */
	__u32 conn_limit;
	__u32 landing[SLUICE_LANDING_CLASSES];
	__u32 conns; /* attached, of all rings */
	__u32 __resv[3];
	__u8 comm[16]; /* of the client, ends in NUL */
};

#define SLUICE_RECORD_F_ORPHAN 0x1u /* waits for a CLAIM */

/* Reply to SERVICES, as struct sluice_control_list: [0] to the backend. */
struct sluice_control_service {
	__u8 name[SLUICE_SERVICE_NAME_SIZE];
	__u8 listen[112];
	__u32 type; /* SOCK_STREAM, ... */
	__u32 flags; /* SLUICE_SERVICE_F_* */
	__u32 backends; /* paths in the configuration, and bound ones */
	__u32 backends_up;
	__u32 relayed; /* connections that there are now, by how they travel */
	__u32 redirected;
	__u32 handed; /* given to backends that are bound */
	__u32 waiting; /* for a backend with room */
	__u64 accepted; /* connections since the start of sluiced */
	__u64 refused; /* of those, over a limit or without a backend */
	__u64 bytes[2]; /* read and written by sluiced */
	__u64 messages[2];
	__u64 kernel_bytes[2]; /* redirected, or by the in-kernel switch */
	__u64 kernel_messages[2];
};

#define SLUICE_SERVICE_F_LISTENING 0x1u
#define SLUICE_SERVICE_F_INTERCEPTS 0x2u
#define SLUICE_SERVICE_F_HALF_CLOSE 0x4u /* allowed: nothing is redirected */
#define SLUICE_SERVICE_F_REDIRECTS 0x8u /* new connections are redirected */
#define SLUICE_SERVICES_MAX 16 /* records in a reply */

/*
 * Which io_uring, and which of its requests: doorbells are polls, reads and
 * receives with (user_data & mask) == match, pool operations those on registered
 * buffers from buffer_first on.
 */
struct sluice_control_uring {
	__u32 pid; /* 0: the client */
	__u32 fd; /* of the ring, in that process */
	__u64 match; /* no bits but those of mask */
	__u64 mask; /* 0: all */
	__u32 buffer_first;
	__u32 buffer_count; /* 0: none; they end at SLUICE_URING_BUFFERS_END */
	__u32 __resv[2];
};

#define SLUICE_URING_BUFFERS_END 65536
#define SLUICE_URING_BUCKETS 39

/* How often something took how long; bucket i: 2^i ns or more, the last all else. */
struct sluice_uring_times {
	__u64 sum; /* ns */
	__u64 bucket[SLUICE_URING_BUCKETS];
};

/* Since the ring is followed. In a map of sluiced's: these, one per CPU. */
struct sluice_uring_counts {
	__u64 submitted; /* requests of all kinds */
	__u64 completed; /* CQEs of all kinds */
	__u64 overflowed; /* of those, while the CQ was full */
	__u64 ready; /* CQEs of doorbells that did not have to wait */
	__u64 pool_submitted; /* pool operations, and their ends */
	__u64 pool_ended;
	__u64 pool_bytes;
	__u64 waits; /* for CQEs; of those, before the last one saw any */
	__u64 waits_empty;
	__u64 reused; /* submitted with a user_data in flight: not timed apart */
	__u64 untracked; /* no room for them: not timed */
	__u64 __resv;
	struct sluice_uring_times bell; /* from a doorbell to its CQE */
	struct sluice_uring_times idle; /* before: until it rang */
	struct sluice_uring_times pool; /* until the buffer is free */
	struct sluice_uring_times wait; /* for CQEs, until there is one */
};

/* Reply to URINGS, as struct sluice_control_list. */
struct sluice_control_uring_record {
	__u64 ring;
	__u64 since; /* CLOCK_BOOTTIME, ns */
	__u64 match; /* as it was asked for, likewise the next three */
	__u64 mask;
	__u32 buffer_first;
	__u32 buffer_count;
	__u32 pid;
	__u32 fd;
	__u32 uid; /* of the ring */
	__u32 tracked; /* doorbells and pool operations in flight */
	__u32 pool_now; /* of those, pool operations; the most at once */
	__u32 pool_peak;
	struct sluice_uring_counts counts;
};

#define SLUICE_URINGS_MAX 16 /* records in a reply */

/* Every request, and its reply: 64 bytes. */
struct sluice_control {
	__u32 magic; /* SLUICE_CONTROL_MAGIC */
	__u16 type; /* SLUICE_CONTROL_* */
	__u16 flags; /* SLUICE_CONTROL_F_* */
	__u32 serial; /* the client's, repeated in the reply */
	__u32 error; /* reply: 0 or a positive errno */
	/*
	 * Its number, or that of a followed ring; CREATE, QUERY, DRAIN, URING_FOLLOW:
	 * 0; in the reply to CREATE and URING_FOLLOW: the new one.
	 */
	__u64 endpoint;
	union {
		struct sluice_control_create create;
		struct sluice_control_attach attach; /* ATTACH, DETACH */
		struct sluice_control_use use; /* reply to QUERY, DRAIN */
		struct sluice_control_list list; /* LIST and the like */
		struct sluice_control_drain drain;
		struct sluice_control_bind bind; /* SERVICE_BIND */
		struct sluice_control_accept accept; /* SERVICE_ACCEPT */
		struct sluice_control_uring uring; /* URING_FOLLOW */
		__u8 __resv[40]; /* all else: zero */
	};
};

/* Layout checks ------------------------------------------------------------ */

SLUICE_ASSERT(sizeof(struct sluice_control) == 64);
SLUICE_AT(sluice_control, magic, 0);
SLUICE_AT(sluice_control, type, 4);
SLUICE_AT(sluice_control, flags, 6);
SLUICE_AT(sluice_control, serial, 8);
SLUICE_AT(sluice_control, error, 12);
SLUICE_AT(sluice_control, endpoint, 16);
SLUICE_AT(sluice_control, create, 24);
SLUICE_AT(sluice_control, attach, 24);
SLUICE_AT(sluice_control, use, 24);
SLUICE_ASSERT(sizeof(struct sluice_control_create) == 40);
SLUICE_AT(sluice_control_create, rings, 0);
SLUICE_AT(sluice_control_create, ring_slots, 4);
SLUICE_AT(sluice_control_create, conns, 8);
SLUICE_AT(sluice_control_create, landing, 12);
SLUICE_AT(sluice_control_create, __resv, 24);
SLUICE_ASSERT(sizeof(struct sluice_control_attach) == 40);
SLUICE_AT(sluice_control_attach, ring, 0);
SLUICE_AT(sluice_control_attach, conn, 4);
SLUICE_AT(sluice_control_attach, flags, 8);
SLUICE_AT(sluice_control_attach, __resv, 12);
SLUICE_ASSERT(sizeof(struct sluice_control_use) == 40);
SLUICE_AT(sluice_control_use, endpoints, 0);
SLUICE_AT(sluice_control_use, endpoint_limit, 4);
SLUICE_AT(sluice_control_use, conns, 8);
SLUICE_AT(sluice_control_use, conn_limit, 12);
SLUICE_AT(sluice_control_use, map_bytes, 16);
SLUICE_AT(sluice_control_use, map_bytes_limit, 24);
SLUICE_AT(sluice_control_use, version, 32);
SLUICE_AT(sluice_control_use, flags, 36);
SLUICE_ASSERT(sizeof(struct sluice_control_drain) == 40);
SLUICE_AT(sluice_control_drain, on, 0);
SLUICE_AT(sluice_control_drain, __resv, 4);
SLUICE_ASSERT(sizeof(struct sluice_control_list) == 40);
SLUICE_AT(sluice_control_list, count, 0);
SLUICE_AT(sluice_control_list, record_size, 4);
SLUICE_AT(sluice_control_list, __resv, 8);
SLUICE_ASSERT(sizeof(struct sluice_control_record) == 96);
SLUICE_AT(sluice_control_record, endpoint, 0);
SLUICE_AT(sluice_control_record, created, 8);
SLUICE_AT(sluice_control_record, map_bytes, 16);
SLUICE_AT(sluice_control_record, uid, 24);
SLUICE_AT(sluice_control_record, pid, 28);
SLUICE_AT(sluice_control_record, flags, 32);
SLUICE_AT(sluice_control_record, rings, 36);
SLUICE_AT(sluice_control_record, ring_first, 40);
SLUICE_AT(sluice_control_record, ring_slots, 44);
SLUICE_AT(sluice_control_record, conn_limit, 48);
SLUICE_AT(sluice_control_record, landing, 52);
SLUICE_AT(sluice_control_record, conns, 64);
SLUICE_AT(sluice_control_record, __resv, 68);
SLUICE_AT(sluice_control_record, comm, 80);
SLUICE_ASSERT(sizeof(struct sluice_control_bind) == 40);
SLUICE_AT(sluice_control_bind, name, 0);
SLUICE_AT(sluice_control_bind, binding, 32);
SLUICE_AT(sluice_control_bind, type, 36);
SLUICE_ASSERT(sizeof(struct sluice_control_accept) == 40);
SLUICE_AT(sluice_control_accept, binding, 0);
SLUICE_AT(sluice_control_accept, uid, 4);
SLUICE_AT(sluice_control_accept, pid, 8);
SLUICE_AT(sluice_control_accept, gid, 12);
SLUICE_AT(sluice_control_accept, __resv, 16);
SLUICE_ASSERT(sizeof(struct sluice_control_service) == 256);
SLUICE_AT(sluice_control_service, name, 0);
SLUICE_AT(sluice_control_service, listen, 32);
SLUICE_AT(sluice_control_service, type, 144);
SLUICE_AT(sluice_control_service, flags, 148);
SLUICE_AT(sluice_control_service, backends, 152);
SLUICE_AT(sluice_control_service, backends_up, 156);
SLUICE_AT(sluice_control_service, relayed, 160);
SLUICE_AT(sluice_control_service, redirected, 164);
SLUICE_AT(sluice_control_service, handed, 168);
SLUICE_AT(sluice_control_service, waiting, 172);
SLUICE_AT(sluice_control_service, accepted, 176);
SLUICE_AT(sluice_control_service, refused, 184);
SLUICE_AT(sluice_control_service, bytes, 192);
SLUICE_AT(sluice_control_service, messages, 208);
SLUICE_AT(sluice_control_service, kernel_bytes, 224);
SLUICE_AT(sluice_control_service, kernel_messages, 240);
SLUICE_ASSERT(sizeof(struct sluice_control_uring) == 40);
SLUICE_AT(sluice_control_uring, pid, 0);
SLUICE_AT(sluice_control_uring, fd, 4);
SLUICE_AT(sluice_control_uring, match, 8);
SLUICE_AT(sluice_control_uring, mask, 16);
SLUICE_AT(sluice_control_uring, buffer_first, 24);
SLUICE_AT(sluice_control_uring, buffer_count, 28);
SLUICE_AT(sluice_control_uring, __resv, 32);
SLUICE_ASSERT(sizeof(struct sluice_uring_times) == 320);
SLUICE_AT(sluice_uring_times, sum, 0);
SLUICE_AT(sluice_uring_times, bucket, 8);
SLUICE_ASSERT(sizeof(struct sluice_uring_counts) == 1376);
SLUICE_AT(sluice_uring_counts, submitted, 0);
SLUICE_AT(sluice_uring_counts, completed, 8);
SLUICE_AT(sluice_uring_counts, overflowed, 16);
SLUICE_AT(sluice_uring_counts, ready, 24);
SLUICE_AT(sluice_uring_counts, pool_submitted, 32);
SLUICE_AT(sluice_uring_counts, pool_ended, 40);
SLUICE_AT(sluice_uring_counts, pool_bytes, 48);
SLUICE_AT(sluice_uring_counts, waits, 56);
SLUICE_AT(sluice_uring_counts, waits_empty, 64);
SLUICE_AT(sluice_uring_counts, reused, 72);
SLUICE_AT(sluice_uring_counts, untracked, 80);
SLUICE_AT(sluice_uring_counts, __resv, 88);
SLUICE_AT(sluice_uring_counts, bell, 96);
SLUICE_AT(sluice_uring_counts, idle, 416);
SLUICE_AT(sluice_uring_counts, pool, 736);
SLUICE_AT(sluice_uring_counts, wait, 1056);
SLUICE_ASSERT(sizeof(struct sluice_control_uring_record) == 1440);
SLUICE_AT(sluice_control_uring_record, ring, 0);
SLUICE_AT(sluice_control_uring_record, since, 8);
SLUICE_AT(sluice_control_uring_record, match, 16);
SLUICE_AT(sluice_control_uring_record, mask, 24);
SLUICE_AT(sluice_control_uring_record, buffer_first, 32);
SLUICE_AT(sluice_control_uring_record, buffer_count, 36);
SLUICE_AT(sluice_control_uring_record, pid, 40);
SLUICE_AT(sluice_control_uring_record, fd, 44);
SLUICE_AT(sluice_control_uring_record, uid, 48);
SLUICE_AT(sluice_control_uring_record, tracked, 52);
SLUICE_AT(sluice_control_uring_record, pool_now, 56);
SLUICE_AT(sluice_control_uring_record, pool_peak, 60);
SLUICE_AT(sluice_control_uring_record, counts, 64);

#endif
