#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Runs each fuzz target under libFuzzer, with the address sanitizer, for FUZZ_SECONDS (default
# 60). What is found is kept in build/fuzz and tried first the next time; the corpora in the
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

targets=$*
[ -n "$targets" ] || targets='calls roundtrip dirty decode load qemu'
passed=0 failed=0
for target in $targets; do
	mkdir -p "$out/corpus/$target" "$out/found/$target"
	echo "== $target"
	# A session that lives on in a callback leaks by design of the test, not of the library; the
	# C tests check for leaks instead.
	if (cd "$out" && VFIOMIG_FUZZ_TARGET=$target ASAN_OPTIONS=detect_leaks=0 \
		"$program" -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -timeout=20 \
		-print_final_stats=1 -artifact_prefix="$out/found/$target/" ${FUZZ_JOBS:+-fork=$FUZZ_JOBS} \
		"$out/corpus/$target" "$OLDPWD/corpus/$target"); then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "fuzz: $target found something: see $out/found/$target; again: fuzz-smoke --input FILE $target"
	fi
done
echo "fuzz: $passed passed, $failed failed"
[ "$failed" = 0 ]
