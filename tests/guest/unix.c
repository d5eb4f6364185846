/* AF_UNIX sockets: the three types, names, backlogs, messages with descriptors and credentials, ends, options. */
#include "check.h"
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

static int pair[2];
static volatile int pipes_broken, signals;

static void on_pipe(int signo)
{
    (void)signo;
    pipes_broken++;
}

static void on_signal(int signo)
{
    (void)signo;
    signals++;
}

static socklen_t name(struct sockaddr_un *address, const char *path)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strcpy(address->sun_path, path);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
}

/* An abstract name that only this test process has: others may have its pid, in a PID namespace of theirs. */
static socklen_t abstract(struct sockaddr_un *address, const char *text)
{
    static unsigned long mine;
    char path[100];
    if (!mine)
        MUST(getrandom(&mine, sizeof mine, 0));
    snprintf(path, sizeof path, "@guest-%s-%d-%lx-%s", current_test, getpid(), mine, text);
    socklen_t length = name(address, path);
    address->sun_path[0] = 0;
    return length - 1;
}

static int bound(int type, const char *path)
{
    struct sockaddr_un address;
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    MUST(bind(fd, (struct sockaddr *)&address, name(&address, path)));
    return fd;
}

static int listener(int type, const char *path, int backlog)
{
    int fd = bound(type, path);
    MUST(listen(fd, backlog));
    return fd;
}

static int connect_to(int fd, const char *path)
{
    struct sockaddr_un address;
    return connect(fd, (struct sockaddr *)&address, name(&address, path));
}

static int connected(int type, const char *path)
{
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    MUST(connect_to(fd, path));
    return fd;
}

static int option(int fd, int name)
{
    int value = -1;
    socklen_t length = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, name, &value, &length));
    CHECK_EQ(length, sizeof value);
    return value;
}

static void set_option(int fd, int name, int value)
{
    MUST(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value));
}

static int events_of(int fd)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
    MUST(poll(&polled, 1, 0));
    return polled.revents;
}

static void expect(int fd, const char *text)
{
    char got[256];
    size_t length = strlen(text);
    CHECK_EQ(recv(fd, got, sizeof got, 0), length);
    CHECK(memcmp(got, text, length) == 0);
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}

/* Sends text with descriptors. */
static ssize_t send_fds(int to, const char *text, const int *fds, int count)
{
    char control[CMSG_SPACE(sizeof(int) * 260)] = {0};
    struct iovec iov = {(void *)text, strlen(text)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * (size_t)count);
    }
    return sendmsg(to, &msg, 0);
}

/* Receives up to size bytes and room descriptors; how many bytes. */
struct arrival {
    int fds[260];
    int count;
    int flags;
    bool stamped;
    struct ucred creds;
    char text[256];
};

static ssize_t receive(int from, struct arrival *got, size_t size, size_t room, int flags)
{
    char control[CMSG_SPACE(sizeof(int) * 260) + CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec iov = {got->text, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    memset(got->text, 0, sizeof got->text);
    ssize_t n = recvmsg(from, &msg, flags);
    got->count = 0;
    got->stamped = false;
    got->flags = msg.msg_flags;
    if (n >= 0)
        for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
            CHECK_EQ(cmsg->cmsg_level, SOL_SOCKET);
            if (cmsg->cmsg_type == SCM_RIGHTS) {
                got->count = (int)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(got->fds, CMSG_DATA(cmsg), sizeof(int) * (size_t)got->count);
            } else if (cmsg->cmsg_type == SCM_CREDENTIALS) {
                got->stamped = true;
                memcpy(&got->creds, CMSG_DATA(cmsg), sizeof got->creds);
            }
        }
    return n;
}

#define ALL_ROOM CMSG_SPACE(sizeof(int) * 260)

/* -- making -- */

TEST(families_types_and_protocols)
{
    CHECK_ERR(socket(AF_UNIX, SOCK_RDM, 0), ESOCKTNOSUPPORT);
    CHECK_ERR(socket(AF_UNIX, SOCK_STREAM, 7), EPROTONOSUPPORT);
    CHECK_ERR(socket(AF_UNIX, 12, 0), EINVAL);
    CHECK_ERR(socket(AF_UNIX, SOCK_STREAM | 0x100, 0), EINVAL);
    CHECK_ERR(socket(1000, SOCK_STREAM, 0), EAFNOSUPPORT);
    CHECK_ERR(socketpair(AF_UNIX, SOCK_RDM, 0, pair), ESOCKTNOSUPPORT);
    CHECK_ERR(socketpair(AF_UNIX, SOCK_STREAM, 0, (int *)8), EFAULT);
    int fd = (int)MUST(socket(AF_UNIX, SOCK_RAW, PF_UNIX));
    CHECK_EQ(option(fd, SO_TYPE), SOCK_DGRAM);
    CHECK_EQ(option(fd, SO_DOMAIN), AF_UNIX);
    CHECK_EQ(option(fd, SO_PROTOCOL), 0);
    fd = (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR | O_NONBLOCK);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(fcntl(pair[0], F_GETFL), O_RDWR);
    CHECK_EQ(fcntl(pair[1], F_GETFD), 0);
}

TEST(what_is_no_socket)
{
    char c;
    MUST(pipe(pair));
    CHECK_ERR(listen(pair[0], 1), ENOTSOCK);
    CHECK_ERR(send(pair[1], "x", 1, 0), ENOTSOCK);
    CHECK_ERR(recv(pair[0], &c, 1, 0), ENOTSOCK);
    CHECK_ERR(shutdown(pair[0], SHUT_RD), ENOTSOCK);
    CHECK_ERR(accept(99, NULL, NULL), EBADF);
}

TEST(stat_and_links)
{
    struct stat st;
    char link[64], want[64], got[64];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(fstat(pair[0], &st));
    CHECK(S_ISSOCK(st.st_mode));
    CHECK_EQ(st.st_mode & 0777, 0777);
    CHECK_EQ(st.st_uid, getuid());
    CHECK_EQ(st.st_size, 0);
    snprintf(link, sizeof link, "/proc/self/fd/%d", pair[0]);
    snprintf(want, sizeof want, "socket:[%lu]", (unsigned long)st.st_ino);
    ssize_t n = MUST(readlink(link, got, sizeof got - 1));
    got[n] = 0;
    CHECK(strcmp(got, want) == 0);
    CHECK_ERR(open(link, O_RDWR), ENXIO);
    CHECK_ERR(lseek(pair[0], 0, SEEK_SET), ESPIPE);
    CHECK_ERR(pread(pair[0], link, 1, 0), ESPIPE);
    CHECK_ERR(fsync(pair[0]), EINVAL);
    CHECK_ERR(ftruncate(pair[0], 0), EINVAL);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, pair[0], 0) == MAP_FAILED && errno == ENODEV);
}

/* -- data -- */

TEST(stream_is_bytes)
{
    char got[16];
    struct iovec iov[] = {{"de", 2}, {NULL, 0}, {"fgh", 3}}, in[] = {{got, 1}, {got + 1, 15}};
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(write(pair[0], "abc", 3), 3);
    CHECK_EQ(writev(pair[0], iov, 3), 5);
    CHECK_EQ(read(pair[1], got, 2), 2);
    CHECK_EQ(readv(pair[1], in, 2), 6);
    CHECK(memcmp(got, "cdefgh", 6) == 0);
    CHECK_EQ(write(pair[1], "back", 4), 4);
    expect(pair[0], "back");
    CHECK_EQ(write(pair[0], "", 0), 0);
    CHECK_ERR(recv(pair[1], got, 1, MSG_DONTWAIT), EAGAIN);
    CHECK_EQ(read(pair[1], got, 0), 0);
}

TEST(packets_keep_boundaries)
{
    int types[] = {SOCK_DGRAM, SOCK_SEQPACKET};
    for (int i = 0; i < 2; i++) {
        char got[8];
        MUST(socketpair(AF_UNIX, types[i], 0, pair));
        CHECK_EQ(send(pair[0], "first", 5, MSG_EOR), 5);
        CHECK_EQ(send(pair[0], "", 0, 0), 0);
        CHECK_EQ(write(pair[0], "third one", 9), 9);
        CHECK_EQ(read(pair[1], got, 8), 5);
        CHECK_EQ(recv(pair[1], got, 8, 0), 0);
        CHECK_EQ(recv(pair[1], got, 4, MSG_PEEK), 4);
        CHECK_EQ(recv(pair[1], got, 4, MSG_PEEK | MSG_TRUNC), 9);
        CHECK_EQ(recv(pair[1], got, 4, 0), 4); /* the rest is lost */
        CHECK_ERR(recv(pair[1], got, 4, MSG_DONTWAIT), EAGAIN);
    }
}

TEST(truncation_is_told)
{
    struct arrival got;
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    CHECK_EQ(send(pair[0], "message", 7, 0), 7);
    CHECK_EQ(receive(pair[1], &got, 3, 0, 0), 3);
    CHECK_EQ(got.flags, MSG_TRUNC);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(send(pair[0], "message", 7, 0), 7);
    CHECK_EQ(receive(pair[1], &got, 3, 0, 0), 3);
    CHECK_EQ(got.flags, 0);
    expect(pair[1], "sage");
}

TEST(peeking_at_a_stream)
{
    char got[16];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(write(pair[0], "abc", 3), 3);
    CHECK_EQ(write(pair[0], "def", 3), 3);
    CHECK_EQ(recv(pair[1], got, 5, MSG_PEEK), 5);
    CHECK(memcmp(got, "abcde", 5) == 0);
    CHECK_EQ(recv(pair[1], got, 16, MSG_PEEK), 6);
    CHECK_EQ(recv(pair[1], got, 2, 0), 2);
    expect(pair[1], "cdef");
}

TEST(waiting_for_all)
{
    char got[8];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    pid_t pid = must_fork();
    if (pid == 0) {
        close(pair[1]);
        CHECK_EQ(write(pair[0], "ab", 2), 2);
        wait_state(getppid(), 'S');
        CHECK_EQ(write(pair[0], "cdef", 4), 4);
        _exit(0);
    }
    close(pair[0]);
    CHECK_EQ(recv(pair[1], got, 6, MSG_WAITALL), 6);
    CHECK(memcmp(got, "abcdef", 6) == 0);
    CHECK_EXITED(pid, 0);
    CHECK_EQ(recv(pair[1], got, 6, MSG_WAITALL), 0);
}

TEST(blocking_write_of_more_than_fits)
{
    static char block[1000000], got[1000000];
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = (char)(i * 7 + i / 256);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    pid_t pid = must_fork();
    if (pid == 0) {
        close(pair[0]);
        _exit(write(pair[1], block, sizeof block) == sizeof block ? 0 : 1);
    }
    close(pair[1]);
    wait_state(pid, 'S');
    size_t have = 0;
    ssize_t n;
    while ((n = read(pair[0], got + have, sizeof got - have)) > 0)
        have += (size_t)n;
    CHECK_EQ(have, sizeof block);
    CHECK(memcmp(block, got, sizeof got) == 0);
    CHECK_EXITED(pid, 0);
}

TEST(a_full_stream)
{
    static char block[300000];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    ssize_t total = write(pair[0], block, sizeof block);
    CHECK(total > 100000 && total < 300000);
    CHECK_ERR(write(pair[0], "x", 1), EAGAIN);
    CHECK_EQ(events_of(pair[0]), 0);
    int queued;
    MUST(ioctl(pair[1], FIONREAD, &queued));
    CHECK_EQ(queued, total);
    MUST(ioctl(pair[0], TIOCOUTQ, &queued));
    CHECK(queued >= total);
    while (read(pair[1], block, sizeof block) > 0) {
    }
    CHECK_EQ(errno, EAGAIN);
    CHECK_EQ(events_of(pair[0]), POLLOUT);
    MUST(ioctl(pair[0], TIOCOUTQ, &queued));
    CHECK_EQ(queued, 0);
}

TEST(message_sizes)
{
    static char block[300000];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    CHECK_ERR(send(pair[0], block, sizeof block, 0), EMSGSIZE);
    CHECK_EQ(send(pair[0], block, 100000, 0), 100000);
    CHECK_EQ(recv(pair[1], block, sizeof block, 0), 100000);
    int size;
    CHECK_EQ(send(pair[0], block, 10, 0), 10);
    CHECK_EQ(send(pair[0], block, 20, 0), 20);
    MUST(ioctl(pair[1], FIONREAD, &size));
    CHECK_EQ(size, 10); /* of datagrams, the first */
    CHECK_ERR(ioctl(pair[1], TCGETS, block), ENOTTY);
}

TEST(bad_memory)
{
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_ERR(send(pair[0], (void *)8, 4, 0), EFAULT);
    CHECK_EQ(send(pair[0], "kept", 4, 0), 4);
    CHECK_ERR(recv(pair[1], (void *)8, 4, 0), EFAULT);
    expect(pair[1], "kept");
    CHECK_ERR(sendmsg(pair[0], (void *)8, 0), EFAULT);
    struct msghdr msg = {.msg_iovlen = 1025};
    CHECK_ERR(sendmsg(pair[0], &msg, 0), EMSGSIZE);
    CHECK_ERR(recvmsg(pair[0], &msg, 0), EMSGSIZE);
}

TEST(several_messages_at_once)
{
    char a[8] = {0}, b[8] = {0};
    struct iovec out[] = {{"one", 3}, {"three", 5}}, in[] = {{a, 8}, {b, 8}};
    struct mmsghdr msgs[2] = {{.msg_hdr = {.msg_iov = &out[0], .msg_iovlen = 1}},
                              {.msg_hdr = {.msg_iov = &out[1], .msg_iovlen = 1}}};
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    CHECK_EQ(sendmmsg(pair[0], msgs, 2, 0), 2);
    CHECK_EQ(msgs[1].msg_len, 5);
    msgs[0].msg_hdr.msg_iov = &in[0];
    msgs[1].msg_hdr.msg_iov = &in[1];
    msgs[0].msg_len = msgs[1].msg_len = 0;
    CHECK_EQ(recvmmsg(pair[1], msgs, 2, MSG_WAITFORONE, NULL), 2);
    CHECK_EQ(msgs[0].msg_len, 3);
    CHECK(strcmp(a, "one") == 0 && strcmp(b, "three") == 0);
    CHECK_EQ(send(pair[0], "x", 1, 0), 1);
    CHECK_EQ(recvmmsg(pair[1], msgs, 2, MSG_WAITFORONE, NULL), 1);
    CHECK_ERR(recvmmsg(pair[1], msgs, 2, MSG_DONTWAIT, NULL), EAGAIN);
    close(pair[1]);
    CHECK_ERR(sendmmsg(pair[0], msgs, 2, 0), ECONNREFUSED);
}

TEST(sendfile_and_splice)
{
    char got[8] = {0};
    int fds[2];
    make_file("f", "file data");
    int file = (int)MUST(open("f", O_RDONLY));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(sendfile(pair[0], file, NULL, 4), 4);
    expect(pair[1], "file");
    MUST(pipe(fds));
    CHECK_EQ(write(pair[0], "spliced", 7), 7);
    CHECK_EQ(splice(pair[1], NULL, fds[1], NULL, 100, 0), 7);
    CHECK_EQ(read(fds[0], got, 8), 7);
    CHECK(strcmp(got, "spliced") == 0);
}

/* -- ends -- */

TEST(closing_a_stream)
{
    char c;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(write(pair[0], "last", 4), 4);
    close(pair[0]);
    CHECK_EQ(events_of(pair[1]), POLLIN | POLLOUT | POLLHUP | POLLRDHUP);
    expect(pair[1], "last");
    CHECK_EQ(read(pair[1], &c, 1), 0);
    signal(SIGPIPE, on_pipe);
    CHECK_ERR(write(pair[1], "x", 1), EPIPE);
    CHECK_EQ(pipes_broken, 1);
    CHECK_ERR(send(pair[1], "x", 1, 0), EPIPE);
    CHECK_EQ(pipes_broken, 2);
    CHECK_ERR(send(pair[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(pipes_broken, 2);
}

TEST(closing_with_unread_data)
{
    char c;
    int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
    for (int i = 0; i < 2; i++) {
        MUST(socketpair(AF_UNIX, types[i], 0, pair));
        CHECK_EQ(write(pair[0], "unread", 6), 6);
        close(pair[1]);
        CHECK_EQ(events_of(pair[0]), POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
        CHECK_ERR(read(pair[0], &c, 1), ECONNRESET);
        CHECK_EQ(read(pair[0], &c, 1), 0);
        CHECK_EQ(option(pair[0], SO_ERROR), 0);
    }
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    close(pair[1]);
    CHECK_EQ(read(pair[0], &c, 1), 0); /* nothing was unread */
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(write(pair[0], "unread", 6), 6);
    close(pair[1]);
    CHECK_EQ(option(pair[0], SO_ERROR), ECONNRESET);
    CHECK_EQ(option(pair[0], SO_ERROR), 0);
}

TEST(closing_packets)
{
    char c;
    signal(SIGPIPE, on_pipe);
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    close(pair[1]);
    CHECK_ERR(write(pair[0], "x", 1), EPIPE);
    CHECK_EQ(read(pair[0], &c, 1), 0);
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    close(pair[1]);
    CHECK_EQ(events_of(pair[0]), POLLOUT);
    CHECK_ERR(write(pair[0], "x", 1), ECONNREFUSED);
    CHECK_ERR(write(pair[0], "x", 1), ENOTCONN);
    CHECK_EQ(pipes_broken, 0);
}

TEST(shutting_down)
{
    char c;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_ERR(shutdown(pair[0], 3), EINVAL);
    CHECK_ERR(shutdown(pair[0], -1), EINVAL);
    CHECK_EQ(write(pair[0], "x", 1), 1);
    MUST(shutdown(pair[0], SHUT_WR));
    CHECK_ERR(send(pair[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(events_of(pair[0]), POLLOUT);
    CHECK_EQ(events_of(pair[1]), POLLIN | POLLOUT | POLLRDHUP);
    CHECK_EQ(read(pair[1], &c, 1), 1);
    CHECK_EQ(read(pair[1], &c, 1), 0);
    CHECK_EQ(write(pair[1], "y", 1), 1);
    MUST(shutdown(pair[1], SHUT_WR));
    expect(pair[0], "y");
    CHECK_EQ(events_of(pair[0]), POLLIN | POLLOUT | POLLHUP | POLLRDHUP);

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(shutdown(pair[0], SHUT_RD));
    CHECK_ERR(send(pair[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(read(pair[0], &c, 1), 0);

    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    MUST(shutdown(pair[0], SHUT_RD));
    CHECK_ERR(send(pair[1], "x", 1, 0), EPIPE);
    CHECK_EQ(recv(pair[0], &c, 1, 0), 0);
    CHECK_ERR(recv(pair[0], &c, 1, MSG_DONTWAIT), EAGAIN);
    MUST(shutdown((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), SHUT_RDWR));
}

TEST(an_end_wakes_a_reader)
{
    int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
    for (int i = 0; i < 2; i++) {
        MUST(socketpair(AF_UNIX, types[i], 0, pair));
        pid_t pid = must_fork();
        if (pid == 0) {
            char c;
            close(pair[1]);
            _exit(read(pair[0], &c, 1) == 0 ? 0 : 1);
        }
        wait_state(pid, 'S');
        if (i)
            close(pair[1]);
        else
            MUST(shutdown(pair[1], SHUT_WR));
        CHECK_EXITED(pid, 0);
    }
}

TEST(an_end_wakes_a_writer)
{
    static char block[1000000];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    pid_t pid = must_fork();
    if (pid == 0) {
        close(pair[1]);
        ssize_t n = send(pair[0], block, sizeof block, MSG_NOSIGNAL);
        _exit(n > 0 && n < 1000000 ? 0 : 1);
    }
    close(pair[0]);
    wait_state(pid, 'S');
    close(pair[1]);
    CHECK_EXITED(pid, 0);
}

/* -- names -- */

TEST(names_are_files)
{
    struct sockaddr_un address, got;
    struct stat st;
    socklen_t length = sizeof got;
    umask(027);
    int fd = bound(SOCK_STREAM, "name");
    MUST(stat("name", &st));
    CHECK(S_ISSOCK(st.st_mode));
    CHECK_EQ(st.st_mode & 07777, 0750);
    MUST(getsockname(fd, (struct sockaddr *)&got, &length));
    CHECK_EQ(length, 2 + 5);
    CHECK_EQ(got.sun_family, AF_UNIX);
    CHECK(strcmp(got.sun_path, "name") == 0);
    CHECK_ERR(open("name", O_RDWR), ENXIO);
    CHECK_ERR(bind(fd, (struct sockaddr *)&address, name(&address, "other")), EINVAL);
    CHECK_ERR(stat("other", &st), ENOENT);
    int second = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(bind(second, (struct sockaddr *)&address, name(&address, "name")), EADDRINUSE);
    CHECK_ERR(bind(second, (struct sockaddr *)&address, name(&address, "no/where")), ENOENT);
    CHECK_ERR(bind(second, (struct sockaddr *)&address, name(&address, "name/below")), ENOTDIR);
    CHECK_ERR(bind(second, (struct sockaddr *)&address, 1), EINVAL);
    CHECK_ERR(bind(second, (struct sockaddr *)&address, sizeof address + 1), EINVAL);
    CHECK_ERR(bind(second, (struct sockaddr *)8, 10), EFAULT);
    address.sun_family = AF_INET;
    CHECK_ERR(bind(second, (struct sockaddr *)&address, 10), EINVAL);
    close(fd);
    MUST(stat("name", &st)); /* it stays, and is nobody's */
    CHECK_ERR(connect_to(second, "name"), ECONNREFUSED);
    CHECK_ERR(bind(second, (struct sockaddr *)&address, name(&address, "name")), EADDRINUSE);
    MUST(unlink("name"));
    MUST(bind(second, (struct sockaddr *)&address, name(&address, "name")));
}

TEST(a_name_as_long_as_can_be)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char got[200], path[109] = {0};
    socklen_t length = sizeof got;
    memset(address.sun_path, 'n', sizeof address.sun_path);
    memcpy(path, address.sun_path, 108);
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    MUST(access(path, F_OK));
    MUST(getsockname(fd, (struct sockaddr *)got, &length));
    CHECK_EQ(length, 2 + 108 + 1);
    length = 4;
    memset(got, 'x', sizeof got);
    MUST(getsockname(fd, (struct sockaddr *)got, &length));
    CHECK_EQ(length, 2 + 108 + 1);
    CHECK_EQ(got[4], 'x');
    length = (socklen_t)-1;
    CHECK_ERR(getsockname(fd, (struct sockaddr *)got, &length), EINVAL);
}

TEST(names_follow_their_file)
{
    int fd = listener(SOCK_STREAM, "first", 5);
    MUST(rename("first", "second"));
    MUST(link("second", "third"));
    MUST(symlink("third", "fourth"));
    MUST(mkdir("d", 0755));
    close(connected(SOCK_STREAM, "fourth"));
    int client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(connect_to(client, "first"), ENOENT);
    CHECK_ERR(connect_to(client, "d"), ECONNREFUSED);
    make_file("plain", "");
    CHECK_ERR(connect_to(client, "plain"), ECONNREFUSED);
    MUST(chdir("d"));
    MUST(connect_to(client, "../second"));
    struct sockaddr_un got;
    socklen_t length = sizeof got;
    MUST(getpeername(client, (struct sockaddr *)&got, &length));
    CHECK(strcmp(got.sun_path, "first") == 0);
    close(fd);
}

TEST(connecting_needs_permission)
{
    int fd = listener(SOCK_STREAM, "s", 5);
    (void)fd;
    MUST(chmod("s", 0700));
    MUST(chmod(".", 0755));
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setgid(1000));
        MUST(setuid(1000));
        int client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        CHECK_ERR(connect_to(client, "s"), EACCES);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

TEST(abstract_names)
{
    struct sockaddr_un address, got;
    socklen_t length = abstract(&address, "a"), got_length = sizeof got;
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(fd, (struct sockaddr *)&address, length));
    MUST(getsockname(fd, (struct sockaddr *)&got, &got_length));
    CHECK_EQ(got_length, length);
    CHECK(memcmp(&got, &address, length) == 0);
    int second = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(bind(second, (struct sockaddr *)&address, length), EADDRINUSE);
    MUST(bind(second, (struct sockaddr *)&address, length + 1)); /* a NUL more is another name */
    int client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(connect(client, (struct sockaddr *)&address, length), ECONNREFUSED);
    MUST(listen(fd, 1));
    MUST(connect(client, (struct sockaddr *)&address, length));
    int packet = (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    CHECK_ERR(connect(packet, (struct sockaddr *)&address, length), ECONNREFUSED);
    MUST(bind(packet, (struct sockaddr *)&address, length)); /* each type has names of its own */
    close(fd);
    fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(connect(fd, (struct sockaddr *)&address, length), ECONNREFUSED);
    MUST(bind(fd, (struct sockaddr *)&address, length)); /* free, though the client's other end still has it */
    close(client);
}

TEST(names_by_themselves)
{
    struct sockaddr_un got[2];
    for (int i = 0; i < 2; i++) {
        socklen_t length = sizeof got[i];
        int fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
        sa_family_t family = AF_UNIX;
        MUST(bind(fd, (struct sockaddr *)&family, sizeof family));
        MUST(getsockname(fd, (struct sockaddr *)&got[i], &length));
        CHECK_EQ(length, 2 + 6);
        CHECK_EQ(got[i].sun_path[0], 0);
        CHECK_EQ(strspn(got[i].sun_path + 1, "0123456789abcdef"), 5);
    }
    CHECK(memcmp(got[0].sun_path, got[1].sun_path, 6) != 0);
    socklen_t length = sizeof got[0];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(getsockname(pair[0], (struct sockaddr *)&got[0], &length));
    CHECK_EQ(length, 2);
    length = sizeof got[0];
    MUST(getpeername(pair[0], (struct sockaddr *)&got[0], &length));
    CHECK_EQ(length, 2);
    length = sizeof got[0];
    CHECK_ERR(getpeername((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&got[0], &length), ENOTCONN);
}

/* -- connections -- */

TEST(connecting_and_accepting)
{
    int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
    for (int i = 0; i < 2; i++) {
        const char *path = i ? "packets" : "stream";
        struct sockaddr_un got;
        socklen_t length = sizeof got;
        int fd = listener(types[i], path, 5);
        CHECK_EQ(option(fd, SO_ACCEPTCONN), 1);
        CHECK_EQ(events_of(fd), 0);
        int client = connected(types[i], path);
        CHECK_EQ(events_of(fd), POLLIN);
        CHECK_EQ(write(client, "early", 5), 5); /* before it is accepted */
        int server = (int)MUST(accept4(fd, (struct sockaddr *)&got, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
        CHECK_EQ(length, 2);
        CHECK_EQ(option(server, SO_ACCEPTCONN), 0);
        CHECK_EQ(fcntl(server, F_GETFL), O_RDWR | O_NONBLOCK);
        CHECK_EQ(fcntl(server, F_GETFD), FD_CLOEXEC);
        expect(server, "early");
        CHECK_EQ(write(server, "hi", 2), 2);
        expect(client, "hi");
        length = sizeof got;
        MUST(getpeername(client, (struct sockaddr *)&got, &length));
        CHECK(strcmp(got.sun_path, path) == 0);
        length = sizeof got;
        MUST(getsockname(server, (struct sockaddr *)&got, &length));
        CHECK(strcmp(got.sun_path, path) == 0);
        CHECK_ERR(connect_to(client, path), EISCONN);
        CHECK_ERR(connect_to(fd, path), EINVAL);
        CHECK_ERR(listen(client, 5), EINVAL);
        close(server);
        CHECK_EQ(read(client, &got, 1), 0);
    }
}

TEST(wrong_turns)
{
    char c;
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_EQ(events_of(fd), POLLOUT | POLLHUP);
    CHECK_ERR(listen(fd, 5), EINVAL);
    CHECK_ERR(accept(fd, NULL, NULL), EINVAL);
    CHECK_ERR(read(fd, &c, 1), EINVAL);
    CHECK_ERR(write(fd, "x", 1), ENOTCONN);
    int packet = (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    CHECK_ERR(read(packet, &c, 1), ENOTCONN);
    CHECK_ERR(write(packet, "x", 1), ENOTCONN);
    int datagram = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    CHECK_EQ(events_of(datagram), POLLOUT);
    CHECK_ERR(listen(datagram, 5), EOPNOTSUPP);
    CHECK_ERR(accept(datagram, NULL, NULL), EOPNOTSUPP);
    CHECK_ERR(write(datagram, "x", 1), ENOTCONN);
    CHECK_ERR(recv(datagram, &c, 1, MSG_DONTWAIT), EAGAIN);
    CHECK_ERR(accept4(fd, NULL, NULL, 1), EINVAL);
    CHECK_ERR(connect_to(fd, "nothing"), ENOENT);
    int server = listener(SOCK_STREAM, "stream", 5);
    CHECK_ERR(connect_to(packet, "stream"), EPROTOTYPE);
    CHECK_ERR(read(server, &c, 1), EINVAL);
    CHECK_ERR(write(server, "x", 1), ENOTCONN);
    int unheard = bound(SOCK_STREAM, "unheard");
    (void)unheard;
    CHECK_ERR(connect_to(fd, "unheard"), ECONNREFUSED);
    struct sockaddr_un address;
    socklen_t length = name(&address, "stream");
    CHECK_ERR(sendto(fd, "x", 1, 0, (struct sockaddr *)&address, length), EOPNOTSUPP);
    MUST(connect(fd, (struct sockaddr *)&address, length));
    CHECK_ERR(sendto(fd, "x", 1, 0, (struct sockaddr *)&address, length), EISCONN);
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    CHECK_ERR(connect(fd, &none, sizeof none), EINVAL);
}

TEST(a_full_backlog)
{
    int fd = listener(SOCK_STREAM, "s", 1);
    int first = connected(SOCK_STREAM, "s"), second = connected(SOCK_STREAM, "s");
    int third = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    CHECK_ERR(connect_to(third, "s"), EAGAIN);
    pid_t pid = must_fork();
    if (pid == 0) {
        int fourth = connected(SOCK_STREAM, "s");
        CHECK_EQ(write(fourth, "4", 1), 1);
        _exit(0);
    }
    wait_state(pid, 'S');
    MUST(accept(fd, NULL, NULL));
    CHECK_EXITED(pid, 0);
    MUST(accept(fd, NULL, NULL));
    expect((int)MUST(accept(fd, NULL, NULL)), "4");
    MUST(connect_to(third, "s"));
    close(first), close(second);
}

TEST(a_backlog_with_a_timeout)
{
    int fd = listener(SOCK_STREAM, "s", 0);
    (void)fd;
    int first = connected(SOCK_STREAM, "s"), second = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    (void)first;
    struct timeval limit = {.tv_usec = 50000};
    MUST(setsockopt(second, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    CHECK_ERR(connect_to(second, "s"), EAGAIN);
}

TEST(connections_nobody_accepted)
{
    char c;
    int fd = listener(SOCK_STREAM, "s", 5);
    int client = connected(SOCK_STREAM, "s");
    close(fd);
    CHECK_EQ(events_of(client), POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
    CHECK_ERR(read(client, &c, 1), ECONNRESET);
    CHECK_EQ(read(client, &c, 1), 0);
}

TEST(accept_waits_and_is_woken)
{
    int fd = listener(SOCK_STREAM, "s", 5);
    pid_t pid = must_fork();
    if (pid == 0) {
        int server = (int)MUST(accept(fd, NULL, NULL));
        expect(server, "hello");
        _exit(0);
    }
    wait_state(pid, 'S');
    int client = connected(SOCK_STREAM, "s");
    CHECK_EQ(write(client, "hello", 5), 5);
    CHECK_EXITED(pid, 0);
    pid = must_fork();
    if (pid == 0) {
        CHECK_ERR(accept(fd, NULL, NULL), EINVAL);
        _exit(0);
    }
    wait_state(pid, 'S');
    MUST(shutdown(fd, SHUT_RD));
    CHECK_EXITED(pid, 0);
    int late = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERR(connect_to(late, "s"), ECONNREFUSED);
    fd = listener(SOCK_STREAM, "s2", 5);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    CHECK_ERR(accept(fd, NULL, NULL), EAGAIN);
}

/* -- datagrams -- */

TEST(datagrams_by_name)
{
    char got[8];
    struct sockaddr_un address, from;
    socklen_t length = name(&address, "a"), from_length = sizeof from;
    int a = bound(SOCK_DGRAM, "a"), b = bound(SOCK_DGRAM, "b");
    int anonymous = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    CHECK_EQ(sendto(b, "from b", 6, 0, (struct sockaddr *)&address, length), 6);
    CHECK_EQ(recvfrom(a, got, 8, 0, (struct sockaddr *)&from, &from_length), 6);
    CHECK_EQ(from_length, 2 + 2);
    CHECK(strcmp(from.sun_path, "b") == 0);
    CHECK_EQ(sendto(anonymous, "x", 1, 0, (struct sockaddr *)&address, length), 1);
    from_length = sizeof from;
    CHECK_EQ(recvfrom(a, got, 8, 0, (struct sockaddr *)&from, &from_length), 1);
    CHECK_EQ(from_length, 0);
    CHECK_ERR(sendto(b, "x", 1, 0, (struct sockaddr *)&address, name(&address, "c")), ENOENT);
    close(b);
    CHECK_ERR(sendto(a, "x", 1, 0, (struct sockaddr *)&address, name(&address, "b")), ECONNREFUSED);
    int stream = listener(SOCK_STREAM, "stream", 1);
    (void)stream;
    CHECK_ERR(sendto(a, "x", 1, 0, (struct sockaddr *)&address, name(&address, "stream")), EPROTOTYPE);
    length = abstract(&address, "d");
    int d = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(bind(d, (struct sockaddr *)&address, length));
    CHECK_EQ(sendto(a, "abstract", 8, 0, (struct sockaddr *)&address, length), 8);
    expect(d, "abstract");
}

TEST(connected_datagrams)
{
    struct sockaddr_un address;
    socklen_t length = name(&address, "a");
    int a = bound(SOCK_DGRAM, "a"), b = bound(SOCK_DGRAM, "b"), c = bound(SOCK_DGRAM, "c");
    MUST(connect_to(a, "b"));
    CHECK_EQ(write(a, "to b", 4), 4);
    expect(b, "to b");
    CHECK_ERR(sendto(c, "x", 1, 0, (struct sockaddr *)&address, length), EPERM); /* a hears from b only */
    CHECK_ERR(connect_to(c, "a"), EPERM);
    CHECK_EQ(sendto(b, "to a", 4, 0, (struct sockaddr *)&address, length), 4);
    MUST(connect_to(a, "c")); /* what b sent is gone */
    CHECK_ERR(recv(a, &address, 1, MSG_DONTWAIT), EAGAIN);
    CHECK_ERR(recv(b, &address, 1, MSG_DONTWAIT), EAGAIN); /* b, not connected to a, does not hear of that */
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    MUST(connect(a, &none, sizeof none));
    CHECK_ERR(write(a, "x", 1), ENOTCONN);
    CHECK_EQ(sendto(c, "free", 4, 0, (struct sockaddr *)&address, name(&address, "a")), 4);
    expect(a, "free");
    MUST(connect_to(b, "b")); /* oneself */
    CHECK_EQ(write(b, "me", 2), 2);
    expect(b, "me");
}

TEST(a_long_queue_of_datagrams)
{
    struct sockaddr_un address;
    socklen_t length = name(&address, "a");
    int a = bound(SOCK_DGRAM, "a"), b = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    int c = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), sent = 0;
    while (sendto(b, "x", 1, 0, (struct sockaddr *)&address, length) == 1)
        sent++;
    CHECK_EQ(errno, EAGAIN);
    CHECK(sent > 5);
    MUST(connect_to(b, "a"));
    CHECK_EQ(events_of(b), 0);
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(sendto(c, "late", 4, 0, (struct sockaddr *)&address, length) == 4 ? 0 : 1);
    wait_state(pid, 'S');
    while (sent--)
        expect(a, "x");
    expect(a, "late");
    CHECK_EXITED(pid, 0);
    CHECK_EQ(events_of(b), POLLOUT);
}

/* -- descriptors -- */

TEST(descriptors_travel)
{
    int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    for (int i = 0; i < 3; i++) {
        struct arrival got;
        int fds[2];
        MUST(socketpair(AF_UNIX, types[i], 0, pair));
        MUST(pipe(fds));
        CHECK_EQ(send_fds(pair[0], "two", fds, 2), 3);
        close(fds[0]), close(fds[1]);
        CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, MSG_CMSG_CLOEXEC), 3);
        CHECK_EQ(got.count, 2);
        CHECK_EQ(got.flags, MSG_CMSG_CLOEXEC);
        CHECK_EQ(fcntl(got.fds[0], F_GETFD), FD_CLOEXEC);
        CHECK_EQ(write(got.fds[1], "through", 7), 7);
        char text[8] = {0};
        CHECK_EQ(read(got.fds[0], text, 8), 7);
        CHECK(strcmp(text, "through") == 0);
        close(got.fds[0]), close(got.fds[1]);
        CHECK_EQ(send_fds(pair[0], "x", pair, 1), 1);
        CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 1);
        CHECK_EQ(fcntl(got.fds[0], F_GETFD), 0);
        close(got.fds[0]);
    }
}

TEST(descriptors_share_their_offset)
{
    struct arrival got;
    char text[8] = {0};
    make_file("f", "abcdef");
    int file = (int)MUST(open("f", O_RDONLY));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(read(file, text, 2), 2);
    pid_t pid = must_fork();
    if (pid == 0) {
        CHECK_EQ(send_fds(pair[0], "f", &file, 1), 1);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    close(file);
    CHECK_EQ(receive(pair[1], &got, 1, ALL_ROOM, 0), 1);
    CHECK_EQ(read(got.fds[0], text, 8), 4);
    CHECK(memcmp(text, "cdef", 4) == 0);
}

TEST(descriptors_are_boundaries_in_a_stream)
{
    struct arrival got;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(write(pair[0], "aa", 2), 2);
    CHECK_EQ(send_fds(pair[0], "bb", &(int){0}, 1), 2);
    CHECK_EQ(send_fds(pair[0], "cc", &(int){0}, 1), 2);
    CHECK_EQ(write(pair[0], "dd", 2), 2);
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, MSG_PEEK), 4);
    CHECK_EQ(got.count, 1);
    close(got.fds[0]);
    CHECK_EQ(receive(pair[1], &got, 3, ALL_ROOM, 0), 3); /* with its first byte */
    CHECK_EQ(got.count, 1);
    CHECK(strcmp(got.text, "aab") == 0);
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 3);
    CHECK_EQ(got.count, 1);
    CHECK(strcmp(got.text, "bcc") == 0);
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 2);
    CHECK_EQ(got.count, 0);
}

TEST(descriptors_that_do_not_fit)
{
    struct arrival got;
    int fds[4] = {0, 0, 0, 0};
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    CHECK_EQ(send_fds(pair[0], "four", fds, 4), 4);
    CHECK_EQ(receive(pair[1], &got, 100, CMSG_LEN(2 * sizeof(int)), 0), 4);
    CHECK_EQ(got.count, 2);
    CHECK_EQ(got.flags, MSG_CTRUNC);
    CHECK(is_open(got.fds[1]));
    CHECK(!is_open(got.fds[1] + 1));
    CHECK_EQ(send_fds(pair[0], "four", fds, 4), 4);
    CHECK_EQ(receive(pair[1], &got, 100, 0, 0), 4);
    CHECK_EQ(got.flags, MSG_CTRUNC);
    CHECK(!is_open(pair[1] + 3));
    CHECK_EQ(send_fds(pair[0], "four", fds, 4), 4);
    CHECK_EQ(read(pair[1], got.text, 100), 4); /* lost without a word */
    int last = -1;
    while ((fds[0] = dup(0)) >= 0)
        last = fds[0];
    CHECK_EQ(errno, EMFILE);
    close(last);
    fds[0] = 0;
    CHECK_EQ(send_fds(pair[0], "four", fds, 4), 4);
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 4);
    CHECK_EQ(got.count, 1);
    CHECK_EQ(got.fds[0], last);
    CHECK_EQ(got.flags, MSG_CTRUNC);
}

TEST(bad_ancillary_data)
{
    int fds[260] = {0};
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(send_fds(pair[0], "x", fds, 253), 1);
    CHECK_ERR(send_fds(pair[0], "x", fds, 254), EINVAL);
    CHECK_ERR(send_fds(pair[0], "x", &(int){77}, 1), EBADF);
    char control[CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec iov = {"x", 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    *cmsg = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = 99, .cmsg_len = CMSG_LEN(4)};
    CHECK_ERR(sendmsg(pair[0], &msg, 0), EINVAL);
    cmsg->cmsg_type = SCM_CREDENTIALS;
    CHECK_ERR(sendmsg(pair[0], &msg, 0), EINVAL);
    cmsg->cmsg_len = 3;
    CHECK_ERR(sendmsg(pair[0], &msg, 0), EINVAL);
    cmsg->cmsg_len = 1000;
    CHECK_ERR(sendmsg(pair[0], &msg, 0), EINVAL);
    *cmsg = (struct cmsghdr){.cmsg_level = 12345, .cmsg_type = 99, .cmsg_len = CMSG_LEN(4)};
    CHECK_EQ(sendmsg(pair[0], &msg, 0), 1);
    msg.msg_control = (void *)8;
    CHECK_ERR(sendmsg(pair[0], &msg, 0), EFAULT);
}

/* The write end of a pipe closes when the last reference to it is gone. */
static void check_gone(int reader)
{
    struct pollfd polled = {.fd = reader};
    CHECK_EQ(poll(&polled, 1, 5000), 1);
    CHECK_EQ(polled.revents, POLLHUP);
}

TEST(descriptors_nobody_receives)
{
    int fds[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(pipe(fds));
    CHECK_EQ(send_fds(pair[0], "x", &fds[1], 1), 1);
    close(fds[1]);
    close(pair[0]);
    struct pollfd polled = {.fd = fds[0]};
    CHECK_EQ(poll(&polled, 1, 0), 0);
    close(pair[1]);
    check_gone(fds[0]);
}

TEST(descriptors_in_descriptors)
{
    int fds[2], inner[2];
    MUST(pipe(fds));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    CHECK_EQ(send_fds(pair[0], "x", &fds[1], 1), 1);
    close(fds[1]);
    for (int i = 0; i < 3; i++) { /* pair travels in inner, which becomes pair */
        MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, inner));
        CHECK_EQ(send_fds(inner[0], "x", pair, 2), 1);
        close(pair[0]), close(pair[1]);
        pair[0] = inner[0], pair[1] = inner[1];
    }
    struct pollfd polled = {.fd = fds[0]};
    CHECK_EQ(poll(&polled, 1, 0), 0);
    close(pair[0]), close(pair[1]);
    check_gone(fds[0]);
}

TEST(descriptors_in_themselves)
{
    int fds[2], other[2];
    MUST(pipe(fds));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(send_fds(pair[0], "x", &fds[1], 1), 1);
    CHECK_EQ(send_fds(pair[0], "x", &pair[1], 1), 1);
    CHECK_EQ(send_fds(pair[1], "x", &pair[0], 1), 1);
    close(fds[1]), close(pair[0]), close(pair[1]);
    for (int i = 0; i < 2; i++) { /* another socket's end makes the kernel look */
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, other));
        close(other[0]), close(other[1]);
    }
    check_gone(fds[0]);
}

TEST(descriptors_in_a_connection_not_accepted)
{
    int fds[2], other[2];
    MUST(pipe(fds));
    int fd = listener(SOCK_STREAM, "s", 5);
    int client = connected(SOCK_STREAM, "s");
    CHECK_EQ(send_fds(client, "x", &fds[1], 1), 1);
    CHECK_EQ(send_fds(client, "x", &fd, 1), 1); /* the listener in its own backlog */
    close(fds[1]), close(client), close(fd);
    for (int i = 0; i < 2; i++) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, other));
        close(other[0]), close(other[1]);
    }
    check_gone(fds[0]);
}

/* -- credentials -- */

TEST(credentials_of_the_sender)
{
    struct arrival got;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    set_option(pair[1], SO_PASSCRED, 1);
    CHECK_EQ(option(pair[1], SO_PASSCRED), 1);
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setgid(1001));
        MUST(setuid(1000));
        CHECK_EQ(write(pair[0], "a", 1), 1);
        CHECK_EQ(write(pair[0], "b", 1), 1);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK_EQ(write(pair[0], "c", 1), 1);
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 2); /* not glued with another's */
    CHECK(got.stamped);
    CHECK_EQ(got.creds.pid, pid);
    CHECK_EQ(got.creds.uid, 1000);
    CHECK_EQ(got.creds.gid, 1001);
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 1);
    CHECK_EQ(got.creds.pid, getpid());
    CHECK_EQ(got.creds.uid, getuid());
    set_option(pair[1], SO_PASSCRED, 0);
    CHECK_EQ(write(pair[0], "d", 1), 1);
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 1);
    CHECK(!got.stamped);
    CHECK_EQ(write(pair[0], "e", 1), 1); /* sent before anybody asked */
    set_option(pair[1], SO_PASSCRED, 1);
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 1);
    CHECK(got.stamped);
    CHECK_EQ(got.creds.pid, 0);
    CHECK_EQ(got.creds.uid, 65534);
    CHECK_EQ(write(pair[0], "f", 1), 1);
    CHECK_EQ(receive(pair[1], &got, 100, 0, 0), 1);
    CHECK_EQ(got.flags, MSG_CTRUNC);
}

static ssize_t send_creds(int to, struct ucred creds)
{
    char control[CMSG_SPACE(sizeof creds)] = {0};
    struct iovec iov = {"x", 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_CREDENTIALS;
    cmsg->cmsg_len = CMSG_LEN(sizeof creds);
    memcpy(CMSG_DATA(cmsg), &creds, sizeof creds);
    return sendmsg(to, &msg, 0);
}

TEST(credentials_that_are_given)
{
    struct arrival got;
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    set_option(pair[1], SO_PASSCRED, 1);
    CHECK_EQ(send_creds(pair[0], (struct ucred){getpid(), 1234, 4321}), 1); /* CAP_SETUID, CAP_SETGID */
    CHECK_EQ(receive(pair[1], &got, 100, ALL_ROOM, 0), 1);
    CHECK_EQ(got.creds.uid, 1234);
    CHECK_EQ(got.creds.gid, 4321);
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setgid(1001));
        MUST(setuid(1000));
        CHECK_EQ(send_creds(pair[0], (struct ucred){getpid(), 1000, 1001}), 1);
        CHECK_ERR(send_creds(pair[0], (struct ucred){getpid(), 0, 1001}), EPERM);
        CHECK_ERR(send_creds(pair[0], (struct ucred){getpid(), 1000, 0}), EPERM);
        CHECK_ERR(send_creds(pair[0], (struct ucred){getppid(), 1000, 1001}), EPERM);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

TEST(credentials_of_the_peer)
{
    struct ucred creds;
    socklen_t length = sizeof creds;
    int fd = listener(SOCK_STREAM, "s", 5);
    MUST(chmod("s", 0777));
    MUST(chmod(".", 0755));
    MUST(getsockopt((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), SOL_SOCKET, SO_PEERCRED, &creds, &length));
    CHECK_EQ(creds.pid, 0);
    CHECK_EQ(creds.uid, (uid_t)-1);
    struct gate gate = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setgid(1001));
        MUST(setuid(1000));
        int client = connected(SOCK_STREAM, "s");
        MUST(getsockopt(client, SOL_SOCKET, SO_PEERCRED, &creds, &length));
        CHECK_EQ(creds.pid, getppid());
        CHECK_EQ(creds.uid, 0);
        gate_wait(&gate);
        _exit(0);
    }
    int server = (int)MUST(accept(fd, NULL, NULL));
    gate_open(&gate);
    CHECK_EXITED(pid, 0);
    MUST(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &creds, &length)); /* it may be asked later */
    CHECK_EQ(length, sizeof creds);
    CHECK_EQ(creds.pid, pid);
    CHECK_EQ(creds.uid, 1000);
    CHECK_EQ(creds.gid, 1001);
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    MUST(getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &creds, &length));
    CHECK_EQ(creds.pid, getpid());
}

/* -- waiting -- */

TEST(timeouts)
{
    char c;
    struct timeval limit = {.tv_usec = 50000}, got = {0};
    socklen_t length = sizeof got;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    MUST(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &got, &length));
    CHECK(got.tv_sec == 0 && got.tv_usec >= 50000 && got.tv_usec < 60000);
    int64_t start = now_ns();
    CHECK_ERR(read(pair[0], &c, 1), EAGAIN);
    CHECK_ERR(recv(pair[0], &c, 1, 0), EAGAIN);
    CHECK(now_ns() - start >= 90000000);
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    static char block[1000000];
    CHECK(write(pair[0], block, sizeof block) < 1000000);
    CHECK_ERR(write(pair[0], block, sizeof block), EAGAIN);
    limit.tv_usec = 2000000;
    CHECK_ERR(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), EDOM);
    CHECK_ERR(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, 8), EINVAL);
    int fd = listener(SOCK_STREAM, "s", 1);
    limit.tv_usec = 20000;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CHECK_ERR(accept(fd, NULL, NULL), EAGAIN);
}

static void recv_is_interrupted(int flags)
{
    char c;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    MUST(sigaction(SIGUSR1, &action, NULL));
    pid_t pid = signal_when_asleep(SIGUSR1);
    CHECK_ERR(recv(pair[0], &c, 1, 0), EINTR);
    CHECK_EXITED(pid, 0);
}

TEST(signals_interrupt)
{
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    recv_is_interrupted(0);
    struct timeval limit = {.tv_sec = 100};
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    recv_is_interrupted(SA_RESTART); /* does not help where a timeout is set */
    CHECK_EQ(signals, 2);
}

TEST(epoll_on_sockets)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP}, got;
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    int epoll = (int)MUST(epoll_create1(0));
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event));
    CHECK_EQ(epoll_wait(epoll, &got, 1, 0), 1);
    CHECK_EQ(got.events, EPOLLOUT);
    CHECK_EQ(epoll_wait(epoll, &got, 1, 0), 0);
    CHECK_EQ(write(pair[1], "x", 1), 1);
    CHECK_EQ(epoll_wait(epoll, &got, 1, 0), 1);
    CHECK_EQ(got.events, EPOLLIN | EPOLLOUT);
    close(pair[1]);
    CHECK_EQ(epoll_wait(epoll, &got, 1, 0), 1);
    CHECK_EQ(got.events, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP);
    int fd = listener(SOCK_STREAM, "s", 5);
    event.events = EPOLLIN;
    MUST(epoll_ctl(epoll, EPOLL_CTL_DEL, pair[0], NULL));
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(epoll, &got, 1, 0), 0);
    int client = connected(SOCK_STREAM, "s");
    CHECK_EQ(epoll_wait(epoll, &got, 1, 1000), 1);
    close(client);
}

TEST(signal_driven)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, NULL);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(fcntl(pair[0], F_SETOWN, getpid()));
    MUST(fcntl(pair[0], F_SETFL, O_ASYNC));
    CHECK_EQ(write(pair[1], "x", 1), 1);
    struct timespec limit = {5, 0};
    CHECK_EQ(sigtimedwait(&set, &info, &limit), SIGIO);
}

TEST(many_writers_and_readers)
{
    enum { MESSAGES = 300, PAIRS = 3 };
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    for (int w = 0; w < PAIRS; w++)
        if (must_fork() == 0) {
            close(pair[1]);
            for (int i = 0; i < MESSAGES; i++)
                CHECK_EQ(send(pair[0], &w, sizeof w, 0), sizeof w);
            _exit(0);
        }
    close(pair[0]);
    int total = 0, w;
    while (recv(pair[1], &w, sizeof w, 0) == sizeof w)
        total++;
    CHECK_EQ(total, MESSAGES * PAIRS);
}

/* -- options -- */

TEST(options)
{
    int value = 1;
    socklen_t length = sizeof value;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK_EQ(option(pair[0], SO_TYPE), SOCK_STREAM);
    CHECK_EQ(option(pair[0], SO_ERROR), 0);
    CHECK_EQ(option(pair[0], SO_KEEPALIVE), 0);
    set_option(pair[0], SO_KEEPALIVE, 7);
    CHECK_EQ(option(pair[0], SO_KEEPALIVE), 1);
    set_option(pair[0], SO_REUSEADDR, 1);
    set_option(pair[0], SO_SNDBUF, 10000);
    CHECK_EQ(option(pair[0], SO_SNDBUF), 20000);
    set_option(pair[0], SO_SNDBUF, 1);
    CHECK(option(pair[0], SO_SNDBUF) > 2000);
    set_option(pair[0], SO_RCVBUF, 5000);
    CHECK_EQ(option(pair[0], SO_RCVBUF), 10000);
    struct linger linger = {1, 5};
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    linger.l_linger = 0;
    length = sizeof linger;
    MUST(getsockopt(pair[0], SOL_SOCKET, SO_LINGER, &linger, &length));
    CHECK_EQ(linger.l_linger, 5);
    length = 2;
    value = -1;
    MUST(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &value, &length));
    CHECK_EQ(length, 2);
    CHECK_EQ(value, (int)0xffff0001);
    length = sizeof value;
    CHECK_ERR(getsockopt(pair[0], SOL_SOCKET, 999, &value, &length), ENOPROTOOPT);
    CHECK_ERR(setsockopt(pair[0], SOL_SOCKET, 999, &value, sizeof value), ENOPROTOOPT);
    CHECK_ERR(setsockopt(pair[0], SOL_SOCKET, SO_TYPE, &value, sizeof value), ENOPROTOOPT);
    CHECK_ERR(setsockopt(pair[0], 6, 1, &value, sizeof value), EOPNOTSUPP);
    CHECK_ERR(getsockopt(pair[0], 6, 1, &value, &length), EOPNOTSUPP);
    CHECK_ERR(setsockopt(pair[0], SOL_SOCKET, SO_KEEPALIVE, &value, 2), EINVAL);
    length = (socklen_t)-1;
    CHECK_ERR(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &value, &length), EINVAL);
    CHECK_ERR(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &value, (void *)8), EFAULT);
}

TEST(listed_in_proc)
{
    char line[512], want[64];
    bool listening = false, connected_one = false;
    int fd = listener(SOCK_STREAM, "listed", 5);
    struct stat st;
    MUST(fstat(fd, &st));
    int client = connected(SOCK_STREAM, "listed");
    (void)client;
    snprintf(want, sizeof want, " 00010000 0001 01 %5lu listed\n", (unsigned long)st.st_ino);
    FILE *in = fopen("/proc/net/unix", "r");
    CHECK(in != NULL);
    CHECK(fgets(line, sizeof line, in) != NULL);
    CHECK(strcmp(line, "Num       RefCount Protocol Flags    Type St Inode Path\n") == 0);
    while (fgets(line, sizeof line, in)) {
        listening |= strstr(line, want) != NULL;
        connected_one |= strstr(line, " 00000000 0001 02     0 listed\n") != NULL;
    }
    CHECK(listening);
    CHECK(connected_one);
}
