/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of packets, which carry a stopped device's state in QEMU's format. */
#include <pthread.h>

#include "examples.h"

enum { MAX_PACKETS = 200 };

static struct bytes packets[MAX_PACKETS];
static int num_packets;
static int channel_broken;
static const char *vmstate;

/* One of several channels: the packets with an even or odd number. */
static int channel_receive(int channel, void *packet, size_t cap, size_t *len)
{
    static int next[2];
    int i = next[channel] * 2 + channel;
    if (channel_broken)
        return -EPIPE;
    next[channel]++;
    if (i >= num_packets) {
        next[channel] = 0;
        return 0;
    }
    if (packets[i].len > cap)
        return -EMSGSIZE;
    memcpy(packet, packets[i].data, packets[i].len);
    *len = packets[i].len;
    return 1;
}

/* EXAMPLE vfiomig_load_push_packet */
/* One of several threads, each of which receives on a channel of
   its own. channel_receive() takes what QEMU's multifd header says
   is this device's: 1, or 0 at the end. */
static int load_channel(struct vfiomig_load *load, int channel)
{
    char *packet = malloc(VFIOMIG_QEMU_BUFFER);
    size_t len;
    int r = packet ? 0 : -ENOMEM;

    while (r == 0) {
        r = channel_receive(channel, packet, VFIOMIG_QEMU_BUFFER,
                            &len);
        if (r <= 0)
            break;
        r = vfiomig_load_push_packet(load, packet, len);
        if (r < 0)            /* the load has failed everywhere */
            fprintf(stderr, "%s\n", vfiomig_error_message());
    }
    if (r < 0)
        vfiomig_load_cancel(load);    /* nobody waits for the rest */
    free(packet);
    return r;
}
/* END */

/* EXAMPLE vfiomig_load_write_packets */
struct packet_load {
    struct vfiomig_load *load;        /* VFIOMIG_LOAD_PACKETS */
    int result;                       /* 0: it is committed */
};

/* A thread that begins when the main channel has brought its data.
   It ends when everything has been written, or a call on another
   thread has failed, or the load was cancelled. */
static void *write_packets(void *opaque)
{
    struct packet_load *p = opaque;

    p->result = vfiomig_load_write_packets(p->load);
    if (p->result == 0)
        p->result = vfiomig_load_commit(p->load);
    if (p->result < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return NULL;
}
/* END */

static int take_config(void *opaque, uint32_t kind, const void *data, size_t len)
{
    (void)opaque;
    vmstate = kind == 0 && len == 7 && memcmp(data, "vmstate", 7) == 0 ? "vmstate" : "?";
    return 0;
}

/* The section of save_setup; the packets; and the digest of the device. */
static uint64_t make_packets(struct bytes *setup)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save;
    static uint8_t buf[VFIOMIG_QEMU_BUFFER];
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    size_t len;
    int r;
    options.format = VFIOMIG_FORMAT_QEMU;
    options.flags = VFIOMIG_SAVE_PACKETS | VFIOMIG_SAVE_NO_PRE_COPY;
    options.max_frame = 10000;
    OK(vfiomig_save_begin(rig.dev, &options, &save));
    OK(vfiomig_save_stop(save));
    EQ(vfiomig_save_next(save, buf, sizeof buf, &len), 0);
    bytes_add(setup, buf, len);
    num_packets = 0;
    do {
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
        CHECK(r >= 0 && num_packets < MAX_PACKETS);
        bytes_free(&packets[num_packets]);
        if (len > 0)
            bytes_add(&packets[num_packets++], buf, len);
        if (r == VFIOMIG_NEXT_DRAINED)
            OK(vfiomig_save_add_blob(save, 0, "vmstate", 7));
    } while (r != VFIOMIG_NEXT_END);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    rig_free(&rig);
    CHECK(num_packets > 10);
    return digest;
}

static struct vfiomig_load *load_begun;

static void *channel(void *number)
{
    return (void *)(intptr_t)load_channel(load_begun, (int)(intptr_t)number);
}

static void load_packets(struct rig *to, const struct bytes *setup, struct packet_load *p, int *results)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    pthread_t threads[3];
    options.format = VFIOMIG_FORMAT_QEMU;
    options.flags = VFIOMIG_LOAD_PACKETS;
    options.blob = take_config;
    *to = rig_target(NULL);
    OK(vfiomig_load_begin(to->dev, &options, &p->load));
    load_begun = p->load;
    EQ(vfiomig_load_push(p->load, setup->data, setup->len), VFIOMIG_PUSH_SECTION_END);
    for (intptr_t i = 0; i < 2; i++)
        EQ(pthread_create(&threads[i], NULL, channel, (void *)i), 0);
    EQ(pthread_create(&threads[2], NULL, write_packets, p), 0);
    for (int i = 0; i < 3; i++) {
        void *r;
        pthread_join(threads[i], &r);
        if (i < 2)
            results[i] = (int)(intptr_t)r;
    }
}

static void packets_come_on_several_channels(void)
{
    struct bytes setup = { NULL, 0, 0 };
    struct packet_load p = { NULL, 1 };
    struct rig to;
    int results[2];
    uint64_t digest = make_packets(&setup);
    load_packets(&to, &setup, &p, results);
    EQ(results[0], 0);
    EQ(results[1], 0);
    EQ(p.result, 0);
    HAS(vmstate, "vmstate");
    OK(vfiomig_device_run(to.dev));
    CHECK(vfiomig_sim_digest(to.sim) == digest);
    vfiomig_load_free(p.load);
    rig_free(&to);
    bytes_free(&setup);
}

static void a_channel_that_breaks_ends_the_load(void)
{
    struct bytes setup = { NULL, 0, 0 };
    struct packet_load p = { NULL, 1 };
    struct rig to;
    int results[2];
    make_packets(&setup);
    channel_broken = 1;
    load_packets(&to, &setup, &p, results);
    EQ(results[0], -EPIPE);
    EQ(p.result, -ECANCELED);
    channel_broken = 0;
    vfiomig_load_free(p.load);
    rig_free(&to);
    /* And a wrong packet. */
    packets[3].data[0] = 1;
    load_packets(&to, &setup, &p, results);
    EQ(p.result, -EPROTO);
    EQ(results[1], -EPROTO);
    vfiomig_load_free(p.load);
    rig_free(&to);
    bytes_free(&setup);
    for (int i = 0; i < MAX_PACKETS; i++)
        bytes_free(&packets[i]);
}

int main(void)
{
    RUN(packets_come_on_several_channels);
    RUN(a_channel_that_breaks_ends_the_load);
    return DONE();
}
