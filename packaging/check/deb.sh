#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the Debian packages from the tarballs of `make dist`, in DIRECTORY/libvfiomig-VERSION, as
# Debian's own machines would. Runs in the root that has their build dependencies.
#
# usage: deb.sh TARBALLS VERSION DIRECTORY [ENVIRONMENT...]

set -eu
tarballs=$1 version=$2 directory=$3
shift 3
mkdir -p "$directory"
cd "$directory"
cp "$tarballs/libvfiomig-$version.tar.gz" "libvfiomig_$version.orig.tar.gz"
cp "$tarballs/libvfiomig-$version-vendor.tar.gz" "libvfiomig_$version.orig-vendor.tar.gz"
tar -xzf "libvfiomig_$version.orig.tar.gz"
cp -R "libvfiomig-$version/packaging/debian" "libvfiomig-$version/"
# As a source package, and out of that again: the component finds its folder by itself.
mkdir source
mv "libvfiomig-$version" source/
cp libvfiomig_* source/
mkdir "source/libvfiomig-$version/vendor"
tar -xzf "libvfiomig_$version.orig-vendor.tar.gz" -C "source/libvfiomig-$version/vendor" --strip-components=1
(cd source && dpkg-source --build "libvfiomig-$version" >/dev/null)
dpkg-source --extract source/*.dsc "libvfiomig-$version" >/dev/null
cp source/*.dsc source/*.debian.tar.* .
rm -rf source
cd "libvfiomig-$version"
env "$@" dpkg-buildpackage --unsigned-source --unsigned-changes --no-pre-clean
