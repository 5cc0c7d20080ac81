/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The tool on the test device: a decoder that is given by hand names what its state consists of; Ctrl-C
 * in the middle of a checkpoint leaves device and file as they were, and in the middle of a restore no
 * device half loaded; a device that fails meanwhile goes on.
 */
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>

#include "kmod.h"
#include "tool.h"

#define MIB (1ull << 20)
#define DECODER "/lab/decoders/vfiomig-test.so"
#define STATE "/tmp/kmod-tool.state"

/* A run of the tool that has begun. */
struct run {
    FILE *said;
    pid_t pid;
};

static struct run begin(const char *a, const char *b, const char *c, const char *d, const char *e)
{
    char *argv[] = { NULL, (char *)a, (char *)b, (char *)c, (char *)d, (char *)e, NULL };
    struct run run;

    run.said = lab_start("vfiomig", argv, &run.pid);
    return run;
}

/* All that it says; fails unless it ends with this status. */
static const char *end(struct run run, int want)
{
    static char all[65536];

    all[fread(all, 1, sizeof(all) - 1, run.said)] = 0;
    printf("%s\n", all);
    EXPECT(lab_wait(run.said, run.pid, "the tool"), want);
    return all;
}

/* A device that nobody has open: the tool's. */
static void make(struct lab_device *device, uint64_t size, unsigned seed)
{
    kmod_create(device, 7);
    kmod_set(device, "state_size", "%llu", (unsigned long long)size);
    kmod_set(device, "seed", "%u", seed);
}

static void is_running(const struct lab_device *device, unsigned long long digest)
{
    struct lab_device copy = *device;

    lab_open(&copy, LAB_GROUP);
    EXPECT(lab_raw_state(copy.fd), VFIOMIG_STATE_RUNNING);
    lab_close(&copy);
    CHECK(kmod_digest(device) == digest, "its contents were %016llx, and now they are %016llx", digest,
          kmod_digest(device));
}

/* Files in /tmp that begin like this. */
static unsigned files_like(const char *begin)
{
    DIR *dir = opendir("/tmp");
    unsigned count = 0;

    CHECK(dir, "/tmp: %s", strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir));)
        count += !strncmp(entry->d_name, begin, strlen(begin));
    closedir(dir);
    return count;
}

static void wait_for(const struct lab_device *device, const char *counter, unsigned long long more)
{
    unsigned long long from = kmod_count(device, "counters", counter);
    uint64_t until = kmod_now_ms() + 20000;

    while (kmod_count(device, "counters", counter) < from + more) {
        CHECK(kmod_now_ms() < until, "%s does not grow", counter);
        usleep(2000);
    }
}

static void a_decoder_names_what_a_device_holds(void)
{
    struct lab_device device;
    const char *said;
    char digest[64];

    make(&device, 70000, 7);
    says(tool(0, "checkpoint", device.uuid, "-o", STATE, NULL), "written");
    said = tool(0, "inspect", "--decoder", DECODER, STATE, NULL);
    says(said, "header.state_size = 70000");
    says(said, "header.seed = 7");
    says(said, "records = 18");
    snprintf(digest, sizeof(digest), "end.digest = 0x%llx", kmod_digest(&device));
    says(said, digest);
    says(tool(0, "diff", "--decoder", DECODER, STATE, STATE, NULL), "the same");
    is_running(&device, kmod_digest(&device));
    unlink(STATE);
    lab_remove(&device);
}

static void an_interrupt_leaves_device_and_file_as_they_were(void)
{
    struct lab_device device;
    unsigned long long digest;
    struct stat before, after;
    struct run run;

    make(&device, 8 * MIB, 3);
    digest = kmod_digest(&device);
    says(tool(0, "checkpoint", device.uuid, "-o", STATE, NULL), "written");
    CHECK(!stat(STATE, &before), "%s", strerror(errno));
    /* It takes eight seconds now. */
    kmod_set(&device, "read_rate", "%llu", MIB);
    for (int signal = SIGINT; signal; signal = signal == SIGINT ? SIGTERM : 0) {
        run = begin("checkpoint", device.uuid, "-o", STATE, NULL);
        wait_for(&device, "read_bytes", 500000);
        CHECK(!kill(run.pid, signal), "%s", strerror(errno));
        says(end(run, 128 + signal), "not written: interrupted; by now the devices are where they were");
        is_running(&device, digest);
        CHECK(!stat(STATE, &after) && after.st_ino == before.st_ino && after.st_size == before.st_size,
              "the earlier file is another one now");
        EXPECT(files_like("kmod-tool.state"), 1);
    }
    kmod_set(&device, "read_rate", "0");
    says(tool(0, "verify", STATE, NULL), "whole");
    unlink(STATE);
    lab_remove(&device);
}

static void a_restore_that_is_interrupted_loads_no_device_half(void)
{
    struct lab_device source, one, two;
    unsigned long long sent, kept;
    struct run run;

    make(&source, 4 * MIB, 1);
    make(&one, 4 * MIB, 2);
    make(&two, 4 * MIB, 3);
    sent = kmod_digest(&source);
    kept = kmod_digest(&two);
    tool(0, "checkpoint", source.uuid, "-o", STATE, NULL);
    kmod_set(&one, "write_rate", "%llu", 2 * MIB);
    run = begin("restore", "--run", STATE, one.uuid, two.uuid);
    wait_for(&one, "write_bytes", 500000);
    CHECK(!kill(run.pid, SIGINT), "%s", strerror(errno));
    says(end(run, 130), "interrupted: 1 of 2 devices are loaded");
    is_running(&one, sent);
    is_running(&two, kept);
    /* Before the first one is touched, nothing is lost. */
    kmod_set(&one, "write_rate", "0");
    says(tool(0, "restore", "--run", STATE, one.uuid, two.uuid, NULL), "loaded");
    is_running(&two, sent);
    unlink(STATE);
    lab_remove(&source);
    lab_remove(&one);
    lab_remove(&two);
}

static void a_device_that_fails_goes_on_and_leaves_no_file(void)
{
    struct lab_device device;
    unsigned long long digest;

    make(&device, MIB, 5);
    digest = kmod_digest(&device);
    kmod_set(&device, "fail_read", "3 %d", EIO);
    says(tool(5, "checkpoint", device.uuid, "-o", STATE, NULL), "by now the devices are where they were");
    is_running(&device, digest);
    EXPECT(files_like("kmod-tool.state"), 0);
    says(tool(7, "checkpoint", device.uuid, "-o", "/dev/full", NULL), "is not a file");
    is_running(&device, digest);
    lab_remove(&device);
}

int main(void)
{
    if (lab_boot() != 1)
        return 77;
    /* Nobody is there to be asked. */
    CHECK(freopen("/dev/null", "r", stdin), "%s", strerror(errno));
    lab_run("kmod-tool-decoder", a_decoder_names_what_a_device_holds);
    lab_run("kmod-tool-interrupt", an_interrupt_leaves_device_and_file_as_they_were);
    lab_run("kmod-tool-interrupt-restore", a_restore_that_is_interrupted_loads_no_device_half);
    lab_run("kmod-tool-fault", a_device_that_fails_goes_on_and_leaves_no_file);
    return lab_status();
}
