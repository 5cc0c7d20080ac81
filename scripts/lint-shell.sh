#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Every shell script of the tree through shellcheck, if that is installed.

set -eu

scripts=$(find . \( -name target -o -name build -o -name .git -o -name vendor \) -prune -o \
	-type f -name '*.sh' -print; ls .ci/run 2>/dev/null || true)
if ! command -v shellcheck >/dev/null 2>&1; then
	echo "lint: shellcheck is not installed: scripts were not checked" >&2
	exit 0
fi
# shellcheck disable=SC2086 # one word per script; none has a blank in its name
shellcheck --external-sources $scripts
