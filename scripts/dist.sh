#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The source tarball, a tarball with the crates it needs, and their checksums. Unpacked in the
# same directory, the two build without network. The same tree gives the same source tarball.
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

pack "$out/$name.tar.gz" --transform="s|^|$name/|" --no-recursion --files-from="$work/files"

mkdir -p "$work/$name/.cargo"
# shellcheck disable=SC2086 # flags
${CARGO:-cargo} vendor ${CARGO_FLAGS-} --quiet --versioned-dirs "$work/$name/vendor" >/dev/null
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
