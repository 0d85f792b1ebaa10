#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicecat: what goes in comes out, in every role and lane; whatever fails
# fails on both sides and says why. TAP; each test runs in its own directory,
# every process is waited for with a limit, and nothing may be left behind.
# shellcheck source=selftests/tap.sh
. "${0%/*}/tap.sh"

cat=$SLUICE_BUILD/bin/sluicecat
tmp=$(mktemp -d "$TMPDIR/sluicecat.XXXXXX")
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

# Files -------------------------------------------------------------------

empty_file()
{
	: >in
	transfer in
	good in
	says tx.err "sent 0 bytes"
}

one_byte()
{
	printf x >in
	transfer in
	good in
	says rx.err "received 1 bytes"
}

sizes()
{
	local n
	for n in 31 32 33 4096 8191 1048575 1048576 1048577; do
		head -c "$n" /dev/urandom >in
		transfer in
		good in
	done
}

big_file()
{
	head -c 64M /dev/urandom >in
	transfer in
	good in
	is checksum "$(sha256sum <out)" "$(sha256sum <in)"
	says tx.err "sent 67108864 bytes"
	says tx.err "direct lane"
	says rx.err "direct lane"
}

sparse_file()
{
	truncate -s 20M in
	printf end >>in
	transfer in
	good in
}

small_buffers()
{
	head -c 3000001 /dev/urandom >in
	transfer in -b 4K
	good in
}

pipe_input()
{
	head -c 5M /dev/urandom >in
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	# short reads, of a size that divides nothing
	dd if=in bs=7777 status=none | "$cat" -w 10 "$at" 2>tx.err
	is sender "${PIPESTATUS[1]}" 0
	finish "$pid"
	is receiver $? 0
	same in out
}

pipe_output()
{
	head -c 5M /dev/urandom >in
	"$cat" -w 10 "$at" <in 2>tx.err &
	pid=$!
	timeout 20 "$cat" -l "$at" 2>rx.err | dd bs=5000 status=none >out
	is receiver "${PIPESTATUS[0]}" 0
	finish "$pid"
	is sender $? 0
	same in out
}

abstract_name()
{
	at=@sluicecat-$id
	head -c 2M /dev/urandom >in
	transfer in
	good in
	is "names left" "$(grep -c "sluicecat-$id" /proc/net/unix)" 0
}

reverse()
{
	head -c 5M /dev/urandom >in
	"$cat" -l -r "$at" <in 2>tx.err &
	pid=$!
	timeout 20 "$cat" -r -w 10 "$at" >out 2>rx.err
	rx=$?
	finish "$pid"
	tx=$?
	good in
	says rx.err "direct lane"
}

json()
{
	printf 'twelve bytes' >in
	listen=(--json rx.json)
	transfer in -q --json tx.json
	good in
	is "quiet sender" "$(cat tx.err)" ""
	python3 - <<-'EOF' || exit 1
		import json
		for role in "sender", "receiver":
		    with open(role[0].replace("s", "t") + "x.json") as f:
		        got = json.load(f)
		    print(got)
		    assert got["role"] == role and got["bytes"] == 12
		    assert got["messages"] == 1 and got["seconds"] > 0
		    assert got["bytes_per_s"] > 0 and got["peer_pid"] > 1
		    assert got["lane"] in ("queued", "direct")
	EOF
}

terminal_progress()
{
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	timeout 20 script -qec "(head -c 1M /dev/zero; sleep 0.5
		head -c 1M /dev/zero) | '$cat' -w 10 '$at'" /dev/null >tx.err
	is sender $? 0
	finish "$pid"
	is receiver $? 0
	says tx.err $'\rsluicecat: 1.1 MB, '
	says tx.err "sent 2097152 bytes"
	! grep -q $'\r' rx.err
}

# Directories -------------------------------------------------------------

make_tree()
{
	mkdir -p "$1/a/b c/-d" "$1/empty"
	head -c 3M /dev/urandom >"$1/a/big"
	printf 1 >"$1/a/b c/-d/--one"
	: >"$1/nothing"
	chmod 640 "$1/nothing"
	chmod 755 "$1/a/big"
	ln -s ../a/big "$1/empty/link"
	ln -s /nowhere "$1/dangling"
}

manifest()
{
	(
		cd "$1" || exit 1
		find . -type f -exec sha256sum {} + | sort -k 2
		find . -printf '%P %y %m %l\n' | sort
	)
}

send_operands()
{
	mkdir out
	"$cat" -l -x out "$at" 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" "$@" 2>tx.err &
	both "$pid" $!
	cat rx.err tx.err
	is receiver "$rx" 0
	is sender "$tx" 0
}

directory()
{
	make_tree tree
	send_operands tree/
	is manifest "$(manifest out/tree)" "$(manifest tree)"
}

contents_of_directory()
{
	make_tree tree
	mkdir out
	"$cat" -l -x out "$at" 2>rx.err &
	pid=$!
	(cd tree && exec "$cat" -w 10 "../$at" .) 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 0
	is sender "$tx" 0
	is manifest "$(manifest out)" "$(manifest tree)"
}

many_operands()
{
	make_tree one
	mkdir -p deep/er
	make_tree deep/er/two
	printf 3 >-three
	send_operands deep/er/two one ./-three "$PWD/deep/er/two/a/big"
	is one "$(manifest out/one)" "$(manifest one)"
	is two "$(manifest out/two)" "$(manifest deep/er/two)"
	same ./-three out/-three
	same deep/er/two/a/big out/big
}

directory_reverse()
{
	make_tree tree
	mkdir out
	"$cat" -l -r "$at" tree 2>tx.err &
	pid=$!
	timeout 20 "$cat" -r -w 10 -x out "$at" 2>rx.err
	is receiver $? 0
	finish "$pid"
	is sender $? 0
	is manifest "$(manifest out/tree)" "$(manifest tree)"
}

not_a_tar()
{
	mkdir dir
	head -c 1M /dev/urandom >in
	listen=(-x dir)
	transfer in
	is receiver "$rx" 1
	is sender "$tx" 1
	says rx.err "sluicecat: tar failed with exit code"
	says tx.err "sluicecat: the peer failed: tar failed with exit code"
}

sending_tar_fails()
{
	mkdir bin dir
	printf '#!/bin/sh\necho partial\nexit 2\n' >bin/tar
	chmod +x bin/tar
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	PATH=$PWD/bin:$PATH "$cat" -w 10 "$at" dir 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 1
	is sender "$tx" 1
	says tx.err "sluicecat: tar failed with exit code 2"
	says rx.err "sluicecat: the peer closed before the end"
}

no_tar()
{
	mkdir none dir
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	PATH=$PWD/none "$cat" -w 10 "$at" dir 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 1
	is sender "$tx" 1
	says tx.err "sluicecat: cannot run tar: No such file or directory"
}

# Plain peers -------------------------------------------------------------

# plain.py send|receive listen|connect NAME [DIE]: knows nothing of sluice
cat >"$tmp/plain.py" <<'EOF'
import os, random, socket, sys, time

role, side, name = sys.argv[1:4]
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(20)
if side == "listen":
    s.bind(name + ".new")
    s.listen()
    os.rename(name + ".new", name)
    c, _ = s.accept()
    os.unlink(name)
    c.settimeout(20)
else:
    for _ in range(1000):
        try:
            s.connect(name)
            break
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.01)
    c = s
got = largest = 0
if role == "send":
    data = sys.stdin.buffer.read()
    while data:
        n = random.randint(1, 100000)
        c.send(data[:n])
        data = data[n:]
    c.shutdown(socket.SHUT_WR)
    print("reply", c.recv(1000).decode(), file=sys.stderr)
else:
    if len(sys.argv) > 4 and sys.argv[4] == "chat":
        c.send(b"hello, who is there?")
    while message := c.recv(1 << 21):
        sys.stdout.buffer.write(message)
        got += len(message)
        largest = max(largest, len(message))
        if len(sys.argv) > 4 and sys.argv[4] == "die":
            os._exit(9)
    sys.stdout.flush()
    print("largest", largest, file=sys.stderr)
EOF

plain()
{
	timeout 20 python3 "$tmp/plain.py" "$@"
}

plain_sender()
{
	head -c 3M /dev/urandom >in
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	plain send connect "$at" <in 2>tx.err
	tx=$?
	finish "$pid"
	rx=$?
	good in
	says rx.err "copied: "
}

plain_receiver()
{
	head -c 3M /dev/urandom >in
	plain receive listen "$at" >out 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" <in 2>tx.err &
	both "$pid" $!
	good in
	says tx.err "copied: "
	says rx.err "largest 8192"
}

plain_receiver_splits()
{
	head -c 3M /dev/urandom >in
	plain receive listen "$at" >out 2>rx.err &
	pid=$!
	"$cat" -w 10 -b 2M "$at" <in 2>tx.err &
	both "$pid" $!
	good in
	# 2 MiB fits in no socket buffer of an ordinary user
	[ "$(sed -n 's/^largest //p' rx.err)" -lt 2097152 ]
}

plain_receiver_chats()
{
	head -c 1M /dev/urandom >in
	plain receive listen "$at" chat >out 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" <in 2>tx.err &
	both "$pid" $!
	good in
}

plain_receiver_dies()
{
	plain receive listen "$at" die >out 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" </dev/zero 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 9
	is sender "$tx" 1
	says tx.err "sluicecat: the peer closed before the end"
}

plain_reverse()
{
	head -c 3M /dev/urandom >in
	"$cat" -l -r "$at" <in 2>tx.err &
	pid=$!
	plain receive connect "$at" >out 2>rx.err
	rx=$?
	finish "$pid"
	tx=$?
	good in
	"$cat" -w 10 -r "$at" >out 2>rx.err &
	pid=$!
	plain send listen "$at" <in 2>tx.err
	tx=$?
	finish "$pid"
	rx=$?
	good in
}

option_plain()
{
	head -c 3M /dev/urandom >in
	transfer in --plain
	good in
	says rx.err "copied: "
	listen=(--plain)
	transfer in
	good in
	says tx.err "copied: "
	transfer in --plain -b 64K
	good in
}

option_plain_refuses()
{
	"$cat" -l --plain "$at" >/dev/full 2>rx.err &
	pid=$!
	printf x | "$cat" -w 10 --plain "$at" 2>tx.err
	tx=$?
	finish "$pid"
	is receiver $? 1
	is sender "$tx" 1
	says tx.err "the peer failed: cannot write the output: No space left"
}

# Starts a listener, stops it, and starts a sender, tx, with the input `in`.
connect_to_stopped()
{
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	until_true test -S s
	kill -STOP "$pid"
	"$cat" "$at" <in 2>tx.err &
	tx=$!
}

late_listener()
{
	local size
	for size in 0 3M; do
		head -c "$size" /dev/urandom >in
		connect_to_stopped
		sleep 1.5 # longer than the sender waits for a HELLO
		kill -CONT "$pid"
		both "$pid" "$tx"
		good in
	done
}

# The listener at $at, and a connection that waits for it.
connected()
{
	[ "$(grep -c " $at\$" /proc/net/unix)" = 2 ]
}

sender_killed_before_hello()
{
	: >in
	at=$PWD/s
	connect_to_stopped
	until_true connected
	kill -9 "$tx"
	kill -CONT "$pid"
	both "$pid" "$tx"
	is receiver "$rx" 1
	says rx.err "sluicecat: the peer closed before the end"
}

# Other aware peers -------------------------------------------------------

# aware.py PEER-DIRECTORY send NAME | receive NAME [OFFSET]: in Python
cat >"$tmp/aware.py" <<'EOF'
import random, sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from peer import Peer, listening

role, at = sys.argv[2:4]
got = 0
if role == "send":
    data = sys.stdin.buffer.read()
    with Peer.connect(at) as peer:
        while data:
            n = random.choice((1, 32, 33, 4096, 300000))
            peer.send(data[:n])
            got += len(data[:n])
            data = data[n:]
        peer.shutdown()
        assert peer.recv() == (b"", got), "wrong confirmation"
else:
    with listening(at) as listener:
        peer = Peer.accept(listener)
    with peer:
        while message := peer.recv():
            sys.stdout.buffer.write(message[0])
            got += len(message[0])
        sys.stdout.flush()
        for confirmed in sys.argv[4:]:
            peer.send(b"", got + int(confirmed))
EOF

aware()
{
	timeout 20 python3 "$tmp/aware.py" "$SOURCE/selftests" "$@"
}

# to_python EXIT-CODE [OFFSET]: a receiver that confirms its bytes + OFFSET
to_python()
{
	local expected=$1
	shift
	aware receive "$at" "$@" >out 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" <in 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 0
	is sender "$tx" "$expected"
	same in out
}

aware_sender()
{
	head -c 5M /dev/urandom >in
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	until_true test -S s
	aware send "$at" <in 2>tx.err
	tx=$?
	finish "$pid"
	rx=$?
	good in
	says rx.err "queued lane: the peer offers no link"
}

aware_receiver()
{
	head -c 5M /dev/urandom >in
	to_python 0 0
	says tx.err "queued lane: the peer offers no link"
	to_python 1
	says tx.err "sluicecat: the peer closed before the end"
	to_python 1 -1
	says tx.err "sluicecat: the peer wrote 5242879 of 5242880 bytes"
}

# Failures ----------------------------------------------------------------

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

# Names and options -------------------------------------------------------

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

t empty_file "empty file"
t one_byte "file of one byte"
t sizes "sizes around the limits"
t big_file "64 MiB, direct lane on both sides, checksum equal"
t sparse_file "sparse file"
t small_buffers "more messages than there are buffers"
t pipe_input "input from a pipe, short reads"
t pipe_output "output to a pipe"
t abstract_name "abstract name"
t reverse "reverse: the listener sends"
t json "summary as JSON, quiet"
t terminal_progress "progress on a terminal only"
t directory "directory, names and modes and links"
t contents_of_directory "contents of the current directory"
t many_operands "many operands"
t directory_reverse "directory, reverse"
t not_a_tar "extracting what is no tar stream fails on both sides"
t sending_tar_fails "a tar that fails at the sender fails on both sides"
t no_tar "no tar"
t plain_sender "plain sender"
t plain_receiver "plain receiver, messages of 8 KiB"
t plain_receiver_splits "plain receiver, messages as large as the socket takes"
t plain_receiver_chats "plain receiver that says something"
t plain_receiver_dies "plain receiver dies"
t plain_reverse "plain peers in reverse"
t option_plain "--plain on either side or both"
t option_plain_refuses "--plain: a failing receiver says why"
t late_listener "a listener that was stopped for longer than the sender waits"
t aware_sender "aware sender in Python"
t aware_receiver "aware receiver in Python, its confirmation right, missing, wrong"
t receiver_killed "receiver killed"
t receiver_killed_while_input_is_idle "receiver killed, the input idle"
t sender_killed_before_hello "sender killed before it said hello"
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
