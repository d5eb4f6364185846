/* Pseudo-terminals: line editing, echo, signals from keys, job control, window size, hang-up. */
#include "check.h"
#include <termios.h>

static int master, slave;

static void open_pair(void)
{
    int number, unlock = 0;
    char path[32];
    master = (int)MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    MUST(ioctl(master, TIOCSPTLCK, &unlock));
    MUST(ioctl(master, TIOCGPTN, &number));
    snprintf(path, sizeof path, "/dev/pts/%d", number);
    slave = (int)MUST(open(path, O_RDWR | O_NOCTTY));
}

static void set_modes(tcflag_t on, tcflag_t off)
{
    struct termios modes;
    MUST(tcgetattr(slave, &modes));
    modes.c_lflag = (modes.c_lflag | on) & ~off;
    MUST(tcsetattr(slave, TCSANOW, &modes));
}

static void type(const char *keys)
{
    CHECK_EQ(write(master, keys, strlen(keys)), strlen(keys));
}

/* Reads from fd exactly what is wanted. */
static void expect(int fd, const char *want)
{
    char got[256] = {0};
    size_t have = 0, length = strlen(want);
    while (have < length) {
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        if (poll(&polled, 1, 20000) != 1)
            break;
        ssize_t n = MUST(read(fd, got + have, sizeof got - 1 - have));
        have += (size_t)n;
        if (n == 0)
            break;
    }
    if (strcmp(got, want) != 0)
        fail_at(__FILE__, __LINE__, "read '%s', not '%s'", got, want);
}

static bool readable(int fd)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    return poll(&polled, 1, 0) == 1 && polled.revents & POLLIN;
}

TEST(names_and_identity)
{
    struct stat st;
    open_pair();
    CHECK(isatty(master) && isatty(slave));
    MUST(fstat(slave, &st));
    CHECK(S_ISCHR(st.st_mode));
    CHECK_EQ(st.st_rdev >> 8, 136);
    CHECK(strncmp(ttyname(slave), "/dev/pts/", 9) == 0);
    CHECK(!isatty(open("/dev/null", O_RDONLY)));
    CHECK_EQ(errno, ENOTTY);
    int second = (int)MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY)), a, b;
    MUST(ioctl(second, TIOCGPTN, &a));
    MUST(ioctl(master, TIOCGPTN, &b));
    CHECK(a != b);
    char path[32];
    snprintf(path, sizeof path, "/dev/pts/%d", a);
    CHECK_ERR(open(path, O_RDWR | O_NOCTTY), EIO); /* still locked */
}

TEST(default_modes)
{
    struct termios modes;
    open_pair();
    MUST(tcgetattr(slave, &modes));
    CHECK_EQ(modes.c_iflag, ICRNL | IXON);
    CHECK_EQ(modes.c_oflag, OPOST | ONLCR);
    CHECK_EQ(modes.c_lflag, ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN);
    CHECK_EQ(modes.c_cc[VINTR], 3);
    CHECK_EQ(modes.c_cc[VEOF], 4);
    CHECK_EQ(modes.c_cc[VERASE], 127);
    CHECK_EQ(modes.c_cc[VMIN], 1);
    struct winsize size;
    MUST(ioctl(slave, TIOCGWINSZ, &size));
    CHECK(size.ws_row == 0 && size.ws_col == 0);
}

TEST(lines_arrive_whole)
{
    open_pair();
    set_modes(0, ECHO);
    type("hello");
    CHECK(!readable(slave));
    type("\rsecond\n");
    char text[64] = {0};
    CHECK_EQ(read(slave, text, 64), 6); /* one line a read */
    CHECK(strcmp(text, "hello\n") == 0);
    CHECK_EQ(read(slave, text, 3), 3); /* and never more than asked for */
    CHECK_EQ(read(slave, text + 3, 60), 4);
    CHECK(strncmp(text, "second\n", 7) == 0);
}

TEST(echo_and_output_processing)
{
    open_pair();
    type("ab\r");
    expect(master, "ab\r\n");
    expect(slave, "ab\n");
    CHECK_EQ(write(slave, "out\n", 4), 4);
    expect(master, "out\r\n");
    type("\x01");
    expect(master, "^A");
}

TEST(line_editing)
{
    open_pair();
    set_modes(0, ECHO);
    type("abc\177\177X\r");
    expect(slave, "aX\n");
    type("killed\025kept\r");
    expect(slave, "kept\n");
    type("one two\027three\r");
    expect(slave, "one three\n");
    type("\026\003\r"); /* ^V makes the next key plain */
    expect(slave, "\003\n");
}

TEST(erasing_is_echoed)
{
    open_pair();
    type("ab\177");
    expect(master, "ab\b \b");
    type("\177\177");
    expect(master, "\b \b"); /* nothing left for the second */
}

TEST(end_of_file_key)
{
    char text[16];
    open_pair();
    set_modes(0, ECHO);
    type("\004");
    CHECK_EQ(read(slave, text, 16), 0);
    type("ab\004");
    CHECK_EQ(read(slave, text, 16), 2); /* in a line it only ends the read */
    type("c\r");
    expect(slave, "c\n");
}

TEST(raw_mode)
{
    struct termios modes;
    char text[16];
    open_pair();
    MUST(tcgetattr(slave, &modes));
    cfmakeraw(&modes);
    MUST(tcsetattr(slave, TCSANOW, &modes));
    type("a\003\r\177");
    CHECK_EQ(read(slave, text, 16), 4);
    CHECK(memcmp(text, "a\003\r\177", 4) == 0);
    CHECK_EQ(write(slave, "x\n", 2), 2);
    expect(master, "x\n");
    CHECK(!readable(master));
}

TEST(raw_minimum_and_time)
{
    struct termios modes;
    char text[16];
    open_pair();
    MUST(tcgetattr(slave, &modes));
    cfmakeraw(&modes);
    modes.c_cc[VMIN] = 0;
    modes.c_cc[VTIME] = 1;
    MUST(tcsetattr(slave, TCSANOW, &modes));
    int64_t start = now_ns();
    CHECK_EQ(read(slave, text, 16), 0);
    CHECK(now_ns() - start >= 90000000);
    modes.c_cc[VTIME] = 0;
    MUST(tcsetattr(slave, TCSANOW, &modes));
    CHECK_EQ(read(slave, text, 16), 0);
    type("abc");
    CHECK_EQ(read(slave, text, 16), 3);
}

TEST(nonblocking_reads)
{
    char c;
    open_pair();
    MUST(fcntl(slave, F_SETFL, O_NONBLOCK));
    CHECK_ERR(read(slave, &c, 1), EAGAIN);
    MUST(fcntl(master, F_SETFL, O_NONBLOCK));
    CHECK_ERR(read(master, &c, 1), EAGAIN);
    type("\r");
    struct pollfd polled = {.fd = slave, .events = POLLIN};
    CHECK_EQ(poll(&polled, 1, 20000), 1);
    int ready;
    MUST(ioctl(slave, FIONREAD, &ready));
    CHECK_EQ(ready, 1);
}

TEST(flush_throws_input_away)
{
    open_pair();
    set_modes(0, ECHO);
    type("lost\r");
    CHECK(readable(slave));
    MUST(tcflush(slave, TCIFLUSH));
    CHECK(!readable(slave));
    type("kept\r");
    expect(slave, "kept\n");
}

/* A session leader that has the slave as its controlling terminal runs fn; its exit status must be 0. */
static void in_session(void (*fn)(void))
{
    open_pair();
    set_modes(0, ECHO);
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setsid());
        CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
        MUST(ioctl(slave, TIOCSCTTY, 0));
        fn();
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

static volatile int got_signal;

static void on_signal(int signo)
{
    got_signal = signo;
}

static void rules_of_control(void)
{
    CHECK_EQ(tcgetpgrp(slave), getpgrp());
    CHECK_EQ(tcgetsid(slave), getsid(0));
    int tty = (int)MUST(open("/dev/tty", O_RDWR));
    MUST(ioctl(slave, TIOCSCTTY, 0)); /* it has it already */
    CHECK_EQ(tcgetpgrp(tty), getpgrp());
    pid_t pid = must_fork();
    if (pid == 0) {
        CHECK_ERR(tcsetpgrp(slave, 1 << 30), ESRCH);
        CHECK_ERR(tcsetpgrp(slave, -1), EINVAL);
        MUST(setsid());
        CHECK_ERR(ioctl(slave, TIOCSCTTY, 0), EPERM); /* another session's */
        CHECK_ERR(tcgetpgrp(slave), ENOTTY);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    signal(SIGHUP, SIG_IGN);
    signal(SIGCONT, SIG_IGN);
    MUST(ioctl(slave, TIOCNOTTY));
    CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
}

TEST(controlling_terminal)
{
    in_session(rules_of_control);
}

static void keys_signal(void)
{
    static const struct {
        const char *key;
        int signo;
    } cases[] = {{"\003", SIGINT}, {"\034", SIGQUIT}};
    for (int i = 0; i < 2; i++) {
        struct gate ready = gate_new();
        pid_t pid = must_fork();
        if (pid == 0) {
            MUST(setpgid(0, 0));
            signal(SIGTTOU, SIG_IGN);
            MUST(tcsetpgrp(slave, getpid()));
            gate_open(&ready);
            for (;;)
                pause();
        }
        gate_wait(&ready);
        type(cases[i].key);
        CHECK_KILLED(pid, cases[i].signo);
    }
}

TEST(keys_signal_the_foreground_group)
{
    in_session(keys_signal);
}

static void key_stops(void)
{
    struct gate ready = gate_new();
    int status;
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setpgid(0, 0));
        signal(SIGTTOU, SIG_IGN);
        MUST(tcsetpgrp(slave, getpid()));
        gate_open(&ready);
        for (;;)
            pause();
    }
    gate_wait(&ready);
    type("\032");
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(slave, getpgrp()));
    kill(pid, SIGCONT);
    CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
    kill(pid, SIGKILL);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(suspend_key_stops)
{
    in_session(key_stops);
}

static void interrupt_key_drops_input(void)
{
    signal(SIGINT, on_signal);
    type("thrown away\003kept\r");
    expect(slave, "kept\n");
    CHECK_EQ(got_signal, SIGINT);
}

TEST(interrupt_flushes_the_line)
{
    in_session(interrupt_key_drops_input);
}

static void background(void)
{
    int status;
    type("line\r");
    pid_t pid = must_fork();
    if (pid == 0) {
        char c;
        MUST(setpgid(0, 0));
        _exit(read(slave, &c, 1) == 1 ? 0 : 1);
    }
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(slave, pid));
    kill(-pid, SIGCONT);
    CHECK_EXITED(pid, 0);
    MUST(tcsetpgrp(slave, getpgrp()));

    pid = must_fork();
    if (pid == 0) { /* with the signal ignored, reading fails instead */
        char c;
        MUST(setpgid(0, 0));
        signal(SIGTTIN, SIG_IGN);
        CHECK_ERR(read(slave, &c, 1), EIO);
        CHECK_EQ(write(slave, "o", 1), 1); /* writing is free unless TOSTOP */
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    set_modes(TOSTOP, 0);
    pid = must_fork();
    if (pid == 0) {
        signal(SIGTTOU, SIG_DFL);
        MUST(setpgid(0, 0));
        write(slave, "x", 1);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTOU);
    kill(pid, SIGKILL);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(background_groups_are_stopped)
{
    in_session(background);
}

static void resize(void)
{
    struct winsize size = {.ws_row = 40, .ws_col = 100}, got;
    signal(SIGWINCH, on_signal);
    MUST(ioctl(master, TIOCSWINSZ, &size));
    while (got_signal != SIGWINCH)
        usleep(1000);
    MUST(ioctl(slave, TIOCGWINSZ, &got));
    CHECK(got.ws_row == 40 && got.ws_col == 100);
    got_signal = 0;
    MUST(ioctl(master, TIOCSWINSZ, &size)); /* no change, no signal */
    usleep(20000);
    CHECK_EQ(got_signal, 0);
}

TEST(window_size_changes_signal)
{
    in_session(resize);
}

static void hang_up(void)
{
    char c;
    signal(SIGHUP, on_signal);
    close(master);
    CHECK_EQ(read(slave, &c, 1), 0);
    CHECK_ERR(write(slave, "x", 1), EIO);
    while (got_signal != SIGHUP)
        usleep(1000);
}

static void lead_a_session(void)
{
    MUST(setsid());
    MUST(ioctl(slave, TIOCSCTTY, 0));
    close(slave);
    slave = (int)MUST(open("/dev/tty", O_RDWR));
}

TEST(closing_the_master_hangs_up)
{
    struct gate last = gate_new();
    open_pair();
    pid_t pid = must_fork();
    if (pid == 0) {
        lead_a_session();
        gate_wait(&last);
        hang_up();
        _exit(0);
    }
    close(master); /* the child has the last one */
    gate_open(&last);
    CHECK_EXITED(pid, 0);
}

TEST(who_reads_when_the_master_is_closed_gets_an_error)
{
    struct gate ready = gate_new();
    open_pair();
    pid_t pid = must_fork();
    if (pid == 0) {
        char c;
        signal(SIGHUP, on_signal);
        close(master);
        lead_a_session();
        gate_open(&ready);
        CHECK_ERR(read(slave, &c, 1), EIO);
        CHECK_EQ(got_signal, SIGHUP);
        CHECK_EQ(read(slave, &c, 1), 0);
        _exit(0);
    }
    gate_wait(&ready);
    wait_state(pid, 'S');
    close(master);
    CHECK_EXITED(pid, 0);
}

TEST(master_sees_the_slave_close)
{
    char c;
    open_pair();
    CHECK_EQ(write(slave, "last", 4), 4);
    close(slave);
    expect(master, "last");
    CHECK_ERR(read(master, &c, 1), EIO);
    struct pollfd polled = {.fd = master, .events = POLLIN};
    CHECK_EQ(poll(&polled, 1, 0), 1);
    CHECK(polled.revents & POLLHUP);
}

static void leader_exit(void)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        struct sigaction action = {.sa_handler = on_signal};
        sigaction(SIGHUP, &action, NULL);
        while (got_signal != SIGHUP)
            usleep(1000);
        _exit(0);
    }
    wait_state(pid, 'S');
}

TEST(the_leaders_exit_hangs_up_the_foreground)
{
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    in_session(leader_exit);
    int status;
    MUST(wait(&status));
    CHECK_EQ(status, 0);
}
