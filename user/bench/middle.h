/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * relay, switch, sockmap: a third process is between the two sides, or the kernel
 * in its stead.
 */
#ifndef BENCH_MIDDLE_H
#define BENCH_MIDDLE_H

#include <stdint.h>

/*
 * CPU time, in ns, of whoever is in the middle, inherited by the sides: its
 * process, and the kernel's workers, which redirection sends with. 0 if nobody
 * is. Takes some milliseconds.
 */
uint64_t middle_cpu_ns(void);

/* Before each repetition: nobody is there yet. */
void middle_begin(void);

/* Ends whoever is left of them. */
void middle_end(void);

#endif
