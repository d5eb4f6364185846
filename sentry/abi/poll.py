"""poll(2) and epoll(7) events: include/uapi/asm-generic/poll.h, include/uapi/linux/eventpoll.h."""

import struct
from typing import Final

POLLIN: Final = 0x1
POLLPRI: Final = 0x2
POLLOUT: Final = 0x4
POLLERR: Final = 0x8
POLLHUP: Final = 0x10
POLLNVAL: Final = 0x20
POLLRDNORM: Final = 0x40
POLLRDBAND: Final = 0x80
POLLWRNORM: Final = 0x100
POLLWRBAND: Final = 0x200
POLLRDHUP: Final = 0x2000
# Never seen by applications: the file is gone, whoever waits for it must forget it.
POLLFREE: Final = 0x4000

READABLE: Final = POLLIN | POLLRDNORM
WRITABLE: Final = POLLOUT | POLLWRNORM
# What a waiter for anything at all waits for.
ANY: Final = 0xFFFF

EPOLL_CTL_ADD: Final = 1
EPOLL_CTL_DEL: Final = 2
EPOLL_CTL_MOD: Final = 3
EPOLLEXCLUSIVE: Final = 1 << 28
EPOLLWAKEUP: Final = 1 << 29
EPOLLONESHOT: Final = 1 << 30
EPOLLET: Final = 1 << 31
EPOLL_CLOEXEC: Final = 0o2000000

EPOLL_EVENT: Final = struct.Struct("<IQ")  # packed on x86-64
POLLFD: Final = struct.Struct("<ihh")
