/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Messages to standard error as VFIOMIG_LOG says, for programs without logging of their own.
 */
#include <unistd.h>

#include "rig.h"

static char said[1 << 16];

/* What goes to standard error during one change of state. */
static void listen_to(const char *setting)
{
    int pipe_fds[2], saved = dup(2);
    EQ(pipe(pipe_fds), 0);
    if (setting)
        setenv("VFIOMIG_LOG", setting, 1);
    else
        unsetenv("VFIOMIG_LOG");
    dup2(pipe_fds[1], 2);
    int begun = vfiomig_log_init_env();
    struct rig rig = rig_new(NULL, NULL);
    int r = vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP);
    dup2(saved, 2);
    close(saved);
    close(pipe_fds[1]);
    ssize_t n = read(pipe_fds[0], said, sizeof said - 1);
    close(pipe_fds[0]);
    said[n > 0 ? n : 0] = 0;
    rig_free(&rig);
    OK(begun);
    OK(r);
}

static void as_the_variable_says_and_again(void)
{
    listen_to("debug");
    HAS(said, "RUNNING -> STOP");
    HAS(said, "vfiomig::device");
    listen_to("error");
    EQ(said[0], 0);
    listen_to("vfiomig::device=debug");
    HAS(said, "RUNNING -> STOP");
    listen_to("vfiomig::stream=trace");
    CHECK(!strstr(said, "RUNNING -> STOP"));
    listen_to("debug,vfiomig::device=error");
    CHECK(!strstr(said, "RUNNING -> STOP"));
    listen_to(NULL);
    EQ(said[0], 0);
}

static void what_is_not_understood_is_named_and_the_rest_holds(void)
{
    listen_to("vfiomig::device=loud,debug");
    HAS(said, "ignored: vfiomig::device=loud\n");
    HAS(said, "RUNNING -> STOP");
    CHECK(!strstr(said, "ignored: debug"));
}

static void a_callback_takes_over_again(void)
{
    listen_to("debug");
    OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF));
    struct rig rig = rig_new(NULL, NULL);
    int pipe_fds[2], saved = dup(2);
    EQ(pipe(pipe_fds), 0);
    dup2(pipe_fds[1], 2);
    int r = vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP);
    dup2(saved, 2);
    close(saved);
    close(pipe_fds[1]);
    EQ(read(pipe_fds[0], said, sizeof said), 0);
    close(pipe_fds[0]);
    OK(r);
    rig_free(&rig);
}

int main(void)
{
    RUN(as_the_variable_says_and_again);
    RUN(what_is_not_understood_is_named_and_the_rest_holds);
    RUN(a_callback_takes_over_again);
    return DONE();
}
