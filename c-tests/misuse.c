/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Calls every function of the C API with everything that can be wrong about a call.
 *
 * What is right is in the table (the api.toml files in src/capi, here misuse.gen.h): each misuse gets
 * the documented error, writes nothing to outputs, releases callbacks exactly once, and ends nothing.
 * Whatever a call of this program returns must be in the function's list of errors, and each error
 * has a text that begins with the function's name. None touches errno, whatever it returns, and
 * whatever its system calls and callbacks do to errno in the meantime.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hooked.h"
#include "idle.h"

#define MAX_STATES 8
#define MAX_ARGS 8
#define MAX_ERRORS 24

enum arg_kind {
    A_HANDLE, A_FREE, A_OUT, A_STRUCT, A_OPTIONS, A_IN, A_OPS, A_PTR, A_BUFFER, A_DATA, A_WORDS,
    A_NO_WORDS, A_LEN, A_FD, A_OPAQUE, A_NUMBER, A_LOG, A_RELEASE, A_UNMAP, A_ENDING,
    A_TEXT, A_REASON
};

union argument {
    void *pointer;
    uint64_t number;
    vfiomig_log_fn log;
    vfiomig_release_fn release;
    vfiomig_unmap_fn unmap;
    vfiomig_compat_reason_fn reason;
};

struct arg {
    enum arg_kind kind;
    int object;       /* of handles */
    size_t size;      /* of structures and values */
    const char *type; /* of structures with a size of their own */
    long long value;  /* of numbers */
    const char *name;
};

struct row {
    const char *name;
    long (*call)(const union argument *a);
    int object;
    unsigned states;
    int wrong_state;
    int concurrent;
    int no_wait;
    int num_args;
    struct arg args[MAX_ARGS];
    int errors[MAX_ERRORS];
};

#include "misuse.gen.h"

/* Checks, counted by group. */

static const char *group;
static atomic_uint group_passed, group_failed;
static unsigned passed, failed;

static void begin(const char *name)
{
    group = name;
    group_passed = group_failed = 0;
}

static void end(void)
{
    printf("%-4s  %s: %u checks", group_failed ? "FAIL" : "ok", group, group_passed + group_failed);
    if (group_failed)
        printf(", %u failed", group_failed);
    printf("\n");
    passed += group_passed;
    failed += group_failed;
}

static int check(int ok, const char *format, ...)
{
    if (ok) {
        group_passed++;
        return 1;
    }
    /* One line of each kind says enough. */
    if (group_failed++ < 40) {
        char text[512];
        va_list list;

        va_start(list, format);
        vsnprintf(text, sizeof text, format, list);
        va_end(list);
        printf("      %s: %s\n", group, text);
    }
    return 0;
}

/* Not an errno of any system: what a call is to leave alone, and what callbacks set it to. */
enum { ODD_ERRNO = 4711, CALLBACKS_ERRNO = 4712 };

static atomic_uint kept;

/* Right after a call. */
static void errno_is_kept(const char *function)
{
    static atomic_uint told;
    int found = errno;

    kept++;
    if (found != ODD_ERRNO && told++ < 10)
        check(0, "%s left errno at %d: %s", function, found, strerror(found));
}

/* Every call of the program passes through here: is what it returned documented? */
static long documented(enum row_number number, long r)
{
    const struct row *row = &rows[number];

    errno_is_kept(row->name);
    if (r >= 0)
        return r;
    static atomic_uchar told[NUM_ROWS][256];
    int listed = 0;
    for (int i = 0; i < MAX_ERRORS && row->errors[i]; i++)
        listed |= row->errors[i] == -r;
    /* Counted only if it is wrong: otherwise every call would be a check. */
    if (!listed && -r < 256 && !told[number][-r]++)
        check(0, "%s returned %ld, which its list of errors lacks: %s", row->name, r,
              vfiomig_error_message());
    const char *text = vfiomig_error_message();
    size_t len = strlen(row->name);
    if (strncmp(text, row->name, len) != 0 || strncmp(text + len, ": ", 2) != 0)
        check(0, "%s returned %ld with a text that is another's: %s", row->name, r, text);
    if (strcmp(vfiomig_error_describe((int)r), "unknown error") == 0)
        check(0, "%s returned %ld, which has no description", row->name, r);
    return r;
}

#define API(function, ...) \
    (errno = ODD_ERRNO, documented(ROW_##function, function(__VA_ARGS__)))
#define FREE(function, handle) (errno = ODD_ERRNO, function(handle), errno_is_kept(#function))

/*
 * A world: a simulated device with a hook in its callbacks, a device handle, sessions, and tracking
 * over a little memory, with hooks in its callbacks too.
 */

#define STATE_SIZE (16 << 10)
#define PAGE 4096u
#define RAM_SIZE (8 * PAGE)

/* Hooks besides those of the simulator's operations: in the callbacks of dirty tracking. */
enum {
    HOOK_ENUMERATE = 100, HOOK_SET_DIRTY, HOOK_TRANSLATE, HOOK_READ, HOOK_WRITE, HOOK_START,
    HOOK_STOP, HOOK_SYNC, HOOK_UNMAP, END_OF_HOOKS
};

struct world {
    struct hooked hooked;
    struct vfiomig_device *device;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    struct vfiomig_dirty *dirty;
    struct vfiomig_handover *handover;
    struct vfiomig_group *group;
    /* What is behind a device that only the group has. */
    struct world *another;
    struct vfiomig_inspect *inspect;
    struct vfiomig_checkpoint *checkpoint;
    struct vfiomig_restore *restore;
    struct vfiomig_estimate *estimate;
    /* Called once, within the operation of this number. */
    void (*hook)(struct world *world);
    uint32_t hook_op;
    const struct row *row;
    atomic_int released;
    /* Tables of dirty tracking: how often they were handed over and released. */
    int memories, trackers;
    atomic_int memory_released, tracker_released;
    /* A callback of dirty tracking that fails, from the nth time on, and how. */
    uint32_t failing_op;
    int failing_nth, failing_errno;
    unsigned char ram[RAM_SIZE];
    /* The device's handle is gone, and the device with its last session. */
    int let_go;
};

static void enter(struct world *world, uint32_t op)
{
    errno = CALLBACKS_ERRNO;
    if (world->hook && world->hook_op == op) {
        void (*hook)(struct world *) = world->hook;

        world->hook = NULL;
        hook(world);
    }
}

static void before(struct hooked *hooked, uint32_t op)
{
    enter((struct world *)hooked, op);
}

static void on_release(void *opaque)
{
    struct world *world = opaque;
    struct vfiomig_sim *sim = world->hooked.sim;

    errno = CALLBACKS_ERRNO;
    world->released++;
    if (vfiomig_sim_ops(sim)->release)
        vfiomig_sim_ops(sim)->release(sim);
}

static void die(const char *what)
{
    printf("misuse: %s\n", what);
    exit(2);
}

/* A world whose device is not known to the library yet. */
static struct world *bare_world(void)
{
    struct world *world = calloc(1, sizeof *world);
    struct vfiomig_sim_options options = { .struct_size = sizeof options };

    options.state_size = STATE_SIZE;
    options.seed = 7;
    if (!world || hooked_new(&world->hooked, &options, before) < 0)
        die("no simulator");
    world->hooked.ops.release = on_release;
    return world;
}

static struct world *new_world(void)
{
    struct world *world = bare_world();

    if (API(vfiomig_device_new_ops, &world->hooked.ops, world, NULL, &world->device) != 0)
        die(vfiomig_error_message());
    return world;
}

/* The callbacks of dirty tracking: everything lies in the world's own memory, and every page is
 * dirty. */

static int failing(struct world *world, uint32_t op)
{
    enter(world, op);
    return world->failing_op == op && --world->failing_nth <= 0 ? -world->failing_errno : 0;
}

static int on_enumerate(void *opaque, vfiomig_mapping_fn add, void *add_opaque)
{
    struct world *world = opaque;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    int r;

    mapping.size = RAM_SIZE / 2;
    mapping.cookie = 1;
    mapping.host = world->ram;
    if ((r = add(add_opaque, &mapping)) < 0)
        return r;
    mapping.iova = mapping.offset = RAM_SIZE / 2;
    mapping.flags = VFIOMIG_MAPPING_TRANSLATE;
    if ((r = add(add_opaque, &mapping)) < 0)
        return r;
    return failing(world, HOOK_ENUMERATE);
}

static int on_set_dirty(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                        const uint64_t *bitmap, uint64_t num_bits)
{
    (void)bitmap;
    if (cookie != 1 || page_size != PAGE || num_bits == 0 || offset + num_bits * PAGE > RAM_SIZE)
        check(0, "set_dirty of %llu pages at %#llx in %llu", (unsigned long long)num_bits,
              (unsigned long long)offset, (unsigned long long)cookie);
    return failing(opaque, HOOK_SET_DIRTY);
}

static int on_translate(void *opaque, uint64_t iova, uint64_t size, struct vfiomig_place *place)
{
    struct world *world = opaque;

    if (place->struct_size < sizeof *place || iova < RAM_SIZE / 2 || iova + size > RAM_SIZE)
        check(0, "translate of %#llx, %#llx bytes", (unsigned long long)iova,
              (unsigned long long)size);
    place->cookie = 1;
    place->offset = iova;
    place->size = size;
    place->host = world->ram + iova;
    return failing(world, HOOK_TRANSLATE);
}

static int on_memory_read(void *opaque, uint64_t cookie, uint64_t offset, void *buf, size_t len)
{
    struct world *world = opaque;

    if (cookie == 1 && offset + len <= RAM_SIZE)
        memcpy(buf, world->ram + offset, len);
    else
        check(0, "read of %zu bytes at %#llx", len, (unsigned long long)offset);
    return failing(world, HOOK_READ);
}

static int on_memory_write(void *opaque, uint64_t cookie, uint64_t offset, const void *buf, size_t len)
{
    struct world *world = opaque;

    if (cookie == 1 && offset + len <= RAM_SIZE)
        memcpy(world->ram + offset, buf, len);
    else
        check(0, "write of %zu bytes at %#llx", len, (unsigned long long)offset);
    return failing(world, HOOK_WRITE);
}

static void on_memory_release(void *opaque)
{
    errno = CALLBACKS_ERRNO;
    ((struct world *)opaque)->memory_released++;
}

static int on_track_start(void *opaque)
{
    return failing(opaque, HOOK_START);
}

static int on_track_stop(void *opaque)
{
    return failing(opaque, HOOK_STOP);
}

static int on_track_sync(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size,
                         uint64_t *bitmap, size_t num_words)
{
    if (page_size != PAGE || length % PAGE || iova % PAGE || num_words * 64 < length / PAGE)
        check(0, "sync of %#llx, %#llx bytes, into %zu words", (unsigned long long)iova,
              (unsigned long long)length, num_words);
    for (uint64_t i = 0; i < length / PAGE; i++)
        bitmap[i / 64] |= (uint64_t)1 << i % 64;
    return failing(opaque, HOOK_SYNC);
}

static void on_tracker_release(void *opaque)
{
    errno = CALLBACKS_ERRNO;
    ((struct world *)opaque)->tracker_released++;
}

static int on_unmap(void *opaque, uint64_t iova, uint64_t size)
{
    if (iova % PAGE || size % PAGE || size == 0)
        check(0, "unmap of %#llx, %#llx bytes", (unsigned long long)iova, (unsigned long long)size);
    return failing(opaque, HOOK_UNMAP);
}

static struct vfiomig_memory_ops memory_ops(void)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;

    ops.enumerate = on_enumerate;
    ops.set_dirty = on_set_dirty;
    ops.translate = on_translate;
    ops.read = on_memory_read;
    ops.write = on_memory_write;
    ops.release = on_memory_release;
    return ops;
}

static struct vfiomig_tracker_ops tracker_ops(void)
{
    struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;

    ops.page_size = PAGE;
    ops.start = on_track_start;
    ops.stop = on_track_stop;
    ops.sync = on_track_sync;
    ops.release = on_tracker_release;
    return ops;
}

/* Writer 0 has a tracker of the VMM's, and writer 1 the log of the world's device. */
static long add_sources(struct world *world)
{
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_tracker_ops ops = tracker_ops();
    uint32_t number;
    long r;

    writer.flags = VFIOMIG_WRITER_CUSTOM;
    writer.name = "the VMM's";
    writer.device = world->device;
    writer.tracker = &ops;
    writer.tracker_opaque = world;
    world->trackers++;
    r = API(vfiomig_dirty_add_writer, world->dirty, &writer, &number);
    if (r < 0)
        return r;
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
    writer.name = NULL;
    return API(vfiomig_dirty_add_writer, world->dirty, &writer, &number);
}

static long new_dirty(struct world *world)
{
    struct vfiomig_memory_ops ops = memory_ops();
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;

    options.page_size = PAGE;
    world->memories++;
    long r = API(vfiomig_dirty_new, &ops, world, &options, &world->dirty);
    return r < 0 ? r : add_sources(world);
}

/* Frees everything; whatever was done, the simulator saw nothing that a VMM may not do. */
static void free_world(struct world *world, const char *what)
{
    const char *first = "";
    int had_device = world->device != NULL || world->let_go;

    world->hook = NULL;
    FREE(vfiomig_estimate_free, world->estimate);
    FREE(vfiomig_inspect_free, world->inspect);
    FREE(vfiomig_handover_free, world->handover);
    FREE(vfiomig_group_free, world->group);
    if (world->another) {
        vfiomig_sim_free(world->another->hooked.sim);
        free(world->another);
    }
    FREE(vfiomig_checkpoint_free, world->checkpoint);
    FREE(vfiomig_restore_free, world->restore);
    FREE(vfiomig_dirty_free, world->dirty);
    FREE(vfiomig_save_free, world->save);
    FREE(vfiomig_load_free, world->load);
    FREE(vfiomig_device_free, world->device);
    check(world->memory_released == world->memories && world->tracker_released == world->trackers,
          "%s: of %d memories %d were released, of %d trackers %d", what, world->memories,
          world->memory_released, world->trackers, world->tracker_released);
    uint64_t violations = vfiomig_sim_violations(world->hooked.sim, &first);
    check(violations == 0, "%s: the library did what no VMM may do: %s", what, first);
    check(vfiomig_sim_open_streams(world->hooked.sim) == 0, "%s: a data stream was left open", what);
    check(world->released == had_device, "%s: ops were released %d times", what, world->released);
    vfiomig_sim_free(world->hooked.sim);
    free(world);
}

/* A whole stream of such a device, made once. */
static unsigned char *stream;
static size_t stream_len;

static void record(void)
{
    struct world *world = new_world();
    size_t room = 2 * STATE_SIZE + (64 << 10);
    long r;

    stream = malloc(room);
    if (!stream || API(vfiomig_save_begin, world->device, NULL, &world->save) != 0 ||
        API(vfiomig_save_stop, world->save) != 0)
        die(vfiomig_error_message());
    do {
        size_t len;

        r = API(vfiomig_save_next, world->save, stream + stream_len, room - stream_len, &len);
        if (r < 0)
            die(vfiomig_error_message());
        stream_len += len;
    } while (r != VFIOMIG_NEXT_END);
    free_world(world, "recording a stream");
}

/* The ways into states. */

static void push_all(struct world *world)
{
    if (API(vfiomig_load_push, world->load, stream, stream_len) < 0)
        die(vfiomig_error_message());
}

static void to_save_state(struct world *world, const char *state)
{
    static char buf[STATE_SIZE];
    size_t len;
    long r = API(vfiomig_save_begin, world->device, NULL, &world->save);

    if (r == 0 && strcmp(state, "quiesced") == 0) {
        r = API(vfiomig_save_quiesce, world->save);
    } else if (r == 0 && strcmp(state, "stop-copy") == 0) {
        r = API(vfiomig_save_stop, world->save);
    } else if (r == 0 && strcmp(state, "ended") == 0) {
        r = API(vfiomig_save_stop, world->save);
        while (r >= 0 && r != VFIOMIG_NEXT_END)
            r = API(vfiomig_save_next, world->save, buf, sizeof buf, &len);
    } else if (r == 0 && strcmp(state, "failed") == 0) {
        vfiomig_sim_inject(world->hooked.sim, VFIOMIG_SIM_OP_READ, 1, EIO, VFIOMIG_SIM_FAULT_ONCE);
        while (r >= 0)
            r = API(vfiomig_save_next, world->save, buf, sizeof buf, &len);
        r = r == -EIO ? 0 : -1;
    } else if (r == 0 && strcmp(state, "finished") == 0) {
        r = API(vfiomig_save_finish, world->save, VFIOMIG_ENDING_KEEP);
    } else if (strcmp(state, "pre-copy") != 0) {
        die("a state of a save that is not known here");
    }
    if (r < 0)
        die(vfiomig_error_message());
}

static void to_load_state(struct world *world, const char *state)
{
    long r = API(vfiomig_load_begin, world->device, NULL, &world->load);

    if (r == 0 && strcmp(state, "complete") == 0) {
        push_all(world);
    } else if (r == 0 && strcmp(state, "committed") == 0) {
        push_all(world);
        r = API(vfiomig_load_commit, world->load);
    } else if (r == 0 && strcmp(state, "failed") == 0) {
        char junk[64];

        memset(junk, 'x', sizeof junk);
        r = API(vfiomig_load_push, world->load, junk, sizeof junk) < 0 ? 0 : -1;
    } else if (strcmp(state, "receiving") != 0) {
        die("a state of a load that is not known here");
    }
    if (r < 0)
        die(vfiomig_error_message());
}

/* Each with a round and an error, so that there is something to ask for. */
static void to_dirty_state(struct world *world, const char *state)
{
    long r = new_dirty(world);

    if (r == 0)
        r = API(vfiomig_dirty_start, world->dirty);
    world->failing_op = HOOK_SYNC;
    world->failing_errno = EIO;
    if (r == 0 && API(vfiomig_dirty_collect, world->dirty) != VFIOMIG_DIRTY_ERRORS)
        die("a tracker that fails is not noticed");
    world->failing_op = 0;
    if (r == 0 && strcmp(state, "idle") == 0)
        r = API(vfiomig_dirty_stop, world->dirty);
    else if (strcmp(state, "tracking") != 0)
        die("a state of a tracking object that is not known here");
    if (r != 0)
        die(vfiomig_error_message());
}

static struct vfiomig_handover_options handover_options(void)
{
    struct vfiomig_handover_options options = VFIOMIG_HANDOVER_OPTIONS_INIT;

    options.role = VFIOMIG_HANDOVER_ROLE_SOURCE;
    options.migration_id[0] = 1;
    options.attempt = options.num_devices = 1;
    return options;
}

static void to_handover_state(struct world *world, const char *state)
{
    struct vfiomig_handover_options options = handover_options();
    struct vfiomig_handover_action action = VFIOMIG_HANDOVER_ACTION_INIT;
    long r = API(vfiomig_handover_new, &options, &world->handover);

    if (r == 0 && strcmp(state, "over") == 0) {
        r = API(vfiomig_handover_cancel, world->handover);
        if (r == 0)
            r = API(vfiomig_handover_next, world->handover, &action);
        if (r == 0)
            r = API(vfiomig_handover_notify, world->handover, VFIOMIG_HANDOVER_EVENT_KEPT, 0, 0);
    } else if (strcmp(state, "open") != 0) {
        die("a state of a handover that is not known here");
    }
    if (r != 0)
        die(vfiomig_error_message());
}

static void to_inspect_state(struct world *world, const char *state)
{
    long r = API(vfiomig_inspect_new, NULL, &world->inspect);

    if (r == 0 && strcmp(state, "over") == 0)
        r = API(vfiomig_inspect_end, world->inspect);
    else if (strcmp(state, "open") != 0)
        die("a state of an inspection that is not known here");
    if (r != 0)
        die(vfiomig_error_message());
}

/* Where checkpoints are, and one that is whole. */
static char directory[] = "/tmp/vfiomig-misuse-XXXXXX";
static char whole[64];
static unsigned checkpoints;

static void remove_directory(void)
{
    DIR *dir = opendir(directory);
    char path[320];

    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        unlink(path);
    }
    if (dir)
        closedir(dir);
    rmdir(directory);
}

static void to_checkpoint_state(struct world *world, const char *state)
{
    static const char *const order[] = { "running", "stopped", "complete", "resumed", "committed" };
    char path[64];
    long r;

    /* Each has a name of its own: no two are written at once. */
    snprintf(path, sizeof path, "%s/%u", directory, checkpoints++);
    r = API(vfiomig_checkpoint_begin, AT_FDCWD, path, NULL, &world->checkpoint);
    for (int i = 0; r == 0; i++) {
        if (i == 1) {
            r = API(vfiomig_checkpoint_add, world->checkpoint, world->device, "device", NULL);
            if (r == 0)
                r = API(vfiomig_checkpoint_stop, world->checkpoint);
        } else if (i == 2) {
            r = API(vfiomig_checkpoint_read, world->checkpoint);
        } else if (i == 3) {
            r = API(vfiomig_checkpoint_resume, world->checkpoint, VFIOMIG_CHECKPOINT_RESUME);
        } else if (i == 4) {
            r = API(vfiomig_checkpoint_commit, world->checkpoint);
            unlink(path);
        } else if (i == 5) {
            die("a state of a checkpoint that is not known here");
        }
        if (strcmp(state, order[i]) == 0)
            break;
    }
    if (r != 0)
        die(vfiomig_error_message());
}

static void to_restore_state(struct world *world)
{
    if (API(vfiomig_restore_open, AT_FDCWD, whole, NULL, &world->restore) != 0)
        die(vfiomig_error_message());
}

static void record_checkpoint(void)
{
    struct world *world = new_world();
    struct vfiomig_checkpoint *cp = NULL;

    if (!mkdtemp(directory))
        die("no directory");
    atexit(remove_directory);
    snprintf(whole, sizeof whole, "%s/whole", directory);
    if (API(vfiomig_checkpoint_begin, AT_FDCWD, whole, NULL, &cp) != 0 ||
        API(vfiomig_checkpoint_add, cp, world->device, "device", NULL) != 0 ||
        API(vfiomig_checkpoint_stop, cp) != 0 || API(vfiomig_checkpoint_read, cp) != 0 ||
        API(vfiomig_checkpoint_resume, cp, VFIOMIG_CHECKPOINT_RESUME) != 0 ||
        API(vfiomig_checkpoint_commit, cp) != 0)
        die(vfiomig_error_message());
    FREE(vfiomig_checkpoint_free, cp);
    free_world(world, "recording a checkpoint");
}

/* A first message. */
static unsigned char hello[256];
static size_t hello_len;

static void record_hello(void)
{
    struct world *world = new_world();
    struct vfiomig_handover_action action = VFIOMIG_HANDOVER_ACTION_INIT;

    to_handover_state(world, "open");
    if (API(vfiomig_handover_notify, world->handover, VFIOMIG_HANDOVER_EVENT_CONNECTED, 0, 0) != 0 ||
        API(vfiomig_handover_next, world->handover, &action) != 0 ||
        action.action != VFIOMIG_HANDOVER_ACTION_SEND || action.message_len > sizeof hello)
        die("a handover has nothing to say");
    hello_len = action.message_len;
    memcpy(hello, action.message, hello_len);
    free_world(world, "recording a message");
}

/* The row whose world is being made. */
static const struct row *made_for;

static int is_row(const char *name)
{
    return made_for && strcmp(made_for->name, name) == 0;
}

static struct vfiomig_group_options group_options(void)
{
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;

    options.role = is_row("vfiomig_group_add_load") || is_row("vfiomig_group_put") ||
                           is_row("vfiomig_group_commit") || is_row("vfiomig_group_abandon")
                       ? VFIOMIG_GROUP_ROLE_TARGET
                       : VFIOMIG_GROUP_ROLE_SOURCE;
    if (is_row("vfiomig_group_add_channel") || is_row("vfiomig_group_get_channel_stats"))
        options.window = VFIOMIG_GROUP_MIN_WINDOW;
    return options;
}

/* A connected socket: one for all. */
static struct vfiomig_channel_options channel_options(void)
{
    static int pair[2] = { -1, -1 };
    struct vfiomig_channel_options options = VFIOMIG_CHANNEL_OPTIONS_INIT;

    if (pair[0] < 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        abort();
    options.fd = pair[0];
    return options;
}

/* A device that the group keeps when its handle is gone. */
static long add_another(struct world *world, int source)
{
    struct vfiomig_device *device;
    struct world *other = bare_world();
    long r = API(vfiomig_device_new_ops, &other->hooked.ops, other, NULL, &device);

    if (r == 0)
        r = source ? API(vfiomig_group_add_save, world->group, device, NULL)
                   : API(vfiomig_group_add_load, world->group, device, NULL);
    FREE(vfiomig_device_free, device);
    world->another = other;
    return r;
}

/* The world's device is in it, unless the call is to add it. */
static void to_group_state(struct world *world, const char *state)
{
    struct vfiomig_group_options options = group_options();
    int adds = is_row("vfiomig_group_add_save") || is_row("vfiomig_group_add_load");
    long r = API(vfiomig_group_new, &options, &world->group);

    int source = options.role == VFIOMIG_GROUP_ROLE_SOURCE;

    if (r == 0 && !adds)
        r = source ? API(vfiomig_group_add_save, world->group, world->device, NULL)
                   : API(vfiomig_group_add_load, world->group, world->device, NULL);
    if (r == 0 && is_row("vfiomig_group_get_channel_stats")) {
        struct vfiomig_channel_options channel = channel_options();
        r = API(vfiomig_group_add_channel, world->group, &channel);
    }
    if (r == 0 && strcmp(state, "setup") != 0) {
        /* Not the world's device, if that is to be added. */
        if (adds)
            r = add_another(world, source);
        if (r == 0)
            r = API(vfiomig_group_begin, world->group);
    }
    if (r == 0 && strcmp(state, "ended") == 0)
        r = source ? API(vfiomig_group_finish, world->group, VFIOMIG_ENDING_KEEP)
                   : API(vfiomig_group_abandon, world->group);
    if (r != 0)
        die(vfiomig_error_message());
}

/* A first frame. */
static unsigned char group_frame[8192];
static size_t group_frame_len;

static void record_frame(void)
{
    struct world *world = new_world();

    to_group_state(world, "open");
    if (API(vfiomig_group_next, world->group, group_frame, sizeof group_frame, &group_frame_len) < 0)
        die("a group has nothing to send");
    free_world(world, "recording a frame");
}

static void to_state(struct world *world, int object, int state)
{
    if (object == SAVE)
        to_save_state(world, state_names[SAVE][state]);
    else if (object == LOAD)
        to_load_state(world, state_names[LOAD][state]);
    else if (object == DIRTY)
        to_dirty_state(world, state_names[DIRTY][state]);
    else if (object == HANDOVER)
        to_handover_state(world, state_names[HANDOVER][state]);
    else if (object == GROUP)
        to_group_state(world, state_names[GROUP][state]);
    else if (object == INSPECT)
        to_inspect_state(world, state_names[INSPECT][state]);
    else if (object == CHECKPOINT)
        to_checkpoint_state(world, state_names[CHECKPOINT][state]);
    else if (object == RESTORE)
        to_restore_state(world);
    else if (object == ESTIMATE && API(vfiomig_estimate_new, 2, &world->estimate) != 0)
        die("vfiomig_estimate_new");
}

static void *handle_of(struct world *world, int object)
{
    return object == DEVICE ? (void *)world->device
           : object == SAVE ? (void *)world->save
           : object == LOAD ? (void *)world->load
           : object == DIRTY ? (void *)world->dirty
           : object == GROUP ? (void *)world->group
           : object == INSPECT ? (void *)world->inspect
           : object == CHECKPOINT ? (void *)world->checkpoint
           : object == RESTORE    ? (void *)world->restore
           : object == ESTIMATE ? (void *)world->estimate
                                : (void *)world->handover;
}

static int num_states(int object)
{
    int n = 0;

    while (n < MAX_STATES && state_names[object][n])
        n++;
    return n;
}

static int first_state(const struct row *row)
{
    int state = 0;

    while (row->object && !(row->states & 1u << state))
        state++;
    return state;
}

/* A call: arguments that are right, until a check spoils one. */

#define ROOM (16 << 10)

struct frame {
    const struct row *row;
    struct world *world;
    struct world *spare;  /* after ops */
    union argument a[MAX_ARGS];
    _Alignas(16) unsigned char memory[MAX_ARGS][ROOM];
    unsigned char before[MAX_ARGS][ROOM];
    /* Releases of opaques, and how many of them are owed, in all and for what an argument
     * brings. */
    atomic_int released;
    int owed, owed_for[MAX_ARGS];
};

static void count_release(void *opaque)
{
    errno = CALLBACKS_ERRNO;
    ++*(atomic_int *)opaque;
}

static void on_log(void *opaque, uint32_t level, const char *target, const char *message)
{
    (void)opaque;
    (void)level;
    (void)target;
    (void)message;
}

static void on_reason(void *opaque, const struct vfiomig_compat_reason *reason)
{
    (void)opaque;
    errno = CALLBACKS_ERRNO;
    check(reason->struct_size == sizeof *reason && reason->label[0] && reason->text[0],
          "a reason without a label or a text");
}

static void owe(struct frame *frame, int i, int n)
{
    frame->owed += n;
    frame->owed_for[i] += n;
}

/* An argument that nobody can read brings nothing. */
static void owe_nothing_for(struct frame *frame, int i)
{
    owe(frame, i, -frame->owed_for[i]);
}

static int idle_get_key(void *opaque, uint32_t key_id, uint8_t *key)
{
    (void)opaque, (void)key_id;
    memset(key, 1, 32);
    return 0;
}

/* Whether an argument is a structure of this name. */
static int is(const struct frame *frame, int i, const char *type)
{
    return strcmp(frame->row->args[i].type, type) == 0;
}

/* Where an argument has what it points to: after it, and after what tests append to it. */
#define POINTED_AT 4096

static const struct vfiomig_auth *fill_auth(struct frame *frame, int i)
{
    struct vfiomig_auth auth = VFIOMIG_AUTH_INIT;

    auth.get_key = idle_get_key;
    auth.get_key_opaque = &frame->released;
    auth.get_key_release = count_release;
    memcpy(frame->memory[i] + POINTED_AT, &auth, sizeof auth);
    owe(frame, i, 1);
    return (void *)(frame->memory[i] + POINTED_AT);
}

/* What authenticates a checkpoint's streams is said for all of them. */
static int of_checkpoint(const struct row *row)
{
    return row->object == CHECKPOINT || row->object == RESTORE;
}

static void fill_options(struct frame *frame, int i)
{
    static struct vfiomig_guard_ops guard = VFIOMIG_GUARD_OPS_INIT;
    static struct vfiomig_decoder_ops decoder = VFIOMIG_DECODER_OPS_INIT;

    if (is(frame, i, "vfiomig_device_options")) {
        struct vfiomig_device_options *options = (void *)frame->memory[i];

        options->event = idle_event;
        options->event_opaque = &frame->released;
        options->event_release = count_release;
        owe(frame, i, 1);
    } else if (is(frame, i, "vfiomig_save_options")) {
        struct vfiomig_save_options *options = (void *)frame->memory[i];

        if (!of_checkpoint(frame->row))
            options->auth = fill_auth(frame, i);
    } else if (is(frame, i, "vfiomig_load_options")) {
        struct vfiomig_load_options *options = (void *)frame->memory[i];

        options->blob = idle_blob;
        options->blob_opaque = &frame->released;
        options->blob_release = count_release;
        options->policy = idle_policy;
        options->policy_opaque = &frame->released;
        options->policy_release = count_release;
        if (!of_checkpoint(frame->row))
            options->auth = fill_auth(frame, i);
        guard.data = idle_judge;
        guard.release = count_release;
        options->guard = &guard;
        options->guard_opaque = &frame->released;
        owe(frame, i, 3);
    } else if (is(frame, i, "vfiomig_inspect_options")) {
        struct vfiomig_inspect_options *options = (void *)frame->memory[i];

        options->entry_opaque = options->field_opaque = &frame->released;
        options->entry_release = options->field_release = count_release;
        options->auth = fill_auth(frame, i);
        decoder.data = idle_decode;
        decoder.release = count_release;
        options->decoder = &decoder;
        options->decoder_opaque = &frame->released;
        owe(frame, i, 3);
    } else if (strcmp(frame->row->args[i].name, "policy") == 0) {
        struct vfiomig_compat_policy *policy = (void *)frame->memory[i];

        policy->decide = idle_policy;
        policy->decide_opaque = &frame->released;
        policy->decide_release = count_release;
        owe(frame, i, 1);
    }
}

static struct vfiomig_tracker_ops *tracker_of(struct frame *frame, int i)
{
    return (void *)(frame->memory[i] + POINTED_AT);
}

static void fill_in(struct frame *frame, int i)
{
    void *memory = frame->memory[i];

    if (is(frame, i, "vfiomig_group_options")) {
        struct vfiomig_group_options options = group_options();
        memcpy(memory, &options, sizeof options);
    } else if (is(frame, i, "vfiomig_channel_options")) {
        struct vfiomig_channel_options options = channel_options();

        memcpy(memory, &options, sizeof options);
    } else if (is(frame, i, "vfiomig_handover_options")) {
        struct vfiomig_handover_options options = handover_options();

        memcpy(memory, &options, sizeof options);
    } else if (is(frame, i, "vfiomig_memory_ops")) {
        struct vfiomig_memory_ops ops = memory_ops();

        /* Its opaque is not a world. */
        ops.enumerate = NULL;
        ops.release = count_release;
        memcpy(memory, &ops, sizeof ops);
        owe(frame, i, 1);
    } else if (is(frame, i, "vfiomig_dirty_writer")) {
        struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
        struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;

        ops.page_size = PAGE;
        ops.sync = idle_sync;
        ops.release = count_release;
        writer.flags = VFIOMIG_WRITER_CUSTOM;
        writer.device = frame->world->device;
        writer.tracker = tracker_of(frame, i);
        writer.tracker_opaque = &frame->released;
        memcpy(memory, &writer, sizeof writer);
        memcpy(tracker_of(frame, i), &ops, sizeof ops);
        owe(frame, i, 1);
    } else if (frame->row->args[i].size == sizeof(struct vfiomig_identity)) {
        struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;

        strcpy(identity.driver, "mtty");
        memcpy(memory, &identity, sizeof identity);
    } else {
        struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;

        mapping.iova = 1 << 20;
        mapping.size = PAGE;
        mapping.cookie = 1;
        memcpy(memory, &mapping, sizeof mapping);
    }
}

/* Data without a handle is an identity. */
static size_t export_identity(void *memory)
{
    struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
    size_t len = 0;

    strcpy(identity.driver, "mtty");
    if (vfiomig_identity_export(&identity, memory, ROOM, &len) < 0)
        die("no identity");
    return len;
}

/* What an estimate that knows nothing remembers. */
static size_t export_estimate(void *memory)
{
    struct vfiomig_estimate *estimate;
    size_t len = 0;

    if (vfiomig_estimate_new(1, &estimate) < 0 || vfiomig_estimate_export(estimate, 0, memory, ROOM, &len) < 0)
        die("no estimate");
    vfiomig_estimate_free(estimate);
    return len;
}

static int of_handover(const struct row *row)
{
    return strncmp(row->name, "vfiomig_handover_", 17) == 0;
}

static void fill(struct frame *frame, const struct row *row, struct world *world)
{
    size_t data_len = 16;

    memset(frame->memory, 0xa5, sizeof frame->memory);
    frame->row = row;
    frame->world = world;
    frame->spare = NULL;
    frame->released = 0;
    frame->owed = 0;
    memset(frame->owed_for, 0, sizeof frame->owed_for);
    for (int i = 0; i < row->num_args; i++) {
        const struct arg *arg = &row->args[i];
        unsigned char *memory = frame->memory[i];

        frame->a[i].pointer = memory;
        switch (arg->kind) {
        case A_HANDLE:
        case A_FREE:
            frame->a[i].pointer = handle_of(world, arg->object);
            break;
        case A_OPTIONS:
            memset(memory, 0, ROOM);
            memcpy(memory, &(uint32_t){ (uint32_t)arg->size }, 4);
            fill_options(frame, i);
            break;
        case A_IN:
            memset(memory, 0, ROOM);
            fill_in(frame, i);
            break;
        case A_STRUCT:
            memcpy(memory, &(uint32_t){ (uint32_t)arg->size }, 4);
            break;
        case A_OPS:
            frame->spare = bare_world();
            memset(memory, 0, ROOM);
            memcpy(memory, &frame->spare->hooked.ops, arg->size);
            break;
        case A_OPAQUE:
            frame->a[i].pointer = frame->spare                          ? (void *)frame->spare
                                  : i && row->args[i - 1].kind == A_UNMAP ? (void *)world
                                                                          : (void *)&frame->released;
            break;
        case A_DATA:
            if (of_handover(row))
                memcpy(memory, hello, data_len = hello_len);
            else if (row == &rows[ROW_vfiomig_estimate_import])
                data_len = export_estimate(memory);
            else if (row == &rows[ROW_vfiomig_group_put] || row == &rows[ROW_vfiomig_group_get_frame_len])
                memcpy(memory, group_frame, data_len = group_frame_len);
            else if (row->object)
                memcpy(memory, stream, 16);
            else
                data_len = export_identity(memory);
            break;
        case A_LEN:
            frame->a[i].number = i && row->args[i - 1].kind == A_BUFFER ? ROOM
                                 : i && row->args[i - 1].kind == A_DATA ? data_len
                                 : i && row->args[i - 1].kind == A_WORDS ? ROOM / 8
                                                                         : 0;
            break;
        case A_NO_WORDS:
            frame->a[i].pointer = NULL;
            break;
        case A_UNMAP:
            frame->a[i].unmap = on_unmap;
            break;
        case A_REASON:
            frame->a[i].reason = on_reason;
            break;
        case A_FD:
            frame->a[i].number = (uint64_t)open("/dev/null", O_RDWR | O_CLOEXEC);
            break;
        case A_NUMBER:
            frame->a[i].number = (uint64_t)arg->value;
            break;
        case A_LOG:
            frame->a[i].log = on_log;
            break;
        case A_RELEASE:
            frame->a[i].release = count_release;
            owe(frame, i, 1);
            break;
        case A_ENDING:
            frame->a[i].number = VFIOMIG_ENDING_KEEP;
            break;
        case A_TEXT:
            if (row == &rows[ROW_vfiomig_restore_open])
                strcpy((char *)memory, whole);
            else if (row == &rows[ROW_vfiomig_checkpoint_begin])
                sprintf((char *)memory, "%s/%u", directory, checkpoints++);
            else
                strcpy((char *)memory, row->object ? "device" : "/nowhere/at/all");
            break;
        case A_OUT:
        case A_PTR:
        case A_BUFFER:
        case A_WORDS:
            break;
        }
    }
}

static long call(struct frame *frame)
{
    memcpy(frame->before, frame->memory, sizeof frame->memory);
    errno = ODD_ERRNO;
    return documented((enum row_number)(frame->row - rows), frame->row->call(frame->a));
}

static int untouched(const struct frame *frame)
{
    return memcmp(frame->before, frame->memory, sizeof frame->memory) == 0;
}

/* A return value as people read it. */
static const char *code(long r)
{
    static _Thread_local char texts[4][24];
    static _Thread_local unsigned next;
    char *text = texts[next++ % 4];

    snprintf(text, sizeof texts[0], "%ld", r);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].number == -r)
            snprintf(text, sizeof texts[0], "-%s", codes[i].name);
    return text;
}

/* Calls, and checks the error, that nothing was written and that callbacks were released. */
static void refuse(struct frame *frame, long expected, const char *what)
{
    const char *name = frame->row->name;
    long r = call(frame);

    check(r == expected, "%s, %s: %s instead of %s: %s", name, what, code(r), code(expected),
          r < 0 ? vfiomig_error_message() : "success");
    if (r >= 0)
        return;
    check(untouched(frame), "%s, %s: outputs were written", name, what);
    check(frame->released == frame->owed, "%s, %s: callbacks were released %d times, not %d", name,
          what, frame->released, frame->owed);
}

/* What a frame brought to life and opened is freed, and what is released then is released once. */
static void finish(struct frame *frame, const char *what)
{
    const struct row *row = frame->row;
    int made = 0;

    for (int i = 0; i < row->num_args; i++) {
        void *out;

        memcpy(&out, frame->memory[i], sizeof out);
        if (row->args[i].kind == A_FD)
            close((int)frame->a[i].number);
        if (row->args[i].kind == A_LOG)
            vfiomig_log_set(NULL, NULL, NULL, 0);
        if (row->args[i].kind != A_OUT || memcmp(frame->memory[i], frame->before[i], 8) == 0)
            continue;
        made = 1;
        if (row->args[i].object == DEVICE)
            FREE(vfiomig_device_free, out);
        else if (row->args[i].object == SAVE)
            FREE(vfiomig_save_free, out);
        else if (row->args[i].object == LOAD)
            FREE(vfiomig_load_free, out);
        else if (row->args[i].object == DIRTY)
            FREE(vfiomig_dirty_free, out);
        else if (row->args[i].object == GROUP)
            FREE(vfiomig_group_free, out);
        else if (row->args[i].object == INSPECT)
            FREE(vfiomig_inspect_free, out);
        else if (row->args[i].object == CHECKPOINT)
            FREE(vfiomig_checkpoint_free, out);
        else if (row->args[i].object == RESTORE)
            FREE(vfiomig_restore_free, out);
        else if (row->args[i].object == ESTIMATE)
            FREE(vfiomig_estimate_free, out);
        else
            FREE(vfiomig_handover_free, out);
    }
    /* Otherwise a writer lives as long as its tracking object. */
    int number = row == &rows[ROW_vfiomig_dirty_add_writer] ? 2 : -1;
    if (number >= 0 && memcmp(frame->memory[number], frame->before[number], 4) != 0) {
        uint32_t added;

        memcpy(&added, frame->memory[number], sizeof added);
        long r = API(vfiomig_dirty_remove_writer, frame->world->dirty, added);
        check(r == 0, "%s, %s: writer %u cannot be removed: %ld", row->name, what, added, r);
    }
    /* Those in the options of a group's devices live as long as the group. */
    if (frame->released < frame->owed &&
        (row == &rows[ROW_vfiomig_group_add_save] || row == &rows[ROW_vfiomig_group_add_load]))
        FREE(vfiomig_group_free, frame->world->group), frame->world->group = NULL;
    check(frame->released == frame->owed, "%s, %s: callbacks were released %d times in the end",
          row->name, what, frame->released);
    if (frame->spare) {
        check(frame->spare->released <= 1 && (!made || frame->spare->released == 1),
              "%s, %s: ops were released %d times", row->name, what, frame->spare->released);
        vfiomig_sim_free(frame->spare->hooked.sim);
        free(frame->spare);
    }
}

/* A frame in a world of its own, in a state in which the call is allowed. */
static struct frame *new_frame(const struct row *row)
{
    struct frame *frame = malloc(sizeof *frame);
    struct world *world = new_world();
    int free_object = row->num_args && row->args[0].kind == A_FREE ? row->args[0].object : 0;

    if (!frame)
        die("no memory");
    made_for = row;
    to_state(world, row->object ? row->object : free_object, first_state(row));
    made_for = NULL;
    fill(frame, row, world);
    return frame;
}

static void free_frame(struct frame *frame, const char *what)
{
    struct world *world = frame->world;
    const char *name = frame->row->name;

    finish(frame, what);
    free(frame);
    free_world(world, name);
}

#define FOR_ROWS(row) for (const struct row *row = rows; row < rows + NUM_ROWS; row++)

static int takes_handle(const struct row *row)
{
    return row->num_args && row->args[0].kind == A_HANDLE;
}

static int frees_handle(const struct row *row)
{
    return row->num_args && row->args[0].kind == A_FREE;
}

/* Only for loads with VFIOMIG_LOAD_PACKETS, of which there are none here: c-tests/qemu-format.c. */
static int of_packets(const struct row *row)
{
    return row == &rows[ROW_vfiomig_load_push_packet] || row == &rows[ROW_vfiomig_load_write_packets];
}

/* After the commit these are for such loads only. */
static int with_packets_only(const struct row *row, const char *state)
{
    return strcmp(state, "committed") == 0 &&
           (row == &rows[ROW_vfiomig_load_push] || row == &rows[ROW_vfiomig_load_get_space] ||
            row == &rows[ROW_vfiomig_load_push_received]);
}

/* Whether a handle is live: a call that changes nothing says so. */
static int lives(int object, void *handle)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
    struct vfiomig_handover_outcome outcome = VFIOMIG_HANDOVER_OUTCOME_INIT;
    struct vfiomig_group_status group_status = VFIOMIG_GROUP_STATUS_INIT;
    struct vfiomig_inspect_report report = VFIOMIG_INSPECT_REPORT_INIT;
    struct vfiomig_checkpoint_stats numbers = VFIOMIG_CHECKPOINT_STATS_INIT;
    struct vfiomig_downtime downtime = VFIOMIG_DOWNTIME_INIT;

    return 0 == (object == DEVICE ? API(vfiomig_device_get_failure, handle, &failure)
                 : object == SAVE ? API(vfiomig_save_get_failure, handle, &failure)
                 : object == LOAD ? API(vfiomig_load_get_failure, handle, &failure)
                 : object == DIRTY ? API(vfiomig_dirty_get_stats, handle, &stats)
                 : object == GROUP ? API(vfiomig_group_get_status, handle, &group_status)
                 : object == INSPECT ? API(vfiomig_inspect_get_report, handle, &report)
                 : object == CHECKPOINT ? API(vfiomig_checkpoint_get_stats, handle, &numbers)
                 : object == RESTORE    ? API(vfiomig_restore_get_stats, handle, &numbers)
                 : object == ESTIMATE ? API(vfiomig_estimate_get_downtime, handle, 0, &downtime)
                                     : API(vfiomig_handover_get_outcome, handle, &outcome));
}

/* The groups. */

static void null_handles(void)
{
    begin("NULL handle");
    FOR_ROWS(row) {
        if (!takes_handle(row) && !frees_handle(row))
            continue;
        struct frame *frame = new_frame(row);

        frame->a[0].pointer = NULL;
        if (takes_handle(row))
            refuse(frame, -EFAULT, "NULL");
        else
            check(call(frame) == 0 && lives(row->args[0].object,
                                            handle_of(frame->world, row->args[0].object)),
                  "%s: freeing NULL did something", row->name);
        free_frame(frame, "NULL");
    }
    end();
}

static void free_handle(struct world *world, int object)
{
    if (object == DEVICE)
        FREE(vfiomig_device_free, world->device), world->device = NULL, world->let_go = 1;
    else if (object == SAVE)
        FREE(vfiomig_save_free, world->save), world->save = NULL;
    else if (object == LOAD)
        FREE(vfiomig_load_free, world->load), world->load = NULL;
    else if (object == DIRTY)
        FREE(vfiomig_dirty_free, world->dirty), world->dirty = NULL;
    else if (object == GROUP)
        FREE(vfiomig_group_free, world->group), world->group = NULL;
    else if (object == INSPECT)
        FREE(vfiomig_inspect_free, world->inspect), world->inspect = NULL;
    else if (object == CHECKPOINT)
        FREE(vfiomig_checkpoint_free, world->checkpoint), world->checkpoint = NULL;
    else if (object == RESTORE)
        FREE(vfiomig_restore_free, world->restore), world->restore = NULL;
    else if (object == ESTIMATE)
        FREE(vfiomig_estimate_free, world->estimate), world->estimate = NULL;
    else
        FREE(vfiomig_handover_free, world->handover), world->handover = NULL;
}

/* Bits of a handle that say which slot it names (src/capi/handle.rs). */
static unsigned slot_of(const void *handle)
{
    return (unsigned)((uintptr_t)handle >> 8 & 0xfff);
}

/* A world whose handle names the slot of one that was freed: slots are reused in turn. */
static struct world *world_in_slot(int object, const void *freed)
{
    for (int i = 0; i < 400; i++) {
        struct world *world = new_world();

        to_state(world, object, 0);
        if (slot_of(handle_of(world, object)) == slot_of(freed))
            return world;
        free_world(world, "another slot");
        if (i % 3 == 0) /* worlds take two slots: not always the same two together */
            free_world(new_world(), "a slot in between");
    }
    die("a slot is never used again");
    return NULL;
}

static void freed_handles(void)
{
    begin("freed handle");
    FOR_ROWS(row) {
        if (!takes_handle(row) && !frees_handle(row))
            continue;
        int object = row->args[0].object;
        struct frame *frame = new_frame(row);
        struct world *other = NULL;

        /* The second time its slot has a new owner. */
        for (int round = 0; round < 2; round++) {
            if (round == 0) {
                free_handle(frame->world, object);
                if (object == DEVICE)
                    check(frame->world->released == 1, "%s: freeing did not release the ops",
                          row->name);
                if (object == DIRTY)
                    check(frame->world->memory_released == 1 && frame->world->tracker_released == 1,
                          "%s: freeing did not release the memory and the tracker", row->name);
            } else {
                other = world_in_slot(object, frame->a[0].pointer);
            }
            if (takes_handle(row)) {
                int owed = frame->owed;

                frame->released = 0;
                refuse(frame, -EBADF, round ? "freed and reused" : "freed");
                check(frame->owed == owed, "%s: broken test", row->name);
            } else {
                call(frame);
                if (other)
                    check(lives(object, handle_of(other, object)),
                          "%s: a handle freed twice took its slot's new owner along", row->name);
            }
        }
        free_world(other, row->name);
        free_frame(frame, "freed");
    }
    end();
}

static void other_kinds(void)
{
    begin("handle of another kind");
    FOR_ROWS(row) {
        if (!takes_handle(row) && !frees_handle(row))
            continue;
        for (int object = 1; object < NUM_OBJECTS; object++) {
            if (object == row->args[0].object)
                continue;
            struct frame *frame = new_frame(row);
            struct world *other = new_world();

            to_state(other, object, 0);
            frame->a[0].pointer = handle_of(other, object);
            if (takes_handle(row))
                refuse(frame, -EBADF, object_names[object]);
            else
                call(frame);
            check(lives(object, handle_of(other, object)), "%s: ended a %s", row->name,
                  object_names[object]);
            free_world(other, row->name);
            free_frame(frame, object_names[object]);
        }
    }
    end();
}

static void garbage_handles(void)
{
    int on_stack = 0;

    begin("garbage handle");
    FOR_ROWS(row) {
        if (!takes_handle(row) && !frees_handle(row))
            continue;
        struct frame *frame = new_frame(row);
        uintptr_t live = (uintptr_t)frame->a[0].pointer;
        uintptr_t garbage[] = { 1, 8, 4096, UINTPTR_MAX, UINTPTR_MAX / 2, (uintptr_t)&on_stack,
                                (uintptr_t)frame, live ^ 1, live ^ 0x10, live ^ 0x100,
                                live ^ (uintptr_t)1 << 24, live + 4096, ~live };

        for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
            frame->a[0].pointer = (void *)garbage[i];
            frame->released = 0;
            if (takes_handle(row))
                refuse(frame, -EBADF, "garbage");
            else
                call(frame);
        }
        int object = row->args[0].object;
        check(lives(object, handle_of(frame->world, object)), "%s: ended a neighbour", row->name);
        free_frame(frame, "garbage");
    }
    end();
}

static void wrong_states(void)
{
    begin("forbidden state");
    FOR_ROWS(row) {
        for (int state = 0; row->object && state < num_states(row->object); state++) {
            if (row->states & 1u << state)
                continue;
            struct frame *frame = malloc(sizeof *frame);
            struct world *world = new_world();
            const char *name = state_names[row->object][state];
            char text[64];

            if (!frame)
                die("no memory");
            made_for = row;
            to_state(world, row->object, state);
            made_for = NULL;
            /* Twice: the first call has not changed the state. */
            for (int i = 0; i < 2; i++) {
                fill(frame, row, world);
                refuse(frame, -row->wrong_state, name);
                snprintf(text, sizeof text, "not allowed in state %s;", name);
                check(strstr(vfiomig_error_message(), text) != NULL, "%s in %s: the text is %s",
                      row->name, name, vfiomig_error_message());
                finish(frame, name);
            }
            free(frame);
            free_world(world, row->name);
        }
    }
    end();
}

static void right_states(void)
{
    begin("allowed state");
    FOR_ROWS(row) {
        for (int state = 0; row->object && state < num_states(row->object); state++) {
            if (!(row->states & 1u << state))
                continue;
            struct frame *frame = malloc(sizeof *frame);
            struct world *world = new_world();

            if (!frame)
                die("no memory");
            made_for = row;
            to_state(world, row->object, state);
            made_for = NULL;
            fill(frame, row, world);
            long r = call(frame);
            if (with_packets_only(row, state_names[row->object][state]))
                check(r == -EINVAL && strstr(vfiomig_error_message(), "after the commit"),
                      "%s after the commit: %ld, %s", row->name, r, vfiomig_error_message());
            else
                check(r >= 0 || !strstr(vfiomig_error_message(), "not allowed"), "%s in %s: %s",
                      row->name, state_names[row->object][state], vfiomig_error_message());
            finish(frame, "allowed state");
            free(frame);
            free_world(world, row->name);
        }
    }
    end();
}

static void null_pointers(void)
{
    begin("NULL pointer");
    FOR_ROWS(row) {
        for (int i = 0; i < row->num_args; i++) {
            enum arg_kind kind = row->args[i].kind;

            int optional = kind == A_OPTIONS || kind == A_LOG || kind == A_RELEASE ||
                           kind == A_NO_WORDS || kind == A_REASON;

            if (!optional && kind != A_OUT && kind != A_STRUCT && kind != A_IN && kind != A_OPS &&
                kind != A_PTR && kind != A_BUFFER && kind != A_DATA && kind != A_WORDS &&
                kind != A_UNMAP && kind != A_TEXT)
                continue;
            struct frame *frame = new_frame(row);

            if (kind == A_LOG)
                frame->a[i].log = NULL;
            else if (kind == A_RELEASE)
                frame->a[i].release = NULL;
            else if (kind == A_UNMAP)
                frame->a[i].unmap = NULL;
            else if (kind == A_REASON)
                frame->a[i].reason = NULL;
            else
                frame->a[i].pointer = NULL;
            owe_nothing_for(frame, i);
            if (optional) {
                long r = call(frame);

                check(r != -EFAULT, "%s: %s must be allowed to be NULL", row->name,
                      row->args[i].name);
            } else {
                refuse(frame, -EFAULT, row->args[i].name);
            }
            free_frame(frame, row->args[i].name);
        }
    }
    end();
}

/* How large a structure was in its first release: programs of that time go on working. */
static uint32_t first_size(const struct arg *arg)
{
    if (arg->type && strcmp(arg->type, "vfiomig_save_options") == 0)
        return offsetof(struct vfiomig_save_options, auth);
    if (arg->type && strcmp(arg->type, "vfiomig_load_options") == 0)
        return offsetof(struct vfiomig_load_options, source);
    if (arg->type && strcmp(arg->type, "vfiomig_identity") == 0)
        return offsetof(struct vfiomig_identity, driver_srcversion);
    if (arg->kind == A_OPS && arg->size == sizeof(struct vfiomig_device_ops))
        return offsetof(struct vfiomig_device_ops, device_info);
    return (uint32_t)arg->size;
}

static void struct_sizes(void)
{
    begin("struct_size");
    FOR_ROWS(row) {
        for (int i = 0; i < row->num_args; i++) {
            const struct arg *arg = &row->args[i];
            int is_ops = arg->kind == A_OPS;

            if (arg->kind != A_STRUCT && arg->kind != A_OPTIONS && arg->kind != A_IN && !is_ops)
                continue;
            uint32_t first = first_size(arg);
            /* One that is not aligned might end within a pointer. */
            uint32_t wrong[] = { 0, 3, 4, first - 1, first + 1, (uint32_t)arg->size - 1,
                                 (uint32_t)arg->size + 1, (64 << 10) + 1, 1 << 20, INT32_MAX, UINT32_MAX };

            for (size_t n = 0; n < sizeof wrong / sizeof *wrong; n++) {
                struct frame *frame = new_frame(row);
                char what[64];

                snprintf(what, sizeof what, "struct_size %u of %s", wrong[n], arg->name);
                memcpy(frame->memory[i], &wrong[n], 4);
                owe_nothing_for(frame, i); /* nobody can tell where it is */
                refuse(frame, -EINVAL, what);
                if (is_ops)
                    check(frame->spare->released == 0, "%s: unreadable ops were released", row->name);
                free_frame(frame, what);
            }
        }
    }
    end();
}

static void tails(void)
{
    begin("members of a newer version");
    FOR_ROWS(row) {
        for (int i = 0; i < row->num_args; i++) {
            const struct arg *arg = &row->args[i];

            if (arg->kind != A_STRUCT && arg->kind != A_OPTIONS && arg->kind != A_IN &&
                arg->kind != A_OPS)
                continue;
            for (int set = 0; set < 2; set++) {
                struct frame *frame = new_frame(row);
                unsigned char *memory = frame->memory[i];
                size_t newer = arg->size + 24;
                long plain = -1;

                /* The same call with a structure of today. */
                if (!set) {
                    struct frame *today = new_frame(row);
                    plain = call(today);
                    free_frame(today, "today's structure");
                }
                memcpy(memory, &(uint32_t){ (uint32_t)newer }, 4);
                memset(memory + arg->size, 0, 24);
                memory[newer - 1] = set ? 1 : 0;
                if (arg->kind != A_STRUCT && set) {
                    refuse(frame, -E2BIG, "a non-zero tail");
                    if (arg->kind == A_OPS)
                        check(frame->spare->released == 1, "%s: refused ops were not released",
                              row->name);
                } else if (arg->kind != A_STRUCT) {
                    long r = call(frame);
                    check(r == plain, "%s, a zero tail: %s instead of %s", row->name, code(r),
                          code(plain));
                } else {
                    memset(memory + arg->size, set ? 0xa5 : 0, 24);
                    long r = call(frame);
                    unsigned char zeros[24] = { 0 };
                    uint32_t left;

                    memcpy(&left, memory, 4);
                    if (r == 0)
                        check(memcmp(memory + arg->size, zeros, 24) == 0 && left == newer &&
                                  memory[newer] == 0xa5,
                              "%s: what it does not know was not set to zero", row->name);
                    else
                        check(r != -EINVAL && r != -E2BIG && untouched(frame),
                              "%s, an output with a tail: %s", row->name, code(r));
                }
                free_frame(frame, "a tail");
            }
        }
    }
    end();
}

/* Numbers that are not values of the type. */

static long set(struct frame *frame, int i, uint64_t value)
{
    frame->a[i].number = value;
    return -EINVAL;
}

static int arg_of(const struct row *row, const char *name)
{
    for (int i = 0; i < row->num_args; i++)
        if (strcmp(row->args[i].name, name) == 0)
            return i;
    die(name);
    return -1;
}

static void wrong_number(enum row_number number, const char *name, uint64_t value, long expected)
{
    struct frame *frame = new_frame(&rows[number]);
    char what[64];

    snprintf(what, sizeof what, "%s %#llx", name, (unsigned long long)value);
    set(frame, arg_of(frame->row, name), value);
    refuse(frame, expected, what);
    if (frame->row->object)
        check(lives(frame->row->object, handle_of(frame->world, frame->row->object)),
              "%s, %s: the handle is gone", frame->row->name, what);
    free_frame(frame, what);
}

#define WRONG_MEMBER(function, arg, type, member, value, expected)                      \
    do {                                                                                \
        struct frame *frame = new_frame(&rows[ROW_##function]);                         \
        struct type *in = (void *)frame->memory[arg_of(frame->row, #arg)];              \
                                                                                        \
        in->member = value;                                                             \
        refuse(frame, -expected, #member " " #value);                                   \
        free_frame(frame, #member);                                                     \
    } while (0)

/* Several members at once. */
#define WRONG_WRITER(expected, what, ...)                                                        \
    do {                                                                                         \
        struct frame *frame = new_frame(&rows[ROW_vfiomig_dirty_add_writer]);                    \
        int arg = arg_of(frame->row, "writer");                                                  \
        struct vfiomig_dirty_writer *writer = (void *)frame->memory[arg];                        \
        struct vfiomig_tracker_ops *tracker = tracker_of(frame, arg);                            \
                                                                                                 \
        (void)writer, (void)tracker;                                                             \
        __VA_ARGS__;                                                                             \
        refuse(frame, -expected, what);                                                          \
        free_frame(frame, what);                                                                 \
    } while (0)

#define WRONG_MAPPING(what, ...)                                                                 \
    do {                                                                                         \
        struct frame *frame = new_frame(&rows[ROW_vfiomig_dirty_map]);                           \
        struct vfiomig_mapping *mapping = (void *)frame->memory[arg_of(frame->row, "mapping")];  \
                                                                                                 \
        __VA_ARGS__;                                                                             \
        refuse(frame, -EINVAL, what);                                                            \
        free_frame(frame, what);                                                                 \
    } while (0)

static void wrong_writers(void)
{
    static const uint64_t page_sizes[] = { 0, 1, 256, 511, 3000, 4097, (uint64_t)2 << 30, UINT64_MAX };

    WRONG_WRITER(EINVAL, "flag 32", writer->flags |= 32);
    WRONG_WRITER(EINVAL, "another flag", writer->flags |= 1u << 31);
    WRONG_WRITER(EFAULT, "a log of no device",
                 writer->flags |= VFIOMIG_WRITER_DEVICE_LOG; writer->device = NULL);
    WRONG_WRITER(EBADF, "no device", writer->device = (void *)frame);
    WRONG_WRITER(EBADF, "a tracking object as its device", writer->device = (void *)frame->world->dirty);
    WRONG_WRITER(EINVAL, "no iommufd",
                 writer->flags |= VFIOMIG_WRITER_HWPT; writer->iommufd = -1; writer->hwpt_id = 1);
    WRONG_WRITER(EINVAL, "no page table", writer->flags |= VFIOMIG_WRITER_HWPT; writer->hwpt_id = 0);
    WRONG_WRITER(EINVAL, "pages of three bytes", writer->flags |= VFIOMIG_WRITER_HWPT;
                 writer->hwpt_id = 1; writer->hwpt_page_size = 3);
    WRONG_WRITER(EINVAL, "no container",
                 writer->flags |= VFIOMIG_WRITER_TYPE1; writer->container_fd = -1);
    WRONG_WRITER(EINVAL, "the lowest fd",
                 writer->flags |= VFIOMIG_WRITER_TYPE1; writer->container_fd = INT32_MIN);
    /* Of its tracker, which is taken over once its table can be read. */
    WRONG_WRITER(EFAULT, "no tracker", writer->tracker = NULL; owe_nothing_for(frame, arg));
    WRONG_WRITER(EINVAL, "a tracker of no size", tracker->struct_size = 0; owe_nothing_for(frame, arg));
    WRONG_WRITER(EINVAL, "a shorter tracker",
                 tracker->struct_size -= 1; owe_nothing_for(frame, arg));
    WRONG_WRITER(E2BIG, "a tracker with a tail", tracker->struct_size += 8;
                 memset(tracker + 1, 1, 8));
    WRONG_WRITER(EINVAL, "a tracker without sync", tracker->sync = NULL);
    WRONG_WRITER(EINVAL, "a tracker's reserved", tracker->reserved = 1);
    for (size_t i = 0; i < sizeof page_sizes / sizeof *page_sizes; i++)
        WRONG_WRITER(EINVAL, "a tracker's pages", tracker->page_size = page_sizes[i]);
}

static void wrong_mappings(void)
{
    WRONG_MAPPING("flag 8", mapping->flags = 8);
    WRONG_MAPPING("another flag", mapping->flags = 1u << 31);
    WRONG_MAPPING("nothing", mapping->size = 0);
    WRONG_MAPPING("not in pages", mapping->iova += 1);
    WRONG_MAPPING("half a page", mapping->size = PAGE / 2);
    WRONG_MAPPING("an offset not in pages", mapping->offset = 512);
    WRONG_MAPPING("a wrapping one", mapping->iova = UINT64_MAX - PAGE + 1; mapping->size = 2 * PAGE);
    WRONG_MAPPING("a wrapping offset", mapping->offset = UINT64_MAX - PAGE + 1;
                  mapping->size = 2 * PAGE);
    WRONG_MAPPING("a wrapping host address", mapping->host = (void *)(UINTPTR_MAX - 100));
    WRONG_MAPPING("too much", mapping->size = (uint64_t)1 << 60);
    WRONG_MAPPING("one that is there", mapping->iova = 0);
    WRONG_MAPPING("one that overlaps", mapping->iova = RAM_SIZE - PAGE; mapping->size = 2 * PAGE);
    WRONG_MAPPING("one around another", mapping->iova = 0; mapping->size = 1 << 20);
    WRONG_MAPPING("an empty window", mapping->flags = VFIOMIG_MAPPING_WINDOW; mapping->size = 0);
    WRONG_MAPPING("a wrapping window", mapping->flags = VFIOMIG_MAPPING_WINDOW;
                  mapping->iova = UINT64_MAX - PAGE + 1; mapping->size = 2 * PAGE);
}

/* Ranges and bitmaps, for which what is wrong depends on both. */
static void wrong_bitmap(enum row_number number, uint64_t page_size, int offset, uint64_t words,
                         int null, long expected)
{
    struct frame *frame = new_frame(&rows[number]);
    int bitmap = arg_of(frame->row, "bitmap");
    char what[96];

    snprintf(what, sizeof what, "pages of %#llx, %#llx words at %s%+d",
             (unsigned long long)page_size, (unsigned long long)words, null ? "NULL" : "", offset);
    set(frame, arg_of(frame->row, "page_size"), page_size);
    set(frame, arg_of(frame->row, "num_words"), words);
    frame->a[bitmap].pointer = null ? NULL : frame->memory[bitmap] + offset;
    refuse(frame, expected, what);
    free_frame(frame, what);
}

static void wrong_ranges(void)
{
    enum row_number both[] = { ROW_vfiomig_dirty_sync, ROW_vfiomig_dirty_unmap };
    enum row_number accesses[] = { ROW_vfiomig_dirty_dma_read, ROW_vfiomig_dirty_dma_write };
    static const uint64_t page_sizes[] = { 1, 256, 511, 513, 4097, 12288, (uint64_t)1 << 63, UINT64_MAX };

    for (int i = 0; i < 2; i++) {
        const char *length = i ? "size" : "length";

        wrong_number(both[i], "iova", 1, -EINVAL);
        wrong_number(both[i], "iova", UINT64_MAX - 100, -EINVAL);
        wrong_number(both[i], "iova", UINT64_MAX - PAGE + 1, 0);
        wrong_number(both[i], length, 0, -EINVAL);
        wrong_number(both[i], length, 1, -EINVAL);
        wrong_number(both[i], length, UINT64_MAX, -EINVAL);
        wrong_number(both[i], length, UINT64_MAX - PAGE + 1, i ? 0 : -EINVAL);
        for (size_t n = 0; n < sizeof page_sizes / sizeof *page_sizes; n++)
            wrong_bitmap(both[i], page_sizes[n], 0, 64, 0, -EINVAL);
        wrong_bitmap(both[i], 0, 0, 64, 0, -EINVAL);
        wrong_bitmap(both[i], PAGE, 0, 0, 0, -ENOSPC);
        wrong_bitmap(both[i], PAGE, 1, 64, 0, -EINVAL);
        wrong_bitmap(both[i], PAGE, 4, 64, 0, -EINVAL);
        wrong_bitmap(both[i], PAGE, 0, SIZE_MAX, 0, -EINVAL);
        wrong_bitmap(both[i], PAGE, 0, 64, 1, -EFAULT);
        wrong_bitmap(both[i], PAGE, 0, 0, 1, -EFAULT);
        wrong_bitmap(both[i], 0, 0, 64, 1, -EFAULT);
    }
    wrong_bitmap(ROW_vfiomig_dirty_sync, 0, 0, 0, 1, -EFAULT);
    wrong_number(ROW_vfiomig_dirty_mark, "length", 0, -EINVAL);
    wrong_number(ROW_vfiomig_dirty_mark, "length", UINT64_MAX, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_mark, "length", RAM_SIZE + 1, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_mark, "iova", UINT64_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_dirty_mark, "iova", RAM_SIZE, -ENODATA);
    for (int i = 0; i < 2; i++) {
        wrong_number(accesses[i], "len", 0, -EINVAL);
        wrong_number(accesses[i], "len", SIZE_MAX, -EINVAL);
        wrong_number(accesses[i], "iova", UINT64_MAX, -EINVAL);
        wrong_number(accesses[i], "iova", UINT64_MAX - (1 << 20), -ENODATA);
        wrong_number(accesses[i], "iova", RAM_SIZE - 1, -ENODATA);
    }
    wrong_number(ROW_vfiomig_dirty_get_round, "index", UINT32_MAX, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_get_round, "index", 1, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_get_error, "index", UINT32_MAX, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_get_error, "index", 1, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_get_writer_stats, "number", 2, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_get_writer_stats, "number", VFIOMIG_NO_WRITER, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_remove_writer, "number", 2, -ENODATA);
    wrong_number(ROW_vfiomig_dirty_remove_writer, "number", VFIOMIG_NO_WRITER, -ENODATA);
}

static void values_of_runs(void)
{
    static const uint64_t page_sizes[] = { 1, 512, 2048, 4097, 12288, (uint64_t)2 << 30, UINT64_MAX };
    static const uint32_t buffers[] = { 1, 8, 4088, 4097, 4100, (32 << 20) + 8, UINT32_MAX };

    begin("invalid values of dirty tracking");
    WRONG_MEMBER(vfiomig_dirty_new, ops, vfiomig_memory_ops, reserved, 1, EINVAL);
    for (size_t i = 0; i < sizeof page_sizes / sizeof *page_sizes; i++)
        WRONG_MEMBER(vfiomig_dirty_new, options, vfiomig_dirty_options, page_size, page_sizes[i], EINVAL);
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        WRONG_MEMBER(vfiomig_dirty_new, options, vfiomig_dirty_options, buffer_bytes, buffers[i], EINVAL);
    wrong_writers();
    wrong_mappings();
    wrong_ranges();
    end();
}

static void wrong_histories(void)
{
    static const enum row_number rows_of[] = { ROW_vfiomig_device_get_history, ROW_vfiomig_group_get_history };

    for (size_t i = 0; i < sizeof rows_of / sizeof *rows_of; i++) {
        wrong_number(rows_of[i], "format", 0, -EINVAL);
        wrong_number(rows_of[i], "format", 3, -EINVAL);
        wrong_number(rows_of[i], "cap", 1, -ENOSPC);
    }
}

static void wrong_estimates(void)
{
    wrong_histories();
    wrong_number(ROW_vfiomig_estimate_new, "num_devices", VFIOMIG_ESTIMATE_MAX_DEVICES + 1, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_observe, "observation", 0, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_observe, "observation", 22, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_observe, "device", 2, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_observe_pending, "device", 2, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_predict, "device", 2, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_get_downtime, "device", 2, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_decide, "flags", 2, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_export, "device", VFIOMIG_ESTIMATE_ALL, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_export, "cap", VFIOMIG_ESTIMATE_BYTES - 1, -ENOSPC);
    wrong_number(ROW_vfiomig_estimate_import, "device", 2, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_import, "side", 0, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_import, "side", 3, -EINVAL);
    wrong_number(ROW_vfiomig_estimate_import, "len", VFIOMIG_ESTIMATE_BYTES - 1, -EBADMSG);
}

static void values(void)
{
    begin("invalid flags and values");
    for (enum row_number row = ROW_vfiomig_device_new_fd; row <= ROW_vfiomig_device_new_ops; row++) {
        struct {
            uint32_t flags, reserved, len;
            const char *data;
            long expected;
        } wrong[] = { { 2, 0, 0, NULL, -EINVAL },   { 1u << 31, 0, 0, NULL, -EINVAL },
                      { 0, 1, 0, NULL, -EINVAL },   { 0, 0, 257, "x", -EINVAL },
                      { 0, 0, 1, NULL, -EFAULT } };

        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            struct frame *frame = new_frame(&rows[row]);
            struct vfiomig_device_options *options =
                (void *)frame->memory[arg_of(frame->row, "options")];

            options->flags = wrong[i].flags;
            options->reserved = wrong[i].reserved;
            options->vendor_data = wrong[i].data;
            options->vendor_data_len = wrong[i].len;
            refuse(frame, wrong[i].expected, "device options");
            if (frame->spare)
                check(frame->spare->released == 1, "%s: the ops were not released", rows[row].name);
            free_frame(frame, "device options");
        }
    }
    WRONG_MEMBER(vfiomig_device_new_ops, ops, vfiomig_device_ops, feature, NULL, EINVAL);
    WRONG_MEMBER(vfiomig_device_new_ops, ops, vfiomig_device_ops, reserved, 1, EINVAL);
    WRONG_MEMBER(vfiomig_save_begin, options, vfiomig_save_options, flags, 4, EINVAL);
    WRONG_MEMBER(vfiomig_save_begin, options, vfiomig_save_options, flags, 1u << 31, EINVAL);
    WRONG_MEMBER(vfiomig_save_begin, options, vfiomig_save_options, flags, 8, EINVAL);
    WRONG_MEMBER(vfiomig_save_begin, options, vfiomig_save_options, format, 2, EINVAL);
    WRONG_MEMBER(vfiomig_save_begin, options, vfiomig_save_options, max_frame, UINT32_MAX, EINVAL);
    WRONG_MEMBER(vfiomig_load_begin, options, vfiomig_load_options, flags, 4, EINVAL);
    WRONG_MEMBER(vfiomig_load_begin, options, vfiomig_load_options, flags, 1u << 31, EINVAL);
    WRONG_MEMBER(vfiomig_load_begin, options, vfiomig_load_options, ignore, 256, EINVAL);
    WRONG_MEMBER(vfiomig_load_begin, options, vfiomig_load_options, reserved, 1, EINVAL);
    WRONG_MEMBER(vfiomig_load_begin, options, vfiomig_load_options, format, 2, EINVAL);
    /* It carries no identity for the policy, which is set. */
    WRONG_MEMBER(vfiomig_load_begin, options, vfiomig_load_options, format, 1, EINVAL);
    WRONG_MEMBER(vfiomig_load_begin, options, vfiomig_load_options, max_frame, UINT32_MAX, EINVAL);
    WRONG_MEMBER(vfiomig_load_begin, options, vfiomig_load_options, max_blob, UINT32_MAX, EINVAL);

    wrong_number(ROW_vfiomig_device_new_fd, "fd", (uint64_t)-1, -EINVAL);
    /* Not open. QEMU's emulator of programs knows no VFIO, and says so before it looks at the fd. */
    const char *emulator = getenv("EMULATOR");
    wrong_number(ROW_vfiomig_device_new_fd, "fd", 1 << 20, emulator && *emulator ? -ENOTTY : -EINVAL);
    wrong_number(ROW_vfiomig_process_set_allowed, "directions", 4, -EINVAL);
    wrong_number(ROW_vfiomig_process_set_allowed, "directions", UINT32_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_policy_add_file, "flags", 2, -EINVAL);
    wrong_number(ROW_vfiomig_policy_add_file, "dir_fd", (uint64_t)-1, -EINVAL);
    wrong_number(ROW_vfiomig_policy_add_file, "dir_fd", 1000000, -EINVAL);
    wrong_number(ROW_vfiomig_log_set, "level", 6, -EINVAL);
    wrong_number(ROW_vfiomig_log_set, "level", UINT32_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_save_finish, "ending", 0, -EINVAL);
    wrong_number(ROW_vfiomig_save_finish, "ending", 99, -EINVAL);
    wrong_number(ROW_vfiomig_save_finish, "ending", UINT32_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_save_finish, "ending", VFIOMIG_ENDING_RELEASE, -EINVAL); /* incomplete */
    wrong_number(ROW_vfiomig_save_next, "cap", 0, -ENOSPC);
    wrong_number(ROW_vfiomig_save_next, "cap", VFIOMIG_MIN_BUFFER - 1, -ENOSPC);
    wrong_number(ROW_vfiomig_save_next, "cap", SIZE_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_save_add_blob, "len", SIZE_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_load_push, "len", SIZE_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_load_push_packet, "len", SIZE_MAX, -EINVAL);
    WRONG_MEMBER(vfiomig_handover_new, options, vfiomig_handover_options, role, 3, EINVAL);
    WRONG_MEMBER(vfiomig_handover_new, options, vfiomig_handover_options, attempt, 0, EINVAL);
    WRONG_MEMBER(vfiomig_handover_new, options, vfiomig_handover_options, num_devices, 0, EINVAL);
    WRONG_MEMBER(vfiomig_handover_new, options, vfiomig_handover_options, num_devices, 257, EINVAL);
    WRONG_MEMBER(vfiomig_handover_new, options, vfiomig_handover_options, migration_id[0], 0, EINVAL);
    WRONG_MEMBER(vfiomig_handover_new, options, vfiomig_handover_options, reserved, 1, EINVAL);
    WRONG_MEMBER(vfiomig_group_new, options, vfiomig_group_options, role, 0, EINVAL);
    WRONG_MEMBER(vfiomig_group_new, options, vfiomig_group_options, role, 3, EINVAL);
    WRONG_MEMBER(vfiomig_group_new, options, vfiomig_group_options, flags, 2, EINVAL);
    WRONG_MEMBER(vfiomig_group_new, options, vfiomig_group_options, reserved, 1, EINVAL);
    WRONG_MEMBER(vfiomig_group_new, options, vfiomig_group_options, window, 1, EINVAL);
    WRONG_MEMBER(vfiomig_group_add_channel, options, vfiomig_channel_options, flags, 1, EINVAL);
    WRONG_MEMBER(vfiomig_group_add_channel, options, vfiomig_channel_options, fd, -1, EINVAL);
    wrong_number(ROW_vfiomig_group_get_failure, "device", 1, -EINVAL);
    wrong_number(ROW_vfiomig_group_get_pending, "device", UINT32_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_group_work, "until", 3, -EINVAL);
    wrong_number(ROW_vfiomig_group_get_frame_len, "header_len", VFIOMIG_GROUP_HEADER - 1, -EINVAL);
    wrong_estimates();
    wrong_number(ROW_vfiomig_handover_notify, "event", 0, -EINVAL);
    wrong_number(ROW_vfiomig_handover_notify, "event", 16, -EINVAL);
    wrong_number(ROW_vfiomig_handover_notify, "event", VFIOMIG_HANDOVER_EVENT_RUNNING, -EINVAL);
    wrong_number(ROW_vfiomig_handover_peer_fenced, "fence", 2, -EINVAL);
    wrong_number(ROW_vfiomig_handover_set_identity, "device", 1, -EINVAL);
    wrong_number(ROW_vfiomig_handover_set_identity, "len", VFIOMIG_HANDOVER_MAX_IDENTITY + 1, -EMSGSIZE);
    wrong_number(ROW_vfiomig_handover_get_initial_loaded, "device", UINT32_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_handover_receive, "len", 0, -EPROTO);
    wrong_number(ROW_vfiomig_handover_get_message_len, "header_len", VFIOMIG_HANDOVER_HEADER - 1, -EINVAL);
    for (uint32_t state = 0; state < 10; state++)
        if (state != VFIOMIG_STATE_STOP && state != VFIOMIG_STATE_RUNNING &&
            state != VFIOMIG_STATE_RUNNING_P2P)
            wrong_number(ROW_vfiomig_device_set_state, "state", state, -EINVAL);
    wrong_number(ROW_vfiomig_device_set_state, "state", UINT32_MAX, -EINVAL);
    wrong_number(ROW_vfiomig_device_get_reason, "index", UINT32_MAX, -ENODATA);
    wrong_number(ROW_vfiomig_fsm_path, "from", VFIOMIG_STATE_UNKNOWN, -EINVAL);
    wrong_number(ROW_vfiomig_fsm_path, "to", VFIOMIG_STATE_ERROR, -EINVAL);
    wrong_number(ROW_vfiomig_fsm_path, "migration_flags", 0, -EINVAL);

    check(strcmp(vfiomig_state_name(VFIOMIG_STATE_UNKNOWN), "UNKNOWN") == 0, "a name of no state");
    check(strcmp(vfiomig_error_describe(1), "unknown error") == 0, "a text of no error");
    check(vfiomig_version() == VFIOMIG_VERSION, "the header and the library are not of a version");
    end();
}

/* A device with a session has no room for another, whatever is tried. */
static void second_sessions(void)
{
    enum row_number numbers[] = { ROW_vfiomig_save_begin, ROW_vfiomig_load_begin,
                                  ROW_vfiomig_device_set_state, ROW_vfiomig_device_run };

    begin("a session is open");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        for (int object = SAVE; object <= LOAD; object++) {
            struct frame *frame = new_frame(&rows[numbers[i]]);

            to_state(frame->world, object, 0);
            refuse(frame, -EBUSY, object_names[object]);
            check(lives(object, handle_of(frame->world, object)), "%s: ended a %s",
                  frame->row->name, object_names[object]);
            free_frame(frame, object_names[object]);
        }
    }
    end();
}

/* In a child after fork() the parent's handles are not live, and its devices are left alone. */

static void in_child(const struct row *row)
{
    struct frame *frame = new_frame(row);
    int object = row->args[0].object;
    uint64_t operations = vfiomig_sim_count(frame->world->hooked.sim, VFIOMIG_SIM_OP_ANY);
    int *found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = -1;

    if (found == MAP_FAILED)
        die("no shared memory");
    *found = -1;
    memcpy(frame->before, frame->memory, sizeof frame->memory);
    pid_t child = fork();
    if (child == 0) {
        unsigned failed_before = group_failed;

        alarm(60); /* one that waits forever ends too */
        if (takes_handle(row)) {
            refuse(frame, -EBADF, "in a child");
            check(strstr(vfiomig_error_message(), "fork") != NULL, "%s in a child: the text is %s",
                  row->name, vfiomig_error_message());
        } else {
            call(frame);
        }
        check(vfiomig_sim_count(frame->world->hooked.sim, VFIOMIG_SIM_OP_ANY) == operations &&
                  frame->world->released == 0 && frame->world->memory_released == 0 &&
                  frame->world->tracker_released == 0,
              "%s in a child called back", row->name);
        fflush(stdout);
        *found = group_failed != failed_before;
        kill(getpid(), SIGKILL); /* nobody looks for leaks in a child */
    }
    int ended = waitpid(child, &status, 0) == child;
    check(ended && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && *found == 0,
          "%s in a child: status %#x, and found %d", row->name, (unsigned)status, *found);
    munmap(found, sizeof *found);
    check(lives(object, handle_of(frame->world, object)), "%s in a child ended it here", row->name);
    frame->owed = 0; /* the child's frame owed it */
    free_frame(frame, "after a child's call");
}

static void handles_of_the_parent(void)
{
    begin("handle of the parent process");
    FOR_ROWS(row)
        if (takes_handle(row) || frees_handle(row))
            in_child(row);
    end();
}

/* Calls inside calls. */

/* What takes the library into the operation that has the hook. */
static void outer(struct world *world)
{
    static _Thread_local char buf[STATE_SIZE];
    uint32_t state;
    size_t len;

    if (world->save)
        for (int i = 0; i < 8 && world->hook; i++)
            (void)API(vfiomig_save_next, world->save, buf, sizeof buf, &len);
    else if (world->load)
        (void)API(vfiomig_load_push, world->load, stream, stream_len);
    else if (world->dirty)
        (void)API(vfiomig_dirty_collect, world->dirty);
    else if (world->checkpoint)
        (void)API(vfiomig_checkpoint_read, world->checkpoint);
    else if (world->restore)
        (void)API(vfiomig_restore_load, world->restore, "device", world->device, NULL);
    else
        API(vfiomig_device_get_state, world->device, &state);
}

/* Whether something else than its handle keeps the device. */
static int is_kept(const struct world *world)
{
    return world->save || world->load || world->dirty || world->checkpoint || world->restore;
}

static uint32_t hook_op(int object)
{
    return object == SAVE    ? VFIOMIG_SIM_OP_READ
           : object == LOAD  ? VFIOMIG_SIM_OP_WRITE
           : object == DIRTY ? HOOK_SYNC
                             : VFIOMIG_SIM_OP_GET_STATE;
}

static int inside;

/* Whether a callback with this number runs while the device is in use, and not only the tracking
 * object. */
static int holds_device(uint32_t op)
{
    return op < HOOK_ENUMERATE;
}

/* Whether a call is let in: also one that then says that no event waits, or that nobody asked for any. */
static int is_let_in(const struct row *row, long r)
{
    int of_events = row == &rows[ROW_vfiomig_device_next_event] || row == &rows[ROW_vfiomig_group_next_event];
    return r >= 0 || (of_events && (r == -EAGAIN || r == -ENODATA));
}

static void call_inside(struct world *world)
{
    const struct row *row = world->row;
    struct frame *frame = malloc(sizeof *frame);
    int own = takes_handle(row) || frees_handle(row) ? row->args[0].object : 0;

    if (!frame)
        die("no memory");
    fill(frame, row, world);
    inside = 1;
    if (takes_handle(row) && !row->concurrent && (own != DEVICE || holds_device(world->hook_op)) &&
        !(row->no_wait && is_kept(world))) {
        refuse(frame, -EBUSY, "from a callback");
    } else if (row == &rows[ROW_vfiomig_restore_load]) {
        /* Its handle is free, and its device is not. */
        check(call(frame) == -EBUSY, "%s from a callback: %s", row->name, vfiomig_error_message());
    } else if (frees_handle(row) && own == RESTORE) {
        call(frame);
        world->restore = NULL;
    } else if (frees_handle(row) && own == DEVICE && is_kept(world)) {
        /* Its own: the session or tracking object keeps the device, and the handle may be freed. */
        call(frame);
        world->device = NULL;
        world->let_go = 1;
    } else {
        long r = call(frame);
        check(is_let_in(row, r) || row->args[0].kind == A_FD || (of_packets(row) && r == -EINVAL) ||
                  strcmp(row->name, "vfiomig_log_init_env") == 0,
              "%s from a callback: %s: %s", row->name, code(r), vfiomig_error_message());
    }
    finish(frame, "from a callback");
    free(frame);
}

static void callbacks(void)
{
    begin("call from a callback");
    FOR_ROWS(row) {
        int own = takes_handle(row) || frees_handle(row) ? row->args[0].object : 0;
        /* Those of dirty tracking: of its tables, and of a device whose log it reads. */
        struct { int object; uint32_t op; } from[] = {
            { DEVICE, VFIOMIG_SIM_OP_GET_STATE }, { SAVE, VFIOMIG_SIM_OP_READ },
            { LOAD, VFIOMIG_SIM_OP_WRITE },       { DIRTY, HOOK_SYNC },
            { DIRTY, HOOK_SET_DIRTY },            { DIRTY, VFIOMIG_SIM_OP_GET_STATE },
            { CHECKPOINT, VFIOMIG_SIM_OP_READ },  { RESTORE, VFIOMIG_SIM_OP_WRITE },
        };

        for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
            int object = from[i].object;

            /* Functions of a device also from callbacks of its sessions and tracking objects. */
            if (own && own != object && own != DEVICE)
                continue;
            struct world *world = new_world();

            /* The second state of a tracking object, or of a checkpoint, is the one in which it is read. */
            to_state(world, object, object == DIRTY || object == CHECKPOINT);
            world->row = row;
            world->hook_op = from[i].op;
            world->hook = call_inside;
            inside = 0;
            outer(world);
            check(inside, "%s: the callback was not reached", row->name);
            check(lives(object, handle_of(world, object)) || !handle_of(world, object) || !world->device,
                  "%s from a callback: the %s is gone", row->name, object_names[object]);
            free_world(world, row->name);
        }
    }
    end();
}

/* The other callbacks. */

static struct world *current;
static int seen;

static void busy_here(const char *what)
{
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    long r = API(vfiomig_device_get_caps, current->device, &caps);

    seen++;
    check(r == -EBUSY, "a call from %s: %s", what, code(r));
    if (current->load) {
        struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;

        r = API(vfiomig_load_get_failure, current->load, &failure);
        check(r == -EBUSY, "a call from %s: %s", what, code(r));
        r = API(vfiomig_load_get_stats, current->load, &stats);
        check(r == 0, "a concurrent call from %s: %s", what, code(r));
    }
}

static void busy_event(void *opaque, const struct vfiomig_event *event)
{
    (void)opaque;
    check(event->struct_size >= sizeof *event, "an event of size %u", event->struct_size);
    if (current && current->device)
        busy_here("an event callback");
}

static int busy_blob(void *opaque, uint32_t kind, const void *data, size_t len)
{
    (void)opaque;
    check(kind == 5 && len == 3 && memcmp(data, "abc", 3) == 0, "a blob that nobody sent");
    busy_here("a blob callback");
    return 0;
}

static int busy_policy(void *opaque, const struct vfiomig_identity *source,
                       const struct vfiomig_identity *target)
{
    (void)opaque;
    check(source->struct_size >= sizeof *source && target->struct_size >= sizeof *target,
          "identities without sizes");
    busy_here("a policy callback");
    return 0;
}

static void other_callbacks(void)
{
    struct vfiomig_device_options device_options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_load_options load_options = VFIOMIG_LOAD_OPTIONS_INIT;
    atomic_int released = 0;
    static char buf[STATE_SIZE];
    struct world *from = new_world();
    size_t len;
    long r;

    begin("call from event, blob and policy callbacks");
    current = bare_world();
    device_options.event = busy_event;
    device_options.event_opaque = &released;
    device_options.event_release = count_release;
    load_options.blob = busy_blob;
    load_options.blob_opaque = &released;
    load_options.blob_release = count_release;
    load_options.policy = busy_policy;
    load_options.policy_opaque = &released;
    load_options.policy_release = count_release;
    r = API(vfiomig_device_new_ops, &current->hooked.ops, current, &device_options, &current->device);
    check(r == 0, "vfiomig_device_new_ops: %s", vfiomig_error_message());
    r = API(vfiomig_load_begin, current->device, &load_options, &current->load);
    check(r == 0 && seen > 0, "no event while a load began");
    seen = 0;
    check(API(vfiomig_save_begin, from->device, NULL, &from->save) == 0, "save_begin");
    check(API(vfiomig_save_add_blob, from->save, 5, "abc", 3) == 0, "save_blob");
    check(API(vfiomig_save_stop, from->save) == 0, "save_stop");
    do {
        r = API(vfiomig_save_next, from->save, buf, sizeof buf, &len);
        if (!check(r >= 0, "%s", vfiomig_error_message()))
            break;
        long pushed = API(vfiomig_load_push, current->load, buf, len);
        if (!check(pushed >= 0, "%s", vfiomig_error_message()))
            break;
    } while (r != VFIOMIG_NEXT_END);
    check(seen == 2, "blob and policy callbacks were called %d times", seen);
    check(API(vfiomig_load_commit, current->load) == 0, "%s", vfiomig_error_message());
    check(released == 0, "callbacks were released while they were in use");
    free_handle(current, LOAD);
    check(released == 2, "a freed load has released %d callbacks, not 2", released);
    struct world *target = current;
    current = NULL;
    free_world(target, "other callbacks");
    check(released == 3, "a freed device has released %d callbacks, not 3", released);
    free_world(from, "other callbacks");
    end();
}

/* All callbacks of dirty tracking. */

static int run_callbacks_seen[END_OF_HOOKS];

/* Every function of the tracking object is refused, except the one that cancels; the device is
 * free. */
static void busy_run(struct world *world)
{
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    uint32_t op = world->hook_op;

    run_callbacks_seen[op]++;
    FOR_ROWS(row) {
        if (!takes_handle(row) || row->args[0].object != DIRTY || row->concurrent)
            continue;
        struct frame *frame = malloc(sizeof *frame);

        if (!frame)
            die("no memory");
        fill(frame, row, world);
        refuse(frame, -EBUSY, "from a callback of dirty tracking");
        finish(frame, "from a callback of dirty tracking");
        free(frame);
    }
    FREE(vfiomig_dirty_free, world->dirty);
    long r = API(vfiomig_device_get_caps, world->device, &caps);
    check(r == 0, "a device in callback %u of dirty tracking: %s", op, code(r));
    r = API(vfiomig_dirty_cancel, world->dirty);
    check(r == 0, "cancelling in callback %u of dirty tracking: %s", op, code(r));
}

static void callbacks_of_runs(void)
{
    static uint64_t bitmap[1];
    char buf[RAM_SIZE];

    begin("call from every callback of dirty tracking");
    for (uint32_t op = HOOK_ENUMERATE; op < END_OF_HOOKS; op++) {
        struct world *world = new_world();
        int start = op == HOOK_ENUMERATE || op == HOOK_START;

        to_state(world, DIRTY, !start);
        world->hook_op = op;
        world->hook = busy_run;
        long r = start                                      ? API(vfiomig_dirty_start, world->dirty)
                 : op == HOOK_READ                          ? API(vfiomig_dirty_dma_read, world->dirty, 0, buf, sizeof buf)
                 : op == HOOK_WRITE                         ? API(vfiomig_dirty_dma_write, world->dirty, 0, buf, sizeof buf)
                 : op == HOOK_STOP                          ? API(vfiomig_dirty_stop, world->dirty)
                 : op == HOOK_UNMAP                         ? API(vfiomig_dirty_unmap, world->dirty, 0, PAGE, PAGE, bitmap, 1, on_unmap, world)
                 : API(vfiomig_dirty_collect, world->dirty);
        check(r >= 0 || r == -ECANCELED, "callback %u, and then: %s", op, code(r));
        check(run_callbacks_seen[op] == 1, "callback %u was called %d times", op,
              run_callbacks_seen[op]);
        check(lives(DIRTY, world->dirty), "the tracking object is gone after callback %u", op);
        free_world(world, "callbacks of dirty tracking");
    }
    end();
}

/* Two threads. */

static sem_t entered, go_on;
static atomic_int returned;

static void block(struct world *world)
{
    (void)world;
    sem_post(&entered);
    sem_wait(&go_on);
}

static void *outer_thread(void *opaque)
{
    outer(opaque);
    return NULL;
}

static void *free_thread(void *opaque)
{
    struct world *world = opaque;

    if (world->save)
        FREE(vfiomig_save_free, world->save);
    else if (world->load)
        FREE(vfiomig_load_free, world->load);
    else if (world->dirty)
        FREE(vfiomig_dirty_free, world->dirty);
    else
        FREE(vfiomig_device_free, world->device);
    returned = 1;
    return NULL;
}

/* Calls what a frame has ready. */
static void *call_thread(void *opaque)
{
    struct frame *frame = opaque;
    const struct row *row = frame->row;
    long r = call(frame);
    int allowed = (row->states & 1u << 1) != 0;

    check(allowed ? r >= 0 : r == -row->wrong_state, "%s after waiting: %s: %s", row->name, code(r),
          r < 0 ? vfiomig_error_message() : "success");
    returned = 1;
    return NULL;
}

static void *caps_thread(void *opaque)
{
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    long r = API(vfiomig_device_get_caps, ((struct world *)opaque)->device, &caps);

    check(r == 0, "a call with another handle of a device in use: %s", code(r));
    returned = 1;
    return NULL;
}

static void nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 50 * 1000 * 1000 }, NULL);
}

/* A world in which a call of another thread is inside a callback of this object. */
static struct world *busy_world(int object, pthread_t *first)
{
    struct world *world = new_world();

    to_state(world, object, object == DIRTY);
    world->hook_op = hook_op(object);
    world->hook = block;
    pthread_create(first, NULL, outer_thread, world);
    sem_wait(&entered);
    return world;
}

/* Of an object whose calls wait for each other. */
static void one_waits(const struct row *row)
{
    struct frame *frame = malloc(sizeof *frame);
    pthread_t first, second;

    if (!frame)
        die("no memory");
    returned = 0;
    struct world *world = busy_world(DIRTY, &first);
    fill(frame, row, world);
    if (row->concurrent) {
        check(call(frame) == 0, "%s: %s", row->name, vfiomig_error_message());
    } else {
        pthread_create(&second, NULL, call_thread, frame);
        nap();
        check(!returned, "%s did not wait for the call of another thread", row->name);
    }
    sem_post(&go_on);
    pthread_join(first, NULL);
    if (!row->concurrent) {
        pthread_join(second, NULL);
        check(returned, "%s never returned", row->name);
    }
    finish(frame, "waiting");
    free(frame);
    free_world(world, "waiting");
}

static void calls_while_in_use(int object)
{
    struct frame *frame = malloc(sizeof *frame);
    pthread_t first, second;

    if (!frame)
        die("no memory");
    struct world *world = busy_world(object, &first);
    FOR_ROWS(row) {
        /* What cancels goes last; it is tried below. */
        if (!takes_handle(row) || row->args[0].object != object || object_waits[object] ||
            strstr(row->name, "_cancel"))
            continue;
        fill(frame, row, world);
        if (of_packets(row))
            refuse(frame, -EINVAL, "second thread");
        else if (row->concurrent)
            check(is_let_in(row, call(frame)), "%s: %s", row->name, vfiomig_error_message());
        else
            refuse(frame, -EBUSY, "second thread");
        finish(frame, "second thread");
    }
    if (object == SAVE || object == LOAD) {
        /* Another handle of the same device waits. */
        returned = 0;
        pthread_create(&second, NULL, caps_thread, world);
        nap();
        check(!returned, "a call did not wait for the one on the same device");
        long r = object == SAVE ? API(vfiomig_save_cancel, world->save)
                                : API(vfiomig_load_cancel, world->load);
        check(r == 0, "cancelling: %s", code(r));
        sem_post(&go_on);
        pthread_join(first, NULL);
        pthread_join(second, NULL);
    } else {
        sem_post(&go_on);
        pthread_join(first, NULL);
    }
    free_world(world, "threads");
    free(frame);
}

static void freeing_waits(int object)
{
    pthread_t first, second;

    returned = 0;
    struct world *world = busy_world(object, &first);
    pthread_create(&second, NULL, free_thread, world);
    nap();
    check(!returned, "freeing a %s did not wait", object_names[object]);
    sem_post(&go_on);
    pthread_join(first, NULL);
    pthread_join(second, NULL);
    check(returned, "freeing a %s never returned", object_names[object]);
    if (object == SAVE)
        world->save = NULL;
    else if (object == LOAD)
        world->load = NULL;
    else if (object == DIRTY)
        world->dirty = NULL;
    else
        world->device = NULL, world->let_go = 1;
    free_world(world, "freeing while in use");
}

static void threads(void)
{
    begin("call from a second thread");
    sem_init(&entered, 0, 0);
    sem_init(&go_on, 0, 0);
    FOR_ROWS(row)
        if (takes_handle(row) && object_waits[row->args[0].object])
            one_waits(row);
    for (int object = DEVICE; object <= DIRTY; object++) {
        calls_while_in_use(object);
        freeing_waits(object);
    }
    end();
}

/* The log callback. */

static atomic_int logged;

static void count_log(void *opaque, uint32_t level, const char *target, const char *message)
{
    (void)opaque;
    check(level >= VFIOMIG_LOG_ERROR && level <= VFIOMIG_LOG_DEBUG && target && message,
          "a log message of level %u", level);
    logged++;
}

static void log_callback(void)
{
    atomic_int released[2] = { 0, 0 };
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;

    begin("log callback");
    check(API(vfiomig_log_set, count_log, &released[0], count_release, VFIOMIG_LOG_DEBUG) == 0, "set");
    API(vfiomig_device_get_caps, NULL, &caps);
    check(logged > 0, "an error was not logged at debug level");
    check(API(vfiomig_log_set, count_log, &released[1], count_release, VFIOMIG_LOG_ERROR) == 0, "set");
    check(released[0] == 1 && released[1] == 0, "the old callback's opaque was not released");
    logged = 0;
    API(vfiomig_device_get_caps, NULL, &caps);
    check(logged == 0, "a debug message at error level");
    check(API(vfiomig_log_set, NULL, NULL, NULL, 0) == 0, "unset");
    check(released[0] == 1 && released[1] == 1, "callbacks were not released once each");
    API(vfiomig_device_get_caps, NULL, &caps);
    check(logged == 0, "a message after the end");
    end();
}

/* A cancelled session: what goes on with the stream says so, everything else still answers. */

static void cancelled(void)
{
    static const char *const refused[] = {
        "vfiomig_save_next",    "vfiomig_save_quiesce",  "vfiomig_save_stop",
        "vfiomig_save_add_blob",    "vfiomig_save_get_poll_fd",  "vfiomig_save_get_pending",
        "vfiomig_load_push",    "vfiomig_load_push_received", "vfiomig_load_get_space",
        "vfiomig_load_commit",  "vfiomig_dirty_sync",    "vfiomig_dirty_collect",
        "vfiomig_save_write_fd", "vfiomig_load_read_fd",
    };

    begin("cancelled session");
    FOR_ROWS(row) {
        if (row->object != SAVE && row->object != LOAD && row->object != DIRTY)
            continue;
        struct frame *frame = new_frame(row);
        int expected = 0;
        long r = row->object == SAVE   ? API(vfiomig_save_cancel, frame->world->save)
                 : row->object == LOAD ? API(vfiomig_load_cancel, frame->world->load)
                                       : API(vfiomig_dirty_cancel, frame->world->dirty);

        check(r == 0, "%s: cancelling: %s", row->name, code(r));
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
            expected |= strcmp(refused[i], row->name) == 0;
        if (of_packets(row)) {
            refuse(frame, -EINVAL, "cancelled");
        } else if (expected) {
            refuse(frame, -ECANCELED, "cancelled");
        } else {
            r = call(frame);
            check(r != -ECANCELED && r != -EINVAL, "%s of a cancelled session: %s", row->name,
                  code(r));
        }
        free_frame(frame, "cancelled");
    }
    end();
}

/* Whatever a device answers: is what the functions make of it documented? */

static void life(struct world *world, int load)
{
    static char buf[STATE_SIZE / 2];
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_save_options saving = VFIOMIG_SAVE_OPTIONS_INIT;
    uint32_t state, fixups;
    size_t len;
    long r;

    options.write_timeout_ms = saving.read_timeout_ms = 10;
    if (API(vfiomig_device_new_ops, &world->hooked.ops, world, NULL, &world->device) < 0)
        return;
    API(vfiomig_device_get_caps, world->device, &caps);
    API(vfiomig_device_get_identity, world->device, &identity);
    API(vfiomig_device_get_state, world->device, &state);
    if (!load && API(vfiomig_save_begin, world->device, &saving, &world->save) == 0) {
        for (int i = 0; i < 4; i++)
            (void)API(vfiomig_save_next, world->save, buf, sizeof buf, &len);
        API(vfiomig_save_get_pending, world->save, &pending);
        API(vfiomig_save_get_poll_fd, world->save);
        (void)API(vfiomig_save_add_blob, world->save, 1, "x", 1);
        API(vfiomig_save_quiesce, world->save);
        r = API(vfiomig_save_stop, world->save);
        for (int i = 0; i < 100 && r >= 0 && r != VFIOMIG_NEXT_END; i++)
            r = API(vfiomig_save_next, world->save, buf, sizeof buf, &len);
        API(vfiomig_save_finish, world->save, r == VFIOMIG_NEXT_END ? VFIOMIG_ENDING_RELEASE : VFIOMIG_ENDING_KEEP);
        API(vfiomig_save_get_failure, world->save, &failure);
    }
    if (load && API(vfiomig_load_begin, world->device, &options, &world->load) == 0) {
        void *space;

        r = API(vfiomig_load_push, world->load, stream, 1000);
        if (r >= 0)
            r = API(vfiomig_load_get_space, world->load, &space, &len);
        if (r >= 0) {
            len = len < 1000 ? len : 1000;
            memcpy(space, stream + 1000, len);
            r = API(vfiomig_load_push_received, world->load, len);
        }
        if (r >= 0)
            r = API(vfiomig_load_push, world->load, stream + 1000 + len, stream_len - 1000 - len);
        API(vfiomig_load_commit, world->load);
        API(vfiomig_load_get_source_identity, world->load, &identity);
        API(vfiomig_load_get_failure, world->load, &failure);
    }
    (void)API(vfiomig_device_run, world->device);
    API(vfiomig_device_set_state, world->device, VFIOMIG_STATE_STOP);
    API(vfiomig_device_reset, world->device);
    API(vfiomig_device_notify_reset, world->device);
    API(vfiomig_device_get_fixups, world->device, &fixups);
    API(vfiomig_device_get_failure, world->device, &failure);
}

static void dirty_life(struct world *world)
{
    static uint64_t bitmap[1];
    char buf[2 * PAGE];
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    struct vfiomig_dirty_writer_stats stats = VFIOMIG_DIRTY_WRITER_STATS_INIT;
    struct vfiomig_dirty_error error = VFIOMIG_DIRTY_ERROR_INIT;

    if (!world->device && API(vfiomig_device_new_ops, &world->hooked.ops, world, NULL, &world->device) < 0)
        return;
    if (new_dirty(world) < 0)
        return;
    mapping.iova = 1 << 20;
    mapping.size = PAGE;
    mapping.cookie = 1;
    for (int round = 0; round < 2; round++) {
        (void)API(vfiomig_dirty_start, world->dirty);
        (void)API(vfiomig_dirty_map, world->dirty, &mapping);
        (void)API(vfiomig_dirty_collect, world->dirty);
        (void)API(vfiomig_dirty_sync, world->dirty, 0, RAM_SIZE, PAGE, bitmap, 1);
        API(vfiomig_dirty_rearm, world->dirty);
        (void)API(vfiomig_dirty_dma_write, world->dirty, RAM_SIZE / 2 - PAGE, buf, sizeof buf);
        (void)API(vfiomig_dirty_dma_read, world->dirty, RAM_SIZE / 2 - PAGE, buf, sizeof buf);
        (void)API(vfiomig_dirty_unmap, world->dirty, mapping.iova, PAGE, 0, NULL, 0, on_unmap, world);
        (void)API(vfiomig_dirty_collect, world->dirty);
        API(vfiomig_dirty_get_writer_stats, world->dirty, 1, &stats);
        API(vfiomig_dirty_get_error, world->dirty, 0, &error);
        API(vfiomig_dirty_remove_writer, world->dirty, (uint32_t)round);
        API(vfiomig_dirty_stop, world->dirty);
        if (add_sources(world) < 0)
            return;
    }
}

enum { SAVING, LOADING, TRACKING, LIVES };

static void one_fault(uint32_t op, uint64_t nth, int errnum, uint32_t effect, int what)
{
    struct world *world = bare_world();

    vfiomig_sim_inject(world->hooked.sim, op, nth, errnum, effect);
    if (what == TRACKING)
        dirty_life(world);
    else
        life(world, what == LOADING);
    /* A device that cannot be made has released its ops. */
    world->let_go = 1;
    free_world(world, "errors of drivers");
}

static const int errnums[] = {
    EPERM, EINTR, EIO, ENXIO, EBADF, EAGAIN, ENOMEM, EFAULT, EBUSY, ENODEV, EINVAL, ENOTTY,
    ENOSPC, E2BIG, EPIPE, ENODATA, EPROTO, EBADMSG, EMSGSIZE, EXDEV, EOPNOTSUPP, ETIMEDOUT,
    ECANCELED, ENOTRECOVERABLE, ENOMSG, ENOTCONN, EREMOTEIO,
};

/* Whatever a VMM's callback returns. */
static void faults_of_callbacks(void)
{
    unsigned runs = 0;

    begin("errors of callbacks of dirty tracking");
    for (size_t e = 0; e < sizeof errnums / sizeof *errnums; e++)
        for (uint32_t op = HOOK_ENUMERATE; op < END_OF_HOOKS; op++)
            for (int nth = 1; nth <= 3; nth++) {
                struct world *world = new_world();

                world->failing_op = op;
                world->failing_nth = nth;
                world->failing_errno = errnums[e];
                dirty_life(world);
                check(world->failing_nth <= 0 || nth > 1, "callback %u was never called", op);
                free_world(world, "errors of callbacks of dirty tracking");
                runs++;
            }
    check(runs > 500, "only %u runs", runs);
    end();
}

static void faults(void)
{
    unsigned runs = 0;

    begin("errors of drivers");
    for (size_t e = 0; e < sizeof errnums / sizeof *errnums; e++)
        for (uint32_t op = VFIOMIG_SIM_OP_GET_FLAGS; op <= VFIOMIG_SIM_OP_LOG_REPORT; op++)
            for (uint64_t nth = 1; nth <= 4; nth++)
                for (uint32_t effect = 0; effect <= VFIOMIG_SIM_FAULT_RESET; effect++)
                    for (int what = SAVING; what < LIVES; what++) {
                        int common = errnums[e] == EIO || errnums[e] == EINVAL;

                        /* Everything that can happen with a few; a little with all. */
                        if (!common && (effect > VFIOMIG_SIM_FAULT_STICKY || nth > 2))
                            continue;
                        /* What signals interrupt endlessly is tried for two seconds each time. */
                        int transfer = op == VFIOMIG_SIM_OP_READ || op == VFIOMIG_SIM_OP_WRITE;
                        if (errnums[e] == EINTR && effect != 0 && !transfer)
                            continue;
                        one_fault(op, nth, errnums[e], effect, what);
                        runs++;
                    }
    check(runs > 1000, "only %u runs", runs);
    end();
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    begin("recording");
    record();
    record_hello();
    record_frame();
    record_checkpoint();
    end();
    null_handles();
    freed_handles();
    other_kinds();
    garbage_handles();
    wrong_states();
    right_states();
    null_pointers();
    struct_sizes();
    tails();
    values();
    values_of_runs();
    second_sessions();
    handles_of_the_parent();
    callbacks();
    other_callbacks();
    callbacks_of_runs();
    threads();
    log_callback();
    cancelled();
    faults();
    faults_of_callbacks();
    begin("errno is kept");
    check(kept > 10000, "only %u calls were looked at", kept);
    end();
    free(stream);
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
