#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the RPMs, looks at them, installs, uses and removes them. Debian's packages are not known to rpm:
# dependencies between others than these are not checked.
#
# usage: rpm.sh VERSION

set -u
version=$1
group=rpm
# shellcheck source=packaging/check/inside.sh
. /check/inside.sh
top=/tmp/rpmbuild
mkdir -p $top/SOURCES $top/SPECS
cp /check/libvfiomig-"$version"*.tar.gz $top/SOURCES/
cp /source/packaging/rpm/libvfiomig.spec $top/SPECS/

# The tests of a build ran while Debian's packages were built, with the same compiler.
rpmbuild --define "_topdir $top" -ba --nodeps --nocheck $top/SPECS/libvfiomig.spec >/tmp/rpmbuild.log 2>&1
status=$?
verdict builds "$([ $status -eq 0 ] || grep -vE '^ *(Compiling|Running|Fresh) ' /tmp/rpmbuild.log | tail -n 30)"
[ $status -eq 0 ] || { closing; exit 1; }
rpms=$(find $top/RPMS -name '*.rpm' | sort)
# shellcheck disable=SC2086 # words
rpmlint --config /source/packaging/rpm/rpmlint.toml $top/SPECS/libvfiomig.spec $rpms >/tmp/rpmlint 2>&1
cat /tmp/rpmlint
verdict rpmlint "$(grep ' E: ' /tmp/rpmlint; grep -qE '^ *[0-9]+ packages and [0-9]+ specfiles checked; 0 errors' /tmp/rpmlint || tail -n 5 /tmp/rpmlint)"
echo "note: rpmlint: $(sed -n 's/^ *\([0-9]* packages and.*warnings\).*/\1/p' /tmp/rpmlint)"
for rpm in $rpms; do
	echo "note: $(printf '%9d bytes  %s' "$(stat -c %s "$rpm")" "$(basename "$rpm")")"
done
verdict provides "$(for rpm in $rpms; do rpm -qp --provides "$rpm"; done >/tmp/provides 2>/dev/null
	for what in 'libvfiomig.so.0(VFIOMIG_0.1)(64bit)' "libvfiomig-devel = $version-1" "libvfiomig-tools = $version-1"; do
		grep -qF "$what" /tmp/provides || echo "nothing provides $what"
	done)"
main=$(echo "$rpms" | grep -vE -- '-debug(info|source)-')
# shellcheck disable=SC2086 # words
verdict installs "$(rpm -i --nodeps $main 2>&1)"
verdict links "$(rpm -ql libvfiomig libvfiomig-devel libvfiomig-tools | while read -r path; do
	[ -e "$path" ] || echo "$path leads nowhere"
done)"
libdir=$(rpm -E %_libdir)
cd /source || exit 1
verdict readme-program "$(PKG_CONFIG_PATH=$libdir/pkgconfig LD_LIBRARY_PATH=$libdir \
	c-tests/readme-example.sh README.md >/tmp/out 2>&1 || cat /tmp/out)"
verdict tool "$(vfiomig --version 2>&1 | grep -vxE "(lib)?vfiomig $version")"
files=$(rpm -ql libvfiomig libvfiomig-devel libvfiomig-tools)
verdict removes "$(rpm -e libvfiomig libvfiomig-devel libvfiomig-tools 2>&1
	for file in $files; do
		[ ! -f "$file" ] && [ ! -L "$file" ] || echo "$file is still there"
	done)"
closing
