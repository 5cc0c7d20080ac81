#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Runs groups of tests one after another, stops at the first that fails, and ends with the
# closing line of each. Called by `make check`.
#
# usage: check.sh GROUP...        each a target of the Makefile

set -u
B=${B:-build}
MAKE=${MAKE:-make}

scripts/deps.sh || exit 1
mkdir -p "$B/check"
: >"$B/check/summary"
began=$(date +%s)
for group in "$@"; do
	echo "== $group"
	start=$(date +%s)
	log=$B/check/$group.log
	# The status of make, not that of tee.
	{
		$MAKE --no-print-directory "$group" 2>&1
		echo $? >"$B/check/status"
	} | tee "$log"
	took=$(($(date +%s) - start))
	if [ "$(cat "$B/check/status")" != 0 ]; then
		echo
		echo "check: FAILED in $group after $took s; its output is in $log"
		exit 1
	fi
	# Its lines of counts, or its last line if it counts nothing.
	counts=$(grep -E '^([a-z-]+: )?[0-9]+ passed, [0-9]+ failed' "$log" | tr '\n' ';' | sed 's/;$//; s/;/; /g')
	[ -n "$counts" ] || counts=$(grep -v '^make' "$log" | tail -n 1)
	printf '%4d s  %-22s  %s\n' "$took" "$group" "$counts" >>"$B/check/summary"
done
echo
cat "$B/check/summary"
echo "check: $# groups passed in $(($(date +%s) - began)) s"
