/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * raw: what shared memory can do at best. One ring of 64-byte slots for each
 * direction, with up to 32 bytes of payload inline, more in a bare buffer area.
 * No checks, no ownership, no release but the consumer's head; one memory that
 * both write. Not a transport: a limit to compare with.
 *
 * Blocking, a side that waits sleeps in a futex.
 */
#include "loop.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RAW_INLINE 32

struct raw_slot {
	uint32_t seq; /* ready when == position + 1, stored last */
	uint32_t len;
	uint64_t offset; /* in the area */
	uint64_t unused[2];
	uint8_t data[RAW_INLINE];
};

struct raw_ring {
	_Alignas(BENCH_LINE) uint32_t head; /* consumed so far */
	_Alignas(BENCH_LINE) uint32_t consumer_asleep;
	_Alignas(BENCH_LINE) uint32_t producer_asleep;
	_Alignas(BENCH_LINE) struct raw_slot slots[BENCH_RING_SLOTS];
};

/* Memory: two rings, then two areas. Side i sends in ring i. */
struct raw_state {
	uint32_t window; /* slots in use at once */
	uint32_t buffers;
	uint32_t stride; /* bytes from one buffer to the next */
	struct raw_ring *tx;
	uint8_t *tx_area;
	uint32_t tx_position;
	uint32_t tx_limit;
	struct raw_ring *rx;
	const uint8_t *rx_area;
	uint32_t rx_position;
	uint32_t rx_step; /* the head moves by this many */
};

static struct raw_state raw; /* of this process */

/*
 * Buffers that are reused while they are warm are faster than many: one is
 * enough for a ping-pong; a stream gets so many that 1 MiB of them is touched,
 * but at least four, and no more than 64 MiB.
 */
static uint32_t raw_buffers(const struct bench_case *c)
{
	size_t count = (1u << 20) / c->touched;

	if (c->pattern == PATTERN_PINGPONG)
		return 1;
	if (count > BENCH_RING_SLOTS)
		count = BENCH_RING_SLOTS;
	if (count > (64u << 20) / c->size)
		count = (64u << 20) / c->size;
	return count < 4 ? 4 : (uint32_t)count;
}

static uint32_t raw_stride(const struct bench_case *c)
{
	const size_t unit = c->size < 4096 ? BENCH_LINE : 4096;

	return (uint32_t)((c->size + unit - 1) / unit * unit);
}

static int raw_prepare(const struct bench_case *c,
		       struct bench_channel *channel, char reason[BENCH_TEXT])
{
	size_t size = 2 * sizeof(struct raw_ring) +
		      2 * (size_t)raw_buffers(c) * raw_stride(c) + 4096;
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		snprintf(reason, BENCH_TEXT, "no shared memory: %s",
			 strerror(errno));
		return -errno;
	}
	channel->memory = memory;
	channel->memory_size = size;
	return 0;
}

static int raw_open(struct bench_side *side)
{
	const size_t rings = (2 * sizeof(struct raw_ring) + 4095) & ~4095ul;
	const size_t area = (size_t)raw_buffers(side->c) * raw_stride(side->c);
	struct raw_ring *ring = side->channel->memory;
	uint8_t *areas = (uint8_t *)side->channel->memory + rings;
	size_t i, at;

	raw.buffers = raw_buffers(side->c);
	/* An answer says that the one buffer is free again. */
	raw.window = side->c->pattern == PATTERN_PINGPONG ? BENCH_RING_SLOTS :
							    raw.buffers;
	raw.stride = raw_stride(side->c);
	raw.tx = &ring[side->index];
	raw.tx_area = areas + side->index * area;
	raw.tx_limit = raw.window;
	raw.rx = &ring[!side->index];
	raw.rx_area = areas + !side->index * area;
	raw.rx_step = raw.window / 4;
	/* Page faults belong to the setup. */
	for (i = 0; i < raw.buffers; i++) {
		for (at = 0; at < side->touched; at += 4096) {
			(void)*(volatile uint8_t *)&raw
				.tx_area[i * raw.stride + at];
			(void)*(const volatile uint8_t *)&raw
				.rx_area[i * raw.stride + at];
		}
	}
	return 0;
}

static int raw_close(struct bench_side *side)
{
	(void)side;
	return 0;
}

/*
 * Sleep until *word is no longer `old`. The fence pairs with raw_wake()'s:
 * either this sees the new word, or the other sees the flag.
 */
static void raw_sleep(uint32_t *flag, const uint32_t *word, uint32_t old)
{
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == old) {
		__atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != old)
			break;
		syscall(SYS_futex, flag, FUTEX_WAIT, 1, NULL, NULL, 0);
	}
	__atomic_store_n(flag, 0, __ATOMIC_RELAXED);
}

static void raw_wake(uint32_t *flag)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(flag, __ATOMIC_RELAXED) &&
	    __atomic_exchange_n(flag, 0, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, flag, FUTEX_WAKE, 1, NULL, NULL, 0);
}

LOOP void *raw_begin(struct bench_side *side)
{
	const uint32_t position = raw.tx_position;
	uint32_t head;

	while (__builtin_expect(position == raw.tx_limit, 0)) {
		head = __atomic_load_n(&raw.tx->head, __ATOMIC_ACQUIRE);
		raw.tx_limit = head + raw.window;
		if (position != raw.tx_limit)
			break;
		if (side->block)
			raw_sleep(&raw.tx->producer_asleep, &raw.tx->head,
				  head);
		else
			bench_relax();
	}
	if (side->size <= RAW_INLINE)
		return raw.tx->slots[position % BENCH_RING_SLOTS].data;
	return raw.tx_area + (size_t)(position % raw.buffers) * raw.stride;
}

LOOP int raw_send(struct bench_side *side)
{
	const uint32_t position = raw.tx_position++;
	struct raw_slot *slot = &raw.tx->slots[position % BENCH_RING_SLOTS];

	slot->len = (uint32_t)side->size;
	slot->offset = (uint64_t)(position % raw.buffers) * raw.stride;
	__atomic_store_n(&slot->seq, position + 1, __ATOMIC_RELEASE);
	if (side->block)
		raw_wake(&raw.tx->consumer_asleep);
	return 0;
}

LOOP const void *raw_take(struct bench_side *side)
{
	const uint32_t position = raw.rx_position;
	const struct raw_slot *slot =
		&raw.rx->slots[position % BENCH_RING_SLOTS];
	uint32_t seq;

	while ((seq = __atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE)) !=
	       position + 1) {
		if (side->block)
			raw_sleep(&raw.rx->consumer_asleep, &slot->seq, seq);
		else
			bench_relax();
	}
	return slot->len <= RAW_INLINE ? slot->data :
					 raw.rx_area + slot->offset;
}

LOOP int raw_done(struct bench_side *side)
{
	if (++raw.rx_position % raw.rx_step)
		return 0;
	__atomic_store_n(&raw.rx->head, raw.rx_position, __ATOMIC_RELEASE);
	if (side->block)
		raw_wake(&raw.rx->producer_asleep);
	return 0;
}

static int raw_run(struct bench_side *side)
{
	static const struct loop_ops ops = {
		.begin = raw_begin,
		.send = raw_send,
		.take = raw_take,
		.done = raw_done,
	};

	return loop_run(side, ops);
}

const struct bench_system bench_raw = {
	.name = "raw",
	.what = "the limit: a bare ring of 64-byte slots in shared memory, "
		"unchecked (blocking: futex)",
	.prepare = raw_prepare,
	.open = raw_open,
	.run = raw_run,
	.close = raw_close,
};
