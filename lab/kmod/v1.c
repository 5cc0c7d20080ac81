// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO migration, version 1, of Linux 5.8 to 5.17: a region with a state, a few fields, and a place
 * for chunks of data.
 *
 * As strict as a driver can be. A chunk begins with its length and its number, so that one that comes
 * with another length, or out of order, is refused.
 */
#include <linux/mm.h>
#include <linux/string.h>

#include "regions.h"

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

static void describe(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;
	u32 type = r->mid ? 2 : VFIO_REGION_TYPE_MIGRATION_DEPRECATED;
	u64 size;

	r->window = PAGE_ALIGN(max_t(u64, r->window_bytes, PAGE_SIZE));
	size = DATA + 2 * r->window;
	vmt_region_add(vmt, type, VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED, r->lie == VMT_LIE_SHORT ? 8 : size,
		       DATA);
	if (r->chain == VMT_CHAIN_TWICE)
		vmt_region_add(vmt, type, VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED, size, DATA);
}

static void forget(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;

	r->chunk = r->number = 0;
	r->asked = r->counted = false;
}

/* --- chunks; with the locks of vmt_region_lock() -------------------------------------------------- */

static u64 place(const struct vmt_region *r)
{
	return DATA + (r->alternate && r->number % 2 ? r->window : 0);
}

static struct chunk_header *header_of(struct vmt_region *r)
{
	return r->windows[0].memory + place(r);
}

/* Has a chunk ready, if there is one. */
static bool prepare(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;
	struct vmt_stream *s = vmt->stream;
	struct chunk_header *header = header_of(r);
	u64 most = r->window;
	u32 len;

	if (r->chunk)
		return true;
	if (vmt->reading.max)
		most = clamp_t(u64, vmt->reading.max, sizeof(*header) + 1, most);
	vmt_catch_up(vmt);
	len = vmt_pull(s, (u8 *)(header + 1), most - sizeof(*header));
	if (!len && !(r->endless && s->stopped))
		return false;
	r->chunk = len + sizeof(*header);
	header->len = cpu_to_le32(r->chunk);
	header->number = cpu_to_le32(r->number);
	return true;
}

static int read_pending(struct vmt *vmt, u64 *value)
{
	struct vmt_region *r = &vmt->region;
	u64 initial, dirty;
	int ret = vmt_check_fault(vmt, VMT_OP_PRECOPY_INFO);

	if (ret)
		return ret;
	if (!vmt_is_saving(vmt))
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
		if (!vmt_is_saving(vmt) || !r->counted || !prepare(vmt))
			return -EINVAL;
		r->asked = true;
	}
	*value = place(r);
	if (r->lie == VMT_LIE_PLACE)
		*value = REG_SIZE;
	else if (r->lie == VMT_LIE_HUGE)
		*value = U64_MAX - 7;
	return 0;
}

static int read_size(struct vmt *vmt, u64 *value)
{
	int ret = vmt_check_fault(vmt, VMT_OP_DATA_SIZE);

	if (ret)
		return ret;
	if (!vmt_is_saving(vmt) || !vmt->region.asked)
		return -EINVAL;
	*value = vmt->region.zero_size ? 0 : vmt->region.chunk;
	if (vmt->region.lie == VMT_LIE_LENGTH)
		*value = 2 * vmt->region.window + 1;
	return 0;
}

static int take_chunk(struct vmt *vmt, u64 len)
{
	struct vmt_region *r = &vmt->region;
	const struct chunk_header *header = header_of(r);
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
		ret = vmt_push(vmt->stream, (const u8 *)(header + 1), len - sizeof(*header));
	if (ret)
		r->refused = true;
	r->number++;
	return ret;
}

/* --- fields ------------------------------------------------------------------------------------- */

static int set_state(struct vmt *vmt, u32 wanted)
{
	struct vmt_region *r = &vmt->region;
	u32 from = v1_of(vmt->state), to = wanted & V1_STATE;
	bool legal = from == to && from != V1_ERROR;
	bool commits = from == v1_of(VFIO_DEVICE_STATE_RESUMING) && from != to;
	int i, ret;

	for (i = 0; i < ARRAY_SIZE(arcs); i++)
		legal |= arcs[i][0] == from && arcs[i][1] == to;
	if (!legal || (wanted & ~V1_STATE) != V1_KEPT)
		return from == V1_ERROR ? -EIO : -EINVAL;
	r->asked = r->counted = false;
	ret = vmt_region_set_state(vmt, v2_of(to));
	if (!ret && commits && r->break_loaded)
		vmt_set_broken(vmt);
	return ret;
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

/* `at` is not that of the state. */
static int write_field(struct vmt *vmt, u64 at, size_t count, u64 value)
{
	if (at == REG_STATE + 4 && count == 4)
		return 0;
	if (count != 8)
		return -EINVAL;
	if (at == REG_PENDING || at == REG_OFFSET)
		return -EFAULT;
	return at == REG_SIZE ? take_chunk(vmt, value) : -EINVAL;
}

static ssize_t field(struct vmt *vmt, u32 window, bool write, u64 at, size_t count, __le64 value[2])
{
	u64 number = 0;
	int ret;

	if (write && at == REG_STATE && count == 4)
		return set_state(vmt, le64_to_cpu(value[0])) ?: count;
	vmt_region_lock(vmt);
	if (write) {
		ret = write_field(vmt, at, count, le64_to_cpu(value[0]));
	} else {
		ret = read_field(vmt, at, count, &number);
		value[0] = cpu_to_le64(number);
	}
	vmt_region_unlock(vmt);
	return ret ?: count;
}

static bool takes_data(struct vmt *vmt, u32 window)
{
	return vmt->state == VFIO_DEVICE_STATE_RESUMING;
}

const struct vmt_region_ops vmt_v1_ops = {
	.describe = describe,
	.field = field,
	.takes_data = takes_data,
	.forget = forget,
};
