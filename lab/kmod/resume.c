// SPDX-License-Identifier: GPL-2.0
/*
 * Resuming: records are taken apart. Every byte of them is known beforehand and compared.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "stream.h"

int vmt_resume_init(struct vmt_stream *s)
{
	struct vmt *vmt = s->vmt;

	/* A second block for what the first is compared with. */
	s->buf = kvmalloc(VMT_BUFFER + VMT_BLOCK, GFP_KERNEL_ACCOUNT);
	s->received = bitmap_zalloc(vmt->num_blocks, GFP_KERNEL_ACCOUNT);
	s->incoming.generation = kvcalloc(vmt->num_blocks, sizeof(u32), GFP_KERNEL_ACCOUNT);
	return s->buf && s->received && s->incoming.generation ? 0 : -ENOMEM;
}

/* All of the contents come again, if they come from the beginning. */
int vmt_resume_again(struct vmt_stream *s, const u8 *from, u64 len)
{
	const struct vmt_header *header = (const struct vmt_header *)from;

	if (s->error || len < sizeof(*header) || le64_to_cpu(header->magic) != VMT_STREAM_MAGIC)
		return s->error;
	s->header_taken = s->record_taken = false;
	s->pos = s->num_received = 0;
	bitmap_zero(s->received, s->vmt->num_blocks);
	memset(s->incoming.generation, 0, s->vmt->num_blocks * sizeof(u32));
	return 0;
}

/* Sticky: after it, nothing that is written counts. */
static int refuse(struct vmt_stream *s, int error)
{
	s->error = error;
	return error;
}

static int take_header(struct vmt_stream *s)
{
	const struct vmt_header *header = (const struct vmt_header *)s->buf;

	if (le64_to_cpu(header->magic) != VMT_STREAM_MAGIC ||
	    le64_to_cpu(header->check) != header_check(header) ||
	    le32_to_cpu(header->version) != VMT_STREAM_VERSION || le32_to_cpu(header->block) != VMT_BLOCK ||
	    le64_to_cpu(header->state_size) != s->vmt->size || header->reserved)
		return refuse(s, -EINVAL);
	s->incoming.seed = le64_to_cpu(header->seed);
	s->header_taken = true;
	return 0;
}

static int take_record(struct vmt_stream *s)
{
	const struct vmt_record *record = (const struct vmt_record *)s->buf;
	u64 offset = le64_to_cpu(record->offset);
	u32 length = le32_to_cpu(record->length);

	if (le32_to_cpu(record->magic) != VMT_RECORD_MAGIC ||
	    le64_to_cpu(record->check) != record_check(s->incoming.seed, record))
		return refuse(s, -EINVAL);
	switch (le32_to_cpu(record->type)) {
	case VMT_RECORD_BLOCK:
		if (offset >= s->vmt->size || offset & (VMT_BLOCK - 1) ||
		    length != vmt_block_len(s->vmt, offset >> VMT_BLOCK_SHIFT))
			return refuse(s, -EINVAL);
		break;
	case VMT_RECORD_END:
		if (length != sizeof(struct vmt_end))
			return refuse(s, -EINVAL);
		break;
	default:
		return refuse(s, -EINVAL);
	}
	s->record = *record;
	s->record_taken = true;
	return 0;
}

/* Every byte is known in advance: compare it. */
static int take_block(struct vmt_stream *s)
{
	u32 block = le64_to_cpu(s->record.offset) >> VMT_BLOCK_SHIFT;
	u32 generation = le32_to_cpu(s->record.generation), length = le32_to_cpu(s->record.length);
	u8 *expected = s->buf + VMT_BUFFER;

	vmt_fill_block(&s->incoming, block, generation, expected, length);
	if (memcmp(expected, s->buf, length))
		return refuse(s, -EINVAL);
	s->incoming.generation[block] = generation;
	if (!__test_and_set_bit(block, s->received))
		s->num_received++;
	return 0;
}

static int take_end(struct vmt_stream *s)
{
	const struct vmt_end *end = (const struct vmt_end *)s->buf;

	memcpy(s->incoming.scratch, end->scratch, VMT_SCRATCH);
	if (s->num_received != s->vmt->num_blocks ||
	    le64_to_cpu(end->digest) != vmt_digest(s->vmt, &s->incoming))
		return refuse(s, -EINVAL);
	s->complete = true;
	return 0;
}

static u32 wanted(const struct vmt_stream *s)
{
	if (!s->header_taken)
		return sizeof(struct vmt_header);
	return s->record_taken ? le32_to_cpu(s->record.length) : sizeof(struct vmt_record);
}

/* How many bytes may be added to the buffer; 0: none, see the stream's error. */
u32 vmt_resume_room(struct vmt_stream *s)
{
	/* More than everything: what came before was not everything after all. */
	if (s->complete)
		refuse(s, -ENOMEM);
	return s->error ? 0 : wanted(s) - s->pos;
}

/* Takes what is in the buffer once that is all that was wanted. */
int vmt_resume_take(struct vmt_stream *s)
{
	int ret;

	if (s->pos < wanted(s))
		return 0;
	s->pos = 0;
	if (!s->header_taken)
		return take_header(s);
	if (!s->record_taken)
		return take_record(s);
	ret = le32_to_cpu(s->record.type) == VMT_RECORD_END ? take_end(s) : take_block(s);
	s->record_taken = false;
	return ret;
}
