#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Each script of bpf/trace against traffic of known numbers, in every lane, and what
# it says against what the library and sluiced counted. All of them listen at once:
# bpftrace takes its time to start.
#
# Limit: 600 s
. "${0%/*}/tap.sh"
. "$SOURCE/selftests/daemon.sh"
daemon_init "$@"
tap_needs bpftrace bpftool readelf socat python3
TOOL=$SLUICE_BUILD/selftests/trace-tool
OUT=$TMPDIR/out
mkdir -p "$OUT"
declare -A pids

# bpftrace finds tracepoints here; in the mount namespace of this script only.
test -d /sys/kernel/tracing/events ||
	mount -t tracefs tracefs /sys/kernel/tracing ||
	tap_skip_all 'no tracefs'

# The probes that the script NAME attaches to in FILE, by what `bpftool perf` lists:
# one for each place of a USDT probe, and each tracepoint.
sites()
{
	local name=$1 file=$2 probe count total

	total=$(grep -c '^tracepoint:' "$SOURCE/bpf/trace/$name.bt")
	while read -r probe; do
		count=$(readelf -n "$file" | grep -cx " *Name: $probe")
		total=$((total + count))
	done < <(sed -n 's/^usdt:[$]1:[a-z]*:\([a-z]*\)$/\1/p' \
		"$SOURCE/bpf/trace/$name.bt")
	echo "$total"
}

# listen NAME ARGUMENT
listen()
{
	bpftrace "$SOURCE/bpf/trace/$1.bt" "$2" >"$OUT/$1" 2>"$OUT/$1.err" &
	pids[$1]=$!
}

# Until it has attached to everything.
attached()
{
	local name=$1 want pid=${pids[$1]} tries=0

	want=$(sites "$name" "$2")
	until test "$(bpftool perf list | grep "^pid $pid " |
		grep -cE "tracepoint|filename $2 ")" -ge "$want"; do
		tries=$((tries + 1))
		if ! kill -0 "$pid" || test "$tries" = 1000; then
			cat "$OUT/$name.err" "$OUT/$name"
			return 1
		fi
		sleep 0.1
	done
}

# Ends all, which print what they have. One signal may come when bpftrace does not
# look; more of them do no harm.
hear_out()
{
	local pid

	for pid in "${pids[@]}"; do
		while kill "$pid" 2>/dev/null; do
			sleep 0.1
		done
	done
	test ${#pids[@]} = 0 || wait "${pids[@]}"
	pids=()
}

# value RUN NAME: a number that trace-tool printed.
value()
{
	tr ' ' '\n' <"$OUT/run-$1" | sed -n "s/^$2=//p"
}

# sum NAME MAP [PATTERN]: of a map's values, or of its histograms' counts, in what
# bpftrace printed, over keys that PATTERN matches.
sum()
{
	awk -v map="@$2" -v pattern="${3-}" '
		/^@/ {
			name = $0
			sub(/[\[:].*/, "", name)
			key = $0
			sub(/^@[a-z_]*/, "", key)
			sub(/: *[0-9]*$/, "", key)
			mine = name == map && key ~ pattern
			if (mine && /: [0-9]+$/)
				total += $NF
		}
		/^[\[(]/ && mine {
			sub(/^[\[(][^)\]]*[)\]] */, "")
			total += $1
		}
		END { print total + 0 }' "$OUT/$1"
}

# same WHAT GOT WANTED
same()
{
	test "$2" = "$3" || {
		echo "$1: $2, not $3"
		return 1
	}
}

# Of all runs together.
total()
{
	local run sum=0

	for run in direct queued steered plain; do
		sum=$((sum + $(value "$run" "$1")))
	done
	echo "$sum"
}

everything_is_attached()
{
	local name

	for name in flow latency spill doorbell buffers; do
		attached "$name" "$TOOL"
	done
	attached services "$SLUICE_BUILD/bin/sluiced"
	attached uring none
}

traffic()
{
	"$TOOL" direct 300 4096 0 >"$OUT/run-direct"
	"$TOOL" queued 100 32 0 >"$OUT/run-queued"
	"$TOOL" steered 100 256 2 >"$OUT/run-steered"
	"$TOOL" plain 60 200 3 >"$OUT/run-plain"
	visit >"$OUT/visitors"
	sluicectl status --json --control "$CONTROL" --pins "$PINS" >"$OUT/status"
	head "$OUT"/run-*
	# the plan is carried out
	test "$(value direct refused)" -gt 0
	test "$(value plain steered)" -gt 0
	test "$(value plain spilled)" -gt 0
	test "$(value steered steered)" -gt 0
}

# Three clients of the service, one after the other: prints their pids.
visit()
{
	local i pid

	for i in 1 2 3; do
		socat -u "UNIX-CONNECT:$TMPDIR/service" - </dev/null \
			>"$OUT/visit-$i" &
		pid=$!
		wait "$pid"
		same "visit $i" "$(cat "$OUT/visit-$i")" welcome
		echo "$pid"
	done
}

# status EXPRESSION: of what sluicectl said, as s.
status()
{
	python3 -c "import json, sys; s = json.load(sys.stdin); print($1)" \
		<"$OUT/status"
}

# lines RUN SENDER LANE: of flow, to the run's receiver.
lines()
{
	grep -cE "^[0-9]+ +$2 +(trace-tool|-) +$(value "$1" receiver) +trace-tool +$3 " \
		"$OUT/flow"
}

flow_has_a_line_for_each_message()
{
	local run sender

	same 'lines' "$(grep -c ' trace-tool ' "$OUT/flow")" "$(total messages)"
	same direct "$(lines direct "$(value direct sender)" direct)" 300
	same queued "$(lines queued "$(value queued sender)" queued)" 100
	same steered "$(lines steered "$(value steered sender)" steered)" \
		"$(value steered steered)"
	same 'plain, steered' "$(lines plain - steered)" "$(value plain steered)"
	same 'plain, spilled' "$(lines plain - plain)" \
		$(($(value plain messages) - $(value plain steered)))
	for run in direct queued steered plain; do
		same "bytes, $run" "$(awk -v r="$(value "$run" receiver)" \
			'$4 == r { n += $7 } END { print n }' "$OUT/flow")" \
			"$(value "$run" bytes)"
	done
	# tags and numbers count from 0; an age wherever there is a sender
	sender=$(value direct sender)
	same tags "$(awk -v s="$sender" '$2 == s { print $8 }' "$OUT/flow" |
		tr '\n' ' ')" "$(seq 0 299 | xargs printf '%x ')"
	same numbers "$(awk -v s="$sender" '$2 == s { print $9 }' "$OUT/flow" |
		tr '\n' ' ')" "$(seq 0 299 | xargs printf '%d ')"
	same ages "$(grep -cE ' [0-9]+\.[0-9]{3}$' "$OUT/flow")" \
		"$(grep -cE '^[0-9]+ +[0-9]+ ' "$OUT/flow")"
	same 'ages of plain ones' "$(grep -cE ' -$' "$OUT/flow")" \
		"$(value plain messages)"
}

latency_has_each_message_in_its_lane()
{
	local lane

	same received "$(sum latency received)" "$(total messages)"
	same direct "$(sum latency latency direct)" 300
	same queued "$(sum latency latency queued)" \
		$((200 - $(value steered steered)))
	same steered "$(sum latency latency steered)" "$(value steered steered)"
	same unpaired "$(sum latency unpaired)" "$(value plain messages)"
	for lane in plain queued direct steered; do
		same "$lane" "$(($(sum latency latency "$lane") +
			$(sum latency unpaired "$lane")))" \
			"$(sum latency received "$lane")"
	done
}

spill_says_what_was_spilled_and_refused()
{
	same spilled "$(sum spill spilled)" "$(total spilled)"
	same 'too large' "$(sum spill spilled 'too large')" 1
	same lacked "$(sum spill lacked)" "$(total refused)"
	test "$(sum spill lacked 'ring is full|hold_limit')" -gt 0
	test "$(sum spill spilled_bytes)" -ge 1048577
}

doorbell_counts_wake_ups()
{
	same doorbells "$(sum doorbell doorbells)" \
		$(($(total doorbells_tx) + $(total doorbells_rx)))
	same sleeps "$(sum doorbell sleeps)" \
		$(($(total sleeps_tx) + $(total sleeps_rx)))
	test "$(sum doorbell doorbells)" -gt 0
	# each that went to sleep was woken, by the other process or as it looked
	same asleep "$(sum doorbell asleep_us)" "$(sum doorbell sleeps)"
	test "$(sum doorbell woken_by)" -gt 0
	test "$(sum doorbell to_cpu_ns)" -gt 0
	test "$(sum doorbell to_use_ns)" -gt 0
}

buffers_says_who_holds_them()
{
	local sent=400 # buffers: 300 direct, 100 steered

	same 'before send' "$(sum buffers before_send_us)" "$sent"
	same unread "$(sum buffers unread_us)" "$sent"
	same received "$(sum buffers received)" "$(total views)"
	same held "$(sum buffers held_us)" "$(sum buffers released)"
	same 'steered, held' "$(sum buffers holds "$(value steered receiver),")" 2
	same 'plain, held' "$(sum buffers holds "$(value plain receiver),")" 3
	same 'held by all' "$(sum buffers holds)" 5
	same released "$(sum buffers released)" $(($(total views) - 5))
	test "$(sum buffers away_us)" -gt 0
}

services_lists_what_sluiced_attached()
{
	same attached "$(sum services attached)" 2
	same lines "$(grep -c ' attach ' "$OUT/services")" 2
	for run in steered plain; do
		grep -qE " attach +$(value "$run" receiver) +0 +endpoint" \
			"$OUT/services"
	done
}

services_lists_how_connections_travel()
{
	local pid

	same routes "$(sum services routes '^.web, relayed.$')" 3
	same routes "$(sum services routes)" \
		"$(status 's["services"][0]["accepted"]')"
	while read -r pid; do
		grep -qE " route +$pid +0 +service web, relayed to $TMPDIR/backend$" \
			"$OUT/services"
	done <"$OUT/visitors"
}

# Each visit is relayed one way: received and sent, and both ends are told.
uring_counts_what_the_relay_did()
{
	local bytes

	bytes=$(status 's["services"][0]["sluiced"]["bytes"]["to_clients"]')
	same bytes "$bytes" 24 # three times "welcome" and a newline
	test "$(sum uring completions "done")" -ge 6
	same all "$(sum uring completions)" "$(sum uring completed)"
	test "$(sum uring waits)" -gt 0
	test "$(sum uring wait_for)" = "$(sum uring waits)"
}

none_lost_events()
{
	! grep -HiE 'lost [0-9]+|error' "$OUT"/*.err "$OUT/flow" |
		grep -vE 'RLIMIT_MEMLOCK|failed to detach'
}

end()
{
	hear_out
	test -z "$backend" || kill "$backend"
	daemon_stop
	umount "$BPFFS"
	rm -rf "$BPFFS" "$LOG" "$OUT" "$TMPDIR/conf" "$TMPDIR/backend"
}

export SLUICE_CONTROL=$CONTROL
cat >"$TMPDIR/conf" <<-EOF
	[service web]
	listen = $TMPDIR/service
	backends = $TMPDIR/backend
EOF
backend=
socat "UNIX-LISTEN:$TMPDIR/backend,fork" SYSTEM:'echo welcome' &
backend=$!
daemon_start --config "$TMPDIR/conf" || exit 2
trap end EXIT
for name in flow latency spill doorbell buffers; do
	listen $name "$TOOL"
done
listen services "$SLUICE_BUILD/bin/sluiced"
listen uring "$daemon_pid"
tap_case 'every script attaches' everything_is_attached
tap_case 'the service is up' daemon_says "backend $TMPDIR/backend is up"
tap_case 'traffic in every lane' traffic
hear_out
tap_case 'nothing went wrong in bpftrace' none_lost_events
for name in flow_has_a_line_for_each_message latency_has_each_message_in_its_lane \
	spill_says_what_was_spilled_and_refused doorbell_counts_wake_ups \
	buffers_says_who_holds_them services_lists_what_sluiced_attached \
	services_lists_how_connections_travel uring_counts_what_the_relay_did; do
	tap_case "${name//_/ }" $name
done
tap_done
