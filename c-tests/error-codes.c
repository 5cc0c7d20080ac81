/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The set of error codes is closed, and a VMM can reach each of them in some way: all but
 * ENOTRECOVERABLE, which only a bug of the library itself causes.
 */
#include <fcntl.h>
#include <unistd.h>

#include "rig.h"

static unsigned char reached[256];

/* A call that must return this code; the text must name the function and say something. */
#define REACH(call, errnum)                                       \
    do {                                                          \
        EQ(call, -(errnum));                                      \
        HAS(vfiomig_error_message(), "vfiomig_");                 \
        CHECK(strlen(vfiomig_error_message()) > 25);              \
        CHECK(!strchr(vfiomig_error_message(), '\n'));            \
        reached[errnum] = 1;                                      \
    } while (0)

static void of_the_caller(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct vfiomig_save *save, *second;
    struct vfiomig_device *dev;
    uint8_t buf[64];
    size_t len;
    REACH(vfiomig_device_get_caps(rig.dev, NULL), EFAULT);
    REACH(vfiomig_device_get_caps((struct vfiomig_device *)(uintptr_t)0x1234, &caps), EBADF);
    REACH(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP_COPY), EINVAL);
    REACH(vfiomig_device_get_reason(rig.dev, 1000, &reason), ENODATA);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    REACH(vfiomig_device_new_fd(null, NULL, &dev), ENOTTY);
    close(null);
    struct { struct vfiomig_save_options options; uint64_t future; } newer = {
        .options = { .struct_size = sizeof newer }, .future = 1,
    };
    REACH(vfiomig_save_begin(rig.dev, &newer.options, &save), E2BIG);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    REACH(vfiomig_save_begin(rig.dev, NULL, &second), EBUSY);
    REACH(vfiomig_save_next(save, buf, sizeof buf, &len), ENOSPC);
    OK(vfiomig_save_cancel(save));
    REACH(vfiomig_save_stop(save), ECANCELED);
    vfiomig_save_free(save);
    rig_free(&rig);
}

static void of_the_device(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_device_options disabled = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    struct bytes none = { NULL, 0, 0 };
    disabled.flags = VFIOMIG_DEVICE_DISABLED;
    struct rig rig = rig_new(NULL, &disabled);
    REACH(vfiomig_save_begin(rig.dev, NULL, &save), EPERM);
    REACH(vfiomig_load_begin(rig.dev, NULL, &load), EPERM);
    rig_free(&rig);

    o.migration_flags = VFIOMIG_SIM_NO_MIGRATION;
    rig = rig_new(&o, NULL);
    REACH(vfiomig_save_begin(rig.dev, NULL, &save), EOPNOTSUPP);
    rig_free(&rig);

    rig = rig_new(NULL, NULL);
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, ENOTCONN, VFIOMIG_SIM_FAULT_ONCE);
    REACH(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), EIO);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(vfiomig_save_stop(save));
    vfiomig_sim_guest_reset(rig.sim);
    REACH(read_until(save, &none, 8192, VFIOMIG_NEXT_END), ENODEV);
    vfiomig_save_free(save);
    vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, ENOMEM, VFIOMIG_SIM_FAULT_ONCE);
    REACH(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), ENOMEM);
    rig_free(&rig);

    struct vfiomig_save_options nonblocking = VFIOMIG_SAVE_OPTIONS_INIT;
    nonblocking.flags = VFIOMIG_SAVE_NONBLOCK;
    o = rig_options();
    o.quirks = VFIOMIG_SIM_NONBLOCKING;
    rig = rig_new(&o, NULL);
    OK(vfiomig_save_begin(rig.dev, &nonblocking, &save));
    REACH(read_until(save, &none, 8192, VFIOMIG_NEXT_DRAINED), EAGAIN);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&none);
}

/* Loads a stream with these options into a device of these: what that says. */
static int load(const struct bytes *stream, const struct vfiomig_load_options *options,
                const struct vfiomig_sim_options *device, uint32_t fault)
{
    struct rig to = rig_target(device);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, options, &load));
    if (fault)
        vfiomig_sim_inject(to.sim, VFIOMIG_SIM_OP_WRITE, 1, (int)fault, VFIOMIG_SIM_FAULT_STICKY);
    int r = push_all(load, stream, SIZE_MAX);
    vfiomig_load_free(load);
    rig_free(&to);
    return r;
}

static void of_the_stream(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_sim_options other = rig_options();
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    stream.data[stream.len / 2] ^= 2;
    REACH(load(&stream, NULL, NULL, 0), EBADMSG);
    stream.data[stream.len / 2] ^= 2;
    stream.data[0] ^= 2;
    REACH(load(&stream, NULL, NULL, 0), EPROTO);
    stream.data[0] ^= 2;
    options.max_total = 1000;
    REACH(load(&stream, &options, NULL, 0), EMSGSIZE);
    strcpy(other.driver, "another-driver");
    REACH(load(&stream, NULL, &other, 0), EXDEV);
    options.max_total = 0;
    options.write_timeout_ms = 20;
    REACH(load(&stream, &options, NULL, EAGAIN), ETIMEDOUT);
    rig_free(&from);
    bytes_free(&stream);
}

/* Whoever adds a code to the set must reach it here. */
static void no_code_is_forgotten(void)
{
    int set = 0;
    for (int code = 1; code < 256; code++) {
        int in_set = strcmp(vfiomig_error_describe(-code), "unknown error") != 0;
        set += in_set;
        if (in_set && !reached[code] && code != ENOTRECOVERABLE)
            FAIL("nothing here gives %d (%s)", -code, strerror(code));
        if (!in_set && reached[code])
            FAIL("%d (%s) is not in the set", -code, strerror(code));
    }
    EQ(set, 21);
    EQ(strcmp(vfiomig_error_describe(EINVAL), "unknown error"), 0);
}

int main(void)
{
    RUN(of_the_caller);
    RUN(of_the_device);
    RUN(of_the_stream);
    RUN(no_code_is_forgotten);
    return DONE();
}
