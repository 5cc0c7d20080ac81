#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Looks at Debian packages that deb.sh has built: lintian, blhc, symbols, hardening, paths, licences.
#
# usage: look.sh DIRECTORY VERSION

set -u
cd "$1" || exit 1
version=$2
group=packages
# shellcheck source=packaging/check/inside.sh
. /check/inside.sh
tree=$1/libvfiomig-$version

# That nobody has filed a wish for the package is no fault of it.
looked_at() {
	lintian --allow-root --display-info --tag-display-limit 0 --fail-on none \
		--suppress-tags initial-upload-closes-no-bugs "$@" 2>&1
}
looked_at ./*.changes ./*.dsc >/tmp/lintian
verdict lintian "$(grep '^E:' /tmp/lintian)"
grep -v '^N:' /tmp/lintian
echo "note: lintian: $(grep -c '^E:' /tmp/lintian) errors, $(grep -c '^W:' /tmp/lintian) warnings, $(grep -c '^I:' /tmp/lintian) remarks"

# Position-independent executables are the default of Debian's compiler, which --debian says.
blhc --all --debian build.log >/tmp/blhc 2>&1
status=$?
verdict blhc "$([ $status -eq 0 ] || { echo "status $status"; tail -n 20 /tmp/blhc; })"
echo "note: blhc: status $status, $(wc -l </tmp/blhc) lines"
# Each judge must see what it is to judge, here and below.
verdict blhc-sees-a-missing-flag "$(sed '/ -shared /s/-Wl,-z,relro//g' build.log >/tmp/broken.log
	blhc --all --debian /tmp/broken.log >/tmp/blhc 2>&1 && echo 'a link without relro was accepted')"

mkdir /tmp/x
for deb in *.deb; do
	dpkg-deb -x "$deb" "/tmp/x/${deb%%_*}"
	dpkg-deb -e "$deb" "/tmp/x/${deb%%_*}/DEBIAN"
	echo "note: $(printf '%9d bytes  %s' "$(stat -c %s "$deb")" "$deb")"
done
verdict lintian-sees-a-wrong-package "$(
	cp -a /tmp/x/vfiomig-tools /tmp/wrong
	cp "$tree/build/vfiomig" /tmp/wrong/usr/bin/
	mkdir -p /tmp/wrong/usr/local/bin
	echo >/tmp/wrong/usr/local/bin/other
	dpkg-deb --root-owner-group --build /tmp/wrong /tmp/wrong.deb >/dev/null
	looked_at /tmp/wrong.deb >/tmp/out
	for tag in unstripped-binary-or-object file-in-usr-local; do
		grep -q "^E: .*$tag" /tmp/out || echo "it does not say $tag"
	done)"
library=$(echo /tmp/x/libvfiomig0/usr/lib/*/libvfiomig.so."$version")

gensymbols() { # LIBRARY [SYMBOLS-FILE]
	(cd "$tree" && dpkg-gensymbols -c4 -plibvfiomig0 -v"$version-1" -P/tmp/x/libvfiomig0 -e"$1" \
		-I"${2-debian/libvfiomig0.symbols}" -O/tmp/symbols) 2>&1
}
verdict gensymbols "$(out=$(gensymbols "$library") || {
	echo "$out"
	echo 'Add a line for each new node to packaging/debian/libvfiomig0.symbols: " (symver)VFIOMIG_X.Y X.Y.0".'
})"
echo "note: dpkg-gensymbols -c4: $(grep -c '^ vfiomig' /tmp/symbols) symbols of $(grep -c '^ VFIOMIG' /tmp/symbols) node"
# By version node, it does not miss single functions: this does.
exported() {
	nm --dynamic --defined-only --with-symbol-versions "$1" | awk '$2 == "T" { print $3 }' | sed 's/@@*.*//' | sort
}
sed -n 's/^    \(vfiomig_[a-z0-9_]*\);$/\1/p' "$tree/src/libvfiomig.map" | sort >/tmp/map
verdict symbols "$([ "$(wc -l </tmp/map)" -ge 60 ] || echo 'fewer than 60 functions in the map'
	exported "$library" | diff /tmp/map - | grep '^[<>]')"
verdict gensymbols-refuses-a-new-node "$(
	mkdir /tmp/other
	sed 's/^VFIOMIG_0.1 {/VFIOMIG_9.9 { global: vfiomig_version; };\nVFIOMIG_0.1 {/; s/^    vfiomig_version;//' \
		"$tree/src/libvfiomig.map" >/tmp/other/map
	cc -shared -o /tmp/other/libvfiomig.so.0 -Wl,-soname,libvfiomig.so.0 -Wl,--version-script=/tmp/other/map \
		-Wl,--whole-archive "$tree/build/libvfiomig.a" -Wl,--no-whole-archive 2>&1 || exit
	nm -D --with-symbol-versions /tmp/other/libvfiomig.so.0 | grep -q 'vfiomig_version@@VFIOMIG_9.9' || echo 'no such node was made'
	gensymbols /tmp/other/libvfiomig.so.0 >/tmp/out && echo 'it was accepted')"

verdict gensymbols-refuses-a-node-too-few "$(
	grep -v 'VFIOMIG_0\.1 ' "$tree/debian/libvfiomig0.symbols" >/tmp/fewer
	gensymbols "$library" /tmp/fewer >/tmp/out && echo 'it was accepted')"

hardened() { # FILE
	readelf -lW "$1" | grep -q GNU_RELRO || echo "$1: no relro"
	readelf -dW "$1" | grep -qE 'BIND_NOW|FLAGS_1.*NOW' || echo "$1: not bound at once"
	readelf -dW "$1" | grep -E 'RPATH|RUNPATH|TEXTREL'
	readelf -lW "$1" | grep GNU_STACK | grep RWE
	readelf -SW "$1" | grep -E '\.(symtab|debug_info)' | sed "s|^|$1 is not stripped: |"
	readelf -hW "$1" | grep -q 'Type: *DYN' || echo "$1: neither a shared library nor position-independent"
}
verdict hardening "$(for file in /tmp/x/vfiomig-tools/usr/bin/vfiomig "$library" /tmp/x/vfiomig-test/usr/lib/*/*.so; do
	hardened "$file"
done)"
verdict hardening-sees-what-is-missing "$(
	echo 'int main(void) { return 0; }' >/tmp/soft.c
	cc -g -no-pie -Wl,-z,norelro,-z,lazy,-z,execstack,-rpath,/tmp -o /tmp/soft /tmp/soft.c 2>&1 | grep -v warning
	hardened /tmp/soft >/tmp/out
	for what in 'no relro' 'not bound at once' RUNPATH RWE 'is not stripped' 'neither a shared library'; do
		grep -q "$what" /tmp/out || echo "not noticed: $what"
	done)"
verdict debug-symbols "$(for package in libvfiomig0 vfiomig-tools vfiomig-test; do
	find "/tmp/x/$package-dbgsym/usr/lib/debug" -name '*.debug' 2>/dev/null | grep -q . || echo "$package has none"
done)"
# With the debug information: a path of the build says where, and differs in the next one.
verdict no-paths-of-the-build "$(grep -rlaF "$1" /tmp/x
	grep -rlaF "$PWD" /tmp/x)"
verdict multiarch "$(for package in libvfiomig0 libvfiomig-dev vfiomig-test; do
	[ "$(dpkg-deb -f "$package"_*.deb Multi-Arch)" = same ] || echo "$package is not"
	find "/tmp/x/$package" -path "*/usr/lib/*" -type f ! -path "*/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/*"
done)"
verdict nothing-writable "$(find /tmp/x ! -type l -perm /022; find /tmp/x ! -user 0)"
verdict copyright-is-of-these-crates "$(python3 "$tree/packaging/copyright.py" "$tree"/vendor/vendor >/tmp/copyright 2>&1
	diff "$tree/debian/copyright" /tmp/copyright >/tmp/out ||
		{ head -n 20 /tmp/out; echo 'Run make debian-copyright, read what changed, and commit it.'; })"
verdict no-binaries-in-the-sources "$(find "$tree/vendor" -type f \( -name '*.a' -o -name '*.so' -o -name '*.wasm' \
	-o -name '*.o' -o -name '*.dll' -o -name '*.lib' \))"
closing
