/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The header, first and alone, in C11 with -Wpedantic, twice, and every initialiser in it. */
#include "vfiomig.h"
#include "vfiomig.h"

#include <stdio.h>

_Static_assert(__STDC_VERSION__ == 201112L, "not compiled as C11");

#define GOOD(type, init)                                              \
    do {                                                              \
        struct type s = init;                                         \
        const unsigned char *byte = (const unsigned char *)&s;        \
        good = good && s.struct_size == sizeof s;                     \
        for (size_t i = sizeof s.struct_size; i < sizeof s; i++)      \
            good = good && byte[i] == 0;                              \
        count++;                                                      \
    } while (0)

int main(void)
{
    int good = 1, count = 0;
    GOOD(vfiomig_device_options, VFIOMIG_DEVICE_OPTIONS_INIT);
    GOOD(vfiomig_device_ops, VFIOMIG_DEVICE_OPS_INIT);
    GOOD(vfiomig_identity, VFIOMIG_IDENTITY_INIT);
    GOOD(vfiomig_compat_rule, VFIOMIG_COMPAT_RULE_INIT);
    GOOD(vfiomig_compat_policy, VFIOMIG_COMPAT_POLICY_INIT);
    GOOD(vfiomig_verdict, VFIOMIG_VERDICT_INIT);
    GOOD(vfiomig_caps, VFIOMIG_CAPS_INIT);
    GOOD(vfiomig_reason, VFIOMIG_REASON_INIT);
    GOOD(vfiomig_failure, VFIOMIG_FAILURE_INIT);
    GOOD(vfiomig_path, VFIOMIG_PATH_INIT);
    GOOD(vfiomig_save_options, VFIOMIG_SAVE_OPTIONS_INIT);
    GOOD(vfiomig_pending, VFIOMIG_PENDING_INIT);
    GOOD(vfiomig_save_stats, VFIOMIG_SAVE_STATS_INIT);
    GOOD(vfiomig_load_options, VFIOMIG_LOAD_OPTIONS_INIT);
    GOOD(vfiomig_load_stats, VFIOMIG_LOAD_STATS_INIT);
    puts(good && count == 15 ? "ok header-c11\n1 passed, 0 failed"
                             : "not ok header-c11: initialisers\n0 passed, 1 failed");
    return !good;
}
