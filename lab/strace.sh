#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Runs the library's tests for the lab under strace: which system calls and ioctls do they make
# on a real device? For the list in docs/syscalls.json.
#
# usage: strace.sh [options] OUT [NAME...]
#
#   --variant VARIANT   default 6.12, which has groups and cdevs
#   --programs DIR      default build/lab
#   --cases GLOB        cases in these programs (default: a few that save, load,
#                       fail and reset; all of them take minutes)
#   OUT                 directory for the logs, NAME.strace each (strace -f)
#   NAME                programs (default: save-load recover)

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

variant=6.12 programs=$LAB_DIR/../build/lab cases='@(save-load-*cdev|recover-no-fd-*)'
while [ $# -gt 0 ]; do
	case $1 in
	--variant) variant=$2; shift 2 ;;
	--programs) programs=$2; shift 2 ;;
	--cases) cases=$2; shift 2 ;;
	-*) sed -n '/^# usage/,/^#   NAME/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
	*) break ;;
	esac
done
[ $# -ge 1 ] || lab_die "where to?"
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(save-load recover)
programs=$(cd "$programs" && pwd)
# Their run paths are relative, and they are traced elsewhere.
LD_LIBRARY_PATH=$programs/lib:${programs%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
strace=$(command -v strace) || lab_die "strace is not installed (package strace)"

work=$(mktemp -d "${TMPDIR:-/tmp}/vfiomig-strace.XXXXXX")
trap 'rm -rf "$work"' EXIT
# What is loaded at run time lies next to them: libraries, under any name.
for entry in "$programs"/*; do
	[ "${entry##*/}" = tests ] || ln -s "$entry" "$work/"
done
mkdir "$work/tests" "$work/traced" "$work/share"
cp "$strace" "$work/strace"
for name in "${names[@]}"; do
	cp -L "$programs/tests/$name.test" "$work/traced/$name"
	cat >"$work/tests/$name.test" <<END
#!/bin/sh
export LAB_CASES='$cases'
# Not to /share directly: it is slow for many small writes.
./strace -f -o /tmp/$name.strace ./traced/$name
status=\$?
cp /tmp/$name.strace /share/out/
exit \$status
END
	chmod +x "$work/tests/$name.test"
done
"$LAB_DIR/boot.sh" "$variant" --share "$work/share" -- "$work"
for name in "${names[@]}"; do
	cat "$work/share/out/$name.out" "$work/share/out/$name.err"
	[ "$(cat "$work/share/out/$name.status")" = 0 ] || lab_die "$name failed"
	mv "$work/share/out/$name.strace" "$out/"
done
