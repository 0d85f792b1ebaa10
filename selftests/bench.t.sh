#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluice-bench: every system measures every pattern and mode, the results say
# what they should, and mistakes are found before the run. Nothing here depends
# on how fast anything is. Limit: 300 s
# shellcheck source=selftests/tap.sh
. "${0%/*}/tap.sh"

tap_needs gnuplot
if test "$(nproc)" -lt 2; then
	tap_skip_all "two processes cannot be measured on one CPU"
fi
# A private sluiced may mount a BPF file system: not for anybody else.
if test "$(id -u)" = 0 && test -z "${BENCH_PRIVATE-}"; then
	BENCH_PRIVATE=1 exec unshare --mount --propagation private \
		"$SOURCE/selftests/${0##*/}"
fi
mapfile -t allowed < <(python3 -c '
import os
print(*sorted(os.sched_getaffinity(0))[:2], sep="\n")')
cpus=${allowed[0]},${allowed[1]}
tmp=$(mktemp -d "$TMPDIR/bench.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

bench()
{
	sluice-bench --cpus "$cpus" --seconds 0.005 --runs 1 "$@"
}

# measures_all TOUCH SIZES
measures_all()
{
	bench --patterns pingpong,stream --modes spin,block --touch "$1" \
		--systems raw,memcpy,seqpacket,stream,pipe,queued,direct \
		--sizes "$2" --json "$tmp/json" >"$tmp/out" 2>"$tmp/err" ||
		{ cat "$tmp/err"; return 1; }
	test ! -s "$tmp/err" # no terminal, no progress
	python3 - "$tmp/json" "$1" "$2" <<-'END'
		import itertools, json, sys

		result = json.load(open(sys.argv[1]))
		assert isinstance(result["host"], dict) and result["host"]
		rows = result["rows"]
		keys = [(r["system"], r["pattern"], r["mode"], r["size"])
		        for r in rows]
		want = itertools.product(
		    "raw memcpy seqpacket stream pipe queued direct".split(),
		    ["pingpong", "stream"], ["spin", "block"],
		    [int(size) for size in sys.argv[3].split(",")])
		assert sorted(keys) == sorted(want), keys
		for row in rows:
		    assert row["touch"] == sys.argv[2], row
		    for name in "msgs_per_s", "bytes_per_s", "cpu_ns_per_msg":
		        assert row[name] > 0, row
		    times = [row[n] for n in ("p50_ns", "p99_ns", "p999_ns")]
		    if row["pattern"] == "pingpong":
		        assert 0 < times[0] <= times[1] <= times[2], row
		    else:
		        assert times == [None] * 3, row
		    assert row["runs"] >= 1 and row["spread_pct"] >= 0, row
		    ratio = row["bytes_per_s"] / row["msgs_per_s"] / row["size"]
		    assert abs(ratio - 1) < 1e-3, row
		    # Messages of the queued lane travel in frames, up to 64 in one.
		    if row["system"] == "queued":
		        assert row["frames_per_msg"] >= 1 / 64, row
		    elif row["system"] != "direct":
		        assert row["frames_per_msg"] is None, row
	END
}

# Fan-in has a row for each number of senders, and figures for each side.
measures_fanin()
{
	bench --systems epoll,pipe --patterns stream,fanin --modes spin,block \
		--sizes 32,4K --senders 1,5,40 --json "$tmp/json" >"$tmp/out"
	python3 - "$tmp/json" <<-'END'
		import itertools, json, os, sys

		rows = json.load(open(sys.argv[1]))["rows"]
		fanin = [r for r in rows if r["pattern"] == "fanin"]
		assert sorted((r["mode"], r["size"], r["senders"]) for r in fanin) == \
		    sorted(itertools.product(["spin", "block"], [32, 4096], [1, 5, 40]))
		assert {r["system"] for r in fanin} == {"epoll"}, fanin
		for row in rows:
		    assert row["msgs_per_s"] > 0, row
		    assert (row["senders"] is None) == (row["pattern"] != "fanin"), row
		    for side in "tx", "rx":
		        assert row[side + "_cpu_ns_per_msg"] > 0, row
		        busy = row[side + "_busy_ns_per_msg"]
		        if row["pattern"] == "fanin" and row["mode"] == "spin":
		            assert 0 <= busy <= row[side + "_cpu_ns_per_msg"], row
		        else:
		            assert busy is None, row
		    # send and recv, and one wait for up to 64 messages
		    if os.geteuid() == 0 and row["calls_per_msg"] is not None:
		        assert row["tx_calls_per_msg"] > 0.8, row
		        assert row["rx_calls_per_msg"] >= 1, row
	END
	grep -q 'senders' "$tmp/out"
	bench --systems epoll-burst --patterns fanin --modes block --sizes 32 --senders 5 --burst 16 \
		--json "$tmp/json" >"$tmp/out"
	python3 - "$tmp/json" <<-'END'
		import json, os, sys

		row, = json.load(open(sys.argv[1]))["rows"]
		assert row["burst"] == 16, row
		if os.geteuid() == 0 and row["calls_per_msg"] is not None:
		    assert row["tx_calls_per_msg"] < 0.8, row
	END
	grep -q '16 messages at once' "$tmp/out"
}

# A file in pieces, by every system that has that; how often it calls says how.
measures_file()
{
	bench --systems file-read,file-sendfile,file-splice,file-pool,file-ring \
		--patterns file --modes spin,block --touch all --sizes 4K,1M \
		--json "$tmp/json" >"$tmp/out"
	python3 - "$tmp/json" <<-'END'
		import json, os, sys

		rows = json.load(open(sys.argv[1]))["rows"]
		assert len(rows) == 5 * 2 * 2, len(rows)
		for row in rows:
		    if row["msgs_per_s"] is None and row["system"] == "file-ring":
		        continue # no io_uring
		    assert row["pattern"] == "file" and row["msgs_per_s"] > 0, row
		    for side in "tx", "rx":
		        assert row[side + "_cpu_ns_per_msg"] > 0, row
		    if os.geteuid() or row["calls_per_msg"] is None or row["size"] != 4096:
		        continue
		    calls = row["tx_calls_per_msg"]
		    want = {"file-read": 2, "file-sendfile": 1, "file-splice": 2,
		            "file-pool": 1, "file-ring": 0.2}[row["system"]]
		    assert calls > 0.9 * want, row
	END
	grep -q 'pieces of one in the page cache' "$tmp/out"
}

# With sluiced: messages are steered, in every pattern and mode.
measures_steered()
{
	local why

	test "$(id -u)" = 0 || tap_skip "needs root"
	why=$(sluicectl probe bpf bpf-helpers btf frozen-array ringbuf \
		filter-seqpacket) || tap_skip "$(
		grep -vE ' yes |^[a-z]*$' <<<"$why" | xargs)"
	bench --systems steered-plain,steered,steered-single \
		--patterns pingpong,stream,fanin --modes spin,block \
		--sizes 32,100K --senders 1,20 --json "$tmp/json" \
		>"$tmp/out" 2>"$tmp/err" || { cat "$tmp/err"; return 1; }
	python3 - "$tmp/json" <<-'END'
		import json, sys

		rows = json.load(open(sys.argv[1]))["rows"]
		# two systems: 2 sizes, 2 modes, pingpong, stream, two fan-ins
		assert len(rows) == 2 * 2 * (2 * 4 + 1), len(rows)
		for row in rows:
		    if row["msgs_per_s"] is None: # depends on wmem_max
		        assert row["size"] > 65536 and row["reason"], row
		        continue
		    assert row["msgs_per_s"] > 0, row
		    # A sender that never lets the queue run empty may be left in
		    # it; who waits for each answer is not.
		    assert 0 <= row["spilled_per_msg"] <= 1, row
		    assert row["pattern"] != "pingpong" or \
		        row["spilled_per_msg"] < 1, row
	END
	test ! -e "/sys/fs/bpf/sluice-bench-"*
}

# With a process between the two: its CPU counts, too.
measures_the_middle()
{
	test "$(id -u)" = 0 || tap_skip "needs root"
	sluicectl probe bpf bpf-helpers btf sockmap-stream >"$tmp/out" ||
		tap_skip "$(grep -vE ' yes |^[a-z]*$' "$tmp/out" | xargs)"
	bench --systems relay,switch,sockmap --patterns pingpong,stream \
		--modes block --sizes 64,16K --json "$tmp/json" \
		>"$tmp/out" 2>"$tmp/err" || { cat "$tmp/err"; return 1; }
	python3 - "$tmp/json" <<-'END'
		import json, sys

		rows = json.load(open(sys.argv[1]))["rows"]
		assert len(rows) == 3 * 2 * 2, rows
		for row in rows:
		    assert row["msgs_per_s"] > 0, row
		    assert row["cpu_ns_per_msg"] > 0, row
	END
}

steered_without_sluiced()
{
	local status=0

	if test "$(id -u)" = 0; then
		install -m 755 "$(command -v sluice-bench)" "$tmp/sluice-bench"
		chmod 755 "$tmp" "$TMPDIR"
		timeout 60 setpriv --reuid 65534 --regid 65534 --clear-groups \
			"$tmp/sluice-bench" --cpus "$cpus" --seconds 0.005 --runs 1 \
			--systems steered,pipe --sizes 64 >"$tmp/out" || status=$?
	else
		bench --systems steered,pipe --sizes 64 >"$tmp/out" || status=$?
	fi
	cat "$tmp/out"
	test "$status" = 0
	grep -q 'steered .* not possible: no sluiced runs, and only root' "$tmp/out"
}

# Blocking, exactly one send and one recv: what the tracepoint says.
counts_calls()
{
	test "$(id -u)" = 0 || tap_skip "needs root"
	bench --systems seqpacket,raw --patterns pingpong --modes block \
		--sizes 64 --json "$tmp/json" >"$tmp/out"
	grep '^system calls are not counted' "$tmp/out" >"$tmp/why" &&
		tap_skip "$(cat "$tmp/why")"
	python3 - "$tmp/json" <<-'END'
		import json, sys

		seqpacket, = (r for r in json.load(open(sys.argv[1]))["rows"]
		              if r["system"] == "seqpacket")
		assert 1.9 < seqpacket["calls_per_msg"] < 2.2, seqpacket
	END
}

# A stream warms up with a thousand messages; the handshake takes a few frames.
direct_sends_no_frames()
{
	bench --systems direct --patterns stream --sizes 32,64K \
		--json "$tmp/json" >"$tmp/out"
	python3 - "$tmp/json" <<-'END'
		import json, sys

		for row in json.load(open(sys.argv[1]))["rows"]:
		    assert row["frames_per_msg"] < 0.1, row
	END
}

# What is kept and what is discarded, of three repetitions and those done again.
repeats()
{
	bench --systems pipe --sizes 32 --runs 3 --json "$tmp/json" >"$tmp/out"
	python3 - "$tmp/json" <<-'END'
		import json, sys

		result = json.load(open(sys.argv[1]))
		for row in result["rows"]:
		    # Where all were disturbed, all count.
		    assert 1 <= row["runs"] <= 6, row
		    assert 3 <= row["runs"] + row["discarded"] <= 12, row
		probe = result["probe"]
		assert probe["discarded"] == \
		    sum(row["discarded"] for row in result["rows"]), result
		assert 6 <= probe["repetitions"] + probe["discarded"], result
		assert probe["low_ns"] < probe["p50_ns"] < probe["high_ns"], result
	END
}

terminal_progress()
{
	timeout 60 script -qec "sluice-bench --cpus $cpus --seconds 0.005 \
		--runs 1 --systems pipe --sizes 32 2>&1 >/dev/null" \
		/dev/null >"$tmp/out"
	cat -v "$tmp/out"
	grep -q $'\r.* % of [0-9]* repetitions.*: pipe, stream, spin, 32 B' \
		"$tmp/out"
}

too_large_for_a_packet()
{
	bench --systems seqpacket,direct --sizes 16M --json "$tmp/json" \
		>"$tmp/out"
	python3 - "$tmp/json" <<-'END'
		import json, sys

		for row in json.load(open(sys.argv[1]))["rows"]:
		    if row["system"] == "direct":
		        assert row["msgs_per_s"] > 0, row
		    elif row["msgs_per_s"] is None: # depends on wmem_max
		        assert row["p50_ns"] is None and row["reason"], row
		        assert row["runs"] == 0, row
	END
}

plots()
{
	bench --systems raw,pipe --sizes 64,1K,16K --plot "$tmp/a b'.svg" \
		>"$tmp/out"
	python3 - "$tmp/a b'.svg" <<-'END'
		import sys, xml.etree.ElementTree as tree

		svg = tree.parse(sys.argv[1]).getroot()
		assert svg.tag.endswith("svg"), svg.tag
		text = "".join(svg.itertext())
		for word in "raw", "pipe", "16 KiB", "Half round trip", "stream":
		    assert word in text, word
	END
}

plots_only_with_gnuplot()
{
	local bench

	bench=$(command -v sluice-bench)
	tap_says 2 gnuplot env PATH="$tmp" "$bench" --cpus "$cpus" \
		--plot "$tmp/no.svg"
	test ! -e "$tmp/no.svg"
}

lists()
{
	sluice-bench --list >"$tmp/out"
	test "$(cut -d' ' -f1 "$tmp/out" | xargs)" = \
		"raw memcpy seqpacket stream pipe queued direct steered-plain steered steered-single epoll epoll-burst relay switch sockmap file-read file-sendfile file-splice file-pool file-ring"
	# one line with words for each
	test "$(grep -cE '^[a-z-]+ +[^ ]+ [^ ]+' "$tmp/out")" = 20
}

helps()
{
	local option

	sluice-bench --help >"$tmp/out"
	for option in systems sizes senders burst patterns modes touch cpus seconds runs \
		json plot list help; do
		grep -q -- "--$option\b" "$tmp/out"
	done
}

keeps_old_results()
{
	echo old >"$tmp/old"
	tap_says 2 "no system" bench --json "$tmp/old" --systems raw,nonsense
	tap_says 2 nowhere bench --json "$tmp/old" --plot "$tmp/nowhere/x.svg"
	test "$(cat "$tmp/old")" = old
	tap_says 2 nowhere bench --json "$tmp/new" --plot "$tmp/nowhere/x.svg"
	test ! -e "$tmp/new"
}

# Of the process $1, if there is one.
children()
{
	cat "/proc/$1/task/$1/children" 2>/dev/null || :
}

# Starts a run of $1 seconds; sets pid, and sides to its two processes.
start()
{
	local bench_pid i

	timeout 100 sluice-bench --cpus "$cpus" --seconds "$1" --systems direct \
		--modes block --patterns pingpong --sizes 32 --json "$tmp/dead" \
		>"$tmp/out" 2>"$tmp/err" &
	pid=$!
	for ((i = 0; i < 500; i++)); do
		bench_pid=$(children "$pid")
		read -ra sides <<<"$(children "${bench_pid% }")"
		test ${#sides[@]} = 2 && return
		sleep 0.01
	done
	kill "$pid"
	echo "its processes did not start"
	return 1
}

# The run fails, tap_says $1, and leaves no process and no file.
ends_with()
{
	local status=0 side

	wait "$pid" || status=$?
	cat "$tmp/err"
	test "$status" = 1
	grep -qF -- "$1" "$tmp/err"
	test ! -e "$tmp/dead"
	for side in "${sides[@]}"; do
		test ! -e "/proc/$side"
	done
}

notices_death()
{
	start 50
	sleep 0.2
	kill -KILL "${sides[1]}"
	ends_with 'process 1 died'
}

notices_hang()
{
	start 3
	sleep 0.2
	kill -STOP "${sides[0]}"
	ends_with 'killed'
}

tap_case 'every system, pattern and mode; first line touched' \
	measures_all first 32,4096
tap_case 'the same, every byte touched' measures_all all 102400
tap_case 'the direct lane sends no frames' direct_sends_no_frames
tap_case 'fan-in' measures_fanin
tap_case 'file' measures_file
tap_case 'steered' measures_steered
tap_case 'with a process between the two' measures_the_middle
tap_case 'steered, but there is no sluiced' steered_without_sluiced
tap_case 'system calls are counted' counts_calls
tap_case 'what a socket cannot carry is no error' too_large_for_a_packet
tap_case 'plots' plots
tap_case '--plot without gnuplot' plots_only_with_gnuplot
tap_case '--runs' repeats
tap_case 'progress on a terminal' terminal_progress
tap_case '--list' lists
tap_case '--help' helps
tap_case 'files that are there survive a mistake' keeps_old_results
tap_case 'a side that dies ends the run' notices_death
tap_case 'a side that hangs is killed' notices_hang

mistake()
{
	tap_case "mistake: ${*:2}" tap_says 2 "$1" bench "${@:2}"
}

mistake 'no system "udp"' --systems raw,udp
mistake 'empty word' --systems ''
mistake 'given twice' --systems raw,raw
mistake 'bad size "x"' --sizes 64,x
mistake 'bad size "4Q"' --sizes 4Q
mistake 'bad size "4KB"' --sizes 4KB
mistake 'bad size "-64"' --sizes -64
mistake 'size "0"' --sizes 0
mistake 'size "31"' --sizes 31
mistake 'size "17M"' --sizes 17M
mistake 'size "18014398509481984K"' --sizes 18014398509481984K
mistake 'empty word' --sizes 64,,128
mistake 'no pattern "pong"' --patterns pong
mistake 'epoll is not measured' --systems raw,epoll --patterns stream
mistake 'pipe is not measured' --systems pipe --patterns fanin
mistake 'does not draw' --patterns fanin --plot "$tmp/no.svg"
mistake 'bad senders "0"' --senders 1,0
mistake 'bad senders "4097"' --senders 4097
mistake 'bad senders "many"' --senders many
mistake 'given twice' --senders 8,8
mistake 'bad burst "0"' --burst 0
mistake 'bad burst "65"' --burst 65
mistake 'bad burst "4,8"' --burst 4,8
mistake 'no mode "sleep"' --modes spin,sleep
mistake 'no touch "none"' --touch none
mistake 'no CPU 1023' --cpus 0,1023
mistake 'no CPU 99999999' --cpus 99999999,0
mistake 'given twice' --cpus 0,0
mistake 'bad CPUs "0"' --cpus 0
mistake 'bad CPUs "0,1,2"' --cpus 0,1,2
mistake 'bad seconds "0"' --seconds 0
mistake 'bad seconds "nan"' --seconds nan
mistake 'bad seconds "1s"' --seconds 1s
mistake 'bad runs "0"' --runs 0
mistake 'bad runs "2.5"' --runs 2.5
mistake 'Is a directory' --json /
mistake 'No such file' --json /nonexistent/x
mistake 'No such file' --plot /nonexistent/x.svg
mistake 'unrecognized option' --nonsense
mistake 'requires an argument' --json
mistake 'what is "32"' 32
tap_done
