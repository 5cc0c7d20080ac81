/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Messages to standard error as VFIOMIG_LOG says, for programs without logging of their own. Which
 * half applies depends on the library that is loaded: with the feature env-logger or without.
 */
#include <unistd.h>

#include "rig.h"

static char said[1 << 16];

/* What goes to standard error during one change of state. */
static void listen_to(const char *setting, int *result)
{
    int pipe_fds[2], saved = dup(2);
    EQ(pipe(pipe_fds), 0);
    setenv("VFIOMIG_LOG", setting, 1);
    dup2(pipe_fds[1], 2);
    *result = vfiomig_log_init_env();
    struct rig rig = rig_new(NULL, NULL);
    int r = vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP);
    dup2(saved, 2);
    close(saved);
    close(pipe_fds[1]);
    ssize_t n = read(pipe_fds[0], said, sizeof said - 1);
    close(pipe_fds[0]);
    said[n > 0 ? n : 0] = 0;
    rig_free(&rig);
    OK(r);
}

static void as_the_variable_says_and_again(void)
{
    int r;
    listen_to("debug", &r);
    if (r == -EOPNOTSUPP) { /* built without: see the other test */
        EQ(said[0], 0);
        return;
    }
    OK(r);
    HAS(said, "RUNNING -> STOP");
    HAS(said, "vfiomig::device");
    listen_to("error", &r);
    OK(r);
    EQ(said[0], 0);
    listen_to("vfiomig::device=debug", &r);
    OK(r);
    HAS(said, "RUNNING -> STOP");
    listen_to("vfiomig::stream=trace", &r);
    OK(r);
    CHECK(!strstr(said, "RUNNING -> STOP"));
    /* And a callback takes over again. */
    OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF));
}

/* EXPECT_ENV_LOGGER is set by those who know which library this is. */
static void the_feature_is_there_or_is_named(void)
{
    const char *expected = getenv("EXPECT_ENV_LOGGER");
    int r = vfiomig_log_init_env();
    CHECK(r == 0 || r == -EOPNOTSUPP);
    if (expected)
        EQ(r == 0, *expected == '1');
    if (r < 0)
        HAS(vfiomig_error_message(), "env-logger");
    OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF));
}

int main(void)
{
    RUN(as_the_variable_says_and_again);
    RUN(the_feature_is_there_or_is_named);
    return DONE();
}
