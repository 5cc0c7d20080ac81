/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Handles are numbers that can be checked: thousands at once, and no stale one is accepted. */
#include "idle.h"
#include "rig.h"

enum { MANY = 3000 };

static struct vfiomig_device *new_device(void)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device *dev;
    ops.feature = idle_feature;
    OK(vfiomig_device_new_ops(&ops, NULL, NULL, &dev));
    return dev;
}

static int use(struct vfiomig_device *dev)
{
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    return vfiomig_device_get_caps(dev, &caps);
}

static struct vfiomig_device *devices[MANY];

static void thousands_at_once(void)
{
    for (int i = 0; i < MANY; i++)
        devices[i] = new_device();
    for (int i = 0; i < MANY; i++)
        OK(use(devices[i]));
    /* Every other one is freed; the rest is untouched. */
    for (int i = 0; i < MANY; i += 2)
        vfiomig_device_free(devices[i]);
    for (int i = 0; i < MANY; i++)
        EQ(use(devices[i]), i % 2 ? 0 : -EBADF);
    /* New ones take the room, and the old handles do not refer to them. */
    static struct vfiomig_device *more[MANY / 2];
    for (int i = 0; i < MANY / 2; i++)
        more[i] = new_device();
    for (int i = 0; i < MANY; i += 2)
        EQ(use(devices[i]), -EBADF);
    for (int i = 0; i < MANY / 2; i++) {
        OK(use(more[i]));
        vfiomig_device_free(more[i]);
    }
    for (int i = 1; i < MANY; i += 2)
        vfiomig_device_free(devices[i]);
}

static void too_many_is_an_error_and_not_the_end(void)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    static struct vfiomig_device *all[100000];
    int n = 0, r = 0;
    ops.feature = idle_feature;
    while (n < 100000 && (r = vfiomig_device_new_ops(&ops, NULL, NULL, &all[n])) == 0)
        n++;
    if (n < 100000)
        EQ(r, -ENOMEM);
    CHECK(n >= MANY);
    for (int i = 0; i < n; i++)
        vfiomig_device_free(all[i]);
    vfiomig_device_free(new_device());
}

static void a_freed_handle_is_not_believed_for_long(void)
{
    struct vfiomig_device *old = new_device();
    vfiomig_device_free(old);
    /* The same slot is used again and again. */
    for (int i = 0; i < 4000; i++) {
        struct vfiomig_device *dev = new_device();
        CHECK(dev != old);
        EQ(use(old), -EBADF);
        vfiomig_device_free(dev);
    }
}

static void freeing_twice_frees_nothing_else(void)
{
    struct vfiomig_device *a = new_device();
    vfiomig_device_free(a);
    struct vfiomig_device *b = new_device();
    vfiomig_device_free(a);
    OK(use(b));
    vfiomig_device_free(b);
    vfiomig_device_free(NULL);
}

static void handles_of_another_kind_are_refused(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(vfiomig_save_quiesce((struct vfiomig_save *)rig.dev), -EBADF);
    EQ(vfiomig_device_reset((struct vfiomig_device *)save), -EBADF);
    EQ(vfiomig_load_get_stats((struct vfiomig_load *)save, &stats), -EBADF);
    EQ(vfiomig_load_cancel((struct vfiomig_load *)save), -EBADF);
    vfiomig_load_free((struct vfiomig_load *)save);
    vfiomig_device_free((struct vfiomig_device *)save);
    OK(vfiomig_save_quiesce(save));
    vfiomig_save_free(save);
    rig_free(&rig);
}

static void pointers_are_no_handles(void)
{
    static int memory[64];
    for (int i = 0; i < 64; i++)
        EQ(use((struct vfiomig_device *)(void *)&memory[i]), -EBADF);
    for (uintptr_t n = 1; n != 0; n <<= 1) {
        EQ(use((struct vfiomig_device *)n), -EBADF);
        EQ(use((struct vfiomig_device *)~n), -EBADF);
    }
    EQ(use(NULL), -EFAULT);
}

int main(void)
{
    RUN(thousands_at_once);
    RUN(too_many_is_an_error_and_not_the_end);
    RUN(a_freed_handle_is_not_believed_for_long);
    RUN(freeing_twice_frees_nothing_else);
    RUN(handles_of_another_kind_are_refused);
    RUN(pointers_are_no_handles);
    return DONE();
}
