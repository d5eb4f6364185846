/* What the rows of the micro-benchmark share: how a row is declared, and how a failing call ends it.
 *
 * A row is set up once, then asked for batches of n operations; micro.c chooses n and keeps the time.  Every row runs
 * in a process of its own, so what it opens, maps or starts need not be put back.
 */
#ifndef MICRO_H
#define MICRO_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stddef.h>
#include <unistd.h>

struct row {
    const char *name;
    int (*set_up)(void); /* may be NULL; 0, or -1 after TRY */
    int (*batch)(long n);
};

/* Each file's rows, ended by one without a name. */
extern const struct row file_rows[], memory_rows[], process_rows[], message_rows[], simple_rows[];

/* The call that failed, as text; with errno it is the reason that the row has no number. */
extern const char *failed_call;

/* The path of this very program, for exec. */
extern const char *program;

#define TRY(call)                \
    do {                         \
        if ((long)(call) < 0) {  \
            failed_call = #call; \
            return -1;           \
        }                        \
    } while (0)

/* Like a TRY that failed, of a call whose result says so in another way. */
#define FAIL(call)          \
    do {                    \
        failed_call = call; \
        return -1;          \
    } while (0)

/* For calls that return the error instead of setting errno. */
#define TRY_POSIX(call)          \
    do {                         \
        errno = (call);          \
        if (errno != 0) {        \
            failed_call = #call; \
            return -1;           \
        }                        \
    } while (0)

#endif
