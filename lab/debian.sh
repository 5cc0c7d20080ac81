# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Packages of other Debian suites, without touching the machine's own apt; the scripts that
# build kernels and QEMU source this after common.sh. They set $log, which receives apt's
# messages.
# shellcheck disable=SC2154

# The machine's mirror serves other suites as well, so its address is taken from the configured
# sources: "main" of the suite that this release is called, and of that name with "-security".
debian_repo_of_suite() {
	apt-get indextargets --format "\$(RELEASE) \$(COMPONENT) \$(REPO_URI)" 'Created-By: Packages' 2>/dev/null |
		awk -v s="$1" '$1 == s && $2 == "main" { print $3; exit }'
}

# The address of Debian's archive, in $mirror.
debian_mirror() {
	local codename s
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
	mirror=${LAB_MIRROR-}
	for s in "$codename" stable testing sid unstable; do
		[ -n "$mirror" ] || mirror=$(debian_repo_of_suite "$s")
	done
	[ -n "$mirror" ] || lab_die "found no Debian archive in this machine's apt sources; set LAB_MIRROR to its address"
}

apt_conf=()

# debian_apt NAME 'TYPE main|security SUITE'...: an apt configuration of that
# name with these sources, and fresh package lists for it. TYPE is deb or deb-src.
debian_apt() {
	local dir=$LAB_CACHE/$1 codename mirror security s type archive suite
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=
	shift
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
	debian_mirror
	security=${LAB_SECURITY_MIRROR:-$(debian_repo_of_suite "$codename-security")}
	# Mirrors that carry the security archive have it next to the main one.
	[ -n "$security" ] || security=${mirror%/}-security

	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/state"
	: >"$dir/status"
	[ ! -r $keyring ] || signed="[signed-by=$keyring] "
	for s in "$@"; do
		read -r type archive suite <<<"$s"
		case $archive in
		main) echo "$type $signed$mirror $suite main" ;;
		security) echo "$type $signed$security $suite main" ;;
		*) lab_die "no archive '$archive'" ;;
		esac
	done >"$dir/sources.list"
	apt_conf=(
		-o "Dir::Etc::sourcelist=$dir/sources.list"
		-o Dir::Etc::sourceparts=/dev/null
		-o Dir::Etc::preferences=/dev/null
		-o Dir::Etc::preferencesparts=/dev/null
		-o "Dir::State=$dir/state"
		-o "Dir::State::Lists=$dir/lists"
		-o "Dir::State::status=$dir/status"
		-o "Dir::Cache=$dir/cache"
		-o APT::Architecture=amd64
		# Neither descriptions nor software-centre data are needed here.
		-o Acquire::Languages=none
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
		-o Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled=false
		-o Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled=false
		-o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false
	)
	# apt's unprivileged downloader cannot write below root's home.
	[ "$(id -u)" -ne 0 ] || apt_conf+=(-o APT::Sandbox::User=root)
	# Several builds share these files; the caller releases the lock.
	exec 9>"$LAB_CACHE/lock.${dir##*/}"
	flock 9
	# Ten minutes: builds that follow each other see one and the same archive.
	if [ -z "$(find "$dir/updated" -mmin -10 2>/dev/null)" ] ||
		! cmp -s "$dir/sources.list" "$dir/updated"; then
		lab_note "reading the package lists"
		apt-get "${apt_conf[@]}" -q update >>"$log" 2>&1 ||
			{ tail -n 5 "$log" >&2; lab_die "cannot read the package lists; see $log"; }
		cp "$dir/sources.list" "$dir/updated"
	fi
}
