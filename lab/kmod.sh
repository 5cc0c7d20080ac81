#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the test device (kmod/) for a kernel variant unless it is built, and prints the path of
# its module. It lies in the cache, next to others that were built from other sources or for
# other kernels.
#
# usage: kmod.sh VARIANT
#
# KMOD_DIR in the environment names a directory other than lab/kmod, for a module that is broken
# on purpose.

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -eq 1 ] || lab_die "usage: kmod.sh VARIANT"
variant=$1
kernel=$("$LAB_DIR/kernel.sh" "$variant")
src=${KMOD_DIR:-$LAB_DIR/kmod}

# Everything that decides the result: the sources, the kernel, the compiler.
hash=$(
	{
		echo "${kernel##*/}"
		gcc -dumpfullversion 2>/dev/null || echo none
		cd "$src" && cat Kbuild ./*.c ./*.h
	} | sha256sum | cut -c1-12
)
out=$LAB_CACHE/kmod/$variant-$hash
module=$out/vfiomig_test.ko
if [ -e "$module" ]; then
	printf '%s\n' "$module"
	exit 0
fi

mkdir -p "$LAB_CACHE/kmod" "$LAB_CACHE/tmp" "$LAB_CACHE/log"
tmp=$(mktemp -d "$LAB_CACHE/tmp/kmod.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
log=$LAB_CACHE/log/kmod-$variant.log
cp "$src"/Kbuild "$src"/*.c "$src"/*.h "$tmp/"

symbols=()
# Kernels built without modules of their own have the symbols elsewhere.
if [ ! -e "$kernel/build/Module.symvers" ] && [ -e "$kernel/build/vmlinux.symvers" ]; then
	symbols=("KBUILD_EXTRA_SYMBOLS=$(realpath "$kernel/build/vmlinux.symvers")")
fi
make -C "$kernel/build" M="$tmp" W=1 KCFLAGS=-Werror "${symbols[@]}" modules >"$log" 2>&1 ||
	{ tail -n 20 "$log" >&2; lab_die "building the test device for $variant failed; see $log"; }
mkdir -p "$tmp/done"
cp "$tmp/vfiomig_test.ko" "$tmp/done/"
# Someone else may have been faster with exactly the same.
mv -T "$tmp/done" "$out" 2>/dev/null || [ -e "$module" ] || lab_die "cannot make $out"
# One per variant is enough; a machine that is booting has its own copy.
find "$LAB_CACHE/kmod" -mindepth 1 -maxdepth 1 -name "$variant-*" ! -path "$out" -mmin +1440 -exec rm -rf {} +
printf '%s\n' "$module"
