/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * vfiomig_dirty_dma_read() and _write(): guest memory by the addresses that devices use, across the
 * edges of mappings, through host addresses or callbacks. What is written is dirty.
 */
#include "track.h"

#define BASE ((uint64_t)1 << 34)
#define NUM 16 /* pages of guest memory */

/* The VMM's memory: two blocks, which devices see one after the other, the second one first. */
struct ram {
    uint8_t block[2][NUM * PAGE];
    int reads, writes, translations, fail;
    uint64_t most;
    char wrong[128];
};

static int ram_read(void *opaque, uint64_t cookie, uint64_t offset, void *buf, size_t len)
{
    struct ram *ram = opaque;
    ram->reads++;
    if (ram->fail)
        return -ram->fail;
    if (cookie > 1 || offset + len > NUM * PAGE || len == 0) {
        WRONG(ram, "read of block %llu", (unsigned long long)cookie);
        return -EINVAL;
    }
    memcpy(buf, ram->block[cookie] + offset, len);
    return 0;
}

static int ram_write(void *opaque, uint64_t cookie, uint64_t offset, const void *buf, size_t len)
{
    struct ram *ram = opaque;
    ram->writes++;
    if (ram->fail && ram->writes > 1)
        return -ram->fail;
    if (cookie > 1 || offset + len > NUM * PAGE || len == 0) {
        WRONG(ram, "write to block %llu", (unsigned long long)cookie);
        return -EINVAL;
    }
    memcpy(ram->block[cookie] + offset, buf, len);
    return 0;
}

/* Pages in the reverse order. */
static int ram_translate(void *opaque, uint64_t iova, uint64_t size, struct vfiomig_place *place)
{
    struct ram *ram = opaque;
    uint64_t at = iova - BASE, page = at / PAGE;
    ram->translations++;
    if (ram->fail)
        return -ram->fail;
    place->cookie = 0;
    place->offset = (NUM - 1 - page) * PAGE + at % PAGE;
    place->size = PAGE - at % PAGE;
    place->host = ram->block[0] + place->offset;
    if (place->size > size)
        place->size = size;
    return 0;
}

static void fill_ram(struct ram *ram)
{
    memset(ram, 0, sizeof *ram);
    for (size_t i = 0; i < NUM * PAGE; i++) {
        ram->block[0][i] = (uint8_t)(i * 7 + i / PAGE);
        ram->block[1][i] = (uint8_t)(i * 5 + 100 + i / PAGE);
    }
}

/* What a device sees. */
static uint8_t seen(const struct ram *ram, uint64_t at)
{
    return at < NUM * PAGE ? ram->block[1][at] : ram->block[0][at - NUM * PAGE];
}

enum way { CALLBACKS, HOST };

static struct vfiomig_dirty *ram_tracking(struct ram *ram, enum way way)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;
    options.page_size = PAGE;
    if (way == CALLBACKS) {
        ops.read = ram_read;
        ops.write = ram_write;
    }
    OK(vfiomig_dirty_new(&ops, ram, &options, &dirty));
    for (int i = 0; i < 2; i++) {
        struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
        mapping.iova = BASE + (uint64_t)i * NUM * PAGE;
        mapping.size = NUM * PAGE;
        mapping.cookie = (uint64_t)(1 - i);
        if (way == HOST)
            mapping.host = ram->block[1 - i];
        OK(vfiomig_dirty_map(dirty, &mapping));
    }
    return dirty;
}

static void read_and_write(enum way way)
{
    static struct ram ram, before;
    static uint8_t buf[2 * NUM * PAGE];
    static const struct { uint64_t at; size_t len; } parts[] = {
        { 0, 1 },                       { 5, 100 },
        { PAGE - 1, 2 },                { NUM * PAGE - 1, 1 },
        { NUM * PAGE - 1, 2 },          { NUM * PAGE, 17 },
        { 3 * PAGE + 9, NUM * PAGE },   { 0, 2 * NUM * PAGE },
        { 2 * NUM * PAGE - 1, 1 },
    };
    fill_ram(&ram);
    struct vfiomig_dirty *dirty = ram_tracking(&ram, way);
    OK(vfiomig_dirty_start(dirty));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        uint64_t at = parts[i].at;
        size_t len = parts[i].len;
        uint64_t bitmap = 0;
        memset(buf, 0xee, sizeof buf);
        OK(vfiomig_dirty_dma_read(dirty, BASE + at, buf, len));
        for (size_t n = 0; n < len; n++)
            EQ(buf[n], seen(&ram, at + n));
        CHECK(len == sizeof buf || buf[len] == 0xee);
        /* Reading makes nothing dirty. */
        OK(vfiomig_dirty_sync(dirty, BASE, 2 * NUM * PAGE, PAGE, &bitmap, 1));
        EQ(bitmap, 0);
        before = ram;
        for (size_t n = 0; n < len; n++)
            buf[n] = (uint8_t)(buf[n] + 1 + n);
        OK(vfiomig_dirty_dma_write(dirty, BASE + at, buf, len));
        for (uint64_t n = 0; n < 2 * NUM * PAGE; n++)
            EQ(seen(&ram, n), n >= at && n < at + len ? buf[n - at] : seen(&before, n));
        OK(vfiomig_dirty_sync(dirty, BASE, 2 * NUM * PAGE, PAGE, &bitmap, 1));
        for (uint64_t page = 0; page < 2 * NUM; page++)
            EQ(bit(&bitmap, page), page >= at / PAGE && page <= (at + len - 1) / PAGE);
    }
    if (ram.wrong[0])
        FAIL("%s", ram.wrong);
    EQ(ram.reads > 0, way == CALLBACKS);
    vfiomig_dirty_free(dirty);
}

static void by_callbacks(void)
{
    read_and_write(CALLBACKS);
}

static void by_host_addresses(void)
{
    read_and_write(HOST);
}

static void while_tracking_is_off_too(void)
{
    static struct ram ram;
    uint64_t bitmap = 0;
    char buf[3] = "xyz";
    fill_ram(&ram);
    struct vfiomig_dirty *dirty = ram_tracking(&ram, HOST);
    OK(vfiomig_dirty_dma_write(dirty, BASE + NUM * PAGE - 2, buf, 3));
    CHECK(ram.block[1][NUM * PAGE - 2] == 'x' && ram.block[0][0] == 'z');
    memset(buf, 0, 3);
    OK(vfiomig_dirty_dma_read(dirty, BASE + NUM * PAGE - 2, buf, 3));
    EQ(memcmp(buf, "xyz", 3), 0);
    OK(vfiomig_dirty_start(dirty));
    OK(vfiomig_dirty_sync(dirty, BASE, 2 * NUM * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 0);
    vfiomig_dirty_free(dirty);
}

static void a_translated_address_is_looked_up_each_time(void)
{
    static struct ram ram;
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;
    static uint8_t buf[3 * PAGE];
    uint64_t bitmap = 0;
    fill_ram(&ram);
    ops.translate = ram_translate;
    options.page_size = PAGE;
    OK(vfiomig_dirty_new(&ops, &ram, &options, &dirty));
    OK(try_map(dirty, BASE, NUM * PAGE, 0, 0, VFIOMIG_MAPPING_TRANSLATE));
    OK(vfiomig_dirty_start(dirty));
    OK(vfiomig_dirty_dma_read(dirty, BASE + PAGE / 2, buf, 2 * PAGE));
    EQ(ram.translations, 3);
    for (size_t i = 0; i < 2 * PAGE; i++) {
        uint64_t at = PAGE / 2 + i;
        EQ(buf[i], ram.block[0][(NUM - 1 - at / PAGE) * PAGE + at % PAGE]);
    }
    memset(buf, 0x77, sizeof buf);
    OK(vfiomig_dirty_dma_write(dirty, BASE + PAGE / 2, buf, PAGE));
    EQ(ram.block[0][(NUM - 1) * PAGE + PAGE / 2], 0x77);
    EQ(ram.block[0][(NUM - 2) * PAGE + PAGE / 2 - 1], 0x77);
    CHECK(ram.block[0][(NUM - 2) * PAGE + PAGE / 2] != 0x77);
    OK(vfiomig_dirty_sync(dirty, BASE, NUM * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 3); /* by its address */
    ram.fail = ENOENT;
    EQ(vfiomig_dirty_dma_read(dirty, BASE, buf, 1), -EIO);
    vfiomig_dirty_free(dirty);
}

static void what_is_not_mapped_or_read_only_stays_as_it_is(void)
{
    static struct ram ram, before;
    static uint8_t buf[4 * PAGE];
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    uint64_t bitmap = 0;
    fill_ram(&ram);
    struct vfiomig_dirty *dirty = ram_tracking(&ram, HOST);
    mapping.iova = BASE + 3 * NUM * PAGE;
    mapping.size = 2 * PAGE;
    mapping.flags = VFIOMIG_MAPPING_READ_ONLY;
    mapping.host = ram.block[0];
    OK(vfiomig_dirty_map(dirty, &mapping));
    mapping.iova += mapping.size;
    mapping.flags = 0;
    mapping.host = ram.block[1];
    OK(vfiomig_dirty_map(dirty, &mapping));
    OK(vfiomig_dirty_start(dirty));
    before = ram;
    memset(buf, 0x99, sizeof buf);
    EQ(vfiomig_dirty_dma_write(dirty, BASE + 2 * NUM * PAGE - 1, buf, 2), -ENODATA);
    EQ(vfiomig_dirty_dma_write(dirty, BASE - 1, buf, 2), -ENODATA);
    EQ(vfiomig_dirty_dma_write(dirty, BASE + 2 * NUM * PAGE, buf, 1), -ENODATA);
    /* Read-only, even if only a part is. */
    EQ(vfiomig_dirty_dma_write(dirty, BASE + 3 * NUM * PAGE, buf, 1), -EINVAL);
    EQ(vfiomig_dirty_dma_write(dirty, BASE + (3 * NUM + 1) * PAGE, buf, 2 * PAGE), -EINVAL);
    HAS(vfiomig_error_message(), "read-only");
    EQ(memcmp(&ram, &before, sizeof ram), 0);
    OK(vfiomig_dirty_sync(dirty, BASE, 4 * NUM * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 0);
    /* It can be read, across the edge too. */
    OK(vfiomig_dirty_dma_read(dirty, BASE + (3 * NUM + 1) * PAGE, buf, 2 * PAGE));
    EQ(memcmp(buf, ram.block[0] + PAGE, PAGE), 0);
    EQ(memcmp(buf + PAGE, ram.block[1], PAGE), 0);
    memset(buf, 0x99, 4);
    EQ(vfiomig_dirty_dma_read(dirty, BASE + 2 * NUM * PAGE - 1, buf, 2), -ENODATA);
    EQ(buf[0], 0x99);
    vfiomig_dirty_free(dirty);
}

static void a_memory_that_nobody_can_reach(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    char byte = 0;
    map(dirty, BASE, PAGE, 0, 0);
    EQ(vfiomig_dirty_dma_read(dirty, BASE, &byte, 1), -EOPNOTSUPP);
    EQ(vfiomig_dirty_dma_write(dirty, BASE, &byte, 1), -EOPNOTSUPP);
    vfiomig_dirty_free(dirty);
}

/* A write that fails midway may have written; whatever it may have written to is dirty. */
static void a_write_that_fails_is_dirty_all_the_same(void)
{
    static struct ram ram;
    static const struct { int fail, code; } errors[] = { { ENOMEM, ENOMEM }, { EPERM, EIO } };
    uint64_t bitmap = 0;
    uint8_t buf[4] = { 1, 2, 3, 4 };
    for (int e = 0; e < 2; e++) {
        fill_ram(&ram);
        struct vfiomig_dirty *dirty = ram_tracking(&ram, CALLBACKS);
        OK(vfiomig_dirty_start(dirty));
        ram.fail = errors[e].fail;
        EQ(vfiomig_dirty_dma_write(dirty, BASE + NUM * PAGE - 2, buf, 4), -errors[e].code);
        EQ(ram.writes, 2);
        ram.fail = 0;
        bitmap = 0;
        OK(vfiomig_dirty_sync(dirty, BASE, 2 * NUM * PAGE, PAGE, &bitmap, 1));
        EQ(bitmap, 3 << (NUM - 1));
        ram.fail = errors[e].fail;
        EQ(vfiomig_dirty_dma_read(dirty, BASE, buf, 4), -errors[e].code);
        vfiomig_dirty_free(dirty);
    }
}

int main(void)
{
    RUN(by_callbacks);
    RUN(by_host_addresses);
    RUN(while_tracking_is_off_too);
    RUN(a_translated_address_is_looked_up_each_time);
    RUN(what_is_not_mapped_or_read_only_stays_as_it_is);
    RUN(a_memory_that_nobody_can_reach);
    RUN(a_write_that_fails_is_dirty_all_the_same);
    return DONE();
}
