/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the hostile-*.c tests share: a conn of the library under attack by an end
 * made by hand, and the judgement afterwards.
 *
 * A breach must end the conn with -EPROTO, with a reason, an ERROR frame to the
 * peer, no fd and no mapping left, and a connection beside it unharmed. Every
 * table of breaches has rows that are `fine`, the unchanged one first, so that
 * no row is refused for another reason than its own.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <sluice/sluice.h>

#include "raw.h"
#include "tap.h"

/* One change to a good frame (or to anything else made of bytes). */
struct change {
	const char *name;
	uint16_t at; /* offset of the bytes to overwrite */
	uint8_t width; /* 1, 2, 4 or 8 of them; 0: none */
	bool fine; /* no breach */
	uint64_t value;
	int grow; /* make it so many bytes longer */
	int fds; /* carry so many fds, or none: NO_FDS */
};

#define NO_FDS (-1)

#define CHANGE_AT(base, type, field, value_)                  \
	.at = (base) + offsetof(struct sluice_##type, field), \
	.width = sizeof(((struct sluice_##type *)0)->field), .value = (value_)
/* in the header, in the body behind it, in a struct alone */
#define HEAD(field, value) CHANGE_AT(0, frame, field, value)
#define BODY(type, field, value) \
	CHANGE_AT(sizeof(struct sluice_frame), type, field, value)
#define ALONE(type, field, value) CHANGE_AT(0, type, field, value)

void change_bytes(const struct change *change, void *bytes);
void change_frame(const struct change *change, struct raw_message *m);

struct world {
	struct sluice_conn *conn; /* under attack */
	struct raw raw; /* the attacker */
	bool direct; /* it has switched */
	bool steered; /* conn is, by its options */
	bool quiet; /* it need not be told of its breach */
	struct sluice_conn *other[2]; /* a pair that nobody attacks */
	int fds, mappings, memory_mappings; /* before */
};

/*
 * A socketpair with conn on it, whose HELLO is sent, and raw, which has said
 * nothing yet. world_meet() completes the negotiation. world_direct() switches
 * raw's messages to its ring.
 */
void world_open(struct world *world, const struct sluice_options *options,
		uint64_t features);
void world_meet(struct world *world);
void world_direct(struct world *world);

/* The attacker adds segment `number`, of a 64 KiB memfd. */
#define WORLD_SEGMENT 65536
void world_segment(struct world *world, uint32_t number);

/*
 * sluice_recv_wait() on conn, sluice_recv() if timeout_ns is 0. With SLUICE_RING in the environment conn is in a set
 * on a ring instead, and received from through it.
 */
int world_recv(struct world *world, struct sluice_msg *msg, int64_t timeout_ns);
/* conn takes one message, which must be there within 5 s. */
void world_take(struct world *world, struct sluice_msg *msg);

/* The judgement. The second looks at what a send reports, too. */
void world_breach(struct world *world);
void world_breach_sending(struct world *world);
/* Nothing happened: messages pass both ways, in the lanes they are in. */
void world_fine(struct world *world);
/* Closes all and compares with what was there before. */
void world_close(struct world *world);

/* world_breach() or world_fine(), then world_close() */
void world_judge(struct world *world, bool fine);

#endif
