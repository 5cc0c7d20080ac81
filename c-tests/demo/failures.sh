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
trap 'rm -f "$out" "$out".measures.*' EXIT
passed=0 failed=0
common='--state-size 32M'

run() { # NAME arguments...
	name=$1
	shift
	# shellcheck disable=SC2086 # words
	if timeout "$limit" $wrap "$demo" --dirty-rate 8M $common "$@" >"$out" 2>&1 &&
		tail -n 1 "$out" | grep -q '^demo: verified: '; then
		passed=$((passed + 1))
		echo "ok demo $name"
	else
		failed=$((failed + 1))
		echo "not ok demo $name: exit status or last line is wrong"
		sed 's/^/    | /' "$out"
	fi
}

# A right outcome is not enough if something else went wrong than what should have.
said() { # NAME WHAT
	if grep -q "$2" "$out"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "not ok demo $1: it does not say '$2'"
		sed 's/^/    | /' "$out"
	fi
}

run nothing
run kill-target --fail-at kill-target
run target-run --fail-at target-run

# With several devices it is the last one that fails.
common='--state-size 8M --devices 3 --channels 2'
# shellcheck disable=SC2086 # words
names=$($wrap "$demo" --help | awk '/--fail-at WHAT/ { list = 1; next } list { print $1 }' | grep -E '^[a-z]+(-[a-z]+)*$')
for failure in nothing $names; do
	case $failure in
	# These happen in the middle of pre-copy, which must last until then.
	guest-reset | log-forgets | cut-* | *cancel) run "several-$failure" --fail-at "$failure" --precopy-limit 300000 ;;
	*) run "several-$failure" --fail-at "$failure" ;;
	esac
	case $failure in
	source-read | source-quiesce | source-stop | source-drain) said "$failure" '^source: vfiomig_.*device 2: ' ;;
	target-begin | target-write | target-commit | target-run) said "$failure" '^target: vfiomig_.*device 2: ' ;;
	cut-channel) said "$failure" 'channel [01]: ' ;;
	cut-memory) said "$failure" '^source: sending memory failed' ;;
	corrupt | cancel | other-device) said "$failure" '^target: .*\|^source: .*cancel' ;;
	kill-target | kill-target-late) said "$failure" 'the target was killed by signal 9' ;;
	kill-source | kill-source-early) said "$failure" 'the source was killed by signal 9' ;;
	esac
done
# What one migration measures, the next one predicts.
run remembers --remember "$out.measures"
said remembers 'commit  *not known yet'
run recalls --remember "$out.measures" --bars
said recalls 'commit  *[0-9.]* ms'
said recalls 'device 2  \['

common='--state-size 32M'
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
	if timeout "$limit" $wrap "$demo" --dirty-rate 8M $common "$@" >"$out" 2>&1 ||
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
