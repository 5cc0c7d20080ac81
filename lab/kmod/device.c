// SPDX-License-Identifier: GPL-2.0
/*
 * The module, its mediated devices, and the little that they have of a PCI device: a configuration
 * space and one BAR, no interrupts.
 */
#include <linux/errno.h>
#include <linux/module.h>
#include <linux/pci_regs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/unaligned.h>
#include <linux/version.h>

#include "vfiomig-test.h"

#define NAME "vfiomig_test"
#define MAX_DEVICES 64

#define CONFIG_SIZE 256u
#define BAR_SIZE 4096u

/* Registers in BAR 0; everything else there reads as 0. */
#define REG_MAGIC 0x00 /* 4 bytes, read only */
#define REG_SIZE 0x08 /* 8 bytes, read only */
#define REG_DIGEST 0x10 /* 8 bytes, read only */
#define REG_TOUCH 0x18 /* 8 bytes, write only: an offset in the contents */
#define REG_SCRATCH 0x40 /* VMT_SCRATCH bytes, part of the state */
#define REG_END 0x80
#define MAGIC_VALUE 0x74676d76u /* "vmgt" */

static bool logging = true;
module_param(logging, bool, 0644);
MODULE_PARM_DESC(logging, "new devices log the pages that they write to (default: yes)");

static unsigned long long state_size = 1 << 20;
module_param(state_size, ullong, 0644);
MODULE_PARM_DESC(state_size, "state of new devices in bytes, at most 1 GiB (default: 1 MiB)");

/* An mdev type for each set of VFIO_MIGRATION_* that a device may have, one without, and one for each older
 * protocol. */
struct vmt_type {
	struct mdev_type type;
	u64 flags;
	const struct vmt_region_ops *regions;
};

static struct vmt_type vmt_types[] = {
	{ .type = { .sysfs_name = "0", .pretty_name = "no migration" }, .flags = 0 },
	{ .type = { .sysfs_name = "1", .pretty_name = "STOP_COPY" }, .flags = VFIO_MIGRATION_STOP_COPY },
	{ .type = { .sysfs_name = "3", .pretty_name = "STOP_COPY P2P" },
	  .flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P },
	{ .type = { .sysfs_name = "5", .pretty_name = "STOP_COPY PRE_COPY" },
	  .flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY },
	{ .type = { .sysfs_name = "7", .pretty_name = "STOP_COPY P2P PRE_COPY" },
	  .flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY },
	{ .type = { .sysfs_name = "v1", .pretty_name = "migration region of Linux 5.8" },
	  .flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
	  .regions = &vmt_v1_ops },
	{ .type = { .sysfs_name = "rfc", .pretty_name = "migration regions of the RFC of 2019" },
	  .flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
	  .regions = &vmt_rfc_ops },
};

static struct mdev_type *vmt_mdev_types[ARRAY_SIZE(vmt_types)];
static struct mdev_parent vmt_parent;
static struct device *vmt_parent_dev;

/* --- regions ------------------------------------------------------------------------------------ */

static void init_config(struct vmt *vmt)
{
	put_unaligned_le16(VMT_VENDOR, vmt->config + PCI_VENDOR_ID);
	put_unaligned_le16(VMT_DEVICE, vmt->config + PCI_DEVICE_ID);
	put_unaligned_le16(VMT_VENDOR, vmt->config + PCI_SUBSYSTEM_VENDOR_ID);
	put_unaligned_le16(1, vmt->config + PCI_SUBSYSTEM_ID);
	vmt->config[PCI_REVISION_ID] = 1;
	/* Unclassified: no guest has a driver that would mistake it for something else. */
	put_unaligned_le16(0xff00, vmt->config + PCI_CLASS_DEVICE);
}

static void write_config(struct vmt *vmt, u32 at, u8 value)
{
	u8 writable = 0;

	switch (at) {
	case PCI_COMMAND:
		writable = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
		break;
	case PCI_COMMAND + 1:
		writable = PCI_COMMAND_INTX_DISABLE >> 8;
		break;
	case PCI_CACHE_LINE_SIZE:
	case PCI_INTERRUPT_LINE:
		writable = 0xff;
		break;
	case PCI_BASE_ADDRESS_0 + 1:
		writable = 0xf0; /* size 4096 */
		break;
	case PCI_BASE_ADDRESS_0 + 2:
	case PCI_BASE_ADDRESS_0 + 3:
		writable = 0xff;
		break;
	}
	vmt->config[at] = (vmt->config[at] & ~writable) | (value & writable);
}

static void read_bar(struct vmt *vmt, u32 at, u8 *to, u32 len)
{
	u8 image[REG_END] = {};
	u32 i;

	put_unaligned_le32(MAGIC_VALUE, image + REG_MAGIC);
	put_unaligned_le64(vmt->size, image + REG_SIZE);
	/* Making it takes time. */
	if (at < REG_DIGEST + 8 && at + len > REG_DIGEST) {
		vmt_catch_up(vmt);
		put_unaligned_le64(vmt_digest(vmt, &vmt->contents), image + REG_DIGEST);
	}
	memcpy(image + REG_SCRATCH, vmt->contents.scratch, VMT_SCRATCH);
	for (i = 0; i < len; i++)
		to[i] = at + i < REG_END ? image[at + i] : 0;
}

static void write_bar(struct vmt *vmt, u32 at, const u8 *from, u32 len)
{
	u32 i;

	if (at == REG_TOUCH && len == 8 && vmt->running && get_unaligned_le64(from) < vmt->size)
		vmt_touch(vmt, get_unaligned_le64(from) >> VMT_BLOCK_SHIFT);
	for (i = 0; i < len; i++)
		if (at + i >= REG_SCRATCH && at + i < REG_SCRATCH + VMT_SCRATCH)
			vmt->contents.scratch[at + i - REG_SCRATCH] = from[i];
}

static u32 region_size(u32 index)
{
	switch (index) {
	case VFIO_PCI_BAR0_REGION_INDEX:
		return BAR_SIZE;
	case VFIO_PCI_CONFIG_REGION_INDEX:
		return CONFIG_SIZE;
	default:
		return 0;
	}
}

/* At most one aligned register of 8 bytes at a time, as a bus would. */
static ssize_t access(struct vmt *vmt, char __user *to, const char __user *from, bool write, size_t count,
		      loff_t *ppos)
{
	u32 index = (u64)*ppos >> VMT_OFFSET_SHIFT;
	u64 at = *ppos & ((1ull << VMT_OFFSET_SHIFT) - 1);
	u32 size = region_size(index);
	size_t done = 0;

	if (index >= VMT_REGION_INDEX)
		return vmt_region_access(vmt, index, to, from, at, count);
	if (at >= size)
		return count ? -EINVAL : 0;
	count = min_t(size_t, count, size - at);
	while (done < count) {
		u32 n = min_t(size_t, count - done, 8 - (at & 7)), i;
		u8 data[8];

		if (write && copy_from_user(data, from + done, n))
			break;
		mutex_lock(&vmt->lock);
		if (index == VFIO_PCI_CONFIG_REGION_INDEX) {
			for (i = 0; write && i < n; i++)
				write_config(vmt, at + i, data[i]);
			memcpy(data, vmt->config + at, n);
		} else if (write) {
			write_bar(vmt, at, data, n);
		} else {
			read_bar(vmt, at, data, n);
		}
		mutex_unlock(&vmt->lock);
		if (write && index == VFIO_PCI_BAR0_REGION_INDEX)
			wake_up_all(&vmt->wait);
		if (!write && copy_to_user(to + done, data, n))
			break;
		at += n;
		done += n;
	}
	*ppos += done;
	return done ?: -EFAULT;
}

static ssize_t vmt_dev_read(struct vfio_device *vdev, char __user *buf, size_t count, loff_t *ppos)
{
	return access(vmt_of(vdev), buf, NULL, false, count, ppos);
}

static ssize_t vmt_dev_write(struct vfio_device *vdev, const char __user *buf, size_t count, loff_t *ppos)
{
	return access(vmt_of(vdev), NULL, buf, true, count, ppos);
}

static int vmt_dev_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	return vmt_region_mmap(vmt_of(vdev), vma);
}

static int region_info(struct vmt *vmt, struct vfio_region_info *info, struct vfio_info_cap *caps)
{
	if (info->index >= VFIO_PCI_NUM_REGIONS + vmt->region.num)
		return -EINVAL;
	info->offset = (u64)info->index << VMT_OFFSET_SHIFT;
	info->cap_offset = 0;
	if (info->index >= VMT_REGION_INDEX)
		return vmt_region_info(vmt, info, caps);
	info->size = region_size(info->index);
	info->flags = info->size ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE : 0;
	return 0;
}

#ifdef HAVE_GET_REGION_INFO_CAPS
static int vmt_dev_region_info(struct vfio_device *vdev, struct vfio_region_info *info,
			       struct vfio_info_cap *caps)
{
	return region_info(vmt_of(vdev), info, caps);
}
#else
/* What newer kernels do themselves. */
static long get_region_info(struct vmt *vmt, void __user *user)
{
	const size_t len = offsetofend(struct vfio_region_info, offset);
	struct vfio_info_cap caps = {};
	struct vfio_region_info info;
	long ret;

	if (copy_from_user(&info, user, len))
		return -EFAULT;
	if (info.argsz < len)
		return -EINVAL;
	ret = region_info(vmt, &info, &caps);
	if (!ret && caps.size) {
		info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
		if (info.argsz < len + caps.size) {
			info.argsz = len + caps.size;
		} else {
			vfio_info_cap_shift(&caps, len);
			vmt_region_spoil(vmt, info.index, caps.buf, len);
			info.cap_offset = len;
			if (copy_to_user(user + len, caps.buf, caps.size))
				ret = -EFAULT;
		}
	}
	if (!ret && copy_to_user(user, &info, len))
		ret = -EFAULT;
	kfree(caps.buf);
	return ret;
}
#endif

/* --- ioctls ------------------------------------------------------------------------------------- */

static long vmt_dev_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO: {
		struct vfio_device_info info;
		const size_t len = offsetofend(struct vfio_device_info, num_irqs);

		memset(&info, 0, sizeof(info));
		if (copy_from_user(&info, user, len))
			return -EFAULT;
		if (info.argsz < len)
			return -EINVAL;
		info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
		info.num_regions = VFIO_PCI_NUM_REGIONS + vmt_of(vdev)->region.num;
		info.num_irqs = VFIO_PCI_NUM_IRQS;
		return copy_to_user(user, &info, len) ? -EFAULT : 0;
	}
#ifndef HAVE_GET_REGION_INFO_CAPS
	case VFIO_DEVICE_GET_REGION_INFO:
		return get_region_info(vmt_of(vdev), user);
#endif
	case VFIO_DEVICE_GET_IRQ_INFO: {
		struct vfio_irq_info info;
		const size_t len = offsetofend(struct vfio_irq_info, count);

		if (copy_from_user(&info, user, len))
			return -EFAULT;
		if (info.argsz < len || info.index > VFIO_PCI_MSIX_IRQ_INDEX)
			return -EINVAL;
		info.flags = VFIO_IRQ_INFO_EVENTFD;
		info.count = 0;
		return copy_to_user(user, &info, len) ? -EFAULT : 0;
	}
	case VFIO_DEVICE_SET_IRQS: {
		struct vfio_irq_set set;

		if (copy_from_user(&set, user, offsetofend(struct vfio_irq_set, count)))
			return -EFAULT;
		/* There are none; switching them off is not an error. */
		if (set.argsz < offsetofend(struct vfio_irq_set, count) || set.index > VFIO_PCI_MSIX_IRQ_INDEX ||
		    set.start || set.count || !(set.flags & VFIO_IRQ_SET_DATA_NONE))
			return -EINVAL;
		return 0;
	}
	case VFIO_DEVICE_RESET:
		return vmt_reset(vmt_of(vdev));
	}
	return -ENOTTY;
}

/* --- life --------------------------------------------------------------------------------------- */

static int vmt_init_dev(struct vfio_device *vdev)
{
	struct vmt *vmt = vmt_of(vdev);
	struct mdev_device *mdev = to_mdev_device(vdev->dev);
	const struct vmt_type *type = container_of(mdev->type, struct vmt_type, type);

	mutex_init(&vmt->state_mutex);
	mutex_init(&vmt->reset_mutex);
	mutex_init(&vmt->lock);
	mutex_init(&vmt->open_mutex);
	spin_lock_init(&vmt->fault_lock);
	init_waitqueue_head(&vmt->wait);
	INIT_DELAYED_WORK(&vmt->tick, vmt_tick);
	vmt_log_init(vmt);
	vmt_load_init(vmt);
	vmt_pins_init(vmt);
	init_config(vmt);
	vmt->state = VFIO_DEVICE_STATE_RUNNING;
	vmt->running = true;
	vmt->seed = 1;
	vmt->initial_size = U64_MAX;
	vmt->drained = ENOMSG;
	vmt->corrupt = U64_MAX;
	vmt->log_page_size = 4096;
	vmt_region_init(vmt, type->regions);
	vdev->migration_flags = type->flags;
	if (type->flags && !type->regions)
		vdev->mig_ops = &vmt_migration_ops;
	if (logging && !type->regions)
		vdev->log_ops = &vmt_log_ops;
	return vmt_resize(vmt, state_size);
}

static void vmt_release_dev(struct vfio_device *vdev)
{
	struct vmt *vmt = vmt_of(vdev);

	cancel_delayed_work_sync(&vmt->tick);
	vmt_log_end(vmt);
	vmt_truth_end(vmt);
	kvfree(vmt->contents.generation);
}

static int vmt_open_dev(struct vfio_device *vdev)
{
	struct vmt *vmt = vmt_of(vdev);
	int ret = vmt_check_fault(vmt, VMT_OP_OPEN);

	if (!ret)
		ret = vmt_region_open(vmt);
	if (ret)
		return ret;
	mutex_lock(&vmt->open_mutex);
	vmt->open = true;
	mutex_unlock(&vmt->open_mutex);
	vmt_pins_open(vmt);
	return 0;
}

static void vmt_close_dev(struct vfio_device *vdev)
{
	struct vmt *vmt = vmt_of(vdev);

	mutex_lock(&vmt->open_mutex);
	vmt->open = false;
	vmt_load_stop(vmt);
	mutex_unlock(&vmt->open_mutex);
	vmt_pins_close(vmt);
	vmt_region_close(vmt);
	vmt_migration_close(vmt);
	vmt_log_end(vmt);
}

static const struct vfio_device_ops vmt_dev_ops = {
	.name = "vfiomig-test",
	.init = vmt_init_dev,
	.release = vmt_release_dev,
	.open_device = vmt_open_dev,
	.close_device = vmt_close_dev,
	.read = vmt_dev_read,
	.write = vmt_dev_write,
	.mmap = vmt_dev_mmap,
	.ioctl = vmt_dev_ioctl,
	.dma_unmap = vmt_dma_unmap,
#ifdef HAVE_GET_REGION_INFO_CAPS
	.get_region_info_caps = vmt_dev_region_info,
#endif
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
};

static int vmt_probe(struct mdev_device *mdev)
{
	struct vmt *vmt = vfio_alloc_device(vmt, vdev, &mdev->dev, &vmt_dev_ops);
	int ret;

	if (IS_ERR(vmt))
		return PTR_ERR(vmt);
	dev_set_drvdata(&mdev->dev, vmt);
	ret = vfio_register_emulated_iommu_dev(&vmt->vdev);
	if (ret)
		vfio_put_device(&vmt->vdev);
	return ret;
}

static void vmt_remove(struct mdev_device *mdev)
{
	struct vmt *vmt = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&vmt->vdev);
	/* Data fds that user space has kept hold the device beyond this. */
	vfio_put_device(&vmt->vdev);
}

static struct mdev_driver vmt_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.max_instances = MAX_DEVICES,
	.driver = {
		.name = NAME,
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
		.dev_groups = vmt_groups,
	},
	.probe = vmt_probe,
	.remove = vmt_remove,
};

static const struct class vmt_class = {
	.name = NAME,
};

static int __init vmt_module_init(void)
{
	int ret, i;

	for (i = 0; i < ARRAY_SIZE(vmt_types); i++)
		vmt_mdev_types[i] = &vmt_types[i].type;
	ret = mdev_register_driver(&vmt_driver);
	if (ret)
		return ret;
	ret = class_register(&vmt_class);
	if (ret)
		goto unregister_driver;
	vmt_parent_dev = device_create(&vmt_class, NULL, 0, NULL, NAME);
	if (IS_ERR(vmt_parent_dev)) {
		ret = PTR_ERR(vmt_parent_dev);
		goto unregister_class;
	}
	ret = mdev_register_parent(&vmt_parent, vmt_parent_dev, &vmt_driver, vmt_mdev_types,
				   ARRAY_SIZE(vmt_mdev_types));
	if (ret)
		goto unregister_device;
	return 0;

unregister_device:
	device_unregister(vmt_parent_dev);
unregister_class:
	class_unregister(&vmt_class);
unregister_driver:
	mdev_unregister_driver(&vmt_driver);
	return ret;
}
module_init(vmt_module_init);

static void __exit vmt_module_exit(void)
{
	mdev_unregister_parent(&vmt_parent);
	device_unregister(vmt_parent_dev);
	class_unregister(&vmt_class);
	mdev_unregister_driver(&vmt_driver);
}
module_exit(vmt_module_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Mediated device for testing VFIO migration and DMA logging");
MODULE_VERSION("1");
/* iova_bitmap_set() exists. The argument became a string in 6.13. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS("IOMMUFD");
#else
MODULE_IMPORT_NS(IOMMUFD);
#endif
