/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Streams are inspected: what they consist of, whether they are whole, where the damage is; and what
 * is called whole is what a load takes.
 */
#include "rig.h"

struct seen {
    int entries, problems, frames, fields, releases;
    uint64_t covered;           /* bytes of the stream, without gaps between entries */
    int gaps;
    uint32_t first_problem;
    uint64_t first_offset;
    struct bytes data;
    struct vfiomig_inspect *inspect;
    int busy;
    uint64_t last_number;
    char last_name[64];
    int refuse_field;
};

static void take_entry(void *opaque, const struct vfiomig_inspect_entry *entry)
{
    struct seen *seen = opaque;
    struct vfiomig_inspect_report report = VFIOMIG_INSPECT_REPORT_INIT;
    EQ(entry->struct_size, sizeof *entry);
    seen->entries++;
    seen->gaps += entry->offset != seen->covered;
    seen->covered = entry->offset + entry->length;
    if (entry->what == VFIOMIG_INSPECT_ENTRY_FRAME) {
        seen->frames++;
        if (entry->frame_type == 2 && entry->checked == VFIOMIG_INSPECT_CHECKED_RIGHT)
            bytes_add(&seen->data, entry->payload, entry->payload_len);
    }
    CHECK((entry->problem != 0) == (entry->text[0] != 0));
    CHECK((entry->problem != 0) == (entry->code != 0));
    if (entry->problem && seen->problems++ == 0) {
        seen->first_problem = entry->problem;
        seen->first_offset = entry->offset;
    }
    if (seen->inspect)
        seen->busy += vfiomig_inspect_get_report(seen->inspect, &report) == -EBUSY;
}

static int take_field(void *opaque, const struct vfiomig_decoded *field)
{
    struct seen *seen = opaque;
    seen->fields++;
    snprintf(seen->last_name, sizeof seen->last_name, "%s", field->name);
    if (field->kind == VFIOMIG_DECODED_NUMBER)
        seen->last_number = field->number;
    return seen->refuse_field;
}

static void let_go(void *opaque)
{
    ((struct seen *)opaque)->releases++;
}

static struct vfiomig_inspect_options options_of(struct seen *seen)
{
    struct vfiomig_inspect_options options = VFIOMIG_INSPECT_OPTIONS_INIT;
    *seen = (struct seen){ 0 };
    options.entry = take_entry;
    options.entry_opaque = seen;
    options.entry_release = let_go;
    options.field = take_field;
    options.field_opaque = seen;
    options.field_release = let_go;
    return options;
}

/* Inspects what may be in pieces. */
static struct vfiomig_inspect_report report_of(const struct vfiomig_inspect_options *options,
                                               const void *data, size_t len, size_t piece)
{
    struct vfiomig_inspect_report report = VFIOMIG_INSPECT_REPORT_INIT;
    struct vfiomig_inspect *inspect;
    OK(vfiomig_inspect_new(options, &inspect));
    for (size_t at = 0; at < len; at += piece)
        OK(vfiomig_inspect_push(inspect, (const char *)data + at, len - at < piece ? len - at : piece));
    OK(vfiomig_inspect_get_report(inspect, &report));
    EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_PENDING);
    OK(vfiomig_inspect_end(inspect));
    OK(vfiomig_inspect_get_report(inspect, &report));
    EQ(vfiomig_inspect_push(inspect, "x", 1), -EINVAL);
    EQ(vfiomig_inspect_end(inspect), -EINVAL);
    vfiomig_inspect_free(inspect);
    return report;
}

/* 0, or what a load of this stream returns. */
static int load_of(const struct vfiomig_sim_options *size, const struct bytes *stream)
{
    struct rig to = rig_target(size);
    struct vfiomig_load *load;
    int r;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    r = push_all(load, stream, SIZE_MAX);
    if (r >= 0)
        r = vfiomig_load_commit(load);
    vfiomig_load_free(load);
    rig_free(&to);
    return r < 0 ? r : 0;
}

static void a_whole_stream_is_what_it_consists_of(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = stream_of(rig.dev);
    struct seen seen;
    struct vfiomig_inspect_options options = options_of(&seen);
    struct vfiomig_inspect_report report = report_of(&options, stream.data, stream.len, 1000);
    EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_WHOLE);
    EQ(report.code, 0);
    EQ(report.problems, 0);
    EQ(report.bytes, stream.len);
    EQ(report.frames, seen.frames);
    EQ(report.data_bytes, seen.data.len);
    EQ(seen.covered, stream.len);
    EQ(seen.gaps, 0);
    EQ(seen.releases, 2);
    CHECK(report.flags & VFIOMIG_INSPECT_ENDED && report.flags & VFIOMIG_INSPECT_HAS_PREAMBLE);
    EQ(report.major, 1);
    EQ(load_of(NULL, &stream), 0);
    bytes_free(&seen.data);
    bytes_free(&stream);
    rig_free(&rig);
}

static void damage_is_found_where_it_is_and_what_is_whole_is_what_a_load_takes(void)
{
    struct vfiomig_sim_options small = rig_options();
    small.state_size = 300;
    struct rig rig = rig_new(&small, NULL);
    struct bytes stream = stream_of(rig.dev);
    struct seen seen;
    for (size_t at = 0; at < stream.len; at++) {
        struct vfiomig_inspect_options options = options_of(&seen);
        stream.data[at] ^= 0x10;
        struct vfiomig_inspect_report report = report_of(&options, stream.data, stream.len, SIZE_MAX / 2);
        CHECK(report.verdict != VFIOMIG_INSPECT_VERDICT_WHOLE);
        CHECK(report.problems > 0 && report.problem == seen.first_problem);
        CHECK(report.offset == seen.first_offset && report.offset <= at);
        EQ(seen.problems, report.problems);
        EQ(report.code, load_of(&small, &stream));
        stream.data[at] ^= 0x10;
        bytes_free(&seen.data);
    }
    for (size_t len = 0; len < stream.len; len += 13) {
        struct bytes front = { stream.data, len, len };
        struct vfiomig_inspect_report report = report_of(NULL, stream.data, len, 7);
        EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_INCOMPLETE);
        EQ(report.code, -ENODATA);
        EQ(load_of(&small, &front), -ENODATA);
    }
    bytes_free(&stream);
    rig_free(&rig);
}

/* A decoder that names each byte, until it is told to stop. */
struct namer {
    int releases, restarts, ends, refuse;
    uint64_t bytes;
    int refused_put;
};

static int name_bytes(void *opaque, const void *data, size_t len, uint64_t offset,
                      vfiomig_decoded_fn put, void *put_opaque)
{
    struct namer *namer = opaque;
    const uint8_t *bytes = data;
    if (offset != namer->bytes)
        return -EPROTO;
    namer->bytes += len;
    for (size_t i = 0; i < len && i < 4; i++) {
        struct vfiomig_decoded field = VFIOMIG_DECODED_INIT;
        char name[32];
        snprintf(name, sizeof name, "byte%llu", (unsigned long long)(offset + i));
        field.kind = VFIOMIG_DECODED_NUMBER;
        field.name = name;
        field.offset = offset + i;
        field.bits = 8;
        field.number = bytes[i];
        EQ(put(put_opaque, &field), 0);
        field.name = "two words";
        EQ(put(put_opaque, &field), -EINVAL);
        field.name = NULL;
        EQ(put(put_opaque, &field), -EFAULT);
        field.name = name;
        field.kind = 4;
        EQ(put(put_opaque, &field), -EINVAL);
        EQ(put(put_opaque, NULL), -EFAULT);
        EQ(put(NULL, &field), -EFAULT);
        namer->refused_put++;
    }
    return namer->refuse;
}

static int start_again(void *opaque)
{
    struct namer *namer = opaque;
    namer->restarts++;
    namer->bytes = 0;
    return 0;
}

static int come_to_an_end(void *opaque, uint64_t len, vfiomig_decoded_fn put, void *put_opaque)
{
    struct namer *namer = opaque;
    struct vfiomig_decoded field = VFIOMIG_DECODED_INIT;
    EQ(len, namer->bytes);
    namer->ends++;
    field.kind = VFIOMIG_DECODED_TEXT;
    field.name = "last";
    field.bytes = "text";
    field.bytes_len = 4;
    return put(put_opaque, &field);
}

static void let_namer_go(void *opaque)
{
    ((struct namer *)opaque)->releases++;
}

static struct vfiomig_decoder_ops decoder_of(const char *driver)
{
    struct vfiomig_decoder_ops ops = VFIOMIG_DECODER_OPS_INIT;
    snprintf(ops.driver, sizeof ops.driver, "%s", driver);
    ops.data = name_bytes;
    ops.restart = start_again;
    ops.end = come_to_an_end;
    ops.release = let_namer_go;
    return ops;
}

static void a_decoder_names_what_is_in_the_data(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = stream_of(rig.dev);
    struct seen seen;
    struct namer namer = { 0 };
    struct vfiomig_inspect_options options = options_of(&seen);
    struct vfiomig_decoder_ops ops = decoder_of("");
    options.decoder = &ops;
    options.decoder_opaque = &namer;
    struct vfiomig_inspect_report report = report_of(&options, stream.data, stream.len, 777);
    EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_WHOLE);
    EQ(report.decoder_code, 0);
    EQ(namer.bytes, seen.data.len);
    EQ(namer.ends, 1);
    EQ(namer.releases, 1);
    CHECK(seen.fields > 4 && namer.refused_put == seen.fields - 1);
    HAS(seen.last_name, "last");
    bytes_free(&seen.data);
    /* One that gives up says nothing of the stream. */
    namer = (struct namer){ .refuse = -EPROTO };
    options = options_of(&seen);
    options.decoder = &ops;
    options.decoder_opaque = &namer;
    report = report_of(&options, stream.data, stream.len, SIZE_MAX / 2);
    EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_WHOLE);
    EQ(report.decoder_code, -EPROTO);
    EQ(namer.ends, 0);
    bytes_free(&seen.data);
    /* For another driver, it is not asked. */
    namer = (struct namer){ 0 };
    options = options_of(&seen);
    ops = decoder_of("another");
    options.decoder = &ops;
    options.decoder_opaque = &namer;
    report_of(&options, stream.data, stream.len, SIZE_MAX / 2);
    EQ(namer.bytes, 0);
    EQ(namer.releases, 1);
    bytes_free(&seen.data);
    bytes_free(&stream);
    rig_free(&rig);
}

static int give_key(void *opaque, uint32_t id, uint8_t *key)
{
    (void)id;
    memset(key, *(int *)opaque, 32);
    return 0;
}

static void tags_are_verified_with_the_key_and_not_without(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save_options save_options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_inspect_options options = VFIOMIG_INSPECT_OPTIONS_INIT;
    struct vfiomig_auth auth = VFIOMIG_AUTH_INIT;
    struct bytes stream = { NULL, 0, 0 };
    int key = 5;
    auth.get_key = give_key;
    auth.get_key_opaque = &key;
    save_options.auth = &auth;
    struct vfiomig_save *save = save_all(rig.dev, &save_options, 1 << 17, &stream);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    struct vfiomig_inspect_report report = report_of(NULL, stream.data, stream.len, 5000);
    EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_UNVERIFIED);
    EQ(report.tags, VFIOMIG_INSPECT_TAGS_NO_KEY);
    EQ(report.code, -EPERM);
    EQ(report.problems, 0);
    options.auth = &auth;
    report = report_of(&options, stream.data, stream.len, 5000);
    EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_WHOLE);
    EQ(report.tags, VFIOMIG_INSPECT_TAGS_VERIFIED);
    stream.data[stream.len / 2] ^= 1;
    report = report_of(&options, stream.data, stream.len, 5000);
    EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_DAMAGED);
    EQ(report.problem, VFIOMIG_INSPECT_PROBLEM_TAG);
    stream.data[stream.len / 2] ^= 1;
    key = 6;
    report = report_of(&options, stream.data, stream.len, 5000);
    EQ(report.verdict, VFIOMIG_INSPECT_VERDICT_REFUSED);
    EQ(report.problem, VFIOMIG_INSPECT_PROBLEM_KEY);
    bytes_free(&stream);
    rig_free(&rig);
}

static void what_a_stream_is_of_is_known_before_its_end(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = stream_of(rig.dev);
    struct vfiomig_identity id = VFIOMIG_IDENTITY_INIT, own = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_inspect *inspect;
    struct seen seen;
    struct vfiomig_inspect_options options = options_of(&seen);
    OK(vfiomig_inspect_new(&options, &inspect));
    seen.inspect = inspect;
    EQ(vfiomig_inspect_get_identity(inspect, &id), -ENODATA);
    OK(vfiomig_inspect_push(inspect, stream.data, stream.len / 2));
    CHECK(seen.busy > 0);
    OK(vfiomig_inspect_get_identity(inspect, &id));
    OK(vfiomig_device_get_identity(rig.dev, &own));
    CHECK(strcmp(id.driver, own.driver) == 0 && strcmp(id.bus, own.bus) == 0);
    vfiomig_inspect_free(inspect);
    EQ(seen.releases, 2);
    vfiomig_inspect_free(NULL);
    bytes_free(&seen.data);
    bytes_free(&stream);
    rig_free(&rig);
}

int main(void)
{
    RUN(a_whole_stream_is_what_it_consists_of);
    RUN(damage_is_found_where_it_is_and_what_is_whole_is_what_a_load_takes);
    RUN(a_decoder_names_what_is_in_the_data);
    RUN(tags_are_verified_with_the_key_and_not_without);
    RUN(what_a_stream_is_of_is_known_before_its_end);
    return DONE();
}
