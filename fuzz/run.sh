#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs each fuzz target for FUZZ_SECONDS (default 60). Needs a nightly compiler and cargo-fuzz
# (cargo install cargo-fuzz).
set -eu
cd "$(dirname "$0")"
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: cargo-fuzz is not installed: cargo install cargo-fuzz" >&2
    exit 1
fi
passed=0
for target in decode load qemu; do
    cargo +nightly fuzz run --fuzz-dir . "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" \
        -max_len=8192 -timeout=10
    passed=$((passed + 1))
done
echo "$passed passed, 0 failed"
