# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The steps of check-packages that are about other machines and other packages; sourced by run.sh.
# shellcheck disable=SC2154

# Without link-time optimisation, which takes most of the time and has nothing to do with the machine.
cross_build() { # ARCHITECTURE
	prepare "cross-$1"
	# shellcheck disable=SC2016,SC2086 # for the shell inside; words
	counted "cross-$1" "cross-$1" in_place "cross-$1" "$cross" env $faster sh -euc '
		mkdir /build
		tar -xzf "/check/libvfiomig-$1.tar.gz" -C /build
		tar -xzf "/check/libvfiomig-$1-vendor.tar.gz" -C /build
		cd "/build/libvfiomig-$1"
		exec packaging/check/cross.sh "$2"' sh "$version" "$1"
	tail -n 1 "$log_dir/cross-$1.log" >>"$work/notes"
}

rpm_build() {
	prepare rpm
	# shellcheck disable=SC2086 # words
	counted rpm rpm in_place rpm "$build" env $quick /check/rpm.sh "$version"
	sed -n 's/^note: //p' "$log_dir/rpm.log" >>"$work/notes"
}
