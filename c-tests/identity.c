/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A stream is loaded only into the kind of device that it comes from; the comparison can be
 * relaxed. */
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"

static struct vfiomig_sim_options some_device(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.pci_vendor = 0x8086;
    o.pci_device = 0x1889;
    o.pci_subsystem_vendor = 0x8086;
    o.pci_subsystem_device = 1;
    strcpy(o.mdev_type, "type-1");
    strcpy(o.driver, "driver-1");
    return o;
}

static struct bytes stream_from(const struct vfiomig_sim_options *o, const char *vendor_data)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    options.vendor_data = vendor_data;
    options.vendor_data_len = vendor_data ? (uint32_t)strlen(vendor_data) : 0;
    struct rig rig = rig_new(o, &options);
    struct bytes stream = stream_of(rig.dev);
    rig_free(&rig);
    return stream;
}

static int load_into(const struct bytes *stream, const struct vfiomig_sim_options *o,
                     const char *vendor_data, uint32_t ignore)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_load_options load_options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    options.vendor_data = vendor_data;
    options.vendor_data_len = vendor_data ? (uint32_t)strlen(vendor_data) : 0;
    load_options.ignore = ignore;
    struct rig rig = rig_new(o, &options);
    OK(vfiomig_load_begin(rig.dev, &load_options, &load));
    uint64_t written = vfiomig_sim_bytes_written(rig.sim);
    int r = push_all(load, stream, SIZE_MAX);
    if (r == -EXDEV) {
        /* Noticed before the driver got anything, and the device was given back. */
        EQ(vfiomig_sim_bytes_written(rig.sim), written);
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    }
    if (r > 0)
        r = vfiomig_load_commit(load);
    vfiomig_load_free(load);
    rig_free(&rig);
    return r;
}

static void the_same_kind_is_loaded(void)
{
    struct vfiomig_sim_options o = some_device();
    struct bytes stream = stream_from(&o, "fw-1");
    EQ(load_into(&stream, &o, "fw-1", 0), 0);
    bytes_free(&stream);
}

static void every_difference_counts_and_can_be_passed_over(void)
{
    static const struct {
        const char *what;
        uint32_t ignore; /* 0: only by VFIOMIG_IGNORE_ALL */
    } cases[] = {
        { "vendor", 0 }, { "device", 0 }, { "subsystem", VFIOMIG_IGNORE_PCI_SUBSYSTEM },
        { "mdev_type", VFIOMIG_IGNORE_MDEV_TYPE }, { "driver", VFIOMIG_IGNORE_DRIVER },
        { "vendor_data", VFIOMIG_IGNORE_VENDOR_DATA },
    };
    struct vfiomig_sim_options from = some_device();
    struct bytes stream = stream_from(&from, "fw-1");
    for (int i = 0; i < 6; i++) {
        struct vfiomig_sim_options to = from;
        const char *vendor_data = "fw-1";
        switch (i) {
        case 0: to.pci_vendor++; break;
        case 1: to.pci_device++; break;
        case 2: to.pci_subsystem_device++; break;
        case 3: strcpy(to.mdev_type, "type-2"); break;
        case 4: strcpy(to.driver, "driver-2"); break;
        case 5: vendor_data = "fw-2"; break;
        }
        int r = load_into(&stream, &to, vendor_data, 0);
        if (r != -EXDEV)
            FAIL("another %s: %d", cases[i].what, r);
        for (uint32_t bit = 1; bit <= VFIOMIG_IGNORE_DRIVER_VERSION; bit <<= 1) {
            int want = bit == cases[i].ignore || bit == VFIOMIG_IGNORE_ALL ? 0 : -EXDEV;
            r = load_into(&stream, &to, vendor_data, bit);
            if (r != want)
                FAIL("another %s, ignoring %#x: %d: %s", cases[i].what, bit, r,
                     vfiomig_error_message());
        }
    }
    bytes_free(&stream);
}

struct asked {
    int count, answer;
    struct vfiomig_identity source, target;
};

static int policy(void *opaque, const struct vfiomig_identity *source,
                  const struct vfiomig_identity *target)
{
    struct asked *asked = opaque;
    asked->count++;
    asked->source = *source;
    asked->target = *target;
    return asked->answer;
}

static int load_with_policy(const struct bytes *stream, struct vfiomig_sim_options *o,
                            struct asked *asked, struct vfiomig_identity *source)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    struct rig rig = rig_new(o, NULL);
    options.policy = policy;
    options.policy_opaque = asked;
    OK(vfiomig_load_begin(rig.dev, &options, &load));
    EQ(vfiomig_load_get_source_identity(load, source), -ENODATA);
    int r = push_all(load, stream, 1000);
    /* Also of a source that was refused. */
    OK(vfiomig_load_get_source_identity(load, source));
    vfiomig_load_free(load);
    rig_free(&rig);
    return r;
}

static void a_policy_sees_both_and_decides(void)
{
    struct vfiomig_sim_options o = some_device();
    struct bytes stream = stream_from(&o, NULL);
    struct asked asked = { .answer = 0 };
    struct vfiomig_identity source = VFIOMIG_IDENTITY_INIT;
    CHECK(load_with_policy(&stream, &o, &asked, &source) & VFIOMIG_PUSH_END);
    EQ(asked.count, 1);
    EQ(asked.source.struct_size, sizeof asked.source);
    EQ(asked.source.pci_vendor, 0x8086);
    EQ(asked.source.pci_device, 0x1889);
    EQ(asked.source.pci_subsystem_device, 1);
    EQ(asked.source.migration_flags, 7);
    EQ(strcmp(asked.source.mdev_type, "type-1"), 0);
    EQ(strcmp(asked.source.driver, "driver-1"), 0);
    EQ(strcmp(asked.target.driver, "driver-1"), 0);
    CHECK(asked.source.kernel_release[0]);
    CHECK(memcmp(&source, &asked.source, sizeof source) == 0);
    asked.answer = -EPERM;
    EQ(load_with_policy(&stream, &o, &asked, &source), -EPERM);
    EQ(asked.count, 2);
    bytes_free(&stream);
}

static void what_a_device_is(void)
{
    struct vfiomig_sim_options o = some_device();
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
    options.vendor_data = "\0binary\xff";
    options.vendor_data_len = 8;
    struct rig rig = rig_new(&o, &options);
    OK(vfiomig_device_get_identity(rig.dev, &identity));
    EQ(identity.pci_vendor, 0x8086);
    EQ(identity.pci_subsystem_vendor, 0x8086);
    EQ(identity.migration_flags, 7);
    CHECK(identity.state_size > SOME_SIZE);
    EQ(identity.vendor_data_len, 8);
    EQ(memcmp(identity.vendor_data, "\0binary\xff", 8), 0);
    EQ(identity.vendor_data[8], 0);
    EQ(strcmp(identity.driver, "driver-1"), 0);
    rig_free(&rig);
}

/* A directory as sysfs has it for a VF made by its vendor's driver; "" leaves a file out. */
static void make_sysfs(const char *dir, const char *type, const char *version)
{
    static const char *const dirs[] = { "", "/nvidia", "/drivers", "/drivers/nvidia",
                                        "/drivers/nvidia/module" };
    const char *const files[][2] = { { "/nvidia/current_vgpu_type", type },
                                     { "/drivers/nvidia/module/version", version } };
    char path[200];
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        snprintf(path, sizeof path, "%s%s", dir, dirs[i]);
        CHECK(mkdir(path, 0700) == 0 || errno == EEXIST);
    }
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", dir, files[i][0]);
        unlink(path);
        if (!files[i][1][0])
            continue;
        FILE *f = fopen(path, "w");
        CHECK(f);
        fprintf(f, "%s\n", files[i][1]);
        fclose(f);
    }
    snprintf(path, sizeof path, "%s/driver", dir);
    CHECK(symlink("drivers/nvidia", path) == 0 || errno == EEXIST);
}

static void remove_sysfs(const char *dir)
{
    static const char *const entries[] = {
        "/nvidia/current_vgpu_type", "/drivers/nvidia/module/version", "/driver", "/nvidia",
        "/drivers/nvidia/module",    "/drivers/nvidia",                "/drivers", "",
    };
    char path[200];
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        snprintf(path, sizeof path, "%s%s", dir, entries[i]);
        remove(path);
    }
}

/* A device of which sysfs knows more than the device itself does. */
static struct rig rig_in(const char *dir)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct rig rig;
    struct vfiomig_device_ops ops = rig_table(&rig, NULL);
    ops.identity = NULL;
    options.sysfs_path = dir;
    rig_open(&rig, &ops, &options);
    return rig;
}

/* NVIDIA's vGPUs since Linux 6.8: no mdev, and a driver that accepts no other version's state. */
static void another_vgpu_type_or_driver_version_is_told_apart_before_anything_is_written(void)
{
    static const struct {
        const char *type, *version;
        uint32_t ignore;
        int result;
    } cases[] = {
        { "1155", "570.133.10", 0, 0 },
        { "1159", "570.133.10", 0, -EXDEV },
        { "1159", "570.133.10", VFIOMIG_IGNORE_VENDOR_TYPE, 0 },
        { "1159", "570.133.10", VFIOMIG_IGNORE_DRIVER_VERSION | VFIOMIG_IGNORE_MDEV_TYPE, -EXDEV },
        { "1155", "550.90.05", 0, -EXDEV },
        { "1155", "550.90.05", VFIOMIG_IGNORE_DRIVER_VERSION, 0 },
        { "1155", "550.90.05", VFIOMIG_IGNORE_VENDOR_TYPE | VFIOMIG_IGNORE_DRIVER, -EXDEV },
        { "", "", 0, 0 }, /* what one side does not know does not count */
    };
    struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
    char dir[] = "/tmp/vfiomig-sysfs-XXXXXX";
    CHECK(mkdtemp(dir));
    make_sysfs(dir, "1155", "570.133.10");
    struct rig from = rig_in(dir);
    OK(vfiomig_device_get_identity(from.dev, &identity));
    EQ(strcmp(identity.driver, "nvidia"), 0);
    EQ(strcmp(identity.vendor_type, "nvidia-1155"), 0);
    EQ(strcmp(identity.driver_version, "570.133.10"), 0);
    struct bytes stream = stream_of(from.dev);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
        struct vfiomig_load *load;
        make_sysfs(dir, cases[i].type, cases[i].version);
        struct rig to = rig_in(dir);
        options.ignore = cases[i].ignore;
        OK(vfiomig_load_begin(to.dev, &options, &load));
        int r = push_all(load, &stream, 5000);
        if ((r < 0 ? r : 0) != cases[i].result)
            FAIL("case %zu: %d: %s", i, r, vfiomig_error_message());
        if (r < 0) {
            HAS(vfiomig_error_message(), strcmp(cases[i].type, "1155") ? "nvidia-1159" : "550.90.05");
            EQ(vfiomig_sim_bytes_written(to.sim), 0);
        }
        vfiomig_load_free(load);
        rig_free(&to);
    }
    remove_sysfs(dir);
    rig_free(&from);
    bytes_free(&stream);
}

static const char *bus_told;

static int tell_bus(void *opaque, struct vfiomig_identity *identity)
{
    (void)opaque;
    snprintf(identity->bus, sizeof identity->bus, "%s", bus_told);
    return 0;
}

static int64_t read_region(void *opaque, uint32_t region, uint64_t offset, void *buf, size_t len)
{
    (void)opaque;
    (void)region;
    (void)offset;
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)(i + 1);
    return (int64_t)len;
}

/* Region 7 of a platform device is not configuration space. */
static void pci_ids_are_read_of_pci_devices_only(void)
{
    static const char *const buses[] = { "pci", "platform", "ap", "" };
    for (size_t i = 0; i < 4; i++) {
        struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
        struct rig rig;
        struct vfiomig_device_ops ops = rig_table(&rig, NULL);
        ops.identity = tell_bus;
        ops.region_read = read_region;
        bus_told = buses[i];
        rig_open(&rig, &ops, NULL);
        OK(vfiomig_device_get_identity(rig.dev, &identity));
        EQ(identity.pci_vendor, i == 0 ? 0x0201 : 0);
        EQ(identity.pci_subsystem_device, i == 0 ? 0x302f : 0);
        EQ(identity.pci_revision, i == 0 ? 9 : 0);
        rig_free(&rig);
    }
}

int main(void)
{
    RUN(the_same_kind_is_loaded);
    RUN(every_difference_counts_and_can_be_passed_over);
    RUN(a_policy_sees_both_and_decides);
    RUN(what_a_device_is);
    RUN(another_vgpu_type_or_driver_version_is_told_apart_before_anything_is_written);
    RUN(pci_ids_are_read_of_pci_devices_only);
    return DONE();
}
