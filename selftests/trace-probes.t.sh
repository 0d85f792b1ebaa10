#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The probes in the code, in the manual (sluice_trace(7)) and in the scripts of
# bpf/trace are the same; and what they cost while nobody listens. No root.
. "${0%/*}/tap.sh"
tap_needs readelf nm objdump
LIBRARY=$SLUICE_BUILD/lib/libsluice.so
SLUICED=$SLUICE_BUILD/bin/sluiced
MANUAL=$SOURCE/user/man/sluice_trace.7
SCRIPTS=$SOURCE/bpf/trace

# "provider name semaphore arguments" of each place of a probe in a file.
notes()
{
	readelf -n "$1" | awk '
		$1 == "Provider:" { provider = $2 }
		$1 == "Name:" { name = $2 }
		$1 == "Location:" { semaphore = $NF }
		$1 == "Arguments:" { print provider, name, semaphore, NF - 1 }'
}

in_code()
{
	{ notes "$LIBRARY"; notes "$SLUICED"; } | cut -d' ' -f1,2 | sort -u
}

# "provider name" with "arguments" after it.
in_manual()
{
	awk '/^Provider$/ { getline; provider = $2; gsub(/"/, "", provider) }
		provider && /^\.It Em [a-z]+ Ar / {
			print provider, $3, NF - 4
		}' "$MANUAL" | sort -u
}

listed_are_declared()
{
	local declared

	declared=$(sed -n '/^#define TRACE_PROBES/,/^$/s/.*X(\([a-z]*\)).*/sluice \1/p' \
		"$SOURCE/user/lib/trace.h" | sort)
	test -n "$declared"
	diff <(echo "$declared") <(in_code | grep '^sluice ')
}

documented()
{
	test "$(in_code | wc -l)" -ge 10
	diff <(in_code) <(in_manual | cut -d' ' -f1,2)
}

# In every place.
arguments_are_documented()
{
	diff <({ notes "$LIBRARY"; notes "$SLUICED"; } | cut -d' ' -f1,2,4 |
		sort -u) <(in_manual)
	! in_manual | awk '$3 > 6' | grep .
}

attached_by_a_script()
{
	diff <(in_code) <(sed -n 's/^usdt:[$]1:\([a-z]*\):\([a-z]*\)$/\1 \2/p' \
		"$SCRIPTS"/*.bt | sort -u)
}

# That is, a "/* ... */" of as many words before each probe of theirs.
scripts_say_the_arguments()
{
	local script

	for script in "$SCRIPTS"/*.bt; do
		grep -B 1 '^usdt:' "$script" | awk -v file="${script##*/}" '
			/^\/\*/ { words = split($0, parts, ",") }
			/^usdt:/ {
				split($0, name, ":")
				print name[3], name[4], words
				words = 0
			}'
	done | sort -u | diff - <(in_manual)
}

scripts_have_a_head()
{
	local script text

	for script in "$SCRIPTS"/*.bt; do
		text=$(sed '/^ \*\/$/q' "$script")
		test -x "$script"
		head -n 1 <<<"$text" | grep -qx '#!/usr/bin/env bpftrace'
		grep -q "^ \* ${script##*/}: " <<<"$text"
		grep -q "^ \*	bpftrace ${script##*/} " <<<"$text"
		test "$(grep -c '^ \*	' <<<"$text")" -ge 3
		grep -q "^\.It Pa ${script##*/}$" "$MANUAL"
		# what 0.17 does not know
		grep -nE 'args\.|\blet |config *=' "$script" && return 1
	done
	return 0
}

# By a script that has them listen to live traffic.
scripts_are_run()
{
	local script name

	for script in "$SCRIPTS"/*.bt; do
		name=${script##*/}
		name=${name%.bt}
		grep -qE "\\b(listen|for name in)\\b.* $name\\b" "$SOURCE"/selftests/trace*.sh || {
			echo "nothing runs $name.bt"
			return 1
		}
	done
}

manual_is_clean()
{
	command -v mandoc >/dev/null || tap_skip 'mandoc is not installed'
	! mandoc -T lint -W warning "$MANUAL" | grep .
}

semaphores()
{
	notes "$LIBRARY" | awk '$1 == "sluice" && $3 !~ /[1-9a-f]/ { print; bad = 1 }
		END { exit bad }'
}

# libbpf 1.1 knows no index, such as 8@(%r9,%rax,8).
arguments_are_in_registers()
{
	readelf -n "$LIBRARY" | grep ' Arguments: ' >"$TMPDIR/arguments"
	test -s "$TMPDIR/arguments"
	tap_fails grep -F '(' "$TMPDIR/arguments"
	rm "$TMPDIR/arguments"
}

# The library's copy of the inlines, and every program that has them.
inlines_have_none()
{
	local object=$SLUICE_BUILD/obj/user/lib/ffi.o

	test -n "$(nm "$object" | grep ' T sluice_send$')"
	readelf -n "$object" | grep stapsdt && return 1
	! grep -nE 'trace\.h|TRACE|sdt\.h' "$SOURCE"/include/sluice/*.h
}

# Where a probe is, there is a nop; what leads to it is a test of its semaphore.
probes_are_nops()
{
	local address

	objdump -d --no-show-raw-insn "$LIBRARY" >"$TMPDIR/code"
	readelf -n "$LIBRARY" | sed -n 's/.*Location: 0x0*\([0-9a-f]*\),.*/\1/p' |
		while read -r address; do
			grep -qE "^ +$address:	nop" "$TMPDIR/code" || {
				echo "no nop at $address"
				exit 1
			}
		done
	rm "$TMPDIR/code"
}

tap_case 'the list in trace.h is what there is' listed_are_declared
tap_case 'each is in the manual' documented
tap_case 'with as many arguments, at most six' arguments_are_documented
tap_case 'each is used by a script' attached_by_a_script
tap_case 'the scripts name the arguments' scripts_say_the_arguments
tap_case 'each script says what it is for' scripts_have_a_head
tap_case 'each script is run by a test' scripts_are_run
tap_case 'the manual is clean' manual_is_clean
tap_case 'each of the library has a semaphore' semaphores
tap_case 'all they say is in registers' arguments_are_in_registers
tap_case 'the inlines have no probe' inlines_have_none
tap_case 'each is a nop' probes_are_nops
tap_done
