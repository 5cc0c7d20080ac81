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
