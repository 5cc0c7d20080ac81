#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The demo with everything going wrong that it knows: each must end with the guest where it
# belongs.
#
# usage: failures.sh DEMO

set -u
demo=$1
out=$(mktemp)
trap 'rm -f "$out"' EXIT
passed=0 failed=0

run() { # NAME arguments...
	name=$1
	shift
	if timeout 60 "$demo" --state-size 32M --dirty-rate 8M "$@" >"$out" 2>&1 &&
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
names=$("$demo" --help | awk '/--fail-at WHAT/ { list = 1; next } list { print $1 }' | grep -E '^[a-z]+(-[a-z]+)*$')
for name in $names; do
	run "$name" --fail-at "$name"
done
run no-pre-copy-time --precopy-limit 0
run dirtying-faster-than-sending --read-rate 50M --dirty-rate 200M --precopy-limit 500
run slow-target --write-rate 100M
run one-byte --state-size 1 --dirty-rate 0

# A demo that is content with any outcome would make all of the above worthless.
if timeout 60 "$demo" --state-size 32M --fail-at kill-source --expect source >"$out" 2>&1 ||
	[ "$(tail -n 1 "$out")" != 'demo: FAILED' ]; then
	failed=$((failed + 1))
	echo "not ok demo a-wrong-outcome-is-noticed: it was not"
else
	passed=$((passed + 1))
	echo "ok demo a-wrong-outcome-is-noticed"
fi
echo "demo: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 10 ]
