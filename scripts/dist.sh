#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The source tarball, a tarball with the crates it needs, and their checksums. Unpacked in the
# same directory, the two build without network. The same tree gives the same source tarball.
#
# They have what a build and its tests need on Linux. The development tools' sources are there, but not
# their dependencies: the workspace and the lock file of the tarball are without them, and those of the
# whole tree are in its folder workspace/. To use the tools, copy these over the others.
#
# usage: dist.sh VERSION DIRECTORY

set -eu
version=$1 out=$2
name=libvfiomig-$version
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What git knows; in an unpacked tarball, everything that was not built here.
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
	git ls-files --cached
else
	find . -type d \( -path ./target -o -path ./build -o -path ./vendor -o -path ./.cargo \) -prune \
		-o -type f -print | sed 's|^\./||'
fi | LC_ALL=C sort -u | while IFS= read -r file; do
	[ ! -e "$file" ] || printf '%s\n' "$file"
done >"$work/files"

pack() { # ARCHIVE tar's arguments...
	archive=$1
	shift
	tar --create --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w --sort=name \
		--mtime="@$epoch" "$@" | gzip -9 --no-name >"$archive"
}

tree=$work/source/$name
mkdir -p "$tree" "$work/$name/.cargo"
tar --create --no-recursion --files-from="$work/files" | tar --extract --directory="$tree"
if [ ! -e "$tree/workspace" ]; then
	mkdir "$tree/workspace"
	cp "$tree/Cargo.toml" "$tree/Cargo.lock" "$tree/workspace/"
	sed -i 's/^members = .*/members = [".", "clib", "sim", "cli"]/' "$tree/Cargo.toml"
	# Takes out of Cargo.lock what is no longer needed, and changes no version.
	# shellcheck disable=SC2086 # flags
	${CARGO:-cargo} metadata ${CARGO_FLAGS-} --format-version=1 --manifest-path="$tree/Cargo.toml" >/dev/null
fi
pack "$out/$name.tar.gz" --directory="$work/source" "$name"

# shellcheck disable=SC2086 # flags
${CARGO:-cargo} vendor ${CARGO_FLAGS-} --quiet --locked --versioned-dirs --manifest-path="$tree/Cargo.toml" \
	"$work/$name/vendor" >/dev/null
CARGO=${CARGO:-cargo} scripts/vendor-prune.py "$tree/Cargo.toml" "$work/$name/vendor"
# What cargo prints names the directory where it ran; here it is this one, relative to the tree.
cat >"$work/$name/.cargo/config.toml" <<'END'
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "vendor"
END
pack "$out/$name-vendor.tar.gz" --directory="$work" "$name"

(cd "$out" && sha256sum "$name.tar.gz" "$name-vendor.tar.gz" >"$name.sha256")
cat "$out/$name.sha256"
