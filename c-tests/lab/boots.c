/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * One machine loads a stream that another one wrote: boot 1 saves, boot 2 loads. Only the files are
 * carried over.
 */
#include "lab.h"

#include <limits.h>

static const char *path_of(unsigned ports, enum lab_how how, int pre_copy)
{
    static char path[PATH_MAX];
    const char *keep = getenv("LAB_KEEP");

    CHECK(keep, "LAB_KEEP is not set");
    snprintf(path, sizeof(path), "%s/vfiomig-%u-%s-%d.stream", keep, ports, lab_how_name(how),
             pre_copy);
    return path;
}

static unsigned seed_of(unsigned ports, enum lab_how how, int pre_copy)
{
    return 100 + ports * 4 + how * 2 + (unsigned)pre_copy;
}

struct variety {
    unsigned ports;
    enum lab_how how;
    int pre_copy;
};

static void save(void)
{
    const struct variety *v = lab_arg();
    struct lab_device device;
    struct vfiomig_device *handle = lab_new(&device, v->ports, v->how);
    struct lab_bytes stream;

    lab_fill(&device, seed_of(v->ports, v->how, v->pre_copy));
    stream = lab_save(handle, v->pre_copy ? 0 : VFIOMIG_SAVE_NO_PRE_COPY, 4096, VFIOMIG_ENDING_RELEASE);
    lab_write_file(path_of(v->ports, v->how, v->pre_copy), &stream);
    lab_free(&stream);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void load(void)
{
    const struct variety *v = lab_arg();
    struct lab_device device;
    /* What was saved by group is loaded by cdev, if there is one. */
    enum lab_how how = v->how == LAB_GROUP && lab_has(LAB_CDEV) ? LAB_CDEV : LAB_GROUP;
    struct vfiomig_device *handle;
    struct lab_bytes stream;

    lab_need(v->how);
    handle = lab_new(&device, v->ports, how);
    stream = lab_read_file(path_of(v->ports, v->how, v->pre_copy));
    CHECK(stream.len > LAB_MTTY_SIZE(v->ports), "the file has %zu bytes", stream.len);
    OK(lab_load(handle, NULL, stream.data, stream.len, 17, NULL));
    OK(vfiomig_device_run(handle));
    lab_expect_contents(&device, seed_of(v->ports, v->how, v->pre_copy));
    lab_free(&stream);
    vfiomig_device_free(handle);
    lab_close(&device);
}

int main(void)
{
    static struct variety v;

    for (v.ports = 1; v.ports <= 2; v.ports++)
        for (v.how = LAB_GROUP; v.how <= LAB_CDEV; v.how++)
            for (v.pre_copy = 0; v.pre_copy <= 1; v.pre_copy++)
                lab_run_arg(lab_boot() == 1 ? save : load, &v, "boots-%s-mtty-%u-%s%s",
                            lab_boot() == 1 ? "save" : "load", v.ports, lab_how_name(v.how),
                            v.pre_copy ? "-pre-copy" : "");
    return lab_status();
}
