/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Whether one device may take another one's state is asked without a device, and answered before
 * anything is done to one. Identities travel as bytes. */
#include <stddef.h>

#include "idle.h"
#include "rig.h"

static struct vfiomig_identity some_identity(void)
{
    struct vfiomig_identity id = VFIOMIG_IDENTITY_INIT;
    strcpy(id.bus, "pci");
    strcpy(id.driver, "mlx5_vfio_pci");
    id.pci_vendor = 0x15b3;
    id.pci_device = 0x101e;
    id.pci_subsystem_vendor = 0x15b3;
    id.pci_subsystem_device = 0x23;
    strcpy(id.driver_version, "550.54.14");
    strcpy(id.driver_srcversion, "533BB7E5866E52F63B9ACCB");
    strcpy(id.firmware, "28.39.1002");
    strcpy(id.kernel_release, "6.12.1");
    memcpy(id.vendor_data, "\0binary\xff", 8);
    id.vendor_data_len = 8;
    id.migration_flags = 7;
    id.state_size = 1u << 20;
    id.protocol = VFIOMIG_PROTOCOL_V2;
    return id;
}

static void an_identity_comes_back_as_it_was(void)
{
    struct vfiomig_identity id = some_identity(), back = VFIOMIG_IDENTITY_INIT;
    unsigned char bytes[VFIOMIG_IDENTITY_BYTES], again[VFIOMIG_IDENTITY_BYTES];
    size_t len = 0, len_again = 0;
    OK(vfiomig_identity_export(&id, bytes, sizeof bytes, &len));
    CHECK(len > 100 && len < 400);
    OK(vfiomig_identity_import(bytes, len, &back));
    CHECK(memcmp(&id, &back, sizeof id) == 0);
    OK(vfiomig_identity_export(&back, again, len, &len_again));
    EQ(len_again, len);
    CHECK(memcmp(bytes, again, len) == 0);

    /* A caller of before, whose structure is shorter, leaves out what it does not have. */
    id.struct_size = offsetof(struct vfiomig_identity, driver_srcversion);
    OK(vfiomig_identity_export(&id, bytes, sizeof bytes, &len));
    CHECK(len < len_again);
    OK(vfiomig_identity_import(bytes, len, &back));
    EQ(back.driver_srcversion[0], 0);
    EQ(back.protocol, 0);
    EQ(strcmp(back.driver_version, "550.54.14"), 0);
}

static void a_buffer_that_is_too_small_is_left_as_it_was(void)
{
    struct vfiomig_identity id = some_identity();
    unsigned char bytes[VFIOMIG_IDENTITY_BYTES];
    size_t len, need = 0;
    OK(vfiomig_identity_export(&id, bytes, sizeof bytes, &need));
    memset(bytes, 0xa5, sizeof bytes);
    for (size_t cap = 0; cap < need; cap++) {
        len = 77;
        EQ(vfiomig_identity_export(&id, bytes, cap, &len), -ENOSPC);
        EQ(len, 77);
    }
    for (size_t i = 0; i < sizeof bytes; i++)
        EQ(bytes[i], 0xa5);
    char text[32];
    snprintf(text, sizeof text, "takes %zu bytes", need);
    HAS(vfiomig_error_message(), text);
}

static void what_is_no_identity_is_refused_both_ways(void)
{
    struct vfiomig_identity id = some_identity(), back = VFIOMIG_IDENTITY_INIT;
    unsigned char bytes[VFIOMIG_IDENTITY_BYTES];
    size_t len;
    OK(vfiomig_identity_export(&id, bytes, sizeof bytes, &len));
    for (size_t bit = 0; bit < len * 8; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        int r = vfiomig_identity_import(bytes, len, &back);
        if (r != -EPROTO && r != -EBADMSG && r != -EMSGSIZE)
            FAIL("bit %zu: %d", bit, r);
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++)
        EQ(vfiomig_identity_import(bytes, cut, &back), -EPROTO);
    EQ(vfiomig_identity_import(bytes, len + 1, &back), -EPROTO);
    EQ(back.driver[0], 0);

    id.vendor_data_len = 257;
    EQ(vfiomig_identity_export(&id, bytes, sizeof bytes, &len), -EINVAL);
    id = some_identity();
    strcpy(id.firmware, "a\x1b[2J");
    EQ(vfiomig_identity_export(&id, bytes, sizeof bytes, &len), -EINVAL);
    HAS(vfiomig_error_message(), "firmware");
    id = some_identity();
    memset(id.bus, 'b', sizeof id.bus); /* without its NUL */
    EQ(vfiomig_identity_export(&id, bytes, sizeof bytes, &len), -EINVAL);
}

struct heard {
    unsigned num;
    struct vfiomig_compat_reason reasons[32];
};

static void hear(void *opaque, const struct vfiomig_compat_reason *reason)
{
    struct heard *heard = opaque;
    if (heard->num < 32)
        heard->reasons[heard->num] = *reason;
    heard->num++;
}

static const struct vfiomig_compat_reason *about(const struct heard *heard, uint32_t field)
{
    for (unsigned i = 0; i < heard->num; i++)
        if (heard->reasons[i].field == field)
            return &heard->reasons[i];
    return NULL;
}

static int judge(const struct vfiomig_identity *source, const struct vfiomig_identity *target,
                 const struct vfiomig_compat_policy *policy, struct heard *heard)
{
    struct vfiomig_verdict verdict = VFIOMIG_VERDICT_INIT;
    unsigned refused = 0, unchecked = 0;
    heard->num = 0;
    int r = vfiomig_compat_judge(source, target, policy, hear, heard, &verdict);
    if (r != 0 && r != -EXDEV)
        return r;
    for (unsigned i = 0; i < heard->num; i++) {
        const struct vfiomig_compat_reason *reason = &heard->reasons[i];
        refused += reason->severity == VFIOMIG_SEVERITY_BLOCKS;
        unchecked += reason->severity == VFIOMIG_SEVERITY_LIMITS;
        EQ(reason->struct_size, sizeof *reason);
        CHECK(reason->label[0] && reason->text[0]);
        CHECK(i == 0 || reason->field == 0 || reason[-1].field < reason->field);
    }
    EQ(verdict.compatible, r == 0);
    EQ(verdict.num_reasons, heard->num);
    EQ(verdict.num_refused, refused);
    EQ(verdict.num_unchecked, unchecked);
    EQ(refused > 0, r == -EXDEV);
    /* Nobody has to listen. */
    EQ(vfiomig_compat_judge(source, target, policy, NULL, NULL, &verdict), r);
    return r;
}

static void a_difference_is_named_with_both_values(void)
{
    struct vfiomig_identity source = some_identity(), target = some_identity();
    struct heard heard;
    strcpy(target.driver, "xe");
    target.pci_device = 0x1018;
    strcpy(target.kernel_release, "7.3");
    target.firmware[0] = 0;
    EQ(judge(&source, &target, NULL, &heard), -EXDEV);
    HAS(vfiomig_error_message(), "driver mlx5_vfio_pci (target: xe), PCI device 15b3:101e (target: 15b3:1018)");

    const struct vfiomig_compat_reason *reason = about(&heard, VFIOMIG_FIELD_PCI_DEVICE);
    CHECK(reason);
    EQ(reason->code, VFIOMIG_COMPAT_DIFFERS);
    EQ(strcmp(reason->label, "pci-device"), 0);
    EQ(strcmp(reason->source, "15b3:101e"), 0);
    EQ(strcmp(reason->target, "15b3:1018"), 0);
    reason = about(&heard, VFIOMIG_FIELD_KERNEL_RELEASE);
    CHECK(reason && reason->severity == VFIOMIG_SEVERITY_INFO);
    EQ(reason->code, VFIOMIG_COMPAT_IGNORED);
    reason = about(&heard, VFIOMIG_FIELD_FIRMWARE);
    CHECK(reason && reason->severity == VFIOMIG_SEVERITY_LIMITS);
    EQ(reason->code, VFIOMIG_COMPAT_TARGET_UNKNOWN);
    EQ(reason->target[0], 0);
    CHECK(!about(&heard, VFIOMIG_FIELD_BUS));
    EQ(about(&heard, VFIOMIG_FIELD_MDEV_TYPE)->code, VFIOMIG_COMPAT_BOTH_UNKNOWN);
}

static struct vfiomig_compat_rule rule(uint32_t field, uint32_t kind)
{
    struct vfiomig_compat_rule rule = VFIOMIG_COMPAT_RULE_INIT;
    rule.field = field;
    rule.rule = kind;
    return rule;
}

static struct vfiomig_compat_policy policy_of(const struct vfiomig_compat_rule *rules, uint32_t num)
{
    struct vfiomig_compat_policy policy = VFIOMIG_COMPAT_POLICY_INIT;
    policy.rules = rules;
    policy.num_rules = num;
    return policy;
}

static void an_unknown_source_fits_no_device_that_is_known(void)
{
    struct vfiomig_identity none = VFIOMIG_IDENTITY_INIT, target = some_identity();
    struct vfiomig_compat_policy policy = VFIOMIG_COMPAT_POLICY_INIT;
    struct heard heard;
    EQ(judge(&none, &target, NULL, &heard), -EXDEV);
    EQ(about(&heard, VFIOMIG_FIELD_DRIVER)->code, VFIOMIG_COMPAT_SOURCE_UNKNOWN);
    OK(judge(&target, &none, NULL, &heard));
    policy.others = VFIOMIG_RULE_IF_KNOWN; /* as streams without an identity need it */
    OK(judge(&none, &target, &policy, &heard));
    policy.others = VFIOMIG_RULE_EXACT;
    EQ(judge(&target, &none, &policy, &heard), -EXDEV);
    EQ(about(&heard, VFIOMIG_FIELD_DRIVER)->code, VFIOMIG_COMPAT_TARGET_UNKNOWN);
}

static void lists_pairs_and_ranges_allow_what_they_name(void)
{
    static const char *const values[] = { "550.54.14", "570.1", "1", "2" };
    struct vfiomig_compat_rule rules[2];
    struct vfiomig_compat_policy policy = policy_of(rules, 2);
    struct vfiomig_identity source = some_identity(), target = some_identity();
    struct heard heard;
    strcpy(target.driver_version, "570.1");
    strcpy(target.firmware, "28.40");

    rules[0] = rule(VFIOMIG_FIELD_DRIVER_VERSION, VFIOMIG_RULE_PAIRS);
    rules[0].values = values;
    rules[0].num_values = 4;
    rules[1] = rule(VFIOMIG_FIELD_FIRMWARE, VFIOMIG_RULE_RANGE);
    rules[1].min = "28.39";
    OK(judge(&source, &target, &policy, &heard));
    EQ(about(&heard, VFIOMIG_FIELD_DRIVER_VERSION)->code, VFIOMIG_COMPAT_ALLOWED);
    EQ(about(&heard, VFIOMIG_FIELD_FIRMWARE)->code, VFIOMIG_COMPAT_ALLOWED);
    /* A pair has a direction. */
    EQ(judge(&target, &source, &policy, &heard), -EXDEV);
    EQ(about(&heard, VFIOMIG_FIELD_DRIVER_VERSION)->code, VFIOMIG_COMPAT_NOT_LISTED);
    rules[1].min = "28.39.1003";
    EQ(judge(&source, &target, &policy, &heard), -EXDEV);
    EQ(about(&heard, VFIOMIG_FIELD_FIRMWARE)->code, VFIOMIG_COMPAT_OUT_OF_RANGE);
    strcpy(source.firmware, "28.39-beta");
    EQ(judge(&source, &target, &policy, &heard), -EXDEV);
    EQ(about(&heard, VFIOMIG_FIELD_FIRMWARE)->code, VFIOMIG_COMPAT_NOT_A_VERSION);

    source = some_identity();
    rules[1] = rule(VFIOMIG_FIELD_FIRMWARE, VFIOMIG_RULE_IGNORE);
    rules[0].rule = VFIOMIG_RULE_ONE_OF;
    OK(judge(&source, &target, &policy, &heard));
    rules[0].values = values + 1;
    rules[0].num_values = 3;
    EQ(judge(&source, &target, &policy, &heard), -EXDEV);
    EQ(about(&heard, VFIOMIG_FIELD_DRIVER_VERSION)->code, VFIOMIG_COMPAT_NOT_LISTED);
}

/* Rules of a newer caller, whose structures are longer. */
static void rules_may_grow(void)
{
    struct { struct vfiomig_compat_rule known; uint64_t future; } longer[2] = { 0 };
    struct vfiomig_compat_policy policy = policy_of(&longer[0].known, 2);
    struct vfiomig_identity source = some_identity(), target = some_identity();
    struct heard heard;
    target.pci_device++;
    strcpy(target.driver, "xe");
    longer[0].known = rule(VFIOMIG_FIELD_DRIVER, VFIOMIG_RULE_IGNORE);
    longer[1].known = rule(VFIOMIG_FIELD_PCI_DEVICE, VFIOMIG_RULE_IGNORE);
    longer[0].known.struct_size = longer[1].known.struct_size = sizeof longer[0];
    OK(judge(&source, &target, &policy, &heard));
    longer[1].future = 1;
    EQ(judge(&source, &target, &policy, &heard), -E2BIG);
    longer[1].future = 0;
    longer[1].known.struct_size = sizeof longer[0].known;
    EQ(judge(&source, &target, &policy, &heard), -EINVAL);
    HAS(vfiomig_error_message(), "different sizes");
}

static void a_policy_that_means_nothing_is_refused(void)
{
    static const char *const values[] = { "a", "b", "c" }, *const null[] = { NULL };
    static char long_text[1026];
    const char *const too_long[] = { long_text }, *const not_utf8[] = { "\xff" };
    struct vfiomig_identity id = some_identity();
    struct vfiomig_compat_rule some = rule(VFIOMIG_FIELD_BUS, VFIOMIG_RULE_EXACT);
    const struct {
        const char *what;
        struct vfiomig_compat_rule rule;
        int result;
    } wrong[] = {
#define RULE(field_, kind, ...) \
    { .struct_size = sizeof(struct vfiomig_compat_rule), .field = field_, .rule = kind, __VA_ARGS__ }
        { "no field", RULE(0, VFIOMIG_RULE_EXACT, .num_values = 0), -EINVAL },
        { "a field too many", RULE(16, VFIOMIG_RULE_EXACT, .num_values = 0), -EINVAL },
        { "a rule too many", RULE(1, 9, .num_values = 0), -EINVAL },
        { "values for nothing", RULE(1, VFIOMIG_RULE_EXACT, .values = values), -EINVAL },
        { "their number", RULE(1, VFIOMIG_RULE_REQUIRE, .num_values = 1), -EINVAL },
        { "an end for nothing", RULE(1, VFIOMIG_RULE_EXACT, .min = "1"), -EINVAL },
        { "no values", RULE(1, VFIOMIG_RULE_ONE_OF, .values = values), -EINVAL },
        { "no pointer", RULE(1, VFIOMIG_RULE_ONE_OF, .num_values = 1), -EFAULT },
        { "no value", RULE(1, VFIOMIG_RULE_ONE_OF, .values = null, .num_values = 1), -EFAULT },
        { "too many", RULE(1, VFIOMIG_RULE_ONE_OF, .values = values, .num_values = 1025), -EINVAL },
        { "half a pair", RULE(1, VFIOMIG_RULE_PAIRS, .values = values, .num_values = 3), -EINVAL },
        { "too long", RULE(1, VFIOMIG_RULE_ONE_OF, .values = too_long, .num_values = 1), -EINVAL },
        { "no text", RULE(1, VFIOMIG_RULE_ONE_OF, .values = not_utf8, .num_values = 1), -EINVAL },
        { "no ends", RULE(VFIOMIG_FIELD_FIRMWARE, VFIOMIG_RULE_RANGE, .num_values = 0), -EINVAL },
        { "no version", RULE(VFIOMIG_FIELD_FIRMWARE, VFIOMIG_RULE_RANGE, .max = "v1"), -EINVAL },
        { "no versions", RULE(VFIOMIG_FIELD_BUS, VFIOMIG_RULE_RANGE, .max = "1"), -EINVAL },
        { "twice", RULE(VFIOMIG_FIELD_BUS, VFIOMIG_RULE_IGNORE, .num_values = 0), -EINVAL },
    };
    struct heard heard;
    memset(long_text, 'x', 1025);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct vfiomig_compat_rule rules[2] = { wrong[i].rule, some };
        struct vfiomig_compat_policy policy = policy_of(rules, 2);
        int r = judge(&id, &id, &policy, &heard);
        if (r != wrong[i].result || heard.num)
            FAIL("%s: %d: %s", wrong[i].what, r, vfiomig_error_message());
    }
    struct vfiomig_compat_policy policy = policy_of(NULL, 1);
    EQ(judge(&id, &id, &policy, &heard), -EFAULT);
    policy.num_rules = 0;
    policy.others = VFIOMIG_RULE_REQUIRE;
    EQ(judge(&id, &id, &policy, &heard), -EINVAL);
    policy.others = VFIOMIG_RULE_DEFAULT;
    policy.reserved = 1;
    EQ(judge(&id, &id, &policy, &heard), -EINVAL);
}

static int released;

static void release(void *opaque)
{
    ++*(int *)opaque;
}

static int answer;

static int decide(void *opaque, const struct vfiomig_identity *source,
                  const struct vfiomig_identity *target)
{
    ++*(int *)opaque;
    CHECK(strcmp(source->bus, target->bus) == 0);
    return answer;
}

static void the_callback_may_refuse_and_is_released_once_per_call(void)
{
    struct vfiomig_identity id = some_identity();
    struct vfiomig_compat_policy policy = VFIOMIG_COMPAT_POLICY_INIT;
    struct vfiomig_verdict verdict = VFIOMIG_VERDICT_INIT;
    struct heard heard = { 0 };
    policy.decide = decide;
    policy.decide_opaque = &released;
    answer = 0;
    OK(vfiomig_compat_judge(&id, &id, &policy, hear, &heard, &verdict));
    answer = -EPERM;
    EQ(vfiomig_compat_judge(&id, &id, &policy, hear, &heard, &verdict), -EXDEV);
    const struct vfiomig_compat_reason *reason = about(&heard, 0);
    CHECK(reason && reason->severity == VFIOMIG_SEVERITY_BLOCKS);
    EQ(reason->code, VFIOMIG_COMPAT_CALLBACK);
    EQ(verdict.compatible, 0);
    EQ(released, 2); /* that is how often it was asked */

    policy.decide = idle_policy;
    policy.decide_release = release;
    released = 0;
    OK(vfiomig_compat_judge(&id, &id, &policy, NULL, NULL, &verdict));
    EQ(released, 1);
    EQ(vfiomig_compat_judge(NULL, &id, &policy, NULL, NULL, &verdict), -EFAULT);
    EQ(released, 2);
    policy.others = 99;
    EQ(vfiomig_compat_judge(&id, &id, &policy, NULL, NULL, &verdict), -EINVAL);
    EQ(released, 3);
    policy.decide = NULL;
    EQ(vfiomig_compat_judge(&id, &id, &policy, NULL, NULL, &verdict), -EINVAL);
    EQ(released, 4);
}

static struct vfiomig_sim_options mtty(const char *type, uint64_t seed)
{
    struct vfiomig_sim_options o = rig_options();
    o.seed = seed;
    strcpy(o.driver, "mdevs");
    strcpy(o.mdev_type, type);
    return o;
}

static uint64_t changes(struct vfiomig_sim *sim)
{
    return vfiomig_sim_count(sim, VFIOMIG_SIM_OP_SET_STATE) +
           vfiomig_sim_count(sim, VFIOMIG_SIM_OP_WRITE) +
           vfiomig_sim_count(sim, VFIOMIG_SIM_OP_READ) +
           vfiomig_sim_count(sim, VFIOMIG_SIM_OP_RESET);
}

static void a_load_of_what_does_not_fit_does_not_begin(void)
{
    struct vfiomig_sim_options there = mtty("mtty-2", 1), here = mtty("mtty-1", 2);
    struct rig from = rig_new(&there, NULL), to = rig_new(&here, NULL);
    struct vfiomig_identity source = VFIOMIG_IDENTITY_INIT, none = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load = NULL;
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    uint64_t contents = vfiomig_sim_digest(to.sim), before = changes(to.sim);
    OK(vfiomig_device_get_identity(from.dev, &source));
    EQ(source.protocol, VFIOMIG_PROTOCOL_V2);
    options.source = &source;
    EQ(vfiomig_load_begin(to.dev, &options, &load), -EXDEV);
    HAS(vfiomig_error_message(), "mdev type mtty-2 (target: mtty-1)");
    options.source = &none;
    EQ(vfiomig_load_begin(to.dev, &options, &load), -EXDEV);
    HAS(vfiomig_error_message(), "mdev type unknown (target: mtty-1)");
    none.vendor_data_len = 1000;
    EQ(vfiomig_load_begin(to.dev, &options, &load), -EINVAL);
    CHECK(!load);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    EQ(vfiomig_sim_digest(to.sim), contents);
    EQ(changes(to.sim), before);
    OK(vfiomig_device_get_failure(to.dev, &failure));
    EQ(failure.code, 0);

    /* Another policy, another answer. What the options point to is not needed afterwards. */
    struct vfiomig_compat_rule rules[1] = { rule(VFIOMIG_FIELD_MDEV_TYPE, VFIOMIG_RULE_PAIRS) };
    const char *values[] = { "mtty-2", "mtty-1" };
    struct vfiomig_compat_policy policy = policy_of(rules, 1);
    rules[0].values = values;
    rules[0].num_values = 2;
    options.source = &source;
    options.compat = &policy;
    struct bytes stream = stream_of(from.dev);
    OK(vfiomig_load_begin(to.dev, &options, &load));
    memset(&source, 0xa5, sizeof source);
    memset(&policy, 0xa5, sizeof policy);
    memset(rules, 0xa5, sizeof rules);
    values[0] = values[1] = NULL;
    CHECK(push_all(load, &stream, 5000) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    EQ(vfiomig_sim_digest(to.sim), vfiomig_sim_digest(from.sim));
    vfiomig_load_free(load);
    bytes_free(&stream);
    rig_free(&from);
    rig_free(&to);
}

static void an_empty_identity_no_longer_opens_every_door(void)
{
    struct vfiomig_sim_options here = mtty("mtty-1", 2);
    struct vfiomig_device_ops ops;
    struct rig from, to = rig_new(&here, NULL);
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_compat_policy policy = VFIOMIG_COMPAT_POLICY_INIT;
    struct vfiomig_load *load;
    ops = rig_table(&from, NULL);
    ops.identity = NULL;
    rig_open(&from, &ops, NULL);
    struct bytes stream = stream_of(from.dev);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(push_all(load, &stream, SIZE_MAX), -EXDEV);
    EQ(vfiomig_sim_bytes_written(to.sim), 0);
    vfiomig_load_free(load);
    policy.others = VFIOMIG_RULE_IF_KNOWN;
    options.compat = &policy;
    OK(vfiomig_load_begin(to.dev, &options, &load));
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    vfiomig_load_free(load);
    bytes_free(&stream);
    rig_free(&from);
    rig_free(&to);
}

/* ignore and policy say the same in short: both ways at once contradict each other. */
static void what_is_said_in_two_ways_is_refused_and_released(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_load *load;
    int short_way = 0, long_way = 0;
    for (int i = 0; i < 3; i++) {
        struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
        struct vfiomig_compat_rule rules[1] = { rule(VFIOMIG_FIELD_DRIVER, VFIOMIG_RULE_EXACT) };
        struct vfiomig_compat_policy policy = policy_of(rules, i < 2);
        policy.decide = i == 2 ? idle_policy : NULL;
        policy.decide_opaque = &long_way;
        policy.decide_release = release;
        options.compat = &policy;
        options.policy = idle_policy;
        options.policy_opaque = &short_way;
        options.policy_release = release;
        options.ignore = i == 0 ? VFIOMIG_IGNORE_DRIVER : i == 1 ? VFIOMIG_IGNORE_ALL : 0;
        EQ(vfiomig_load_begin(rig.dev, &options, &load), -EINVAL);
        EQ(short_way, i + 1);
        EQ(long_way, i + 1);
    }
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    rig_free(&rig);
}

int main(void)
{
    RUN(an_identity_comes_back_as_it_was);
    RUN(a_buffer_that_is_too_small_is_left_as_it_was);
    RUN(what_is_no_identity_is_refused_both_ways);
    RUN(a_difference_is_named_with_both_values);
    RUN(an_unknown_source_fits_no_device_that_is_known);
    RUN(lists_pairs_and_ranges_allow_what_they_name);
    RUN(rules_may_grow);
    RUN(a_policy_that_means_nothing_is_refused);
    RUN(the_callback_may_refuse_and_is_released_once_per_call);
    RUN(a_load_of_what_does_not_fit_does_not_begin);
    RUN(an_empty_identity_no_longer_opens_every_door);
    RUN(what_is_said_in_two_ways_is_refused_and_released);
    return DONE();
}
