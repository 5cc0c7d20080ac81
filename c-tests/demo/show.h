/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the user sees of a migration. */
#ifndef SHOW_H
#define SHOW_H

#include "demo.h"

struct vm;

/* A bar for each device, on a terminal; then what was sent of each. */
void show_bars(struct vm *vm);
void show_last_bars(struct vm *vm);

/* What the estimate says of a switchover, beside what the memory would take. */
void show_decision(const struct vfiomig_decision *decision, uint64_t memory_ns, bool insist);
void show_outcome(struct vm *vm);

/* The phases of the downtime, as they were predicted and as they were. */
void show_downtime(const struct report *source, const struct report *target);

#endif
