#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The DKMS package builds its module for Debian's kernel, and takes it away again.
#
# usage: dkms.sh VERSION

set -u
version=$1
group=dkms
# shellcheck source=packaging/check/inside.sh
. /check/inside.sh

kernel=$(basename "$(echo /lib/modules/*-amd64)")
everything >/tmp/before
verdict installs "$(apt_quiet install "/debs/vfiomig-test-dkms_$version-1_all.deb")"
verdict builds "$(dkms install -m vfiomig-test -v "$version" -k "$kernel" >/tmp/dkms.log 2>&1 ||
	{ cat /tmp/dkms.log "/var/lib/dkms/vfiomig-test/$version/build/make.log" 2>/dev/null | tail -n 30; })"
module=$(find "/lib/modules/$kernel" -name 'vfiomig_test.ko*')
verdict module "$([ -n "$module" ] || echo 'there is none'
	for module in $module; do
		modinfo "$module" >/tmp/modinfo 2>&1 || cat /tmp/modinfo
		grep -q "^vermagic: *$kernel " /tmp/modinfo || echo "it is for another kernel"
	done)"
verdict purges "$(apt_quiet purge vfiomig-test-dkms)"
# depmod's files are written anew.
everything | grep -vE '^/(usr/)?lib/modules/[^/]*/modules\.|^/lib/modules' >/tmp/after
grep -vE '^/(usr/)?lib/modules/[^/]*/modules\.|^/lib/modules' /tmp/before >/tmp/before.kept
verdict nothing-is-left "$(diff /tmp/before.kept /tmp/after | grep -v '/var/lib/dkms d'
	find "/lib/modules/$kernel" /usr/src /var/lib/dkms -name 'vfiomig*')"
closing
