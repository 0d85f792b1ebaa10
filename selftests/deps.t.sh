#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# install.sh starts no server: with an apt-get that says what a package's own script
# would meet, in a mount namespace whose /usr/sbin is a copy.
set -u
. "${0%/*}/tap.sh"
test "$(id -u)" = 0 || tap_skip_all 'needs root'
if test -z "${INSTALL_PRIVATE-}"; then
	unshare -m true 2>/dev/null || tap_skip_all 'no mount namespaces here'
	cd "$SOURCE" || exit 2
	INSTALL_PRIVATE=1 exec unshare -m "$BASH" \
		"$SOURCE/selftests/${0##*/}" "$@"
fi

# The commands of install.sh, in a directory that comes first in PATH; sbin is
# empty but for update-rc.d. `nginx_before`: whether there is one already.
prepare()
{
	mkdir bin sbin
	for name in apt-get update-rc.d; do
		printf '#!/bin/sh\necho %s "$@" >>"%s"\n' "$name" "$TMPDIR/did" \
			>"bin/$name"
	done
	cat >>bin/apt-get <<-EOF
		case "\$*" in *install*)
			cat /usr/sbin/policy-rc.d >>"$TMPDIR/did"
			: >"/usr/sbin/nginx"
			chmod 755 /usr/sbin/nginx
		esac
	EOF
	chmod 755 bin/*
	mount --bind sbin /usr/sbin
	trap finish EXIT
}

finish()
{
	umount /usr/sbin
	rm -r bin sbin did
}

install()
{
	PATH=$TMPDIR/bin:/usr/bin:/bin "$SOURCE/selftests/install.sh" "$@" ||
		return
	cat did
}

starts_nothing()
{
	prepare
	install nginx-light
	grep -q '^apt-get .* install nginx-light' did
	grep -q '^exit 101$' did
	grep -q '^update-rc.d nginx disable$' did
	test ! -e /usr/sbin/policy-rc.d
}

# Who runs one goes on, with the policy that is there.
leaves_what_was_there()
{
	prepare
	printf '#!/bin/sh\n# theirs\n' >/usr/sbin/policy-rc.d
	: >/usr/sbin/nginx
	chmod 755 /usr/sbin/nginx
	install curl
	test "$(grep -c '^# theirs$' did)" = 1
	test "$(grep -c update-rc.d did)" = 0
	test "$(cat /usr/sbin/policy-rc.d)" = $'#!/bin/sh\n# theirs'
}

removes_its_policy_on_failure()
{
	prepare
	echo 'exit 100' >>bin/apt-get
	tap_fails install nginx-light
	test ! -e /usr/sbin/policy-rc.d
}

tap_case 'starts no server' starts_nothing
tap_case 'leaves what was there' leaves_what_was_there
tap_case 'leaves no policy after a failure' removes_its_policy_on_failure
tap_done
