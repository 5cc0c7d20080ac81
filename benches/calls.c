/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * call-overhead: what a call costs that does no I/O, in nanoseconds. The baseline is a call to a
 * function of the same shared library that only returns a number; for policy-file, a call of a
 * load while there is no policy file.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"

enum { RUNS = 11, CALLS = 2000000 };

static int open_token(void *opaque, uint32_t state)
{
    (void)opaque;
    return (int)state;
}

/* A push of nothing: it asks whether the load may go on, and nothing else. */
static double push_nothing(struct vfiomig_load *load)
{
    double start = bench_now();
    for (int i = 0; i < CALLS; i++)
        if (vfiomig_load_push(load, NULL, 0))
            bench_die("vfiomig_load_push");
    return (bench_now() - start) / CALLS * 1e9;
}

/* With the policy of this host, which has none as a rule, and with a file besides. */
static void permitted(struct vfiomig_device *device)
{
    char path[] = "/tmp/vfiomig-bench-XXXXXX";
    double without[RUNS], with[RUNS];
    struct vfiomig_load *load;
    int fd = mkstemp(path);

    if (fd < 0 || write(fd, "deny direction=save\n", 20) != 20 ||
        vfiomig_load_begin(device, NULL, &load))
        bench_die("a load");
    for (int run = 0; run < RUNS; run++)
        without[run] = push_nothing(load);
    vfiomig_load_free(load);
    char *directory = strdup("/tmp/vfiomig-bench-XXXXXX"), file[64];
    if (!directory || !mkdtemp(directory))
        bench_die("a directory");
    snprintf(file, sizeof file, "%s/policy.conf", directory);
    if (fchmod(fd, 0644) || rename(path, file) || vfiomig_policy_add_file(-100, file, 0) ||
        vfiomig_load_begin(device, NULL, &load))
        bench_die(vfiomig_error_message());
    for (int run = 0; run < RUNS; run++)
        with[run] = push_nothing(load);
    bench_report("call-overhead/policy-file", "ns", with, without, RUNS);
    vfiomig_load_free(load);
    unlink(file);
    rmdir(directory);
    free(directory);
    close(fd);
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
    permitted(device);
    vfiomig_device_free(device);
    return 0;
}
