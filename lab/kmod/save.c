// SPDX-License-Identifier: GPL-2.0
/*
 * Saving: the contents as records. Pre-copy sends the first blocks, and again what has changed since;
 * a stopped device sends whatever is left.
 */
#include <linux/bitmap.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/string.h>

#include "stream.h"

#define END_BYTES (sizeof(struct vmt_record) + sizeof(struct vmt_end))

static u64 blocks_bytes(const struct vmt *vmt, u32 from, u32 to)
{
	u64 begin = (u64)from << VMT_BLOCK_SHIFT, end = min((u64)to << VMT_BLOCK_SHIFT, vmt->size);

	return from < to ? end - begin + (u64)(to - from) * sizeof(struct vmt_record) : 0;
}

int vmt_save_init(struct vmt_stream *s)
{
	struct vmt *vmt = s->vmt;

	s->buf = kvmalloc(VMT_BUFFER, GFP_KERNEL_ACCOUNT);
	s->sent.dirty = bitmap_zalloc(vmt->num_blocks, GFP_KERNEL_ACCOUNT);
	s->initial_blocks = DIV_ROUND_UP_ULL(min(vmt->initial_size, vmt->size), VMT_BLOCK);
	return s->buf && s->sent.dirty ? 0 : -ENOMEM;
}

int vmt_stream_reinit(struct vmt *vmt)
{
	struct vmt_stream *s = vmt->stream;
	bool v2 = false;
	u32 block;

	if (!s || !s->saving || s->stopped)
		return -EBUSY;
#ifdef HAVE_PRECOPY_INFO_V2
	v2 = vmt->vdev.precopy_info_v2;
#endif
	if (v2) {
		/* Everything is initial data again. */
		s->sent.next = 0;
		bitmap_zero(s->sent.dirty, vmt->num_blocks);
		s->sent.dirty_bytes = 0;
		s->dirty_from = 0;
		s->reinit = true;
	} else {
		/* The old interface has no way to say so: it becomes dirty. */
		for (block = 0; block < s->sent.next; block++)
			if (!__test_and_set_bit(block, s->sent.dirty))
				s->sent.dirty_bytes += vmt_block_bytes(vmt, block);
	}
	return 0;
}

static void make_header(struct vmt_stream *s)
{
	struct vmt *vmt = s->vmt;
	struct vmt_header *header = (struct vmt_header *)s->buf;

	memset(header, 0, sizeof(*header));
	header->magic = cpu_to_le64(VMT_STREAM_MAGIC);
	header->version = cpu_to_le32(VMT_STREAM_VERSION);
	header->block = cpu_to_le32(VMT_BLOCK);
	header->state_size = cpu_to_le64(vmt->size);
	header->seed = cpu_to_le64(vmt->contents.seed);
	header->check = cpu_to_le64(header_check(header));
	s->len = sizeof(*header);
}

static void make_block(struct vmt_stream *s, u32 block)
{
	struct vmt *vmt = s->vmt;
	struct vmt_record *record = (struct vmt_record *)s->buf;
	u32 len = vmt_block_len(vmt, block);

	record->magic = cpu_to_le32(VMT_RECORD_MAGIC);
	record->type = cpu_to_le32(VMT_RECORD_BLOCK);
	record->offset = cpu_to_le64((u64)block << VMT_BLOCK_SHIFT);
	record->generation = cpu_to_le32(vmt->contents.generation[block]);
	record->length = cpu_to_le32(len);
	record->check = cpu_to_le64(record_check(vmt->contents.seed, record));
	vmt_fill_block(&vmt->contents, block, vmt->contents.generation[block], record + 1, len);
	if (vmt->corrupt == block)
		s->buf[sizeof(*record) + len / 2] ^= 0x10;
	s->len = sizeof(*record) + len;
	if (__test_and_clear_bit(block, s->sent.dirty))
		s->sent.dirty_bytes -= s->len;
}

/* The last record. */
void vmt_save_last(struct vmt *vmt, void *to)
{
	struct vmt_record *record = to;
	struct vmt_end *end = (struct vmt_end *)(record + 1);

	record->magic = cpu_to_le32(VMT_RECORD_MAGIC);
	record->type = cpu_to_le32(VMT_RECORD_END);
	record->offset = cpu_to_le64(vmt->size);
	record->generation = 0;
	record->length = cpu_to_le32(sizeof(*end));
	record->check = cpu_to_le64(record_check(vmt->contents.seed, record));
	end->digest = cpu_to_le64(vmt_digest(vmt, &vmt->contents));
	memcpy(end->scratch, vmt->contents.scratch, VMT_SCRATCH);
}

/* All but the last record; how many bytes that is. */
u64 vmt_save_whole(const struct vmt *vmt)
{
	return sizeof(struct vmt_header) + blocks_bytes(vmt, 0, vmt->num_blocks);
}

/* The same, from a stream of its own. */
int vmt_save_all(struct vmt *vmt, u8 *to)
{
	struct vmt_stream s = { .vmt = vmt, .saving = true, .end_made = true };
	int ret = vmt_save_init(&s);
	u32 len;

	s.initial_blocks = vmt->num_blocks;
	while (!ret && (len = vmt_save_fill(&s))) {
		memcpy(to, s.buf, len);
		to += len;
		s.pos = len;
	}
	bitmap_free(s.sent.dirty);
	kvfree(s.buf);
	return ret;
}

/* Whether there is anything to read. */
bool vmt_save_has_data(const struct vmt_stream *s)
{
	return s->pos < s->len || !s->header_made || s->sent.next < s->initial_blocks || s->sent.dirty_bytes ||
	       (s->stopped && !s->end_made);
}

/* Makes the next record; false when there is none. */
static bool make_next(struct vmt_stream *s)
{
	struct vmt *vmt = s->vmt;
	u32 block;

	if (!vmt_save_has_data(s))
		return false;
	s->pos = 0;
	s->buf_is_initial = true;
	if (!s->header_made) {
		make_header(s);
		s->header_made = true;
	} else if (s->sent.next < s->initial_blocks) {
		make_block(s, s->sent.next++);
	} else if (s->sent.dirty_bytes) {
		s->buf_is_initial = false;
		block = find_next_bit(s->sent.dirty, vmt->num_blocks, s->dirty_from);
		if (block >= vmt->num_blocks)
			block = find_first_bit(s->sent.dirty, vmt->num_blocks);
		if (WARN_ON_ONCE(block >= vmt->num_blocks)) {
			s->sent.dirty_bytes = 0;
			return false;
		}
		make_block(s, block);
		s->dirty_from = block + 1;
	} else {
		s->buf_is_initial = false;
		vmt_save_last(vmt, s->buf);
		s->len = END_BYTES;
		s->end_made = true;
	}
	return true;
}

/* Makes the next record where the last one has been sent; how many bytes there are, 0: none. */
u32 vmt_save_fill(struct vmt_stream *s)
{
	if (s->pos == s->len && !make_next(s))
		return 0;
	return s->len - s->pos;
}

void vmt_save_estimate(const struct vmt_stream *s, u64 *initial, u64 *dirty)
{
	u64 rest = s->len - s->pos;

	*initial = (s->header_made ? 0 : sizeof(struct vmt_header)) + (s->buf_is_initial ? rest : 0) +
		   blocks_bytes(s->vmt, s->sent.next, s->initial_blocks);
	*dirty = s->sent.dirty_bytes + (s->buf_is_initial ? 0 : rest);
}

/* What is left until the end if the device stops now. */
u64 vmt_save_left(const struct vmt *vmt, const struct vmt_stream *s)
{
	if (!s || !s->saving)
		return sizeof(struct vmt_header) + blocks_bytes(vmt, 0, vmt->num_blocks) + END_BYTES;
	return (s->header_made ? 0 : sizeof(struct vmt_header)) + s->len - s->pos + s->sent.dirty_bytes +
	       blocks_bytes(vmt, s->sent.next, vmt->num_blocks) + (s->end_made ? 0 : END_BYTES);
}
