#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# `cargo test` with one closing line over all of its programs.
#
# usage: [NAME=check-rust] rust-tests.sh ARGUMENTS-OF-CARGO-TEST...

set -u
NAME=${NAME:-check-rust}
out=$(mktemp)
trap 'rm -f "$out"' EXIT

{
	${CARGO:-cargo} test --no-fail-fast --all-features "$@" 2>&1
	echo "status $?"
} | tee "$out" | grep -vE '^(status |test .* ok$|running 0 tests|$)|; 0 measured; [0-9]+ filtered out.* 0 passed|^test result: ok. 0 passed'
awk -v name="$NAME" '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
	/^status / { status = $2 }
	END {
		printf "%s: %d passed, %d failed", name, passed, failed
		if (ignored) printf ", %d ignored", ignored
		print ""
		exit !(status == 0 && failed == 0 && passed > 0)
	}' "$out"
