/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* Taking over a pinned program and its maps. */
#ifndef SLUICED_ADOPT_H
#define SLUICED_ADOPT_H

#include "programs.h"

/*
 * Finds the maps that programs->steer uses, and checks that program and maps are
 * those this sluiced is made for. 0 or -errno, after it has said why; -ESTALE if
 * they are of another version.
 */
int adopt_maps(struct programs *programs);

#endif
