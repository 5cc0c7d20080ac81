#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The library's own tests under Miri. Tests that make system calls of the kernel are left out
# with `#[cfg_attr(miri, ignore)]`; property tests run fewer cases.

set -eu
MIRIFLAGS="${MIRIFLAGS:--Zmiri-disable-isolation}" PROPTEST_CASES="${PROPTEST_CASES:-4}" \
	${CARGO:-cargo} miri test --package vfiomig --lib
echo "check-miri: passed"
