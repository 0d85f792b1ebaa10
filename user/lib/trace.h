/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Static probes for bpftrace, perf and the like. sluice_trace(7) is where they and
 * their arguments are documented; selftests/trace-probes.t.sh compares.
 *
 * Each has a semaphore, which the kernel raises while somebody listens: off, a probe
 * costs the test of one word, on slow ways only. The inlines of hot.h have none, for
 * they are part of applications: while a probe is on that concerns them, hot_open()
 * takes away the pointer by which they leave the library aside.
 */
#ifndef SLUICE_TRACE_H
#define SLUICE_TRACE_H

/* Constants or registers: no tracer understands all that may be said of memory. */
#define STAP_SDT_ARG_CONSTRAINT nr
#define _SDT_HAS_SEMAPHORES 1
#define SDT_USE_VARIADIC 1
#include <sys/sdt.h>

#include "internal.h"

#define TRACE_PROBES(X) \
	X(send)         \
	X(recv)         \
	X(release)      \
	X(loan)         \
	X(free)         \
	X(doorbell)     \
	X(sleep)        \
	X(wake)         \
	X(spill)        \
	X(lacks)

/* The names are those that sys/sdt.h looks for. */
#define TRACE_SEMAPHORE(name)                                    \
	extern volatile unsigned short sluice_##name##_semaphore \
		__attribute__((section(".probes"), visibility("hidden")));
TRACE_PROBES(TRACE_SEMAPHORE)
#undef TRACE_SEMAPHORE

#define TRACE_ON(name) __builtin_expect(sluice_##name##_semaphore, 0)
#define TRACE(name, ...)                                        \
	do {                                                    \
		if (TRACE_ON(name))                             \
			STAP_PROBEV(sluice, name, __VA_ARGS__); \
	} while (0)

/*
 * Both sides know an endpoint by the cookie of its HELLO; 0 while the peer is not
 * known to be aware. A direction is known by the endpoint that sends.
 */
#define TRACE_SELF(core) ((core)->hello.cookie)
#define TRACE_PEER(core) ((core)->peer.cookie)

/* Probes for which the inlines are to call the library: bits of conn_core.traced. */
#define TRACED_SEND 0x1
#define TRACED_RECV 0x2
#define TRACED_RELEASE 0x4
#define TRACED_LOAN 0x8

static inline uint8_t trace_wanted(void)
{
	return (uint8_t)((sluice_send_semaphore ? TRACED_SEND : 0) |
			 (sluice_recv_semaphore ? TRACED_RECV : 0) |
			 (sluice_release_semaphore ? TRACED_RELEASE : 0) |
			 (sluice_loan_semaphore ? TRACED_LOAN : 0));
}

/* At the entries of the library: probes may have been turned on or off. */
static inline void trace_follow(struct sluice_conn *conn)
{
	if (__builtin_expect(core_of(conn)->traced != trace_wanted(), 0))
		hot_open(conn);
}

/*
 * A received payload that is to be released, unique in the process: its conn or ring,
 * kind and id. 0: nothing is to be released.
 */
static inline uint64_t trace_handle(const void *of,
				    const struct sluice_msg *msg)
{
	return msg->kind == SLUICE_SLOT_INLINE ?
		       0 :
		       (uint64_t)(uintptr_t)of / 64 << 20 |
			       (uint64_t)(msg->kind & 0xf) << 16 | msg->id;
}

/* For TRACE_ON(send): before the slots are published. bufs[i] NULL: inline. */
void trace_send(struct sluice_conn *conn, const struct sluice_slot *slots,
		struct sluice_buf *const *bufs, uint32_t count);
void trace_send_plain(struct conn_core *core, const struct iovec *parts,
		      unsigned int count);
/* For TRACE_ON(recv): before the message is counted. */
void trace_recv(struct conn_core *core, const struct sluice_msg *msg,
		uint32_t lane);
/*
 * For TRACE_ON(spill): a message of a plain peer, of len bytes, or a slot of an aware
 * one was left to the socket.
 */
void trace_spill(struct conn_core *core, size_t len);
/* For TRACE_ON(spill): all that is in core->plain. */
void trace_spill_plain(struct conn_core *core);

#endif
