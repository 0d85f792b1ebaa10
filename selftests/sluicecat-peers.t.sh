#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicecat and peers that are something else, plain or aware, or that are stopped
# when it connects.
# shellcheck source=selftests/sluicecat.sh
. "${0%/*}/sluicecat.sh"

# Plain peers --------------------------------------------------------------

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

# Other aware peers --------------------------------------------------------

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
t sender_killed_before_hello "sender killed before it said hello"

tap_done
