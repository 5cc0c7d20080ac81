/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A guest resets its device in the middle of a migration. Everything saved before is then void; the
 * guest writes new contents, and these must arrive. At every step of a save; the library is told,
 * is not told, or makes the reset itself.
 */
#include "lab.h"

#define BOTH_FIXUPS (VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS)

enum step {
    AFTER_BEGIN,
    AFTER_PREAMBLE,
    AFTER_IDENTITY,
    AFTER_DATA,
    AFTER_DRAINED,
    AFTER_QUIESCE,
    AFTER_DRAINED_QUIESCED,
    AFTER_STOP,
    AFTER_STOPPED_DATA,
    STEPS,
};

static const char *const step_names[STEPS] = {
    "begin",   "preamble",         "identity", "data",         "drained",
    "quiesce", "drained-quiesced", "stop",     "stopped-data",
};

enum manner {
    SILENT,       /* only the kernel knows */
    SILENT_ASKED, /* the VMM has asked for the state since */
    TOLD,         /* vfiomig_device_notify_reset() */
    BY_LIBRARY,   /* vfiomig_device_reset() */
    MANNERS,
};

static const char *const manner_names[MANNERS] = { "silent", "silent-asked", "told", "by-library" };

struct variety {
    enum step step;
    enum manner manner;
    uint32_t flags;
    unsigned times;
};

static void reset(const struct lab_device *device, struct vfiomig_device *handle,
                  enum manner manner)
{
    uint32_t state;

    if (manner == BY_LIBRARY)
        OK(vfiomig_device_reset(handle));
    else
        OK(lab_raw_reset(device->fd));
    if (manner == TOLD)
        OK(vfiomig_device_notify_reset(handle));
    if (manner == SILENT_ASKED) {
        OK(vfiomig_device_get_state(handle, &state));
        EXPECT(state, VFIOMIG_STATE_RUNNING);
    }
    if (lab_raw_state(device->fd) != VFIOMIG_STATE_RUNNING)
        FAIL("the device is in %d after a reset", lab_raw_state(device->fd));
}

/* Takes one piece; any status before the end is fine. */
static int one(struct vfiomig_save *save, struct lab_bytes *stream)
{
    unsigned char buf[4096];
    size_t len = 0;
    int ret = vfiomig_save_next(save, buf, sizeof(buf), &len);

    if (ret >= 0)
        lab_append(stream, buf, len);
    return ret;
}

/* What brings the save this far. */
static void take(enum step step, const struct variety *v, struct vfiomig_save *save,
                 struct lab_bytes *stream)
{
    switch (step) {
    case AFTER_PREAMBLE:
    case AFTER_IDENTITY:
        CALL(one(save, stream), VFIOMIG_NEXT_MORE);
        break;
    case AFTER_DATA:
        /* A restart's frame may come first. */
        CHECK(one(save, stream) >= 0, "%s", vfiomig_error_message());
        break;
    case AFTER_DRAINED:
    case AFTER_DRAINED_QUIESCED:
        CALL(lab_pump(save, stream, 4096), VFIOMIG_NEXT_DRAINED);
        break;
    case AFTER_QUIESCE:
        OK(lab_insist(vfiomig_save_quiesce, save));
        break;
    case AFTER_STOP:
        OK(lab_insist(vfiomig_save_stop, save));
        break;
    case AFTER_STOPPED_DATA:
        /* After this, nothing that nobody knows of can start again. */
        if (v->step == AFTER_STOPPED_DATA)
            CALL(one(save, stream), VFIOMIG_NEXT_MORE);
        break;
    case AFTER_BEGIN:
    case STEPS:
        break;
    }
}

/*
 * The guest is stopped (it is when its devices are quiesced), so it was not the guest. Its state in
 * the device is lost, whoever noticed. The stream is dead, and the device is not run until the VMM
 * says so.
 */
static void the_save_is_over(const struct variety *v, const struct lab_device *source,
                             struct vfiomig_device *from, struct vfiomig_save *save,
                             struct lab_bytes *stream)
{
    uint32_t fixups;

    CALL(lab_pump(save, stream, 4096),
         v->manner == SILENT && v->step >= AFTER_STOP ? -ENODEV : -EIO);
    CALL(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP), -EIO);
    lab_expect_state(source, from, VFIOMIG_STATE_RUNNING);
    lab_expect_contents(source, 30 + v->times - 1);
    vfiomig_save_free(save);
    OK(vfiomig_device_get_fixups(from, &fixups));
    EXPECT(fixups, BOTH_FIXUPS);
    CALL(vfiomig_device_run(from), -EIO);
    OK(vfiomig_device_accept_reset(from));
    OK(vfiomig_device_run(from));
}

static void the_save_goes_on(const struct variety *v, const struct lab_device *source,
                             struct vfiomig_device *from, struct vfiomig_save *save,
                             struct lab_bytes *stream)
{
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    int pre_copy = !(v->flags & VFIOMIG_SAVE_NO_PRE_COPY);
    struct lab_device target;
    struct vfiomig_device *to = lab_new(&target, 2, LAB_GROUP);
    uint32_t fixups;

    lab_fill(&target, 20);
    CALL(lab_pump(save, stream, 4096), VFIOMIG_NEXT_END);
    OK(vfiomig_save_get_stats(save, &stats));
    if (v->manner >= TOLD || pre_copy)
        CHECK(stats.restarts >= 1 && stats.restarts <= v->times, "%llu restarts after %u resets",
              (unsigned long long)stats.restarts, v->times);
    CALL(lab_load(to, NULL, stream->data, stream->len, 11, NULL), 0);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_save_free(save);
    lab_expect_state(source, from, VFIOMIG_STATE_STOP);
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, 30 + v->times - 1);
    OK(vfiomig_device_get_fixups(from, &fixups));
    /* Without a stream that dies, nobody can know that a running device was reset. */
    EXPECT(fixups, v->manner >= TOLD || pre_copy ? BOTH_FIXUPS : 0);
    vfiomig_device_free(to);
    lab_close(&target);
}

static void the_save_starts_again(void)
{
    const struct variety *v = lab_arg();
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    int is_over = v->manner <= TOLD && v->step >= AFTER_QUIESCE;
    struct lab_device source;
    struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP);
    struct lab_bytes stream = { 0 };
    struct vfiomig_save *save = NULL;

    lab_fill(&source, 10);
    options.flags = v->flags;
    OK(vfiomig_save_begin(from, &options, &save));
    for (enum step step = AFTER_BEGIN; step < STEPS; step++) {
        take(step, v, save, &stream);
        if (step != v->step)
            continue;
        for (unsigned i = 0; i < v->times; i++) {
            reset(&source, from, v->manner);
            /* The guest's driver sets its device up again, with something else in it. */
            lab_fill(&source, 30 + i);
        }
        if (is_over)
            break;
    }
    if (is_over)
        the_save_is_over(v, &source, from, save, &stream);
    else
        the_save_goes_on(v, &source, from, save, &stream);
    lab_free(&stream);
    vfiomig_device_free(from);
    lab_close(&source);
}

/* A reset between the end of the stream and the release: the stream is complete, and is loaded. */
static void a_reset_after_the_end_does_no_harm(void)
{
    for (enum manner manner = SILENT; manner < MANNERS; manner++) {
        struct lab_device source, target;
        struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP),
                              *to = lab_new(&target, 2, LAB_GROUP);
        struct lab_bytes stream = { 0 };
        struct vfiomig_save *save;

        lab_fill(&source, 40);
        save = lab_save_begin_to_end(from, 0, 4096, &stream);
        reset(&source, from, manner);
        OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
        vfiomig_save_free(save);
        lab_expect_state(&source, from, VFIOMIG_STATE_STOP);
        OK(vfiomig_device_run(to));
        lab_expect_contents(&target, 40);
        lab_free(&stream);
        vfiomig_device_free(from);
        vfiomig_device_free(to);
        lab_remove(&source);
        lab_remove(&target);
    }
}

/* A device that is reset again and again eventually ends its save, and is kept. */
static void restarts_have_a_limit(void)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct lab_device source;
    struct vfiomig_device *from = lab_new(&source, 1, LAB_GROUP);
    struct lab_bytes stream = { 0 };
    struct vfiomig_save *save = NULL;

    options.max_restarts = 3;
    lab_fill(&source, 50);
    OK(vfiomig_save_begin(from, &options, &save));
    for (unsigned i = 0; i < 3; i++) {
        CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
        OK(lab_raw_reset(source.fd));
    }
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
    OK(lab_raw_reset(source.fd));
    CALL(lab_pump(save, &stream, 4096), -ENODEV);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
    lab_expect_contents(&source, 50);
    lab_free(&stream);
    vfiomig_device_free(from);
    lab_close(&source);
}

/*
 * A reset of a device that is being loaded loses what it was given. However late, the load must not
 * end well: a commit that "succeeds" on a reset device would run a guest on nothing.
 */
static void a_load_fails(void)
{
    const struct variety *v = lab_arg();
    enum manner manner = v->manner;
    struct lab_device source, target;
    struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP),
                          *to = lab_new(&target, 2, LAB_GROUP);
    struct lab_bytes stream;
    struct lab_frame frame = { 0 };
    size_t cuts[5] = { 0, LAB_PREAMBLE_LEN };
    unsigned num_cuts = 3;

    lab_fill(&source, 60);
    stream = lab_save(from, 0, 4096, VFIOMIG_ENDING_KEEP);
    while (lab_next_frame(&stream, &frame))
        if (frame.type == LAB_DATA)
            cuts[num_cuts - 1] = frame.offset + LAB_HEADER_LEN + frame.length, num_cuts++;
    cuts[num_cuts - 1] = stream.len;
    for (unsigned i = 0; i < num_cuts; i++) {
        struct vfiomig_load *load = NULL;
        int ret = 0;

        lab_fill(&target, 61);
        OK(vfiomig_load_begin(to, NULL, &load));
        ret = vfiomig_load_push(load, stream.data, cuts[i]);
        CHECK(ret >= 0, "%s", vfiomig_error_message());
        reset(&target, to, manner);
        if (cuts[i] < stream.len)
            ret = vfiomig_load_push(load, stream.data + cuts[i], stream.len - cuts[i]);
        if (ret >= 0)
            ret = vfiomig_load_commit(load);
        CHECK(ret == -ENODEV,
              "after a reset (%s) at byte %zu of %zu the load ended with %d, expected %d (%s)",
              manner_names[manner], cuts[i], stream.len, ret, -ENODEV,
              ret ? vfiomig_error_message() : "");
        vfiomig_load_free(load);
        lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
        lab_expect_contents(&target, 61);
    }
    OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, 60);
    lab_free(&stream);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

int main(void)
{
    static struct variety v;

    if (lab_boot() != 1)
        return 77;
    for (v.manner = SILENT; v.manner < MANNERS; v.manner++)
        for (v.step = AFTER_BEGIN; v.step < STEPS; v.step++) {
            v.times = 1 + v.step % 2;
            v.flags = 0;
            lab_run_arg(the_save_starts_again, &v, "flr-%s-after-%s", manner_names[v.manner],
                        step_names[v.step]);
        }
    for (v.manner = SILENT; v.manner < MANNERS; v.manner++) {
        v.step = AFTER_DRAINED;
        v.flags = VFIOMIG_SAVE_NO_PRE_COPY;
        lab_run_arg(the_save_starts_again, &v, "flr-%s-no-pre-copy", manner_names[v.manner]);
        lab_run_arg(a_load_fails, &v, "flr-%s-during-load", manner_names[v.manner]);
    }
    lab_run("flr-after-end", a_reset_after_the_end_does_no_harm);
    lab_run("flr-limit", restarts_have_a_limit);
    return lab_status();
}
