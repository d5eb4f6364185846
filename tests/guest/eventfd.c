/* eventfd, timerfd, signalfd: descriptors that stand for events. */
#include "check.h"
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int poll_events(int fd)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN | POLLOUT};
    MUST(poll(&polled, 1, 0));
    return polled.revents;
}

TEST(eventfd_counts)
{
    uint64_t value;
    int fd = (int)MUST(eventfd(3, EFD_NONBLOCK));
    CHECK_EQ(poll_events(fd), POLLIN | POLLOUT);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 3);
    CHECK_EQ(poll_events(fd), POLLOUT);
    CHECK_ERR(read(fd, &value, 8), EAGAIN);
    value = 4;
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 8);
    CHECK_ERR(read(fd, &value, 7), EINVAL);
    CHECK_ERR(write(fd, &value, 7), EINVAL);
    value = UINT64_MAX;
    CHECK_ERR(write(fd, &value, 8), EINVAL);
    value = UINT64_MAX - 1;
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EQ(poll_events(fd), POLLIN);
    value = 1;
    CHECK_ERR(write(fd, &value, 8), EAGAIN);
    CHECK_ERR(eventfd(0, 0x1000000), EINVAL);
}

TEST(eventfd_as_semaphore)
{
    uint64_t value;
    int fd = (int)MUST(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 1);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 1);
    CHECK_ERR(read(fd, &value, 8), EAGAIN);
}

TEST(eventfd_wakes_another_process)
{
    uint64_t value;
    int fd = (int)MUST(eventfd(0, 0));
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(read(fd, &value, 8) == 8 ? (int)value : 0);
    wait_state(pid, 'S');
    value = 12;
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EXITED(pid, 12);
}

TEST(timerfd_expires_and_counts)
{
    uint64_t value;
    int fd = (int)MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    CHECK_ERR(read(fd, &value, 8), EAGAIN);
    struct itimerspec spec = {.it_value.tv_nsec = 5000000, .it_interval.tv_nsec = 5000000}, now;
    MUST(timerfd_settime(fd, 0, &spec, NULL));
    MUST(timerfd_gettime(fd, &now));
    CHECK_EQ(now.it_interval.tv_nsec, 5000000);
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&polled, 1, 5000), 1);
    usleep(20000);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK(value >= 3);
    spec = (struct itimerspec){0};
    MUST(timerfd_settime(fd, 0, &spec, &now));
    CHECK_EQ(now.it_interval.tv_nsec, 5000000);
    MUST(timerfd_gettime(fd, &now));
    CHECK_EQ(now.it_value.tv_sec + now.it_value.tv_nsec, 0);
    CHECK_ERR(read(fd, &value, 4), EINVAL);
}

TEST(timerfd_blocks_until_then)
{
    uint64_t value;
    int fd = (int)MUST(timerfd_create(CLOCK_REALTIME, 0));
    struct itimerspec spec = {0};
    int64_t start = now_ns();
    clock_gettime(CLOCK_REALTIME, &spec.it_value);
    spec.it_value.tv_sec += (spec.it_value.tv_nsec += 20000000) / 1000000000;
    spec.it_value.tv_nsec %= 1000000000;
    MUST(timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL));
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 1);
    CHECK(now_ns() - start >= 15000000);
}

TEST(timerfd_errors)
{
    struct itimerspec spec = {.it_value.tv_nsec = 1000000000};
    CHECK_ERR(timerfd_create(99, 0), EINVAL);
    CHECK_ERR(timerfd_create(CLOCK_MONOTONIC, 0x1000000), EINVAL);
    int fd = (int)MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    CHECK_ERR(timerfd_settime(fd, 0, &spec, NULL), EINVAL);
    CHECK_ERR(timerfd_settime(fd, 64, &spec, NULL), EINVAL);
    CHECK_ERR(timerfd_gettime(0x7fff, &spec), EBADF);
    int fds[2];
    MUST(pipe(fds));
    CHECK_ERR(timerfd_gettime(fds[0], &spec), EINVAL);
}

TEST(signalfd_reads_signals)
{
    struct signalfd_siginfo info[2];
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = (int)MUST(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    CHECK_ERR(read(fd, info, sizeof info), EAGAIN);
    CHECK_EQ(poll_events(fd), 0);
    kill(getpid(), SIGUSR1);
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 321});
    CHECK_EQ(poll_events(fd), POLLIN);
    CHECK_EQ(read(fd, info, sizeof info), sizeof info);
    CHECK_EQ(info[0].ssi_signo, SIGUSR1);
    CHECK_EQ(info[0].ssi_code, SI_USER);
    CHECK_EQ(info[0].ssi_pid, getpid());
    CHECK_EQ(info[1].ssi_signo, SIGRTMIN);
    CHECK_EQ(info[1].ssi_int, 321);
    CHECK_ERR(read(fd, info, 10), EINVAL);
}

TEST(signalfd_mask_can_change)
{
    struct signalfd_siginfo info;
    sigset_t one, two;
    sigemptyset(&one);
    sigemptyset(&two);
    sigaddset(&one, SIGUSR1);
    sigaddset(&two, SIGUSR2);
    sigprocmask(SIG_BLOCK, &one, NULL);
    sigprocmask(SIG_BLOCK, &two, NULL);
    int fd = (int)MUST(signalfd(-1, &one, SFD_NONBLOCK));
    raise(SIGUSR2);
    CHECK_ERR(read(fd, &info, sizeof info), EAGAIN);
    CHECK_EQ(signalfd(fd, &two, 0), fd);
    CHECK_EQ(read(fd, &info, sizeof info), sizeof info);
    CHECK_EQ(info.ssi_signo, SIGUSR2);
}

TEST(signalfd_wakes_for_a_dead_child)
{
    struct signalfd_siginfo info;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = (int)MUST(signalfd(-1, &set, 0));
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(3);
    CHECK_EQ(read(fd, &info, sizeof info), sizeof info);
    CHECK_EQ(info.ssi_signo, SIGCHLD);
    CHECK_EQ(info.ssi_pid, pid);
    CHECK_EQ(info.ssi_status, 3);
    CHECK_EQ(info.ssi_code, CLD_EXITED);
    CHECK_EXITED(pid, 3);
}
