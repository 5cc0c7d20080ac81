#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What `cargo publish` would send: the library's crate has what it needs and nothing else, compiles by
# itself, and the registry's rules are kept. Without the registry, all but the last.

set -eu
cargo=${CARGO:-cargo}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# shellcheck disable=SC2086 # flags
$cargo package ${CARGO_FLAGS-} --quiet --list --allow-dirty --package vfiomig >"$log"
for file in Cargo.toml README.md LICENSE-MIT LICENSE-APACHE CHANGELOG.md src/lib.rs docs/migration-guide.md; do
	grep -qx "$file" "$log" || {
		echo "check-publish: $file is not in the crate" >&2
		exit 1
	}
done
if grep -E '^(lab|integrations|packaging|c-tests|sim|cli|clib|apigen|fuzz|scripts|tests)/' "$log" >&2; then
	echo "check-publish: these do not belong into the crate" >&2
	exit 1
fi
files=$(wc -l <"$log")

# Whatever cargo warns of is something that a reader of the crate's page would miss.
attempt() {
	# shellcheck disable=SC2086 # flags
	$cargo "$@" ${CARGO_FLAGS-} --allow-dirty --package vfiomig >"$log" 2>&1
}
if attempt publish --dry-run; then
	how='cargo publish --dry-run'
elif attempt package --offline; then
	how='cargo package, without the registry'
else
	cat "$log" >&2
	exit 1
fi
grep '^warning' "$log" | grep -vE 'aborting upload|ignoring (test|benchmark|example) ' >&2 && exit 1
for package in . cli; do
	for licence in LICENSE-MIT LICENSE-APACHE; do
		[ -s "$package/$licence" ] || { echo "check-publish: $package has no $licence" >&2; exit 1; }
	done
done
echo "check-publish: $files files; $how took the crate"
