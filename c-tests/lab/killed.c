/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A VMM dies by SIGKILL in the middle of a migration. Like other drivers, mtty keeps its state
 * across that, and changing it from there can crash the kernel. The next owner must be told, and
 * must get a usable device in every way that the library offers.
 */
#include "lab.h"

#include <signal.h>
#include <sys/wait.h>

struct death {
    const char *name;
    /* Where the device is found; whether it holds what the victim loaded. */
    uint32_t state;
    int loaded;
    /* Takes the device there, in the victim. */
    void (*go)(struct vfiomig_device *device, const struct lab_bytes *stream);
};

#define HELD 70
#define SENT 71

static struct vfiomig_save *save_until_stopped(struct vfiomig_device *device, uint32_t flags)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct lab_bytes stream = { 0 };
    struct vfiomig_save *save = NULL;

    options.flags = flags;
    OK(vfiomig_save_begin(device, &options, &save));
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
    return save;
}

static void to_pre_copy(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    (void)stream;
    save_until_stopped(device, 0);
}

static void to_pre_copy_p2p(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    (void)stream;
    OK(vfiomig_save_quiesce(save_until_stopped(device, 0)));
}

static void to_running_p2p(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    (void)stream;
    OK(vfiomig_save_quiesce(save_until_stopped(device, VFIOMIG_SAVE_NO_PRE_COPY)));
}

static void to_stop_copy(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    (void)stream;
    OK(vfiomig_save_stop(save_until_stopped(device, 0)));
}

static void to_stop_copy_read_half(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save = NULL;
    unsigned char buf[4096];
    size_t len;

    (void)stream;
    options.max_frame = 10;
    OK(vfiomig_save_begin(device, &options, &save));
    OK(vfiomig_save_stop(save));
    for (int i = 0; i < 6; i++)
        CALL(vfiomig_save_next(save, buf, sizeof(buf), &len), VFIOMIG_NEXT_MORE);
}

static void to_the_end(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    struct lab_bytes own = { 0 };

    (void)stream;
    lab_save_begin_to_end(device, 0, 4096, &own);
}

static void to_released(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    struct lab_bytes own = { 0 };

    (void)stream;
    OK(vfiomig_save_finish(lab_save_begin_to_end(device, 0, 4096, &own), VFIOMIG_ENDING_RELEASE));
}

static struct vfiomig_load *load_bytes(struct vfiomig_device *device, const unsigned char *data,
                                       size_t len)
{
    struct vfiomig_load *load = NULL;
    int ret;

    OK(vfiomig_load_begin(device, NULL, &load));
    ret = vfiomig_load_push(load, data, len);
    CHECK(ret >= 0, "%s", vfiomig_error_message());
    return load;
}

static void to_resuming(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    load_bytes(device, stream->data, 0);
}

static void to_resuming_half(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;

    /* Before END and the last frame of data. */
    OK(vfiomig_load_get_stats(load_bytes(device, stream->data, stream->len - 64 - 40), &stats));
    EXPECT(stats.data_bytes, LAB_MTTY_HEADER);
}

static void to_resuming_all(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    load_bytes(device, stream->data, stream->len);
}

static void to_committed(struct vfiomig_device *device, const struct lab_bytes *stream)
{
    OK(vfiomig_load_commit(load_bytes(device, stream->data, stream->len)));
}

/* A process that owns the device, gets it somewhere, and dies there. */
static void kill_in(const struct death *death, struct lab_device *device,
                    const struct lab_bytes *stream)
{
    int ready[2], status;
    char byte;
    pid_t pid;

    EXPECT(pipe(ready), 0);
    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        close(ready[0]);
        lab_open(device, LAB_GROUP);
        death->go(lab_handle(device), stream);
        if (write(ready[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1, "the process that is to die has failed");
    close(ready[0]);
    EXPECT(kill(pid, SIGKILL), 0);
    EXPECT(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x", status);
}

static int is_stale(uint32_t state)
{
    return state == VFIOMIG_STATE_PRE_COPY || state == VFIOMIG_STATE_PRE_COPY_P2P ||
           state == VFIOMIG_STATE_STOP_COPY || state == VFIOMIG_STATE_RESUMING;
}

enum way { LOAD, SET_RUNNING, SET_STOP, SET_RUNNING_P2P, RUN, RESET, SAVE, WAYS };

/* What a new owner can do first; each leaves a device that runs. */
static void recover(enum way way, const struct death *death, struct vfiomig_device *device,
                    const struct lab_device *lab, const struct lab_bytes *stream)
{
    struct vfiomig_save *save = NULL;

    switch (way) {
    case LOAD:
        OK(lab_load(device, NULL, stream->data, stream->len, 0, NULL));
        lab_expect_state(lab, device, VFIOMIG_STATE_STOP);
        OK(vfiomig_device_run(device));
        lab_expect_contents(lab, SENT);
        return;
    case SET_RUNNING:
        OK(vfiomig_device_set_state(device, VFIOMIG_STATE_RUNNING));
        break;
    case SET_STOP:
        OK(vfiomig_device_set_state(device, VFIOMIG_STATE_STOP));
        lab_expect_state(lab, device, VFIOMIG_STATE_STOP);
        OK(vfiomig_device_run(device));
        break;
    case SET_RUNNING_P2P:
        OK(vfiomig_device_set_state(device, VFIOMIG_STATE_RUNNING_P2P));
        lab_expect_state(lab, device, VFIOMIG_STATE_RUNNING_P2P);
        OK(vfiomig_device_run(device));
        break;
    case RUN:
        OK(vfiomig_device_run(device));
        break;
    case RESET:
        OK(vfiomig_device_reset(device));
        break;
    case SAVE:
        /* What an earlier owner left cannot be saved: it may be half of something. */
        CALL(vfiomig_save_begin(device, NULL, &save), is_stale(death->state) ? -EINVAL : 0);
        if (!save) {
            OK(vfiomig_device_reset(device));
            OK(vfiomig_save_begin(device, NULL, &save));
        }
        vfiomig_save_free(save);
        /* Freed, it is back where it was. */
        OK(vfiomig_device_run(device));
        break;
    case WAYS:
        break;
    }
    /* mtty's registers survive a reset: they show that nothing was half loaded. */
    lab_expect_contents(lab, death->loaded ? SENT : HELD);
}

static void the_device_is_usable_again(void)
{
    const struct death *death = lab_arg();
    struct lab_device source, other;
    struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP),
                          *to = lab_new(&other, 2, LAB_GROUP);
    struct lab_bytes stream;

    lab_fill(&source, SENT);
    stream = lab_save(from, 0, 4096, VFIOMIG_ENDING_KEEP);
    for (enum way way = 0; way < WAYS; way++) {
        struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
        struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
        struct lab_device device;
        struct vfiomig_device *handle;
        struct lab_bytes again;
        int told = 0;

        lab_create(&device, 2);
        lab_open(&device, LAB_GROUP);
        lab_fill(&device, HELD);
        lab_close(&device);
        kill_in(death, &device, &stream);

        /* By cdev, where there is one: the state belongs to the device. */
        lab_open(&device, lab_has(LAB_CDEV) && way % 2 ? LAB_CDEV : LAB_GROUP);
        handle = lab_handle(&device);
        OK(vfiomig_device_get_caps(handle, &caps));
        CHECK(caps.initial_state == death->state, "found in %s, expected %s",
              vfiomig_state_name(caps.initial_state), vfiomig_state_name(death->state));
        for (uint32_t i = 0; i < caps.num_reasons; i++) {
            OK(vfiomig_device_get_reason(handle, i, &reason));
            told += reason.code == VFIOMIG_REASON_STALE_STATE;
        }
        EXPECT(told, death->state != VFIOMIG_STATE_RUNNING);
        lab_expect_state(&device, handle, death->state);

        recover(way, death, handle, &device, &stream);
        lab_expect_state(&device, handle, VFIOMIG_STATE_RUNNING);
        /* And it does its work: something new goes to the other device. */
        lab_fill(&device, 80 + way);
        again = lab_save(handle, 0, 4096, VFIOMIG_ENDING_RELEASE);
        OK(lab_load(to, NULL, again.data, again.len, 0, NULL));
        OK(vfiomig_device_run(to));
        lab_expect_contents(&other, 80 + way);
        lab_free(&again);
        vfiomig_device_free(handle);
        lab_remove(&device);
    }
    lab_free(&stream);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&other);
}

int main(void)
{
    static const struct death deaths[] = {
        { "PRE_COPY", VFIOMIG_STATE_PRE_COPY, 0, to_pre_copy },
        { "PRE_COPY_P2P", VFIOMIG_STATE_PRE_COPY_P2P, 0, to_pre_copy_p2p },
        { "RUNNING_P2P", VFIOMIG_STATE_RUNNING_P2P, 0, to_running_p2p },
        { "STOP_COPY", VFIOMIG_STATE_STOP_COPY, 0, to_stop_copy },
        { "STOP_COPY-half-read", VFIOMIG_STATE_STOP_COPY, 0, to_stop_copy_read_half },
        { "STOP_COPY-ended", VFIOMIG_STATE_STOP_COPY, 0, to_the_end },
        { "STOP-released", VFIOMIG_STATE_STOP, 0, to_released },
        { "RESUMING", VFIOMIG_STATE_RESUMING, 0, to_resuming },
        { "RESUMING-half", VFIOMIG_STATE_RESUMING, 0, to_resuming_half },
        { "RESUMING-all", VFIOMIG_STATE_RESUMING, 0, to_resuming_all },
        { "STOP-committed", VFIOMIG_STATE_STOP, 1, to_committed },
    };

    if (lab_boot() != 1)
        return 77;
    for (size_t i = 0; i < sizeof(deaths) / sizeof(*deaths); i++)
        lab_run_arg(the_device_is_usable_again, &deaths[i], "killed-in-%s", deaths[i].name);
    return lab_status();
}
