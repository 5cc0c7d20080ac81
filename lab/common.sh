# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Shared by the lab's scripts; sourced, never run.
# shellcheck disable=SC2034  # what is set here, those scripts use

LAB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAB_VARIANTS=(6.12 7.3 debian-6.12)
LAB_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/vfiomig-lab

lab_die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

lab_note() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

lab_is_variant() {
	local v
	for v in "${LAB_VARIANTS[@]}"; do
		[ "$v" = "$1" ] && return 0
	done
	return 1
}

# Seconds, for messages about how long something took.
lab_now() {
	date +%s
}

# lab_install PACKAGE...: makes sure that these Debian packages are installed: as root by
# installing what is missing, otherwise by naming it and failing.
lab_install() {
	local p status missing=()
	for p in "$@"; do
		# The status must be asked for: dpkg still knows a removed package that left its
		# configuration behind.
		status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
		[ "$status" = installed ] || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0

	if [ "$(id -u)" -ne 0 ] || [ -n "${VFIOMIG_NO_INSTALL-}" ]; then
		lab_note "these Debian packages are missing: ${missing[*]}"
		lab_note "as root: apt-get install --no-install-recommends ${missing[*]}"
		exit 1
	fi

	lab_note "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >&2
	apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

# lab_cached PARENT HASH FILE: prints the newest directory in PARENT that was made for HASH and
# contains FILE; fails if there is none.
lab_cached() {
	local d found=
	# sort -V: after an --update there may be several package versions.
	while IFS= read -r d; do
		[ -e "$d/$3" ] && found=$d
	done < <(find "$1" -mindepth 1 -maxdepth 1 -name "*-$2" 2>/dev/null | sort -V)
	[ -n "$found" ] && printf '%s\n' "$found"
}
