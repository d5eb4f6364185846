"""setsockopt(2) and getsockopt(2); the options of SOL_SOCKET are sentry/net/sockopt.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi.errno import EINVAL
from sentry.abi.socket import INT, SOL_SOCKET
from sentry.net import sockopt
from sentry.syscalls.args import I32, I32_DECODE, Addr, Arg, Fd, one_of
from sentry.syscalls.registry import syscall
from sentry.syscalls.showsocket import LEVEL_NAMES
from sentry.syscalls.socket import socket_of

if TYPE_CHECKING:
    from sentry.kernel.task import Task

LevelArg = Annotated[int, Arg(I32_DECODE, one_of(LEVEL_NAMES))]
MAX_VALUE: Final = 1 << 16  # no option is longer
GAPS: Final = "no SO_PEEK_OFF, socket filters or time stamps of hardware"


@syscall(gaps=GAPS)
def setsockopt(t: Task, fd: Fd, level: LevelArg, name: I32, value: Addr, length: I32) -> int:
    """setsockopt(2): set an option of a socket.

    Linux: net/socket.c:__sys_setsockopt
    Errors: EINVAL, EBADF, ENOTSOCK, EFAULT, EOPNOTSUPP unknown level, ENOPROTOOPT, those of the option
    """
    if length < 0:
        raise EINVAL("length")
    target = socket_of(t, fd)
    data = t.mem.read(value, min(length, MAX_VALUE)) if length else b""
    if level == SOL_SOCKET:
        sockopt.set_option(t, target, name, data)
    else:
        target.set_option(t, level, name, data)
    return 0


@syscall(gaps=GAPS)
def getsockopt(t: Task, fd: Fd, level: LevelArg, name: I32, value: Addr, length_addr: Addr) -> int:
    """getsockopt(2): ask for an option of a socket.

    Linux: net/socket.c:__sys_getsockopt
    Errors: EBADF, ENOTSOCK, EFAULT, EINVAL, EOPNOTSUPP unknown level, ENOPROTOOPT, ERANGE, those of the option
    """
    target = socket_of(t, fd)
    room: int = INT.unpack(t.mem.read(length_addr, INT.size))[0]
    if room < 0:
        raise EINVAL("length")
    if level == SOL_SOCKET:
        try:
            data = sockopt.get_option(t, target, name, room)
        except sockopt.PeerGroupsTooLong as e:
            t.mem.write(length_addr, INT.pack(e.size))
            raise
    else:
        data = target.get_option(t, level, name)[:room]
    if data:
        t.mem.write(value, data)
    t.mem.write(length_addr, INT.pack(len(data)))
    return 0
