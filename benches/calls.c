/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * call-overhead: what a call costs that does no I/O, in nanoseconds. The baseline is a call to a
 * function of the same shared library that only returns a number.
 */
#include "bench.h"

enum { RUNS = 11, CALLS = 2000000 };

static int open_token(void *opaque, uint32_t state)
{
    (void)opaque;
    return (int)state;
}

int main(void)
{
    struct bench_device state = { VFIOMIG_STATE_RUNNING, open_token, NULL };
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device *device;
    struct vfiomig_save *save;
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    double guarded[RUNS], shared[RUNS], plain[RUNS];
    uint32_t fixups;

    ops.feature = bench_feature;
    ops.reset = bench_reset;
    if (vfiomig_device_new_ops(&ops, &state, NULL, &device) ||
        vfiomig_save_begin(device, NULL, &save))
        bench_die("begin");
    for (int run = 0; run < RUNS; run++) {
        double start = bench_now();
        for (int i = 0; i < CALLS; i++)
            if (vfiomig_device_get_fixups(device, &fixups))
                bench_die("vfiomig_device_get_fixups");
        guarded[run] = (bench_now() - start) / CALLS * 1e9;
        start = bench_now();
        for (int i = 0; i < CALLS; i++)
            if (vfiomig_save_get_stats(save, &stats))
                bench_die("vfiomig_save_get_stats");
        shared[run] = (bench_now() - start) / CALLS * 1e9;
        uint32_t version = 0;
        start = bench_now();
        for (int i = 0; i < CALLS; i++)
            version |= vfiomig_version();
        plain[run] = (bench_now() - start) / CALLS * 1e9;
        if (version != vfiomig_version())
            return 1;
    }
    bench_report("call-overhead/guarded", "ns", guarded, plain, RUNS);
    bench_report("call-overhead/concurrent", "ns", shared, plain, RUNS);
    vfiomig_save_free(save);
    vfiomig_device_free(device);
    return 0;
}
