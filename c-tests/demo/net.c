/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "net.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct header {
    uint32_t type;
    uint32_t len;
    uint64_t where;
};

int net_send(int sock, uint32_t type, uint64_t where, const void *data, size_t len)
{
    struct header header = { .type = type, .len = (uint32_t)len, .where = where };
    struct iovec parts[2] = {
        { .iov_base = &header, .iov_len = sizeof header },
        { .iov_base = (void *)data, .iov_len = len },
    };
    struct msghdr msg = { .msg_iov = parts, .msg_iovlen = 2 };
    while (parts[0].iov_len + parts[1].iov_len > 0) {
        /* A peer that died is an error to handle, not a signal to die of. */
        ssize_t n = sendmsg(sock, &msg, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return errno == ECONNRESET ? -EPIPE : -errno;
        }
        for (int i = 0; i < 2; i++) {
            size_t part = (size_t)n < parts[i].iov_len ? (size_t)n : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + part;
            parts[i].iov_len -= part;
            n -= (ssize_t)part;
        }
    }
    return 0;
}

static int receive_all(int sock, void *data, size_t len)
{
    for (uint8_t *at = data; len > 0;) {
        ssize_t n = recv(sock, at, len, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return -EPIPE;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

int net_receive(int sock, struct message *message)
{
    struct header header;
    int r = receive_all(sock, &header, sizeof header);
    if (r < 0)
        return r;
    /* The other side is not trusted with this side's memory. */
    if (header.len > message->cap)
        return -EMSGSIZE;
    message->type = header.type;
    message->len = header.len;
    message->where = header.where;
    r = receive_all(sock, message->data, header.len);
    return r < 0 ? r : 1;
}
