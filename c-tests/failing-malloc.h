/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Memory that runs out: malloc and its siblings instead of libc's, for the whole program. What is
 * allocated between LIB( and ) counts, and can be made to fail: by the library itself, or by libc
 * on its behalf. What the simulator and the program's own callbacks allocate does not count: the
 * library's callbacks begin with OUTSIDE and end with INSIDE.
 */
#ifndef FAILING_MALLOC_H
#define FAILING_MALLOC_H

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Whether this thread is inside the library. */
static _Thread_local int memory_inside;
static _Thread_local int memory_result;
/* Which allocations fail: the first is 1; `last` is that one, or the largest number. */
static atomic_ulong memory_count, memory_first, memory_last;
static atomic_int memory_armed;
/* The largest that fails; 0: any. */
static size_t memory_largest;
/* Called for each aligned allocation before it is made. */
static void (*memory_hook)(size_t size);

/* What the call has allocated in small pieces and not freed, in blocks of the library's reserve,
 * and the most that any call had at once, in bytes. */
static _Thread_local long memory_call;
static long *memory_most;

#define LIB(call) \
    (memory_inside++, memory_call = 0, memory_result = (call), memory_inside--, memory_result)
#define LIB_VOID(call) (memory_inside++, memory_call = 0, (call), memory_inside--)
#define OUTSIDE int inside_before = memory_inside; memory_inside = 0
#define INSIDE memory_inside = inside_before

/* What was allocated inside and was not freed. */
enum { MEMORY_SLOTS = 1 << 16 };
static void *memory_live[MEMORY_SLOTS];
static atomic_long memory_num_live;
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;

static void **memory_slot(const void *ptr)
{
    size_t at = (uintptr_t)ptr / 16 * 2654435761u % MEMORY_SLOTS;
    for (size_t i = 0; i < MEMORY_SLOTS; i++) {
        void **slot = &memory_live[(at + i) % MEMORY_SLOTS];
        if (*slot == ptr)
            return slot;
        if (!*slot)
            break;
    }
    return NULL;
}

/* The block that the reserve would give; 0: none, it is large. */
static long memory_block(void *ptr)
{
    size_t size = malloc_usable_size(ptr) - 7;
    return size > 4096 ? 0 : size <= 64 ? 64 : size <= 256 ? 256 : size <= 1024 ? 1024 : 4096;
}

static void *memory_note(void *ptr, long block)
{
    if (!ptr || ptr == MAP_FAILED || !memory_inside)
        return ptr;
    memory_call += block;
    if (memory_most && memory_call > *memory_most)
        *memory_most = memory_call;
    pthread_mutex_lock(&memory_lock);
    size_t at = (uintptr_t)ptr / 16 * 2654435761u % MEMORY_SLOTS;
    while (memory_live[at] && memory_live[at] != (void *)-1)
        at = (at + 1) % MEMORY_SLOTS;
    memory_live[at] = ptr;
    memory_num_live++;
    pthread_mutex_unlock(&memory_lock);
    return ptr;
}

static void *memory_note_block(void *ptr)
{
    return memory_note(ptr, ptr ? memory_block(ptr) : 0);
}

static void memory_forget(void *ptr, long block)
{
    if (!ptr || memory_num_live == 0)
        return;
    pthread_mutex_lock(&memory_lock);
    void **slot = memory_slot(ptr);
    if (slot) {
        *slot = (void *)-1;
        memory_num_live--;
        memory_call -= memory_inside ? block : 0;
    }
    pthread_mutex_unlock(&memory_lock);
}

static int memory_fails(size_t size)
{
    if (!memory_inside || !memory_armed || (memory_largest && size > memory_largest))
        return 0;
    unsigned long n = ++memory_count;
    if (n < memory_first || n > memory_last)
        return 0;
    errno = ENOMEM;
    return 1;
}

/* Those of libc. Found at first use; finding them allocates nothing. */
#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        memory_find(&real, sizeof real, #name)

static void memory_find(void *to, size_t size, const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    memcpy(to, &found, size);
}

void *malloc(size_t size)
{
    REAL(malloc);
    return memory_fails(size) ? NULL : memory_note_block(real(size));
}

void *calloc(size_t num, size_t size)
{
    REAL(calloc);
    return memory_fails(num * size) ? NULL : memory_note_block(real(num, size));
}

void *realloc(void *ptr, size_t size)
{
    REAL(realloc);
    if (memory_fails(size))
        return NULL;
    int was_live = memory_inside;
    if (ptr && memory_num_live > 0 && !memory_inside) {
        pthread_mutex_lock(&memory_lock);
        was_live = memory_slot(ptr) != NULL;
        pthread_mutex_unlock(&memory_lock);
    }
    if (!was_live)
        return real(ptr, size);
    /* Removed from the list before its address can become another thread's. */
    memory_forget(ptr, ptr ? memory_block(ptr) : 0);
    void *moved = real(ptr, size);
    int before = memory_inside;
    memory_inside = 1;
    memory_note_block(moved ? moved : ptr);
    memory_inside = before;
    return moved;
}

int posix_memalign(void **out, size_t align, size_t size)
{
    REAL(posix_memalign);
    if (memory_hook && memory_inside)
        memory_hook(size);
    if (memory_fails(size))
        return ENOMEM;
    int r = real(out, align, size);
    if (r == 0)
        memory_note_block(*out);
    return r;
}

void *aligned_alloc(size_t align, size_t size)
{
    REAL(aligned_alloc);
    return memory_fails(size) ? NULL : memory_note_block(real(align, size));
}

void free(void *ptr)
{
    REAL(free);
    memory_forget(ptr, ptr ? memory_block(ptr) : 0);
    real(ptr);
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
    REAL(mmap);
    if ((flags & MAP_ANONYMOUS) && memory_fails(len))
        return MAP_FAILED;
    void *at = real(addr, len, prot, flags, fd, offset);
    return flags & MAP_ANONYMOUS ? memory_note(at, 0) : at;
}

int munmap(void *addr, size_t len)
{
    REAL(munmap);
    memory_forget(addr, 0);
    return real(addr, len);
}

/* From now on the allocations `first` to `last` fail, counted from here; none: 0, 0. */
static void memory_runs_out(unsigned long first, unsigned long last)
{
    memory_count = 0;
    memory_first = first ? first : (unsigned long)-1;
    memory_last = last;
    memory_armed = 1;
}

static void memory_is_back(void)
{
    memory_armed = 0;
}

#endif
