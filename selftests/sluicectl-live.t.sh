#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicectl top and doctor against live traffic, and against what doctor is to
# find. Needs root and BPF.
# shellcheck source=selftests/tap.sh
. "${0%/*}/tap.sh"
# shellcheck source=selftests/daemon.sh
. "$SOURCE/selftests/daemon.sh"
daemon_init "$@"

CLIENT_AS=
NOBODY='setpriv --reuid 65534 --regid 0 --clear-groups'

# client MODE: an endpoint with two connections, by hand. It grants nothing, so
# whatever is sent is left to the queue.
#	rest	nothing is sent
#	flood	messages are sent and read all the time
#	spin	it uses a CPU, before all others, and does nothing
client()
{
	: >client.out
	# shellcheck disable=SC2086
	$CLIENT_AS /usr/bin/python3 - "$CONTROL" "$1" >client.out 2>&1 <<-'END' &
		import array, os, signal, socket, struct, sys

		control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		control.connect(sys.argv[1])

		def call(kind, endpoint, body, fds=()):
		    request = struct.pack("<IHHIIQ", 0x43534c53, kind, 0, 1, 0, endpoint)
		    control.sendmsg([request + body.ljust(40, b"\0")], [
		        (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
		        if fds else [])
		    reply = control.recvmsg(4096, 4096)[0]
		    _, _, _, _, error, endpoint = struct.unpack("<IHHIIQ", reply[:24])
		    assert not error, os.strerror(error)
		    return endpoint

		endpoint = call(1, 0, struct.pack("<6I", 1, 64, 16, 1, 1, 0))
		pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		         for _ in range(2)]
		for conn, (_, receiver) in enumerate(pairs):
		    call(4, endpoint, struct.pack("<III", 0, conn, 0), [receiver.fileno()])
		if sys.argv[2] == "spin":
		    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
		print("ready", flush=True)
		while sys.argv[2] == "flood":
		    pairs[0][0].send(b"x" * 100)
		    pairs[0][1].recv(1000)
		while sys.argv[2] == "spin":
		    pass
		signal.pause()
	END
	client=$!
	# shellcheck disable=SC2064
	trap "kill $client 2>/dev/null || :; daemon_stop" EXIT
	until grep -q . client.out; do
		kill -0 "$client"
		sleep 0.02
	done
	cat client.out
	grep -q ready client.out
	rm client.out
}

ctl()
{
	timeout 60 sluicectl "$@" --control "$CONTROL" --pins "$PINS"
}

# doctor LEVEL TEXT: finds that, and exits accordingly.
doctor()
{
	local status=0

	ctl doctor --interval 1 >out || status=$?
	cat out
	test "$status" = "$(grep -q '^problem: ' out && echo 4 || echo 0)"
	grep -qE -- "^$1: $2" out
	rm out
}

# json EXPRESSION: of what is on standard input, called s.
json()
{
	python3 -c 'import json, sys
s = json.load(sys.stdin)
assert eval("(" + sys.argv[1] + ")"), s' "$1"
}

doctor_without_sluiced()
{
	local status=0

	sluicectl doctor --control nowhere --json >out || status=$?
	test "$status" = 4
	json 's["problems"] >= 1 and
any(f["level"] == "problem" and "no sluiced at nowhere" in f["what"]
    and f["advice"] for f in s["findings"])' <out
	rm out
}

doctor_finds_spills()
{
	daemon_start --unload
	client flood
	doctor problem '[0-9]+ of [0-9]+ messages were left .*receiver reads its queue first'
	doctor note '2 of 2 connections have a plain sender'
}

doctor_finds_who_spins()
{
	daemon_start --unload
	client spin
	doctor problem "pid $client \\(python3.*\\) used [0-9]+ % of a CPU and endpoint"
}

doctor_finds_drain()
{
	daemon_start --unload
	client rest
	ctl doctor --interval 0.1 >out
	tap_fails grep -E 'draining|spins|left to' out
	timeout 60 sluicectl drain --timeout 0 --control "$CONTROL" || :
	doctor problem 'sluiced is draining'
}

# What one user may have is nearly used up; he sees that himself.
doctor_finds_limits()
{
	printf '[limits]\nendpoints_per_uid = 1\n[control]\ngroup = root\n' >conf
	chmod 755 .
	daemon_start --unload --config "$PWD/conf"
	CLIENT_AS=$NOBODY
	client rest
	install -m 755 "$(command -v sluicectl)" sluicectl
	# shellcheck disable=SC2086
	$NOBODY ./sluicectl doctor --control "$CONTROL" >out || test $? = 4
	rm sluicectl conf
	cat out
	grep -q '^problem: 1 of 1 endpoints are in use' out
	grep -q 'run it as root to know more' out
	rm out
	true # bash would exec what is last, and forget the trap
}

doctor_finds_dead_services()
{
	cat >conf <<-END
		[service web]
		listen = $PWD/web
		type = stream
		backends = $PWD/none
	END
	daemon_start --unload --config "$PWD/conf"
	rm conf
	doctor problem 'service web: none of its 1 backends is up'
}

top_shows_what_is_left()
{
	daemon_start --unload
	client flood
	ctl top --json --rounds 1 --interval 0.5 >out
	json 's["spilled_per_s"] > 0 and s["steered_per_s"] == 0 and
[(e["conns"], e["steered_conns"], e["messages_per_s"], e["held"], e["uid"])
 for e in s["endpoints"]] == [(2, 0, 0, 0, 0)] and
s["endpoints"][0]["spills_per_s"] > 0' <out
	ctl top --rounds 2 --interval 0.1 --sort spills >out
	test "$(grep -c '^1 endpoints, 2 connections' out)" = 2
	test "$(grep -cE ' root +[0-9]+ python3' out)" = 2
	rm out
	true
}

# A receiver that uses the library, and a plain sender to it.
top_shows_what_is_steered()
{
	daemon_start --unload
	SLUICE_CONTROL=$CONTROL timeout 60 "$SLUICE_BUILD/examples/steered" \
		"$PWD/name" >steered.out 2>&1 &
	receiver=$!
	# shellcheck disable=SC2064
	trap "kill $receiver 2>/dev/null || :; daemon_stop" EXIT
	timeout 60 python3 - "$PWD/name" <<-'END' &
		import socket, sys, time

		s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		while s.connect_ex(sys.argv[1]):
		    time.sleep(0.02)
		try:
		    while True:
		        s.send(b"y" * 1000)
		        time.sleep(0.0001)
		except OSError:
		    pass
	END
	# shellcheck disable=SC2064
	trap "kill $receiver $! 2>/dev/null || :; daemon_stop; rm -f steered.out name" EXIT
	for _ in $(seq 100); do
		ctl top --json --rounds 1 --interval 0.2 >out
		json 's["endpoints"] and s["steered_per_s"] > 0 and
s["endpoints"][0]["messages_per_s"] > 0 and
s["endpoints"][0]["bytes_per_s"] >
    900 * s["endpoints"][0]["messages_per_s"] > 0' <out && break
	done
	json 's["endpoints"][0]["messages_per_s"] > 0' <out
	rm out
	true
}

# On a terminal it fills the screen, and a key ends it.
top_on_a_terminal()
{
	daemon_start --unload
	client rest
	python3 - "$CONTROL" "$PINS" <<-'END'
		import os, pty, select, sys, termios

		pid, fd = pty.fork()
		if not pid:
		    os.execvp("sluicectl", ["sluicectl", "top", "--control", sys.argv[1],
		                            "--pins", sys.argv[2], "--interval", "0.1"])
		shown = b""

		def until(text):
		    global shown
		    while text not in shown:
		        assert select.select([fd], [], [], 30)[0], shown
		        shown += os.read(fd, 65536)

		until(b"by messages; keys")
		os.write(fd, b"h")
		until(b"by held; keys")
		os.write(fd, b"q")
		until(b"\033[?1049l")
		assert os.waitpid(pid, 0)[1] == 0
	END
}

mistake()
{
	tap_case "mistake: ${*:2}" tap_says 2 "$1" sluicectl "${@:2}"
}

mistake 'bad sort "name"' top --sort name
mistake 'bad rounds "0"' top --rounds 0
mistake 'bad rounds "x"' top --rounds x
mistake 'bad interval "-1"' top --interval -1
mistake 'bad interval "-1"' doctor --interval -1
mistake 'does not take' doctor --sort held
mistake 'does not take' status --rounds 1
mistake 'what is "now"' doctor now
tap_case "top needs sluiced" tap_says 3 'start it' sluicectl top \
	--control nowhere --pins nowhere
tap_case "doctor: no sluiced" doctor_without_sluiced
tap_case "doctor: messages left to queues" doctor_finds_spills
tap_case "doctor: who spins" doctor_finds_who_spins
tap_case "doctor: draining" doctor_finds_drain
tap_case "doctor: limits" doctor_finds_limits
tap_case "doctor: dead services" doctor_finds_dead_services
tap_case "top: what is left to queues" top_shows_what_is_left
tap_case "top: what is steered" top_shows_what_is_steered
tap_case "top: on a terminal" top_on_a_terminal
tap_done
