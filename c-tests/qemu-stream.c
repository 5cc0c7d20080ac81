/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Whole streams as stock QEMU writes them. The library's reader finds its way through, the device
 * gets what was in them, and a device that returns the same again is saved as the same bytes,
 * section by section and packet by packet.
 *
 * usage: qemu-stream              streams that are put together here
 *        qemu-stream STEM...      captured ones: STEM.stream.0 is the main channel, .1 and so on those
 *                                 of multifd; STEM.digest the test device's (lab/kmod/README.md).
 *                                 The name says what is in it: mtty, 1m, precopy, multifd, ack.
 *
 * Each stream that passes is then damaged in many places, one at a time, and must fail. V=1 in the
 * environment shows why each of these was refused.
 *
 * The device is the simulator, which judges every change of state, with a tape for its data.
 */
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "rig.h"

enum { CHANNELS = 16, FULL_PIECE = 1 << 20, BUFFER = VFIOMIG_QEMU_BUFFER };

/* What QEMU's own framing consists of. */
enum { START = 1, PART = 2, END = 3, FULL = 4, COMMAND = 8, FOOTER = 0x7e };
enum { INIT_LEN = 64, RAM_HEAD = 320, DEVICE_HEAD = 276, ID_LEN = 256 };
enum { PAGE = 4096, PAGES = 128, FLAG_SYNC = 1, FLAG_DEVICE = 64 };
static const uint32_t MULTIFD_MAGIC = 0x11223344;

/* The marks, without their last byte, and these last bytes. */
static const uint8_t MARK[7] = { 0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0 };
enum { EOS = 1, CONFIG, SETUP, DATA, ACK, READY };
enum { MARK_LEN = 8, DATA_HEAD = 16, PACKET_HEAD = 12 };

enum contents { ANY, MTTY, TEST_DEVICE };

/* What the checker does wrong on purpose when it saves, to show that this is noticed. */
enum tamper { NOTHING, OTHER_DATA, OTHER_CONFIG, OTHER_ACK, OTHER_PIECES, NUM_TAMPERS };

struct stream {
    const char *name;
    struct bytes file[CHANNELS];
    int num_files;
    enum contents contents;
    bool multifd, ack, pre_copy;
    uint64_t digest;
    uint64_t min_bytes;
};

struct section {
    uint8_t type;
    size_t head, at, end; /* of the main channel */
    bool ack;
};

/* What one read from the driver returned. */
struct piece {
    const uint8_t *data;
    size_t len;
    size_t section; /* in which it was sent */
};

struct packet {
    const uint8_t *data;
    size_t len;
};

struct tape {
    struct vfiomig_sim *sim;
    const struct vfiomig_device_ops *under;
    struct vfiomig_device_ops ops;
    struct bytes written;
    /* What is read: pieces up to `until`, the first of them from `offset` on. */
    const struct piece *pieces;
    size_t next, until, num, offset;
    uint64_t initial;
    bool pause;
    enum tamper tamper;
};

struct work;

struct channel {
    struct work *work;
    pthread_t thread;
    bool started;
    struct bytes packets; /* struct packet each */
    int result;
    char why[200];
};

/* One check of one stream. */
struct work {
    const struct stream *s;
    enum tamper tamper;
    int patience_ms;
    jmp_buf out;
    char why[400];

    uint32_t id, instance;
    char idstr[ID_LEN];
    struct bytes sections, pieces, received; /* struct section, struct piece, what they hold */
    struct packet config;                    /* the VMM's part alone */
    struct packet *order;                    /* packets by their index */
    size_t num_packets, num_short;

    struct tape to, from;
    struct vfiomig_device *dev[2];
    struct vfiomig_load *load;
    struct vfiomig_save *save;
    struct channel channels[CHANNELS], runner;
    bool config_ok;
    int configs;
};

#define NEED(w, condition, ...)                                    \
    do {                                                           \
        if (!(condition)) {                                        \
            snprintf((w)->why, sizeof(w)->why, __VA_ARGS__);       \
            longjmp((w)->out, 1);                                  \
        }                                                          \
    } while (0)

/* A call of the library that must succeed. */
#define WORKS(w, call) NEED(w, (call) >= 0, #call ": %s", vfiomig_error_message())

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t be64(const uint8_t *p)
{
    return (uint64_t)be32(p) << 32 | be32(p + 4);
}

static uint64_t le(const uint8_t *p, int len)
{
    uint64_t x = 0;
    while (len-- > 0)
        x = x << 8 | p[len];
    return x;
}

static bool is_mark(const struct bytes *f, size_t at, int which)
{
    return at + MARK_LEN <= f->len && memcmp(f->data + at, MARK, sizeof MARK) == 0 &&
           (which == 0 || f->data[at + 7] == which);
}

static struct section *section_at(const struct work *w, size_t i)
{
    return &((struct section *)(void *)w->sections.data)[i];
}

static size_t num_sections(const struct work *w)
{
    return w->sections.len / sizeof(struct section);
}

static struct piece *piece_at(const struct work *w, size_t i)
{
    return &((struct piece *)(void *)w->pieces.data)[i];
}

static size_t num_pieces(const struct work *w)
{
    return w->pieces.len / sizeof(struct piece);
}

static void add_piece(struct work *w, const uint8_t *data, size_t len)
{
    struct piece piece = { data, len, num_sections(w) - 1 };
    bytes_add(&w->pieces, &piece, sizeof piece);
    bytes_add(&w->received, data, len);
}

/* --- the device ------------------------------------------------------------------------------- */

static int tape_feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    struct tape *t = opaque;
    return t->under->feature(t->sim, flags, data, len);
}

static int tape_reset(void *opaque)
{
    struct tape *t = opaque;
    return t->under->reset(t->sim);
}

static int tape_close(void *opaque, int fd)
{
    struct tape *t = opaque;
    return t->under->data_close(t->sim, fd);
}

static void tape_release(void *opaque)
{
    struct tape *t = opaque;
    t->under->release(t->sim);
}

static int64_t tape_read(void *opaque, int fd, void *buf, size_t len)
{
    struct tape *t = opaque;
    uint32_t state = vfiomig_sim_state(t->sim);
    (void)fd;
    if (state != VFIOMIG_STATE_PRE_COPY && state != VFIOMIG_STATE_STOP_COPY)
        return -EINVAL;
    if (t->pause) {
        t->pause = false;
        return -EAGAIN;
    }
    if (t->next == t->until)
        return state == VFIOMIG_STATE_STOP_COPY ? 0 : -ENOMSG;
    const struct piece *piece = &t->pieces[t->next];
    size_t n = piece->len - t->offset;
    if (t->tamper == OTHER_PIECES && n > 1)
        n--;
    if (n > len)
        n = len;
    memcpy(buf, piece->data + t->offset, n);
    if (t->tamper == OTHER_DATA && t->next + 1 == t->num)
        *(uint8_t *)buf ^= 1;
    t->offset += n;
    if (t->offset == piece->len) {
        t->next++;
        t->offset = 0;
    }
    /* What is read together with the rest would be sent with it. */
    t->pause = t->next < t->until && state == VFIOMIG_STATE_STOP_COPY && n < len;
    t->initial -= n < t->initial ? n : t->initial;
    return (int64_t)n;
}

static int64_t tape_write(void *opaque, int fd, const void *buf, size_t len)
{
    struct tape *t = opaque;
    (void)fd;
    if (vfiomig_sim_state(t->sim) != VFIOMIG_STATE_RESUMING)
        return -EINVAL;
    bytes_add(&t->written, buf, len);
    return (int64_t)len;
}

static int tape_precopy_info(void *opaque, int fd, struct vfiomig_precopy_info *info)
{
    struct tape *t = opaque;
    (void)fd;
    if (vfiomig_sim_state(t->sim) != VFIOMIG_STATE_PRE_COPY)
        return -EINVAL;
    info->initial_bytes = t->initial;
    info->dirty_bytes = 0;
    return 0;
}

static int tape_nonblocking(void *opaque, int fd)
{
    (void)opaque;
    (void)fd;
    return 0;
}

static void tape_new(struct work *w, struct tape *t, bool pre_copy, struct vfiomig_device **dev)
{
    struct vfiomig_sim_options o = rig_options();
    o.migration_flags = pre_copy ? 7 : 3;
    /* It sees none of the data. */
    o.quirks = VFIOMIG_SIM_STOP_ACCEPTS_ALL;
    WORKS(w, vfiomig_sim_new(&o, &t->sim));
    t->under = vfiomig_sim_ops(t->sim);
    t->ops = (struct vfiomig_device_ops){
        .struct_size = sizeof t->ops,
        .feature = tape_feature,
        .reset = tape_reset,
        .data_read = tape_read,
        .data_write = tape_write,
        .data_precopy_info = tape_precopy_info,
        .data_close = tape_close,
        .data_set_nonblocking = tape_nonblocking,
        .release = tape_release,
    };
    WORKS(w, vfiomig_device_new_ops(&t->ops, t, NULL, dev));
}

/* The simulator's opinion of what the library did; "" if it has none. */
static const char *tape_free(struct tape *t, struct vfiomig_device *dev)
{
    const char *what = "";
    if (!t->sim)
        return "";
    vfiomig_device_free(dev);
    if (vfiomig_sim_violations(t->sim, &what) == 0)
        what = vfiomig_sim_open_streams(t->sim) != 0 ? "a stream stayed open" : "";
    vfiomig_sim_free(t->sim);
    bytes_free(&t->written);
    return what;
}

/* --- the main channel ------------------------------------------------------------------------- */

/* Length of a section's header, which contains the device's name, or 0. */
static size_t named_head(const struct work *w, size_t at, int type)
{
    const struct bytes *f = &w->s->file[0];
    size_t len = at + 6 <= f->len ? f->data[at + 5] : 0;
    if (len == 0 || f->data[at] != type || at + 6 + len + 8 > f->len)
        return 0;
    return be32(f->data + at + 6 + len + 4) == 1 ? 6 + len + 8 : 0;
}

/* The first section of the device, by its name. */
static void find_start(struct work *w)
{
    const struct bytes *f = &w->s->file[0];
    for (size_t at = 8; at < f->len; at++) {
        size_t head = named_head(w, at, START);
        size_t len = head > 0 ? f->data[at + 5] : 0;
        if (len < 5 || memcmp(f->data + at + 6 + len - 5, "/vfio", 5) != 0)
            continue;
        struct section s = { .type = START, .head = at, .at = at + head };
        w->id = be32(f->data + at + 1);
        memcpy(w->idstr, f->data + at + 6, len);
        w->instance = be32(f->data + at + 6 + len);
        bytes_add(&w->sections, &s, sizeof s);
        return;
    }
    NEED(w, false, "no section of a VFIO device");
}

/* Whether something of QEMU's ends here, so that a section may begin. */
static bool follows_something(const struct bytes *f, size_t at)
{
    const uint8_t *p = f->data + at - 5;
    return (p[0] == FOOTER && p[1] == 0 && p[2] == 0) ||
           (p[0] == COMMAND && p[1] == 0 && p[3] == 0 && p[4] == 0);
}

/* The next section of the device from here on. */
static void find_next(struct work *w, size_t from)
{
    const struct bytes *f = &w->s->file[0];
    for (size_t at = from; at + 5 <= f->len; at++) {
        uint8_t type = f->data[at];
        size_t head = 5;
        if (type < START || type > FULL || be32(f->data + at + 1) != w->id)
            continue;
        if (type == START || type == FULL) {
            size_t len = strlen(w->idstr);
            head = named_head(w, at, type);
            if (head != 6 + len + 8 || memcmp(f->data + at + 6, w->idstr, len) != 0 ||
                be32(f->data + at + 6 + len) != w->instance)
                continue;
        }
        /* One of the two may have been damaged. */
        if (!is_mark(f, at + head, 0) && !follows_something(f, at))
            continue;
        struct section s = { .type = type, .head = at, .at = at + head };
        bytes_add(&w->sections, &s, sizeof s);
        return;
    }
    NEED(w, false, "section %zu does not come", num_sections(w));
}

/* Where QEMU stops to read its own part: before the mark that the section's end follows. */
static size_t end_of_config(const struct work *w, size_t at)
{
    const struct bytes *f = &w->s->file[0];
    while (at + MARK_LEN + 5 <= f->len) {
        const uint8_t *footer = f->data + at + MARK_LEN;
        if (is_mark(f, at, EOS) && footer[0] == FOOTER && be32(footer + 1) == w->id)
            return at;
        at++;
    }
    return 0;
}

/* Gives a section to the library, which says where it ends. */
static void load_section(struct work *w, struct section *s)
{
    const struct bytes *f = &w->s->file[0];
    size_t at = s->at;
    for (int r = 0; !(r & VFIOMIG_PUSH_SECTION_END);) {
        void *space;
        size_t room;
        WORKS(w, vfiomig_load_get_space(w->load, &space, &room));
        NEED(w, room <= f->len - at, "section at %zu: %zu bytes are missing", s->head, room);
        memcpy(space, f->data + at, room);
        at += room;
        r = vfiomig_load_push_received(w->load, room);
        NEED(w, r >= 0, "section at %zu: %s", s->head, vfiomig_error_message());
        s->ack |= (r & VFIOMIG_PUSH_INITIAL_LOADED) != 0;
        if (r & VFIOMIG_PUSH_CONFIG) {
            size_t end = end_of_config(w, at);
            NEED(w, end > 0, "no end of the configuration");
            w->config = (struct packet){ f->data + at, end - at };
            at = end;
        }
        NEED(w, !(r & VFIOMIG_PUSH_SECTION_END) || w->s->multifd ||
             !(r & VFIOMIG_PUSH_END) == (s->type != FULL), "section at %zu: the end", s->head);
    }
    s->end = at;
    NEED(w, f->len - at >= 5 && f->data[at] == FOOTER && be32(f->data + at + 1) == w->id,
         "section at %zu: the library says that it ends at %zu, and QEMU does not", s->head, at);
}

/* The section once more, without the library: its pieces of data, and whether stock QEMU writes
 * it like this. */
static void take_apart(struct work *w, const struct section *s)
{
    const struct bytes *f = &w->s->file[0];
    size_t at = s->at, pieces = 0;
    if (s->type == START) {
        NEED(w, is_mark(f, at, SETUP), "section at %zu: no SETUP_STATE", s->head);
        at += MARK_LEN;
    }
    for (; is_mark(f, at, DATA); pieces++) {
        uint64_t len = s->end - at > DATA_HEAD ? be64(f->data + at + MARK_LEN) : 0;
        NEED(w, len > 0 && len <= FULL_PIECE && len <= s->end - at - DATA_HEAD,
             "section at %zu: a piece of %llu bytes", s->head, (unsigned long long)len);
        add_piece(w, f->data + at + DATA_HEAD, (size_t)len);
        at += DATA_HEAD + (size_t)len;
    }
    NEED(w, pieces <= (s->type == PART ? 1 : s->type == END && !w->s->multifd ? SIZE_MAX : 0),
         "section at %zu: %zu pieces of data", s->head, pieces);
    if (is_mark(f, at, CONFIG))
        at = (size_t)(w->config.data - f->data) + w->config.len;
    NEED(w, is_mark(f, at, EOS) || (s->ack && is_mark(f, at, ACK)) ||
         (s->type == FULL && is_mark(f, at, READY)), "section at %zu: no end", s->head);
    NEED(w, at + MARK_LEN == s->end, "section at %zu: has no end where it ends", s->head);
}

/* VFIO's marks occur nowhere else: no section was missed. */
static void look_for_others(struct work *w)
{
    const struct bytes *f = &w->s->file[0];
    size_t at = 0;
    for (size_t i = 0; i <= num_sections(w); i++) {
        size_t until = i < num_sections(w) ? section_at(w, i)->at : f->len;
        for (; at < until; at++)
            NEED(w, !is_mark(f, at, 0), "a mark at %zu, in no section of the device", at);
        if (i < num_sections(w))
            at = section_at(w, i)->end;
    }
}

/* --- channels --------------------------------------------------------------------------------- */

/* Collects a channel's packets for the device, and skips those with RAM. */
static void read_channel(struct work *w, int number)
{
    const struct bytes *f = &w->s->file[number];
    size_t at = INIT_LEN, ram = 0;
    NEED(w, f->len >= INIT_LEN && be32(f->data) == MULTIFD_MAGIC && be32(f->data + 4) == 1,
         "channel %d does not begin as multifd's", number);
    while (at < f->len) {
        const uint8_t *p = f->data + at;
        size_t left = f->len - at;
        NEED(w, left >= DEVICE_HEAD && be32(p) == MULTIFD_MAGIC && be32(p + 4) == 1,
             "channel %d: no packet at %zu", number, at);
        uint32_t flags = be32(p + 8);
        NEED(w, flags == 0 || flags == FLAG_SYNC || flags == FLAG_DEVICE,
             "channel %d: flags %#x at %zu", number, flags, at);
        if (flags != FLAG_DEVICE) {
            size_t head = RAM_HEAD + 8 * PAGES;
            uint32_t room = be32(p + 12), pages = be32(p + 16), len = be32(p + 20);
            NEED(w, (room == 0 || room == PAGES) && pages <= room && len == pages * PAGE &&
                 left >= head + len, "channel %d: RAM of %u bytes at %zu", number, len, at);
            at += head + len;
            ram++;
            continue;
        }
        struct packet packet = { p + DEVICE_HEAD, be32(p + 272) };
        NEED(w, strncmp((const char *)p + 12, w->idstr, ID_LEN) == 0 &&
             be32(p + 268) == w->instance, "channel %d: another device's packet", number);
        NEED(w, packet.len <= left - DEVICE_HEAD, "channel %d: a packet is cut", number);
        bytes_add(&w->channels[number].packets, &packet, sizeof packet);
        w->num_packets++;
        at += DEVICE_HEAD + packet.len;
    }
    NEED(w, ram > 0, "channel %d: no RAM", number);
}

static void *submit(void *opaque)
{
    struct channel *c = opaque;
    const struct packet *packet = (const struct packet *)(const void *)c->packets.data;
    size_t n = c->packets.len / sizeof *packet;
    for (size_t i = 0; i < n && c->result == 0; i++)
        c->result = vfiomig_load_push_packet(c->work->load, packet[i].data, packet[i].len);
    if (c->result != 0)
        snprintf(c->why, sizeof c->why, "%s", vfiomig_error_message());
    return NULL;
}

static void *run(void *opaque)
{
    struct channel *c = opaque;
    c->result = vfiomig_load_write_packets(c->work->load);
    if (c->result != 0)
        snprintf(c->why, sizeof c->why, "%s", vfiomig_error_message());
    return NULL;
}

static void start_thread(struct work *w, struct channel *c, void *(*body)(void *))
{
    c->work = w;
    c->started = pthread_create(&c->thread, NULL, body, c) == 0;
    NEED(w, c->started, "no thread");
}

static void join(struct channel *c)
{
    if (c->started)
        pthread_join(c->thread, NULL);
    c->started = false;
}

/* What QEMU does when the source says that it switches over. */
static void start_packets(struct work *w)
{
    int busy = 0;
    for (int i = 1; i < w->s->num_files; i++) {
        read_channel(w, i);
        busy += w->channels[i].packets.len > 0;
    }
    NEED(w, busy > 0, "no packet of the device's");
    start_thread(w, &w->runner, run);
    for (int i = 1; i < w->s->num_files; i++)
        start_thread(w, &w->channels[i], submit);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Waits until all packets have been written, for as long as something happens. */
static void finish_packets(struct work *w)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    uint64_t before = 0;
    double since = now();
    for (int i = 1; i < w->s->num_files; i++) {
        join(&w->channels[i]);
        NEED(w, w->channels[i].result == 0, "channel %d: %s", i, w->channels[i].why);
    }
    while (w->runner.started) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 5000000;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        if (pthread_timedjoin_np(w->runner.thread, NULL, &t) == 0) {
            w->runner.started = false;
            break;
        }
        WORKS(w, vfiomig_load_get_stats(w->load, &stats));
        if (stats.data_bytes != before)
            since = now();
        before = stats.data_bytes;
        NEED(w, now() - since < w->patience_ms / 1e3, "the packets are not complete");
    }
    NEED(w, w->runner.result == 0, "loading packets: %s", w->runner.why);
    WORKS(w, vfiomig_load_get_stats(w->load, &stats));
    NEED(w, stats.packets == w->num_packets, "%llu packets of %zu",
         (unsigned long long)stats.packets, w->num_packets);
    NEED(w, w->configs == 1 && w->config_ok, "the configuration that came is another");
}

/* Packets by their index; the last one has the configuration, the others have data. */
static void order_packets(struct work *w)
{
    w->order = calloc(w->num_packets, sizeof *w->order);
    NEED(w, w->order, "no memory");
    for (int i = 1; i < w->s->num_files; i++) {
        struct packet *packet = (struct packet *)(void *)w->channels[i].packets.data;
        for (size_t n = w->channels[i].packets.len / sizeof *packet; n > 0; n--, packet++) {
            uint32_t index = packet->len > PACKET_HEAD ? be32(packet->data + 4) : UINT32_MAX;
            NEED(w, be32(packet->data) == 0, "a packet's version is not 0");
            NEED(w, index < w->num_packets && !w->order[index].data, "packet %u", index);
            NEED(w, be32(packet->data + 8) == (index == w->num_packets - 1),
                 "flags of packet %u", index);
            w->order[index] = *packet;
        }
    }
    const struct packet *last = &w->order[w->num_packets - 1];
    const struct bytes in = { (uint8_t *)(uintptr_t)last->data, last->len, 0 };
    NEED(w, last->len >= PACKET_HEAD + 2 * MARK_LEN && is_mark(&in, PACKET_HEAD, CONFIG) &&
         is_mark(&in, last->len - MARK_LEN, EOS), "no marks about the configuration");
    w->config.data = last->data + PACKET_HEAD + MARK_LEN;
    w->config.len = last->len - PACKET_HEAD - 2 * MARK_LEN;
    for (size_t i = 0; i + 1 < w->num_packets; i++)
        add_piece(w, w->order[i].data + PACKET_HEAD, w->order[i].len - PACKET_HEAD);
}

/* Only called by vfiomig_load_write_packets(), when everything is in place. */
static int take_config(void *opaque, uint32_t kind, const void *data, size_t len)
{
    struct work *w = opaque;
    w->configs++;
    for (int i = 1; i < w->s->num_files; i++) {
        const struct packet *p = (const struct packet *)(const void *)w->channels[i].packets.data;
        for (size_t n = w->channels[i].packets.len / sizeof *p; n > 0; n--, p++)
            w->config_ok |= kind == 0 && be32(p->data + 8) == 1 &&
                            p->len == PACKET_HEAD + 2 * MARK_LEN + len &&
                            memcmp(p->data + PACKET_HEAD + MARK_LEN, data, len) == 0;
    }
    return 0;
}

/* --- decoding --------------------------------------------------------------------------------- */

static void decode(struct work *w)
{
    const struct bytes *f = &w->s->file[0];
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    options.format = VFIOMIG_FORMAT_QEMU;
    options.flags = w->s->multifd ? VFIOMIG_LOAD_PACKETS : 0;
    options.blob = take_config;
    options.blob_opaque = w;
    tape_new(w, &w->to, true, &w->dev[0]);
    WORKS(w, vfiomig_load_begin(w->dev[0], &options, &w->load));

    NEED(w, f->len > 8 && memcmp(f->data, "QEVM\0\0\0\3", 8) == 0, "no stream of QEMU's");
    for (int before = 0; before != FULL;) {
        if (before == 0)
            find_start(w);
        else
            find_next(w, section_at(w, num_sections(w) - 1)->end + 5);
        struct section *s = section_at(w, num_sections(w) - 1);
        bool in_order = before == 0      ? s->type == START
                        : s->type == END ? before == START || before == PART
                        : s->type == PART ? before == START || before == PART
                                         : s->type == FULL && before == END;
        NEED(w, in_order, "section at %zu: %d after %d", s->head, s->type, before);
        if (s->type == END && w->s->multifd)
            start_packets(w);
        load_section(w, s);
        take_apart(w, s);
        before = s->type;
    }
    look_for_others(w);
    if (w->s->multifd) {
        finish_packets(w);
        order_packets(w);
    }
    WORKS(w, vfiomig_load_commit(w->load));
    WORKS(w, vfiomig_device_run(w->dev[0]));
    NEED(w, w->to.written.len == w->received.len &&
         memcmp(w->to.written.data, w->received.data, w->received.len) == 0,
         "the device got %zu bytes, and others than the %zu of the stream", w->to.written.len,
         w->received.len);
}

/* --- what the device got ---------------------------------------------------------------------- */

/* The functions of lab/kmod: contents.c, stream.h, save.c. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t check_of(uint64_t seed, const uint8_t *data, size_t len)
{
    while (len-- > 0)
        seed = mix(seed + *data++ + 1);
    return seed;
}

static void fill_block(uint64_t seed, uint32_t block, uint32_t generation, uint8_t *to, size_t len)
{
    uint64_t x = mix(seed ^ mix((uint64_t)generation << 32 | block));
    for (size_t i = 0; i < len; i++) {
        if (i % 8 == 0)
            x = x * 6364136223846793005u + 1442695040888963407u;
        to[i] = (uint8_t)((x ^ x >> 32) >> (8 * (i % 8)));
    }
}

enum { TEST_HEAD = 48, TEST_RECORD = 32, TEST_BLOCK = 4096, TEST_SCRATCH = 64 };

static uint64_t digest_of(uint64_t seed, uint64_t size, const uint32_t *generation,
                          const uint8_t *scratch)
{
    uint64_t digest = mix(seed ^ mix(size));
    for (uint64_t i = 0; i * TEST_BLOCK < size; i++)
        digest = mix(digest + generation[i]);
    for (int i = 0; i < TEST_SCRATCH; i++)
        digest = mix(digest ^ scratch[i]);
    return digest;
}

/* Everything that the test device checks before it accepts a state, and the digest that it had
 * then. */
static const char *test_device_holds(const struct bytes *got, uint64_t digest, uint32_t *generation,
                                     uint64_t max_blocks)
{
    const uint8_t *p = got->data;
    uint8_t expected[TEST_BLOCK];
    if (got->len < TEST_HEAD || memcmp(p, "vmgtest1", 8) != 0 || le(p + 8, 4) != 1 ||
        le(p + 12, 4) != TEST_BLOCK || le(p + 40, 8) != check_of(0, p, 40))
        return "no header of the test device's";
    uint64_t size = le(p + 16, 8), seed = le(p + 24, 8), blocks = (size + TEST_BLOCK - 1) / TEST_BLOCK;
    if (blocks > max_blocks)
        return "its contents are larger than expected";
    memset(generation, 0xff, blocks * sizeof *generation);
    for (size_t at = TEST_HEAD;;) {
        if (got->len - at < TEST_RECORD || memcmp(got->data + at, "vrec", 4) != 0)
            return "no record where one should be";
        p = got->data + at;
        uint64_t type = le(p + 4, 4), offset = le(p + 8, 8), len = le(p + 20, 4);
        at += TEST_RECORD;
        if (le(p + 24, 8) != check_of(seed, p, 24) || len > got->len - at)
            return "a damaged record";
        p += TEST_RECORD;
        at += len;
        if (type == 2) {
            for (uint64_t i = 0; i < blocks; i++)
                if (generation[i] == UINT32_MAX)
                    return "a block is missing";
            if (len != 8 + TEST_SCRATCH || at != got->len)
                return "the end is not at the end";
            if (le(p, 8) != digest_of(seed, size, generation, p + 8) || le(p, 8) != digest)
                return "the digest is another";
            return NULL;
        }
        uint64_t block = offset / TEST_BLOCK;
        uint64_t want = size - offset < TEST_BLOCK ? size - offset : TEST_BLOCK;
        if (type != 1 || offset >= size || offset % TEST_BLOCK != 0 || len != want)
            return "a record that cannot be";
        generation[block] = (uint32_t)le(p - TEST_RECORD + 16, 4);
        fill_block(seed, (uint32_t)block, generation[block], expected, len);
        if (memcmp(expected, p, len) != 0)
            return "a damaged block";
    }
}

static void look_at_contents(struct work *w)
{
    const struct bytes *got = &w->to.written;
    if (w->s->contents == TEST_DEVICE) {
        static uint32_t generation[4096];
        const char *wrong = test_device_holds(got, w->s->digest, generation, 4096);
        NEED(w, !wrong, "the test device: %s", wrong);
    } else if (w->s->contents == MTTY) {
        /* struct mtty_data: magic, versions, flags, ports, 36 bytes for each port. */
        NEED(w, got->len >= 24 && le(got->data, 8) == 0x7e9d09898c3e2c4e &&
             le(got->data + 8, 2) == 1, "no header of mtty's");
        uint64_t ports = le(got->data + 16, 4);
        NEED(w, ports >= 1 && ports <= 2 && got->len == 24 + 36 * ports,
             "mtty with %llu ports sends %zu bytes", (unsigned long long)ports, got->len);
    }
}

/* --- what there must be ----------------------------------------------------------------------- */

struct counts {
    size_t sections, rounds, before, stopped, packets, acks;
};

static struct counts counts_of(const struct work *w)
{
    struct counts n = { .sections = num_sections(w), .packets = w->num_packets };
    for (size_t i = 0; i < n.sections; i++) {
        n.rounds += section_at(w, i)->type == PART;
        n.acks += section_at(w, i)->ack;
    }
    for (size_t i = 0; i < num_pieces(w); i++) {
        bool before = section_at(w, piece_at(w, i)->section)->type == PART;
        n.before += before;
        n.stopped += !before;
    }
    return n;
}

static void count(struct work *w)
{
    const struct stream *s = w->s;
    struct counts n = counts_of(w);
    NEED(w, n.sections == n.rounds + 3, "%zu sections, %zu rounds", n.sections, n.rounds);
    NEED(w, s->pre_copy ? n.rounds > 0 && n.before > 0 : n.rounds == 0,
         "%zu rounds, %zu with data", n.rounds, n.before);
    NEED(w, n.stopped > 0, "no data of the stopped device");
    NEED(w, n.packets == (s->multifd ? n.stopped + 1 : 0), "%zu packets", n.packets);
    NEED(w, n.acks == s->ack, "%zu marks for switchover-ack", n.acks);
    NEED(w, w->received.len >= s->min_bytes, "only %zu bytes", w->received.len);
    NEED(w, w->config.len > 0, "no configuration");
}

/* --- saving again ----------------------------------------------------------------------------- */

/* One call, which must return exactly this. */
static int same(struct work *w, const char *what, size_t number, const uint8_t *want, size_t len)
{
    static uint8_t buf[BUFFER];
    size_t got = 0;
    int r = vfiomig_save_next(w->save, buf, sizeof buf, &got);
    NEED(w, r >= 0, "saving %s %zu: %s", what, number, vfiomig_error_message());
    NEED(w, got == len && (len == 0 || memcmp(buf, want, len) == 0), "%s %zu is saved as other bytes", what,
         number);
    return r;
}

/* The section that save_complete writes: as many calls as it takes. */
static void same_complete(struct work *w, const struct section *s)
{
    static uint8_t buf[BUFFER];
    const uint8_t *want = w->s->file[0].data;
    size_t at = s->at;
    int r = VFIOMIG_NEXT_MORE;
    while (r != VFIOMIG_NEXT_DRAINED) {
        size_t len = 0;
        r = vfiomig_save_next(w->save, buf, sizeof buf, &len);
        NEED(w, r >= 0, "saving the stopped device: %s", vfiomig_error_message());
        NEED(w, len <= s->end - at && memcmp(buf, want + at, len) == 0,
             "the stopped device is saved as other bytes at %zu", at);
        at += len;
    }
    NEED(w, at == s->end, "the stopped device is saved as less");
}

static void give_config(struct work *w)
{
    uint8_t *copy = malloc(w->config.len);
    NEED(w, copy, "no memory");
    memcpy(copy, w->config.data, w->config.len);
    copy[0] ^= w->tamper == OTHER_CONFIG;
    int r = vfiomig_save_add_blob(w->save, 0, copy, w->config.len);
    free(copy);
    NEED(w, r == 0, "adding the configuration: %s", vfiomig_error_message());
}

/* Pieces of a section to the tape. */
static void rewind_tape(struct work *w, size_t *next, size_t section)
{
    struct tape *t = &w->from;
    t->next = *next;
    while (*next < num_pieces(w) && piece_at(w, *next)->section == section)
        ++*next;
    t->until = *next;
}

/* The last section that is acknowledged; 0 if there is none. */
static size_t marked_section(struct work *w)
{
    size_t marked = 0;
    for (size_t i = 0; i < num_sections(w); i++)
        marked = section_at(w, i)->ack ? i : marked;
    return marked;
}

static size_t largest_piece(struct work *w)
{
    size_t largest = 0;
    for (size_t p = 0; p < num_pieces(w); p++)
        largest = piece_at(w, p)->len > largest ? piece_at(w, p)->len : largest;
    return largest;
}

static void save_the_packets(struct work *w)
{
    int r = VFIOMIG_NEXT_MORE;
    size_t n = 0;
    for (; n + 1 < w->num_packets; n++)
        r = same(w, "packet", n, w->order[n].data, w->order[n].len);
    /* It may or may not know of the end by now. */
    if (r == VFIOMIG_NEXT_MORE)
        r = same(w, "packet", n, NULL, 0);
    NEED(w, r == VFIOMIG_NEXT_DRAINED, "more packets than there were");
    give_config(w);
    r = same(w, "packet", n, w->order[n].data, w->order[n].len);
    NEED(w, r == VFIOMIG_NEXT_END, "no end");
}

static void save_again(struct work *w)
{
    const uint8_t *main_channel = w->s->file[0].data;
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    size_t next = 0, largest = largest_piece(w), marked = marked_section(w), i = 1;
    struct tape *t = &w->from;

    t->pieces = piece_at(w, 0);
    t->num = num_pieces(w);
    t->tamper = w->tamper;
    for (size_t p = 0; p < t->num && t->pieces[p].section <= marked; p++)
        t->initial += t->pieces[p].len;
    /* Initial data ends with the round that has the mark: with its data, or before the round. */
    bool before = marked > 0 && !is_mark(&w->s->file[0], section_at(w, marked)->at, DATA);
    t->initial += before;

    options.format = VFIOMIG_FORMAT_QEMU;
    options.flags = (w->s->multifd ? VFIOMIG_SAVE_PACKETS : 0) | VFIOMIG_SAVE_NONBLOCK |
                    ((marked > 0) != (w->tamper == OTHER_ACK) ? VFIOMIG_SAVE_SWITCHOVER_ACK : 0);
    /* Stock QEMU's buffer is smaller than 1 MiB if the state was smaller when the migration
     * began. */
    options.max_frame = (uint32_t)largest;

    tape_new(w, t, w->s->pre_copy, &w->dev[1]);
    WORKS(w, vfiomig_save_begin(w->dev[1], &options, &w->save));
    const struct section *s = section_at(w, 0);
    same(w, "section", 0, main_channel + s->at, s->end - s->at);
    for (; (s = section_at(w, i))->type == PART; i++) {
        rewind_tape(w, &next, i);
        t->initial -= before && i == marked;
        int r = same(w, "section", i, main_channel + s->at, s->end - s->at);
        NEED(w, (r == VFIOMIG_NEXT_DRAINED) == !is_mark(&w->s->file[0], s->at, DATA),
             "section %zu: the library says %d", i, r);
    }
    WORKS(w, vfiomig_save_stop(w->save));
    t->next = next;
    t->until = t->num;
    /* Shorter ones in between come from a driver that had no more at that time. */
    for (size_t p = next; p + 1 < t->num; p++)
        w->num_short += t->pieces[p].len < largest;
    if (w->s->multifd) {
        save_the_packets(w);
    } else {
        same_complete(w, s);
        give_config(w);
        s = section_at(w, i + 1);
        NEED(w, same(w, "section", i + 1, main_channel + s->at, s->end - s->at) == VFIOMIG_NEXT_END,
             "no end");
    }
    WORKS(w, vfiomig_save_finish(w->save, VFIOMIG_ENDING_RELEASE));
}

/* --- verdicts --------------------------------------------------------------------------------- */

static void work_free(struct work *w)
{
    for (int i = 0; i < CHANNELS; i++)
        bytes_free(&w->channels[i].packets);
    free(w->order);
    bytes_free(&w->sections);
    bytes_free(&w->pieces);
    bytes_free(&w->received);
}

/* Whether all of this holds for a stream. The findings stay in w, and w->why has the reason. */
static bool holds(const struct stream *s, enum tamper tamper, int patience_ms, struct work *w)
{
    memset(w, 0, sizeof *w);
    w->s = s;
    w->tamper = tamper;
    w->patience_ms = patience_ms;
    if (setjmp(w->out) == 0) {
        decode(w);
        look_at_contents(w);
        count(w);
        save_again(w);
    }
    if (w->runner.started)
        (void)vfiomig_load_cancel(w->load);
    join(&w->runner);
    for (int i = 0; i < CHANNELS; i++)
        join(&w->channels[i]);
    vfiomig_load_free(w->load);
    vfiomig_save_free(w->save);
    w->load = NULL;
    w->save = NULL;
    /* Whatever came, the library keeps to the rules. */
    for (int i = 0; i < 2; i++) {
        const char *broken = tape_free(i == 0 ? &w->to : &w->from, w->dev[i]);
        if (broken[0])
            FAIL("the library broke a rule of the kernel: %s", broken);
    }
    return w->why[0] == 0;
}

/* One damage. */
struct damage {
    const char *what;
    int file;
    size_t at;
    uint8_t bits; /* 0: everything from there on is missing */
    bool library; /* the library must notice, and not just the checker */
};

static void damage(struct bytes *list, const char *what, int file, size_t at, uint8_t bits)
{
    struct damage d = { what, file, at, bits, false };
    bytes_add(list, &d, sizeof d);
}

static void refused(struct bytes *list, const char *what, int file, size_t at, uint8_t bits)
{
    struct damage d = { what, file, at, bits, true };
    bytes_add(list, &d, sizeof d);
}

static void damage_sections(struct bytes *list, const struct work *w)
{
    size_t n = num_sections(w), parts = n - 3;
    for (size_t i = 0; i < n; i++) {
        const struct section *x = section_at(w, i);
        /* Of the rounds, only the first and the last. */
        if (x->type == PART && i != 1 && i != parts)
            continue;
        damage(list, "a section's type", 0, x->head, 0x20);
        damage(list, "a section's number", 0, x->head + 4, 1);
        refused(list, "a section's first mark", 0, x->at + 7, 0x40);
        refused(list, "the upper half of a section's first mark", 0, x->at, 1);
        /* The VMM itself looks for the end of its configuration. */
        (x->type == FULL ? damage : refused)(list, "a section's last mark", 0, x->end - 1, 0x40);
        damage(list, "a footer", 0, x->end, 1);
        damage(list, "a footer's number", 0, x->end + 4, 1);
        damage(list, "the end of the file", 0, x->end - 1, 0);
    }
}

static bool is_in(const struct bytes *file, const uint8_t *data)
{
    return data >= file->data && data < file->data + file->len;
}

static void damage_pieces(struct bytes *list, const struct work *w)
{
    const struct stream *s = w->s;
    for (size_t i = 0; i < num_pieces(w); i++) {
        const struct piece *p = piece_at(w, i);
        if (!is_in(&s->file[0], p->data) || (i > 1 && i + 2 < num_pieces(w)))
            continue;
        size_t at = (size_t)(p->data - s->file[0].data);
        refused(list, "a mark before data", 0, at - 9, 0x40);
        damage(list, "a length", 0, at - 1, 1);
        damage(list, "a length", 0, at - 1, 0x80);
        refused(list, "a length of very much", 0, at - 8, 0x40);
    }
    if (s->contents == ANY)
        return;
    const uint8_t *first = piece_at(w, 0)->data;
    for (int f = 0; f < s->num_files; f++)
        if (is_in(&s->file[f], first))
            damage(list, "device data", f, (size_t)(first - s->file[f].data), 1);
}

static void damage_packet(struct bytes *list, int f, size_t at, size_t len, bool last)
{
    refused(list, "a packet's version", f, at + 3, 1);
    damage(list, "a packet's index", f, at + 7, 1);
    refused(list, "a packet's index, to very much", f, at + 4, 0x40);
    damage(list, "a packet's flags", f, at + 11, 1);
    refused(list, "a packet's unknown flag", f, at + 11, 4);
    damage(list, "the magic of a packet's head", f, at - DEVICE_HEAD, 1);
    damage(list, "the version of a packet's head", f, at - DEVICE_HEAD + 7, 2);
    damage(list, "the flags of a packet's head", f, at - DEVICE_HEAD + 11, FLAG_DEVICE);
    damage(list, "a packet's device", f, at - DEVICE_HEAD + 12, 1);
    damage(list, "a packet's instance", f, at - 5, 1);
    damage(list, "a packet's length", f, at - 1, 1);
    damage(list, "a packet's length", f, at - 3, 0x40);
    damage(list, "the end of a channel", f, at + len - 1, 0);
    if (last) {
        refused(list, "the mark before a configuration", f, at + 19, 0x40);
        refused(list, "the mark behind a configuration", f, at + len - 1, 0x40);
    }
}

/* Where a good stream can be damaged so that it must show. */
static struct bytes damages(const struct work *w)
{
    const struct stream *s = w->s;
    struct bytes list = { NULL, 0, 0 };
    damage_sections(&list, w);
    damage_pieces(&list, w);
    for (size_t i = 0; i < w->num_packets; i++) {
        if (i > 1 && i + 2 < w->num_packets)
            continue;
        const uint8_t *p = w->order[i].data;
        for (int f = 1; f < s->num_files; f++)
            if (is_in(&s->file[f], p))
                damage_packet(&list, f, (size_t)(p - s->file[f].data), w->order[i].len,
                              i + 1 == w->num_packets);
    }
    for (int f = 1; f < s->num_files; f++) {
        damage(&list, "the length of a packet with RAM", f, INIT_LEN + 22, 0x10);
        damage(&list, "a channel's first bytes", f, 3, 1);
    }
    return list;
}

static bool verbose(void)
{
    const char *v = getenv("V");
    return v && strcmp(v, "1") == 0;
}

/* Checks a stream, then checks that damage shows. Returns how many kinds of damage there were. */
static size_t check_stream(struct stream *s, struct counts *found, size_t *num_short)
{
    struct work *w = calloc(1, sizeof *w), *good = calloc(1, sizeof *good);
    CHECK(w && good);
    if (!holds(s, NOTHING, 20000, good))
        FAIL("%s", good->why);
    *found = counts_of(good);
    *num_short = good->num_short;
    size_t tried = 0;
    struct bytes list = damages(good);
    for (size_t i = 0; i < list.len / sizeof(struct damage); i++, tried++) {
        const struct damage *d = (struct damage *)(void *)list.data + i;
        struct bytes *f = &s->file[d->file];
        size_t len = f->len;
        CHECK(d->at < len);
        if (d->bits)
            f->data[d->at] ^= d->bits;
        else
            f->len = d->at;
        bool unseen = holds(s, NOTHING, 100, w);
        f->data[d->at] ^= d->bits;
        f->len = len;
        if (unseen)
            FAIL("%s, changed at %zu of file %d, was not noticed", d->what, d->at, d->file);
        if (d->library && !strstr(w->why, "vfiomig_"))
            FAIL("%s, changed at %zu of file %d, was not refused: %s", d->what, d->at, d->file, w->why);
        if (verbose())
            printf("    | %s at %zu of file %d: %s\n", d->what, d->at, d->file, w->why);
        work_free(w);
    }
    for (enum tamper t = NOTHING + 1; t < NUM_TAMPERS; t++, tried++) {
        /* Without pre-copy there is no place for the mark; a byte cannot be sent in two pieces. */
        if (t == OTHER_ACK && !s->pre_copy)
            continue;
        if (holds(s, t, 20000, w))
            FAIL("saving otherwise (%d) was not noticed", (int)t);
        if (verbose())
            printf("    | saving otherwise (%d): %s\n", (int)t, w->why);
        work_free(w);
    }
    bytes_free(&list);
    work_free(good);
    free(good);
    free(w);
    return tried;
}

/* --- captured streams ------------------------------------------------------------------------- */

static bool read_file(const char *path, struct bytes *into)
{
    static uint8_t buf[1 << 16];
    FILE *f = fopen(path, "rb");
    size_t n;
    if (!f)
        return false;
    while ((n = fread(buf, 1, sizeof buf, f)) > 0)
        bytes_add(into, buf, n);
    bool ok = !ferror(f);
    fclose(f);
    return ok && into->len > 0;
}

static void captured(const char *stem)
{
    static struct stream s;
    static char path[4096];
    const char *slash = strrchr(stem, '/');
    size_t num_short;
    struct counts n;

    memset(&s, 0, sizeof s);
    s.name = check_name_ = slash ? slash + 1 : stem;
    s.multifd = strstr(s.name, "multifd") != NULL;
    s.ack = strstr(s.name, "-ack") != NULL;
    s.contents = strstr(s.name, "-mtty") ? MTTY : TEST_DEVICE;
    s.pre_copy = s.contents == MTTY || strstr(s.name, "-precopy");
    s.min_bytes = s.contents == MTTY ? 60 : 1 << 20;
    for (; s.num_files < CHANNELS; s.num_files++) {
        snprintf(path, sizeof path, "%s.stream.%d", stem, s.num_files);
        if (!read_file(path, &s.file[s.num_files]))
            break;
    }
    if (s.num_files == 0)
        FAIL("no stream was kept");
    if (s.multifd ? s.num_files < 3 : s.num_files != 1)
        FAIL("%d files", s.num_files);
    if (s.contents == TEST_DEVICE) {
        struct bytes text = { NULL, 0, 0 };
        char *end;
        snprintf(path, sizeof path, "%s.digest", stem);
        if (!strstr(s.name, "-1m") || !read_file(path, &text))
            FAIL("no digest was kept");
        bytes_add(&text, "", 1);
        s.digest = strtoull((char *)text.data, &end, 16);
        if (end != (char *)text.data + 16)
            FAIL("%s is no digest", (char *)text.data);
        bytes_free(&text);
    }
    size_t tried = check_stream(&s, &n, &num_short);
    printf("ok %s: %zu sections, %zu of them rounds; %zu pieces in pre-copy, %zu stopped (%zu of them "
           "short); %zu packets in %d channels; same bytes again; %zu damages seen\n",
           s.name, n.sections, n.rounds, n.before, n.stopped, num_short, n.packets,
           s.num_files - 1, tried);
    for (int i = 0; i < s.num_files; i++)
        bytes_free(&s.file[i]);
}

/* --- streams that are put together here ------------------------------------------------------- */

static uint64_t noise_seed;

static void add_noise(struct bytes *b, size_t len)
{
    for (; len > 0; len--) {
        uint8_t byte = (uint8_t)mix(noise_seed++);
        bytes_add(b, &byte, 1);
    }
}

static void add_be(struct bytes *b, uint64_t x, int len)
{
    while (len-- > 0) {
        uint8_t byte = (uint8_t)(x >> (8 * len));
        bytes_add(b, &byte, 1);
    }
}

static void add_le(struct bytes *b, uint64_t x, int len)
{
    for (; len > 0; len--, x >>= 8)
        bytes_add(b, &(uint8_t){ (uint8_t)x }, 1);
}

static void add_mark(struct bytes *b, uint8_t which)
{
    bytes_add(b, MARK, sizeof MARK);
    bytes_add(b, &which, 1);
}

static const char device_name[] = "0000:00:01.0/vfio";

static void add_head(struct bytes *b, uint8_t type, uint32_t id, const char *name)
{
    add_be(b, type, 1);
    add_be(b, id, 4);
    if (type == START || type == FULL) {
        add_be(b, strlen(name), 1);
        bytes_add(b, name, strlen(name));
        add_be(b, 0, 4);
        add_be(b, 1, 4);
    }
}

static void add_foot(struct bytes *b, uint32_t id)
{
    add_be(b, FOOTER, 1);
    add_be(b, id, 4);
}

/* Another section, of RAM. */
static void add_ram(struct bytes *b, uint8_t type, size_t len)
{
    add_head(b, type, 2, "ram");
    add_noise(b, len);
    add_foot(b, 2);
}

static void add_data(struct bytes *b, const struct bytes *from, size_t *at, size_t len)
{
    add_mark(b, DATA);
    add_be(b, len, 8);
    CHECK(len <= from->len - *at);
    bytes_add(b, from->data + *at, len);
    *at += len;
}

/* A round with this much data, and an end. */
static void add_round(struct bytes *b, const struct bytes *from, size_t *at, size_t len, uint8_t mark)
{
    add_head(b, PART, 0x25, NULL);
    if (len > 0)
        add_data(b, from, at, len);
    add_mark(b, mark);
    add_foot(b, 0x25);
}

static void add_begin(struct bytes *b)
{
    bytes_add(b, "QEVM\0\0\0\3", 8);
    add_ram(b, START, 100);
    add_head(b, START, 0x25, device_name);
    add_mark(b, SETUP);
    add_mark(b, EOS);
    add_foot(b, 0x25);
}

/* The configuration between its marks: it may contain anything. */
static void add_config(struct bytes *b)
{
    add_mark(b, CONFIG);
    add_noise(b, 50);
    add_mark(b, EOS);
    add_noise(b, 200);
    add_mark(b, EOS);
}

static void add_ram_packet(struct bytes *b, uint32_t flags, uint32_t pages)
{
    add_be(b, MULTIFD_MAGIC, 4);
    add_be(b, 1, 4);
    add_be(b, flags, 4);
    add_be(b, flags & FLAG_SYNC ? 0 : PAGES, 4);
    add_be(b, pages, 4);
    add_be(b, pages * PAGE, 4);
    add_noise(b, RAM_HEAD - 24 + 8 * PAGES + pages * PAGE);
}

/* The header of a packet with device state, and that of its contents. */
static void add_packet_head(struct bytes *b, uint32_t index, uint32_t flags, size_t len)
{
    char name[ID_LEN] = { 0 };
    memcpy(name, device_name, sizeof device_name);
    add_be(b, MULTIFD_MAGIC, 4);
    add_be(b, 1, 4);
    add_be(b, FLAG_DEVICE, 4);
    bytes_add(b, name, sizeof name);
    add_be(b, 0, 4);
    add_be(b, PACKET_HEAD + len, 4);
    add_be(b, 0, 4);
    add_be(b, index, 4);
    add_be(b, flags, 4);
}

static void add_channel(struct bytes *b, int number)
{
    add_be(b, MULTIFD_MAGIC, 4);
    add_be(b, 1, 4);
    add_noise(b, INIT_LEN - 8);
    add_ram_packet(b, FLAG_SYNC, 0);
    add_ram_packet(b, 0, (uint32_t)number);
}

static void add_record(struct bytes *b, uint64_t seed, uint32_t type, uint64_t offset,
                       uint32_t generation, uint32_t len)
{
    size_t at = b->len;
    bytes_add(b, "vrec", 4);
    add_le(b, type, 4);
    add_le(b, offset, 8);
    add_le(b, generation, 4);
    add_le(b, len, 4);
    add_le(b, check_of(seed, b->data + at, 24), 8);
}

/* What the test device sends. */
static struct bytes test_device(uint64_t size, uint64_t *digest)
{
    enum { SEED = 77 };
    static uint32_t generation[4096];
    uint8_t block[TEST_BLOCK], scratch[TEST_SCRATCH] = "scratch";
    struct bytes b = { NULL, 0, 0 };
    bytes_add(&b, "vmgtest1", 8);
    add_le(&b, 1, 4);
    add_le(&b, TEST_BLOCK, 4);
    add_le(&b, size, 8);
    add_le(&b, SEED, 8);
    add_le(&b, 0, 8);
    add_le(&b, check_of(0, b.data, 40), 8);
    for (uint64_t at = 0; at < size; at += TEST_BLOCK) {
        uint32_t len = size - at < TEST_BLOCK ? (uint32_t)(size - at) : TEST_BLOCK;
        uint32_t i = (uint32_t)(at / TEST_BLOCK);
        generation[i] = i % 3;
        fill_block(SEED, i, generation[i], block, len);
        add_record(&b, SEED, 1, at, generation[i], len);
        bytes_add(&b, block, len);
    }
    *digest = digest_of(SEED, size, generation, scratch);
    add_record(&b, SEED, 2, size, 0, 8 + TEST_SCRATCH);
    add_le(&b, *digest, 8);
    bytes_add(&b, scratch, sizeof scratch);
    return b;
}

static void stream_passes(struct stream *s, size_t shorts, size_t pieces)
{
    struct counts n;
    size_t num_short;
    CHECK(check_stream(s, &n, &num_short) > 20);
    EQ(num_short, shorts);
    EQ(n.before + n.stopped, pieces);
    for (int i = 0; i < s->num_files; i++)
        bytes_free(&s->file[i]);
}

static void a_device_without_pre_copy(void)
{
    struct stream s = { .num_files = 1, .contents = TEST_DEVICE };
    struct bytes *b = &s.file[0], data = test_device((1 << 20) + 1000, &s.digest);
    size_t at = 0;
    s.min_bytes = data.len;
    add_begin(b);
    add_ram(b, PART, 5000);
    add_ram(b, END, 700);
    add_head(b, END, 0x25, NULL);
    add_data(b, &data, &at, FULL_PIECE);
    add_data(b, &data, &at, data.len - at);
    add_mark(b, EOS);
    add_foot(b, 0x25);
    add_head(b, FULL, 0x25, device_name);
    add_config(b);
    add_foot(b, 0x25);
    add_noise(b, 300);
    stream_passes(&s, 0, 2);
    bytes_free(&data);
}

/* Rounds with and without data, a mark for switchover-ack, and a driver that returns less than
 * it was asked for. */
static void pre_copy_with_switchover_ack(void)
{
    for (int later = 0; later < 2; later++) {
        struct stream s = { .num_files = 1, .ack = true, .pre_copy = true };
        struct bytes *b = &s.file[0], data = { NULL, 0, 0 };
        size_t at = 0;
        add_noise(&data, 60000);
        add_begin(b);
        add_round(b, &data, &at, 10000, EOS);
        add_ram(b, PART, 5000);
        add_round(b, &data, &at, 2000, later ? EOS : ACK);
        add_round(b, &data, &at, 0, later ? ACK : EOS);
        add_ram(b, PART, 50);
        add_round(b, &data, &at, 0, EOS);
        add_round(b, &data, &at, 1, EOS);
        bytes_add(b, "\x08\0\x0b\0\0", 5);
        add_head(b, END, 0x25, NULL);
        add_data(b, &data, &at, 20000);
        add_data(b, &data, &at, 17);
        add_data(b, &data, &at, 20000);
        add_data(b, &data, &at, data.len - at);
        add_mark(b, EOS);
        add_foot(b, 0x25);
        add_ram(b, FULL, 200);
        add_head(b, FULL, 0x25, device_name);
        add_config(b);
        add_foot(b, 0x25);
        stream_passes(&s, 1, 7);
        bytes_free(&data);
    }
}

static void packets_in_channels(void)
{
    for (int ready = 0; ready < 2; ready++) {
        struct stream s = { .num_files = 4, .multifd = true, .pre_copy = true, .contents = TEST_DEVICE };
        struct bytes *b = &s.file[0], data = test_device(100000, &s.digest), config = { NULL, 0, 0 };
        size_t at = 0;
        s.min_bytes = data.len;
        add_config(&config);
        add_begin(b);
        add_ram(b, PART, 50);
        add_round(b, &data, &at, 8000, EOS);
        add_round(b, &data, &at, 0, EOS);
        add_ram(b, END, 50);
        add_head(b, END, 0x25, NULL);
        add_mark(b, EOS);
        add_foot(b, 0x25);
        add_head(b, FULL, 0x25, device_name);
        add_mark(b, ready ? READY : EOS);
        add_foot(b, 0x25);
        for (int i = 1; i < 4; i++)
            add_channel(&s.file[i], i - 1);
        for (uint32_t i = 0; at < data.len; i++) {
            size_t len = data.len - at < 8000 ? data.len - at : 8000;
            b = &s.file[1 + (i * 2) % 3];
            add_packet_head(b, i, 0, len);
            bytes_add(b, data.data + at, len);
            at += len;
            if (at == data.len) {
                b = &s.file[2];
                add_packet_head(b, i + 1, 1, config.len);
                bytes_add(b, config.data, config.len);
            }
        }
        add_ram_packet(&s.file[1], FLAG_SYNC, 0);
        stream_passes(&s, 0, (data.len + 7999) / 8000);
        bytes_free(&data);
        bytes_free(&config);
    }
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        RUN(a_device_without_pre_copy);
        RUN(pre_copy_with_switchover_ack);
        RUN(packets_in_channels);
        return DONE();
    }
    for (int i = 1; i < argc; i++) {
        if (setjmp(check_out_) == 0) {
            captured(argv[i]);
            check_passed_++;
        } else {
            check_failed_++;
        }
        fflush(stdout);
    }
    return DONE();
}
