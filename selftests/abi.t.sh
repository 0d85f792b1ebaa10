#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The ABI of the library and the layouts of the protocol are those that selftests/abi
# has on record. A difference may be right; then `make abi-record` writes it down, and
# Makefile's SONAME and the protocol's version are to be thought about. Beside others. Limit: 120 s
. "${0%/*}/tap.sh"

RECORD=$SOURCE/selftests/abi
CC=${CC:-cc}

tap_needs "$CC" abidw abidiff pahole
test -z "${SLUICE_SANITIZER-}" || tap_skip_all 'sanitizers change the library'
test "$("$CC" -dumpmachine)" = x86_64-linux-gnu ||
	tap_skip_all 'what is on record is of x86_64'
trap 'rm -rf "$TMPDIR/now" "$TMPDIR/tree"' EXIT
mkdir "$TMPDIR/now"

library_is_as_recorded()
{
	abidiff "$RECORD/libsluice.abixml" "$TMPDIR/now/libsluice.abixml"
}

layouts_are_as_recorded()
{
	diff -u "$RECORD/uapi.layout" "$TMPDIR/now/uapi.layout"
}

# changed FILE SCRIPT: what would be recorded of a tree with that file changed.
changed()
{
	mkdir -p "$TMPDIR/tree/selftests" "$TMPDIR/tree/now"
	cp -r "$SOURCE/include" "$TMPDIR/tree"
	cp -r "$RECORD" "$TMPDIR/tree/selftests"
	sed -i -e "$2" "$TMPDIR/tree/$1"
	tap_fails cmp -s "$SOURCE/$1" "$TMPDIR/tree/$1"
	"$TMPDIR/tree/selftests/abi/record" "$TMPDIR/tree/now"
}

a_lost_symbol_shows()
{
	local status=0

	sed "/<elf-symbol name='sluice_arm'/d" "$TMPDIR/now/libsluice.abixml" >"$TMPDIR/now/less"
	abidiff "$RECORD/libsluice.abixml" "$TMPDIR/now/less" || status=$?
	test $((status & 8)) != 0 # "incompatible"
}

a_grown_struct_shows()
{
	local status=0

	sed "/class-decl name='sluice_msg'/s/size-in-bits='[0-9]*'/size-in-bits='1024'/" \
		"$TMPDIR/now/libsluice.abixml" >"$TMPDIR/now/grown"
	abidiff "$RECORD/libsluice.abixml" "$TMPDIR/now/grown" >"$TMPDIR/now/said" ||
		status=$?
	cat "$TMPDIR/now/said"
	test "$status" != 0
	grep -q 'type size changed' "$TMPDIR/now/said"
}

# Of one size, and with whoever changes them changing the assertions too.
swapped_fields_show()
{
	changed include/sluice/uapi.h \
		's/\(_Static_assert(\)x,/\11,/
		/^struct sluice_frame {/,/^}/{
			s/\btype;/swapped;/
			s/\bflags;/type;/
			s/\bswapped;/flags;/
		}'
	tap_fails diff "$RECORD/uapi.layout" "$TMPDIR/tree/now/uapi.layout"
}

a_changed_constant_shows()
{
	changed include/sluice/uapi.h 's/^#define SLUICE_FRAME_BYE .*/#define SLUICE_FRAME_BYE 99/'
	diff "$RECORD/uapi.layout" "$TMPDIR/tree/now/uapi.layout" |
		grep -q '^> "SLUICE_FRAME_BYE" 99'
}

tap_case 'it can be written down' "$RECORD/record" "$TMPDIR/now"
tap_case 'the library' library_is_as_recorded
tap_case 'the layouts' layouts_are_as_recorded
tap_case 'a lost symbol shows' a_lost_symbol_shows
tap_case 'a grown struct shows' a_grown_struct_shows
tap_case 'swapped fields show' swapped_fields_show
tap_case 'a changed constant shows' a_changed_constant_shows
tap_done
