# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The steps of check-packages that are about the Debian packages; sourced by run.sh.
# shellcheck disable=SC2154

# The packages that a VMM's developer installs.
DEBS="libvfiomig0 libvfiomig-dev libvfiomig-doc vfiomig-tools vfiomig-test"

# prepare NAME: a new place with the tarballs and the scripts in /check.
prepare() {
	rm -rf --one-file-system "${work:?}/$1"
	mkdir -p "$work/$1/files/check"
	cp "$tarballs"/* "$work/$1/files/check/"
}

# with_debs NAME: a place with the built packages, besides.
with_debs() {
	prepare "$1"
	mkdir -p "$work/$1/files/debs"
	cp "$work/deb/files/build/one"/*.deb "$work/$1/files/debs/"
}

debian_build() {
	local status=0 log=$log_dir/debian-build.log
	prepare deb
	# shellcheck disable=SC2086 # words
	in_place deb "$build" /check/deb.sh /check "$version" /build/one TZ=UTC $quick \
		DEB_BUILD_OPTIONS="parallel=$(nproc)" >"$log" 2>&1 || status=$?
	cp "$log" "$work/deb/files/build/one/build.log"
	verdict debian builds "$([ $status -eq 0 ] || { grep -vE '^ *(Compiling|Running|Fresh) ' "$log" | tail -n 40; })"
	[ $status -eq 0 ] || return 1
	note "check-build with Debian's compiler, while the packages were built:"
	grep -E '^check-(rust|c|abi|installed): [0-9]+ passed' "$log" | sort -u | sed 's/^/        /' >>"$work/notes"
	verdict debian its-tests-ran "$(for group in rust c abi installed; do
		grep -qE "^check-$group: [1-9][0-9]* passed, 0 failed" "$log" || echo "no line of check-$group"
	done)"
}

# In another directory, a year later, and with another umask, time zone, language and name of the machine.
debian_again() {
	local status=0 log=$log_dir/debian-again.log
	prepare again
	# shellcheck disable=SC2016,SC2086 # for the shell inside; words
	in_place again "$build" sh -c 'umask 077; hostname elsewhere; exec faketime -f +400d /check/deb.sh "$@"' sh /check "$version" \
		/home/somebody/a-longer/path TZ=Pacific/Kiritimati LC_ALL=C USER=somebody $quick \
		DEB_BUILD_OPTIONS="nocheck parallel=1" >"$log" 2>&1 || status=$?
	verdict debian builds-elsewhere "$([ $status -eq 0 ] || tail -n 20 "$log")"
}

debian_compare() {
	local first=$work/deb/files/build/one second=$work/again/files/home/somebody/a-longer/path
	verdict debian two-builds-are-identical "$(
		[ "$(find "$first" -maxdepth 1 -name '*.deb' | wc -l)" -ge 6 ] || echo "fewer than 6 packages"
		cd "$first" || exit
		for deb in *.deb; do
			cmp "$deb" "$second/$deb" 2>&1
		done
	)"
}

debian_look() {
	counted debian debian-look in_place deb "$build" /check/look.sh /build/one "$version"
	sed -n 's/^note: //p' "$log_dir/debian-look.log" >>"$work/notes"
}

debian_use() {
	with_debs use
	# shellcheck disable=SC2086 # words
	counted debian debian-use in_place use "$user" /check/use.sh "$version" $DEBS
}

# The earlier one has a function less, and is otherwise the same: what cargo built is still there.
debian_upgrade() {
	local log=$log_dir/debian-earlier.log status=0
	rm -rf --one-file-system "$work/earlier"
	# shellcheck disable=SC2016,SC2086 # for the shell inside; words
	in_place earlier "$work/deb/files:$build" env $quick sh -euc '
		cd /build/one/libvfiomig-*/
		sed -i "/^    vfiomig_error_describe;/d" src/libvfiomig.map
		sed -i "1s/(.*)/(0.0.9-1)/" debian/changelog
		sed -i "s/ 0\.1\.0$/ 0.0.9/" debian/libvfiomig0.symbols
		rm -f ../*.deb debian/debhelper-build-stamp
		DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage --build=any --unsigned-changes --no-pre-clean
		mkdir /earlier
		cp ../*.deb /earlier/' >"$log" 2>&1 || status=$?
	verdict debian earlier-package-builds "$([ $status -eq 0 ] || tail -n 20 "$log")"
	[ $status -eq 0 ] || return 0
	with_debs upgrade
	mkdir -p "$work/upgrade/files/earlier"
	cp "$work/earlier/files/earlier"/*.deb "$work/upgrade/files/earlier/"
	counted debian debian-upgrade in_place upgrade "$user" /check/upgrade.sh "$version"
}

debian_dkms() {
	with_debs dkms
	counted debian debian-dkms in_place dkms "$dkms" /check/dkms.sh "$version"
}
