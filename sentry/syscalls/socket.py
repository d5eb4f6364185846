"""socket(2) and the calls that make, name and end connections.

Sending and receiving is in message.py, options in sockopt.py.  Address families and what
they can do are sentry/net's.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi.errno import EAFNOSUPPORT, EFAULT, EINVAL, ENOTSOCK, EOPNOTSUPP
from sentry.abi.fcntl import O_CLOEXEC, O_NONBLOCK
from sentry.abi.poll import POLLIN
from sentry.abi.socket import (
    AF_MAX,
    INT,
    SHUT_RD,
    SHUT_RDWR,
    SOCK_CLOEXEC,
    SOCK_MAX,
    SOCK_NONBLOCK,
    SOCK_TYPE_MASK,
    SOCKADDR_STORAGE_SIZE,
    SOMAXCONN,
)
from sentry.kernel.blocking import block_on
from sentry.net.families import FAMILIES, Family
from sentry.net.socket import Socket
from sentry.syscalls.args import I32, I32_DECODE, Addr, Arg, Fd, flags_of, one_of
from sentry.syscalls.registry import syscall
from sentry.syscalls.showsocket import FAMILY_NAMES, SHUT_NAMES, socket_type

if TYPE_CHECKING:
    from sentry.kernel.task import Task

Result = int | Awaitable[int]
FamilyArg = Annotated[int, Arg(I32_DECODE, one_of(FAMILY_NAMES))]
TypeArg = Annotated[int, Arg(I32_DECODE, socket_type)]
HowArg = Annotated[int, Arg(I32_DECODE, one_of(SHUT_NAMES))]
AcceptFlags = Annotated[int, Arg(I32_DECODE, flags_of({SOCK_NONBLOCK: "SOCK_NONBLOCK", SOCK_CLOEXEC: "SOCK_CLOEXEC"}))]
TWO_FDS: Final = struct.Struct("<ii")


# -- arguments --


def socket_of(t: Task, fd: int) -> Socket:
    """EBADF; ENOTSOCK."""
    file = t.files.get(fd)
    if not isinstance(file, Socket):
        raise ENOTSOCK
    return file


def read_address(t: Task, addr: int, length: int) -> bytes:
    """move_addr_to_kernel().  EINVAL, EFAULT."""
    if not 0 <= length <= SOCKADDR_STORAGE_SIZE:
        raise EINVAL("address length")
    return t.mem.read(addr, length) if length else b""


def write_address(t: Task, addr: int, length_addr: int, name: bytes) -> None:
    """move_addr_to_user(): what fits, and how long it is.  EFAULT, EINVAL."""
    room: int = INT.unpack(t.mem.read(length_addr, INT.size))[0]
    if room < 0:
        raise EINVAL("address length")
    if room and name:
        t.mem.write(addr, name[:room])
    t.mem.write(length_addr, INT.pack(len(name)))


def _family(number: int, kind: int) -> Family:
    """EINVAL: unknown flags or type.  EAFNOSUPPORT."""
    if kind & ~SOCK_TYPE_MASK & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        raise EINVAL("flags")
    if not 0 <= number < AF_MAX:
        raise EAFNOSUPPORT
    if kind & SOCK_TYPE_MASK >= SOCK_MAX:
        raise EINVAL("socket type")
    family = FAMILIES.get(number)
    if family is None:
        raise EAFNOSUPPORT
    return family


# -- making --


@syscall(gaps="AF_UNIX only")
def socket(t: Task, family: FamilyArg, kind: TypeArg, protocol: I32) -> int:
    """socket(2): make a socket.

    Linux: net/socket.c:__sys_socket
    Errors: EINVAL, EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EMFILE
    """
    made = _family(family, kind).new(t, kind & SOCK_TYPE_MASK, protocol, kind & O_NONBLOCK)
    return t.files.install_all([made], cloexec=bool(kind & O_CLOEXEC))[0]


@syscall(gaps="AF_UNIX only")
def socketpair(t: Task, family: FamilyArg, kind: TypeArg, protocol: I32, fds_addr: Addr) -> int:
    """socketpair(2): make two sockets that are connected to each other.

    Linux: net/socket.c:__sys_socketpair
    Errors: EINVAL, EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EOPNOTSUPP, EMFILE, EFAULT
    """
    new_pair = _family(family, kind).new_pair
    if new_pair is None:
        raise EOPNOTSUPP
    pair = new_pair(t, kind & SOCK_TYPE_MASK, protocol, kind & O_NONBLOCK)
    fds = t.files.install_all(pair, cloexec=bool(kind & O_CLOEXEC))
    try:
        t.mem.write(fds_addr, TWO_FDS.pack(*fds))
    except EFAULT:
        for fd in fds:
            t.files.close(fd)
        raise
    return 0


# -- connections --


@syscall
async def bind(t: Task, fd: Fd, addr: Addr, length: I32) -> int:
    """bind(2): give a socket a name.

    Linux: net/socket.c:__sys_bind
    Errors: EBADF, ENOTSOCK, EINVAL, EFAULT, EADDRINUSE, those of making the file
    """
    made = socket_of(t, fd)
    await made.bind(t, read_address(t, addr, length))
    return 0


@syscall
def listen(t: Task, fd: Fd, backlog: I32) -> int:
    """listen(2): take connections.

    Linux: net/socket.c:__sys_listen
    Errors: EBADF, ENOTSOCK, EOPNOTSUPP, EINVAL
    """
    socket_of(t, fd).listen(t, min(backlog & 0xFFFFFFFF, SOMAXCONN))
    return 0


@syscall
async def connect(t: Task, fd: Fd, addr: Addr, length: I32) -> int:
    """connect(2): connect to a name.

    Linux: net/socket.c:__sys_connect
    Blocks: while the backlog of the listener is full
    Errors: EBADF, ENOTSOCK, EINVAL, EFAULT, ECONNREFUSED, EAGAIN, EISCONN, those of the walk
    """
    made = socket_of(t, fd)
    await made.connect(t, read_address(t, addr, length))
    return 0


@syscall
def accept(t: Task, fd: Fd, addr: Addr, length_addr: Addr) -> Result:
    """accept(2): accept4(2) without flags."""
    return do_accept(t, fd, addr, length_addr, 0)


@syscall
def accept4(t: Task, fd: Fd, addr: Addr, length_addr: Addr, flags: AcceptFlags) -> Result:
    """accept4(2): the socket of the next connection.

    Linux: net/socket.c:do_accept
    Blocks: until there is one, for SO_RCVTIMEO at most
    Errors: EINVAL flags; EBADF, ENOTSOCK, EMFILE, EOPNOTSUPP, EINVAL not listening, EAGAIN, EFAULT
    """
    return do_accept(t, fd, addr, length_addr, flags)


def do_accept(t: Task, fd: int, addr: int, length_addr: int, flags: int) -> Result:
    if flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        raise EINVAL("flags")
    listener = socket_of(t, fd)
    t.files.check_room()
    return _accept(t, listener, addr, length_addr, flags)


async def _accept(t: Task, listener: Socket, addr: int, length_addr: int, flags: int) -> int:
    made = await block_on(t, listener, POLLIN, lambda: listener.accept(t, flags & O_NONBLOCK))
    fd = t.files.install_all([made], cloexec=bool(flags & O_CLOEXEC))[0]
    if addr:
        try:
            write_address(t, addr, length_addr, made.peer_name())
        except (EFAULT, EINVAL):
            t.files.close(fd)
            raise
    return fd


@syscall
def shutdown(t: Task, fd: Fd, how: HowArg) -> int:
    """shutdown(2): end one direction of a connection, or both.

    Linux: net/socket.c:__sys_shutdown
    Errors: EBADF, ENOTSOCK, EINVAL
    """
    ended = socket_of(t, fd)
    if not SHUT_RD <= how <= SHUT_RDWR:
        raise EINVAL("how")
    ended.shut_down(how + 1)
    return 0


# -- names --


@syscall
def getsockname(t: Task, fd: Fd, addr: Addr, length_addr: Addr) -> int:
    """getsockname(2): a socket's own name.  EBADF, ENOTSOCK, EFAULT, EINVAL."""
    write_address(t, addr, length_addr, socket_of(t, fd).local_name())
    return 0


@syscall
def getpeername(t: Task, fd: Fd, addr: Addr, length_addr: Addr) -> int:
    """getpeername(2): the name of the other end.  EBADF, ENOTSOCK, ENOTCONN, EFAULT, EINVAL."""
    write_address(t, addr, length_addr, socket_of(t, fd).peer_name())
    return 0
