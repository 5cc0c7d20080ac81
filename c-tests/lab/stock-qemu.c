/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The tool on files that a stock QEMU wrote: Debian's, unpatched, with a guest that has two real devices, an
 * mtty and a test device, and that is migrated into a file. The tool finds both devices in it, names what they
 * hold, says what differs, and makes streams of them that other devices take.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "kmod.h"
#include "tool.h"

#define PROGRAM "/usr/bin/qemu-system-x86_64"
#define ROOT "/qemu"
#define DECODER "/lab/decoders/vfiomig-test.so"
/* Of this size, a test device sends its state in several pieces. */
#define STATE_SIZE (3u << 20)
/* Where QEMU puts the devices, and what it calls them therefore. */
#define MTTY "0000:00:05.0/vfio"
#define TEST "0000:00:06.0/vfio"

enum { FIRST, SECOND, FILES };

static const char *const files[FILES] = { "/tmp/first.qemu", "/tmp/second.qemu" };

/* What the devices held when QEMU wrote a file; the first case leaves it to the others. */
struct held {
    int written;
    unsigned char scratch[2]; /* mtty's register of that name, by port */
    unsigned long long digest;
};

static struct held *held;

/* --- a QEMU ---------------------------------------------------------------------------------- */

struct qemu {
    pid_t pid;
    FILE *to, *from; /* its QMP */
};

#define LOG "/tmp/stock-qemu.log"

static void run_qemu(const char *mtty, const char *test)
{
    /* If the case fails, and so ends, its devices are needed. */
    CHECK(!prctl(PR_SET_PDEATHSIG, SIGKILL) && !chroot(ROOT) && !chdir("/"), "%s: %s", ROOT, strerror(errno));
    unsetenv("LD_LIBRARY_PATH");
    execl(PROGRAM, PROGRAM, "-machine", "q35", "-accel", "tcg,tb-size=32", "-m", "64", "-no-user-config",
          "-nodefaults", "-display", "none", "-qmp", "stdio", "-device", mtty, "-device", test, NULL);
    _exit(126);
}

static void device_argument(char *to, size_t room, const struct lab_device *device, const char *at)
{
    unsigned slot = (unsigned)strtoul(strchr(strchr(at, ':') + 1, ':') + 1, NULL, 16);

    snprintf(to, room, "vfio-pci,sysfsdev=%s,addr=%u,enable-migration=on", device->sysfs, slot);
}

static void show_log(void)
{
    struct lab_bytes log = lab_read_file(LOG);

    printf("QEMU said: %.*s\n", (int)log.len, (const char *)log.data);
    lab_free(&log);
}

/* The next line that has this in it. */
static const char *wait_for(struct qemu *qemu, const char *what, const char *unless)
{
    static char line[65536];

    while (fgets(line, sizeof(line), qemu->from)) {
        printf("  %s", line);
        if (unless && strstr(line, unless))
            FAIL("QEMU answered %.300s", line);
        if (strstr(line, what))
            return line;
    }
    show_log();
    FAIL("QEMU ended before it said %s", what);
}

static const char *command(struct qemu *qemu, const char *text)
{
    printf("  %s\n", text);
    fprintf(qemu->to, "%s\n", text);
    fflush(qemu->to);
    return wait_for(qemu, "\"return\":", "\"error\":");
}

static struct qemu start(const struct lab_device *mtty, const struct lab_device *test)
{
    char first[256], second[256];
    struct qemu qemu;
    int in[2], out[2], log;

    device_argument(first, sizeof(first), mtty, MTTY);
    device_argument(second, sizeof(second), test, TEST);
    log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(log >= 0 && !pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC), "%s", strerror(errno));
    fflush(NULL);
    qemu.pid = fork();
    CHECK(qemu.pid >= 0, "fork: %s", strerror(errno));
    if (qemu.pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(log, 2);
        run_qemu(first, second);
    }
    close(in[0]);
    close(out[1]);
    close(log);
    qemu.to = fdopen(in[1], "w");
    qemu.from = fdopen(out[0], "r");
    CHECK(qemu.to && qemu.from, "%s", strerror(errno));
    wait_for(&qemu, "\"QMP\":", NULL);
    command(&qemu, "{\"execute\": \"qmp_capabilities\"}");
    return qemu;
}

static void quit(struct qemu *qemu)
{
    int status;

    command(qemu, "{\"execute\": \"quit\"}");
    EXPECT(waitpid(qemu->pid, &status, 0), qemu->pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "QEMU ended with status %#x", status);
    fclose(qemu->to);
    fclose(qemu->from);
}

/* The firmware has found the devices when it has given them addresses. */
static void wait_for_guest(struct qemu *qemu)
{
    static const char ask[] = "{\"execute\": \"human-monitor-command\", "
                              "\"arguments\": {\"command-line\": \"info pci\"}}";
    uint64_t until = kmod_now_ms() + 120000;

    for (;;) {
        const char *said = command(qemu, ask);
        const char *mtty = strstr(said, "4348:3253");
        const char *port = mtty ? strstr(mtty, "I/O at 0x") : NULL;
        const char *next = mtty ? strstr(mtty, "  Bus ") : NULL;

        CHECK(mtty, "the guest has no mtty: %s", said);
        if (port && (!next || port < next))
            return;
        CHECK(kmod_now_ms() < until, "the guest's firmware does not come so far: %s", said);
        usleep(300000);
    }
}

static void migrate(struct qemu *qemu, const char *file)
{
    uint64_t until = kmod_now_ms() + 240000;
    const char *said;
    char text[256];

    snprintf(text, sizeof(text), "{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"file:%s\"}}", file);
    command(qemu, text);
    do {
        CHECK(kmod_now_ms() < until, "the migration does not end");
        usleep(200000);
        said = command(qemu, "{\"execute\": \"query-migrate\"}");
        CHECK(!strstr(said, "\"status\": \"failed\""), "the migration failed: %s", said);
    } while (!strstr(said, "\"status\": \"completed\""));
    CHECK(strstr(said, "\"vfio\": {\"transferred\": "), "nothing of VFIO was sent: %s", said);
}

/* --- files --------------------------------------------------------------------------------------- */

/* An mtty keeps what its guest wrote before QEMU opened and reset it. */
static void fill(struct lab_device *mtty, unsigned which)
{
    lab_open(mtty, LAB_GROUP);
    lab_fill(mtty, 31 + which);
    for (unsigned port = 0; port < 2; port++)
        CHECK(pread(mtty->fd, &held[which].scratch[port], 1, (off_t)((uint64_t)port << 40 | 7)) == 1,
              "reading a register: %s", strerror(errno));
    lab_close(mtty);
}

/* The test device writes to its state while its guest runs. */
static void touch(const struct lab_device *test, unsigned which)
{
    unsigned long long before = kmod_digest(test);

    kmod_set(test, "touch", "%u 9000", which * (1u << 20));
    held[which].digest = kmod_digest(test);
    CHECK(held[which].digest != before, "it has written nothing");
}

/* What `vfiomig probe --identity` writes of a device on the source. */
static void export_identity(const struct lab_device *device, const char *path)
{
    unlink(path);
    tool(0, "probe", device->uuid, "--identity", path, NULL);
}

static void qemu_writes_files(void)
{
    struct lab_device mtty, test;
    struct stat info;
    struct qemu qemu;

    CHECK(!access(ROOT PROGRAM, X_OK), "there is no " ROOT ": lab/qemu.sh says on the host why");
    lab_create(&mtty, 2);
    kmod_create(&test, 7);
    kmod_set(&test, "state_size", "%u", STATE_SIZE);
    kmod_set(&test, "seed", "4");
    export_identity(&mtty, "/tmp/mtty.id");
    export_identity(&test, "/tmp/test.id");
    for (unsigned which = 0; which < FILES; which++) {
        fill(&mtty, which);
        qemu = start(&mtty, &test);
        if (which == FIRST)
            printf("| %s", command(&qemu, "{\"execute\": \"query-version\"}"));
        wait_for_guest(&qemu);
        touch(&test, which);
        migrate(&qemu, files[which]);
        quit(&qemu);
        CHECK(!stat(files[which], &info), "%s: %s", files[which], strerror(errno));
        printf("| %s: %lld bytes\n", files[which], (long long)info.st_size);
        held[which].written = 1;
    }
    CHECK(held[FIRST].digest != held[SECOND].digest && held[FIRST].scratch[0] != held[SECOND].scratch[0],
          "the devices hold the same in both files");
}

/* --- what the tool makes of them ------------------------------------------------------------------- */

static void need_files(void)
{
    CHECK(held[FIRST].written && held[SECOND].written, "QEMU has not written the files");
}

/* In the tool's words, what the devices held. */
static void says_what_was_held(const char *said, const struct held *was)
{
    char text[96];

    for (unsigned port = 0; port < 2; port++) {
        snprintf(text, sizeof(text), "port%u.uart.scr = %#x", port, was->scratch[port]);
        says(said, text);
    }
}

static void a_file_is_inspected_and_verified(void)
{
    char text[96];
    const char *said;

    need_files();
    for (unsigned which = 0; which < FILES; which++) {
        said = tool(0, "inspect", files[which], NULL);
        if (which == FIRST)
            show(said);
        says(said, "a migration file of QEMU");
        says(said, "vfio        " MTTY ": ");
        says(said, "vfio        " TEST ": ");
        says(said, "whole, as far as this format can tell");
        says(said, "header.nr_ports = 2");
        says_what_was_held(said, &held[which]);
        CHECK(!strstr(said, "damage") && !strstr(said, "is missing"), "QEMU's file is not right");
        said = tool(0, "verify", files[which], NULL);
        says(said, ": a migration file of QEMU: whole");
        said = tool(0, "inspect", files[which], "--decoder", DECODER, NULL);
        snprintf(text, sizeof(text), "end.digest = %#llx", held[which].digest);
        says(said, text);
        /* It is for the test device; the mtty has one of the library's. */
        says_what_was_held(said, &held[which]);
    }
}

static void what_differs_is_named(void)
{
    char text[96];
    const char *said;

    need_files();
    says(tool(0, "diff", "/tmp/first.qemu#" MTTY, "/tmp/first.qemu#" MTTY, NULL), "the same");
    said = tool(1, "diff", "/tmp/first.qemu#" MTTY, "/tmp/second.qemu#" MTTY, NULL);
    show(said);
    for (unsigned port = 0; port < 2; port++) {
        snprintf(text, sizeof(text), "port%u.uart.scr: %#x → %#x", port, held[FIRST].scratch[port],
                 held[SECOND].scratch[port]);
        says(said, text);
    }
    said = tool(1, "diff", "/tmp/first.qemu#" TEST, "/tmp/second.qemu#" TEST, "--decoder", DECODER, NULL);
    snprintf(text, sizeof(text), "end.digest: %#llx → %#llx", held[FIRST].digest, held[SECOND].digest);
    says(said, text);
}

/* One device of a file as a native stream, which is whole. */
static void extract(const char *file, const char *device, const char *identity, const char *to)
{
    says(tool(2, "extract", file, "stream", "--device", device, "-o", to, NULL), "give --identity");
    tool(0, "extract", file, "stream", "--device", device, "--identity", identity, "-o", to, NULL);
    says(tool(0, "verify", to, NULL), ": whole");
}

/* Loads it into a device that is open; it runs then. */
static void load(const char *stream, struct vfiomig_device *handle)
{
    struct lab_bytes bytes = lab_read_file(stream);

    CALL(lab_load(handle, NULL, bytes.data, bytes.len, 0, NULL), 0);
    OK(vfiomig_device_run(handle));
    lab_free(&bytes);
}

static void streams_are_extracted_and_other_devices_take_them(void)
{
    struct lab_device mtty, test;
    struct vfiomig_device *handle;

    need_files();
    for (unsigned which = 0; which < FILES; which++) {
        extract(files[which], MTTY, "/tmp/mtty.id", "/tmp/mtty.stream");
        says_what_was_held(tool(0, "inspect", "/tmp/mtty.stream", NULL), &held[which]);
        handle = lab_new(&mtty, 2, LAB_GROUP);
        says(tool(0, "compat", "/tmp/mtty.stream", "/tmp/mtty.id", NULL), "fits");
        load("/tmp/mtty.stream", handle);
        lab_expect_contents(&mtty, 31 + which);
        vfiomig_device_free(handle);
        lab_close(&mtty);
        lab_remove(&mtty);

        extract(files[which], TEST, "/tmp/test.id", "/tmp/test.stream");
        handle = kmod_new(&test, 7, STATE_SIZE, 99, LAB_GROUP);
        CHECK(kmod_digest(&test) != held[which].digest, "the target holds it already");
        load("/tmp/test.stream", handle);
        CHECK(kmod_digest(&test) == held[which].digest, "the target's digest is %016llx, the source's was %016llx",
              kmod_digest(&test), held[which].digest);
        vfiomig_device_free(handle);
        lab_close(&test);
        lab_remove(&test);
    }
}

/* What is not whole is called that, and nothing is made of it. */
static void a_file_that_is_cut_yields_no_stream(void)
{
    static const char cut[] = "/tmp/cut.qemu", out[] = "/tmp/cut.stream";
    struct lab_bytes bytes;

    need_files();
    bytes = lab_read_file(files[FIRST]);
    lab_write_file(cut, &bytes);
    /* Most of the file is what the test device sent. */
    CHECK(!truncate(cut, (off_t)bytes.len / 2), "truncate: %s", strerror(errno));
    says(tool(1, "verify", cut, NULL), "not whole");
    tool(1, "inspect", cut, NULL);
    tool(1, "extract", cut, "stream", "--device", TEST, "--identity", "/tmp/test.id", "-o", out, NULL);
    CHECK(access(out, F_OK) < 0, "a stream was made of what is not whole");
    unlink(cut);
    lab_free(&bytes);
}

int main(void)
{
    /* One kernel is enough: what is tested is the files. */
    if (lab_boot() != 1 || !lab_kernel_is("6.12"))
        return 77;
    /* Nobody is there to be asked. */
    CHECK(freopen("/dev/null", "r", stdin), "%s", strerror(errno));
    held = mmap(NULL, sizeof(*held) * FILES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(held != MAP_FAILED, "%s", strerror(errno));
    lab_run("stock-qemu-writes", qemu_writes_files);
    lab_run("stock-qemu-inspect", a_file_is_inspected_and_verified);
    lab_run("stock-qemu-diff", what_differs_is_named);
    lab_run("stock-qemu-extract", streams_are_extracted_and_other_devices_take_them);
    lab_run("stock-qemu-cut", a_file_that_is_cut_yields_no_stream);
    return lab_status();
}
