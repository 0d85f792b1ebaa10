#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The command line and the configuration of sluiced, which need neither root nor
# BPF. sluiced-*.c are about what it does.
set -u
. "${0%/*}/tap.sh"

# Ends with 2 and says that.
refuses()
{
	local text=$1 status=0 output

	shift
	output=$(sluiced "$@" 2>&1) || status=$?
	echo "$output"
	test "$status" = 2
	grep -qF -e "$text" <<<"$output"
}

# bad LINE TEXT FILE...: --check-config refuses the file for that, in that line.
bad()
{
	local line=$1 text=$2

	shift 2
	printf '%s\n' "$@" >"$TMPDIR/conf"
	refuses "$TMPDIR/conf:$line: $text" --config "$TMPDIR/conf" \
		--check-config || {
		rm "$TMPDIR/conf"
		return 1
	}
	rm "$TMPDIR/conf"
}

good()
{
	local status=0

	printf '%s\n' "$@" >"$TMPDIR/conf"
	sluiced --config "$TMPDIR/conf" --check-config || status=$?
	rm "$TMPDIR/conf"
	return "$status"
}

help_and_version()
{
	sluiced --help | grep -q '^usage: sluiced'
	sluiced -h | grep -q SIGHUP
	sluiced --version | grep -qE '^sluiced [0-9.]+, programs [0-9]+$'
	sluiced -V | grep -q sluiced
}

bad_options()
{
	refuses "unrecognized option '--nonsense'" --nonsense
	refuses 'invalid option' -Z
	refuses "what is 'extra'" extra
	refuses "option '--control' requires an argument" --control
	refuses 'must be an absolute path' --control relative
	refuses 'must be an absolute path' --pins relative
	refuses 'is too long' --control "/$(printf '%0200d' 0)"
	refuses 'must be error, warning, info or debug' --log-level loud
	refuses 'No such file' --config /nonexistent/sluiced.conf
	refuses 'Is a directory' --config /
}

good_configs()
{
	good
	good '# nothing' '; but comments'
	good '[control]' 'path = /run/x' 'mode = 0600' 'group = nogroup' \
		'[bpf]' 'pin_dir = /sys/fs/bpf/x' 'conn_counts = no' \
		'[limits]' 'endpoints_per_uid = 0' 'conns_per_uid = 262144' \
		'conns_per_endpoint=1' 'map_bytes_per_uid = 2G' \
		'map_bytes_per_endpoint = 123456' 'clients_per_uid = 1' \
		'[daemon]' 'grace_seconds = 0' 'sweep_seconds = 1' \
		'log_level = debug' 'switch = user' 'unload = yes'
	sluiced --config "$SOURCE/user/daemon/sluiced.conf" --check-config
}

bad_keys()
{
	bad 3 'unknown section [nonsense]' '' '[nonsense]' 'a = b'
	bad 2 'unknown key nonsense in [limits]' '[limits]' 'nonsense = 1'
	bad 2 'unknown key path in [bpf]' '[bpf]' 'path = /x'
	bad 1 'unknown section []' 'path = /x'
	bad 3 'path is set a second time; line 2 did' '[control]' 'path = /x' \
		'path = /x'
	bad 2 'neither [section], key = value nor comment' '[control]' 'path'
	bad 1 'neither [section], key = value nor comment' '[control'
	bad 4 'path is set a second time; line 2 did' '[control]' \
		'path = /x' '[control]' 'path = /y'
	bad 3 'path is set a second time; line 2 did' '[control]' 'path = /x' \
		'  /continued'
	bad 2 'line is longer' '[control]' "path = /$(printf '%0300d' 0)"
}

bad_values()
{
	bad 2 'path = x: must be an absolute path' '[control]' 'path = x'
	bad 2 'path = : must be an absolute path' '[control]' 'path ='
	bad 2 'mode = 0888: must be an octal number' '[control]' 'mode = 0888'
	bad 2 'mode = rw: must be an octal number' '[control]' 'mode = rw'
	bad 2 'mode = 1777: is out of range' '[control]' 'mode = 1777'
	for value in '' x 12x -1 +1 0x10 1.5 1K 99999999999999999999; do
		bad 2 "conns_per_uid = $value: must be a number" '[limits]' \
			"conns_per_uid = $value"
	done
	bad 2 'conns_per_uid = 262145: is out of range' '[limits]' 'conns_per_uid = 262145'
	bad 2 'endpoints_per_uid = 4097: is out of range' '[limits]' 'endpoints_per_uid = 4097'
	bad 2 'clients_per_uid = 0: is out of range' '[limits]' 'clients_per_uid = 0'
	bad 2 'sweep_seconds = 0: is out of range' '[daemon]' 'sweep_seconds = 0'
	bad 2 'grace_seconds = 3601: is out of range' '[daemon]' 'grace_seconds = 3601'
	for value in '' K 1KB 1P 1k 17179869184T; do
		bad 2 "map_bytes_per_uid = $value: must be a number, with" \
			'[limits]' "map_bytes_per_uid = $value"
	done
	bad 2 'map_bytes_per_uid = 1025T: is out of range' '[limits]' 'map_bytes_per_uid = 1025T'
	bad 2 'log_level = 3: must be error' '[daemon]' 'log_level = 3'
	bad 2 'switch = bpf: must be auto' '[daemon]' 'switch = bpf'
	bad 2 'unload = 1: must be yes or no' '[daemon]' 'unload = 1'
	bad 2 'conn_counts = on: must be yes or no' '[bpf]' 'conn_counts = on'
	group=$(printf '%070d' 0)
	bad 2 "group = $group: is too long" '[control]' "group = $group"
}

service_sections()
{
	good '[service a]' 'listen = /a' 'type = seqpacket' 'backends = /b /c' \
		'backends = /d,/e' '  /f' 'balance = hash-uid' 'mode = 0' \
		'owner = x' 'group = y' 'half_close = no' \
		'limit_per_uid = 262144' 'bind_user = x' 'bind_group = y' \
		'intercept = /b' 'cgroups = /sys/fs/cgroup/a' \
		'[service b]' 'listen = /b' 'type = dgram' \
		'balance = least-connections' \
		'[service c]' 'listen = /c' 'landing = yes'
	bad 4 '[service a]: landing is for type = stream' '[service a]' \
		'listen = /a' 'type = dgram' 'landing = yes'
	bad 2 'landing = 1: must be yes or no' '[service a]' 'landing = 1'
	bad 2 '[service a] has no listen' '[service a]' 'type = dgram'
	bad 2 'unknown key nonsense in [service a]' '[service a]' 'nonsense = 1'
	bad 2 '[service a b]: the name must have' '[service a b]' 'listen = /a'
	bad 2 '[service ]: the name must have' '[service ]' 'listen = /a'
	name=$(printf '%032d' 0)
	bad 2 "[service $name]: the name must have" "[service $name]" 'listen = /a'
	bad 2 'unknown section [service]' '[service]' 'listen = /a'
	bad 3 'listen is set a second time; line 2 did' '[service a]' \
		'listen = /a' 'listen = /b'
	bad 6 '[service a] is there already' '[service a]' 'listen = /a' \
		'[service b]' 'listen = /b' '[service a]' 'type = dgram'
	bad 4 '[service a] and [service b] listen at the same path' \
		'[service a]' 'listen = /a' '[service b]' 'listen = /a'
	bad 8 '[service a] and [service b] intercept the same path' \
		'[service a]' 'listen = /a' 'intercept = /x' 'cgroups = /y' \
		'[service b]' 'listen = /b' 'intercept = /x' 'cgroups = /z'
	bad 3 '[service a] is its own backend' '[service a]' 'listen = /a' \
		'backends = /b /a'
	bad 3 '[service a]: intercept and cgroups go together' '[service a]' \
		'listen = /a' 'intercept = /b'
	bad 3 '[service a]: intercept and cgroups go together' '[service a]' \
		'listen = /a' 'cgroups = /b'
	bad 2 'listen = a: must be an absolute path' '[service a]' 'listen = a'
	path=/$(printf '%0107d' 0)
	bad 2 "listen = $path: is too long" '[service a]' "listen = $path"
	bad 2 'type = tcp: must be stream, seqpacket or dgram' '[service a]' \
		'type = tcp'
	bad 2 'backends = /a b: must be absolute paths' '[service a]' \
		'backends = /a b'
	bad 2 "backends = $path: has a path that is too long" '[service a]' \
		"backends = $path"
	bad 2 'cgroups = a: must be absolute paths' '[service a]' 'cgroups = a'
	bad 3 'cgroups = /1 /2 /3 /4 /5 /6 /7 /8 /9: has too many paths' '[service a]' \
		'cgroups = /1 /2 /3 /4 /5 /6 /7 /8' \
		'cgroups = /1 /2 /3 /4 /5 /6 /7 /8 /9'
	bad 2 'balance = random: must be round-robin, least-connections or hash-uid' \
		'[service a]' 'balance = random'
	bad 2 'mode = 1777: is out of range' '[service a]' 'mode = 1777'
	bad 2 'half_close = 1: must be yes or no' '[service a]' 'half_close = 1'
	bad 2 'limit_per_uid = -1: must be a number' '[service a]' \
		'limit_per_uid = -1'
	bad 2 'limit_per_uid = 262145: is out of range' '[service a]' \
		'limit_per_uid = 262145'
	bad 2 'intercept = a: must be an absolute path' '[service a]' \
		'intercept = a'
	for key in owner group bind_user bind_group; do
		bad 2 "$key = $path: is too long" '[service a]' "$key = $path"
	done
}

# The manual page names every key, and no other.
manual_knows_the_keys()
{
	local page=$SOURCE/user/man/sluiced.conf.5 code

	code=$(sed -nE 's/.*KEY\("([a-z_.]+)".*/\1/p' \
		"$SOURCE/user/daemon/config.c" | sed 's/.*\.//' | sort)
	test -n "$code"
	diff <(echo "$code") <(sed -nE \
		's/^\.It Cm ([a-z_]+) = .*/\1/p' "$page" | sort)
	diff <(echo "$code") <(sed -nE 's/^#?([a-z_]+) = .*/\1/p' \
		"$SOURCE/user/daemon/sluiced.conf" | sort)
}

example_is_fine_with_all_set()
{
	sed 's/^#\([a-z_]* = \|\[\)/\1/' "$SOURCE/user/daemon/sluiced.conf" \
		>"$TMPDIR/all"
	sed -i 's/^group = sluice/group = nogroup/' "$TMPDIR/all"
	sluiced --config "$TMPDIR/all" --check-config
	rm "$TMPDIR/all"
}

# "key = default" in the manual and in the example; names and paths have none.
manual_and_example_agree()
{
	diff <(sed -nE 's/^\.It Cm ([a-z_]+ = [^ ]+)$/\1/p' \
		"$SOURCE/user/man/sluiced.conf.5" | sort) \
		<(sed -nE '/^#(group|owner|listen|backends|bind_.*|intercept|cgroups|socket|file) =/d
			s/^#([a-z_]+ = .*)/\1/p' \
			"$SOURCE/user/daemon/sluiced.conf" | sort)
}

tap_case 'manual and example agree' manual_and_example_agree
tap_case 'help and version' help_and_version
tap_case 'bad options' bad_options
tap_case 'good configurations' good_configs
tap_case 'unknown and repeated keys' bad_keys
tap_case 'bad values' bad_values
tap_case 'services' service_sections
tap_case 'manual and example know the keys' manual_knows_the_keys
tap_case 'the example is fine with all keys set' example_is_fine_with_all_set
tap_done
