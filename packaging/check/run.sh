#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# `make check-packages`: the tarballs of `make dist` as a distribution would take them. In roots of Debian
# 13, with its own compiler and without a network, it builds the Debian packages twice and the RPMs once,
# installs, uses, upgrades and removes them, and builds for two other machines, whose programs it runs in
# an emulator. docs/packaging.md says what is looked at.
#
# usage: run.sh VERSION [STEP...]        (at the top of the source tree, as root; all steps)

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lab/common.sh
. "$here/../../lab/common.sh"
# shellcheck source=lab/debian.sh
. "$here/../../lab/debian.sh"
# shellcheck source=packaging/check/roots.sh
. "$here/roots.sh"
# shellcheck source=packaging/check/debian.sh
. "$here/debian.sh"
# shellcheck source=packaging/check/others.sh
. "$here/others.sh"

[ "$(id -u)" -eq 0 ] || lab_die "this needs root, for chroot and mount; nothing of this system is changed"
version=${1:?usage: run.sh VERSION}
shift
began=$(lab_now)
log_dir=$LAB_CACHE/log/packages
mkdir -p "$log_dir" "$LAB_CACHE/packages" "$LAB_CACHE/tmp"
exec 8>"$LAB_CACHE/lock.packages"
flock 8

# A place of one's own is kept: later steps find there what earlier runs built.
work=${PACKAGE_WORK:-$(mktemp -d "$LAB_CACHE/tmp/packages.XXXXXX")}
mkdir -p "$work"
rm -f "$work/passed" "$work/failed" "$work/notes"
# Without link-time optimisation, which takes most of a build's time.
faster='CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16'
quick=${PACKAGE_QUICK:+$faster}
lanes=()
cleanup() {
	local lane
	# Groups of processes: each is whatever the lane has started.
	for lane in "${lanes[@]}"; do
		kill -- "-$lane" 2>/dev/null || true
	done
	wait
	# Nothing is mounted outside of the namespaces, which are gone; a directory would be a mistake.
	[ -n "${PACKAGE_WORK-}" ] || rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# verdict STEP NAME [WHAT-IS-WRONG]: passed if nothing is.
verdict() {
	if [ -n "${3-}" ]; then
		printf 'not ok %s %s:\n' "$1" "$2"
		printf '%s\n' "$3" | head -n 100 | sed 's/^/    | /'
		echo "$1 $2" >>"$work/failed"
	else
		printf 'ok %s %s\n' "$1" "$2"
		echo "$1 $2" >>"$work/passed"
	fi
}

# A line for the end.
note() {
	printf '%s\n' "$*" >>"$work/notes"
}

# counted STEP LOG COMMAND...: a program that has checks of its own, and counts them in its last line.
counted() {
	local step=$1 log=$log_dir/$2.log status=0 line
	shift 2
	"$@" >"$log" 2>&1 || status=$?
	sed -n 's/^ok [^ ]* //p' "$log" | while read -r line; do
		echo "$step $line" >>"$work/passed"
	done
	grep -E '^(not )?ok ' "$log" || true
	if [ $status -ne 0 ]; then
		verdict "$step" all "$(grep -A20 '^not ok' "$log" || tail -n 40 "$log")"
	fi
}

# in_place NAME LAYERS COMMAND...: in a root whose changes are in $work/NAME.
in_place() {
	local name=$1
	shift
	"$in_root" "$work/$name" "$@"
}

# Seconds that the processors have spent on what this shell has started, and that has ended.
cpu_of() { # PID
	awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print int(($14 + $15) / hz) }' "/proc/$1/stat"
}

# took START CPU-AT-START NAME: a line for the end.
took() {
	local me=$BASHPID
	note "$(printf '%5d s, %4d s of CPU  %s' $(($(lab_now) - $1)) $(($(cpu_of "$me") - $2)) "$3")"
}

# step NAME ARGUMENTS...: one of the functions, and how long it took.
step() {
	local start cpu me=$BASHPID status=0
	start=$(lab_now) cpu=$(cpu_of "$me")
	"$@" || status=$?
	took "$start" "$cpu" "$*"
	[ $status -eq 0 ] || verdict "$1" ends "it stopped with status $status"
	return $status
}

lab_install mmdebstrap arch-test
make_roots
took "$began" 0 roots

tarballs=$work/tarballs
CARGO_HOME=$LAB_CACHE/packages/cargo "${MAKE:-make}" --no-print-directory -C "$here/../.." dist B="$work/dist" \
	>"$log_dir/dist.log" 2>&1 || { tail -n 20 "$log_dir/dist.log" >&2; lab_die "make dist failed"; }
rm -rf "$tarballs"
mv "$work/dist/dist" "$tarballs"
cp "$here"/*.sh "$tarballs/"

one() {
	step debian_build || return 0
	step debian_look || true
	step debian_use || true
	step debian_upgrade || true
	step debian_dkms || true
}
two() {
	step debian_again || true
	step cross_build arm64 || true
	step cross_build s390x || true
	step rpm_build || true
}

if [ $# -gt 0 ]; then
	for name; do
		# shellcheck disable=SC2086 # words: cross_build:arm64
		step ${name//:/ } || true
	done
else
	set -m
	one &
	lanes+=($!)
	two &
	lanes+=($!)
	set +m
	for lane in "${lanes[@]}"; do
		wait "$lane" || verdict lane ends 'a lane stopped'
	done
	step debian_compare || true
fi
lanes=()

echo
cat "$work/notes"
[ -z "$quick" ] || echo 'check-packages: without link-time optimisation (PACKAGE_QUICK)'
passed=$(wc -l <"$work/passed" 2>/dev/null || echo 0)
failed=$([ -e "$work/failed" ] && wc -l <"$work/failed" || echo 0)
echo "check-packages: $(($(lab_now) - began)) s"
echo "check-packages: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
