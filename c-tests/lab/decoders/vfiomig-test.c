/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A decoder for `vfiomig inspect --decoder`: names what is in the state of the test device of lab/kmod.
 * Its stream is a header, a record for each block of the contents, again for those that have changed
 * since, and a last record with the registers. All numbers are little-endian.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <vfiomig.h>

#define HEADER_LEN 48
#define RECORD_LEN 32
#define END_LEN 72
#define STREAM_MAGIC 0x3174736574676d76ull
#define RECORD_MAGIC 0x63657276ull

enum { RECORD_BLOCK = 1, RECORD_END = 2 };

enum part { HEADER, RECORD, CONTENTS, END, NOTHING };

struct reader {
    enum part part;
    uint64_t offset; /* where this part begins */
    uint64_t have;   /* bytes of it that have come */
    uint64_t length; /* of the contents that a record announces */
    uint64_t blocks, bytes;
    unsigned char buf[END_LEN];
};

struct sink {
    vfiomig_decoded_fn put;
    void *opaque;
    uint64_t offset; /* of the part that the fields are in */
    const unsigned char *buf;
};

static uint64_t number(const unsigned char *at, unsigned len)
{
    uint64_t value = 0;

    while (len--)
        value = value << 8 | at[len];
    return value;
}

static int put(const struct sink *sink, const char *name, unsigned at, unsigned len, uint32_t flags)
{
    struct vfiomig_decoded field = VFIOMIG_DECODED_INIT;

    field.kind = len > 8 ? VFIOMIG_DECODED_BYTES : VFIOMIG_DECODED_NUMBER;
    field.name = name;
    field.offset = sink->offset + at;
    field.bits = 8 * len;
    field.flags = flags;
    if (len > 8) {
        field.bytes = sink->buf + at;
        field.bytes_len = len;
    } else {
        field.number = number(sink->buf + at, len);
    }
    return sink->put(sink->opaque, &field);
}

/* A number that is in no place of its own. */
static int put_count(const struct sink *sink, const char *name, uint64_t value, const char *description)
{
    struct vfiomig_decoded field = VFIOMIG_DECODED_INIT;

    field.kind = VFIOMIG_DECODED_NUMBER;
    field.name = name;
    field.description = description;
    field.offset = sink->offset;
    field.number = value;
    return sink->put(sink->opaque, &field);
}

static int header(struct reader *reader, const struct sink *sink)
{
    static const struct { const char *name; unsigned at, len; uint32_t flags; } fields[] = {
        { "header.magic", 0, 8, VFIOMIG_DECODED_HEX }, { "header.version", 8, 4, 0 },
        { "header.block", 12, 4, 0 },                  { "header.state_size", 16, 8, 0 },
        { "header.seed", 24, 8, 0 },                   { "header.reserved", 32, 8, VFIOMIG_DECODED_PADDING },
        { "header.check", 40, 8, VFIOMIG_DECODED_HEX },
    };
    int r = 0;

    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields) && !r; i++)
        r = put(sink, fields[i].name, fields[i].at, fields[i].len, fields[i].flags);
    if (!r && number(reader->buf, 8) != STREAM_MAGIC)
        r = -EPROTO;
    reader->part = RECORD;
    return r;
}

static int record(struct reader *reader)
{
    uint64_t type = number(reader->buf + 4, 4);

    reader->length = number(reader->buf + 20, 4);
    if (number(reader->buf, 4) != RECORD_MAGIC)
        return -EPROTO;
    if (type == RECORD_BLOCK && reader->length) {
        reader->part = CONTENTS;
        reader->blocks++;
        reader->bytes += reader->length;
        return 0;
    }
    reader->part = END;
    return type == RECORD_END && reader->length == END_LEN ? 0 : -EPROTO;
}

static int end_record(struct reader *reader, const struct sink *sink)
{
    int r = put(sink, "end.digest", 0, 8, VFIOMIG_DECODED_HEX);

    if (!r)
        r = put(sink, "end.scratch", 8, 64, 0);
    if (!r)
        r = put_count(sink, "records", reader->blocks, "of blocks, some of them more than once");
    if (!r)
        r = put_count(sink, "bytes", reader->bytes, "in them");
    reader->part = NOTHING;
    return r;
}

static uint64_t length_of(const struct reader *reader)
{
    switch (reader->part) {
    case HEADER:
        return HEADER_LEN;
    case RECORD:
        return RECORD_LEN;
    case CONTENTS:
        return reader->length;
    case END:
        return END_LEN;
    default:
        return 0;
    }
}

static int data(void *opaque, const void *from, size_t len, uint64_t offset, vfiomig_decoded_fn out,
                void *out_opaque)
{
    struct reader *reader = opaque;
    const unsigned char *bytes = from;
    int r = 0;

    while (len && !r) {
        uint64_t left = length_of(reader) - reader->have;
        size_t n = left < len ? (size_t)left : len;
        struct sink sink = { out, out_opaque, reader->offset, reader->buf };

        if (reader->part == NOTHING)
            return -EPROTO;
        if (reader->part != CONTENTS)
            memcpy(reader->buf + reader->have, bytes, n);
        reader->have += n;
        bytes += n;
        len -= n;
        offset += n;
        if (n < left)
            return 0;
        if (reader->part == HEADER)
            r = header(reader, &sink);
        else if (reader->part == RECORD)
            r = record(reader);
        else if (reader->part == END)
            r = end_record(reader, &sink);
        else
            reader->part = RECORD;
        reader->offset = offset;
        reader->have = 0;
    }
    return r;
}

static int restart(void *opaque)
{
    memset(opaque, 0, sizeof(struct reader));
    return 0;
}

static int end(void *opaque, uint64_t len, vfiomig_decoded_fn out, void *out_opaque)
{
    const struct reader *reader = opaque;

    (void)len, (void)out, (void)out_opaque;
    return reader->part == NOTHING ? 0 : -ENODATA;
}

const struct vfiomig_decoder_ops *decoder_for_vfiomig(void **opaque);
const struct vfiomig_decoder_ops *decoder_for_vfiomig(void **opaque)
{
    static const struct vfiomig_decoder_ops ops = {
        .struct_size = sizeof(ops),
        .driver = "vfiomig_test",
        .data = data,
        .restart = restart,
        .end = end,
        .release = free,
    };

    *opaque = calloc(1, sizeof(struct reader));
    return *opaque ? &ops : NULL;
}
