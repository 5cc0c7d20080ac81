#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds what is needed, boots each kernel variant twice, runs the programs in it, and reports
# how they did. The last line is "N passed, N failed".
#
# usage: run.sh [options] [VARIANT...]
#
#   --programs DIR  directory with tests/*.test (default: build/lab in the
#                   repository; may be missing unless named here)
#   --only GLOB     run only programs whose name (without .test) matches
#   --boots LIST    which boots (default "1 2")
#   --memory MIB, --timeout SEC, --test-timeout SEC   as for boot.sh
#   --no-sanity     leave out the lab's own check
#   --results DIR   keep what the machines left there, VARIANT/bootN/out each
#
# V=1 in the environment also shows the output of programs that passed.

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
	sed -n 's/^# \{0,1\}//p' "$0" | sed -n '/^usage/,/^V=1/p' >&2
	exit 2
}

programs='' only='*' boots='1 2' sanity=1 results='' pass_on=()
while [ $# -gt 0 ]; do
	case $1 in
	--no-sanity) sanity=0; shift ;;
	--programs | --only | --boots | --results | --memory | --timeout | --test-timeout)
		[ $# -ge 2 ] || usage
		case $1 in
		--programs) programs=$2 ;;
		--only) only=$2 ;;
		--boots) boots=$2 ;;
		--results) results=$2 ;;
		*) pass_on+=("$1" "$2") ;;
		esac
		shift 2
		;;
	-*) usage ;;
	*) break ;;
	esac
done
variants=("$@")
[ ${#variants[@]} -gt 0 ] || variants=("${LAB_VARIANTS[@]}")
for v in "${variants[@]}"; do
	lab_is_variant "$v" || lab_die "no variant '$v' (there are: ${LAB_VARIANTS[*]})"
done

dirs=()
if [ -n "$programs" ]; then
	[ -d "$programs/tests" ] || lab_die "no directory $programs/tests"
	dirs+=("$programs")
elif [ -d "$LAB_DIR/../build/lab/tests" ]; then
	dirs+=("$LAB_DIR/../build/lab")
else
	lab_note "nothing in build/lab: only the lab's own check will run"
fi

"$LAB_DIR/deps.sh"
mkdir -p "$LAB_CACHE/runs"
# Results of failed runs are kept, but not forever.
find "$LAB_CACHE/runs" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} +
run=$(mktemp -d "$LAB_CACHE/runs/XXXXXX")
passed=0 failed=0 skipped=0 finished=0
cleanup() {
	local machines
	machines=$(jobs -rp)
	if [ -n "$machines" ]; then
		# shellcheck disable=SC2086 # words
		kill $machines 2>/dev/null || true
		wait
	fi
	if [ -n "$results" ] && [ $finished -eq 1 ]; then
		rm -rf "$results"
		mkdir -p "$(dirname "$results")"
		mv "$run" "$results"
	elif [ $finished -eq 0 ] || [ $failed -eq 0 ]; then
		rm -rf "$run"
	fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ $sanity -eq 1 ]; then
	mkdir -p "$run/sanity/tests"
	"${CC:-cc}" -O1 -g -Wall -Wextra -o "$run/sanity/tests/00-lab-sanity.test" "$LAB_DIR/guest/mtty-sanity.c"
	dirs+=("$run/sanity")
fi
[ ${#dirs[@]} -gt 0 ] || lab_die "no programs to run"

# result ok|FAILED|skipped NAME [REASON]
result() {
	local line
	line="lab $variant $2 ... $1"
	[ -z "${3-}" ] || line="$line ($3)"
	printf '%s\n' "$line"
	case $1 in
	ok) passed=$((passed + 1)) ;;
	FAILED) failed=$((failed + 1)) ;;
	skipped) skipped=$((skipped + 1)) ;;
	esac
}

indent() {
	sed 's/^/    | /'
}

# Lines of the kernel's log that mean trouble, minus those allowed.
trouble='Oops|oops:|BUG:|WARNING:|general protection|KASAN|KCSAN|UBSAN|KFENCE'
trouble="$trouble|rcu.*(stall|detected)|blocked for more than|soft lockup|hard LOCKUP|Call Trace|Kernel panic"
allowed=$run/allowed
# An empty pattern would match, and so allow, every line.
grep -vE '^[[:space:]]*(#|$)' "${LAB_ALLOWED:-$LAB_DIR/allowed-warnings}" >"$allowed" || true

kernel_trouble() {
	# Both: the log is complete, but the console has what came after it, or instead of it. A
	# line that is in both has the same time stamp.
	cat "$1/dmesg" "$1/console" 2>/dev/null | tr -d '\r' |
		grep -vE '^(\[[ 0-9.]+\] )?lab: ' | grep -E "$trouble" |
		{ if [ -s "$allowed" ]; then grep -vE -f "$allowed"; else cat; fi; } |
		awk '!seen[$0]++' || true
}

# judge OUT BOOT: reports on every program of one boot.
judge() {
	local out=$1 boot=$2 name status why line seen_any bad reason shown
	while IFS= read -r name; do
		bad=0 seen_any=0
		if [ ! -e "$out/$name.status" ] && [ ! -e "$out/$name.started" ]; then
			result FAILED "$name" "not run in boot $boot"
			continue
		fi
		while IFS= read -r line; do
			line=${line%$'\r'}
			case $line in
			'ok '?*)
				seen_any=1
				report_line ok "${line#ok }" ''
				;;
			'not ok '?*)
				seen_any=1 bad=1
				line=${line#not ok }
				reason=${line#*: }
				[ "$reason" != "$line" ] || reason=
				report_line FAILED "${line%%: *}" "$reason"
				;;
			'skip '?*)
				seen_any=1
				line=${line#skip }
				reason=${line#*: }
				[ "$reason" != "$line" ] || reason='no reason given'
				report_line skipped "${line%%: *}" "$reason"
				;;
			'| '*)
				# For people to read, passed or not.
				printf '    %s\n' "$line"
				;;
			esac
		done < <(cat "$out/$name.out" 2>/dev/null; echo)

		why=
		if [ ! -e "$out/$name.status" ]; then
			why="machine ended while it ran"
		else
			status=$(cat "$out/$name.status")
			if [ -e "$out/$name.timeout" ]; then
				why="timed out"
			elif [ "$status" -gt 128 ]; then
				why="killed by signal $((status - 128))"
			elif [ "$status" -eq 77 ] && [ $seen_any -eq 0 ]; then
				: # nothing to do in this boot
			elif [ "$status" -ne 0 ] && [ $bad -eq 0 ]; then
				why="exit status $status"
			elif [ $seen_any -eq 0 ]; then
				why="printed no result"
			fi
		fi
		if [ -n "$why" ]; then
			bad=1
			result FAILED "$name" "$why, boot $boot"
		fi
		if [ $bad -eq 1 ] || [ "${V-}" = 1 ]; then
			shown=$({
				grep -vE '^(ok|not ok|skip|\|) ' "$out/$name.out"
				cat "$out/$name.err"
			} 2>/dev/null || true)
			[ -z "$shown" ] || printf '%s\n' "$shown" | indent
		fi
	done <"$out/programs"
}

# A name may come in both boots; then say which one it is.
declare -A names
report_line() {
	local name=$2
	if [ -n "${names[$variant $name]-}" ] && [ "${names[$variant $name]}" != "$boot" ]; then
		name="$name [boot $boot]"
	else
		names[$variant $name]=$boot
	fi
	result "$1" "$name" "$3"
}

# boot_all VARIANT: its machines one after another, because a later one finds what an earlier
# one has left.
boot_all() {
	local variant=$1 boot share
	for boot in $boots; do
		share=$run/$variant/boot$boot
		mkdir -p "$share" "$run/$variant/keep"
		"$LAB_DIR/boot.sh" "$variant" --share "$share" --keep "$run/$variant/keep" --boot "$boot" \
			--only "$only" "${pass_on[@]}" -- "${dirs[@]}" 2>"$share.err" || touch "$share.failed"
		[ -e "$share/out/programs" ] || break
	done
}

# reports PROGRAM: what its .conf says that the kernel must report, if that is what it is for.
reports() {
	local d
	for d in "${dirs[@]}"; do
		[ -f "$d/tests/$1.conf" ] || continue
		# shellcheck disable=SC1090  # it exists where the program does
		(REPORTS='' && . "$d/tests/$1.conf" && printf '%s' "$REPORTS")
	done
}

# alone OUT: programs that make the kernel report something, or end the machine, each in one of its
# own. That it does is the result; nothing else in the log is judged.
alone() {
	local name wanted share said
	while IFS= read -r name; do
		wanted=$(reports "$name")
		[ -n "$wanted" ] || continue
		share=$run/$variant/$name
		mkdir -p "$share"
		"$LAB_DIR/boot.sh" "$variant" --share "$share" --keep "$share/keep" --alone --only "$name" \
			"${pass_on[@]}" -- "${dirs[@]}" 2>"$share.err" || true
		[ ! -e "$share/out/restarts" ] || indent <"$share/out/restarts"
		grep '^| ' "$share/out/$name.out" 2>/dev/null | sed 's/^| /    /' || true
		said=$({ cat "$share/out/dmesg" "$share/out/console" 2>/dev/null || true; } | tr -d '\r' |
			grep -E "$wanted" | head -n 1 || true)
		if [ ! -e "$share/out/$name.started" ]; then
			result FAILED "$name" "machine did not come so far"
		elif [ -n "$said" ]; then
			printf '    %s\n' "$said"
			result ok "$name"
			continue
		else
			result FAILED "$name" "the kernel reported nothing"
		fi
		cat "$share/out/$name.out" "$share/out/$name.err" 2>/dev/null | indent
		tail -n 20 "$share/out/console" 2>/dev/null | tr -d '\r' | indent
	done <"$1/programs"
}

# A machine does one thing at a time and often waits: two variants' machines in parallel take
# little longer than one's.
declare -A job
start_boots() {
	[ -n "${1-}" ] && [ -z "${no_kernel[$1]-}" ] || return 0
	boot_all "$1" &
	job[$1]=$!
}

# All of them before the first boot, because a build needs the whole machine.
declare -A no_kernel
for v in "${variants[@]}"; do
	"$LAB_DIR/kernel.sh" "$v" >/dev/null || no_kernel[$v]=1
done
for v in "${variants[@]:0:2}"; do
	start_boots "$v"
done

# A lab that tests nothing stays green if it judges a file of results in which nothing is wrong
# and nothing was run: hence the count per variant.
for i in "${!variants[@]}"; do
	variant=${variants[i]}
	before=$((passed + failed))
	[ -z "${job[$variant]-}" ] || wait "${job[$variant]}" || true
	start_boots "${variants[i + 2]-}"
	if [ -n "${no_kernel[$variant]-}" ]; then
		result FAILED kernel "no kernel to boot"
		continue
	fi
	for boot in $boots; do
		share=$run/$variant/boot$boot
		if [ ! -e "$share/out/programs" ]; then
			result FAILED "boot-$boot" "machine was not started"
			indent <"$share.err"
			break
		fi
		[ ! -e "$share/out/restarts" ] || indent <"$share/out/restarts"
		judge "$share/out" "$boot"
		if [ -e "$share.failed" ]; then
			result FAILED "boot-$boot" "$(cat "$share/out/broken" 2>/dev/null || echo 'machine failed')"
			tail -n 20 "$share/out/console" | tr -d '\r' | indent
		fi
		lines=$(kernel_trouble "$share/out")
		if [ -n "$lines" ]; then
			result FAILED "kernel-log-$boot" "$(wc -l <<<"$lines") suspicious lines"
			head -n 20 <<<"$lines" | indent
		fi
	done
	if [ -e "$run/$variant/boot1/out/programs" ]; then
		alone "$run/$variant/boot1/out"
	fi
	[ $((passed + failed)) -gt "$before" ] || result FAILED programs "no test ran"
done

finished=1
[ $failed -eq 0 ] || lab_note "what the machines left is in ${results:-$run}"
summary="$passed passed, $failed failed"
[ $skipped -eq 0 ] || summary="$summary, $skipped skipped"
echo "$summary"
[ $failed -eq 0 ]
