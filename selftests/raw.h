/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * One end of a connection by hand: frames, links and segments written from
 * uapi.h and PROTOCOL.md alone, no library, so that tests can get every field
 * wrong. Nothing here checks what it sends. What should not fail (a system
 * call, a good peer's frame) ends the test case when it does.
 *
 * struct raw owns its socket, its link and its mappings of the peer's memory;
 * raw_close() gives all back. One thread at a time.
 */
#ifndef RAW_H
#define RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/uapi.h>

/* Socket messages --------------------------------------------------------- */

#define RAW_BYTES_MAX 8192
#define RAW_FDS_MAX 253 /* the kernel's SCM_MAX_FD */

/* Its fds belong to whoever holds it, also after a send: raw_drop(). */
struct raw_message {
	union {
		struct sluice_frame frame;
		uint8_t bytes[RAW_BYTES_MAX];
	};
	size_t len;
	unsigned int fd_count;
	int fds[RAW_FDS_MAX];
	bool end; /* no message: end of stream */
};

/* What follows the frame's header; valid until the message is used again. */
void *raw_body(struct raw_message *m);
void raw_drop(struct raw_message *m);

/* A frame of 8 + len bytes, no fds. */
void raw_frame(struct raw_message *m, uint8_t type, uint16_t count,
	       uint32_t value, const void *body, size_t len);
/* Adds an fd, which is the message's from here on. */
void raw_attach(struct raw_message *m, int fd);

/* Sends at once, or -errno (-EAGAIN: no room). */
int raw_try_send(int sock, const struct raw_message *m);
/* Sends, or fails the case, and drops the message. */
void raw_send(int sock, struct raw_message *m);
/* -EAGAIN after timeout_ms; -ECONNRESET is an end of stream, too. */
int raw_try_recv(int sock, struct raw_message *m, int timeout_ms);
/* Receives within 5 s, or fails the case. */
void raw_recv(int sock, struct raw_message *m);

/* Memory ------------------------------------------------------------------ */

struct raw_memory {
	uint8_t *base; /* mapped writable, by its owner */
	size_t size;
	int fd;
};

#define RAW_SPARSE 0x1u /* no fallocate */

/* A memfd of size bytes, mapped, then sealed with `seals`. */
void raw_memory_new(struct raw_memory *memory, size_t size, unsigned int seals,
		    unsigned int flags);
void raw_memory_free(struct raw_memory *memory);

/* Endpoints --------------------------------------------------------------- */

#define RAW_ALL (SLUICE_FEAT_LINK | SLUICE_FEAT_DIRECT)

struct raw {
	int sock;
	struct sluice_hello hello; /* what it says; change it before it does */
	struct raw_memory memory; /* its link; base NULL without */
	struct sluice_link *link;
	struct sluice_slot *ring;
	struct sluice_release *releases;
	uint32_t ring_mask, release_mask;
	uint32_t tx_position; /* next slot to publish */
	uint32_t release_position; /* next release to write */

	/* the peer, from its HELLO or HELLO_ACK on */
	struct sluice_hello peer;
	const uint8_t *peer_memory;
	const struct sluice_link *peer_link; /* NULL without */
	uint32_t rx_position; /* next slot to consume */
	uint32_t harvested; /* position of the peer's next release */
	bool rx_direct;
	struct {
		const uint8_t *base;
		size_t size;
	} segments[SLUICE_SEGMENTS_MAX];
	struct sluice_slot queue[SLUICE_FRAME_SLOTS_MAX]; /* of a DATA frame */
	unsigned int queue_at, queue_count;
};

/*
 * Takes over sock, sets up hello and, if features say so, a good link of 64
 * slots and 256 releases, whose counters all wrap soon.
 */
void raw_init(struct raw *raw, int sock, uint64_t features);
void raw_close(struct raw *raw);

/* Its HELLO or HELLO_ACK as it stands, link attached. */
void raw_hello(struct raw *raw, struct raw_message *m, uint8_t type,
	       uint64_t echo);
/* Takes the peer's HELLO or HELLO_ACK (type: which) and maps its link. */
void raw_meet(struct raw *raw, uint8_t type);

/* The socket of a client: bound to a sluice name with r, unbound if r is 0. */
int raw_connect(const char *name, uint64_t r);
/* A listening socket. Names as in sluice.h: a path, or @abstract. */
int raw_listen(const char *name);

/* Slots of messages */
struct sluice_slot raw_inline(const void *data, uint32_t len, uint64_t tag);
struct sluice_slot raw_buffer(uint16_t segment, uint64_t offset, uint32_t len,
			      uint32_t id, uint64_t tag);
void raw_data(struct raw_message *m, const struct sluice_slot *slots,
	      unsigned int count);

/* SEGMENT_ADD of memory, whose fd it duplicates. */
void raw_segment(struct raw_message *m, uint32_t number,
		 const struct raw_memory *memory);

/* Sends DATA of one inline message; publishes slots of one in the ring. */
void raw_say(struct raw *raw, const void *data, uint32_t len, uint64_t tag);
void raw_publish(struct raw *raw, const struct sluice_slot *slots,
		 unsigned int count);
/* Sends SWITCH: the ring from tx_position on. */
void raw_switch(struct raw *raw);
/* Writes the next entry of the release ring. */
void raw_release(struct raw *raw, uint32_t id);

/*
 * The next slot the peer sent, in whichever lane, and its payload: within 5 s,
 * or the case fails. Handles SWITCH and SEGMENT_ADD, skips DOORBELL, RELEASE.
 */
const void *raw_next(struct raw *raw, struct sluice_slot *slot);
/* The next frame of this type, within 5 s; what comes before it is as above. */
void raw_await(struct raw *raw, struct raw_message *m, uint8_t type);

#endif
