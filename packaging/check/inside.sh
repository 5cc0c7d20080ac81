# shellcheck shell=sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Sourced by the scripts that run in a root, with the version in $version.

# shellcheck disable=SC2154
mkdir -p /source
# shellcheck disable=SC2154
tar -xzf "/check/libvfiomig-$version.tar.gz" -C /source --strip-components=1
# shellcheck source=c-tests/verdict.sh
. /source/c-tests/verdict.sh

# Everything in this root that a package could have left; what apt and dpkg note for themselves is
# left out.
everything() {
	find / -xdev \( -path /proc -o -path /dev -o -path /tmp -o -path /source -o -path /check -o -path /debs \
		-o -path /earlier -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/log \) \
		-prune -o -printf '%p %y %m %l\n' | grep -vE '^/(etc/ld.so.cache|usr/share/info/dir) |^/(root|etc|run|usr/share/man)? ' | sort
	dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n' | sort
}

apt_quiet() {
	apt-get --yes --quiet --no-install-recommends "$@" >/tmp/apt.log 2>&1 || { tail -n 20 /tmp/apt.log; return 1; }
}

closing() {
	# shellcheck disable=SC2154
	echo "$group: $passed passed, $failed failed"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
