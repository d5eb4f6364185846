/* epoll: level, edge, one-shot, nesting, and what happens to closed descriptors. */
#include "check.h"
#include <sys/epoll.h>

static int fds[2];

static int add(int ep, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
}

/* The events of the single ready descriptor, -1 when none is ready. */
static int ready(int ep, uint64_t *data)
{
    struct epoll_event events[4];
    int n = (int)MUST(epoll_wait(ep, events, 4, 0));
    if (n == 0)
        return -1;
    CHECK_EQ(n, 1);
    *data = events[0].data.u64;
    return (int)events[0].events;
}

TEST(level_triggered)
{
    uint64_t data;
    char c;
    int ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    CHECK_EQ(fcntl(ep, F_GETFD), FD_CLOEXEC);
    MUST(pipe(fds));
    MUST(add(ep, fds[0], EPOLLIN, 0x123456789abcdef0));
    CHECK_EQ(ready(ep, &data), -1);
    write(fds[1], "xy", 2);
    CHECK_EQ(ready(ep, &data), EPOLLIN);
    CHECK(data == 0x123456789abcdef0);
    read(fds[0], &c, 1);
    CHECK_EQ(ready(ep, &data), EPOLLIN);
    read(fds[0], &c, 1);
    CHECK_EQ(ready(ep, &data), -1);
    close(fds[1]);
    CHECK_EQ(ready(ep, &data), EPOLLHUP);
}

TEST(edge_triggered)
{
    uint64_t data;
    char c;
    int ep = (int)MUST(epoll_create(1));
    MUST(pipe(fds));
    write(fds[1], "x", 1);
    MUST(add(ep, fds[0], EPOLLIN | EPOLLET, 1));
    CHECK_EQ(ready(ep, &data), EPOLLIN); /* already ready when added */
    CHECK_EQ(ready(ep, &data), -1);
    write(fds[1], "y", 1);
    CHECK_EQ(ready(ep, &data), EPOLLIN);
    CHECK_EQ(ready(ep, &data), -1);
    read(fds[0], &c, 1);
    CHECK_EQ(ready(ep, &data), -1);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = 2};
    MUST(epoll_ctl(ep, EPOLL_CTL_MOD, fds[0], &event)); /* asks again */
    CHECK_EQ(ready(ep, &data), EPOLLIN);
    CHECK_EQ(data, 2);
}

TEST(one_shot)
{
    uint64_t data;
    int ep = (int)MUST(epoll_create1(0));
    MUST(pipe(fds));
    MUST(add(ep, fds[0], EPOLLIN | EPOLLONESHOT, 1));
    write(fds[1], "x", 1);
    CHECK_EQ(ready(ep, &data), EPOLLIN);
    CHECK_EQ(ready(ep, &data), -1);
    write(fds[1], "x", 1);
    CHECK_EQ(ready(ep, &data), -1);
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
    MUST(epoll_ctl(ep, EPOLL_CTL_MOD, fds[0], &event));
    CHECK_EQ(ready(ep, &data), EPOLLIN);
}

TEST(ctl_errors)
{
    int ep = (int)MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN};
    MUST(pipe(fds));
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_MOD, fds[0], &event), ENOENT);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_DEL, fds[0], NULL), ENOENT);
    MUST(add(ep, fds[0], EPOLLIN, 0));
    CHECK_ERR(add(ep, fds[0], EPOLLIN, 0), EEXIST);
    int copy = dup(fds[0]);
    MUST(add(ep, copy, EPOLLIN, 0)); /* another descriptor, another entry */
    CHECK_ERR(add(ep, 999, EPOLLIN, 0), EBADF);
    CHECK_ERR(add(999, fds[0], EPOLLIN, 0), EBADF);
    CHECK_ERR(add(ep, ep, EPOLLIN, 0), EINVAL);
    CHECK_ERR(add(fds[0], fds[1], EPOLLIN, 0), EINVAL);
    CHECK_ERR(epoll_ctl(ep, 9, fds[1], &event), EINVAL);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_ADD, fds[1], (void *)8), EFAULT);
    make_file("f", "");
    CHECK_ERR(add(ep, open("f", O_RDONLY), EPOLLIN, 0), EPERM);
    CHECK_ERR(add(ep, open(".", O_RDONLY), EPOLLIN, 0), EPERM);
    CHECK_ERR(epoll_create(0), EINVAL);
    CHECK_ERR(epoll_create1(1), EINVAL);
    CHECK_ERR(epoll_wait(ep, &event, 0, 0), EINVAL);
    CHECK_ERR(epoll_wait(fds[0], &event, 1, 0), EINVAL);
    MUST(epoll_ctl(ep, EPOLL_CTL_DEL, fds[0], NULL));
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_DEL, fds[0], NULL), ENOENT);
}

TEST(closing_the_file_removes_it)
{
    uint64_t data;
    int ep = (int)MUST(epoll_create1(0));
    MUST(pipe(fds));
    write(fds[1], "x", 1);
    MUST(add(ep, fds[0], EPOLLIN, 7));
    int copy = dup(fds[0]);
    close(fds[0]);
    CHECK_EQ(ready(ep, &data), EPOLLIN); /* the copy keeps the file open */
    close(copy);
    CHECK_EQ(ready(ep, &data), -1);
}

TEST(nesting)
{
    uint64_t data;
    int inner = (int)MUST(epoll_create1(0)), outer = (int)MUST(epoll_create1(0));
    MUST(pipe(fds));
    MUST(add(inner, fds[0], EPOLLIN, 1));
    MUST(add(outer, inner, EPOLLIN, 2));
    CHECK_EQ(ready(outer, &data), -1);
    write(fds[1], "x", 1);
    CHECK_EQ(ready(outer, &data), EPOLLIN);
    CHECK_EQ(data, 2);
    struct pollfd polled = {.fd = outer, .events = POLLIN};
    CHECK_EQ(poll(&polled, 1, 0), 1);
    CHECK_ERR(add(inner, outer, EPOLLIN, 0), ELOOP);
}

TEST(many_ready_descriptors_take_turns)
{
    enum { COUNT = 8 };
    int ep = (int)MUST(epoll_create1(0)), seen = 0;
    for (int i = 0; i < COUNT; i++) {
        MUST(pipe(fds));
        write(fds[1], "x", 1);
        MUST(add(ep, fds[0], EPOLLIN, (uint64_t)i));
    }
    for (int round = 0; round < COUNT / 2; round++) {
        struct epoll_event events[2];
        CHECK_EQ(epoll_wait(ep, events, 2, 0), 2);
        for (int i = 0; i < 2; i++)
            seen |= 1 << events[i].data.u64;
    }
    CHECK_EQ(seen, (1 << COUNT) - 1);
}

TEST(waiting)
{
    int ep = (int)MUST(epoll_create1(0));
    struct epoll_event event;
    MUST(pipe(fds));
    MUST(add(ep, fds[0], EPOLLIN, 1));
    int64_t start = now_ns();
    CHECK_EQ(epoll_wait(ep, &event, 1, 20), 0);
    CHECK(now_ns() - start >= 19000000);
    pid_t parent = getpid(), pid = must_fork();
    if (pid == 0) {
        wait_state(parent, 'S');
        write(fds[1], "x", 1);
        _exit(0);
    }
    CHECK_EQ(epoll_wait(ep, &event, 1, -1), 1);
    CHECK_EXITED(pid, 0);
}

static void on_signal(int signo)
{
    (void)signo;
}

TEST(pwait_changes_the_mask)
{
    int ep = (int)MUST(epoll_create1(0));
    struct epoll_event event;
    sigset_t set, none;
    sigemptyset(&set);
    sigemptyset(&none);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    CHECK_ERR(epoll_pwait(ep, &event, 1, -1, &none), EINTR);
    struct timespec soon = {.tv_nsec = 5000000};
    CHECK_EQ(syscall(441, ep, &event, 1, &soon, NULL, 8), 0); /* epoll_pwait2 */
}
