#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Are the numbers and structures in c-tests/lab/iommu-kernel.h those of the kernels under test?
# Compiles assertions with the headers of each.
#
# usage: iommufd-layout.sh [VARIANT...]     (default: all that have iommufd)

set -euo pipefail
# shellcheck source=lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

variants=("$@")
[ ${#variants[@]} -gt 0 ] || variants=(6.12 7.3)

assertions() {
	cat <<-'EOF'
		#include <stddef.h>
		#include <linux/iommufd.h>
		#include "iommufd_test.h"
		#include <linux/vfio.h>
		#include "iommu-kernel.h"
		#define SAME(a, b) _Static_assert((long)(a) == (long)(b), #a " is not " #b)
		#define FIELD(ours, theirs, a, b) \
			SAME(offsetof(struct ours, a), offsetof(struct theirs, b)); \
			SAME(sizeof(((struct ours *)0)->a), sizeof(((struct theirs *)0)->b))
	EOF
	# ours, the kernel's; then pairs of fields, or one name if both have it.
	local ours theirs fields f
	while read -r ours theirs fields; do
		# The kernel's may have grown at the end: it accepts the shorter one.
		echo "_Static_assert(sizeof(struct $ours) <= sizeof(struct $theirs), \"$ours is longer\");"
		for f in $fields; do
			echo "FIELD($ours, $theirs, ${f%=*}, ${f#*=});"
		done
	done <<-'EOF'
		lab_iommu_destroy iommu_destroy size id
		lab_iommu_ioas_alloc iommu_ioas_alloc size flags out_ioas_id
		lab_iova_range iommu_iova_range start last
		lab_iommu_ioas_iova_ranges iommu_ioas_iova_ranges size ioas_id num_iovas allowed_iovas out_iova_alignment
		lab_iommu_ioas_map iommu_ioas_map size flags ioas_id user_va length iova
		lab_iommu_ioas_copy iommu_ioas_copy size flags dst_ioas_id src_ioas_id length dst_iova src_iova
		lab_iommu_ioas_unmap iommu_ioas_unmap size ioas_id iova length
		lab_iommu_hwpt_alloc iommu_hwpt_alloc size flags dev_id pt_id out_hwpt_id data_type data_len data_uptr fault_id
		lab_iommu_hw_info iommu_hw_info size flags dev_id data_len data_uptr out_data_type out_capabilities
		lab_iommu_hwpt_set_dirty iommu_hwpt_set_dirty_tracking size flags hwpt_id
		lab_iommu_hwpt_get_dirty iommu_hwpt_get_dirty_bitmap size hwpt_id flags iova length page_size data
		lab_iommu_test_cmd iommu_test_cmd size op id last mock_domain_replace.pt_id
		lab_iommu_test_cmd iommu_test_cmd mock_domain_flags.out_stdev_id mock_domain_flags.out_hwpt_id
		lab_iommu_test_cmd iommu_test_cmd mock_domain_flags.out_idev_id mock_domain_flags.dev_flags
		lab_iommu_test_cmd iommu_test_cmd dirty.flags dirty.iova dirty.length dirty.page_size dirty.uptr
		lab_iommu_test_cmd iommu_test_cmd dirty.out_nr_dirty
		lab_vfio_attach_pt vfio_device_attach_iommufd_pt argsz flags pt_id
	EOF
	while read -r ours theirs; do
		echo "SAME($ours, $theirs);"
	done <<-'EOF'
		LAB_IOMMU_DESTROY IOMMU_DESTROY
		LAB_IOMMU_IOAS_ALLOC IOMMU_IOAS_ALLOC
		LAB_IOMMU_IOAS_COPY IOMMU_IOAS_COPY
		LAB_IOMMU_IOAS_IOVA_RANGES IOMMU_IOAS_IOVA_RANGES
		LAB_IOMMU_IOAS_MAP IOMMU_IOAS_MAP
		LAB_IOMMU_IOAS_UNMAP IOMMU_IOAS_UNMAP
		LAB_IOMMU_HWPT_ALLOC IOMMU_HWPT_ALLOC
		LAB_IOMMU_GET_HW_INFO IOMMU_GET_HW_INFO
		LAB_IOMMU_HWPT_SET_DIRTY IOMMU_HWPT_SET_DIRTY_TRACKING
		LAB_IOMMU_HWPT_GET_DIRTY IOMMU_HWPT_GET_DIRTY_BITMAP
		LAB_IOMMU_TEST_CMD IOMMU_TEST_CMD
		LAB_VFIO_ATTACH_PT VFIO_DEVICE_ATTACH_IOMMUFD_PT
		LAB_IOAS_FIXED_IOVA IOMMU_IOAS_MAP_FIXED_IOVA
		LAB_IOAS_WRITEABLE IOMMU_IOAS_MAP_WRITEABLE
		LAB_IOAS_READABLE IOMMU_IOAS_MAP_READABLE
		LAB_HWPT_ALLOC_DIRTY_TRACKING IOMMU_HWPT_ALLOC_DIRTY_TRACKING
		LAB_HWPT_GET_NO_CLEAR IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
		LAB_HW_CAP_DIRTY_TRACKING IOMMU_HW_CAP_DIRTY_TRACKING
		LAB_TEST_MOCK_DOMAIN_REPLACE IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE
		LAB_TEST_MOCK_DOMAIN_FLAGS IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS
		LAB_TEST_DIRTY IOMMU_TEST_OP_DIRTY
		LAB_MOCK_NO_DIRTY MOCK_FLAGS_DEVICE_NO_DIRTY
	EOF
}

stubs=$(mktemp -d "${TMPDIR:-/tmp}/vfiomig-layout.XXXXXX")
trap 'rm -rf "$stubs"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# These are not installed headers: what installing removes is missing here, and is defined as
# nothing.
mkdir "$stubs/linux"
: >"$stubs/linux/compiler_types.h"

for variant in "${variants[@]}"; do
	kernel=$("$LAB_DIR/kernel.sh" "$variant")
	build=$kernel/build
	assertions | "${CC:-cc}" -std=gnu11 -Wall -Werror -fsyntax-only -D__EXPORTED_HEADERS__ '-D__user=' \
		-I"$LAB_DIR/../c-tests/lab" -I"$kernel/src" -I"$stubs" \
		-I"$build/include/uapi" -I"$build/arch/x86/include/generated/uapi" -I"$build/arch/x86/include/uapi" \
		-x c - || lab_die "iommu-kernel.h is not what $variant has"
done
