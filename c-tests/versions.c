/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The version is the same in the header, in the library and in the build. */
#include "check.h"

static void header_and_library_are_of_one_version(void)
{
    EQ(vfiomig_version(), VFIOMIG_VERSION);
    EQ(VFIOMIG_VERSION >> 16, VFIOMIG_VERSION_MAJOR);
    EQ(VFIOMIG_VERSION >> 8 & 0xff, VFIOMIG_VERSION_MINOR);
    EQ(VFIOMIG_VERSION & 0xff, VFIOMIG_VERSION_PATCH);
}

static void text_and_numbers_agree(void)
{
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", VFIOMIG_VERSION_MAJOR, VFIOMIG_VERSION_MINOR,
             VFIOMIG_VERSION_PATCH);
    EQ(strcmp(vfiomig_version_string(), text), 0);
}

/* VERSION comes from Cargo.toml by way of the Makefile. */
static void build_agrees(void)
{
    EQ(strcmp(vfiomig_version_string(), VERSION), 0);
}

int main(void)
{
    RUN(header_and_library_are_of_one_version);
    RUN(text_and_numbers_agree);
    RUN(build_agrees);
    return DONE();
}
