// SPDX-License-Identifier: GPL-2.0
/*
 * What a device holds. The contents take four bytes for each block of 4096: they are generated when
 * they are read, from the seed, the place and how often the block was written to.
 */
#include <linux/bitops.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "vfiomig-test.h"

/* A bijection in which each input bit reaches all output bits (the finaliser of splitmix64). */
u64 vmt_mix(u64 x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

void vmt_fill_block(const struct vmt_contents *contents, u32 block, u32 generation, void *to, u32 len)
{
	u64 x = vmt_mix(contents->seed ^ vmt_mix((u64)generation << 32 | block));
	u8 *bytes = to;
	__le64 word;

	while (len) {
		u32 n = min_t(u32, len, sizeof(word));

		/* Cheaper than the mixing above, and just as good at showing bytes that are out of
		 * place. */
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		word = cpu_to_le64(x ^ x >> 32);
		memcpy(bytes, &word, n);
		bytes += n;
		len -= n;
	}
}

u32 vmt_block_len(const struct vmt *vmt, u32 block)
{
	return min_t(u64, VMT_BLOCK, vmt->size - ((u64)block << VMT_BLOCK_SHIFT));
}

/* What it takes in a stream. */
u32 vmt_block_bytes(const struct vmt *vmt, u32 block)
{
	return sizeof(struct vmt_record) + vmt_block_len(vmt, block);
}

/*
 * Covers what the contents are generated from. A device that accepts a block compares every byte of
 * it, so this stands for the bytes too.
 */
u64 vmt_digest(const struct vmt *vmt, const struct vmt_contents *contents)
{
	u64 digest = vmt_mix(contents->seed ^ vmt_mix(vmt->size));
	u32 i;

	for (i = 0; i < vmt->num_blocks; i++)
		digest = vmt_mix(digest + contents->generation[i]);
	for (i = 0; i < VMT_SCRATCH; i++)
		digest = vmt_mix(digest ^ contents->scratch[i]);
	return digest;
}

void vmt_power_on(struct vmt *vmt)
{
	vmt->contents.seed = vmt->seed;
	memset(vmt->contents.generation, 0, vmt->num_blocks * sizeof(u32));
	memset(vmt->contents.scratch, 0, VMT_SCRATCH);
	vmt->next_dirty = 0;
	vmt->dirtied_ns = ktime_get_ns();
}

int vmt_resize(struct vmt *vmt, u64 size)
{
	u32 num_blocks = DIV_ROUND_UP_ULL(size, VMT_BLOCK);
	u32 *generation;

	if (size < 1 || size > VMT_MAX_SIZE)
		return -EINVAL;
	generation = kvcalloc(num_blocks, sizeof(u32), GFP_KERNEL_ACCOUNT);
	if (!generation)
		return -ENOMEM;
	kvfree(vmt->contents.generation);
	vmt->sent = NULL;
	vmt->contents.generation = generation;
	vmt->size = size;
	vmt->num_blocks = num_blocks;
	vmt_power_on(vmt);
	return 0;
}

/* A block gets new contents; called with `lock` held. */
void vmt_touch(struct vmt *vmt, u32 block)
{
	struct vmt_sent *sent = vmt->sent;

	vmt->contents.generation[block]++;
	vmt->counters.touched++;
	/* What has not been sent yet will be sent as it is then. */
	if (sent && block < sent->next && !__test_and_set_bit(block, sent->dirty))
		sent->dirty_bytes += vmt_block_bytes(vmt, block);
}

/* Applies the dirty rate to the time that has passed; called whenever anyone looks. */
void vmt_catch_up(struct vmt *vmt)
{
	u64 now = ktime_get_ns();
	u64 elapsed = min_t(u64, now - vmt->dirtied_ns, NSEC_PER_SEC);
	u64 blocks;

	if (!vmt->running || !vmt->dirty_rate) {
		vmt->dirtied_ns = now;
		return;
	}
	blocks = div64_u64(elapsed * vmt->dirty_rate, (u64)NSEC_PER_SEC << VMT_BLOCK_SHIFT);
	if (blocks >= vmt->num_blocks || elapsed == NSEC_PER_SEC) {
		blocks = min_t(u64, blocks, vmt->num_blocks);
		vmt->dirtied_ns = now;
	} else {
		vmt->dirtied_ns += div64_u64(blocks * ((u64)NSEC_PER_SEC << VMT_BLOCK_SHIFT), vmt->dirty_rate);
	}
	while (blocks--) {
		vmt_touch(vmt, vmt->next_dirty);
		/* A stride that is coprime to every size up to the largest, so that all blocks are
		 * reached. */
		vmt->next_dirty = (vmt->next_dirty + 786433u) % vmt->num_blocks;
	}
}

/* When it returns, a device that was stopped has written for the last time. */
void vmt_set_running_locked(struct vmt *vmt, bool running)
{
	vmt_catch_up(vmt);
	mutex_lock(&vmt->load.mutex);
	vmt->running = running;
	mutex_unlock(&vmt->load.mutex);
}

void vmt_set_running(struct vmt *vmt, bool running)
{
	mutex_lock(&vmt->lock);
	vmt_set_running_locked(vmt, running);
	mutex_unlock(&vmt->lock);
}
