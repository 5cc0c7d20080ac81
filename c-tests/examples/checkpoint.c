/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Checkpoints: a VM's devices in a file, and back; and streams through descriptors. */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/socket.h>
#include <unistd.h>

#include "examples.h"

static int vcpus_run = 1;

static void stop_vcpus(void)
{
    vcpus_run = 0;
}

static void start_vcpus(void)
{
    vcpus_run = 1;
}

static void protect_memory(void)
{
    CHECK(!vcpus_run);
}

static void write_fixups(struct vfiomig_device *dev)
{
    (void)dev;
}

/* EXAMPLE vfiomig_checkpoint_begin vfiomig_checkpoint_add */
/* What the devices say while they are stopped goes to memory. */
static int begin_checkpoint(const char *path,
                            struct vfiomig_device *nic,
                            struct vfiomig_device *gpu,
                            struct vfiomig_checkpoint **cp)
{
    struct vfiomig_checkpoint_options options =
        VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct vfiomig_save_options save = VFIOMIG_SAVE_OPTIONS_INIT;
    int r;

    options.spool_bytes = UINT64_C(4) << 30;
    options.note = "memory-17.img";
    options.note_len = 13;
    r = vfiomig_checkpoint_begin(AT_FDCWD, path, &options, cp);
    if (r < 0)
        return r;
    r = vfiomig_checkpoint_add(*cp, nic, "nic", &save);
    save.device_index = 1;
    if (r == 0)
        r = vfiomig_checkpoint_add(*cp, gpu, "gpu", &save);
    if (r < 0)
        vfiomig_checkpoint_free(*cp);
    return r;
}
/* END */

/* EXAMPLE vfiomig_checkpoint_read vfiomig_checkpoint_stop vfiomig_checkpoint_resume vfiomig_checkpoint_commit vfiomig_checkpoint_free */
/* The guest goes on, whatever becomes of the file. */
static int finish_checkpoint(struct vfiomig_checkpoint *cp)
{
    int taken, back;

    taken = vfiomig_checkpoint_read(cp);  /* the guest runs */
    stop_vcpus();
    if (taken == 0)
        taken = vfiomig_checkpoint_stop(cp);
    if (taken == 0) {
        protect_memory();  /* no device writes to it now */
        taken = vfiomig_checkpoint_read(cp);
    }
    back = vfiomig_checkpoint_resume(cp,
                                     VFIOMIG_CHECKPOINT_RESUME);
    if (back == 0)
        start_vcpus();
    if (taken == 0)
        taken = vfiomig_checkpoint_commit(cp);
    if (taken < 0)
        fprintf(stderr, "no checkpoint, and the old one stays: "
                "%s\n", vfiomig_error_message());
    vfiomig_checkpoint_free(cp);
    return back < 0 ? back : taken;
}
/* END */

/* EXAMPLE vfiomig_checkpoint_cancel vfiomig_checkpoint_get_stats */
/* On another thread: too much has gone to the disk. */
static void watch_checkpoint(struct vfiomig_checkpoint *cp,
                             uint64_t most)
{
    struct vfiomig_checkpoint_stats stats =
        VFIOMIG_CHECKPOINT_STATS_INIT;

    if (vfiomig_checkpoint_get_stats(cp, &stats) < 0)
        return;
    printf("%" PRIu64 " of %" PRIu64 " bytes\n",
           stats.stream_bytes, stats.expected_bytes);
    if (stats.file_bytes > most)
        vfiomig_checkpoint_cancel(cp);
}
/* END */

/* EXAMPLE vfiomig_restore_open vfiomig_restore_load vfiomig_restore_free */
/* Back to where the guest was; its vCPUs are stopped. A bad file
   is found before the device loses anything. */
static int go_back(const char *path, struct vfiomig_device *nic)
{
    struct vfiomig_restore *restore;
    int r;

    r = vfiomig_restore_open(AT_FDCWD, path, NULL, &restore);
    if (r < 0)
        return r;
    r = vfiomig_restore_load(restore, "nic", nic, NULL);
    vfiomig_restore_free(restore);
    if (r < 0) {
        fprintf(stderr, "%s\n", vfiomig_error_message());
        return r;
    }
    write_fixups(nic);
    return vfiomig_device_run(nic);
}
/* END */

/* EXAMPLE vfiomig_restore_get_info vfiomig_restore_get_note vfiomig_restore_get_device vfiomig_restore_get_identity */
/* What a checkpoint says that it holds. */
static void show(struct vfiomig_restore *restore)
{
    struct vfiomig_restore_info info = VFIOMIG_RESTORE_INFO_INIT;
    char note[4096];
    size_t len = 0;

    if (vfiomig_restore_get_info(restore, &info) < 0 ||
        vfiomig_restore_get_note(restore, note, sizeof note,
                                 &len) < 0)
        return;
    printf("number %" PRIu64 ": %.*s\n", info.generation, (int)len,
           note);
    for (uint32_t i = 0; i < info.num_devices; i++) {
        struct vfiomig_restore_device dev =
            VFIOMIG_RESTORE_DEVICE_INIT;
        struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;

        if (vfiomig_restore_get_device(restore, i, &dev) == 0 &&
            vfiomig_restore_get_identity(restore, i, &identity) == 0)
            printf("%s: %s, %" PRIu64 " bytes\n", dev.name,
                   identity.driver, dev.data_bytes);
    }
}
/* END */

/* EXAMPLE vfiomig_restore_verify vfiomig_restore_cancel vfiomig_restore_get_stats */
/* Whether all of it is whole, unless the operator gives up. */
static int check(struct vfiomig_restore *restore, int gave_up)
{
    struct vfiomig_checkpoint_stats stats =
        VFIOMIG_CHECKPOINT_STATS_INIT;
    int r;

    if (gave_up)
        vfiomig_restore_cancel(restore);
    r = vfiomig_restore_verify(restore, VFIOMIG_RESTORE_ALL);
    if (vfiomig_restore_get_stats(restore, &stats) == 0)
        printf("%" PRIu64 " bytes were read\n", stats.stream_bytes);
    return r;
}
/* END */

/* EXAMPLE vfiomig_save_write_fd */
/* The whole stream goes to a socket; the vCPUs are stopped. */
static int send_to(struct vfiomig_save *save, int sock)
{
    struct vfiomig_transfer how = VFIOMIG_TRANSFER_INIT;
    int r;

    how.timeout_ms = 5000;
    r = vfiomig_save_write_fd(save, sock, &how);
    if (r == VFIOMIG_NEXT_DRAINED) {
        r = vfiomig_save_stop(save);
        if (r == 0)
            r = vfiomig_save_write_fd(save, sock, &how);
    }
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_load_read_fd */
/* All of it comes from a socket, and nothing that follows it is
   read. */
static int receive_from(struct vfiomig_load *load, int sock)
{
    int r;

    do
        r = vfiomig_load_read_fd(load, sock, NULL);
    while (r >= 0 && !(r & VFIOMIG_PUSH_END));
    return r < 0 ? r : vfiomig_load_commit(load);
}
/* END */

static void a_guest_goes_on_and_back(void)
{
    char path[] = "/tmp/vfiomig-example-XXXXXX";
    struct rig nic = rig_new(NULL, NULL), gpu = rig_target(NULL);
    uint64_t then = vfiomig_sim_digest(nic.sim);
    struct vfiomig_checkpoint *cp;
    struct vfiomig_restore *restore;
    int fd = mkstemp(path);

    CHECK(fd >= 0);
    close(fd);
    OK(begin_checkpoint(path, nic.dev, gpu.dev, &cp));
    watch_checkpoint(cp, UINT64_MAX);
    OK(finish_checkpoint(cp));
    CHECK(vcpus_run);
    OK(begin_checkpoint(path, nic.dev, gpu.dev, &cp));
    watch_checkpoint(cp, 0);
    EQ(finish_checkpoint(cp), -ECANCELED);
    CHECK(vcpus_run);
    OK(vfiomig_sim_guest_write(nic.sim, 0, 200000, 9));
    CHECK(vfiomig_sim_digest(nic.sim) != then);
    OK(go_back(path, nic.dev));
    CHECK(vfiomig_sim_digest(nic.sim) == then);
    OK(vfiomig_restore_open(AT_FDCWD, path, NULL, &restore));
    show(restore);
    OK(check(restore, 0));
    EQ(check(restore, 1), -ECANCELED);
    vfiomig_restore_free(restore);
    unlink(path);
    rig_free(&nic);
    rig_free(&gpu);
}

static void a_stream_goes_through_descriptors(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    char path[] = "/tmp/vfiomig-example-XXXXXX";
    int fd = mkstemp(path);

    CHECK(fd >= 0);
    OK(vfiomig_save_begin(source.dev, NULL, &save));
    EQ(send_to(save, fd), VFIOMIG_NEXT_END);
    CHECK(write(fd, "more", 4) == 4);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    OK(receive_from(load, fd));
    char more[5] = "";
    CHECK(read(fd, more, 4) == 4 && strcmp(more, "more") == 0);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    CHECK(vfiomig_sim_digest(source.sim) == vfiomig_sim_digest(target.sim));
    close(fd);
    unlink(path);
    rig_free(&source);
    rig_free(&target);
}

int main(void)
{
    RUN(a_guest_goes_on_and_back);
    RUN(a_stream_goes_through_descriptors);
    return DONE();
}
