/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Where the device comes from: the simulator, or a device node given by --device. Everything else
 * in this directory is the same for both.
 */
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/vfio.h>

#include "memory.h"
#include "vfiomig-sim.h"
#include "vfiomig.h"

/* Newer than the kernel headers of some distributions. */
struct bind_iommufd {
    uint32_t argsz;
    uint32_t flags;
    int32_t iommufd;
    uint32_t out_devid;
};
#define BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)

#ifndef VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
#define VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE 2
#endif

#define DMA_SIZE 2048 /* one write: a packet, say, which may lie across two pages */
#define DMA_PERIOD_NS 1000000
#define DMA_IN_FLIGHT 8 /* writes that a device finishes before it stops */

#define PCI_COMMAND 4
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4

const char *const side_name[2] = { "source", "target" };

/* Called from inside the library, on the thread that is in it. */
static void on_event(void *opaque, const struct vfiomig_event *event)
{
    struct device *d = opaque;
    const char *side = side_name[d->side];
    switch (event->kind) {
    case VFIOMIG_EVENT_STATE_CHANGED:
        if (d->options->verbose)
            printf("%s: device %u: %s -> %s in %.3f ms\n", side, d->number,
                   vfiomig_state_name(event->from), vfiomig_state_name(event->to),
                   (double)event->duration_ns / 1e6);
        break;
    case VFIOMIG_EVENT_RESET:
        printf("%s: device %u was reset and is in %s\n", side, d->number, vfiomig_state_name(event->to));
        break;
    case VFIOMIG_EVENT_SAVE_RESTARTED:
        printf("%s: device %u: the save starts again\n", side, d->number);
        break;
    case VFIOMIG_EVENT_RECOVERED:
        printf("%s: device %u: after a failure it is in %s\n", side, d->number,
               vfiomig_state_name(event->to));
        break;
    }
}

/* --- the simulated device's DMA ---------------------------------------------------------------- */

/*
 * The simulator has a state and a log, but no memory: writing is up to its user. A device that has
 * stopped does not write, so a change of state and a write exclude each other.
 */
static struct {
    struct device *devices[MAX_DEVICES]; /* by number */
    int (*feature)(void *opaque, uint32_t flags, void *data, size_t len); /* the simulator's */
} dma;

static struct device *device_of(const void *sim)
{
    uint32_t i = 0;
    while (dma.devices[i]->sim != sim)
        i++;
    return dma.devices[i];
}

/* One write, with the lock held. First the memory, then the log, as hardware does it: a page
 * that is read and sent in between must still be reported. */
static void dma_write(struct device *d)
{
    uint64_t room = d->memory->size - DMA_SIZE, offset = random_next(&d->dma_seed) % (room + 1);
    uint32_t state = vfiomig_sim_state(d->sim);
    if (state != VFIOMIG_STATE_RUNNING && state != VFIOMIG_STATE_RUNNING_P2P &&
        state != VFIOMIG_STATE_PRE_COPY && state != VFIOMIG_STATE_PRE_COPY_P2P)
        return;
    offset -= offset % 64;
    memory_write(d->memory, offset, DMA_SIZE, d->dma_seed);
    vfiomig_sim_dma_write(d->sim, MEMORY_IOVA + offset, DMA_SIZE);
    __atomic_fetch_add(&d->dma_writes, 1, __ATOMIC_RELAXED);
}

/* Comes before the simulator's own: a device stops when what it has begun is written, and not
 * before. That is after the vCPUs, so the last reading of the log comes after both. */
static int feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    uint32_t wanted;
    if (flags != (VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE) ||
        len < sizeof wanted)
        return dma.feature(opaque, flags, data, len);
    memcpy(&wanted, data, sizeof wanted);
    struct device *d = device_of(opaque);
    pthread_mutex_lock(&d->dma_lock);
    if (d->memory && (wanted == VFIOMIG_STATE_STOP_COPY || wanted == VFIOMIG_STATE_STOP))
        for (int i = 0; i < DMA_IN_FLIGHT; i++)
            dma_write(d);
    if (wanted == VFIOMIG_STATE_STOP_COPY && d->fails_stopped)
        device_inject(d, READ, d->fails_stopped, EIO);
    int r = dma.feature(opaque, flags, data, len);
    pthread_mutex_unlock(&d->dma_lock);
    return r;
}

static void *dma_engine(void *opaque)
{
    struct device *d = opaque;
    uint64_t began = now_ns(), written = 0;
    while (!__atomic_load_n(&d->dma_leave, __ATOMIC_ACQUIRE)) {
        uint64_t now = now_ns();
        uint64_t due = (uint64_t)((double)(now - began) / 1e9 * (double)d->options->dma_rate);
        /* One at a time: a thread that wants to stop the device does not wait for the others. */
        for (; written + DMA_SIZE <= due; written += DMA_SIZE) {
            pthread_mutex_lock(&d->dma_lock);
            dma_write(d);
            pthread_mutex_unlock(&d->dma_lock);
        }
        nanosleep(&(struct timespec){ .tv_nsec = DMA_PERIOD_NS }, NULL);
    }
    return NULL;
}

int device_start_dma(struct device *d, struct memory *memory)
{
    if (!d->sim || d->options->dma_rate == 0 || memory->size == 0)
        return 0;
    pthread_mutex_lock(&d->dma_lock);
    d->memory = memory;
    pthread_mutex_unlock(&d->dma_lock);
    int r = -pthread_create(&d->dma, NULL, dma_engine, d);
    if (r < 0)
        d->memory = NULL;
    return r;
}

uint64_t device_dma_writes(struct device *d)
{
    return __atomic_load_n(&d->dma_writes, __ATOMIC_RELAXED);
}

static void stop_dma(struct device *d)
{
    if (!d->memory)
        return;
    __atomic_store_n(&d->dma_leave, true, __ATOMIC_RELEASE);
    pthread_join(d->dma, NULL);
    d->memory = NULL;
}

/* --- where it comes from ----------------------------------------------------------------------- */

static int open_sim(struct device *d)
{
    const struct options *o = d->options;
    struct vfiomig_sim_options options = { .struct_size = sizeof options };
    options.state_size = o->state_size;
    /* Most of it can be sent while the guest runs, as for a NIC or a GPU with its own memory. */
    options.initial_size = o->state_size - o->state_size / 64;
    options.seed = 1 + 2 * d->number + (d->side == TARGET);
    options.read_rate = d->side == SOURCE ? o->read_rate : 0;
    options.write_rate = d->side == TARGET ? o->write_rate : 0;
    options.pci_vendor = 0x1af4;
    options.pci_device = 0x1041;
    bool last = d->number == o->devices - 1;
    if (last && d->side == TARGET && o->fail_at == FAIL_OTHER_DEVICE)
        options.pci_device = 0x1042;
    if (last && o->fail_at == FAIL_NO_LOG)
        options.quirks = VFIOMIG_SIM_NO_LOGGING;
    options.transition_us[VFIOMIG_STATE_PRE_COPY_P2P] = 300;
    options.transition_us[VFIOMIG_STATE_STOP_COPY] = 1000;
    options.transition_us[VFIOMIG_STATE_STOP] = 1000;
    options.transition_us[VFIOMIG_STATE_RUNNING] = 300;
    int r = vfiomig_sim_new(&options, &d->sim);
    if (r < 0)
        return r;
    /* The source's guest has set its device up; the target's has just been powered on. */
    memset(d->config, 0, sizeof d->config);
    memcpy(d->config, &options.pci_vendor, 2);
    memcpy(d->config + 2, &options.pci_device, 2);
    if (d->side == SOURCE)
        d->config[PCI_COMMAND] = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    return 0;
}

/* A cdev must be bound to an iommufd before it answers anything. */
static int open_cdev(struct device *d, const char *path)
{
    d->fd = open(path, O_RDWR | O_CLOEXEC);
    d->iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC);
    if (d->fd < 0 || d->iommu < 0)
        return -errno;
    struct bind_iommufd bind = { .argsz = sizeof bind, .iommufd = d->iommu };
    return ioctl(d->fd, BIND_IOMMUFD, &bind) < 0 ? -errno : 0;
}

/* The older way: the device's group joins a container, and the group returns the device. */
static int open_group(struct device *d, const char *group, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/dev/vfio/%s", group);
    d->iommu = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
    d->group = open(path, O_RDWR | O_CLOEXEC);
    if (d->iommu < 0 || d->group < 0)
        return -errno;
    if (ioctl(d->group, VFIO_GROUP_SET_CONTAINER, &d->iommu) < 0 ||
        ioctl(d->iommu, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
        return -errno;
    d->fd = ioctl(d->group, VFIO_GROUP_GET_DEVICE_FD, name);
    return d->fd < 0 ? -errno : 0;
}

int device_open(struct device *d, const struct options *o, enum side side, uint32_t number, char *why,
                size_t why_size)
{
    *d = (struct device){ .options = o, .side = side, .number = number, .fd = -1, .iommu = -1,
                          .group = -1, .dma_seed = 2000 + 2 * number + (uint64_t)side,
                          .dma_lock = PTHREAD_MUTEX_INITIALIZER };
    const char *path = o->device[side], *group = o->group[side];
    int r = !path ? open_sim(d) : group ? open_group(d, group, path) : open_cdev(d, path);
    if (r < 0) {
        snprintf(why, why_size, "opening %s failed: %s", path ? path : "the simulated device",
                 strerror(-r));
        device_close(d);
        return r;
    }

    char sysfs[128];
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    options.event = on_event;
    options.event_opaque = d;
    if (group) {
        /* An fd from a group does not say which device it is; mdevs are named by their UUID. */
        snprintf(sysfs, sizeof sysfs, "/sys/bus/mdev/devices/%s", path);
        if (access(sysfs, F_OK) < 0)
            snprintf(sysfs, sizeof sysfs, "/sys/bus/pci/devices/%s", path);
        options.sysfs_path = sysfs;
    }
    if (d->sim) {
        struct vfiomig_device_ops ops = *vfiomig_sim_ops(d->sim);
        dma.devices[number] = d;
        dma.feature = ops.feature;
        ops.feature = feature;
        r = vfiomig_device_new_ops(&ops, d->sim, &options, &d->mig);
    } else {
        r = vfiomig_device_new_fd(d->fd, &options, &d->mig);
    }
    if (r < 0) {
        snprintf(why, why_size, "%s", vfiomig_error_message());
        device_close(d);
        return r;
    }

    if (d->fd >= 0) {
        struct vfio_region_info info = { .argsz = sizeof info, .index = VFIO_PCI_CONFIG_REGION_INDEX };
        if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &info) == 0)
            d->config_offset = info.offset;
    }
    return 0;
}

void device_close(struct device *d)
{
    stop_dma(d);
    /* The library's handle first: it uses what the rest of this closes. */
    vfiomig_device_free(d->mig);
    if (d->sim)
        vfiomig_sim_free(d->sim);
    int fds[] = { d->fd, d->group, d->iommu };
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    *d = (struct device){ .fd = -1, .iommu = -1, .group = -1 };
}

void device_read_config(struct device *d, uint8_t config[PCI_CONFIG_SIZE])
{
    memcpy(config, d->config, PCI_CONFIG_SIZE);
    if (d->fd >= 0 && pread(d->fd, config, PCI_CONFIG_SIZE, (off_t)d->config_offset) < 0)
        memset(config, 0, PCI_CONFIG_SIZE);
}

void device_restore_command(struct device *d, const uint8_t config[PCI_CONFIG_SIZE])
{
    memcpy(d->config + PCI_COMMAND, config + PCI_COMMAND, 2);
    if (d->fd >= 0 &&
        pwrite(d->fd, config + PCI_COMMAND, 2, (off_t)(d->config_offset + PCI_COMMAND)) != 2)
        perror("writing PCI_COMMAND");
}

void device_restore_interrupts(struct device *d, const uint8_t config[PCI_CONFIG_SIZE])
{
    /* Here a VMM calls VFIO_DEVICE_SET_IRQS, with the eventfds that it has ready for whichever
     * of INTx, MSI and MSI-X the configuration enables. This one has no interrupts. */
    (void)d;
    (void)config;
}

void device_guest_write(struct device *d, uint64_t offset, uint64_t len, uint64_t seed)
{
    if (d->sim)
        vfiomig_sim_guest_write(d->sim, offset, len, seed);
}

void device_guest_reset(struct device *d)
{
    if (d->sim)
        vfiomig_sim_guest_reset(d->sim);
}

uint64_t devices_digest(struct device *devices, uint32_t num_devices)
{
    uint64_t digest = 0;
    for (uint32_t i = 0; i < num_devices && devices[i].sim; i++)
        digest = digest * 31 + vfiomig_sim_digest(devices[i].sim);
    return digest;
}

uint64_t device_violations(struct device *d, const char **what)
{
    return d->sim ? vfiomig_sim_violations(d->sim, what) : 0;
}

void device_inject(struct device *d, enum operation operation, uint64_t nth, int errnum)
{
    static const struct {
        uint32_t kind, effect;
    } faults[] = {
        [CHANGE_OF_STATE] = { VFIOMIG_SIM_OP_SET_STATE, VFIOMIG_SIM_FAULT_ONCE },
        [CHANGE_TO_ERROR] = { VFIOMIG_SIM_OP_SET_STATE, VFIOMIG_SIM_FAULT_ERROR },
        [READ] = { VFIOMIG_SIM_OP_READ, VFIOMIG_SIM_FAULT_ONCE },
        [WRITE] = { VFIOMIG_SIM_OP_WRITE, VFIOMIG_SIM_FAULT_ONCE },
        [LOG_REPORT_FORGETS] = { VFIOMIG_SIM_OP_LOG_REPORT, VFIOMIG_SIM_FAULT_HALF },
        [LOG_REPORTS] = { VFIOMIG_SIM_OP_LOG_REPORT, VFIOMIG_SIM_FAULT_STICKY },
    };
    if (operation == READ_STOPPED)
        d->fails_stopped = nth;
    else
        vfiomig_sim_inject(d->sim, faults[operation].kind, nth, errnum, faults[operation].effect);
}
