// SPDX-License-Identifier: GPL-2.0
/*
 * The regions through which devices of older protocols are migrated: what is said of them, what can be
 * mapped, and access to their data. What their fields mean is in v1.c and rfc.c. The states and the data
 * are those of version 2; only how they are reached differs.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "regions.h"

/* Some capability that nobody knows. */
#define CAP_UNKNOWN 0x63

void vmt_region_init(struct vmt *vmt, const struct vmt_region_ops *ops)
{
	struct vmt_region *r = &vmt->region;

	mutex_init(&r->mutex);
	r->ops = ops;
	r->window_bytes = 64 << 10;
	r->config_bytes = 200;
	r->bitmap_bytes = 4096;
}

/* --- opening ------------------------------------------------------------------------------------ */

void vmt_region_add(struct vmt *vmt, u32 type, u32 subtype, u64 size, u64 data)
{
	struct vmt_region *r = &vmt->region;

	if (WARN_ON_ONCE(r->num >= VMT_MAX_WINDOWS))
		return;
	r->windows[r->num++] = (struct vmt_window){ .type = type, .subtype = subtype, .size = size, .data = data };
}

static void free_windows(struct vmt_region *r)
{
	u32 i;

	for (i = 0; i < r->num; i++)
		vfree(r->windows[i].memory);
	r->num = 0;
	r->ready = false;
}

/* Mappings hold the device open, so nobody has the old memory. */
int vmt_region_open(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;
	int ret = 0;
	u32 i;

	if (!r->ops || r->ready)
		return 0;
	r->ops->describe(vmt);
	for (i = 0; i < r->num; i++) {
		struct vmt_window *w = &r->windows[i];

		if (w->data >= w->size)
			continue;
		w->memory = vmalloc_user(PAGE_ALIGN(w->size));
		if (!w->memory)
			ret = -ENOMEM;
	}
	r->ready = true;
	if (ret)
		free_windows(r);
	return ret;
}

void vmt_region_close(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;

	if (!r->ops)
		return;
	mutex_lock(&r->mutex);
	vmt_region_forget(vmt);
	free_windows(r);
	mutex_unlock(&r->mutex);
}

/* --- what is said of them ----------------------------------------------------------------------- */

static struct vmt_window *window_of(struct vmt *vmt, u32 index)
{
	struct vmt_region *r = &vmt->region;

	return index >= VMT_REGION_INDEX && index - VMT_REGION_INDEX < r->num ? &r->windows[index - VMT_REGION_INDEX] :
										 NULL;
}

/* Only whole pages can be. */
static u64 mappable(const struct vmt_window *w)
{
	return w->memory && PAGE_ALIGNED(w->size) ? w->size : 0;
}

int vmt_region_mmap(struct vmt *vmt, struct vm_area_struct *vma)
{
	unsigned long first = vma->vm_pgoff & ((1ul << (VMT_OFFSET_SHIFT - PAGE_SHIFT)) - 1);
	struct vmt_window *w = window_of(vmt, vma->vm_pgoff >> (VMT_OFFSET_SHIFT - PAGE_SHIFT));

	if (!w || !mappable(w) || !vmt->region.layout)
		return -EINVAL;
	/* What lies outside is refused there. */
	return remap_vmalloc_range(vma, w->memory, first);
}

/* Which parts can be mapped; how many there are. */
static u32 areas(u64 layout, const struct vmt_window *w, struct vfio_region_sparse_mmap_area *area)
{
	u64 length = w->size - w->data, half = length / 2 & PAGE_MASK;

	area[0].offset = w->data;
	area[0].size = length;
	switch (layout) {
	case VMT_LAYOUT_TWO:
		if (!half)
			return 1;
		/* The second part of either half is in none, unless that has one page only. */
		area[1] = area[0];
		area[1].size = PAGE_ALIGN(half / 2);
		area[0].offset += half;
		area[0].size = PAGE_ALIGN(half / 2);
		return 2;
	case VMT_LAYOUT_OUTSIDE:
		area[0].size = 1ull << 40;
		return 1;
	default:
		return 1;
	}
}

static int add_sparse(struct vmt *vmt, const struct vmt_window *w, struct vfio_info_cap *caps)
{
	struct vfio_region_info_cap_sparse_mmap *sparse;
	int ret;

	sparse = kzalloc(struct_size(sparse, areas, 2), GFP_KERNEL);
	if (!sparse)
		return -ENOMEM;
	sparse->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
	sparse->header.version = 1;
	sparse->nr_areas = areas(vmt->region.layout, w, sparse->areas);
	ret = vfio_info_add_capability(caps, &sparse->header, struct_size(sparse, areas, sparse->nr_areas));
	kfree(sparse);
	return ret;
}

int vmt_region_info(struct vmt *vmt, struct vfio_region_info *info, struct vfio_info_cap *caps)
{
	const struct vmt_window *w = window_of(vmt, info->index);
	struct vfio_region_info_cap_type type = {
		.header.id = VFIO_REGION_INFO_CAP_TYPE,
		.header.version = 1,
	};
	struct {
		struct vfio_info_cap_header header;
		u64 nothing;
	} unknown = { .header.id = CAP_UNKNOWN, .header.version = 1 };
	u64 chain = vmt->region.chain;
	int ret = 0;

	if (!w)
		return -EINVAL;
	type.type = w->type;
	type.subtype = w->subtype;
	info->size = w->size;
	info->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	if (vmt->region.layout && mappable(w)) {
		info->flags |= VFIO_REGION_INFO_FLAG_MMAP;
		if (vmt->region.layout != VMT_LAYOUT_WHOLE)
			ret = add_sparse(vmt, w, caps);
	}
	/* One that nobody knows comes before the type. */
	ret = ret ?: vfio_info_add_capability(caps, &unknown.header, sizeof(unknown));
	ret = ret ?: vfio_info_add_capability(caps, &type.header, sizeof(type));
	if (!ret && chain == VMT_CHAIN_TWO_TYPES)
		ret = vfio_info_add_capability(caps, &type.header, sizeof(type));
	if (!ret && chain == VMT_CHAIN_OUTSIDE) {
		ret = vfio_info_add_capability(caps, &unknown.header, sizeof(unknown));
		/* What the chain leads to is not handed out. */
		if (!ret)
			caps->size -= sizeof(unknown);
	}
	return ret;
}

/* Where the chain is not the kernel's: has it go in circles. It begins at `offset` in the answer. */
void vmt_region_spoil(const struct vmt *vmt, u32 index, void *caps, size_t offset)
{
	struct vfio_info_cap_header *header = caps;

	if (index < VMT_REGION_INDEX || vmt->region.chain != VMT_CHAIN_LOOP)
		return;
	while (header->next)
		header = caps + (header->next - offset);
	header->next = offset;
}

/* --- sessions ----------------------------------------------------------------------------------- */

void vmt_region_lock(struct vmt *vmt)
{
	mutex_lock(&vmt->state_mutex);
	mutex_lock(&vmt->lock);
	vmt_region_follow(vmt);
}

void vmt_region_unlock(struct vmt *vmt)
{
	mutex_unlock(&vmt->lock);
	vmt_state_unlock(vmt);
}

void vmt_region_forget(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;

	if (r->file)
		fput(r->file);
	r->file = NULL;
	r->stream = NULL;
	r->refused = false;
	r->ops->forget(vmt);
}

/* A session that has ended takes what belongs to it along. */
void vmt_region_follow(struct vmt *vmt)
{
	if (vmt->region.stream && vmt->stream != vmt->region.stream)
		vmt_region_forget(vmt);
}

/* Without the locks of vmt_region_lock(). */
int vmt_region_set_state(struct vmt *vmt, enum vfio_device_mig_state to)
{
	struct vmt_region *r = &vmt->region;
	struct file *file = vmt_change_state(vmt, to);

	if (IS_ERR(file))
		return PTR_ERR(file);
	if (file) {
		vmt_region_forget(vmt);
		r->file = file;
		r->stream = file->private_data;
	}
	return 0;
}

u32 vmt_pull(struct vmt_stream *s, u8 *to, u32 len)
{
	u32 done = 0, n;

	while (done < len && (n = min(len - done, vmt_save_fill(s)))) {
		memcpy(to + done, s->buf + s->pos, n);
		s->pos += n;
		done += n;
	}
	s->vmt->reading.bytes += done;
	return done;
}

int vmt_push(struct vmt_stream *s, const u8 *from, u64 len)
{
	u64 done = 0;
	int ret = s->error;

	while (done < len && !ret) {
		u32 n = min_t(u64, len - done, vmt_resume_room(s));

		if (!n)
			return s->error ?: -EINVAL;
		memcpy(s->buf + s->pos, from + done, n);
		s->pos += n;
		done += n;
		ret = vmt_resume_take(s);
	}
	s->vmt->writing.bytes += done;
	return ret;
}

/* --- accesses ----------------------------------------------------------------------------------- */

static ssize_t access_data(struct vmt *vmt, u32 i, char __user *to, const char __user *from, u64 at, size_t count)
{
	struct vmt_region *r = &vmt->region;
	struct vmt_window *w = &r->windows[i];
	ssize_t ret = count;

	if (r->strict && (count > 8 || !is_power_of_2(count) || at & (count - 1)))
		return -EINVAL;
	if (count > w->size - at)
		return -EINVAL;
	vmt_region_lock(vmt);
	(from ? &vmt->writing : &vmt->reading)->calls++;
	if (from && !r->ops->takes_data(vmt, i))
		ret = -EINVAL;
	else if (to ? copy_to_user(to, w->memory + at, count) : copy_from_user(w->memory + at, from, count))
		ret = -EFAULT;
	vmt_region_unlock(vmt);
	return ret;
}

static ssize_t access_field(struct vmt *vmt, u32 i, char __user *to, const char __user *from, u64 at, size_t count)
{
	__le64 value[2] = {};
	ssize_t ret;

	if (count > sizeof(value))
		return -EINVAL;
	if (from && copy_from_user(value, from, count))
		return -EFAULT;
	ret = vmt->region.ops->field(vmt, i, from, at, count, value);
	if (ret > 0 && to && copy_to_user(to, value, count))
		ret = -EFAULT;
	return ret;
}

ssize_t vmt_region_access(struct vmt *vmt, u32 index, char __user *to, const char __user *from, u64 at, size_t count)
{
	struct vmt_window *w = window_of(vmt, index);
	ssize_t ret;

	if (!w || at >= w->size || !count)
		return -EINVAL;
	ret = vmt_check_fault(vmt, VMT_OP_ACCESS);
	if (ret)
		return ret;
	mutex_lock(&vmt->region.mutex);
	if (at >= w->data)
		ret = access_data(vmt, w - vmt->region.windows, to, from, at, count);
	else
		ret = access_field(vmt, w - vmt->region.windows, to, from, at, count);
	mutex_unlock(&vmt->region.mutex);
	return ret;
}
