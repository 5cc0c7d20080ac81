/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A process forks while it has handles, whatever its threads are doing. The child's own handles
 * work, its parent's are refused at once, and nothing that the child does reaches the parent's
 * devices or takes memory from the child. (misuse.c calls every function with a parent's handle.)
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "track.h"

/* What a child reports with its status. */
enum { FINE, NOT_REFUSED, NO_WORD_OF_FORK, OWN_FAILED, CALLED_BACK, MEMORY_LOST, NOT_TRIED, SILENT };
/* Longer than any call takes: one that waits forever ends with SIGALRM. */
enum { BOUND = 120 };

/* Runs a child and returns what it found; -1: it died, or waited forever. It ends without
 * looking for leaks, as sanitizers and valgrind do: what its parent's threads were holding is
 * lost to it. */
static int ask_a_child(int (*what)(void *), void *opaque)
{
    int *place = mmap(NULL, sizeof *place, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = -1, found;
    if (place == MAP_FAILED)
        return -1;
    *place = -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(BOUND);
        *place = what(opaque);
        kill(getpid(), SIGKILL);
    }
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        found = -1;
    else
        found = *place;
    munmap(place, sizeof *place);
    return found;
}

/* It must end well. In an emulator, some of it cannot be tried: it refuses filters of system calls, and
 * MADV_DONTFORK has no effect. */
static void child_does(int (*what)(void *), void *opaque)
{
    int found = ask_a_child(what, opaque);
    if (found == NOT_TRIED && getenv("EMULATOR") && *getenv("EMULATOR"))
        printf("# fork: not tried in an emulator\n");
    else
        EQ(found, FINE);
}

static int refused(int r)
{
    if (r != -EBADF)
        return NOT_REFUSED;
    return strstr(vfiomig_error_message(), "fork") ? FINE : NO_WORD_OF_FORK;
}

/* A device of the process's own, migrated to another one. Only the parent makes checks. */
static int migrate(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_sim *sims[2];
    struct vfiomig_device *devs[2];
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    static uint8_t buf[20000];
    int r, end = 0;
    for (int i = 0; i < 2; i++) {
        o.seed = (uint64_t)i + 1;
        if (vfiomig_sim_new(&o, &sims[i]) != 0 ||
            vfiomig_device_new_ops(vfiomig_sim_ops(sims[i]), sims[i], NULL, &devs[i]) != 0)
            return OWN_FAILED;
    }
    uint64_t digest = vfiomig_sim_digest(sims[0]);
    if (vfiomig_save_begin(devs[0], NULL, &save) != 0 || vfiomig_load_begin(devs[1], NULL, &load) != 0)
        return OWN_FAILED;
    do {
        size_t len;
        if ((r = vfiomig_save_next(save, buf, sizeof buf, &len)) < 0)
            return OWN_FAILED;
        if (len > 0 && (end = vfiomig_load_push(load, buf, len)) < 0)
            return OWN_FAILED;
        if (r == VFIOMIG_NEXT_DRAINED && vfiomig_save_stop(save) != 0)
            return OWN_FAILED;
    } while (r != VFIOMIG_NEXT_END);
    if (!(end & VFIOMIG_PUSH_END) || vfiomig_load_commit(load) != 0 ||
        vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE) != 0 || vfiomig_device_run(devs[1]) != 0 ||
        vfiomig_sim_digest(sims[1]) != digest)
        return OWN_FAILED;
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    for (int i = 0; i < 2; i++) {
        vfiomig_device_free(devs[i]);
        if (vfiomig_sim_releases(sims[i]) != 1)
            return OWN_FAILED;
        vfiomig_sim_free(sims[i]);
    }
    return FINE;
}

static int own_and_inherited(void *opaque)
{
    uint32_t state;
    int r = refused(vfiomig_device_get_state(opaque, &state));
    if (r == FINE)
        r = migrate();
    vfiomig_device_free(opaque);
    return r != FINE ? r : refused(vfiomig_device_get_state(opaque, &state));
}

struct family {
    struct vfiomig_device *parents, *own;
};

static int of_both(void *opaque)
{
    struct family *family = opaque;
    int r = own_and_inherited(family->parents);
    return r != FINE ? r : own_and_inherited(family->own);
}

/* And the child's child refuses the child's. */
static int with_a_child_of_its_own(void *opaque)
{
    int r = own_and_inherited(opaque);
    if (r != FINE)
        return r;
    struct rig rig = rig_new(NULL, NULL);
    struct family family = { .parents = opaque, .own = rig.dev };
    if ((r = ask_a_child(of_both, &family)) != FINE)
        return r;
    return vfiomig_device_reset(rig.dev) == 0 ? FINE : OWN_FAILED;
}

static void a_child_has_handles_of_its_own_and_not_those_of_its_parent(void)
{
    struct rig rig = rig_new(NULL, NULL);
    child_does(with_a_child_of_its_own, rig.dev);
    struct bytes stream = stream_of(rig.dev);
    bytes_free(&stream);
    rig_free(&rig);
}

/* Like a kernel before 4.14: madvise() does not know MADV_WIPEONFORK. */
static int make_the_kernel_old(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_WIPEONFORK, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = sizeof code / sizeof *code, .filter = code };
    static long page[8192];
    void *whole = (void *)(((uintptr_t)page + 4095) & ~(uintptr_t)4095);
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0 &&
           madvise(whole, 4096, MADV_WIPEONFORK) != 0;
}

/* The library has not been used before: this is the process in which it asks the kernel. */
static int on_an_old_kernel(void *opaque)
{
    (void)opaque;
    if (!make_the_kernel_old())
        return NOT_TRIED;
    struct rig rig = rig_new(NULL, NULL);
    return ask_a_child(with_a_child_of_its_own, rig.dev);
}

static void also_where_the_kernel_does_not_wipe_pages(void)
{
    child_does(on_an_old_kernel, NULL);
}

/* --- a parent that is busy ------------------------------------------------------------------------ */

struct busy {
    struct rig rig;
    struct vfiomig_device_ops ops;
    struct vfiomig_device *dev;
    struct vfiomig_save *save;
    struct vfiomig_dirty *dirty;
    struct tracker tracker;
    atomic_int in_device, in_tracking, stop, read, synced;
    atomic_uint messages, rounds;
};

static struct busy busy;

static void until_told(atomic_int *inside)
{
    atomic_store(inside, 1);
    while (!atomic_load(&busy.stop))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static int64_t slow_read(void *opaque, int fd, void *buf, size_t len)
{
    until_told(&busy.in_device);
    return vfiomig_sim_ops(busy.rig.sim)->data_read(opaque, fd, buf, len);
}

static void slow_sync(void *opaque)
{
    (void)opaque;
    until_told(&busy.in_tracking);
}

static void *reads_the_device(void *opaque)
{
    static uint8_t buf[8192];
    size_t len;
    (void)opaque;
    busy.read = vfiomig_save_next(busy.save, buf, sizeof buf, &len);
    return NULL;
}

static void *reads_the_tracking(void *opaque)
{
    uint64_t bits[2] = { 0 };
    (void)opaque;
    busy.synced = vfiomig_dirty_sync(busy.dirty, 0, 64 * PAGE, PAGE, bits, 2);
    return NULL;
}

static void count_message(void *opaque, uint32_t level, const char *target, const char *message)
{
    (void)level;
    (void)target;
    (void)message;
    atomic_fetch_add((atomic_uint *)opaque, 1);
}

/* The allocator of older address sanitizers has locks that a child finds held: with it, the
 * child would wait there, and not in the library. */
#ifdef __SANITIZE_ADDRESS__
enum { IN_HAND = 0 };
#else
enum { IN_HAND = 8 };
#endif

/* In and out of the table of handles and of the logger all the time. */
static void *makes_handles(void *opaque)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty *many[8];
    (void)opaque;
    while (!atomic_load(&busy.stop)) {
        for (int i = 0; i < IN_HAND; i++)
            if (vfiomig_dirty_new(&ops, NULL, NULL, &many[i]) != 0)
                return NULL;
        for (int i = 0; i < IN_HAND; i++) {
            vfiomig_dirty_stop(many[i]);
            vfiomig_dirty_free(many[i]);
            vfiomig_dirty_free(many[i]); /* which logs */
        }
        atomic_fetch_add(&busy.rounds, 1);
    }
    return NULL;
}

static int while_the_parent_is_busy(void *opaque)
{
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    uint64_t bits[2] = { 0 };
    uint32_t state;
    size_t len;
    uint8_t buf[8192];
    int r = refused(vfiomig_save_next(busy.save, buf, sizeof buf, &len));
    (void)opaque;
    r = r ? r : refused(vfiomig_save_cancel(busy.save));
    r = r ? r : refused(vfiomig_save_get_stats(busy.save, &stats));
    r = r ? r : refused(vfiomig_device_get_state(busy.dev, &state));
    r = r ? r : refused(vfiomig_dirty_sync(busy.dirty, 0, 64 * PAGE, PAGE, bits, 2));
    r = r ? r : refused(vfiomig_dirty_cancel(busy.dirty));
    uint64_t operations = vfiomig_sim_count(busy.rig.sim, VFIOMIG_SIM_OP_ANY);
    unsigned releases = vfiomig_sim_releases(busy.rig.sim);
    int stops = busy.tracker.stops;
    vfiomig_save_free(busy.save);
    vfiomig_dirty_free(busy.dirty);
    vfiomig_device_free(busy.dev);
    if (vfiomig_sim_count(busy.rig.sim, VFIOMIG_SIM_OP_ANY) != operations ||
        busy.tracker.stops != stops || busy.tracker.released ||
        vfiomig_sim_releases(busy.rig.sim) != releases)
        return CALLED_BACK;
    /* Messages go where the parent's do, and from now on elsewhere. */
    unsigned before = atomic_load(&busy.messages);
    if (vfiomig_device_reset(NULL) != -EFAULT || atomic_load(&busy.messages) == before)
        return SILENT;
    if (vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF) != 0)
        return OWN_FAILED;
    return r ? r : migrate();
}

static void a_child_never_waits_for_what_its_parents_threads_hold(void)
{
    pthread_t threads[3];
    struct vfiomig_memory_ops memory = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    int children = getenv("VFIOMIG_TEST_SLOW") ? 5 : 100;
    busy.rig = rig_new(NULL, NULL);
    vfiomig_device_free(busy.rig.dev);
    busy.ops = *vfiomig_sim_ops(busy.rig.sim);
    busy.ops.data_read = slow_read;
    busy.ops.release = NULL;
    OK(vfiomig_device_new_ops(&busy.ops, busy.rig.sim, NULL, &busy.dev));
    OK(vfiomig_save_begin(busy.dev, NULL, &busy.save));
    busy.tracker = tracker_new(0, PAGE, 64);
    mapping.size = 64 * PAGE;
    OK(vfiomig_dirty_new(&memory, NULL, NULL, &busy.dirty));
    add_writer(busy.dirty, &busy.tracker, NULL, 0);
    OK(vfiomig_dirty_map(busy.dirty, &mapping));
    OK(vfiomig_dirty_start(busy.dirty));
    busy.tracker.hook = slow_sync;
    OK(vfiomig_log_set(count_message, &busy.messages, NULL, VFIOMIG_LOG_DEBUG));
    EQ(pthread_create(&threads[0], NULL, reads_the_device, NULL), 0);
    EQ(pthread_create(&threads[1], NULL, reads_the_tracking, NULL), 0);
    EQ(pthread_create(&threads[2], NULL, makes_handles, NULL), 0);
    while (!atomic_load(&busy.in_device) || !atomic_load(&busy.in_tracking) ||
           !atomic_load(&busy.rounds))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    for (int i = 0; i < children; i++)
        child_does(while_the_parent_is_busy, NULL);
    atomic_store(&busy.stop, 1);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF));
    /* Here everything is as it was. */
    CHECK(busy.read >= 0);
    EQ(busy.synced, 0);
    struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
    OK(vfiomig_dirty_get_stats(busy.dirty, &stats));
    vfiomig_dirty_free(busy.dirty);
    tracker_free(&busy.tracker);
    OK(vfiomig_save_finish(busy.save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(busy.save);
    busy.rig.dev = busy.dev;
    EQ(vfiomig_sim_releases(busy.rig.sim), 1); /* of the handle that rig_new() made */
    rig_free(&busy.rig);
}

/* --- memory --------------------------------------------------------------------------------------- */

struct range {
    unsigned long start, end;
};

static int ranges(struct range *out, int room)
{
    FILE *f = fopen("/proc/self/maps", "r");
    int n = 0;
    char line[512];
    while (f && n < room && fgets(line, sizeof line, f))
        n += sscanf(line, "%lx-%lx", &out[n].start, &out[n].end) == 2;
    if (f)
        fclose(f);
    return n;
}

static struct range parents[4096];
static int num_parents;

static int is_there(const struct range *all, int n, unsigned long at)
{
    for (int i = 0; i < n; i++)
        if (at >= all[i].start && at < all[i].end)
            return 1;
    return 0;
}

/* Puts memory of its own where its parent's bitmaps were, and keeps it. */
static int frees_a_tracking_object(void *opaque)
{
    static struct range here[4096];
    static unsigned char *mine[4096];
    int n = ranges(here, 4096), found = 0;
    for (int i = 0; i < num_parents; i++) {
        for (unsigned long at = parents[i].start; at < parents[i].end && found < 4096; at += 65536) {
            if (is_there(here, n, at))
                continue;
            mine[found] = mmap((void *)at, PAGE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            if (mine[found] != (unsigned char *)at)
                return NOT_TRIED;
            memset(mine[found++], 0x77, PAGE);
        }
    }
    uint64_t bits[2] = { 0 };
    int r = refused(vfiomig_dirty_sync(opaque, 0, 64 * PAGE, PAGE, bits, 2));
    vfiomig_dirty_free(opaque);
    n = ranges(here, 4096);
    for (int i = 0; i < found; i++)
        if (!is_there(here, n, (unsigned long)mine[i]) || mine[i][0] != 0x77 ||
            mine[i][PAGE - 1] != 0x77)
            return MEMORY_LOST;
    return r ? r : found > 0 ? FINE : NOT_TRIED;
}

static void a_child_that_frees_a_tracking_object_keeps_its_memory(void)
{
    struct vfiomig_memory_ops memory = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    struct tracker tracker = tracker_new(0, PAGE, 64);
    struct vfiomig_dirty *dirty;
    uint64_t bits[2] = { 0 };
    mapping.size = 64 * PAGE;
    OK(vfiomig_dirty_new(&memory, NULL, NULL, &dirty));
    add_writer(dirty, &tracker, NULL, 0);
    OK(vfiomig_dirty_map(dirty, &mapping));
    OK(vfiomig_dirty_start(dirty));
    num_parents = ranges(parents, 4096);
    child_does(frees_a_tracking_object, dirty);
    /* And the parent goes on reading. */
    touch(&tracker, 3 * PAGE, 1);
    OK(vfiomig_dirty_sync(dirty, 0, 64 * PAGE, PAGE, bits, 2));
    EQ(bits[0], 1 << 3);
    vfiomig_dirty_free(dirty);
    tracker_free(&tracker);
}

/* --- in a callback -------------------------------------------------------------------------------- */

static struct vfiomig_device *called;
static int found_in_callback = -1;

static void forks(void *opaque, const struct vfiomig_event *event)
{
    (void)opaque;
    (void)event;
    found_in_callback = ask_a_child(own_and_inherited, called);
}

static void a_callback_may_fork_where_the_child_ends_there(void)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    options.event = forks;
    struct rig rig = rig_new(NULL, &options);
    called = rig.dev;
    fflush(stdout);
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    EQ(found_in_callback, FINE);
    rig_free(&rig);
}

int main(void)
{
    RUN(also_where_the_kernel_does_not_wipe_pages); /* first: it needs a library that was not used before */
    RUN(a_child_has_handles_of_its_own_and_not_those_of_its_parent);
    RUN(a_child_never_waits_for_what_its_parents_threads_hold);
    RUN(a_child_that_frees_a_tracking_object_keeps_its_memory);
    RUN(a_callback_may_fork_where_the_child_ends_there);
    return DONE();
}
