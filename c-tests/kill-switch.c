/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Migration is switched off for the whole process, by the environment, by a call on any thread and
 * by a policy file: what has not begun does not begin, what has is cut off in every phase and leaves
 * the device where it is known to be, and what is complete stays complete.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "packets.h"
#include "slow.h"

enum { BOTH = VFIOMIG_ALLOW_SAVE | VFIOMIG_ALLOW_LOAD };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* The first reason, or 0 if none is better than the simulator's own. */
static uint32_t reason_of(struct vfiomig_device *dev, const char *label)
{
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    OK(vfiomig_device_get_reason(dev, 0, &reason));
    if (reason.code == VFIOMIG_REASON_NO_PRECOPY_INFO_V2)
        return 0;
    HAS(reason.label, label);
    return reason.code;
}

/* --- the process's environment ---------------------------------------------------------------- */

/* In a process of its own: what a device says, in 8 bits. */
static int in_environment(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct vfiomig_sim *sim;
    struct vfiomig_device *dev;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    int said = 0;
    if (vfiomig_sim_new(&o, &sim) || vfiomig_device_new_ops(vfiomig_sim_ops(sim), sim, NULL, &dev))
        return 255;
    if (vfiomig_device_get_reason(dev, 0, &reason))
        return 255;
    if (reason.code != VFIOMIG_REASON_NO_PRECOPY_INFO_V2)
        said = (int)reason.code << 2;
    /* A call cannot switch on what the environment switches off. */
    if (vfiomig_process_set_allowed(BOTH))
        return 255;
    int r = vfiomig_save_begin(dev, NULL, &save);
    if (r == 0)
        vfiomig_save_free(save);
    else if (r != -EPERM)
        return 255;
    said |= r == 0 ? VFIOMIG_ALLOW_SAVE : 0;
    r = vfiomig_load_begin(dev, NULL, &load);
    if (r == 0)
        vfiomig_load_free(load);
    else if (r != -EPERM)
        return 255;
    return said | (r == 0 ? VFIOMIG_ALLOW_LOAD : 0);
}

/* As it was called: under valgrind, /proc/self/exe is valgrind. */
static const char *program;

static int with_environment(const char *name, const char *value)
{
    pid_t pid = fork();
    if (pid == 0) {
        unsetenv("VFIOMIG_DISABLE");
        unsetenv("VFIOMIG_POLICY");
        if (value)
            setenv(name, value, 1);
        /* The kernel may not know how to start a program for another machine. */
        if (getenv("EMULATOR") && *getenv("EMULATOR"))
            execl("/bin/sh", "sh", "-c", "exec $EMULATOR \"$0\" environment", program, (char *)NULL);
        execl(program, program, "environment", (char *)NULL);
        _exit(254);
    }
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void by_the_environment(void)
{
    static const struct {
        const char *value;
        int code, allowed;
    } table[] = {
        { NULL, 0, BOTH },
        { "", 0, BOTH },
        { "0", 0, BOTH },
        { "1", VFIOMIG_REASON_DISABLED_BY_ENVIRONMENT, 0 },
        { "all", VFIOMIG_REASON_DISABLED_BY_ENVIRONMENT, 0 },
        { "save,load", VFIOMIG_REASON_DISABLED_BY_ENVIRONMENT, 0 },
        { "save", VFIOMIG_REASON_SAVE_DISABLED, VFIOMIG_ALLOW_LOAD },
        { "load", VFIOMIG_REASON_LOAD_DISABLED, VFIOMIG_ALLOW_SAVE },
        /* Whoever writes this means something; what, nobody can tell. */
        { "no", VFIOMIG_REASON_DISABLED_BY_ENVIRONMENT, 0 },
        { "saves", VFIOMIG_REASON_DISABLED_BY_ENVIRONMENT, 0 },
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int said = with_environment("VFIOMIG_DISABLE", table[i].value);
        if (said != (table[i].code << 2 | table[i].allowed))
            FAIL("VFIOMIG_DISABLE=%s: %#x", table[i].value ? table[i].value : "(unset)", said);
    }
}

/* --- a call ----------------------------------------------------------------------------------- */

static void by_a_call(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    EQ(reason_of(rig.dev, ""), 0);
    OK(vfiomig_process_set_allowed(0));
    EQ(vfiomig_save_begin(rig.dev, NULL, &save), -EPERM);
    HAS(vfiomig_error_message(), "migration is switched off in this process");
    EQ(vfiomig_load_begin(rig.dev, NULL, &load), -EPERM);
    EQ(reason_of(rig.dev, "disabled-by-process"), VFIOMIG_REASON_DISABLED_BY_PROCESS);
    OK(vfiomig_process_set_allowed(VFIOMIG_ALLOW_SAVE));
    EQ(vfiomig_load_begin(rig.dev, NULL, &load), -EPERM);
    HAS(vfiomig_error_message(), "loading is switched off in this process");
    EQ(reason_of(rig.dev, "load-disabled"), VFIOMIG_REASON_LOAD_DISABLED);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    vfiomig_save_free(save);
    OK(vfiomig_process_set_allowed(VFIOMIG_ALLOW_LOAD));
    EQ(vfiomig_save_begin(rig.dev, NULL, &save), -EPERM);
    HAS(vfiomig_error_message(), "saving is switched off in this process");
    EQ(reason_of(rig.dev, "save-disabled"), VFIOMIG_REASON_SAVE_DISABLED);
    /* The device has not been touched. */
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    OK(vfiomig_process_set_allowed(BOTH));
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(reason_of(rig.dev, ""), 0);
    vfiomig_save_free(save);
    rig_free(&rig);
}

/* How a test switches saving or loading off, and on again. */
static void (*switch_off)(uint32_t direction);
static void (*switch_on)(void);
static const char *by_whom;

static void call_off(uint32_t direction)
{
    OK(vfiomig_process_set_allowed(BOTH & ~direction));
}

static void call_off_and_on(uint32_t direction)
{
    OK(vfiomig_process_set_allowed(BOTH & ~direction));
    OK(vfiomig_process_set_allowed(BOTH));
}

static void call_on(void)
{
    OK(vfiomig_process_set_allowed(BOTH));
}

/* --- sessions are cut off --------------------------------------------------------------------- */

enum phase { BEGUN, PRE_COPY, QUIESCED, STOPPED, STOP_COPY, PHASES };

static struct vfiomig_save *save_in(struct rig *rig, enum phase phase, struct bytes *stream)
{
    struct vfiomig_save *save;
    uint8_t buf[VFIOMIG_MIN_BUFFER];
    size_t len;
    OK(vfiomig_save_begin(rig->dev, NULL, &save));
    if (phase >= PRE_COPY)
        EQ(vfiomig_save_next(save, buf, sizeof buf, &len), VFIOMIG_NEXT_MORE);
    if (phase >= QUIESCED)
        OK(vfiomig_save_quiesce(save));
    if (phase >= STOPPED)
        OK(vfiomig_save_stop(save));
    if (phase >= STOP_COPY)
        EQ(vfiomig_save_next(save, buf, sizeof buf, &len), VFIOMIG_NEXT_MORE);
    bytes_add(stream, buf, 0);
    return save;
}

/* Every call that moves the save on says who cut it off, until it is kept. */
static void refuses_everything(struct vfiomig_save *save)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    uint8_t buf[VFIOMIG_MIN_BUFFER];
    size_t len;
    EQ(vfiomig_save_next(save, buf, sizeof buf, &len), -EPERM);
    HAS(vfiomig_error_message(), "the save was cut off");
    HAS(vfiomig_error_message(), by_whom);
    HAS(vfiomig_error_message(), "finish by keeping the device");
    EQ(vfiomig_save_next(save, buf, sizeof buf, &len), -EPERM);
    EQ(vfiomig_save_stop(save), -EPERM);
    EQ(vfiomig_save_quiesce(save), -EPERM);
    EQ(vfiomig_save_add_blob(save, 1, "x", 1), -EPERM);
    EQ(vfiomig_save_get_pending(save, &pending), -EPERM);
    EQ(vfiomig_save_get_poll_fd(save), -EPERM);
    EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE), -EPERM);
    HAS(vfiomig_error_message(), by_whom);
}

static void a_save_in_each_phase(void)
{
    int fds = open_fds();
    for (int phase = BEGUN; phase < PHASES; phase++) {
        for (int ending = 0; ending < 2; ending++) {
            struct rig rig = rig_new(NULL, NULL);
            struct bytes stream = { NULL, 0, 0 };
            uint64_t digest = vfiomig_sim_digest(rig.sim);
            struct vfiomig_save *save = save_in(&rig, phase, &stream);
            switch_off(VFIOMIG_ALLOW_SAVE);
            refuses_everything(save);
            /* The guest goes on. */
            if (ending == 0)
                OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
            vfiomig_save_free(save);
            EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
            CHECK(vfiomig_sim_digest(rig.sim) == digest);
            /* And may leave later. */
            switch_on();
            struct bytes whole = stream_of(rig.dev);
            CHECK(whole.len > SOME_SIZE);
            bytes_free(&whole);
            bytes_free(&stream);
            rig_free(&rig);
        }
    }
    EQ(open_fds(), fds);
}

/* In the switchover the VM's other devices may stand still: this one waits as after any error. */
static void a_switchover_keeps_its_order(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save = save_in(&rig, QUIESCED, &stream);
    switch_off(VFIOMIG_ALLOW_SAVE);
    EQ(vfiomig_save_stop(save), -EPERM);
    CHECK(vfiomig_sim_state(rig.sim) != VFIOMIG_STATE_RUNNING);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP_QUIESCED));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING_P2P);
    OK(vfiomig_device_run(rig.dev)); /* which is nobody's business but the guest's */
    vfiomig_save_free(save);
    switch_on();
    rig_free(&rig);
}

/* The target may have committed: whoever is released now would otherwise be lost, or run twice. */
static void a_complete_save_is_not(void)
{
    for (int ending = 0; ending < 2; ending++) {
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_load *load;
        struct vfiomig_save *save = save_all(from.dev, NULL, 1 << 16, &stream);
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
        OK(vfiomig_load_commit(load));
        switch_off(VFIOMIG_ALLOW_SAVE);
        switch_off(BOTH);
        if (ending == 0) {
            OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
            EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_STOP);
        } else {
            OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
            EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_RUNNING);
        }
        /* Nor is a load that was committed. */
        OK(vfiomig_device_run(to.dev));
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
        vfiomig_load_free(load);
        vfiomig_save_free(save);
        switch_on();
        rig_free(&from);
        rig_free(&to);
        bytes_free(&stream);
    }
}

/* Before anything has come, in the middle, and when all that is left is the commit. */
static void a_load_before_its_commit(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct bytes stream = stream_of(from.dev);
    int fds = open_fds();
    for (int part = 0; part < 3; part++) {
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct rig to = rig_target(NULL);
        struct vfiomig_load *load;
        void *space;
        size_t room, half = stream.len * (size_t)part / 2;
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        CHECK(vfiomig_load_push(load, stream.data, half) >= 0);
        switch_off(VFIOMIG_ALLOW_LOAD);
        EQ(part < 2 ? vfiomig_load_push(load, stream.data + half, stream.len - half)
                    : vfiomig_load_commit(load), -EPERM);
        HAS(vfiomig_error_message(), "the load was cut off");
        HAS(vfiomig_error_message(), by_whom);
        HAS(vfiomig_error_message(), "reset");
        /* The device was reset, and belongs to nobody. */
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        OK(vfiomig_load_get_failure(load, &failure));
        EQ(failure.code, -EPERM);
        EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
        EQ(failure.state_after, VFIOMIG_STATE_RUNNING);
        EQ(vfiomig_load_commit(load), -EPERM);
        EQ(vfiomig_load_push(load, stream.data, 1), -EPERM);
        EQ(vfiomig_load_get_space(load, &space, &room), -EPERM);
        vfiomig_load_free(load);
        switch_on();
        /* And takes another stream. */
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        CHECK(push_all(load, &stream, 5000) & VFIOMIG_PUSH_END);
        OK(vfiomig_load_commit(load));
        vfiomig_load_free(load);
        rig_free(&to);
    }
    EQ(open_fds(), fds);
    rig_free(&from);
    bytes_free(&stream);
}

static int take_config(void *opaque, uint32_t kind, const void *data, size_t len)
{
    (void)opaque, (void)kind, (void)data, (void)len;
    return 0;
}

static void *write_packets(void *load)
{
    return (void *)(intptr_t)vfiomig_load_write_packets(load);
}

/* A thread waits for packets that do not come, and nobody else calls. */
static void a_load_that_waits_for_packets(void)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct rig to = rig_target(NULL);
    struct vfiomig_load *load;
    pthread_t thread;
    void *result;
    /* QEMU's section of save_setup. */
    static const uint8_t setup[] = { 0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 3,
                                     0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 1 };
    options.format = VFIOMIG_FORMAT_QEMU;
    options.flags = VFIOMIG_LOAD_PACKETS;
    options.blob = take_config;
    OK(vfiomig_load_begin(to.dev, &options, &load));
    EQ(vfiomig_load_push(load, setup, sizeof setup), VFIOMIG_PUSH_SECTION_END);
    EQ(pthread_create(&thread, NULL, write_packets, load), 0);
    nap(20);
    double begun = now();
    switch_off(VFIOMIG_ALLOW_LOAD);
    pthread_join(thread, &result);
    CHECK(now() - begun < 5);
    EQ((intptr_t)result, -EPERM);
    EQ(vfiomig_load_commit(load), -EPERM);
    HAS(vfiomig_error_message(), by_whom);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_load_free(load);
    switch_on();
    rig_free(&to);
}

static void every_session(void)
{
    a_save_in_each_phase();
    a_switchover_keeps_its_order();
    a_complete_save_is_not();
    a_load_before_its_commit();
    a_load_that_waits_for_packets();
}

static void a_call_cuts_off_every_session(void)
{
    switch_off = call_off;
    switch_on = call_on;
    by_whom = "vfiomig_process_set_allowed()";
    every_session();
}

/* As soon as it is off, what has begun is over, even if it is on again. */
static void a_moment_is_enough(void)
{
    switch_off = call_off_and_on;
    switch_on = call_on;
    by_whom = "vfiomig_process_set_allowed()";
    every_session();
}

/* --- on other threads ------------------------------------------------------------------------- */

static void *off_after_a_while(void *save)
{
    until_saving(save);
    return (void *)(intptr_t)vfiomig_process_set_allowed(VFIOMIG_ALLOW_LOAD);
}

static void a_call_in_progress_ends(void)
{
    struct vfiomig_sim_options o = slow_to_read();
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    pthread_t thread;
    void *result;
    struct rig rig = rig_new(&o, NULL);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(pthread_create(&thread, NULL, off_after_a_while, save), 0);
    EQ(read_until(save, &stream, 65536, VFIOMIG_NEXT_DRAINED), -EPERM);
    CHECK(stream.len < o.state_size / 2);
    pthread_join(thread, &result);
    EQ((intptr_t)result, 0);
    OK(vfiomig_process_set_allowed(BOTH));
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

static void *off_when_it_loads(void *load)
{
    until_loading(load);
    return (void *)(intptr_t)vfiomig_process_set_allowed(VFIOMIG_ALLOW_SAVE);
}

static void a_write_in_progress_ends(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.state_size = 4 << 20;
    struct rig from = rig_new(&o, NULL);
    o = slow_to_write(o);
    struct rig to = rig_target(&o);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    pthread_t thread;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(pthread_create(&thread, NULL, off_when_it_loads, load), 0);
    EQ(push_all(load, &stream, SIZE_MAX), -EPERM);
    HAS(vfiomig_error_message(), "the load was cut off: the VMM switched loading off");
    pthread_join(thread, NULL);
    OK(vfiomig_process_set_allowed(BOTH));
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

enum { WORKERS = 6, TURNS = 400 };

struct worker {
    struct vfiomig_sim *sim;
    struct vfiomig_device *dev;
    unsigned complete, cut_off, refused, odd;
};

static atomic_int turning;

static void *save_all_the_time(void *opaque)
{
    struct worker *worker = opaque;
    uint8_t buf[VFIOMIG_MIN_BUFFER * 4];
    while (atomic_load(&turning)) {
        struct vfiomig_save *save;
        size_t len;
        int r = vfiomig_save_begin(worker->dev, NULL, &save);
        if (r < 0) {
            worker->refused += r == -EPERM;
            worker->odd += r != -EPERM;
            continue;
        }
        while ((r = vfiomig_save_next(save, buf, sizeof buf, &len)) >= 0 && r != VFIOMIG_NEXT_END)
            if (r == VFIOMIG_NEXT_DRAINED && (r = vfiomig_save_stop(save)) < 0)
                break;
        worker->complete += r == VFIOMIG_NEXT_END;
        worker->cut_off += r == -EPERM;
        worker->odd += r != VFIOMIG_NEXT_END && r != -EPERM;
        if (vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP) ||
            vfiomig_sim_state(worker->sim) != VFIOMIG_STATE_RUNNING)
            worker->odd++;
        vfiomig_save_free(save);
    }
    return NULL;
}

static void by_one_thread_while_others_save(void)
{
    struct rig rigs[WORKERS];
    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];
    struct vfiomig_sim_options o = rig_options();
    o.state_size = 20000;
    unsigned complete = 0, cut_off = 0, refused = 0;
    atomic_store(&turning, 1);
    for (int i = 0; i < WORKERS; i++) {
        rigs[i] = rig_new(&o, NULL);
        workers[i] = (struct worker){ .sim = rigs[i].sim, .dev = rigs[i].dev };
        EQ(pthread_create(&threads[i], NULL, save_all_the_time, &workers[i]), 0);
    }
    for (int i = 0; i < TURNS; i++) {
        OK(vfiomig_process_set_allowed(i % 2 ? BOTH : VFIOMIG_ALLOW_LOAD));
        nanosleep(&(struct timespec){ .tv_nsec = i % 2 ? 400000 : 100000 }, NULL);
    }
    OK(vfiomig_process_set_allowed(BOTH));
    nap(20);
    atomic_store(&turning, 0);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
        complete += workers[i].complete;
        cut_off += workers[i].cut_off;
        refused += workers[i].refused;
        EQ(workers[i].odd, 0);
        rig_free(&rigs[i]);
    }
    printf("%u complete, %u cut off, %u refused\n", complete, cut_off, refused);
    CHECK(complete > 0 && cut_off > 0 && refused > 0);
}

/* --- a policy file ---------------------------------------------------------------------------- */

static char directory[] = "/tmp/vfiomig-kill-switch-XXXXXX", policy[64];

/* As an administrator would: the file is replaced as a whole. */
static void write_policy(const char *text)
{
    char new[80];
    snprintf(new, sizeof new, "%s.new", policy);
    FILE *file = fopen(new, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
    EQ(chmod(new, 0644), 0);
    EQ(rename(new, policy), 0);
}

/* Sessions look again on their calls, at most every 100 ms. */
static void policy_off(uint32_t direction)
{
    write_policy(direction == BOTH                 ? "# all\ndeny\n"
                 : direction == VFIOMIG_ALLOW_SAVE ? "#\ndeny direction=save\n"
                                                   : "#\ndeny direction=load\n");
    nap(110);
}

static void policy_spoilt(uint32_t direction)
{
    (void)direction;
    write_policy("deny nothing\n");
    nap(110);
}

static void policy_on(void)
{
    write_policy("default allow\n");
    nap(110);
}

static void only_a_file_that_can_be_used_is_taken(void)
{
    struct rig rig = rig_new(NULL, NULL);
    EQ(vfiomig_policy_add_file(AT_FDCWD, NULL, 0), -EFAULT);
    EQ(vfiomig_policy_add_file(AT_FDCWD, "policy.conf", 0), -EINVAL);
    HAS(vfiomig_error_message(), "absolute");
    EQ(vfiomig_policy_add_file(AT_FDCWD, policy, 0), -EINVAL);
    HAS(vfiomig_error_message(), "policy.conf: it does not exist");
    write_policy("deny\n\ndeny mdev=x\n");
    EQ(vfiomig_policy_add_file(AT_FDCWD, policy, 0), -EINVAL);
    HAS(vfiomig_error_message(), "policy.conf: line 3: the conditions are");
    EQ(vfiomig_policy_add_file(AT_FDCWD, policy, VFIOMIG_POLICY_OPTIONAL), -EINVAL);
    write_policy("deny\n");
    EQ(chmod(policy, 0666), 0);
    EQ(vfiomig_policy_add_file(AT_FDCWD, policy, 0), -EINVAL);
    HAS(vfiomig_error_message(), "others may write to it (mode 0666)");
    /* Nothing of all that has had an effect. */
    struct bytes stream = stream_of(rig.dev);
    bytes_free(&stream);
    rig_free(&rig);
}

static void a_file_is_kept_to(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    write_policy("# none of these\ndeny driver=nothing-*\n\ndeny driver=vfiomig-sim direction=load\n");
    OK(vfiomig_policy_add_file(fd, "policy.conf", 0));
    close(fd);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    vfiomig_save_free(save);
    EQ(vfiomig_load_begin(rig.dev, NULL, &load), -EPERM);
    HAS(vfiomig_error_message(), "policy.conf, line ");
    EQ(reason_of(rig.dev, "load-disabled"), VFIOMIG_REASON_LOAD_DISABLED);
    write_policy("deny\n");
    /* At once, where a session begins. */
    EQ(vfiomig_save_begin(rig.dev, NULL, &save), -EPERM);
    HAS(vfiomig_error_message(), "policy.conf, line 1");
    EQ(reason_of(rig.dev, "disabled-by-policy"), VFIOMIG_REASON_DISABLED_BY_POLICY);
    struct rig another = rig_new(NULL, NULL);
    EQ(reason_of(another.dev, "disabled-by-policy"), VFIOMIG_REASON_DISABLED_BY_POLICY);
    rig_free(&another);
    /* What was seen holds, even if it is hidden. */
    EQ(rename(policy, "/tmp/vfiomig-kill-switch-away"), 0);
    EQ(vfiomig_save_begin(rig.dev, NULL, &save), -EPERM);
    EQ(unlink("/tmp/vfiomig-kill-switch-away"), 0);
    write_policy("default allow\n");
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    vfiomig_save_free(save);
    rig_free(&rig);
}

static void a_file_cuts_off_every_session(void)
{
    switch_off = policy_off;
    switch_on = policy_on;
    by_whom = "policy.conf, line 2";
    every_session();
}

static void and_so_does_a_file_that_is_spoilt(void)
{
    switch_off = policy_spoilt;
    switch_on = policy_on;
    by_whom = "policy.conf: line 1: a condition is written";
    every_session();
}

/* Nobody has to change anything to go on, and nobody pays for looking. */
static void a_file_that_changes_nothing_cuts_off_nothing(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save = save_in(&rig, PRE_COPY, &stream);
    write_policy("deny driver=nothing device=x pci=0001:0001\n");
    nap(110);
    EQ(read_until(save, &stream, 1 << 16, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    policy_on();
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 1 << 16, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    bytes_free(&stream);
    rig_free(&rig);
}

/* A VMM that is out of descriptors cannot look, which says nothing of the file. */
static void without_descriptors_what_was_said_goes_on(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct rlimit all, none;
    policy_on();
    struct vfiomig_save *save = save_in(&rig, PRE_COPY, &stream);
    EQ(getrlimit(RLIMIT_NOFILE, &all), 0);
    none = all;
    none.rlim_cur = 0;
    EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    nap(110);
    int r = read_until(save, &stream, 1 << 16, VFIOMIG_NEXT_DRAINED);
    EQ(setrlimit(RLIMIT_NOFILE, &all), 0);
    EQ(r, VFIOMIG_NEXT_DRAINED);
    /* A change is seen as soon as it can be. */
    policy_off(BOTH);
    EQ(read_until(save, &stream, 1 << 16, VFIOMIG_NEXT_DRAINED), -EPERM);
    policy_on();
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    bytes_free(&stream);
    rig_free(&rig);
}

/* 0 if a save may begin. */
static int child_saves(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(in_environment() & VFIOMIG_ALLOW_SAVE ? 0 : 1);
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_child_keeps_to_it_as_well(void)
{
    EQ(child_saves(), 0);
    write_policy("deny\n");
    EQ(child_saves(), 1);
    policy_on();
    EQ(child_saves(), 0);
}

static void a_file_is_named_in_the_environment(void)
{
    EQ(with_environment("VFIOMIG_POLICY", policy), BOTH);
    write_policy("deny direction=load\n");
    EQ(with_environment("VFIOMIG_POLICY", policy),
       VFIOMIG_REASON_LOAD_DISABLED << 2 | VFIOMIG_ALLOW_SAVE);
    EQ(with_environment("VFIOMIG_POLICY", "/nowhere/policy.conf"),
       VFIOMIG_REASON_DISABLED_BY_POLICY << 2);
    EQ(with_environment("VFIOMIG_POLICY", "policy.conf"), VFIOMIG_REASON_DISABLED_BY_POLICY << 2);
    policy_on();
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "environment") == 0)
        return in_environment();
    program = argv[0];
    umask(022);
    if (!mkdtemp(directory) || chmod(directory, 0755))
        return 1;
    snprintf(policy, sizeof policy, "%s/policy.conf", directory);
    RUN(by_the_environment);
    RUN(by_a_call);
    RUN(a_call_cuts_off_every_session);
    RUN(a_moment_is_enough);
    RUN(a_call_in_progress_ends);
    RUN(a_write_in_progress_ends);
    RUN(by_one_thread_while_others_save);
    RUN(only_a_file_that_can_be_used_is_taken);
    RUN(a_file_is_kept_to);
    RUN(a_file_cuts_off_every_session);
    RUN(and_so_does_a_file_that_is_spoilt);
    RUN(a_file_that_changes_nothing_cuts_off_nothing);
    RUN(without_descriptors_what_was_said_goes_on);
    RUN(a_child_keeps_to_it_as_well);
    RUN(a_file_is_named_in_the_environment);
    unlink(policy);
    rmdir(directory);
    return DONE();
}
