/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What tap.c and tap-lib.c share; tests include tap.h alone. */
#ifndef TAP_LIB_H
#define TAP_LIB_H

#include <stdatomic.h>
#include <stdint.h>

#define TAP_NAME_MAX 128
#define TAP_EXIT_FAIL 1
#define TAP_EXIT_SKIP 77

/* Shared by the harness and the processes of the case that runs. */
struct tap_shared {
	_Atomic int64_t deadline; /* on tap_now()'s clock */
	char name[TAP_NAME_MAX]; /* of the case */
	char reason[256]; /* why it was skipped */
};

extern struct tap_shared *tap_shared;

/* Of this program run: $SLUICE_SEED, or random. */
uint64_t tap_seed(void);

#endif
