/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The stream of a real mtty is inspected: what the guest wrote to its registers appears under their
 * names, and where the driver says nothing wrong, nothing is suspect.
 */
#include "lab.h"

#define MOST 100

struct fields {
    int count, suspect;
    struct {
        char name[64];
        unsigned long long number;
        unsigned char bytes[16];
        size_t len;
    } field[MOST];
};

static int take_field(void *opaque, const struct vfiomig_decoded *field)
{
    struct fields *fields = opaque;

    CHECK(fields->count < MOST, "more than %d fields", MOST);
    snprintf(fields->field[fields->count].name, sizeof fields->field->name, "%s", field->name);
    fields->field[fields->count].number = field->number;
    fields->field[fields->count].len = (size_t)field->bytes_len;
    if (field->bytes_len > 0 && field->bytes_len <= sizeof fields->field->bytes)
        memcpy(fields->field[fields->count].bytes, field->bytes, (size_t)field->bytes_len);
    fields->count++;
    fields->suspect += (field->flags & VFIOMIG_DECODED_SUSPECT) != 0;
    return 0;
}

static int find(const struct fields *fields, const char *name)
{
    for (int i = 0; i < fields->count; i++)
        if (strcmp(fields->field[i].name, name) == 0)
            return i;
    FAIL("no field is called %s", name);
}

static void expect(const struct fields *fields, const char *name, unsigned long long number)
{
    unsigned long long got = fields->field[find(fields, name)].number;

    CHECK(got == number, "%s is %#llx and not %#llx", name, got, number);
}

static void put(const struct lab_device *device, unsigned port, unsigned reg, unsigned char value)
{
    off_t at = (off_t)((uint64_t)port << 40 | reg);

    CHECK(pwrite(device->fd, &value, 1, at) == 1, "writing register %u: %s", reg, strerror(errno));
}

static struct vfiomig_inspect_report inspect(const struct lab_bytes *stream, struct fields *fields)
{
    struct vfiomig_inspect_options options = VFIOMIG_INSPECT_OPTIONS_INIT;
    struct vfiomig_inspect_report report = VFIOMIG_INSPECT_REPORT_INIT;
    struct vfiomig_inspect *handle;

    options.field = take_field;
    options.field_opaque = fields;
    OK(vfiomig_inspect_new(&options, &handle));
    for (size_t at = 0; at < stream->len; at += 11)
        OK(vfiomig_inspect_push(handle, stream->data + at,
                                stream->len - at < 11 ? stream->len - at : 11));
    OK(vfiomig_inspect_end(handle));
    OK(vfiomig_inspect_get_report(handle, &report));
    vfiomig_inspect_free(handle);
    return report;
}

/* The ports of an mtty-2: other values in each. */
static void registers_have_names(void)
{
    const enum lab_how *how = lab_arg();
    struct lab_device device;
    struct vfiomig_device *handle = lab_new(&device, 2, *how);
    static const char sent[2][8] = { "abc", "defgh" };
    char name[64];

    for (unsigned port = 0; port < 2; port++) {
        put(&device, port, 3, 0);
        put(&device, port, 2, 7); /* FIFOs on, and empty */
        put(&device, port, 2, 1);
        for (const char *at = sent[port]; *at; at++)
            put(&device, port, 0, (unsigned char)*at);
        put(&device, port, 1, (unsigned char)(0x05 + port));
        put(&device, port, 4, (unsigned char)(0x0a + port));
        put(&device, port, 7, (unsigned char)(0xc3 + port));
        put(&device, port, 3, 0x83); /* DLAB, which shows the divisor */
        put(&device, port, 0, (unsigned char)(0x34 + port));
        put(&device, port, 1, 0x12);
    }
    struct lab_bytes stream = lab_save(handle, 0, 4096, VFIOMIG_ENDING_KEEP);
    struct fields fields = { 0 };
    struct vfiomig_inspect_report report = inspect(&stream, &fields);
    EXPECT(report.verdict, VFIOMIG_INSPECT_VERDICT_WHOLE);
    EXPECT(report.decoder_code, 0);
    EXPECT(report.data_bytes, LAB_MTTY_SIZE(2));
    EXPECT(fields.count, 5 + 2 * 20);
    EXPECT(fields.suspect, 0);
    expect(&fields, "header.magic", 0x7e9d09898c3e2c4e);
    expect(&fields, "header.nr_ports", 2);
    for (unsigned port = 0; port < 2; port++) {
        const struct {
            const char *name;
            unsigned long long number;
        } wanted[] = {
            { "uart.ier", 0x05 + port }, { "uart.mcr", 0x0a + port }, { "uart.scr", 0xc3 + port },
            { "uart.lcr", 0x83 },        { "dlab", 1 },               { "divisor", 0x1234 + port },
            { "fcr", 1 },                { "max_fifo_size", 16 },     { "overrun", 0 },
            { "fifo.count", strlen(sent[port]) },
        };
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
            snprintf(name, sizeof name, "port%u.%s", port, wanted[i].name);
            expect(&fields, name, wanted[i].number);
        }
        snprintf(name, sizeof name, "port%u.fifo.tail", port);
        unsigned tail = (unsigned)fields.field[find(&fields, name)].number;
        snprintf(name, sizeof name, "port%u.fifo.data", port);
        int data = find(&fields, name);
        EXPECT(fields.field[data].len, 16);
        for (size_t i = 0; i < strlen(sent[port]); i++)
            EXPECT(fields.field[data].bytes[(tail + i) % 16], sent[port][i]);
    }
    lab_free(&stream);
    vfiomig_device_free(handle);
    lab_close(&device);
}

/* What a real stream says while it is damaged, and what a real driver then says. */
static void damage_is_found(void)
{
    const enum lab_how *how = lab_arg();
    struct lab_device source, target;
    struct vfiomig_device *from = lab_new(&source, 1, *how), *to = lab_new(&target, 1, *how);
    lab_fill(&source, 5);
    struct lab_bytes stream = lab_save(from, 0, 4096, VFIOMIG_ENDING_KEEP);
    for (size_t at = 0; at < stream.len; at += 7) {
        struct fields fields = { 0 };
        stream.data[at] ^= 0x20;
        struct vfiomig_inspect_report report = inspect(&stream, &fields);
        CHECK(report.verdict != VFIOMIG_INSPECT_VERDICT_WHOLE, "byte %zu", at);
        CHECK(report.offset <= at, "byte %zu, found at %llu", at, (unsigned long long)report.offset);
        EXPECT(lab_load(to, NULL, stream.data, stream.len, 0, NULL), report.code);
        stream.data[at] ^= 0x20;
    }
    OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
    lab_free(&stream);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

int main(void)
{
    static const enum lab_how hows[] = { LAB_GROUP, LAB_CDEV };

    if (lab_boot() != 1)
        return 77;
    for (size_t i = 0; i < 2; i++) {
        lab_run_arg(registers_have_names, &hows[i], "inspect-registers-%s", lab_how_name(hows[i]));
        lab_run_arg(damage_is_found, &hows[i], "inspect-damage-%s", lab_how_name(hows[i]));
    }
    return lab_status();
}
