/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The steered lane's fan-in: one endpoint for all connections of the receiver,
 * which waits for them in a set.
 */
#ifndef BENCH_STEERED_H
#define BENCH_STEERED_H

#include "fanin.h"

int steered_fanin_open(struct bench_side *side, bool aware);
int steered_fanin_plain_run(struct bench_side *side);
int steered_fanin_aware_run(struct bench_side *side);
int steered_fanin_close(struct bench_side *side);

#endif
