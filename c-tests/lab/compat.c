/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What real devices are travels as bytes, is judged without them, and decides before the source's
 * device stops and before the target's is touched.
 */
#include "lab.h"

#define SOURCE 11
#define TARGET 12

static struct vfiomig_identity sent_identity(struct vfiomig_device *dev)
{
    struct vfiomig_identity here = VFIOMIG_IDENTITY_INIT, there = VFIOMIG_IDENTITY_INIT;
    unsigned char bytes[VFIOMIG_IDENTITY_BYTES];
    size_t len;

    OK(vfiomig_device_get_identity(dev, &here));
    OK(vfiomig_identity_export(&here, bytes, sizeof(bytes), &len));
    OK(vfiomig_identity_import(bytes, len, &there));
    CHECK(!memcmp(&here, &there, sizeof(here)), "the identity has changed on the way");
    return there;
}

struct heard {
    unsigned refused, others;
    struct vfiomig_compat_reason first;
};

static void hear(void *opaque, const struct vfiomig_compat_reason *reason)
{
    struct heard *heard = opaque;

    printf("%s: %s\n", reason->label, reason->text);
    if (reason->severity == VFIOMIG_SEVERITY_BLOCKS && !heard->refused++)
        heard->first = *reason;
    heard->others += reason->severity != VFIOMIG_SEVERITY_BLOCKS;
}

static void expect_text(const char *what, const char *got, const char *want)
{
    CHECK(!strcmp(got, want), "%s is \"%s\", not \"%s\"", what, got, want);
}

/* The driver says what the library cannot know: a hash of its own source. */
static void the_identity_says_which_module_it_is(void)
{
    struct lab_device device;
    struct vfiomig_device *handle = lab_new(&device, 2, LAB_GROUP);
    struct vfiomig_identity identity = sent_identity(handle);
    char want[64] = "";
    FILE *file = fopen("/sys/module/mtty/srcversion", "r");

    if (file) {
        CHECK(fscanf(file, "%63s", want) == 1, "srcversion is empty");
        fclose(file);
    }
    printf("driver %s, version %s, srcversion %s\n", identity.driver, identity.driver_version,
           identity.driver_srcversion);
    expect_text("srcversion", identity.driver_srcversion, want);
    expect_text("firmware", identity.firmware, "");
    EXPECT(identity.protocol, VFIOMIG_PROTOCOL_V2);
    vfiomig_device_free(handle);
    lab_close(&device);
}

static void two_of_a_kind_fit_and_two_kinds_do_not(void)
{
    struct lab_device one, same, other;
    struct vfiomig_device *handles[3];
    struct vfiomig_identity a, b, c, none = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_verdict verdict = VFIOMIG_VERDICT_INIT;
    struct heard heard = { 0 };

    handles[0] = lab_new(&one, 2, LAB_GROUP);
    handles[1] = lab_new(&same, 2, LAB_GROUP);
    handles[2] = lab_new(&other, 1, LAB_GROUP);
    a = sent_identity(handles[0]);
    b = sent_identity(handles[1]);
    c = sent_identity(handles[2]);
    OK(vfiomig_compat_judge(&a, &b, NULL, hear, &heard, &verdict));
    EXPECT(verdict.compatible, 1);
    EXPECT(heard.refused, 0);
    CALL(vfiomig_compat_judge(&a, &c, NULL, hear, &heard, &verdict), -EXDEV);
    EXPECT(verdict.compatible, 0);
    EXPECT(heard.refused, 1);
    EXPECT(heard.first.field, VFIOMIG_FIELD_MDEV_TYPE);
    EXPECT(heard.first.code, VFIOMIG_COMPAT_DIFFERS);
    expect_text("the source's type", heard.first.source, "mtty-2");
    expect_text("the target's type", heard.first.target, "mtty-1");
    memset(&heard, 0, sizeof(heard));
    CALL(vfiomig_compat_judge(&none, &a, NULL, hear, &heard, &verdict), -EXDEV);
    EXPECT(heard.first.field, VFIOMIG_FIELD_BUS);
    EXPECT(heard.first.code, VFIOMIG_COMPAT_SOURCE_UNKNOWN);
    for (int i = 0; i < 3; i++)
        vfiomig_device_free(handles[i]);
    lab_close(&one);
    lab_close(&same);
    lab_close(&other);
}

/* The target refuses what it was told of. Nothing has happened on either side. */
static void what_does_not_fit_is_refused_before_anything_is_given_up(void)
{
    const enum lab_how *how = lab_arg();
    struct lab_device source, target;
    struct vfiomig_device *from = lab_new(&source, 2, *how), *to = lab_new(&target, 1, *how);
    struct vfiomig_identity told = sent_identity(from), none = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load = NULL;

    lab_fill(&source, SOURCE);
    lab_fill(&target, TARGET);
    options.source = &told;
    CALL(vfiomig_load_begin(to, &options, &load), -EXDEV);
    CHECK(strstr(vfiomig_error_message(), "mdev type mtty-2 (target: mtty-1)"),
          "the message is \"%s\"", vfiomig_error_message());
    printf("%s\n", vfiomig_error_message());
    options.source = &none;
    CALL(vfiomig_load_begin(to, &options, &load), -EXDEV);
    printf("%s\n", vfiomig_error_message());
    CHECK(!load, "a session came anyway");
    OK(vfiomig_device_get_failure(to, &failure));
    EXPECT(failure.code, 0);
    /* The guests of both have all that they had. */
    lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
    lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
    lab_expect_contents(&source, SOURCE);
    lab_expect_contents(&target, TARGET);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

/* And what fits arrives, unless the stream is of something else than was announced. */
static void what_was_announced_arrives(void)
{
    struct lab_device source, target;
    struct vfiomig_device *from = lab_new(&source, 2, LAB_GROUP), *to = lab_new(&target, 2, LAB_GROUP);
    struct vfiomig_identity told = sent_identity(from);
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct lab_bytes stream;

    lab_fill(&source, SOURCE);
    lab_fill(&target, TARGET);
    stream = lab_save(from, 0, 4096, VFIOMIG_ENDING_KEEP);
    options.source = &told;
    strcpy(told.kernel_release, "2.6.39");
    CALL(lab_load(to, &options, stream.data, stream.len, 0, NULL), -EXDEV);
    CHECK(strstr(vfiomig_error_message(), "announced"), "the message is \"%s\"",
          vfiomig_error_message());
    lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
    lab_expect_contents(&target, TARGET);
    told = sent_identity(from);
    OK(lab_load(to, &options, stream.data, stream.len, 7, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, SOURCE);
    lab_free(&stream);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

int main(void)
{
    static enum lab_how how;

    if (lab_boot() != 1)
        return 77;
    lab_run("compat-module", the_identity_says_which_module_it_is);
    lab_run("compat-judged", two_of_a_kind_fit_and_two_kinds_do_not);
    for (how = LAB_GROUP; how <= LAB_CDEV; how++)
        lab_run_arg(what_does_not_fit_is_refused_before_anything_is_given_up, &how,
                    "compat-refused-%s", lab_how_name(how));
    lab_run("compat-announced", what_was_announced_arrives);
    return lab_status();
}
