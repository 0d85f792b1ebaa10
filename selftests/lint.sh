#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# What `make lint` checks, in the order of the functions below; one line for
# each breach. --format applies clang-format instead.
set -u
cd "$(dirname "$0")/.." || exit 2
O=${SLUICE_BUILD:-build}
CC=${CC:-cc}
CLANG_FORMAT=${CLANG_FORMAT:-clang-format}
SHELLCHECK=${SHELLCHECK:-shellcheck}
breaches=0
trees=()
for tree in bpf include selftests user vmlinux; do
	test -d $tree && trees+=("$tree")
done

breach()
{
	printf 'lint: %s\n' "$*" >&2
	breaches=$((breaches + 1))
}

# find_files -name '*.c' ...: below the trees that there are.
find_files()
{
	find "${trees[@]}" -type f \( "$@" \) | sort
}

mapfile -t c_files < <(find_files -name '*.[ch]')
mapfile -t scripts < <(
	find_files -name '*.sh'
	# Those without the suffix, by their first line.
	grep -rlE --exclude='*.*' '^#!/bin/(ba)?sh' .ci "${trees[@]}" | sort
)

need_tools()
{
	local tool missing=()

	for tool in "$CLANG_FORMAT" "$SHELLCHECK" "$CC" readelf nm python3; do
		command -v "$tool" >/dev/null || missing+=("$tool")
	done
	if test ${#missing[@]} != 0; then
		echo "lint: missing: ${missing[*]}; run 'make deps'" >&2
		exit 1
	fi
}

check_format()
{
	local file

	while IFS= read -r file; do
		"$CLANG_FORMAT" "$file" | diff -u --label "$file" \
			--label formatted "$file" - | sed -n '3,30s/^/    /p' >&2
		breach "$file: not formatted; run 'make format'"
	done < <(
		"$CLANG_FORMAT" --dry-run -Werror "${c_files[@]}" 2>&1 |
			sed -nE 's/^([^:]+):[0-9]+:.*clang-formatted.*/\1/p' | sort -u
	)
}

# includes TREE ALLOWED: what files below TREE include must match ALLOWED, or be
# a file beside them.
includes()
{
	local tree=$1 allowed=$2 file kind name

	test -d "$tree" || return
	while read -r file kind name; do
		test "$kind" = '"' && test -f "${file%/*}/$name" &&
			test "${name#*/}" = "$name" && continue
		[[ $name =~ ^($allowed)$ ]] && continue
		breach "$file includes $name, which $tree must not know"
	done < <(
		grep -rE --include='*.[ch]' '^[[:space:]]*#' "$tree" | sed -nE \
			's/^([^:]+):[[:space:]]*#[[:space:]]*include[[:space:]]*([<"])([^>"]+).*/\1 \2 \3/p'
	)
}

# Facts flow one way: include/ knows nobody, user/lib knows include/, the tools
# know the library's public headers, and only tests know what is internal.
check_includes()
{
	local libc tree tools='jansson\.h|liburing\.h|bpf/[a-z_]+\.h'

	# The C library's and the compiler's own.
	libc='(aio|alloca|argp|assert|complex|cpuid|ctype|dirent|dlfcn|elf|'
	libc+='endian|err|errno|error|execinfo|fcntl|features|fenv|float|'
	libc+='fnmatch|ftw|getopt|glob|grp|ifaddrs|immintrin|inttypes|'
	libc+='iso646|langinfo|libgen|limits|link|locale|malloc|math|mntent|'
	libc+='netdb|paths|poll|pthread|pty|pwd|regex|sched|search|semaphore|'
	libc+='setjmp|signal|spawn|stdalign|stdarg|stdatomic|stdbool|stddef|'
	libc+='stdint|stdio|stdlib|stdnoreturn|string|strings|syscall|'
	libc+='sysexits|syslog|termios|threads|time|uchar|ucontext|unistd|'
	libc+='utmp|wait|wchar|wctype|wordexp|x86intrin|'
	libc+='(arpa|asm|linux|net|netinet|sys)/[a-z_0-9]+)\.h'
	includes include "$libc|sluice/(uapi|control|sluice|endpoint|hot)\.h"
	includes bpf "$libc|bpf/[a-z_]+(\.bpf)?\.h|sluice/uapi\.h|vmlinux\.h"
	includes vmlinux "linux/types\.h"
	includes user/lib "$libc|sluice/(uapi|control|sluice|endpoint|hot|uring)\.h"
	includes user/daemon "$libc|bpf/[a-z_]+\.h|(connect|conns|guard|sockets|sockmap|steer|stream|switch|uring)\.skel\.h|(connect|guard|sockmap|steer|stream|switch|uring)\.h|liburing\.h|sluice/uapi\.h|ini\.h|cap-ng\.h|systemd/sd-daemon\.h"
	for tree in bench examples; do
		includes user/$tree "$libc|$tools|sluice/(uapi|sluice|uring)\.h"
	done
	# Reads the maps of the programs, some with sluiced's own code; has one of its own.
	includes user/ctl "$libc|$tools|sluice/(uapi|sluice)\.h|(steer|counts|trace)\.h|trace\.skel\.h|gelf\.h"
}

check_licences()
{
	local file want

	while IFS= read -r file; do
		want='LGPL-2.1-only OR BSD-2-Clause'
		case $file in
		bpf/* | vmlinux/*) want='GPL-2.0-only OR BSD-2-Clause' ;;
		esac
		head -n 3 "$file" | grep -q "SPDX-License-Identifier: $want" ||
			breach "$file: no line 'SPDX-License-Identifier: $want'"
	done < <(
		find_files ! -name '*.md' ! -name '*.svg' ! -name '*.json' \
			! -name '*.abixml' ! -path '*/debian/*' \
			! -path '*/__pycache__/*'
		printf '%s\n' Makefile .ci/run
	)
}

# The same set of names four times: declared in the headers, with default
# visibility in the objects, in the symbol map, exported by the shared library.
check_symbols()
{
	local dir declared=sluice/uring.h

	dir=$(mktemp -d) || exit 2
	# shellcheck disable=SC2064 # the directory of now
	trap "rm -rf '$dir'" EXIT
	echo "#include <$declared>" | "$CC" -E -P -Iinclude -x c - |
		grep -oE '\bsluice_[a-z0-9_]+ ?\(' | tr -d '( ' |
		grep -v '^sluice__' | sort -u >"$dir/declared"
	readelf -sW "$O/lib/libsluice.a" 2>/dev/null |
		awk '$5 == "GLOBAL" && $6 == "DEFAULT" && $7 != "UND" { print $8 }' |
		sort -u >"$dir/visible"
	sed -nE 's/^[[:space:]]+([a-z0-9_]+);$/\1/p' user/lib/libsluice.map |
		sort -u >"$dir/versioned"
	nm -D --defined-only "$O/lib/libsluice.so" |
		awk '$2 != "A" { print $3 }' |
		sed 's/@@SLUICE_[0-9.]*$//' | sort -u >"$dir/exported"
	compare "$dir" declared visible "in $declared, but not defined for export"
	compare "$dir" visible declared "exported, but not declared in $declared"
	compare "$dir" visible versioned 'exported, but not in libsluice.map'
	compare "$dir" versioned visible 'in libsluice.map, but not exported'
	compare "$dir" versioned exported 'in libsluice.map, but not in the .so'
	compare "$dir" exported versioned 'in the .so without a version'
}

# compare DIR A B TEXT: names in A must be in B.
compare()
{
	local name

	while IFS= read -r name; do
		breach "symbol $name: $4"
	done < <(comm -23 "$1/$2" "$1/$3")
}

# Each public header compiles alone, in C and, as users may, in C++.
check_headers()
{
	local header

	for header in include/sluice/*.h; do
		# hot.h is the second half of sluice.h
		test "$header" = include/sluice/hot.h && continue
		compiles "$header" "$CC" -std=c11 -x c
		compiles "$header" "$CC" -std=gnu11 -x c
		compiles "$header" "$CC" -std=c++17 -x c++
	done
}

compiles()
{
	local header=$1

	shift
	echo "#include <${header#include/}>" |
		"$@" -Wall -Wextra -Werror -Iinclude -fsyntax-only - ||
		breach "$header does not compile by itself: $*"
}

# SC2317: functions that tap_case calls; SC2001: sed is plainer at times.
check_scripts()
{
	"$SHELLCHECK" -x -P SCRIPTDIR -e SC2317,SC2001 "${scripts[@]}" || breach 'shellcheck has complaints'
}

check_python()
{
	local file

	while IFS= read -r file; do
		python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' \
			"$file" || breach "$file: not Python"
	done < <(find_files -name '*.py')
}

need_tools
if test "${1-}" = --format; then
	exec "$CLANG_FORMAT" -i "${c_files[@]}"
fi
check_format
check_includes
check_licences
check_symbols
check_headers
check_scripts
check_python
if test $breaches != 0; then
	echo "lint: $breaches breaches" >&2
	exit 1
fi
echo "lint: ${#c_files[@]} C files and ${#scripts[@]} scripts are in order"
