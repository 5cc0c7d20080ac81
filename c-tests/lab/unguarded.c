/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What a stream does to the kernel that passes all of mtty's own checks, when the library's guard is
 * left out: the control of guards.c, in a machine of its own, which it ends (unguarded.conf).
 *
 * The FIFO of a port has 16 bytes, and mtty takes where to read and to write in it from the stream: up
 * to 255 bytes on, where the kernel's own mutexes and pointers are. So a guest whose device was loaded
 * reads them, byte by byte, through its UART; and then writes one.
 */
#include "lab.h"

#include <fcntl.h>

#define RX_TX 0
#define HEAD 24
#define TAIL 25
#define COUNT 26
#define MAX_FIFO_SIZE 33
/* From the first port's FIFO on, in bytes. */
#define SECOND_PORT_END (2 * LAB_MTTY_PORT - 8)

static struct lab_device source, target;
static struct vfiomig_device *from, *to;
static struct lab_bytes good, data;

/* Loads a state whose first port reads and writes there. */
static void load(unsigned head, unsigned tail)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    unsigned char *port = data.data + LAB_MTTY_HEADER;
    struct lab_bytes stream;

    memset(port, 0, LAB_MTTY_PORT);
    port[HEAD] = (unsigned char)head;
    port[TAIL] = (unsigned char)tail;
    port[COUNT] = 1;
    port[MAX_FIFO_SIZE] = 16;
    options.flags = VFIOMIG_LOAD_NO_GUARD;
    stream = lab_reframe(&good, data.data, data.len, 4096);
    OK(lab_load(to, &options, stream.data, stream.len, 0, NULL));
    OK(vfiomig_device_run(to));
    lab_free(&stream);
}

static uint64_t word(const unsigned char *bytes)
{
    uint64_t value;

    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* Of the kernel's, with page tables of four or of five levels. */
static int is_pointer(uint64_t value)
{
    return value >> 56 == 0xff;
}

int main(void)
{
    unsigned char memory[256] = { 0 };
    unsigned leaked = 0, files = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    from = lab_new(&source, 2, LAB_GROUP);
    to = lab_new(&target, 2, LAB_GROUP);
    good = lab_save(from, VFIOMIG_SAVE_NO_PRE_COPY, 4096, VFIOMIG_ENDING_KEEP);
    data = lab_payload(&good);
    for (unsigned at = 0; at < sizeof(memory); at++) {
        load(0 == at, at); /* any head but the tail: not empty */
        CHECK(pread(target.fd, &memory[at], 1, RX_TX) == 1, "reading at %u: %s", at, strerror(errno));
    }
    for (unsigned at = 0; at + 8 <= sizeof(memory); at += 8) {
        uint64_t here = word(memory + at);

        leaked += is_pointer(here);
        printf("at %3u: %016llx\n", at, (unsigned long long)here);
        /* Two ports, and state RUNNING. Before it a mutex, which begins after both ports, and 24 bytes;
         * after it two mutexes, whose size depends on the kernel, and the pointers to the files. */
        if (at >= SECOND_PORT_END + 24 && here == 0x200000002)
            files = at + 8 + 2 * (at - 24 - SECOND_PORT_END);
    }
    printf("| the guest has read %u pointers of the kernel's\n", leaked);
    CHECK(leaked > 0, "no pointer is to be seen");
    CHECK(files > 0 && files + 7 <= 255, "the pointers to the files are not to be seen");
    printf("the guest writes to byte %u\n", files + 7);
    fflush(stdout);
    load(files + 7, 0);
    {
        unsigned char byte = 0x41;

        CHECK(pwrite(target.fd, &byte, 1, RX_TX) == 1, "writing: %s", strerror(errno));
    }
    /* Whatever ends the migration's files now follows what the guest has written. */
    lab_raw_reset(target.fd);
    (void)lab_raw_set_state(target.fd, VFIOMIG_STATE_STOP, &(int){ 0 });
    close(target.fd);
    puts("nothing has happened");
    return 1;
}
