/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A VM with two devices moves twice. The first time, its VMM does not know how long the guest will stand
 * still; the second time it does, from what it remembered.
 */
#include "examples.h"

enum { DEVICES = 2 };

static char remembered[DEVICES][VFIOMIG_ESTIMATE_BYTES];
static int known;

static size_t load_bytes(uint32_t device, void *to, size_t cap)
{
    memcpy(to, remembered[device], cap < sizeof remembered[0] ? cap : sizeof remembered[0]);
    return known ? sizeof remembered[0] : 0;
}

static void save_bytes(uint32_t device, const void *from, size_t len)
{
    memcpy(remembered[device], from, len);
    known = 1;
}

static uint64_t now_ns(void)
{
    return 0; /* a VMM without a group would ask its clock */
}

static int frames_to(struct vfiomig_group *target, const void *frame, size_t len)
{
    return vfiomig_group_put(target, frame, len);
}

/* EXAMPLE vfiomig_group_get_estimate vfiomig_estimate_import */
/* The group's estimate, with what was remembered of its devices. */
static int get_estimate(struct vfiomig_group *group,
                        uint32_t count,
                        struct vfiomig_estimate **out)
{
    char blob[VFIOMIG_ESTIMATE_BYTES];
    int r = vfiomig_group_get_estimate(group, out);

    for (uint32_t i = 0; i < count && r == 0; i++) {
        size_t len = load_bytes(i, blob, sizeof blob);
        if (len && vfiomig_estimate_import(
                       *out, i, VFIOMIG_ESTIMATE_HERE, blob, len))
            fprintf(stderr, "device %u: %s\n", i,
                    vfiomig_error_message()); /* go on without */
    }
    return r;
}
/* END */

/* EXAMPLE vfiomig_estimate_export vfiomig_estimate_free */
/* At the end: what was measured is kept for the next time. */
static void remember(struct vfiomig_estimate *estimate,
                     uint32_t count)
{
    char blob[VFIOMIG_ESTIMATE_BYTES];
    size_t len;

    for (uint32_t i = 0; i < count; i++)
        if (vfiomig_estimate_export(estimate, i, blob,
                                    sizeof blob, &len) == 0)
            save_bytes(i, blob, len);
    vfiomig_estimate_free(estimate);
}
/* END */

/* EXAMPLE vfiomig_estimate_observe */
/* The VMM tells what only it knows: how long sending took, and how
   many threads read and send. */
static int send_frame(struct vfiomig_estimate *estimate,
                      struct vfiomig_group *target,
                      const void *frame, size_t len,
                      uint64_t (*clock_ns)(void))
{
    uint64_t began = clock_ns();
    int r = frames_to(target, frame, len);

    vfiomig_estimate_observe(estimate, VFIOMIG_OBSERVATION_SENT,
                             0, 0, len, clock_ns() - began);
    return r;
}
/* END */

/* EXAMPLE vfiomig_estimate_decide */
/* After each round of pre-copy: 1: stop the guest, 0: go on, less
   than 0: a downtime of limit_ns cannot be kept to. */
static int decide(struct vfiomig_estimate *estimate,
                  struct vfiomig_group *group, uint32_t count,
                  uint64_t limit_ns)
{
    struct vfiomig_decision decision = VFIOMIG_DECISION_INIT;

    for (uint32_t i = 0; i < count; i++) {
        struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
        vfiomig_group_get_pending(group, i, &pending);
    }
    if (vfiomig_estimate_decide(estimate, 0, limit_ns, 0, &decision))
        return 0;
    if (decision.verdict == VFIOMIG_VERDICT_WILL_NOT_CONVERGE)
        return -ETIME;
    return decision.verdict == VFIOMIG_VERDICT_SWITCH_OVER;
}
/* END */

/* EXAMPLE vfiomig_estimate_predict */
/* Shows how long the guest would stand still. */
static int show_prediction(struct vfiomig_estimate *estimate)
{
    struct vfiomig_prediction p = VFIOMIG_PREDICTION_INIT;
    int all = VFIOMIG_DOWNTIME_TOTAL;

    if (vfiomig_estimate_predict(estimate, VFIOMIG_ESTIMATE_ALL, 0,
                                 &p) < 0)
        return -1;
    printf("# %.3f ms or more", (double)p.low_ns[all] / 1e6);
    if (p.flags & VFIOMIG_ESTIMATE_KNOWN)
        printf(", %.3f ms at most", (double)p.high_ns[all] / 1e6);
    printf("\n");
    return (p.flags & VFIOMIG_ESTIMATE_KNOWN) != 0;
}
/* END */

/* EXAMPLE vfiomig_estimate_get_downtime */
/* After the migration: each phase as it was and as expected. */
static void show_downtime(struct vfiomig_estimate *estimate)
{
    static const char *const names[] = { "quiesce", "stop", "read",
        "send", "load", "commit", "resume", "total" };
    struct vfiomig_downtime d = VFIOMIG_DOWNTIME_INIT;

    vfiomig_estimate_get_downtime(estimate, VFIOMIG_ESTIMATE_ALL,
                                  &d);
    for (int i = 0; i <= (int)VFIOMIG_DOWNTIME_TOTAL; i++)
        if (d.measured_ns[i] != VFIOMIG_ESTIMATE_UNKNOWN)
            printf("# %-8s %8.3f ms, expected %8.3f\n", names[i],
                   (double)d.measured_ns[i] / 1e6,
                   (double)d.expected_ns[i] / 1e6);
}
/* END */

/* EXAMPLE vfiomig_estimate_new vfiomig_estimate_observe_pending */
/* Without a group: an estimate of one device, fed by hand. */
static struct vfiomig_estimate *make_estimate(
    struct vfiomig_save *save, uint64_t (*clock_ns)(void))
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    struct vfiomig_estimate *estimate;

    if (vfiomig_estimate_new(1, &estimate) < 0)
        return NULL;
    if (vfiomig_save_get_pending(save, &pending) == 0)
        vfiomig_estimate_observe_pending(estimate, 0, clock_ns(),
                                         &pending);
    return estimate;
}
/* END */

static struct vfiomig_group *group_of(uint32_t role, struct rig *rigs)
{
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_group *group;
    options.role = role;
    OK(vfiomig_group_new(&options, &group));
    for (int i = 0; i < DEVICES; i++)
        OK(role == VFIOMIG_GROUP_ROLE_SOURCE ? vfiomig_group_add_save(group, rigs[i].dev, NULL)
                                             : vfiomig_group_add_load(group, rigs[i].dev, NULL));
    OK(vfiomig_group_begin(group));
    return group;
}

/* Until the source says that there is nothing more. */
static int pass(struct vfiomig_group *source, struct vfiomig_group *target,
                struct vfiomig_estimate *estimate)
{
    static char buf[VFIOMIG_GROUP_GOOD_BUFFER];
    size_t len;
    int r;
    do {
        r = vfiomig_group_next(source, buf, sizeof buf, &len);
        CHECK(r >= 0);
        if (len)
            OK(send_frame(estimate, target, buf, len, now_ns));
    } while (r == VFIOMIG_NEXT_MORE);
    return r;
}

/* What the target has measured goes to the source. */
static void ask_target(struct vfiomig_estimate *here, struct vfiomig_group *target)
{
    struct vfiomig_estimate *there;
    char blob[VFIOMIG_ESTIMATE_BYTES];
    size_t len;
    OK(vfiomig_group_get_estimate(target, &there));
    for (uint32_t i = 0; i < DEVICES; i++) {
        OK(vfiomig_estimate_export(there, i, blob, sizeof blob, &len));
        OK(vfiomig_estimate_import(here, i, VFIOMIG_ESTIMATE_THERE, blob, len));
    }
    vfiomig_estimate_free(there);
}

static void a_vm_moves(void)
{
    struct rig from[DEVICES], to[DEVICES];
    struct vfiomig_group *source, *target;
    struct vfiomig_estimate *estimate;
    for (int i = 0; i < DEVICES; i++) {
        from[i] = rig_new(NULL, NULL);
        to[i] = rig_target(NULL);
    }
    source = group_of(VFIOMIG_GROUP_ROLE_SOURCE, from);
    target = group_of(VFIOMIG_GROUP_ROLE_TARGET, to);
    OK(get_estimate(source, DEVICES, &estimate));
    EQ(decide(estimate, source, DEVICES, 1000000000), 0);
    EQ(pass(source, target, estimate), VFIOMIG_NEXT_DRAINED);
    for (uint32_t i = 0; i < DEVICES; i++)
        OK(vfiomig_estimate_observe(estimate, VFIOMIG_OBSERVATION_INITIAL_LOADED, i, 0, 1, 0));
    EQ(decide(estimate, source, DEVICES, 60000000000), 1);
    EQ(decide(estimate, source, DEVICES, 0), -ETIME);
    EQ(show_prediction(estimate), 0); /* nobody knows yet how long the target commits */
    OK(vfiomig_group_stop(source));
    EQ(pass(source, target, estimate), VFIOMIG_NEXT_END);
    OK(vfiomig_group_commit(target));
    OK(vfiomig_group_finish(source, VFIOMIG_ENDING_RELEASE));
    OK(vfiomig_group_run(target));
    ask_target(estimate, target);
    EQ(show_prediction(estimate), 1);
    show_downtime(estimate);
    remember(estimate, DEVICES);
    vfiomig_group_free(source);
    vfiomig_group_free(target);
    for (int i = 0; i < DEVICES; i++) {
        rig_free(&from[i]);
        rig_free(&to[i]);
    }
}

static void the_first_time_the_vmm_does_not_know_how_long_it_takes(void)
{
    EQ(known, 0);
    a_vm_moves();
}

static void the_second_time_it_remembers(void)
{
    EQ(known, 1);
    a_vm_moves();
}

static void a_device_by_itself(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_estimate *estimate;
    struct vfiomig_prediction prediction = VFIOMIG_PREDICTION_INIT;
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    estimate = make_estimate(save, now_ns);
    CHECK(estimate);
    OK(vfiomig_estimate_predict(estimate, 0, 0, &prediction));
    CHECK(prediction.stop_copy_bytes > SOME_SIZE);
    vfiomig_estimate_free(estimate);
    vfiomig_save_free(save);
    rig_free(&rig);
}

int main(void)
{
    RUN(the_first_time_the_vmm_does_not_know_how_long_it_takes);
    RUN(the_second_time_it_remembers);
    RUN(a_device_by_itself);
    return DONE();
}
