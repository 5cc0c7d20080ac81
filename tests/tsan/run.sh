#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# C programs with several threads under the thread sanitizer, and the library with them.
#
# The standard library comes without the sanitizer, which then sees races in what its locks
# protect. So they are replaced (locks/). What is left of that kind is listed in
# suppressions.txt. Needs a C compiler with the sanitizer, and any rustc that has its flag,
# which is told to accept it.
#
# usage: run.sh PROGRAM.c...

set -eu
here=$(dirname "$0")
top=$here/../..
out=${B:-$top/build}/tsan
mkdir -p "$out"
CC=${CC:-cc}

skip() {
	echo "check-tsan: skipped: $*"
	exit 0
}

# The sanitizer's own library comes with rustc, because that of an older C compiler lacks
# functions.
runtime=$(find "$(${RUSTC:-rustc} --print target-libdir)" -name 'librustc*rt.tsan.a' | head -n 1)
[ -n "$runtime" ] || skip "this rustc comes without a thread sanitizer"
compile() { # C SOURCES AND LIBRARIES
	"$CC" -std=c11 -D_GNU_SOURCE -O1 -g -fsanitize=thread -c -o "$out/program.o" \
		-I"$top/include" -I"$top/sim/include" -DVERSION='"0"' "$1" || return 1
	shift
	program=$1
	shift
	"$CC" -o "$program" "$out/program.o" "$@" -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive \
		-pthread -ldl -lrt -lm -lgcc_s
}
printf '#include <pthread.h>\nint main(void) { return 0; }\n' >"$out/probe.c"
compile "$out/probe.c" "$out/probe" 2>"$out/probe.log" ||
	skip "$CC has no -fsanitize=thread: $(head -n 1 "$out/probe.log")"
"$out/probe" >"$out/probe.log" 2>&1 ||
	skip "programs with the thread sanitizer do not start here: $(head -n 1 "$out/probe.log")"
cargo=${CARGO:-cargo}
flags="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
export RUSTC_BOOTSTRAP=1
echo 'pub fn f() {}' >"$out/probe.rs"
# shellcheck disable=SC2086 # one word per argument
if ! ${RUSTC:-rustc} $flags --crate-type rlib "$out/probe.rs" -o "$out/libprobe.rlib" 2>"$out/probe.log"; then
	flags="-Zsanitizer=thread" # older compilers do not ask
	# shellcheck disable=SC2086
	${RUSTC:-rustc} $flags --crate-type rlib "$out/probe.rs" -o "$out/libprobe.rlib" 2>"$out/probe.log" ||
		skip "rustc has no -Zsanitizer=thread for this target: $(head -n 1 "$out/probe.log")"
fi

host=$(${RUSTC:-rustc} -vV | sed -n 's/^host: //p')
RUSTFLAGS=$flags $cargo build --quiet --locked --release --manifest-path "$here/Cargo.toml" --package vfiomig-sim-tsan \
	--target "$host" --target-dir "$out/target"
# The simulator's has the library in it.
library=$out/target/$host/release/libvfiomig_sim_tsan.a

passed=0 failed=0
for source in "$@"; do
	name=$(basename "$source" .c)
	compile "$source" "$out/$name" "$library"
	if TSAN_OPTIONS="suppressions=$here/suppressions.txt halt_on_error=0 exitcode=66 history_size=4" \
		VFIOMIG_TEST_SLOW=1 timeout 600 "$out/$name" >"$out/$name.log" 2>&1; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $name"
		grep -E '^(FAIL|SUMMARY)|failed' "$out/$name.log" || tail -n 20 "$out/$name.log"
		echo "all of it is in $out/$name.log"
	fi
done
echo "check-tsan: $passed passed, $failed failed"
[ "$failed" = 0 ]
