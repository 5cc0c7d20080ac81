# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The steps of check-packages that are about other machines and other packages; sourced by run.sh.
# shellcheck disable=SC2154

# Without link-time optimisation, which takes most of the time and has nothing to do with the machine.
cross_build() { # ARCHITECTURE
	prepare "cross-$1"
	# shellcheck disable=SC2016 # for the shell inside
	counted "cross-$1" "cross-$1" in_place "cross-$1" "$cross" sh -euc '
		export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
		mkdir /build
		tar -xzf "/check/libvfiomig-$1.tar.gz" -C /build
		tar -xzf "/check/libvfiomig-$1-vendor.tar.gz" -C /build
		cd "/build/libvfiomig-$1"
		exec packaging/check/cross.sh "$2"' sh "$version" "$1"
	tail -n 1 "$log_dir/cross-$1.log" >>"$work/notes"
}

rpm_build() {
	prepare rpm
	counted rpm rpm in_place rpm "$build" /check/rpm.sh "$version"
	sed -n 's/^note: //p' "$log_dir/rpm.log" >>"$work/notes"
}
