#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Compares docs/syscalls.json with what strace sees: a system call that is not in the list
# fails, and so does one in the list that never happens and is not marked as one that may. The
# list is checked per feature if the program is c-tests/syscalls.c, and for ioctls as a whole on
# a log that was made on a real device, where the VMM's calls are in between.
#
# usage: syscalls.sh DIRECTORY        run DIRECTORY/syscalls under strace
#        syscalls.sh --log FILE...    look at logs of strace -f

set -u
list=docs/syscalls.json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
group=syscalls
# shellcheck source=c-tests/verdict.sh
. "$(dirname "$0")/verdict.sh"

# FEATURE NAMES REQUEST MAY OBJECT, tab-separated, for each entry of a list.
entries() {
	awk '
		function value(key,  rest) {
			if (!match($0, "\"" key "\": \"")) return ""
			rest = substr($0, RSTART + RLENGTH)
			return substr(rest, 1, index(rest, "\"") - 1)
		}
		/^    "[a-z0-9-]*": \[/ { split($0, part, "\""); feature = part[2]; print feature "\t-\t-\tmay" }
		/"syscall":/ {
			request = value("request")
			print feature "\t" value("syscall") "\t" (request ? request : "-") "\t" (value("may") ? "may" : "must") "\t" value("on")
		}' "$1"
}

# PHASE SYSCALL REQUEST for each call of a log of c-tests/syscalls.c.
calls_by_phase() {
	awk '
		{ sub(/^[0-9]+ +/, "") }
		/vfiomig-syscalls\// {
			match($0, /vfiomig-syscalls\/[a-z0-9-]+/)
			phase = substr($0, RSTART + 17, RLENGTH - 17)
			if (phase == "end") phase = ""
			else print phase "\t-\t-"
			next
		}
		phase != "" && /^[a-z0-9_]+\(/ {
			name = substr($0, 1, index($0, "(") - 1)
			request = "-"
			if (name == "ioctl") { split($0, arg, ", "); request = arg[2]; sub(/\).*/, "", request) }
			print phase "\t" name "\t" request
		}' "$1"
}

# compare LIST CALLS: what is wrong, a line each.
compare() {
	awk -F '\t' '
		function fits(entry, name, request,  parts, n, i) {
			if (requests[entry] != "-" && requests[entry] != request) return 0
			if (name == "ioctl" && requests[entry] == "-") return 0
			n = split(names[entry], parts, "|")
			for (i = 1; i <= n; i++) if (parts[i] == name) return 1
			return 0
		}
		NR == FNR {
			if ($2 == "-") { known[$1] = 1; next }
			count++; features[count] = $1; names[count] = $2; requests[count] = $3; may[count] = $4
			next
		}
		$2 == "-" { ran[$1] = 1; if (!known[$1]) print "phase " $1 " is not in the list"; next }
		{
			found = 0
			for (i = 1; i <= count; i++)
				if ((features[i] == $1 || features[i] == "always") && fits(i, $2, $3)) {
					seen[i]++
					found = 1
				}
			what = $1 ": " $2 ($3 == "-" ? "" : " " $3)
			if (!found && !told[what]++) print "not in the list: " what
		}
		END {
			for (feature in known) if (!ran[feature] && feature != "always") print "never tried: " feature
			for (i = 1; i <= count; i++)
				if (!seen[i] && may[i] == "must")
					print "never happened: " features[i] ": " names[i] (requests[i] == "-" ? "" : " " requests[i])
		}' "$1" "$2"
}

# The VFIO ioctls of a log from a real device, as numbers.
vfio_requests() {
	cat "$@" | sed -nE 's/^([0-9]+ +)?ioctl\([0-9]+(<[^>]*>)?, ([^,)]+).*/\3/p' | awk '
		BEGIN {
			number["VFIO_DEVICE_GET_INFO"] = "0x3b6b"; number["VFIO_DEVICE_GET_REGION_INFO"] = "0x3b6c"
			number["VFIO_DEVICE_RESET"] = "0x3b6f"; number["VFIO_DEVICE_FEATURE"] = "0x3b75"
			number["VFIO_MIG_GET_PRECOPY_INFO"] = "0x3b79"; number["VFIO_EEH_PE_OP"] = "0x3b79"
			# Numbers that several objects share, under the names that strace may choose.
			number["VFIO_IOMMU_DIRTY_PAGES"] = "0x3b75"
			number["VFIO_IOMMU_SPAPR_REGISTER_MEMORY"] = "0x3b75"
			number["VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY"] = "0x3b76"
		}
		{ sub(/ or .*/, "") }
		/^_IOC\(/ { next }
		$1 in number { print number[$1]; next }
		/^0x3b[0-9a-f][0-9a-f]$/ { print $1; next }
		/VFIO/ { print $1 }' | sort -u
}

# What a VMM does to open a device, and what the tests of the lab do with it.
vmms_own=' 0x3b64 0x3b65 0x3b66 0x3b67 0x3b68 0x3b69 0x3b6a 0x3b6d 0x3b6e 0x3b70 0x3b71 0x3b72 0x3b76 0x3b77 0x3b78
	0x3b81 0x3b82 0x3b80
	VFIO_GET_API_VERSION VFIO_CHECK_EXTENSION VFIO_SET_IOMMU VFIO_GROUP_GET_STATUS VFIO_GROUP_SET_CONTAINER
	VFIO_GROUP_UNSET_CONTAINER VFIO_GROUP_GET_DEVICE_FD VFIO_DEVICE_GET_IRQ_INFO VFIO_DEVICE_SET_IRQS
	VFIO_DEVICE_GET_PCI_HOT_RESET_INFO VFIO_IOMMU_GET_INFO VFIO_IOMMU_MAP_DMA VFIO_IOMMU_UNMAP_DMA '

# compare_log LIST LOG...: what is wrong.
compare_log() {
	entries "$1" >"$work/entries"
	awk -F '\t' '$3 != "-" { print $3 }' "$work/entries" | sort -u >"$work/listed"
	shift
	vfio_requests "$@" >"$work/seen"
	while read -r request; do
		grep -qx "$request" "$work/listed" && continue
		case $vmms_own in *[!a-z0-9_A-Z]"$request"[!a-z0-9_A-Z]*) ;; *) echo "not in the list: ioctl $request" ;; esac
	done <"$work/seen"
	# Those tests have a device, and neither a container nor a page table that tracks.
	awk -F '\t' '$3 != "-" && $5 ~ /^(device|data)$/ { print $3 }' "$work/entries" | sort -u |
		while read -r request; do
			grep -qx "$request" "$work/seen" || echo "never happened: ioctl $request"
		done
}

if [ "${1-}" = --log ]; then
	shift
	[ $# -gt 0 ] || exit 2
	verdict real-device "$(compare_log $list "$@")"
	grep -v 0x3b6f $list >"$work/short.json"
	if compare_log "$work/short.json" "$@" | grep -q 'not in the list: ioctl 0x3b6f'; then
		verdict log-with-an-unlisted-ioctl-is-refused ''
	else
		verdict log-with-an-unlisted-ioctl-is-refused 'it was accepted'
	fi
else
	program=$1/syscalls
	# Where packages are built, there may be no strace, or one that may not watch.
	if ! strace -o /dev/null true 2>/dev/null; then
		echo "syscalls: strace is not installed, or may not be used here: not compared" >&2
		[ -n "${VFIOMIG_CHECK_BUILD-}" ]
		exit
	fi
	strace -f -X raw -o "$work/log" "$program" >"$work/out" 2>&1 ||
		bad the-program "$(cat "$work/out")"
	calls_by_phase "$work/log" >"$work/calls"
	entries $list >"$work/list"
	# A library without env_logger never gets there.
	[ "${EXPECT_ENV_LOGGER-1}" = 1 ] || sed -i '/^log-env/d' "$work/calls" "$work/list"
	verdict listed-and-seen "$(compare "$work/list" "$work/calls")"

	# The check itself: a list with one line less, and one with one line more.
	grep -v "^load	write" "$work/list" >"$work/wrong"
	verdict a-missing-entry-is-noticed "$(compare "$work/wrong" "$work/calls" |
		grep -q '^not in the list: load: write$' || echo 'it was not')"
	{
		cat "$work/list"
		printf 'load\tioctl\t0x3b70\tmust\n'
	} >"$work/wrong"
	verdict an-entry-too-many-is-noticed "$(compare "$work/wrong" "$work/calls" |
		grep -q '^never happened: load: ioctl 0x3b70$' || echo 'it was not')"
fi
echo "syscalls: $passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
