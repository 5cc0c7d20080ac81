#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# A program that was built with an earlier package, of /earlier, goes on after the upgrade to those of /debs.
# The earlier library lacks vfiomig_error_describe().
#
# usage: upgrade.sh VERSION

set -u
version=$1
group=upgrade
# shellcheck source=packaging/check/inside.sh
. /check/inside.sh
packages='libvfiomig0 libvfiomig-dev vfiomig-tools vfiomig-test'

everything >/tmp/before
debs=$(for package in $packages; do echo "/earlier/${package}_0.0.9-1"_*.deb; done)
# shellcheck disable=SC2086 # words
verdict installs-earlier "$(apt_quiet install $debs)"
cat >/tmp/newer.c <<'END'
#include <errno.h>
#include <stdio.h>
#include <vfiomig.h>
int main(void)
{
    return puts(vfiomig_error_describe(-EINVAL)) < 0;
}
END
# shellcheck disable=SC2046 # words
verdict earlier-lacks-a-function "$(cc -o /tmp/newer /tmp/newer.c $(pkg-config --cflags --libs vfiomig) 2>/tmp/err && echo 'it does not'
	grep -q 'undefined reference.*vfiomig_error_describe' /tmp/err || cat /tmp/err)"
# shellcheck disable=SC2046 # words
verdict program "$(cc -D_GNU_SOURCE -o /tmp/demo /source/c-tests/demo/*.c $(pkg-config --cflags --libs vfiomig-sim) -pthread 2>&1)"
verdict runs-before "$(/tmp/demo >/tmp/out 2>&1 || cat /tmp/out)"
debs=$(for package in $packages; do echo "/debs/${package}_$version-1"_*.deb; done)
# shellcheck disable=SC2086 # words
verdict upgrades "$(apt_quiet install $debs
	for package in $packages; do
		dpkg-query -W -f '${Version}' "$package" | grep -qx "$version-1" || echo "$package was not upgraded"
	done)"
verdict runs-after "$(/tmp/demo >/tmp/out 2>&1 || cat /tmp/out)"
# shellcheck disable=SC2046 # words
verdict new-function-is-there "$(cc -o /tmp/newer /tmp/newer.c $(pkg-config --cflags --libs vfiomig) 2>&1
	/tmp/newer | grep -q '[a-z]' || echo "it says nothing")"
# shellcheck disable=SC2086 # words
verdict purges "$(apt_quiet purge $packages)"
everything >/tmp/after
verdict nothing-is-left "$(diff /tmp/before /tmp/after)"
closing
