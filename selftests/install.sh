#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# install.sh PACKAGE...: installs Debian packages for `make deps`, as root. What
# servers they bring (nginx-light) is not started, now or at the next boot; what
# was there before is left as it is.
set -eu

policy=/usr/sbin/policy-rc.d
PATH=$PATH:/usr/sbin:/sbin
nginx=$(command -v nginx || :)

if ! test -e "$policy"; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy" # forbidden
	chmod 755 "$policy"
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
	install "$@"
if test -z "$nginx" && command -v nginx >/dev/null; then
	update-rc.d nginx disable
fi
