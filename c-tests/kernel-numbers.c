/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Numbers that the library shares with the kernel are the kernel's: in the header, and in what a
 * device is asked. They are compared with <linux/vfio.h> as far as the installed one goes.
 */
#include <linux/vfio.h>

#include "check.h"

static void states(void)
{
#ifdef VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    EQ(VFIOMIG_STATE_ERROR, VFIO_DEVICE_STATE_ERROR);
    EQ(VFIOMIG_STATE_STOP, VFIO_DEVICE_STATE_STOP);
    EQ(VFIOMIG_STATE_RUNNING, VFIO_DEVICE_STATE_RUNNING);
    EQ(VFIOMIG_STATE_STOP_COPY, VFIO_DEVICE_STATE_STOP_COPY);
    EQ(VFIOMIG_STATE_RESUMING, VFIO_DEVICE_STATE_RESUMING);
    EQ(VFIOMIG_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_RUNNING_P2P);
#else
#error "these kernel headers are too old to compare with: Linux 5.18"
#endif
#ifdef VFIO_MIGRATION_PRE_COPY
    EQ(VFIOMIG_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY);
    EQ(VFIOMIG_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_PRE_COPY_P2P);
#endif
}

static void precopy_info_has_the_kernels_layout(void)
{
    EQ(sizeof(struct vfiomig_precopy_info), 24);
#ifdef VFIO_MIG_GET_PRECOPY_INFO
    EQ(sizeof(struct vfiomig_precopy_info), sizeof(struct vfio_precopy_info));
    EQ(offsetof(struct vfiomig_precopy_info, flags), offsetof(struct vfio_precopy_info, flags));
    EQ(offsetof(struct vfiomig_precopy_info, initial_bytes),
       offsetof(struct vfio_precopy_info, initial_bytes));
    EQ(offsetof(struct vfiomig_precopy_info, dirty_bytes),
       offsetof(struct vfio_precopy_info, dirty_bytes));
    EQ(VFIO_MIG_GET_PRECOPY_INFO, _IO(';', 121));
#endif
}

/* A device that records what it is asked. */
static struct {
    uint32_t flags;
    size_t len;
} asked[64];
static int num_asked;

static int feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    (void)opaque;
    if (num_asked < 64) {
        asked[num_asked].flags = flags;
        asked[num_asked++].len = len;
    }
    if (flags == (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION)) {
        struct vfio_device_feature_migration migration = {
            .flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | 4 /* PRE_COPY */,
        };
        memcpy(data, &migration, sizeof migration);
        return 0;
    }
    if (flags == (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE)) {
        struct vfio_device_feature_mig_state state = {
            .device_state = VFIO_DEVICE_STATE_RUNNING,
            .data_fd = -1,
        };
        memcpy(data, &state, sizeof state);
        return 0;
    }
    if (flags == (VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE))
        return -EBUSY;
    return -ENOTTY;
}

static int times_asked(uint32_t flags, size_t len)
{
    int times = 0;
    for (int i = 0; i < num_asked; i++)
        times += asked[i].flags == flags && asked[i].len == len;
    return times;
}

static void questions_are_the_kernels(void)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device *dev;
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    num_asked = 0;
    ops.feature = feature;
    OK(vfiomig_device_new_ops(&ops, NULL, NULL, &dev));
    EQ(times_asked(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION,
                   sizeof(struct vfio_device_feature_migration)), 1);
    EQ(times_asked(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
                   sizeof(struct vfio_device_feature_mig_state)), 1);
    /* Newer than some distributions' headers: stop-copy size, pre-copy info version 2. */
    EQ(times_asked(VFIO_DEVICE_FEATURE_GET | 9, 8), 1);
    EQ(times_asked(VFIO_DEVICE_FEATURE_SET | 12, 0), 1);
    EQ(times_asked(VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET |
                       VFIO_DEVICE_FEATURE_DMA_LOGGING_START, 0), 1);
    OK(vfiomig_device_get_caps(dev, &caps));
    EQ(caps.migration_flags, 7);
    EQ(caps.flags, VFIOMIG_CAP_MIGRATE | VFIOMIG_CAP_PRE_COPY | VFIOMIG_CAP_P2P);

    num_asked = 0;
    EQ(vfiomig_device_set_state(dev, VFIOMIG_STATE_STOP), -EIO);
    EQ(times_asked(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
                   sizeof(struct vfio_device_feature_mig_state)), 1);

    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    OK(vfiomig_device_get_failure(dev, &failure));
    EQ(failure.ioctl_request, VFIO_DEVICE_FEATURE);
    vfiomig_device_free(dev);
}

int main(void)
{
    RUN(states);
    RUN(precopy_info_has_the_kernels_layout);
    RUN(questions_are_the_kernels);
    return DONE();
}
