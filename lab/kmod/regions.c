// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO migration, version 1, of Linux 5.8 to 5.17: a region with a state, a few fields, and a place
 * for chunks of data. The states and the data are those of version 2; only how they are reached differs.
 *
 * As strict as a driver can be. A chunk begins with its length and its number, so that one that comes
 * with another length, or out of order, is refused.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "stream.h"

#define REG_STATE 0
#define REG_PENDING 8
#define REG_OFFSET 16
#define REG_SIZE 24
/* Where chunks may begin. */
#define DATA PAGE_SIZE

#define V1_RUNNING 1u
#define V1_STATE 7u
#define V1_ERROR 6u
/* The state's other bits, which nobody may change. */
#define V1_KEPT 0x5a5a0000u

struct chunk_header {
	__le32 len, number;
} __packed;

static const u8 arcs[][2] = { { 1, 0 }, { 1, 2 }, { 1, 3 }, { 1, 4 }, { 3, 2 }, { 3, 1 }, { 3, 0 },
			      { 2, 0 }, { 2, 1 }, { 0, 1 }, { 0, 2 }, { 0, 4 }, { 4, 1 }, { 4, 0 } };

static u32 v1_of(enum vfio_device_mig_state state)
{
	switch (state) {
	case VFIO_DEVICE_STATE_STOP:
		return 0;
	case VFIO_DEVICE_STATE_RUNNING:
		return V1_RUNNING;
	case VFIO_DEVICE_STATE_STOP_COPY:
		return 2;
	case VFIO_DEVICE_STATE_PRE_COPY:
		return 3;
	case VFIO_DEVICE_STATE_RESUMING:
		return 4;
	default:
		return V1_ERROR;
	}
}

static enum vfio_device_mig_state v2_of(u32 state)
{
	static const u8 states[] = { VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING,
				     VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_PRE_COPY,
				     VFIO_DEVICE_STATE_RESUMING };

	return state < ARRAY_SIZE(states) ? states[state] : VFIO_DEVICE_STATE_ERROR;
}

/* --- the region --------------------------------------------------------------------------------- */

u64 vmt_region_size(const struct vmt *vmt)
{
	return DATA + 2 * vmt->region.window;
}

void vmt_region_init(struct vmt *vmt)
{
	mutex_init(&vmt->region.mutex);
	vmt->region.window_bytes = 64 << 10;
}

/* Mappings hold the device open, so nobody has the old memory. */
int vmt_region_open(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;

	if (!vmt->has_region || r->memory)
		return 0;
	r->window = PAGE_ALIGN(max_t(u64, r->window_bytes, PAGE_SIZE));
	r->memory = vmalloc_user(vmt_region_size(vmt));
	return r->memory ? 0 : -ENOMEM;
}

static void forget_session(struct vmt_region *r)
{
	if (r->file)
		fput(r->file);
	r->file = NULL;
	r->stream = NULL;
	r->chunk = r->number = 0;
	r->asked = r->counted = r->refused = false;
}

void vmt_region_close(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;

	mutex_lock(&r->mutex);
	forget_session(r);
	vfree(r->memory);
	r->memory = NULL;
	mutex_unlock(&r->mutex);
}

int vmt_region_mmap(struct vmt *vmt, struct vm_area_struct *vma)
{
	struct vmt_region *r = &vmt->region;
	unsigned long first = vma->vm_pgoff & ((1ul << (VMT_OFFSET_SHIFT - PAGE_SHIFT)) - 1);

	if (!vmt->has_region || vma->vm_pgoff >> (VMT_OFFSET_SHIFT - PAGE_SHIFT) != VMT_REGION_INDEX ||
	    !r->layout)
		return -EINVAL;
	/* What lies outside is refused there. */
	return remap_vmalloc_range(vma, r->memory, first);
}

/* Which parts can be mapped; how many there are. */
static u32 areas(const struct vmt *vmt, struct vfio_region_sparse_mmap_area *area)
{
	u64 window = vmt->region.window, half = PAGE_ALIGN(window / 2);

	switch (vmt->region.layout) {
	case VMT_LAYOUT_DATA:
		area[0].offset = DATA;
		area[0].size = 2 * window;
		return 1;
	case VMT_LAYOUT_TWO:
		/* The second half of either place is not in them, unless that has one page only. */
		area[1].offset = DATA;
		area[1].size = half;
		area[0].offset = DATA + window;
		area[0].size = half;
		return 2;
	case VMT_LAYOUT_OUTSIDE:
		area[0].offset = DATA;
		area[0].size = 1ull << 40;
		return 1;
	default:
		return 0;
	}
}

int vmt_region_info(struct vmt *vmt, struct vfio_region_info *info, struct vfio_info_cap *caps)
{
	struct vfio_region_info_cap_type type = {
		.header.id = VFIO_REGION_INFO_CAP_TYPE,
		.header.version = 1,
		.type = vmt->region.mid ? 2 : VFIO_REGION_TYPE_MIGRATION_DEPRECATED,
		.subtype = VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED,
	};
	struct vfio_region_info_cap_sparse_mmap *sparse;
	const size_t size = struct_size(sparse, areas, 2);
	int ret = 0;

	info->size = vmt_region_size(vmt);
	info->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	if (vmt->region.layout)
		info->flags |= VFIO_REGION_INFO_FLAG_MMAP;
	if (vmt->region.layout && vmt->region.layout != VMT_LAYOUT_WHOLE) {
		sparse = kzalloc(size, GFP_KERNEL);
		if (!sparse)
			return -ENOMEM;
		sparse->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
		sparse->header.version = 1;
		sparse->nr_areas = areas(vmt, sparse->areas);
		ret = vfio_info_add_capability(caps, &sparse->header, struct_size(sparse, areas, sparse->nr_areas));
		kfree(sparse);
	}
	return ret ?: vfio_info_add_capability(caps, &type.header, sizeof(type));
}

/* --- chunks; with region.mutex, state_mutex and lock held ---------------------------------------- */

/* A session that has ended takes its chunks with it. */
static void follow(struct vmt *vmt)
{
	if (vmt->region.stream && vmt->stream != vmt->region.stream)
		forget_session(&vmt->region);
}

static u64 place(const struct vmt_region *r)
{
	return DATA + (r->alternate && r->number % 2 ? r->window : 0);
}

static u32 pull(struct vmt_stream *s, u8 *to, u32 len)
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

static int push(struct vmt_stream *s, const u8 *from, u32 len)
{
	u32 done = 0, n;
	int ret = s->error;

	while (done < len && !ret) {
		n = min(len - done, vmt_resume_room(s));
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

/* Has a chunk ready, if there is one. */
static bool prepare(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;
	struct vmt_stream *s = vmt->stream;
	struct chunk_header *header = r->memory + place(r);
	u64 most = r->window;
	u32 len;

	if (r->chunk)
		return true;
	if (vmt->reading.max)
		most = clamp_t(u64, vmt->reading.max, sizeof(*header) + 1, most);
	vmt_catch_up(vmt);
	len = pull(s, (u8 *)(header + 1), most - sizeof(*header));
	if (!len && !(r->endless && s->stopped))
		return false;
	r->chunk = len + sizeof(*header);
	header->len = cpu_to_le32(r->chunk);
	header->number = cpu_to_le32(r->number);
	return true;
}

static bool is_saving(const struct vmt *vmt)
{
	return vmt->stream && vmt->stream->saving && vmt->stream == vmt->region.stream;
}

static int read_pending(struct vmt *vmt, u64 *value)
{
	struct vmt_region *r = &vmt->region;
	u64 initial, dirty;
	int ret = vmt_check_fault(vmt, VMT_OP_PRECOPY_INFO);

	if (ret)
		return ret;
	if (!is_saving(vmt))
		return -EINVAL;
	/* That is how the device learns that the last one was taken. */
	if (r->asked) {
		r->chunk = 0;
		r->number++;
	}
	r->asked = false;
	r->counted = true;
	*value = 0;
	if (!prepare(vmt))
		return 0;
	if (vmt->stream->stopped) {
		*value = r->chunk + vmt_save_left(vmt, vmt->stream);
	} else {
		vmt_save_estimate(vmt->stream, &initial, &dirty);
		*value = r->chunk + initial + dirty;
	}
	return 0;
}

static int read_offset(struct vmt *vmt, u64 *value)
{
	struct vmt_region *r = &vmt->region;
	int ret = vmt_check_fault(vmt, VMT_OP_DATA_SIZE);

	if (ret)
		return ret;
	if (vmt->state != VFIO_DEVICE_STATE_RESUMING) {
		if (!is_saving(vmt) || !r->counted || !prepare(vmt))
			return -EINVAL;
		r->asked = true;
	}
	*value = place(r);
	return 0;
}

static int read_size(struct vmt *vmt, u64 *value)
{
	int ret = vmt_check_fault(vmt, VMT_OP_DATA_SIZE);

	if (ret)
		return ret;
	if (!is_saving(vmt) || !vmt->region.asked)
		return -EINVAL;
	*value = vmt->region.zero_size ? 0 : vmt->region.chunk;
	return 0;
}

static int take_chunk(struct vmt *vmt, u64 len)
{
	struct vmt_region *r = &vmt->region;
	const struct chunk_header *header = r->memory + place(r);
	int ret = vmt_check_fault(vmt, VMT_OP_WRITE);

	if (vmt->state != VFIO_DEVICE_STATE_RESUMING || vmt->stream != r->stream)
		return -EINVAL;
	if (!ret && (r->refused || len <= sizeof(*header) || len > r->window || le32_to_cpu(header->len) != len))
		ret = -EINVAL;
	if (!ret && r->number && le32_to_cpu(header->number) == r->number - 1)
		return 0; /* nobody had said that it was taken, so it was offered again */
	if (!ret && le32_to_cpu(header->number) != r->number)
		ret = -EINVAL;
	if (!ret)
		ret = push(vmt->stream, (const u8 *)(header + 1), len - sizeof(*header));
	if (ret)
		r->refused = true;
	r->number++;
	return ret;
}

/* --- accesses ----------------------------------------------------------------------------------- */

/* With region.mutex held. */
static int set_state(struct vmt *vmt, u32 wanted)
{
	struct vmt_region *r = &vmt->region;
	u32 from = v1_of(vmt->state), to = wanted & V1_STATE;
	bool legal = from == to && from != V1_ERROR;
	struct file *file;
	int i;

	for (i = 0; i < ARRAY_SIZE(arcs); i++)
		legal |= arcs[i][0] == from && arcs[i][1] == to;
	if (!legal || (wanted & ~V1_STATE) != V1_KEPT)
		return from == V1_ERROR ? -EIO : -EINVAL;
	r->asked = r->counted = false;
	file = vmt_change_state(vmt, v2_of(to));
	if (IS_ERR(file))
		return PTR_ERR(file);
	if (file) {
		forget_session(r);
		r->file = file;
		r->stream = file->private_data;
	}
	return 0;
}

static ssize_t access_data(struct vmt *vmt, char __user *to, const char __user *from, u64 at, size_t count)
{
	struct vmt_region *r = &vmt->region;
	struct vmt_flow *flow = from ? &vmt->writing : &vmt->reading;

	flow->calls++;
	if (r->strict && (count > 8 || !is_power_of_2(count) || at & (count - 1)))
		return -EINVAL;
	if (count > vmt_region_size(vmt) - at)
		return -EINVAL;
	if (from && vmt->state != VFIO_DEVICE_STATE_RESUMING)
		return -EINVAL;
	if (to ? copy_to_user(to, r->memory + at, count) : copy_from_user(r->memory + at, from, count))
		return -EFAULT;
	return count;
}

static int read_field(struct vmt *vmt, u64 at, size_t count, u64 *value)
{
	int ret;

	if (at == REG_STATE && count == 4) {
		ret = vmt_check_fault(vmt, VMT_OP_GET_STATE);
		*value = v1_of(vmt->state) | V1_KEPT;
		return ret;
	}
	if (at == REG_STATE + 4 && count == 4) {
		*value = 0;
		return 0;
	}
	if (count != 8)
		return -EINVAL;
	switch (at) {
	case REG_PENDING:
		return read_pending(vmt, value);
	case REG_OFFSET:
		return read_offset(vmt, value);
	case REG_SIZE:
		return read_size(vmt, value);
	default:
		return -EINVAL;
	}
}

/* With region.mutex and state_mutex held; `at` is not that of the state. */
static ssize_t write_field(struct vmt *vmt, u64 at, size_t count, u64 value)
{
	if (at == REG_STATE + 4 && count == 4)
		return count;
	if (count != 8)
		return -EINVAL;
	if (at == REG_PENDING || at == REG_OFFSET)
		return -EFAULT;
	return at == REG_SIZE ? take_chunk(vmt, value) ?: count : -EINVAL;
}

ssize_t vmt_region_access(struct vmt *vmt, char __user *to, const char __user *from, u64 at, size_t count)
{
	struct vmt_region *r = &vmt->region;
	__le64 field = 0;
	u64 value = 0;
	ssize_t ret;

	if (!vmt->has_region || at >= vmt_region_size(vmt) || !count)
		return -EINVAL;
	if (at < DATA && (count > 8 || (from && copy_from_user(&field, from, count))))
		return count > 8 ? -EINVAL : -EFAULT;
	mutex_lock(&r->mutex);
	if (from && at == REG_STATE && count == 4) {
		ret = set_state(vmt, le64_to_cpu(field)) ?: count;
		mutex_unlock(&r->mutex);
		return ret;
	}
	mutex_lock(&vmt->state_mutex);
	mutex_lock(&vmt->lock);
	follow(vmt);
	if (at >= DATA) {
		ret = access_data(vmt, to, from, at, count);
	} else if (from) {
		ret = write_field(vmt, at, count, le64_to_cpu(field));
	} else {
		ret = read_field(vmt, at, count, &value);
		field = cpu_to_le64(value);
		if (!ret)
			ret = copy_to_user(to, &field, count) ? -EFAULT : count;
	}
	mutex_unlock(&vmt->lock);
	vmt_state_unlock(vmt);
	mutex_unlock(&r->mutex);
	return ret;
}
