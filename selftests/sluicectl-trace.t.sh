#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicectl trace against live traffic, in every lane: what it shows is what the
# library and sluiced counted, whatever it cannot show it says. Needs root and BPF,
# and no bpftrace; trace.t.sh compares it with flow.bt.
# shellcheck source=selftests/tap.sh
. "${0%/*}/tap.sh"
# shellcheck source=selftests/daemon.sh
. "$SOURCE/selftests/daemon.sh"
daemon_init "$@"
tap_needs python3 setpriv
# shellcheck source=selftests/trace.sh
. "$SOURCE/selftests/trace.sh"
export SLUICE_CONTROL=$CONTROL
mkdir -p "$OUT"
trap 'umount "$BPFFS"; rm -rf "$BPFFS" "$LOG" "$OUT"' EXIT
pids=() # that end with the case, the latest first

cleanup()
{
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || :
	done
	daemon_stop
	rm -rf "${OUT:?}"/*
}

# bash would exec what is last of a case, and forget the trap.
whole()
{
	"$1"
	true
}

# spawn COMMAND...: in the background, as $spawned.
spawn()
{
	"$@" <&0 &
	spawned=$!
	pids=("$spawned" "${pids[@]}")
	trap cleanup EXIT
}

# until_says FILE PATTERN: while $spawned runs.
until_says()
{
	until grep -qE -- "$2" "$1"; do
		kill -0 "$spawned" || {
			cat "$1"
			return 1
		}
		sleep 0.02
	done
}

# trace NAME ARGUMENT...: starts, as $tracer, and has attached when it returns. The
# log is $OUT/NAME, what it says besides $OUT/NAME.err.
trace()
{
	spawn sluicectl trace "${@:2}" >"$OUT/$1" 2>"$OUT/$1.err"
	tracer=$spawned
	until_says "$OUT/$1.err" '^sluicectl: tracing '
}

# ends STATUS: the tracer, of its own accord.
ends()
{
	local status=0

	wait "$tracer" || status=$?
	same 'exit status' "$status" "$1"
}

# json FILE EXPRESSION: of all its lines, as m.
json()
{
	python3 -c 'import json, sys
m = [json.loads(line) for line in open(sys.argv[1])]
print(eval("(" + sys.argv[2] + ")"))' "$1" "$2"
}

holds()
{
	same "$2" "$(json "$1" "$2")" True
}

every_message_in_every_lane()
{
	local text objects

	daemon_start --unload
	trace log "$TOOL"
	text=$tracer
	trace json --json "$TOOL"
	objects=$tracer
	traffic
	kill -INT "$text"
	kill -TERM "$objects"
	ends 0
	tracer=$text
	ends 0
	cat "$OUT"/*.err
	log_has_a_line_for_each_message "$OUT/log"
	same head "$(head -n 1 "$OUT/log" | tr -s ' ')" \
		'MS SENDER RECEIVER LANE LEN TAG NUMBER AGE(us)'
	# the same in JSON, but for the times
	json "$OUT/json" '"\n".join(" ".join(map(str, (
		*((x["sender"]["pid"], x["sender"]["comm"]) if x["sender"] else "--"),
		x["receiver"]["pid"], x["receiver"]["comm"], x["lane"], x["len"],
		x["tag"], x["number"]))) for x in m)' | sort >"$OUT/json.sorted"
	sed -n '2,$s/^[0-9]* *\(.*[^ ]\)  *[-0-9.]*$/\1/p' "$OUT/log" |
		tr -s ' ' | sort | diff - "$OUT/json.sorted"
	holds "$OUT/json" 'all((x["age_ns"] is None) == (x["sender"] is None) ==
		(x["endpoint"] is None) for x in m)'
	holds "$OUT/json" 'all(x["age_ns"] > 0 for x in m if x["sender"])'
	holds "$OUT/json" 'm == sorted(m, key=lambda x: x["ms"])'
	# an endpoint for each direction, numbered from 0
	holds "$OUT/json" 'len({x["endpoint"] for x in m if x["sender"]}) == 3 and
		sorted(x["number"] for x in m if x["len"] == 4096) == [*range(300)]'
}

# by_filter OPTION VALUE WANTED EXPRESSION: of two runs, $OUT/run-a and run-b.
by_filter()
{
	trace filtered --json "$1" "$2" "$TOOL"
	"$TOOL" direct 40 100 0 >"$OUT/run-a"
	"$TOOL" queued 30 100 0 >"$OUT/run-b"
	kill "$tracer"
	ends 0
	same "$1 $2" "$(json "$OUT/filtered" 'len(m)')" "$3"
	holds "$OUT/filtered" "$4"
}

filters_by_lane()
{
	by_filter --lane direct 40 'all(x["lane"] == "direct" for x in m)'
	by_filter --lane plain 0 True
}

# talk NAME FD [PROGRAM]: a conn that lasts; what is written to FD goes from one to the other. Receiver
# and sender are $receiver and $sender, of PROGRAM, sluicecat.
talk()
{
	local name=$1 fd=$2 program=${3-sluicecat}

	mkfifo "$OUT/$name.fifo"
	eval "exec $fd<>\"\$OUT/\$name.fifo\""
	spawn "$program" -q -l "$OUT/$name.socket" >"$OUT/$name.got"
	receiver=$spawned
	until test -S "$OUT/$name.socket"; do
		kill -0 "$receiver"
		sleep 0.02
	done
	spawn "$program" -q "$OUT/$name.socket" <"$OUT/$name.fifo"
	sender=$spawned
}

# has NAME TEXT: its receiver has that.
has()
{
	until grep -qx -- "$2" "$OUT/$1.got"; do
		kill -0 "$spawned"
		sleep 0.02
	done
}

# heard FD NAME: says something there until it is in the log NAME, with its sender: a
# conn that runs notices what listens at its next call into the library.
heard()
{
	until grep -q "\"sender\":{\"pid\":$sender," "$OUT/$2"; do
		kill -0 "$tracer"
		echo >&"$1" "anybody there?"
		sleep 0.02
	done
}

# Without a FILE it finds what runs. One tracer listens all the time.
filters_by_process_and_endpoint()
{
	local one to endpoint number

	trace all --json "$(command -v sluicecat)"
	talk a 5
	one=$sender
	to=$receiver
	heard 5 all
	talk b 6
	heard 6 all

	trace from --json --pid "$one" --count 1
	echo not this >&6
	has b 'not this'
	echo this >&5
	ends 0
	holds "$OUT/from" "m[0]['sender']['pid'] == $one and len(m) == 1"

	trace to --json --pid "$to" --count 1
	echo nor this >&6
	has b 'nor this'
	echo that >&5
	ends 0
	holds "$OUT/to" "m[0]['receiver']['pid'] == $to and m[0]['len'] == 5"

	endpoint=$(json "$OUT/to" 'm[0]["endpoint"]')
	number=$(json "$OUT/to" 'm[0]["number"]')
	trace endpoint --json --count 2 --endpoint "$endpoint"
	echo nor that >&6
	has b 'nor that'
	echo one >&5
	has a one
	echo two >&5
	ends 0
	holds "$OUT/endpoint" "[x['sender']['pid'] for x in m] == [$one] * 2"
	# and numbers go on
	holds "$OUT/endpoint" "[x['number'] - $number for x in m] == [1, 2]"
}

# A receiver that sleeps notices when it wakes, although its sender did not.
first_message_to_who_sleeps()
{
	talk a 5
	echo before >&5
	has a before
	until grep -q '^State:.S' "/proc/$receiver/status"; do
		sleep 0.02
	done
	trace log --count 1 --pid "$receiver"
	echo hello >&5
	ends 0
	grep -E " $receiver +sluicecat +direct +6 " "$OUT/log"
}

# What runs may have been deleted, say by an upgrade.
finds_what_is_deleted()
{
	cp "$(command -v sluicecat)" "$OUT/cat"
	talk a 5 "$OUT/cat"
	rm "$OUT/cat"
	trace log --json --pid "$sender"
	heard 5 log
	grep -F "tracing $OUT/cat (deleted)" "$OUT/log.err"
}

# The same file, as two containers see it.
one_line_for_what_is_seen_twice()
{
	local i

	grep -qw overlay /proc/filesystems || tap_skip 'no overlayfs'
	mkdir "$OUT/lower"
	cp "$TOOL" "$OUT/lower/tool"
	for i in 1 2; do
		mkdir "$OUT/seen-$i" "$OUT/upper-$i"
		mount -t overlay overlay -o "lowerdir=$OUT/lower:$OUT/upper-$i" \
			"$OUT/seen-$i" || tap_skip 'no overlayfs here'
	done
	trap 'umount "$OUT"/seen-*; cleanup' EXIT
	spawn sluicectl trace "$OUT/seen-1/tool" "$OUT/seen-2/tool" \
		>"$OUT/log" 2>"$OUT/log.err"
	trap 'umount "$OUT"/seen-*; cleanup' EXIT
	tracer=$spawned
	until_says "$OUT/log.err" '^sluicectl: tracing '
	"$OUT/seen-1/tool" queued 10 32 0 >"$OUT/run-a"
	"$OUT/seen-2/tool" queued 10 32 0 >"$OUT/run-b"
	kill "$tracer"
	ends 0
	same lines "$(grep -c ' queued ' "$OUT/log")" 20
	same files "$(grep -c tracing "$OUT/log.err")" 1
}

# The library by whatever name, and a program that was built to use it.
through_the_shared_library()
{
	command -v "${CC:-cc}" >/dev/null || tap_skip 'no compiler'
	test -z "${SLUICE_SANITIZER-}" || tap_skip 'not with a sanitizer'
	"${CC:-cc}" -D_GNU_SOURCE -I"$SOURCE/include" -o "$OUT/tool" \
		"$SOURCE/selftests/trace-tool.c" -L"$SLUICE_BUILD/lib" -lsluice
	trace log "$SLUICE_BUILD/lib/libsluice.so"
	LD_LIBRARY_PATH=$SLUICE_BUILD/lib "$OUT/tool" direct 20 32 0 >"$OUT/run-a"
	LD_LIBRARY_PATH=$SLUICE_BUILD/lib "$OUT/tool" queued 30 99 0 >"$OUT/run-b"
	"$TOOL" direct 10 32 0 >"$OUT/run-c" # is not linked to it
	kill "$tracer"
	ends 0
	same direct "$(grep -cE ' tool +direct +32 ' "$OUT/log")" 20
	same queued "$(grep -cE ' tool +queued +99 ' "$OUT/log")" 30
	same all "$(wc -l <"$OUT/log")" 51
}

count_ends_it()
{
	trace log --count 7 "$TOOL"
	"$TOOL" direct 50 32 0 >"$OUT/run-a"
	ends 0
	same lines "$(grep -c ' direct ' "$OUT/log")" 7
	# a signal is an end as any other
	trace log --count 7 --seconds 1000 "$TOOL"
	kill -INT "$tracer"
	ends 0
}

seconds_end_it()
{
	trace log --seconds 0.2 "$TOOL"
	ends 0
	trace log --seconds 0.2 --count 1 "$TOOL"
	ends 1
	same lines "$(wc -l <"$OUT/log")" 1
	trace log --seconds 1000 --count 1 "$TOOL"
	"$TOOL" direct 1 32 0 >"$OUT/run-a"
	ends 0
}

# While it is stopped there is room for some thousand.
says_what_it_lost()
{
	local shown lost

	trace log "$TOOL"
	kill -STOP "$tracer"
	"$TOOL" direct 14000 32 0 >"$OUT/run-a"
	kill -CONT "$tracer"
	kill "$tracer"
	ends 1
	shown=$(grep -c ' direct ' "$OUT/log")
	lost=$(sed -n 's/^sluicectl: lost \([0-9]*\) events$/\1/p' \
		"$OUT/log.err" | paste -sd+)
	echo "$shown shown, $lost lost"
	test "$((lost))" -gt 0
	same 'shown and lost' $((shown + lost)) 14000
}

says_whom_it_forgot()
{
	local forgot

	trace log --pid 1 "$TOOL"
	"$TOOL" burst 70000
	kill "$tracer"
	ends 1
	cat "$OUT/log.err"
	forgot=$(sed -n 's/.* who sent \([0-9]*\) messages.*/\1/p' "$OUT/log.err")
	test "$forgot" -ge $((70000 - 65536))
	test "$forgot" -lt 70000
}

# Half of it, and with a note that is longer than what there is.
says_what_is_damaged()
{
	head -c 20000 "$TOOL" >"$OUT/half"
	tap_says 1 'has no probes' sluicectl trace "$OUT/half"
	python3 - "$TOOL" "$OUT/long" <<-'END'
		import struct, sys

		file = bytearray(open(sys.argv[1], "rb").read())
		note = file.find(b"\x08\0\0\0", file.find(b"stapsdt\0") - 12)
		struct.pack_into("<I", file, note + 4, 0xfffffff0)
		open(sys.argv[2], "wb").write(file)
	END
	tap_says 1 'has no probes' sluicectl trace "$OUT/long"
	rm "$OUT/half" "$OUT/long"
}

# Neither in a line nor in JSON.
shows_no_control_characters()
{
	local name=$'a\nb\e[m\xff'

	cp "$TOOL" "$OUT/$name"
	trace log "$OUT/$name"
	trace json --json --count 1 "$OUT/$name"
	"$OUT/$name" direct 1 32 0 >"$OUT/run-a"
	ends 0
	grep -F ' a?b?[m? ' "$OUT/log"
	grep -qF "tracing $OUT/a?b?[m?" "$OUT/log.err"
	holds "$OUT/json" 'm[0]["receiver"]["comm"] == "a?b?[m?"'
}

needs_root()
{
	install -m 755 "$(command -v sluicectl)" "$OUT/sluicectl"
	chmod 755 "$TMPDIR" "$OUT"
	trap 'rm "$OUT"/*' EXIT
	tap_says 1 'needs root' setpriv --reuid 65534 --regid 65534 \
		--clear-groups "$OUT/sluicectl" trace
}

# In a world of its own, where nothing has probes.
finds_nothing()
{
	test ! -e /usr/local/lib/libsluice.so.0 || tap_skip 'sluice is installed'
	tap_says 1 'nothing runs that has probes' unshare -pf --mount-proc \
		sluicectl trace
}

full_disk()
{
	trace log --count 1 "$TOOL"
	kill "$tracer"
	ends 0
	tap_says 1 'cannot write' eval "sluicectl trace --seconds 0.1 $TOOL >/dev/full"
}

# mistake TEXT ARGUMENT...
mistake()
{
	tap_case "mistake: ${*:2}" tap_says 2 "$1" sluicectl "${@:2}"
}

mistake 'bad pid "0"' trace --pid 0
mistake 'bad pid "self"' trace --pid self
mistake 'bad endpoint "0"' trace --endpoint 0
mistake 'bad endpoint ""' trace --endpoint ''
mistake 'bad endpoint "-1"' trace --endpoint -1
mistake 'bad endpoint "12g"' trace --endpoint 12g
mistake 'bad endpoint "10000000000000000"' trace --endpoint 10000000000000000
mistake 'bad lane "fast"' trace --lane fast
mistake 'bad count "0"' trace --count 0
mistake 'bad count "1k"' trace --count 1k
mistake 'bad count "99999999999999999999"' trace --count 99999999999999999999
mistake 'bad seconds "0"' trace --seconds 0
mistake 'bad seconds "-1"' trace --seconds -1
mistake 'bad seconds "soon"' trace --seconds soon
mistake 'does not take' trace --rounds 1
mistake 'does not take' top --lane direct
mistake 'does not take' uring --count 1
tap_case 'no such file' tap_says 1 'No such file' sluicectl trace nowhere
for file in "$SOURCE/README.md" /dev/null / "$(command -v sluiced)" /bin/true; do
	tap_case "no probes: ${file##*/}" tap_says 1 'has no probes' \
		sluicectl trace "$file"
done
for name in needs_root finds_nothing every_message_in_every_lane filters_by_lane \
	filters_by_process_and_endpoint first_message_to_who_sleeps \
	finds_what_is_deleted one_line_for_what_is_seen_twice \
	through_the_shared_library count_ends_it seconds_end_it \
	says_what_it_lost says_whom_it_forgot shows_no_control_characters \
	says_what_is_damaged full_disk; do
	tap_case "${name//_/ }" whole $name
done
tap_done
