// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO migration, version 2: the states and the two kinds of data stream. A stream outlives what it
 * belongs to (user space may keep the fd): it holds a reference to the device, and is dead from then
 * on.
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
#include <linux/version.h>

#include "vfiomig-test.h"

/* How often a poll is asked again while a rate decides whether there is something. */
#define TICK_MS 10
/* With a throttle, one transfer is at most what passes in this part of a second. */
#define SLICES 50

struct vmt_stream {
	struct vmt *vmt;
	struct file *file;
	bool saving;
	bool dead;
	int error; /* of a resuming stream: it takes nothing more */

	u8 *buf; /* one record */
	u32 len, pos;

	/* Saving */
	bool header_made, stopped, end_made;
	bool buf_is_initial;
	u32 initial_blocks; /* sent in pre-copy; the others only when stopped */
	u32 next; /* blocks before this one have been sent */
	u32 dirty_from;
	u64 dirty_bytes;
	unsigned long *dirty;
	bool reinit;

	/* Resuming */
	bool header_taken, record_taken, complete;
	u32 num_received;
	unsigned long *received;
	struct vmt_contents incoming;
	struct vmt_record record;
};

/* --- records ------------------------------------------------------------------------------------ */

static u64 check_of(u64 seed, const void *data, u32 len)
{
	const u8 *bytes = data;

	while (len--)
		seed = vmt_mix(seed + *bytes++ + 1);
	return seed;
}

static u64 header_check(const struct vmt_header *header)
{
	return check_of(0, header, offsetof(struct vmt_header, check));
}

static u64 record_check(u64 seed, const struct vmt_record *record)
{
	return check_of(seed, record, offsetof(struct vmt_record, check));
}

static u64 blocks_bytes(const struct vmt *vmt, u32 from, u32 to)
{
	u64 begin = (u64)from << VMT_BLOCK_SHIFT, end = min((u64)to << VMT_BLOCK_SHIFT, vmt->size);

	return from < to ? end - begin + (u64)(to - from) * sizeof(struct vmt_record) : 0;
}

static u32 block_bytes(const struct vmt *vmt, u32 block)
{
	return sizeof(struct vmt_record) + vmt_block_len(vmt, block);
}

#define END_BYTES (sizeof(struct vmt_record) + sizeof(struct vmt_end))

/* --- saving ------------------------------------------------------------------------------------- */

/* Called with `lock` held whenever a block gets new contents. */
void vmt_stream_touched(struct vmt *vmt, u32 block)
{
	struct vmt_stream *s = vmt->stream;

	/* What has not been sent yet will be sent as it is then. */
	if (s && s->saving && block < s->next && !__test_and_set_bit(block, s->dirty))
		s->dirty_bytes += block_bytes(vmt, block);
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
		s->next = 0;
		bitmap_zero(s->dirty, vmt->num_blocks);
		s->dirty_bytes = 0;
		s->dirty_from = 0;
		s->reinit = true;
	} else {
		/* The old interface has no way to say so: it becomes dirty. */
		for (block = 0; block < s->next; block++)
			if (!__test_and_set_bit(block, s->dirty))
				s->dirty_bytes += block_bytes(vmt, block);
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
	if (__test_and_clear_bit(block, s->dirty))
		s->dirty_bytes -= s->len;
}

static void make_end(struct vmt_stream *s)
{
	struct vmt *vmt = s->vmt;
	struct vmt_record *record = (struct vmt_record *)s->buf;
	struct vmt_end *end = (struct vmt_end *)(record + 1);

	record->magic = cpu_to_le32(VMT_RECORD_MAGIC);
	record->type = cpu_to_le32(VMT_RECORD_END);
	record->offset = cpu_to_le64(vmt->size);
	record->generation = 0;
	record->length = cpu_to_le32(sizeof(*end));
	record->check = cpu_to_le64(record_check(vmt->contents.seed, record));
	end->digest = cpu_to_le64(vmt_digest(vmt, &vmt->contents));
	memcpy(end->scratch, vmt->contents.scratch, VMT_SCRATCH);
	s->len = sizeof(*record) + sizeof(*end);
}

/* Whether there is anything to read. */
static bool has_data(const struct vmt_stream *s)
{
	return s->pos < s->len || !s->header_made || s->next < s->initial_blocks || s->dirty_bytes ||
	       (s->stopped && !s->end_made);
}

/* Makes the next record; false when there is none. */
static bool make_next(struct vmt_stream *s)
{
	struct vmt *vmt = s->vmt;
	u32 block;

	if (!has_data(s))
		return false;
	s->pos = 0;
	s->buf_is_initial = true;
	if (!s->header_made) {
		make_header(s);
		s->header_made = true;
	} else if (s->next < s->initial_blocks) {
		make_block(s, s->next++);
	} else if (s->dirty_bytes) {
		s->buf_is_initial = false;
		block = find_next_bit(s->dirty, vmt->num_blocks, s->dirty_from);
		if (block >= vmt->num_blocks)
			block = find_first_bit(s->dirty, vmt->num_blocks);
		if (WARN_ON_ONCE(block >= vmt->num_blocks)) {
			s->dirty_bytes = 0;
			return false;
		}
		make_block(s, block);
		s->dirty_from = block + 1;
	} else {
		s->buf_is_initial = false;
		make_end(s);
		s->end_made = true;
	}
	return true;
}

/* What is left until the end if the device stops now. */
static u64 bytes_left(const struct vmt *vmt, const struct vmt_stream *s)
{
	if (!s || !s->saving)
		return sizeof(struct vmt_header) + blocks_bytes(vmt, 0, vmt->num_blocks) + END_BYTES;
	return (s->header_made ? 0 : sizeof(struct vmt_header)) + s->len - s->pos + s->dirty_bytes +
	       blocks_bytes(vmt, s->next, vmt->num_blocks) + (s->end_made ? 0 : END_BYTES);
}

/* --- throttles ---------------------------------------------------------------------------------- */

static u64 wait_ns(u64 ready, u64 rate)
{
	u64 now = ktime_get_ns();

	return rate && ready > now ? ready - now : 0;
}

static void charge(u64 *ready, u64 rate, u64 bytes)
{
	u64 now = ktime_get_ns();

	if (rate)
		*ready = max(*ready, now) + div64_u64(bytes * NSEC_PER_SEC, rate);
}

/*
 * Waits until the throttle lets a transfer pass, and takes `lock` for it. 0, or an errno with `lock`
 * not held.
 */
static int enter(struct vmt_stream *s, const u64 *ready, const u64 *rate, size_t *len, u64 max)
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
		wait = wait_ns(*ready, *rate);
		/* That there is nothing can be told at once; a poll would wait for ever for it. */
		if (!wait || (s->saving && !has_data(s)))
			break;
		mutex_unlock(&vmt->lock);
		if (s->file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		ret = wait_event_interruptible_hrtimeout(vmt->wait, READ_ONCE(s->dead),
							 ns_to_ktime(min_t(u64, wait, NSEC_PER_SEC)));
		if (ret == -ERESTARTSYS)
			return ret;
	}
	if (max)
		*len = min_t(u64, *len, max);
	if (*rate)
		*len = min_t(u64, *len, max_t(u64, div64_u64(*rate, SLICES), 1));
	/* One call makes at most this much, so that others get the lock. */
	*len = min_t(size_t, *len, 1u << 20);
	return 0;
}

/* --- the files ---------------------------------------------------------------------------------- */

static ssize_t vmt_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	struct vmt_stream *s = file->private_data;
	struct vmt *vmt = s->vmt;
	size_t done = 0;
	int ret;

	if (pos)
		return -ESPIPE;
	ret = enter(s, &vmt->read_ready_ns, &vmt->read_rate, &len, READ_ONCE(vmt->max_read));
	if (ret)
		return ret;
	vmt->counters.reads++;
	ret = vmt_check_fault(vmt, VMT_OP_READ);
	if (ret)
		goto out;
	while (done < len) {
		size_t n;

		if (s->pos == s->len && !make_next(s))
			break;
		n = min_t(size_t, len - done, s->len - s->pos);
		if (copy_to_user(to + done, s->buf + s->pos, n)) {
			ret = -EFAULT;
			break;
		}
		s->pos += n;
		done += n;
		if (signal_pending(current))
			break;
		cond_resched();
	}
	vmt->counters.read_bytes += done;
	charge(&vmt->read_ready_ns, vmt->read_rate, done);
	if (done)
		ret = done;
	else if (!ret && len && !s->stopped)
		ret = -(int)vmt->drained;
out:
	mutex_unlock(&vmt->lock);
	return ret;
}

/* Sticky: after it nothing that is written counts. */
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

/* Every byte is known beforehand: compare it. */
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

/* The buffer holds all that was wanted. */
static int take(struct vmt_stream *s)
{
	int ret;

	s->pos = 0;
	if (!s->header_taken)
		return take_header(s);
	if (!s->record_taken)
		return take_record(s);
	ret = le32_to_cpu(s->record.type) == VMT_RECORD_END ? take_end(s) : take_block(s);
	s->record_taken = false;
	return ret;
}

static ssize_t vmt_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	struct vmt_stream *s = file->private_data;
	struct vmt *vmt = s->vmt;
	size_t done = 0;
	int ret;

	if (pos)
		return -ESPIPE;
	ret = enter(s, &vmt->write_ready_ns, &vmt->write_rate, &len, READ_ONCE(vmt->max_write));
	if (ret)
		return ret;
	vmt->counters.writes++;
	ret = vmt_check_fault(vmt, VMT_OP_WRITE);
	if (ret)
		goto out;
	ret = s->error;
	while (done < len && !ret) {
		size_t n = min_t(size_t, len - done, wanted(s) - s->pos);

		if (s->complete) {
			/* More than the whole: what came before was not the whole after all. */
			ret = refuse(s, -ENOMEM);
			break;
		}
		if (copy_from_user(s->buf + s->pos, from + done, n)) {
			ret = done ? 0 : -EFAULT;
			break;
		}
		s->pos += n;
		done += n;
		if (s->pos == wanted(s))
			ret = take(s);
		if (signal_pending(current))
			break;
		cond_resched();
	}
	vmt->counters.write_bytes += done;
	charge(&vmt->write_ready_ns, vmt->write_rate, done);
	if (!ret)
		ret = done;
out:
	mutex_unlock(&vmt->lock);
	return ret;
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
		ready = !wait_ns(vmt->read_ready_ns, vmt->read_rate) && (s->stopped || has_data(s));
		events = ready ? EPOLLIN | EPOLLRDNORM : 0;
	} else {
		ready = s->error || !wait_ns(vmt->write_ready_ns, vmt->write_rate);
		events = ready ? EPOLLOUT | EPOLLWRNORM : 0;
	}
	/* Time alone may make it ready; the tick has it asked again. */
	if (!events && (vmt->dirty_rate || vmt->read_rate || vmt->write_rate))
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
	u64 rest;
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
	rest = s->len - s->pos;
	info.initial_bytes = (s->header_made ? 0 : sizeof(struct vmt_header)) +
			     (s->buf_is_initial ? rest : 0) + blocks_bytes(vmt, s->next, s->initial_blocks);
	info.dirty_bytes = s->dirty_bytes + (s->buf_is_initial ? 0 : rest);
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
	bitmap_free(s->dirty);
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

/* A reference to the file is returned, and another one is the device's. */
static struct file *new_stream(struct vmt *vmt, bool saving)
{
	struct vmt_stream *s;
	struct file *file;

	s = kzalloc(sizeof(*s), GFP_KERNEL_ACCOUNT);
	if (!s)
		return ERR_PTR(-ENOMEM);
	s->vmt = vmt;
	s->saving = saving;
	/* Resuming, a second block for what the first is compared with. */
	s->buf = kvmalloc(saving ? VMT_BUFFER : VMT_BUFFER + VMT_BLOCK, GFP_KERNEL_ACCOUNT);
	if (saving) {
		s->dirty = bitmap_zalloc(vmt->num_blocks, GFP_KERNEL_ACCOUNT);
		s->initial_blocks = DIV_ROUND_UP_ULL(min(vmt->initial_size, vmt->size), VMT_BLOCK);
	} else {
		s->received = bitmap_zalloc(vmt->num_blocks, GFP_KERNEL_ACCOUNT);
		s->incoming.generation = kvcalloc(vmt->num_blocks, sizeof(u32), GFP_KERNEL_ACCOUNT);
	}
	if (!s->buf || (saving ? !s->dirty : !s->received || !s->incoming.generation)) {
		free_stream(s);
		return ERR_PTR(-ENOMEM);
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
	vmt->stream = s;
	vmt->read_ready_ns = vmt->write_ready_ns = 0;
	if (!saving)
		vmt_power_on(vmt);
	mutex_unlock(&vmt->lock);
	get_file(file);
	return file;
}

static void end_stream(struct vmt *vmt)
{
	struct vmt_stream *s;

	mutex_lock(&vmt->lock);
	s = vmt->stream;
	vmt->stream = NULL;
	if (s)
		WRITE_ONCE(s->dead, true);
	mutex_unlock(&vmt->lock);
	if (!s)
		return;
	wake_up_all(&vmt->wait);
	fput(s->file);
}

/* --- states ------------------------------------------------------------------------------------- */

/* From pre-copy to stop-copy: whatever has not been sent, or not since it changed, is still to come. */
static void stop_stream(struct vmt *vmt)
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

static int commit(struct vmt *vmt)
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
		end_stream(vmt);
	return ret;
}

/* Killable only: no real device gives up a change because of a signal. */
static void take_time(u64 us)
{
	ktime_t end = ktime_add_us(ktime_get(), us);

	while (us && !fatal_signal_pending(current)) {
		set_current_state(TASK_KILLABLE);
		if (!schedule_hrtimeout(&end, HRTIMER_MODE_ABS))
			break;
	}
	__set_current_state(TASK_RUNNING);
}

#define ARC(from, to) ((from) * VMT_NUM_STATES + (to))
#define S(name) VFIO_DEVICE_STATE_##name

/* One step of the state machine. A file is for the user. */
static struct file *step(struct vmt *vmt, enum vfio_device_mig_state next)
{
	struct file *file = NULL;
	int ret;

	vmt->counters.arcs++;
	ret = vmt_check_fault(vmt, VMT_OP_SET_STATE);
	if (ret) {
		if (vmt->fail_to_error) {
			vmt_set_running(vmt, false);
			end_stream(vmt);
			vmt->state = VFIO_DEVICE_STATE_ERROR;
		}
		return ERR_PTR(ret);
	}
	take_time(vmt->latency_us[next]);
	switch (ARC(vmt->state, next)) {
	case ARC(S(RUNNING), S(RUNNING_P2P)):
	case ARC(S(RUNNING_P2P), S(RUNNING)):
	case ARC(S(PRE_COPY), S(PRE_COPY_P2P)):
	case ARC(S(PRE_COPY_P2P), S(PRE_COPY)):
		break;
	case ARC(S(RUNNING), S(STOP)):
	case ARC(S(RUNNING_P2P), S(STOP)):
		vmt_set_running(vmt, false);
		break;
	case ARC(S(STOP), S(RUNNING)):
	case ARC(S(STOP), S(RUNNING_P2P)):
		vmt_set_running(vmt, true);
		break;
	case ARC(S(RUNNING), S(PRE_COPY)):
	case ARC(S(RUNNING_P2P), S(PRE_COPY_P2P)):
		file = new_stream(vmt, true);
		break;
	case ARC(S(STOP), S(STOP_COPY)):
		file = new_stream(vmt, true);
		if (!IS_ERR(file))
			stop_stream(vmt);
		break;
	case ARC(S(PRE_COPY), S(STOP_COPY)):
	case ARC(S(PRE_COPY_P2P), S(STOP_COPY)):
		vmt_set_running(vmt, false);
		stop_stream(vmt);
		break;
	case ARC(S(PRE_COPY), S(RUNNING)):
	case ARC(S(PRE_COPY_P2P), S(RUNNING_P2P)):
	case ARC(S(STOP_COPY), S(STOP)):
		end_stream(vmt);
		break;
	case ARC(S(STOP), S(RESUMING)):
		file = new_stream(vmt, false);
		break;
	case ARC(S(RESUMING), S(STOP)):
		ret = commit(vmt);
		if (ret)
			return ERR_PTR(ret);
		break;
	default:
		return ERR_PTR(-EINVAL);
	}
	if (!IS_ERR(file))
		vmt->state = next;
	return file;
}

static void do_reset(struct vmt *vmt)
{
	end_stream(vmt);
	mutex_lock(&vmt->lock);
	vmt_power_on(vmt);
	vmt_set_running_locked(vmt, true);
	mutex_unlock(&vmt->lock);
	vmt->state = VFIO_DEVICE_STATE_RUNNING;
}

/* A reset that came while somebody had the state is done by him, on leaving. */
void vmt_state_unlock(struct vmt *vmt)
{
	for (;;) {
		mutex_lock(&vmt->reset_mutex);
		if (!vmt->deferred_reset)
			break;
		vmt->deferred_reset = false;
		mutex_unlock(&vmt->reset_mutex);
		do_reset(vmt);
	}
	mutex_unlock(&vmt->state_mutex);
	mutex_unlock(&vmt->reset_mutex);
}

int vmt_reset(struct vmt *vmt)
{
	int ret = vmt_check_fault(vmt, VMT_OP_RESET);
	bool got_it;

	if (ret)
		return ret;
	mutex_lock(&vmt->reset_mutex);
	vmt->counters.resets++;
	vmt->deferred_reset = true;
	got_it = mutex_trylock(&vmt->state_mutex);
	vmt->counters.deferred_resets += !got_it;
	mutex_unlock(&vmt->reset_mutex);
	if (got_it)
		vmt_state_unlock(vmt);
	return 0;
}

static struct file *vmt_set_state(struct vfio_device *vdev, enum vfio_device_mig_state new)
{
	struct vmt *vmt = vmt_of(vdev);
	struct file *file = NULL;

	mutex_lock(&vmt->state_mutex);
	/* The kernel's table knows no way out of ERROR, and warns when asked for one. */
	if (vmt->state == VFIO_DEVICE_STATE_ERROR)
		file = ERR_PTR(-EIO);
	while (!IS_ERR(file) && vmt->state != new) {
		enum vfio_device_mig_state next;
		int ret = vfio_mig_get_next_state(vdev, vmt->state, new, &next);

		/* No path goes on from a state that hands out a file. */
		if (!ret && file) {
			fput(file);
			ret = -EINVAL;
		}
		file = ret ? ERR_PTR(ret) : step(vmt, next);
	}
	vmt_state_unlock(vmt);
	return file;
}

static int vmt_get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct vmt *vmt = vmt_of(vdev);
	int ret = vmt_check_fault(vmt, VMT_OP_GET_STATE);

	if (ret)
		return ret;
	mutex_lock(&vmt->state_mutex);
	*state = vmt->state;
	vmt_state_unlock(vmt);
	return 0;
}

static int vmt_get_data_size(struct vfio_device *vdev, unsigned long *length)
{
	struct vmt *vmt = vmt_of(vdev);
	int ret = vmt_check_fault(vmt, VMT_OP_DATA_SIZE);

	if (ret)
		return ret;
	mutex_lock(&vmt->lock);
	vmt_catch_up(vmt);
	*length = bytes_left(vmt, vmt->stream);
	mutex_unlock(&vmt->lock);
	return 0;
}

/* The owner has gone: whoever opens the device next finds it as if it had not been migrated. */
void vmt_migration_close(struct vmt *vmt)
{
	mutex_lock(&vmt->state_mutex);
	end_stream(vmt);
	vmt->state = VFIO_DEVICE_STATE_RUNNING;
	vmt_set_running(vmt, true);
	vmt_state_unlock(vmt);
}

const struct vfio_migration_ops vmt_migration_ops = {
	.migration_set_state = vmt_set_state,
	.migration_get_state = vmt_get_state,
	.migration_get_data_size = vmt_get_data_size,
};
