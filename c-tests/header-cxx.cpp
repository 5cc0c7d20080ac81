/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The header, first and alone, in strict C++17: linkage, initialisers, a whole call. */
#include "vfiomig.h"

#include <cstdio>
#include <cstring>

static_assert(__cplusplus == 201703L, "not compiled as C++17");

int main()
{
    vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    vfiomig_path path = VFIOMIG_PATH_INIT;
    vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    bool good = caps.struct_size == sizeof caps && ops.feature == nullptr &&
                vfiomig_fsm_path(7, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_PRE_COPY, &path) == 0 &&
                path.num_steps == 1 && path.steps[0] == VFIOMIG_STATE_PRE_COPY &&
                path.opens_data == 1 && std::strcmp(vfiomig_state_name(6), "PRE_COPY") == 0;
    std::puts(good ? "ok header-cxx\n1 passed, 0 failed" : "not ok header-cxx: wrong values\n0 passed, 1 failed");
    return !good;
}
