#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The shared library exports exactly the functions of the export map, each with its version, and
# the header declares exactly those. What a program relies on is as docs/abi/ has it. At the end, the same
# checks must refuse libraries and headers that are wrong on purpose.
#
# usage: abi.sh BUILD-DIRECTORY REALNAME SONAME

set -u
build=$1 realname=$2 soname=$3
map=src/libvfiomig.map
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc=${CC:-cc}

# SYMBOL@@NODE for each function of a map.
of_map() {
	sed -e 's/#.*//' -e 's/[;{}]/\n/g' "$1" | awk '
		/^[[:space:]]*VFIOMIG_[0-9.]+[[:space:]]*$/ { node = $1; next }
		/local:/ { next }
		{ sub(/global:/, "") }
		node != "" && $1 ~ /^vfiomig_/ { print $1 "@@" node }' | sort
}

of_library() {
	nm --dynamic --defined-only --with-symbol-versions "$1" | awk '$2 != "A" { print $3 }' | sort
}

# check LIBRARY: prints what is wrong with it, a line each.
check() {
	of_library "$1" >"$work/exported"
	of_map "$map" >"$work/wanted"
	diff "$work/wanted" "$work/exported" | sed -n 's/^< /missing: /p; s/^> /not in the map: /p'
	grep -v '@@VFIOMIG_' "$work/exported" | sed 's/^/without a version: /'
	grep sim "$work/exported" | sed 's/^/of the simulator: /'
	name=$(readelf -d "$1" | sed -n 's/.*(SONAME).*\[\(.*\)\]$/\1/p')
	[ "$name" = "$soname" ] || echo "SONAME is '$name', not '$soname'"
	readelf -d "$1" | grep -q 'FLAGS.*NOW' || echo "not linked with -z now"
	readelf -lW "$1" | grep -q GNU_RELRO || echo "not linked with -z relro"
	readelf -lW "$1" | grep 'GNU_STACK' | grep -q 'RWE' && echo "executable stack"
	readelf -d "$1" | grep -qE 'RPATH|RUNPATH' && echo "has a run path"
	readelf -d "$1" | grep -q TEXTREL && echo "has text relocations"
}

group=abi
# shellcheck source=c-tests/verdict.sh
. "$(dirname "$0")/verdict.sh"

verdict exported-symbols "$(check "$build/$realname")"
[ "$(of_map "$map" | wc -l)" -ge 40 ] || bad map-is-read "fewer than 40 functions in the map"

# Declared and exported functions are the same. This goes through the compiler: a program can
# take the address of what it may call.
printf '#include "vfiomig.h"\nconst void *const all[] = {\n' >"$work/all.c"
of_map "$map" | sed 's/@@.*/,/; s/^/(const void *)/' >>"$work/all.c"
printf '};\n' >>"$work/all.c"
verdict map-functions-are-declared "$($cc -std=gnu11 -Iinclude -c -o "$work/all.o" "$work/all.c" 2>&1)"
verdict declared-functions-are-in-the-map "$(
	$cc -std=gnu11 -E -P -Iinclude -include vfiomig.h -x c /dev/null | tr '\n' ' ' | tr ';' '\n' |
		grep -vE 'typedef|struct [a-z_]+ *\{|\(\*' |
		grep -oE '\bvfiomig_[a-z_]+ *\(' | tr -d ' (' | sort -u >"$work/declared"
	of_map "$map" | sed 's/@@.*//' | diff "$work/declared" - | sed -n 's/^< /declared only: /p'
	[ "$(wc -l <"$work/declared")" -ge 40 ] || echo "fewer than 40 declarations found"
)"
# Every structure is frozen.
verdict every-structure-is-in-layout.c "$(
	sed -n 's/^struct \(vfiomig_[a-z_]*\) {$/\1/p' include/vfiomig.h | sort >"$work/structs"
	[ "$(wc -l <"$work/structs")" -ge 12 ] || echo "fewer than 12 structures found"
	sed -n 's/^SIZE(\(vfiomig_[a-z_]*\),.*/\1/p' c-tests/layout.c | sort | diff "$work/structs" - |
		grep '^[<>]'
)"
# Structures and functions that bring something to release.
verdict every-release-is-in-release-once.c "$(
	awk '/^struct vfiomig_[a-z_]* \{$/ { name = "struct " $2 } /^};/ { name = "" }
		name != "" && /vfiomig_release_fn/ { print name }
		match($0, /vfiomig_[a-z_]*\(.*vfiomig_release_fn /) {
			head = substr($0, RSTART)
			print substr(head, 1, index(head, "("))
		}' include/vfiomig.h | sort -u >"$work/releases"
	[ "$(wc -l <"$work/releases")" -ge 6 ] || echo "fewer than 6 found"
	while read -r what; do
		grep -qF "$what" c-tests/release-once.c || echo "not in release-once.c: $what"
	done <"$work/releases"
)"
verdict one-man-page-per-function "$(
	of_map "$map" | sed 's/@@.*//' | while read -r f; do
		[ -s "docs/man/man3/$f.3" ] || echo "no docs/man/man3/$f.3"
	done
)"

# What programs rely on, as it was committed: the lists of c-tests/abi-lists.sh.
lists() { CC=$cc "$(dirname "$0")/abi-lists.sh" "$@"; }
lists write "$build/$realname" "$work/now" || bad lists 'they cannot be made'
verdict nothing-that-programs-use-is-gone-or-different "$(
	lists compare docs/abi "$work/now" >"$work/missed"
	cat "$work/missed"
	[ ! -s "$work/missed" ] || echo "A program that was built before would break. Leave what was there as it was, and add
at the end of a structure or in a function of its own: docs/abi.md says how."
)"
verdict what-was-added-is-committed "$(
	lists added docs/abi "$work/now" >"$work/added"
	[ -s "$work/missed" ] || [ ! -s "$work/added" ] || { cat "$work/added"; echo "Run make abi-lists, and commit docs/abi."; }
)"
# The page says how large the library is. A distribution's flags and compiler make it another one.
if [ -z "${VFIOMIG_CHECK_BUILD-}" ]; then
	verdict size-is-as-documented "$(
		said=$(sed -n 's/.*stripped library has about \([0-9]*\) KiB.*/\1/p' docs/abi.md)
		strip -o "$work/stripped.so" "$build/$realname"
		is=$(($(wc -c <"$work/stripped.so") / 1024))
		[ "$is" -le $((${said:-0} * 115 / 100)) ] && [ "$is" -ge $((${said:-0} * 85 / 100)) ] ||
			echo "it has $is KiB, and docs/abi.md says ${said:-nothing}"
	)"
fi

# And now wrong ones.
must_miss() { # NAME pattern sed-script: a header that was changed, against the committed lists
	sed -E "$3" include/vfiomig.h >"$work/vfiomig.h"
	HEADER=$work/vfiomig.h lists write "$build/$realname" "$work/wrong"
	wrong=$(lists compare docs/abi "$work/wrong")
	if printf '%s\n' "$wrong" | grep -q "$2"; then
		verdict "misses-$1" ''
	else
		bad "misses-$1" "not noticed; it says: $wrong"
	fi
}
must_miss a-member-that-moved 'struct vfiomig_caps.flags was at 4, .* and is now at 8' \
	'/^struct vfiomig_caps \{/,/^\}/s/^( *)uint32_t flags;/\1uint32_t other; uint32_t flags;/'
must_miss a-member-that-is-gone 'struct vfiomig_caps.num_reasons is gone' \
	'/^struct vfiomig_caps \{/,/^\}/s/num_reasons;/number_of_reasons;/'
must_miss an-argument-of-another-type 'vfiomig_device_get_fixups was .*uint32_t \*.* is now .*uint64_t' \
	'/vfiomig_device_get_fixups\(/s/uint32_t/uint64_t/'
must_miss a-constant-of-another-value 'VFIOMIG_OP_STREAM was 0x8, and is now 0x9' \
	's/(define VFIOMIG_OP_STREAM +)8/\19/'
must_miss a-callback-of-another-type 'callback vfiomig_release_fn was' \
	's/\(\*vfiomig_release_fn\)\(void \*opaque\)/(*vfiomig_release_fn)(int opaque)/'
verdict takes-a-structure-that-grows "$(
	sed -E '/^struct vfiomig_caps \{/,/^\}/s/^( *)uint32_t num_reasons;/&\n\1uint64_t more;/' include/vfiomig.h >"$work/vfiomig.h"
	HEADER=$work/vfiomig.h lists write "$build/$realname" "$work/wrong"
	lists compare docs/abi "$work/wrong"
	lists added docs/abi "$work/wrong" | grep -q '^struct vfiomig_caps.more: at 32' || echo 'nothing was added'
)"

link() { # OUTPUT MAP flags...
	out=$1 with=$2
	shift 2
	# shellcheck disable=SC2046 # words
	$cc -shared -o "$out" "$@" ${with:+-Wl,--version-script=$with} -Wl,-z,relro -Wl,-z,now \
		-Wl,--gc-sections -Wl,--whole-archive "$build/libvfiomig.a" -Wl,--no-whole-archive \
		$(cat "$build/native-libs") 2>"$work/link.err" || cat "$work/link.err" >&2
}
must_refuse() { # NAME LIBRARY pattern
	wrong=$(check "$2")
	if printf '%s\n' "$wrong" | grep -q "$3"; then
		verdict "refuses-$1" ''
	else
		bad "refuses-$1" "accepted, or for another reason: $wrong"
	fi
}
grep -v 'vfiomig_device_run;' "$map" >"$work/short.map"
link "$work/short.so" "$work/short.map" -Wl,-soname,"$soname"
must_refuse a-missing-function "$work/short.so" 'missing: vfiomig_device_run@@'
sed 's/local:/  rust_eh_personality;\nlocal:/' "$map" >"$work/long.map"
link "$work/long.so" "$work/long.map" -Wl,-soname,"$soname"
must_refuse an-extra-symbol "$work/long.so" 'not in the map: rust_eh_personality'
link "$work/bare.so" '' -Wl,-soname,"$soname"
must_refuse symbols-without-versions "$work/bare.so" 'without a version: vfiomig_version$'
link "$work/name.so" "$map" -Wl,-soname,libvfiomig.so.99
must_refuse another-soname "$work/name.so" 'SONAME is'
sed 's/vfiomig_version;/vfiomig_version; vfiomig_no_such_function;/' "$map" >"$work/ghost.map"
if $cc -shared -o "$work/ghost.so" -Wl,--version-script="$work/ghost.map" -Wl,--no-undefined-version \
	-Wl,--whole-archive "$build/libvfiomig.a" -Wl,--no-whole-archive 2>/dev/null; then
	bad refuses-a-map-with-too-much 'the linker took a map that names a missing function'
else
	verdict refuses-a-map-with-too-much ''
fi

echo "check-abi: $passed passed, $failed failed"
[ $failed -eq 0 ]
