#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicectl uring, of sluiced's own rings: those of its user-space switch, which
# relays a SEQPACKET service between Python programs.
set -u
. "${0%/*}/tap.sh"
. "$SOURCE/selftests/daemon.sh"

tap_needs python3
daemon_init "$@"

jobs_=()
finish()
{
	local pid

	for pid in "${jobs_[@]}"; do
		kill "$pid" 2>/dev/null || :
		wait "$pid" || :
	done
	daemon_stop
	rm -f "$TMPDIR"/{conf,server,json,text,out}
}

soon()
{
	local tries=0

	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		test "$tries" -lt 400 || return 1
		sleep 0.05
	done
}

# A service whose server sends back what it gets, message by message.
echo_service()
{
	printf '%s\n' '[service s]' "listen = $TMPDIR/s" 'type = seqpacket' \
		"backends = $TMPDIR/server" >"$TMPDIR/conf"
	daemon_start --unload --config "$TMPDIR/conf"
	trap finish EXIT
	python3 - "$TMPDIR/server" 9>&- <<-'END' &
		import socket, sys
		listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		listener.bind(sys.argv[1])
		listener.listen()
		while True:
		    conn, _ = listener.accept()
		    while message := conn.recv(65536):
		        conn.send(message)
	END
	jobs_+=($!)
	soon test -S "$TMPDIR/server"
}

# COUNT messages, there and back, one after the other
echoes()
{
	python3 - "$TMPDIR/s" "$1" <<-'END'
		import socket, sys
		conn = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		conn.settimeout(60)
		conn.connect(sys.argv[1])
		for number in range(int(sys.argv[2])):
		    conn.send(b"%d" % number)
		    assert conn.recv(100) == b"%d" % number
	END
}

ctl()
{
	sluicectl uring --control "$CONTROL" "$@"
}

# json EXPRESSION: of the list of rings, r
json()
{
	python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))["rings"]
assert eval(sys.argv[2]), r' "$TMPDIR/json" "$1"
}

follow_in_background()
{
	sluicectl uring --control "$CONTROL" "$@" --interval 1000 \
		>"$TMPDIR/out" 2>&1 &
	jobs_+=($!)
	soon any_followed
}

any_followed()
{
	ctl --json | grep -q '"ring":'
}

none_followed()
{
	! any_followed
}

shows_nothing()
{
	echo_service
	test "$(ctl)" = "No io_uring is followed."
	ctl --json >"$TMPDIR/json"
	json 'r == []'
	tap_says 1 'has no io_uring' sluicectl uring --control "$CONTROL" \
		--pid $$
	tap_says 1 'cannot follow fd 0 of process' sluicectl uring \
		--control "$CONTROL" --pid "$daemon_pid" --fd 0
	tap_says 1 '/proc/' sluicectl uring --control "$CONTROL" \
		--pid 1073741823
}

# Each message is a CQE of a RECVMSG in each direction; the rest are sends and the like.
counts_messages()
{
	echo_service
	follow_in_background --pid "$daemon_pid"
	echoes 100
	ctl --json >"$TMPDIR/json"
	json 'all(x["pid"] == '"$daemon_pid"' and x["uid"] == 0 for x in r)'
	json 'sum(x["counts"]["submitted"] for x in r) >= 400'
	json 'sum(x["doorbell"]["count"] + x["counts"]["ready"] for x in r) >= 200'
	json 'sum(x["doorbell"]["count"] for x in r) > 0'
	json 'all(x[t]["count"] == sum(x[t]["buckets"]) for x in r
		for t in ("doorbell", "idle", "pool", "wait"))'
	json 'all(x["pool_in_flight"] == 0 for x in r)'
	ctl >"$TMPDIR/text"
	grep -q "^ring [0-9]*: fd [0-9]* of process $daemon_pid, uid 0" \
		"$TMPDIR/text"
	grep -Eq '^ +>= [0-9.]+ (ns|us|ms|s) ' "$TMPDIR/text"
	# who follows ends: so does the accounting
	kill "${jobs_[-1]}"
	soon none_followed
}

follows_for_a_while()
{
	local fd

	echo_service
	ctl --json --pid "$daemon_pid" --interval 0 >"$TMPDIR/json"
	json 'len(r) >= 1 and r[0]["mask"] == 0'
	fd=$(python3 -c 'import json, sys
print(json.load(open(sys.argv[1]))["rings"][0]["fd"])' "$TMPDIR/json")
	soon none_followed
	ctl --json --pid "$daemon_pid" --fd "$fd" --interval 0 \
		--user-data 0x51ce000000000000/0xffff000000000000 \
		>"$TMPDIR/json"
	json 'len(r) == 1 and r[0]["fd"] == '"$fd"
	json 'r[0]["match"] == 0x51ce << 48'
	soon none_followed
}

# It shows one that is followed already as it was asked for.
shows_what_others_follow()
{
	echo_service
	follow_in_background --pid "$daemon_pid" --user-data 1/1
	ctl --json --pid "$daemon_pid" --interval 0 >"$TMPDIR/json"
	json 'len(r) >= 1 and all(x["mask"] == 1 for x in r)'
}

mistake()
{
	tap_case "mistake: ${*:2}" tap_says 2 "$1" sluicectl uring "${@:2}"
}

tap_case "nothing is followed unless asked for" shows_nothing
tap_case "counts the messages of a relay" counts_messages
tap_case "follows for a while" follows_for_a_while
tap_case "shows what others follow" shows_what_others_follow
mistake 'bad pid "0"' --pid 0
mistake 'bad pid "x"' --pid x
mistake 'bad fd "-1"' --pid 1 --fd -1
mistake 'want --pid' --fd 3
mistake 'want --pid' --user-data 1/1
mistake 'want VALUE/MASK' --pid 1 --user-data 1
mistake 'want VALUE/MASK' --pid 1 --user-data x/1
mistake 'want VALUE/MASK' --pid 1 --user-data 1/1x
mistake 'no bits of it outside' --pid 1 --user-data 3/1
mistake 'does not take' --off
mistake 'what is "now"' now
tap_done
