#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The Debian packages: built, without complaint from lintian, installed in a clean root
# of Debian 12, used there, and removed again. The root is made by mmdebstrap from the
# mirror that apt uses here, with what the packages depend on and nothing else; it is
# kept beside the packages. SLUICE_LONG=1: another one, where the tutorial is gone
# through with the packages. Beside others. Limit: 900 s
. "${0%/*}/tap.sh"

test -z "${SLUICE_SANITIZER-}" ||
	tap_skip_all 'packages are the same in every build'
for tool in dh dpkg-buildpackage fakeroot lintian mmdebstrap; do
	command -v $tool >/dev/null ||
		tap_skip_all "$tool is not installed (make deps-deb installs it)"
done
test "$(id -u)" = 0 || tap_skip_all 'a root of its own needs root'
unshare -m true 2>/dev/null || tap_skip_all 'no mount namespaces here'

unset MAKEFLAGS MFLAGS MAKELEVEL V WERROR DESTDIR PREFIX
DEB=$SLUICE_BUILD/deb
ROOT=$TMPDIR/root
FRESH=$TMPDIR/fresh
trap 'rm -rf "$ROOT" "$FRESH" "$TMPDIR/out"' EXIT
trap 'exit 1' INT TERM HUP
mkdir "$ROOT" "$TMPDIR/out"

builds()
{
	make -C "$SOURCE" --no-print-directory O="${SLUICE_BUILD#"$SOURCE"/}" deb
}

# What is not of debugging symbols.
packages()
{
	find "$DEB" -maxdepth 1 -name '*.deb' ! -name '*-dbgsym_*' | sort
}

three_packages()
{
	local names

	names=$(packages | sed 's|.*/||; s/_.*//' | paste -sd' ')
	echo "$names"
	test "$names" = 'libsluice-dev libsluice0 sluice-tools'
}

lintian_is_silent()
{
	TMPDIR=$TMPDIR/out lintian --fail-on error,warning "$DEB"/*.changes
}

# What the packages depend on, by name; each first choice.
dependencies()
{
	packages | while read -r package; do
		dpkg-deb -f "$package" Depends Pre-Depends | tr ',' '\n'
	done | sed -E 's/^(Pre-)?Depends://; s/^ *//; s/[ (|].*//' |
		sed 's/^systemd$/systemd-standalone-sysusers/' | grep -v sluice | sort -u
}

root_is_made()
{
	local list=$DEB/root.list

	{ dependencies; echo systemd-standalone-tmpfiles; } >"$TMPDIR/out/list"
	if ! cmp -s "$TMPDIR/out/list" "$list" || ! test -s "$DEB/root.tar"; then
		rm -f "$list" "$DEB/root.tar"
		mmdebstrap --variant=essential \
			--include="$(paste -sd, "$TMPDIR/out/list")" \
			--dpkgopt='path-exclude=/usr/share/doc/*' \
			bookworm "$DEB/root.tar" >"$TMPDIR/out/log" 2>&1 || {
			tail -5 "$TMPDIR/out/log"
			rm -f "$DEB/root.tar"
			tap_skip 'no root of Debian 12 can be made: no network?'
		}
		cp "$TMPDIR/out/list" "$list"
	fi
	tar -C "$ROOT" -xf "$DEB/root.tar"
}

need_root()
{
	test -e "$ROOT/usr/bin/dpkg" || tap_skip 'there is no clean root'
}

# in_root COMMAND...: there, with a BPF file system, in a mount namespace of its own.
in_root()
{
	# shellcheck disable=SC2016 # the inner shell's
	unshare -m sh -ec '
		root=$1
		shift
		mount --rbind /proc "$root/proc"
		mount --rbind /dev "$root/dev"
		mount --rbind /sys "$root/sys"
		mount -t bpf bpf "$root/sys/fs/bpf"
		exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
			SLUICE_TEST_RUN="$SLUICE_TEST_RUN" DEBIAN_FRONTEND=noninteractive \
			chroot "$root" "$@"' sh "$ROOT" "$@"
}

installs()
{
	need_root
	mkdir "$ROOT/packages"
	packages | xargs -I@ cp @ "$ROOT/packages"
	in_root sh -c 'dpkg -i /packages/*.deb'
	rm -r "$ROOT/packages"
	in_root dpkg --audit
	in_root getent group sluice
	test "$(stat -c '%U %a' "$ROOT/run/sluice")" = 'root 755'
}

tools_run()
{
	need_root
	in_root sluiced --check-config
	in_root sluice-bench --list | grep -w direct
	in_root sh -ec '
		echo "through the package" >/tmp/in
		sluicecat -q -l @sluice-package-$$ >/tmp/out &
		sluicecat -q -w 30 @sluice-package-$$ </tmp/in
		wait $!
		cmp /tmp/in /tmp/out'
}

sluiced_runs()
{
	need_root
	test -r /sys/kernel/btf/vmlinux || tap_skip 'no /sys/kernel/btf/vmlinux'
	in_root sh -ec '
		sluiced --unload 2>/tmp/log &
		until grep -q ": ready$" /tmp/log; do
			kill -0 $! || { cat /tmp/log; exit 1; }
			sleep 0.05
		done
		stat -c %a /run/sluice/control
		sluicectl status --interval 0
		sluicectl probe bpf
		sluicectl trace --seconds 0.1 2>&1 |
			grep "tracing /usr/lib/.*/libsluice\.so\.0$"
		kill $!
		wait $!'
}

# A program that was built here, against the package of development.
program_runs()
{
	local multiarch flags

	need_root
	multiarch=$("${CC:-cc}" -print-multiarch)
	read -ra flags <<<"$(PKG_CONFIG_LIBDIR=$ROOT/usr/lib/$multiarch/pkgconfig \
		PKG_CONFIG_SYSROOT_DIR=$ROOT PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 \
		PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 pkg-config --cflags --libs libsluice)"
	# shellcheck disable=SC2016 # these backticks are Markdown's
	sed -n '/^```c$/,/^```$/p' "$SOURCE/README.md" | sed '1d; /^```$/,$d' |
		"${CC:-cc}" -o "$ROOT/tmp/example" -x c - "${flags[@]}"
	in_root /tmp/example | grep 'tag 42: written in place'
	rm "$ROOT/tmp/example"
}

# A script of all that the tutorial has a newcomer type, from installing on.
tutorial()
{
	echo 'set -e; cd /packages'
	awk '/^```sh/ { on = 1; next }
		/^```c / { on = 1; end = "EOF-C"; print "cat >" $2 " <<\"EOF-C\""; next }
		/^```text/ { next }
		/^```/ { if (end) print end; end = ""; on = 0; next }
		on' "$SOURCE/user/examples/TUTORIAL.md"
}

# Where nothing is installed but what apt needs. What each block prints is for
# selftests/tutorial.t.py; here they succeed, and a message is traced.
tutorial_runs()
{
	test -n "${SLUICE_LONG-}" ||
		tap_skip 'it installs a compiler and bpftrace; SLUICE_LONG=1 runs it'
	mmdebstrap --variant=apt bookworm "$FRESH" >"$TMPDIR/out/log" 2>&1 || {
		tail -5 "$TMPDIR/out/log"
		return 1
	}
	cp /etc/resolv.conf "$FRESH/etc"
	mkdir "$FRESH/packages"
	packages | xargs -I@ cp @ "$FRESH/packages"
	tutorial >"$FRESH/packages/tutorial"
	ROOT=$FRESH in_root bash /packages/tutorial >"$TMPDIR/out/log" 2>&1 || {
		tail -20 "$TMPDIR/out/log"
		return 1
	}
	grep '^1000 messages, 1048576000 bytes, direct lane$' "$TMPDIR/out/log"
	test "$(grep -c ' loan-sender .* direct-receiver direct ' "$TMPDIR/out/log")" = 5
	test ! -e "$FRESH/packages/sluice-tutorial"
	test ! -e "$FRESH/run/sluice/control"
}

removes()
{
	need_root
	in_root dpkg --purge libsluice-dev libsluice0 sluice-tools
	find "$ROOT" -xdev -iname '*sluice*' ! -path "$ROOT/tmp/*" \
		! -path "$ROOT/run/*" >"$TMPDIR/out/left"
	cat "$TMPDIR/out/left"
	test ! -s "$TMPDIR/out/left"
}

tap_case 'they are built' builds
tap_case 'there are three' three_packages
tap_case 'lintian is silent' lintian_is_silent
tap_case 'a clean root' root_is_made
tap_case 'they are installed' installs
tap_case 'the tools run' tools_run
tap_case 'sluiced runs' sluiced_runs
tap_case 'a program runs' program_runs
tap_case 'the tutorial, in a fresh Debian' tutorial_runs
tap_case 'they are removed' removes
tap_done
