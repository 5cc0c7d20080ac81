#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Shows that the sanitizers would notice something: programs with one deliberate error each,
# built and linked like the tests, must be stopped with the right report. And that the tests'
# library is the one that checks itself.
#
# usage: sanitizers-active.sh BUILD-DIRECTORY        (CC and SANITIZE in the environment)

set -u
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# caught NAME REPORT C-STATEMENTS
caught() {
	printf '%s\n' '#include <stdlib.h>' '#include <string.h>' '#include "vfiomig.h"' '#include "vfiomig-sim.h"' \
		'int main(int argc, char **argv) { (void)argv; (void)vfiomig_version();' "$3" 'return 0; }' >"$work/$1.c"
	# shellcheck disable=SC2086 # flags
	if ! ${CC:-cc} -O1 -g -Iinclude -Isim/include $SANITIZE -o "$work/$1" "$work/$1.c" -L"$build" -lvfiomig-sim -lvfiomig \
		-Wl,-rpath,"$(cd "$build" && pwd)" 2>"$work/out"; then
		echo "not ok sanitizer $1: does not compile"
		cat "$work/out"
		failed=1
		return
	fi
	if "$work/$1" >"$work/out" 2>&1; then
		echo "not ok sanitizer $1: the error went unnoticed"
		failed=1
	elif ! grep -q "$2" "$work/out"; then
		echo "not ok sanitizer $1: no '$2' in the report"
		sed 's/^/    | /' "$work/out"
		failed=1
	else
		echo "ok sanitizer $1"
	fi
}

caught heap-overflow 'heap-buffer-overflow' 'char *volatile q = malloc(8); volatile char *p = q; p[7 + argc] = 1; free(q);'
caught use-after-free 'heap-use-after-free' \
	'char *p = malloc(8); free(p); volatile char c = p[argc]; (void)c;'
# By the library: it is not instrumented, but what it asks of libc is checked.
caught overflow-by-the-library 'heap-buffer-overflow' \
	'struct vfiomig_sim *sim; struct vfiomig_device *dev; struct vfiomig_save *save; char *p = malloc(100);
	 if (vfiomig_sim_new(NULL, &sim) || vfiomig_device_new_ops(vfiomig_sim_ops(sim), sim, NULL, &dev) ||
	     vfiomig_save_begin(dev, NULL, &save)) return 0;
	 if (vfiomig_save_add_blob(save, 1, p, 10000 + (size_t)argc) < 0) return 0;'
caught leak 'LeakSanitizer' 'char *volatile p = malloc(100 + (size_t)argc); memset(p, 1, 9); p = NULL;'
caught undefined 'runtime error' 'int n = 0x7fffffff; n += argc; volatile int sink = n; (void)sink;'

for program in "$build"/c-tests/sanitized/*; do
	[ -x "$program" ] || continue
	nm "$program" 2>/dev/null | grep -q __asan_init || {
		echo "not ok sanitizer in-every-program: $program was built without"
		failed=1
	}
	# dlopen opens the library of those who install it.
	[ "${program##*/}" = dlopen ] || ldd "$program" | grep -q '/checked/libvfiomig\.so' || {
		echo "not ok sanitizer in-every-program: $program has not the library that checks itself"
		failed=1
	}
done
check='which its row in api.toml does not list'
if ! grep -q "$check" "$build/checked/libvfiomig.so" || grep -q "$check" "$build/libvfiomig.so"; then
	echo "not ok checks-of-the-library: they belong in checked/libvfiomig.so, and there only"
	failed=1
fi
[ $failed -eq 0 ] && echo "sanitizers: active"
exit $failed
