#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Looks for the programs that `make check` needs besides cargo, and installs the missing ones if
# it can: as root on a Debian machine. What the lab needs is up to lab/deps.sh.

set -eu

# program:package
needed='cc:gcc c++:g++ make:make pkg-config:pkg-config nm:binutils valgrind:valgrind
	shellcheck:shellcheck strace:strace python3:python3'

packages=
for pair in $needed; do
	command -v "${pair%%:*}" >/dev/null 2>&1 || packages="$packages ${pair#*:}"
done
[ -n "$packages" ] || exit 0

# A package build runs as (fake) root too, and must not install anything.
if [ "$(id -u)" != 0 ] || [ -n "${FAKEROOTKEY-}${VFIOMIG_NO_INSTALL-}" ] ||
	! command -v apt-get >/dev/null 2>&1; then
	echo "deps: please install:$packages" >&2
	echo "deps: (names of Debian's packages; as root on Debian: make deps)" >&2
	exit 1
fi
echo "deps: installing$packages"
# shellcheck disable=SC2086 # one word per package
{
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $packages ||
		{ apt-get update --quiet &&
			DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $packages; }
} >&2
