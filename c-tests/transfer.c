/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Streams through descriptors: sockets, pipes and files, as they fill up, end, fail and are waited for.
 * What goes wrong with a descriptor changes nothing about the session.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "rig.h"

struct two {
    int from, to;
};

static struct two new_socket(void)
{
    int ends[2];
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    return (struct two){ ends[0], ends[1] };
}

static struct two new_pipe(int flags)
{
    int ends[2];
    EQ(pipe2(ends, flags), 0);
    return (struct two){ ends[0], ends[1] };
}

static int new_file(void)
{
    char path[] = "/tmp/vfiomig-transfer-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    unlink(path);
    return fd;
}

/* The whole stream of a device, from a thread. */
struct sender {
    struct vfiomig_save *save;
    struct vfiomig_transfer how;
    int fd, result, calls;
};

static int send_all(struct vfiomig_save *save, int fd, const struct vfiomig_transfer *how, int *calls)
{
    int r;
    do {
        r = vfiomig_save_write_fd(save, fd, how);
        ++*calls;
        if (r == VFIOMIG_NEXT_DRAINED) {
            int stopped = vfiomig_save_stop(save);
            if (stopped < 0)
                return stopped;
        }
    } while (r >= 0 && r != VFIOMIG_NEXT_END);
    return r;
}

static void *send_from_here(void *opaque)
{
    struct sender *sender = opaque;
    sender->result = send_all(sender->save, sender->fd, &sender->how, &sender->calls);
    return NULL;
}

static int receive_all(struct vfiomig_load *load, int fd, const struct vfiomig_transfer *how)
{
    int r, bits = 0;
    do {
        r = vfiomig_load_read_fd(load, fd, how);
        bits |= r;
    } while (r >= 0 && !(r & VFIOMIG_PUSH_END));
    return r < 0 ? r : bits;
}

static void arrives_through(struct two ends, const struct vfiomig_transfer *how)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct sender sender = { .how = *how, .fd = ends.to };
    struct vfiomig_load *load;
    pthread_t thread;
    OK(vfiomig_save_begin(source.dev, NULL, &sender.save));
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    CHECK(pthread_create(&thread, NULL, send_from_here, &sender) == 0);
    int bits = receive_all(load, ends.from, how);
    pthread_join(thread, NULL);
    EQ(sender.result, VFIOMIG_NEXT_END);
    CHECK(bits >= 0 && bits & VFIOMIG_PUSH_END);
    if (how->max_bytes)
        CHECK((uint64_t)sender.calls > SOME_SIZE / how->max_bytes);
    OK(vfiomig_load_commit(load));
    OK(vfiomig_save_finish(sender.save, VFIOMIG_ENDING_RELEASE));
    CHECK(vfiomig_sim_digest(target.sim) == vfiomig_sim_digest(source.sim));
    vfiomig_save_free(sender.save);
    vfiomig_load_free(load);
    close(ends.from);
    close(ends.to);
    rig_free(&source);
    rig_free(&target);
}

static void a_state_arrives_through_sockets_and_pipes(void)
{
    struct vfiomig_transfer how = VFIOMIG_TRANSFER_INIT;
    arrives_through(new_socket(), &how);
    arrives_through(new_pipe(0), &how);
    arrives_through(new_pipe(O_NONBLOCK), &how);
    how.max_bytes = 1000;
    arrives_through(new_socket(), &how);
}

/* Nothing behind the stream's end is read. */
static void a_file_takes_a_stream_and_gives_it_back(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    int fd = new_file(), calls = 0;
    char more[4];
    OK(vfiomig_save_begin(source.dev, NULL, &save));
    EQ(send_all(save, fd, NULL, &calls), VFIOMIG_NEXT_END);
    EQ(calls, 2);
    off_t end = lseek(fd, 0, SEEK_CUR);
    /* All of it is there: there is nothing to repeat, and nothing to read otherwise. */
    EQ(vfiomig_save_write_fd(save, fd, NULL), VFIOMIG_NEXT_END);
    EQ(lseek(fd, 0, SEEK_CUR), end);
    CHECK(write(fd, "more", 4) == 4 && lseek(fd, 0, SEEK_SET) == 0);
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    CHECK(receive_all(load, fd, NULL) & VFIOMIG_PUSH_END);
    CHECK(read(fd, more, 4) == 4 && memcmp(more, "more", 4) == 0);
    OK(vfiomig_load_commit(load));
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    CHECK(vfiomig_sim_digest(target.sim) == vfiomig_sim_digest(source.sim));
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    close(fd);
    rig_free(&source);
    rig_free(&target);
}

static void a_full_disk_loses_nothing(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    int full = open("/dev/full", O_WRONLY), fd = new_file(), calls = 0;
    uint8_t buf[8192];
    size_t len;
    CHECK(full >= 0);
    OK(vfiomig_save_begin(source.dev, NULL, &save));
    EQ(vfiomig_save_write_fd(save, full, NULL), -ENOSPC);
    OK(vfiomig_save_get_failure(save, &failure));
    EQ(failure.operation, VFIOMIG_OP_FILE);
    EQ(failure.os_errno, ENOSPC);
    EQ(vfiomig_save_write_fd(save, full, NULL), -ENOSPC);
    /* Bytes wait: nobody may take the next ones. */
    EQ(vfiomig_save_next(save, buf, sizeof buf, &len), -EINVAL);
    EQ(send_all(save, fd, NULL, &calls), VFIOMIG_NEXT_END);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    CHECK(receive_all(load, fd, NULL) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    CHECK(vfiomig_sim_digest(target.sim) == vfiomig_sim_digest(source.sim));
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    close(full);
    close(fd);
    rig_free(&source);
    rig_free(&target);
}

/* What the target has not got, the source does not give away. */
static void a_source_is_not_released_while_bytes_wait(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_transfer how = VFIOMIG_TRANSFER_INIT;
    struct two ends = new_pipe(O_NONBLOCK);
    struct vfiomig_save *save;
    int null = open("/dev/null", O_WRONLY);
    how.flags = VFIOMIG_TRANSFER_NO_WAIT;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(vfiomig_save_stop(save));
    EQ(vfiomig_save_write_fd(save, ends.to, &how), -EAGAIN);
    EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE), -EINVAL);
    EQ(vfiomig_save_write_fd(save, null, NULL), VFIOMIG_NEXT_END);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    close(null);
    close(ends.from);
    close(ends.to);
    rig_free(&rig);
}

static void a_stream_that_is_cut_off_goes_on_elsewhere(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct bytes stream = stream_of(source.dev);
    struct two ends = new_socket();
    struct vfiomig_load *load;
    int fd = new_file();
    CHECK(write(ends.to, stream.data, 5000) == 5000);
    close(ends.to);
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    EQ(receive_all(load, ends.from, NULL), -ENODATA);
    CHECK(write(fd, stream.data + 5000, stream.len - 5000) == (ssize_t)stream.len - 5000);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    CHECK(receive_all(load, fd, NULL) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(target.sim) == vfiomig_sim_digest(source.sim));
    vfiomig_load_free(load);
    close(fd);
    close(ends.from);
    bytes_free(&stream);
    rig_free(&source);
    rig_free(&target);
}

static void who_has_gone_is_told_without_a_signal(void)
{
    signal(SIGPIPE, SIG_DFL);
    for (int i = 0; i < 3; i++) {
        struct rig rig = rig_new(NULL, NULL);
        struct two ends = i == 0 ? new_socket() : new_pipe(i == 1 ? 0 : O_NONBLOCK);
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct vfiomig_save *save;
        close(ends.from);
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        EQ(vfiomig_save_write_fd(save, ends.to, NULL), -EIO);
        OK(vfiomig_save_get_failure(save, &failure));
        EQ(failure.operation, VFIOMIG_OP_FILE);
        EQ(failure.os_errno, EPIPE);
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        vfiomig_save_free(save);
        close(ends.to);
        rig_free(&rig);
    }
}

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
    (void)number;
    signals++;
}

/* A signal comes with the error where a file may not become that long. Only the library's own goes. */
static void a_file_that_may_not_grow_is_told_without_a_signal(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    struct rlimit before, less;
    sigset_t set, old, pending;
    int fd = new_file();
    signal(SIGXFSZ, SIG_DFL);
    EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    less = (struct rlimit){ 5000, before.rlim_max };
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(setrlimit(RLIMIT_FSIZE, &less), 0);
    int r = vfiomig_save_write_fd(save, fd, NULL);
    EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EQ(r, -ENOSPC);
    EQ(lseek(fd, 0, SEEK_CUR), 5000);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &old) == 0);
    CHECK(!sigismember(&old, SIGXFSZ));

    /* One that waits already stays. */
    signal(SIGXFSZ, count_signal);
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    pthread_kill(pthread_self(), SIGXFSZ);
    EQ(setrlimit(RLIMIT_FSIZE, &less), 0);
    r = vfiomig_save_write_fd(save, fd, NULL);
    EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EQ(r, -ENOSPC);
    CHECK(sigpending(&pending) == 0);
    CHECK(sigismember(&pending, SIGXFSZ));
    EQ(signals, 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    EQ(signals, 1);
    signal(SIGXFSZ, SIG_DFL);
    EQ(vfiomig_save_write_fd(save, fd, NULL), VFIOMIG_NEXT_DRAINED);
    vfiomig_save_free(save);
    close(fd);
    rig_free(&rig);
}

static void a_terminal_is_refused(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    int far = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(far >= 0 && grantpt(far) == 0 && unlockpt(far) == 0);
    int tty = open(ptsname(far), O_RDWR | O_NOCTTY);
    CHECK(tty >= 0);
    OK(vfiomig_save_begin(source.dev, NULL, &save));
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    EQ(vfiomig_save_write_fd(save, tty, NULL), -EINVAL);
    CHECK(strstr(vfiomig_error_message(), "terminal"));
    EQ(vfiomig_load_read_fd(load, tty, NULL), -EINVAL);
    CHECK(strstr(vfiomig_error_message(), "terminal"));
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    close(tty);
    close(far);
    rig_free(&source);
    rig_free(&target);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void who_does_nothing_is_not_waited_for_longer_than_allowed(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct two ends = new_pipe(0), idle = new_socket();
    struct vfiomig_transfer how = VFIOMIG_TRANSFER_INIT;
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    OK(vfiomig_save_begin(source.dev, NULL, &save));
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    how.timeout_ms = 60;
    double then = now();
    EQ(vfiomig_save_write_fd(save, ends.to, &how), -ETIMEDOUT);
    CHECK(now() - then >= 0.06);
    EQ(vfiomig_load_read_fd(load, idle.from, &how), -ETIMEDOUT);
    OK(vfiomig_load_get_failure(load, &failure));
    EQ(failure.code, 0);
    how.flags = VFIOMIG_TRANSFER_NO_WAIT;
    EQ(vfiomig_save_write_fd(save, ends.to, &how), -EAGAIN);
    EQ(vfiomig_load_read_fd(load, idle.from, &how), -EAGAIN);
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    close(ends.from), close(ends.to), close(idle.from), close(idle.to);
    rig_free(&source);
    rig_free(&target);
}

static void *cancel_save(void *save)
{
    struct timespec moment = { 0, 50000000 };
    nanosleep(&moment, NULL);
    vfiomig_save_cancel(save);
    return NULL;
}

static void *cancel_load(void *load)
{
    struct timespec moment = { 0, 50000000 };
    nanosleep(&moment, NULL);
    vfiomig_load_cancel(load);
    return NULL;
}

static void a_cancellation_ends_a_call_that_waits(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct two ends = new_pipe(0), idle = new_socket();
    struct vfiomig_transfer how = VFIOMIG_TRANSFER_INIT;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    pthread_t thread;
    how.timeout_ms = UINT32_MAX;
    OK(vfiomig_save_begin(source.dev, NULL, &save));
    CHECK(pthread_create(&thread, NULL, cancel_save, save) == 0);
    EQ(vfiomig_save_write_fd(save, ends.to, &how), -ECANCELED);
    pthread_join(thread, NULL);
    EQ(vfiomig_save_write_fd(save, ends.to, &how), -ECANCELED);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    CHECK(pthread_create(&thread, NULL, cancel_load, load) == 0);
    EQ(vfiomig_load_read_fd(load, idle.from, &how), -ECANCELED);
    pthread_join(thread, NULL);
    vfiomig_load_free(load);
    close(ends.from), close(ends.to), close(idle.from), close(idle.to);
    rig_free(&source);
    rig_free(&target);
}

static void what_does_not_fit_is_refused(void)
{
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct vfiomig_transfer how = VFIOMIG_TRANSFER_INIT;
    struct vfiomig_save_options qemu = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options load_qemu = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    int in = open("/dev/null", O_RDONLY), out = open("/dev/null", O_WRONLY);
    OK(vfiomig_save_begin(source.dev, NULL, &save));
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    EQ(vfiomig_save_write_fd(save, -1, NULL), -EINVAL);
    EQ(vfiomig_save_write_fd(save, 9999, NULL), -EINVAL);
    EQ(vfiomig_save_write_fd(save, in, NULL), -EINVAL);
    EQ(vfiomig_load_read_fd(load, -1, NULL), -EINVAL);
    EQ(vfiomig_load_read_fd(load, out, NULL), -EINVAL);
    how.flags = 2;
    EQ(vfiomig_save_write_fd(save, out, &how), -EINVAL);
    EQ(vfiomig_load_read_fd(load, in, &how), -EINVAL);
    how.flags = 0, how.reserved = 1;
    EQ(vfiomig_save_write_fd(save, out, &how), -EINVAL);
    EQ(vfiomig_load_read_fd(load, in, &how), -EINVAL);
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    qemu.format = load_qemu.format = VFIOMIG_FORMAT_QEMU;
    OK(vfiomig_save_begin(source.dev, &qemu, &save));
    OK(vfiomig_load_begin(target.dev, &load_qemu, &load));
    EQ(vfiomig_save_write_fd(save, out, NULL), -EINVAL);
    EQ(vfiomig_load_read_fd(load, in, NULL), -EINVAL);
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    close(in), close(out);
    rig_free(&source);
    rig_free(&target);
}

int main(void)
{
    RUN(a_state_arrives_through_sockets_and_pipes);
    RUN(a_file_takes_a_stream_and_gives_it_back);
    RUN(a_full_disk_loses_nothing);
    RUN(a_source_is_not_released_while_bytes_wait);
    RUN(a_stream_that_is_cut_off_goes_on_elsewhere);
    RUN(who_has_gone_is_told_without_a_signal);
    RUN(a_file_that_may_not_grow_is_told_without_a_signal);
    RUN(a_terminal_is_refused);
    RUN(who_does_nothing_is_not_waited_for_longer_than_allowed);
    RUN(a_cancellation_ends_a_call_that_waits);
    RUN(what_does_not_fit_is_refused);
    return DONE();
}
