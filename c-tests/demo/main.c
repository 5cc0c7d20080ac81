/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Options, the two processes, and a check of the result. The exit status is 0 if the outcome is
 * right for what was asked: the guest runs on one side and not on the other, with its devices'
 * contents where they belong.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "show.h"

#define DEFAULT_STATE (256u << 20)

enum where { ON_SOURCE, ON_TARGET, NOWHERE, EITHER };

static const char *const where_name[] = { "on the source", "on the target", "nowhere", "on one side" };
static const char *const where_word[] = { "source", "target", "nowhere" };

/* What goes wrong, and where the guest must be afterwards. */
static const struct scenario {
    const char *name;
    enum failure failure;
    enum where expected;
    const char *what;
} scenarios[] = {
    { "nothing", FAIL_NOTHING, ON_TARGET, "" },
    { "source-read", FAIL_SOURCE_READ, ON_SOURCE, "the source's driver fails a read in pre-copy" },
    { "source-quiesce", FAIL_SOURCE_QUIESCE, ON_SOURCE, "the source's device does not quiesce" },
    { "source-stop", FAIL_SOURCE_STOP, ON_SOURCE, "the source's device does not stop" },
    { "source-drain", FAIL_SOURCE_DRAIN, ON_SOURCE, "the source's driver fails a read after the stop" },
    { "target-begin", FAIL_TARGET_BEGIN, ON_SOURCE, "the target's device does not begin to resume" },
    { "target-write", FAIL_TARGET_WRITE, ON_SOURCE, "the target's driver refuses some of the state" },
    { "target-commit", FAIL_TARGET_COMMIT, ON_SOURCE, "the target's driver refuses the whole state" },
    { "target-run", FAIL_TARGET_RUN, ON_SOURCE, "the target's device does not run after the commit" },
    { "other-device", FAIL_OTHER_DEVICE, ON_SOURCE, "the target has another kind of device" },
    { "corrupt", FAIL_CORRUPT, ON_SOURCE, "a bit is flipped on the way" },
    { "cancel", FAIL_CANCEL, ON_SOURCE, "another thread cancels on the source" },
    { "target-cancel", FAIL_TARGET_CANCEL, ON_SOURCE, "the target cancels" },
    { "guest-reset", FAIL_GUEST_RESET, ON_TARGET, "the guest resets its device during pre-copy" },
    { "no-log", FAIL_NO_LOG, ON_TARGET, "the source's device has no log of its DMA" },
    { "log-refuses", FAIL_LOG_REFUSES, ON_TARGET, "the source's device does not report its log" },
    { "log-forgets", FAIL_LOG_FORGETS, ON_TARGET, "the source's device loses what it has logged, once" },
    { "set-dirty", FAIL_SET_DIRTY, ON_SOURCE, "the VMM has no place for what it is told of dirty pages" },
    { "cut-channel", FAIL_CUT_CHANNEL, ON_SOURCE, "a connection of the devices' breaks in pre-copy" },
    { "cut-memory", FAIL_CUT_MEMORY, ON_SOURCE, "the memory's connection breaks in pre-copy" },
    { "cut-link", FAIL_CUT_LINK, ON_TARGET, "the handover's connection breaks in pre-copy, and returns" },
    { "cut-go", FAIL_CUT_GO, ON_TARGET, "it breaks just before \"go\", and returns" },
    { "cut-for-good", FAIL_CUT_FOR_GOOD, EITHER, "it breaks just before \"go\", and does not return" },
    { "kill-target", FAIL_KILL_TARGET, ON_SOURCE, "the target dies while it loads" },
    { "kill-target-late", FAIL_KILL_TARGET_LATE, ON_SOURCE, "the target dies after its commit" },
    { "kill-source", FAIL_KILL_SOURCE, ON_TARGET, "the source dies after the target's commit" },
    { "kill-source-early", FAIL_KILL_SOURCE_EARLY, NOWHERE,
      "the source dies, and its guest with it, before the end of the stream" },
};
#define SCENARIOS (sizeof scenarios / sizeof *scenarios)

static void usage(FILE *to)
{
    fprintf(to,
            "usage: demo [options]\n"
            "  --devices N              how many simulated devices the guest has (1; at most 16)\n"
            "  --channels N             how many connections carry their state (1; at most 16)\n"
            "  --state-size SIZE        state of each simulated device (256M in all)\n"
            "  --dirty-rate SIZE        what the guest changes of it per second (64M; 0: nothing)\n"
            "  --memory-size SIZE       the guest's memory (64M; real devices: 0; 0: it is not moved)\n"
            "  --memory-rate SIZE       what the guest's vCPUs write to it per second (8M)\n"
            "  --dma-rate SIZE          what each simulated device writes to it per second (2M)\n"
            "  --read-rate SIZE         what each of the source's drivers gives per second (400M;\n"
            "                           0: all it can)\n"
            "  --write-rate SIZE        what each of the target's drivers takes per second (0)\n"
            "  --downtime-limit MS      switch over when the rest takes less than this (20)\n"
            "  --precopy-limit MS       ... or when this much time has passed (10000)\n"
            "  --remember FILE          what was measured, in FILE.source and FILE.target: for predictions\n"
            "  --bars                   a bar for each device, also where there is no terminal\n"
            "  --device PATH            a VFIO device instead of the simulated one, for the source:\n"
            "                           a cdev, or with --group the device's name in its group\n"
            "  --target-device PATH     and for the target\n"
            "  --group N, --target-group N\n"
            "  --expect WHERE           where the guest must be in the end: source, target, nowhere\n"
            "  --verbose                every change of state\n"
            "  --skip-last-collect      a mistake: dirty pages are not read after the device has\n"
            "                           stopped. It must be noticed\n"
            "  --fail-at WHAT           something goes wrong; the outcome must be right:\n");
    for (size_t i = 1; i < SCENARIOS; i++)
        fprintf(to, "      %-20s %s\n", scenarios[i].name, scenarios[i].what);
}

static uint64_t number(const char *text)
{
    char *end;
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    end += shift > 0;
    if (end == text || *end || errno || *text == '-' || n > UINT64_MAX >> shift) {
        fprintf(stderr, "demo: '%s' is not a number\n", text);
        exit(2);
    }
    return n << shift;
}

static uint32_t count(const char *text, uint32_t most)
{
    uint64_t n = number(text);
    if (n == 0 || n > most) {
        fprintf(stderr, "demo: '%s' is not a number from 1 to %u\n", text, most);
        exit(2);
    }
    return (uint32_t)n;
}

static const struct scenario *scenario_named(const char *name)
{
    for (size_t i = 0; i < SCENARIOS; i++)
        if (strcmp(scenarios[i].name, name) == 0)
            return &scenarios[i];
    fprintf(stderr, "demo: there is no '--fail-at %s'\n", name);
    usage(stderr);
    exit(2);
}

static enum where where_named(const char *name)
{
    for (int i = ON_SOURCE; i <= NOWHERE; i++)
        if (strcmp(name, where_word[i]) == 0)
            return (enum where)i;
    fprintf(stderr, "demo: --expect source, target or nowhere\n");
    exit(2);
}

static struct scenario parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        { "devices", required_argument, NULL, 'n' },
        { "channels", required_argument, NULL, 'c' },
        { "remember", required_argument, NULL, 'R' },
        { "bars", no_argument, NULL, 'b' },
        { "state-size", required_argument, NULL, 's' },
        { "dirty-rate", required_argument, NULL, 'd' },
        { "memory-size", required_argument, NULL, 'm' },
        { "memory-rate", required_argument, NULL, 'M' },
        { "dma-rate", required_argument, NULL, 'a' },
        { "skip-last-collect", no_argument, NULL, 'S' },
        { "read-rate", required_argument, NULL, 'r' },
        { "write-rate", required_argument, NULL, 'w' },
        { "downtime-limit", required_argument, NULL, 'l' },
        { "precopy-limit", required_argument, NULL, 'p' },
        { "fail-at", required_argument, NULL, 'f' },
        { "device", required_argument, NULL, 'D' },
        { "target-device", required_argument, NULL, 'T' },
        { "group", required_argument, NULL, 'g' },
        { "target-group", required_argument, NULL, 'G' },
        { "expect", required_argument, NULL, 'e' },
        { "verbose", no_argument, NULL, 'v' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    const struct scenario *scenario = &scenarios[0];
    int expected = -1, option;
    bool memory_given = false;
    while ((option = getopt_long(argc, argv, "v", longs, NULL)) != -1) {
        switch (option) {
        case 'n': o->devices = count(optarg, MAX_DEVICES); break;
        case 'c': o->channels = count(optarg, MAX_CHANNELS); break;
        case 'R': o->remember = optarg; break;
        case 'b': o->bars = true; break;
        case 's': o->state_size = number(optarg); break;
        case 'd': o->dirty_rate = number(optarg); break;
        case 'm': o->memory_size = number(optarg); memory_given = true; break;
        case 'M': o->memory_rate = number(optarg); break;
        case 'a': o->dma_rate = number(optarg); break;
        case 'S': o->skip_last_collect = true; break;
        case 'r': o->read_rate = number(optarg); break;
        case 'w': o->write_rate = number(optarg); break;
        case 'l': o->downtime_limit_ms = number(optarg); break;
        case 'p': o->precopy_limit_ms = number(optarg); break;
        case 'f': scenario = scenario_named(optarg); break;
        case 'D': o->device[SOURCE] = optarg; break;
        case 'T': o->device[TARGET] = optarg; break;
        case 'g': o->group[SOURCE] = optarg; break;
        case 'G': o->group[TARGET] = optarg; break;
        case 'e': expected = where_named(optarg); break;
        case 'v': o->verbose = true; break;
        case 'h': usage(stdout); exit(0);
        default: usage(stderr); exit(2);
        }
    }
    o->fail_at = scenario->failure;
    bool real = o->device[SOURCE] || o->device[TARGET];
    /* No real device is given memory to write to here, so there would be nothing to show. */
    if (real && !memory_given)
        o->memory_size = 0;
    if (o->state_size == 0)
        o->state_size = DEFAULT_STATE / o->devices;
    if (optind < argc || (real && o->devices > 1) ||
        o->memory_size % (uint64_t)sysconf(_SC_PAGESIZE) != 0 ||
        (real && !(o->device[SOURCE] && o->device[TARGET]))) {
        usage(stderr);
        exit(2);
    }
    if (real && o->fail_at != FAIL_NOTHING && o->fail_at < FAIL_CUT_FOR_GOOD) {
        fprintf(stderr, "demo: a real device fails when it likes, not with --fail-at %s\n",
                scenario->name);
        exit(2);
    }
    struct scenario chosen = *scenario;
    if (expected >= 0)
        chosen.expected = (enum where)expected;
    return chosen;
}

/* --- what came of it -------------------------------------------------------------------------- */

/* Whether the state that was moved is whole, which only a simulated device can be asked. */
static bool contents_right(const struct options *o, const struct report *source,
                           const struct report *target)
{
    if (source->memory_digest != target->memory_digest ||
        (target->memory_digest == 0) != (o->memory_size == 0)) {
        printf("demo: the memory differs: digest %016" PRIx64 " here and %016" PRIx64 " there\n",
               source->memory_digest, target->memory_digest);
        return false;
    }
    if (o->device[SOURCE])
        return true;
    if (source->pci_command != target->pci_command || target->pci_command == 0) {
        printf("demo: PCI_COMMAND is %#x here and %#x there\n", source->pci_command,
               target->pci_command);
        return false;
    }
    if (source->digest != target->digest || source->digest == 0) {
        printf("demo: the contents differ: digest %016" PRIx64 " here and %016" PRIx64 " there\n",
               source->digest, target->digest);
        return false;
    }
    return true;
}

/* Whether the pages that the devices wrote to were reported as they should have been. */
static bool tracking_right(const struct options *o, const struct report *source,
                           const struct report *target)
{
    enum failure failure = o->fail_at;
    bool all_dirty = failure == FAIL_NO_LOG || failure == FAIL_LOG_REFUSES;
    bool errors = failure == FAIL_LOG_REFUSES || failure == FAIL_LOG_FORGETS ||
                  failure == FAIL_GUEST_RESET;
    if (!target->goes_on) {
        printf("demo: WRONG: nothing is written to the memory after the switchover\n");
        return false;
    }
    if (o->memory_size == 0 || o->device[SOURCE] || failure == FAIL_KILL_SOURCE)
        return true;
    if (source->tracker != (all_dirty ? VFIOMIG_TRACKER_ALL_DIRTY : VFIOMIG_TRACKER_DEVICE_LOG) ||
        (source->tracking_errors > 0) != errors) {
        printf("demo: WRONG: tracker %u, %" PRIu64 " errors\n", source->tracker,
               source->tracking_errors);
        return false;
    }
    if (!all_dirty && o->dma_rate > 0 && !o->skip_last_collect && source->logged_bytes == 0) {
        printf("demo: WRONG: the device's log has reported nothing\n");
        return false;
    }
    return true;
}

static bool judge(const struct options *o, const struct scenario *scenario,
                  const struct report *source, const struct report *target)
{
    bool on_source = source->finished && source->vcpus_run;
    bool on_target = target->finished && target->vcpus_run;
    if (on_source && on_target) {
        printf("demo: WRONG: the guest runs on both sides\n");
        return false;
    }
    enum where where = on_source ? ON_SOURCE : on_target ? ON_TARGET : NOWHERE;
    printf("demo: the guest runs %s\n", where_name[where]);
    bool right = where == scenario->expected || (scenario->expected == EITHER && where != NOWHERE);
    if (!right)
        printf("demo: WRONG: it should run %s\n", where_name[scenario->expected]);
    if (source->lost || target->lost) {
        printf("demo: WRONG: a device was lost\n");
        right = false;
    }
    if (source->violations + target->violations > 0) {
        printf("demo: WRONG: the kernel's rules were violated\n");
        right = false;
    }
    if (scenario->failure == FAIL_GUEST_RESET && (source->restarts == 0 || target->restarts == 0)) {
        printf("demo: WRONG: the save did not start again\n");
        right = false;
    }
    if (on_target && !contents_right(o, source, target))
        right = false;
    if (on_target && !tracking_right(o, source, target))
        right = false;
    return right;
}

static void say_what_moves(const struct options *o, const struct scenario *scenario)
{
    printf("demo: libvfiomig %s", vfiomig_version_string());
    if (o->device[SOURCE])
        printf(", %s to %s", o->device[SOURCE], o->device[TARGET]);
    else
        printf(", %u simulated device%s with %.0f MiB of state, a guest with %.0f MiB of memory", o->devices,
               o->devices == 1 ? "" : "s", (double)o->state_size / (1 << 20),
               (double)o->memory_size / (1 << 20));
    printf("%s%s\n", scenario->failure ? "; " : "", scenario->what);
    if (o->device[SOURCE] && o->memory_size == 0)
        printf("demo: no memory is moved: the devices are given none to write to\n");
}

/* Both ends of all connections. */
static bool connect_both(const struct options *o, struct connections ends[2])
{
    for (uint32_t i = 0; i < 3 + o->channels; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
            return false;
        for (int side = SOURCE; side <= TARGET; side++) {
            struct connections *c = &ends[side];
            int *end[] = { &c->link, &c->again, &c->memory };
            *(i < 3 ? end[i] : &c->channels[i - 3]) = pair[side];
        }
    }
    return true;
}

static void disconnect(const struct options *o, const struct connections *c)
{
    close(c->link);
    close(c->again);
    close(c->memory);
    for (uint32_t i = 0; i < o->channels; i++)
        close(c->channels[i]);
}

/* Each side in a process of its own, with sockets between them. False with a message. */
static bool run_both(const struct options *o, struct shared *shared)
{
    struct connections ends[2];
    const struct report *reports = shared->reports;
    pid_t pids[2];
    if (!connect_both(o, ends)) {
        perror("demo");
        return false;
    }
    fflush(stdout);
    for (int side = SOURCE; side <= TARGET; side++) {
        pids[side] = fork();
        if (pids[side] < 0) {
            perror("demo: fork");
            return false;
        }
        if (pids[side] == 0) {
            disconnect(o, &ends[!side]);
            if (side == SOURCE)
                run_source(o, &ends[side], shared);
            else
                run_target(o, &ends[side], shared);
            fflush(stdout);
            _exit(0);
        }
    }
    disconnect(o, &ends[SOURCE]);
    disconnect(o, &ends[TARGET]);
    for (int side = SOURCE; side <= TARGET; side++) {
        int status;
        waitpid(pids[side], &status, 0);
        if (WIFSIGNALED(status))
            printf("demo: the %s was killed by signal %d\n", side == SOURCE ? "source" : "target",
                   WTERMSIG(status));
        /* A process that ended without a report has failed, whatever else it says. */
        if (WIFEXITED(status) && (WEXITSTATUS(status) != 0 || !reports[side].finished)) {
            printf("demo: the %s ended with status %d\n", side == SOURCE ? "source" : "target",
                   WEXITSTATUS(status));
            return false;
        }
    }
    return true;
}

static void print_amounts(const struct options *o, const struct report *source)
{
    if (o->memory_size > 0)
        printf("memory: %.1f MiB while the guest ran, %.2f MiB after; the devices' logs reported "
               "%.1f MiB\n",
               (double)(source->memory_bytes - source->memory_stop_bytes) / (1 << 20),
               (double)source->memory_stop_bytes / (1 << 20),
               (double)source->logged_bytes / (1 << 20));
}

static void say_what_is_verified(const struct options *o, const struct scenario *scenario,
                                 const struct report *source, const struct report *target)
{
    double downtime_ms = (double)(target->at_ns - source->at_ns) / 1e6;
    if (scenario->expected != ON_TARGET)
        printf("demo: verified: %s, and the guest runs %s\n", scenario->what,
               where_name[scenario->expected]);
    else if (o->device[SOURCE])
        printf("demo: verified: %" PRIu64 " bytes moved, every frame checked, downtime %.1f ms\n",
               target->data_bytes, downtime_ms);
    else
        printf("demo: verified: %.0f MiB of device state and %.0f MiB of memory moved, digests "
               "%016" PRIx64 " and %016" PRIx64 ", downtime %.1f ms\n",
               (double)(o->state_size * o->devices) / (1 << 20), (double)o->memory_size / (1 << 20),
               target->digest, target->memory_digest, downtime_ms);
}

int main(int argc, char **argv)
{
    struct options o = {
        .devices = 1,
        .channels = 1,
        .dirty_rate = 64 << 20,
        .memory_size = 64 << 20,
        .memory_rate = 8 << 20,
        .dma_rate = 2 << 20,
        .read_rate = 400 << 20,
        .downtime_limit_ms = 20,
        .precopy_limit_ms = 10000,
        .bars = isatty(STDOUT_FILENO),
    };
    const struct scenario scenario = parse(argc, argv, &o);
    setvbuf(stdout, NULL, _IOLBF, 0);
    say_what_moves(&o, &scenario);

    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                                 -1, 0);
    if (shared == MAP_FAILED) {
        perror("demo");
        return 1;
    }
    if (!run_both(&o, shared))
        return 1;

    const struct report *source = &shared->reports[SOURCE], *target = &shared->reports[TARGET];
    if (!judge(&o, &scenario, source, target)) {
        printf("demo: FAILED\n");
        return 1;
    }
    if (scenario.expected == ON_TARGET) {
        print_amounts(&o, source);
        show_downtime(source, target);
    }
    say_what_is_verified(&o, &scenario, source, target);
    return 0;
}
