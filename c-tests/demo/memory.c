/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int memory_create(struct memory *m, uint64_t size, uint64_t seed)
{
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE), pages = size / page_size;
    *m = (struct memory){ .size = size, .page_size = page_size, .pages = pages,
                          .words = (pages + 63) / 64 };
    if (size == 0)
        return 0;
    m->vcpu_log = calloc(m->words, sizeof *m->vcpu_log);
    void *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m->ram = ram == MAP_FAILED ? NULL : ram;
    if (!m->vcpu_log || !m->ram) {
        memory_destroy(m);
        return -ENOMEM;
    }
    if (seed)
        memory_write(m, 0, size, seed);
    return 0;
}

void memory_destroy(struct memory *m)
{
    if (m->ram)
        munmap(m->ram, m->size);
    free(m->vcpu_log);
    *m = (struct memory){ .size = 0 };
}

/* A vCPU and a device may write to the same word at the same time, as real ones may. */
void memory_write(struct memory *m, uint64_t offset, uint64_t len, uint64_t seed)
{
    uint64_t *word = (uint64_t *)(void *)(m->ram + offset);
    for (uint64_t i = 0; i < len / 8; i++)
        __atomic_store_n(word + i, random_next(&seed), __ATOMIC_RELAXED);
}

void memory_vcpu_write(struct memory *m, uint64_t offset, uint64_t len, uint64_t seed)
{
    memory_write(m, offset, len, seed);
    /* Afterwards: a log that is taken in between must not forget the rest of this write. */
    for (uint64_t page = offset / m->page_size; page <= (offset + len - 1) / m->page_size; page++)
        __atomic_fetch_or(&m->vcpu_log[page / 64], (uint64_t)1 << page % 64, __ATOMIC_RELEASE);
    __atomic_fetch_add(&m->vcpu_writes, 1, __ATOMIC_RELAXED);
}

void memory_take_vcpu_log(struct memory *m, uint64_t *bitmap)
{
    for (uint64_t i = 0; i < m->words; i++)
        bitmap[i] |= __atomic_exchange_n(&m->vcpu_log[i], 0, __ATOMIC_ACQUIRE);
}

/* FNV-1a, by words. */
uint64_t memory_digest(const struct memory *m)
{
    const uint64_t *word = (const uint64_t *)(const void *)m->ram;
    uint64_t digest = 0xcbf29ce484222325u;
    for (uint64_t i = 0; i < m->size / 8; i++)
        digest = (digest ^ word[i]) * 0x100000001b3u;
    return m->size ? digest : 0;
}
