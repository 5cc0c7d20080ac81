/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Every allocation of a session fails, once alone, and once with all that follow until the session
 * is over. Each time, in a process of its own: calls return what they should or -ENOMEM; the device
 * ends in a state that the documentation names; no dirty page is lost; when memory is back, the
 * same device is saved and loaded, and the stream is right; everything can be freed, and nothing
 * leaks.
 *
 * An abort ends that process, and is counted here.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "failing-malloc.h"
#include "kernel-structs.h"
#include "scratch.h"
#include "track.h"

enum { CAP = VFIOMIG_QEMU_BUFFER, MAX_PACKETS = 64 };

/* --- callbacks, which are not the library ------------------------------------------------------- */

static struct vfiomig_device_ops real_ops;

static int feature(void *o, uint32_t flags, void *data, size_t len)
{
    OUTSIDE;
    int r = real_ops.feature(o, flags, data, len);
    INSIDE;
    return r;
}

static int reset(void *o)
{
    OUTSIDE;
    int r = real_ops.reset(o);
    INSIDE;
    return r;
}

static int64_t data_read(void *o, int fd, void *buf, size_t len)
{
    OUTSIDE;
    int64_t r = real_ops.data_read(o, fd, buf, len);
    INSIDE;
    return r;
}

static int64_t data_write(void *o, int fd, const void *buf, size_t len)
{
    OUTSIDE;
    int64_t r = real_ops.data_write(o, fd, buf, len);
    INSIDE;
    return r;
}

static int precopy_info(void *o, int fd, struct vfiomig_precopy_info *info)
{
    OUTSIDE;
    int r = real_ops.data_precopy_info(o, fd, info);
    INSIDE;
    return r;
}

static int data_close(void *o, int fd)
{
    OUTSIDE;
    int r = real_ops.data_close(o, fd);
    INSIDE;
    return r;
}

static int64_t region_read(void *o, uint32_t region, uint64_t at, void *buf, size_t len)
{
    OUTSIDE;
    int64_t r = real_ops.region_read(o, region, at, buf, len);
    INSIDE;
    return r;
}

static int device_info(void *o, uint32_t *flags, uint32_t *num_regions)
{
    OUTSIDE;
    int r = real_ops.device_info(o, flags, num_regions);
    INSIDE;
    return r;
}

static int region_info(void *o, uint32_t region, void *info, size_t len)
{
    OUTSIDE;
    int r = real_ops.region_info(o, region, info, len);
    INSIDE;
    return r;
}

static int64_t region_write(void *o, uint32_t region, uint64_t at, const void *buf, size_t len)
{
    OUTSIDE;
    int64_t r = real_ops.region_write(o, region, at, buf, len);
    INSIDE;
    return r;
}

static int identity(void *o, struct vfiomig_identity *out)
{
    OUTSIDE;
    int r = real_ops.identity(o, out);
    INSIDE;
    return r;
}

static void release(void *o)
{
    OUTSIDE;
    real_ops.release(o);
    INSIDE;
}

static void event(void *o, const struct vfiomig_event *e)
{
    (void)o;
    (void)e;
}

static void logged(void *o, uint32_t level, const char *target, const char *message)
{
    (void)o;
    (void)level;
    (void)target;
    (void)message;
}

static int blobs_seen;

static int blob(void *o, uint32_t kind, const void *data, size_t len)
{
    (void)o;
    (void)kind;
    (void)data;
    (void)len;
    blobs_seen++;
    return 0;
}

static int policy(void *o, const struct vfiomig_identity *a, const struct vfiomig_identity *b)
{
    (void)o;
    (void)a;
    (void)b;
    return 0;
}

/* --- what a session has ------------------------------------------------------------------------- */

static int group_socks[2][2];

struct side {
    struct vfiomig_sim *sim;
    struct vfiomig_device *dev;
    int probed;
};

struct world {
    struct side source, target;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    struct vfiomig_dirty *dirty;
    struct vfiomig_checkpoint *checkpoint;
    struct vfiomig_restore *restore;
    /* The stream that is loaded, and its packets: where each begins. */
    struct bytes stream, packets;
    size_t packet_at[MAX_PACKETS + 1], num_packets;
    int committed, released, lost;
    /* Of dirty tracking. */
    struct tracker tracker, second;
    struct memory memory;
    uint32_t flags;
    int tracking;
    struct given expected[1024];
    size_t num_expected;
};

/* 0 or more; -ENOMEM ends the session; anything else the test. */
#define TRY(call)                                                                        \
    do {                                                                                 \
        int r_ = LIB(call);                                                              \
        if (r_ == -ENOMEM)                                                               \
            return r_;                                                                   \
        if (r_ < 0)                                                                      \
            FAIL("%s is %d: %s", #call, r_, vfiomig_error_message());                    \
    } while (0)

/* What the devices speak. */
static uint32_t protocol = VFIOMIG_PROTOCOL_V2;

static void side_new(struct side *side, uint64_t seed, uint64_t quirks)
{
    struct vfiomig_sim_options o = rig_options();
    o.kind = protocol;
    o.seed = seed;
    o.quirks = quirks;
    o.max_read = 9000;
    o.pci_vendor = 0x15b3;
    strcpy(o.mdev_type, "mtty-2");
    EQ(vfiomig_sim_new(&o, &side->sim), 0);
    real_ops = *vfiomig_sim_ops(side->sim);
}

static int probe_with(struct side *side, const struct vfiomig_device_options *options)
{
    struct vfiomig_device_ops ops = real_ops;
    ops.feature = feature;
    ops.reset = reset;
    ops.data_read = data_read;
    ops.data_write = data_write;
    ops.data_precopy_info = precopy_info;
    ops.data_close = data_close;
    ops.data_poll_fd = NULL;
    ops.data_set_nonblocking = NULL;
    ops.region_read = real_ops.region_read ? region_read : NULL;
    ops.identity = real_ops.identity ? identity : NULL;
    ops.release = release;
    ops.device_info = device_info;
    ops.region_info = region_info;
    ops.region_write = region_write;
    side->probed++;
    TRY(vfiomig_device_new_ops(&ops, side->sim, options, &side->dev));
    return 0;
}

static int probe(struct side *side)
{
    static const char vendor[] = "firmware 28.39";
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    options.vendor_data = vendor;
    options.vendor_data_len = sizeof vendor;
    options.event = event;
    options.sysfs_path = "/sys/class/mem/null/device";
    return probe_with(side, &options);
}

/* Before memory runs out. */
static void both(struct world *w)
{
    side_new(&w->target, 2, 0);
    side_new(&w->source, 1, VFIOMIG_SIM_PRECOPY_INFO_V2);
    EQ(probe(&w->source), 0);
    EQ(probe(&w->target), 0);
}

static void side_free(struct side *side)
{
    const char *what = "";
    LIB_VOID(vfiomig_device_free(side->dev));
    if (vfiomig_sim_violations(side->sim, &what) != 0)
        FAIL("the library broke a rule of the kernel: %s", what);
    EQ(vfiomig_sim_open_streams(side->sim), 0);
    EQ(vfiomig_sim_releases(side->sim), side->probed);
    vfiomig_sim_free(side->sim);
}

/* --- saving and loading ------------------------------------------------------------------------- */

static uint8_t buffer[CAP];

static int next_until(struct world *w, int until, struct bytes *out)
{
    for (;;) {
        size_t len = 0;
        int r = LIB(vfiomig_save_next(w->save, buffer, sizeof buffer, &len));
        if (r == -ENOMEM)
            return r;
        if (r < 0)
            FAIL("vfiomig_save_next is %d: %s", r, vfiomig_error_message());
        bytes_add(out, buffer, len);
        if (r == until)
            return 0;
        if (r == VFIOMIG_NEXT_END)
            FAIL("the stream ends too early");
    }
}

static int saving(struct world *w, uint32_t ending)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    w->stream.len = 0;
    TRY(vfiomig_save_begin(w->source.dev, NULL, &w->save));
    TRY(vfiomig_save_add_blob(w->save, 7, "before", 6));
    if (next_until(w, VFIOMIG_NEXT_DRAINED, &w->stream))
        return -ENOMEM;
    TRY(vfiomig_save_get_pending(w->save, &pending));
    TRY(vfiomig_save_quiesce(w->save));
    TRY(vfiomig_save_stop(w->save));
    TRY(vfiomig_save_add_blob(w->save, 8, "after", 5));
    if (next_until(w, VFIOMIG_NEXT_END, &w->stream))
        return -ENOMEM;
    w->released = ending == VFIOMIG_ENDING_RELEASE;
    TRY(vfiomig_save_finish(w->save, ending));
    return 0;
}

static int save_native(struct world *w)
{
    return saving(w, VFIOMIG_ENDING_RELEASE);
}

static int save_native_kept(struct world *w)
{
    return saving(w, VFIOMIG_ENDING_KEEP);
}

/* The device is reset in between, so that the save starts again. */
static int save_that_restarts(struct world *w)
{
    w->stream.len = 0;
    TRY(vfiomig_save_begin(w->source.dev, NULL, &w->save));
    if (next_until(w, VFIOMIG_NEXT_DRAINED, &w->stream))
        return -ENOMEM;
    vfiomig_sim_guest_reset(w->source.sim);
    TRY(vfiomig_device_notify_reset(w->source.dev));
    if (next_until(w, VFIOMIG_NEXT_DRAINED, &w->stream))
        return -ENOMEM;
    TRY(vfiomig_save_stop(w->save));
    if (next_until(w, VFIOMIG_NEXT_END, &w->stream))
        return -ENOMEM;
    TRY(vfiomig_save_finish(w->save, VFIOMIG_ENDING_KEEP));
    return 0;
}

static int save_qemu(struct world *w)
{
    struct vfiomig_save_options o = VFIOMIG_SAVE_OPTIONS_INIT;
    o.format = VFIOMIG_FORMAT_QEMU;
    o.flags = VFIOMIG_SAVE_SWITCHOVER_ACK;
    w->stream.len = 0;
    TRY(vfiomig_save_begin(w->source.dev, &o, &w->save));
    if (next_until(w, VFIOMIG_NEXT_DRAINED, &w->stream))
        return -ENOMEM;
    TRY(vfiomig_save_stop(w->save));
    if (next_until(w, VFIOMIG_NEXT_DRAINED, &w->stream))
        return -ENOMEM;
    TRY(vfiomig_save_add_blob(w->save, 0, "", 0));
    if (next_until(w, VFIOMIG_NEXT_END, &w->stream))
        return -ENOMEM;
    TRY(vfiomig_save_finish(w->save, VFIOMIG_ENDING_KEEP));
    return 0;
}

static int save_packets(struct world *w)
{
    struct vfiomig_save_options o = VFIOMIG_SAVE_OPTIONS_INIT;
    int r = 0;
    o.format = VFIOMIG_FORMAT_QEMU;
    o.flags = VFIOMIG_SAVE_PACKETS;
    o.max_frame = 16384;
    w->stream.len = w->packets.len = w->num_packets = 0;
    TRY(vfiomig_save_begin(w->source.dev, &o, &w->save));
    if (next_until(w, VFIOMIG_NEXT_DRAINED, &w->stream))
        return -ENOMEM;
    TRY(vfiomig_save_stop(w->save));
    while (r != VFIOMIG_NEXT_END) {
        size_t len = 0;
        r = LIB(vfiomig_save_next(w->save, buffer, sizeof buffer, &len));
        if (r == -ENOMEM)
            return r;
        CHECK(r >= 0 && w->num_packets < MAX_PACKETS);
        if (len > 0)
            w->packet_at[w->num_packets++] = w->packets.len;
        bytes_add(&w->packets, buffer, len);
        w->packet_at[w->num_packets] = w->packets.len;
        if (r == VFIOMIG_NEXT_DRAINED)
            TRY(vfiomig_save_add_blob(w->save, 0, "configuration", 13));
    }
    TRY(vfiomig_save_finish(w->save, VFIOMIG_ENDING_KEEP));
    return 0;
}

static struct vfiomig_load_options load_options(void)
{
    struct vfiomig_load_options o = VFIOMIG_LOAD_OPTIONS_INIT;
    o.blob = blob;
    return o;
}

static int push(struct world *w, size_t piece)
{
    for (size_t at = 0; at < w->stream.len; at += piece)
        TRY(vfiomig_load_push(w->load, w->stream.data + at,
                              w->stream.len - at < piece ? w->stream.len - at : piece));
    return 0;
}

static int commit_and_run(struct world *w)
{
    TRY(vfiomig_load_commit(w->load));
    w->committed = 1;
    TRY(vfiomig_device_run(w->target.dev));
    return 0;
}

static int load_native(struct world *w)
{
    struct vfiomig_load_options o = load_options();
    struct vfiomig_identity id = VFIOMIG_IDENTITY_INIT;
    o.policy = policy;
    TRY(vfiomig_load_begin(w->target.dev, &o, &w->load));
    if (push(w, 5000))
        return -ENOMEM;
    TRY(vfiomig_load_get_source_identity(w->load, &id));
    return commit_and_run(w);
}

/* All of the stream, into the library's memory. */
static int load_received_with(struct world *w, const struct vfiomig_load_options *options)
{
    TRY(vfiomig_load_begin(w->target.dev, options, &w->load));
    for (size_t at = 0, len; at < w->stream.len; at += len) {
        void *space;
        TRY(vfiomig_load_get_space(w->load, &space, &len));
        if (len > w->stream.len - at)
            len = w->stream.len - at;
        memcpy(space, w->stream.data + at, len);
        TRY(vfiomig_load_push_received(w->load, len));
    }
    return commit_and_run(w);
}

static int load_received(struct world *w)
{
    struct vfiomig_load_options o = load_options();
    return load_received_with(w, &o);
}

static int load_qemu(struct world *w)
{
    struct vfiomig_load_options o = VFIOMIG_LOAD_OPTIONS_INIT;
    o.format = VFIOMIG_FORMAT_QEMU;
    return load_received_with(w, &o);
}

static int run_result;

static void *run_packets(void *load)
{
    run_result = LIB(vfiomig_load_write_packets(load));
    return NULL;
}

static int submit_all(struct world *w)
{
    /* The last one first, the rest from the back: all have to wait. */
    for (size_t i = w->num_packets; i-- > 0;)
        TRY(vfiomig_load_push_packet(w->load, w->packets.data + w->packet_at[i],
                                w->packet_at[i + 1] - w->packet_at[i]));
    return 0;
}

static int load_packets(struct world *w)
{
    struct vfiomig_load_options o = load_options();
    pthread_t thread;
    int r;
    o.format = VFIOMIG_FORMAT_QEMU;
    o.flags = VFIOMIG_LOAD_PACKETS;
    TRY(vfiomig_load_begin(w->target.dev, &o, &w->load));
    if (push(w, w->stream.len))
        return -ENOMEM;
    CHECK(pthread_create(&thread, NULL, run_packets, w->load) == 0);
    r = submit_all(w);
    if (r)
        CHECK(LIB(vfiomig_load_cancel(w->load)) == 0);
    pthread_join(thread, NULL);
    if (r == 0 && run_result == 0)
        return commit_and_run(w);
    if (run_result != -ENOMEM && run_result != -ECANCELED)
        FAIL("vfiomig_load_write_packets is %d", run_result);
    return -ENOMEM;
}

/* --- probing ------------------------------------------------------------------------------------ */

/* An identity travels, and is judged under a policy that has everything. */
static int judges(const struct vfiomig_identity *id)
{
    static const char *const values[] = { "a", "b" };
    struct vfiomig_compat_rule rules[2] = { VFIOMIG_COMPAT_RULE_INIT, VFIOMIG_COMPAT_RULE_INIT };
    struct vfiomig_compat_policy p = VFIOMIG_COMPAT_POLICY_INIT;
    struct vfiomig_verdict verdict = VFIOMIG_VERDICT_INIT;
    struct vfiomig_identity there = VFIOMIG_IDENTITY_INIT, other;
    unsigned char bytes[VFIOMIG_IDENTITY_BYTES];
    size_t len;
    int r;
    TRY(vfiomig_identity_export(id, bytes, sizeof bytes, &len));
    TRY(vfiomig_identity_import(bytes, len, &there));
    rules[0].field = VFIOMIG_FIELD_KERNEL_RELEASE;
    rules[0].rule = VFIOMIG_RULE_PAIRS;
    rules[0].values = values;
    rules[0].num_values = 2;
    rules[1].field = VFIOMIG_FIELD_FIRMWARE;
    rules[1].rule = VFIOMIG_RULE_RANGE;
    rules[1].min = "1";
    p.rules = rules;
    p.num_rules = 2;
    p.decide = policy;
    other = there;
    strcpy(other.firmware, "2");
    there = other;
    TRY(vfiomig_compat_judge(&there, &other, &p, NULL, NULL, &verdict));
    strcpy(other.driver, "another");
    r = LIB(vfiomig_compat_judge(&there, &other, &p, NULL, NULL, &verdict));
    if (r != -ENOMEM && r != -EXDEV)
        FAIL("vfiomig_compat_judge is %d", r);
    return r == -ENOMEM ? r : 0;
}

static int asks(struct vfiomig_device *dev)
{
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    struct vfiomig_identity id = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_event event = VFIOMIG_EVENT_INIT;
    static char history[VFIOMIG_HISTORY_BYTES];
    size_t len;
    uint32_t state;
    TRY(vfiomig_device_get_caps(dev, &caps));
    TRY(vfiomig_device_get_identity(dev, &id));
    if (judges(&id))
        return -ENOMEM;
    for (uint32_t i = 0; i < caps.num_reasons; i++)
        TRY(vfiomig_device_get_reason(dev, i, &reason));
    TRY(vfiomig_device_get_state(dev, &state));
    TRY(vfiomig_device_get_failure(dev, &failure));
    /* Needs none. */
    CHECK(LIB(vfiomig_device_get_history(dev, VFIOMIG_HISTORY_JSON, history, sizeof history, &len)) == 0);
    CHECK(LIB(vfiomig_device_get_reason(dev, 99, &reason)) == -ENODATA);
    CHECK(LIB(vfiomig_device_next_event(dev, &event)) == -ENODATA);
    TRY(vfiomig_device_get_event_fd(dev));
    /* From here on, events need none. */
    CHECK(LIB(vfiomig_device_next_event(dev, &event)) == -EAGAIN);
    return 0;
}

static int probe_ops(struct world *w)
{
    LIB_VOID(vfiomig_device_free(w->source.dev));
    w->source.dev = NULL;
    if (probe(&w->source))
        return -ENOMEM;
    return asks(w->source.dev);
}

static int probe_fd(struct world *w)
{
    struct vfiomig_device *dev;
    int fd = open("/dev/null", O_RDONLY);
    int r = LIB(vfiomig_device_new_fd(fd, NULL, &dev));
    close(fd);
    (void)w;
    if (r != -ENOTTY && r != -ENOMEM)
        FAIL("a file as a device: %d", r);
    return 0;
}

static int log_records(struct world *w)
{
    int r;
    TRY(vfiomig_log_set(logged, NULL, NULL, VFIOMIG_LOG_TRACE));
    r = saving(w, VFIOMIG_ENDING_KEEP);
    TRY(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF));
    return r;
}

/* --- recovery: the device refuses while there is no memory --------------------------------------- */

static int recovery(struct world *w)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    int r;
    TRY(vfiomig_save_begin(w->source.dev, NULL, &w->save));
    EQ(vfiomig_sim_inject(w->source.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR), 0);
    r = LIB(vfiomig_save_stop(w->save));
    if (r == -ENOMEM)
        return r;
    EQ(r, -EIO);
    EQ(vfiomig_sim_state(w->source.sim), VFIOMIG_STATE_RUNNING_P2P);
    CHECK(LIB(vfiomig_save_get_failure(w->save, &failure)) == 0);
    EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
    w->lost = 1;
    r = LIB(vfiomig_save_finish(w->save, VFIOMIG_ENDING_KEEP));
    CHECK(r == 0 || r == -ENOMEM || r == -EIO);
    return 0;
}

static int recovery_of_a_load(struct world *w)
{
    struct vfiomig_load_options o = load_options();
    int r = 0;
    TRY(vfiomig_load_begin(w->target.dev, &o, &w->load));
    EQ(vfiomig_sim_inject(w->target.sim, VFIOMIG_SIM_OP_WRITE, 3, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    for (size_t at = 0; at < w->stream.len && r >= 0; at += 5000)
        r = LIB(vfiomig_load_push(w->load, w->stream.data + at,
                                  w->stream.len - at < 5000 ? w->stream.len - at : 5000));
    CHECK(r == -EIO || r == -ENOMEM);
    if (r == -EIO)
        EQ(vfiomig_sim_state(w->target.sim), VFIOMIG_STATE_RUNNING);
    return 0;
}

/* --- dirty tracking ------------------------------------------------------------------------------ */

enum { BASE = 0x100000, PAGES = 128, MANY_PAGES = 512, MANY_MAPPINGS = 80, MOVING = 0x40000000, MOVED = 0x5000 };

/* Bits of fake kernels: see ioctl() below. */
static struct tracker *kernel;
static int container_fd = -1, iommu_fd = -1;

static int nothing_is_taken;

static int give(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                const uint64_t *bitmap, uint64_t num_bits)
{
    OUTSIDE;
    int r = nothing_is_taken ? -EAGAIN
                             : give_(opaque, cookie, offset, page_size, bitmap, num_bits);
    INSIDE;
    return r;
}

/* Mappings of one page, with a gap after each. */
static int enumerate(void *opaque, vfiomig_mapping_fn add, void *add_opaque)
{
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    (void)opaque;
    mapping.size = PAGE;
    mapping.cookie = 1;
    for (uint64_t i = 0; i < MANY_MAPPINGS; i++) {
        mapping.iova = BASE + 2 * i * PAGE;
        mapping.offset = 2 * i * PAGE;
        int r = add(add_opaque, &mapping);
        if (r)
            return r;
    }
    return 0;
}

static int translate(void *opaque, uint64_t iova, uint64_t size, struct vfiomig_place *place)
{
    (void)opaque;
    place->cookie = 2;
    place->offset = iova - MOVING + MOVED * (uint64_t)PAGE;
    place->size = size;
    return 0;
}

static int tracker_sync(void *o, uint64_t iova, uint64_t len, uint64_t page, uint64_t *bits, size_t n)
{
    OUTSIDE;
    int r = track_sync_(o, iova, len, page, bits, n);
    INSIDE;
    return r;
}

static int add_tracker(struct world *w, struct tracker *t, uint32_t flags, uint32_t *number)
{
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;
    writer.flags = flags;
    writer.name = "something";
    if (flags & VFIOMIG_WRITER_CUSTOM) {
        ops = tracker_ops_(t);
        ops.sync = tracker_sync;
        writer.tracker = &ops;
        writer.tracker_opaque = t;
    }
    if (flags & VFIOMIG_WRITER_DEVICE_LOG)
        writer.device = w->source.dev;
    writer.container_fd = container_fd;
    writer.iommufd = iommu_fd;
    writer.hwpt_id = 7;
    if (t == &w->second)
        t->released = 0;
    TRY(vfiomig_dirty_add_writer(w->dirty, &writer, number));
    return 0;
}

/* The device writes to a page, and the library owes it. */
static void writes(struct world *w, uint64_t iova)
{
    struct given page = { 1, iova - BASE };
    if (iova >= MOVING)
        page = (struct given){ 2, iova - MOVING + MOVED * (uint64_t)PAGE };
    if (w->flags & VFIOMIG_WRITER_DEVICE_LOG)
        EQ(vfiomig_sim_dma_write(w->source.sim, iova, 1), 0);
    else if (iova < MOVING)
        touch(&w->tracker, iova, 1);
    else
        return;
    if (w->tracking)
        w->expected[w->num_expected++] = page;
}

static void from_bitmap(struct world *w, const uint64_t *bitmap, uint64_t iova, int pages)
{
    for (int i = 0; i < pages; i++)
        if (bit(bitmap, (uint64_t)i))
            w->memory.given[w->memory.num++] =
                (struct given){ 1, iova - BASE + (uint64_t)i * PAGE };
}

static int dirty_new(struct world *w, int many)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options o = VFIOMIG_DIRTY_OPTIONS_INIT;
    o.page_size = PAGE;
    ops.set_dirty = give;
    ops.translate = translate;
    ops.enumerate = many ? enumerate : NULL;
    TRY(vfiomig_dirty_new(&ops, &w->memory, &o, &w->dirty));
    return 0;
}

static int dirty_setup(struct world *w)
{
    uint32_t number;
    if (dirty_new(w, 0) || add_tracker(w, &w->tracker, w->flags, &number))
        return -ENOMEM;
    TRY(try_map(w->dirty, BASE, PAGES / 2 * PAGE, 1, 0, 0));
    TRY(try_map(w->dirty, MOVING, 4 * PAGE, 0, 0, VFIOMIG_MAPPING_TRANSLATE));
    TRY(vfiomig_dirty_start(w->dirty));
    w->tracking = 1;
    return 0;
}

static int dirty_reads(struct world *w)
{
    uint64_t bitmap[1] = { 0 };
    int r;
    for (uint64_t i = 0; i < 8; i++)
        writes(w, BASE + i * 7 * PAGE);
    writes(w, MOVING + PAGE);
    TRY(vfiomig_dirty_collect(w->dirty));
    writes(w, BASE + 5 * PAGE);
    writes(w, BASE + 40 * PAGE);
    r = LIB(vfiomig_dirty_sync(w->dirty, BASE, 32 * PAGE, PAGE, bitmap, 1));
    from_bitmap(w, bitmap, BASE, 32);
    CHECK(r >= 0 || r == -ENOMEM);
    return r < 0 ? r : 0;
}

static int dirty_maps(struct world *w)
{
    uint64_t bitmap[1] = { 0 };
    int r;
    TRY(try_map(w->dirty, BASE + PAGES / 2 * PAGE, PAGES / 2 * PAGE, 1, PAGES / 2 * PAGE, 0));
    writes(w, BASE + (PAGES - 3) * PAGE);
    TRY(vfiomig_dirty_rearm(w->dirty));
    TRY(vfiomig_dirty_mark(w->dirty, BASE + 100 * PAGE, PAGE));
    w->expected[w->num_expected++] = (struct given){ 1, 100 * PAGE };
    writes(w, BASE + 3 * PAGE);
    /* set_dirty refuses for a while: what is unmapped is kept. */
    w->memory.refuse = EAGAIN;
    w->memory.refused = (struct given){ 1, 3 * PAGE };
    r = LIB(vfiomig_dirty_unmap(w->dirty, BASE, 16 * PAGE, 0, NULL, 0, unmapped_, NULL));
    w->memory.refuse = 0;
    CHECK(r >= 0 || r == -ENOMEM);
    if (r < 0)
        return r;
    writes(w, BASE + 17 * PAGE);
    r = LIB(vfiomig_dirty_unmap(w->dirty, BASE + 16 * PAGE, 16 * PAGE, PAGE, bitmap, 1, unmapped_,
                                NULL));
    from_bitmap(w, bitmap, BASE + 16 * PAGE, 16);
    CHECK(r >= 0 || r == -ENOMEM);
    if (r < 0)
        return r;
    writes(w, MOVING + 2 * PAGE);
    TRY(vfiomig_dirty_unmap(w->dirty, MOVING, 4 * PAGE, 0, NULL, 0, unmapped_, NULL));
    return 0;
}

static int dirty_sources(struct world *w)
{
    uint32_t number;
    if (add_tracker(w, &w->second, VFIOMIG_WRITER_CUSTOM, &number))
        return -ENOMEM;
    touch(&w->second, BASE + 50 * PAGE, 1);
    w->expected[w->num_expected++] = (struct given){ 1, 50 * PAGE };
    w->second.fail_sync = EIO; /* once: it counts as dirty */
    TRY(vfiomig_dirty_collect(w->dirty));
    TRY(vfiomig_dirty_remove_writer(w->dirty, number));
    TRY(vfiomig_dirty_collect(w->dirty));
    return 0;
}

static int dirty(struct world *w)
{
    if (dirty_setup(w) || dirty_reads(w) || dirty_maps(w) || dirty_sources(w))
        return -ENOMEM;
    return 0;
}

static int dirty_log(struct world *w)
{
    w->flags = VFIOMIG_WRITER_DEVICE_LOG;
    return dirty(w);
}

static int dirty_tracker(struct world *w)
{
    w->flags = VFIOMIG_WRITER_CUSTOM;
    return dirty(w);
}

/* Many mappings, of which each page is dirty, and a VMM that takes none for a while. */
static int dirty_many(struct world *w)
{
    uint32_t number;
    int r;
    w->flags = VFIOMIG_WRITER_CUSTOM;
    if (dirty_new(w, 1) || add_tracker(w, &w->tracker, w->flags, &number))
        return -ENOMEM;
    TRY(vfiomig_dirty_start(w->dirty));
    w->tracking = 1;
    for (uint64_t i = 0; i < MANY_MAPPINGS; i++)
        writes(w, BASE + 2 * i * PAGE);
    nothing_is_taken = 1;
    r = LIB(vfiomig_dirty_collect(w->dirty));
    CHECK(r == -EIO || r == -ENOMEM);
    r = LIB(vfiomig_dirty_unmap(w->dirty, BASE, (uint64_t)MANY_MAPPINGS * PAGE, 0, NULL, 0,
                                unmapped_, NULL));
    CHECK(r >= 0 || r == -ENOMEM);
    nothing_is_taken = 0;
    writes(w, BASE + 2 * (MANY_MAPPINGS - 1) * PAGE);
    TRY(vfiomig_dirty_collect(w->dirty));
    return 0;
}

static int dirty_type1(struct world *w)
{
    container_fd = dup(0);
    kernel = &w->tracker;
    w->flags = VFIOMIG_WRITER_TYPE1;
    return dirty(w);
}

static int dirty_hwpt(struct world *w)
{
    iommu_fd = dup(0);
    kernel = &w->tracker;
    w->flags = VFIOMIG_WRITER_HWPT;
    return dirty(w);
}

static uint64_t u64_at(const uint32_t *arg, int byte)
{
    uint64_t value;
    memcpy(&value, (const char *)arg + byte, sizeof value);
    return value;
}

static void report(uint64_t address, uint64_t iova, uint64_t length)
{
    uint64_t *words = (uint64_t *)(uintptr_t)address;
    for (uint64_t i = 0; i < length / PAGE; i++) {
        uint64_t at = (iova - BASE) / PAGE + i;
        if (iova + i * PAGE >= BASE && at < kernel->pages && kernel->dirty[at]) {
            kernel->dirty[at] = 0;
            words[i / 64] |= (uint64_t)1 << i % 64;
        }
    }
}

/* A type1 container and an iommufd, as far as dirty tracking needs them. */
int ioctl(int fd, unsigned long request, ...)
{
    static const struct migration_capability migration = { 2, 1, 0, 0, 0, 4096, 256u << 20 };
    va_list args;
    va_start(args, request);
    uint32_t *arg = va_arg(args, void *);
    va_end(args);
    if (fd >= 0 && fd == container_fd) {
        switch (request & 0xff) {
        case 112: /* VFIO_IOMMU_GET_INFO */
            arg[1] = 2;
            arg[4] = 24;
            memcpy(arg + 6, &migration, sizeof migration);
            return 0;
        case 114: /* VFIO_IOMMU_UNMAP_DMA */
            report(u64_at(arg, 40), u64_at(arg, 8), u64_at(arg, 16));
            return 0;
        case 117: /* VFIO_IOMMU_DIRTY_PAGES */
            if (arg[1] == 4)
                report(u64_at(arg, 40), u64_at(arg, 8), u64_at(arg, 16));
            return 0;
        }
    } else if (fd >= 0 && fd == iommu_fd) {
        switch (request & 0xff) {
        case 0x81: /* IOMMU_IOAS_ALLOC */
            arg[2] = 99;
            return 0;
        case 0x8c: /* IOMMU_HWPT_GET_DIRTY_BITMAP */
            report(u64_at(arg, 40), u64_at(arg, 16), u64_at(arg, 24));
            return 0;
        case 0x83: /* IOMMU_IOAS_COPY, IOMMU_DESTROY, IOMMU_HWPT_SET_DIRTY_TRACKING */
        case 0x80:
        case 0x8b:
            return 0;
        }
    }
    return (int)syscall(SYS_ioctl, fd, request, arg);
}

/* --- checkpoints, and streams through descriptors ---------------------------------------------------- */

static struct scratch place;

/* Without the last step, which tells whether there is a file. */
static int taking(struct world *w, uint64_t spool)
{
    struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    options.flags = VFIOMIG_CHECKPOINT_NOT_DURABLE;
    options.spool_bytes = spool;
    options.note = "note";
    options.note_len = 4;
    TRY(vfiomig_checkpoint_begin(AT_FDCWD, place.file, &options, &w->checkpoint));
    TRY(vfiomig_checkpoint_add(w->checkpoint, w->source.dev, "device", NULL));
    TRY(vfiomig_checkpoint_read(w->checkpoint));
    TRY(vfiomig_checkpoint_stop(w->checkpoint));
    TRY(vfiomig_checkpoint_read(w->checkpoint));
    TRY(vfiomig_checkpoint_resume(w->checkpoint, VFIOMIG_CHECKPOINT_RESUME));
    return 0;
}

static int new_place(struct world *w)
{
    (void)w;
    place = scratch_new();
    return 0;
}

static int checkpoint_taken(struct world *w, uint64_t spool)
{
    if (taking(w, spool))
        return -ENOMEM;
    TRY(vfiomig_checkpoint_commit(w->checkpoint));
    return 0;
}

static int checkpoint_to_disk(struct world *w)
{
    return checkpoint_taken(w, 0);
}

static int checkpoint_spooled(struct world *w)
{
    return checkpoint_taken(w, 1 << 20);
}

static int checkpoint_to_restore(struct world *w)
{
    new_place(w);
    EQ(checkpoint_taken(w, 1 << 20), 0);
    vfiomig_checkpoint_free(w->checkpoint);
    w->checkpoint = NULL;
    return 0;
}

static int restored(struct world *w, uint64_t staged)
{
    struct vfiomig_restore_options options = VFIOMIG_RESTORE_OPTIONS_INIT;
    struct vfiomig_load_options loading = load_options();
    struct vfiomig_identity id = VFIOMIG_IDENTITY_INIT;
    options.staged_bytes = staged;
    loading.policy = policy;
    TRY(vfiomig_restore_open(AT_FDCWD, place.file, &options, &w->restore));
    TRY(vfiomig_restore_get_identity(w->restore, 0, &id));
    TRY(vfiomig_restore_verify(w->restore, VFIOMIG_RESTORE_ALL));
    TRY(vfiomig_restore_load(w->restore, "device", w->target.dev, &loading));
    w->committed = 1;
    TRY(vfiomig_device_run(w->target.dev));
    return 0;
}

static int restore(struct world *w)
{
    return restored(w, 0);
}

static int restore_staged(struct world *w)
{
    return restored(w, 1 << 20);
}

/* Through a file, from one device to the other. */
static int descriptors(struct world *w)
{
    int fd = memfd_create("stream", MFD_CLOEXEC), r;
    CHECK(fd >= 0);
    TRY(vfiomig_save_begin(w->source.dev, NULL, &w->save));
    TRY(vfiomig_save_write_fd(w->save, fd, NULL));
    TRY(vfiomig_save_stop(w->save));
    TRY(vfiomig_save_write_fd(w->save, fd, NULL));
    TRY(vfiomig_save_finish(w->save, VFIOMIG_ENDING_KEEP));
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    TRY(vfiomig_load_begin(w->target.dev, NULL, &w->load));
    do
        TRY(r = vfiomig_load_read_fd(w->load, fd, NULL));
    while (!(r & VFIOMIG_PUSH_END));
    close(fd);
    return commit_and_run(w);
}

/* --- afterwards ---------------------------------------------------------------------------------- */

/* The device is saved and loaded as if nothing had happened. */
/* --- groups ------------------------------------------------------------------------------------- */

static int group_begins(struct world *w, struct vfiomig_group **groups, int side)
{
    struct vfiomig_group_options o = VFIOMIG_GROUP_OPTIONS_INIT;
    o.role = side == 0 ? VFIOMIG_GROUP_ROLE_SOURCE : VFIOMIG_GROUP_ROLE_TARGET;
    o.window = VFIOMIG_GROUP_MIN_WINDOW;
    o.migration_id[0] = 1;
    TRY(vfiomig_group_new(&o, &groups[side]));
    if (side == 0)
        TRY(vfiomig_group_add_save(groups[side], w->source.dev, NULL));
    else
        TRY(vfiomig_group_add_load(groups[side], w->target.dev, NULL));
    for (int i = 0; i < 2; i++) {
        struct vfiomig_channel_options channel = VFIOMIG_CHANNEL_OPTIONS_INIT;
        channel.fd = group_socks[i][side];
        TRY(vfiomig_group_add_channel(groups[side], &channel));
    }
    TRY(vfiomig_group_begin(groups[side]));
    return 0;
}

static int group_moves(struct world *w, struct vfiomig_group **groups)
{
    static char history[2 * VFIOMIG_HISTORY_BYTES];
    struct vfiomig_group_status status = VFIOMIG_GROUP_STATUS_INIT;
    struct vfiomig_event event = VFIOMIG_EVENT_INIT;
    size_t len;
    for (int side = 0; side < 2; side++)
        if (group_begins(w, groups, side))
            return -ENOMEM;
    TRY(vfiomig_group_get_history(groups[0], VFIOMIG_HISTORY_TEXT, history, sizeof history, &len));
    TRY(vfiomig_group_get_work_fd(groups[0]));
    TRY(vfiomig_group_get_event_fd(groups[0]));
    TRY(vfiomig_group_stop(groups[0]));
    /* Whatever memory there is. */
    CHECK(LIB(vfiomig_group_next_event(groups[0], &event)) == 0);
    do {
        for (int side = 0; side < 2; side++)
            TRY(vfiomig_group_work(groups[side], VFIOMIG_GROUP_UNTIL_IDLE));
        TRY(vfiomig_group_get_status(groups[1], &status));
    } while (status.phase == VFIOMIG_GROUP_PHASE_OPEN);
    TRY(vfiomig_group_commit(groups[1]));
    w->committed = w->released = 1;
    TRY(vfiomig_group_finish(groups[0], VFIOMIG_ENDING_RELEASE));
    TRY(vfiomig_group_run(groups[1]));
    return 0;
}

/* A group of one device over two channels, both sides in this thread. */
static int group(struct world *w)
{
    struct vfiomig_group *groups[2] = { NULL, NULL };
    int r;
    for (int i = 0; i < 2; i++)
        EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, group_socks[i]), 0);
    r = group_moves(w, groups);
    for (int side = 0; side < 2; side++)
        LIB_VOID(vfiomig_group_free(groups[side]));
    return r;
}

static void works_again(struct world *w)
{
    struct vfiomig_load_options o = load_options();
    if (!w->source.dev)
        EQ(probe(&w->source), 0);
    if (w->lost) /* its guest's contents: now they are to be those after power-on */
        OK(vfiomig_device_reset(w->source.dev));
    if (vfiomig_sim_state(w->source.sim) != VFIOMIG_STATE_RUNNING)
        OK(vfiomig_device_run(w->source.dev));
    EQ(saving(w, VFIOMIG_ENDING_KEEP), 0);
    vfiomig_save_free(w->save);
    OK(vfiomig_load_begin(w->target.dev, &o, &w->load));
    EQ(push(w, w->stream.len), 0);
    EQ(commit_and_run(w), 0);
    CHECK(vfiomig_sim_digest(w->target.sim) == vfiomig_sim_digest(w->source.sim));
    vfiomig_load_free(w->load);
}

static void nothing_is_lost(struct world *w)
{
    if (!w->dirty)
        return;
    nothing_is_taken = 0;
    if (w->tracking)
        CHECK(LIB(vfiomig_dirty_collect(w->dirty)) >= 0);
    for (size_t i = 0; i < w->num_expected; i++)
        if (times_given(&w->memory, w->expected[i].cookie, w->expected[i].offset) == 0)
            FAIL("page %#llx of %llu was written to and not delivered",
                 (unsigned long long)w->expected[i].offset,
                 (unsigned long long)w->expected[i].cookie);
    LIB_VOID(vfiomig_dirty_free(w->dirty));
    EQ(w->memory.released + w->tracker.released, w->flags & VFIOMIG_WRITER_CUSTOM ? 1 : 0);
}

static void afterwards(struct world *w, int result)
{
    uint32_t state;
    vfiomig_sim_clear_faults(w->source.sim);
    vfiomig_sim_clear_faults(w->target.sim);
    LIB_VOID(vfiomig_save_free(w->save));
    LIB_VOID(vfiomig_load_free(w->load));
    LIB_VOID(vfiomig_checkpoint_free(w->checkpoint));
    LIB_VOID(vfiomig_restore_free(w->restore));
    if (place.dir[0]) {
        if (w->checkpoint) /* a whole file, or none */
            EQ(scratch_files(&place), result == 0);
        scratch_free(&place);
    }
    state = vfiomig_sim_state(w->source.sim);
    if (state != VFIOMIG_STATE_RUNNING && !(w->released && state == VFIOMIG_STATE_STOP))
        FAIL("the source is in %s", vfiomig_state_name(state));
    state = vfiomig_sim_state(w->target.sim);
    if (state != VFIOMIG_STATE_RUNNING && !(w->committed && state == VFIOMIG_STATE_STOP))
        FAIL("the target is in %s", vfiomig_state_name(state));
    if (w->committed && result == 0)
        CHECK(vfiomig_sim_digest(w->target.sim) == vfiomig_sim_digest(w->source.sim));
    nothing_is_lost(w);
    works_again(w);
    side_free(&w->source);
    side_free(&w->target);
    EQ(memory_num_live, 0);
}

struct kind {
    const char *name;
    int (*prepare)(struct world *);
    int (*session)(struct world *);
};

/* One session with the allocations `first` to `last` failing; the exit status tells the result. */
static void one(const struct kind *kind, unsigned long first, unsigned long last, long *count)
{
    static struct world w;
    int result;
    both(&w);
    w.tracker = tracker_new(BASE, PAGE, MANY_PAGES);
    w.second = tracker_new(BASE, PAGE, MANY_PAGES);
    w.memory = memory_new(PAGE);
    if (kind->prepare) {
        EQ(kind->prepare(&w), 0);
        vfiomig_save_free(w.save);
        w.save = NULL;
    }
    memory_runs_out(first, last);
    result = kind->session(&w);
    memory_is_back();
    *count = (long)memory_count;
    if (first == 0)
        EQ(result, 0);
    afterwards(&w, result);
}

enum outcome { FINE, ABORTED, WRONGLY };

static enum outcome apart(const struct kind *kind, unsigned long first, unsigned long last, long *count)
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        if (setjmp(check_out_) == 0) {
            one(kind, first, last, count);
            fflush(stdout);
            _exit(0);
        }
        printf("    in %s with allocation %lu%s failing\n", kind->name, first,
               last == first ? "" : " and all after it");
        fflush(stdout);
        _exit(1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) {
        printf("    signal %d in %s with allocation %lu%s failing\n", WTERMSIG(status), kind->name,
               first, last == first ? "" : " and all after it");
        return ABORTED;
    }
    return status == 0 ? FINE : WRONGLY;
}

static long *shared_count;

static void all_of(const struct kind *kind)
{
    int aborts = 0, wrong = 0;
    /* In an emulator, a process takes a tenth of a second: only some of them. */
    int step = getenv("EMULATOR") && *getenv("EMULATOR") ? 13 : 1;
    CHECK(apart(kind, 0, 0, shared_count) == FINE);
    long n = *shared_count;
    CHECK(n > 0);
    for (unsigned long k = 1; k <= (unsigned long)n; k += step)
        for (int once = 0; once < 2; once++) {
            enum outcome o = apart(kind, k, once ? k : (unsigned long)-1, shared_count);
            aborts += o == ABORTED;
            wrong += o == WRONGLY;
        }
    printf("# %-20s %3ld allocations, %s failing once and all from each on: %d aborts\n",
           kind->name, n, step == 1 ? "each" : "some of them", aborts);
    EQ(aborts, 0);
    EQ(wrong, 0);
}

/* --- the reserve ---------------------------------------------------------------------------------- */

enum { MANY = 3000 };

static int get_fixups(struct vfiomig_device *dev)
{
    uint32_t fixups;
    return LIB(vfiomig_device_get_fixups(dev, &fixups));
}

/* Devices that live long are made for as long as there is no memory. The reserve is large, but
 * it ends: calls are then refused before they begin, and nothing else happens. */
static int reserve(struct world *w)
{
    static struct side sides[MANY];
    struct vfiomig_save *save, *saves[64];
    uint32_t state;
    int made = 0, saving = 0, kept, r = 0;
    /* Room for handles, which is never given back. */
    for (int i = 0; i < MANY; i++) {
        side_new(&sides[i], 3, 0);
        OK(vfiomig_device_new_ops(&real_ops, sides[i].sim, NULL, &sides[i].dev));
        sides[i].probed++;
    }
    for (int i = 0; i < MANY; i++) {
        vfiomig_device_free(sides[i].dev);
        sides[i].dev = NULL;
    }
    memory_runs_out(1, (unsigned long)-1);
    while (made < MANY && r == 0)
        r = probe_with(&sides[made++], NULL);
    EQ(r, -ENOMEM);
    printf("# reserve: %d devices were made without memory\n", made - 1);
    CHECK(made > 64);
    /* What needs memory is refused, what does not is not, and a refusal changes nothing. */
    while (saving < 64 && (r = LIB(vfiomig_save_begin(sides[saving].dev, NULL, &saves[saving]))) == 0)
        saving++;
    EQ(r, -ENOMEM);
    EQ(vfiomig_sim_state(sides[saving].sim), VFIOMIG_STATE_RUNNING);
    HAS(vfiomig_error_message(), "memory");
    EQ(get_fixups(sides[0].dev), 0);
    for (int i = 0; i < saving; i++)
        LIB_VOID(vfiomig_save_free(saves[i]));
    /* Freeing brings back what was taken. */
    for (kept = made; kept > made / 2; kept--)
        LIB_VOID(vfiomig_device_free(sides[kept - 1].dev));
    EQ(LIB(vfiomig_save_begin(sides[0].dev, NULL, &save)), 0);
    LIB_VOID(vfiomig_save_free(save));
    while ((r = probe_with(&sides[kept], NULL)) == 0)
        kept++;
    EQ(r, -ENOMEM);
    /* Once memory is back everything works at once, although the reserve is still used up. */
    memory_is_back();
    for (int i = 0; i < kept; i++)
        EQ(LIB(vfiomig_device_get_state(sides[i].dev, &state)), 0);
    EQ(LIB(vfiomig_save_begin(sides[0].dev, NULL, &save)), 0);
    LIB_VOID(vfiomig_save_free(save));
    /* And when it is gone again, calls still have a reserve. */
    memory_runs_out(1, (unsigned long)-1);
    EQ(LIB(vfiomig_save_begin(sides[0].dev, NULL, &save)), 0);
    LIB_VOID(vfiomig_save_free(save));
    memory_is_back();
    for (int i = kept; i < MANY; i++)
        sides[i].dev = NULL;
    for (int i = 0; i < MANY; i++)
        side_free(&sides[i]);
    /* What was borrowed goes back with the next call. */
    EQ(LIB(vfiomig_device_get_state(w->source.dev, &state)), 0);
    memory_count = 1;
    return 0;
}

/* What docs/abi.md says about the reserve: half of it carries 128 calls, 17 KiB each. */
static void a_call_needs_no_more_than_its_share_of_the_reserve(void)
{
    printf("# most that a call had in blocks of the reserve: %ld bytes\n", *memory_most);
    CHECK(*memory_most > 0 && *memory_most <= 17 * 1024);
}

static void reserve_is_used_up_and_filled_again(void)
{
    static const struct kind kind = { "reserve", NULL, reserve };
    EQ(apart(&kind, 0, 0, shared_count), FINE);
}

#define KIND(function, before)                                     \
    static void out_of_memory_in_##function(void)                  \
    {                                                              \
        static const struct kind kind = { #function, before, function }; \
        all_of(&kind);                                             \
    }

KIND(probe_ops, NULL)
KIND(probe_fd, NULL)
KIND(log_records, NULL)
KIND(save_native, NULL)
KIND(save_that_restarts, NULL)
KIND(save_qemu, NULL)
KIND(save_packets, NULL)
KIND(load_native, save_native_kept)
KIND(load_received, save_native_kept)
KIND(load_qemu, save_qemu)
KIND(load_packets, save_packets)
KIND(group, NULL)
KIND(recovery, NULL)
KIND(recovery_of_a_load, save_native_kept)
KIND(dirty_log, NULL)
KIND(dirty_tracker, NULL)
KIND(dirty_many, NULL)
KIND(dirty_type1, NULL)
KIND(dirty_hwpt, NULL)
KIND(checkpoint_to_disk, new_place)
KIND(checkpoint_spooled, new_place)
KIND(restore, checkpoint_to_restore)
KIND(restore_staged, checkpoint_to_restore)
KIND(descriptors, NULL)

static void out_of_memory_with(uint32_t older)
{
    protocol = older;
    out_of_memory_in_probe_ops();
    out_of_memory_in_save_native();
    out_of_memory_in_save_that_restarts();
    out_of_memory_in_load_native();
    protocol = VFIOMIG_PROTOCOL_V2;
}

static void out_of_memory_with_v1(void)
{
    out_of_memory_with(VFIOMIG_PROTOCOL_V1);
}

static void out_of_memory_with_rfc(void)
{
    out_of_memory_with(VFIOMIG_PROTOCOL_RFC);
}

int main(void)
{
    shared_count = mmap(NULL, 2 * sizeof *shared_count, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memory_most = shared_count + 1;
    RUN(out_of_memory_in_probe_ops);
    RUN(out_of_memory_in_probe_fd);
    RUN(out_of_memory_with_v1);
    RUN(out_of_memory_with_rfc);
    RUN(out_of_memory_in_log_records);
    RUN(out_of_memory_in_save_native);
    RUN(out_of_memory_in_save_that_restarts);
    RUN(out_of_memory_in_save_qemu);
    RUN(out_of_memory_in_save_packets);
    RUN(out_of_memory_in_load_native);
    RUN(out_of_memory_in_load_received);
    RUN(out_of_memory_in_load_qemu);
    RUN(out_of_memory_in_load_packets);
    RUN(out_of_memory_in_group);
    RUN(out_of_memory_in_recovery);
    RUN(out_of_memory_in_recovery_of_a_load);
    RUN(out_of_memory_in_dirty_log);
    RUN(out_of_memory_in_dirty_tracker);
    RUN(out_of_memory_in_dirty_type1);
    RUN(out_of_memory_in_dirty_hwpt);
    RUN(out_of_memory_in_checkpoint_to_disk);
    RUN(out_of_memory_in_checkpoint_spooled);
    RUN(out_of_memory_in_restore);
    RUN(out_of_memory_in_restore_staged);
    RUN(out_of_memory_in_descriptors);
    /* Asks for memory before each of its many mappings, and so needs little of the reserve. */
    memory_most = NULL;
    RUN(out_of_memory_in_dirty_many);
    memory_most = shared_count + 1;
    RUN(a_call_needs_no_more_than_its_share_of_the_reserve);
    RUN(reserve_is_used_up_and_filled_again);
    return DONE();
}
