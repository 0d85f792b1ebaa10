#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Explores every interleaving of landing.pml, the model of STREAM that lands: as
# specified nothing may be overtaken, missing or stuck, and with any one part of it
# removed something must be. Beside others. Limit: 480 s

model=landing
# shellcheck source=selftests/model.sh
. "$(dirname "$0")/model.sh"

explore
report 'one thread: in order, all there, never stuck' holds
explore -DFIRST=2 -DSECOND=1
report 'two threads: in order, all there, never stuck' holds
explore -DFIRST=2 -DSECOND=1 -DSWAP=1
report 'SWAP: all there, never stuck' holds
for rule in NO_SPILLED LATE NO_DRAIN; do
	explore "-D$rule=1" -DFIRST=2 -DSECOND=1
	report "$rule: a piece is overtaken" violates before
done
explore -DNO_WAIT=1
report 'NO_WAIT: the end comes too early' violates delivered

model_end
