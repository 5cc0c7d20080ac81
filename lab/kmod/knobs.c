// SPDX-License-Identifier: GPL-2.0
/*
 * The directory "test" of each device in sysfs: what it does, how it fails, and what it did.
 */
#include <linux/kstrtox.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "vfiomig-test.h"

/* Lines in one write, which has at most a page. */
#define MAX_LINES 128

static struct vmt *vmt_of_dev(struct device *dev)
{
	return dev_get_drvdata(dev);
}

/* --- numbers ------------------------------------------------------------------------------------ */

struct number {
	struct device_attribute attr;
	size_t offset;
	u64 max;
};

static u64 *number_of(struct device *dev, struct device_attribute *attr, u64 *max)
{
	const struct number *number = container_of(attr, struct number, attr);

	*max = number->max;
	return (u64 *)((char *)vmt_of_dev(dev) + number->offset);
}

static ssize_t number_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	u64 max, value;

	mutex_lock(&vmt->lock);
	value = *number_of(dev, attr, &max);
	mutex_unlock(&vmt->lock);
	return sysfs_emit(buf, "%llu\n", value);
}

static ssize_t number_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);
	u64 value, max, *to = number_of(dev, attr, &max);
	int ret = kstrtou64(buf, 0, &value);

	if (ret)
		return ret;
	if (value > max)
		return -EINVAL;
	mutex_lock(&vmt->lock);
	/* The time until now passed at the old rate. */
	vmt_catch_up(vmt);
	*to = value;
	vmt->reading.ready_ns = vmt->writing.ready_ns = 0;
	mutex_unlock(&vmt->lock);
	wake_up_all(&vmt->wait);
	return count;
}

#define NUMBER_AT(name, field, limit) \
	static struct number number_##name = { \
		.attr = __ATTR(name, 0644, number_show, number_store), \
		.offset = offsetof(struct vmt, field), \
		.max = limit, \
	}
#define NUMBER(name, limit) NUMBER_AT(name, name, limit)

NUMBER(initial_size, U64_MAX);
NUMBER(dirty_rate, VMT_MAX_RATE);
NUMBER_AT(read_rate, reading.rate, VMT_MAX_RATE);
NUMBER_AT(write_rate, writing.rate, VMT_MAX_RATE);
NUMBER_AT(max_read, reading.max, U64_MAX);
NUMBER_AT(max_write, writing.max, U64_MAX);
NUMBER(drained, 133);
NUMBER(corrupt, U64_MAX);
NUMBER(fail_to_error, 1);
NUMBER(log_max_ranges, U32_MAX);
NUMBER(log_limit_ranges, U32_MAX);
NUMBER(log_limit_bytes, U64_MAX);
NUMBER(log_lie, 1);
NUMBER_AT(region_window, region.window_bytes, VMT_MAX_WINDOW);
NUMBER_AT(region_layout, region.layout, VMT_NUM_LAYOUTS - 1);
NUMBER_AT(region_alternate, region.alternate, 1);
NUMBER_AT(region_zero_size, region.zero_size, 1);
NUMBER_AT(region_endless, region.endless, 1);
NUMBER_AT(region_strict, region.strict, 1);
NUMBER_AT(region_mid, region.mid, 1);
NUMBER_AT(region_config, region.config_bytes, SZ_16M);
NUMBER_AT(region_bitmap, region.bitmap_bytes, VMT_MAX_WINDOW);
NUMBER_AT(region_no_memory, region.no_memory, 1);
NUMBER_AT(region_first, region.first, VMT_NUM_FIRSTS - 1);
NUMBER_AT(region_break_loaded, region.break_loaded, 1);
NUMBER_AT(region_lie, region.lie, VMT_NUM_LIES - 1);
#ifdef HAVE_GET_REGION_INFO_CAPS
NUMBER_AT(region_chain, region.chain, VMT_CHAIN_LOOP - 1);
#else
NUMBER_AT(region_chain, region.chain, VMT_CHAIN_LOOP);
#endif

/* --- contents ----------------------------------------------------------------------------------- */

/* Only a device that nobody is migrating can get other contents. */
static int lock_idle(struct vmt *vmt)
{
	mutex_lock(&vmt->state_mutex);
	mutex_lock(&vmt->lock);
	if (!vmt->stream && vmt->state != VFIO_DEVICE_STATE_ERROR)
		return 0;
	mutex_unlock(&vmt->lock);
	vmt_state_unlock(vmt);
	return -EBUSY;
}

static void unlock_idle(struct vmt *vmt)
{
	mutex_unlock(&vmt->lock);
	vmt_state_unlock(vmt);
}

/* A number that gives it other contents. */
static ssize_t idle_store(struct device *dev, const char *buf, size_t count, int (*set)(struct vmt *vmt, u64 value))
{
	struct vmt *vmt = vmt_of_dev(dev);
	u64 value;
	int ret = kstrtou64(buf, 0, &value);

	if (ret)
		return ret;
	ret = lock_idle(vmt);
	if (ret)
		return ret;
	ret = set(vmt, value);
	unlock_idle(vmt);
	return ret ?: count;
}

static ssize_t state_size_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(vmt_of_dev(dev)->size));
}

static ssize_t state_size_store(struct device *dev, struct device_attribute *attr, const char *buf,
				size_t count)
{
	return idle_store(dev, buf, count, vmt_resize);
}
static DEVICE_ATTR_RW(state_size);

static int set_seed(struct vmt *vmt, u64 seed)
{
	vmt->seed = seed;
	vmt_power_on(vmt);
	return 0;
}

static ssize_t seed_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(vmt_of_dev(dev)->seed));
}

static ssize_t seed_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	return idle_store(dev, buf, count, set_seed);
}
static DEVICE_ATTR_RW(seed);

static ssize_t digest_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	u64 digest;

	mutex_lock(&vmt->lock);
	vmt_catch_up(vmt);
	digest = vmt_digest(vmt, &vmt->contents);
	mutex_unlock(&vmt->lock);
	return sysfs_emit(buf, "%016llx\n", digest);
}
static DEVICE_ATTR_RO(digest);

/* The number of enum vfio_device_mig_state. */
static ssize_t state_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	unsigned int state;

	mutex_lock(&vmt->state_mutex);
	state = vmt->state;
	vmt_state_unlock(vmt);
	return sysfs_emit(buf, "%u\n", state);
}
static DEVICE_ATTR_RO(state);

/* "OFFSET LENGTH": the device changes its own state there. */
static ssize_t touch_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);
	unsigned long long offset, length;
	int ret = 0;
	u64 block;

	if (sscanf(buf, "%lli %lli", &offset, &length) != 2)
		return -EINVAL;
	mutex_lock(&vmt->lock);
	if (!vmt->running)
		ret = -EBUSY;
	else if (!length || offset >= vmt->size || length > vmt->size - offset)
		ret = -EINVAL;
	else
		for (block = offset >> VMT_BLOCK_SHIFT; block <= (offset + length - 1) >> VMT_BLOCK_SHIFT; block++)
			vmt_touch(vmt, block);
	mutex_unlock(&vmt->lock);
	wake_up_all(&vmt->wait);
	return ret ?: count;
}
static DEVICE_ATTR_WO(touch);

static ssize_t reinit_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);
	int ret;

	mutex_lock(&vmt->lock);
	ret = vmt_stream_reinit(vmt);
	mutex_unlock(&vmt->lock);
	wake_up_all(&vmt->wait);
	return ret ?: count;
}
static DEVICE_ATTR_WO(reinit);

/* --- times and faults --------------------------------------------------------------------------- */

static ssize_t latency_us_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	int i, len = 0;

	for (i = 0; i < VMT_NUM_STATES; i++)
		len += sysfs_emit_at(buf, len, "%d %llu\n", i, READ_ONCE(vmt->latency_us[i]));
	return len;
}

/* "STATE MICROSECONDS": entering that state takes this long. */
static ssize_t latency_us_store(struct device *dev, struct device_attribute *attr, const char *buf,
				size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);
	unsigned int state;
	u64 us;

	if (sscanf(buf, "%u %llu", &state, &us) != 2 || state >= VMT_NUM_STATES || us > 10 * USEC_PER_SEC)
		return -EINVAL;
	WRITE_ONCE(vmt->latency_us[state], us);
	return count;
}
static DEVICE_ATTR_RW(latency_us);

struct fault_attr {
	struct device_attribute attr;
	enum vmt_op op;
};

static ssize_t fault_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	struct vmt_fault fault;

	spin_lock(&vmt->fault_lock);
	fault = vmt->faults[container_of(attr, struct fault_attr, attr)->op];
	spin_unlock(&vmt->fault_lock);
	if (!fault.error)
		return sysfs_emit(buf, "0\n");
	return sysfs_emit(buf, "%u %u %u\n", fault.nth, fault.error, fault.times);
}

/* "NTH ERRNO [TIMES]", or "0". */
static ssize_t fault_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);
	struct vmt_fault fault = { .times = 1 };
	int n = sscanf(buf, "%u %u %u", &fault.nth, &fault.error, &fault.times);

	if (n == 1 && !fault.nth)
		memset(&fault, 0, sizeof(fault));
	else if (n < 2 || !fault.nth || !fault.error || fault.error > 133)
		return -EINVAL;
	spin_lock(&vmt->fault_lock);
	vmt->faults[container_of(attr, struct fault_attr, attr)->op] = fault;
	spin_unlock(&vmt->fault_lock);
	return count;
}

#define FAULT(name, which) \
	static struct fault_attr fault_##name = { \
		.attr = __ATTR(fail_##name, 0644, fault_show, fault_store), \
		.op = which, \
	}

FAULT(open, VMT_OP_OPEN);
FAULT(set_state, VMT_OP_SET_STATE);
FAULT(get_state, VMT_OP_GET_STATE);
FAULT(data_size, VMT_OP_DATA_SIZE);
FAULT(read, VMT_OP_READ);
FAULT(write, VMT_OP_WRITE);
FAULT(precopy_info, VMT_OP_PRECOPY_INFO);
FAULT(reset, VMT_OP_RESET);
FAULT(log_start, VMT_OP_LOG_START);
FAULT(log_stop, VMT_OP_LOG_STOP);
FAULT(log_report, VMT_OP_LOG_REPORT);
FAULT(access, VMT_OP_ACCESS);

struct span_attr {
	struct device_attribute attr;
	size_t offset;
	u32 error; /* if none is given */
};

static struct vmt_span *span_of(struct device *dev, struct device_attribute *attr)
{
	return (void *)vmt_of_dev(dev) + container_of(attr, struct span_attr, attr)->offset;
}

static ssize_t span_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	struct vmt_span span;

	mutex_lock(&vmt->log_mutex);
	span = *span_of(dev, attr);
	mutex_unlock(&vmt->log_mutex);
	if (!span.error)
		return sysfs_emit(buf, "0\n");
	return sysfs_emit(buf, "%#llx %#llx %u\n", span.start, span.last - span.start + 1, span.error);
}

/* "IOVA LENGTH [ERRNO]", or "0". */
static ssize_t span_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);
	struct vmt_span span = { .error = container_of(attr, struct span_attr, attr)->error };
	unsigned long long iova, length;
	int n = sscanf(buf, "%lli %lli %u", &iova, &length, &span.error);

	if (n == 1 && !iova) {
		span.error = 0;
	} else if (n < 2 || !length || iova + length - 1 < iova || !span.error || span.error > 133) {
		return -EINVAL;
	} else {
		span.start = iova;
		span.last = iova + length - 1;
	}
	mutex_lock(&vmt->log_mutex);
	*span_of(dev, attr) = span;
	mutex_unlock(&vmt->log_mutex);
	return count;
}

#define SPAN(name, field, otherwise) \
	static struct span_attr span_##name = { \
		.attr = __ATTR(name, 0644, span_show, span_store), \
		.offset = offsetof(struct vmt, log.field), \
		.error = otherwise, \
	}

SPAN(log_refuse, refuse, EINVAL);
SPAN(fail_log_report_at, fail_report, EIO);

/* --- DMA ---------------------------------------------------------------------------------------- */

static ssize_t log_page_size_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(vmt_of_dev(dev)->log_page_size));
}

static ssize_t log_page_size_store(struct device *dev, struct device_attribute *attr, const char *buf,
				   size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);
	u64 value;
	int ret = kstrtou64(buf, 0, &value);

	if (ret)
		return ret;
	if (value < 4096 || value > 1ull << 40 || value & (value - 1))
		return -EINVAL;
	WRITE_ONCE(vmt->log_page_size, value);
	return count;
}
static DEVICE_ATTR_RW(log_page_size);

/* Lines "IOVA LENGTH [STRIDE]". */
static int each_line(struct vmt *vmt, const char *buf,
		     int (*take)(struct vmt *vmt, u64 iova, u64 length, u64 stride))
{
	int ret, lines = 0;

	for (; *buf; buf += *buf == '\n') {
		const char *end = strchrnul(buf, '\n');
		unsigned long long iova, length, stride = 0;
		char line[80];

		/* A copy, because sscanf() would read on into the next line. */
		if (end - buf >= sizeof(line) || ++lines > MAX_LINES)
			return -EINVAL;
		memcpy(line, buf, end - buf);
		line[end - buf] = 0;
		buf = end;
		if (sscanf(line, "%lli %lli %lli", &iova, &length, &stride) < 2)
			return -EINVAL;
		ret = take(vmt, iova, length, stride);
		if (ret)
			return ret;
	}
	return 0;
}

static ssize_t log_mark_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	return each_line(vmt_of_dev(dev), buf, vmt_log_mark) ?: count;
}
static DEVICE_ATTR_WO(log_mark);

struct dma_job {
	struct work_struct work;
	struct vmt *vmt;
	u64 iova, length;
	int ret;
};

static void dma_job_run(struct work_struct *work)
{
	static u8 data[4096];
	struct dma_job *job = container_of(work, struct dma_job, work);
	u64 from = job->iova, left = job->length;

	mutex_lock(&job->vmt->open_mutex);
	if (!job->vmt->open)
		job->ret = -ENODEV;
	memset(data, 0xd5, sizeof(data));
	while (left && !job->ret) {
		u64 n = min_t(u64, left, sizeof(data) - (from & (sizeof(data) - 1)));

		job->ret = vfio_dma_rw(&job->vmt->vdev, from, data, n, true);
		from += n;
		left -= n;
	}
	mutex_unlock(&job->vmt->open_mutex);
}

/*
 * Writes 0xd5 into the memory of whoever has the device open, and logs that. By a kernel thread:
 * through VFIO, a process may write only to memory of its own, and this one is seldom the VMM.
 */
static int dma_write(struct vmt *vmt, u64 iova, u64 length, u64 stride)
{
	struct dma_job job = { .vmt = vmt, .iova = iova, .length = length };

	if (!length || iova + length - 1 < iova || length > SZ_1G || stride)
		return -EINVAL;
	INIT_WORK_ONSTACK(&job.work, dma_job_run);
	queue_work(system_unbound_wq, &job.work);
	flush_work(&job.work);
	destroy_work_on_stack(&job.work);
	/* All of it even if only a part was written: more is allowed, less is not. */
	return vmt_log_mark(vmt, iova, length, 0) ?: job.ret;
}

static ssize_t dma_write_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	return each_line(vmt_of_dev(dev), buf, dma_write) ?: count;
}
static DEVICE_ATTR_WO(dma_write);

static ssize_t log_load_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	const struct vmt_load *load = &vmt->load;
	int len;

	mutex_lock(&vmt->open_mutex);
	if (load->length)
		len = sysfs_emit(buf, "%#llx %#llx %llu %llu\n", load->iova, load->length, load->rate, load->seed);
	else
		len = sysfs_emit(buf, "0\n");
	mutex_unlock(&vmt->open_mutex);
	return len;
}

/* "IOVA LENGTH PAGES_PER_SECOND SEED", or "0". */
static ssize_t log_load_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);
	unsigned long long iova, length, rate, seed;
	int n = sscanf(buf, "%lli %lli %llu %llu", &iova, &length, &rate, &seed), ret = 0;

	if (n != 4 && (n != 1 || iova))
		return -EINVAL;
	mutex_lock(&vmt->open_mutex);
	if (n == 1)
		vmt_load_stop(vmt);
	else
		ret = vmt_load_start(vmt, iova, length, rate, seed);
	mutex_unlock(&vmt->open_mutex);
	return ret ?: count;
}
static DEVICE_ATTR_RW(log_load);

/* Older kernels have no const in one or both of these places. */
#ifndef BIN_READ_CONST
#define BIN_READ_CONST
#endif
#ifndef BIN_ATTRS_CONST
#define BIN_ATTRS_CONST
#endif

static ssize_t log_truth_read(struct file *file, struct kobject *kobj, BIN_READ_CONST struct bin_attribute *attr,
			      char *buf, loff_t offset, size_t count)
{
	return vmt_truth_read(vmt_of_dev(kobj_to_dev(kobj)), buf, offset, count);
}

/* "0" clears it. */
static ssize_t log_truth_write(struct file *file, struct kobject *kobj, BIN_READ_CONST struct bin_attribute *attr,
			       char *buf, loff_t offset, size_t count)
{
	if (offset || buf[0] != '0' || count > 2 || (count == 2 && buf[1] != '\n'))
		return -EINVAL;
	vmt_truth_clear(vmt_of_dev(kobj_to_dev(kobj)));
	return count;
}

static BIN_ATTRS_CONST struct bin_attribute bin_attr_log_truth = {
	.attr = { .name = "log_truth", .mode = 0644 },
	.read = log_truth_read,
	.write = log_truth_write,
};

static ssize_t pin_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	return each_line(vmt_of_dev(dev), buf, vmt_pin) ?: count;
}
static DEVICE_ATTR_WO(pin);

/* Lines "IOVA LENGTH", or "0" for all. */
static ssize_t unpin_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vmt *vmt = vmt_of_dev(dev);

	if (sysfs_streq(buf, "0"))
		return vmt_unpin(vmt, 0, U64_MAX, 0) ?: count;
	return each_line(vmt, buf, vmt_unpin) ?: count;
}
static DEVICE_ATTR_WO(unpin);

static ssize_t pinned_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(vmt_of_dev(dev)->pins.count));
}
static DEVICE_ATTR_RO(pinned);

/* What was asked for, and what is logged and not reported yet. */
static ssize_t log_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	const struct vmt_log *log = &vmt->log;
	int len;

	mutex_lock(&vmt->log_mutex);
	len = sysfs_emit(buf, "active %d\npage_size %llu\nranges %u\npages %llu\nlost %d\ntruth_pages %llu\n",
			 log->active, log->active ? log->page_size : 0, log->num_ranges, log->pages, -log->lost,
			 vmt_truth_pages(log));
	mutex_unlock(&vmt->log_mutex);
	return len;
}
static DEVICE_ATTR_RO(log);

/* --- what happened ------------------------------------------------------------------------------ */

static ssize_t counters_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vmt *vmt = vmt_of_dev(dev);
	const struct vmt_counters *c = &vmt->counters;
	int len = 0;

#define COUNTER_AT(name, field) (len += sysfs_emit_at(buf, len, #name " %llu\n", READ_ONCE(field)))
#define COUNTER(name) COUNTER_AT(name, c->name)
	COUNTER_AT(reads, vmt->reading.calls);
	COUNTER_AT(read_bytes, vmt->reading.bytes);
	COUNTER_AT(writes, vmt->writing.calls);
	COUNTER_AT(write_bytes, vmt->writing.bytes);
	COUNTER(precopy_infos);
	COUNTER(arcs);
	COUNTER(resets);
	COUNTER(deferred_resets);
	COUNTER(touched);
	COUNTER(faults);
	COUNTER(log_starts);
	COUNTER(log_reports);
	COUNTER(log_marked);
	COUNTER(log_outside);
	COUNTER(log_reported);
	COUNTER(unmaps);
	COUNTER(unmap_unpinned);
	COUNTER_AT(load_writes, vmt->load.writes);
#undef COUNTER
#undef COUNTER_AT
	return len;
}
static DEVICE_ATTR_RO(counters);

static struct attribute *vmt_attrs[] = {
	&dev_attr_state_size.attr,
	&dev_attr_seed.attr,
	&dev_attr_digest.attr,
	&dev_attr_state.attr,
	&dev_attr_touch.attr,
	&dev_attr_reinit.attr,
	&dev_attr_latency_us.attr,
	&dev_attr_log_page_size.attr,
	&dev_attr_log_mark.attr,
	&dev_attr_dma_write.attr,
	&dev_attr_log.attr,
	&dev_attr_log_load.attr,
	&dev_attr_pin.attr,
	&dev_attr_unpin.attr,
	&dev_attr_pinned.attr,
	&dev_attr_counters.attr,
	&number_initial_size.attr.attr,
	&number_dirty_rate.attr.attr,
	&number_read_rate.attr.attr,
	&number_write_rate.attr.attr,
	&number_max_read.attr.attr,
	&number_max_write.attr.attr,
	&number_drained.attr.attr,
	&number_corrupt.attr.attr,
	&number_fail_to_error.attr.attr,
	&number_log_max_ranges.attr.attr,
	&number_log_limit_ranges.attr.attr,
	&number_log_limit_bytes.attr.attr,
	&number_log_lie.attr.attr,
	&number_region_window.attr.attr,
	&number_region_layout.attr.attr,
	&number_region_alternate.attr.attr,
	&number_region_zero_size.attr.attr,
	&number_region_endless.attr.attr,
	&number_region_strict.attr.attr,
	&number_region_mid.attr.attr,
	&number_region_config.attr.attr,
	&number_region_bitmap.attr.attr,
	&number_region_no_memory.attr.attr,
	&number_region_first.attr.attr,
	&number_region_break_loaded.attr.attr,
	&number_region_lie.attr.attr,
	&number_region_chain.attr.attr,
	&span_log_refuse.attr.attr,
	&span_fail_log_report_at.attr.attr,
	&fault_open.attr.attr,
	&fault_set_state.attr.attr,
	&fault_get_state.attr.attr,
	&fault_data_size.attr.attr,
	&fault_read.attr.attr,
	&fault_write.attr.attr,
	&fault_precopy_info.attr.attr,
	&fault_reset.attr.attr,
	&fault_log_start.attr.attr,
	&fault_log_stop.attr.attr,
	&fault_log_report.attr.attr,
	&fault_access.attr.attr,
	NULL,
};

static BIN_ATTRS_CONST struct bin_attribute *BIN_ATTRS_CONST vmt_bin_attrs[] = {
	&bin_attr_log_truth,
	NULL,
};

static const struct attribute_group vmt_group = {
	.name = "test",
	.attrs = vmt_attrs,
	.bin_attrs = vmt_bin_attrs,
};

const struct attribute_group *vmt_groups[] = { &vmt_group, NULL };
