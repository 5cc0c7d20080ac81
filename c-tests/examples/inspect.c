/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of streams that are inspected. */
#include "examples.h"

/* EXAMPLE vfiomig_inspect_new vfiomig_inspect_push vfiomig_inspect_end */
static void show_entry(void *out,
                       const struct vfiomig_inspect_entry *e)
{
    if (e->problem)
        fprintf(out, "byte %llu: %s\n",
                (unsigned long long)e->offset, e->text);
}

/* A file of any length, with the memory of one frame. */
static int inspect_file(FILE *in, struct vfiomig_inspect **inspect)
{
    struct vfiomig_inspect_options options =
        VFIOMIG_INSPECT_OPTIONS_INIT;
    static char buf[1 << 20];
    size_t len;
    int r;

    options.entry = show_entry;
    options.entry_opaque = stderr;
    r = vfiomig_inspect_new(&options, inspect);
    while (r == 0 && (len = fread(buf, 1, sizeof buf, in)) > 0)
        r = vfiomig_inspect_push(*inspect, buf, len);
    if (r == 0 && ferror(in))
        r = -EIO;
    return r < 0 ? r : vfiomig_inspect_end(*inspect);
}
/* END */

/* EXAMPLE vfiomig_inspect_get_report vfiomig_inspect_get_identity vfiomig_inspect_free */
/* After vfiomig_inspect_end(). */
static int is_whole(struct vfiomig_inspect *inspect)
{
    struct vfiomig_inspect_report report =
        VFIOMIG_INSPECT_REPORT_INIT;
    struct vfiomig_identity id = VFIOMIG_IDENTITY_INIT;
    int r = vfiomig_inspect_get_report(inspect, &report);

    if (r == 0 && vfiomig_inspect_get_identity(inspect, &id) == 0)
        printf("of a device with the driver %s\n", id.driver);
    if (r == 0 && report.problem)
        printf("byte %llu: %s\n",
               (unsigned long long)report.offset, report.text);
    vfiomig_inspect_free(inspect);
    if (r < 0)
        return r;
    return report.verdict == VFIOMIG_INSPECT_VERDICT_WHOLE;
}
/* END */

static int verdict_of(unsigned char *bytes, size_t len)
{
    struct vfiomig_inspect *inspect = NULL;
    FILE *in = fmemopen(bytes, len, "r");
    CHECK(in);
    OK(inspect_file(in, &inspect));
    fclose(in);
    return is_whole(inspect);
}

static void a_file_is_inspected(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = stream_of(rig.dev);
    EQ(verdict_of(stream.data, stream.len), 1);
    stream.data[stream.len / 2] ^= 1;
    EQ(verdict_of(stream.data, stream.len), 0);
    stream.data[stream.len / 2] ^= 1;
    EQ(verdict_of(stream.data, stream.len - 1), 0);
    bytes_free(&stream);
    rig_free(&rig);
}

int main(void)
{
    RUN(a_file_is_inspected);
    return DONE();
}
