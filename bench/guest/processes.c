/* Rows about processes and threads: making them, and handing over between two of them. */
#include "micro.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int wait_for(pid_t child) {
    int status;
    TRY(waitpid(child, &status, 0));
    if (status != 0) {
        errno = ECHILD;
        FAIL("the child");
    }
    return 0;
}

static int fork_exit_batch(long n) {
    while (n-- > 0) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        TRY(child);
        if (wait_for(child) < 0)
            return -1;
    }
    return 0;
}

static int fork_exec_batch(long n) {
    char *arguments[] = {(char *)program, "nothing", NULL};
    while (n-- > 0) {
        pid_t child = fork();
        if (child == 0) {
            execv(program, arguments);
            _exit(127);
        }
        TRY(child);
        if (wait_for(child) < 0)
            return -1;
    }
    return 0;
}

static void *end_at_once(void *nothing) {
    return nothing;
}

static int thread_batch(long n) {
    while (n-- > 0) {
        pthread_t thread;
        TRY_POSIX(pthread_create(&thread, NULL, end_at_once, NULL));
        TRY_POSIX(pthread_join(thread, NULL));
    }
    return 0;
}

/* Whose turn it is. */
static atomic_int turn;

static int wait_turn(int mine) {
    int seen;
    while ((seen = atomic_load(&turn)) != mine)
        if (syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, NULL) < 0 && errno != EAGAIN && errno != EINTR)
            FAIL("futex");
    return 0;
}

static int pass_turn(int to) {
    atomic_store(&turn, to);
    TRY(syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1));
    return 0;
}

static void *futex_peer(void *nothing) {
    while (wait_turn(1) == 0 && pass_turn(0) == 0)
        ;
    return nothing;
}

static int futex_set_up(void) {
    pthread_t peer;
    TRY_POSIX(pthread_create(&peer, NULL, futex_peer, NULL));
    return 0;
}

/* One operation: to the other thread and back. */
static int futex_batch(long n) {
    while (n-- > 0)
        if (pass_turn(1) < 0 || wait_turn(0) < 0)
            return -1;
    return 0;
}

static int there[2], back[2];

/* The peer ends when this process does: nobody else holds the write end of its pipe. */
static int pipe_pong_set_up(void) {
    char byte;
    pid_t child;
    TRY(pipe(there));
    TRY(pipe(back));
    TRY(child = fork());
    if (child == 0) {
        close(there[1]);
        close(back[0]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
            ;
        _exit(0);
    }
    TRY(close(there[0]));
    TRY(close(back[1]));
    return 0;
}

/* One operation: a byte to the other process and one back. */
static int pipe_pong_batch(long n) {
    char byte = 0;
    while (n-- > 0) {
        TRY(write(there[1], &byte, 1));
        TRY(read(back[0], &byte, 1));
    }
    return 0;
}

const struct row process_rows[] = {
    {"thread", NULL, thread_batch},
    {"fork_exit", NULL, fork_exit_batch},
    {"fork_exec", NULL, fork_exec_batch},
    {"futex_pong", futex_set_up, futex_batch},
    {"pipe_pong", pipe_pong_set_up, pipe_pong_batch},
    {0},
};
