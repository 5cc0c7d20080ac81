/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What a device's history says after failures, in buffers of any size; and that it can be read while a
 * driver hangs, from several threads while a device migrates, and for all devices of a group.
 */
#include <pthread.h>
#include <semaphore.h>

#include "rig.h"

enum { READERS = 3 };

static char text[2 * VFIOMIG_HISTORY_BYTES];
static size_t text_len;

static const char *history(struct vfiomig_device *dev, uint32_t format)
{
    OK(vfiomig_device_get_history(dev, format, text, sizeof text, &text_len));
    EQ(strlen(text), text_len);
    return text;
}

/* These come one after the other, whatever comes between them. */
static void in_order(const char *all, const char *const *wanted)
{
    const char *at = all;
    for (; *wanted; wanted++) {
        at = strstr(at, *wanted);
        if (!at)
            FAIL("no '%s' in its place:\n%s", *wanted, all);
        at += strlen(*wanted);
    }
}

static void a_failure_carries_its_history(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct bytes stream = { NULL, 0, 0 };
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 1 << 17, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 2, ENOTCONN, VFIOMIG_SIM_FAULT_ERROR), 0);
    EQ(vfiomig_save_stop(save), -EIO);
    static const char *const wanted[] = {
        "history library=\"",
        "\n", " opened to=RUNNING\n", " save_began from=RUNNING\n",
        " state_asked from=RUNNING to=PRE_COPY\n", " state_changed from=RUNNING to=PRE_COPY duration_ns=",
        " first_data from=PRE_COPY bytes=", " initial_sent bytes=", " round bytes=",
        " state_asked from=PRE_COPY_P2P to=STOP_COPY\n", " driver_failed from=PRE_COPY_P2P to=STOP_COPY",
        " errno=107 ", " reset ", " cause=recovery outcome=reset", " recovered ", " error ", " code=EIO ",
        NULL,
    };
    in_order(history(rig.dev, VFIOMIG_HISTORY_TEXT), wanted);
    EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP), -EIO);
    vfiomig_save_free(save);
    static const char *const json[] = {
        "{\"event\":\"history\",\"device\":null,", "}\n{\"event\":\"opened\",\"device\":null,\"at_ns\":",
        "\"event\":\"driver_failed\"", "\"errno\":107", "\"event\":\"reset\"", "\"cause\":\"recovery\"",
        "\"event\":\"error\"", "\"event\":\"save_ended\"", "\"text\":\"keep\"}\n", NULL,
    };
    in_order(history(rig.dev, VFIOMIG_HISTORY_JSON), json);
    rig_free(&rig);
    bytes_free(&stream);
}

static void the_newest_events_are_written_into_small_buffers(void)
{
    struct rig rig = rig_new(NULL, NULL);
    char small[VFIOMIG_HISTORY_LEAST + 1];
    size_t lines = 0, len = 7;
    for (int i = 0; i < 50; i++)
        OK(vfiomig_device_set_state(rig.dev, i & 1 ? VFIOMIG_STATE_RUNNING : VFIOMIG_STATE_STOP));
    const char *all = history(rig.dev, VFIOMIG_HISTORY_TEXT);
    for (const char *at = all; (at = strchr(at, '\n')); at++)
        lines++;
    EQ(lines, 65);
    CHECK(strstr(all, "recorded=101 left_out=37\n"));
    size_t head = strcspn(all, "\n") + 1;
    memset(small, '!', sizeof small);
    OK(vfiomig_device_get_history(rig.dev, VFIOMIG_HISTORY_TEXT, small, sizeof small - 1, &len));
    EQ(len, strlen(small));
    EQ(small[sizeof small - 1], '!');
    CHECK(len > head && len < sizeof small - 1);
    /* The end of the whole. */
    const char *rest = strchr(small, '\n') + 1;
    EQ(strcmp(rest, all + text_len - strlen(rest)), 0);
    len = 7;
    EQ(vfiomig_device_get_history(rig.dev, VFIOMIG_HISTORY_TEXT, small, 20, &len), -ENOSPC);
    EQ(len, 7);
    rig_free(&rig);
}

/* --- while a driver hangs ------------------------------------------------------------------------ */

/* VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE */
enum { SET_DEVICE_STATE = 1 << 17 | 2 };

static sem_t hangs, goes_on;
static int (*real_feature)(void *, uint32_t, void *, size_t);

static int feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    if (flags == SET_DEVICE_STATE) {
        sem_post(&hangs);
        while (sem_wait(&goes_on) < 0 && errno == EINTR)
            ;
    }
    return real_feature(opaque, flags, data, len);
}

static int stop_result;

static void *stops(void *dev)
{
    stop_result = vfiomig_device_set_state(dev, VFIOMIG_STATE_STOP);
    return NULL;
}

static void a_driver_that_hangs_is_seen(void)
{
    struct rig rig;
    struct vfiomig_device_ops ops = rig_table(&rig, NULL);
    pthread_t thread;
    real_feature = ops.feature;
    ops.feature = feature;
    EQ(sem_init(&hangs, 0, 0), 0);
    EQ(sem_init(&goes_on, 0, 0), 0);
    rig_open(&rig, &ops, NULL);
    EQ(pthread_create(&thread, NULL, stops, rig.dev), 0);
    while (sem_wait(&hangs) < 0)
        EQ(errno, EINTR);
    const char *end = " state_asked from=RUNNING to=STOP\n";
    const char *all = history(rig.dev, VFIOMIG_HISTORY_TEXT);
    EQ(strcmp(all + text_len - strlen(end), end), 0);
    EQ(sem_post(&goes_on), 0);
    EQ(pthread_join(thread, NULL), 0);
    OK(stop_result);
    CHECK(strstr(history(rig.dev, VFIOMIG_HISTORY_TEXT), " state_changed from=RUNNING to=STOP "));
    sem_destroy(&hangs);
    sem_destroy(&goes_on);
    rig_free(&rig);
}

/* --- threads ------------------------------------------------------------------------------------- */

static int done, num_wrong;

static void *reads(void *dev)
{
    char *buf = malloc(VFIOMIG_HISTORY_BYTES);
    size_t len = 0;
    int wrong = !buf;
    while (!wrong && !__atomic_load_n(&done, __ATOMIC_ACQUIRE))
        wrong = vfiomig_device_get_history(dev, VFIOMIG_HISTORY_JSON, buf, VFIOMIG_HISTORY_BYTES, &len) < 0 ||
                len != strlen(buf) || len < 2 || strcmp(buf + len - 2, "}\n") != 0;
    free(buf);
    __atomic_add_fetch(&num_wrong, wrong, __ATOMIC_RELAXED);
    return NULL;
}

static void histories_are_read_while_a_device_migrates(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    pthread_t readers[2 * READERS];
    done = 0;
    for (int i = 0; i < 2 * READERS; i++)
        EQ(pthread_create(&readers[i], NULL, reads, i & 1 ? from.dev : to.dev), 0);
    for (int i = 0; i < 3; i++) {
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save = save_all(from.dev, NULL, 8192, &stream);
        struct vfiomig_load *load;
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        CHECK(push_all(load, &stream, 5000) & VFIOMIG_PUSH_END);
        OK(vfiomig_load_commit(load));
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        vfiomig_load_free(load);
        vfiomig_save_free(save);
        bytes_free(&stream);
    }
    __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 2 * READERS; i++)
        EQ(pthread_join(readers[i], NULL), 0);
    EQ(num_wrong, 0);
    static const char *const wanted[] = { " load_began ", " load_complete ", " committed ", NULL };
    in_order(history(to.dev, VFIOMIG_HISTORY_TEXT), wanted);
    rig_free(&from);
    rig_free(&to);
}

static void a_group_has_the_histories_of_all(void)
{
    struct vfiomig_group_options o = VFIOMIG_GROUP_OPTIONS_INIT;
    struct rig rigs[2] = { rig_new(NULL, NULL), rig_new(NULL, NULL) };
    struct vfiomig_group *group;
    char line[VFIOMIG_HISTORY_LEAST];
    o.role = VFIOMIG_GROUP_ROLE_SOURCE;
    OK(vfiomig_group_new(&o, &group));
    for (int i = 0; i < 2; i++)
        OK(vfiomig_group_add_save(group, rigs[i].dev, NULL));
    OK(vfiomig_group_begin(group));
    EQ(vfiomig_sim_inject(rigs[1].sim, VFIOMIG_SIM_OP_SET_STATE, 2, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(vfiomig_group_stop(group), -EIO);
    OK(vfiomig_group_get_history(group, VFIOMIG_HISTORY_TEXT, text, sizeof text, &text_len));
    static const char *const wanted[] = {
        "history ", "\ndevice 0: history ", "\ndevice 1: history ", " device 0: save_began ", " phase text=\"open\"\n",
        " device 0: state_changed from=PRE_COPY to=PRE_COPY_P2P ",
        " device 1: driver_failed from=PRE_COPY_P2P to=STOP_COPY ", " device 1: error ", " phase text=\"failed\"\n",
        NULL,
    };
    in_order(text, wanted);
    EQ(vfiomig_group_get_history(group, VFIOMIG_HISTORY_TEXT, line, 100, &text_len), -ENOSPC);
    vfiomig_group_free(group);
    for (int i = 0; i < 2; i++)
        rig_free(&rigs[i]);
}

int main(void)
{
    RUN(a_failure_carries_its_history);
    RUN(the_newest_events_are_written_into_small_buffers);
    RUN(a_driver_that_hangs_is_seen);
    RUN(histories_are_read_while_a_device_migrates);
    RUN(a_group_has_the_histories_of_all);
    return DONE();
}
