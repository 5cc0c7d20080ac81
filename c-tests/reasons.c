/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Why a device cannot migrate, or not well: stable codes, the worst first, with texts for
 * people. */
#include "rig.h"

#define PROBE (1u << 18)
#define SET (1u << 17)
#define GET (1u << 16)

/* A driver that answers as a test wants. */
struct driver {
    int migration_errno;
    uint64_t migration_flags;
    int state_errno;
    uint32_t state;
    int size_errno;
    uint64_t size;
    int logging_probe_errno, logging_report_errno;
    int info_v2_errno;
};

static const struct driver perfect = { .migration_flags = 7, .state = 2, .size = 100 };

static int feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    const struct driver *d = opaque;
    int32_t state[2] = { (int32_t)d->state, -1 };
    switch (flags & 0xffff) {
    case 1:
        if (d->migration_errno == 0 && flags & GET && len == 8)
            memcpy(data, &d->migration_flags, 8);
        return -d->migration_errno;
    case 2:
        if (d->state_errno == 0 && flags & GET && len == 8)
            memcpy(data, state, 8);
        return -d->state_errno;
    case 6:
        return -d->logging_probe_errno;
    case 8:
        return flags & PROBE ? 0 : -d->logging_report_errno;
    case 9:
        if (d->size_errno == 0 && len == 8)
            memcpy(data, &d->size, 8);
        return -d->size_errno;
    case 12:
        return flags == (SET | 12) ? -d->info_v2_errno : -EINVAL;
    default:
        return -ENOTTY;
    }
}

static struct vfiomig_device *probe(const struct driver *driver, uint32_t flags)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_device *dev;
    ops.feature = feature;
    options.flags = flags;
    OK(vfiomig_device_new_ops(&ops, (void *)(uintptr_t)driver, &options, &dev));
    return dev;
}

static unsigned char seen[64];

/* The only reason of a device, or the first of several. */
static void expect(const struct driver *driver, uint32_t flags, uint32_t code, const char *label,
                   uint32_t severity, uint32_t caps_flags)
{
    struct vfiomig_device *dev = probe(driver, flags);
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    OK(vfiomig_device_get_reason(dev, 0, &reason));
    EQ(reason.code, code);
    EQ(strcmp(reason.label, label), 0);
    EQ(reason.severity, severity);
    CHECK(strlen(reason.text) > 20);
    CHECK(memchr(reason.text, 0, sizeof reason.text));
    OK(vfiomig_device_get_caps(dev, &caps));
    EQ(caps.flags, caps_flags);
    /* Migrating is refused exactly if a reason blocks. */
    struct vfiomig_save *save;
    int r = vfiomig_save_begin(dev, NULL, &save);
    if (severity == VFIOMIG_SEVERITY_BLOCKS) {
        CHECK(r < 0);
    } else if (r == 0) {
        vfiomig_save_free(save);
    }
    seen[code] = 1;
    vfiomig_device_free(dev);
}

enum {
    ALL = VFIOMIG_CAP_MIGRATE | VFIOMIG_CAP_PRE_COPY | VFIOMIG_CAP_P2P | VFIOMIG_CAP_DMA_LOGGING |
          VFIOMIG_CAP_PRECOPY_INFO_V2 | VFIOMIG_CAP_STATE_SIZE
};

static void none_for_a_perfect_device(void)
{
    struct vfiomig_device *dev = probe(&perfect, 0);
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    EQ(vfiomig_device_get_reason(dev, 0, &reason), -ENODATA);
    OK(vfiomig_device_get_caps(dev, &caps));
    EQ(caps.flags, ALL);
    EQ(caps.migration_flags, 7);
    EQ(caps.state_size, 100);
    EQ(caps.initial_state, VFIOMIG_STATE_RUNNING);
    EQ(caps.num_reasons, 0);
    vfiomig_device_free(dev);
}

static void each_alone(void)
{
    struct driver d = perfect;
    expect(&d, VFIOMIG_DEVICE_DISABLED, VFIOMIG_REASON_DISABLED, "disabled",
           VFIOMIG_SEVERITY_BLOCKS, ALL);
    d.migration_errno = ENOTTY;
    expect(&d, 0, VFIOMIG_REASON_DRIVER_NO_MIGRATION, "driver-without-migration",
           VFIOMIG_SEVERITY_BLOCKS, 0);
    d.migration_errno = EIO;
    expect(&d, 0, VFIOMIG_REASON_DRIVER_NO_MIGRATION, "driver-without-migration",
           VFIOMIG_SEVERITY_BLOCKS, 0);
    d = perfect;
    d.migration_flags = 6;
    expect(&d, 0, VFIOMIG_REASON_NO_STOP_COPY, "no-stop-copy", VFIOMIG_SEVERITY_BLOCKS, 0);
    d = perfect;
    d.state_errno = EIO;
    expect(&d, 0, VFIOMIG_REASON_STATE_UNREADABLE, "state-unreadable", VFIOMIG_SEVERITY_BLOCKS, ALL);
    d = perfect;
    d.state = VFIOMIG_STATE_ERROR;
    expect(&d, 0, VFIOMIG_REASON_DEVICE_IN_ERROR, "device-in-error", VFIOMIG_SEVERITY_BLOCKS, ALL);
    d = perfect;
    d.state = VFIOMIG_STATE_RESUMING;
    expect(&d, 0, VFIOMIG_REASON_STALE_STATE, "stale-state", VFIOMIG_SEVERITY_LIMITS, ALL);
    d = perfect;
    d.migration_flags = 3;
    expect(&d, 0, VFIOMIG_REASON_NO_PRE_COPY, "no-pre-copy", VFIOMIG_SEVERITY_LIMITS,
           ALL & ~(VFIOMIG_CAP_PRE_COPY | VFIOMIG_CAP_PRECOPY_INFO_V2));
    d.migration_flags = 5;
    expect(&d, 0, VFIOMIG_REASON_NO_P2P, "no-p2p", VFIOMIG_SEVERITY_LIMITS, ALL & ~VFIOMIG_CAP_P2P);
    d = perfect;
    d.size_errno = ENOTTY;
    expect(&d, 0, VFIOMIG_REASON_NO_DATA_SIZE, "no-data-size", VFIOMIG_SEVERITY_LIMITS,
           ALL & ~VFIOMIG_CAP_STATE_SIZE);
    d = perfect;
    d.size = (uint64_t)-5; /* an errno where a size should be */
    expect(&d, 0, VFIOMIG_REASON_NO_DATA_SIZE, "no-data-size", VFIOMIG_SEVERITY_LIMITS,
           ALL & ~VFIOMIG_CAP_STATE_SIZE);
    d = perfect;
    d.logging_probe_errno = ENOTTY;
    expect(&d, 0, VFIOMIG_REASON_NO_DMA_LOGGING, "no-dma-logging", VFIOMIG_SEVERITY_LIMITS,
           ALL & ~VFIOMIG_CAP_DMA_LOGGING);
    d = perfect;
    d.logging_report_errno = EOPNOTSUPP;
    expect(&d, 0, VFIOMIG_REASON_DMA_LOGGING_UNUSABLE, "dma-logging-unusable",
           VFIOMIG_SEVERITY_LIMITS, ALL & ~VFIOMIG_CAP_DMA_LOGGING);
    d = perfect;
    d.info_v2_errno = ENOTTY;
    expect(&d, 0, VFIOMIG_REASON_NO_PRECOPY_INFO_V2, "no-precopy-info-v2", VFIOMIG_SEVERITY_INFO,
           ALL & ~VFIOMIG_CAP_PRECOPY_INFO_V2);
    /* All but the kernel's age, which cannot be changed from here. */
    for (int code = VFIOMIG_REASON_DISABLED; code <= VFIOMIG_REASON_NO_PRECOPY_INFO_V2; code++)
        if (!seen[code] && code != VFIOMIG_REASON_KERNEL_TOO_OLD)
            FAIL("reason %d was never given", code);
}

static void several_worst_first(void)
{
    struct driver d = { .migration_flags = 1, .state = VFIOMIG_STATE_STOP_COPY, .size_errno = ENOTTY,
                        .logging_probe_errno = ENOTTY };
    struct vfiomig_device *dev = probe(&d, VFIOMIG_DEVICE_DISABLED);
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    uint32_t n = 0, severity = 0;
    while (vfiomig_device_get_reason(dev, n, &reason) == 0) {
        CHECK(reason.severity >= severity);
        severity = reason.severity;
        n++;
    }
    EQ(n, 6);
    OK(vfiomig_device_get_caps(dev, &caps));
    EQ(caps.num_reasons, n);
    EQ(vfiomig_device_get_reason(dev, UINT32_MAX, &reason), -ENODATA);
    vfiomig_device_free(dev);
}

static void what_comes_later_is_tolerated(void)
{
    struct driver d = perfect;
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    uint32_t state;
    d.migration_flags = 7 | 1ull << 40;
    struct vfiomig_device *dev = probe(&d, 0);
    OK(vfiomig_device_get_caps(dev, &caps));
    EQ(caps.migration_flags, 7 | 1ll << 40);
    CHECK(caps.flags & VFIOMIG_CAP_MIGRATE);
    vfiomig_device_free(dev);
    d = perfect;
    d.state = 12;
    dev = probe(&d, 0);
    OK(vfiomig_device_get_state(dev, &state));
    EQ(state, 12);
    EQ(strcmp(vfiomig_state_name(12), "UNKNOWN"), 0);
    vfiomig_device_free(dev);
}

int main(void)
{
    RUN(none_for_a_perfect_device);
    RUN(each_alone);
    RUN(several_worst_first);
    RUN(what_comes_later_is_tolerated);
    return DONE();
}
