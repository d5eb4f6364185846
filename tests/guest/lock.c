/* flock(2), and fcntl's POSIX and open-file-description locks. */
#include "check.h"
#include <sys/file.h>

static int new_file(void)
{
    return (int)MUST(open("f", O_RDWR | O_CREAT, 0600));
}

static int lock(int fd, int command, int type, off_t start, off_t length)
{
    struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &lock);
}

/* The type of the first lock in the way of a write lock, as another process sees it. */
static struct flock conflict(off_t start, off_t length)
{
    static struct flock *shared;
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = must_fork();
    if (pid == 0) {
        int fd = (int)MUST(open("f", O_RDWR));
        *shared = (struct flock){.l_type = F_WRLCK, .l_start = start, .l_len = length};
        MUST(fcntl(fd, F_GETLK, shared));
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    return *shared;
}

TEST(flock_excludes_other_opens)
{
    int a = new_file(), b = new_file(), copy = dup(a);
    MUST(flock(a, LOCK_SH));
    MUST(flock(b, LOCK_SH | LOCK_NB));
    CHECK_ERR(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    MUST(flock(b, LOCK_UN));
    MUST(flock(copy, LOCK_EX | LOCK_NB)); /* the same open file: converted */
    CHECK_ERR(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    close(a);
    CHECK_ERR(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    close(copy);
    MUST(flock(b, LOCK_SH | LOCK_NB));
    CHECK_ERR(flock(b, 0), EINVAL);
    CHECK_ERR(flock(999, LOCK_SH), EBADF);
}

TEST(flock_waits)
{
    int a = new_file();
    MUST(flock(a, LOCK_EX));
    pid_t pid = must_fork();
    if (pid == 0) {
        int own = new_file();
        CHECK_ERR(flock(own, LOCK_EX | LOCK_NB), EWOULDBLOCK);
        MUST(flock(own, LOCK_EX));
        _exit(0);
    }
    wait_state(pid, 'S');
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    MUST(flock(a, LOCK_UN));
    CHECK_EXITED(pid, 0);
}

TEST(posix_locks_are_seen_by_others)
{
    int fd = new_file();
    MUST(lock(fd, F_SETLK, F_WRLCK, 10, 10));
    struct flock found = conflict(0, 0);
    CHECK_EQ(found.l_type, F_WRLCK);
    CHECK_EQ(found.l_pid, getpid());
    CHECK(found.l_start == 10 && found.l_len == 10);
    CHECK_EQ(conflict(0, 10).l_type, F_UNLCK);
    CHECK_EQ(conflict(20, 0).l_type, F_UNLCK);
    MUST(lock(fd, F_SETLK, F_UNLCK, 13, 2)); /* splits it */
    CHECK_EQ(conflict(13, 2).l_type, F_UNLCK);
    found = conflict(13, 0);
    CHECK(found.l_start == 15 && found.l_len == 5);
    MUST(lock(fd, F_SETLK, F_RDLCK, 0, 0)); /* own locks never conflict */
    found = conflict(0, 0);
    CHECK(found.l_type == F_RDLCK && found.l_start == 0 && found.l_len == 0);
}

TEST(posix_locks_exclude)
{
    int fd = new_file();
    MUST(lock(fd, F_SETLK, F_WRLCK, 0, 100));
    pid_t pid = must_fork();
    if (pid == 0) {
        CHECK(lock(fd, F_SETLK, F_RDLCK, 50, 1) == -1 && (errno == EAGAIN || errno == EACCES));
        MUST(lock(fd, F_SETLK, F_RDLCK, 100, 1));
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

TEST(posix_locks_go_with_any_close)
{
    int fd = new_file(), other = new_file();
    MUST(lock(fd, F_SETLK, F_WRLCK, 0, 0));
    CHECK_EQ(conflict(0, 0).l_type, F_WRLCK);
    close(other);
    CHECK_EQ(conflict(0, 0).l_type, F_UNLCK);
}

TEST(posix_locks_go_with_the_process)
{
    new_file();
    struct gate held = gate_new(), leave = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(lock(new_file(), F_SETLK, F_WRLCK, 0, 0));
        gate_open(&held);
        gate_wait(&leave);
        _exit(0);
    }
    gate_wait(&held);
    CHECK_EQ(conflict(0, 0).l_type, F_WRLCK);
    gate_open(&leave);
    CHECK_EXITED(pid, 0);
    CHECK_EQ(conflict(0, 0).l_type, F_UNLCK);
}

TEST(posix_lock_waits)
{
    int fd = new_file();
    MUST(lock(fd, F_SETLK, F_WRLCK, 0, 0));
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(lock(new_file(), F_SETLKW, F_WRLCK, 0, 0));
        _exit(0);
    }
    wait_state(pid, 'S');
    MUST(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    CHECK_EXITED(pid, 0);
}

static void on_signal(int signo)
{
    (void)signo;
}

TEST(a_waiting_lock_is_interrupted)
{
    int fd = new_file();
    MUST(lock(fd, F_SETLK, F_WRLCK, 0, 0));
    pid_t pid = must_fork();
    if (pid == 0) {
        struct sigaction action = {.sa_handler = on_signal};
        struct itimerval timer = {.it_value.tv_usec = 20000, .it_interval.tv_usec = 20000};
        int own = new_file();
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &timer, NULL);
        CHECK_ERR(lock(own, F_SETLKW, F_WRLCK, 0, 0), EINTR);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

TEST(deadlock_is_found)
{
    int fd = new_file();
    MUST(lock(fd, F_SETLK, F_WRLCK, 0, 1));
    struct gate ready = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(lock(fd, F_SETLK, F_WRLCK, 1, 1));
        gate_open(&ready);
        MUST(lock(fd, F_SETLKW, F_WRLCK, 0, 1));
        _exit(0);
    }
    gate_wait(&ready);
    wait_state(pid, 'S');
    CHECK_ERR(lock(fd, F_SETLKW, F_WRLCK, 1, 1), EDEADLK);
    MUST(lock(fd, F_SETLK, F_UNLCK, 0, 1));
    CHECK_EXITED(pid, 0);
}

TEST(open_file_description_locks)
{
    int a = new_file(), b = new_file(), copy = dup(a);
    MUST(lock(a, F_OFD_SETLK, F_WRLCK, 0, 10));
    MUST(lock(copy, F_OFD_SETLK, F_WRLCK, 0, 10)); /* the same open file */
    CHECK_ERR(lock(b, F_OFD_SETLK, F_RDLCK, 5, 1), EAGAIN);
    struct flock found = {.l_type = F_WRLCK};
    MUST(fcntl(b, F_OFD_GETLK, &found));
    CHECK_EQ(found.l_type, F_WRLCK);
    CHECK_EQ(found.l_pid, -1);
    CHECK(lock(b, F_SETLK, F_RDLCK, 5, 1) == -1); /* they conflict with POSIX locks too */
    close(new_file());
    CHECK_ERR(lock(b, F_OFD_SETLK, F_RDLCK, 5, 1), EAGAIN);
    close(a);
    close(copy);
    MUST(lock(b, F_OFD_SETLK, F_RDLCK, 5, 1));
}

TEST(lock_errors)
{
    int fd = new_file(), readonly = (int)MUST(open("f", O_RDONLY));
    CHECK_ERR(lock(readonly, F_SETLK, F_WRLCK, 0, 0), EBADF);
    MUST(lock(readonly, F_SETLK, F_RDLCK, 0, 0));
    CHECK_ERR(lock(fd, F_SETLK, 77, 0, 0), EINVAL);
    CHECK_ERR(lock(fd, F_SETLK, F_WRLCK, -1, 1), EINVAL);
    struct flock bad = {.l_type = F_WRLCK, .l_whence = 9};
    CHECK_ERR(fcntl(fd, F_SETLK, &bad), EINVAL);
    CHECK_ERR(fcntl(fd, F_SETLK, (void *)8), EFAULT);
}
