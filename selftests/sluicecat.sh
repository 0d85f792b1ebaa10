# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# shellcheck shell=bash
#
# For the tests of sluicecat: each case runs in a directory of its own, every
# process is waited for with a limit, and nothing may be left behind.
# shellcheck source=selftests/tap.sh
. "${BASH_SOURCE[0]%/*}/tap.sh"

cat=$SLUICE_BUILD/bin/sluicecat
tmp=$(mktemp -d "$TMPDIR/sluicecat.XXXXXX")
# shellcheck disable=SC2034 # a part of names, for the tests
id=${tmp##*.}
pid=0
rx=0
tx=0
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

# Waits at most 20 s for a child; its exit code, or 124.
finish()
{
	if ! timeout 20 tail --pid="$1" -s 0.02 -f /dev/null; then
		echo "process $1 hangs"
		kill -9 "$1"
		wait "$1"
		return 124
	fi
	wait "$1"
}

# Both sides of a transfer: sets rx and tx to their exit codes.
both()
{
	finish "$2"
	tx=$?
	finish "$1"
	rx=$?
}

# fails the test unless the values are equal
is()
{
	[ "$2" = "$3" ] && return
	echo "$1: got '$2', expected '$3'"
	exit 1
}

# fails the test unless file $1 holds the text $2
says()
{
	grep -qF -- "$2" "$1" && return
	echo "$1 does not say '$2' but:"
	cat "$1"
	exit 1
}

same()
{
	cmp "$1" "$2" || exit 1
}

# Waits at most 10 s until the test passes.
until_true()
{
	local i
	for ((i = 0; i < 1000; i++)); do
		"$@" && return
		sleep 0.01
	done
	echo "never true: $*"
	exit 1
}

# The end of a case: fails it if it left a process or a socket.
tidy()
{
	local code=$1 left
	left=$(jobs -pr; jobs -ps)
	if [ -n "$left" ]; then
		echo "left running: $left"
		# shellcheck disable=SC2086 # a list of process ids
		kill -9 $left
		code=1
	fi
	left=$(find . -type s)
	if [ -n "$left" ]; then
		echo "left: $left"
		code=1
	fi
	exit "$code"
}

# Runs a function in a directory of its own; shows what it printed if it fails.
in_own_directory()
{
	local code=0
	set +e
	mkdir "$tmp/$1"
	(
		cd "$tmp/$1" || exit 1
		trap 'tidy $?' EXIT
		"$1"
	) >"$tmp/log" 2>&1
	code=$?
	[ "$code" = 0 ] || cat "$tmp/log"
	rm -rf "${tmp:?}/$1"
	return "$code"
}

# t FUNCTION DESCRIPTION: one case
t()
{
	tap_case "$2" in_own_directory "$1"
}

# transfer FILE [SENDER OPTION]...: to a listener at $at; out is the result
at=./s
listen=()
transfer()
{
	local file=$1
	shift
	"$cat" -l "${listen[@]}" "$at" >out 2>rx.err &
	pid=$!
	"$cat" -w 10 "$@" "$at" <"$file" 2>tx.err &
	both "$pid" $!
}

good()
{
	cat rx.err tx.err
	is receiver "$rx" 0
	is sender "$tx" 0
	same "$1" out
}
