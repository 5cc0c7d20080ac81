#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The Debian packages that the lab needs. Run as root, installs those that are missing;
# otherwise names them and exits 1. Prints nothing if all are there.
#
# usage: deps.sh [--list]

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(
	# building the kernels and the sample module
	gcc libc6-dev make bc bison flex libelf-dev libssl-dev xz-utils kmod
	# kernel scripts run them
	perl python3-minimal
	# packing and booting; the firmware packages are only "recommended" by
	# QEMU and are therefore named here
	qemu-system-x86 seabios busybox-static cpio
	# flock, setsid; file locking of the cache
	util-linux
)

case ${1-} in
--list)
	printf '%s\n' "${packages[@]}"
	exit 0
	;;
'') ;;
*) lab_die "usage: deps.sh [--list]" ;;
esac

command -v dpkg-query >/dev/null ||
	lab_die "this lab takes its kernels from Debian's packages and needs a Debian machine"

lab_install "${packages[@]}"
