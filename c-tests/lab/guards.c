/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The library's guard for mtty on the kernel's own mtty: what a guest can have left in the device
 * passes, and what mtty's own checks let through and should not is refused before the driver has it.
 *
 * unguarded.c is the control: it shows what such a state does without the guard.
 */
#include "lab.h"

#define UNTOUCHED 7

static struct lab_device source, target;
static struct vfiomig_device *from, *to;

static void set_up(unsigned ports)
{
    from = lab_new(&source, ports, LAB_GROUP);
    to = lab_new(&target, ports, LAB_GROUP);
    lab_fill(&target, UNTOUCHED);
}

static void tear_down(void)
{
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    lab_close(&source);
    lab_close(&target);
}

/* Contents of every kind, with bytes in the FIFOs, which begin anywhere in the ring. */
static void real_traffic_passes(void)
{
    static const size_t pieces[] = { 0, 1, 7, 60 };

    for (unsigned ports = 1; ports <= 2; ports++) {
        set_up(ports);
        for (unsigned seed = 0; seed < 60; seed++) {
            uint32_t flags = seed % 2 ? VFIOMIG_SAVE_NO_PRE_COPY : 0;
            struct lab_bytes stream;

            lab_fill(&source, seed);
            stream = lab_save(from, flags, 4096, VFIOMIG_ENDING_KEEP);
            OK(lab_load(to, NULL, stream.data, stream.len, pieces[seed % 4], NULL));
            OK(vfiomig_device_run(to));
            lab_expect_contents(&target, seed);
            lab_free(&stream);
        }
        tear_down();
    }
}

/* A member of a port, and what mtty never has there. */
static const struct {
    const char *name;
    size_t at;
    unsigned char value;
} wrong[] = {
    { "head", 24, 16 },     { "head", 24, 255 },    { "tail", 25, 16 },     { "tail", 25, 200 },
    { "count", 26, 17 },    { "count", 26, 255 },   { "dlab", 27, 2 },      { "overrun", 28, 255 },
    { "FIFO's size", 33, 0 }, { "FIFO's size", 33, 255 }, { "trigger level", 34, 3 },
};

static void what_mtty_does_not_check_is_refused(void)
{
    static const size_t pieces[] = { 4096, LAB_MTTY_HEADER, 1 };
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct lab_bytes good, data;

    set_up(2);
    lab_fill(&source, 3);
    good = lab_save(from, 0, 4096, VFIOMIG_ENDING_KEEP);
    data = lab_payload(&good);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        for (size_t port = 0; port < 2; port++)
            for (size_t p = 0; p < 3; p++) {
                size_t at = LAB_MTTY_HEADER + port * LAB_MTTY_PORT + wrong[i].at;
                unsigned char was = data.data[at];
                struct lab_bytes stream;

                data.data[at] = wrong[i].value;
                stream = lab_reframe(&good, data.data, data.len, pieces[p]);
                data.data[at] = was;
                CALL(lab_load(to, NULL, stream.data, stream.len, 0, &failure), -EPROTO);
                CHECK(strstr(vfiomig_error_message(), "mtty"), "\"%s\"", vfiomig_error_message());
                EXPECT(failure.operation, VFIOMIG_OP_STREAM);
                EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
                EXPECT(lab_raw_state(target.fd), VFIOMIG_STATE_RUNNING);
                lab_free(&stream);
            }
    lab_expect_contents(&target, UNTOUCHED);
    /* The source has kept its guest, and the device takes a good stream. */
    lab_expect_contents(&source, 3);
    OK(lab_load(to, NULL, good.data, good.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, 3);
    lab_free(&good);
    lab_free(&data);
    tear_down();
}

/* mtty itself has nothing against it: what is refused above is refused by nobody else. */
static void mttys_own_checks_let_it_through(void)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct lab_bytes good, data, stream;

    set_up(2);
    lab_fill(&source, 3);
    good = lab_save(from, 0, 4096, VFIOMIG_ENDING_KEEP);
    data = lab_payload(&good);
    options.flags = VFIOMIG_LOAD_NO_GUARD;
    /* Beyond the FIFO, and empty, so that nothing of it is used in this machine. */
    data.data[LAB_MTTY_HEADER + 24] = data.data[LAB_MTTY_HEADER + 25] = 200;
    stream = lab_reframe(&good, data.data, data.len, 4096);
    CALL(lab_load(to, NULL, stream.data, stream.len, 0, NULL), -EPROTO);
    OK(lab_load(to, &options, stream.data, stream.len, 0, NULL));
    /* A good state goes over it before the device runs. */
    OK(lab_load(to, NULL, good.data, good.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_expect_contents(&target, 3);
    lab_free(&stream);
    lab_free(&good);
    lab_free(&data);
    tear_down();
}

int main(void)
{
    if (lab_boot() != 1)
        return 77;
    lab_run("guards-real-traffic", real_traffic_passes);
    lab_run("guards-hostile-ports", what_mtty_does_not_check_is_refused);
    lab_run("guards-mtty-checks-nothing", mttys_own_checks_let_it_through);
    return lab_status();
}
