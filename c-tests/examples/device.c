/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of a device: opening it, its states, resets, and what failed. */
#include <fcntl.h>
#include <unistd.h>

#include "examples.h"

/* EXAMPLE vfiomig_device_new_fd */
/* device_fd comes from VFIO_GROUP_GET_DEVICE_FD, or is a cdev that
   is bound to an iommufd. It stays open as long as *dev. */
static int open_device(int device_fd, const char *sysfs_path,
                       struct vfiomig_device **dev)
{
    struct vfiomig_device_options options =
        VFIOMIG_DEVICE_OPTIONS_INIT;
    int r;

    /* For example "/sys/bus/pci/devices/0000:3b:00.2". */
    options.sysfs_path = sysfs_path;
    r = vfiomig_device_new_fd(device_fd, &options, dev);
    if (r < 0)                /* -ENOTTY: it is no VFIO device */
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* A server in this process: the simulator. */
struct server {
    struct vfiomig_sim *sim;
    int closed;
};

enum { SERVER_FEATURE, SERVER_RESET };

static const struct vfiomig_device_ops *behind(void *server)
{
    return vfiomig_sim_ops(((struct server *)server)->sim);
}

static int server_call(struct server *server, int call, uint32_t flags, void *data, size_t len)
{
    if (call == SERVER_RESET)
        return behind(server)->reset(server->sim);
    return behind(server)->feature(server->sim, flags, data, len);
}

static int64_t server_read(void *server, int data_fd, void *buf, size_t len)
{
    return behind(server)->data_read(((struct server *)server)->sim, data_fd, buf, len);
}

static int64_t server_write(void *server, int data_fd, const void *buf, size_t len)
{
    return behind(server)->data_write(((struct server *)server)->sim, data_fd, buf, len);
}

static int server_precopy_info(void *server, int data_fd, struct vfiomig_precopy_info *info)
{
    return behind(server)->data_precopy_info(((struct server *)server)->sim, data_fd, info);
}

static int server_close_data(void *server, int data_fd)
{
    return behind(server)->data_close(((struct server *)server)->sim, data_fd);
}

static void server_disconnect(void *server)
{
    ((struct server *)server)->closed++;
}

/* EXAMPLE vfiomig_device_new_ops */
/* A device behind a server, for example of vfio-user. Each callback
   answers as the kernel would: 0 or a count, or -errno. */
static int server_feature(void *server, uint32_t flags, void *data,
                          size_t len)
{
    return server_call(server, SERVER_FEATURE, flags, data, len);
}

static int server_reset(void *server)
{
    return server_call(server, SERVER_RESET, 0, NULL, 0);
}

static int open_served(struct server *server,
                       struct vfiomig_device **dev)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;

    ops.feature = server_feature;
    ops.reset = server_reset;
    ops.data_read = server_read;        /* of the data stream */
    ops.data_write = server_write;
    ops.data_precopy_info = server_precopy_info;
    ops.data_close = server_close_data;
    ops.release = server_disconnect;    /* also if this fails */
    return vfiomig_device_new_ops(&ops, server, NULL, dev);
}
/* END */

/* EXAMPLE vfiomig_device_free */
/* When the device is unplugged. The fd comes last: the library
   leaves it to the VMM, and may still need it until then. */
static void unplug(struct vfiomig_save *save,
                   struct vfiomig_device *dev, int device_fd)
{
    vfiomig_save_free(save);  /* keeps the device, if unfinished */
    vfiomig_device_free(dev);
    close(device_fd);
}
/* END */

/* EXAMPLE vfiomig_device_get_caps */
/* Whether a VM may migrate with this device, if it has `others`. */
static int can_migrate(struct vfiomig_device *dev, int others)
{
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    int r = vfiomig_device_get_caps(dev, &caps);

    if (r < 0)
        return r;
    if (!(caps.flags & VFIOMIG_CAP_MIGRATE))
        return 0;
    /* Several devices can be stopped together only with these. */
    return others == 0 || (caps.flags & VFIOMIG_CAP_P2P) != 0;
}
/* END */

/* EXAMPLE vfiomig_device_get_reason */
/* Lists why a device does not migrate, or not well. Returns whether
   something blocks migration altogether. */
static int list_reasons(struct vfiomig_device *dev, FILE *out)
{
    struct vfiomig_reason why = VFIOMIG_REASON_INIT;
    int blocked = 0, r;
    uint32_t i;

    for (i = 0; (r = vfiomig_device_get_reason(dev, i, &why)) == 0;
         i++) {
        fprintf(out, "%s: %s\n", why.label, why.text);
        blocked |= why.severity == VFIOMIG_SEVERITY_BLOCKS;
    }
    return r == -ENODATA ? blocked : r;   /* there are no more */
}
/* END */

/* EXAMPLE vfiomig_device_get_identity */
/* Writes what the target of a migration has to have. */
static int write_identity(struct vfiomig_device *dev, FILE *out)
{
    struct vfiomig_identity id = VFIOMIG_IDENTITY_INIT;
    int r = vfiomig_device_get_identity(dev, &id);

    if (r < 0)
        return r;
    fprintf(out, "%s device of driver %s", id.bus, id.driver);
    if (id.pci_vendor)        /* 0 and "" mean: not known */
        fprintf(out, ", %04x:%04x", id.pci_vendor, id.pci_device);
    if (id.mdev_type[0])
        fprintf(out, ", type %s", id.mdev_type);
    fprintf(out, "\n");
    return 0;
}
/* END */

/* EXAMPLE vfiomig_device_get_state */
/* Writes a device's state, for example for a monitor command. */
static int write_state(struct vfiomig_device *dev, FILE *out)
{
    uint32_t state;
    int r = vfiomig_device_get_state(dev, &state);

    if (r < 0)
        fprintf(out, "unknown: %s\n", vfiomig_error_message());
    else
        fprintf(out, "%s\n", vfiomig_state_name(state));
    return r;
}
/* END */

/* EXAMPLE vfiomig_device_set_state */
/* Pauses a VM, whose vCPUs have stopped. No device may be in STOP
   while another one still reaches it by peer-to-peer DMA: `p2p`
   says whether all of them have VFIOMIG_CAP_P2P. */
static int pause_devices(struct vfiomig_device **devs, int num,
                         int p2p)
{
    int r = 0;

    for (int i = 0; i < num && p2p && r == 0; i++)
        r = vfiomig_device_set_state(devs[i],
                                     VFIOMIG_STATE_RUNNING_P2P);
    for (int i = 0; i < num && r == 0; i++)
        r = vfiomig_device_set_state(devs[i], VFIOMIG_STATE_STOP);
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_device_run */
/* Before the vCPUs start: 0, or they must not. */
static int run_device(struct vfiomig_device *dev)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    int r = vfiomig_device_run(dev);

    if (r == 0)
        return 0;
    /* Nothing is lost after KEPT or RECOVERED: try again. If a
       reset took what the guest relies on, so does every call. */
    if (vfiomig_device_get_failure(dev, &failure) == 0 &&
        (failure.outcome == VFIOMIG_OUTCOME_KEPT ||
         failure.outcome == VFIOMIG_OUTCOME_RECOVERED))
        r = vfiomig_device_run(dev);
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_device_reset */
/* When the guest's machine is reset: its device begins again, even
   if it had lost the state of the guest before. */
static int reset_machine(struct vfiomig_device *dev)
{
    int r = vfiomig_device_reset(dev);

    /* A reset of the bus or the slot may still help. Make it, then
       call vfiomig_device_notify_reset(). */
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_device_notify_reset */
/* The guest has reset its device: the VMM saw it write to the
   configuration space, and the write has been made. */
static int guest_has_reset(struct vfiomig_device *dev)
{
    int r;

    /* Another thread is using the handle. */
    while ((r = vfiomig_device_notify_reset(dev)) == -EBUSY)
        usleep(1000);
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;                 /* a save starts again by itself */
}
/* END */

/* EXAMPLE vfiomig_device_accept_reset */
/* The VMM has reset the bus together with its machine, while the
   guest was paused. What the device held is no longer wanted,
   so it may run. */
static int bus_was_reset(struct vfiomig_device *dev)
{
    int r = vfiomig_device_notify_reset(dev);

    if (r == 0)
        r = vfiomig_device_accept_reset(dev);
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

static int restored;

static int restore_pci_command(void *vm)
{
    (void)vm;
    restored |= 1;
    return 0;
}

static int restore_interrupts(void *vm)
{
    (void)vm;
    restored |= 2;
    return 0;
}

/* EXAMPLE vfiomig_device_get_fixups */
/* Before vfiomig_device_run(), which clears them. */
static int make_fixups(struct vfiomig_device *dev, void *vm)
{
    uint32_t fixups;
    int r = vfiomig_device_get_fixups(dev, &fixups);

    if (r == 0 && (fixups & VFIOMIG_FIXUP_PCI_COMMAND))
        r = restore_pci_command(vm);   /* bus master and the like */
    if (r == 0 && (fixups & VFIOMIG_FIXUP_INTERRUPTS))
        r = restore_interrupts(vm);    /* VFIO_DEVICE_SET_IRQS */
    return r;
}
/* END */

/* EXAMPLE vfiomig_device_get_failure */
/* A call on the device has failed: may its guest go on? */
static int guest_may_go_on(struct vfiomig_device *dev)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;

    if (vfiomig_device_get_failure(dev, &failure) < 0)
        return 0;
    fprintf(stderr, "from %s to %s: errno %d, now in %s\n",
            vfiomig_state_name(failure.state_before),
            vfiomig_state_name(failure.state_wanted),
            failure.os_errno,
            vfiomig_state_name(failure.state_after));
    /* Otherwise the device has forgotten its guest, or is gone. */
    return failure.outcome == VFIOMIG_OUTCOME_KEPT ||
           failure.outcome == VFIOMIG_OUTCOME_RECOVERED;
}
/* END */

/* EXAMPLE vfiomig_device_get_history */
/* What happened to a device, for whoever has to explain it. */
static void log_history(struct vfiomig_device *dev, FILE *log)
{
    static char text[VFIOMIG_HISTORY_BYTES];
    size_t len;

    if (vfiomig_device_get_history(dev, VFIOMIG_HISTORY_TEXT,
                                   text, sizeof text, &len) == 0)
        fwrite(text, 1, len, log);
}
/* END */

static void fail_next(struct rig *rig, uint32_t effect)
{
    EQ(vfiomig_sim_inject(rig->sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, effect), 0);
}

static void a_device_is_opened_by_its_fd(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_device *dev;
    int fd = open("/dev/null", O_RDWR);
    EQ(open_device(fd, NULL, &dev), -ENOTTY);
    close(fd);
    EQ(vfiomig_sim_new(&o, &sim_behind_fd), 0);
    OK(open_device(SIM_FD, "/sys/bus/pci/devices/0000:3b:00.2", &dev));
    EQ(can_migrate(dev, 0), 1);
    vfiomig_device_free(dev);
    vfiomig_sim_free(sim_behind_fd);
}

static void or_by_callbacks(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct server server = { NULL, 0 };
    struct vfiomig_device *dev;
    struct bytes stream;
    EQ(vfiomig_sim_new(&o, &server.sim), 0);
    OK(open_served(&server, &dev));
    stream = stream_of(dev);
    CHECK(stream.len > o.state_size);
    OK(reset_machine(dev));
    EQ(vfiomig_sim_count(server.sim, VFIOMIG_SIM_OP_RESET), 1);
    vfiomig_device_free(dev);
    EQ(server.closed, 1);
    EQ(vfiomig_sim_violations(server.sim, NULL), 0);
    vfiomig_sim_free(server.sim);
    bytes_free(&stream);
    /* And written to. */
    struct rig from = rig_new(NULL, NULL);
    struct vfiomig_load *load;
    stream = stream_of(from.dev);
    server.closed = 0;
    o.seed += 1;
    EQ(vfiomig_sim_new(&o, &server.sim), 0);
    OK(open_served(&server, &dev));
    OK(vfiomig_load_begin(dev, NULL, &load));
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(server.sim) == vfiomig_sim_digest(from.sim));
    vfiomig_load_free(load);
    vfiomig_device_free(dev);
    vfiomig_sim_free(server.sim);
    rig_free(&from);
    bytes_free(&stream);
}

static void unplugging_ends_a_save(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_sim *sim;
    struct vfiomig_device *dev;
    struct vfiomig_save *save;
    EQ(vfiomig_sim_new(&o, &sim), 0);
    OK(vfiomig_device_new_ops(vfiomig_sim_ops(sim), sim, NULL, &dev));
    OK(vfiomig_save_begin(dev, NULL, &save));
    EQ(vfiomig_sim_open_streams(sim), 1);
    unplug(save, dev, open("/dev/null", O_RDONLY));
    EQ(vfiomig_sim_open_streams(sim), 0);
    EQ(vfiomig_sim_releases(sim), 1);
    EQ(vfiomig_sim_state(sim), VFIOMIG_STATE_RUNNING);
    vfiomig_sim_free(sim);
}

/* What a function writes. */
static char *written(int (*write)(struct vfiomig_device *, FILE *), struct vfiomig_device *dev, int result)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    CHECK(out);
    int r = write(dev, out);
    fclose(out);
    EQ(r, result);
    return text;
}

static void what_it_can_do_and_why_not(void)
{
    static const uint32_t flags[] = { 7, 1, VFIOMIG_SIM_NO_MIGRATION };
    for (int i = 0; i < 3; i++) {
        struct vfiomig_sim_options o = rig_options();
        o.migration_flags = flags[i];
        struct rig rig = rig_new(&o, NULL);
        EQ(can_migrate(rig.dev, 0), i < 2);
        EQ(can_migrate(rig.dev, 1), i < 1);
        char *text = written(list_reasons, rig.dev, i == 2);
        if (i > 0)
            HAS(text, ": ");
        free(text);
        rig_free(&rig);
    }
    EQ(can_migrate(NULL, 0), -EFAULT);
}

static void what_it_is(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.pci_vendor = 0x15b3;
    o.pci_device = 0x101e;
    strcpy(o.mdev_type, "some-type");
    struct rig rig = rig_new(&o, NULL);
    char *text = written(write_identity, rig.dev, 0);
    HAS(text, "driver vfiomig-sim, 15b3:101e, type some-type\n");
    free(text);
    rig_free(&rig);
}

static void which_state_it_is_in(void)
{
    struct rig rig = rig_new(NULL, NULL);
    char *text = written(write_state, rig.dev, 0);
    EQ(strcmp(text, "RUNNING\n"), 0);
    free(text);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_GET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    text = written(write_state, rig.dev, -EIO);
    HAS(text, "unknown: vfiomig_device_get_state: ");
    free(text);
    rig_free(&rig);
}

static void several_are_paused_together(void)
{
    for (int p2p = 0; p2p < 2; p2p++) {
        struct rig rigs[2] = { rig_new(NULL, NULL), rig_new(NULL, NULL) };
        struct vfiomig_device *devs[2] = { rigs[0].dev, rigs[1].dev };
        fail_next(&rigs[1], VFIOMIG_SIM_FAULT_ONCE);
        EQ(pause_devices(devs, 2, p2p), -EIO);
        EQ(vfiomig_sim_state(rigs[0].sim), p2p ? VFIOMIG_STATE_RUNNING_P2P : VFIOMIG_STATE_STOP);
        OK(pause_devices(devs, 2, p2p));
        for (int i = 0; i < 2; i++) {
            EQ(vfiomig_sim_state(rigs[i].sim), VFIOMIG_STATE_STOP);
            rig_free(&rigs[i]);
        }
    }
}

static void a_device_that_does_not_run_is_asked_again_if_nothing_is_lost(void)
{
    struct rig rig = rig_new(NULL, NULL);
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    fail_next(&rig, VFIOMIG_SIM_FAULT_ONCE);
    OK(run_device(rig.dev));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    vfiomig_sim_guest_reset(rig.sim);
    EQ(run_device(rig.dev), -EIO);
    OK(reset_machine(rig.dev));
    OK(run_device(rig.dev));
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_RESET, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(reset_machine(rig.dev), -EIO);
    rig_free(&rig);
}

static void a_save_goes_on_after_the_guests_reset(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    vfiomig_sim_guest_reset(rig.sim);
    OK(guest_has_reset(rig.dev));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_get_stats(save, &stats));
    EQ(stats.restarts, 1);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

static void a_reset_of_a_paused_guests_device_is_accepted(void)
{
    struct rig rig = rig_new(NULL, NULL);
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    vfiomig_sim_guest_reset(rig.sim);
    OK(bus_was_reset(rig.dev));
    OK(make_fixups(rig.dev, NULL));
    EQ(restored, 3);
    OK(run_device(rig.dev));
    restored = 0;
    OK(make_fixups(rig.dev, NULL));
    EQ(restored, 0);
    rig_free(&rig);
}

static void an_error_says_whether_the_guest_may_go_on(void)
{
    for (int lost = 0; lost < 2; lost++) {
        struct rig rig = rig_new(NULL, NULL);
        fail_next(&rig, lost ? VFIOMIG_SIM_FAULT_ERROR : VFIOMIG_SIM_FAULT_ONCE);
        EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
        EQ(guest_may_go_on(rig.dev), !lost);
        rig_free(&rig);
    }
    EQ(guest_may_go_on(NULL), 0);
}

static void what_happened_is_logged(void)
{
    struct rig rig = rig_new(NULL, NULL);
    char line[VFIOMIG_HISTORY_LEAST];
    FILE *log = tmpfile();
    int failed = 0;
    CHECK(log);
    fail_next(&rig, VFIOMIG_SIM_FAULT_ONCE);
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
    log_history(rig.dev, log);
    rewind(log);
    while (fgets(line, sizeof line, log))
        failed += strstr(line, " driver_failed from=RUNNING to=STOP operation=set_state errno=5") != NULL;
    EQ(failed, 1);
    fclose(log);
    rig_free(&rig);
}

int main(void)
{
    RUN(a_device_is_opened_by_its_fd);
    RUN(or_by_callbacks);
    RUN(unplugging_ends_a_save);
    RUN(what_it_can_do_and_why_not);
    RUN(what_it_is);
    RUN(which_state_it_is_in);
    RUN(several_are_paused_together);
    RUN(a_device_that_does_not_run_is_asked_again_if_nothing_is_lost);
    RUN(a_save_goes_on_after_the_guests_reset);
    RUN(a_reset_of_a_paused_guests_device_is_accepted);
    RUN(an_error_says_whether_the_guest_may_go_on);
    RUN(what_happened_is_logged);
    return DONE();
}
