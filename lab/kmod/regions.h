/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What an older protocol is to the file that has its regions, and what that does for it. With
 * region.mutex held; vmt_region_lock() takes what a session needs besides.
 */
#ifndef VFIOMIG_TEST_REGIONS_H
#define VFIOMIG_TEST_REGIONS_H

#include "stream.h"

struct vmt_region_ops {
	/* Says which windows there are, when the device is opened. */
	void (*describe)(struct vmt *vmt);
	/* One access to a window, within its bounds. Bytes to be written to a field are in `value`, and
	 * those of one that is read go there. */
	ssize_t (*field)(struct vmt *vmt, u32 window, bool write, u64 at, size_t count, __le64 value[2]);
	/* Whether data may be written to a window now. */
	bool (*takes_data)(struct vmt *vmt, u32 window);
	/* A stream begins that saves the device; with `lock` held. May be NULL. */
	void (*begin)(struct vmt *vmt, struct vmt_stream *s);
	/* A session is over. */
	void (*forget)(struct vmt *vmt);
};

void vmt_region_add(struct vmt *vmt, u32 type, u32 subtype, u64 size, u64 data);
void vmt_region_follow(struct vmt *vmt);
void vmt_region_forget(struct vmt *vmt);
int vmt_region_set_state(struct vmt *vmt, enum vfio_device_mig_state to);
void vmt_region_lock(struct vmt *vmt);
void vmt_region_unlock(struct vmt *vmt);
u32 vmt_pull(struct vmt_stream *s, u8 *to, u32 len);
int vmt_push(struct vmt_stream *s, const u8 *from, u64 len);

static inline bool vmt_is_saving(const struct vmt *vmt)
{
	return vmt->stream && vmt->stream->saving && vmt->stream == vmt->region.stream;
}

#endif
