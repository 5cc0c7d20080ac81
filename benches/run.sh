#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds the benchmarks against the library in build/ and runs them: one line per measure,
# bench NAME[/VARIANT] ours=… baseline=… ratio=… (min … max …)
set -eu
cd "$(dirname "$0")/.."
out=build/benches
mkdir -p "$out"
names='pump region-pump heap calls dirty checkpoint group'
for name in $names; do
    "${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -Iinclude -Isim/include -Ibenches -o "$out/$name" "benches/$name.c" \
        -Lbuild -lvfiomig -lvfiomig-sim -pthread -Wl,-rpath,"\$ORIGIN/.."
done
for name in $names; do
    "$out/$name"
done
# The hash alone, which is not a part of the C API.
"${CARGO:-cargo}" bench --quiet --bench blake3 --no-run
# Before others, as the rest is (bench.h), if that is allowed.
chrt=$(command -v chrt) && chrt -f 1 true 2>/dev/null && chrt="$chrt -f 1" || chrt=
# shellcheck disable=SC2086 # words
$chrt "${CARGO:-cargo}" bench --quiet --bench blake3
# A stream in a file, inspected, and how much memory that takes.
"${CARGO:-cargo}" bench --quiet --bench inspect --no-run
VFIOMIG_TOOL=$PWD/build/vfiomig
export VFIOMIG_TOOL
# shellcheck disable=SC2086 # words
$chrt "${CARGO:-cargo}" bench --quiet --bench inspect
# Downtimes, predicted and measured.
"${CARGO:-cargo}" bench --quiet --bench prediction --no-run
# shellcheck disable=SC2086 # words
$chrt "${CARGO:-cargo}" bench --quiet --bench prediction
# In a machine of the lab: dirty-sync-lab, region-pump with what is mapped.
benches/lab.sh
