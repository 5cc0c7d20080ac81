#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The Debian packages that building QEMU needs, besides those of lab/deps.sh. Run as root,
# installs those that are missing; otherwise names them and exits 1. Prints nothing if all are
# there.
#
# usage: deps.sh [--list]

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../lab/common.sh"

packages=(
	libglib2.0-dev libpixman-1-dev libfdt-dev zlib1g-dev
	ninja-build pkg-config python3-venv patch git ccache
)

case ${1-} in
--list)
	printf '%s\n' "${packages[@]}"
	exit 0
	;;
'') ;;
*) lab_die "usage: deps.sh [--list]" ;;
esac

"$LAB_DIR/deps.sh"
lab_install "${packages[@]}"
