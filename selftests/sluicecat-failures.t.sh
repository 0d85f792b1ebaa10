#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicecat: whatever fails fails on both sides and says why.
# shellcheck source=selftests/sluicecat.sh
. "${0%/*}/sluicecat.sh"

# Failures -----------------------------------------------------------------

receiver_killed()
{
	mkfifo fifo
	"$cat" -l "$at" >fifo 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" </dev/zero 2>tx.err &
	tx=$!
	exec 3<fifo
	timeout 10 head -c 20M <&3 >/dev/null
	kill -9 "$pid"
	both "$pid" "$tx"
	is receiver "$rx" 137
	is sender "$tx" 1
	says tx.err "sluicecat: the peer closed before the end"
}

receiver_killed_while_input_is_idle()
{
	mkfifo fifo
	exec 3<>fifo
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" <fifo 2>tx.err &
	tx=$!
	echo hello >&3
	until_true test -s out
	kill -9 "$pid"
	both "$pid" "$tx"
	is sender "$tx" 1
	says tx.err "sluicecat: the peer closed before the end"
}

sender_killed()
{
	"$cat" -l "$at" >/dev/null 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" </dev/zero 2>tx.err &
	tx=$!
	sleep 0.3
	kill -9 "$tx"
	both "$pid" "$tx"
	is sender "$tx" 137
	is receiver "$rx" 1
	says rx.err "sluicecat: the peer closed before the end"
}

sender_killed_while_idle()
{
	mkfifo fifo
	exec 3<>fifo
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" <fifo 2>tx.err &
	tx=$!
	echo hello >&3
	until_true test -s out
	kill -9 "$tx"
	both "$pid" "$tx"
	is receiver "$rx" 1
	is "what came before" "$(cat out)" hello
	says rx.err "sluicecat: the peer closed before the end"
}

disk_full()
{
	local bytes
	for bytes in 1 100 1000000 50000000; do
		"$cat" -l "$at" >/dev/full 2>rx.err &
		pid=$!
		head -c "$bytes" /dev/zero | "$cat" -w 10 "$at" 2>tx.err
		tx=${PIPESTATUS[1]}
		finish "$pid"
		is receiver $? 1
		is sender "$tx" 1
		says rx.err "sluicecat: cannot write the output: No space left"
		says tx.err \
			"the peer failed: cannot write the output: No space left"
	done
}

broken_pipe()
{
	"$cat" -w 10 "$at" </dev/zero 2>tx.err &
	pid=$!
	timeout 20 "$cat" -l "$at" 2>rx.err | head -c 1M >out
	is receiver "${PIPESTATUS[0]}" 1
	finish "$pid"
	is sender $? 1
	says tx.err "the peer failed: cannot write the output: Broken pipe"
}

unreadable_input()
{
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" <. 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 1
	is sender "$tx" 1
	says tx.err "sluicecat: cannot read the input: Is a directory"
}

# Names and options --------------------------------------------------------

# usage CODE TEXT ARGUMENT...: what sluicecat exits with and says
usage()
{
	local expected=$1 text=$2
	shift 2
	timeout 10 "$cat" "$@" </dev/null >out 2>err
	is "exit code of $*" $? "$expected"
	says err "$text"
}

nobody_listens()
{
	usage 1 "sluicecat: nobody listens at './s'" ./s
	usage 1 "sluicecat: nobody listens at '@none-$id'" "@none-$id"
	usage 1 "sluicecat: nobody listens at './s'" -w 0.2 ./s
	usage 1 "sluicecat: nobody came to './s'" -l -w 0.2 ./s
}

bad_options()
{
	usage 2 usage:
	usage 2 usage: -l
	usage 2 "invalid option" -Z ./s
	usage 2 "unrecognized option" --nothing ./s
	usage 2 "requires an argument" ./s -x
	usage 2 "bad number of seconds '-1'" -w -1 ./s
	usage 2 "bad number of seconds '1h'" -w 1h ./s
	usage 2 "bad number of seconds 'nan'" -w nan ./s
	local size
	for size in 0 1K 33M 1G -1M x 4K4 '' 99999999999999999999; do
		usage 2 "buffer size not 4K to 32M: '$size'" -b "$size" ./s
	done
	usage 2 "the sender cannot extract into '.'" -x . ./s
	usage 2 "the receiver cannot send 'file'" -l ./s file
	timeout 10 "$cat" --help >out 2>err
	is "exit code of --help" $? 0
	says out "usage: sluicecat"
	timeout 10 "$cat" --version >out 2>err
	is "exit code of --version" $? 0
	says out "sluicecat "
}

bad_names()
{
	local long side
	long=./$(printf 'x%.0s' {1..200})
	for side in -r -l; do
		usage 2 "sluicecat: bad name ''" "$side" ''
		usage 2 "sluicecat: bad name '@'" "$side" @
		usage 2 "sluicecat: name too long" "$side" "$long"
	done
	usage 1 "cannot listen at './none/s': No such file" -l ./none/s
	: >file
	usage 1 "'./file'" -l ./file
	[ -f file ]
}

missing_files()
{
	usage 1 "sluicecat: cannot read 'none': No such file" ./s none
	usage 1 "cannot extract into 'none': No such file" -l -x none ./s
	: >file
	usage 1 "cannot extract into 'file': Not a directory" -l -x file ./s
	timeout 10 "$cat" -l ./s >&- 2>err
	is "exit code without output" $? 1
	says err "sluicecat: standard output is closed"
}

name_in_use()
{
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	until_true test -S s
	usage 1 "sluicecat: './s' is in use" -l ./s
	# the second one must not have been taken for a client
	is "running listeners" "$(jobs -pr)" "$pid"
	is "the path" "$(find s)" s
	kill -TERM "$pid"
	finish "$pid"
	is "killed listener" $? 143
	[ ! -e s ]
}

stale_path()
{
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	until_true test -S s
	kill -9 "$pid"
	finish "$pid"
	[ -S s ] || exit 1
	usage 1 "nobody listens" ./s
	printf again >in
	transfer in
	good in
}

t receiver_killed "receiver killed"
t receiver_killed_while_input_is_idle "receiver killed, the input idle"
t sender_killed "sender killed in full flow"
t sender_killed_while_idle "sender killed, what it sent is there"
t disk_full "output full: both fail, and the sender says why"
t broken_pipe "reader of the output gone"
t unreadable_input "unreadable input"
t nobody_listens "nobody listens, nobody comes"
t bad_options "bad options"
t bad_names "bad names"
t missing_files "missing files"
t name_in_use "name in use; SIGTERM removes the path"
t stale_path "a path that a killed listener left is replaced"

tap_done
