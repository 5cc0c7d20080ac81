/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Structures grow: a caller that is newer than the library passes longer ones. That works as far as
 * it can, and what cannot be honoured is refused.
 */
#include "idle.h"
#include "scratch.h"

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

/* The numbers are sizes of the first release, 0.1.0. They stay as they are when structures grow. */
static void a_caller_older_than_the_first_version(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    options.struct_size = 48 - 4;
    EQ(vfiomig_save_begin(rig.dev, &options, &save), -EINVAL);
    HAS(vfiomig_error_message(), "_INIT");
    options.struct_size = 48;
    OK(vfiomig_save_begin(rig.dev, &options, &save));
    vfiomig_save_free(save);
    caps.struct_size = 32 - 4;
    EQ(vfiomig_device_get_caps(rig.dev, &caps), -EINVAL);
    EQ(caps.migration_flags, 0);
    caps.struct_size = 32;
    OK(vfiomig_device_get_caps(rig.dev, &caps));
    EQ(caps.migration_flags, 7);
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

/* A structure has at most 64 KiB, for the simulator as for the library. */
static void options_of_the_simulator_grow_as_well(void)
{
    static union {
        struct vfiomig_sim_options known;
        unsigned char bytes[(64 << 10) + 1];
    } options;
    uint32_t most = sizeof options.bytes - 1;
    struct vfiomig_sim *sim;
    options.known.struct_size = most;
    EQ(vfiomig_sim_new(&options.known, &sim), 0);
    vfiomig_sim_free(sim);
    options.bytes[most - 1] = 1;
    EQ(vfiomig_sim_new(&options.known, &sim), -E2BIG);
    options.bytes[most - 1] = 0;
    options.known.struct_size = most + 1;
    EQ(vfiomig_sim_new(&options.known, &sim), -EINVAL);
}

/* Members that are reserved today will get a meaning one day, so nobody may leave garbage in
 * them. */
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

struct longer_checkpoint_options {
    struct vfiomig_checkpoint_options known;
    uint8_t future[24];
};

struct longer_restore_options {
    struct vfiomig_restore_options known;
    uint8_t future[24];
};

struct longer_restore_info {
    struct vfiomig_restore_info known;
    uint8_t future[24];
};

static void checkpoints_take_longer_structures(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct longer_checkpoint_options taking = { .known = { .struct_size = sizeof taking } };
    struct longer_restore_options reading = { .known = { .struct_size = sizeof reading } };
    struct longer_restore_info info = { .known = { .struct_size = sizeof info }, .future = { 1 } };
    struct vfiomig_checkpoint *cp = NULL;
    struct vfiomig_restore *restore = NULL;
    taking.future[23] = 1;
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &taking.known, &cp), -E2BIG);
    taking.future[23] = 0;
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &taking.known, &cp));
    OK(all_steps(cp, &rig.dev, 1));
    vfiomig_checkpoint_free(cp);
    reading.future[0] = 1;
    EQ(vfiomig_restore_open(AT_FDCWD, s.file, &reading.known, &restore), -E2BIG);
    reading.future[0] = 0;
    OK(vfiomig_restore_open(AT_FDCWD, s.file, &reading.known, &restore));
    OK(vfiomig_restore_get_info(restore, &info.known));
    EQ(info.known.num_devices, 1);
    EQ(info.future[0], 0);
    info.known.struct_size = 56 - 4; /* less than in 0.1.0 */
    EQ(vfiomig_restore_get_info(restore, &info.known), -EINVAL);
    vfiomig_restore_free(restore);
    rig_free(&rig);
    scratch_free(&s);
}

struct longer_writer {
    struct vfiomig_dirty_writer known;
    uint8_t future[24];
};

struct longer_tracker {
    struct vfiomig_tracker_ops known;
    uint8_t future[24];
};

static int released;

static void release(void *opaque)
{
    (void)opaque;
    released++;
}

/* A structure within a structure grows by itself; both may grow. */
static void structures_in_structures(void)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct longer_tracker tracker = { .known = { .struct_size = sizeof tracker } };
    struct longer_writer writer = { .known = { .struct_size = sizeof writer } };
    struct vfiomig_dirty *dirty;
    uint32_t number = 77;
    released = 0;
    tracker.known.page_size = 4096;
    tracker.known.sync = idle_sync;
    tracker.known.release = release;
    writer.known.flags = VFIOMIG_WRITER_CUSTOM;
    writer.known.tracker = &tracker.known;
    OK(vfiomig_dirty_new(&ops, NULL, NULL, &dirty));
    OK(vfiomig_dirty_add_writer(dirty, &writer.known, &number));
    EQ(number, 0);
    /* What is taken over is released, even if something else in the structure is unknown. */
    tracker.future[23] = 1;
    EQ(vfiomig_dirty_add_writer(dirty, &writer.known, &number), -E2BIG);
    EQ(released, 1);
    tracker.future[23] = 0;
    writer.future[0] = 1;
    EQ(vfiomig_dirty_add_writer(dirty, &writer.known, &number), -E2BIG);
    EQ(released, 2);
    EQ(number, 0);
    writer.future[0] = 0;
    tracker.known.struct_size = 48 - 4; /* less than in 0.1.0 */
    EQ(vfiomig_dirty_add_writer(dirty, &writer.known, &number), -EINVAL);
    HAS(vfiomig_error_message(), "_INIT");
    EQ(released, 2);
    vfiomig_dirty_free(dirty);
    EQ(released, 3);
}

/* What enumerate adds is checked in the same way as by vfiomig_dirty_map(). */
struct longer_mapping {
    struct vfiomig_mapping known;
    uint8_t future[8];
};

static int newer_enumerate(void *opaque, vfiomig_mapping_fn add, void *add_opaque)
{
    return add(add_opaque, opaque);
}

static void structures_that_callbacks_hand_in(void)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct longer_mapping mapping = { .known = { .struct_size = sizeof mapping, .size = 1 << 20 } };
    struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
    struct vfiomig_dirty *dirty;
    ops.enumerate = newer_enumerate;
    OK(vfiomig_dirty_new(&ops, &mapping, NULL, &dirty));
    mapping.future[7] = 1;
    EQ(vfiomig_dirty_start(dirty), -E2BIG);
    mapping.known.struct_size = 3;
    EQ(vfiomig_dirty_start(dirty), -EINVAL);
    OK(vfiomig_dirty_get_stats(dirty, &stats));
    EQ(stats.mapped_bytes, 0);
    mapping.known.struct_size = sizeof mapping;
    mapping.future[7] = 0;
    OK(vfiomig_dirty_start(dirty));
    OK(vfiomig_dirty_get_stats(dirty, &stats));
    EQ(stats.mapped_bytes, 1 << 20);
    vfiomig_dirty_free(dirty);
}

int main(void)
{
    RUN(a_newer_caller_that_uses_nothing_new);
    RUN(a_newer_caller_that_uses_something_new);
    RUN(a_caller_older_than_the_first_version);
    RUN(what_comes_out_fits_the_caller);
    RUN(sizes_that_cannot_be);
    RUN(options_of_the_simulator_grow_as_well);
    RUN(reserved_members_must_be_zero);
    RUN(checkpoints_take_longer_structures);
    RUN(structures_in_structures);
    RUN(structures_that_callbacks_hand_in);
    return DONE();
}
