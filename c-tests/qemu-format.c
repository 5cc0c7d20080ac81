/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * QEMU's format as used by a VMM like QEMU: the sections of several devices in one stream, whose
 * headers are the VMM's, and packets over channels of several threads.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "packets.h"

static const uint8_t EOS[8] = { 0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 1 };
static const uint8_t READY[8] = { 0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 6 };
static const char vmstate[] = "configuration space, interrupts";

enum { DEVICES = 3, CAP = VFIOMIG_QEMU_BUFFER };

static void nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
}

static struct vfiomig_save_options saving(uint32_t flags)
{
    struct vfiomig_save_options o = VFIOMIG_SAVE_OPTIONS_INIT;
    o.format = VFIOMIG_FORMAT_QEMU;
    o.flags = flags;
    return o;
}

static struct vfiomig_load_options loading(uint32_t flags)
{
    struct vfiomig_load_options o = VFIOMIG_LOAD_OPTIONS_INIT;
    o.format = VFIOMIG_FORMAT_QEMU;
    o.flags = flags;
    return o;
}

/* A section of a device: one byte of header, as QEMU's section header is to QEMU, and what a
 * call returned. */
static int section(struct bytes *stream, uint8_t device, struct vfiomig_save *save)
{
    static uint8_t buf[CAP];
    size_t len = 0;
    int r = vfiomig_save_next(save, buf, sizeof buf, &len);
    if (r >= 0 && len > 0) {
        bytes_add(stream, &device, 1);
        bytes_add(stream, buf, len);
    }
    return r;
}

/* As QEMU does with its devices, each section behind the number of its device. */
static void save_in_turn(struct vfiomig_save *const *saves, struct bytes *stream)
{
    for (int drained = 0; drained < DEVICES;) { /* save_live_iterate, in turn */
        drained = 0;
        for (uint8_t i = 0; i < DEVICES; i++) {
            int r = section(stream, i, saves[i]);
            CHECK(r >= 0);
            drained += r == VFIOMIG_NEXT_DRAINED;
        }
    }
    for (uint8_t i = 0; i < DEVICES; i++)
        OK(vfiomig_save_stop(saves[i]));
    for (uint8_t i = 0; i < DEVICES; i++) { /* save_complete: one section of several pieces */
        static uint8_t buf[CAP];
        size_t len;
        int r;
        bytes_add(stream, &i, 1);
        do {
            r = vfiomig_save_next(saves[i], buf, sizeof buf, &len);
            CHECK(r >= 0);
            bytes_add(stream, buf, len);
        } while (r != VFIOMIG_NEXT_DRAINED);
    }
    for (uint8_t i = 0; i < DEVICES; i++) { /* save_state */
        OK(vfiomig_save_add_blob(saves[i], 0, vmstate, sizeof vmstate));
        EQ(section(stream, i, saves[i]), VFIOMIG_NEXT_END);
    }
}

static void load_sections(struct vfiomig_load *const *loads, const struct bytes *stream)
{
    int ready = 0, ended = 0;
    for (size_t at = 0; at < stream->len;) { /* load_state, by the section's header */
        uint8_t i = stream->data[at++];
        CHECK(i < DEVICES);
        for (int r = 0; !(r & VFIOMIG_PUSH_SECTION_END);) {
            void *space;
            size_t room;
            OK(vfiomig_load_get_space(loads[i], &space, &room));
            CHECK(room <= stream->len - at);
            memcpy(space, stream->data + at, room);
            at += room;
            r = vfiomig_load_push_received(loads[i], room);
            CHECK(r >= 0);
            ready += (r & VFIOMIG_PUSH_INITIAL_LOADED) != 0;
            ended += (r & VFIOMIG_PUSH_END) != 0;
            if (r & VFIOMIG_PUSH_CONFIG) {
                CHECK(memcmp(stream->data + at, vmstate, sizeof vmstate) == 0);
                at += sizeof vmstate;
            }
        }
    }
    EQ(ready, DEVICES);
    EQ(ended, DEVICES);
}

static void several_devices_in_one_stream(void)
{
    struct rig from[DEVICES], to[DEVICES];
    struct vfiomig_save *saves[DEVICES];
    struct vfiomig_load *loads[DEVICES];
    struct vfiomig_save_options save_options = saving(VFIOMIG_SAVE_SWITCHOVER_ACK);
    struct vfiomig_load_options load_options = loading(0);
    struct bytes stream = { NULL, 0, 0 };

    for (uint8_t i = 0; i < DEVICES; i++) {
        struct vfiomig_sim_options o = rig_options();
        o.seed = 10u + i;
        o.state_size = (3u << 20) + i;
        from[i] = rig_new(&o, NULL);
        to[i] = rig_target(&o);
        OK(vfiomig_save_begin(from[i].dev, &save_options, &saves[i]));
        OK(vfiomig_load_begin(to[i].dev, &load_options, &loads[i]));
        EQ(section(&stream, i, saves[i]), VFIOMIG_NEXT_MORE); /* save_setup */
    }
    save_in_turn(saves, &stream);
    load_sections(loads, &stream);
    for (int i = 0; i < DEVICES; i++) {
        OK(vfiomig_load_commit(loads[i]));
        OK(vfiomig_save_finish(saves[i], VFIOMIG_ENDING_RELEASE));
        OK(vfiomig_device_run(to[i].dev));
        CHECK(vfiomig_sim_digest(to[i].sim) == vfiomig_sim_digest(from[i].sim));
        vfiomig_load_free(loads[i]);
        vfiomig_save_free(saves[i]);
        rig_free(&from[i]);
        rig_free(&to[i]);
    }
    bytes_free(&stream);
}

static void a_full_piece_is_a_mebibyte(void)
{
    static const uint8_t head[16] = { 0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 4,
                                      0,    0,    0,    0,    0,    0x10, 0, 0 };
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_save_options options = saving(VFIOMIG_SAVE_NO_PRE_COPY);
    struct vfiomig_save *save;
    static uint8_t buf[CAP + 100];
    size_t len;
    o.state_size = 3u << 20;
    struct rig rig = rig_new(&o, NULL);
    OK(vfiomig_save_begin(rig.dev, &options, &save));
    EQ(vfiomig_save_next(save, buf, sizeof buf, &len), VFIOMIG_NEXT_MORE);
    EQ(len, 16);
    OK(vfiomig_save_stop(save));
    EQ(vfiomig_save_next(save, buf, sizeof buf, &len), VFIOMIG_NEXT_MORE);
    EQ(len, 16 + (1 << 20));
    CHECK(memcmp(buf, head, sizeof head) == 0);
    vfiomig_save_free(save);
    rig_free(&rig);
}

static void what_is_not_of_the_format_is_refused(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save_options save = saving(0);
    struct vfiomig_load_options load = loading(0);
    struct vfiomig_save *s;
    struct vfiomig_load *l;
    save.device_index = 1;
    EQ(vfiomig_save_begin(rig.dev, &save, &s), -EINVAL);
    save = saving(0);
    save.migration_id[3] = 1;
    EQ(vfiomig_save_begin(rig.dev, &save, &s), -EINVAL);
    save = saving(1u << 7);
    EQ(vfiomig_save_begin(rig.dev, &save, &s), -EINVAL);
    save = saving(VFIOMIG_SAVE_PACKETS);
    save.format = VFIOMIG_FORMAT_NATIVE;
    EQ(vfiomig_save_begin(rig.dev, &save, &s), -EINVAL);
    load = loading(VFIOMIG_LOAD_CHECK_DEVICE_INDEX);
    EQ(vfiomig_load_begin(rig.dev, &load, &l), -EINVAL);
    load = loading(VFIOMIG_LOAD_CHECK_MIGRATION_ID);
    EQ(vfiomig_load_begin(rig.dev, &load, &l), -EINVAL);
    load = loading(VFIOMIG_LOAD_PACKETS);
    load.format = VFIOMIG_FORMAT_NATIVE;
    EQ(vfiomig_load_begin(rig.dev, &load, &l), -EINVAL);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    rig_free(&rig);
}

/* Packets. */

enum { THREADS = 4 };

/* The packets of a device, and the main channel that belongs to them. */
static struct bytes packets_of(struct vfiomig_device *dev)
{
    struct vfiomig_save_options options = saving(VFIOMIG_SAVE_PACKETS);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    options.max_frame = 1000;
    OK(vfiomig_save_begin(dev, &options, &save));
    EQ(read_until(save, &stream, CAP, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    take_packets(save, vmstate, sizeof vmstate);
    bytes_add(&stream, EOS, sizeof EOS);     /* save_complete */
    bytes_add(&stream, READY, sizeof READY); /* save_state */
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    CHECK(num_packets > 4 * THREADS);
    return stream;
}

struct channel {
    pthread_t thread;
    struct vfiomig_load *load;
    int first, step, turned, result;
};

/* Brings one packet in every `step`; every other one before the one before it, if it may. */
static void *channel(void *opaque)
{
    struct channel *c = opaque;
    int mine = (num_packets - c->first + c->step - 1) / c->step;
    for (int i = 0; i < mine && c->result == 0; i++) {
        int turned = c->turned && (i ^ 1) < mine ? i ^ 1 : i;
        const struct bytes *packet = &packets[c->first + turned * c->step];
        c->result = vfiomig_load_push_packet(c->load, packet->data, packet->len);
    }
    return NULL;
}

struct config {
    atomic_int came, released;
    int bad, refuse;
    struct vfiomig_load *free_me;
    struct vfiomig_device *device;
    int state_result;
    struct vfiomig_dirty *dirty; /* makes the device busy for a while */
};

static atomic_int slow, inside;

/* Of a device whose next answer takes a while. */
static int slow_feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    if (atomic_exchange(&slow, 0)) {
        atomic_store(&inside, 1);
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    }
    return vfiomig_sim_ops(opaque)->feature(opaque, flags, data, len);
}

static int started;

static void *starts(void *dirty)
{
    started = vfiomig_dirty_start(dirty);
    return NULL;
}

static int take_config(void *opaque, uint32_t kind, const void *data, size_t len)
{
    struct config *config = opaque;
    uint32_t state;
    config->bad |= kind != 0 || len != sizeof vmstate || memcmp(data, vmstate, len) != 0;
    config->came++;
    pthread_t thread;
    if (config->dirty) {
        atomic_store(&inside, 0);
        atomic_store(&slow, 1);
        if (pthread_create(&thread, NULL, starts, config->dirty) != 0)
            return -EAGAIN;
        while (!atomic_load(&inside))
            ;
    }
    config->state_result = vfiomig_device_get_state(config->device, &state);
    if (config->dirty)
        pthread_join(thread, NULL);
    if (config->free_me)
        vfiomig_load_free(config->free_me);
    return config->refuse;
}

static void release_config(void *opaque)
{
    ((struct config *)opaque)->released++;
}

/* A load whose main channel has come as far as the switchover. */
static struct vfiomig_load *packet_load(struct rig *to, struct config *config, uint64_t max_queued,
                                        const struct bytes *stream)
{
    struct vfiomig_load_options options = loading(VFIOMIG_LOAD_PACKETS);
    struct vfiomig_load *load;
    options.max_queued = max_queued;
    options.blob = take_config;
    options.blob_opaque = config;
    options.blob_release = release_config;
    config->device = to->dev;
    OK(vfiomig_load_begin(to->dev, &options, &load));
    CHECK(vfiomig_load_push(load, stream->data, stream->len - sizeof EOS - sizeof READY) &
          VFIOMIG_PUSH_SECTION_END);
    return load;
}

/* All of them, the last one first. */
static void push_packets(struct vfiomig_load *load)
{
    for (int i = num_packets; i-- > 0;)
        OK(vfiomig_load_push_packet(load, packets[i].data, packets[i].len));
}

static void *run(void *opaque)
{
    struct channel *c = opaque;
    c->result = vfiomig_load_write_packets(c->load);
    return NULL;
}

static void packets_over_several_channels(void)
{
    for (int turn = 0; turn < 5; turn++) {
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        struct bytes stream = packets_of(from.dev);
        struct config config = { .bad = 0 };
        struct vfiomig_load *load = packet_load(&to, &config, turn % 2 ? 5000 : 0, &stream);
        struct channel channels[THREADS], runner = { .load = load };
        struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;

        EQ(pthread_create(&runner.thread, NULL, run, &runner), 0); /* switchover_start */
        for (int i = 0; i < THREADS; i++) {
            /* With little room, only channels that keep their order make progress. */
            channels[i] = (struct channel){
                .load = load, .first = i, .step = THREADS, .turned = turn % 2 == 0,
            };
            EQ(pthread_create(&channels[i].thread, NULL, channel, &channels[i]), 0);
        }
        EQ(vfiomig_load_push(load, EOS, sizeof EOS), VFIOMIG_PUSH_SECTION_END);
        EQ(vfiomig_load_push(load, READY, sizeof READY),
           VFIOMIG_PUSH_SECTION_END | VFIOMIG_PUSH_CONFIG_READY);
        for (int i = 0; i < THREADS; i++) {
            pthread_join(channels[i].thread, NULL);
            EQ(channels[i].result, 0);
        }
        pthread_join(runner.thread, NULL);
        EQ(runner.result, 0);
        EQ(config.came, 1);
        EQ(config.bad, 0);
        EQ(config.state_result, 0); /* no lock of the library was held */
        OK(vfiomig_load_get_stats(load, &stats));
        EQ(stats.packets, num_packets);
        EQ(stats.blobs, 1);
        OK(vfiomig_load_commit(load));
        CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
        EQ(vfiomig_load_push_packet(load, packets[0].data, packets[0].len), -EINVAL);
        EQ(vfiomig_load_write_packets(load), -EINVAL);
        vfiomig_load_free(load);
        EQ(config.released, 1);
        bytes_free(&stream);
        packets_free();
        rig_free(&from);
        rig_free(&to);
    }
}

/* Cancelled or freed while it waits for a packet that never comes. */
static void what_waits_is_ended(void)
{
    for (int way = 0; way < 3; way++) {
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        struct bytes stream = packets_of(from.dev);
        struct config config = { .bad = 0 };
        struct vfiomig_load *load = packet_load(&to, &config, 0, &stream);
        struct channel runner = { .load = load };
        struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        static const uint8_t absurd[13] = { 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 0, 1 };

        OK(vfiomig_load_push_packet(load, packets[3].data, packets[3].len));
        OK(vfiomig_load_get_stats(load, &stats));
        uint64_t loaded = stats.data_bytes;
        EQ(pthread_create(&runner.thread, NULL, run, &runner), 0);
        OK(vfiomig_load_push_packet(load, packets[0].data, packets[0].len));
        do { /* until the first has been taken: then it waits for the second */
            nap();
            OK(vfiomig_load_get_failure(load, &failure));
            EQ(failure.code, 0);
            OK(vfiomig_load_get_stats(load, &stats));
        } while (stats.data_bytes == loaded);
        if (way == 0)
            OK(vfiomig_load_cancel(load));
        else if (way == 1)
            EQ(vfiomig_load_push_packet(load, absurd, sizeof absurd), -EMSGSIZE);
        else
            vfiomig_load_free(load);
        pthread_join(runner.thread, NULL);
        EQ(runner.result, way == 1 ? -EMSGSIZE : -ECANCELED);
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        if (way < 2) {
            OK(vfiomig_load_get_failure(load, &failure));
            EQ(failure.code, runner.result);
            EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
            EQ(vfiomig_load_commit(load), runner.result);
            vfiomig_load_free(load);
        } else {
            EQ(vfiomig_load_write_packets(load), -EBADF);
            EQ(vfiomig_load_push_packet(load, absurd, sizeof absurd), -EBADF);
        }
        EQ(config.came, 0);
        EQ(config.released, 1);
        bytes_free(&stream);
        packets_free();
        rig_free(&from);
        rig_free(&to);
    }
}

static void the_configurations_callback_may_refuse_and_cannot_free(void)
{
    for (int frees = 0; frees < 2; frees++) {
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        struct bytes stream = packets_of(from.dev);
        struct config config = { .refuse = frees ? 0 : -EPERM };
        struct vfiomig_load *load = packet_load(&to, &config, 0, &stream);
        push_packets(load);
        config.free_me = frees ? load : NULL;
        EQ(vfiomig_load_write_packets(load), frees ? 0 : -EPERM);
        EQ(config.came, 1);
        EQ(vfiomig_load_commit(load), frees ? 0 : -EPERM);
        vfiomig_load_free(load);
        EQ(config.released, 1);
        bytes_free(&stream);
        packets_free();
        rig_free(&from);
        rig_free(&to);
    }
}

static void every_call_returns_what_ended_the_load(void)
{
    static const struct { int refuse, result; } cases[] = {
        { -EPERM, -EPERM }, { -EBADMSG, -EBADMSG }, { -EXDEV, -EXDEV }, { -EAGAIN, -EIO },
        { 0, -ENODATA }, /* a commit that came too early */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        struct bytes stream = packets_of(from.dev);
        struct config config = { .refuse = cases[i].refuse };
        struct vfiomig_load *load = packet_load(&to, &config, 0, &stream);
        size_t len;
        int result = cases[i].result;
        void *space;
        push_packets(load);
        EQ(cases[i].refuse ? vfiomig_load_write_packets(load) : vfiomig_load_commit(load), result);
        EQ(vfiomig_load_push(load, EOS, sizeof EOS), result);
        EQ(vfiomig_load_get_space(load, &space, &len), result);
        EQ(vfiomig_load_push_received(load, 1), result);
        EQ(vfiomig_load_commit(load), result);
        EQ(vfiomig_load_push_packet(load, packets[0].data, packets[0].len), result);
        EQ(vfiomig_load_write_packets(load), result);
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        vfiomig_load_free(load);
        bytes_free(&stream);
        packets_free();
        rig_free(&from);
        rig_free(&to);
    }
}

/* The thread holds nothing that anyone waits for, so it may wait itself. */
static void the_configurations_callback_waits_for_the_device(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct rig from = rig_new(NULL, NULL), to;
    struct bytes stream = packets_of(from.dev);
    struct config config = { .bad = 0 };
    struct vfiomig_memory_ops memory = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    uint32_t number;
    o.seed += 1000;
    struct vfiomig_device_ops ops = rig_table(&to, &o);
    ops.feature = slow_feature;
    rig_open(&to, &ops, NULL);
    OK(vfiomig_dirty_new(&memory, NULL, NULL, &config.dirty));
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
    writer.device = to.dev;
    OK(vfiomig_dirty_add_writer(config.dirty, &writer, &number));
    mapping.size = 1 << 20;
    OK(vfiomig_dirty_map(config.dirty, &mapping));
    struct vfiomig_load *load = packet_load(&to, &config, 0, &stream);
    push_packets(load);
    OK(vfiomig_load_write_packets(load));
    EQ(config.came, 1);
    EQ(started, 0);
    EQ(config.state_result, 0);
    OK(vfiomig_load_commit(load));
    vfiomig_dirty_free(config.dirty);
    vfiomig_load_free(load);
    bytes_free(&stream);
    packets_free();
    rig_free(&from);
    rig_free(&to);
}

struct elsewhere {
    struct vfiomig_load *load;
    int events, room_for, submitted, run;
};

/* A callback of another device: what would wait for this load's other threads does not. */
static void brings_packets(void *opaque, const struct vfiomig_event *event)
{
    struct elsewhere *e = opaque;
    (void)event;
    e->events++;
    e->run = vfiomig_load_write_packets(e->load);
    e->submitted = 0;
    for (int i = 1; i < num_packets && e->submitted == 0; i++) {
        e->submitted = vfiomig_load_push_packet(e->load, packets[i].data, packets[i].len);
        e->room_for = e->submitted == 0 ? i : e->room_for;
    }
}

static void packets_do_not_wait_in_the_callbacks_of_other_devices(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = packets_of(from.dev);
    struct config config = { .bad = 0 };
    struct elsewhere e = { .load = packet_load(&to, &config, 5000, &stream) };
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct channel runner = { .load = e.load };
    options.event = brings_packets;
    options.event_opaque = &e;
    struct rig other = rig_new(NULL, &options);
    OK(vfiomig_device_set_state(other.dev, VFIOMIG_STATE_STOP));
    EQ(e.events, 1);
    EQ(e.run, -EINVAL);
    EQ(e.submitted, -EAGAIN);
    CHECK(e.room_for >= 1 && e.room_for < num_packets - 1);
    /* Neither has ended the load. */
    EQ(pthread_create(&runner.thread, NULL, run, &runner), 0);
    OK(vfiomig_load_push_packet(e.load, packets[0].data, packets[0].len));
    for (int i = e.room_for + 1; i < num_packets; i++)
        OK(vfiomig_load_push_packet(e.load, packets[i].data, packets[i].len));
    pthread_join(runner.thread, NULL);
    EQ(runner.result, 0);
    OK(vfiomig_load_commit(e.load));
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
    vfiomig_load_free(e.load);
    bytes_free(&stream);
    packets_free();
    rig_free(&from);
    rig_free(&to);
    rig_free(&other);
}

int main(void)
{
    RUN(several_devices_in_one_stream);
    RUN(a_full_piece_is_a_mebibyte);
    RUN(what_is_not_of_the_format_is_refused);
    RUN(packets_over_several_channels);
    RUN(what_waits_is_ended);
    RUN(the_configurations_callback_may_refuse_and_cannot_free);
    RUN(every_call_returns_what_ended_the_load);
    RUN(the_configurations_callback_waits_for_the_device);
    RUN(packets_do_not_wait_in_the_callbacks_of_other_devices);
    return DONE();
}
