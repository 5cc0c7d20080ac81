#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds a kernel variant unless it is built, and prints its cache directory:
#
#   version       version of the Debian package it was made from
#   release       what `uname -r` says in the guest
#   bzImage       the kernel
#   modules/      numbered .ko files to insert in this order (may be empty)
#   build         tree for `make -C build M=...`
#   src/          mtty.c and iommufd_test.h of the same kernel source
#
# usage: kernel.sh [--update] VARIANT
#
# A variant in the cache is used as it is, without asking the network; --update looks for a
# newer package first. The key is the package version and a hash of everything else that decides
# the result: configuration fragments, this recipe's number, the compiler.

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=lab/debian.sh
. "$LAB_DIR/debian.sh"

# Increase this when a change to this file makes cached kernels unusable.
RECIPE=1

update=0
[ "${1-}" != --update ] || { update=1; shift; }
[ $# -eq 1 ] || lab_die "usage: kernel.sh [--update] VARIANT"
variant=$1
lab_is_variant "$variant" || lab_die "no variant '$variant' (there are: ${LAB_VARIANTS[*]})"

case $variant in
6.12) source_package=linux-source-6.12 fragments=(kernel.config kernel-6.12.config) ;;
7.3) source_package=linux-source-7.3 fragments=(kernel.config kernel-7.3.config) ;;
debian-6.12) source_package=linux-source-6.12 fragments=() ;;
esac

# What the guest inserts of Debian's modules, in an order in which each needs
# only earlier ones.
debian_modules=(
	netfs 9pnet 9p 9pnet_virtio
	irqbypass vfio vfio_iommu_type1 vfio-pci-core vfio-pci
	mdev
)

hash=$(
	{
		echo "$RECIPE"
		gcc -dumpfullversion 2>/dev/null || echo none
		for f in "${fragments[@]}"; do
			cat "$LAB_DIR/$f"
		done
		[ "$variant" != debian-6.12 ] || echo "${debian_modules[*]}"
	} | sha256sum | cut -c1-12
)
parent=$LAB_CACHE/kernels/$variant

if [ $update -eq 0 ] && lab_cached "$parent" "$hash" bzImage; then
	exit 0
fi

"$LAB_DIR/deps.sh"
mkdir -p "$LAB_CACHE/tmp" "$LAB_CACHE/debs" "$LAB_CACHE/log" "$parent"

# One build per variant at a time. A script that waited finds the other's result.
exec 8>"$LAB_CACHE/lock.$variant"
if ! flock -n 8; then
	lab_note "waiting for another build of $variant"
	flock 8
fi
if [ $update -eq 0 ] && lab_cached "$parent" "$hash" bzImage; then
	exit 0
fi

# What an interrupted build of this variant left: nobody else holds the lock.
find "$LAB_CACHE/tmp" -mindepth 1 -maxdepth 1 -name "$variant.*" -exec rm -rf {} +
tmp=$(mktemp -d "$LAB_CACHE/tmp/$variant.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
log=$LAB_CACHE/log/$variant.log
: >"$log"

# --- Debian packages --------------------------------------------------------

# candidate PACKAGE: the version apt would install.
candidate() {
	local v
	v=$(apt-cache "${apt_conf[@]}" policy "$1" | awk '$1 == "Candidate:" { print $2 }')
	if [ -z "$v" ] || [ "$v" = "(none)" ]; then
		lab_note "the archive has no $1; what it has:"
		apt-cache "${apt_conf[@]}" search '^linux-source-' >&2
		return 1
	fi
	printf '%s\n' "$v"
}

# unpack PACKAGE VERSION DIR: into DIR; the .deb is kept for next time.
unpack() {
	local package=$1 version=$2 dir=$3 deb
	deb=$LAB_CACHE/debs/${package}_${version//:/%3a}.deb
	if [ ! -s "$deb" ]; then
		lab_note "fetching $package $version"
		mkdir -p "$tmp/fetch"
		(cd "$tmp/fetch" && apt-get "${apt_conf[@]}" -q download "$package=$version") >>"$log" 2>&1 ||
			{ tail -n 5 "$log" >&2; lab_die "cannot fetch $package $version; see $log"; }
		# Nobody will ask for older versions of the same package again.
		find "$LAB_CACHE/debs" -name "${package}_*.deb" -delete
		mv "$tmp/fetch/${package}_"*.deb "$deb"
	fi
	mkdir -p "$dir"
	dpkg -x "$deb" "$dir"
}

# --- The lab's own kernels ---------------------------------------------------

# What `make M=...` reads, as Debian's header packages choose it, and no more: a full tree is
# 1.8 GB.
prune_into() {
	local tree=$1 build=$2 d
	(
		cd "$tree"
		{
			find . -maxdepth 1 -type f
			find include arch/x86/include scripts -type f ! -name '*.o' ! -name '*.o.cmd'
			find include arch/x86/include scripts -type l
			# Kbuild includes these by name even for external modules.
			find arch/x86 arch/Kconfig -type f \( -name 'Makefile*' -o -name 'Kconfig*' -o -name 'Kbuild*' \)
			for d in tools/objtool/objtool tools/scripts/Makefile.include tools/build/Build.include; do
				[ ! -f "$d" ] || echo "$d"
			done
		} | sort -u | grep -vE '^\./(\.?(tmp_)?vmlinux[^/]*|built-in[^/]*|System\.map)$' |
			cpio -pdm --quiet "$build"
	)
}

build_own() {
	local version=$1 tree=$tmp/tree out=$tmp/out started
	started=$(lab_now)
	unpack "$source_package" "$version" "$tmp/deb"
	flock -u 9
	lab_note "unpacking $source_package $version"
	mkdir -p "$tree" "$out/modules" "$out/src" "$out/build"
	tar -C "$tree" --strip-components=1 -xf "$tmp/deb/usr/src/$source_package.tar.xz"

	lab_note "building $variant (a few minutes; log: $log)"
	(
		cd "$tree"
		# Reproducible, and without this machine's name in the image.
		export KBUILD_BUILD_USER=lab KBUILD_BUILD_HOST=lab
		make -s tinyconfig
		paths=()
		for f in "${fragments[@]}"; do
			paths+=("$LAB_DIR/$f")
		done
		scripts/kconfig/merge_config.sh -m .config "${paths[@]}"
		make -s olddefconfig
		# An option that a dependency silently switched off would show up only as a test that
		# fails mysteriously.
		while IFS= read -r o; do
			grep -qxF "$o" .config || { echo "not in the final configuration: $o"; exit 1; }
		done < <(grep -h '^CONFIG_' "${paths[@]}")
		# "modules" although there are none: it writes Module.symvers, which
		# modules built outside the tree are linked against.
		make -s -j"$(nproc)" bzImage modules
		make -s kernelrelease >"$out/release"
	) >>"$log" 2>&1 8>&- 9>&- || { tail -n 20 "$log" >&2; lab_die "building $variant failed; see $log"; }

	cp "$tree/arch/x86/boot/bzImage" "$tree/.config" "$out/"
	cp "$tree/samples/vfio-mdev/mtty.c" "$tree/drivers/iommu/iommufd/iommufd_test.h" "$out/src/"
	prune_into "$tree" "$out/build"
	lab_note "built $variant in $(($(lab_now) - started)) s"
}

# --- Debian's kernel ---------------------------------------------------------

build_debian() {
	local version=$1 root=$tmp/out/root out=$tmp/out image headers common kbuild release h n=0 m path started
	started=$(lab_now)
	# The metapackages of the same version name the packages with the ABI in
	# their names.
	depends() {
		apt-cache "${apt_conf[@]}" show "$1=$version" |
			sed -n 's/^Depends: //p' | tr ',' '\n' | sed 's/^ *//; s/ .*//' | grep -E "^$2" | head -n 1
	}
	image=$(depends linux-image-6.12-amd64 linux-image-6.12)
	headers=$(depends linux-headers-6.12-amd64 linux-headers-6.12)
	common=$(depends "$headers" 'linux-headers-.*-common')
	kbuild=$(depends "$headers" linux-kbuild-)
	release=${image#linux-image-}
	unpack "$source_package" "$version" "$tmp/deb"
	unpack "$image" "$version" "$tmp/image"
	for h in "$headers" "$common" "$kbuild"; do
		unpack "$h" "$version" "$root"
	done
	flock -u 9

	lab_note "building the sample module for $variant"
	mkdir -p "$out/modules" "$out/src" "$tmp/mtty"
	tar -C "$out/src" --strip-components=3 -xf "$tmp/deb/usr/src/$source_package.tar.xz" \
		"$source_package/samples/vfio-mdev/mtty.c"
	tar -C "$out/src" --strip-components=4 -xf "$tmp/deb/usr/src/$source_package.tar.xz" \
		"$source_package/drivers/iommu/iommufd/iommufd_test.h"

	# The header packages expect to be in /usr/src, but here they are not.
	h=$root/usr/src/$headers
	# shellcheck disable=SC2016  # make's variables, not the shell's
	sed -i "s|^include /usr/src/|include \$(dir \$(realpath \$(lastword \$(MAKEFILE_LIST))))../|" "$h/Makefile"
	# Needed only for type information (BTF), which would require pahole; without it kbuild
	# skips that step, and modules load all the same.
	rm -f "$h/vmlinux"
	# Debian's compiler of that release may not be this machine's.
	if ! command -v "$(sed -n 's/^override CROSS_COMPILE = *//p; s/^CC = .*(CROSS_COMPILE)//p' "$h/.kernelvariables" |
		sort -r | tr -d '\n')" >/dev/null; then
		sed -i 's/^CC = .*/CC = gcc/; s/^override CROSS_COMPILE = .*/override CROSS_COMPILE =/' "$h/.kernelvariables"
	fi
	ln -s "root/usr/src/$headers" "$out/build"

	cp "$out/src/mtty.c" "$tmp/mtty/"
	echo 'obj-m := mtty.o' >"$tmp/mtty/Makefile"
	make -C "$out/build" M="$tmp/mtty" modules >>"$log" 2>&1 8>&- 9>&- ||
		{ tail -n 20 "$log" >&2; lab_die "building mtty.ko failed; see $log"; }

	# Decompressed, since busybox's insmod may not know xz.
	for m in "${debian_modules[@]}"; do
		path=$(find "$tmp/image/lib/modules/$release/kernel" -name "$m.ko*" -print -quit)
		[ -n "$path" ] || lab_die "$image has no module $m"
		n=$((n + 1))
		m=$out/modules/$(printf '%02d' $n)-$m.ko
		case $path in
		*.xz) xz -dc "$path" >"$m" ;;
		*.zst) zstd -qdc "$path" >"$m" ;;
		*) cp "$path" "$m" ;;
		esac
	done
	cp "$tmp/mtty/mtty.ko" "$out/modules/$(printf '%02d' $((n + 1)))-mtty.ko"
	cp "$tmp/image/boot/vmlinuz-$release" "$out/bzImage"
	cp "$tmp/image/boot/config-$release" "$out/.config"
	echo "$release" >"$out/release"
	lab_note "made $variant in $(($(lab_now) - started)) s"
}

debian_apt apt 'deb security bookworm-security' 'deb main trixie-backports' 'deb main sid'
version=$(candidate "$source_package")
# Some characters of Debian versions mean something to make and to the shell.
dir=$parent/${version//[^A-Za-z0-9.-]/_}-$hash
if [ ! -e "$dir/bzImage" ]; then
	rm -rf "$dir"
	if [ "$variant" = debian-6.12 ]; then
		build_debian "$version"
	else
		build_own "$version"
	fi
	echo "$version" >"$tmp/out/version"
	mv "$tmp/out" "$dir"
fi
printf '%s\n' "$dir"
