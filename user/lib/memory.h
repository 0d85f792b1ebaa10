/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What conns stand on: memory and its mappings, the sleep words, pools and their
 * segments, links. Knows of conns by name only; internal.h includes it.
 */
#ifndef SLUICE_MEMORY_H
#define SLUICE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/sluice.h>

#include "list.h"

struct conn_core;

/* memory.c: memfds, mappings, the process --------------------------------- */

/* A number that differs in a child of fork() from its parent's. */
uint64_t process_generation(void);
/* Registered for membarrier(GLOBAL_EXPEDITED)? Registers at the first call. */
bool process_has_membarrier(void);
/* False: it could not run. */
bool process_membarrier(void);
int64_t now_ns(void);
/* Cheaper, a few milliseconds behind. */
int64_t coarse_ns(void);
/* now_ns() + timeout_ns, or INT64_MAX for one that never ends. */
int64_t deadline_after(int64_t timeout_ns);
uint64_t random_nonzero(void);

/*
 * Makes a sealed, backed, mapped memfd. huge: on 2 MiB pages or not at all.
 * The mapping is the caller's and is not inherited over fork().
 */
int memory_new(const char *name, uint64_t size, bool huge, void **address,
	       int *fd);
/*
 * Maps a peer's memfd read-only after the checks of PROTOCOL.md section 2, and
 * counts it towards the process limit. Does not close fd. -EPROTO with *why;
 * -ENOMEM if it is over a limit of this side or of the system.
 */
int memory_map_foreign(int fd, uint64_t size, bool huge, void **address,
		       const char **why);
void memory_unmap_foreign(const void *address);

/* sleep.c: the sleep words ------------------------------------------------ */

/* A word in this side's link; value is its private copy. */
struct sleep_word {
	uint32_t *shared;
	uint32_t value;
	uint32_t since; /* ring position when it last slept */
	bool may_spin; /* the peer fences always, or we can do it for it */
};

/* Steps 1 to 3 of PROTOCOL.md section 8, for one or both words of a link. */
void words_sleep(struct sleep_word *rx, struct sleep_word *tx,
		 bool peer_registered);
void word_wake(struct sleep_word *word);
/* Back to SPIN, if it did not sleep for long enough to be worth it. */
void word_spin(struct sleep_word *word, uint32_t position, bool forever);

/* pool.c ------------------------------------------------------------------ */

struct segment {
	uint8_t *address;
	uint64_t size;
	struct sluice_buf *bufs;
	uint32_t count;
	uint32_t announced; /* conns that know it */
	int fd;
	uint16_t class_index;
	bool huge;
	bool retiring; /* out of the free lists, waits for acknowledgements */
};

struct pool {
	struct sluice_pool hot;
	uint64_t generation;
	uint64_t limit;
	uint32_t segment_limit; /* numbers are below it */
	uint64_t bytes;
	struct segment **segments; /* by number; NULL: free */
	uint32_t segment_count; /* of the table */
	uint32_t class_segments[SLUICE_POOL_CLASSES_MAX];
	struct list conns; /* conn_core.pool_link; not those closed */
	struct list closing; /* likewise: closed, waiting for releases */
	struct list waiters; /* conn_core.waiter_link: wait for a buffer */
	struct list registrations; /* struct sluice_uring_pool.link */
	uint32_t buffers; /* of all segments */
	uint32_t fruitless; /* harvests, see pool_harvest() */
	uint32_t live_conns; /* of these, not closed by their application */
	uint32_t flags;
	int huge_error;
	bool held; /* by the application */
	bool shared; /* made by sluice_pool_new() */
};

static inline struct pool *pool_of(struct sluice_pool *pool)
{
	return (struct pool *)pool;
}

int pool_new(struct pool **pool, const struct sluice_pool_options *options);
int pool_check_options(const struct sluice_pool_options *options);
void pool_destroy(struct pool *pool);
/* Frees the pool if neither the application nor a live conn holds it. */
void pool_put(struct pool *pool);
/* Like sluice_pool_loan(), without looking for releases. may_grow: or -EAGAIN. */
int pool_take(struct pool *pool, size_t size, bool may_grow,
	      struct sluice_buf **buf);
/* Puts back what a take took, as if nothing had been. */
void pool_untake(struct sluice_buf *buf);
/* Looks for releases at every conn of the pool. */
void pool_harvest(struct pool *pool);
/* Ends closed conns whose buffers are back. */
void pool_reap(struct pool *pool);
/* Something came back: conns in a set that wait for it look again. */
void pool_wake(struct pool *pool);

/* segment.c --------------------------------------------------------------- */

/* One more segment of the class. -EAGAIN: at the limit. */
int pool_grow(struct pool *pool, unsigned int class_index);
/* Retires each segment without used buffers; returns the bytes. */
int64_t pool_retire_unused(struct pool *pool);
/* A conn forgot the segment (acknowledged DEL, or it is gone). */
void pool_forget(struct pool *pool, uint32_t segment);
void segment_destroy(struct pool *pool, uint32_t segment);

/* link.c ------------------------------------------------------------------ */

int link_new(struct conn_core *core, int *fd);
int link_map(struct conn_core *core, int fd, uint32_t size);
void link_unmap(struct conn_core *core);

#endif
