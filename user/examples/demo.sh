#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The demonstration behind `make demo`: a real directory tree goes from one
# process to another through sluice, checksums are compared, and a short
# measurement shows what copying costs. Needs no privileges; everything it
# makes lies in one temporary directory.
set -eu

build=$(realpath "${SLUICE_BUILD:-$(dirname "$0")/../../build}")
bin=$build/bin
shown=$(realpath --relative-base=. "$bin")
tmp=$(mktemp -d "${TMPDIR:-/tmp}/sluice-demo.XXXXXX")
name=@sluice-demo-${tmp##*.}
receiver=

cleanup()
{
	[ -z "$receiver" ] || kill "$receiver" 2>/dev/null || :
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

die()
{
	echo "demo: $*" >&2
	exit 1
}

# The first of these that is worth sending and quick to send.
choose_tree()
{
	local tree mib
	for tree in /usr/include /usr/share/doc /usr/lib/python3 \
		/usr/share/perl /usr/share/zoneinfo /usr/share /etc; do
		if [ ! -d "$tree" ] || [ -L "$tree" ]; then
			continue
		fi
		mib=$(du -sxm "$tree" 2>/dev/null | cut -f 1)
		if [ "$mib" -ge 2 ] && [ "$mib" -le 300 ] &&
			[ -z "$(find "$tree" ! -readable -print -quit)" ]; then
			echo "$tree"
			return
		fi
	done
	return 1
}

# manifest DIRECTORY NAME...: every file with its SHA-256, every link
manifest()
(
	cd "$1"
	shift
	find "$@" -type f -print0 | sort -z | xargs -0 sha256sum
	find "$@" -type l -printf '%l <- %p\n' | sort
)

# transfer SUMMARY RECEIVER-OPTION... -- FILE...: from one process to another
transfer()
{
	local summary=$1 options=()
	shift
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	shift
	timeout 120 "$bin/sluicecat" -l -q "${options[@]}" \
		--json "$summary.rx" "$name" &
	receiver=$!
	timeout 120 "$bin/sluicecat" -q -w 10 --json "$summary.tx" \
		"$name" "$@" || die "the sender failed"
	wait "$receiver" || die "the receiver failed"
	receiver=
}

# rate SUMMARY: what the receiver measured
rate()
{
	awk -v bytes="$(field "$1" bytes)" -v seconds="$(field "$1" seconds)" '
		BEGIN {
			printf "%.1f MB in %.2f s, %.2f GB/s", bytes / 1e6,
				seconds, bytes / seconds / 1e9
		}'
}

# field FILE NAME: one value of a summary that sluicecat --json wrote
field()
{
	sed -n "s/^ *\"$2\": \"\{0,1\}\([^\",]*\).*/\1/p" "$1"
}

[ -x "$bin/sluicecat" ] || die "no $shown/sluicecat: run make first"

tree=$(choose_tree) || die "found no directory tree to send"
mkdir "$tmp/in" "$tmp/out"
head -c 64M /dev/urandom >"$tmp/in/random-64M"

echo "Sending $tree and a file of 64 MiB of random bytes"
echo "from one process to another, as a tar stream through sluice:"
echo
echo "  sluicecat -l -x DIRECTORY $name"
echo "  sluicecat -w 10 $name $tree random-64M"
echo

transfer "$tmp/tree" -x "$tmp/out" -- "$tree" "$tmp/in/random-64M"
transfer "$tmp/file" <"$tmp/in/random-64M" >"$tmp/copy" --

manifest "$(dirname "$tree")" "$(basename "$tree")" >"$tmp/sent"
manifest "$tmp/in" random-64M >>"$tmp/sent"
manifest "$tmp/out" "$(basename "$tree")" >"$tmp/received"
manifest "$tmp/out" random-64M >>"$tmp/received"
for pair in "sent received" "in/random-64M copy"; do
	cmp "$tmp/${pair% *}" "$tmp/${pair#* }" >&2 ||
		die "what arrived differs from what was sent"
done

files=$(grep -vc ' <- ' "$tmp/sent")
lane=$(field "$tmp/tree.rx" lane)
reason=$(field "$tmp/tree.rx" reason)
[ "$lane" != plain ] || die "the bytes were copied through the socket: $reason"
cat <<EOF
  $files files: $(rate "$tmp/tree.rx"), and in that
  the time that tar took to read and write them all.
  The large file by itself, without tar: $(rate "$tmp/file.rx").
  Lane: $lane${reason:+ ($reason)}. The sender read into shared memory, the receiver
  wrote from there; between the two processes nothing was copied.
  SHA-256 of all $files files compared on both sides: equal.

EOF
cpus=$(nproc)
if [ "$cpus" -lt 2 ]; then
	echo "No measurement: it needs two CPUs and this machine offers $cpus."
else
	echo "Copy against zero copy: one message from process to process, one way,"
	echo "median, both sides spinning on a CPU of their own."
	for touch in first all; do
		timeout 120 "$bin/sluice-bench" --systems seqpacket,direct \
			--sizes 64,64K,1M --patterns pingpong --modes spin \
			--touch "$touch" --seconds 0.2 --runs 3 \
			--json "$tmp/bench-$touch.json" >"$tmp/bench.log" 2>&1 || {
			cat "$tmp/bench.log" >&2
			die "the measurement failed"
		}
	done
	python3 - "$tmp/bench-first.json" "$tmp/bench-all.json" <<-'EOF'
		import json, sys

		titles = {
		    "first": "only the first cache line of a message is written and read:"
		             " the cost of the transport",
		    "all": "every byte is written and read by the two processes as well",
		}
		print(f"\n  {'bytes':>9} {'AF_UNIX socket':>15} {'sluice direct':>14} {'ratio':>7}")
		for path in sys.argv[1:]:
		    with open(path) as f:
		        rows = json.load(f)["rows"]
		    time = {(r["system"], r["size"]): r["p50_ns"] for r in rows}
		    print(f"  {titles[rows[0]['touch']]}")
		    for size in sorted({size for _, size in time}):
		        copy, direct = time["seqpacket", size], time["direct", size]
		        print(f"  {size:9} {copy / 1e3:12.2f} us {direct / 1e3:11.2f} us"
		              f" {copy / direct:6.1f}x")
	EOF
	echo
	echo "The gain is the copying that is left out: it grows with the size. Who works"
	echo "on every byte gains less, because the memory itself then takes its time."
fi

cat <<EOF

What to try next:
  $shown/sluicecat -l @x > copy
  $shown/sluicecat @x < FILE    (in another terminal)
  $shown/sluice-bench --list
  make check
  man -l user/man/sluicecat.1
EOF
