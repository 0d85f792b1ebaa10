#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Explores every interleaving of sockmap.pml, the model of a stream that moves from
# user space to the kernel: as specified nothing may be overtaken or stuck, and
# with any one part of it removed something must be. Beside others. Limit: 480 s

model=sockmap
# shellcheck source=selftests/model.sh
. "$(dirname "$0")/model.sh"

explore
report 'as specified: in order, never stuck' holds_and_covers sender worker
explore -DMESSAGES=6 -DCAP=3
report 'as specified, a larger send buffer: in order, never stuck' holds
for rule in NO_HELD NO_SENT NO_FENCE NO_QUIET NO_READ; do
	explore "-D$rule=1"
	report "$rule: a piece is overtaken, or comes twice" violates received
done
for rule in NO_SETTLE NO_LAGGING; do
	explore "-D$rule=1"
	report "$rule: a piece is stuck" stuck
done

model_end
