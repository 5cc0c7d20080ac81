# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The roots of check-packages: layers in the cache, each made once, and made again when this file
# changes. Sourced by run.sh, after lab/common.sh and lab/debian.sh.
# shellcheck disable=SC2034,SC2154  # what is set here, the others use

SUITE=trixie
in_root=$here/in-root.sh

# What a user has who compiles a program.
USER_PACKAGES='g++ man-db pkgconf python3'
# What builds the packages and looks at them.
BUILD_PACKAGES='blhc build-essential cargo debhelper dh-dkms elfutils fakeroot faketime libstd-rust-dev lintian make man-db pkgconf
	python3 rpm rpmlint rustc strace'
CROSS_PACKAGES='g++-aarch64-linux-gnu g++-s390x-linux-gnu qemu-user-static'
DKMS_PACKAGES='dkms linux-headers-amd64'

roots_hash=$(cat "$here/roots.sh" "$here/in-root.sh" | sha256sum | cut -c1-12)

# layer NAME COMMAND...: if there is no such layer, COMMAND makes it in the directory whose name it gets
# behind its arguments.
layer() {
	local name=$1 dir
	shift
	dir=$LAB_CACHE/packages/$name-$roots_hash
	if [ ! -d "$dir" ]; then
		lab_note "making the root '$name'"
		rm -rf "$dir.new"
		mkdir -p "$dir.new"
		"$@" "$dir.new" >"$log_dir/root-$name.log" 2>&1 ||
			{ tail -n 20 "$log_dir/root-$name.log" >&2; lab_die "the root '$name' could not be made"; }
		mv -T "$dir.new" "$dir"
		find "$LAB_CACHE/packages" -mindepth 1 -maxdepth 1 -name "$name-*" ! -path "$dir" -exec rm -rf {} +
	fi
}

layer_path() {
	printf '%s' "$LAB_CACHE/packages/$1-$roots_hash/files"
}

make_base() {
	mkdir "$1/files"
	mmdebstrap --mode=root --variant=minbase --skip=check/empty,cleanup/apt/lists \
		"$SUITE" "$1/files" "deb $mirror $SUITE main"
}

make_with() { # LAYERS PACKAGES DIRECTORY
	# shellcheck disable=SC2086 # words
	"$in_root" --net "$3" "$1" apt-get install --yes --no-install-recommends \
		-o DPkg::Options::=--force-unsafe-io $2
	"$in_root" --net "$3" "$1" apt-get clean
}

# Rust's standard library for other machines is unpacked and not installed: as Debian's packages
# it needs LLVM for them, and the archive does not always have all of that.
make_cross() { # LAYERS DIRECTORY
	make_with "$1" "$CROSS_PACKAGES" "$2"
	# shellcheck disable=SC2016 # for the shell inside
	"$in_root" --net "$2" "$1" sh -euc '
		for arch in arm64 s390x; do
			dpkg --add-architecture $arch
		done
		apt-get update --quiet
		cd /tmp
		apt-get download libstd-rust-dev:arm64 libstd-rust-dev:s390x
		for deb in libstd-rust-dev_*.deb; do
			dpkg-deb --fsys-tarfile "$deb" | tar --extract --directory=/ --wildcards "./usr/lib/rustlib/*"
		done
		for arch in arm64 s390x; do
			dpkg --remove-architecture $arch
		done'
}

make_roots() {
	local codename
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
	mirror=${LAB_MIRROR:-$(debian_repo_of_suite "$codename")}
	[ -n "$mirror" ] || lab_die "found no Debian archive in this machine's apt sources; set LAB_MIRROR to its address"
	layer base make_base
	base=$(layer_path base)
	# Most of their time they wait for the archive and for the disk.
	layer user make_with "$base" "$USER_PACKAGES" &
	layer dkms make_with "$base" "$DKMS_PACKAGES" &
	layer build make_with "$base" "$BUILD_PACKAGES"
	layer cross make_cross "$(layer_path build):$base"
	wait
	for name in user dkms; do
		[ -d "$(layer_path $name)" ] || lab_die "the root '$name' is not there"
	done
	user=$(layer_path user):$base
	build=$(layer_path build):$base
	dkms=$(layer_path dkms):$base
	cross=$(layer_path cross):$build
}
