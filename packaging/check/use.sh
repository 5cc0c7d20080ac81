#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# In a root that has only a compiler: installs the packages of /debs, uses them, follows what they refer to,
# and removes them again without a trace.
#
# usage: use.sh VERSION PACKAGE...

set -u
version=$1
shift
group=installed
# shellcheck source=packaging/check/inside.sh
. /check/inside.sh

everything >/tmp/before
debs=$(for package; do echo "/debs/${package}_$version-1"_*.deb; done)
# shellcheck disable=SC2086 # words
verdict apt-installs "$(apt_quiet install $debs
	for package; do
		dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package is not installed"
	done)"

# The packages' autopkgtest, which runs in the source tree.
tests=$(sed -n 's/^Tests: //p' /source/packaging/debian/tests/control)
for test in $tests; do
	(cd /source && "packaging/debian/tests/$test") >/tmp/use.log 2>&1
	sed -n "s/^ok use-installed /ok installed $test-/p" /tmp/use.log
	passed=$((passed + $(grep -c '^ok ' /tmp/use.log)))
	grep -q '^use-installed: [1-9][0-9]* passed, 0 failed$' /tmp/use.log || bad "$test" "$(grep -v '^ok ' /tmp/use.log)"
done

# What the packages brought, and nothing else, so that a link to another package's file is a dead one.
for package; do dpkg-query -L "$package"; done | sort -u | while read -r path; do
	if [ -f "$path" ] || [ -L "$path" ]; then
		mkdir -p "/tmp/brought$(dirname "$path")"
		cp -P "$path" "/tmp/brought$path"
	fi
done
verdict links-of-files "$(find /tmp/brought -type l | while read -r link; do
	[ -e "$link" ] || echo "$link leads nowhere"
done)"
find /tmp/brought -name '*.[1-9].gz' -exec gunzip {} +
verdict links-of-documents "$(out=$(/source/scripts/lint-docs.py /tmp/brought/usr/share /tmp/brought/usr/include/vfiomig.h \
	/tmp/brought/usr/include/vfiomig-sim.h 2>&1) || echo "$out")"
# What headers and pages call by name.
verdict names-of-documents "$(grep -rhoE '\b(docs|c-tests|lab|sim|integrations|scripts)/[A-Za-z0-9._/-]*[A-Za-z0-9]' \
	/tmp/brought/usr/include /tmp/brought/usr/share/man | sort -u | while read -r name; do
	[ -e "/usr/share/doc/libvfiomig/$name" ] || echo "$name is named, and not installed"
done)"

# These must see what they are to judge.
verdict dead-links-are-seen "$(
	mkdir -p /tmp/wrong/usr
	cp -a /tmp/brought/usr/share /tmp/brought/usr/include /tmp/wrong/usr/
	rm "/tmp/wrong/usr/share/doc/libvfiomig/docs/abi.md"
	/source/scripts/lint-docs.py /tmp/wrong/usr/share /tmp/wrong/usr/include/vfiomig.h >/tmp/out 2>&1 && echo 'none was'
	grep -q 'README.md.*abi\.md' /tmp/out || head -n 20 /tmp/out)"
verdict a-missing-page-is-seen "$(
	page=$(man --where 3 vfiomig_save_next)
	mv "$page" /tmp/page.gz
	/source/packaging/use-installed.sh manual >/tmp/out 2>&1 && echo 'it was not'
	mv /tmp/page.gz "$page"
	grep -q 'no page for vfiomig_save_next()' /tmp/out || cat /tmp/out)"
verdict documents-are-not-compressed "$(find /usr/share/doc/libvfiomig -name '*.gz')"

verdict purges "$(apt_quiet purge "$@")"
everything >/tmp/after
verdict nothing-is-left "$(diff /tmp/before /tmp/after)"
closing
