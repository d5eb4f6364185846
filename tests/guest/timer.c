/* alarm, setitimer, timer_create: timers that signal. */
#include "check.h"

static volatile int count, last_value, last_code, last_overrun;

static void note(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)context;
    count++;
    last_value = info->si_value.sival_int;
    last_code = info->si_code;
    last_overrun = info->si_overrun;
}

static void handle(int signo)
{
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    MUST(sigaction(signo, &action, NULL));
}

TEST(alarm_kills_by_default)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        struct itimerval timer = {.it_value.tv_usec = 10000};
        setitimer(ITIMER_REAL, &timer, NULL);
        for (;;)
            pause();
    }
    CHECK_KILLED(pid, SIGALRM);
}

TEST(alarm_returns_what_was_left)
{
    alarm(100);
    unsigned left = alarm(50);
    CHECK(left > 50 && left <= 100);
    left = alarm(0);
    CHECK(left > 0 && left <= 50);
    CHECK_EQ(alarm(0), 0);
}

TEST(alarm_is_not_inherited)
{
    alarm(100);
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(alarm(0) == 0 ? 0 : 1);
    CHECK_EXITED(pid, 0);
    CHECK(alarm(0) > 0);
}

TEST(setitimer_repeats)
{
    struct itimerval timer = {.it_value.tv_usec = 5000, .it_interval.tv_usec = 5000}, old;
    handle(SIGALRM);
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    while (count < 3)
        pause();
    MUST(getitimer(ITIMER_REAL, &old));
    CHECK_EQ(old.it_interval.tv_usec, 5000);
    timer = (struct itimerval){0};
    MUST(setitimer(ITIMER_REAL, &timer, &old));
    CHECK_EQ(old.it_interval.tv_usec, 5000);
    MUST(getitimer(ITIMER_REAL, &old));
    CHECK_EQ(old.it_value.tv_sec + old.it_value.tv_usec, 0);
    timer.it_value.tv_usec = 1000000;
    CHECK_ERR(setitimer(ITIMER_REAL, &timer, NULL), EINVAL);
    CHECK_ERR(setitimer(7, &old, NULL), EINVAL);
}

TEST(virtual_timer_counts_cpu_time)
{
    struct itimerval timer = {.it_value.tv_usec = 20000};
    handle(SIGVTALRM);
    MUST(setitimer(ITIMER_VIRTUAL, &timer, NULL));
    while (count == 0) {
    }
}

TEST(timer_create_signals_with_its_value)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 99};
    struct itimerspec spec = {.it_value.tv_nsec = 5000000}, left;
    sigset_t set, none;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL); /* so that it cannot come between the look at count and the sleep */
    handle(SIGRTMIN);
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    MUST(timer_settime(timer, 0, &spec, NULL));
    while (count == 0)
        sigsuspend(&none);
    CHECK_EQ(last_value, 99);
    CHECK_EQ(last_code, SI_TIMER);
    MUST(timer_gettime(timer, &left));
    CHECK_EQ(left.it_value.tv_sec + left.it_value.tv_nsec, 0);
    MUST(timer_delete(timer));
    CHECK_ERR(timer_gettime(timer, &left), EINVAL);
    CHECK_ERR(timer_delete(timer), EINVAL);
}

TEST(timer_counts_overruns)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct itimerspec spec = {.it_value.tv_nsec = 1000000, .it_interval.tv_nsec = 1000000};
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    MUST(timer_settime(timer, 0, &spec, NULL));
    usleep(30000);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
    CHECK(info.si_overrun >= 5);
    CHECK(timer_getoverrun(timer) >= 5);
    MUST(timer_delete(timer));
}

TEST(timer_absolute_in_the_past_fires_at_once)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct itimerspec spec = {.it_value.tv_nsec = 1};
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    MUST(timer_settime(timer, TIMER_ABSTIME, &spec, NULL));
    CHECK_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
}

TEST(timer_without_notification)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    struct itimerspec spec = {.it_value.tv_sec = 100}, left;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    MUST(timer_settime(timer, 0, &spec, NULL));
    MUST(timer_gettime(timer, &left));
    CHECK(left.it_value.tv_sec > 50 && left.it_value.tv_sec <= 100);
    CHECK_ERR(timer_create(77, &event, &timer), EINVAL);
    event.sigev_notify = 99;
    CHECK_ERR(timer_create(CLOCK_MONOTONIC, &event, &timer), EINVAL);
}

TEST(timers_are_not_inherited)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    struct itimerspec left;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    pid_t pid = must_fork();
    if (pid == 0) {
        CHECK_ERR(timer_gettime(timer, &left), EINVAL);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}
