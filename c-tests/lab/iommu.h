/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * IOMMUs, for the tests of dirty tracking: the type1 container, iommufd with the kernel's mock
 * domains, and a PCI device that does real DMA. Plain system calls, with none of the library's
 * code.
 *
 * Calls that may legitimately fail return 0 or -errno. Those that return nothing end the case.
 */
#ifndef IOMMU_H
#define IOMMU_H

#include <linux/vfio.h>

#include "iommu-kernel.h"
#include "lab.h"

/* --- type1 ------------------------------------------------------------------------------------- */

/* The container is that of a device opened by LAB_GROUP; lab_open_beside() puts others into it. */

int lab_dma_map(int container, uint64_t iova, uint64_t size, void *memory);
/* The number of unmapped bytes goes to *done, which may be NULL. */
int lab_dma_unmap(int container, uint64_t iova, uint64_t size, uint64_t *done);
/* With VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP; bytes is the bitmap's size. */
int lab_dma_unmap_dirty(int container, uint64_t iova, uint64_t size, uint64_t *done, uint64_t page_size,
			uint64_t *bitmap, uint64_t bytes);

/* flag is VFIO_IOMMU_DIRTY_PAGES_FLAG_START or _STOP. */
int lab_dirty_pages(int container, uint32_t flag);
int lab_dirty_bitmap(int container, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap,
		     uint64_t bytes);

/* What VFIO_IOMMU_GET_INFO says about dirty tracking. */
struct lab_dirty_info {
	uint64_t iova_page_sizes;
	uint64_t page_sizes;
	uint64_t max_bitmap;
};

/* -ENOENT: nothing. */
int lab_dirty_info(int container, struct lab_dirty_info *info);

/* --- iommufd ----------------------------------------------------------------------------------- */

int lab_iommufd(void);
uint32_t lab_ioas(int iommufd);
/* At this address, for reading and writing. */
int lab_ioas_map(int iommufd, uint32_t ioas, uint64_t iova, uint64_t length, void *memory);
int lab_ioas_unmap(int iommufd, uint32_t ioas, uint64_t iova, uint64_t length);
/* To this address, for reading only. */
int lab_ioas_copy(int iommufd, uint32_t to, uint64_t to_iova, uint32_t from, uint64_t from_iova,
		  uint64_t length);
/* The only range of addresses that can be mapped, or the case ends. */
void lab_ioas_aperture(int iommufd, uint32_t ioas, uint64_t *start, uint64_t *last);
int lab_iommufd_destroy(int iommufd, uint32_t id);

/* devid is that of a device opened by LAB_CDEV, or a mock's. */
int lab_hw_info(int iommufd, uint32_t devid, uint64_t *capabilities);
int lab_hwpt_alloc(int iommufd, uint32_t flags, uint32_t devid, uint32_t ioas, uint32_t *hwpt);
int lab_hwpt_set_tracking(int iommufd, uint32_t hwpt, uint32_t flags);
int lab_hwpt_get_bitmap(int iommufd, uint32_t hwpt, uint32_t flags, uint64_t iova, uint64_t length,
			uint64_t page_size, void *bitmap);

/* VFIO_DEVICE_ATTACH_IOMMUFD_PT; *pt may come back changed. */
int lab_attach(const struct lab_device *device, uint32_t *pt);

/* --- mock domains ------------------------------------------------------------------------------ */

/*
 * The kernel's pages here. Its page tables can be finer: 6.12 tracks each 2 KiB separately, so
 * bitmaps with pages of 2 KiB are not the same on all kernels. Those with LAB_MOCK_PAGE are, with
 * lab_mock_memory().
 */
#define LAB_MOCK_PAGE 4096ull
#define LAB_MOCK_GRAIN 2048ull
/* Everything that can be mapped. */
#define LAB_MOCK_FIRST 0x1000000ull
#define LAB_MOCK_LAST 0x7fffffffull

/* A device that exists in iommufd only. */
struct lab_mock {
	int iommufd;
	uint32_t ioas;
	uint32_t dev;	     /* the selftest's object */
	uint32_t devid;	     /* iommufd's, as of any device */
	uint32_t first_hwpt; /* what was made for it, without dirty tracking */
	uint32_t hwpt;	     /* with dirty tracking and attached; 0: none was asked for */
};

/* Skips the case if the kernel has no mocks. */
void lab_need_mock(void);
/* In an iommufd and an IOAS that exist. */
void lab_mock_add(struct lab_mock *mock, int iommufd, uint32_t ioas, uint32_t flags);
/* In new ones, with a page table that tracks dirty pages (tracking is off); flags as above. */
void lab_mock_open(struct lab_mock *mock, uint32_t flags);
/* Attaches another page table or IOAS. */
int lab_mock_replace(const struct lab_mock *mock, uint32_t pt);
/*
 * The mock device writes to these pages: a bit for each LAB_MOCK_PAGE from iova on. Bits of pages
 * that are not mapped have no effect.
 */
int lab_mock_dirty_bits(const struct lab_mock *mock, uint64_t iova, uint64_t length, const uint64_t *bits);
/* One page. */
void lab_mock_dirty(const struct lab_mock *mock, uint64_t iova);
void lab_mock_close(struct lab_mock *mock);
/*
 * Memory that a page table takes page by page when mapped to a multiple of 8 KiB. Otherwise
 * contiguous pages may become one entry, and are then dirty together.
 */
void *lab_mock_memory(size_t size);

/* --- a PCI device ------------------------------------------------------------------------------ */

/* QEMU's "edu", which every machine of the lab has. At most this much at a time, in 100 ms. */
#define LAB_EDU_MAX 4095u

struct lab_edu {
	struct lab_device device; /* lab_open_beside() and lab_close() take it */
	volatile uint64_t *bar;
};

/* Finds it, gives it to vfio-pci, opens and enables it. By cdev, lab_attach() must follow. */
void lab_edu_open(struct lab_edu *edu, enum lab_how how);
void lab_edu_open_beside(struct lab_edu *edu, const struct lab_device *first);
/* Reads from memory at this IOVA into the device, and writes that there. */
void lab_edu_load(const struct lab_edu *edu, uint64_t iova, size_t len);
void lab_edu_store(const struct lab_edu *edu, uint64_t iova, size_t len);
void lab_edu_close(struct lab_edu *edu);

/* --- memory and bitmaps ------------------------------------------------------------------------ */

/* Anonymous, touched, aligned to 4 KiB; never freed. */
void *lab_memory(size_t size);
/* The same of huge pages, aligned to 2 MiB. */
void *lab_huge_memory(size_t size);

static inline int lab_bit(const uint64_t *bitmap, uint64_t i)
{
	return (int)(bitmap[i / 64] >> i % 64 & 1);
}

static inline void lab_set_bit(uint64_t *bitmap, uint64_t i)
{
	bitmap[i / 64] |= 1ull << i % 64;
}

/* How many of bits first to last - 1 are set. */
uint64_t lab_bits(const uint64_t *bitmap, uint64_t first, uint64_t last);

#endif
