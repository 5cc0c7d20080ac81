/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Streams that must not be loaded: cut off, extended, damaged, of another device, or made by hand
 * with correct framing and something else inside. Each is refused before or at the commit, the
 * device is reset, and it accepts a good stream afterwards.
 *
 * mtty does not check what a stream says about its ports, and indexes with it. A stream whose port
 * contents are wrong must never reach a commit here. All of it that reaches the driver is its
 * header. Where it is the driver that must refuse, the library's guard for mtty is left out;
 * guards.c is about that one.
 */
#include "lab.h"

/* What the target holds before each attempt, and still holds after a refusal. */
#define UNTOUCHED 7
#define GOOD 8

static struct lab_device source, target;
static struct vfiomig_device *from, *to;
/* A good stream from source to target. */
static struct lab_bytes good, data;

static void set_up(unsigned ports, uint32_t flags)
{
    from = lab_new(&source, ports, LAB_GROUP);
    to = lab_new(&target, ports, LAB_GROUP);
    lab_fill(&source, GOOD);
    lab_fill(&target, UNTOUCHED);
    good = lab_save(from, flags, 4096, VFIOMIG_ENDING_KEEP);
    data = lab_payload(&good);
}

/* After all the attempts: nothing of them arrived, and a good stream does. */
static void tear_down(void)
{
    lab_expect_contents(&target, UNTOUCHED);
    OK(lab_load(to, NULL, good.data, good.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, GOOD);
    lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
    lab_free(&good);
    lab_free(&data);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

/* The device was reset and knows of no session. */
static void expect_reset(const char *what)
{
    int state = lab_raw_state(target.fd);
    uint32_t fixups = 0;

    CHECK(state == VFIOMIG_STATE_RUNNING, "%s: the device is in %d afterwards", what, state);
    OK(vfiomig_device_get_fixups(to, &fixups));
    CHECK(fixups == (VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS), "%s: fix-ups %#x", what,
          fixups);
}

static int is_refusal_of_stream(int ret)
{
    return ret == -EPROTO || ret == -EBADMSG;
}

static void cut_off_at_every_byte(void)
{
    set_up(2, 0);
    for (size_t len = 0; len < good.len; len++) {
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        int ret = lab_load(to, NULL, good.data, len, 0, &failure);

        CHECK(ret == -ENODATA, "cut off at byte %zu of %zu: %d, expected %d", len, good.len, ret,
              -ENODATA);
        EXPECT(failure.code, -ENODATA);
        EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
        EXPECT(failure.state_after, VFIOMIG_STATE_RUNNING);
        expect_reset("cut off");
    }
    /* Not even asked to commit: the source has died, and the load is freed. */
    for (size_t len = 0; len <= good.len; len += 1 + (len != good.len - 1) * 9) {
        struct vfiomig_load *load = NULL;
        int ret;

        OK(vfiomig_load_begin(to, NULL, &load));
        ret = vfiomig_load_push(load, good.data, len);
        CHECK(ret >= 0, "%s", vfiomig_error_message());
        vfiomig_load_free(load);
        expect_reset("freed");
    }
    tear_down();
}

static void extended(void)
{
    struct lab_bytes longer = { 0 };

    set_up(2, 0);
    lab_append(&longer, good.data, good.len);
    lab_append(&longer, good.data, good.len);
    for (size_t more = 1; more <= good.len; more += more < 50 ? 1 : 40) {
        struct vfiomig_load *load = NULL;
        int ret;

        CALL(lab_load(to, NULL, longer.data, good.len + more, 0, NULL), -EPROTO);
        expect_reset("extended");
        /* After the end was reported, and in a push of its own. */
        OK(vfiomig_load_begin(to, NULL, &load));
        ret = vfiomig_load_push(load, good.data, good.len);
        CHECK(ret >= 0 && ret & VFIOMIG_PUSH_END, "%d", ret);
        CALL(vfiomig_load_push(load, longer.data + good.len, more), -EPROTO);
        CALL(vfiomig_load_commit(load), -EINVAL);
        vfiomig_load_free(load);
        expect_reset("extended afterwards");
    }
    lab_free(&longer);
    tear_down();
}

static void every_bit_flipped(void)
{
    set_up(2, 0);
    for (size_t bit = 0; bit < good.len * 8; bit++) {
        /* In one piece and in small ones, which take two different paths through the reader. */
        size_t piece = bit % 3 ? 0 : 1 + bit % 60;
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        int ret;

        good.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        ret = lab_load(to, NULL, good.data, good.len, piece, &failure);
        good.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        CHECK(is_refusal_of_stream(ret), "bit %zu of byte %zu of %zu flipped: %d (%s)", bit % 8,
              bit / 8, good.len, ret, vfiomig_error_message());
        EXPECT(failure.operation, VFIOMIG_OP_STREAM);
        EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
        expect_reset("bit flipped");
    }
    printf("%zu bits\n", good.len * 8);
    tear_down();
}

/* Whole frames missing, repeated or in another order: each frame is correct, the stream is not. */
static void frames_lost_doubled_and_swapped(void)
{
    struct {
        size_t at, len;
    } frames[32];
    struct lab_frame frame = { 0 };
    size_t count = 0;

    set_up(2, 0);
    while (lab_next_frame(&good, &frame) && count < 32) {
        frames[count].at = frame.offset;
        frames[count++].len = LAB_HEADER_LEN + frame.length;
    }
    CHECK(count >= 4, "only %zu frames", count);
    for (size_t i = 0; i < count; i++)
        for (int manner = 0; manner < 3; manner++) {
            struct lab_bytes made = { 0 };
            int ret;

            if (manner == 2 && i + 1 == count)
                continue;
            lab_append(&made, good.data, frames[i].at);
            if (manner == 2)
                lab_append(&made, good.data + frames[i + 1].at, frames[i + 1].len);
            if (manner >= 1)
                lab_append(&made, good.data + frames[i].at, frames[i].len);
            if (manner == 1)
                lab_append(&made, good.data + frames[i].at, frames[i].len);
            if (i + 1 + (manner == 2) < count)
                lab_append(&made, good.data + frames[i + 1 + (manner == 2)].at,
                           good.len - frames[i + 1 + (manner == 2)].at);
            ret = lab_load(to, NULL, made.data, made.len, 0, NULL);
            /* Without its last frame it is merely cut off. */
            CHECK(ret == (manner == 0 && i + 1 == count ? -ENODATA : -EPROTO),
                  "frame %zu %s: %d (%s)", i,
                  manner == 0   ? "lost"
                  : manner == 1 ? "doubled"
                                : "swapped",
                  ret, vfiomig_error_message());
            expect_reset("frames");
            lab_free(&made);
        }
    /* Frames of another stream of the same device, at the same place. */
    {
        struct lab_bytes other = lab_save(from, 0, 4096, VFIOMIG_ENDING_KEEP), made = { 0 };

        EXPECT(other.len, good.len);
        for (size_t i = 0; i < count; i++) {
            made.len = 0;
            lab_append(&made, good.data, good.len);
            memcpy(made.data + frames[i].at, other.data + frames[i].at, frames[i].len);
            CALL(lab_load(to, NULL, made.data, made.len, 0, NULL), -EBADMSG);
            expect_reset("frame of another stream");
        }
        lab_free(&made);
        lab_free(&other);
    }
    tear_down();
}

/*
 * An END that does not match what came. Its own checksum is right. Without the totals nobody would
 * notice that a frame was exchanged for one of an earlier attempt under the same name.
 */
static void with_totals_that_are_wrong(void)
{
    /* data bytes, data frames, blobs, digest, reserved */
    static const size_t fields[] = { 0, 7, 8, 15, 16, 19, 20, 23, 24, 31 };
    struct lab_frame frame = { 0 };
    struct lab_bytes first, second;
    struct vfiomig_device *again;
    struct lab_device other;

    set_up(2, 0);
    first = lab_reframe(&good, data.data, data.len, LAB_MTTY_HEADER);
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
        struct lab_maker maker = lab_make_begin();
        unsigned char totals[32];

        memset(&frame, 0, sizeof(frame));
        while (lab_next_frame(&first, &frame) && frame.type != LAB_END)
            lab_make_frame(&maker, frame.type, frame.payload, frame.length);
        memcpy(totals, frame.payload, sizeof(totals));
        totals[fields[i]] ^= 1;
        lab_make_frame(&maker, LAB_END, totals, sizeof(totals));
        EXPECT(maker.stream.len, first.len);
        CALL(lab_load(to, NULL, maker.stream.data, maker.stream.len, 0, NULL), -EPROTO);
        expect_reset("totals");
        lab_free(&maker.stream);
    }

    /* Another guest's contents, as correct as ours, in frames of the same name and number. */
    again = lab_new(&other, 2, LAB_GROUP);
    lab_fill(&other, GOOD + 1);
    second = lab_save(again, 0, 4096, VFIOMIG_ENDING_KEEP);
    {
        struct lab_bytes state = lab_payload(&second);

        lab_free(&second);
        second = lab_reframe(&good, state.data, state.len, LAB_MTTY_HEADER);
        lab_free(&state);
    }
    EXPECT(second.len, first.len);
    memset(&frame, 0, sizeof(frame));
    while (lab_next_frame(&first, &frame)) {
        size_t end = frame.offset + LAB_HEADER_LEN + frame.length;
        struct lab_bytes mixed = { 0 };

        if (frame.type != LAB_DATA ||
            !memcmp(frame.payload, second.data + frame.offset + LAB_HEADER_LEN, frame.length))
            continue;
        lab_append(&mixed, first.data, first.len);
        memcpy(mixed.data + frame.offset, second.data + frame.offset, end - frame.offset);
        CALL(lab_load(to, NULL, mixed.data, mixed.len, 0, NULL), -EPROTO);
        expect_reset("a frame of another attempt");
        lab_free(&mixed);
    }
    lab_free(&first);
    lab_free(&second);
    vfiomig_device_free(again);
    lab_close(&other);
    tear_down();
}

/* A stream of the other type of mtty: recognised by its identity, and by the driver. */
static void of_the_other_type(void)
{
    const unsigned *ports = lab_arg();
    uint32_t flags[] = { 0, VFIOMIG_SAVE_NO_PRE_COPY };

    for (int f = 0; f < 2; f++) {
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
        struct lab_device other;
        struct vfiomig_device *foreign;
        struct lab_bytes stream;

        options.flags = VFIOMIG_LOAD_NO_GUARD;
        set_up(*ports, flags[f]);
        foreign = lab_new(&other, 3 - *ports, LAB_GROUP);
        stream = lab_save(foreign, flags[f], 4096, VFIOMIG_ENDING_KEEP);
        CALL(lab_load(to, NULL, stream.data, stream.len, 0, &failure), -EXDEV);
        CHECK(strstr(vfiomig_error_message(), "mtty-1") &&
                  strstr(vfiomig_error_message(), "mtty-2"),
              "the message does not name both: \"%s\"", vfiomig_error_message());
        EXPECT(failure.operation, VFIOMIG_OP_STREAM);
        expect_reset("other type");

        for (int i = 0; i < 2; i++) {
            /* Two ports' data in one piece is too long for one port; otherwise the header is
             * wrong. */
            int too_long = *ports == 1 && flags[f];

            options.ignore = i ? VFIOMIG_IGNORE_ALL : VFIOMIG_IGNORE_MDEV_TYPE;
            CALL(lab_load(to, &options, stream.data, stream.len, i ? 5 : 0, &failure),
                 too_long ? -ENOMEM : -EINVAL);
            EXPECT(failure.operation, VFIOMIG_OP_DATA_WRITE);
            EXPECT(failure.os_errno, too_long ? ENOMEM : EFAULT);
            EXPECT(failure.state_before, VFIOMIG_STATE_RESUMING);
            EXPECT(failure.state_after, VFIOMIG_STATE_RUNNING);
            EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
            expect_reset("other type, refused by the driver");
        }
        lab_free(&stream);
        vfiomig_device_free(foreign);
        lab_close(&other);
        tear_down();
    }
}

/* Devices that differ in something only the VMM knows. */
static void with_another_vendor_string(void)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_load_options pass = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_device *one = NULL, *two = NULL;
    struct lab_bytes stream;

    set_up(2, 0);
    options.vendor_data = "firmware 3";
    options.vendor_data_len = 10;
    OK(vfiomig_device_new_fd(source.fd, &options, &one));
    options.vendor_data = "firmware 4";
    OK(vfiomig_device_new_fd(target.fd, &options, &two));
    stream = lab_save(one, 0, 4096, VFIOMIG_ENDING_KEEP);
    CALL(lab_load(two, NULL, stream.data, stream.len, 0, NULL), -EXDEV);
    EXPECT(lab_raw_state(target.fd), VFIOMIG_STATE_RUNNING);
    lab_expect_contents(&target, UNTOUCHED);
    pass.ignore = VFIOMIG_IGNORE_VENDOR_DATA;
    OK(lab_load(two, &pass, stream.data, stream.len, 0, NULL));
    OK(vfiomig_device_run(two));
    lab_expect_contents(&target, GOOD);
    lab_fill(&target, UNTOUCHED);
    lab_free(&stream);
    vfiomig_device_free(one);
    vfiomig_device_free(two);
    tear_down();
}

static void put_field(struct lab_bytes *identity, unsigned number, const void *value, size_t len)
{
    unsigned char head[4] = { (unsigned char)number, 0, (unsigned char)len, 0 };

    lab_append(identity, head, sizeof(head));
    lab_append(identity, value, len);
}

static struct lab_bytes make_with_identity(const struct lab_bytes *identity)
{
    struct lab_maker maker = lab_make_begin();

    lab_make_frame(&maker, LAB_IDENTITY, identity->data, identity->len);
    lab_make_frame(&maker, LAB_DATA, data.data, data.len);
    lab_make_end(&maker);
    return maker.stream;
}

/* What a stream does not say of its source does not count. */
static const struct vfiomig_compat_policy if_known = {
    .struct_size = sizeof(if_known),
    .others = VFIOMIG_RULE_IF_KNOWN,
};

/* Streams that say that they are of another model. */
static void of_another_model(void)
{
    static const unsigned char nic[9] = { 0xb3, 0x15, 0x1e, 0x10, 0xb3, 0x15, 0x23, 0 },
                               subsystem[9] = { 0x48, 0x43, 0x53, 0x32, 0x48, 0x43, 1, 0, 0x10 },
                               revision[9] = {
                                   0x48, 0x43, 0x53, 0x32, 0x48, 0x43, 0x53, 0x32, 0x11
                               };
    static const struct {
        const char *what;
        unsigned field;
        const void *value;
        size_t len;
        uint32_t ignore;
    } models[] = {
        { "bus", 1, "platform", 8, 0 },
        { "driver", 2, "mlx5_vfio_pci", 13, VFIOMIG_IGNORE_DRIVER },
        { "PCI device", 3, nic, 9, 0 },
        { "PCI subsystem", 3, subsystem, 9, VFIOMIG_IGNORE_PCI_SUBSYSTEM },
        { "PCI revision", 3, revision, 9, VFIOMIG_IGNORE_PCI_REVISION },
        { "mdev type", 4, "i915-GVTg_V5_8", 14, VFIOMIG_IGNORE_MDEV_TYPE },
    };

    set_up(2, 0);
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++) {
        struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
        struct lab_bytes identity = { 0 }, stream;

        put_field(&identity, models[i].field, models[i].value, models[i].len);
        stream = make_with_identity(&identity);
        options.compat = &if_known;
        CALL(lab_load(to, &options, stream.data, stream.len, 0, NULL), -EXDEV);
        CHECK(strstr(vfiomig_error_message(), models[i].what),
              "the message does not say \"%s\": \"%s\"", models[i].what, vfiomig_error_message());
        expect_reset(models[i].what);
        /* What may be ignored is what was refused, and nothing else in the stream is wrong. */
        options.ignore = models[i].ignore ? models[i].ignore : VFIOMIG_IGNORE_ALL;
        options.compat = models[i].ignore ? &if_known : NULL;
        OK(lab_load(to, &options, stream.data, stream.len, 0, NULL));
        OK(vfiomig_device_run(to));
        lab_fill(&target, UNTOUCHED);
        lab_free(&identity);
        lab_free(&stream);
    }
    tear_down();
}

/* Without the guard, which would refuse first. */
static struct vfiomig_load_options the_driver_judges(void)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;

    options.flags = VFIOMIG_LOAD_NO_GUARD;
    return options;
}

/* What a driver finds wrong: the framing is right, the device's own data is not. */
static void with_other_device_data_inside(void)
{
    static const struct {
        const char *what;
        size_t at;
        unsigned char value;
    } fields[] = {
        { "magic", 0, 0 },          { "magic's last byte", 7, 0 },
        { "major version", 8, 2 },  { "minor version", 12, 1 },
        { "port count", 16, 1 },    { "port count", 16, 3 },
        { "port count", 19, 0xff }, { "flags", 20, 1 },
        { "flags", 23, 0x80 },
    };
    static const size_t pieces[] = { 4096, LAB_MTTY_HEADER, 1 };
    struct vfiomig_load_options options = the_driver_judges();
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct lab_bytes stream;

    set_up(2, 0);
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
        for (size_t p = 0; p < 3; p++) {
            unsigned char was = data.data[fields[i].at];

            data.data[fields[i].at] = fields[i].value;
            stream = lab_reframe(&good, data.data, data.len, pieces[p]);
            data.data[fields[i].at] = was;
            CALL(lab_load(to, &options, stream.data, stream.len, 0, &failure), -EINVAL);
            EXPECT(failure.operation, VFIOMIG_OP_DATA_WRITE);
            EXPECT(failure.os_errno, EFAULT);
            EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
            expect_reset(fields[i].what);
            lab_free(&stream);
        }
    tear_down();
}

/* Too short or too long for the device, with totals that match. */
static void with_another_length(void)
{
    struct vfiomig_load_options options = the_driver_judges();
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    static const unsigned char more[64];
    struct lab_bytes stream;

    set_up(2, 0);
    for (size_t len = 1; len < data.len; len++) {
        stream = lab_reframe(&good, data.data, len, 40);
        CALL(lab_load(to, &options, stream.data, stream.len, 0, &failure), -EINVAL);
        EXPECT(failure.operation, VFIOMIG_OP_SET_STATE);
        EXPECT(failure.os_errno, EINVAL);
        EXPECT(failure.state_before, VFIOMIG_STATE_RESUMING);
        EXPECT(failure.state_wanted, VFIOMIG_STATE_STOP);
        EXPECT(failure.state_after, VFIOMIG_STATE_RUNNING);
        EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
        expect_reset("too short");
        lab_free(&stream);
    }
    /* Some drivers would accept no data at all as a state. */
    stream = lab_reframe(&good, data.data, 0, 40);
    CALL(lab_load(to, &options, stream.data, stream.len, 0, NULL), -ENODATA);
    expect_reset("empty");
    lab_free(&stream);
    for (size_t extra = 1; extra <= sizeof(more); extra += 21) {
        struct lab_bytes longer = { 0 };

        lab_append(&longer, data.data, data.len);
        lab_append(&longer, more, extra);
        stream = lab_reframe(&good, longer.data, longer.len, data.len);
        CALL(lab_load(to, &options, stream.data, stream.len, 0, &failure), -ENOMEM);
        EXPECT(failure.operation, VFIOMIG_OP_DATA_WRITE);
        EXPECT(failure.os_errno, ENOMEM);
        expect_reset("too long");
        lab_free(&stream);
        lab_free(&longer);
    }
    tear_down();
}

/* The control: what these tests frame by hand is loaded if nothing is wrong with it. */
static void made_by_hand_but_sound(void)
{
    static const unsigned char mark[8] = { 1 };
    static const size_t pieces[] = { 4096, LAB_MTTY_HEADER, 7, 1 };
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct lab_bytes stream;
    struct lab_maker maker;

    set_up(2, 0);
    for (size_t p = 0; p < sizeof(pieces) / sizeof(*pieces); p++) {
        stream = lab_reframe(&good, data.data, data.len, pieces[p]);
        OK(lab_load(to, NULL, stream.data, stream.len, 3 * p, NULL));
        OK(vfiomig_device_run(to));
        lab_expect_contents(&target, GOOD);
        lab_fill(&target, UNTOUCHED);
        lab_free(&stream);
    }
    /* What comes before a restart is void, even if it was complete and another device's. */
    maker = lab_make_begin();
    lab_make_frame(&maker, LAB_IDENTITY, NULL, 0);
    lab_make_frame(&maker, LAB_DATA, data.data, LAB_MTTY_HEADER);
    lab_make_frame(&maker, LAB_RESTART, mark, sizeof(mark));
    lab_make_frame(&maker, LAB_DATA, data.data, data.len);
    lab_make_end(&maker);
    options.compat = &if_known;
    OK(lab_load(to, &options, maker.stream.data, maker.stream.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, GOOD);
    lab_fill(&target, UNTOUCHED);
    lab_free(&maker.stream);
    tear_down();
}

static int refuse(void *opaque, const struct vfiomig_identity *is,
                  const struct vfiomig_identity *here)
{
    (void)is;
    (void)here;
    return *(const int *)opaque;
}

/* Refused by the VMM's own limits and callbacks. */
static void beyond_what_the_vmm_takes(void)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_save *save = NULL;
    struct lab_bytes stream = { 0 };
    int answer = -EPERM;

    set_up(2, VFIOMIG_SAVE_NO_PRE_COPY);
    options.max_total = LAB_MTTY_SIZE(2) - 1;
    CALL(lab_load(to, &options, good.data, good.len, 0, NULL), -EMSGSIZE);
    expect_reset("max_total");
    options.max_total = LAB_MTTY_SIZE(2);
    options.max_frame = LAB_MTTY_SIZE(2) - 1;
    CALL(lab_load(to, &options, good.data, good.len, 0, NULL), -EMSGSIZE);
    expect_reset("max_frame");
    options.max_frame = 0;
    options.policy = refuse;
    options.policy_opaque = &answer;
    CALL(lab_load(to, &options, good.data, good.len, 0, NULL), -EPERM);
    expect_reset("policy");

    OK(vfiomig_save_begin(from, NULL, &save));
    OK(vfiomig_save_add_blob(save, 1, "blob", 4));
    OK(vfiomig_save_stop(save));
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_END);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    CALL(lab_load(to, NULL, stream.data, stream.len, 0, NULL), -EOPNOTSUPP);
    expect_reset("blob");
    lab_free(&stream);
    tear_down();
}

/* For VMs with several devices of one kind: streams that the transport has mixed up. */
static void of_another_number_or_name(void)
{
    struct vfiomig_save_options saving = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_save *save = NULL;
    struct lab_bytes stream = { 0 };

    set_up(2, 0);
    saving.device_index = 3;
    memcpy(saving.migration_id, "one migration 01", 16);
    OK(vfiomig_save_begin(from, &saving, &save));
    OK(vfiomig_save_stop(save));
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_END);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);

    options.flags = VFIOMIG_LOAD_CHECK_DEVICE_INDEX | VFIOMIG_LOAD_CHECK_MIGRATION_ID;
    memcpy(options.migration_id, "one migration 01", 16);
    options.device_index = 2;
    CALL(lab_load(to, &options, stream.data, stream.len, 0, NULL), -EXDEV);
    expect_reset("device number");
    options.device_index = 3;
    options.migration_id[15]++;
    CALL(lab_load(to, &options, stream.data, stream.len, 0, NULL), -EXDEV);
    expect_reset("session");
    options.migration_id[15]--;
    OK(lab_load(to, &options, stream.data, stream.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, GOOD);
    lab_fill(&target, UNTOUCHED);
    lab_free(&stream);
    tear_down();
}

int main(void)
{
    static const unsigned ports[] = { 1, 2 };

    if (lab_boot() != 1)
        return 77;
    lab_run("hostile-control", made_by_hand_but_sound);
    lab_run("hostile-truncated", cut_off_at_every_byte);
    lab_run("hostile-extended", extended);
    lab_run("hostile-bit-flips", every_bit_flipped);
    lab_run("hostile-frames", frames_lost_doubled_and_swapped);
    lab_run("hostile-totals", with_totals_that_are_wrong);
    for (size_t i = 0; i < 2; i++)
        lab_run_arg(of_the_other_type, &ports[i], "hostile-mtty-%u-into-mtty-%u", 3 - ports[i],
                    ports[i]);
    lab_run("hostile-vendor-string", with_another_vendor_string);
    lab_run("hostile-other-model", of_another_model);
    lab_run("hostile-device-data", with_other_device_data_inside);
    lab_run("hostile-length", with_another_length);
    lab_run("hostile-limits", beyond_what_the_vmm_takes);
    lab_run("hostile-number-and-name", of_another_number_or_name);
    return lab_status();
}
