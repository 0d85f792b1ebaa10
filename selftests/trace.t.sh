#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Each script of bpf/trace against traffic of known numbers, in every lane, and what
# it says against what the library and sluiced counted: with the bpftrace of this
# system and with a newer one, one after the other. All scripts listen at once, and
# sluicectl trace does: bpftrace takes its time to start.
#
# Limit: 600 s
. "${0%/*}/tap.sh"
. "$SOURCE/selftests/daemon.sh"
daemon_init "$@"
tap_needs bpftrace bpftool readelf socat python3
# shellcheck source=selftests/trace.sh
. "$SOURCE/selftests/trace.sh"
NEWER=$SLUICE_BUILD/tools/bpftrace # make deps unpacks it
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
	"$bpftrace" "$SOURCE/bpf/trace/$1.bt" "$2" >"$OUT/$1" 2>"$OUT/$1.err" &
	pids[$1]=$!
}

listen_to_all()
{
	local name

	pids=()
	for name in flow latency spill doorbell buffers; do
		listen $name "$TOOL"
	done
	listen services "$SLUICE_BUILD/bin/sluiced"
	listen uring "$daemon_pid"
	sluicectl trace "$TOOL" >"$OUT/sluicectl" 2>"$OUT/sluicectl.err" &
	pids[sluicectl]=$!
}

# Until it has attached to everything. A newer bpftrace (0.27) says so, and does it by
# links that bpftool does not list.
attached()
{
	local name=$1 want pid=${pids[$1]} tries=0

	want=$(sites "$name" "$2")
	until grep -q '^Attached ' "$OUT/$name" "$OUT/$name.err" ||
		test "$(bpftool perf list | grep "^pid $pid " |
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

everything_is_attached()
{
	local name

	for name in flow latency spill doorbell buffers; do
		attached "$name" "$TOOL"
	done
	attached services "$SLUICE_BUILD/bin/sluiced"
	attached uring none
	until grep -q '^MS ' "$OUT/sluicectl"; do
		kill -0 "${pids[sluicectl]}"
		sleep 0.1
	done
}

traffic_in_every_lane()
{
	traffic
	visit >"$OUT/visitors"
	sluicectl status --json --control "$CONTROL" --pins "$PINS" >"$OUT/status"
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

flow_has_a_line_for_each_message()
{
	log_has_a_line_for_each_message "$OUT/flow"
}

# But for the times, the head included.
sluicectl_trace_says_the_same_as_flow()
{
	local log

	for log in flow sluicectl; do
		grep -vE '^(Attach|Lost |$)' "$OUT/$log" |
			awk '$1 != "MS" { $1 = $NF = "" } 1' | sort \
			>"$OUT/$log.sorted"
	done
	diff "$OUT/flow.sorted" "$OUT/sluicectl.sorted"
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

# with BPFTRACE: every script, once.
with()
{
	local bpftrace=$1 version name

	version=$("$bpftrace" --version) || version=$bpftrace
	daemon_start --config "$TMPDIR/conf" || exit 2
	trap end EXIT
	listen_to_all
	tap_case "$version: every script attaches" everything_is_attached
	tap_case "$version: the service is up" \
		daemon_says "backend $TMPDIR/backend is up"
	tap_case "$version: traffic in every lane" traffic_in_every_lane
	hear_out
	tap_case "$version: nothing went wrong in it" none_lost_events
	for name in flow_has_a_line_for_each_message \
		sluicectl_trace_says_the_same_as_flow \
		latency_has_each_message_in_its_lane \
		spill_says_what_was_spilled_and_refused doorbell_counts_wake_ups \
		buffers_says_who_holds_them services_lists_what_sluiced_attached \
		services_lists_how_connections_travel \
		uring_counts_what_the_relay_did; do
		tap_case "$version: ${name//_/ }" $name
	done
	daemon_stop
	rm "$OUT"/*
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
trap end EXIT
with bpftrace
if test -x "$NEWER"; then
	with "$NEWER"
else
	tap_case 'a newer bpftrace' \
		tap_skip 'it is not there (make deps unpacks it)'
fi
tap_done
