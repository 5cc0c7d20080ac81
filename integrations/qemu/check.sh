#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Migrates VFIO devices between QEMUs in the lab's machine: who with whom, what
# happens when something fails, and whether dirty pages arrive. Then lets the
# library read and write what the matrix has captured of stock QEMU (streams.sh).
#
# usage: check.sh [DIR [VARIANT...]]
#
#   DIR       for what is put together and for the results (default: build/qemu):
#             DIR/results/VARIANT/boot1/out/*.stream.N are captured migrations
#   VARIANT   kernels (default: 6.12 7.3; only the mtty rows run on others than 6.12)
#
# QEMU_CASES='WORD...' in the environment: only cases with one of these in their
# names. QEMU_RUNS: only these runs (matrix, failures, dirty).

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
dir=${1:-$top/build/qemu}
[ $# -eq 0 ] || shift
variants=("$@")
[ ${#variants[@]} -gt 0 ] || variants=(6.12 7.3)
read -ra runs <<<"${QEMU_RUNS:-matrix failures dirty}"

mkdir -p "$dir"
# Where a patched QEMU finds the library, and boot.sh with it.
export LD_LIBRARY_PATH=$top/build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
"$here/programs.sh" "$dir/programs" "${runs[@]}"
# Two QEMUs with 64 MiB each, their devices' states in buffers, and the programs
# themselves lie in the machine's memory.
rm -rf "$dir/results"
status=0
"$top/lab/run.sh" --programs "$dir/programs" --no-sanity --boots 1 --memory 3072 \
	--timeout 1500 --test-timeout 900 --results "$dir/results" "${variants[@]}" || status=$?
case " ${runs[*]} " in
*' matrix '*) "$here/streams.sh" "$dir" "${variants[@]}" || status=1 ;;
esac
exit $status
