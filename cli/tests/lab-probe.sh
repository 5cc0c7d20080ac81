#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Runs in the lab's guest (lab/README.md) as tests/NAME.test, with the tool as
# $LAB_DIR/vfiomig: probes a real mtty device in every way that the kernel has.
# The output is kept in $LAB_OUT/probe-VARIANT.txt.

tool=${LAB_DIR:-/lab}/vfiomig
types=/sys/class/mdev_bus/mtty/mdev_supported_types
uuid=6d747479-0000-4000-8000-000000009b0e
mdev=/sys/bus/mdev/devices/$uuid
shown=${LAB_OUT:-/tmp}/probe-${KERNEL_VARIANT:-here}.txt
out=/tmp/probe.out
err=/tmp/probe.err
failures=0

[ "${LAB_BOOT:-1}" = 1 ] || exit 77
: >"$shown"

# probe STATUS ARGUMENT...: runs the tool and complains about another status.
probe() {
	want=$1
	shift
	"$tool" probe "$@" >"$out" 2>"$err"
	got=$?
	{
		echo "# vfiomig probe $*"
		cat "$out" "$err"
		echo
	} >>"$shown"
	[ $got -eq "$want" ] || why="exit status $got, not $want: $(head -n 1 "$err")"
}

# Each of these records the first thing that is wrong.
has() {
	grep -qF -- "$1" "$out" || why=${why:-"the output lacks '$1'"}
}
lacks() {
	! grep -qF -- "$1" "$out" || why=${why:-"the output has '$1'"}
}
state_is_running() {
	has '"state": "RUNNING"'
}

result() {
	if [ -z "$why" ]; then
		echo "ok $1"
	else
		echo "not ok $1: $why"
		sed 's/^/  /' "$out" "$err"
		failures=1
	fi
	why=
}

why=
echo $uuid >$types/mtty-2/create || {
	echo "not ok probe-create: cannot make an mtty-2"
	exit 1
}
cdev=
for d in "$mdev"/vfio-dev/vfio*; do
	[ -e "$d/dev" ] && cdev=/dev/vfio/devices/${d##*/}
done
group=$(readlink $mdev/iommu_group)
group=/dev/vfio/${group##*/}

# What every way must find.
check_json() {
	has '"schema": 1'
	has '"migratable": true'
	has '"migration_flags": 7'
	has '"stop_copy": true'
	has '"pre_copy": true'
	has '"p2p": true'
	has '"state_size": 96'
	has '"type": "mtty-2"'
	has '"mdev_type": "mtty-2"'
	has '"vendor": "4348"'
	state_is_running
}

probe 0 $uuid
has 'can migrate'
has 'mdev mtty-2 of mtty'
has 'stop-copy, pre-copy, peer-to-peer'
has '(flags 0x7)'
has 'RUNNING'
has 'about 96 bytes'
result probe-uuid

probe 0 --json $uuid
check_json
if [ -n "$cdev" ]; then
	has '"by": "cdev"'
	has "\"node\": \"$cdev\""
	lacks '"no-cdev"'
else
	has '"by": "group"'
	has "\"node\": \"$group\""
	has '"code": "no-cdev"'
	has '"code": "no-iommufd"'
	has '"cdev": null'
fi
result probe-uuid-json

probe 0 --json "$(readlink -f $mdev)"
check_json
has "\"name\": \"$uuid\""
result probe-sysfs

if [ -n "$cdev" ]; then
	probe 0 --json "$cdev"
	check_json
	has "\"name\": \"$uuid\""
	has '"by": "cdev"'
	result probe-cdev

	probe 0 "$cdev"
	has "mdev $uuid mtty-2 of mtty"
	has "cdev $cdev"
	result probe-cdev-text

	# Without iommufd the group still leads to the device.
	mv /dev/iommu /dev/iommu.away
	probe 0 --json $uuid
	mv /dev/iommu.away /dev/iommu
	check_json
	has '"by": "group"'
	has '"code": "node-missing"'
	lacks '"severity": "hides"'
	result probe-falls-back-to-group

	# In use by the group: the cdev is refused.
	exec 5<>"$group"
	probe 1 --json "$cdev"
	exec 5>&-
	has '"migratable": null'
	has '"code": "in-use"'
	has "process $$"
	result probe-cdev-in-use

	# Both ways are refused, for one reason that is given once.
	exec 5<>"$group"
	probe 1 $uuid
	exec 5>&-
	[ "$(grep -cF '[in-use]' "$out")" = 1 ] || why=${why:-"[in-use] is not there once"}
	result probe-in-use
else
	probe 1 /dev/vfio/devices/vfio0
	has '[node-missing]'
	has 'gives devices no such node'
	has '[no-cdev]'
	result probe-cdev-not-there
fi

# A group can be opened once only.
mv "$group" "$group.away" 2>/dev/null
probe 0 --json $uuid
[ -n "$cdev" ] || {
	# Only the group leads to it here.
	why=
	probe 1 --json $uuid
	has '"migratable": null'
	has '"code": "node-missing"'
}
mv "$group.away" "$group"
result probe-without-group-node

[ -n "$cdev" ] && mv "$cdev" "$cdev.away"
exec 5<>"$group"
probe 1 $uuid
exec 5>&-
[ -n "$cdev" ] && mv "$cdev.away" "$cdev"
has 'not known'
has '[in-use]'
has "(process $$)"
result probe-group-in-use

probe 2 "$group"
grep -qF "$uuid" "$err" || why=${why:-"the group's devices are not named"}
result probe-group-node

probe 1 --json --all
has "\"name\": \"$uuid\""
has '"migratable": true'
has '"code": "mdev-parent"'
has 'mtty-1 ('
result probe-all

# Two at once: the device, and one that does not exist.
probe 2 --json $uuid 6d747479-0000-4000-8000-00000000dead
has '"migratable": true'
grep -qF 'no mediated device' "$err" || why=${why:-"nothing on standard error"}
result probe-one-of-two

# Looking changes nothing that another look could see.
probe 0 --json $uuid
cp "$out" /tmp/probe.first
probe 0 --json $uuid
cmp -s "$out" /tmp/probe.first || why=${why:-"a second look differs"}
result probe-twice

echo 1 >$mdev/remove
probe 2 $uuid
result probe-removed

exit $failures
