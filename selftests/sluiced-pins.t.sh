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

# `make load`, to /sys/fs/bpf: that of this script's mount namespace.
loads()
{
	make -C "$SOURCE" --no-print-directory O="$SLUICE_BUILD" \
		SANITIZER="${SLUICE_SANITIZER-}" -o "$SLUICE_BUILD/flags" \
		"$1" PINS=/sys/fs/bpf/sluice
}

bpftool_alone_loads()
{
	local pins=/sys/fs/bpf/sluice name

	command -v make >/dev/null || tap_skip 'no make'
	unset MAKEFLAGS MFLAGS MAKELEVEL
	mount -t bpf bpf /sys/fs/bpf
	trap 'umount /sys/fs/bpf' EXIT
	loads load
	for name in steer conns connections redirect look sources targets \
		flow_of flows redirects; do
		test -e "$pins/$name"
	done
	bpftool prog show pinned "$pins/redirect" | grep -q 'sk_skb'
	bpftool map dump pinned "$pins/redirects" | grep -q '"lost_target": 0'
	# it is attached: so that can be undone, once
	bpftool prog detach pinned "$pins/redirect" sk_skb_verdict \
		pinned "$pins/sources"
	if bpftool prog detach pinned "$pins/redirect" sk_skb_verdict \
		pinned "$pins/sources"; then
		return 1
	fi
	if bpftool prog help 2>&1 | grep -q cgroup/connect_unix; then
		test -e "$pins/connect_unix"
	fi
	loads unload
	test ! -e "$pins"
}

# sluiced takes over the steering programs, and has redirection of its own.
sluiced_takes_over_what_bpftool_loaded()
{
	command -v make >/dev/null || tap_skip 'no make'
	unset MAKEFLAGS MFLAGS MAKELEVEL
	mount -t bpf bpf /sys/fs/bpf
	trap 'daemon_stop; umount /sys/fs/bpf' EXIT
	loads load
	PINS=/sys/fs/bpf/sluice
	daemon_start --unload
	trap 'daemon_stop; umount /sys/fs/bpf' EXIT
	daemon_says 'took over what is pinned'
	bpftool prog show pinned "$PINS/redirect" | grep -q 'sk_skb'
	daemon_stop
	test ! -e "$PINS"
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

# With no capability but those of the unit it makes an endpoint, steers, and can
# redirect.
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
	printf '%s\n' '[service s]' "listen = $TMPDIR/s" 'half_close = no' \
		"backends = $TMPDIR/b" >"$TMPDIR/conf"
	daemon_start --unload --config "$TMPDIR/conf"
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
	rm "$TMPDIR/steered" "$TMPDIR/conf"
	cat "$LOG"
	tap_fails grep 'no redirection' "$LOG"
	daemon_stop
}

tap_case 'pins are there, and go with --unload' pins_are_there
tap_case 'cat lists connections' connections_are_listed
tap_case 'bpftool shows counters' counters_are_readable
tap_case 'pins stay, and the next one takes over' pins_stay_without_unload
tap_case 'two with pins of their own' two_with_their_own_pins
tap_case 'make load needs bpftool alone' bpftool_alone_loads
tap_case 'what bpftool loaded is taken over' \
	sluiced_takes_over_what_bpftool_loaded
tap_case 'the unit is good' unit_is_good
tap_case 'the unit gives enough capabilities' unit_gives_enough
tap_done
