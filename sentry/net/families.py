"""Address families: how their sockets are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from sentry.abi.errno import EPROTONOSUPPORT, ESOCKTNOSUPPORT
from sentry.abi.socket import AF_UNIX, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM
from sentry.net import identity, procunix
from sentry.net.socket import Socket
from sentry.net.unix import UnixSocket
from sentry.net.unixpacket import UnixDatagram, UnixSeqPacket
from sentry.net.unixstream import UnixStream

if TYPE_CHECKING:
    from sentry.kernel.task import Task

# (task, type, protocol, O_NONBLOCK or 0)
Maker = Callable[["Task", int, int, int], Socket]
PairMaker = Callable[["Task", int, int, int], tuple[Socket, Socket]]

_UNIX_TYPES: Final[dict[int, type[UnixSocket]]] = {
    SOCK_STREAM: UnixStream,
    SOCK_DGRAM: UnixDatagram,
    SOCK_SEQPACKET: UnixSeqPacket,
}


def new_unix(t: Task, kind: int, protocol: int, flags: int) -> UnixSocket:
    """EPROTONOSUPPORT, ESOCKTNOSUPPORT."""
    if protocol not in (0, AF_UNIX):
        raise EPROTONOSUPPORT
    if kind == SOCK_RAW:
        kind = SOCK_DGRAM
    make = _UNIX_TYPES.get(kind)
    if make is None:
        raise ESOCKTNOSUPPORT
    return make(t, kind, flags)


def new_unix_pair(t: Task, kind: int, protocol: int, flags: int) -> tuple[UnixSocket, UnixSocket]:
    """socketpair(2): two, connected to each other."""
    a, b = new_unix(t, kind, protocol, flags), new_unix(t, kind, protocol, flags)
    a.pair(b)
    a.peer_identity = b.peer_identity = identity.peer(t)
    return a, b


class Family(NamedTuple):
    """new_pair: None where socketpair(2) is EOPNOTSUPP."""

    new: Maker
    new_pair: PairMaker | None = None


FAMILIES: Final[dict[int, Family]] = {
    AF_UNIX: Family(new_unix, new_unix_pair),
}

procunix.register()
