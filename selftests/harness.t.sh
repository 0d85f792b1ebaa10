#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The harness itself: whatever can go wrong in a test must come out as a failure,
# from tap.c (a program with one case for each) and from selftests/run (in a tree
# of its own with one script for each).
# shellcheck disable=SC2016
. "${0%/*}/tap.sh"

tap_needs "${CC:-cc}" make
test -z "${SLUICE_SANITIZER-}" ||
	tap_skip_all 'the harness is the same in every build'

CC=${CC:-cc}
tree=$TMPDIR/tree
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/selftests" "$tree/build/selftests"
cp "$SOURCE"/selftests/{run,tap.h,tap.c,tap-lib.h,tap-lib.c,tap.sh} \
	"$tree/selftests"
cat >"$tree/selftests/cases.c" <<'END'
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "tap.h"

static const struct row { const char *name; int value; } rows[] = {
	{ "one", 1 }, { "two", 2 },
};

TAP_EACH(row, row, rows) { CHECK_LT(row->value, 2); }
TAP_TEST(passes)
{
	puts("ok 99 not a result");
	CHECK_EQ(tap_open_fds(), 3);
	CHECK_EQ(CHECK_OK(7), 7);
	CHECK_STR("a", "a");
	CHECK_MEM("abc", "abd", 2);
	CHECK_SOON(tap_now() > 0);
}
TAP_TEST(child_is_joined)
{
	pid_t pid = tap_fork();

	if (pid)
		tap_join(pid);
}
TAP_TEST(skips) { tap_skip("no %s", "reason"); }
TAP_TEST(check_fails) { CHECK(1 > 2); }
TAP_TEST(ok_fails) { CHECK_OK(-EPIPE); }
TAP_TEST(sys_fails) { CHECK_SYS(close(99)); }
TAP_TEST(str_fails) { CHECK_STR("a", NULL); }
TAP_TEST(mem_fails) { CHECK_MEM("abc", "abd", 3); }
TAP_TEST(exits) { exit(3); }
TAP_TEST(dies) { raise(SIGSEGV); }
TAP_TEST(hangs)
{
	tap_limit(1);
	tap_fork();
	pause();
}
TAP_TEST(child_fails)
{
	pid_t pid = tap_fork();

	if (!pid)
		CHECK_EQ(1, 2);
	tap_join(pid);
}
TAP_TEST(leaves_child) { tap_fork(); }
TAP_TEST(leaves_daemon)
{
	pid_t pid = fork();

	if (!pid) {
		setsid();
		if (!fork())
			pause();
		_exit(0);
	}
	tap_reap(pid);
}
TAP_TEST(leaves_file) { fclose(fopen("left", "w")); }
END

compiles()
{
	"$CC" -D_GNU_SOURCE= -Wall -Wextra -o "$tree/build/selftests/cases" \
		"$tree"/selftests/{tap,tap-lib,cases}.c
}

# cases_end OUTCOME NAME...: each is a case of its own, with exactly this outcome.
cases_end()
{
	local outcome=$1 name out status

	shift
	for name; do
		status=0
		out=$("$tree/build/selftests/cases" "$name") || status=$?
		echo "$out"
		grep -qx "$outcome 1 - $name" <<<"$out"
		grep -qx '1\.\.1' <<<"$out"
		test "$outcome $status" = 'ok 0' ||
			test "$outcome $status" = 'not ok 1'
	done
}

says()
{
	"$tree/build/selftests/cases" "$1" >"$tree/out" || :
	cat "$tree/out"
	grep -q "$2" "$tree/out"
}

seed_repeats()
{
	local first second

	cat >"$tree/selftests/seeded.c" <<-'END'
		#include "tap.h"
		TAP_TEST(a) { tap_diag("%#llx", (long long)tap_random()); }
		TAP_TEST(b) { tap_diag("%#llx", (long long)tap_random()); }
	END
	"$CC" -D_GNU_SOURCE= -o "$tree/build/selftests/seeded" \
		"$tree"/selftests/{tap,tap-lib,seeded}.c
	first=$(SLUICE_SEED=7 "$tree/build/selftests/seeded" | grep '# 0x')
	second=$(SLUICE_SEED=7 "$tree/build/selftests/seeded" b | grep '# 0x')
	test "$(tail -n 1 <<<"$first")" = "$second"
	test "$(head -n 1 <<<"$first")" != "$second"
	test "$(SLUICE_SEED=8 "$tree/build/selftests/seeded" | grep '# 0x')" \
		!= "$first"
	rm "$tree"/selftests/seeded.c "$tree"/build/selftests/seeded
}

# runner_says PATTERN STATUS SCRIPT: what `run` makes of one script.
runner_says()
{
	local pattern=$1 want=$2 status=0

	printf '#!/bin/bash\n%s\n' "$3" >"$tree/selftests/script.t.sh"
	chmod +x "$tree/selftests/script.t.sh"
	SLUICE_BUILD=$tree/build "$tree/selftests/run" script >"$tree/out" 2>&1 ||
		status=$?
	cat "$tree/out"
	test "$status" = "$want"
	grep -qE "$pattern" "$tree/out"
	tail -n 1 "$tree/out" | grep -qE '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$'
}

tap_case 'compiles' compiles
tap_case 'good cases pass' cases_end ok passes child_is_joined row/one
tap_case 'skip' says skips '^ok 1 - skips # SKIP no reason$'
tap_case 'bad cases fail' cases_end 'not ok' row/two check_fails ok_fails \
	sys_fails str_fails mem_fails exits dies hangs child_fails \
	leaves_child leaves_daemon leaves_file
tap_case 'errno is named' says ok_fails 'EPIPE'
tap_case 'a row is named' says row/two 'row->value < 2'
tap_case 'no such case' tap_fails "$tree/build/selftests/cases" nonsense
tap_case 'the seed repeats a case' seed_repeats
tap_case 'run: counts' runner_says '^1 passed, 0 failed, 1 skipped' 0 \
	'echo 1..2; echo ok 1 - a; echo "ok 2 - b # SKIP reason"'
tap_case 'run: a failed case' runner_says '^1 passed, 1 failed, 0' 1 \
	'echo 1..2; echo ok 1; echo not ok 2'
tap_case 'run: no plan' runner_says '^1 passed, 1 failed' 1 \
	'echo ok 1'
tap_case 'run: too few' runner_says '^1 passed, 1 failed' 1 \
	'echo 1..2; echo ok 1'
tap_case 'run: bad exit' runner_says 'exited with 3' 1 \
	'echo 1..1; echo ok 1; exit 3'
tap_case 'run: killed' runner_says 'killed by signal 9' 1 \
	'echo 1..1; echo ok 1; kill -9 $$'
tap_case 'run: time' runner_says 'ran out of time' 1 \
	'# Limit: 1 s
echo 1..1; echo ok 1; sleep 60'
tap_case 'run: all skipped is nothing' runner_says 'nothing was run' 1 \
	'echo "1..0 # SKIP reason"'
tap_case 'run: process left' runner_says 'left behind: process .*sleep 61' 1 \
	'setsid sleep 61 >/dev/null 2>&1 &
echo 1..1; echo ok 1'
tap_case 'run: output held open' runner_says 'held its output open' 1 \
	'# Limit: 1 s
setsid sleep 62 &
echo 1..1; echo ok 1'
tap_case 'run: file left' runner_says 'left behind: file x' 1 \
	'touch "$TMPDIR/x"; echo 1..1; echo ok 1'
# A map that a test leaves pinned; nobody can tell whose it is if others test, too.
bpf_is_left()
{
	local pin=/sys/fs/bpf/sluice-harness status=0

	runner_says '^left behind: pin .*sluice-harness' 1 \
		"bpftool map create $pin type array key 4 value 4 entries 1 \
			name doorbell && echo 1..1 && echo ok 1" || status=$?
	rm -f "$pin"
	grep -q '^skipped: what BPF objects' "$tree/out" &&
		tap_skip "$(grep -m 1 '^skipped: what' "$tree/out")"
	grep -q '^left behind: BPF map doorbell, id ' "$tree/out" || status=1
	return "$status"
}
tap_case 'run: BPF map left' bpf_is_left
# Two that wait for each other pass only if both run at once; the third waits for its
# turn, fails and leaves a process; the one that stays out of it comes last.
beside_others()
{
	local name status=0

	for name in one two; do
		cat >"$tree/selftests/beside-$name.t.sh" <<-END
			#!/bin/bash
			# Beside others. Limit: 20 s
			touch "$tree/$name"
			until test -e "$tree/one" -a -e "$tree/two"; do
				sleep 0.05
			done
			echo 1..1
			echo ok 1
		END
	done
	cat >"$tree/selftests/beside-wrong.t.sh" <<-'END'
		#!/bin/bash
		# Beside others
		setsid sleep 63 >/dev/null 2>&1 &
		echo 1..2
		echo "ok 1 # SKIP reason"
		echo not ok 2
	END
	printf '#!/bin/bash\necho 1..1\necho ok 1\n' >"$tree/selftests/alone.t.sh"
	chmod +x "$tree"/selftests/{beside-*,alone}.t.sh
	SLUICE_BUILD=$tree/build "$tree/selftests/run" alone beside-one beside-two \
		beside-wrong >"$tree/out" 2>&1 || status=$?
	cat "$tree/out"
	rm "$tree"/selftests/{beside-*,alone}.t.sh "$tree"/{one,two}
	test "$status" = 1
	grep -qE '^beside-one +ok +1 passed' "$tree/out"
	grep -qE '^beside-two +ok +1 passed' "$tree/out"
	grep -qE '^beside-wrong +FAILED +0 passed, 2 failed, 1 skipped' "$tree/out"
	grep -q '^    left behind: process .*sleep 63' "$tree/out"
	grep -q '^skipped: beside-wrong.*reason' "$tree/out"
	grep -v '^skipped' "$tree/out" | tail -n 2 | head -n 1 | grep -q '^alone '
	tail -n 1 "$tree/out" | grep -q '^3 passed, 2 failed, 1 skipped$'
}
if test "$(nproc)" -gt 1; then
	tap_case 'run: beside others' beside_others
fi
tap_case 'run: no such test' tap_fails env SLUICE_BUILD="$tree/build" \
	"$tree/selftests/run" nonsense
tap_done
