/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of dirty tracking. */
#include <pthread.h>
#include <stdatomic.h>

#include "examples.h"

enum { PAGE = 4096, PAGES = 1024, RAM_SIZE = PAGE * PAGES };

/* A guest's memory, as far as it matters here. */
struct vm {
    uint8_t to_send[PAGES];
    int refuse;
    uint64_t unmapped;
};

static int mark_for_sending(struct vm *vm, uint64_t block, uint64_t offset)
{
    if (vm->refuse || block != 1 || offset / PAGE >= PAGES)
        return -EIO;
    vm->to_send[offset / PAGE] = 1;
    return 0;
}

/* EXAMPLE vfiomig_dirty_new */
/* Takes dirty pages of a RAM block, which the VMM sends again. */
static int set_dirty(void *vm, uint64_t block, uint64_t offset,
                     uint64_t page_size, const uint64_t *bitmap,
                     uint64_t num_bits)
{
    int r = 0;

    for (uint64_t i = 0; i < num_bits && r == 0; i++)
        if (bitmap[i / 64] >> i % 64 & 1)
            r = mark_for_sending(vm, block, offset + i * page_size);
    return r;                 /* after -errno they come again */
}

static int new_tracking(struct vm *vm, struct vfiomig_dirty **dirty)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;

    ops.set_dirty = set_dirty;
    return vfiomig_dirty_new(&ops, vm, NULL, dirty);
}
/* END */

/* EXAMPLE vfiomig_dirty_add_writer */
/* For each device: the best of its own log, the page table of an
   iommufd that it is attached to, and nothing, in this order. */
static int add_device(struct vfiomig_dirty *dirty,
                      struct vfiomig_device *dev, int iommufd,
                      uint32_t hwpt_id, uint32_t ioas_id,
                      uint32_t *number)
{
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    int r;

    writer.device = dev;
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
    if (iommufd >= 0) {
        writer.flags |= VFIOMIG_WRITER_HWPT;
        writer.iommufd = iommufd;
        writer.hwpt_id = hwpt_id;
        writer.ioas_id = ioas_id;
    }
    r = vfiomig_dirty_add_writer(dirty, &writer, number);
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_dirty_map */
/* After VFIO_IOMMU_MAP_DMA or IOMMU_IOAS_MAP has mapped a part of
   RAM block 1 for the devices. */
static int has_mapped(struct vfiomig_dirty *dirty, uint64_t iova,
                      uint64_t size, uint64_t offset, void *host)
{
    struct vfiomig_mapping m = VFIOMIG_MAPPING_INIT;
    int r;

    m.iova = iova;
    m.size = size;
    m.cookie = 1;             /* comes back in set_dirty */
    m.offset = offset;
    m.host = host;            /* for vfiomig_dirty_dma_read() */
    r = vfiomig_dirty_map(dirty, &m);
    if (r < 0)                /* its pages would be missed */
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_dirty_start */
/* When a migration begins, before any memory is sent. */
static int start_tracking(struct vfiomig_dirty *dirty)
{
    int r = vfiomig_dirty_start(dirty);

    if (r < 0)                /* pages would be missed: give up */
        fprintf(stderr, "%s\n", vfiomig_error_message());
    else if (r & VFIOMIG_DIRTY_UNWATCHED)
        fprintf(stderr, "some memory is always dirty\n");
    return r < 0 ? r : 0;     /* a positive number is no error */
}
/* END */

/* EXAMPLE vfiomig_dirty_collect */
/* What became dirty since the last time goes to set_dirty. Called
   once per round, and for the last time when vfiomig_save_stop() has
   stopped all devices and none has been finished. */
static int collect(struct vfiomig_dirty *dirty)
{
    int r = vfiomig_dirty_collect(dirty);

    if (r < 0) {              /* not all of it: again, or give up */
        fprintf(stderr, "%s\n", vfiomig_error_message());
        return r;
    }
    /* VFIOMIG_DIRTY_ERRORS: more is dirty than has been written
       to. vfiomig_dirty_get_error() says why. */
    return 0;
}
/* END */

/* EXAMPLE vfiomig_dirty_sync */
/* Adds what became dirty in a range to the VMM's bitmap, which has a
   bit for each page of 4 KiB from iova on. */
static int read_dirty(struct vfiomig_dirty *dirty, uint64_t iova,
                      uint64_t size, uint64_t *bitmap)
{
    size_t words = (size / 4096 + 63) / 64;
    int r = vfiomig_dirty_sync(dirty, iova, size, 4096, bitmap,
                               words);

    if (r < 0)                /* the rest is kept: call it again */
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r < 0 ? r : 0;
}
/* END */

static int iommu_unmap(struct vm *vm, uint64_t iova, uint64_t size)
{
    if (vm->refuse)
        return -EIO;
    vm->unmapped += size;
    (void)iova;
    return 0;
}

/* EXAMPLE vfiomig_dirty_unmap */
/* Called in between: from VFIO_IOMMU_UNMAP_DMA or IOMMU_IOAS_UNMAP,
   0 or -errno. */
static int unmap(void *vm, uint64_t iova, uint64_t size)
{
    return iommu_unmap(vm, iova, size);
}

/* Unmaps memory; what is dirty there goes to set_dirty. */
static int unmap_memory(struct vm *vm, struct vfiomig_dirty *dirty,
                        uint64_t iova, uint64_t size)
{
    int r = vfiomig_dirty_unmap(dirty, iova, size, 0, NULL, 0,
                                unmap, vm);

    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r < 0 ? r : 0;
}
/* END */

/* EXAMPLE vfiomig_dirty_rearm */
/* During pre-copy, after memory was plugged in: until they are
   restarted, the devices' logs do not watch it. Unless another
   tracker does, all memory is dirty once: not at the end, then. */
static int watch_new_memory(struct vfiomig_dirty *dirty)
{
    int r = vfiomig_dirty_rearm(dirty);

    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    else if (r & VFIOMIG_DIRTY_UNWATCHED)
        fprintf(stderr, "some memory is still not watched\n");
    return r < 0 ? r : 0;
}
/* END */

/* EXAMPLE vfiomig_dirty_stop */
/* When a migration is over, or given up: what has not been read is
   forgotten. */
static int stop_tracking(struct vfiomig_dirty *dirty)
{
    int r = vfiomig_dirty_stop(dirty);

    if (r < 0)                /* a tracker still runs: once more */
        r = vfiomig_dirty_stop(dirty);
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_dirty_cancel */
/* Gives a migration up on one thread, while `reader` collects dirty
   pages on another one, which ends with -ECANCELED. */
static int cancel_tracking(struct vfiomig_dirty *dirty,
                           pthread_t reader)
{
    int r = vfiomig_dirty_cancel(dirty);

    pthread_join(reader, NULL);
    return r < 0 ? r : vfiomig_dirty_stop(dirty);
}
/* END */

/* EXAMPLE vfiomig_dirty_mark */
/* An emulated device has written to len bytes at host address `to`,
   to which it has translated iova by itself. */
static int emulated_write(struct vfiomig_dirty *dirty, void *to,
                          uint64_t iova, const void *data,
                          size_t len)
{
    memcpy(to, data, len);
    return vfiomig_dirty_mark(dirty, iova, len);
}
/* END */

/* EXAMPLE vfiomig_dirty_dma_read vfiomig_dirty_dma_write */
/* A device in software takes a request from the guest's memory, by
   the address that the guest has given to it, and answers there. */
struct request {
    uint32_t command, status;
};

static int serve(struct vfiomig_dirty *dirty, uint64_t iova)
{
    struct request request;
    int r = vfiomig_dirty_dma_read(dirty, iova, &request,
                                   sizeof request);

    if (r < 0)                /* -ENODATA: nothing is mapped there */
        return r;
    request.status = request.command + 1;
    return vfiomig_dirty_dma_write(dirty, iova, &request,
                                   sizeof request);
}
/* END */

/* EXAMPLE vfiomig_dirty_get_stats */
/* After a round: whether memory will be small enough to stop the
   guest, with a bandwidth in bytes per second. */
static int memory_converges(struct vfiomig_dirty *dirty,
                            uint64_t bandwidth)
{
    struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
    int r = vfiomig_dirty_get_stats(dirty, &stats);

    if (r < 0)
        return r;
    return stats.average_rate < bandwidth;
}
/* END */

/* EXAMPLE vfiomig_dirty_get_round */
/* Whether the last round has brought less than the one before. */
static int last_round_helped(struct vfiomig_dirty *dirty)
{
    struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
    struct vfiomig_dirty_round last = VFIOMIG_DIRTY_ROUND_INIT;
    struct vfiomig_dirty_round before = VFIOMIG_DIRTY_ROUND_INIT;
    int r = vfiomig_dirty_get_stats(dirty, &stats);

    if (r < 0 || stats.num_rounds < 2)
        return r < 0 ? r : 1;
    r = vfiomig_dirty_get_round(dirty, stats.num_rounds - 2,
                                &before);
    if (r == 0)
        r = vfiomig_dirty_get_round(dirty, stats.num_rounds - 1,
                                    &last);
    return r < 0 ? r : last.dirty_bytes < before.dirty_bytes;
}
/* END */

/* EXAMPLE vfiomig_dirty_get_writer_stats */
/* Writes which tracker a device has; number is that of
   vfiomig_dirty_add_writer(). */
static int write_tracker(struct vfiomig_dirty *dirty,
                         uint32_t number, FILE *out)
{
    struct vfiomig_dirty_writer_stats stats =
        VFIOMIG_DIRTY_WRITER_STATS_INIT;
    int r = vfiomig_dirty_get_writer_stats(dirty, number, &stats);

    if (r < 0)
        return r;
    if (stats.tracker == VFIOMIG_TRACKER_ALL_DIRTY)
        fprintf(out, "all memory is dirty: %s\n", stats.note);
    else
        fprintf(out, "tracked in pages of %llu bytes, %llu dirty\n",
                (unsigned long long)stats.page_size,
                (unsigned long long)stats.dirty_bytes);
    return 0;
}
/* END */

/* EXAMPLE vfiomig_dirty_get_error */
/* After a reading has returned VFIOMIG_DIRTY_ERRORS. */
static int list_errors(struct vfiomig_dirty *dirty, FILE *out)
{
    struct vfiomig_dirty_error e = VFIOMIG_DIRTY_ERROR_INIT;
    uint32_t i;
    int r;

    for (i = 0; (r = vfiomig_dirty_get_error(dirty, i, &e)) == 0;
         i++)
        fprintf(out, "%#llx to %#llx counted as dirty: %s\n",
                (unsigned long long)e.first,
                (unsigned long long)e.last, e.text);
    return r == -ENODATA ? 0 : r;         /* there are no more */
}
/* END */

/* EXAMPLE vfiomig_dirty_remove_writer */
/* A device is unplugged during a migration: what it has written to
   comes with the next reading. */
static int unplug(struct vfiomig_dirty *dirty, uint32_t number,
                  struct vfiomig_device *dev)
{
    int r = vfiomig_dirty_remove_writer(dirty, number);

    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    vfiomig_device_free(dev);             /* then close its fd */
    return r;
}
/* END */

/* EXAMPLE vfiomig_dirty_free */
/* At the end: stops what still runs. The devices' fds are closed
   after this, because it uses them. */
static void end_tracking(struct vm *vm, struct vfiomig_dirty *dirty)
{
    vfiomig_dirty_free(dirty);
    free(vm);                 /* no callback uses it now */
}
/* END */

#define IOVA ((uint64_t)1 << 32)

struct world {
    struct vm *vm;
    struct rig rig;
    struct vfiomig_dirty *dirty;
    uint32_t number;
    uint8_t *ram;
};

static struct world begun(uint64_t quirks)
{
    struct vfiomig_sim_options o = rig_options();
    struct world w = { .vm = calloc(1, sizeof *w.vm), .ram = calloc(1, RAM_SIZE) };
    CHECK(w.vm && w.ram);
    o.quirks = quirks;
    w.rig = rig_new(&o, NULL);
    OK(new_tracking(w.vm, &w.dirty));
    OK(add_device(w.dirty, w.rig.dev, -1, 0, 0, &w.number));
    OK(has_mapped(w.dirty, IOVA, RAM_SIZE / 2, 0, w.ram));
    OK(start_tracking(w.dirty));
    return w;
}

static void end(struct world *w)
{
    end_tracking(w->vm, w->dirty);
    rig_free(&w->rig);
    free(w->ram);
}

static void write_page(struct world *w, uint64_t page)
{
    EQ(vfiomig_sim_dma_write(w->rig.sim, IOVA + page * PAGE, 1), 0);
}

static int num_to_send(struct world *w)
{
    int num = 0;
    for (int i = 0; i < PAGES; i++)
        num += w->vm->to_send[i];
    memset(w->vm->to_send, 0, PAGES);
    return num;
}

static void what_a_device_writes_to_is_sent(void)
{
    struct world w = begun(0);
    write_page(&w, 7);
    OK(collect(w.dirty));
    EQ(w.vm->to_send[7], 1);
    EQ(num_to_send(&w), 1);
    write_page(&w, 8);
    w.vm->refuse = 1;
    EQ(collect(w.dirty), -EIO);
    w.vm->refuse = 0;
    OK(collect(w.dirty));
    EQ(w.vm->to_send[8], 1);
    OK(stop_tracking(w.dirty));
    EQ(collect(w.dirty), -EINVAL);
    end(&w);
}

static void wrong_writers_and_mappings_are_errors(void)
{
    struct world w = begun(0);
    uint32_t number;
    EQ(add_device(w.dirty, w.rig.dev, 1000, 1, 1, &number), 0); /* asked at the start only */
    EQ(has_mapped(w.dirty, IOVA + 1, PAGE, 0, NULL), -EINVAL);
    EQ(start_tracking(w.dirty), -EINVAL); /* it is on */
    end(&w);
}

static void a_bitmap_gets_it_as_well(void)
{
    struct world w = begun(0);
    uint64_t bitmap[PAGES / 2 / 64] = { 0 };
    write_page(&w, 70);
    OK(read_dirty(w.dirty, IOVA, RAM_SIZE / 2, bitmap));
    EQ(bitmap[1], 1 << 6);
    EQ(read_dirty(w.dirty, IOVA + 1, PAGE, bitmap), -EINVAL);
    end(&w);
}

static void unmapping_loses_nothing(void)
{
    struct world w = begun(0);
    write_page(&w, 3);
    w.vm->refuse = 1;
    EQ(unmap_memory(w.vm, w.dirty, IOVA, 8 * PAGE), -EIO);
    EQ(w.vm->unmapped, 0);
    w.vm->refuse = 0;
    OK(unmap_memory(w.vm, w.dirty, IOVA, 8 * PAGE));
    EQ(w.vm->unmapped, 8 * PAGE);
    OK(collect(w.dirty));
    EQ(w.vm->to_send[3], 1);
    end(&w);
}

static void new_memory_is_watched_after_a_restart(void)
{
    struct world w = begun(0);
    OK(has_mapped(w.dirty, IOVA + RAM_SIZE / 2, RAM_SIZE / 2, RAM_SIZE / 2, NULL));
    OK(collect(w.dirty));
    EQ(num_to_send(&w), PAGES / 2);
    OK(watch_new_memory(w.dirty));
    OK(collect(w.dirty));
    EQ(num_to_send(&w), PAGES); /* once */
    write_page(&w, PAGES - 1);
    OK(collect(w.dirty));
    EQ(num_to_send(&w), 1);
    OK(stop_tracking(w.dirty));
    EQ(watch_new_memory(w.dirty), -EINVAL);
    end(&w);
}

static void *read_all_the_time(void *dirty)
{
    intptr_t r;
    do
        r = collect(dirty);
    while (r == 0);
    return (void *)r;
}

static void reading_on_another_thread_is_cancelled(void)
{
    struct world w = begun(0);
    pthread_t reader;
    EQ(pthread_create(&reader, NULL, read_all_the_time, w.dirty), 0);
    OK(cancel_tracking(w.dirty, reader));
    OK(start_tracking(w.dirty));
    EQ(vfiomig_sim_inject(w.rig.sim, VFIOMIG_SIM_OP_LOG_STOP, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    OK(stop_tracking(w.dirty));
    end(&w);
}

static void writes_that_no_tracker_sees_count(void)
{
    struct world w = begun(0);
    struct request request = { 41, 0 };
    OK(emulated_write(w.dirty, w.ram + 5 * PAGE, IOVA + 5 * PAGE, &request, sizeof request));
    OK(collect(w.dirty));
    EQ(w.vm->to_send[5], 1);
    EQ(num_to_send(&w), 1);
    OK(serve(w.dirty, IOVA + 5 * PAGE));
    memcpy(&request, w.ram + 5 * PAGE, sizeof request);
    EQ(request.status, 42);
    OK(collect(w.dirty));
    EQ(num_to_send(&w), 1);
    EQ(serve(w.dirty, IOVA - PAGE), -ENODATA);
    end(&w);
}

static void rounds_tell_whether_it_converges(void)
{
    struct world w = begun(0);
    EQ(last_round_helped(w.dirty), 1);
    write_page(&w, 1);
    OK(collect(w.dirty));
    OK(collect(w.dirty));
    EQ(last_round_helped(w.dirty), 1);
    write_page(&w, 1);
    OK(collect(w.dirty));
    EQ(last_round_helped(w.dirty), 0);
    EQ(memory_converges(w.dirty, UINT64_MAX), 1);
    EQ(memory_converges(w.dirty, 0), 0);
    end(&w);
}

static void which_tracker_a_device_has_and_what_went_wrong(void)
{
    for (int none = 0; none < 2; none++) {
        struct world w = begun(none ? VFIOMIG_SIM_NO_LOGGING : 0);
        char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);
        CHECK(out);
        OK(write_tracker(w.dirty, w.number, out));
        fflush(out);
        HAS(text, none ? "all memory is dirty: " : "tracked in pages of 4096 bytes, 0 dirty\n");
        EQ(write_tracker(w.dirty, w.number + 1, out), -ENODATA);
        if (!none)
            EQ(vfiomig_sim_inject(w.rig.sim, VFIOMIG_SIM_OP_LOG_REPORT, 1, EIO, VFIOMIG_SIM_FAULT_HALF), 0);
        OK(collect(w.dirty));
        EQ(num_to_send(&w), PAGES / 2);
        OK(list_errors(w.dirty, out));
        fclose(out);
        EQ(strstr(text, "counted as dirty: ") != NULL, !none);
        free(text);
        end(&w);
    }
}

static void what_an_unplugged_device_wrote_to_is_sent(void)
{
    struct world w = begun(0);
    write_page(&w, 9);
    OK(unplug(w.dirty, w.number, w.rig.dev));
    w.rig.dev = NULL;
    OK(collect(w.dirty));
    EQ(w.vm->to_send[9], 1);
    end(&w);
}

int main(void)
{
    RUN(what_a_device_writes_to_is_sent);
    RUN(wrong_writers_and_mappings_are_errors);
    RUN(a_bitmap_gets_it_as_well);
    RUN(unmapping_loses_nothing);
    RUN(new_memory_is_watched_after_a_restart);
    RUN(reading_on_another_thread_is_cancelled);
    RUN(writes_that_no_tracker_sees_count);
    RUN(rounds_tell_whether_it_converges);
    RUN(which_tracker_a_device_has_and_what_went_wrong);
    RUN(what_an_unplugged_device_wrote_to_is_sent);
    return DONE();
}
