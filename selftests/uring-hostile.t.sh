#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The same hostile peers against conns on a ring of the application's: whatever a
# frame or slot gets wrong, it must be found there too. Limit: 600 s

. "${0%/*}/tap.sh"

on_ring()
{
	SLUICE_RING=1 "$SLUICE_BUILD/selftests/$1" >out 2>&1 || {
		grep -v '^ok' out
		rm out
		return 1
	}
	rm out
}

for t in frame slot end memory control; do
	tap_case "hostile-$t" on_ring "hostile-$t"
done
tap_done
