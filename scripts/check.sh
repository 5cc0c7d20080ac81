#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Runs groups of tests one after another, stops at the first that fails, and ends with the
# closing line of each. Called by `make check`.
#
# usage: check.sh [--no-deps] GROUP...        each a target of the Makefile
#
# Those of beside:GROUP,GROUP... begin when their turn comes, and the others go on meanwhile: the lab
# waits for its machines more than it computes. Their output comes at the end.

set -u
B=${B:-build}
MAKE=${MAKE:-make}

# run GROUP: leaves its status, and how long it took.
run() {
	start=$(date +%s)
	$MAKE --no-print-directory "$1" 2>&1
	echo $? >"$B/check/$1.status"
	echo $(($(date +%s) - start)) >"$B/check/$1.took"
}
if [ "${1-}" = --run ]; then
	shift
	for group in "$@"; do
		run "$group" >"$B/check/$group.log"
		[ "$(cat "$B/check/$group.status")" = 0 ] || exit 1
	done
	exit
fi

case ${1-} in
--no-deps) shift ;;
*) scripts/deps.sh || exit 1 ;;
esac
mkdir -p "$B/check"
: >"$B/check/summary"
began=$(date +%s)
lane='' beside='' count=0

# Those beside the others, with everything that they have started.
stop_lane() {
	[ -z "$lane" ] || kill -- "-$lane" 2>/dev/null
	lane=''
}
trap stop_lane EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# judge GROUP: what its log and its status say.
judge() {
	log=$B/check/$1.log
	took=$(cat "$B/check/$1.took")
	if [ "$(cat "$B/check/$1.status")" != 0 ]; then
		echo
		echo "check: FAILED in $1 after $took s; its output is in $log"
		exit 1
	fi
	# Its lines of counts, or its last line if it counts nothing.
	counts=$(grep -E '^([a-z-]+: )?[0-9]+ (passed|of [0-9]+ .*), [0-9]+ failed' "$log" | tr '\n' ';' | sed 's/;$//; s/;/; /g')
	[ -n "$counts" ] || counts=$(grep -v '^make' "$log" | tail -n 1)
	printf '%4d s  %-22s  %s\n' "$took" "$1" "$counts" >>"$B/check/summary"
	count=$((count + 1))
}

for group in "$@"; do
	case $group in
	beside:*)
		beside=$(echo "${group#beside:}" | tr ',' ' ')
		echo "== $beside: beside the others"
		for name in $beside; do
			rm -f "$B/check/$name.status"
		done
		# shellcheck disable=SC2086 # words
		setsid "$0" --run $beside &
		lane=$!
		continue
		;;
	esac
	echo "== $group"
	run "$group" | tee "$B/check/$group.log"
	judge "$group"
done
[ -z "$lane" ] || wait "$lane"
lane=''
for group in $beside; do
	echo "== $group"
	cat "$B/check/$group.log"
	judge "$group"
done
echo
cat "$B/check/summary"
echo "check: $count groups passed in $(($(date +%s) - began)) s"
