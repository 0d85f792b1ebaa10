# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Of tests that explore a Promela model: source it with the model's name in $model.
# It leaves the shell in an empty directory; end with model_end.

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

# explore_as "COMPILER OPTIONS" "PAN OPTIONS" [MODEL OPTIONS]: output goes to ./out
explore_as() {
	compiler_options=$1
	pan_options=$2
	shift 2
	rm -f ./*
	{
		# shellcheck disable=SC2086,SC2154
		spin "$@" -a "$here/$model.pml" &&
			"${CC:-cc}" $compiler_options -DNOCLAIM -DCOLLAPSE \
				-o pan pan.c &&
			timeout 500 ./pan $pan_options -b -m10000
	} >out 2>&1
}

# The same for what may not happen (safety).
explore() {
	explore_as '-O2 -DSAFETY' '' "$@"
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

# holds_and_covers PROCESS PROCESS: no line of either is never executed.
holds_and_covers() {
	holds &&
		[ "$(grep -A1 -E "proctype ($1|$2)\$" out |
			grep -c '(0 of [0-9]* states)')" = 2 ]
}

# violates TEXT: an assertion with it
violates() {
	grep -q 'errors: 1$' out &&
		grep -q "^pan:1: assertion violated .*$1" out
}

stuck() {
	grep -q 'errors: 1$' out && grep -q '^pan:1: invalid end state' out
}

model_end() {
	echo "1..$tests"
	exit $failed
}
