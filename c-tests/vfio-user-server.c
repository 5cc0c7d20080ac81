/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A simulated device is served over vfio-user: a client that knows only the protocol's bytes saves one, loads
 * another, and finds the pages that it wrote to. */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "vfiomig-sim.h"

enum { NEGOTIATE = 1, DMA_MAP = 2, REGION_READ = 9, REGION_WRITE = 10, DMA_WRITE = 12, FEATURE = 16, DATA_READ = 17,
       DATA_WRITE = 18 };
enum { GET = 1 << 16, SET = 1 << 17, STOP = 1, RUNNING = 2, STOP_COPY = 3, RESUMING = 4, PRE_COPY = 6 };
enum { PAGE = 4096, MOST = 65536 };

/* A message: header and payload. */
struct message {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint8_t payload[MOST + 64];
};

/* A device, its server on a thread, and the client. */
struct served {
    struct vfiomig_sim *sim;
    struct vfiomig_sim_server *server;
    pthread_t thread;
    int theirs, fd, twin;
    struct message reply;
};

static void *serve(void *opaque)
{
    struct served *served = opaque;
    return (void *)(intptr_t)vfiomig_sim_server_serve(served->server, served->theirs);
}

static void transmit(int socket, const void *message, size_t len, int fd)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)message, .iov_len = len };
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = { { 0 } };
    struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (fd >= 0) {
        head.msg_control = &control;
        head.msg_controllen = sizeof control.buf;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&head);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    }
    EQ(sendmsg(socket, &head, MSG_NOSIGNAL), (ssize_t)len);
}

/* The next message, and the descriptor that comes with it, or -1. */
static int receive(int socket, struct message *message)
{
    struct iovec iov = { .iov_base = message, .iov_len = 16 };
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr head = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.buf
    };
    int fd = -1;
    /* The kernel returns what a descriptor came with, however much is waited for. */
    ssize_t n = recvmsg(socket, &head, MSG_CMSG_CLOEXEC);
    CHECK(n > 0);
    if (n < 16)
        EQ(recv(socket, (char *)message + n, 16 - (size_t)n, MSG_WAITALL), 16 - n);
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&head);
    if (cmsg)
        memcpy(&fd, CMSG_DATA(cmsg), sizeof fd);
    CHECK(message->size >= 16 && message->size - 16 <= sizeof message->payload);
    if (message->size > 16)
        EQ(recv(socket, message->payload, message->size - 16, MSG_WAITALL), (ssize_t)message->size - 16);
    return fd;
}

/* Sends a command. */
static void ask(struct served *served, uint16_t command, const void *payload, size_t len, int fd)
{
    static uint16_t id;
    struct message message = { .id = ++id, .command = command, .size = (uint32_t)(16 + len) };
    CHECK(len <= sizeof message.payload);
    if (len)
        memcpy(message.payload, payload, len);
    transmit(served->fd, &message, 16 + len, fd);
    served->reply.id = id;
}

/* The reply to it: 0, or its errno negated. */
static int answered(struct served *served, uint16_t command)
{
    uint16_t id = served->reply.id;
    int fd = receive(served->fd, &served->reply);
    EQ(served->reply.id, id);
    EQ(served->reply.command, command);
    EQ(served->reply.flags & 0xf, 1);
    if (fd >= 0)
        served->twin = fd;
    return -(int)served->reply.error;
}

static int call(struct served *served, uint16_t command, const void *payload, size_t len)
{
    ask(served, command, payload, len, -1);
    return answered(served, command);
}

static int set_state(struct served *served, uint32_t state)
{
    uint32_t payload[4] = { sizeof payload, SET | 2, state, 0 };
    return call(served, FEATURE, payload, sizeof payload);
}

static struct served *begin(uint64_t seed, uint64_t quirks)
{
    static const char caps[] = "\0\0\1\0{\"capabilities\":{\"twin_socket\":{\"supported\":true}}}";
    struct vfiomig_sim_options options = { .struct_size = sizeof options, .state_size = 200000, .seed = seed };
    struct vfiomig_sim_server_options how = { .struct_size = sizeof how, .quirks = quirks };
    struct served *served = calloc(1, sizeof *served);
    int pair[2];
    CHECK(served);
    EQ(vfiomig_sim_new(&options, &served->sim), 0);
    EQ(vfiomig_sim_server_new(served->sim, &how, &served->server), 0);
    EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    served->fd = pair[0];
    served->theirs = pair[1];
    served->twin = -1;
    EQ(pthread_create(&served->thread, NULL, serve, served), 0);
    EQ(call(served, NEGOTIATE, caps, sizeof caps), 0);
    CHECK(served->twin >= 0);
    return served;
}

/* The client leaves. */
static void end(struct served *served)
{
    void *result;
    EQ(vfiomig_sim_violations(served->sim, NULL), 0);
    close(served->fd);
    close(served->twin);
    EQ(pthread_join(served->thread, &result), 0);
    EQ((intptr_t)result, 0);
    vfiomig_sim_server_free(served->server);
    vfiomig_sim_free(served->sim);
    free(served);
}

/* Reads what there is, and writes it to another device. */
static size_t copy(struct served *from, struct served *to, uint32_t piece)
{
    for (size_t all = 0;;) {
        uint32_t request[2] = { 8 + piece, piece }, lengths[2];
        EQ(call(from, DATA_READ, request, sizeof request), 0);
        memcpy(lengths, from->reply.payload, sizeof lengths);
        CHECK(lengths[1] <= piece && lengths[1] + 24 <= from->reply.size);
        if (!lengths[1])
            return all;
        lengths[0] = lengths[1] + 8;
        memcpy(from->reply.payload, lengths, sizeof lengths);
        EQ(call(to, DATA_WRITE, from->reply.payload, lengths[0]), 0);
        all += lengths[1];
    }
}

static void move(uint64_t quirks, int pre_copy, uint32_t piece)
{
    struct served *from = begin(1, quirks), *to = begin(2, 0);
    uint64_t digest;
    EQ(set_state(to, RESUMING), 0);
    if (pre_copy) {
        EQ(set_state(from, PRE_COPY), 0);
        CHECK(copy(from, to, piece) > 0);
        EQ(vfiomig_sim_guest_write(from->sim, 100, 5, 77), 0);
    }
    EQ(set_state(from, STOP_COPY), 0);
    digest = vfiomig_sim_digest(from->sim);
    CHECK(copy(from, to, piece) > 0);
    EQ(set_state(from, STOP), 0);
    EQ(set_state(to, RUNNING), 0);
    CHECK(vfiomig_sim_digest(to->sim) == digest);
    EQ(vfiomig_sim_state(to->sim), RUNNING);
    EQ(vfiomig_sim_server_count(to->server, NEGOTIATE), 1);
    end(from);
    end(to);
}

static void what_one_device_had_another_one_has(void)
{
    move(0, 0, MOST);
    move(0, 1, MOST);
    move(0, 1, 1000);
}

static void the_same_in_long_replies_that_come_byte_by_byte(void)
{
    move(VFIOMIG_SIM_SERVER_UNTRIMMED | VFIOMIG_SIM_SERVER_BYTEWISE, 1, 20000);
}

static void the_same_as_libvfio_user_does_it(void)
{
    move(VFIOMIG_SIM_SERVER_LIBVFIO_USER, 0, 30000);
}

static void map(struct served *served, uint64_t iova, uint64_t size, int fd)
{
    struct {
        uint32_t argsz, flags;
        uint64_t offset, iova, size;
    } request = { sizeof request, 3, 0, iova, size };
    ask(served, DMA_MAP, &request, sizeof request, fd);
    EQ(answered(served, DMA_MAP), 0);
}

static uint64_t dirty(struct served *served, uint64_t iova, uint64_t size)
{
    struct {
        uint32_t argsz, flags;
        uint64_t iova, length, page;
    } request = { sizeof request + 8, GET | 8, iova, size, PAGE };
    uint64_t bitmap;
    EQ(call(served, FEATURE, &request, sizeof request), 0);
    EQ(served->reply.size, 16 + sizeof request + 8);
    memcpy(&bitmap, served->reply.payload + sizeof request, sizeof bitmap);
    return bitmap;
}

/* Through the registers: a command, its address, length and seed. */
static void command(struct served *served, uint64_t number, uint64_t address, uint64_t length, uint64_t seed)
{
    struct {
        uint64_t offset;
        uint32_t region, count;
        uint64_t values[4];
    } request = { 0x20, 0, 32, { address, length, seed, number } };
    ask(served, REGION_WRITE, &request, sizeof request, -1);
}

static void the_device_writes_to_memory_and_says_where(void)
{
    struct {
        uint32_t argsz, flags;
        uint64_t page;
        uint32_t ranges, reserved;
    } start = { sizeof start, SET | 6, PAGE, 0, 0 };
    struct served *served = begin(1, 0);
    struct message message;
    uint64_t word = 0;
    int fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(fd >= 0);
    EQ(ftruncate(fd, 16 * PAGE), 0);
    map(served, 0, 16 * PAGE, fd);
    map(served, 1 << 20, PAGE, -1);
    EQ(call(served, FEATURE, &start, sizeof start), 0);
    EQ(vfiomig_sim_server_dma_write(served->server, 3 * PAGE - 1, "ab", 2), 0);
    command(served, 1, 7 * PAGE, 8, 1234);
    EQ(answered(served, REGION_WRITE), 0);
    CHECK(dirty(served, 0, 16 * PAGE) == (1 << 2 | 1 << 3 | 1 << 7));
    CHECK(dirty(served, 0, 16 * PAGE) == 0);
    EQ(pread(fd, &word, 8, 7 * PAGE), 8);
    CHECK(word == 1234);
    EQ(vfiomig_sim_server_dma_read(served->server, 3 * PAGE - 1, &word, 2), 0);
    CHECK(memcmp(&word, "ab", 2) == 0);
    /* Where there is no descriptor, by a message that only the client sees. */
    command(served, 1, (1 << 20) + 8, 8, 99);
    EQ(receive(served->twin, &message), -1);
    EQ(message.command, DMA_WRITE);
    EQ(message.size, 16 + 24);
    memcpy(&word, message.payload, 8);
    CHECK(word == (1 << 20) + 8);
    memcpy(&word, message.payload + 16, 8);
    CHECK(word == 99);
    message.size = 16 + 16;
    message.flags = 1;
    transmit(served->twin, &message, message.size, -1);
    EQ(answered(served, REGION_WRITE), 0);
    EQ(set_state(served, STOP), 0);
    EQ(vfiomig_sim_server_dma_write(served->server, 0, "a", 1), -EPERM);
    EQ(vfiomig_sim_server_dma_write(served->server, 0, NULL, 1), -EFAULT);
    close(fd);
    end(served);
}

static void a_message_goes_wrong_when_it_is_told_to(void)
{
    uint32_t get[4] = { sizeof get, GET | 2, 0, 0 };
    struct served *served = begin(1, 0);
    EQ(vfiomig_sim_server_inject_message(served->server, FEATURE, 2, VFIOMIG_SIM_SERVER_ERROR, 121), 0);
    EQ(vfiomig_sim_server_inject_message(served->server, FEATURE, 0, VFIOMIG_SIM_SERVER_ERROR, 1), -EINVAL);
    EQ(vfiomig_sim_server_inject_message(served->server, FEATURE, 1, VFIOMIG_SIM_SERVER_ELSEWHERE + 1, 1), -EINVAL);
    EQ(vfiomig_sim_server_inject_message(served->server, 65536, 1, VFIOMIG_SIM_SERVER_ERROR, 1), -EINVAL);
    EQ(call(served, FEATURE, get, sizeof get), 0);
    EQ(call(served, FEATURE, get, sizeof get), -121);
    EQ(vfiomig_sim_server_inject_message(served->server, 0, 1, VFIOMIG_SIM_SERVER_ERROR, 122), 0);
    vfiomig_sim_server_clear_message_faults(served->server);
    EQ(call(served, FEATURE, get, sizeof get), 0);
    EQ(vfiomig_sim_server_count(served->server, FEATURE), 3);
    EQ(vfiomig_sim_server_inject_message(served->server, FEATURE, 1, VFIOMIG_SIM_SERVER_CLOSE, 0), 0);
    ask(served, FEATURE, get, sizeof get, -1);
    EQ(recv(served->fd, get, 1, 0), 0);
    end(served);
}

static void *listens(void *opaque)
{
    struct served *served = opaque;
    char path[64];
    snprintf(path, sizeof path, "/tmp/vfiomig-server-%d.sock", (int)getpid());
    return (void *)(intptr_t)vfiomig_sim_server_listen(served->server, path);
}

static void a_server_listens_at_a_path_until_it_is_stopped(void)
{
    struct served served = { .twin = -1 };
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    void *result;
    char byte;
    EQ(vfiomig_sim_new(NULL, &served.sim), 0);
    EQ(vfiomig_sim_server_new(served.sim, NULL, &served.server), 0);
    EQ(pthread_create(&served.thread, NULL, listens, &served), 0);
    snprintf(address.sun_path, sizeof address.sun_path, "/tmp/vfiomig-server-%d.sock", (int)getpid());
    served.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(served.fd >= 0);
    while (connect(served.fd, (struct sockaddr *)&address, sizeof address))
        usleep(1000);
    EQ(call(&served, NEGOTIATE, "\0\0\0\0", 4), 0);
    EQ(vfiomig_sim_server_serve(served.server, dup(served.fd)), -EBUSY);
    vfiomig_sim_server_stop(served.server);
    EQ(pthread_join(served.thread, &result), 0);
    EQ((intptr_t)result, 0);
    EQ(recv(served.fd, &byte, 1, 0), 0);
    EQ(access(address.sun_path, F_OK), -1);
    close(served.fd);
    vfiomig_sim_server_free(served.server);
    vfiomig_sim_free(served.sim);
}

static void misuse_is_an_error(void)
{
    struct vfiomig_sim_options v1 = { .struct_size = sizeof v1, .kind = VFIOMIG_PROTOCOL_V1 };
    struct vfiomig_sim_server_options how = { .struct_size = sizeof how };
    struct vfiomig_sim_server *server;
    struct vfiomig_sim *sim;
    EQ(vfiomig_sim_new(&v1, &sim), 0);
    EQ(vfiomig_sim_server_new(sim, NULL, &server), -EINVAL);
    vfiomig_sim_free(sim);
    EQ(vfiomig_sim_new(NULL, &sim), 0);
    EQ(vfiomig_sim_server_new(NULL, NULL, &server), -EFAULT);
    EQ(vfiomig_sim_server_new(sim, NULL, NULL), -EFAULT);
    how.quirks = 1ull << 63;
    EQ(vfiomig_sim_server_new(sim, &how, &server), -EINVAL);
    how.quirks = 0;
    how.struct_size = 3;
    EQ(vfiomig_sim_server_new(sim, &how, &server), -EINVAL);
    how.struct_size = 8; /* of an older header */
    EQ(vfiomig_sim_server_new(sim, &how, &server), 0);
    EQ(vfiomig_sim_server_dma_read(server, 0, &how, 1), -ENOTCONN);
    EQ(vfiomig_sim_server_serve(server, -1), -EBADF);
    EQ(vfiomig_sim_server_listen(server, NULL), -EFAULT);
    EQ(vfiomig_sim_server_listen(server, "/nowhere/at/all"), -ENOENT);
    EQ(vfiomig_sim_server_serve(NULL, dup(0)), -EFAULT);
    EQ(vfiomig_sim_server_inject_message(NULL, 0, 1, 0, 0), -EFAULT);
    EQ(vfiomig_sim_server_count(NULL, 0), 0);
    vfiomig_sim_server_stop(NULL);
    vfiomig_sim_server_clear_message_faults(NULL);
    vfiomig_sim_server_free(NULL);
    /* The device outlives what C knows of it. */
    vfiomig_sim_free(sim);
    vfiomig_sim_server_free(server);
}

int main(void)
{
    RUN(what_one_device_had_another_one_has);
    RUN(the_same_in_long_replies_that_come_byte_by_byte);
    RUN(the_same_as_libvfio_user_does_it);
    RUN(the_device_writes_to_memory_and_says_where);
    RUN(a_message_goes_wrong_when_it_is_told_to);
    RUN(a_server_listens_at_a_path_until_it_is_stopped);
    RUN(misuse_is_an_error);
    return DONE();
}
