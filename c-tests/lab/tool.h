/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For the tests that run the tool. */
#ifndef TOOL_H
#define TOOL_H

#include "lab.h"

#define TOOL_MOST_ARGUMENTS 16

/*
 * Runs `vfiomig` with these arguments, of which NULL is the last, and returns all that it says, until the next
 * run. Fails unless it exits with this status.
 */
static inline const char *tool(int want, ...) __attribute__((sentinel));
static inline const char *tool(int want, ...)
{
    static char all[65536];
    char *argv[TOOL_MOST_ARGUMENTS + 2] = { NULL };
    unsigned count = 1;
    va_list args;
    FILE *said;
    pid_t pid;

    va_start(args, want);
    printf("$ vfiomig");
    while ((argv[count] = va_arg(args, char *))) {
        printf(" %s", argv[count]);
        CHECK(++count <= TOOL_MOST_ARGUMENTS, "too many arguments");
    }
    printf("\n");
    va_end(args);
    said = lab_start("vfiomig", argv, &pid);
    all[fread(all, 1, sizeof(all) - 1, said)] = 0;
    printf("%s\n", all);
    EXPECT(lab_wait(said, pid, "the tool"), want);
    return all;
}

static inline void says(const char *said, const char *what)
{
    CHECK(strstr(said, what), "\"%s\" is not in what the tool says", what);
}

/* For those who read the lab's output. */
static inline void show(const char *said)
{
    while (*said) {
        size_t len = strcspn(said, "\n");

        printf("| %.*s\n", (int)len, said);
        said += len + (said[len] == '\n');
    }
}

#endif
