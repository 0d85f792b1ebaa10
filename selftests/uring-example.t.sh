#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The example of a loop on its own ring: it serves several clients at once, and what
# they send comes back.

. "${0%/*}/tap.sh"
examples=$SLUICE_BUILD/examples

serves()
{
	local i server clients=() status=0

	timeout 100 "$examples/ring" ./s >log 2>&1 &
	server=$!
	for ((i = 0; i < 500; i++)); do
		test -S s && break
		sleep 0.02
	done
	for i in 1 2 3; do
		seq "$i" 1000 >"in$i"
		timeout 60 "$examples/echo" ./s <"in$i" >"out$i" &
		clients+=($!)
	done
	for i in 1 2 3; do
		wait "${clients[i - 1]}" || status=1
		cmp "in$i" "out$i" || status=1
	done
	# timeout hands the signal on
	kill -INT "$server"
	wait "$server" || status=1
	cat log
	grep -q '^2997 messages$' log || status=1
	test ! -e s || status=1
	rm -f log in? out?
	return "$status"
}

tap_case 'three clients of examples/ring' serves
tap_case 'wants a name' tap_says 2 usage "$examples/ring"
tap_done
