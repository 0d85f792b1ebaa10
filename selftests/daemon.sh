# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# shellcheck shell=bash
#
# A sluiced of a test script's own, as daemon.h is for tests in C: in $TMPDIR,
# with a BPF file system that is mounted for this script only. After tap.sh:
#
#	. "$SOURCE/selftests/daemon.sh"
#	daemon_init "$@"	# skips all, or starts the script anew, in private
#
# and in a case:
#
#	daemon_start --unload	# with options; ready when it returns; ends with the case
#	... $CONTROL is its control socket, $PINS its pin directory, $LOG its log
#
# daemon_stop ends it before; its exit status is the result.

CONTROL=$TMPDIR/control
BPFFS=$TMPDIR/bpf
PINS=$BPFFS/pins
LOG=$TMPDIR/sluiced.log
daemon_pid=

daemon_init()
{
	test "$(id -u)" = 0 || tap_skip_all 'sluiced needs root'
	test -r /sys/kernel/btf/vmlinux ||
		tap_skip_all 'no /sys/kernel/btf/vmlinux'
	if test -z "${DAEMON_PRIVATE-}"; then
		unshare -m true 2>/dev/null ||
			tap_skip_all 'no mount namespaces here'
		# back to where relative paths of $0 hold
		cd "$SOURCE" || exit 2
		DAEMON_PRIVATE=1 exec unshare -m "$BASH" \
			"$SOURCE/selftests/${0##*/}" "$@"
	fi
	mkdir -p "$BPFFS"
	mount -t bpf bpf "$BPFFS" || {
		rmdir "$BPFFS"
		tap_skip_all 'cannot mount a BPF file system'
	}
	trap 'umount "$BPFFS"; rm -rf "$BPFFS" "$LOG"' EXIT
}

daemon_start()
{
	local tries=0

	: >"$LOG"
	sluiced --config /dev/null --control "$CONTROL" --pins "$PINS" \
		"$@" >"$LOG" 2>&1 &
	daemon_pid=$!
	trap daemon_stop EXIT
	until grep -q ': ready$' "$LOG"; do
		tries=$((tries + 1))
		if ! kill -0 $daemon_pid 2>/dev/null || test $tries = 1500; then
			cat "$LOG"
			return 1
		fi
		sleep 0.02
	done
}

daemon_stop()
{
	local pid=$daemon_pid

	daemon_pid=
	test -n "$pid" || return 0
	kill "$pid"
	wait "$pid"
}

# daemon_says TEXT: within 5 s its log has that text.
daemon_says()
{
	local tries=0

	until grep -qF -e "$1" "$LOG"; do
		tries=$((tries + 1))
		if test $tries = 250; then
			echo "it does not say: $1"
			cat "$LOG"
			return 1
		fi
		sleep 0.02
	done
}
