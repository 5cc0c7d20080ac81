# shellcheck shell=sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Sourced by tests that are scripts, with their name in $group: a line for each check, and counts of
# those that passed and of those that failed.

passed=0 failed=0

# A failure, whether or not anything says why: bad NAME what-is-wrong
bad() {
	# shellcheck disable=SC2154 # set by who sources this
	echo "not ok $group $1:"
	printf '%s\n' "$2" | sed 's/^/    | /'
	failed=$((failed + 1))
}

# A failure if there is something wrong: verdict NAME what-is-wrong
verdict() {
	if [ -n "$2" ]; then
		bad "$1" "$2"
	else
		echo "ok $group $1"
		passed=$((passed + 1))
	fi
}
