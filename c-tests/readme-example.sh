#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Takes the first C example out of a document, builds it against the installed library as
# pkg-config says, shared and static, and runs it. Without a device it must fail, and say why.
#
# usage: readme-example.sh README        (PKG_CONFIG_PATH and LD_LIBRARY_PATH lead to the library)

set -eu
readme=$1
cc=${CC:-cc}
pkg_config=${PKG_CONFIG:-pkg-config}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk '/^```c$/ && !done { on = 1; next } /^```/ { if (on) done = 1; on = 0 } on' "$readme" >"$work/example.c"
[ "$(wc -l <"$work/example.c")" -ge 20 ] || {
	echo "no C example of any size in $readme"
	exit 1
}

for kind in shared static; do
	case $kind in
	shared) libs=$($pkg_config --libs vfiomig) ;;
	static) libs=$($pkg_config --static --libs vfiomig | sed 's/-lvfiomig/-l:libvfiomig.a/') ;;
	esac
	# shellcheck disable=SC2046,SC2086 # words
	$cc -std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wpedantic -Werror -o "$work/$kind" \
		"$work/example.c" $($pkg_config --cflags vfiomig) $libs
	# Without arguments, with something that is not a device, and with an fd that is not one.
	for arguments in '' /dev/null 'save 0' 'load 0'; do
		status=0
		# shellcheck disable=SC2086 # words
		"$work/$kind" $arguments </dev/null >"$work/out" 2>"$work/err" || status=$?
		if [ $status -ne 1 ] || ! grep -q 'vfiomig_' "$work/err"; then
			echo "$kind, '$arguments': status $status, and on standard error:"
			cat "$work/err"
			exit 1
		fi
	done
	echo "ok readme example, $kind: $(head -n 1 "$work/err")"
done
