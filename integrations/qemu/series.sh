#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Applies a series of patches to QEMU's source as commits, and makes the patches from the commits.
#
# usage: series.sh apply TREE PATCHES [MESSAGE]
#        series.sh make TREE PATCHES
#
#   TREE      the source: a git repository, with a commit tagged "base", once this has been
#   PATCHES   the directory of the series
#   MESSAGE   the first commit is of the whole source and says this; without it, only the files
#             that the series changes are in it, which is quicker
#
# A patch with too little around its changes can be applied to the wrong place, and nobody
# notices. So each has three lines, git applies it without fuzz, and then every hunk must be in
# the function that the patch names: the patch is made again, and only line numbers may differ.

set -euo pipefail

usage() {
	sed -n '/^# usage/,/^#        /s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
[ $# -ge 3 ] || usage
what=$1 tree=$2 patches=$(cd "$3" && pwd)

# Neither the user's configuration nor a repository around the source may matter.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_CEILING_DIRECTORIES=/
series() {
	git -C "$tree" -c user.name=libvfiomig -c user.email=libvfiomig@localhost \
		-c core.autocrlf=false -c gc.auto=0 "$@"
}
# form COMMITS...: as the patches are kept.
form() {
	series format-patch -q -U3 --zero-commit --no-signature --no-renames --abbrev=12 -N "$@"
}
# Without what may differ.
plain() {
	sed -E 's/^@@ -[0-9,]+ \+[0-9,]+ @@/@@/; s/^index [0-9a-f]+\.\.[0-9a-f]+/index/' "$1"
}

case $what in
apply)
	series init -q
	if [ -n "${4-}" ]; then
		series add -f -A
	else
		# --- a/FILE, of files that are there.
		sed -n 's,^--- a/,,p' "$patches"/*.patch | sort -u | while read -r file; do
			[ ! -e "$tree/$file" ] || printf '%s\0' "$file"
		done | series add -f --pathspec-from-file=- --pathspec-file-nul
		# It says what a function is.
		series add -f .gitattributes
	fi
	series commit -q -m "${4:-QEMU}"
	series tag base
	series am -q --keep-cr "$patches"/*.patch
	again=$(mktemp -d)
	trap 'rm -rf "$again"' EXIT
	form -o "$again" base
	for p in "$patches"/*.patch; do
		cmp -s <(plain "$p") <(plain "$again/${p##*/}") || {
			echo "${p##*/}: is not what it was when it is made again: a hunk in another function?"
			diff -u <(plain "$p") <(plain "$again/${p##*/}") | head -n 40 || true
			exit 1
		} >&2
	done
	;;
make)
	rm -f "$patches"/*.patch
	form -o "$patches" base
	;;
*) usage ;;
esac
