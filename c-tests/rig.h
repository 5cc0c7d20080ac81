/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A simulated device with a handle on it, and whole saves and loads in one call. rig_free() checks
 * that the device was used by the rules: nothing is left open, and nothing illegal was asked of the
 * driver.
 */
#ifndef RIG_H
#define RIG_H

#include "check.h"
#include "vfiomig-sim.h"

#define SOME_SIZE 300000u /* not a power of two, nor a multiple of anything */

struct rig {
    struct vfiomig_sim *sim;
    struct vfiomig_device *dev;
};

struct bytes {
    uint8_t *data;
    size_t len, cap;
};

static inline struct vfiomig_sim_options rig_options(void)
{
    struct vfiomig_sim_options o = { .struct_size = sizeof o };
    o.state_size = SOME_SIZE;
    o.seed = 1;
    return o;
}

/* The simulator, and its table, of which a test may replace something before rig_open(). The opaque
 * is the simulator. NULL for the defaults. */
static inline struct vfiomig_device_ops rig_table(struct rig *rig,
                                                  const struct vfiomig_sim_options *options)
{
    struct vfiomig_sim_options defaults = rig_options();
    *rig = (struct rig){ NULL, NULL };
    EQ(vfiomig_sim_new(options ? options : &defaults, &rig->sim), 0);
    return *vfiomig_sim_ops(rig->sim);
}

static inline void rig_open(struct rig *rig, const struct vfiomig_device_ops *ops,
                            const struct vfiomig_device_options *options)
{
    OK(vfiomig_device_new_ops(ops, rig->sim, options, &rig->dev));
}

/* NULL for the defaults of either. */
static inline struct rig rig_new(const struct vfiomig_sim_options *options,
                                 const struct vfiomig_device_options *device_options)
{
    struct rig rig;
    struct vfiomig_device_ops ops = rig_table(&rig, options);
    rig_open(&rig, &ops, device_options);
    return rig;
}

/* A device with other contents, to load into. */
static inline struct rig rig_target(const struct vfiomig_sim_options *options)
{
    struct vfiomig_sim_options o = options ? *options : rig_options();
    o.seed += 1000;
    return rig_new(&o, NULL);
}

static inline void rig_free(struct rig *rig)
{
    const char *what = "";
    vfiomig_device_free(rig->dev);
    if (vfiomig_sim_violations(rig->sim, &what) != 0)
        FAIL("the library broke a rule of the kernel: %s", what);
    EQ(vfiomig_sim_open_streams(rig->sim), 0);
    EQ(vfiomig_sim_releases(rig->sim), 1);
    vfiomig_sim_free(rig->sim);
    rig->sim = NULL;
    rig->dev = NULL;
}

/* For a load that takes blobs, whatever is in them. */
static inline int take_any_blob(void *opaque, uint32_t kind, const void *data, size_t len)
{
    (void)opaque;
    (void)kind;
    (void)data;
    (void)len;
    return 0;
}

static inline void bytes_add(struct bytes *b, const void *data, size_t len)
{
    if (b->len + len > b->cap) {
        b->cap = (b->len + len) * 2;
        b->data = realloc(b->data, b->cap);
        CHECK(b->data);
    }
    if (len > 0)
        memcpy(b->data + b->len, data, len);
    b->len += len;
}

static inline void bytes_free(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){ NULL, 0, 0 };
}

/* Reads until the save returns `until` (VFIOMIG_NEXT_DRAINED or VFIOMIG_NEXT_END), or fails.
 * Returns what it said. */
static inline int read_until(struct vfiomig_save *save, struct bytes *out, size_t cap, int until)
{
    uint8_t *buf = malloc(cap);
    int r;
    CHECK(buf);
    do {
        size_t len = 0;
        r = vfiomig_save_next(save, buf, cap, &len);
        if (r >= 0)
            bytes_add(out, buf, len);
    } while (r >= 0 && r != until && r != VFIOMIG_NEXT_END);
    free(buf);
    return r;
}

/* The whole stream of a device, with the session still open. */
static inline struct vfiomig_save *save_all(struct vfiomig_device *dev,
                                            const struct vfiomig_save_options *options, size_t cap,
                                            struct bytes *out)
{
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(dev, options, &save));
    EQ(read_until(save, out, cap, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, out, cap, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    return save;
}

/* The whole stream of a device, which then runs as before. */
static inline struct bytes stream_of(struct vfiomig_device *dev)
{
    struct bytes out = { NULL, 0, 0 };
    struct vfiomig_save *save = save_all(dev, NULL, 1 << 17, &out);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    return out;
}

/* Pushes everything in pieces of at most `piece` bytes. Returns the bits of all pushes, or the
 * first error. */
static inline int push_all(struct vfiomig_load *load, const struct bytes *in, size_t piece)
{
    int bits = 0;
    for (size_t at = 0; at < in->len;) {
        size_t len = in->len - at < piece ? in->len - at : piece;
        int r = vfiomig_load_push(load, in->data + at, len);
        if (r < 0)
            return r;
        bits |= r;
        at += len;
    }
    return bits;
}

/* Loads a whole stream, or what is left of one; the contents are the source's then. Frees everything. */
static inline void arrives(struct rig *from, struct rig *to, struct vfiomig_save *save,
                           struct vfiomig_load *load, struct bytes *stream)
{
    CHECK(push_all(load, stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to->sim) == vfiomig_sim_digest(from->sim));
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(from);
    rig_free(to);
    bytes_free(stream);
}

#endif
