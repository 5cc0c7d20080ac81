#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Boots a kernel variant in QEMU and runs the programs of a directory in it.
#
# usage: boot.sh VARIANT [options] [-- PROGRAM_DIR...]
#
#   --share DIR     host directory that is /share in the guest; results are in
#                   DIR/out (default: a new temporary one, whose name is printed)
#   --keep DIR      host directory that is /share/keep (default: SHARE/keep)
#   --boot N        value of LAB_BOOT in the guest (default 1)
#   --memory MIB    memory of the machine (default 1024)
#   --timeout SEC   end the machine after this time (default 1800)
#   --test-timeout SEC   time for one program (default 600)
#   --only GLOB     run only programs whose name matches
#   --append WORDS  more kernel parameters
#   --alone         the machine is for programs that make the kernel report something
#   --shell         a shell on the serial console instead of the programs
#
# The environment variable LAB_QEMU_ARGS holds further arguments for QEMU. Exit status: 0 if the
# machine went through the list of programs, whatever they reported; 1 if it did not.

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
	sed -n '/^# usage/,/^# they had/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

share='' keep='' boot=1 memory=1024 timeout=1800 test_timeout=600 only='*' append='' shell=0 alone=0
[ $# -ge 1 ] || usage
variant=$1
shift
lab_is_variant "$variant" || lab_die "no variant '$variant' (there are: ${LAB_VARIANTS[*]})"
while [ $# -gt 0 ]; do
	case $1 in
	--shell) shell=1; shift; continue ;;
	--alone) alone=1; shift; continue ;;
	--) shift; break ;;
	--share | --keep | --boot | --memory | --timeout | --test-timeout | --only | --append)
		[ $# -ge 2 ] || usage
		name=${1#--}
		printf -v "${name//-/_}" %s "$2"
		shift 2
		;;
	*) usage ;;
	esac
done
programs=("$@")
for p in "${programs[@]}"; do
	[ -d "$p" ] || lab_die "no directory $p"
done
[ ${#programs[@]} -gt 0 ] || [ $shell -eq 1 ] || usage

kernel=$("$LAB_DIR/kernel.sh" "$variant")
"$LAB_DIR/deps.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/vfiomig-lab.XXXXXX")
qemu=
# Never by name: other people's machines may be running here.
cleanup() {
	[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -z "$share" ]; then
	share=$(mktemp -d "${TMPDIR:-/tmp}/vfiomig-lab-share.XXXXXX")
	lab_note "results in $share/out"
fi
mkdir -p "$share"
share=$(cd "$share" && pwd)
rm -rf "$share/out"
mkdir -p "$share/out" "${keep:=$share/keep}"
keep=$(cd "$keep" && pwd)
case $share$keep in
*,*) lab_die "QEMU cannot share a directory with a comma in its name" ;;
esac

# --- initramfs ---------------------------------------------------------------

root=$work/root
mkdir -p "$root/bin" "$root/lab/tests" "$root/modules"
cp "$(command -v busybox)" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
cp "$LAB_DIR/guest/init" "$root/init"
chmod 755 "$root/init"
find "$kernel/modules" -name '*.ko' -exec cp -t "$root/modules" {} +
# The lab's own test device, after everything that it may need.
module=$("$LAB_DIR/kmod.sh" "$variant")
cp "$module" "$root/modules/90-vfiomig_test.ko"
cat >"$root/lab.env" <<EOF
KERNEL_VARIANT=$variant
LAB_BOOT=$boot
LAB_SHELL=$shell
LAB_ALONE=$alone
LAB_TEST_TIMEOUT=$test_timeout
EOF

elves=()
for p in "${programs[@]}"; do
	# Links are followed, because their targets may be outside the directory.
	cp -RLp "$p/." "$root/lab/"
	while IFS= read -r f; do
		[ "$(head -c 4 "$f" | tr -d '\0')" != $'\x7fELF' ] || elves+=("$f")
	done < <(find -L "$p" -type f \( -perm -100 -o -name '*.so*' \))
done
for f in "$root"/lab/tests/*.test; do
	# shellcheck disable=SC2254  # a glob is what --only takes
	case $(basename "$f" .test) in
	$only) ;;
	*) rm -f "$f" ;;
	esac
done

# needed_for NAME: whether a program that will run here says in its .conf that it needs this.
needed_for() {
	local f conf
	for f in "$root"/lab/tests/*.test; do
		conf=${f%.test}.conf
		if [ ! -f "$f" ] || [ ! -f "$conf" ]; then
			continue
		fi
		# shellcheck disable=SC1090  # it exists where the program does
		case $(NEEDS='' BOOTS='1 2' && . "$conf" && echo " $NEEDS : $BOOTS ") in
		*" $1 "*:*" $boot "*) return 0 ;;
		esac
	done
	return 1
}

# Without it only that program fails, and finds nothing in /qemu.
stock_qemu=
if needed_for qemu && built=$("$LAB_DIR/qemu.sh"); then
	stock_qemu=$built/root
	mkdir -p "$root/qemu"
fi
echo "LAB_QEMU=${stock_qemu:+1}" >>"$root/lab.env"

# Libraries are looked up where the programs are, so that paths relative to them work, and
# gathered in one directory, which the guest's LD_LIBRARY_PATH names. Then it does not matter
# whether they were found by a run path, by this machine's LD_LIBRARY_PATH or by default.
if [ ${#elves[@]} -gt 0 ]; then
	mkdir -p "$root/usr/lib/lab"
	for f in "${elves[@]}"; do
		# ldd fails on static programs, which need nothing.
		listing=$(ldd "$f" 2>/dev/null) || continue
		case $listing in
		*'not found'*) lab_die "$f: $(grep -m 1 'not found' <<<"$listing" | sed 's/^[[:space:]]*//')" ;;
		esac
		while IFS= read -r line; do
			case $line in
			*' => /'*)
				lib=${line#* => }
				lib=${lib% (*}
				to=$root/usr/lib/lab/$(sed 's/^[[:space:]]*//; s/ => .*//; s,.*/,,' <<<"$line")
				if [ ! -e "$to" ]; then
					cp -L "$lib" "$to"
				elif ! cmp -s "$lib" "$to"; then
					lab_die "$f wants another ${to##*/} than the programs before it: $lib"
				fi
				;;
			*/ld-*' ('*)
				# The program interpreter is looked up by its full path.
				lib=$(sed 's/^[[:space:]]*//; s/ (.*//' <<<"$line")
				mkdir -p "$root${lib%/*}"
				cp -L "$lib" "$root$lib"
				;;
			esac
		done <<<"$listing"
	done
	# glibc loads it itself when a thread is cancelled or exits.
	lib=$(gcc -print-file-name=libgcc_s.so.1 2>/dev/null || true)
	if [ -f "$lib" ] && [ ! -e "$root/usr/lib/lab/libgcc_s.so.1" ]; then
		cp -L "$lib" "$root/usr/lib/lab/"
	fi
fi

# Not compressed: otherwise the time goes into the guest's emulated CPU.
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$work/initrd"
# The list of what should run, for whoever judges the results.
for f in "$root"/lab/tests/*.test; do
	if [ -f "$f" ] && [ -x "$f" ]; then
		basename "$f" .test
	fi
done >"$share/out/programs"
rm -rf "$root"

# --- the machine -------------------------------------------------------------

# tinyconfig's log buffer is too small to hold a run: log_buf_len. Warnings go to the console as
# well (loglevel=5), in case the machine does not live to hand over its log. An oops must end it
# (oops=panic), and QEMU with it (panic=-1, -no-reboot). The emulated TSC is the host's;
# checking it against a slower clock only fails when the host is busy (tsc=reliable), and so
# does waiting for the timer's first interrupts (no_timer_check).
cmdline="console=ttyS0 panic=-1 oops=panic tsc=reliable no_timer_check loglevel=5 log_buf_len=4M $append"

# kernel-6.12.config says why this one is different.
case $variant in
6.12)
	iommu=(-device virtio-iommu-pci)
	# It remaps no interrupts, and only with that is a device safe enough.
	cmdline="$cmdline vfio_iommu_type1.allow_unsafe_interrupts=1 iommufd.allow_unsafe_interrupts=1"
	;;
*)
	# Some configurations leave it off (intel_iommu=on).
	iommu=(-device "intel-iommu,intremap=on,aw-bits=48")
	cmdline="$cmdline intel_iommu=on"
	;;
esac

# shellcheck disable=SC2054  # the commas are QEMU's
args=(
	-accel tcg,thread=multi -smp 2
	# The chipset for which QEMU has IOMMUs.
	-machine q35
	# A PCI device for vfio-pci: "edu" copies between its own 4 KiB and the guest's memory, by
	# any IOVA that the IOMMU accepts.
	"${iommu[@]}" -device edu,dma_mask=0xffffffffffff
	# Under TCG, "rep movsb" copies one byte at a time.
	-cpu max,-erms,-fsrm
	-m "$memory" -no-reboot -nic none -vga none
	-kernel "$kernel/bzImage" -initrd "$work/initrd" -append "$cmdline"
	-fsdev "local,id=share,path=$share,security_model=none,multidevs=remap"
	-device virtio-9p-pci,fsdev=share,mount_tag=share
	-fsdev "local,id=keep,path=$keep,security_model=none,multidevs=remap"
	-device virtio-9p-pci,fsdev=keep,mount_tag=keep
)
if [ -n "$stock_qemu" ]; then
	# shellcheck disable=SC2054 # as above
	args+=(
		-fsdev "local,id=qemu,path=$stock_qemu,security_model=none,multidevs=remap,readonly=on"
		-device virtio-9p-pci,fsdev=qemu,mount_tag=qemu
	)
fi
read -ra extra <<<"${LAB_QEMU_ARGS-}"
args+=("${extra[@]}")

if [ $shell -eq 1 ]; then
	# In the foreground: it owns the terminal.
	qemu-system-x86_64 -nographic "${args[@]}"
	exit
fi

# timeout(1) ends the one process that it started, and passes our own TERM on.
start() {
	timeout -k 5 "$timeout" qemu-system-x86_64 -display none -serial stdio -monitor none "${args[@]}" \
		</dev/null >"$share/out/console" 2>"$share/out/qemu.err" &
	qemu=$!
}

# came_up SEC: whether it has, or has ended, in that time.
came_up() {
	local left=$1
	while [ ! -e "$share/out/up" ] && kill -0 "$qemu" 2>/dev/null; do
		[ "$left" -gt 0 ] || return 1
		sleep 1
		left=$((left - 1))
	done
}

# Now and then an emulated machine with two CPUs stops for good while its kernel starts. Nothing that
# is tested has run by then: it gets two more attempts, and whoever reads the results is told.
start
for attempt in 1 2; do
	! came_up "${LAB_UP_SECONDS:-240}" || break
	kill "$qemu" 2>/dev/null || true
	wait "$qemu" || true
	mv "$share/out/console" "$share/out/console.$attempt"
	echo "attempt $attempt to start it hung: started again" | tee -a "$share/out/restarts" >&2
	start
done
status=0
wait "$qemu" || status=$?
qemu=

if [ -s "$share/out/broken" ]; then
	lab_note "$variant: $(cat "$share/out/broken")"
	exit 1
fi
if [ ! -e "$share/out/done" ]; then
	if [ $status -eq 124 ] || [ $status -eq 137 ]; then
		echo "no end after $timeout s" >"$share/out/broken"
	elif [ $status -ne 0 ]; then
		echo "QEMU failed: $(head -n 1 "$share/out/qemu.err")" >"$share/out/broken"
	elif grep -q 'terminating on signal' "$share/out/qemu.err"; then
		echo "somebody ended the machine: $(grep -m 1 'terminating' "$share/out/qemu.err")" >"$share/out/broken"
	else
		echo "machine ended before its programs" >"$share/out/broken"
	fi
	lab_note "$variant: $(cat "$share/out/broken")"
	exit 1
fi
