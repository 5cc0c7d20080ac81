#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Compares two QEMUs in one boot of the lab's machine: one test device with a state of 256 MiB,
# plain, with pre-copy and with multifd. Nothing else should run on the host in the meantime. A
# line each:
#
#   bench qemu-MEASURE/VARIANT ours=MEDIAN baseline=MEDIAN ratio=... (min ... max ...)
#
# usage: bench.sh [DIR]
#
# QEMU_A (ours) and QEMU_B (baseline) in the environment: BUILD or
# BUILD,PROPERTY=VALUE... with a BUILD of programs.sh. Default: the patched one
# against the unpatched. stock for both shows how much of a difference is
# noise.
# QEMU_CASES='WORD...': only measurements with one of these in their names.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=lab/common.sh
. "$top/lab/common.sh"

dir=${1:-$top/build/qemu}
mkdir -p "$dir"
strace=$(command -v strace) || lab_die "strace is not installed (package strace)"
# Where a patched QEMU finds the library, and boot.sh with it.
export LD_LIBRARY_PATH=$top/build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
QEMU_PEERS='' "$here/programs.sh" "$dir/bench" bench
cp "$strace" "$dir/bench/"
printf 'export QEMU_A="%s" QEMU_B="%s"\n' "${QEMU_A-patched,x-vfiomig=on}" \
	"${QEMU_B-stock}" >>"$dir/bench/lab.conf"
# Memory that the machine touches for the first time would be slow.
export LAB_QEMU_ARGS="-mem-prealloc ${LAB_QEMU_ARGS-}"
"$top/lab/boot.sh" 6.12 --memory 3072 --timeout 2400 --test-timeout 2300 \
	--share "$dir/bench-results" -- "$dir/bench"
out=$dir/bench-results/out
sed -n 's/^| bench /bench /p' "$out/bench.out"
if [ "$(cat "$out/bench.status")" != 0 ]; then
	grep '^not ok' "$out/bench.out" >&2 || tail -n 5 "$out/bench.err" >&2
	lab_die "the comparison failed; see $out"
fi
