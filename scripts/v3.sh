#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The library's own tests, built as distributions build for newer CPUs: optimised and for
# x86-64-v3, where the compiler keeps values in wide registers. This is the only test that
# notices assembly which changes more of them than it declares.

set -eu
if ! { [ "$(uname -m)" = x86_64 ] && grep -qw avx2 /proc/cpuinfo && grep -qw bmi2 /proc/cpuinfo; }; then
	echo "check-v3: skipped: this CPU is older than x86-64-v3"
	exit 0
fi
export RUSTFLAGS="${RUSTFLAGS-} -C target-cpu=x86-64-v3"
# Built in parts and without debug information: it is the widths of registers that count.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/v3"
NAME=check-v3 exec "$(dirname "$0")/rust-tests.sh" --release --package vfiomig --lib
