#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Runs test programs, as many at a time as there are CPUs, and ends with a line of counts.
#
# usage: run.sh [--valgrind] GROUP PROGRAM...
#
# EMULATOR in the environment runs the programs. V=1 shows every test's line, not only those
# that failed.

set -u
# What was built for another machine runs in an emulator, and takes its time.
wrap=${EMULATOR-} limit=300
[ -z "$wrap" ] || limit=1200
if [ "$1" = --valgrind ]; then
	shift
	limit=600
	# Handles are numbers, and the library frees what is behind them. What is "still reachable"
	# at the end is its table of slots, which is not a leak.
	wrap='valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect
		--errors-for-leak-kinds=definite,indirect --num-callers=30 --child-silent-after-fork=yes --fair-sched=yes'
	VFIOMIG_TEST_SLOW=1
	export VFIOMIG_TEST_SLOW
fi
group=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
programs=0 passed=0 failed=0

# Each leaves its output and its status in files of its own name.
export dir limit wrap
# shellcheck disable=SC2016 # for the shells that are started
printf '%s\n' "$@" | xargs -P "$(nproc)" -I '{}' sh -c '
	out=$dir/$(basename "$1")
	timeout "$limit" $wrap "$1" >"$out" 2>&1
	echo $? >"$out.status"' sh '{}'

for program in "$@"; do
	name=$(basename "$program")
	out=$dir/$name
	status=$(cat "$out.status" 2>/dev/null || echo 'none, it was not run')
	ok=$(grep -c '^ok ' "$out")
	bad=$(grep -c '^not ok ' "$out")
	why=
	if [ "$bad" -gt 0 ]; then
		why="$bad of its tests failed"
	elif [ "$status" != 0 ]; then
		why="exit status $status"
	elif [ "$ok" -eq 0 ]; then
		why='no test ran'
	elif ! grep -qE '^[1-9][0-9]* passed, 0 failed$' "$out"; then
		why='no line of counts at its end'
	else
		# A line may stand for many checks.
		ok=$(sed -n 's/^\([0-9]*\) passed, 0 failed$/\1/p' "$out")
	fi
	programs=$((programs + 1)) passed=$((passed + ok)) failed=$((failed + bad))
	if [ -n "$why" ]; then
		[ "$bad" -gt 0 ] || failed=$((failed + 1))
		echo "not ok $name: $why"
		sed 's/^/    | /' "$out"
	else
		# What a test has measured.
		sed -n 's/^# //p' "$out"
		[ "${V-}" != 1 ] || sed "s/^ok /ok $name /" "$out" | grep '^ok '
	fi
done
echo "$group: $passed passed, $failed failed, in $programs programs"
[ $failed -eq 0 ] && [ $programs -gt 0 ] && [ $passed -gt 0 ]
