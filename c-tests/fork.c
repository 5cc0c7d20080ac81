/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A VMM may fork before it migrates, also while it has handles: both processes go on with their
 * own. (Using one kernel device from both is the VMM's own mistake; these are simulated.)
 */
#include <sys/wait.h>
#include <unistd.h>

#include "rig.h"

static void a_child_uses_what_it_inherited(void)
{
    struct rig rig = rig_new(NULL, NULL);
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        uint8_t buf[8192];
        struct vfiomig_save *save;
        size_t len;
        int r = vfiomig_save_begin(rig.dev, NULL, &save);
        while (r >= 0 && r != VFIOMIG_END) {
            r = vfiomig_save_next(save, buf, sizeof buf, &len);
            if (r == VFIOMIG_DRAINED)
                r = vfiomig_save_stop(save);
        }
        _exit(r == VFIOMIG_END ? 0 : 1);
    }
    int status = -1;
    EQ(waitpid(child, &status, 0), child);
    EQ(status, 0);
    /* Here nothing has happened. */
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    struct bytes stream = stream_of(rig.dev);
    CHECK(vfiomig_sim_digest(rig.sim) == digest);
    rig_free(&rig);
    bytes_free(&stream);
}

int main(void)
{
    RUN(a_child_uses_what_it_inherited);
    return DONE();
}
