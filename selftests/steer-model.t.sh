#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Explores every interleaving of steer.pml, the model of the order between ring
# and queue: as specified nothing may be overtaken or stuck, and with any one
# part of it removed something must be. Limit: 240 s

# Functions are called by way of report; $two is several words.
# shellcheck disable=SC2317,SC2086
here=$(cd "$(dirname "$0")" && pwd)
tests=0
failed=0

for tool in spin "${CC:-cc}"; do
	if ! command -v "$tool" >/dev/null; then
		echo "1..0 # SKIP $tool is not installed (make deps installs it)"
		exit 0
	fi
done

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
cd "$tmp" || exit 1

two='-DFIRST=3 -DTHIRD=0' # messages: more of them in fewer threads

# explore [MODEL OPTIONS]: output goes to ./out
explore() {
	rm -f ./*
	{
		spin "$@" -a "$here/steer.pml" &&
			"${CC:-cc}" -O2 -DSAFETY -DNOCLAIM -DCOLLAPSE -o pan \
				pan.c &&
			timeout 180 ./pan -b -m10000
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
		[ "$(grep -A1 -E 'proctype (sender|receiver)$' out |
			grep -c '(0 of [0-9]* states)')" = 2 ]
}

overtaken() {
	grep -q 'errors: 1$' out &&
		grep -q '^pan:1: assertion violated .*before' out
}

stuck() {
	grep -q 'errors: 1$' out && grep -q '^pan:1: invalid end state' out
}

# With all of its defaults the model takes most of a minute by itself.
explore -DHOLDS=0
report 'as specified, three threads: in order, never stuck' holds
explore -DFIRST=1
report 'as specified, three threads and a hold: in order, never stuck' holds
explore $two -DHOLDS=2
report 'as specified, two threads: in order, never stuck' holds
explore $two -DSTRANGER=1
report 'as specified, another is preempted: in order, never stuck' \
	holds_and_covers
explore $two -DHASHED=1
report 'as specified, hashed: in order, never stuck' holds
explore -DNO_CHARGE=1
report 'NO_CHARGE: a message is overtaken' overtaken
explore -DNO_REREAD=1
report 'NO_REREAD: a message is overtaken' overtaken
explore -DNO_DRAIN=1
report 'NO_DRAIN: a message is overtaken' overtaken
explore -DNO_HOLD=1
report 'NO_HOLD: a message is stuck' stuck
explore $two -DSTRANGER=1 -DNO_AHEAD=1
report 'NO_AHEAD: a message is overtaken' overtaken
explore $two -DNO_LIMIT=1
report 'NO_LIMIT: a message is overtaken' overtaken
explore $two -DHASHED=1 -DNO_TURN=1
report 'NO_TURN: a message is overtaken' overtaken

echo "1..$tests"
exit $failed
