/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Changes of state that fail on a real kernel, and what the library makes of the device then.
 *
 * Two faults are possible without touching the driver. Without a spare file descriptor, the kernel
 * makes the change and cannot return the data fd: the call fails, and the device is in the new
 * state. With failing allocations, which the lab's own kernels can inject, it stops on the way.
 */
#include "lab.h"

#include <fcntl.h>
#include <sys/resource.h>

#define HELD 90

static struct lab_device device;
static struct vfiomig_device *handle;

static void set_up(void)
{
    handle = lab_new(&device, 2, LAB_GROUP);
    lab_fill(&device, HELD);
}

/* Whatever was tried: the device runs, holds what it held, and migrates. */
static void tear_down(void)
{
    struct lab_device other;
    struct vfiomig_device *to = lab_new(&other, 2, LAB_GROUP);
    struct lab_bytes stream;

    lab_expect_state(&device, handle, VFIOMIG_STATE_RUNNING);
    stream = lab_save(handle, 0, 4096, VFIOMIG_ENDING_KEEP);
    OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&other, HELD);
    lab_expect_contents(&device, HELD);
    lab_free(&stream);
    vfiomig_device_free(handle);
    vfiomig_device_free(to);
    lab_remove(&device);
    lab_remove(&other);
}

static void allow_fds(int allow)
{
    static struct rlimit usual;
    struct rlimit none;

    if (!usual.rlim_cur)
        EXPECT(getrlimit(RLIMIT_NOFILE, &usual), 0);
    none = usual;
    none.rlim_cur = 0;
    EXPECT(setrlimit(RLIMIT_NOFILE, allow ? &usual : &none), 0);
}

static void expect_failure(const struct vfiomig_failure *failure, int code, int os_errno,
                           uint32_t before, uint32_t wanted, uint32_t outcome)
{
    /* A device that is being switched over does not run before the save is ended. */
    uint32_t after = before == VFIOMIG_STATE_RUNNING_P2P ? VFIOMIG_STATE_RUNNING_P2P
                                                         : VFIOMIG_STATE_RUNNING;

    EXPECT(failure->code, code);
    EXPECT(failure->operation, VFIOMIG_OP_SET_STATE);
    EXPECT(failure->ioctl_request, LAB_DEVICE_FEATURE);
    EXPECT(failure->os_errno, os_errno);
    EXPECT(failure->state_before, before);
    EXPECT(failure->state_wanted, wanted);
    EXPECT(failure->state_after, after);
    EXPECT(failure->outcome, outcome);
}

/* From PRE_COPY, where the kernel has gone, back to RUNNING. */
static void no_fd_for_pre_copy(void)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save *save = NULL;
    uint32_t fixups;

    set_up();
    allow_fds(0);
    CALL(vfiomig_save_begin(handle, NULL, &save), -EIO);
    allow_fds(1);
    CHECK(!save, "a save came anyway");
    OK(vfiomig_device_get_failure(handle, &failure));
    expect_failure(&failure, -EIO, EMFILE, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_PRE_COPY,
                   VFIOMIG_OUTCOME_RECOVERED);
    OK(vfiomig_device_get_fixups(handle, &fixups));
    EXPECT(fixups, 0);
    tear_down();
}

/* From STOP_COPY back to RUNNING_P2P, and to RUNNING at the save's end, without a reset: the guest goes
 * on as if nothing had happened. */
static void no_fd_for_stop_copy(void)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save = NULL;

    for (int quiesced = 0; quiesced < 2; quiesced++) {
        set_up();
        options.flags = VFIOMIG_SAVE_NO_PRE_COPY;
        OK(vfiomig_save_begin(handle, &options, &save));
        if (quiesced)
            OK(vfiomig_save_quiesce(save));
        allow_fds(0);
        CALL(vfiomig_save_stop(save), -EIO);
        allow_fds(1);
        OK(vfiomig_save_get_failure(save, &failure));
        expect_failure(&failure, -EIO, EMFILE, VFIOMIG_STATE_RUNNING_P2P, VFIOMIG_STATE_STOP_COPY,
                       VFIOMIG_OUTCOME_RECOVERED);
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        vfiomig_save_free(save);
        tear_down();
    }
}

/* A device in RESUMING can only be reset. */
static void no_fd_for_resuming(void)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load = NULL;
    uint32_t fixups;

    set_up();
    allow_fds(0);
    CALL(vfiomig_load_begin(handle, NULL, &load), -EIO);
    allow_fds(1);
    CHECK(!load, "a load came anyway");
    OK(vfiomig_device_get_failure(handle, &failure));
    expect_failure(&failure, -EIO, EMFILE, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_RESUMING,
                   VFIOMIG_OUTCOME_RESET);
    OK(vfiomig_device_get_fixups(handle, &fixups));
    EXPECT(fixups, VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS);
    tear_down();
}

/* A save that tries to start again and cannot is over; the device is kept. */
static void no_fd_for_a_restart(void)
{
    struct vfiomig_save *save = NULL;
    struct lab_bytes stream = { 0 };

    set_up();
    OK(vfiomig_save_begin(handle, NULL, &save));
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
    OK(lab_raw_reset(device.fd));
    allow_fds(0);
    CALL(lab_pump(save, &stream, 4096), -EIO);
    allow_fds(1);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    lab_free(&stream);
    tear_down();
}

/* The same on the target, when the source has started again. */
static void no_fd_for_a_restarted_source(void)
{
    struct lab_device source;
    struct vfiomig_device *from;
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save *save = NULL;
    struct vfiomig_load *load = NULL;
    struct lab_bytes stream = { 0 };
    int ret;

    set_up();
    from = lab_new(&source, 2, LAB_GROUP);
    OK(vfiomig_save_begin(from, NULL, &save));
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_load_begin(handle, NULL, &load));
    ret = vfiomig_load_push(load, stream.data, stream.len);
    CHECK(ret == VFIOMIG_PUSH_INITIAL_LOADED, "%d", ret);
    OK(vfiomig_device_reset(from));
    stream.len = 0;
    CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
    allow_fds(0);
    ret = vfiomig_load_push(load, stream.data, stream.len);
    allow_fds(1);
    CALL(ret, -EIO);
    OK(vfiomig_load_get_failure(load, &failure));
    EXPECT(failure.os_errno, EMFILE);
    EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
    vfiomig_load_free(load);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    lab_free(&stream);
    vfiomig_device_free(from);
    lab_remove(&source);
    tear_down();
}

/* --- injected allocation failures ------------------------------------------------------------ */

static int fail_nth = -1;

static void write_knob(const char *name, const char *value)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "/sys/kernel/debug/failslab/%s", name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value), "%s: %s", path,
          strerror(errno));
    close(fd);
}

static void need_faults(void)
{
    fail_nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
    if (fail_nth < 0) {
        CHECK(lab_kernel_is("debian-6.12"), "this kernel should inject faults");
        lab_skip("this kernel injects no faults");
    }
    /* No stack trace for each: that counts as a failure. Include allocations that may wait. */
    write_knob("verbose", "0");
    write_knob("ignore-gfp-wait", "N");
}

/* The n-th allocation that this thread causes in the kernel fails. */
static void arm(unsigned n)
{
    char text[16];
    int len = snprintf(text, sizeof(text), "%u", n);

    CHECK(pwrite(fail_nth, text, (size_t)len, 0) == len, "fail-nth: %s", strerror(errno));
}

/* Whether that happened. */
static int disarm(void)
{
    char text[16] = "";
    ssize_t n = pread(fail_nth, text, sizeof(text) - 1, 0);

    CHECK(n > 0, "fail-nth: %s", strerror(errno));
    arm(0);
    return atoi(text) == 0;
}

/* A call during which every allocation fails once; returns how many of them made it fail. */
struct attempt {
    void (*before)(void);
    int (*call)(void);
    void (*after)(int ret);
    uint32_t from, to;
    uint32_t outcome;
};

static struct vfiomig_save *save;
static struct vfiomig_load *load;

static void nothing(void)
{
}

static int begin_save(void)
{
    return vfiomig_save_begin(handle, NULL, &save);
}

static void begin_quiet(void)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;

    options.flags = VFIOMIG_SAVE_NO_PRE_COPY;
    OK(vfiomig_save_begin(handle, &options, &save));
    OK(vfiomig_save_quiesce(save));
}

static int stop_save(void)
{
    return vfiomig_save_stop(save);
}

static void end_save(int ret)
{
    (void)ret;
    if (save)
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    save = NULL;
}

static int begin_load(void)
{
    return vfiomig_load_begin(handle, NULL, &load);
}

static void end_load(int ret)
{
    (void)ret;
    vfiomig_load_free(load);
    load = NULL;
}

static void every_allocation_fails_once(void)
{
    const struct attempt *attempt = lab_arg();
    unsigned failures = 0, n;

    need_faults();
    set_up();
    /* Make this process's heap grow now, and not when it cannot. */
    for (int i = 0; i < 2; i++) {
        attempt->before();
        OK(attempt->call());
        attempt->after(0);
    }
    for (n = 1;; n++) {
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        int ret, injected;

        CHECK(n < 100, "there is no end of allocations");
        attempt->before();
        arm(n);
        ret = attempt->call();
        injected = disarm();
        if (ret < 0) {
            CHECK(injected, "failed without a fault: %s", vfiomig_error_message());
            OK(vfiomig_device_get_failure(handle, &failure));
            /* If there is no memory for a file, the kernel says that the file table is full. */
            CHECK(failure.os_errno == ENOMEM || failure.os_errno == ENFILE, "errno %d",
                  failure.os_errno);
            printf("allocation %u: %s\n", n, vfiomig_error_message());
            expect_failure(&failure, failure.os_errno == ENOMEM ? -ENOMEM : -EIO, failure.os_errno,
                           attempt->from, attempt->to, attempt->outcome);
            failures++;
        }
        attempt->after(ret);
        lab_expect_state(&device, handle, VFIOMIG_STATE_RUNNING);
        if (!injected)
            break;
    }
    CHECK(failures >= 2, "of %u allocations only %u failed the call", n - 1, failures);
    tear_down();
}

int main(void)
{
    /* Straight to PRE_COPY there is no state in between: the device has not moved. */
    static const struct attempt pre_copy = {
        nothing,
        begin_save,
        end_save,
        VFIOMIG_STATE_RUNNING,
        VFIOMIG_STATE_PRE_COPY,
        VFIOMIG_OUTCOME_KEPT,
    };
    /* To these two it has gone through STOP, and stays there. */
    static const struct attempt stop_copy = {
        begin_quiet,
        stop_save,
        end_save,
        VFIOMIG_STATE_RUNNING_P2P,
        VFIOMIG_STATE_STOP_COPY,
        VFIOMIG_OUTCOME_RECOVERED,
    };
    static const struct attempt resuming = {
        nothing,
        begin_load,
        end_load,
        VFIOMIG_STATE_RUNNING,
        VFIOMIG_STATE_RESUMING,
        VFIOMIG_OUTCOME_RESET,
    };

    if (lab_boot() != 1)
        return 77;
    lab_run("recover-no-fd-pre-copy", no_fd_for_pre_copy);
    lab_run("recover-no-fd-stop-copy", no_fd_for_stop_copy);
    lab_run("recover-no-fd-resuming", no_fd_for_resuming);
    lab_run("recover-no-fd-restart", no_fd_for_a_restart);
    lab_run("recover-no-fd-restarted-source", no_fd_for_a_restarted_source);
    lab_run_arg(every_allocation_fails_once, &pre_copy, "recover-no-memory-pre-copy");
    lab_run_arg(every_allocation_fails_once, &stop_copy, "recover-no-memory-stop-copy");
    lab_run_arg(every_allocation_fails_once, &resuming, "recover-no-memory-resuming");
    return lab_status();
}
