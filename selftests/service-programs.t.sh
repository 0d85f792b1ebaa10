#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Programs that know nothing of sluice, through services: curl and socat as clients,
# nginx and Python's http.server as servers; and an aware HTTP server. What arrives
# is compared by its checksum. SLUICE_LONG=1: 1 GiB through each, instead of 16 MiB.
#
# Limit: 600 s
set -u
. "${0%/*}/tap.sh"
. "$SOURCE/selftests/daemon.sh"

MIB=16
test -z "${SLUICE_LONG-}" || MIB=1024
for tool in curl socat nginx python3; do
	command -v "$tool" >/dev/null || tap_skip_all "no $tool here"
done
daemon_init "$@"

# service TYPE LINE...: sluiced with one service, "s", at $TMPDIR/s
service()
{
	local type=$1

	shift
	printf '%s\n' '[service s]' "listen = $TMPDIR/s" "type = $type" "$@" \
		>"$TMPDIR/conf"
	daemon_start --unload --config "$TMPDIR/conf"
	trap finish EXIT
}

servers=()
finish()
{
	local pid

	for pid in "${servers[@]}"; do
		kill "$pid" 2>/dev/null || :
		wait "$pid" || :
	done
	daemon_stop
	rm -rf "$TMPDIR"/{conf,root,nginx,b0,b1,got,sent,out}
	! test -e "$TMPDIR/s"
}

# until COMMAND...: within 60 s
soon()
{
	local until=$((SECONDS + 60))

	until "$@" >/dev/null 2>&1; do
		test "$SECONDS" -lt "$until" || return 1
		sleep 0.05
	done
}

content()
{
	mkdir -p "$TMPDIR/root"
	head -c "${MIB}M" /dev/urandom >"$TMPDIR/root/file"
	sum=$(sha256sum <"$TMPDIR/root/file")
}

nginx_start()
{
	mkdir -p "$TMPDIR/nginx"
	cat >"$TMPDIR/nginx/conf" <<-EOF
		daemon off; user root; pid $TMPDIR/nginx/pid;
		error_log $TMPDIR/nginx/log; worker_processes 1;
		events { }
		http {
			access_log off; client_body_temp_path $TMPDIR/nginx/b;
			proxy_temp_path $TMPDIR/nginx/p; fastcgi_temp_path $TMPDIR/nginx/f;
			uwsgi_temp_path $TMPDIR/nginx/u; scgi_temp_path $TMPDIR/nginx/s;
			server {
				listen unix:$TMPDIR/b0; root $TMPDIR/root;
			}
		}
	EOF
	nginx -p "$TMPDIR/nginx" -c "$TMPDIR/nginx/conf" &
	servers+=($!)
}

python_start()
{
	python3 - "$TMPDIR/b1" "$TMPDIR/root" <<-'EOF' &
		import functools, http.server, socketserver, sys

		class Handler(http.server.SimpleHTTPRequestHandler):
		    def address_string(self):
		        return "client"
		    def log_message(self, *args):
		        pass

		class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
		    daemon_threads = True

		handler = functools.partial(Handler, directory=sys.argv[2])
		Server(sys.argv[1], handler).serve_forever()
	EOF
	servers+=($!)
}

get()
{
	curl -sS --max-time $((100 + MIB)) --unix-socket "$TMPDIR/s" "$@"
}

# status EXPRESSION: of the service s, in Python
status()
{
	sluicectl status --json --interval 0 --control "$CONTROL" --pins "$PINS" |
		python3 -c 'import json, sys
(s,) = json.load(sys.stdin)["services"]
print(s)
sys.exit(not eval(sys.argv[1]))' "$1"
}

files_match()
{
	content
	"$1"_start
	soon status 's["backends_up"] == 1'
	for _ in 1 2 3; do
		test "$(get http://x/file | sha256sum)" = "$sum"
	done
	get -o /dev/null -w '%{http_code}' http://x/nothing | grep -q 404
}

plain_servers_relayed()
{
	service stream "backends = $TMPDIR/b0 $TMPDIR/b1"
	files_match "$1"
	status 's["path"] == "relay: a side may half-close"'
	soon status 's["sluiced"]["bytes"]["to_clients"] > 3 * '"$MIB"' << 20'
}

# Not http.server: it calls shutdown() before close(), as half_close = no forbids.
plain_servers_redirected()
{
	service stream "backends = $TMPDIR/b0 $TMPDIR/b1" 'half_close = no'
	status 's["path"] == "redirect"' ||
		tap_skip 'this kernel does not redirect'
	files_match "$1"
	# how much came before a way had moved to the kernel is up to the scheduler
	soon status 's["conns"]["redirected"] == 0'
	until status 's["kernel"]["bytes"]["to_clients"] > 0'; do
		test "$(get http://x/file | sha256sum)" = "$sum"
	done
	status '(s["sluiced"]["bytes"]["to_clients"] +
		s["kernel"]["bytes"]["to_clients"]) > 3 * '"$MIB"' << 20'
}

no_backend()
{
	service stream "backends = $TMPDIR/b0"
	tap_fails get http://x/
	content
	nginx_start
	soon get -o /dev/null http://x/file
	kill "${servers[0]}"
	wait "${servers[0]}" || :
	servers=()
	soon tap_fails get http://x/file
}

aware_server()
{
	local size=$((MIB << 20))

	service stream
	"$SLUICE_BUILD/examples/sluicehttp" s "$CONTROL" &
	servers+=($!)
	soon get -o /dev/null http://x/1
	test "$(get "http://x/$size" | sha256sum)" = \
		"$(head -c "$size" /dev/zero | tr '\0' s | sha256sum)"
	content
	test "$(get -X POST -T "$TMPDIR/root/file" -H 'Expect:' \
		http://x/)" = "$size bytes"
	# its clients' own sockets: sluiced has not seen a byte
	status 's["sluiced"]["bytes"] == {"to_backends": 0, "to_clients": 0}'
}

# socat sends a file and shuts its side down; the server's socat echoes it.
socat_echoes()
{
	local kind=$1 type=$2

	service "$type" "backends = $TMPDIR/b0"
	content
	socat "$kind-LISTEN:$TMPDIR/b0,fork,backlog=64" EXEC:cat &
	servers+=($!)
	soon status 's["backends_up"] == 1'
	for _ in 1 2; do
		timeout $((100 + MIB)) socat -t 60 - "$kind-CONNECT:$TMPDIR/s" \
			<"$TMPDIR/root/file" | sha256sum >"$TMPDIR/got"
		test "$(cat "$TMPDIR/got")" = "$sum"
	done
}

socat_dgram()
{
	service dgram "backends = $TMPDIR/b0"
	content
	socat -u "UNIX-RECV:$TMPDIR/b0" "CREATE:$TMPDIR/out" &
	servers+=($!)
	soon status 's["backends_up"] == 1'
	socat -u "$TMPDIR/root/file" "UNIX-SENDTO:$TMPDIR/s"
	soon cmp "$TMPDIR/root/file" "$TMPDIR/out"
}

# Why a service is not redirected.
path_is()
{
	service "$1" "backends = $TMPDIR/b0" "half_close = $2"
	status 's["path"] == "'"$3"'"'
	sluicectl status --interval 0 --control "$CONTROL" --pins "$PINS" |
		grep -F "$3"
}

# A hundred curls while a backend is killed and comes back: none is lost, for each
# is short, and nginx ends its workers gently.
many_clients()
{
	service stream "backends = $TMPDIR/b0 $TMPDIR/b1"
	content
	head -c 100000 "$TMPDIR/root/file" >"$TMPDIR/root/small"
	sum=$(sha256sum <"$TMPDIR/root/small")
	nginx_start
	python_start
	soon status 's["backends_up"] == 2'
	export -f get
	export TMPDIR MIB
	seq 100 | xargs -P 8 -I{} bash -c \
		'get http://x/small | sha256sum' | sort -u >"$TMPDIR/got"
	test "$(cat "$TMPDIR/got")" = "$sum"
}

tap_case 'nginx, relayed' plain_servers_relayed nginx
tap_case 'http.server, relayed' plain_servers_relayed python
tap_case 'nginx, redirected' plain_servers_redirected nginx
tap_case 'no backend: refused' no_backend
tap_case 'an aware server' aware_server
tap_case 'socat, stream' socat_echoes UNIX stream
tap_case 'socat, dgram' socat_dgram
tap_case 'many clients' many_clients
tap_case 'path: stream' path_is stream yes 'relay: a side may half-close'
tap_case 'path: dgram' path_is dgram no \
	'relay: the kernel would split datagrams'
tap_case 'path: seqpacket' path_is seqpacket no \
	'relay: sockmap takes no seqpacket'
tap_done
