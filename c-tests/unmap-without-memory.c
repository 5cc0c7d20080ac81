/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Memory that runs out while a guest maps and unmaps, and a VMM without memory takes no page: the
 * guest decides how much there is to remember. Nothing aborts, and each page comes in the end.
 */
#include "failing-malloc.h"
#include "track.h"

enum { MANY = 10000, TRANSLATED = 16384 };

static int nothing_is_taken, translate_fails, gone_at_translation, gone_at_unmap;
static unsigned long translations;
static uint8_t taken[1 << 16];
static unsigned long too_much;

/* Which of the test's pages one in the VMM's memory is. */
static uint64_t (*number_of)(uint64_t cookie, uint64_t page);

static uint64_t far_apart(uint64_t cookie, uint64_t page)
{
    (void)cookie;
    return page % 40000 ? sizeof taken : page / 40000;
}

static uint64_t a_cookie_each(uint64_t cookie, uint64_t page)
{
    return page ? sizeof taken : cookie;
}

static int give(void *o, uint64_t cookie, uint64_t offset, uint64_t page_size, const uint64_t *bits,
                uint64_t n)
{
    (void)o;
    if (nothing_is_taken)
        return -ENOMEM;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t number = number_of(cookie, offset / page_size + i);
        if (!bit(bits, i))
            continue;
        if (number < sizeof taken)
            taken[number] = 1;
        else
            too_much++;
    }
    return 0;
}

static int translate(void *o, uint64_t iova, uint64_t size, struct vfiomig_place *place)
{
    (void)o;
    (void)size;
    translations++;
    if (translate_fails)
        return -EAGAIN;
    if (gone_at_translation && translations == (unsigned long)gone_at_translation)
        memory_runs_out(1, (unsigned long)-1);
    place->cookie = iova / PAGE;
    place->offset = 0;
    place->size = PAGE;
    return 0;
}

static int unmap(void *o, uint64_t iova, uint64_t size)
{
    (void)o;
    (void)iova;
    (void)size;
    if (gone_at_unmap)
        memory_runs_out(1, (unsigned long)-1);
    return 0;
}

static int unmap_all(struct vfiomig_dirty *dirty, uint64_t pages)
{
    return LIB(vfiomig_dirty_unmap(dirty, 0, pages * PAGE, 0, NULL, 0, unmap, NULL));
}

static struct vfiomig_dirty *new_tracking(void)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options o = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;
    memory_is_back();
    memory_largest = 0;
    nothing_is_taken = translate_fails = gone_at_translation = gone_at_unmap = 0;
    translations = too_much = 0;
    memset(taken, 0, sizeof taken);
    ops.set_dirty = give;
    ops.translate = translate;
    o.page_size = PAGE;
    OK(vfiomig_dirty_new(&ops, NULL, &o, &dirty));
    /* Nobody watches what it writes: all counts as dirty. */
    add_writer(dirty, NULL, NULL, 0);
    return dirty;
}

static void all_is_taken(uint64_t pages)
{
    for (uint64_t i = 0; i < pages; i++)
        if (!taken[i])
            FAIL("page %llu was lost", (unsigned long long)i);
    EQ(too_much, 0);
}

static void many_mappings_go_and_nothing_is_taken(void)
{
    struct vfiomig_dirty *dirty = new_tracking();
    number_of = far_apart;
    for (uint64_t i = 0; i < MANY; i++)
        OK(try_map(dirty, 2 * i * PAGE, PAGE, 1, i * 40000 * PAGE, 0));
    CHECK(vfiomig_dirty_start(dirty) >= 0);
    nothing_is_taken = gone_at_unmap = 1;
    CHECK(unmap_all(dirty, 2 * MANY) >= 0);
    CHECK(LIB(vfiomig_dirty_collect(dirty)) == -ENOMEM);
    nothing_is_taken = 0;
    CHECK(LIB(vfiomig_dirty_collect(dirty)) >= 0);
    memory_is_back();
    all_is_taken(MANY);
    vfiomig_dirty_free(dirty);
}

static void what_was_unknown_is_found_without_memory(void)
{
    struct vfiomig_dirty *dirty = new_tracking();
    number_of = a_cookie_each;
    OK(try_map(dirty, 0, (uint64_t)TRANSLATED * PAGE, 1, 0, VFIOMIG_MAPPING_TRANSLATE));
    CHECK(vfiomig_dirty_start(dirty) >= 0);
    translate_fails = nothing_is_taken = 1;
    CHECK(unmap_all(dirty, TRANSLATED) >= 0);
    translate_fails = translations = 0;
    gone_at_translation = 10;
    EQ(LIB(vfiomig_dirty_collect(dirty)), -ENOMEM);
    memory_is_back();
    nothing_is_taken = 0;
    CHECK(LIB(vfiomig_dirty_collect(dirty)) >= 0);
    all_is_taken(TRANSLATED);
    vfiomig_dirty_free(dirty);
}

/* What the VMM once knew is not asked for when it has forgotten it. */
static void what_was_known_is_not_unknown_without_memory(void)
{
    for (int at = 1; at < 3 * TRANSLATED; at += 1237) {
        struct vfiomig_dirty *dirty = new_tracking();
        int r;
        number_of = a_cookie_each;
        OK(try_map(dirty, 0, (uint64_t)TRANSLATED * PAGE, 1, 0, VFIOMIG_MAPPING_TRANSLATE));
        CHECK(vfiomig_dirty_start(dirty) >= 0);
        nothing_is_taken = 1;
        gone_at_translation = at;
        r = unmap_all(dirty, TRANSLATED);
        memory_is_back();
        gone_at_translation = nothing_is_taken = 0;
        CHECK(r >= 0 || r == -ENOMEM);
        if (r < 0)
            CHECK(unmap_all(dirty, TRANSLATED) >= 0);
        translate_fails = 1;
        CHECK(LIB(vfiomig_dirty_collect(dirty)) >= 0);
        all_is_taken(TRANSLATED);
        vfiomig_dirty_free(dirty);
    }
}

/* malloc has what is large but not what is small: a process at the edge of what it may have. */
static void mappings_come_while_only_small_allocations_fail(void)
{
    struct vfiomig_dirty *dirty = new_tracking();
    static uint8_t mapped[sizeof taken];
    unsigned long refused = 0, made = 0;
    number_of = far_apart;
    memset(mapped, 0, sizeof mapped);
    CHECK(vfiomig_dirty_start(dirty) >= 0);
    memory_largest = 4096;
    memory_runs_out(1, (unsigned long)-1);
    for (uint64_t i = 0; i < 60000; i++) {
        int r = LIB(try_map(dirty, 2 * i * PAGE, PAGE, 1, i * 40000 * PAGE, 0));
        CHECK(r == 0 || r == -ENOMEM);
        mapped[i] = r == 0;
        made += r == 0;
        refused += r < 0;
    }
    CHECK(made > 0 && refused > 0);
    /* The reserve is not used up: calls begin, as far as they get. */
    EQ(LIB(vfiomig_dirty_collect(dirty)), -ENOMEM);
    HAS(vfiomig_error_message(), "no memory for a list of mappings");
    EQ(LIB(vfiomig_dirty_mark(dirty, 0, PAGE)), -ENOMEM);
    HAS(vfiomig_error_message(), "memory");
    memory_is_back();
    /* With what was made without memory still there. */
    OK(LIB(try_map(dirty, 2 * 60000 * (uint64_t)PAGE, PAGE, 1, 60000 * (uint64_t)40000 * PAGE, 0)));
    OK(LIB(vfiomig_dirty_mark(dirty, 2 * 60000 * (uint64_t)PAGE, PAGE)));
    CHECK(LIB(vfiomig_dirty_collect(dirty)) >= 0);
    EQ(taken[60000], 1);
    for (uint64_t i = 0; i < 60000; i++)
        EQ(taken[i], mapped[i]);
    vfiomig_dirty_free(dirty);
}

int main(void)
{
    RUN(many_mappings_go_and_nothing_is_taken);
    RUN(what_was_unknown_is_found_without_memory);
    RUN(what_was_known_is_not_unknown_without_memory);
    RUN(mappings_come_while_only_small_allocations_fail);
    return DONE();
}
