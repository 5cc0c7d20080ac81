// SPDX-License-Identifier: GPL-2.0
/*
 * DMA logging: which pages the device wrote to, within the ranges that were asked for. Pages are
 * kept in units of 4 KiB, whatever page size was chosen, so that a report of part of a larger page
 * neither loses the rest nor reports it twice.
 */
#include <linux/bitmap.h>
#include <linux/interval_tree.h>
#include <linux/iova_bitmap.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "vfiomig-test.h"

#define CHUNK_UNITS 32768u /* a bitmap of 4 KiB, for 128 MiB of addresses */
#define CHUNK_SHIFT (VMT_UNIT_SHIFT + 15)
#define MAX_CHUNKS 32768u /* 128 MiB of bitmaps, for 4 TiB of addresses */
#define MAX_MARKS (1u << 24) /* pages in one write */

struct vmt_log_range {
	u64 start, last;
};

void vmt_log_init(struct vmt *vmt)
{
	mutex_init(&vmt->log_mutex);
	xa_init(&vmt->log.chunks);
}

static void log_clear(struct vmt_log *log)
{
	unsigned long *chunk;
	unsigned long index;

	xa_for_each(&log->chunks, index, chunk)
		kfree(chunk);
	xa_destroy(&log->chunks);
	kvfree(log->ranges);
	log->ranges = NULL;
	log->num_ranges = log->num_chunks = 0;
	log->pages = 0;
	log->lost = 0;
	log->active = false;
}

void vmt_log_end(struct vmt *vmt)
{
	mutex_lock(&vmt->log_mutex);
	log_clear(&vmt->log);
	mutex_unlock(&vmt->log_mutex);
}

static int vmt_log_start(struct vfio_device *vdev, struct rb_root_cached *ranges, u32 num, u64 *page_size)
{
	struct vmt *vmt = vmt_of(vdev);
	struct vmt_log *log = &vmt->log;
	struct interval_tree_node *node;
	u64 size = *page_size, max_ranges, limit_ranges, limit_bytes, bytes = 0;
	int ret = 0;

	mutex_lock(&vmt->lock);
	/* The kernel checks neither whether it is a power of two nor how large it is. */
	if (size > 1ull << 62 || !size)
		size = 0;
	else
		size = max_t(u64, roundup_pow_of_two(size), vmt->log_page_size);
	max_ranges = vmt->log_max_ranges;
	limit_ranges = vmt->log_limit_ranges;
	limit_bytes = vmt->log_limit_bytes;
	mutex_unlock(&vmt->lock);

	mutex_lock(&vmt->log_mutex);
	vmt->counters.log_starts++;
	ret = vmt_check_fault(vmt, VMT_OP_LOG_START);
	if (ret)
		goto out;
	if (!size || !num || log->active) {
		ret = -EINVAL;
		goto out;
	}
	for (node = interval_tree_iter_first(ranges, 0, ULONG_MAX); node;
	     node = interval_tree_iter_next(node, 0, ULONG_MAX))
		bytes += node->last - node->start + 1;
	if (limit_ranges && num > limit_ranges)
		ret = -E2BIG;
	else if (log->refuse.error && interval_tree_iter_first(ranges, log->refuse.start, log->refuse.last))
		ret = -(int)log->refuse.error;
	else if (limit_bytes && bytes > limit_bytes)
		ret = -ENOMEM;
	if (ret) {
		vmt->counters.faults++;
		goto out;
	}
	if (max_ranges && num > max_ranges) {
		vfio_combine_iova_ranges(ranges, num, max_ranges);
		num = max_ranges;
	}
	log->ranges = kvcalloc(num, sizeof(*log->ranges), GFP_KERNEL_ACCOUNT);
	if (!log->ranges) {
		ret = -ENOMEM;
		goto out;
	}
	log->num_ranges = 0;
	for (node = interval_tree_iter_first(ranges, 0, ULONG_MAX); node && log->num_ranges < num;
	     node = interval_tree_iter_next(node, 0, ULONG_MAX)) {
		/* The kernel lets empty ranges pass, which end before they begin. */
		if (node->last < node->start)
			continue;
		log->ranges[log->num_ranges].start = node->start;
		log->ranges[log->num_ranges++].last = node->last;
	}
	log->page_size = size;
	log->active = true;
	*page_size = size;
out:
	mutex_unlock(&vmt->log_mutex);
	return ret;
}

static int vmt_log_stop(struct vfio_device *vdev)
{
	struct vmt *vmt = vmt_of(vdev);
	int ret = vmt_check_fault(vmt, VMT_OP_LOG_STOP);

	if (!ret)
		vmt_log_end(vmt);
	return ret;
}

/* Units first to last of one range, all within it. */
static int log_set(struct vmt_log *log, u64 first, u64 last)
{
	while (first <= last) {
		unsigned long index = first / CHUNK_UNITS;
		unsigned int from = first % CHUNK_UNITS;
		unsigned int n = min_t(u64, CHUNK_UNITS - from, last - first + 1);
		unsigned long *chunk = xa_load(&log->chunks, index);

		if (!chunk) {
			int ret;

			if (log->num_chunks >= MAX_CHUNKS)
				return -ENOSPC;
			chunk = kzalloc(CHUNK_UNITS / 8, GFP_KERNEL_ACCOUNT);
			if (!chunk)
				return -ENOMEM;
			ret = xa_insert(&log->chunks, index, chunk, GFP_KERNEL_ACCOUNT);
			if (ret) {
				kfree(chunk);
				return ret;
			}
			log->num_chunks++;
		}
		if (n == 1) {
			log->pages += !__test_and_set_bit(from, chunk);
		} else {
			log->pages -= bitmap_weight(chunk, CHUNK_UNITS);
			bitmap_set(chunk, from, n);
			log->pages += bitmap_weight(chunk, CHUNK_UNITS);
		}
		first += n;
	}
	return 0;
}

/* --- the truth ---------------------------------------------------------------------------------- */

int vmt_truth_begin(struct vmt *vmt, u64 iova, u64 length)
{
	u64 units = length >> VMT_UNIT_SHIFT;
	unsigned long *truth = kvcalloc(BITS_TO_LONGS(units), sizeof(long), GFP_KERNEL_ACCOUNT);
	struct vmt_log *log = &vmt->log;

	if (!truth)
		return -ENOMEM;
	mutex_lock(&vmt->log_mutex);
	swap(log->truth, truth);
	log->truth_first = iova >> VMT_UNIT_SHIFT;
	log->truth_units = units;
	mutex_unlock(&vmt->log_mutex);
	kvfree(truth);
	return 0;
}

void vmt_truth_clear(struct vmt *vmt)
{
	mutex_lock(&vmt->log_mutex);
	if (vmt->log.truth)
		bitmap_zero(vmt->log.truth, vmt->log.truth_units);
	mutex_unlock(&vmt->log_mutex);
}

void vmt_truth_end(struct vmt *vmt)
{
	kvfree(vmt->log.truth);
}

u64 vmt_truth_pages(const struct vmt_log *log)
{
	return log->truth ? bitmap_weight(log->truth, log->truth_units) : 0;
}

ssize_t vmt_truth_read(struct vmt *vmt, void *to, u64 offset, size_t len)
{
	struct vmt_log *log = &vmt->log;
	u64 size;

	mutex_lock(&vmt->log_mutex);
	size = log->truth ? DIV_ROUND_UP_ULL(log->truth_units, 8) : 0;
	len = offset < size ? min_t(u64, len, size - offset) : 0;
	if (len)
		memcpy(to, (char *)log->truth + offset, len);
	mutex_unlock(&vmt->log_mutex);
	return len;
}

static void truth_set(struct vmt_log *log, u64 first, u64 last)
{
	if (!log->truth || last < log->truth_first || first >= log->truth_first + log->truth_units)
		return;
	first = max(first, log->truth_first) - log->truth_first;
	last = min(last - log->truth_first, log->truth_units - 1);
	bitmap_set(log->truth, first, last - first + 1);
}

/* --- writes and reports ------------------------------------------------------------------------- */

/* The device wrote to these bytes: marks the pages, as far as they are in a range. */
static int log_write(struct vmt *vmt, u64 start, u64 last)
{
	struct vmt_log *log = &vmt->log;
	bool logged = false;
	int ret = 0;
	u32 i;

	truth_set(log, start >> VMT_UNIT_SHIFT, last >> VMT_UNIT_SHIFT);
	for (i = 0; i < log->num_ranges && !ret; i++) {
		const struct vmt_log_range *range = &log->ranges[i];
		u64 from = max(start, range->start), to = min(last, range->last);

		if (from > to)
			continue;
		/* All of a page, but nothing beyond what was asked for. */
		from = max(from & ~(log->page_size - 1), range->start);
		to = min(to | (log->page_size - 1), range->last);
		ret = log_set(log, from >> VMT_UNIT_SHIFT, to >> VMT_UNIT_SHIFT);
		logged = true;
	}
	if (logged)
		vmt->counters.log_marked++;
	else
		vmt->counters.log_outside++;
	return ret;
}

int vmt_log_mark(struct vmt *vmt, u64 iova, u64 length, u64 stride)
{
	u64 last = iova + length - 1;
	int ret = 0;

	if (!length || last < iova)
		return -EINVAL;
	if (stride && (stride < 1u << VMT_UNIT_SHIFT || div64_u64(length, stride) > MAX_MARKS))
		return -EINVAL;
	mutex_lock(&vmt->log_mutex);
	if (!stride) {
		ret = log_write(vmt, iova, last);
	} else {
		for (;;) {
			ret = log_write(vmt, iova, iova);
			if (ret || last - iova < stride)
				break;
			iova += stride;
			if (signal_pending(current)) {
				ret = -EINTR;
				break;
			}
			cond_resched();
		}
	}
	mutex_unlock(&vmt->log_mutex);
	return ret;
}

/* A write that cannot be reported, because there is no memory to keep it in. */
void vmt_log_load(struct vmt *vmt, u64 iova)
{
	int ret;

	mutex_lock(&vmt->log_mutex);
	ret = log_write(vmt, iova, iova);
	if (ret)
		vmt->log.lost = ret;
	mutex_unlock(&vmt->log_mutex);
}

/* Has each run of dirty pages in a range told, and forgets them. */
static int log_take(struct vmt *vmt, u64 iova, u64 length, void (*tell)(void *bitmap, u64 start, u64 length),
		    void *bitmap)
{
	struct vmt_log *log = &vmt->log;
	u64 first = iova >> VMT_UNIT_SHIFT, last = (iova + length - 1) >> VMT_UNIT_SHIFT;
	const struct vmt_span *fail = &log->fail_report;
	unsigned long index, *chunk;
	int ret, in_the_end = 0;

	mutex_lock(&vmt->log_mutex);
	vmt->counters.log_reports++;
	ret = log->active && length ? vmt_check_fault(vmt, VMT_OP_LOG_REPORT) : -EINVAL;
	ret = ret ?: log->lost;
	if (ret)
		goto out;
	if (fail->error && iova <= fail->last && iova + length - 1 >= fail->start) {
		vmt->counters.faults++;
		in_the_end = -(int)fail->error;
		/* What comes before that has been read and is gone, as with a device that fails midway. */
		if (first >= fail->start >> VMT_UNIT_SHIFT)
			goto out;
		last = (fail->start >> VMT_UNIT_SHIFT) - 1;
	}
	xa_for_each_range(&log->chunks, index, chunk, first / CHUNK_UNITS, last / CHUNK_UNITS) {
		u64 base = (u64)index * CHUNK_UNITS;
		unsigned int from = first > base ? first - base : 0;
		unsigned int end = min_t(u64, CHUNK_UNITS, last - base + 1);

		while ((from = find_next_bit(chunk, end, from)) < end) {
			unsigned int to = find_next_zero_bit(chunk, end, from);
			u64 start = max_t(u64, (base + from) << VMT_UNIT_SHIFT, iova);
			u64 stop = min_t(u64, ((base + to) << VMT_UNIT_SHIFT) - 1, iova + length - 1);

			/* Nothing beyond the range: iova_bitmap_set() would write there. */
			if (!READ_ONCE(vmt->log_lie))
				tell(bitmap, start, stop - start + 1);
			bitmap_clear(chunk, from, to - from);
			log->pages -= to - from;
			vmt->counters.log_reported += to - from;
			from = to;
		}
	}
out:
	mutex_unlock(&vmt->log_mutex);
	return ret ?: in_the_end;
}

static void tell_kernel(void *bitmap, u64 start, u64 length)
{
	iova_bitmap_set(bitmap, start, length);
}

static int vmt_log_read_and_clear(struct vfio_device *vdev, unsigned long iova, unsigned long length,
				  struct iova_bitmap *dirty)
{
	return log_take(vmt_of(vdev), iova, length, tell_kernel, dirty);
}

/* --- the log of a device of the RFC, which is of all addresses ------------------------------------ */

int vmt_log_everything(struct vmt *vmt)
{
	struct vmt_log_range *all = kvzalloc(sizeof(*all), GFP_KERNEL_ACCOUNT);
	struct vmt_log *log = &vmt->log;

	if (!all)
		return -ENOMEM;
	all->last = U64_MAX;
	mutex_lock(&vmt->log_mutex);
	log_clear(log);
	vmt->counters.log_starts++;
	log->ranges = all;
	log->num_ranges = 1;
	log->page_size = 1u << VMT_UNIT_SHIFT;
	log->active = true;
	mutex_unlock(&vmt->log_mutex);
	return 0;
}

struct plain_bitmap {
	unsigned long *bits;
	u64 start;
};

static void tell_plainly(void *to, u64 start, u64 length)
{
	const struct plain_bitmap *bitmap = to;

	bitmap_set(bitmap->bits, (start - bitmap->start) >> VMT_UNIT_SHIFT, length >> VMT_UNIT_SHIFT);
}

int vmt_log_take(struct vmt *vmt, u64 iova, u64 pages, unsigned long *bits)
{
	struct plain_bitmap bitmap = { bits, iova };

	return log_take(vmt, iova, pages << VMT_UNIT_SHIFT, tell_plainly, &bitmap);
}

const struct vfio_log_ops vmt_log_ops = {
	.log_start = vmt_log_start,
	.log_stop = vmt_log_stop,
	.log_read_and_clear = vmt_log_read_and_clear,
};
