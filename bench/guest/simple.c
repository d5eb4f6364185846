/* Rows of calls that touch nothing but the kernel: the bare cost of getting there and back. */
#include "micro.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

static int getpid_batch(long n) {
    while (n-- > 0)
        TRY(syscall(SYS_getpid));
    return 0;
}

/* The libc's: it reads the clock in user space where the vDSO can. */
static int clock_gettime_batch(long n) {
    struct timespec now;
    while (n-- > 0)
        TRY(clock_gettime(CLOCK_MONOTONIC, &now));
    return 0;
}

static volatile sig_atomic_t caught;

static void on_signal(int number) {
    (void)number;
    caught++;
}

static int signal_set_up(void) {
    struct sigaction action = {.sa_handler = on_signal};
    TRY(sigaction(SIGUSR1, &action, NULL));
    return 0;
}

/* Sent, delivered to its handler and returned from. */
static int signal_batch(long n) {
    pid_t self = getpid();
    while (n-- > 0)
        TRY(kill(self, SIGUSR1));
    return 0;
}

const struct row simple_rows[] = {
    {"getpid", NULL, getpid_batch},
    {"clock_gettime", NULL, clock_gettime_batch},
    {"signal", signal_set_up, signal_batch},
    {0},
};
