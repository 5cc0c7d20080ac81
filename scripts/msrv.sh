#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What Cargo.toml declares is true: everything compiles with the oldest compiler, with all features
# and with its tests, and with the oldest crates. The compiler is cargo's own if it is that old, else
# one of rustup's, which installs it if it may (VFIOMIG_NO_INSTALL=1: it may not). Without one, this
# is skipped.
#
# usage: msrv.sh CARGO-ARGUMENTS...

set -eu
cargo=${CARGO:-cargo}
oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
# shuttle uses what came with 1.87, and does not say so.
newer='--exclude vfiomig-shuttle'

case $($cargo --version) in
"cargo $oldest".*) old=$cargo ;;
*)
	toolchain=$(rustup toolchain list 2>/dev/null | sed -n "s/^\($oldest\.[0-9]*\)-.*/\1/p" | tail -n 1)
	if [ -z "$toolchain" ] && [ -z "${VFIOMIG_NO_INSTALL-}" ]; then
		toolchain=$oldest.1
		rustup toolchain install "$toolchain" --profile minimal >/dev/null 2>&1 || toolchain=
	fi
	if [ -z "$toolchain" ]; then
		echo "check-msrv: skipped: there is no Rust $oldest"
		exit 0
	fi
	old="rustup run $toolchain cargo"
	;;
esac
target=${CARGO_TARGET_DIR:-target}/msrv
# shellcheck disable=SC2086 # words
compile() {
	$old check --quiet --workspace $newer --all-features --all-targets --target-dir "$target" "$@"
	$old check --quiet --package vfiomig-c --no-default-features --target-dir "$target" "$@"
}
compile "$@"
echo "check-msrv: everything compiles with $($old --version)"

# Which versions are the oldest is a question that only a nightly cargo answers.
nightly='rustup run nightly cargo'
if ! $nightly --version >/dev/null 2>&1; then
	echo "check-msrv: the oldest crates were not tried: there is no nightly cargo"
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z | xargs -0 tar -cf - | tar -xf - -C "$work"
# The development tools are built from the lock file, by nobody but us.
sed -i 's/^members = .*/members = [".", "clib", "sim", "cli"]/' "$work/Cargo.toml"
rm "$work/Cargo.lock"
cd "$work"
newer=
# shellcheck disable=SC2086 # words
$nightly generate-lockfile -Z direct-minimal-versions ${CARGO_FLAGS-} 2>"$work/log" || {
	cat "$work/log"
	exit 1
}
compile "$@"
echo "check-msrv: and with the oldest crates: $(
	sed -n '/^\[dependencies\]/,/^\[/s/^\([a-z0-9_-]*\) = .*/\1/p' Cargo.toml | while read -r name; do
		sed -n "/^name = \"$name\"\$/{n;s/version = \"\(.*\)\"/$name \1/p}" Cargo.lock
	done | paste -sd, | sed 's/,/, /g')"
