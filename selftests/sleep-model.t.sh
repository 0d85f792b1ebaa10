#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Explores every interleaving of sleep.pml, the model of sleep and wake: as
# specified it must lose no wake-up, and with any one part of it removed it must
# lose one, of the kind that belongs to that part. Beside others. Limit: 600 s

model='sleep'
# shellcheck source=selftests/model.sh
. "$(dirname "$0")/model.sh"

# As long as many of the others: beside them.
(cd ../whole && explore) &
whole=$!
explore -DMESSAGES=3 -DREGISTERED=0
report 'neither side registered: no wake-up is lost' holds
for side in 1 2; do
	explore -DMESSAGES=3 -DREGISTERED=$side
	report "one side registered ($side): no wake-up is lost" holds
done
explore -DMESSAGES=3 -DNO_RETRY=3
report 'a doorbell dropped at EAGAIN: no wake-up is lost' holds
explore_as '-O1 -DNP' -l -DMESSAGES=3
report 'every run ends' holds

for part in NO_RECHECK NO_SLEEPER_FENCE NO_MEMBARRIER NO_WAKER_FENCE \
	NO_NUMBER; do
	explore -D$part=1
	report "$part: the consumer's wake-up is lost" violates '(blocked&1)'
	explore -D$part=2
	report "$part: the producer's wake-up is lost" violates '(blocked&2)'
done
explore -DREGISTERED=0 -DNO_WAKER_FENCE=1
report 'NO_WAKER_FENCE, unregistered: the wake-up is lost' violates '(blocked&1)'
explore -DNOTE_STARTS_AS=1
report 'NOTE_STARTS_AS the first number: the wake-up is lost' violates '(blocked&1)'

wait $whole
cd ../whole || exit 1
report 'as specified: no wake-up is lost' holds_and_covers producer consumer

model_end
