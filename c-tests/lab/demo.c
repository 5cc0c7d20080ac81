/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The demo (c-tests/demo), which is two processes and a socket, with real devices instead of
 * simulated ones: what the source held is in the target afterwards, or still in the source if the
 * target died.
 */
#include "lab.h"

struct variety {
    const char *name;
    enum lab_how how;
    const char *fail_at; /* NULL: nothing */
    int on_target;       /* where the guest must be in the end */
};

#define HELD 120
#define OTHER 121

/* Runs the demo and shows its output; returns its exit status. The last line is left in `last`. */
static int run(char *argv[], char *last, size_t room)
{
    char line[512];
    pid_t pid;
    FILE *said = lab_start("demo", argv, &pid);

    last[0] = 0;
    while (fgets(line, sizeof(line), said)) {
        line[strcspn(line, "\n")] = 0;
        snprintf(last, room, "%s", line);
        printf("| %s\n", line);
    }
    return lab_wait(said, pid, "the demo");
}

/* Fills a device as its guest would, and leaves it to the demo. */
static void prepare(struct lab_device *device, unsigned seed)
{
    lab_create(device, 2);
    lab_open(device, LAB_GROUP);
    lab_fill(device, seed);
    lab_close(device);
}

static void the_guest_is_where_it_belongs(void)
{
    const struct variety *v = lab_arg();
    char last[512];
    struct lab_device source, target;
    struct vfiomig_device *handle;
    char *argv[16];
    int n = 1; /* after the program's name */

    lab_need(v->how);
    prepare(&source, HELD);
    prepare(&target, OTHER);

    argv[n++] = (char *)"--verbose";
    argv[n++] = (char *)"--device";
    argv[n++] = strdup(v->how == LAB_CDEV ? lab_cdev_path(&source) : source.uuid);
    argv[n++] = (char *)"--target-device";
    argv[n++] = strdup(v->how == LAB_CDEV ? lab_cdev_path(&target) : target.uuid);
    if (v->how == LAB_GROUP) {
        argv[n++] = (char *)"--group";
        argv[n++] = lab_group_number(&source);
        argv[n++] = (char *)"--target-group";
        argv[n++] = lab_group_number(&target);
    }
    if (v->fail_at) {
        argv[n++] = (char *)"--fail-at";
        argv[n++] = (char *)v->fail_at;
    }
    argv[n] = NULL;
    EXPECT(run(argv, last, sizeof(last)), 0);
    CHECK(strstr(last, "verified"), "the demo's last line is \"%s\"", last);

    lab_open(&target, LAB_GROUP);
    lab_open(&source, LAB_GROUP);
    if (v->on_target) {
        EXPECT(lab_raw_state(target.fd), VFIOMIG_STATE_RUNNING);
        lab_expect_contents(&target, HELD);
    } else {
        EXPECT(lab_raw_state(source.fd), VFIOMIG_STATE_RUNNING);
        lab_expect_contents(&source, HELD);
        /* If a target was killed, the library resets what it left, whoever comes next. */
        handle = lab_handle(&target);
        OK(vfiomig_device_run(handle));
        vfiomig_device_free(handle);
    }
    lab_close(&source);
    lab_close(&target);
}

int main(void)
{
    static const struct variety varieties[] = {
        { "demo-cdev", LAB_CDEV, NULL, 1 },
        { "demo-group", LAB_GROUP, NULL, 1 },
        /* Not earlier: what an mtty holds has arrived before anyone could be killed. */
        { "demo-kill-target-late", LAB_GROUP, "kill-target-late", 0 },
        { "demo-kill-source", LAB_GROUP, "kill-source", 1 },
    };

    if (lab_boot() != 1)
        return 77;
    for (size_t i = 0; i < sizeof(varieties) / sizeof(*varieties); i++)
        lab_run_arg(the_guest_is_where_it_belongs, &varieties[i], "%s", varieties[i].name);
    return lab_status();
}
