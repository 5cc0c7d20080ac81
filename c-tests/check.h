/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What every test program here uses: one line per test, "ok NAME" or "not ok NAME: reason", and "N
 * passed, N failed" at the end. A check that fails ends its test. Checks are for the program's own
 * thread, not for callbacks that the library calls, nor for other threads.
 */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vfiomig.h"

static jmp_buf check_out_;
static const char *check_name_;
static int check_passed_, check_failed_;

static inline void check_fail_(const char *file, int line, const char *format, ...)
{
    const char *slash = strrchr(file, '/');
    va_list args;
    printf("not ok %s: %s:%d: ", check_name_, slash ? slash + 1 : file, line);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    longjmp(check_out_, 1);
}

static inline void check_run_(const char *function, void (*test)(void))
{
    static char name[96];
    snprintf(name, sizeof name, "%s", function);
    for (char *c = name; *c; c++)
        if (*c == '_')
            *c = '-';
    check_name_ = name;
    if (setjmp(check_out_) == 0) {
        test();
        check_passed_++;
        printf("ok %s\n", name);
    } else {
        check_failed_++;
    }
    fflush(stdout);
}

static inline void check_int_(const char *file, int line, const char *what, long long got,
                              const char *text, long long want)
{
    if (got != want)
        check_fail_(file, line, "%s is %lld, not %s (%lld)%s%s", what, got, text, want,
                    got < 0 ? ": " : "", got < 0 ? vfiomig_error_message() : "");
}

/* Runs a test function. */
#define RUN(test) check_run_(#test, test)
/* What main() returns. */
#define DONE()                                                          \
    (printf("%d passed, %d failed\n", check_passed_, check_failed_),    \
     check_failed_ > 0 || check_passed_ == 0)

#define FAIL(...) check_fail_(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition)                                      \
    do {                                                      \
        if (!(condition))                                     \
            check_fail_(__FILE__, __LINE__, "%s", #condition); \
    } while (0)
/* Integers that must be equal: what was got, what was wanted. */
#define EQ(got, want)                                                                  \
    check_int_(__FILE__, __LINE__, #got, (long long)(got), #want, (long long)(want))
/* A call of the library that must succeed with 0. */
#define OK(call) EQ(call, 0)
#define HAS(text, part)                                                                \
    do {                                                                               \
        const char *text_ = (text);                                                    \
        if (!strstr(text_, part))                                                      \
            check_fail_(__FILE__, __LINE__, "\"%s\" is not in \"%s\"", part, text_);   \
    } while (0)

#endif
