/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The C examples in README.md, docs/ and vfiomig-sim.h, as they stand there, do what the text says of
 * them. doc-examples.sh takes them out: NAME-N.c is the Nth of NAME.md. What they leave to the VMM
 * comes from here.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scratch.h"

/* Pieces of a document use names that are global here, and functions have names of their own. */
#pragma GCC diagnostic ignored "-Wshadow"

/* --- README.md: a program with its connection on standard input and output ------------------- */

#define main readme_main
#include "README-1.c"
#undef main

/* How it went on either side. */
static struct result {
    int r;
    uint32_t state;
    uint64_t digest;
} *results;

enum { SOURCE, TARGET };

/* One side in a process of its own, with `peer` on its standard input and output. */
static pid_t start_side(int side, int peer, uint32_t model)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    struct vfiomig_sim_options o = rig_options();
    o.model = model;
    struct rig rig = side == SOURCE ? rig_new(&o, NULL) : rig_target(&o);
    struct result *result = &results[side];
    if (dup2(peer, 0) < 0 || dup2(peer, 1) < 0)
        _exit(2);
    for (int fd = 3; fd < 64; fd++)
        close(fd);
    signal(SIGPIPE, SIG_IGN); /* as readme_main() does */
    result->r = side == SOURCE ? save_device(rig.dev) : load_device(rig.dev);
    result->state = vfiomig_sim_state(rig.sim);
    result->digest = vfiomig_sim_digest(rig.sim);
    _exit(vfiomig_sim_violations(rig.sim, NULL) != 0);
}

static void wait_for(pid_t child)
{
    int status = -1;
    EQ(waitpid(child, &status, 0), child);
    EQ(status, 0);
}

static void share_results(void)
{
    results = mmap(NULL, 2 * sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(results != MAP_FAILED);
}

static void migrate_as_in_the_readme(uint32_t model_of_target)
{
    int pair[2];
    share_results();
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    pid_t source = start_side(SOURCE, pair[0], 1), target = start_side(TARGET, pair[1], model_of_target);
    close(pair[0]);
    close(pair[1]);
    wait_for(source);
    wait_for(target);
}

static void the_readmes_guest_arrives_and_runs_on_one_side(void)
{
    migrate_as_in_the_readme(1);
    EQ(results[SOURCE].r, 0);
    EQ(results[TARGET].r, 0);
    EQ(results[SOURCE].state, VFIOMIG_STATE_STOP);
    EQ(results[TARGET].state, VFIOMIG_STATE_RUNNING);
    CHECK(results[SOURCE].digest == results[TARGET].digest);
}

static void the_readmes_guest_stays_if_the_target_cannot_take_it(void)
{
    migrate_as_in_the_readme(2);
    CHECK(results[SOURCE].r < 0);
    CHECK(results[TARGET].r < 0);
    EQ(results[SOURCE].state, VFIOMIG_STATE_RUNNING);
    CHECK(results[SOURCE].digest != results[TARGET].digest);
}

/* A source that dies after the end of its stream gives nobody permission. */
static void the_readmes_target_takes_no_silence_for_permission(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct bytes stream = stream_of(from.dev);
    int pair[2];
    char heard = 0;
    share_results();
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    pid_t target = start_side(TARGET, pair[1], 1);
    close(pair[1]);
    for (size_t at = 0; at < stream.len;) {
        ssize_t n = send(pair[0], stream.data + at, stream.len - at, MSG_NOSIGNAL);
        CHECK(n > 0);
        at += (size_t)n;
    }
    EQ(recv(pair[0], &heard, 1, 0), 1);
    EQ(heard, COMMITTED);
    close(pair[0]);
    wait_for(target);
    CHECK(results[TARGET].r < 0);
    EQ(results[TARGET].state, VFIOMIG_STATE_STOP);
    rig_free(&from);
    bytes_free(&stream);
}

/* --- docs/migration-guide.md: pieces of a VMM -------------------------------------------------- */

static struct vfiomig_device *dev;
static struct vfiomig_save *save;
static struct vfiomig_load *load;
static char config[256], buf[VFIOMIG_GOOD_BUFFER];
static size_t cap = sizeof buf, len, room;
static void *space;
static int fd, r, sock, target_sock;
static uint32_t fixups;
static struct vfiomig_identity source = VFIOMIG_IDENTITY_INIT;
static bool vcpus_run = true, target_has_committed;

static int reported, restarts_of_vcpus, blobs_taken;
static const char *told;
static uint64_t told_generation;

/* At this point the device starts its initial data again. */
static enum { NEVER, IN_PRE_COPY, QUIESCED } starts_again;
static struct vfiomig_sim *source_sim;

static void stop_vcpus(void)
{
    vcpus_run = false;
    if (starts_again == IN_PRE_COPY)
        vfiomig_sim_reinit(source_sim);
}

static void start_vcpus(void)
{
    restarts_of_vcpus++;
    vcpus_run = true;
}

static void report(uint32_t severity, const char *label, const char *text)
{
    reported += severity <= VFIOMIG_SEVERITY_INFO && label[0] && text[0];
}

static void on_event(void *opaque, const struct vfiomig_event *event)
{
    (void)opaque;
    if (starts_again == QUIESCED && event->kind == VFIOMIG_EVENT_STATE_CHANGED &&
        event->to == VFIOMIG_STATE_PRE_COPY_P2P)
        vfiomig_sim_reinit(source_sim);
}

static int take_blob(void *opaque, uint32_t kind, const void *data, size_t length)
{
    (void)opaque;
    blobs_taken += kind == 1 && length == sizeof config && memcmp(data, config, length) == 0;
    return 0;
}

static void tell_target(const char *text)
{
    told = text;
}

static void tell_source_what_is_loaded(struct vfiomig_load *of)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    if (vfiomig_load_get_stats(of, &stats) == 0)
        told_generation = stats.initial_generation;
}

static struct vfiomig_dirty *dirty;
static uint64_t dirty_pages, sent_when_stopped; /* a bit per page */

static int note_dirty(void *opaque, uint64_t block, uint64_t offset, uint64_t page_size,
                      const uint64_t *bitmap, uint64_t num_bits)
{
    (void)opaque;
    if (block != 0 || page_size != 4096 || num_bits > 64)
        return -EINVAL;
    dirty_pages |= bitmap[0] << offset / 4096;
    return 0;
}

static int send_dirty_memory(int to)
{
    (void)to;
    if (vfiomig_sim_state(source_sim) == VFIOMIG_STATE_STOP_COPY)
        sent_when_stopped |= dirty_pages;
    dirty_pages = 0;
    return 0;
}

static void start_tracking(struct vfiomig_device *of)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_mapping ram = VFIOMIG_MAPPING_INIT;
    uint32_t number;
    ops.set_dirty = note_dirty;
    OK(vfiomig_dirty_new(&ops, NULL, NULL, &dirty));
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
    writer.device = of;
    OK(vfiomig_dirty_add_writer(dirty, &writer, &number));
    ram.size = 64 * 4096;
    OK(vfiomig_dirty_map(dirty, &ram));
    OK(vfiomig_dirty_start(dirty));
    dirty_pages = sent_when_stopped = 0;
}

static void stop_tracking(void)
{
    OK(vfiomig_dirty_stop(dirty));
    vfiomig_dirty_free(dirty);
}

static int send_all_to(int to, const char *data, size_t length)
{
    return send(to, data, length, 0) == (ssize_t)length ? 0 : -1;
}

/* The README's own has another signature. */
#define send_all send_all_to

static void attach(void)
{
#include "migration-guide-1.c"
}

static void show_reasons(void)
{
#include "migration-guide-2.c"
}

static void begin_save(void)
{
#include "migration-guide-3.c"
}

static void next_piece(void)
{
#include "migration-guide-4.c"
}

#include "migration-guide-5.c"

static void end_save(void)
{
#include "migration-guide-6.c"
}

static void load_all(void)
{
#include "migration-guide-7.c"
}

static void run_target(void)
{
#include "migration-guide-8.c"
}

static void keep_source(void)
{
#include "migration-guide-10.c"
}

static uint32_t flags_for_event_loops(void)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
#include "migration-guide-11.c"
    return options.flags;
}

/* The keys of both sides, as a VMM has them. */
static const uint8_t *find_key(uint32_t key_id)
{
    static uint8_t key[32];
    memset(key, 0x31, sizeof key);
    return key_id == 7 ? key : NULL;
}

#include "migration-guide-15.c"

static void the_guides_keys_are_those_of_both_sides(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct bytes stream = { NULL, 0, 0 };
    uint8_t challenge[32];
    struct vfiomig_load *load;
    struct vfiomig_save *saving;
    memset(challenge, 9, sizeof challenge);
    OK(begin_load_with_key(target.dev, challenge, &load));
    OK(begin_save_with_key(source.dev, 7, challenge, &saving));
    EQ(read_until(saving, &stream, 1 << 17, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(saving));
    EQ(read_until(saving, &stream, 1 << 17, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    vfiomig_load_free(load);
    challenge[0]++; /* another load */
    OK(begin_load_with_key(target.dev, challenge, &load));
    EQ(push_all(load, &stream, SIZE_MAX), -EXDEV);
    vfiomig_load_free(load);
    vfiomig_save_free(saving);
    EQ(begin_save_with_key(source.dev, 8, challenge, &saving), -EPERM);
    bytes_free(&stream);
    rig_free(&source);
    rig_free(&target);
}

static int load_with_policy(struct vfiomig_device *of)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    options.source = &source;
#include "migration-guide-12.c"
    r = vfiomig_load_begin(of, &options, &load);
    if (r == 0)
        vfiomig_load_free(load);
    return r;
}

#include "migration-guide-13.c"

static void the_guides_policy_lets_one_upgrade_pass_and_its_judge_gives_reasons(void)
{
    struct vfiomig_identity target = VFIOMIG_IDENTITY_INIT;
    struct rig rig = rig_new(NULL, NULL);
    OK(vfiomig_device_get_identity(rig.dev, &source));
    target = source;
    strcpy(target.driver_version, "570.133.20");
    strcpy(source.driver_version, "550.54.14");
    reported = 0;
#include "migration-guide-14.c"
    EQ(r, -EXDEV);
    CHECK(reported > 0 && verdict.num_refused == 1 && !unchecked);
    /* The simulator has neither a version of its driver nor firmware, and the policy wants both. */
    EQ(load_with_policy(rig.dev), -EXDEV);
    HAS(vfiomig_error_message(), "driver version 550.54.14 (target: unknown): must be known");
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    source = target;
    rig_free(&rig);
}

static void a_device_is_attached_and_its_reasons_are_shown(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.migration_flags = VFIOMIG_SIM_NO_MIGRATION;
    struct rig rig = rig_new(&o, NULL);
    dev = rig.dev;
    show_reasons();
    CHECK(reported > 0);
    rig_free(&rig);

    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    attach();
    EQ(r, -ENOTTY);
    close(fd);
    EQ(flags_for_event_loops(), VFIOMIG_SAVE_NONBLOCK);
}

/* A device whose initial data may start again, and whose whole stream fits into a socket. */
static struct rig small_device(int side)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    int pair[2];
    o.state_size = 20000;
    o.quirks = VFIOMIG_SIM_PRECOPY_INFO_V2;
    options.event = on_event;
    if (side == TARGET)
        return rig_target(&o);
    struct rig rig = rig_new(&o, &options);
    source_sim = rig.sim;
    OK(vfiomig_device_get_identity(rig.dev, &source));
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    sock = pair[0];
    target_sock = pair[1];
    blobs_taken = restarts_of_vcpus = 0;
    vcpus_run = true;
    memset(config, 7, sizeof config);
    return rig;
}

static void pre_copy(void)
{
    do {
        next_piece();
        CHECK(r >= 0);
        EQ(send_all(sock, buf, len), 0);
    } while (r != VFIOMIG_NEXT_DRAINED);
}

static void migrate_as_in_the_guide(int when)
{
    struct rig from = small_device(SOURCE), to = small_device(TARGET);
    dev = from.dev;
    start_tracking(dev);
    begin_save();
    OK(r);
    pre_copy();
    EQ(vfiomig_sim_dma_write(from.sim, 5 * 4096, 1), 0);
    starts_again = when;
    r = switch_over(save, sock);
    if (when != NEVER)
        HAS(vfiomig_error_message(), "initial data again"); /* there was a refusal */
    starts_again = NEVER;
    if (when == IN_PRE_COPY) {
        EQ(r, VFIOMIG_NEXT_MORE);
        CHECK(vcpus_run);
        EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_PRE_COPY);
        pre_copy();
        r = switch_over(save, sock);
    }
    EQ(r, VFIOMIG_NEXT_END);
    CHECK(!vcpus_run);
    EQ(restarts_of_vcpus, when == IN_PRE_COPY);
    CHECK(sent_when_stopped == 1ull << 5);

    dev = to.dev;
    sock = (close(sock), target_sock);
    load_all();
    OK(r);
    EQ(blobs_taken, 1);
    EQ(told_generation, when == IN_PRE_COPY ? 2 : 1);
    target_has_committed = true;
    end_save();
    OK(r);
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_STOP);
    run_target();
    OK(r);
    CHECK(vcpus_run);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
    vfiomig_load_free(load);
    stop_tracking();
    close(sock);
    rig_free(&from);
    rig_free(&to);
}

static void the_guides_migration_arrives(void)
{
    migrate_as_in_the_guide(NEVER);
}

static void the_guides_guest_goes_on_if_quiescing_is_refused(void)
{
    migrate_as_in_the_guide(IN_PRE_COPY);
}

static void the_guide_insists_if_stopping_a_quiesced_device_is_refused(void)
{
    migrate_as_in_the_guide(QUIESCED);
}

static void the_guides_source_keeps_its_guest(void)
{
    for (int failed = 0; failed < 2; failed++) {
        struct rig from = small_device(SOURCE);
        dev = from.dev;
        start_tracking(dev);
        begin_save();
        OK(r);
        pre_copy();
        EQ(switch_over(save, sock), VFIOMIG_NEXT_END);
        if (failed) {
            keep_source();
            HAS(told, "keep");
            EQ(fixups, 0);
            vfiomig_save_free(save);
        } else {
            target_has_committed = false;
            end_save();
        }
        OK(r);
        EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_RUNNING);
        stop_tracking();
        close(sock);
        close(target_sock);
        rig_free(&from);
    }
}

/* --- docs/dirty-tracking.md: a VMM with one device ---------------------------------------------- */

enum { RAM_BLOCK = 5, PAGES = 64, PAGE = 4096 };

struct vm {
    struct vfiomig_dirty *dirty;
    uint64_t ram_size;
    struct vfiomig_sim *sim;
    uint64_t to_send, sent; /* a bit per page */
    int rounds;
};

static int mark_for_sending(struct vm *vm, uint64_t block, uint64_t offset, uint64_t page_size,
                            const uint64_t *bitmap, uint64_t num_bits)
{
    if (block != RAM_BLOCK || page_size != PAGE || num_bits > PAGES)
        return -EINVAL;
    vm->to_send |= bitmap[0] << offset / PAGE;
    return 0;
}

static void send_dirty_pages(struct vm *vm)
{
    vm->sent |= vm->to_send;
    vm->to_send = 0;
}

static int converged(struct vm *vm)
{
    vfiomig_sim_dma_write(vm->sim, (uint64_t)vm->rounds * PAGE, 1);
    return ++vm->rounds == 3;
}

/* The devices write until they are stopped, and not only until the vCPUs are. */
#define stop_vcpus(vm) (stop_vcpus(), (void)vfiomig_sim_dma_write((vm)->sim, 40 * PAGE, 1))

#include "dirty-tracking-1.c"

static void the_tracking_page_misses_nothing(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vm vm = { .ram_size = PAGES * PAGE, .sim = rig.sim };
    int container = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(container >= 0);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(track(&vm, rig.dev, container));
    EQ(vfiomig_sim_dma_write(rig.sim, 20 * PAGE, 1), 0);
    OK(send_the_rest(&vm, save));
    CHECK(vm.sent == (7 | 1ull << 20 | 1ull << 40));
    OK(vfiomig_dirty_stop(vm.dirty));
    vfiomig_dirty_free(vm.dirty);
    vfiomig_save_free(save);
    close(container);
    rig_free(&rig);
}

/* A failure to stop is not taken for the end of the device's writes. */
static void the_tracking_page_notices_a_device_that_does_not_stop(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vm vm = { .ram_size = PAGES * PAGE, .sim = rig.sim };
    int container = open("/dev/null", O_RDWR | O_CLOEXEC);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(track(&vm, rig.dev, container));
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(send_the_rest(&vm, save), -EIO);
    vfiomig_dirty_free(vm.dirty);
    vfiomig_save_free(save);
    close(container);
    rig_free(&rig);
}

/* --- docs/qemu-format.md ------------------------------------------------------------------------ */

static struct vfiomig_save_options options_for_qemu(bool switchover_ack, bool switchover_ack_legacy,
                                                    bool multifd)
{
#include "qemu-format-1.c"
    return o;
}

static void a_save_begins_with_the_options_for_qemu(void)
{
    for (unsigned i = 0; i < 8; i++) {
        struct rig rig = rig_new(NULL, NULL);
        struct vfiomig_save_options o = options_for_qemu(i & 1, i & 2, i & 4);
        OK(vfiomig_save_begin(rig.dev, &o, &save));
        vfiomig_save_free(save);
        rig_free(&rig);
    }
}

/* --- security.md -------------------------------------------------------------------------------- */

#include "security-1.c"

/* The simulator's state has none of virtio's records. */
static void the_security_page_refuses_what_is_no_sequence_of_records(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    OK(begin_guarded(to.dev, &load));
    EQ(push_all(load, &stream, SIZE_MAX), -EMSGSIZE);
    vfiomig_load_free(load);
    EQ(judge(NULL, NULL, 1, (64 << 20) - 1), 0);
    EQ(judge(NULL, NULL, 1, 64 << 20), -EMSGSIZE);
    bytes_free(&stream);
    rig_free(&from);
    rig_free(&to);
}

/* --- checkpointing.md --------------------------------------------------------------------------- */

static int vcpus_halted, was_protected;

static void halt_vcpus(void)
{
    vcpus_halted = 1;
}

static void write_protect_memory(void)
{
    was_protected += vcpus_halted;
}

static void continue_vcpus(void)
{
    vcpus_halted = 0;
}

static void write_fixups(struct vfiomig_device *dev)
{
    uint32_t fixups;
    OK(vfiomig_device_get_fixups(dev, &fixups));
}

#include "checkpointing-1.c"
#include "checkpointing-2.c"

static void the_checkpointing_page_takes_one_and_goes_back(void)
{
    struct scratch s = scratch_new();
    struct rig one = rig_new(NULL, NULL), two = rig_target(NULL);
    uint64_t then[] = { vfiomig_sim_digest(one.sim), vfiomig_sim_digest(two.sim) };
    struct vfiomig_device *devs[] = { one.dev, two.dev };
    OK(take_checkpoint(s.file, devs, 2));
    EQ(was_protected, 1);
    EQ(vcpus_halted, 0);
    EQ(vfiomig_sim_guest_write(one.sim, 0, 1000, 3), 0);
    EQ(vfiomig_sim_guest_write(two.sim, 0, 1000, 3), 0);
    OK(restore_checkpoint(s.file, devs, 2));
    CHECK(vfiomig_sim_digest(one.sim) == then[0] && vfiomig_sim_digest(two.sim) == then[1]);
    EQ(vfiomig_sim_state(one.sim), VFIOMIG_STATE_RUNNING);
    /* Whatever fails, the guest goes on, and the old file is there. */
    EQ(vfiomig_sim_inject(two.sim, VFIOMIG_SIM_OP_READ, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(take_checkpoint(s.file, devs, 2), -EIO);
    EQ(vcpus_halted, 0);
    OK(restore_checkpoint(s.file, devs, 2));
    rig_free(&one);
    rig_free(&two);
    scratch_free(&s);
}

/* --- vfiomig-sim.h ------------------------------------------------------------------------------ */

static uint8_t ram[PAGES * PAGE];
static pthread_mutex_t engine = PTHREAD_MUTEX_INITIALIZER;

#include "vfiomig-sim-2.c"

static void the_simulators_device_writes_until_it_is_stopped(void)
{
#include "vfiomig-sim-1.c"
    OK(r);
    struct vm vm = { .ram_size = PAGES * PAGE, .sim = sim };
    int container = open("/dev/null", O_RDWR | O_CLOEXEC);
    OK(track(&vm, dev, container));
    OK(vfiomig_save_begin(dev, NULL, &save));
    EQ(dma(sim, 3 * PAGE, "new", 3), 0);
    OK(vfiomig_save_stop(save));
    EQ(dma(sim, 5 * PAGE, "late", 4), -EPERM);
    EQ(vfiomig_dirty_collect(vm.dirty), 0);
    CHECK(vm.to_send == 1ull << 3);
    EQ(ram[3 * PAGE], 'n');
    EQ(ram[5 * PAGE], 0);
    vfiomig_dirty_free(vm.dirty);
    vfiomig_save_free(save);
    close(container);
    struct rig rig = { sim, dev };
    rig_free(&rig);
}

/* --- docs/migration-guide.md: a VMM with three devices ------------------------------------------ */

/* What both processes share. A side that was fenced has lost the guest's disks. */
static struct vmm {
    int lock, ran_twice, ran_early, released;
    struct {
        int runs, fenced, returned;
        uint32_t states[3], violations;
        uint64_t digests[3];
    } sides[2];
} *vmm;

static int vmm_side, vmm_sends, vmm_channels[2];

/* What goes wrong, and on which side; `at` counts its messages. */
static struct trouble {
    enum { NO_TROUBLE, CUT_LINK, CUT_CHANNEL, KILLED } what;
    int side, at;
} trouble;

static int vmm_send_all(int to, const void *data, size_t length)
{
    int mine = trouble.side == vmm_side && ++vmm_sends == trouble.at;
    if (mine && trouble.what == KILLED)
        raise(SIGKILL);
    if (mine && trouble.what == CUT_LINK)
        shutdown(to, SHUT_RDWR);
    if (mine && trouble.what == CUT_CHANNEL)
        shutdown(vmm_channels[1], SHUT_RDWR);
    return send(to, data, length, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

static int vmm_receive_all(int from, void *data, size_t length)
{
    return length == 0 || recv(from, data, length, MSG_WAITALL) == (ssize_t)length ? 0 : -1;
}

static void vmm_lock(void)
{
    while (__atomic_exchange_n(&vmm->lock, 1, __ATOMIC_SEQ_CST))
        usleep(100);
}

static void vmm_unlock(void)
{
    __atomic_store_n(&vmm->lock, 0, __ATOMIC_SEQ_CST);
}

/* The source has let go, or is about to: from here on, the guest may run on the target. */
static int vmm_group_finish(struct vfiomig_group *group, uint32_t ending)
{
    if (ending == VFIOMIG_ENDING_RELEASE)
        __atomic_store_n(&vmm->released, 1, __ATOMIC_SEQ_CST);
    return vfiomig_group_finish(group, ending);
}

static int vmm_start_vcpus(void)
{
    /* Who runs it as soon as it has committed runs it beside a source that may still take it back. */
    if (vmm_side == TARGET && !__atomic_load_n(&vmm->released, __ATOMIC_SEQ_CST) &&
        !__atomic_load_n(&vmm->sides[SOURCE].fenced, __ATOMIC_SEQ_CST)) {
        vmm->ran_early = 1;
        _exit(1);
    }
    vmm_lock();
    int fenced = vmm->sides[vmm_side].fenced;
    vmm->sides[vmm_side].runs = !fenced;
    vmm->ran_twice |= !fenced && vmm->sides[!vmm_side].runs;
    vmm_unlock();
    return fenced ? -EBUSY : 0;
}

static void vmm_stop_vcpus(void)
{
    vmm->sides[vmm_side].runs = 0;
}

/* Knows whether the guest runs there, and fences nobody who runs it. */
static int ask_fencer(void)
{
    vmm_lock();
    int runs = vmm->sides[!vmm_side].runs;
    vmm->sides[!vmm_side].fenced = !runs && !vmm->sides[vmm_side].fenced;
    int known = vmm->sides[!vmm_side].fenced;
    vmm_unlock();
    return known ? (int)VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN : -1;
}

static void make_fixups(struct vfiomig_device *of)
{
    uint32_t bits;
    OK(vfiomig_device_get_fixups(of, &bits));
}

static int send_memory(int last)
{
    (void)last;
    return 0;
}

static int memory_is_complete(void)
{
    return 1;
}

#undef send_all
#define send_all vmm_send_all
#define receive_all vmm_receive_all
#define start_vcpus vmm_start_vcpus
#undef stop_vcpus
#define stop_vcpus vmm_stop_vcpus
#define switch_over vmm_switch_over
#define vfiomig_group_finish vmm_group_finish
#include "migration-guide-9.c"
#undef vfiomig_group_finish

/* The last device fails at this change of its state; 0: at none. */
static struct {
    int side;
    uint64_t change;
} failing;

static pid_t start_vmm(int side, int ends[3][2])
{
    pid_t child = fork();
    if (child != 0)
        return child;
    struct migration m = { .role = side == SOURCE ? VFIOMIG_GROUP_ROLE_SOURCE : VFIOMIG_GROUP_ROLE_TARGET,
                           .sock = ends[0][side], .channels = { ends[1][side], ends[2][side] },
                           .id = "the guide's VMM" };
    struct rig rigs[DEVICES];
    vmm_side = side;
    memcpy(vmm_channels, m.channels, sizeof vmm_channels);
    for (int i = 0; i < 3; i++)
        close(ends[i][!side]);
    for (int i = 0; i < DEVICES; i++) {
        struct vfiomig_sim_options o = rig_options();
        o.seed += (uint64_t)i;
        rigs[i] = side == SOURCE ? rig_new(&o, NULL) : rig_target(&o);
        m.devs[i] = rigs[i].dev;
    }
    if (failing.change && failing.side == side)
        EQ(vfiomig_sim_inject(rigs[DEVICES - 1].sim, VFIOMIG_SIM_OP_SET_STATE, failing.change, EIO,
                              side == SOURCE ? VFIOMIG_SIM_FAULT_ONCE : VFIOMIG_SIM_FAULT_ERROR), 0);
    vmm->sides[side].returned = 1 + migrate(&m);
    for (int i = 0; i < DEVICES; i++) {
        vmm->sides[side].states[i] = vfiomig_sim_state(rigs[i].sim);
        vmm->sides[side].digests[i] = vfiomig_sim_digest(rigs[i].sim);
        vmm->sides[side].violations += vfiomig_sim_violations(rigs[i].sim, NULL) != 0;
    }
    _exit(0);
}

/* Returns where the guest runs: a side, or -1. */
static int the_guide_migrates(void)
{
    int ends[3][2], where = -1;
    pid_t children[2];
    vmm = mmap(NULL, sizeof *vmm, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(vmm != MAP_FAILED);
    vmm->sides[SOURCE].runs = 1;
    for (int i = 0; i < 3; i++)
        EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends[i]), 0);
    fflush(NULL);
    for (int side = SOURCE; side <= TARGET; side++)
        children[side] = start_vmm(side, ends);
    for (int i = 0; i < 3; i++)
        close(ends[i][0]), close(ends[i][1]);
    for (int side = SOURCE; side <= TARGET; side++) {
        int status, killed = trouble.what == KILLED && trouble.side == side;
        EQ(waitpid(children[side], &status, 0), children[side]);
        EQ(vmm->ran_early, 0);
        CHECK(status == 0 || (killed && WIFSIGNALED(status)));
        if (status != 0)
            continue;
        EQ(vmm->sides[side].returned, 1 + vmm->sides[side].runs);
        EQ(vmm->sides[side].violations, 0);
        if (vmm->sides[side].runs) {
            EQ(where, -1);
            where = side;
        }
        for (int i = 0; i < DEVICES && vmm->sides[side].runs; i++)
            EQ(vmm->sides[side].states[i], VFIOMIG_STATE_RUNNING);
    }
    EQ(vmm->ran_twice, 0);
    for (int i = 0; i < DEVICES && where == TARGET && trouble.what != KILLED; i++)
        CHECK(vmm->sides[SOURCE].digests[i] == vmm->sides[TARGET].digests[i]);
    munmap(vmm, sizeof *vmm);
    return where;
}

static void the_guides_three_devices_arrive(void)
{
    trouble.what = NO_TROUBLE;
    EQ(the_guide_migrates(), TARGET);
}

/* Where the guest was after trouble at each message of each side, until there are no more messages. */
static void try_trouble(int what, int places[2], int nowhere)
{
    places[SOURCE] = places[TARGET] = 0;
    for (int side = SOURCE; side <= TARGET; side++)
        for (int at = 1; at <= 6; at++) {
            trouble = (struct trouble){ what, side, at };
            int where = the_guide_migrates();
            CHECK(where >= 0 || nowhere);
            if (where >= 0)
                places[where]++;
        }
    trouble.what = NO_TROUBLE;
}

static void the_guides_guest_runs_on_one_side_wherever_it_is_cut(void)
{
    int places[2];
    try_trouble(CUT_LINK, places, 0);
    CHECK(places[SOURCE] >= 3 && places[TARGET] >= 1);
    try_trouble(CUT_CHANNEL, places, 0);
    CHECK(places[SOURCE] >= 2 && places[TARGET] >= 1);
}

/* A guest dies with its host, and nobody else may run it unless it is sure of that. */
static void the_guides_guest_runs_on_one_side_whoever_is_killed(void)
{
    int places[2];
    try_trouble(KILLED, places, 1);
    CHECK(places[SOURCE] >= 2 && places[TARGET] >= 1);
}

/* The last device's changes of state on either side: to begin, to be quiesced, to be stopped; to begin, to
 * be committed, to leave the stopped states, to run. */
static void the_guides_guest_stays_if_a_device_fails(void)
{
    for (failing.side = SOURCE; failing.side <= TARGET; failing.side++)
        for (failing.change = 1; failing.change <= (failing.side == SOURCE ? 3 : 4); failing.change++)
            EQ(the_guide_migrates(), SOURCE);
    failing.change = 0;
}

int main(void)
{
    RUN(the_readmes_guest_arrives_and_runs_on_one_side);
    RUN(the_readmes_guest_stays_if_the_target_cannot_take_it);
    RUN(the_readmes_target_takes_no_silence_for_permission);
    RUN(a_device_is_attached_and_its_reasons_are_shown);
    RUN(the_guides_migration_arrives);
    RUN(the_guides_policy_lets_one_upgrade_pass_and_its_judge_gives_reasons);
    RUN(the_guides_guest_goes_on_if_quiescing_is_refused);
    RUN(the_guide_insists_if_stopping_a_quiesced_device_is_refused);
    RUN(the_guides_source_keeps_its_guest);
    RUN(the_guides_three_devices_arrive);
    RUN(the_guides_guest_runs_on_one_side_wherever_it_is_cut);
    RUN(the_guides_guest_runs_on_one_side_whoever_is_killed);
    RUN(the_guides_guest_stays_if_a_device_fails);
    RUN(the_guides_keys_are_those_of_both_sides);
    RUN(the_tracking_page_misses_nothing);
    RUN(the_tracking_page_notices_a_device_that_does_not_stop);
    RUN(a_save_begins_with_the_options_for_qemu);
    RUN(the_security_page_refuses_what_is_no_sequence_of_records);
    RUN(the_checkpointing_page_takes_one_and_goes_back);
    RUN(the_simulators_device_writes_until_it_is_stopped);
    return DONE();
}
