/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Initial data. Both sides are told when all of it was sent and loaded, and told again when the
 * device starts it again; an acknowledgement from before does not count after that. Devices that
 * give no estimates are no exception, and the caller learns of a start at the last moment.
 */
#include "rig.h"

static struct vfiomig_pending pending_of(struct vfiomig_save *save)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    OK(vfiomig_save_get_pending(save, &pending));
    return pending;
}

static uint64_t loaded_generation(struct vfiomig_load *load)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    OK(vfiomig_load_get_stats(load, &stats));
    return stats.initial_generation;
}

static void both_sides_learn_of_a_new_beginning(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_PRECOPY_INFO_V2;
    struct rig from = rig_new(&o, NULL), to = rig_target(&o);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    struct vfiomig_pending pending = pending_of(save);
    CHECK(pending.flags & VFIOMIG_PENDING_PRE_COPY_KNOWN);
    CHECK(!(pending.flags & VFIOMIG_PENDING_INITIAL_SENT));
    CHECK(pending.initial_bytes > 0);
    EQ(loaded_generation(load), 0);

    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    pending = pending_of(save);
    CHECK(pending.flags & VFIOMIG_PENDING_INITIAL_SENT);
    EQ(pending.initial_bytes, 0);
    EQ(push_all(load, &stream, 1000), VFIOMIG_PUSH_INITIAL_LOADED);
    EQ(loaded_generation(load), pending.initial_generation);

    vfiomig_sim_reinit(from.sim);
    struct vfiomig_pending again = pending_of(save);
    CHECK(again.initial_generation > pending.initial_generation);
    CHECK(!(again.flags & VFIOMIG_PENDING_INITIAL_SENT));
    CHECK(loaded_generation(load) != again.initial_generation);
    stream.len = 0;
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(push_all(load, &stream, 1000), VFIOMIG_PUSH_INITIAL_LOADED);
    again = pending_of(save);
    EQ(loaded_generation(load), again.initial_generation);

    /* Even if nobody asks: reading finds out. */
    vfiomig_sim_reinit(from.sim);
    stream.len = 0;
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(push_all(load, &stream, 1000), VFIOMIG_PUSH_INITIAL_LOADED);
    CHECK(loaded_generation(load) > again.initial_generation);
    EQ(loaded_generation(load), pending_of(save).initial_generation);

    OK(vfiomig_save_stop(save));
    stream.len = 0;
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    arrives(&from, &to, save, load, &stream);
}

/* Flags without a meaning, because the kernel has no version 2, are not looked at. */
static void rubbish_of_older_kernels_is_ignored(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_FLAGS_ECHO;
    struct rig rig = rig_new(&o, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    uint32_t generation = pending_of(save).initial_generation;
    for (int i = 0; i < 5; i++)
        EQ(pending_of(save).initial_generation, generation);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

static void what_the_guest_changes_is_pending(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(pending_of(save).dirty_bytes, 0);
    EQ(vfiomig_sim_guest_write(rig.sim, 0, 50000, 4), 0);
    struct vfiomig_pending pending = pending_of(save);
    CHECK(pending.dirty_bytes >= 50000);
    CHECK(pending.flags & VFIOMIG_PENDING_STOP_COPY_KNOWN);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(pending_of(save).dirty_bytes, 0);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

/* Rounds of a save, and how often its target is told that all initial data has come. */
static int rounds(struct vfiomig_save *save, struct vfiomig_load *load, int n)
{
    int heard = 0;
    for (int i = 0; i < n; i++) {
        struct bytes stream = { NULL, 0, 0 };
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        int r = push_all(load, &stream, SIZE_MAX);
        CHECK(r >= 0);
        heard += (r & VFIOMIG_PUSH_INITIAL_LOADED) != 0;
        bytes_free(&stream);
    }
    return heard;
}

/* vfio-user servers have no estimates; a target that acknowledges must not wait forever. */
static void without_estimates_the_mark_comes_once_when_there_is_nothing_more(void)
{
    static const int errnos[] = { ENOTTY, EINVAL, EOPNOTSUPP, EIO };
    for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++) {
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        struct vfiomig_save *save;
        struct vfiomig_load *load;
        vfiomig_sim_inject(from.sim, VFIOMIG_SIM_OP_PRECOPY_INFO, 1, errnos[i],
                           VFIOMIG_SIM_FAULT_STICKY);
        OK(vfiomig_save_begin(from.dev, NULL, &save));
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        CHECK(!(pending_of(save).flags & VFIOMIG_PENDING_INITIAL_SENT));
        EQ(rounds(save, load, 1), 1);
        CHECK(pending_of(save).flags & VFIOMIG_PENDING_INITIAL_SENT);
        CHECK(!(pending_of(save).flags & VFIOMIG_PENDING_PRE_COPY_KNOWN));
        EQ(loaded_generation(load), pending_of(save).initial_generation);
        for (int round = 0; round < 5; round++) {
            EQ(vfiomig_sim_guest_write(from.sim, 0, 5000, (uint64_t)round), 0);
            EQ(rounds(save, load, 1), 0);
        }
        vfiomig_load_free(load);
        vfiomig_save_free(save);
        rig_free(&from);
        rig_free(&to);
    }
}

/* hisi_acc refuses its estimates in PRE_COPY_P2P. */
static void estimates_that_end_with_the_quiescing_keep_no_mark_back(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_P2P_INFO_EINVAL | VFIOMIG_SIM_DRAINED_ZERO;
    struct rig from = rig_new(&o, NULL), to = rig_target(&o);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    OK(vfiomig_save_quiesce(save));
    EQ(rounds(save, load, 4), 1);
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
}

/* "The mark was sent" means that the caller has it, and may wait for the answer. */
static void the_mark_is_sent_when_it_is_said_to_be(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    uint8_t buf[VFIOMIG_MIN_BUFFER];
    int r = 0, bits = 0, before = 0;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    for (size_t len; r != VFIOMIG_NEXT_DRAINED;) {
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
        CHECK(r >= 0);
        bits = vfiomig_load_push(load, buf, len);
        CHECK(bits >= 0);
        before |= bits;
        int sent = (pending_of(save).flags & VFIOMIG_PENDING_INITIAL_SENT) != 0;
        EQ(sent, (before & VFIOMIG_PUSH_INITIAL_LOADED) != 0);
    }
    CHECK(before & VFIOMIG_PUSH_INITIAL_LOADED);
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
}

/* Into QEMU's format as well; and for a QEMU that counts marks, only one of them. */
static void qemus_format_has_as_many_marks_as_were_asked_for(void)
{
    static const uint32_t ack = VFIOMIG_SAVE_SWITCHOVER_ACK, once = VFIOMIG_SAVE_ACK_ONCE;
    static const uint32_t none = VFIOMIG_SAVE_NO_PRE_COPY;
    static const struct {
        uint32_t flags;
        int info, first, second;
    } cases[] = {
        { 0, 0, 0, 0 },          { ack, 0, 1, 1 },          { ack | once, 0, 1, 0 },
        { ack, ENOTTY, 1, 0 },   { ack | once, EINVAL, 1, 0 }, { ack | none, 0, 1, 0 },
        { none, 0, 0, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct vfiomig_sim_options o = rig_options();
        struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
        struct vfiomig_load_options loading = VFIOMIG_LOAD_OPTIONS_INIT;
        struct vfiomig_save *save;
        struct vfiomig_load *load;
        o.quirks = VFIOMIG_SIM_PRECOPY_INFO_V2;
        options.format = loading.format = VFIOMIG_FORMAT_QEMU;
        options.flags = cases[i].flags;
        struct rig from = rig_new(&o, NULL), to = rig_target(&o);
        if (cases[i].info)
            vfiomig_sim_inject(from.sim, VFIOMIG_SIM_OP_PRECOPY_INFO, 1, cases[i].info,
                               VFIOMIG_SIM_FAULT_STICKY);
        OK(vfiomig_save_begin(from.dev, &options, &save));
        OK(vfiomig_load_begin(to.dev, &loading, &load));
        for (int part = 0; part < 2; part++) {
            int marks = 0, want = part ? cases[i].second : cases[i].first;
            for (int round = 0; round < 20; round++) {
                static uint8_t buf[VFIOMIG_QEMU_BUFFER];
                size_t len;
                CHECK(vfiomig_save_next(save, buf, sizeof buf, &len) >= 0);
                struct bytes section = { buf, len, 0 };
                int r = push_all(load, &section, SIZE_MAX);
                CHECK(r >= 0);
                marks += (r & VFIOMIG_PUSH_INITIAL_LOADED) != 0;
            }
            if (marks != want)
                FAIL("case %zu: %d marks instead of %d", i, marks, want);
            if (part == 0)
                vfiomig_sim_reinit(from.sim);
        }
        vfiomig_load_free(load);
        vfiomig_save_free(save);
        rig_free(&from);
        rig_free(&to);
    }
}

enum late { REINIT, RESET };

static void again_at_the_last_moment(enum late late, int (*call)(struct vfiomig_save *), int insist)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_PRECOPY_INFO_V2;
    struct rig from = rig_new(&o, NULL), to = rig_target(&o);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(rounds(save, load, 1), 1);
    uint32_t generation = pending_of(save).initial_generation;
    if (late == REINIT)
        vfiomig_sim_reinit(from.sim);
    else
        vfiomig_sim_guest_reset(from.sim);
    EQ(call(save), -EAGAIN);
    HAS(vfiomig_error_message(), "initial data");
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_PRE_COPY); /* before anything was stopped */
    struct vfiomig_pending pending = pending_of(save);
    CHECK(pending.initial_generation > generation);
    CHECK(!(pending.flags & VFIOMIG_PENDING_INITIAL_SENT));
    if (!insist) { /* the save goes on, and the next refusal is a new one */
        EQ(rounds(save, load, 1), 1);
        EQ(loaded_generation(load), pending.initial_generation);
        vfiomig_sim_reinit(from.sim);
        EQ(call(save), -EAGAIN);
        EQ(rounds(save, load, 1), 1);
    } else if (late == REINIT) { /* a driver that says so every time cannot keep the device running */
        vfiomig_sim_reinit(from.sim);
    }
    OK(call(save));
    if (call == vfiomig_save_quiesce)
        OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void stopping_is_refused_once_where_initial_data_began_again(void)
{
    for (int late = REINIT; late <= RESET; late++)
        for (int insist = 0; insist < 2; insist++) {
            again_at_the_last_moment((enum late)late, vfiomig_save_stop, insist);
            again_at_the_last_moment((enum late)late, vfiomig_save_quiesce, insist);
        }
}

static int always_again(void *opaque, int data_fd, struct vfiomig_precopy_info *info)
{
    (void)opaque;
    (void)data_fd;
    info->flags = 1; /* VFIO_PRECOPY_INFO_REINIT */
    info->initial_bytes = info->dirty_bytes = 0;
    return 0;
}

static void a_driver_that_always_begins_again_is_stopped_by_insisting(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct rig rig;
    o.quirks = VFIOMIG_SIM_PRECOPY_INFO_V2;
    struct vfiomig_device_ops ops = rig_table(&rig, &o);
    ops.data_precopy_info = always_again;
    rig_open(&rig, &ops, NULL);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    uint8_t buf[8192];
    for (int i = 0; i < 10; i++) {
        size_t len;
        CHECK(vfiomig_save_next(save, buf, sizeof buf, &len) >= 0);
    }
    EQ(vfiomig_save_quiesce(save), -EAGAIN);
    OK(vfiomig_save_quiesce(save));
    OK(vfiomig_save_stop(save)); /* what was insisted on is not refused halfway */
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

/* If nobody counts on initial data, or it cannot start again, nothing is refused or asked. */
static void stopping_costs_no_question_where_none_is_needed(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    for (int v2 = 0; v2 < 2; v2++) {
        o.quirks = v2 ? VFIOMIG_SIM_PRECOPY_INFO_V2 : 0;
        struct rig rig = rig_new(&o, NULL);
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        if (!v2)
            EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        else /* stopped in the middle of it */
            vfiomig_sim_reinit(rig.sim);
        uint64_t asked = vfiomig_sim_count(rig.sim, VFIOMIG_SIM_OP_PRECOPY_INFO);
        OK(vfiomig_save_quiesce(save));
        OK(vfiomig_save_stop(save));
        EQ(vfiomig_sim_count(rig.sim, VFIOMIG_SIM_OP_PRECOPY_INFO), asked);
        vfiomig_save_free(save);
        rig_free(&rig);
    }
    bytes_free(&stream);
}

int main(void)
{
    RUN(without_estimates_the_mark_comes_once_when_there_is_nothing_more);
    RUN(estimates_that_end_with_the_quiescing_keep_no_mark_back);
    RUN(the_mark_is_sent_when_it_is_said_to_be);
    RUN(qemus_format_has_as_many_marks_as_were_asked_for);
    RUN(stopping_is_refused_once_where_initial_data_began_again);
    RUN(a_driver_that_always_begins_again_is_stopped_by_insisting);
    RUN(stopping_costs_no_question_where_none_is_needed);
    RUN(both_sides_learn_of_a_new_beginning);
    RUN(rubbish_of_older_kernels_is_ignored);
    RUN(what_the_guest_changes_is_pending);
    return DONE();
}
