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
# No file of the crates is anything but text, and nothing of other systems is left but its manifest.
built=$(find "$work/$name/vendor" -type f -size +0 | while IFS= read -r file; do
	grep -qI . "$file" || echo "$file"
done)
[ -z "$built" ] || {
	echo "dist-check: not text: $built" >&2
	exit 1
}
foreign=$(find "$work/$name/vendor" -path '*/vendor/windows*' -name '*.rs' -size +1k)
[ -z "$foreign" ] || {
	echo "dist-check: not for Linux: $foreign" >&2
	exit 1
}
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
$cut "${MAKE:-make}" --no-print-directory CARGO_FLAGS=--frozen all sim demo
# The tests' crates are there as well.
$cut "${CARGO:-cargo}" check --quiet --frozen --workspace --all-features --all-targets
"${MAKE:-make}" --no-print-directory install DESTDIR="$work/root" PREFIX=/usr >/dev/null
test -e "$work/root/usr/lib/libvfiomig.so"
echo "dist-check: $name builds from its tarballs alone"
