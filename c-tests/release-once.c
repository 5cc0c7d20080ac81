/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Everything that comes with a release callback is released exactly once, even by calls that
 * fail. */
#include <sys/socket.h>
#include <unistd.h>

#include "idle.h"
#include "scratch.h"

static int events, blobs, policies, tables, logs;

static void release(void *opaque)
{
    ++*(int *)opaque;
}

static struct vfiomig_device_options device_options(void)
{
    struct vfiomig_device_options o = VFIOMIG_DEVICE_OPTIONS_INIT;
    o.event = idle_event;
    o.event_opaque = &events;
    o.event_release = release;
    return o;
}

static void a_table_and_options_of_a_device(void)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device_options options = device_options();
    struct vfiomig_device *dev;
    events = tables = 0;
    ops.feature = idle_feature;
    ops.release = release;
    OK(vfiomig_device_new_ops(&ops, &tables, &options, &dev));
    EQ(tables, 0);
    EQ(events, 0);
    vfiomig_device_free(dev);
    EQ(tables, 1);
    EQ(events, 1);
}

/* Every way in which creating a device can fail. */
static void a_device_that_was_not_created(void)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT, broken;
    struct vfiomig_device_options options = device_options(), wrong;
    struct vfiomig_device *dev;
    int expected = 0;
    events = tables = 0;
    ops.feature = idle_feature;
    ops.release = release;

    EQ(vfiomig_device_new_ops(&ops, &tables, &options, NULL), -EFAULT);
    EQ(tables, ++expected);
    EQ(events, expected);
    wrong = options;
    wrong.flags = 1u << 31;
    EQ(vfiomig_device_new_ops(&ops, &tables, &wrong, &dev), -EINVAL);
    EQ(tables, ++expected);
    EQ(events, expected);
    wrong = options;
    wrong.vendor_data = "x";
    wrong.vendor_data_len = 257;
    EQ(vfiomig_device_new_ops(&ops, &tables, &wrong, &dev), -EINVAL);
    EQ(tables, ++expected);
    EQ(events, expected);
    broken = ops;
    broken.feature = NULL;
    EQ(vfiomig_device_new_ops(&broken, &tables, &options, &dev), -EINVAL);
    EQ(tables, ++expected);
    EQ(events, expected);
    broken = ops;
    broken.reserved = 1;
    EQ(vfiomig_device_new_ops(&broken, &tables, &options, &dev), -EINVAL);
    EQ(tables, ++expected);
    EQ(events, expected);
    /* The options' own size is wrong, so nothing in them can be believed. */
    wrong = options;
    wrong.struct_size = 2;
    EQ(vfiomig_device_new_ops(&ops, &tables, &wrong, &dev), -EINVAL);
    EQ(tables, ++expected);
    EQ(events, expected - 1);
    /* The table cannot be read, so there is no release to call. The one in the options is
     * called. */
    events = 0;
    EQ(vfiomig_device_new_ops(NULL, &tables, &options, &dev), -EFAULT);
    EQ(tables, expected);
    EQ(events, 1);
    EQ(vfiomig_device_new_fd(-1, &options, &dev), -EINVAL);
    EQ(events, 2);
    EQ(vfiomig_device_new_fd(0, &options, NULL), -EFAULT);
    EQ(events, 3);
}

static void a_table_lives_as_long_as_the_sessions(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    vfiomig_device_free(rig.dev);
    EQ(vfiomig_sim_releases(rig.sim), 0);
    vfiomig_save_free(save);
    EQ(vfiomig_sim_releases(rig.sim), 1);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_sim_free(rig.sim);
}

static struct vfiomig_load_options load_options(void)
{
    struct vfiomig_load_options o = VFIOMIG_LOAD_OPTIONS_INIT;
    o.blob = idle_blob;
    o.blob_opaque = &blobs;
    o.blob_release = release;
    o.policy = idle_policy;
    o.policy_opaque = &policies;
    o.policy_release = release;
    return o;
}

static void callbacks_of_a_load(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load_options options = load_options();
    struct vfiomig_load *load;
    blobs = policies = 0;
    OK(vfiomig_load_begin(to.dev, &options, &load));
    CHECK(push_all(load, &stream, 5000) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    EQ(blobs, 0);
    EQ(policies, 0);
    vfiomig_load_free(load);
    EQ(blobs, 1);
    EQ(policies, 1);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void callbacks_of_a_load_that_did_not_begin(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_load_options options = load_options(), wrong;
    struct vfiomig_load *load, *second;
    blobs = policies = 0;
    EQ(vfiomig_load_begin(rig.dev, &options, NULL), -EFAULT);
    EQ(blobs, 1);
    EQ(policies, 1);
    wrong = options;
    wrong.ignore = 1u << 30;
    EQ(vfiomig_load_begin(rig.dev, &wrong, &load), -EINVAL);
    EQ(blobs, 2);
    EQ(policies, 2);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(vfiomig_load_begin(rig.dev, &options, &load), -EIO);
    EQ(blobs, 3);
    EQ(policies, 3);
    OK(vfiomig_load_begin(rig.dev, &options, &load));
    EQ(vfiomig_load_begin(rig.dev, &options, &second), -EBUSY);
    EQ(blobs, 4);
    EQ(policies, 4);
    vfiomig_load_free(load);
    EQ(blobs, 5);
    EQ(policies, 5);
    rig_free(&rig);
}

static void log_sink(void *opaque, uint32_t level, const char *target, const char *message)
{
    (void)opaque;
    (void)level;
    (void)target;
    (void)message;
}

static void a_log_callback(void)
{
    logs = 0;
    OK(vfiomig_log_set(log_sink, &logs, release, VFIOMIG_LOG_TRACE));
    EQ(logs, 0);
    OK(vfiomig_log_set(log_sink, &logs, release, VFIOMIG_LOG_ERROR));
    EQ(logs, 1);
    EQ(vfiomig_log_set(log_sink, &logs, release, 6), -EINVAL);
    EQ(logs, 2);
    OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF));
    EQ(logs, 3);
    OK(vfiomig_log_set(NULL, &logs, release, VFIOMIG_LOG_OFF));
    EQ(logs, 4);
}

static int memories, trackers;

static struct vfiomig_dirty *tracking_with_memory(void)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty *dirty;
    ops.release = release;
    OK(vfiomig_dirty_new(&ops, &memories, NULL, &dirty));
    return dirty;
}

static struct vfiomig_tracker_ops tracker_ops(void)
{
    struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;
    ops.page_size = 4096;
    ops.sync = idle_sync;
    ops.release = release;
    return ops;
}

static struct vfiomig_dirty_writer source_with(const struct vfiomig_tracker_ops *tracker)
{
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    writer.flags = VFIOMIG_WRITER_CUSTOM;
    writer.tracker = tracker;
    writer.tracker_opaque = &trackers;
    return writer;
}

static void memory_and_trackers_of_a_tracking_object(void)
{
    struct vfiomig_tracker_ops ops = tracker_ops();
    struct vfiomig_dirty_writer writer = source_with(&ops);
    uint32_t first, second, third;
    memories = trackers = 0;
    struct vfiomig_dirty *dirty = tracking_with_memory();
    OK(vfiomig_dirty_add_writer(dirty, &writer, &first));
    OK(vfiomig_dirty_start(dirty));
    OK(vfiomig_dirty_add_writer(dirty, &writer, &second));
    OK(vfiomig_dirty_add_writer(dirty, &writer, &third));
    EQ(trackers, 0);
    OK(vfiomig_dirty_remove_writer(dirty, second));
    EQ(trackers, 1);
    EQ(vfiomig_dirty_remove_writer(dirty, second), -ENODATA);
    OK(vfiomig_dirty_stop(dirty));
    OK(vfiomig_dirty_remove_writer(dirty, first));
    EQ(trackers, 2);
    OK(vfiomig_dirty_start(dirty));
    EQ(memories, 0);
    vfiomig_dirty_free(dirty);
    EQ(trackers, 3);
    EQ(memories, 1);
}

static void a_tracking_object_that_was_not_created(void)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT, broken;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;
    memories = 0;
    ops.release = release;
    EQ(vfiomig_dirty_new(&ops, &memories, NULL, NULL), -EFAULT);
    EQ(memories, 1);
    options.page_size = 1000;
    EQ(vfiomig_dirty_new(&ops, &memories, &options, &dirty), -EINVAL);
    EQ(memories, 2);
    options.struct_size = 1;
    EQ(vfiomig_dirty_new(&ops, &memories, &options, &dirty), -EINVAL);
    EQ(memories, 3);
    broken = ops;
    broken.reserved = 1;
    EQ(vfiomig_dirty_new(&broken, &memories, NULL, &dirty), -EINVAL);
    EQ(memories, 4);
    /* The table cannot be read, so there is no release to call. */
    EQ(vfiomig_dirty_new(NULL, &memories, NULL, &dirty), -EFAULT);
    broken.struct_size = 8;
    EQ(vfiomig_dirty_new(&broken, &memories, NULL, &dirty), -EINVAL);
    EQ(memories, 4);
}

/* Every way in which adding a writer can fail, including bad handles. */
static void a_source_that_was_not_added(void)
{
    struct vfiomig_tracker_ops ops = tracker_ops(), broken = ops;
    struct vfiomig_dirty_writer writer = source_with(&ops), wrong;
    struct vfiomig_dirty *dirty = tracking_with_memory();
    uint32_t number;
    int expected = 0;
    memories = trackers = 0;
    EQ(vfiomig_dirty_add_writer(NULL, &writer, &number), -EFAULT);
    EQ(trackers, ++expected);
    EQ(vfiomig_dirty_add_writer((void *)&writer, &writer, &number), -EBADF);
    EQ(trackers, ++expected);
    EQ(vfiomig_dirty_add_writer(dirty, &writer, NULL), -EFAULT);
    EQ(trackers, ++expected);
    wrong = writer;
    wrong.flags |= 1u << 20;
    EQ(vfiomig_dirty_add_writer(dirty, &wrong, &number), -EINVAL);
    EQ(trackers, ++expected);
    wrong = writer;
    wrong.flags |= VFIOMIG_WRITER_DEVICE_LOG;
    EQ(vfiomig_dirty_add_writer(dirty, &wrong, &number), -EFAULT);
    EQ(trackers, ++expected);
    wrong.device = (void *)dirty;
    EQ(vfiomig_dirty_add_writer(dirty, &wrong, &number), -EBADF);
    EQ(trackers, ++expected);
    broken.page_size = 100;
    wrong = source_with(&broken);
    EQ(vfiomig_dirty_add_writer(dirty, &wrong, &number), -EINVAL);
    EQ(trackers, ++expected);
    broken = ops;
    broken.sync = NULL;
    EQ(vfiomig_dirty_add_writer(dirty, &wrong, &number), -EINVAL);
    EQ(trackers, ++expected);
    /* A table that is there but was not asked for is not taken over; nor is one that cannot be
     * read. */
    wrong = writer;
    wrong.flags = 1u << 20;
    EQ(vfiomig_dirty_add_writer(dirty, &wrong, &number), -EINVAL);
    wrong = writer;
    wrong.tracker = NULL;
    EQ(vfiomig_dirty_add_writer(dirty, &wrong, &number), -EFAULT);
    EQ(vfiomig_dirty_add_writer(dirty, NULL, &number), -EFAULT);
    EQ(trackers, expected);
    EQ(memories, 0);
    vfiomig_dirty_free(dirty);
    EQ(trackers, expected);
    EQ(memories, 1);
}

/* Tracking keeps its writers' devices. */
static void a_device_lives_as_long_as_the_tracking_objects(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_dirty *both[2];
    uint32_t number;
    memories = 0;
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
    writer.device = rig.dev;
    for (int i = 0; i < 2; i++) {
        both[i] = tracking_with_memory();
        OK(vfiomig_dirty_add_writer(both[i], &writer, &number));
        writer.flags = 0; /* only to watch for its resets */
    }
    vfiomig_device_free(rig.dev);
    EQ(vfiomig_sim_releases(rig.sim), 0);
    OK(vfiomig_dirty_remove_writer(both[0], number));
    EQ(vfiomig_sim_releases(rig.sim), 0);
    vfiomig_dirty_free(both[1]);
    EQ(vfiomig_sim_releases(rig.sim), 1);
    vfiomig_dirty_free(both[0]);
    EQ(vfiomig_sim_releases(rig.sim), 1);
    EQ(memories, 2);
    vfiomig_sim_free(rig.sim);
}

static int idle_key(void *opaque, uint32_t key_id, uint8_t *key)
{
    (void)opaque;
    (void)key_id;
    memset(key, 1, 32);
    return 0;
}

static int idle_mac_begin(void *opaque, uint32_t key_id)
{
    (void)opaque;
    (void)key_id;
    return 0;
}

static int idle_mac_update(void *opaque, const void *data, size_t len)
{
    (void)opaque;
    (void)data;
    (void)len;
    return 0;
}

static int idle_mac_finish(void *opaque, uint8_t *tag)
{
    (void)opaque;
    memset(tag, 1, 32);
    return 0;
}

/* Keys, and a MAC of the VMM's: with a save, with a load, and where neither begins. */
static void what_authenticates_a_stream(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct vfiomig_mac_ops mac = VFIOMIG_MAC_OPS_INIT;
    struct vfiomig_save_options saving = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options loading = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    mac.tag_len = 32;
    mac.begin = idle_mac_begin;
    mac.update = idle_mac_update;
    mac.finish = idle_mac_finish;
    mac.release = release;
    for (int own = 0; own < 2; own++) {
        struct vfiomig_auth auth = VFIOMIG_AUTH_INIT;
        int releases = 0;
        if (own) {
            auth.mac = &mac;
            auth.mac_opaque = &releases;
        } else {
            auth.get_key = idle_key;
            auth.get_key_opaque = &releases;
            auth.get_key_release = release;
        }
        saving.auth = loading.auth = &auth;
        EQ(vfiomig_save_begin(NULL, &saving, &save), -EFAULT);
        EQ(releases, 1);
        EQ(vfiomig_load_begin(NULL, &loading, &load), -EFAULT);
        EQ(releases, 2);
        OK(vfiomig_save_begin(from.dev, &saving, &save));
        OK(vfiomig_load_begin(to.dev, &loading, &load));
        CHECK(releases <= 3); /* a save has its key already */
        vfiomig_save_free(save);
        EQ(releases, 3);
        vfiomig_load_free(load);
        EQ(releases, 4);
    }
    rig_free(&from);
    rig_free(&to);
}

static int64_t idle_send(void *opaque, const void *data, size_t len)
{
    (void)opaque;
    (void)data;
    (void)len;
    return -EAGAIN;
}

static int64_t idle_receive(void *opaque, void *buf, size_t cap)
{
    (void)opaque;
    (void)buf;
    (void)cap;
    return -EAGAIN;
}

/* What carries a channel: with a group, and with one that does not take it. */
static void what_carries_a_channel(void)
{
    struct vfiomig_channel_options channel = VFIOMIG_CHANNEL_OPTIONS_INIT;
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_channel_ops ops = VFIOMIG_CHANNEL_OPS_INIT;
    struct vfiomig_group *group;
    int releases = 0, pair[2];
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ops.send = idle_send;
    ops.receive = idle_receive;
    ops.release = release;
    channel.fd = pair[0];
    channel.ops = &ops;
    channel.ops_opaque = &releases;
    EQ(vfiomig_group_add_channel(NULL, &channel), -EFAULT);
    EQ(releases, 1);
    options.role = VFIOMIG_GROUP_ROLE_TARGET;
    options.window = VFIOMIG_GROUP_MIN_WINDOW;
    OK(vfiomig_group_new(&options, &group));
    OK(vfiomig_group_add_channel(group, &channel));
    channel.fd = -1;
    EQ(vfiomig_group_add_channel(group, &channel), -EINVAL);
    EQ(releases, 2);
    vfiomig_group_free(group);
    EQ(releases, 3);
    EQ(close(pair[0]) + close(pair[1]), 0);
}

/* Keys of a checkpoint's, of a file's, and all that comes with the options of a device that is loaded
 * from it. */
static void callbacks_of_checkpoints(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_auth auth = VFIOMIG_AUTH_INIT;
    struct vfiomig_checkpoint_options taking = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct vfiomig_restore_options reading = VFIOMIG_RESTORE_OPTIONS_INIT;
    struct vfiomig_save_options saving = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options loading = load_options();
    struct vfiomig_checkpoint *cp;
    struct vfiomig_restore *restore;
    int releases = 0;
    auth.get_key = idle_key;
    auth.get_key_opaque = &releases;
    auth.get_key_release = release;
    taking.auth = reading.auth = &auth;
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.dir, &taking, &cp), -EINVAL);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, NULL, &taking, &cp), -EFAULT);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &taking, NULL), -EFAULT);
    taking.flags = 1u << 30;
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &taking, &cp), -EINVAL);
    taking.flags = 0, taking.note_len = 1;
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &taking, &cp), -EFAULT);
    taking.note_len = 0;
    EQ(vfiomig_restore_open(AT_FDCWD, s.file, &reading, &restore), -EINVAL);
    EQ(vfiomig_restore_open(AT_FDCWD, s.file, &reading, NULL), -EFAULT);
    reading.reserved = 1;
    EQ(vfiomig_restore_open(AT_FDCWD, s.file, &reading, &restore), -EINVAL);
    reading.reserved = 0;
    EQ(releases, 8);
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &taking, &cp));
    saving.auth = &auth;
    EQ(vfiomig_checkpoint_add(cp, rig.dev, "device", &saving), -EINVAL);
    EQ(vfiomig_checkpoint_add(NULL, rig.dev, "device", &saving), -EFAULT);
    EQ(vfiomig_checkpoint_add(cp, NULL, "device", &saving), -EFAULT);
    EQ(releases, 11);
    OK(all_steps(cp, &rig.dev, 1));
    EQ(releases, 11);
    vfiomig_checkpoint_free(cp);
    EQ(releases, 12);
    OK(vfiomig_restore_open(AT_FDCWD, s.file, &reading, &restore));
    blobs = policies = 0;
    EQ(vfiomig_restore_load(NULL, "dev0", rig.dev, &loading), -EFAULT);
    EQ(vfiomig_restore_load(restore, "dev1", rig.dev, &loading), -ENODATA);
    EQ(vfiomig_restore_load(restore, "dev0", NULL, &loading), -EFAULT);
    EQ(vfiomig_restore_load(restore, NULL, rig.dev, &loading), -EFAULT);
    OK(vfiomig_restore_load(restore, "dev0", rig.dev, &loading));
    EQ(blobs, 5);
    EQ(policies, 5);
    loading.auth = &auth;
    EQ(vfiomig_restore_load(restore, "dev0", rig.dev, &loading), -EINVAL);
    EQ(releases, 13);
    vfiomig_restore_free(restore);
    EQ(releases, 14);
    rig_free(&rig);
    scratch_free(&s);
}

/* The VMM's own judgement of a source: of a single one, and with a load. */
static void a_policy_that_decides(void)
{
    struct rig rig = rig_target(NULL);
    struct vfiomig_compat_policy policy = VFIOMIG_COMPAT_POLICY_INIT;
    struct vfiomig_identity one = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_verdict verdict = VFIOMIG_VERDICT_INIT;
    struct vfiomig_load_options loading = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    policies = 0;
    policy.decide = idle_policy;
    policy.decide_opaque = &policies;
    policy.decide_release = release;
    OK(vfiomig_device_get_identity(rig.dev, &one));
    OK(vfiomig_compat_judge(&one, &one, &policy, NULL, NULL, &verdict));
    EQ(policies, 1);
    EQ(vfiomig_compat_judge(NULL, &one, &policy, NULL, NULL, &verdict), -EFAULT);
    EQ(policies, 2);
    loading.compat = &policy;
    EQ(vfiomig_load_begin(NULL, &loading, &load), -EFAULT);
    EQ(policies, 3);
    OK(vfiomig_load_begin(rig.dev, &loading, &load));
    EQ(policies, 3);
    vfiomig_load_free(load);
    EQ(policies, 4);
    rig_free(&rig);
}

static int idle_guard(void *opaque, const void *data, size_t len, uint64_t offset)
{
    (void)opaque;
    (void)data;
    (void)len;
    (void)offset;
    return 0;
}

static void a_guard_of_a_load(void)
{
    struct rig rig = rig_target(NULL);
    struct vfiomig_guard_ops guard = VFIOMIG_GUARD_OPS_INIT;
    struct vfiomig_load_options loading = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    int releases = 0;
    guard.data = idle_guard;
    guard.release = release;
    loading.guard = &guard;
    loading.guard_opaque = &releases;
    EQ(vfiomig_load_begin(NULL, &loading, &load), -EFAULT);
    EQ(releases, 1);
    OK(vfiomig_load_begin(rig.dev, &loading, &load));
    EQ(releases, 1);
    vfiomig_load_free(load);
    EQ(releases, 2);
    rig_free(&rig);
}

/* Nobody will use an opaque without its callback. */
static void callbacks_that_are_not_there(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device_options options = device_options();
    struct vfiomig_load_options loading = load_options();
    struct vfiomig_device *dev;
    struct vfiomig_load *load;
    events = tables = blobs = policies = 0;
    options.event = NULL;
    ops.feature = idle_feature;
    ops.release = release;
    OK(vfiomig_device_new_ops(&ops, &tables, &options, &dev));
    EQ(events, 1);
    vfiomig_device_free(dev);
    EQ(events, 1);
    EQ(tables, 1);
    loading.blob = NULL;
    loading.policy = NULL;
    OK(vfiomig_load_begin(rig.dev, &loading, &load));
    EQ(blobs, 1);
    EQ(policies, 1);
    vfiomig_load_free(load);
    EQ(blobs, 1);
    EQ(policies, 1);
    rig_free(&rig);
}

static int entries, fields, decoders;

static void inspections_release(int entry, int field, int decoder)
{
    EQ(entries, entry);
    EQ(fields, field);
    EQ(decoders, decoder);
}

/* What struct vfiomig_inspect_options and struct vfiomig_decoder_ops bring. */
static void callbacks_of_an_inspection(void)
{
    struct vfiomig_decoder_ops ops = VFIOMIG_DECODER_OPS_INIT;
    struct vfiomig_inspect_options options = VFIOMIG_INSPECT_OPTIONS_INIT;
    struct vfiomig_inspect *inspect;
    ops.data = idle_decode;
    ops.release = release;
    options.entry_opaque = &entries;
    options.field_opaque = &fields;
    options.decoder_opaque = &decoders;
    options.entry_release = options.field_release = release;
    options.decoder = &ops;
    OK(vfiomig_inspect_new(&options, &inspect));
    inspections_release(0, 0, 0);
    vfiomig_inspect_free(inspect);
    inspections_release(1, 1, 1);

    EQ(vfiomig_inspect_new(&options, NULL), -EFAULT);
    inspections_release(2, 2, 2);
    options.reserved = 1;
    EQ(vfiomig_inspect_new(&options, &inspect), -EINVAL);
    inspections_release(3, 3, 3);
    options.reserved = 0;
    ops.reserved = 1;
    EQ(vfiomig_inspect_new(&options, &inspect), -EINVAL);
    inspections_release(4, 4, 4);
    ops.reserved = 0;
    ops.data = NULL;
    EQ(vfiomig_inspect_new(&options, &inspect), -EFAULT);
    inspections_release(5, 5, 5);
    /* The table cannot be read, so there is no release to call. */
    ops.struct_size = 8;
    EQ(vfiomig_inspect_new(&options, &inspect), -EINVAL);
    inspections_release(6, 6, 5);
    /* Nor are these. */
    options.struct_size = 2;
    EQ(vfiomig_inspect_new(&options, &inspect), -EINVAL);
    inspections_release(6, 6, 5);
}

/* Whatever is wrong with a handle or with what a newer header has, what can be read is released. */
static void callbacks_that_come_with_other_mistakes(void)
{
    struct {
        struct vfiomig_load_options options;
        uint64_t unknown;
    } newer = { load_options(), 1 };
    struct {
        struct vfiomig_device_options options;
        uint64_t unknown;
    } newer_device = { device_options(), 1 };
    struct {
        struct vfiomig_memory_ops ops;
        uint64_t unknown;
    } newer_memory = { VFIOMIG_MEMORY_OPS_INIT, 1 };
    struct {
        struct vfiomig_tracker_ops ops;
        uint64_t unknown;
    } newer_tracker = { tracker_ops(), 1 };
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_load *load;
    struct vfiomig_device *dev;
    struct vfiomig_dirty *dirty;
    uint32_t number;
    events = blobs = policies = memories = trackers = 0;
    newer.options.struct_size = sizeof newer;
    newer_device.options.struct_size = sizeof newer_device;
    newer_memory.ops.struct_size = sizeof newer_memory;
    newer_memory.ops.release = release;
    newer_tracker.ops.struct_size = sizeof newer_tracker;
    EQ(vfiomig_load_begin(rig.dev, &newer.options, &load), -E2BIG);
    newer.unknown = 0;
    EQ(vfiomig_load_begin(NULL, &newer.options, &load), -EFAULT);
    EQ(vfiomig_load_begin((void *)&rig, &newer.options, &load), -EBADF);
    EQ(blobs, 3);
    EQ(policies, 3);
    EQ(vfiomig_device_new_fd(0, &newer_device.options, &dev), -E2BIG);
    EQ(events, 1);
    EQ(vfiomig_dirty_new(&newer_memory.ops, &memories, NULL, &dirty), -E2BIG);
    EQ(memories, 1);
    dirty = tracking_with_memory();
    struct vfiomig_dirty_writer writer = source_with(&newer_tracker.ops);
    EQ(vfiomig_dirty_add_writer(dirty, &writer, &number), -E2BIG);
    EQ(trackers, 1);
    vfiomig_dirty_free(dirty);
    EQ(memories, 2);
    rig_free(&rig);
}

int main(void)
{
    RUN(a_table_and_options_of_a_device);
    RUN(a_device_that_was_not_created);
    RUN(a_table_lives_as_long_as_the_sessions);
    RUN(callbacks_of_a_load);
    RUN(callbacks_of_a_load_that_did_not_begin);
    RUN(a_log_callback);
    RUN(memory_and_trackers_of_a_tracking_object);
    RUN(a_tracking_object_that_was_not_created);
    RUN(a_source_that_was_not_added);
    RUN(a_device_lives_as_long_as_the_tracking_objects);
    RUN(what_authenticates_a_stream);
    RUN(what_carries_a_channel);
    RUN(callbacks_of_checkpoints);
    RUN(a_policy_that_decides);
    RUN(a_guard_of_a_load);
    RUN(callbacks_of_an_inspection);
    RUN(callbacks_that_are_not_there);
    RUN(callbacks_that_come_with_other_mistakes);
    return DONE();
}
