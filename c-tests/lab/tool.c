/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The tool on real devices: `vfiomig probe` with each way to name one, free and in use; compat, inspect,
 * verify, checkpoint, restore and reset with what devices are, what a save of one made, and one that was left behind.
 * V=1 lab/run.sh shows what it prints.
 */
#include "tool.h"

/* Exit statuses of the tool. */
enum { ALL_MIGRATE = 0, SOME_DO_NOT = 1, NOT_FOUND = 2 };

/* `vfiomig probe ARGUMENT [FLAG]` */
static const char *probe(const char *argument, const char *flag, int want)
{
    return tool(want, "probe", argument, flag, NULL);
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

/* A save of a device, in a file; the device goes on, and is closed. */
static void save_to(const char *path, unsigned ports)
{
    struct lab_device device;
    struct vfiomig_device *handle = lab_new(&device, ports, LAB_GROUP);
    struct lab_bytes stream = lab_save(handle, 0, 4096, VFIOMIG_ENDING_KEEP);

    lab_write_file(path, &stream);
    lab_free(&stream);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void a_stream_of_a_device_is_read_and_judged(void)
{
    struct lab_device device;
    const char *said;

    save_to("/tmp/one.stream", 1);
    save_to("/tmp/two.stream", 2);
    says(tool(0, "verify", "/tmp/two.stream", NULL), "whole");
    said = tool(0, "inspect", "/tmp/two.stream", NULL);
    show(said);
    says(said, "mdev type mtty-2");
    says(said, "max_fifo_size");
    says(tool(1, "diff", "/tmp/one.stream", "/tmp/two.stream", NULL), "mdev-type: mtty-1");
    lab_create(&device, 2);
    says(tool(0, "compat", "/tmp/two.stream", device.uuid, NULL), "fits");
    says(tool(1, "compat", "/tmp/one.stream", device.uuid, NULL), "does not fit");
    CHECK(!truncate("/tmp/two.stream", 300), "truncate");
    says(tool(1, "verify", "/tmp/two.stream", NULL), "incomplete");
    lab_open(&device, LAB_GROUP);
    EXPECT(lab_raw_state(device.fd), VFIOMIG_STATE_RUNNING);
    lab_close(&device);
}

static void a_device_that_was_left_behind_is_reset(void)
{
    struct lab_device device;
    struct vfiomig_device *handle = lab_new(&device, 1, LAB_GROUP);
    const char *said;

    OK(vfiomig_device_set_state(handle, VFIOMIG_STATE_STOP));
    tool(6, "reset", "--yes", device.uuid, NULL);
    vfiomig_device_free(handle);
    lab_close(&device);
    said = tool(2, "reset", device.uuid, NULL);
    says(said, "is in STOP. A reset loses");
    says(said, "not reset");
    says(tool(0, "reset", "--yes", device.uuid, NULL), "reset; RUNNING");
    says(tool(0, "reset", "--yes", device.uuid, NULL), "nobody left it behind");
    lab_open(&device, LAB_GROUP);
    EXPECT(lab_raw_state(device.fd), VFIOMIG_STATE_RUNNING);
    lab_close(&device);
}

/* mtty keeps its state when nobody has it open, so the tool can take it away and bring it back. */
static void a_device_goes_into_a_file_and_comes_back(void)
{
    struct lab_device source, target;
    struct vfiomig_device *handle = lab_new(&source, 1, LAB_GROUP);
    struct lab_bytes before = lab_save(handle, 0, 4096, VFIOMIG_ENDING_KEEP), after;

    vfiomig_device_free(handle);
    lab_close(&source);
    says(tool(0, "checkpoint", source.uuid, "-o", "/tmp/device.state", NULL), "written");
    says(tool(0, "verify", "/tmp/device.state", NULL), "whole");
    handle = lab_new(&target, 1, LAB_GROUP);
    vfiomig_device_free(handle);
    says(tool(6, "restore", "/tmp/device.state", target.uuid, NULL), "process");
    lab_close(&target);
    says(tool(0, "restore", "--run", "/tmp/device.state", target.uuid, NULL), "RUNNING");
    lab_open(&target, LAB_GROUP);
    EXPECT(lab_raw_state(target.fd), VFIOMIG_STATE_RUNNING);
    handle = lab_handle(&target);
    after = lab_save(handle, 0, 4096, VFIOMIG_ENDING_KEEP);
    EXPECT(lab_payload(&after).len, lab_payload(&before).len);
    CHECK(!memcmp(lab_payload(&after).data, lab_payload(&before).data, lab_payload(&before).len),
          "the target does not hold what the source held");
    vfiomig_device_free(handle);
    lab_close(&target);
    lab_free(&before);
    lab_free(&after);
}

int main(void)
{
    if (lab_boot() != 1)
        return 77;
    /* Nobody is there to be asked. */
    CHECK(freopen("/dev/null", "r", stdin), "%s", strerror(errno));
    lab_run("tool-probe", a_device_is_described);
    lab_run("tool-probe-in-use", a_device_in_use_is_left_alone);
    lab_run("tool-probe-none", nothing_is_found);
    lab_run("tool-streams", a_stream_of_a_device_is_read_and_judged);
    lab_run("tool-checkpoint", a_device_goes_into_a_file_and_comes_back);
    lab_run("tool-reset", a_device_that_was_left_behind_is_reset);
    return lab_status();
}
