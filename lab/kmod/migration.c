// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO migration, version 2: the states and the ways between them.
 */
#include <linux/err.h>
#include <linux/file.h>
#include <linux/hrtimer.h>
#include <linux/sched/signal.h>

#include "stream.h"

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
			vmt_stream_end(vmt);
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
		file = vmt_stream_new(vmt, true);
		break;
	case ARC(S(STOP), S(STOP_COPY)):
		file = vmt_stream_new(vmt, true);
		if (!IS_ERR(file))
			vmt_stream_stop(vmt);
		break;
	case ARC(S(PRE_COPY), S(STOP_COPY)):
	case ARC(S(PRE_COPY_P2P), S(STOP_COPY)):
		vmt_set_running(vmt, false);
		vmt_stream_stop(vmt);
		break;
	case ARC(S(PRE_COPY), S(RUNNING)):
	case ARC(S(PRE_COPY_P2P), S(RUNNING_P2P)):
	case ARC(S(STOP_COPY), S(STOP)):
		vmt_stream_end(vmt);
		break;
	case ARC(S(STOP), S(RESUMING)):
		file = vmt_stream_new(vmt, false);
		break;
	case ARC(S(RESUMING), S(STOP)):
		ret = vmt_stream_commit(vmt);
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
	vmt_stream_end(vmt);
	mutex_lock(&vmt->lock);
	vmt_power_on(vmt);
	vmt_set_running_locked(vmt, true);
	mutex_unlock(&vmt->lock);
	vmt->state = VFIO_DEVICE_STATE_RUNNING;
}

/* Whoever had the state when a reset came makes that reset on leaving. */
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

struct file *vmt_change_state(struct vmt *vmt, enum vfio_device_mig_state new)
{
	struct file *file = NULL;

	mutex_lock(&vmt->state_mutex);
	/* The kernel's table knows no way out of ERROR, and warns if asked for one. */
	if (vmt->state == VFIO_DEVICE_STATE_ERROR)
		file = ERR_PTR(-EIO);
	while (!IS_ERR(file) && vmt->state != new) {
		enum vfio_device_mig_state next;
		int ret = vfio_mig_get_next_state(&vmt->vdev, vmt->state, new, &next);

		/* No path continues from a state that returns a file. */
		if (!ret && file) {
			fput(file);
			ret = -EINVAL;
		}
		file = ret ? ERR_PTR(ret) : step(vmt, next);
	}
	vmt_state_unlock(vmt);
	return file;
}

/* From here on, only a reset helps. */
void vmt_set_broken(struct vmt *vmt)
{
	mutex_lock(&vmt->state_mutex);
	vmt_set_running(vmt, false);
	vmt_stream_end(vmt);
	vmt->state = VFIO_DEVICE_STATE_ERROR;
	vmt_state_unlock(vmt);
}

/* From STOP_COPY to PRE_COPY with the same stream, which version 2 does not have. */
int vmt_run_again(struct vmt *vmt)
{
	int ret = -EINVAL;

	mutex_lock(&vmt->state_mutex);
	if (vmt->state == VFIO_DEVICE_STATE_STOP_COPY && vmt->stream) {
		vmt->counters.arcs++;
		ret = vmt_check_fault(vmt, VMT_OP_SET_STATE);
	}
	if (!ret) {
		take_time(vmt->latency_us[VFIO_DEVICE_STATE_PRE_COPY]);
		mutex_lock(&vmt->lock);
		vmt->stream->stopped = false;
		vmt_set_running_locked(vmt, true);
		mutex_unlock(&vmt->lock);
		vmt->state = VFIO_DEVICE_STATE_PRE_COPY;
	}
	vmt_state_unlock(vmt);
	return ret;
}

static struct file *vmt_set_state(struct vfio_device *vdev, enum vfio_device_mig_state new)
{
	return vmt_change_state(vmt_of(vdev), new);
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
	*length = vmt_save_left(vmt, vmt->stream);
	mutex_unlock(&vmt->lock);
	return 0;
}

/* The owner has gone: whoever opens the device next finds it as if it had not been migrated. */
void vmt_migration_close(struct vmt *vmt)
{
	mutex_lock(&vmt->state_mutex);
	vmt_stream_end(vmt);
	vmt->state = VFIO_DEVICE_STATE_RUNNING;
	vmt_set_running(vmt, true);
	vmt_state_unlock(vmt);
}

const struct vfio_migration_ops vmt_migration_ops = {
	.migration_set_state = vmt_set_state,
	.migration_get_state = vmt_get_state,
	.migration_get_data_size = vmt_get_data_size,
};
