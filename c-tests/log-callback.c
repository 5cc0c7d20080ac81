/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The library is silent until it is asked to speak, and never reveals what a device holds. */
#include <unistd.h>

#include "rig.h"

struct heard {
    int count, above, newlines, empty;
    uint32_t level;
    char all[1 << 16];
    size_t len;
};

static void hear(void *opaque, uint32_t level, const char *target, const char *message)
{
    struct heard *h = opaque;
    h->count++;
    h->above += level > h->level || level == 0;
    h->newlines += strchr(message, '\n') != NULL;
    h->empty += !*target || !*message;
    h->len += (size_t)snprintf(h->all + h->len, sizeof h->all - h->len, "%s: %s\n", target, message);
    if (h->len >= sizeof h->all)
        h->len = sizeof h->all - 1;
}

static void work(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    stream.data[stream.len / 2] ^= 1;
    EQ(push_all(load, &stream, 9999), -EBADMSG);
    vfiomig_load_free(load);
    vfiomig_sim_inject(from.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR);
    EQ(vfiomig_device_set_state(from.dev, VFIOMIG_STATE_STOP), -EIO);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

/* Nothing on standard output or error: both are pipes in the meantime. */
static void silent_by_default(void)
{
    int pipe_fds[2], saved[2] = { dup(1), dup(2) };
    char text[256];
    EQ(pipe(pipe_fds), 0);
    fflush(stdout);
    dup2(pipe_fds[1], 1);
    dup2(pipe_fds[1], 2);
    work();
    fflush(stdout);
    dup2(saved[0], 1);
    dup2(saved[1], 2);
    close(saved[0]);
    close(saved[1]);
    close(pipe_fds[1]);
    ssize_t n = read(pipe_fds[0], text, sizeof text - 1);
    close(pipe_fds[0]);
    if (n > 0) {
        text[n] = 0;
        FAIL("the library said: %s", text);
    }
}

static void levels_include_those_before_them(void)
{
    static struct heard heard[VFIOMIG_LOG_TRACE + 1];
    for (uint32_t level = VFIOMIG_LOG_OFF; level <= VFIOMIG_LOG_TRACE; level++) {
        heard[level].level = level;
        OK(vfiomig_log_set(hear, &heard[level], NULL, level));
        work();
        EQ(heard[level].above, 0);
        EQ(heard[level].newlines, 0);
        EQ(heard[level].empty, 0);
    }
    OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF));
    EQ(heard[VFIOMIG_LOG_OFF].count, 0);
    CHECK(heard[VFIOMIG_LOG_WARN].count > 0);
    CHECK(heard[VFIOMIG_LOG_DEBUG].count > heard[VFIOMIG_LOG_WARN].count);
    CHECK(heard[VFIOMIG_LOG_TRACE].count >= heard[VFIOMIG_LOG_DEBUG].count);
    HAS(heard[VFIOMIG_LOG_DEBUG].all, "RUNNING -> PRE_COPY");
    HAS(heard[VFIOMIG_LOG_WARN].all, "vfiomig::");
}

static void silent_again(void)
{
    static struct heard heard = { .level = VFIOMIG_LOG_TRACE };
    OK(vfiomig_log_set(hear, &heard, NULL, VFIOMIG_LOG_TRACE));
    OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_TRACE));
    work();
    EQ(heard.count, 0);
}

int main(void)
{
    RUN(silent_by_default);
    RUN(levels_include_those_before_them);
    RUN(silent_again);
    return DONE();
}
