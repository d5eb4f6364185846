"""SOCK_DGRAM and SOCK_SEQPACKET of AF_UNIX: messages that arrive whole, in order, and never get lost.

A sender waits while it was charged too much, or while its receiver's queue is long; pairs
that are connected to each other have no such second limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sentry.abi.errno import (
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
)
from sentry.abi.fcntl import O_NONBLOCK
from sentry.abi.poll import POLLERR, POLLOUT, POLLWRBAND, READABLE, WRITABLE
from sentry.abi.socket import (
    AF_UNSPEC,
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    family_of,
)
from sentry.kernel.blocking import block_on
from sentry.net.message import Message, Outgoing, Received
from sentry.net.unix import CLOSE, ESTABLISHED, UnixSocket
from sentry.net.unixnames import check_address
from sentry.vfs.inode import now_ns
from sentry.vfs.iov import Sink, Source

if TYPE_CHECKING:
    from sentry.kernel.task import Task


class UnixDatagram(UnixSocket):
    """SOCK_DGRAM, and how messages of both types go."""

    __slots__ = ()

    CONNECTED: ClassVar[bool] = False

    # -- connections --

    def listen(self, t: Task, backlog: int) -> None:
        raise EOPNOTSUPP

    def accept(self, t: Task, flags: int) -> UnixSocket:
        raise EOPNOTSUPP

    async def connect(self, t: Task, address: bytes) -> None:
        """unix_dgram_connect(): whom to send to and receive from; AF_UNSPEC: anybody.

        Errors: EINVAL, those of finding it, EPERM it is connected to somebody else
        """
        if len(address) < 2:
            raise EINVAL("address")
        other = None
        if family_of(address) != AF_UNSPEC:
            check_address(address)
            self.name_if_asked()
            other = await self.names.find(t, address, self.type)
            if other.peer is not None and other.peer is not self:
                raise EPERM
        old = self.peer
        if other is not None:
            self.state = other.state = ESTABLISHED
        else:
            self.state = CLOSE
        self.peer = other
        if old is not None and old is not other:
            self._disconnected(old)
        self.queue.wake(WRITABLE)

    def _disconnected(self, old: UnixSocket) -> None:
        """unix_dgram_disconnected(): what came before is lost, which the other end is told."""
        if not self.messages:
            return
        self.discard_messages()
        self.room_again()
        if not old.dead and old.peer is self:
            old.error = ECONNRESET
            old.queue.wake(POLLERR)

    # -- sending --

    async def resolve(self, t: Task, address: bytes, size: int, nonblock: bool) -> UnixSocket | None:
        """Waits for room, and only then looks for the receiver.

        Errors: EINVAL, what is wrong with this end, then those of find()
        """
        check_address(address)
        self.name_if_asked()
        await block_on(t, self, POLLOUT, lambda: self._check_own_end(size), nonblock=nonblock)
        return await self.names.find(t, address, self.type)

    def _check_own_end(self, size: int) -> None:
        """EMSGSIZE, the pending error, EPIPE; EAGAIN: too much of its own lies unread."""
        if size > self.sndbuf - 32:
            raise EMSGSIZE
        if self.error is not None:
            raise self.take_error() or EAGAIN
        if self.shut & SEND_SHUTDOWN:
            raise EPIPE
        if self.charged >= self.sndbuf:
            raise EAGAIN

    def send(self, src: Source, out: Outgoing, flags: int) -> int:
        """The whole message.

        Errors: EOPNOTSUPP, EMSGSIZE, the pending one, EPIPE, EAGAIN, ENOTCONN, EPERM, ECONNREFUSED it was closed
        """
        if flags & MSG_OOB:
            raise EOPNOTSUPP("out-of-band data")
        self.name_if_asked()
        size = src.remaining
        self._check_own_end(size)
        target: UnixSocket | None = out.target or self.peer
        if target is None:
            raise ENOTCONN
        self._check_target(target)
        if target is not self and target.peer is not self and len(target.messages) > target.backlog:
            target.remember_blocked(self)
            raise EAGAIN
        data = src.take(size)
        if len(data) < size:
            raise EFAULT
        self._post(target, Message(data, self, self.stamp(target, out), out.take_parcel()))
        return size

    def _check_target(self, target: UnixSocket) -> None:
        if target.dead:
            if target is self.peer:
                self.peer = None
                self.state = CLOSE
                self._disconnected(target)
            raise ECONNREFUSED
        if target.peer is not None and target.peer is not self:
            raise EPERM
        if target.shut & RCV_SHUTDOWN:
            raise EPIPE

    def _post(self, target: UnixSocket, message: Message) -> None:
        if target.timestamp:
            message.time_ns = now_ns()
        self.charged += message.cost
        target.messages.append(message)
        target.queue.wake(READABLE)

    # -- receiving --

    def receive(self, dst: Sink, flags: int, got: Received) -> None:
        """One message.  Errors: EOPNOTSUPP, the pending one, EAGAIN, EFAULT."""
        if flags & MSG_OOB:
            raise EOPNOTSUPP("out-of-band data")
        if self.error is not None:
            raise self.take_error() or EAGAIN
        if not self.messages:
            if not self.shut & RCV_SHUTDOWN or self._fails_at_end(flags):
                raise EAGAIN
            got.nothing = True
            return
        message = self.messages[0]
        peek = bool(flags & MSG_PEEK)
        if not peek:
            self.messages.popleft()
            self.discharge(message)
            if self.blocked and len(self.messages) <= self.backlog:
                self.room_again()
        got.ended = True
        got.take(message, peek)
        self._fill(dst, flags, got, message)

    def _fails_at_end(self, flags: int) -> bool:
        """Without waiting, the end of a datagram socket's data is EAGAIN."""
        return bool(flags & MSG_DONTWAIT or self.flags & O_NONBLOCK)

    def _fill(self, dst: Sink, flags: int, got: Received, message: Message) -> None:
        data = message.data
        size = len(data)
        if size > dst.remaining:
            got.flags |= MSG_TRUNC
            data = data[: dst.remaining]
        if data and dst.put(data) < len(data):
            raise EFAULT
        got.name = message.sender.address
        got.creds = message.creds
        got.time_ns = message.time_ns if self.timestamp else 0
        got.count = size if flags & MSG_TRUNC else len(data)

    # -- the rest --

    def poll(self) -> int:
        """unix_dgram_poll(): also not writable while the peer's queue is long."""
        events = super().poll()
        peer = self.peer
        if events & WRITABLE and peer is not None and peer.peer is not self and len(peer.messages) > peer.backlog:
            peer.remember_blocked(self)
            events &= ~(WRITABLE | POLLWRBAND)
        return events

    def incoming_bytes(self) -> int:
        """The first message's."""
        return len(self.messages[0].data) if self.messages else 0


class UnixSeqPacket(UnixDatagram):
    """SOCK_SEQPACKET: datagrams over connections."""

    __slots__ = ()

    CONNECTED: ClassVar[bool] = True

    listen = UnixSocket.listen
    accept = UnixSocket.accept
    connect = UnixSocket.connect
    incoming_bytes = UnixSocket.incoming_bytes

    async def resolve(self, t: Task, address: bytes, size: int, nonblock: bool) -> None:
        """An address given is not looked at."""

    def send(self, src: Source, out: Outgoing, flags: int) -> int:
        """The pending error and ENOTCONN first."""
        error = self.take_error()
        if error is not None:
            raise error
        if self.state != ESTABLISHED:
            raise ENOTCONN
        return super().send(src, out, flags)

    def _check_target(self, target: UnixSocket) -> None:
        if target.dead or target.shut & RCV_SHUTDOWN:
            raise EPIPE

    def receive(self, dst: Sink, flags: int, got: Received) -> None:
        """ENOTCONN first."""
        if self.state != ESTABLISHED:
            raise ENOTCONN
        super().receive(dst, flags, got)

    def _fails_at_end(self, flags: int) -> bool:
        return False
