#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# What `make install` puts below a prefix, as it is used there: examples built against
# the installed library, shared and static; the units; completion. That it installs and
# uninstalls all of it is in build.t.sh. Beside others. Limit: 300 s
. "${0%/*}/tap.sh"

CC=${CC:-cc}
tap_needs "$CC" make pkg-config
test -z "${SLUICE_SANITIZER-}" ||
	tap_skip_all 'what is installed is the same in every build'

unset MAKEFLAGS MFLAGS MAKELEVEL V WERROR DESTDIR PREFIX
ROOT=$TMPDIR/root
trap 'rm -rf "$ROOT" "$TMPDIR/out"' EXIT
trap 'exit 1' INT TERM HUP
mkdir "$ROOT" "$TMPDIR/out"
MULTIARCH=$("$CC" -print-multiarch)
LIB=$ROOT/usr/lib/$MULTIARCH

installs()
{
	make -C "$SOURCE" --no-print-directory O="${SLUICE_BUILD#"$SOURCE"/}" install \
		DESTDIR="$ROOT" PREFIX=/usr >"$TMPDIR/out/log" ||
		{ tail "$TMPDIR/out/log"; return 1; }
}

# flags WHAT...: of pkg-config, for the installed tree.
flags()
{
	PKG_CONFIG_LIBDIR=$LIB/pkgconfig PKG_CONFIG_SYSROOT_DIR=$ROOT \
		PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 \
		pkg-config "$@" libsluice
}

examples_compile()
{
	local source cflags libs

	read -ra cflags <<<"$(flags --cflags)"
	read -ra libs <<<"$(flags --libs)"
	for source in "$SOURCE"/user/examples/*.c; do
		case $source in
		*/sluicecat*) continue ;;
		esac
		echo "$source"
		"$CC" -std=gnu11 -D_GNU_SOURCE -pthread -Wall -Wextra -Werror \
			"${cflags[@]}" -o "$TMPDIR/out/$(basename "$source" .c)" \
			"$source" "${libs[@]}" -Wl,--as-needed -luring -ljansson
	done
}

# The echo example, client and server, with what was installed and nothing else.
# static: without the shared library, too.
echoes()
{
	local name=@sluice-install-$$ server answer

	ldd "$TMPDIR/out/echo" | grep -q "libsluice.so.0 =>" || test "$1" = static
	LD_LIBRARY_PATH=$LIB "$TMPDIR/out/echo" -l "$name" &
	server=$!
	until grep -q "$name\$" /proc/net/unix; do
		kill -0 "$server" || return 1
		sleep 0.02
	done
	answer=$(echo hello | LD_LIBRARY_PATH=$LIB timeout 30 \
		"$TMPDIR/out/echo" "$name") || :
	kill "$server"
	wait "$server" || :
	echo "$answer"
	test "$answer" = hello
}

static_library()
{
	local cflags

	read -ra cflags <<<"$(flags --cflags)"
	"$CC" -std=gnu11 -D_GNU_SOURCE -pthread "${cflags[@]}" \
		-o "$TMPDIR/out/echo" "$SOURCE/user/examples/echo.c" "$LIB/libsluice.a"
	if ldd "$TMPDIR/out/echo" | grep libsluice; then
		return 1
	fi
	echoes static
}

units_are_in_order()
{
	local said

	command -v systemd-analyze >/dev/null ||
		tap_skip 'systemd-analyze is not installed'
	install -D /bin/kill "$ROOT/usr/bin/kill" # which it looks for
	# what it says of other units, of this host's, is not of interest
	said=$(systemd-analyze verify --recursive-errors=no --man=no --root="$ROOT" \
		/usr/lib/systemd/system/sluiced.{socket,service} 2>&1 | grep sluice) || :
	echo "$said"
	test -z "$said"
}

# 10 is no protection, 0 is all. What it has is for BPF: CAP_BPF, CAP_SYS_ADMIN and
# the like at its start; uid 0; the network namespace, whose sockets it is there for.
unit_is_hardened()
{
	command -v systemd-analyze >/dev/null ||
		tap_skip 'systemd-analyze is not installed'
	systemd-analyze security --offline=true --threshold=40 --no-pager \
		"$ROOT/usr/lib/systemd/system/sluiced.service" >"$TMPDIR/out/security" || {
		grep -v '✓' "$TMPDIR/out/security"
		return 1
	}
	tail -n 1 "$TMPDIR/out/security"
}

user_and_directory()
{
	command -v systemd-sysusers systemd-tmpfiles >/dev/null ||
		tap_skip 'systemd is not installed'
	mkdir -p "$ROOT/etc"
	systemd-sysusers --root="$ROOT"
	grep '^sluice:' "$ROOT/etc/group"
	echo 'root:x:0:0::/root:/bin/sh' >"$ROOT/etc/passwd"
	echo 'root:x:0:' >>"$ROOT/etc/group"
	systemd-tmpfiles --root="$ROOT" --create sluice.conf
	test "$(stat -c '%a' "$ROOT/run/sluice")" = 755
}

# completes WORD... : what completing the last word offers.
completes()
{
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	_sluice "$1" "${!#}" "${COMP_WORDS[$((COMP_CWORD - 1))]}"
	printf '%s\n' "${COMPREPLY[@]}"
}

completion()
{
	local command

	for command in sluicectl sluiced sluicecat sluice-bench; do
		test -s "$ROOT/usr/share/bash-completion/completions/$command"
	done
	# shellcheck source=user/ctl/completion.bash
	. "$ROOT/usr/share/bash-completion/completions/sluiced"
	test "$(completes sluicectl st)" = status
	test "$(completes sluicectl status --inter)" = --interval
	test "$(completes sluiced --check)" = --check-config
	test "$(completes sluicecat --extr)" = --extract
	test "$(completes sluice-bench --sys)" = --systems
	completes sluicectl '' | sort | paste -sd' ' | grep 'drain.*probe.*status.*unload'
	test -z "$(completes sluicectl probe --interv)" # not an option of probe
	test -z "$(completes sluicecat x)"
}

programs_load_from_there()
{
	local bpftool

	bpftool=$(PATH=$PATH:/usr/sbin command -v bpftool) || tap_skip 'no bpftool'
	for object in "$ROOT"/usr/lib/sluice/*.bpf.o; do
		"$bpftool" btf dump file "$object" | grep -q FUNC
	done
	test "$(find "$ROOT/usr/lib/sluice" -name '*.bpf.o' | wc -l)" = \
		"$(find "$SOURCE/bpf" -name '*.bpf.c' | wc -l)"
	test "$(find "$ROOT/usr/share/sluice/trace" -name '*.bt' | wc -l)" = \
		"$(find "$SOURCE/bpf" -name '*.bt' | wc -l)"
}

tap_case 'make install' installs
tap_case 'examples compile against what is installed' examples_compile
tap_case 'an example runs with the installed library' echoes shared
tap_case 'and with the static one' static_library
tap_case 'the units are in order' units_are_in_order
tap_case 'sluiced.service is hardened' unit_is_hardened
tap_case 'sysusers and tmpfiles' user_and_directory
tap_case 'completion in bash' completion
tap_case 'BPF objects and bpftrace scripts' programs_load_from_there
tap_done
