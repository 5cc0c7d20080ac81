#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the library, the tool and the simulator for another machine, and runs tests there in an
# emulator: streams, identities, and all of the C tests. What QEMU 10 cannot do, the tests know (EMULATOR).
#
# usage: cross.sh ARCHITECTURE        (in the unpacked tarballs; arm64 or s390x)

set -u
case $1 in
arm64) gnu=aarch64-linux-gnu rust=aarch64-unknown-linux-gnu qemu=qemu-aarch64-static elf='AArch64' ;;
s390x) gnu=s390x-linux-gnu rust=s390x-unknown-linux-gnu qemu=qemu-s390x-static elf='IBM S/390' ;;
*) exit 2 ;;
esac
group=cross-$1
# shellcheck source=c-tests/verdict.sh
. c-tests/verdict.sh
emulator="$qemu -L /usr/$gnu"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

cross() {
	make --no-print-directory -j2 B="build-$gnu" CARGO_TARGET_DIR=target-cross CARGO_FLAGS=--frozen \
		RUST_TARGET="$rust" CC=$gnu-gcc CXX=$gnu-g++ AR=$gnu-ar EMULATOR="$emulator" WERROR= "$@"
}

if ! cross all sim >"$log" 2>&1; then
	bad builds "$(tail -n 20 "$log")"
	exit 1
fi
verdict builds "$(for f in libvfiomig.so.0 libvfiomig-sim.so vfiomig; do
	readelf -h "build-$gnu/$f" | grep -q "Machine: *$elf" || echo "$f is not for $elf"
done)"
verdict tool-runs "$($emulator "build-$gnu/vfiomig" --version >"$log" 2>&1; grep -q '^vfiomig [0-9]' "$log" || cat "$log")"

# Streams as they stand in the documentation, byte by byte, identities and structures; of the library's own
# tests all but those of dirty tracking, which take minutes here, and of system calls.
cross check-rust TESTED_PACKAGES='-p vfiomig --lib --test stream_fixtures --test qemu_codec -- --skip dirty:: --skip sys::' \
	>"$log" 2>&1
verdict rust-tests "$(grep -q '^check-rust: [1-9][0-9]* passed, 0 failed' "$log" || tail -n 40 "$log")"
streams=$(sed -n 's/^check-rust: //p' "$log")

programs=$(for test in c-tests/*.c c-tests/*.cpp c-tests/examples/*.c; do
	name=$(basename "${test%.*}")
	case $test in */examples/*) name=example-$name ;; esac
	echo "build-$gnu/c-tests/plain/$name"
done)
# shellcheck disable=SC2086 # words
cross $programs "build-$gnu/demo/demo" >"$log" 2>&1
status=$?
verdict c-tests-compile "$([ $status -eq 0 ] || tail -n 20 "$log")"
[ $status -eq 0 ] || exit 1
# shellcheck disable=SC2086 # words
EMULATOR=$emulator EXPECT_ENV_LOGGER=1 c-tests/run.sh cross-c $programs >"$log" 2>&1
verdict c-tests "$(grep -q '^cross-c: [1-9][0-9]* passed, 0 failed' "$log" || grep -A12 -E '^not ok|^cross-c' "$log" | head -n 80)"
c=$(sed -n 's/^cross-c: //p' "$log")
$emulator "build-$gnu/demo/demo" --state-size 4M --memory-size 4M --precopy-limit 2000 >"$log" 2>&1
verdict demo "$(tail -n 1 "$log" | grep -q '^demo: verified: ' || cat "$log")"
echo "$group: Rust: $streams; C: $c"
[ $failed -eq 0 ]
