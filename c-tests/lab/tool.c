/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The tool, `vfiomig probe`, on real devices: named in every way that it accepts, free and in use.
 * V=1 lab/run.sh shows what it prints.
 */
#include "lab.h"

/* Exit statuses of the tool. */
enum { ALL_MIGRATE = 0, SOME_DO_NOT = 1, NOT_FOUND = 2 };

/* Everything that `vfiomig probe ARGUMENT [FLAG]` says; fails unless it exits with this status. */
static const char *probe(const char *argument, const char *flag, int want)
{
    static char all[65536];
    char *argv[] = { NULL, (char *)"probe", (char *)argument, (char *)flag, NULL };
    pid_t pid;
    FILE *said = lab_start("vfiomig", argv, &pid);

    all[fread(all, 1, sizeof(all) - 1, said)] = 0;
    printf("$ vfiomig probe %s %s\n%s\n", argument, flag ? flag : "", all);
    EXPECT(lab_wait(said, pid, "the tool"), want);
    return all;
}

static void says(const char *said, const char *what)
{
    CHECK(strstr(said, what), "\"%s\" is not in what the tool says", what);
}

/* For those who read the lab's output. */
static void show(const char *said)
{
    while (*said) {
        size_t len = strcspn(said, "\n");
        printf("| %.*s\n", (int)len, said);
        said += len + (said[len] == '\n');
    }
}

static void a_device_is_described(void)
{
    struct lab_device device;
    const char *said;

    lab_create(&device, 2);
    said = probe(device.uuid, NULL, ALL_MIGRATE);
    show(said);
    says(said, device.uuid);
    says(said, "mtty-2");
    says(said, "RUNNING");
    said = probe(device.uuid, "--json", ALL_MIGRATE);
    says(said, "\"mtty-2\"");
    if (lab_kernel_is("debian-6.12"))
        says(said, "dma-logging-unusable");
    probe(device.sysfs, NULL, ALL_MIGRATE);
    if (lab_has(LAB_CDEV))
        says(probe(lab_cdev_path(&device), NULL, ALL_MIGRATE), "mtty-2");
    /* And it has left the device as it was. */
    lab_open(&device, LAB_GROUP);
    EXPECT(lab_raw_state(device.fd), VFIOMIG_STATE_RUNNING);
    lab_close(&device);
}

/* A device that someone is using cannot be asked; the tool must say so and not disturb it. */
static void a_device_in_use_is_left_alone(void)
{
    struct lab_device device;
    struct vfiomig_device *handle = lab_new(&device, 1, LAB_GROUP);
    struct vfiomig_save *save = NULL;
    struct lab_bytes stream = { 0 };

    OK(vfiomig_save_begin(handle, NULL, &save));
    probe(device.uuid, NULL, SOME_DO_NOT);
    lab_expect_state(&device, handle, VFIOMIG_STATE_PRE_COPY);
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
    vfiomig_save_free(save);
    lab_free(&stream);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void nothing_is_found(void)
{
    probe("6d747479-1ab0-4000-ffff-ffffffffffff", NULL, NOT_FOUND);
}

int main(void)
{
    if (lab_boot() != 1)
        return 77;
    lab_run("tool-probe", a_device_is_described);
    lab_run("tool-probe-in-use", a_device_in_use_is_left_alone);
    lab_run("tool-probe-none", nothing_is_found);
    return lab_status();
}
