/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the library says about real mtty devices, about fds that are not devices, and about devices
 * that are not ready, compared with what each kernel is known to offer.
 */
#include "lab.h"

#include <fcntl.h>
#include <sys/utsname.h>

struct variety {
    unsigned ports;
    enum lab_how how;
    int with_sysfs;
};

/* The reasons as bits; fails if one comes twice or they are not sorted. */
static unsigned reasons_of(struct vfiomig_device *handle, uint32_t count)
{
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    unsigned bits = 0;
    uint32_t worst = VFIOMIG_SEVERITY_BLOCKS;

    for (uint32_t i = 0; i < count; i++) {
        OK(vfiomig_device_get_reason(handle, i, &reason));
        printf("reason %u %s: %s\n", reason.code, reason.label, reason.text);
        CHECK(!(bits & 1u << reason.code), "reason %s comes twice", reason.label);
        CHECK(reason.severity >= worst, "reason %s is worse than the one before", reason.label);
        CHECK(reason.label[0] && reason.text[0], "reason %u has no text", reason.code);
        bits |= 1u << reason.code;
        worst = reason.severity;
    }
    CALL(vfiomig_device_get_reason(handle, count, &reason), -ENODATA);
    return bits;
}

static void expect_text(const char *what, const char *got, const char *want)
{
    CHECK(!strcmp(got, want), "%s is \"%s\", expected \"%s\"", what, got, want);
}

static void a_device_is_known(void)
{
    const struct variety *v = lab_arg();
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
    struct {
        uint32_t argsz, flags;
    } opt_in = { 8, LAB_FEATURE_SET | LAB_FEATURE_PROBE | LAB_FEATURE_PRECOPY_INFO_V2 };
    uint32_t want_caps =
        VFIOMIG_CAP_MIGRATE | VFIOMIG_CAP_PRE_COPY | VFIOMIG_CAP_P2P | VFIOMIG_CAP_STATE_SIZE;
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    struct vfiomig_device *handle = NULL;
    unsigned want_reasons = 0;
    struct lab_device device;
    struct utsname kernel;
    char type[16] = "";
    int knows_itself;

    lab_create(&device, v->ports);
    lab_open(&device, v->how);
    options.sysfs_path = v->with_sysfs ? device.sysfs : NULL;
    options.vendor_data = "firmware 3";
    options.vendor_data_len = 10;
    OK(vfiomig_device_new_fd(device.fd, &options, &handle));

    /* The kernel's own answer, without the library, after opting in or not. */
    if (ioctl(device.fd, LAB_DEVICE_FEATURE, &opt_in) == 0) {
        CHECK(lab_kernel_is("7.3"), "a kernel as old as this has PRECOPY_INFO v2?");
        want_caps |= VFIOMIG_CAP_PRECOPY_INFO_V2;
    } else {
        EXPECT(errno, ENOTTY);
        CHECK(!lab_kernel_is("7.3"), "Linux 7.3 has no PRECOPY_INFO v2?");
        want_reasons |= 1u << VFIOMIG_REASON_NO_PRECOPY_INFO_V2;
    }
    /* PROBE says yes everywhere; only Debian's kernel, without iommufd, cannot report. */
    if (lab_kernel_is("debian-6.12"))
        want_reasons |= 1u << VFIOMIG_REASON_DMA_LOGGING_UNUSABLE;
    else
        want_caps |= VFIOMIG_CAP_DMA_LOGGING;

    OK(vfiomig_device_get_caps(handle, &caps));
    EXPECT(caps.flags, want_caps);
    EXPECT(caps.migration_flags, 7);
    EXPECT(caps.state_size, LAB_MTTY_SIZE(v->ports));
    EXPECT(caps.initial_state, VFIOMIG_STATE_RUNNING);
    EXPECT(reasons_of(handle, caps.num_reasons), want_reasons);

    OK(vfiomig_device_get_identity(handle, &identity));
    /* A cdev has a number that leads to sysfs. An fd from a group has none; newer kernels tell. */
    knows_itself = v->with_sysfs || v->how == LAB_CDEV || lab_kernel_is("7.3");
    snprintf(type, sizeof(type), "mtty-%u", v->ports);
    uname(&kernel);
    printf("bus %s, driver %s, mdev type %s, PCI %04x:%04x %04x:%04x rev %02x, kernel %s\n",
           identity.bus, identity.driver, identity.mdev_type, identity.pci_vendor,
           identity.pci_device, identity.pci_subsystem_vendor, identity.pci_subsystem_device,
           identity.pci_revision, identity.kernel_release);
    expect_text("bus", identity.bus, "pci");
    expect_text("driver", identity.driver, knows_itself ? "mtty" : "");
    expect_text("mdev type", identity.mdev_type, knows_itself ? type : "");
    expect_text("kernel release", identity.kernel_release, kernel.release);
    EXPECT(identity.pci_vendor, 0x4348);
    EXPECT(identity.pci_device, 0x3253);
    EXPECT(identity.pci_subsystem_vendor, 0x4348);
    EXPECT(identity.pci_subsystem_device, 0x3253);
    EXPECT(identity.pci_revision, 0x10);
    EXPECT(identity.migration_flags, 7);
    EXPECT(identity.state_size, LAB_MTTY_SIZE(v->ports));
    EXPECT(identity.vendor_data_len, 10);
    CHECK(!memcmp(identity.vendor_data, "firmware 3", 10), "the vendor string changed");

    /* Probing has changed nothing. */
    lab_expect_state(&device, handle, VFIOMIG_STATE_RUNNING);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void a_device_that_is_switched_off_is_refused(void)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_device *handle = NULL;
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct vfiomig_save *save = NULL;
    struct vfiomig_load *load = NULL;
    struct lab_device device;

    lab_create(&device, 1);
    lab_open(&device, LAB_GROUP);
    options.flags = VFIOMIG_DEVICE_DISABLED;
    OK(vfiomig_device_new_fd(device.fd, &options, &handle));
    OK(vfiomig_device_get_reason(handle, 0, &reason));
    EXPECT(reason.code, VFIOMIG_REASON_DISABLED);
    CALL(vfiomig_save_begin(handle, NULL, &save), -EPERM);
    CALL(vfiomig_load_begin(handle, NULL, &load), -EPERM);
    CHECK(!save && !load, "a session came anyway");
    lab_expect_state(&device, handle, VFIOMIG_STATE_RUNNING);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void refused(const char *what, int fd, int want)
{
    struct vfiomig_device *handle = NULL;
    int ret = vfiomig_device_new_fd(fd, NULL, &handle);

    CHECK(ret == want, "%s: returned %d, expected %d (%s)", what, ret, want,
          vfiomig_error_message());
    CHECK(!handle, "%s: a handle came anyway", what);
    CHECK(strstr(vfiomig_error_message(), "vfiomig_device_new_fd"), "%s: the message is \"%s\"",
          what, vfiomig_error_message());
    printf("%s: %s\n", what, vfiomig_error_message());
}

static void what_is_no_device_is_refused(void)
{
    static const char *const paths[] = { "/dev/null", "/proc/self/exe", "/", "/dev/vfio/vfio",
                                         "/dev/kmsg" };
    struct lab_device device;
    int fds[2];

    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

        CHECK(fd >= 0, "%s: %s", paths[i], strerror(errno));
        /* The container's own ioctls go on to an IOMMU driver that is not set. */
        refused(paths[i], fd, !strcmp(paths[i], "/dev/vfio/vfio") ? -EINVAL : -ENOTTY);
        close(fd);
        refused("closed", fd, -EINVAL);
    }
    refused("-1", -1, -EINVAL);
    EXPECT(pipe(fds), 0);
    refused("a pipe", fds[0], -ENOTTY);
    close(fds[0]);
    close(fds[1]);

    lab_create(&device, 1);
    lab_open(&device, LAB_GROUP);
    refused("a group", device.group, -ENOTTY);
    lab_close(&device);
}

/* A cdev is dead until it is bound to an iommufd. The message has to say so. */
static void an_unbound_cdev_is_refused(void)
{
    struct lab_device device;
    int fd;

    lab_need(LAB_CDEV);
    lab_create(&device, 1);
    fd = open(lab_cdev_path(&device), O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0, "%s: %s", lab_cdev_path(&device), strerror(errno));
    refused("an unbound cdev", fd, -EINVAL);
    CHECK(strstr(vfiomig_error_message(), "iommufd"), "the message does not say what to do: \"%s\"",
          vfiomig_error_message());
    close(fd);
    /* And the same one afterwards, bound. */
    lab_open(&device, LAB_CDEV);
    vfiomig_device_free(lab_handle(&device));
    lab_close(&device);
}

/* The device fd is borrowed: it still works after the handle is gone, and no data fds are left. */
static void fds_are_neither_closed_nor_leaked(void)
{
    struct lab_device source, target;
    struct vfiomig_device *from, *to;
    struct lab_bytes stream;
    int before, after;

    lab_create(&source, 2);
    lab_create(&target, 2);
    lab_open(&source, LAB_GROUP);
    lab_open(&target, LAB_GROUP);
    before = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(before);
    for (int i = 0; i < 5; i++) {
        from = lab_handle(&source);
        to = lab_handle(&target);
        stream = lab_save(from, 0, 4096, VFIOMIG_ENDING_KEEP);
        OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
        /* One that fails on the way, too. */
        CALL(lab_load(to, NULL, stream.data, stream.len - 1, 0, NULL), -ENODATA);
        lab_free(&stream);
        vfiomig_device_free(from);
        vfiomig_device_free(to);
    }
    after = open("/dev/null", O_RDONLY | O_CLOEXEC);
    EXPECT(after, before);
    EXPECT(lab_raw_state(source.fd), VFIOMIG_STATE_RUNNING);
    lab_close(&source);
    lab_close(&target);
}

int main(void)
{
    static struct variety v;

    if (lab_boot() != 1)
        return 77;
    for (v.ports = 1; v.ports <= 2; v.ports++)
        for (v.how = LAB_GROUP; v.how <= LAB_CDEV; v.how++)
            for (v.with_sysfs = 0; v.with_sysfs <= 1; v.with_sysfs++)
                lab_run_arg(a_device_is_known, &v, "probe-mtty-%u-%s%s", v.ports,
                            lab_how_name(v.how), v.with_sysfs ? "-sysfs" : "");
    lab_run("probe-disabled", a_device_that_is_switched_off_is_refused);
    lab_run("probe-no-device", what_is_no_device_is_refused);
    lab_run("probe-unbound-cdev", an_unbound_cdev_is_refused);
    lab_run("probe-fds", fds_are_neither_closed_nor_leaked);
    return lab_status();
}
