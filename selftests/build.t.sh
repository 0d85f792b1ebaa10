#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The build: what it rebuilds and what not, what it installs, and that programs
# build against the installed tree, README's example among them. All of it in a
# copy, so that the tree under test is not touched. Beside others. Limit: 600 s
. "${0%/*}/tap.sh"

tap_needs "${CC:-cc}" make
test -z "${SLUICE_SANITIZER-}" ||
	tap_skip_all 'the build is the same in every build'

# The make that runs the tests must not steer the one under test.
unset MAKEFLAGS MFLAGS MAKELEVEL O V WERROR DESTDIR PREFIX
CC=${CC:-cc}
tree=$TMPDIR/tree
root=$TMPDIR/root
multiarch=lib/$("$CC" -print-multiarch)
trap 'rm -rf "$tree" "$root" "$TMPDIR"/program* "$TMPDIR/log"' EXIT
trap 'exit 1' INT TERM HUP
mkdir "$tree"
cp -a "$SOURCE"/{Makefile,LICENSE,LICENSES,bpf,include,user,selftests,vmlinux} "$tree"

build()
{
	make -C "$tree" --no-print-directory -j2 CFLAGS='-O0 -Wall -Wextra' "$@"
}

builds_without_warnings()
{
	build WERROR=0 all tests >log 2>&1 || { cat log; false; }
	if grep -n warning log; then
		return 1
	fi
}

second_make_does_nothing()
{
	build all tests >log
	cat log
	test "$(grep -cv 'Nothing to be done' log)" = 0
}

# touched HEADER: what make would do if that had changed goes to log.
touched()
{
	local file=$tree/$1

	touch -r "$file" "$tree/before"
	touch "$file"
	build -n V=1 all tests >log
	touch -r "$tree/before" "$file"
	rm "$tree/before"
}

header_rebuilds_its_users()
{
	local made

	touched include/sluice/uapi.h
	for made in '-c -o build/obj/user/lib/link.o' \
		'-c -o build/obj/user/examples/sluicecat.o' \
		'-o build/lib/libsluice.so' '-o build/bin/sluicecat' \
		'-o build/selftests/uapi'; do
		grep -q -e "$made" log || { echo "no $made"; return 1; }
	done
	if grep 'selftests/tap-lib.c' log; then
		echo 'rebuilt, but does not include uapi.h'
		return 1
	fi
}

internal_header_rebuilds()
{
	touched user/lib/internal.h
	grep -q -e '-c -o build/obj/user/lib/link.o' log
	if grep -e '-c -o build/obj/user/examples' log; then
		echo 'rebuilt, but does not include internal.h'
		return 1
	fi
}

flags_rebuild()
{
	tap_fails make -C "$tree" -q CFLAGS='-O0 -Wall -Wextra -DX' all
	make -C "$tree" -q CFLAGS='-O0 -Wall -Wextra' all
}

removed_source_relinks()
{
	echo 'int sluice_test_extra(void) { return 0; }' >"$tree/user/lib/extra.c"
	build all >/dev/null 2>&1
	nm "$tree/build/lib/libsluice.a" 2>&1 | grep -q sluice_test_extra
	rm "$tree/user/lib/extra.c"
	build all >/dev/null
	if nm "$tree/build/lib/libsluice.a" 2>&1 | grep sluice_test_extra; then
		return 1
	fi
}

missing_package_is_named()
{
	tap_fails make -C "$tree" O="$TMPDIR/program-build" \
		CPPFLAGS="-nostdinc" >log 2>&1
	cat log
	grep -q "package libc6-dev is missing; run 'make deps'" log
}

failed_compile_leaves_nothing()
{
	tap_fails make -C "$tree" O="$TMPDIR/program-build" CFLAGS=-Dint=@ \
		all >log 2>&1
	test -z "$(find "$TMPDIR/program-build" -name '*.a' -o -name '*.so*')"
}

help_names_every_target()
{
	local target

	make -C "$tree" --no-print-directory help >log
	for target in all demo check bench asan tsan soak lint format deps \
		deps-deb deb abi-record install uninstall clean help; do
		grep -q "make $target " log || { echo "$target"; return 1; }
	done
}

installs()
{
	local file

	build install DESTDIR="$root" PREFIX=/usr >log
	for file in bin/sluicecat bin/sluice-bench bin/sluicectl sbin/sluiced \
		lib/sluice/steer.bpf.o lib/sluice/conns.bpf.o \
		lib/systemd/system/sluiced.service \
		lib/systemd/system/sluiced.socket lib/sysusers.d/sluice.conf \
		lib/tmpfiles.d/sluice.conf "$multiarch"/libsluice.{a,so} \
		"$multiarch"/libsluice.so.0{,.1.0.0} \
		include/sluice/sluice.h include/sluice/uapi.h \
		include/sluice/endpoint.h include/sluice/hot.h \
		"$multiarch/pkgconfig/libsluice.pc" \
		share/bash-completion/completions/sluiced \
		share/man/man3/libsluice.3 share/man/man7/sluice_protocol.7 \
		share/doc/sluice/PROTOCOL.md share/doc/sluice/LICENSE \
		share/doc/sluice/sluiced.conf share/man/man1/sluicecat.1 \
		share/man/man8/sluiced.8 share/man/man8/sluicectl.8 \
		share/man/man5/sluiced.conf.5 share/man/man7/sluice_trace.7 \
		share/doc/sluice/examples/TUTORIAL.md \
		share/doc/sluice/examples/tutorial/receiver.c \
		share/sluice/trace/flow.bt; do
		test -s "$root/usr/$file" || { echo "no $file"; return 1; }
	done
	readelf -d "$root/usr/$multiarch/libsluice.so" |
		grep -q 'SONAME.*libsluice.so.0]'
	grep -q '^ExecStart=/usr/sbin/sluiced$' \
		"$root/usr/lib/systemd/system/sluiced.service"
}

# Everything that pkg-config says, of the installed tree.
pc()
{
	PKG_CONFIG_PATH=$root/usr/$multiarch/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root \
		PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 \
		pkg-config "$@" libsluice
}

# compile_and_run COMPILER SOURCE: prints what the program prints.
compile_and_run()
{
	local flags

	read -ra flags <<<"$(pc --cflags --libs)"
	$1 -Wall -Wextra -Werror -o "$TMPDIR/program" "$2" "${flags[@]}"
	LD_LIBRARY_PATH=$root/usr/$multiarch timeout 30 "$TMPDIR/program"
}

program_against_installed_tree()
{
	cat >"$TMPDIR/program.c" <<-'END'
		#include <sluice/sluice.h>
		#include <stdio.h>

		int main(void)
		{
			struct sluice_conn *conn[2];
			struct sluice_msg msg;

			if (sluice_pair(conn, NULL) ||
			    sluice_send(conn[0], "hello", 5, 7, 0) ||
			    sluice_recv_wait(conn[1], &msg, -1) != 1)
				return 1;
			printf("%s %.*s %d\n", sluice_version(), (int)msg.len,
			       (const char *)sluice_msg_data(&msg), (int)msg.tag);
			sluice_release(conn[1], &msg);
			sluice_conn_close(conn[0]);
			sluice_conn_close(conn[1]);
			return 0;
		}
	END
	compile_and_run "$1" "$TMPDIR/program.c" >log
	cat log
	test "$(cat log)" = "$(pc --modversion) hello 7"
}

cplusplus_against_installed_tree()
{
	cp "$TMPDIR/program.c" "$TMPDIR/program.cc"
	compile_and_run 'g++ -std=c++17' "$TMPDIR/program.cc" >/dev/null
}

# The first C block of README.md must be a program that works.
readme_example()
{
	test -f "$SOURCE/README.md" || { echo 'no README.md'; return 1; }
	# shellcheck disable=SC2016 # these backticks are Markdown's
	sed -n '/^```c$/,/^```$/p' "$SOURCE/README.md" |
		sed '1d; /^```$/,$d' >"$TMPDIR/program-readme.c"
	test -s "$TMPDIR/program-readme.c" || { echo 'no C in it'; return 1; }
	compile_and_run "$CC" "$TMPDIR/program-readme.c"
}

uninstalls()
{
	build uninstall DESTDIR="$root" PREFIX=/usr >/dev/null
	find "$root" ! -type d | tee log
	test ! -s log
}

other_directories()
{
	build install DESTDIR="$root" PREFIX=/opt/s LIBDIR=/opt/s/lib64 \
		INCLUDEDIR=/opt/inc MANDIR=/opt/man BINDIR=/opt/s/tools >/dev/null
	test -s "$root/opt/s/lib64/libsluice.so.0"
	test -s "$root/opt/inc/sluice/uapi.h"
	test -s "$root/opt/man/man1/sluicecat.1"
	test -x "$root/opt/s/tools/sluicecat"
	grep -qx 'libdir=/opt/s/lib64' "$root/opt/s/lib64/pkgconfig/libsluice.pc"
	grep -qx 'includedir=/opt/inc' "$root/opt/s/lib64/pkgconfig/libsluice.pc"
}

# Ten runs of the linter would take a minute; each planted breach must show up.
lint_finds_breaches()
{
	local said

	rm "$tree"/selftests/*.[ch] "$tree"/selftests/*.t.sh # enough is left
	echo '#include "../lib/internal.h"' >"$tree/user/examples/planted.c"
	echo 'void sluice_planted(void);' >>"$tree/include/sluice/uapi.h"
	echo '#include <jansson.h>' >>"$tree/include/sluice/uapi.h"
	# shellcheck disable=SC2016 # the breach
	echo 'echo $unquoted' >"$tree/user/examples/planted.sh"
	tap_fails "$tree/selftests/lint.sh" >log 2>&1
	for said in 'planted.c includes ../lib/internal.h' \
		'uapi.h includes jansson.h' \
		'planted.c: no line .SPDX' 'planted.sh: no line .SPDX' \
		'symbol sluice_planted: in sluice/[a-z]*.h, but not defined' \
		'shellcheck has complaints'; do
		grep -q "$said" log || { echo "not found: $said"; return 1; }
	done
}

tap_case 'builds without warnings' builds_without_warnings
tap_case 'a second make does nothing' second_make_does_nothing
tap_case 'touching uapi.h rebuilds what includes it' header_rebuilds_its_users
tap_case 'touching internal.h rebuilds the library' internal_header_rebuilds
tap_case 'other flags rebuild' flags_rebuild
tap_case 'a removed source leaves the library' removed_source_relinks
tap_case 'a missing package is named' missing_package_is_named
tap_case 'a failed compile leaves no library' failed_compile_leaves_nothing
tap_case 'help names every target' help_names_every_target
tap_case 'make install' installs
tap_case 'a C program against the installed tree' \
	program_against_installed_tree "$CC"
tap_case 'a C++ program against the installed tree' \
	cplusplus_against_installed_tree
tap_case "README.md's example" readme_example
tap_case 'make uninstall' uninstalls
tap_case 'other directories' other_directories
tap_case 'lint finds planted breaches' lint_finds_breaches
tap_done
