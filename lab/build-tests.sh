#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the library's own tests for the lab: c-tests/lab/NAME.c becomes
# DIR/tests/NAME.test, linked with DIR/lib/libvfiomig.so.0.
#
# usage: build-tests.sh [--archive FILE | --shared FILE] [DIR]
#
#   --archive FILE  static library (default: target/release/libvfiomig_c.a),
#                   from which a shared one is linked
#   --shared FILE   a shared library that is there already
#   DIR             default: build/lab in the repository

set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
archive=${CARGO_TARGET_DIR:-$top/target}/release/libvfiomig_c.a shared=''
while [ $# -gt 0 ]; do
	case $1 in
	--archive) archive=$2; shift 2 ;;
	--shared) shared=$2; shift 2 ;;
	-*) sed -n '/^# usage/,/^#   DIR/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
	*) break ;;
	esac
done
out=${1:-$top/build/lab}
cc=${CC:-cc}
mkdir -p "$out/lib" "$out/tests"
out=$(cd "$out" && pwd)

if [ -n "$shared" ]; then
	cp -L "$shared" "$out/lib/libvfiomig.so.0"
else
	"$cc" -shared -o "$out/lib/libvfiomig.so.0" -Wl,-soname,libvfiomig.so.0 -Wl,--gc-sections \
		-Wl,--whole-archive "$archive" -Wl,--no-whole-archive -lpthread -ldl -lm
fi

# shellcheck disable=SC2206  # a list of words
flags=(-std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Wpedantic -Wshadow -Werror -I"$top/include" ${CFLAGS-})
# What all of them are linked with.
common=()
for name in lab-common iommu; do
	"$cc" "${flags[@]}" -c -o "$out/$name.o" "$top/c-tests/lab/$name.c"
	common+=("$out/$name.o")
done
for source in "$top"/c-tests/lab/*.c; do
	name=$(basename "$source" .c)
	case " ${common[*]} " in
	*"/$name.o "*) continue ;;
	esac
	# A run path, not -L: ldd on the build machine and the guest must both find it.
	# shellcheck disable=SC2016  # $ORIGIN is the loader's
	"$cc" "${flags[@]}" -o "$out/tests/$name.test" "$source" "${common[@]}" \
		"$out/lib/libvfiomig.so.0" '-Wl,-rpath,$ORIGIN/../lib'
done
rm -f "${common[@]}"
for conf in "$top"/c-tests/lab/*.conf; do
	[ ! -e "$conf" ] || cp "$conf" "$out/tests/"
done
