#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Collects what goes into the lab's machine for QEMU's runs: the QEMUs, the program that drives
# them, and the list of runs. Builds everything that is not in the cache.
#
# usage: programs.sh DIR RUN...
#
#   RUN   matrix, failures, native, several, dirty, stock or bench: becomes DIR/tests/RUN.test
#
# QEMU_SERIES and QEMU_PEERS in the environment: see check.sh.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=lab/common.sh
. "$top/lab/common.sh"

[ $# -ge 2 ] || lab_die "usage: programs.sh DIR RUN..."
dir=$1
shift
rm -rf "$dir"
mkdir -p "$dir/qemu" "$dir/tests"
dir=$(cd "$dir" && pwd)

# Their parts, and what has them: see lab/src/versions.rs.
series=${QEMU_SERIES:-11.1}
builds=("stock $series stock")
for peer in ${QEMU_PEERS-10.2 10.0}; do
	case $peer in
	"$series") ;;
	10.2) builds+=("previous 10.2 stock") ;;
	10.0) builds+=("stable 10.0 stock") ;;
	*) lab_die "no peer '$peer' (there are: 10.2 10.0)" ;;
	esac
done
if compgen -G "$here/patches/$series/*.patch" >/dev/null; then
	builds+=("patched $series patched")
	# As it is now: the one that QEMU was built with may be older.
	make -C "$top" all >&2
fi
# Links: boot.sh copies what they point to.
for build in "${builds[@]}"; do
	read -r part version kind <<<"$build"
	built=$("$here/build.sh" "$version" "$kind")
	ln -s "$built" "$dir/qemu/$part"
	echo "qemu: $part is $(cat "$built/version"), $kind"
done

"${CARGO:-cargo}" build -q --release --manifest-path "$here/lab/Cargo.toml"
cp "${CARGO_TARGET_DIR:-$top/target}/release/qemu-lab" "$dir/"
for run in "$@"; do
	printf '#!/bin/sh\nexec ./qemu-lab %s\n' "$run" >"$dir/tests/$run.test"
	chmod +x "$dir/tests/$run.test"
done
printf 'export QEMU_SERIES="%s" QEMU_CASES="%s" QEMU_TIMES="%s"\n' "$series" \
	"${QEMU_CASES-}" "${QEMU_TIMES-}" >"$dir/lab.conf"
