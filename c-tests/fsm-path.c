/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The path from one state to another is computed without a device; a few that are easy to get
 * wrong. */
#include "check.h"

enum { E, ST, RU, SC, RE, RP, PC, PP };

/* want ends with 0 if it is shorter; -1 at its start: there is no path. */
static void expect(uint64_t flags, uint32_t from, uint32_t to, int opens, const int want[5])
{
    struct vfiomig_path path = VFIOMIG_PATH_INIT;
    int r = vfiomig_fsm_path(flags, from, to, &path), n = 0;
    if (want[0] < 0) {
        EQ(r, -EINVAL);
        return;
    }
    OK(r);
    while (n < 5 && want[n])
        n++;
    EQ(path.num_steps, n);
    for (int i = 0; i < n; i++)
        EQ(path.steps[i], want[i]);
    EQ(path.opens_data, opens);
}

static void with_everything(void)
{
    expect(7, RU, RU, 0, (int[5]){ 0 });
    expect(7, RU, PC, 1, (int[5]){ PC });
    expect(7, PC, SC, 0, (int[5]){ PP, SC });
    expect(7, PC, ST, 0, (int[5]){ RU, RP, ST }); /* the device runs again on the way */
    expect(7, RE, PC, 1, (int[5]){ ST, RP, RU, PC });
    expect(7, SC, PC, 0, (int[5]){ -1 });
    expect(7, SC, RE, 1, (int[5]){ ST, RE });
    expect(7, ST, SC, 1, (int[5]){ SC });
}

static void without_p2p_or_pre_copy(void)
{
    expect(5, RU, SC, 1, (int[5]){ ST, SC });
    expect(5, PC, SC, 0, (int[5]){ SC });
    expect(5, RU, RP, 0, (int[5]){ -1 });
    expect(3, RU, SC, 1, (int[5]){ RP, ST, SC });
    expect(3, RU, PC, 0, (int[5]){ -1 });
    expect(1, RU, RE, 1, (int[5]){ ST, RE });
    expect(1, RE, RU, 0, (int[5]){ ST, RU });
    expect(0, RU, SC, 0, (int[5]){ -1 });
}

static void no_way_out_of_error_and_none_into_it(void)
{
    for (int s = ST; s <= PP; s++) {
        expect(7, E, (uint32_t)s, 0, (int[5]){ -1 });
        expect(7, (uint32_t)s, E, 0, (int[5]){ -1 });
        expect(7, (uint32_t)s, 8, 0, (int[5]){ -1 });
        expect(7, (uint32_t)s, UINT32_MAX, 0, (int[5]){ -1 });
    }
}

static void names(void)
{
    static const char *const want[] = { "ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING",
                                        "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P", "UNKNOWN" };
    for (uint32_t i = 0; i < 9; i++)
        EQ(strcmp(vfiomig_state_name(i), want[i]), 0);
    EQ(strcmp(vfiomig_state_name(VFIOMIG_STATE_UNKNOWN), "UNKNOWN"), 0);
}

int main(void)
{
    RUN(with_everything);
    RUN(without_p2p_or_pre_copy);
    RUN(no_way_out_of_error_and_none_into_it);
    RUN(names);
    return DONE();
}
