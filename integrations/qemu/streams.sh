#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The streams that the matrix kept, read and written again by the library
# (c-tests/qemu-stream.c). A missing one has failed. The last line is "N passed, N failed".
#
# usage: streams.sh DIR VARIANT...
#
#   DIR, VARIANT   as for check.sh, after it has run the matrix
#
# QEMU_CASES as for check.sh. V=1 shows why each damaged stream was refused.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)

[ $# -ge 2 ] || {
	echo "usage: streams.sh DIR VARIANT..." >&2
	exit 2
}
dir=$1
shift
make -C "$top" build/c-tests/plain/qemu-stream >&2
passed=0 failed=0
for variant in "$@"; do
	kept=$("$dir/programs/qemu-lab" kept "$variant")
	stems=()
	for name in $kept; do
		stems+=("$dir/results/matrix/$variant/boot1/out/$name")
	done
	[ ${#stems[@]} -gt 0 ] || continue
	status=0
	said=$(timeout 600 "$top/build/c-tests/plain/qemu-stream" "${stems[@]}") || status=$?
	sed -nE "s/^(ok|not ok) /\1 $variant\//p; s/^( +\| )/\1/p" <<<"$said"
	ok=$(grep -c '^ok ' <<<"$said" || true)
	bad=$((${#stems[@]} - ok))
	if [ "$status" -ne 0 ] && ! grep -q '^not ok ' <<<"$said"; then
		echo "not ok $variant/streams: the checker ended with status $status"
		[ "$bad" -gt 0 ] || bad=1
	fi
	passed=$((passed + ok)) failed=$((failed + bad))
done
[ $((passed + failed)) -gt 0 ] || echo "none of these cases has a stream that is kept"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
