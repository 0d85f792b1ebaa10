#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Explores every interleaving of sleep.pml, the model of sleep and wake: as
# specified it must lose no wake-up, and with any one part of it removed it must
# lose one, of the kind that belongs to that part. Limit: 600 s

# Functions are called by way of report.
# shellcheck disable=SC2317
here=$(cd "$(dirname "$0")" && pwd)
tests=0
failed=0

if [ -n "${SLUICE_SANITIZER-}" ]; then
	echo '1..0 # SKIP the model is the same in every build'
	exit 0
fi
for tool in spin "${CC:-cc}"; do
	if ! command -v "$tool" >/dev/null; then
		echo "1..0 # SKIP $tool is not installed (make deps installs it)"
		exit 0
	fi
done

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$tmp/whole" "$tmp/rest" && cd "$tmp/rest" || exit 1

# explore "COMPILER OPTIONS" "PAN OPTIONS" [MODEL OPTIONS]: output goes to ./out
explore() {
	compiler_options=$1
	pan_options=$2
	shift 2
	rm -f ./*
	{
		# shellcheck disable=SC2086
		spin "$@" -a "$here/sleep.pml" &&
			"${CC:-cc}" $compiler_options -DNOCLAIM -DCOLLAPSE \
				-o pan pan.c &&
			./pan $pan_options -b -m10000
	} >out 2>&1
}

# report TEXT CONDITION...: one TAP line; the output explains a failure
report() {
	text=$1
	shift
	tests=$((tests + 1))
	if "$@"; then
		echo "ok $tests - $text"
	else
		failed=1
		echo "not ok $tests - $text"
		sed 's/^/# /' out
	fi
	sed -n 's/^ *\([0-9]* states\), stored.*/# \1/p' out
}

holds() {
	grep -q 'errors: 0$' out &&
		! grep -Eq 'not completed|depth too small|out of memory' out
}

# All of the model took part: no line of either side is never executed.
holds_and_covers() {
	holds &&
		[ "$(grep -A1 -E 'proctype (producer|consumer)$' out |
			grep -c '(0 of [0-9]* states)')" = 2 ]
}

lost() {
	grep -q 'errors: 1$' out &&
		grep -q "^pan:1: assertion violated .*(blocked&$1)" out
}

safety='-O1 -DSAFETY'

# As long as many of the others: beside them.
(cd ../whole && explore "$safety" '') &
whole=$!
explore "$safety" '' -DMESSAGES=3 -DREGISTERED=0
report 'neither side registered: no wake-up is lost' holds
for side in 1 2; do
	explore "$safety" '' -DMESSAGES=3 -DREGISTERED=$side
	report "one side registered ($side): no wake-up is lost" holds
done
explore "$safety" '' -DMESSAGES=3 -DNO_RETRY=3
report 'a doorbell dropped at EAGAIN: no wake-up is lost' holds
explore '-O1 -DNP' -l -DMESSAGES=3
report 'every run ends' holds

for part in NO_RECHECK NO_SLEEPER_FENCE NO_MEMBARRIER NO_WAKER_FENCE \
	NO_NUMBER; do
	explore -DSAFETY '' -D$part=1
	report "$part: the consumer's wake-up is lost" lost 1
	explore -DSAFETY '' -D$part=2
	report "$part: the producer's wake-up is lost" lost 2
done
explore -DSAFETY '' -DREGISTERED=0 -DNO_WAKER_FENCE=1
report 'NO_WAKER_FENCE, unregistered: the wake-up is lost' lost 1
explore -DSAFETY '' -DNOTE_STARTS_AS=1
report 'NOTE_STARTS_AS the first number: the wake-up is lost' lost 1

wait $whole
cd ../whole || exit 1
report 'as specified: no wake-up is lost' holds_and_covers

echo "1..$tests"
exit $failed
