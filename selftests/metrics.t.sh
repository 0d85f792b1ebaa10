#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# sluiced's metrics, on their socket and in their file: what promtool says of them,
# whether they are what sluicectl status shows after live traffic, and what clients
# that mean no good can do. Needs root and BPF.
# shellcheck source=selftests/tap.sh
. "${0%/*}/tap.sh"
# shellcheck source=selftests/daemon.sh
. "$SOURCE/selftests/daemon.sh"
daemon_init "$@"
tap_needs curl python3 socat

METRICS=$TMPDIR/metrics
PROM=$TMPDIR/sluice.prom
PATH=$PATH:$SLUICE_BUILD/tools

# start [LINE...]: more lines of [metrics], and services.
start()
{
	printf '%s\n' '[metrics]' "socket = $METRICS" "$@" >conf
	daemon_start --unload --config "$PWD/conf"
	rm conf
}

scrape()
{
	curl -sSf --max-time 30 --unix-socket "$METRICS" \
		"http://localhost/${1-metrics}"
}

# status REQUEST: the status of the answer to that, as printf has it.
status()
{
	# shellcheck disable=SC2059
	printf "$1" | timeout 30 socat -t 30 - "UNIX-CONNECT:$METRICS" |
		sed -n '1s/^HTTP\/1\.0 \([0-9]*\) .*/\1/p'
}

# until_true COMMAND...
until_true()
{
	local tries=0

	until "$@"; do
		tries=$((tries + 1))
		test "$tries" -lt 500
		sleep 0.02
	done
}

backend()
{
	socat UNIX-LISTEN:"$PWD/backend",fork PIPE &
	backend=$!
	# shellcheck disable=SC2064
	trap "kill $backend 2>/dev/null || :; daemon_stop; rm -f '$PWD/backend'" EXIT
	until_true test -S backend
}

promtool_is_content()
{
	command -v promtool >/dev/null ||
		tap_skip 'promtool is not there (make deps unpacks it)'
	start "file = $PROM" '[service web]' "listen = $PWD/web" \
		"backends = $PWD/none"
	scrape >text
	promtool check metrics <text
	promtool check metrics <"$PROM"
	# it would complain
	sed 's/sluice_doorbells_total/sluice_doorbells/' text >wrong
	tap_fails promtool check metrics <wrong
	rm text wrong
	true # bash would exec what is last, and forget the trap
}

# Names of metrics: of what is served, in the manual, in the dashboard.
names_agree()
{
	start '[service web]' "listen = $PWD/web" "backends = $PWD/none"
	scrape | sed -n 's/^# TYPE \(\w*\) \(\w*\)$/\1 (\2)/p' | sort >served
	sed -n 's/^\.It Cm \(sluice_\w*\) No \((\w*)\)$/\1 \2/p' \
		"$SOURCE/user/man/sluice_metrics.7" | sort >manual
	python3 -m json.tool "$SOURCE/user/daemon/grafana.json" >/dev/null
	grep -o '\bsluice_[a-z_]*' "$SOURCE/user/daemon/grafana.json" |
		sort -u >dashboard
	test "$(wc -l <served)" -gt 10
	diff manual served
	# and nothing served is missing from it
	diff dashboard <(sed 's/ .*//' served)
	rm served manual dashboard
	true # bash would exec what is last, and forget the trap
}

# Sends plain messages to a receiver that is steered, and bytes through a service;
# then nothing moves, and both tell the same.
values_are_those_of_status()
{
	start '[service web]' "listen = $PWD/web" "backends = $PWD/backend"
	backend
	SLUICE_CONTROL=$CONTROL timeout 200 "$SLUICE_BUILD/examples/steered" \
		"$PWD/name" >steered.out 2>&1 &
	receiver=$!
	until_true test -S name
	# until the kernel has steered some of both: attachment takes its time
	CONTROL=$CONTROL PINS=$PINS timeout 200 python3 - "$PWD/name" >sent <<-'END'
		import json, os, socket, subprocess, sys, time

		def steered():
		    status = json.loads(subprocess.run(
		        ["sluicectl", "status", "--json", "--interval", "0", "--control",
		         os.environ["CONTROL"], "--pins", os.environ["PINS"]],
		        check=True, stdout=subprocess.PIPE).stdout)
		    return (status["counters"]["steered_inline"]["total"] and
		            status["counters"]["steered_small"]["total"])

		s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		s.connect(sys.argv[1])
		sent = 0
		while not steered():
		    for size in (20, 1000) * 10:
		        s.send(b"y" * size)
		        sent += 1
		        time.sleep(0.001)
		print(sent)
	END
	wait "$receiver"
	cat steered.out
	until_true test "$(echo hello | timeout 30 socat -t 5 - "UNIX-CONNECT:$PWD/web")" = hello
	ended()
	{
		sluicectl status --json --interval 0 --control "$CONTROL" \
			--pins "$PINS" >status.json
		scrape >text
		python3 - <<-'END'
			import json, re, sys

			with open("status.json", encoding="utf-8") as file:
			    status = json.load(file)
			with open("text", encoding="utf-8") as file:
			    text = file.read()
			values = {name: int(value) for name, value in
			          re.findall(r"^(sluice_\S+) (\d+)$", text, re.M)}
			counts = {name: each["total"]
			          for name, each in status["counters"].items()}
			want = {
			    "sluice_endpoints": status["use"]["endpoints"],
			    "sluice_connections": status["use"]["conns"],
			    "sluice_map_bytes": status["use"]["map_bytes"],
			    "sluice_draining": int(status["draining"]),
			    "sluice_steered_frames_total": counts["steered_frames"],
			    "sluice_steered_pieces_total": counts["steered_pieces"],
			    "sluice_lost_pieces_total": counts["pieces_lost"],
			    "sluice_doorbells_total": counts["doorbells"],
			    "sluice_steering_begins_total": counts["grants_taken"],
			}
			for name in ("inline", "small", "medium", "large"):
			    want[f'sluice_steered_messages_total{{into="{name}"}}'] = \
			        counts[f"steered_{name}"]
			want['sluice_steered_messages_total{into="frame"}'] = \
			    counts["steered_slots"]
			reasons = [name for name in counts if name.startswith("pass_")]
			for name in reasons:
			    want[f'sluice_spilled_messages_total{{reason="{name[5:]}"}}'] = \
			        counts[name]
			service = status["services"][0]
			assert service["name"] == "web"
			for name in ("relayed", "redirected", "handed", "waiting"):
			    want[f'sluice_service_connections{{service="web",path="{name}"}}'] = \
			        service["conns"][name]
			for what in ("bytes", "messages"):
			    for path in ("sluiced", "kernel"):
			        for to in ("backends", "clients"):
			            want[f'sluice_service_{what}_total{{service="web",'
			                 f'path="{path}",to="{to}"}}'] = \
			                service[path][what][f"to_{to}"]
			want['sluice_service_backends{service="web"}'] = service["backends"]
			want['sluice_service_backends_up{service="web"}'] = service["backends_up"]
			want['sluice_service_accepted_total{service="web"}'] = service["accepted"]
			want['sluice_service_refused_total{service="web"}'] = service["refused"]
			differ = {name: (values.get(name), value)
			          for name, value in want.items() if values.get(name) != value}
			if differ or service["conns"]["relayed"] or values["sluice_endpoints"]:
			    print(differ, service)
			    sys.exit(1)
			# nothing is left out, but what status does not show
			rest = {name.split("{")[0] for name in set(values) - set(want)}
			assert rest == {"sluice_build_info", "sluice_clients",
			                "sluice_orphans"}, rest
			steered = sum(counts[f"steered_{name}"]
			              for name in ("inline", "small", "medium", "large", "slots"))
			spilled = sum(counts[name] for name in reasons)
			assert counts["steered_inline"] and counts["steered_small"], counts
			# what came before the attachment is in no count
			assert steered + spilled <= int(open("sent").read()), counts
			assert service["sluiced"]["bytes"] == {"to_backends": 6, "to_clients": 6}
		END
	}
	until_true ended >ended.out 2>&1 || {
		tail -20 ended.out
		return 1
	}
	rm ended.out
	rm -f status.json text steered.out name sent
	true # bash would exec what is last, and forget the trap
}

answers_http()
{
	start
	scrape metrics >/dev/null
	scrape '' | grep -q '^sluice_endpoints 0$'
	test "$(status 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n')" = 200
	test "$(status 'GET / HTTP/1.0\n\n')" = 200
	test "$(status 'GET /metric HTTP/1.0\r\n\r\n')" = 404
	test "$(status 'GET /metrics/x HTTP/1.0\r\n\r\n')" = 404
	test "$(status 'POST /metrics HTTP/1.0\r\n\r\n')" = 405
	test "$(status 'GET /metrics\r\n\r\n')" = 400
	test "$(status 'GET metrics HTTP/1.0\r\n\r\n')" = 400
	test "$(status 'nonsense\n\n')" = 400
	test "$(status '\n\n')" = 400
	test "$(status 'GET /\0 HTTP/1.0\r\n\r\n')" = 400
	test "$(status "GET /$(printf 'x%.0s' {1..5000})")" = 431
	# ends before its request does: no answer
	test -z "$(status 'GET /metrics HT')"
	true
}

# Clients that say nothing, byte by byte, that do not read, and too many of them.
hostile_clients_delay_nobody()
{
	start
	python3 - "$METRICS" "$daemon_pid" <<-'END'
		import os, socket, sys, time

		def connect():
		    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
		    s.connect(sys.argv[1])
		    s.settimeout(30)  # with one, connect() would not wait for room
		    return s

		def scrape(s):
		    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
		    answer = b""
		    while True:
		        part = s.recv(65536)
		        if not part:
		            return answer
		        answer += part

		def fds():
		    return len(os.listdir(f"/proc/{sys.argv[2]}/fd"))

		def gone(s):
		    """Cut off without an answer, by EOF or a reset."""
		    try:
		        return s.recv(100) == b""
		    except ConnectionResetError:
		        return True

		before = fds()
		# 16 places: the oldest makes room, and those that ask get their answer
		silent = [connect() for _ in range(64)]
		assert scrape(connect()).startswith(b"HTTP/1.0 200 OK")
		assert all(gone(s) for s in silent[:49])
		assert fds() <= before + 16
		# a byte now and then buys no time
		slow = silent[-1]
		start = time.monotonic()
		while True:
		    try:
		        slow.send(b"x")
		    except (BrokenPipeError, ConnectionResetError):
		        break
		    assert time.monotonic() - start < 60
		    time.sleep(0.1)
		assert all(gone(s) for s in silent[49:-1])
		# who asks and goes, and who asks and does not read
		for _ in range(200):
		    s = connect()
		    s.send(b"GET / HTTP/1.0\r\n\r\n")
		    s.close()
		deaf = [connect() for _ in range(16)]
		for s in deaf:
		    s.send(b"GET / HTTP/1.0\r\n\r\n")
		# fds do not come along
		with open("/dev/null") as null:
		    s = connect()
		    try:
		        socket.send_fds(s, [b"GET / HTTP/1.0\r\n\r\n"], [null.fileno()] * 8)
		    except PermissionError:
		        pass
		    s.close()
		assert scrape(connect()).startswith(b"HTTP/1.0 200 OK")
		for s in deaf:
		    s.close()
		while fds() > before:
		    assert time.monotonic() - start < 60
		    time.sleep(0.02)
	END
	timeout 30 sluicectl status --control "$CONTROL" --pins "$PINS" >/dev/null
	kill -0 "$daemon_pid"
}

# A reader never sees half a file.
file_is_replaced_whole()
{
	start "file = $PROM" 'interval_seconds = 1'
	test "$(stat -c %a "$PROM")" = 644
	python3 - "$PROM" <<-'END'
		import os, sys

		seen = set()
		while len(seen) < 3:
		    with open(sys.argv[1], encoding="utf-8") as file:
		        seen.add(os.fstat(file.fileno()).st_mtime_ns)
		        text = file.read()
		    assert text.startswith("# HELP sluice_build_info"), text
		    assert "sluice_lost_pieces_total 0\n" in text, text
	END
	test ! -e "$PROM.new"
	daemon_stop
	test ! -e "$PROM"
	test ! -e "$METRICS"
}

# At a reload it moves; where it cannot be written sluiced says so, once, and goes on.
file_moves()
{
	printf '[metrics]\nfile = %s\n' "$PROM" >conf
	daemon_start --unload --config "$PWD/conf"
	test -e "$PROM"
	printf '[metrics]\nfile = %s\ninterval_seconds = 1\n' "$PWD/none/x" >conf
	kill -HUP "$daemon_pid"
	daemon_says "$PWD/none/x: cannot write metrics: No such file or directory"
	test ! -e "$PROM"
	# no link is followed
	ln -s "$PWD/target" other.new
	printf '[metrics]\nfile = %s\nsocket = %s\n' "$PWD/other" "$METRICS" >conf
	kill -HUP "$daemon_pid"
	daemon_says 'change at the next start only'
	until_true test -e other
	test ! -e target
	test ! -e "$METRICS"
	test "$(grep -c 'cannot write metrics' "$LOG")" = 1
	daemon_stop
	test ! -e other
	rm conf
}

bad_configuration()
{
	local line

	for line in 'socket = metrics' 'file = x' 'mode = 999' 'mode = 01000' \
		'interval_seconds = 0' 'interval_seconds = 3601' \
		'interval_seconds = x' "socket = /$(printf 'x%.0s' {1..200})" \
		'port = 1'; do
		printf '[metrics]\n%s\n' "${line:0:190}" >conf
		tap_says 2 'conf:2: ' sluiced --check-config -c "$PWD/conf"
	done
	rm conf
}

# A path that is taken is an error in the log, and steering goes on without.
socket_is_taken()
{
	: >"$METRICS"
	start
	daemon_says "$METRICS: no metrics: File exists"
	timeout 30 sluicectl status --control "$CONTROL" --pins "$PINS" >/dev/null
	daemon_stop
	test -f "$METRICS"
	rm "$METRICS"
}

mode_of_the_socket()
{
	start 'mode = 0640'
	test "$(stat -c %a "$METRICS")" = 640
}

tap_case 'promtool is content' promtool_is_content
tap_case 'served, documented, in the dashboard' names_agree
tap_case 'values are those of sluicectl status' values_are_those_of_status
tap_case 'HTTP' answers_http
tap_case 'hostile clients delay nobody' hostile_clients_delay_nobody
tap_case 'the file is replaced whole' file_is_replaced_whole
tap_case 'the file moves' file_moves
tap_case 'a bad configuration' bad_configuration
tap_case 'the path is taken' socket_is_taken
tap_case 'the mode of the socket' mode_of_the_socket
tap_done
