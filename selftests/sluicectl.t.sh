#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluicectl: the command line, and the probes, which must agree with what can be
# found out in another way, be honest without root, and leave nothing behind.
# shellcheck source=selftests/tap.sh
. "${0%/*}/tap.sh"

tmp=$(mktemp -d "$TMPDIR/sluicectl.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

ctl()
{
	timeout 60 sluicectl "$@"
}

need_root()
{
	test "$(id -u)" = 0 || tap_skip "needs root"
}

# As nobody, who may not look into the build directory.
as_nobody()
{
	install -m 755 "$(command -v sluicectl)" "$tmp/sluicectl"
	chmod 755 "$tmp" "$TMPDIR"
	timeout 60 setpriv --reuid 65534 --regid 65534 --clear-groups \
		"$tmp/sluicectl" "$@"
}

helps()
{
	local command

	ctl --help | grep -q '^Usage: sluicectl COMMAND'
	while read -r command; do
		ctl "$command" --help >"$tmp/help"
		grep -q "^Usage: sluicectl $command" "$tmp/help"
		echo "$command"
	done < <(ctl --help | sed -n 's/^  \([a-z]*\) .*/\1/p') >"$tmp/commands"
	grep -qx probe "$tmp/commands"
}

full_disk()
{
	test -e /dev/full || tap_skip "no /dev/full"
	tap_says 1 "cannot write" eval 'ctl probe memfd-seals >/dev/full'
}

# Every feature has a line, and everything but "yes" a reason.
probes_everything()
{
	ctl probe --json >"$tmp/json"
	python3 - "$tmp/json" <<-'END'
		import json, sys

		result = json.load(open(sys.argv[1]))
		features = result["features"]
		names = [f["name"] for f in features]
		assert len(set(names)) == len(names) >= 20, names
		for f in features:
		    assert f["result"] in ("yes", "no", "unknown"), f
		    assert f["result"] == "yes" or f["why"], f
		    assert f["what"] and f["use"], f
		assert result["uses"]["lanes"] == "yes", result["uses"]
		needed = {f["result"] for f in features
		          if f["needed"] and f["use"] == "steered"}
		want = "no" if "no" in needed else \
		    "unknown" if "unknown" in needed else "yes"
		assert result["uses"]["steered"] == want, result["uses"]
	END
	ctl probe >"$tmp/text"
	grep -q '^Queued and direct lanes: yes. ' "$tmp/text"
}

# feature NAME: its result
feature()
{
	ctl probe --json "$1" | python3 -c '
import json, sys
print(json.load(sys.stdin)["features"][0]["result"])'
}

# The same questions, answered without sluicectl.
probes_agree()
{
	test "$(feature memfd-seals)" = yes
	python3 - >"$tmp/seen" <<-'END'
		import os, socket

		a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		try:
		    a.setsockopt(socket.SOL_SOCKET, 83, 0)
		    print("passrights yes")
		except OSError:
		    print("passrights no")
		free = int(open("/sys/kernel/mm/hugepages/hugepages-2048kB/"
		                "free_hugepages").read()) \
		    if os.path.isdir("/sys/kernel/mm/hugepages/"
		                     "hugepages-2048kB") else 0
		print("memfd-huge", "yes" if free else "no")
		print("btf", "yes" if os.access("/sys/kernel/btf/vmlinux",
		                                os.R_OK) else "no")
	END
	while read -r name result; do
		echo "$name: $result"
		test "$(feature "$name")" = "$result"
	done <"$tmp/seen"
}

probes_bpf_agree()
{
	need_root
	test "$(feature bpf)" = yes || tap_skip "$(ctl probe bpf)"
	# A socket filter is never called for a stream, and no kernel so far
	# takes SEQPACKET into a sockmap.
	test "$(feature filter-seqpacket)" = yes
	test "$(feature filter-stream)" = no
	test "$(feature sockmap-seqpacket)" = no
	test "$(feature sockmap-stream)" = yes
	test "$(feature landing-stream)" = yes
	# A page that root may watch, and which nobody else may.
	test "$(feature userfaultfd)" = yes
}

# Exits with 1, and says why, unless every feature that was named is there.
probe_as_condition()
{
	ctl probe memfd-seals btf >"$tmp/out"
	tap_fails ctl probe memfd-seals filter-stream >"$tmp/out"
	grep -q 'filter-stream .*(.*)$' "$tmp/out"
}

honest_without_root()
{
	need_root
	as_nobody probe --json >"$tmp/json"
	python3 - "$tmp/json" <<-'END'
		import json, sys

		features = {f["name"]: f for f in
		            json.load(open(sys.argv[1]))["features"]}
		for name in "memfd-seals", "membarrier":
		    assert features[name]["result"] == "yes", features[name]
		if features["unprivileged-bpf"]["result"] == "no":
		    for name in "bpf", "bpf-helpers", "filter-seqpacket", \
		            "frozen-array", "connect-unix", "fentry":
		        assert features[name]["result"] == "unknown", features[name]
		        assert "needs root" in features[name]["why"], features[name]
	END
	as_nobody probe | grep -q '^Run it as root'
}

# What the kernel has of BPF and cgroups, before and after.
leftovers()
{
	bpftool prog list | grep sluice_probe
	bpftool map list | grep sluice_probe
	bpftool link list
	find /sys/fs/cgroup -maxdepth 3 -name 'sluice-probe-*'
}

leaves_nothing()
{
	need_root
	command -v bpftool >/dev/null || tap_skip "no bpftool"
	leftovers >"$tmp/before" || :
	ctl probe >"$tmp/out"
	# Programs and maps are freed after a grace period.
	for _ in $(seq 50); do
		leftovers >"$tmp/after" || :
		cmp -s "$tmp/before" "$tmp/after" && return
		sleep 0.1
	done
	diff "$tmp/before" "$tmp/after"
}

tap_case "every command has help" helps
tap_case "wants a command" tap_says 2 "want a command" ctl
tap_case "knows no such command" tap_says 2 'no command "dance"' ctl dance
tap_case "knows no such option" tap_says 2 "unrecognized" ctl probe --dance
tap_case "knows no such feature" tap_says 2 'no feature "magic"' ctl probe magic
tap_case "output that cannot be written is an error" full_disk
tap_case "probe: every feature has an answer and a reason" probes_everything
tap_case "probe: answers agree with what is seen otherwise" probes_agree
tap_case "probe: socket filters and sockmap" probes_bpf_agree
tap_case "probe FEATURE is a condition" probe_as_condition
tap_case "probe: without root, says what needs root" honest_without_root
tap_case "probe: leaves nothing behind" leaves_nothing
tap_done
