/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The main job: what one mtty holds is saved and loaded into another. Registers and FIFOs of all
 * ports must arrive, and saving the target again must give the same bytes, in every combination of
 * device type and of how source and target were opened.
 */
#include "lab.h"

#define BOTH_FIXUPS (VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS)
#define BLOB_KIND 0x50434931

struct variety {
    const char *name;
    unsigned ports;
    enum lab_how from, to;
    uint32_t flags;     /* of the save */
    uint32_t max_frame; /* of the save; 0: default */
    size_t cap;         /* of the buffer for save_next */
    size_t piece;       /* of what is pushed */
    int received;       /* into the library's memory instead of being pushed */
};

/* What the VMM sends along: here, the beginning of the PCI configuration space. */
static const unsigned char blob[] = { 0x48, 0x43, 0x53, 0x32, 0x07, 0x00, 0x00, 0x02, 0, 0xff };

struct seen {
    /* As bits: states that were entered, kinds of events. */
    unsigned states, kinds;
    unsigned blobs, initial_loaded;
    uint32_t fixups;
};

static void on_event(void *opaque, const struct vfiomig_event *event)
{
    struct seen *seen = opaque;

    seen->kinds |= 1u << event->kind;
    if (event->kind == VFIOMIG_EVENT_STATE_CHANGED)
        seen->states |= 1u << event->to;
    if (event->kind == VFIOMIG_EVENT_FIXUPS_NEEDED)
        seen->fixups |= event->fixups;
}

static int on_blob(void *opaque, uint32_t kind, const void *data, size_t len)
{
    struct seen *seen = opaque;

    EXPECT(kind, BLOB_KIND);
    EXPECT(len, sizeof(blob));
    CHECK(!memcmp(data, blob, len), "the blob arrived changed");
    seen->blobs++;
    return 0;
}

static struct vfiomig_device *new_watched(struct lab_device *device, unsigned ports,
                                          enum lab_how how, struct seen *seen)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_device *handle = NULL;

    lab_create(device, ports);
    lab_open(device, how);
    options.sysfs_path = device->sysfs;
    options.event = on_event;
    options.event_opaque = seen;
    OK(vfiomig_device_new_fd(device->fd, &options, &handle));
    return handle;
}

static struct vfiomig_save *save(const struct variety *v, const struct lab_device *device,
                                 struct vfiomig_device *handle, struct lab_bytes *stream)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    int pre_copy = !(v->flags & VFIOMIG_SAVE_NO_PRE_COPY);
    struct vfiomig_save *save = NULL;

    options.flags = v->flags;
    options.max_frame = v->max_frame;
    OK(vfiomig_save_begin(handle, &options, &save));
    lab_expect_state(device, handle, pre_copy ? VFIOMIG_STATE_PRE_COPY : VFIOMIG_STATE_RUNNING);
    OK(vfiomig_save_get_pending(save, &pending));
    EXPECT(pending.flags,
           VFIOMIG_PENDING_STOP_COPY_KNOWN | (pre_copy ? VFIOMIG_PENDING_PRE_COPY_KNOWN : 0));
    EXPECT(pending.initial_bytes, pre_copy ? LAB_MTTY_HEADER : 0);
    EXPECT(pending.stop_copy_bytes, LAB_MTTY_SIZE(v->ports));
    CALL(lab_pump(save, stream, v->cap), VFIOMIG_NEXT_DRAINED);
    if (pre_copy) {
        OK(vfiomig_save_get_pending(save, &pending));
        EXPECT(pending.initial_bytes, 0);
        EXPECT(pending.flags & VFIOMIG_PENDING_INITIAL_SENT, VFIOMIG_PENDING_INITIAL_SENT);
    }
    OK(vfiomig_save_add_blob(save, BLOB_KIND, blob, sizeof(blob)));
    OK(vfiomig_save_quiesce(save));
    lab_expect_state(device, handle,
                     pre_copy ? VFIOMIG_STATE_PRE_COPY_P2P : VFIOMIG_STATE_RUNNING_P2P);
    OK(vfiomig_save_stop(save));
    lab_expect_state(device, handle, VFIOMIG_STATE_STOP_COPY);
    CALL(lab_pump(save, stream, v->cap), VFIOMIG_NEXT_END);
    OK(vfiomig_save_get_stats(save, &stats));
    EXPECT(stats.data_bytes, LAB_MTTY_SIZE(v->ports));
    EXPECT(stats.precopy_bytes, pre_copy ? LAB_MTTY_HEADER : 0);
    EXPECT(stats.stream_bytes, stream->len);
    EXPECT(stats.restarts, 0);
    return save;
}

/* As recv() into the library's own memory would do. */
static int receive(struct vfiomig_load *load, const unsigned char *data, size_t *len)
{
    void *space = NULL;
    size_t room = 0;

    OK(vfiomig_load_get_space(load, &space, &room));
    CHECK(space && room > 0, "there is no space before the end");
    if (*len > room)
        *len = room;
    memcpy(space, data, *len);
    return vfiomig_load_push_received(load, *len);
}

static struct vfiomig_load *load(const struct variety *v, const struct lab_device *device,
                                 struct vfiomig_device *handle, const struct lab_bytes *stream,
                                 struct seen *seen)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    struct vfiomig_identity source = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_load *load = NULL;
    size_t piece = v->piece ? v->piece : stream->len;
    char type[16];
    int ret = -1;

    options.blob = on_blob;
    options.blob_opaque = seen;
    OK(vfiomig_load_begin(handle, &options, &load));
    lab_expect_state(device, handle, VFIOMIG_STATE_RESUMING);
    for (size_t at = 0, n; at < stream->len; at += n) {
        n = stream->len - at < piece ? stream->len - at : piece;

        ret = v->received ? receive(load, stream->data + at, &n)
                          : vfiomig_load_push(load, stream->data + at, n);
        CHECK(ret >= 0, "push at byte %zu returned %d: %s", at, ret, vfiomig_error_message());
        CHECK(!!(ret & VFIOMIG_PUSH_END) == (at + n == stream->len),
              "push returned %d at byte %zu of %zu", ret, at + n, stream->len);
        CHECK(!(ret & VFIOMIG_PUSH_RESTARTED), "push says that the source started again");
        seen->initial_loaded += !!(ret & VFIOMIG_PUSH_INITIAL_LOADED);
    }
    lab_expect_state(device, handle, VFIOMIG_STATE_RESUMING);
    OK(vfiomig_load_get_source_identity(load, &source));
    snprintf(type, sizeof(type), "mtty-%u", v->ports);
    CHECK(!strcmp(source.mdev_type, type), "the stream's mdev type is \"%s\", expected \"%s\"",
          source.mdev_type, type);
    EXPECT(source.migration_flags, 7);
    EXPECT(source.state_size, LAB_MTTY_SIZE(v->ports));
    OK(vfiomig_load_get_stats(load, &stats));
    EXPECT(stats.data_bytes, LAB_MTTY_SIZE(v->ports));
    EXPECT(stats.stream_bytes, stream->len);
    EXPECT(stats.blobs, 1);
    return load;
}

static void contents_arrive(void)
{
    const struct variety *v = lab_arg();
    int pre_copy = !(v->flags & VFIOMIG_SAVE_NO_PRE_COPY);
    struct seen source_saw = { 0 }, target_saw = { 0 };
    struct lab_device source, target;
    struct vfiomig_device *from, *to;
    struct lab_bytes stream = { 0 }, again, sent, loaded;
    struct vfiomig_save *saving;
    struct vfiomig_load *loading;
    uint32_t fixups;

    lab_need(v->from);
    lab_need(v->to);
    from = new_watched(&source, v->ports, v->from, &source_saw);
    to = new_watched(&target, v->ports, v->to, &target_saw);
    lab_fill(&source, 1);
    lab_fill(&target, 2);

    saving = save(v, &source, from, &stream);
    loading = load(v, &target, to, &stream, &target_saw);
    EXPECT(target_saw.blobs, 1);
    EXPECT(target_saw.initial_loaded, pre_copy);

    /* The driver accepts the state with the commit, and the source is released after that. */
    OK(vfiomig_load_commit(loading));
    lab_expect_state(&target, to, VFIOMIG_STATE_STOP);
    OK(vfiomig_device_get_fixups(to, &fixups));
    EXPECT(fixups, BOTH_FIXUPS);
    EXPECT(target_saw.fixups, BOTH_FIXUPS);
    OK(vfiomig_save_finish(saving, VFIOMIG_ENDING_RELEASE));
    lab_expect_state(&source, from, VFIOMIG_STATE_STOP);
    OK(vfiomig_device_get_fixups(from, &fixups));
    EXPECT(fixups, 0);
    vfiomig_save_free(saving);
    vfiomig_load_free(loading);
    lab_expect_state(&source, from, VFIOMIG_STATE_STOP);
    lab_expect_state(&target, to, VFIOMIG_STATE_STOP);

    /* Saved again, before reading the registers changes them: the same bytes. */
    again = lab_save(to, VFIOMIG_SAVE_NO_PRE_COPY, 4096, VFIOMIG_ENDING_KEEP);
    lab_expect_state(&target, to, VFIOMIG_STATE_STOP);
    sent = lab_payload(&stream);
    loaded = lab_payload(&again);
    EXPECT(sent.len, LAB_MTTY_SIZE(v->ports));
    EXPECT(loaded.len, sent.len);
    CHECK(!memcmp(sent.data, loaded.data, sent.len), "what the target holds is not what was sent");

    OK(vfiomig_device_run(to));
    lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
    OK(vfiomig_device_get_fixups(to, &fixups));
    EXPECT(fixups, 0);
    lab_expect_contents(&target, 1);
    /* Saving must not have disturbed the source. */
    lab_expect_contents(&source, 1);

#define STATE(name) (1u << VFIOMIG_STATE_##name)
    EXPECT(source_saw.states,
           STATE(STOP_COPY) | STATE(STOP) |
               (pre_copy ? STATE(PRE_COPY) | STATE(PRE_COPY_P2P) : STATE(RUNNING_P2P)));
    EXPECT(target_saw.states, STATE(RESUMING) | STATE(STOP) | STATE(STOP_COPY) | STATE(RUNNING));
    EXPECT(source_saw.kinds, 1u << VFIOMIG_EVENT_STATE_CHANGED);
    EXPECT(target_saw.kinds, 1u << VFIOMIG_EVENT_STATE_CHANGED | 1u << VFIOMIG_EVENT_FIXUPS_NEEDED);

    lab_free(&stream);
    lab_free(&again);
    lab_free(&sent);
    lab_free(&loaded);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

/* Kept after the end, a save is a checkpoint: the guest goes on, and the stream loads. */
static void a_kept_source_goes_on_and_its_stream_loads(void)
{
    struct lab_device source, target;
    struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP),
                          *to = lab_new(&target, 2, LAB_GROUP);
    struct lab_bytes stream;

    lab_fill(&source, 3);
    stream = lab_save(from, 0, 65536, VFIOMIG_ENDING_KEEP);
    lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
    lab_expect_contents(&source, 3);
    lab_fill(&source, 4);
    OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, 3);
    lab_expect_contents(&source, 4);
    lab_free(&stream);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

/* At every step at which a save can be given up, the source ends where it was, including its
 * contents. */
static void a_save_can_be_given_up_at_every_step(void)
{
    static const uint32_t origins[] = { VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP };

    for (size_t o = 0; o < 2; o++)
        for (unsigned step = 0; step < 8; step++)
            for (unsigned freed = 0; freed < 2; freed++) {
                struct lab_device source;
                struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP);
                struct lab_bytes stream = { 0 };
                struct vfiomig_save *save = NULL;

                lab_fill(&source, step);
                OK(vfiomig_device_set_state(from, origins[o]));
                OK(vfiomig_save_begin(from, NULL, &save));
                if (step >= 1)
                    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
                if (step >= 2)
                    OK(vfiomig_save_quiesce(save));
                if (step >= 3)
                    OK(vfiomig_save_stop(save));
                if (step == 4) {
                    unsigned char buf[4096];
                    size_t len;

                    CALL(vfiomig_save_next(save, buf, sizeof(buf), &len), VFIOMIG_NEXT_MORE);
                }
                if (step == 5)
                    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_END);
                if (step == 6) {
                    OK(vfiomig_save_cancel(save));
                    CALL(lab_pump(save, &stream, 4096), -ECANCELED);
                }
                if (step == 7)
                    CALL(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE), -EINVAL);
                if (!freed)
                    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
                vfiomig_save_free(save);
                lab_expect_state(&source, from, origins[o]);
                lab_expect_contents(&source, step);
                lab_free(&stream);
                vfiomig_device_free(from);
                lab_remove(&source);
            }
}

/* One of several devices: kept, but not let loose before the VMM has brought back the others. */
static void a_source_can_be_kept_quiesced(void)
{
    for (int ended = 0; ended < 2; ended++) {
        struct lab_device source;
        struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP);
        struct lab_bytes stream = { 0 };
        struct vfiomig_save *save = NULL;

        lab_fill(&source, 5);
        if (ended)
            save = lab_save_begin_to_end(from, 0, 4096, &stream);
        else
            OK(vfiomig_save_begin(from, NULL, &save));
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP_QUIESCED));
        lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING_P2P);
        vfiomig_save_free(save);
        lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING_P2P);
        OK(vfiomig_device_run(from));
        lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
        lab_expect_contents(&source, 5);
        lab_free(&stream);
        vfiomig_device_free(from);
        lab_remove(&source);
    }
}

int main(void)
{
    static const struct variety varieties[] = {
        { "pre-copy", 2, LAB_GROUP, LAB_GROUP, 0, 0, 1 << 20, 0, 0 },
        { "no-pre-copy", 2, LAB_GROUP, LAB_GROUP, VFIOMIG_SAVE_NO_PRE_COPY, 0, 1 << 20, 0, 0 },
        { "small-buffer", 2, LAB_GROUP, LAB_GROUP, 0, 0, VFIOMIG_MIN_BUFFER, 1, 0 },
        { "small-frames", 2, LAB_GROUP, LAB_GROUP, 0, 1, VFIOMIG_MIN_BUFFER, 7, 0 },
        { "small-frames-no-pre-copy", 2, LAB_GROUP, LAB_GROUP, VFIOMIG_SAVE_NO_PRE_COPY, 5,
          VFIOMIG_MIN_BUFFER, 1, 0 },
        { "nonblocking", 2, LAB_GROUP, LAB_GROUP, VFIOMIG_SAVE_NONBLOCK, 0, 8192, 64, 0 },
        { "one-port", 1, LAB_GROUP, LAB_GROUP, 0, 0, 1 << 20, 0, 0 },
        { "one-port-no-pre-copy", 1, LAB_GROUP, LAB_GROUP, VFIOMIG_SAVE_NO_PRE_COPY, 0, 4096, 1,
          0 },
        { "received", 2, LAB_GROUP, LAB_GROUP, 0, 0, 1 << 20, 0, 1 },
        { "received-in-pieces", 2, LAB_GROUP, LAB_GROUP, 0, 9, 4096, 3, 1 },
        { "cdev", 2, LAB_CDEV, LAB_CDEV, 0, 0, 1 << 20, 0, 0 },
        { "cdev-no-pre-copy", 2, LAB_CDEV, LAB_CDEV, VFIOMIG_SAVE_NO_PRE_COPY, 0, 4096, 13, 0 },
        { "cdev-one-port", 1, LAB_CDEV, LAB_CDEV, 0, 0, 4096, 1, 0 },
        { "group-to-cdev", 2, LAB_GROUP, LAB_CDEV, 0, 0, 1 << 20, 0, 0 },
        { "cdev-to-group", 2, LAB_CDEV, LAB_GROUP, 0, 0, 4096, 100, 0 },
    };

    if (lab_boot() != 1)
        return 77;
    for (size_t i = 0; i < sizeof(varieties) / sizeof(*varieties); i++)
        lab_run_arg(contents_arrive, &varieties[i], "save-load-%s", varieties[i].name);
    lab_run("save-load-checkpoint", a_kept_source_goes_on_and_its_stream_loads);
    lab_run("save-load-keep-quiesced", a_source_can_be_kept_quiesced);
    lab_run("save-load-give-up", a_save_can_be_given_up_at_every_step);
    return lab_status();
}
