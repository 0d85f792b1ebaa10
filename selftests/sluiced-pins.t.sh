#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# What an administrator sees of a running sluiced: its pins, with bpftool and cat.
set -u
. "${0%/*}/tap.sh"
. "$SOURCE/selftests/daemon.sh"
daemon_init "$@"
PATH=$PATH:/usr/sbin

pins_are_there()
{
	daemon_start --unload
	for name in steer conns rings landings controls doorbells counters \
		connections; do
		test -e "$PINS/$name"
	done
	bpftool prog show pinned "$PINS/steer" | grep -q 'name steer'
	daemon_stop
	test ! -e "$PINS"
}

connections_are_listed()
{
	daemon_start --unload
	head -n 1 "$PINS/connections" | grep -q 'cookie endpoint ring'
}

counters_are_readable()
{
	daemon_start --unload
	bpftool map dump pinned "$PINS/counters" | grep -q '"steered_inline": 0'
}

pins_stay_without_unload()
{
	daemon_start --log-level info
	daemon_stop
	test -e "$PINS/steer"
	daemon_start --unload
	daemon_says 'took over what is pinned'
}

# A directory of its own for each: others do not matter.
two_with_their_own_pins()
{
	daemon_start --unload
	sluiced --config /dev/null --control "$TMPDIR/second" \
		--pins "$BPFFS/second" --unload 2>"$TMPDIR/second.log" &
	second=$!
	until grep -q ': ready$' "$TMPDIR/second.log"; do
		kill -0 "$second"
		sleep 0.02
	done
	kill "$second"
	wait "$second"
	rm "$TMPDIR/second.log"
	test -e "$PINS/steer"
}

tap_case 'pins are there, and go with --unload' pins_are_there
tap_case 'cat lists connections' connections_are_listed
tap_case 'bpftool shows counters' counters_are_readable
tap_case 'pins stay, and the next one takes over' pins_stay_without_unload
tap_case 'two with pins of their own' two_with_their_own_pins
tap_done
