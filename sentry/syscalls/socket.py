"""socket(2) and its family, without any address family yet.

Making a socket fails as on a kernel that lacks the protocol, so a descriptor is never one:
the other calls tell a bad descriptor from one that is no socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from sentry.abi.errno import EAFNOSUPPORT, EINVAL, ENOTSOCK
from sentry.abi.fcntl import O_CLOEXEC, O_NONBLOCK
from sentry.syscalls.args import I32, U32, Addr, Fd, Flags, Size
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

SOCK_TYPE_MASK: Final = 0xF
SOCK_MAX: Final = 11
NO_FAMILY: Final = "no address family is supported"
NO_SOCKETS: Final = "there are no sockets: EBADF or ENOTSOCK"


def _check_type(kind: int) -> None:
    """EINVAL: unknown flags, or not a socket type."""
    if kind & ~SOCK_TYPE_MASK & ~(O_CLOEXEC | O_NONBLOCK) or not 0 <= kind & SOCK_TYPE_MASK < SOCK_MAX:
        raise EINVAL("socket type")


def _no_socket(t: Task, fd: int) -> NoReturn:
    """EBADF: not open.  ENOTSOCK: anything else."""
    t.files.get(fd)
    raise ENOTSOCK


@syscall(gaps=NO_FAMILY)
def socket(t: Task, family: I32, kind: I32, protocol: I32) -> int:
    """socket(2).  Errors: EINVAL, EAFNOSUPPORT."""
    _check_type(kind)
    raise EAFNOSUPPORT


@syscall(gaps=NO_FAMILY)
def socketpair(t: Task, family: I32, kind: I32, protocol: I32, fds_addr: Addr) -> int:
    """socketpair(2).  Errors: EINVAL, EAFNOSUPPORT."""
    _check_type(kind)
    raise EAFNOSUPPORT


@syscall(gaps=NO_SOCKETS)
def bind(t: Task, fd: Fd, addr: Addr, length: I32) -> int:
    """bind(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def listen(t: Task, fd: Fd, backlog: I32) -> int:
    """listen(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def accept(t: Task, fd: Fd, addr: Addr, length_addr: Addr) -> int:
    """accept(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def accept4(t: Task, fd: Fd, addr: Addr, length_addr: Addr, flags: Flags) -> int:
    """accept4(2)."""
    if flags & ~(O_CLOEXEC | O_NONBLOCK):
        raise EINVAL
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def connect(t: Task, fd: Fd, addr: Addr, length: I32) -> int:
    """connect(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def getsockname(t: Task, fd: Fd, addr: Addr, length_addr: Addr) -> int:
    """getsockname(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def getpeername(t: Task, fd: Fd, addr: Addr, length_addr: Addr) -> int:
    """getpeername(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def sendto(t: Task, fd: Fd, buf: Addr, length: Size, flags: Flags, addr: Addr, addr_length: I32) -> int:
    """sendto(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def recvfrom(t: Task, fd: Fd, buf: Addr, length: Size, flags: Flags, addr: Addr, length_addr: Addr) -> int:
    """recvfrom(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def sendmsg(t: Task, fd: Fd, msg: Addr, flags: Flags) -> int:
    """sendmsg(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def recvmsg(t: Task, fd: Fd, msg: Addr, flags: Flags) -> int:
    """recvmsg(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def sendmmsg(t: Task, fd: Fd, msgs: Addr, count: U32, flags: Flags) -> int:
    """sendmmsg(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def recvmmsg(t: Task, fd: Fd, msgs: Addr, count: U32, flags: Flags, timeout: Addr) -> int:
    """recvmmsg(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def shutdown(t: Task, fd: Fd, how: I32) -> int:
    """shutdown(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def setsockopt(t: Task, fd: Fd, level: I32, name: I32, value: Addr, length: I32) -> int:
    """setsockopt(2)."""
    _no_socket(t, fd)


@syscall(gaps=NO_SOCKETS)
def getsockopt(t: Task, fd: Fd, level: I32, name: I32, value: Addr, length_addr: Addr) -> int:
    """getsockopt(2)."""
    _no_socket(t, fd)
