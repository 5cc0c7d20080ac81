/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * vfiomig_dirty_collect(): every page that was written to reaches set_dirty, in the VMM's own
 * terms, once; what it refuses comes again.
 */
#include <pthread.h>
#include <semaphore.h>

#include "track.h"

#define BASE ((uint64_t)1 << 32)

/* Three mappings, which lie in a different order in the VMM's memory than in the devices' view
 * of it. */
static void three_mappings(struct vfiomig_dirty *dirty)
{
    map(dirty, BASE + 300 * PAGE, 100 * PAGE, 7, 0);
    map(dirty, BASE, 200 * PAGE, 9, (uint64_t)1 << 40);
    map(dirty, BASE + 200 * PAGE, 100 * PAGE, 7, 500 * PAGE);
}

static struct given place_of(uint64_t page)
{
    if (page < 200)
        return (struct given){ 9, ((uint64_t)1 << 40) + page * PAGE };
    if (page < 300)
        return (struct given){ 7, (500 + page - 200) * PAGE };
    return (struct given){ 7, (page - 300) * PAGE };
}

static void pages_come_with_their_cookie_and_offset(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 400);
    uint64_t seed = 3;
    add_writer(dirty, &t, NULL, 0);
    three_mappings(dirty);
    OK(vfiomig_dirty_start(dirty));
    for (int round = 0; round < 30; round++) {
        size_t num = 0;
        forget(&m);
        for (int i = 0; i < 20; i++)
            touch(&t, BASE + random_(&seed) % 400 * PAGE, 1);
        uint8_t written[400];
        memcpy(written, t.dirty, 400);
        OK(vfiomig_dirty_collect(dirty));
        for (uint64_t page = 0; page < 400; page++) {
            struct given place = place_of(page);
            EQ(times_given(&m, place.cookie, place.offset), written[page]);
            num += written[page];
        }
        EQ(m.num, num);
    }
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

static void a_page_comes_once_and_a_clean_memory_is_not_told(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 400);
    add_writer(dirty, &t, NULL, 0);
    three_mappings(dirty);
    OK(vfiomig_dirty_start(dirty));
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.calls, 0);
    touch(&t, BASE + 250 * PAGE, 1);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 1);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 1);
    EQ(m.calls, 1);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

/* From the lowest address up. */
static void pages_come_in_the_order_of_their_addresses(void)
{
    enum { PAGES = 3 * 4096 * 8 };
    static const size_t pages[] = { 0, 1, 5000, 32767, 32768, 40000, 65536, PAGES - 1 };
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 4096);
    struct tracker t = tracker_new(BASE, PAGE, PAGES);
    add_writer(dirty, &t, NULL, 0);
    /* From the last to the first. */
    for (int i = 5; i >= 0; i--)
        map(dirty, BASE + (uint64_t)i * PAGES / 6 * PAGE, PAGES / 6 * PAGE, (uint64_t)i,
            (uint64_t)i * PAGES / 6 * PAGE);
    OK(vfiomig_dirty_start(dirty));
    for (size_t i = 0; i < 8; i++)
        t.dirty[pages[7 - i]] = 1;
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 8);
    for (size_t i = 0; i < 8; i++) {
        EQ(m.given[i].offset, pages[i] * PAGE);
        EQ(m.given[i].cookie, pages[i] / (PAGES / 6));
    }
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

static void what_is_refused_comes_again(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 400);
    static const int errnums[] = { EIO, ENOMEM, ENOTCONN, EBUSY };
    static const int returned[] = { EIO, ENOMEM, EIO, EIO };
    add_writer(dirty, &t, NULL, 0);
    three_mappings(dirty);
    OK(vfiomig_dirty_start(dirty));
    for (int nth = 0; nth < 3; nth++)
        for (int e = 0; e < 4; e++) {
            forget(&m);
            touch(&t, BASE + 10 * PAGE, 1);
            touch(&t, BASE + 199 * PAGE, 2 * PAGE); /* over an edge */
            touch(&t, BASE + 399 * PAGE, 1);
            m.refused = place_of((uint64_t[]){ 10, 200, 399 }[nth]);
            m.refuse = errnums[e];
            EQ(vfiomig_dirty_collect(dirty), -returned[e]);
            HAS(vfiomig_error_message(), "take dirty pages");
            /* The others have arrived. */
            EQ(m.num, nth == 0 ? 2 : 3);
            m.refuse = 0;
            /* One more in between. */
            touch(&t, BASE + 11 * PAGE, 1);
            OK(vfiomig_dirty_collect(dirty));
            static const uint64_t pages[] = { 10, 11, 199, 200, 399 };
            for (int i = 0; i < 5; i++) {
                struct given place = place_of(pages[i]);
                EQ(times_given(&m, place.cookie, place.offset), 1);
            }
            EQ(m.num, 5);
            OK(vfiomig_dirty_collect(dirty));
            EQ(m.num, 5);
        }
    /* Also with the other way of reading. */
    forget(&m);
    uint64_t bitmap[7] = { 0 };
    touch(&t, BASE + 3 * PAGE, 1);
    m.refused = place_of(3);
    m.refuse = EBUSY;
    EQ(vfiomig_dirty_collect(dirty), -EIO);
    OK(vfiomig_dirty_sync(dirty, BASE, 400 * PAGE, PAGE, bitmap, 7));
    EQ(bitmap[0], 8);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

static void what_the_vmm_marks_is_dirty(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    three_mappings(dirty);
    OK(vfiomig_dirty_mark(dirty, BASE, 1)); /* before the start nothing happens */
    OK(vfiomig_dirty_start(dirty));
    OK(vfiomig_dirty_mark(dirty, BASE + 5 * PAGE + 17, 1));
    OK(vfiomig_dirty_mark(dirty, BASE + 200 * PAGE - 1, 2));
    OK(vfiomig_dirty_mark(dirty, BASE + 298 * PAGE, 5 * PAGE));
    EQ(vfiomig_dirty_mark(dirty, BASE + 399 * PAGE, PAGE + 1), -ENODATA);
    EQ(vfiomig_dirty_mark(dirty, BASE - 1, 2), -ENODATA);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 8);
    static const uint64_t pages[] = { 5, 199, 200, 298, 299, 300, 301, 302 };
    for (int i = 0; i < 8; i++)
        EQ(times_given(&m, place_of(pages[i]).cookie, place_of(pages[i]).offset), 1);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 8);
    vfiomig_dirty_free(dirty);
    memory_free(&m);
}

static void without_set_dirty_there_is_nothing_to_collect_into(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    map(dirty, 0, PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(vfiomig_dirty_collect(dirty), -EINVAL);
    HAS(vfiomig_error_message(), "set_dirty");
    vfiomig_dirty_free(dirty);
}

/* A writer that is removed leaves what it has written to. */
static void a_removed_writer_leaves_its_pages(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker stays = tracker_new(BASE, PAGE, 400), goes = tracker_new(BASE, PAGE, 400);
    add_writer(dirty, &stays, NULL, 0);
    uint32_t number = add_writer(dirty, &goes, NULL, 0);
    three_mappings(dirty);
    OK(vfiomig_dirty_start(dirty));
    touch(&goes, BASE + 250 * PAGE, 1);
    touch(&stays, BASE + 251 * PAGE, 1);
    OK(vfiomig_dirty_remove_writer(dirty, number));
    EQ(goes.released, 1);
    EQ(goes.stops, 1);
    touch(&goes, BASE + 252 * PAGE, 1); /* nobody listens */
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 2);
    EQ(times_given(&m, 7, 550 * PAGE), 1);
    EQ(times_given(&m, 7, 551 * PAGE), 1);
    struct vfiomig_dirty_writer_stats stats = VFIOMIG_DIRTY_WRITER_STATS_INIT;
    EQ(vfiomig_dirty_get_writer_stats(dirty, number, &stats), -ENODATA);
    /* Its number is not used again. */
    struct tracker later = tracker_new(BASE, PAGE, 400);
    EQ(add_writer(dirty, &later, NULL, 0), 2);
    EQ(later.starts, 1);
    vfiomig_dirty_free(dirty);
    tracker_free(&stays);
    tracker_free(&goes);
    tracker_free(&later);
    memory_free(&m);
}

/* Translation: asked when a page is dirty, and not before. */

struct translating {
    struct memory m; /* first: give_() takes it for its opaque */
    uint64_t swap, most;
    int asked, fail;
};

static int translate(void *opaque, uint64_t iova, uint64_t size, struct vfiomig_place *place)
{
    struct translating *v = opaque;
    v->asked++;
    if (size == 0 || size % PAGE || iova % PAGE)
        WRONG(&v->m, "translate %#llx, %#llx bytes", (unsigned long long)iova,
              (unsigned long long)size);
    if (v->fail)
        return -v->fail;
    place->cookie = 3;
    place->offset = (iova - BASE) ^ v->swap;
    place->size = v->most ? v->most : size;
    return 0;
}

static void a_translated_page_is_where_it_is_when_it_is_dirty(void)
{
    struct translating v = { .m = memory_new(PAGE) };
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct tracker t = tracker_new(BASE, PAGE, 64);
    struct vfiomig_dirty *dirty;
    ops.set_dirty = give_;
    ops.translate = translate;
    ops.release = memory_release_;
    options.page_size = PAGE;
    OK(vfiomig_dirty_new(&ops, &v, &options, &dirty));
    add_writer(dirty, &t, NULL, 0);
    OK(try_map(dirty, BASE, 64 * PAGE, 99, 0, VFIOMIG_MAPPING_TRANSLATE));
    OK(vfiomig_dirty_start(dirty));
    OK(vfiomig_dirty_collect(dirty));
    EQ(v.asked, 0);
    touch(&t, BASE + 8 * PAGE, 3 * PAGE);
    OK(vfiomig_dirty_collect(dirty));
    EQ(v.asked, 1);
    EQ(v.m.num, 3);
    EQ(times_given(&v.m, 3, 8 * PAGE), 1);
    EQ(times_given(&v.m, 3, 10 * PAGE), 1);
    /* Somewhere else, and page by page. */
    forget(&v.m);
    v.swap = 16 * PAGE;
    v.most = PAGE;
    touch(&t, BASE + 8 * PAGE, 3 * PAGE);
    OK(vfiomig_dirty_collect(dirty));
    EQ(v.asked, 4);
    EQ(v.m.num, 3);
    for (int i = 24; i < 27; i++)
        EQ(times_given(&v.m, 3, (uint64_t)i * PAGE), 1);
    /* Without an answer the page is kept. */
    forget(&v.m);
    touch(&t, BASE, PAGE);
    v.fail = ENOENT;
    EQ(vfiomig_dirty_collect(dirty), -EIO);
    v.fail = 0;
    v.most = PAGE - 1;
    EQ(vfiomig_dirty_collect(dirty), -EINVAL);
    v.most = 0;
    v.swap = 1;
    EQ(vfiomig_dirty_collect(dirty), -EINVAL);
    EQ(v.m.num, 0);
    v.swap = 0;
    OK(vfiomig_dirty_collect(dirty));
    EQ(v.m.num, 1);
    EQ(times_given(&v.m, 3, 0), 1);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&v.m);
}

/* Cancelling. */

static void cancel(void *opaque)
{
    /* In a callback; its result shows in what the reading returns. */
    vfiomig_dirty_cancel(opaque);
}

static void a_callback_cancels(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 400);
    uint64_t bitmap[7] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    three_mappings(dirty);
    OK(vfiomig_dirty_start(dirty));
    touch(&t, BASE, 400 * PAGE);
    m.hook = cancel;
    m.hook_opaque = dirty;
    EQ(vfiomig_dirty_collect(dirty), -ECANCELED);
    /* The mapping that was in progress, and no more. */
    EQ(m.calls, 1);
    EQ(m.num, 200);
    m.hook = NULL;
    EQ(vfiomig_dirty_collect(dirty), -ECANCELED);
    EQ(vfiomig_dirty_sync(dirty, BASE, 400 * PAGE, PAGE, bitmap, 7), -ECANCELED);
    EQ(count_bits(bitmap, 7), 0);
    EQ(m.calls, 1);
    /* Everything else goes on. */
    OK(vfiomig_dirty_mark(dirty, BASE, PAGE));
    EQ(stats_of(dirty).num_writers, 1);
    OK(vfiomig_dirty_stop(dirty));
    memset(t.dirty, 0, t.pages);
    OK(vfiomig_dirty_start(dirty));
    touch(&t, BASE + 399 * PAGE, 1);
    forget(&m);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 1);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

/* What is in the bitmap by then is right. */
static void a_cancelled_sync_has_told_no_lie(void)
{
    enum { PER_BUFFER = 4096 * 8, PAGES = 3 * PER_BUFFER, WORDS = PAGES / 64 };
    static uint64_t bitmap[WORDS];
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 4096);
    struct tracker t = tracker_new(BASE, PAGE, PAGES);
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, (uint64_t)PAGES * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    for (size_t i = 0; i < PAGES; i += 1000)
        t.dirty[i] = 1;
    t.hook = cancel;
    t.hook_opaque = dirty;
    EQ(vfiomig_dirty_sync(dirty, BASE, (uint64_t)PAGES * PAGE, PAGE, bitmap, WORDS), -ECANCELED);
    EQ(t.syncs, 1);
    for (size_t i = 0; i < PAGES; i++)
        EQ(bit(bitmap, i), i < PER_BUFFER && i % 1000 == 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

struct blocked {
    struct vfiomig_dirty *dirty;
    sem_t inside, go_on;
    int result;
};

static void block(void *opaque)
{
    struct blocked *b = opaque;
    sem_post(&b->inside);
    sem_wait(&b->go_on);
}

static void *collector(void *opaque)
{
    struct blocked *b = opaque;
    b->result = vfiomig_dirty_collect(b->dirty);
    return NULL;
}

static void another_thread_cancels(void)
{
    struct memory m = memory_new(PAGE);
    struct blocked b = { .dirty = tracking_new(&m, PAGE, 0) };
    struct tracker t = tracker_new(BASE, PAGE, 400);
    pthread_t thread;
    sem_init(&b.inside, 0, 0);
    sem_init(&b.go_on, 0, 0);
    add_writer(b.dirty, &t, NULL, 0);
    three_mappings(b.dirty);
    OK(vfiomig_dirty_start(b.dirty));
    touch(&t, BASE, 400 * PAGE);
    t.hook = block;
    t.hook_opaque = &b;
    EQ(pthread_create(&thread, NULL, collector, &b), 0);
    sem_wait(&b.inside);
    t.hook = NULL;
    OK(vfiomig_dirty_cancel(b.dirty)); /* does not wait */
    sem_post(&b.go_on);
    pthread_join(thread, NULL);
    EQ(b.result, -ECANCELED);
    EQ(m.calls, 1);
    EQ(t.syncs, 1);
    vfiomig_dirty_free(b.dirty);
    tracker_free(&t);
    memory_free(&m);
}

int main(void)
{
    RUN(pages_come_with_their_cookie_and_offset);
    RUN(a_page_comes_once_and_a_clean_memory_is_not_told);
    RUN(pages_come_in_the_order_of_their_addresses);
    RUN(what_is_refused_comes_again);
    RUN(what_the_vmm_marks_is_dirty);
    RUN(without_set_dirty_there_is_nothing_to_collect_into);
    RUN(a_removed_writer_leaves_its_pages);
    RUN(a_translated_page_is_where_it_is_when_it_is_dirty);
    RUN(a_callback_cancels);
    RUN(a_cancelled_sync_has_told_no_lie);
    RUN(another_thread_cancels);
    return DONE();
}
