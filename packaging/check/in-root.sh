#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Runs a command in a root that is made of layers, which are directories as mmdebstrap makes them or as
# this script leaves them. What the command changes goes into CHANGES/files, which can be a layer later.
# The root has namespaces of its own, without a network unless --net is given: when the command ends,
# everything that was mounted is gone, and everything that it started.
#
# usage: in-root.sh [--net] CHANGES LAYER[:LAYER...] COMMAND...       (as root; the first layer is on top)

set -euo pipefail
namespaces=(--mount --pid --fork --kill-child --uts --ipc --propagation private)
if [ "$1" = --net ]; then
	shift
else
	namespaces+=(--net)
fi
changes=$(realpath -m "$1") layers=$2
shift 2
mkdir -p "$changes/files" "$changes/work" "$changes/root"

# unshare waits for the command and hears no signal meanwhile, and the first process of a namespace is not
# ended by one that it does not expect.
child=
trap '[ -z "$child" ] || kill -KILL "$child" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# shellcheck disable=SC2016 # for the shell inside
unshare "${namespaces[@]}" bash -euc '
	changes=$1 layers=$2 root=$1/root
	shift 2
	mount -t overlay root -o "lowerdir=$layers,upperdir=$changes/files,workdir=$changes/work" "$root"
	mount -t proc proc "$root/proc"
	mount -t tmpfs -o mode=1777 tmp "$root/tmp"
	mount -t tmpfs -o mode=755 dev "$root/dev"
	for device in null zero full random urandom; do
		: >"$root/dev/$device"
		mount --bind "/dev/$device" "$root/dev/$device"
	done
	mkdir -m 1777 "$root/dev/shm"
	# Terminals, as sbuild gives them: the tests of the tool open one.
	mkdir "$root/dev/pts"
	mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 pts "$root/dev/pts"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	for n in 0:stdin 1:stdout 2:stderr; do
		ln -s "/proc/self/fd/${n%:*}" "$root/dev/${n#*:}"
	done
	if [ -e /etc/resolv.conf ] && [ ! -e "$root/etc/resolv.conf" ]; then
		cp -L /etc/resolv.conf "$root/etc/"
	fi
	ip link set lo up 2>/dev/null || true
	exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
		DEBIAN_FRONTEND=noninteractive "$@"' sh "$changes" "$layers" "$@" &
child=$!
status=0
wait "$child" || status=$?
trap - EXIT
exit $status
