// SPDX-License-Identifier: GPL-2.0
/*
 * The protocol of the RFC of February 2019: a region with fields, one for the device's configuration,
 * a window to its memory, and a bitmap of the pages that it has written to.
 *
 * Memory is the stream without its last record, which is the configuration. There is no state for
 * loading: what is announced to a device without LOGGING is a state for it. A snapshot is taken whole
 * or not at all, and counts as given when each of its chunks was fetched.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "regions.h"

#define TYPE 2

enum { CONTROL, CONFIG, MEMORY, BITMAP }; /* their subtypes less 1 */

#define REG_VERSION 0
#define REG_STATE 4
#define REG_CAPS 8
#define REG_CONFIG_ACTION 16
#define REG_CONFIG_SIZE 24
#define REG_MEMORY_ACTION 32
#define REG_MEMORY_SIZE 40
#define REG_MEMORY_POS 48
#define REG_START_ADDR 56
#define REG_PAGE_NR 64
#define REG_END 72

#define STOP 1u
#define LOGGING 2u
#define CAP_DEVICE_MEMORY 1u
#define CAP_SYSTEM_MEMORY 2u
#define GET 1u
#define SET 2u

/* The last record, and after it what stands for the registers of a device. */
#define LAST (sizeof(struct vmt_record) + sizeof(struct vmt_end))
#define REGISTER(i) ((u8)((i) * 7 + 0xc5))
/* A snapshot that comes is refused if it is longer than this. */
#define MOST(vmt) (4 * vmt_save_whole(vmt) + (1u << 20))

static bool is_logging(const struct vmt *vmt)
{
	return vmt->state == VFIO_DEVICE_STATE_PRE_COPY || vmt->state == VFIO_DEVICE_STATE_STOP_COPY;
}

static u32 rfc_of(enum vfio_device_mig_state state)
{
	switch (state) {
	case VFIO_DEVICE_STATE_RUNNING:
		return 0;
	case VFIO_DEVICE_STATE_STOP:
		return STOP;
	case VFIO_DEVICE_STATE_PRE_COPY:
		return LOGGING;
	case VFIO_DEVICE_STATE_STOP_COPY:
		return STOP | LOGGING;
	default:
		return ~0u;
	}
}

/* --- the regions -------------------------------------------------------------------------------- */

static u64 config_len(const struct vmt *vmt)
{
	u64 all = max_t(u64, vmt->region.config_bytes, LAST);

	return vmt->region.no_memory ? vmt_save_whole(vmt) + all : all;
}

static struct vmt_window *window(struct vmt *vmt, u32 which)
{
	struct vmt_region *r = &vmt->region;
	u32 i;

	for (i = 1; i < r->num; i++)
		if (r->windows[i].subtype == which + 1)
			return &r->windows[i];
	return NULL;
}

static void describe(struct vmt *vmt)
{
	struct vmt_region *r = &vmt->region;
	bool is_short = r->lie == VMT_LIE_SHORT, missing = r->lie == VMT_LIE_MISSING;

	vmt_region_add(vmt, TYPE, CONTROL + 1, is_short ? 64 : REG_END, REG_END);
	/* The patches of others have one region, of the same type. */
	if (r->mid)
		return;
	vmt_region_add(vmt, TYPE, CONFIG + 1, PAGE_ALIGN(config_len(vmt)), 0);
	if (!r->no_memory && !(missing && !r->bitmap_bytes))
		vmt_region_add(vmt, TYPE, MEMORY + 1, max_t(u64, r->window_bytes, 1), 0);
	if (r->bitmap_bytes && !missing)
		vmt_region_add(vmt, TYPE, BITMAP + 1, r->bitmap_bytes, 0);
	if (r->chain == VMT_CHAIN_TWICE)
		vmt_region_add(vmt, TYPE, CONTROL + 1, REG_END, REG_END);
}

static void drop_snapshot(struct vmt_snapshot *snapshot)
{
	vfree(snapshot->bytes);
	bitmap_free(snapshot->chunks);
	memset(snapshot, 0, sizeof(*snapshot));
}

static void forget(struct vmt *vmt)
{
	struct vmt_rfc *rfc = &vmt->region.rfc;

	drop_snapshot(&rfc->snapshot);
	rfc->config_len = 0;
	if (vmt->sent == &rfc->since)
		vmt->sent = NULL;
	bitmap_free(rfc->since.dirty);
	rfc->since.dirty = NULL;
	/* A session that begins has its log already. */
	if (!is_logging(vmt))
		vmt_log_end(vmt);
}

static bool takes_data(struct vmt *vmt, u32 i)
{
	return vmt->state == VFIO_DEVICE_STATE_RESUMING && vmt->region.windows[i].subtype != BITMAP + 1;
}

/* --- reading memory; with the locks of vmt_region_lock() ------------------------------------------ */

static u64 chunk_len(struct vmt *vmt)
{
	const struct vmt_window *memory = window(vmt, MEMORY);

	return memory ? memory->size : 0;
}

static int new_snapshot(struct vmt *vmt, struct vmt_snapshot *snapshot, u64 len)
{
	u64 window = chunk_len(vmt);

	*snapshot = (struct vmt_snapshot){ .len = len, .num_chunks = DIV_ROUND_UP_ULL(len, window) };
	snapshot->bytes = __vmalloc(max_t(u64, len, 1), GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	snapshot->chunks = bitmap_zalloc(max_t(u32, snapshot->num_chunks, 1), GFP_KERNEL_ACCOUNT);
	if (snapshot->bytes && snapshot->chunks)
		return 0;
	drop_snapshot(snapshot);
	return -ENOMEM;
}

/*
 * LOGGING is set. What is read from now on begins with all of the memory or, for a device that goes by
 * the letter, with what changes.
 */
static void begin(struct vmt *vmt, struct vmt_stream *s)
{
	struct vmt_sent *since = &vmt->region.rfc.since;
	u64 first = vmt->region.first;
	u32 block;

	/* The last record is in the configuration. */
	s->end_made = true;
	if (first == VMT_FIRST_ALL || (first == VMT_FIRST_SINCE && vmt->sent != since))
		return;
	s->header_made = true;
	s->sent.next = vmt->num_blocks;
	if (first != VMT_FIRST_SINCE)
		return;
	bitmap_copy(s->sent.dirty, since->dirty, vmt->num_blocks);
	for_each_set_bit(block, s->sent.dirty, vmt->num_blocks)
		s->sent.dirty_bytes += vmt_block_bytes(vmt, block);
}

/* All of the memory was read without LOGGING: what changes is noted from here on. */
static int count_from_here(struct vmt *vmt)
{
	struct vmt_sent *since = &vmt->region.rfc.since;

	bitmap_free(since->dirty);
	*since = (struct vmt_sent){ .next = vmt->num_blocks };
	since->dirty = bitmap_zalloc(vmt->num_blocks, GFP_KERNEL_ACCOUNT);
	vmt->sent = since->dirty ? since : NULL;
	return since->dirty ? 0 : -ENOMEM;
}

static int read_whole(struct vmt *vmt, struct vmt_snapshot *snapshot)
{
	int ret = new_snapshot(vmt, snapshot, vmt_save_whole(vmt));

	ret = ret ?: vmt_save_all(vmt, snapshot->bytes);
	vmt->reading.bytes += snapshot->len;
	if (!ret && vmt->region.first == VMT_FIRST_SINCE)
		ret = count_from_here(vmt);
	return ret;
}

/* What has changed, after what was in the last snapshot if not all of that was fetched. */
static int read_changes(struct vmt *vmt, struct vmt_snapshot *snapshot)
{
	const struct vmt_snapshot *before = &vmt->region.rfc.snapshot;
	u64 half = before->done < before->num_chunks ? before->len : 0, initial, dirty;
	bool endless = vmt->region.endless && vmt->state == VFIO_DEVICE_STATE_STOP_COPY;
	int ret;

	vmt_save_estimate(vmt->stream, &initial, &dirty);
	ret = new_snapshot(vmt, snapshot, half + initial + dirty ?: endless);
	if (ret)
		return ret;
	memcpy(snapshot->bytes, before->bytes, half);
	vmt_pull(vmt->stream, snapshot->bytes + half, initial + dirty);
	return 0;
}

static int take_snapshot(struct vmt *vmt, u64 *len)
{
	struct vmt_rfc *rfc = &vmt->region.rfc;
	struct vmt_snapshot snapshot = {};
	int ret = vmt_check_fault(vmt, VMT_OP_PRECOPY_INFO);

	if (ret)
		return ret;
	if (!chunk_len(vmt) || rfc_of(vmt->state) == ~0u || (is_logging(vmt) && !vmt_is_saving(vmt)))
		return -EINVAL;
	vmt_catch_up(vmt);
	ret = is_logging(vmt) ? read_changes(vmt, &snapshot) : read_whole(vmt, &snapshot);
	if (ret) {
		drop_snapshot(&snapshot);
		return ret;
	}
	drop_snapshot(&rfc->snapshot);
	rfc->snapshot = snapshot;
	*len = snapshot.len;
	if (vmt->region.zero_size)
		*len = 0;
	else if (vmt->region.lie == VMT_LIE_HUGE)
		*len = U64_MAX;
	return 0;
}

/* The chunk at `pos`, if one begins there. */
static u8 *chunk_at(struct vmt *vmt, u32 *number, u64 *len)
{
	struct vmt_rfc *rfc = &vmt->region.rfc;
	u64 window = chunk_len(vmt), inside;

	if (!rfc->snapshot.bytes || rfc->pos >= rfc->snapshot.len)
		return NULL;
	*number = div64_u64_rem(rfc->pos, window, &inside);
	*len = min(window, rfc->snapshot.len - rfc->pos);
	return inside ? NULL : rfc->snapshot.bytes + rfc->pos;
}

static int get_chunk(struct vmt *vmt)
{
	struct vmt_snapshot *snapshot = &vmt->region.rfc.snapshot;
	int ret = vmt_check_fault(vmt, VMT_OP_DATA_SIZE);
	u32 number;
	u64 len;
	u8 *chunk;

	if (ret)
		return ret;
	chunk = rfc_of(vmt->state) == ~0u ? NULL : chunk_at(vmt, &number, &len);
	if (!chunk)
		return -EINVAL;
	memcpy(window(vmt, MEMORY)->memory, chunk, len);
	snapshot->done += !__test_and_set_bit(number, snapshot->chunks);
	return 0;
}

static int get_config(struct vmt *vmt)
{
	struct vmt_window *config = window(vmt, CONFIG);
	int ret = vmt_check_fault(vmt, VMT_OP_DATA_SIZE);
	u64 len = config_len(vmt), at = 0, i;

	if (ret)
		return ret;
	/* The size of the state may have been changed since the device was opened. */
	if (rfc_of(vmt->state) == ~0u || len > config->size)
		return -EINVAL;
	vmt_catch_up(vmt);
	if (vmt->region.no_memory) {
		at = vmt_save_whole(vmt);
		ret = vmt_save_all(vmt, config->memory);
	}
	vmt_save_last(vmt, config->memory + at);
	for (i = LAST; i < len - at; i++)
		((u8 *)config->memory)[at + i] = REGISTER(i);
	return ret;
}

/* --- loading ------------------------------------------------------------------------------------ */

/* Something comes for a device that is not being read: from now on it is being loaded. */
static int begin_load(struct vmt *vmt)
{
	if (vmt->state == VFIO_DEVICE_STATE_RESUMING)
		return vmt->region.refused ? -EINVAL : 0;
	if (vmt->state != VFIO_DEVICE_STATE_STOP && vmt->state != VFIO_DEVICE_STATE_RUNNING)
		return -EINVAL;
	vmt->region.rfc.was_running = vmt->state == VFIO_DEVICE_STATE_RUNNING;
	return vmt_region_set_state(vmt, VFIO_DEVICE_STATE_RESUMING);
}

static int take_announced(struct vmt *vmt, u64 len)
{
	struct vmt_rfc *rfc = &vmt->region.rfc;

	if (!len || len > MOST(vmt) || !chunk_len(vmt))
		return -EINVAL;
	/* One that is not complete is void. */
	drop_snapshot(&rfc->snapshot);
	return new_snapshot(vmt, &rfc->snapshot, len);
}

static int take_chunk(struct vmt *vmt, u64 nothing)
{
	struct vmt_rfc *rfc = &vmt->region.rfc;
	int ret = vmt_check_fault(vmt, VMT_OP_WRITE);
	u32 number;
	u64 len;
	u8 *chunk;

	if (ret)
		return ret;
	chunk = chunk_at(vmt, &number, &len);
	if (!chunk || __test_and_set_bit(number, rfc->snapshot.chunks))
		return -EINVAL;
	memcpy(chunk, window(vmt, MEMORY)->memory, len);
	if (++rfc->snapshot.done < rfc->snapshot.num_chunks)
		return 0;
	/* The last of them reports how the whole was taken. */
	ret = vmt_resume_again(vmt->stream, rfc->snapshot.bytes, rfc->snapshot.len);
	ret = ret ?: vmt_push(vmt->stream, rfc->snapshot.bytes, rfc->snapshot.len);
	drop_snapshot(&rfc->snapshot);
	return ret;
}

static int take_config(struct vmt *vmt, u64 nothing)
{
	const u8 *bytes = window(vmt, CONFIG)->memory;
	u64 len = vmt->region.rfc.config_len, state, i;
	int ret = vmt_check_fault(vmt, VMT_OP_WRITE);

	if (ret)
		return ret;
	if (!len || vmt->region.rfc.snapshot.bytes)
		return -EINVAL;
	state = LAST + (vmt->region.no_memory ? vmt_save_whole(vmt) : 0);
	if (len < state)
		return -EINVAL;
	for (i = state; i < len; i++)
		if (bytes[i] != REGISTER(i - state + LAST))
			return -EINVAL;
	ret = vmt_push(vmt->stream, bytes, state);
	return ret ?: vmt->stream->complete ? 0 : -EINVAL;
}

/* Runs `take` on a device that is being loaded, or begins to be. */
static int taking(struct vmt *vmt, int (*take)(struct vmt *vmt, u64 value), u64 value)
{
	int ret = begin_load(vmt);

	if (ret)
		return ret;
	vmt_region_lock(vmt);
	/* A reset may have come in between. */
	ret = vmt->state == VFIO_DEVICE_STATE_RESUMING && vmt->stream == vmt->region.stream ? take(vmt, value) :
											      -EINVAL;
	vmt->region.refused |= ret;
	vmt_region_unlock(vmt);
	return ret;
}

static int take_config_size(struct vmt *vmt, u64 len)
{
	if (len < LAST || len > window(vmt, CONFIG)->size)
		return -EINVAL;
	vmt->region.rfc.config_len = len;
	return 0;
}

/* The last of it. */
static int set_config(struct vmt *vmt)
{
	bool runs = vmt->region.rfc.was_running;
	int ret = taking(vmt, take_config, 0);

	if (ret)
		return ret;
	ret = vmt_region_set_state(vmt, runs ? VFIO_DEVICE_STATE_RUNNING : VFIO_DEVICE_STATE_STOP);
	if (!ret && vmt->region.break_loaded)
		vmt_set_broken(vmt);
	return ret;
}

/* --- states ------------------------------------------------------------------------------------- */

static int set_state(struct vmt *vmt, u32 to)
{
	static const u8 states[] = { VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_STOP,
				     VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_STOP_COPY };
	u32 from;
	int ret;

	vmt_region_lock(vmt);
	from = rfc_of(vmt->state);
	vmt_region_unlock(vmt);
	if (to >= ARRAY_SIZE(states) || from == ~0u)
		return -EINVAL;
	if (from == to)
		return 0;
	if (from == (STOP | LOGGING) && to == LOGGING)
		return vmt_run_again(vmt);
	if ((from ^ to) & to & LOGGING) {
		/* Before the first write that must be in it. */
		ret = vmt_log_everything(vmt);
		if (ret)
			return ret;
	}
	ret = vmt_region_set_state(vmt, states[to]);
	vmt_region_lock(vmt);
	if (!is_logging(vmt))
		vmt_log_end(vmt);
	vmt_region_unlock(vmt);
	return ret;
}

/* --- dirty pages -------------------------------------------------------------------------------- */

static int query(struct vmt *vmt, u64 start, u64 pages)
{
	struct vmt_window *bitmap = window(vmt, BITMAP);
	u64 room = bitmap ? bitmap->size / 8 * 64 : 0;

	if (!pages)
		return 0;
	if (!bitmap || start & (PAGE_SIZE - 1) || pages > room || pages > (U64_MAX - start) >> PAGE_SHIFT)
		return -EINVAL;
	memset(bitmap->memory, 0, BITS_TO_LONGS(pages) * sizeof(long));
	return is_logging(vmt) ? vmt_log_take(vmt, start, pages, bitmap->memory) : 0;
}

/* --- fields ------------------------------------------------------------------------------------- */

static int read_field(struct vmt *vmt, u64 at, size_t count, u64 *value)
{
	struct vmt_region *r = &vmt->region;
	bool is_long = at == REG_CONFIG_SIZE || at == REG_MEMORY_SIZE;

	if (count != (is_long ? 8 : 4))
		return -EINVAL;
	switch (at) {
	case REG_VERSION:
		*value = r->lie == VMT_LIE_VERSION ? 2 : 1;
		return vmt_check_fault(vmt, VMT_OP_GET_STATE);
	case REG_CAPS:
		*value = (r->no_memory ? 0 : CAP_DEVICE_MEMORY) | (r->bitmap_bytes ? CAP_SYSTEM_MEMORY : 0) |
			 (r->lie == VMT_LIE_CAPS ? 1u << 9 : 0);
		return vmt_check_fault(vmt, VMT_OP_GET_STATE);
	case REG_CONFIG_SIZE:
		*value = config_len(vmt);
		if (r->lie == VMT_LIE_LENGTH)
			*value = window(vmt, CONFIG)->size + 1;
		return rfc_of(vmt->state) == ~0u ? -EINVAL : vmt_check_fault(vmt, VMT_OP_DATA_SIZE);
	case REG_MEMORY_SIZE:
		return take_snapshot(vmt, value);
	case REG_CAPS + 4:
	case REG_CONFIG_ACTION + 4:
	case REG_MEMORY_ACTION + 4:
		*value = 0;
		return 0;
	default:
		return -EINVAL;
	}
}

static int locked(struct vmt *vmt, int (*get)(struct vmt *vmt))
{
	int ret;

	vmt_region_lock(vmt);
	ret = get(vmt);
	vmt_region_unlock(vmt);
	return ret;
}

static int locked_query(struct vmt *vmt, u64 start, u64 pages)
{
	int ret;

	vmt_region_lock(vmt);
	ret = query(vmt, start, pages);
	vmt_region_unlock(vmt);
	return ret;
}

static int act(struct vmt *vmt, u64 action, int (*get)(struct vmt *vmt), int (*set)(struct vmt *vmt))
{
	return action == GET ? locked(vmt, get) : action == SET ? set(vmt) : -EINVAL;
}

static int set_memory(struct vmt *vmt)
{
	return taking(vmt, take_chunk, 0);
}

static int write_field(struct vmt *vmt, u64 at, size_t count, u64 value, u64 second)
{
	struct vmt_rfc *rfc = &vmt->region.rfc;

	if (at == REG_VERSION || at == REG_CAPS)
		return count == 4 ? -EFAULT : -EINVAL;
	if (count == 16 && at == REG_START_ADDR)
		return locked_query(vmt, value, second);
	if (count == 4) {
		switch (at) {
		case REG_STATE:
			return set_state(vmt, value);
		case REG_CONFIG_ACTION:
			return act(vmt, value, get_config, set_config);
		case REG_MEMORY_ACTION:
			return act(vmt, value, get_chunk, set_memory);
		case REG_CAPS + 4:
		case REG_CONFIG_ACTION + 4:
		case REG_MEMORY_ACTION + 4:
			return 0;
		}
	} else if (count == 8) {
		switch (at) {
		case REG_CONFIG_SIZE:
			return taking(vmt, take_config_size, value);
		case REG_MEMORY_SIZE:
			return taking(vmt, take_announced, value);
		case REG_MEMORY_POS:
			rfc->pos = value;
			return 0;
		case REG_START_ADDR:
			rfc->start_addr = value;
			return 0;
		case REG_PAGE_NR:
			return locked_query(vmt, rfc->start_addr, value);
		}
	}
	return -EINVAL;
}

static ssize_t field(struct vmt *vmt, u32 i, bool write, u64 at, size_t count, __le64 value[2])
{
	u64 number = 0;
	int ret;

	if (READ_ONCE(vmt->state) == VFIO_DEVICE_STATE_ERROR)
		return -EIO;
	if (write) {
		ret = write_field(vmt, at, count, le64_to_cpu(value[0]), le64_to_cpu(value[1]));
	} else {
		vmt_region_lock(vmt);
		ret = read_field(vmt, at, count, &number);
		value[0] = cpu_to_le64(number);
		vmt_region_unlock(vmt);
	}
	return ret ?: count;
}

const struct vmt_region_ops vmt_rfc_ops = {
	.describe = describe,
	.field = field,
	.takes_data = takes_data,
	.begin = begin,
	.forget = forget,
};
