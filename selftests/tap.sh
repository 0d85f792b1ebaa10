# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# shellcheck shell=bash
#
# TAP for test scripts in bash, NAME.t.sh:
#
#	. "${0%/*}/tap.sh"
#	greets() { sluicecat --help | grep -q usage; }
#	tap_case "greets the user" greets
#	tap_case "knows no such option" tap_fails sluicecat --nonsense
#	tap_done
#
# A case is a command or function; it runs in a subshell of its own with `set
# -e`, and what it prints is shown as comments. It returns 77 after tap_skip
# "reason". PATH has the tools that were built, the cwd is $TMPDIR, which the
# runner makes and wants back empty; $SOURCE is the top of the source tree.

set -u
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export SLUICE_BUILD=${SLUICE_BUILD:-$SOURCE/build}
export PATH=$SLUICE_BUILD/bin:$PATH
export TMPDIR=${TMPDIR:-/tmp}
cd "$TMPDIR" || exit 2
tap_count=0
tap_failed=0

# The command must end with a status from 1 to 123: no signal, no timeout.
tap_fails()
{
	local status=0

	"$@" || status=$?
	test "$status" -ge 1 && test "$status" -le 123
}

# tap_says STATUS TEXT COMMAND...: exits so, and says that on standard error only.
tap_says()
{
	local status=0

	"${@:3}" >"$TMPDIR/says.out" 2>"$TMPDIR/says.err" || status=$?
	cat "$TMPDIR/says.err"
	test "$status" = "$1" && grep -qF -- "$2" "$TMPDIR/says.err" &&
		test ! -s "$TMPDIR/says.out" || status=-1
	rm "$TMPDIR/says.out" "$TMPDIR/says.err"
	test "$status" != -1
}

tap_skip()
{
	echo "SKIP $*"
	exit 77
}

tap_case()
{
	local name=$1 output status

	shift
	tap_count=$((tap_count + 1))
	output=$(
		exec 2>&1 </dev/null
		set -e
		"$@"
	)
	status=$?
	if test $status = 77 && test "${output##*SKIP }" != "$output"; then
		echo "ok $tap_count - $name # SKIP ${output##*SKIP }"
		return
	fi
	test -n "$output" && sed 's/^/# /' <<<"$output"
	if test $status = 0; then
		echo "ok $tap_count - $name"
	else
		echo "# status $status"
		echo "not ok $tap_count - $name"
		tap_failed=1
	fi
}

# A script that cannot run at all.
tap_skip_all()
{
	echo "1..0 # SKIP $*"
	exit 0
}

# Skips all where one of these tools is not there.
tap_needs()
{
	local tool

	for tool; do
		command -v "$tool" >/dev/null ||
			tap_skip_all "$tool is not installed (make deps installs it)"
	done
}

tap_done()
{
	echo "1..$tap_count"
	exit $tap_failed
}
