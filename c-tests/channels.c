/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A group's channels: threads that are lent move everything, over sockets and over callbacks, in one
 * thread or in many; slow, dead and silent channels, slow devices, what a hostile peer sends, and
 * cancelling and freeing in each phase.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "slow.h"

enum { DEVICES = 4, CHANNELS = 3, LENT = DEVICES + 1, SOURCE = 0, TARGET = 1 };

static const uint32_t roles[] = { VFIOMIG_GROUP_ROLE_SOURCE, VFIOMIG_GROUP_ROLE_TARGET };
static struct rig rigs[2][DEVICES];
static struct vfiomig_group *groups[2];
static int socks[CHANNELS][2];
static pthread_t lent[2][LENT];
static int num_lent;
static uint32_t timeout_ms;

static void *help(void *group)
{
    int r = vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_DISMISSED);
    return (void *)(intptr_t)r;
}

/* The options of a device, by its number: NULL for the usual ones. */
typedef struct vfiomig_sim_options (*options_fn)(int side, int i);

static struct vfiomig_sim_options usual(int side, int i)
{
    struct vfiomig_sim_options o = rig_options();
    o.state_size = 3 << 20;
    o.seed += (uint64_t)i + 1000u * (unsigned)side;
    return o;
}

static void make_groups(options_fn options_of)
{
    for (int side = 0; side < 2; side++) {
        struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
        options.role = roles[side];
        options.window = VFIOMIG_GROUP_MIN_WINDOW;
        memset(options.migration_id, 7, sizeof options.migration_id);
        OK(vfiomig_group_new(&options, &groups[side]));
        for (int i = 0; i < DEVICES; i++) {
            struct vfiomig_load_options load = VFIOMIG_LOAD_OPTIONS_INIT;
            struct vfiomig_sim_options o = options_of(side, i);
            load.blob = take_any_blob;
            rigs[side][i] = rig_new(&o, NULL);
            OK(side == SOURCE ? vfiomig_group_add_save(groups[side], rigs[side][i].dev, NULL)
                              : vfiomig_group_add_load(groups[side], rigs[side][i].dev, &load));
        }
    }
}

static int add_fd(int side, int fd)
{
    struct vfiomig_channel_options options = VFIOMIG_CHANNEL_OPTIONS_INIT;
    options.fd = fd;
    options.timeout_ms = timeout_ms;
    return vfiomig_group_add_channel(groups[side], &options);
}

static void add_sockets(void)
{
    for (int i = 0; i < CHANNELS; i++) {
        EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, socks[i]), 0);
        for (int side = 0; side < 2; side++)
            OK(add_fd(side, socks[i][side]));
    }
}

static void lend(int count)
{
    num_lent = count;
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < count; i++)
            EQ(pthread_create(&lent[side][i], NULL, help, groups[side]), 0);
}

static void begin(options_fn options_of, int threads)
{
    make_groups(options_of);
    add_sockets();
    lend(threads);
    for (int side = 0; side < 2; side++)
        OK(vfiomig_group_begin(groups[side]));
}

static void take_back(void)
{
    for (int side = 0; side < 2; side++) {
        OK(vfiomig_group_dismiss(groups[side]));
        for (int i = 0; i < num_lent; i++) {
            void *result;
            EQ(pthread_join(lent[side][i], &result), 0);
            EQ((intptr_t)result, 0);
        }
    }
    num_lent = 0;
}

static void close_channel(int i)
{
    for (int side = 0; side < 2; side++)
        if (socks[i][side] >= 0)
            EQ(close(socks[i][side]), 0);
    socks[i][0] = socks[i][1] = -1;
}

static void end(void)
{
    take_back();
    for (int side = 0; side < 2; side++) {
        vfiomig_group_free(groups[side]);
        for (int i = 0; i < DEVICES; i++)
            rig_free(&rigs[side][i]);
    }
    for (int i = 0; i < CHANNELS; i++)
        close_channel(i);
}

static struct vfiomig_group_status status_of(int side)
{
    struct vfiomig_group_status status = VFIOMIG_GROUP_STATUS_INIT;
    OK(vfiomig_group_get_status(groups[side], &status));
    return status;
}

static void expect_all(int side, uint32_t state)
{
    for (int i = 0; i < DEVICES; i++)
        EQ(vfiomig_sim_state(rigs[side][i].sim), state);
}

static void it_has_moved(void)
{
    OK(vfiomig_group_commit(groups[TARGET]));
    OK(vfiomig_group_finish(groups[SOURCE], VFIOMIG_ENDING_RELEASE));
    OK(vfiomig_group_run(groups[TARGET]));
    expect_all(SOURCE, VFIOMIG_STATE_STOP);
    expect_all(TARGET, VFIOMIG_STATE_RUNNING);
    for (int i = 0; i < DEVICES; i++)
        CHECK(vfiomig_sim_digest(rigs[0][i].sim) == vfiomig_sim_digest(rigs[1][i].sim));
    EQ(status_of(TARGET).held_bytes, 0);
}

static void both_have_it_back(void)
{
    OK(vfiomig_group_finish(groups[SOURCE], VFIOMIG_ENDING_KEEP));
    OK(vfiomig_group_run(groups[SOURCE]));
    OK(vfiomig_group_abandon(groups[TARGET]));
    expect_all(SOURCE, VFIOMIG_STATE_RUNNING);
    expect_all(TARGET, VFIOMIG_STATE_RUNNING);
}

static void switch_over(void)
{
    OK(vfiomig_group_stop(groups[SOURCE]));
    OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_COMPLETE));
    OK(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_COMPLETE));
}

static void lent_threads_move_everything(void)
{
    struct vfiomig_channel_stats stats = VFIOMIG_CHANNEL_STATS_INIT;
    uint64_t bytes[2] = { 0, 0 };
    begin(usual, LENT);
    OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED));
    EQ(status_of(SOURCE).num_channels, CHANNELS);
    for (int i = 0; i < DEVICES; i++)
        vfiomig_sim_guest_write(rigs[SOURCE][i].sim, 4096, 65536, 99);
    OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED));
    switch_over();
    it_has_moved();
    for (uint32_t i = 0; i < CHANNELS; i++)
        for (int side = 0; side < 2; side++) {
            OK(vfiomig_group_get_channel_stats(groups[side], i, &stats));
            CHECK(stats.sent_frames > 0 && stats.received_frames > 0 && !stats.closed);
            bytes[side] += side == SOURCE ? stats.sent_bytes : stats.received_bytes;
        }
    EQ(vfiomig_group_get_channel_stats(groups[SOURCE], CHANNELS, &stats), -EINVAL);
    EQ(bytes[SOURCE], bytes[TARGET]);
    CHECK(bytes[SOURCE] >= DEVICES * (3u << 20));
    end();
}

/* However many threads wait, and whoever of them has left. */
static void devices_that_have_nothing_are_asked_again_and_again(void)
{
    enum { TIMES = 30 };
    uint64_t before[DEVICES];
    int waited = 0;
    begin(usual, LENT);
    OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED));
    for (int i = 0; i < DEVICES; i++)
        before[i] = vfiomig_sim_count(rigs[SOURCE][i].sim, VFIOMIG_SIM_OP_READ);
    /* Every 10 ms: ten times as long is long enough. */
    for (int i = 0; i < DEVICES; i++)
        while (vfiomig_sim_count(rigs[SOURCE][i].sim, VFIOMIG_SIM_OP_READ) < before[i] + TIMES &&
               waited++ < TIMES * 10)
            usleep(10000);
    CHECK(waited < TIMES * 10);
    switch_over();
    it_has_moved();
    end();
}

static struct vfiomig_sim_options small(int side, int i)
{
    struct vfiomig_sim_options o = usual(side, i);
    o.state_size = 64 << 10;
    return o;
}

/* A thread that was about to read a running device may find it stopped, and its stream at the end. */
static void devices_are_stopped_while_threads_read_them(void)
{
    for (int n = 0; n < 40; n++) {
        begin(small, LENT);
        usleep((useconds_t)n * 50);
        switch_over();
        it_has_moved();
        end();
    }
}

/* An event loop's turn: what can be polled, and then what there is to do. */
static void turn(void)
{
    for (int side = 0; side < 2; side++) {
        struct pollfd pollfd = { .events = POLLIN };
        pollfd.fd = vfiomig_group_get_work_fd(groups[side]);
        CHECK(pollfd.fd >= 0);
        EQ(poll(&pollfd, 1, 0) >= 0, 1);
        OK(vfiomig_group_work(groups[side], VFIOMIG_GROUP_UNTIL_IDLE));
    }
}

static void one_thread_is_enough(void)
{
    begin(usual, 0);
    while (status_of(SOURCE).num_drained < DEVICES)
        turn();
    OK(vfiomig_group_stop(groups[SOURCE]));
    while (status_of(TARGET).phase == VFIOMIG_GROUP_PHASE_OPEN)
        turn();
    EQ(status_of(SOURCE).phase, VFIOMIG_GROUP_PHASE_COMPLETE);
    it_has_moved();
    end();
}

/* The fd says when there is something to do, and is quiet when there is not. */
static void what_is_polled_is_ready_when_there_is_something_to_do(void)
{
    struct pollfd pollfd = { .events = POLLIN };
    begin(usual, 0);
    pollfd.fd = vfiomig_group_get_work_fd(groups[TARGET]);
    OK(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_IDLE));
    OK(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_IDLE));
    EQ(poll(&pollfd, 1, 0), 0);
    OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_IDLE));
    OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_IDLE));
    EQ(poll(&pollfd, 1, 1000), 1);
    OK(vfiomig_group_cancel(groups[SOURCE]));
    OK(vfiomig_group_cancel(groups[TARGET]));
    both_have_it_back();
    end();
}

/* --- callbacks ------------------------------------------------------------------------------------- */

static struct custom {
    int fd;
    int slow;
    atomic_int calls, released;
} customs[2][CHANNELS];

static size_t part(struct custom *custom, size_t len)
{
    int call = atomic_fetch_add(&custom->calls, 1);
    size_t most = custom->slow ? 100 : (size_t)(1 + call % 7 * 9000);
    return call % 11 == 3 ? 0 : len < most ? len : most;
}

static int64_t custom_send(void *opaque, const void *data, size_t len)
{
    struct custom *custom = opaque;
    ssize_t n;
    len = part(custom, len);
    if (len == 0)
        return -EINTR;
    n = send(custom->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

static int64_t custom_receive(void *opaque, void *buf, size_t cap)
{
    struct custom *custom = opaque;
    ssize_t n;
    cap = part(custom, cap);
    if (cap == 0)
        return -EINTR;
    n = recv(custom->fd, buf, cap, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static void custom_release(void *opaque)
{
    ((struct custom *)opaque)->released++;
}

static int add_custom(int side, int i, int fd)
{
    struct vfiomig_channel_options options = VFIOMIG_CHANNEL_OPTIONS_INIT;
    struct vfiomig_channel_ops ops = VFIOMIG_CHANNEL_OPS_INIT;
    customs[side][i].fd = fd;
    ops.send = custom_send;
    ops.receive = custom_receive;
    ops.release = custom_release;
    options.fd = fd;
    options.ops = &ops;
    options.ops_opaque = &customs[side][i];
    return vfiomig_group_add_channel(groups[side], &options);
}

/* Bytes come in any pieces, interrupted by signals, over sockets that take little at a time. */
static void callbacks_carry_it_in_any_pieces(void)
{
    memset(customs, 0, sizeof customs);
    customs[SOURCE][0].slow = customs[TARGET][0].slow = 1;
    make_groups(usual);
    for (int i = 0; i < CHANNELS; i++) {
        int small = 4096;
        EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, socks[i]), 0);
        for (int side = 0; side < 2; side++) {
            EQ(setsockopt(socks[i][side], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
            OK(add_custom(side, i, socks[i][side]));
        }
    }
    lend(LENT);
    for (int side = 0; side < 2; side++)
        OK(vfiomig_group_begin(groups[side]));
    OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED));
    switch_over();
    it_has_moved();
    EQ(customs[SOURCE][0].released, 0);
    end();
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < CHANNELS; i++)
            EQ(customs[side][i].released, 1);
}

static void a_channel_that_is_refused_is_released(void)
{
    struct vfiomig_channel_options options = VFIOMIG_CHANNEL_OPTIONS_INIT;
    struct vfiomig_group_options no_window = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_channel_ops ops = VFIOMIG_CHANNEL_OPS_INIT;
    int file = open("/dev/null", O_RDWR | O_CLOEXEC);
    memset(customs, 0, sizeof customs);
    begin(usual, 0);
    CHECK(file >= 0);
    EQ(add_custom(SOURCE, 0, file), -EINVAL);
    EQ(customs[SOURCE][0].released, 1);
    EQ(add_custom(SOURCE, 1, -1), -EINVAL);
    EQ(customs[SOURCE][1].released, 1);
    options.fd = socks[0][SOURCE];
    options.ops = &ops;
    ops.release = custom_release;
    options.ops_opaque = &customs[SOURCE][2];
    EQ(vfiomig_group_add_channel(groups[SOURCE], &options), -EFAULT);
    EQ(customs[SOURCE][2].released, 1);
    OK(vfiomig_group_cancel(groups[SOURCE]));
    end();
    no_window.role = VFIOMIG_GROUP_ROLE_SOURCE;
    OK(vfiomig_group_new(&no_window, &groups[SOURCE]));
    EQ(add_custom(SOURCE, 0, 0), -EINVAL);
    EQ(customs[SOURCE][0].released, 2);
    vfiomig_group_free(groups[SOURCE]);
    EQ(close(file), 0);
}

/* --- slow devices and slow channels ---------------------------------------------------------------- */

static struct vfiomig_sim_options one_is_slow(int side, int i)
{
    struct vfiomig_sim_options o = usual(side, i);
    if (i == 0 && side == TARGET)
        o.write_rate = 300000; /* ten seconds */
    return o;
}

static void a_slow_device_holds_up_no_other(void)
{
    begin(one_is_slow, LENT);
    OK(vfiomig_group_stop(groups[SOURCE]));
    while (status_of(TARGET).num_complete < DEVICES - 1)
        nap(5);
    EQ(status_of(TARGET).phase, VFIOMIG_GROUP_PHASE_OPEN);
    CHECK(status_of(TARGET).held_bytes <= DEVICES * VFIOMIG_GROUP_MIN_WINDOW);
    for (int side = 0; side < 2; side++)
        OK(vfiomig_group_cancel(groups[side]));
    both_have_it_back();
    end();
}

/* The far end of a channel has gone. No SIGPIPE comes. */
static void a_channel_that_breaks_ends_it(void)
{
    make_groups(usual);
    add_sockets();
    for (int side = 0; side < 2; side++)
        OK(vfiomig_group_begin(groups[side]));
    EQ(shutdown(socks[1][TARGET], SHUT_RDWR), 0);
    EQ(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED), -EIO);
    CHECK(strstr(vfiomig_error_message(), "channel 1: "));
    EQ(status_of(SOURCE).phase, VFIOMIG_GROUP_PHASE_FAILED);
    EQ(status_of(SOURCE).num_failed, 0);
    EQ(vfiomig_group_stop(groups[SOURCE]), -EIO);
    both_have_it_back();
    end();
}

/* Nobody takes what is sent: a frame is stuck. */
static void a_silent_channel_ends_it_after_its_time(void)
{
    timeout_ms = 100;
    make_groups(usual);
    add_sockets();
    timeout_ms = 0;
    for (int side = 0; side < 2; side++)
        OK(vfiomig_group_begin(groups[side]));
    /* Credits, so that there is something to send, and nothing else. */
    OK(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_IDLE));
    EQ(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED), -ETIMEDOUT);
    CHECK(strstr(vfiomig_error_message(), "channel "));
    both_have_it_back();
    end();
}

/* The source is gone before everything has come. */
static void channels_that_are_closed_too_early_end_it(void)
{
    make_groups(usual);
    add_sockets();
    OK(vfiomig_group_begin(groups[TARGET]));
    for (int i = 0; i < CHANNELS; i++)
        EQ(shutdown(socks[i][SOURCE], SHUT_WR), 0);
    EQ(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_COMPLETE), -EIO);
    OK(vfiomig_group_abandon(groups[TARGET]));
    end();
}

/* --- a hostile peer -------------------------------------------------------------------------------- */

static int crc_of(const uint8_t *data, size_t len)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return (int)~crc;
}

/* Streams are little-endian on every machine. */
static void put(uint8_t *at, uint64_t value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* A header as docs/group.md has it. */
static void header(uint8_t *out, uint8_t kind, uint32_t device, uint64_t offset, uint32_t len)
{
    static const uint8_t id[16] = { 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7 };
    memcpy(out, "VMGR\1", 5);
    out[5] = kind;
    out[6] = out[7] = 0;
    put(out + 8, device, 4);
    put(out + 12, len, 4);
    put(out + 16, offset, 8);
    put(out + 24, (uint32_t)crc_of(id, sizeof id), 4);
    put(out + 28, (uint32_t)crc_of(out, 28), 4);
}

static void what_a_peer_must_not_send_ends_it(void)
{
    static const struct {
        uint8_t kind;
        uint32_t device;
        uint64_t offset;
        uint32_t len;
        int twice, code;
    } bad[] = {
        { 1, DEVICES, 0, 64, 0, -EPROTO },
        { 2, 0, 0, 0, 0, -EPROTO },
        { 3, 0, 0, 64, 0, -EPROTO },
        { 1, 0, 0, VFIOMIG_GROUP_MIN_WINDOW, 0, -EPROTO },
        { 1, 0, VFIOMIG_GROUP_MIN_WINDOW, 64, 0, -EPROTO },
        { 1, 0, 0, 0, 0, -EMSGSIZE },
        { 1, 0, 0, 0xffffffffu, 0, -EMSGSIZE },
        { 1, 0, 4096, 64, 1, -EPROTO },
        { 1, 0, 0, 64, 0, -EPROTO }, /* not a stream */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t frame[VFIOMIG_GROUP_HEADER + 64] = { 0 };
        size_t len = VFIOMIG_GROUP_HEADER + (bad[i].len == 64 ? 64 : 0);
        make_groups(usual);
        add_sockets();
        OK(vfiomig_group_begin(groups[TARGET]));
        header(frame, bad[i].kind, bad[i].device, bad[i].offset, bad[i].len);
        for (int n = 0; n <= bad[i].twice; n++)
            EQ(write(socks[n][SOURCE], frame, len), (ssize_t)len);
        EQ(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_COMPLETE), bad[i].code);
        OK(vfiomig_group_abandon(groups[TARGET]));
        EQ(status_of(TARGET).held_bytes, 0);
        end();
    }
}

/* The end first, for ever, on all channels: it gets a window full and no further. */
static void the_end_first_stays_within_the_window(void)
{
    make_groups(usual);
    add_sockets();
    OK(vfiomig_group_begin(groups[TARGET]));
    int r = 0;
    uint64_t most = 0;
    for (uint64_t at = VFIOMIG_GROUP_MIN_WINDOW - 1; r == 0 && at > 0; at--) {
        uint8_t frame[VFIOMIG_GROUP_HEADER + 1] = { 0 };
        header(frame, 1, (uint32_t)(at % DEVICES), at, 1);
        EQ(write(socks[at % CHANNELS][SOURCE], frame, sizeof frame), (ssize_t)sizeof frame);
        r = vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_IDLE);
        uint64_t held = status_of(TARGET).held_bytes;
        most = held > most ? held : most;
    }
    if (r == 0)
        r = vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_COMPLETE);
    EQ(r, -EPROTO);
    CHECK(most > VFIOMIG_GROUP_MIN_WINDOW && most <= DEVICES * VFIOMIG_GROUP_MIN_WINDOW);
    OK(vfiomig_group_abandon(groups[TARGET]));
    end();
}

/* --- cancelling and freeing ------------------------------------------------------------------------ */

static void *until_complete(void *group)
{
    return (void *)(intptr_t)vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_COMPLETE);
}

static struct vfiomig_sim_options slow(int side, int i)
{
    struct vfiomig_sim_options o = usual(side, i);
    o.read_rate = o.write_rate = 1 << 20;
    o.dirty_rate = 100000;
    return o;
}

static void it_is_cancelled_or_freed_in_each_phase(void)
{
    for (int freed = 0; freed < 2; freed++)
        for (int stopped = 0; stopped < 2; stopped++) {
            pthread_t waiting[2];
            begin(slow, LENT);
            nap(30);
            if (stopped)
                OK(vfiomig_group_stop(groups[SOURCE]));
            for (int side = 0; side < 2; side++)
                EQ(pthread_create(&waiting[side], NULL, until_complete, groups[side]), 0);
            nap(50);
            for (int side = 0; side < 2; side++) {
                if (freed)
                    vfiomig_group_free(groups[side]);
                else
                    OK(vfiomig_group_cancel(groups[side]));
            }
            for (int side = 0; side < 2; side++) {
                void *result;
                EQ(pthread_join(waiting[side], &result), 0);
                intptr_t r = (intptr_t)result;
                CHECK(r == -ECANCELED || (freed && (r == -EBADF || r == 0)));
            }
            if (!freed) {
                both_have_it_back();
                end();
                continue;
            }
            for (int side = 0; side < 2; side++) {
                for (int i = 0; i < num_lent; i++)
                    EQ(pthread_join(lent[side][i], NULL), 0);
                expect_all(side, VFIOMIG_STATE_RUNNING);
                for (int i = 0; i < DEVICES; i++)
                    rig_free(&rigs[side][i]);
            }
            num_lent = 0;
            for (int i = 0; i < CHANNELS; i++)
                close_channel(i);
        }
}

static void what_does_not_fit_channels_is_refused(void)
{
    static uint8_t buf[VFIOMIG_GROUP_GOOD_BUFFER];
    size_t len;
    make_groups(usual);
    EQ(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED), -EINVAL);
    add_sockets();
    EQ(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED), -EINVAL);
    EQ(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_COMPLETE), -EINVAL);
    for (int side = 0; side < 2; side++)
        OK(vfiomig_group_begin(groups[side]));
    EQ(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_DRAINED), -EINVAL);
    EQ(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_FRAME), -EINVAL);
    EQ(vfiomig_group_next(groups[SOURCE], buf, sizeof buf, &len), -EINVAL);
    header(buf, 1, 0, 0, 64);
    EQ(vfiomig_group_put(groups[TARGET], buf, VFIOMIG_GROUP_HEADER + 64), -EINVAL);
    both_have_it_back();
    EQ(add_fd(SOURCE, socks[0][0]), -EINVAL);
    end();
}

static void a_long_blob_has_room(void)
{
    static uint8_t blob[600000];
    begin(usual, LENT);
    OK(vfiomig_group_add_blob(groups[SOURCE], 1, 5, blob, sizeof blob));
    switch_over();
    it_has_moved();
    end();
}

int main(void)
{
    RUN(lent_threads_move_everything);
    RUN(devices_that_have_nothing_are_asked_again_and_again);
    RUN(devices_are_stopped_while_threads_read_them);
    RUN(one_thread_is_enough);
    RUN(what_is_polled_is_ready_when_there_is_something_to_do);
    RUN(callbacks_carry_it_in_any_pieces);
    RUN(a_channel_that_is_refused_is_released);
    RUN(a_slow_device_holds_up_no_other);
    RUN(a_channel_that_breaks_ends_it);
    RUN(a_silent_channel_ends_it_after_its_time);
    RUN(channels_that_are_closed_too_early_end_it);
    RUN(what_a_peer_must_not_send_ends_it);
    RUN(the_end_first_stays_within_the_window);
    RUN(it_is_cancelled_or_freed_in_each_phase);
    RUN(what_does_not_fit_channels_is_refused);
    RUN(a_long_blob_has_room);
    return DONE();
}
