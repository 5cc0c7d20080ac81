/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Checkpoints in a directory of their own: whole ones in one call, and what there is in the directory.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"

struct scratch {
    char dir[64];
    char file[96];
};

/* In memory if that is possible: disks are slow. */
static inline struct scratch scratch_new(void)
{
    struct scratch s = { .dir = "/dev/shm/vfiomig-checkpoint-XXXXXX" };
    if (!mkdtemp(s.dir)) {
        strcpy(s.dir, "/tmp/vfiomig-checkpoint-XXXXXX");
        CHECK(mkdtemp(s.dir));
    }
    snprintf(s.file, sizeof s.file, "%s/state", s.dir);
    return s;
}

/* How many files there are. */
static inline int scratch_files(const struct scratch *s)
{
    int count = 0;
    DIR *dir = opendir(s->dir);
    CHECK(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return count;
}

/* Nothing may be left but the checkpoint, if there is one. */
static inline void scratch_free(const struct scratch *s)
{
    unlink(s->file);
    EQ(rmdir(s->dir), 0);
}

static inline struct bytes contents_of(const char *path)
{
    struct bytes bytes = { NULL, 0, 0 };
    static uint8_t buf[1 << 16];
    int fd = open(path, O_RDONLY);
    ssize_t n;
    CHECK(fd >= 0);
    while ((n = read(fd, buf, sizeof buf)) > 0)
        bytes_add(&bytes, buf, (size_t)n);
    close(fd);
    return bytes;
}

static inline void put_contents(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    CHECK(write(fd, data, len) == (ssize_t)len);
    close(fd);
}

/* Adds devices with the names "dev0" and so on. */
static inline int add_devices(struct vfiomig_checkpoint *cp, struct vfiomig_device *const *devs, int count)
{
    int r = 0;
    for (int i = 0; i < count && r == 0; i++) {
        struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
        char name[16];
        options.device_index = (uint32_t)i;
        snprintf(name, sizeof name, "dev%d", i);
        r = vfiomig_checkpoint_add(cp, devs[i], name, &options);
    }
    return r;
}

/* All steps. Gives the devices back whatever happens, and returns the first error. */
static inline int all_steps(struct vfiomig_checkpoint *cp, struct vfiomig_device *const *devs, int count)
{
    int r = add_devices(cp, devs, count), back;
    if (r == 0)
        r = vfiomig_checkpoint_read(cp);
    if (r == 0)
        r = vfiomig_checkpoint_stop(cp);
    if (r == 0)
        r = vfiomig_checkpoint_read(cp);
    back = vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME);
    if (back < 0)
        return back;
    int done = vfiomig_checkpoint_commit(cp);
    /* What failed before has failed. */
    return r < 0 ? (done < 0 ? r : 1) : done;
}

static inline int take_with(const char *path, struct vfiomig_device *const *devs, int count,
                            const struct vfiomig_checkpoint_options *options)
{
    struct vfiomig_checkpoint *cp;
    int r = vfiomig_checkpoint_begin(AT_FDCWD, path, options, &cp);
    if (r < 0)
        return r;
    r = all_steps(cp, devs, count);
    vfiomig_checkpoint_free(cp);
    return r;
}

/* The same without waiting for the disk, which tests would do most of the time. NULL: the defaults. */
static inline int take(const char *path, struct vfiomig_device *const *devs, int count,
                       const struct vfiomig_checkpoint_options *options)
{
    struct vfiomig_checkpoint_options o = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    if (options)
        o = *options;
    o.flags |= VFIOMIG_CHECKPOINT_NOT_DURABLE;
    return take_with(path, devs, count, &o);
}

/* Opens a checkpoint and loads a device from it. */
static inline int go_back(const char *path, const char *name, struct vfiomig_device *dev,
                          const struct vfiomig_restore_options *options)
{
    struct vfiomig_restore *restore;
    int r = vfiomig_restore_open(AT_FDCWD, path, options, &restore);
    if (r < 0)
        return r;
    r = vfiomig_restore_load(restore, name, dev, NULL);
    vfiomig_restore_free(restore);
    return r;
}

#endif
