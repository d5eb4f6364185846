/* The harness of the guest programs: tests that check themselves, natively and in the sandbox alike.
 *
 *   TEST(name) { CHECK(...); ... }      each runs in a process and an empty directory of its own
 *
 * A failed check prints "not ok NAME: FILE:LINE EXPRESSION" and ends its process with status 1; a test whose process
 * ends with 0 prints "ok NAME". The program exits 1 if any failed. Arguments choose tests by name and run them in
 * the program's own process, for a debugger. GUEST_DIR is where the directories are made (default: /tmp).
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TIME_LIMIT_SECONDS 30 /* for one test, times slowness() */

struct test {
    const char *name;
    void (*run)(void);
};

#define TEST(n)                                                                                  \
    static void n(void);                                                                         \
    static const struct test test_##n = {#n, n};                                                 \
    static const struct test *const entry_##n __attribute__((section("tests"), used)) = &test_##n; \
    static void n(void)

extern const struct test *const __start_tests[], *const __stop_tests[];

static const char *current_test = "main";
static char program_path[PATH_MAX]; /* absolute: tests that exec themselves use it */

/* A program that execs itself with an argument "--something" defines this. */
__attribute__((weak)) int helper(int argc, char **argv);

__attribute__((noreturn, format(printf, 3, 4), unused)) static void fail_at(const char *file, int line,
                                                                            const char *format, ...)
{
    char text[512];
    va_list args;
    const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    int used = snprintf(text, sizeof text, "not ok %s: %s:%d ", current_test, base, line);
    va_start(args, format);
    used += vsnprintf(text + used, sizeof text - (size_t)used - 1, format, args);
    va_end(args);
    if (used > (int)sizeof text - 2)
        used = sizeof text - 2;
    text[used++] = '\n';
    ssize_t n = write(1, text, (size_t)used);
    (void)n;
    _exit(1);
}

#define CHECK(e)                                                                          \
    do {                                                                                  \
        if (!(e))                                                                         \
            fail_at(__FILE__, __LINE__, "%s (errno %d: %s)", #e, errno, strerror(errno)); \
    } while (0)

#define CHECK_EQ(a, b)                                                                              \
    do {                                                                                            \
        long a_ = (long)(a), b_ = (long)(b);                                                        \
        if (a_ != b_)                                                                               \
            fail_at(__FILE__, __LINE__, "%s is %ld, not %s = %ld (errno %d)", #a, a_, #b, b_, errno); \
    } while (0)

/* The call must fail with this errno. */
#define CHECK_ERR(e, want)                                                                        \
    do {                                                                                          \
        errno = 0;                                                                                \
        long r_ = (long)(e);                                                                      \
        if (r_ != -1 || errno != (want))                                                          \
            fail_at(__FILE__, __LINE__, "%s gives %ld with errno %d (%s), not %s", #e, r_, errno, \
                    strerror(errno), #want);                                                      \
    } while (0)

/* The call must succeed; its value. */
#define MUST(e)                                                                                            \
    ({                                                                                                     \
        long r_ = (long)(e);                                                                               \
        if (r_ == -1)                                                                                      \
            fail_at(__FILE__, __LINE__, "%s fails with errno %d (%s)", #e, errno, strerror(errno));        \
        r_;                                                                                                \
    })

#define CHECK_EXITED(pid, code)                                                                   \
    do {                                                                                          \
        int s_ = wait_for(pid);                                                                   \
        if (!WIFEXITED(s_) || WEXITSTATUS(s_) != (code))                                          \
            fail_at(__FILE__, __LINE__, "child's status is %#x, not exit %d", s_, (int)(code));   \
    } while (0)

#define CHECK_KILLED(pid, signo)                                                                       \
    do {                                                                                               \
        int s_ = wait_for(pid);                                                                        \
        if (!WIFSIGNALED(s_) || WTERMSIG(s_) != (signo))                                               \
            fail_at(__FILE__, __LINE__, "child's status is %#x, not killed by %d", s_, (int)(signo));  \
    } while (0)

__attribute__((unused)) static int wait_for(pid_t pid)
{
    int status;
    pid_t got;
    while ((got = waitpid(pid, &status, 0)) == -1 && errno == EINTR) {
    }
    CHECK(got == pid);
    return status;
}

__attribute__((unused)) static pid_t must_fork(void)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    return pid;
}

/* A gate lets one process wait for another: no sleeps. */
struct gate {
    int fds[2];
};

__attribute__((unused)) static struct gate gate_new(void)
{
    struct gate gate;
    MUST(pipe(gate.fds));
    return gate;
}

__attribute__((unused)) static void gate_open(struct gate *gate)
{
    CHECK(write(gate->fds[1], "g", 1) == 1);
}

__attribute__((unused)) static void gate_wait(struct gate *gate)
{
    char c;
    ssize_t n;
    while ((n = read(gate->fds[0], &c, 1)) == -1 && errno == EINTR) {
    }
    CHECK(n == 1);
}

/* The state letter of a process or thread: 'S' when it sleeps, 'T' when stopped, 'Z' for a zombie. */
__attribute__((unused)) static char state_of(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = (int)MUST(open(path, O_RDONLY));
    ssize_t n = MUST(read(fd, text, sizeof text - 1));
    text[n] = 0;
    close(fd);
    const char *paren = strrchr(text, ')');
    CHECK(paren != NULL);
    return paren[2];
}

__attribute__((unused)) static void wait_state(pid_t pid, char state)
{
    while (state_of(pid) != state)
        usleep(1000);
}

/* Forks who sends signo to the caller once that sleeps: in the call that comes next.  A timer of some milliseconds would
 * not do, since on a busy machine it may expire before the call. */
__attribute__((unused)) static pid_t signal_when_asleep(int signo)
{
    pid_t sleeper = getpid(), pid = must_fork();
    if (pid == 0) {
        wait_state(sleeper, 'S');
        MUST(kill(sleeper, signo));
        _exit(0);
    }
    return pid;
}

__attribute__((unused)) static int64_t now_ns(void)
{
    struct timespec now;
    MUST(clock_gettime(CLOCK_MONOTONIC, &now));
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* A new file in the current directory that holds text. */
__attribute__((unused)) static void make_file(const char *path, const char *text)
{
    int fd = (int)MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    MUST(close(fd));
}

/* The file must hold exactly text. */
__attribute__((unused)) static void check_file(const char *path, const char *text)
{
    char got[8192];
    int fd = (int)MUST(open(path, O_RDONLY));
    ssize_t n = MUST(read(fd, got, sizeof got - 1));
    got[n] = 0;
    MUST(close(fd));
    if (strcmp(got, text) != 0)
        fail_at(__FILE__, __LINE__, "%s holds '%.60s', not '%.60s'", path, got, text);
}

/* How many times slower than usual this machine is. */
static inline int slowness(void)
{
    const char *factor = getenv("PYSC_TEST_SLOWNESS");
    return factor ? atoi(factor) : 1;
}

static int run_test(const struct test *test, const char *base)
{
    char dir[PATH_MAX];
    current_test = test->name;
    snprintf(dir, sizeof dir, "%s/%s.XXXXXX", base, test->name);
    if (mkdtemp(dir) == NULL || chdir(dir) != 0) {
        printf("not ok %s: no directory %s: %s\n", test->name, dir, strerror(errno));
        return 1;
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(TIME_LIMIT_SECONDS * slowness());
        test->run();
        _exit(0);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        printf("not ok %s: fork or wait: %s\n", test->name, strerror(errno));
        return 1;
    }
    if (WIFSIGNALED(status))
        printf("not ok %s: killed by signal %d (%s)\n", test->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) == 0)
        printf("ok %s\n", test->name);
    fflush(stdout);
    return status != 0;
}

int main(int argc, char **argv)
{
    const char *base = getenv("GUEST_DIR") ? getenv("GUEST_DIR") : "/tmp";
    int failed = 0;
    if (argc == 0 || argv[0][0] != '/' || strlen(argv[0]) >= sizeof program_path) {
        fprintf(stderr, "argv[0] must be the absolute path of the program\n");
        return 2;
    }
    strcpy(program_path, argv[0]);
    if (argc > 1 && strncmp(argv[1], "--", 2) == 0 && helper)
        return helper(argc, argv);
    umask(022);
    for (const struct test *const *test = __start_tests; test < __stop_tests; test++) {
        bool chosen = argc == 1;
        for (int i = 1; i < argc; i++)
            if (strcmp(argv[i], (*test)->name) == 0) {
                current_test = argv[i];
                (*test)->run();
                printf("ok %s\n", argv[i]);
            }
        if (chosen)
            failed += run_test(*test, base);
    }
    return failed != 0;
}

#endif
