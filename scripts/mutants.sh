#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Breaks the library in small ways, one at a time, and expects a test to fail: cargo-mutants.
# What no test notices must be listed in tests/mutants-survivors.txt with a reason, and what is
# listed there must still survive.
#
# usage: mutants.sh               all of it: hours
#        mutants.sh --list        only whether the survivors' list fits the sources: a second
#
# MUTANTS_FILES    globs of sources (default: those below)
# MUTANTS_SHARD    K/N: the K-th of N parts, from 0
# MUTANTS_JOBS     so many at a time (default 1: some tests measure time)
# MUTANTS_TESTS    what cargo test runs (default: all tests of the library, in debug)
# B                where the output goes (default build)

set -eu
cd "$(dirname "$0")/.."
out=${B:-build}/mutants
survivors=tests/mutants-survivors.txt
# Every source but tests.rs is in exactly one of these two lists.
all="src/fsm.rs src/identity.rs src/compat.rs src/version.rs src/crc.rs src/switch.rs
	src/policy/** src/guard/** src/session/** src/group/** src/handover/** src/device/** src/stream/** src/protocol/**
	src/dirty/asking.rs src/dirty/ledger.rs src/dirty/reading.rs src/dirty/rearm.rs src/dirty/sweep.rs
	src/dirty/delivery/** src/dirty/trackers/** src/dirty/tracking/**"
# GLOB...: why what is in there is not broken.
left='
src/capi/**: the C tests look at it, which no mutant runs
src/transport/** src/sys/**: the C tests and the lab look at most of it, with kernels or in their place
src/lib.rs src/sync.rs: only what other files have is named there
src/dirty/mod.rs src/dirty/writer.rs src/dirty/memory.rs: types, with next to no code
src/dirty/fake.rs: a test itself
src/dirty/bitmap.rs src/dirty/buffers.rs src/dirty/errors.rs src/dirty/map.rs: not gone through yet
src/dirty/orphans.rs src/dirty/pending.rs src/dirty/ranges.rs src/dirty/stats.rs src/dirty/tracker/**: not gone through yet
src/alloc.rs src/cancel.rs src/error.rs src/fixups.rs src/flags.rs: not gone through yet
src/logging.rs src/nanoseconds.rs src/private.rs src/text.rs src/waiting.rs: not gone through yet
'
files=${MUTANTS_FILES:-$all}
mkdir -p "$out"

set -f # the globs are cargo-mutants'
find src -name '*.rs' ! -name tests.rs | LC_ALL=C sort >"$out/sources"
: >"$out/placed"
for glob in $all $(printf '%s' "$left" | sed 's/:.*//'); do
	while read -r source; do
		# shellcheck disable=SC2254 # a pattern, in which ** is *
		case $source in $glob) echo "$source" ;; esac
	done <"$out/sources" >"$out/of-glob"
	[ -s "$out/of-glob" ] || echo "mutants: no source is $glob" >&2
	cat "$out/of-glob" >>"$out/placed"
done
LC_ALL=C sort "$out/placed" | diff "$out/sources" - >"$out/misplaced" || {
	sed -n 's/^< /mutants: in no list of scripts\/mutants.sh: /p; s/^> /mutants: in two of its globs: /p' \
		"$out/misplaced" >&2
	exit 1
}

PATH=$PWD/$out/tools/bin:$PATH
if ! cargo mutants --version >/dev/null 2>&1; then
	if [ -n "${VFIOMIG_NO_INSTALL-}" ]; then
		echo "mutants: cargo-mutants is not installed: cargo install cargo-mutants" >&2
		exit 1
	fi
	echo "mutants: installing cargo-mutants into $out/tools"
	cargo install --quiet --locked --root "$out/tools" cargo-mutants
fi

globs=
for glob in $files; do
	globs="$globs --file $glob"
done
all_globs=
for glob in $all; do
	all_globs="$all_globs --file $glob"
done

# A mutant's name contains its line, which any change above it moves. It is called by its file,
# by what was changed in which function, and by a number if there are several.
name() { # LIST-OF-ALL LINES
	awk '
		function key(line) {
			match(line, /:[0-9]+:[0-9]+: /)
			return substr(line, 1, RSTART - 1) ": " substr(line, RSTART + RLENGTH)
		}
		NR == FNR { k = key($0); n = ++count[k]; id[$0] = n > 1 ? k " #" n : k; next }
		{ print ($0 in id) ? id[$0] : "unknown: " $0 }' "$1" "$2" | LC_ALL=C sort
}

# shellcheck disable=SC2086 # one word per argument
cargo mutants --package vfiomig --list --no-times --colors never $all_globs >"$out/all"
name "$out/all" "$out/all" >"$out/all.names"

# Each block of mutants has its reason above it.
awk -v file="$survivors" '
	/^#/ { why = 1; next }
	/^$/ { why = 0; next }
	!why { print file ":" FNR ": without a reason: " $0; bad = 1 }
	END { exit bad }' "$survivors" >&2
grep -v -e '^#' -e '^$' "$survivors" | LC_ALL=C sort >"$out/listed" || true
comm -13 "$out/all.names" "$out/listed" >"$out/stale"
if [ -s "$out/stale" ]; then
	echo "mutants: in $survivors, but no longer in the sources:" >&2
	cat "$out/stale" >&2
	exit 1
fi
if [ "${1-}" = --list ]; then
	echo "mutants: $(wc -l <"$out/all") mutants, $(wc -l <"$out/listed") of them known to survive"
	exit 0
fi

# A few cases of the model and of property tests: what these find only in thousands of cases,
# another test should find in one. A timeout counts as noticed.
status=0
# Without debug information: most of the time goes into linking tests.
export CARGO_PROFILE_DEV_DEBUG=0
# shellcheck disable=SC2086 # one word per argument
VFIOMIG_MODEL_CASES=${VFIOMIG_MODEL_CASES:-300} PROPTEST_CASES=${PROPTEST_CASES:-64} \
	VFIOMIG_SHUTTLE_SCHEDULES=${VFIOMIG_SHUTTLE_SCHEDULES:-100} \
	cargo mutants --package vfiomig $globs ${MUTANTS_SHARD:+--shard $MUTANTS_SHARD} \
	--test-package vfiomig --test-package vfiomig-shuttle --jobs "${MUTANTS_JOBS:-1}" \
	--minimum-test-timeout 120 --output "$out" \
	-- ${MUTANTS_TESTS:---lib --tests} || status=$?
# 2 and 3: some were missed, or took too long. Anything else: it did not get that far.
case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac

done=$out/mutants.out
name "$out/all" "$done/missed.txt" >"$out/missed"
cat "$done/caught.txt" "$done/timeout.txt" "$done/unviable.txt" >"$out/noticed.lines"
name "$out/all" "$out/noticed.lines" >"$out/noticed"
failed=0
comm -23 "$out/missed" "$out/listed" >"$out/new"
if [ -s "$out/new" ]; then
	echo "mutants: no test notices, and $survivors does not know:" >&2
	cat "$out/new" >&2
	failed=$((failed + $(wc -l <"$out/new")))
fi
comm -12 "$out/noticed" "$out/listed" >"$out/killed"
if [ -s "$out/killed" ]; then
	echo "mutants: in $survivors, and noticed by a test now:" >&2
	cat "$out/killed" >&2
	failed=$((failed + $(wc -l <"$out/killed")))
fi
echo "mutants: $(wc -l <"$out/noticed") noticed, $(wc -l <"$out/missed") survive, $failed unexpected"
[ "$failed" = 0 ]
