#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicectl status, drain and unload, with a sluiced of their own and a client
# that speaks to it by hand. Needs root and BPF.
# shellcheck source=selftests/tap.sh
. "${0%/*}/tap.sh"

test "$(id -u)" = 0 || tap_skip_all "needs root"
why=$(sluicectl probe bpf bpf-helpers btf frozen-array ringbuf \
	filter-seqpacket) || tap_skip_all "no steering here: $(
	grep -vE ' yes |^[a-z]*$' <<<"$why" | xargs)"
# A mount namespace and a BPF file system of its own.
if test -z "${SLUICECTL_PRIVATE-}"; then
	SLUICECTL_PRIVATE=1 exec unshare --mount --propagation private \
		"$SOURCE/selftests/${0##*/}"
fi

tmp=$(mktemp -d "$TMPDIR/sluicectl.XXXXXX")
mkdir "$tmp/bpf"
mount -t bpf bpf "$tmp/bpf" || tap_skip_all "cannot mount a BPF file system"
pins=$tmp/bpf/pins
control=$tmp/control
sluiced=
client=

sluiced_start()
{
	sluiced --control "$control" --pins "$pins" >"$tmp/log" 2>&1 &
	sluiced=$!
	for _ in $(seq 200); do
		grep -q ready "$tmp/log" && return
		sleep 0.05
	done
	cat "$tmp/log"
	return 1
}

sluiced_stop()
{
	test -n "$sluiced" || return 0
	kill -TERM "$sluiced"
	wait "$sluiced"
	sluiced=
}

# An endpoint with two connections, and five messages that are left to the
# queue, as the receiver grants nothing. Ends when the fifo does.
client_start()
{
	rm -f "$tmp/fifo"
	mkfifo "$tmp/fifo"
	: >"$tmp/client"
	python3 - "$control" "$tmp/fifo" >"$tmp/client" 2>&1 9>&- <<'END' &
import array, socket, struct, sys

control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect(sys.argv[1])

def call(kind, endpoint, body, fds=()):
    request = struct.pack("<IHHIIQ", 0x43534c53, kind, 0, 1, 0, endpoint)
    control.sendmsg([request + body.ljust(40, b"\0")], [
        (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        if fds else [])
    reply, _, _, _ = control.recvmsg(4096, 4096)
    _, _, _, _, error, endpoint = struct.unpack("<IHHIIQ", reply[:24])
    return error, endpoint

error, endpoint = call(1, 0, struct.pack("<6I", 1, 64, 16, 1, 1, 0))
if error:
    print("refused", error, flush=True)
    sys.exit(0)
pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
         for _ in range(2)]
for conn, (_, receiver) in enumerate(pairs):
    error, _ = call(4, endpoint, struct.pack("<III", 0, conn, 0),
                    [receiver.fileno()])
    assert not error, error
for _ in range(5):
    pairs[0][0].send(b"x" * 100)
print("ready", endpoint, flush=True)
open(sys.argv[2]).read()
END
	client=$!
	exec 9<>"$tmp/fifo"
	for _ in $(seq 200); do
		grep -q . "$tmp/client" && return
		sleep 0.05
	done
	return 1
}

client_stop()
{
	exec 9>&-
	test -z "$client" || wait "$client"
	client=
}

cleanup()
{
	client_stop
	sluiced_stop
	umount "$tmp/bpf"
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

ctl()
{
	timeout 60 sluicectl "$@" --control "$control"
}

# says STATUS TEXT COMMAND...: exits so, and says that on standard error
says()
{
	local status=0

	"${@:3}" >"$tmp/out" 2>"$tmp/err" || status=$?
	cat "$tmp/err"
	test "$status" = "$1" && grep -qF -- "$2" "$tmp/err"
}

# json EXPRESSION FILE: true for what it says of the object, called s
json()
{
	python3 -c 'import json, sys
s = json.load(open(sys.argv[2]))
assert eval(sys.argv[1]), s' "$@"
}

status_shows_all()
{
	ctl status --pins "$pins" --interval 0.1 --json >"$tmp/json"
	python3 - "$tmp/json" "$client" "$(awk '{print $2}' "$tmp/client")" <<-'END'
		import json, sys

		s = json.load(open(sys.argv[1]))
		e, = s["endpoints"]
		assert (e["uid"], e["pid"], e["endpoint"]) == \
		    (0, int(sys.argv[2]), int(sys.argv[3])), e
		assert e["comm"].startswith("python3") and not e["orphan"], e
		assert (e["rings"], e["ring_slots"], e["conns"], e["landing"]) == \
		    (1, 64, 2, [16, 1, 0]), e
		assert e["lanes"] == {"queued": 2, "granted": 0, "steered": 0}, e
		assert e["spilled"] == 5 and e["map_bytes"] > 128 << 10, e
		assert sorted(c["conn"] for c in s["conns"]) == [0, 1], s["conns"]
		assert sorted(c["spilled"] for c in s["conns"]) == [0, 5], s["conns"]
		for c in s["conns"]:
		    assert c["type"] == "seqpacket" and c["lane"] == "queued", c
		    assert not c["aware_peer"] and c["endpoint"] == e["endpoint"], c
		counts = s["counters"]
		assert counts["pass_hold"] == {"total": 5, "per_s": 0}, counts
		assert counts["steered_inline"]["total"] == 0, counts
		assert s["use"]["endpoints"] == 1 and s["use"]["conns"] == 2, s["use"]
	END
}

# Another message is another count, and the rate says so.
status_has_rates()
{
	ctl status --pins "$pins" --interval 0 --json >"$tmp/json"
	json 's["counters"]["pass_hold"]["per_s"] is None' "$tmp/json"
	ctl status --pins "$pins" --interval 0.1 >"$tmp/text"
	grep -qE 'receiver reads its queue first +5 +0/s' "$tmp/text"
	grep -qE '^ +[0-9]+ +root +[0-9]+ +python3' "$tmp/text"
	ctl status --pins "$pins" --interval 0 --conns >"$tmp/text"
	test "$(grep -cE ' seqpacket plain +queued ' "$tmp/text")" = 2
}

status_without_pins()
{
	ctl status --pins "$tmp/nowhere" >"$tmp/text"
	grep -qF 'No counters' "$tmp/text"
	ctl status --pins "$tmp/nowhere" --json >"$tmp/json"
	json '"counters" not in s and s["pins_error"]' "$tmp/json"
}

# Who may not connect is told so; who may sees what is his own.
status_of_others()
{
	install -m 755 "$(command -v sluicectl)" "$tmp/sluicectl"
	chmod 755 "$tmp" "$TMPDIR"
	says 1 'Permission denied' setpriv --reuid 65534 --regid 65534 \
		--clear-groups "$tmp/sluicectl" status --control "$control"
	setpriv --reuid 65534 --regid 0 --clear-groups "$tmp/sluicectl" \
		status --json --control "$control" --pins "$pins" >"$tmp/json"
	json 's["endpoints"] == [] and s["pins_error"]' "$tmp/json"
	says 1 'refuses' setpriv --reuid 65534 --regid 0 --clear-groups \
		"$tmp/sluicectl" drain --control "$control"
	ctl status --json --interval 0 >"$tmp/json"
	json 'not s["draining"]' "$tmp/json"
}

drain_waits()
{
	says 1 '1 endpoints are left' ctl drain --timeout 0.3
	ctl status --json --interval 0 --pins "$pins" >"$tmp/json"
	json 's["draining"] and s["use"]["conns"] == 2' "$tmp/json"
	ctl status --pins "$pins" --interval 0 | grep -q ', draining'
}

# Refused while draining, served again after --off.
drain_refuses()
{
	client_start
	grep -qx 'refused 108' "$tmp/client"
	client_stop
	ctl drain --off | grep -q 'serves new clients again'
	client_start
	grep -q ready "$tmp/client"
	client_stop
}

drain_ends()
{
	ctl drain --timeout 30 --json >"$tmp/json" 2>"$tmp/err"
	json 's == {"draining": True, "endpoints": 0, "conns": 0}' "$tmp/json"
	grep -q 'draining: 0 endpoints, 0 connections left' "$tmp/err"
}

unload_refuses()
{
	says 1 'sluiced runs' ctl unload --pins "$pins"
	says 1 'a sluiced uses' sluicectl unload --pins "$pins" \
		--control "$tmp/nobody"
	test -e "$pins/steer"
}

without_sluiced()
{
	says 3 'its programs are in' ctl status --pins "$pins"
	says 3 'start it' ctl status --pins "$tmp/nowhere"
	says 3 'start it' ctl drain
	says 1 'not on a BPF file system' ctl unload --pins "$tmp"
	ctl unload --pins "$tmp/bpf/none" | grep -q '^Nothing is pinned'
}

unload_refuses_orphans()
{
	says 1 'connections are steered there' ctl unload --pins "$pins"
	test -e "$pins/steer"
	ctl unload --pins "$pins" --force --json >"$tmp/json"
	json 's["removed"] >= 7' "$tmp/json"
	test ! -e "$pins"
}

unload_removes()
{
	ctl unload --pins "$pins" | grep -q '^Removed [0-9]* pins'
	test ! -e "$pins"
}

mistake()
{
	tap_case "mistake: ${*:2}" says 2 "$1" sluicectl "${@:2}"
}

mistake 'bad interval "-1"' status --interval -1
mistake 'bad interval "soon"' status --interval soon
mistake 'bad timeout "nan"' drain --timeout nan
mistake 'does not take' status --force
mistake 'does not take' unload --conns
mistake 'what is "now"' drain now

if ! sluiced_start; then
	echo "Bail out! sluiced does not start"
	exit 1
fi
client_start
tap_case "status: endpoint, connections, counts" status_shows_all
tap_case "status: rates, and as text" status_has_rates
tap_case "status: says when it cannot read the pins" status_without_pins
tap_case "status: everybody sees his own" status_of_others
tap_case "unload refuses while sluiced runs" unload_refuses
tap_case "drain waits, and says what is left" drain_waits
client_stop
tap_case "drain refuses new endpoints until --off" drain_refuses
tap_case "drain ends when nothing is left" drain_ends
sluiced_stop
tap_case "without sluiced, says what to do" without_sluiced
tap_case "unload removes all pins" unload_removes
sluiced_start
client_start
kill -KILL "$sluiced"
wait "$sluiced" 2>/dev/null
sluiced=
tap_case "unload refuses orphans, unless forced" unload_refuses_orphans
client_stop
tap_done
