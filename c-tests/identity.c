/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A stream is loaded only into the kind of device that it comes from; what is compared can be relaxed. */
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
        /* Found before the driver got anything, and the device given back. */
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
        for (uint32_t bit = 1; bit <= VFIOMIG_IGNORE_ALL; bit <<= 1) {
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
    if (r >= 0)
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
    CHECK(load_with_policy(&stream, &o, &asked, &source) & VFIOMIG_END);
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

int main(void)
{
    RUN(the_same_kind_is_loaded);
    RUN(every_difference_counts_and_can_be_passed_over);
    RUN(a_policy_sees_both_and_decides);
    RUN(what_a_device_is);
    return DONE();
}
