/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A group's devices take their steps together, whichever thread asks and whichever help: streams on a
 * connection per device, failures in each place, cancelling and freeing from other threads.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rig.h"

enum { DEVICES = 4, HELPERS = 3, CAP = 16384 };

static struct rig from[DEVICES], to[DEVICES];
static struct vfiomig_group *source, *target;
static int sockets[DEVICES][2];
static uint64_t window;

static struct vfiomig_group *group_of(uint32_t role, struct rig *rigs, int count)
{
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_group *group;
    options.role = role;
    options.window = window;
    memset(options.migration_id, 7, sizeof options.migration_id);
    OK(vfiomig_group_new(&options, &group));
    for (int i = 0; i < count; i++) {
        struct vfiomig_load_options load = VFIOMIG_LOAD_OPTIONS_INIT;
        load.blob = take_any_blob;
        if (role == VFIOMIG_GROUP_ROLE_SOURCE)
            OK(vfiomig_group_add_save(group, rigs[i].dev, NULL));
        else
            OK(vfiomig_group_add_load(group, rigs[i].dev, &load));
    }
    return group;
}

static void begin(const struct vfiomig_sim_options *options)
{
    for (int i = 0; i < DEVICES; i++) {
        struct vfiomig_sim_options o = options ? *options : rig_options();
        o.seed += (uint64_t)i;
        from[i] = rig_new(&o, NULL);
        to[i] = rig_target(&o);
        EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets[i]), 0);
    }
    source = group_of(VFIOMIG_GROUP_ROLE_SOURCE, from, DEVICES);
    target = group_of(VFIOMIG_GROUP_ROLE_TARGET, to, DEVICES);
}

static void end(void)
{
    vfiomig_group_free(source);
    vfiomig_group_free(target);
    for (int i = 0; i < DEVICES; i++) {
        rig_free(&from[i]);
        rig_free(&to[i]);
        close(sockets[i][0]);
        close(sockets[i][1]);
    }
}

static void expect_all(const struct rig *rigs, uint32_t state)
{
    for (int i = 0; i < DEVICES; i++)
        EQ(vfiomig_sim_state(rigs[i].sim), state);
}

static uint32_t phase_of(struct vfiomig_group *group)
{
    struct vfiomig_group_status status = VFIOMIG_GROUP_STATUS_INIT;
    OK(vfiomig_group_get_status(group, &status));
    EQ(status.num_devices, DEVICES);
    return status.phase;
}

static void *help(void *group)
{
    OK(vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_DISMISSED));
    return NULL;
}

static uint32_t device_of(const uint8_t *frame)
{
    return frame[8];
}

/* One thread reads all devices, and each has a connection. */
static void *send_all(void *opaque)
{
    static uint8_t buf[CAP];
    int stopped = 0, r;
    (void)opaque;
    do {
        size_t len;
        r = vfiomig_group_next(source, buf, sizeof buf, &len);
        CHECK(r >= 0);
        for (size_t at = 0; at < len;) {
            ssize_t n = write(sockets[device_of(buf)][0], buf + at, len - at);
            CHECK(n > 0);
            at += (size_t)n;
        }
        if (r == VFIOMIG_NEXT_DRAINED && !stopped++) {
            OK(vfiomig_group_stop(source));
            expect_all(from, VFIOMIG_STATE_STOP_COPY);
        }
    } while (r != VFIOMIG_NEXT_END);
    for (int i = 0; i < DEVICES; i++)
        EQ(shutdown(sockets[i][0], SHUT_WR), 0);
    return NULL;
}

static int read_whole(int fd, uint8_t *to_, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = read(fd, to_ + at, len - at);
        if (n <= 0)
            return -1;
        at += (size_t)n;
    }
    return 0;
}

static void *receive_all(void *opaque)
{
    int fd = *(int *)opaque;
    uint8_t *frame = malloc(CAP);
    CHECK(frame);
    while (read_whole(fd, frame, VFIOMIG_GROUP_HEADER) == 0) {
        size_t len;
        OK(vfiomig_group_get_frame_len(frame, VFIOMIG_GROUP_HEADER, &len));
        CHECK(len <= CAP);
        EQ(read_whole(fd, frame + VFIOMIG_GROUP_HEADER, len - VFIOMIG_GROUP_HEADER), 0);
        OK(vfiomig_group_put(target, frame, len));
    }
    free(frame);
    return NULL;
}

static void it_moves_with_a_connection_per_device_and_lent_threads(void)
{
    pthread_t helpers[2 * HELPERS], sender, receivers[DEVICES];
    begin(NULL);
    for (int i = 0; i < 2 * HELPERS; i++)
        EQ(pthread_create(&helpers[i], NULL, help, i % 2 ? target : source), 0);
    OK(vfiomig_group_begin(source));
    OK(vfiomig_group_begin(target));
    EQ(pthread_create(&sender, NULL, send_all, NULL), 0);
    for (int i = 0; i < DEVICES; i++)
        EQ(pthread_create(&receivers[i], NULL, receive_all, &sockets[i][1]), 0);
    EQ(pthread_join(sender, NULL), 0);
    for (int i = 0; i < DEVICES; i++)
        EQ(pthread_join(receivers[i], NULL), 0);
    EQ(phase_of(target), VFIOMIG_GROUP_PHASE_COMPLETE);
    OK(vfiomig_group_commit(target));
    OK(vfiomig_group_finish(source, VFIOMIG_ENDING_RELEASE));
    expect_all(from, VFIOMIG_STATE_STOP);
    OK(vfiomig_group_run(target));
    expect_all(to, VFIOMIG_STATE_RUNNING);
    for (int i = 0; i < DEVICES; i++)
        CHECK(vfiomig_sim_digest(from[i].sim) == vfiomig_sim_digest(to[i].sim));
    OK(vfiomig_group_dismiss(source));
    OK(vfiomig_group_dismiss(target));
    for (int i = 0; i < 2 * HELPERS; i++)
        EQ(pthread_join(helpers[i], NULL), 0);
    end();
}

/* --- channels: any frame on any of them ---------------------------------------------------------- */

enum { CHANNELS = 3 };

static int channels[CHANNELS][2];
static atomic_int drained, ended;

static void write_whole(int fd, const uint8_t *data, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = write(fd, data + at, len - at);
        CHECK(n > 0);
        at += (size_t)n;
    }
}

/* Each sends what comes next on its own channel. */
static void *send_on_channel(void *opaque)
{
    int fd = *(int *)opaque, r;
    uint8_t *buf = malloc(CAP);
    CHECK(buf);
    do {
        size_t len = 0;
        OK(vfiomig_group_work(source, VFIOMIG_GROUP_UNTIL_FRAME));
        r = vfiomig_group_next(source, buf, CAP, &len);
        CHECK(r >= 0 || r == -EAGAIN);
        if (r >= 0)
            write_whole(fd, buf, len);
        if (r == VFIOMIG_NEXT_DRAINED) {
            drained++;
            usleep(200);
        }
    } while (r != VFIOMIG_NEXT_END);
    ended++;
    EQ(shutdown(fd, SHUT_WR), 0);
    free(buf);
    return NULL;
}

static void read_channel(int fd, struct vfiomig_group *group)
{
    uint8_t *frame = malloc(CAP);
    CHECK(frame);
    while (read_whole(fd, frame, VFIOMIG_GROUP_HEADER) == 0) {
        size_t len;
        OK(vfiomig_group_get_frame_len(frame, VFIOMIG_GROUP_HEADER, &len));
        CHECK(len <= CAP);
        EQ(read_whole(fd, frame + VFIOMIG_GROUP_HEADER, len - VFIOMIG_GROUP_HEADER), 0);
        OK(vfiomig_group_put(group, frame, len));
    }
    free(frame);
}

static void *take_credits(void *opaque)
{
    read_channel(*(int *)opaque, source);
    return NULL;
}

static void *take_frames(void *opaque)
{
    read_channel(*(int *)opaque, target);
    return NULL;
}

/* All credits go back on the first channel. */
static void *send_credits(void *opaque)
{
    uint8_t credit[VFIOMIG_GROUP_HEADER];
    int r;
    (void)opaque;
    do {
        size_t len;
        OK(vfiomig_group_work(target, VFIOMIG_GROUP_UNTIL_FRAME));
        r = vfiomig_group_next(target, credit, sizeof credit, &len);
        CHECK(r >= 0);
        write_whole(channels[0][1], credit, len);
    } while (r != VFIOMIG_NEXT_END);
    for (int i = 0; i < CHANNELS; i++)
        EQ(shutdown(channels[i][1], SHUT_WR), 0);
    return NULL;
}

static void it_moves_over_channels_that_each_carry_any_frame(void)
{
    pthread_t helpers[DEVICES], senders[CHANNELS], hearers[CHANNELS], receivers[CHANNELS], creditor;
    struct vfiomig_group_status status = VFIOMIG_GROUP_STATUS_INIT;
    struct vfiomig_sim_options o = rig_options();
    window = VFIOMIG_GROUP_MIN_WINDOW;
    o.state_size = 3 << 20;
    begin(&o);
    window = 0;
    drained = ended = 0;
    OK(vfiomig_group_begin(source));
    OK(vfiomig_group_begin(target));
    for (int i = 0; i < DEVICES; i++)
        EQ(pthread_create(&helpers[i], NULL, help, target), 0);
    for (int i = 0; i < CHANNELS; i++) {
        EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, channels[i]), 0);
        EQ(pthread_create(&senders[i], NULL, send_on_channel, &channels[i][0]), 0);
        EQ(pthread_create(&hearers[i], NULL, take_credits, &channels[i][0]), 0);
        EQ(pthread_create(&receivers[i], NULL, take_frames, &channels[i][1]), 0);
    }
    EQ(pthread_create(&creditor, NULL, send_credits, NULL), 0);
    while (drained == 0)
        usleep(1000);
    OK(vfiomig_group_stop(source));
    for (int i = 0; i < CHANNELS; i++)
        EQ(pthread_join(senders[i], NULL), 0);
    EQ(ended, CHANNELS);
    for (int i = 0; i < CHANNELS; i++)
        EQ(pthread_join(receivers[i], NULL), 0);
    EQ(pthread_join(creditor, NULL), 0);
    for (int i = 0; i < CHANNELS; i++)
        EQ(pthread_join(hearers[i], NULL), 0);
    OK(vfiomig_group_get_status(target, &status));
    EQ(status.phase, VFIOMIG_GROUP_PHASE_COMPLETE);
    EQ(status.held_bytes, 0);
    OK(vfiomig_group_commit(target));
    OK(vfiomig_group_finish(source, VFIOMIG_ENDING_RELEASE));
    OK(vfiomig_group_run(target));
    OK(vfiomig_group_dismiss(target));
    for (int i = 0; i < DEVICES; i++) {
        EQ(pthread_join(helpers[i], NULL), 0);
        CHECK(vfiomig_sim_digest(from[i].sim) == vfiomig_sim_digest(to[i].sim));
    }
    for (int i = 0; i < CHANNELS; i++) {
        close(channels[i][0]);
        close(channels[i][1]);
    }
    end();
}

/* In one thread, into memory. */
static struct bytes frames;
static size_t ends[4096];
static int count;

static int read_frames(int until)
{
    static uint8_t buf[CAP];
    size_t len;
    int r;
    do {
        r = vfiomig_group_next(source, buf, sizeof buf, &len);
        if (r >= 0 && len > 0) {
            bytes_add(&frames, buf, len);
            CHECK(count < 4096);
            ends[count++] = frames.len;
        }
    } while (r == VFIOMIG_NEXT_MORE || (r >= 0 && r != until && r != VFIOMIG_NEXT_END));
    return r;
}

static int put_frames(void)
{
    int r = 0;
    for (int i = 0; i < count && r == 0; i++) {
        size_t at = i ? ends[i - 1] : 0;
        r = vfiomig_group_put(target, frames.data + at, ends[i] - at);
    }
    return r;
}

static void everything_has_come(void)
{
    frames.len = 0;
    count = 0;
    begin(NULL);
    OK(vfiomig_group_begin(source));
    OK(vfiomig_group_begin(target));
    EQ(read_frames(VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_group_stop(source));
    EQ(read_frames(VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    OK(put_frames());
}

static void committed_devices_are_reset_if_the_last_one_refuses(void)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    everything_has_come();
    OK(vfiomig_sim_inject(to[DEVICES - 1].sim, VFIOMIG_SIM_OP_SET_STATE, 1, EINVAL,
                          VFIOMIG_SIM_FAULT_ONCE));
    EQ(vfiomig_group_commit(target), -EINVAL);
    CHECK(strstr(vfiomig_error_message(), "device 3: "));
    OK(vfiomig_group_get_failure(target, DEVICES - 1, &failure));
    EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
    OK(vfiomig_group_get_failure(target, 0, &failure));
    EQ(failure.code, 0);
    EQ(phase_of(target), VFIOMIG_GROUP_PHASE_OVER);
    expect_all(to, VFIOMIG_STATE_RUNNING);
    for (int i = 0; i < DEVICES; i++)
        EQ(vfiomig_sim_count(to[i].sim, VFIOMIG_SIM_OP_RESET), 1);
    OK(vfiomig_group_finish(source, VFIOMIG_ENDING_KEEP));
    expect_all(from, VFIOMIG_STATE_RUNNING_P2P);
    OK(vfiomig_group_run(source));
    expect_all(from, VFIOMIG_STATE_RUNNING);
    end();
}

static void a_device_that_lost_its_state_keeps_all_from_running(void)
{
    everything_has_come();
    vfiomig_sim_guest_reset(from[1].sim);
    EQ(vfiomig_group_finish(source, VFIOMIG_ENDING_KEEP), -EIO);
    EQ(vfiomig_group_run(source), -EIO);
    EQ(phase_of(source), VFIOMIG_GROUP_PHASE_HALTED);
    for (int i = 0; i < DEVICES; i++)
        CHECK(vfiomig_sim_state(from[i].sim) != VFIOMIG_STATE_RUNNING);
    end();
}

static void a_group_can_be_freed_at_any_time(void)
{
    for (int when = 0; when < 4; when++) {
        frames.len = 0;
        count = 0;
        begin(NULL);
        if (when > 0) {
            OK(vfiomig_group_begin(source));
            OK(vfiomig_group_begin(target));
            EQ(read_frames(VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        }
        if (when > 1)
            OK(vfiomig_group_stop(source));
        if (when > 2)
            EQ(read_frames(VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        vfiomig_group_free(source);
        vfiomig_group_free(target);
        expect_all(from, VFIOMIG_STATE_RUNNING);
        expect_all(to, VFIOMIG_STATE_RUNNING);
        EQ(vfiomig_group_begin(source), -EBADF);
        EQ(vfiomig_group_cancel(source), -EBADF);
        source = target = NULL;
        end();
    }
}

static atomic_int left;

static void *read_until_it_ends(void *opaque)
{
    uint8_t *buf = malloc(CAP);
    size_t len;
    int r;
    CHECK(buf);
    do
        r = vfiomig_group_next(opaque, buf, CAP, &len);
    while (r >= 0);
    CHECK(r == -ECANCELED || r == -EBADF || r == -EINVAL);
    free(buf);
    left++;
    return NULL;
}

/* Freed, or cancelled, while other threads read and help. */
static void it_is_cancelled_or_freed_while_others_use_it(void)
{
    for (int freed = 0; freed < 2; freed++)
        for (int stopped = 0; stopped < 2; stopped++) {
            struct vfiomig_sim_options o = rig_options();
            pthread_t threads[HELPERS], helpers[HELPERS];
            o.read_rate = 300000;
            o.dirty_rate = 100000;
            begin(&o);
            left = 0;
            OK(vfiomig_group_begin(source));
            if (stopped)
                OK(vfiomig_group_stop(source));
            for (int i = 0; i < HELPERS; i++) {
                EQ(pthread_create(&threads[i], NULL, read_until_it_ends, source), 0);
                EQ(pthread_create(&helpers[i], NULL, help, source), 0);
            }
            usleep(20000);
            if (freed) {
                vfiomig_group_free(source);
                source = NULL;
            } else {
                OK(vfiomig_group_cancel(source));
                OK(vfiomig_group_dismiss(source));
            }
            for (int i = 0; i < HELPERS; i++) {
                EQ(pthread_join(threads[i], NULL), 0);
                EQ(pthread_join(helpers[i], NULL), 0);
            }
            EQ(left, HELPERS);
            if (!freed) {
                OK(vfiomig_group_finish(source, VFIOMIG_ENDING_KEEP));
                OK(vfiomig_group_run(source));
            }
            expect_all(from, VFIOMIG_STATE_RUNNING);
            end();
        }
}

static void a_child_leaves_its_parents_group_alone(void)
{
    int status;
    pid_t pid;
    begin(NULL);
    OK(vfiomig_group_begin(source));
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        int ok = vfiomig_group_stop(source) == -EBADF && vfiomig_group_cancel(source) == -EBADF;
        vfiomig_group_free(source);
        _exit(ok ? 0 : 1);
    }
    EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    expect_all(from, VFIOMIG_STATE_PRE_COPY);
    end();
}

static void switched_off_it_can_be_kept(void)
{
    static uint8_t buf[CAP];
    size_t len;
    begin(NULL);
    OK(vfiomig_group_begin(source));
    OK(vfiomig_process_set_allowed(0));
    EQ(vfiomig_group_next(source, buf, sizeof buf, &len), -EPERM);
    EQ(vfiomig_group_stop(source), -EPERM);
    OK(vfiomig_group_finish(source, VFIOMIG_ENDING_KEEP));
    OK(vfiomig_group_run(source));
    OK(vfiomig_process_set_allowed(VFIOMIG_ALLOW_SAVE | VFIOMIG_ALLOW_LOAD));
    expect_all(from, VFIOMIG_STATE_RUNNING);
    end();
}

static void a_device_without_peer_to_peer_states_needs_a_word_for_it(void)
{
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_group *group;
    struct rig rigs[2];
    uint32_t device = 99;
    rigs[0] = rig_new(NULL, NULL);
    o.migration_flags = 5;
    rigs[1] = rig_new(&o, NULL);
    group = group_of(VFIOMIG_GROUP_ROLE_SOURCE, rigs, 2);
    OK(vfiomig_group_get_reason(group, 0, &device, &reason));
    EQ(device, 1);
    EQ(reason.code, VFIOMIG_REASON_NO_P2P);
    EQ(reason.severity, VFIOMIG_SEVERITY_BLOCKS);
    EQ(vfiomig_group_get_reason(group, 1000, &device, &reason), -ENODATA);
    EQ(vfiomig_group_begin(group), -EOPNOTSUPP);
    vfiomig_group_free(group);
    options.role = VFIOMIG_GROUP_ROLE_SOURCE;
    options.flags = VFIOMIG_GROUP_NO_PEER_TO_PEER;
    OK(vfiomig_group_new(&options, &group));
    for (int i = 0; i < 2; i++)
        OK(vfiomig_group_add_save(group, rigs[i].dev, NULL));
    OK(vfiomig_group_get_reason(group, 0, &device, &reason));
    CHECK(reason.severity != VFIOMIG_SEVERITY_BLOCKS);
    OK(vfiomig_group_begin(group));
    vfiomig_group_free(group);
    for (int i = 0; i < 2; i++)
        rig_free(&rigs[i]);
}

int main(void)
{
    RUN(it_moves_with_a_connection_per_device_and_lent_threads);
    RUN(it_moves_over_channels_that_each_carry_any_frame);
    RUN(committed_devices_are_reset_if_the_last_one_refuses);
    RUN(a_device_that_lost_its_state_keeps_all_from_running);
    RUN(a_group_can_be_freed_at_any_time);
    RUN(it_is_cancelled_or_freed_while_others_use_it);
    RUN(a_child_leaves_its_parents_group_alone);
    RUN(switched_off_it_can_be_kept);
    RUN(a_device_without_peer_to_peer_states_needs_a_word_for_it);
    bytes_free(&frames);
    return DONE();
}
