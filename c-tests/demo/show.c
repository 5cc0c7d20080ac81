/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "show.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vm.h"

#define MIB(bytes) ((double)(bytes) / (1 << 20))
#define MS(ns) ((double)(ns) / 1e6)
#define BAR_NS 50000000 /* between two pictures */

static void show_bar(struct vm *vm, uint32_t device)
{
    static const char full[] = "##############################";
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    if (vfiomig_group_get_save_stats(vm->group, device, &stats) < 0 ||
        vfiomig_group_get_pending(vm->group, device, &pending) < 0)
        return;
    uint64_t left = pending.initial_bytes + pending.dirty_bytes, goal = stats.data_bytes + left;
    int width = goal > 0 ? (int)((double)stats.data_bytes / (double)goal * 30) : 30;
    printf("device %-2u [%.*s%*s] %7.1f MiB sent, %7.1f MiB left\033[K\n", device, width, full, 30 - width,
           "", MIB(stats.data_bytes), MIB(left));
}

/* What is printed next goes over them. */
void show_bars(struct vm *vm)
{
    static uint64_t shown_ns;
    if (!vm->options->bars || !vm->begun || !vm->report->vcpus_run || now_ns() - shown_ns < BAR_NS)
        return;
    shown_ns = now_ns();
    for (uint32_t i = 0; i < vm->options->devices; i++)
        show_bar(vm, i);
    printf("\033[%uA\r", vm->options->devices);
    fflush(stdout);
}

void show_last_bars(struct vm *vm)
{
    if (vm->options->bars)
        printf("\033[J");
    for (uint32_t i = 0; i < vm->options->devices && vm->begun; i++) {
        struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
        if (vfiomig_group_get_save_stats(vm->group, i, &stats) < 0)
            continue;
        printf("source: device %u: %.1f MiB sent while the guest ran, %.2f MiB after\n", i,
               MIB(stats.precopy_bytes), MIB(stats.data_bytes - stats.precopy_bytes));
        vm->report->data_bytes += stats.data_bytes;
        vm->report->stop_bytes += stats.data_bytes - stats.precopy_bytes;
        vm->report->restarts += stats.restarts;
    }
}

static const char *because(uint32_t reason)
{
    switch (reason) {
    case VFIOMIG_BECAUSE_FITS: return "it fits";
    case VFIOMIG_BECAUSE_LIKELY: return "it is likely to fit";
    case VFIOMIG_BECAUSE_AS_FAR_AS_KNOWN: return "it fits, as far as is known";
    case VFIOMIG_BECAUSE_NOTHING_KNOWN: return "nothing is known yet";
    case VFIOMIG_BECAUSE_INITIAL_NOT_SENT: return "not all initial data is sent";
    case VFIOMIG_BECAUSE_INITIAL_NOT_LOADED: return "the target has not loaded all initial data";
    case VFIOMIG_BECAUSE_INITIAL_AGAIN: return "initial data has started again";
    case VFIOMIG_BECAUSE_DATA_LEFT: return "too much is left";
    case VFIOMIG_BECAUSE_STEPS: return "the changes of state alone take too long";
    case VFIOMIG_BECAUSE_STOP_COPY_SIZE: return "what only stopped devices give is too much";
    case VFIOMIG_BECAUSE_DIRTY_RATE: return "a device becomes dirty faster than it can be moved";
    case VFIOMIG_BECAUSE_INITIAL_REPEATS: return "initial data starts again and again";
    default: return "it is so";
    }
}

void show_decision(const struct vfiomig_decision *d, uint64_t memory_ns, bool insist)
{
    const char *what = insist ? "switching over, whatever it costs"
                       : d->verdict == VFIOMIG_VERDICT_SWITCH_OVER ? "switching over"
                       : d->verdict == VFIOMIG_VERDICT_GO_ON ? "going on" : "going on, in vain";
    printf("source: %s: %s (%.1f ms for the devices, %.1f ms for the memory)%s\n", what,
           because(d->because), MS(d->expected_ns), MS(memory_ns), isatty(STDOUT_FILENO) ? "\033[K" : "");
}

static const char *reason_name(uint32_t reason)
{
    switch (reason) {
    case VFIOMIG_HANDOVER_REASON_CANCELLED: return "it was cancelled";
    case VFIOMIG_HANDOVER_REASON_INCOMPATIBLE: return "the devices do not match";
    case VFIOMIG_HANDOVER_REASON_FENCED: return "the other side is gone, and has not run the guest";
    case VFIOMIG_HANDOVER_REASON_CUT: return "the connection is gone";
    default: return "something failed";
    }
}

void show_outcome(struct vm *vm)
{
    const char *side = side_name[vm->side];
    struct vfiomig_handover_outcome o = link_outcome(&vm->link);
    bool by_peer = o.flags & VFIOMIG_HANDOVER_BY_PEER;
    if (vm->report->why[0])
        printf("%s: %s\n", side, vm->report->why);
    else if (o.reason != VFIOMIG_HANDOVER_REASON_NONE)
        printf("%s: %s%s%s%s\n", side, by_peer ? "the other side says: " : "", reason_name(o.reason),
               o.code ? ": " : "", o.code ? strerror(o.code < 0 ? -o.code : o.code) : "");
    if (o.outcome == VFIOMIG_HANDOVER_OUTCOME_UNDECIDED)
        printf("%s: the guest runs on the other side; letting go\n", side);
    vm->report->lost = o.outcome == VFIOMIG_HANDOVER_OUTCOME_LOST;
}

static void print_ms(uint64_t ns, const char *unknown)
{
    if (ns == VFIOMIG_ESTIMATE_UNKNOWN)
        printf("%14s", unknown);
    else
        printf("%11.3f ms", MS(ns));
}

void show_downtime(const struct report *source, const struct report *target)
{
    static const char *const names[] = { "quiesce", "stop", "read", "send", "load", "commit", "resume",
                                         "all devices" };
    const struct vfiomig_prediction *predicted = &source->prediction;
    const struct vfiomig_downtime *measured = &source->downtime;
    printf("downtime by phase:    predicted      measured\n");
    for (uint32_t i = 0; i <= VFIOMIG_DOWNTIME_TOTAL; i++) {
        /* What was never measured is known in part, or not at all. */
        bool known = predicted->high_ns[i] != VFIOMIG_ESTIMATE_UNKNOWN;
        printf("  %-12s%s", names[i], known || predicted->expected_ns[i] == 0 ? "  " : " >");
        print_ms(known || predicted->expected_ns[i] ? predicted->expected_ns[i] : VFIOMIG_ESTIMATE_UNKNOWN,
                 "not known yet");
        print_ms(measured->measured_ns[i], "?");
        printf("\n");
    }
    if (source->memory_bytes > 0)
        printf("  beside that, the last memory took  %.3f ms\n", MS(source->memory_ns));
    printf("  from the guest's last instruction here to its first there: %.3f ms\n",
           MS(target->at_ns - source->at_ns));
}
