/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The inlines of sluice.h as functions, for languages that cannot inline C. */
#define SLUICE_INLINE __attribute__((visibility("default")))

#include <sluice/sluice.h>
