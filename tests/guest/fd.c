/* The descriptor table: dup, fcntl, close_range, limits, and status flags. */
#include "check.h"
#include <sys/resource.h>

TEST(dup_takes_the_lowest)
{
    make_file("f", "abc");
    int fd = (int)MUST(open("f", O_RDONLY | O_CLOEXEC)), copy = (int)MUST(dup(fd));
    CHECK_EQ(copy, fd + 1);
    CHECK_EQ(fcntl(copy, F_GETFD), 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(dup(999), EBADF);
    CHECK_EQ(fcntl(fd, F_DUPFD, 50), 50);
    CHECK_EQ(fcntl(fd, F_DUPFD, 50), 51);
    CHECK_EQ(fcntl(fd, F_DUPFD_CLOEXEC, 50), 52);
    CHECK_EQ(fcntl(52, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(fcntl(fd, F_DUPFD, -1), EINVAL);
}

TEST(dup2_and_dup3)
{
    make_file("f", "abc");
    make_file("g", "xyz");
    char c;
    int fd = (int)MUST(open("f", O_RDONLY)), other = (int)MUST(open("g", O_RDONLY));
    CHECK_EQ(dup2(fd, other), other); /* closes what was there */
    CHECK(read(other, &c, 1) == 1 && c == 'a');
    CHECK_EQ(dup2(fd, fd), fd);
    CHECK_ERR(dup2(999, 999), EBADF);
    CHECK_ERR(dup2(fd, -1), EBADF);
    CHECK_ERR(dup3(fd, fd, 0), EINVAL);
    CHECK_ERR(dup3(fd, 60, O_APPEND), EINVAL);
    CHECK_EQ(dup3(fd, 60, O_CLOEXEC), 60);
    CHECK_EQ(fcntl(60, F_GETFD), FD_CLOEXEC);
}

TEST(status_flags_belong_to_the_file)
{
    make_file("f", "");
    int fd = (int)MUST(open("f", O_RDWR | O_APPEND)), copy = dup(fd);
    MUST(fcntl(copy, F_SETFL, O_NONBLOCK));
    CHECK_EQ(fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE), O_NONBLOCK | O_RDWR);
    int on = 0;
    MUST(ioctl(fd, FIONBIO, &on));
    CHECK_EQ(fcntl(copy, F_GETFL) & O_NONBLOCK, 0);
    MUST(ioctl(fd, FIOCLEX));
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(copy, F_GETFD), 0);
    MUST(ioctl(fd, FIONCLEX));
    CHECK_EQ(fcntl(fd, F_GETFD), 0);
    CHECK_ERR(fcntl(fd, 9999, 0), EINVAL);
    CHECK_ERR(fcntl(999, F_GETFL), EBADF);
    CHECK_ERR(ioctl(fd, 0xdeadbeef, 0), ENOTTY);
}

TEST(close_range_closes_and_marks)
{
    for (int fd = 70; fd < 80; fd++)
        MUST(dup2(0, fd) == -1 ? dup2(1, fd) : fd);
    MUST(syscall(SYS_close_range, 72, 74, 0));
    CHECK_ERR(fcntl(73, F_GETFD), EBADF);
    MUST(fcntl(75, F_GETFD));
    MUST(syscall(SYS_close_range, 75, 76, 4 /* CLOSE_RANGE_CLOEXEC */));
    CHECK_EQ(fcntl(75, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(syscall(SYS_close_range, 9, 8, 0), EINVAL);
    CHECK_ERR(syscall(SYS_close_range, 1000, 1001, 99), EINVAL);
    MUST(syscall(SYS_close_range, 70, ~0U, 0));
    CHECK_ERR(fcntl(79, F_GETFD), EBADF);
}

TEST(descriptor_limit)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 20;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    int fd, last = -1;
    while ((fd = dup(1)) >= 0)
        last = fd;
    CHECK_EQ(errno, EMFILE);
    CHECK_EQ(last, 19);
    int fds[2];
    CHECK_ERR(pipe(fds), EMFILE);
    MUST(close(10));
    CHECK_ERR(pipe(fds), EMFILE); /* one is not enough, and none is kept */
    CHECK_EQ(dup(1), 10);
    CHECK_ERR(open("/", O_RDONLY), EMFILE);
    CHECK_ERR(dup2(1, 20), EBADF);
    CHECK_ERR(fcntl(1, F_DUPFD, 20), EINVAL);
}

TEST(fork_copies_the_table)
{
    MUST(dup2(1, 40));
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(fcntl(40, F_GETFD));
        MUST(close(40));
        MUST(dup2(1, 41));
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    MUST(fcntl(40, F_GETFD));
    CHECK_ERR(fcntl(41, F_GETFD), EBADF);
}

TEST(kcmp_knows_the_same_file)
{
    make_file("f", "");
    int fd = (int)MUST(open("f", O_RDONLY)), copy = dup(fd), other = (int)MUST(open("f", O_RDONLY));
    long same = syscall(SYS_kcmp, getpid(), getpid(), 0, fd, copy);
    if (same == -1 && (errno == ENOSYS || errno == EPERM))
        return; /* not in every kernel */
    CHECK_EQ(same, 0);
    CHECK(syscall(SYS_kcmp, getpid(), getpid(), 0, fd, other) != 0);
}
