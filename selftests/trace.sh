# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# shellcheck shell=bash
#
# What trace.t.sh and sluicectl-trace.t.sh share: traffic of known numbers, and
# whether a log of it, by flow.bt or sluicectl trace, agrees. After daemon.sh; $OUT is a
# directory, and traffic wants a sluiced and SLUICE_CONTROL.

TOOL=$SLUICE_BUILD/selftests/trace-tool
OUT=$TMPDIR/out

# value RUN NAME: a number that trace-tool printed.
value()
{
	tr ' ' '\n' <"$OUT/run-$1" | sed -n "s/^$2=//p"
}

# same WHAT GOT WANTED
same()
{
	test "$2" = "$3" || {
		echo "$1: $2, not $3"
		return 1
	}
}

# Of all runs together.
total()
{
	local run sum=0

	for run in direct queued steered plain; do
		sum=$((sum + $(value "$run" "$1")))
	done
	echo "$sum"
}

# In every lane.
traffic()
{
	"$TOOL" direct 300 4096 0 >"$OUT/run-direct"
	"$TOOL" queued 100 32 0 >"$OUT/run-queued"
	"$TOOL" steered 100 256 2 >"$OUT/run-steered"
	"$TOOL" plain 60 200 3 >"$OUT/run-plain"
	head "$OUT"/run-*
	# the plan is carried out
	test "$(value direct refused)" -gt 0
	test "$(value plain steered)" -gt 0
	test "$(value plain spilled)" -gt 0
	test "$(value steered steered)" -gt 0
}

# lines LOG RUN SENDER LANE: to the run's receiver.
lines()
{
	grep -cE "^[0-9]+ +$3 +(trace-tool|-) +$(value "$2" receiver) +trace-tool +$4 " \
		"$1"
}

# log_has_a_line_for_each_message LOG: and the right ones.
log_has_a_line_for_each_message()
{
	local log=$1 run sender

	same 'lines' "$(grep -c ' trace-tool ' "$log")" "$(total messages)"
	same direct "$(lines "$log" direct "$(value direct sender)" direct)" 300
	same queued "$(lines "$log" queued "$(value queued sender)" queued)" 100
	same steered "$(lines "$log" steered "$(value steered sender)" steered)" \
		"$(value steered steered)"
	same 'plain, steered' "$(lines "$log" plain - steered)" "$(value plain steered)"
	same 'plain, spilled' "$(lines "$log" plain - plain)" \
		$(($(value plain messages) - $(value plain steered)))
	for run in direct queued steered plain; do
		same "bytes, $run" "$(awk -v r="$(value "$run" receiver)" \
			'$4 == r { n += $7 } END { print n }' "$log")" \
			"$(value "$run" bytes)"
	done
	# tags and numbers count from 0; an age wherever there is a sender
	sender=$(value direct sender)
	same tags "$(awk -v s="$sender" '$2 == s { print $8 }' "$log" |
		tr '\n' ' ')" "$(seq 0 299 | xargs printf '%x ')"
	same numbers "$(awk -v s="$sender" '$2 == s { print $9 }' "$log" |
		tr '\n' ' ')" "$(seq 0 299 | xargs printf '%d ')"
	same ages "$(grep -cE ' [0-9]+\.[0-9]{3}$' "$log")" \
		"$(grep -cE '^[0-9]+ +[0-9]+ ' "$log")"
	same 'ages of plain ones' "$(grep -cE ' -$' "$log")" \
		"$(value plain messages)"
}
