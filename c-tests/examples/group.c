/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A VM with three devices moves, over one connection and with lent threads; what its two sides do, and
 * what they do when something fails.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "examples.h"

enum { DEVICES = 3 };

/* The connection: frames one after the other. */
static struct bytes wire;
static size_t taken;
static int vcpus_run, memory_sent, reported, fixed;

static int send_all(int sock, const void *data, size_t len)
{
    (void)sock;
    bytes_add(&wire, data, len);
    return 0;
}

static int receive_all(int sock, void *to, size_t len)
{
    (void)sock;
    if (wire.len - taken < len)
        return -1;
    memcpy(to, wire.data + taken, len);
    taken += len;
    return 0;
}

static void stop_vcpus(void)
{
    vcpus_run = 0;
}

static void start_vcpus(void)
{
    vcpus_run = 1;
}

static int send_dirty_memory(int sock)
{
    (void)sock;
    return memory_sent++ * 0;
}

static void report(uint32_t device, const char *text)
{
    (void)device;
    reported += text[0] != '\0';
}

static void make_fixups(struct vfiomig_device *dev)
{
    uint32_t fixups;
    OK(vfiomig_device_get_fixups(dev, &fixups));
    fixed++;
}

static void wait_a_little(int fd)
{
    (void)fd;
}

/* EXAMPLE vfiomig_group_new vfiomig_group_add_save vfiomig_group_free */
/* All of the VM's devices, in an order that the target knows. */
static int make_source(struct vfiomig_device **devs, uint32_t count,
                       const uint8_t id[16], uint64_t window,
                       struct vfiomig_group **out)
{
    struct vfiomig_group_options options =
        VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_group *group;
    int r;

    options.role = VFIOMIG_GROUP_ROLE_SOURCE;
    options.window = window;
    memcpy(options.migration_id, id, 16);
    r = vfiomig_group_new(&options, &group);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < count && r == 0; i++)
        r = vfiomig_group_add_save(group, devs[i], NULL);
    if (r < 0) {
        vfiomig_group_free(group);
        return r;
    }
    *out = group;
    return 0;
}
/* END */

/* EXAMPLE vfiomig_group_add_load */
static int add_loads(struct vfiomig_group *group,
                     struct vfiomig_device **devs, uint32_t count,
                     vfiomig_blob_fn take_blob)
{
    int r = 0;

    for (uint32_t i = 0; i < count && r == 0; i++) {
        struct vfiomig_load_options options =
            VFIOMIG_LOAD_OPTIONS_INIT;
        options.blob = take_blob;
        options.blob_opaque = devs[i];
        r = vfiomig_group_add_load(group, devs[i], &options);
    }
    return r;
}
/* END */

/* EXAMPLE vfiomig_group_get_reason */
/* Whether the VM can be migrated; shows the user why not. */
static int can_migrate(struct vfiomig_group *group)
{
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    uint32_t device;
    int can = 1;

    for (uint32_t i = 0;
         vfiomig_group_get_reason(group, i, &device, &reason) == 0;
         i++)
        if (reason.severity == VFIOMIG_SEVERITY_BLOCKS) {
            report(device, reason.text);
            can = 0;
        }
    return can;
}
/* END */

/* EXAMPLE vfiomig_group_work */
/* A thread that is lent to the group. With as many as there are
   devices, all take each step at the same time. */
static void *helper(void *group)
{
    vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_DISMISSED);
    return NULL;
}
/* END */

/* EXAMPLE vfiomig_group_next */
/* Sends what there is: until nothing is left for now, or until
   everything is sent. */
static int send_frames(struct vfiomig_group *group, int sock)
{
    static char buf[VFIOMIG_GROUP_GOOD_BUFFER];
    size_t len;
    int r;

    do {
        r = vfiomig_group_next(group, buf, sizeof buf, &len);
        if (r >= 0 && len > 0 && send_all(sock, buf, len))
            r = -EPIPE;
    } while (r == VFIOMIG_NEXT_MORE);
    return r;
}
/* END */

/* EXAMPLE vfiomig_group_get_pending */
/* What all devices still have to send, in bytes, as far as their
   drivers know. */
static uint64_t bytes_left(struct vfiomig_group *group,
                           uint32_t count)
{
    uint64_t left = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
        if (vfiomig_group_get_pending(group, i, &pending) == 0) {
            uint64_t live = pending.initial_bytes;
            live += pending.dirty_bytes;
            left += live > pending.stop_copy_bytes
                        ? live
                        : pending.stop_copy_bytes;
        }
    }
    return left;
}
/* END */

/* EXAMPLE vfiomig_group_get_poll_fd */
/* Waits until a device has something to say, or for a while. */
static void wait_for_device(struct vfiomig_group *group,
                            uint32_t device)
{
    int fd = vfiomig_group_get_poll_fd(group, device);

    wait_a_little(fd >= 0 ? fd : -1);
}
/* END */

/* EXAMPLE vfiomig_group_stop vfiomig_group_add_blob */
/* VFIOMIG_NEXT_END: all is sent. VFIOMIG_NEXT_MORE: not yet; the
   guest runs again. Less than 0: keep the guest. */
static int switch_over(struct vfiomig_group *group, uint32_t count,
                       int sock)
{
    static const char config[256];
    int r;

    stop_vcpus();
    r = vfiomig_group_stop(group);  /* all quiesced, then stopped */
    if (r == -EAGAIN) {             /* initial data began again */
        start_vcpus();
        return VFIOMIG_NEXT_MORE;
    }
    if (r == 0 && send_dirty_memory(sock))
        r = -EPIPE;
    for (uint32_t i = 0; i < count && r == 0; i++)
        r = vfiomig_group_add_blob(group, i, 1, config,
                                   sizeof config);
    return r < 0 ? r : send_frames(group, sock);
}
/* END */

/* EXAMPLE vfiomig_group_finish vfiomig_group_run */
/* The guest goes on here: 0, or a device has lost its state and the
   guest is not to run. */
static int keep_guest(struct vfiomig_group *group,
                      struct vfiomig_device **devs, uint32_t count)
{
    int r = vfiomig_group_finish(group, VFIOMIG_ENDING_KEEP);

    for (uint32_t i = 0; i < count; i++)
        make_fixups(devs[i]);
    if (vfiomig_group_run(group) == 0) {
        start_vcpus();
        return 0;
    }
    return r < 0 ? r : -EIO;
}
/* END */

/* EXAMPLE vfiomig_group_put vfiomig_group_get_frame_len */
/* Receives frames until all streams are complete. */
static int receive_frames(struct vfiomig_group *group, int sock)
{
    struct vfiomig_group_status status =
        VFIOMIG_GROUP_STATUS_INIT;
    static char frame[VFIOMIG_GROUP_MAX_FRAME];
    size_t len;
    int r;

    do {
        if (receive_all(sock, frame, VFIOMIG_GROUP_HEADER))
            return -EPIPE;
        r = vfiomig_group_get_frame_len(
            frame, VFIOMIG_GROUP_HEADER, &len);
        if (r < 0)
            return r;
        if (receive_all(sock, frame + VFIOMIG_GROUP_HEADER,
                        len - VFIOMIG_GROUP_HEADER))
            return -EPIPE;
        r = vfiomig_group_put(group, frame, len);
        if (r == 0)
            r = vfiomig_group_get_status(group, &status);
    } while (r == 0 &&
             status.phase == VFIOMIG_GROUP_PHASE_OPEN);
    return r;
}
/* END */

/* EXAMPLE vfiomig_group_commit vfiomig_group_abandon */
/* The target's last word before "go": "committed", or "refused". */
static int commit_all(struct vfiomig_group *group,
                      int memory_is_complete)
{
    int r = -EPIPE;

    if (memory_is_complete)
        r = vfiomig_group_commit(group);   /* all devices, or none */
    else if (vfiomig_group_abandon(group) < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_group_get_status vfiomig_group_get_failure */
/* Which devices have failed, and how. */
static void explain(struct vfiomig_group *group)
{
    struct vfiomig_group_status status =
        VFIOMIG_GROUP_STATUS_INIT;

    if (vfiomig_group_get_status(group, &status) < 0)
        return;
    for (uint32_t i = 0; i < status.num_devices; i++) {
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        vfiomig_group_get_failure(group, i, &failure);
        if (failure.code)
            report(i, vfiomig_error_describe(failure.code));
    }
}
/* END */

/* EXAMPLE vfiomig_group_get_save_stats */
static uint64_t bytes_sent(struct vfiomig_group *group,
                           uint32_t device)
{
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;

    vfiomig_group_get_save_stats(group, device, &stats);
    return stats.stream_bytes;
}
/* END */

/* EXAMPLE vfiomig_group_get_load_stats */
/* Which generation of a device's initial data is loaded; 0: none. */
static uint64_t initial_loaded(struct vfiomig_group *group,
                               uint32_t device)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;

    vfiomig_group_get_load_stats(group, device, &stats);
    return stats.initial_generation;
}
/* END */

/* EXAMPLE vfiomig_group_cancel vfiomig_group_dismiss */
/* On any thread: the migration is to end, and the helpers are no
   longer needed. */
static void give_up(struct vfiomig_group *group)
{
    vfiomig_group_cancel(group);   /* then keep it, or abandon it */
    vfiomig_group_dismiss(group);
}
/* END */

/* EXAMPLE vfiomig_group_begin */
/* Memory begins to flow at about the same time. */
static int begin_devices(struct vfiomig_group *group)
{
    int r = vfiomig_group_begin(group); /* all devices, or none */

    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_group_add_channel */
/* Connected sockets. Threads in vfiomig_group_work() do the rest. */
static int add_channels(struct vfiomig_group *group,
                        const int *socks, int count)
{
    int r = 0;

    for (int i = 0; i < count && r == 0; i++) {
        struct vfiomig_channel_options options =
            VFIOMIG_CHANNEL_OPTIONS_INIT;
        options.fd = socks[i];
        r = vfiomig_group_add_channel(group, &options);
    }
    return r;
}
/* END */

/* EXAMPLE vfiomig_group_get_work_fd */
/* A VMM with one thread does what there is to do now. */
static int take_turn(struct vfiomig_group *group)
{
    struct pollfd pollfd = { .events = POLLIN };

    pollfd.fd = vfiomig_group_get_work_fd(group);
    if (pollfd.fd < 0)
        return pollfd.fd;
    poll(&pollfd, 1, 1);    /* beside what else it waits for */
    return vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_IDLE);
}
/* END */

/* EXAMPLE vfiomig_group_get_channel_stats */
static uint64_t channel_bytes(struct vfiomig_group *group,
                              uint32_t channel)
{
    struct vfiomig_channel_stats stats =
        VFIOMIG_CHANNEL_STATS_INIT;

    vfiomig_group_get_channel_stats(group, channel, &stats);
    return stats.sent_bytes + stats.received_bytes;
}
/* END */

static const uint8_t id[16] = "one migration";
static struct rig rigs[2][DEVICES];
static struct vfiomig_device *devs[2][DEVICES];
static struct vfiomig_group *source, *target;
static pthread_t helpers[DEVICES];

static int with_window;

/* VFIOMIG_GROUP_OPTIONS_INIT with what both sides agree on. */
static struct vfiomig_group *target_of(void)
{
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_group *group;
    options.role = VFIOMIG_GROUP_ROLE_TARGET;
    options.window = with_window ? VFIOMIG_GROUP_GOOD_WINDOW : 0;
    memcpy(options.migration_id, id, sizeof id);
    OK(vfiomig_group_new(&options, &group));
    return group;
}

static void begin_groups(void)
{
    wire.len = taken = 0;
    for (int i = 0; i < DEVICES; i++) {
        rigs[0][i] = rig_new(NULL, NULL);
        rigs[1][i] = rig_target(NULL);
        devs[0][i] = rigs[0][i].dev;
        devs[1][i] = rigs[1][i].dev;
    }
    OK(make_source(devs[0], DEVICES, id, with_window ? VFIOMIG_GROUP_GOOD_WINDOW : 0, &source));
    CHECK(can_migrate(source));
    target = target_of();
    OK(add_loads(target, devs[1], DEVICES, take_any_blob));
    for (int i = 0; i < DEVICES; i++)
        EQ(pthread_create(&helpers[i], NULL, helper, source), 0);
}

static void begin(void)
{
    begin_groups();
    OK(begin_devices(source));
    OK(begin_devices(target));
    start_vcpus();
    CHECK(bytes_left(source, DEVICES) >= DEVICES * SOME_SIZE);
    wait_for_device(source, 0);
    EQ(send_frames(source, 0), VFIOMIG_NEXT_DRAINED);
    CHECK(bytes_sent(source, 1) > 0);
}

static void end(int give_back)
{
    if (give_back)
        give_up(source);
    else
        OK(vfiomig_group_dismiss(source));
    for (int i = 0; i < DEVICES; i++)
        EQ(pthread_join(helpers[i], NULL), 0);
    vfiomig_group_free(source);
    vfiomig_group_free(target);
    for (int i = 0; i < DEVICES; i++) {
        rig_free(&rigs[0][i]);
        rig_free(&rigs[1][i]);
    }
}

static void a_vm_moves(void)
{
    begin();
    EQ(switch_over(source, DEVICES, 0), VFIOMIG_NEXT_END);
    OK(receive_frames(target, 0));
    EQ(initial_loaded(target, 2), 1);
    OK(commit_all(target, 1));
    OK(vfiomig_group_finish(source, VFIOMIG_ENDING_RELEASE));
    for (int i = 0; i < DEVICES; i++)
        make_fixups(devs[1][i]);
    OK(vfiomig_group_run(target));
    for (int i = 0; i < DEVICES; i++) {
        EQ(vfiomig_sim_state(rigs[0][i].sim), VFIOMIG_STATE_STOP);
        EQ(vfiomig_sim_state(rigs[1][i].sim), VFIOMIG_STATE_RUNNING);
        CHECK(vfiomig_sim_digest(rigs[0][i].sim) == vfiomig_sim_digest(rigs[1][i].sim));
    }
    EQ(memory_sent, 1);
    end(0);
}

static void a_device_that_does_not_stop_keeps_the_guest(void)
{
    begin();
    OK(vfiomig_sim_inject(rigs[0][2].sim, VFIOMIG_SIM_OP_SET_STATE, 2, EIO, VFIOMIG_SIM_FAULT_ONCE));
    EQ(switch_over(source, DEVICES, 0), -EIO);
    explain(source);
    EQ(reported, 1);
    EQ(vcpus_run, 0);
    OK(keep_guest(source, devs[0], DEVICES));
    EQ(vcpus_run, 1);
    EQ(commit_all(target, 0), -EPIPE);
    for (int i = 0; i < DEVICES; i++) {
        EQ(vfiomig_sim_state(rigs[0][i].sim), VFIOMIG_STATE_RUNNING);
        EQ(vfiomig_sim_state(rigs[1][i].sim), VFIOMIG_STATE_RUNNING);
    }
    end(0);
}

static void a_migration_that_is_given_up_leaves_everything_running(void)
{
    begin();
    give_up(source);
    EQ(switch_over(source, DEVICES, 0), -ECANCELED);
    end(1);
}

/* EXAMPLE vfiomig_group_get_history */
/* What happened to a VM's devices, as JSON, for a bug report. */
static void report_history(struct vfiomig_group *vm, uint32_t count,
                           FILE *report)
{
    size_t size = (count + 1) * (size_t)VFIOMIG_HISTORY_BYTES;
    size_t len;
    char *text = malloc(size);

    if (text && vfiomig_group_get_history(vm, VFIOMIG_HISTORY_JSON,
                                          text, size, &len) == 0)
        fwrite(text, 1, len, report);
    free(text);
}
/* END */

static uint32_t phase_of(struct vfiomig_group *group)
{
    struct vfiomig_group_status status = VFIOMIG_GROUP_STATUS_INIT;
    OK(vfiomig_group_get_status(group, &status));
    return status.phase;
}

static void a_vm_moves_over_channels(void)
{
    int socks[2][2];
    uint64_t bytes = 0;
    with_window = 1;
    for (int i = 0; i < 2; i++) {
        int pair[2];
        EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        socks[0][i] = pair[0];
        socks[1][i] = pair[1];
    }
    begin_groups();
    with_window = 0;
    OK(add_channels(source, socks[0], 2));
    OK(add_channels(target, socks[1], 2));
    OK(begin_devices(source));
    OK(begin_devices(target));
    OK(vfiomig_group_stop(source));
    while (phase_of(target) == VFIOMIG_GROUP_PHASE_OPEN) {
        OK(take_turn(source));
        OK(take_turn(target));
    }
    EQ(phase_of(source), VFIOMIG_GROUP_PHASE_COMPLETE);
    OK(commit_all(target, 1));
    OK(vfiomig_group_finish(source, VFIOMIG_ENDING_RELEASE));
    OK(vfiomig_group_run(target));
    FILE *report = tmpfile();
    CHECK(report);
    report_history(target, DEVICES, report);
    CHECK(ftell(report) > 0);
    fclose(report);
    for (uint32_t i = 0; i < 2; i++)
        bytes += channel_bytes(source, i);
    CHECK(bytes > DEVICES * SOME_SIZE);
    for (int i = 0; i < 2; i++) {
        CHECK(vfiomig_sim_digest(rigs[0][i].sim) == vfiomig_sim_digest(rigs[1][i].sim));
        EQ(close(socks[0][i]), 0);
        EQ(close(socks[1][i]), 0);
    }
    end(0);
}

int main(void)
{
    RUN(a_vm_moves);
    RUN(a_vm_moves_over_channels);
    RUN(a_device_that_does_not_stop_keeps_the_guest);
    RUN(a_migration_that_is_given_up_leaves_everything_running);
    bytes_free(&wire);
    return DONE();
}
