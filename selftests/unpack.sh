#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# unpack.sh PACKAGE FILE DIR: puts one file of a Debian package into DIR, and
# installs nothing: the package would start a server.
set -eu

package=$1 file=$2 dir=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$scratch"
mkdir -p "$dir"
where=$(cd "$dir" && pwd)
cd "$scratch"
download()
{
	apt-get -qq download "$package" 2>err
}

# the lists may be missing, or older than what is there
download || { test "$(id -u)" = 0 && apt-get -qq update && download; } || {
	cat err >&2
	exit 1
}
dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x "./$file"
mv "$file" "$where"
