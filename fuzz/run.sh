#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Runs each fuzz target under libFuzzer, with the address sanitizer, for FUZZ_SECONDS (default
# 60), and prints how many inputs it tried and whether one crashed. What is found is kept in build/fuzz and tried first the next time; the corpora in the
# tree are not touched. Needs a C++ compiler, and a nightly toolchain, or any other, which is
# then told to accept unstable flags.
#
# usage: run.sh [TARGET...]       FUZZ_JOBS=N: N processes for each target

set -eu
cd "$(dirname "$0")"
out=${B:-$PWD/../build}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

cargo=${CARGO:-cargo}
if rustc +nightly --version >/dev/null 2>&1; then
	cargo="$cargo +nightly"
else
	export RUSTC_BOOTSTRAP=1
fi

# What cargo-fuzz does. If a target is named, build scripts are not built this way.
flags='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
	-Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1'
RUSTFLAGS=$(printf '%s' "$flags" | tr '\n\t' '  ') \
	$cargo build --release --manifest-path libfuzzer/Cargo.toml --target "$host" --target-dir "$out/target"
program=$out/target/$host/release/vfiomig-libfuzzer

# A target is a row of TARGETS.
known=$(sed -n 's/.*Target { name: "\([a-z-]*\)".*/\1/p' src/lib.rs)
[ -n "$known" ] || { echo "fuzz: no targets in src/lib.rs" >&2; exit 1; }
targets=$*
[ -n "$targets" ] || targets=$known
seconds=${FUZZ_SECONDS:-60}
mkdir -p "$out/log"

# become_fuzzer TARGET: what it prints goes to its log.
become_fuzzer() {
	mkdir -p "$out/corpus/$1" "$out/found/$1"
	seeds=$PWD/corpus/$1
	cd "$out"
	# A session that lives on in a callback leaks by design of the test, not of the library; the
	# C tests check for leaks instead. The target itself ends at its own, lower cap of memory
	# (src/memory.rs): these also count what the kernel maps, and the sanitizer's own.
	export VFIOMIG_FUZZ_TARGET="$1" ASAN_OPTIONS=detect_leaks=0
	exec "$program" -max_total_time="$seconds" -max_len=4096 -timeout=20 \
		-rss_limit_mb=2048 -malloc_limit_mb=64 \
		-print_final_stats=1 -artifact_prefix="$out/found/$1/" ${FUZZ_JOBS:+-fork=$FUZZ_JOBS} \
		"$out/corpus/$1" "$seeds" >"$out/log/$1" 2>&1
}

# executions LOG: with several processes there are no final statistics, but a count in each line.
executions() {
	awk '/^stat::number_of_executed_units:/ { n = $2 }
		/^#[0-9]+:? / && !n { at = $1; gsub(/[#:]/, "", at); if (at + 0 > most) most = at + 0 }
		END { print n ? n : most + 0 }' "$1"
}

# As many at a time as there are processors.
lanes=$(nproc)
[ -z "${FUZZ_JOBS:-}" ] || lanes=1
running=0 pids=''
passed=0 failed=0
stop_all() {
	for job in $pids; do
		kill "${job%%:*}" 2>/dev/null || :
	done
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
wait_for_first() {
	# shellcheck disable=SC2086 # words
	set -- $pids
	pid=${1%%:*} ended=${1#*:}
	shift
	pids=$*
	if wait "$pid"; then
		passed=$((passed + 1)) crashes=0
	else
		failed=$((failed + 1)) crashes=1
		tail -n 40 "$out/log/$ended"
		echo "fuzz: $ended found something: see $out/found/$ended and $out/log/$ended;" \
			"again: fuzz-smoke --input FILE $ended"
	fi
	echo "fuzz: $ended: $(executions "$out/log/$ended") executions in $seconds s, $crashes crashes"
	running=$((running - 1))
}
for target in $targets; do
	case " $(echo "$known" | tr '\n' ' ') " in
	*" $target "*) ;;
	*) echo "fuzz: $target is not a target: $known" >&2; exit 2 ;;
	esac
	[ "$running" -lt "$lanes" ] || wait_for_first
	become_fuzzer "$target" &
	pids="$pids $!:$target" running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
	wait_for_first
done
echo "fuzz: $passed passed, $failed failed"
[ "$failed" = 0 ]
