"""The options of SOL_SOCKET, socket(7): net/core/sock.c.

GET and SET are the whole list; what is in neither is ENOPROTOOPT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sentry.abi import socket as s
from sentry.abi.errno import (
    EACCES,
    EDOM,
    EINVAL,
    ENODATA,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    ESRCH,
)
from sentry.fs.pidfd import PidFd
from sentry.net.identity import NO_PEER

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.net.identity import Identity
    from sentry.net.socket import Socket

CAP_NET_ADMIN: Final = 1 << 12
MAX_BUFFER: Final = 212992  # /proc/sys/net/core/wmem_max and rmem_max
MIN_SNDBUF: Final = 4608
MIN_RCVBUF: Final = 2304
INT_MAX: Final = (1 << 31) - 1
US: Final = 1000
SECOND_US: Final = 1_000_000
SECOND_NS: Final = 1_000_000_000
FOREVER_SECONDS: Final = 1 << 33  # beyond any timer: for ever

Get = Callable[["Task", "Socket"], bytes]
# (task, socket, the option as an int, the option)
Set = Callable[["Task", "Socket", int, bytes], None]

# Kept and given back; nothing here depends on them.
KEPT_SWITCHES: Final = (
    s.SO_REUSEADDR,
    s.SO_DONTROUTE,
    s.SO_BROADCAST,
    s.SO_KEEPALIVE,
    s.SO_OOBINLINE,
    s.SO_NO_CHECK,
    s.SO_REUSEPORT,
    s.SO_RXQ_OVFL,
)


def get_option(t: Task, socket: Socket, name: int, room: int) -> bytes:
    """getsockopt(2), up to room bytes.  ENOPROTOOPT and what the option raises; ERANGE of SO_PEERGROUPS."""
    if name == s.SO_PEERGROUPS:
        return _peer_groups(socket, room)
    get = GET.get(name)
    if get is None:
        raise ENOPROTOOPT
    return get(t, socket)[:room]


def set_option(t: Task, socket: Socket, name: int, value: bytes) -> None:
    """setsockopt(2).  EINVAL: too short.  ENOPROTOOPT and what the option raises."""
    if len(value) < s.INT.size:
        raise EINVAL("shorter than an int")
    set_it = SET.get(name)
    if set_it is None:
        raise ENOPROTOOPT
    set_it(t, socket, s.INT.unpack_from(value)[0], value)


# -- buffers and waiting --


def _set_sndbuf(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    """ "The kernel doubles this value (to allow space for bookkeeping overhead)" - socket(7)."""
    _force_sndbuf(socket, min(value & 0xFFFFFFFF, MAX_BUFFER))


def _set_rcvbuf(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    _force_rcvbuf(socket, min(value & 0xFFFFFFFF, MAX_BUFFER))


def _force_sndbuf(socket: Socket, value: int) -> None:
    socket.sndbuf = max(min(value, INT_MAX // 2) * 2, MIN_SNDBUF)


def _force_rcvbuf(socket: Socket, value: int) -> None:
    socket.rcvbuf = max(min(value, INT_MAX // 2) * 2, MIN_RCVBUF)


def _forced(force: Callable[[Socket, int], None]) -> Set:
    """EPERM without CAP_NET_ADMIN."""

    def set_it(t: Task, socket: Socket, value: int, raw: bytes) -> None:
        if not t.creds.has(CAP_NET_ADMIN):
            raise EPERM
        force(socket, max(value, 0))

    return set_it


def _set_lowat(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    socket.rcvlowat = INT_MAX if value < 0 else value or 1


def _timeout_ns(raw: bytes) -> int | None:
    """A struct timeval; None: for ever.  EINVAL, EDOM."""
    if len(raw) < s.TIMEVAL.size:
        raise EINVAL("shorter than a timeval")
    seconds, us = s.TIMEVAL.unpack_from(raw)
    if not 0 <= us < SECOND_US:
        raise EDOM
    if seconds < 0:
        return 0
    return None if (seconds, us) == (0, 0) or seconds > FOREVER_SECONDS else seconds * SECOND_NS + us * US


def _timeval(timeout_ns: int | None) -> bytes:
    seconds, rest = divmod(timeout_ns or 0, SECOND_NS)
    return s.TIMEVAL.pack(seconds, rest // US)


def _set_rcvtimeo(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    socket.rcvtimeo_ns = _timeout_ns(raw)


def _set_sndtimeo(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    socket.sndtimeo_ns = _timeout_ns(raw)


def _set_linger(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    if len(raw) < s.LINGER.size:
        raise EINVAL("shorter than a struct linger")
    on, seconds = s.LINGER.unpack_from(raw)
    socket.linger = (int(bool(on)), seconds if on else 0)


# -- what receivers want to know --


def _set_passcred(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    socket.passcred = bool(value)


def _set_passpidfd(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    socket.passpidfd = bool(value)


def _timestamps(name: int) -> tuple[Get, Set]:
    """SO_TIMESTAMP and SO_TIMESTAMPNS exclude each other."""

    def set_it(t: Task, socket: Socket, value: int, raw: bytes) -> None:
        socket.timestamp = name if value else 0

    return lambda t, socket: s.INT.pack(socket.timestamp == name), set_it


# -- who is at the other end --


def _peer(socket: Socket) -> Identity:
    if socket.peer_identity is None:
        raise ENODATA
    return socket.peer_identity


def _peer_cred(t: Task, socket: Socket) -> bytes:
    peer = socket.peer_identity
    return peer.ucred(t.pidns) if peer is not None else NO_PEER


def _peer_groups(socket: Socket, room: int) -> bytes:
    """ERANGE: they don't fit; the caller tells how much would.  ENODATA."""
    groups = sorted(_peer(socket).groups)
    if room < len(groups) * s.U32.size:
        raise PeerGroupsTooLong(len(groups) * s.U32.size)
    return b"".join(s.U32.pack(gid) for gid in groups)


class PeerGroupsTooLong(ERANGE):
    """size: how many bytes would be enough."""

    def __init__(self, size: int) -> None:
        super().__init__("SO_PEERGROUPS")
        self.size = size


def _peer_pidfd(t: Task, socket: Socket) -> bytes:
    """ENODATA; ESRCH: it has ended.  EMFILE."""
    tg = _peer(socket).tg
    if tg.dead:
        raise ESRCH
    t.files.check_room()
    return s.INT.pack(t.files.install(PidFd(tg), cloexec=True))


# -- the rest --


def _take_error(t: Task, socket: Socket) -> bytes:
    error = socket.take_error()
    return s.INT.pack(error.code if error is not None else 0)


def _set_priority(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    """EPERM: above 6 without CAP_NET_ADMIN."""
    if not 0 <= value <= 6 and not t.creds.has(CAP_NET_ADMIN):
        raise EPERM
    socket.options[s.SO_PRIORITY] = value


def _set_mark(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    if not t.creds.has(CAP_NET_ADMIN):
        raise EPERM
    socket.options[s.SO_MARK] = value


def _set_debug(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    if value and not t.creds.has(CAP_NET_ADMIN):
        raise EACCES
    socket.options[s.SO_DEBUG] = int(bool(value))


def _set_switch(name: int) -> Set:
    def set_it(t: Task, socket: Socket, value: int, raw: bytes) -> None:
        socket.options[name] = int(bool(value))

    return set_it


def _ignore(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    """SO_BSDCOMPAT: "is not used any more" - socket(7)."""


def _refuse(t: Task, socket: Socket, value: int, raw: bytes) -> None:
    raise EOPNOTSUPP("SO_PEEK_OFF")


def _no_peek_off(t: Task, socket: Socket) -> bytes:
    raise EOPNOTSUPP("SO_PEEK_OFF")


def _number(value: Callable[[Socket], int]) -> Get:
    return lambda t, socket: s.INT.pack(value(socket))


def _kept(name: int) -> Get:
    return lambda t, socket: s.INT.pack(socket.options.get(name, 0))


_get_timestamp, _set_timestamp = _timestamps(s.SO_TIMESTAMP)
_get_timestampns, _set_timestampns = _timestamps(s.SO_TIMESTAMPNS)

GET: Final[dict[int, Get]] = {
    s.SO_TYPE: _number(lambda socket: socket.type),
    s.SO_DOMAIN: _number(lambda socket: socket.FAMILY),
    s.SO_PROTOCOL: _number(lambda socket: socket.protocol),
    s.SO_ACCEPTCONN: _number(lambda socket: socket.listening),
    s.SO_ERROR: _take_error,
    s.SO_SNDBUF: _number(lambda socket: socket.sndbuf),
    s.SO_RCVBUF: _number(lambda socket: socket.rcvbuf),
    s.SO_RCVLOWAT: _number(lambda socket: socket.rcvlowat),
    s.SO_SNDLOWAT: _number(lambda socket: 1),
    s.SO_RCVTIMEO: lambda t, socket: _timeval(socket.rcvtimeo_ns),
    s.SO_SNDTIMEO: lambda t, socket: _timeval(socket.sndtimeo_ns),
    s.SO_RCVTIMEO_NEW: lambda t, socket: _timeval(socket.rcvtimeo_ns),
    s.SO_SNDTIMEO_NEW: lambda t, socket: _timeval(socket.sndtimeo_ns),
    s.SO_LINGER: lambda t, socket: s.LINGER.pack(*socket.linger),
    s.SO_PASSCRED: _number(lambda socket: socket.passcred),
    s.SO_PASSPIDFD: _number(lambda socket: socket.passpidfd),
    s.SO_TIMESTAMP: _get_timestamp,
    s.SO_TIMESTAMPNS: _get_timestampns,
    s.SO_PEERCRED: _peer_cred,
    s.SO_PEERPIDFD: _peer_pidfd,
    s.SO_COOKIE: lambda t, socket: s.U64.pack(socket.inode.ino),
    s.SO_BSDCOMPAT: _number(lambda socket: 0),
    s.SO_PEEK_OFF: _no_peek_off,
    **{name: _kept(name) for name in (*KEPT_SWITCHES, s.SO_DEBUG, s.SO_PRIORITY, s.SO_MARK)},
}

SET: Final[dict[int, Set]] = {
    s.SO_SNDBUF: _set_sndbuf,
    s.SO_RCVBUF: _set_rcvbuf,
    s.SO_SNDBUFFORCE: _forced(_force_sndbuf),
    s.SO_RCVBUFFORCE: _forced(_force_rcvbuf),
    s.SO_RCVLOWAT: _set_lowat,
    s.SO_RCVTIMEO: _set_rcvtimeo,
    s.SO_SNDTIMEO: _set_sndtimeo,
    s.SO_RCVTIMEO_NEW: _set_rcvtimeo,
    s.SO_SNDTIMEO_NEW: _set_sndtimeo,
    s.SO_LINGER: _set_linger,
    s.SO_PASSCRED: _set_passcred,
    s.SO_PASSPIDFD: _set_passpidfd,
    s.SO_TIMESTAMP: _set_timestamp,
    s.SO_TIMESTAMPNS: _set_timestampns,
    s.SO_PRIORITY: _set_priority,
    s.SO_MARK: _set_mark,
    s.SO_DEBUG: _set_debug,
    s.SO_BSDCOMPAT: _ignore,
    s.SO_PEEK_OFF: _refuse,
    **{name: _set_switch(name) for name in KEPT_SWITCHES},
}
