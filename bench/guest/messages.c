/* Rows about bytes that a process sends to itself: pipe, eventfd with epoll, sockets. */
#include "micro.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { MESSAGE = 1024 };

static int ends[2]; /* [0] is read, [1] is written */
static char message[MESSAGE];

static int pipe_set_up(void) {
    TRY(pipe(ends));
    return 0;
}

static int pipe_batch(long n) {
    while (n-- > 0) {
        TRY(write(ends[1], message, 1));
        TRY(read(ends[0], message, 1));
    }
    return 0;
}

static int unix_set_up(void) {
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    return 0;
}

static int read_whole(void) {
    ssize_t got;
    for (size_t have = 0; have < MESSAGE; have += got)
        TRY(got = read(ends[0], message, MESSAGE - have));
    return 0;
}

static int socket_batch(long n) {
    while (n-- > 0) {
        TRY(write(ends[1], message, MESSAGE));
        if (read_whole() < 0)
            return -1;
    }
    return 0;
}

static int tcp_set_up(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener, one = 1;
    TRY(listener = socket(AF_INET, SOCK_STREAM, 0));
    TRY(bind(listener, (struct sockaddr *)&address, size));
    TRY(listen(listener, 1));
    TRY(getsockname(listener, (struct sockaddr *)&address, &size));
    TRY(ends[1] = socket(AF_INET, SOCK_STREAM, 0));
    TRY(connect(ends[1], (struct sockaddr *)&address, size));
    TRY(ends[0] = accept(listener, NULL, NULL));
    TRY(setsockopt(ends[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    return 0;
}

static int event, poller;

static int epoll_set_up(void) {
    struct epoll_event interest = {.events = EPOLLIN};
    TRY(event = eventfd(0, 0));
    TRY(poller = epoll_create1(0));
    TRY(epoll_ctl(poller, EPOLL_CTL_ADD, event, &interest));
    return 0;
}

static int epoll_batch(long n) {
    struct epoll_event ready;
    uint64_t count = 1;
    while (n-- > 0) {
        TRY(write(event, &count, sizeof count));
        TRY(epoll_wait(poller, &ready, 1, -1));
        TRY(read(event, &count, sizeof count));
    }
    return 0;
}

const struct row message_rows[] = {
    {"pipe", pipe_set_up, pipe_batch},
    {"epoll_eventfd", epoll_set_up, epoll_batch},
    {"unix", unix_set_up, socket_batch},
    {"tcp", tcp_set_up, socket_batch},
    {0},
};
