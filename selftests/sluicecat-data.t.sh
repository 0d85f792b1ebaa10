#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicecat: what goes in comes out, files and directories.
# shellcheck source=selftests/sluicecat.sh
. "${0%/*}/sluicecat.sh"

# Files --------------------------------------------------------------------

empty_file()
{
	: >in
	transfer in
	good in
	says tx.err "sent 0 bytes"
}

one_byte()
{
	printf x >in
	transfer in
	good in
	says rx.err "received 1 bytes"
}

sizes()
{
	local n
	for n in 31 32 33 4096 8191 1048575 1048576 1048577; do
		head -c "$n" /dev/urandom >in
		transfer in
		good in
	done
}

big_file()
{
	head -c 64M /dev/urandom >in
	transfer in
	good in
	is checksum "$(sha256sum <out)" "$(sha256sum <in)"
	says tx.err "sent 67108864 bytes"
	says tx.err "direct lane"
	says rx.err "direct lane"
}

sparse_file()
{
	truncate -s 20M in
	printf end >>in
	transfer in
	good in
}

# reads FILE NAME: a number of its summary
reads()
{
	sed -n "s/^ *\"$2\": \([0-9]*\).*/\1/p" "$1"
}

# A ring can be forbidden: then by read().
by_ring()
{
	local fixed

	head -c 9000001 /dev/urandom >in
	transfer in -b 1M --json tx.json
	good in
	if test "$(reads tx.json ring_reads)" = 0; then
		tap_skip "no io_uring here"
	fi
	test "$(reads tx.json ring_reads)" -ge 9
	fixed=$(reads tx.json fixed_reads)
	test "$fixed" -le "$(reads tx.json ring_reads)"
	test "$(id -u)" != 0 || test "$fixed" -gt 0
	transfer in --no-ring --json tx.json
	good in
	is reads "$(reads tx.json ring_reads)" 0
	is reads "$(reads tx.json fixed_reads)" 0
}

# It begins where the file stands and leaves it at its end.
position()
{
	seq 300000 >all
	tail -c +2001 all >in
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	{
		dd bs=1000 count=2 of=head status=none
		"$cat" -w 10 -b 4K "$at" 2>tx.err
		tx=$?
		cat - >rest
	} <all
	finish "$pid"
	rx=$?
	good in
	is rest "$(wc -c <rest)" 0
}

small_buffers()
{
	head -c 3000001 /dev/urandom >in
	transfer in -b 4K
	good in
}

pipe_input()
{
	head -c 5M /dev/urandom >in
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	# short reads, of a size that divides nothing
	dd if=in bs=7777 status=none | "$cat" -w 10 "$at" 2>tx.err
	is sender "${PIPESTATUS[1]}" 0
	finish "$pid"
	is receiver $? 0
	same in out
}

pipe_output()
{
	head -c 5M /dev/urandom >in
	"$cat" -w 10 "$at" <in 2>tx.err &
	pid=$!
	timeout 20 "$cat" -l "$at" 2>rx.err | dd bs=5000 status=none >out
	is receiver "${PIPESTATUS[0]}" 0
	finish "$pid"
	is sender $? 0
	same in out
}

abstract_name()
{
	at=@sluicecat-$id
	head -c 2M /dev/urandom >in
	transfer in
	good in
	is "names left" "$(grep -c "sluicecat-$id" /proc/net/unix)" 0
}

reverse()
{
	head -c 5M /dev/urandom >in
	"$cat" -l -r "$at" <in 2>tx.err &
	pid=$!
	timeout 20 "$cat" -r -w 10 "$at" >out 2>rx.err
	rx=$?
	finish "$pid"
	tx=$?
	good in
	says rx.err "direct lane"
}

json()
{
	printf 'twelve bytes' >in
	listen=(--json rx.json)
	transfer in -q --json tx.json
	good in
	is "quiet sender" "$(cat tx.err)" ""
	python3 - <<-'EOF' || exit 1
		import json
		for role in "sender", "receiver":
		    with open(role[0].replace("s", "t") + "x.json") as f:
		        got = json.load(f)
		    print(got)
		    assert got["role"] == role and got["bytes"] == 12
		    assert got["messages"] == 1 and got["seconds"] > 0
		    assert got["bytes_per_s"] > 0 and got["peer_pid"] > 1
		    assert got["lane"] in ("queued", "direct")
	EOF
}

terminal_progress()
{
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	timeout 20 script -qec "(head -c 1M /dev/zero; sleep 0.5
		head -c 1M /dev/zero) | '$cat' -w 10 '$at'" /dev/null >tx.err
	is sender $? 0
	finish "$pid"
	is receiver $? 0
	says tx.err $'\rsluicecat: 1.1 MB, '
	says tx.err "sent 2097152 bytes"
	! grep -q $'\r' rx.err
}

# Directories --------------------------------------------------------------

make_tree()
{
	mkdir -p "$1/a/b c/-d" "$1/empty"
	head -c 3M /dev/urandom >"$1/a/big"
	printf 1 >"$1/a/b c/-d/--one"
	: >"$1/nothing"
	chmod 640 "$1/nothing"
	chmod 755 "$1/a/big"
	ln -s ../a/big "$1/empty/link"
	ln -s /nowhere "$1/dangling"
}

manifest()
{
	(
		cd "$1" || exit 1
		find . -type f -exec sha256sum {} + | sort -k 2
		find . -printf '%P %y %m %l\n' | sort
	)
}

send_operands()
{
	mkdir out
	"$cat" -l -x out "$at" 2>rx.err &
	pid=$!
	"$cat" -w 10 "$at" "$@" 2>tx.err &
	both "$pid" $!
	cat rx.err tx.err
	is receiver "$rx" 0
	is sender "$tx" 0
}

directory()
{
	make_tree tree
	send_operands tree/
	is manifest "$(manifest out/tree)" "$(manifest tree)"
}

contents_of_directory()
{
	make_tree tree
	mkdir out
	"$cat" -l -x out "$at" 2>rx.err &
	pid=$!
	(cd tree && exec "$cat" -w 10 "../$at" .) 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 0
	is sender "$tx" 0
	is manifest "$(manifest out)" "$(manifest tree)"
}

many_operands()
{
	make_tree one
	mkdir -p deep/er
	make_tree deep/er/two
	printf 3 >-three
	send_operands deep/er/two one ./-three "$PWD/deep/er/two/a/big"
	is one "$(manifest out/one)" "$(manifest one)"
	is two "$(manifest out/two)" "$(manifest deep/er/two)"
	same ./-three out/-three
	same deep/er/two/a/big out/big
}

directory_reverse()
{
	make_tree tree
	mkdir out
	"$cat" -l -r "$at" tree 2>tx.err &
	pid=$!
	timeout 20 "$cat" -r -w 10 -x out "$at" 2>rx.err
	is receiver $? 0
	finish "$pid"
	is sender $? 0
	is manifest "$(manifest out/tree)" "$(manifest tree)"
}

not_a_tar()
{
	mkdir dir
	head -c 1M /dev/urandom >in
	listen=(-x dir)
	transfer in
	is receiver "$rx" 1
	is sender "$tx" 1
	says rx.err "sluicecat: tar failed with exit code"
	says tx.err "sluicecat: the peer failed: tar failed with exit code"
}

sending_tar_fails()
{
	mkdir bin dir
	printf '#!/bin/sh\necho partial\nexit 2\n' >bin/tar
	chmod +x bin/tar
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	PATH=$PWD/bin:$PATH "$cat" -w 10 "$at" dir 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 1
	is sender "$tx" 1
	says tx.err "sluicecat: tar failed with exit code 2"
	says rx.err "sluicecat: the peer closed before the end"
}

no_tar()
{
	mkdir none dir
	"$cat" -l "$at" >out 2>rx.err &
	pid=$!
	PATH=$PWD/none "$cat" -w 10 "$at" dir 2>tx.err &
	both "$pid" $!
	is receiver "$rx" 1
	is sender "$tx" 1
	says tx.err "sluicecat: cannot run tar: No such file or directory"
}

t empty_file "empty file"
t one_byte "file of one byte"
t sizes "sizes around the limits"
t big_file "64 MiB, direct lane on both sides, checksum equal"
t sparse_file "sparse file"
t small_buffers "more messages than there are buffers"
t by_ring "a file is read by io_uring, into registered buffers, or by read()"
t position "from where the file stands"
t pipe_input "input from a pipe, short reads"
t pipe_output "output to a pipe"
t abstract_name "abstract name"
t reverse "reverse: the listener sends"
t json "summary as JSON, quiet"
t terminal_progress "progress on a terminal only"
t directory "directory, names and modes and links"
t contents_of_directory "contents of the current directory"
t many_operands "many operands"
t directory_reverse "directory, reverse"
t not_a_tar "extracting what is no tar stream fails on both sides"
t sending_tar_fails "a tar that fails at the sender fails on both sides"
t no_tar "no tar"

tap_done
