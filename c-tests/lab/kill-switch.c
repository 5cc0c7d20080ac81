/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Migration of real devices is switched off on each of its levels: before it begins, and while a save
 * is in pre-copy or a load has half of its stream. The machine is the test's own, so its policy is
 * where an administrator has it.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "lab.h"

#define POLICY "/etc/vfiomig/policy.conf"
#define BOTH (VFIOMIG_ALLOW_SAVE | VFIOMIG_ALLOW_LOAD)

/* Sessions look again on their calls, at most every 100 ms. */
static void let_time_pass(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 110000000 }, NULL);
}

static void put_policy(const char *text)
{
    mkdir("/etc", 0755);
    mkdir("/etc/vfiomig", 0755);
    EXPECT(chmod("/etc/vfiomig", 0755), 0);
    FILE *file = fopen(POLICY ".new", "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0, "no policy can be written");
    EXPECT(chmod(POLICY ".new", 0644), 0);
    EXPECT(rename(POLICY ".new", POLICY), 0);
}

static void no_policy(void)
{
    remove(POLICY);
}

static void expect_reason(struct vfiomig_device *handle, uint32_t code, const char *text)
{
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;

    OK(vfiomig_device_get_reason(handle, 0, &reason));
    printf("| [%s] %s\n", reason.label, reason.text);
    EXPECT(reason.code, code);
    CHECK(strstr(reason.text, text), "\"%s\" is not in \"%s\"", text, reason.text);
}

/* What a device says, and whether it may be saved and loaded. */
static void expect(const struct lab_device *device, struct vfiomig_device *handle,
                   uint32_t allowed)
{
    struct vfiomig_save *save;
    struct vfiomig_load *load;

    CALL(vfiomig_save_begin(handle, NULL, &save), allowed & VFIOMIG_ALLOW_SAVE ? 0 : -EPERM);
    if (allowed & VFIOMIG_ALLOW_SAVE)
        vfiomig_save_free(save);
    CALL(vfiomig_load_begin(handle, NULL, &load), allowed & VFIOMIG_ALLOW_LOAD ? 0 : -EPERM);
    if (allowed & VFIOMIG_ALLOW_LOAD)
        vfiomig_load_free(load);
    lab_expect_state(device, handle, VFIOMIG_STATE_RUNNING);
}

static void a_device(void)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct lab_device device;
    struct vfiomig_device *handle;

    lab_create(&device, 2);
    lab_open(&device, LAB_GROUP);
    options.flags = VFIOMIG_DEVICE_DISABLED;
    options.sysfs_path = device.sysfs;
    OK(vfiomig_device_new_fd(device.fd, &options, &handle));
    expect_reason(handle, VFIOMIG_REASON_DISABLED, "the VMM");
    expect(&device, handle, 0);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void the_environment(void)
{
    struct lab_device device;
    struct vfiomig_device *handle;

    setenv("VFIOMIG_DISABLE", "load", 1);
    handle = lab_new(&device, 2, LAB_GROUP);
    expect_reason(handle, VFIOMIG_REASON_LOAD_DISABLED, "VFIOMIG_DISABLE");
    OK(vfiomig_process_set_allowed(BOTH)); /* which does not help */
    expect(&device, handle, VFIOMIG_ALLOW_SAVE);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void the_process(void)
{
    struct lab_device device;
    struct vfiomig_device *handle = lab_new(&device, 2, LAB_GROUP);

    OK(vfiomig_process_set_allowed(0));
    expect(&device, handle, 0);
    expect_reason(handle, VFIOMIG_REASON_DISABLED_BY_PROCESS, "vfiomig_process_set_allowed()");
    OK(vfiomig_process_set_allowed(VFIOMIG_ALLOW_LOAD));
    expect(&device, handle, VFIOMIG_ALLOW_LOAD);
    OK(vfiomig_process_set_allowed(BOTH));
    expect(&device, handle, BOTH);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void the_host(void)
{
    static const struct {
        const char *text;
        uint32_t allowed;
    } table[] = {
        { "deny\n", 0 },
        { "default deny\n", 0 },
        { "deny driver=mtty\n", 0 },
        { "deny driver=mlx5_vfio_pci\n", BOTH },
        { "deny mdev-type=mtty-2\n", 0 },
        { "deny mdev-type=mtty-1\n", BOTH },
        { "deny pci=4348:*\n", 0 },
        { "deny pci=15b3:*\n", BOTH },
        { "deny direction=save\n", VFIOMIG_ALLOW_LOAD },
        { "deny driver=mtty direction=load\n", VFIOMIG_ALLOW_SAVE },
        { "default deny\nallow mdev-type=mtty-* direction=save\n", VFIOMIG_ALLOW_SAVE },
        { "deny driver=mtty", 0 }, /* cut off */
        { "dney\n", 0 },
        { "", 0 },
        { "default allow\n", BOTH },
    };
    struct lab_device device;
    struct vfiomig_device *handle = lab_new(&device, 2, LAB_GROUP);
    char text[100];

    expect(&device, handle, BOTH); /* there is none */
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
        printf("row %zu\n", i);
        put_policy(table[i].text);
        expect(&device, handle, table[i].allowed);
        if (table[i].allowed == 0)
            expect_reason(handle, VFIOMIG_REASON_DISABLED_BY_POLICY, POLICY);
    }
    snprintf(text, sizeof text, "deny device=%s\n", device.uuid);
    put_policy(text);
    expect(&device, handle, 0);
    put_policy("default allow\n");
    EXPECT(chmod(POLICY, 0666), 0);
    expect(&device, handle, 0);
    expect_reason(handle, VFIOMIG_REASON_DISABLED_BY_POLICY, "others may write to it");
    EXPECT(remove(POLICY), 0);
    EXPECT(mkfifo(POLICY, 0644), 0); /* nobody opens the other end */
    expect(&device, handle, 0);
    expect_reason(handle, VFIOMIG_REASON_DISABLED_BY_POLICY, "not a regular file");
    put_policy("default allow\n");
    expect(&device, handle, BOTH);
    no_policy();
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void switch_process_off(void)
{
    OK(vfiomig_process_set_allowed(0));
}

static void switch_process_on(void)
{
    OK(vfiomig_process_set_allowed(BOTH));
}

static void switch_host_off(void)
{
    put_policy("deny mdev-type=mtty-*\n");
    let_time_pass();
}

static void switch_host_on(void)
{
    put_policy("default allow\n");
}

struct level {
    const char *name;
    void (*off)(void), (*on)(void);
    const char *by_whom;
};

static const struct level levels[] = {
    { "process", switch_process_off, switch_process_on, "vfiomig_process_set_allowed()" },
    { "host", switch_host_off, switch_host_on, POLICY ", line 1" },
};

static void expect_cut_off(int got, const struct level *level)
{
    printf("| %s\n", vfiomig_error_message());
    CALL(got, -EPERM);
    CHECK(strstr(vfiomig_error_message(), level->by_whom), "%s", vfiomig_error_message());
}

/* The guest goes on, and leaves later with all that it had. */
static void a_save_in_pre_copy(void)
{
    const struct level *level = lab_arg();
    struct lab_device source, target;
    struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP), *to = lab_new(&target, 2, LAB_GROUP);
    struct lab_bytes stream = { 0 };
    struct vfiomig_save *save;
    unsigned char buf[4096];
    size_t len;

    lab_fill(&source, 7);
    OK(vfiomig_save_begin(from, NULL, &save));
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
    lab_expect_state(&source, from, VFIOMIG_STATE_PRE_COPY);
    level->off();
    expect_cut_off(vfiomig_save_next(save, buf, sizeof buf, &len), level);
    expect_cut_off(vfiomig_save_stop(save), level);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
    vfiomig_save_free(save);
    CALL(vfiomig_save_begin(from, NULL, &save), -EPERM);

    level->on();
    lab_free(&stream);
    stream = lab_save(from, 0, 4096, VFIOMIG_ENDING_RELEASE);
    OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, 7);
    no_policy();
    lab_free(&stream);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

/* The stopped device is kept; and what is complete is released in spite of all. */
static void a_switchover(void)
{
    const struct level *level = lab_arg();
    struct lab_device source;
    struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP);
    struct lab_bytes stream = { 0 };
    struct vfiomig_save *save;
    unsigned char buf[4096];
    size_t len;

    lab_fill(&source, 8);
    OK(vfiomig_save_begin(from, NULL, &save));
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    level->off();
    expect_cut_off(vfiomig_save_next(save, buf, sizeof buf, &len), level);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
    lab_expect_contents(&source, 8);

    level->on();
    lab_fill(&source, 9);
    lab_free(&stream);
    save = lab_save_begin_to_end(from, 0, 4096, &stream);
    level->off();
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_save_free(save);
    lab_expect_state(&source, from, VFIOMIG_STATE_STOP);
    level->on();
    no_policy();
    lab_free(&stream);
    vfiomig_device_free(from);
    lab_close(&source);
}

/* A driver that has half a state is reset; the next load finds it empty. */
static void a_load(void)
{
    const struct level *level = lab_arg();
    struct lab_device source, target;
    struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP), *to = lab_new(&target, 2, LAB_GROUP);
    struct lab_bytes stream;

    lab_fill(&source, 10);
    stream = lab_save(from, 0, 4096, VFIOMIG_ENDING_RELEASE);
    for (size_t part = 0; part < 3; part++) {
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        size_t some = stream.len * part / 2;
        struct vfiomig_load *load;

        OK(vfiomig_load_begin(to, NULL, &load));
        CHECK(vfiomig_load_push(load, stream.data, some) >= 0, "%s", vfiomig_error_message());
        lab_expect_state(&target, to, VFIOMIG_STATE_RESUMING);
        level->off();
        expect_cut_off(part < 2 ? vfiomig_load_push(load, stream.data + some, stream.len - some)
                                : vfiomig_load_commit(load), level);
        OK(vfiomig_load_get_failure(load, &failure));
        EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
        vfiomig_load_free(load);
        lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
        level->on();
    }
    OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
    /* Committed: nothing keeps the guest from running. */
    level->off();
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, 10);
    level->on();
    no_policy();
    lab_free(&stream);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

static const char *tool(const char *command, const char *argument, int want)
{
    static char all[65536];
    char *argv[] = { NULL, (char *)command, (char *)argument, NULL };
    pid_t pid;
    FILE *said = lab_start("vfiomig", argv, &pid);

    all[fread(all, 1, sizeof(all) - 1, said)] = 0;
    printf("| $ vfiomig %s %s\n| %s", command, argument, all);
    EXPECT(lab_wait(said, pid, "the tool"), want);
    return all;
}

static void the_tool(void)
{
    struct lab_device device;

    lab_create(&device, 2);
    put_policy("# maintenance\ndeny mdev-type=mtty-2\n");
    const char *said = tool("probe", device.uuid, 1);
    CHECK(strstr(said, "disabled-by-policy") && strstr(said, POLICY ", line 2"), "it does not say so");
    CHECK(strstr(tool("policy", "check", 0), "1 rule"), "the policy is not checked");
    put_policy("deny mdev=mtty-2\n");
    CHECK(strstr(tool("policy", "check", 1), POLICY ": line 1: "), "the mistake is not found");
    put_policy("deny direction=load\n");
    CHECK(strstr(tool("probe", device.uuid, 0), "load-disabled"), "it does not say so");
    no_policy();
    tool("policy", "check", 0);
    tool("probe", device.uuid, 0);
}

int main(void)
{
    if (lab_boot() != 1)
        return 77;
    umask(022);
    lab_run("kill-switch-device", a_device);
    lab_run("kill-switch-environment", the_environment);
    lab_run("kill-switch-process", the_process);
    lab_run("kill-switch-host", the_host);
    for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++) {
        const struct level *level = &levels[i];

        lab_run_arg(a_save_in_pre_copy, level, "kill-switch-pre-copy-%s", level->name);
        lab_run_arg(a_switchover, level, "kill-switch-switchover-%s", level->name);
        lab_run_arg(a_load, level, "kill-switch-load-%s", level->name);
    }
    lab_run("kill-switch-tool", the_tool);
    return lab_status();
}
