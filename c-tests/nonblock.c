/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Reads that would block return -EAGAIN, lose nothing, and the stream is the same in the end. */
#include <poll.h>

#include "rig.h"

static struct vfiomig_save_options nonblocking(void)
{
    struct vfiomig_save_options o = VFIOMIG_SAVE_OPTIONS_INIT;
    o.flags = VFIOMIG_SAVE_NONBLOCK;
    return o;
}

/* As in an event loop: until `until`, counting how often there was nothing. */
static int pump(struct vfiomig_save *save, struct bytes *out, int until, int *again)
{
    uint8_t buf[8192];
    for (int turns = 0; turns < 100000; turns++) {
        size_t len = 12345;
        int r = vfiomig_save_next(save, buf, sizeof buf, &len);
        if (r == -EAGAIN) {
            EQ(len, 12345); /* outputs are written on success only */
            ++*again;
            struct pollfd pfd = { .fd = vfiomig_save_get_poll_fd(save), .events = POLLIN };
            poll(&pfd, pfd.fd >= 0, 1);
            continue;
        }
        if (r < 0)
            return r;
        bytes_add(out, buf, len);
        if (r == until || r == VFIOMIG_NEXT_END)
            return r;
    }
    FAIL("it never ended");
    return 0;
}

static void every_second_read_has_nothing(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_NONBLOCKING;
    struct vfiomig_save_options options = nonblocking();
    struct rig from = rig_new(&o, NULL), to = rig_target(&o);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    int again = 0;
    OK(vfiomig_save_begin(from.dev, &options, &save));
    EQ(pump(save, &stream, VFIOMIG_NEXT_DRAINED, &again), VFIOMIG_NEXT_DRAINED);
    CHECK(again > 0);
    int before = again;
    OK(vfiomig_save_stop(save));
    EQ(pump(save, &stream, VFIOMIG_NEXT_END, &again), VFIOMIG_NEXT_END);
    CHECK(again > before);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    arrives(&from, &to, save, load, &stream);
}

static void it_is_asked_for(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_NONBLOCKING;
    struct rig rig = rig_new(&o, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save = save_all(rig.dev, NULL, 8192, &stream); /* no -EAGAIN */
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

/* A device without pre-copy has no stream before it is stopped, and so nothing to poll. */
static void without_a_stream_there_is_nothing_to_poll(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.migration_flags = 1;
    struct rig rig = rig_new(&o, NULL);
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(vfiomig_save_get_poll_fd(save), -EOPNOTSUPP);
    vfiomig_save_free(save);
    rig_free(&rig);
}

int main(void)
{
    RUN(every_second_read_has_nothing);
    RUN(it_is_asked_for);
    RUN(without_a_stream_there_is_nothing_to_poll);
    return DONE();
}
