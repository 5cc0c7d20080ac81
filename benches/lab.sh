#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the benchmarks of benches/lab against the library in build/ and runs them on a kernel
# of the lab, under emulation: only the ratios mean anything.
#
# usage: lab.sh [VARIANT]    (default 6.12)

set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
library=$top/build/libvfiomig.so.0
out=$top/build/benches/lab
mkdir -p "$out/tests" "$out/lib"
cp -L "$library" "$out/lib/libvfiomig.so.0"
for name in dirty-sync region-pump; do
	# shellcheck disable=SC2016  # $ORIGIN is the loader's
	"${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -I"$top/include" -I"$top/benches" -I"$top/c-tests/lab" \
		-o "$out/tests/$name.test" "$top/benches/lab/$name.c" "$top/c-tests/lab/lab-common.c" \
		"$out/lib/libvfiomig.so.0" '-Wl,-rpath,$ORIGIN/../lib'
	printf 'BOOTS=1\nTIMEOUT=1800\n' >"$out/tests/$name.conf"
done
if ! "$top/lab/run.sh" --no-sanity --boots 1 --programs "$out" "${1:-6.12}" >"$out/log" 2>&1; then
	cat "$out/log" >&2
	exit 1
fi
sed -n 's/^ *| \(bench \)/\1/p' "$out/log"
