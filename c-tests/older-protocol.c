/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Devices that speak v1, or the protocol of the RFC, are saved and loaded like any other; a device of
 * another protocol does not get their state; a table without regions has none. */
#include "rig.h"

static struct vfiomig_sim_options older_options(uint32_t protocol)
{
    struct vfiomig_sim_options o = rig_options();
    o.kind = protocol;
    o.window = 10000;
    return o;
}

static const uint32_t older[] = { VFIOMIG_PROTOCOL_V1, VFIOMIG_PROTOCOL_RFC };

/* The text of a reason that a device has. */
static const char *reason_text(struct vfiomig_device *dev, uint32_t code)
{
    static struct vfiomig_reason reason;
    for (uint32_t i = 0;; i++) {
        reason = (struct vfiomig_reason)VFIOMIG_REASON_INIT;
        OK(vfiomig_device_get_reason(dev, i, &reason));
        if (reason.code == code)
            return reason.text;
    }
}

static void what_is_saved_arrives(void)
{
    static const size_t buffers[] = { VFIOMIG_MIN_BUFFER, 10000, 1 << 20 };
    for (size_t i = 0; i < 6; i++) {
        struct vfiomig_sim_options o = older_options(older[i / 3]);
        struct rig from = rig_new(&o, NULL), to = rig_target(&o);
        struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_load *load;
        OK(vfiomig_device_get_identity(from.dev, &identity));
        EQ(identity.protocol, older[i / 3]);
        struct vfiomig_save *save = save_all(from.dev, NULL, buffers[i % 3], &stream);
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        /* It waits for the stream to say what it is. */
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        arrives(&from, &to, save, load, &stream);
    }
}

static void no_state_of_another_protocol(void)
{
    struct vfiomig_sim_options options[] = { rig_options(), older_options(older[0]),
                                             older_options(older[1]) };
    for (int pair = 0; pair < 9; pair++) {
        int i = pair % 3;
        if (pair / 3 == i)
            continue;
        struct rig from = rig_new(&options[pair / 3], NULL);
        struct rig to = rig_target(&options[i]);
        struct bytes stream = stream_of(from.dev);
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct vfiomig_load *load;
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        EQ(push_all(load, &stream, 1000), -EXDEV);
        OK(vfiomig_load_get_failure(load, &failure));
        EQ(failure.outcome, i ? VFIOMIG_OUTCOME_KEPT : VFIOMIG_OUTCOME_RESET);
        EQ(vfiomig_sim_count(to.sim, VFIOMIG_SIM_OP_WRITE), 0);
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        if (i)
            EQ(vfiomig_sim_count(to.sim, VFIOMIG_SIM_OP_SET_STATE), 0);
        vfiomig_load_free(load);
        rig_free(&from);
        rig_free(&to);
        bytes_free(&stream);
    }
}

/* A driver that relies on the order of the protocol's letter. */
static void the_order_of_the_letter_is_an_option(void)
{
    struct vfiomig_sim_options o = older_options(VFIOMIG_PROTOCOL_RFC);
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    o.quirks = VFIOMIG_SIM_FULL_BEFORE_LOGGING;
    struct rig from = rig_new(&o, NULL), to = rig_target(&o);
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    EQ(read_until(save, &stream, 10000, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 10000, VFIOMIG_NEXT_END), -EIO);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    bytes_free(&stream);
    options.flags = VFIOMIG_SAVE_FULL_BEFORE_LOGGING;
    save = save_all(from.dev, &options, 10000, &stream);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    arrives(&from, &to, save, load, &stream);
}

/* The RFC's bitmap is a log like any other. */
static void pages_that_it_wrote_to_are_dirty(void)
{
    struct vfiomig_sim_options o = older_options(VFIOMIG_PROTOCOL_RFC);
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_dirty_writer_stats stats = VFIOMIG_DIRTY_WRITER_STATS_INIT;
    struct vfiomig_dirty *dirty;
    struct rig rig = rig_new(&o, NULL);
    uint64_t bitmap[2] = { 0, 0 };
    uint32_t number;
    mapping.iova = 1 << 20;
    mapping.size = 128 * 4096;
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
    writer.device = rig.dev;
    OK(vfiomig_dirty_new(&ops, NULL, NULL, &dirty));
    OK(vfiomig_dirty_map(dirty, &mapping));
    OK(vfiomig_dirty_add_writer(dirty, &writer, &number));
    OK(vfiomig_dirty_start(dirty));
    OK(vfiomig_dirty_get_writer_stats(dirty, number, &stats));
    EQ(stats.tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_PRE_COPY);
    OK(vfiomig_sim_dma_write(rig.sim, (1 << 20) + 65 * 4096 + 9, 1));
    OK(vfiomig_dirty_sync(dirty, 1 << 20, 128 * 4096, 4096, bitmap, 2));
    CHECK(bitmap[0] == 0 && bitmap[1] == 2);
    OK(vfiomig_dirty_stop(dirty));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_dirty_free(dirty);
    rig_free(&rig);
}

static void qemus_format_cannot_carry_it(void)
{
    struct vfiomig_sim_options o = older_options(older[0]);
    struct rig rig = rig_new(&o, NULL);
    struct vfiomig_save_options save_options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options load_options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    save_options.format = load_options.format = VFIOMIG_FORMAT_QEMU;
    EQ(vfiomig_save_begin(rig.dev, &save_options, &save), -EOPNOTSUPP);
    EQ(vfiomig_load_begin(rig.dev, &load_options, &load), -EOPNOTSUPP);
    rig_free(&rig);
}

/* As a program that was compiled before the table had these members. */
static void an_older_table_has_no_regions(void)
{
    struct vfiomig_sim_options o = older_options(older[0]);
    struct rig rig;
    struct vfiomig_device_ops ops = rig_table(&rig, &o);
    ops.struct_size = offsetof(struct vfiomig_device_ops, device_info);
    rig_open(&rig, &ops, NULL);
    CHECK(reason_text(rig.dev, VFIOMIG_REASON_DRIVER_NO_MIGRATION)[0]);
    rig_free(&rig);
}

static void what_cannot_be_used_is_a_reason(void)
{
    static const struct {
        uint32_t protocol;
        uint64_t quirk;
        uint32_t code;
        const char *text;
    } cases[] = {
        { VFIOMIG_PROTOCOL_V1, VFIOMIG_SIM_MID_REGION, VFIOMIG_REASON_MID_PROTOCOL, "MID" },
        { VFIOMIG_PROTOCOL_V1, VFIOMIG_SIM_LOOPING_CHAIN, VFIOMIG_REASON_REGIONS_UNUSABLE,
          "backwards" },
        { VFIOMIG_PROTOCOL_V1, VFIOMIG_SIM_TWO_REGIONS, VFIOMIG_REASON_REGIONS_UNUSABLE, "two" },
        { VFIOMIG_PROTOCOL_RFC, VFIOMIG_SIM_OTHER_VERSION, VFIOMIG_REASON_REGIONS_UNUSABLE,
          "version 2" },
        { VFIOMIG_PROTOCOL_RFC, VFIOMIG_SIM_MISSING_REGION, VFIOMIG_REASON_REGIONS_UNUSABLE,
          "no dirty bitmap region" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vfiomig_sim_options o = older_options(cases[i].protocol);
        struct vfiomig_save *save;
        o.quirks = cases[i].quirk;
        struct rig rig = rig_new(&o, NULL);
        CHECK(strstr(reason_text(rig.dev, cases[i].code), cases[i].text));
        EQ(vfiomig_save_begin(rig.dev, NULL, &save), -EOPNOTSUPP);
        rig_free(&rig);
    }
}

int main(void)
{
    RUN(what_is_saved_arrives);
    RUN(no_state_of_another_protocol);
    RUN(the_order_of_the_letter_is_an_option);
    RUN(pages_that_it_wrote_to_are_dirty);
    RUN(qemus_format_cannot_carry_it);
    RUN(an_older_table_has_no_regions);
    RUN(what_cannot_be_used_is_a_reason);
    return DONE();
}
