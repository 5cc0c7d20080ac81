/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of the calls that need no device: version, errors, messages, states. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples.h"

/* EXAMPLE vfiomig_version vfiomig_version_string */
/* An older library lacks what is new in the header. */
static void check_version(void)
{
    if (vfiomig_version() < VFIOMIG_VERSION)
        fprintf(stderr, "built with libvfiomig %d.%d.%d, not %s\n",
                VFIOMIG_VERSION_MAJOR, VFIOMIG_VERSION_MINOR,
                VFIOMIG_VERSION_PATCH, vfiomig_version_string());
}
/* END */

/* EXAMPLE vfiomig_error_message */
/* The VMM's errors have a text of their own: take the library's
   before the next call, and on the thread that made the call. */
static int failed(int r, char *text, size_t size)
{
    snprintf(text, size, "VFIO migration: %s",
             vfiomig_error_message());
    return r;
}

static int stop_device(struct vfiomig_device *dev, char *text,
                       size_t size)
{
    int r = vfiomig_device_set_state(dev, VFIOMIG_STATE_STOP);

    return r < 0 ? failed(r, text, size) : 0;
}
/* END */

/* EXAMPLE vfiomig_error_describe */
struct job {
    struct vfiomig_device *dev;
    int result;
};

static void *run_device(void *opaque)
{
    struct job *job = opaque;

    job->result = vfiomig_device_run(job->dev);
    return NULL;
}

/* The text of the error stayed with the thread that has ended. */
static const char *outcome(const struct job *job)
{
    return job->result < 0 ? vfiomig_error_describe(job->result)
                           : "the device runs";
}
/* END */

/* EXAMPLE vfiomig_log_set */
/* Several threads may call it at once; stdio locks the file. */
static void log_line(void *file, uint32_t level, const char *target,
                     const char *message)
{
    static const char *const names[] = {
        "", "error", "warning", "info", "debug", "trace"
    };

    fprintf(file, "%s: %s: %s\n", level < 6 ? names[level] : "?",
            target, message);
}

static void log_closed(void *file)
{
    fclose(file);
}

/* The library closes the file, also if it does not take it. */
static int start_log(FILE *file)
{
    return vfiomig_log_set(log_line, file, log_closed,
                           VFIOMIG_LOG_INFO);
}
/* END */

/* EXAMPLE vfiomig_log_init_env */
/* Early in main(): VFIOMIG_LOG=debug ./program */
static int log_as_the_user_says(void)
{
    int r = vfiomig_log_init_env();

    if (r == -EOPNOTSUPP)     /* this build of the library cannot */
        r = 0;
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_fsm_path vfiomig_state_name */
/* Writes the states on a device's way, for example
   "RUNNING RUNNING_P2P STOP STOP_COPY". migration_flags are those
   of struct vfiomig_caps. */
static int write_path(FILE *out, uint64_t migration_flags,
                      uint32_t from, uint32_t to)
{
    struct vfiomig_path path = VFIOMIG_PATH_INIT;
    int r = vfiomig_fsm_path(migration_flags, from, to, &path);

    if (r < 0)                /* -EINVAL: there is no way */
        return r;
    fputs(vfiomig_state_name(from), out);
    for (uint32_t i = 0; i < path.num_steps; i++)
        fprintf(out, " %s", vfiomig_state_name(path.steps[i]));
    return fputs("\n", out) < 0 ? -EIO : 0;
}
/* END */

/* EXAMPLE vfiomig_process_set_allowed */
/* A command of the VMM's. Threads that save or load what is no
   longer allowed get -EPERM, and end as after any error. */
static int allow_migration(int out, int in)
{
    uint32_t directions = 0;

    if (out)
        directions |= VFIOMIG_ALLOW_SAVE;
    if (in)
        directions |= VFIOMIG_ALLOW_LOAD;
    return vfiomig_process_set_allowed(directions);
}
/* END */

/* EXAMPLE vfiomig_policy_add_file */
/* Before the VMM locks itself in: from there, the host's policy can
   only be seen through the directory. */
static int keep_seeing_policy(const char *directory)
{
    int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int r;

    if (fd < 0)               /* there is no policy on this host */
        return errno == ENOENT ? 0 : -errno;
    r = vfiomig_policy_add_file(fd, "policy.conf",
                                VFIOMIG_POLICY_OPTIONAL);
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    close(fd);                /* the library has a duplicate */
    return r;
}
/* END */

static void the_library_is_as_new_as_its_header(void)
{
    check_version();
    EQ(vfiomig_version(), VFIOMIG_VERSION);
}

static void an_error_has_a_text(void)
{
    struct rig rig = rig_new(NULL, NULL);
    char text[200] = "";
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(stop_device(rig.dev, text, sizeof text), -EIO);
    HAS(text, "VFIO migration: vfiomig_device_set_state: ");
    OK(stop_device(rig.dev, text, sizeof text));
    rig_free(&rig);
}

static void a_code_has_one_on_every_thread(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct job job = { rig.dev, 0 };
    for (int fails = 0; fails < 2; fails++) {
        pthread_t thread;
        OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
        if (fails)
            EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
        EQ(pthread_create(&thread, NULL, run_device, &job), 0);
        pthread_join(thread, NULL);
        EQ(job.result, fails ? -EIO : 0);
        HAS(outcome(&job), fails ? "failed" : "runs");
    }
    rig_free(&rig);
}

static void messages_go_to_a_file(void)
{
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);
    CHECK(file);
    OK(start_log(file));
    struct rig rig = rig_new(NULL, NULL);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR), 0);
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
    OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF)); /* which closes the file */
    HAS(text, ": vfiomig");
    free(text);
    rig_free(&rig);
}

static void or_to_standard_error(void)
{
    OK(log_as_the_user_says());
}

static void a_path_has_names(void)
{
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);
    CHECK(file);
    OK(write_path(file, 7, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP_COPY));
    EQ(write_path(file, 7, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_ERROR), -EINVAL);
    fclose(file);
    EQ(strcmp(text, "RUNNING RUNNING_P2P STOP STOP_COPY\n"), 0);
    free(text);
}

static void migration_is_switched_off_and_on(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    OK(allow_migration(0, 1));
    EQ(vfiomig_save_begin(rig.dev, NULL, &save), -EPERM);
    HAS(vfiomig_error_message(), "vfiomig_process_set_allowed()");
    OK(allow_migration(1, 1));
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    vfiomig_save_free(save);
    rig_free(&rig);
}

static void a_policy_is_seen_through_its_directory(void)
{
    char directory[] = "/tmp/vfiomig-example-XXXXXX", path[64];
    struct vfiomig_save *save;
    CHECK(mkdtemp(directory));
    OK(keep_seeing_policy("/nowhere"));
    OK(keep_seeing_policy(directory));
    snprintf(path, sizeof path, "%s/policy.conf", directory);
    umask(022);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs("deny direction=save\n", file) >= 0 && fclose(file) == 0);
    struct rig rig = rig_new(NULL, NULL);
    EQ(vfiomig_save_begin(rig.dev, NULL, &save), -EPERM);
    HAS(vfiomig_error_message(), "policy.conf, line 1");
    rig_free(&rig);
    unlink(path);
    rmdir(directory);
}

int main(void)
{
    RUN(the_library_is_as_new_as_its_header);
    RUN(an_error_has_a_text);
    RUN(a_code_has_one_on_every_thread);
    RUN(messages_go_to_a_file);
    RUN(or_to_standard_error);
    RUN(a_path_has_names);
    RUN(migration_is_switched_off_and_on);
    RUN(a_policy_is_seen_through_its_directory); /* for the whole process: last */
    return DONE();
}
