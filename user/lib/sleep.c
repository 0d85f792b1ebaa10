/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The sleeper's half of PROTOCOL.md section 8; the waker's is in lane.c, recv.c and,
 * for peers that spin, in hot.h. selftests/sleep.pml is the model of both.
 */
#include "internal.h"

#include <time.h>

/* Longer than any store buffer takes to drain: if membarrier was taken away. */
static const struct timespec drain_time = { .tv_nsec = 1000000 };

/* Messages without a sleep that make up for the membarrier of the next one. */
#define SPIN_AFTER 1024

static bool spins(const struct sleep_word *word)
{
	return (word->value & SLUICE_STATE_MASK) == SLUICE_STATE_SPIN;
}

static void word_state(struct sleep_word *word, uint32_t state)
{
	word->value = (word->value & ~SLUICE_STATE_MASK) | state;
	__atomic_store_n(word->shared, word->value, __ATOMIC_RELAXED);
}

void words_sleep(struct sleep_word *rx, struct sleep_word *tx,
		 bool peer_registered)
{
	if ((rx && spins(rx)) || (tx && spins(tx))) {
		if (rx)
			word_state(rx, SLUICE_STATE_MAY_SLEEP);
		if (tx)
			word_state(tx, SLUICE_STATE_MAY_SLEEP);
		/*
		 * Pairs with the missing fence of sluice__published() and
		 * sluice_release() in a peer that read SPIN: it has published
		 * before this returns, or it will read MAY_SLEEP. Without it
		 * our look at the ring and its look at the word could both
		 * come too early.
		 */
		if (peer_registered && !process_membarrier()) {
			nanosleep(&drain_time, NULL);
			if (rx)
				rx->may_spin = false;
			if (tx)
				tx->may_spin = false;
		}
	}
	if (rx) {
		rx->value += SLUICE_STATE_SLEEP;
		word_state(rx, SLUICE_STATE_ASLEEP);
	}
	if (tx) {
		tx->value += SLUICE_STATE_SLEEP;
		word_state(tx, SLUICE_STATE_ASLEEP);
	}
	/*
	 * Pairs with the fence of sluice_wake_consumer() and _producer(): word
	 * before ring here, ring before word there; one of us sees the other.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void word_wake(struct sleep_word *word)
{
	if ((word->value & SLUICE_STATE_MASK) == SLUICE_STATE_ASLEEP)
		word_state(word, SLUICE_STATE_MAY_SLEEP);
}

void word_spin(struct sleep_word *word, uint32_t position, bool forever)
{
	if (!word->may_spin ||
	    (word->value & SLUICE_STATE_MASK) != SLUICE_STATE_MAY_SLEEP)
		return;
	if (forever || position - word->since >= SPIN_AFTER)
		word_state(word, SLUICE_STATE_SPIN);
}
