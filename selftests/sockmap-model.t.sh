#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Explores every interleaving of sockmap.pml, the model of a stream that moves from
# user space to the kernel: as specified nothing may be overtaken or stuck, and
# with any one part of it removed something must be. Limit: 480 s

# Functions are called by way of report.
# shellcheck disable=SC2317
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

# explore [MODEL OPTIONS]: output goes to ./out
explore() {
	rm -f ./*
	{
		spin "$@" -a "$here/sockmap.pml" &&
			"${CC:-cc}" -O1 -DSAFETY -DNOCLAIM -DCOLLAPSE -o pan \
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

# All of the model took part: no line of any side is never executed.
holds_and_covers() {
	holds &&
		[ "$(grep -A1 -E 'proctype (sender|worker)$' out |
			grep -c '(0 of [0-9]* states)')" = 2 ]
}

overtaken() {
	grep -q 'errors: 1$' out &&
		grep -q '^pan:1: assertion violated .*received' out
}

stuck() {
	grep -q 'errors: 1$' out && grep -q '^pan:1: invalid end state' out
}

explore
report 'as specified: in order, never stuck' holds_and_covers
explore -DMESSAGES=6 -DCAP=3
report 'as specified, a larger send buffer: in order, never stuck' holds
for rule in NO_HELD NO_SENT NO_SKIP NO_QUIET NO_WAIT RECEIVE IN_PIECES; do
	explore "-D$rule=1"
	report "$rule: a piece is overtaken, or comes twice" overtaken
done
for rule in NO_SETTLE LATE; do
	explore "-D$rule=1"
	report "$rule: a piece is stuck" stuck
done

echo "1..$tests"
exit $failed
