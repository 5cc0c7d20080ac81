#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Unpacks the tarballs of `make dist` somewhere else, and builds, runs the demo and installs
# from them with an empty cargo home, without network if that can be cut off (as root).
#
# usage: dist-check.sh VERSION DIRECTORY

set -eu
name=libvfiomig-$1
out=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd "$out" && sha256sum --quiet --check "$name.sha256")
tar -C "$work" -xzf "$out/$name.tar.gz"
tar -C "$work" -xzf "$out/$name-vendor.tar.gz"

# Toolchains that rustup manages live in its own home; the empty one is cargo's.
RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
export RUSTUP_HOME
cut=
if unshare --net true 2>/dev/null; then
	cut='unshare --net'
else
	echo "dist-check: the network cannot be cut here; cargo is told to stay offline" >&2
fi
cd "$work/$name"
unset MAKEFLAGS MFLAGS CARGO_TARGET_DIR
CARGO_HOME=$work/cargo-home
export CARGO_HOME
mkdir "$CARGO_HOME"
$cut "${MAKE:-make}" --no-print-directory CARGO_FLAGS=--offline all demo
"${MAKE:-make}" --no-print-directory install DESTDIR="$work/root" PREFIX=/usr >/dev/null
test -e "$work/root/usr/lib/libvfiomig.so"
echo "dist-check: $name builds from its tarballs alone"
