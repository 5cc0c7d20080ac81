// SPDX-License-Identifier: GPL-2.0
/*
 * Pages of guest memory that the device keeps pinned, like a device with page tables of its own. A
 * container counts such pages as dirty for as long as they are pinned.
 */
#include <linux/delay.h>
#include <linux/iommu.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/sched/signal.h>
#include <linux/xarray.h>

#include "vfiomig-test.h"

#define MAX_PINNED (1u << 20) /* 4 GiB */

/*
 * type1 asks for a mapping's pages. If there are pinned ones in it again when it has its lock back,
 * it asks once more, and after ten times gives up with a BUG. So nothing is pinned for a while
 * after it has asked.
 */
#define QUIET_NS (20 * NSEC_PER_MSEC)
#define QUIET_MAX_NS (2ull * NSEC_PER_SEC)

void vmt_pins_init(struct vmt *vmt)
{
	mutex_init(&vmt->pins.mutex);
	xa_init(&vmt->pins.pages);
}

/*
 * One page at a time: iommufd requires that exactly what was pinned in one call is unpinned in one,
 * and any part may have to be unpinned later.
 */
static int pin_page(struct vmt *vmt, u64 iova)
{
	struct vmt_pins *pins = &vmt->pins;
	u64 began = ktime_get_ns();
	struct page *page;
	int ret;

again:
	mutex_lock(&pins->mutex);
	if (!pins->open) {
		ret = -ENODEV;
	} else if (xa_load(&pins->pages, iova >> PAGE_SHIFT)) {
		ret = 0;
	} else if (pins->count >= MAX_PINNED) {
		ret = -ENOSPC;
	} else if (ktime_get_ns() - pins->unmapped_ns < QUIET_NS) {
		mutex_unlock(&pins->mutex);
		if (msleep_interruptible(5))
			return -EINTR;
		if (ktime_get_ns() - began < QUIET_MAX_NS)
			goto again;
		return -EBUSY;
	} else {
		/* The entry first: what is pinned must never be forgotten. */
		ret = xa_insert(&pins->pages, iova >> PAGE_SHIFT, xa_mk_value(1), GFP_KERNEL_ACCOUNT);
		if (!ret) {
			ret = vfio_pin_pages(&vmt->vdev, iova, 1, IOMMU_READ | IOMMU_WRITE, &page);
			if (ret == 1) {
				pins->count++;
				ret = 0;
			} else {
				xa_erase(&pins->pages, iova >> PAGE_SHIFT);
				ret = ret < 0 ? ret : -EFAULT;
			}
		}
	}
	mutex_unlock(&pins->mutex);
	return ret;
}

/* What was pinned before an error stays pinned. */
int vmt_pin(struct vmt *vmt, u64 iova, u64 length, u64 stride)
{
	u64 last = iova + length - 1;
	int ret;

	stride = stride ?: PAGE_SIZE;
	if (!length || last < iova || stride & ~PAGE_MASK || div64_u64(length, stride) > MAX_PINNED)
		return -EINVAL;
	for (iova &= PAGE_MASK;; iova += stride) {
		ret = pin_page(vmt, iova);
		if (ret || last - iova < stride)
			return ret;
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
	}
}

static u64 unpin_locked(struct vmt_pins *pins, struct vfio_device *vdev, u64 iova, u64 last)
{
	unsigned long index;
	u64 unpinned = 0;
	void *entry;

	xa_for_each_range(&pins->pages, index, entry, iova >> PAGE_SHIFT, last >> PAGE_SHIFT) {
		vfio_unpin_pages(vdev, (u64)index << PAGE_SHIFT, 1);
		xa_erase(&pins->pages, index);
		unpinned++;
	}
	pins->count -= unpinned;
	return unpinned;
}

int vmt_unpin(struct vmt *vmt, u64 iova, u64 length, u64 stride)
{
	u64 last = iova + length - 1;

	if (!length || last < iova || stride)
		return -EINVAL;
	mutex_lock(&vmt->pins.mutex);
	unpin_locked(&vmt->pins, &vmt->vdev, iova, last);
	mutex_unlock(&vmt->pins.mutex);
	return 0;
}

/* The range is about to be unmapped. The kernel goes on only when nothing in it is pinned any
 * more. */
void vmt_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
	struct vmt *vmt = vmt_of(vdev);

	mutex_lock(&vmt->pins.mutex);
	vmt->counters.unmaps++;
	if (length)
		vmt->counters.unmap_unpinned += unpin_locked(&vmt->pins, vdev, iova, iova + length - 1);
	vmt->pins.unmapped_ns = ktime_get_ns();
	mutex_unlock(&vmt->pins.mutex);
}

void vmt_pins_open(struct vmt *vmt)
{
	mutex_lock(&vmt->pins.mutex);
	vmt->pins.open = true;
	mutex_unlock(&vmt->pins.mutex);
}

void vmt_pins_close(struct vmt *vmt)
{
	mutex_lock(&vmt->pins.mutex);
	vmt->pins.open = false;
	unpin_locked(&vmt->pins, &vmt->vdev, 0, U64_MAX);
	mutex_unlock(&vmt->pins.mutex);
}
