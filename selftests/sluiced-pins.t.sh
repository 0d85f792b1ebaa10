#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# What an administrator sees of a running sluiced: its pins, with bpftool and cat;
# and the service unit.
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

unit=$SOURCE/user/daemon/sluiced.service.in

# What systemd says of the unit; its manual pages are not installed here.
unit_is_good()
{
	command -v systemd-analyze >/dev/null || tap_skip 'no systemd-analyze'
	sed "s|@SBINDIR@|$SLUICE_BUILD/bin|" "$unit" >"$TMPDIR/sluiced.service"
	systemd-analyze verify --man=no "$TMPDIR/sluiced.service" 2>&1 |
		tee "$TMPDIR/said"
	test ! -s "$TMPDIR/said"
	rm "$TMPDIR/said" "$TMPDIR/sluiced.service"
}

# With no capability but those of the unit it makes an endpoint, and steers.
unit_gives_enough()
{
	local caps steered

	command -v setpriv >/dev/null || tap_skip 'no setpriv'
	caps=$(sed -n 's/^CapabilityBoundingSet=//p' "$unit")
	caps=$(tr '[:upper:]' '[:lower:]' <<<"$caps" | sed 's/cap_/+/g; s/ /,/g')
	test -n "$caps"
	sluiced()
	{
		exec setpriv --inh-caps=-all --bounding-set="-all,$caps" \
			--no-new-privs "$SLUICE_BUILD/bin/sluiced" "$@"
	}
	daemon_start --unload
	SLUICE_CONTROL=$CONTROL timeout 60 "$SLUICE_BUILD/examples/steered" \
		"$TMPDIR/name" >"$TMPDIR/steered" &
	steered=$!
	until python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
for i in range(10):
    s.send(b"x" * 100)
' "$TMPDIR/name" 2>/dev/null; do
		sleep 0.05
	done
	wait "$steered"
	cat "$TMPDIR/steered"
	grep -q 'messages come in the steered lane' "$TMPDIR/steered"
	grep -q '^10 messages, 1000 bytes' "$TMPDIR/steered"
	rm "$TMPDIR/steered"
	daemon_stop
}

tap_case 'pins are there, and go with --unload' pins_are_there
tap_case 'cat lists connections' connections_are_listed
tap_case 'bpftool shows counters' counters_are_readable
tap_case 'pins stay, and the next one takes over' pins_stay_without_unload
tap_case 'two with pins of their own' two_with_their_own_pins
tap_case 'the unit is good' unit_is_good
tap_case 'the unit gives enough capabilities' unit_gives_enough
tap_done
