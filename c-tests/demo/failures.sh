#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The demo with everything going wrong that it knows: the guest must end where it belongs.
#
# usage: failures.sh DEMO

set -u
demo=$1
# What was built for another machine runs in an emulator.
wrap=${EMULATOR-}
# For what hangs; the demo itself gives up earlier.
limit=600
out=$(mktemp)
trap 'rm -f "$out"' EXIT
passed=0 failed=0

run() { # NAME arguments...
	name=$1
	shift
	# shellcheck disable=SC2086 # words
	if timeout "$limit" $wrap "$demo" --state-size 32M --dirty-rate 8M "$@" >"$out" 2>&1 &&
		tail -n 1 "$out" | grep -q '^demo: verified: '; then
		passed=$((passed + 1))
		echo "ok demo $name"
	else
		failed=$((failed + 1))
		echo "not ok demo $name: exit status or last line is wrong"
		sed 's/^/    | /' "$out"
	fi
}

run nothing
# shellcheck disable=SC2086 # words
names=$($wrap "$demo" --help | awk '/--fail-at WHAT/ { list = 1; next } list { print $1 }' | grep -E '^[a-z]+(-[a-z]+)*$')
for name in $names; do
	case $name in
	# These happen in the middle of pre-copy, which must last until then.
	guest-reset | log-forgets) run "$name" --fail-at "$name" --precopy-limit 300000 ;;
	*) run "$name" --fail-at "$name" ;;
	esac
done
run no-pre-copy-time --precopy-limit 0
run dirtying-faster-than-sending --read-rate 50M --dirty-rate 200M --precopy-limit 500
run slow-target --write-rate 100M
run one-byte --state-size 1 --dirty-rate 0
run memory-dirtying-faster-than-sending --memory-rate 2G --dma-rate 400M --precopy-limit 500
run memory-at-rest --memory-rate 0 --dma-rate 0
run one-page --memory-size 64K
run no-memory --memory-size 0

# If a demo accepted any outcome, all of the above would be worthless.
must_fail() { # NAME WHY arguments...
	name=$1
	why=$2
	shift 2
	# shellcheck disable=SC2086 # words
	if timeout "$limit" $wrap "$demo" --state-size 32M --dirty-rate 8M "$@" >"$out" 2>&1 ||
		[ "$(tail -n 1 "$out")" != 'demo: FAILED' ] || ! grep -q "$why" "$out"; then
		failed=$((failed + 1))
		echo "not ok demo $name: it was not"
		sed 's/^/    | /' "$out"
	else
		passed=$((passed + 1))
		echo "ok demo $name"
	fi
}

must_fail a-wrong-outcome-is-noticed 'it should run on the source' --fail-at kill-source --expect source
must_fail pages-that-are-missing-are-noticed 'the memory differs' --skip-last-collect
echo "demo: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 10 ]
