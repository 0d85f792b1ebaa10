#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Explores every interleaving of steer.pml, the model of the order between ring
# and queue: as specified nothing may be overtaken or stuck, and with any one
# part of it removed something must be. Beside others. Limit: 240 s

model=steer
# shellcheck source=selftests/model.sh
. "$(dirname "$0")/model.sh"

two='-DFIRST=3 -DTHIRD=0' # messages: more of them in fewer threads
# shellcheck disable=SC2086
explore_two() {
	explore $two "$@"
}

# With all of its defaults the model takes most of a minute by itself.
explore -DHOLDS=0
report 'as specified, three threads: in order, never stuck' holds
explore -DFIRST=1
report 'as specified, three threads and a hold: in order, never stuck' holds
explore_two -DHOLDS=2
report 'as specified, two threads: in order, never stuck' holds
explore_two -DSTRANGER=1
report 'as specified, another is preempted: in order, never stuck' \
	holds_and_covers sender receiver
explore_two -DHASHED=1
report 'as specified, hashed: in order, never stuck' holds
explore -DNO_CHARGE=1
report 'NO_CHARGE: a message is overtaken' violates before
explore -DNO_REREAD=1
report 'NO_REREAD: a message is overtaken' violates before
explore -DNO_DRAIN=1
report 'NO_DRAIN: a message is overtaken' violates before
explore -DNO_HOLD=1
report 'NO_HOLD: a message is stuck' stuck
explore_two -DSTRANGER=1 -DNO_AHEAD=1
report 'NO_AHEAD: a message is overtaken' violates before
explore_two -DNO_LIMIT=1
report 'NO_LIMIT: a message is overtaken' violates before
explore_two -DHASHED=1 -DNO_TURN=1
report 'NO_TURN: a message is overtaken' violates before

model_end
