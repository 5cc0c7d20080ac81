#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What `make install` leaves is what a distribution and a program need: the right files, found
# by pkg-config, linked with shared and static, and all of it removed by `make uninstall`.
#
# usage: installed.sh VERSION [--elsewhere]        (run where the Makefile is, after `make all sim`)
#
# The directories that the environment names (PREFIX, LIBDIR and so on, as `make` passes them on) are
# those of the first installation; --elsewhere ends after it.

set -u
version=$1
make=${MAKE:-make}
cc=${CC:-cc}
pkg_config=${PKG_CONFIG:-pkg-config}
build=${B:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset MAKEFLAGS MFLAGS
PREFIX=${PREFIX:-/usr}
EXEC_PREFIX=${EXEC_PREFIX:-$PREFIX} LIBDIR=${LIBDIR:-$PREFIX/lib/some-triplet}
BINDIR=${BINDIR:-$EXEC_PREFIX/bin} INCLUDEDIR=${INCLUDEDIR:-$PREFIX/include}
PKGCONFIGDIR=${PKGCONFIGDIR:-$LIBDIR/pkgconfig} MANDIR=${MANDIR:-$PREFIX/share/man}
DOCDIR=${DOCDIR:-$PREFIX/share/doc/libvfiomig}
export PREFIX EXEC_PREFIX BINDIR LIBDIR INCLUDEDIR PKGCONFIGDIR MANDIR DOCDIR
# Both kinds of library are tried, whatever the packager installs.
unset DESTDIR ENABLE_STATIC
group=installed
# shellcheck source=c-tests/verdict.sh
. "$(dirname "$0")/verdict.sh"
listing() { (cd "$1" && find . ! -type d -printf '%P %m %l %s\n' | sort); }

# As a distribution does it.
"$make" --no-print-directory B="$build" install DESTDIR="$work/root" >"$work/log" 2>&1 ||
	bad install "$(cat "$work/log")"
verdict files "$(
	cd "$work/root" || exit
	for f in "$BINDIR/vfiomig" "$INCLUDEDIR/vfiomig.h" "$LIBDIR/libvfiomig.a" \
		"$LIBDIR/libvfiomig.so.$version" "$PKGCONFIGDIR/vfiomig.pc" \
		"$MANDIR/man3/vfiomig_save_next.3" "$MANDIR/man7/vfiomig.7" "$MANDIR/man1/vfiomig.1" \
		"$MANDIR/man5/vfiomig-policy.5" "$DOCDIR/docs/schema/probe.json" \
		"$PREFIX/share/bash-completion/completions/vfiomig" \
		"$DOCDIR/docs/migration-guide.md" "$DOCDIR/docs/syscalls.json" "$DOCDIR/LICENSE-MIT" \
		"$DOCDIR/LICENSE-APACHE"; do
		[ -s ".$f" ] || echo "no $f"
	done
	[ "$(readlink ".$LIBDIR/libvfiomig.so.0")" = "libvfiomig.so.$version" ] || echo "wrong link .so.0"
	[ "$(readlink ".$LIBDIR/libvfiomig.so")" = libvfiomig.so.0 ] || echo "wrong link .so"
	find . -type f -perm /022 -printf '%P is writable for others\n'
	grep -rlI "$work" . | sed 's/$/ names the temporary directory/'
	# The same tree built elsewhere must give the same files.
	for path in "$OLDPWD/" "${CARGO_HOME:-$HOME/.cargo}/"; do
		grep -rlF "$path" . | sed "s|\$| names $path|"
	done
)"
command -v python3 >/dev/null 2>&1 && verdict references "$(scripts/lint-docs.py "$work/root" "$work/root$INCLUDEDIR/vfiomig.h" 2>/dev/null ||
	echo 'something that is installed refers to what is not')"
listing "$work/root" >"$work/first"
"$make" --no-print-directory B="$build" install DESTDIR="$work/root" >/dev/null 2>&1
listing "$work/root" >"$work/second"
verdict idempotent "$(diff "$work/first" "$work/second")"
# Another user may install, who has no cargo: nothing may even look for it.
"$make" --no-print-directory B="$build" install DESTDIR="$work/nocargo" CARGO=false RUSTC=false >"$work/log" 2>&1 ||
	bad install-without-cargo "$(cat "$work/log")"
listing "$work/nocargo" | diff "$work/first" - >"$work/log"
verdict install-without-building "$(cat "$work/log")"
"$make" --no-print-directory B="$build" install ENABLE_STATIC=0 DESTDIR="$work/shared" >/dev/null 2>&1
verdict without-static-library "$(find "$work/shared" -name '*.a'; [ -e "$work/shared$LIBDIR/libvfiomig.so" ] || echo 'no library')"
"$make" --no-print-directory B="$build" install-sim DESTDIR="$work/root" >/dev/null 2>&1
"$make" --no-print-directory B="$build" uninstall DESTDIR="$work/root" >/dev/null 2>&1
verdict uninstall "$(find "$work/root" ! -type d)"

if [ "${2-}" = --elsewhere ]; then
	echo "check-installed, elsewhere: $passed passed, $failed failed"
	[ $failed -eq 0 ] && [ $passed -ge 6 ]
	exit
fi

# As a user does it, below a prefix; then used from there, and from nowhere else.
unset PREFIX EXEC_PREFIX BINDIR LIBDIR INCLUDEDIR PKGCONFIGDIR MANDIR DOCDIR
prefix=$work/prefix
"$make" --no-print-directory B="$build" install PREFIX="$prefix" >"$work/log" 2>&1 || bad install-prefix "$(cat "$work/log")"
PKG_CONFIG_PATH=$prefix/lib/pkgconfig
export PKG_CONFIG_PATH
verdict pkg-config "$(
	[ "$($pkg_config --modversion vfiomig)" = "$version" ] || echo "version $($pkg_config --modversion vfiomig)"
	[ "$($pkg_config --cflags vfiomig | xargs)" = "-I$prefix/include" ] || $pkg_config --cflags vfiomig
	[ "$($pkg_config --libs vfiomig | xargs)" = "-L$prefix/lib -lvfiomig" ] || $pkg_config --libs vfiomig
	[ "$($pkg_config --define-variable=prefix=/moved --cflags --libs vfiomig | xargs)" = \
		"-I/moved/include -L/moved/lib -lvfiomig" ] || echo "another prefix does not move it"
	[ -z "$($pkg_config --print-requires vfiomig)$($pkg_config --print-requires-private vfiomig)" ] || echo "requires something"
)"

cat >"$work/use.c" <<'END'
#include <stdio.h>
#include <vfiomig.h>
int main(void)
{
    struct vfiomig_device *dev;
    int r = vfiomig_device_new_fd(0, NULL, &dev);
    printf("%s %d %s\n", vfiomig_version_string(), r, vfiomig_error_message());
    return r < 0 && vfiomig_version() == VFIOMIG_VERSION ? 0 : 1;
}
END
# The words of pkg-config: as they are where nothing is shared, else with the static library by its name.
no_shared_libs=$($pkg_config --static --libs vfiomig)
static_libs=$(printf '%s' "$no_shared_libs" | sed 's/-lvfiomig/-l:libvfiomig.a/')

# build_and_run NAME flags... : prints what is wrong
build_and_run() {
	name=$1
	shift
	# shellcheck disable=SC2046 # words
	if ! $cc -Wall -Wextra -Werror -o "$work/use-$name" "$work/use.c" $($pkg_config --cflags vfiomig) "$@" >"$work/$name.log" 2>&1; then
		cat "$work/$name.log"
	elif ! LD_LIBRARY_PATH=$prefix/lib "$work/use-$name" </dev/null >"$work/$name.out" 2>&1; then
		echo "use-$name fails: $(cat "$work/$name.out")"
	else
		grep -q "^$version -" "$work/$name.out" || echo "use-$name says $(cat "$work/$name.out")"
	fi
}
# shellcheck disable=SC2046 # words
verdict shared "$(
	build_and_run shared $($pkg_config --libs vfiomig)
	LD_LIBRARY_PATH=$prefix/lib ldd "$work/use-shared" | grep -q "$prefix/lib/libvfiomig.so.0" || echo "uses another library"
)"
# shellcheck disable=SC2086 # words
verdict static "$(build_and_run static $static_libs
	ldd "$work/use-static" | grep vfiomig)"
# shellcheck disable=SC2086 # words
verdict wholly-static "$(build_and_run wholly-static -static $no_shared_libs
	ldd "$work/use-wholly-static" 2>&1 | grep '=>')"

if CC=$cc PKG_CONFIG=$pkg_config LD_LIBRARY_PATH=$prefix/lib \
	c-tests/readme-example.sh README.md >"$work/log" 2>&1; then
	verdict readme-example ''
else
	bad readme-example "$(cat "$work/log")"
fi

# The simulator is for tests, and comes by itself.
verdict no-simulator "$(find "$prefix" -name '*vfiomig-sim*')"
"$make" --no-print-directory B="$build" install-sim PREFIX="$prefix" >"$work/log" 2>&1 || bad install-sim "$(cat "$work/log")"
cat >"$work/simulated.c" <<'END'
#include <stdio.h>
#include <vfiomig-sim.h>
#include <vfiomig.h>
int main(void)
{
    struct vfiomig_sim_options options = { .struct_size = sizeof options };
    struct vfiomig_sim *sim;
    struct vfiomig_device *dev;
    struct vfiomig_save *save;
    int r = vfiomig_sim_new(&options, &sim);
    if (r == 0)
        r = vfiomig_device_new_ops(vfiomig_sim_ops(sim), sim, NULL, &dev);
    if (r == 0)
        r = vfiomig_save_begin(dev, NULL, &save);
    if (r < 0 || vfiomig_sim_state(sim) != VFIOMIG_STATE_PRE_COPY) {
        printf("%d: %s\n", r, vfiomig_error_message());
        return 1;
    }
    vfiomig_save_free(save);
    vfiomig_device_free(dev);
    vfiomig_sim_free(sim);
    return 0;
}
END
# shellcheck disable=SC2046 # words
verdict simulator "$($cc -Wall -Wextra -Werror -o "$work/simulated" "$work/simulated.c" $($pkg_config --cflags --libs vfiomig-sim) 2>&1 &&
	LD_LIBRARY_PATH=$prefix/lib "$work/simulated")"
# Both libraries contain Rust's standard library. The linker may warn that it has getaddrinfo(), which wants
# the C library's plug-ins; nothing here calls that.
# shellcheck disable=SC2046 # words
verdict wholly-static-simulator "$($cc -static -Wall -Wextra -Werror -o "$work/simulated" "$work/simulated.c" \
	$($pkg_config --cflags --static --libs vfiomig-sim) >"$work/log" 2>&1 || cat "$work/log"
	"$work/simulated")"

"$prefix/bin/vfiomig" --version >"$work/log" 2>&1
verdict tool "$(grep -q "$version" "$work/log" || cat "$work/log")"
verdict manual "$(
	command -v man >/dev/null 2>&1 || exit
	for page in "$prefix"/share/man/man1/*.1 "$prefix"/share/man/man5/*.5 "$prefix"/share/man/man3/*.3 "$prefix"/share/man/man7/*.7; do
		man --warnings -l "$page" 2>&1 >/dev/null | head -n 3
	done
)"
echo "check-installed: $passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -ge 13 ]
