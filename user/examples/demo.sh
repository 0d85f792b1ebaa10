#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The demonstration behind `make demo`: a real directory tree goes from one
# process to another through sluice, checksums are compared, and a short
# measurement shows what copying costs. Needs no privileges; everything it
# makes lies in one temporary directory. As root it shows the steered lane as
# well, with a sluiced of its own.
set -eu

build=$(realpath "${SLUICE_BUILD:-$(dirname "$0")/../../build}")
bin=$build/bin
shown=$(realpath --relative-base=. "$bin")
tmp=$(mktemp -d "${TMPDIR:-/tmp}/sluice-demo.XXXXXX")
name=@sluice-demo-${tmp##*.}
pins=/sys/fs/bpf/sluice-demo-${tmp##*.}
receiver=
sluiced=
servers=()

cleanup()
{
	local pid
	for pid in "${servers[@]}"; do
		kill "$pid" 2>/dev/null || :
		wait "$pid" 2>/dev/null || :
	done
	[ -z "$receiver" ] || kill "$receiver" 2>/dev/null || :
	if [ -n "$sluiced" ]; then
		kill "$sluiced" 2>/dev/null || :
		wait "$sluiced" 2>/dev/null || :
	fi
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

# Why there is no steered lane here; nothing if there is one.
no_steering()
{
	local why
	if [ "$(id -u)" != 0 ]; then
		echo "it needs root"
	elif ! why=$("$bin/sluicectl" probe bpf bpf-helpers btf frozen-array \
		ringbuf filter-seqpacket 2>&1); then
		grep -vE ' yes |^[a-z]*$' <<<"$why" | xargs
	fi
}

# until COMMAND...: waits up to 20 s for it
until_true()
{
	local _
	for _ in $(seq 400); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.05
	done
	return 1
}

# A sluiced that lets in the group of nobody.
sluiced_start()
{
	printf '[control]\ngroup = %s\n' "$(id -gn nobody)" >"$tmp/conf"
	"$bin/sluiced" --config "$tmp/conf" --control "$tmp/control" \
		--pins "$pins" --unload >"$tmp/log" 2>&1 &
	sluiced=$!
	until_true grep -q 'ready$' "$tmp/log" || {
		cat "$tmp/log" >&2
		die "sluiced did not start"
	}
}

# sum NAME...: of the counters of the BPF program
sum()
{
	"$bin/sluicectl" status --json --interval 0 --control "$tmp/control" \
		--pins "$pins" | python3 -c '
import json, sys
counters = json.load(sys.stdin)["counters"]
print(sum(counters[name]["total"] for name in sys.argv[1:]))' "$@"
}

# The client is Python and its socket module, which know nothing of sluice.
steer()
{
	chmod 755 "$tmp"
	install -m 755 "$build/examples/steered" "$tmp/steered"
	sluiced_start
	SLUICE_CONTROL=$tmp/control timeout 60 setpriv --reuid nobody \
		--regid "$(id -g nobody)" --clear-groups \
		"$tmp/steered" "$name" >"$tmp/steered.log" 2>&1 &
	receiver=$!
	until_true grep -q Listening "$tmp/steered.log" || {
		cat "$tmp/steered.log" >&2
		die "the receiver did not start"
	}
	python3 - "$name" <<-'EOF' || die "the client failed"
		import socket, sys, time

		client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		client.connect("\0" + sys.argv[1][1:])
		time.sleep(0.3)
		for number in range(1000):
		    client.send(b"hello, number %d, " % number + b"x" * 1000)
		    time.sleep(0.0005)
	EOF
	wait "$receiver" || {
		cat "$tmp/steered.log" >&2
		die "the receiver failed"
	}
	receiver=
}

echo
echo "The steered lane: a client that knows nothing of sluice, a receiver without recv."
skip=$(no_steering)
if [ -n "$skip" ]; then
	echo "Not shown: $skip. \"$shown/sluicectl probe\" says what this kernel can do."
else
	steer
	grep -q ' steered lane\.' "$tmp/steered.log" || {
		cat "$tmp/steered.log" "$tmp/log" >&2
		die "the messages were not steered"
	}
	cat <<-EOF
		root runs sluiced; nobody runs the example "steered", which asks it for the
		steered lane; Python's socket module, which knows nothing of sluice, connects
		and sends 1000 messages of about 1 KiB. What the receiver says:

		$(sed 's/^/  /' "$tmp/steered.log")

		What the BPF program on its socket counted (sluicectl status):

		  $(sum steered_small) messages put into the receiver's landing pool, $(sum \
		pass_hold pass_charged pass_ring_full pass_no_landing) left to the queue,
		  $(sum doorbells) times the receiver was woken.

		Each message was copied once, by the program, while the client was in send();
		the receiver read it where it lay. recv() is for those that were left.
	EOF
fi

# Why there are no services here; nothing if there are.
no_services()
{
	local tool

	no_steering
	for tool in curl nginx; do
		command -v $tool >/dev/null || echo "it needs $tool"
	done
}

# service FIELD...: of the service "web", as sluicectl status shows it
service()
{
	"$bin/sluicectl" status --json --interval 0 --control "$tmp/control" \
		--pins "$pins" | python3 -c '
import json, sys
for service in json.load(sys.stdin)["services"]:
    if service["name"] == sys.argv[1]:
        for key in sys.argv[2:]:
            service = service[key]
        print(service)' "$@"
}

# Two services, each with one backend; sluiced reads its configuration again.
services_start()
{
	cat >>"$tmp/conf" <<-EOF
		[service web]
		listen = $tmp/web
		backends = $tmp/nginx.sock
		half_close = no
		[service aware]
		listen = $tmp/aware
		landing = yes
	EOF
	mkdir "$tmp/nginx"
	cp "$tmp/in/random-64M" "$tmp/nginx/file"
	cat >"$tmp/nginx/conf" <<-EOF
		daemon off; user root; pid $tmp/nginx/pid; error_log $tmp/nginx/log;
		events { }
		http {
			access_log off; client_body_temp_path $tmp/nginx/b;
			proxy_temp_path $tmp/nginx/p; fastcgi_temp_path $tmp/nginx/f;
			uwsgi_temp_path $tmp/nginx/u; scgi_temp_path $tmp/nginx/s;
			server { listen unix:$tmp/nginx.sock; root $tmp/nginx; }
		}
	EOF
	nginx -p "$tmp/nginx" -c "$tmp/nginx/conf" >"$tmp/nginx.log" 2>&1 &
	servers+=($!)
	kill -HUP "$sluiced"
	until_true test -S "$tmp/web" || die "no service: $(tail -3 "$tmp/log")"
	"$build/examples/sluicehttp" aware "$tmp/control" &
	servers+=($!)
	until_true test -S "$tmp/aware" || die "no service: $(tail -3 "$tmp/log")"
}

get()
{
	curl -sS --max-time 60 --unix-socket "$@"
}

echo
echo "Services: curl talks to nginx, and to an aware HTTP server, through sluiced."
skip=$(no_services)
if [ -n "$skip" ]; then
	echo "Not shown: $skip."
else
	services_start
	get "$tmp/web" http://x/file | cmp - "$tmp/in/random-64M" ||
		die "nginx's file differs"
	got=$(get "$tmp/aware" --data-binary "@$tmp/in/random-64M" http://x/) ||
		die "the aware server failed"
	cat <<-EOF

		  curl --unix-socket $tmp/web http://x/file
		    64 MiB from nginx, equal to the original ($(service web path)). sluiced has
		    read and written $(service web sluiced bytes to_clients) of those bytes, until the kernel took over.
		  curl --unix-socket $tmp/aware --data-binary @random-64M http://x/
		    "$got", says the aware server, which has curl's own socket:
		    sluiced has read and written $(service aware sluiced bytes to_backends). Of what curl sent, $(sum steered_pieces)
		    pieces of 32 KiB or less landed in the server's pool while curl was in send().
	EOF
fi

cat <<EOF

What to try next:
  $shown/sluicecat -l @x > copy
  $shown/sluicecat @x < FILE    (in another terminal)
  $shown/sluice-bench --list
  $shown/sluicectl probe
  make check
  man -l user/man/sluicecat.1
EOF
