#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Uses what is installed on this system, as its users would: README's program and the demo are compiled
# with the words of pkg-config and run on the simulator, and every page of the manual is opened. It runs
# in the source tree and takes from there only what it compiles; it is the packages' autopkgtest.
#
# usage: use-installed.sh [shared|static|wholly-static|c++|manual|tool]...       (all of them)

set -u
[ $# -gt 0 ] || set -- shared static wholly-static c++ manual tool
top=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
group=use-installed
# shellcheck source=c-tests/verdict.sh
. "$top/c-tests/verdict.sh"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$top/Cargo.toml")
cflags="-O2 -Wall -Wextra -Werror -D_GNU_SOURCE $(pkg-config --cflags vfiomig-sim)"

# The documents whose examples doc-examples.c includes; README's program also under the name of example.c.
documents=$(sed -n 's/^#include "\(.*\)-[0-9]*\.c"$/\1/p' "$top/c-tests/doc-examples.c" | sort -u | while read -r name; do
	for document in "$top/$name.md" "$top/docs/$name.md" "$top/sim/include/$name.h"; do
		[ ! -e "$document" ] || echo "$document"
	done
done)
# shellcheck disable=SC2086 # words
"$top/c-tests/doc-examples.sh" "$top/c-tests/doc-examples.c" "$work/doc-examples" $documents || exit 1
cp "$work/doc-examples/README-1.c" "$work/example.c"

# The linker's words for a program with the installed libraries, of this kind.
words() { # KIND PACKAGE
	case $1 in
	shared | c++) pkg-config --libs "$2" ;;
	static) pkg-config --static --libs "$2" | sed -E 's/-l(vfiomig(-sim)?)\b/-l:lib\1.a/g' ;;
	wholly-static) echo "-static $(pkg-config --static --libs "$2")" ;;
	esac
}

# What is wrong with the libraries that a program is bound to.
bound() { # KIND PROGRAM
	libs=$(ldd "$2" 2>&1)
	case $1 in
	shared | c++)
		echo "$libs" | grep -q "libvfiomig.so.0 => $(pkg-config --variable=libdir vfiomig | sed 's|^/usr||')" ||
			echo "$libs" | grep -q "libvfiomig.so.0 => $(pkg-config --variable=libdir vfiomig)" ||
			echo "does not use the installed library: $libs"
		;;
	static) echo "$libs" | grep vfiomig ;;
	wholly-static) echo "$libs" | grep '=>' ;;
	esac
}

# Without a device it must fail, and say why.
fails_well() { # PROGRAM
	for arguments in '' /dev/null 'save 0' 'load 0'; do
		status=0
		# shellcheck disable=SC2086 # words
		"$1" $arguments </dev/null >"$work/out" 2>&1 || status=$?
		[ $status -eq 1 ] && grep -q vfiomig_ "$work/out" ||
			echo "'$arguments': status $status: $(cat "$work/out")"
	done
}

# Warnings of the compiler are errors; what the linker warns of in programs without shared libraries is not.
silently() { # COMMAND...
	"$@" >"$work/log" 2>&1 || {
		cat "$work/log"
		return 1
	}
}

compiled() { # KIND
	kind=$1 cc=cc std=-std=c11
	[ "$kind" != c++ ] || cc=c++ std='-std=c++17 -x c++'
	# shellcheck disable=SC2086,SC2046 # words
	verdict "$kind-readme" "$(silently $cc $std $cflags -o "$work/example" "$work/example.c" -x none $(words "$kind" vfiomig) &&
		bound "$kind" "$work/example" && fails_well "$work/example")"
	if [ "$kind" = c++ ]; then
		# shellcheck disable=SC2086,SC2046 # words
		verdict c++-header "$(silently c++ -std=c++17 $cflags -I"$top/c-tests" -o "$work/cxx" "$top/c-tests/header-cxx.cpp" \
			$(words "$kind" vfiomig-sim) && "$work/cxx" 2>&1 | grep -v '^ok ' | grep -v '^[1-9][0-9]* passed, 0 failed$')"
		return
	fi
	# shellcheck disable=SC2086,SC2046 # words
	verdict "$kind-readme-migrates" "$(silently cc -std=c11 $cflags -I"$top/c-tests" -I"$work/doc-examples" -o "$work/migrates" \
		"$top/c-tests/doc-examples.c" $(words "$kind" vfiomig-sim) -pthread && bound "$kind" "$work/migrates"
		"$work/migrates" >"$work/out" 2>&1
		tail -n 1 "$work/out" | grep -q '^[1-9][0-9]* passed, 0 failed$' || cat "$work/out")"
	# shellcheck disable=SC2086,SC2046 # words
	verdict "$kind-demo" "$(silently cc -std=c11 $cflags -o "$work/demo" "$top"/c-tests/demo/*.c $(words "$kind" vfiomig-sim) -pthread &&
		bound "$kind" "$work/demo"
		"$work/demo" >"$work/out" 2>&1
		tail -n 1 "$work/out" | grep -q '^demo: verified: ' || cat "$work/out")"
}

# Every page opens without a warning, and every function of the header has one.
manual() {
	pages=$(man --where --all --regex '^vfiomig' 2>/dev/null | sort -u)
	[ "$(printf '%s\n' "$pages" | wc -l)" -ge 50 ] || echo "fewer than 50 pages: $pages"
	for page in $pages; do
		MANWIDTH=80 man --warnings --local-file "$page" 2>&1 >"$work/page" | sed "s|^|$page: |"
		[ "$(wc -l <"$work/page")" -ge 10 ] || echo "$page is empty"
	done
	header=$(pkg-config --variable=includedir vfiomig)/vfiomig.h
	cc -std=gnu11 -E -P -include "$header" -x c /dev/null | tr '\n' ' ' | tr ';' '\n' |
		grep -vE 'typedef|struct [a-z_]+ *\{|\(\*' | grep -oE '\bvfiomig_[a-z_]+ *\(' | tr -d ' (' | sort -u >"$work/functions"
	[ "$(wc -l <"$work/functions")" -ge 50 ] || echo "fewer than 50 functions in $header"
	while read -r function; do
		man --where 3 "$function" >/dev/null 2>&1 || echo "no page for $function()"
	done <"$work/functions"
}

tool() {
	vfiomig --version 2>&1 | grep -qF "$version" || echo "vfiomig --version: $(vfiomig --version 2>&1)"
	# There may be no device here; what there is must be told in one of two ways.
	vfiomig probe --json >"$work/out" 2>"$work/err" || [ $? -le 2 ] || cat "$work/err"
	man --where 1 vfiomig >/dev/null 2>&1 || echo 'no manual page'
}

for what; do
	case $what in
	manual | tool) verdict "$what" "$($what)" ;;
	shared | static | wholly-static | c++) compiled "$what" ;;
	*) bad "$what" 'there is no such check' ;;
	esac
done
echo "$group: $passed passed, $failed failed"
[ $failed -eq 0 ]
