/* poll, ppoll, select, pselect. */
#include "check.h"
#include <sys/select.h>

static int fds[2];
static volatile int handled;

static void on_signal(int signo)
{
    (void)signo;
    handled++;
}

TEST(poll_timeouts)
{
    int64_t start = now_ns();
    CHECK_EQ(poll(NULL, 0, 20), 0);
    CHECK(now_ns() - start >= 19000000);
    MUST(pipe(fds));
    struct pollfd polled = {.fd = fds[0], .events = POLLIN};
    CHECK_EQ(poll(&polled, 1, 0), 0);
    start = now_ns();
    CHECK_EQ(poll(&polled, 1, 20), 0);
    CHECK(now_ns() - start >= 19000000);
    CHECK_EQ(polled.revents, 0);
}

TEST(poll_counts_ready_descriptors)
{
    int other[2];
    MUST(pipe(fds));
    MUST(pipe(other));
    write(fds[1], "x", 1);
    struct pollfd polled[] = {{.fd = fds[0], .events = POLLIN},
                              {.fd = other[0], .events = POLLIN},
                              {.fd = other[1], .events = POLLOUT},
                              {.fd = -5, .events = POLLIN, .revents = 99},
                              {.fd = 999, .events = POLLIN}};
    CHECK_EQ(poll(polled, 5, -1), 3);
    CHECK_EQ(polled[0].revents, POLLIN);
    CHECK_EQ(polled[1].revents, 0);
    CHECK_EQ(polled[2].revents, POLLOUT);
    CHECK_EQ(polled[3].revents, 0);
    CHECK_EQ(polled[4].revents, POLLNVAL);
}

TEST(poll_is_woken)
{
    MUST(pipe(fds));
    pid_t parent = getpid(), pid = must_fork();
    if (pid == 0) {
        wait_state(parent, 'S');
        write(fds[1], "x", 1);
        _exit(0);
    }
    struct pollfd polled = {.fd = fds[0], .events = POLLIN};
    CHECK_EQ(poll(&polled, 1, 10000), 1);
    CHECK_EXITED(pid, 0);
}

TEST(regular_files_are_always_ready)
{
    make_file("f", "");
    int fd = (int)MUST(open("f", O_RDWR));
    struct pollfd polled = {.fd = fd, .events = POLLIN | POLLOUT};
    CHECK_EQ(poll(&polled, 1, -1), 1);
    CHECK_EQ(polled.revents, POLLIN | POLLOUT);
}

TEST(poll_errors)
{
    struct pollfd polled = {.fd = 0};
    CHECK_ERR(poll((struct pollfd *)8, 1, 0), EFAULT);
    CHECK_ERR(poll(&polled, 1 << 30, 0), EINVAL);
    struct timespec bad = {.tv_nsec = -1};
    CHECK_ERR(ppoll(&polled, 1, &bad, NULL), EINVAL);
}

TEST(ppoll_changes_the_mask_while_it_waits)
{
    sigset_t set, none;
    sigemptyset(&set);
    sigemptyset(&none);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    CHECK_EQ(handled, 0);
    CHECK_ERR(ppoll(NULL, 0, NULL, &none), EINTR);
    CHECK_EQ(handled, 1);
    sigprocmask(SIG_SETMASK, NULL, &none);
    CHECK(sigismember(&none, SIGUSR1));
}

TEST(select_marks_ready_descriptors)
{
    MUST(pipe(fds));
    fd_set in, out;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(fds[0], &in);
    FD_SET(fds[1], &out);
    CHECK_EQ(select(fds[1] + 1, &in, &out, NULL, NULL), 1);
    CHECK(!FD_ISSET(fds[0], &in) && FD_ISSET(fds[1], &out));
    write(fds[1], "x", 1);
    FD_SET(fds[0], &in);
    CHECK_EQ(select(fds[1] + 1, &in, &out, NULL, NULL), 2);
    close(fds[1]);
    read(fds[0], &(char){0}, 1);
    FD_ZERO(&in);
    FD_SET(fds[0], &in);
    CHECK_EQ(select(fds[0] + 1, &in, NULL, NULL, NULL), 1); /* end of file is readable */
}

TEST(select_times_out_and_tells_the_rest)
{
    struct timeval timeout = {.tv_usec = 20000};
    fd_set in;
    MUST(pipe(fds));
    FD_ZERO(&in);
    FD_SET(fds[0], &in);
    int64_t start = now_ns();
    CHECK_EQ(select(fds[0] + 1, &in, NULL, NULL, &timeout), 0);
    CHECK(now_ns() - start >= 19000000);
    CHECK(!FD_ISSET(fds[0], &in));
    CHECK_EQ(timeout.tv_sec + timeout.tv_usec, 0);
    timeout = (struct timeval){.tv_sec = 100};
    FD_SET(fds[1], &in);
    CHECK_EQ(select(fds[1] + 1, NULL, &in, NULL, &timeout), 1);
    CHECK(timeout.tv_sec >= 98);
}

TEST(select_errors)
{
    fd_set in;
    FD_ZERO(&in);
    FD_SET(20, &in);
    CHECK_ERR(select(21, &in, NULL, NULL, NULL), EBADF);
    CHECK_ERR(select(-1, NULL, NULL, NULL, NULL), EINVAL);
    struct timeval bad = {.tv_sec = -1};
    CHECK_ERR(select(0, NULL, NULL, NULL, &bad), EINVAL);
}

TEST(pselect_changes_the_mask_and_keeps_its_timeout)
{
    sigset_t set, none;
    struct timespec timeout = {.tv_sec = 100};
    sigemptyset(&set);
    sigemptyset(&none);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    CHECK_ERR(pselect(0, NULL, NULL, NULL, &timeout, &none), EINTR);
    CHECK_EQ(handled, 1);
    CHECK_EQ(timeout.tv_sec, 100);
}
