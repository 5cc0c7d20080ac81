#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Does the lab notice when something is wrong? Each case gives run.sh one program and says which
# lines and which verdict must result.
#
# usage: selftest.sh [VARIANT]      (default 6.12; one boot per case)

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

variant=${1:-6.12}
lab_is_variant "$variant" || lab_die "no variant '$variant'"
work=$(mktemp -d "${TMPDIR:-/tmp}/vfiomig-lab-selftest.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

passed=0 failed=0

# program NAME: body from standard input, into an otherwise empty directory.
program() {
	rm -rf "$work/p"
	mkdir -p "$work/p/tests"
	{ echo '#!/bin/sh'; cat; } >"$work/p/tests/$1.test"
	chmod +x "$work/p/tests/$1.test"
}

conf() {
	cat >"$work/p/tests/$1.conf"
}

# expect CASE STATUS LAST_LINE PATTERN [run.sh options...]: "-" for no pattern.
expect() {
	local name=$1 status=$2 last=$3 pattern=$4 got=0 why=
	shift 4
	"$LAB_DIR/run.sh" --programs "$work/p" --no-sanity --boots 1 "$@" "$variant" \
		>"$work/out" 2>"$work/err" || got=$?
	if [ "$got" -ne "$status" ]; then
		why="exit status $got, not $status"
	elif [ "$(tail -n 1 "$work/out")" != "$last" ]; then
		why="last line is '$(tail -n 1 "$work/out")', not '$last'"
	elif [ "$pattern" != - ] && ! grep -qE "$pattern" "$work/out"; then
		why="no line matches '$pattern'"
	fi
	# Its complaint is wanted here; the evidence that it kept is not.
	sed -n 's/.*what the machines left is in //p' "$work/err" | while IFS= read -r d; do
		case $d in
		"$LAB_CACHE"/runs/?*) rm -rf "$d" ;;
		esac
	done
	if [ -z "$why" ]; then
		passed=$((passed + 1))
		echo "lab selftest $name ... ok"
	else
		failed=$((failed + 1))
		echo "lab selftest $name ... FAILED ($why)"
		sed 's/^/    | /' "$work/out" "$work/err"
	fi
}

program good <<'E2'
echo "some words"
echo "ok alpha"
echo "skip beta: no reason"
[ "$ONE $*" = "1 two three" ] && echo "ok arguments"
[ "$KERNEL_RELEASE" = "$(uname -r)" ] && [ -n "$KERNEL_VARIANT" ] && [ "$LAB_BOOT" = 1 ] && echo "ok environment"
E2
conf good <<'E2'
ARGS='two three'
export ONE=1
E2
expect success 0 '3 passed, 0 failed, 1 skipped' "^lab $variant beta \.\.\. skipped \(no reason\)$"

program bad <<'E2'
echo "ok alpha"
echo "details"
echo "not ok beta: seven is not eight"
exit 1
E2
expect failing-test 1 '1 passed, 1 failed' "^lab $variant beta \.\.\. FAILED \(seven is not eight\)$"

program crash <<'E2'
echo "ok alpha"
kill -SEGV $$
E2
expect crash 1 '1 passed, 1 failed' "^lab $variant crash \.\.\. FAILED \(killed by signal 11, boot 1\)$"

program hang <<'E2'
echo "ok alpha"
sleep 1000
E2
echo 'TIMEOUT=2' | conf hang
expect hang 1 '1 passed, 1 failed' "^lab $variant hang \.\.\. FAILED \(timed out, boot 1\)$"

program mute <<'E2'
echo "no protocol line"
E2
expect no-result 1 '0 passed, 1 failed' "^lab $variant mute \.\.\. FAILED \(printed no result, boot 1\)$"

program liar <<'E2'
echo "ok alpha"
exit 3
E2
expect exit-status 1 '1 passed, 1 failed' "^lab $variant liar \.\.\. FAILED \(exit status 3, boot 1\)$"

program absent <<'E2'
exit 77
E2
expect nothing-ran 1 '0 passed, 1 failed' "^lab $variant programs \.\.\. FAILED \(no test ran\)$"

program warning <<'E2'
echo "ok alpha"
echo "<4>WARNING: test of the scanner" >/dev/kmsg
E2
expect kernel-warning 1 '1 passed, 1 failed' "^lab $variant kernel-log-1 \.\.\. FAILED"

echo '^.*WARNING: test of the scanner$' >"$work/allowed"
LAB_ALLOWED=$work/allowed expect allowed-warning 0 '1 passed, 0 failed' -

program reboot <<'E2'
echo "ok alpha"
reboot -f
sleep 1000
E2
expect machine-ends 1 '1 passed, 2 failed' "^lab $variant reboot \.\.\. FAILED \(machine ended while it ran, boot 1\)$"

program stuck <<'E2'
echo "ok alpha"
sleep 1000
E2
expect machine-hangs 1 '1 passed, 2 failed' "^lab $variant boot-1 \.\.\. FAILED \(no end after 15 s\)$" --timeout 15

program slow-start <<'E2'
echo "ok alpha"
E2
LAB_UP_SECONDS=1 expect slow-start 0 '1 passed, 0 failed' '^    [|] attempt 2 to start it hung: started again$'

# The first machine leaves a file, the second finds it.
program keep <<'E2'
case $LAB_BOOT in
1) echo stream >"$LAB_KEEP/stream"; exit 77 ;;
2) [ "$(cat "$LAB_KEEP/stream")" = stream ] && echo "ok keep" ;;
esac
E2
expect two-boots 0 '1 passed, 0 failed' "^lab $variant keep \.\.\. ok$" --boots '1 2'

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
