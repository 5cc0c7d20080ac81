/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A simulated device with something to do before each of its callbacks. Tests put it at the front of
 * a structure of their own, which is the table's opaque then.
 */
#ifndef HOOKED_H
#define HOOKED_H

#include "vfiomig-sim.h"
#include "vfiomig.h"

struct hooked {
    struct vfiomig_sim *sim;
    struct vfiomig_device_ops ops;
    /* With the number of the simulator's operation; VFIOMIG_SIM_OP_ANY where it has none. */
    void (*before)(struct hooked *hooked, uint32_t op);
};

static inline const struct vfiomig_device_ops *hooked_enter_(void *opaque, uint32_t op)
{
    struct hooked *hooked = opaque;
    hooked->before(hooked, op);
    return vfiomig_sim_ops(hooked->sim);
}

static int hooked_feature_(void *opaque, uint32_t flags, void *data, size_t len)
{
    /* Whatever is asked for. */
    const struct vfiomig_device_ops *ops = hooked_enter_(opaque, VFIOMIG_SIM_OP_GET_STATE);
    return ops->feature(((struct hooked *)opaque)->sim, flags, data, len);
}

static int hooked_reset_(void *opaque)
{
    return hooked_enter_(opaque, VFIOMIG_SIM_OP_RESET)->reset(((struct hooked *)opaque)->sim);
}

static int64_t hooked_read_(void *opaque, int fd, void *buf, size_t len)
{
    const struct vfiomig_device_ops *ops = hooked_enter_(opaque, VFIOMIG_SIM_OP_READ);
    return ops->data_read(((struct hooked *)opaque)->sim, fd, buf, len);
}

static int64_t hooked_write_(void *opaque, int fd, const void *buf, size_t len)
{
    const struct vfiomig_device_ops *ops = hooked_enter_(opaque, VFIOMIG_SIM_OP_WRITE);
    return ops->data_write(((struct hooked *)opaque)->sim, fd, buf, len);
}

static int hooked_precopy_info_(void *opaque, int fd, struct vfiomig_precopy_info *info)
{
    const struct vfiomig_device_ops *ops = hooked_enter_(opaque, VFIOMIG_SIM_OP_PRECOPY_INFO);
    return ops->data_precopy_info(((struct hooked *)opaque)->sim, fd, info);
}

static int hooked_close_(void *opaque, int fd)
{
    const struct vfiomig_device_ops *ops = hooked_enter_(opaque, VFIOMIG_SIM_OP_ANY);
    return ops->data_close(((struct hooked *)opaque)->sim, fd);
}

static int hooked_poll_fd_(void *opaque, int fd)
{
    const struct vfiomig_device_ops *ops = hooked_enter_(opaque, VFIOMIG_SIM_OP_ANY);
    return ops->data_poll_fd(((struct hooked *)opaque)->sim, fd);
}

static int hooked_set_nonblocking_(void *opaque, int fd)
{
    const struct vfiomig_device_ops *ops = hooked_enter_(opaque, VFIOMIG_SIM_OP_ANY);
    return ops->data_set_nonblocking(((struct hooked *)opaque)->sim, fd);
}

static int hooked_identity_(void *opaque, struct vfiomig_identity *identity)
{
    const struct vfiomig_device_ops *ops = hooked_enter_(opaque, VFIOMIG_SIM_OP_ANY);
    return ops->identity(((struct hooked *)opaque)->sim, identity);
}

/* What it returns is vfiomig_sim_new()'s. The table has no release: the test frees the simulator. */
static inline int hooked_new(struct hooked *hooked, const struct vfiomig_sim_options *options,
                             void (*before)(struct hooked *, uint32_t))
{
    int r = vfiomig_sim_new(options, &hooked->sim);
    if (r < 0)
        return r;
    hooked->before = before;
    hooked->ops = *vfiomig_sim_ops(hooked->sim);
    hooked->ops.feature = hooked_feature_;
    hooked->ops.reset = hooked_reset_;
    hooked->ops.data_read = hooked_read_;
    hooked->ops.data_write = hooked_write_;
    hooked->ops.data_precopy_info = hooked_precopy_info_;
    hooked->ops.data_close = hooked_close_;
    hooked->ops.data_poll_fd = hooked_poll_fd_;
    hooked->ops.data_set_nonblocking = hooked_set_nonblocking_;
    hooked->ops.identity = hooked_identity_;
    /* Without hooks, they would be given another opaque. */
    hooked->ops.region_read = NULL;
    hooked->ops.device_info = NULL;
    hooked->ops.region_info = NULL;
    hooked->ops.region_write = NULL;
    hooked->ops.release = NULL;
    return 0;
}

#endif
