#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Unpacks the QEMU of Debian 13 with all that it needs, unless it is unpacked, and prints its cache
# directory:
#
#   version   version of the Debian package
#   root/     a root directory: `chroot root qemu-system-x86_64`, with /proc, /sys, /dev and /tmp to be
#             mounted there
#
# usage: qemu.sh [--update]
#
# This is for programs in the lab's machines that need what a stock QEMU writes and reads; the machines
# themselves are run by the host's. It needs no root, and what is unpacked is not installed. One in the
# cache is used as it is, without asking the network; --update looks for newer packages first.

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=lab/debian.sh
. "$LAB_DIR/debian.sh"

# Increase this when a change to this file makes what is in the cache unusable.
RECIPE=r1
PACKAGE=qemu-system-x86 SUITE=trixie

update=0
[ "${1-}" != --update ] || { update=1; shift; }
[ $# -eq 0 ] || lab_die "usage: qemu.sh [--update]"

parent=$LAB_CACHE/qemu/debian-$SUITE
if [ $update -eq 0 ] && lab_cached "$parent" "$RECIPE" root; then
	exit 0
fi

"$LAB_DIR/deps.sh"
mkdir -p "$LAB_CACHE/tmp" "$LAB_CACHE/log" "$parent"

# One at a time. A script that waited finds the other's result.
exec 8>"$LAB_CACHE/lock.qemu-$SUITE"
flock 8
if [ $update -eq 0 ] && lab_cached "$parent" "$RECIPE" root; then
	exit 0
fi

# What an interrupted one left: nobody else holds the lock.
tmp=$LAB_CACHE/tmp/qemu-$SUITE
rm -rf "$tmp"
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
log=$LAB_CACHE/log/qemu-$SUITE.log
: >"$log"

failed() {
	tail -n 5 "$log" >&2
	lab_die "$*; see $log"
}

debian_apt "apt-qemu-$SUITE" "deb main $SUITE" "deb security $SUITE-security"
version=$(apt-cache "${apt_conf[@]}" policy $PACKAGE | awk '$1 == "Candidate:" { print $2 }')
case $version in
'' | '(none)') lab_die "the archive has no $PACKAGE in $SUITE" ;;
esac
dir=$parent/${version//[^A-Za-z0-9.-]/_}-$RECIPE
if [ ! -e "$dir/root" ]; then
	lab_note "fetching $PACKAGE $version and what it needs"
	# In the eyes of this configuration nothing is installed, so it gets all of it, down to the
	# C library. apt checks every package against the signed lists.
	debs=$LAB_CACHE/apt-qemu-$SUITE/cache/archives
	rm -f "$debs"/*.deb
	apt-get "${apt_conf[@]}" -q -y --no-install-recommends --download-only \
		install "$PACKAGE=$version" >>"$log" 2>&1 || failed "cannot fetch $PACKAGE"
	root=$tmp/root
	mkdir -p "$root"
	for deb in "$debs"/*.deb; do
		dpkg -x "$deb" "$root" >>"$log" 2>&1 || failed "cannot unpack ${deb##*/}"
	done
	rm -f "$debs"/*.deb
	# What an installed system has besides.
	for d in bin lib lib64 sbin; do
		[ -e "$root/$d" ] || ln -s "usr/$d" "$root/$d"
	done
	mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
	# It starts with its own libraries, on a machine of any release.
	"$root/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
		"$root/usr/bin/qemu-system-x86_64" --version >>"$log" 2>&1 || failed "it does not start"
	echo "$version" >"$tmp/version"
	rm -rf "$dir"
	mv "$tmp" "$dir"
fi
# Older ones; a machine may still be using them.
find "$parent" -mindepth 1 -maxdepth 1 ! -path "$dir" -mmin +1440 -exec rm -rf {} +
printf '%s\n' "$dir"
