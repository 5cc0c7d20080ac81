/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * iommufd's interface as far as the tests use it. The build machine's kernel headers may be older
 * than iommufd, and no package of headers has the part for its mock domains. lab/iommufd-layout.sh
 * compares all of this with the kernels under test.
 */
#ifndef IOMMU_KERNEL_H
#define IOMMU_KERNEL_H

#include <stdint.h>
#include <sys/ioctl.h>

#define LAB_IOMMU(n) _IO(';', (n))
#define LAB_IOMMU_DESTROY LAB_IOMMU(0x80)
#define LAB_IOMMU_IOAS_ALLOC LAB_IOMMU(0x81)
#define LAB_IOMMU_IOAS_COPY LAB_IOMMU(0x83)
#define LAB_IOMMU_IOAS_IOVA_RANGES LAB_IOMMU(0x84)
#define LAB_IOMMU_IOAS_MAP LAB_IOMMU(0x85)
#define LAB_IOMMU_IOAS_UNMAP LAB_IOMMU(0x86)
#define LAB_IOMMU_HWPT_ALLOC LAB_IOMMU(0x89)
#define LAB_IOMMU_GET_HW_INFO LAB_IOMMU(0x8a)
#define LAB_IOMMU_HWPT_SET_DIRTY LAB_IOMMU(0x8b)
#define LAB_IOMMU_HWPT_GET_DIRTY LAB_IOMMU(0x8c)
#define LAB_IOMMU_TEST_CMD LAB_IOMMU(0xa0)

/* Of IOAS_MAP and IOAS_COPY. */
#define LAB_IOAS_FIXED_IOVA (1u << 0)
#define LAB_IOAS_WRITEABLE (1u << 1)
#define LAB_IOAS_READABLE (1u << 2)

enum {
	LAB_HWPT_ALLOC_DIRTY_TRACKING = 1 << 1,
	LAB_HWPT_GET_NO_CLEAR = 1 << 0,
	LAB_HW_CAP_DIRTY_TRACKING = 1 << 0,
};

struct lab_iommu_destroy {
	uint32_t size;
	uint32_t id;
};

struct lab_iommu_ioas_alloc {
	uint32_t size;
	uint32_t flags;
	uint32_t out_ioas_id;
};

struct lab_iova_range {
	uint64_t start;
	uint64_t last;
};

struct lab_iommu_ioas_iova_ranges {
	uint32_t size;
	uint32_t ioas_id;
	uint32_t num_iovas;
	uint32_t reserved;
	uint64_t allowed_iovas;
	uint64_t out_iova_alignment;
};

struct lab_iommu_ioas_map {
	uint32_t size;
	uint32_t flags;
	uint32_t ioas_id;
	uint32_t reserved;
	uint64_t user_va;
	uint64_t length;
	uint64_t iova;
};

struct lab_iommu_ioas_copy {
	uint32_t size;
	uint32_t flags;
	uint32_t dst_ioas_id;
	uint32_t src_ioas_id;
	uint64_t length;
	uint64_t dst_iova;
	uint64_t src_iova;
};

struct lab_iommu_ioas_unmap {
	uint32_t size;
	uint32_t ioas_id;
	uint64_t iova;
	uint64_t length;
};

struct lab_iommu_hwpt_alloc {
	uint32_t size;
	uint32_t flags;
	uint32_t dev_id;
	uint32_t pt_id;
	uint32_t out_hwpt_id;
	uint32_t reserved;
	uint32_t data_type;
	uint32_t data_len;
	uint64_t data_uptr;
	uint32_t fault_id;
	uint32_t reserved2;
};

struct lab_iommu_hw_info {
	uint32_t size;
	uint32_t flags;
	uint32_t dev_id;
	uint32_t data_len;
	uint64_t data_uptr;
	uint32_t out_data_type;
	uint32_t reserved;
	uint64_t out_capabilities;
};

struct lab_iommu_hwpt_set_dirty {
	uint32_t size;
	uint32_t flags;
	uint32_t hwpt_id;
	uint32_t reserved;
};

struct lab_iommu_hwpt_get_dirty {
	uint32_t size;
	uint32_t hwpt_id;
	uint32_t flags;
	uint32_t reserved;
	uint64_t iova;
	uint64_t length;
	uint64_t page_size;
	uint64_t data;
};

/* Of the selftest: what kind of mock device. */
enum {
	/* It cannot track. */
	LAB_MOCK_NO_DIRTY = 1 << 0,
	/* Its page tables have large entries where memory is contiguous. 7.3 always has them. */
	LAB_MOCK_HUGE = 1 << 1,
};

enum {
	LAB_TEST_MOCK_DOMAIN_REPLACE = 10,
	LAB_TEST_MOCK_DOMAIN_FLAGS = 12,
	LAB_TEST_DIRTY = 13,
};

struct lab_iommu_test_cmd {
	uint32_t size;
	uint32_t op;
	uint32_t id;
	uint32_t reserved;
	union {
		struct {
			uint32_t out_stdev_id;
			uint32_t out_hwpt_id;
			uint32_t out_idev_id;
			uint32_t dev_flags;
		} mock_domain_flags;
		struct {
			uint32_t pt_id;
		} mock_domain_replace;
		struct {
			uint32_t flags;
			uint64_t iova;
			uint64_t length;
			uint64_t page_size;
			uint64_t uptr;
			uint64_t out_nr_dirty;
		} dirty;
	};
	uint32_t last;
};

/* VFIO_DEVICE_ATTACH_IOMMUFD_PT */
#define LAB_VFIO_ATTACH_PT _IO(';', 119)

struct lab_vfio_attach_pt {
	uint32_t argsz;
	uint32_t flags;
	uint32_t pt_id;
};

#endif
