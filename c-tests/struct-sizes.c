/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Structures grow: a caller that is newer than the library passes longer ones. That works as far as
 * it can, and what cannot be honoured is refused.
 */
#include "rig.h"

struct longer_save_options {
    struct vfiomig_save_options known;
    uint8_t future[24];
};

static void a_newer_caller_that_uses_nothing_new(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct longer_save_options longer = { .known = { .struct_size = sizeof longer } };
    OK(vfiomig_save_begin(rig.dev, &longer.known, &save));
    vfiomig_save_free(save);
    rig_free(&rig);
}

static void a_newer_caller_that_uses_something_new(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save = NULL;
    for (size_t i = 0; i < 24; i++) {
        struct longer_save_options longer = { .known = { .struct_size = sizeof longer } };
        longer.future[i] = 1;
        EQ(vfiomig_save_begin(rig.dev, &longer.known, &save), -E2BIG);
    }
    CHECK(!save);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    rig_free(&rig);
}

/* Version 0.1 is the first: nothing is shorter than what it knows. */
static void a_caller_older_than_the_first_version(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    options.struct_size -= 4;
    EQ(vfiomig_save_begin(rig.dev, &options, &save), -EINVAL);
    HAS(vfiomig_error_message(), "_INIT");
    caps.struct_size -= 4;
    EQ(vfiomig_device_get_caps(rig.dev, &caps), -EINVAL);
    EQ(caps.migration_flags, 0);
    rig_free(&rig);
}

static void what_comes_out_fits_the_caller(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct { struct vfiomig_caps caps; uint8_t future[16]; } longer;
    memset(&longer, 0xff, sizeof longer);
    longer.caps.struct_size = sizeof longer;
    OK(vfiomig_device_get_caps(rig.dev, &longer.caps));
    EQ(longer.caps.struct_size, sizeof longer);
    EQ(longer.caps.migration_flags, 7);
    for (int i = 0; i < 16; i++)
        EQ(longer.future[i], 0);
    rig_free(&rig);
}

static void sizes_that_cannot_be(void)
{
    struct rig rig = rig_new(NULL, NULL);
    static const uint32_t sizes[] = { 0, 1, 3, 1u << 20, UINT32_MAX };
    for (int i = 0; i < 5; i++) {
        struct vfiomig_caps caps = { .struct_size = sizes[i] };
        struct vfiomig_save_options options = { .struct_size = sizes[i] };
        struct vfiomig_save *save;
        EQ(vfiomig_device_get_caps(rig.dev, &caps), -EINVAL);
        EQ(caps.struct_size, sizes[i]);
        EQ(vfiomig_save_begin(rig.dev, &options, &save), -EINVAL);
    }
    rig_free(&rig);
}

/* Members that are reserved today get a meaning one day: nobody may leave rubbish in them. */
static void reserved_members_must_be_zero(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options load_options = VFIOMIG_LOAD_OPTIONS_INIT;
    load_options.reserved = 1;
    EQ(vfiomig_load_begin(rig.dev, &load_options, &load), -EINVAL);
    options.flags = 1u << 20;
    EQ(vfiomig_save_begin(rig.dev, &options, &save), -EINVAL);
    rig_free(&rig);
}

int main(void)
{
    RUN(a_newer_caller_that_uses_nothing_new);
    RUN(a_newer_caller_that_uses_something_new);
    RUN(a_caller_older_than_the_first_version);
    RUN(what_comes_out_fits_the_caller);
    RUN(sizes_that_cannot_be);
    RUN(reserved_members_must_be_zero);
    return DONE();
}
