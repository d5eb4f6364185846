/* Pipes: data, ends of file, atomicity, non-blocking modes, poll states, sizes, and FIFOs in the file system. */
#include "check.h"

static int fds[2];
static volatile int pipes_broken;

static void on_pipe(int signo)
{
    (void)signo;
    pipes_broken++;
}

TEST(data_and_end_of_file)
{
    char text[8];
    MUST(pipe(fds));
    CHECK_EQ(write(fds[1], "hello", 5), 5);
    CHECK_EQ(read(fds[0], text, 2), 2);
    CHECK_EQ(read(fds[0], text, 8), 3);
    CHECK(memcmp(text, "llo", 3) == 0);
    close(fds[1]);
    CHECK_EQ(read(fds[0], text, 8), 0);
}

TEST(wrong_ends_and_seeking)
{
    char c;
    MUST(pipe(fds));
    CHECK_ERR(write(fds[0], "x", 1), EBADF);
    CHECK_ERR(read(fds[1], &c, 1), EBADF);
    CHECK_ERR(lseek(fds[0], 0, SEEK_SET), ESPIPE);
    CHECK_ERR(pread(fds[0], &c, 1, 0), ESPIPE);
    CHECK_ERR(pwrite(fds[1], &c, 1, 0), ESPIPE);
    CHECK_ERR(fsync(fds[0]), EINVAL);
    CHECK_ERR(ftruncate(fds[1], 0), EINVAL);
    CHECK_EQ(read(fds[0], &c, 0), 0);
}

TEST(write_without_reader)
{
    MUST(pipe(fds));
    close(fds[0]);
    signal(SIGPIPE, on_pipe);
    CHECK_ERR(write(fds[1], "x", 1), EPIPE);
    CHECK_EQ(pipes_broken, 1);
    signal(SIGPIPE, SIG_IGN);
    CHECK_ERR(write(fds[1], "x", 1), EPIPE);
    pid_t pid = must_fork();
    if (pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        write(fds[1], "x", 1);
        _exit(0);
    }
    CHECK_KILLED(pid, SIGPIPE);
}

TEST(pipe2_flags)
{
    char c;
    MUST(pipe2(fds, O_NONBLOCK | O_CLOEXEC));
    CHECK_EQ(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(fds[1], F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(fds[0], F_GETFL), O_RDONLY | O_NONBLOCK);
    CHECK_EQ(fcntl(fds[1], F_GETFL), O_WRONLY | O_NONBLOCK);
    CHECK_ERR(read(fds[0], &c, 1), EAGAIN);
    CHECK_ERR(pipe2(fds, 0x40000), EINVAL);
    MUST(pipe(fds));
    CHECK_EQ(fcntl(fds[0], F_GETFD), 0);
    CHECK_EQ(fcntl(fds[0], F_GETFL), O_RDONLY);
}

TEST(nonblocking_writes_fill_it)
{
    static char block[4096];
    char c;
    MUST(pipe2(fds, O_NONBLOCK));
    long total = 0, n;
    while ((n = write(fds[1], block, sizeof block)) > 0)
        total += n;
    CHECK_EQ(errno, EAGAIN);
    CHECK_EQ(total, 65536);
    int ready;
    MUST(ioctl(fds[0], FIONREAD, &ready));
    CHECK_EQ(ready, 65536);
    CHECK_ERR(write(fds[1], "x", 1), EAGAIN);
    CHECK_EQ(read(fds[0], &c, 1), 1);
    CHECK_ERR(write(fds[1], block, 4096), EAGAIN); /* PIPE_BUF: whole or not at all */
    CHECK_EQ(read(fds[0], block, 4095), 4095);
    CHECK_EQ(write(fds[1], block, 4096), 4096);
}

TEST(large_nonblocking_write_is_partial)
{
    static char block[100000];
    MUST(pipe2(fds, O_NONBLOCK));
    CHECK_EQ(write(fds[1], block, sizeof block), 65536);
}

TEST(blocking_write_of_more_than_fits)
{
    static char block[200000], got[200000];
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = (char)(i * 7 + i / 256);
    MUST(pipe(fds));
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(write(fds[1], block, sizeof block) == sizeof block ? 0 : 1);
    close(fds[1]);
    size_t have = 0;
    ssize_t n;
    while ((n = read(fds[0], got + have, sizeof got - have)) > 0)
        have += (size_t)n;
    CHECK_EQ(have, sizeof block);
    CHECK(memcmp(block, got, sizeof got) == 0);
    CHECK_EXITED(pid, 0);
}

TEST(small_writes_are_atomic)
{
    enum { WRITERS = 4, RECORDS = 50, SIZE = 1000 };
    MUST(pipe(fds));
    for (int w = 0; w < WRITERS; w++)
        if (must_fork() == 0) {
            char record[SIZE];
            memset(record, 'a' + w, sizeof record);
            for (int i = 0; i < RECORDS; i++)
                CHECK_EQ(write(fds[1], record, sizeof record), sizeof record);
            _exit(0);
        }
    close(fds[1]);
    FILE *in = fdopen(fds[0], "r");
    char record[SIZE];
    int seen = 0;
    while (fread(record, sizeof record, 1, in) == 1) {
        for (int i = 1; i < SIZE; i++)
            CHECK_EQ(record[i], record[0]);
        seen++;
    }
    CHECK_EQ(seen, WRITERS * RECORDS);
    for (int w = 0; w < WRITERS; w++)
        MUST(wait(NULL));
}

TEST(a_killed_blocked_writer_lets_go)
{
    static char block[100000];
    MUST(pipe(fds));
    pid_t pid = must_fork();
    if (pid == 0) {
        close(fds[0]);
        write(fds[1], block, sizeof block);
        _exit(0);
    }
    close(fds[1]);
    wait_state(pid, 'S');
    kill(pid, SIGKILL);
    CHECK_KILLED(pid, SIGKILL);
    size_t have = 0;
    ssize_t n;
    while ((n = read(fds[0], block, sizeof block)) > 0)
        have += (size_t)n;
    CHECK_EQ(have, 65536);
}

TEST(interrupted_write_tells_what_was_written)
{
    static char block[100000];
    struct sigaction action = {.sa_handler = on_pipe};
    struct itimerval timer = {.it_value.tv_usec = 20000, .it_interval.tv_usec = 20000};
    MUST(pipe(fds));
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    CHECK_EQ(write(fds[1], block, sizeof block), 65536);
    CHECK_ERR(write(fds[1], block, sizeof block), EINTR);
}

static int poll_events(int fd, int events)
{
    struct pollfd polled = {.fd = fd, .events = (short)events};
    MUST(poll(&polled, 1, 0));
    return polled.revents;
}

TEST(poll_states)
{
    static char block[65536];
    MUST(pipe2(fds, O_NONBLOCK));
    CHECK_EQ(poll_events(fds[0], POLLIN), 0);
    CHECK_EQ(poll_events(fds[1], POLLOUT), POLLOUT);
    CHECK_EQ(write(fds[1], block, sizeof block), 65536);
    CHECK_EQ(poll_events(fds[0], POLLIN | POLLOUT), POLLIN);
    CHECK_EQ(poll_events(fds[1], POLLOUT), 0);
    close(fds[1]);
    CHECK_EQ(poll_events(fds[0], POLLIN), POLLIN | POLLHUP);
    CHECK_EQ(read(fds[0], block, sizeof block), 65536);
    CHECK_EQ(poll_events(fds[0], POLLIN), POLLHUP);
    MUST(pipe(fds));
    close(fds[0]);
    CHECK_EQ(poll_events(fds[1], POLLOUT), POLLOUT | POLLERR);
    CHECK_EQ(poll_events(fds[1], 0), POLLERR);
}

TEST(closing_the_last_writer_wakes_a_reader)
{
    MUST(pipe(fds));
    pid_t pid = must_fork();
    if (pid == 0) {
        char c;
        close(fds[1]);
        _exit(read(fds[0], &c, 1) == 0 ? 0 : 1);
    }
    wait_state(pid, 'S');
    close(fds[1]);
    CHECK_EXITED(pid, 0);
}

TEST(pipe_size)
{
    MUST(pipe2(fds, O_NONBLOCK));
    CHECK_EQ(fcntl(fds[0], F_GETPIPE_SZ), 65536);
    CHECK_EQ(fcntl(fds[1], F_SETPIPE_SZ, 5000), 8192);
    CHECK_EQ(fcntl(fds[0], F_GETPIPE_SZ), 8192);
    static char block[65536];
    CHECK_EQ(write(fds[1], block, sizeof block), 8192);
    CHECK_ERR(fcntl(fds[1], F_SETPIPE_SZ, 4096), EBUSY);
    CHECK_EQ(fcntl(fds[1], F_SETPIPE_SZ, 100000), 131072);
    CHECK_EQ(write(fds[1], block, sizeof block), 65536);
}

TEST(stat_of_a_pipe)
{
    struct stat st;
    MUST(pipe(fds));
    MUST(fstat(fds[0], &st));
    CHECK(S_ISFIFO(st.st_mode));
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(st.st_uid, getuid());
}

TEST(readv_writev)
{
    char a[3], b[10];
    struct iovec out[] = {{"abc", 3}, {NULL, 0}, {"defg", 4}};
    struct iovec in[] = {{a, 3}, {b, 10}};
    MUST(pipe(fds));
    CHECK_EQ(writev(fds[1], out, 3), 7);
    CHECK_EQ(readv(fds[0], in, 2), 7);
    CHECK(memcmp(a, "abc", 3) == 0 && memcmp(b, "defg", 4) == 0);
    CHECK_ERR(writev(fds[1], out, -1), EINVAL);
    CHECK_ERR(writev(fds[1], out, 1025), EINVAL);
}

TEST(named_fifo)
{
    char text[6] = {0};
    MUST(mkfifo("fifo", 0600));
    CHECK_ERR(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
    int early = (int)MUST(open("fifo", O_RDONLY | O_NONBLOCK));
    CHECK_EQ(read(early, text, 1), 0); /* no writer yet */
    close(early);
    pid_t pid = must_fork();
    if (pid == 0) {
        int out = (int)MUST(open("fifo", O_WRONLY)); /* waits for the reader */
        CHECK_EQ(write(out, "hello", 5), 5);
        _exit(0);
    }
    int in = (int)MUST(open("fifo", O_RDONLY));
    CHECK_EQ(read(in, text, 5), 5);
    CHECK(strcmp(text, "hello") == 0);
    CHECK_EXITED(pid, 0);
    CHECK_EQ(read(in, text, 5), 0);
}

TEST(shell_like_pipeline)
{
    int first[2], second[2];
    MUST(pipe(first));
    MUST(pipe(second));
    pid_t a = must_fork();
    if (a == 0) {
        dup2(first[1], 1);
        close(first[0]), close(first[1]), close(second[0]), close(second[1]);
        for (int i = 0; i < 1000; i++)
            CHECK_EQ(write(1, "line\n", 5), 5);
        _exit(0);
    }
    pid_t b = must_fork();
    if (b == 0) {
        char c;
        int lines = 0;
        dup2(first[0], 0);
        dup2(second[1], 1);
        close(first[0]), close(first[1]), close(second[0]), close(second[1]);
        FILE *in = fdopen(0, "r");
        while ((c = (char)fgetc(in)) != (char)EOF && !feof(in))
            lines += c == '\n';
        dprintf(1, "%d", lines);
        _exit(0);
    }
    close(first[0]), close(first[1]), close(second[1]);
    char text[16] = {0};
    CHECK_EQ(read(second[0], text, 15), 4);
    CHECK(strcmp(text, "1000") == 0);
    CHECK_EXITED(a, 0);
    CHECK_EXITED(b, 0);
}

TEST(splice_and_tee_move_data)
{
    int other[2];
    char text[8] = {0};
    make_file("f", "file data");
    int file = (int)MUST(open("f", O_RDONLY));
    MUST(pipe(fds));
    MUST(pipe(other));
    CHECK_EQ(splice(file, NULL, fds[1], NULL, 4, 0), 4);
    CHECK_EQ(tee(fds[0], other[1], 4, 0), 4);
    CHECK_EQ(read(fds[0], text, 8), 4);
    CHECK(strcmp(text, "file") == 0);
    CHECK_EQ(read(other[0], text, 8), 4);
    CHECK(strcmp(text, "file") == 0);
    loff_t offset = 5;
    CHECK_EQ(splice(file, &offset, fds[1], NULL, 4, 0), 4);
    CHECK_EQ(offset, 9);
    CHECK_EQ(read(fds[0], text, 8), 4);
    CHECK(strcmp(text, "data") == 0);
}
