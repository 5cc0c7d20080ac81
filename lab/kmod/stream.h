/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A data stream, and what its two directions are to the file that moves the bytes: saving fills the
 * buffer, resuming takes it apart. All of it with `lock` held.
 */
#ifndef VFIOMIG_TEST_STREAM_H
#define VFIOMIG_TEST_STREAM_H

#include "vfiomig-test.h"

struct vmt_stream {
	struct vmt *vmt;
	struct file *file;
	bool saving;
	bool dead;
	int error; /* of a resuming stream: it accepts nothing more */

	u8 *buf; /* one record */
	u32 len, pos; /* len: of the record that is being saved */

	/* Saving */
	bool header_made, stopped, end_made;
	bool buf_is_initial;
	u32 initial_blocks; /* sent in pre-copy; the others only when stopped */
	struct vmt_sent sent;
	u32 dirty_from;
	bool reinit;

	/* Resuming */
	bool header_taken, record_taken, complete;
	u32 num_received;
	unsigned long *received;
	struct vmt_contents incoming;
	struct vmt_record record;
};

static inline u64 check_of(u64 seed, const void *data, u32 len)
{
	const u8 *bytes = data;

	while (len--)
		seed = vmt_mix(seed + *bytes++ + 1);
	return seed;
}

static inline u64 header_check(const struct vmt_header *header)
{
	return check_of(0, header, offsetof(struct vmt_header, check));
}

static inline u64 record_check(u64 seed, const struct vmt_record *record)
{
	return check_of(seed, record, offsetof(struct vmt_record, check));
}

/* save.c */
int vmt_save_init(struct vmt_stream *s);
bool vmt_save_has_data(const struct vmt_stream *s);
u32 vmt_save_fill(struct vmt_stream *s);
void vmt_save_estimate(const struct vmt_stream *s, u64 *initial, u64 *dirty);
u64 vmt_save_whole(const struct vmt *vmt);
int vmt_save_all(struct vmt *vmt, u8 *to);
void vmt_save_last(struct vmt *vmt, void *to);
u64 vmt_save_left(const struct vmt *vmt, const struct vmt_stream *s);

/* resume.c */
int vmt_resume_init(struct vmt_stream *s);
u32 vmt_resume_room(struct vmt_stream *s);
int vmt_resume_take(struct vmt_stream *s);
int vmt_resume_again(struct vmt_stream *s, const u8 *from, u64 len);

/* stream.c */
struct file *vmt_stream_new(struct vmt *vmt, bool saving);
void vmt_stream_stop(struct vmt *vmt);
int vmt_stream_commit(struct vmt *vmt);
void vmt_stream_end(struct vmt *vmt);

#endif
