// SPDX-License-Identifier: GPL-2.0
/*
 * A device at work: a thread that writes to one pseudo-random page after another, and a record of
 * all of them that does not depend on what is logged. Comparing both shows what was lost.
 */
#include <linux/bitmap.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "vfiomig-test.h"

#define BATCH 64u
#define MAX_LATE_NS (200 * NSEC_PER_MSEC)

void vmt_load_init(struct vmt *vmt)
{
	mutex_init(&vmt->load.mutex);
}

/* Makes up to a batch of the writes that are due; returns what is left. */
static u64 work_off(struct vmt *vmt)
{
	struct vmt_load *load = &vmt->load;
	u64 now, elapsed, due, i;

	mutex_lock(&load->mutex);
	now = ktime_get_ns();
	elapsed = now - load->done_ns;
	if (!vmt->running) {
		load->done_ns = now;
		mutex_unlock(&load->mutex);
		return 0;
	}
	if (elapsed > MAX_LATE_NS) {
		/* What the machine cannot keep up with is left out. */
		elapsed = MAX_LATE_NS;
		load->done_ns = now - elapsed;
	}
	due = div64_u64(elapsed * load->rate, NSEC_PER_SEC);
	now = min_t(u64, due, BATCH);
	for (i = 0; i < now; i++) {
		u64 page;

		div64_u64_rem(vmt_mix(load->seed + load->writes * 0x9e3779b97f4a7c15ull),
			      load->length >> VMT_UNIT_SHIFT, &page);
		vmt_log_load(vmt, load->iova + (page << VMT_UNIT_SHIFT));
		load->writes++;
	}
	load->done_ns += div64_u64(now * NSEC_PER_SEC, load->rate);
	mutex_unlock(&load->mutex);
	return due - now;
}

static int load_thread(void *data)
{
	struct vmt *vmt = data;

	while (!kthread_should_stop()) {
		if (work_off(vmt))
			cond_resched();
		else
			schedule_timeout_interruptible(1);
	}
	return 0;
}

/* With open_mutex held, because the thread must be gone when the device is closed. */
void vmt_load_stop(struct vmt *vmt)
{
	lockdep_assert_held(&vmt->open_mutex);
	if (vmt->load.task)
		kthread_stop(vmt->load.task);
	vmt->load.task = NULL;
	vmt->load.length = 0;
}

int vmt_load_start(struct vmt *vmt, u64 iova, u64 length, u64 rate, u64 seed)
{
	struct task_struct *task;
	int ret;

	lockdep_assert_held(&vmt->open_mutex);
	if (!length || (iova | length) & ((1u << VMT_UNIT_SHIFT) - 1) || iova + length - 1 < iova ||
	    length > VMT_MAX_TRUTH || rate > VMT_MAX_LOAD)
		return -EINVAL;
	if (!vmt->open)
		return -ENODEV;
	vmt_load_stop(vmt);
	ret = vmt_truth_begin(vmt, iova, length);
	if (ret)
		return ret;
	vmt->load.iova = iova;
	vmt->load.length = length;
	vmt->load.rate = rate;
	vmt->load.seed = seed;
	vmt->load.writes = 0;
	vmt->load.done_ns = ktime_get_ns();
	if (!rate)
		return 0;
	task = kthread_run(load_thread, vmt, "vfiomig-test-load");
	if (IS_ERR(task)) {
		vmt->load.length = 0;
		return PTR_ERR(task);
	}
	vmt->load.task = task;
	return 0;
}
