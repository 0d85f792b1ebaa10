#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# What selftests/vm/run makes of what a guest left: whatever can go wrong there
# must come out as a failure. No guest is booted.
# shellcheck source=selftests/tap.sh disable=SC2317
. "${0%/*}/tap.sh"

tmp=$(mktemp -d "$TMPDIR/vm.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
export SLUICE_BUILD=$tmp VM_RECORDED=$tmp/recorded SLUICE_SANITIZER=
mkdir "$tmp/vm" "$tmp/recorded"
guest=$tmp/vm/6.12

# A guest in which all is well.
good()
{
	printf '%s\n' '# words' 'name 6.1 6.12' 'bpf yes yes' 'lsm - no' \
		>"$tmp/recorded/probe.txt"
	printf '%s\n' 'name 6.1 6.12' 'steer/steer 1000 2000' 'ops/loop - -' \
		>"$tmp/recorded/verifier.txt"
	printf '%s\n' 'probe bpf yes' 'probe lsm no it is off' \
		'verifier steer/steer 2200' 'verifier ops/loop - Invalid' \
		'exit 0' >"$guest.results"
	printf '%s\n' '[ 1.0] Run /init' '[ 9.0] reboot: Power down' >"$guest.log"
	printf '%s\n' 'Running 3 tests; their output is in x' \
		'one                ok       12 passed    9.9 s' \
		'two                ok        3 passed, 1 skipped    9.9 s' \
		'three              ok        0 passed, 1 skipped    9.9 s' \
		'skipped: two a/case: no such thing' 'skipped: three: no tool' \
		'15 passed, 0 failed, 2 skipped' >"$guest.out"
}

judge()
{
	"$SOURCE/selftests/vm/run" --report 6.12 >"$tmp/tap"
}

# fails_at TEXT: the verdict is a failure, and of that test.
fails_at()
{
	if judge; then
		return 1
	fi
	test "$(grep -c '^not ok' "$tmp/tap")" = 1
	grep '^not ok' "$tmp/tap" | grep -qF -e "- $1" || {
		cat "$tmp/tap"
		return 1
	}
}

all_well()
{
	good
	judge || {
		cat "$tmp/tap"
		return 1
	}
	grep -qx 'ok 2 - two (3 passed, 1 skipped, 9.9 s)' "$tmp/tap"
	grep -qx 'ok 3 - three # SKIP no tool' "$tmp/tap"
	grep -qx 'ok 4 - two a/case # SKIP no such thing' "$tmp/tap"
}

a_failed_test()
{
	good
	sed -i 's/^one .*/one  FAILED  11 passed, 1 failed  9.9 s\n    not ok 3 - x/; ' \
		"$guest.out"
	sed -i 's/exit 0/exit 1/' "$guest.results"
	fails_at one
	grep -q '# not ok 3 - x' "$tmp/tap"
}

no_test_ran()
{
	good
	echo 'selftests/run: no test x' >"$guest.out"
	sed -i 's/exit 0/exit 2/' "$guest.results"
	fails_at 'guest ended'
}

a_splat()
{
	good
	sed -i "1a [ 2.0] $1" "$guest.log"
	fails_at 'kernel log'
}

a_panic()
{
	good
	: >"$guest.results"
	fails_at 'guest ended'
}

a_dearer_program()
{
	good
	sed -i 's/2200/2201/' "$guest.results"
	fails_at 'verifier as recorded'
}

a_refused_program()
{
	good
	sed -i 's/2200/-/' "$guest.results"
	fails_at 'verifier as recorded'
}

an_unknown_program()
{
	good
	sed -i 's/^exit/verifier new 1\n&/' "$guest.results"
	fails_at 'verifier as recorded'
}

a_lost_feature()
{
	good
	sed -i 's/bpf yes/bpf no/' "$guest.results"
	fails_at 'probe as recorded'
}

a_silent_probe()
{
	good
	sed -i '/^probe/d' "$guest.results"
	fails_at 'probe as recorded'
}

tap_case "all is well, with what was skipped" all_well
tap_case "a failed test" a_failed_test
tap_case "no test ran" no_test_ran
for splat in 'BUG: unable to handle page fault' 'WARNING: CPU: 0 PID: 1 at x' \
		'Oops: 0000 [#1]' 'BUG: KASAN: slab-out-of-bounds' \
		'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks' \
		'WARNING: possible circular locking dependency detected' \
		'INFO: task x:1 blocked for more than 120 seconds.' \
		'watchdog: BUG: soft lockup - CPU#0 stuck for 22s!' \
		'Out of memory: Killed process 9 (x)'; do
	tap_case "a splat: $splat" a_splat "$splat"
done
tap_case "a panic, or no time left" a_panic
tap_case "a program that costs the verifier over a tenth more" a_dearer_program
tap_case "a program that is refused now" a_refused_program
tap_case "a program that nobody recorded" an_unknown_program
tap_case "a feature that is gone" a_lost_feature
tap_case "a guest that says nothing" a_silent_probe
tap_done
