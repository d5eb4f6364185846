"""AF_UNIX sockets, unix(7): names, connections and their end.  net/unix/af_unix.c.

A socket's queue holds what was sent to it.  The sender is charged for it until it is read,
and may send while that is less than its SO_SNDBUF.  A stream socket's peer never changes; it
stays known after it was closed, `dead`, so that its name can still be asked for.

Connections that nobody has accepted yet are sockets already, which the listener's `arrivals`
holds: their peers send to them.

The types are in unixstream.py and unixpacket.py.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Final

from sentry.abi.errno import (
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EINVAL,
    EISCONN,
    ENOTCONN,
)
from sentry.abi.fcntl import O_NONBLOCK
from sentry.abi.poll import (
    POLLERR,
    POLLHUP,
    POLLOUT,
    POLLRDHUP,
    POLLWRBAND,
    READABLE,
    WRITABLE,
)
from sentry.abi.socket import (
    AF_UNIX,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    UNIX_FAMILY,
)
from sentry.kernel.blocking import block_on
from sentry.kernel.task import current
from sentry.net import identity, scm
from sentry.net.flight import Parcel
from sentry.net.identity import Identity
from sentry.net.message import Message, Outgoing
from sentry.net.socket import Socket
from sentry.net.unixnames import UnixNames, check_address, is_abstract, names_of
from sentry.vfs.dentry import Path

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sentry.kernel.task import Task

# enum of include/net/tcp_states.h, which AF_UNIX shares
ESTABLISHED: Final = 1
CLOSE: Final = 7
LISTEN: Final = 10

DATAGRAM_BACKLOG: Final = 10  # /proc/sys/net/unix/max_dgram_qlen
ENDED: Final = READABLE | WRITABLE | POLLERR | POLLHUP | POLLRDHUP


class UnixSocket(Socket):
    """What the types have in common.

    address bound_to   its name, and (key, file) if that is a path's
    state peer         ESTABLISHED, CLOSE or LISTEN; the other end, or whom a datagram socket is connected to
    messages           its queue; arrivals: connections to be accepted
    charged            what its own messages cost that lie unread in queues
    backlog            how many more than one may wait in its queue (datagrams) or in arrivals
    blocked            sockets that want to hear when there is room again
    accepted           false while it lies in arrivals
    dead               closed
    """

    __slots__ = (
        "accepted",
        "address",
        "arrivals",
        "backlog",
        "blocked",
        "bound_to",
        "charged",
        "dead",
        "messages",
        "names",
        "peer",
        "state",
    )

    FAMILY: ClassVar[int] = AF_UNIX
    CONNECTED: ClassVar[bool]  # works by connections: SOCK_STREAM, SOCK_SEQPACKET

    def __init__(self, t: Task, kind: int, flags: int) -> None:
        super().__init__(t, kind, 0, flags)
        self.names: UnixNames = names_of(t.kernel, UnixSocket)
        self.names.sockets.add(self)
        self.address = b""
        self.bound_to: tuple[Hashable, Path] | None = None
        self.state = CLOSE
        self.peer: UnixSocket | None = None
        self.messages: deque[Message] = deque()
        self.arrivals: deque[UnixSocket] = deque()
        self.charged = 0
        self.backlog = DATAGRAM_BACKLOG
        self.blocked: weakref.WeakSet[UnixSocket] | None = None
        self.accepted = True
        self.dead = False

    # -- names --

    async def bind(self, t: Task, address: bytes) -> None:
        if address == UNIX_FAMILY:
            self.names.autobind(self)
            return
        check_address(address)
        if is_abstract(address):
            self.names.bind_abstract(self, address)
        else:
            await self.names.bind_path(t, self, address)

    def local_name(self) -> bytes:
        return self.address or UNIX_FAMILY

    def peer_name(self) -> bytes:
        if self.peer is None:
            raise ENOTCONN
        return self.peer.local_name()

    def name_if_asked(self) -> None:
        """ "If ... SO_PASSCRED is enabled ... on a socket that is not bound, it is autobound" - unix(7)."""
        if self.passcred or self.passpidfd:
            self.names.autobind(self)

    # -- connections --

    def listen(self, t: Task, backlog: int) -> None:
        """EINVAL: not bound, or connected."""
        if not self.address or self.state == ESTABLISHED:
            raise EINVAL("listen")
        if backlog > self.backlog:
            self.room_again()
        self.backlog = backlog
        self.state = LISTEN
        self.peer_identity = identity.peer(t)

    @property
    def listening(self) -> bool:
        return self.state == LISTEN

    async def connect(self, t: Task, address: bytes) -> None:
        """Waits while the listener's backlog is full.

        Errors: EINVAL, those of finding it, ECONNREFUSED, EAGAIN, EISCONN
        """
        check_address(address)
        self.name_if_asked()
        listener = await self.names.find(t, address, self.type)
        await block_on(t, self, POLLOUT, lambda: self._join(t, listener))

    def _join(self, t: Task, listener: UnixSocket) -> None:
        """unix_stream_connect(): make the other end, for the listener to accept."""
        if listener.state != LISTEN or listener.shut & RCV_SHUTDOWN:
            raise ECONNREFUSED
        if len(listener.arrivals) > listener.backlog:
            listener.remember_blocked(self)
            raise EAGAIN
        if self.state != CLOSE:
            raise EISCONN if self.state == ESTABLISHED else EINVAL
        other = type(self)(t, self.type, 0)
        other.accepted = False
        other.address = listener.address
        other.passcred, other.passpidfd = listener.passcred, listener.passpidfd
        other.peer_identity = identity.peer(t)
        self.peer_identity = listener.peer_identity
        self.pair(other)
        listener.arrivals.append(other)
        listener.queue.wake(READABLE)

    def pair(self, other: UnixSocket) -> None:
        """Connect the two."""
        self.peer, other.peer = other, self
        self.state = other.state = ESTABLISHED

    def accept(self, t: Task, flags: int) -> UnixSocket:
        """EINVAL: not listening, or shut down, unless it must not wait.  EAGAIN."""
        if self.state != LISTEN or self.dead:
            raise EINVAL("not listening")
        if not self.arrivals:
            raise EINVAL if self.shut & RCV_SHUTDOWN and not self.flags & O_NONBLOCK else EAGAIN
        other = self.arrivals.popleft()
        self.room_again()
        other.accepted = True
        other.flags |= flags
        other.inode.uid, other.inode.gid = t.creds.fsuid, t.creds.fsgid
        return other

    # -- the end --

    def shut_down(self, how: int) -> None:
        self.shut |= how
        self.queue.wake(ENDED)
        peer = self.peer
        if peer is not None and self.CONNECTED:
            if how & RCV_SHUTDOWN:
                peer.shut |= SEND_SHUTDOWN
            if how & SEND_SHUTDOWN:
                peer.shut |= RCV_SHUTDOWN
            peer.queue.wake(ENDED)

    def release(self) -> None:
        """unix_release_sock()."""
        self.dead = True
        self.shut = SHUTDOWN_MASK
        self.names.sockets.discard(self)
        self.names.unbind(self)
        peer, self.peer = self.peer, None
        if peer is not None and self.CONNECTED:
            peer.shut = SHUTDOWN_MASK
            if self._has_unread() or not self.accepted:
                peer.error = ECONNRESET
            peer.queue.wake(ENDED)
        self.queue.wake(ENDED)
        self.room_again()
        self.discard_messages()
        self.names.flights.socket_closed()

    def _has_unread(self) -> bool:
        """One empty message is not missed."""
        return bool(self.messages) and (len(self.messages) > 1 or bool(self.messages[0].data))

    def discard_messages(self) -> None:
        """Empty the queue, and refuse the connections that nobody accepted."""
        messages = list(self.messages)
        self.messages.clear()
        for message in messages:
            self.discharge(message)
            message.drop()
        while self.arrivals:
            # hold() and drop(), for it never was anybody's open file.
            self.arrivals.popleft().hold().drop()

    def parcels(self) -> Iterator[Parcel]:
        """What lies in its queue, and in those of connections that nobody accepted."""
        for message in self.messages:
            if message.parcel is not None:
                yield message.parcel
        for arrival in self.arrivals:
            yield from arrival.parcels()

    def fd_info(self) -> str:
        return f"scm_fds: {sum(len(parcel.files) for parcel in self.parcels())}\n"

    # -- messages --

    def stamp(self, target: UnixSocket, out: Outgoing) -> Identity | None:
        """maybe_add_creds(): who sends, if either side wants it known, or might before it reads."""
        if out.creds is not None:
            return out.creds
        if self.passcred or target.passcred or self.passpidfd or target.passpidfd or not target.accepted:
            t = current()
            return identity.sender(t) if t is not None else None
        return None

    def discharge(self, message: Message) -> None:
        """A message of somebody's was read, or is gone: sock_wfree()."""
        sender: UnixSocket = message.sender
        sender.charged -= message.cost
        if sender.charged << 2 <= sender.sndbuf:
            sender.queue.wake(WRITABLE)

    def remember_blocked(self, sender: UnixSocket) -> None:
        """Let sender know when there is room again: it waits on its own queue."""
        if self.blocked is None:
            self.blocked = weakref.WeakSet()
        self.blocked.add(sender)

    def room_again(self) -> None:
        if self.blocked:
            blocked, self.blocked = self.blocked, None
            for sender in list(blocked):
                sender.queue.wake(WRITABLE)

    def attach(self, t: Task, out: Outgoing, control: bytes) -> None:
        scm.attach(t, self.names.flights, out, control)

    # -- readiness --

    def poll(self) -> int:
        """unix_poll(): writable only when three quarters of SO_SNDBUF are free."""
        shut = self.shut
        events = READABLE if self.messages or self.arrivals else 0
        if self.state != LISTEN and self.charged << 2 <= self.sndbuf:
            events |= WRITABLE | POLLWRBAND
        if self.error is not None:
            events |= POLLERR
        if shut:
            if shut & RCV_SHUTDOWN:
                events |= POLLRDHUP | READABLE
            if shut == SHUTDOWN_MASK:
                events |= POLLHUP
        if self.state == CLOSE and self.CONNECTED:
            events |= POLLHUP
        return events

    def outgoing_bytes(self) -> int:
        """EINVAL: a listener."""
        if self.state == LISTEN:
            raise EINVAL
        return self.charged

    def incoming_bytes(self) -> int:
        """EINVAL: a listener."""
        if self.state == LISTEN:
            raise EINVAL
        return sum(len(message.data) - message.start for message in self.messages)
