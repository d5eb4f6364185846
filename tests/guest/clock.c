/* Clocks and sleeping. */
#include "check.h"
#include <sys/resource.h>
#include <sys/times.h>

static volatile int handled;

static int64_t ns_of(struct timespec time)
{
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void on_signal(int signo)
{
    (void)signo;
    handled++;
}

TEST(clocks_agree_and_advance)
{
    struct timespec mono, mono2, real, coarse, boot, raw;
    struct timeval tv;
    MUST(clock_gettime(CLOCK_MONOTONIC, &mono));
    MUST(clock_gettime(CLOCK_REALTIME, &real));
    MUST(clock_gettime(CLOCK_REALTIME_COARSE, &coarse));
    MUST(clock_gettime(CLOCK_BOOTTIME, &boot));
    MUST(clock_gettime(CLOCK_MONOTONIC_RAW, &raw));
    MUST(gettimeofday(&tv, NULL));
    CHECK(labs(tv.tv_sec - real.tv_sec) <= 1 && labs(coarse.tv_sec - real.tv_sec) <= 1);
    CHECK(labs(time(NULL) - real.tv_sec) <= 1);
    CHECK(boot.tv_sec >= mono.tv_sec);
    MUST(clock_gettime(CLOCK_MONOTONIC, &mono2));
    CHECK(mono2.tv_sec > mono.tv_sec || (mono2.tv_sec == mono.tv_sec && mono2.tv_nsec >= mono.tv_nsec));
    CHECK_ERR(syscall(SYS_clock_gettime, 77, &mono), EINVAL);
}

TEST(library_and_system_call_agree)
{
    struct timespec a, b, c;
    MUST(clock_gettime(CLOCK_MONOTONIC, &a)); /* may come from the vDSO */
    MUST(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &b));
    MUST(clock_gettime(CLOCK_MONOTONIC, &c));
    int64_t an = a.tv_sec * 1000000000LL + a.tv_nsec, bn = b.tv_sec * 1000000000LL + b.tv_nsec,
            cn = c.tv_sec * 1000000000LL + c.tv_nsec;
    CHECK(an <= bn && bn <= cn);
}

TEST(resolution)
{
    struct timespec res;
    MUST(clock_getres(CLOCK_MONOTONIC, &res));
    CHECK(res.tv_sec == 0 && res.tv_nsec == 1);
    CHECK_ERR(clock_getres(77, &res), EINVAL);
}

TEST(processor_time)
{
    struct timespec before, after, thread;
    struct rusage usage;
    struct tms tms;
    MUST(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before));
    do
        MUST(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after));
    while (after.tv_sec * 1000000000LL + after.tv_nsec < before.tv_sec * 1000000000LL + before.tv_nsec + 20000000);
    MUST(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &thread));
    CHECK(thread.tv_sec > 0 || thread.tv_nsec > 0);
    MUST(getrusage(RUSAGE_SELF, &usage));
    CHECK(usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec >= 10000);
    CHECK(usage.ru_maxrss > 0);
    MUST(getrusage(RUSAGE_THREAD, &usage));
    CHECK(times(&tms) != (clock_t)-1);
    CHECK_ERR(getrusage(99, &usage), EINVAL);
    CHECK_EQ(sysconf(_SC_CLK_TCK), 100);
}

TEST(sleeping_takes_its_time)
{
    struct timespec wait = {.tv_nsec = 30000000}, left = {7, 7};
    int64_t start = now_ns();
    MUST(nanosleep(&wait, &left));
    CHECK(now_ns() - start >= 30000000);
    CHECK(left.tv_sec == 7); /* not touched when all was slept */
    wait.tv_nsec = 1000000000;
    CHECK_ERR(nanosleep(&wait, NULL), EINVAL);
    wait = (struct timespec){-1, 0};
    CHECK_ERR(nanosleep(&wait, NULL), EINVAL);
    CHECK_ERR(syscall(SYS_nanosleep, 8, NULL), EFAULT);
}

static int relative_sleep(const struct timespec *wait, struct timespec *left)
{
    return nanosleep(wait, left) == 0 ? 0 : errno;
}

static int sleep_on_a_clock(const struct timespec *wait, struct timespec *left)
{
    return clock_nanosleep(CLOCK_MONOTONIC, 0, wait, left);
}

static void sleep_is_interrupted(int (*sleep_for)(const struct timespec *, struct timespec *))
{
    struct timespec wait = {.tv_sec = 100}, left = {0};
    pid_t pid = signal_when_asleep(SIGALRM);
    int64_t start = now_ns();
    CHECK_EQ(sleep_for(&wait, &left), EINTR);
    int64_t left_ns = ns_of(left);
    CHECK(left_ns + now_ns() - start >= ns_of(wait));
    CHECK(left_ns < ns_of(wait) + 1000000); /* Linux counts a timer's slack as rest */
    CHECK(left.tv_nsec >= 0 && left.tv_nsec < 1000000000);
    CHECK_EXITED(pid, 0);
}

TEST(interrupted_sleep_tells_the_rest)
{
    signal(SIGALRM, on_signal);
    sleep_is_interrupted(relative_sleep);
    sleep_is_interrupted(sleep_on_a_clock);
}

TEST(absolute_sleep)
{
    struct timespec until;
    int64_t start = now_ns();
    MUST(clock_gettime(CLOCK_MONOTONIC, &until));
    until.tv_sec += (until.tv_nsec += 30000000) / 1000000000;
    until.tv_nsec %= 1000000000;
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0);
    CHECK(now_ns() - start >= 29000000);
    until.tv_sec = 0; /* long ago, for all but a machine that has just been started */
    start = now_ns();
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0);
    CHECK(now_ns() - start < 10000000000LL * slowness());
    CHECK_EQ(clock_nanosleep(77, 0, &until, NULL), EINVAL);
}

TEST(a_stopped_sleeper_sleeps_on)
{
    struct gate ready = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        struct timespec wait = {.tv_nsec = 100000000};
        int64_t start = now_ns();
        gate_open(&ready);
        MUST(nanosleep(&wait, NULL));
        _exit(now_ns() - start >= 100000000 ? 0 : 1);
    }
    int status;
    gate_wait(&ready);
    kill(pid, SIGSTOP);
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    kill(pid, SIGCONT);
    CHECK_EXITED(pid, 0);
}

static bool wake_in_order(int64_t gap_ns)
{
    int fds[2];
    char order[6] = {0};
    int64_t start = now_ns();
    MUST(pipe(fds));
    for (int i = 4; i >= 0; i--)
        if (must_fork() == 0) {
            int64_t until_ns = start + gap_ns * (i + 1);
            struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
            CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0);
            write(fds[1], &"01234"[i], 1);
            _exit(0);
        }
    for (int i = 0; i < 5; i++)
        MUST(wait(NULL));
    CHECK_EQ(read(fds[0], order, 5), 5);
    return strcmp(order, "01234") == 0;
}

/* How far apart they must be for that depends on how busy the machine is. */
TEST(many_sleepers_wake_in_order)
{
    int64_t gap_ns = 50000000;
    while (!wake_in_order(gap_ns)) {
        gap_ns *= 4;
        CHECK(gap_ns < 4000000000LL);
    }
}
