#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Migrates VFIO devices between QEMUs in the lab's machines: from which to which, what happens
# when something fails, and whether dirty pages arrive. Three machines work in parallel, because
# much of the time goes into waiting. The last line is "N passed, N failed".
#
# usage: check.sh [DIR [VARIANT...]]
#
#   DIR       for what is put together and for the results (default: build/qemu):
#             DIR/results/matrix/VARIANT/boot1/out/*.stream.N are captured migrations
#   VARIANT   kernels (default: 6.12 7.3; on others than 6.12 only the rows with mtty and
#             those with iommufd run)
#
# In the environment:
#
#   QEMU_CASES='WORD...'  only cases with one of these in their names
#   QEMU_TIMES=N          each N times
#   QEMU_SERIES=VERSION   the QEMU that is tested (default: 11.1; 10.2 has a series of its own)
#   QEMU_PEERS='VERSION...'  older ones that it migrates to and from (default: 10.2 10.0)
#   QEMU_RUNS='RUN...'    these runs (default: matrix failures native several dirty);
#                         stock tells what happens without the library

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=lab/common.sh
. "$top/lab/common.sh"

dir=${1:-$top/build/qemu}
[ $# -eq 0 ] || shift
variants=("$@")
[ ${#variants[@]} -gt 0 ] || variants=(6.12 7.3)
read -ra runs <<<"${QEMU_RUNS:-matrix failures native several dirty}"

mkdir -p "$dir"
# Where a patched QEMU finds the library, and boot.sh with it.
export LD_LIBRARY_PATH=$top/build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
"$here/programs.sh" "$dir/programs" "${runs[@]}"
for v in "${variants[@]}"; do
	"$top/lab/kernel.sh" "$v" >/dev/null
done
rm -rf "$dir/results"
mkdir -p "$dir/results"

# Every run on the main kernel, and these two on the others.
main=${variants[0]}
jobs=()
for r in "${runs[@]}"; do
	jobs+=("$r $main")
	[ "$r" != matrix ] || matrix=1
	case $r in
	matrix | several) for v in "${variants[@]:1}"; do jobs+=("$r $v"); done ;;
	esac
done

# job RUN VARIANT: one machine. Two QEMUs with 64 MiB each, their devices' states in buffers,
# and the programs themselves lie in its memory.
job() {
	local log=$dir/results/$1-$2.log
	"$top/lab/run.sh" --programs "$dir/programs" --only "$1" --no-sanity --boots 1 \
		--memory 3072 --timeout 1800 --test-timeout 1700 \
		--results "$dir/results/.$1-$2" "$2" >"$log" 2>&1 || true
	# Next to those of other machines.
	mkdir -p "$dir/results/$1"
	[ ! -e "$dir/results/.$1-$2/$2" ] || mv "$dir/results/.$1-$2/$2" "$dir/results/$1/$2"
	rm -rf "$dir/results/.$1-$2"
	grep -vE '^[0-9]+ passed, [0-9]+ failed' "$log"
}

lab_note "migrating; the results come as each machine is done"
for j in "${jobs[@]}"; do
	while [ "$(jobs -rp | wc -l)" -ge 3 ]; do
		wait -n || true
	done
	read -r r v <<<"$j"
	job "$r" "$v" &
done
wait

passed=0 failed=0 skipped=0
for j in "${jobs[@]}"; do
	log=$dir/results/${j/ /-}.log
	if [ -n "${QEMU_CASES-}" ] && grep -q ' programs \.\.\. FAILED (no test ran)$' "$log"; then
		echo "check-qemu: $j: none of these cases"
		continue
	fi
	counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1 || true)
	if [ -z "$counts" ]; then
		echo "check-qemu: $j: no line of counts"
		failed=$((failed + 1))
		continue
	fi
	echo "check-qemu: $j: $counts"
	read -r p f s <<<"$(tr -dc '0-9 ' <<<"$counts")"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
done
if [ -n "${matrix-}" ]; then
	# What stock QEMU sent, read and written again by the library.
	log=$dir/results/streams.log
	"$here/streams.sh" "$dir" "${variants[@]}" >"$log" || true
	grep -vE '^[0-9]+ passed, [0-9]+ failed' "$log" || true
	counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" || echo '0 passed, 1 failed')
	echo "check-qemu: streams: $counts"
	read -r p f <<<"$(tr -dc '0-9 ' <<<"$counts")"
	passed=$((passed + p)) failed=$((failed + f))
fi
[ $((passed + failed)) -gt 0 ] || { echo "check-qemu: no test ran"; failed=1; }
summary="$passed passed, $failed failed"
[ $skipped -eq 0 ] || summary="$summary, $skipped skipped"
echo "$summary"
[ $failed -eq 0 ]
