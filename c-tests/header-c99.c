/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The header, first and alone, in strict C99; the Makefile passes -std=c99 -pedantic-errors. */
#include "vfiomig.h"

#include <stdio.h>

#if __STDC_VERSION__ != 199901L
#error "not compiled as C99"
#endif
#if defined(VFIO_TYPE) || defined(_LINUX_TYPES_H)
#error "the header must not need the kernel's"
#endif

int main(void)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_load_options load = VFIOMIG_LOAD_OPTIONS_INIT;
    int good = ops.struct_size == sizeof ops && load.struct_size == sizeof load &&
               ops.feature == NULL && vfiomig_version() == VFIOMIG_VERSION;
    puts(good ? "ok header-c99\n1 passed, 0 failed" : "not ok header-c99: initialisers\n0 passed, 1 failed");
    return !good;
}
