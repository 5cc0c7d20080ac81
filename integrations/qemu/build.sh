#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds a QEMU unless it is built, and prints its cache directory:
#
#   version               version of the Debian source package
#   qemu-system-x86_64    the program
#   firmware/             what it loads (-L)
#
# usage: build.sh [--update] VERSION [stock|patched]
#        build.sh --tree DIR VERSION [stock|patched]
#
#   VERSION   11.1  what the patches are for
#             10.2  the series before, with patches of its own
#             10.0  the one of Debian stable, without any
#   patched   with patches/VERSION/*.patch, and linked with the library where these
#             know of it; without any patch, this is the stock one
#   --update  look for a newer source package first
#   --tree    only unpack and patch the source, in DIR, for work on the patches
#
# Of each series, sources.txt has the source packages that are known, with checksums; the newest
# of them that the archive still has is taken, whether or not a suite lists it. Where it has none
# of these, the newest that a suite lists.
#
# A QEMU in the cache is used as it is, without asking the network. The key is the package's
# version and a hash of everything else that decides the result: this recipe's number, the
# compiler, the patches, the library's header. The library itself is not part of it: it is found
# when QEMU runs (LD_LIBRARY_PATH).

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=lab/common.sh
. "$top/lab/common.sh"
# shellcheck source=lab/debian.sh
. "$LAB_DIR/debian.sh"

# Increase this when a change to this file makes cached builds unusable.
RECIPE=4
# What QEMU's configure wants of Python and, as nothing is downloaded meanwhile, must be there.
# It needs Meson 1.5 or newer, which Debian 12 does not have.
PYTHON=(meson==1.9.2 pycotap==1.3.1 qemu.qmp==0.0.6 setuptools==80.9.0 wheel==0.45.1)

update=0 tree=
usage() {
	sed -n '/^# usage/,/^#   --tree/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
while [ $# -gt 0 ]; do
	case $1 in
	--update) update=1; shift ;;
	--tree) [ $# -ge 2 ] || usage; tree=$2; shift 2 ;;
	-*) usage ;;
	*) break ;;
	esac
done
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
	usage
fi
version=$1 kind=${2:-stock}

# Debian's own patches, without which its source, which comes without blobs, does not configure.
debian_patches=(skip-unpack-edk2-blobs)
case $version in
11.1 | 10.2) suites=(sid) debian_patches+=(skip-install-dtb) ;;
10.0) suites=(trixie) ;;
*) lab_die "no version '$version' (there are: 11.1 10.2 10.0)" ;;
esac
patches=()
case $kind in
stock) ;;
patched)
	[ -d "$here/patches/$version" ] || lab_die "there are no patches for $version"
	for p in "$here/patches/$version"/*.patch; do
		[ ! -e "$p" ] || patches+=("$p")
	done
	[ ${#patches[@]} -gt 0 ] || kind=stock
	;;
*) usage ;;
esac

hash=$(
	{
		echo "$RECIPE ${PYTHON[*]} ${debian_patches[*]}"
		gcc -dumpfullversion 2>/dev/null || echo none
		# Comments in the header do not matter.
		[ "$kind" = stock ] || { cat "${patches[@]}"; gcc -fpreprocessed -dD -E -P "$top/include/vfiomig.h" 2>/dev/null; }
	} | sha256sum | cut -c1-12
)
parent=$LAB_CACHE/qemu/$version-$kind

if [ -z "$tree" ] && [ $update -eq 0 ] && lab_cached "$parent" "$hash" qemu-system-x86_64; then
	exit 0
fi

"$here/deps.sh"
mkdir -p "$LAB_CACHE/tmp" "$LAB_CACHE/debs" "$LAB_CACHE/log" "$parent"

# One build at a time. A script that waited finds the other's result.
exec 8>"$LAB_CACHE/lock.qemu"
if ! flock -n 8; then
	lab_note "waiting for another build of QEMU $version $kind"
	flock 8
fi
if [ -z "$tree" ] && [ $update -eq 0 ] && lab_cached "$parent" "$hash" qemu-system-x86_64; then
	exit 0
fi

# What an interrupted build left may lie there: nobody else holds the lock. Always the same
# place: most of what is compiled is the same with and without patches, and the compiler's cache
# knows it by its path.
tmp=$LAB_CACHE/tmp/qemu
rm -rf "$tmp"
mkdir "$tmp"
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
log=$LAB_CACHE/log/qemu-$version-$kind.log
: >"$log"

# --- the source --------------------------------------------------------------

# known PACKAGE ORIG DEBIAN: the files of a known package and their checksums, if the archive has
# them. In $sources, and kept.
known() {
	local file sum
	sources=$LAB_CACHE/debs/qemu_$1
	[ ! -e "$sources/complete" ] || return 0
	rm -rf "$tmp/fetch"
	mkdir "$tmp/fetch"
	for file in "qemu_${1%-*}.orig.tar.xz $2" "qemu_$1.debian.tar.xz $3"; do
		read -r file sum <<<"$file"
		/usr/lib/apt/apt-helper -o APT::Sandbox::User=root -o Acquire::Retries=2 download-file \
			"${mirror%/}/pool/main/q/qemu/$file" "$tmp/fetch/$file" "SHA256:$sum" >>"$log" 2>&1 ||
			return 1
	done
	touch "$tmp/fetch/complete"
	rm -rf "$sources"
	mv "$tmp/fetch" "$sources"
}

# The newest that a suite lists: checked by apt.
listed() {
	local lines
	mapfile -t lines < <(printf 'deb-src main %s\n' "${suites[@]}")
	debian_apt "apt-qemu-$version" "${lines[@]}"
	# The archive may have a newer series next to the one that is asked for.
	package=$(apt-cache "${apt_conf[@]}" showsrc qemu | sed -n 's/^Version: //p' |
		grep -E "^([0-9]+:)?${version//./\\.}[.+~-]" | sort -V | tail -n 1 || true)
	[ -n "$package" ] || lab_die "the archive has no source of QEMU $version that is known" \
		"(sources.txt); its suites (${suites[*]}) list:" \
		"$(apt-cache "${apt_conf[@]}" showsrc qemu | sed -n 's/^Version: //p' | tr '\n' ' ')"
	sources=$LAB_CACHE/debs/qemu_${package//[^A-Za-z0-9.+~-]/_}
	if [ ! -e "$sources/complete" ]; then
		mkdir -p "$tmp/listed"
		(cd "$tmp/listed" && apt-get "${apt_conf[@]}" -q source --download-only "qemu=$package") >>"$log" 2>&1 ||
			{ tail -n 5 "$log" >&2; lab_die "cannot fetch the source of QEMU $package; see $log"; }
		touch "$tmp/listed/complete"
		rm -rf "$sources"
		mv "$tmp/listed" "$sources"
	fi
	flock -u 9
}

# unpack DIR
unpack() {
	local p
	mkdir -p "$1" "$tmp/packaging"
	tar -C "$1" --strip-components=1 -xf "$(echo "$sources"/*.orig.tar.*)"
	tar -C "$tmp/packaging" -xf "$(echo "$sources"/*.debian.tar.*)"
	for p in "${debian_patches[@]}"; do
		patch -d "$1" -p1 -s -i "$tmp/packaging/debian/patches/$p.patch" >>"$log" 2>&1 ||
			lab_die "Debian's $p.patch does not apply; see $log"
	done
}

lab_note "looking for the source of QEMU $version"
debian_mirror
package=
while read -r series name sums; do
	# shellcheck disable=SC2086  # two words
	if [ "$series" = "$version" ] && known "$name" $sums; then
		package=$name
		break
	fi
done <"$here/sources.txt"
[ -n "$package" ] || listed
dir=$parent/${package//[^A-Za-z0-9.-]/_}-$hash
if [ -z "$tree" ] && [ -e "$dir/qemu-system-x86_64" ]; then
	printf '%s\n' "$dir"
	exit 0
fi

if [ -n "$tree" ]; then
	[ ! -e "$tree" ] || lab_die "$tree exists"
	unpack "$tree"
	"$here/series.sh" apply "$tree" "$here/patches/$version" "QEMU $package" >&2
	printf '%s\n' "$tree"
	exit 0
fi

# --- building ----------------------------------------------------------------

started=$(lab_now)
src=$tmp/src out=$tmp/out
unpack "$src"
if [ ${#patches[@]} -gt 0 ]; then
	"$here/series.sh" apply "$src" "$here/patches/$version" >>"$log" 2>&1 ||
		{ tail -n 5 "$log" >&2; lab_die "the patches do not apply to QEMU $package; see $log"; }
fi

venv=$LAB_CACHE/qemu/python-$(sha256sum <<<"${PYTHON[*]}" | cut -c1-12)
if [ ! -e "$venv/complete" ]; then
	lab_note "installing ${PYTHON[*]}"
	(
		flock 9
		[ ! -e "$venv/complete" ] || exit 0
		rm -rf "$venv"
		python3 -m venv "$venv"
		"$venv/bin/pip" install -q --disable-pip-version-check "${PYTHON[@]}"
		touch "$venv/complete"
	) 9>"$LAB_CACHE/lock.python" >>"$log" 2>&1 8>&- ||
		{ tail -n 5 "$log" >&2; lab_die "cannot install ${PYTHON[*]}; see $log"; }
fi

options=(
	--target-list=x86_64-softmmu
	--without-default-features --enable-tcg --enable-kvm
	--disable-docs --disable-tools --disable-install-blobs
	--disable-download --disable-debug-info
	"--cc=ccache gcc"
	"--python=$venv/bin/python"
)
export CCACHE_DIR=$LAB_CACHE/ccache CCACHE_MAXSIZE=1G
# Our code must compile without warnings. The same options without patches: otherwise the
# compiler's cache would be of no use.
if [ -d "$here/patches/$version" ]; then
	options+=(--enable-werror)
else
	options+=(--disable-werror)
fi
if grep -qs "'vfiomig'" "$src/meson_options.txt"; then
	lab_note "building the library"
	make -C "$top" all >>"$log" 2>&1 8>&- || { tail -n 20 "$log" >&2; lab_die "building the library failed; see $log"; }
	make -C "$top" install "PREFIX=$tmp/prefix" >>"$log" 2>&1 8>&- || lab_die "installing the library failed; see $log"
	export PKG_CONFIG_PATH=$tmp/prefix/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
	options+=(-Dvfiomig=enabled)
fi

lab_note "building QEMU $package $kind (some minutes; log: $log)"
mkdir "$src/build"
(
	cd "$src/build"
	# No path of this machine in the program.
	../configure "${options[@]}" "--extra-cflags=-ffile-prefix-map=$src=qemu"
	ninja "-j$(nproc)" qemu-system-x86_64
) >>"$log" 2>&1 8>&- || { tail -n 20 "$log" >&2; lab_die "building QEMU $version $kind failed; see $log"; }

# Without the library: what the patches touch builds as well.
if [[ " ${options[*]} " == *" -Dvfiomig=enabled "* ]]; then
	lab_note "building QEMU's VFIO without the library"
	mkdir "$src/without"
	(
		# Here set -e has no effect.
		cd "$src/without" && ../configure "${options[@]}" -Dvfiomig=disabled || exit 1
		mapfile -t objects < <(ninja -t targets all | sed -n 's/^\([^:]*hw_vfio_[^:]*\.o\):.*/\1/p')
		[ ${#objects[@]} -gt 0 ] && ninja "-j$(nproc)" "${objects[@]}" || exit 1
		! grep -q 'define CONFIG_VFIOMIG' config-host.h
	) >>"$log" 2>&1 8>&- || { tail -n 20 "$log" >&2; lab_die "building QEMU without the library failed; see $log"; }
fi

mkdir -p "$out/firmware"
# Without symbols it is a fifth of the size, and all of it goes through the machine's initramfs.
strip -o "$out/qemu-system-x86_64" "$src/build/qemu-system-x86_64"
cp /usr/share/seabios/bios-256k.bin "$out/firmware/"
# Looked for wherever there is a local APIC.
for f in /usr/share/qemu/kvmvapic.bin /usr/share/qemu/optionrom/kvmvapic.bin; do
	[ ! -e $f ] || { cp $f "$out/firmware/"; break; }
done
cp "$src/build/config-host.h" "$src/hw/vfio/trace-events" "$out/"
echo "$package" >"$out/version"
rm -rf "$dir"
mv "$out" "$dir"
# Others of this kind are from old patches or packages; what is running has its own copy.
find "$parent" -mindepth 1 -maxdepth 1 ! -path "$dir" -mmin +1440 -exec rm -rf {} +
lab_note "built QEMU $package $kind in $(($(lab_now) - started)) s"
printf '%s\n' "$dir"
