// SPDX-License-Identifier: GPL-2.0
/*
 * The data streams as files. A stream outlives what it belongs to (user space may keep the fd): it
 * holds a reference to the device, and is dead from then on.
 */
#include <linux/anon_inodes.h>
#include <linux/bitmap.h>
#include <linux/file.h>
#include <linux/hrtimer.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "regions.h"

/* How often a poll is repeated while a rate decides whether there is anything. */
#define TICK_MS 10
/* With a throttle, one transfer is at most what passes in this part of a second. */
#define SLICES 50

/* --- throttles ---------------------------------------------------------------------------------- */

static struct vmt_flow *flow_of(const struct vmt_stream *s)
{
	return s->saving ? &s->vmt->reading : &s->vmt->writing;
}

static u64 wait_ns(const struct vmt_flow *flow)
{
	u64 now = ktime_get_ns();

	return flow->rate && flow->ready_ns > now ? flow->ready_ns - now : 0;
}

static void charge(struct vmt_flow *flow, u64 bytes)
{
	u64 now = ktime_get_ns();

	if (flow->rate)
		flow->ready_ns = max(flow->ready_ns, now) + div64_u64(bytes * NSEC_PER_SEC, flow->rate);
}

/*
 * Waits until the throttle lets a transfer pass, and takes `lock` for it. 0, or an errno with `lock`
 * not held.
 */
static int enter(struct vmt_stream *s, const struct vmt_flow *flow, size_t *len)
{
	struct vmt *vmt = s->vmt;

	for (;;) {
		u64 wait;
		int ret;

		mutex_lock(&vmt->lock);
		if (s->dead) {
			mutex_unlock(&vmt->lock);
			return -ENODEV;
		}
		vmt_catch_up(vmt);
		wait = wait_ns(flow);
		/* That there is nothing can be told at once; a poll would wait forever for it. */
		if (!wait || (s->saving && !vmt_save_has_data(s)))
			break;
		mutex_unlock(&vmt->lock);
		if (s->file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		ret = wait_event_interruptible_hrtimeout(vmt->wait, READ_ONCE(s->dead),
							 ns_to_ktime(min_t(u64, wait, NSEC_PER_SEC)));
		if (ret == -ERESTARTSYS)
			return ret;
	}
	if (flow->max)
		*len = min_t(u64, *len, flow->max);
	if (flow->rate)
		*len = min_t(u64, *len, max_t(u64, div64_u64(flow->rate, SLICES), 1));
	/* One call makes at most this much, so that others get the lock. */
	*len = min_t(size_t, *len, 1u << 20);
	return 0;
}

/* --- the files ---------------------------------------------------------------------------------- */

/* Reads from a saving stream, or writes to a resuming one. */
static ssize_t transfer(struct file *file, char __user *to, const char __user *from, size_t len, loff_t *pos)
{
	struct vmt_stream *s = file->private_data;
	struct vmt *vmt = s->vmt;
	struct vmt_flow *flow = flow_of(s);
	size_t done = 0;
	int ret;

	if (pos)
		return -ESPIPE;
	ret = enter(s, flow, &len);
	if (ret)
		return ret;
	flow->calls++;
	ret = vmt_check_fault(vmt, s->saving ? VMT_OP_READ : VMT_OP_WRITE);
	if (ret)
		goto out;
	ret = s->error;
	while (done < len && !ret) {
		u32 there = s->saving ? vmt_save_fill(s) : vmt_resume_room(s);
		size_t n = min_t(size_t, len - done, there);
		u8 *at = s->buf + s->pos;

		if (!n) {
			ret = s->error;
			break;
		}
		if (s->saving ? copy_to_user(to + done, at, n) : copy_from_user(at, from + done, n)) {
			ret = done ? 0 : -EFAULT;
			break;
		}
		s->pos += n;
		done += n;
		if (!s->saving)
			ret = vmt_resume_take(s);
		if (signal_pending(current))
			break;
		cond_resched();
	}
	flow->bytes += done;
	charge(flow, done);
	if (!ret && !done && len && s->saving && !s->stopped)
		ret = -(int)vmt->drained;
	if (!ret)
		ret = done;
out:
	mutex_unlock(&vmt->lock);
	return ret;
}

static ssize_t vmt_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	return transfer(file, to, NULL, len, pos);
}

static ssize_t vmt_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	return transfer(file, NULL, from, len, pos);
}

static __poll_t vmt_poll(struct file *file, poll_table *table)
{
	struct vmt_stream *s = file->private_data;
	struct vmt *vmt = s->vmt;
	__poll_t events = 0;
	bool ready;

	poll_wait(file, &vmt->wait, table);
	mutex_lock(&vmt->lock);
	if (s->dead) {
		events = EPOLLRDHUP | (s->saving ? EPOLLIN | EPOLLRDNORM : EPOLLOUT | EPOLLWRNORM);
	} else if (s->saving) {
		vmt_catch_up(vmt);
		ready = !wait_ns(&vmt->reading) && (s->stopped || vmt_save_has_data(s));
		events = ready ? EPOLLIN | EPOLLRDNORM : 0;
	} else {
		ready = s->error || !wait_ns(&vmt->writing);
		events = ready ? EPOLLOUT | EPOLLWRNORM : 0;
	}
	/* Time alone may make it ready; the tick has it asked again. */
	if (!events && (vmt->dirty_rate || vmt->reading.rate || vmt->writing.rate))
		schedule_delayed_work(&vmt->tick, msecs_to_jiffies(TICK_MS));
	mutex_unlock(&vmt->lock);
	return events;
}

void vmt_tick(struct work_struct *work)
{
	struct vmt *vmt = container_of(to_delayed_work(work), struct vmt, tick);

	wake_up_all(&vmt->wait);
}

static int precopy_args(struct vmt *vmt, unsigned int cmd, unsigned long arg, struct vfio_precopy_info *info)
{
#ifdef HAVE_PRECOPY_INFO_V2
	return vfio_check_precopy_ioctl(&vmt->vdev, cmd, arg, info);
#else
	if (cmd != VFIO_MIG_GET_PRECOPY_INFO)
		return -ENOTTY;
	if (copy_from_user(info, (void __user *)arg, sizeof(*info)))
		return -EFAULT;
	return info->argsz < sizeof(*info) ? -EINVAL : 0;
#endif
}

static long vmt_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vmt_stream *s = file->private_data;
	struct vmt *vmt = s->vmt;
	struct vfio_precopy_info info = {};
	u64 initial, dirty;
	int ret;

	ret = precopy_args(vmt, cmd, arg, &info);
	if (ret)
		return ret;
	mutex_lock(&vmt->lock);
	vmt->counters.precopy_infos++;
	if (s->dead)
		ret = -ENODEV;
	else if (s->stopped)
		ret = -EINVAL;
	else
		ret = vmt_check_fault(vmt, VMT_OP_PRECOPY_INFO);
	if (ret)
		goto out;
	vmt_catch_up(vmt);
	vmt_save_estimate(s, &initial, &dirty);
	info.initial_bytes = initial;
	info.dirty_bytes = dirty;
#ifdef HAVE_PRECOPY_INFO_V2
	if (vmt->vdev.precopy_info_v2 && s->reinit) {
		info.flags |= VFIO_PRECOPY_INFO_REINIT;
		s->reinit = false;
	}
#endif
out:
	mutex_unlock(&vmt->lock);
	if (!ret && copy_to_user((void __user *)arg, &info, sizeof(info)))
		ret = -EFAULT;
	return ret;
}

static void free_stream(struct vmt_stream *s)
{
	kvfree(s->incoming.generation);
	bitmap_free(s->received);
	bitmap_free(s->sent.dirty);
	kvfree(s->buf);
	kfree(s);
}

static int vmt_release_file(struct inode *inode, struct file *file)
{
	struct vmt_stream *s = file->private_data;
	struct vmt *vmt = s->vmt;

	free_stream(s);
	vfio_put_device(&vmt->vdev);
	return 0;
}

static const struct file_operations saving_fops = {
	.owner = THIS_MODULE,
	.read = vmt_read,
	.poll = vmt_poll,
	.unlocked_ioctl = vmt_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.release = vmt_release_file,
};

static const struct file_operations resuming_fops = {
	.owner = THIS_MODULE,
	.write = vmt_write,
	.poll = vmt_poll,
	.release = vmt_release_file,
};

/* One reference to the file is returned, and another one is the device's. */
struct file *vmt_stream_new(struct vmt *vmt, bool saving)
{
	struct vmt_stream *s;
	struct file *file;
	int ret;

	s = kzalloc(sizeof(*s), GFP_KERNEL_ACCOUNT);
	if (!s)
		return ERR_PTR(-ENOMEM);
	s->vmt = vmt;
	s->saving = saving;
	ret = saving ? vmt_save_init(s) : vmt_resume_init(s);
	if (ret) {
		free_stream(s);
		return ERR_PTR(ret);
	}
	file = anon_inode_getfile(saving ? "vfiomig-test-saving" : "vfiomig-test-resuming",
				  saving ? &saving_fops : &resuming_fops, s, saving ? O_RDONLY : O_WRONLY);
	if (IS_ERR(file)) {
		free_stream(s);
		return file;
	}
	/* From here on, closing the file gives this back. */
	get_device(&vmt->vdev.device);
	stream_open(file->f_inode, file);
	s->file = file;
	mutex_lock(&vmt->lock);
	vmt_catch_up(vmt);
	if (saving && vmt->region.ops && vmt->region.ops->begin)
		vmt->region.ops->begin(vmt, s);
	vmt->stream = s;
	vmt->sent = saving ? &s->sent : NULL;
	vmt->reading.ready_ns = vmt->writing.ready_ns = 0;
	if (!saving)
		vmt_power_on(vmt);
	mutex_unlock(&vmt->lock);
	get_file(file);
	return file;
}

void vmt_stream_end(struct vmt *vmt)
{
	struct vmt_stream *s;

	mutex_lock(&vmt->lock);
	s = vmt->stream;
	vmt->stream = NULL;
	vmt->sent = NULL;
	if (s)
		WRITE_ONCE(s->dead, true);
	mutex_unlock(&vmt->lock);
	if (!s)
		return;
	wake_up_all(&vmt->wait);
	fput(s->file);
}

/* From pre-copy to stop-copy: whatever has not been sent, or not since it changed, is still to come. */
void vmt_stream_stop(struct vmt *vmt)
{
	struct vmt_stream *s;

	mutex_lock(&vmt->lock);
	s = vmt->stream;
	if (s) {
		s->stopped = true;
		s->initial_blocks = vmt->num_blocks;
	}
	mutex_unlock(&vmt->lock);
	wake_up_all(&vmt->wait);
}

int vmt_stream_commit(struct vmt *vmt)
{
	struct vmt_stream *s;
	int ret = -EINVAL;

	mutex_lock(&vmt->lock);
	s = vmt->stream;
	if (s && s->complete && !s->error) {
		swap(vmt->contents, s->incoming);
		ret = 0;
	}
	mutex_unlock(&vmt->lock);
	if (!ret)
		vmt_stream_end(vmt);
	return ret;
}
