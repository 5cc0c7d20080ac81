/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What was going on when something failed: kept on the handle for whoever asks later. */
#include "rig.h"

#define VFIO_DEVICE_FEATURE 0x3b75u
#define VFIO_DEVICE_RESET 0x3b6fu
#define BOTH (VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS)

static void expect(const struct vfiomig_failure *got, int code, uint32_t operation, int os_errno,
                   uint32_t before, uint32_t wanted, uint32_t after, uint32_t outcome)
{
    EQ(got->code, code);
    EQ(got->operation, operation);
    EQ(got->os_errno, os_errno);
    EQ(got->state_before, before);
    EQ(got->state_wanted, wanted);
    EQ(got->state_after, after);
    EQ(got->outcome, outcome);
}

/* The code says so. No state is known, and 0 would be ERROR. */
static void nothing_where_nothing_has_failed(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save *save;
    memset((char *)&failure + 4, 0xff, sizeof failure - 4);
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    expect(&failure, 0, VFIOMIG_OP_NONE, 0, VFIOMIG_STATE_UNKNOWN, VFIOMIG_STATE_UNKNOWN,
           VFIOMIG_STATE_UNKNOWN, VFIOMIG_OUTCOME_KEPT);
    EQ(failure.ioctl_request, 0);
    EQ(failure.fixups, 0);
    EQ(failure.offset, 0);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(vfiomig_save_get_failure(save, &failure));
    EQ(failure.code, 0);
    EQ(failure.state_after, VFIOMIG_STATE_UNKNOWN);
    vfiomig_save_free(save);
    rig_free(&rig);
}

static void a_change_that_was_refused(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EBUSY, VFIOMIG_SIM_FAULT_ONCE);
    CHECK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP) < 0);
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    expect(&failure, failure.code, VFIOMIG_OP_SET_STATE, EBUSY, VFIOMIG_STATE_RUNNING,
           VFIOMIG_STATE_STOP, VFIOMIG_STATE_RUNNING, VFIOMIG_OUTCOME_KEPT);
    EQ(failure.ioctl_request, VFIO_DEVICE_FEATURE);
    EQ(failure.fixups, 0);
    rig_free(&rig);
}

static void a_change_that_stopped_half_way(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save;
    options.flags = VFIOMIG_SAVE_NO_PRE_COPY;
    OK(vfiomig_save_begin(rig.dev, &options, &save));
    OK(vfiomig_save_quiesce(save));
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_HALF);
    EQ(vfiomig_save_stop(save), -EIO);
    OK(vfiomig_save_get_failure(save, &failure));
    expect(&failure, -EIO, VFIOMIG_OP_SET_STATE, EIO, VFIOMIG_STATE_RUNNING_P2P,
           VFIOMIG_STATE_STOP_COPY, VFIOMIG_STATE_RUNNING_P2P, VFIOMIG_OUTCOME_RECOVERED);
    /* The device keeps it as well. */
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    EQ(failure.code, -EIO);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    /* What has worked since then does not erase it. */
    OK(vfiomig_device_run(rig.dev));
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    EQ(failure.code, -EIO);
    EQ(failure.state_after, VFIOMIG_STATE_RUNNING_P2P);
    vfiomig_save_free(save);
    rig_free(&rig);
}

static void a_device_that_went_to_error_and_was_reset(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    uint32_t fixups;
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR);
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    expect(&failure, -EIO, VFIOMIG_OP_SET_STATE, EIO, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP,
           VFIOMIG_STATE_RUNNING, VFIOMIG_OUTCOME_RESET);
    EQ(failure.fixups, BOTH);
    OK(vfiomig_device_get_fixups(rig.dev, &fixups));
    EQ(fixups, BOTH);
    rig_free(&rig);
}

static void a_device_that_was_lost(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR);
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_RESET, 1, ENOTTY, VFIOMIG_SIM_FAULT_STICKY);
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    expect(&failure, -EIO, VFIOMIG_OP_SET_STATE, EIO, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP,
           VFIOMIG_STATE_UNKNOWN, VFIOMIG_OUTCOME_LOST);
    EQ(vfiomig_device_reset(rig.dev), -ENOTTY);
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    EQ(failure.operation, VFIOMIG_OP_RESET);
    EQ(failure.ioctl_request, VFIO_DEVICE_RESET);
    EQ(failure.outcome, VFIOMIG_OUTCOME_LOST);
    /* The VMM's harder reset. */
    vfiomig_sim_clear_faults(rig.sim);
    vfiomig_sim_guest_reset(rig.sim);
    OK(vfiomig_device_notify_reset(rig.dev));
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    rig_free(&rig);
}

static void a_read_that_failed(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_READ, 5, ENOMEM, VFIOMIG_SIM_FAULT_ONCE);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), -ENOMEM);
    OK(vfiomig_save_get_failure(save, &failure));
    OK(vfiomig_save_get_stats(save, &stats));
    expect(&failure, -ENOMEM, VFIOMIG_OP_DATA_READ, ENOMEM, VFIOMIG_STATE_PRE_COPY,
           VFIOMIG_STATE_UNKNOWN, VFIOMIG_STATE_PRE_COPY, VFIOMIG_OUTCOME_KEPT);
    EQ(failure.ioctl_request, 0);
    CHECK(failure.offset > 0);
    EQ(failure.offset, stats.data_bytes);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

static void a_write_that_failed(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct rig from = rig_new(&o, NULL);
    o.max_write = 1000;
    struct rig to = rig_target(&o);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    vfiomig_sim_inject(to.sim, VFIOMIG_SIM_OP_WRITE, 8, ENOMEM, VFIOMIG_SIM_FAULT_ONCE);
    EQ(push_all(load, &stream, SIZE_MAX), -ENOMEM);
    OK(vfiomig_load_get_failure(load, &failure));
    expect(&failure, -ENOMEM, VFIOMIG_OP_DATA_WRITE, ENOMEM, VFIOMIG_STATE_RESUMING,
           VFIOMIG_STATE_UNKNOWN, VFIOMIG_STATE_RUNNING, VFIOMIG_OUTCOME_RESET);
    EQ(failure.offset, 7000);
    EQ(failure.fixups, BOTH);
    vfiomig_load_free(load);
    OK(vfiomig_device_get_failure(to.dev, &failure));
    EQ(failure.operation, VFIOMIG_OP_DATA_WRITE);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void a_stream_that_was_refused(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load;
    size_t at = stream.len - 10000;
    stream.data[at] ^= 0x40;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(push_all(load, &stream, 100), -EBADMSG);
    OK(vfiomig_load_get_failure(load, &failure));
    expect(&failure, -EBADMSG, VFIOMIG_OP_STREAM, 0, VFIOMIG_STATE_RESUMING, VFIOMIG_STATE_UNKNOWN,
           VFIOMIG_STATE_RUNNING, VFIOMIG_OUTCOME_RESET);
    /* Noticed at the end of the frame that contains the damage. */
    CHECK(failure.offset > at);
    CHECK(failure.offset <= stream.len);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void a_commit_that_the_driver_refused(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    vfiomig_sim_inject(to.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EINVAL, VFIOMIG_SIM_FAULT_ONCE);
    EQ(vfiomig_load_commit(load), -EINVAL);
    OK(vfiomig_load_get_failure(load, &failure));
    expect(&failure, -EINVAL, VFIOMIG_OP_SET_STATE, EINVAL, VFIOMIG_STATE_RESUMING,
           VFIOMIG_STATE_STOP, VFIOMIG_STATE_RUNNING, VFIOMIG_OUTCOME_RESET);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void an_errno_outside_the_set_is_kept(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, ENOTCONN, VFIOMIG_SIM_FAULT_ONCE);
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    EQ(failure.code, -EIO);
    EQ(failure.os_errno, ENOTCONN);
    rig_free(&rig);
}

int main(void)
{
    RUN(nothing_where_nothing_has_failed);
    RUN(a_change_that_was_refused);
    RUN(a_change_that_stopped_half_way);
    RUN(a_device_that_went_to_error_and_was_reset);
    RUN(a_device_that_was_lost);
    RUN(a_read_that_failed);
    RUN(a_write_that_failed);
    RUN(a_stream_that_was_refused);
    RUN(a_commit_that_the_driver_refused);
    RUN(an_errno_outside_the_set_is_kept);
    return DONE();
}
